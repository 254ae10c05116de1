"""Random points at which the two sides of a step are compared."""

import itertools
import random
from dataclasses import replace

import mpmath
import sympy as sp
from mpmath import mpf

from opd_toy.derivations.notation import (
    PARAMETERS,
    R2,
    STUDENTS,
    TEACHERS,
    Expectation,
    R,
    T,
    V,
    c,
    dimension,
    margin,
    n,
    of_sequences,
)
from opd_toy.derivations.numeric import Point
from opd_toy.derivations.trees import random_tree, tight_bounds


def random_points(expressions, distinct=(), sizes=(2, 3, 5), seed=0):
    """Points at which to compare expressions: every choice of indices when V = 2, then one each."""
    expressions = [sp.sympify(e) for e in expressions]
    indices = sorted(free_indices(expressions), key=str)
    generator = random.Random(seed)
    for size in sizes:
        places = list(itertools.product(range(1, size + 1), repeat=len(indices)))
        places = [place for place in places if _allowed(dict(zip(indices, place)), distinct)]
        chosen = places if size == 2 else generator.sample(places, 1)
        for place in chosen:
            at = _random_point(size, dict(zip(indices, place)), generator)
            yield _with_sequences(at, generator) if any(map(of_sequences, expressions)) else at


def free_indices(expressions):
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
    tree = random_tree(at.size, generator)
    _, drawn = generator.choice(tree.sequences)  # seen outside any mean
    return replace(at, tree=tree, drawn=drawn, symbols={**at.symbols, **tight_bounds(tree)})


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
