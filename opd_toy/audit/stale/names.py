"""What a law of stale tokens is called: the correction, its limits, where it is biased."""

from dataclasses import dataclass

import numpy as np

from opd_toy.audit.stale.verdict import KEPT
from opd_toy.audit.token.names import format_number

STALE = "{base} from stale tokens, {kept}{correction}"
KEPT_COST = "cost kept from the rollout, "
NOT_NEEDED = "not needed"
OTHER = "other"


@dataclass(frozen=True)
class Correction:
    """``kind``: a correction of ``opd_toy.off_policy``, "not needed", "power" or "other".

    ``limits``: as there, None where it has none; ``words``: the correction in a verdict.
    """

    kind: str
    limits: object
    words: str


def correction_of(law):
    """Law -> Correction"""
    if law.drawn:
        return Correction(OTHER, None, "weighted by a function of the ratio (biased)")
    pieces = law.by_sign[1]
    if law.signs_alike:
        return _of_pieces(pieces)
    return _clip(law) or _each_sign(law)


def name(base, law, correction):
    """The verdict: an objective and how its tokens are corrected."""
    kept = KEPT_COST if law.cost == KEPT else ""
    return STALE.format(base=base, kept=kept, correction=correction.words)


def limit(log_ratio):
    """A ratio's limit (1.2, not 1.1999999998) from its logarithm."""
    value = float(np.exp(log_ratio))
    for digits in range(1, 7):
        rounded = float(f"{value:.{digits}g}")
        if abs(rounded - value) <= 1e-6 * value:
            return rounded
    return value


def _of_pieces(pieces):
    """A factor that is one for both signs of the cost."""
    core, low, high = _without_zeros(pieces)
    powers = [piece.power for piece in core]
    inner = [limit(piece.high) for piece in core[:-1]]
    masked = low is not None or high is not None
    if not _joined(core):
        return _other(pieces)
    if masked:
        where = _outside(low, high)
        if powers == [1.0]:
            limits = (low or 0.0, np.inf if high is None else high)
            return Correction("mask", limits, f"ratio masked {where} (biased there)")
        inside = _unmasked(powers, inner)
        return Correction(OTHER, None, f"{inside}, masked {where} (biased there)")
    if powers == [1.0]:
        return Correction("ratio", None, "weighted by the ratio")
    if powers == [0.0]:
        return Correction("none", None, "no ratio (biased where the behaviour differs)")
    if powers == [1.0, 0.0]:
        (cut,) = inner
        words = f"ratio truncated at {_text(cut)} (biased where p/μ > {_text(cut)})"
        return Correction("truncate", cut, words)
    if len(powers) == 1:
        words = f"weighted by the ratio to the power {_text(powers[0])} (biased)"
        return Correction("power", powers[0], words)
    return Correction(OTHER, None, f"{_unmasked(powers, inner)} (biased)")


def _unmasked(powers, inner):
    """The words of a factor without its masks."""
    shown = [_text(value) for value in inner]
    plain = {
        (1.0,): "weighted by the ratio",
        (0.0,): "no ratio",
        (1.0, 0.0): "ratio truncated at {}",
        (0.0, 1.0): "ratio at least {}",
        (0.0, 1.0, 0.0): "ratio held within {} to {}",
    }.get(tuple(powers))
    if plain:
        return plain.format(*shown)
    pieces = [f"(p/μ)^{_text(power)}" for power in powers]
    joined = pieces[0] + "".join(f", from {at} on {piece}" for at, piece in zip(shown, pieces[1:]))
    return f"weighted by {joined}"


def _without_zeros(pieces):
    """(pieces between, lowest ratio that counts or None, highest or None)"""
    low = limit(pieces[0].high) if pieces[0].is_zero else None
    high = limit(pieces[-1].low) if pieces[-1].is_zero else None
    return pieces[low is not None : len(pieces) - (high is not None)], low, high


def _joined(core):
    """Whether the factor has neither jumps nor gaps between its masks."""
    for piece, following in zip(core, core[1:]):
        values = [p.level * np.exp(p.power * piece.high) for p in (piece, following)]
        if not np.isclose(*values, rtol=1e-4):
            return False
    return True


def _clip(law):
    """PPO's: no gradient where the ratio has left its limits the way that the cost pushes."""
    (up, low, up_high), (down, down_low, high) = (
        _without_zeros(law.by_sign[sign]) for sign in (1, -1)
    )
    if [p.power for p in (*up, *down)] != [1.0, 1.0] or down_low is not None:
        return None
    if low is None and high is None:
        return None
    limits = (1.0 if low is None else _less(1, low), np.inf if high is None else _less(high, 1))
    if low is None:
        words = f"ratio clipped above {_text(high)} (one side of PPO's clip)"
    elif high is None:
        words = f"ratio clipped below {_text(low)} (one side of PPO's clip)"
    elif limits[0] == limits[1]:
        words = f"ratio clipped at {_text(limits[0])} (PPO)"
    else:
        words = f"ratio clipped at {_text(limits[0])} and {_text(limits[1])} (PPO)"
    if up_high is not None:
        words = words[:-1] + f", and above {_text(up_high)} where the cost is high: dual clip)"
        return Correction(OTHER, None, words)
    return Correction("clip", limits, words)


def _less(one, other):
    return float(f"{one - other:.6g}")


def _each_sign(law):
    parts = [
        f"{_of_pieces(law.by_sign[sign]).words.split(' (')[0]} where the cost is {side}"
        for sign, side in ((1, "positive"), (-1, "negative"))
    ]
    return Correction(OTHER, None, ", ".join(parts) + " (biased)")


def _other(pieces):
    """A factor with jumps or gaps, piece by piece."""
    parts = []
    for piece in pieces:
        what = "nothing" if piece.is_zero else _weight(piece)
        end = f" up to {_text(limit(piece.high))}" if np.isfinite(piece.high) else " above"
        parts.append(what + end)
    return Correction(OTHER, None, f"weighted by {', '.join(parts)} (biased)")


def _weight(piece):
    number = "" if np.isclose(piece.level, 1) else f"{_text(piece.level)} × "
    ratio = {0.0: "1", 1.0: "the ratio"}.get(piece.power, f"(p/μ)^{_text(piece.power)}")
    return f"{number}{ratio}" if ratio != "1" or not number else _text(piece.level)


def _outside(low, high):
    if low is None:
        return f"above {_text(high)}"
    if high is None:
        return f"below {_text(low)}"
    return f"outside {_text(low)} to {_text(high)}"


def _text(value):
    return format_number(value, 4)
