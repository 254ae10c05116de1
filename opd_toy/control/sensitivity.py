"""Under which of the choices that the paper leaves open does gamma = 1 drift?

Every setting below is trained with gamma = 0 and gamma = 1 and the study's seeds, all in
one stack, its teachers under the same bounds of the std; and, for gamma = 1, students
under each of three bounds with teachers under each.  Decided before looking: a run
*drifts* if at the end its final positions lie further than 1 from a target on average,
and *was lost* if they did at any of the checkpoints from a tenth of the training on.
"""

import math

import torch

from opd_toy.control import task as pc
from opd_toy.control.study import decimals, significant

BOUNDS = {
    "-3 to 1": (-3.0, 1.0),
    "-2 to 0": (-2.0, 0.0),
    "-5 to 2": (-5.0, 2.0),
    "none": (-math.inf, math.inf),
}
GAMMAS = (0.0, 1.0)
CROSSED = (
    "-2 to 0",
    "-3 to 1",
    "-5 to 2",
)  # teachers' and students' bounds, each with each, Adam 1e-3
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
    "A sum in the place of the mean over the 64 trajectories multiplies gradients by 64, a mean over time divides them by 20: "
    "for Adam without clipping that changes nothing (but for its epsilon), for SGD it is another rate, for clipping another limit.",
    "Adam clipped at norm 1 still takes steps of its usual size: it divides by its own running scale.",
    "'Was lost' also counts those who are merely slow (Adam 1e-4) or as wide as a target's distance (bounds -2 to 0, where a std may be 1): compare with gamma = 0.",
    "SGD without clipping needs a rate this small: early gradients have norms of 1e4 and more.",
]


def settings():
    """[(bounds' name, optimiser's name, options)], in the order of the stack."""
    return [
        (bounds, name, options) for name, (tried, options) in OPTIMISERS.items() for bounds in tried
    ]


def sensitivity(
    iterations=pc.ITERATIONS,
    *,
    seeds=pc.SEEDS,
    teacher_iterations=pc.TEACHER_ITERATIONS,
    dtype=torch.float32,
    device="cpu",
    watch=None,
):
    """The results of ``figures/control-sensitivity.json``."""
    watch = watch or (lambda name: {})
    teachers = pc.train_teachers(
        tuple(BOUNDS.values()), teacher_iterations, dtype=dtype, device=device, **watch("teachers")
    )
    crossed = [
        (teacher, student) for teacher in CROSSED for student in CROSSED if teacher != student
    ]  # the equal ones are among the settings
    stacks = [
        pc.make_runs(GAMMAS, seeds, bounds=BOUNDS[bounds], dtype=dtype, device=device, **options)
        for bounds, _, options in settings()
    ]
    stacks += [
        pc.make_runs((1.0,), seeds, bounds=BOUNDS[student], dtype=dtype, device=device)
        for _, student in crossed
    ]
    runs = pc.join(stacks)
    taught_by = [bounds for bounds, _, _ in settings() for _ in range(len(GAMMAS) * len(seeds))] + [
        teacher for teacher, _ in crossed for _ in seeds
    ]
    own = teachers[:, [list(BOUNDS).index(bounds) for bounds in taught_by]]
    limits = runs.gamma.new_tensor([BOUNDS[bounds] for bounds in taught_by]).unbind(-1)
    kept = (
        tuple(sorted({max(1, round(share * iterations)) for share in SHARES}))
        if iterations
        else (0,)
    )
    state = pc.train(
        runs,
        pc.distillation(runs, own, teacher_bounds=limits),
        iterations,
        kept,
        **watch("students"),
    )
    distance = torch.stack(
        [
            pc.distance_to_target(pc.fresh_positions(parameters, runs))
            for parameters in state["snapshots"]
        ]
    )
    distance = distance.amax(1).T  # the worse task: (R, checkpoints)
    late = state["variance"][-(-len(state["variance"]) * 3 // 4) :].double().log().mean(0).exp()
    beyond = ~(distance <= pc.DRIFT)  # what is not finite is beyond, too
    of_settings = len(settings()) * len(GAMMAS) * len(seeds)
    apart = lambda x: (
        x[:of_settings].unflatten(0, (-1, len(GAMMAS), len(seeds))),
        x[of_settings:].unflatten(0, (-1, len(seeds))),
    )
    (distance, far), (late, _), (diverged, _), (beyond, lost) = map(
        apart, (distance, late, state["diverged"], beyond)
    )
    rows = []
    for i, (bounds, name, _) in enumerate(settings()):
        for g, gamma in enumerate(GAMMAS):
            rows.append({
                "bounds": bounds, "optimiser": name, "gamma": gamma, "distance": decimals(distance[i, g], 3), "late_variance": significant(late[i, g]),
                "not_finite_at": diverged[i, g].tolist(), "drifts": beyond[i, g, :, -1].tolist(), "was_lost": beyond[i, g].any(-1).tolist(),
            })  # fmt: skip
    return {
        "definition": f"drifts: mean |final position - target| > {pc.DRIFT:g} on a task at the end; was lost: at any checkpoint",
        "iterations": iterations, "checkpoints": list(kept), "seeds": list(seeds), "gammas": list(GAMMAS), "notes": NOTES,
        "teachers": {name: teachers_under(teachers[:, i], bounds) for i, (name, bounds) in enumerate(BOUNDS.items())},
        "rows": rows,
        "crossed": [crossed_row(teacher, student, rows, crossed, far, lost) for teacher in CROSSED for student in CROSSED],
    }  # fmt: skip


def crossed_row(teacher, student, rows, crossed, distance, beyond):
    """Where students of gamma = 1 end, under their own bounds and a teacher's."""
    if teacher == student:
        same = next(
            row
            for row in rows
            if (row["bounds"], row["optimiser"], row["gamma"]) == (student, "Adam 1e-3", 1.0)
        )
        ends, drifts = [run[-1] for run in same["distance"]], same["drifts"]
    else:
        i = crossed.index((teacher, student))
        ends, drifts = decimals(distance[i, :, -1], 3), beyond[i, :, -1].tolist()
    return {"teacher": teacher, "student": student, "distance": ends, "drifts": drifts}


def teachers_under(pair, bounds):
    """Final positions of the two teachers trained under the same bounds."""
    runs = pc.make_runs([1.0], (0, 1), bounds=bounds, dtype=pair.dtype, device=pair.device)
    end = pc.fresh_positions(pair, runs)[:, -1]
    own = torch.stack([end[0, 0], end[1, 1]])
    return {
        "final_position_mean": decimals(own.mean(-1)),
        "final_position_sd": decimals(own.std(-1)),
    }
