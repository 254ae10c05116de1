"""What an argument gets: logits, probabilities, labels with -100 or the teacher's first K."""

import torch

from opd_toy.audit.ways import roles

IGNORED = -100


def drawn(logits, tokens):
    """Log-probabilities of ``tokens`` (...,) under ``logits`` (..., V)."""
    known = tokens.clamp(min=0)  # -100 stands where nothing is drawn
    return logits.log_softmax(-1).gather(-1, known[..., None])[..., 0]


def in_form(form, logits, tokens):
    if form == "log_probs":
        return logits.log_softmax(-1)
    if form == "probs":
        return logits.softmax(-1)
    return drawn(logits, tokens) if form == "token_log_probs" else logits


def first_k(teacher, k):
    """(ids (..., K), log-probabilities (..., K)) of the teacher's likeliest tokens."""
    ids = teacher.topk(min(k, teacher.shape[-1])).indices
    return ids, teacher.log_softmax(-1).gather(-1, ids)


def shifted(student, teacher, tokens, mask, behaviour=None):
    """The same with a first token that is not trained on: logits t then predict token t + 1.

    The last row of logits predicts what comes after the end; a loss that shifts drops it.
    """
    longer = lambda z: z if z is None else torch.cat([z, torch.zeros_like(z[..., :1, :])], -2)
    student, teacher, behaviour = map(longer, (student, teacher, behaviour))
    tokens = torch.cat([torch.zeros_like(tokens[..., :1]), tokens], -1)
    if mask is not None:
        mask = torch.cat([torch.zeros_like(mask[..., :1]), mask], -1)
    return student, teacher, tokens, mask, behaviour


def value_of(argument, given, k):
    """``given``: student, teacher, tokens, mask, behaviour as the auditor hands them over.

    Without a behaviour the student itself has drawn the tokens.
    """
    student, teacher, tokens, mask, behaviour = given
    role = argument.role
    if role == roles.LABELS:
        ignored = torch.full_like(tokens, IGNORED)
        return tokens if mask is None else torch.where(mask.bool(), tokens, ignored)
    if role in (roles.TOKEN, roles.MASK):
        value = tokens if role == roles.TOKEN else mask
        return int(value) if argument.whole_number and not value.ndim else value
    if role == roles.IDS:
        return first_k(teacher, k)[0]
    logits = teacher if role == roles.TEACHER else student
    if role in (roles.OLD, roles.BEHAVIOUR):
        logits = student.detach()
    if role == roles.BEHAVIOUR and behaviour is not None:
        logits = behaviour.clone()
    if argument.form == "top_k":
        return first_k(teacher, k)[1]
    return in_form(argument.form, logits, tokens)


def as_output(logits):
    """Logits that a loss finds in a model's output, as ``.logits``."""
    value = logits.view_as(logits)
    value.logits = logits.view_as(logits)
    return value


class Entries(torch.Tensor):
    """Logits that a loss finds in a model's output as ``["logits"]``; not for compiled code."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # what is made of it is plain

    @property
    def logits(self):
        return self.as_subclass(torch.Tensor)

    def __getitem__(self, key):
        return self.logits if key == "logits" else self.logits[key]


def output_wanted(error):
    """The function that makes of logits what a loss has looked for in vain, or None."""
    words = str(error)
    if isinstance(error, AttributeError) and words.endswith("has no attribute 'logits'"):
        return as_output
    by_key = isinstance(error, (IndexError, TypeError)) and "ind" in words
    return (lambda logits: logits.as_subclass(Entries)) if by_key else None
