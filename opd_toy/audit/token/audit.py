"""What a loss of one token optimises: ``words(verdict(measure(loss)))``.

``measure`` calls the loss and fills tables, ``verdict`` and ``judge`` compute on the tables
alone, ``words`` turns the resulting report into sentences.
"""

from opd_toy import _validate
from opd_toy.audit.token.judge import judge
from opd_toy.audit.token.measure import measure


def audit(loss, *, drawn_from="student", seed=0):
    """What ``loss(student_logits (V,), teacher_logits (V,), token)`` optimises -> TokenReport.

    ``token`` is an int64 tensor without axes; a loss of two arguments looks at the
    whole vocabulary.  Every token of seeded random pairs is enumerated, so that the
    expectation over tokens of ``drawn_from`` ("student" or "teacher") is exact.
    AuditError for a loss that cannot be audited; its message says what to change.
    """
    _validate.choice("drawn_from", drawn_from, ("student", "teacher"))
    return judge(measure(loss, drawn_from, _validate.whole("seed", seed, least=0)))
