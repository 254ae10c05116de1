"""What shows when a loss is called: how many arguments it takes, whether it wants logits."""

import re

import torch

from opd_toy.audit.calling import AuditError
from opd_toy.audit.ways import roles
from opd_toy.audit.ways.binding import Argument
from opd_toy.audit.ways.way import TEXTS

LENGTH, VOCABULARY = 4, 3
NOT_LOGITS = (
    "write {instead}: {subject} takes {what} ({arguments}), by their names, and was to get logits; "
    "a constant added to the logits changes it{raises}. {meaning}"
)
MEANINGS = (
    '"token_log_probs" hands over the log-probabilities of the tokens drawn alone, {drawn}; '
    '"log_probs" those of the whole vocabulary, {whole}, "top_k" those of the teacher\'s first K, '
    "with their ids"
)


def probe(level, batched):
    """(student, teacher, tokens, mask) on which a loss is tried."""
    generator = torch.Generator().manual_seed(0)
    shape = () if level is not TEXTS else (2, LENGTH) if batched else (LENGTH,)
    draw = lambda: torch.randn(*shape, VOCABULARY, generator=generator, dtype=torch.float64)
    tokens = torch.randint(VOCABULARY, shape, generator=generator)
    return draw().requires_grad_(), draw().requires_grad_(), tokens, torch.ones_like(tokens).bool()


def tried(way, inputs):
    """The Way with as many of the further inputs in ``*arguments`` as the loss accepts."""
    named = list(way.arguments)
    taken = {argument.role for argument in named}
    left = [role for role in way.level.roles if role not in taken]
    if roles.TOKEN in taken or roles.LABELS in taken:
        left = [role for role in left if role != roles.TOKEN]
    for count in range(len(left), -1, -1):
        form = lambda role: way.form if role in (roles.STUDENT, roles.TEACHER) else None
        rest = [Argument(None, role, form(role)) for role in left[:count]]
        way.arguments = named + rest
        way.settle()
        try:
            way(*inputs[: way.count])
        except AuditError as error:
            if isinstance(error.__cause__, TypeError) and "positional argument" in str(error):
                continue
        return way
    return way


def check_forms(way, inputs):
    """AuditError where names say that log-probabilities are wanted, and logits will not do."""
    named = {}
    for argument in way.arguments:
        what = roles.guess(argument.name or "")[1]
        if argument.form == "logits" and what in ("log_probs", "probs"):
            named[argument.role] = (argument.name, what)
    if not named:
        return
    if not takes_logits(way, inputs, named):
        raise AuditError(_not_logits(way, named, _outcome(way, inputs) is None))


def takes_logits(way, inputs, of=(roles.STUDENT, roles.TEACHER)):
    """Whether value and gradient stay where a constant is added to all logits of a position."""
    moved = list(inputs)
    for place, role in enumerate((roles.STUDENT, roles.TEACHER)):
        if role in of:
            moved[place] = (inputs[place].detach() + 0.7 - place).requires_grad_()
    outcomes = _outcome(way, inputs), _outcome(way, moved)
    if None in outcomes:
        return False
    return all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*outcomes))


def _not_logits(way, named, raises):
    kinds = {what for _, what in named.values()}
    drawn = "log_probs" in kinds and roles.TOKEN not in {a.role for a in way.arguments}

    def option(role):
        what = named[role][1] if role in named else "logits"
        return "token_log_probs" if what == "log_probs" and drawn else what

    student, teacher = option(roles.STUDENT), option(roles.TEACHER)
    chosen = f'"{student}"' if student == teacher else f'("{student}", "{teacher}")'
    if any(a.role == roles.TOKEN and roles.of_top_k(a.name or "") for a in way.arguments):
        chosen = '"top_k", k=2'
    call = "{entry}({code}, inputs={chosen})".format(chosen=chosen, **way.names)
    texts = way.level is TEXTS
    shapes = {"drawn": "(T,)" if texts else "a scalar", "whole": "(T, V)" if texts else "(V,)"}
    if "log_probs" in kinds:
        what, meaning = "log-probabilities", MEANINGS.format(**shapes)
        meaning = meaning[0].upper() + meaning[1:]
    else:
        what, meaning = "probabilities", '"probs" hands over both softmaxes'
    return NOT_LOGITS.format(
        instead=call,
        what=what,
        arguments=", ".join(name for name, _ in named.values()),
        raises=", or makes it fail" if raises else "",
        meaning=meaning,
        **way.names,
    )


def shifts_inside(way, inputs):
    """Whether labels are held against the logits before them.

    Such a loss gives the last row of logits no gradient, and the first label has no effect.
    """
    told = {a.name: a.role for a in way.arguments if a.told} | way.read
    labels = [n for n, role in told.items() if role == roles.LABELS or re.match("input_ids", n)]
    if not labels:
        return False
    student, teacher, tokens, mask = inputs
    first = _outcome(way, inputs)
    if first is None or not first[1].any() or first[1][..., -1, :].any():
        return False
    others = tokens.clone()
    others[..., 0] = (others[..., 0] + 1) % VOCABULARY
    second = _outcome(way, (student, teacher, others, mask))
    return second is not None and all(torch.equal(a, b) for a, b in zip(first, second))


def _outcome(way, inputs):
    """(value, the student's gradient) or None where the loss raises or has no gradient."""
    student = inputs[0].detach().clone().requires_grad_()
    try:
        with torch.inference_mode(False), torch.enable_grad():
            value = way(student, *[v.clone() for v in inputs[1 : way.count]])
            return value.detach(), torch.autograd.grad(value.sum(), student)[0]
    except Exception:
        return None
