"""Baselines and estimators: the same expected gradient, another variance (chapter 5)."""

import traitlets

from opd_toy.example import STUDENT, TEACHER
from opd_toy.explorables.host import Distribution, Explorable


class Baselines(Explorable):
    """What a constant baseline does to the policy gradient, and what k1, k2, k3 follow.

    Traits: ``student``, ``teacher`` (3 probabilities each); ``view`` ("baseline":
    total variance as a function of the ``baseline`` b taken from the log-ratio;
    "k_estimators": the expected gradient of the estimator ``kind`` in its ``use``,
    differentiated as a "loss" or as a detached "reward").
    """

    shown = (
        "The book's example. The total variance of the policy gradient as a parabola in the "
        "constant baseline b: .465 without a baseline, .538 with KL(p||q) = .68 as the baseline, "
        "1.395 with -1, least (.426) at .25. The expected gradient is the same for every b; "
        "KL(p||q) in the advantage's place has expected gradient 0."
    )
    student = Distribution(STUDENT.tolist()).tag(sync=True)
    teacher = Distribution(TEACHER.tolist()).tag(sync=True)
    view = traitlets.Enum(("baseline", "k_estimators"), "baseline").tag(sync=True)
    baseline = traitlets.Float(0.0, min=-6, max=6).tag(sync=True)
    kind = traitlets.Enum(("k1", "k2", "k3"), "k1").tag(sync=True)
    use = traitlets.Enum(("loss", "reward"), "loss").tag(sync=True)
