"""``opd_toy.lm.losses`` where a vocabulary is too large for one process.

Each process of a tensor-parallel group holds a slice of the vocabulary, of the logits or of the
output heads, as a ``DTensor``: ``Shard(-1)`` for logits, ``Shard(0)`` for heads.  Value and
gradients are those of one process with the whole vocabulary, to rounding, and only a few
numbers a token go between the processes (``bytes_a_token``).  Slices may be of any size.

Where it is the texts that lie on several processes (DDP, FSDP2) the losses of
``opd_toy.lm.losses`` serve as they are, with ``normalizer=token_count(mask)``; the same
normalizer serves here where both are done.

The backend is the group's own: gloo on processors; on cards nccl, which is not tried here.
"""

import torch
from torch.distributed.tensor import DTensor

from opd_toy import _validate
from opd_toy.lm import checks, divergences, heads, slices
from opd_toy.lm import rows as row_blocks
from opd_toy.lm.autograd import with_gradient
from opd_toy.lm.tokens import token_count, token_scale

__all__ = [
    "bytes_a_token",
    "fused_linear_vocabulary_parallel_loss",
    "token_count",
    "vocabulary_parallel_loss",
]

# Of float32 logits.  More than ``rows`` takes at a time: after each block a process waits three
# times for the others.
CPU_BLOCK_BYTES = 4 << 20


def vocabulary_parallel_loss(
    student_logits,
    teacher_logits,
    objective="reverse_kl",
    mask=None,
    *,
    weights=None,
    normalizer=None,
    temperature=1.0,
    **parameters,
):
    """``distillation_loss`` of logits (..., V) sharded on their last axis: a plain scalar.

    student_logits, teacher_logits: DTensors on one mesh of one axis, [Shard(-1)], such as
    ``ColwiseParallel(output_layouts=Shard(-1), use_local_output=False)`` makes of a head.
    mask, weights (...): the same on all processes.  The value is the same on all; the gradient
    is a DTensor like the logits.  Between processes go ``bytes_a_token`` a token and 72 a call.
    All objectives of ``distillation_loss`` but "top_k_reverse_kl".
    """
    z, mesh = _slice("student_logits", student_logits, -1, "logits")
    y, _ = _slice("teacher_logits", teacher_logits, -1, "logits", mesh)
    checks.pair("student_logits", student_logits, "teacher_logits", teacher_logits)
    _same_slice("student_logits", z.shape[-1], "teacher_logits", y.shape[-1])
    group, block = _objective(objective, z, mesh, temperature, parameters)
    mask, weights, normalizer = map(_whole, (mask, weights, normalizer))
    scale = token_scale(z, z.shape[:-1], mask, weights, normalizer)
    together = CPU_BLOCK_BYTES if z.is_cpu else row_blocks.DEVICE_BLOCK_BYTES
    size = _agreed(scale, max(1, together // (4 * max(1, z.shape[-1]))), group)
    # float16 cannot hold the gradient of a mean until a loss scale has multiplied it
    dtype = torch.float32 if z.dtype == torch.float16 else z.dtype

    def compute(wanted):
        total = torch.zeros((), dtype=torch.float64, device=z.device)
        written = ()
        if wanted:
            written = (row_blocks.large_empty(z.shape, dtype, z.device),)
        for rows in _blocks(size, z.detach(), y.detach(), scale, *written):
            total += block(*rows)
        return total.to(scale.dtype), written or [None]

    return with_gradient(compute, z)


def fused_linear_vocabulary_parallel_loss(
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
    """``vocabulary_parallel_loss`` from hidden states (..., H) and sharded heads (V, H).

    The heads are DTensors, [Shard(0)]; the hidden states are the same on all processes, or
    DTensors of any placement, which are gathered.  chunk_tokens: as for
    ``fused_linear_distillation_loss``, of the slice's logits.  The gradient of
    ``student_hidden`` is summed over the processes, H numbers a token; that of
    ``student_weight`` stays where its slice is.
    """
    head, mesh = _slice("student_weight", student_weight, 0, "heads")
    teacher_head, _ = _slice("teacher_weight", teacher_weight, 0, "heads", mesh)
    student_hidden, teacher_hidden = _whole(student_hidden), _whole(teacher_hidden)
    checks.hidden_and_heads(student_hidden, student_weight, teacher_hidden, teacher_weight)
    _same_slice("student_weight", len(head), "teacher_weight", len(teacher_head))
    group, block = _objective(objective, student_hidden, mesh, temperature, parameters)
    mask, weights, normalizer = map(_whole, (mask, weights, normalizer))
    scale = token_scale(student_hidden, student_hidden.shape[:-1], mask, weights, normalizer)
    size = _agreed(scale, heads.chunk_size(head, chunk_tokens), group)
    models = student_hidden, head, teacher_hidden, teacher_head

    def compute(*wanted):
        value, gradients = heads.by_chunks(block, *models, scale, size, wanted)
        if gradients[0] is not None:
            slices.total(gradients[0], group)
        return value, gradients

    return with_gradient(compute, student_hidden, head)


def bytes_a_token(objective="reverse_kl", **parameters):
    """Bytes of float64 that each process hands to the sums over the processes, for a token.

    Two greatest logits, two sums of exponentials, two sums for each KL of the objective and
    one that centres the gradient: six to nine numbers, whatever V.  Where the teacher bars a
    token of the student's, so that the reverse KL is +inf, three more for the gradient of that
    row and of those computed together with it.
    """
    function, parameters = _find(objective, parameters)
    parts, g = function(*torch.full((3, 1, 2), 0.5), **parameters)
    return 8 * (4 + 2 * len(parts) + (g is not None))


def _blocks(size, *tensors):
    """Views (n, …) of tensors (..., V) and (...), at most ``size`` rows at a time, text by text.

    The same on all processes, however their slices lie in memory.
    """
    leading = tensors[2].ndim  # of the factors
    if leading > 1:
        for parts in zip(*(tensor.unbind(0) for tensor in tensors)):
            yield from _blocks(size, *parts)
    elif tensors[2].numel():
        rows = (tensor.unsqueeze(0) for tensor in tensors) if leading == 0 else tensors
        yield from zip(*(tensor.split(size) for tensor in rows))


# --- what is handed in -------------------------------------------------------------------


def _slice(name, value, dimension, what, mesh=None):
    """This process's slice of a DTensor sharded on ``dimension`` alone, and the mesh."""
    right = f"a DTensor on a mesh of one axis with placements [Shard({dimension})]"
    if not isinstance(value, DTensor):
        plain = isinstance(value, torch.Tensor)
        came = f"a plain tensor, shape {tuple(value.shape)}" if plain else _validate.quote(value)
        raise ValueError(
            f"{name} is {came}; give {right}: DTensor.from_local(slice, mesh, "
            f"[Shard({dimension})]) makes one of the slice that a process holds; for {what} that "
            "are whole there is opd_toy.lm.losses"
        )
    checks.float_tensor(name, value)
    shard = value.placements[0]
    sharded = len(value.placements) == 1 and shard.is_shard()
    if not sharded or shard.dim % value.ndim != dimension % value.ndim:
        raise ValueError(f"{name} has placements {value.placements}; give {right}")
    if mesh is not None and value.device_mesh != mesh:
        raise ValueError(
            f"{name} lies on {value.device_mesh} and the student's on {mesh}; give both on one mesh"
        )
    return value.to_local(), value.device_mesh


def _same_slice(first, student, second, teacher):
    if student != teacher:
        raise ValueError(
            f"{first} has {student} tokens of the vocabulary on this process and {second} "
            f"{teacher}; both must have one vocabulary, cut alike"
        )


def _whole(value):
    """``value``, gathered if it is a DTensor."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def _find(objective, parameters):
    """(function of ``slices``, its parameters) of the objective of this name."""
    if objective == "top_k_reverse_kl":
        raise ValueError(
            "objective is 'top_k_reverse_kl', whose k tokens may lie in any slice; give one of "
            f"{', '.join(slices.OBJECTIVES)}, or whole logits, logits.full_tensor(), to "
            "distillation_loss"
        )
    function, parameters = divergences.find_objective(objective, parameters, None)
    return slices.OBJECTIVES[function.__name__.removeprefix("_")], parameters


def _objective(name, like, mesh, temperature, parameters):
    """The mesh's group, and ``slices.add_rows`` for it and the objective of this name."""
    function, parameters = _find(name, parameters)
    temperature = _validate.positive("temperature", temperature)
    if like.is_cpu:
        row_blocks.keep_freed_memory()
    group = mesh.get_group()

    def block(z, y, factor, out=None):
        return slices.add_rows(z, y, factor, out, group, function, parameters, temperature)

    return group, block


def _agreed(scale, size, group):
    """The least ``size`` of all processes, whose factors of tokens (...) must be the same.

    With unequal ones they would wait for each other for ever, or add up what is not one text.
    Which tokens are valid has to be equal, the weights to rounding: each process may have
    computed its own.
    """
    factors = scale.flatten().double()
    valid, places = (factors != 0).double(), torch.arange(1, len(factors) + 1).to(factors)
    weighted = factors.abs().nan_to_num() @ places  # a weight may be NaN, as may then the loss
    same = torch.stack([factors.new_tensor(len(factors)), valid.sum(), valid @ places, weighted])
    numbers = torch.cat([factors.new_tensor([-size]), same, -same])
    size, *most = slices.greatest(numbers, group).tolist()
    most, least = most[:4], [-each for each in most[4:]]
    if most[:3] != least[:3] or most[3] - least[3] > 1e-6 * most[3]:
        raise ValueError(
            f"the processes have {least[0]:.0f} to {most[0]:.0f} tokens, {least[1]:.0f} to "
            f"{most[1]:.0f} of them valid; give all processes that share a vocabulary the same "
            "texts, mask, weights and normalizer"
        )
    return int(-size)
