"""The benchmark's processes: each case of ``opd_toy.lm.bench.cases`` forked from one that has imported the libraries and computed nothing."""

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

from opd_toy.lm.bench.cases import CASES, PEERS, Setting, loss_function, pace, reference, weigh


class Fork:
    """A process that runs function(pipe, *arguments); what it last said on stderr is the reason if it fails."""

    def __init__(self, function, *arguments):
        context = multiprocessing.get_context("fork")
        self.pipe, theirs = context.Pipe()
        self.errors = tempfile.TemporaryFile("w+")
        self.process = context.Process(
            target=self._run, args=(function, theirs, *arguments), daemon=False
        )
        self.process.start()
        theirs.close()

    def _run(self, function, pipe, *arguments):
        self.pipe.close()  # so that the end of the parent, however it comes, is the end of this one's messages
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
    """Rows of one setting, one a case; a library's case that fails has its reason in the place of figures."""
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
    """All settings, those cases of them whose library is there, as one JSON-able dict.  Forks: nothing may have been computed before."""
    here = versions()
    chosen = [
        (
            setting,
            [case for case in setting.cases if PEERS.get(case.split("_")[0]) in (None, *here)],
            math.ceil(setting.share * repeats),
        )
        for setting in settings
    ]
    for case, setting in {case: setting for setting, cases, _ in chosen for case in cases}.items():
        loss_function(case, setting)  # imports its library once for all forks
    done, total = 0, sum((1 + times) * len(cases) for _, cases, times in chosen)

    def step():
        nonlocal done
        done += 1
        report(done, total)

    found = [
        asdict(setting)
        | {"words": setting.words(), "rows": side_by_side(setting, cases, times, threads, step)}
        for setting, cases, times in chosen
    ]
    missing = [name for name in PEERS.values() if name not in here]
    return {
        "processor": processor(),
        "threads": threads,
        "repeats": repeats,
        "versions": here,
        "missing": missing,
        "settings": found,
    }


def versions():
    found = {}
    for name in ("torch", *PEERS.values(), "transformers", "triton"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            pass
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
    """Reads {"settings", "repeats", "threads"} as JSON from stdin and writes the figures as JSON to stdout, progress to stderr."""
    from opd_toy.commands.running import Progress

    job = json.loads(sys.stdin.read())
    settings = [
        Setting(**{**setting, "cases": tuple(setting["cases"])}) for setting in job["settings"]
    ]
    try:
        print(json.dumps(measure(settings, job["repeats"], job["threads"], Progress("bench"))))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
