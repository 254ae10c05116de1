"""What the losses were to reach, whether they do, and what their time beyond the floor is."""

# From hidden states the logits' own rounding, which no loss can undo, moves an error by some
# percent.
ROUNDING = 1.1
BESIDE_LIGER = ("hidden_64", "hidden_64_jsd", "hidden_896")
OURS = ("ours", "ours_overwrite")
TIMES_THE_FLOOR = {"logits": 1.5, "hidden": 1.25}  # by the first word of a setting's name


def goals(results):
    """What the losses were to reach, and whether they do: dicts.

    goal in words; met; and other in words with time and memory, how many times ours its are, or
    with error, a pair; or floor, how many times its floor each of our losses takes, by words.
    Those the run has no figures for, such as without the other libraries or on a trial's small
    vocabulary, are left out.
    """
    large = [setting for setting in results["settings"] if setting["vocabulary"] > 100_000]
    settings = {
        setting["name"]: {row["case"]: row for row in setting["rows"] if "failed" not in row}
        for setting in large
    }
    dense = {name: settings.get(name, {}) for name in ("logits", "logits_jsd")}
    return [
        *(_dense_goal(name, rows) for name, rows in dense.items() if "trl" in rows),
        *(
            _fused_goal(name, settings[name])
            for name in BESIDE_LIGER
            if _fastest_liger(settings.get(name, {}))
        ),
        *(_floor_goal(setting) for setting in large),
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
        "goal": f"{name}: Liger's fastest takes at least 1.2 times the time and no less memory "
        "than ours",
        **_ratios(rows["ours"], _fastest_liger(rows), time=1.2, memory=1),
    }


def _floor_goal(setting):
    wanted = TIMES_THE_FLOOR[setting["name"].split("_")[0]]
    floor = {row["words"]: times_the_floor(setting, row) for row in _our_rows(setting)}
    return {
        "goal": f"{setting['name']}: at most {wanted} times the floor",
        "floor": floor,
        "met": max(floor.values()) <= wanted,
    }


def _our_rows(setting):
    return [row for row in setting["rows"] if row["case"] in OURS and "failed" not in row]


def floor_of(setting, row):
    """The floor that a row's loss has: of what overwrites the logits, its own."""
    floors = {floor["kind"]: floor for floor in setting["floors"]}
    over = row["case"] == "ours_overwrite" and "over" in floors
    return floors["over"] if over else setting["floors"][0]


def times_the_floor(setting, row):
    return row["least"] / floor_of(setting, row)["least"]


def above_the_floor(setting):
    """Lines: what the time of our losses beyond the floor consists of, where it was measured."""
    return [
        f"{setting['name']}, {row['words']}: {_milliseconds(sum(above.values()))}: "
        + ", ".join(f"{name} {_milliseconds(seconds)}" for name, seconds in above.items())
        for row in _our_rows(setting)
        if (above := parts_above(setting, row))
    ]


def parts_above(setting, row):
    """{what in words: seconds} of a row's least time beyond its floor; {} where not measured.

    The parts are measured alone; the rest is what they leave, and below zero where they overlap.
    """
    parts = setting.get("parts")
    if not parts:
        return {}
    floor = floor_of(setting, row)["least"]
    if "products" in parts:
        above = {
            "the products in the loss's own chunks": parts["products"] - floor,
            "the formula": parts["formula"],
        }
    else:
        further = parts["formula"] - parts["exponentials"]
        above = {"further operations of the formula": further}
    above["fresh pages"] = 0.0 if row["case"] == "ours_overwrite" else parts["pages"]
    return above | {"the rest": row["least"] - floor - sum(above.values())}


def _milliseconds(seconds):
    return f"{1e3 * seconds:.0f} ms"


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


def _fastest_liger(rows):
    """Of Liger's rows, or None."""
    liger = (row for case, row in rows.items() if case.startswith("liger"))
    return min(liger, key=lambda row: row["least"], default=None)


def _peer_errors(rows):
    return {
        case: row["gradient_error"]
        for case, row in rows.items()
        if case.startswith(("trl", "liger"))
    }


def goal_text(goal):
    """A line: met or not, the goal, the figures."""
    said = f"{'met' if goal['met'] else 'NOT met'}: {goal['goal']}: "
    if "floor" in goal:
        return said + ", ".join(f"{times:.2f} ({ours})" for ours, times in goal["floor"].items())
    if "error" in goal:
        figures = "{:.1e} against {:.1e}".format(*goal["error"])
    else:
        known = goal["memory"] is not None
        memory = f"{goal['memory']:.1f} times the memory" if known else "memory not known"
        figures = f"{goal['time']:.1f} times the time, {memory}"
    return f"{said}{figures} ({goal['other']})"
