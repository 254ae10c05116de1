"""Seek or cover: what a student too small for its teacher settles on (chapter 3)."""

import traitlets

from opd_toy.explorables.host import Explorable


class SeekOrCover(Explorable):
    """Descent of a one-bump student towards a teacher of two modes, over 40 ordered tokens.

    The teacher is a mixture of two discretised Gaussians of standard deviation ``width``
    (tokens), their centres ``separation`` tokens apart around 20.5, the left one with
    share ``weight``.  The student starts as a discretised Gaussian at ``start_mean``
    with ``start_width`` (the sigma of its logits -(v - mu)^2 / (2 sigma^2), in tokens).

    Traits: those, ``family`` ("bump": descent in mu and log sigma; "free": in all 40
    logits), ``objective`` ("forward_kl", "reverse_kl", "jsd") and ``beta`` of the JSD,
    ``steps`` (of descent taken so far; past the end of the descent it shows the end).
    """

    shown = (
        "A teacher with two modes, 16 tokens apart, the left one with .6 of the mass, and a "
        "student that can only be one bump, started near the right mode. Under forward KL it "
        "ends as a wide bump over both modes, with the teacher's mean and standard deviation; "
        "under reverse KL and under JSD(0.5) it ends on the right mode alone."
    )
    separation = traitlets.Float(16.0, min=0, max=20).tag(sync=True)
    weight = traitlets.Float(0.6, min=0.05, max=0.95).tag(sync=True)
    width = traitlets.Float(2.0, min=2, max=3).tag(sync=True)
    start_mean = traitlets.Float(25.0, min=5, max=36).tag(sync=True)
    start_width = traitlets.Float(3.0, min=2, max=12).tag(sync=True)
    family = traitlets.Enum(("bump", "free"), "bump").tag(sync=True)
    objective = traitlets.Enum(("forward_kl", "reverse_kl", "jsd"), "reverse_kl").tag(sync=True)
    beta = traitlets.Float(0.5, min=0, max=1).tag(sync=True)
    steps = traitlets.Int(0, min=0, max=300).tag(sync=True)
