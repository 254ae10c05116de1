"""``audit``: the gradient table of a loss of one token, by calling it on every token of many pairs."""

from dataclasses import dataclass

import numpy as np

from opd_toy.audit import calling, identify
from opd_toy.audit.candidates import Pairs
from opd_toy.distributions import softmax
from opd_toy.estimators import total_variance

STUDENT = np.array([0.2, 0.3, 0.5])  # the notes' example
TEACHER = np.array([0.7, 0.2, 0.1])
# Vocabulary sizes and the standard deviation of the logits: close, ordinary, far apart, farther.
TIERS = (((3, 4, 5, 6), 0.25), ((3, 4, 5, 8, 3, 4, 5, 8), 1.0), ((3, 5, 4, 8), 4.0), ((3, 5), 12.0))
ROUNDING = {"float64": 2e-13, "float32": 2e-6, "float16": 1e-3, "bfloat16": 8e-3}


@dataclass(frozen=True)
class TokenReport:
    """What ``audit`` found."""

    optimises: str
    expected_gradient: np.ndarray
    variance: float
    holds_everywhere: bool
    precision: str
    seed: int


def random_pairs(seed):
    """[(student_logits, teacher_logits, tier, fit)], the notes' pair first."""
    random = np.random.default_rng(seed)
    found = [(np.log(STUDENT), np.log(TEACHER), 1, True)]
    for tier, (sizes, spread) in enumerate(TIERS):
        for index, size in enumerate(sizes):
            while True:
                student, teacher = random.normal(0, spread, (2, size))
                # Both divergences must have a gradient to be told by.
                p, q = softmax(student), softmax(teacher)
                reverse = p * (np.log(p / q) - (p * np.log(p / q)).sum())
                if min(np.linalg.norm(p - q), np.linalg.norm(reverse)) > 0.02:
                    break
            found.append((student, teacher, tier, (index % 4 in (0, 2)) if tier != 1 else index < 4))
    return found


def table_of(loss, student, teacher, taken):
    """Called for every token (V of them); only one call where the loss takes no token."""
    if taken == 2:
        return [calling.gradient_of(loss, student, teacher)] * len(student)
    return [calling.gradient_of(loss, student, teacher, np.array(token)) for token in range(len(student))]


def audit(loss, *, drawn_from="student", seed=0):
    """What ``loss`` optimises -> TokenReport."""
    taken = calling.arguments_taken(loss, 3)
    data = random_pairs(seed)
    largest = max(len(student) for student, *_ in data)
    pad = lambda row, filler: np.concatenate([row, np.full(largest - len(row), filler)])  # noqa: E731
    tables = [np.array([called.student_gradient for called in table_of(loss, student, teacher, taken)]) for student, teacher, *_ in data]
    precision = calling.precision(*tables)
    pairs = Pairs(*(np.array([pad(entry[side], -np.inf) for entry in data]) for side in (0, 1)))
    weights = [softmax(entry[0 if drawn_from == "student" else 1]) for entry in data]
    gradients = np.array([pad(weight @ table, 0.0) for weight, table in zip(weights, tables)])
    sizes = np.array([weight @ np.sqrt((table**2).sum(axis=1)) for weight, table in zip(weights, tables)])
    measured = identify.Measured(
        pairs, gradients, ROUNDING[precision] * sizes, np.array([e[2] for e in data]), np.array([e[3] for e in data]), calling.TOLERANCES[precision]
    )  # fmt: skip
    verdict = identify.identify(measured)
    everywhere = bool(verdict.holds.all())
    name = verdict.name if everywhere or verdict.name == identify.NONE else verdict.name + " while the two are close"
    return TokenReport(name, gradients[0, :3], float(total_variance(weights[0], tables[0])), everywhere, precision, seed)
