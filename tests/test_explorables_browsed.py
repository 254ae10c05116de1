"""Photographs and times of the sliders, with a browser that is made up: what it is asked to do."""

import io
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from opd_toy import explorables
from opd_toy.explorables import stills
from opd_toy.explorables.browser import ADVICE, ARGUMENTS
from opd_toy.explorables.timing import measuring


class Browser:
    """Playwright's browser, as far as it is used; it notes what it is asked in ``asked``."""

    version = "1.2"

    def __init__(self, answers=(), fault=None):
        self.asked, self.answers, self.fault = [], dict(answers), fault

    def __getattr__(self, name):
        def method(*arguments, **options):
            self.asked.append((name, *arguments, *sorted(options.items())))
            if name == "goto":
                file = Path(arguments[0].removeprefix("file://"))
                self.asked.append(("text", file.name, file.read_text(encoding="utf-8")))
            if name == "on" and self.fault:
                arguments[1](self.fault)
            if name == "evaluate":
                return self.answers[arguments[0]]
            return self.shot() if name == "screenshot" else self

        return method

    def shot(self):
        picture = Image.new("RGBA", (64, 64))
        picture.putdata([(4 * x, 4 * y, 128, 255) for y in range(64) for x in range(64)])
        file = io.BytesIO()
        picture.save(file, "PNG")
        return file.getvalue()

    def named(self, *names):
        return [each for each in self.asked if each[0] in names]


@pytest.fixture
def launched(monkeypatch):
    """Playwright, whose browser is the one made up here; -> (browser, how it was launched)."""
    from playwright import sync_api

    browser, how = Browser(), []

    class Playwright:
        def __enter__(self):
            launch = lambda **options: how.append(options) or browser
            return SimpleNamespace(chromium=SimpleNamespace(launch=launch))

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(sync_api, "sync_playwright", Playwright)
    return browser, how


@pytest.mark.parametrize("module", [stills, measuring])
def test_without_a_browser_it_says_what_to_install(module, monkeypatch):
    monkeypatch.setattr(module, "find_chromium", lambda: None)
    work = {
        stills: lambda: stills.photograph("here"),
        measuring: lambda: measuring.measure([], 1, 0),
    }
    with pytest.raises(FileNotFoundError) as error:
        work[module]()
    assert str(error.value) == ADVICE


def test_the_browser_that_is_found_is_launched_and_closed(launched, monkeypatch):
    browser, how = launched
    for module in (stills, measuring):
        monkeypatch.setattr(module, "find_chromium", lambda: "/opt/chromium")
    monkeypatch.setattr(stills, "photograph_with", lambda *of: ("photographed", *of))
    assert stills.photograph("here") == ("photographed", browser, "here")
    monkeypatch.setattr(measuring, "measure_with", lambda *of: ("measured", *of))
    assert measuring.measure(["A"], 2, "report") == ("measured", browser, ["A"], 2, "report")
    assert how == [{"executable_path": "/opt/chromium", "args": ARGUMENTS}] * 2
    assert browser.asked == [("close",)] * 2


def test_every_slider_is_photographed_on_a_page_of_its_own(tmp_path, monkeypatch):
    browser, widgets = Browser(), ["Baselines", "WhichToken"]
    monkeypatch.setattr(explorables, "__all__", widgets)
    monkeypatch.setattr(stills, "page_of", lambda widget: f"the page of {widget.name} ü")
    asked = []

    def noted(name):
        function = getattr(Image.Image, name)
        noting = lambda self, *of, **more: asked.append((of, more)) or function(self, *of, **more)
        monkeypatch.setattr(Image.Image, name, noting)

    noted("quantize"), noted("save")
    paths = stills.photograph_with(browser, tmp_path)
    method, options = Image.Quantize.MAXCOVERAGE, {"kmeans": 3, "dither": Image.Dither.NONE}
    made, saved = ((48, method), options), {"optimize": True}
    small = [each for path in paths for each in (made, ((path,), saved))]
    assert [each for each in asked if each[1]] == small  # the screenshot itself is saved as it is
    names = ["baselines", "which-token"]
    assert paths == [tmp_path / f"{name}.png" for name in names]
    size = {"width": 784, "height": 900}
    assert browser.named("new_page") == [("new_page", ("viewport", size))]
    assert browser.named("text") == [
        ("text", f"{name}.html", f"the page of {name} ü") for name in names
    ]
    assert browser.named("wait_for_selector") == [("wait_for_selector", "[data-mounted]")] * 2
    assert browser.named("locator") == [("locator", ".opd-card")] * 2
    assert browser.asked[-1] == ("close",)
    for path in paths:
        with Image.open(path) as picture:
            assert picture.mode == "P" and picture.size == (64, 64)
            assert 40 < len(picture.getcolors()) <= 48


def test_a_slider_s_bare_page():
    widget = SimpleNamespace(name="some-name", to_html=lambda: "<b>the slider</b>")
    for dark, theme, paper in ((False, "light", "#ffffff"), (True, "dark", "#14181e")):
        assert stills.page_of(widget, dark) == (
            f'<!doctype html><html lang="en" data-theme="{theme}"><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width"><title>some-name</title>'
            f'<body style="margin:12px;background:{paper};font:16px/1.5 system-ui,sans-serif">'
            "<b>the slider</b></body></html>"
        )
    assert stills.page_of(widget) == stills.page_of(widget, False)


UPDATES = "([root, rounds]) => updates(root, rounds)"
ANSWERS = {
    "mountTimes": [1.0, 2.0, 3.0],
    "nothing": [[0.125, 0.25, 0.5]],
    UPDATES: {"one": [[4.0, 5.0, 6.0]], "two": [[7.0, 8.0, 9.0], [10.0, 11.0, 12.0]]},
}


@pytest.fixture
def sliders(monkeypatch):
    for name in ("One", "Two"):
        made = type(name, (), {"to_html": lambda self, name=name: f"<i>{name} ü</i>"})
        monkeypatch.setattr(explorables, name, made, raising=False)


def test_what_is_measured_of_each_slider(sliders):
    browser, steps = Browser(ANSWERS), []
    found = measuring.measure_with(browser, ["One", "Two"], 2, lambda *step: steps.append(step))
    assert steps == [(n, 6) for n in range(1, 7)]
    size = {"width": 1280, "height": 900}
    fixed = {"browser": "Chromium 1.2", "viewport": size, "throttle": 1, "rounds": 2}
    assert {name: found[name] for name in fixed} == fixed
    one, two = found["widgets"]
    text = measuring.PAGE.format(title="One", widget="<i>One ü</i>")
    controls = ANSWERS[UPDATES]
    assert one == {
        "name": "One",
        "bytes": len(text.encode()),
        "mount": measuring.summary([ANSWERS["mountTimes"]] * 2),
        "idle": measuring.summary(ANSWERS["nothing"]),
        "update": measuring.summary([*controls["one"], *controls["two"]]),
        "controls": {name: measuring.summary(times) for name, times in controls.items()},
    }
    assert two["name"] == "Two" and browser.named("text")[0] == ("text", "One.html", text)
    contexts = browser.named("new_context", "close")
    opened = ("new_context", ("offline", True), ("viewport", size))
    assert contexts == [opened, ("close",)] * 6
    assert (
        browser.named("wait_for_function") == [("wait_for_function", "globalThis.mountTimes")] * 6
    )
    scripts = browser.named("add_script_tag")
    assert scripts == [("add_script_tag", ("content", measuring.IN_PAGE))] * 2
    assert browser.named("locator")[0] == ("locator", ".opd-host")
    asked = [each[1:] for each in browser.named("evaluate")[:4]]
    assert [each[0] for each in asked] == ["mountTimes", "mountTimes", "nothing", UPDATES]
    assert asked[2][1] == 2 and asked[3][1][1] == 2


def test_a_page_with_a_fault_is_closed_and_named(sliders):
    browser = Browser(ANSWERS, fault="an error")
    with pytest.raises(RuntimeError) as error:
        measuring.measure_with(browser, ["Two"], 1, lambda *_: None)
    assert str(error.value) == "Two raised an error"
    assert browser.asked[-1] == ("close",)


def test_the_summary_of_one_time_and_of_twenty():
    assert measuring.summary([(1.236, 2, 3)]) == {
        "count": 1,
        "script": dict.fromkeys(("median", "p95", "worst"), 1.24),
        "laid_out": dict.fromkeys(("median", "p95", "worst"), 2),
        "drawn": dict.fromkeys(("median", "p95", "worst"), 3),
    }
    twenty = measuring.summary([(n, 0, 0) for n in range(20)])["script"]
    assert twenty == {"median": 9.5, "p95": 18, "worst": 19}
    many = measuring.summary([(n, 0, 0) for n in range(21)])["script"]
    assert many == {"median": 10, "p95": 19, "worst": 20}
