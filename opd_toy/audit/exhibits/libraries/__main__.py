"""``python -m opd_toy.audit.exhibits.libraries``: the record, printed or made again."""

import argparse
import json
import os

from opd_toy.audit.exhibits.libraries.record import (
    LIBRARY_LOSSES,
    PACKAGES,
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
    note = ["", "* not everywhere: see the edges in its report", ""]
    return "\n".join(verdicts + note + [line for goal in GOALS for line in _setting_lines(goal)])


def _verdict(entry):
    report, verdict = entry["report"], entry["optimises"]
    named = report is not None and verdict != "none of these"
    return f"{verdict}*" if named and not report["holds_everywhere"] else verdict


def _setting_lines(goal):
    yield goal.name
    yield f"  when: {goal.when}"
    for library in PACKAGES:
        for name, words in goal.settings_of(library).items() or [("-", "none")]:
            yield f"  {library:16} {words}  [{name}]"


def parser():
    parser = argparse.ArgumentParser(
        prog=COMMAND,
        description="What the distillation losses of TRL, Liger, verl and tinker-cookbook "
        "optimise.",
    )
    parser.add_argument(
        "--record",
        action="store_true",
        help=f"audit them again (`make peers` installs them) and write figures/{RECORD.name}",
    )
    parser.add_argument("--json", action="store_true", help="print the record as JSON")
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
    results = json.loads(RECORD.read_text(encoding="utf-8"))["results"]
    whole = json.dumps(results, indent=2, ensure_ascii=False)
    print(whole if arguments.json else as_text(results))


if __name__ == "__main__":
    main()
