"""Calling a loss of one token at the edges: masked and padded vocabularies, huge logits, clamps.

``call_at_edges`` makes the calls; ``findings`` says what they mean.
"""

from dataclasses import dataclass

import numpy as np

from opd_toy.audit.calling import AuditError, NoGradient, gradient_of
from opd_toy.distributions import softmax
from opd_toy.example import STUDENT, TEACHER

HUGE = 1e4
APART = (0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001)
LOG_RATIOS = (
    *(0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0),
    *(10.0, 12.0, 15.0, 20.0, 25.0, 30.0, 40.0),
)


@dataclass(frozen=True)
class Mean:
    """Value and gradient (V,) in expectation over the tokens; NaN for a loss that raises."""

    value: float
    gradient: np.ndarray

    @property
    def is_finite(self):
        return bool(np.isfinite(self.value) and np.isfinite(self.gradient).all())


@dataclass(frozen=True)
class Limit:
    """Where the gradient of one token stops as its log-ratio grows.

    ``over``: "log p/q" or "log q/p"; ``above``: the log-ratio from which on the gradient
    is exactly 0 (``weight`` is None), or its weight on the score stays at ``weight``.
    """

    over: str
    above: float
    weight: float | None = None


@dataclass(frozen=True)
class EdgeCalls:
    """What the loss gave at each edge.  ``close``: (how far apart, Mean) near the teacher."""

    takes_token: bool
    masked: Mean
    masked_teacher: Mean
    masked_student: Mean
    padded: Mean
    huge: Mean
    close: tuple
    limits: tuple


def call_at_edges(loss, taken, drawn_from):
    """-> EdgeCalls"""

    def mean(student, teacher):
        weights = np.ones(1)
        if taken == 3:
            weights = softmax(student if drawn_from == "student" else teacher)
        total = Mean(0.0, np.zeros(len(student)))
        for token in np.flatnonzero(weights):
            called = _call(loss, student, teacher, *((np.array(token),) if taken == 3 else ()))
            with np.errstate(invalid="ignore"):
                total = Mean(
                    total.value + weights[token] * called.value,
                    total.gradient + weights[token] * called.gradient,
                )
        return total

    p, q = np.log(STUDENT), np.log(TEACHER)
    second_masked = np.array([0.0, -np.inf, 0.0])
    huge = np.array([HUGE, 0.0, -HUGE])
    limits = [_limit(loss, taken, over, sign) for over, sign in (("log p/q", 1), ("log q/p", -1))]
    return EdgeCalls(
        takes_token=taken == 3,
        masked=mean(np.append(p, -np.inf), np.append(q, -np.inf)),
        masked_teacher=mean(p, q + second_masked),
        masked_student=mean(p + second_masked, q),
        padded=mean(np.append(p, [-HUGE, -HUGE]), np.append(q, [-HUGE, -HUGE])),
        huge=mean(huge, -huge),
        close=tuple((apart, mean(q + apart * np.array([0.5, -0.5, 0.0]), q)) for apart in APART),
        limits=tuple(limit for limit in limits if limit),
    )


def _limit(loss, taken, over, sign):
    """-> Limit or None, for token 0 of three as its log-ratio goes through ``LOG_RATIOS``."""
    token = (np.array(0),) if taken == 3 else ()

    def gradient_at(size):
        return _call(loss, *_at_log_ratio(sign * size), *token).gradient

    def weight_at(size):
        return _weight(gradient_at(size), softmax(_at_log_ratio(sign * size)[0]))

    gradients = [gradient_at(size) for size in LOG_RATIOS]
    dead = [not gradient.any() for gradient in gradients]
    if dead[-1] and not all(dead):
        alive = len(dead) - 1 - dead[::-1].index(False)
        above = _bisect(lambda size: not gradient_at(size).any(), *LOG_RATIOS[alive : alive + 2])
        return Limit(over, above)
    if taken != 3:
        return None
    students = [softmax(_at_log_ratio(sign * size)[0]) for size in LOG_RATIOS]
    weights = [_weight(*entry) for entry in zip(gradients, students)]
    return None if None in weights else _clamp(weights, weight_at, over)


def _clamp(weights, weight_at, over):
    """-> Limit where the weights (at ``LOG_RATIOS``) end in one value, with a kink; else None."""
    last = weights[-1]

    def is_last(weight, tolerance=1e-9):
        return weight is not None and abs(weight - last) <= tolerance * abs(last)

    flat = [is_last(weight) for weight in weights]
    first = flat.index(True)
    if sum(flat) < 2 or all(flat) or not all(flat[first:]):
        return None
    low = LOG_RATIOS[first - 1] if first else 0.0
    above = _bisect(lambda size: is_last(weight_at(size)), low, LOG_RATIOS[first])
    if is_last(weight_at(0.97 * above), 1e-3):
        return None  # it levels off, as 1 − q/p does; a clamp has a kink
    return Limit(over, above, last)


def _at_log_ratio(ratio):
    """Logits of a pair over three tokens whose token 0 has log p/q = ratio."""
    small = 0.5 * np.exp(-abs(ratio))
    high, low = np.log([0.5, 0.3, 0.2]), np.log([small, 0.6 * (1 - small), 0.4 * (1 - small)])
    return (high, low) if ratio > 0 else (low, high)


def _weight(gradient, p):
    """w where the gradient is w (1 - p_0, -p_1, -p_2), as a policy gradient's is; else None."""
    score = np.array([1.0, 0.0, 0.0]) - p
    weight = float(gradient @ score / (score @ score))
    off = np.abs(gradient - weight * score).max()
    is_weight = np.isfinite(weight) and off <= 1e-6 * np.abs(gradient).max()
    return weight if is_weight else None


def _bisect(beyond, low, high):
    """Where ``beyond`` begins to hold between low (it does not) and high (it does)."""
    for _ in range(14):
        middle = (low + high) / 2
        low, high = (low, middle) if beyond(middle) else (middle, high)
    return high


def _call(loss, student, teacher, *token):
    """-> Mean of one token; NaN where the loss raises, 0 where it has no gradient."""
    try:
        called = gradient_of(loss, student, teacher, *token)
        return Mean(called.value, called.student_gradient)
    except NoGradient as refusal:
        return Mean(refusal.value, np.zeros(len(student)))
    except AuditError:
        return Mean(np.nan, np.full(len(student), np.nan))
