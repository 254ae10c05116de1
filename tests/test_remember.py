"""The tables that close the chapters, and the page that has them all."""

import re

import pytest

from opd_toy.pages.remember import remembered
from tests.conftest import ROOT
from tests.pages_run import run

BOOK = ROOT / "book"
TOC = (ROOT / "_toc.yml").read_text(encoding="utf-8")
# The opening and the numbered chapters, without their sections.
CHAPTERS = re.findall(r"^      - file: book/(\d\d-\S+)$", TOC, re.MULTILINE)


def test_every_chapter_closes_with_a_table_of_what_to_remember():
    assert [f"{name}.md" for name in CHAPTERS] == [file for file, *_ in remembered()]
    assert len(CHAPTERS) == 10
    for file, _, table in remembered():
        head, line, *rows = table.strip().split("\n")
        assert len(rows) == 4, file
        assert {row.count("|") for row in (head, line, *rows)} <= {3, 4}, file
        text = (BOOK / file).read_text(encoding="utf-8")
        assert "{eval}" not in table and text.index(table) < text.index("\n## Exercises")


def test_the_page_has_each_table_below_a_link_to_its_chapter():
    text, shown, _ = run("one-page.md")
    places = [text.index(f"]({file})**\n\n{table}") for file, _, table in remembered()]
    assert places == sorted(places) and len(places) == len(CHAPTERS)
    for file, title, _ in remembered():
        number = file.split("-")[0].lstrip("0")
        assert f"\n**[{f'{number}. ' * bool(number)}{title}]({file})**\n" in text
    assert len(shown) == 2  # the picture, and the tables


def test_a_chapter_without_its_table_is_missed(tmp_path):
    (tmp_path / "01-one.md").write_text(
        "# One\n\n## After a week\n\n| a | b |\n|---|---|\n| 1 | 2 |\n"
    )
    (tmp_path / "02-two.md").write_text("# Two\n\n## After a while\n\n| a | b |\n|---|---|\n")
    assert remembered(tmp_path) == [("01-one.md", "One", "| a | b |\n|---|---|\n| 1 | 2 |\n")]


@pytest.mark.parametrize("page", ["index.md", "symptoms.md"])
def test_readers_are_led_there(page):
    assert "](one-page.md)" in (BOOK / page).read_text(encoding="utf-8")


def test_it_prints_on_two_sheets(page, built_book):
    page.goto((built_book / "book" / "one-page.html").as_uri())
    sheets = page.pdf(format="A4")
    assert len(re.findall(rb"/Type\s*/Page\b", sheets)) == 2
