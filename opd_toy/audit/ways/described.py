"""What a report says of how the loss was called."""

from opd_toy.audit.ways import roles

FORMS = {
    "logits": "logits",
    "log_probs": "log-probabilities",
    "probs": "probabilities",
    "token_log_probs": "log-probabilities of the tokens drawn",
    "top_k": "log-probabilities of its first {k} tokens",
}
OTHERS = {
    roles.TOKEN: "the tokens drawn",
    roles.LABELS: "the tokens drawn, −100 where the mask is 0",
    roles.MASK: "the mask",
    roles.IDS: "the ids of the teacher's first {k} tokens",
    roles.BATCH: "a batch{read}",
}
EVERYTHING = "everything"  # stands for the keys until those that are read are known
CALLED_AS = "called as {code}({arguments}){why}"
NAMES_TELL = ": the names tell which is which, not the places"
SHIFT = (
    "it holds logits t against label t + 1: it got one position more, whose label is ignored, "
    "and a last row of logits that it drops"
)
RETURNS = "the loss is {returns}"


def description(way):
    """{"loss", "arguments": {name: words}, "notes": [sentences]}"""
    by_name, notes = words_of(way), []
    disagree = _disagree(way)
    if disagree or any(_is_special(argument) for argument in way.arguments):
        arguments = ", ".join(f"{name}: {words}" for name, words in by_name.items())
        why = NAMES_TELL if disagree else ""
        notes.append(CALLED_AS.format(code=way.names["code"], arguments=arguments, why=why))
    notes += [SHIFT] if way.shift else []
    notes += [RETURNS.format(returns=way.returns)] if way.returns else []
    notes += [way.note] if way.note else []
    return {"loss": way.names["code"], "arguments": by_name, "notes": notes}


def words_of(way):
    """{name of the argument: what it gets}"""
    return {
        argument.name or (f"argument {place}", "**")[argument.keyword]: _words(way, argument)
        for place, argument in enumerate(way.arguments, start=1)
    }


def _words(way, argument):
    read = ", ".join(repr(key) for key in way.read if key != EVERYTHING)
    read = read and f", of which it reads {read}"
    if argument.role in OTHERS:
        return OTHERS[argument.role].format(k=way.k, read=read)
    form = FORMS[argument.form].format(k=way.k)
    if argument.role == roles.BEHAVIOUR:
        return f"the behaviour's {form}"
    if argument.role == roles.OLD:
        return f"the student's {form}, detached"
    return f"the {argument.role}'s {form}"


def _disagree(way):
    """Whether the places alone would have handed over something else."""
    places = [role for role in way.level.roles if role != roles.MASK]
    given = [roles.TOKEN if a.role == roles.LABELS else a.role for a in way.arguments]
    given = [role for role in given if role in places]
    return given != places[: len(given)]


def _is_special(argument):
    usual = {roles.STUDENT, roles.TEACHER, roles.TOKEN, roles.MASK}
    return argument.role not in usual or argument.form not in (None, "logits")
