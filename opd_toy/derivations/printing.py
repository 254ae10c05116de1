"""LaTeX in the book's notation, from the very expressions that are checked."""

import sympy as sp
from sympy import KroneckerDelta, Sum
from sympy.printing.latex import LatexPrinter

from opd_toy.derivations.notation import (
    C2,
    KL,
    R2,
    AlphaDivergence,
    Defined,
    Expectation,
    GaussianLogRatio,
    Gradient,
    JensenShannon,
    Limit,
    Partial,
    SequenceMean,
    forward_mixture,
    jsd_mixture,
    local_gradient,
    local_kl,
    margin,
    old,
    old2,
    p2,
    q2,
    reverse_mixture,
    score_at,
    score_norm,
    sharp,
    tilted,
    z2,
)

VECTORS = (score_at, local_gradient)
NAMES = {
    score_at: r"\nabla \log \pi",
    local_gradient: r"\nabla \mathrm{KL}",
    local_kl: r"\mathrm{KL}",
    p2: "p",
    q2: "q",
    old: r"\mu",
    old2: r"\mu",
    z2: "z",
    C2: "C",
    R2: "R",
    score_norm: r"\ell",
    tilted: r"\tilde{q}",
    sharp: "q",
    margin: r"\Delta",
    jsd_mixture: "m",
    forward_mixture: r"\bar{p}",
    reverse_mixture: r"\bar{q}",
}


def name_of(base):
    return NAMES.get(base, str(base))


def flat_factors(e):
    """Factors in the order they were written; a leading 1, which sympy's Sum adds, is dropped."""
    if not isinstance(e, sp.Mul):
        return [e]
    nested = [
        [arg] if position and _is_negative(arg) else flat_factors(arg)
        for position, arg in enumerate(e.args)
    ]
    return [f for factors in nested for f in factors if f != 1]


def _is_negative(e):
    first = flat_factors(e)[0] if isinstance(e, sp.Mul) and flat_factors(e) else e
    return bool(first.is_Number and first.is_negative)


def flat_terms(e):
    """Terms in the order they were written, as (sign, term)."""
    if isinstance(e, sp.Add):
        return [pair for arg in e.args for pair in flat_terms(arg)]
    factors = flat_factors(e)
    sign = 1
    if factors and factors[0].is_Number and factors[0].is_negative:
        sign, factors = -1, [-factors[0], *factors[1:]] if factors[0] != -1 else factors[1:]
    if len(factors) == 1 and isinstance(factors[0], sp.Add) and sign == 1:
        return flat_terms(factors[0])
    if sign == 1:
        return [(1, e if isinstance(e, sp.Mul) else factors[0])]
    return [(-1, factors[0] if len(factors) == 1 else sp.Mul(*factors, evaluate=False))]


class BookPrinter(LatexPrinter):
    """LaTeX in the book's notation, in the order the expression was written."""

    def _print_Indexed(self, e):
        indices = [self._print(index) for index in e.indices]
        if e.base == R2:  # a reward of both tokens, not of the one given the other
            return f"R_{{{' '.join(indices)}}}"
        subscript = r" \mid ".join(reversed(indices)) if len(indices) > 1 else indices[0]
        return f"{name_of(e.base)}_{{{subscript}}}"

    def _print_IndexedBase(self, e):
        return name_of(e)

    def _print_KroneckerDelta(self, e):
        return rf"\delta_{{{' '.join(self._print(index) for index in e.args)}}}"

    def _print_Add(self, e, order=None):
        text = ""
        for position, (sign, term) in enumerate(flat_terms(e)):
            body = self._print(term)
            if sign < 0 and isinstance(term, sp.Add):
                body = self._bracket(body)
            text += (
                ("-" if sign < 0 else "") + body
                if position == 0
                else (" - " if sign < 0 else " + ") + body
            )
        return text

    def _print_Mul(self, e):
        factors = flat_factors(e)
        if not factors:
            return "1"
        if factors[0] == -1 and len(factors) > 1:
            rest = sp.Mul(*factors[1:], evaluate=False) if len(factors) > 2 else factors[1]
            body = self._print(rest)
            return "-" + (self._bracket(body) if isinstance(rest, sp.Add) else body)
        above = [f for f in factors if not _is_reciprocal(f)]
        below = [
            f.base if f.exp == -1 else sp.Pow(f.base, -f.exp, evaluate=False)
            for f in factors
            if _is_reciprocal(f)
        ]
        if not below:
            return self._product(above)
        tall = [] if any(f.has(Sum) for f in below) else [f for f in above if _is_tall(f)]
        short = [f for f in above if f not in tall]
        fraction = rf"\frac{{{self._product(short) if short else '1'}}}{{{self._product(below)}}}"
        return fraction + (
            f" {self._product(tall) if len(tall) > 1 else self._factor(tall[0], last=True)}"
            if tall
            else ""
        )

    def _product(self, factors):
        alone = len(factors) == 1
        printed = [
            self._print(f) if alone else self._factor(f, last=position == len(factors) - 1)
            for position, f in enumerate(factors)
        ]
        return (
            r" \, ".join(printed).replace(r" \, \left(", r" \left(").replace(r" \, 0", r" \cdot 0")
        )

    def _factor(self, f, last):
        body = self._print(f)
        loose = (
            isinstance(f, sp.Add)
            or _is_negative(f)
            or (not last and (isinstance(f, (Sum, Limit, sp.log, Gradient)) or _is_vector(f)))
        )
        return self._bracket(body) if loose else body

    def _bracket(self, body):
        return rf"\left( {body} \right)"

    def _print_Sum(self, e):
        body = self._print(e.function)
        body = self._bracket(body) if len(flat_terms(e.function)) > 1 else body
        signs = (
            rf"\sum_{{{self._print(index)}={self._print(low)}}}^{{{self._print(high)}}}"
            for index, low, high in reversed(e.limits)
        )
        return f"{' '.join(signs)} {body}"

    def _print_log(self, e):
        argument = e.args[0]
        body = self._print(argument)
        simple = (
            isinstance(argument, (sp.Indexed, sp.Symbol, Sum))
            or body[:5] == r"\frac"
            and isinstance(argument, sp.Mul)
        )
        return rf"\log {body}" if simple else rf"\log {self._bracket(body)}"

    def _print_Pow(self, e):
        base, exponent = self._print(e.base), self._print(e.exp)
        simple = isinstance(e.base, (sp.Indexed, sp.Symbol, KroneckerDelta, GaussianLogRatio))
        return rf"{base if simple else self._bracket(base)}^{{{exponent}}}"

    def _print_exp(self, e):
        return rf"e^{{{self._print(e.args[0])}}}"

    def _print_KL(self, e):
        first, second, *prefix = e.args
        at = rf"_{{\cdot \mid {self._print(prefix[0])}}}" if prefix else ""
        return rf"\mathrm{{KL}}({self._print(first)}{at} \,\|\, {self._print(second)}{at})"

    def _print_Entropy(self, e):
        return rf"\mathrm{{H}}({self._print(e.args[0])})"

    def _print_JensenShannon(self, e):
        return r"\mathrm{JSD}_{\beta}(p, q)"

    def _print_AlphaDivergence(self, e):
        return r"\mathrm{D}_{\alpha}(p \,\|\, q)"

    def _print_Expectation(self, e):
        body, index, distribution, *prefix = e.args
        at = rf"_{{\cdot \mid {self._print(prefix[0])}}}" if prefix else ""
        drawn = rf"{self._print(index)} \sim {self._print(distribution)}{at}"
        return rf"\mathbb{{E}}_{{{drawn}}} \left[ {self._print(body)} \right]"

    def _print_SequenceMean(self, e):
        return rf"\mathbb{{E}}_{{\tau}} \left[ {self._print(e.args[0])} \right]"

    def _print_Variance(self, e):
        return rf"\mathrm{{Var}}_{{\tau}} \left[ {self._print(e.args[0])} \right]"

    def _print_InnerProduct(self, e):
        return rf"\left\langle {self._print(e.args[0])}, {self._print(e.args[1])} \right\rangle"

    def _print_SquaredLength(self, e):
        return rf"\left\| {self._print(e.args[0])} \right\|^{{2}}"

    def _print_GaussianMean(self, e):
        return (
            rf"\mathbb{{E}}_{{x \sim \mathcal{{N}}(0, 1)}} \left[ {self._print(e.args[0])} \right]"
        )

    def _print_GaussianLogRatio(self, e):
        return "r"

    def _print_StopGradient(self, e):
        return rf"\mathrm{{sg}} \left[ {self._print(e.args[0])} \right]"

    def _print_Gradient(self, e):
        body = self._print(e.args[0])
        simple = isinstance(e.args[0], (sp.Indexed, sp.log, Defined, SequenceMean))
        return rf"\nabla {body if simple else self._bracket(body)}"

    def _print_Partial(self, e):
        expression, variable = e.args
        body, below = self._print(expression), rf"\partial {self._print(variable)}"
        if (
            isinstance(expression, (sp.Indexed, sp.log, KL, JensenShannon, AlphaDivergence))
            and r"\frac" not in body
        ):
            return rf"\frac{{\partial \, {body}}}{{{below}}}"
        fraction = isinstance(expression, sp.Mul) and body.startswith(r"\frac")
        body = (
            body if fraction or isinstance(expression, (Sum, Expectation)) else self._bracket(body)
        )
        return rf"\frac{{\partial}}{{{below}}} {body}"

    def _print_Limit(self, e):
        expression, variable, point = e.args
        body = self._print(expression)
        body = self._bracket(body) if isinstance(expression, sp.Add) else body
        return rf"\lim_{{{self._print(variable)} \to {self._print(point)}}} {body}"

    def _print_Relational(self, e):
        sign = {"<": "<", ">": ">", "<=": r"\le", ">=": r"\ge", "==": "="}[e.rel_op]
        return f"{self._print(e.lhs)} {sign} {self._print(e.rhs)}"


def _is_tall(e):
    """Reads better beside a fraction than on top of it."""
    has_fraction = any(_is_reciprocal(part) for part in sp.preorder_traversal(e))
    return isinstance(e, (Sum, Partial, Gradient, Limit, sp.log)) or (
        isinstance(e, sp.Add) and (has_fraction or e.has(KL))
    )


def _is_vector(e):
    return isinstance(e, sp.Indexed) and e.base in VECTORS


def _is_reciprocal(e):
    return isinstance(e, sp.Pow) and e.exp.is_Number and e.exp.is_negative


_printer = BookPrinter()


def latex(expression):
    """LaTeX of an expression in the book's notation."""
    return _printer.doprint(expression)
