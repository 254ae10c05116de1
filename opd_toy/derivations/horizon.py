"""The exact check for sequences of any length T: sums over positions, means over sequences.

Every expression is multiplied out into terms: a weight (numbers, γ, T, bounds) times means of
products of costs and scores, summed over positions.  Each sum is split by how its positions
stand to one another (t < u, t = u, t > u, …), so that a position has a rank and the last one
is known.  Two facts about the last position of a product give the means, and nothing else
is used:

- a score that stands alone at the last position has mean 0 whatever the prefix was, and so has
  the product (``past-terms-vanish`` and ``score-mean-zero``);
- a cost that stands alone there may be replaced by its mean over the tokens, KL, and cost times
  score by its own, the gradient of KL (``k1-expectation`` and ``pg-unbiased-local``).

KL and its gradient at a position are known once the prefix is, so they may stand beside either.
The gradient of a mean is taken by the log-derivative trick.

Positions in no product are summed in closed form.  Equal expressions then have equal terms.
"""

import functools
import itertools
from dataclasses import replace

import sympy as sp

from opd_toy.derivations.exact import DerivationError
from opd_toy.derivations.notation import (
    T,
    cost,
    dimension,
    gamma,
    local_gradient,
    local_kl,
    score_at,
)
from opd_toy.derivations.terms import ONE, closed_form, powers_of_gamma, shift, terms

HORIZON = sp.Dummy("g", positive=True)  # stands for γ^T


def is_zero(e):
    """Whether an expression over sequences is 0 for every length T; False if nothing shows it."""
    totals = {}
    for part in sp.Add.make_args(sp.sympify(e)):
        sign, body = part.as_coeff_Mul()
        for key, coefficient in normal_form(body):
            totals.setdefault(key, []).append(sign * coefficient)
    return all(sp.cancel(sp.Add(*coefficients)) == 0 for coefficients in totals.values())


@functools.cache
def normal_form(e):
    """(key, coefficient) pairs; the key says what is summed, and over which order of positions."""
    return [
        pair for term in terms(e) for canonical in _by_rank(term) for pair in _weights(*canonical)
    ]


# ---- split by rank ----


def _by_rank(term):
    """The term, split by the order of its positions, each piece in canonical form."""
    positions = [limit for limit in term.limits if limit[2] != dimension]
    coordinates = [limit[0] for limit in term.limits if limit[2] == dimension]
    own = [index for index, _, _ in positions]
    free = _free_positions(term) - set(own) - set(coordinates)
    indices = [*sorted(free, key=str), *own]
    for ranks in itertools.product(range(len(indices)), repeat=len(indices)):
        at = dict(zip(indices, ranks))
        if set(ranks) == set(range(len(set(ranks)))) and all(
            _within(limit, at) for limit in positions
        ):
            order = [
                min((index for index in indices if at[index] == rank), key=indices.index)
                for rank in sorted(set(ranks))
            ]
            names = {index: order[at[index]] for index in indices}
            yield from _canonical(term.substitute(names), order, free, coordinates)


def _free_positions(term):
    bounds = [side for _, low, high in term.limits for side in (low, high)]
    return {
        s
        for s in {*term.used, *sp.Tuple(term.weight, *bounds).free_symbols}
        if s.is_integer and s not in (T, dimension)
    }


def _within(limit, at):
    """Whether an order of the positions keeps low <= index <= high.

    A bound is an end of the sequence or, with a position t, one of t, t + 1 and t - 1.
    """
    index, low, high = limit
    above = low == 1 or _reaches(low, at[index], at, 1)
    return above and (high == T or _reaches(high, at[index], at, -1))


def _reaches(bound, rank, at, direction):
    """Whether a rank lies beyond the bound's position, or at it if the bound is that position."""
    distance = direction * (rank - at[next(iter(bound.free_symbols))])
    return distance > 0 or (distance == 0 and shift(bound) == 0)


def _canonical(term, order, free, coordinates):
    """(order, term) in one way of writing: means by their last positions, names by rank.

    A position that stands in no product is summed.
    """
    means = [_mean_by_last(mean, order) for mean in term.means]
    if 0 in means:
        return
    term = replace(term, means=tuple(mean for mean in means if mean != 1))
    idle = next((index for index in order if index not in free and index not in term.used), None)
    if idle is not None:
        place = order.index(idle)
        before, after = (
            order[place - 1] if place else sp.S.Zero,
            order[place + 1] if place + 1 < len(order) else T + 1,
        )
        summed = replace(term, weight=closed_form(term.weight, idle, before + 1, after - 1))
        yield from _canonical(summed, order[:place] + order[place + 1 :], free, coordinates)
        return
    names = {index: _fixed("", place) for place, index in enumerate(order) if index not in free}
    named = [index for index in coordinates if index in term.used]
    term = replace(term, weight=term.weight * dimension ** (len(coordinates) - len(named)))
    choices = itertools.permutations([_fixed("j", place) for place in range(len(named))])
    renamed = [term.substitute({**names, **dict(zip(named, chosen))}) for chosen in choices]
    yield tuple(names.get(index, index) for index in order), min(renamed, key=_products)


def _fixed(name, place):
    return sp.Symbol(f"_{name}{place}", integer=True, positive=True)


def _products(term):
    return str(term.constants), str(term.open), str(sorted(map(str, term.means)))


def _mean_by_last(mean, order):
    """The mean of a product by what stands at its last position: see the module's docstring."""
    factors = [factor.as_base_exp() for factor in sp.Mul.make_args(mean) if factor != 1]
    if not factors:
        return mean
    last = max((base.indices[0] for base, _ in factors), key=order.index)
    drawn = [
        base
        for base, power in factors
        for _ in range(power)
        if base.indices[0] == last and base.base in (cost, score_at)
    ]
    rest = mean / sp.Mul(*drawn)
    bases = {base.base: base.indices for base in drawn}
    if len(drawn) == 1:
        return rest * local_kl[last] if cost in bases else sp.S.Zero
    if len(drawn) == len(bases) == 2:
        return rest * local_gradient[bases[score_at]]
    return mean


def _weights(order, term):
    """(key, coefficient): products and what the weight says of the positions; its other factors."""
    for factor, exponent in powers_of_gamma(term.weight):
        constant, powers = factor.as_independent(*order, as_Add=False) if order else (factor, ONE)
        horizon = exponent.coeff(T)
        steps = sum((exponent.coeff(index) * index for index in order), sp.S.Zero)
        number = exponent - horizon * T - steps
        if not (number.is_Integer and horizon.is_Integer):
            raise DerivationError(f"no rule for the exponent {exponent} of γ")
        yield (order, *_products(term), powers, steps), constant * gamma**number * HORIZON**horizon
