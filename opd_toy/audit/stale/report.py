"""What ``audit`` hands back of a loss whose tokens a third policy drew."""

from dataclasses import dataclass

import numpy as np

from opd_toy.audit.report import Report
from opd_toy.audit.stale import words
from opd_toy.audit.token.report import TokenReport


@dataclass(frozen=True)
class StaleReport(Report):
    """What was found.  Numbers are exact expectations over the behaviour's tokens, in nats.

    ``optimises``: the objective of the loss on tokens of the student's own, then how stale
    tokens are corrected and where that is biased; the objective alone where it does not
    matter who drew the token; or a sum of KLs, "to the behaviour" too; "none of these".
    ``on_fresh_tokens``: the objective where the student itself draws.
    ``correction``: "none", "ratio", "truncate", "mask", "clip" with ``limits`` as in
    ``opd_toy.off_policy``; "power", with the exponent as its limit; "not needed"; "other"; None
    where the token's gradient is not a factor of its ratio times that of a fresh one.
    ``cost``: "recomputed", the student's of now; "kept", the rollout's; None where unknown.
    ``rests_at_teacher``: whether the mean gradient is 0 at student = teacher whatever the
    behaviour; ``at_teacher``: its length there, relative to an ordinary one.
    ``terms``: [(coefficient, name)] of the mean gradient, where that is a sum of these.
    ``pieces``: {"cost above 0": [{"up_to", "level", "power"}], "cost below 0": ...}, the factor.
    At the notes' pair with the older student (.4, .3, .3): ``expected_gradient`` (3,), its
    ``bias``, the distance from the gradient on fresh tokens over that one's length, the total
    ``variance`` of one draw, and ``variance_compared``: of the same loss on fresh tokens, and of
    the plain on-policy gradient of the reverse KL.
    ``fresh``: the TokenReport on tokens of the student's own; ``edges``: its findings and those
    of stale tokens.  ``call``: how the loss was called and what each argument got.
    """

    optimises: str
    on_fresh_tokens: str
    correction: str | None
    limits: object
    cost: str | None
    rests_at_teacher: bool
    at_teacher: float
    terms: list
    pieces: dict | None
    expected_gradient: np.ndarray
    bias: float | None
    variance: float
    variance_compared: dict
    edges: list
    precision: str
    tolerance: float
    seed: int
    triples: int
    fresh: TokenReport
    drawn_from: str = "behaviour"
    call: dict | None = None

    def __str__(self):
        return words.text(self)

    def _repr_html_(self):
        import html

        return f"<pre>{html.escape(str(self))}</pre>"
