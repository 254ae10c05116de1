"""How it is learned: gradient tables of one position.

A table (V, V) holds in row k the gradient in the student's logits that is applied
if token k is drawn, k ~ student unless said otherwise.  Its expectation is
``expectation(student, table)``, its spread ``total_variance(student, table)``:
linear algebra, no sampling.

``student`` p and ``teacher`` q are probabilities (V,); leading batch axes work
too, (..., V) -> (..., V, V).  The sampled cost is C_k = log p_k - log q_k, and the
score of token k is the row delta_kj - p_j.  A table is never NaN: a weight of
+-inf times a score entry of 0 is 0.  C_k is 0 where p_k = q_k = 0.  Rows of
tokens with p_k = 0 may be infinite; they are never drawn, and ``expectation``
and ``total_variance`` leave them out.  ValueError on malformed arguments.
"""

import math

import numpy as np

from opd_toy import _validate
from opd_toy.distributions import (
    log_ratio,
    near_equal,
    sum_over_other_tokens,
    taylor_remainder,
)
from opd_toy.objectives import reverse_kl, reverse_kl_logit_gradient

KINDS = ("k1", "k2", "k3")


def policy_gradient(student, teacher, baseline=0.0):
    """Table[k, j] = (C_k - baseline)(delta_kj - p_j).  eq-pg-logit-gradient.

    Unbiased for the reverse-KL gradient at every ``baseline``, a finite number
    (or one for each batch row).
    """
    p, q = _validate.pair(student, teacher)
    return score_table(log_ratio(p, q) - by_row("baseline", baseline, p)[..., None], p)


def k_estimator(student, teacher, kind):
    """Schulman's single-sample estimates of KL(p||q), one value a token (..., V).

    With d = log p - log q: "k1" is d, "k2" is d^2/2, "k3" is exp(-d) - 1 + d (never
    below 0).  eq-schulman-table; J. Schulman, "Approximating KL divergence" (2020).
    """
    _validate.choice("kind", kind, KINDS)
    p, q = _validate.pair(student, teacher)
    d = log_ratio(p, q)
    if kind == "k1":
        return d
    if kind == "k2":
        return d * d / 2
    near, excess = near_equal(p, q - p)
    with np.errstate(over="ignore", invalid="ignore"):
        apart = np.where(np.isneginf(d), np.inf, np.expm1(-d) + d)
    return np.where(near, taylor_remainder(excess, 0.0), apart)


def k_estimator_as_loss(student, teacher, kind):
    """Table of d k_k / d z: the estimate of the drawn token, differentiated.

    eq-k-estimators-as-loss.  Weight on the score: 1 for k1 (expectation 0), d for k2
    (the reverse-KL gradient), 1 - q/p for k3 (the forward-KL gradient, as far as the student's
    support reaches: a token it never draws teaches nothing).
    """
    _validate.choice("kind", kind, KINDS)
    p, q = _validate.pair(student, teacher)
    d = log_ratio(p, q)
    if kind == "k1":
        return score_table(np.ones_like(p), p)
    with np.errstate(over="ignore"):
        return score_table(d if kind == "k2" else -np.expm1(-d), p)


def k_estimator_as_reward(student, teacher, kind):
    """Table k_k (delta_kj - p_j): the estimate as a detached cost.  eq-k-estimators-as-reward.

    Expectation: k1 the reverse-KL gradient, k3 the reverse-KL less the forward-KL
    gradient (where q has no mass outside p's support); k2 neither.
    """
    p, _ = _validate.pair(student, teacher)
    return score_table(k_estimator(student, teacher, kind), p)


def full_vocabulary_advantage(student, teacher):
    """Table KL(p||q) (delta_kj - p_j): expectation 0, it teaches nothing.

    eq-full-vocab-advantage-is-zero.
    """
    p, q = _validate.pair(student, teacher)
    return score_table(np.broadcast_to(reverse_kl(p, q)[..., None], p.shape), p)


def gkd(student, teacher):
    """Table whose every row is the exact reverse-KL gradient: variance 0.

    eq-rkl-logit-gradient.
    """
    gradient = reverse_kl_logit_gradient(student, teacher)
    return np.repeat(gradient[..., None, :], gradient.shape[-1], axis=-2)


def truncated_policy_gradient(student, teacher, limit):
    """Table clip(C_k, -limit, limit)(delta_kj - p_j), limit > 0; biased where it clips.

    eq-improve-estimator.
    """
    p, q = _validate.pair(student, teacher)
    limit = _validate.positive("limit", limit)
    return score_table(np.clip(log_ratio(p, q), -limit, limit), p)


def normalized_policy_gradient(student, teacher):
    """Table (C_k - mean)/std (delta_kj - p_j), mean and std of C under p.  eq-improve-estimator.

    Its expectation is the reverse-KL gradient divided by the standard deviation:
    the same direction, another length.  0 where C is one and the same number for
    every token that can be drawn.  Where q_k = 0 < p_k, the limit of q_k -> 0.
    """
    p, q = _validate.pair(student, teacher)
    barred = (q == 0) & (p > 0)
    mixed = (barred.any(axis=-1) & ((p > 0) & ~barred).any(axis=-1))[..., None]
    cost = np.where(mixed & (p > 0), barred, log_ratio(p, np.where(barred, 1.0, q)))
    drawable = np.where(p > 0, cost, 0.0)
    centred = drawable - (p * drawable).sum(axis=-1, keepdims=True)
    std = np.sqrt((p * centred**2).sum(axis=-1, keepdims=True))
    constant = std <= 1e-12 * np.abs(drawable).max(axis=-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        weight = np.where(p > 0, centred, cost) / std
    return score_table(np.where(constant, 0.0, weight), p)


def top_k_policy_gradient(student, teacher, k, tail="sampled"):
    """Exact head and sampled tail: sum over S of p_v C_v (delta_vj - p_j), plus the
    drawn token's own C_k (delta_kj - p_j) if it lies outside S.  eq-improve-estimator.

    S is the teacher's k likeliest tokens (ties: lower index first), k an int from 1
    to V.  "sampled" is unbiased for every k (EMA-PG, arXiv 2602.04417) and at k = V
    is ``gkd``; ``tail`` = "drop" leaves the second part out: no variance, but bias.
    """
    p, q = _validate.pair(student, teacher)
    k = _validate.whole("k", k, most=p.shape[-1])
    _validate.choice("tail", tail, ("sampled", "drop"))
    head = np.zeros(p.shape, bool)
    np.put_along_axis(head, np.argsort(-q, axis=-1, kind="stable")[..., :k], True, axis=-1)

    def head_and_tail(cost):
        exact = score_table(product(np.where(head, p, 0.0), cost), p).sum(axis=-2, keepdims=True)
        return exact + score_table(np.where(head | (tail == "drop"), 0.0, cost), p)

    # Costs of +inf, q_k = 0 < p_k, may meet with both signs.  They are the limit of equal
    # large costs: the table of their indicator says which sign wins, or that they cancel.
    barred = (q == 0) & (p > 0)
    table = head_and_tail(log_ratio(p, np.where(barred, 1.0, q)))
    infinite = head_and_tail(barred.astype(float))
    return np.where(infinite != 0, np.copysign(np.inf, infinite), table)


def mixed_policy_gradient(student, teacher, reward, weight):
    """Table (C_k - weight reward_k)(delta_kj - p_j), reward (V,).  eq-improve-framework.

    Unbiased for the gradient of KL(p||q) - weight E[reward], which is least at
    ``tilted_teacher(teacher, reward, weight)``.
    """
    p, q = _validate.pair(student, teacher)
    reward = _validate.one_position("reward", reward, p.shape[-1])
    return score_table(log_ratio(p, q) - _validate.number("weight", weight) * reward, p)


def tilted_teacher(teacher, reward, weight):
    """q exp(weight reward) / sum (..., V): where KL(p||q) - weight E_p[reward] is least.

    eq-improve-framework.
    """
    q = _validate.probabilities("teacher", teacher)
    reward = _validate.one_position("reward", reward, q.shape[-1])
    tilt = _validate.number("weight", weight) * reward
    best = np.where(q > 0, tilt, -np.inf).max(axis=-1, keepdims=True)
    tilted = q * np.exp(np.minimum(tilt - best, 0.0))
    return tilted / tilted.sum(axis=-1, keepdims=True)


def expectation(probabilities, table):
    """sum_k probabilities_k table[k]: (..., K) and (..., K, columns) -> (..., columns).

    Rows of probability 0 are left out.  An infinite row that can be drawn makes the
    expectation infinite; ValueError where +inf and -inf meet in one column, as it
    then does not exist.
    """
    weights, rows = _drawn(probabilities, table)
    both = (np.isposinf(rows).any(axis=-2) & np.isneginf(rows).any(axis=-2)).any()
    if both:
        raise ValueError(
            "table holds both +inf and -inf in one column, in rows that can be drawn: "
            "the expectation does not exist; "
            "see the limit in objectives.reverse_kl_logit_gradient"
        )
    with np.errstate(invalid="ignore"):
        return np.where(rows == 0, 0.0, weights[..., None] * rows).sum(axis=-2)


def total_variance(probabilities, table):
    """Trace of the covariance of a row of the table, k ~ probabilities.

    A float, or (...,) for a batch, of (..., K) and (..., K, columns).  Two passes, so never
    below 0, and exactly 0 for equal rows.  +inf where an infinite row can be drawn.
    """
    weights, rows = _drawn(probabilities, table)
    infinite = np.isinf(rows).any(axis=(-2, -1))
    rows = np.where(np.isinf(rows), 0.0, rows)
    # Measured from one of the rows that can be drawn: equal rows differ by exactly 0.
    reference = np.take_along_axis(rows, weights.argmax(axis=-1)[..., None, None], axis=-2)
    shifted = np.where(weights[..., None] > 0, rows - reference, 0.0)
    deviation = shifted - (weights[..., None] * shifted).sum(axis=-2, keepdims=True)
    with np.errstate(over="ignore"):
        variance = np.where(
            infinite, np.inf, product(weights, (deviation**2).sum(axis=-1)).sum(axis=-1)
        )
    return variance if variance.ndim else float(variance)


def optimal_baseline(student, teacher):
    """The constant baseline with the least total variance, E[C w]/E[w], w = |delta_k - p|^2.

    0 where no score varies (V = 1, one-hot p); +inf where KL(p||q) is.
    eq-baseline-does-not-always-help.
    """
    p, q = _validate.pair(student, teacher)
    weight = p * squared_score_norm(p)
    total = weight.sum(axis=-1)
    best = np.divide(
        product(weight, log_ratio(p, q)).sum(axis=-1),
        total,
        out=np.zeros_like(total),
        where=total > 0,
    )
    return best if best.ndim else float(best)


def schulman_table(mean):
    """Bias and spread of k1, k2, k3 for samples of N(0, 1) against N(mean, 1), mean not 0.

    {"kl": mean^2/2, "k1": {"bias", "sd", "bias_over_kl", "sd_over_kl"}, "k2": ..., "k3": ...},
    closed forms.  eq-schulman-table.
    """
    mean = abs(_validate.number("mean", mean))
    if mean == 0:
        raise ValueError(
            "mean is 0; give a mean other than 0, "
            "as at 0 the KL that bias and spread are divided by is 0"
        )
    square = mean * mean
    kl = square / 2
    # exp(x) - 1 - x loses its digits for small x; its series does not.
    k3_variance = (
        sum(square**n / math.factorial(n) for n in range(2, 25))
        if square < 1
        else math.expm1(square) - square
    )
    bias = {"k1": 0.0, "k2": square**2 / 8, "k3": 0.0}
    variance = {"k1": square, "k2": square**2 / 2 + square**3 / 4, "k3": k3_variance}
    return {"kl": kl} | {
        kind: {
            "bias": bias[kind],
            "sd": math.sqrt(variance[kind]),
            "bias_over_kl": bias[kind] / kl,
            "sd_over_kl": math.sqrt(variance[kind]) / kl,
        }
        for kind in KINDS
    }


def squared_score_norm(p):
    """|delta_k - p|^2 for each token k, of probabilities (..., V)."""
    return sum_over_other_tokens(p) ** 2 + sum_over_other_tokens(p * p)


def by_row(name, value, p):
    """``value`` as an array: one finite number, or one for each batch row of p (..., V)."""
    value = _validate.numbers(name, value)
    if not np.isfinite(value).all():
        raise ValueError(f"{name} is {value.tolist()!r}; give a finite number")
    if value.ndim and value.shape != p.shape[:-1]:
        raise ValueError(
            f"{name} has shape {value.shape}; "
            f"give one number, or one for each batch row, shape {p.shape[:-1]}"
        )
    return value


def product(a, b):
    """a b with 0 inf = 0."""
    with np.errstate(invalid="ignore", over="ignore"):
        return np.where((a == 0) | (b == 0), 0.0, a * b)


def score_table(weight, p):
    """weight_k (delta_kj - p_j): (..., V) and (..., V) -> (..., V, V)."""
    score = np.repeat(-p[..., None, :], p.shape[-1], axis=-2)
    token = np.arange(p.shape[-1])
    score[..., token, token] = sum_over_other_tokens(p)
    return product(weight[..., :, None], score)


def _drawn(probabilities, table):
    """Checked weights (..., K) and table (..., K, columns) with rows of weight 0 set to 0."""
    weights = _validate.probabilities("probabilities", probabilities)
    rows = _validate.numbers("table", table)
    if rows.ndim < 2 or rows.shape[-2] != weights.shape[-1]:
        raise ValueError(
            f"table has shape {rows.shape}; give one row for each of the {weights.shape[-1]} "
            f"probabilities, shape (..., {weights.shape[-1]}, columns)"
        )
    if np.isnan(rows).any():
        place = tuple(int(i) for i in np.argwhere(np.isnan(rows))[0])
        raise ValueError(f"table holds nan at {place}; every entry must be a number")
    try:
        rows = np.broadcast_to(
            rows, np.broadcast_shapes(weights.shape[:-1], rows.shape[:-2]) + rows.shape[-2:]
        )
    except ValueError:
        raise ValueError(
            f"probabilities has shape {weights.shape} and table {rows.shape}; "
            "their leading axes must be equal or broadcast"
        ) from None
    weights = np.broadcast_to(weights, rows.shape[:-1])
    return weights, np.where(weights[..., None] > 0, rows, 0.0)
