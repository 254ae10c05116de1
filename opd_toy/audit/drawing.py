"""Reports on a notebook's page, drawn: apart from what computes them, which no drawing changes."""

import html
import math
import textwrap

import numpy as np

from opd_toy.audit.report import number, vector
from opd_toy.audit.sequence.names import in_words
from opd_toy.audit.sequence.words import distances
from opd_toy.example import STUDENT, TEACHER, TOKENS
from opd_toy.objectives import forward_kl_logit_gradient, reverse_kl_logit_gradient
from opd_toy.pages.page import figure

ALT_GRADIENTS = (
    "Expected gradient of the loss at the book's pair, {gradient}, beside the forward KL's "
    "(−0.5, 0.1, 0.4) and the reverse KL's (−0.387, −0.082, 0.469). "
    "Single draws have a standard deviation of {spread}. Verdict: {optimises}."
)
ALT_WEIGHT = (
    " Beside it the weight of each log-ratio log p/q, from {ends}, "
    "with the weights of both KLs and of the total variation."
)
ALT_DISTANCES = (
    "Relative distance of the expected gradient from each objective's: {distances}. "
    "Verdict: {optimises}."
)
ALT_MOVES = "What moves the gradient, position by position: {moves}. Verdict: {optimises}."
ALT_CREDIT = "Credit matrix at T = 3, {credit_of}: {rows}. Verdict: {optimises}."


def of_tokens(report):
    """A ``TokenReport`` on a notebook's page."""
    alt = ALT_GRADIENTS.format(
        gradient=vector(report.expected_gradient, 3),
        spread=number(math.sqrt(max(report.variance, 0.0)), 3),
        optimises=report.optimises,
    )
    if report.weight:
        ends = [
            f"{number(report.weight['weight'][end], 3)} at {number(ratio, 3)}"
            for end in (0, -1)
            for ratio in [report.weight["log_ratio"][end]]
        ]
        alt += ALT_WEIGHT.format(ends=" to ".join(ends))
        return _page(report, draw_gradients_and_weight, alt)
    return _page(report, draw_gradients, alt)


def draw_gradients_and_weight(report, style):
    """The gradients, and beside them the weight of each log-ratio with that of both KLs and TV."""
    import matplotlib.pyplot as plt

    drawn, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.2), width_ratios=(5, 4))
    _gradients(left, report, style)
    left.set_title(_wrapped(f"follows: {report.optimises}", 44))
    _weight(right, report.weight, style)
    return drawn


def _weight(axes, weight, style):
    ratios, weights = np.array(weight["log_ratio"]), np.array(weight["weight"])
    fine = np.linspace(ratios[0], ratios[-1], 400)
    axes.axhline(0, color=style["muted"], linewidth=1)
    for label, values, colour, line in (
        ("forward KL", -np.expm1(-fine), style["forward_kl"], "-"),
        ("reverse KL", fine, style["reverse_kl"], "-"),
        ("total variation", 0.5 * np.sign(fine), style["muted"], "--"),
    ):
        axes.plot(fine, values, line, color=colour, linewidth=1.2, label=label)
    axes.plot(ratios, weights, ".-", color=style["ink"], markersize=4, label="this loss")
    reach = 1.25 * np.clip(np.abs(weights).max(), 0.5, 4)
    axes.set(
        ylim=(-reach, reach),
        xlabel="log p/q of a token",
        ylabel="weight on its log-probability",
        title="the weight of each log-ratio",
    )
    axes.legend(loc="lower right", fontsize=8)


def draw_gradients(report, style):
    """Expected gradient per token, one standard deviation of draws, and both KLs' beside it."""
    import matplotlib.pyplot as plt

    drawn, axes = plt.subplots(figsize=(6, 3))
    _gradients(axes, report, style)
    axes.set_title(_wrapped(f"follows: {report.optimises}"))
    return drawn


def _gradients(axes, report, style):
    tokens = np.arange(3)
    bars = (
        ("forward KL", forward_kl_logit_gradient(STUDENT, TEACHER), style["forward_kl"]),
        ("this loss", report.expected_gradient, style["muted"]),
        ("reverse KL", reverse_kl_logit_gradient(STUDENT, TEACHER), style["reverse_kl"]),
    )
    for place, (label, heights, colour) in enumerate(bars):
        axes.bar(tokens + 0.27 * (place - 1), heights, 0.25, color=colour, label=label)
    axes.errorbar(
        tokens,
        report.expected_gradient,
        yerr=report.standard_deviation,
        fmt="none",
        ecolor=style["ink"],
        capsize=4,
        linewidth=1.2,
    )
    axes.axhline(0, color=style["muted"], linewidth=1)
    axes.set(
        xticks=tokens,
        xticklabels=TOKENS,
        ylabel="gradient in the logit",
    )
    axes.legend(loc="upper left", fontsize=9)


def of_texts(report):
    """A ``SequenceReport`` on a notebook's page."""
    if report.credit is None and report.dependence:
        maps = _maps(report).items()
        moves = "; ".join(f"{name}: {_moved_by(moved)}" for name, moved in maps)
        alt = ALT_MOVES.format(moves=moves, optimises=report.optimises)
        return _page(report, draw_dependence, alt)
    if report.credit is None:
        alt = ALT_DISTANCES.format(distances=distances(report), optimises=report.optimises)
        return _page(report, draw_distances, alt)
    rows = "; ".join(in_words(report.credit))
    alt = ALT_CREDIT.format(credit_of=report.credit_of, rows=rows, optimises=report.optimises)
    return _page(report, draw_credit, alt)


def draw_credit(report, style):
    """The credit matrix as a table of coloured cells, its numbers written in."""
    import matplotlib.pyplot as plt
    from matplotlib.colors import LinearSegmentedColormap

    colours = LinearSegmentedColormap.from_list(
        "credit", [style["reverse_kl"], style["paper"], style["student"]]
    )
    length, largest = len(report.credit), np.abs(report.credit).max() or 1.0
    drawn, axes = plt.subplots(figsize=(4.2, 3.2))
    axes.imshow(report.credit / (1.6 * largest), cmap=colours, vmin=-1, vmax=1)
    for (t, u), weight in np.ndenumerate(report.credit):
        label = number(weight, 3) if u >= t else ""
        axes.text(u, t, label, ha="center", va="center", color=style["ink"])
    axes.set(
        xticks=range(length),
        xticklabels=range(1, length + 1),
        yticks=range(length),
        yticklabels=range(1, length + 1),
        xlabel="for the cost at position",
        ylabel="the token at position pays",
        title=_wrapped(report.optimises),
    )
    axes.grid(False)
    return drawn


def draw_dependence(report, style):
    """A small heat-map an input: which of its rows moves the gradient at which position."""
    import matplotlib.pyplot as plt
    from matplotlib.colors import LinearSegmentedColormap

    colours = LinearSegmentedColormap.from_list("moves", [style["paper"], style["student"]])
    maps = _maps(report)
    down, across = -(-len(maps) // 4), min(4, len(maps))
    drawn, axes = plt.subplots(down, across, figsize=(1.8 * across, 2.6 * down), squeeze=False)
    for place, (name, moved) in zip(axes.flat, maps.items()):
        place.imshow(np.sqrt(np.minimum(moved, 1)), cmap=colours, vmin=0, vmax=1.2)
        ticks = range(len(moved)), range(1, len(moved) + 1)
        place.set_xticks(*ticks)
        place.set_yticks(*ticks)
        place.set_title(name, fontsize=10)
        place.grid(False)
    for last in axes[-1]:
        last.set_xlabel("row", fontsize=9)
    for first in axes[:, 0]:
        first.set_ylabel("moves the gradient at", fontsize=9)
    for place in axes.flat[len(maps) :]:
        place.set_axis_off()
    drawn.suptitle(_wrapped(report.optimises))
    return drawn


def _maps(report):
    """{input: (T, T)}; of another text's rows the larger of both directions."""
    maps = report.dependence.items()
    return {name: moved if moved.ndim == 2 else moved.max(axis=0) for name, moved in maps}


def _moved_by(moved):
    """ "position 1 by row 1, 2; position 2 by row 2", of an array (T, T)."""
    rows = [", ".join(str(u + 1) for u in np.flatnonzero(row > 1e-3)) for row in moved]
    return "; ".join(f"position {t} by row {of}" for t, of in enumerate(rows, 1) if of)


def draw_distances(report, style):
    """How far the expected gradient is from each objective's."""
    import matplotlib.pyplot as plt

    drawn, axes = plt.subplots(figsize=(6, 2.6))
    axes.barh(list(report.bias), list(report.bias.values()), color=style["student"], height=0.6)
    axes.invert_yaxis()
    axes.set(
        xlabel="relative distance at the best scale",
        xlim=(0, 1.05),
        title=_wrapped(report.optimises),
    )
    return drawn


def _wrapped(title, width=48):
    unbroken = title.replace(" = ", "\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}")
    return "\n".join(textwrap.wrap(unbroken, width))


def _page(report, draw, alt):
    """A report for a notebook: one figure and its text under it, in the page's own colours."""
    drawn = figure(lambda style: draw(report, style), alt=alt)._repr_html_()
    style = "white-space:pre-wrap;color:inherit;background:none"
    body = f'<pre style="{style}">{html.escape(str(report))}</pre>'
    return f'<div class="opd-audit">{drawn}{body}</div>'
