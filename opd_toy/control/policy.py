"""The policies of the control study: a stack of small networks, and what they draw.

Shapes as in ``opd_toy.control.task``: R runs, B trajectories, T steps, H hidden units.
"""

import math
from typing import NamedTuple

import numpy as np
import torch

from opd_toy.control.task import (
    HIDDEN,
    IDENTITIES,
    INITIAL,
    INPUTS,
    LAYERS,
    OUTPUTS,
    SHAPES,
    STARTS,
)


def initial_parameters(seeds, like):
    """(R, P): weights and biases uniform within 1/sqrt(fan-in)."""
    rows = {}
    for seed in set(seeds):
        random = np.random.default_rng([seed, INITIAL])
        layers = [
            random.uniform(-1, 1, shape) / math.sqrt(fan_in)
            for fan_in, width in LAYERS
            for shape in ((fan_in, width), (1, width))
        ]
        rows[seed] = np.concatenate([layer.ravel() for layer in layers])
    return torch.from_numpy(np.stack([rows[seed] for seed in seeds])).to(like)


def unpack(parameters):
    """Views of (R, P): the weights and biases of the three layers, shapes (R, *SHAPES[i])."""
    parts = parameters.split([a * b for a, b in SHAPES], dim=-1)
    return [part.unflatten(-1, shape) for part, shape in zip(parts, SHAPES)]


def pack(layers):
    """The inverse of ``unpack``."""
    return torch.cat([part.flatten(1) for part in layers], dim=1)


def sigmoid_form(parameters):
    """The same network's layers where its hidden units are sigmoid(2x) = (tanh x + 1) / 2.

    A linear map of the parameters; on a processor a sigmoid takes a fraction of a tanh's time.
    """
    w1, b1, w2, b2, w3, b3 = unpack(parameters)
    return [
        2 * w1,
        2 * b1,
        4 * w2,
        2 * (b2 - w2.sum(1, keepdim=True)),
        2 * w3,
        b3 - w3.sum(1, keepdim=True),
    ]


def tanh_gradient(w1, b1, w2, b2, w3, b3):
    """The gradient in the tanh network's layers from that in the sigmoid form's.

    The transpose of ``sigmoid_form``'s map.
    """
    return [2 * w1, 2 * b1, 4 * w2 - 2 * b2, 2 * b2, 2 * w3 - b3, b3]


def network_inputs(task, batch, length, like):
    """(T, R, B, 4): task identity, position (left at 0), normalised time, 1.

    ``task`` (R,): 0 left or 1 right.
    """
    inputs = like.new_zeros(length, len(task), batch, INPUTS + 1)
    inputs[..., 0] = inputs.new_tensor(IDENTITIES)[task][:, None]
    inputs[..., 2] = (torch.arange(length, dtype=inputs.dtype, device=inputs.device) / length)[
        :, None, None
    ]
    inputs[..., 3] = 1
    return inputs


class Rollout(NamedTuple):
    """Trajectories of a stack and what the networks made of them, time first."""

    positions: torch.Tensor  # (T + 1, R, B)
    noise: torch.Tensor  # (T, R, B): a = mean + std * noise
    inputs: torch.Tensor  # (T, R, B, 4): task identity, position, normalised time, 1
    hidden: torch.Tensor  # (2, T, R, B, H): both hidden layers of the sigmoid form
    mean: torch.Tensor  # (T, R, B)
    log_std: torch.Tensor  # (T, R, B), after the bounds
    inside: torch.Tensor  # (T, R, B): whether the raw log std lies within its bounds

    @property
    def actions(self):
        return self.positions.diff(dim=0)

    @property
    def score(self):
        """d log p / d (mean, raw log std), (T, R, B, 2)."""
        of_mean = self.noise * (-self.log_std).exp()
        of_log_std = (self.noise**2 - 1) * self.inside
        return torch.stack([of_mean, of_log_std], dim=-1)

    @property
    def log_density(self):
        """log p(a_t|s_t), (T, R, B)."""
        return -(self.noise**2) / 2 - self.log_std - math.log(2 * math.pi) / 2


@torch.no_grad()
def roll_out(parameters, lower, upper, task, noise, hidden=None):
    """Draw B trajectories a run.  ``task`` (R,), 0 left or 1 right; ``noise`` (T, R, B).

    ``hidden`` (2, T, R, B, H) is written over if given: fresh memory costs as much as a layer.
    """
    length, runs, batch = noise.shape
    w1, b1, w2, b2, w3, b3 = sigmoid_form(parameters)
    hidden = noise.new_empty(2, length, runs, batch, HIDDEN) if hidden is None else hidden
    inputs = network_inputs(task, batch, length, noise)
    # (T, R, 1, H): all of the first layer that does not wait for the position
    fixed = inputs[:, :, :1] @ torch.cat([w1, b1], dim=1)
    of_position = w1[:, 1:2]
    w3, b3 = w3.mT.contiguous(), b3.mT  # the narrow layer is several times faster transposed
    positions = noise.new_empty(length + 1, runs, batch)
    raw = noise.new_empty(length, runs, OUTPUTS, batch)
    positions[0] = noise.new_tensor(STARTS)[task][:, None]
    lower, upper = lower[:, None], upper[:, None]
    each = (
        positions[:-1],
        positions[:-1, ..., None],
        positions[1:],
        noise,
        fixed,
        hidden[0],
        hidden[1],
        hidden[1].mT,
        raw,
        raw[:, :, 0],
        raw[:, :, 1],
    )
    for position, column, after, draw, fixed, first, second, across, out, mean, log_std in zip(
        *(x.unbind() for x in each)
    ):
        torch.addcmul(fixed, column, of_position, out=first).sigmoid_()
        torch.baddbmm(b2, first, w2, out=second).sigmoid_()
        torch.baddbmm(b3, w3, across, out=out)
        torch.add(position, mean, out=after).addcmul_(log_std.clamp(lower, upper).exp_(), draw)
    inputs[..., 1] = positions[:-1]
    mean, log_std = raw.unbind(2)
    inside = (log_std >= lower) & (log_std <= upper)
    return Rollout(positions, noise, inputs, hidden, mean, log_std.clamp(lower, upper), inside)


@torch.no_grad()
def gaussian_at(parameters, lower, upper, inputs):
    """Mean and log std (T, R, B) of the policies ``parameters`` at ``inputs`` (T, R, B, 4)."""
    length, runs, batch, _ = inputs.shape
    w1, b1, w2, b2, w3, b3 = sigmoid_form(parameters)
    w1, w3, b3 = torch.cat([w1, b1], dim=1), w3.mT.contiguous(), b3.mT
    raw = inputs.new_empty(length, runs, OUTPUTS, batch)
    first, second = inputs.new_empty(2, runs, batch, HIDDEN)
    for here, out in zip(inputs.unbind(), raw.unbind()):  # one step fits the processor's cache
        torch.bmm(here, w1, out=first).sigmoid_()
        torch.baddbmm(b2, first, w2, out=second).sigmoid_()
        torch.baddbmm(b3, w3, second.mT, out=out)
    return raw[:, :, 0], raw[:, :, 1].clamp(lower[:, None], upper[:, None])


def gaussian_log_density(x, mean, log_std):
    """log N(x; mean, exp(log_std)^2)."""
    return -(((x - mean) * (-log_std).exp()) ** 2) / 2 - log_std - math.log(2 * math.pi) / 2


def gaussian_kl(mean, log_std, other_mean, other_log_std):
    """KL(N(mean, std) || N(other mean, other std))."""
    ratio = (2 * (log_std - other_log_std)).exp()  # of the variances
    distance = (mean - other_mean) * (-other_log_std).exp()
    return other_log_std - log_std + (ratio + distance**2 - 1) / 2


def gaussian_kl_gradient(mean, log_std, other_mean, other_log_std):
    """Its derivative in (mean, log std), (..., 2)."""
    of_mean = (mean - other_mean) * (-2 * other_log_std).exp()
    of_log_std = (2 * (log_std - other_log_std)).exp() - 1
    return torch.stack([of_mean, of_log_std], dim=-1)


def both(task, runs):
    """``task``, 0 left or 1 right, for every run of the stack: (R,)."""
    return torch.full((len(runs.seed),), task, device=runs.gamma.device)
