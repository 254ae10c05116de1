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
from opd_toy.control import task as pc


class Policy(nn.Module):
    def __init__(self, parameters, bounds):
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(pc.INPUTS, pc.HIDDEN), nn.Tanh(), nn.Linear(pc.HIDDEN, pc.HIDDEN), nn.Tanh()
        )
        self.head = nn.Linear(pc.HIDDEN, pc.OUTPUTS)
        self.bounds = bounds
        self.to(parameters.dtype)
        w1, b1, w2, b2, w3, b3 = (part[0] for part in pc.unpack(parameters[None]))
        with torch.no_grad():
            for layer, weight, bias in (
                (self.body[0], w1, b1),
                (self.body[2], w2, b2),
                (self.head, w3, b3),
            ):
                layer.weight.copy_(weight.T)
                layer.bias.copy_(bias[0])

    def forward(self, inputs):
        out = self.head(self.body(inputs))
        return out[..., 0], out[..., 1].clamp(*self.bounds)

    def flat(self):
        """The parameters in the stacked study's order."""
        layers = (self.body[0], self.body[2], self.head)
        return torch.cat(
            [part.flatten() for layer in layers for part in (layer.weight.T, layer.bias)]
        )


def plain_step(policy, optimiser, teacher, gamma, task, noise):
    """One iteration of one run, noise (B, T); returns the micro-batch variance."""
    batch, length = noise.shape
    states, actions = noise.new_empty(length, batch, 3), noise.new_empty(length, batch)
    states[..., 0] = pc.IDENTITIES[task]
    states[..., 2] = (torch.arange(length, dtype=noise.dtype, device=noise.device) / length)[
        :, None
    ]
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


def benchmark(iterations=20, repeats=5, dtype=torch.float32, device="cpu"):
    """Seconds an iteration of all runs, plain and stacked, interleaved; and how far their numbers are apart."""
    _validate.whole("iterations", iterations, least=1)
    runs = pc.make_runs(pc.GAMMAS, pc.SEEDS, dtype=dtype, device=device)
    teachers = pc.initial_parameters(
        (1, 2), runs.gamma
    )  # the time does not depend on what they learnt
    noises = {
        i: pc.normal_noise(runs.seed, pc.TRAINING, i, pc.LENGTH, pc.BATCH, runs.gamma)
        for i in range(1, repeats * iterations + 1)
    }
    state = pc.initial_state(runs, repeats * iterations, ())
    gradient = pc.distillation(runs, teachers, noise=noises.get)
    policies = [
        Policy(parameters.clone(), pc.BOUNDS).to(device) for parameters in state["parameters"]
    ]
    optimisers = [
        torch.optim.Adam(policy.parameters(), lr=pc.RATE, betas=pc.BETAS, eps=pc.EPSILON)
        for policy in policies
    ]
    plain_teachers = [Policy(parameters, pc.BOUNDS).to(device) for parameters in teachers]
    gammas = runs.gamma.tolist()
    rows = {
        i: [noise[:, r].T.contiguous() for r in range(len(gammas))] for i, noise in noises.items()
    }

    def stacked(span):
        for _ in span:
            pc.step(state, runs, gradient)

    def plain(span):
        return [
            [
                plain_step(
                    policies[r],
                    optimisers[r],
                    plain_teachers[(i + 1) % 2],
                    gammas[r],
                    (i + 1) % 2,
                    rows[i][r],
                )
                for i in span
            ]
            for r in range(len(gammas))
        ]

    seconds, variances = {"plain": [], "stacked": []}, []
    for repeat in range(repeats):
        span = range(repeat * iterations + 1, (repeat + 1) * iterations + 1)
        for name, work in (("plain", plain), ("stacked", stacked))[:: 1 if repeat % 2 else -1]:
            synchronize(device)
            started = time.perf_counter()
            done = work(span)
            synchronize(device)
            seconds[name].append((time.perf_counter() - started) / iterations)
            if done:
                variances.append(
                    torch.tensor([[float(v) for v in run] for run in done], dtype=torch.float64).T
                )
    variances, ours = torch.cat(variances), state["variance"].cpu().double()
    parameters = torch.stack([policy.flat().detach() for policy in policies])
    return {
        "runs": len(gammas), "iterations": iterations, "repeats": repeats, "dtype": str(dtype).removeprefix("torch."), "threads": torch.get_num_threads(),
        "seconds": {name: {"median": float(np.median(times)), "least": min(times), "all": times} for name, times in seconds.items()},
        "ratio_of_medians": float(np.median(seconds["plain"]) / np.median(seconds["stacked"])),
        "ratio_of_least": min(seconds["plain"]) / min(seconds["stacked"]),
        "largest_relative_difference_of_variance": float(((ours - variances).abs() / variances).max()),
        "largest_difference_of_parameters": float((parameters - state["parameters"]).abs().max()),
    }  # fmt: skip


def synchronize(device):
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
