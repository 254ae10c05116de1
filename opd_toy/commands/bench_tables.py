"""The tables of the loss benchmark's record."""

from opd_toy.commands.bench_goals import above_the_floor, floor_of, goal_text, goals
from opd_toy.commands.running import aligned

HEADER = (
    "loss",
    "median",
    "least",
    "of ours",
    "of the floor",
    "extra memory",
    "of ours",
    "gradient error",
)
HOW = (
    "`make peers` fetches the other libraries (TRL, Liger) into .venv-peers, where this command "
    "finds them"
)


def tables(results):
    """One (title, rows) a setting; rows of strings, the first the HEADER, the last the floors.

    "of ours" is a multiple of the first line's figure: least time, then extra memory; "of the
    floor" one of the least time of the floor that the loss has.
    """
    found = []
    for setting in results["settings"]:
        ours = setting["rows"][0]
        rows = [_cells(row, ours, floor_of(setting, row)) for row in setting["rows"]]
        rows += [_floor_cells(floor, ours) for floor in setting["floors"]]
        found.append((setting["words"], [HEADER, *rows]))
    return found


def _cells(row, ours, floor):
    if "failed" in row:
        return (row["words"], "failed", *[""] * 6)
    memory = "-", "-"
    if row["extra_bytes"] is not None and ours["extra_bytes"]:
        times = row["extra_bytes"] / ours["extra_bytes"]
        memory = f"{row['extra_bytes'] / 2**20:.0f} MiB", f"{times:.1f}x"
    return (
        *_times(row, ours),
        f"{row['least'] / floor['least']:.1f}x",
        *memory,
        f"{row['gradient_error']:.1e}",
    )


def _floor_cells(floor, ours):
    return (*_times(floor, ours), "1.0x", "", "", "")


def _times(row, ours):
    return (
        row["words"],
        _seconds(row["median"]),
        _seconds(row["least"]),
        f"{row['least'] / ours['least']:.1f}x",
    )


def _seconds(value):
    return f"{value:.2f} s" if value >= 0.1 else f"{1e3 * value:.2f} ms"


def _rates_text(results):
    """What the card does at best, from which its floors follow."""
    rates = results["rates"]
    return (
        f"copies {rates['copy'] / 1e9:.0f} GB/s, multiplies {rates['product'] / 1e12:.1f} TFLOP/s "
        "in bfloat16"
    )


def as_text(results):
    libraries = ", ".join(f"{name} {number}" for name, number in results["versions"].items())
    blocks = [
        f"{results['processor']}, {results['threads']} threads, {results['repeats']} passes each "
        f"in turn; {libraries}"
    ]
    if "rates" in results:
        blocks.append(_rates_text(results))
    blocks += [f"{title}\n{aligned(rows, left=1)}" for title, rows in tables(results)]
    failed = [
        row["failed"]
        for setting in results["settings"]
        for row in setting["rows"]
        if "failed" in row
    ]
    if failed:
        blocks.append("\n".join(failed))
    if reached := goals(results):
        blocks.append("\n".join(map(goal_text, reached)))
    if above := [line for setting in results["settings"] for line in above_the_floor(setting)]:
        blocks.append("\n".join(["What is above the floor:", *above]))
    if results["missing"]:
        blocks.append(f"Not here: {', '.join(results['missing'])}. {HOW}.")
    return "\n\n".join(blocks)
