"""The value of an expression at a point, straight from the definitions.

Sums are added up, derivatives are central differences at high precision, a limit is a point
very near to it.  A stop-gradient keeps the value it had before the difference was taken.
Nothing here is shared with the exact check.
"""

import math
from dataclasses import dataclass, field, replace
from functools import cache, singledispatch

import mpmath
import sympy as sp
from mpmath import mpf

from opd_toy.derivations.notation import (
    DEFINITIONS,
    DRAWN,
    STUDENTS,
    Defined,
    Gradient,
    Limit,
    Partial,
    SequenceMean,
    StopGradient,
    T,
    V,
    dimension,
)
from opd_toy.derivations.trees import Tree

DIGITS = 120
# Central differences err by about STEP², far below the thirty digits that are compared.
STEP = mpf(10) ** -30
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
    tree: "Tree | None" = None  # sequences of T tokens
    drawn: dict = field(default_factory=dict)  # what one of those sequences has at each position

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
    if e == dimension:
        return mpf(at.tree.dimension)
    return mpf(at.size) if e in (V, T) else at.symbols[e]


@number.register
def _(e: sp.Indexed, at):
    indices = tuple(int(number(index, at)) for index in e.indices)
    if e.base in STUDENTS:
        return _softmax(STUDENTS[e.base], indices, at)
    if e.base in DEFINITIONS:
        return number(_entry(e.base, indices), at)
    if e.base in DRAWN:
        return at.drawn[e.base][indices]
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
    *inner, (index, low, high) = e.limits  # sympy writes nested sums as one, the innermost first
    body = sp.Sum(e.function, *inner) if inner else e.function
    places = range(int(number(low, at)), int(number(high, at)) + 1)
    return mpmath.fsum(number(body, at.with_symbols({index: place})) for place in places)


@number.register
def _(e: SequenceMean, at):
    """Over every sequence of the tree; kept, for a mean may stand inside another."""
    key = (e, *(at.symbols.get(s) for s in _symbols(e)))
    if key not in at.tree.means:
        at.tree.means[key] = mpmath.fsum(
            chance * number(e.args[0], replace(at, drawn=drawn))
            for chance, drawn in at.tree.sequences
        )
    return at.tree.means[key]


@cache
def _symbols(e):
    return sorted(e.atoms(sp.Symbol), key=str)


@number.register
def _(e: sp.Integral, at):
    """Over the real line, by the trapezium rule from -16 to 16.

    The book's integrands are Gaussian, below 1e-40 beyond.
    """
    ((variable, _, _),) = e.limits
    places = (mpf(place) / 4 for place in range(-64, 65))
    return (
        mpmath.fsum(number(e.function, at.with_symbols({variable: place})) for place in places) / 4
    )


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
    point = FAR if e.args[2] == sp.oo else number(e.args[2], at) + NEAR
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
    exponentials = [
        mpmath.exp(at.tables[logits][(*indices[:-1], value)]) for value in range(1, at.size + 1)
    ]
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
        tables[logits] = {
            index: value + step * slopes[index] for index, value in at.tables[logits].items()
        }
    tree = at.tree and at.tree.moved(step)
    return replace(at, tables=tables, base=at.base or at, tree=tree)
