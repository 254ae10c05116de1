"""What the explorables say at settings made for it, and what the names of their presets say.

Random settings do not reach these sentences.  ``check`` holds numbers and words to the engine;
here is asked that the sentence was said at all.
"""

import re

import numpy as np
import pytest

from opd_toy import objectives, sequences
from tests.explorables import WIDGETS
from tests.explorables.opened import lent_pages, open_explorables

lent = pytest.fixture(lent_pages, scope="module")
opened = pytest.fixture(open_explorables)

Q = [0.7, 0.2, 0.1]  # the notes' teacher
EVEN = [1 / 3] * 3


def undecided(off=0.0):
    """A student whose second logit reverse KL leaves alone, or nearly, though p is not q."""
    low, high = 0.21, 0.5
    for _ in range(60):
        y = (low + high) / 2
        p = np.array([0.3, y, 0.7 - y])
        gradient = objectives.reverse_kl_logit_gradient(p, np.array(Q))[1]
        low, high = (y, high) if gradient < 0 else (low, y)
    return [0.3, y + off, 0.7 - y - off]


FACTOR_4 = {"student": [0.1, 0.8, 0.1], "teacher": [0.4, 0.2, 0.4], "view": "k_estimators"}
CLIPPED = {"scheme": "fipo", "step": 4.0, "gamma": 1.0, "position": 1}
KEPT = {"correction": "ratio", "cost": "kept"}
CUT = {"behaviour": [0.2, 0.3, 0.5], "sampler": "top_p"}
SAID = [
    ("Baselines", {}, "^Without a baseline the total variance is 0.465"),
    ("Baselines", {"student": Q}, r"agree: without a baseline .* of variance 0\.\d+ at b = −1"),
    ("Baselines", {"student": EVEN}, "the least that any can give"),
    ("Baselines", FACTOR_4 | {"kind": "k2", "use": "reward"}, "off by the same factor"),
    ("Baselines", {"student": Q, "view": "k_estimators"}, "draw of it is not: its total"),
    ("Credit", {"scheme": "fipo", "step": 0.0}, "has not moved since the draw: every f is 1"),
    ("Credit", CLIPPED | {"sequence": 0}, r"f = 1\.200, where it is clipped"),
    ("Credit", CLIPPED | {"sequence": 242}, r"f = 0\.800, where it is clipped"),
    ("HardToSoft", {"sharpness": 1 - 0.1 / 0.35}, "This label leaves it where it is"),
    ("LearningCurves", {"methods": []}, "No method is switched on"),
    ("LossMuseum", {"exhibit": "stop_gradient", "teacher": EVEN}, "here the even teacher itself"),
    ("LossMuseum", {"steps": 1}, "After 1 step reverse KL, 0.676 at first"),
    ("SampleAndAverage", {"student": undecided(1e-5)}, "no number of draws here settles its sign"),
    ("SeekOrCover", {"separation": 20.0}, "It will end on the right mode"),
    ("StaleRollouts", KEPT, "runs to t₁ alone; with μ renewed every 4 steps it reaches the teach"),
    ("StaleRollouts", KEPT | {"renew": 16}, "every 16 steps it still moves after 400 steps"),
    ("StaleRollouts", {"correction": "mask"}, r"drops t₁ and t₃\. .* stops at \(0\.20, 0\.20, 0"),
    ("StaleRollouts", {"correction": "clip"}, "mean is exact, .* The limit reaches no token"),
    ("StaleRollouts", CUT, "t₁ is never drawn, and no correction brings it back"),
    ("StaleRollouts", KEPT | {"student": Q}, r"agree, .* This one still raises t₁ and lowers t₂"),
    ("StaleRollouts", {"student": Q}, "agree, and the exact gradient is 0. So is this one"),
    ("WhichToken", {"student": undecided()}, "GKD leaves it every time"),
]


@pytest.mark.parametrize("name, state, said", SAID, ids=[said[2] for said in SAID])
def test_what_a_setting_of_its_own_makes_it_say(name, state, said, opened):
    sentence = opened(name, **state).check().sentence
    assert re.search(said, sentence), sentence


def test_where_the_bump_would_end_elsewhere(opened):
    """Reverse KL and a start at the light mode: from the heavy one it ends lower, and there it
    says so no more."""
    light = opened("SeekOrCover", steps=300).check()
    heavy = opened("SeekOrCover", steps=300, start_mean=12.5, start_width=2.0).check()
    assert light.table(0)[1, 3] > heavy.table(0)[1, 3]
    lower = f"Started on the left mode it would end lower, at {heavy.table(0)[1, 3]:.3f}."
    assert light.sentence.endswith(lower) and "it would end lower" not in heavy.sentence
    mirrored = {"weight": 0.4, "start_mean": 16.0}
    assert (
        "Started on the right mode it would" in opened("SeekOrCover", **mirrored).check().sentence
    )


def test_the_ends_of_the_jsd_and_of_the_descent_are_named(opened):
    for beta, row, name in ((0.0, 2, "forward KL"), (1.0, 3, "reverse KL")):
        seen = opened("SeekOrCover", objective="jsd", beta=beta).check()
        assert f"that is {name}," in seen.sentence
        np.testing.assert_allclose(seen.table(0)[4], seen.table(0)[row], rtol=1e-9)
    there = {"separation": 0.0, "start_mean": 20.5, "start_width": 2.0}
    seen = opened("SeekOrCover", **there).check()
    assert seen.sentence.startswith("The start is already where reverse KL ends: its cost is 0.000")
    far = {"separation": 20.0, "weight": 0.5, "start_mean": 36.0, "start_width": 12.0}
    seen = opened("SeekOrCover", steps=300, **far).check()
    assert seen.sentence.startswith("After 300 steps reverse KL still moves, at")
    assert seen.sentence.endswith("No more than 300 steps are taken.")


NOTES = {"student": [0.2, 0.3, 0.5], "teacher": Q}


def is_notes(state):
    return state.get("tree") == "notes" or {who: state.get(who) for who in NOTES} == NOTES


def agree(state):
    return state["student"] == state["teacher"]


def confident_and_wrong(state):
    p, q = np.array(state["student"]), np.array(state["teacher"])
    return min(p.max(), q.max()) > 0.8 and p.argmax() != q.argmax()


def costly(now, sign):
    """Whether token 2 costs, or saves, now, and all from it on the other way round."""

    def holds(state):
        widget = WIDGETS["Credit"](**state)
        costs = sequences.token_costs(*widget.trees())[state["sequence"]]
        place = state["position"] - 1
        return now * costs[place] > 0 and sign * costs[place:].sum() > 0

    return holds


def sharper(state):
    mu = np.array(state["student"]) ** (1 / 0.7)
    return np.allclose(state["behaviour"], mu / mu.sum(), atol=1e-4)


def rounded_engine(state):
    """Behaviour and student differ, by less than a sixteenth in a logit."""
    moved = np.log(np.divide(state["behaviour"], state["student"]))
    return 1e-3 < np.ptp(moved) <= 1 / 8 + 1e-3


# What the name of a preset says, as a condition on the state that it sets.
PRESETS = {
    ("ControlStudy", "First iterations"): lambda s: s["iteration"] == 40,
    ("ControlStudy", "γ = 0 at the end"): lambda s: (s["gamma"], s["iteration"]) == (0, 2000),
    ("ControlStudy", "γ = 1 at the end"): lambda s: (s["gamma"], s["iteration"]) == (1, 2000),
    ("ControlStudy", "The same, seed 2026"): lambda s: (
        (s["gamma"], s["iteration"], s["seed"]) == (1, 2000, 2026)
    ),
    ("Baselines", "The book's example"): is_notes,
    ("Baselines", "Even student"): lambda s: np.ptp(s["student"]) < 1e-3,
    ("Baselines", "Off by a factor of 4"): lambda s: np.allclose(
        np.abs(np.log(np.divide(s["student"], s["teacher"]))), np.log(4), atol=1e-3
    ),
    ("Baselines", "Student = teacher"): agree,
    ("BiasAgainstVariance", "The book's example"): is_notes,
    ("Credit", "The book's example"): is_notes,
    ("Credit", "Cheap now, costly later"): costly(-1, 1),
    ("Credit", "Costly now, cheap later"): costly(1, -1),
    ("HardToSoft", "Sure teacher"): lambda s: max(s["teacher"]) > 0.9,
    ("HardToSoft", "Unlikely label"): lambda s: s["teacher"][s["token"] - 1] <= 0.1,
    ("HardToSoft", "Student = teacher"): agree,
    ("LossMuseum", "A rare token"): lambda s: min(s["student"]) < 0.05,
    ("LossMuseum", "Student = teacher"): agree,
    ("PushAndPull", "Confident and wrong"): confident_and_wrong,
    ("PushAndPull", "Torn teacher"): lambda s: s["teacher"][0] == s["teacher"][2] > 0.4,
    ("SampleAndAverage", "A rare token"): lambda s: min(s["student"]) < 0.05,
    ("SeekOrCover", "Near the light mode"): lambda s: s["weight"] > 0.5 and s["start_mean"] > 20.5,
    ("SeekOrCover", "Near the heavy mode"): lambda s: s["weight"] > 0.5 and s["start_mean"] < 20.5,
    ("SeekOrCover", "Wide start"): lambda s: s["start_width"] >= 8,
    ("SeekOrCover", "Close modes"): lambda s: s["separation"] <= 5,
    ("SeekOrCover", "Free student"): lambda s: s["family"] == "free",
    ("StaleRollouts", "On-policy: μ = p"): lambda s: s["behaviour"] == s["student"],
    ("StaleRollouts", "An older student"): lambda s: s["behaviour"] == [0.4, 0.3, 0.3],
    ("StaleRollouts", "Temperature .7"): sharper,
    ("StaleRollouts", "Top-p: a token cut away"): lambda s: s["sampler"] == "top_p",
    ("StaleRollouts", "Rounded engine"): rounded_engine,
    ("WhichToken", "Confident and wrong"): confident_and_wrong,
    ("YourLoss", "The book's example"): is_notes,
    ("YourLoss", "A rare token"): lambda s: min(s["student"]) < 0.05,
    ("YourLoss", "Student = teacher"): agree,
}


@pytest.mark.parametrize("name", PRESETS, ids=": ".join)
def test_a_preset_is_what_its_name_says(name, opened):
    widget = opened(name[0])
    widget.root.get_by_role("button", name=name[1], exact=True).click()
    state = widget.widget.state() | widget.hash().get(widget.widget.name, {})
    assert PRESETS[name](state), state
