"""Expressions at given probabilities: how the tests hold the engine to the proofs."""

import itertools

import mpmath
import numpy as np
from mpmath import mpf

from opd_toy.derivations.notation import (
    PARAMETERS,
    R2,
    R,
    c,
    cost_bound,
    margin,
    old,
    old2,
    q,
    q2,
    score_bound,
    z,
    z2,
)
from opd_toy.derivations.numeric import Point, number
from opd_toy.derivations.points import free_indices
from opd_toy.derivations.trees import Tree, tight_bounds


def evaluate(expression, student, teacher, slope=None, **values):
    """A float for an expression at probabilities ``student`` (V,) and ``teacher`` (V,).

    For a tree of two positions both are pairs ((V,), (V, V)): the first token's
    probabilities, and the second's, a row for each first token.  ``values`` give the free
    symbols by name, indices counted from 1 as in the book: j=2.  R and c, rewards and
    prices, and old, the behaviour, are sequences of length V, R2 and old2 are (V, V); T is
    the length of a sequence.
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
        for base in (R, R2, c, margin, old, old2):
            if str(base) in values:
                tables[base] = _table(values.pop(str(base)))
        known = (*PARAMETERS, cost_bound, score_bound, *free_indices([expression]))
        symbols = {s: values[str(s)] for s in known if str(s) in values}
        missing = {s for s in free_indices([expression]) if s not in symbols}
        if missing:
            first, *others = sorted(map(str, missing))
            needed = ", ".join((first, *others))
            raise ValueError(f"evaluate needs a value for {needed}, for example {first}=1")
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
            for s in (*PARAMETERS, *free_indices([expression]))
            if str(s) in values
        }
        return float(
            number(expression, Point(length, {}, {**symbols, **tight_bounds(tree)}, tree=tree))
        )


def _pair(one):
    return one if isinstance(one, tuple) and np.ndim(one[0]) == 1 else (one,)


def _table(numbers):
    """{(index, …): number} of an array, indices counted from 1."""
    entries = np.asarray(numbers, dtype=float)
    return {
        tuple(place + 1 for place in index): mpf(float(w)) for index, w in np.ndenumerate(entries)
    }
