"""The still figures of the book, and the command that draws them into ``figures/``.

Each drawing takes a ``style`` (light or dark paper, a colour a role) and computes what
it shows from the engine.  Chapters show the same drawings with ``opd_toy.page.figure``.
"""

import numpy as np

from opd_toy import distributions, estimators, objectives

STUDENT = np.array([0.2, 0.3, 0.5])
TEACHER = np.array([0.7, 0.2, 0.1])


def variance_against_baseline(style):
    """Exact total variance of the sampled gradient as its constant baseline moves."""
    import matplotlib.pyplot as plt

    baselines = np.linspace(-1.2, 1.4, 200)

    def variance(baseline):
        table = estimators.policy_gradient(STUDENT, TEACHER, baseline)
        return estimators.total_variance(STUDENT, table)

    drawn, axes = plt.subplots()
    axes.plot(baselines, [variance(b) for b in baselines], color=style["policy_gradient"])
    marks = {
        "add one (−1)": -1.0,
        "none (0)": 0.0,
        "best": float(estimators.optimal_baseline(STUDENT, TEACHER)),
        "the full KL": float(distributions.kl(STUDENT, TEACHER)),
    }
    for offset, (name, baseline) in zip((8, 22, -22, -16), marks.items()):
        axes.plot(baseline, variance(baseline), "o", color=style["ink"])
        axes.annotate(
            f"{name}: {variance(baseline):.3f}", (baseline, variance(baseline)),
            xytext=(8, offset), textcoords="offset points", color=style["ink"],
        )  # fmt: skip
    axes.set(xlabel="constant baseline b", ylabel="total variance", ylim=(0, None))
    return drawn


# name -> (drawing, what it shows in words)
FIGURES = {
    "variance-against-baseline": (
        variance_against_baseline,
        "A parabola: the exact variance of the sampled gradient against its baseline, lowest "
        "near a quarter, higher at the full KL than at no baseline.",
    ),
}


def draw_all(directory):
    """Write every figure as NAME-light.svg and NAME-dark.svg; return the paths."""
    from opd_toy.page import draw_svg

    paths = []
    for name, (draw, _) in FIGURES.items():
        for paper in ("light", "dark"):
            path = directory / f"{name}-{paper}.svg"
            path.write_text(draw_svg(draw, paper == "dark"), encoding="utf-8")
            paths.append(path)
    return paths


def make(directory):
    """Draw every figure, photograph every explorable, record what made them."""
    from opd_toy import provenance
    from opd_toy.explorables import stills

    directory.mkdir(parents=True, exist_ok=True)
    drawn = draw_all(directory)
    provenance.record(
        directory / "figures.json",
        {"files": [path.name for path in drawn]},
        sources=["opd_toy/figures.py", "opd_toy/palette.py", "opd_toy/page.py", *_ENGINE],
        packages=["numpy", "matplotlib"],
    )
    photographed = stills.photograph(directory)
    provenance.record(
        directory / "explorables.json",
        {"files": [path.name for path in photographed]},
        sources=["opd_toy/palette.py", *(f"opd_toy/explorables/*.{kind}" for kind in ("py", "js", "css"))],
        packages=["anywidget", "playwright"],
    )
    return [*drawn, *photographed]


_ENGINE = [f"opd_toy/{name}.py" for name in ("distributions", "objectives", "estimators")]
