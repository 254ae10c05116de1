"""The built book, read in Chromium from disk with the network refused.

Every check runs on every page, those of the table of contents and the search.
"""

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml

from tests.conftest import ROOT, new_page

KILOBYTE = 1000
HEAVIEST = 400 * KILOBYTE
PHONE = {"width": 360, "height": 740}
COLOUR_RULES = ["color-contrast", "link-in-text-block"]  # of axe; those of level AAA left out

# A letter of a formula's colours in its place: MathJax draws with up to 20,000 elements a page that
# hold no text, so that axe looks at each of them and reads none.
LETTERS_FOR_FORMULAS = """() => {
    for (const formula of document.querySelectorAll("mjx-container")) {
        const colours = [...formula.querySelectorAll("[style*='color']")].map(x => x.style.color);
        formula.replaceChildren(...["", ...colours].map(color => {
            const letter = document.createElement("span");
            letter.style.color = color;
            letter.textContent = "x";
            return letter;
        }));
    }
}"""

# Colours follow from an element's attributes and those that it lies in: of texts that agree in all
# of these axe is shown the first four, for stripes, and the last.
FEW_OF_EACH_KIND = """() => {
    const colourless = /^(id|href|title|aria-label|data-(library|estimator|objective))$/;
    const own = ({ name, value }) => colourless.test(name) ? "" : name + value;
    const kinds = new Map([[document.body, "body"]]);
    const kind = element => {
        if (!kinds.has(element)) {
            const attributes = [...element.attributes].map(own).sort().join();
            kinds.set(element, `${kind(element.parentElement)}/${element.tagName}${attributes}`);
        }
        return kinds.get(element);
    };
    const found = new Map();
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const { data, parentElement } = walker.currentNode;
        if (!data.trim()) continue;
        const key = kind(parentElement);
        found.set(key, [...(found.get(key) ?? []), walker.currentNode]);
    }
    for (const texts of found.values()) for (const text of texts.slice(4, -1)) text.data = "";
    return found.size;
}"""


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


@pytest.fixture(scope="module")
def without_scripts(browser):
    page = new_page(browser, java_script_enabled=False)
    yield page
    page.context.close()


def settle(page):
    """Wait until MathJax, the fonts and the page's own scripts have come to rest."""
    page.wait_for_load_state("load")
    page.evaluate("() => window.MathJax?.startup?.promise")
    page.evaluate("() => document.fonts.ready.then(() => true)")
    page.wait_for_timeout(100)


def rest(page):
    """Wait until what moves has arrived: a drawing after two frames, a transition at its end."""
    page.evaluate("""async () => {
        const frame = () => new Promise(requestAnimationFrame);
        await frame();
        await frame();
        const ends = animation => Number.isFinite(animation.effect.getComputedTiming().endTime);
        const passing = document.getAnimations().filter(ends);
        await Promise.allSettled(passing.map(animation => animation.finished));
        await frame();
    }""")


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
    foreign = opened.evaluate("""() => [...document.querySelectorAll("[src], link[href]")]
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
        const main = document.querySelector("main");
        const walker = document.createTreeWalker(main, NodeFilter.SHOW_TEXT);
        const set = "pre, code, script, style, mjx-container, noscript";
        const source = /\\\(|\\\[|\$\$|\\frac|\\log|\{eq\}|\{ref\}/;
        const raw = [];
        while (walker.nextNode()) {
            const { parentElement, data } = walker.currentNode;
            if (!parentElement.closest(set) && source.test(data))
                raw.push(data.trim().slice(0, 80));
        }
        return {
            count: places.length,
            unset: places.filter(place => !place.querySelector("mjx-container")).map(text),
            wrong: [...document.querySelectorAll("mjx-merror, [data-mjx-error]")]
                .map(place => place.dataset.mjxError || text(place)),
            unknown: [...document.querySelectorAll('mjx-container [style*="color: red"]')]
                .map(text),
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
        .filter(image => image.getAttribute("role") !== "presentation")
        .filter(image => !(image.getAttribute("alt") || "").trim())
        .map(image => image.src.slice(0, 100))""")
    assert bare == []


def test_nothing_was_left_unexecuted(opened):
    """No traceback, no warning and no bare object where an output should be."""
    wrong = opened.evaluate(r"""() => [...document.querySelectorAll(".cell_output")]
        .map(output => output.textContent.trim())
        .filter(text => /Traceback \(most recent|^<[\w.]+ (object )?at 0x|^<IPython/.test(text))""")
    assert wrong == []


def test_is_whole_without_scripts(opened, without_scripts, built_book):
    without_scripts.refused.clear()
    without_scripts.goto((built_book / f"{opened.name}.html").as_uri())
    assert without_scripts.locator("main h1:visible").count() == 1
    assert without_scripts.refused == []


def test_fits_a_phone(opened):
    opened.set_viewport_size(PHONE)
    rest(opened)
    wide = opened.evaluate("""() => {
        const width = document.documentElement.clientWidth;
        if (document.documentElement.scrollWidth <= width) return [];
        const right = element => Math.round(element.getBoundingClientRect().right);
        return [...document.querySelectorAll("main *")]
            .filter(element => element.getBoundingClientRect().right > width + 0.5)
            .map(element => `${element.tagName}.${element.className} ${right(element)}`)
            .slice(-8).concat(`page ${document.documentElement.scrollWidth} in ${width}`);
    }""")
    opened.set_viewport_size({"width": 1280, "height": 900})
    assert wide == []


def test_is_accessible(opened):
    """Those of axe's rules that are of colour in light and dark, the others once.

    They see the same in both, for what a screen reader is told is the same.
    """
    show(opened, "light")
    others = {rule: {"enabled": False} for rule in COLOUR_RULES}
    assert serious_faults(opened, rules=others) == []
    opened.evaluate(LETTERS_FOR_FORMULAS)
    assert opened.evaluate(FEW_OF_EACH_KIND) > 10
    told = opened.locator("body").aria_snapshot()
    assert serious_faults(opened, runOnly=COLOUR_RULES) == []
    show(opened, "dark")
    assert opened.locator("body").aria_snapshot() == told
    assert serious_faults(opened, runOnly=COLOUR_RULES) == []


def show(page, scheme):
    page.emulate_media(color_scheme=scheme)
    page.wait_for_function(
        "scheme => document.documentElement.dataset.theme === scheme", arg=scheme
    )
    rest(page)


def serious_faults(page, **options):
    """What axe finds that keeps readers out: rule, impact, where, and how to mend it."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page, options={"resultTypes": ["violations"], **options}).response
    return [
        {
            "rule": fault["id"],
            "impact": fault["impact"],
            "where": [node["target"] for node in fault["nodes"]][:5],
            "mend": fault["nodes"][0]["failureSummary"][:300],
        }
        for fault in found["violations"]
        if fault["impact"] in ("serious", "critical")
    ]


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
