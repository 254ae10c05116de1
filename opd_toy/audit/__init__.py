"""What does this loss really optimise?  A verdict by enumeration, with its tolerance.

``audit(loss)`` calls a loss on every token of many pairs of student and teacher,
takes the expectation of its gradients and names the objective whose gradient comes
out; ``audit_sequence(loss)`` does the same over all sequences of small trees.
"""

from opd_toy.audit.calling import AuditError
from opd_toy.audit.expectation import assert_optimises
from opd_toy.audit.sequence.audit import audit_sequence
from opd_toy.audit.sequence.report import SequenceReport
from opd_toy.audit.token.audit import audit
from opd_toy.audit.token.report import TokenReport

__all__ = [
    "AuditError",
    "SequenceReport",
    "TokenReport",
    "assert_optimises",
    "audit",
    "audit_sequence",
]
