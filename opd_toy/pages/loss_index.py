"""The table of the page *Index: what real losses optimise*, with a filter above it.

It is plain HTML and works without a kernel.  A row has an anchor of its own, and the address
keeps what was filtered for, as ``#index=areal,nothing,drawn``.  Without scripts the whole table
is there.
"""

import base64
import gzip
import html
import json
import uuid
from pathlib import Path

from opd_toy.explorables.palette import css_variables
from opd_toy.pages.decide import as_html

HERE = Path(__file__).parent
ANY = "any"


class LossIndex:
    """``filters``: {key: (title, {value: words})}, the choices in the order in which they stand.

    ``head``: the titles of the columns.  ``rows``: dicts of ``anchor``, ``values`` {key: value},
    ``cells``, a text a column, and ``more``, {title: text}, which is folded.  Texts are inline
    Markdown; an empty one is left out of ``more``.  ``data`` can be had as JSON.
    """

    def __init__(self, filters, head, rows, data):
        self.filters, self.head, self.rows, self.data = filters, head, rows, data

    def _repr_html_(self):
        place = f"opd-index-{uuid.uuid4().hex[:8]}"
        form = "".join(_select(key, *choices) for key, choices in self.filters.items())
        head = "".join(f'<th scope="col">{title}</th>' for title in (*self.head, "more"))
        rows = "".join(_row(self.head, row) for row in self.rows)
        script = (HERE / "loss_index.js").read_text(encoding="utf-8")
        return (
            f'<style>{_style()}</style><div class="opd-index" id="{place}">'
            f'<form hidden aria-label="Which verdicts">{form}'
            '<button type="button">Show all</button><p aria-live="polite"></p></form>'
            f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
            f"<p>{_download(self.data)}</p></div>"
            f'<script type="module">{script}'
            f'mountIndex(document.getElementById("{place}"));</script>'
        )


def _select(key, title, choices):
    options = "".join(
        f'<option value="{html.escape(value)}">{html.escape(words)}</option>'
        for value, words in {ANY: "any", **choices}.items()
    )
    return f'<label>{html.escape(title)} <select data-key="{key}">{options}</select></label>'


def _row(head, row):
    values = "".join(f' data-{key}="{html.escape(v)}"' for key, v in row["values"].items())
    anchor, (first, *others) = html.escape(row["anchor"]), row["cells"]
    link = f'<a href="#{anchor}" aria-label="link to this verdict">#</a>'
    cells = "".join(
        f'<td data-title="{html.escape(title)}">{as_html(text)}</td>'
        for title, text in zip(head[1:], others)
    )
    more = "".join(
        f"<dt>{title}</dt><dd>{as_html(t)}</dd>" for title, t in row["more"].items() if t
    )
    folded = f"<td><details><summary>more</summary><dl>{more}</dl></details></td>"
    return (
        f'<tr id="{anchor}"{values}><th scope="row">{as_html(first)} {link}</th>'
        f"{cells}{folded}</tr>"
    )


def _download(data):
    """Packed, so that the page stays light."""
    text = json.dumps(data, indent=1, ensure_ascii=False)
    address = base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()
    return (
        '<a download="what-real-losses-optimise.json.gz" '
        f'href="data:application/gzip;base64,{address}">This table as JSON</a> (gzip)'
    )


def _style():
    light, dark = css_variables()
    css = (HERE / "loss_index.css").read_text(encoding="utf-8")
    return (
        f".opd-index{{{light}}}html[data-theme=dark] .opd-index,"
        f"body[data-jp-theme-light=false] .opd-index{{{dark}}}{css}"
    )
