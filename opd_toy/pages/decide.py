"""The chart of the page *Decide*: questions, and the advice that fits the chosen answers.

It is plain HTML and works without a kernel.  The address keeps the answers, as
``#decide=logits,same,one,fresh,no``.  Without scripts only a sentence is shown, which points to
the tables of the same page.
"""

import html
import json
import os
import re
import uuid
from pathlib import Path

from opd_toy.explorables.palette import css_variables
from opd_toy.pages.page import BUILDING

HERE = Path(__file__).parent
PARTS = {"estimate": "How", "set": "In your library", "read": "Read"}


class Chart:
    """``questions``: [(key, asks, {answer: words})], whose first answers are given at first.

    ``ways``: dicts of ``when`` {key: answers}, ``kind``, ``follow``, the PARTS and ``folded``,
    {title: text} below what to set.  ``advice``: dicts of ``question``, ``title``, ``answer``,
    ``kinds`` and ``says``.  All texts are inline Markdown, but for ``follow``, which is plain.
    """

    def __init__(self, questions, ways, advice):
        self.questions, self.ways, self.advice = questions, ways, advice

    def _repr_html_(self):
        place = f"opd-decide-{uuid.uuid4().hex[:8]}"
        form = "".join(_question(place, *each) for each in self.questions)
        ways = "".join(map(_way, self.ways))
        advice = "".join(map(_advice, self.advice))
        script = (HERE / "decide.js").read_text(encoding="utf-8")
        return (
            f"<style>{_style()}</style>"
            "<noscript><p>Answering needs scripts. The tables below say the same.</p></noscript>"
            f'<div class="opd-decide" id="{place}" hidden>'
            f'<form aria-label="Your case">{form}</form>'
            f'<div class="opd-answer" role="group" aria-label="The answer"><p aria-live="polite">'
            f"</p><dl>{ways}{advice}</dl></div></div>"
            f'<script type="module">{script}'
            f'mountDecide(document.getElementById("{place}"));</script>'
        )


def _question(place, key, asks, choices):
    radios = "".join(
        f'<label><input type="radio" name="{place}-{key}" data-question="{key}" '
        f'value="{answer}"{" checked" if at == 0 else ""}>{html.escape(words)}</label>'
        for at, (answer, words) in enumerate(choices.items())
    )
    return f"<fieldset><legend>{html.escape(asks)}</legend>{radios}</fieldset>"


def _way(way):
    when = html.escape(json.dumps(way["when"]))
    rows = "".join(
        _row(title, way[part], way["folded"] if part == "set" else ())
        for part, title in PARTS.items()
    )
    follow = html.escape(way["follow"])
    return f'<div data-when="{when}" data-kind="{way["kind"]}" data-follow="{follow}">{rows}</div>'


def _advice(advice):
    kinds = html.escape(json.dumps(advice["kinds"]))
    return (
        f'<div data-question="{advice["question"]}" data-answer="{advice["answer"]}" '
        f'data-kinds="{kinds}">{_row(advice["title"], advice["says"])}</div>'
    )


def _row(title, text, folded=()):
    more = "".join(
        f"<details><summary>{html.escape(summary)}</summary>{as_html(below)}</details>"
        for summary, below in dict(folded).items()
    )
    return f"<dt>{title}</dt><dd>{as_html(text)}{more}</dd>"


def as_html(text):
    """Inline Markdown: code, links to pages of the book, line breaks."""
    text = html.escape(text, quote=False).replace("&lt;br&gt;", "<br>")
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", text)
    return re.sub(r"\[([^]]+)\]\(([^)]+)\)", lambda found: _link(*found.groups()), text)


def _link(words, address):
    if BUILDING in os.environ:
        address = re.sub(r"\.md(?=#|$)", ".html", address)
    return f'<a href="{html.escape(address)}">{words}</a>'


def _style():
    light, dark = css_variables()
    css = (HERE / "decide.css").read_text(encoding="utf-8")
    return (
        f".opd-decide{{{light}}}html[data-theme=dark] .opd-decide,"
        f"body[data-jp-theme-light=false] .opd-decide{{{dark}}}{css}"
    )
