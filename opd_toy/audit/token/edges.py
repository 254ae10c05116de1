"""How a loss behaves at the edges: masked and padded vocabularies, huge logits, clamps.

Each finding is {"edge", "severity", "finding"}: "broken" where training would meet
NaN or a wrong gradient, "note" where one should know, "fine" otherwise.
"""

import numpy as np

from opd_toy.audit import calling
from opd_toy.audit.report import number, vector
from opd_toy.distributions import softmax

STUDENT, TEACHER = np.log([0.2, 0.3, 0.5]), np.log([0.7, 0.2, 0.1])
HUGE = 1e4
APART = (0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001)
CLOSE_BY = "a student close by its teacher"
LOG_RATIOS = (
    0.1,
    0.25,
    0.5,
    1.0,
    1.5,
    2.0,
    2.5,
    3.0,
    4.0,
    5.0,
    6.0,
    8.0,
    10.0,
    12.0,
    15.0,
    20.0,
    25.0,
    30.0,
    40.0,
)


def findings(loss, taken, expected, drawn_from):
    """All findings; ``expected`` (3,) is the expected gradient at the notes' pair."""

    def mean_gradient(student, teacher):
        """(value, gradient) in expectation over the tokens that can be drawn; NaN for a loss that raises."""
        weights = (
            softmax(student if drawn_from == "student" else teacher) if taken == 3 else np.ones(1)
        )
        total, value = np.zeros(len(student)), 0.0
        for token in np.flatnonzero(weights):
            called = _call(loss, student, teacher, *((np.array(token),) if taken == 3 else ()))
            with np.errstate(invalid="ignore"):
                total, value = (
                    total + weights[token] * called[1],
                    value + weights[token] * called[0],
                )
        return value, total

    found = [
        _masked(mean_gradient, expected), _one_sided(mean_gradient, "teacher"), _one_sided(mean_gradient, "student"),
        _padded(mean_gradient, expected), _huge(mean_gradient), _constant(expected), _close(mean_gradient, expected),
    ]  # fmt: skip
    return found + _dead_or_clamped(loss, taken)


def _masked(mean_gradient, expected):
    edge = "a token masked (−inf) in both"
    value, gradient = mean_gradient(np.append(STUDENT, -np.inf), np.append(TEACHER, -np.inf))
    if not np.isfinite(gradient).all() or not np.isfinite(value):
        return _finding(
            edge,
            "broken",
            f"value {number(value)}, gradient {vector(gradient)}: one masked token spoils the position",
        )
    if gradient[3] != 0:
        return _finding(
            edge, "broken", f"the masked token's logit gets a gradient of {gradient[3]:.3g}"
        )
    return _same(edge, gradient[:3], expected)


def _padded(mean_gradient, expected):
    edge = f"vocabulary padded with logits of −{HUGE:g}"
    value, gradient = mean_gradient(
        np.append(STUDENT, [-HUGE, -HUGE]), np.append(TEACHER, [-HUGE, -HUGE])
    )
    if not np.isfinite(gradient).all() or not np.isfinite(value):
        return _finding(edge, "broken", f"value {number(value)}, gradient {vector(gradient)}")
    return _same(edge, gradient[:3], expected)


def _same(edge, gradient, expected):
    size = max(np.linalg.norm(expected), 1e-300)
    if (
        np.linalg.norm(gradient - expected) <= 1e-4 * size
        or np.linalg.norm(gradient - expected) < 1e-12
    ):
        return _finding(edge, "fine", "the other tokens' gradient is unchanged")
    ratio = np.linalg.norm(gradient) / size
    if np.linalg.norm(gradient / max(ratio, 1e-300) - expected) <= 1e-4 * size:
        return _finding(
            edge,
            "note",
            f"the other tokens' gradient is multiplied by {ratio:.4g}: the scale depends on the size of the vocabulary",
        )
    return _finding(
        edge,
        "broken",
        f"the other tokens' gradient changes from {vector(expected)} to {vector(gradient)}",
    )


def _one_sided(mean_gradient, side):
    student, teacher = STUDENT.copy(), TEACHER.copy()
    (teacher if side == "teacher" else student)[1] = -np.inf
    value, gradient = mean_gradient(student, teacher)
    edge = f"a token masked (−inf) in the {side} only"
    if np.isfinite(value) and np.isfinite(gradient).all():
        return _finding(edge, "fine", "value and gradient stay finite")
    severity = "broken" if np.isnan(gradient).any() and np.isfinite(value) else "note"
    return _finding(edge, severity, f"value {number(value)}, gradient {vector(gradient)}")


def _huge(mean_gradient):
    edge = f"logits of ±{HUGE:g}"
    value, gradient = mean_gradient(np.array([HUGE, 0.0, -HUGE]), np.array([-HUGE, 0.0, HUGE]))
    if np.isfinite(value) and np.isfinite(gradient).all():
        return _finding(edge, "fine", "value and gradient stay finite")
    return _finding(edge, "broken", f"value {number(value)}, gradient {vector(gradient)}")


def _constant(expected):
    """A loss of the two distributions has a gradient that sums to 0 over the logits."""
    edge = "a constant added to the student's logits"
    total, size = float(np.sum(expected)), float(np.abs(expected).sum())
    if abs(total) <= 1e-5 * size or size < 1e-12:
        return _finding(edge, "fine", "changes nothing")
    return _finding(
        edge,
        "note",
        f"changes the loss: the gradient sums to {total:.3g}, not 0, so it is no function of the student's probabilities alone",
    )


def _close(mean_gradient, expected):
    """Descent stops short of the teacher where the gradient is exactly 0 before the student is there."""
    still = [
        apart
        for apart in APART
        if not mean_gradient(TEACHER + apart * np.array([0.5, -0.5, 0.0]), TEACHER)[1].any()
    ]
    if still and expected.any():
        return _finding(
            CLOSE_BY,
            "note",
            f"the gradient is exactly 0 while the logits are still {max(still):g} apart: a margin, or rounding",
        )
    return _finding(CLOSE_BY, "fine", "the gradient does not stop before the student is there")


def _dead_or_clamped(loss, taken):
    """Where the gradient of a token stops: exactly 0, or its weight on the score no longer grows."""
    found = []
    for sign, words in ((1, "log p/q"), (-1, "log q/p")):

        def row(size, sign=sign):
            student, teacher = _at_log_ratio(sign * size)
            return _call(loss, student, teacher, *((np.array(0),) if taken == 3 else ()))[
                1
            ], softmax(student)

        rows = [row(size) for size in LOG_RATIOS]
        dead = [bool(np.all(gradient == 0)) for gradient, _ in rows]
        if dead[-1] and not all(dead):
            first = len(dead) - dead[::-1].index(False)
            edge = _bisect(
                lambda size: bool(np.all(row(size)[0] == 0)),
                LOG_RATIOS[first - 1],
                LOG_RATIOS[first],
            )
            found.append(
                _finding(
                    "dead gradient",
                    "broken",
                    f"exactly 0 where {words} of {'the token drawn' if taken == 3 else 'a token'} is above {edge:.3g}",
                )
            )
        elif (
            taken == 3
            and (weights := [_weight(*entry) for entry in rows])[-1] is not None
            and None not in weights
        ):
            flat = [abs(weight - weights[-1]) <= 1e-9 * abs(weights[-1]) for weight in weights]
            if sum(flat) >= 2 and not all(flat) and all(flat[flat.index(True) :]):
                first = flat.index(True)
                edge = _bisect(
                    lambda size: abs(_weight(*row(size)) - weights[-1]) <= 1e-9 * abs(weights[-1]),
                    LOG_RATIOS[first - 1] if first else 0.0,
                    LOG_RATIOS[first],
                )
                if abs(_weight(*row(0.97 * edge)) - weights[-1]) <= 1e-3 * abs(weights[-1]):
                    continue  # it levels off, as 1 − q/p does; a clamp has a kink
                found.append(
                    _finding(
                        "clamp",
                        "note",
                        f"the weight of the token drawn stays at {number(weights[-1])} where {words} is above {edge:.3g}",
                    )
                )
    return found or [
        _finding(
            "clamps",
            "fine",
            f"the gradient neither stops nor is cut off for |log p/q| up to {LOG_RATIOS[-1]:g}",
        )
    ]


def _at_log_ratio(ratio):
    """Logits of a pair over three tokens whose token 0 has log p/q = ratio."""
    small = 0.5 * np.exp(-abs(ratio))
    high, low = np.log([0.5, 0.3, 0.2]), np.log([small, 0.6 * (1 - small), 0.4 * (1 - small)])
    return (high, low) if ratio > 0 else (low, high)


def _weight(gradient, p):
    """w where the gradient is w (1 - p_0, -p_1, -p_2), as a policy gradient's is; else None."""
    score = np.array([1.0, 0.0, 0.0]) - p
    weight = float(gradient @ score / (score @ score))
    return (
        weight
        if np.isfinite(weight)
        and np.abs(gradient - weight * score).max() <= 1e-6 * np.abs(gradient).max()
        else None
    )


def _bisect(beyond, low, high):
    """Where ``beyond`` begins to hold between low (it does not) and high (it does)."""
    for _ in range(14):
        middle = (low + high) / 2
        low, high = (low, middle) if beyond(middle) else (middle, high)
    return high


def _call(loss, student, teacher, *token):
    """(value, gradient); NaN where the loss raises, 0 where it has no gradient."""
    try:
        called = calling.gradient_of(loss, student, teacher, *token)
        return called.value, called.student_gradient
    except calling.NoGradient as refusal:
        return refusal.value, np.zeros(len(student))
    except calling.AuditError:
        return np.nan, np.full(len(student), np.nan)


def _finding(edge, severity, finding):
    return {"edge": edge, "severity": severity, "finding": finding}
