"""What `python -m opd_toy bench` does and prints, and the tables of its record; what it measures lives in ``opd_toy.lm.bench.cases``."""

import json
import os
import subprocess
import sys
from pathlib import Path

from opd_toy.commands.running import read_record

ROOT = Path(__file__).parents[2]
RECORD = "loss-benchmark.json"
MODULES = ["opd_toy.lm.bench.processes"]
PEERS_PYTHON = ROOT / ".venv-peers" / "bin" / "python"
ROUNDING = 1.1  # from hidden states the logits' own rounding, which no loss can undo, moves an error by some percent
HOW = "`make peers` fetches the other libraries (TRL, Liger) into .venv-peers, where this command finds them"


def add(commands):
    parser = commands.add_parser(
        "bench",
        help="the losses beside TRL's and Liger's: time, memory, rounding",
        description="Time, extra peak memory and gradient error of the distillation losses, side by side with other libraries' at a vocabulary of 151,936, recorded with their provenance. "
        f"{HOW}; without them it measures the book's losses and the textbook's. It needs 8 GiB of memory.",
    )
    parser.add_argument(
        "--repeats",
        type=int,
        help="timed passes of each case, which take turns (default: 5; with --quick 2)",
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=min(2, os.cpu_count() or 1),
        help="threads PyTorch may use (default: 2)",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a trial in seconds: 32 tokens, 20,000 words, from logits and from hidden states; recorded in _build",
    )
    parser.add_argument(
        "--directory",
        type=Path,
        help="where the record goes (default: figures; of a trial _build/bench)",
    )
    parser.add_argument(
        "--show", action="store_true", help="print the recorded figures; measure nothing"
    )
    parser.add_argument(
        "--json", action="store_true", help="print the figures as JSON in the place of tables"
    )
    parser.set_defaults(run=lambda arguments: run(parser, arguments))


def run(parser, arguments):
    try:
        trial = arguments.quick or arguments.repeats is not None
        directory = arguments.directory or (
            Path("_build/bench") if trial and not arguments.show else Path("figures")
        )
        results = (
            read_record(directory / RECORD)
            if arguments.show
            else make(directory / RECORD, arguments)
        )
        print(json.dumps(results) if arguments.json else as_text(results))
    except (ValueError, RuntimeError) as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        sys.exit(130)


def make(path, arguments):
    """Measure and record."""
    from dataclasses import asdict, replace

    from opd_toy import _validate
    from opd_toy.commands.running import unchanged
    from opd_toy.lm.bench import cases as benchmark
    from opd_toy.records import provenance

    repeats = arguments.repeats if arguments.repeats is not None else 2 if arguments.quick else 5
    for name, value in (("repeats", repeats), ("threads", arguments.threads)):
        _validate.whole(name, value)
    settings = benchmark.SETTINGS
    if arguments.quick:
        short = lambda cases: tuple(case for case in cases if not case.endswith("compiled"))
        settings = [
            replace(setting, cases=short(setting.cases), tokens=32, vocabulary=20_000)
            for setting in settings
            if setting.name in ("logits", "hidden_64")
        ]
    with unchanged(path, MODULES):
        found = measure(
            {
                "settings": [asdict(setting) for setting in settings],
                "repeats": repeats,
                "threads": arguments.threads,
            }
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        provenance.record(path, found, modules=MODULES, seed=[1])
    except OSError as error:
        sys.exit(f"could not write {path} ({error}); make room and give the same command again")
    print(f"recorded in {path}", file=sys.stderr)
    return found


def measure(job):
    """Run ``opd_toy.lm.bench.processes`` in a fresh process of the right interpreter."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "OMP_NUM_THREADS": str(job["threads"]),
    }
    run = subprocess.run(
        [interpreter(), "-m", "opd_toy.lm.bench.processes"],
        input=json.dumps(job),
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    if run.returncode:
        sys.exit(f"the measurement ended with status {run.returncode}; nothing is recorded")
    return json.loads(run.stdout)


def interpreter():
    """This Python if it has the other libraries, else that of `make peers` if there is one with the same torch, else this."""
    from opd_toy.lm.bench.cases import PEERS
    from opd_toy.lm.bench.processes import versions

    here = versions()
    if not PEERS_PYTHON.exists() or all(name in here for name in PEERS.values()):
        return sys.executable
    run = subprocess.run(
        [
            str(PEERS_PYTHON),
            "-c",
            "from importlib.metadata import version; print(version('torch'))",
        ],
        capture_output=True,
        text=True,
    )
    if run.stdout.strip() != here["torch"]:
        raise RuntimeError(
            f".venv-peers has torch {run.stdout.strip() or '(none)'}, this Python {here['torch']}; make it anew: rm -r .venv-peers && make peers"
        )
    return str(PEERS_PYTHON)


# --- tables ------------------------------------------------------------------------------

HEADER = ("loss", "median", "least", "of ours", "extra memory", "of ours", "gradient error")


def tables(results):
    """One (title, rows) a setting; rows of strings, the first the HEADER.

    "of ours" is a multiple of the first line's figure: least time, then extra memory.
    """
    found = []
    for setting in results["settings"]:
        ours, rows = setting["rows"][0], [HEADER]
        for row in setting["rows"]:
            if "failed" in row:
                rows.append((row["words"], "failed", *[""] * 5))
                continue
            known = row["extra_bytes"] is not None and ours["extra_bytes"]
            memory = (
                (
                    f"{row['extra_bytes'] / 2**20:.0f} MiB",
                    f"{row['extra_bytes'] / ours['extra_bytes']:.1f}x",
                )
                if known
                else ("-", "-")
            )
            rows.append(
                (
                    row["words"],
                    f"{row['median']:.2f} s",
                    f"{row['least']:.2f} s",
                    f"{row['least'] / ours['least']:.1f}x",
                    *memory,
                    f"{row['gradient_error']:.1e}",
                )
            )
        found.append((setting["words"], rows))
    return found


def goals(results):
    """What the losses were to reach, as dicts: goal (words), time and memory (how many times ours the other's are) or error (pairs), met.

    Those the run has no figures for, such as without the other libraries or on a trial's small vocabulary, are left out.
    """
    settings = {
        setting["name"]: {row["case"]: row for row in setting["rows"] if "failed" not in row}
        for setting in results["settings"]
        if setting["vocabulary"] > 100_000
    }
    found = []

    def compare(goal, ours, other, times, memory):
        ratio = {
            "time": other["least"] / ours["least"],
            "memory": other["extra_bytes"] / ours["extra_bytes"]
            if ours["extra_bytes"] and other["extra_bytes"]
            else None,
        }
        met = ratio["time"] >= times and ratio["memory"] is not None and ratio["memory"] >= memory
        found.append(
            {
                "goal": goal,
                "other": other["words"],
                "wanted": {"time": times, "memory": memory},
                **ratio,
                "met": met,
            }
        )

    for name in ("logits", "logits_jsd"):
        rows = settings.get(name, {})
        if "trl" in rows:
            compare(
                f"{name}: TRL's dense loss takes at least 8 times the time and 20 times the memory of ours with overwrite_logits",
                rows["ours_overwrite"],
                rows["trl"],
                8,
                20,
            )
    for name, rows in settings.items():
        tuned = min(
            (row for case, row in rows.items() if case.startswith("liger")),
            key=lambda row: row["least"],
            default=None,
        )
        if tuned:
            compare(
                f"{name}: Liger's fastest takes at least 1.3 times the time and no less memory than ours",
                rows["ours"],
                tuned,
                1.3,
                1,
            )
    for name, rows in settings.items():
        peers = {
            case: row["gradient_error"]
            for case, row in rows.items()
            if case.startswith(("trl", "liger"))
        }
        if peers:
            best = min(peers, key=peers.get)
            ours = rows["ours"]["gradient_error"]
            found.append(
                {
                    "goal": f"{name}: gradient error no larger than the best other library's, within a tenth",
                    "other": rows[best]["words"],
                    "error": [ours, peers[best]],
                    "met": ours <= ROUNDING * peers[best],
                }
            )
    return found


def goal_text(goal):
    if "error" in goal:
        figures = "{:.1e} against {:.1e}".format(*goal["error"])
    else:
        figures = f"{goal['time']:.1f} times the time, " + (
            "memory not known"
            if goal["memory"] is None
            else f"{goal['memory']:.1f} times the memory"
        )
    return f"{'met' if goal['met'] else 'NOT met'}: {goal['goal']}: {figures} ({goal['other']})"


def as_text(results):
    libraries = ", ".join(f"{name} {number}" for name, number in results["versions"].items())
    blocks = [
        f"{results['processor']}, {results['threads']} threads, {results['repeats']} passes each in turn; {libraries}"
    ]
    for title, rows in tables(results):
        widths = [max(map(len, column)) for column in zip(*rows)]
        blocks.append(
            title
            + "\n"
            + "\n".join(
                "  ".join(
                    cell.ljust(widths[0]) if i == 0 else cell.rjust(widths[i])
                    for i, cell in enumerate(row)
                ).rstrip()
                for row in rows
            )
        )
    failed = [
        row["failed"]
        for setting in results["settings"]
        for row in setting["rows"]
        if "failed" in row
    ]
    if failed:
        blocks.append("\n".join(failed))
    if reached := goals(results):
        blocks.append("\n".join(map(goal_text, reached)))
    if results["missing"]:
        blocks.append(f"Not here: {', '.join(results['missing'])}. {HOW}.")
    return "\n\n".join(blocks)
