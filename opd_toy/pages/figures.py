"""The still figures of the book, by name.

Chapters show them by ``opd_toy.pages.page.figure(**FIGURES[name], caption=…)``;
``opd_toy.pages.making`` writes them into ``figures/``.
"""

from opd_toy.pages import (
    chapter_figures,
    door_figures,
    future_figures,
    growth_figures,
    stale_figures,
    study_figures,
    why_figures,
)
from opd_toy.pages.drawing import draw_svg

_DRAWN = (
    chapter_figures,
    door_figures,
    future_figures,
    growth_figures,
    stale_figures,
    study_figures,
    why_figures,
)
FIGURES = {name: figure for module in _DRAWN for name, figure in module.FIGURES.items()}


def draw_all(directory):
    """Write every figure as NAME-light.svg and NAME-dark.svg; return the paths."""
    paths = []
    for name, figure in FIGURES.items():
        for paper in ("light", "dark"):
            path = directory / f"{name}-{paper}.svg"
            path.write_text(draw_svg(figure["draw"], paper == "dark"), encoding="utf-8")
            paths.append(path)
    return paths
