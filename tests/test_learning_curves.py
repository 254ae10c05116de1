"""What slider 10 embeds is what the study recorded; switched, read and refused as it should be.

The records here are made up, with all that a study may hold: runs of unequal length, runs
that broke down, ties, a second device.
"""

import base64
import json
import math
import re

import numpy as np
import pytest
import traitlets

from opd_toy.explorables import LearningCurves, learning_curves
from opd_toy.explorables.learning_curves import AXES, METHODS, QUANTITIES
from opd_toy.records import provenance
from tests.explorables import page_of, read
from tests.explorables.opened import Opened, by_mouse, center, lent_pages, states

TEACHER = {
    "accuracy": 0.9,
    "sequence_kl": 0.0,
    "forward_sequence_kl": 0.0,
    "order_entropy": 1.5,
    "distinct": 4.0,
    "length": 12.5,
}
START = {
    "accuracy": 0.3,
    "sequence_kl": 8.0,
    "forward_sequence_kl": 6.0,
    "order_entropy": 1.2,
    "distinct": 2.0,
    "length": 12.0,
}


def run(name, seed, points):
    """One run: each number of its own, in closed form."""
    place = METHODS.index(name) + 1
    u = 1 - np.exp(-np.arange(points) * (0.2 + 0.04 * place))
    wobble = [0.004, -0.01, 0.01][seed] * u
    return {
        "steps": (10 * np.arange(points)).tolist(),
        "tokens": (np.arange(points) * (7000 + 10 * place + 3 * seed)).tolist(),
        "seconds": (np.arange(points) * (0.5 + 0.05 * place + 0.01 * seed)).round(3).tolist(),
        "accuracy": (0.3 + (0.5 + 0.012 * place) * u + wobble).tolist(),
        "sequence_kl": (8 * np.exp(-3 * u) + wobble).tolist(),
        "forward_sequence_kl": (6 * np.exp(-0.2 * place * u) + wobble).tolist(),
        "order_entropy": (1.2 + 0.03 * (place - 7) * u + wobble).tolist(),
        "distinct": (2 + 0.2 * place * u + wobble).tolist(),
        "length": (12 + 0.1 * (place - 7) * u + 80 * wobble).tolist(),
    }


def made_up(device="cpu", names=METHODS, points=9):
    curves = {name: [run(name, seed, points) for seed in range(3)] for name in names}
    return {
        "preset": {"distillation": {"evaluation_prompts": 256}},
        "device": device,
        "clock": "processor seconds" if device == "cpu" else "seconds",
        "seeds": [1, 2, 3],
        "methods": {name: name for name in names},
        "teacher": dict(TEACHER),
        "start": dict(START),
        "curves": curves,
    }


def hostile():
    """A record in which much went wrong."""
    results = made_up()
    curves = results["curves"]
    curves["jsd"] = json.loads(json.dumps(curves["gkd"]))  # a tie
    for key in ("accuracy", "sequence_kl"):
        curves["pg_1"][1][key][4:] = [None] * 5  # one seed broke down
    for each in curves["rlvr"]:
        each["distinct"] = [math.nan] * 9
    curves["sft"][2] = run("sft", 2, 4)  # stopped early
    curves["seqkd"][0] = run("seqkd", 0, 6) | {"not_finite": "its gradient was not finite"}
    curves["pg_0.9"] = [
        run("pg_0.9", seed, 5 + seed) | {"not_finite": "so was this"} for seed in range(3)
    ]
    curves["top_k"][0]["sequence_kl"][-1] = 0.0
    curves["pg_0.9"][0]["length"][3] = math.inf
    del curves["pg_0.5"], results["methods"]["pg_0.5"]
    results["teacher"]["order_entropy"] = None
    results["start"]["order_entropy"] = None
    return results


@pytest.fixture
def records(tmp_path, monkeypatch):
    """Write records where the widget looks for them: ``records(cpu=results, …)``."""
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    (tmp_path / "figures").mkdir()

    def write(**given):
        for name, results in given.items():
            (tmp_path / "figures" / f"lm-study-{name}.json").write_text(
                json.dumps({"results": results})
            )
        learning_curves.study.cache_clear()

    learning_curves.study.cache_clear()
    yield write
    learning_curves.study.cache_clear()


lent = pytest.fixture(lent_pages, scope="module")


@pytest.fixture
def opened(lent, tmp_path, records):
    """``opened(records of a study, page=options, traits)``: the widget over them, in a page."""

    def open_one(given, page=None, **traits):
        records(**given)
        widget = LearningCurves(**traits)
        file = tmp_path / "curves.html"
        file.write_text(page_of(widget), encoding="utf-8")
        return Opened(lent.lend(page or {}), widget, file.as_uri())

    yield open_one
    lent.take_back()


# ---- Python ----


def decoded(given):
    """The embedded numbers, (column, method, seed, point)."""
    codes = np.frombuffer(base64.b64decode(given["codes"]), "<u2").reshape(
        len(given["columns"]), len(given["methods"]), given["seeds"], given["longest"]
    )
    values = np.full(codes.shape, np.nan)
    for column, (name, (low, high)) in enumerate(zip(given["columns"], given["scales"])):
        there = codes[column] > 0
        line = low + (codes[column] - 1.0) / 65534 * (high - low)
        values[column][there] = (np.exp(line) if name in given["logarithmic"] else line)[there]
    return values


def test_what_the_page_gets_is_the_record(records):
    results = hostile()
    records(cpu=results)
    given = LearningCurves().recording["cpu"]
    values = decoded(given)
    assert (
        given["methods"] == [name for name in METHODS if name != "pg_0.5"]
        and given["columns"] == AXES + QUANTITIES
    )
    for c, column in enumerate(given["columns"]):
        for m, name in enumerate(given["methods"]):
            for s, one in enumerate(results["curves"][name]):
                wanted = np.array(one[column], dtype=float)
                wanted[~np.isfinite(wanted)] = np.nan
                here = values[c, m, s]
                assert np.isnan(here[len(wanted) :]).all()
                if column in given["logarithmic"]:
                    np.testing.assert_allclose(
                        here[: len(wanted)], np.maximum(wanted, 1e-6), rtol=2e-4
                    )
                else:
                    low, high = given["scales"][c]
                    np.testing.assert_allclose(
                        here[: len(wanted)], wanted, rtol=0, atol=(high - low) / 65534
                    )
    assert given["ends"]["tokens"]["sft"] == 3 * 7016 and given["ends"]["steps"]["gkd"] == 80
    assert given["teacher"] == {key: y for key, y in TEACHER.items() if key != "order_entropy"}


def test_read_gives_mean_least_and_greatest_over_the_seeds(records):
    records(cpu=hostile())
    widget = LearningCurves(methods=["sft", "gkd", "pg_1", "rlvr"], x="steps", at=50)
    assert widget.position() == 40
    found = widget.read()
    runs = learning_curves.study("cpu")["curves"]
    values = [each["accuracy"][4] for each in runs["gkd"]]
    assert found["gkd"] == {
        "mean": pytest.approx(np.mean(values), rel=1e-15),
        "least": min(values),
        "greatest": max(values),
        "seeds": 3,
    }
    assert found["sft"] is None  # it stopped at step 30
    widget.methods, widget.at = ["seqkd", "pg_0.9"], 75
    assert widget.read()["seqkd"]["seeds"] == 2 and widget.read()["pg_0.9"] is None
    widget.methods = ["sft", "gkd", "pg_1", "rlvr"]
    two = [runs["pg_1"][seed]["accuracy"][4] for seed in (0, 2)]
    assert found["pg_1"] == {
        "mean": pytest.approx(np.mean(two), rel=1e-15),
        "least": min(two),
        "greatest": max(two),
        "seeds": 2,
    }
    widget.at = 44  # step 35, between two measurements
    assert widget.position() == 35
    halves = [(each["accuracy"][3] + each["accuracy"][4]) / 2 for each in runs["gkd"]]
    assert widget.read()["gkd"]["mean"] == pytest.approx(np.mean(halves), rel=1e-14)
    widget.quantity = "distinct"
    assert widget.read()["rlvr"] is None and list(widget.read()) == ["sft", "gkd", "pg_1", "rlvr"]
    widget.x, widget.at = "seconds", 100
    assert widget.position() == max(min(each["seconds"][-1] for each in of) for of in runs.values())


def test_it_is_light_and_no_state(records):
    records(cpu=made_up(points=21))
    widget = LearningCurves()
    assert len(json.dumps(widget.recording)) < 25_000
    assert set(widget.state()) == {"methods", "x", "quantity", "at", "record"}
    options = json.loads(
        widget.to_html()
        .rsplit("mount(widget", 1)[1]
        .split("}}, ", 1)[1]
        .removesuffix(");</script>")
    )
    assert set(options["rules"]) == set(widget.state()) and options["rules"]["methods"] == {
        "among": METHODS
    }


NO_GPU = (
    r"record must be among \['cpu'\], not 'gpu': "
    "`python -m opd_toy study --preset gpu` makes figures/lm-study-gpu.json"
)


@pytest.mark.parametrize(
    ("trait", "value", "message"),
    [
        ("methods", ["gkd", "dpo"], "methods must be names among sft, seqkd, .*, rlvr, not 'dpo'"),
        ("methods", ["gkd", "gkd"], r"methods must have no name twice, not \['gkd', 'gkd'\]"),
        ("methods", [3], "'methods' trait.*int 3"),
        ("x", "days", "'x'.*days"),
        ("quantity", "loss", "'quantity'.*loss"),
        ("at", 101, "'at'.*101"),
        ("record", "gpu", NO_GPU),
    ],
)
def test_what_is_not_there_is_refused(records, trait, value, message):
    records(cpu=made_up())
    with pytest.raises(traitlets.TraitError, match=message):
        LearningCurves(**{trait: value})
    widget = LearningCurves()
    with pytest.raises(traitlets.TraitError, match=message):
        setattr(widget, trait, value)


def test_methods_are_kept_in_the_order_of_the_table(records):
    records(cpu=made_up())
    assert LearningCurves(methods=["rlvr", "sft", "gkd"]).methods == ["sft", "gkd", "rlvr"]
    assert LearningCurves(methods="gkd").methods == ["gkd"]
    assert LearningCurves(methods=[]).read() == {}


def test_a_missing_record_names_the_command_that_makes_it(records):
    with pytest.raises(
        FileNotFoundError,
        match=r"figures/lm-study-cpu.json is not there: `python -m opd_toy study` makes it",
    ):
        LearningCurves()


def test_a_record_of_another_study_is_refused(records):
    results = made_up()
    results["curves"]["dpo"] = results["curves"]["gkd"]
    records(cpu=results)
    with pytest.raises(
        ValueError,
        match="methods in figures/lm-study-cpu.json must be among sft, .*, rlvr, not 'dpo'",
    ):
        LearningCurves()
    results = made_up()
    results["curves"]["gkd"][1]["length"].pop()
    records(cpu=results)
    with pytest.raises(
        ValueError,
        match="curves of gkd in figures/lm-study-cpu.json must have a value of length "
        "at each of 9 steps; seed 2 has 8",
    ):
        LearningCurves()


def test_the_methods_are_those_of_the_lab():
    from opd_toy.lm import methods

    assert set(METHODS) == set(methods.METHODS)


# ---- the page ----


PHRASES = [
    "No method is switched on",
    "there is nothing to compare",
    "are level at",
    "Ended before: ",
    "Without a value here: ",
    "overlaps no other",
    "overlaps that of",
    "overlaps those of",
    "overlaps all others",
    "(every seed)",
    "(the mean)",
    "None is above",
    "The start was at",
    "Before any training",
    "its seeds from",
]


def test_every_state_of_a_broken_record_has_true_numbers_and_words(opened):
    widget = opened({"cpu": hostile()})
    said = set()
    for state in states("LearningCurves", 40, seed=1):
        widget.set(**state)
        said.add(widget.check().sentence)
    for quantity in QUANTITIES:
        for chosen in ([], ["sft"], ["rlvr"], ["gkd", "jsd"], ["sft", "pg_0.5"], METHODS):
            for at in (0, 99):
                widget.set(methods=chosen, quantity=quantity, at=at, x="steps")
                said.add(widget.check().sentence)
    for words in PHRASES:
        assert any(words in each for each in said), words
    widget.set(methods=["pg_1", "sft"], quantity="accuracy", at=60, x="steps")
    assert "2 of 3 seeds" in widget.check().html
    widget.set(record="gpu")  # which there is not
    assert "Study" not in widget.check().html


def test_equal_tokens_and_equal_seconds_may_rank_differently(opened):
    results = made_up(names=["sft", "gkd"])
    for each in results["curves"]["gkd"]:
        each["seconds"] = [10 * x for x in each["seconds"]]
    widget = opened({"cpu": results}, methods=["sft", "gkd"], at=60)
    leaders = {}
    for axis in ("tokens", "steps", "seconds"):
        widget.set(methods=["sft", "gkd"], x=axis, at=5 if axis == "seconds" else 60)
        leaders[axis] = [row for row in widget.check().rows[0] if row in ("sft", "gkd")][0]
    assert leaders == {"tokens": "gkd", "steps": "gkd", "seconds": "sft"}


def test_the_second_record_is_offered_where_it_is_there(opened):
    other = made_up("NVIDIA", ["sft", "gkd", "rlvr"], points=5)
    widget = opened({"cpu": made_up(), "gpu": other}, record="gpu")
    seen = widget.check()
    assert (
        seen.choices["record"] == "gpu"
        and seen.switched == ["sft", "gkd"]
        and "on NVIDIA" in seen.html
    )
    assert [each.get_attribute("value") for each in widget.visible(".opd-checks input")] == [
        "sft",
        "gkd",
        "rlvr",
    ]
    widget.root.locator("[data-name=record] label").first.click()
    seen = widget.check()
    assert len(seen.switched) == 5 and widget.hash()["learning-curves"] == {"record": "cpu"}
    for state in states("LearningCurves", 12, seed=2):
        widget.set(**state)
        assert widget.check().choices["record"] == state["record"]


@pytest.mark.parametrize("way", ["mouse", "touch", "keyboard"])
def test_methods_are_switched_on_and_off(way, opened):
    widget = opened(
        {"cpu": made_up()}, page={"has_touch": True, "viewport": {"width": 390, "height": 800}}
    )
    chosen = set(widget.check().switched)
    for box in widget.root.locator(".opd-checks input").all()[:: 1 if way == "mouse" else 4]:
        name = box.get_attribute("value")
        if way == "keyboard":
            box.focus()
            widget.page.keyboard.press("Space")
        else:
            label = widget.root.locator(
                ".opd-checks label", has=widget.page.locator(f"[value='{name}']")
            )
            label.click() if way == "mouse" else label.tap()
        chosen ^= {name}
        seen = widget.check()
        assert set(seen.switched) == chosen
        drawn = {
            line.get_attribute("data-line")
            for line in widget.root.locator("[data-line]").all()
            if line.get_attribute("d")
        }
        assert drawn == chosen
    assert widget.hash()["learning-curves"] == {
        "methods": [name for name in METHODS if name in chosen]
    }
    widget.goto(widget.page.url)
    assert set(widget.check().switched) == chosen


def axis_of(svg, vertical):
    """From a coordinate of the picture to a value, by the labels of the axis's ticks."""
    places, values = [], []
    for each in svg.locator("g:first-of-type > text").all():
        anchored = each.get_attribute("text-anchor") == "end"
        text = each.text_content()
        if anchored == vertical:
            scale = 0.01 if text.endswith("%") else 1000 if text.endswith("k") else 1
            values.append(scale * float(text.strip(" %k")))
            places.append(
                float(each.get_attribute("y")) - 4 if vertical else float(each.get_attribute("x"))
            )
    return places, values


def points_of(path):
    return np.array(
        [
            [float(number) for number in each.split()]
            for each in re.findall(r"[-\d.]+ [-\d.]+", path.get_attribute("d"))
        ]
    )


def seed_range(runs, axis, quantity, x):
    """Mean, least and greatest over the runs at x; of a KL the logarithms."""
    there = [
        np.interp(x, each[axis], np.array(each[quantity], dtype=float), right=np.nan)
        for each in runs
    ]
    found = np.array([np.nanmean(there), np.nanmin(there), np.nanmax(there)])
    return np.log(found) if quantity == "sequence_kl" else found


@pytest.mark.parametrize("quantity", ["accuracy", "sequence_kl", "length"])
@pytest.mark.parametrize("axis", AXES)
def test_the_lines_and_bands_are_the_records(axis, quantity, opened):
    results = hostile()
    chosen = ["sft", "seqkd", "jsd", "pg_1"]
    widget = opened({"cpu": results}, methods=chosen, quantity=quantity, x=axis)
    svg = widget.root.locator("svg[role=img]").first
    across = np.polyfit(*axis_of(svg, vertical=False), 1)
    places, values = axis_of(svg, vertical=True)
    logarithmic = quantity == "sequence_kl"
    down = np.polyfit(places, np.log(values) if logarithmic else values, 1)
    assert len(places) >= 3
    for name in chosen:
        runs = results["curves"][name]
        end = min(each[axis][-1] for each in runs if name != "seqkd" or each is not runs[0])

        line, band = (
            points_of(svg.locator(f"[data-{kind}='{name}']")) for kind in ("line", "band")
        )
        assert len(band) == 2 * len(line) > 6
        upper, lower = band[: len(line)], band[len(line) :][::-1]
        assert np.array_equal(upper[:, 0], line[:, 0]) and np.array_equal(lower[:, 0], line[:, 0])
        xs = np.polyval(across, line[:, 0])
        assert xs[-1] == pytest.approx(end, abs=0.004 * max(runs[0][axis]))
        measured = np.array(sorted({x for each in runs for x in each[axis] if x <= end}))
        heights = np.polyval(down, np.stack([line, lower, upper], axis=1)[:, :, 1])
        off = [
            [
                np.abs(seed_range(runs, axis, quantity, x) - height).max()
                for x in measured
                if abs(x - at) < 0.15 * across[0]
            ]
            for at, height in zip(xs, heights)
        ]  # within 0.15 of the picture
        assert len(off) >= len(measured) and max(map(min, off)) < 0.2 * abs(down[0])
    # the names beside the curves' ends: no further away than keeps six names apart
    moved = []
    for name, words in zip(chosen, ("SFT", "SeqKD", "JSD", "PG 1"), strict=True):
        label = svg.locator("text.opd-point-label").filter(has_text=re.compile(f"^{words}$"))
        x, y = (float(label.get_attribute(place)) for place in ("x", "y"))
        end = points_of(svg.locator(f"[data-line='{name}']"))[-1]
        assert x == pytest.approx(end[0] + 5, abs=0.1)
        moved.append(abs(y - 4 - end[1]))
    assert np.mean(moved) < 28 and min(moved) < 15
    # dots where the curves are read, and the levels of the teacher and the start
    seen, of_axis = widget.check(), np.log if logarithmic else np.asarray
    means = [
        float(cells[0])
        for row, cells in zip(seen.rows[0], seen.tables[0])
        if row in chosen and cells[0]
    ]
    dots = svg.locator("circle.opd-point[r='4']").filter(visible=True).all()
    x = [float(dot.get_attribute("cx")) for dot in dots]
    y = [float(dot.get_attribute("cy")) for dot in dots]
    assert len(dots) == len(means) and len(set(x)) == 1
    np.testing.assert_allclose(
        sorted(np.polyval(down, y)), sorted(of_axis(means)), atol=0.2 * abs(down[0])
    )
    levels = [
        float(found[1])
        for line in svg.locator("path.opd-line").all()
        if (found := re.fullmatch(r"M44 ([\d.]+)H302", line.get_attribute("d") or ""))
    ]
    known = [results[who].get(quantity) for who in ("teacher", "start")]
    known = [y for y in known if y is not None and np.isfinite(y) and (y > 0 or not logarithmic)]
    np.testing.assert_allclose(np.polyval(down, levels), of_axis(known), atol=0.2 * abs(down[0]))


def test_the_knob_follows_the_pointer_and_the_curves_are_read_there(opened):
    widget = opened({"cpu": made_up()})
    knob = widget.root.locator("[data-handle=at]")
    x, y = center(knob)
    by_mouse(widget.page, (x, y), (x - 80, y))
    moved = widget.check()
    assert center(knob)[0] == pytest.approx(x - 80, abs=4) and int(moved.outputs["at"]) < 80
    by_mouse(widget.page, center(knob), (x - 2000, y))
    assert int(widget.check().outputs["at"]) == 0
    assert read(widget.root).sentence.startswith("Before any training")
