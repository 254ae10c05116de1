"""The first stage of the divergences' kernel: what a row's normalisers follow from."""

import triton
import triton.language as tl

from opd_toy.lm.kernels.numbers import LOG2_E, max_of_two, sum_of_two

INFINITY = tl.constexpr(float("inf"))
MOST = tl.constexpr(3e38)

# Fields of a tile: 0, 1 the largest own logit and the sum of exp(logit - largest); 2, 3 the
# same of the other model; 4 the sum of exp(own - largest) * ((own - other) - (largest own -
# largest other)); 5, 6 the largest own logit where the other model bars the token, and
# elsewhere.  Fields of a row: 0, 1 the largest logits; 2, 3 one over the sums; 4 the log of
# the ratio of the sums; 5 the value; 6 what centres the gradient, or for a KL 0, or 1 where
# it is infinite, or 2 where it is and all of own lies on barred tokens; 7 then sum of own *
# log own, up to its normaliser.


@triton.jit
def _read(LOGITS, token, vocabulary):
    """In float32; beyond the vocabulary both models bar the token."""
    return tl.load(LOGITS + token, mask=token < vocabulary, other=-INFINITY).to(tl.float32)


@triton.jit
def _or_zero(largest):
    """What to subtract from logits so that exp is 0, and not NaN, where all of them are -inf."""
    return tl.where(largest == -INFINITY, 0.0, largest)


@triton.jit
def _statistics(
    own, other, FIELD, token, vocabulary, tiles, to_base_2,
    KL: tl.constexpr, LANES: tl.constexpr, WIDTH: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """First stage: the fields of a tile."""
    largest_a = tl.full([LANES], -INFINITY, tl.float32)
    largest_b = tl.full([LANES], -INFINITY, tl.float32)
    sum_a, sum_b = tl.zeros([LANES], tl.float32), tl.zeros([LANES], tl.float32)
    total, shift = tl.zeros([LANES], tl.float32), tl.zeros([LANES], tl.float32)
    next_a = tl.load(own + token, mask=token < vocabulary, other=-INFINITY)
    next_b = tl.load(other + token, mask=token < vocabulary, other=-INFINITY)
    for step in range(STEPS):
        a, b = next_a.to(tl.float32), next_b.to(tl.float32)
        at = token + (step + 1) * (LANES * WIDTH)  # on its way while this step is computed
        ahead = (at < vocabulary) & (step + 1 < STEPS)
        next_a = tl.load(own + at, mask=ahead, other=-INFINITY)
        next_b = tl.load(other + at, mask=ahead, other=-INFINITY)
        before_a, before_b = largest_a, largest_b
        largest_a = tl.maximum(largest_a, tl.max(a, 1))
        largest_b = tl.maximum(largest_b, tl.max(b, 1))
        above_a, above_b = _or_zero(largest_a), _or_zero(largest_b)
        fade_a = tl.exp2((before_a - above_a) * to_base_2)
        fade_b = tl.exp2((before_b - above_b) * to_base_2)
        e = tl.exp2((a - above_a[:, None]) * to_base_2)
        if KL:
            before = shift
            shift = above_a - above_b
            here = tl.sum(e * ((a - b) - shift[:, None]), 1)
            total = (total + sum_a * (before - shift)) * fade_a + here
        sum_a = sum_a * fade_a + tl.sum(e, 1)
        sum_b = sum_b * fade_b + tl.sum(tl.exp2((b - above_b[:, None]) * to_base_2), 1)
    most_a, most_b = max_of_two(largest_a, largest_b)
    share_a = tl.exp2((largest_a - _or_zero(most_a)) * to_base_2)
    share_b = tl.exp2((largest_b - _or_zero(most_b)) * to_base_2)
    all_a, all_b = sum_of_two(share_a * sum_a, share_b * sum_b)
    tl.store(FIELD, most_a)
    tl.store(FIELD + tiles, all_a)
    tl.store(FIELD + 2 * tiles, most_b)
    tl.store(FIELD + 3 * tiles, all_b)
    if KL:
        above_a, above_b = _or_zero(most_a), _or_zero(most_b)
        total += sum_a * (shift - (above_a - above_b))
        all_total = tl.sum(tl.where(share_a == 0, 0.0, share_a * total), 0)
        at_barred, elsewhere = -INFINITY, most_a
        if (tl.abs(all_total) < MOST) == 0:  # some logit is -inf, or NaN
            total = tl.zeros([LANES], tl.float32)
            barred_a = tl.full([LANES], -INFINITY, tl.float32)
            open_a = tl.full([LANES], -INFINITY, tl.float32)
            for step in range(STEPS):
                a = _read(own, token + step * (LANES * WIDTH), vocabulary)
                b = _read(other, token + step * (LANES * WIDTH), vocabulary)
                e, barred = tl.exp2((a - above_a) * to_base_2), b == -INFINITY
                ratio = tl.where(barred, a - above_a, (a - b) - (above_a - above_b))
                total += tl.sum(tl.where(e > 0, e * ratio, 0.0), 1)
                barred_a = tl.maximum(barred_a, tl.max(tl.where(barred, a, -INFINITY), 1))
                open_a = tl.maximum(open_a, tl.max(tl.where(barred, -INFINITY, a), 1))
            all_total = tl.sum(total, 0)
            at_barred, elsewhere = tl.max(barred_a, 0), tl.max(open_a, 0)
        tl.store(FIELD + 4 * tiles, all_total)
        tl.store(FIELD + 5 * tiles, at_barred)
        tl.store(FIELD + 6 * tiles, elsewhere)


@triton.jit
def _combine(FIELD, ROW, tiles, inverse_temperature, KL: tl.constexpr, TILES: tl.constexpr):
    """The fields of a row from those of its tiles.

    A row of -inf only makes NaN, as it does on the CPU.
    """
    to_base_2 = LOG2_E * inverse_temperature
    largest_as = _fields(FIELD, tiles, -INFINITY, TILES)
    sum_as = _fields(FIELD + tiles, tiles, 0.0, TILES)
    largest_bs = _fields(FIELD + 2 * tiles, tiles, -INFINITY, TILES)
    sum_bs = _fields(FIELD + 3 * tiles, tiles, 0.0, TILES)
    largest_a, largest_b = tl.max(largest_as, 0), tl.max(largest_bs, 0)
    share = tl.exp2((largest_as - largest_a) * to_base_2)
    sum_a = tl.sum(share * sum_as, 0)
    sum_b = tl.sum(tl.exp2((largest_bs - largest_b) * to_base_2) * sum_bs, 0)
    # Near 0 where the models are close; each log alone would be rounded at its own size.
    logs = tl.log(sum_a / sum_b)
    tl.store(ROW, largest_a)
    tl.store(ROW + 1, largest_b)
    tl.store(ROW + 2, 1.0 / sum_a)
    tl.store(ROW + 3, 1.0 / sum_b)
    tl.store(ROW + 4, logs)
    if KL:
        totals = _fields(FIELD + 4 * tiles, tiles, 0.0, TILES)
        shifts = (_or_zero(largest_as) - _or_zero(largest_bs)) - (largest_a - largest_b)
        turned = totals + sum_as * shifts
        total = tl.sum(tl.where(share > 0, share * turned, 0.0), 0)
        mean = total / sum_a * inverse_temperature - logs
        at_barred = tl.max(_fields(FIELD + 5 * tiles, tiles, -INFINITY, TILES), 0)
        elsewhere = tl.max(_fields(FIELD + 6 * tiles, tiles, -INFINITY, TILES), 0)
        on_barred = tl.exp2((at_barred - largest_a) * to_base_2) * (1.0 / sum_a) > 0
        infinite = on_barred & (logs == logs)
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
def _load(FIELD):
    return tl.load(FIELD, cache_modifier=".cg")
