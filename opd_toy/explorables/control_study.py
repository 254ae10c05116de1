"""The control study: variance along training, and where each run got to (chapter 6)."""

import base64
import functools

import numpy as np
import traitlets

from opd_toy.explorables.host import Explorable
from opd_toy.records import provenance

GAMMAS, SEEDS, TASKS, LENGTH = [0, 0.25, 0.5, 0.75, 1], [42, 43, 2026], ["left", "right"], 2000
BLOCK = 40  # iterations whose variances are averaged, half of them of each task
PATHS = 4  # trajectories shown of those recorded
REACH = 9  # positions further out, beyond the picture's edge, are cut here


class ControlStudy(Explorable):
    """The recorded two-teacher study: gradient variance and trajectories along training.

    Traits: ``gamma`` (0, 0.25, 0.5, 0.75 or 1), ``seed`` (42, 43 or 2026), ``task`` ("left" or
    "right"), ``iteration`` (40…2000).  Raises FileNotFoundError, naming the command that makes
    it, where the record is missing, and ValueError where it is of another study.
    """

    shown = (
        "Left: the variance of the gradient along 2000 training iterations on a logarithmic "
        "axis, a line for each γ. Right: trajectories of the trained student, position against "
        "time step, from the start towards the target. A table gives, for each γ, the variance "
        "around the chosen iteration and where the trajectories end."
    )
    gamma = traitlets.Enum(GAMMAS, 1).tag(sync=True)
    seed = traitlets.Enum(SEEDS, 43).tag(sync=True)
    task = traitlets.Enum(TASKS, "left").tag(sync=True)
    iteration = traitlets.Int(800, min=BLOCK, max=LENGTH).tag(sync=True)
    recording = traitlets.Dict().tag(sync=True, data=True)

    def __init__(self, **traits):
        super().__init__(recording=recording(), **traits)


def block_means(study):
    """Geometric means of the variances (γ, seed, task, block) over blocks of BLOCK iterations."""
    iterations = np.asarray(study["iterations"])
    with np.errstate(divide="ignore", invalid="ignore"):
        logarithms = np.log(np.asarray(study["variance"], dtype=np.float64))
    logarithms[~np.isfinite(logarithms)] = np.nan  # a run that broke down has gaps
    chosen = [
        [
            (iterations % 2 == 1 - task) & (-(-iterations // BLOCK) == block)
            for block in range(1, LENGTH // BLOCK + 1)
        ]
        for task in range(2)  # left is trained at odd iterations, right at even ones
    ]
    known = np.isfinite(logarithms)
    sums = np.einsum("gsi,tbi->gstb", np.where(known, logarithms, 0), np.array(chosen, dtype=float))
    counts = np.einsum("gsi,tbi->gstb", known.astype(float), np.array(chosen, dtype=float))
    return np.exp(sums / np.where(counts, counts, np.nan))


@functools.cache
def recording():
    """The record as the module wants it: small integers, in base64, and their scales."""
    study = provenance.recorded("control-study", "variance")
    for name, ours in {"gammas": GAMMAS, "seeds": SEEDS, "tasks": TASKS}.items():
        if study[name] != ours:
            raise ValueError(
                f"{name} in figures/control-study.json must be {ours!r}, not {study[name]!r}"
            )
    if study["iterations"][-1] != LENGTH:
        raise ValueError(
            f"iterations in figures/control-study.json must end at {LENGTH}, "
            f"not {study['iterations'][-1]}"
        )
    logarithms = np.log(block_means(study))
    low, high = float(np.nanmin(logarithms)), float(np.nanmax(logarithms))
    codes = np.rint((logarithms - low) / (high - low) * 65534) + 1  # 0: none
    paths = np.asarray(study["trajectories"])[..., :PATHS, :]
    positions = np.rint((np.clip(paths, -REACH, REACH) + REACH) * (255 / (2 * REACH)))
    return {
        "gammas": GAMMAS,
        "seeds": SEEDS,
        "tasks": TASKS,
        "block": BLOCK,
        "starts": study["starts"],
        "targets": study["targets"],
        "low": low,
        "high": high,
        "variance": _base64(np.nan_to_num(codes), "<u2"),
        "checkpoints": study["checkpoints"],
        "reach": REACH,
        "paths": PATHS,
        "points": paths.shape[-1],
        "positions": _base64(positions, "u1"),
        "ends": [np.round(study["final_position"][what], 3).tolist() for what in ("mean", "sd")],
        "teacher": [study["teachers"][f"final_position_{what}"] for what in ("mean", "sd")],
    }


def _base64(codes, kind):
    return base64.b64encode(codes.astype(kind).tobytes()).decode()
