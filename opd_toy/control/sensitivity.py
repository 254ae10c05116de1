"""Under which of the choices that the paper leaves open does gamma = 1 drift?

Every setting below is trained with gamma = 0 and gamma = 1 and the study's seeds, all in
one stack, its teachers under the same bounds of the std; and, for gamma = 1, students
under each of three bounds with teachers under each.  Decided before looking: a run
*drifts* if at the end its final positions lie further than 1 from a target on average,
and *was lost* if they did at any of the checkpoints from a tenth of the training on.
"""

import math

import torch

from opd_toy.control.study import decimals, significant
from opd_toy.control.task import DRIFT, ITERATIONS, SEEDS, TEACHER_ITERATIONS, join, make_runs
from opd_toy.control.training import (
    distance_to_target,
    distillation,
    fresh_positions,
    train,
    train_teachers,
)

BOUNDS = {
    "-3 to 1": (-3.0, 1.0),
    "-2 to 0": (-2.0, 0.0),
    "-5 to 2": (-5.0, 2.0),
    "none": (-math.inf, math.inf),
}
GAMMAS = (0.0, 1.0)
# Teachers' and students' bounds, each with each, Adam 1e-3.
CROSSED = ("-2 to 0", "-3 to 1", "-5 to 2")
SHARES = (0.1, 0.25, 0.5, 0.75, 1.0)  # of the iterations: when the distance is taken
OPTIMISERS = {  # name -> (bounds it is tried with, options of make_runs)
    "Adam 1e-3": (tuple(BOUNDS), {}),
    "Adam 1e-3, norm clipped at 1": (tuple(BOUNDS), {"clip": 1.0}),
    "SGD 1e-2, norm clipped at 1": (tuple(BOUNDS), {"adam": False, "rate": 1e-2, "clip": 1.0}),
    "SGD 1e-6": (("-3 to 1",), {"adam": False, "rate": 1e-6}),
    "Adam 1e-4": (("-3 to 1",), {"rate": 1e-4}),
    "Adam 1e-2": (("-3 to 1",), {"rate": 1e-2}),
}
NOTES = [
    "A sum in the place of the mean over the 64 trajectories multiplies gradients by 64, a mean "
    "over time divides them by 20: for Adam without clipping that changes nothing (but for its "
    "epsilon), for SGD it is another rate, for clipping another limit.",
    "Adam clipped at norm 1 still takes steps of its usual size: it divides by its own running "
    "scale.",
    "'Was lost' also counts those who are merely slow (Adam 1e-4) or as wide as a target's "
    "distance (bounds -2 to 0, where a std may be 1): compare with gamma = 0.",
    "SGD without clipping needs a rate this small: early gradients have norms of 1e4 and more.",
]


def settings():
    """[(bounds' name, optimiser's name, options)], in the order of the stack."""
    return [
        (bounds, name, options) for name, (tried, options) in OPTIMISERS.items() for bounds in tried
    ]


def sensitivity(
    iterations=ITERATIONS,
    *,
    seeds=SEEDS,
    teacher_iterations=TEACHER_ITERATIONS,
    dtype=torch.float32,
    device="cpu",
    watch=None,
):
    """The results of ``figures/control-sensitivity.json``."""
    watch = watch or (lambda name: {})
    where = {"dtype": dtype, "device": device}
    teachers = train_teachers(
        tuple(BOUNDS.values()), teacher_iterations, **where, **watch("teachers")
    )
    runs, taught_by = stack(seeds, **where)
    own = teachers[:, [list(BOUNDS).index(bounds) for bounds in taught_by]]
    limits = runs.gamma.new_tensor([BOUNDS[bounds] for bounds in taught_by]).unbind(-1)
    gradient = distillation(runs, own, teacher_bounds=limits)
    kept = tuple(sorted({round(share * iterations) or min(1, iterations) for share in SHARES}))
    state = train(runs, gradient, iterations, kept, **watch("students"))
    rows, crossed = found(state, runs, seeds)
    return {
        "definition": f"drifts: mean |final position - target| > {DRIFT:g} on a task at the end; "
        "was lost: at any checkpoint",
        "iterations": iterations,
        "checkpoints": list(kept),
        "seeds": list(seeds),
        "gammas": list(GAMMAS),
        "notes": NOTES,
        "teachers": {
            name: teachers_under(teachers[:, i], bounds)
            for i, (name, bounds) in enumerate(BOUNDS.items())
        },
        "rows": rows,
        "crossed": crossed,
    }


def crossings():
    """Pairs (teacher's bounds, students') that differ; the equal ones are in ``settings``."""
    return [(teacher, student) for teacher in CROSSED for student in CROSSED if teacher != student]


def stack(seeds, **where):
    """The runs of all settings, then of all crossings; and each run's teachers' bounds."""
    stacks = [
        make_runs(GAMMAS, seeds, bounds=BOUNDS[bounds], **where, **options)
        for bounds, _, options in settings()
    ]
    stacks += [
        make_runs((1.0,), seeds, bounds=BOUNDS[student], **where) for _, student in crossings()
    ]
    of_settings = [bounds for bounds, _, _ in settings() for _ in range(len(GAMMAS) * len(seeds))]
    return join(stacks), of_settings + [teacher for teacher, _ in crossings() for _ in seeds]


def found(state, runs, seeds):
    """What became of the trained stack: a row a setting and gamma, a row a pair of bounds."""
    snapshots = [fresh_positions(parameters, runs) for parameters in state["snapshots"]]
    distance = torch.stack([distance_to_target(positions) for positions in snapshots])
    distance = distance.amax(1).T  # the worse task: (R, checkpoints)
    late = state["variance"][-(-len(state["variance"]) * 3 // 4) :].double().log().mean(0).exp()
    beyond = ~(distance <= DRIFT)  # so is what is not finite
    many = len(settings()) * len(GAMMAS) * len(seeds)
    by_setting = lambda x: x[:many].unflatten(0, (-1, len(GAMMAS), len(seeds)))
    by_crossing = lambda x: x[many:].unflatten(0, (-1, len(seeds)))
    of_all = distance, late, state["diverged"], beyond
    ends, late, diverged, lost = map(by_setting, of_all)
    rows = [
        {
            "bounds": bounds,
            "optimiser": name,
            "gamma": gamma,
            "distance": decimals(ends[i, g], 3),
            "late_variance": significant(late[i, g]),
            "not_finite_at": diverged[i, g].tolist(),
            "drifts": lost[i, g, :, -1].tolist(),
            "was_lost": lost[i, g].any(-1).tolist(),
        }
        for i, (bounds, name, _) in enumerate(settings())
        for g, gamma in enumerate(GAMMAS)
    ]
    cells = {
        (row["bounds"], row["bounds"]): ([run[-1] for run in row["distance"]], row["drifts"])
        for row in rows
        if (row["optimiser"], row["gamma"]) == ("Adam 1e-3", 1.0)
    }
    far, drifts = by_crossing(distance)[..., -1], by_crossing(beyond)[..., -1]
    for i, pair in enumerate(crossings()):
        cells[pair] = decimals(far[i], 3), drifts[i].tolist()
    crossed = [
        {"teacher": teacher, "student": student, "distance": cell[0], "drifts": cell[1]}
        for teacher in CROSSED
        for student in CROSSED
        for cell in [cells[teacher, student]]
    ]
    return rows, crossed


def teachers_under(pair, bounds):
    """Final positions of the two teachers trained under the same bounds."""
    runs = make_runs([1.0], (0, 1), bounds=bounds, dtype=pair.dtype, device=pair.device)
    end = fresh_positions(pair, runs)[:, -1]
    own = torch.stack([end[0, 0], end[1, 1]])
    return {
        "final_position_mean": decimals(own.mean(-1)),
        "final_position_sd": decimals(own.std(-1)),
    }
