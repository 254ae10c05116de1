"""The recorded control study: five gammas with three seeds, and how far each run came.

``study`` trains the teachers and all students of ``opd_toy.control.task`` and returns a
JSON-able dict, ``figures/control-study.json``'s results: variance by [gamma][seed][iteration],
positions, trajectories and visitation by [gamma][seed][checkpoint][task].
"""

import math

import numpy as np
import torch

from opd_toy.control.task import (
    DRIFT,
    GAMMAS,
    ITERATIONS,
    SEEDS,
    SETTINGS,
    STARTS,
    TARGETS,
    TEACHER_ITERATIONS,
    make_runs,
)
from opd_toy.control.training import (
    distance_to_target,
    distillation,
    fresh_positions,
    train,
    train_teachers,
)

TASKS = ("left", "right")
CHECKPOINTS = (0, 50, 100, 200, 400, 800, 1400, 2000)  # of 2000 iterations; scaled for others
WINDOW, SHOWN, EVALUATED, TEACHERS_EVALUATED = 100, 6, 256, 1024
VISITED = (0.0, 0.5, 1.0)  # gammas whose visitation is kept, as in the paper's heat-maps
BINS = np.linspace(-8, 8, 65)


def checkpoints(iterations):
    return tuple(sorted({round(c * iterations / CHECKPOINTS[-1]) for c in CHECKPOINTS}))


def recorded_iterations(iterations):
    """Every iteration up to 100, then the pair (odd: left, even: right) that ends each ten."""
    return [i for i in range(1, iterations + 1) if i <= 100 or i % 10 in (9, 0)]


def study(
    iterations=ITERATIONS,
    *,
    gammas=GAMMAS,
    seeds=SEEDS,
    teacher_iterations=TEACHER_ITERATIONS,
    dtype=torch.float32,
    device="cpu",
    watch=None,
):
    """Train and evaluate everything.

    ``watch(name)`` gives ``train``'s checkpoint and report for a stage.
    """
    watch = watch or (lambda name: {})
    runs = make_runs(gammas, seeds, dtype=dtype, device=device)
    teachers = train_teachers(
        iterations=teacher_iterations, dtype=dtype, device=device, **watch("teachers")
    )[:, 0]
    kept = checkpoints(iterations)
    state = train(runs, distillation(runs, teachers), iterations, kept, **watch("students"))
    shape = (len(gammas), len(seeds))
    positions = [fresh_positions(parameters, runs, EVALUATED) for parameters in state["snapshots"]]
    end = torch.stack([p[:, -1] for p in positions])  # (checkpoints, tasks, R, B)
    distance = torch.stack([distance_to_target(p) for p in positions])
    by_run = lambda x: x.movedim(-1, 0).unflatten(0, shape)  # (..., R) -> [gamma][seed]...
    variance = state["variance"].cpu().double().numpy().T.reshape(*shape, iterations)
    recorded = recorded_iterations(iterations)
    return {
        "settings": SETTINGS
        | {"dtype": str(dtype).removeprefix("torch."), "iterations run": iterations},
        "gammas": list(gammas),
        "seeds": list(seeds),
        "tasks": list(TASKS),
        "starts": list(STARTS),
        "targets": list(TARGETS),
        "iterations": recorded,
        "variance": significant(variance[:, :, np.array(recorded, dtype=int) - 1]),
        **windows(variance),
        "checkpoints": list(kept),
        "final_position": {
            "mean": decimals(by_run(end.mean(-1)).transpose(2, 3)),
            "sd": decimals(by_run(end.std(-1)).transpose(2, 3)),
            "distance_to_target": decimals(by_run(distance).transpose(2, 3)),
            "trajectories": EVALUATED,
        },
        "diverged": by_run(state["diverged"]).tolist(),
        "drifts": (~(by_run(distance[-1]) <= DRIFT)).tolist(),  # so does what is not finite
        "trajectories": trajectories(positions, shape),
        "visitation": visitation(positions[-1], gammas, shape),
        "teachers": teachers_evaluated(teachers),
    }


def windows(variance):
    """Mean and geometric mean over windows of iterations, [gamma][seed][task][window].

    One iteration's variance, of eight gradients, is noisy; the tasks alternate, so each has half
    of a window.
    """
    iterations = variance.shape[-1]
    width = min(WINDOW, iterations - iterations % 2)
    ends = list(range(width, iterations + 1, width)) if width else []
    parts = [
        np.stack([variance[..., end - width + task : end : 2] for task in (0, 1)], axis=-2)
        for end in ends
    ]
    mean = [part.mean(-1) for part in parts]
    geometric = [np.exp(np.log(part).mean(-1)) for part in parts]
    return {
        "window_ends": ends,
        "window_mean": significant(np.stack(mean, axis=-1)) if ends else [],
        "window_geometric_mean": significant(np.stack(geometric, axis=-1)) if ends else [],
    }


def trajectories(positions, shape):
    """The first few, [gamma][seed][checkpoint][task][trajectory][T + 1]."""
    # (checkpoints, tasks, T + 1, R, shown)
    shown = torch.stack([p[..., :SHOWN] for p in positions])
    return decimals(shown.movedim(3, 0).transpose(3, 4).unflatten(0, shape), 2)


def visitation(positions, gammas, shape):
    """How many trajectories of the trained students (all seeds) stand in each bin.

    [gamma][task][time][bin]
    """
    by_gamma = positions.cpu().double().numpy().reshape(2, positions.shape[1], *shape, -1)
    kept = [i for i, gamma in enumerate(gammas) if gamma in VISITED]
    counts = [
        [
            [
                np.histogram(np.clip(by_gamma[task, t, i], BINS[0], BINS[-1]), BINS)[0].tolist()
                for t in range(by_gamma.shape[1])
            ]
            for task in (0, 1)
        ]
        for i in kept
    ]
    return {
        "gammas": [gammas[i] for i in kept],
        "bins": BINS.tolist(),
        "counts": counts,
        "trajectories": shape[1] * EVALUATED,
        "outermost": "hold what lies beyond, too",
    }


def teachers_evaluated(teachers):
    """How good the two teachers are on their own tasks, and lost on each other's."""
    runs = make_runs([1.0], (0, 1), dtype=teachers.dtype, device=teachers.device)
    positions = fresh_positions(teachers, runs, TEACHERS_EVALUATED)
    own = torch.stack([positions[task, :, task] for task in (0, 1)])  # (2, T + 1, B)
    miss = (own - own.new_tensor(TARGETS)[:, None, None]).abs()
    return {
        "final_position_mean": decimals(own[:, -1].mean(-1)),
        "final_position_sd": decimals(own[:, -1].std(-1)),
        "final_distance": decimals(miss[:, -1].mean(-1)),
        "mean_distance": decimals(miss[:, 1:].mean((1, 2))),
        "trajectory": decimals(own.mean(-1), 2),
        "trajectories": TEACHERS_EVALUATED,
    }


def significant(array, digits=4):
    """Nested lists rounded to so many significant digits; what is not finite becomes None."""

    def number(x):
        if not math.isfinite(x):
            return None
        rounded = float(f"{x:.{digits}g}")
        return int(rounded) if abs(rounded) >= 10 ** (digits - 1) else rounded

    return _nested(array, number)


def decimals(array, places=4):
    """Nested lists rounded to so many decimals; what is not finite becomes None."""
    return _nested(array, lambda x: round(x, places) if math.isfinite(x) else None)


def _nested(array, number):
    if isinstance(array, torch.Tensor):
        array = array.cpu().double().numpy()
    return [_nested(row, number) for row in array] if array.ndim else number(float(array))
