"""What `python -m opd_toy bench --training` does; by ``opd_toy.lm.bench.training``."""

import math

from opd_toy.commands.bench import measure
from opd_toy.commands.running import aligned, make_record

RECORD = "training-benchmark.json"
MODULES = ["opd_toy.lm.bench.training"]
REPEATS = 40
WANTED = 1.5  # times as fast as the Hugging Face loop, in each stage
# The lines of a table, by their names in the record.
ROWS = {
    "writing": "writing",
    "training": "training",
    "student": "- student's logits",
    "teacher": "- teacher's logits",
    "loss": "- loss",
    "backward": "- backward",
    "optimiser": "- optimiser",
    "whole step": "whole step",
}
STAGES = ("writing", "training", "whole step")
HOW = "`make peers` fetches it into .venv-peers, where this command finds it"
# Of the same weights, texts and formula, in float32 summed in another order.
SAME_LOSS = 1e-4


def make(path, arguments):
    """Measure and record."""
    from opd_toy import _validate

    repeats = arguments.repeats
    if repeats is None:
        repeats = 3 if arguments.quick else REPEATS
    for name, value in (("repeats", repeats), ("threads", arguments.threads)):
        _validate.whole(name, value)
    job = {
        "preset": "tiny" if arguments.quick else "cpu",
        "repeats": repeats,
        "counts": sorted({1, arguments.threads}),
        "threads": arguments.threads,
    }
    return make_record(
        path, lambda: measure(job, *MODULES, progress="training"), modules=MODULES, seed=[1]
    )


# --- what the record says ----------------------------------------------------------------


def by_case(run):
    """{case: row} of those cases of a run that have figures."""
    return {row["case"]: row for row in run["rows"] if "failed" not in row}


def comparison(run, stage):
    """The least seconds of a stage: {"lab", "hugging_face", "products"}, None where not there.

    And "times", how many times the lab's the Hugging Face loop's are.
    """
    rows = by_case(run)
    found = dict.fromkeys(("hugging_face", "products"))
    found |= {case: row["least"].get(stage) for case, row in rows.items()}
    other = found["hugging_face"]
    return found | {"times": None if other is None else other / found["lab"]}


def goals(results):
    """What the lab was to reach at the preset ``cpu``, and whether it does: dicts."""
    if results["preset"] != "cpu":
        return []
    found = []
    for run in results["runs"]:
        for stage in STAGES:
            compared = comparison(run, stage)
            if compared["times"] is not None:
                goal = {"threads": run["threads"], "stage": stage, **compared}
                found.append(goal | {"wanted": WANTED, "met": goal["times"] >= WANTED})
    return found


def goal_text(goal):
    text = (
        f"{'met' if goal['met'] else 'NOT met'}: {stage_words(goal)}: at least "
        f"{goal['wanted']} times as fast as the Hugging Face loop: {goal['times']:.2f} times"
    )
    return text if goal["met"] else f"{text}; {reason(goal)}"


def stage_words(goal):
    return f"{goal['stage']}, {goal['threads']} thread{'s' if goal['threads'] > 1 else ''}"


def reason(goal):
    """Where the time goes of a stage that is not as fast as wanted."""
    lab, other, floor = goal["lab"], goal["hugging_face"], goal["products"]
    return (
        f"the matrix products, the same for both, take {_ms(floor)} alone, "
        f"{floor / lab:.0%} of the lab's {_ms(lab)}; above them are {_ms(lab - floor)} in the lab "
        f"and {_ms(other - floor)} in the loop"
    )


def tables(results):
    """One (title, rows) for each number of threads; rows of strings, the first the header."""
    return [
        (stage_words(run | {"stage": "milliseconds"}), [HEADER, *map(_cells(run), ROWS)])
        for run in results["runs"]
    ]


HEADER = ("", "lab", "median", "Hugging Face", "median", "of the lab", "products alone")
HEADER += ("tokens/s, lab", "Hugging Face")


def _cells(run):
    rows = by_case(run)
    nothing = {"least": {}, "median": {}}
    lab, other, alone = (rows.get(each, nothing) for each in ("lab", "hugging_face", "products"))

    def cells(name):
        figures = [side[of].get(name) for side in (lab, other) for of in ("least", "median")]
        times = comparison(run, name)["times"]
        return (
            ROWS[name],
            *map(_number, figures),
            "-" if times is None else f"{times:.2f}x",
            _number(alone["least"].get(name)),
            *(_rate(side, name) for side in (lab, other)),
        )

    return cells


def _number(seconds):
    return "-" if seconds is None else f"{1e3 * seconds:.2f}"


def _ms(seconds):
    return f"{_number(seconds)} ms"


def rate(row, stage):
    """Tokens a second: those written in the time of writing, else those trained on."""
    tokens = row["written" if stage == "writing" else "trained"]
    return tokens / row["least"][stage]


def _rate(row, stage):
    return f"{rate(row, stage):,.0f}" if stage in STAGES and row["least"] else "-"


def loss_text(run):
    """Whether the two losses are one number."""
    rows = by_case(run)
    lab, other = rows["lab"]["loss"], rows["hugging_face"]["loss"]
    same = math.isclose(lab, other, rel_tol=SAME_LOSS)
    return f"{'the same loss' if same else 'NOT the same loss'}: {lab:.6f} and {other:.6f} nats"


def as_text(results):
    libraries = ", ".join(f"{name} {number}" for name, number in results["versions"].items())
    blocks = [
        f"{results['processor']}, preset {results['preset']}, {results['batch']} texts a step, "
        f"least and median of {results['repeats']} steps each in turn; {libraries}"
    ]
    blocks += [f"{title}\n{aligned(rows, left=1)}" for title, rows in tables(results)]
    runs = [run for run in results["runs"] if "hugging_face" in by_case(run)]
    blocks += [row["failed"] for run in results["runs"] for row in run["rows"] if "failed" in row]
    if runs:
        blocks.append(loss_text(runs[0]))
    if reached := goals(results):
        blocks.append("\n".join(map(goal_text, reached)))
    if results["missing"]:
        blocks.append(f"Not here: {', '.join(results['missing'])}. {HOW}.")
    return "\n\n".join(blocks)
