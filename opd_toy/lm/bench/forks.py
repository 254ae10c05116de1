"""Processes that measure, and the machine and libraries that they measure on."""

import contextlib
import multiprocessing
import os
import platform
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from opd_toy.lm.bench.cases import PEERS


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
