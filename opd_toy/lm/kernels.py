"""The divergences of ``opd_toy.lm.losses`` as one Triton kernel for CUDA: both logits read once from memory, the gradient written once.

The losses call it by themselves for CUDA logits where Triton can be imported; it is held
to the CPU's rows by tests/peers/test_kernels.py, on a GPU or in Triton's interpreter.

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
the hardware starts programs in, and however few run at once (as in single-pass scans).  ``lag`` is large enough that the wait is over when it begins, and small enough
that the logits of the rows between are still in the L2.  The numbers only say who does
what; sums are taken tile by tile in a fixed order, so that a result is the same bit for
bit every time.  JSD and the skewed objectives have a third stage, as what their gradient
is centred by takes the normalisers to compute.

Counted, not measured: no time is claimed here.  s is the size of a logit, g that of an
entry of the gradient, in bytes; 0.91 MB a row in bfloat16, 1.82 MB in float32.

    from and to memory, a row   2 s V + g V, what a copy of as many bytes moves, which bounds the speed
    from the L2 besides         2 s V for each stage after the first
    statistics                  32 bytes for each 4096 tokens, 32 a row
    lag                         7 rows of V = 151 936 on an H100 (50 MB of L2, 132 multiprocessors)
                                6 MB of them in bfloat16, 13 MB in float32
    exponentials a token        3 (reverse KL), 4 (forward KL), 8 (JSD and skewed)
    backward                    nothing, if what comes from above is 1: found out on the device
    registers a thread (sm_90)  48 to 96 as compiled, none spilled: 5 to 10 programs at once

Nothing is read back by the host.

Float32 throughout, sums kept apart for each thread.  Exponentials are the hardware's (2
ulp), of differences from the largest logit; results below 1e-38 are 0.
"""

import functools

import torch
import triton
import triton.language as tl

OBJECTIVES = (
    "reverse_kl",
    "forward_kl",
    "generalized_jsd",
    "skewed_forward_kl",
    "skewed_reverse_kl",
)
WARPS = 4
BLOCK = 4096  # logits of a tile
PROGRAMS_BETWEEN = 2  # that a multiprocessor starts between two stages of a row: a wait is met a few microseconds after the start
L2_BYTES = 40 << 20  # where the device does not say
L2_SHARE = 4  # the rows between a first and a last read take at most a quarter of the L2
TILES_TOGETHER = 1 << 20  # of a launch: 30 MB of statistics

LOG2_E = tl.constexpr(1.4426950408889634)
INFINITY = tl.constexpr(float("inf"))
LARGE = tl.constexpr(1e30)  # in place of an infinite log ratio: 0 * 1e30 is 0
MOST = tl.constexpr(3e38)
BOUND = tl.constexpr(62.1)  # losses._bounded
NEAR_ZERO = tl.constexpr(1e-2)  # losses.NEAR_ZERO
FAR_BELOW = tl.constexpr(-30.0)  # losses.FAR_BELOW
TILE_FIELDS_COUNT = tl.constexpr(7)
ROW_FIELDS_COUNT = tl.constexpr(8)


def serves(device):
    """What Triton compiles for: NVIDIA from compute capability 8.0 on (A100).  AMD is not tried."""
    return torch.version.hip is None and torch.cuda.get_device_capability(device) >= (8, 0)


def divergence(objective, z, y, factor, out=None, temperature=1.0, mixing=0.0):
    """Sum over rows of factor * divergence, a float64 scalar on the device; the gradients in z go to ``out``.

    z, y (..., V): logits of the student and the teacher, float32, bfloat16 or float16.  factor (...)
    float32: a row of factor 0 may hold anything, costs no reading and gets zeros.
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
    steps = max(
        1,
        min(
            BLOCK // (32 * warps * width),
            triton.next_power_of_2(triton.cdiv(vocabulary, 32 * warps * width)),
        ),
    )
    tiles = triton.cdiv(vocabulary, 32 * warps * width * steps)
    stages = 2 if objective in ("reverse_kl", "forward_kl") else 3
    together = max(1, TILES_TOGETHER // tiles)
    totals = []
    for start in range(0, rows, together):
        count = min(together, rows - start)
        lag = min(
            count,
            _lag(
                z.device,
                stages,
                tiles,
                vocabulary * (z.element_size() + y.element_size() + place.element_size()),
            ),
        )
        counters = torch.zeros(1 + (stages - 1) * count, dtype=torch.int32, device=z.device)
        of_tiles, of_rows, values = (
            torch.empty(count * size, dtype=torch.float32, device=z.device)
            for size in (TILE_FIELDS_COUNT.value * tiles, ROW_FIELDS_COUNT.value, tiles)
        )
        with _on(z.device):
            _divergence_kernel[((count + (stages - 1) * lag) * tiles,)](
                own, other, place, factor, counters, of_tiles, of_rows, values,
                start, count, vocabulary, tiles, lag, own.shape[1],
                *own.stride()[:2], *other.stride()[:2], *place.stride()[:2], float(mixing), 1.0 - mixing, 1.0 / temperature,  # 1 - mixing in float32 would lose the digits of a small rest
                OBJECTIVE=objective, WRITE=out is not None, LANES=32 * warps, WIDTH=width, STEPS=steps, TILES=triton.next_power_of_2(tiles), num_warps=warps,
            )  # fmt: skip
        totals.append(values.sum(dtype=torch.float64))
    if out is not None and place.data_ptr() != out.data_ptr():
        out.copy_(place.view(out.shape))
    return sum(totals[1:], totals[0])


def scale_(gradient, factor):
    """``gradient`` *= ``factor``, a scalar on the device: no memory is touched where the factor is 1.  gradient (..., V) contiguous."""
    elements = gradient.numel()
    if elements:
        with _on(gradient.device):
            _scale_kernel[(triton.cdiv(elements, 16 * BLOCK),)](
                gradient, factor, elements, STEPS=16, BLOCK=BLOCK, num_warps=WARPS
            )
    return gradient


def _three_axes(tensor):
    """(outer, inner, V) with adjacent logits; a view, but where the axes cannot be joined or the logits are not adjacent."""
    tensor = tensor.reshape(-1, *tensor.shape[-2:]) if tensor.ndim > 1 else tensor[None, None]
    return tensor if tensor.stride(-1) == 1 or tensor.shape[-1] == 1 else tensor.contiguous()


def _lag(device, stages, tiles, row_bytes):
    """Rows between a stage of a row and the next: as many as are started meanwhile, but no more than stay in the L2."""
    l2, multiprocessors = _device(device)
    return max(
        1,
        min(
            triton.cdiv(PROGRAMS_BETWEEN * multiprocessors, tiles),
            l2 // (L2_SHARE * (stages - 1) * row_bytes),
        ),
    )


@functools.cache
def _device(device):
    """Bytes of L2, multiprocessors."""
    if device.type != "cuda":
        return L2_BYTES, 4
    properties = torch.cuda.get_device_properties(device)
    return getattr(properties, "L2_cache_size", 0) or L2_BYTES, properties.multi_processor_count


def _on(device):
    return torch.cuda.device(
        device if device.type == "cuda" else -1
    )  # -1: none, in the interpreter


# --- the kernel --------------------------------------------------------------------------
#
# A program works on LANES threads' adjacent WIDTH logits at a time and keeps its sums apart
# for each thread, so that threads need each other only at the end of a tile.  ``own`` is the
# model that weights the log ratio, ``other`` the other one.


@triton.jit(do_not_specialize=["start", "rows", "tiles", "lag", "inner"])
def _divergence_kernel(
    OWN, OTHER, OUT, FACTOR, COUNTERS, TILE_FIELDS, ROW_FIELDS, VALUES,
    start, rows, vocabulary, tiles, lag, inner,
    own_outer, own_inner, other_outer, other_inner, out_outer, out_inner,
    mixing, rest, inverse_temperature,
    OBJECTIVE: tl.constexpr, WRITE: tl.constexpr, LANES: tl.constexpr, WIDTH: tl.constexpr, STEPS: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """FACTOR (start + rows,), COUNTERS (1 + (stages - 1) * rows,) of zeros, TILE_FIELDS (rows, 7, tiles), ROW_FIELDS (rows, 8), VALUES (rows, tiles)."""
    KL: tl.constexpr = OBJECTIVE == "reverse_kl" or OBJECTIVE == "forward_kl"
    LAST: tl.constexpr = 1 if KL else 2  # stages before the last
    number = tl.atomic_add(COUNTERS, 1, sem="relaxed")
    tile = number % tiles
    first_row = number // tiles
    last_row = first_row - LAST * lag
    first_factor = tl.load(FACTOR + start + first_row, mask=first_row < rows, other=0.0)
    last_factor = tl.load(
        FACTOR + start + last_row, mask=(last_row >= 0) & (last_row < rows), other=0.0
    )
    token = (
        tile * (LANES * WIDTH * STEPS)
        + tl.arange(0, LANES)[:, None] * WIDTH
        + tl.arange(0, WIDTH)[None, :]
    )
    if first_factor != 0:
        own, other = (
            _row(OWN, start + first_row, inner, own_outer, own_inner),
            _row(OTHER, start + first_row, inner, other_outer, other_inner),
        )
        fields = TILE_FIELDS + first_row * TILE_FIELDS_COUNT * tiles
        _statistics(
            own,
            other,
            fields + tile,
            token,
            vocabulary,
            tiles,
            LOG2_E * inverse_temperature,
            KL,
            LANES,
            WIDTH,
            STEPS,
        )
        if tl.atomic_add(COUNTERS + 1 + first_row, 1, sem="acq_rel") == tiles - 1:
            _combine(
                fields,
                ROW_FIELDS + first_row * ROW_FIELDS_COUNT,
                tiles,
                inverse_temperature,
                KL,
                TILES,
            )
            tl.atomic_add(COUNTERS + 1 + first_row, 1, sem="release")
    if not KL:
        row = first_row - lag
        if tl.load(FACTOR + start + row, mask=(row >= 0) & (row < rows), other=0.0) != 0:
            own, other = (
                _row(OWN, start + row, inner, own_outer, own_inner),
                _row(OTHER, start + row, inner, other_outer, other_inner),
            )
            fields = TILE_FIELDS + row * TILE_FIELDS_COUNT * tiles
            _wait(COUNTERS + 1 + row, tiles)
            _moments(
                own,
                other,
                fields + tile,
                ROW_FIELDS + row * ROW_FIELDS_COUNT,
                token,
                vocabulary,
                tiles,
                mixing,
                rest,
                inverse_temperature,
                OBJECTIVE,
                LANES,
                WIDTH,
                STEPS,
            )
            if tl.atomic_add(COUNTERS + 1 + rows + row, 1, sem="acq_rel") == tiles - 1:
                tl.store(ROW_FIELDS + row * ROW_FIELDS_COUNT + 5, _total(fields, tiles, TILES))
                tl.store(
                    ROW_FIELDS + row * ROW_FIELDS_COUNT + 6, _total(fields + tiles, tiles, TILES)
                )
                tl.atomic_add(COUNTERS + 1 + rows + row, 1, sem="release")
    if (last_row >= 0) & (last_row < rows):
        out = _row(OUT, start + last_row, inner, out_outer, out_inner)
        value = 0.0
        if last_factor != 0:
            own, other = (
                _row(OWN, start + last_row, inner, own_outer, own_inner),
                _row(OTHER, start + last_row, inner, other_outer, other_inner),
            )
            fields = ROW_FIELDS + last_row * ROW_FIELDS_COUNT
            scale = last_factor * inverse_temperature
            _wait(COUNTERS + 1 + (LAST - 1) * rows + last_row, tiles)
            if KL:
                value = _finish_kl(
                    own,
                    other,
                    out,
                    fields,
                    tile,
                    token,
                    vocabulary,
                    scale,
                    inverse_temperature,
                    OBJECTIVE,
                    WRITE,
                    LANES,
                    WIDTH,
                    STEPS,
                )
            else:
                value = _finish_mixture(
                    own,
                    other,
                    out,
                    fields,
                    tile,
                    token,
                    vocabulary,
                    scale,
                    mixing,
                    rest,
                    inverse_temperature,
                    OBJECTIVE,
                    WRITE,
                    LANES,
                    WIDTH,
                    STEPS,
                )
            value *= last_factor
        elif WRITE:
            for step in range(STEPS):
                at = token + step * (LANES * WIDTH)
                tl.store(
                    out + at, tl.zeros([LANES, WIDTH], OUT.dtype.element_ty), mask=at < vocabulary
                )
        tl.store(VALUES + last_row * tiles + tile, value)


@triton.jit
def _row(LOGITS, row, inner, outer_stride, inner_stride):
    outer, within = row // inner, row % inner
    return LOGITS + outer.to(tl.int64) * outer_stride + within.to(tl.int64) * inner_stride


@triton.jit
def _read(LOGITS, token, vocabulary):
    """In float32; beyond the vocabulary both models bar the token."""
    return tl.load(LOGITS + token, mask=token < vocabulary, other=-INFINITY).to(tl.float32)


@triton.jit
def _wait(COUNTER, tiles):
    """Until all tiles of a row have arrived and the last of them has combined what they found; all that is then to be seen."""
    arrived = tl.atomic_add(COUNTER, 0, sem="acquire")
    while arrived <= tiles:
        arrived = tl.atomic_add(COUNTER, 0, sem="acquire")


@triton.jit
def _or_zero(largest):
    """What to subtract from logits so that exp is 0, and not NaN, where all of them are -inf."""
    return tl.where(largest == -INFINITY, 0.0, largest)


# Fields of a tile: 0, 1 the largest own logit and the sum of exp(logit - largest); 2, 3 the
# same of the other model; 4 the sum of exp(own - largest) * ((own - other) - (largest own -
# largest other)); 5, 6 the largest own logit where the other model bars the token, and
# elsewhere.  Fields of a row: 0, 1 the largest logits; 2, 3 one over the sums; 4 the log of
# the ratio of the sums; 5 the value; 6 what centres the gradient, or for a KL 0, or 1 where
# it is infinite, or 2 where it is and all of own lies on barred tokens; 7 then sum of own *
# log own, up to its normaliser.


@triton.jit
def _statistics(
    own,
    other,
    FIELD,
    token,
    vocabulary,
    tiles,
    to_base_2,
    KL: tl.constexpr,
    LANES: tl.constexpr,
    WIDTH: tl.constexpr,
    STEPS: tl.constexpr,
):
    """First stage: the fields of a tile."""
    largest_a = tl.full([LANES], -INFINITY, tl.float32)
    largest_b = tl.full([LANES], -INFINITY, tl.float32)
    sum_a, sum_b, total, shift = (
        tl.zeros([LANES], tl.float32),
        tl.zeros([LANES], tl.float32),
        tl.zeros([LANES], tl.float32),
        tl.zeros([LANES], tl.float32),
    )
    next_a, next_b = (
        tl.load(own + token, mask=token < vocabulary, other=-INFINITY),
        tl.load(other + token, mask=token < vocabulary, other=-INFINITY),
    )
    for step in range(STEPS):
        a, b = next_a.to(tl.float32), next_b.to(tl.float32)
        at = token + (step + 1) * (LANES * WIDTH)  # on its way while this step is computed
        ahead = (at < vocabulary) & (step + 1 < STEPS)
        next_a, next_b = (
            tl.load(own + at, mask=ahead, other=-INFINITY),
            tl.load(other + at, mask=ahead, other=-INFINITY),
        )
        before_a, before_b = largest_a, largest_b
        largest_a, largest_b = (
            tl.maximum(largest_a, tl.max(a, 1)),
            tl.maximum(largest_b, tl.max(b, 1)),
        )
        above_a, above_b = _or_zero(largest_a), _or_zero(largest_b)
        fade_a, fade_b = (
            tl.exp2((before_a - above_a) * to_base_2),
            tl.exp2((before_b - above_b) * to_base_2),
        )
        e = tl.exp2((a - above_a[:, None]) * to_base_2)
        if KL:
            before = shift
            shift = above_a - above_b
            total = (total + sum_a * (before - shift)) * fade_a + tl.sum(
                e * ((a - b) - shift[:, None]), 1
            )
        sum_a = sum_a * fade_a + tl.sum(e, 1)
        sum_b = sum_b * fade_b + tl.sum(tl.exp2((b - above_b[:, None]) * to_base_2), 1)
    most_a, most_b = _max_of_two(largest_a, largest_b)
    share_a, share_b = (
        tl.exp2((largest_a - _or_zero(most_a)) * to_base_2),
        tl.exp2((largest_b - _or_zero(most_b)) * to_base_2),
    )
    all_a, all_b = _sum_of_two(share_a * sum_a, share_b * sum_b)
    tl.store(FIELD, most_a)
    tl.store(FIELD + tiles, all_a)
    tl.store(FIELD + 2 * tiles, most_b)
    tl.store(FIELD + 3 * tiles, all_b)
    if KL:
        above_a, above_b = _or_zero(most_a), _or_zero(most_b)
        total += sum_a * (shift - (above_a - above_b))
        all_total, at_barred, elsewhere = (
            tl.sum(tl.where(share_a == 0, 0.0, share_a * total), 0),
            -INFINITY,
            most_a,
        )
        if (tl.abs(all_total) < MOST) == 0:  # some logit is -inf, or NaN
            total = tl.zeros([LANES], tl.float32)
            barred_a, open_a = (
                tl.full([LANES], -INFINITY, tl.float32),
                tl.full([LANES], -INFINITY, tl.float32),
            )
            for step in range(STEPS):
                a, b = (
                    _read(own, token + step * (LANES * WIDTH), vocabulary),
                    _read(other, token + step * (LANES * WIDTH), vocabulary),
                )
                e, barred = tl.exp2((a - above_a) * to_base_2), b == -INFINITY
                ratio = tl.where(barred, a - above_a, (a - b) - (above_a - above_b))
                total += tl.sum(tl.where(e > 0, e * ratio, 0.0), 1)
                barred_a = tl.maximum(barred_a, tl.max(tl.where(barred, a, -INFINITY), 1))
                open_a = tl.maximum(open_a, tl.max(tl.where(barred, -INFINITY, a), 1))
            all_total, at_barred, elsewhere = (
                tl.sum(total, 0),
                tl.max(barred_a, 0),
                tl.max(open_a, 0),
            )
        tl.store(FIELD + 4 * tiles, all_total)
        tl.store(FIELD + 5 * tiles, at_barred)
        tl.store(FIELD + 6 * tiles, elsewhere)


@triton.jit
def _combine(FIELD, ROW, tiles, inverse_temperature, KL: tl.constexpr, TILES: tl.constexpr):
    """The fields of a row from those of its tiles.  A row of -inf only makes NaN, as it does on the CPU."""
    to_base_2 = LOG2_E * inverse_temperature
    largest_as, sum_as = (
        _fields(FIELD, tiles, -INFINITY, TILES),
        _fields(FIELD + tiles, tiles, 0.0, TILES),
    )
    largest_bs, sum_bs = (
        _fields(FIELD + 2 * tiles, tiles, -INFINITY, TILES),
        _fields(FIELD + 3 * tiles, tiles, 0.0, TILES),
    )
    largest_a, largest_b = tl.max(largest_as, 0), tl.max(largest_bs, 0)
    share = tl.exp2((largest_as - largest_a) * to_base_2)
    sum_a, sum_b = (
        tl.sum(share * sum_as, 0),
        tl.sum(tl.exp2((largest_bs - largest_b) * to_base_2) * sum_bs, 0),
    )
    logs = tl.log(
        sum_a / sum_b
    )  # near 0 where the models are close; each log alone would be rounded at its own size
    tl.store(ROW, largest_a)
    tl.store(ROW + 1, largest_b)
    tl.store(ROW + 2, 1.0 / sum_a)
    tl.store(ROW + 3, 1.0 / sum_b)
    tl.store(ROW + 4, logs)
    if KL:
        totals = _fields(FIELD + 4 * tiles, tiles, 0.0, TILES)
        turned = totals + sum_as * (
            (_or_zero(largest_as) - _or_zero(largest_bs)) - (largest_a - largest_b)
        )
        mean = (
            tl.sum(tl.where(share > 0, share * turned, 0.0), 0) / sum_a * inverse_temperature - logs
        )
        at_barred = tl.max(_fields(FIELD + 5 * tiles, tiles, -INFINITY, TILES), 0)
        elsewhere = tl.max(_fields(FIELD + 6 * tiles, tiles, -INFINITY, TILES), 0)
        infinite = (tl.exp2((at_barred - largest_a) * to_base_2) * (1.0 / sum_a) > 0) & (
            logs == logs
        )
        beyond = tl.exp2((elsewhere - largest_a) * to_base_2) * (1.0 / sum_a) > 0
        turned = totals + sum_as * (_or_zero(largest_as) - largest_a)
        tl.store(ROW + 5, tl.where(infinite, INFINITY, mean))
        tl.store(ROW + 6, tl.where(infinite, tl.where(beyond, 1.0, 2.0), 0.0))
        tl.store(ROW + 7, tl.sum(tl.where(share > 0, share * turned, 0.0), 0) / sum_a)


@triton.jit
def _fields(FIELD, tiles, other, TILES: tl.constexpr):
    each = tl.arange(0, TILES)
    return tl.load(FIELD + each, mask=each < tiles, other=other, cache_modifier=".cg")


@triton.jit
def _total(FIELD, tiles, TILES: tl.constexpr):
    return tl.sum(_fields(FIELD, tiles, 0.0, TILES), 0)


@triton.jit
def _number(FIELD):
    return tl.load(FIELD, cache_modifier=".cg")


@triton.jit
def _finish_kl(
    own, other, out, ROW, tile, token, vocabulary, scale, inverse_temperature,
    OBJECTIVE: tl.constexpr, WRITE: tl.constexpr, LANES: tl.constexpr, WIDTH: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """Last stage of the KLs: writes a tile of the gradient and returns the tile's part of the value."""
    to_base_2 = LOG2_E * inverse_temperature
    largest_a, largest_b, inverse_a, inverse_b, logs = (
        _number(ROW),
        _number(ROW + 1),
        _number(ROW + 2),
        _number(ROW + 3),
        _number(ROW + 4),
    )
    mean, kind, entropy = _number(ROW + 5), _number(ROW + 6), _number(ROW + 7)
    shift, bent = largest_a - largest_b, tl.zeros([LANES], tl.float32)
    small = mean < NEAR_ZERO
    for step in range(STEPS):
        at = token + step * (LANES * WIDTH)
        a, b = _read(own, at, vocabulary), _read(other, at, vocabulary)
        mine = tl.exp2((a - largest_a) * to_base_2) * inverse_a
        ratio = ((a - b) - shift) * inverse_temperature - logs  # log own/other
        if small:
            bent += tl.sum(
                _bregman(
                    mine,
                    _clamp(ratio, LARGE, logs),
                    tl.exp2((b - largest_b) * to_base_2) * inverse_b,
                ),
                1,
            )
        if WRITE:
            if OBJECTIVE == "reverse_kl":
                if kind == 0:
                    gradient = tl.where(mine == 0, 0.0, mine * (ratio - mean))
                elif kind == 1:  # as in losses._centred
                    gradient = tl.where(
                        mine > 0, tl.where(b == -INFINITY, INFINITY, -INFINITY), 0.0
                    )
                else:  # the gradient of the sum of p log p
                    gradient = tl.where(
                        mine > 0, mine * ((a - largest_a) - entropy) * inverse_temperature, 0.0
                    )
            else:  # where they are close p - q would lose its digits
                yours = tl.exp2((b - largest_b) * to_base_2) * inverse_b
                gradient = tl.where(tl.abs(ratio) < 0.5, -yours * _expm1(ratio), yours - mine)
            tl.store(out + at, (gradient * scale).to(out.dtype.element_ty), mask=at < vocabulary)
    part = tl.where(tile == 0, mean, 0.0)
    if small:
        part = tl.sum(bent, 0)
    return part


@triton.jit
def _compare(a, b, ROW, inverse_temperature):
    """p, q and log p/q, bounded as in losses._bounded; where both models bar a token p and q are 0."""
    to_base_2 = LOG2_E * inverse_temperature
    largest_a, largest_b = _number(ROW), _number(ROW + 1)
    p, q = (
        tl.exp2((a - largest_a) * to_base_2) * _number(ROW + 2),
        tl.exp2((b - largest_b) * to_base_2) * _number(ROW + 3),
    )
    logs = _number(ROW + 4)
    return (
        p,
        q,
        _clamp(((a - b) - (largest_a - largest_b)) * inverse_temperature - logs, BOUND, logs),
    )


@triton.jit
def _to_mixture(d, mixing, rest, OBJECTIVE: tl.constexpr):
    """The log of a model over the mixture M, and the gradient before it is centred (for the JSD, before 1 - beta too)."""
    if OBJECTIVE == "generalized_jsd":  # M = (1 - beta) p + beta q
        ratio = -_log_share(mixing, rest, -d)[0]  # log p/M
        g = ratio
    elif OBJECTIVE == "skewed_forward_kl":  # M = skew q + (1 - skew) p
        log, growth, share = _log_share(rest, mixing, d)
        ratio = -log  # log q/M
        g = rest * rest * growth / share  # (1 - skew)^2 (p - q)/M
    else:  # M = skew p + (1 - skew) q
        log, growth, share = _log_share(rest, mixing, -d)
        ratio = -log  # log p/M
        g = ratio + mixing * rest * growth / share  # log p/M - skew p/M, up to a constant
    return ratio, g


@triton.jit
def _moments(
    own, other, FIELD, ROW, token, vocabulary, tiles, mixing, rest, inverse_temperature,
    OBJECTIVE: tl.constexpr, LANES: tl.constexpr, WIDTH: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """Second stage of the mixtures: the sums of the value and of p * g, over the first fields of the tile, which the row has taken up."""
    value, mean = tl.zeros([LANES], tl.float32), tl.zeros([LANES], tl.float32)
    for step in range(STEPS):
        at = token + step * (LANES * WIDTH)
        p, q, d = _compare(
            _read(own, at, vocabulary), _read(other, at, vocabulary), ROW, inverse_temperature
        )
        ratio, g = _to_mixture(d, mixing, rest, OBJECTIVE)
        mean += tl.sum(p * g, 1)
        if OBJECTIVE == "generalized_jsd":
            value += tl.sum(mixing * q * (ratio - d) + rest * p * ratio, 1)
        elif OBJECTIVE == "skewed_forward_kl":
            value += tl.sum(q * ratio, 1)
        else:
            value += tl.sum(p * ratio, 1)
    all_value, all_mean = _sum_of_two(value, mean)
    tl.store(FIELD, all_value)
    tl.store(FIELD + tiles, all_mean)


@triton.jit
def _finish_mixture(
    own, other, out, ROW, tile, token, vocabulary, scale, mixing, rest, inverse_temperature,
    OBJECTIVE: tl.constexpr, WRITE: tl.constexpr, LANES: tl.constexpr, WIDTH: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """Last stage of the mixtures."""
    value, mean, bent = _number(ROW + 5), _number(ROW + 6), tl.zeros([LANES], tl.float32)
    small = value < NEAR_ZERO
    if OBJECTIVE == "generalized_jsd":
        scale *= rest
    for step in range(STEPS):
        at = token + step * (LANES * WIDTH)
        p, q, d = _compare(
            _read(own, at, vocabulary), _read(other, at, vocabulary), ROW, inverse_temperature
        )
        ratio, g = _to_mixture(d, mixing, rest, OBJECTIVE)
        if small:
            if OBJECTIVE == "generalized_jsd":
                mixture = p + mixing * (q - p)
                to_q = -_log_share(rest, mixing, d)[0]
                bent += tl.sum(
                    mixing * _bregman(q, to_q, mixture) + rest * _bregman(p, ratio, mixture), 1
                )
            elif OBJECTIVE == "skewed_forward_kl":
                bent += tl.sum(_bregman(q, ratio, p + mixing * (q - p)), 1)
            else:
                bent += tl.sum(_bregman(p, ratio, q + mixing * (p - q)), 1)
        if WRITE:
            tl.store(
                out + at, (p * (g - mean) * scale).to(out.dtype.element_ty), mask=at < vocabulary
            )
    part = tl.where(tile == 0, value, 0.0)
    if small:
        part = tl.sum(bent, 0)
    return part


# --- functions of one number -------------------------------------------------------------


@triton.jit
def _max_of_two(a, b):
    """The largest of each, threads waiting for each other once."""
    return tl.split(tl.max(tl.join(a, b), 0))


@triton.jit
def _sum_of_two(a, b):
    return tl.split(tl.sum(tl.join(a, b), 0))


@triton.jit
def _clamp(x, bound, logs):
    """x within +-bound; for NaN, the log ratio of a token that both models bar, 0, but NaN in a row whose normalisers are."""
    return tl.where(x == x, tl.minimum(tl.maximum(x, -bound), bound), logs - logs)


@triton.jit
def _bregman(p, ratio, other):
    """p * ratio + other - p >= 0 from ratio = log p/other, as in losses._divergence."""
    r = tl.where(tl.abs(ratio) < 0.5, ratio, 0.0)
    series = (
        r
        * r
        * (
            0.5
            + r
            * (
                -1 / 6
                + r * (1 / 24 + r * (-1 / 120 + r * (1 / 720 + r * (-1 / 5040 + r * (1 / 40320)))))
            )
        )
    )
    bent = p * tl.where(tl.abs(ratio) < 0.5, series, ratio + (tl.exp2(-ratio * LOG2_E) - 1))
    return tl.where(ratio < FAR_BELOW, p * (ratio - 1) + other, bent)


@triton.jit
def _expm1(x):
    """exp(x) - 1 to 2e-7 relative."""
    series = x * (
        1
        + x
        * (
            1 / 2
            + x
            * (
                1 / 6
                + x * (1 / 24 + x * (1 / 120 + x * (1 / 720 + x * (1 / 5040 + x * (1 / 40320)))))
            )
        )
    )
    return tl.where(tl.abs(x) < 0.5, series, tl.exp2(x * LOG2_E) - 1)


@triton.jit
def _log_share(weight, rest, x):
    """The log of rest + weight * exp(x) to 2e-7 relative, exp(x) - 1, and what the log is of; weight + rest = 1."""
    growth = _expm1(x)
    away = weight * growth
    near = tl.abs(away) < 0.5
    share = tl.where(near, 1 + away, rest + weight * tl.exp2(x * LOG2_E))
    return (
        tl.log(share) + tl.where(near, away - (share - 1), 0.0),
        growth,
        share,
    )  # what 1 + away has lost of away is put back


@triton.jit
def _scale_kernel(X, FACTOR, elements, STEPS: tl.constexpr, BLOCK: tl.constexpr):
    factor = tl.load(FACTOR).to(tl.float32)
    if factor != 1:
        first = tl.program_id(0).to(tl.int64) * (STEPS * BLOCK) + tl.arange(0, BLOCK)
        for step in range(STEPS):
            at = first + step * BLOCK
            x = tl.load(X + at, mask=at < elements)
            tl.store(X + at, (x.to(tl.float32) * factor).to(X.dtype.element_ty), mask=at < elements)
