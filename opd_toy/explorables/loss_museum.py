"""The museum of losses: a wrong loss beside a right one, and where each leads (chapter 7)."""

import traitlets

from opd_toy.explorables.host import Distribution, Explorable

EXHIBITS = (
    "k1", "k3", "advantage", "stop_gradient", "direction", "beta", "tail", "value_clamp", "ratio_clamp", "temperature",
)  # fmt: skip


class LossMuseum(Explorable):
    """The expected gradient of a wrong loss beside a right one's, and plain descent on each.

    Traits: ``exhibit`` (a token-level one of ``opd_toy.audit.exhibits.museum.EXHIBITS``); ``student``,
    ``teacher`` (3 probabilities each); ``steps`` of size 0.2 on the logits; ``update`` ("expected": each step
    follows the expected gradient; "drawn": that of one token, drawn from the student as it then
    is, with the random numbers of ``seed``, the same for both losses).
    """

    shown = (
        "k1, the log-ratio of the drawn token, as a loss, on the notes' example. Its expected gradient "
        "is zero on every token, where the policy gradient raises tokens 1 and 2 and lowers token 3. "
        "After 100 steps of descent the student is where it was, at a reverse KL of .676; with the "
        "policy gradient it has reached the teacher."
    )
    exhibit = traitlets.Enum(EXHIBITS, "k1").tag(sync=True)
    student = Distribution([0.2, 0.3, 0.5]).tag(sync=True)
    teacher = Distribution([0.7, 0.2, 0.1]).tag(sync=True)
    steps = traitlets.Int(100, min=0, max=200).tag(sync=True)
    update = traitlets.Enum(("expected", "drawn"), "expected").tag(sync=True)
    seed = traitlets.Int(1, min=1, max=99).tag(sync=True)
