"""Functions of one number, or two, in Triton."""

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
FAR_BELOW = tl.constexpr(-30.0)  # terms.FAR_BELOW


@triton.jit
def max_of_two(a, b):
    """The largest of each, threads waiting for each other once."""
    return tl.split(tl.max(tl.join(a, b), 0))


@triton.jit
def sum_of_two(a, b):
    """The sum of each, likewise."""
    return tl.split(tl.sum(tl.join(a, b), 0))


@triton.jit
def clamp(x, bound, logs):
    """x within +-bound.

    NaN is the log ratio of a token that both models bar: 0, but in a row whose normalisers
    are NaN.
    """
    return tl.where(x == x, tl.minimum(tl.maximum(x, -bound), bound), logs - logs)


@triton.jit
def bregman(p, ratio, other):
    """p * ratio + other - p >= 0 from ratio = log p/other, as in terms.bregman."""
    r = tl.where(tl.abs(ratio) < 0.5, ratio, 0.0)
    tail = 1 / 24 + r * (-1 / 120 + r * (1 / 720 + r * (-1 / 5040 + r * (1 / 40320))))
    series = r * r * (0.5 + r * (-1 / 6 + r * tail))
    bent = p * tl.where(tl.abs(ratio) < 0.5, series, ratio + (tl.exp2(-ratio * LOG2_E) - 1))
    return tl.where(ratio < FAR_BELOW, p * (ratio - 1) + other, bent)


@triton.jit
def expm1(x):
    """exp(x) - 1 to 2e-7 relative."""
    tail = 1 / 24 + x * (1 / 120 + x * (1 / 720 + x * (1 / 5040 + x * (1 / 40320))))
    series = x * (1 + x * (1 / 2 + x * (1 / 6 + x * tail)))
    return tl.where(tl.abs(x) < 0.5, series, tl.exp2(x * LOG2_E) - 1)


@triton.jit
def log_share(weight, rest, x):
    """The log of rest + weight * exp(x) to 2e-7 relative, exp(x) - 1, and what the log is of.

    weight + rest = 1.
    """
    growth = expm1(x)
    away = weight * growth
    near = tl.abs(away) < 0.5
    share = tl.where(near, 1 + away, rest + weight * tl.exp2(x * LOG2_E))
    lost = tl.where(near, away - (share - 1), 0.0)  # of away, where 1 was added to it
    return tl.log(share) + lost, growth, share
