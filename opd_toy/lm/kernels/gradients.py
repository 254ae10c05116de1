"""The later stages of the divergences' kernel: what the gradient is centred by, the gradient."""

import triton
import triton.language as tl

from opd_toy.lm.kernels.numbers import LOG2_E, bregman, clamp, expm1, log_share, sum_of_two
from opd_toy.lm.kernels.statistics import INFINITY, _load, _read

LARGE = tl.constexpr(1e30)  # in place of an infinite log ratio: 0 * 1e30 is 0
BOUND = tl.constexpr(62.1)  # terms.jsd_ratios
NEAR_ZERO = tl.constexpr(1e-2)  # divergences.NEAR_ZERO


@triton.jit
def _finish_kl(
    own, other, out, ROW, tile, token, vocabulary, scale, inverse_temperature,
    OBJECTIVE: tl.constexpr, WRITE: tl.constexpr,
    LANES: tl.constexpr, WIDTH: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """Last stage of the KLs: writes a tile of the gradient, returns its part of the value."""
    to_base_2 = LOG2_E * inverse_temperature
    largest_a, largest_b = _load(ROW), _load(ROW + 1)
    inverse_a, inverse_b, logs = _load(ROW + 2), _load(ROW + 3), _load(ROW + 4)
    mean, kind, entropy = _load(ROW + 5), _load(ROW + 6), _load(ROW + 7)
    shift, bent = largest_a - largest_b, tl.zeros([LANES], tl.float32)
    small = mean < NEAR_ZERO
    for step in range(STEPS):
        at = token + step * (LANES * WIDTH)
        a, b = _read(own, at, vocabulary), _read(other, at, vocabulary)
        mine = tl.exp2((a - largest_a) * to_base_2) * inverse_a
        ratio = ((a - b) - shift) * inverse_temperature - logs  # log own/other
        if small:
            yours = tl.exp2((b - largest_b) * to_base_2) * inverse_b
            bent += tl.sum(bregman(mine, clamp(ratio, LARGE, logs), yours), 1)
        if WRITE:
            if OBJECTIVE == "reverse_kl":
                if kind == 0:
                    gradient = tl.where(mine == 0, 0.0, mine * (ratio - mean))
                elif kind == 1:  # as in divergences._centred
                    infinite = tl.where(b == -INFINITY, INFINITY, -INFINITY)
                    gradient = tl.where(mine > 0, infinite, 0.0)
                else:  # the gradient of the sum of p log p
                    finite = mine * ((a - largest_a) - entropy) * inverse_temperature
                    gradient = tl.where(mine > 0, finite, 0.0)
            else:  # where they are close p - q would lose its digits
                yours = tl.exp2((b - largest_b) * to_base_2) * inverse_b
                gradient = tl.where(tl.abs(ratio) < 0.5, -yours * expm1(ratio), yours - mine)
            tl.store(out + at, (gradient * scale).to(out.dtype.element_ty), mask=at < vocabulary)
    part = tl.where(tile == 0, mean, 0.0)
    if small:
        part = tl.sum(bent, 0)
    return part


@triton.jit
def _compare(a, b, ROW, inverse_temperature):
    """p, q and log p/q, bounded as in terms.jsd_ratios.

    Where both models bar a token p and q are 0.
    """
    to_base_2 = LOG2_E * inverse_temperature
    largest_a, largest_b = _load(ROW), _load(ROW + 1)
    p = tl.exp2((a - largest_a) * to_base_2) * _load(ROW + 2)
    q = tl.exp2((b - largest_b) * to_base_2) * _load(ROW + 3)
    logs = _load(ROW + 4)
    ratio = ((a - b) - (largest_a - largest_b)) * inverse_temperature - logs
    return p, q, clamp(ratio, BOUND, logs)


@triton.jit
def _to_mixture(d, mixing, rest, OBJECTIVE: tl.constexpr):
    """The log of a model over the mixture M, and the gradient before it is centred.

    For the JSD that is before the factor 1 - beta, too.
    """
    if OBJECTIVE == "generalized_jsd":  # M = (1 - beta) p + beta q
        ratio = -log_share(mixing, rest, -d)[0]  # log p/M
        g = ratio
    elif OBJECTIVE == "skewed_forward_kl":  # M = skew q + (1 - skew) p
        log, growth, share = log_share(rest, mixing, d)
        ratio = -log  # log q/M
        g = rest * rest * growth / share  # (1 - skew)^2 (p - q)/M
    else:  # M = skew p + (1 - skew) q
        log, growth, share = log_share(rest, mixing, -d)
        ratio = -log  # log p/M
        g = ratio + mixing * rest * growth / share  # log p/M - skew p/M, up to a constant
    return ratio, g


@triton.jit
def _moments(
    own, other, FIELD, ROW, token, vocabulary, tiles, mixing, rest, inverse_temperature,
    OBJECTIVE: tl.constexpr, LANES: tl.constexpr, WIDTH: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """Second stage of the mixtures: the sums of the value and of p * g.

    They take the place of the tile's first fields, which the row has taken up.
    """
    value, mean = tl.zeros([LANES], tl.float32), tl.zeros([LANES], tl.float32)
    for step in range(STEPS):
        at = token + step * (LANES * WIDTH)
        a, b = _read(own, at, vocabulary), _read(other, at, vocabulary)
        p, q, d = _compare(a, b, ROW, inverse_temperature)
        ratio, g = _to_mixture(d, mixing, rest, OBJECTIVE)
        mean += tl.sum(p * g, 1)
        if OBJECTIVE == "generalized_jsd":
            value += tl.sum(mixing * q * (ratio - d) + rest * p * ratio, 1)
        elif OBJECTIVE == "skewed_forward_kl":
            value += tl.sum(q * ratio, 1)
        else:
            value += tl.sum(p * ratio, 1)
    all_value, all_mean = sum_of_two(value, mean)
    tl.store(FIELD, all_value)
    tl.store(FIELD + tiles, all_mean)


@triton.jit
def _finish_mixture(
    own, other, out, ROW, tile, token, vocabulary, scale, mixing, rest, inverse_temperature,
    OBJECTIVE: tl.constexpr, WRITE: tl.constexpr,
    LANES: tl.constexpr, WIDTH: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """Last stage of the mixtures."""
    value, mean, bent = _load(ROW + 5), _load(ROW + 6), tl.zeros([LANES], tl.float32)
    small = value < NEAR_ZERO
    if OBJECTIVE == "generalized_jsd":
        scale *= rest
    for step in range(STEPS):
        at = token + step * (LANES * WIDTH)
        a, b = _read(own, at, vocabulary), _read(other, at, vocabulary)
        p, q, d = _compare(a, b, ROW, inverse_temperature)
        ratio, g = _to_mixture(d, mixing, rest, OBJECTIVE)
        if small:
            if OBJECTIVE == "generalized_jsd":
                mixture = p + mixing * (q - p)
                to_q = -log_share(rest, mixing, d)[0]
                of_q, of_p = bregman(q, to_q, mixture), bregman(p, ratio, mixture)
                bent += tl.sum(mixing * of_q + rest * of_p, 1)
            elif OBJECTIVE == "skewed_forward_kl":
                bent += tl.sum(bregman(q, ratio, p + mixing * (q - p)), 1)
            else:
                bent += tl.sum(bregman(p, ratio, q + mixing * (p - q)), 1)
        if WRITE:
            gradient = p * (g - mean) * scale
            tl.store(out + at, gradient.to(out.dtype.element_ty), mask=at < vocabulary)
    part = tl.where(tile == 0, value, 0.0)
    if small:
        part = tl.sum(bent, 0)
    return part
