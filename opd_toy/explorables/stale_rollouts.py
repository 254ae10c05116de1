"""Stale rollouts: tokens that another policy drew, and what corrects them (chapter 9)."""

import numpy as np
import traitlets

from opd_toy.example import STUDENT, TEACHER
from opd_toy.explorables.host import Distribution, Explorable
from opd_toy.records import provenance

CORRECTIONS = ("none", "ratio", "truncate", "mask", "clip")
COSTS = ("recomputed", "kept")


class StaleRollouts(Explorable):
    """The expected gradient of each correction, its bias and variance, and where descent ends.

    Traits: ``student``, ``teacher``, ``behaviour`` (3 probabilities each), ``sampler`` ("all", or
    "top_p": the behaviour without its rarest token), ``correction`` and ``cost`` as in
    ``opd_toy.off_policy.policy_gradient``, with the limits ``most`` (of "truncate"), ``low`` and
    ``high`` (of "mask") and ``epsilon`` (of "clip"), ``renew`` (1, 4 or 16: after how many steps
    the second descent takes its student as the behaviour).
    Raises FileNotFoundError, naming the command that makes it, where the record is missing.
    """

    shown = (
        "The triangle of three tokens with the student, the teacher and, apart from the student, "
        "the behaviour: an older student that drew the tokens. Two arrows at the student: the "
        "exact gradient step, and that of ratios truncated at 1.2, which is off. Bars compare bias "
        "and variance of five corrections: none, ratio, truncated, masked, clipped. A small chart "
        "shows how the product of ratios silences texts as they grow longer."
    )
    student = Distribution(STUDENT.tolist()).tag(sync=True)
    teacher = Distribution(TEACHER.tolist()).tag(sync=True)
    behaviour = Distribution([0.4, 0.3, 0.3]).tag(sync=True)
    sampler = traitlets.Enum(("all", "top_p"), "all").tag(sync=True)
    correction = traitlets.Enum(CORRECTIONS, "truncate").tag(sync=True)
    cost = traitlets.Enum(COSTS, "recomputed").tag(sync=True)
    most = traitlets.Float(1.2, min=0.5, max=5).tag(sync=True)
    low = traitlets.Float(0.6, min=0, max=1).tag(sync=True)
    high = traitlets.Float(1.5, min=1, max=5).tag(sync=True)
    epsilon = traitlets.Float(0.2, min=0, max=1).tag(sync=True)
    renew = traitlets.Enum((1, 4, 16), 4).tag(sync=True)
    recording = traitlets.Dict().tag(sync=True, data=True)

    def __init__(self, **traits):
        super().__init__(recording=recording(), **traits)

    def drawn_from(self):
        """The behaviour as the sampler draws from it (3,): with "top_p" its rarest token is 0."""
        mu = np.array(self.behaviour)
        if self.sampler == "top_p":
            mu[mu.argmin()] = 0
        return mu / mu.sum()

    def limits(self, correction):
        """The ``limits`` that ``opd_toy.off_policy.policy_gradient`` takes for this correction."""
        low, high, epsilon = self.low, self.high, self.epsilon
        known = {"truncate": self.most, "mask": (low, high), "clip": (epsilon, epsilon)}
        return known.get(correction)


def recording():
    """What the module needs of the record of training on old texts: KLs, by run and age."""
    record = provenance.recorded("stale-rollouts", "stale")
    names = [*CORRECTIONS, "kept"]
    return {
        "steps": record["steps"],
        "words": {name: record["words"][name] for name in names},
        "curves": {
            name: {
                age: [round(kl, 4) for kl in run["kl"]] for age, run in record["runs"][name].items()
            }
            for name in names
        },
    }
