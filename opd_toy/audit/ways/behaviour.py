"""Which argument is the behaviour's: of the policy that drew the tokens."""

from dataclasses import replace

from opd_toy.audit.calling import AuditError
from opd_toy.audit.ways import roles

NOT_THERE = (
    "write behaviour= with the name of one of its arguments, or leave it out: behaviour is "
    "{behaviour!r}, and {subject} is {described}, called with {arguments}"
)
NO_TEACHER = (
    "give {code} a teacher besides, an argument whose name has teacher in it: {subject} is "
    "{described}, and {behaviour} is the behaviour's, so that nothing is left for the {missing}"
)


def settle_behaviour(way, wanted):
    """Marks the behaviour's argument, or none, in ``way``, where student and teacher are told too.

    ``wanted``: None, its name tells; False, there is none; or its name.
    """
    by_name = {a.name: a.role for a in way.arguments if a.name} | way.read
    if wanted is False:
        return
    if wanted is not None:
        if wanted not in by_name:
            given = ", ".join(by_name)
            raise AuditError(NOT_THERE.format(behaviour=wanted, arguments=given, **way.names))
        found = wanted
    else:
        found = _named(by_name)
    others = [role for name, role in by_name.items() if name != found]
    missing = [role for role in (roles.STUDENT, roles.TEACHER) if role not in others]
    if missing and wanted is not None:
        raise AuditError(NO_TEACHER.format(behaviour=wanted, missing=missing[0], **way.names))
    if found is None or missing:
        return
    way.behaviour_argument = found
    way.arguments = [
        replace(a, role=roles.BEHAVIOUR) if a.name == found else a for a in way.arguments
    ]


def _named(by_name):
    """The old policy's argument, by its name; of several the one that says who drew."""
    old = [name for name, role in by_name.items() if role == roles.OLD and _who(name) == roles.OLD]
    drawers = [name for name in old if roles.DRAWERS & set(roles.words(name))]
    return next(iter(drawers or old), None)


def _who(name):
    return roles.guess(name)[0]
