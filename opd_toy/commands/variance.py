"""``python -m opd_toy variance``: the two-teacher control study of ``opd_toy.control``."""

import importlib
import json
import os
import sys
import time
from pathlib import Path

from opd_toy.commands.running import (
    Progress,
    find_device,
    read_record,
    stoppable,
    threads,
    unchanged,
    write_record,
)
from opd_toy.commands.variance_tables import (
    TABLES,
    benchmark_text,
    exponents_table,
    growth_table,
)

PARTS = {
    "study": "five gammas with three seeds, trained in one stack (the default)",
    "frozen": "the same estimators at one frozen student, and their growth with the length",
    "sensitivity": "which choices that the paper leaves open make gamma = 1 drift",
    "exponents": "growth of the variance with the length, fitted and exact, beside the bounds",
    "benchmark": "the stacked study against a plain loop over runs",
    "all": "study, frozen and sensitivity, one after the other",
}
RECORDED = ("study", "frozen", "sensitivity")


def add(commands):
    parser = commands.add_parser(
        "variance",
        help="train the two-teacher control study; gradient variance against gamma",
        description="The two-teacher control study: gradient variance against gamma, after Fu et "
        "al. (arXiv 2603.25562, appendix C). It trains, prints tables and records the figures "
        "with their provenance. Interrupted or killed, the same command takes the training up "
        "again.",
        epilog="parts: " + "; ".join(f"{name}: {words}" for name, words in PARTS.items()),
    )
    option = parser.add_argument
    option(
        "part",
        nargs="?",
        default="study",
        choices=PARTS,
        metavar="PART",
        help=f"one of {', '.join(PARTS)} (default: study)",
    )
    option(
        "--iterations",
        type=int,
        help="iterations a run is trained for (default: 2000; for benchmark, 20)",
    )
    option(
        "--teacher-iterations",
        type=int,
        help="iterations a teacher is trained for (default: 2000)",
    )
    option("--device", default="cpu", help="where to train, such as cpu or cuda (default: cpu)")
    option(
        "--dtype",
        default="float32",
        choices=("float32", "float64"),
        help="precision of the training (default: float32)",
    )
    option(
        "--threads",
        type=int,
        default=min(2, os.cpu_count() or 1),
        help="threads PyTorch may use (default: 2)",
    )
    option(
        "--directory",
        type=Path,
        help="where the record goes (default: figures, or with other iterations than the book's "
        "the folder of --checkpoints, so that a trial does not take the record's place)",
    )
    option(
        "--checkpoints",
        default="_build/variance",
        type=Path,
        help="where unfinished training waits (default: _build/variance)",
    )
    option("--show", action="store_true", help="print the recorded figures; train nothing")
    option("--json", action="store_true", help="print the figures as JSON, not as tables")
    parser.set_defaults(run=lambda arguments: run(parser, arguments))


def run(parser, arguments):
    with stoppable(parser):
        if arguments.show and arguments.part == "benchmark":
            parser.error("--show: there is no record of the benchmark to print; leave it out")
        if arguments.part == "exponents":
            exponents(folder(arguments), arguments)
        elif arguments.show:
            for part in parts(arguments):
                show(part, read_record(folder(arguments) / record_name(part)), arguments)
        else:
            with threads(arguments.threads):
                compute(arguments)


def compute(arguments):
    find_device(arguments.device)
    if arguments.part == "benchmark":
        benchmark(arguments)
        return
    for part in parts(arguments):
        show(part, make(part, folder(arguments) / record_name(part), arguments), arguments)


def parts(arguments):
    return RECORDED if arguments.part == "all" else (arguments.part,)


def record_name(part):
    return f"control-{part}.json"


def folder(arguments):
    """Where the record is or goes: what a trial finds does not take the book's place."""
    asked = (arguments.iterations, arguments.teacher_iterations)
    trial = not arguments.show and asked != (None, None)
    return arguments.directory or (arguments.checkpoints if trial else Path("figures"))


def show(part, results, arguments):
    print(json.dumps(results) if arguments.json else TABLES[part](results))


def make(part, path, arguments):
    """Compute one part and record it; its checkpoints are kept until the record stands."""
    import torch

    from opd_toy import _validate
    from opd_toy.control.task import ITERATIONS, TEACHER_ITERATIONS
    from opd_toy.records.checkpoints import Checkpoint

    if (iterations := arguments.iterations) is None:
        iterations = ITERATIONS
    if (teacher_iterations := arguments.teacher_iterations) is None:
        teacher_iterations = TEACHER_ITERATIONS
    _validate.whole("iterations", iterations, least=0)  # before anything is trained
    _validate.whole("teacher_iterations", teacher_iterations, least=0)
    module = importlib.import_module(f"opd_toy.control.{part}")
    modules = [module.__name__]
    checkpoints = []
    started = time.process_time(), time.monotonic()
    with unchanged(path, modules) as code:
        where = {"dtype": getattr(torch, arguments.dtype), "device": arguments.device}
        counts = part, iterations, teacher_iterations
        settings = [*counts, *map(str, where.values()), str(torch.__version__), code]

        def watch(name):
            checkpoints.append(Checkpoint(arguments.checkpoints / f"{part}-{name}.pt", settings))
            return {"checkpoint": checkpoints[-1], "report": Progress(f"{part}: {name}")}

        results = getattr(module, part)(
            iterations, teacher_iterations=teacher_iterations, watch=watch, **where
        )
    processor, clock = time.process_time() - started[0], time.monotonic() - started[1]
    seed = results["seeds"] if "seeds" in results else [results["settings"]["seed"]]
    write_record(path, results, modules=modules, seed=seed, device=arguments.device)
    for checkpoint in checkpoints:
        checkpoint.remove()
    print(
        f"{part}: {clock:.0f} s, {processor:.0f} s of processor time; recorded in {path}",
        file=sys.stderr,
    )
    return results


def exponents(directory, arguments):
    """Exponents of independent positions, exact, then the recorded ones of the control task."""
    path = directory / record_name("frozen")
    found = {"independent_positions": independent_exponents(), "control": None}
    if path.exists():
        recorded = read_record(path)
        found["control"] = {name: recorded[name] for name in ("lengths", "growth")}
    if arguments.json:
        print(json.dumps(found))
        return
    print(exponents_table(found["independent_positions"]))
    if found["control"]:
        print("\n" + growth_table(found["control"]))
    else:
        print(
            f"\n{path} is not there; `python -m opd_toy variance frozen` measures the control "
            "task's.",
            file=sys.stderr,
        )


def independent_exponents(lengths=(4, 8, 16, 32, 64, 128, 256)):
    """Total variance against T, exact, and its local slopes, for every estimator.

    Of independent positions, each with the notes' p and q.
    """
    import numpy as np

    from opd_toy.example import STUDENT, TEACHER
    from opd_toy.sequences import growth_exponents, independent_variance

    cases = [("sampled", gamma, True) for gamma in (0.0, 0.5, 0.9, 1.0)]
    cases += [("sampled", 1.0, False), ("full_vocabulary", 1.0, True)]
    pairs = [(np.tile(STUDENT, (t, 1)), np.tile(TEACHER, (t, 1))) for t in lengths]
    rows = []
    for signal, gamma, causal in cases:
        kind = {"signal": signal, "causal": causal}
        variances = [float(independent_variance(*pair, gamma, **kind)) for pair in pairs]
        slopes = [float(x) for x in growth_exponents(lengths, variances)]
        rows.append({**kind, "gamma": gamma, "variance": variances, "exponents": slopes})
    pair = {"student": STUDENT.tolist(), "teacher": TEACHER.tolist()}
    return {**pair, "lengths": list(lengths), "rows": rows}


def benchmark(arguments):
    import torch

    from opd_toy.control.benchmark import benchmark as measure

    iterations = 20 if arguments.iterations is None else arguments.iterations
    results = {
        dtype: measure(iterations, dtype=getattr(torch, dtype), device=arguments.device)
        for dtype in ("float32", "float64")
    }
    texts = map(benchmark_text, results.values())
    print(json.dumps(results) if arguments.json else "\n\n".join(texts))
