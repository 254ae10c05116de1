"""What a report of texts adds where a third model, the behaviour, wrote them."""

from dataclasses import replace

from opd_toy.audit.stale import texts
from opd_toy.audit.token.names import NONE, ZERO


def with_stale_texts(report, call):
    """SequenceReport of fresh texts -> the same with ``stale`` and a verdict that says so.

    A loss that needs no tokens keeps its name: only how often each prefix comes has changed.
    """
    level, grown = texts.level_of(call, report.precision)
    found = {"on_fresh_texts": report.optimises, "level": None, "cost": None}
    found |= {"correction": None, "limits": None, "map": grown}
    name = report.optimises
    if name not in (NONE, ZERO):
        if level is None:
            name += " from stale texts, in a way that is not known"
        elif level.level == texts.NONE and not report.uses_tokens:
            name += " from stale texts"
        else:
            name = texts.name(name, level)
    if level:
        found |= {"level": level.level, "cost": level.cost}
    if level and level.correction:
        found |= {"correction": level.correction.kind, "limits": level.correction.limits}
    return replace(report, optimises=name, stale=found)
