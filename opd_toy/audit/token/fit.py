"""Coefficients and parameters: found on the pairs for fitting, kept if they hold on all pairs."""

import functools

import numpy as np

from opd_toy.audit.token.expected import lengths
from opd_toy.audit.token.pairs import ORDINARY, Pairs


def confirmed(expected, terms):
    """((coefficient, Candidate), ...) of these candidates if the sum holds on all pairs.

    Coefficients come from the pairs for fitting.  None if it does not hold, or if one of
    the terms is too small to be told from nothing.
    """
    bases = [term.gradient(expected.pairs) for term in terms]
    coefficients, distance = _project(expected, bases)
    if distance > max(1e-3, 3 * expected.tolerance):
        return None  # the root mean square alone rules most of them out
    if not _holds(expected, bases, coefficients):
        return None
    smallest = 10 * expected.tolerance * lengths(expected.gradients)
    if any((abs(c) * lengths(b) <= smallest).all() for c, b in zip(coefficients, bases)):
        return None
    coefficients = shortest(coefficients, lambda tried: _holds(expected, bases, tried))
    if expected.large:
        bases = [term.gradient(expected.large.pairs) for term in terms]
        if not _holds(expected.large, bases, coefficients):
            return None
    return tuple(zip(coefficients, terms))


def fitted(expected, family, terms):
    """The same for a member of a family, its parameter fitted too, beside ``terms``."""
    others = [term.gradient(expected.pairs) for term in terms]
    distance = _left_over(expected, _grid(family, expected.pairs), others)
    best = int(np.argmin(distance))
    if not distance[best] < (0.05 if terms else 0.2):
        return None
    value = _polish(expected, family, family.grid[best], others)
    if value is None:
        return None
    low, high = family.bounds
    for tried in [*_decimals(value), value]:
        if low < tried < high and (found := confirmed(expected, [family.member(tried), *terms])):
            return found
    return None


def shortest(coefficients, holds):
    """The shortest decimals that still hold."""
    for rounded in zip(*map(_decimals, coefficients)):
        if all(rounded) and holds(rounded):
            return list(rounded)
    return [float(value) for value in coefficients]


def _decimals(value):
    return [float(f"{value:.{digits}g}") for digits in range(1, 7)]


def _holds(expected, bases, coefficients):
    return bool(expected.agrees(sum(c * b for c, b in zip(coefficients, bases))).all())


def _weights(expected):
    """One over the gradients' lengths (N, 1), so that every pair counts the same."""
    size = lengths(expected.gradients)
    return 1 / np.maximum(size, 1e-6 * size.max() or 1.0)[:, None]


def _project(expected, bases):
    """Least-squares coefficients on the pairs for fitting, and the root mean square left over."""
    weights = _weights(expected) * expected.fit[:, None]
    columns = np.stack([(weights * base).ravel() for base in bases], axis=1)
    target = (weights * expected.gradients).ravel()
    if not np.isfinite(columns).all():
        return np.zeros(len(bases)), np.inf
    size = np.sqrt((columns**2).sum(axis=0))
    if (size == 0).any():
        return np.zeros(len(bases)), np.inf
    coefficients = np.linalg.lstsq(columns / size, target, rcond=None)[0]
    left = target - columns / size @ coefficients
    return coefficients / size, float(np.sqrt((left**2).sum() / expected.fit.sum()))


def _left_over(expected, bases, others):
    """What ``_project`` leaves over for each of ``bases`` (G, N, V) beside at most one other.

    Without a least-squares solution for each of them, for speed.
    """
    fit = expected.fit
    weights = (_weights(expected) * fit[:, None])[fit]
    columns = (weights * bases[:, fit]).reshape(len(bases), -1)
    target = (weights * expected.gradients[fit]).ravel()
    for other in others:
        other = (weights * other[fit]).ravel()
        other = other / max(np.linalg.norm(other), 1e-300)
        columns = columns - (columns @ other)[:, None] * other
        target = target - (target @ other) * other
    size = np.maximum(np.sqrt((columns**2).sum(axis=1)), 1e-300)
    left = target @ target - (columns @ target / size) ** 2
    return np.sqrt(np.maximum(left, 0.0) / fit.sum())


def _polish(expected, family, value, others):
    """The parameter by variable projection: Gauss-Newton on what the coefficients leave over."""
    inside, outside = _unbounded(*family.bounds)
    # Far apart, the dependence on the parameter is too wild to follow.
    rows = np.flatnonzero(expected.fit & (expected.tier <= ORDINARY))
    fit, others = expected[rows], [other[rows] for other in others]

    def base(u):
        return family.member(inside(u)).gradient(fit.pairs)

    u = outside(value)
    here = _project(fit, [base(u), *others])
    for _ in range(25):
        change = _gauss_newton_step(fit, base, u, here[0][0], others)
        if change is None:
            return None
        for _ in range(6):
            there = _project(fit, [base(u + change), *others])
            if there[1] <= here[1]:
                break
            change /= 4
        else:
            break
        stalled = there[1] > max(0.8 * here[1], 1e-6)
        u, here = u + change, there
        if stalled or abs(change) < 1e-14 * max(1, abs(u)):
            break
    return float(inside(u))


def _gauss_newton_step(fit, base, u, coefficient, others, step=1e-5):
    """At most 1 either way; None where it is not finite."""
    slope = coefficient * (base(u + step) - base(u - step)) / (2 * step)
    weights = _weights(fit)
    columns = np.stack([(weights * b).ravel() for b in [base(u), *others, slope]], axis=1)
    if not np.isfinite(columns).all():
        return None
    target = (weights * fit.gradients).ravel()
    return float(np.clip(np.linalg.lstsq(columns, target, rcond=None)[0][-1], -1, 1))


def _unbounded(low, high):
    """(function from all numbers to those between the bounds, its inverse)."""
    if np.isfinite([low, high]).all():
        return (
            lambda u: low + (high - low) / (1 + np.exp(-u)),
            lambda x: np.log((x - low) / (high - x)),
        )
    if np.isfinite(low):
        return (lambda u: low + np.exp(u)), (lambda x: np.log(x - low))
    return (lambda u: u), (lambda x: x)


@functools.lru_cache(maxsize=256)
def _cached_grid(family, student, teacher, shape):
    pairs = Pairs(*(np.frombuffer(data).reshape(shape) for data in (student, teacher)))
    return np.array([family.member(value).gradient(pairs) for value in family.grid])


def _grid(family, pairs):
    """The family's gradients at its starting values; the pairs of one seed come again and again."""
    student, teacher = pairs.student_logits, pairs.teacher_logits
    return _cached_grid(family, student.tobytes(), teacher.tobytes(), student.shape)
