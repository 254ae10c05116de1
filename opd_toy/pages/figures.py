"""The still figures of the book, and the command that draws them into ``figures/``.

Each drawing takes a ``style`` (light or dark paper, a colour a role) and computes what
it shows from the engine.  Chapters show the same drawings with ``opd_toy.pages.page.figure``.
"""

import functools

import numpy as np

from opd_toy import distributions, estimators, objectives
from opd_toy.records import provenance

STUDENT = np.array([0.2, 0.3, 0.5])
TEACHER = np.array([0.7, 0.2, 0.1])


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


def sample_mean_error(samples, runs=2000, seed=2026):
    """Root-mean-square distance of the mean of ``samples`` policy gradients from the exact one."""
    table = estimators.policy_gradient(STUDENT, TEACHER)
    counts = np.random.default_rng(seed).multinomial(
        samples, STUDENT, size=runs
    )  # how often each token came
    distance = counts @ table / samples - estimators.expectation(STUDENT, table)
    return float(np.sqrt((distance**2).sum(axis=1).mean()))


def monte_carlo():
    """Measured error of the sample mean and its exact law, sigma / sqrt(N); data of chapter 2."""
    samples = [4**i for i in range(7)]
    sigma = np.sqrt(
        estimators.total_variance(STUDENT, estimators.policy_gradient(STUDENT, TEACHER))
    )
    return {
        "samples": samples,
        "measured": [sample_mean_error(n) for n in samples],
        "exact": [float(sigma / np.sqrt(n)) for n in samples],
    }


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


@functools.cache
def fifty_tokens():
    """A student and a teacher over 50 tokens: softmax of seeded normal logits, standard deviation 1.5."""
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


def study_visitation(style):
    """Where the trained students stand at each time step, for three γ and both tasks, all seeds."""
    import matplotlib.pyplot as plt
    from matplotlib.colors import LinearSegmentedColormap, PowerNorm

    study = provenance.recorded("control-study", "variance")
    visits, bins = study["visitation"], study["visitation"]["bins"]
    share = np.array(visits["counts"]) / visits["trajectories"]  # (γ, task, time, bin)
    steps, most = share.shape[2], bins[-1]
    shades = LinearSegmentedColormap.from_list("visits", [style["wash"], style["student"]])
    drawn, axes = plt.subplots(figsize=(5, 4.2))
    ticks, labels = [], []
    for task, height in enumerate(
        (2.3 * most, 0)
    ):  # all panels in one frame: a fraction of the weight of six
        for column, gamma in enumerate(visits["gammas"]):
            left = column * (steps + 3)
            axes.imshow(share[column, task].T, origin="lower", aspect="auto", interpolation="none", cmap=shades,
                        norm=PowerNorm(0.5, 0, 1), extent=(left, left + steps, height - most, height + most))  # fmt: skip
            if task == 0:
                axes.text(
                    left + steps / 2,
                    height + most + 1,
                    f"γ = {gamma:g}",
                    ha="center",
                    color=style["ink"],
                )
        axes.plot(
            -0.6, height + study["targets"][task], marker=">", color=style["teacher"], clip_on=False
        )
        ticks += [height - most, height + study["targets"][task], height + most]
        labels += [f"−{most:g}", f"{study['targets'][task]:g}".replace("-", "−"), f"{most:g}"]
        axes.text(
            -8.5,
            height,
            f"{study['tasks'][task]} task: position",
            rotation=90,
            va="center",
            ha="right",
            color=style["ink"],
        )
    lefts = [column * (steps + 3) + 0.5 for column in range(len(visits["gammas"]))]
    axes.set(
        xlim=(0, lefts[-1] + steps),
        ylim=(-most, 3.3 * most),
        yticks=ticks,
        yticklabels=labels,
        xlabel="time step",
    )
    axes.set(
        xticks=[left + t for left in lefts for t in (0, 10, 20)],
        xticklabels=["0", "10", "20"] * len(lefts),
    )
    axes.grid(False)
    axes.tick_params(length=0, pad=9)
    axes.spines[:].set_visible(False)
    return drawn


def powers_of_ten(axes, low, high):
    """A logarithmic axis whose labels are plain text."""
    exponents = range(low, high + 1)
    axes.set_yscale("log")
    axes.set_yticks(
        [10.0**e for e in exponents],
        ["10" + str(e).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")) for e in exponents],
    )
    axes.minorticks_off()
    axes.tick_params(length=0)
    axes.grid(visible=False, axis="x")


def label_ends(axes, x, ends, gap):
    """Labels beside the right ends of lines: ends {label: (height, colour)}, ``gap`` decades apart at least."""
    place = -np.inf
    for label, (height, colour) in sorted(ends.items(), key=lambda end: end[1][0]):
        place = max(np.log10(height), place + gap)
        axes.annotate(
            label,
            (x, 10**place),
            xytext=(6, -4),
            textcoords="offset points",
            color=colour,
            annotation_clip=False,
        )


STAGES = {"initial": "-", "early": (0, (9, 3)), "middle": (0, (5, 3)), "late": (0, (2, 2))}


def study_frozen(style):
    """The variance of each γ over that of γ = 0, at the same frozen student, with bootstrap intervals."""
    import matplotlib.pyplot as plt

    stages = provenance.recorded("control-frozen", "variance frozen")["stages"]
    drawn, all_axes = plt.subplots(1, 2, figsize=(5, 3.6), sharey=True)
    for axes, estimator, role, title in zip(
        all_axes,
        ("sampled", "full_vocabulary"),
        ("policy_gradient", "reverse_kl"),
        ("sampled costs", "exact costs"),
    ):
        ends = {}
        for stage, dashes in STAGES.items():
            rows = stages[stage]["tasks"]["left"]["estimators"]
            one = next(
                row["output_layer"]["variance"]
                for row in rows
                if row["estimator"] == "sampled" and row["gamma"] == 0
            )
            mine = [row for row in rows if row["estimator"] == estimator]
            gammas, ratios = (
                [row["gamma"] for row in mine],
                np.array([row["output_layer"]["variance"] / one for row in mine]),
            )
            low, high = np.array(
                [row["output_layer"]["ratio_to_immediate_interval"] for row in mine]
            ).T
            axes.plot(gammas, ratios, color=style[role], linestyle=dashes, linewidth=1.8)
            axes.plot(
                np.repeat(gammas, 3),
                np.column_stack([low, high, np.full_like(low, np.nan)]).ravel(),
                color=style[role],
                linewidth=1.2,
            )
            ends[f"{stages[stage]['iteration']:,}"] = ratios[-1], style["ink"]
        axes.plot([0, 1], [1, 1], color=style["muted"], linewidth=1)
        axes.set_title(title, color=style["ink"])
        axes.set(xlabel="γ", xlim=(-0.05, 1.35), xticks=[0, 0.5, 1])
        powers_of_ten(axes, -3, 2)
        label_ends(axes, 1, ends, 0.3)
    all_axes[0].set(ylabel="variance ÷ that of γ = 0, sampled")
    return drawn


GROWTH = (
    ("sampled", 0, "γ 0", (0, (1, 1.5))),
    ("sampled", 0.5, "γ .5", (0, (5, 3))),
    ("sampled", 1, "γ 1", "-"),
    ("full_return", 1, "full", "-"),
)


def study_growth(style):
    """The variance against the length at an untrained and at a trained student, beside the bounds' slopes."""
    import matplotlib.pyplot as plt

    frozen = provenance.recorded("control-frozen", "variance frozen")
    lengths = np.array(frozen["lengths"])
    drawn, all_axes = plt.subplots(1, 2, figsize=(5, 3.8), sharey=True)
    for axes, stage, title in zip(
        all_axes, ("initial", "late"), ("untrained student", "trained student")
    ):
        rows = {
            (row["estimator"], row["gamma"]): row["variance"]
            for row in frozen["growth"][stage]
            if row["parameters"] == "output_layer"
        }
        one, ends = rows["sampled", 0][0], {}
        for estimator, gamma, label, dashes in GROWTH:
            values = np.array(rows[estimator, gamma]) / one
            role = "muted" if estimator == "full_return" else "policy_gradient"
            axes.plot(lengths, values, color=style[role], linestyle=dashes, linewidth=1.8)
            ends[label] = values[-1], style[role]
        for slope, start in ((2, 1), (4, rows["full_return", 1][0] / one)):
            axes.plot(
                lengths,
                start * (lengths / lengths[0]) ** slope,
                color=style["muted"],
                linewidth=0.8,
            )
            axes.annotate(
                f"slope {slope}",
                (lengths[-2], start * (lengths[-2] / lengths[0]) ** slope),
                xytext=(-3, 4),
                textcoords="offset points",
                ha="right",
                color=style["muted"],
            )
        axes.set_title(title, color=style["ink"])
        axes.set(xlabel="length T", xscale="log", xlim=(lengths[0], lengths[-1] * 2.2))
        axes.set_xticks(lengths[::2], [str(length) for length in lengths[::2]])
        powers_of_ten(axes, 0, 6)
        label_ends(axes, lengths[-1], ends, 0.4)
    all_axes[0].set(ylabel="variance ÷ that of γ = 0 at T = 5")
    return drawn


# name -> (drawing, what it shows in words)
FIGURES = {
    "second-token-along-descent": (
        second_token_along_descent,
        "Two curves over 60 descent steps, both starting at .3: under reverse KL the probability of "
        "the second token first rises clearly, then falls and is still above the teacher's .2 at the "
        "end; under forward KL it stays flat for a moment, falls, and ends at .2.",
    ),
    "training-with-few-draws": (
        training_with_few_draws,
        "KL against training step on a logarithmic scale. The exact gradient falls fastest; eight "
        "draws a step follow it, lag behind for some hundred steps and end close to it; one draw "
        "with the same step size stays high; one draw with a quarter of the step falls slowly.",
    ),
    "drawn-token-and-mean": (
        drawn_token_and_mean,
        "The cost of the drawn token against the logit of token 3: three grey staircases, flat "
        "between jumps, one for each fixed draw; and the mean over all draws, a smooth rising curve.",
    ),
    "study-visitation": (
        study_visitation,
        "Six heat-maps of position against time step: left and right task, γ = 0, .5 and 1. With γ = 0 and "
        ".5 all trajectories jump to the target in one step and stay there. With γ = 1 two thirds do so; "
        "the other third runs out of the picture, downwards in both tasks.",
    ),
    "study-frozen": (
        study_frozen,
        "Two panels: variance against γ, in units of the sampled variance at γ = 0, on a logarithmic "
        "axis, for a student stopped at four iterations. With sampled costs every line rises from 1, the "
        "untrained student's most steeply and the trained student's least. With exact costs all lines "
        "begin far below 1; the untrained student's rises above 1, the trained student's stays far below.",
    ),
    "study-growth": (
        study_growth,
        "Two panels, an untrained and a trained student: variance against length 5 to 80 on logarithmic "
        "axes. At the untrained student the full return and γ = 1 rise steeply, γ = 0 and .5 gently. "
        "At the trained student all rise less. The slopes 2 and 4 of the bounds are drawn as thin lines; "
        "the full return stays below slope 4.",
    ),
}


def draw_all(directory):
    """Write every figure as NAME-light.svg and NAME-dark.svg; return the paths."""
    from opd_toy.pages.page import draw_svg

    paths = []
    for name, (draw, _) in FIGURES.items():
        for paper in ("light", "dark"):
            path = directory / f"{name}-{paper}.svg"
            path.write_text(draw_svg(draw, paper == "dark"), encoding="utf-8")
            paths.append(path)
    return paths


def make(directory):
    """Draw every figure, photograph every explorable, record what made them."""
    from opd_toy import explorables
    from opd_toy.explorables import stills

    directory.mkdir(parents=True, exist_ok=True)
    drawn = draw_all(directory)
    provenance.record(
        directory / "figures.json",
        {"files": [path.name for path in drawn]},
        modules=["opd_toy.pages.figures"],
    )
    provenance.record(
        directory / "monte-carlo.json",
        monte_carlo(),
        modules=["opd_toy.pages.figures"],
        seed=2026,
    )
    photographed = stills.photograph(directory)
    provenance.record(
        directory / "explorables.json",
        {"files": [path.name for path in photographed]},
        modules=[
            "opd_toy.explorables.stills",
            *sorted(f"opd_toy.explorables.{name}" for name in explorables.MODULES.values()),
        ],
        files=["opd_toy/explorables/*.js", "opd_toy/explorables/*.css"],
    )
    return [*drawn, *photographed]
