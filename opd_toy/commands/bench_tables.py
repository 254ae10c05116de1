"""The tables of the loss benchmark's record, and what the losses were to reach."""

from opd_toy.commands.running import aligned

HEADER = ("loss", "median", "least", "of ours", "extra memory", "of ours", "gradient error")
# From hidden states the logits' own rounding, which no loss can undo, moves an error by some
# percent.
ROUNDING = 1.1
HOW = (
    "`make peers` fetches the other libraries (TRL, Liger) into .venv-peers, where this command "
    "finds them"
)


def tables(results):
    """One (title, rows) a setting; rows of strings, the first the HEADER.

    "of ours" is a multiple of the first line's figure: least time, then extra memory.
    """
    found = []
    for setting in results["settings"]:
        ours = setting["rows"][0]
        rows = [_cells(row, ours) for row in setting["rows"]]
        found.append((setting["words"], [HEADER, *rows]))
    return found


def _cells(row, ours):
    if "failed" in row:
        return (row["words"], "failed", *[""] * 5)
    memory = "-", "-"
    if row["extra_bytes"] is not None and ours["extra_bytes"]:
        times = row["extra_bytes"] / ours["extra_bytes"]
        memory = f"{row['extra_bytes'] / 2**20:.0f} MiB", f"{times:.1f}x"
    return (
        row["words"],
        _seconds(row["median"]),
        _seconds(row["least"]),
        f"{row['least'] / ours['least']:.1f}x",
        *memory,
        f"{row['gradient_error']:.1e}",
    )


def _seconds(value):
    return f"{value:.2f} s" if value >= 0.1 else f"{1e3 * value:.2f} ms"


def goals(results):
    """What the losses were to reach, and whether they do: dicts.

    goal and other in words; time and memory, how many times ours the other's are, or error, a
    pair; met.  Those the run has no figures for, such as without the other libraries or on a
    trial's small vocabulary, are left out.
    """
    settings = {
        setting["name"]: {row["case"]: row for row in setting["rows"] if "failed" not in row}
        for setting in results["settings"]
        if setting["vocabulary"] > 100_000
    }
    dense = {name: settings.get(name, {}) for name in ("logits", "logits_jsd")}
    return [
        *(_dense_goal(name, rows) for name, rows in dense.items() if "trl" in rows),
        *(_fused_goal(name, rows) for name, rows in settings.items() if _tuned(rows)),
        *(_error_goal(name, rows) for name, rows in settings.items() if _peer_errors(rows)),
    ]


def _dense_goal(name, rows):
    return {
        "goal": f"{name}: TRL's dense loss takes at least 8 times the time and 20 times the "
        "memory of ours with overwrite_logits",
        **_ratios(rows["ours_overwrite"], rows["trl"], time=8, memory=20),
    }


def _fused_goal(name, rows):
    return {
        "goal": f"{name}: Liger's fastest takes at least 1.3 times the time and no less memory "
        "than ours",
        **_ratios(rows["ours"], _tuned(rows), time=1.3, memory=1),
    }


def _error_goal(name, rows):
    errors, ours = _peer_errors(rows), rows["ours"]["gradient_error"]
    best = min(errors, key=errors.get)
    return {
        "goal": f"{name}: gradient error no larger than the best other library's, within a tenth",
        "other": rows[best]["words"],
        "error": [ours, errors[best]],
        "met": ours <= ROUNDING * errors[best],
    }


def _ratios(ours, other, **wanted):
    known = ours["extra_bytes"] and other["extra_bytes"]
    time = other["least"] / ours["least"]
    memory = other["extra_bytes"] / ours["extra_bytes"] if known else None
    met = memory is not None and time >= wanted["time"] and memory >= wanted["memory"]
    return {"other": other["words"], "wanted": wanted, "time": time, "memory": memory, "met": met}


def _tuned(rows):
    """The fastest of Liger's settings, or None."""
    liger = (row for case, row in rows.items() if case.startswith("liger"))
    return min(liger, key=lambda row: row["least"], default=None)


def _peer_errors(rows):
    return {
        case: row["gradient_error"]
        for case, row in rows.items()
        if case.startswith(("trl", "liger"))
    }


def goal_text(goal):
    if "error" in goal:
        figures = "{:.1e} against {:.1e}".format(*goal["error"])
    else:
        known = goal["memory"] is not None
        memory = f"{goal['memory']:.1f} times the memory" if known else "memory not known"
        figures = f"{goal['time']:.1f} times the time, {memory}"
    return f"{'met' if goal['met'] else 'NOT met'}: {goal['goal']}: {figures} ({goal['other']})"


def _rates_text(results):
    """What the card does at best, and what that leaves to the losses."""
    rates = results["rates"]
    bounds = (f"{setting['name']} {_seconds(setting['bound'])}" for setting in results["settings"])
    return (
        f"copies {rates['copy'] / 1e9:.0f} GB/s, multiplies {rates['product'] / 1e12:.1f} TFLOP/s "
        f"in bfloat16; no loss can be faster than: {', '.join(bounds)}"
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
    if results["missing"]:
        blocks.append(f"Not here: {', '.join(results['missing'])}. {HOW}.")
    return "\n\n".join(blocks)
