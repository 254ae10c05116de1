"""The picture that goes with a shared link: the book's example, and how two losses push it."""

from opd_toy.example import STUDENT, TEACHER, TOKENS
from opd_toy.objectives import forward_kl_logit_gradient, reverse_kl_logit_gradient
from opd_toy.pages.drawing import Style

SIZE = (1200, 630)  # pixels
DOTS = 100  # a inch
ALT = (
    "On-policy distillation: a book you can read, move and check. Probability bars of a student "
    "and a teacher over three tokens, with arrows for the push that the reverse and the forward "
    "KL give each token; on the second token they point in opposite directions."
)
PUSH = 0.55  # of the axis, for a gradient entry of 1


def draw(path):
    """Write the picture as a PNG of SIZE pixels."""
    import matplotlib.pyplot as plt

    style = Style()
    inches = [pixels / DOTS for pixels in SIZE]
    with plt.rc_context(style.parameters() | {"figure.constrained_layout.use": False}):
        figure = plt.figure(figsize=inches, dpi=DOTS)
        _words(figure, style)
        _bars(figure.add_axes((0.5, 0.13, 0.46, 0.74)), style)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
        plt.close(figure)


def _words(figure, style):
    figure.text(0.05, 0.76, "On-policy\ndistillation", fontsize=46, weight="bold", va="center")
    told = "A book you can read,\nmove and check"
    figure.text(0.05, 0.5, told, fontsize=25, color=style["muted"], va="center", linespacing=1.4)
    rows = [("student", "the student p"), ("teacher", "the teacher q")]
    rows += [("reverse_kl", "reverse KL pushes"), ("forward_kl", "forward KL pushes")]
    for place, (role, words) in enumerate(rows):
        height = 0.31 - 0.07 * place
        figure.text(0.05, height, "■", color=style[role], fontsize=20, va="center")
        figure.text(0.085, height, words, fontsize=19, va="center")


def _bars(axes, style):
    axes.set_axis_off()
    axes.set(xlim=(-0.55, 2.55), ylim=(-0.38, 0.82))
    axes.axhline(0, color=style["muted"], linewidth=2)
    pushes = {
        "reverse_kl": -reverse_kl_logit_gradient(STUDENT, TEACHER),
        "forward_kl": -forward_kl_logit_gradient(STUDENT, TEACHER),
    }
    for place, token in enumerate(TOKENS):
        pair = (STUDENT[place], TEACHER[place])
        for side, role, height in zip((-0.19, 0.19), ("student", "teacher"), pair):
            axes.bar(place + side, height, 0.34, color=style[role])
        axes.text(place, -0.33, token, fontsize=26, ha="center", va="center")
        for side, (role, push) in zip((-0.19, 0.19), pushes.items()):
            _arrow(axes, place + side, -0.14, PUSH * push[place] / 2, style[role])


def _arrow(axes, across, middle, length, colour):
    half = length / 2
    arrow = {"arrowstyle": "-|>,head_width=.5,head_length=.6", "linewidth": 5, "color": colour}
    arrow |= {"shrinkA": 0, "shrinkB": 0, "mutation_scale": 16}
    axes.annotate("", (across, middle + half), (across, middle - half), arrowprops=arrow)
