"""Under which of the choices that the paper leaves open does gamma = 1 drift?

Every setting below is trained with gamma = 0 and gamma = 1 and the study's seeds, all in
one stack, its teachers under the same bounds of the std.  Decided before looking: a run
*drifts* if at the end its final positions lie further than 1 from a target on average,
and *was lost* if they did at any of the checkpoints from a tenth of the training on.
"""

import math

import torch

from opd_toy import point_control as pc
from opd_toy.point_control_study import decimals, significant

BOUNDS = {"-3 to 1": (-3.0, 1.0), "-2 to 0": (-2.0, 0.0), "-5 to 2": (-5.0, 2.0), "none": (-math.inf, math.inf)}
GAMMAS = (0.0, 1.0)
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
    return [(bounds, name, options) for name, (tried, options) in OPTIMISERS.items() for bounds in tried]


def sensitivity(iterations=pc.ITERATIONS, *, seeds=pc.SEEDS, teacher_iterations=pc.TEACHER_ITERATIONS, dtype=torch.float32, device="cpu", watch=None):
    """The results of ``figures/control-sensitivity.json``."""
    watch = watch or (lambda name: {})
    teachers = pc.train_teachers(tuple(BOUNDS.values()), teacher_iterations, dtype=dtype, device=device, **watch("teachers"))
    stacks = [pc.make_runs(GAMMAS, seeds, bounds=BOUNDS[bounds], dtype=dtype, device=device, **options) for bounds, _, options in settings()]
    runs, size = pc.join(stacks), len(GAMMAS) * len(seeds)
    own = torch.cat([teachers[:, [list(BOUNDS).index(bounds)]].expand(-1, size, -1) for bounds, _, _ in settings()], dim=1)
    kept = tuple(sorted({max(1, round(share * iterations)) for share in SHARES})) if iterations else (0,)
    state = pc.train(runs, pc.distillation(runs, own), iterations, kept, **watch("students"))
    distance = torch.stack([pc.distance_to_target(pc.fresh_positions(parameters, runs)) for parameters in state["snapshots"]])
    distance = distance.amax(1).T.unflatten(0, (-1, len(GAMMAS), len(seeds)))  # the worse task: [setting][gamma][seed][checkpoint]
    late = state["variance"][-(-len(state["variance"]) * 3 // 4) :]
    late = late.double().log().mean(0).exp().unflatten(0, (-1, len(GAMMAS), len(seeds)))
    diverged = state["diverged"].unflatten(0, (-1, len(GAMMAS), len(seeds)))
    beyond = ~(distance <= pc.DRIFT)  # what is not finite is beyond, too
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
    }  # fmt: skip


def teachers_under(pair, bounds):
    """Final positions of the two teachers trained under the same bounds."""
    runs = pc.make_runs([1.0], (0, 1), bounds=bounds, dtype=pair.dtype, device=pair.device)
    end = pc.fresh_positions(pair, runs)[:, -1]
    own = torch.stack([end[0, 0], end[1, 1]])
    return {"final_position_mean": decimals(own.mean(-1)), "final_position_sd": decimals(own.std(-1))}
