"""Divergences of rows whose vocabulary is cut into slices, one on each process.

What a row needs of the other slices is a few sums over them: the greatest logit and the sum of
exponentials of both models, which make the probabilities, then the divergences and the term
that centres the gradient (chapter 3).  No logit leaves its process.

Each objective takes p, q and d = log p/q of the slice, (n, V/N), and returns ``parts``, a list
of (weight, a, log a/m, m) for the sum of weight * KL(a||m), and ``g`` for the gradient
p_j (g_j - sum p g), None for p - q.  They are written as in ``opd_toy.lm.divergences``.
"""

import math

import torch
import torch.distributed as dist

from opd_toy.lm.divergences import FAR_BELOW, NEAR_ZERO
from opd_toy.lm.tokens import working_dtype


def add_rows(z, y, factor, out, group, function, parameters, temperature):
    """The sum of the values of rows z, y (n, V/N) times their factors (n,): a float64 scalar.

    The gradients in z, likewise scaled, are written to ``out`` (n, V/N) unless that is None.
    The value is the same on all processes of ``group``.
    """
    masked = factor == 0
    z, y = (x.to(working_dtype(z)) / temperature for x in (z, y))
    p, q, d = _compare(z, y, group)
    parts, g = function(p, q, d, **parameters)
    sums = [each for _, *part in parts for each in _sums(*part)]
    sums = total(_columns(*sums, *([] if g is None else [_dot(p, g)])), group)
    values = _values([weight for weight, *_ in parts], sums)
    if out is not None:
        gradient = p - q if g is None else _centred(p, g, sums[:, -1:], group)
        torch.mul(gradient, factor[:, None] / temperature, out=out)
        out.masked_fill_(masked[:, None], 0.0)
    return (values * factor).masked_fill(masked, 0.0).sum()


# --- over the processes ------------------------------------------------------------------


def greatest(numbers, group):
    """The greatest of each number over the processes, in place."""
    dist.all_reduce(numbers, dist.ReduceOp.MAX, group)
    return numbers


def total(numbers, group):
    """The sum of each number over the processes, in place."""
    dist.all_reduce(numbers, dist.ReduceOp.SUM, group)
    return numbers


def _columns(*numbers):
    """float64 (n, k) of k numbers a row, each (n,)."""
    return torch.stack([each.double() for each in numbers], -1)


# --- rows --------------------------------------------------------------------------------


def _compare(z, y, group):
    """p, q and d = log p - log q of the slice; tokens that both models bar have d = 0."""
    tops = greatest(_columns(_greatest(z), _greatest(y)), group)
    p, q = (torch.exp(x - top[:, None]) for x, top in zip((z, y), tops.to(z.dtype).unbind(-1)))
    sums = total(_columns(p.sum(-1), q.sum(-1)), group)
    logs = tops + sums.log()
    p /= sums[:, :1].to(z.dtype)
    q /= sums[:, 1:].to(z.dtype)
    # Logits are subtracted first: log p and log q, rounded one by one, would lose d near 0.
    d = (z - y).sub_((logs[:, :1] - logs[:, 1:]).to(z.dtype))
    return p, q, d.masked_fill_(z.isneginf() & y.isneginf(), 0.0)


def _greatest(z):
    """The greatest logit of each row (n,), -inf where the slice is empty."""
    return z.amax(-1) if z.shape[-1] else z.new_full(z.shape[:-1], -math.inf)


def _sums(a, ratio, m):
    """The slice's share of KL(a||m) (n,), twice: as it is, and with m - a added to each term.

    Over the whole vocabulary the additions are 0.  The terms of the second sum are >= 0.
    """
    near = a * (ratio + torch.expm1(-ratio.clamp_min(FAR_BELOW)))
    far = a * (ratio - 1) + m  # a is 0 to rounding
    return _dot(a, ratio), torch.where(ratio < FAR_BELOW, far, near).sum(-1)


def _values(weights, sums):
    """The rows' values (n,): of each part the second sum where the first has lost its digits."""
    value = 0
    for weight, plain, careful in zip(weights, sums[:, ::2].unbind(-1), sums[:, 1::2].unbind(-1)):
        value = value + weight * torch.where(plain < NEAR_ZERO, careful, plain)
    return value


def _centred(p, g, mean, group):
    """p_j (g_j - mean) (n, V/N); where some g of the row is +inf, the limit as in the engine."""
    if not mean.isposinf().any():  # the same on all processes
        return g.sub(mean.to(g.dtype)).mul_(p)
    barred = g.isposinf()
    finite = torch.where(barred, p.log(), g).masked_fill(p == 0, 0.0)
    others = p.masked_fill(barred, 0.0) > 0
    numbers = total(_columns(barred.any(-1), others.any(-1), _dot(p, finite)), group)
    some_barred, some_other, mean = numbers.split(1, -1)
    infinite = torch.where(p > 0, torch.where(barred, math.inf, -math.inf), 0.0)
    finite = p * (finite - mean.to(g.dtype))
    return torch.where((some_barred > 0) & (some_other > 0), infinite, finite)


def _dot(a, b):
    return torch.linalg.vecdot(a, b)


# --- objectives --------------------------------------------------------------------------


def reverse_kl(p, q, d):
    d = _without_nothing(p, d)
    return [(1.0, p, d, q)], d


def forward_kl(p, q, d):
    return [(1.0, q, _without_nothing(q, -d), p)], None


def generalized_jsd(p, q, d, beta):
    d = _bounded(d)
    # First the ratio nearer to 0, so that the other loses no digits to the subtraction.
    if beta < 0.5:
        to_p = -torch.log1p(beta * torch.expm1(-d))
        to_q = to_p - d
    else:
        to_q = -torch.log1p((1 - beta) * torch.expm1(d))
        to_p = d + to_q
    m = torch.lerp(p, q, beta)
    return [(beta, q, to_q, m), (1 - beta, p, to_p, m)], (1 - beta) * to_p


def skewed_forward_kl(p, q, d, skew):
    d = _bounded(d)
    growth = (1 - skew) * torch.expm1(d)  # M/q - 1
    # 1 + growth has lost M/q where p/q and skew are both as small as the rounding
    share = growth + 1 if skew > 1e-2 else (1 - skew) * d.exp() + skew
    g = (1 - skew) * growth / share
    return [(1.0, q, -torch.log1p(growth), torch.lerp(p, q, skew))], g


def skewed_reverse_kl(p, q, d, skew):
    growth = (1 - skew) * torch.expm1(-_bounded(d))  # M/p - 1
    to_p = -torch.log1p(growth)
    return [(1.0, p, to_p, torch.lerp(q, p, skew))], to_p + skew * growth / (growth + 1)


def _without_nothing(a, ratio):
    """``ratio``, finite where a is 0, so that a * ratio is 0 there."""
    return ratio.clamp_min(-1e30).masked_fill_((a == 0) & ratio.isposinf(), 0.0)


def _bounded(d):
    """d held where exp(d) is finite: beyond, one of the two probabilities is 0 to rounding."""
    limit = 0.7 * math.log(torch.finfo(d.dtype).max)
    return d.clamp(-limit, limit)


OBJECTIVES = {
    each.__name__: each
    for each in (reverse_kl, forward_kl, generalized_jsd, skewed_forward_kl, skewed_reverse_kl)
}
