"""The command line: python -m opd_toy COMMAND.

A command is one function that takes the subparsers, adds its parser and sets
``run``; it imports what it needs only when it runs, so that --help stays quick.
"""

import argparse
import json
import os
import sys
from pathlib import Path


def tables(commands):
    parser = commands.add_parser(
        "tables",
        help="print the tables of the notes' sections 3 and 4",
        description="Print every table of the notes' sections 3 and 4, computed by the engine.",
    )
    parser.add_argument("--json", action="store_true", help="print them as JSON, at full precision")

    def run(arguments):
        from opd_toy.example import STUDENT, TEACHER
        from opd_toy.pages.tables import as_text
        from opd_toy.pages.tables import tables as compute

        p, q = tuple(STUDENT.tolist()), tuple(TEACHER.tolist())
        if arguments.json:
            print(json.dumps({"student": p, "teacher": q, "tables": compute()}, indent=2))
        else:
            print(f"student p = {p}, teacher q = {q}; a negative gradient raises the logit\n")
            print("\n\n".join(as_text(table) for table in compute()))

    parser.set_defaults(run=run)


def figures(commands):
    parser = commands.add_parser(
        "figures",
        help="draw the figures and photograph the sliders",
        description="Draw every still figure and photograph every slider, with a record of what made them.",
    )
    parser.add_argument(
        "--directory", default="figures", type=Path, help="where to put them (default: figures)"
    )

    def run(arguments):
        from opd_toy.pages.making import make

        for path in make(arguments.directory):
            print(path)

    parser.set_defaults(run=run)


def variance(commands):
    from opd_toy.commands.variance import add

    add(commands)


def train(commands):
    from opd_toy.commands.train import add

    add(commands)


def study(commands):
    from opd_toy.commands.study import add

    add(commands)


def bench(commands):
    from opd_toy.commands.bench import add

    add(commands)


def audit(commands):
    from opd_toy.commands.audit import add

    add(commands)


COMMANDS = (tables, figures, variance, audit, train, study, bench)


def main(arguments=None):
    parser = argparse.ArgumentParser(
        prog="python -m opd_toy", description="On-policy distillation made exact."
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add in COMMANDS:
        add(commands)
    parsed = parser.parse_args(arguments)
    try:
        parsed.run(parsed)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # else the flush at exit fails too


if __name__ == "__main__":
    main()
