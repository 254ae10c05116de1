"""The tables of a study's record."""

from opd_toy.commands.running import aligned


def report(results):
    return "\n\n".join(
        [
            header(results),
            methods_table(results),
            *broken(results),
            *([sweep_table(results)] if results["sweep"] else []),
            *([teacher_table(results)] if results["from_teacher"] else []),
            *(frozen_table(results, student) for student in results["frozen"]),
            claims_table(results),
        ]
    )


def header(results):
    name, settings = results["preset"]["name"], results["preset"]["distillation"]
    return (
        f"{name}: {settings['steps']} steps of {settings['batch']} texts, seeds "
        f"{', '.join(map(str, results['seeds']))}, on {results['device']}; measured on "
        f"{results['final']['prompts']} prompts kept for tests"
    )


MEASURES = (
    "accuracy",
    "right_working",
    "sequence_kl",
    "forward_sequence_kl",
    "order_entropy",
    "distinct",
    "length",
)


def methods_table(results):
    """Mean over seeds at the end, and what it cost."""
    rows = [["", *(name.replace("_", " ") for name in MEASURES), "tokens", results["clock"]]]
    final = results["final"]
    for name in ("teacher", "start"):
        rows.append([name, *(_plain(final[name][measure]) for measure in MEASURES), "", ""])
    for name, runs in results["curves"].items():
        ends = [[seed and seed[measure] for seed in final[name]] for measure in MEASURES]
        spent = [_mean([run[what][-1] for run in runs]) for what in ("tokens", "seconds")]
        cells = (_plain(_mean(values)) for values in ends)
        rows.append([name, *cells, *(f"{value:.0f}" for value in spent)])
    return aligned(rows)


def broken(results):
    """A line for every run that has no end."""
    runs = results["curves"] | {
        f"{name} from the teacher": found["curves"]
        for name, found in results["from_teacher"].get("methods", {}).items()
    }
    return [
        f"{name}, seed {seed}, broke down and is in no mean: {curve['not_finite']}"
        for name, curves in runs.items()
        for seed, curve in zip(results["seeds"], curves)
        if "not_finite" in curve
    ]


def teacher_table(results):
    """What becomes of a student that starts as the teacher; mean over seeds."""
    found = results["from_teacher"]
    rows = [
        ["", "gain in right workings", *(name.replace("_", " ") for name in MEASURES)],
        ["teacher", "", *(_plain(results["final"]["teacher"][measure]) for measure in MEASURES)],
    ]
    for name, of in found["methods"].items():
        gain = _mean([seed and seed["gain"][0] for seed in of["final"]])
        ends = [[seed and seed[measure] for seed in of["final"]] for measure in MEASURES]
        cells = (_plain(_mean(values)) for values in ends)
        rows.append([name, "-" if gain is None else f"{gain:.4f}", *cells])
    title = (
        f"Students that start as the teacher: {found['steps']} steps at the rate "
        f"{found['rate']:.2g}"
    )
    return f"{title}\n\n{aligned(rows)}"


def sweep_table(results):
    """Sequence KL and accuracy at the end, by learning rate."""
    rates = [row["rate"] for row in next(iter(results["sweep"].values()))]
    rows = [["rate", *(f"{rate:.2g}" for rate in rates)]]
    for name, found in results["sweep"].items():
        cells = (f"{_plain(row['sequence_kl'])} ({_plain(row['accuracy'])})" for row in found)
        rows.append([name, *cells])
    title = f"Sequence KL (accuracy) at the end by rate, seed {results['seeds'][0]}"
    return f"{title}\n\n{aligned(rows)}"


def frozen_table(results, student):
    found = results["frozen"][student]
    columns = (
        "variance",
        "ratio_to_gkd",
        "token_noise",
        "cosine_with_gkd",
        "cosine_with_sequence_kl",
        "bias",
    )
    rows = [["", *(name.replace("_", " ") for name in columns), "growth"]]
    for name, row in found["estimators"].items():
        exponents = (_plain(value) for value, _ in found["growth"][name]["exponents"])
        cells = (_with_error(row[column]) for column in columns)
        rows.append([name, *cells, " ".join(exponents)])
    lengths = ", ".join(map(str, found["growth"]["lengths"]))
    title = (
        f"Gradients of one text at a frozen student: {student}, {found['texts']} texts (± "
        f"standard error); local exponents of the variance between lengths {lengths}"
    )
    return f"{title}\n\n{aligned(rows)}"


def claims_table(results):
    lines = []
    for row in results["claims"]:
        figure = "; ".join(
            f"{name} {_with_error(value) if isinstance(value, list) else _plain(value)}"
            for name, value in row["figure"].items()
        )
        held = ", ".join(what for what, true in row["parts"].items() if true)
        lines.append(
            f"{row['id']}: {row['verdict']}"
            + (f" ({held})" if row["verdict"] == "seen under conditions" else "")
            + f"\n  {row['claim']}\n  {figure}"
        )
    return "\n".join(lines)


def _mean(values):
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _plain(value):
    return "-" if value is None else f"{value:.3f}" if abs(value) < 1000 else f"{value:.3g}"


def _with_error(pair):
    value, error = pair
    if value is None:
        return "-"
    return f"{value:.3g}" if error is None else f"{value:.3g} ± {error:.1g}"
