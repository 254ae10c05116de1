"""The still figures of the control study, drawn from its records."""

import numpy as np

from opd_toy.pages.drawing import label_ends, powers_of_ten
from opd_toy.pages.numbers import whole
from opd_toy.records.provenance import recorded

STAGES = {"initial": "-", "early": (0, (9, 3)), "middle": (0, (5, 3)), "late": (0, (2, 2))}


def study_frozen(style):
    """The variance of each γ over that of γ = 0, at the same frozen student, with intervals."""
    import matplotlib.pyplot as plt

    stages = recorded("control-frozen", "variance frozen")["stages"]
    drawn, (sampled, exact) = plt.subplots(1, 2, figsize=(5, 3.6), sharey=True)
    _frozen_panel(sampled, stages, "sampled", style["policy_gradient"], style)
    _frozen_panel(exact, stages, "full_vocabulary", style["reverse_kl"], style)
    sampled.set_title("sampled costs", color=style["ink"])
    exact.set_title("exact costs", color=style["ink"])
    sampled.set(ylabel="variance ÷ that of γ = 0, sampled")
    return drawn


def _frozen_panel(axes, stages, estimator, colour, style):
    """One estimator at the students of all stages, with bootstrap intervals."""
    ends = {}
    for stage, dashes in STAGES.items():
        rows = stages[stage]["tasks"]["left"]["estimators"]
        cells = {(row["estimator"], row["gamma"]): row["output_layer"] for row in rows}
        one = cells["sampled", 0]["variance"]
        mine = {gamma: cell for (name, gamma), cell in cells.items() if name == estimator}
        gammas = list(mine)
        ratios = np.array([cell["variance"] / one for cell in mine.values()])
        low, high = np.array([cell["ratio_to_immediate_interval"] for cell in mine.values()]).T
        axes.plot(gammas, ratios, color=colour, linestyle=dashes, linewidth=1.8)
        # One line for all intervals: a NaN lifts the pen between them.
        bars = np.column_stack([low, high, np.full_like(low, np.nan)]).ravel()
        axes.plot(np.repeat(gammas, 3), bars, color=colour, linewidth=1.2)
        ends[whole(stages[stage]["iteration"])] = ratios[-1], style["ink"]
    axes.plot([0, 1], [1, 1], color=style["muted"], linewidth=1)
    axes.set(xlabel="γ", xlim=(-0.05, 1.35), xticks=[0, 0.5, 1])
    powers_of_ten(axes, -3, 2)
    label_ends(axes, 1, ends, 0.4)


# (estimator, γ): label and dashes
GROWTH = {
    ("sampled", 0): ("γ 0", (0, (1, 1.5))),
    ("sampled", 0.5): ("γ .5", (0, (5, 3))),
    ("sampled", 1): ("γ 1", "-"),
    ("full_return", 1): ("full", "-"),
}


def study_growth(style):
    """The variance against the length at two students, beside the slopes of the paper's bounds."""
    import matplotlib.pyplot as plt

    frozen = recorded("control-frozen", "variance frozen")
    lengths = np.array(frozen["lengths"])
    drawn, (untrained, trained) = plt.subplots(1, 2, figsize=(5, 3.8), sharey=True)
    _growth_panel(untrained, lengths, frozen["growth"]["initial"], style)
    _growth_panel(trained, lengths, frozen["growth"]["late"], style)
    untrained.set_title("untrained student", color=style["ink"])
    trained.set_title("trained student", color=style["ink"])
    untrained.set(ylabel="variance ÷ that of γ = 0 at T = 5")
    return drawn


def _growth_panel(axes, lengths, rows, style):
    """The growth of each estimator's variance in the output layer, at one student."""
    variances = {
        (row["estimator"], row["gamma"]): np.array(row["variance"])
        for row in rows
        if row["parameters"] == "output_layer"
    }
    one, ends = variances["sampled", 0][0], {}
    for key, (label, dashes) in GROWTH.items():
        colour = style["muted" if key[0] == "full_return" else "policy_gradient"]
        values = variances[key] / one
        axes.plot(lengths, values, color=colour, linestyle=dashes, linewidth=1.8)
        ends[label] = values[-1], colour
    _slope(axes, lengths, 2, 1, style["muted"])
    _slope(axes, lengths, 4, variances["full_return", 1][0] / one, style["muted"])
    axes.set(xlabel="length T", xscale="log", xlim=(lengths[0], lengths[-1] * 2.2))
    axes.set_xticks(lengths[::2], [str(length) for length in lengths[::2]])
    powers_of_ten(axes, 0, 6)
    label_ends(axes, lengths[-1], ends, 0.4)


def _slope(axes, lengths, slope, start, colour):
    """A thin straight line of a slope, named near its end."""
    line = start * (lengths / lengths[0]) ** slope
    axes.plot(lengths, line, color=colour, linewidth=0.8)
    options = {"xytext": (-3, 4), "textcoords": "offset points", "ha": "right", "color": colour}
    axes.annotate(f"slope {slope}", (lengths[-2], line[-2]), **options)


# What each shows, in words, is its alt text.
FIGURES = {
    "study-frozen": {
        "draw": study_frozen,
        "alt": (
            "Two panels: variance against γ, in units of the sampled variance at γ = 0, on a "
            "logarithmic axis, for a student stopped at four iterations. With sampled costs "
            "every line rises from 1, the untrained student's most steeply and the trained "
            "student's least. With exact costs all lines begin far below 1; the untrained "
            "student's rises above 1, the trained student's stays far below."
        ),
    },
    "study-growth": {
        "draw": study_growth,
        "alt": (
            "Two panels, an untrained and a trained student: variance against length 5 to 80 on "
            "logarithmic axes. At the untrained student the full return and γ = 1 rise steeply, "
            "γ = 0 and .5 gently. At the trained student all rise less. The slopes 2 and 4 of "
            "the bounds are drawn as thin lines; the full return stays below slope 4."
        ),
    },
}
