"""What the modules of the libraries share: the facts about one audited function."""

from collections.abc import Callable
from dataclasses import dataclass

FORWARD = "a student that covers all the teacher does"
REVERSE = "a student that stays where the teacher is sure"
BETWEEN = "a bounded loss between the two KLs"


@dataclass(frozen=True, kw_only=True)
class LibraryLoss:
    """A function of a library with its options, as a loss that can be audited.

    ``adapter`` takes student_logits (V,), teacher_logits (V,) and a token and returns
    a scalar; with ``kind`` "sequence" it takes (T, V), (T, V), tokens (T,), and a mask (T,)
    where the function has one, with "batch" the same behind an axis of texts.
    """

    id: str
    library: str
    function: str
    option: str
    kind: str = "token"
    drawn_from: str = "student"
    when_you_want_it: str
    note: str = ""
    adapter: Callable


def log_probabilities(student, teacher, token):
    """Of the token under both, shape (); the teacher's as data, as every library here has it."""
    return student.log_softmax(-1)[token], teacher.detach().log_softmax(-1)[token]
