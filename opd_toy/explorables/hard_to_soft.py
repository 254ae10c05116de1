"""Hard to soft: the teacher's label sharpened from its distribution to one-hot (chapter 1)."""

import traitlets

from opd_toy.explorables.host import Distribution, Explorable


class HardToSoft(Explorable):
    """Five tokens, a soft label that sharpens into a hard one, and its gradient.

    Traits: ``student``, ``teacher`` (5 probabilities each), ``token`` (1…5, the data
    token n that the hard label names), ``sharpness`` s from 0 to 1: the label is the
    mixture (1−s)·teacher + s·e_n, the teacher itself at 0 and one-hot at 1.
    """

    shown = (
        "Five tokens, the data token is t₁. The teacher gives t₁ .45 and t₂ .35, the student "
        "gives them .15 and .10. With the teacher's soft label a descent step raises both; with "
        "the hard label, SFT, it raises t₁ further and lowers every other token, t₂ too. As the "
        "label sharpens, the SeqKD gradient p − q becomes SFT's p − e₁, and the soft-label "
        "loss, forward KL plus the label's entropy, loses its entropy."
    )
    student = Distribution([0.15, 0.10, 0.30, 0.25, 0.20]).tag(sync=True)
    teacher = Distribution([0.45, 0.35, 0.10, 0.07, 0.03]).tag(sync=True)
    token = traitlets.Int(1, min=1, max=5).tag(sync=True)
    sharpness = traitlets.Float(0.0, min=0, max=1).tag(sync=True)
