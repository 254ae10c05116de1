"""Distillation losses for language models, from logits or from hidden states.

The loss is a scalar in nats, float32 (float64 for float64 students):

    sum over valid tokens of weight * divergence / number of valid tokens.

Rows are taken a few at a time, in float32 whatever the model computes in.  The forward
pass writes each row's analytic gradient (chapter 3) while the row is in the cache, the
backward pass only scales it, so nothing of size (tokens, V) is made but the gradient.
The teacher gets none.  On CUDA the same is done by one kernel (``opd_toy.lm.kernels``)
where Triton is installed, but for the top-K objective and float64.

A logit of -inf is a masked token.  Barred by both models it counts for nothing.  Where
the teacher bars a token that the student gives a probability the reverse KL is +inf, in
the opposite case the forward KL is, as the definitions say; the gradient is +-inf there
as in ``opd_toy.objectives``, never NaN.  A masked position may hold anything, NaN too.

For the losses on drawn tokens see ``opd_toy.lm.sampled``, whose names are here as well.
"""

import math

import torch

from opd_toy import _validate
from opd_toy.lm._shared import (
    any_of,
    device_kernels,
    each_block,
    float_tensor,
    in_threads,
    keep_freed_memory,
    same_device,
    token_count,
    token_scale,
    with_gradient,
    working_dtype,
)
from opd_toy.lm.sampled import (
    discounted_return,
    fipo_weight,
    group_advantage,
    grpo_loss,
    policy_gradient_loss,
    sft_loss,
    token_log_probabilities,
)

__all__ = [
    "discounted_return", "distillation_loss", "fipo_weight", "fused_linear_distillation_loss", "group_advantage", "grpo_loss",
    "policy_gradient_loss", "sft_loss", "token_count", "token_log_probabilities",
]  # fmt: skip

OUTSIDE = ("renormalize", "drop", "tail")
SUPPORT = ("teacher", "student")
NEAR_ZERO = 1e-2  # nats; a smaller divergence is summed without cancellation
FAR_BELOW = -30  # a log ratio whose exponential needs care
HEAD_BLOCK_BYTES = 20 << 20  # of float32 logits of one model, or an eighth of its head
HEAD_TILE_BYTES = (
    1 << 20
)  # of a float32 head: what stays in the cache of one thread, where matrix products run several times faster
LEAST_TILE_ROWS = 128
DEVICE_HEAD_BLOCK_BYTES = (
    512 << 20
)  # off the CPU: the gradient of the head is read and written once a chunk, so fewer, larger chunks


# --- the losses --------------------------------------------------------------------------


def distillation_loss(
    student_logits, teacher_logits, objective="reverse_kl", mask=None,
    *, weights=None, normalizer=None, temperature=1.0, overwrite_logits=False, **parameters,
):  # fmt: skip
    """Mean over valid tokens of the divergence between ``student_logits`` and ``teacher_logits``, both (..., V).

    objective: "reverse_kl", "forward_kl", "generalized_jsd" (beta), "skewed_forward_kl" or
    "skewed_reverse_kl" (skew), "top_k_reverse_kl" (k, outside="renormalize" | "drop" |
    "tail", support="teacher" | "student"; ties as torch.topk), defined in
    ``opd_toy.objectives``; beta = 0 is the forward and beta = 1 the reverse KL.
    mask (...): True or 1 where a token counts.  weights (...): a constant factor a token.
    normalizer: what the sum is divided by, by default the number of valid tokens or 1;
    under accumulation or DDP ``token_count`` of all.
    temperature divides the logits of both; the loss is not multiplied by its square.
    overwrite_logits: the gradient takes the place of the logits' values, which saves its
    memory, if nothing else reads them afterwards and they are float32, float64 or bfloat16.
    eq-rkl-logit-gradient, eq-fkl-logit-gradient, eq-improve-objective, eq-top-k.
    """
    _check_pair("student_logits", student_logits, "teacher_logits", teacher_logits)
    _check_vocabulary(
        "student_logits", student_logits.shape[-1], "teacher_logits", teacher_logits.shape[-1]
    )
    rows = _objective(objective, student_logits, student_logits.shape[-1], temperature, parameters)
    scale = token_scale(student_logits, student_logits.shape[:-1], mask, weights, normalizer)
    if overwrite_logits:
        _check_overwrite(student_logits, teacher_logits)
    z, y = student_logits.detach(), teacher_logits.detach()

    def compute(wanted):
        total, gradient = torch.zeros((), dtype=torch.float64, device=z.device), None
        if wanted and overwrite_logits and z.dtype != torch.float16:
            gradient = z
        elif (
            wanted
        ):  # float16 cannot hold the gradient of a mean until a loss scale has multiplied it
            gradient = torch.empty(
                z.shape,
                dtype=torch.float32 if z.dtype == torch.float16 else z.dtype,
                device=z.device,
            )
        total += rows(z, y, scale, gradient)
        return total.to(scale.dtype), [gradient]

    return with_gradient(compute, student_logits)


def fused_linear_distillation_loss(
    student_hidden, student_weight, teacher_hidden, teacher_weight, objective="reverse_kl", mask=None,
    *, weights=None, normalizer=None, temperature=1.0, chunk_tokens=None, **parameters,
):  # fmt: skip
    """``distillation_loss`` from hidden states (..., H) and output heads (V, H): logits = hidden @ weight.T.

    Holds the logits of ``chunk_tokens`` tokens at a time, by default as many as take 20 MiB
    (512 MiB off the CPU) or an eighth of the student's head.  H may differ between the models.
    Gradients go to ``student_hidden`` and ``student_weight``, both summed in float32; products
    are float32 too, under autocast as well.  On CUDA those of two bfloat16 or two float16
    matrices, exact in float32, are left to the tensor cores, and the gradient of the logits
    is rounded to bfloat16 before its products if the student is bfloat16.
    """
    for name, hidden, weight in (
        ("student", student_hidden, student_weight),
        ("teacher", teacher_hidden, teacher_weight),
    ):
        float_tensor(f"{name}_hidden", hidden, "H"), float_tensor(f"{name}_weight", weight, "H")
        if weight.ndim != 2 or hidden.shape[-1] != weight.shape[1] or not len(weight):
            raise ValueError(
                f"{name}_hidden has shape {tuple(hidden.shape)} and {name}_weight {tuple(weight.shape)}; give (..., H) and (V, H) with V at least 1"
            )
        same_device("student_hidden", student_hidden, f"{name}_weight", weight)
    _check_pair("student_hidden", student_hidden, "teacher_hidden", teacher_hidden)
    vocabulary = len(student_weight)
    _check_vocabulary("student_weight", vocabulary, "teacher_weight", len(teacher_weight))
    rows = _objective(objective, student_hidden, vocabulary, temperature, parameters)
    scale = token_scale(student_hidden, student_hidden.shape[:-1], mask, weights, normalizer)
    if chunk_tokens is None:
        chunk_tokens = max(
            1,
            max(_head_block_bytes(student_weight), student_weight.numel() // 2) // (4 * vocabulary),
        )
        multiple = 128 if chunk_tokens > 128 else 16
        chunk_tokens -= (
            chunk_tokens % multiple if chunk_tokens > multiple else 0
        )  # matrix products run fastest so
    else:
        chunk_tokens = _validate.whole("chunk_tokens", chunk_tokens)
    dtype, device = scale.dtype, scale.device
    head, teacher_head = student_weight.detach(), teacher_weight.detach()
    factors = scale.reshape(-1)
    hidden, teacher = (
        x.detach().reshape(len(factors), x.shape[-1]) for x in (student_hidden, teacher_hidden)
    )

    def compute(hidden_wanted, weight_wanted):
        total = torch.zeros((), dtype=torch.float64, device=device)
        to_hidden = torch.zeros(hidden.shape, dtype=dtype, device=device) if hidden_wanted else None
        to_weight = torch.zeros(head.shape, dtype=dtype, device=device) if weight_wanted else None
        valid = factors.nonzero().flatten()
        z, y = torch.empty(2, min(chunk_tokens, len(valid)), vocabulary, dtype=dtype, device=device)
        rounded = (
            z.new_empty(z.shape, dtype=torch.bfloat16)
            if hidden.dtype == torch.bfloat16 and _tensor_cores(hidden, head)
            else z
        )  # z itself where it need not be
        for chosen in valid.split(chunk_tokens) if len(valid) else ():
            h, z, y, factor, gradient = (
                hidden[chosen],
                z[: len(chosen)],
                y[: len(chosen)],
                factors[chosen],
                rounded[: len(chosen)],
            )
            _logits(h, head, z), _logits(teacher[chosen], teacher_head, y)
            total += rows(z, y, factor, gradient if hidden_wanted or weight_wanted else None)
            if hidden_wanted:
                to_hidden[chosen] = _times_head(gradient, head)
            if weight_wanted:
                _add_to_head(to_weight, gradient, h)
        return total.to(dtype), [
            to_hidden if to_hidden is None else to_hidden.view(student_hidden.shape),
            to_weight,
        ]

    return with_gradient(compute, student_hidden, student_weight)


def _logits(hidden, head, out):
    if _tensor_cores(hidden, head):
        _product(hidden, head.T, out)
        return
    hidden = hidden.to(out.dtype)

    def tile(a, b):
        torch.mm(hidden, head[a:b].to(out.dtype).T, out=out[:, a:b])

    _each_tile(tile, head, out)


def _times_head(gradient, head):
    if _tensor_cores(gradient, head):
        return _product(gradient, head)
    return _each_tile(lambda a, b: gradient[:, a:b] @ head[a:b].to(gradient.dtype), head, gradient)


def _add_to_head(total, gradient, hidden):
    if _tensor_cores(gradient, hidden):
        step = _head_block_rows(total)
        for a in range(0, len(total), step):
            total[a : a + step] += _product(gradient[:, a : a + step].T, hidden)
        return
    hidden = hidden.to(gradient.dtype)

    def tile(a, b):
        total[a:b].addmm_(gradient[:, a:b].T, hidden)

    _each_tile(tile, total, gradient)


def _each_tile(work, head, like):
    """The sum of work(a, b) over rows a to b of ``head``: a few at a time on the CPU, and where they are converted to the dtype of ``like``."""
    if like.is_cpu:
        step = max(LEAST_TILE_ROWS, HEAD_TILE_BYTES // (4 * head.shape[1]))
    else:
        step = len(head) if head.dtype == like.dtype else _head_block_rows(head)
    total = 0
    for part in in_threads(
        work, ((a, min(a + step, len(head))) for a in range(0, len(head), step)), like
    ):
        total = total if part is None else total + part
    return total


def _tensor_cores(a, b):
    """Whether the tensor cores of a GPU make the same product as float32 would: exact products, summed in float32."""
    return a.is_cuda and a.dtype == b.dtype and a.dtype in (torch.bfloat16, torch.float16)


def _product(a, b, out=None):
    return torch.mm(a, b, out_dtype=torch.float32, out=out)


def _head_block_rows(head):
    return max(1, _head_block_bytes(head) // (4 * head.shape[1]))


def _head_block_bytes(head):
    return HEAD_BLOCK_BYTES if head.is_cpu else DEVICE_HEAD_BLOCK_BYTES


# --- the objectives, for rows (n, V) of float32 or float64 logits --------------------------
#
# Each returns the values (n,) and the gradients in the student's logits z (n, V), and may
# write over what ``_compare`` made.  ``careful`` where a logit may be -inf.


def _reverse_kl(z, y, careful):
    p, log_total = _softmax(z)
    d = _log_ratio(z, y, log_total - _exponentials(y)[2], careful)
    d = _without_nothing(p, d) if careful else d
    mean = _dot(p, d)
    return _divergence(p, d, mean, lambda: _softmax(y)[0]), _centred(p, d, mean, careful)


def _forward_kl(z, y, careful):
    p, q, d = _compare(z, y, careful)
    d = _without_nothing(q, -d) if careful else d.neg_()
    return _divergence(q, d, _dot(q, d), lambda: p), p.sub_(q)


def _generalized_jsd(z, y, careful, beta):
    p, q, d = _compare(z, y, careful)
    d = _bounded(d)
    # log p/M and log q/M, which differ by d: from the one nearer to 0, so that the other loses no digits to the subtraction
    if beta < 0.5:
        to_p = torch.expm1(-d).mul_(beta).log1p_().neg_()
        to_q = to_p - d
    else:
        to_q = torch.expm1(d).mul_(1 - beta).log1p_().neg_()
        to_p = d.add_(to_q)
    mixture, mean = lambda: torch.lerp(p, q, beta), _dot(p, to_p)
    value = beta * _divergence(q, to_q, _dot(q, to_q), mixture) + (1 - beta) * _divergence(
        p, to_p, mean, mixture
    )
    return value, _centred(p, to_p, mean, careful).mul_(1 - beta)


def _skewed_forward_kl(z, y, careful, skew):
    p, q, d = _compare(z, y, careful)
    growth = torch.expm1(_bounded(d)).mul_(1 - skew)  # M/q - 1
    to_q = torch.log1p(growth).neg_()  # log q/M
    # M/q; 1 + growth has lost it where p/q and skew are both as small as the rounding
    share = growth + 1 if skew > 1e-2 else d.exp_().mul_(1 - skew).add_(skew)
    g = growth.mul_(1 - skew).div_(share) if skew < 1 else growth.zero_()  # (1-skew)^2 (p - q)/M
    return _divergence(q, to_q, _dot(q, to_q), lambda: torch.lerp(p, q, skew)), _centred(
        p, g, _dot(p, g), careful
    )


def _skewed_reverse_kl(z, y, careful, skew):
    p, q, d = _compare(z, y, careful)
    growth = torch.expm1(_bounded(d).neg_()).mul_(1 - skew)  # M/p - 1
    to_p = torch.log1p(growth).neg_()  # log p/M
    value = _divergence(p, to_p, _dot(p, to_p), lambda: torch.lerp(q, p, skew))
    g = to_p.add_(growth.div_(growth + 1), alpha=skew)  # log p/M - skew (p/M - 1)
    return value, _centred(p, g, _dot(p, g), careful)


def _top_k_reverse_kl(z, y, careful, k, outside, support):
    if k == z.shape[-1]:
        return _reverse_kl(z, y, careful)
    head = (y if support == "teacher" else z).topk(k, -1).indices
    head_z, head_y = z.gather(-1, head), y.gather(-1, head)
    if outside == "renormalize":
        head_z = head_z.masked_fill(
            head_z.isneginf().all(-1, keepdim=True), 0.0
        )  # a student with nothing there: uniform
        value, gradient = _reverse_kl(head_z, head_y, True)
        return value, torch.zeros_like(z).scatter_(-1, head, gradient)
    if outside == "drop":
        p, _, d = _compare(z, y, True)
        head_p = p.gather(-1, head)
        d = _without_nothing(head_p, d.gather(-1, head))
        g = torch.zeros_like(p).scatter_(-1, head, d + 1)
        return _dot(head_p, d), _centred(p, g, _dot(p, g), True)
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
    return p, q, _log_ratio(z, y, log_total - log_other, careful)


def _log_ratio(z, y, normalizers, careful):
    # The logits are subtracted first: log p and log q, rounded one by one, would lose d near 0.
    d = (z - y).sub_(normalizers.to(z.dtype))
    return d.masked_fill_(z.isneginf() & y.isneginf(), 0.0) if careful else d


def _softmax(z):
    """p (n, V) and the log of its normalizer (n, 1) in float64."""
    p, total, log_total = _exponentials(z)
    return p.div_(total), log_total


def _exponentials(z):
    """p (n, V) but for its normalizer; their sum (n, 1); the log of the normalizer of z in float64.

    On the CPU exp2 takes a third of the time of torch's exp.  Tensor.sum adds pairwise;
    torch.softmax adds 150k float32 terms in a few long sums, off by 5e-6.
    """
    bits = torch.tensor(
        math.log2(math.e), dtype=z.dtype
    ).item()  # rounded as it will be where it multiplies z
    shift = z.amax(-1, keepdim=True).mul_(-bits)
    p = torch.add(shift, z, alpha=bits).exp2_()
    total = p.sum(-1, keepdim=True)
    return p, total, total.double().log().sub_(shift, alpha=1 / bits)


def _without_nothing(p, ratio):
    """``ratio``, finite where p is 0, so that p * ratio is 0 there."""
    return ratio.clamp_min(-1e30).masked_fill_((p == 0) & ratio.isposinf(), 0.0)


def _bounded(d):
    """d held where exp(d) is finite: beyond, one of the two probabilities is 0 to rounding."""
    limit = 0.7 * math.log(torch.finfo(d.dtype).max)
    return d.clamp_(-limit, limit)


def _dot(a, b):
    return torch.linalg.vecdot(a, b)  # adds pairwise; torch.dot is off by 2e-6 at 150k terms


def _divergence(p, ratio, value, other):
    """KL(p||m) (n,) from ratio = log p/m, ``value``, the sum of p * ratio, and a function ``other`` that makes m.

    Where that sum is small it has lost its digits to terms of both signs; the same sum with
    m - p added to each term, a Bregman divergence, has terms >= 0.
    """
    small = value < NEAR_ZERO
    if any_of(small):
        if any_of(ratio.amin() < FAR_BELOW):  # a p that is 0 to rounding, but not its m
            bent = p * (ratio + torch.expm1(-ratio.clamp_min(FAR_BELOW)))
            value = torch.where(
                small,
                torch.where(ratio < FAR_BELOW, p * (ratio - 1) + other(), bent).sum(-1),
                value,
            )
        else:
            value = torch.where(small, _dot(p, torch.expm1(-ratio).add_(ratio)), value)
    return value


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
        finite = torch.where(barred, p.log(), g)
        finite = p * (finite - _dot(p, finite.masked_fill(p == 0, 0.0)).unsqueeze(-1)).masked_fill(
            p == 0, 0.0
        )
        return torch.where(barred.any(-1, keepdim=True) & beyond, infinite, finite)
    return g.sub_(mean).mul_(p)


OBJECTIVES = {  # name: (function, parameters that must be given, parameters that may be)
    "reverse_kl": (_reverse_kl, (), {}),
    "forward_kl": (_forward_kl, (), {}),
    "generalized_jsd": (_generalized_jsd, ("beta",), {}),
    "skewed_forward_kl": (_skewed_forward_kl, ("skew",), {}),
    "skewed_reverse_kl": (_skewed_reverse_kl, ("skew",), {}),
    "top_k_reverse_kl": (
        _top_k_reverse_kl,
        ("k",),
        {"outside": "renormalize", "support": "teacher"},
    ),
}


def _objective(name, like, vocabulary, temperature, parameters):
    """A function of logits (..., V) and factors (...) that returns the sum of all scaled values and writes the gradients to a fourth tensor, unless None."""
    _validate.choice("objective", name, tuple(OBJECTIVES))
    function, required, optional = OBJECTIVES[name]
    if unknown := parameters.keys() - {*required, *optional}:
        raise ValueError(
            f"{sorted(unknown)[0]} = {parameters[sorted(unknown)[0]]!r} is no parameter of {name!r}, which takes {', '.join([*required, *optional]) or 'none'}"
        )
    if missing := [parameter for parameter in required if parameter not in parameters]:
        raise ValueError(
            f"{missing[0]} is missing; {name!r} takes {', '.join([*required, *optional])}"
        )
    parameters, temperature = optional | parameters, _validate.positive("temperature", temperature)
    for parameter in parameters.keys() & {"beta", "skew"}:
        parameters[parameter] = _validate.fraction(parameter, parameters[parameter])
    if name == "top_k_reverse_kl":
        parameters["k"] = _validate.whole("k", parameters["k"], most=vocabulary)
        (
            _validate.choice("outside", parameters["outside"], OUTSIDE),
            _validate.choice("support", parameters["support"], SUPPORT),
        )
    if parameters.get("beta") in (0, 1):
        function, parameters = _reverse_kl if parameters["beta"] else _forward_kl, {}
    elif parameters.get("skew") == 0:
        function, parameters = _reverse_kl if name == "skewed_reverse_kl" else _forward_kl, {}
    dtype, careful = working_dtype(like), not like.is_cpu
    if like.is_cpu:
        keep_freed_memory()

    def rows(z, y, factor, out=None):
        nonlocal careful
        masked = factor == 0
        some_masked = any_of(masked)
        if some_masked and not any_of(~masked):
            if out is not None:
                out.zero_()
            return 0.0
        z, y = z.to(dtype), y.to(dtype)
        if temperature != 1:
            z, y = z / temperature, y / temperature
        tried = careful  # by this thread; another may change its mind meanwhile
        value, gradient = function(z, y, tried, **parameters)
        if not tried and not math.isfinite(
            (value.masked_fill(masked, 0.0) if some_masked else value).sum()
        ):  # a masked vocabulary, likely in all rows
            careful = True
            value, gradient = function(z, y, True, **parameters)
        value = value * factor
        if out is not None:
            torch.mul(
                gradient, (factor if temperature == 1 else factor / temperature)[:, None], out=out
            )
        if some_masked:
            value.masked_fill_(masked, 0.0)
            if out is not None:
                out.masked_fill_(masked[:, None], 0.0)
        return value.sum(dtype=torch.float64)

    def all_rows(z, y, factor, out=None):
        kernels = device_kernels(z, y)
        if kernels and name in kernels.OBJECTIVES:
            return kernels.divergence(
                function.__name__[1:], z, y, factor, out, temperature, *parameters.values()
            )
        return each_block(rows, z, y, factor, *([] if out is None else [out]))

    return all_rows


# --- checks ------------------------------------------------------------------------------


def _check_pair(first, student, second, teacher):
    float_tensor(first, student), float_tensor(second, teacher)
    if student.shape[:-1] != teacher.shape[:-1]:
        raise ValueError(
            f"{first} has shape {tuple(student.shape)} and {second} {tuple(teacher.shape)}; their leading axes must be equal"
        )
    same_device(first, student, second, teacher)


def _check_vocabulary(first, student, second, teacher):
    if student != teacher:
        raise ValueError(
            f"{first} has V = {student} and {second} V = {teacher}; both must have one vocabulary: if the larger is only padded, cut it to the smaller"
        )


def _check_overwrite(student, teacher):
    if student.is_leaf and student.requires_grad:
        raise ValueError(
            "overwrite_logits is True and student_logits a leaf, which would lose its values to its gradient; give logits that a model computed, or overwrite_logits=False"
        )
    if (
        0 in student.stride()
        or student.untyped_storage().data_ptr() == teacher.untyped_storage().data_ptr()
    ):
        raise ValueError(
            "overwrite_logits is True and student_logits shares memory with itself (expand) or with teacher_logits; give overwrite_logits=False"
        )
