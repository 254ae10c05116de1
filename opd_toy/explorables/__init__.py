"""The sliders: each a widget in Jupyter and a living figure in the page."""

from opd_toy.explorables.push_and_pull import PushAndPull

__all__ = ["PushAndPull"]
