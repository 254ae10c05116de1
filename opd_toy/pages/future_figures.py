"""The still figures of chapter 6: two tokens, who pays for which cost, noise against length."""

import numpy as np

from opd_toy import sequences
from opd_toy.distributions import kl
from opd_toy.example import STUDENT, STUDENT_TREE, TEACHER, TEACHER_TREE, TOKENS
from opd_toy.pages.drawing import label_ends, powers_of_ten


def two_tokens(style):
    """Of each first token: its probabilities, the KL after it, and what two gradients do to it."""
    import matplotlib.pyplot as plt

    student, teacher = STUDENT_TREE, TEACHER_TREE
    after = kl(student.probabilities[1], teacher.probabilities[1])
    # A gradient is descended, so its negative is the push on a logit.
    gkd = -sequences.on_policy_gkd_gradient(student, teacher)[:3]
    whole = -sequences.sequence_kl_gradient(student, teacher)[:3]

    drawn, (chances, costs, pushes) = plt.subplots(
        1, 3, figsize=(5.4, 2.8), sharey=True, width_ratios=(1, 0.8, 1.6)
    )
    pair = [("student", student.probabilities[0][0]), ("teacher", teacher.probabilities[0][0])]
    _pairs_of_bars(chances, [(who, values, style[who]) for who, values in pair])
    costs.barh(range(3), after, height=0.36, color=style["reverse_kl"])
    both = [("GKD", gkd, style["reverse_kl"]), ("sequence KL", whole, style["ink"])]
    _pairs_of_bars(pushes, both)
    pushes.axvline(0, color=style["muted"], linewidth=1)
    chances.set_title("first token")
    costs.set_title("KL after it")
    pushes.set_title("its logit is …")
    pushes.set(xlim=(-0.65, 1.2), xticks=[-0.4, 0.4], xticklabels=["lowered", "raised"])
    chances.set(yticks=range(3), yticklabels=TOKENS, xlim=(0, 1.2), xticks=[0, 0.5, 1])
    chances.invert_yaxis()
    for axes in (chances, costs, pushes):
        axes.grid(visible=False, axis="y")
        axes.tick_params(length=0)
    return drawn


def _pairs_of_bars(axes, series):
    """Two bars a token, the first above; each series is named at its longest bar's tip."""
    for place, (name, values, colour) in zip((-0.2, 0.2), series):
        axes.barh(np.arange(3) + place, values, height=0.34, color=colour)
        longest = int(np.argmax(values))
        axes.annotate(
            name,
            (values[longest], longest + place),
            xytext=(3, -4),
            textcoords="offset points",
            color=colour,
            fontsize=9,
        )


RULES = {
    "full return": lambda ahead: 1.0 + 0 * ahead,
    "reward-to-go": lambda ahead: 1.0 * (ahead >= 0),
    "γ = .5": lambda ahead: np.where(ahead >= 0, 0.5 ** np.maximum(ahead, 0), 0),
    "own cost": lambda ahead: 1.0 * (ahead == 0),
}


def who_pays(style):
    """Which costs are charged to which token of five, under four rules."""
    import matplotlib.pyplot as plt

    position = np.arange(1, 6)
    ahead = position[None] - position[:, None]  # of the cost (column) from the token (row)
    drawn, panels = plt.subplots(1, 4, figsize=(5.4, 2), sharey=True)
    for axes, (name, rule) in zip(panels, RULES.items()):
        for (row, column), weight in np.ndenumerate(rule(ahead)):
            cell = plt.Rectangle((column + 0.55, row + 0.55), 0.9, 0.9, color=style["wash"])
            axes.add_patch(cell)
            if weight:
                cell.set(color=style["policy_gradient"], alpha=weight)
        axes.set(aspect="equal", xticks=position, yticks=position, xlim=(0.5, 5.5), ylim=(5.5, 0.5))
        axes.set_title(name)
        axes.grid(visible=False)
        axes.tick_params(length=0, labelsize=9)
        axes.spines[:].set_visible(False)
    panels[0].set_ylabel("token")
    drawn.supxlabel("cost at position", fontsize=11, y=0.02)
    return drawn


LENGTHS = 2 ** np.arange(9)
GROWTH = {
    "γ 0": (0.0, True, (0, (1, 1.5))),
    "γ .5": (0.5, True, (0, (5, 3))),
    "γ .9": (0.9, True, (0, (9, 3))),
    "γ 1": (1.0, True, "-"),
    "full return": (1.0, False, "-"),
}


def _of_independent(length, gamma, causal):
    """The variance over independent positions that all have the notes' p and q."""
    pair = (np.tile(each, (length, 1)) for each in (STUDENT, TEACHER))
    return sequences.independent_variance(*pair, gamma, causal=causal)


def noise_growth(style):
    """The variance against the number of independent positions, on logarithmic axes."""
    import matplotlib.pyplot as plt

    drawn, axes = plt.subplots(figsize=(5, 3.4))
    ends = {}
    for label, (gamma, causal, dashes) in GROWTH.items():
        colour = style["policy_gradient" if causal else "muted"]
        values = np.array([_of_independent(length, gamma, causal) for length in LENGTHS])
        axes.plot(LENGTHS, values, color=colour, linestyle=dashes, linewidth=1.8)
        ends[label] = values[-1], colour
    axes.set(xlabel="length T", ylabel="variance of one text's row", xscale="log", xlim=(1, 256))
    axes.set_xticks([1, 4, 16, 64, 256], ["1", "4", "16", "64", "256"])
    powers_of_ten(axes, 0, 7)
    label_ends(axes, LENGTHS[-1], ends, 0.4)
    return drawn


# What each shows, in words, is its alt text.
FIGURES = {
    "two-tokens": {
        "draw": two_tokens,
        "alt": (
            "Three panels with a row for each first token. Its probabilities: the student prefers "
            "the third, the teacher the first. The KL after it: hardly any after the first and "
            "the third token, and large after the second. What happens to its logit: both "
            "gradients raise the first and lower the third; the second is raised by GKD and "
            "lowered by the sequence KL."
        ),
    },
    "who-pays": {
        "draw": who_pays,
        "alt": (
            "Four squares of five by five cells, a row for each token and a column for each "
            "cost; a filled cell is a cost that the token is charged with. Full return: all "
            "cells. Reward-to-go: the diagonal and what is to the right of it. γ = .5: the same, "
            "paler by half with each step to the right. Own cost: the diagonal alone."
        ),
    },
    "noise-growth": {
        "draw": noise_growth,
        "alt": (
            "Variance against length on logarithmic axes, from 1 to 256 positions. All rules begin "
            "together at one position. γ = 0 rises least. γ = .5 and .9 rise more steeply at "
            "first and in the end hardly more steeply than it. γ = 1 and the full return rise "
            "far more steeply to the end, and the full return is the highest."
        ),
    },
}
