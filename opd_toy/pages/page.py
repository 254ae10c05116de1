"""What a chapter calls to put something on its page.

Each function returns an object that Jupyter and the built page both know how to show:
proofs and tables as Markdown (MyST in the page, so that equations are numbered and
can be referred to), exercises and figures as HTML that needs no kernel.
"""

import base64
import html
import json
import math
import os
import re
import uuid
from pathlib import Path

from opd_toy.pages.drawing import Style, draw_svg
from opd_toy.pages.numbers import plain

_EXERCISE = (Path(__file__).parents[1] / "explorables" / "exercise.js").read_text(encoding="utf-8")
BUILDING = "OPD_BUILDS_THE_BOOK"  # set by book/_extensions for the kernels of a build


class Markdown:
    def __init__(self, text):
        self.text = text

    def _repr_markdown_(self):
        return self.text


class Html:
    def __init__(self, text):
        self.text = text

    def _repr_html_(self):
        return self.text


def show(claim, *titles, folded=True):
    """The equation of a ledger claim, labelled ``eq-CLAIM``, and its checked steps, folded.

    With the ``titles`` of some of its chains, the equation has these alone; the steps are of all.
    ``folded=False``: the steps lie open, for the few proofs that a chapter stands on.
    The LaTeX is printed from the sympy objects that ``pytest opd_toy`` verifies.
    Raises KeyError, naming the near misses, if no derivation has that id.
    """
    from opd_toy.derivations import DERIVATIONS

    if claim not in DERIVATIONS:
        near = sorted(
            DERIVATIONS, key=lambda known: -len(set(known.split("-")) & set(claim.split("-")))
        )
        raise KeyError(f"claim must be the id of a derivation such as {near[:3]}, not {claim!r}")
    derivation = DERIVATIONS[claim]
    # JupyterLab would number each output's only equation (1): a label is for the built book.
    label = f" (eq-{claim})" if BUILDING in os.environ else ""
    equation = f"$$\n{derivation.latex_claim(*titles)}\n$${label}"
    title, steps = "Proof, step by step", derivation.markdown()
    opened = f":::{{admonition}} {title}\n:class: opd-proof\n{steps}\n:::"
    return Markdown(f"{equation}\n\n{_folded(title, steps) if folded else opened}")


def tabular(head, rows, align=None, fold=None):
    """A table of computed rows; ``align``: a letter a column, l or r (default: all l).

    Numbers that are no strings are written as they are; a | does not end a cell.  ``fold``: a
    title under which the table is folded away.
    """
    lines = {"l": "---", "r": "--:"}
    body = [head, [lines[side] for side in align or "l" * len(head)], *rows]
    table = "\n".join(f"| {' | '.join(map(_cell, cells))} |" for cells in body)
    return Markdown(_folded(fold, table) if fold else table)


def _cell(content):
    return re.sub(r"(?<!\\)\|", r"\|", str(content))


def _folded(title, text):
    return f":::{{dropdown}} {title}\n{text}\n:::"


def exercise(number, answer, *, choices=None, tolerance=None, digits=2, unit="", why=""):
    """A prediction that the page checks: a number, or one of ``choices``.

    ``number`` is the exercise's name ("3A").  A numeric ``answer`` counts as right within
    ``tolerance`` (default: half a unit of the last of ``digits`` decimals).  ``why`` is
    shown with the verdict, as plain text.  Raises ValueError for an answer that is no
    finite number, or is none of the choices.
    """
    if choices is None:
        if not math.isfinite(answer):
            raise ValueError(f"answer must be a finite number, not {answer!r}")
        tolerance = 0.5 * 10.0**-digits if tolerance is None else tolerance
        shown = plain(answer, digits) + (f" {unit}" if unit else "")
        kind, answer = "number", float(answer)
    elif answer in choices:
        kind, shown = "choice", answer
    else:
        raise ValueError(f"answer must be one of the choices {choices!r}, not {answer!r}")
    place = f"opd-exercise-{uuid.uuid4().hex[:8]}"
    options = {
        "kind": kind,
        "answer": answer,
        "shown": shown,
        "tolerance": tolerance,
        "why": why,
    }
    told = f"Without scripts: the answer is {shown}. {why}"
    return Html(
        f'<div class="opd-exercise" id="{place}"><form>{_inputs(number, place, choices, unit)}'
        '<button type="submit">Check</button>'
        '<button type="button" data-reveal hidden>Show the answer</button></form>'
        '<p aria-live="polite"></p>'
        f"<noscript><p>{html.escape(told)}</p></noscript></div>"
        f'<script type="module">{_EXERCISE}'
        f'mountExercise(document.getElementById("{place}"), {json.dumps(options)});</script>'
    )


def _inputs(number, place, choices, unit):
    if choices is None:
        suffix = f" ({html.escape(unit)})" if unit else ""
        return (
            f"<label>Your prediction for {html.escape(number)}{suffix}: "
            '<input type="text" inputmode="text" autocomplete="off" size="9"></label>'
        )
    radios = "".join(
        f'<label><input type="radio" name="{place}" value="{choice}">{choice}</label>'
        for choice in map(html.escape, choices)
    )
    legend = f"<legend>Your prediction for {html.escape(number)}</legend>"
    return f"<fieldset>{legend}{radios}</fieldset>"


def figure(draw, *, alt, caption=""):
    """A matplotlib figure on light and on dark paper.  ``draw(style) -> Figure``."""
    pictures = "".join(_picture(draw, paper, alt) for paper in ("light", "dark"))
    legend = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    return Html(f'{_FIGURE_STYLE}<figure class="opd-figure">{pictures}{legend}</figure>')


def _picture(draw, paper, alt):
    """The picture for one paper; the other paper's is never loaded, nor one far from the screen."""
    svg = draw_svg(draw, paper == "dark")
    width, height = (round(float(side) * 4 / 3) for side in _SIDES.search(svg).groups())
    source = f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"
    return (
        f'<img class="opd-{paper} dark-light" loading="lazy" width="{width}" height="{height}" '
        f'alt="{html.escape(alt)}" src="{source}">'
    )


_SIDES = re.compile(r'width="([\d.]+)pt" height="([\d.]+)pt"')


def plain_figures(*roles):
    """Matplotlib draws as the book does, on light paper, its lines in the colours of ``roles``."""
    import matplotlib.pyplot as plt

    style = Style()
    colours = plt.cycler(color=[style[role] for role in roles])
    plt.rcParams.update(style.parameters() | {"axes.prop_cycle": colours})


# Of its two pictures a figure shows the one for the page's paper; paper itself is light.
_FIGURE_STYLE = (
    "<style>.opd-figure{margin:1rem 0}.opd-figure img{max-width:100%;height:auto}"
    ".opd-figure .opd-dark,html[data-theme=dark] .opd-figure .opd-light,"
    "body[data-jp-theme-light=false] .opd-figure .opd-light{display:none}"
    "html[data-theme=dark] .opd-figure .opd-dark,"
    "body[data-jp-theme-light=false] .opd-figure .opd-dark{display:block}"
    "@media print{html[data-theme=dark] .opd-figure .opd-light{display:block}"
    "html[data-theme=dark] .opd-figure .opd-dark{display:none}}</style>"
)
