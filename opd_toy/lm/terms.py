"""The divergences' formulas, token by token: what whole rows and slices of rows share.

p is the student, q the teacher, d = log p/q, all (n, V) and float32 or float64.
"""

import math

import torch

FAR_BELOW = -30  # a log ratio whose exponential needs care


def log_ratio(z, y, normalizers, careful=True):
    """d of logits z and y; ``normalizers`` (n, 1) is how much more the log of z's is than y's.

    Logits are subtracted first: log p and log q, rounded one by one, would lose d near 0.
    Tokens that both models bar have d = 0.
    """
    d = (z - y).sub_(normalizers.to(z.dtype))
    return d.masked_fill_(z.isneginf() & y.isneginf(), 0.0) if careful else d


def without_nothing(p, ratio):
    """``ratio``, finite where p is 0, so that p * ratio is 0 there."""
    return ratio.clamp_min(-1e30).masked_fill_((p == 0) & ratio.isposinf(), 0.0)


def dot(a, b):
    """The sum of a * b (n,): pairwise, torch.dot is off by 2e-6 at 150k terms."""
    return torch.linalg.vecdot(a, b)


def bregman(p, ratio, m):
    """p * ratio + m - p >= 0, where ratio = log p/m."""
    near = p * (ratio + torch.expm1(-ratio.clamp_min(FAR_BELOW)))
    far = p * (ratio - 1) + m  # p is 0 to rounding
    return torch.where(ratio < FAR_BELOW, far, near)


# --- mixtures; d is overwritten ------------------------------------------------------------


def jsd_ratios(d, beta):
    """log p/M and log q/M, where M = (1 - beta) p + beta q.

    They differ by d: first the one nearer to 0, so that the other loses no digits to the
    subtraction.
    """
    limit = 0.7 * math.log(torch.finfo(d.dtype).max)
    d.clamp_(-limit, limit)  # beyond, one of the two probabilities is 0 to rounding
    if beta < 0.5:
        to_p = torch.expm1(-d).mul_(beta).log1p_().neg_()
        return to_p, to_p - d
    to_q = torch.expm1(d).mul_(1 - beta).log1p_().neg_()
    return d.add_(to_q), to_q


def skewed_forward_terms(d, skew):
    """log q/M, where M = skew q + (1 - skew) p, and (1 - skew)^2 (p - q)/M; d in float64."""
    growth, share = _share(d, 1 - skew, skew)  # of M/q
    return share.log().neg_(), growth.mul_(1 - skew).div_(share)


def skewed_reverse_terms(d, skew):
    """log p/M, where M = skew p + (1 - skew) q, and that less skew (p/M - 1); d in float64."""
    growth, share = _share(d.neg_(), 1 - skew, skew)  # of M/p
    to_p = share.log().neg_()
    return to_p, growth.div_(share).mul_(skew).add_(to_p)


def _share(x, weight, rest):
    """weight * (exp(x) - 1), and 1 more, rest + weight * exp(x), where weight + rest = 1.

    In float32 the second would lose its digits near 0, which a small rest allows, and its
    logarithm would near 1, where a small weight leaves it.
    """
    share = x.clamp_(-700, 700).mul_(math.log2(math.e)).exp2_()  # of float64: not 0 or infinite
    return (share - 1).mul_(weight), share.mul_(weight).add_(rest)


def mixed(p, q, share):
    """(1 - share) p + share q.  torch.lerp rounds 1 - share to the tensors' dtype."""
    return (p * (1 - share)).add_(q, alpha=share)
