"""Probabilities, entropy and the Kullback-Leibler divergence, in the log domain.

Arrays carry the V tokens on the last axis; every leading axis is batch.  All
results are float64 and in nats.  Every function raises ValueError for a scalar,
an empty row, NaN, a dtype that is not numeric; probabilities must be
non-negative and sum to 1 within 1e-6.
"""

import numpy as np

from opd_toy import _validate


def log_softmax(logits):
    """Log-probabilities (..., V) of logits (..., V).

    A logit may be -inf: its log-probability is -inf.  ValueError for a row of
    nothing but -inf, and for +inf.
    """
    z = _validate.logits("logits", logits)
    shifted = z - z.max(axis=-1, keepdims=True)
    # The largest term is exp(0) = 1.  Left out of the sum and put back by log1p,
    # it does not swallow the others: log p = -1e-20 is not rounded to 0.
    others = np.exp(shifted)
    np.put_along_axis(others, z.argmax(axis=-1, keepdims=True), 0.0, axis=-1)
    return shifted - np.log1p(others.sum(axis=-1, keepdims=True))


def softmax(logits):
    """Probabilities (..., V) of logits (..., V); exactly 0 where the logit is -inf."""
    z = _validate.logits("logits", logits)
    weights = np.exp(z - z.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def entropy(p):
    """Entropy -sum p log p of probabilities (..., V) -> (...,), with 0 log 0 = 0."""
    p = _validate.probabilities("p", p)
    return -(p * np.log(np.where(p > 0, p, 1.0))).sum(axis=-1) + 0.0


def kl(p, q):
    """KL(p||q) = sum p log(p/q) of probabilities (..., V) -> (...,).

    0 where p = 0; +inf where some token has q = 0 < p; never below 0.  Equation
    eq-kl-nonnegative.
    """
    p, q = _validate.pair(p, q, names=("p", "q"))
    return kl_terms(p, q).sum(axis=-1)


# What follows serves the other modules; arguments are checked by the caller.


def log_ratio(p, q, difference=None):
    """log p - log q for each token, relatively accurate where p and q are close.

    -inf where p = 0 < q, +inf where q = 0 < p, and 0 where both are 0.
    ``difference`` is p - q where the caller knows it more exactly.
    """
    difference = p - q if difference is None else difference
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        close = np.abs(difference) <= q / 2
        ratio = np.where(
            close, np.log1p(np.where(close, difference / q, 0.0)), np.log(p) - np.log(q)
        )
    return np.where((p == 0) & (q == 0), 0.0, ratio)


def kl_terms(p, q, difference=None):
    """p log(p/q) - p + q for each token.

    The summands of KL(p||q), each made non-negative by -p + q, which adds up to
    nothing: a small divergence keeps all its digits and cannot come out below 0.
    """
    difference = p - q if difference is None else difference
    near, excess = near_equal(q, difference)
    with np.errstate(invalid="ignore"):
        far = np.maximum(p * log_ratio(p, q, difference) - difference, 0.0)
    return np.where(p == 0, q, np.where(near, q * taylor_remainder(excess, 1.0), far))


def near_equal(q, difference, width=0.1):
    """Where |p - q| < width q, and (p - q)/q there (0 elsewhere)."""
    near = np.abs(difference) < width * q
    return near, np.divide(difference, q, out=np.zeros_like(q), where=near)


def taylor_remainder(r, alpha):
    """((1+r)^alpha - 1 - alpha r) / (alpha (alpha - 1)) for |r| < 0.1, |alpha r| < 0.1.

    Its limits are (1+r) log(1+r) - r at alpha = 1 and r - log(1+r) at alpha = 0.
    The series r^2/2 + (alpha-2) r^3/6 + ... needs no subtraction and no division
    by alpha.
    """
    total = np.ones_like(r)
    for n in range(17, 1, -1):
        total = 1 + (alpha - n) / (n + 1) * r * total
    return r * r / 2 * total


def quotient(a, b):
    """a/b, and 0 where b = 0."""
    return np.divide(a, b, out=np.zeros(np.broadcast_shapes(a.shape, b.shape)), where=b != 0)


def sum_over_other_tokens(values):
    """For each token the sum of all the others' ``values`` (..., V), none taken off again."""
    return values @ (1 - np.eye(values.shape[-1]))
