"""Which candidate has these gradients?  Fitted on half of the pairs, confirmed on all.

The simplest explanation comes first: zero, one divergence, a sum of two or three,
a family with its parameter fitted, the top-K forms, a family and one term besides;
each for the loss itself and for the loss times V.  An explanation counts where on
*every* pair its distance to the measured gradient is at most ``tolerance`` of the
gradient's length (and the rounding of the measurement); otherwise the verdict is
"none of these".
"""

import itertools
from dataclasses import dataclass, field, replace

import numpy as np

from opd_toy import distributions, objectives
from opd_toy.audit.formats import COARSE
from opd_toy.audit.token import candidates, names
from opd_toy.audit.token.expected import lengths
from opd_toy.audit.token.fit import confirmed, fitted

LEGIBLE = 0.15  # rounding above this share of a gradient would let anything pass for anything


@dataclass(frozen=True)
class Factor:
    """What stands in front of the terms and depends on the pair: number × quantity ** power.

    ``quantity`` is None where it is no such power.
    """

    number: float
    quantity: str | None = None
    power: float = 1.0


@dataclass(frozen=True)
class Verdict:
    """``terms``: (coefficient, Candidate) whose sum, over V where ``per_token``, is the gradient.

    ``factor``: what it is multiplied by besides, or None.  ``holds`` (N,): on which of
    all pairs it is.  No terms: the gradient is 0 where ``zero``, else not known.
    """

    terms: tuple = ()
    per_token: bool = False
    factor: Factor | None = None
    zero: bool = False
    holds: np.ndarray = field(default=None, repr=False)

    @property
    def known(self):
        return bool(self.terms)

    @property
    def name(self):
        if self.zero:
            return names.ZERO
        if not self.terms:
            return names.NONE
        if not self.factor:
            return names.phrase(self.terms, self.per_token)
        if self.factor.quantity is None:
            return names.phrase(self.terms) + names.FACTOR
        text = names.power_text(self.factor.number, self.factor.quantity, self.factor.power)
        return f"{text} × {self.terms[0][1].name}"

    def gradient(self, pairs):
        return sum_of(self.terms, pairs, self.per_token)


def sum_of(terms, pairs, per_token=False):
    """The gradients (N, V) that (coefficient, Candidate) sum to."""
    total = sum((c * term.gradient(pairs) for c, term in terms), np.zeros(pairs.p.shape))
    return total / pairs.sizes[:, None] if per_token else total


def identify(expected):
    """-> Verdict: on all pairs if an explanation holds there, else on ordinary, else close ones."""
    highest = int(expected.tier.max())
    for tier in (highest, 1, 0):
        part = expected.up_to(tier)
        if not np.isfinite(part.gradients).all():
            continue
        if verdict := _explain(part, thorough=tier == highest):
            return replace(verdict, holds=_where(expected, verdict))
    everywhere = np.ones(len(expected.tier), bool)
    if all(np.abs(part.gradients).max() < 1e-14 for part in expected.parts):
        return Verdict(zero=True, holds=everywhere)  # nothing but the rounding of zeros
    return Verdict(holds=~everywhere)


def _where(expected, verdict):
    if verdict.factor:
        return _along(expected, verdict.terms[0][1])[1]
    return expected.agrees(verdict.gradient(expected.pairs))


def _explain(expected, thorough):
    """-> Verdict or None; ``thorough``: the slowest searches too."""
    if all((lengths(part.gradients) <= part.zero).all() for part in expected.parts):
        return Verdict(zero=True)
    size = lengths(expected.gradients)
    drowned = (expected.rounding > LEGIBLE * size) & (size > 0) & (expected.tier <= 1)
    if drowned.any():
        return None
    searches = [_one_term]
    if expected.tolerance <= COARSE:  # above, a fitted parameter would prove nothing
        searches += [_two_terms, _three_terms, _family, _top_k]
        searches += [_family_and_term] if thorough else []
    for search in searches:
        for part, per_token in ((expected, False), (expected.times_vocabulary(), True)):
            if terms := _plainer(search(part)):
                return Verdict(terms, per_token)
    return _factor(expected) if thorough else None


def _plainer(terms):
    """a RKL + c entropy is (a - c) times the reverse KL to a tempered teacher.

    Said so where that needs no factor.
    """
    if terms and [term.name for _, term in terms] == ["reverse KL", "entropy"]:
        (reverse, _), (entropy, _) = terms
        if abs(reverse - entropy - 1) < 1e-9:
            temperature = float(f"{1 / reverse:.12g}")
            return ((1.0, candidates.reverse_kl_to_tempered_teacher(temperature)),)
    return terms


def _factor(expected):
    """One divergence times a number that differs from pair to pair."""
    for candidate in candidates.TERMS[:2]:
        factors, along = _along(expected, candidate)
        if expected.large and not _along(expected.large, candidate)[1].all():
            continue
        one_sign = (factors.max() > 0) != (factors.min() < 0)
        if not (along.all() and one_sign):
            continue
        sign = -1.0 if factors.min() < 0 else 1.0
        known = _power_law(expected, factors) if (factors != 0).all() else None
        return Verdict(((sign, candidate),), factor=known or Factor(sign))
    return None


def _along(expected, candidate):
    """(factors (N,), on which pairs the gradient is that multiple of the candidate's)."""
    base = candidate.gradient(expected.pairs)
    factors = (expected.gradients * base).sum(axis=-1) / (base**2).sum(axis=-1)
    return factors, expected.agrees(factors[:, None] * base)


def _power_law(expected, factors):
    """-> Factor where the factors are a number times a power of a known quantity, else None."""
    fit, tolerance = expected.fit, 10 * expected.tolerance
    for name, values in _quantities(expected.pairs).items():
        columns = np.stack([np.ones(len(values)), np.log(values)], axis=1)
        target = np.log(np.abs(factors[fit]))
        intercept, power = np.linalg.lstsq(columns[fit], target, rcond=None)[0]
        power = float(f"{power:.6g}")
        number = np.sign(factors[0]) * np.exp(intercept)
        if power and np.allclose(factors, number * values**power, rtol=tolerance, atol=0):
            number = 1.0 if abs(number - 1) <= tolerance else float(f"{number:.6g}")
            return Factor(number, name, power)
    return None


def _quantities(pairs):
    p, q = pairs.p, pairs.q
    ratio = np.where(p > 0, distributions.log_ratio(p, q), 0.0)
    reverse = objectives.reverse_kl(p, q)
    return {
        "V": pairs.sizes.astype(float),
        "KL(p‖q)": reverse,
        "KL(q‖p)": objectives.forward_kl(p, q),
        "H(q)": distributions.entropy(q),
        "H(p)": distributions.entropy(p),
        "std(log p/q)": np.sqrt((p * (ratio - reverse[:, None]) ** 2).sum(axis=-1)),
    }


def _first(found):
    return next((terms for terms in found if terms), None)


def _one_term(expected):
    return _first(confirmed(expected, [term]) for term in candidates.TERMS)


def _two_terms(expected):
    pairs = itertools.combinations(candidates.TERMS, 2)
    return _first(confirmed(expected, pair) for pair in pairs)


def _three_terms(expected):
    triples = itertools.combinations(candidates.TERMS, 3)
    return _first(confirmed(expected, triple) for triple in triples)


def _family(expected):
    """Near its ends a family may pass for another, with an odd scale: the simplest scale wins."""
    found = [terms for family in candidates.FAMILIES if (terms := fitted(expected, family, []))]

    def length(terms):
        coefficient = terms[0][0]
        return 0 if coefficient == 1 else len(names.coefficient_text(coefficient))

    return min(found, key=length, default=None)


def _family_and_term(expected):
    both = itertools.product(candidates.FAMILIES, candidates.TERMS)
    return _first(fitted(expected, family, [term]) for family, term in both)


def _top_k(expected):
    sizes = np.concatenate([part.pairs.sizes for part in expected.parts])
    for k in _heads(expected):
        if (sizes > k).sum() < 2:
            continue  # one pair cannot suggest K and confirm it: a nucleus has a K for every pair
        alone = (confirmed(expected, [candidate]) for candidate in candidates.top_k(k))
        families = (fitted(expected, family, []) for family in candidates.top_k_families(k))
        if found := _first(itertools.chain(alone, families)):
            return found
    return None


def _heads(expected):
    """The K a loss on K tokens must have: outside, the gradient is in one proportion to p."""
    found = set()
    for part in expected.parts:
        sizes = part.pairs.sizes
        row = int(np.argmax(np.where(part.tier == min(1, part.tier.max()), sizes, 0)))
        size = int(sizes[row])
        shares = np.sort(part.gradients[row, :size] / part.pairs.p[row, :size])
        width = max(1e-6, 10 * part.tolerance) * np.abs(shares).max()
        alike = np.searchsorted(shares, shares + width, side="right") - np.arange(size)
        if alike.max() > 1:
            found.add(size - int(alike.max()))
    return sorted(k for k in found if k)
