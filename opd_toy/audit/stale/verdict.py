"""Which law has a loss of stale tokens?  Arithmetic on the tables alone."""

import itertools
from dataclasses import dataclass

import numpy as np

from opd_toy import objectives, off_policy
from opd_toy.audit.stale import factor
from opd_toy.audit.stale.triples import SIGNS

FRESH, KEPT = "recomputed", "kept"
BETWEEN_POINTS = 2e-4  # a hundredth of the error allowed where points are joined
NEAR = 1e-5  # log ratios nearer to a limit than that are on neither side


@dataclass(frozen=True)
class Law:
    """A token's gradient is a factor of its ratio times what it would be on a fresh token.

    ``cost``: "recomputed", the fresh token is the student's of now; "kept", the behaviour's of
    then.  ``by_sign``: {sign of the cost: pieces of the factor}.  ``drawn``: the factor has no
    formula, its pieces lead from one point of a walk to the next.
    """

    cost: str
    by_sign: dict
    drawn: bool = False

    @property
    def signs_alike(self):
        one, other = (self.by_sign[sign] for sign in SIGNS)
        return all(  # of more pieces one ends where the other's last goes on
            (a.power, a.is_zero) == (b.power, b.is_zero)
            and np.isclose(a.high, b.high, rtol=1e-4, atol=1e-6)
            and np.isclose(a.level, b.level, rtol=1e-4)
            for a, b in zip(one, other)
        )


def law_of(walks, tables, tolerance):
    """-> Law that all tables follow, or None."""
    for drawn, (moved, cost) in itertools.product(
        (False, True), (("behaviour", FRESH), ("student", KEPT))
    ):
        read = factor.drawn_pieces_of if drawn else factor.pieces_of
        found = [read(walks[moved, sign], tolerance) for sign in SIGNS]
        if None in found:
            continue
        by_sign = {sign: pieces for pieces, sign in found}
        if not set(by_sign) <= set(SIGNS):
            continue
        (_, (any_pieces, _)) = found
        law = Law(cost, {sign: by_sign.get(sign, any_pieces) for sign in SIGNS}, drawn)
        allowed = BETWEEN_POINTS if drawn else tolerance
        if all(_follows(law, table, allowed) for table in tables):
            return law
    return None


def _follows(law, table, tolerance):
    """Whether each token's row is its factor times its fresh row."""
    p, mu = table.p, table.mu
    steps = np.log(p / mu)
    score = np.eye(len(p)) - p
    along = (score**2).sum(axis=1)
    rows = table.fresh
    if law.cost == KEPT:
        score_then = np.eye(len(mu)) - mu
        weights = (table.then * score_then).sum(axis=1) / (score_then**2).sum(axis=1)
        if not np.allclose(table.then, weights[:, None] * score_then, atol=1e-6):
            return False
        rows = weights[:, None] * score
    weights = (rows * score).sum(axis=1) / along
    factors = np.where(
        weights > 0, factor.at(law.by_sign[1], steps), factor.at(law.by_sign[-1], steps)
    )
    limits = [end for pieces in law.by_sign.values() for end in factor.ends(pieces)]
    known = (np.abs(steps[:, None] - limits) > NEAR).all(axis=1) | law.drawn
    off = np.abs(table.rows - factors[:, None] * rows).max(axis=1)
    size = np.abs(table.rows).max() + np.abs(rows).max()
    return bool((off <= 100 * tolerance * size)[known].all())


def does_not_matter(tables, tolerance):
    """Whether neither the token drawn nor who drew it shows in the gradient."""
    return all(
        np.abs(rows - table.fresh[0]).max() <= 10 * tolerance * table.size
        for table in tables
        for rows in (table.rows, table.fresh)
    )


def _forward_drawn(p, q, mu):
    return -(mu * q / p) @ (np.eye(len(p)) - p)


def _reverse_drawn(cost):
    return lambda p, q, mu: mu @ off_policy.policy_gradient(p, q, mu, "none", cost=cost)


KEPT_NO_RATIO = "reverse KL from stale tokens, cost kept from the rollout, no ratio"
TERMS = {
    "reverse KL": lambda p, q, mu: objectives.reverse_kl_logit_gradient(p, q),
    "forward KL": lambda p, q, mu: objectives.forward_kl_logit_gradient(p, q),
    "reverse KL to the behaviour": lambda p, q, mu: objectives.reverse_kl_logit_gradient(p, mu),
    "forward KL to the behaviour": lambda p, q, mu: objectives.forward_kl_logit_gradient(p, mu),
    "reverse KL from stale tokens, no ratio": _reverse_drawn(FRESH),
    KEPT_NO_RATIO: _reverse_drawn(KEPT),
    "forward KL from stale tokens, no ratio": _forward_drawn,
}


def terms_of(tables, tolerance):
    """[(coefficient, name)] whose sum is the mean gradient on every triple; None for no sum.

    At most three of ``TERMS``; [] where the mean is 0.
    """
    measured = [table.expected for table in tables]
    size = np.concatenate([np.full(len(table.p), table.size) for table in tables])
    target, size = np.concatenate(measured), np.maximum(size, 1e-3 * np.median(size))
    if (np.abs(target) <= 10 * tolerance * size).all():
        return []
    columns = {
        name: np.concatenate([gradient(t.p, t.q, t.mu) for t in tables])
        for name, gradient in TERMS.items()
    }
    for count in (1, 2, 3):
        for names in itertools.combinations(columns, count):
            matrix = np.stack([columns[name] for name in names], axis=1)
            found = np.linalg.lstsq(matrix / size[:, None], target / size, rcond=None)[0]
            off = np.abs(matrix @ found - target)
            if (off <= 100 * tolerance * size).all() and (np.abs(found) > 1e-6).all():
                return [(_rounded(value, tolerance), name) for value, name in zip(found, names)]
    return None


def _rounded(value, tolerance):
    for digits in range(1, 7):
        rounded = float(f"{value:.{digits}g}")
        if abs(rounded - value) <= max(1e-8, 100 * tolerance) * abs(value):
            return rounded
    return float(value)
