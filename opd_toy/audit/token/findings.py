"""What the calls at the edges mean: a severity and a sentence each.

"broken" where training would meet NaN or a wrong gradient, "note" where one should know,
"fine" otherwise.
"""

import numpy as np

from opd_toy.audit import formats
from opd_toy.audit.report import finding, number, vector
from opd_toy.audit.token.edges import HUGE
from opd_toy.audit.token.limits import FLOORS, HEADS, LOG_RATIOS

CLOSE_BY = "a student close by its teacher"
STOPS_SHORT = (
    "the gradient is exactly 0 while the logits are still {apart:g} apart: a margin, or rounding"
)
OTHERS_SCALED = (
    "the other tokens' gradient is multiplied by {ratio:.4g}: "
    "the scale depends on the size of the vocabulary"
)
OTHERS_CHANGED = "the other tokens' gradient changes from {before} to {after}"
NO_FUNCTION_OF_P = (
    "changes the loss: the gradient sums to {total}, not 0, "
    "so it is no function of the student's probabilities alone"
)
UNTOLD = (
    "cannot be told in {precision}: the gradient is exactly 0 while the logits are still {apart:g} "
    "apart, which rounding alone can do"
)
BEYOND = "{over} of {token} is {side} {at:.3g}"
ON_THE_PATH = ", for a token of probability {head:g} under the model that does not lack it"
DEAD = "exactly 0 where {beyond}"
CANCELS = "exactly 0 where {beyond}: large numbers cancel and leave nothing in {precision}"
OVERFLOW = "not finite where {beyond}"
REFUSES = "the loss raises an error where {beyond}"
CLAMPED = "the weight of {token} stays at {weight} where its {over} is {side} {at:.3g}"
FLAT = "the part of {token} in the gradient stays as it is where its {over} is {side} {at:.3g}"
NO_CLAMP = "neither stops nor is cut off while it is finite, |log p/q| up to {largest:g}"
FINITE = "value and gradient stay finite"
NOTHING = 1e-12  # lengths of gradients that are 0


def findings(calls, expected, precision="float64"):
    """A list of findings (``report.finding``) from EdgeCalls.

    ``expected`` (3,): the expected gradient at the notes' pair; ``precision``: the format
    that the loss computes in, whose rounding is nothing to be noted.
    """
    coarse = formats.TOLERANCES[precision] > formats.COARSE
    rounding = 3 * formats.TOLERANCES[precision]
    return [
        _masked(calls.masked, expected, rounding),
        _one_sided(calls.masked_teacher, "teacher"),
        _one_sided(calls.masked_student, "student"),
        _padded(calls.padded, expected, rounding),
        _huge(calls.huge),
        _constant(expected, rounding),
        _close(calls.close, expected, precision if coarse else None),
        *_limits(calls, precision),
    ]


def stops_short(found):
    """Whether descent ends before the student is at its teacher."""
    return any(entry["edge"] == CLOSE_BY and entry["severity"] != "fine" for entry in found)


def _value_and_gradient(mean):
    return f"value {number(mean.value)}, gradient {vector(mean.gradient)}"


def _masked(mean, expected, rounding):
    edge = "a token masked (−inf) in both"
    if not mean.is_finite:
        words = f"{_value_and_gradient(mean)}: one masked token spoils the position"
        return finding(edge, "broken", words)
    if mean.gradient[3] != 0:
        words = f"the masked token's logit gets a gradient of {number(mean.gradient[3], 3)}"
        return finding(edge, "broken", words)
    return _others(edge, mean.gradient[:3], expected, rounding)


def _padded(mean, expected, rounding):
    edge = f"vocabulary padded with logits of −{HUGE:g}"
    if not mean.is_finite:
        return finding(edge, "broken", _value_and_gradient(mean))
    return _others(edge, mean.gradient[:3], expected, rounding)


def _others(edge, gradient, expected, rounding):
    size, found = np.linalg.norm(expected), np.linalg.norm(gradient)
    alike = max(1e-4, rounding) * size
    if np.linalg.norm(gradient - expected) <= max(alike, NOTHING):
        return finding(edge, "fine", "the other tokens' gradient is unchanged")
    something = min(size, found) > NOTHING
    if something and np.linalg.norm(gradient * size / found - expected) <= alike:
        return finding(edge, "note", OTHERS_SCALED.format(ratio=found / size))
    words = OTHERS_CHANGED.format(before=vector(expected), after=vector(gradient))
    return finding(edge, "broken", words)


def _one_sided(mean, side):
    edge = f"a token masked (−inf) in the {side} only"
    if mean.is_finite:
        return finding(edge, "fine", FINITE)
    unnoticed = np.isnan(mean.gradient).any() and np.isfinite(mean.value)
    return finding(edge, "broken" if unnoticed else "note", _value_and_gradient(mean))


def _huge(mean):
    edge = f"logits of ±{HUGE:g}"
    if mean.is_finite:
        return finding(edge, "fine", FINITE)
    return finding(edge, "broken", _value_and_gradient(mean))


def _constant(expected, rounding):
    """A loss of the two distributions has a gradient that sums to 0 over the logits."""
    edge = "a constant added to the student's logits"
    total, size = float(np.sum(expected)), float(np.abs(expected).sum())
    noise = rounding if rounding > formats.COARSE else 0.0  # of a divergence, whose size is 1
    if abs(total) <= max(1e-5 * size, noise) or size < NOTHING:
        return finding(edge, "fine", "changes nothing")
    return finding(edge, "note", NO_FUNCTION_OF_P.format(total=number(total, 3)))


def _close(close, expected, coarse):
    """Descent stops short of the teacher where the gradient is 0 before the student is there.

    ``coarse``: a half-precision format, in which close models are alike, or None.
    """
    still = [apart for apart, mean in close if not mean.gradient.any()]
    if still and expected.any() and coarse:
        words = UNTOLD.format(precision=coarse, apart=max(still))
        return finding(CLOSE_BY, "note", words)
    if still and expected.any():
        return finding(CLOSE_BY, "note", STOPS_SHORT.format(apart=max(still)))
    return finding(CLOSE_BY, "fine", "the gradient does not stop before the student is there")


def _limits(calls, precision):
    found = [_limit(limit, calls.takes_token, precision) for limit in calls.limits]
    return found or [finding("clamps", "fine", NO_CLAMP.format(largest=LOG_RATIOS[-1]))]


def _limit(limit, takes_token, precision):
    words = {
        "over": limit.over,
        "token": "the token drawn" if takes_token else "a token",
        "side": "below" if limit.over in FLOORS else "above",
        "at": limit.at,
    }
    path = "" if limit.everywhere else ON_THE_PATH.format(head=HEADS[0])
    beyond = BEYOND.format(**words) + path
    severity = "note" if limit.is_far else "broken"
    if limit.kind == "not finite":
        return finding("overflow", severity, OVERFLOW.format(beyond=beyond))
    if limit.kind == "refuses":
        return finding("refusal", severity, REFUSES.format(beyond=beyond))
    if limit.kind == "cancels":
        return finding("rounding", "note", CANCELS.format(beyond=beyond, precision=precision))
    if limit.kind == "cut":
        return finding("dead gradient", "broken", DEAD.format(beyond=beyond))
    if limit.weight is None:
        return finding("clamp", "note", FLAT.format(**words) + path)
    return finding("clamp", "note", CLAMPED.format(weight=number(limit.weight), **words) + path)
