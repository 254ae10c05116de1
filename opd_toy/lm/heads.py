"""Products with an output head (V, H) of float32 sums, a part of the head at a time."""

import functools
import sys

import numpy as np
import torch

from opd_toy import _validate
from opd_toy.lm.rows import in_threads, large_empty

HEAD_BLOCK_BYTES = 20 << 20  # of float32 logits of one model, or an eighth of its head
# Off the CPU the gradient of the head is read and written once a chunk: fewer, larger chunks.
DEVICE_HEAD_BLOCK_BYTES = 512 << 20
# Of a float32 head: what stays in the cache of one thread, where products run several times
# faster.
HEAD_TILE_BYTES = 2 << 20
LEAST_TILE_ROWS = 128
LEAST_TOKENS, LEAST_TILES = 8, 8  # of a product that is left to oneDNN


def chunk_size(weight, chunk_tokens=None):
    """Tokens whose logits are held at a time for a student's head (V, H), unless given."""
    if chunk_tokens is not None:
        return _validate.whole("chunk_tokens", chunk_tokens, 1)
    if not len(weight):
        return sys.maxsize  # an empty slice of a head
    most = max(_block_bytes(weight), weight.numel() // 2) // (4 * len(weight))
    multiple = 128 if most > 128 else 16  # matrix products run fastest so
    return most - most % multiple if most > multiple else max(1, most)


def by_chunks(rows, student_hidden, head, teacher_hidden, teacher_head, scale, size, wanted):
    """The loss of hidden states (..., H) and heads (V, H), and the student's two gradients.

    rows(z, y, factors, out): the sum over rows of logits, and their gradients in ``out``.
    scale (...): the factors.  The logits of ``size`` tokens are held at a time, those of masked
    tokens never made.  A gradient that is not ``wanted`` is None.
    """
    factors, dtype, device = scale.reshape(-1), scale.dtype, scale.device
    hidden, teacher = (
        x.detach().reshape(len(factors), x.shape[-1]) for x in (student_hidden, teacher_hidden)
    )
    head, teacher_head = head.detach(), teacher_head.detach()
    total = torch.zeros((), dtype=torch.float64, device=device)
    valid = factors.nonzero().flatten()
    to_hidden = torch.zeros(hidden.shape, dtype=dtype, device=device) if wanted[0] else None
    to_weight = large_empty(head.shape, dtype, device) if wanted[1] else None
    if to_weight is not None and not len(valid):
        to_weight.zero_()
    shape = min(size, len(valid)), len(head)
    z, y = large_empty((2, *shape), dtype, device)
    gradient = z  # takes the place of the logits, where it need not be rounded
    if hidden.dtype == torch.bfloat16 and tensor_cores(hidden, head):
        gradient = z.new_empty(shape, dtype=torch.bfloat16)
    for index, chosen in enumerate(valid.split(size) if len(valid) else ()):
        h, z, y, gradient = hidden[chosen], *(x[: len(chosen)] for x in (z, y, gradient))
        logits(h, head, z), logits(teacher[chosen], teacher_head, y)
        total += rows(z, y, factors[chosen], gradient if any(wanted) else None)
        if to_hidden is not None and len(head):
            to_hidden[chosen] = times_head(gradient, head)
        if to_weight is not None:
            add_to_head(to_weight, gradient, h, first=index == 0)
    if to_hidden is not None:
        to_hidden = to_hidden.view(student_hidden.shape)
    return total.to(dtype), [to_hidden, to_weight]


def logits(hidden, head, out):
    """hidden (n, H) @ head.T, written to ``out`` (n, V)."""
    if tensor_cores(hidden, head):
        _product(hidden, head.T, out)
        return
    hidden = hidden.to(out.dtype)

    def tile(a, b):
        torch.mm(hidden, head[a:b].to(out.dtype).T, out=out[:, a:b])

    _each_tile(tile, head, out)


def times_head(gradient, head):
    """gradient (n, V) @ head: (n, H)."""
    if tensor_cores(gradient, head):
        return _product(gradient, head)
    multiply = _multiplication(gradient, head)
    return _each_tile(
        lambda a, b: multiply(gradient[:, a:b], head[a:b].to(gradient.dtype)), head, gradient
    )


def add_to_head(total, gradient, hidden, first=False):
    """Add gradient.T (V, n) @ hidden (n, H) to ``total`` (V, H), or overwrite it if ``first``."""
    put = torch.Tensor.copy_ if first else torch.Tensor.add_
    if tensor_cores(gradient, hidden):
        step = _block_rows(total)
        for a in range(0, len(total), step):
            put(total[a : a + step], _product(gradient[:, a : a + step].T, hidden))
        return
    hidden = hidden.to(gradient.dtype)
    multiply = _multiplication(hidden, total)

    def tile(a, b):
        if multiply is torch.mm:
            total[a:b].addmm_(gradient[:, a:b].T, hidden, beta=0 if first else 1)
        else:
            put(total[a:b], multiply(gradient[:, a:b].T, hidden))

    _each_tile(tile, total, gradient)


def tensor_cores(a, b):
    """Whether a GPU's tensor cores make the product that float32 would.

    They multiply bfloat16 and float16 exactly and add in float32.
    """
    return a.is_cuda and a.dtype == b.dtype and a.dtype in (torch.bfloat16, torch.float16)


def _multiplication(rows, head):
    """The faster function of a, b that makes a @ b, for these rows (n, ...) and head (V, H).

    torch.mm leaves the product to MKL, which makes no use of AVX-512 on AMD's processors;
    oneDNN does.  It adds the terms in longer sums, though, and logits made so would cost the
    gradient digits: they are left to torch.mm.
    """
    large = len(rows) >= LEAST_TOKENS and head.numel() >= LEAST_TILES * HEAD_TILE_BYTES // 4
    served = rows.is_cpu and rows.dtype == torch.float32 and _has_onednn()
    return _by_onednn if large and served else torch.mm


def _by_onednn(a, b):
    return torch.ops.mkldnn._linear_pointwise(a, b.T, None, "none", [], "")


@functools.cache
def _has_onednn():
    """Whether this processor and this torch have what ``_by_onednn`` needs.

    The operation is one of torch's own, which may take other arguments in another release or
    be there without oneDNN: it makes one small product first.
    """
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    a = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float32, device="cpu")
    try:
        return torch.equal(_by_onednn(a, a), a @ a)
    except (AttributeError, RuntimeError, TypeError):
        return False


def _each_tile(work, head, like):
    """The sum of work(a, b) over rows a to b of ``head``, in their order.

    A few rows at a time on the CPU, and where they are converted to the dtype of ``like``.
    """
    if like.is_cpu:
        step = max(LEAST_TILE_ROWS, HEAD_TILE_BYTES // (4 * head.shape[1]))
    else:
        step = len(head) if head.dtype == like.dtype else _block_rows(head)
    tiles = ((a, min(a + step, len(head))) for a in range(0, len(head), step))
    total = None
    for part in in_threads(work, tiles, like):
        total = part if total is None else _add(total, part)
    return total


def _add(total, part):
    """Add ``part`` (n, H) to ``total``.

    By NumPy, in this thread alone: after each sum of its own torch keeps a second thread
    waiting for more, at full speed and in the way of those that multiply.
    """
    if not part.is_cpu:
        return total.add_(part)
    np.add(total.numpy(), part.numpy(), out=total.numpy())
    return total


def _product(a, b, out=None):
    return torch.mm(a, b, out_dtype=torch.float32, out=out)


def _block_rows(head):
    return max(1, _block_bytes(head) // (4 * head.shape[1]))


def _block_bytes(head):
    return HEAD_BLOCK_BYTES if head.is_cpu else DEVICE_HEAD_BLOCK_BYTES
