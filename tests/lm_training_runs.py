"""Small runs of the lab for tests/test_lm_training.py, in processes of their own.

They are to be killed, or run several at once.

python -m tests.lm_training_runs killed FOLDER         a run with a checkpoint at each step
python -m torch.distributed.run ... ranks FOLDER       the command, then runs in float64
python -m tests.lm_training_runs command ARGUMENTS     python -m opd_toy ARGUMENTS, with SMALL as
                                                       its tiny preset
"""

import dataclasses
import os
import signal
import sys
from pathlib import Path

import torch

from opd_toy.__main__ import main
from opd_toy.lm import presets, training
from opd_toy.lm.model import Shape, load
from opd_toy.lm.presets import Distillation, Preset, Recipe
from opd_toy.lm.tasks import Sums
from opd_toy.records.checkpoints import Stop

TASK = Sums(terms=2, digits=1)
LENGTH = TASK.prompt_length + TASK.length
SMALL = Preset(
    "tiny",
    TASK,
    teacher=Recipe(Shape(TASK.vocabulary, 32, 2, 2, LENGTH), steps=60, batch=64, rate=1e-2),
    student=Recipe(Shape(TASK.vocabulary, 16, 1, 2, LENGTH), steps=30, batch=64, rate=1e-2, seed=1),
    distillation=Distillation(
        steps=8, batch=16, rate=3e-3, group=4, evaluate_every=4, evaluation_prompts=16
    ),
    seeds=(1,),
)
KILLED = "opd_reward", 5, 40  # method, seed, steps
RANKS = ("sft", "gkd", "pg_1", "opd_reward")
STOPPED = "pg_1"  # of them, and taken up again


def models(folder):
    """The teacher and the student that a test has put there."""
    return load(Path(folder) / "tiny-teacher.safetensors"), load(
        Path(folder) / "tiny-student.safetensors"
    )


def killed(folder):
    method, seed, steps = KILLED
    return training.distill(
        method,
        SMALL,
        seed,
        *models(folder),
        folder=Path(folder) / "killed",
        steps=steps,
        seconds=0,
        report=lambda done, steps: print(done, flush=True),
    )


def in_float64(folder, out, method, **options):
    """A short run in float64, and its weights."""
    teacher, student = (model.double() for model in models(folder))
    training.distill(
        method, SMALL, 3, teacher, student, folder=out, steps=4, say=lambda text: None, **options
    )
    return load(training.student_path(out, method, SMALL, 3, 4)).state_dict()


def stopped_at_step_2(folder, out, method):
    """The run is stopped where the second process alone has heard the signal."""
    step = training.step

    def heard(run, number):
        if number == 2 and os.environ["RANK"] == "1":
            Stop.asked = signal.SIGTERM
        return step(run, number)

    training.step = heard
    try:
        in_float64(folder, out, method)
    except KeyboardInterrupt:
        iteration = (
            torch.load(training.student_path(out, method, SMALL, 3, 4).with_suffix(".pt"))["state"][
                "iteration"
            ]
            if os.environ["RANK"] == "0"
            else None
        )
        print(f"stopped with {iteration}", flush=True)
    training.step, Stop.asked = step, 0


def ranks(folder):
    command(
        [
            "train",
            "--method",
            "gkd",
            "--preset",
            "tiny",
            "--steps",
            "3",
            "--json",
            "--folder",
            str(Path(folder) / "made by two"),
        ]
    )
    # torchrun's own meeting place serves one group, the command's
    torch.distributed.init_process_group(
        "gloo", f"file://{folder}/meeting", rank=int(os.environ["RANK"]), world_size=2
    )
    for method in RANKS:
        if method == STOPPED:
            stopped_at_step_2(folder, Path(folder) / "two", method)
        in_float64(folder, Path(folder) / "two", method)
    in_float64(folder, Path(folder) / "two-in-parts", "gkd", micro_batches=4)
    odd = dataclasses.replace(SMALL, distillation=dataclasses.replace(SMALL.distillation, batch=12))
    try:
        training.distill("rlvr", odd, 3, *models(folder), folder=folder)
    except ValueError as error:
        print(error)
    torch.distributed.destroy_process_group()


def command(arguments):
    presets.PRESETS["tiny"] = SMALL
    main(arguments)


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1] == "command":
        command(sys.argv[2:])
    else:
        {"killed": killed, "ranks": ranks}[sys.argv[1]](sys.argv[2])
