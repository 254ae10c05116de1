"""The task of the two-teacher control study, and what tells the runs of a stack apart.

A point on a line moves by s' = s + a, a ~ N(mean, std).  The left task leads from +2
to -3, the right one from -2 to +3, in T = 20 steps.  A policy is the network
3 -> 60 -> 60 -> 2 (tanh; 4022 parameters): task identity, position and normalised
time in, mean and log std out.  Two teachers are trained by REINFORCE; one student
then learns from both in turn, left in odd iterations and right in even ones, from

    g_gamma = sum_t (sum_{u >= t} gamma^(u-t) r_u) grad log p(a_t|s_t),
    r_t = log p(a_t|s_t) - log q(a_t|s_t)                      (a cost: descended).

After Fu et al., arXiv 2603.25562, appendix C; ``SETTINGS`` tells the paper's choices
from ours.  All runs (each gamma with each seed, or other settings) are trained in one
stack: parameters (R, P), one row a run, and every product of matrices is one ``bmm``.
The gradient is written out, not left to autograd; tests hold it to autograd.

Noise comes from the seed and the iteration alone (numpy, on the processor), so runs of
one seed meet the same noise, a run does not depend on its neighbours in the stack (but
for rounding: other sizes may sum in another order), and a resumed run meets the noise
it would have met.  Arrays: R runs, B trajectories, T steps, H hidden units.
"""

import math
from typing import NamedTuple

import numpy as np
import torch

from opd_toy import _validate

STARTS, TARGETS, IDENTITIES = (2.0, -2.0), (-3.0, 3.0), (-1.0, 1.0)  # left, right
HIDDEN, INPUTS, OUTPUTS = 60, 3, 2
# weights and biases of the three layers
LAYERS = ((INPUTS, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, OUTPUTS))
SHAPES = tuple(shape for fan_in, width in LAYERS for shape in ((fan_in, width), (1, width)))
PARAMETERS = sum(a * b for a, b in SHAPES)
OUTPUT_LAYER = slice(PARAMETERS - (HIDDEN + 1) * OUTPUTS, PARAMETERS)
LENGTH, BATCH, MICRO_BATCHES = 20, 64, 8
GAMMAS, SEEDS, ITERATIONS = (0.0, 0.25, 0.5, 0.75, 1.0), (42, 43, 2026), 2000
BOUNDS, RATE, TEACHER_SEED, TEACHER_ITERATIONS = (-3.0, 1.0), 1e-3, 7, 2000
BETAS, EPSILON = (0.9, 0.999), 1e-8  # Adam's
# A run drifts if it ends further than this from a target, on average over trajectories.
DRIFT = 1.0
# Streams of noise: one seed gives each use its own.
TRAINING, EVALUATION, INITIAL, TEACHING, FROZEN = range(5)

SETTINGS = {
    "paper": {
        "tasks": "left: from +2 to -3; right: from -2 to +3; s' = s + a, a ~ N(mean, std)",
        "student": "three-layer network of about 4000 parameters: "
        "task identity, position, normalised time -> mean and std",
        "teachers": "two, trained apart by REINFORCE",
        "order": "tasks alternate: left in odd iterations, right in even ones",
        "gammas": list(GAMMAS),
        "seeds": list(SEEDS),
        "iterations": ITERATIONS,
        "trajectories an iteration": BATCH,
        "micro-batches": MICRO_BATCHES,
        "variance": "1/M sum_m |g_m - mean|^2, output-layer parameters",
        "steps a trajectory": f"{LENGTH} (read off the paper's heat-maps)",
    },
    "ours": {
        "hidden": f"tanh, widths {HIDDEN} and {HIDDEN}: {PARAMETERS} parameters",
        "task identity": "-1 left, +1 right",
        "normalised time": "t / T, t from 0",
        "std": f"exp(clamp(raw, {BOUNDS[0]:g}, {BOUNDS[1]:g})), teachers too",
        "initial parameters": "uniform within 1/sqrt(fan-in), PyTorch's own default; "
        "the same for every gamma of a seed",
        "optimiser": f"Adam, rate {RATE:g}, no clipping",
        "loss": "mean over trajectories of the sum over time; "
        "a micro-batch gradient is the mean of its 8",
        "teacher's reward": "-|s' - target| / T a step, "
        "reward-to-go less its mean over the batch at each step",
        "teacher's training": f"{TEACHER_ITERATIONS} iterations of {BATCH} trajectories, "
        f"Adam, rate {RATE:g}, seeds {TEACHER_SEED} (left) and {TEACHER_SEED + 1} (right)",
        "noise": "runs of one seed meet the same noise whatever their gamma",
    },
}


class Runs(NamedTuple):
    """What tells the runs of a stack apart, each entry (R,)."""

    gamma: torch.Tensor
    seed: tuple
    lower: torch.Tensor  # bounds of log std
    upper: torch.Tensor
    adam: torch.Tensor  # True: Adam, False: plain gradient descent
    rate: torch.Tensor
    clip: torch.Tensor  # largest norm of the gradient; inf: none


def make_runs(
    gammas,
    seeds,
    *,
    bounds=BOUNDS,
    adam=True,
    rate=RATE,
    clip=math.inf,
    dtype=torch.float32,
    device="cpu",
):
    """A run for every gamma with every seed, gamma slowest.

    Raises ValueError on anything out of range.
    """
    for gamma in gammas:
        if isinstance(gamma, bool) or not (isinstance(gamma, (int, float)) and 0 <= gamma <= 1):
            raise ValueError(f"gamma is {gamma!r}; give one number from 0 to 1")
    for seed in seeds:
        _validate.whole("seed", seed, least=0)
    if not bounds[0] < bounds[1]:
        raise ValueError(
            f"bounds is {bounds!r}; give the least and the largest log std, -inf and inf for none"
        )
    if not 0 < rate < math.inf:
        raise ValueError(f"rate is {rate!r}; give a finite number above 0")
    if not clip > 0:
        raise ValueError(f"clip is {clip!r}; give a number above 0, inf for none")
    pairs = [(gamma, seed) for gamma in gammas for seed in seeds]
    if not pairs:
        raise ValueError("gammas and seeds must each hold at least one number")

    def each(value, kind=dtype):
        return torch.full((len(pairs),), value, dtype=kind, device=device)

    gamma = torch.tensor([gamma for gamma, _ in pairs], dtype=dtype, device=device)
    return Runs(
        gamma=gamma,
        seed=tuple(seed for _, seed in pairs),
        lower=each(bounds[0]),
        upper=each(bounds[1]),
        adam=each(adam, torch.bool),
        rate=each(rate),
        clip=each(clip),
    )


def join(stacks):
    """Several stacks of runs as one."""
    one = lambda parts: sum(parts, ()) if isinstance(parts[0], tuple) else torch.cat(parts)
    return Runs(*map(one, zip(*stacks)))


def normal_noise(seeds, stream, iteration, length, batch, like):
    """Standard normals (length, R, batch), those of a seed, stream and iteration in any stack."""
    draws = {
        seed: np.random.default_rng([seed, stream, iteration]).standard_normal((length, batch))
        for seed in set(seeds)
    }
    return torch.from_numpy(np.stack([draws[seed] for seed in seeds], axis=1)).to(like)
