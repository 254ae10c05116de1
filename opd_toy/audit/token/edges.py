"""Calling a loss of one token at the edges: masked and padded vocabularies, huge logits, clamps.

``call_at_edges`` makes the calls; ``findings`` says what they mean.
"""

from dataclasses import dataclass

import numpy as np

from opd_toy.audit.calling import AuditError, NoGradient, gradient_of
from opd_toy.audit.token import limits
from opd_toy.distributions import softmax
from opd_toy.example import STUDENT, TEACHER

HUGE = 1e4
APART = (0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001)


@dataclass(frozen=True)
class Mean:
    """Value and gradient (V,) in expectation over the tokens; NaN for a loss that raises."""

    value: float
    gradient: np.ndarray

    @property
    def is_finite(self):
        return bool(np.isfinite(self.value) and np.isfinite(self.gradient).all())


@dataclass(frozen=True)
class EdgeCalls:
    """What the loss gave at each edge.

    ``close``: (how far apart, Mean) near the teacher; ``limits``: of ``limits.find``.
    """

    takes_token: bool
    masked: Mean
    masked_teacher: Mean
    masked_student: Mean
    padded: Mean
    huge: Mean
    close: tuple
    limits: tuple


def call_at_edges(loss, taken, drawn_from, precision):
    """-> EdgeCalls; ``precision``: the coarsest format inside the loss."""

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
    first = (np.array(0),) if taken == 3 else ()
    return EdgeCalls(
        takes_token=taken == 3,
        masked=mean(np.append(p, -np.inf), np.append(q, -np.inf)),
        masked_teacher=mean(p, q + second_masked),
        masked_student=mean(p + second_masked, q),
        padded=mean(np.append(p, [-HUGE, -HUGE]), np.append(q, [-HUGE, -HUGE])),
        huge=mean(huge, -huge),
        close=tuple((apart, mean(q + apart * np.array([0.5, -0.5, 0.0]), q)) for apart in APART),
        limits=limits.find(
            lambda student, teacher: _row(loss, student, teacher, *first),
            taken == 3,
            precision,
        ),
    )


def _call(loss, student, teacher, *token):
    """-> Mean of one token; NaN where the loss raises, 0 where it has no gradient."""
    try:
        called = gradient_of(loss, student, teacher, *token)
        return Mean(called.value, called.student_gradient)
    except NoGradient as refusal:
        return Mean(refusal.value, np.zeros(len(student)))
    except AuditError:
        return Mean(np.nan, np.full(len(student), np.nan))


def _row(loss, student, teacher, *token):
    """The gradient (V,) of one token; None where the loss raises, 0 where it has none."""
    try:
        return gradient_of(loss, student, teacher, *token).student_gradient
    except NoGradient:
        return np.zeros(len(student))
    except AuditError:
        return None
