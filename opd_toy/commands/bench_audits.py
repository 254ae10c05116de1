"""``python -m opd_toy bench --audits``: how long an audit takes, of each loss that is audited."""

import math
import statistics

from opd_toy.commands.running import aligned, make_record

RECORD = "audit-times.json"
SOURCES = {"modules": ["opd_toy.audit.exhibits.timing"], "files": ["requirements-peers.txt"]}
REPEATS = 2  # in the first a library is imported
LEVELS = {"token": "of a token", "sequence": "of a text"}
SLOWEST = 5
HEADER = ("audit", "losses", "median", "95 %", "longest", "calls, median", "most")


def make(path, arguments):
    """Measure and record."""
    from opd_toy import _validate
    from opd_toy.commands import bench
    from opd_toy.lm.bench.processes import processor

    if arguments.threads != bench.THREADS:
        raise ValueError("threads is of no use here: an audit runs on one; leave it out")
    repeats = REPEATS if arguments.repeats is None else arguments.repeats
    _validate.whole("repeats", repeats)
    job = {"of": "museum" if arguments.quick else None, "repeats": repeats, "threads": 1}
    here = {"processor": processor(), "threads": 1, "repeats": repeats}
    work = lambda: here | bench.measure(job, SOURCES["modules"][0], "audits")
    return make_record(path, work, **SOURCES)


def of_level(results, level):
    """The rows of the losses of a "token" or of a "sequence"."""
    return [row for row in results["audits"] if row["level"] == level]


def median(results, level, key):
    """Of the "seconds" or the "calls" of an audit, over the losses of a level."""
    return statistics.median(row[key] for row in of_level(results, level))


def slowest(results):
    """The rows that took longest, longest first."""
    return sorted(results["audits"], key=lambda row: -row["seconds"])[:SLOWEST]


def table(results):
    """Rows of strings, the first the HEADER: one a level."""
    rows = [HEADER]
    for level, words in LEVELS.items():
        if found := of_level(results, level):
            seconds = sorted(row["seconds"] for row in found)
            high = seconds[math.ceil(0.95 * len(seconds)) - 1]
            times = (f"{x:.2f} s" for x in (median(results, level, "seconds"), high, seconds[-1]))
            calls = f"{median(results, level, 'calls'):.0f}"
            rows.append(
                (words, str(len(found)), *times, calls, f"{max(row['calls'] for row in found)}")
            )
    return rows


def as_text(results):
    seconds = sum(row["seconds"] for row in results["audits"])
    longest = [
        f"{row['seconds']:.2f} s, {row['calls']} calls: {row['id']} ({row['of']}): "
        f"{row['optimises']}"
        for row in slowest(results)
    ]
    blocks = [
        f"{len(results['audits'])} losses on {results['processor']}, one thread, the least of "
        f"{results['repeats']}; {seconds:.0f} s in all",
        aligned(table(results), left=1),
        "\n".join(["the slowest:", *longest]),
    ]
    if results["missing"]:
        blocks.append(f"Not here: {', '.join(results['missing'])}; `make peers` fetches them.")
    return "\n\n".join(blocks)
