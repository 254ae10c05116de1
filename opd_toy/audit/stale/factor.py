"""The factor that a loss gives to a token, read from a walk of the token's ratio.

A factor is a chain of pieces, each a power of the ratio p/mu or 0: the ratio itself, truncated,
masked, clipped where the cost pushes one way.
"""

from dataclasses import dataclass

import numpy as np

ENDS = 2  # cells between two pieces, in which one ends
NOTHING = 1e-30  # a factor that is 0 but for its logarithm
SHORT = 2  # cells that a piece has at the least


@dataclass(frozen=True)
class Piece:
    """level · ratio^power for log ratios from ``low`` to ``high``; level 0: nothing."""

    low: float
    high: float
    level: float
    power: float

    @property
    def is_zero(self):
        return self.level == 0


def pieces_of(walk, tolerance):
    """(pieces, sign) of a Walk: of the factor, and of the cost at ratio 1; None for no such chain.

    ``tolerance``: relative rounding of the gradients.
    """
    centre = len(walk.steps) // 2
    values = _relative(walk, centre, tolerance)
    if values is None:
        return None
    sign = _sign(walk, centre)
    runs = _runs(walk.steps, values, tolerance)
    if runs is None:
        return None
    laws = [_law(walk.steps, values, *run, tolerance) for run in runs]
    joints = [
        _joint(walk, one, other, between, tolerance)
        for one, other, between in zip(laws, laws[1:], _gaps(runs))
    ]
    if None in joints:
        return None
    bounds = [-np.inf, *joints, np.inf]
    pieces = tuple(Piece(low, high, *law) for low, high, law in zip(bounds, bounds[1:], laws))
    return pieces, sign


def drawn_pieces_of(walk, tolerance):
    """(pieces, sign) of any factor not below 0, a piece from each step to the next; or None."""
    centre = len(walk.steps) // 2
    values = _relative(walk, centre, tolerance)
    if values is None or values.min() < 0:
        return None
    values = np.maximum(values, NOTHING)
    powers = np.diff(np.log(values)) / np.diff(walk.steps)
    levels = values[:-1] * np.exp(-powers * walk.steps[:-1])
    bounds = [-np.inf, *walk.steps[1:-1], np.inf]
    pieces = zip(bounds, bounds[1:], map(float, levels), map(float, powers))
    return tuple(Piece(*piece) for piece in pieces), _sign(walk, centre)


def _sign(walk, centre):
    return int(np.sign(walk.rows[centre] @ walk.directions[centre]))


def at(pieces, steps):
    """The factor (N,) at log ratios (N,)."""
    steps = np.asarray(steps, float)
    values = np.zeros_like(steps)
    for piece in pieces:
        inside = (steps >= piece.low) & (steps <= piece.high)
        with np.errstate(over="ignore"):
            values = np.where(inside, piece.level * np.exp(piece.power * steps), values)
    return values


def ends(pieces):
    """Log ratios at which a piece ends."""
    return [piece.high for piece in pieces[:-1]]


def _relative(walk, centre, tolerance):
    """The gradients over the one at ratio 1 (N,); None where they are no multiples of it.

    Where the student moves the score does too: there they must be multiples of the score.
    """
    along = walk.rows[centre][None] if walk.moved == "behaviour" else walk.directions
    along = np.broadcast_to(along, walk.rows.shape)
    squares = (along**2).sum(axis=1)
    if not squares.all() or not np.isfinite(walk.rows).all():
        return None
    found = (walk.rows * along).sum(axis=1) / squares
    off = np.abs(walk.rows - found[:, None] * along).max(axis=1)
    if (off > 100 * tolerance * np.abs(walk.rows).max(axis=1)).any() or found[centre] == 0:
        return None
    return found / found[centre]


def _runs(steps, values, tolerance):
    """[(first, last)] grid points of the pieces; None where they are not pieces."""
    gaps = np.diff(steps)
    with np.errstate(divide="ignore", invalid="ignore"):
        slopes = np.diff(np.log(np.abs(values))) / gaps
    zero = (values[1:] == 0) & (values[:-1] == 0)
    turned = (values[1:] * values[:-1] <= 0) & ~zero
    slack = 1e-6 + 10 * tolerance / gaps
    found, start, cells = [], 0, len(gaps)
    while start < cells:
        end = start
        if not turned[start]:
            while end + 1 < cells and _goes_on(steps, values, slopes, zero, slack, start, end + 1):
                end += 1
            if end - start + 1 >= SHORT:
                found.append((start, end + 1))
        start = end + 1
    if not found or found[0][0] > 0 or found[-1][1] < cells:
        return None
    between = [after[0] - before[1] for before, after in zip(found, found[1:])]
    return found if max(between, default=0) <= ENDS else None


def _goes_on(steps, values, slopes, zero, slack, start, cell):
    if zero[start] or zero[cell]:
        return bool(zero[start] and zero[cell])
    known = slopes[cell - 1] if cell - start < 4 else None
    if known is None:  # the slope of all the cells so far is known best
        known = np.log(np.abs(values[cell] / values[start])) / (steps[cell] - steps[start])
    return bool(abs(slopes[cell] - known) <= slack[cell] + slack[cell - 1])


def _law(steps, values, start, end, tolerance):
    """(level, power) of a piece, the power a round number where it can be one."""
    if not values[start : end + 1].any():
        return 0.0, 0.0
    logs = np.log(np.abs(values[start : end + 1]))
    power = float(np.polyfit(steps[start : end + 1], logs, 1)[0])
    rounded = round(4 * power) / 4
    width = steps[end] - steps[start]
    if abs(power - rounded) <= 1e-6 + 20 * tolerance / width:
        power = rounded
    levels = values[start : end + 1] * np.exp(-power * steps[start : end + 1])
    level = float(np.mean(levels))
    return (1.0 if abs(level - 1) <= 10 * tolerance else level), power


def _gaps(runs):
    """(last grid point of one piece, first of the next)"""
    return [(before[1], after[0]) for before, after in zip(runs, runs[1:])]


def _joint(walk, one, other, between, tolerance):
    """The log ratio at which a piece with the law ``one`` ends and one with ``other`` begins."""
    last, first = between
    for cell, jump in walk.jumps.items():
        if last - 1 <= cell <= first:
            return jump
    (level, power), (next_level, next_power) = one, other
    if 0 in (level, next_level) or level * next_level < 0 or power == next_power:
        return None
    meet = np.log(level / next_level) / (next_power - power)
    slack = 10 * tolerance + 1e-9
    if walk.steps[last] - slack <= meet <= walk.steps[first] + slack:
        return float(meet)
    return None
