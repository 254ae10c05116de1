"""Numbers for an expression, straight from the definitions.

The second witness of a derivation: it shares no code with the exact check.  Sums are
added up, derivatives are central differences at high precision, a limit is a point very
near to it.  A stop-gradient keeps the value it had before the difference was taken.
"""

import itertools
import math
import random
from dataclasses import dataclass, field, replace
from functools import cache, singledispatch

import mpmath
import sympy as sp
from mpmath import mpf

from opd_toy.derivations.notation import (
    DEFINITIONS,
    PARAMETERS,
    STUDENTS,
    TEACHERS,
    Defined,
    Expectation,
    Gradient,
    Limit,
    Partial,
    R,
    StopGradient,
    V,
    c,
    margin,
    n,
    q,
    z,
)

DIGITS = 120
STEP = mpf(10) ** -30  # central differences: error about STEP², far below the thirty digits compared
NEAR = mpf(10) ** -40  # distance to the point of a limit
FAR = mpf(10) ** 4  # stands for infinity; the limits of the book converge exponentially


@dataclass(frozen=True)
class Point:
    """Values for every symbol; ``tables`` maps an IndexedBase to {indices: number}."""

    size: int
    tables: dict
    symbols: dict
    slopes: dict = field(default_factory=dict)  # dz/dθ for each logit
    base: "Point | None" = None  # what stop-gradients see

    def with_symbols(self, values):
        base = self.base and self.base.with_symbols(values)
        return replace(self, symbols={**self.symbols, **values}, base=base)


@singledispatch
def number(e, at):
    """The value of an expression at a Point, as an mpmath number."""
    if isinstance(e, Defined):
        return number(_definition(e), at)
    if e.is_Rational:
        return mpf(e.p) / e.q
    if e.is_number:
        return mpmath.mpmathify(sp.N(e, DIGITS))
    raise TypeError(f"no number for {type(e).__name__}: {e}")


@number.register
def _(e: sp.Symbol, at):
    return mpf(at.size) if e == V else at.symbols[e]


@number.register
def _(e: sp.Indexed, at):
    indices = tuple(int(number(index, at)) for index in e.indices)
    if e.base in STUDENTS:
        return _softmax(STUDENTS[e.base], indices, at)
    if e.base in DEFINITIONS:
        return number(_entry(e.base, indices), at)
    return at.tables[e.base][indices]


@number.register
def _(e: sp.Add, at):
    return sum((number(arg, at) for arg in e.args), mpf(0))


@number.register
def _(e: sp.Mul, at):
    return math.prod((number(arg, at) for arg in e.args), start=mpf(1))


@number.register
def _(e: sp.Pow, at):
    return number(e.base, at) ** number(e.exp, at)


@number.register
def _(e: sp.exp, at):
    return mpmath.exp(number(e.args[0], at))


@number.register
def _(e: sp.log, at):
    return mpmath.log(number(e.args[0], at))


@number.register
def _(e: sp.KroneckerDelta, at):
    return mpf(number(e.args[0], at) == number(e.args[1], at))


@number.register
def _(e: sp.Sum, at):
    places = itertools.product(range(1, at.size + 1), repeat=len(e.variables))
    return mpmath.fsum(number(e.function, at.with_symbols(dict(zip(e.variables, place)))) for place in places)


@number.register
def _(e: sp.Integral, at):
    """Over the real line, for Gaussian integrands: below 1e-40 beyond 16, where the trapezium rule ends."""
    ((variable, _, _),) = e.limits
    places = (mpf(place) / 4 for place in range(-64, 65))
    return mpmath.fsum(number(e.function, at.with_symbols({variable: place})) for place in places) / 4


@number.register
def _(e: StopGradient, at):
    return number(e.args[0], at.base or at)


@number.register
def _(e: Partial, at):
    return _central_difference(e.args[0], at, lambda step: _shifted(at, e.args[1], step))


@number.register
def _(e: Gradient, at):
    return _central_difference(e.args[0], at, lambda step: _moved(at, step))


@number.register
def _(e: Limit, at):
    point = FAR if e.args[2] == sp.oo else number(e.args[2], at) + (NEAR if e.args[2] == 0 else -NEAR)
    return number(e.args[0], at.with_symbols({e.args[1]: point}))


@cache
def _definition(e):
    return e.definition(_dummy)


@cache
def _entry(base, indices):
    return DEFINITIONS[base](*indices)


def _dummy(name):
    return sp.Dummy(name, integer=True, positive=True)


def _softmax(logits, indices, at):
    exponentials = [mpmath.exp(at.tables[logits][(*indices[:-1], value)]) for value in range(1, at.size + 1)]
    return exponentials[indices[-1] - 1] / mpmath.fsum(exponentials)


def _central_difference(expression, at, move):
    difference = number(expression, move(STEP)) - number(expression, move(-STEP))
    return difference / (2 * STEP)


def _shifted(at, variable, step):
    base = at.base or at
    if isinstance(variable, sp.Indexed):
        indices = tuple(int(number(index, at)) for index in variable.indices)
        table = dict(at.tables[variable.base])
        table[indices] += step
        return replace(at, tables={**at.tables, variable.base: table}, base=base)
    return replace(at, symbols={**at.symbols, variable: at.symbols[variable] + step}, base=base)


def _moved(at, step):
    tables = dict(at.tables)
    for logits, slopes in at.slopes.items():
        tables[logits] = {index: value + step * slopes[index] for index, value in at.tables[logits].items()}
    return replace(at, tables=tables, base=at.base or at)


def random_points(expressions, distinct=(), sizes=(2, 3, 5), seed=0):
    """Points at which to compare expressions: every choice of indices when V = 2, then one each."""
    expressions = [sp.sympify(e) for e in expressions]
    indices = sorted(_free_indices(expressions), key=str)
    generator = random.Random(seed)
    for size in sizes:
        places = list(itertools.product(range(1, size + 1), repeat=len(indices)))
        places = [place for place in places if _allowed(dict(zip(indices, place)), distinct)]
        chosen = places if size == 2 else generator.sample(places, 1)
        for place in chosen:
            yield _random_point(size, dict(zip(indices, place)), generator)


def _free_indices(expressions):
    """Integer symbols that no sum or expectation binds."""
    return {s for e in expressions for s in _free(e) if s.is_integer and s != V}


def _free(e):
    if isinstance(e, sp.Symbol):
        return {e}
    inner = set().union(*map(_free, e.args)) if e.args else set()
    if isinstance(e, sp.Sum):
        return _free(e.function) - set(e.variables)
    if isinstance(e, Expectation):
        return inner - {e.args[1]}
    return inner


def _allowed(place, distinct):
    return all(place.get(first) is None or place.get(first) != place.get(second) for first, second in distinct)


def _random_point(size, indices, generator):
    draw = lambda low, high: mpf(generator.uniform(low, high))  # noqa: E731
    one, two = range(1, size + 1), list(itertools.product(range(1, size + 1), repeat=2))
    tables = {}
    for base in (*STUDENTS.values(), *TEACHERS, R, c):
        keys = two if str(base).endswith("2") else [(index,) for index in one]
        tables[base] = {key: draw(-2, 2) for key in keys}
    for teacher in TEACHERS:
        tables[teacher] = _normalised(tables[teacher])
    top = indices.get(n, 1)
    tables[margin] = {(index,): mpf(0) if index == top else draw(0.5, 2) for index in one}
    symbols = {symbol: draw(0.2, 0.8) for symbol in PARAMETERS}
    slopes = {base: {key: draw(-1, 1) for key in tables[base]} for base in STUDENTS.values()}
    return Point(size, tables, {**symbols, **indices}, slopes)


def _normalised(logits):
    weights = {key: mpmath.exp(value) for key, value in logits.items()}
    totals = {}
    for key, w in weights.items():
        totals[key[:-1]] = totals.get(key[:-1], 0) + w
    return {key: w / totals[key[:-1]] for key, w in weights.items()}


def counterexample(before, after, relation="=", distinct=(), seed=0):
    """A sentence that says where ``before relation after`` fails, or None if it held at every point."""
    truths = set()
    with mpmath.workdps(DIGITS):
        for at in random_points([before, after], distinct, seed=seed, sizes=SIZES[relation]):
            try:
                values = _truths(before, after, at) if relation == "<=>" else (number(before, at), number(after, at))
            except ZeroDivisionError:
                return f"at V = {at.size} a side divides by 0"
            truths.add(values[0])
            if not HOLDS[relation](*values):
                shown = [mpmath.nstr(value, 12) if not isinstance(value, bool) else value for value in values]
                return f"at V = {at.size} the sides are {shown[0]} and {shown[1]}"
    if relation == "<=>" and truths != {True, False}:
        return "the random points never tried both outcomes"
    return None


def _truths(before, after, at):
    return tuple(number(e.lhs, at) < number(e.rhs, at) for e in (before, after))


TOLERANCE = mpf(10) ** -30
SIZES = {"=": (2, 3, 5), ">=": (2, 3, 5), "<": (2, 3, 5), "<=>": (2, 3, 5, 2, 3, 5)}
HOLDS = {
    "=": lambda first, second: abs(first - second) <= TOLERANCE * max(1, abs(first), abs(second)),
    ">=": lambda first, second: first >= second - TOLERANCE,
    "<": lambda first, second: first < second,
    "<=>": lambda first, second: first == second,
}


def evaluate(expression, student, teacher, slope=None, **values):
    """A float for an expression at probabilities ``student`` (V,) and ``teacher`` (V,).

    ``values`` give the free symbols by name, indices counted from 1 as in the book: j=2.
    R and c, rewards and prices, are sequences of length V.  ∇ needs ``slope``, the
    derivative of each logit by the parameter: a unit vector makes ∇ the derivative by
    that logit.  Raises ValueError when a symbol has no value.
    """
    size = len(student)
    with mpmath.workdps(60):
        table = lambda numbers: {(index + 1,): mpf(float(w)) for index, w in enumerate(numbers)}  # noqa: E731
        tables = {z: {key: mpmath.log(w) for key, w in table(student).items()}, q: table(teacher)}
        for base in (R, c, margin):
            if str(base) in values:
                tables[base] = table(values.pop(str(base)))
        symbols = {s: values[str(s)] for s in (*PARAMETERS, *_free_indices([expression])) if str(s) in values}
        missing = {s for s in _free_indices([expression]) if s not in symbols}
        if missing:
            raise ValueError(f"evaluate needs a value for {', '.join(sorted(map(str, missing)))}, for example {min(map(str, missing))}=1")
        at = Point(size, tables, symbols, {z: table(slope)} if slope is not None else {})
        return float(number(expression, at))
