"""The scripts of the book's pages on small pages made for them: book.js, search.js, previews.js."""

import json

import pytest

from tests.conftest import ROOT

STATIC = ROOT / "book" / "_static"


@pytest.fixture
def on(page, tmp_path):
    """on(body, script, before): the page with this body, after a script of the book has run."""

    def opened(body, script, before="", style="book.css"):
        file = tmp_path / "page.html"
        file.write_text(
            '<!doctype html><html data-theme="dark" data-content_root="./"><meta charset="utf-8">'
            f"<style>{(STATIC / style).read_text()} body {{ margin: 0 }}</style>"
            f"<body>{body}<script>{before}</script>"
            f'<script src="{(STATIC / script).as_uri()}"></script>',
            encoding="utf-8",
        )
        page.goto(file.as_uri())
        assert page.faults == []
        return page

    return opened


# ---- search.js ----

INDEX = {
    "docnames": ["d0", "d1"],
    "filenames": ["f0", "f1"],
    "titles": ["First", "Second"],
    "alltitles": {"Clipping": [[0, "clip"]], "Other": [[1, "x"]]},
    "indexentries": {
        "why is the ratio clipped": [[0, "clip"]],
        "ratio": [[0, "clip"], [1, "short"]],
        "old clipped texts of the learner": [[1, "long"]],
        "beta 0.5 k3+": [[1, "half"]],
    },
}
SPHINX = "[['d0', 'from Sphinx', '#clip'], ['d0', 'elsewhere', '#far'], ['d1', 'same', '#clip']]"


@pytest.mark.parametrize(
    "typed, found",
    [
        ("ratio", ["#clip", "#short"]),  # the best, the fewest other words, is the last
        ("clipped ratio", ["#clip"]),
        ("the ratio", ["#clip", "#short"]),  # "the" counts for nothing
        ("clip", ["#long", "#clip"]),  # a part of a word, from four letters on
        ("cli", []),
        ("ratios", ["#clip", "#short"]),  # and more than the word
        ("old learner", ["#long"]),
        ("old learners zyzzyva", ["#long"]),  # one word of three may be unknown
        ("old zyzzyva", []),
        ("old zyzzyva xylem", []),
        ("ratio clipped old", ["#long", "#clip"]),  # each lacks one
        ("clipped ratio nowhere old texts learner", ["#long"]),
        ("Beta .5", ["#half"]),
        ("K3+", ["#half"]),
        ("old", ["#long"]),
        ("ol", []),
        ("", []),
        ("the", []),
    ],
)
def test_readers_words_lead_to_their_section(typed, found, on):
    stub = f"const Search = {{ _index: {json.dumps(INDEX)}, _performSearch: (query) => {SPHINX} }}"
    results = on("", "search.js", stub).evaluate("(typed) => Search._performSearch(typed)", typed)
    others = [row for row in results if len(row) == 3]
    mine = results[len(others) :]
    assert [anchor for _, _, anchor, *_ in mine] == found
    titles = {"#clip": "First > Clipping"}
    for doc, title, anchor, *rest in mine:
        place = int(anchor != "#clip")
        assert (doc, title) == (f"d{place}", titles.get(anchor, "Second"))
        assert rest == [None, 100, f"f{place}"]
    # what Sphinx found itself comes first, unless it is the same place
    wanted = ["elsewhere", "same"] if "#clip" in found else ["from Sphinx", "elsewhere", "same"]
    assert [title for _, title, _ in others] == wanted


# ---- book.js ----

BODY = """<main style="width: 300px">
  <mjx-container display="true" style="display: block; overflow: auto"><div style="width: 301px">
  </div></mjx-container>
  <mjx-container display="true" style="display: block; overflow: auto"><div style="width: 302px">
  </div></mjx-container>
  <div class="highlight"><pre>x = 1</pre></div>
  <table><td><code><span class="pre">opd_toy.lm.f(a=b,_c)</span></code></table>
  <dl><dt class="sig"><span class="sig-param">a</span>, <span class="sig-param">b</span></dt></dl>
</main>"""


def test_a_page_is_made_fit_for_keyboard_and_paper(on):
    page = on(BODY, "book.js")
    equations = page.locator("mjx-container")
    page.wait_for_function("document.querySelector('mjx-container[tabindex=\"0\"]')")
    reached = lambda: equations.evaluate_all("(all) => all.map((each) => each.tabIndex)")
    assert reached() == [-1, 0]  # a pixel too wide is rounding
    page.evaluate("document.querySelector('main').style.width = '310px'")
    page.wait_for_function("!document.querySelector('[tabindex]')")
    name = page.locator("td .pre").evaluate("(each) => each.innerHTML")
    assert name == "opd_<wbr>toy.<wbr>lm.<wbr>f(<wbr>a=<wbr>b,<wbr>_<wbr>c)"
    assert page.locator("dt").inner_html().count('<wbr><span class="sig-param">') == 2
    theme = lambda: page.evaluate("document.documentElement.dataset.theme")
    assert theme() == "dark"
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert theme() == "light"
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert theme() == "dark"


@pytest.mark.parametrize("clipboard", ["heard", "refused", "none"])
def test_code_is_copied_or_to_be_selected(clipboard, on):
    write = {"heard": "async (text) => (window.heard = text)", "refused": "() => Promise.reject()"}
    value = f"{{ writeText: {write[clipboard]} }}" if clipboard in write else "undefined"
    before = f"""
      Object.defineProperty(navigator, "clipboard", {{ value: {value} }});
      window.setTimeout = (action, after) => (window.waiting = [action, after]);"""
    page = on(BODY, "book.js", before)
    button = page.locator("div.highlight button.copy")
    assert button.get_attribute("type") == "button" and button.inner_text() == "Copy"
    button.click()
    page.wait_for_function("window.waiting")
    said = "Copied" if clipboard == "heard" else "Select the code to copy it"
    assert button.inner_text() == said
    assert page.evaluate("window.heard ?? null") == ("x = 1" if clipboard == "heard" else None)
    assert page.evaluate("(window.waiting[0](), window.waiting[1])") == 2000
    assert button.inner_text() == "Copy"


# ---- previews.js ----


def linked(left, top, width=300):
    return f"""<main style="position: relative; height: 900px"><article>
      <a class="internal" href="#term-x" style="position: absolute; left: {left}px; top: {top}px">
      a word</a><dl style="display: none"><dt id="term-x">Its term</dt>
      <dd><div style="width: {width}px; height: 200px">its meaning</div></dd></dl>
      </article></main>"""


@pytest.mark.parametrize(
    "left, top, height, stands",
    [
        (200, 40, 700, "below"),
        (0, 40, 700, "below"),
        (1300, 40, 700, "below"),
        (200, 500, 700, "above"),
        (1300, 500, 700, "above"),
        (200, 120, 260, "below"),  # there is room on neither side
    ],
)
def test_a_preview_stands_beside_its_link_within_the_window(left, top, height, stands, on, page):
    page.set_viewport_size({"width": 1400, "height": height})
    on(linked(left, top), "previews.js", style="page-tools.css")
    link = page.locator("a")
    link.hover()
    page.wait_for_function("document.querySelector('[aria-describedby=preview]')")
    page.locator("#preview").evaluate("(node) => (node.style.animation = 'none')")
    line, own = link.bounding_box(), page.locator("#preview").bounding_box()
    assert own["x"] == pytest.approx(max(8, min(line["x"], 1400 - own["width"] - 8)), abs=0.6)
    below = line["y"] + line["height"] + 4
    wanted = below if stands == "below" else line["y"] - 4 - own["height"]
    assert own["y"] == pytest.approx(wanted, abs=0.6)
    assert (below + own["height"] < height) == (stands == "below" and height > 260)
    assert page.locator("#preview").inner_text().split("\n")[0] == "Its term"
    assert "its meaning" in page.locator("#preview").inner_text()


def test_only_what_is_wanted_still_is_shown(on, page):
    """Not what the pointer only crosses, nor what has no target; each once, and hidden again."""
    nothing = (
        '<a class="internal" href="#term-none" style="position: absolute; top: 400px">none</a>'
    )
    page.clock.install(time=0)
    on(linked(200, 40).replace("<dl", f"{nothing}<dl", 1), "previews.js", style="page-tools.css")
    page.clock.pause_at(60)  # else it runs on as the world's does
    page.evaluate("""() => {
      window.shows = 0;
      new MutationObserver(() => preview.hidden || (shows += 1))
        .observe(preview, { attributes: true, attributeFilter: ["hidden"] });
    }""")
    there, none = page.locator("a").all()

    def shows(act):
        """How often something is shown, and whether it still is."""
        act()
        page.clock.run_for(300)
        return page.evaluate("[shows, (shows = 0) || !preview.hidden]")

    cross = lambda on: (there.hover(), page.clock.run_for(200), on())
    assert shows(lambda: cross(lambda: page.mouse.move(1000, 700))) == [0, False]
    assert shows(none.hover) == [0, False]
    assert shows(there.hover) == [1, True] and shows(there.hover) == [0, True]
    assert shows(none.hover) == [0, False]
    assert shows(lambda: cross(none.hover)) == [0, False]


def test_a_preview_goes_on_with_the_pointer_and_stays_away_when_it_was_sent(on, page):
    terms = "".join(
        f"""<a class="internal" href="#term-{x}" style="position: absolute; left: {left}px; top: 0">
        a long way <b>to {x}</b></a><dl style="display: none"><dt id="term-{x}">{x}</dt>
        <dd>its meaning</dd></dl>"""
        for x, left in (("x", 100), ("y", 600))
    )
    body = f"<main style='height: 900px'><article>{terms}</article></main>"
    on(body, "previews.js", style="page-tools.css")
    preview = page.locator("#preview")
    for link in page.locator("a").all():
        link.hover(position={"x": 5, "y": 5})
        page.wait_for_function(
            "(link) => link.hasAttribute('aria-describedby')", arg=link.element_handle()
        )
        assert preview.bounding_box()["x"] == pytest.approx(link.bounding_box()["x"], abs=0.6)
    page.keyboard.press("Escape")
    preview.wait_for(state="hidden")
    page.locator("a b").last.hover()  # the same link
    page.wait_for_timeout(400)
    assert not preview.is_visible()
    page.locator("a").first.hover()
    preview.wait_for()
    page.locator("main").dispatch_event("pointerdown")
    preview.wait_for(state="hidden")
    page.mouse.move(5, 800)
    page.keyboard.press("Tab")
    preview.wait_for()
    page.locator("main").dispatch_event("pointerover")
    page.wait_for_timeout(400)
    assert preview.is_visible()  # the keyboard's focus holds it
