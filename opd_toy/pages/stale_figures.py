"""The still figure of chapter 9: training on texts that are some steps old, from its record."""

import numpy as np

from opd_toy.pages.drawing import label_ends
from opd_toy.records.provenance import recorded

# name in the record: label, role, dashes
LINES = {
    "none": ("no ratio", "muted", "-"),
    "kept": ("cost kept", "policy_gradient", (0, (1, 1.5))),
    "truncate": ("cut at 2", "policy_gradient", (0, (5, 3))),
    "ratio": ("ratio", "policy_gradient", "-"),
    "gkd": ("GKD", "reverse_kl", "-"),
}


def stale_rollouts(style):
    """KL to the teacher: along training on texts 16 steps old, and at its end by age."""
    import matplotlib.pyplot as plt

    record = recorded("stale-rollouts", "stale")
    drawn, (along, by_age) = plt.subplots(1, 2, figsize=(5.6, 3.8), sharey=True)
    ages = np.array(record["ages"])
    places, ends = np.arange(len(ages)), {}
    for name, (label, role, dashes) in LINES.items():
        runs, line = record["runs"][name], {"color": style[role], "linestyle": dashes}
        along.plot(record["steps"], runs[str(ages[-1])]["kl"], linewidth=1.8, **line)
        fresh = record["runs"]["gkd" if name == "gkd" else "none"]["0"]
        last = [(runs[str(age)] if age else fresh)["kl"][-1] for age in ages]
        by_age.plot(places, last, linewidth=1.8, marker="o", markersize=3.5, **line)
        ends[label] = last[-1], style[role]
    along.set(xlabel="step, texts 16 steps old", ylabel="KL(p‖q) of a text, nats")
    by_age.set(xlabel="age of the texts, steps", xlim=(-0.2, len(ages) + 0.3))
    by_age.set_xticks(places, [str(age) for age in ages])
    by_age.set(yscale="log", ylim=(3.5, 28))
    by_age.set_yticks([4, 8, 16], ["4", "8", "16"])
    for axes in (along, by_age):
        axes.minorticks_off()
        axes.tick_params(length=0)
        axes.grid(visible=False, axis="x")
    label_ends(by_age, places[-1], ends, 0.06)
    return drawn


FIGURES = {
    "stale-rollouts": {
        "draw": stale_rollouts,
        "alt": (
            "Two panels of a text's KL to the teacher, on a logarithmic axis. Left, along training "
            "on texts that are 16 steps old: GKD falls steadily, the drawn token with its ratio "
            "falls a little, without a ratio it rises far above the start. Right, at the end, "
            "against the age of the texts: GKD is flat, the ratio rises slowly, no ratio and a "
            "kept cost rise steeply."
        ),
    },
}
