"""The command line: ``python -m opd_toy COMMAND``, or ``opd-toy COMMAND``.

A command is a module of ``opd_toy.commands``: its ``add`` takes the subparsers, adds its
parser and sets ``run``.  It imports what it needs only when it runs, so that --help stays
quick and a command asks for no more than its own packages.
"""

import argparse
import os
import sys
from pathlib import Path

from opd_toy.commands import (
    audit,
    bench,
    derail,
    doors,
    figures,
    gpu,
    stale,
    study,
    tables,
    train,
    variance,
)

COMMANDS = (tables, figures, variance, audit, train, study, derail, doors, stale, bench, gpu)

# Which extra of the package brings what may not be there.
EXTRAS = {
    "torch": "torch",
    "safetensors": "torch",
    "sympy": "proofs",
    "matplotlib": "book",
    "anywidget": "book",
    "traitlets": "book",
    "playwright": "test",
}


def main(arguments=None):
    script = Path(sys.argv[0]).stem == "opd-toy"
    parser = argparse.ArgumentParser(
        prog="opd-toy" if script else "python -m opd_toy",
        description="On-policy distillation made exact.",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add(commands)
    parsed = parser.parse_args(arguments)
    try:
        parsed.run(parsed)
        sys.stdout.flush()
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS:
            raise
        sys.exit(missing(error.name))
    except BrokenPipeError:  # the reader, such as head, has seen enough
        # without this the flush at exit would fail, too
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def missing(name):
    extra = EXTRAS[name]
    return (
        f"this command needs {name}, which the extra {extra!r} brings: "
        f"pip install 'opd-toy[{extra}]', or pip install -e '.[{extra}]' in a checkout of the book"
    )


if __name__ == "__main__":
    main()
