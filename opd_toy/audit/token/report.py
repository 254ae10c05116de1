"""What ``audit`` hands back."""

from dataclasses import dataclass, field

import numpy as np

from opd_toy.audit.report import Report
from opd_toy.audit.token import words


@dataclass(frozen=True)
class TokenReport(Report):
    """What ``audit`` found.  All numbers are exact expectations over the tokens, in nats.

    ``optimises``: the objective whose gradient the loss follows in expectation, or
    "none of these"; where it follows it only there, " while the two are close" or, with a
    margin, " until they are close"; with a limit of its own, such as a clamp's,
    " where log q/p ≤ 15" (``limits``: [{"over", "at"}], of every token).
    ``holds_everywhere``: on all pairs; else ``holds_up_to`` is the largest ``|log p/q|`` up
    to which it holds on every pair tried (None: on no pair).
    ``objective`` and ``parameters``: f of ``opd_toy.objectives`` and its arguments, where
    the verdict is ``scale`` times one of its divergences; ``terms``: the sum in general.
    ``with_other_tokens``: the verdict with tokens drawn from the other of the two.
    At the notes' pair: ``expected_gradient`` (3,), ``standard_deviation`` (3,) of single
    draws, their total ``variance`` (the sum of its squares),
    ``variance_compared``: GKD's and the plain policy gradient's of the same scale.
    ``bias``: for each KL the relative distance of the gradient from it over the ordinary
    pairs (root mean square), as given and with the best scale.  ``nearest``: the KL or
    JSD with the largest mean cosine, or another named divergence that is much nearer.
    ``value_is``: what the loss's value is in expectation; ``value_at_teacher``: its value
    at student = teacher.
    ``fixed_point``: gradient there, and where descent from the notes' student ends.
    ``edges``: [{"edge", "severity", "finding"}], severity "broken", "note" or "fine".
    ``also``: another name of it.  ``factor``: the law of a factor that depends on the pair;
    ``mixture``: [{"name", "law", "at_notes_pair"}] of two terms whose weights do, or None.
    ``acts_on``: what the gradient of one draw pushes.  ``ratio_alone``: whether on each pair
    a token's weight w in p_j (w_j − mean) depends on log p/q alone (None: cannot be told);
    ``weight``: {"log_ratio", "weight", "increasing"}, its curve where it is one for all pairs
    and no KL's or JSD's, shifted to 0 at log p/q = 0.
    ``tolerance``: how far off the gradient may be on an ordinary pair without being
    seen, relative to its own length, or for "zero" to the mean length of single draws.
    ``call``: {"loss", "arguments", "notes"}, how the loss was called and what each argument got.
    ``farthest``: the largest ``|log p/q|`` of a token on any pair, ``reach``: each way.
    """

    optimises: str
    objective: str | None
    parameters: dict
    scale: float | None
    terms: list
    holds_everywhere: bool
    holds_up_to: float | None
    with_other_tokens: str | None
    expected_gradient: np.ndarray
    standard_deviation: np.ndarray
    variance: float
    variance_compared: dict
    bias: dict
    nearest: dict
    value_is: str | None
    value_at_teacher: dict
    fixed_point: dict
    edges: list
    touches_inputs: tuple
    teacher_gradient: bool
    uses_token: bool
    drawn_from: str
    precision: str
    tolerance: float
    seed: int
    pairs: int
    vocabularies: tuple
    farthest: float
    call: dict | None = None
    also: str | None = None
    factor: str | None = None
    mixture: list | None = None
    acts_on: str | None = None
    ratio_alone: bool | None = None
    weight: dict | None = None
    limits: tuple = ()
    reach: dict = field(default_factory=dict)

    def __str__(self):
        return words.text(self)

    def _repr_html_(self):
        from opd_toy.audit import drawing

        return drawing.of_tokens(self)
