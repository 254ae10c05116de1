"""Where a loss of one token stops following its law: cuts, clamps and floors, found by bisection.

One token goes away from an equal pair in both directions, as far as floats go: rarer and
rarer under the teacher (log p/q grows), or under the student (log q/p grows).  What it
adds to the gradient is 0 from some place on (a cut), stays as it is (a clamp), or is not
finite.  The same search from another probability tells a limit of the log-ratio from a
floor under p or q.
"""

from dataclasses import dataclass, replace

import numpy as np

from opd_toy.audit.report import number
from opd_toy.distributions import softmax

LOG_RATIOS = (
    *(
        0.002,
        0.01,
        0.03,
        0.1,
        0.25,
        0.5,
        1.0,
        1.5,
        2.0,
        2.5,
        3.0,
        4.0,
        5.0,
        6.0,
        8.0,
        10.0,
        12.0,
        15.0,
        20.0,
    ),
    *(25.0, 30.0, 40.0, 50.0, 65.0, 80.0, 100.0, 140.0, 200.0, 300.0, 400.0, 550.0, 700.0),
)
HEADS = 0.04, 0.01  # the token's probability where both models agree
HALVINGS = 30
# Below these a gradient that fades away is taken for 0 by the format's rounding alone.
FADED = {"float64": 1e-10, "float32": 1e-5, "float16": 0.05, "bfloat16": 0.05}
# How far a weight that stays as it is may seem to move.
STILL = {"float64": 1e-7, "float32": 1e-4, "float16": 3e-3, "bfloat16": 0.01}
# A kink: so far before it, in parts of the log-ratio, so much of the way is still to go.
KINK = {
    "float64": (0.97, 1e-3),
    "float32": (0.97, 2e-3),
    "float16": (0.9, 0.02),
    "bfloat16": (0.8, 0.06),
}
# The smallest p, as a log, that still has a gradient of its own in the format.
SMALLEST = {"float64": -700.0, "float32": -80.0, "float16": -7.0, "bfloat16": -80.0}
OVERFLOWS = 40.0  # log-ratios beyond which a loss may leave the floats
MOVES_IN = 0.98  # of a limit: where pairs beyond it are moved to
FLOORS = ("p", "q")
ENDS = 1e-37  # a floor below it is where floats end, those of float32 as well
HALF = ("float16", "bfloat16")
UNKNOWN = ("not finite", "refuses")
FORMULAS = {"p/q": "log p/q ≤ {}", "q/p": "log q/p ≤ {}", "p": "p ≥ {}", "q": "q ≥ {}"}


@dataclass(frozen=True)
class Limit:
    """Beyond it the gradient of one token is cut, clamped or not finite.

    ``over``: "log p/q" or "log q/p", where the limit is at most ``at``; "p" or "q" for a
    floor, at least ``at``.  ``kind``: "cut" (the gradient is exactly 0), "cancels" (so by
    rounding alone), "clamp" (its weight on the score stays at ``weight``, or, in a loss
    without a token, its part of the gradient stays as it is: None), "not finite" or
    "refuses".  ``everywhere``: False where it was met on one path only, so that it limits
    something else.
    """

    over: str
    at: float
    kind: str = "cut"
    weight: float | None = None
    everywhere: bool = True

    @property
    def is_far(self):
        return self.at < np.exp(-OVERFLOWS) if self.over in FLOORS else self.at > OVERFLOWS

    @property
    def formula(self):
        """ "log q/p ≤ 15", "q ≥ 1e-08": where all is well."""
        return FORMULAS[self.over.removeprefix("log ")].format(number(self.at, 3))


def find(rows_at, takes_token, precision):
    """A tuple of Limit.

    ``rows_at(student (3,), teacher (3,))`` -> gradient (3,) of a loss of all tokens, or of
    token 0; None where it raises.
    """
    found = []
    for sign in (1, -1):
        paths = [_Path(rows_at, takes_token, precision, sign, head) for head in HEADS]
        first, second = paths[0].limits(), None
        for limit in first:
            second = paths[1].limits() if second is None else second
            alike = [other for other in second if other[1] == limit[1]]
            found.append(_placed(limit, alike[0] if alike else None, sign, precision))
    return tuple(found)


def binding(limits):
    """Those that a verdict has to name: of one token alone, and met before floats end."""
    return tuple(
        limit
        for limit in limits
        if limit.everywhere
        and limit.kind != "cancels"
        and not (limit.kind in UNKNOWN and limit.is_far)
    )


def said(limits):
    """Those of ``binding`` that stand in a verdict's name: not where floats themselves end."""
    return tuple(limit for limit in limits if limit.at > ENDS)


def words(limits):
    """ " where log q/p ≤ 15 and q ≥ 1e-08"; equal ones of both directions in one."""
    at = {limit.over: number(limit.at, 3) for limit in limits}
    formulas = {limit.over: limit.formula for limit in limits}
    if len(at) == 2 and len(set(at.values())) == 1 and not set(at) & set(FLOORS):
        return f" where |log p/q| ≤ {limits[0].at:.3g}"
    if set(at) == set(FLOORS) and len(set(at.values())) == 1:
        return f" where p, q ≥ {at['p']}"
    return " where " + " and ".join(formulas.values())


def inside(pair, limits):
    """A pair (``pairs.Pair``) within the limits: itself, or moved there; None where none is.

    Floors flatten both models, log-ratios move the student towards the teacher.
    """
    student, teacher = pair.student, pair.teacher
    floors = {limit.over: np.log(limit.at) for limit in limits if limit.over in FLOORS}
    if floors:
        least = max(floors.values()) + 0.02
        if -np.log(len(student)) < least:
            return None
        flat = lambda share: min(_logs(share * z).min() for z in (student, teacher)) >= least
        share = _largest(flat)
        student, teacher = share * student, share * teacher
    bounds = {limit.over: MOVES_IN * limit.at for limit in limits if limit.over not in FLOORS}

    def within(share):
        apart = _logs(teacher + share * (student - teacher)) - _logs(teacher)
        return apart.max() <= bounds.get("log p/q", np.inf) and -apart.min() <= bounds.get(
            "log q/p", np.inf
        )

    share = _largest(within)
    if share < 1:
        student = teacher + share * (student - teacher)
    return pair._replace(student=student, teacher=teacher)


def _largest(holds):
    """The largest share of 1 for which it holds, as it does near 0."""
    if holds(1.0):
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _logs(logits):
    return logits - np.logaddexp.reduce(logits)


def _placed(first, second, sign, precision):
    """The limit of the first path, said of what it has in common with that of the second."""
    ratio, floor = ("log p/q", "q") if sign > 0 else ("log q/p", "p")
    (at, *what), digits = first, 2 if precision in HALF else 3
    limit = Limit(ratio, float(f"{at:.{digits}g}") if digits < 3 else at, *what)
    if second is None:
        return replace(limit, everywhere=False)
    apart, alike = at - second[0], 0.5 if digits < 3 else min(1e-3 * at, 0.5)
    if abs(apart) < alike:
        return limit
    if abs(apart - np.log(HEADS[0] / HEADS[1])) < alike:
        lowest = HEADS[0] * np.exp(-at)
        return replace(limit, over=floor, at=float(f"{lowest:.1g}") if digits < 3 else lowest)
    return replace(limit, everywhere=False)


class _Path:
    """What token 0 adds to the gradient as it goes away from an equal pair."""

    def __init__(self, rows_at, takes_token, precision, sign, head):
        self.rows_at, self.takes_token, self.precision = rows_at, takes_token, precision
        self.sign, self.head = sign, head
        smallest = np.log(head) - SMALLEST[precision]
        shortened = sign < 0 and not takes_token  # there p itself grows too small to be seen
        self.sizes = [r for r in LOG_RATIOS if not shortened or r <= smallest]

    def limits(self):
        """[(log-ratio, kind, weight)], at most one of a kind, the farthest first."""
        rows = [self._row(size) for size in self.sizes]
        known = [_is_finite(row) for row in rows]
        found = []
        if not all(known):
            first = known.index(False)
            found, rows = self._unknown(first, rows), rows[:first]
        while rows and (limit := self._cut(rows) or self._clamp(rows)):
            if limit[1] != "cancels" or self.precision == "float32":
                found.append(limit)  # in float64 it is far out, in half precision to be expected
            rows = rows[: sum(size < limit[0] for size in self.sizes)]
        return found

    def _unknown(self, first, rows):
        if first == 0:
            return []
        at = _bisect(lambda size: not _is_finite(self._row(size)), *self._around(first))
        if rows[first] is None:
            return [(at, "refuses", None)]
        far = at > OVERFLOWS and self.precision == "float64"  # where any loss may overflow
        return [] if far else [(at, "not finite", None)]

    def _cut(self, rows):
        dead = [not row.any() for row in rows]
        if all(dead) or not dead[-1]:
            return None
        first = len(dead) - dead[::-1].index(False)
        at = _bisect(lambda size: not self._row(size).any(), *self._around(first))
        before = np.array([self._row(share * at) for share in np.linspace(0.9, 0.999, 24)])
        faded = FADED[self.precision] * max(np.abs(rows[0]).max(), np.median(np.abs(rows)))
        if np.abs(before[-1]).max() <= faded:
            return None
        # Large numbers that cancel leave a few multiples of their rounding, at last none.
        levels = len(np.unique(before[:, 0]))
        cancels = 1 < levels <= (4 if self.precision in HALF else 12)
        return at, "cancels" if cancels else "cut", None

    def _clamp(self, rows):
        if not self.takes_token and self.precision in HALF:
            return None  # a part of the gradient is too coarse to stay as it is
        parts = [self._part(size, row) for size, row in zip(self.sizes, rows)]
        if None in parts or not parts[-1]:
            return None
        last = parts[-1]

        def stays(part):
            return part is not None and abs(part - last) <= STILL[self.precision] * abs(last)

        flat = [stays(part) for part in parts]
        first = len(flat) - flat[::-1].index(False) if not all(flat) else 0
        if all(flat) or len(flat) - first < 2:
            return None
        at = _bisect(lambda size: stays(self._part(size)), *self._around(first))
        share, least = KINK[self.precision]
        way = max(abs(part - last) for part in parts[:first])
        before = self._part(share * at)
        clear = max(least * way, 4 * STILL[self.precision] * abs(last))
        if before is None or abs(before - last) < clear:
            return None  # it levels off, as 1 − q/p does; a clamp has a kink
        return at, "clamp", last if self.takes_token else None

    def _around(self, first):
        return (self.sizes[first - 1] if first else 0.0), self.sizes[first]

    def _row(self, size):
        return self.rows_at(*self._pair(size))

    def _pair(self, size):
        """Logits of a pair over three tokens; the second is alike, the third makes up for it."""
        rare = self.head * np.exp(-size)
        much = np.log([self.head, 0.5, 0.5 - self.head])
        little = np.array([np.log(self.head) - size, np.log(0.5), np.log(0.5 - rare)])
        return (much, little) if self.sign > 0 else (little, much)

    def _part(self, size, row=None):
        """The weight on the score, or what token 0 adds beside token 1; None where unknown."""
        row = self._row(size) if row is None else row
        p = softmax(self._pair(size)[0])
        if not self.takes_token:
            return float(row[0] / p[0] - row[1] / p[1])
        return _weight(row, p, 10 * STILL[self.precision])


def _is_finite(row):
    return row is not None and bool(np.isfinite(row).all())


def _weight(row, p, tolerance):
    """w where the gradient is w (1 - p_0, -p_1, -p_2), as a policy gradient's is; else None."""
    score = np.array([1.0, 0.0, 0.0]) - p
    weight = float(row @ score / (score @ score))
    off = np.abs(row - weight * score).max()
    return weight if np.isfinite(weight) and off <= tolerance * np.abs(row).max() else None


def _bisect(beyond, low, high):
    """Where ``beyond`` begins to hold between low (it does not) and high (it does)."""
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if beyond(middle) else (middle, high)
        if high - low < 1e-6 * high:
            break
    return high
