"""The sliders' times: what is timed and how, the goals' arithmetic, the command and its errors."""

import json
import re

import pytest

from opd_toy import explorables
from opd_toy.__main__ import main
from opd_toy.commands import bench, bench_sliders
from opd_toy.explorables.timing import measuring

ROUNDS = 3
HAND_MADE = """<div class="opd-host">
<label><input type="range" aria-label="slow" min="2" max="4" step="0.01"><output></output></label>
<input type="range" aria-label="idle">
<fieldset class="opd-choice"><legend>one</legend><input type="radio" checked></fieldset>
<button>Reset</button><button disabled>Off</button><button>Play</button>
</div>
<script type="module">
const root = document.querySelector(".opd-host");
globalThis.seen = [];
const update = (what) => {
  const began = performance.now();
  while (performance.now() - began < 5);
  seen.push(what);
  root.querySelector("output").dataset.value = what;
};
const [slow] = root.querySelectorAll("input");
slow.oninput = () => update(Number(slow.value));
const [reset, off, play] = root.querySelectorAll("button");
reset.onclick = () => update("reset");
off.onclick = () => update("off");
let playing = 0;
const step = () => {
  if (playing++ % 2) update("played");
  if (playing < 8) requestAnimationFrame(step);
};
play.onclick = () => requestAnimationFrame(step);
</script>"""


@pytest.fixture
def widget_of(monkeypatch):
    """A slider made of some HTML, under a name of its own."""

    def made(html):
        widget = type("Widget", (), {"to_html": lambda self: html})
        monkeypatch.setattr(explorables, "HandMade", widget, raising=False)
        return "HandMade"

    return made


def test_every_control_is_moved_and_only_what_updates_counts(browser, widget_of):
    name = widget_of(HAND_MADE)
    steps = []
    found = measuring.measure_with(browser, [name], ROUNDS, lambda *step: steps.append(step))
    (widget,) = found["widgets"]
    assert steps == [(n, ROUNDS + 1) for n in range(1, ROUNDS + 2)]
    assert {control: times["count"] for control, times in widget["controls"].items()} == {
        "slow": ROUNDS,
        "the buttons": ROUNDS,
        "Play, a step": ROUNDS,
    }
    for times in (*widget["controls"].values(), widget["update"]):
        assert times["script"]["median"] >= 4.8  # it waits for 5 ms; the clock has steps of 0.1
    assert widget["update"]["count"] == 3 * ROUNDS and widget["mount"]["count"] == ROUNDS
    assert widget["idle"]["script"]["median"] < widget["update"]["script"]["median"]


def test_a_slider_of_the_book_is_measured(browser):
    found = measuring.measure_with(browser, ["ControlStudy", "YourLoss"], 2, lambda *step: None)
    assert re.fullmatch(r"Chromium \d[\d.]+", found["browser"])
    assert (found["viewport"], found["throttle"]) == ({"width": 1280, "height": 900}, 1)
    study, loss = found["widgets"]
    assert set(study["controls"]) == {
        *("Iteration", "γ", "Seed", "Task"),
        *("the picture's handle: iteration", "the buttons", "Play, a step"),
    }
    assert {"the formula, typed", "teacher q: probability of t₁"} <= set(loss["controls"])
    for widget in (study, loss):
        assert widget["bytes"] > 50_000 and widget["mount"]["count"] == 2
        for what in ("mount", "update"):
            stages = [widget[what][stage] for stage in measuring.STAGES]
            assert stages[0]["median"] > 0
            for stage in stages:
                assert stage["median"] <= stage["p95"] <= stage["worst"]
            for before, after in zip(stages, stages[1:]):
                assert before["median"] <= after["median"]


def test_a_page_that_raises_is_not_measured(browser, widget_of):
    name = widget_of('<div class="opd-host"></div><script>throw Error("planted")</script>')
    with pytest.raises(RuntimeError, match="HandMade raised .*planted"):
        measuring.measure_with(browser, [name], 1, lambda *step: None)


def test_the_summary_of_times():
    found = measuring.summary([(n, 2 * n, 3 * n) for n in range(100, 0, -1)])
    assert found == {
        "count": 100,
        "script": {"median": 50.5, "p95": 95, "worst": 100},
        "laid_out": {"median": 101, "p95": 190, "worst": 200},
        "drawn": {"median": 151.5, "p95": 285, "worst": 300},
    }
    assert measuring.summary([(1.234, 2, 3)])["script"] == dict.fromkeys(
        ("median", "p95", "worst"), 1.23
    )


# --- goals, tables, the command --------------------------------------------------------------


def times(laid_out, count=9):
    stages = {"script": laid_out / 2, "laid_out": laid_out, "drawn": 2 * laid_out}
    return {"count": count} | {
        stage: {"median": ms, "p95": ms + 10, "worst": ms + 20} for stage, ms in stages.items()
    }


def results():
    widget = {"controls": {"one": times(1.0), "two": times(3.5)}}
    return {
        "browser": "Chromium 1.2",
        "viewport": {"width": 1280, "height": 900},
        "throttle": 1,
        "rounds": 9,
        "widgets": [
            widget
            | {"name": name, "update": times(update), "mount": times(mount), "idle": times(idle)}
            for name, update, mount, idle in (
                ("Fast", 4.0, 50.0, 0.1),
                ("Slow", 4.1, 50.1, 0.3),
            )
        ],
    }


def test_goals():
    found = bench_sliders.goals(results())
    assert [(goal["slider"], goal["goal"], goal["met"]) for goal in found] == [
        ("Fast", "update", True),
        ("Fast", "mount", True),
        ("Slow", "update", False),
        ("Slow", "mount", False),
    ]
    assert [bench_sliders.goal_text(goal) for goal in found[1:3]] == [
        "met: Fast: a mount is laid out in 50 ms, at the median in 50.0",
        "NOT met: Slow: an update is laid out in 4 ms, at the median in 4.1; the slowest control "
        "is two, 3.5",
    ]


def test_the_table():
    head, update, mount, *_ = bench_sliders.table(results())
    assert len(head) == len(update) == len(mount)
    assert update == ("Fast", "update", "2.0", "4.0", "8.0", "14.0", "24.0")
    assert mount == ("", "mount", "25.0", "50.0", "100.0", "60.0", "70.0")


@pytest.fixture
def measured(monkeypatch):
    """What the command asks to be measured: names and rounds; nothing is."""
    asked = []

    def measure(names, rounds, report):
        asked.append((names, rounds))
        return results()

    monkeypatch.setattr(measuring, "measure", measure)
    return asked


def test_the_command_records_and_shows(tmp_path, measured, capsys):
    main(["bench", "--sliders", "--quick", "--directory", str(tmp_path)])
    shown = capsys.readouterr().out
    assert "which takes 0.4 where nothing happens" in shown
    assert "NOT met: Slow" in shown and "Chromium 1.2, 1280 × 900" in shown
    assert measured == [(explorables.__all__, 3)]
    main(["bench", "--sliders", "--show", "--directory", str(tmp_path)])
    assert capsys.readouterr().out == shown
    main(["bench", "--sliders", "--show", "--json", "--directory", str(tmp_path)])
    assert json.loads(capsys.readouterr().out)["widgets"] == results()["widgets"]
    sources = json.loads((tmp_path / "slider-times.json").read_text())["provenance"]["sources"]
    for source in ("host.js", "style.css", "timing/in_page.js", "timing/measuring.py"):
        assert f"opd_toy/explorables/{source}" in sources
    main(["bench", "--sliders", "--directory", str(tmp_path)])
    main(["bench", "--sliders", "--repeats", "7", "--directory", str(tmp_path)])
    assert [rounds for _, rounds in measured] == [3, 30, 7]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--repeats", "0"], "repeats is 0; give a whole number"),
        (["--threads", str(bench.THREADS + 1)], "threads is for PyTorch, which the sliders do not"),
        (["--show", "--directory", "nowhere"], "which holds no slider-times.json"),
        (["--audits"], "not allowed with argument --sliders"),
    ],
)
def test_errors(arguments, message, measured, capsys):
    with pytest.raises(SystemExit):
        main(["bench", "--sliders", *arguments])
    assert message in capsys.readouterr().err and measured == []


def test_without_a_browser_it_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(measuring, "find_chromium", lambda: None)
    with pytest.raises(SystemExit):
        main(["bench", "--sliders", "--quick", "--directory", str(tmp_path)])
    said = " ".join(capsys.readouterr().err.split())
    assert "No Chromium was found" in said and "set CHROMIUM" in said
    assert list(tmp_path.iterdir()) == []
