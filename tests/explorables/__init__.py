"""Reading and moving an explorable in a page, and what it ought to show.

The engine is the judge: ``check(page, place, widget)`` reads the state that the controls show and
every number beside them, and compares the numbers with the engine's at that state.
"""

import re

from tests.explorables.derail import derail
from tests.explorables.draws_and_descents import sample_and_average, seek_or_cover
from tests.explorables.museum import MUSEUM, loss_museum
from tests.explorables.one_position import baselines, hard_to_soft, push_and_pull, which_token
from tests.explorables.reading import WIDGETS, check_printed, page_of, read
from tests.explorables.records import control_study, learning_curves
from tests.explorables.stale import stale_rollouts
from tests.explorables.trees import bias_against_variance, credit
from tests.explorables.your_loss import your_loss

__all__ = ["CHECKS", "MUSEUM", "WIDGETS", "check", "page_of", "read"]

CHECKS = {
    "Baselines": baselines,
    "BiasAgainstVariance": bias_against_variance,
    "Credit": credit,
    "ControlStudy": control_study,
    "Derail": derail,
    "HardToSoft": hard_to_soft,
    "LearningCurves": learning_curves,
    "LossMuseum": loss_museum,
    "PushAndPull": push_and_pull,
    "SampleAndAverage": sample_and_average,
    "SeekOrCover": seek_or_cover,
    "StaleRollouts": stale_rollouts,
    "WhichToken": which_token,
    "YourLoss": your_loss,
}


def check(root, widget, **known):
    """Every number that ``root`` shows is the engine's at the state it shows."""
    seen = read(root)
    check_printed(seen)
    CHECKS[type(widget).__name__](seen, widget, **known)
    assert not re.search("undefined|NaN|null", seen.html), seen.html
    return seen
