"""The second check of a step: both sides in numbers, at random points.

It shares no code with the exact check; ``numeric`` goes by the definitions alone.
"""

import mpmath
from mpmath import mpf
from sympy import StrictLessThan

from opd_toy.derivations.notation import (
    of_sequences,
)
from opd_toy.derivations.numeric import DIGITS, number
from opd_toy.derivations.points import random_points

TOLERANCE = mpf(10) ** -30
SIZES = (2, 3, 5)  # V
LENGTHS = (2, 3, 4)  # T, where sequences of any length are meant
HOLDS = {
    "=": lambda first, second: abs(first - second) <= TOLERANCE * max(1, abs(first), abs(second)),
    ">=": lambda first, second: first >= second - TOLERANCE,
    "<=": lambda first, second: first <= second + TOLERANCE,
    "<": lambda first, second: first < second,
    "<=>": lambda first, second: first == second,
}


def counterexample(before, after, relation="=", distinct=(), seed=0):
    """A sentence that says where ``before relation after`` fails, or None."""
    truths = set()
    sizes = LENGTHS if of_sequences(before) or of_sequences(after) else SIZES
    if relation == "<=>":
        sizes *= 2  # more points, so that both outcomes come up
    with mpmath.workdps(DIGITS):
        for at in random_points([before, after], distinct, seed=seed, sizes=sizes):
            try:
                first, second = (_value(side, at) for side in (before, after))
            except ZeroDivisionError:
                return f"at V = {at.size} a side divides by 0"
            truths.add(first)
            if not HOLDS[relation](first, second):
                return f"at V = {at.size} the sides are {_shown(first)} and {_shown(second)}"
    if relation == "<=>" and truths != {True, False}:
        return "the random points never tried both outcomes"
    return None


def _value(side, at):
    """A number or, of an inequality, whether it holds."""
    if isinstance(side, StrictLessThan):
        return number(side.lhs, at) < number(side.rhs, at)
    return number(side, at)


def _shown(value):
    return value if isinstance(value, bool) else mpmath.nstr(value, 12)
