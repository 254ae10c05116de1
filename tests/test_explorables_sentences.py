"""Sentences that random settings do not reach: each at a setting made for it, read and checked.

``check`` holds numbers and words to the engine; here is asked that the sentence was said at all.
"""

import re

import numpy as np
import pytest

from opd_toy import objectives
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
