"""The two-teacher control study: many small students distilled at once, by gradients of every gamma.

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
SHAPES = (
    (INPUTS, HIDDEN),
    (1, HIDDEN),
    (HIDDEN, HIDDEN),
    (1, HIDDEN),
    (HIDDEN, OUTPUTS),
    (1, OUTPUTS),
)
PARAMETERS = sum(a * b for a, b in SHAPES)
OUTPUT_LAYER = slice(PARAMETERS - (HIDDEN + 1) * OUTPUTS, PARAMETERS)
LENGTH, BATCH, MICRO_BATCHES = 20, 64, 8
GAMMAS, SEEDS, ITERATIONS = (0.0, 0.25, 0.5, 0.75, 1.0), (42, 43, 2026), 2000
BOUNDS, RATE, TEACHER_SEED, TEACHER_ITERATIONS = (-3.0, 1.0), 1e-3, 7, 2000
BETAS, EPSILON = (0.9, 0.999), 1e-8  # Adam's
DRIFT = 1.0  # a run drifts if it ends further than this from a target, on average over trajectories

SETTINGS = {
    "paper": {
        "tasks": "left: from +2 to -3; right: from -2 to +3; s' = s + a, a ~ N(mean, std)",
        "student": "three-layer network of about 4000 parameters: task identity, position, normalised time -> mean and std",
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
        "initial parameters": "uniform within 1/sqrt(fan-in), PyTorch's own default; the same for every gamma of a seed",
        "optimiser": f"Adam, rate {RATE:g}, no clipping",
        "loss": "mean over trajectories of the sum over time; a micro-batch gradient is the mean of its 8",
        "teacher's reward": "-|s' - target| / T a step, reward-to-go less its mean over the batch at each step",
        "teacher's training": f"{TEACHER_ITERATIONS} iterations of {BATCH} trajectories, Adam, rate {RATE:g}, seeds {TEACHER_SEED} (left) and {TEACHER_SEED + 1} (right)",
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
        return torch.stack(
            [self.noise * (-self.log_std).exp(), (self.noise**2 - 1) * self.inside], dim=-1
        )

    @property
    def log_density(self):
        """log p(a_t|s_t), (T, R, B)."""
        return -(self.noise**2) / 2 - self.log_std - math.log(2 * math.pi) / 2


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
    """A run for every gamma with every seed, gamma slowest.  ValueError on anything out of range."""
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
        gamma,
        tuple(seed for _, seed in pairs),
        each(bounds[0]),
        each(bounds[1]),
        each(adam, torch.bool),
        each(rate),
        each(clip),
    )


def join(stacks):
    """Several stacks of runs as one."""
    return Runs(
        *(
            sum(parts, ()) if isinstance(parts[0], tuple) else torch.cat(parts)
            for parts in zip(*stacks)
        )
    )


def normal_noise(seeds, stream, iteration, length, batch, like):
    """Standard normals (length, R, batch): of seed, stream and iteration alone, the same in any stack."""
    draws = {
        seed: np.random.default_rng([seed, stream, iteration]).standard_normal((length, batch))
        for seed in set(seeds)
    }
    return torch.from_numpy(np.stack([draws[seed] for seed in seeds], axis=1)).to(like)


TRAINING, EVALUATION, INITIAL, TEACHING, FROZEN = range(5)  # streams of noise


def initial_parameters(seeds, like):
    """(R, P): weights and biases uniform within 1/sqrt(fan-in)."""
    rows = {}
    for seed in set(seeds):
        random = np.random.default_rng([seed, INITIAL])
        layers = [
            random.uniform(-1, 1, shape) / math.sqrt(SHAPES[i - i % 2][0])
            for i, shape in enumerate(SHAPES)
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
    """Layers of the same network with hidden units s = (tanh + 1) / 2 = sigmoid(2x) in the place of tanh.

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
    """The gradient in the tanh network's layers from that in the sigmoid form's: the map's transpose."""
    return [2 * w1, 2 * b1, 4 * w2 - 2 * b2, 2 * b2, 2 * w3 - b3, b3]


def network_inputs(task, batch, length, like):
    """(T, R, B, 4): task identity, position (left at 0), normalised time, 1; ``task`` (R,), 0 left or 1 right."""
    inputs = like.new_zeros(length, len(task), batch, INPUTS + 1)
    inputs[..., 0] = inputs.new_tensor(IDENTITIES)[task][:, None]
    inputs[..., 2] = (torch.arange(length, dtype=inputs.dtype, device=inputs.device) / length)[
        :, None, None
    ]
    inputs[..., 3] = 1
    return inputs


@torch.no_grad()
def roll_out(parameters, lower, upper, task, noise, hidden=None):
    """Draw B trajectories a run.  ``task`` (R,), 0 left or 1 right; ``noise`` (T, R, B).

    ``hidden`` (2, T, R, B, H) is written over if given: fresh memory costs as much as a layer.
    """
    length, runs, batch = noise.shape
    w1, b1, w2, b2, w3, b3 = sigmoid_form(parameters)
    hidden = noise.new_empty(2, length, runs, batch, HIDDEN) if hidden is None else hidden
    inputs = network_inputs(task, batch, length, noise)
    fixed = inputs[:, :, :1] @ torch.cat(
        [w1, b1], dim=1
    )  # (T, R, 1, H): all of the first layer that does not wait for the position
    positions, raw = (
        noise.new_empty(length + 1, runs, batch),
        noise.new_empty(length, runs, OUTPUTS, batch),
    )
    positions[0] = noise.new_tensor(STARTS)[task][:, None]
    lower, upper = lower[:, None], upper[:, None]
    of_position, w3, b3 = (
        w1[:, 1:2],
        w3.mT.contiguous(),
        b3.mT,
    )  # the narrow last layer is several times faster transposed
    layers = hidden[0], hidden[1], hidden[1].mT
    each = (
        positions[:-1],
        positions[:-1, ..., None],
        positions[1:],
        noise,
        fixed,
        *layers,
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
    raw, (first, second) = (
        inputs.new_empty(length, runs, OUTPUTS, batch),
        inputs.new_empty(2, runs, batch, HIDDEN),
    )
    for here, out in zip(
        inputs.unbind(), raw.unbind()
    ):  # a step at a time stays in the processor's cache
        torch.bmm(here, w1, out=first).sigmoid_()
        torch.baddbmm(b2, first, w2, out=second).sigmoid_()
        torch.baddbmm(b3, w3, second.mT, out=out)
    return raw[:, :, 0], raw[:, :, 1].clamp(lower[:, None], upper[:, None])


def gaussian_log_density(x, mean, log_std):
    """log N(x; mean, exp(log_std)^2)."""
    return -(((x - mean) * (-log_std).exp()) ** 2) / 2 - log_std - math.log(2 * math.pi) / 2


def gaussian_kl(mean, log_std, other_mean, other_log_std):
    """KL(N(mean, std) || N(other mean, other std))."""
    return (
        other_log_std
        - log_std
        + (
            (2 * (log_std - other_log_std)).exp()
            + ((mean - other_mean) * (-other_log_std).exp()) ** 2
            - 1
        )
        / 2
    )


def gaussian_kl_gradient(mean, log_std, other_mean, other_log_std):
    """Its derivative in (mean, log std), (..., 2)."""
    return torch.stack(
        [
            (mean - other_mean) * (-2 * other_log_std).exp(),
            (2 * (log_std - other_log_std)).exp() - 1,
        ],
        dim=-1,
    )


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
    own_signal, own_second = (
        x.flatten(1, 2).unflatten(1, (-1, rows)) for x in (signal, second)
    )  # (T, R M, B / M, ...)
    each = signal, own_signal.mT, rollout.inputs.mT, first, first.mT, second, own_second
    for arriving, own_arriving, inputs, first, across, second, own_second in zip(
        *(x.unbind() for x in each)
    ):  # a step at a time stays in the cache
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


def adam_direction(first, second, iteration):
    """Adam's step over its rate, from its two running means (Kingma & Ba, 2015)."""
    return (first / (1 - BETAS[0] ** iteration)) / (
        second / (1 - BETAS[1] ** iteration)
    ).sqrt_().add_(EPSILON)


def update(state, gradient, runs):
    """One optimiser step in place.  A run whose gradient is not finite stands still from then on."""
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
        "diverged": torch.zeros(
            len(runs.seed), dtype=torch.long, device=parameters.device
        ),  # the iteration, or 0
        "variance": parameters.new_full((iterations, len(runs.seed)), math.nan),
        "snapshots": parameters.new_zeros(len(snapshots), *parameters.shape),
    }


def train(runs, gradient, iterations, snapshots=(), *, checkpoint=None, report=None):
    """Train the whole stack; return its state: parameters (R, P), variance (iterations, R), snapshots (S, R, P).

    ``gradient(parameters, iteration)`` gives the batch gradient (R, P) and the variance (R,) at
    iterations 1, 2, ...; ``snapshots`` names the iterations after which parameters are kept.
    ``checkpoint`` (an ``opd_toy.records.checkpoints.Checkpoint``) is read first and written as training
    goes; ``report(done, iterations)`` is called at each iteration.
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
    """``gradient`` for ``train``: students that learn from two ``teachers`` in turn, (2, P) or (2, R, P).

    ``noise(iteration)`` (T, R, B) takes the place of the seeds' own where it is given;
    ``teacher_bounds``, (lower, upper) each (R,), that of the students' bounds of log std.
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
    """``gradient`` for ``train``: REINFORCE on the cost |s' - target| / T of each run's own ``task`` (R,)."""
    target = runs.gamma.new_tensor(TARGETS)[task][:, None]

    def gradient(parameters, iteration):
        noise = normal_noise(runs.seed, TEACHING, iteration, length, batch, runs.gamma)
        rollout = roll_out(parameters, runs.lower, runs.upper, task, noise)
        cost_to_go = discounted_return((rollout.positions[1:] - target).abs() / length, runs.gamma)
        advantage = cost_to_go - cost_to_go.mean(-1, keepdim=True)
        whole, micro = backward(parameters, rollout, advantage[..., None] * rollout.score)
        return whole, micro_batch_variance(micro)

    return gradient


def both(task, runs):
    """``task``, 0 left or 1 right, for every run of the stack: (R,)."""
    return torch.full((len(runs.seed),), task, device=runs.gamma.device)


def train_teachers(
    bounds=(BOUNDS,), iterations=TEACHER_ITERATIONS, *, dtype=torch.float32, device="cpu", **options
):
    """Two teachers for each pair of bounds, (2, len(bounds), P), all trained in one stack."""
    pair = (TEACHER_SEED, TEACHER_SEED + 1)
    runs = join(
        [
            make_runs([1.0], pair, bounds=pair_of_bounds, dtype=dtype, device=device)
            for pair_of_bounds in bounds
        ]
    )
    task = torch.tensor([0, 1], device=device).repeat(len(bounds))
    state = train(runs, reinforcement(runs, task), iterations, **options)
    return state["parameters"].unflatten(0, (len(bounds), 2)).transpose(0, 1).contiguous()


def fresh_positions(parameters, runs, batch=256, length=LENGTH):
    """Positions (2 tasks, T + 1, R, batch) of fresh trajectories, the same noise whenever asked."""
    noise = normal_noise(runs.seed, EVALUATION, 0, length, batch, runs.gamma)
    return torch.stack(
        [
            roll_out(parameters, runs.lower, runs.upper, both(task, runs), noise).positions
            for task in (0, 1)
        ]
    )


def distance_to_target(positions):
    """Mean distance of the final position from the target, (2, R), for positions (2, T + 1, R, B)."""
    return (positions[:, -1] - positions.new_tensor(TARGETS)[:, None, None]).abs().mean(-1)
