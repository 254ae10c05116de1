"""The divergences' kernel: who does which stage of which tile, see ``opd_toy.lm.kernels``."""

import triton
import triton.language as tl

from opd_toy.lm.kernels.gradients import _finish_kl, _finish_mixture, _moments
from opd_toy.lm.kernels.numbers import LOG2_E
from opd_toy.lm.kernels.statistics import _combine, _statistics, _total

TILE_FIELDS_COUNT = tl.constexpr(7)
ROW_FIELDS_COUNT = tl.constexpr(8)

# A program works on LANES threads' adjacent WIDTH logits at a time and keeps its sums apart
# for each thread, so that threads need each other only at the end of a tile.  ``own`` is the
# model that weights the log ratio, ``other`` the other one.


@triton.jit(do_not_specialize=["start", "rows", "tiles", "lag", "inner"])
def _divergence_kernel(
    OWN, OTHER, OUT, FACTOR, COUNTERS, TILE_FIELDS, ROW_FIELDS, VALUES,
    start, rows, vocabulary, tiles, lag, inner,
    own_outer, own_inner, other_outer, other_inner, out_outer, out_inner,
    mixing, rest, inverse_temperature,
    OBJECTIVE: tl.constexpr, WRITE: tl.constexpr,
    LANES: tl.constexpr, WIDTH: tl.constexpr, STEPS: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """All stages, see ``opd_toy.lm.kernels``.

    FACTOR (start + rows,), COUNTERS (1 + (stages - 1) * rows,) of zeros, TILE_FIELDS (rows, 7,
    tiles), ROW_FIELDS (rows, 8), VALUES (rows, tiles).
    """
    KL: tl.constexpr = OBJECTIVE == "reverse_kl" or OBJECTIVE == "forward_kl"
    LAST: tl.constexpr = 1 if KL else 2  # stages before the last
    number = tl.atomic_add(COUNTERS, 1, sem="relaxed")
    tile = number % tiles
    first_row = number // tiles
    last_row = first_row - LAST * lag
    first_factor = tl.load(FACTOR + start + first_row, mask=first_row < rows, other=0.0)
    has_last = (last_row >= 0) & (last_row < rows)
    last_factor = tl.load(FACTOR + start + last_row, mask=has_last, other=0.0)
    token = (
        tile * (LANES * WIDTH * STEPS)
        + tl.arange(0, LANES)[:, None] * WIDTH
        + tl.arange(0, WIDTH)[None, :]
    )
    if first_factor != 0:
        own = _row(OWN, start + first_row, inner, own_outer, own_inner)
        other = _row(OTHER, start + first_row, inner, other_outer, other_inner)
        fields = TILE_FIELDS + first_row * TILE_FIELDS_COUNT * tiles
        to_base_2 = LOG2_E * inverse_temperature
        _statistics(
            own, other, fields + tile, token, vocabulary, tiles, to_base_2, KL, LANES, WIDTH, STEPS
        )
        if tl.atomic_add(COUNTERS + 1 + first_row, 1, sem="acq_rel") == tiles - 1:
            row_fields = ROW_FIELDS + first_row * ROW_FIELDS_COUNT
            _combine(fields, row_fields, tiles, inverse_temperature, KL, TILES)
            tl.atomic_add(COUNTERS + 1 + first_row, 1, sem="release")
    if not KL:
        row = first_row - lag
        if tl.load(FACTOR + start + row, mask=(row >= 0) & (row < rows), other=0.0) != 0:
            own = _row(OWN, start + row, inner, own_outer, own_inner)
            other = _row(OTHER, start + row, inner, other_outer, other_inner)
            fields = TILE_FIELDS + row * TILE_FIELDS_COUNT * tiles
            row_fields = ROW_FIELDS + row * ROW_FIELDS_COUNT
            _wait(COUNTERS + 1 + row, tiles)
            _moments(
                own, other, fields + tile, row_fields, token, vocabulary, tiles,
                mixing, rest, inverse_temperature, OBJECTIVE, LANES, WIDTH, STEPS,
            )  # fmt: skip
            if tl.atomic_add(COUNTERS + 1 + rows + row, 1, sem="acq_rel") == tiles - 1:
                tl.store(row_fields + 5, _total(fields, tiles, TILES))
                tl.store(row_fields + 6, _total(fields + tiles, tiles, TILES))
                tl.atomic_add(COUNTERS + 1 + rows + row, 1, sem="release")
    if has_last:
        out = _row(OUT, start + last_row, inner, out_outer, out_inner)
        value = 0.0
        if last_factor != 0:
            own = _row(OWN, start + last_row, inner, own_outer, own_inner)
            other = _row(OTHER, start + last_row, inner, other_outer, other_inner)
            fields = ROW_FIELDS + last_row * ROW_FIELDS_COUNT
            scale = last_factor * inverse_temperature
            _wait(COUNTERS + 1 + (LAST - 1) * rows + last_row, tiles)
            if KL:
                value = _finish_kl(
                    own, other, out, fields, tile, token, vocabulary, scale,
                    inverse_temperature, OBJECTIVE, WRITE, LANES, WIDTH, STEPS,
                )  # fmt: skip
            else:
                value = _finish_mixture(
                    own, other, out, fields, tile, token, vocabulary, scale, mixing, rest,
                    inverse_temperature, OBJECTIVE, WRITE, LANES, WIDTH, STEPS,
                )  # fmt: skip
            value *= last_factor
        elif WRITE:
            for step in range(STEPS):
                at = token + step * (LANES * WIDTH)
                zeros = tl.zeros([LANES, WIDTH], OUT.dtype.element_ty)
                tl.store(out + at, zeros, mask=at < vocabulary)
        tl.store(VALUES + last_row * tiles + tile, value)


@triton.jit
def _row(LOGITS, row, inner, outer_stride, inner_stride):
    outer, within = row // inner, row % inner
    return LOGITS + outer.to(tl.int64) * outer_stride + within.to(tl.int64) * inner_stride


@triton.jit
def _wait(COUNTER, tiles):
    """Wait until all tiles of a row have arrived and the last has combined what they found.

    All that they wrote can then be read.
    """
    arrived = tl.atomic_add(COUNTER, 0, sem="acquire")
    while arrived <= tiles:
        arrived = tl.atomic_add(COUNTER, 0, sem="acquire")


@triton.jit
def _scale_kernel(X, FACTOR, elements, STEPS: tl.constexpr, BLOCK: tl.constexpr):
    factor = tl.load(FACTOR).to(tl.float32)
    if factor != 1:
        first = tl.program_id(0).to(tl.int64) * (STEPS * BLOCK) + tl.arange(0, BLOCK)
        for step in range(STEPS):
            at = first + step * BLOCK
            x = tl.load(X + at, mask=at < elements)
            scaled = x.to(tl.float32) * factor
            tl.store(X + at, scaled.to(X.dtype.element_ty), mask=at < elements)
