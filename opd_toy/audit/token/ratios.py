"""What a gradient makes of the log-ratio: does each token's weight depend on it alone, and how?

A gradient p_j (w_j - mean) is read as its weights w_j = gradient_j / p_j, up to a constant
for each pair.  On the large pairs many tokens share a log-ratio, whatever their probability:
if their weights agree, w is a function of log p/q, and its curve is known without a formula.
"""

from dataclasses import dataclass

import numpy as np

from opd_toy.audit.formats import COARSE
from opd_toy.audit.token.temperatures import softened
from opd_toy.distributions import log_softmax

SAME = 1e-9  # log-ratios closer than that are one
SEEN = 100  # times its error: what a gradient's logarithm is taken of
FEW = 8  # tokens beside another of the same log-ratio: fewer prove nothing


@dataclass(frozen=True)
class Tokens:
    """The tokens of one large pair, in order of their log-ratios (V,).

    ``level`` (V,) numbers the different log-ratios, ``error`` is the gradient's.
    """

    ratio: np.ndarray
    level: np.ndarray
    log_p: np.ndarray
    gradient: np.ndarray
    error: float

    @property
    def weights(self):
        return self.gradient / np.exp(self.log_p)

    @property
    def errors(self):
        return self.error / np.exp(self.log_p)


@dataclass(frozen=True)
class Curve:
    """Weights (L,) at log-ratios (L,), up to one constant, each known to ``errors`` (L,)."""

    ratios: np.ndarray
    weights: np.ndarray
    errors: np.ndarray

    @property
    def increasing(self):
        """Whether the weight never falls: only then is it a divergence's."""
        return bool((np.diff(self.weights) >= -(self.errors[1:] + self.errors[:-1])).all())

    def is_flat(self):
        return bool(np.ptp(self.weights) <= 4 * self.errors.max())


def tokens_of(expected):
    """A list of Tokens, one a large pair; none where rounding would hide everything."""
    large = expected.large
    if large is None or expected.tolerance > COARSE:
        return []
    found = []
    for row, size in enumerate(large.pairs.sizes):
        log_p, log_q = (
            log_softmax(logits[row, :size])
            for logits in (large.pairs.student_logits, large.pairs.teacher_logits)
        )
        gradient = large.gradients[row, :size]
        order = np.argsort(log_p - log_q, kind="stable")
        ratio = (log_p - log_q)[order]
        level = np.concatenate([[0], np.cumsum(np.diff(ratio) > SAME)])
        error = large.tolerance * np.sqrt((gradient**2).sum()) + large.rounding[row] + 1e-100
        found.append(Tokens(ratio, level, log_p[order], gradient[order], float(error)))
    return found


def of_the_ratio_alone(expected):
    """Whether each weight depends on the log-ratio alone, pair by pair; None: cannot be told."""
    found = tokens_of(expected)
    together = sum(len(tokens.level) - 1 - tokens.level[-1] for tokens in found)
    if together < FEW:
        return None
    return all(_agree(tokens) for tokens in found)


def _agree(tokens):
    """Whether tokens of one log-ratio have one weight, and the weights' mean is 0."""
    mean, _ = _means(tokens)
    if abs(tokens.gradient.sum()) > tokens.error * np.sqrt(len(tokens.gradient)):
        return False
    return bool((np.abs(tokens.weights - mean[tokens.level]) <= 2 * tokens.errors).all())


def _means(tokens):
    """The mean weight of each level (L,), and its error."""
    trust = np.exp(2 * tokens.log_p)
    total = np.bincount(tokens.level, trust)
    mean = np.bincount(tokens.level, trust * tokens.weights) / total
    return mean, tokens.error / np.sqrt(total)


def temperature(expected):
    """The temperature of both models at which the weights would be functions of the ratio.

    Two tokens of the same log-ratio then have gradients in the proportion of their softened
    probabilities, so that log g against z has the slope 1 / T.  None where there is none.
    """
    found = tokens_of(expected)
    slopes = [_slope(tokens) for tokens in found]
    if None in slopes:  # or they are all outside of the first tokens, and in one proportion
        slopes = [_slope_of_most(tokens) for tokens in found]
    slopes = [slope for slope in slopes if slope is not None]
    if not slopes or np.ptp(slopes) > 1e-4 * max(slopes):
        return None
    found = 1 / float(np.mean(slopes))
    for digits in range(1, 7):
        rounded = float(f"{found:.{digits}g}")
        if abs(rounded - found) <= max(1e-8, 10 * expected.tolerance) * found:
            found = rounded
            break
    return found if abs(found - 1) > 1e-6 else None


def _slope(tokens):
    """The one slope of log |gradient| in log p within all levels, or None."""
    seen = np.abs(tokens.gradient) > SEEN * tokens.error
    if seen.sum() < FEW:
        return None
    level, x = tokens.level[seen], tokens.log_p[seen]
    size = np.abs(tokens.gradient[seen])
    y, trust = np.log(size), size**2
    total = np.maximum(np.bincount(level, trust), 1e-300)
    x = x - (np.bincount(level, trust * x) / total)[level]
    y = y - (np.bincount(level, trust * y) / total)[level]
    if np.count_nonzero(x) < FEW:
        return None
    slope = (trust * x * y).sum() / (trust * x * x).sum()
    off = np.abs(y - slope * x) > 4 * tokens.error / size + 1e-9
    return None if off.any() or slope <= 0 else float(slope)


def _slope_of_most(tokens):
    """The slope of log |gradient| in log p that most tokens share, or None."""
    seen = np.abs(tokens.gradient) > SEEN * tokens.error
    if seen.sum() < 4 * FEW:
        return None
    order = np.random.default_rng(0).permutation(int(seen.sum()))
    x, y = tokens.log_p[seen][order], np.log(np.abs(tokens.gradient[seen][order]))
    # Tokens far apart in log p, for a slope known well.
    slopes = np.sort((y - np.roll(y, 1)) / (x - np.roll(x, 1)))
    width = 1e-6 * np.abs(slopes)
    alike = np.searchsorted(slopes, slopes + width, side="right") - np.arange(len(slopes))
    best = int(np.argmax(alike))
    if alike[best] < max(FEW, len(slopes) / 4) or slopes[best] <= 0:
        return None
    return float(np.median(slopes[best : best + alike[best]]))


def curve(expected):
    """-> Curve of weights of the ratio alone, those of both large pairs put together; or None."""
    joined = None
    for tokens in sorted(tokens_of(expected), key=lambda tokens: tokens.error):
        mean, error = _means(tokens)
        first = np.unique(tokens.level, return_index=True)[1]
        here = Curve(tokens.ratio[first], mean, error)
        joined = here if joined is None else _joined(joined, here)
        if joined is None:
            return None
    return joined and _around_zero(joined)


def _joined(one, other):
    """Two curves that agree, up to a constant, where they meet; None where they do not."""
    apart = np.abs(one.ratios[:, None] - other.ratios)
    mine, theirs = np.nonzero(apart < SAME)
    if len(mine) < 2:
        return None
    shift = one.weights[mine] - other.weights[theirs]
    error = one.errors[mine] + other.errors[theirs]
    constant = np.average(shift, weights=1 / error**2)
    if (np.abs(shift - constant) > 2 * error).any():
        return None
    new = ~(apart < SAME).any(axis=0)
    ratios = np.concatenate([one.ratios, other.ratios[new]])
    weights = np.concatenate([one.weights, other.weights[new] + constant])
    errors = np.concatenate([one.errors, other.errors[new] + error.min()])
    order = np.argsort(ratios)
    return Curve(ratios[order], weights[order], errors[order])


def _around_zero(found):
    """The curve shifted so that it is 0 in the middle between the log-ratios next to 0."""
    middle = np.searchsorted(found.ratios, 0.0)
    if not 0 < middle < len(found.ratios):
        return found
    level = found.weights[middle - 1 : middle + 1].mean()
    return Curve(found.ratios, found.weights - level, found.errors)


def follows(expected, found):
    """On which pairs (N,) the weights can be those of the curve ``found``.

    Each token's must lie between those of the next lower and the next higher log-ratio of
    the curve, with one constant for all tokens of a pair; or near them, if the curve falls.
    """
    steps = np.abs(np.diff(found.weights))
    around = np.maximum(np.append(steps, 0.0), np.append(0.0, steps))
    beyond = 0.0 if found.increasing else np.pad(np.maximum(around[1:], around[:-1]), 1)
    ends = np.concatenate([[-np.inf], found.weights, [np.inf]])
    if found.increasing:
        lowest, highest = ends[:-1], ends[1:]
    else:
        lowest = np.concatenate([[-np.inf], np.minimum(ends[1:-2], ends[2:-1]), [-np.inf]]) - beyond
        highest = np.concatenate([[np.inf], np.maximum(ends[1:-2], ends[2:-1]), [np.inf]]) + beyond
    pairs = expected.pairs
    possible = []
    for row, size in enumerate(pairs.sizes):
        log_p, log_q = (
            log_softmax(logits[row, :size])
            for logits in (pairs.student_logits, pairs.teacher_logits)
        )
        gradient = expected.gradients[row, :size]
        error = expected.tolerance * np.sqrt((gradient**2).sum()) + expected.rounding[row]
        weight = gradient / np.exp(log_p)
        slack = error / np.exp(log_p) + found.errors.max()
        place = np.searchsorted(found.ratios, log_p - log_q)
        centred = abs(gradient.sum()) <= error * np.sqrt(size)
        least, most = (
            (lowest[place] - weight - slack).max(),
            (highest[place] - weight + slack).min(),
        )
        possible.append(bool(centred and least <= most))
    return np.array(possible)


def at_temperature_one(expected):
    """(Expected in the logits softened at a temperature, that temperature), or None.

    There the weights are functions of the log-ratio.
    """
    found = temperature(expected)
    return None if found is None else (softened(expected, found), found)
