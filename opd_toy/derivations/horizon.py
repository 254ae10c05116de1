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
from dataclasses import dataclass, replace

import sympy as sp
from sympy import Sum

from opd_toy.derivations.exact import DerivationError
from opd_toy.derivations.notation import (
    DRAWN,
    Defined,
    Gradient,
    Node,
    SequenceMean,
    T,
    c,
    cost,
    dimension,
    gamma,
    local_gradient,
    local_kl,
    outcome,
    score_at,
)

ONE = sp.S.One
HORIZON = sp.Dummy("g", positive=True)  # stands for γ^T


@dataclass(frozen=True)
class Term:
    """weight · constants · open · Π E[mean], summed over ``limits``, (index, low, high) each."""

    weight: sp.Expr = ONE
    limits: tuple = ()
    constants: sp.Expr = ONE  # the factors c_t
    open: sp.Expr = ONE  # costs and scores outside any mean
    means: tuple = ()

    def times(self, other):
        return Term(
            self.weight * other.weight,
            self.limits + other.limits,
            self.constants * other.constants,
            self.open * other.open,
            self.means + other.means,
        )

    def substitute(self, names):
        return replace(
            self,
            weight=self.weight.xreplace(names),
            constants=self.constants.xreplace(names),
            open=self.open.xreplace(names),
            means=tuple(mean.xreplace(names) for mean in self.means),
        )

    @property
    def used(self):
        """Indices of the costs, scores and constants."""
        return set().union(*(e.free_symbols for e in _indexed(self)))


def _indexed(term):
    return sp.Tuple(term.constants, term.open, *term.means).atoms(sp.Indexed)


def is_zero(e):
    """Whether an expression over sequences is 0 for every length T; False when that cannot be shown."""
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
        pair for term in _terms(e) for canonical in _by_rank(term) for pair in _weights(*canonical)
    ]


# --- multiplied out ------------------------------------------------------------------------


def _terms(e):
    if isinstance(e, sp.Indexed):
        return [_indexed_term(e)]
    if isinstance(e, Defined):
        return _terms(e.definition(_fresh))
    if isinstance(e, SequenceMean):
        if e.has(outcome):
            raise DerivationError(
                f"no rule for the mean {e}: the reward of the whole sequence depends on every token"
            )
        return [
            replace(term, open=ONE, means=(*term.means, term.open)) for term in _terms(e.args[0])
        ]
    if isinstance(e, Gradient):
        return _gradient(e.args[0])
    if isinstance(e, Sum):
        return _summed(e)
    if not e.atoms(sp.Indexed, Sum, Node):
        return [Term(weight=e.doit())]
    if isinstance(e, sp.Add):
        return [term for arg in e.args for term in _terms(arg)]
    if isinstance(e, sp.Mul):
        return _product(e.args)
    if isinstance(e, sp.Pow) and e.exp.is_Integer and e.exp.is_positive:
        return _product([e.base] * int(e.exp))
    raise DerivationError(f"no rule to multiply out {e}")


def _indexed_term(e):
    if e.base not in (*DRAWN, c) or not all(isinstance(index, sp.Symbol) for index in e.indices):
        raise DerivationError(f"{e} is not known for a sequence of any length")
    return Term(constants=e) if e.base == c else Term(open=e)


def _product(factors):
    """Each factor anew, so that no two sums share an index."""
    result = [Term()]
    for factor in factors:
        result = [one.times(other) for one in result for other in _terms(factor)]
    return result


def _summed(e):
    *inner, (index, low, high) = e.limits  # sympy writes nested sums as one, the innermost first
    new = _fresh("j" if high == dimension else "t")
    body = Sum(e.function, *inner) if inner else e.function
    terms = _terms(body.xreplace({index: new}))
    if high == dimension or _are_positions(low, high):
        return [replace(term, limits=((new, low, high), *term.limits)) for term in terms]
    if (
        any(new in term.used or term.limits for term in terms)
        or not (high - low + 1).is_nonnegative
    ):
        raise DerivationError(
            f"the sum over {index} from {low} to {high} is not one over positions"
        )
    return [replace(term, weight=_closed_form(term.weight, new, low, high)) for term in terms]


def _gradient(e):
    """∇E[X] = E[X Σ_t s_t] + E[∇X], with ∇r_t = s_t and no derivative of any other symbol."""
    if not isinstance(e, SequenceMean) or e.has(outcome):
        raise DerivationError(f"no rule for the gradient of {e}")
    result = []
    for term in _terms(e.args[0]):
        factors = [factor.as_base_exp() for factor in sp.Mul.make_args(term.open) if factor != 1]
        if term.means or any(base.base != cost for base, _ in factors):
            raise DerivationError(f"no rule for the gradient of the mean of {term.open}")
        last = _fresh("t")
        result.append(
            replace(
                term,
                limits=(*term.limits, (last, ONE, T)),
                open=ONE,
                means=(term.open * score_at[last],),
            )
        )
        for base, power in factors:
            moved = replace(
                term,
                weight=term.weight * power,
                open=ONE,
                means=(term.open / base * score_at[base.indices],),
            )
            result.append(moved)
    return result


def _fresh(name):
    return sp.Dummy(name, integer=True, positive=True)


# --- split by rank -------------------------------------------------------------------------


def _are_positions(low, high):
    return (low == 1 or _shift(low) in (0, 1)) and (high == T or _shift(high) in (0, -1))


def _shift(bound):
    """n for a bound t + n with t a position, else None."""
    if not bound.free_symbols - {T} or T in bound.free_symbols or len(bound.free_symbols) > 1:
        return None
    return bound - next(iter(bound.free_symbols))


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
    """Whether an order of the positions keeps low <= index <= high; a bound is an end, a position t, t + 1 or t - 1."""
    index, low, high = limit
    above = (
        low == 1
        or at[index] > at[_position(low)]
        or (_shift(low) == 0 and at[index] == at[_position(low)])
    )
    below = (
        high == T
        or at[index] < at[_position(high)]
        or (_shift(high) == 0 and at[index] == at[_position(high)])
    )
    return above and below


def _position(bound):
    return next(iter(bound.free_symbols))


def _canonical(term, order, free, coordinates):
    """(order, term) with the means taken by their last positions, idle positions summed and the others named by rank."""
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
        summed = replace(term, weight=_closed_form(term.weight, idle, before + 1, after - 1))
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


# --- weights -------------------------------------------------------------------------------


def _closed_form(weight, index, low, high):
    """Σ of a weight over low..high: powers of the index by sympy, powers of γ as a geometric series."""
    result = sp.S.Zero
    for factor, exponent in _powers_of_gamma(weight):
        rate = exponent.coeff(index)
        rest = exponent - rate * index
        if rate == 0:
            result += gamma**exponent * sp.summation(factor, (index, low, high))
        elif factor.has(index):
            raise DerivationError(
                f"no closed form of the sum of {factor * gamma**exponent} over {index}"
            )
        else:
            result += (
                factor
                * (gamma ** (rest + rate * (high + 1)) - gamma ** (rest + rate * low))
                / (gamma**rate - 1)
            )
    return result


def _powers_of_gamma(weight):
    """(factor, exponent) for each term factor·γ^exponent of a weight; exponents are linear."""
    below = {
        e: sp.Dummy(positive=True)
        for e in weight.atoms(sp.Pow)
        if e.exp.is_negative and isinstance(e.base, sp.Add)
    }
    back = {stand_in: e for e, stand_in in below.items()}  # expand would multiply into 1/(1 - γ)
    for term in sp.Add.make_args(sp.expand(weight.xreplace(below))):
        powers = [f.as_base_exp() for f in sp.Mul.make_args(term)]
        exponent = sum((power for base, power in powers if base == gamma), sp.S.Zero)
        yield (
            sp.Mul(*(base**power for base, power in powers if base != gamma)).xreplace(back),
            sp.expand(exponent),
        )


def _weights(order, term):
    """(key, coefficient): the products and what the weight says of each position, and the rest of the weight."""
    for factor, exponent in _powers_of_gamma(term.weight):
        constant, powers = factor.as_independent(*order, as_Add=False) if order else (factor, ONE)
        horizon = exponent.coeff(T)
        steps = sum((exponent.coeff(index) * index for index in order), sp.S.Zero)
        number = exponent - horizon * T - steps
        if not (number.is_Integer and horizon.is_Integer):
            raise DerivationError(f"no rule for the exponent {exponent} of γ")
        yield (order, *_products(term), powers, steps), constant * gamma**number * HORIZON**horizon
