"""What can be said of a gradient besides its name: what it acts on, and what it depends on."""

import numpy as np

from opd_toy.audit.formats import COARSE
from opd_toy.audit.token import names, ratios, weights
from opd_toy.audit.token.pairs import ORDINARY
from opd_toy.distributions import softmax

SCORE = "the log-probability of the token drawn alone"
LOGIT = "the logit of the token drawn alone"
DRAWN = "all tokens, how depends on the token drawn"
ALL = "all tokens alike, whatever is drawn"


def described(tables, seen, verdict, also=None):
    """The report's fields "acts_on", "ratio_alone", "weight", "mixture", "factor", "also"."""
    coarse = seen.tolerance > COARSE  # there nothing of this can be told
    alone = None if coarse or verdict.zero else ratios.of_the_ratio_alone(seen)
    curve = verdict.curve or (_curve_of(seen, verdict) if alone else None)
    mixture = verdict.mixture
    return {
        "also": also or names.also(verdict.terms),
        "factor": verdict.factor and verdict.factor.words,
        "acts_on": None if coarse else acts_on(tables),
        "ratio_alone": alone,
        "weight": curve and _as_fields(curve),
        "mixture": mixture
        and [
            {"name": candidate.name, "law": law, "at_notes_pair": float(weight[0])}
            for candidate, weight, law in zip(mixture.candidates, mixture.weights, mixture.laws)
        ],
    }


def acts_on(tables):
    """What a draw's gradient pushes, over the ordinary pairs."""
    tables = [table for table in tables if table.tier == ORDINARY]
    if all((table.rows == table.rows[0]).all() for table in tables):
        return ALL
    if all(_along(table, np.eye(len(table.student))) for table in tables):
        return LOGIT
    if all(_along(t, np.eye(len(t.student)) - softmax(t.student)) for t in tables):
        return SCORE
    return DRAWN


def _along(table, directions):
    """Whether each row is a multiple of the direction beside it."""
    squares = (directions**2).sum(axis=1, keepdims=True)
    factors = (table.rows * directions).sum(axis=1, keepdims=True) / squares
    off = np.abs(table.rows - factors * directions).max()
    return bool(off <= 1e-6 * np.abs(table.rows).max())


def _curve_of(seen, verdict):
    """The curve of a weight that has no name or one of its own; None beside a KL or a JSD."""
    of_weights = [weights.ANY, *(candidate.name for candidate in weights.NAMED)]
    named = [term.name for _, term in verdict.terms]
    if verdict.known and not any(name.startswith(tuple(of_weights)) for name in named):
        return None
    return ratios.curve(seen.times_vocabulary() if verdict.over_vocabulary else seen)


def _as_fields(curve):
    return {
        "log_ratio": [float(f"{ratio:.9g}") for ratio in curve.ratios],
        "weight": [float(f"{round(weight, 12):.6g}") for weight in curve.weights],
        "increasing": curve.increasing,
    }
