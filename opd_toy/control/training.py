"""Training of a stack of runs: students by their teachers, teachers by REINFORCE."""

import math

import torch

from opd_toy import _validate
from opd_toy.control.gradients import (
    backward,
    discounted_return,
    distillation_signal,
    micro_batch_variance,
)
from opd_toy.control.policy import both, gaussian_at, initial_parameters, roll_out
from opd_toy.control.task import (
    BATCH,
    BETAS,
    BOUNDS,
    EPSILON,
    EVALUATION,
    HIDDEN,
    LENGTH,
    TARGETS,
    TEACHER_ITERATIONS,
    TEACHER_SEED,
    TEACHING,
    TRAINING,
    join,
    make_runs,
    normal_noise,
)


def adam_direction(first, second, iteration):
    """Adam's step over its rate, from its two running means (Kingma & Ba, 2015)."""
    return (first / (1 - BETAS[0] ** iteration)) / (
        second / (1 - BETAS[1] ** iteration)
    ).sqrt_().add_(EPSILON)


def update(state, gradient, runs):
    """One optimiser step in place.

    A run whose gradient is not finite stands still from then on.
    """
    norm = torch.linalg.vector_norm(gradient, dim=1)
    state["diverged"] = torch.where(
        (state["diverged"] == 0) & ~norm.isfinite(), state["iteration"], state["diverged"]
    )
    going = (state["diverged"] == 0)[:, None]
    gradient = torch.where(going, gradient * (runs.clip / (norm + 1e-6)).clamp(max=1)[:, None], 0.0)
    state["first"].lerp_(gradient, 1 - BETAS[0])
    state["second"].mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
    direction = torch.where(
        runs.adam[:, None],
        adam_direction(state["first"], state["second"], state["iteration"]),
        gradient,
    )
    state["parameters"] -= torch.where(going, runs.rate[:, None] * direction, 0.0)


def initial_state(runs, iterations, snapshots):
    """What ``train`` works on: tensors and one int, so that it can be saved and taken up again."""
    parameters = initial_parameters(runs.seed, runs.gamma)
    return {
        "iteration": 0,
        "parameters": parameters,
        "first": torch.zeros_like(parameters),
        "second": torch.zeros_like(parameters),
        "diverged": torch.zeros_like(runs.gamma, dtype=torch.long),  # the iteration, or 0
        "variance": parameters.new_full((iterations, len(runs.seed)), math.nan),
        "snapshots": parameters.new_zeros(len(snapshots), *parameters.shape),
    }


def train(runs, gradient, iterations, snapshots=(), *, checkpoint=None, report=None):
    """Train the whole stack; return its state.

    That holds parameters (R, P), variance (iterations, R) and snapshots (S, R, P).
    ``gradient(parameters, iteration)`` gives the batch gradient (R, P) and the variance (R,) at
    iterations 1, 2, ...; ``snapshots`` names the iterations after which parameters are kept.
    ``checkpoint`` (an ``opd_toy.records.checkpoints.Checkpoint``) is read first and written as
    training goes; ``report(done, iterations)`` is called at each iteration.
    """
    _validate.whole("iterations", iterations, least=0)
    state = initial_state(runs, iterations, snapshots)
    if checkpoint is not None:
        state = checkpoint.load(state["parameters"].device) or state
    if state["iteration"] == 0 and 0 in snapshots:
        state["snapshots"][snapshots.index(0)] = state["parameters"]
    while state["iteration"] < iterations:
        step(state, runs, gradient, snapshots)
        if report is not None:
            report(state["iteration"], iterations)
        if checkpoint is not None:
            checkpoint.after(state, last=state["iteration"] == iterations)
    return state


def step(state, runs, gradient, snapshots=()):
    """One iteration, in place."""
    iteration = state["iteration"] = state["iteration"] + 1
    gradients, state["variance"][iteration - 1] = gradient(state["parameters"], iteration)
    update(state, gradients, runs)
    if iteration in snapshots:
        state["snapshots"][snapshots.index(iteration)] = state["parameters"]


def distillation(runs, teachers, length=LENGTH, batch=BATCH, noise=None, teacher_bounds=None):
    """``gradient`` for ``train``: students that learn from two ``teachers`` in turn.

    ``teachers`` (2, P), or (2, R, P) where each run has its own.
    ``noise(iteration)`` (T, R, B) replaces the seeds' own noise; ``teacher_bounds``, (lower,
    upper) each (R,), are the teachers' bounds of log std where they differ from the students'.
    """
    lower, upper = (runs.lower, runs.upper) if teacher_bounds is None else teacher_bounds
    noise = noise or (
        lambda iteration: normal_noise(runs.seed, TRAINING, iteration, length, batch, runs.gamma)
    )
    hidden = runs.gamma.new_empty(2, length, len(runs.seed), batch, HIDDEN)

    def gradient(parameters, iteration):
        left_or_right = (iteration + 1) % 2
        rollout = roll_out(
            parameters, runs.lower, runs.upper, both(left_or_right, runs), noise(iteration), hidden
        )
        teacher = teachers[left_or_right].expand(len(runs.seed), -1)
        signal = distillation_signal(
            rollout, runs.gamma, *gaussian_at(teacher, lower, upper, rollout.inputs)
        )
        whole, micro = backward(parameters, rollout, signal)
        return whole, micro_batch_variance(micro)

    return gradient


def reinforcement(runs, task, length=LENGTH, batch=BATCH):
    """``gradient`` for ``train``: REINFORCE on each run's own ``task`` (R,).

    The cost is |s' - target| / T a step.  From the cost to go, its mean over the batch at the
    same step is subtracted.
    """
    target = runs.gamma.new_tensor(TARGETS)[task][:, None]

    def gradient(parameters, iteration):
        noise = normal_noise(runs.seed, TEACHING, iteration, length, batch, runs.gamma)
        rollout = roll_out(parameters, runs.lower, runs.upper, task, noise)
        cost_to_go = discounted_return((rollout.positions[1:] - target).abs() / length, runs.gamma)
        advantage = cost_to_go - cost_to_go.mean(-1, keepdim=True)
        whole, micro = backward(parameters, rollout, advantage[..., None] * rollout.score)
        return whole, micro_batch_variance(micro)

    return gradient


def train_teachers(
    bounds=(BOUNDS,), iterations=TEACHER_ITERATIONS, *, dtype=torch.float32, device="cpu", **options
):
    """Two teachers for each pair of bounds, (2, len(bounds), P), all trained in one stack."""
    pair = (TEACHER_SEED, TEACHER_SEED + 1)
    runs = join([make_runs([1.0], pair, bounds=b, dtype=dtype, device=device) for b in bounds])
    task = torch.tensor([0, 1], device=device).repeat(len(bounds))
    state = train(runs, reinforcement(runs, task), iterations, **options)
    return state["parameters"].unflatten(0, (len(bounds), 2)).transpose(0, 1).contiguous()


def fresh_positions(parameters, runs, batch=256, length=LENGTH):
    """Positions (2 tasks, T + 1, R, batch) of fresh trajectories, the same noise whenever asked."""
    noise = normal_noise(runs.seed, EVALUATION, 0, length, batch, runs.gamma)
    rollouts = [
        roll_out(parameters, runs.lower, runs.upper, both(task, runs), noise) for task in (0, 1)
    ]
    return torch.stack([rollout.positions for rollout in rollouts])


def distance_to_target(positions):
    """Mean distance of the final position from the target.

    (2, R) for ``positions`` (2, T + 1, R, B).
    """
    return (positions[:, -1] - positions.new_tensor(TARGETS)[:, None, None]).abs().mean(-1)
