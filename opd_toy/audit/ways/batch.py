"""A batch as trainers hand it over: a dict whose entries are found by their names."""

from opd_toy.audit.ways import roles
from opd_toy.audit.ways.binding import Argument

# What is in it before anybody asks for another name: key and role.
USUAL = {
    "student_logits": roles.STUDENT,
    "teacher_logits": roles.TEACHER,
    "input_ids": roles.TOKEN,
    "labels": roles.LABELS,
    "attention_mask": roles.MASK,
}


class Batch(dict):
    """``give(Argument)`` is asked for what is not among the usual entries.

    ``read``: {key: role} of the entries that were looked up; ``missing``: roles that it has
    not.  Entries can be had as attributes too.
    """

    def __init__(self, give, form, missing=()):
        self.give, self.form, self.read, self.missing = give, form, {}, missing
        usual = {key: role for key, role in USUAL.items() if role not in missing}
        super().__init__({key: give(_argument(key, role, form)) for key, role in usual.items()})

    def __getitem__(self, key):
        role = USUAL.get(key) or _role(key)
        if not super().__contains__(key) and self._can(role):
            self[key] = self.give(_argument(key, role, self.form))
        value = super().__getitem__(key)
        self.read[key] = role
        return value

    def __contains__(self, key):
        return super().__contains__(key) or self._can(_role(key))

    def get(self, key, default=None):
        return self[key] if self.__contains__(key) else default

    def pop(self, key, *default):
        return self[key] if key in self or not default else default[0]

    def __getattr__(self, key):
        if key.startswith("__"):
            raise AttributeError(key)
        try:
            return self[key]
        except KeyError as error:
            raise AttributeError(key) from error

    def _can(self, role):
        return role is not None and role not in self.missing


def _role(key):
    who, what = roles.guess(key) if isinstance(key, str) else (None, None)
    if what in (roles.MASK, roles.LABELS, roles.TOKEN):
        return what
    if what == roles.TARGET:
        return roles.LABELS
    if who == roles.REFERENCE:
        return roles.TEACHER
    return who or (roles.STUDENT if what in ("logits", "log_probs", "probs") else None)


def _argument(key, role, form):
    """What a key stands for: log-probabilities by name are those of the tokens drawn."""
    what = roles.guess(key)[1]
    if role not in (roles.STUDENT, roles.TEACHER, roles.OLD):
        return Argument(key, role)
    named = {"log_probs": "token_log_probs", "probs": "probs"}.get(what, "logits")
    return Argument(key, role, form if form != "logits" else named)
