"""Measuring a loss with a behaviour: every call that is made of it, laid down in tables."""

from dataclasses import dataclass

import numpy as np

from opd_toy.audit.calling import NoGradient, gradient_of
from opd_toy.audit.stale import triples
from opd_toy.audit.stale.triples import SIGNS, WALK, Triple
from opd_toy.audit.token.measure import Measurements
from opd_toy.audit.token.measure import measure as measure_fresh
from opd_toy.distributions import softmax

HALVINGS = 46


@dataclass(frozen=True)
class Table:
    """Gradients (V, V) of one triple, row k where token k is drawn.

    ``rows``: as they are; ``fresh``: of tokens that the student itself drew; ``then``: those
    of the student that was the behaviour, on its own tokens.
    """

    triple: Triple
    rows: np.ndarray
    fresh: np.ndarray
    then: np.ndarray

    @property
    def p(self):
        return softmax(self.triple.student)

    @property
    def q(self):
        return softmax(self.triple.teacher)

    @property
    def mu(self):
        return softmax(self.triple.behaviour)

    @property
    def expected(self):
        return self.mu @ self.rows

    @property
    def size(self):
        """Mean length of the rows."""
        return float(self.mu @ np.sqrt((self.rows**2).sum(axis=1)))


@dataclass(frozen=True)
class Walk:
    """Gradients (N, V) of one token whose log p/mu goes through ``steps`` (N,).

    ``moved``: "behaviour" or "student"; ``directions`` (N, V): of its score, delta - p;
    ``jumps``: {n: the step between steps n and n + 1 at which the gradient becomes 0, or ends
    being 0}.
    """

    moved: str
    steps: np.ndarray
    rows: np.ndarray
    directions: np.ndarray
    jumps: dict


@dataclass(frozen=True)
class StaleMeasurements:
    """All that is known of a loss.  ``fresh``: of tokens that the student draws itself."""

    fresh: Measurements
    tables: list
    at_teacher: list
    walks: dict
    seed: int


def measure(way, seed):
    """-> StaleMeasurements of a Way with a ``behaviour_argument``."""
    fresh = measure_fresh(way, "student", seed)
    return StaleMeasurements(
        fresh,
        [_table(way, triple) for triple in triples.random_triples(seed)],
        [_table(way, triple) for triple in triples.at_teacher(seed)],
        {
            (moved, sign): _walk(way, moved, sign)
            for moved in ("behaviour", "student")
            for sign in SIGNS
        },
        seed,
    )


def _table(way, triple):
    student, teacher, behaviour = triple
    return Table(
        triple,
        _rows(way, student, teacher, behaviour),
        _rows(way, student, teacher, student),
        _rows(way, behaviour, teacher, behaviour),
    )


def _rows(way, student, teacher, behaviour):
    drawn = way.drawn_by(behaviour)
    return np.array([_row(drawn, student, teacher, token) for token in range(len(student))])


def _row(drawn, student, teacher, token):
    """0 where it has no gradient, as behind a mask."""
    given = (np.array(token),) if drawn.count > 2 else ()
    try:
        return gradient_of(drawn, student, teacher, *given).student_gradient
    except NoGradient:
        return np.zeros(len(student))


def _walk(way, moved, sign):
    def row(step):
        student, teacher, behaviour = triples.on_a_walk(moved, sign, step)
        return _row(way.drawn_by(behaviour), student, teacher, 0)

    rows = np.array([row(step) for step in WALK])
    there = rows.any(axis=1)
    turns = np.flatnonzero(there[1:] != there[:-1])
    jumps = {int(n): jump_between(row, WALK[n], WALK[n + 1], there[n]) for n in turns}
    students = [softmax(triples.on_a_walk(moved, sign, step).student) for step in WALK]
    return Walk(moved, WALK, rows, np.array([np.eye(4)[0] - p for p in students]), jumps)


def jump_between(row, low, high, below):
    """Between ``low`` and ``high``, where the gradient becomes 0 or ends being 0.

    ``below``: whether there is one at ``low``.
    """
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if row(middle).any() == below:
            low = middle
        else:
            high = middle
    return float((low + high) / 2)
