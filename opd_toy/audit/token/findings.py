"""What the calls at the edges mean: a severity and a sentence each.

"broken" where training would meet NaN or a wrong gradient, "note" where one should know,
"fine" otherwise.
"""

import numpy as np

from opd_toy.audit.report import finding, number, vector
from opd_toy.audit.token.edges import HUGE, LOG_RATIOS

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
    "changes the loss: the gradient sums to {total:.3g}, not 0, "
    "so it is no function of the student's probabilities alone"
)
DEAD = "exactly 0 where {over} of {token} is above {above:.3g}"
CLAMPED = "the weight of the token drawn stays at {weight} where {over} is above {above:.3g}"
NO_CLAMP = "the gradient neither stops nor is cut off for |log p/q| up to {largest:g}"
FINITE = "value and gradient stay finite"


def findings(calls, expected):
    """A list of findings (``report.finding``) from EdgeCalls.

    ``expected`` (3,): the expected gradient at the notes' pair.
    """
    return [
        _masked(calls.masked, expected),
        _one_sided(calls.masked_teacher, "teacher"),
        _one_sided(calls.masked_student, "student"),
        _padded(calls.padded, expected),
        _huge(calls.huge),
        _constant(expected),
        _close(calls.close, expected),
        *_limits(calls),
    ]


def stops_short(found):
    """Whether descent ends before the student is at its teacher."""
    return any(entry["edge"] == CLOSE_BY and entry["severity"] != "fine" for entry in found)


def _value_and_gradient(mean):
    return f"value {number(mean.value)}, gradient {vector(mean.gradient)}"


def _masked(mean, expected):
    edge = "a token masked (−inf) in both"
    if not mean.is_finite:
        words = f"{_value_and_gradient(mean)}: one masked token spoils the position"
        return finding(edge, "broken", words)
    if mean.gradient[3] != 0:
        words = f"the masked token's logit gets a gradient of {mean.gradient[3]:.3g}"
        return finding(edge, "broken", words)
    return _others(edge, mean.gradient[:3], expected)


def _padded(mean, expected):
    edge = f"vocabulary padded with logits of −{HUGE:g}"
    if not mean.is_finite:
        return finding(edge, "broken", _value_and_gradient(mean))
    return _others(edge, mean.gradient[:3], expected)


def _others(edge, gradient, expected):
    size = max(np.linalg.norm(expected), 1e-300)
    if np.linalg.norm(gradient - expected) <= max(1e-4 * size, 1e-12):
        return finding(edge, "fine", "the other tokens' gradient is unchanged")
    ratio = np.linalg.norm(gradient) / size
    if np.linalg.norm(gradient / max(ratio, 1e-300) - expected) <= 1e-4 * size:
        return finding(edge, "note", OTHERS_SCALED.format(ratio=ratio))
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


def _constant(expected):
    """A loss of the two distributions has a gradient that sums to 0 over the logits."""
    edge = "a constant added to the student's logits"
    total, size = float(np.sum(expected)), float(np.abs(expected).sum())
    if abs(total) <= 1e-5 * size or size < 1e-12:
        return finding(edge, "fine", "changes nothing")
    return finding(edge, "note", NO_FUNCTION_OF_P.format(total=total))


def _close(close, expected):
    """Descent stops short of the teacher where the gradient is 0 before the student is there."""
    still = [apart for apart, mean in close if not mean.gradient.any()]
    if still and expected.any():
        return finding(CLOSE_BY, "note", STOPS_SHORT.format(apart=max(still)))
    return finding(CLOSE_BY, "fine", "the gradient does not stop before the student is there")


def _limits(calls):
    token = "the token drawn" if calls.takes_token else "a token"
    found = []
    for limit in calls.limits:
        if limit.weight is None:
            words = DEAD.format(over=limit.over, token=token, above=limit.above)
            found.append(finding("dead gradient", "broken", words))
        else:
            weight = number(limit.weight)
            words = CLAMPED.format(weight=weight, over=limit.over, above=limit.above)
            found.append(finding("clamp", "note", words))
    return found or [finding("clamps", "fine", NO_CLAMP.format(largest=LOG_RATIOS[-1]))]
