"""How a formula of the book is written down, checked and shown.

A ``Derivation`` is one or more chains of sympy expressions.  Every step of a chain is
checked against the one before it, twice and by separate roads:

- exactly, for a vocabulary of any size V: p is replaced by softmax(z), derivatives are
  taken by sympy, sums over 1..V are reduced to a normal form, and the difference of the
  two sides must come out as 0.  What sympy cannot bring to 0 is an error;
- in numbers: both sides are evaluated at random points for V = 2, 3 and 5 to thirty
  digits, derivatives by central differences on the definitions.  See ``witness``.

The formulas a page displays are printed from these same expressions.
"""

import functools
from dataclasses import dataclass

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
    C,
    delta,
    flat_factors,
    latex,
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
        new = {index: _fresh("v") for index in e.variables}
        return Sum(lower(e.function.xreplace(new), softmax), *((index, 1, V) for index in new.values()))
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
        lambda s: IndexedBase(f"d{bases[s.expr.func]}", real=True)[s.expr.args[:-1]],
    )
    return slope.replace(lambda s: s.func in bases, lambda s: bases[s.func][s.args[:-1]])


@functools.cache
def _moment_generating_function():
    """The mean of exp(t x) over x ~ N(0, 1), by sympy's integration."""
    t = Symbol("t", real=True)
    return t, sp.integrate(GaussianMean(sp.exp(t * x)).definition(_fresh).args[0], (x, -sp.oo, sp.oo))


def _gaussian_mean(e):
    """Term by term: the mean of x^n exp(c x) is the n-th derivative of the mean of exp(t x) at c."""
    t, generating = _moment_generating_function()
    means = []
    for term in sp.Add.make_args(e):
        constant, rest = sp.powsimp(term).as_independent(x, as_Add=False)
        exponent = sum(f.args[0] for f in sp.Mul.make_args(rest) if isinstance(f, sp.exp))
        power = sp.simplify(rest * sp.exp(-exponent))
        slope, shift = sp.Poly(exponent, x).all_coeffs() if sp.sympify(exponent).has(x) else (0, exponent)
        means.append(constant * sp.exp(shift) * sp.diff(generating, t, sp.degree(power, x)).subs(t, slope))
    return sp.Add(*means)


# --- limits, taken inside the finite sums over 1..V --------------------------------------


def _limit_somehow(e, variable, point):
    """As written or, where that has parts with no limit of their own, rewritten: in normal
    form, or with what stands outside the sum taken inside by 1 = Σp or 1 = Σq."""
    rewritings = (lambda: e, lambda: _reduce(e), lambda: _spread(e, p), lambda: _spread(e, q))
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
        return _scalar_limit(outside, variable, point) + Sum(_scalar_limit(inside, variable, point), (dummy, 1, V))
    if not isinstance(e, (sp.Add, sp.Mul, sp.Pow)):
        raise DerivationError(f"no rule for the limit of {e}")
    return e.func(*(_limit(arg, variable, point) for arg in e.args))


def _scalar_limit(e, variable, point):
    """Limit without sums; p and q are positive numbers, a margin is 0 at n and positive elsewhere."""
    margins = {s for s in e.atoms(sp.Indexed) if s.base == margin}
    for one in margins:
        at_top = delta(one.indices[0], n)
        top = _scalar_limit(e.xreplace({one: 0}), variable, point)
        other = _positive_limit(e, variable, point)
        return at_top * top + (1 - at_top) * other
    return _positive_limit(e, variable, point)


def _positive_limit(e, variable, point):
    stand_ins = {s: sp.Dummy(positive=True) for s in e.atoms(sp.Indexed)}
    value = sp.limit(e.xreplace(stand_ins), variable, point, "-" if point == 1 else "+")
    if value.has(sp.oo, -sp.oo, sp.nan, sp.zoo, sp.Limit, sp.AccumBounds):
        raise DerivationError(f"no finite limit of {e} as {variable} tends to {point}: sympy gives {value}")
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
    """Sums of monomials in p and q, with Σp = Σq = 1 used, deltas evaluated, dummies named alike."""
    return _reduce(_to_probabilities(lowered(expression)))


def lowered(expression):
    return released(lower(expression))


def _to_probabilities(expression):
    """z_v = log p_v + log(normaliser): the change of variables that brings p back."""
    students = {logits: student for student, logits in STUDENTS.items()}

    def logit(e):
        *prefix, _ = e.indices
        name = f"Z_{e.base}"
        scale = IndexedBase(name, positive=True)[tuple(prefix)] if prefix else Symbol(name, positive=True)
        return sp.log(scale) + sp.log(students[e.base][e.indices])

    return expression.replace(lambda e: isinstance(e, sp.Indexed) and e.base in students, logit)


def _reduce(e):
    if not e.args or isinstance(e, sp.Indexed):
        return e
    if isinstance(e, Sum):
        return functools.reduce(_reduce_sum, e.variables, _reduce(e.function))  # innermost index first
    if isinstance(e, KroneckerDelta):
        return e
    args = [_reduce(a) for a in e.args]
    if isinstance(e, sp.log):
        return sp.expand_log(sp.log(sp.factor_terms(args[0])))
    if isinstance(e, sp.exp):
        return sp.exp(sp.expand(args[0]))
    result = sp.expand(e.func(*args), deep=False)
    return sp.Add(*(_evaluate_deltas(t) for t in sp.Add.make_args(result)))


def _evaluate_deltas(term):
    """δ_ab f(a) = δ_ab f(b) and δ² = δ, for one product."""
    term = term.replace(
        lambda e: isinstance(e, sp.Pow) and isinstance(e.base, KroneckerDelta) and e.exp.is_positive,
        lambda e: e.base,
    )
    for delta in [f for f in sp.Mul.make_args(term) if isinstance(f, KroneckerDelta)]:
        rest = term / delta
        moved = rest.xreplace({delta.args[1]: delta.args[0]})
        if moved != rest:
            return delta * _reduce(moved)
    return term


def _reduce_sum(body, dummy):
    return sp.Add(*(_reduce_term(term, dummy) for term in sp.Add.make_args(sp.expand(body))))


def _reduce_term(term, dummy):
    factors = sp.Mul.make_args(term)
    for delta in factors:
        if isinstance(delta, KroneckerDelta) and dummy in delta.args:
            other = delta.args[1] if delta.args[0] == dummy else delta.args[0]
            return _reduce((term / delta).xreplace({dummy: other}))
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
    return _is_zero(normal_form(e))


def _is_zero(e):
    if e == 0:
        return True
    parts = _gather(e)
    if parts is not None and parts[1] != 0:
        outside, inside, dummy = parts
        e = _reduce(outside + Sum(_cancel(inside), (dummy, 1, V)))
    return _cancel(e) == 0


def _cancel(e):
    """Rational arithmetic with sums, logs and indexed symbols as unknowns."""
    names = {}
    for kind in (Sum, sp.log, sp.exp, sp.Indexed, KroneckerDelta):
        new = {s: sp.Dummy(positive=True) for s in e.atoms(kind)}
        e, names = e.xreplace(new), {**names, **{stand_in: s for s, stand_in in new.items()}}
    e = sp.expand(sp.cancel(sp.together(e)))
    return functools.reduce(lambda partial, name: partial.xreplace({name: names[name]}), reversed(names), e)


@functools.cache
def log_is_at_most_x_minus_one():
    """x - 1 - log x is 0 at x = 1, its only stationary point, and strictly convex: so > 0 elsewhere."""
    at = Symbol("x", positive=True)
    gap = at - 1 - sp.log(at)
    stationary = sp.solve(sp.diff(gap, at), at)
    return stationary == [1] and gap.subs(at, 1) == 0 and sp.diff(gap, at, 2).is_positive


# --- derivations ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """One line of a chain: an expression, how it stands to the line before, and why.

    ``relation`` is "=", ">=", "<" or "<=>".  ``by`` is what an inequality or an
    equivalence is checked with, see ``CHECKS``.
    """

    expression: sp.Basic
    reason: str = ""
    relation: str = "="
    by: tuple = ()

    @property
    def latex(self):
        return latex(self.expression)

    @property
    def sign(self):
        """The relation to the line before, in LaTeX."""
        return RELATIONS[self.relation]


@dataclass(frozen=True)
class Chain:
    """Expressions that follow one from another; ``distinct`` lists pairs of different indices."""

    steps: tuple
    title: str = ""
    distinct: tuple = ()

    @property
    def left(self):
        return self.steps[0].expression

    @property
    def right(self):
        return self.steps[-1].expression


def chain(start, *lines, title="", distinct=()):
    """Chain(start, (expression, reason[, relation[, by]]), …)."""
    return Chain((Step(start), *(Step(*line) for line in lines)), title, distinct)


@dataclass(frozen=True)
class Derivation:
    """A claim of the ledger and the chains that prove it."""

    id: str
    title: str
    claim: str
    chains: tuple
    setting: str = "any vocabulary size V"

    @property
    def steps(self):
        return tuple(step for part in self.chains for step in part.steps)

    def latex_claim(self):
        """The claim: first and last expression of each chain, one line a chain."""
        lines = list(dict.fromkeys(_claim_line(part) for part in self.chains))  # two routes, one claim
        if len(lines) == 1:
            return lines[0].replace("&", "")
        return "\\begin{aligned}\n" + " \\\\\n".join(lines) + "\n\\end{aligned}"

    def markdown(self):
        """The steps with their reasons, as Markdown with displayed mathematics."""
        return "\n\n".join(_chain_markdown(part) for part in self.chains)

    def check(self):
        """Check every step exactly and in numbers; raise DerivationError at the first that fails."""
        for part in self.chains:
            for before, step in zip(part.steps, part.steps[1:]):
                check_step(self.id, part, before, step)

    def evaluate(self, student, teacher, chain=0, **indices):
        """The last expression of a chain at given probabilities, as a float; see ``witness.evaluate``."""
        from opd_toy.derivations.witness import evaluate

        return evaluate(self.chains[chain].right, student, teacher, **indices)


RELATIONS = {"=": "=", ">=": r"\ge", "<": "<", "<=>": r"\iff"}


def _claim_line(part):
    """The strongest relation that the steps of a chain add up to."""
    used = {step.relation for step in part.steps[1:]}
    relation = next(sign for sign in ("<=>", "<", ">=", "=") if sign in used)
    return f"{latex(part.left)} &{RELATIONS[relation]} {latex(part.right)}"


def _chain_markdown(part):
    heading = [f"**{part.title[0].upper()}{part.title[1:]}.**"] if part.title else []
    start = f"$$\n{part.steps[0].latex}\n$$"
    lines = [f"{step.reason}\n\n$$\n{step.sign} {step.latex}\n$$" for step in part.steps[1:]]
    return "\n\n".join([*heading, start, *lines])


def check_step(name, part, before, step):
    """Raise DerivationError, naming derivation and step, unless ``step`` follows from ``before``."""
    where = f"{name}, step {part.steps.index(step) if step in part.steps else '?'} of {part.title or 'the chain'}"
    problem = exact_problem(part, before, step) or witness_problem(name, part, before, step)
    if problem:
        raise DerivationError(f"{where}: {latex(before.expression)} {step.relation} {latex(step.expression)} does not hold: {problem}")


def exact_problem(part, before, step):
    """What is wrong with a step by exact computation for every V, or None."""
    return CHECKS[step.relation](part, before.expression, step.expression, *step.by)


def _equal(part, before, after):
    difference = normal_form(after) - normal_form(before)
    difference = difference.xreplace({delta(*pair): sp.S.Zero for pair in part.distinct})
    return None if _is_zero(_reduce(difference)) else f"the difference comes out as {difference}, not 0"


def _at_least(part, before, after, positive, ratio, index):
    """before - after = Σ positive·(ratio - 1 - log ratio), and log x <= x - 1."""
    if not (positive.is_positive and ratio.is_positive and log_is_at_most_x_minus_one()):
        return f"the weight {positive} and the ratio {ratio} must be positive"
    gap = Sum(positive * (ratio - 1 - sp.log(ratio)), (index, 1, V))
    return None if is_zero(before - after - gap) else "the gap is not a sum of weight·(x - 1 - log x)"


def _below_zero(part, before, after):
    """before = -(product of positive factors) and after = 0."""
    if after != 0:
        return "the right side must be 0"
    sign, *factors = flat_factors(before)
    wrong = [f for f in factors if not _positive(f, part)]
    return f"not known to be positive: {wrong}" if wrong or sign != -1 else None


def _positive(e, part):
    """Positive by assumption, a square of a non-zero cost, or a sum with one such term and no negative one."""
    if isinstance(e, sp.Pow) and e.exp == 2 and isinstance(e.base, sp.Indexed) and e.base.base == C:
        return True  # where the cost is not 0
    if isinstance(e, Sum):
        index = e.variables[0]
        values = [e.function.xreplace({d: bit}) for d in e.atoms(KroneckerDelta) for bit in (sp.S.Zero, sp.S.One)]
        values = [sp.Mul(*flat_factors(value)).doit() for value in values]
        there = [e.function.xreplace({index: other}) for pair in part.distinct for other in pair]
        there = [sp.Mul(*flat_factors(t.xreplace({delta(*pair): sp.S.Zero for pair in part.distinct}))).doit() for t in there]
        return bool(values) and all(value.is_nonnegative for value in values) and any(t.is_positive for t in there)
    return bool(e.is_positive)


def _equivalent(part, before, after, by):
    """lhs - rhs of one side is a positive factor times lhs - rhs of the other, or both
    sides went through the same increasing function."""
    if type(before) is not type(after):
        return "the two inequalities point in different directions"
    if isinstance(by, sp.core.function.FunctionClass):
        at = Symbol("x", positive=True)
        increasing = sp.diff(by(at), at).is_positive
        same = all(is_zero(one - by(other)) for one, other in zip(before.args, after.args))
        return None if increasing and same else f"not the increasing function {by} of both sides"
    if not by.is_positive:
        return f"the factor {by} must be positive"
    gap = (before.lhs - before.rhs) - by * (after.lhs - after.rhs)
    return None if is_zero(gap) else f"{latex(by)} is not the ratio of the two sides"


CHECKS = {"=": _equal, ">=": _at_least, "<": _below_zero, "<=>": _equivalent}


def witness_problem(name, part, before, step):
    """What is wrong with a step at random points, or None."""
    from opd_toy.derivations.witness import counterexample

    return counterexample(before.expression, step.expression, step.relation, part.distinct, seed=name)
