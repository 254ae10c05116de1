"""What a report adds on how the loss was called, and on how it might have been meant."""

from dataclasses import replace

from opd_toy.audit.calling import AuditError
from opd_toy.audit.token.names import NONE, ZERO
from opd_toy.audit.ways.described import FORMS, description
from opd_toy.audit.ways.trial import probe, takes_logits

PERHAPS = 'if it takes {what} instead of logits, write inputs="{inputs}": then it optimises {name}'


def reported(report, way, batched, again):
    """The report with its ``call``; ``again(inputs)`` is the report with other inputs."""
    call = description(way)
    if report.optimises == NONE and way.form == "logits":
        call["notes"] += _other_inputs(way, batched, again)
    return replace(report, call=call)


def _other_inputs(way, batched, again):
    """A note where a constant added to the logits matters and other inputs give a verdict."""
    if takes_logits(way, probe(way.level, batched)):
        return []
    for inputs in ("token_log_probs", "log_probs", "probs"):
        try:
            name = again(inputs).optimises
        except AuditError:
            continue
        if name not in (NONE, ZERO):
            return [PERHAPS.format(what=FORMS[inputs], inputs=inputs, name=name)]
    return []
