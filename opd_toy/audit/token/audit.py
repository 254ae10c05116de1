"""What a loss of one token optimises: ``words(verdict(measure(loss)))``.

``measure`` calls the loss and fills tables, ``verdict`` and ``judge`` compute on the tables
alone, ``words`` turns the resulting report into sentences.
"""

from opd_toy import _validate
from opd_toy.audit.stale.judge import judge as stale_judge
from opd_toy.audit.stale.measure import measure as stale_measure
from opd_toy.audit.token.judge import judge
from opd_toy.audit.token.measure import measure
from opd_toy.audit.ways import TOKENS, as_way, reported


def audit(
    loss, *, inputs="logits", k=2, batched=False, drawn_from="student", behaviour=None, seed=0
):
    """What ``loss(student_logits (V,), teacher_logits (V,), token)`` optimises -> TokenReport.

    ``token`` is an int64 tensor without axes; a loss of two arguments looks at the
    whole vocabulary.  Arguments are told by their names (student, teacher, ref, labels, ...),
    else by their places.  ``inputs``: what the models' arguments are: "logits", "log_probs" and
    "probs" (V,), "token_log_probs", the log-probability of the token alone, or "top_k": the
    student's logits, ids and log-probabilities (K,) of the teacher's ``k`` likeliest tokens;
    a pair such as ("log_probs", "probs") where the two differ, or three with the behaviour's.
    ``batched``: all arguments have a batch axis in front.
    ``behaviour``: the argument of a third model, which draws the tokens: its name, None where
    names tell (old, rollout, behaviour, sampling, ...), False for none: an old policy is then
    the student, detached.  With a behaviour -> StaleReport.
    Every token of seeded random pairs is enumerated, so that the
    expectation over tokens of ``drawn_from`` ("student" or "teacher") is exact.
    AuditError for a loss that cannot be audited; its message says what to change.
    """
    _validate.choice("drawn_from", drawn_from, ("student", "teacher"))
    seed = _validate.whole("seed", seed, least=0)
    if drawn_from == "teacher" and behaviour is None:
        behaviour = False
    options = {"k": k, "batched": batched, "behaviour": behaviour}
    way = as_way(loss, TOKENS, inputs=inputs, **options)
    if way.behaviour_argument:
        report = stale_judge(stale_measure(way, seed))
    else:
        report = judge(measure(way, drawn_from, seed))
    rest = {**options, "drawn_from": drawn_from, "seed": seed}
    again = lambda other: audit(loss, inputs=other, **rest)
    return reported(report, way, batched, again)
