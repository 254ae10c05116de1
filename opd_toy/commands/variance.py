"""What `python -m opd_toy variance` does and prints; what it computes lives in ``opd_toy.control.task*``."""

import json
import math
import os
import sys
import time
from pathlib import Path

from opd_toy.commands.running import Progress, find_device
from opd_toy.commands.running import aligned as _aligned

PARTS = {
    "study": "five gammas with three seeds, trained in one stack (the default)",
    "frozen": "the same estimators at one frozen student, and how their variance grows with the length",
    "sensitivity": "which choices that the paper leaves open make gamma = 1 drift",
    "exponents": "growth of the variance with the length, fitted and exact, beside the bounds",
    "benchmark": "the stacked study against a plain loop over runs",
    "all": "study, frozen and sensitivity, one after the other",
}
RECORDS = {
    "study": "control-study.json",
    "frozen": "control-frozen.json",
    "sensitivity": "control-sensitivity.json",
}


def add(commands):
    parser = commands.add_parser(
        "variance",
        help="train the two-teacher control study; gradient variance against gamma",
        description="The two-teacher control study: gradient variance against gamma, after Fu et al. (arXiv 2603.25562, appendix C). "
        "It trains, prints tables and records the figures with their provenance. Interrupted or killed, the same command takes the training up again.",
        epilog="parts: " + "; ".join(f"{name}: {words}" for name, words in PARTS.items()),
    )
    parser.add_argument(
        "part",
        nargs="?",
        default="study",
        choices=PARTS,
        metavar="PART",
        help=f"one of {', '.join(PARTS)} (default: study)",
    )
    parser.add_argument(
        "--iterations",
        type=int,
        help="iterations a run is trained for (default: 2000; for benchmark, 20)",
    )
    parser.add_argument(
        "--teacher-iterations", type=int, help="iterations a teacher is trained for (default: 2000)"
    )
    parser.add_argument(
        "--device", default="cpu", help="where to train, such as cpu or cuda (default: cpu)"
    )
    parser.add_argument(
        "--dtype",
        default="float32",
        choices=("float32", "float64"),
        help="precision of the training (default: float32)",
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=min(2, os.cpu_count() or 1),
        help="threads PyTorch may use (default: 2)",
    )
    parser.add_argument(
        "--directory",
        type=Path,
        help="where the record goes (default: figures, or with other iterations than the book's the folder of --checkpoints, so that a trial does not take the record's place)",
    )
    parser.add_argument(
        "--checkpoints",
        default="_build/variance",
        type=Path,
        help="where unfinished training waits (default: _build/variance)",
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
    import torch

    from opd_toy import _validate
    from opd_toy.records.checkpoints import Stop

    before = torch.get_num_threads()
    try:
        _validate.whole("threads", arguments.threads)
        torch.set_num_threads(arguments.threads)
        with Stop():
            _run(arguments)
    except ValueError as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        torch.set_num_threads(before)


def _run(arguments):
    find_device(arguments.device)
    if arguments.directory is None:
        trial = not arguments.show and (arguments.iterations, arguments.teacher_iterations) != (
            None,
            None,
        )
        arguments.directory = arguments.checkpoints if trial else Path("figures")
    if arguments.part == "benchmark":
        return benchmark(arguments)
    if arguments.part == "exponents":
        return exponents(arguments)
    for part in RECORDS if arguments.part == "all" else (arguments.part,):
        path = arguments.directory / RECORDS[part]
        results = read(path) if arguments.show else make(part, path, arguments)
        print(json.dumps(results) if arguments.json else TABLES[part](results))


def read(path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))["results"]
    except FileNotFoundError:
        raise ValueError(
            f"directory is {str(path.parent)!r}, which holds no {path.name}; make it by the same command without --show"
        ) from None


def make(part, path, arguments):
    """Compute one part and record it; a checkpoint is kept until the record stands."""
    import torch

    from opd_toy import _validate
    from opd_toy.commands.running import unchanged
    from opd_toy.control import task as point_control
    from opd_toy.records import provenance
    from opd_toy.records.checkpoints import Checkpoint

    function = computation(part)
    iterations = point_control.ITERATIONS if arguments.iterations is None else arguments.iterations
    teacher_iterations = (
        point_control.TEACHER_ITERATIONS
        if arguments.teacher_iterations is None
        else arguments.teacher_iterations
    )
    _validate.whole("iterations", iterations, least=0)  # before anything is trained
    _validate.whole("teacher_iterations", teacher_iterations, least=0)
    modules = [function.__module__]
    code = provenance.source_hash(*modules)
    settings = [
        part,
        iterations,
        teacher_iterations,
        arguments.dtype,
        arguments.device,
        str(torch.__version__),
        code,
    ]
    checkpoints = []

    def watch(name):
        checkpoints.append(Checkpoint(arguments.checkpoints / f"{part}-{name}.pt", settings))
        return {"checkpoint": checkpoints[-1], "report": Progress(f"{part}: {name}")}

    started = time.process_time(), time.monotonic()
    with unchanged(path, modules):
        results = function(
            iterations,
            teacher_iterations=teacher_iterations,
            dtype=getattr(torch, arguments.dtype),
            device=arguments.device,
            watch=watch,
        )
    spent = time.process_time() - started[0], time.monotonic() - started[1]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        provenance.record(
            path,
            results,
            modules=modules,
            seed=results["seeds"] if "seeds" in results else [results["settings"]["seed"]],
            device=arguments.device,
        )
    except OSError as error:
        kept = ", ".join(str(checkpoint.path) for checkpoint in checkpoints)
        sys.exit(
            f"could not write {path} ({error}). Nothing trained is lost: it is kept in {kept}. Make room and give the same command again."
        )
    for checkpoint in checkpoints:
        checkpoint.remove()
    print(
        f"{part}: {spent[1]:.0f} s, {spent[0]:.0f} s of processor time; recorded in {path}",
        file=sys.stderr,
    )
    return results


def computation(part):
    """The function that computes a part, and the files its numbers depend on."""
    from opd_toy.control import frozen as point_control_frozen
    from opd_toy.control import sensitivity as point_control_sensitivity
    from opd_toy.control import study as point_control_study

    return {
        "study": point_control_study.study,
        "frozen": point_control_frozen.frozen,
        "sensitivity": point_control_sensitivity.sensitivity,
    }[part]


def exponents(arguments):
    """Exact exponents of independent positions on the notes' p and q, then the recorded ones of the control task."""
    found = {"independent_positions": independent_exponents(), "control": None}
    path = arguments.directory / RECORDS["frozen"]
    if path.exists():
        recorded = read(path)
        found["control"] = {"lengths": recorded["lengths"], "growth": recorded["growth"]}
    if arguments.json:
        print(json.dumps(found))
        return
    print(exponents_table(found["independent_positions"]))
    if found["control"]:
        print("\n" + growth_table(found["control"]))
    else:
        print(
            f"\n{path} is not there; `python -m opd_toy variance frozen` measures the control task's.",
            file=sys.stderr,
        )


def independent_exponents(lengths=(4, 8, 16, 32, 64, 128, 256)):
    """Total variance against T, exact, and its local slopes, for every estimator on the notes' p and q."""
    import numpy as np

    from opd_toy.example import STUDENT, TEACHER
    from opd_toy.sequences import growth_exponents, independent_variance

    student, teacher = (
        lambda length, row=row: np.tile(row, (length, 1)) for row in (STUDENT, TEACHER)
    )
    rows = []
    for signal, gamma, causal in [("sampled", g, True) for g in (0.0, 0.5, 0.9, 1.0)] + [
        ("sampled", 1.0, False),
        ("full_vocabulary", 1.0, True),
    ]:
        variances = [
            float(independent_variance(student(t), teacher(t), gamma, signal=signal, causal=causal))
            for t in lengths
        ]
        rows.append(
            {
                "signal": signal,
                "gamma": gamma,
                "causal": causal,
                "variance": variances,
                "exponents": [float(x) for x in growth_exponents(lengths, variances)],
            }
        )
    return {
        "student": STUDENT.tolist(),
        "teacher": TEACHER.tolist(),
        "lengths": list(lengths),
        "rows": rows,
    }


BOUNDS = "The paper's bounds: T^2 for gamma = 0, T^4 for the full return; the sharper one: T^3 for gamma = 1 and the full return."


def exponents_table(found):
    lengths = found["lengths"]
    rows = [["estimator", "gamma", *(f"{a}-{b}" for a, b in zip(lengths, lengths[1:]))]]
    for row in found["rows"]:
        rows.append(
            [
                _name("sampled" if row["causal"] else "full_return")
                if row["signal"] == "sampled"
                else _name(row["signal"]),
                f"{row['gamma']:g}",
                *(f"{x:.2f}" for x in row["exponents"]),
            ]
        )
    return (
        f"Independent positions, student {tuple(found['student'])}, teacher {tuple(found['teacher'])}: local exponents of the variance in T, exact.\n{BOUNDS}\n\n"
        + _aligned(rows)
    )


def growth_table(found):
    stages = list(found["growth"])
    rows = [["estimator", "gamma", *stages]]
    for group in zip(*(found["growth"][stage] for stage in stages)):
        if group[0]["parameters"] == "output_layer":
            rows.append(
                [
                    _name(group[0]["estimator"]),
                    f"{group[0]['gamma']:g}",
                    *(
                        f"{row['exponent']:.2f} [{row['interval'][0]:.2f}, {row['interval'][1]:.2f}]"
                        for row in group
                    ),
                ]
            )
    return (
        f"Control task, T = {', '.join(map(str, found['lengths']))}: fitted exponents of the output layer's variance, 95 % bootstrap, at four stages of one student.\n\n"
        + _aligned(rows)
    )


def frozen_table(results):
    blocks = []
    for stage, at in results["stages"].items():
        for task, found in at["tasks"].items():
            rows = [
                [
                    "estimator",
                    "gamma",
                    "variance",
                    "95 %",
                    "all parameters",
                    "bias^2 / |E g_1|^2",
                    "MSE of 64",
                ]
            ]
            scale = found["estimators"][-1]["all_parameters"].get("squared_norm")
            for row in found["estimators"]:
                output, whole = row["output_layer"], row["all_parameters"]
                relative = (
                    f"{whole['squared_bias'] / scale:.3f} ± {whole['squared_bias_standard_error'] / scale:.3f}"
                    if "squared_bias" in whole and scale
                    else ""
                )
                error = (
                    _scientific(max(whole["squared_bias"], 0) + whole["variance"] / 64)
                    if "squared_bias" in whole
                    else ""
                )
                low, high = output["interval"]
                rows.append(
                    [
                        _name(row["estimator"]),
                        f"{row['gamma']:g}",
                        _scientific(output["variance"]),
                        f"[{low:.2e}, {high:.2e}]",
                        _scientific(whole["variance"]),
                        relative,
                        error,
                    ]
                )
            blocks.append(
                f"{stage} (iteration {at['iteration']}), {task} task\n\n" + _aligned(rows)
            )
    return "\n\n".join(
        [
            "Variance of one trajectory's gradient at a frozen student: output layer, then all parameters.",
            *blocks,
            growth_table(results),
        ]
    )


def sensitivity_table(results):
    iterations = results["checkpoints"]
    rows = [
        [
            "std bounds",
            "optimiser",
            "gamma",
            "drifts",
            "was lost",
            "not finite",
            "distance at the end",
            "late variance",
        ]
    ]
    for row in results["rows"]:
        ends = ", ".join("-" if d[-1] is None else f"{d[-1]:.2f}" for d in row["distance"])
        variances = ", ".join(_scientific(v) for v in row["late_variance"])
        count = lambda values: f"{sum(map(bool, values))} of {len(values)}"
        rows.append(
            [
                row["bounds"],
                row["optimiser"],
                f"{row['gamma']:g}",
                count(row["drifts"]),
                count(row["was_lost"]),
                count(row["not_finite_at"]),
                ends,
                variances,
            ]
        )
    return (
        f"Which open choices make gamma = 1 drift? {results['definition']} ({', '.join(map(str, iterations))}).\n\n"
        + _aligned(rows)
        + "\n\n"
        + crossed_table(results)
        + "\n\n"
        + "\n".join(results["notes"])
    )


def crossed_table(results):
    rows = [["teachers' bounds", "students' bounds", "drifts", "distance at the end"]]
    for row in results["crossed"]:
        rows.append(
            [
                row["teacher"],
                row["student"],
                f"{sum(row['drifts'])} of {len(row['drifts'])}",
                ", ".join("-" if d is None else f"{d:.2f}" for d in row["distance"]),
            ]
        )
    return "Teachers and students under bounds of their own, gamma = 1, Adam 1e-3.\n\n" + _aligned(
        rows
    )


def benchmark(arguments):
    import torch

    from opd_toy.control.benchmark import benchmark as measure

    iterations = 20 if arguments.iterations is None else arguments.iterations
    results = {
        dtype: measure(iterations, dtype=getattr(torch, dtype), device=arguments.device)
        for dtype in ("float32", "float64")
    }
    print(
        json.dumps(results)
        if arguments.json
        else "\n\n".join(map(benchmark_text, results.values()))
    )


def benchmark_text(found):
    plain, stacked = found["seconds"]["plain"], found["seconds"]["stacked"]
    return (
        f"{found['dtype']}, {found['runs']} runs, {found['threads']} threads, {found['repeats']} alternating repeats of {found['iterations']} iterations; seconds an iteration of all runs\n"
        f"  plain loop  median {plain['median']:.4f}  least {plain['least']:.4f}\n"
        f"  stacked     median {stacked['median']:.4f}  least {stacked['least']:.4f}\n"
        f"  ratio       median {found['ratio_of_medians']:.1f}  least {found['ratio_of_least']:.1f}\n"
        f"  largest difference: variance {found['largest_relative_difference_of_variance']:.1e} (relative), parameters {found['largest_difference_of_parameters']:.1e}"
    )


def _name(estimator):
    return {
        "sampled": "sampled",
        "full_return": "full return",
        "full_vocabulary": "Rao-Blackwellised",
    }[estimator]


def study_table(results):
    """Late variance, final distance and drift of every run."""
    windows = len(results["window_ends"])
    late = range(windows - max(windows // 4, min(windows, 1)), windows)
    rows = [
        [
            "gamma",
            "seed",
            "variance left",
            "variance right",
            "distance left",
            "distance right",
            "drifts",
        ]
    ]
    for i, gamma in enumerate(results["gammas"]):
        for j, seed in enumerate(results["seeds"]):
            variances = [
                _geometric([results["window_geometric_mean"][i][j][task][w] for w in late])
                for task in (0, 1)
            ]
            distances = [
                results["final_position"]["distance_to_target"][i][j][task][-1] for task in (0, 1)
            ]
            stopped = results["diverged"][i][j]
            drifts = (
                f"stopped at {stopped}"
                if stopped
                else " and ".join(
                    name for name, yes in zip(results["tasks"], results["drifts"][i][j]) if yes
                )
                or "no"
            )
            rows.append(
                [
                    f"{gamma:g}",
                    str(seed),
                    *map(_scientific, variances),
                    *(f"{d:.2f}" if d is not None else "not finite" for d in distances),
                    drifts,
                ]
            )
    teachers = results["teachers"]
    said = " and ".join(
        f"{mean:+.2f} ± {sd:.2f}"
        for mean, sd in zip(teachers["final_position_mean"], teachers["final_position_sd"])
    )
    first = results["window_ends"][late[0]] - results["window_ends"][0] + 1 if windows else 0
    return (
        f"Two-teacher control study, {results['settings']['iterations run']} iterations; the teachers end at {said} (targets -3, +3).\n"
        f"Variance of the output layer's micro-batch gradient, geometric mean from iteration {first} on; distance of the final position from the target.\n\n"
        + _aligned(rows)
    )


def _geometric(values):
    return math.exp(sum(map(math.log, values)) / len(values)) if values and all(values) else None


def _scientific(x):
    return "-" if x is None else f"{x:.2e}"


TABLES = {"study": study_table, "frozen": frozen_table, "sensitivity": sensitivity_table}
