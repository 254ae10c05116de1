"""Work on rows of logits a few at a time: blocks that fit a cache, threads, the GPU's kernels."""

import concurrent.futures
import ctypes
import functools
import mmap
import os
import threading

import torch

CPU_BLOCK_BYTES = 1 << 20  # of float32 logits, or one row: what stays in the cache of one thread
DEVICE_BLOCK_BYTES = 256 << 20  # elsewhere fewer, larger blocks
MOST_THREADS = 16  # more would wait for Python's lock
LARGE_BYTES = 32 << 20  # from here on the C library takes fresh memory for each buffer


def blocks(*tensors):
    """Views (n, V) or (n,), a few rows at a time, of tensors (..., V) or (...).

    All have the same leading axes, and the first has logits.
    """
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
    """work(*item) for all items, in their order, whichever thread did it.

    Where ``like`` is on the CPU there are as many threads as torch uses, an item for each.
    """
    waiting = dict(enumerate(items))
    threads = min(torch.get_num_threads(), MOST_THREADS)
    if len(waiting) < 2 or threads == 1 or not like.is_cpu:
        return (work(*waiting.pop(index)) for index in list(waiting))
    workers = _workers(threads, os.getpid())  # a forked process has none of its parent's threads
    # Popped, so that no thread still holds a view of a gradient when the sum is there:
    # autograd copies a gradient that somebody else holds.
    return workers.map(lambda index: work(*waiting.pop(index)), list(waiting))


@functools.cache
def _workers(threads, process):
    """Threads that each compute alone.

    No operation then waits for another thread, which on a busy machine costs more than the
    work.
    """
    callers, all_here = torch.get_num_threads(), threading.Barrier(threads + 1)

    def start():
        torch.set_num_threads(1)
        torch.get_num_threads()  # settles this thread's number before it is set back below
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
    """Have the C library keep freed buffers for the next block.

    glibc returns a freed buffer of a megabyte to the system, and the next block pays for
    fresh pages: five times its time.  Once it has seen a larger buffer freed it keeps all up
    to that size, so one of 31 MiB is taken here and freed.  Nothing is written to it.
    """
    torch.empty(31 << 20, dtype=torch.uint8)


def large_pages(tensor):
    """``tensor``, just made by torch.empty, in pages of 2 MiB where Linux has them.

    Fresh memory costs time when a page of it is first written; large pages are fewer.
    """
    if tensor.is_cpu and tensor.nbytes >= LARGE_BYTES and hasattr(mmap, "MADV_HUGEPAGE"):
        start, end = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
        start += -start % mmap.PAGESIZE
        # Only advice: where it is refused the pages stay small.
        advise = ctypes.CDLL(None).madvise
        advise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_HUGEPAGE)
    return tensor


def large_empty(shape, dtype, device):
    """torch.empty in ``large_pages``."""
    return large_pages(torch.empty(shape, dtype=dtype, device=device))


def device_kernels(*tensors):
    """``opd_toy.lm.kernels`` where it serves these tensors; else None.

    It does on a GPU with Triton installed, in the dtypes that models compute in.
    """
    served = (torch.float32, torch.bfloat16, torch.float16)
    if not tensors[0].is_cuda or any(tensor.dtype not in served for tensor in tensors):
        return None
    return _kernels(tensors[0].device)


@functools.cache
def _kernels(device):
    try:
        from opd_toy.lm import kernels
    except ImportError:  # no Triton
        return None
    return kernels if kernels.serves(device) else None
