"""``python -m opd_toy doors``: the record of students that search, by who wrote their texts."""

import json
from pathlib import Path

from opd_toy.commands.running import (
    Progress,
    aligned,
    read_record,
    stoppable,
    threads,
    unchanged,
    write_record,
)


def add(commands):
    parser = commands.add_parser(
        "doors",
        help="where it matters who wrote the text: students that must search behind doors",
        description="Train small students of a teacher that knows behind which of four doors "
        "somebody is, on the teacher's texts and on their own, let them search, and record how "
        "many find the room. A few minutes of a processor. Interrupted or killed, the same "
        "command goes on.",
    )
    option = parser.add_argument
    folder = Path("_build/lm")
    option("--folder", type=Path, default=folder, help=f"of the checkpoint (default: {folder})")
    option(
        "--directory", type=Path, default=Path("figures"), help="of the record (default: figures)"
    )
    option("--show", action="store_true", help="print the recorded figures; train nothing")
    option(
        "--json", action="store_true", help="print the figures as JSON in the place of the table"
    )
    parser.set_defaults(run=lambda arguments: run(parser, arguments))


def run(parser, arguments):
    path = arguments.directory / "doors.json"
    with stoppable(parser):
        results = read_record(path) if arguments.show else _made(path, arguments.folder)
        print(json.dumps(results) if arguments.json else table(results))


def _made(path, folder):
    from opd_toy.lm.searching import MODULES, SEEDS, searching

    with threads(1), unchanged(path, MODULES):
        results = searching(folder, Progress)
    write_record(path, results, modules=MODULES, seed=list(SEEDS))
    return results


def table(results):
    """The share of answers that come to the right room: means over the seeds, by the teacher."""
    noises = list(results["teachers"])
    rows = [["trained further by", *(f"noise {float(noise):g}" for noise in noises)]]
    for method in dict.fromkeys(run["method"] for run in results["runs"]):
        cells = []
        for noise in noises:
            found = [
                run["found"]
                for run in results["runs"]
                if (run["method"], str(run["noise"])) == (method, noise)
            ]
            cells.append(f"{sum(found) / len(found):.3f}" if found else "")
        rows.append([method, *cells])
    rows.append(
        ["(the teacher)", *(f"{found['found']:.3f}" for found in results["teachers"].values())]
    )
    return (
        f"Share of {results['questions']} answers that come to the right room, after "
        f"{results['further']['steps']} steps\n\n{aligned(rows, 1)}"
    )
