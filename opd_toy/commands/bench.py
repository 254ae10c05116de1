"""What `python -m opd_toy bench` does; it measures by ``opd_toy.lm.bench``."""

import json
import os
import signal
import subprocess
import sys
import threading
from importlib import import_module
from pathlib import Path

from opd_toy.commands.bench_tables import HOW
from opd_toy.commands.bench_tables import as_text as as_text
from opd_toy.commands.bench_tables import tables as tables
from opd_toy.commands.running import Progress, make_record, read_record

ROOT = Path(__file__).parents[2]
RECORD = "loss-benchmark.json"
MODULES = ["opd_toy.lm.bench.processes"]
# What else is measured, by flag.  ``opd_toy.commands.bench_FLAG`` has RECORD, the file's name,
# make(path, arguments) -> results, which records them, and as_text(results).
SUBJECTS = {
    "growth": "how time and memory grow with tokens, vocabulary and width",
    "training": "the lab's writing and training, beside a plain Hugging Face loop",
    "audits": "how long an audit takes, of each loss that the book audits",
    "sliders": "how long the book's sliders take to appear and to follow",
}
THREADS = min(4, os.cpu_count() or 1)
PEERS_PYTHON = ROOT / ".venv-peers" / "bin" / "python"


def add(commands):
    parser = commands.add_parser(
        "bench",
        help="the losses beside TRL's and Liger's: time, memory, rounding",
        description="Time, extra peak memory and gradient error of the distillation losses, side "
        "by side with other libraries' at a vocabulary of 151,936, recorded with their "
        f"provenance. {HOW}; without them it measures the book's losses and the textbook's. It "
        "needs 16 GiB of memory.",
    )
    subject = parser.add_mutually_exclusive_group()
    for name, words in SUBJECTS.items():
        subject.add_argument(
            f"--{name}",
            dest="subject",
            action="store_const",
            const=name,
            help=f"in the place of the losses: {words}",
        )
    parser.add_argument(
        "--repeats",
        type=int,
        help="timed passes of each case, which take turns (default: 5; with --quick 2)",
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=THREADS,
        help="threads PyTorch may use (default: as many as the machine has, 4 at most); some "
        "settings are measured with one besides",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a trial in seconds: 32 tokens, 20,000 words, from logits and from hidden states; "
        "recorded in _build",
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
    trial = (arguments.quick or arguments.repeats is not None) and not arguments.show
    directory = arguments.directory or Path("_build/bench" if trial else "figures")
    name = arguments.subject
    subject = import_module(f"opd_toy.commands.bench_{name}") if name else sys.modules[__name__]
    path = directory / subject.RECORD
    try:
        results = read_record(path) if arguments.show else subject.make(path, arguments)
        print(json.dumps(results) if arguments.json else subject.as_text(results))
    except (ValueError, RuntimeError) as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        sys.exit(130)


def make(path, arguments):
    """Measure and record."""
    from dataclasses import asdict, replace

    from opd_toy import _validate
    from opd_toy.lm.bench import cases as benchmark

    repeats = arguments.repeats if arguments.repeats is not None else 2 if arguments.quick else 5
    for name, value in (("repeats", repeats), ("threads", arguments.threads)):
        _validate.whole(name, value)
    settings = [*benchmark.SETTINGS, *(benchmark.ONE_THREAD if arguments.threads > 1 else ())]
    if arguments.quick:
        short = lambda cases: tuple(case for case in cases if not case.endswith("compiled"))
        settings = [
            replace(setting, cases=short(setting.cases), tokens=32, vocabulary=20_000)
            for setting in settings
            if setting.name in ("logits", "hidden_64")
        ]
    job = {
        "settings": [asdict(setting) for setting in settings],
        "repeats": repeats,
        "threads": arguments.threads,
    }
    return make_record(path, lambda: measure(job), modules=MODULES, seed=[1])


def measure(job, module="opd_toy.lm.bench.processes", progress="bench", seconds=None):
    """Run the module in a fresh process of the right interpreter: the figures it prints.

    It takes ``job`` as JSON and prints a line [done, total] for each step, then the figures.
    Raises TimeoutExpired after so many ``seconds``, by default never.
    """
    paths = [str(ROOT), os.environ.get("PYTHONPATH")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "OMP_NUM_THREADS": str(job["threads"]),
    }
    report, found = Progress(progress), None
    command = [interpreter(), "-m", module]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, env=environment, **pipes) as process:
        late = threading.Timer(seconds, process.kill)  # of None it waits for ever
        late.daemon = True
        late.start()
        process.stdin.write(json.dumps(job))
        process.stdin.close()
        for line in process.stdout:
            said = json.loads(line)
            if isinstance(said, list):
                report(*said)
            else:
                found = said
        late.cancel()
    if seconds and process.returncode == -signal.SIGKILL:
        raise subprocess.TimeoutExpired(command, seconds)
    if process.returncode or found is None:
        sys.exit(f"the measurement ended with status {process.returncode}; nothing is recorded")
    return found


def interpreter():
    """The Python that measures: one with the other libraries, if there is one.

    That is this one, or that of `make peers` where it has the same torch; else this.
    """
    from opd_toy.lm.bench.cases import PEERS
    from opd_toy.lm.bench.processes import versions

    here = versions()
    if not PEERS_PYTHON.exists() or all(name in here for name in PEERS.values()):
        return sys.executable
    code = "from importlib.metadata import version; print(version('torch'))"
    run = subprocess.run([str(PEERS_PYTHON), "-c", code], capture_output=True, text=True)
    theirs = run.stdout.strip()
    if theirs != here["torch"]:
        raise RuntimeError(
            f".venv-peers has torch {theirs or '(none)'}, this Python {here['torch']}; make it "
            "anew: rm -r .venv-peers && make peers"
        )
    return str(PEERS_PYTHON)
