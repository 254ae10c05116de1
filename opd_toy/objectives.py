"""What is learned: divergences between student and teacher, and their logit gradients.

Each objective is f(student, teacher, ...) -> (...,) with
f_logit_gradient(same arguments) -> (..., V).  ``student`` p and ``teacher`` q are
probabilities (..., V) whose leading axes broadcast; the gradient is taken in the
student's logits z, p = softmax(z), and is descended.  Every gradient has the form
p_j (g_j - sum_v p_v g_v) and sums to 0 over the tokens.

Values are in nats, float64, and +inf where the definition says so.  A gradient is
never NaN: where the value is +inf, each of the zeros to blame (q_v = 0 < p_v for
the reverse KL and alpha >= 1, p_v = 0 < q_v for the forward KL and alpha <= 0) is
replaced by one and the same epsilon, and the gradient is its limit, finite or
infinite, for epsilon -> 0.  A token that neither knows has gradient 0.
All raise ValueError on malformed probabilities (see ``distributions``) and parameters.
"""

import numpy as np

from opd_toy import _validate
from opd_toy.distributions import kl_terms, log_ratio, near_equal, quotient, taylor_remainder


def forward_kl(student, teacher):
    """KL(q||p) (...,): the soft-label loss less the teacher's entropy.  eq-seqkd-is-forward-kl."""
    p, q = _validate.pair(student, teacher)
    return kl_terms(q, p).sum(axis=-1)


def forward_kl_logit_gradient(student, teacher):
    """p - q (..., V), finite even where the divergence is not.  eq-fkl-logit-gradient."""
    p, q = _validate.pair(student, teacher)
    return p - q


def reverse_kl(student, teacher):
    """KL(p||q) (...,).  eq-k1-expectation."""
    p, q = _validate.pair(student, teacher)
    return kl_terms(p, q).sum(axis=-1)


def reverse_kl_logit_gradient(student, teacher):
    """p_j (log(p_j/q_j) - KL(p||q)) (..., V).  eq-rkl-logit-gradient.

    Where q_v = 0 < p_v for some tokens: +inf at those, -inf at every other token
    with p > 0, so descent leaves them; if all of p lies on such tokens the
    infinities cancel and p_j (log p_j - sum p log p) is left.
    """
    p, q = _validate.pair(student, teacher)
    barred = (q == 0) & (p > 0)
    return _centred(p, log_ratio(p, np.where(barred, 1.0, q)), barred)


def generalized_jsd(student, teacher, beta):
    """JSD_beta = beta KL(q||M) + (1-beta) KL(p||M), M = (1-beta) p + beta q (...,).

    beta = 0 is the forward and beta = 1 the reverse KL, as in GKD
    (arXiv 2306.13649, eq. 1) and TRL; the formula itself goes to 0 there
    (eq-jsd-endpoints).  Accurate to all digits for beta down to 1e-300.
    """
    beta = _validate.fraction("beta", beta)
    if beta in (0, 1):
        return (reverse_kl if beta else forward_kl)(student, teacher)
    p, q = _validate.pair(student, teacher)
    mixture = _mixture(p, q, beta)
    # p - M and q - M are known without forming M, which would lose them near its ends.
    to_teacher = kl_terms(q, mixture, (1 - beta) * (q - p)).sum(axis=-1)
    to_student = kl_terms(p, mixture, beta * (p - q)).sum(axis=-1)
    return beta * to_teacher + (1 - beta) * to_student


def generalized_jsd_logit_gradient(student, teacher, beta):
    """(1-beta) p_j (log(p_j/M_j) - KL(p||M)) (..., V); finite for 0 < beta < 1.

    eq-improve-objective.
    """
    beta = _validate.fraction("beta", beta)
    if beta in (0, 1):
        return (reverse_kl_logit_gradient if beta else forward_kl_logit_gradient)(student, teacher)
    p, q = _validate.pair(student, teacher)
    return (1 - beta) * _centred(p, log_ratio(p, _mixture(p, q, beta), beta * (p - q)))


def skewed_forward_kl(student, teacher, skew):
    """KL(q || skew q + (1-skew) p) (...,).  eq-improve-objective.

    DistiLLM's skew KL (arXiv 2402.03898); 0.1 there.  skew = 0 is the forward KL,
    skew = 1 is 0; at most -log(skew).
    """
    skew = _validate.fraction("skew", skew)
    if skew == 0:
        return forward_kl(student, teacher)
    p, q = _validate.pair(student, teacher)
    return kl_terms(q, _mixture(p, q, skew), (1 - skew) * (q - p)).sum(axis=-1)


def skewed_forward_kl_logit_gradient(student, teacher, skew):
    """p_j (g_j - sum p g), g = (1-skew)^2 (p - q)/M, M = skew q + (1-skew) p (..., V).

    g is -(1-skew) q/M plus the constant 1-skew, which centring removes: so written
    it is small where p and q are close.  eq-improve-objective.
    """
    skew = _validate.fraction("skew", skew)
    if skew == 0:
        return forward_kl_logit_gradient(student, teacher)
    p, q = _validate.pair(student, teacher)
    if skew == 1:
        return np.zeros_like(p)
    mixture = _mixture(p, q, skew)
    with np.errstate(over="ignore"):
        g = (1 - skew) ** 2 * quotient(p - q, mixture)
    return _centred_with_products(p, g, (1 - skew) ** 2 * (p - q) * quotient(p, mixture))


def skewed_reverse_kl(student, teacher, skew):
    """KL(p || (1-skew) q + skew p) (...,).  eq-improve-objective.

    DistiLLM's skew reverse KL (arXiv 2402.03898).  skew = 0 is the reverse KL,
    skew = 1 is 0; at most -log(skew).
    """
    skew = _validate.fraction("skew", skew)
    if skew == 0:
        return reverse_kl(student, teacher)
    p, q = _validate.pair(student, teacher)
    return kl_terms(p, _mixture(q, p, skew), (1 - skew) * (p - q)).sum(axis=-1)


def skewed_reverse_kl_logit_gradient(student, teacher, skew):
    """p_j (g_j - sum p g), g = log(p/M) + (1-skew) q/M, M = (1-skew) q + skew p (..., V).

    With y = (p - M)/M, g = (1-skew) y - (y - log(1+y)) plus a constant, which
    centring removes.  eq-improve-objective.
    """
    skew = _validate.fraction("skew", skew)
    if skew == 0:
        return reverse_kl_logit_gradient(student, teacher)
    p, q = _validate.pair(student, teacher)
    mixture, difference = _mixture(q, p, skew), (1 - skew) * (p - q)
    near, y = near_equal(mixture, difference)
    close = (1 - skew) * y - taylor_remainder(y, 0.0)
    apart = log_ratio(p, mixture, difference) - quotient(skew * difference, mixture)
    return _centred(p, np.where(near, close, apart))


def alpha_divergence(student, teacher, alpha):
    """(sum p^alpha q^(1-alpha) - 1) / (alpha (alpha-1)) (...,), for any finite alpha.

    Amari's family: its limits alpha -> 1, the reverse KL(p||q), and alpha -> 0, the
    forward KL(q||p), are the values there; alpha = 1/2 is 4 (1 - sum sqrt(p q)).
    +inf where q = 0 < p and alpha >= 1, or p = 0 < q and alpha <= 0.
    eq-improve-objective.
    """
    alpha = _validate.number("alpha", alpha)
    if alpha in (0, 1):
        return (reverse_kl if alpha else forward_kl)(student, teacher)
    p, q = _validate.pair(student, teacher)
    near, excess = near_equal(q, p - q, width=0.1 / max(1, abs(alpha)))
    close = q * taylor_remainder(excess, alpha)
    # Each form divides by the parameter that does not vanish at its end, 0 or 1.
    if alpha < 0.5:
        apart = ((p - q) - _scaled_expm1(q, p, alpha) / alpha) / (1 - alpha)
    else:
        apart = (_scaled_expm1(p, q, 1 - alpha) / (alpha - 1) - (p - q)) / alpha
    return np.where(near, close, apart).sum(axis=-1)


def alpha_divergence_logit_gradient(student, teacher, alpha):
    """p_j (g_j - sum p g), g = ((p/q)^(alpha-1) - 1)/(alpha-1) (..., V).  eq-improve-objective.

    Where the divergence is +inf the tokens to blame outweigh all others: each
    entry is its sign times infinity.
    """
    alpha = _validate.number("alpha", alpha)
    if alpha in (0, 1):
        return (reverse_kl_logit_gradient if alpha else forward_kl_logit_gradient)(student, teacher)
    p, q = _validate.pair(student, teacher)
    with np.errstate(over="ignore", invalid="ignore"):
        g = np.expm1((alpha - 1) * log_ratio(p, q)) / (alpha - 1)
        gradient = _centred_with_products(p, g, _scaled_expm1(p, q, 1 - alpha) / (alpha - 1))
    finite = np.isfinite(gradient).all(axis=-1, keepdims=True)
    return (
        gradient
        if finite.all()
        else np.where(finite, gradient, _overflowed_alpha_gradient(p, q, alpha))
    )


def top_k_reverse_kl(student, teacher, k, outside="renormalize"):
    """Reverse KL on S, the teacher's k likeliest tokens (ties: lower index first) (...,).

    ``outside`` says what becomes of the other tokens:
    "renormalize": p and q are renormalised on S (arXiv 2603.25562);
    "drop": sum over S of p log(p/q), which is no divergence: it may be negative,
    and its gradient is not 0 at p = q;
    "tail": they are one bucket with its own p and q.
    k is an int from 1 to V; at k = V all three are the reverse KL.  Where p has
    nothing on S, "renormalize" takes p uniform on S.  eq-top-k-head-pushes-the-wrong-token.
    """
    p, q, order, k = _head_first(student, teacher, k, outside)
    if outside == "drop":
        p, q = p[..., :k], q[..., :k]
        with np.errstate(invalid="ignore"):
            return np.where(p == 0, 0.0, p * log_ratio(p, q)).sum(axis=-1)
    return kl_terms(*_buckets(p, q, k, outside)).sum(axis=-1)


def top_k_reverse_kl_logit_gradient(student, teacher, k, outside="renormalize"):
    """Gradient (..., V) of ``top_k_reverse_kl`` in all V logits.

    "renormalize": the reverse-KL gradient on S, 0 outside; "drop":
    p_j (g_j - sum p g), g = log(p/q) + 1 on S and 0 outside; "tail": the
    reverse-KL gradient on S, the bucket's outside shared in proportion to p.
    eq-top-k-head-pushes-the-wrong-token.
    """
    p, q, order, k = _head_first(student, teacher, k, outside)
    head = np.arange(p.shape[-1]) < k
    if outside == "drop":
        barred = head & (q == 0) & (p > 0)
        g = np.where(head, log_ratio(p, np.where(barred | (p == 0), 1.0, q)) + 1, 0.0)
        gradient = _centred(p, g, barred)
    else:
        bucket = reverse_kl_logit_gradient(*_buckets(p, q, k, outside))
        gradient = np.zeros_like(p)
        gradient[..., :k] = bucket[..., :k]
        if outside == "tail" and k < p.shape[-1]:
            tail = p[..., k:]
            share = quotient(tail, tail.sum(axis=-1, keepdims=True))
            gradient[..., k:] = np.where(
                share > 0, bucket[..., k:] * np.where(share > 0, share, 1.0), 0.0
            )
    result = np.empty_like(gradient)
    np.put_along_axis(result, order, gradient, axis=-1)
    return result


def descend(gradient, start, rate, steps):
    """Path (steps + 1, ...) of plain gradient descent from parameters ``start`` (...).

    ``gradient`` maps parameters to an array of their shape: for logits,
    ``lambda z: reverse_kl_logit_gradient(softmax(z), teacher)``.
    """
    path = [_validate.numbers("start", start)]
    for _ in range(steps):
        path.append(path[-1] - rate * gradient(path[-1]))
    return np.array(path)


def _centred(p, g, barred=None):
    """p_j (g_j - sum p g); ``barred`` tokens have g = +inf, and ``g`` holds the finite rest."""
    g = np.where(p > 0, g, 0.0)
    # Twice: where g_j is nearly the mean (one token has nearly all of p, or g is nearly
    # constant) the first pass leaves a rounding error as large as the result, but one and
    # the same for all tokens, which the second takes off.
    for _ in range(2):
        g = g - (p * g).sum(axis=-1, keepdims=True) / p.sum(axis=-1, keepdims=True)
    if barred is None or not barred.any():
        return p * g
    inside = np.where(barred, p, 0.0).sum(axis=-1, keepdims=True)
    beyond = np.where(barred, 0.0, p).sum(axis=-1, keepdims=True)
    infinite = np.where(p > 0, np.where(barred, beyond, -inside), 0.0)
    return np.where(infinite != 0, np.copysign(np.inf, infinite), p * g)


def _centred_with_products(p, g, products):
    """The same, taking p_j g_j from ``products`` where p_j is so small that g_j could overflow."""
    tiny = p < 1e-290
    products = np.where(tiny, products, 0.0)
    return _centred(p, np.where(tiny, 0.0, g)) + (
        products - p * products.sum(axis=-1, keepdims=True)
    )


def _mixture(p, q, weight):
    """(1-weight) p + weight q for 0 < weight <= 1, above 0 wherever p or q is.

    A product that underflows is replaced by the smallest number above 0.
    """
    mixture = (1 - weight) * p + weight * q
    return np.where((p > 0) | (q > 0), np.maximum(mixture, 5e-324), 0.0)


def _scaled_expm1(p, q, t):
    """p ((q/p)^t - 1) = q^t p^(1-t) - p, to full accuracy for small t log(q/p)."""
    exponent = t * log_ratio(q, p)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        log_p, log_q = np.log(p), np.log(q)
        power = np.exp(np.where(p > 0, (1 - t) * log_p, 0.0) + np.where(q > 0, t * log_q, 0.0))
        # A zero raised to a positive power makes the product 0, to a negative one +inf.
        zero = ((p == 0) & (t < 1)) | ((q == 0) & (t > 0)) | ((p == 0) & (q == 0))
        infinite = ((p == 0) & (t > 1)) | ((q == 0) & (t < 0))
        power = np.where(zero, 0.0, np.where(infinite, np.inf, power))
        return np.where(
            np.abs(exponent) < 1,
            p * np.expm1(np.where(np.abs(exponent) < 1, exponent, 0.0)),
            power - p,
        )


def _overflowed_alpha_gradient(p, q, alpha):
    """Signs times infinity where p^alpha q^(1-alpha) is beyond float64 for some token."""
    infinite = ((q == 0) & (p > 0)) if alpha > 1 else ((p == 0) & (q > 0))
    leading = np.where(infinite.any(axis=-1, keepdims=True), infinite, (p > 0) & (q > 0))
    size = alpha * np.log(np.where(p > 0, p, 1.0)) + (1 - alpha) * np.log(np.where(q > 0, q, 1.0))
    size = np.where(leading, size, -np.inf)
    power = np.exp(size - size.max(axis=-1, keepdims=True))
    share = p * power.sum(axis=-1, keepdims=True)
    balanced = np.abs(power - share) <= 1e-12 * (power + share)
    return np.where(balanced, 0.0, np.copysign(np.inf, (power - share) / (alpha - 1)))


def _head_first(student, teacher, k, outside):
    """p and q with the teacher's k likeliest tokens in front, the order, and k."""
    p, q = _validate.pair(student, teacher)
    k = _validate.whole("k", k, most=q.shape[-1])
    _validate.choice("outside", outside, ("renormalize", "drop", "tail"))
    order = np.argsort(-q, axis=-1, kind="stable")
    return np.take_along_axis(p, order, axis=-1), np.take_along_axis(q, order, axis=-1), order, k


def _buckets(p, q, k, outside):
    """The two distributions (..., k) or (..., k + 1) that "renormalize" and "tail" compare."""
    if outside == "tail":
        return tuple(
            np.concatenate([x[..., :k], x[..., k:].sum(axis=-1, keepdims=True)], axis=-1)
            for x in (p, q)
        )
    head_p, head_q = p[..., :k], q[..., :k]
    mass = head_p.sum(axis=-1, keepdims=True)
    return np.where(mass > 0, quotient(head_p, mass), 1 / k), head_q / head_q.sum(
        axis=-1, keepdims=True
    )
