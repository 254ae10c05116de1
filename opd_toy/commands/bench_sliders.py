"""``python -m opd_toy bench --sliders``: how long sliders take to appear and to follow."""

import statistics

from opd_toy.commands.running import Progress, aligned, make_record

RECORD = "slider-times.json"
SOURCES = {
    "modules": ["opd_toy.explorables.timing.measuring"],
    "files": ["opd_toy/explorables/*.js", "opd_toy/explorables/*.css"]
    + ["opd_toy/explorables/timing/*.js"],
}
ROUNDS, ROUNDS_OF_A_TRIAL = 30, 3
GOALS = {"update": 4.0, "mount": 50.0}  # ms, of the median until all is laid out
HEADER = ("slider", "", "scripts", "laid out", "drawn", "95 %", "worst")


def make(path, arguments):
    """Measure and record."""
    from opd_toy import _validate, explorables
    from opd_toy.commands.bench import THREADS
    from opd_toy.explorables.timing.measuring import measure
    from opd_toy.lm.bench.processes import processor

    if arguments.threads != THREADS:
        raise ValueError("threads is for PyTorch, which the sliders do not use; leave it out")
    rounds = ROUNDS_OF_A_TRIAL if arguments.quick else ROUNDS
    if arguments.repeats is not None:
        rounds = arguments.repeats
    _validate.whole("repeats", rounds)
    work = lambda: measure(explorables.__all__, rounds, Progress("sliders"))
    try:
        return make_record(path, lambda: {"processor": processor()} | work(), **SOURCES)
    except FileNotFoundError as error:  # no browser
        raise RuntimeError(str(error)) from None


def goals(results):
    """What each slider was to reach, twice a slider: dicts of goal, slider, ms, slowest, met.

    ``slowest``: (the control whose updates take longest at the median, their ms); None for a
    mount.
    """
    found = []
    for widget in results["widgets"]:
        for goal, most in GOALS.items():
            median = _median(widget[goal])
            slowest = None
            if goal == "update":
                medians = {name: _median(times) for name, times in widget["controls"].items()}
                name = max(medians, key=medians.get)
                slowest = name, medians[name]
            found.append(
                {
                    "goal": goal,
                    "slider": widget["name"],
                    "ms": median,
                    "slowest": slowest,
                    "met": median <= most,
                }
            )
    return found


def _median(times):
    return times["laid_out"]["median"]


def goal_text(goal):
    what = {"update": "an update", "mount": "a mount"}[goal["goal"]]
    text = (
        f"{'met' if goal['met'] else 'NOT met'}: {goal['slider']}: {what} is laid out in "
        f"{GOALS[goal['goal']]:g} ms, at the median in {goal['ms']:.1f}"
    )
    if goal["slowest"]:
        name, ms = goal["slowest"]
        text += f"; the slowest control is {name}, {ms:.1f}"
    return text


def table(results):
    """Rows of strings, the first the HEADER: two a slider; times in ms."""
    rows = [HEADER]
    for widget in results["widgets"]:
        for what in ("update", "mount"):
            times = widget[what]
            medians = (times[stage]["median"] for stage in ("script", "laid_out", "drawn"))
            ends = (times["laid_out"][end] for end in ("p95", "worst"))
            name = widget["name"] if what == "update" else ""
            rows.append((name, what, *(f"{ms:.1f}" for ms in (*medians, *ends))))
    return rows


def as_text(results):
    width, height = results["viewport"].values()
    idle = statistics.median(widget["idle"]["drawn"]["median"] for widget in results["widgets"])
    blocks = [
        f"{results['browser']}, {width} × {height}, {results['processor']}; {results['rounds']} "
        "values of each control, as many mounts in a fresh process; times in ms",
        aligned(table(results), left=2),
        "Medians until the scripts have ended, until all is laid out, and until the frame is "
        f"painted, which takes {idle:.1f} where nothing happens. 95 % and worst are until all is "
        "laid out, and so are the goals: what a slider causes before the browser paints.",
        "\n".join(map(goal_text, goals(results))),
    ]
    return "\n\n".join(blocks)
