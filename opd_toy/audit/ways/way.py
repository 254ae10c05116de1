"""A loss as the auditor calls it."""

import copy
import inspect
from dataclasses import dataclass, replace

import torch

from opd_toy.audit.calling import AuditError, described
from opd_toy.audit.ways import roles
from opd_toy.audit.ways.batch import Batch
from opd_toy.audit.ways.described import words_of
from opd_toy.audit.ways.quantities import output_wanted, shifted, value_of
from opd_toy.audit.ways.returned import loss_in

RAISED = "{subject} raised {error}. It is called as {wanted}, here with {given}. {adapt}"
NEEDS_OBJECT = (
    "write {entry}({method}), the method of an object: {subject} was taken from its class, "
    "and on an object made without __init__ it raised {error}"
)
ADAPT = (
    "{batches}, "
    '{entry}({code}, inputs="log_probs"), "probs" or "token_log_probs" for one that wants these '
    "instead of logits; one that keeps K tokens needs a small K here, such as 1 or 2"
)
BATCHES = {
    "audit": "To adapt it, write {entry}({code}, batched=True) for batches (B, V)",
    "audit_sequence": "To adapt it, write {entry}({code}, batched=True) for batches (B, T, V)",
}


@dataclass(frozen=True)
class Level:
    """Losses of a token or of texts: how they are audited, what they get, in which order."""

    entry: str
    names: tuple
    roles: tuple
    wanted: str


TOKENS = Level(
    "audit",
    ("student_logits", "teacher_logits", "token"),
    (roles.STUDENT, roles.TEACHER, roles.TOKEN),
    "loss(student_logits (V,), teacher_logits (V,), token)",
)
TEXTS = Level(
    "audit_sequence",
    ("student_logits", "teacher_logits", "tokens", "mask"),
    (roles.STUDENT, roles.TEACHER, roles.TOKEN, roles.MASK),
    "loss(student_logits (T, V), teacher_logits (T, V), tokens (T,)[, mask (T,)])",
)


class Way:
    """Called as loss(student_logits, teacher_logits[, tokens[, mask]]), calls the user's loss.

    ``arguments``: of ``binding.Argument``; ``count``: how many inputs it takes, 2 to 4;
    ``names``: words for refusals; ``returns``: where the loss was found in what it returns;
    ``axis``: whether single positions get a batch axis; ``behaviour_argument``: the name of
    the argument that is the behaviour's, or None; ``behaviour``: its logits, None for the
    student's own; ``output``: what makes of logits a model's output, where the loss looks for one.
    """

    def __init__(self, loss, level, arguments, names, *, k=2, axis=False, form="logits"):
        self.loss, self.level, self.arguments = loss, level, arguments
        self.names, self.k, self.axis, self.form = names, k, axis, form
        self.shift = False
        self.behaviour_argument, self.behaviour, self.output = None, None, None
        self.returns, self.read, self.note = None, {}, None
        self.settle()

    def drawn_by(self, behaviour):
        """The same with tokens of ``behaviour``, logits shaped as the student's."""
        other = copy.copy(self)
        other.behaviour = torch.as_tensor(behaviour)
        return other

    def settle(self):
        """Which inputs it takes follows from the arguments, and from what of a batch was read."""
        found = {argument.role for argument in self.arguments} | set(self.read.values())
        forms = {argument.form for argument in self.arguments}
        self.count = 2
        if found & {roles.TOKEN, roles.LABELS} or "token_log_probs" in forms:
            self.count = 3
        if len(self.level.roles) == 4 and found & {roles.MASK, roles.LABELS}:
            self.count = 4
        kind = inspect.Parameter.POSITIONAL_ONLY
        self.__signature__ = inspect.Signature(
            [inspect.Parameter(name, kind) for name in self.level.names[: self.count]]
        )

    def __call__(self, student, teacher, tokens=None, mask=None):
        given = student, teacher, tokens, mask, self.behaviour
        if self.shift:
            given = shifted(*given)
        if self.axis:
            given = [None if value is None else value[None] for value in given]
        try:
            value, values = self._called(given)
        except AuditError as error:
            if self.output or not (wanted := output_wanted(error.__cause__)):
                raise
            self.output = wanted
            value, values = self._called(given)
        for read in values:
            if isinstance(read, Batch):
                self.read.update(read.read)
        loss, where = loss_in(value, self.names)
        self.returns = self.returns or where
        return loss

    def _called(self, given):
        """(what the loss returns, what it was given)"""
        values = [self._value(argument, given) for argument in self.arguments]
        pairs = list(zip(self.arguments, values))
        try:
            value = self.loss(
                *[value for argument, value in pairs if not argument.keyword],
                **_keywords((argument, value) for argument, value in pairs if argument.keyword),
            )
        except AuditError:
            raise
        except Exception as error:
            raise AuditError(self._raised(error, values)) from error
        return value, values

    def _value(self, argument, given):
        def give(entry):
            if self.behaviour_argument and entry.name == self.behaviour_argument:
                entry = replace(entry, role=roles.BEHAVIOUR)
            value = value_of(entry, given, self.k)
            return self.output(value) if self.output and entry.form == "logits" else value

        if argument.role != roles.BATCH:
            return give(argument)
        missing = [roles.TOKEN, roles.LABELS] if given[2] is None else []
        return Batch(give, self.form, missing + ([roles.MASK] if given[3] is None else []))

    def _raised(self, error, values):
        shapes = ", ".join(
            f"{name}: {words} {_shown(value)}"
            for (name, words), value in zip(words_of(self).items(), values)
        )
        if self.note:  # an unbound method
            owner, _, method = self.names["code"].rpartition(".")
            what = f"{owner}(...).{method}"
            return NEEDS_OBJECT.format(error=described(error), method=what, **self.names)
        batches = BATCHES[self.level.entry].format(**self.names)
        adapt = ADAPT.format(batches=batches, **self.names)
        return RAISED.format(error=described(error), given=shapes, adapt=adapt, **self.names)


def _keywords(pairs):
    """A batch without a name is handed over entry by entry."""
    found = {}
    for argument, value in pairs:
        found |= value if argument.name is None else {argument.name: value}
    return found


def _shown(value):
    if isinstance(value, Batch):
        return f"({', '.join(value)})"
    if not getattr(value, "ndim", 0):
        value = value.item() if hasattr(value, "item") else value
        return f"{value!r} (a tensor without axes)"
    return str(tuple(value.shape))
