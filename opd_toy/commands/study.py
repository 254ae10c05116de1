"""What `python -m opd_toy study` does; it computes by ``opd_toy.lm.study.stages``."""

import dataclasses
import json
import sys
import time
from pathlib import Path

from opd_toy.commands.running import (
    Progress,
    find_device,
    read_record,
    stoppable,
    unchanged,
    write_record,
)
from opd_toy.commands.study_tables import report

RECORDED = ("cpu", "small-gpu", "gpu")  # presets whose record belongs to the book
ON_A_GPU = ("small-gpu", "gpu")


def add(commands):
    parser = commands.add_parser(
        "study",
        help="train a small transformer by every method and compare",
        description="Train the student of a preset by every method and seed, at equal numbers "
        "of texts, measure what becomes of it and record the figures with their provenance. "
        "Interrupted or killed, the same command goes on; what is finished is not done again.",
    )
    parser.add_argument(
        "--preset",
        default="cpu",
        help="sizes and steps: tiny, cpu, small-gpu or gpu (default: cpu)",
    )
    parser.add_argument(
        "--methods", help="names with commas between, such as gkd,pg_0 (default: all)"
    )
    parser.add_argument("--steps", type=int, help="steps of a run (default: the preset's)")
    parser.add_argument("--seeds", help="numbers with commas between (default: the preset's)")
    parser.add_argument(
        "--workers",
        type=int,
        help="processes of one thread each, on the CPU (default: the preset's)",
    )
    parser.add_argument(
        "--device",
        help="where to train, such as cpu or cuda (default: cuda for the GPU presets, else cpu)",
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("_build/lm"),
        help="where models and unfinished work are kept (default: _build/lm)",
    )
    parser.add_argument(
        "--directory",
        type=Path,
        help="where the record goes (default: figures, but --folder for the tiny preset and with "
        "--methods, --steps or --seeds, so that a trial does not take the record's place)",
    )
    parser.add_argument(
        "--show", action="store_true", help="print the recorded figures; train nothing"
    )
    parser.add_argument(
        "--json", action="store_true", help="print the figures as JSON in the place of tables"
    )
    parser.set_defaults(run=lambda arguments: run(parser, arguments))


def run(parser, arguments):
    with stoppable(parser):
        try:
            results = read_record(_record(arguments)) if arguments.show else _made(arguments)
        except KeyboardInterrupt:
            print("stopped; the same command goes on", file=sys.stderr)
            raise
        print(json.dumps(results) if arguments.json else report(results))


def _record(arguments):
    """Where the record is, written and shown: a trial's with its models; needs no PyTorch."""
    changed = (arguments.steps, arguments.seeds, arguments.methods) != (None, None, None)
    trial = changed or arguments.preset not in RECORDED
    directory = arguments.directory or (arguments.folder if trial else Path("figures"))
    return directory / f"lm-study-{arguments.preset}.json"


def _made(arguments):
    from opd_toy.lm.presets import PRESETS

    if arguments.preset not in PRESETS:
        raise ValueError(f"preset is {arguments.preset!r}; give one of {', '.join(PRESETS)}")
    return _make(*_plan(arguments, PRESETS[arguments.preset]), arguments)


def _plan(arguments, preset):
    """The preset and the methods that were asked for."""
    from opd_toy import _validate
    from opd_toy.lm.methods import METHODS

    settings = {}
    if arguments.steps is not None:
        _validate.whole("steps", arguments.steps)
        every = min(preset.distillation.evaluate_every, arguments.steps)
        settings["distillation"] = dataclasses.replace(
            preset.distillation, steps=arguments.steps, evaluate_every=every
        )
    if arguments.seeds is not None:
        try:
            settings["seeds"] = tuple(int(seed) for seed in arguments.seeds.split(","))
        except ValueError:
            raise ValueError(
                f"seeds is {arguments.seeds!r}; give whole numbers with commas between, such as "
                "1,2,3"
            ) from None
        if min(settings["seeds"]) < 0 or len(set(settings["seeds"])) < len(settings["seeds"]):
            raise ValueError(f"seeds is {arguments.seeds!r}; give different numbers of at least 0")
    preset = dataclasses.replace(preset, **settings)
    methods = tuple(METHODS)
    if arguments.methods is not None:
        methods = tuple(dict.fromkeys(arguments.methods.split(",")))
    return preset, methods


def _make(preset, methods, arguments):
    import torch

    from opd_toy import _validate
    from opd_toy.lm.study.stages import MODULES, study

    device = find_device(arguments.device or ("cuda" if preset.name in ON_A_GPU else "cpu"))
    workers = preset.workers if arguments.workers is None else arguments.workers
    _validate.whole("workers", workers)
    if device.type == "cuda":
        torch.use_deterministic_algorithms(True, warn_only=True)
    path, started = _record(arguments), time.monotonic()
    with unchanged(path, MODULES):
        results = study(
            preset,
            arguments.folder,
            methods=methods,
            workers=workers,
            device=device,
            watch=lambda stage: Progress(f"study {preset.name}: {stage}"),
        )
    seeds = list(preset.seeds)
    write_record(path, results, modules=MODULES, seed=seeds, device=results["device"])
    seconds = time.monotonic() - started
    print(f"study {preset.name}: {seconds:.0f} s in this go; recorded in {path}", file=sys.stderr)
    return results
