"""The palette: every role legible on its paper, every two roles apart for every eye."""

import itertools
import re
from pathlib import Path

import numpy as np
import pytest

from opd_toy.explorables.palette import PAPER, ROLES, css_variables

ROOT = Path(__file__).parents[1]
SIDES = {"light": 0, "dark": 1}

# Machado, Oliveira and Fernandes (2009), severity 1.0, on linear RGB.
EYES = {
    "all three cones": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "tritanopia": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}

# The least CIELAB distance (1976) between two roles, just below what was measured when
# the palette was chosen: 41.0, 18.0, 13.2 and 11.7.  A difference that is only just seen
# is about 2.3.  Seven roles leave no room for much more, so no figure relies on colour
# alone: lines are labelled, dashed or named in a legend.
LEAST_DISTANCE = {"all three cones": 40, "protanopia": 17.5, "deuteranopia": 13, "tritanopia": 11.5}

XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
WHITE = np.array([0.95047, 1.0, 1.08883])


def linear(colour):
    """Linear RGB of "#rrggbb"."""
    c = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def contrast(one, other):
    """The contrast ratio of WCAG 2, from 1 to 21."""
    low, high = sorted(float(linear(colour) @ [0.2126, 0.7152, 0.0722]) for colour in (one, other))
    return (high + 0.05) / (low + 0.05)


def seen(colour, eye):
    """CIELAB of a colour as an eye sees it."""
    x = XYZ @ np.clip(EYES[eye] @ linear(colour), 0, 1) / WHITE
    f = np.where(x > 0.008856, np.cbrt(x), 7.787 * x + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_the_measures_give_the_known_values():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#767676", "#ffffff") == pytest.approx(
        4.54, abs=0.005
    )  # the lightest grey that passes AA
    np.testing.assert_allclose(seen("#ff0000", "all three cones"), [53.24, 80.09, 67.20], atol=0.05)
    for eye in EYES:  # no eye sees a colour in grey
        np.testing.assert_allclose(seen("#808080", eye)[1:], 0, atol=0.05)
    # what each eye confuses: red with green, and for the third blue with green
    apart = lambda one, other, eye: np.linalg.norm(seen(one, eye) - seen(other, eye))
    for eye in ("protanopia", "deuteranopia"):
        assert apart("#c04040", "#408040", eye) < 0.4 * apart(
            "#c04040", "#408040", "all three cones"
        )
    assert apart("#0080c0", "#008080", "tritanopia") < 0.4 * apart(
        "#0080c0", "#008080", "all three cones"
    )


@pytest.mark.parametrize("mode", SIDES)
@pytest.mark.parametrize("role", ROLES)
def test_a_role_is_legible_on_its_paper(role, mode):
    side = SIDES[mode]
    assert contrast(ROLES[role][side], PAPER["paper"][side]) >= 4.5


@pytest.mark.parametrize("mode", SIDES)
@pytest.mark.parametrize("ink", ["ink", "muted"])
@pytest.mark.parametrize("ground", ["paper", "wash"])
def test_text_is_legible_on_both_grounds(ink, ground, mode):
    side = SIDES[mode]
    assert contrast(PAPER[ink][side], PAPER[ground][side]) >= 4.5


@pytest.mark.parametrize("mode", SIDES)
@pytest.mark.parametrize("eye", EYES)
def test_roles_stay_apart(eye, mode):
    colours = {role: pair[SIDES[mode]] for role, pair in ROLES.items()}
    distance, one, other = min(
        (float(np.linalg.norm(seen(colours[a], eye) - seen(colours[b], eye))), a, b)
        for a, b in itertools.combinations(colours, 2)
    )
    assert distance >= LEAST_DISTANCE[eye], (
        f"{one} and {other} are {distance:.1f} apart in {mode} to {eye}"
    )


def test_the_pages_stand_on_the_paper_of_their_pictures():
    css = (ROOT / "book/_static/book.css").read_text(encoding="utf-8")
    ground = re.search(r'html\[data-theme="dark"\] \{\s*--pst-color-background: (#\w+);', css)
    assert ground[1] == PAPER["paper"][1]


def test_the_style_sheet_carries_the_palette():
    light, dark = css_variables()
    for name, (by_day, by_night) in {**ROLES, **PAPER}.items():
        variable = f"--opd-{name.replace('_', '-')}"
        assert f"{variable}:{by_day};" in light
        assert f"{variable}:{by_night};" in dark
