"""The divergences of ``opd_toy.lm.losses`` as one Triton kernel for CUDA.

Both logits are read once from memory, the gradient is written once.  The losses call it by
themselves for CUDA logits where Triton can be imported; it is held to the CPU's rows by
tests/peers/test_kernels.py, on a GPU or in Triton's interpreter.

The difficulty.  A gradient needs the normalisers of its whole row first, and a row of
V = 151 936 (two of 304 KB in bfloat16) is too large for a multiprocessor, so each logit
is read twice.  The second read must come from the L2 cache.  Two launches for every few
rows would see to that, but a launch from Python takes some 10 us, the time in which the
memory of an H100 moves 30 MB, more than those few rows.  So there is one launch:

    Programs take numbers from a counter, in the order in which they start.
    Program number i * tiles + j computes the partial statistics of tile j of row i,
    then waits until the statistics of row i - lag are whole, and writes the gradient
    of tile j of row i - lag.

It waits only for programs with smaller numbers, which have all started; of those still at
work the one with the smallest waits for nothing.  So none waits for ever, whatever order
the hardware starts programs in, and however few run at once (as in single-pass scans).
``lag`` is large enough that the wait is over when it begins, and small enough that the
logits of the rows between are still in the L2.  The numbers only say who does what; sums
are taken tile by tile in a fixed order, so that a result is the same bit for bit every
time.  JSD and the skewed objectives have a third stage, as what their gradient is centred
by takes the normalisers to compute.

Counted, not measured: no time is claimed here.  s is the size of a logit, g that of an
entry of the gradient, in bytes; 0.91 MB a row in bfloat16, 1.82 MB in float32.

    from and to memory, a row   2 s V + g V, as a copy of as many bytes, which bounds the speed
    from the L2 besides         2 s V for each stage after the first
    statistics                  32 bytes for each 4096 tokens, 32 a row
    lag                         7 rows of V = 151 936 on an H100 (50 MB of L2,
                                132 multiprocessors): 6 MB of them in bfloat16, 13 in float32
    exponentials a token        3 (reverse KL), 4 (forward KL), 8 (JSD and skewed)
    backward                    nothing, if what comes from above is 1: found on the device
    registers a thread (sm_90)  48 to 96 as compiled, none spilled: 5 to 10 programs at once

Nothing is read back by the host.

Float32 throughout, sums kept apart for each thread.  Exponentials are the hardware's (2
ulp), of differences from the largest logit; results below 1e-38 are 0.
"""

import functools

import torch
import triton

from opd_toy.lm.kernels.stages import (
    ROW_FIELDS_COUNT,
    TILE_FIELDS_COUNT,
    _divergence_kernel,
    _scale_kernel,
)

OBJECTIVES = (
    "reverse_kl",
    "forward_kl",
    "generalized_jsd",
    "skewed_forward_kl",
    "skewed_reverse_kl",
)
WARPS = 4
BLOCK = 4096  # logits of a tile
# That a multiprocessor starts between two stages of a row: a wait is met a few microseconds
# after the start.
PROGRAMS_BETWEEN = 2
L2_BYTES = 40 << 20  # where the device does not say
L2_SHARE = 4  # the rows between a first and a last read take at most a quarter of the L2
TILES_TOGETHER = 1 << 20  # of a launch: 30 MB of statistics


def serves(device):
    """What Triton compiles for: NVIDIA from compute capability 8.0 on (A100).  AMD is not tried."""
    return torch.version.hip is None and torch.cuda.get_device_capability(device) >= (8, 0)


def divergence(objective, z, y, factor, out=None, temperature=1.0, mixing=0.0):
    """Sum over rows of factor * divergence, a float64 scalar on the device.

    The gradients in z go to ``out``.  z, y (..., V): logits of the student and the teacher,
    float32, bfloat16 or float16.  factor (...) float32: a row of factor 0 may hold anything,
    costs no reading and gets zeros.
    out (..., V): None, z itself or a tensor of its own.  mixing: the beta or the skew.
    """
    vocabulary, rows = z.shape[-1], factor.numel()
    if not rows:
        return torch.zeros((), dtype=torch.float64, device=z.device)
    own, other, place = _three_axes(z), _three_axes(y), _three_axes(z if out is None else out)
    if objective == "forward_kl":
        own, other = other, own
    factor = factor.reshape(-1).contiguous()
    width = 16 // max(z.element_size(), y.element_size())  # 16 bytes a thread and a read
    warps = min(WARPS, triton.next_power_of_2(triton.cdiv(vocabulary, 32 * width)))
    step = 32 * warps * width
    steps = triton.next_power_of_2(triton.cdiv(vocabulary, step))
    steps = max(1, min(BLOCK // step, steps))
    tiles = triton.cdiv(vocabulary, step * steps)
    row_bytes = vocabulary * (z.element_size() + y.element_size() + place.element_size())
    stages = 2 if objective in ("reverse_kl", "forward_kl") else 3
    together = max(1, TILES_TOGETHER // tiles)
    totals = []
    for start in range(0, rows, together):
        count = min(together, rows - start)
        lag = min(count, _lag(z.device, stages, tiles, row_bytes))
        counters = torch.zeros(1 + (stages - 1) * count, dtype=torch.int32, device=z.device)
        of_tiles, of_rows, values = (
            torch.empty(count * size, dtype=torch.float32, device=z.device)
            for size in (TILE_FIELDS_COUNT.value * tiles, ROW_FIELDS_COUNT.value, tiles)
        )
        with _on(z.device):
            _divergence_kernel[((count + (stages - 1) * lag) * tiles,)](
                own, other, place, factor, counters, of_tiles, of_rows, values,
                start, count, vocabulary, tiles, lag, own.shape[1],
                *own.stride()[:2], *other.stride()[:2], *place.stride()[:2],
                # 1 - mixing, in float32, would lose the digits of a small rest
                float(mixing), 1.0 - mixing, 1.0 / temperature,
                OBJECTIVE=objective, WRITE=out is not None, LANES=32 * warps, WIDTH=width,
                STEPS=steps, TILES=triton.next_power_of_2(tiles), num_warps=warps,
            )  # fmt: skip
        totals.append(values.sum(dtype=torch.float64))
    if out is not None and place.data_ptr() != out.data_ptr():
        out.copy_(place.view(out.shape))
    return sum(totals[1:], totals[0])


def scale_(gradient, factor):
    """``gradient`` (..., V), contiguous, times ``factor``, a scalar on the device; in place.

    No memory is touched where the factor is 1.
    """
    elements = gradient.numel()
    if elements:
        with _on(gradient.device):
            _scale_kernel[(triton.cdiv(elements, 16 * BLOCK),)](
                gradient, factor, elements, STEPS=16, BLOCK=BLOCK, num_warps=WARPS
            )
    return gradient


def _three_axes(tensor):
    """(outer, inner, V) with adjacent logits.

    A view, but where the axes cannot be joined or the logits are not adjacent.
    """
    tensor = tensor.reshape(-1, *tensor.shape[-2:]) if tensor.ndim > 1 else tensor[None, None]
    return tensor if tensor.stride(-1) == 1 or tensor.shape[-1] == 1 else tensor.contiguous()


def _lag(device, stages, tiles, row_bytes):
    """Rows between a stage of a row and the next.

    As many as are started meanwhile, but no more than stay in the L2.
    """
    l2, multiprocessors = _device(device)
    started = triton.cdiv(PROGRAMS_BETWEEN * multiprocessors, tiles)
    return max(1, min(started, l2 // (L2_SHARE * (stages - 1) * row_bytes)))


@functools.cache
def _device(device):
    """Bytes of L2, multiprocessors."""
    if device.type != "cuda":
        return L2_BYTES, 4
    properties = torch.cuda.get_device_properties(device)
    return getattr(properties, "L2_cache_size", 0) or L2_BYTES, properties.multi_processor_count


def _on(device):
    none = -1  # in the interpreter
    return torch.cuda.device(device if device.type == "cuda" else none)
