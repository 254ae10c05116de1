"""Every explorable as different readers have it: small screens, paper, no scripts, two a page."""

import base64

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image

from opd_toy.explorables import stills
from opd_toy.explorables.host import HERE, PICTURES
from opd_toy.pages.page import exercise
from tests.conftest import ROOT, new_page
from tests.explorables import WIDGETS, check, page_of, read
from tests.explorables.opened import (
    PHONE,
    lent_pages,
    open_explorables,
    states,
    toward_the_middle,
)

lent = pytest.fixture(lent_pages, scope="module")
opened = pytest.fixture(open_explorables)
every_widget = pytest.mark.parametrize("name", WIDGETS)


def test_no_line_of_javascript_is_longer_than_a_hundred_characters():
    scripts = [*HERE.glob("*.js"), *(ROOT / "book" / "_static").glob("*.js")]
    lengths = {
        f"{path.name}:{number}": len(line)
        for path in scripts
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
    }
    assert len(scripts) > 30 and [place for place, length in lengths.items() if length > 100] == []


# ---- work: counted, for a loaded machine is slow at any of it ----

MOVES = """(root) => {
  const inputs = [...root.querySelectorAll("input[type=range]")]
    .filter((input) => input.offsetParent);
  for (let i = 0; i < 30; i++) {
    const input = inputs[i % inputs.length];
    const [min, max] = [Number(input.min), Number(input.max)];
    input.value = min + (max - min) * ((0.37 + 0.618034 * i) % 1);
    input.dispatchEvent(new Event("input", { bubbles: true }));
  }
}"""
# Blocks of code run, in millions.  The most that any explorable needed when this was written was
# .19 to mount (100 walks drawn) and .16 an update (three descents): the limits are twice that.
MOUNT_BLOCKS, UPDATE_BLOCKS = 0.4, 0.32


def blocks_run(counter):
    """How many blocks of the pages' own code have been run since the last count, in millions."""
    result = counter.send("Profiler.takePreciseCoverage")["result"]
    return (
        sum(
            block["count"]
            for script in result
            if script["url"].startswith("file:")
            for function in script["functions"]
            for block in function["ranges"]
        )
        / 1e6
    )


@every_widget
def test_what_a_mount_and_an_update_compute_is_bounded(name, opened, record_property):
    widget = opened(name)
    counter = widget.page.context.new_cdp_session(widget.page)
    counter.send("Profiler.enable")
    counter.send("Profiler.startPreciseCoverage", {"callCount": True, "detailed": True})
    widget.goto(widget.address)
    mount = blocks_run(counter)
    widget.root.evaluate(MOVES)
    update = blocks_run(counter) / 30
    counter.send("Profiler.stopPreciseCoverage")
    counter.detach()
    record_property("blocks", [mount, update])
    print(f"{name}: {mount:.3f} million blocks to mount, {update:.3f} an update")
    assert 0 < mount < MOUNT_BLOCKS and 0 < update < UPDATE_BLOCKS
    widget.check()


# ---- every reader ----


@every_widget
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_serious(name, theme, opened):
    widget = opened(name, theme=theme)
    ways = (
        [None]
        if not widget.visible('[data-name="view"]')
        else widget.root.locator('[data-name="view"] label').all()
    )
    for way in ways:
        if way:
            way.click()
        found = [
            each
            for each in Axe().run(widget.page).response["violations"]
            if each["impact"] in ("serious", "critical")
        ]
        assert not found, [
            (each["id"], each["help"], [node["html"][:120] for node in each["nodes"][:3]])
            for each in found
        ]


STICKING_OUT = """(root) => [...root.querySelectorAll("*")].filter((node) => {
  const box = node.getBoundingClientRect();
  return box.width && !node.closest(".opd-table table, clipPath, [clip-path]")
    && (box.left < -0.5 || box.right > 360.5);
}).map((node) => node.outerHTML.slice(0, 100))"""

SMALL_TARGETS = """(root) => [...root.querySelectorAll(
  "input[type=range], button, .opd-choice label, .opd-checks label, [data-handle]")]
  .map((node) => [node, node.getBoundingClientRect()])
  .filter(([, box]) => box.width && (box.width < 24 || box.height < 24))
  .map(([node]) => node.outerHTML.slice(0, 100))"""

# Text in a picture that is too small to read, or that sticks out of the picture.
BAD_TEXT = """(root) => [...root.querySelectorAll("svg text")]
  .filter((text) => text.textContent && text.getBoundingClientRect().width)
  .filter((text) => {
    const frame = text.closest("svg");
    const [box, view] = [text.getBoundingClientRect(), frame.getBoundingClientRect()];
    const scale = view.width / frame.viewBox.baseVal.width;
    return parseFloat(getComputedStyle(text).fontSize) * scale < 10
      || box.left < view.left - 2 || box.right > view.right + 2
      || box.top < view.top - 2 || box.bottom > view.bottom + 2;
  })
  .map((text) => text.outerHTML.slice(0, 160))"""

CUT_TABLES = """(root) => [...root.querySelectorAll(".opd-table")]
  .filter((each) => each.scrollWidth > each.clientWidth)
  .map((each) => each.innerText.slice(0, 80))"""


@every_widget
def test_on_a_phone_nothing_sticks_out_text_is_legible_and_a_thumb_finds_its_target(name, opened):
    widget = opened(name, page=PHONE)
    for state in states(name, 6, seed=8):
        widget.set(**state)
        assert widget.page.evaluate("document.scrollingElement.scrollWidth") <= 360
        assert widget.root.evaluate(STICKING_OUT) == []
    assert widget.root.evaluate(SMALL_TARGETS) == []
    assert widget.root.evaluate(BAD_TEXT) == []


@every_widget
def test_with_two_narrow_columns_no_table_is_cut_off(name, opened):
    widget = opened(name, page={"viewport": {"width": 650, "height": 900}})
    for state in states(name, 6, seed=9):
        widget.set(**state)
        assert widget.root.evaluate(CUT_TABLES) == []


@every_widget
def test_without_scripts_a_picture_or_a_text_stands_in(name, browser, tmp_path):
    widget = WIDGETS[name]()
    file = tmp_path / "still.html"
    file.write_text(page_of(widget), encoding="utf-8")
    page = new_page(browser, java_script_enabled=False)
    page.goto(file.as_uri())
    picture = page.locator(".opd-host img")
    if picture.count():
        assert picture.get_attribute("alt") == widget.shown
        data = base64.b64decode(picture.get_attribute("src").removeprefix("data:image/png;base64,"))
        assert data == (PICTURES / f"{widget.name}.png").read_bytes()
        box = picture.bounding_box()
        assert box["width"] > 300 and box["height"] > 200
    else:
        assert page.locator(".opd-host").inner_text().strip() == widget.shown
    assert len(widget.shown) > 80 and page.refused == []
    page.context.close()


def thumbnail(picture):
    """16 by 16 greys of a picture, mean 0 and length 1."""
    small = np.asarray(Image.open(picture).convert("L").resize((16, 16)), dtype=float)
    small -= small.mean()
    return small.reshape(-1) / np.linalg.norm(small)


def test_each_still_shows_its_own_explorable(browser, tmp_path):
    """Photographed anew, for this machine may have other fonts: the nearest one must be its own."""
    stills.photograph_with(browser, tmp_path)
    names = [widget().name for widget in WIDGETS.values()]
    kept, now = (
        np.array([thumbnail(folder / f"{name}.png") for name in names])
        for folder in (PICTURES, tmp_path)
    )
    alike = kept @ now.T
    nearest = {name: names[place] for name, place in zip(names, alike.argmax(axis=1))}
    assert nearest == {name: name for name in names}
    assert alike.diagonal().min() > 0.9, dict(zip(names, alike.diagonal()))


@every_widget
def test_printed_it_is_dark_on_light_without_buttons(name, opened):
    widget = opened(
        name,
        theme="dark",
        page={"viewport": {"width": 700, "height": 1000}, "color_scheme": "dark"},
    )
    assert widget.visible("button")
    widget.page.emulate_media(media="print")
    assert widget.visible("button") == []
    assert widget.visible("svg") and widget.visible(".opd-says") and widget.visible(".opd-table")
    paper = widget.root.locator(".opd-card").evaluate(
        "(card) => getComputedStyle(card).backgroundColor"
    )
    ink = widget.root.locator(".opd-says").evaluate("(says) => getComputedStyle(says).color")
    assert paper == "rgb(255, 255, 255)" and ink == "rgb(28, 33, 40)"
    assert widget.page.evaluate("document.scrollingElement.scrollWidth") <= 700
    assert len(widget.page.pdf()) > 10_000
    widget.page.emulate_media(media="screen")  # for the next test in this page


def test_the_pages_theme_counts_and_not_the_systems(opened):
    papers = {}
    for theme in ("light", "dark"):
        for system in ("light", "dark"):
            widget = opened("PushAndPull", theme=theme, page={"color_scheme": system})
            papers[theme, system] = widget.root.locator(".opd-card").evaluate(
                "(card) => getComputedStyle(card).backgroundColor"
            )
    assert papers["light", "light"] == papers["light", "dark"] == "rgb(255, 255, 255)"
    assert papers["dark", "light"] == papers["dark", "dark"] == "rgb(20, 24, 30)"


@pytest.mark.parametrize(
    "names", [*zip(list(WIDGETS)[::2], list(WIDGETS)[1::2]), *zip(WIDGETS, WIDGETS)], ids="+".join
)
def test_two_on_a_page_leave_each_other_alone(names, lent, tmp_path):
    widgets = [WIDGETS[name]() for name in names]
    file = tmp_path / "two.html"
    file.write_text(page_of(*widgets), encoding="utf-8")
    page = lent.lend({})
    page.goto(file.as_uri())
    page.wait_for_function("document.querySelectorAll('[data-mounted]').length === 2")
    roots = page.locator(".opd-host").all()
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((node) => node.id)")
    assert len(set(ids)) == len(ids)
    for mine, other in ((0, 1), (1, 0)):
        before = read(roots[other]).__dict__
        slider = roots[mine].locator("input[type=range]").first
        slider.focus()
        for _ in range(1 + 2 * mine):
            page.keyboard.press(toward_the_middle(slider))
        for label in roots[mine].locator(".opd-choice label").all()[:: 1 - 2 * mine]:
            if label.is_visible():
                label.click()
        assert read(roots[other]).__dict__ == before
        check(roots[mine], widgets[mine])
    page.wait_for_function("timersWaiting() === 0", timeout=10_000)
    second = f"{widgets[1].name}{'-2' if names[0] == names[1] else ''}"
    assert f"{widgets[0].name}=%7B" in page.url and f"{second}=%7B" in page.url
    there = [read(root).__dict__ for root in roots]
    linked = lent.lend({})
    linked.goto(page.url)
    linked.wait_for_function("document.querySelectorAll('[data-mounted]').length === 2")
    for root, seen in zip(linked.locator(".opd-host").all(), there):
        here = read(root)
        assert here.choices == seen["choices"]
        for slider, value in seen["outputs"].items():
            assert float(here.outputs[slider]) == pytest.approx(float(value), abs=1e-4)
    assert page.faults == linked.faults == []
    lent.take_back()


PLAYED = ["ControlStudy", "SampleAndAverage", "SeekOrCover"]


def test_those_that_play_are_known():
    playing = {
        name
        for name, widget in WIDGETS.items()
        if "animation(" in (HERE / f"{widget.name.replace('-', '_')}.js").read_text()
    }
    assert playing == set(PLAYED)


COUNT_CHANGES = """() => {
  window.addresses = 0; window.said = 0; window.moves = 0;
  const plain = history.replaceState.bind(history);
  history.replaceState = (...given) => { addresses++; return plain(...given); };
  const watch = (selector, heard) => new MutationObserver(heard).observe(
    document.querySelector(selector), { childList: true, characterData: true, subtree: true });
  watch("[aria-live]", () => said++);
  watch(".opd-table tbody", () => moves++);
}"""


@pytest.mark.parametrize("name", PLAYED)
def test_play_moves_pauses_and_does_not_flood(name, opened):
    widget = opened(name)
    widget.page.evaluate(COUNT_CHANGES)
    if name == "SampleAndAverage":
        widget.set(draws=3)
    before = read(widget.root).printed
    button = widget.root.get_by_role("button", name="Play")
    button.click()
    pause = widget.root.get_by_role("button", name="Pause")
    pause.wait_for(timeout=5000)
    widget.page.evaluate("window.addresses = window.said = window.moves = 0")
    widget.page.wait_for_function("moves >= 8", timeout=20_000)
    assert read(widget.root).printed != before
    pause.click()
    button.wait_for(timeout=5000)
    # in eight moves or more the address is written and the sentence said at most once a second
    # and once at the end
    addresses, said, moves = widget.page.evaluate("[addresses, said, moves]")
    assert addresses <= 1 + moves / 4 and said <= 2 + moves / 4, (addresses, said, moves)
    still = widget.check().printed
    widget.page.wait_for_timeout(400)  # that nothing moves any more shows in time only
    assert read(widget.root).printed == still


@pytest.mark.parametrize("name", PLAYED)
def test_with_reduced_motion_play_jumps_to_the_end(name, opened):
    widget = opened(name, page={"reduced_motion": "reduce"})
    widget.root.get_by_role("button", name="Play").click()
    end = widget.check().printed
    assert widget.root.get_by_role("button", name="Pause").count() == 0
    widget.page.wait_for_timeout(300)
    assert read(widget.root).printed == end
    seen = read(widget.root)
    ends = {"SampleAndAverage": ("draws", 4096), "ControlStudy": ("iteration", 2000)}
    if name in ends:
        control, end = ends[name]
        assert float(seen.outputs[control]) == end
    else:
        assert seen.number("steps-taken") == seen.number("steps-in-all")


# ---- exercises ----


@pytest.mark.parametrize(
    ("answer", "typed", "verdict"),
    [
        (0.5, "0.3", "Too small. Try again, or let the page show the answer."),
        (0.5, "0,7", "Too large. Try again, or let the page show the answer."),
        (-0.5, "−0.7", "Too small. Try again, or let the page show the answer."),
        (-0.5, "+0.5", "Too large. Try again, or let the page show the answer."),
        (0.5, "0.50", "Right: 0.50. So it is."),
        (0.5, "0.505", "Right: 0.50. So it is."),  # as far off as it may be, but for rounding
        (0.5, "0.5051", "Too large. Try again, or let the page show the answer."),
        (0.5, " ", "Type a number first, for instance 0.5."),
        (0.5, "a half", "Type a number first, for instance 0.5."),
    ],
)
def test_an_exercise_says_which_way_a_number_misses(answer, typed, verdict, lent, tmp_path):
    file = tmp_path / "exercise.html"
    file.write_text(exercise("1.1", answer, why="So it is.")._repr_html_(), encoding="utf-8")
    page = lent.lend({})
    page.goto(file.as_uri())
    page.locator("input").fill(typed)
    page.get_by_role("button", name="Check").click()
    assert page.locator("[aria-live]").inner_text() == verdict
    reveal = page.get_by_role("button", name="Show the answer")
    assert reveal.is_visible() == (typed not in ("a half", " "))
    if reveal.is_visible():
        reveal.click()
        shown = f"{answer:.2f}".replace("-", "−")
        assert page.locator("[aria-live]").inner_text() == f"The answer is {shown}. So it is."
    lent.take_back()


def test_an_exercise_with_choices_names_the_right_one_when_it_is_chosen(lent, tmp_path):
    file = tmp_path / "choices.html"
    asked = exercise("1.2", "falls", choices=["rises", "falls"], why="So it is.")
    file.write_text(asked._repr_html_(), encoding="utf-8")
    page = lent.lend({})
    page.goto(file.as_uri())
    for choice, state, verdict in (
        (None, "empty", "Choose one first."),
        ("rises", "wrong", "Not this one. Try again, or let the page show the answer."),
        ("falls", "right", "Right: falls. So it is."),
    ):
        if choice:
            page.locator(f"input[value={choice}]").check()
        page.get_by_role("button", name="Check").click()
        assert page.locator("[aria-live]").inner_text() == verdict
        assert page.locator(".opd-exercise").get_attribute("data-state") == state
    assert page.faults == []
    lent.take_back()
