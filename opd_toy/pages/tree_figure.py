"""Two steps of text as a tree: who takes which branch, and where a loss compares two models."""

import numpy as np

from opd_toy.example import TOKENS

ROW = 0.62  # between the rows of bars
BARS = 1.9  # the length of a bar of probability 1


def two_steps(first, after, style):
    """A tree over two of the three tokens.

    ``first`` is the pair of student's and teacher's probabilities, (3,) each; ``after`` that
    of their probabilities after each token, (3, 3) each.  A branch is as wide as a model is
    likely to take it; bars stand where a loss compares the two models.  The two cuts on a
    branch say that no gradient runs through it.
    """
    import matplotlib.pyplot as plt

    _, axes = plt.subplots(figsize=(4.4, 4.3))
    axes.set(xlim=(0, 10), ylim=(-0.4, 9.6))
    axes.set_axis_off()
    _bars(axes, (0, 4.6), first, style)
    for token, height in enumerate((7.6, 4.6, 1.6)):
        chances = tuple(float(each[token]) for each in first)
        _branch(axes, (3.0, 5.2 - 0.6 * token), (5.5, height), chances, style)
        axes.text(5.75, height, TOKENS[token], va="center", color=style["ink"], fontweight="bold")
        _bars(axes, (6.9, height), tuple(each[token] for each in after), style)
    words = {"ha": "left"}
    axes.text(0, 9.2, "student", color=style["student"], **words)
    axes.text(2.0, 9.2, "teacher", color=style["teacher"], **words)
    axes.text(0, -0.3, "no gradient along a branch", color=style["ink"], **words)
    axes.text(0, 6.2, "first token", color=style["ink"], **words)
    axes.text(6.7, 9.2, "second token", color=style["ink"], **words)
    return axes.figure


def _bars(axes, middle, pair, style):
    """The next-token probabilities of both models, one row a token."""
    left, height = middle
    for token in range(3):
        top = height + ROW * (1 - token)
        axes.text(left, top, TOKENS[token], va="center", color=style["muted"])
        for shift, role, chances in zip((0.12, -0.12), ("student", "teacher"), pair):
            axes.barh(top + shift, BARS * chances[token], 0.22, left=left + 0.75, color=style[role])


def _branch(axes, start, end, chances, style):
    """Two lines, as wide as the student and the teacher are likely to go this way; the cut."""
    steep = np.hypot(1, (end[1] - start[1]) / (end[0] - start[0]))
    for side, role, chance in zip((0.17, -0.17), ("student", "teacher"), chances):
        shift = side * steep
        axes.plot(
            [start[0], end[0]], [start[1] + shift, end[1] + shift],
            color=style[role], linewidth=9 * chance, solid_capstyle="butt",
        )  # fmt: skip
    across, up = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2
    for shift in (-0.09, 0.09):
        axes.plot(
            [across - 0.14 + shift, across + 0.14 + shift], [up - 0.5, up + 0.5],
            color=style["ink"], linewidth=2,
        )  # fmt: skip
