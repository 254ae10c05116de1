"""What `python -m opd_toy bench --growth` does; it measures by ``opd_toy.lm.bench.growth``."""

from opd_toy import _validate
from opd_toy.commands.running import aligned, make_record

RECORD = "loss-growth.json"
MODULES = ["opd_toy.lm.bench.growth"]
STEP = 1.25  # times the least time a logit: what counts as a row that no longer fits
COSTS = {"seconds": "time", "extra_bytes": "extra memory"}


def make(path, arguments):
    """Measure and record."""
    from opd_toy.commands.bench import measure

    repeats = arguments.repeats if arguments.repeats is not None else 1 if arguments.quick else 3
    for name, value in (("repeats", repeats), ("threads", arguments.threads)):
        _validate.whole(name, value)
    job = {"small": arguments.quick, "repeats": repeats, "threads": arguments.threads}
    return make_record(
        path, lambda: measure(job, *MODULES, progress="growth"), modules=MODULES, seed=[1]
    )


def by_row(results):
    """How the time a logit changes: (bytes of a float32 row, multiple of the least time)."""
    points = [point for point in results["points"] if point["over"] == "row"]
    rows = [
        (4 * point["vocabulary"], point["seconds"] / point["tokens"] / point["vocabulary"])
        for point in points
    ]
    least = min(seconds for _, seconds in rows)
    return [(size, seconds / least) for size, seconds in rows]


def too_large(results):
    """(size, times) of the smallest row from which on all take STEP times the least, or None."""
    found = None
    for size, times in reversed(by_row(results)):
        if times < STEP:
            break
        found = size, times
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
    blocks += [aligned(rows, left=3), _cache_text(results)]
    return "\n\n".join(blocks)


def _cache_text(results):
    caches = ", ".join(
        f"level {level} {size / 2**20:g} MiB" for level, size in results["cache_bytes"].items()
    )
    times = ", ".join(f"{size / 2**20:g} MiB {times:.2f}" for size, times in by_row(results))
    return (
        f"A block of rows is one row or {results['block_bytes'] / 2**20:g} MiB of a model's logits "
        f"at most; caches: {caches or 'not known'}.\nTime a logit by the row, as a multiple of "
        f"the least: {times}"
    )


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
