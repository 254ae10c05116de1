"""How a loss is called: what each argument is, which is told by its name or by its place.

``as_way(loss, level, ...)`` is a thin wrapper, made once: whatever the loss takes, the rest of
the auditor sees loss(student_logits, teacher_logits[, tokens[, mask]]) -> a scalar tensor.
"""

from opd_toy.audit.ways.making import as_way
from opd_toy.audit.ways.reported import reported
from opd_toy.audit.ways.way import TEXTS, TOKENS, Way

__all__ = ["TEXTS", "TOKENS", "Way", "as_way", "reported"]
