"""The objectives for rows of logits: values (n,) and gradients (n, V), in float32 or float64.

Each function takes the student's logits z and the teacher's y, both (n, V), and returns the
values and the gradients in z.  ``careful`` says that a logit may be -inf.  Chapter 3 derives
the gradients; here they are written so that few digits are lost to rounding.  The skewed KLs
compute in float64: see ``opd_toy.lm.terms``, where the formulas are.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from opd_toy import _validate
from opd_toy.lm import terms
from opd_toy.lm.rows import any_of
from opd_toy.lm.terms import FAR_BELOW, dot, log_ratio, without_nothing

OUTSIDE = ("renormalize", "drop", "tail")
SUPPORT = ("teacher", "student")
NEAR_ZERO = 1e-2  # nats; a smaller divergence is summed without cancellation


def _reverse_kl(z, y, careful):
    p, log_total = _softmax(z)
    d = log_ratio(z, y, log_total - _exponentials(y)[2], careful)
    d = without_nothing(p, d) if careful else d
    mean = dot(p, d)
    return _divergence(p, d, mean, lambda: _softmax(y)[0]), _centred(p, d, mean, careful)


def _forward_kl(z, y, careful):
    p, q, d = _compare(z, y, careful)
    d = without_nothing(q, -d) if careful else d.neg_()
    return _divergence(q, d, dot(q, d), lambda: p), p.sub_(q)


def _generalized_jsd(z, y, careful, beta):
    p, q, d = _compare(z, y, careful)
    to_p, to_q = terms.jsd_ratios(d, beta)
    mixture, mean = lambda: terms.mixed(p, q, beta), dot(p, to_p)
    of_teacher = _divergence(q, to_q, dot(q, to_q), mixture)
    of_student = _divergence(p, to_p, mean, mixture)
    gradient = _centred(p, to_p, mean, careful).mul_(1 - beta)
    return beta * of_teacher + (1 - beta) * of_student, gradient


def _skewed_forward_kl(z, y, careful, skew):
    p, q, d = _compare(z.double(), y.double(), careful)
    to_q, g = terms.skewed_forward_terms(d, skew)
    value = _divergence(q, to_q, dot(q, to_q), lambda: terms.mixed(p, q, skew))
    return value.to(z.dtype), _centred(p, g, dot(p, g), careful).to(z.dtype)


def _skewed_reverse_kl(z, y, careful, skew):
    p, q, d = _compare(z.double(), y.double(), careful)
    to_p, g = terms.skewed_reverse_terms(d, skew)
    value = _divergence(p, to_p, dot(p, to_p), lambda: terms.mixed(q, p, skew))
    return value.to(z.dtype), _centred(p, g, dot(p, g), careful).to(z.dtype)


def _top_k_reverse_kl(z, y, careful, k, outside, support):
    if k == z.shape[-1]:
        return _reverse_kl(z, y, careful)
    head = (y if support == "teacher" else z).topk(k, -1).indices
    head_z, head_y = z.gather(-1, head), y.gather(-1, head)
    if outside == "renormalize":
        nothing = head_z.isneginf().all(-1, keepdim=True)
        head_z = head_z.masked_fill(nothing, 0.0)  # such a student counts as uniform
        value, gradient = _reverse_kl(head_z, head_y, True)
        return value, torch.zeros_like(z).scatter_(-1, head, gradient)
    if outside == "drop":
        p, _, d = _compare(z, y, True)
        head_p = p.gather(-1, head)
        d = without_nothing(head_p, d.gather(-1, head))
        g = torch.zeros_like(p).scatter_(-1, head, d + 1)
        return dot(head_p, d), _centred(p, g, dot(p, g), True)
    rest_z, rest_y = z.scatter(-1, head, -math.inf), y.scatter(-1, head, -math.inf)
    tail_z, tail_y = rest_z.logsumexp(-1, keepdim=True), rest_y.logsumexp(-1, keepdim=True)
    value, gradient = _reverse_kl(
        torch.cat([head_z, tail_z], -1), torch.cat([head_y, tail_y], -1), True
    )
    share = (rest_z - tail_z).exp_()  # of the tail's probability
    tail = (share * gradient[:, k:]).masked_fill_(rest_z.isneginf() | (share == 0), 0.0)
    return value, tail.scatter_(-1, head, gradient[:, :k])


def _compare(z, y, careful):
    """p, q and d = log p - log q (n, V); tokens that both models bar have d = 0."""
    (p, log_total), (q, log_other) = _softmax(z), _softmax(y)
    return p, q, log_ratio(z, y, log_total - log_other, careful)


def _softmax(z):
    """p (n, V) and the log of its normalizer (n, 1) in float64."""
    p, total, log_total = _exponentials(z)
    return p.div_(total), log_total


def _exponentials(z):
    """p (n, V) before division, its sum (n, 1), and the log of the normalizer of z in float64.

    On the CPU exp2 takes a third of the time of torch's exp.  Tensor.sum adds pairwise;
    torch.softmax adds 150k float32 terms in a few long sums, off by 5e-6 to 1e-5.
    """
    # Rounded as it will be where it multiplies z.
    bits = torch.tensor(math.log2(math.e), dtype=z.dtype).item()
    shift = z.amax(-1, keepdim=True).mul_(-bits)
    p = torch.add(shift, z, alpha=bits).exp2_()
    total = p.sum(-1, keepdim=True)
    return p, total, total.double().log().sub_(shift, alpha=1 / bits)


def _divergence(p, ratio, value, other):
    """KL(p||m) (n,) from ratio = log p/m, ``value`` = sum of p * ratio, and ``other()`` = m.

    Where that sum is small it has lost its digits to terms of both signs; the same sum with
    m - p added to each term, a Bregman divergence, has terms >= 0.
    """
    small = value < NEAR_ZERO
    if not any_of(small):
        return value
    if not any_of(ratio.amin() < FAR_BELOW):
        return torch.where(small, dot(p, torch.expm1(-ratio).add_(ratio)), value)
    return torch.where(small, terms.bregman(p, ratio, other()).sum(-1), value)


def _centred(p, g, mean, careful):
    """p_j (g_j - mean) (n, V), written over g; ``mean`` is the sum of p g.

    Where some g is +inf: the limit as in ``opd_toy.objectives``, +inf at those tokens
    and -inf at the others, or finite if they have all of p.
    """
    mean = mean.unsqueeze(-1)
    if careful and any_of(mean.isposinf()):
        barred = g.isposinf()
        beyond = (p.masked_fill(barred, 0.0) > 0).any(-1, keepdim=True)
        infinite = torch.where(p > 0, torch.where(barred, math.inf, -math.inf), 0.0)
        finite = torch.where(barred, p.log(), g).masked_fill(p == 0, 0.0)
        finite = p * (finite - dot(p, finite).unsqueeze(-1))
        return torch.where(barred.any(-1, keepdim=True) & beyond, infinite, finite)
    return g.sub_(mean).mul_(p)


# --- by name -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Objective:
    """A function of rows, the parameters it must be given and those that have a default."""

    rows: Callable
    required: tuple[str, ...] = ()
    optional: dict = field(default_factory=dict)


OBJECTIVES = {
    "reverse_kl": Objective(_reverse_kl),
    "forward_kl": Objective(_forward_kl),
    "generalized_jsd": Objective(_generalized_jsd, ("beta",)),
    "skewed_forward_kl": Objective(_skewed_forward_kl, ("skew",)),
    "skewed_reverse_kl": Objective(_skewed_reverse_kl, ("skew",)),
    "top_k_reverse_kl": Objective(
        _top_k_reverse_kl, ("k",), {"outside": "renormalize", "support": "teacher"}
    ),
}


def find_objective(name, parameters, vocabulary):
    """(function, parameters) of the objective of this name, checked, the defaults filled in.

    Where a parameter makes it a KL, the KL's function comes back, without parameters.
    """
    objective = OBJECTIVES[_validate.choice("objective", name, tuple(OBJECTIVES))]
    known = [*objective.required, *objective.optional]
    if unknown := sorted(parameters.keys() - set(known)):
        raise ValueError(
            f"{unknown[0]} = {parameters[unknown[0]]!r} is no parameter of {name!r}, which "
            f"takes {', '.join(known) or 'none'}"
        )
    if missing := [each for each in objective.required if each not in parameters]:
        raise ValueError(f"{missing[0]} is missing; {name!r} takes {', '.join(known)}")
    parameters = objective.optional | parameters
    for each in parameters.keys() & {"beta", "skew"}:
        parameters[each] = _validate.fraction(each, parameters[each])
    if name == "top_k_reverse_kl":
        parameters["k"] = _validate.whole("k", parameters["k"], 1, vocabulary)
        _validate.choice("outside", parameters["outside"], OUTSIDE)
        _validate.choice("support", parameters["support"], SUPPORT)
    if parameters.get("beta") in (0, 1):
        return (_reverse_kl if parameters["beta"] else _forward_kl), {}
    if parameters.get("skew") == 0:
        return (_reverse_kl if name == "skewed_reverse_kl" else _forward_kl), {}
    return objective.rows, parameters
