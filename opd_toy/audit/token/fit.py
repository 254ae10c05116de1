"""Coefficients and parameters: found on the pairs for fitting, kept if they hold on all pairs."""

import functools
import itertools

import numpy as np

from opd_toy.audit.token.expected import lengths
from opd_toy.audit.token.names import coefficient_text
from opd_toy.audit.token.pairs import ORDINARY, Pairs

# Root mean square left over at the best of a grid, above which no fit is tried: by the number
# of parameters, for two make a coarser grid; and beside terms.
NEAR = {1: 0.2, 2: 0.25}
NEAR_WITH_TERMS = 0.05


def confirmed(expected, terms):
    """((coefficient, Candidate), ...) of these candidates if the sum holds on all pairs.

    Coefficients come from the pairs for fitting.  None if it does not hold, or if one of
    the terms is too small to be told from nothing.
    """
    bases = [term.gradient(expected.pairs) for term in terms]
    coefficients, distance = _project(expected, bases)
    if distance > _most_left_over(expected):
        return None  # the root mean square alone rules most of them out
    if not _holds(expected, bases, coefficients):
        return None
    if any(_is_nothing(expected, c, b) for c, b in zip(coefficients, bases)):
        return None
    coefficients = shortest(coefficients, lambda tried: _holds(expected, bases, tried))
    if expected.large:
        bases = [term.gradient(expected.large.pairs) for term in terms]
        if not _holds(expected.large, bases, coefficients):
            return None
    return tuple(zip(coefficients, terms))


def _is_nothing(expected, coefficient, base):
    """Whether a term cannot be told from 0 on ordinary pairs; far apart, anything grows large."""
    rows = expected.tier <= ORDINARY
    smallest = 10 * expected.tolerance * lengths(expected.gradients) + expected.rounding
    return bool((abs(coefficient) * lengths(base) <= smallest)[rows].all())


def sums(expected, candidates, count):
    """The sums of ``count`` of these candidates that hold: what ``confirmed`` gives, one by one."""
    bases = np.array([term.gradient(expected.pairs) for term in candidates])
    weights = _weights(expected) * expected.fit[:, None]
    columns = (weights * bases).reshape(len(bases), -1)
    usable = np.isfinite(columns).all(axis=1) & (np.abs(columns).max(axis=1) > 0)
    chosen = list(itertools.combinations(np.flatnonzero(usable), count))
    if not chosen:
        return
    target = (weights * expected.gradients).ravel()
    groups = columns[np.array(chosen)]
    left = np.sqrt(_left_of_target(groups, target) / expected.fit.sum())
    for group in np.flatnonzero(left < 2 * _most_left_over(expected)):
        if found := confirmed(expected, [candidates[index] for index in chosen[group]]):
            yield found


def fitted(expected, family, terms=()):
    """The same for a member of a family, its parameters fitted too, beside ``terms``."""
    others = [term.gradient(expected.pairs) for term in terms]
    distance = _left_over(expected, _grid(family, expected.pairs), others)
    best = int(np.argmin(distance))
    if not distance[best] < (NEAR_WITH_TERMS if terms else NEAR[len(family.bounds)]):
        return None
    values = _polish(expected, family, family.grid[best], others)
    if values is None:
        return None
    rounded = zip(*map(_decimals, values))
    for tried in [*rounded, values]:
        inside = all(low < x < high for x, (low, high) in zip(tried, family.bounds))
        if inside and (found := confirmed(expected, [*family.members(*tried), *terms])):
            return found
    return None


def simplest(found):
    """Near its ends a family may pass for another, with an odd scale: the simplest scale wins."""

    def length(terms):
        coefficient = terms[0][0]
        return 0 if coefficient == 1 else len(coefficient_text(coefficient))

    return min(filter(None, found), key=length, default=None)


def nearly(expected, candidates, close=1e-4):
    """Whether their best sum leaves hardly anything over where the two are not far apart."""
    ordinary = expected[expected.tier <= ORDINARY]
    bases = [term.gradient(ordinary.pairs) for term in candidates]
    return _project(ordinary, bases)[1] < close


def shortest(coefficients, holds):
    """The shortest decimals that still hold."""
    for rounded in zip(*map(_decimals, coefficients)):
        if holds(rounded):
            return list(rounded)
    return [float(value) for value in coefficients]


def _decimals(value):
    return [float(f"{value:.{digits}g}") for digits in range(1, 7)]


def _holds(expected, bases, coefficients):
    return bool(expected.agrees(sum(c * b for c, b in zip(coefficients, bases))).all())


def _most_left_over(expected):
    return max(1e-3, 3 * expected.tolerance)


def _weights(expected):
    """One over the lengths (N, 1), so that pairs count alike but where rounding is most of them."""
    size = lengths(expected.gradients)
    least = np.maximum(1e-6 * size.max() or 1.0, 300 * expected.rounding)
    return 1 / np.maximum(size, least)[:, None]


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
    """What ``_project`` leaves over for each of ``bases`` (G, C, N, V) beside at most one other.

    Without a least-squares solution for each of them, for speed; far apart, a parameter near
    the right one says little, so only of the closer pairs.
    """
    fit = expected.fit & (expected.tier <= ORDINARY)
    weights = (_weights(expected) * fit[:, None])[fit]
    columns = (weights * bases[:, :, fit]).reshape(*bases.shape[:2], -1)
    target = (weights * expected.gradients[fit]).ravel()
    for other in others:
        other = (weights * other[fit]).ravel()
        other = other / max(np.linalg.norm(other), 1e-300)
        columns = columns - (columns @ other)[..., None] * other
        target = target - (target @ other) * other
    return np.sqrt(_left_of_target(columns, target) / fit.sum())


def _left_of_target(groups, target):
    """Squared length left of a target (M,) after projection on each group of columns (G, C, M)."""
    size = np.maximum(np.sqrt((groups**2).sum(axis=-1, keepdims=True)), 1e-300)
    groups = groups / size
    along = groups @ target
    if groups.shape[1] == 1:
        covered = along[:, 0] ** 2
    else:
        products = groups @ groups.swapaxes(1, 2) + 1e-14 * np.eye(groups.shape[1])
        covered = (along * np.linalg.solve(products, along[..., None])[..., 0]).sum(axis=-1)
    left = target @ target - covered
    return np.where(np.isfinite(left), np.maximum(left, 0.0), np.inf)


def _polish(expected, family, values, others):
    """The parameters by variable projection: Gauss-Newton on what the coefficients leave over."""
    ways = [_unbounded(*bounds) for bounds in family.bounds]
    # Far apart, the dependence on the parameters is too wild to follow.
    rows = np.flatnonzero(expected.fit & (expected.tier <= ORDINARY))
    fit, others = expected[rows], [other[rows] for other in others]

    def values_at(u):
        return [inside(x) for (inside, _), x in zip(ways, u)]

    def bases(u):
        return [member.gradient(fit.pairs) for member in family.members(*values_at(u))]

    u = np.array([outside(value) for (_, outside), value in zip(ways, values)])
    here = _project(fit, [*bases(u), *others])
    for _ in range(25):
        change = _gauss_newton_step(fit, bases, u, here[0], others)
        if change is None:
            return None
        for _ in range(6):
            there = _project(fit, [*bases(u + change), *others])
            if there[1] <= here[1]:
                break
            change /= 4
        else:
            break
        stalled = there[1] > max(0.8 * here[1], 1e-6)
        u, here = u + change, there
        if stalled or (np.abs(change) < 1e-14 * np.maximum(1, np.abs(u))).all():
            break
    return [float(value) for value in values_at(u)]


def _gauss_newton_step(fit, bases, u, coefficients, others, step=1e-5):
    """At most 1 either way in each parameter; None where it is not finite."""
    slopes = []
    for shift in step * np.eye(len(u)):
        both = zip(coefficients, bases(u + shift), bases(u - shift))
        slopes.append(sum(c * (above - below) for c, above, below in both) / (2 * step))
    weights = _weights(fit)
    columns = np.stack([(weights * b).ravel() for b in [*bases(u), *others, *slopes]], axis=1)
    if not np.isfinite(columns).all():
        return None
    target = (weights * fit.gradients).ravel()
    solution = np.linalg.lstsq(columns, target, rcond=None)[0]
    return np.clip(solution[-len(u) :], -1, 1)


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


@functools.lru_cache(maxsize=512)
def _cached_grid(family, student, teacher, shape):
    pairs = Pairs(*(np.frombuffer(data).reshape(shape) for data in (student, teacher)))
    return np.array(
        [[member.gradient(pairs) for member in family.members(*values)] for values in family.grid]
    )


def _grid(family, pairs):
    """The family's gradients at its starting values; the pairs of one seed come again and again."""
    student, teacher = pairs.student_logits, pairs.teacher_logits
    return _cached_grid(family, student.tobytes(), teacher.tobytes(), student.shape)
