"""``python -m opd_toy.audit.exhibits.libraries``: the record, printed or made again."""

import argparse
import json
import os
import statistics
from pathlib import Path

from opd_toy.audit.exhibits.libraries.differences import differences
from opd_toy.audit.exhibits.libraries.index import joined
from opd_toy.audit.exhibits.libraries.record import (
    LIBRARY_LOSSES,
    NAMES,
    RECORD,
    SEED,
    results_of,
)
from opd_toy.audit.exhibits.libraries.settings import GOALS
from opd_toy.commands.running import unchanged
from opd_toy.records import provenance

COMMAND = "python -m opd_toy.audit.exhibits.libraries"
SOURCES = {
    "modules": ["opd_toy.audit.exhibits.libraries.record"],
    "files": ["requirements-peers.txt"],
}


def make_record(path=RECORD):
    """Audit all of it with the libraries of this Python and write the record."""
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    with unchanged(path, **SOURCES):
        results = results_of(LIBRARY_LOSSES.values())
    provenance.record(path, results, **SOURCES, seed=SEED, command=f"{COMMAND} --record")


def as_text(results):
    """The verdicts, one line each, then the settings."""
    verdicts = [f"{entry['id']:36} {_verdict(entry)}" for entry in results["audits"]]
    note = ["", "* not everywhere: see the edges in its report", *_times(results["audits"]), ""]
    return "\n".join(verdicts + note + [line for goal in GOALS for line in _setting_lines(goal)])


def _times(audits):
    """How long an audit took, at the median."""
    for kinds, words in ((("token",), "a token"), (("sequence", "batch"), "a text")):
        seconds = [entry["seconds"] for entry in audits if entry["kind"] in kinds]
        if seconds:
            yield f"an audit of {words}: {statistics.median(seconds):.2f} s at the median"


def _verdict(entry):
    report, verdict = entry["report"], entry["optimises"]
    named = report is not None and verdict != "none of these"
    return f"{verdict}*" if named and not report["holds_everywhere"] else verdict


def _setting_lines(goal):
    yield goal.name
    yield f"  when: {goal.when}"
    for library in NAMES:
        for name, words in goal.settings_of(library).items():
            yield f"  {library:16} {words}  [{name}]"


def parser():
    parser = argparse.ArgumentParser(
        prog=COMMAND,
        description="What the distillation losses of public trainers optimise: by their own "
        "code where it is a package, as read where it is not.",
    )
    parser.add_argument(
        "--record",
        action="store_true",
        help=f"audit them again (`make peers` installs them) and write figures/{RECORD.name}",
    )
    parser.add_argument("--json", action="store_true", help="print the record as JSON")
    parser.add_argument(
        "--index", action="store_true", help="print the index as JSON: no reports, with goals"
    )
    parser.add_argument(
        "--against", metavar="OLD.json", type=Path, help="say what changed since an older record"
    )
    return parser


def main(arguments=None):
    arguments = parser().parse_args(arguments)
    if arguments.record:
        try:
            make_record()
        except ModuleNotFoundError as error:
            parser().error(f"{error}: `make audit-peers` runs this where the libraries are")
    if not RECORD.exists():
        parser().error(f"{RECORD.name} is not there; `make audit-peers` makes it")
    results = _results(RECORD)
    if arguments.against:
        if not arguments.against.exists():
            parser().error(f"--against: no file {arguments.against}")
        said = differences(_results(arguments.against)["audits"], results["audits"])
        print("\n".join(said) or "nothing changed")
    elif arguments.json or arguments.index:
        whole = results if arguments.json else joined(results["audits"])
        print(json.dumps(whole, indent=2, ensure_ascii=False))
    else:
        print(as_text(results))


def _results(path):
    return json.loads(path.read_text(encoding="utf-8"))["results"]


if __name__ == "__main__":
    main()
