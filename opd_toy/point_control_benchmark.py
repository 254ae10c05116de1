"""The study by a plain loop over runs, to measure the stacked one against."""

import time

import torch
from torch import nn

from opd_toy import point_control as pc


class Policy(nn.Module):
    def __init__(self, parameters, bounds):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(pc.INPUTS, pc.HIDDEN), nn.Tanh(), nn.Linear(pc.HIDDEN, pc.HIDDEN), nn.Tanh())
        self.head = nn.Linear(pc.HIDDEN, pc.OUTPUTS)
        self.bounds = bounds
        self.to(parameters.dtype)
        w1, b1, w2, b2, w3, b3 = (part[0] for part in pc.unpack(parameters[None]))
        with torch.no_grad():
            for layer, weight, bias in ((self.body[0], w1, b1), (self.body[2], w2, b2), (self.head, w3, b3)):
                layer.weight.copy_(weight.T)
                layer.bias.copy_(bias[0])

    def forward(self, inputs):
        out = self.head(self.body(inputs))
        return out[..., 0], out[..., 1].clamp(*self.bounds)

    def flat(self):
        """The parameters in the stacked study's order."""
        layers = (self.body[0], self.body[2], self.head)
        return torch.cat([part.flatten() for layer in layers for part in (layer.weight.T, layer.bias)])


def plain_step(policy, optimiser, teacher, gamma, task, noise):
    """One iteration of one run, noise (B, T); returns the micro-batch variance."""
    batch, length = noise.shape
    states, actions = noise.new_empty(length, batch, 3), noise.new_empty(length, batch)
    states[..., 0] = pc.IDENTITIES[task]
    states[..., 2] = (torch.arange(length) / length)[:, None]
    position = noise.new_full((batch,), pc.STARTS[task])
    with torch.no_grad():
        for t in range(length):
            states[t, :, 1] = position
            mean, log_std = policy(states[t])
            actions[t] = mean + log_std.exp() * noise[:, t]
            position = position + actions[t]
        teacher_log_density = pc.gaussian_log_density(actions, *teacher(states))
    log_density = pc.gaussian_log_density(actions, *policy(states))
    returns = log_density.detach() - teacher_log_density
    for t in reversed(range(length - 1)):
        returns[t] += gamma * returns[t + 1]
    losses = (returns * log_density).sum(0).view(pc.MICRO_BATCHES, -1).mean(1)
    head = list(policy.head.parameters())
    gradients = [torch.autograd.grad(loss, head, retain_graph=True) for loss in losses]
    stacked = torch.stack([torch.cat([part.flatten() for part in parts]) for parts in gradients])
    optimiser.zero_grad()
    losses.mean().backward()
    optimiser.step()
    return ((stacked - stacked.mean(0)) ** 2).sum(1).mean()
