"""The still figure of what two students wrote, one trained on the teacher's texts, one on its own.

Both answer the same question again and again, see ``opd_toy.lm.searching``.
"""

from opd_toy.records.provenance import recorded

DOORS = "ABCD"
PANELS = {"off_policy_reverse_kl": "trained on the\nteacher's texts", "gkd": "trained on\nits own"}
MARKS = {  # what a token does: marker, role, size
    "into a wrong room": ("s", "muted", 3.2),
    "back": ("$↩$", "muted", 4),
    "no effect": ("x", "reverse_kl", 3),
    "into the right room": ("o", "student", 5),
}


def two_searches(style):
    """Rows of marks: the answers to one question of two students, a mark a token."""
    import matplotlib.pyplot as plt

    drawn, panels = plt.subplots(1, 2, figsize=(5, 5.6), sharey=True)
    for axes, (method, title) in zip(panels, PANELS.items()):
        answers = shown_answers(method)
        room = next(answer[-2] for answer in answers if answer.endswith("."))
        for name, (marker, role, size) in MARKS.items():
            places = [
                (t, row)
                for row, answer in enumerate(answers)
                for t, found in enumerate(what_happens(answer, room))
                if found == name
            ]
            across, down = zip(*places) if places else ((), ())
            look = {"marker": marker, "markersize": size, "color": style[role]}
            axes.plot(across, down, linestyle="none", label=name, **look)
        axes.set(title=title, xlim=(-0.6, 7.6), ylim=(len(answers), -1))
        axes.set_axis_off()
    handles, names = axes.get_legend_handles_labels()
    drawn.legend(handles, names, loc="outside lower center", ncols=2, handletextpad=0.2)
    return drawn


def shown_answers(method):
    """The recorded answers of a student, those that find the room sooner first."""
    runs = recorded("doors", "doors")["runs"]
    [answers] = [run["answers"] for run in runs if run["method"] == method and "answers" in run]
    return sorted(answers, key=lambda answer: (not answer.endswith("."), len(answer)))


def what_happens(answer, room):
    """What each token of an answer does, but for the end: names of ``MARKS``.

    ``answer``: such as "A↩C.", ``room``: the right one, such as "C".
    """
    found, inside = [], False
    for token in answer.rstrip("."):
        if inside and token == "↩":
            found.append("back")
        elif not inside and token in DOORS:
            found.append("into the right room" if token == room else "into a wrong room")
        else:
            found.append("no effect")
            continue
        inside = not inside
    return found


FIGURES = {
    "two-searches": {
        "draw": two_searches,
        "alt": (
            "Forty answers each of two students to one question, a row of marks an answer. Trained "
            "on the teacher's texts, a student that goes into a wrong room hardly ever comes out: "
            "the row goes on with crosses, tokens that do nothing. Trained on its own texts it "
            "goes back and tries further doors, and most rows end in the right room."
        ),
    },
}
