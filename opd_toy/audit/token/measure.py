"""Measuring a loss of one token: every call that an audit makes of it, laid down in tables.

``measure(loss)`` calls the loss on every token of many pairs, at student = teacher, on a
path of descent and at the edges.  What comes after works on these tables alone.
"""

from dataclasses import dataclass

import numpy as np

from opd_toy.audit import formats
from opd_toy.audit.calling import (
    AuditError,
    Called,
    NoGradient,
    check_deterministic,
    check_unchanged,
    gradient_of,
)
from opd_toy.audit.token import edges
from opd_toy.audit.token.limits import OVERFLOWS, binding
from opd_toy.audit.token.limits import inside as within
from opd_toy.audit.token.pairs import (
    CLOSE,
    LARGE_OF_ALL,
    LARGE_OF_TOKEN,
    ORDINARY,
    PEAKED,
    large_pairs,
    near_pairs,
    notes_pair,
    random_pairs,
    reach_pairs,
)
from opd_toy.audit.ways import TOKENS, as_way
from opd_toy.distributions import softmax
from opd_toy.example import STUDENT, TEACHER

STEPS = 150
ROOM = 1e150  # gradients above it could not be squared
SETTLED = 1e-8  # of the gradient at the start: the end of a descent, except in coarse formats
AWAY = np.array([[0.7, -0.4, 0.1], [-0.3, 0.2, 0.6]])
NOT_FINITE = (
    "{subject} is not finite at ordinary logits: {what} for student_logits {student!r}, "
    "teacher_logits {teacher!r}{where}. "
    "Look for a log of 0, a division by 0, or logits taken for probabilities: "
    'then write {entry}({code}, inputs="probs")'
)


@dataclass(frozen=True)
class Table:
    """What a loss gave on one pair of logits (V,): a gradient (V,) and a value for each token.

    Only one row and value where the loss takes no token.
    """

    student: np.ndarray
    teacher: np.ndarray
    tier: int
    fit: bool
    rows: np.ndarray
    values: np.ndarray
    touched: tuple = ()
    teacher_gradient: bool = False

    def weights(self, drawn_from):
        if len(self.rows) == 1:
            return np.ones(1)
        return softmax(self.student if drawn_from == "student" else self.teacher)

    def expectation(self, drawn_from):
        return self.weights(drawn_from) @ self.rows

    def value(self, drawn_from):
        return self.weights(drawn_from) @ self.values

    def size(self, drawn_from):
        """Mean length of the rows: what rounding is measured by."""
        return float(self.weights(drawn_from) @ np.sqrt((self.rows**2).sum(axis=1)))


@dataclass(frozen=True)
class Descent:
    """Descent from the notes' student: logits after 0, 1, ... steps, expected gradients there.

    The last logits have no gradient where they, or it, are not finite.
    """

    logits: np.ndarray
    gradients: np.ndarray


@dataclass(frozen=True)
class Measurements:
    """All that is known of a loss.

    ``tables``: of ``random_pairs`` and ``reach_pairs``, the notes' pair first; ``large``:
    tables of large vocabularies; ``same``: at student = teacher; ``formats``: names of the
    floating formats whose rounding the loss shows; ``inside``: where the loss has limits,
    the same pairs as in ``tables`` moved within them, and those of ``large``; ``near``: tables
    of ``near_pairs``.
    """

    drawn_from: str
    seed: int
    tables: list
    large: list
    same: list
    descent: Descent
    edges: edges.EdgeCalls
    formats: frozenset
    inside: tuple = ()
    near: tuple = ()


def measure(loss, drawn_from, seed):
    """-> Measurements, tokens drawn from ``drawn_from``.  AuditError where it cannot be audited."""
    loss = as_way(loss, TOKENS)
    taken = loss.count
    probe = _probe(loss, taken)
    first = check_deterministic(loss, *probe)
    size = LARGE_OF_TOKEN if taken == 3 else LARGE_OF_ALL
    pairs, of_many = random_pairs(seed), large_pairs(seed, size)
    tables = [tabulate(loss, taken, *pair) for pair in pairs]
    large = [tabulate(loss, taken, *pair) for pair in of_many]
    check_unchanged(loss, first, *probe)
    _refuse_not_finite(tables + large, loss.names)
    tables[-len(PEAKED) : -len(PEAKED)] = _reach(loss, taken)
    inside_formats = {formats.by_rounding(lambda step: _on_a_line(loss, taken, step))}
    found = formats.precision(*[table.rows for table in tables])
    coarsest = formats.candidates(found, inside_formats)[-1]
    at_edges = edges.call_at_edges(loss, taken, drawn_from, coarsest)
    teachers = [table.teacher for table in tables if table.tier == ORDINARY and table.fit]
    return Measurements(
        drawn_from,
        seed,
        tables,
        large,
        [tabulate(loss, taken, teacher, teacher, CLOSE) for teacher in teachers],
        descend(loss, taken, drawn_from),
        at_edges,
        frozenset(inside_formats),
        _inside(loss, taken, (pairs, of_many), at_edges.limits),
        tuple(tabulate(loss, taken, *pair) for pair in near_pairs(seed)),
    )


def tabulate(loss, taken, student, teacher, tier=ORDINARY, fit=True):
    """-> Table.  A token without a gradient has a row of zeros, one refused far out a row of NaN.

    NoGradient where none of the tokens has one and the pair is ordinary.
    """
    calls, refusals = [], []
    for token in _tokens(taken, len(student)):
        try:
            calls.append(gradient_of(loss, student, teacher, *token))
        except NoGradient as refusal:
            calls.append(None)
            refusals.append(refusal)
        except AuditError:  # far out a loss may refuse
            if tier <= ORDINARY:
                raise
            calls.append(Called(np.nan, np.full(len(student), np.nan), None, ()))
    if len(refusals) == len(calls) and tier == ORDINARY:
        raise refusals[0]
    known = [called for called in calls if called]
    values = iter(refusals)
    return Table(
        student,
        teacher,
        tier,
        fit,
        np.array([c.student_gradient if c else np.zeros(len(student)) for c in calls]),
        np.array([c.value if c else next(values).value for c in calls]),
        tuple({name for called in known for name in called.touched}),
        any(called.reaches_teacher for called in known),
    )


def _reach(loss, taken):
    """Tables of ``reach_pairs``, but for those where the loss has left the floats far out."""
    found = [(apart, tabulate(loss, taken, *pair)) for apart, pair in reach_pairs()]
    with np.errstate(invalid="ignore"):
        return [t for apart, t in found if apart < OVERFLOWS or np.abs(t.rows).max() < ROOM]


def _on_a_line(loss, taken, step):
    """The gradients of all tokens where both models have gone a step from the notes' pair."""
    student, teacher, *_ = notes_pair()
    student, teacher = student + step * AWAY[0], teacher + step * AWAY[1]
    return tabulate(loss, taken, student, teacher, CLOSE).rows.ravel()


def _inside(loss, taken, groups, limits):
    """(tables, tables of large vocabularies) of the pairs moved within the limits, or ()."""
    limits = binding(limits)
    if not limits:
        return ()
    pairs, large = groups
    reach = [pair for apart, pair in reach_pairs() if apart < OVERFLOWS]
    pairs = [*pairs[: -len(PEAKED)], *reach, *pairs[-len(PEAKED) :]]
    moved = [[within(pair, limits) for pair in group] for group in (pairs, large)]
    return tuple(
        [tabulate(loss, taken, *pair) for pair in group if pair is not None] for group in moved
    )


def descend(loss, taken, drawn_from):
    """-> Descent on the expected gradient, until it is nothing, or not finite, or for STEPS."""
    teacher, z = np.log(TEACHER), np.log(STUDENT)

    def gradient_at(logits):
        return tabulate(loss, taken, logits, teacher, CLOSE).expectation(drawn_from)

    gradient = gradient_at(z)
    logits, gradients = [z], [gradient]
    start = np.linalg.norm(gradient)
    # As long a step as descent of a KL of the same strength bears; halved where it overshoots.
    rate = 2 * np.linalg.norm(STUDENT - TEACHER) / start if start > 0 else 0.0
    while len(gradients) <= STEPS and np.linalg.norm(gradient) > SETTLED * start:
        z = z - rate * gradient
        z = z - z.max()
        logits.append(z)
        if not np.abs(z).max() < 500:  # nor where it is not finite
            break
        try:
            following = gradient_at(z)
        except AuditError:  # far off the loss may refuse: that is where descent ends
            break
        if not np.isfinite(following).all():
            break
        if following @ gradient < 0:
            rate /= 2
        gradient = following
        gradients.append(gradient)
    return Descent(np.array(logits), np.array(gradients))


def _probe(loss, taken):
    """Arguments of a call that has a gradient: the notes' pair, the first token not left out."""
    student, teacher, *_ = notes_pair()
    for token in _tokens(taken, len(student)):
        try:
            gradient_of(loss, student, teacher, *token)
        except NoGradient as refusal:
            last = refusal
        else:
            return student, teacher, *token
    raise last


def _tokens(taken, size):
    return [(np.array(token),) for token in range(size)] if taken == 3 else [()]


def _refuse_not_finite(tables, names):
    for table in tables:
        if table.tier > ORDINARY:
            continue
        wrong = ~np.isfinite(table.values) | ~np.isfinite(table.rows).all(axis=1)
        if not wrong.any():
            continue
        token = int(np.argmax(wrong))
        value, row = float(table.values[token]), table.rows[token].tolist()
        raise AuditError(
            NOT_FINITE.format(
                what=f"its gradient is {row!r}"
                if np.isfinite(value)
                else f"its value is {value!r}",
                student=np.round(table.student, 3).tolist(),
                teacher=np.round(table.teacher, 3).tolist(),
                where=f", token {token}" if len(table.rows) > 1 else "",
                **names,
            )
        )
