"""The built book as files: every link leads somewhere, and the pages follow the contents."""

import re
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import pytest

from tests.test_pages import CHAPTERS, PAGES


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
    """The links of one page that lead to no page, no file or no id.

    A fragment with a "=" is a slider's state.
    """
    broken = []
    for link in anchors[page].links:
        parts = urlsplit(link)
        if parts.scheme in ("http", "https", "mailto", "data"):
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
