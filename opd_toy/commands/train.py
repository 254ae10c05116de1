"""What `python -m opd_toy train` does and prints; it computes by ``opd_toy.lm.training``."""

import contextlib
import datetime
import json
import os
import sys
from pathlib import Path

from opd_toy.commands.running import Progress, aligned, find_device, stoppable, threads

# Ranks wait so long for the first, which makes the models and evaluates.
PATIENCE = datetime.timedelta(hours=2)


def add(commands):
    parser = commands.add_parser(
        "train",
        help="distill a small transformer by one method",
        description="Train a student to follow a teacher by one of the book's methods and print "
        "its learning curve. The teacher and the starting student are made first, from a seed, "
        "and kept. Interrupted or killed, the same command goes on where the run was, to the "
        "same curve bit for bit if it has as many threads. Several processes share the texts of "
        "a step: torchrun --nproc-per-node=N -m opd_toy train --method METHOD ...",
        epilog="Without --method: what each method is.",
    )
    parser.add_argument("--method", help="sft, seqkd, gkd, pg_0, ...; without it they are listed")
    parser.add_argument(
        "--preset",
        default="tiny",
        help="sizes and steps: tiny, cpu, small-gpu or gpu (default: tiny)",
    )
    parser.add_argument("--seed", type=int, default=1, help="of prompts and draws (default: 1)")
    parser.add_argument("--steps", type=int, help="steps to train for (default: the preset's)")
    parser.add_argument(
        "--micro-batches",
        type=int,
        default=1,
        help="parts in which each process takes its texts: less memory, the same gradient "
        "(default: 1)",
    )
    parser.add_argument(
        "--device", default="cpu", help="where to train, such as cpu or cuda (default: cpu)"
    )
    parser.add_argument(
        "--threads", type=int, default=1, help="threads PyTorch may use, a process (default: 1)"
    )
    parser.add_argument(
        "--float64",
        action="store_true",
        help="compute in float64, with models of its own in FOLDER/float64: short runs then come "
        "out alike on other processors; in float32 differences of rounding grow into another run",
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("_build/lm"),
        help="where models and checkpoints are kept (default: _build/lm)",
    )
    parser.add_argument(
        "--json", action="store_true", help="print the curve as JSON in the place of a table"
    )
    parser.set_defaults(run=lambda arguments: run(parser, arguments))


def run(parser, arguments):
    first = int(os.environ.get("RANK", 0)) == 0
    with stoppable(parser, speaks=first), threads(arguments.threads):
        from opd_toy.lm.training import NotFinite

        try:
            with _precision(arguments.float64):
                _run(arguments, first)
        except NotFinite as error:
            sys.exit(str(error) if first else 1)


def _run(arguments, first):
    from opd_toy.lm.methods import METHODS, find_method
    from opd_toy.lm.presets import PRESETS
    from opd_toy.lm.training import distill, student_path

    if arguments.method is None:
        width = max(map(len, METHODS))
        for name, method in METHODS.items() if first else ():
            print(f"{name:{width}}  {method.words}")
        return
    find_method(arguments.method)
    if arguments.preset not in PRESETS:
        raise ValueError(f"preset is {arguments.preset!r}; give one of {', '.join(PRESETS)}")
    preset = PRESETS[arguments.preset]
    if arguments.float64 and preset.autocast:
        raise ValueError(
            f"preset is {preset.name!r}, which computes in {preset.autocast}; leave out --float64"
        )
    device = _device(arguments.device)
    folder = arguments.folder / "float64" if arguments.float64 else arguments.folder
    with _processes(device, lambda: _models(preset, folder, device)) as (
        teacher,
        student,
    ):
        curve = distill(
            arguments.method,
            preset,
            arguments.seed,
            teacher,
            student,
            folder=folder,
            steps=arguments.steps,
            micro_batches=arguments.micro_batches,
            device=device,
            report=Progress(f"{arguments.method}: {preset.name}, seed {arguments.seed}"),
        )
    if first:
        path = student_path(folder, arguments.method, preset, arguments.seed, arguments.steps)
        _tell(arguments, device, path, curve)


def _tell(arguments, device, path, curve):
    from opd_toy.lm.methods import METHODS

    if arguments.json:
        of_run = {
            "method": arguments.method,
            "preset": arguments.preset,
            "seed": arguments.seed,
            "device": str(device),
            "dtype": "float64" if arguments.float64 else "float32",
            "clock": "processor seconds" if device.type == "cpu" else "seconds",
            "student": str(path),
            "curve": curve,
        }
        print(json.dumps(of_run))
    else:
        print(f"{arguments.method}: {METHODS[arguments.method].words}\n\n{curve_table(curve)}")
        print(f"the trained student is {path}", file=sys.stderr)


@contextlib.contextmanager
def _precision(float64):
    """While new models are of float64, if they are to be."""
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64 if float64 else before)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _models(preset, folder, device):
    from opd_toy.lm.pretraining import student, teacher

    return tuple(
        make(preset, folder, report=Progress(f"{make.__name__}: {preset.name}"), device=device)
        for make in (teacher, student)
    )


# --- processes and devices ---------------------------------------------------------------


def _device(name):
    """The device of this process.

    Of those that torchrun starts on one machine each has a GPU of its own.
    """
    import torch

    device = find_device(name)
    if device.type == "cuda":
        index = os.environ.get("LOCAL_RANK", 0) if device.index is None else device.index
        device = find_device(f"cuda:{index}")
        torch.cuda.set_device(device)
        torch.use_deterministic_algorithms(True, warn_only=True)
    return device


@contextlib.contextmanager
def _processes(device, make):
    """What ``make()`` gives, in a group of processes if torchrun has started several.

    The first makes it, the others then read it.
    """
    from torch import distributed

    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield make()
        return
    made = make() if os.environ["RANK"] == "0" else None
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        distributed.barrier()
        yield made or make()
    finally:
        distributed.destroy_process_group()


# --- the table ---------------------------------------------------------------------------


def curve_table(curve):
    """A row for each time the student was measured."""
    columns = {name: values for name, values in curve.items() if isinstance(values, list)}
    rows = [[name.replace("_", " ") for name in columns]]
    for row in zip(*columns.values()):
        rows.append([_figure(name, value) for name, value in zip(columns, row)])
    return aligned(rows)


def _figure(name, value):
    if value is None:
        return "-"
    if isinstance(value, int):
        return str(value)
    return f"{value:.1f}" if name == "seconds" else f"{value:.3f}"
