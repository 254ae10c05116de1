"""The pictures of the first chapter: the training loop, and three ways to mark an answer."""

import numpy as np

from opd_toy.records.provenance import recorded

WIDTH = 5  # inches, at which labels stay legible on a phone


def training_loop(style):
    """Who writes, who reads, and where the gradient goes and stops."""
    axes = _bare(4.5, (0, 10), (0, 9))
    student, teacher, ink = style["student"], style["teacher"], style["ink"]
    _box(axes, (0.1, 6.9, 2.9, 1.5), "student", student, style)
    answer = _recorded()["answers"]["number"]
    begun = " ".join(answer["tokens"][: answer["new_at"]])  # to its first slip
    _box(axes, (5.6, 6.9, 4.3, 1.5), f"its own answer\n{begun} …", ink, style)
    _box(axes, (0.1, 3.3, 4.3, 1.5), "student's next-token\nprobabilities p", student, style)
    _box(axes, (5.6, 3.3, 4.3, 1.5), "teacher's next-token\nprobabilities q", teacher, style)
    _box(axes, (2.6, 0.2, 4.8, 1.5), "loss: how far is p\nfrom q at each token?", ink, style)
    _arrow(axes, (3.0, 7.65), (5.6, 7.65), ink)
    axes.text(4.3, 8.55, "writes", ha="center", color=ink)
    _arrow(axes, (6.9, 6.9), (3.6, 4.8), ink)
    _arrow(axes, (8.0, 6.9), (8.0, 4.8), ink)
    axes.text(6.95, 5.6, "both read it", ha="center", color=ink, backgroundcolor=style["paper"])
    _arrow(axes, (2.6, 3.3), (3.8, 1.7), student)
    _arrow(axes, (7.4, 3.3), (6.2, 1.7), teacher)
    back = {"arrowstyle": "-|>", "linewidth": 3, "color": style["reverse_kl"]}
    axes.annotate("", (0.9, 6.8), (0.9, 4.9), arrowprops=back)
    axes.annotate("", (1.0, 3.2), (2.5, 0.9), arrowprops=back | {"connectionstyle": "arc3,rad=-.3"})
    axes.text(0.2, 1.1, "gradient", color=style["reverse_kl"])
    axes.text(1.2, 5.5, "moves the\nstudent", color=style["reverse_kl"])
    for shift in (0, 0.28):  # the cut
        axes.plot([4.0 + shift, 4.35 + shift], [7.05, 8.25], color=ink, linewidth=3)
    axes.text(4.3, 6.4, "cut: no gradient", ha="center", color=ink)
    return axes.figure


def three_markers(style):
    """The recorded answer, marked once, marked at each token, and taught at each token."""
    record = _recorded()
    answer = record["answers"]["number"]
    tokens, names = answer["tokens"], record["tokens"]
    p, q = np.array(answer["probabilities"])
    drawn = [names.index(token) for token in tokens]
    rows = np.arange(len(tokens))
    marks = np.log(np.maximum(q[rows, drawn], 1e-4) / p[rows, drawn])
    wrong = [token not in right for token, right in zip(tokens, answer["right"])]
    best = [names[index] for index in q.argmax(1)]
    advice = [other if bad else token for token, other, bad in zip(tokens, best, wrong)]

    axes = _bare(3.9, (-0.7, len(tokens) - 0.3), (0, 10.2))
    _write(axes, tokens, 9.6, [style["student"]] * len(tokens))
    _heading(axes, 8.4, "An examiner marks the answer", style["policy_gradient"])
    axes.text(len(tokens) - 1, 7.5, "✗", ha="center", va="center", fontsize=14, color=style["ink"])
    axes.plot([-0.4, len(tokens) - 1.7], [7.5, 7.5], color=style["line"], linewidth=1)
    _heading(axes, 6.4, "An examiner marks each token", style["policy_gradient"])
    axes.axhline(5.5, color=style["line"], linewidth=1)
    axes.bar(rows, marks / 5, 0.7, bottom=5.5, color=style["policy_gradient"])
    _heading(axes, 2.3, "A teacher says what should stand there", style["teacher"])
    _write(axes, advice, 1.0, [style["ink" if bad else "muted"] for bad in wrong], wrong)
    return axes.figure


# --- parts ---


def _recorded():
    return recorded("derailing", "derail")


def _bare(height, across, down):
    import matplotlib.pyplot as plt

    _, axes = plt.subplots(figsize=(WIDTH, height))
    axes.set(xlim=across, ylim=down)
    axes.set_axis_off()
    return axes


def _box(axes, place, words, colour, style):
    from matplotlib.patches import FancyBboxPatch

    left, bottom, width, height = place
    rounded = {"boxstyle": "round,pad=0,rounding_size=.2", "edgecolor": colour, "linewidth": 1.6}
    axes.add_patch(FancyBboxPatch((left, bottom), width, height, **rounded, fc=style["wash"]))
    middle = {"ha": "center", "va": "center", "color": style["ink"], "linespacing": 1.4}
    axes.text(left + width / 2, bottom + height / 2, words, **middle)


def _arrow(axes, start, end, colour):
    arrow = {"arrowstyle": "-|>", "linewidth": 1.5, "color": colour, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", end, start, arrowprops=arrow)


def _heading(axes, height, words, colour):
    axes.text(-0.4, height, words, va="center", color=colour)


def _write(axes, tokens, height, colours, framed=()):
    for place, (token, colour) in enumerate(zip(tokens, colours)):
        frame = framed and framed[place]
        axes.text(
            place, height, token, ha="center", va="center", color=colour, fontsize=13,
            fontweight="bold" if frame else "normal",
            bbox={"boxstyle": "square,pad=.2", "fc": "none", "ec": colour if frame else "none"},
        )  # fmt: skip


FIGURES = {
    "training-loop": {
        "draw": training_loop,
        "alt": (
            "The training loop. The student writes its own answer. Both models read it and give "
            "their probabilities of the next token at each position: the student p, the teacher "
            "q. The loss says how far p is from q at each token. The gradient runs from the loss "
            "to p and moves the student. The arrow on which the student writes the answer is "
            "cut: no gradient runs through the writing."
        ),
    },
    "three-markers": {
        "draw": three_markers,
        "alt": (
            "One answer of the student, with three slips, marked in three ways. An examiner who "
            "marks the answer leaves one cross at its end. An examiner who marks each token "
            "leaves a bar under each: deep ones at the slips, hardly any elsewhere. A teacher "
            "says at each token what should stand there: the same tokens, and framed at the "
            "three slips the tokens that would be right."
        ),
    },
}
