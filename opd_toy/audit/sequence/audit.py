"""What a loss of whole sequences optimises: ``words(verdict(measure(loss)))``.

``measure`` calls the loss and fills tables, ``verdict`` and ``judge`` compute on the tables
alone, ``words`` turns the resulting report into sentences.
"""

from opd_toy import _validate
from opd_toy.audit.calling import AuditError
from opd_toy.audit.sequence.calls import SequenceCall
from opd_toy.audit.sequence.judge import is_described, judge, read, read_close
from opd_toy.audit.sequence.measure import measure, measure_close, measure_limits, measure_rounding
from opd_toy.audit.sequence.stale import with_stale_texts
from opd_toy.audit.ways import TEXTS, as_way, reported


def audit_sequence(
    loss,
    *,
    inputs="logits",
    k=2,
    labels=None,
    drawn_from="student",
    reward=None,
    batched=False,
    behaviour=None,
    seed=0,
):
    """What a loss of whole sequences optimises -> SequenceReport.

    ``loss(student_logits (T, V), teacher_logits (T, V), tokens (T,)[, mask (T,)])``: row t
    holds the logits of the token at position t, given those before it; the mask is 1
    at valid positions.  A loss of two arguments looks at the whole vocabulary.
    Arguments are told by their names, else by their places; ``inputs`` and ``k`` as in ``audit``,
    for every position.  An argument called labels gets the tokens, with -100 where the mask is
    0; ``labels``: "aligned" where label t belongs to logits t, "shift_inside" where the loss
    holds logits t against label t + 1; None finds out which.
    ``batched``: all arguments have a batch axis in front.  Every sequence of seeded random
    trees is enumerated, as drawn from ``drawn_from`` ("student" or "teacher").
    ``behaviour``: the argument of a third model, which wrote the texts, as in ``audit``: the
    verdict then says over which tokens the ratios are multiplied; all numbers stay those of
    texts that the student itself wrote.
    ``reward``: the function of tokens (T,) -> number that the loss itself uses, so that
    E[R grad log p] can be recognised; it must tell texts of tokens 0 and 1 apart.
    AuditError for a loss or a reward that cannot be audited.
    """
    _validate.choice("drawn_from", drawn_from, ("student", "teacher"))
    seed = _validate.whole("seed", seed, least=0)
    if reward is not None and not callable(reward):
        raise AuditError(
            f"reward is {reward!r}; "
            "give the function of tokens (T,) that returns the number the loss uses"
        )
    if drawn_from == "teacher" and behaviour is None:
        behaviour = False
    options = {"k": k, "labels": labels, "batched": batched, "behaviour": behaviour}
    way = as_way(loss, TEXTS, inputs=inputs, **options)
    call = SequenceCall(way, batched)
    measured = measure(call, drawn_from, reward, seed)
    reading = read(measured)
    if reading.asks_for_close_trees:
        # Perhaps for no more than a scalar in a coarser format.
        before, measured = measured.formats, measure_rounding(call, measured)
        reading = reading if measured.formats == before else read(measured)
    if reading.asks_for_close_trees and not is_described(measured):
        # Nothing holds where the two are drawn apart: the same again where they are close.
        measured = measure_close(call, measured, reward)
        reading = read_close(measured, reading)
    if reading.verdict.known:
        measured = measure_limits(call, measured, reward, reading.verdict, reading.tolerance)
    rest = {"drawn_from": drawn_from, "reward": reward, "seed": seed, **options}
    again = lambda other: audit_sequence(loss, inputs=other, **rest)
    report = judge(measured, reading)
    return reported(
        with_stale_texts(report, call) if way.behaviour_argument else report, way, batched, again
    )
