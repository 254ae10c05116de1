"""Over which tokens of a stale text are the ratios multiplied?

A text of rare tokens; the behaviour's row of one position is moved, and with it the ratio of
that token alone.  By how much each row of the gradient grows with it is a map (T, T).
"""

import copy
import itertools
from dataclasses import dataclass

import numpy as np

from opd_toy.audit.calling import AuditError
from opd_toy.audit.stale import factor, names
from opd_toy.audit.stale.measure import Walk, jump_between
from opd_toy.audit.stale.triples import RARE, ROUNDING, SIGNS, WALK
from opd_toy.audit.stale.verdict import FRESH, KEPT, Law
from opd_toy.distributions import softmax

LENGTH, VOCABULARY = 4, 5
SMALL = 2e-4  # a step of a log ratio that no clip's limits reach, GSPO's neither
TOKENS = np.arange(LENGTH)  # token t at position t
COSTS = np.array([1.0, -0.6, 0.8, -1.1])  # log p - log q of these
STALE = "{base} from stale texts, {kept}{words}"
NOUNS = {
    "token": "ratio of the token",
    "before": "product of the ratios before the token",
    "prefix": "product of the ratios up to the token",
    "sequence": "product of the ratios over the text",
    "mean": "product of the ratios over the text to the power 1/T",
    "each": "product of the ratios up to each cost",
}
NONE = "none"


@dataclass(frozen=True)
class Level:
    """``level``: a key of NOUNS or "none"; ``cost``: "recomputed" or "kept"."""

    level: str
    cost: str
    correction: names.Correction | None

    @property
    def words(self):
        if self.level == NONE:
            return "no ratio"
        noun = NOUNS[self.level]
        if self.level == "each":
            return f"weighted by the {noun}"
        if self.correction is None:
            return f"weighted by the {noun}, by a law of its own"
        words = self.correction.words.replace("the ratio", f"the {noun}")
        if self.level != "token":
            words = words.replace("where p/μ", "where it is")
        return noun + words.removeprefix("ratio") if words.startswith("ratio ") else words


def name(base, level):
    kept = names.KEPT_COST if level.cost == KEPT else ""
    return STALE.format(base=base, kept=kept, words=level.words)


def level_of(call, precision):
    """-> (Level or None, the map (T, T)) of a SequenceCall whose loss has a ``behaviour_argument``.

    Row t of the map: by which powers the gradient's row t grows with the ratios; None where
    that is no number.
    """
    rounding = ROUNDING.get(precision)
    if rounding is None:
        return None, None
    try:
        grown = _map(call, rounding)
        found = grown is not None and _level(grown, 30 * rounding / SMALL + 1e-3)
        if not found:
            return None, grown
        level, cost = found
        return Level(level, cost, _correction(call, level, cost, rounding)), grown
    except AuditError:
        return None, None


def _text(steps, moved="behaviour", costs=COSTS):
    """(student, teacher, behaviour) logits (T, V), token t at t with log p/mu = ``steps`` (T,)."""
    random = np.random.default_rng(15)
    logs = {"student": np.zeros(LENGTH), "teacher": -costs, "behaviour": np.zeros(LENGTH)}
    logs[moved] = steps if moved == "student" else -steps
    return [_rows(random, logs[who]) for who in ("student", "teacher", "behaviour")]


def _rows(random, logs):
    rows = softmax(random.normal(size=(LENGTH, VOCABULARY)))
    rows[np.arange(LENGTH), TOKENS] = 0
    rows *= ((1 - RARE * np.exp(logs)) / rows.sum(axis=1))[:, None]
    rows[np.arange(LENGTH), TOKENS] = RARE * np.exp(logs)
    return np.log(rows)


def _gradient(call, steps, moved="behaviour", costs=COSTS):
    """(T, V) of a text whose log ratios are ``steps``."""
    student, teacher, behaviour = _text(np.asarray(steps, float), moved, costs)
    other = copy.copy(call)
    other.loss = call.loss.drawn_by(behaviour[None] if call.batched else behaviour)
    inputs = (x[None] for x in (student, teacher, TOKENS, np.ones(LENGTH)))
    return other.texts(*inputs)[0]


def _map(call, rounding):
    """(T, T): d log of row t by the log ratio at u; NaN for a row of zeros, None for no number."""
    start = _gradient(call, np.zeros(LENGTH))
    squares = (start**2).sum(axis=1)
    grown = np.full((LENGTH, LENGTH), np.nan)
    rows = squares > 0
    for u in range(LENGTH):
        found = []
        for step in (SMALL, -SMALL):
            moved = _gradient(call, step * np.eye(LENGTH)[u])
            share = (moved * start).sum(axis=1)[rows] / squares[rows]
            off = np.abs(moved[rows] - share[:, None] * start[rows]).max(axis=1)
            if (off > 100 * rounding * np.abs(start[rows]).max(axis=1)).any():
                return None
            found.append(share)
        grown[rows, u] = (found[0] - found[1]) / (2 * SMALL)
    return grown


def _level(grown, slack):
    """(level, cost) whose map this is, or None."""
    t, u = np.indices(grown.shape)
    returns = np.cumsum(COSTS[::-1])[::-1]
    with_later = returns[np.maximum(t, u)] / returns[t]
    levels = {
        NONE: np.zeros(grown.shape),
        "token": t == u,
        "sequence": np.ones(grown.shape),
        "mean": np.full(grown.shape, 1 / LENGTH),
        "prefix": u <= t,
        "before": u < t,
        "each": np.where(u <= t, 1.0, with_later),
    }
    costs = {
        FRESH: [np.zeros(grown.shape)],
        KEPT: [(t == u) / COSTS[t], (u >= t) / returns[t], np.full(grown.shape, 1 / returns[0])],
    }
    known = ~np.isnan(grown)
    if not known.any():
        return None
    for cost, losses in costs.items():
        for lost in losses:
            for level, powers in levels.items():
                if (np.abs(grown - (powers - lost))[known] <= slack).all():
                    return level, cost
    return None


def _correction(call, level, cost, rounding):
    """names.Correction of the ratio or product, from walks with costs of both signs, or None."""
    if level in (NONE, "each"):
        return None
    moved = "behaviour" if cost == FRESH else "student"
    by_sign = {}
    for at, costs in itertools.product(range(LENGTH), (COSTS, -COSTS)):
        found = factor.pieces_of(_walk(call, at, level, moved, costs), rounding)
        if found is None:
            return None
        by_sign.setdefault(found[1], found[0])
        if set(by_sign) >= set(SIGNS):
            break
    (any_pieces, *_) = by_sign.values()
    return names.correction_of(Law(cost, {sign: by_sign.get(sign, any_pieces) for sign in SIGNS}))


def _walk(call, at, level, moved, costs):
    """Walk of row ``at``, the ratio of one token moved: of one before it where that counts."""
    row_at = min(at + 1, LENGTH - 1) if level == "before" else at
    per_step = LENGTH if level == "mean" else 1
    where = np.eye(LENGTH)[row_at - 1 if level == "before" else at]
    steps = WALK[np.abs(WALK) * per_step <= np.abs(WALK).max()]

    def row(step):
        return _gradient(call, per_step * step * where, moved, costs)[row_at]

    rows = np.array([row(step) for step in steps])
    there = rows.any(axis=1)
    turns = np.flatnonzero(there[1:] != there[:-1])
    jumps = {int(n): jump_between(row, steps[n], steps[n + 1], there[n]) for n in turns}
    students = [_text(per_step * step * where, moved)[0][row_at] for step in steps]
    directions = np.eye(VOCABULARY)[TOKENS[row_at]] - softmax(np.array(students))
    return Walk(moved, steps, rows, directions, jumps)
