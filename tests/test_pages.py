"""The built book, read in Chromium from disk with the network refused.

Every check runs on every page, those of the table of contents and the search.
"""

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml

from tests.conftest import ROOT, new_page

KILOBYTE = 1000
HEAVIEST = 400 * KILOBYTE
PHONE = {"width": 360, "height": 740}


def chapters():
    """The pages of the table of contents, in reading order."""
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    entries = [
        page
        for part in contents["parts"]
        for entry in part["chapters"]
        for page in (entry, *entry.get("sections", []))
    ]
    return [contents["root"]] + [entry["file"] for entry in entries]


CHAPTERS = chapters()
PAGES = CHAPTERS + ["search"]


@pytest.fixture(scope="module", params=PAGES)
def opened(request, browser, built_book):
    """A page, loaded once for all its checks, its mathematics set."""
    page = new_page(browser)
    page.name = request.param
    page.goto((built_book / f"{request.param}.html").as_uri())
    settle(page)
    yield page
    page.context.close()


def settle(page):
    """Wait until MathJax, the fonts and the page's own scripts have come to rest."""
    page.wait_for_load_state("load")
    page.evaluate("() => window.MathJax?.startup?.promise")
    page.evaluate("() => document.fonts.ready.then(() => true)")
    page.wait_for_timeout(100)


def size_on_disk(addresses):
    """Bytes of each file asked for, by path."""
    paths = {
        unquote(urlsplit(address).path) for address in addresses if address.startswith("file:")
    }
    return {path: Path(path).stat().st_size for path in paths if Path(path).is_file()}


# Each page ---------------------------------------------------------------------------


def test_asks_nothing_of_the_network(opened):
    assert opened.refused == []


def test_runs_without_errors(opened):
    assert opened.faults == []


def test_loads_no_foreign_script_or_style(opened):
    foreign = opened.evaluate("""() => [...document.querySelectorAll("script[src], link[href], img[src], iframe[src]")]
        .map(element => element.src || element.href)
        .filter(address => !/^(file|data|blob):/.test(address))""")
    assert foreign == []


def test_every_file_it_asks_for_exists(opened):
    missing = [
        path
        for path in map(unquote, (urlsplit(a).path for a in opened.asked if a.startswith("file:")))
        if not Path(path).is_file()
    ]
    assert missing == []


def test_weighs_little(opened):
    sizes = size_on_disk(opened.asked)
    assert any(path.endswith(".css") for path in sizes), (
        "no style sheet was counted: the measure is broken"
    )
    counted = {path: size for path, size in sizes.items() if "/_static/mathjax/" not in path}
    heaviest = sorted(counted.items(), key=lambda item: -item[1])[:6]
    assert sum(counted.values()) <= HEAVIEST, heaviest


def test_mathematics_is_set(opened):
    state = opened.evaluate(r"""() => {
        const places = [...document.querySelectorAll("span.math, div.math")];
        const text = element => element.textContent.trim().slice(0, 80);
        const walker = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
        const raw = [];
        while (walker.nextNode()) {
            const node = walker.currentNode;
            if (!node.parentElement.closest("pre, code, script, style, mjx-container, noscript")
                && /\\\(|\\\[|\$\$|\\frac|\\log|\{eq\}|\{ref\}/.test(node.data)) raw.push(node.data.trim().slice(0, 80));
        }
        return {
            count: places.length,
            unset: places.filter(place => !place.querySelector("mjx-container")).map(text),
            wrong: [...document.querySelectorAll("mjx-merror, [data-mjx-error]")].map(e => e.dataset.mjxError || text(e)),
            unknown: [...document.querySelectorAll('mjx-container [style*="color: red"]')].map(text),
            raw,
        };
    }""")
    assert {**state, "count": None} == {
        "count": None,
        "unset": [],
        "wrong": [],
        "unknown": [],
        "raw": [],
    }
    if re.search(r"/\d\d-", opened.name):
        assert state["count"] > 0, "a chapter without mathematics: the measure is broken"


def test_pictures_have_words(opened):
    bare = opened.evaluate("""() => [...document.querySelectorAll("main img")]
        .filter(image => !(image.getAttribute("alt") || "").trim() && image.getAttribute("role") !== "presentation")
        .map(image => image.src.slice(0, 100))""")
    assert bare == []


def test_nothing_was_left_unexecuted(opened):
    """No traceback, no warning and no bare object where an output should be."""
    wrong = opened.evaluate(r"""() => [...document.querySelectorAll(".cell_output")]
        .map(output => output.textContent.trim())
        .filter(text => /Traceback \(most recent|^<[\w.]+ (object )?at 0x|^<IPython/.test(text))""")
    assert wrong == []


def test_is_whole_without_scripts(opened, browser, built_book):
    page = new_page(browser, java_script_enabled=False)
    page.goto((built_book / f"{opened.name}.html").as_uri())
    assert page.locator("main h1:visible").count() == 1
    assert page.refused == []
    page.context.close()


def test_fits_a_phone(opened):
    opened.set_viewport_size(PHONE)
    opened.wait_for_timeout(400)
    wide = opened.evaluate("""() => {
        const width = document.documentElement.clientWidth;
        if (document.documentElement.scrollWidth <= width) return [];
        return [...document.querySelectorAll("main *")]
            .filter(element => element.getBoundingClientRect().right > width + 0.5)
            .map(element => `${element.tagName}.${element.className} ${Math.round(element.getBoundingClientRect().right)}`)
            .slice(-8).concat(`page ${document.documentElement.scrollWidth} in ${width}`);
    }""")
    opened.set_viewport_size({"width": 1280, "height": 900})
    assert wide == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_is_accessible(opened, scheme):
    from axe_playwright_python.sync_playwright import Axe

    opened.emulate_media(color_scheme=scheme)
    opened.wait_for_function(
        "scheme => document.documentElement.dataset.theme === scheme", arg=scheme
    )
    opened.wait_for_timeout(400)  # colours pass over
    found = Axe().run(opened, options={"resultTypes": ["violations"]}).response["violations"]
    assert [
        (
            fault["id"],
            fault["impact"],
            [node["target"] for node in fault["nodes"]][:5],
            fault["nodes"][0]["failureSummary"][:300],
        )
        for fault in found
        if fault["impact"] in ("serious", "critical")
    ] == []


# Links -------------------------------------------------------------------------------


class Anchors(HTMLParser):
    """The ids of a page, and where its links point."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.links = set(), []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.ids.update(attributes[key] for key in ("id", "name") if attributes.get(key))
        if tag == "a" and attributes.get("href"):
            self.links.append(attributes["href"])


@pytest.fixture(scope="module")
def anchors(built_book):
    return {
        path.resolve(): Anchors(path.read_text(encoding="utf-8"))
        for path in built_book.rglob("*.html")
    }


def broken_links(page, anchors):
    """The links of one page that lead to no page, no file or no id. A fragment with a "=" is a slider's state."""
    broken = []
    for link in anchors[page].links:
        parts = urlsplit(link)
        if parts.scheme in ("http", "https", "mailto"):
            continue
        target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
        fragment = unquote(parts.fragment)
        if not target.is_file() or (
            fragment
            and "=" not in fragment
            and target in anchors
            and fragment not in anchors[target].ids
        ):
            broken.append(link)
    return broken


@pytest.mark.parametrize("name", PAGES + ["index"])
def test_links_lead_somewhere(name, built_book, anchors):
    page = (built_book / f"{name}.html").resolve()
    assert anchors[page].links or name == "index"
    assert broken_links(page, anchors) == []


def test_no_page_is_left_untested(anchors, built_book):
    names = {path.relative_to(built_book.resolve()).with_suffix("").as_posix() for path in anchors}
    assert names == set(PAGES) | {"index"}


@pytest.mark.parametrize("at", range(len(CHAPTERS)), ids=CHAPTERS)
def test_previous_and_next_follow_the_contents(at, built_book, anchors):
    page = (built_book / f"{CHAPTERS[at]}.html").resolve()
    text = page.read_text(encoding="utf-8")
    for side, other in (("left-prev", at - 1), ("right-next", at + 1)):
        found = re.findall(rf'<a class="{side}"\s+href="([^"]+)"', text)
        if 0 <= other < len(CHAPTERS):
            assert [(page.parent / link).resolve() for link in found] == [
                (built_book / f"{CHAPTERS[other]}.html").resolve()
            ]
        else:
            assert found == []


# The whole ---------------------------------------------------------------------------


def test_index_leads_to_the_front_page(page, built_book):
    page.goto((built_book / "index.html").as_uri())
    page.wait_for_url("**/book/index.html")
    assert page.locator("main h1:visible").count() == 1
    assert page.refused == [] and page.faults == []


def test_search_finds_a_term_by_keyboard(page, built_book):
    page.goto((built_book / "book/index.html").as_uri())
    settle(page)
    page.keyboard.press("Control+k")
    page.keyboard.type("reverse")
    page.keyboard.press("Enter")
    page.wait_for_url("**/search.html?q=reverse")
    first = page.locator("#search-results ul.search li a").first
    first.wait_for()
    first.click()
    page.wait_for_url(re.compile(r"/book/[^/]+\.html"))
    assert "reverse" in page.locator("main").inner_text().lower()
    assert page.refused == [] and page.faults == []


def test_search_says_when_it_finds_nothing(page, built_book):
    page.goto((built_book / "search.html").as_uri() + "?q=zyzzyva")
    page.get_by_text("did not match any documents").wait_for()


def test_colours_follow_the_system_and_the_button(browser, built_book):
    page = new_page(browser, color_scheme="dark")
    page.goto((built_book / "book/index.html").as_uri())
    settle(page)
    theme = "() => document.documentElement.dataset.theme"
    paper = "() => getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(theme) == "dark"
    dark = page.evaluate(paper)
    page.emulate_media(color_scheme="light")
    page.wait_for_function("document.documentElement.dataset.theme === 'light'")
    assert page.evaluate(paper) != dark
    seen = set()
    for _ in range(3):
        page.locator("button.theme-switch-button:visible").click()
        seen.add(
            (page.evaluate("() => document.documentElement.dataset.mode"), page.evaluate(theme))
        )
    assert seen == {("light", "light"), ("dark", "dark"), ("auto", "light")}
    page.context.close()


def test_buttons_show_their_icons(page, built_book):
    """The icon font was cut down: what the buttons ask for must still be in it."""
    page.goto((built_book / f"{CHAPTERS[2]}.html").as_uri())
    settle(page)
    blank = page.evaluate("""() => {
        const canvas = document.createElement("canvas").getContext("2d");
        const ink = (sign, font) => {
            canvas.clearRect(0, 0, 60, 60);
            canvas.font = font;
            canvas.fillText(sign, 10, 40);
            return [...canvas.getImageData(0, 0, 60, 60).data].join();
        };
        return [...document.querySelectorAll(".fa-solid, .fas")].map(icon => {
            const style = getComputedStyle(icon, "::before");
            const sign = style.content.replaceAll('"', "");
            const font = `${style.fontWeight} 30px ${style.fontFamily}`;
            return { icon: icon.className, sign, same: ink(sign, font) === ink("\\ue123", font) };
        }).filter(found => !found.sign || found.sign === "none" || found.same);
    }""")
    assert blank == []
    assert page.locator(".fa-solid").count() > 0


def test_code_can_be_copied(browser, built_book):
    page = new_page(browser)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto((built_book / "book/03-logit-gradients.html").as_uri())
    settle(page)
    block = page.locator("div.highlight:visible").first
    block.hover()
    block.get_by_role("button", name="Copy").click()
    block.get_by_role("button", name="Copied").wait_for()
    assert (
        page.evaluate("() => navigator.clipboard.readText()") == block.locator("pre").text_content()
    )
    page.context.close()


def test_menu_opens_on_a_phone(browser, built_book):
    page = new_page(browser, viewport=PHONE, has_touch=True)
    page.goto((built_book / "book/index.html").as_uri())
    settle(page)
    entry = page.locator(f'.bd-docs-nav a[href="{CHAPTERS[1].removeprefix("book/")}.html"]').first
    assert not entry.is_visible()
    page.locator("button.primary-toggle:visible").first.tap()
    entry.wait_for(state="visible")
    entry.tap()
    page.wait_for_url(f"**/{CHAPTERS[1]}.html")
    assert page.faults == []
    page.context.close()


def test_print_opens_what_is_folded_and_drops_the_menus(page, built_book):
    chapter = next(
        name
        for name in CHAPTERS
        if '<details class="opd-folded"'
        in (built_book / f"{name}.html").read_text(encoding="utf-8")
    )
    page.goto((built_book / f"{chapter}.html").as_uri())
    settle(page)
    inside = page.locator("main article details > :not(summary)").first
    assert not inside.is_visible()
    page.emulate_media(media="print")
    assert inside.is_visible()
    assert inside.bounding_box()["height"] > 5
    for menu in (
        ".bd-sidebar-primary",
        ".bd-sidebar-secondary",
        ".bd-header-article",
        ".prev-next-footer",
    ):
        assert not page.locator(menu).first.is_visible()
    assert page.locator("main h1").first.is_visible()
    assert page.pdf().startswith(b"%PDF")


@pytest.mark.parametrize(
    "text, kept",
    [
        (".used{a:b}.unused{a:b}", ".used{a:b}"),
        (".used .unused,.used:hover{a:b}", ".used:hover{a:b}"),
        ("#unused{a:b}#used{a:b}", "#used{a:b}"),
        (".used:not(.unused){a:b}", ".used:not(.unused){a:b}"),
        ("@media print{.unused{a:b}.used{a:b}}", "@media print{.used{a:b}}"),
        ("@media print{.unused{a:b}}", ""),
        ("p{a:b}", "p{a:b}"),
        ("@font-face{src:url(x)}", "@font-face{src:url(x)}"),
    ],
)
def test_only_unused_rules_are_dropped(built_book, text, kept):
    import whole_pages

    assert whole_pages.keep_used_rules(text, {"used"}) == kept


def test_only_unread_variables_are_dropped(built_book):
    import whole_pages

    sheets = {
        "one": "a{--kept:url('x;y');--chain:var(--link);--unread:calc(1px*(2 + 3));b:var(--kept)}",
        "two": "a{--link:1;--scripted:2}",
    }
    assert whole_pages.keep_used_variables(sheets, 'setProperty("--scripted", 1)') == {
        "one": "a{--kept:url('x;y');b:var(--kept)}",
        "two": "a{--scripted:2}",
    }
