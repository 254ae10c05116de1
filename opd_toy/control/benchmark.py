"""The study by a plain loop over runs, to measure the stacked one against.

The loop is what one would write first and write well: one ``nn.Module`` a run, rolled out
without a graph, one batched forward for all visited states, autograd, ``torch.optim.Adam``,
and ``autograd.grad`` of each micro-batch's loss in the output layer alone (which stops
there).  Both meet the same noise, drawn beforehand.
"""

import time

import numpy as np
import torch
from torch import nn

from opd_toy import _validate
from opd_toy.control.policy import gaussian_log_density, initial_parameters, unpack
from opd_toy.control.task import (
    BATCH,
    BETAS,
    BOUNDS,
    EPSILON,
    GAMMAS,
    HIDDEN,
    IDENTITIES,
    INPUTS,
    LENGTH,
    MICRO_BATCHES,
    OUTPUTS,
    RATE,
    SEEDS,
    STARTS,
    TRAINING,
    make_runs,
    normal_noise,
)
from opd_toy.control.training import distillation, initial_state, step


class Policy(nn.Module):
    def __init__(self, parameters, bounds):
        super().__init__()
        self.bounds = bounds
        self.body = nn.Sequential(
            nn.Linear(INPUTS, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, HIDDEN), nn.Tanh()
        )
        self.head = nn.Linear(HIDDEN, OUTPUTS)
        self.to(parameters)
        w1, b1, w2, b2, w3, b3 = (part[0] for part in unpack(parameters[None]))
        with torch.no_grad():
            for layer, weight, bias in zip(self.layers(), (w1, w2, w3), (b1, b2, b3)):
                layer.weight.copy_(weight.T)
                layer.bias.copy_(bias[0])

    def layers(self):
        return self.body[0], self.body[2], self.head

    def forward(self, inputs):
        out = self.head(self.body(inputs))
        return out[..., 0], out[..., 1].clamp(*self.bounds)

    def flat(self):
        """The parameters in the stacked study's order."""
        parts = [part for layer in self.layers() for part in (layer.weight.T, layer.bias)]
        return torch.cat([part.detach().flatten() for part in parts])


class PlainRun:
    """One run: its policy, its optimiser and the two teachers, stepped by autograd."""

    def __init__(self, parameters, gamma, teachers):
        self.policy, self.gamma, self.teachers = Policy(parameters, BOUNDS), gamma, teachers
        self.optimiser = torch.optim.Adam(
            self.policy.parameters(), lr=RATE, betas=BETAS, eps=EPSILON
        )

    def step(self, iteration, noise):
        """One iteration, ``noise`` (B, T); returns the micro-batch variance."""
        task = (iteration + 1) % 2
        states, actions = rolled_out(self.policy, task, noise)
        with torch.no_grad():
            teacher_log_density = gaussian_log_density(actions, *self.teachers[task](states))
        log_density = gaussian_log_density(actions, *self.policy(states))
        returns = log_density.detach() - teacher_log_density
        for t in reversed(range(len(returns) - 1)):
            returns[t] += self.gamma * returns[t + 1]
        losses = (returns * log_density).sum(0).view(MICRO_BATCHES, -1).mean(1)
        head = list(self.policy.head.parameters())
        gradients = [torch.autograd.grad(loss, head, retain_graph=True) for loss in losses]
        rows = torch.stack([torch.cat([part.flatten() for part in parts]) for parts in gradients])
        self.optimiser.zero_grad()
        losses.mean().backward()
        self.optimiser.step()
        return float(((rows - rows.mean(0)) ** 2).sum(1).mean())


@torch.no_grad()
def rolled_out(policy, task, noise):
    """The states (T, B, 3) that a policy visits and its actions (T, B), for noise (B, T)."""
    batch, length = noise.shape
    states, actions = noise.new_empty(length, batch, INPUTS), noise.new_empty(length, batch)
    states[..., 0] = IDENTITIES[task]
    states[..., 2] = (torch.arange(length).to(noise) / length)[:, None]
    position = noise.new_full((batch,), STARTS[task])
    for t in range(length):
        states[t, :, 1] = position
        mean, log_std = policy(states[t])
        actions[t] = mean + log_std.exp() * noise[:, t]
        position = position + actions[t]
    return states, actions


def benchmark(iterations=20, repeats=5, dtype=torch.float32, device="cpu"):
    """Seconds an iteration of all runs, plain and stacked in turn; and how far apart they end."""
    _validate.whole("iterations", iterations, least=1)
    runs = make_runs(GAMMAS, SEEDS, dtype=dtype, device=device)
    teachers = initial_parameters((1, 2), runs.gamma)  # what they learnt takes no time
    noises = {
        i: normal_noise(runs.seed, TRAINING, i, LENGTH, BATCH, runs.gamma)
        for i in range(1, repeats * iterations + 1)
    }
    state = initial_state(runs, repeats * iterations, ())
    gradient = distillation(runs, teachers, noise=noises.get)
    plain_teachers = [Policy(parameters, BOUNDS) for parameters in teachers]
    plain_runs = [
        PlainRun(parameters.clone(), gamma, plain_teachers)
        for parameters, gamma in zip(state["parameters"], runs.gamma.tolist())
    ]
    rows = {i: noise.permute(1, 2, 0).contiguous() for i, noise in noises.items()}  # (R, B, T)
    variance = np.empty((repeats * iterations, len(plain_runs)))

    def stacked(span):
        for _ in span:
            step(state, runs, gradient)

    def plain(span):
        for r, run in enumerate(plain_runs):
            for i in span:
                variance[i - 1, r] = run.step(i, rows[i][r])

    seconds = {"plain": [], "stacked": []}
    for repeat in range(repeats):
        span = range(repeat * iterations + 1, (repeat + 1) * iterations + 1)
        for work in (plain, stacked)[:: 1 if repeat % 2 else -1]:
            seconds[work.__name__].append(timed(work, span, device) / iterations)
    ours, parameters = state["variance"].cpu().double().numpy(), state["parameters"]
    apart = parameters - torch.stack([run.policy.flat() for run in plain_runs])
    return {
        "runs": len(plain_runs),
        "iterations": iterations,
        "repeats": repeats,
        "dtype": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "seconds": {
            name: {"median": float(np.median(times)), "least": min(times), "all": times}
            for name, times in seconds.items()
        },
        "ratio_of_medians": float(np.median(seconds["plain"]) / np.median(seconds["stacked"])),
        "ratio_of_least": min(seconds["plain"]) / min(seconds["stacked"]),
        "largest_relative_difference_of_variance": float((abs(ours - variance) / variance).max()),
        "largest_difference_of_parameters": float(apart.abs().max()),
    }


def timed(work, span, device):
    """Seconds that ``work(span)`` takes, a GPU's share included."""
    synchronize = torch.cuda.synchronize if torch.device(device).type == "cuda" else lambda: None
    synchronize()
    started = time.perf_counter()
    work(span)
    synchronize()
    return time.perf_counter() - started
