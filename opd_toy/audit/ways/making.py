"""From a loss and its options to a ``Way``."""

import torch

from opd_toy import _validate
from opd_toy.audit.signatures import call_text, read
from opd_toy.audit.ways import roles
from opd_toy.audit.ways.batch import USUAL
from opd_toy.audit.ways.behaviour import settle_behaviour
from opd_toy.audit.ways.binding import FORMS, TOP_K, Argument, bind
from opd_toy.audit.ways.described import EVERYTHING
from opd_toy.audit.ways.trial import check_forms, probe, shifts_inside, tried
from opd_toy.audit.ways.way import TEXTS, TOKENS, Way

INPUTS = (*FORMS, TOP_K)
BEHAVIOUR = "give the name of the loss's argument, None where names tell, or False for none"
LABELS = ("aligned", "shift_inside")
BATCH_AXES = {
    "audit": "loss(student_logits (B, V), teacher_logits (B, V), token (B,))",
    "audit_sequence": (
        "loss(student_logits (B, T, V), teacher_logits (B, T, V), tokens (B, T)[, mask (B, T)])"
    ),
}


def as_way(
    loss, level=TOKENS, *, inputs="logits", k=2, labels=None, batched=False, behaviour=False
):
    """-> Way.  AuditError for a loss that cannot be called; a Way is handed back as it is.

    ``inputs``: what the two models' arguments are, one of ``INPUTS`` for both, or a pair
    (student's, teacher's), or three with the behaviour's; with "top_k" the teacher's are ids
    and log-probabilities (K,) of its ``k`` likeliest tokens.
    ``labels``: "aligned" where label t belongs to logits t, "shift_inside" where the loss holds
    logits t against label t + 1; None finds out.
    ``behaviour``: the argument that is the behaviour's: its name, None where the names tell,
    False for none.
    """
    if isinstance(loss, Way):
        return loss
    forms = _forms(inputs)
    if labels is not None:
        _validate.choice("labels", labels, LABELS)
    k = _validate.whole("k", k)
    found = read(loss, level.wanted)
    names = _names(loss, found, level, batched)
    if behaviour not in (None, False) and not isinstance(behaviour, str):
        raise ValueError(f"behaviour is {behaviour!r}; {BEHAVIOUR}")
    arguments = _arguments(found, level, forms, labels, names, behaviour or None)
    axis = batched and level is TOKENS
    way = Way(found.function, level, arguments, names, k=k, axis=axis, form=forms["student"])
    way.note = found.note
    way.shift = labels == "shift_inside"
    inputs_tried = probe(level, batched)
    if found.spread:
        way = tried(way, inputs_tried)
    if any(argument.role == roles.BATCH for argument in way.arguments):
        _read_batch(way, inputs_tried)
    settle_behaviour(way, behaviour)
    check_forms(way, inputs_tried)
    if labels is None and level is TEXTS and shifts_inside(way, inputs_tried):
        way.shift = True
    return way


def _forms(inputs):
    """{"student": form, "teacher": form}, and "old" where it is said"""
    if isinstance(inputs, (tuple, list)) and len(inputs) in (2, 3):
        student, teacher, *old = inputs
        _validate.choice("inputs[0]", student, FORMS)
        forms = {"student": student, "teacher": _validate.choice("inputs[1]", teacher, INPUTS)}
        if old:
            forms[roles.OLD] = _validate.choice("inputs[2]", old[0], FORMS)
        return forms
    _validate.choice("inputs", inputs, INPUTS)
    return {"student": "logits" if inputs == TOP_K else inputs, "teacher": inputs}


def _names(loss, found, level, batched):
    """Words for refusals."""
    wanted = f"{level.wanted}; batched=True puts a batch axis in front"
    if batched:
        wanted = BATCH_AXES[level.entry]
    code = call_text(loss)
    return {
        "entry": level.entry,
        "code": code,
        "subject": "the loss" if code == "loss" else code,
        "described": f"{code}{found.signature}",
        "inputs": ", ".join(name.removesuffix("_logits") for name in level.names),
        "wanted": wanted,
    }


def _arguments(found, level, forms, labels, names, behaviour):
    parameters = found.parameters
    if found.spread and not [p for p in parameters if p.default is p.empty and _is_plain(p)]:
        parameters = [p for p in parameters if not _is_plain(p)]
    elif parameters and not any(_is_plain(p) for p in parameters):  # keywords alone
        return [Argument(None, roles.BATCH, keyword=True)]
    return bind(parameters, level, forms, labels is not None, names, behaviour)


def _is_plain(p):
    return p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)


def _read_batch(way, inputs_tried):
    """Calls once with everything in the batch, to see what is read."""
    way.read = {EVERYTHING: roles.LABELS}
    way.settle()
    with torch.enable_grad():
        way(*inputs_tried[: way.count])
    way.read = {key: role for key, role in way.read.items() if key != EVERYTHING} or dict(USUAL)
    way.settle()
