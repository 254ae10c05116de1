"""The book as one PDF: links lead inside, nothing tells an answer early, Chromium prints it."""

import re
import sys

import pytest
from bs4 import BeautifulSoup

from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "book" / "_extensions"))
import one_pdf


@pytest.fixture(scope="module")
def whole(built_book):
    return BeautifulSoup(one_pdf.one_document(built_book), "html.parser")


def test_every_page_is_in_it_once(whole, built_book):
    names = {path.stem for path in (built_book / "book").glob("*.html")}
    articles = [article["id"].removesuffix("--") for article in whole.select("article")]
    assert articles[0] == "index" and set(articles) == names and len(articles) == len(names)


def test_links_between_pages_lead_inside(whole):
    ids = [part["id"] for part in whole.select("[id]")]
    inside = {a["href"][1:] for a in whole.select("article a[href^='#']")}
    assert len(inside) > 100 and inside <= set(ids)
    assert len(ids) == len(set(ids))
    assert not whole.select("article a[href^='file:']")


def test_sliders_are_stills_and_answers_stand_at_the_end(whole, built_book):
    assert len(whole.select("article img.opd-fallback")) >= len(whole.select(".opd-host")) > 10
    assert not whole.select("article script, article noscript, article button")
    assert not whole.select("article details:not([open])")
    for article in whole.select("article"):
        page = built_book / "book" / f"{article['id'].removesuffix('--')}.html"
        exercises = page.read_text(encoding="utf-8").count('<div class="opd-exercise"')
        before, _, after = article.get_text().partition("Answers to the exercises")
        assert "Without scripts" not in before
        assert not article.select("details > summary:-soup-contains-own('Solution')")
        assert len(re.findall(r"\b\d+[A-Z]\. the answer is", after)) == exercises, page.name


def test_a_solution_stays_with_its_exercise():
    """The first exercise has none, nor has the last; neither is given that of the second."""
    exercise = (
        '<div class="opd-exercise"><label>Your prediction for {0}: </label>'
        "<noscript><p>Without scripts: the answer is {0}.</p></noscript></div>"
    )
    fold = '<details class="opd-folded"><summary>Solution</summary><p>why 2</p></details>'
    parts = exercise.format(1), exercise.format(2), fold, exercise.format(3)
    soup = BeautifulSoup(f"<article>{''.join(parts)}</article>", "html.parser")
    one_pdf.to_the_end(soup, soup.article)
    assert soup.article.get_text(" ", strip=True) == (
        "Answers to the exercises 1. the answer is 1. 2. the answer is 2. why 2 3. the answer is 3."
    )


def test_chromium_prints_it(built_book, browser, tmp_path, monkeypatch):
    """Two pages of it: the whole takes a minute."""
    two = [one_pdf.FRONT, "book/notation.html"]
    monkeypatch.setattr(one_pdf, "pages", lambda site: two)
    text = one_pdf.one_document(built_book)
    data = one_pdf.printed(browser, text, tmp_path)
    assert data.startswith(b"%PDF") and b"/Outlines" in data and b"/Dest" in data


def test_it_is_made_of_the_built_book():
    assert one_pdf.SITE == ROOT / "_build" / "html"


def test_without_a_book_it_says_what_to_do(tmp_path):
    (tmp_path / "html").mkdir()
    with pytest.raises(SystemExit, match="run `make book`"):
        one_pdf.make(tmp_path / "html")
