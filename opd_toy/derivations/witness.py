"""Numbers for an expression, straight from the definitions.

The second witness of a derivation: it shares no code with the exact check.  Sums are
added up, derivatives are central differences at high precision, a limit is a point very
near to it.  A stop-gradient keeps the value it had before the difference was taken.
"""

import itertools
import math
import random
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, singledispatch

import mpmath
import numpy as np
import sympy as sp
from mpmath import mpf

from opd_toy.derivations.notation import (
    DEFINITIONS,
    DRAWN,
    PARAMETERS,
    R2,
    STUDENTS,
    TEACHERS,
    Defined,
    Expectation,
    Gradient,
    Limit,
    Partial,
    R,
    SequenceMean,
    StopGradient,
    T,
    V,
    c,
    cost,
    cost_bound,
    dimension,
    local_gradient,
    local_kl,
    margin,
    n,
    of_sequences,
    q,
    q2,
    score_at,
    score_bound,
    z,
    z2,
)

DIGITS = 120
STEP = (
    mpf(10) ** -30
)  # central differences: error about STEP², far below the thirty digits compared
NEAR = mpf(10) ** -40  # distance to the point of a limit
DIMENSION = 2  # parameters of the student of random sequences
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
    """Over the real line, for Gaussian integrands: below 1e-40 beyond 16, where the trapezium rule ends."""
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
    point = (
        FAR if e.args[2] == sp.oo else number(e.args[2], at) + (NEAR if e.args[2] == 0 else -NEAR)
    )
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


@dataclass(frozen=True)
class Tree:
    """Every prefix of less than ``length`` tokens, as a tuple of tokens counted from 0.

    ``logits`` and ``teacher`` (probabilities) map a prefix to V numbers; ``slopes`` maps it
    to dz/dθ, a row of V numbers for each parameter.
    """

    length: int
    logits: dict
    teacher: dict
    slopes: dict
    means: dict = field(default_factory=dict, compare=False)  # those already taken

    @property
    def dimension(self):
        return len(self.slopes[()])

    @cached_property
    def sequences(self):
        """(chance, what it has at each position) for every sequence."""
        nodes = {prefix: _node(self, prefix) for prefix in self.logits}
        return [
            _sequence(nodes, tokens)
            for tokens in itertools.product(range(len(self.logits[()])), repeat=self.length)
        ]

    def moved(self, step):
        """∇ without a coordinate is by the first parameter."""
        logits = {
            prefix: [value + step * slope for value, slope in zip(row, self.slopes[prefix][0])]
            for prefix, row in self.logits.items()
        }
        return replace(self, logits=logits, means={})


def _node(tree, prefix):
    """Chances, costs, and scores by parameter of the tokens after a prefix."""
    weights = [mpmath.exp(value) for value in tree.logits[prefix]]
    chances = [w / mpmath.fsum(weights) for w in weights]
    costs = [mpmath.log(chance / other) for chance, other in zip(chances, tree.teacher[prefix])]
    scores = [[value - _mean(chances, row) for value in row] for row in tree.slopes[prefix]]
    return chances, costs, scores


def _mean(chances, values):
    return mpmath.fsum(chance * value for chance, value in zip(chances, values))


def _sequence(nodes, tokens):
    """Positions are counted from 1; a vector's coordinate comes second, and without one it is the first."""
    chance, drawn = mpf(1), {base: {} for base in DRAWN}
    for place, token in enumerate(tokens, 1):
        chances, costs, scores = nodes[tokens[: place - 1]]
        chance *= chances[token]
        drawn[cost][(place,)] = costs[token]
        drawn[local_kl][(place,)] = _mean(chances, costs)
        for coordinate, row in enumerate(scores, 1):
            gradient = _mean(chances, [one * score for one, score in zip(costs, row)])
            keys = ((place, coordinate), (place,)) if coordinate == 1 else ((place, coordinate),)
            drawn[score_at].update(dict.fromkeys(keys, row[token]))
            drawn[local_gradient].update(dict.fromkeys(keys, gradient))
    return chance, drawn


def _random_tree(length, generator):
    prefixes = [
        prefix for size in range(length) for prefix in itertools.product((0, 1), repeat=size)
    ]
    pair = lambda: [mpf(generator.uniform(-2, 2)) for _ in range(2)]
    chances = {prefix: mpf(generator.uniform(0.1, 0.9)) for prefix in prefixes}
    slopes = {prefix: [pair() for _ in range(DIMENSION)] for prefix in prefixes}
    return Tree(
        length,
        {prefix: pair() for prefix in prefixes},
        {prefix: [w, 1 - w] for prefix, w in chances.items()},
        slopes,
    )


def _tight_bounds(tree):
    """The largest cost and the longest score of any token of the tree: bounds that leave no room."""
    nodes = [_node(tree, prefix) for prefix in tree.logits]
    costs = max(abs(one) for _, both, _ in nodes for one in both)
    scores = max(
        mpmath.sqrt(mpmath.fsum(value**2 for value in token))
        for _, _, rows in nodes
        for token in zip(*rows)
    )
    return {cost_bound: costs, score_bound: scores}


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
            at = _random_point(size, dict(zip(indices, place)), generator)
            yield _with_sequences(at, generator) if any(map(of_sequences, expressions)) else at


def _free_indices(expressions):
    """Integer symbols that no sum or expectation binds."""
    return {s for e in expressions for s in _free(e) if s.is_integer and s not in (V, T, dimension)}


def _free(e):
    if isinstance(e, sp.Symbol):
        return {e}
    inner = set().union(*map(_free, e.args)) if e.args else set()
    if isinstance(e, sp.Sum):
        bounds = set().union(*(_free(side) for _, low, high in e.limits for side in (low, high)))
        return (_free(e.function) | bounds) - set(e.variables)
    if isinstance(e, Expectation):
        return inner - {e.args[1]}
    return inner


def _allowed(place, distinct):
    return all(
        place.get(first) is None or place.get(first) != place.get(second)
        for first, second in distinct
    )


def _with_sequences(at, generator):
    tree = _random_tree(at.size, generator)
    _, drawn = generator.choice(tree.sequences)  # seen outside any mean
    return replace(at, tree=tree, drawn=drawn, symbols={**at.symbols, **_tight_bounds(tree)})


def _random_point(size, indices, generator):
    draw = lambda low, high: mpf(generator.uniform(low, high))
    one, two = range(1, size + 1), list(itertools.product(range(1, size + 1), repeat=2))
    tables = {}
    for base in (*STUDENTS.values(), *TEACHERS, R, R2, c):
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
        sizes = LENGTHS if of_sequences(before) or of_sequences(after) else SIZES[relation]
        for at in random_points([before, after], distinct, seed=seed, sizes=sizes):
            try:
                values = (
                    _truths(before, after, at)
                    if relation == "<=>"
                    else (number(before, at), number(after, at))
                )
            except ZeroDivisionError:
                return f"at V = {at.size} a side divides by 0"
            truths.add(values[0])
            if not HOLDS[relation](*values):
                shown = [
                    mpmath.nstr(value, 12) if not isinstance(value, bool) else value
                    for value in values
                ]
                return f"at V = {at.size} the sides are {shown[0]} and {shown[1]}"
    if relation == "<=>" and truths != {True, False}:
        return "the random points never tried both outcomes"
    return None


def _truths(before, after, at):
    return tuple(number(e.lhs, at) < number(e.rhs, at) for e in (before, after))


TOLERANCE = mpf(10) ** -30
SIZES = {
    "=": (2, 3, 5),
    ">=": (2, 3, 5),
    "<=": (2, 3, 5),
    "<": (2, 3, 5),
    "<=>": (2, 3, 5, 2, 3, 5),
}
LENGTHS = (2, 3, 4)  # T, where sequences of any length are meant
HOLDS = {
    "=": lambda first, second: abs(first - second) <= TOLERANCE * max(1, abs(first), abs(second)),
    ">=": lambda first, second: first >= second - TOLERANCE,
    "<=": lambda first, second: first <= second + TOLERANCE,
    "<": lambda first, second: first < second,
    "<=>": lambda first, second: first == second,
}


def evaluate(expression, student, teacher, slope=None, **values):
    """A float for an expression at probabilities ``student`` (V,) and ``teacher`` (V,).

    For a tree of two positions both are pairs ((V,), (V, V)): the first token's
    probabilities, and the second's, a row for each first token.  ``values`` give the free
    symbols by name, indices counted from 1 as in the book: j=2.  R and c, rewards and
    prices, are sequences of length V, and R2 is (V, V); T is the length of a sequence.
    ∇ needs ``slope``, the derivative of each logit by the parameter, shaped like the
    student: a unit vector makes ∇ the derivative by that logit.  Raises ValueError when a
    symbol has no value.
    """
    size = values.pop("T", None) or len(_pair(student)[0])
    with mpmath.workdps(60):
        tables = {q: {}, q2: {}, z: {}, z2: {}}
        for logits, teachers, row, other in zip((z, z2), (q, q2), _pair(student), _pair(teacher)):
            tables[logits] = {key: mpmath.log(w) for key, w in _table(row).items()}
            tables[teachers] = _table(other)
        for base in (R, R2, c, margin):
            if str(base) in values:
                tables[base] = _table(values.pop(str(base)))
        known = (*PARAMETERS, cost_bound, score_bound, *_free_indices([expression]))
        symbols = {s: values[str(s)] for s in known if str(s) in values}
        missing = {s for s in _free_indices([expression]) if s not in symbols}
        if missing:
            raise ValueError(
                f"evaluate needs a value for {', '.join(sorted(map(str, missing)))}, for example {min(map(str, missing))}=1"
            )
        slopes = (
            {logits: _table(row) for logits, row in zip((z, z2), _pair(slope))}
            if slope is not None
            else {}
        )
        return float(number(expression, Point(size, tables, symbols, slopes)))


def evaluate_sequences(expression, student, teacher, parameters, **values):
    """A float for an expression over sequences of any length T, at two whole trees.

    ``student`` and ``teacher`` are tuples of T arrays (V**t, V), logits and probabilities, a
    row for each prefix in base-V order.  ``parameters`` lists which logits, counted through
    all arrays row by row, are the vector's coordinates; ∇ is by the first of them.
    ``values`` as for ``evaluate``; B_r and B_s are the largest cost and the longest score.
    """
    with mpmath.workdps(60):
        size, length = student[0].shape[1], len(student)
        prefixes = [
            prefix for t in range(length) for prefix in itertools.product(range(size), repeat=t)
        ]
        rows, chances = (
            {
                prefix: [mpf(float(w)) for w in row]
                for prefix, row in zip(prefixes, np.vstack(arrays))
            }
            for arrays in (student, teacher)
        )
        slopes = {
            prefix: [[mpf(one == start + token) for token in range(size)] for one in parameters]
            for start, prefix in zip(itertools.count(0, size), prefixes)
        }
        tree = Tree(length, rows, chances, slopes)
        symbols = {
            s: values[str(s)]
            for s in (*PARAMETERS, *_free_indices([expression]))
            if str(s) in values
        }
        return float(
            number(expression, Point(length, {}, {**symbols, **_tight_bounds(tree)}, tree=tree))
        )


def _pair(one):
    return one if isinstance(one, tuple) and np.ndim(one[0]) == 1 else (one,)


def _table(numbers):
    """{(index, …): number} of an array, indices counted from 1."""
    entries = np.asarray(numbers, dtype=float)
    return {
        tuple(place + 1 for place in index): mpf(float(w)) for index, w in np.ndenumerate(entries)
    }
