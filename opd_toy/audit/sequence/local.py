"""Which divergence explains the last position of a sequence, which has no future?"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from opd_toy import objectives
from opd_toy.audit.token.expected import Expected
from opd_toy.audit.token.mixtures import quantities
from opd_toy.audit.token.names import phrase, power_text
from opd_toy.audit.token.pairs import Pairs
from opd_toy.audit.token.verdict import identify, sum_of
from opd_toy.distributions import softmax

# {names of the parameters besides temperatures: the engine's name}
SOFTENED = {
    (): "{}_kl",
    ("skew",): "skewed_{}_kl",
    ("beta",): "generalized_jsd",
    ("alpha",): "alpha_divergence",
}


@dataclass(frozen=True)
class Local:
    """``gradient(p, q)`` (N, V), and ``value(p, q)`` (N,) where the engine has one."""

    name: str
    value: Callable | None
    gradient: Callable


def local_objective(fitting, confirming, drawer, tolerance):
    """-> Local, by the search of token-level audits over all last prefixes at T = 3; or None."""
    expected = _last_position(fitting, confirming, drawer, tolerance)
    verdict = identify(expected) if expected else None
    if not verdict or not verdict.terms:
        return None
    if verdict.factor:
        return _with_a_factor(verdict)
    lead, over_vocabulary = verdict.terms[0][0], verdict.over_vocabulary
    terms = tuple((coefficient / lead, candidate) for coefficient, candidate in verdict.terms)

    values = [value_of(candidate) for _, candidate in terms]

    def value(p, q):
        return sum(c * of(p, q) for (c, _), of in zip(terms, values))

    def gradient(p, q):
        return sum_of(terms, Pairs(np.log(p), np.log(q)), over_vocabulary)

    known = all(values) and not over_vocabulary
    name = phrase(terms) + (", divided by V" if over_vocabulary else "")
    return Local(name, value if known else None, gradient)


def _with_a_factor(verdict):
    """One divergence times a power of a quantity of each position, such as H(q); or None."""
    factor, (_, candidate) = verdict.factor, verdict.terms[0]
    if factor.quantity is None:
        return None

    def gradient(p, q):
        pairs = Pairs(np.log(p), np.log(q))
        weights = quantities(pairs)[factor.quantity] ** factor.power
        return weights[:, None] * candidate.gradient(pairs)

    name = f"{power_text(1, factor.quantity, factor.power)} × {candidate.name}"
    return Local(name, None, gradient)


def value_of(candidate):
    """The candidate's value (p, q) -> (N,), of softened models too; None where there is none."""
    parameters = dict(candidate.parameters)
    both = parameters.pop("temperature", 1.0)
    student = parameters.pop("student_temperature", both)
    teacher = parameters.pop("teacher_temperature", both)
    objective = candidate.objective
    if student != 1 or teacher != 1:
        direction = candidate.name.split(" KL")[0]
        objective = SOFTENED.get(tuple(parameters), "").format(direction)
    of = getattr(objectives, objective or "", None)
    if of is None:
        return None
    return lambda p, q: of(_softened(p, student), _softened(q, teacher), **parameters)


def _softened(p, temperature):
    return p if temperature == 1 else softmax(np.log(p) / temperature)


def _last_position(fitting, confirming, drawer, tolerance):
    """-> Expected: a pair for each last prefix of the samples with T = 3; None without any."""
    samples = [(s, True) for s in fitting] + [(s, False) for s in confirming]
    widest = max(sample.student.vocabulary for sample, _ in samples)
    students, teachers, gradients, rounding, fit = [], [], [], [], []
    for sample, is_fitted in samples:
        if sample.length != 3 or not sample.size:
            continue
        tree = sample.student if drawer == "student" else sample.teacher
        visit = tree.prefix_probabilities()[-1]
        students.append(_padded(sample.student.log_probabilities[-1], widest, -np.inf))
        teachers.append(_padded(sample.teacher.log_probabilities[-1], widest, -np.inf))
        gradients.append(_padded(sample.blocks[-1] / visit[:, None], widest, 0.0))
        rounding.append(1e-3 * tolerance * sample.size / visit)
        fit.append(np.full(len(visit), is_fitted))
    if not students:
        return None
    rounding = np.concatenate(rounding)
    return Expected(
        Pairs(np.concatenate(students), np.concatenate(teachers)),
        np.concatenate(gradients),
        rounding,
        tier=np.zeros(len(rounding), int),
        fit=np.concatenate(fit),
        tolerance=tolerance,
    )


def _padded(rows, width, filler):
    return np.pad(rows, ((0, 0), (0, width - rows.shape[1])), constant_values=filler)
