"""The page that leads from the notes to the book: its errata, and where its links lead."""

import re

import pytest

from tests.conftest import ROOT

BOOK = ROOT / "book"
NAME = "from-the-notes.md"
PAGE = (BOOK / NAME).read_text(encoding="utf-8")
TABLES, ERRATA = PAGE.split("(sec-errata)=")
ROWS = re.findall(r"^\| (?!in the notes|---)(.*?) *\| *(.*?) *\| *(.*?) \|$", TABLES, re.MULTILINE)
ENTRY = re.compile(r"^\(erratum-(\d+)\)=\n\*\*Erratum (\d+): [^\n]*?\.\*\* ([^\n]+)$", re.MULTILINE)
ENTRIES = {int(number): (title, text) for number, title, text in ENTRY.findall(ERRATA)}
NO_NUMBER = {2}  # a name
LINK = re.compile(r"\[([^]]*)\]\(([\w-]*\.md)?(?:#([\w-]+))?\)")


def labels(page):
    """What a page can be linked at: its targets, and the equations that it shows."""
    text = (BOOK / page).read_text(encoding="utf-8")
    shown = re.findall(r'show\("([\w-]+)"[,)]', text)
    shown += re.findall(r"^\$\$ \(eq-(.*?)\)$", text, re.MULTILINE)
    cited = re.findall(r"^@\w+\{(\w+),", (BOOK / "references.bib").read_text("utf-8"), re.M)
    targets = re.findall(r"^\(([\w-]+)\)=$", text, re.MULTILINE)
    return {*targets, *(f"eq-{claim}" for claim in shown), *(cited if "references" in page else [])}


def leads_nowhere(text):
    """The links of a piece of the page that lead to no page or no label."""
    return [
        link
        for link, page, label in (
            (match.group(), match[2] or NAME, match[3]) for match in LINK.finditer(text)
        )
        if not (BOOK / page).is_file() or (label and label not in labels(page))
    ]


def test_errata_are_numbered_in_order_without_gaps():
    assert list(ENTRIES) == list(range(1, len(ENTRIES) + 1)) and len(ENTRIES) > 20
    assert all(int(title) == number for number, (title, _) in ENTRIES.items())
    assert len(re.findall(r"\*\*Erratum|^\(erratum-", ERRATA, re.MULTILINE)) == 2 * len(ENTRIES)


@pytest.mark.parametrize("number", ENTRIES)
def test_an_erratum_has_its_number_and_its_place(number):
    text = ENTRIES[number][1]
    assert ("{eval}`" in text) == (number not in NO_NUMBER)
    places = {page for _, page, _ in LINK.findall(text) if page} - {"references.md"}
    assert places
    there = "".join((BOOK / page).read_text(encoding="utf-8") for page in places)
    assert f"{NAME}#erratum-{number})" in there  # and the chapter leads back


def test_errata_stand_in_the_order_of_the_notes():
    """Each is first named in the tables after the ones before it."""
    named = [int(number) for number in re.findall(r"\(#erratum-(\d+)\)", TABLES)]
    assert sorted(set(named)) == list(ENTRIES)
    first = [named.index(number) for number in ENTRIES]
    late = [number for number in ENTRIES if first[number - 1] < max(first[:number])]
    assert late == []


@pytest.mark.parametrize("row", ROWS, ids=[row[0][:30] for row in ROWS])
def test_a_section_leads_to_its_place_or_has_a_reason(row):
    section, place, became = row
    assert re.match(r"(the use of two words |the name |a name |one word )?\w", became)
    verdict = re.search(r"\b(kept|extended|corrected|left out: \w+)", became)
    assert verdict and ("left out" in became) == (place == "")
    assert place == "" or LINK.search(place)
    assert leads_nowhere(f"{place} {became}") == []


def test_every_section_of_the_six_parts_has_a_row():
    parts = re.split(r"^### Part \d\. ", TABLES, flags=re.MULTILINE)[1:]
    counted = [len(re.findall(r"^\| (?!in the notes|---)", part, re.MULTILINE)) for part in parts]
    assert counted == [7, 5, 17, 9, 12, 18] and sum(counted) == len(ROWS)


def test_every_link_of_the_errata_leads_somewhere():
    assert leads_nowhere(ERRATA) == []
    assert leads_nowhere("[a](05-none.md) [b](#erratum-99) [c](index.md)") == [
        "[a](05-none.md)",
        "[b](#erratum-99)",
    ]


@pytest.mark.parametrize("page", sorted(path.name for path in BOOK.glob("*.md")))
def test_chapters_name_an_erratum_by_its_link(page):
    text = (BOOK / page).read_text(encoding="utf-8")
    links = re.findall(r"\[(?:erratum |errata |†)(\d+)\]\((?:[\w-]+\.md)?#erratum-(\d+)\)", text)
    assert page == NAME or len(links) == text.count("#erratum-")
    assert all(said == meant and int(meant) in ENTRIES for said, meant in links)
    if page != NAME:
        rest = re.sub(r"\[†\d+\]\([^)]*\)", "", text)
        assert not re.search(r"(?:\b(?:erratum|errata) |†)\d", rest, re.IGNORECASE)


def test_the_front_page_leads_to_the_errata():
    front = (BOOK / "index.md").read_text(encoding="utf-8")
    assert "is a numbered erratum, marked † in the chapters. All of them are on one page" in front
    assert f"]({NAME})" in front and "book/from-the-notes" in (ROOT / "_toc.yml").read_text("utf-8")


def test_chapter_1_says_whose_names_they_are():
    chapter = (BOOK / "01-from-sft-to-opd.md").read_text(encoding="utf-8")
    word_level = "*word-level* distillation has soft labels, on the training data"
    on_policy_kd = "is the forward KL on the student's text, the upper right of the four cells"
    for name, said in (("kim2016", word_level), ("agarwal2024", on_policy_kd)):
        assert said in chapter and f"](references.md#{name})" in chapter
    works = (BOOK / "references.bib").read_text(encoding="utf-8")
    assert "](references.md#zhao2026)" in chapter and "{2605.16826}" in works
