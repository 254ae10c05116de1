"""An explorable open in a page: how to look at it and how to move it."""

import json
import re
import urllib.parse

import numpy as np
import traitlets

from opd_toy.explorables.host import Distribution, Subset
from tests.conftest import new_page
from tests.explorables import WIDGETS, check, page_of
from tests.explorables.your_loss import KNOWN

PHONE = {
    "viewport": {"width": 360, "height": 740},
    "has_touch": True,
    "is_mobile": True,
    "device_scale_factor": 2,
}

# How many timers of the page have yet to go off: the address is written by one.
COUNT_TIMERS = """(() => {
  const [start, stop, waiting] = [setTimeout, clearTimeout, new Set()];
  window.setTimeout = (action, ...rest) => {
    const timer = start(() => { waiting.delete(timer); action(); }, ...rest);
    waiting.add(timer);
    return timer;
  };
  window.clearTimeout = (timer) => { waiting.delete(timer); stop(timer); };
  window.timersWaiting = () => waiting.size;
})()"""

# Resolves once the page has heard of its new address; at once where it is the old one.
CHANGE_HASH = """(hash) => new Promise((done) => {
  const before = location.href;
  addEventListener("hashchange", () => done(), { once: true });
  location.hash = hash;
  if (location.href === before) done();
})"""

VISIBLE = """(nodes) => nodes.flatMap((node, place) => {
  const box = node.getBoundingClientRect();
  const shown = box.width && box.height && getComputedStyle(node).visibility !== "hidden";
  return shown ? [place] : [];
})"""


class Opened:
    """A page with one explorable, and how to look at it and move it."""

    def __init__(self, page, widget, address):
        self.page, self.widget, self.address = page, widget, address
        self.root = page.locator(".opd-host").first
        self.loads = 0
        self.goto(address)

    def goto(self, address):
        """Load the page anew, for a change of the hash alone would load nothing."""
        file, hash_, fragment = address.partition("#")
        query = f"?{self.loads}" if self.loads else ""
        self.loads += 1
        self.page.goto(file.partition("?")[0] + query + hash_ + fragment)
        self.page.wait_for_selector("[data-mounted]", timeout=10_000)

    def check(self, **known):
        seen = check(self.root, self.widget, **known)
        assert self.page.faults == [] and self.page.refused == []
        return seen

    def visible(self, selector):
        every = self.root.locator(selector)
        return [every.nth(place) for place in every.evaluate_all(VISIBLE)]

    def hash(self):
        """The state in the address, once it is written: that takes a moment."""
        self.page.wait_for_function("timersWaiting() === 0", timeout=10_000)
        part = urllib.parse.urlsplit(self.page.url).fragment
        return {
            key: json.loads(urllib.parse.unquote(text))
            for key, text in re.findall("([a-z-]+)=(%7B[^&]*)", part)
        }

    def set(self, **state):
        """As a reader does who edits the address."""
        self.set_text(f"{self.widget.name}={urllib.parse.quote(json.dumps(state))}")

    def set_text(self, text):
        # a state that waits to be written would be put in the place of this one
        self.page.wait_for_function("timersWaiting() === 0", timeout=10_000)
        self.page.evaluate(CHANGE_HASH, text)


class Pages:
    """Pages for one test file: a page that a test is done with is given to the next test."""

    def __init__(self, browser):
        self.browser, self.idle, self.lent = browser, {}, []

    def lend(self, options):
        key = json.dumps(options, sort_keys=True)
        if self.idle.get(key):
            page = self.idle[key].pop()
            for kept in (page.asked, page.refused, page.faults):
                kept.clear()
        else:
            page = new_page(self.browser, **options)
            page.context.add_init_script(COUNT_TIMERS)
        self.lent.append((key, page))
        return page

    def take_back(self):
        for key, page in self.lent:
            self.idle.setdefault(key, []).append(page)
        self.lent = []

    def close(self):
        for pages in self.idle.values():
            for page in pages:
                page.context.close()


def lent_pages(browser):
    """The pages of a test file; to be a fixture of the scope "module"."""
    pages = Pages(browser)
    yield pages
    pages.close()


def open_explorables(lent, tmp_path):
    """``opened(name, traits, page=options of the browser's context)``; to be a fixture."""
    count = 0

    def open_one(name, page=None, theme="light", **traits):
        nonlocal count
        widget = WIDGETS[name](**traits)
        count += 1
        file = tmp_path / f"{widget.name}-{count}.html"
        file.write_text(page_of(widget, theme=theme), encoding="utf-8")
        return Opened(lent.lend(page or {}), widget, file.as_uri())

    yield open_one
    lent.take_back()


# ---- ways to move ----


def center(locator, across=0.5):
    locator.scroll_into_view_if_needed()
    box = locator.bounding_box()
    return box["x"] + across * box["width"], box["y"] + box["height"] / 2


def by_mouse(page, start, end):
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move(*end, steps=4)
    page.mouse.up()


def by_touch(page, start, end):
    touch = page.context.new_cdp_session(page)
    for kind, point in [
        ("touchStart", start),
        *[("touchMove", [a + (b - a) * i / 4 for a, b in zip(start, end)]) for i in (1, 2, 3, 4)],
    ]:
        touch.send(
            "Input.dispatchTouchEvent",
            {"type": kind, "touchPoints": [{"x": point[0], "y": point[1]}]},
        )
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    touch.detach()


def along(slider):
    """How far along its track a slider's thumb stands, from 0 to 1."""
    return slider.evaluate("(input) => (input.valueAsNumber - input.min) / (input.max - input.min)")


def toward_the_middle(slider):
    """The arrow key that has room to move."""
    return "ArrowLeft" if along(slider) > 0.5 else "ArrowRight"


# ---- states ----


def states(name, count, seed=5):
    """Random values for every trait of a widget, the ends of its ranges among them."""
    random = np.random.default_rng(seed)
    of_state = WIDGETS[name]().state()
    traits = {
        key: trait
        for key, trait in WIDGETS[name].class_traits(sync=True).items()
        if key in of_state
        and (isinstance(trait, (Distribution, Subset)) or not isinstance(trait, traitlets.List))
    }
    for number in range(count):
        state = {key: random_value(trait, random) for key, trait in traits.items()}
        if name == "PushAndPull" and state["objective"] not in WIDGETS[name]().objectives:
            state["objective"] = "jsd"
        if "teacher" in state and number % 6 == 0:
            state["student"] = state["teacher"]
        yield state


def random_value(trait, random):
    if isinstance(trait, Distribution):
        size = len(trait.default_args[0])
        p = np.maximum(random.dirichlet(np.full(size, random.choice([0.3, 1.0, 20.0]))), 0.005)
        return (p / p.sum()).tolist()
    if isinstance(trait, Subset):
        return [each for each in trait.names if random.random() < random.choice([0, 0.3, 0.7, 1])]
    if isinstance(trait, traitlets.Enum):
        return trait.values[random.integers(len(trait.values))]
    if isinstance(trait, traitlets.Unicode):
        return KNOWN[random.integers(len(KNOWN))]
    whole = isinstance(trait, traitlets.Int)
    if whole and trait.max >= 1000:  # as many small numbers as large ones: few draws, one sample
        within = np.exp(random.uniform(np.log(max(trait.min, 1)), np.log(trait.max)))
    else:
        within = random.uniform(trait.min, trait.max + whole)
    value = random.choice([trait.min, trait.max, within], p=[0.1, 0.1, 0.8])
    return int(value) if whole else float(value)
