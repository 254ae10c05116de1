"""Teachers made others outside their first tokens: floored there, or uniform."""

import numpy as np

from opd_toy.audit.token.candidates import KLS, Candidate, centred, log
from opd_toy.audit.token.fit import confirmed
from opd_toy.audit.token.heads import head_of, on_head
from opd_toy.audit.token.names import format_number
from opd_toy.audit.token.pairs import Pairs


def floored(expected, whose, k):
    """The reverse KL to a teacher that has the same small number at every token outside.

    Linear in the logarithm of that number, which is therefore read off two coefficients.
    """
    for renormalized in (False, True):
        inside = _reverse_to_floored(whose, k, renormalized, 0.0)
        push = Candidate(
            "mass outside",
            lambda pairs: centred(pairs.p, (~head_of(pairs, whose, k)).astype(float)),
        )
        if terms := confirmed(expected, [inside, push]):
            (scale, _), (outside, _) = terms
            for digits in range(1, 8):
                tried = _reverse_to_floored(
                    whose, k, renormalized, *_plain_floor(-outside / scale, digits)
                )
                if found := confirmed(expected, [tried]):
                    return found
    return None


def _plain_floor(level, digits):
    """(logarithm of the floor, it in words): a number such as 1e-10, or its logarithm."""
    floor, rounded = float(f"{np.exp(level):.{digits}g}"), float(f"{level:.{digits}g}")
    if floor > 0 and abs(np.log(floor) - level) <= abs(rounded - level):
        return float(np.log(floor)), format_number(floor)
    return rounded, f"e^{format_number(rounded)}".replace("-", "−")


def _reverse_to_floored(whose, k, renormalized, level, words="1"):
    def gradient(pairs):
        head = head_of(pairs, whose, k)
        q = on_head(pairs.q, head) if renormalized else pairs.q
        return centred(pairs.p, log(pairs.p) - np.where(head, log(np.where(head, q, 1.0)), level))

    top = "its" if whose == "teacher" else "the student's"
    made = f" renormalized on {top} top {k}, and" if renormalized else ""
    name = f"reverse KL to the teacher{made} with q = {words} outside"
    name += "" if renormalized else f" {top} top {k}"
    parameters = (("k", k), ("whose", whose), ("outside", f"teacher floored at {words}"))
    return Candidate(name, gradient, None, parameters)


def with_uniform_tail(expected, whose, k):
    """KLs with a teacher whose mass outside its head is spread evenly."""
    top = "its" if whose == "teacher" else "the student's"
    words = f" to the teacher made uniform outside {top} top {k}"
    parameters = (("k", k), ("whose", whose), ("outside", "teacher uniform"))

    def view(candidate):
        return Candidate(
            candidate.name + words,
            lambda pairs: candidate.gradient(_uniform_outside(pairs, whose, k)),
            None,
            parameters,
        )

    yield from (confirmed(expected, [view(candidate)]) for candidate in KLS)


def _uniform_outside(pairs, whose, k):
    head, here = head_of(pairs, whose, k), np.isfinite(pairs.student_logits)
    outside = here & ~head
    left = np.where(outside, pairs.q, 0.0).sum(axis=-1, keepdims=True)
    even = left / np.maximum(outside.sum(axis=-1, keepdims=True), 1)
    return Pairs(pairs.student_logits, np.log(np.where(outside, even, pairs.q)))
