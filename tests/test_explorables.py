"""Every explorable in Chromium, from disk, the network refused: opened, moved, linked.

The explorables are those of ``opd_toy.explorables``: a new one is tested as soon as it
is there, and fails until tests/explorables says what its numbers should be.
"""

import json
import re
import urllib.parse

import numpy as np
import pytest
import traitlets

from opd_toy.explorables.host import Distribution, Subset, module
from tests.explorables import CHECKS, WIDGETS, read
from tests.explorables.opened import (
    PHONE,
    along,
    by_mouse,
    by_touch,
    center,
    lent_pages,
    open_explorables,
    states,
    toward_the_middle,
)

lent = pytest.fixture(lent_pages, scope="module")
opened = pytest.fixture(open_explorables)
every_widget = pytest.mark.parametrize("name", WIDGETS)


def drag_sliders(widget, drag):
    """Drag every slider to the other side; each must follow, and every number with it."""
    sliders = widget.visible("input[type=range]")
    assert sliders
    for slider in sliders:
        before, target = read(widget.root), 0.3 if along(slider) > 0.5 else 0.7
        drag(widget.page, center(slider, along(slider) * 0.9 + 0.05), center(slider, target))
        assert abs(along(slider) - target) < 0.1, slider.get_attribute("name")
        assert widget.check().outputs != before.outputs


def drag_handles(widget, drag):
    for handle in widget.visible("[data-handle]"):
        widget.root.get_by_role("button", name="Reset").click()  # no handle lies on another
        for shift in ((-30, 16), (24, -12)):
            before, (x, y) = widget.check(), center(handle)
            drag(widget.page, (x, y), (x + shift[0], y + shift[1]))
            assert widget.check().outputs != before.outputs
            moved = center(handle)[0] - x
            # it follows the pointer; the axis of the baselines follows it in turn
            assert abs(moved - shift[0]) < (
                16 if handle.get_attribute("data-handle") == "baseline" else 4
            ), moved


@every_widget
def test_no_name_stands_twice_in_a_widgets_module(name):
    """In Jupyter its files are linked into one module, private names and all."""
    kinds = r"^(?:export )?(?:async )?(?:const|let|var|function\*?) (\w+|\[[^\]]*\]|\{[^}]*\})"
    text = module(WIDGETS[name]().name.replace("-", "_"))
    declared = [
        each
        for names in re.findall(kinds, text, flags=re.MULTILINE)
        for each in re.findall(r"\w+", names)
    ]
    assert len(declared) > 50
    assert sorted(declared) == sorted(set(declared))


def test_each_explorable_has_its_check():
    assert set(WIDGETS) == set(CHECKS)


@every_widget
def test_opens_without_a_request_and_shows_the_engines_numbers(name, opened):
    widget = opened(name)
    widget.check()
    assert widget.page.asked == [widget.address]


@every_widget
def test_moved_by_mouse(name, opened):
    widget = opened(name)
    drag_sliders(widget, by_mouse)
    drag_handles(widget, by_mouse)


@every_widget
def test_moved_by_touch_on_a_phone(name, opened):
    widget = opened(name, page=PHONE)
    drag_sliders(widget, by_touch)
    drag_handles(widget, by_touch)
    for group in widget.visible(".opd-choice"):
        for label in group.locator("label").all():
            if not label.is_visible():  # folded on a phone, and a button unfolds it
                widget.visible("button.opd-narrow")[0].tap()
            label.tap()
            assert label.locator("input").is_checked()
            widget.check()
    assert widget.page.evaluate("document.scrollingElement.scrollWidth") <= 360


@every_widget
def test_moved_by_keyboard(name, opened):
    widget = opened(name)
    for slider in widget.visible("input[type=range]"):
        slider.focus()
        before = along(slider)
        toward = toward_the_middle(slider)
        for _ in range(3):
            widget.page.keyboard.press(toward)
        assert (along(slider) - before) * (1 if toward == "ArrowRight" else -1) > 0, (
            slider.get_attribute("name")
        )
        seen = [widget.check().outputs]
        for key, end in (("End", 1), ("Home", 0)):
            widget.page.keyboard.press(key)
            assert abs(along(slider) - end) < 0.1
            seen.append(widget.check().outputs)
        assert len({json.dumps(each) for each in seen}) == 3


@every_widget
def test_choices_by_mouse_and_by_keyboard(name, opened):
    widget = opened(name)
    for group in widget.visible(".opd-choice"):
        labels = group.locator("label").all()
        for label in labels[::-1]:
            label.click()
            assert label.locator("input").is_checked()
            widget.check()
        labels[0].locator("input").focus()
        for label in labels[1:]:
            widget.page.keyboard.press("ArrowRight")
            assert label.locator("input").is_checked()
            widget.check()


CONTROLS = (
    "input[type=range], button:enabled, input[type=radio]:checked, input[type=checkbox], .opd-table"
)


@every_widget
def test_every_control_is_reached_by_tab_and_shows_its_focus(name, opened):
    widget = opened(name)
    names = [each.get_attribute("aria-label") for each in widget.visible("input[type=range]")]
    assert all(names) and len(set(names)) == len(names)
    wanted = {
        each.evaluate("(e) => (window.controls ??= []).push(e)")
        for each in widget.visible(CONTROLS)
    }
    reached = set()
    for _ in range(len(wanted) + 5):
        widget.page.keyboard.press("Tab")
        number, outline = widget.page.evaluate(
            """() => [controls.indexOf(document.activeElement) + 1,
                      getComputedStyle(document.activeElement).outlineStyle]"""
        )
        assert number == 0 or outline != "none"
        reached.add(number)
    assert wanted <= reached


@every_widget
def test_presets_and_reset(name, opened):
    widget = opened(name)
    first = read(widget.root)
    buttons = [
        button
        for button in widget.visible("button")
        if button.inner_text() not in ("Reset", "Play")
    ]
    moved = 0
    for button in buttons:
        if button.is_disabled():
            continue
        button.click()
        moved += widget.check().printed != first.printed
        widget.root.get_by_role("button", name="Reset").click()
        assert read(widget.root).__dict__ == first.__dict__, button.inner_text()
    assert moved >= 2
    assert widget.root.get_by_role("button", name="The book's example").count() or name in (
        "ControlStudy",
        "Derail",
        "HardToSoft",
        "LearningCurves",
        "SeekOrCover",
        "StaleRollouts",
    )


@every_widget
def test_the_state_is_in_the_address(name, opened):
    widget = opened(name)
    assert widget.hash() == {}
    for slider in widget.visible("input[type=range]")[:4]:
        slider.focus()
        widget.page.keyboard.press(toward_the_middle(slider))
    widget.visible(".opd-choice label")[-1].click()
    state = widget.hash()
    assert set(state) == {widget.widget.name}
    assert len(state[widget.widget.name]) >= 2
    there = read(widget.root)
    again = opened(name)
    again.goto(again.address + "#" + urllib.parse.urlsplit(widget.page.url).fragment)
    here = again.check()
    assert here.choices == there.choices
    for slider, value in there.outputs.items():
        assert float(here.outputs[slider]) == pytest.approx(float(value), abs=1e-4)
    widget.root.get_by_role("button", name="Reset").click()
    assert widget.hash() in ({}, {widget.widget.name: {}})


@every_widget
def test_random_states_show_the_engines_numbers_and_a_true_sentence(name, opened):
    widget = opened(name)
    sentences = set()
    for state in states(name, 40):
        widget.set(**state)
        known = {"seed": state["seed"]} if name == "SampleAndAverage" else {}
        seen = widget.check(**known)
        for key, value in state.items():  # it shows the state that was asked for
            if isinstance(WIDGETS[name].class_traits()[key], Subset):
                assert seen.switched == value
            elif isinstance(value, list):
                np.testing.assert_allclose(seen.distribution(key), value, rtol=1e-12)
            elif isinstance(value, float) and key in seen.outputs:
                assert float(seen.outputs[key]) == value
            elif key in seen.choices:
                assert seen.choices[key] == str(value)
        assert 40 < len(seen.sentence) < 600
        sentences.add(seen.sentence)
    assert len(sentences) >= 20
    assert widget.root.locator("[aria-live=polite]").count() == 1


HOSTILE = [
    "[]",
    "null",
    "7",
    '"x"',
    "{",
    "%7B%22",
    "%E0%A4%A",
    "{}",
    '{"student":null,"teacher":"[0.2,0.3,0.5]"}',
    '{"student":[1],"teacher":[[0.2],[0.3],[0.5]]}',
    '{"student":[0,0,0],"teacher":[0,0,0,0,0]}',
    '{"student":[-1,2,0],"teacher":[1e308,1e308,1e308]}',
    '{"student":[1e308,1e308,1e308,1e308,1e308],"teacher":[1e999,0,0]}',
    '{"teacher":[1e-300,1e-300,1e-300]}',
    '{"token":9,"component":-3,"draws":1e9,"seed":-1,"steps":1e12}',
    '{"token":2.5,"component":1.4,"draws":3.7,"seed":0.5,"steps":7.3}',
    '{"token":"2","objective":3,"view":[],"kind":{},"family":null,"use":true}',
    '{"objective":"__proto__","kind":"constructor","view":"toString","family":"","use":"loss "}',
    '{"beta":-5,"alpha":99,"skew":2,"sharpness":-1,"baseline":1e300}',
    '{"separation":-1e9,"width":0,"weight":9,"start_mean":1e9,"start_width":0}',
    '{"methods":["gkd","gkd","constructor",7,null,["sft"]],"x":"__proto__","quantity":[]}',
    '{"record":"gpu","at":1e9}',
    '{"methods":"gkd"}',
    '{"methods":{"length":2}}',
    '{"methods":[]}',
    '{"__proto__":{"get":1},"objectives":["alpha"],"layout":1,"_esm":"x"}',
]


ALL_AT_ONCE = urllib.parse.quote(
    json.dumps(
        {
            "token": 2.5,
            "student": [1, 1],
            "teacher": [-1, 0, 5],
            "sharpness": 7,
            "draws": 3.3,
            "beta": "x",
        }
    )
)


@every_widget
def test_a_malformed_address_breaks_nothing(name, opened):
    widget = opened(name)
    key = widget.widget.name
    default = read(widget.root).choices
    for text in [*HOSTILE[:6], ALL_AT_ONCE, *HOSTILE[6:8]]:  # on opening
        widget.goto(f"{widget.address}#{key}={text}")
        assert widget.check().choices.keys() == default.keys()
    for text in [*map(urllib.parse.quote, HOSTILE[8:]), ALL_AT_ONCE]:  # and while it is open
        widget.set_text(f"{key}={text}")
        widget.check()
    for text in (f"{key}=", "&&=&", f"other=1&{key}", "%"):
        widget.set_text(text)
        slider = widget.visible("input[type=range]")[0]
        slider.focus()
        widget.page.keyboard.press(toward_the_middle(slider))
        widget.check()
        assert widget.hash().get(key), text


@every_widget
def test_the_traits_refuse_what_is_no_distribution(name):
    for trait in [
        key for key, each in WIDGETS[name].class_traits().items() if isinstance(each, Distribution)
    ]:
        size = len(getattr(WIDGETS[name](), trait))
        even = [1 / size] * size
        assert getattr(WIDGETS[name](**{trait: even}), trait) == even
        for value, words in [
            ([1.0], f"{trait} must be a list of {size} probabilities, not an array of shape (1,)"),
            ([1.0] + [0.0] * (size - 1), f"{trait} must have every probability above 0"),
            ([0.4] * size, f"{trait} must sum to 1, not {0.4 * size:.6g}"),
            ([float("nan")] * size, f"{trait} must have every probability above 0"),
        ]:
            with pytest.raises(traitlets.TraitError) as caught:
                WIDGETS[name](**{trait: value})
            assert words in str(caught.value)


@every_widget
def test_in_a_notebook_it_is_a_widget_with_a_page_of_its_own(name):
    bundle, _ = WIDGETS[name]()._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert 'data-explorable="' in bundle["text/html"]
    assert "http" not in bundle["text/html"].replace("http://www.w3.org/2000/svg", "")
