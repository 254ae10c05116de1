"""Distillation losses for language models, from logits or from hidden states.

The loss is a scalar in nats, float32 (float64 for float64 students):

    sum over valid tokens of weight * divergence / number of valid tokens.

Rows are taken a few at a time, in float32 whatever the model computes in (the skewed KLs in
float64).  The forward pass writes each row's analytic gradient (chapter 3) while the row is
in the cache, the backward pass only scales it, so nothing of size (tokens, V) is made but
the gradient.  The teacher gets none.  On CUDA the same is done by one kernel
(``opd_toy.lm.kernels``) where Triton is installed, but for the top-K objective and float64.

A logit of -inf is a masked token.  Barred by both models it counts for nothing.  Where
the teacher bars a token that the student gives a probability the reverse KL is +inf, in
the opposite case the forward KL is, as the definitions say; the gradient is +-inf there
as in ``opd_toy.objectives``, never NaN.  A masked position may hold anything, NaN too.

For the losses on drawn tokens see ``opd_toy.lm.sampled``, whose names are here as well.
"""

import math

import torch

from opd_toy import _validate
from opd_toy.lm import checks, divergences, heads
from opd_toy.lm import rows as row_blocks
from opd_toy.lm.autograd import with_gradient
from opd_toy.lm.rows import any_of
from opd_toy.lm.sampled import (
    discounted_return,
    fipo_weight,
    group_advantage,
    grpo_loss,
    policy_gradient_loss,
    sft_loss,
    token_log_probabilities,
)
from opd_toy.lm.tokens import token_count, token_scale, working_dtype

__all__ = [
    "discounted_return",
    "distillation_loss",
    "fipo_weight",
    "fused_linear_distillation_loss",
    "group_advantage",
    "grpo_loss",
    "policy_gradient_loss",
    "sft_loss",
    "token_count",
    "token_log_probabilities",
]


def distillation_loss(
    student_logits,
    teacher_logits,
    objective="reverse_kl",
    mask=None,
    *,
    weights=None,
    normalizer=None,
    temperature=1.0,
    overwrite_logits=False,
    **parameters,
):
    """Mean over valid tokens of the divergence between two models' logits, both (..., V).

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
    checks.pair("student_logits", student_logits, "teacher_logits", teacher_logits)
    vocabulary = student_logits.shape[-1]
    checks.same_vocabulary("student_logits", vocabulary, "teacher_logits", teacher_logits.shape[-1])
    rows = _objective(objective, student_logits, vocabulary, temperature, parameters)
    scale = token_scale(student_logits, student_logits.shape[:-1], mask, weights, normalizer)
    if overwrite_logits:
        checks.may_overwrite(student_logits, teacher_logits)
    z, y = student_logits.detach(), teacher_logits.detach()
    # float16 cannot hold the gradient of a mean until a loss scale has multiplied it
    dtype = torch.float32 if z.dtype == torch.float16 else z.dtype

    def compute(wanted):
        total = torch.zeros((), dtype=torch.float64, device=z.device)
        gradient = None
        if wanted:
            in_place = overwrite_logits and dtype == z.dtype
            gradient = z if in_place else row_blocks.large_empty(z.shape, dtype, z.device)
        total += rows(z, y, scale, gradient)
        return total.to(scale.dtype), [gradient]

    return with_gradient(compute, student_logits)


def fused_linear_distillation_loss(
    student_hidden,
    student_weight,
    teacher_hidden,
    teacher_weight,
    objective="reverse_kl",
    mask=None,
    *,
    weights=None,
    normalizer=None,
    temperature=1.0,
    chunk_tokens=None,
    **parameters,
):
    """``distillation_loss`` from hidden states (..., H) and heads (V, H): hidden @ weight.T.

    Holds the logits of ``chunk_tokens`` tokens at a time, by default as many as take 20 MiB
    (512 MiB off the CPU) or an eighth of the student's head.  H may differ between the models.
    Gradients go to ``student_hidden`` and ``student_weight``, both summed in float32; products
    are float32 too, under autocast as well.  On CUDA those of two bfloat16 or two float16
    matrices, exact in float32, are left to the tensor cores, and the gradient of the logits
    is rounded to bfloat16 before its products if the student is bfloat16.
    """
    checks.hidden_and_heads(student_hidden, student_weight, teacher_hidden, teacher_weight)
    vocabulary = len(student_weight)
    checks.same_vocabulary("student_weight", vocabulary, "teacher_weight", len(teacher_weight))
    rows = _objective(objective, student_hidden, vocabulary, temperature, parameters)
    scale = token_scale(student_hidden, student_hidden.shape[:-1], mask, weights, normalizer)
    size = heads.chunk_size(student_weight, chunk_tokens)
    models = student_hidden, student_weight, teacher_hidden, teacher_weight

    def compute(*wanted):
        return heads.by_chunks(rows, *models, scale, size, wanted)

    return with_gradient(compute, student_hidden, student_weight)


def _objective(name, like, vocabulary, temperature, parameters):
    """A function of logits z, y (..., V), factors (...) and ``out`` (..., V).

    It returns the sum of all values times their factors and writes the gradients, likewise
    scaled, to ``out`` unless that is None.
    """
    function, parameters = divergences.find_objective(name, parameters, vocabulary)
    temperature = _validate.positive("temperature", temperature)
    if like.is_cpu:
        row_blocks.keep_freed_memory()
    block = _scaled_rows(function, parameters, like, temperature)

    def all_rows(z, y, factor, out=None):
        kernels = row_blocks.device_kernels(z, y)
        if kernels and name in kernels.OBJECTIVES:
            kernel = function.__name__.removeprefix("_")
            return kernels.divergence(kernel, z, y, factor, out, temperature, *parameters.values())
        return row_blocks.each_block(block, z, y, factor, *([] if out is None else [out]))

    return all_rows


def _scaled_rows(function, parameters, like, temperature):
    """The function that ``_objective`` describes, for one block of rows (n, V)."""
    dtype, careful = working_dtype(like), not like.is_cpu

    def block(z, y, factor, out=None):
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
        tried = careful  # by this thread; another may change it meanwhile
        value, gradient = function(z, y, tried, **parameters)
        valid_values = value.masked_fill(masked, 0.0) if some_masked else value
        if not tried and not math.isfinite(valid_values.sum()):
            careful = True  # some logit is -inf, and then likely one in each row
            value, gradient = function(z, y, True, **parameters)
        value = value * factor
        if out is not None:
            factor = factor if temperature == 1 else factor / temperature
            torch.mul(gradient, factor[:, None], out=out)
        if some_masked:
            value.masked_fill_(masked, 0.0)
            if out is not None:
                out.masked_fill_(masked[:, None], 0.0)
        return value.sum(dtype=torch.float64)

    return block
