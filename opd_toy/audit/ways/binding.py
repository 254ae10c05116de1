"""Which of the auditor's inputs each argument of a loss gets: by its name, else by its place.

``bind`` reads a signature.  Where names tell, they win over the place; what they leave
open is filled in the order student, teacher, tokens, mask.  An argument with a default
keeps it, unless its name says that it is the token or the mask.
"""

import inspect
from dataclasses import dataclass

from opd_toy.audit.calling import AuditError
from opd_toy.audit.ways import roles

FORMS = ("logits", "log_probs", "probs", "token_log_probs")
TOP_K = "top_k"
MODELS = (roles.STUDENT, roles.TEACHER)
MODEL = "model"  # what is run, not what comes out
OTHER_INTERFACE = (
    "write {entry}(lambda {inputs}: {code}(...)), with its arguments in their places: "
    "{subject} is {described}, and {which}. It is called as {wanted}"
)
NEEDS_VALUE = (
    "write {entry}(functools.partial({code}, {name}=...)): {subject} is {described}, "
    "and its argument {name} has no default. It is called as {wanted}"
)
RUNS_MODELS = (
    "write {entry}(...) of the part that works on logits: {subject} is {described} and runs "
    "{name} itself; it is called as {wanted}, or with both models' logits in a batch"
)
MADE_OF_BOTH = (
    "write {entry}(lambda log_p, teacher_log_p, mask: {code}(..., "
    '{name}=(teacher_log_p - log_p).detach()), inputs="token_log_probs"), or however your '
    "trainer makes them of both models: {subject} is {described}, and no model hands over {name}"
)
MASK_OF_TOKEN = (
    "write audit_sequence({code}), which hands over masks, or {entry}(functools.partial({code}, "
    "{name}=...)): {subject} is {described}, whose argument {name} is a mask, and a single token "
    "has none. It is called as {wanted}"
)


@dataclass(frozen=True)
class Argument:
    """One argument of the loss and what it gets.

    ``role``: of ``roles``; ``form``: of the distributions, as in ``FORMS``; ``told``: whether
    its name said so; ``name`` is None for those that go into ``*arguments``.
    """

    name: str | None
    role: str
    form: str | None = None
    told: bool = False
    keyword: bool = False
    whole_number: bool = False


def bind(parameters, level, forms, labels, names, behaviour=None):
    """-> a list of Argument, in the order of the signature; AuditError where it cannot be.

    ``forms``: {"student": form, "teacher": form or "top_k"}; ``labels``: whether the loss is
    said to take labels; ``names``: words for the refusals; ``behaviour``: the argument that is said
    to be an old policy's.
    """
    plain = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    required = [p for p in plain if p.default is p.empty or p.name == behaviour]
    spread = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    told = _told(plain, required, forms["teacher"] == TOP_K)
    told |= {p.name: roles.OLD for p in plain if p.name == behaviour}
    places = _places(level, forms)
    chosen = {p.name: told[p.name] for p in required if told[p.name]}
    for name, role in chosen.items():
        if role == MODEL:
            raise AuditError(RUNS_MODELS.format(name=name, **names))
        if role == roles.SETTING:
            made = roles.ADVANTAGES & set(roles.words(name))
            message = MADE_OF_BOTH if made else NEEDS_VALUE
            raise AuditError(message.format(name=name, **names))
        if role == roles.MASK and roles.MASK not in places:
            raise AuditError(MASK_OF_TOKEN.format(name=name, **names))
    pending = [role for role in places if role not in _taken(chosen)]
    for p in required:
        if p.name not in chosen:
            if not pending or (p.kind is p.KEYWORD_ONLY):
                _refuse(p, names)
            fitting = [r for r in pending if r in MODELS or not _is_distribution(p.name)]
            if not fitting:
                _refuse(p, names)
            chosen[p.name] = fitting[0]
            pending.remove(fitting[0])
    _with_defaults(plain, told, chosen, labels, roles.MASK in places)
    if labels and roles.LABELS not in chosen.values():
        labels_of = {roles.TOKEN: roles.LABELS}
        chosen = {name: labels_of.get(role, role) for name, role in chosen.items()}
    few = not {roles.STUDENT, roles.BATCH} & set(chosen.values()) or (
        not _taken(chosen) & {roles.TEACHER, roles.TOKEN, roles.BATCH}
    )
    if few and not spread:
        which = "nothing in it is known for the student's" if chosen else "it takes nothing"
        if behaviour:
            which = f"where {behaviour} is the behaviour's nothing is left for the teacher"
        elif len(chosen) == 1:
            which = "it takes one argument"
        raise AuditError(OTHER_INTERFACE.format(which=which, **names))
    found, gap = [], False
    for p in plain:
        gap = gap or p.name not in chosen or p.kind is p.KEYWORD_ONLY
        if p.name in chosen:
            found.append(_argument(p, chosen[p.name], told[p.name], forms, by_name=gap))
    return found


def _told(plain, required, top_k):
    """{name: role or None}: by the names alone."""
    alone = len(required) == 1 and len(plain) == 1
    pair = roles.student_and_teacher([p.name for p in plain])
    found = {}
    for p in plain:
        who, what = roles.guess(p.name)
        if alone and (what == roles.BATCH or roles.ALONE & set(roles.words(p.name))):
            found[p.name] = roles.BATCH
        elif p.name == "T" and p.name not in pair:
            found[p.name] = roles.SETTING  # a temperature
        elif what == roles.SETTING and roles.words(p.name)[-1] == "model":
            found[p.name] = MODEL
        elif top_k and roles.of_top_k(p.name):
            found[p.name] = roles.of_top_k(p.name)
        else:
            form = _is_distribution(p.name)
            found[p.name] = who if form else (what or who or pair.get(p.name))
            found[p.name] = found[p.name] or pair.get(p.name)
    has_teacher = roles.TEACHER in found.values()
    for name, role in found.items():
        if role == roles.REFERENCE:
            found[name] = roles.OLD if has_teacher else roles.TEACHER
    if not {roles.TEACHER, roles.BATCH, roles.TARGET, None} & set(found.values()):
        found |= {name: roles.TEACHER for name, role in found.items() if role == roles.OLD}
    _settle_targets(found, required)
    return found


def _is_distribution(name):
    return roles.guess(name)[1] in FORMS


def _settle_targets(found, required):
    """A target is the tokens where there is a teacher besides, else the teacher's."""
    for name, role in found.items():
        if role != roles.TARGET:
            continue
        others = [p.name for p in required if p.name != name]
        of_models = [n for n in others if found[n] in (None, roles.STUDENT, roles.TEACHER)]
        tokens = roles.TEACHER in found.values() or len(of_models) >= 2
        found[name] = roles.TOKEN if tokens else roles.TEACHER


def _places(level, forms):
    """The roles in the order in which they are handed over where names do not tell."""
    if forms["teacher"] != TOP_K:
        return list(level.roles)
    return [level.roles[0], roles.IDS, *level.roles[1:]]


def _taken(chosen):
    found = set(chosen.values())
    return found | {roles.TOKEN} if roles.LABELS in found else found


def _with_defaults(plain, told, chosen, labels, masks):
    """Adds to ``chosen`` those of the arguments with a default that are handed over."""
    left = [p for p in plain if p.name not in chosen]
    for role in (roles.STUDENT, roles.TEACHER):
        if role in chosen.values() or roles.BATCH in chosen.values():
            continue
        free = [p for p in left if p.name not in chosen]
        named = [p.name for p in free if told[p.name] == role]
        first_two = [p.name for p in plain[:2] if p in free and p.kind is not p.KEYWORD_ONLY]
        unnamed = [name for name in first_two if told[name] is None]
        if named or (unnamed and not _taken(chosen) & {roles.TOKEN}):
            chosen[(named or unnamed)[0]] = role
    for p in left:
        if p.name in chosen:
            continue
        is_token = p.name in ("token", "tokens") or (
            labels and told[p.name] in (roles.TOKEN, roles.LABELS)
        )
        if is_token or (masks and told[p.name] == roles.MASK):
            chosen[p.name] = told[p.name]


def _argument(p, role, told, forms, by_name):
    form = forms.get(role)
    if role == roles.OLD:
        named = roles.guess(p.name)[1]
        whole = {"log_probs", "probs"} & {forms["student"], forms["teacher"]}
        drawn = named == "log_probs" and not whole
        form = forms.get(role) or ("token_log_probs" if drawn else _whole_form(named, forms))
    return Argument(
        p.name,
        role,
        form,
        told=told == role,
        keyword=by_name,
        whole_number=p.annotation in (int, "int"),
    )


def _whole_form(named, forms):
    """Of an old policy's distribution: what its name says, else as the student's."""
    return named if named in ("log_probs", "probs", "logits") else forms["student"]


def _refuse(p, names):
    if p.kind is inspect.Parameter.KEYWORD_ONLY:
        raise AuditError(NEEDS_VALUE.format(name=p.name, **names))
    which = f"there is nothing to hand over for {p.name}"
    raise AuditError(OTHER_INTERFACE.format(which=which, **names))
