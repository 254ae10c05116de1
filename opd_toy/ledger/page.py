"""The ledger as the book shows it."""

from itertools import groupby

from opd_toy.ledger.claims import CLAIMS
from opd_toy.ledger.evidence import figure

HEAD = "| claim | shown by | figure | where |\n|---|---|---|---|"


def rows():
    """(claim, figure) for every row, in the order of the page."""
    return [(claim, figure(claim)) for claim in CLAIMS]


def table():
    """Markdown: one table a chapter, every row with an anchor and a link to where it is shown."""
    texts = []
    for chapter, group in groupby(rows(), lambda row: row[0].chapter):
        heading = f"Chapter {chapter}" if chapter.isdigit() else chapter
        texts += [f"\n**{heading}**\n\n{HEAD}", *(_row(*row) for row in group)]
    return "\n".join(texts)


def _row(claim, figure):
    statement = f'<span id="{claim.id}"></span>{claim.statement}'
    return f"| {statement} | {', '.join(claim.shown_by)} | {figure} | {link(claim)} |"


def link(claim):
    """Markdown: a link to where a page shows the claim; the build adds an equation's number."""
    words = "eq." if "proof" in claim.shown_by else f"chapter\u00a0{claim.page[:2].lstrip('0')}"
    return f"[{words}]({claim.page}.md#{claim.label})"
