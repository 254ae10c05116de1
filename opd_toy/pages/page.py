"""What a chapter calls to put something on its page.

Each function returns an object that Jupyter and the built page both know how to show:
proofs and sentences as Markdown (MyST in the page, so that equations are numbered and
can be referred to), exercises and figures as HTML that needs no kernel.
"""

import base64
import html
import io
import json
import math
import re
import uuid
from pathlib import Path

from opd_toy.explorables.palette import PAPER, ROLES

_EXERCISE = (Path(__file__).parents[1] / "explorables" / "exercise.js").read_text(encoding="utf-8")


class _Markdown:
    def __init__(self, text):
        self.text = text

    def _repr_markdown_(self):
        return self.text


class _Html:
    def __init__(self, text):
        self.text = text

    def _repr_html_(self):
        return self.text


def say(text):
    """A piece of MyST Markdown, usually an f-string with numbers the page computed."""
    return _Markdown(_proper_minus(text))


def solution(text, title="Solution"):
    """Markdown folded away until the reader asks for it."""
    return _folded(title, _proper_minus(text))


def show(claim):
    """The equation of a ledger claim, labelled ``eq-CLAIM``, and its checked steps, folded.

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
    equation = f"$$\n{derivation.latex_claim()}\n$$ (eq-{claim})"
    return _Markdown(equation + "\n\n" + _folded("Proof, step by step", derivation.markdown()).text)


def _folded(title, text):
    return _Markdown(
        f'<details class="opd-folded"><summary>{html.escape(title)}</summary>\n\n{text}\n\n</details>'
    )


def _proper_minus(text):
    """Typographic minus before digits in prose; mathematics and code keep their own."""
    parts = re.split(r"(\$\$.*?\$\$|\$[^$]*\$|`[^`]*`|\]\([^)]*\)|<[^>]*>)", text, flags=re.DOTALL)
    return "".join(
        part if index % 2 else re.sub(r"(?<![\w.\-])-(?=\.?\d)", "\N{MINUS SIGN}", part)
        for index, part in enumerate(parts)
    )


def exercise(number, answer, *, choices=None, tolerance=None, digits=2, unit="", why=""):
    """A prediction that the page checks: a number, or one of ``choices``.

    ``number`` is the exercise's name ("3.1").  A numeric ``answer`` counts as right within
    ``tolerance`` (default: half a unit of the last of ``digits`` decimals).  ``why`` is
    shown with the verdict, as plain text.  Raises ValueError for an answer that is no
    finite number, or is none of the choices.
    """
    if choices is None:
        if not math.isfinite(answer):
            raise ValueError(f"answer must be a finite number, not {answer!r}")
        tolerance = 0.5 * 10.0**-digits if tolerance is None else tolerance
        shown = _proper_minus(f"{answer:.{digits}f}") + (f" {unit}" if unit else "")
        kind, answer = "number", float(answer)
    else:
        if answer not in choices:
            raise ValueError(f"answer must be one of the choices {choices!r}, not {answer!r}")
        kind, shown = "choice", answer
    place = f"opd-exercise-{uuid.uuid4().hex[:8]}"
    options = json.dumps(
        {
            "kind": kind,
            "answer": answer,
            "shown": shown,
            "tolerance": tolerance,
            "why": _proper_minus(why),
        }
    )
    return _Html(
        f'<div class="opd-exercise" id="{place}"><form>{_inputs(number, place, choices, unit)}'
        '<button type="submit">Check</button>'
        '<button type="button" data-reveal hidden>Show the answer</button></form>'
        '<p aria-live="polite"></p>'
        f"<noscript><p>Without scripts: the answer is {html.escape(shown)}. {html.escape(_proper_minus(why))}</p></noscript></div>"
        f'<script type="module">{_EXERCISE}'
        f'mountExercise(document.getElementById("{place}"), {options});</script>'
    )


def _inputs(number, place, choices, unit):
    if choices is None:
        suffix = f" ({html.escape(unit)})" if unit else ""
        return (
            f"<label>Your prediction for {html.escape(number)}{suffix}: "
            '<input type="text" inputmode="text" autocomplete="off" size="9"></label>'
        )
    options = "".join(
        f'<label><input type="radio" name="{place}" value="{html.escape(choice)}">{html.escape(choice)}</label>'
        for choice in choices
    )
    return (
        f"<fieldset><legend>Your prediction for {html.escape(number)}</legend>{options}</fieldset>"
    )


class Style:
    """The colours of one paper, light or dark, for a drawing: ``style["student"]``."""

    def __init__(self, dark=False):
        self.dark = dark
        self.colours = {name: pair[int(dark)] for name, pair in {**ROLES, **PAPER}.items()}

    def __getitem__(self, role):
        return self.colours[role]

    def parameters(self):
        """matplotlib settings for this paper."""
        ink, muted, line = self["ink"], self["muted"], self["line"]
        return {
            "figure.facecolor": self["paper"], "axes.facecolor": self["paper"],
            "savefig.facecolor": self["paper"], "text.color": ink, "axes.labelcolor": ink,
            "axes.edgecolor": muted, "xtick.color": muted, "ytick.color": muted,
            "grid.color": line, "axes.grid": True, "axes.axisbelow": True,
            "axes.spines.top": False, "axes.spines.right": False, "font.size": 11,
            "axes.titlesize": 11, "legend.frameon": False, "lines.linewidth": 2,
            "svg.fonttype": "none", "svg.hashsalt": "opd", "font.family": ["DejaVu Sans", "sans-serif"],
            "figure.figsize": (7, 3.4), "figure.constrained_layout.use": True,
        }  # fmt: skip


def draw_svg(draw, dark=False):
    """The SVG text of ``draw(style)``, on light or dark paper."""
    import matplotlib.pyplot as plt

    style = Style(dark)
    with plt.rc_context(style.parameters()):
        drawn = draw(style)
        buffer = io.BytesIO()
        drawn.savefig(buffer, format="svg", metadata={"Date": None})
        plt.close(drawn)
    return _lighter(buffer.getvalue().decode())


def _lighter(svg):
    """The same picture in fewer bytes: no metadata, no list of fonts a reader lacks, hundredths of a point."""
    svg = re.sub(r"<\?xml.*?\?>|<!DOCTYPE.*?>|<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"'DejaVu Sans', '[^;\"]*, sans-serif", "'DejaVu Sans', sans-serif", svg)
    svg = re.sub(r"(\.\d\d)\d+", r"\1", svg)
    svg = re.sub(r'(?<=<g) id="[^"]*"| transform="rotate\(-0 [^"]*"', "", svg)
    return re.sub(r"\s*\n\s*", " ", svg).replace("> <", "><").strip()


def figure(draw, *, alt, caption=""):
    """A matplotlib figure on light and on dark paper.  ``draw(style) -> Figure``."""
    pictures = "".join(
        f'<img class="opd-{paper} dark-light" alt="{html.escape(alt)}" src="data:image/svg+xml;base64,'
        f'{base64.b64encode(draw_svg(draw, paper == "dark").encode()).decode()}">'
        for paper in ("light", "dark")
    )
    legend = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    return _Html(
        "<style>.opd-figure{margin:1rem 0}.opd-figure img{max-width:100%;height:auto}"
        ".opd-figure .opd-dark,html[data-theme=dark] .opd-figure .opd-light,"
        "body[data-jp-theme-light=false] .opd-figure .opd-light{display:none}"
        "html[data-theme=dark] .opd-figure .opd-dark,"
        "body[data-jp-theme-light=false] .opd-figure .opd-dark{display:block}"
        "@media print{html[data-theme=dark] .opd-figure .opd-light{display:block}"
        "html[data-theme=dark] .opd-figure .opd-dark{display:none}}</style>"
        f'<figure class="opd-figure">{pictures}{legend}</figure>'
    )
