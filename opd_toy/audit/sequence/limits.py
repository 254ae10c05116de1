"""How far apart may the two be?  Clamps are searched for in both directions, not met by chance.

In the last rows of small trees one token has the log-ratio log p/q = x, all else is the same
in every audit; a verdict holds up to an x that bisection finds.
"""

from dataclasses import dataclass

import numpy as np

from opd_toy.audit.calling import AuditError
from opd_toy.audit.sequence.samples import OF_A_DRAW, tabulate
from opd_toy.sequences import TokenTree

FARTHEST, NEAR, STEPS = 36.0, 0.1, 10
SLACK = 100  # times the tolerance, for more rounding far off
CHANCE = 0.6  # of the token, under the likelier of the two
# By tolerance: the rounding of a gradient's entries, relative to the largest on ordinary trees.
FLOORS = {1e-9: 1e-14, 2e-5: 1e-6}


@dataclass(frozen=True)
class Limits:
    """log p/q up to which a verdict holds; ``searched``: how far down and up that was tried."""

    below: float
    above: float
    searched: tuple

    @property
    def found(self):
        """[(side, limit)] of those that end before the search does."""
        sides = zip(("below", "above"), (self.below, self.above), self.searched)
        return [(side, limit) for side, limit, end in sides if limit != end]


def observe_limits(call, measured, reward, verdict, tolerance):
    """-> Limits of a verdict; None where it does not even hold close by, or nothing can be seen."""
    if tolerance not in FLOORS:
        return None
    floor = FLOORS[tolerance] * max(float(np.abs(s.table).max()) for s in measured.ordinary)

    def holds(x):
        try:
            sample = tabulate(call, *apart(x), measured.drawn_from, reward, measured.copies)
        except AuditError:
            return False
        return sample.is_finite and _off(sample, verdict, tolerance, floor) <= SLACK * tolerance

    if not (holds(-NEAR) and holds(NEAR)):
        return None
    # A token that is hardly ever drawn moves the mean by less than its draws' rounding.
    down = np.log(3 * FLOORS[tolerance] / CHANCE)
    return Limits(_limit(holds, down), _limit(holds, FARTHEST), (float(down), FARTHEST))


def apart(x):
    """(student, teacher): the first token of each last row has log p/q = x, the roots are alike."""
    student = np.array([CHANCE, 1 - CHANCE]) if x > 0 else _one(CHANCE * np.exp(x))
    teacher = np.array([CHANCE, 1 - CHANCE]) if x < 0 else _one(CHANCE * np.exp(-x))
    root = np.array([[0.3, -0.3]])
    return tuple(TokenTree((root, np.log([row, row]))) for row in (student, teacher))


def _one(chance):
    return np.array([chance, 1 - chance])


def _limit(holds, end):
    """The x nearest to ``end`` up to which all holds."""
    if holds(end):
        return float(end)
    inside, outside = 0.0, end
    for _ in range(STEPS):
        middle = (inside + outside) / 2
        inside, outside = (middle, outside) if holds(middle) else (inside, middle)
    return float(inside)


def _off(sample, verdict, tolerance, floor):
    """What a verdict leaves over at the last position, as ``Sample.left_over`` of all.

    ``floor``: so much of it is taken for rounding.
    """
    bases = verdict.bases(sample) if verdict.bases else {}
    last, width = sample.length - 1, sample.blocks[-1].size
    of_last = [
        (weight, bases[kind][key])
        for kind, weights in verdict.coefficients(sample.length).items()
        for key, weight in weights.items()
        if key[0] == last
    ]
    block = sample.blocks[-1]
    explained = sum((weight * base for weight, base in of_last), np.zeros_like(block))
    draws = (sample.table[:, -width:] ** 2).sum(axis=1)
    size = float(np.sqrt(sample.chances[sample.drawer] @ draws))
    length = max(float(np.linalg.norm(block)), OF_A_DRAW[tolerance] * size)
    off = float(np.linalg.norm(block - explained)) - floor
    return max(off, 0.0) / length if length else 0.0
