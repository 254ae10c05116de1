"""Expressions over sequences multiplied out into sums of products, which ``horizon`` sorts."""

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
    outcome,
    score_at,
)

ONE = sp.S.One


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


def terms(e):
    if isinstance(e, sp.Indexed):
        return [_indexed_term(e)]
    if isinstance(e, Defined):
        return terms(e.definition(fresh))
    if isinstance(e, SequenceMean):
        if e.has(outcome):
            raise DerivationError(
                f"no rule for the mean {e}: the reward of the whole sequence depends on every token"
            )
        return [
            replace(term, open=ONE, means=(*term.means, term.open)) for term in terms(e.args[0])
        ]
    if isinstance(e, Gradient):
        return _gradient(e.args[0])
    if isinstance(e, Sum):
        return _summed(e)
    if not e.atoms(sp.Indexed, Sum, Node):
        return [Term(weight=e.doit())]
    if isinstance(e, sp.Add):
        return [term for arg in e.args for term in terms(arg)]
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
        result = [one.times(other) for one in result for other in terms(factor)]
    return result


def _summed(e):
    *inner, (index, low, high) = e.limits  # sympy writes nested sums as one, the innermost first
    new = fresh("j" if high == dimension else "t")
    body = Sum(e.function, *inner) if inner else e.function
    inside = terms(body.xreplace({index: new}))
    if high == dimension or are_positions(low, high):
        return [replace(term, limits=((new, low, high), *term.limits)) for term in inside]
    if (
        any(new in term.used or term.limits for term in inside)
        or not (high - low + 1).is_nonnegative
    ):
        raise DerivationError(
            f"the sum over {index} from {low} to {high} is not one over positions"
        )
    return [replace(term, weight=closed_form(term.weight, new, low, high)) for term in inside]


def _gradient(e):
    """∇E[X] = E[X Σ_t s_t] + E[∇X], with ∇r_t = s_t and no derivative of any other symbol."""
    if not isinstance(e, SequenceMean) or e.has(outcome):
        raise DerivationError(f"no rule for the gradient of {e}")
    result = []
    for term in terms(e.args[0]):
        factors = [factor.as_base_exp() for factor in sp.Mul.make_args(term.open) if factor != 1]
        if term.means or any(base.base != cost for base, _ in factors):
            raise DerivationError(f"no rule for the gradient of the mean of {term.open}")
        last = fresh("t")
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


def fresh(name):
    return sp.Dummy(name, integer=True, positive=True)


# ---- sums of weights ----


def are_positions(low, high):
    return (low == 1 or shift(low) in (0, 1)) and (high == T or shift(high) in (0, -1))


def shift(bound):
    """n for a bound t + n with t a position, else None."""
    if not bound.free_symbols - {T} or T in bound.free_symbols or len(bound.free_symbols) > 1:
        return None
    return bound - next(iter(bound.free_symbols))


def closed_form(weight, index, low, high):
    """Σ of a weight over low..high: powers of the index by sympy, of γ as a geometric series."""
    result = sp.S.Zero
    for factor, exponent in powers_of_gamma(weight):
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


def powers_of_gamma(weight):
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
