"""Gradients of a stack of policies, written out: returns, the chain rule, their variance.

Shapes as in ``opd_toy.control.task``: R runs, B trajectories, T steps, P parameters.
"""

import torch

from opd_toy.control.policy import gaussian_log_density, pack, sigmoid_form, tanh_gradient
from opd_toy.control.task import HIDDEN, INPUTS, MICRO_BATCHES, OUTPUTS


def discounted_return(costs, gamma):
    """G_t = sum_{u >= t} gamma^(u-t) r_u for costs (T, R, B) and gamma (R,)."""
    returns = costs.clone()
    backwards = returns.unbind()[::-1]
    for after, here in zip(backwards, backwards[1:]):
        here.addcmul_(gamma[:, None], after)
    return returns


@torch.no_grad()
def distillation_signal(rollout, gamma, teacher_mean, teacher_log_std):
    """G_t^(gamma) d log p(a_t|s_t) / d (mean, raw log std), (T, R, B, 2)."""
    costs = rollout.log_density - gaussian_log_density(
        rollout.actions, teacher_mean, teacher_log_std
    )
    return discounted_return(costs, gamma)[..., None] * rollout.score


@torch.no_grad()
def backward(parameters, rollout, signal, micro_batches=MICRO_BATCHES):
    """Mean gradient of the batch (R, P), and of the output layer by micro-batch (R, M, 122).

    ``signal`` (T, R, B, 2) is what arrives at the network's output, 0 where the bounds stop it.
    Trajectories b M // B = m make up micro-batch m.
    """
    _, runs, batch, _ = signal.shape
    rows = batch // micro_batches
    _, _, w2, _, w3, _ = (part.mT.contiguous() for part in sigmoid_form(parameters))
    shapes = (
        (runs, INPUTS + 1, HIDDEN),
        (runs, HIDDEN, HIDDEN),
        (runs, 1, HIDDEN),
        (runs * micro_batches, OUTPUTS, HIDDEN),
    )
    from_inputs, from_first, bias, from_second = (signal.new_zeros(shape) for shape in shapes)
    at_first, at_second = signal.new_empty(2, runs, batch, HIDDEN)
    ones, through = signal.new_ones(runs, 1, batch), torch.ops.aten.sigmoid_backward.grad_input
    first, second = rollout.hidden
    by_micro_batch = lambda x: x.flatten(1, 2).unflatten(1, (-1, rows))  # (T, R M, B / M, ...)
    own_signal, own_second = by_micro_batch(signal), by_micro_batch(second)
    each = signal, own_signal.mT, rollout.inputs.mT, first, first.mT, second, own_second
    # one step at a time, as that fits the processor's cache
    for arriving, own_arriving, inputs, first, across, second, own_second in zip(
        *(x.unbind() for x in each)
    ):
        from_second.baddbmm_(own_arriving, own_second)
        through(torch.bmm(arriving, w3, out=at_second), second, grad_input=at_second)
        from_first.baddbmm_(across, at_second)
        bias.baddbmm_(ones, at_second)
        through(torch.bmm(at_second, w2, out=at_first), first, grad_input=at_first)
        from_inputs.baddbmm_(inputs, at_first)
    weights = from_second.unflatten(0, (runs, micro_batches)).mT  # (R, M, H, 2)
    biases = signal.unflatten(2, (micro_batches, rows)).sum((0, 3))[:, :, None]  # (R, M, 1, 2)
    whole = tanh_gradient(
        from_inputs[:, :INPUTS],
        from_inputs[:, INPUTS:],
        from_first,
        bias,
        weights.sum(1),
        biases.sum(1),
    )
    micro = torch.cat([2 * weights - biases, biases], dim=2).flatten(2)
    return pack(whole) / batch, micro / rows


def micro_batch_variance(gradients):
    """(1/M) sum_m |g_m - mean|^2, (R,), for gradients (R, M, P)."""
    return ((gradients - gradients.mean(1, keepdim=True)) ** 2).sum(-1).mean(1)
