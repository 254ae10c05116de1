"""The sliders: each a widget in Jupyter and a living figure in the page."""

from opd_toy.explorables.baselines import Baselines
from opd_toy.explorables.bias_against_variance import BiasAgainstVariance
from opd_toy.explorables.control_study import ControlStudy
from opd_toy.explorables.credit import Credit
from opd_toy.explorables.hard_to_soft import HardToSoft
from opd_toy.explorables.learning_curves import LearningCurves
from opd_toy.explorables.loss_museum import LossMuseum
from opd_toy.explorables.push_and_pull import PushAndPull
from opd_toy.explorables.sample_and_average import SampleAndAverage
from opd_toy.explorables.seek_or_cover import SeekOrCover
from opd_toy.explorables.which_token import WhichToken

__all__ = [
    "Baselines",
    "BiasAgainstVariance",
    "ControlStudy",
    "Credit",
    "HardToSoft",
    "LearningCurves",
    "LossMuseum",
    "PushAndPull",
    "SampleAndAverage",
    "SeekOrCover",
    "WhichToken",
]
