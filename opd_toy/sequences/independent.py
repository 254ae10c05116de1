"""Where positions are independent: each has one row of logits, whatever came before.

Then the gradient has T V entries, and its variance needs no enumeration of sequences.
``opd_toy.sequences`` has these names; import from there.
"""

import numpy as np

from opd_toy import _validate
from opd_toy.distributions import kl_terms, log_ratio
from opd_toy.estimators import squared_score_norm
from opd_toy.sequences.trees import SIGNALS, centred, discounted_later


def independent_variance(student, teacher, gamma, signal="sampled", causal=True, shared=False):
    """Total variance of ``reward_to_go`` with independent positions, at any length.

    ``student`` and ``teacher`` are probabilities (T, V), any T; the gradient is (T, V).
    causal=False gives ``full_return``, which has no discount: gamma must then be 1.
    shared=True adds all rows of the gradient up, as if one row of logits moved every
    position (V,): that changes only the sampled full return, as no causal weight, and no
    KL, knows an earlier token.  Exact: the cost of the other positions is independent of
    a_t, so its mean and variance are all that counts.  eq-variance-exponents.
    """
    p, q, gamma = _checked(student, teacher, gamma, signal, causal)
    cost = np.where(p > 0, log_ratio(p, q), 0.0)
    kl = kl_terms(p, q).sum(axis=1)
    sampled = signal == "sampled"
    cost_variance = (p * (cost - kl[:, None]) ** 2).sum(axis=1) if sampled else np.zeros(len(p))
    if causal:
        mean_of_others = discounted_later(kl, gamma)
        variance_of_others = discounted_later(cost_variance, gamma**2)
    else:
        mean_of_others = kl.sum() - kl
        variance_of_others = cost_variance.sum() - cost_variance
    own = np.zeros_like(cost) if signal == "full_vocabulary" else cost
    weight = own + mean_of_others[:, None]
    score = np.eye(p.shape[1]) - p[:, None, :]
    mean = centred(p, own)
    between = (p[..., None] * (weight[..., None] * score - mean[:, None, :]) ** 2).sum()
    within = (p * squared_score_norm(p)).sum(axis=1) @ variance_of_others
    across = _across_positions(mean) if shared and not causal and sampled else 0.0
    return float(between + within + across)


def _across_positions(mean):
    """sum_{t != u} mean_t . mean_u of gradients (T, V): what two positions' rows have in common.

    E[2 r_t r_u score_t . score_u] less the product of the means, for every pair.
    """
    return (mean.sum(axis=0) ** 2).sum() - (mean**2).sum()


def _checked(student, teacher, gamma, signal, causal):
    gamma = _validate.fraction("gamma", gamma)
    _validate.choice("signal", signal, SIGNALS)
    if not causal and gamma != 1:
        raise ValueError(
            f"gamma is {gamma!r} with causal=False; the full return has no discount: give gamma = 1"
        )
    p, q = _validate.pair(student, teacher)
    if p.ndim != 2:
        raise ValueError(f"student has shape {p.shape}; give one row a position, shape (T, V)")
    if (barred := (q == 0) & (p > 0)).any():
        t, token = (int(i) for i in np.argwhere(barred)[0])
        raise ValueError(
            f"teacher holds 0.0 at row ({t},), token {token}, "
            f"where student holds {float(p[t, token])!r}: "
            "the KL is infinite and has no gradient; give it a probability above 0"
        )
    return p, q, gamma


def growth_exponents(lengths, variances):
    """Slopes of log variance against log T between neighbouring lengths, (N,) -> (N - 1,).

    eq-variance-exponents.
    """
    lengths = _validate.rows("lengths", lengths)
    variances = _validate.rows("variances", variances)
    if lengths.ndim != 1 or lengths.shape != variances.shape or len(lengths) < 2:
        raise ValueError(
            f"lengths has shape {lengths.shape} and variances {variances.shape}; "
            "give two or more of each, as many of one as of the other"
        )
    for name, values in (("lengths", lengths), ("variances", variances)):
        if not (np.isfinite(values).all() and (values > 0).all()):
            raise ValueError(f"{name} is {values.tolist()!r}; give finite numbers above 0")
    if not (np.diff(lengths) > 0).all():
        raise ValueError(f"lengths is {lengths.tolist()!r}; give increasing numbers")
    return np.diff(np.log(variances)) / np.diff(np.log(lengths))


def dense_and_broadcast(student, teacher):
    """All V**T sequences: one weight a token against one a sequence.

    ``student`` and ``teacher`` are (T, V).  Returns probabilities (S,), S = V**T
    sequences in base-V order, and two arrays of weights (S, T) on the scores of the
    drawn tokens: dense, each position's own C_t, and broadcast, the sequence's sum
    of them at every position, as RLVR does with an outcome.  eq-dense-versus-broadcast.
    """
    p, q = _validate.pair(student, teacher)
    sequences = _all_sequences("student", p)
    positions = np.arange(len(p))
    dense = log_ratio(p, q)[positions, sequences]
    broadcast = np.repeat(dense.sum(axis=1, keepdims=True), len(p), axis=1)
    return p[positions, sequences].prod(axis=1), dense, broadcast


def independent_table(student, weights):
    """Gradient table (S, T V) of weights (S, T) on the scores of all sequences.

    ``student`` is (T, V), sequences in base-V order, as for ``dense_and_broadcast``.
    """
    p = _validate.probabilities("student", student)
    score = np.eye(p.shape[-1])[_all_sequences("student", p)] - p
    with np.errstate(invalid="ignore"):  # a weight of infinity times a score of 0 is 0
        return np.where(score == 0, 0.0, weights[..., None] * score).reshape(len(score), -1)


def _all_sequences(name, p):
    """(S, T) in base-V order, of rows (T, V)."""
    if p.ndim != 2:
        raise ValueError(f"{name} has shape {p.shape}; give one row a position, shape (T, V)")
    length, vocabulary = p.shape
    return np.indices((vocabulary,) * length).reshape(length, -1).T
