"""Which divergence explains the last position of a sequence, which has no future?"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from opd_toy import objectives
from opd_toy.audit.token.expected import Expected
from opd_toy.audit.token.names import phrase
from opd_toy.audit.token.pairs import Pairs
from opd_toy.audit.token.verdict import identify, sum_of


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
    if not verdict or not verdict.terms or verdict.factor:
        return None
    lead, per_token = verdict.terms[0][0], verdict.per_token
    terms = tuple((coefficient / lead, candidate) for coefficient, candidate in verdict.terms)

    def value(p, q):
        return sum(
            c * getattr(objectives, candidate.objective)(p, q, **dict(candidate.parameters))
            for c, candidate in terms
        )

    def gradient(p, q):
        return sum_of(terms, Pairs(np.log(p), np.log(q)), per_token)

    known = all(candidate.objective for _, candidate in terms) and not per_token
    name = phrase(terms) + (", divided by V" if per_token else "")
    return Local(name, value if known else None, gradient)


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
