"""How long the auditor takes for each loss that the book audits: seconds, and calls of the loss.

``python -m opd_toy bench --audits`` runs this module in a process of its own, by the Python that
has the libraries.  The losses are the museum's, those of the notes' claims and the libraries'.
"""

import functools
import json
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

from opd_toy.audit import AuditError, audit, audit_sequence
from opd_toy.audit.exhibits import museum, notes_claims
from opd_toy.audit.exhibits.libraries.record import LIBRARY_LOSSES, one_thread, report_of

AUDITS = {"token": audit, "sequence": audit_sequence}


@dataclass(frozen=True)
class Entry:
    """``of``: "museum", "notes" or a library's name; ``level``: "token" or "sequence".

    ``report``: from a loss to its report.
    """

    id: str
    of: str
    level: str
    loss: Callable
    report: Callable


def entries():
    """All losses that are audited, each once."""
    found = {}
    for exhibit in museum.EXHIBITS.values():
        for loss in (exhibit.wrong, exhibit.right):
            found[loss] = Entry(loss.__name__, "museum", exhibit.level, loss, AUDITS[exhibit.level])
    for row in (row for claim in notes_claims.CLAIMS.values() for row in claim):
        report = functools.partial(AUDITS[row.level], **row.options)
        found.setdefault(row.loss, Entry(row.loss.__name__, "notes", row.level, row.loss, report))
    for loss in LIBRARY_LOSSES.values():
        level = "token" if loss.kind == "token" else "sequence"
        report = functools.partial(_of_library, loss)
        found[loss.id] = Entry(loss.id, loss.library, level, loss.adapter, report)
    return list(found.values())


def _of_library(loss, adapter):
    return report_of(replace(loss, adapter=adapter))


def timed(entry, repeats):
    """The entry's row: {"id", "of", "level", "seconds", "calls", "optimises"}.

    ``seconds``: the least of ``repeats`` audits, so that what a library does on import does not
    count.  ModuleNotFoundError where the library is not there.
    """
    seconds = []
    for _ in range(repeats):
        calls = 0

        @functools.wraps(entry.loss)
        def counted(*inputs, **named):
            nonlocal calls
            calls += 1
            return entry.loss(*inputs, **named)

        started = time.perf_counter()
        try:
            optimises = entry.report(counted).optimises
        except AuditError as error:
            if isinstance(error.__cause__, ModuleNotFoundError):
                raise error.__cause__ from None
            optimises = "cannot be audited"
        seconds.append(time.perf_counter() - started)
    return {
        **{name: getattr(entry, name) for name in ("id", "of", "level")},
        "seconds": round(min(seconds), 4),
        "calls": calls,
        "optimises": optimises,
    }


def measure(chosen, repeats, report):
    """Rows of the entries whose library is there, and which libraries are not."""
    rows, missing = [], []
    with one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for done, entry in enumerate(chosen, 1):
            try:
                rows.append(timed(entry, repeats))
            except ModuleNotFoundError:
                missing.append(entry.of)
            report(done, len(chosen))
    return {"audits": rows, "missing": list(dict.fromkeys(missing))}


def main():
    """Reads {"of", "repeats"} as JSON from stdin; ``of``: whose losses, null for all.

    Writes a line of JSON to stdout for each audit done, [done, total], then the figures.
    """
    job = json.loads(sys.stdin.read())
    chosen = [entry for entry in entries() if job["of"] in (None, entry.of)]
    report = lambda done, total: print(json.dumps([done, total]), flush=True)
    try:
        print(json.dumps(measure(chosen, job["repeats"], report)))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
