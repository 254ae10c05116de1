"""How it is learned from tokens that another policy drew: gradient tables of one position.

The *behaviour* mu wrote the text: an older student, a sampler with other numerics, another
temperature.  The tables are those of ``estimators``, but row k is drawn with mu_k:
``estimators.expectation(behaviour, table)`` is the gradient applied on average, and
``total_variance(behaviour, table)`` its spread.  The *ratio* of a token is rho_k = p_k/mu_k.

``student`` p, ``teacher`` q and ``behaviour`` mu are probabilities (V,), or broadcast with
leading batch axes, (..., V) -> (..., V, V).  Costs are in nats.  Tokens that mu never draws
have rows that may be infinite and count for nothing: no weight brings them back.
ValueError on malformed arguments.
"""

import numpy as np

from opd_toy import _validate
from opd_toy.distributions import log_ratio
from opd_toy.estimators import by_row, product, score_table

CORRECTIONS = ("none", "ratio", "truncate", "mask", "clip")
COSTS = ("recomputed", "kept")


def policy_gradient(
    student, teacher, behaviour, correction="ratio", limits=None, cost="recomputed", baseline=0.0
):
    """Table f_k (C_k - baseline)(delta_kj - p_j), k ~ behaviour.  eq-stale-gradient.

    ``cost``: "recomputed", C_k = log p_k - log q_k of the student as it is now; "kept",
    log mu_k - log q_k as it was when the text was written.
    ``correction`` and its ``limits``, the factor f_k:
    "none" 1; "ratio" rho_k; "truncate" min(rho_k, limits), a number above 0;
    "mask" rho_k where low <= rho_k <= high, else 0, limits (low, high);
    "clip" rho_k, but 0 where PPO's clip has no gradient: where rho_k < 1 - low and the cost
    less its baseline is above 0, or rho_k > 1 + high and it is below, limits (low, high).
    With the ratio and the recomputed cost the expectation is the reverse-KL gradient, at every
    ``baseline`` (a number, or one for each batch row), if mu > 0 wherever p > 0.
    eq-token-ratio-is-exact.  Without a ratio, and with the recomputed cost, a token with
    p_k = 0 < mu_k has an infinite row.
    """
    p, q = _validate.pair(student, teacher)
    _, mu = _validate.pair(p, behaviour, names=("student", "behaviour"))
    p, q, mu = np.broadcast_arrays(p, q, mu)
    _validate.choice("cost", cost, COSTS)
    centred = log_ratio(p if cost == "recomputed" else mu, q)
    centred = centred - by_row("baseline", baseline, p)[..., None]
    return score_table(product(_factor(p, mu, centred, correction, limits), centred), p)


def ratio(student, behaviour):
    """rho = p/mu (..., V): 0 where p is, +inf where mu alone is 0."""
    p, mu = _validate.pair(student, behaviour, names=("student", "behaviour"))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return np.where(p == 0, 0.0, p / mu)


def second_moment(student, behaviour):
    """E_mu[rho^2] = 1 + chi^2(p||mu) (...): +inf where mu bars a token of the student's.

    eq-ratio-variance-grows.
    """
    p, mu = _validate.pair(student, behaviour, names=("student", "behaviour"))
    with np.errstate(over="ignore"):
        excess = np.divide((p - mu) ** 2, mu, out=np.where(p > 0, np.inf, 0.0), where=mu > 0)
    moment = 1 + excess.sum(axis=-1)
    return moment if moment.ndim else float(moment)


def _factor(p, mu, centred, correction, limits):
    """f (..., V) of ``policy_gradient``."""
    _validate.choice("correction", correction, CORRECTIONS)
    w = ratio(p, mu)
    if correction in ("none", "ratio"):
        if limits is not None:
            raise ValueError(f"limits is {limits!r}; {correction!r} has none: leave it out")
        return w if correction == "ratio" else np.ones_like(p)
    if correction == "truncate":
        return np.minimum(w, _validate.positive("limits", limits))
    low, high = _two_limits(limits)
    if correction == "mask":
        if low > high:
            raise ValueError(f"limits is {limits!r}; give (low, high) with low <= high")
        return np.where((w >= low) & (w <= high), w, 0.0)
    done = np.where(centred > 0, w < 1 - low, w > 1 + high)
    return np.where(done, 0.0, w)


def _two_limits(limits):
    """(low, high), floats of at least 0; high may be infinite."""
    array = (
        _validate.numbers("limits", limits) if isinstance(limits, (tuple, list)) else np.empty(0)
    )
    if array.shape != (2,) or not (0 <= array[0] < np.inf and array[1] >= 0):
        raise ValueError(
            f"limits is {_validate.quote(limits)}; give two numbers of at least 0: (low, high)"
        )
    return float(array[0]), float(array[1])
