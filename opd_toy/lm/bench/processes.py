"""The benchmark's processes.

``python -m opd_toy bench`` runs this module in a process of its own.  It imports the
libraries, computes nothing, and forks two processes for each case: see
``opd_toy.lm.bench.measuring``.
"""

import contextlib
import json
import math
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from opd_toy.lm.bench.cases import CASES, PEERS, Setting, loss_function
from opd_toy.lm.bench.measuring import pace, reference, weigh


class Fork:
    """A process that runs function(pipe, *arguments).

    What it last said on stderr is the reason if it fails.
    """

    def __init__(self, function, *arguments):
        context = multiprocessing.get_context("fork")
        self.pipe, theirs = context.Pipe()
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed by close)
        self.process = context.Process(
            target=self._run, args=(function, theirs, *arguments), daemon=False
        )
        self.process.start()
        theirs.close()

    def _run(self, function, pipe, *arguments):
        self.pipe.close()  # so that this one's messages end when the parent does
        os.dup2(self.errors.fileno(), 1), os.dup2(self.errors.fileno(), 2)
        function(pipe, *arguments)

    def answer(self):
        try:
            return self.pipe.recv()
        except EOFError:
            self.process.join()
            self.errors.seek(0)
            lines = self.errors.read().strip().splitlines() or [
                f"the process ended with status {self.process.exitcode}"
            ]
            raise RuntimeError(lines[-1]) from None

    def close(self):
        self.process.kill()
        self.process.join()
        self.pipe.close()
        self.errors.close()


def once(function, *arguments):
    fork = Fork(function, *arguments)
    try:
        return fork.answer()
    finally:
        fork.close()


def side_by_side(setting, cases, repeats, threads, report):
    """Rows of one setting, one a case.

    A library's case that fails has its reason in the place of figures.
    """
    rows, running = [], []
    with tempfile.TemporaryDirectory() as folder:
        try:
            exact = once(reference, setting, threads, folder)
            for case in cases:
                row = {"case": case, "words": CASES[case]}
                rows.append(row)
                try:
                    row |= once(weigh, case, setting, threads, folder)
                    running.append((Fork(pace, case, setting, threads), row))
                    running[-1][0].answer()
                except RuntimeError as error:
                    if case.split("_")[0] not in PEERS:
                        raise
                    row["failed"] = f"{case}: {error}"
                else:
                    row |= {"loss_error": abs(row["loss"] / exact - 1), "seconds": []}
                report()
            running = [(fork, row) for fork, row in running if "failed" not in row]
            for repeat in range(repeats):
                turn = repeat % len(running)
                for fork, row in running[turn:] + running[:turn]:
                    fork.pipe.send("again")
                    row["seconds"].append(fork.answer())
                    report()
        finally:
            for fork, _ in running:
                fork.close()
    for _, row in running:
        row |= {"median": statistics.median(row["seconds"]), "least": min(row["seconds"])}
    return rows


def measure(settings, repeats, threads, report):
    """All settings, those cases of them whose library is there, as one JSON-able dict.

    Forks: nothing may have been computed before.
    """
    here = versions()
    cases = {setting: cases_here(setting, here) for setting in settings}
    times = {setting: math.ceil(setting.share * repeats) for setting in settings}
    for setting in settings:
        for case in cases[setting]:
            loss_function(case, setting)  # imports its library once for all forks
    done, total = 0, sum((1 + times[each]) * len(cases[each]) for each in settings)

    def step():
        nonlocal done
        done += 1
        report(done, total)

    found = []
    for setting in settings:
        rows = side_by_side(setting, cases[setting], times[setting], threads, step)
        found.append(asdict(setting) | {"words": setting.words(), "rows": rows})
    missing = [name for name in PEERS.values() if name not in here]
    return {
        "processor": processor(),
        "threads": threads,
        "repeats": repeats,
        "versions": here,
        "missing": missing,
        "settings": found,
    }


def cases_here(setting, versions):
    """Those of its cases whose library is there."""
    return [case for case in setting.cases if PEERS.get(case.split("_")[0]) in (None, *versions)]


def versions():
    """{distribution: version} of what is there."""
    found = {}
    for name in ("torch", *PEERS.values(), "transformers", "triton"):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def processor():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def main():
    """Reads {"settings", "repeats", "threads"} as JSON from stdin.

    Writes a line of JSON to stdout for each step done, [done, total], then the figures.
    """
    job = json.loads(sys.stdin.read())
    settings = [
        Setting(**{**setting, "cases": tuple(setting["cases"])}) for setting in job["settings"]
    ]
    report = lambda done, total: print(json.dumps([done, total]), flush=True)
    try:
        print(json.dumps(measure(settings, job["repeats"], job["threads"], report)))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
