"""What ``audit_sequence`` hands back."""

from dataclasses import dataclass

import numpy as np

from opd_toy.audit.report import Report
from opd_toy.audit.sequence import words


@dataclass(frozen=True)
class SequenceReport(Report):
    """What ``audit_sequence`` found.  Numbers are exact expectations over sequences, in nats.

    ``optimises``: what the loss's expected gradient is the gradient of, factor in front;
    "zero"; or "none of these".  "Sequence" and "expected" objectives count what a token does
    to all that follows; sums of "local" ones hold the prefixes passed fixed.
    ``objective``, ``scale``: the same apart, where it is one objective, else None and "1"
    (None where refuted); the scale "c(T)" follows no known law of T.
    ``holds_everywhere``: on trees far off too.
    ``credit`` (T, T) at T = 3, row t: the weights of the costs ``credit_of`` that the token
    at t pays for; ``credits`` for every length; None where they are not known.
    ``carried`` (T, T) at T = 3: the weights of the sampled costs in a single draw, where the
    past may appear, which the expectation loses; None where draws are of another form.
    ``unbiased_for``: {objective: factor}, if on every tree, those far off too, and with masks.
    ``bias``: for each objective the relative distance of the gradient from it at the best
    positive scale, over the trees with T = 3.  ``nearest``: the one with the largest cosine.
    ``description``: what a draw is, where it is standardized or less a group's mean, and what can
    be said of a loss without a name; else None.
    ``dependence``: {"student", "teacher", "tokens", "mask": (T, T)}, by how much of its length
    the gradient's row t changes with the input's row u, at T = 4; for texts that share
    something {"other text's student": (2, T, T), ...} too, of text b with the other's rows.
    ``with_other_tokens``: the verdict with sequences drawn from the other of the two,
    where this one is "zero" or "none of these"; divergences with a parameter left out.
    On the reference trees, V = T = 3: ``expected_gradient`` (P,), the total ``variance`` of
    one draw, ``variance_compared``: known estimators' of the same scale.
    ``value_is``: what the loss's value is in expectation.  ``fixed_point``: length of the
    expected gradient at student = teacher, relative to a draw's at the reference trees.
    ``mask``, ``batch``: {"normalised_by", ...}, None where the loss takes none.
    ``edges``: [{"edge", "severity", "finding"}], severity "broken", "note" or "fine".
    ``farthest``: the largest ``|log p/q|`` of a token that is drawn at all often; what is clipped
    beyond it is not seen.
    ``tolerance``: on every ordinary pair of trees, relative to the length of the expected
    gradient; for "zero" and in half precision, to the root mean square of a draw.
    ``condition``: worst condition number of the least squares.
    ``stale``: {"on_fresh_texts": the verdict without it, "level", "cost", "correction", "limits",
    "map"} where a third model wrote the texts: the ratios of which tokens are multiplied, and
    (T, T) by which powers row t of the gradient grows with the ratio at u.
    ``call``: {"loss", "arguments", "notes"}, how the loss was called and what each argument got.
    """

    optimises: str
    objective: str | None
    scale: str | None
    holds_everywhere: bool
    credit: np.ndarray | None
    credit_of: str | None
    credits: dict | None
    carried: np.ndarray | None
    unbiased_for: dict
    bias: dict
    nearest: dict
    description: str | None
    dependence: dict | None
    with_other_tokens: str | None
    expected_gradient: np.ndarray
    variance: float
    variance_compared: dict
    value_is: str | None
    fixed_point: float
    mask: dict | None
    batch: dict | None
    edges: list
    touches_inputs: tuple
    teacher_gradient: bool
    uses_tokens: bool
    drawn_from: str
    precision: str
    tolerance: float
    condition: float
    lengths: tuple
    vocabularies: tuple
    pairs: int
    farthest: float
    calls: int
    seed: int
    call: dict | None = None
    stale: dict | None = None

    def __str__(self):
        return words.text(self)

    def _repr_html_(self):
        from opd_toy.audit import drawing

        return drawing.of_texts(self)
