"""Which candidate has these gradients?  Fitted on half of the pairs, confirmed on all.

The simplest explanation comes first: zero, one divergence, a sum of two or three,
a family with its parameter fitted, the top-K forms, the same at a temperature, a family and
one term besides; then any function of the log-ratio, and weights that depend on the pair.
An explanation counts where on *every* pair its distance to the measured gradient is at most
``tolerance`` of the gradient's length (and the rounding of the measurement); otherwise the
verdict is "none of these".
"""

import functools
import itertools
from dataclasses import dataclass, field, replace

import numpy as np

from opd_toy.audit.formats import COARSE
from opd_toy.audit.token import (
    candidates,
    geometric,
    head_search,
    mixtures,
    names,
    ratios,
    temperatures,
    weights,
)
from opd_toy.audit.token.expected import lengths
from opd_toy.audit.token.fit import confirmed, fitted, nearly, simplest, sums
from opd_toy.audit.token.mixtures import Factor, Mixture
from opd_toy.audit.token.pairs import CLOSE

LEGIBLE = 0.15  # rounding above this share of a gradient would let anything pass for anything
NOTHING = 1e-14  # the rounding of zeros


@dataclass(frozen=True)
class Verdict:
    """``terms``: (coefficient, Candidate) whose sum is the gradient.

    ``over_vocabulary``: whether it is divided by V.  ``factor``: what it is multiplied by
    besides, or None.  ``mixture``: two terms whose weights differ from pair to pair.
    ``curve``: the weight of the log-ratio, where it is a function of that alone.
    ``holds`` (N,): on which of all pairs it is.  Neither terms nor a mixture with a name:
    the gradient is 0 where ``zero``, else not known.
    """

    terms: tuple = ()
    over_vocabulary: bool = False
    factor: Factor | None = None
    zero: bool = False
    holds: np.ndarray = field(default=None, repr=False)
    mixture: Mixture | None = None
    curve: ratios.Curve | None = field(default=None, repr=False)

    @property
    def known(self):
        return bool(self.terms) or bool(self.mixture and self.mixture.name)

    @property
    def is_vague(self):
        """Whether the name leaves open what the weight, or the factor, is."""
        unknown = self.factor and not self.factor.quantity and not self.factor.law
        return bool(unknown) or any(term.name == weights.ANY for _, term in self.terms)

    @property
    def name(self):
        if self.zero:
            return names.ZERO
        if not self.terms:
            return (self.mixture and self.mixture.name) or names.NONE
        if not self.factor:
            return names.phrase(self.terms, self.over_vocabulary)
        if self.factor.quantity is None:
            return names.phrase(self.terms) + names.FACTOR
        text = names.power_text(self.factor.number, self.factor.quantity, self.factor.power)
        return f"{text} × {self.terms[0][1].name}"

    def gradient(self, pairs):
        return sum_of(self.terms, pairs, self.over_vocabulary)


def sum_of(terms, pairs, over_vocabulary=False):
    """The gradients (N, V) that (coefficient, Candidate) sum to."""
    total = sum((c * term.gradient(pairs) for c, term in terms), np.zeros(pairs.p.shape))
    return total / pairs.sizes[:, None] if over_vocabulary else total


@np.errstate(all="ignore")  # on pairs far apart, wrong candidates may be infinite
def identify(expected):
    """-> Verdict: on all pairs if an explanation holds there, else on ordinary, else close ones."""
    highest = int(expected.tier.max())
    coarse = expected.tolerance > COARSE  # there close models are alike, whatever the loss
    for tier in (highest, 1) if coarse else (highest, 1, CLOSE):
        part = expected.near if tier == CLOSE and expected.near else expected.up_to(tier)
        if not np.isfinite(part.gradients).all():
            continue
        if verdict := _explain(part, thorough=tier == highest):
            if tier == CLOSE and (switched := _switched(expected)):
                return switched
            return replace(verdict, holds=holds_on(expected, verdict))
    everywhere = np.ones(len(expected.tier), bool)
    if all(np.abs(part.gradients).max() < NOTHING for part in expected.parts):
        return Verdict(zero=True, holds=everywhere)
    if coarse or not np.isfinite(expected.gradients).all() or _drowned(expected):
        return Verdict(holds=~everywhere)
    verdict = by_its_curve(expected) or _by_its_weights(expected)
    return verdict or Verdict(holds=~everywhere)


def _switched(expected):
    """A choice between two terms, by something else than how far apart the two models are."""
    verdict = _by_its_weights(expected)
    if verdict is None:
        return None
    known = [w[~np.isnan(w)] for w in verdict.mixture.weights]
    if all(np.isin(np.round(of_one, 6), (0, 1)).all() for of_one in known):
        return verdict
    return None


def holds_on(expected, verdict):
    """On which pairs (N,) of ``expected`` the verdict's gradient is the measured one."""
    if verdict.factor:
        return mixtures.along_candidate(expected, verdict.terms[0][1])[1]
    return expected.agrees(verdict.gradient(expected.pairs))


def _explain(expected, thorough):
    """-> Verdict or None; ``thorough``: the slowest searches too."""
    if all((lengths(part.gradients) <= part.zero).all() for part in expected.parts):
        return Verdict(zero=True)
    if _drowned(expected):
        return None
    if expected.tolerance > COARSE:  # a fitted parameter would prove nothing
        return _first_of((_one_term,), expected)
    alone = ratios.of_the_ratio_alone(expected)
    searches = [_one_term, _two_terms, _three_terms]
    if alone is not False:
        searches += [_divergence]
    if not alone:
        searches += [_tempered_kl, head_search.search]
    if verdict := _first_of(searches, expected):
        return verdict
    if not alone and (verdict := _at_a_temperature(expected)):
        return verdict
    if not thorough:
        return None
    if alone:
        slow = [_divergence_and_term, _both_skews, _geometric]
    else:
        slow = [_geometric, _family_and_term, _both_skews, _at_two_parameters]
    slow = [_terms_over_the_vocabulary, *slow]
    if alone is False and nearly(expected, candidates.KLS):
        slow = slow[:1]  # no other could be nearer
    return _first_of(slow, expected) or _factor(expected)


def _drowned(expected):
    size = lengths(expected.gradients)
    return ((expected.rounding > LEGIBLE * size) & (size > 0) & (expected.tier <= 1)).any()


def _first_of(searches, expected):
    """-> Verdict of the first search that finds terms, for the loss itself or for it times V."""
    parts = ((expected, False), (expected.times_vocabulary(), True))
    for search, (part, over_vocabulary) in itertools.product(searches, parts):
        if terms := _plainer(search(part)):
            return Verdict(terms, over_vocabulary)
    return None


def _plainer(terms):
    """a RKL + c entropy is (a - c) times the reverse KL to a tempered teacher.

    Said so where that needs no factor.
    """
    if terms and [term.name for _, term in terms] == ["reverse KL", "entropy"]:
        (reverse, _), (entropy, _) = terms
        if abs(reverse - entropy - 1) < 1e-9:
            temperature = float(f"{1 / reverse:.12g}")
            return ((1.0, temperatures.reverse_kl_to_tempered_teacher(temperature)),)
    return terms


def _first(found):
    return next((terms for terms in found if terms), None)


def _one_term(expected):
    return _first(confirmed(expected, [term]) for term in candidates.TERMS)


def _two_terms(expected):
    return _first(sums(expected, candidates.TERMS, 2))


def _three_terms(expected):
    return _first(sums(expected, candidates.TERMS, 3))


def _divergence(expected):
    """One function of the log-ratio that has a name."""
    families = candidates.DIVERGENCES
    named = [confirmed(expected, [candidate]) for candidate in weights.NAMED]
    found = [fitted(expected, family) for family in families]
    if terms := simplest(found + named):
        return terms
    return weights.simpler(_first(fitted(expected, family) for family in weights.FAMILIES))


def _tempered_kl(expected):
    families = temperatures.KLS_AT_ONE_TEMPERATURE
    return simplest([fitted(expected, family) for family in families])


def _at_a_temperature(expected):
    """All of these for both models softened, at the temperature that the gradients tell."""
    found = ratios.at_temperature_one(expected)
    if found is None:
        return None
    softened, temperature = found
    on_head = functools.partial(head_search.search, softened=True)
    searches = [_one_term, _two_terms, _divergence, on_head, _both_skews]
    verdict = _first_of(searches, softened)
    if not verdict:
        return None
    terms = tuple(
        (coefficient, temperatures.at_temperature(candidate, temperature, temperature))
        for coefficient, candidate in verdict.terms
    )
    part = expected.times_vocabulary() if verdict.over_vocabulary else expected
    terms = confirmed(part, [candidate for _, candidate in terms])
    return terms and replace(verdict, terms=terms)


def _divergence_and_term(expected):
    both = itertools.product((*candidates.DIVERGENCES, *weights.FAMILIES), candidates.KLS)
    named = itertools.product(weights.NAMED, candidates.KLS)
    return _first(confirmed(expected, both) for both in named) or _first(
        fitted(expected, family, [term]) for family, term in both
    )


def _family_and_term(expected):
    families = (*candidates.DIVERGENCES, *temperatures.KLS_AT_ONE_TEMPERATURE)
    both = (
        *itertools.product(families, candidates.TERMS),
        *itertools.product(temperatures.DIVERGENCES_AT_TEMPERATURE[:1], candidates.TERMS[:4]),
    )
    return _first(fitted(expected, family, [term]) for family, term in both)


def _both_skews(expected):
    return fitted(expected, candidates.BOTH_SKEWS)


def _geometric(expected):
    return simplest([fitted(expected, family) for family in geometric.FAMILIES])


def _at_two_parameters(expected):
    families = (
        *temperatures.NAMED_AT_ONE_TEMPERATURE,
        *temperatures.DIVERGENCES_AT_TEMPERATURE,
        *temperatures.KLS_AT_TWO_TEMPERATURES,
    )
    return simplest([fitted(expected, family) for family in families])


def _terms_over_the_vocabulary(expected):
    """Sums of which some terms, and not all, are means over the vocabulary."""
    both = (*candidates.TERMS, *candidates.TERMS_OVER_VOCABULARY)
    found = itertools.chain(sums(expected, both, 2), sums(expected, both, 3))
    return _first(found)


def _factor(expected):
    """One divergence times a number that differs from pair to pair."""
    found = mixtures.one_with_a_factor(expected)
    if found is None:
        return None
    sign, candidate, factor = found
    return Verdict(((sign, candidate),), factor=factor)


def by_its_curve(expected):
    """A function of the log-ratio without a formula, or one that is clipped."""
    if not ratios.of_the_ratio_alone(expected):
        return None
    curve = ratios.curve(expected)
    if curve is None or curve.is_flat():
        return None
    for candidate in weights.clipped(curve):
        if terms := confirmed(expected, [candidate]):
            verdict = Verdict(terms, curve=curve)
            return replace(verdict, holds=expected.agrees(verdict.gradient(expected.pairs)))
    holds = ratios.follows(expected, curve)
    if not holds.all():
        return None
    if not curve.increasing:
        return Verdict(holds=np.zeros(len(expected.tier), bool), curve=curve)
    return Verdict(((1.0, weights.any_f_divergence(curve)),), holds=holds, curve=curve)


def _by_its_weights(expected):
    """Two terms whose weights differ from pair to pair."""
    found = mixtures.mixture(expected)
    if found is None:
        return None
    return Verdict(mixture=found, holds=np.full(len(expected.tier), bool(found.name)))
