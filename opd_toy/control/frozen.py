"""All estimators at one frozen student: variance, bias, and growth with the length.

Along training, gamma's effect on the estimator is mixed with where each run has got to.
Here one student is trained (gamma = 0), held still at four stages, and every estimator
is computed on the same trajectories, trajectory by trajectory:

    "sampled"         the study's own, for every gamma;
    "full_return"     every action carries the whole sum of r_u, its past too;
    "full_vocabulary" the Rao-Blackwellised return: the exact gradient of the Gaussian KL
                      at each visited state + score . sum_{u > t} gamma^(u-t) KL_u.

The third has the first's mean at every gamma, so the bias against gamma = 1 is measured
on it.  Arrays: N trajectories, T steps, P parameters, all float64.
"""

import itertools
import math

import numpy as np
import torch

from opd_toy.control.gradients import discounted_return
from opd_toy.control.policy import (
    both,
    gaussian_at,
    gaussian_kl,
    gaussian_kl_gradient,
    gaussian_log_density,
    pack,
    roll_out,
    sigmoid_form,
    tanh_gradient,
)
from opd_toy.control.study import decimals, significant
from opd_toy.control.task import (
    FROZEN,
    GAMMAS,
    INPUTS,
    ITERATIONS,
    LENGTH,
    OUTPUT_LAYER,
    TEACHER_ITERATIONS,
    make_runs,
    normal_noise,
)
from opd_toy.control.training import distillation, train, train_teachers

STUDENT_GAMMA, STUDENT_SEED = 0.0, 42
STAGES = {"initial": 0, "early": 100, "middle": 400, "late": 2000}  # iterations, of 2000
TRAJECTORIES, GROWTH_TRAJECTORIES, RESAMPLES, BATCHES = 4096, 1024, 200, 32
LENGTHS = (5, 10, 20, 40, 80)
PART = {"output_layer": OUTPUT_LAYER, "all_parameters": slice(None)}


def trajectory_gradients(parameters, rollout, signal):
    """One gradient a trajectory, (N, P), of one run (R = 1) with the signal (T, 1, N, 2)."""
    _, _, w2, _, w3, _ = (part[0] for part in sigmoid_form(parameters))
    inputs, first, second, signal = (
        x[:, 0].transpose(0, 1)
        for x in (rollout.inputs, rollout.hidden[0], rollout.hidden[1], signal)
    )
    at_second = signal @ w3.T * second * (1 - second)
    at_first = at_second @ w2.T * first * (1 - first)
    w1 = inputs.mT @ at_first
    sums = [
        w1[:, :INPUTS],
        w1[:, INPUTS:],
        first.mT @ at_second,
        at_second.sum(1, keepdim=True),
        second.mT @ signal,
        signal.sum(1, keepdim=True),
    ]
    return pack(tanh_gradient(*sums))


def signals(rollout, teacher_mean, teacher_log_std, gammas):
    """Every estimator's signal (T, 1, N, 2) at the network's output: {(name, gamma): signal}."""
    costs = rollout.log_density - gaussian_log_density(
        rollout.actions, teacher_mean, teacher_log_std
    )
    pair = rollout.mean, rollout.log_std, teacher_mean, teacher_log_std
    kl, local = gaussian_kl(*pair), gaussian_kl_gradient(*pair)
    local[..., 1] *= rollout.inside
    found = {("full_return", 1.0): costs.sum(0)[..., None] * rollout.score}
    for gamma in gammas:
        tensor = costs.new_tensor([gamma])
        found["sampled", gamma] = discounted_return(costs, tensor)[..., None] * rollout.score
        found["full_vocabulary", gamma] = (
            local + (discounted_return(kl, tensor) - kl)[..., None] * rollout.score
        )
    return found


def frozen_rollout(parameters, runs, teachers, task, length, trajectories):
    """Fresh trajectories of one student (1, P), and the teacher's Gaussian where they pass."""
    noise = normal_noise(runs.seed, FROZEN, length, length, trajectories, runs.gamma)
    rollout = roll_out(parameters, runs.lower, runs.upper, both(task, runs), noise)
    return rollout, gaussian_at(teachers[task : task + 1], runs.lower, runs.upper, rollout.inputs)


def total_variance(gradients):
    """Trace of the covariance of rows (N, P)."""
    return float(((gradients - gradients.mean(0)) ** 2).sum() / (len(gradients) - 1))


def resample_weights(trajectories, seed=0):
    """Bootstrap weights (RESAMPLES, N), each row summing to 1."""
    counts = np.random.default_rng(seed).multinomial(
        trajectories, np.full(trajectories, 1 / trajectories), size=RESAMPLES
    )
    return torch.from_numpy(counts / trajectories)


def resampled_variances(gradients, weights):
    """Total variance of each bootstrap resample, {part of the parameters: (RESAMPLES,)}."""
    centred = gradients - gradients.mean(0)  # large common means would cancel badly
    means = weights @ centred
    corrected = len(gradients) / (len(gradients) - 1)
    found = {}
    for where, part in PART.items():
        squares = weights @ (centred[:, part] ** 2).sum(1)
        found[where] = (squares - (means[:, part] ** 2).sum(1)) * corrected
    return found


def squared_norm_of_mean(batch_means):
    """Unbiased estimate of |E g|^2 and its jackknife standard error, from means of batches (K, P).

    The error is on the safe side (up to half too large) where E g is small beside its noise.
    """
    gram = (batch_means @ batch_means.T).numpy()
    off = gram - np.diag(np.diag(gram))
    k = len(gram)
    left_out = (off.sum() - 2 * off.sum(1)) / ((k - 1) * (k - 2))
    error = math.sqrt((k - 1) / k * ((left_out - left_out.mean()) ** 2).sum())
    return off.sum() / (k * (k - 1)), error


def interval(values):
    return [float(x) for x in np.quantile(np.asarray(values), (0.025, 0.975))]


def at_stage(parameters, runs, teachers, task, gammas, trajectories):
    """At one student and task: variance of every estimator and bias of every gamma, by part."""
    rollout, teacher = frozen_rollout(parameters, runs, teachers, task, LENGTH, trajectories)
    weights = resample_weights(trajectories)
    found = signals(rollout, *teacher, gammas)
    gradients_of = lambda *key: trajectory_gradients(parameters, rollout, found[key])
    unbiased = gradients_of("full_vocabulary", 1.0)
    immediate = resampled_variances(gradients_of("sampled", 0.0), weights)
    estimators = []
    for name, gamma in found:  # one after the other, as each holds 130 MB
        gradients = gradients_of(name, gamma)
        row, resampled = {}, resampled_variances(gradients, weights)
        for where, part in PART.items():
            row[where] = {
                "variance": total_variance(gradients[:, part]),
                "interval": interval(resampled[where]),
                "ratio_to_immediate_interval": interval(resampled[where] / immediate[where]),
            }
            if name == "full_vocabulary":
                row[where] |= bias(gradients[:, part], unbiased[:, part])
        estimators.append({"estimator": name, "gamma": gamma, **rounded(row)})
    end = rollout.positions[-1]
    kl = gaussian_kl(rollout.mean, rollout.log_std, *teacher)
    return {
        "estimators": estimators,
        "final_position": decimals(torch.stack([end.mean(), end.std()])),
        "kl_per_step": significant(kl.mean((1, 2))),
    }


def bias(gradients, unbiased):
    """|E g_gamma - E g_1|^2 and |E g_1|^2 with standard errors."""
    means = lambda g: g.unflatten(0, (BATCHES, -1)).mean(1)
    square, error = squared_norm_of_mean(means(gradients - unbiased))
    norm, norm_error = squared_norm_of_mean(means(unbiased))
    return {
        "squared_bias": square,
        "squared_bias_standard_error": error,
        "squared_norm": norm,
        "squared_norm_standard_error": norm_error,
    }


def growth(parameters, runs, teachers, lengths, gammas, trajectories):
    """Total variance of each estimator against the length, and the fitted exponent.

    The variance is the mean of the two tasks', the exponent's interval that of its resamples.
    """
    weights = resample_weights(trajectories)
    variances, resampled = {}, {}  # by (estimator, gamma, part): a figure a length and task
    for length, task in itertools.product(lengths, (0, 1)):
        rollout, teacher = frozen_rollout(parameters, runs, teachers, task, length, trajectories)
        for key, signal in signals(rollout, *teacher, gammas).items():
            gradients = trajectory_gradients(parameters, rollout, signal)
            again = resampled_variances(gradients, weights)
            for where, part in PART.items():
                variances.setdefault((*key, where), []).append(total_variance(gradients[:, part]))
                resampled.setdefault((*key, where), []).append(again[where].numpy())
    return [
        {
            "estimator": name,
            "gamma": gamma,
            "parameters": where,
            **rounded(fitted(lengths, values, resampled[name, gamma, where])),
        }
        for (name, gamma, where), values in variances.items()
    ]


def fitted(lengths, values, draws):
    """Variance at each length, from a figure a length and task, and its exponents."""
    values = np.array(values).reshape(-1, 2).mean(1)
    draws = np.array(draws).reshape(len(lengths), 2, -1).mean(1)
    return {
        "variance": values.tolist(),
        "exponent": float(slope(lengths, values)),
        "interval": interval(slope(lengths, draws)),
        "local_exponents": (np.diff(np.log(values)) / np.diff(np.log(lengths))).tolist(),
    }


def slope(lengths, values):
    """Least-squares slope of log values against log lengths; further axes of ``values`` stay."""
    x = np.log(lengths) - np.log(lengths).mean()
    return np.tensordot(x, np.log(values), 1) / (x @ x)


def rounded(figures):
    """Dicts and lists of floats with each rounded to the digits that are recorded."""
    if isinstance(figures, dict):
        return {key: rounded(value) for key, value in figures.items()}
    if isinstance(figures, list):
        return [rounded(value) for value in figures]
    return significant(np.float64(figures))


def frozen(
    iterations=ITERATIONS,
    *,
    trajectories=TRAJECTORIES,
    growth_trajectories=GROWTH_TRAJECTORIES,
    lengths=LENGTHS,
    gammas=GAMMAS,
    teacher_iterations=TEACHER_ITERATIONS,
    dtype=torch.float32,
    device="cpu",
    watch=None,
):
    """The results of ``figures/control-frozen.json``.

    Training is in ``dtype``, all estimates are in float64.
    """
    watch = watch or (lambda name: {})
    where = {"dtype": dtype, "device": device}
    teachers = train_teachers(iterations=teacher_iterations, **where, **watch("teachers"))[:, 0]
    runs = make_runs([STUDENT_GAMMA], [STUDENT_SEED], **where)
    stages = {name: round(at * iterations / ITERATIONS) for name, at in STAGES.items()}
    kept = tuple(sorted(set(stages.values())))
    state = train(runs, distillation(runs, teachers), iterations, kept, **watch("student"))
    runs = make_runs([STUDENT_GAMMA], [STUDENT_SEED], dtype=torch.float64)
    teachers, snapshots = teachers.double().cpu(), state["snapshots"].double().cpu()
    report = watch("estimates").get("report")
    at, growing = {}, {}
    for done, (name, iteration) in enumerate(stages.items(), start=1):
        student = snapshots[kept.index(iteration)]
        tasks = {
            side: at_stage(student, runs, teachers, task, gammas, trajectories)
            for task, side in enumerate(("left", "right"))
        }
        at[name] = {"iteration": iteration, "tasks": tasks}
        growing[name] = growth(student, runs, teachers, lengths, gammas, growth_trajectories)
        if report is not None:
            report(done, len(stages))
    return {
        "settings": {
            "student": f"gamma = {STUDENT_GAMMA:g}, seed {STUDENT_SEED}, "
            f"trained alone for {iterations} iterations",
            "trajectories": trajectories,
            "growth_trajectories": growth_trajectories,
            "resamples": RESAMPLES,
            "variance": "trace of the covariance of one trajectory's gradient; "
            "the study's micro-batch variance has mean 7/64 of it",
            "intervals": "95 %, percentile bootstrap over trajectories",
            "bias": "on the Rao-Blackwellised estimator, which has the sampled one's mean",
            "seed": STUDENT_SEED,
        },
        "gammas": list(gammas),
        "lengths": list(lengths),
        "stages": at,
        "growth": growing,
    }
