"""Divergences of rows whose vocabulary is cut into slices, one on each process.

What a row needs of the other slices is a few sums over them: the greatest logit and the sum of
exponentials of both models, which make the probabilities, then the divergences and the term
that centres the gradient (chapter 3).  No logit leaves its process.

Each objective takes p, q and d = log p/q of the slice, (n, V/N), and returns ``parts``, a list
of (weight, a, log a/m, m) for the sum of weight * KL(a||m), and ``g`` for the gradient
p_j (g_j - sum p g), None for p - q.  The formulas are those of ``opd_toy.lm.terms``.
"""

import math

import torch
import torch.distributed as dist

from opd_toy.lm import terms
from opd_toy.lm.divergences import NEAR_ZERO
from opd_toy.lm.terms import dot, log_ratio, without_nothing
from opd_toy.lm.tokens import working_dtype


def add_rows(z, y, factor, out, group, function, parameters, temperature):
    """The sum of the values of rows z, y (n, V/N) times their factors (n,): a float64 scalar.

    The gradients in z, likewise scaled, are written to ``out`` (n, V/N) unless that is None.
    The value is the same on all processes of ``group``.
    """
    masked = factor == 0
    dtype = torch.float64 if "skew" in parameters else working_dtype(z)  # as in ``terms``
    z, y = (x.to(dtype) / temperature for x in (z, y))
    p, q, d = _compare(z, y, group)
    parts, g = function(p, q, d, **parameters)
    sums = [each for _, *part in parts for each in _sums(*part)]
    sums = total(_columns(*sums, *([] if g is None else [dot(p, g)])), group)
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
    """p, q and d = log p/q of the slice."""
    tops = greatest(_columns(_greatest(z), _greatest(y)), group)
    p, q = (torch.exp(x - top[:, None]) for x, top in zip((z, y), tops.to(z.dtype).unbind(-1)))
    sums = total(_columns(p.sum(-1), q.sum(-1)), group)
    logs = tops + sums.log()
    p /= sums[:, :1].to(z.dtype)
    q /= sums[:, 1:].to(z.dtype)
    return p, q, log_ratio(z, y, logs[:, :1] - logs[:, 1:])


def _greatest(z):
    """The greatest logit of each row (n,), -inf where the slice is empty."""
    return z.amax(-1) if z.shape[-1] else z.new_full(z.shape[:-1], -math.inf)


def _sums(a, ratio, m):
    """The slice's share of KL(a||m) (n,), twice: as it is, and with m - a added to each term.

    Over the whole vocabulary the additions are 0.  The terms of the second sum are >= 0.
    """
    return dot(a, ratio), terms.bregman(a, ratio, m).sum(-1)


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
    numbers = total(_columns(barred.any(-1), others.any(-1), dot(p, finite)), group)
    some_barred, some_other, mean = numbers.split(1, -1)
    infinite = torch.where(p > 0, torch.where(barred, math.inf, -math.inf), 0.0)
    finite = p * (finite - mean.to(g.dtype))
    return torch.where((some_barred > 0) & (some_other > 0), infinite, finite)


# --- objectives --------------------------------------------------------------------------


def reverse_kl(p, q, d):
    d = without_nothing(p, d)
    return [(1.0, p, d, q)], d


def forward_kl(p, q, d):
    return [(1.0, q, without_nothing(q, -d), p)], None


def generalized_jsd(p, q, d, beta):
    to_p, to_q = terms.jsd_ratios(d, beta)
    m = terms.mixed(p, q, beta)
    return [(beta, q, to_q, m), (1 - beta, p, to_p, m)], (1 - beta) * to_p


def skewed_forward_kl(p, q, d, skew):
    to_q, g = terms.skewed_forward_terms(d, skew)
    return [(1.0, q, to_q, terms.mixed(p, q, skew))], g


def skewed_reverse_kl(p, q, d, skew):
    to_p, g = terms.skewed_reverse_terms(d, skew)
    return [(1.0, p, to_p, terms.mixed(q, p, skew))], g


OBJECTIVES = {
    each.__name__: each
    for each in (reverse_kl, forward_kl, generalized_jsd, skewed_forward_kl, skewed_reverse_kl)
}
