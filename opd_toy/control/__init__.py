"""The two-teacher control study of chapter 6, on torch.

``task`` says what is learned and what tells the runs apart, ``policy`` holds the networks
and what they draw, ``gradients`` their gradients, ``training`` the training; ``study``,
``frozen`` and ``sensitivity`` compute the records, ``benchmark`` times a plain loop beside it.
"""

from opd_toy.control.gradients import micro_batch_variance
from opd_toy.control.policy import gaussian_kl, initial_parameters, roll_out
from opd_toy.control.task import BATCH, MICRO_BATCHES, make_runs
from opd_toy.control.training import (
    distance_to_target,
    distillation,
    fresh_positions,
    reinforcement,
    train,
    train_teachers,
)

__all__ = [
    "BATCH",
    "MICRO_BATCHES",
    "distance_to_target",
    "distillation",
    "fresh_positions",
    "gaussian_kl",
    "initial_parameters",
    "make_runs",
    "micro_batch_variance",
    "reinforcement",
    "roll_out",
    "train",
    "train_teachers",
]
