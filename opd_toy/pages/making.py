"""What ``python -m opd_toy figures`` makes: drawings, photographs and a record of each kind."""

from opd_toy import explorables
from opd_toy.explorables import stills
from opd_toy.pages.figures import draw_all
from opd_toy.pages.monte_carlo import SEED, monte_carlo
from opd_toy.records.provenance import record

# What each record depends on; the modules' own imports are found from there.
SOURCES = {
    "figures": {"modules": ("opd_toy.pages.figures",)},
    "monte-carlo": {"modules": ("opd_toy.pages.monte_carlo",)},
    "explorables": {
        "modules": (
            "opd_toy.explorables.stills",
            *(f"opd_toy.explorables.{name}" for name in sorted(explorables.MODULES.values())),
        ),
        "files": (
            "opd_toy/explorables/*.js",
            "opd_toy/explorables/*.css",
            "opd_toy/audit/exhibits/museum.py",  # whose code one slider shows
            "figures/lm-study-*.json",  # the learning curves show two of them
        ),
    },
}


def make(directory):
    """Draw every figure, photograph every slider, record what made them; return the paths."""
    directory.mkdir(parents=True, exist_ok=True)

    def keep(name, results, seed=None):
        record(directory / f"{name}.json", results, seed=seed, **SOURCES[name])

    drawn = draw_all(directory)
    keep("figures", {"files": [path.name for path in drawn]})
    keep("monte-carlo", monte_carlo(), SEED)
    photographed = stills.photograph(directory)
    keep("explorables", {"files": [path.name for path in photographed]})
    return [*drawn, *photographed]
