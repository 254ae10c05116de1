"""Which tokens count, and by how much: masks, weights and the number a loss is divided by."""

import torch

from opd_toy.lm.checks import positive_normalizer, shaped, zero_or_one


def token_count(mask, *masks, group=None):
    """Valid tokens of ``mask`` and all ``masks``, on all ranks, over the number of ranks: a scalar.

    As ``normalizer`` of every micro-batch and rank it makes the accumulated gradient, which
    DDP averages over the ranks, that of the mean over all valid tokens.  Without
    ``torch.distributed`` there is one rank.  At least 1 token is counted.
    """
    masks = mask, *masks
    for index, each in enumerate(masks):
        zero_or_one("mask" if index == 0 else f"masks[{index - 1}]", each)
    count = sum((each != 0).sum() for each in masks).to(torch.float64)
    ranks = 1
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(count, group=group)
        ranks = torch.distributed.get_world_size(group)
    return count.clamp_min(1) / ranks


def token_scale(like, shape, mask, weights, normalizer):
    """Factor of each token (...): its weight over the normalizer, and 0 where masked."""
    for name, value in (("mask", mask), ("weights", weights)):
        if value is not None:
            shaped(name, value, shape)
    valid = valid_tokens(mask, shape, like.device)
    dtype = working_dtype(like)
    scale = valid.to(dtype)
    if weights is not None:
        scale = torch.where(valid, weights.detach().to(like.device, dtype), 0.0)
    if normalizer is None:
        return scale / valid.sum().clamp_min(1)
    normalizer = positive_normalizer(normalizer)
    if isinstance(normalizer, torch.Tensor):
        normalizer = normalizer.detach().to(like.device).reshape(())
    return scale / normalizer


def valid_tokens(mask, shape, device):
    """``mask`` as booleans (...)."""
    if mask is None:
        return torch.ones(shape, dtype=torch.bool, device=device)
    return zero_or_one("mask", shaped("mask", mask, shape)).to(device) != 0


def working_dtype(*tensors):
    """float64 if the first tensor is, else float32, whatever the model computes in."""
    return torch.float64 if tensors[0].dtype == torch.float64 else torch.float32
