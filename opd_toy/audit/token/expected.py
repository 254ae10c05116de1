"""Expected gradients on many pairs, with their rounding: what a verdict is read from."""

from dataclasses import dataclass, replace

import numpy as np

from opd_toy.audit.formats import TOLERANCES
from opd_toy.audit.token.pairs import ORDINARY, Pairs, padded
from opd_toy.distributions import log_ratio

ROUNDING = {"float64": 2e-13, "float32": 1e-6, "float16": 1e-3, "bfloat16": 8e-3}
# How far the sum of the rows may be from 0, as a part of the rounding that a verdict allows for.
AROUND_ZERO = {"float64": 0.02, "float32": 0.3, "float16": 0.5, "bfloat16": 0.5}


@dataclass(frozen=True)
class Expected:
    """Expected gradients (N, V) on N pairs.

    ``rounding`` (N,): how far from its true value each may lie; ``tier`` (N,):
    0 for pairs that are close, 1 ordinary, 2 and more far apart; ``fit`` (N,):
    True where parameters may be fitted, the others confirm.  ``zero`` (N,): the length
    below which a gradient cannot be told from 0 (None: ``rounding``).  ``large``: the
    same on large vocabularies, where every explanation must hold as well; ``near``: on pairs
    that are close for every seed alike.
    """

    pairs: Pairs
    gradients: np.ndarray
    rounding: np.ndarray
    tier: np.ndarray
    fit: np.ndarray
    tolerance: float
    zero: np.ndarray | None = None
    large: "Expected | None" = None
    near: "Expected | None" = None

    def __post_init__(self):
        if self.zero is None:
            object.__setattr__(self, "zero", self.rounding)

    def __getitem__(self, rows):
        names = ("pairs", "gradients", "rounding", "tier", "fit", "zero")
        return replace(self, **{name: getattr(self, name)[rows] for name in names})

    @property
    def parts(self):
        return [part for part in (self, self.large) if part is not None]

    def up_to(self, tier):
        part = self[self.tier <= tier]
        return replace(part, large=self.large and self.large.up_to(tier))

    def times_vocabulary(self):
        sizes = self.pairs.sizes
        gradients, rounding = self.gradients * sizes[:, None], self.rounding * sizes
        large = self.large and self.large.times_vocabulary()
        return replace(self, gradients=gradients, rounding=rounding, large=large)

    def agrees(self, gradients):
        """On which pairs (N,) ``gradients`` are the measured ones."""
        allowed = self.tolerance * lengths(self.gradients) + self.rounding
        return lengths(self.gradients - gradients) <= allowed


def expected(tables, drawn_from, precision, large=None):
    """-> Expected of measured tables; shorter pairs are filled up with gradients of 0."""
    width = max(len(table.student) for table in tables)
    pairs = Pairs.of(tables)
    gradients = np.array([padded(t.expectation(drawn_from), width, 0.0) for t in tables])
    sizes = np.array([table.size(drawn_from) for table in tables])
    values = np.array([table.weights(drawn_from) @ np.abs(table.values) for table in tables])
    # The logits are rounded as well, and a divergence is itself a difference of larger numbers.
    p, q, tier = pairs.p, pairs.q, np.array([table.tier for table in tables])
    ratio = np.sum(p * np.abs(log_ratio(p, q)), axis=1)
    logit = np.array([max(np.abs(t.student).max(), np.abs(t.teacher).max()) for t in tables])
    ordinary = sizes[tier == ORDINARY]
    usual = np.median(ordinary) if len(ordinary) else 0.0
    rounding = ROUNDING[precision] * (sizes * (1 + ratio) + usual * logit)
    return Expected(
        pairs,
        gradients,
        rounding + 0.1 * ROUNDING[precision] * values,
        tier,
        fit=np.array([table.fit for table in tables]),
        tolerance=TOLERANCES[precision],
        zero=AROUND_ZERO[precision] * rounding,
        large=large,
    )


def lengths(vectors):
    return np.sqrt((vectors**2).sum(axis=-1))
