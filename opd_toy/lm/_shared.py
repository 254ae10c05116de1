"""What the losses share: checks, the factor of each token, blocks of rows, gradients made in the forward pass."""

import concurrent.futures
import functools
import numbers
import os
import threading

import torch
from torch.autograd.function import once_differentiable

from opd_toy._validate import quote

CPU_BLOCK_BYTES = 1 << 20  # of float32 logits, or one row: what stays in the cache of one thread
MOST_THREADS = 16  # more would wait for Python's lock
DEVICE_BLOCK_BYTES = 256 << 20  # elsewhere fewer, larger blocks


def token_count(mask, *masks, group=None):
    """Valid tokens of ``mask`` and all ``masks``, on all ranks, divided by the number of ranks; a scalar tensor.

    As ``normalizer`` of every micro-batch and rank it makes the accumulated gradient, which
    DDP averages over the ranks, that of the mean over *all* valid tokens.  Without
    ``torch.distributed`` there is one rank.  At least 1 token is counted.
    """
    masks = mask, *masks
    for index, each in enumerate(masks):
        _zero_or_one("mask" if index == 0 else f"masks[{index - 1}]", each)
    count = sum((each != 0).sum() for each in masks).to(torch.float64)
    ranks = 1
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(count, group=group)
        ranks = torch.distributed.get_world_size(group)
    return count.clamp_min(1) / ranks


def with_gradient(compute, *tensors):
    """The number ``compute(wanted, ...)`` makes, differentiable in ``tensors`` by the gradients it makes with it.

    compute takes one bool for each tensor and returns (value, gradients), gradients it may
    leave None where not wanted.  Without autograd none is wanted.
    """
    with torch.autocast(tensors[0].device.type, enabled=False):
        if not torch.is_grad_enabled():
            return compute(*(False for _ in tensors))[0]
        return _WithGradient.apply(compute, *tensors)


class _WithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, compute, *tensors):
        value, ctx.gradients = compute(*ctx.needs_input_grad[1:])
        ctx.dtypes = [tensor.dtype for tensor in tensors]
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        if ctx.gradients is None:
            raise RuntimeError(
                "backward() was called a second time on one loss, whose gradient is scaled in place and so serves once: "
                "compute the loss again, or add losses up and call backward() once"
            )
        gradients, ctx.gradients = ctx.gradients, None
        if not (upstream.is_cpu and upstream == 1):
            gradients = [
                gradient if gradient is None else _scaled(gradient, upstream)
                for gradient in gradients
            ]
        return None, *(
            gradient if gradient is None else gradient.to(dtype)
            for gradient, dtype in zip(gradients, ctx.dtypes)
        )


def _scaled(gradient, upstream):
    """In place.  On a GPU without a look at ``upstream``, mostly 1, which its kernel finds out before it touches the gradient."""
    kernels = device_kernels(gradient) if gradient.is_contiguous() else None
    return kernels.scale_(gradient, upstream) if kernels else gradient.mul_(upstream)


def device_kernels(*tensors):
    """``opd_toy.lm.kernels`` where it serves these tensors, on a GPU and with Triton installed; else None."""
    if not tensors[0].is_cuda or any(
        tensor.dtype not in (torch.float32, torch.bfloat16, torch.float16) for tensor in tensors
    ):
        return None
    return _kernels(tensors[0].device)


@functools.cache
def _kernels(device):
    try:
        from opd_toy.lm import kernels
    except ImportError:  # no Triton
        return None
    return kernels if kernels.serves(device) else None


def working_dtype(*tensors):
    """float64 if the first tensor is, else float32, whatever the model computes in."""
    return torch.float64 if tensors[0].dtype == torch.float64 else torch.float32


def token_scale(like, shape, mask, weights, normalizer):
    """Factor of each token (...): its weight / normalizer, and 0 where masked."""
    for name, value in (("mask", mask), ("weights", weights)):
        if value is not None:
            shaped(name, value, shape)
    valid = valid_tokens(mask, shape, like.device)
    dtype = working_dtype(like)
    scale = (
        valid.to(dtype)
        if weights is None
        else torch.where(valid, weights.detach().to(like.device, dtype), 0.0)
    )
    if normalizer is None:
        return scale / valid.sum().clamp_min(1)
    one_number = (
        normalizer.numel() == 1
        if isinstance(normalizer, torch.Tensor)
        else isinstance(normalizer, numbers.Real)
    )
    if not one_number or not normalizer > 0:
        raise ValueError(
            f"normalizer is {quote(normalizer)}; give one number above 0, such as the count of valid tokens"
        )
    return scale / (
        normalizer.detach().to(like.device).reshape(())
        if isinstance(normalizer, torch.Tensor)
        else normalizer
    )


def valid_tokens(mask, shape, device):
    """``mask`` as booleans (...)."""
    if mask is None:
        return torch.ones(shape, dtype=torch.bool, device=device)
    _zero_or_one("mask", shaped("mask", mask, shape))
    return mask.to(device) != 0


def blocks(*tensors):
    """A few rows at a time of tensors (..., V) or (...) with equal leading axes, as views (n, V) or (n,)."""
    leading = tensors[0].ndim - 1
    try:
        flat = [
            tensor.view(-1, *tensor.shape[leading:]) if tensor.numel() else None
            for tensor in tensors
        ]
    except RuntimeError:  # such as logits[:, :-1]: not one block of memory, but each text is
        for parts in zip(*(tensor.unbind(0) for tensor in tensors)):
            yield from blocks(*parts)
        return
    if flat[0] is not None:
        yield from zip(*(tensor.split(_rows_together(tensors[0])) for tensor in flat))


def _rows_together(logits):
    row = 4 * logits.shape[-1]
    return max(1, (CPU_BLOCK_BYTES if logits.is_cpu else DEVICE_BLOCK_BYTES) // row)


def each_block(work, *tensors):
    """The sum of work(*block) over all ``blocks`` in their order."""
    return sum(in_threads(work, blocks(*(tensor.detach() for tensor in tensors)), tensors[0]))


def in_threads(work, items, like):
    """work(*item) for all items, in their order; where ``like`` is on the CPU each is done by one of as many threads as torch uses."""
    waiting = dict(enumerate(items))
    threads = min(torch.get_num_threads(), MOST_THREADS)
    if len(waiting) < 2 or threads == 1 or not like.is_cpu:
        return (work(*waiting.pop(index)) for index in list(waiting))
    workers = _workers(threads, os.getpid())  # a forked process has none of its parent's threads
    # Popped, so that no thread still holds a view when the sum is there: autograd copies a gradient that somebody else holds.
    return workers.map(lambda index: work(*waiting.pop(index)), list(waiting))


@functools.cache
def _workers(threads, process):
    """Threads that each compute alone: no operation waits for another thread, which on a busy machine costs more than the work."""
    callers, all_here = torch.get_num_threads(), threading.Barrier(threads + 1)

    def start():
        torch.set_num_threads(1)
        torch.get_num_threads()  # makes torch settle this thread's number now, not after it is set back below
        all_here.wait()

    pool = concurrent.futures.ThreadPoolExecutor(threads, "opd-toy-rows", start)
    for _ in range(threads):
        pool.submit(int)
    all_here.wait()
    torch.set_num_threads(callers)  # which the workers' start has changed
    return pool


def any_of(condition):
    """Whether any entry holds; off the CPU yes, without waiting for the device to say."""
    return not condition.is_cpu or bool(condition.any())


def keep_freed_memory():
    """glibc hands a freed buffer of a megabyte back to the system, and each block would pay for fresh pages: five times its time.

    Blocks as large as one that it has seen freed it keeps; this one is never touched.
    """
    torch.empty(31 << 20, dtype=torch.uint8)


# --- checks ------------------------------------------------------------------------------


def float_tensor(name, value, last="V"):
    if not isinstance(value, torch.Tensor):
        raise ValueError(f"{name} is {quote(value)}; give a torch tensor")
    if not value.is_floating_point():
        raise ValueError(f"{name} has dtype {value.dtype}; give a float tensor")
    if last and (value.ndim == 0 or value.shape[-1] == 0):
        raise ValueError(
            f"{name} has shape {tuple(value.shape)}; give (..., {last}) with {last} at least 1"
        )
    return value


def same_device(first, a, second, b):
    if a.device != b.device:
        raise ValueError(
            f"{first} is on {a.device} and {second} on {b.device}; move both to one device"
        )


def shaped(name, value, shape):
    if not isinstance(value, torch.Tensor):
        raise ValueError(f"{name} is {quote(value)}; give a tensor of shape {tuple(shape)}")
    if tuple(value.shape) != tuple(shape):
        raise ValueError(
            f"{name} has shape {tuple(value.shape)}; give one entry a token, shape {tuple(shape)}"
        )
    return value


def _zero_or_one(name, mask):
    if not isinstance(mask, torch.Tensor):
        raise ValueError(f"{name} is {quote(mask)}; give a tensor with one entry a token")
    if mask.dtype != torch.bool and ((mask != 0) & (mask != 1)).any():
        wrong = mask[(mask != 0) & (mask != 1)][0].item()
        raise ValueError(
            f"{name} holds {wrong!r}; give True or 1 for a valid token and False or 0 for another (from labels: labels != -100)"
        )
