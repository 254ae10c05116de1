"""The still figures of chapters 2 to 4 and of the one page.

They compute what they show from the engine.  Each drawing takes a ``style`` (light or dark
paper, a colour a role) and returns a figure.
"""

import functools

import numpy as np

from opd_toy import distributions, estimators, objectives
from opd_toy.example import STUDENT, TEACHER
from opd_toy.pages.numbers import plain


def drawn_token_and_mean(style):
    """The cost of a drawn token against one logit: a staircase a draw, a smooth mean."""
    import matplotlib.pyplot as plt

    costs = np.log(STUDENT / TEACHER)  # numbers: they do not follow the logits
    logits = np.tile(np.log(STUDENT), (1201, 1))
    logits[:, 2] = np.linspace(-3, 2, 1201)
    p = distributions.softmax(logits)
    here = np.log(STUDENT[2])

    drawn, axes = plt.subplots(figsize=(5, 3.4))
    for uniform, dashes in zip((0.15, 0.45, 0.75), ("-", "--", ":")):
        token = (np.cumsum(p, axis=1)[:, :-1] <= uniform).sum(axis=1)
        axes.plot(logits[:, 2], costs[token], dashes, color=style["muted"], linewidth=1.4)
    axes.plot(logits[:, 2], p @ costs, color=style["policy_gradient"])
    slope = estimators.expectation(STUDENT, estimators.policy_gradient(STUDENT, TEACHER))[2]
    around = np.array([-0.9, 0.9])
    axes.plot(here + around, STUDENT @ costs + slope * around, color=style["ink"], linewidth=1.2)
    axes.plot(here, STUDENT @ costs, "o", color=style["ink"])
    axes.text(0, -0.2, f"slope at the dot: {slope:.2f}", color=style["ink"])
    axes.annotate(
        "mean over draws",
        (logits[80, 2], (p @ costs)[80]),
        xytext=(0, -16),
        textcoords="offset points",
        color=style["policy_gradient"],
    )
    axes.annotate(
        "three single draws",
        (logits[30, 2], costs[1]),
        xytext=(0, 6),
        textcoords="offset points",
        color=style["muted"],
    )
    axes.set(xlabel="logit of $t_3$", ylabel="cost of the drawn token")
    return drawn


def pushes_of_a_draw():
    """{panel: (probabilities (n,), pushes (n, 3))}: exact (n = 1), and of the n = 3 draws."""
    cut = np.clip(distributions.log_ratio(STUDENT, TEACHER), -1, 1)
    sampled = -estimators.policy_gradient(STUDENT, TEACHER)
    exact = -objectives.reverse_kl_logit_gradient(STUDENT, TEACHER)
    return {
        "exact": (np.ones(1), exact[None]),
        "a drawn token": (STUDENT, sampled),
        "its cost cut at 1": (STUDENT, -estimators.score_table(cut, STUDENT)),
    }


def what_and_how(style):
    """What one draw pushes two of the tokens by, and the mean over draws, in three ways."""
    import matplotlib.pyplot as plt

    drawn, panels = plt.subplots(1, 3, figsize=(7, 2.9), sharex=True, sharey=True)
    shown = pushes_of_a_draw()
    goal = shown["exact"][1][0]
    for axes, (title, (chances, pushes)) in zip(panels, shown.items()):
        if len(pushes) > 1:
            axes.scatter(
                *pushes.T[:2], s=500 * chances, color=style["policy_gradient"], alpha=0.75, lw=0
            )
            for token, (x, y, _) in enumerate(pushes, 1):
                axes.annotate(f"$t_{token}$", (x + 0.1, y), va="center", color=style["ink"])
        axes.plot(*goal[:2], "o", mfc="none", color=style["reverse_kl"], markersize=13)
        axes.plot(*(chances @ pushes)[:2], "x", color=style["ink"], markersize=8, mew=2)
        axes.set(title=title, xlabel="push on $t_1$")
    panels[0].set(ylabel="push on $t_2$", xlim=(-0.05, 1.3), ylim=(-0.5, 0.6))
    return drawn


def second_token_along_descent(style):
    """The probability of the notes' t₂ while forward or reverse KL is descended in the logits."""
    import matplotlib.pyplot as plt

    steps = np.arange(61)
    drawn, axes = plt.subplots(figsize=(5, 3.4))
    for name, role, gradient, place in (
        ("reverse KL", "reverse_kl", objectives.reverse_kl_logit_gradient, (19, 0.318)),
        ("forward KL", "forward_kl", objectives.forward_kl_logit_gradient, (3, 0.27)),
    ):
        path = objectives.descend(
            lambda z, gradient=gradient: gradient(distributions.softmax(z), TEACHER),
            np.log(STUDENT), rate=0.1, steps=steps[-1],
        )  # fmt: skip
        axes.plot(steps, distributions.softmax(path)[:, 1], color=style[role])
        axes.annotate(name, place, color=style[role])
    axes.axhline(TEACHER[1], color=style["teacher"], linestyle="--")
    axes.annotate(
        "teacher",
        (4, TEACHER[1]),
        xytext=(0, 6),
        textcoords="offset points",
        color=style["teacher"],
    )
    axes.set(
        xlabel="descent steps of size 0.1",
        ylabel="probability of t₂",
        xlim=(0, steps[-1]),
        ylim=(0.18, 0.34),
    )
    axes.set(xticks=[0, 20, 40, 60], yticks=[0.2, 0.25, 0.3])
    return drawn


def jsd_over_beta(style):
    """The generalised JSD of the notes' pair over its dial, as it stands and rescaled."""
    import matplotlib.pyplot as plt

    drawn, axes = plt.subplots(figsize=(5, 3.4))
    dial = np.linspace(0.001, 0.999, 300)
    as_it_stands = np.array([objectives.generalized_jsd(STUDENT, TEACHER, beta) for beta in dial])
    axes.plot(dial, as_it_stands, "--", color=style["jsd"])
    axes.plot(dial, as_it_stands / (dial * (1 - dial)), color=style["jsd"])
    axes.plot(0, objectives.forward_kl(STUDENT, TEACHER), "o", color=style["forward_kl"])
    axes.plot(1, objectives.reverse_kl(STUDENT, TEACHER), "o", color=style["reverse_kl"])
    axes.annotate("forward KL", (0.02, 0.67), color=style["forward_kl"])
    axes.annotate("reverse KL", (0.77, 0.72), color=style["reverse_kl"])
    axes.annotate("divided by β(1 − β)", (0.33, 0.54), color=style["jsd"])
    axes.annotate("the formula as it stands", (0.28, 0.19), color=style["jsd"])
    axes.set(xlabel="β", ylabel="loss", ylim=(0, 0.8), xlim=(-0.02, 1.02))
    return drawn


def share_of_the_top(style):
    """Reverse KL against the student's share of the teacher's first two tokens."""
    import matplotlib.pyplot as plt

    drawn, axes = plt.subplots(figsize=(5, 3.4))
    share, known = np.linspace(0.001, 0.999, 400), TEACHER[:2].sum()
    head = share * np.log(share / known)
    full = head + (1 - share) * np.log((1 - share) / (1 - known))
    axes.plot(share, head, "--", color=style["reverse_kl"])
    axes.plot(share, full, color=style["reverse_kl"])
    axes.plot(known / np.e, -known / np.e, "o", color=style["reverse_kl"])
    axes.plot(known, 0, "o", color=style["teacher"])
    axes.annotate("with the tail", (0.33, 1.0), color=style["reverse_kl"])
    axes.annotate("S alone", (0.62, -0.42), color=style["reverse_kl"])
    axes.annotate("lowest at $q_S/e$", (0.2, -0.5), color=style["reverse_kl"])
    axes.annotate("teacher", (0.83, 0.12), color=style["teacher"])
    axes.set(xlabel="the student's share of S, $p_S$", ylabel="loss", ylim=(-0.6, 2.4))
    return drawn


@functools.cache
def fifty_tokens():
    """A student and a teacher over 50 tokens, from seeded normal logits of deviation 1.5."""
    return tuple(
        distributions.softmax(np.random.default_rng(seed).normal(0, 1.5, 50)) for seed in (1, 2)
    )


@functools.cache
def kl_along_training(draws, rate, steps=1000, runs=20, seed=0):
    """KL(p||q) at each step (steps + 1, runs) of descent in the logits of ``fifty_tokens``.

    ``draws`` tokens are sampled a step and their policy-gradient rows averaged; 0 draws
    means the exact gradient (one run, as they would all be alike).
    """
    start, teacher = fifty_tokens()
    random = np.random.default_rng(seed)
    z = np.tile(np.log(start), (runs if draws else 1, 1))
    values = []
    for _ in range(steps + 1):
        p = distributions.softmax(z)
        values.append(objectives.reverse_kl(p, teacher))
        if draws:
            cost = distributions.log_softmax(z) - np.log(teacher)
            z = z - rate * sampled_gradient(p, cost, random, draws)
        else:
            z = z - rate * objectives.reverse_kl_logit_gradient(p, teacher)
    return np.array(values)


def sampled_gradient(p, cost, random, draws):
    """Mean over ``draws`` tokens k ~ p of cost_k (δ_kj − p_j), for each row of p (runs, V)."""
    weights = random.multinomial(draws, p) / draws * cost
    return weights - weights.sum(axis=-1, keepdims=True) * p


def training_with_few_draws(style):
    """KL along training: exact gradient against one and eight sampled tokens a step."""
    import matplotlib.pyplot as plt

    drawn, axes = plt.subplots(figsize=(5, 3.4))
    for draws, rate, role, line, label, place in (
        (0, 2, "reverse_kl", "-", "GKD, step 2", (60, 0.0014)),
        (8, 2, "policy_gradient", "-", "PG, 8 draws, step 2", (545, 0.0068)),
        (1, 0.5, "policy_gradient", "--", "PG, 1 draw, step ½", (480, 0.095)),
        (1, 2, "policy_gradient", ":", "PG, 1 draw, step 2", (480, 2.3)),
    ):
        runs = np.median(kl_along_training(draws, rate), axis=1)
        axes.semilogy(np.arange(len(runs))[::10], runs[::10], color=style[role], linestyle=line)
        axes.annotate(label, place, color=style[role])
    axes.set(
        xlabel="training steps", ylabel="KL(p‖q), median of runs", xlim=(0, 1000), ylim=(5e-4, 6)
    )
    axes.set_xticks([0, 500, 1000])
    axes.minorticks_off()
    return drawn


def tilted_teacher(style):
    """The teacher, the factor of a reward for t₂ alone, and their product over its sum."""
    import matplotlib.pyplot as plt

    reward = np.array([0.0, 1.0, 0.0])
    product = estimators.tilted_teacher(TEACHER, reward, 1.0)
    drawn, panels = plt.subplots(1, 3, figsize=(5, 2.4))
    for axes, heights, role, title in zip(
        panels,
        (TEACHER, np.exp(reward), product),
        ("teacher", "policy_gradient", "student"),
        ("teacher $q$", "factor $e^{wR}$", "student at the end"),
    ):
        bars = axes.bar(["t₁", "t₂", "t₃"], heights, color=style[role])
        axes.bar_label(bars, [plain(height) for height in heights], fontsize=9)
        axes.set_title(title, color=style[role])
        axes.set(ylim=(0, 1.25 * max(heights)), yticks=[])
    return drawn


# What each shows, in words, is its alt text.
FIGURES = {
    "second-token-along-descent": {
        "draw": second_token_along_descent,
        "alt": (
            "Two curves over 60 descent steps, both starting at .3: under reverse KL the "
            "probability of the second token first rises clearly, then falls and is still above "
            "the teacher's .2 at the end; under forward KL it stays flat for a moment, falls, "
            "and ends at .2."
        ),
    },
    "jsd-over-beta": {
        "draw": jsd_over_beta,
        "alt": (
            "The loss against β. The formula as it stands is an arch that falls to zero at both "
            "ends. Divided it is nearly level and runs from a dot, forward KL, to another, "
            "reverse KL."
        ),
    },
    "share-of-the-top": {
        "draw": share_of_the_top,
        "alt": (
            "The loss against the student's share of S. With the tail it is lowest, and zero, at "
            "the teacher's share. The sum over S alone goes below zero and is lowest at that "
            "share over e."
        ),
    },
    "training-with-few-draws": {
        "draw": training_with_few_draws,
        "alt": (
            "KL against training step on a logarithmic scale. The exact gradient falls fastest; "
            "eight draws a step follow it, lag behind for some hundred steps and end close to "
            "it; one draw with the same step size stays high; one draw with a quarter of the "
            "step falls slowly."
        ),
    },
    "tilted-teacher": {
        "draw": tilted_teacher,
        "alt": (
            "Three bar charts over the three tokens. The teacher has most on the first. The "
            "factor is 1, e, 1. Their product, divided by its sum: the second token has doubled, "
            "the others shrank."
        ),
    },
    "what-and-how": {
        "draw": what_and_how,
        "alt": (
            "Three panels of pushes on two tokens. Exact: one cross inside a ring. A drawn token: "
            "three dots far apart, and the cross of their mean still inside the ring. Its cost cut "
            "at 1: the dots have moved, and the cross is outside the ring."
        ),
    },
    "drawn-token-and-mean": {
        "draw": drawn_token_and_mean,
        "alt": (
            "The cost of the drawn token against the logit of token 3: three grey staircases, "
            "flat between jumps, one for each fixed draw; and the mean over all draws, a smooth "
            "rising curve."
        ),
    },
}
