"""Time, memory and rounding of one case: what the benchmark's processes do.

One forward and backward pass is one measurement:

- extra memory: the largest resident memory (VmHWM, set back by writing 5 to
  /proc/self/clear_refs) during the first full pass of one process, less the resident
  memory before it.  Before it lie the inputs, a pass over 4 tokens and 64 words (compiled
  cases: a full pass) and malloc_trim.  The gradients the pass leaves behind count.
  glibc hands buffers of a megabyte back at once (M_MMAP_THRESHOLD), so that gaps in the
  heap count for nobody.  None off Linux.
- seconds: wall time of passes of another process, the cases of a setting taking turns.
- gradient error: |g - g64| / |g64| (2-norms), g64 from float64 autograd of the textbook
  formula on the same inputs; of a head of width 4096 every fifth row.
"""

import contextlib
import ctypes
import gc
import math
import warnings
from pathlib import Path

import numpy as np
import torch

from opd_toy.lm.bench.cases import loss_function, make_inputs, one_pass, textbook

M_MMAP_THRESHOLD = -3  # of malloc.h
ROWS = 32  # taken together in float64
SLICE = 1 << 15  # rows of a head taken together in float64
COMPARED_ENTRIES = 150_000_000  # of the gradient of a head


def reference(pipe, setting, threads, folder):
    """A process: the loss in float64; leaves the gradients in ``folder``."""
    torch.set_num_threads(threads)
    sizes = gradient_sizes(setting)
    gradients = [
        np.lib.format.open_memmap(Path(folder) / f"{i}.npy", "w+", np.float64, size)
        for i, size in enumerate(sizes)
    ]
    gradients = [torch.from_numpy(file) for file in gradients]
    pipe.send(exact_loss(setting, make_inputs(setting), gradients))


def gradient_sizes(setting):
    """Sizes of the reference's gradients: hidden states and head, or logits."""
    H, n = setting.width, setting.tokens
    if not H:
        return [(n, setting.vocabulary)]
    return [(n, H), (len(range(0, setting.vocabulary, compared(setting))), H)]


def compared(setting):
    """Each so many rows of the head one is compared, so that the gradient takes a gigabyte."""
    return math.ceil(setting.vocabulary * setting.width / COMPARED_ENTRIES) or 1


def exact_loss(setting, inputs, gradients):
    """The loss in float64, a few rows at a time; the gradients are written to those handed in."""
    H, n = setting.width, setting.tokens
    if H:
        h, w, t, u = inputs
        gradients[1].zero_()
    total = 0.0
    for a in range(0, n, ROWS):
        here = slice(a, min(a + ROWS, n))
        if H:
            z, y = _exact_logits(h[here], w), _exact_logits(t[here], u)
        else:
            z, y = (x[0, here].double() for x in inputs)
        z.requires_grad_()
        value = textbook(z, y, setting.beta).sum() / n
        value.backward()
        total += value.item()
        if H:
            parts = zip(z.grad.split(SLICE, 1), w.split(SLICE))
            gradients[0][here] = sum(part @ rows.double() for part, rows in parts)
            gradients[1].addmm_(z.grad[:, :: compared(setting)].T, h[here].double())
        else:
            gradients[0][here] = z.grad
    return total


def _exact_logits(hidden, head):
    return torch.cat([hidden.double() @ rows.double().T for rows in head.split(SLICE)], 1)


def gradient_error(gradients, setting, folder):
    """The 2-norm of what the gradients (a list) are off, relative to the reference's."""
    wrong = right = 0.0
    for i, gradient in enumerate(gradients):
        file = np.load(Path(folder) / f"{i}.npy", mmap_mode="r")
        rows = gradient[:: compared(setting)] if i == 1 else gradient
        flat = rows.reshape(file.shape)
        step = max(1, 2**22 // file.shape[1])
        for a in range(0, len(file), step):
            exact = torch.from_numpy(file[a : a + step].copy())
            wrong += (flat[a : a + step].double() - exact).square().sum().item()
            right += exact.square().sum().item()
    return math.sqrt(wrong / right)


def resident(field):
    return next(
        1024 * int(line.split()[1])
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith(field + ":")
    )


def with_extra_memory(function):
    """(the result of function(), bytes of resident memory that it took at its height).

    None in their place where the system does not tell.
    """
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)  # what was freed and kept would serve unseen
        Path("/proc/self/clear_refs").write_text("5")
        before = resident("VmRSS")
    except (OSError, AttributeError):
        return function(), None
    result = function()
    return result, resident("VmHWM") - before


def prepare(case, setting, threads):
    """(loss function, inputs), after a pass that loads code."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)
    loss, inputs = loss_function(case, setting), make_inputs(setting)
    one_pass(loss, inputs if case.endswith("compiled") else few(setting, inputs))
    return loss, inputs


def few(setting, inputs):
    """4 tokens and 64 words of the inputs."""
    if not setting.width:
        return [x[..., :4, :64].clone() for x in inputs]
    return [x[: 64 if i % 2 else 4].clone() for i, x in enumerate(inputs)]


def weigh(pipe, case, setting, threads, folder=None):
    """A process: extra memory, loss and, where there is a reference, gradient error of one pass."""
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 1 << 20)
    loss, inputs = prepare(case, setting, threads)
    (_, value, gradients), extra = with_extra_memory(lambda: one_pass(loss, inputs))
    found = {"loss": value, "extra_bytes": extra}
    if folder is not None:
        found["gradient_error"] = gradient_error(gradients, setting, folder)
    pipe.send(found)


def pace(pipe, case, setting, threads):
    """A process: says when it is ready, then answers each message with the seconds of a pass."""
    loss, inputs = prepare(case, setting, threads)
    pipe.send("ready")
    while True:
        try:
            pipe.recv()
        except EOFError:
            return
        if case == "ours_overwrite":
            inputs = None
            inputs = make_inputs(setting)  # the gradient took their place
        gc.collect()
        pipe.send(one_pass(loss, inputs)[0])
