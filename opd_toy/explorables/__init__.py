"""The sliders: each a widget in Jupyter and a living figure in the page.

A widget is imported when it is first asked for, so that the palette and the finder of the
browser, which live here too, need none of the widgets' packages.
"""

import importlib

MODULES = {
    "Baselines": "baselines",
    "BiasAgainstVariance": "bias_against_variance",
    "ControlStudy": "control_study",
    "Credit": "credit",
    "Derail": "derail",
    "HardToSoft": "hard_to_soft",
    "LearningCurves": "learning_curves",
    "LossMuseum": "loss_museum",
    "PushAndPull": "push_and_pull",
    "SampleAndAverage": "sample_and_average",
    "SeekOrCover": "seek_or_cover",
    "StaleRollouts": "stale_rollouts",
    "WhichToken": "which_token",
    "YourLoss": "your_loss",
}
__all__ = list(MODULES)


def __getattr__(name):
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{MODULES[name]}"), name)
