"""How the book draws: the palette of light and of dark paper, and SVG in few bytes."""

import io
import re

import numpy as np

from opd_toy.explorables.palette import PAPER, ROLES


class Style:
    """The colours of one paper, light or dark, for a drawing: ``style["student"]``."""

    def __init__(self, dark=False):
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
            "svg.fonttype": "none", "svg.hashsalt": "opd",
            "font.family": ["DejaVu Sans", "sans-serif"],
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
    """The same picture in fewer bytes: hundredths of a point, no metadata, no list of fonts."""
    svg = re.sub(r"<\?xml.*?\?>|<!DOCTYPE.*?>|<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"'DejaVu Sans', '[^;\"]*, sans-serif", "'DejaVu Sans', sans-serif", svg)
    svg = re.sub(r"(\.\d\d)\d+", r"\1", svg)
    svg = re.sub(r'(?<=<g) id="[^"]*"| transform="rotate\(-0 [^"]*"', "", svg)
    return re.sub(r"\s*\n\s*", " ", svg).replace("> <", "><").strip()


def powers_of_ten(axes, low, high):
    """A logarithmic axis whose labels are plain text."""
    exponents = range(low, high + 1)
    axes.set_yscale("log")
    axes.set_yticks(
        [10.0**e for e in exponents],
        ["10" + str(e).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")) for e in exponents],
    )
    axes.minorticks_off()
    axes.tick_params(length=0)
    axes.grid(visible=False, axis="x")


def label_ends(axes, x, ends, gap):
    """Labels beside the right ends of lines, at least ``gap`` decades apart.

    ``ends`` is {label: (height, colour)}.
    """
    place = -np.inf
    for label, (height, colour) in sorted(ends.items(), key=lambda end: end[1][0]):
        place = max(np.log10(height), place + gap)
        axes.annotate(
            label,
            (x, 10**place),
            xytext=(6, -4),
            textcoords="offset points",
            color=colour,
            annotation_clip=False,
        )
