"""f-divergences: objectives whose gradient is E_p[w(log p/q) grad log p], w increasing.

D(p, q) = sum q f(p/q) has w = f'(p/q), which increases because f is convex; a constant in
w changes nothing.  Scales, with the sums over the vocabulary:
total variation = 1/2 sum |p - q|; squared Hellinger = 1 - sum sqrt(p q);
chi^2(p||q) = sum p^2/q - 1; triangular discrimination = sum (p - q)^2 / (p + q);
Jeffreys = KL(p||q) + KL(q||p).  Others are named by their weight.
"""

import numpy as np

from opd_toy.audit.token.candidates import Candidate, centred, line
from opd_toy.audit.token.names import format_number
from opd_toy.distributions import log_ratio

ANY = "f-divergence"
WITH = ANY + " with weight "


def of_weight(name, weight, parameters=()):
    """The Candidate of ``weight(log-ratio)``."""
    return Candidate(
        name, lambda pairs: centred(pairs.p, weight(ratio_of(pairs))), None, parameters
    )


def ratio_of(pairs):
    """log p/q (N, V), and 0 for padding."""
    return np.where(pairs.p > 0, log_ratio(pairs.p, pairs.q), 0.0)


def _sigmoid(r):
    return 0.5 * (1 + np.tanh(r / 2))


TOTAL_VARIATION = of_weight("total variation", lambda r: 0.5 * np.sign(r))
# In scales of their own: with the engine's, they are α-divergences.
HELLINGER = of_weight("squared Hellinger", lambda r: -0.5 * np.expm1(-r / 2))
CHI_SQUARED = of_weight("χ²(p‖q)", lambda r: 2 * np.expm1(r))
CHI_SQUARED_OF_TEACHER = of_weight("χ²(q‖p)", lambda r: -np.expm1(-2 * r))
TRIANGULAR = of_weight("triangular discrimination", lambda r: 1 - 4 * _sigmoid(-r) ** 2)
NAMED = (TOTAL_VARIATION, TRIANGULAR, HELLINGER, CHI_SQUARED, CHI_SQUARED_OF_TEACHER)


def _times(factor, words="log p/q"):
    return words if factor == 1 else f"{format_number(factor)} {words}"


def tanh_of(factor):
    return of_weight(
        f"{WITH}tanh({_times(factor)})",
        lambda r: np.tanh(factor * r),
        (("factor", float(factor)),),
    )


def sigmoid_of(factor):
    return of_weight(
        f"{WITH}sigmoid({_times(factor)})",
        lambda r: _sigmoid(factor * r),
        (("factor", float(factor)),),
    )


def power_of(power):
    return of_weight(
        f"{WITH}sign(log p/q) |log p/q|^{format_number(power)}",
        lambda r: np.sign(r) * np.abs(r) ** power,
        (("power", float(power)),),
    )


_POWERS = (0.1, 0.3, 0.6, 0.8, *(1.2, 1.4, 1.6, 1.8), *(2.0, 2.2, 2.4, 2.6, 2.8, 3.0, 3.4, 4.0))
FAMILIES = (
    line(tanh_of, (0.1, 0.17, 0.3, 0.6, 1.0, 2.0, 5.0, 15.0), (0, np.inf)),
    line(power_of, _POWERS, (0, 12)),
)


def simpler(terms):
    """tanh(x / 2) / 2 is a sigmoid less a constant: whichever needs the simpler numbers."""
    if not terms or len(terms) != 1 or not terms[0][1].name.startswith(WITH + "tanh"):
        return terms
    ((coefficient, candidate),) = terms
    (_, factor), twice = candidate.parameters[0], 2 * coefficient
    plain = len(format_number(coefficient) + format_number(factor))
    other = len(format_number(twice) + format_number(2 * factor))
    if abs(twice) == 1 or (other < plain and abs(coefficient) != 1):
        return ((twice, sigmoid_of(2 * factor)),)
    return terms


# ---- clipped weights ----

# Weights that trainers clip, as functions of log p/q.
CLIPPED = {"log p/q": lambda r: r, "−q/p": lambda r: -np.exp(-r), "p/q": np.exp}


def clipped(curve):
    """The Candidates of a weight that is one of ``CLIPPED`` between two ends and constant beyond.

    Read off the curve: where it is flat at an end, and what it is between.
    """
    flat = np.abs(np.diff(curve.weights)) <= curve.errors[1:] + curve.errors[:-1]
    low, high = int(np.argmin(flat)), int(np.argmin(flat[::-1]))
    if flat.all() or not max(low, high):
        return
    inside = slice(low + 1 if low else 0, len(curve.ratios) - (high + 1 if high else 0))
    ratios, weights, errors = (x[inside] for x in (curve.ratios, curve.weights, curve.errors))
    if len(ratios) < 3:
        return
    for words, of in CLIPPED.items():
        columns = np.stack([of(ratios), np.ones(len(ratios))], axis=1)
        scaled = columns / errors[:, None], weights / errors
        slope, constant = np.linalg.lstsq(*scaled, rcond=None)[0]
        if (np.abs(columns @ [slope, constant] - weights) > 3 * errors).any() or slope == 0:
            continue
        ends = [(curve.weights[end] - constant) / slope for end in (0, -1)]
        ends = [0.0 if abs(end) < 1e-7 else end for end in ends]
        yield from _between(words, of, ends[0] if low else None, ends[1] if high else None)


def _between(words, of, low, high):
    """Clipped at these ends, rounded to more and more figures."""
    for digits in (1, 2, 3, 4, 6, 9):
        ends = [None if end is None else float(f"{end:.{digits}g}") for end in (low, high)]
        yield of_weight(
            WITH + _clip_in_words(words, *ends),
            lambda r, ends=ends: np.clip(of(r), *ends),
            tuple((name, end) for name, end in zip(("low", "high"), ends) if end is not None),
        )


def _clip_in_words(words, low, high):
    if low is not None and high is not None and low == -high:
        return f"{words} clipped to ±{format_number(high)}"
    if words == "−q/p":  # in terms of q/p, whose order is the other way round
        words, low, high = "−q/p, q/p", *(None if end is None else -end for end in (high, low))
    ends = (("at least", low), ("at most", high))
    limits = [f"{most} {format_number(end)}" for most, end in ends if end is not None]
    return f"{words} {' and '.join(limits)}".replace("-", "−")


def any_f_divergence(curve):
    """A weight without a name; its gradient is read off the curve, on lines between points."""
    return of_weight(ANY, lambda r: np.interp(r, curve.ratios, curve.weights))
