"""Which candidate has these gradients?  Fitted on half of the pairs, confirmed on all.

The simplest explanation comes first: zero, one divergence, a sum of two or three,
a family with its parameter fitted, a family and one term besides; then the same
for the loss times V.  An explanation counts where on *every* pair its distance to
the measured gradient is at most ``tolerance`` of the gradient's length (and the
rounding of the measurement); otherwise the verdict is "none of these".
"""

import functools
import itertools
from dataclasses import dataclass, field

import numpy as np

from opd_toy import distributions, objectives
from opd_toy.audit import candidates
from opd_toy.audit.candidates import Candidate, Pairs, format_number

NONE = "none of these"


@dataclass(frozen=True)
class Measured:
    """Expected gradients (N, V) on N pairs.

    ``rounding`` (N,): how far from its true value each may lie; ``tier`` (N,):
    0 for pairs that are close, 1 ordinary, 2 and more far apart; ``fit`` (N,):
    True where parameters may be fitted, the others confirm.
    """

    pairs: Pairs
    gradients: np.ndarray
    rounding: np.ndarray
    tier: np.ndarray
    fit: np.ndarray
    tolerance: float

    def __getitem__(self, rows):
        return Measured(self.pairs[rows], self.gradients[rows], self.rounding[rows], self.tier[rows], self.fit[rows], self.tolerance)


@dataclass(frozen=True)
class Verdict:
    """``terms``: (coefficient, Candidate) pairs whose sum, divided by V where ``per_token``, is the gradient.

    ``holds`` (N,): on which of all pairs it does.
    """

    name: str
    terms: tuple = ()
    per_token: bool = False
    holds: np.ndarray = field(default=None, repr=False)

    def gradient(self, pairs):
        total = sum((coefficient * candidate.gradient(pairs) for coefficient, candidate in self.terms), np.zeros(pairs.p.shape))
        return total / pairs.sizes[:, None] if self.per_token else total


def identify(measured):
    """-> Verdict: on all pairs if any explanation holds there, else on the ordinary, else on the close ones."""
    for farthest in (measured.tier.max(), 1, 0):
        part = measured[measured.tier <= farthest]
        verdict = _explain(part)
        if verdict:
            return Verdict(verdict.name, verdict.terms, verdict.per_token, agrees(measured, verdict.gradient(measured.pairs)))
    return Verdict(NONE, holds=np.zeros(len(measured.tier), bool))


def agrees(measured, gradients):
    """On which pairs (N,) ``gradients`` are the measured ones."""
    return distances(measured, gradients) <= measured.tolerance * _lengths(measured.gradients) + measured.rounding


def distances(measured, gradients):
    return _lengths(measured.gradients - gradients)


def _explain(measured):
    if (_lengths(measured.gradients) <= measured.rounding).all():
        return Verdict("zero")
    by_vocabulary = Measured(
        measured.pairs, measured.gradients * measured.pairs.sizes[:, None], measured.rounding * measured.pairs.sizes,
        measured.tier, measured.fit, measured.tolerance,
    )  # fmt: skip
    half_precision = measured.tolerance > 1e-3  # so coarse that a fitted parameter would prove nothing
    searches = (_one_term, _two_terms) if half_precision else (_one_term, _two_terms, _three_terms, _family, _top_k, _family_and_term)
    for search in searches:
        for part, per_token in ((measured, False), (by_vocabulary, True)):
            terms = search(part)
            if terms:
                return Verdict(phrase(terms, per_token), terms, per_token)
    return None


def _one_term(measured):
    for term in candidates.TERMS:
        if found := _confirmed(measured, [term]):
            return found
    return None


def _two_terms(measured):
    for pair in itertools.combinations(candidates.TERMS, 2):
        if found := _confirmed(measured, list(pair)):
            return found
    return None


def _three_terms(measured):
    for triple in itertools.combinations(candidates.TERMS, 3):
        if found := _confirmed(measured, list(triple)):
            return found
    return None


def _family(measured):
    for family in candidates.FAMILIES:
        if found := _fitted(measured, family, []):
            return found
    return None


def _family_and_term(measured):
    for family in candidates.FAMILIES:
        for term in candidates.TERMS:
            if found := _fitted(measured, family, [term]):
                return found
    return None


def _top_k(measured):
    for candidate in candidates.top_k(int(measured.pairs.sizes.max()) - 1):
        if found := _confirmed(measured, [candidate]):
            return found
    return None


def _confirmed(measured, terms):
    """Coefficients from the fitting pairs; the terms with them if they then hold on all pairs, else None."""
    bases = [term.gradient(measured.pairs) for term in terms]
    coefficients, distance = _project(measured, bases)
    if distance > 10 * measured.tolerance + 1e-6 or not _holds(measured, bases, coefficients):
        return None
    coefficients = _short(coefficients, lambda tried: _holds(measured, bases, tried))
    return tuple((coefficient, term) for coefficient, term in zip(coefficients, terms))


def _fitted(measured, family, terms):
    """The same with the family's parameter fitted by variable projection (Gauss-Newton on what the scale leaves over)."""
    others = [term.gradient(measured.pairs) for term in terms]
    distance = [_project(measured, [base, *others])[1] for base in _grid(family, measured.pairs)]
    best = int(np.argmin(distance))
    if not distance[best] < 0.2:
        return None
    value = _polish(measured, family, family.grid[best], others)
    if value is None:
        return None
    for tried in [*_decimals(value), value]:
        if family.bounds[0] < tried < family.bounds[1]:
            found = _confirmed(measured, [family.member(tried), *terms])
            if found:
                return found
    return None


def _polish(measured, family, value, others):
    low, high = family.bounds
    if np.isfinite([low, high]).all():
        inside, outside = (lambda u: low + (high - low) / (1 + np.exp(-u))), (lambda x: np.log((x - low) / (high - x)))
    elif np.isfinite(low):
        inside, outside = (lambda u: low + np.exp(u)), (lambda x: np.log(x - low))
    else:
        inside = outside = lambda u: u
    fit = measured[measured.fit]
    rows = np.flatnonzero(measured.fit)
    others = [other[rows] for other in others]

    def base(u):
        return family.member(inside(u)).gradient(fit.pairs)

    u = outside(value)
    here = _project(fit, [base(u), *others])
    for _ in range(40):
        step = 1e-5
        slope = here[0][0] * (base(u + step) - base(u - step)) / (2 * step)
        weights = _weights(fit)
        columns = np.stack([(weights * b).ravel() for b in [base(u), *others, slope]], axis=1)
        if not np.isfinite(columns).all():
            return None
        change = np.linalg.lstsq(columns, (weights * fit.gradients).ravel(), rcond=None)[0][-1]
        change = float(np.clip(change, -1, 1))
        for _ in range(6):
            there = _project(fit, [base(u + change), *others])
            if there[1] <= here[1]:
                break
            change /= 4
        else:
            break
        u, here = u + change, there
        if abs(change) < 1e-14 * max(1, abs(u)):
            break
    return float(inside(u))


def _project(measured, bases):
    """Least-squares coefficients on the fitting pairs, each weighed by its length, and the root mean square left over."""
    weights = _weights(measured) * measured.fit[:, None]
    columns = np.stack([(weights * base).ravel() for base in bases], axis=1)
    target = (weights * measured.gradients).ravel()
    if not np.isfinite(columns).all():
        return np.zeros(len(bases)), np.inf
    size = np.sqrt((columns**2).sum(axis=0))
    if (size == 0).any():
        return np.zeros(len(bases)), np.inf
    coefficients = np.linalg.lstsq(columns / size, target, rcond=None)[0]
    left = target - columns / size @ coefficients
    return coefficients / size, float(np.sqrt((left**2).sum() / measured.fit.sum()))


def _weights(measured):
    lengths = _lengths(measured.gradients)
    return 1 / np.maximum(lengths, 1e-6 * lengths.max())[:, None]


def _holds(measured, bases, coefficients):
    return bool(agrees(measured, sum(c * b for c, b in zip(coefficients, bases))).all())


def _short(coefficients, holds):
    """The shortest decimals that still hold."""
    for digits in range(1, 7):
        rounded = [float(f"{value:.{digits}g}") for value in coefficients]
        if all(rounded) and holds(rounded):
            return rounded
    return [float(value) for value in coefficients]


def _decimals(value):
    return [float(f"{value:.{digits}g}") for digits in range(1, 7)]


def _lengths(vectors):
    return np.sqrt((vectors**2).sum(axis=-1))


@functools.lru_cache(maxsize=256)
def _cached_grid(family, student, teacher, shape):
    pairs = Pairs(*(np.frombuffer(data).reshape(shape) for data in (student, teacher)))
    return [family.member(value).gradient(pairs) for value in family.grid]


def _grid(family, pairs):
    """The family's gradients at its starting values; the pairs of one seed come again and again."""
    return _cached_grid(family, pairs.student_logits.tobytes(), pairs.teacher_logits.tobytes(), pairs.student_logits.shape)


def phrase(terms, per_token=False):
    """"2 × reverse KL", "reverse KL − forward KL", "1/V × JSD(β = 0.5)"."""
    terms = sorted(terms, key=lambda term: term[0] < 0)  # a positive one first
    if len(terms) == 1:
        (coefficient, candidate), = terms
        if per_token:
            return f"{_coefficient(coefficient)}/V × {candidate.name}"
        return candidate.name if coefficient == 1 else f"{_coefficient(coefficient)} × {candidate.name}"
    text = ""
    for coefficient, candidate in terms:
        sign = (" − " if coefficient < 0 else " + ") if text else ("−" if coefficient < 0 else "")
        size = _coefficient(abs(coefficient))
        text += sign + (candidate.name if abs(coefficient) == 1 else f"{size} × {candidate.name}")
    return f"1/V × ({text})" if per_token else text


def _coefficient(value):
    """Six figures, and as many more as it takes to tell it from 1."""
    for digits in range(6, 17):
        text = format_number(value, digits)
        if float(text) not in (1.0, -1.0) or abs(value) == 1:
            break
    return text.replace("-", "−", 1) if text.startswith("-") else text
