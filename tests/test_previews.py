"""What a link leads to is shown under the pointer and the focus, from disk, without network."""

import json
import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from docutils.nodes import Text

from tests.conftest import ROOT, new_page
from tests.test_build import TinyBook
from tests.test_pages import CHAPTERS

PREVIEW = "#preview"
WIDE = " + ".join(f"x_{{{at}}} y_{{{at}}}" for at in range(40))
INDEX = """Words on RLVR, an [equation of this page](#eq-here) and
[one elsewhere](other.md#eq-there), a [wide one](other.md#eq-wide),
[Hinton et al. (2015)](references.md#hinton2015), a [section](other.md#sec-there), RLVR again,
a verified reward.

$$
x = y
$$ (eq-here)
"""
OTHER = f"""# Other

(sec-there)=
## There

$$
a = b
$$ (eq-there)

$$
{WIDE}
$$ (eq-wide)
"""
NOTATION = """# Notation

RLVR, verified reward
: Its meaning, with a [link](other.md#sec-there) and $z$.

text
: Everyday.
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    tiny = TinyBook(tmp_path_factory.mktemp("book"))
    files = {
        "other": OTHER,
        "notation": NOTATION,
        "references": "# R\n\n```{bibliography}\n:all:\n```\n",
    }
    entries = "".join(f"- file: book/{name}\n" for name in files)
    (tiny.folder / "_toc.yml").write_text(
        f"format: jb-book\nroot: book/index\nchapters:\n{entries}"
    )
    for name, text in files.items():
        (tiny.folder / "book" / f"{name}.md").write_text(text)
    tiny.write(INDEX)
    code, said = tiny.build()
    assert code == 0, said
    return tiny.folder / "_build" / "html"


def open_at(page, site):
    page.goto((site / "book" / "index.html").as_uri())
    page.evaluate("() => window.MathJax.startup.promise")
    return page


def rests(page, words):
    """The pointer rests on a link; what is shown then."""
    page.get_by_role("link", name=words).hover()
    page.locator(PREVIEW).wait_for()
    page.wait_for_function("document.querySelector('[aria-describedby=preview]')")
    return page.locator(PREVIEW)


@pytest.mark.parametrize(
    "link, words",
    [
        ("equation of this page", None),
        ("one elsewhere", None),
        ("Hinton et al. (2015)", "Geoffrey Hinton, Oriol Vinyals"),
        ("RLVR", "Its meaning, with a link and"),
    ],
)
def test_a_link_shows_what_it_leads_to(page, site, link, words):
    shown = rests(open_at(page, site), link)
    assert shown.get_attribute("role") == "tooltip"
    assert words in shown.inner_text() if words else shown.locator("mjx-container").count() == 1
    assert shown.locator("a, [id], [tabindex], .headerlink").count() == 0
    assert "\\(" not in shown.inner_text() and "\\[" not in shown.inner_text()
    assert page.locator("[aria-describedby=preview]").count() == 1
    page.mouse.move(2, 2)
    shown.wait_for(state="hidden")
    assert page.locator("[aria-describedby]").count() == 0
    assert page.refused == [] and page.faults == []


def test_the_first_mention_of_a_term_is_a_link_and_no_other(page, site):
    open_at(page, site)
    assert page.locator("a.term").all_inner_texts() == ["RLVR"]  # by one name, and not "text"
    assert page.get_by_text("RLVR again").count() == 1


def test_a_term_in_the_plural_is_linked_up_to_its_s(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "book" / "_extensions"))
    import previews

    _, link, rest = previews.linked(Text("rewards"), {"reward": "term-reward"}, "notation")
    assert (link.astext(), link["refuri"], rest) == ("reward", "notation.html#term-reward", "s")


def test_the_longest_term_is_linked_and_each_meaning_once(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "book" / "_extensions"))
    import previews

    wanted = {"coin": "a", "coin toss": "b", "toss": "b", "reward-to-go": "c"}
    found = previews.linked(Text("no coins, a coin toss, a toss, reward"), wanted, "x")
    assert [part.get("refuri") if part.children else part for part in found] == [
        *("no ", "x.html#a", "s, a ", "x.html#b", ", a toss", ", reward")
    ]
    assert [part.astext() for part in found if part.children] == ["coin", "coin toss"]
    assert wanted == {"reward-to-go": "c"}  # what later texts may mention


def test_other_pages_are_asked_for_only_when_needed(page, site):
    open_at(page, site)
    assert [address for address in page.asked if "/previews/" in address] == []
    rests(page, "one elsewhere")
    assert [address for address in page.asked if "/previews/" in address] == [
        (site / "_static/previews/other.js").as_uri()
    ]


def test_it_can_be_pointed_at_and_put_away(page, site):
    shown = rests(open_at(page, site), "Hinton")
    box = shown.bounding_box()
    page.mouse.move(box["x"] + 20, box["y"] + 10, steps=5)
    page.wait_for_timeout(600)
    assert shown.is_visible()
    page.keyboard.press("Escape")
    shown.wait_for(state="hidden")


def test_the_focus_shows_it_and_goes_on(page, site):
    open_at(page, site)
    page.get_by_role("link", name="RLVR").focus()
    page.keyboard.press("Tab")  # by the keyboard from here on
    focused = lambda: page.evaluate("document.activeElement.textContent")
    shown = page.locator(PREVIEW)
    for words, content in (("equation of this page", "x"), ("one elsewhere", "a")):
        assert focused().startswith(words)
        page.wait_for_function("document.activeElement.getAttribute('aria-describedby')")
        assert content in shown.locator("mjx-assistive-mml").first.text_content()
        page.keyboard.press("Tab")
    page.keyboard.press("Escape")
    shown.wait_for(state="hidden")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert focused() == "section"  # of which nothing is shown
    page.wait_for_timeout(400)
    assert not shown.is_visible()


def test_a_wide_equation_fits(page, site):
    shown = rests(open_at(page, site), "wide one")
    sizes = shown.locator("mjx-container").evaluate("each => [each.scrollWidth, each.clientWidth]")
    assert sizes[0] <= sizes[1] + 1
    box = shown.bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 1280
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_tap_follows_the_link(browser, site):
    page = new_page(browser, viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    open_at(page, site)
    page.get_by_role("link", name="equation of this page").tap()
    page.wait_for_url("**#equation-eq-here")
    page.wait_for_timeout(500)
    assert not page.locator(PREVIEW).is_visible()
    link = page.get_by_role("link", name="one elsewhere")
    link.dispatch_event("pointerover", {"pointerType": "touch"})
    page.wait_for_timeout(500)
    assert not page.locator(PREVIEW).is_visible()
    page.evaluate("addEventListener('click', (event) => event.preventDefault(), { once: true })")
    link.tap()  # which gives it the focus, now that it leads nowhere
    assert page.evaluate("document.activeElement.textContent").startswith("one elsewhere")
    page.wait_for_timeout(500)
    assert not page.locator(PREVIEW).is_visible()
    link.tap()
    page.wait_for_url("**/other.html#equation-eq-there")
    assert page.faults == []
    page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read(browser, site, scheme):
    page = new_page(browser, color_scheme=scheme, reduced_motion="reduce")
    shown = rests(open_at(page, site), "RLVR")
    style = shown.evaluate(
        "each => (({ animationName, color, backgroundColor }) => "
        "[animationName, color, backgroundColor])(getComputedStyle(each))"
    )
    lightness = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in style[1:]]
    assert style[0] == "none" and (lightness[0] > lightness[1]) == (scheme == "dark")
    faults = Axe().run(page, context=PREVIEW).response["violations"]
    assert [fault["id"] for fault in faults] == []
    page.context.close()


def test_it_moves_where_motion_is_welcome(browser, site):
    page = new_page(browser, reduced_motion="no-preference")
    shown = rests(open_at(page, site), "RLVR")
    assert shown.evaluate("each => getComputedStyle(each).animationName") == "preview"
    page.context.close()


# The book ---------------------------------------------------------------------------------


def parts(path):
    return json.loads(path.read_text(encoding="utf-8").split(" = ", 1)[1].rstrip(";\n"))


def test_whatever_can_be_shown_is_there_and_weighs_little(built_book):
    script = (ROOT / "book/_static/previews.js").read_text(encoding="utf-8")
    rule = re.compile(
        re.search(r"PREVIEWED = /(.*)/;", script)[1].replace(r"\/references", "references")
    )
    folder, kinds, missing = built_book / "_static" / "previews", set(), []
    made = {path.stem: parts(path) for path in folder.glob("*.js")}
    for name in CHAPTERS:
        text = (built_book / f"{name}.html").read_text(encoding="utf-8")
        article = text[text.index("<article") : text.index("</article>")]
        for link in re.findall(r'reference internal" href="([^"]*\.html#[^"]*)"', article):
            if kind := rule.search(link):
                kinds.add(kind[0])
                page, anchor = link.split(".html#")
                if not made.get(page, {}).get(anchor):
                    missing.append((name, link))
    assert kinds == {"references.html#", "#equation-", "#term-", "#erratum-"}
    assert missing == []
    assert max(path.stat().st_size for path in folder.glob("*.js")) < 30_000
