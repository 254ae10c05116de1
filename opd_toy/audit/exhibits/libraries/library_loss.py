"""What the modules of the libraries share: the facts about one audited function."""

from collections.abc import Callable
from dataclasses import dataclass

WHOLE, FIRST_K, DRAWN = "whole vocabulary", "first K", "token drawn"  # what a loss looks at
FORWARD = "a student that covers all the teacher does"
REVERSE = "a student that stays where the teacher is sure"
BETWEEN = "a bounded loss between the two KLs"


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where the code stands that was read; ``of`` names what the repository is a fork of."""

    repository: str
    path: str
    commit: str
    of: str = ""


@dataclass(frozen=True, kw_only=True)
class LibraryLoss:
    """A function of a library with its options, as a loss that can be audited.

    ``estimator``: what of the distributions it looks at, WHOLE, FIRST_K or DRAWN.
    ``source``: None where the adapter calls the library's own code; where it is a reading of
    that code in our own, the code that was read.  ``without``: modules that the library's file
    imports and its loss does not use, and in whose place a stand-in was put.
    ``adapter`` takes student_logits (V,), teacher_logits (V,) and a token and returns
    a scalar; with ``kind`` "sequence" it takes (T, V), (T, V), tokens (T,), and a mask (T,)
    where the function has one, with "batch" the same behind an axis of texts.
    """

    id: str
    library: str
    function: str
    option: str
    estimator: str
    kind: str = "token"
    drawn_from: str = "student"
    when_you_want_it: str
    note: str = ""
    source: Source | None = None
    without: tuple[str, ...] = ()
    adapter: Callable


def log_probabilities(student, teacher, token):
    """Of the token under both, shape (); the teacher's as data, as every library here has it."""
    return student.log_softmax(-1)[token], teacher.detach().log_softmax(-1)[token]


def log_probabilities_of_texts(student, teacher, tokens, mask):
    """The same of tokens (..., T), from logits (..., T, V); 0 stands for a token masked."""
    at = tokens.masked_fill(mask == 0, 0)[..., None]
    both = student, teacher.detach()
    return tuple(logits.log_softmax(-1).gather(-1, at).squeeze(-1) for logits in both)
