"""What to remember of each chapter, from the chapters themselves: the book on one page."""

import re

from opd_toy.pages.page import Markdown
from opd_toy.records.provenance import ROOT

TITLE = re.compile(r"^# (.+)$", re.MULTILINE)
TABLE = re.compile(r"^## After a week\n+((?:\|.*\n)+)", re.MULTILINE)


def remembered(book=ROOT / "book"):
    """[(file, title, table)] of the pages that close with a table, in the order of the chapters."""
    found = []
    for path in sorted(book.glob("[0-9]*.md")):
        text = path.read_text(encoding="utf-8")
        found += [(path.name, TITLE.search(text)[1], table) for table in TABLE.findall(text)]
    return found


def all_tables(book=ROOT / "book"):
    """These tables, each below a link to its chapter."""
    parts = []
    for file, title, table in remembered(book):
        number = int(file[:2])
        name = f"{number}. {title}" if number else title
        parts.append(f"**[{name}]({file})**\n\n{table}")
    return Markdown("\n".join(parts))
