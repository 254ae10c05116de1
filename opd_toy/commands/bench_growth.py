"""What `python -m opd_toy bench --growth` does; it measures by ``opd_toy.lm.bench.growth``."""

import sys

from opd_toy import _validate
from opd_toy.commands.running import aligned, unchanged, write_record

RECORD = "loss-growth.json"
MODULES = ["opd_toy.lm.bench.growth"]
COSTS = {"seconds": "time", "extra_bytes": "extra memory"}


def make(path, arguments):
    """Measure and record."""
    from opd_toy.commands.bench import measure

    repeats = arguments.repeats if arguments.repeats is not None else 1 if arguments.quick else 3
    for name, value in (("repeats", repeats), ("threads", arguments.threads)):
        _validate.whole(name, value)
    job = {"small": arguments.quick, "repeats": repeats, "threads": arguments.threads}
    with unchanged(path, MODULES):
        found = measure(job, *MODULES, progress="growth")
    try:
        write_record(path, found, modules=MODULES, seed=[1])
    except OSError as error:
        sys.exit(f"could not write {path} ({error}); make room and give the same command again")
    print(f"recorded in {path}", file=sys.stderr)
    return found


def as_text(results):
    head = f"{results['processor']}, {results['threads']} threads, the fastest of "
    head += f"{results['repeats']} passes or more; torch {results['versions']['torch']}"
    lines, blocks = results["lines"], [f"reverse KL, float32; {head}"]
    for over in dict.fromkeys(point["over"] for point in results["points"]):
        rows = [("loss", "tokens", "V", "width", "time", "a logit", "extra memory")]
        for point in results["points"]:
            if point["over"] == over:
                rows.append((lines[point["line"]], *_cells(point)))
        blocks.append(f"against {over}\n{aligned(rows, left=1)}")
    rows = [("cost", "of", "against", "exponent", "at the small end", "at the large end")]
    for row in results["exponents"]:
        slopes = (f"{row[name]:.2f}" for name in ("exponent", "first", "last"))
        rows.append((COSTS[row["cost"]], lines[row["line"]], row["over"], *slopes))
    blocks.append(aligned(rows, left=3))
    return "\n\n".join(blocks)


def _cells(point):
    logits = point["tokens"] * point["vocabulary"]
    memory = point["extra_bytes"]
    return (
        f"{point['tokens']:,}",
        f"{point['vocabulary']:,}",
        f"{point['width'] or '-'}",
        f"{1e3 * point['seconds']:.1f} ms",
        f"{1e9 * point['seconds'] / logits:.2f} ns",
        "-" if memory is None else f"{memory / 2**20:.1f} MiB",
    )
