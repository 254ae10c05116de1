"""What `python -m opd_toy study` does and prints; what it computes lives in ``opd_toy.lm.study.stages``."""

import dataclasses
import json
import os
import sys
import time
from pathlib import Path

from opd_toy.commands.running import read_record

RECORDED = ("cpu", "gpu")  # presets whose record belongs to the book


def add(commands):
    parser = commands.add_parser(
        "study",
        help="train a small transformer by every method and compare",
        description="Train the student of a preset by every method and seed, at equal numbers of texts, measure what becomes of it and record the figures with their provenance. "
        "Interrupted or killed, the same command goes on; what is finished is not done again.",
    )
    parser.add_argument(
        "--preset", default="cpu", help="sizes and steps: tiny, cpu or gpu (default: cpu)"
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
        help="where to train, such as cpu or cuda (default: cuda for the gpu preset, else cpu)",
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
        help="where the record goes (default: figures for the book's own settings of cpu and gpu, else --folder, so that a trial does not take the record's place)",
    )
    parser.add_argument(
        "--show", action="store_true", help="print the recorded figures; train nothing"
    )
    parser.add_argument(
        "--json", action="store_true", help="print the figures as JSON in the place of tables"
    )
    parser.set_defaults(run=lambda arguments: run(parser, arguments))


def run(parser, arguments):
    # read when PyTorch is first imported: threads wait asleep, for on a busy machine those that spin take each other's time
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    os.environ.setdefault(
        "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
    )  # without it matrix products on a GPU do not repeat bit for bit
    from opd_toy.records.checkpoints import Stop

    try:
        with Stop():
            _run(arguments)
    except ValueError as error:
        parser.error(str(error))
    except OSError as error:
        sys.exit(
            f"could not read or write ({error}). Nothing finished is lost: make room and give the same command again."
        )
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        sys.exit(130)


def _run(arguments):
    results = read_record(_shown(arguments)) if arguments.show else _made(arguments)
    print(json.dumps(results) if arguments.json else report(results))


def _shown(arguments):
    """Where the record is that --show prints; needs no PyTorch."""
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
    """Where the record goes, and the preset and the methods that were asked for."""
    from opd_toy import _validate
    from opd_toy.lm.methods import METHODS

    asked, settings = preset, {}
    if arguments.steps is not None:
        _validate.whole("steps", arguments.steps)
        every = max(1, min(preset.distillation.evaluate_every, arguments.steps))
        settings["distillation"] = dataclasses.replace(
            preset.distillation, steps=arguments.steps, evaluate_every=every
        )
    if arguments.seeds is not None:
        try:
            settings["seeds"] = tuple(int(seed) for seed in arguments.seeds.split(","))
        except ValueError:
            raise ValueError(
                f"seeds is {arguments.seeds!r}; give whole numbers with commas between, such as 1,2,3"
            ) from None
        if min(settings["seeds"]) < 0 or len(set(settings["seeds"])) < len(settings["seeds"]):
            raise ValueError(f"seeds is {arguments.seeds!r}; give different numbers of at least 0")
    preset = dataclasses.replace(preset, **settings)
    methods = (
        tuple(METHODS)
        if arguments.methods is None
        else tuple(dict.fromkeys(arguments.methods.split(",")))
    )
    ours = preset == asked and methods == tuple(METHODS) and preset.name in RECORDED
    directory = arguments.directory or (Path("figures") if ours else arguments.folder)
    return directory / f"lm-study-{preset.name}.json", preset, methods


def _make(path, preset, methods, arguments):
    import torch

    from opd_toy import _validate
    from opd_toy.commands.running import unchanged
    from opd_toy.commands.running import Progress
    from opd_toy.commands.running import find_device
    from opd_toy.lm.study.stages import MODULES, study
    from opd_toy.records import provenance

    device = find_device(arguments.device or ("cuda" if preset.name == "gpu" else "cpu"))
    workers = preset.workers if arguments.workers is None else arguments.workers
    _validate.whole("workers", workers)
    if device.type == "cuda":
        torch.use_deterministic_algorithms(True, warn_only=True)
    started, before = time.monotonic(), torch.get_num_threads()
    torch.set_num_threads(workers)
    try:
        with unchanged(path, MODULES):
            results = study(
                preset,
                arguments.folder,
                methods=methods,
                workers=workers,
                device=device,
                watch=lambda stage: Progress(f"study {preset.name}: {stage}"),
            )
    finally:
        torch.set_num_threads(before)
    path.parent.mkdir(parents=True, exist_ok=True)
    provenance.record(
        path, results, modules=MODULES, seed=list(preset.seeds), device=results["device"]
    )
    print(
        f"study {preset.name}: {time.monotonic() - started:.0f} s in this go; recorded in {path}",
        file=sys.stderr,
    )
    return results


# --- tables ------------------------------------------------------------------------------


def report(results):
    return "\n\n".join(
        [
            header(results),
            methods_table(results),
            *broken(results),
            *([sweep_table(results)] if results["sweep"] else []),
            *([teacher_table(results)] if results["from_teacher"] else []),
            *(frozen_table(results, student) for student in results["frozen"]),
            claims_table(results),
        ]
    )


def header(results):
    steps, batch = (results["preset"]["distillation"][name] for name in ("steps", "batch"))
    return f"{results['preset']['name']}: {steps} steps of {batch} texts, seeds {', '.join(map(str, results['seeds']))}, on {results['device']}; measured on {results['final']['prompts']} prompts kept for tests"


MEASURES = (
    "accuracy",
    "right_working",
    "sequence_kl",
    "forward_sequence_kl",
    "order_entropy",
    "distinct",
    "length",
)


def methods_table(results):
    """Mean over seeds at the end, and what it cost."""
    from opd_toy.commands.running import aligned as _aligned

    rows = [["", *(name.replace("_", " ") for name in MEASURES), "tokens", results["clock"]]]
    final = results["final"]
    for name in ("teacher", "start"):
        rows.append([name, *(_plain(final[name][measure]) for measure in MEASURES), "", ""])
    for name, runs in results["curves"].items():
        ends = [[seed and seed[measure] for seed in final[name]] for measure in MEASURES]
        rows.append(
            [
                name,
                *(_plain(_mean(values)) for values in ends),
                f"{_mean([run['tokens'][-1] for run in runs]):.0f}",
                f"{_mean([run['seconds'][-1] for run in runs]):.0f}",
            ]
        )
    return _aligned(rows)


def broken(results):
    """A line for every run that has no end."""
    runs = results["curves"] | {
        f"{name} from the teacher": found["curves"]
        for name, found in results["from_teacher"].get("methods", {}).items()
    }
    return [
        f"{name}, seed {seed}, broke down and is in no mean: {curve['not_finite']}"
        for name, curves in runs.items()
        for seed, curve in zip(results["seeds"], curves)
        if "not_finite" in curve
    ]


def teacher_table(results):
    """What becomes of a student that starts as the teacher; mean over seeds."""
    from opd_toy.commands.running import aligned as _aligned

    found = results["from_teacher"]
    rows = [
        ["", "gain in right workings", *(name.replace("_", " ") for name in MEASURES)],
        ["teacher", "", *(_plain(results["final"]["teacher"][measure]) for measure in MEASURES)],
    ]
    for name, of in found["methods"].items():
        gain = _mean([seed and seed["gain"][0] for seed in of["final"]])
        rows.append(
            [
                name,
                "-" if gain is None else f"{gain:.4f}",
                *(
                    _plain(_mean([seed and seed[measure] for seed in of["final"]]))
                    for measure in MEASURES
                ),
            ]
        )
    return (
        f"Students that start as the teacher: {found['steps']} steps at the rate {found['rate']:.2g}\n\n"
        + _aligned(rows)
    )


def sweep_table(results):
    """Sequence KL and accuracy at the end, by learning rate."""
    from opd_toy.commands.running import aligned as _aligned

    rates = [row["rate"] for row in next(iter(results["sweep"].values()))]
    rows = [["rate", *(f"{rate:.2g}" for rate in rates)]]
    for name, found in results["sweep"].items():
        rows.append(
            [name, *(f"{_plain(row['sequence_kl'])} ({_plain(row['accuracy'])})" for row in found)]
        )
    return f"Sequence KL (accuracy) at the end by rate, seed {results['seeds'][0]}\n\n" + _aligned(
        rows
    )


def frozen_table(results, student):
    from opd_toy.commands.running import aligned as _aligned

    found = results["frozen"][student]
    columns = (
        "variance",
        "ratio_to_gkd",
        "token_noise",
        "cosine_with_gkd",
        "cosine_with_sequence_kl",
        "bias",
    )
    rows = [["", *(name.replace("_", " ") for name in columns), "growth"]]
    for name, row in found["estimators"].items():
        rows.append(
            [
                name,
                *(_with_error(row[column]) for column in columns),
                " ".join(_plain(value) for value, _ in found["growth"][name]["exponents"]),
            ]
        )
    lengths = ", ".join(map(str, found["growth"]["lengths"]))
    return (
        f"Gradients of one text at a frozen student: {student}, {found['texts']} texts (± standard error); local exponents of the variance between lengths {lengths}\n\n"
        + _aligned(rows)
    )


def claims_table(results):
    lines = []
    for row in results["claims"]:
        figure = "; ".join(
            f"{name} {_with_error(value) if isinstance(value, list) else _plain(value)}"
            for name, value in row["figure"].items()
        )
        held = ", ".join(what for what, true in row["parts"].items() if true)
        lines.append(
            f"{row['id']}: {row['verdict']}"
            + (f" ({held})" if row["verdict"] == "seen under conditions" else "")
            + f"\n  {row['claim']}\n  {figure}"
        )
    return "\n".join(lines)


def _mean(values):
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _plain(value):
    return "-" if value is None else f"{value:.3f}" if abs(value) < 1000 else f"{value:.3g}"


def _with_error(pair):
    value, error = pair
    return (
        "-" if value is None else f"{value:.3g}" if error is None else f"{value:.3g} ± {error:.1g}"
    )
