"""The exact check: expressions brought to a normal form for a vocabulary of any size.

Definitions are replaced, p becomes softmax(z), derivatives and limits are taken by sympy;
then p is put back and sums over 1..V are reduced with Σp = Σq = 1.  Two expressions are
equal when the difference of their normal forms comes out as 0; what does not is an error.
"""

import functools

import sympy as sp
from sympy import IndexedBase, KroneckerDelta, Sum, Symbol

from opd_toy.derivations.notation import (
    DEFINITIONS,
    STUDENTS,
    TEACHERS,
    Defined,
    GaussianMean,
    Gradient,
    Limit,
    Partial,
    StopGradient,
    V,
    delta,
    margin,
    n,
    p,
    q,
    theta,
    x,
)


class DerivationError(AssertionError):
    """A step of a derivation does not follow from the one before it."""


# --- from the notation of the book to plain sympy --------------------------------------


@functools.cache
def lower(e, softmax=True):
    """Replace definitions, take derivatives and limits; leave sums over z, q and parameters."""
    if isinstance(e, sp.Indexed):
        if e.base in STUDENTS and softmax:
            return _softmax(e)
        return lower(DEFINITIONS[e.base](*e.indices), softmax) if e.base in DEFINITIONS else e
    if isinstance(e, GaussianMean):
        return _gaussian_mean(sp.expand(lower(e.args[0])))
    if isinstance(e, Defined):
        return lower(e.definition(_fresh), softmax)
    if isinstance(e, Partial):
        return sp.diff(lower(e.args[0]), e.args[1])
    if isinstance(e, Gradient):
        return _parameter_derivative(lower(e.args[0]))
    if isinstance(e, Limit):
        return lower(_limit_somehow(lower(e.args[0], softmax=False), *e.args[1:]), softmax)
    if isinstance(e, Sum):
        if any((low, high) != (1, V) for _, low, high in e.limits):
            kinds = "over the vocabulary, nor over the positions of a sequence of length T"
            raise DerivationError(f"{e} is not a sum {kinds}")
        new = {index: _fresh("v") for index in e.variables}
        return Sum(
            lower(e.function.xreplace(new), softmax), *((index, 1, V) for index in new.values())
        )
    if not e.args:
        return e
    return e.func(*(lower(arg, softmax) for arg in e.args))


def released(e):
    """Drop stop-gradients: done only once every derivative has been taken."""
    return e.replace(StopGradient, lambda inner: inner)


def _fresh(name):
    return sp.Dummy(name, integer=True, positive=True)


def _softmax(e):
    logits, dummy = STUDENTS[e.base], _fresh("k")
    normaliser = Sum(sp.exp(logits[(*e.indices[:-1], dummy)]), (dummy, 1, V))
    return sp.exp(logits[e.indices]) / normaliser


def _parameter_derivative(e):
    """d/dθ with every logit a function of θ; dz/dθ becomes an indexed symbol of its own."""
    functions = {base: sp.Function(str(base), real=True) for base in STUDENTS.values()}
    bases = {function: base for base, function in functions.items()}
    moving = e.replace(
        lambda s: isinstance(s, sp.Indexed) and s.base in functions,
        lambda s: functions[s.base](*s.indices, theta),
    )
    slope = sp.diff(moving, theta)
    slope = slope.replace(
        lambda s: isinstance(s, sp.Derivative),
        lambda s: IndexedBase(f"d{bases[s.expr.func]}")[s.expr.args[:-1]],
    )
    return slope.replace(lambda s: s.func in bases, lambda s: bases[s.func][s.args[:-1]])


@functools.cache
def _moment_generating_function():
    """The mean of exp(t x) over x ~ N(0, 1), by sympy's integration."""
    t = Symbol("t", real=True)
    return t, sp.integrate(
        GaussianMean(sp.exp(t * x)).definition(_fresh).args[0], (x, -sp.oo, sp.oo)
    )


def _gaussian_mean(e):
    """Term by term: E[x^n exp(c x)] is the n-th derivative of E[exp(t x)] by t, at t = c."""
    t, generating = _moment_generating_function()
    means = []
    for term in sp.Add.make_args(e):
        constant, rest = sp.powsimp(term).as_independent(x)
        exponent = sum(f.args[0] for f in sp.Mul.make_args(rest) if isinstance(f, sp.exp))
        power = sp.simplify(rest * sp.exp(-exponent))
        slope, shift = (
            sp.Poly(exponent, x).all_coeffs() if sp.sympify(exponent).has(x) else (0, exponent)
        )
        means.append(
            constant * sp.exp(shift) * sp.diff(generating, t, sp.degree(power, x)).subs(t, slope)
        )
    return sp.Add(*means)


# --- limits, taken inside the finite sums over 1..V --------------------------------------


def _limit_somehow(e, variable, point):
    """As written or, where that has parts with no limit of their own, rewritten: in normal
    form, or with what stands outside the sum taken inside by 1 = Σp or 1 = Σq."""
    rewritings = (lambda: e, lambda: reduce(e), lambda: _spread(e, p), lambda: _spread(e, q))
    for rewrite in rewritings:
        try:
            return _limit(rewrite(), variable, point)
        except DerivationError as error:
            problem = error
    raise problem


def _spread(e, distribution):
    parts = _gather(e)
    if parts is None:
        raise DerivationError(f"no limit of {e}: it is not linear in its sums")
    outside, inside, dummy = parts
    return Sum(inside + outside * distribution[dummy], (dummy, 1, V))


def _limit(e, variable, point):
    """Limit of A + Σ_v B(v) part by part, else by the limit laws for products and powers."""
    if not e.has(variable):
        return e
    parts = _gather(e)
    if parts is not None:
        outside, inside, dummy = parts
        return _scalar_limit(outside, variable, point) + Sum(
            _scalar_limit(inside, variable, point), (dummy, 1, V)
        )
    if not isinstance(e, (sp.Add, sp.Mul, sp.Pow)):
        raise DerivationError(f"no rule for the limit of {e}")
    return e.func(*(_limit(arg, variable, point) for arg in e.args))


def _scalar_limit(e, variable, point):
    """Limit without sums; p and q are positive, a margin is 0 at n and positive elsewhere."""
    margins = {s for s in e.atoms(sp.Indexed) if s.base == margin}
    for one in margins:
        at_top = delta(one.indices[0], n)
        top = _scalar_limit(e.xreplace({one: 0}), variable, point)
        other = _positive_limit(e, variable, point)
        return at_top * top + (1 - at_top) * other
    return _positive_limit(e, variable, point)


def _positive_limit(e, variable, point):
    stand_ins = {s: sp.Dummy(positive=True) for s in e.atoms(sp.Indexed)}
    value = sp.limit(e.xreplace(stand_ins), variable, point)
    if value.has(sp.oo, -sp.oo, sp.nan, sp.zoo, sp.Limit, sp.AccumBounds):
        raise DerivationError(
            f"no finite limit of {e} as {variable} tends to {point}: sympy gives {value}"
        )
    return value.xreplace({stand_in: s for s, stand_in in stand_ins.items()})


def _gather(e):
    """(A, B(v), v) with e = A + Σ_v B(v); None where e is not linear in its sums."""
    dummy = _fresh("v")
    outside, inside = sp.S.Zero, sp.S.Zero
    for term in sp.Add.make_args(e):
        sums = [f for f in sp.Mul.make_args(term) if isinstance(f, Sum)]
        if not term.has(Sum):
            outside += term
            continue
        if len(sums) != 1 or len(sums[0].variables) != 1:
            expanded = sp.expand_mul(term)
            rest = _gather(expanded) if expanded != term else None
            if rest is None:
                return None
            outside, inside = outside + rest[0], inside + rest[1].xreplace({rest[2]: dummy})
            continue
        inside += term / sums[0] * sums[0].function.xreplace({sums[0].variables[0]: dummy})
    return None if inside.has(Sum) else (outside, inside, dummy)


# --- the normal form of an expression with sums over 1..V ------------------------------


@functools.cache
def normal_form(expression):
    """Sums of monomials in p and q: Σp = Σq = 1 is used, deltas are evaluated, dummies alike."""
    return reduce(_to_probabilities(lowered(expression)))


def lowered(expression):
    return released(lower(expression))


def _to_probabilities(expression):
    """z_v = log p_v + log(normaliser): the change of variables that brings p back."""
    students = {logits: student for student, logits in STUDENTS.items()}

    def logit(e):
        *prefix, _ = e.indices
        name = f"Z_{e.base}"
        scale = (
            IndexedBase(name, positive=True)[tuple(prefix)]
            if prefix
            else Symbol(name, positive=True)
        )
        return sp.log(scale) + sp.log(students[e.base][e.indices])

    return expression.replace(lambda e: isinstance(e, sp.Indexed) and e.base in students, logit)


def reduce(e):
    """Expand from the inside out: a sum of products whose sums run over one product each."""
    if not e.args or isinstance(e, sp.Indexed):
        return e
    if isinstance(e, Sum):
        return functools.reduce(
            _reduce_sum, e.variables, reduce(e.function)
        )  # innermost index first
    args = [reduce(a) for a in e.args]
    if isinstance(e, sp.log):
        return sp.expand_log(sp.log(sp.factor_terms(args[0])))
    if isinstance(e, sp.exp):
        return sp.exp(sp.expand(args[0]))
    result = sp.expand(e.func(*args), deep=False)
    return sp.Add(*(_evaluate_deltas(t) for t in sp.Add.make_args(result)))


def _evaluate_deltas(term):
    """δ_ab f(a) = δ_ab f(b) and δ² = δ, for one product."""
    term = term.replace(
        lambda e: (
            isinstance(e, sp.Pow) and isinstance(e.base, KroneckerDelta) and e.exp.is_positive
        ),
        lambda e: e.base,
    )
    for factor in [f for f in sp.Mul.make_args(term) if isinstance(f, KroneckerDelta)]:
        rest = term / factor
        moved = rest.xreplace({factor.args[1]: factor.args[0]})
        if moved != rest:
            return factor * reduce(moved)
    return term


def _reduce_sum(body, dummy):
    return sp.Add(*(_reduce_term(term, dummy) for term in sp.Add.make_args(sp.expand(body))))


def _reduce_term(term, dummy):
    factors = sp.Mul.make_args(term)
    for factor in factors:
        if isinstance(factor, KroneckerDelta) and dummy in factor.args:
            other = factor.args[1] if factor.args[0] == dummy else factor.args[0]
            return reduce((term / factor).xreplace({dummy: other}))
    inside = sp.Mul(*(f for f in factors if dummy in f.free_symbols))
    outside = sp.Mul(*(f for f in factors if dummy not in f.free_symbols))
    if inside == 1:
        return outside * V
    if _is_distribution(inside, dummy):
        return outside
    level = 1 + max((_level(s) for s in inside.atoms(Sum)), default=0)
    name = Symbol(f"_{level}", integer=True, positive=True)
    return outside * Sum(inside.xreplace({dummy: name}), (name, 1, V))


def _is_distribution(e, dummy):
    normalised = isinstance(e, sp.Indexed) and (e.base in STUDENTS or e.base in TEACHERS)
    return normalised and e.indices[-1] == dummy and dummy not in e.indices[:-1]


def _level(s):
    return max(int(str(index)[1:]) for index in s.variables)


# --- is it zero, is it positive? ---------------------------------------------------------


def is_zero(e):
    """Whether an expression is 0 for every V; False when sympy cannot show it."""
    return equal_to_zero(normal_form(e))


def equal_to_zero(e):
    if e == 0:
        return True
    parts = _gather(e)
    if parts is not None and parts[1] != 0:
        outside, inside, dummy = parts
        e = reduce(outside + Sum(_cancel(inside), (dummy, 1, V)))
    return _cancel(e) == 0


def _cancel(e):
    """Rational arithmetic with sums, logs and indexed symbols as unknowns."""
    names = {}
    for kind in (Sum, sp.log, sp.exp, sp.Indexed, KroneckerDelta):
        new = {s: sp.Dummy(positive=True) for s in e.atoms(kind)}
        e, names = e.xreplace(new), {**names, **{stand_in: s for s, stand_in in new.items()}}
    e = sp.expand(sp.cancel(sp.together(e)))
    return functools.reduce(
        lambda partial, name: partial.xreplace({name: names[name]}), reversed(names), e
    )


@functools.cache
def log_is_at_most_x_minus_one():
    """x - 1 - log x is 0 at 1, its only stationary point, and strictly convex: > 0 elsewhere."""
    at = Symbol("x", positive=True)
    gap = at - 1 - sp.log(at)
    stationary = sp.solve(sp.diff(gap, at), at)
    return stationary == [1] and gap.subs(at, 1) == 0 and sp.diff(gap, at, 2).is_positive
