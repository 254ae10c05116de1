"""What the figures of reports show: tests/audit_drawing.txt has bars, lines, words and ends."""

import types

import matplotlib.pyplot as plt
import numpy as np
import pytest

from opd_toy.audit import drawing
from tests.test_audit_stages import report
from tests.written import check_text

STYLE = {"ink": "black", "muted": "gray", "forward_kl": "red", "reverse_kl": "green"}
STYLE |= {"paper": "white", "student": "blue"}
WEIGHT = {"log_ratio": [-2.123456, -0.5, 0.5, 1.012345], "weight": [-3.123456, -0.5, 0.5, 0.756789]}
TOKENS = report(
    standard_deviation=np.array([0.1, 0.2, 0.3]),
    expected_gradient=np.array([-0.512345, 0.112345, 0.4]),
    variance=0.123456,
)
WEIGHTED = report(variance=-1e-18, weight=WEIGHT | {"increasing": True})
# Two words fill the first line to its end, the next two would need a character more than there is.
WORDS = {
    width: " ".join(["a" * (width - 28), "b" * 18, "c" * (width // 2), "d" * (width - width // 2)])
    for width in (44, 48)
}
LARGE = report(
    optimises=WORDS[44],
    weight={"log_ratio": [-1.0, 1.0], "weight": [-40.0, 9.0], "increasing": True},
)
SMALL = report(weight={"log_ratio": [-1.0, 1.0], "weight": [-0.04, 0.01], "increasing": True})


def of_texts(**changes):
    fields = {
        "optimises": "sum of local reverse KLs = a name that takes more than one line of a figure",
        "credit": None,
        "credit_of": "of the reverse KL",
        "dependence": {},
        "bias": {"sequence reverse KL": 0.75, "sum of local forward KLs": 0.125},
        "edges": [],
    }
    return types.SimpleNamespace(**fields | changes)


CREDIT = of_texts(credit=np.array([[1.0, 0.5, -0.25], [0.0, 1.0, 0.5], [0.0, 0.0, 1.0]]))
NO_CREDIT = of_texts(credit=np.zeros((2, 2)))
MOVED = np.array([[0.25, 2.0], [1e-3, 1.1e-3]])
INPUTS = ("student", "teacher", "token", "mask", "old")
MAPS = MOVED, MOVED.T, 0 * MOVED, np.stack([MOVED, 0.5 + MOVED]), MOVED
DEPENDENCE = of_texts(dependence=dict(zip(INPUTS, MAPS)))
DISTANCES = of_texts(optimises=f"{'a' * 9}{WORDS[48]}")


def shown(axes):
    """Bars, lines, images and words of one axes, in digits."""
    digits = lambda values: " ".join(f"{x:.4g}" for x in np.ravel(values))
    for bar in axes.patches:
        place = digits([*bar.get_xy(), bar.get_width(), bar.get_height()])
        yield f"bar {place} {bar.get_facecolor()}"
    for line in axes.lines:
        x, y = line.get_data()
        look = [line.get_color(), line.get_linestyle(), line.get_label()]
        look = [word for word in look if not word.startswith("_")]
        look += [line.get_linewidth(), line.get_marker(), line.get_markersize()]
        yield f"line of {len(x)}: {digits([*x[:2], *x[-1:], *y[:2], *y[-1:]])} {look}"
    for bars in axes.collections:
        yield f"segments {digits(bars.get_segments())}, {digits(bars.get_linewidths())} wide"
    for image in axes.images:
        yield f"image {digits(image.get_array())} from {digits(image.get_clim())}"
    for text in axes.texts:
        aligned = text.get_ha(), text.get_va(), text.get_color()
        yield f"text {text.get_text()} at {digits(text.get_position())} {aligned}"
    sizes = [part.get_fontsize() for part in (axes.title, axes.xaxis.label, axes.yaxis.label)]
    yield f"title {axes.get_title()!r}, {axes.get_xlabel()!r}, {axes.get_ylabel()!r}, {sizes}"
    ticks = [tick.get_text() for tick in (*axes.get_xticklabels(), *axes.get_yticklabels())]
    lined = axes.xaxis.get_gridlines()[0].get_visible()
    ends = digits([*axes.get_xlim(), *axes.get_ylim()])
    yield f"ticks {ticks}, from {ends}, {axes.axison}, lined {lined}"
    if legend := axes.get_legend():
        look = legend._loc, legend.get_texts()[0].get_fontsize()
        yield f"legend {[text.get_text() for text in legend.get_texts()]} {look}"


DRAWN = {
    "gradients": (drawing.draw_gradients, TOKENS),
    "gradients and weight": (drawing.draw_gradients_and_weight, WEIGHTED),
    "a large weight": (drawing.draw_gradients_and_weight, LARGE),
    "a small weight": (drawing.draw_gradients_and_weight, SMALL),
    "credit": (drawing.draw_credit, CREDIT),
    "no credit": (drawing.draw_credit, NO_CREDIT),
    "dependence": (drawing.draw_dependence, DEPENDENCE),
    "distances": (drawing.draw_distances, DISTANCES),
}


@pytest.mark.parametrize("name", DRAWN)
def test_what_is_drawn(name):
    draw, found = DRAWN[name]
    drawn = draw(found, STYLE)
    lines = [f"{drawn.get_size_inches()} {drawn.get_suptitle()!r}"]
    for axes in drawn.axes:
        lines += shown(axes)
    plt.close(drawn)
    check_text("audit_drawing.txt", name, "\n".join(lines))


PAGES = {
    "tokens": (drawing.of_tokens, TOKENS),
    "tokens and weight": (drawing.of_tokens, WEIGHTED),
    "credit": (drawing.of_texts, CREDIT),
    "dependence": (drawing.of_texts, DEPENDENCE),
    "distances": (drawing.of_texts, DISTANCES),
}


@pytest.mark.parametrize("name", PAGES)
def test_what_a_page_says_of_a_figure(name, monkeypatch):
    """Which figure it is, its words for those who do not see it, and the text beneath."""
    page, found = PAGES[name]
    said = []
    figure = lambda draw, alt: said.append(alt) or types.SimpleNamespace(_repr_html_=lambda: "<b>")
    monkeypatch.setattr(drawing, "figure", figure)
    html = page(found)
    check_text("audit_drawing.txt", f"page of {name}", said[0])
    assert html.startswith(
        '<div class="opd-audit"><b><pre style="white-space:pre-wrap;color:inherit'
    )
    assert html.endswith("</pre></div>") and "&lt;" not in said[0]
