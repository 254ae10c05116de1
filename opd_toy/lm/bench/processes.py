"""The benchmark's processes.

``python -m opd_toy bench`` runs this module in a process of its own.  It imports the
libraries, computes nothing, and forks two processes for each case: see
``opd_toy.lm.bench.measuring``.
"""

import json
import math
import statistics
import sys
import tempfile
from dataclasses import asdict

from opd_toy.lm.bench.cases import CASES, PEERS, Setting, loss_function
from opd_toy.lm.bench.floors import WORDS, kinds, pace_floor, seconds_of_pages
from opd_toy.lm.bench.forks import Fork, once, processor, versions
from opd_toy.lm.bench.measuring import pace, reference, weigh


def side_by_side(setting, cases, repeats, threads, report):
    """Figures of one setting: rows, one a case, its floors, and ``parts`` in seconds.

    A library's case that fails has its reason in the place of figures.
    """
    with tempfile.TemporaryDirectory() as folder:
        exact = once(reference, setting, threads, folder)
        rows = []
        for case in cases:
            rows.append(weighed(case, setting, threads, folder, exact))
            report()
    floors = [{"kind": kind, "words": WORDS[kind]} for kind in kinds(setting)]
    takers = [(pace, row["case"], row) for row in rows if "failed" not in row]
    takers += [(pace_floor, floor["kind"], floor) for floor in floors]
    for group in [[taker] for taker in takers] if setting.alone else [takers]:
        take_turns(group, setting, repeats, threads, report)
    return {"rows": rows, "floors": floors, "parts": floors[0].pop("parts")}


def weighed(case, setting, threads, folder, exact):
    """A row with memory and rounding, or with the reason why a library's case failed."""
    row = {"case": case, "words": CASES[case]}
    try:
        row |= once(weigh, case, setting, threads, folder)
    except RuntimeError as error:
        return failed(row, case, error)
    return row | {"loss_error": abs(row["loss"] / exact - 1)}


def failed(row, case, error):
    """The row with the reason; ours has to run."""
    if case.split("_")[0] not in PEERS:
        raise error
    row["failed"] = f"{case}: {error}"
    return row


def take_turns(takers, setting, repeats, threads, report):
    """Fill in the seconds of each (function of a process, case, row).

    The first floor's row gets ``parts`` as well; of them fresh pages take turns with the cases.
    """
    running, fills = [], []
    try:
        for function, case, row in takers:
            running.append((Fork(function, case, setting, threads), row))
            try:
                said = running[-1][0].answer()
            except RuntimeError as error:
                running.pop()[0].close()
                failed(row, case, error)
            else:
                row |= {"seconds": []} if function is pace else {"best": said, "seconds": []}
        for repeat in range(repeats):
            turn = repeat % len(running)
            for fork, row in running[turn:] + running[:turn]:
                fork.pipe.send("again")
                row["seconds"].append(fork.answer())
                if row.get("kind") == kinds(setting)[0]:
                    fork.pipe.send("pages")
                    fills.append(fork.answer())
                report()
        for fork, row in running:
            row |= {"median": statistics.median(row["seconds"]), "least": min(row["seconds"])}
            if row.get("kind") == kinds(setting)[0]:
                fork.pipe.send("parts")
                row["parts"] = fork.answer() | {"pages": seconds_of_pages(fills)}
    finally:
        for fork, _ in running:
            fork.close()


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
    steps = (
        len(cases[each]) + times[each] * (len(cases[each]) + len(kinds(each))) for each in settings
    )
    done, total = 0, sum(steps)

    def step():
        nonlocal done
        done += 1
        report(done, total)

    found = []
    for setting in settings:
        number = setting.threads or threads
        figures = side_by_side(setting, cases[setting], times[setting], number, step)
        words = {"words": setting.words(), "threads": number}
        found.append(asdict(setting) | words | figures)
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
