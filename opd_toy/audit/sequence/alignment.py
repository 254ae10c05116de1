"""What a map of dependence says: shifted rows, texts that reach into each other, who moves whom.

Positions count from 1 in words and from 0 in the arrays.
"""

import numpy as np

from opd_toy.audit.sequence.dependence import LENGTH, NOWHERE

LABELS = (
    "the gradient at position t follows the token at position t {by}: the labels are shifted "
    "by {amount}, where row t holds the logits of the token at position t"
)
INSIDE = '. Where the loss itself holds row t against label t + 1, write labels="shift_inside"'
TEACHER = (
    "the gradient at position t moves with the teacher's row t {by}{instead}: "
    "the teacher is shifted by {amount}"
)
READ = (
    "the teacher's row t is read at the token of position t {by}: "
    "its labels are shifted by {amount}"
)
ANOTHERS = "the gradient of a text moves with the teacher's rows of another text, not with its own"
ORDER = (
    "the order of the texts in the batch matters{example}: texts laid end to end, or one of them "
    "that serves all, reach into each other"
)
EXAMPLE = ", and the gradient of text {text} at position {t} moves with position {u} of text {by}"
AMOUNTS = {1: "one", 2: "two", 3: "three", 4: "four"}
REACHES = (
    ("the costs of its own position alone", lambda t, u: t == u),
    ("the costs of its own and of later positions", lambda t, u: t <= u),
    ("the costs of later positions alone", lambda t, u: t < u),
    ("the costs of its own and of earlier positions", lambda t, u: t >= u),
    ("the costs of all positions", lambda t, u: True),
)


def shifts(dependence):
    """(labels, teacher): by how many positions each is shifted; 0 where it is not, or unknown."""
    labels = _one_shift(dependence.scored) or 0
    read = _one_shift(dependence.read_at)
    return labels, _shift_of_rows(dependence) if read is None else labels - read


def _one_shift(at):
    """s - u for all u whose s = at[u] is known; None where there are too few, or several.

    Rolled rows count as shifted: what falls off at one end comes back at the other.
    """
    known = np.flatnonzero(at != NOWHERE)
    apart = (at[known] - known).tolist()
    if len({d % LENGTH for d in apart}) != 1:
        return None
    return max(apart, key=apart.count) if len(known) >= LENGTH - 2 else None


def _shift_of_rows(dependence):
    """d where every row moves with the teacher's rows d further on than with the student's.

    Without its own among them; 0 where there is no such d.
    """
    student, teacher = (dependence.moves[name] > dependence.seen for name in ("student", "teacher"))
    if np.diagonal(teacher).any():
        return 0
    # Of four rows two further on, rolled, are two further back: those that are not rolled tell.
    there = (d for d in (1, -1, 2, -2) if np.diagonal(teacher, d).any())
    fits = (d for d in there if (teacher <= np.roll(student, d, axis=1)).all())
    return 0 if (teacher <= student).all() else next(fits, 0)


def alignment_findings(dependence):
    """[(severity, sentence)] of shifts, and of texts that reach into each other."""
    labels, teacher = shifts(dependence)
    found = []
    if labels:
        words = LABELS.format(by=_by(labels), amount=AMOUNTS[abs(labels)])
        found.append(words + (INSIDE if labels == 1 else ""))
    if teacher:
        moved = dependence.moves["teacher"] > dependence.seen
        rows = np.diagonal(moved, teacher)
        form = TEACHER if rows.all() or not np.diagonal(moved).any() else READ
        found.append(
            form.format(
                by=_by(teacher if form is TEACHER else -teacher),
                instead="" if np.diagonal(moved).any() else ", not with its row t",
                amount=AMOUNTS[abs(teacher)],
            )
        )
    if dependence.others:
        found += _between_texts(dependence)
    return [("broken", words) for words in found]


def _between_texts(dependence):
    seen = dependence.seen
    own, others = (m["teacher"] > seen for m in (dependence.moves, dependence.others))
    if others.any() and not own.any():
        yield ANOTHERS
    if dependence.order > seen:
        one_sided = sum((moved > seen) for moved in dependence.others.values()) > 0
        places = np.argwhere(one_sided & ~one_sided[::-1])
        example = ""
        if len(places):
            text, t, u = (int(n) + 1 for n in places[0])
            example = EXAMPLE.format(text=text, t=t, u=u, by=3 - text)
        yield ORDER.format(example=example)


def _by(d):
    return f"{'+' if d > 0 else '−'} {abs(d)}"


def in_a_sentence(dependence, rests):
    """Of a loss without a name: what it acts on, who pays for whom, where it rests."""
    alive = (dependence.moves["student"] > dependence.seen).any(axis=1)
    if not alive.any():
        return None
    drawn = (dependence.scored[alive] != NOWHERE).all()
    parts = ["acts on the drawn tokens alone" if drawn else "acts on the whole vocabulary"]
    softened = dependence.temperature
    if drawn and softened and abs(softened - 1) > 10 * dependence.seen:
        parts.append(f"scores them at temperature {softened:.3g}, not as they were drawn")
    if dependence.others:  # with two texts a standardized cost is a sign, which hides who pays
        parts.append("a text's gradient moves with the other texts of its batch")
    elif any(shifts(dependence)):
        silent = ", ".join(str(t + 1) for t in np.flatnonzero(~alive))
        parts += [f"position {silent} of {LENGTH} gets no gradient"] if silent else []
    else:
        parts.append(_reach(dependence.moves["teacher"], dependence.seen, alive))
    parts.append("rests" if rests else "does not rest")
    return "; ".join(parts) + " where student = teacher"


def _reach(moves, seen, alive):
    moved = moves > seen
    if not moved.any():
        return "the teacher hardly moves it" if moves.any() else "does not look at the teacher"
    for words, holds in REACHES:
        wanted = np.fromfunction(np.vectorize(holds, otypes=[bool]), moved.shape)
        if (moved[alive] == wanted[alive]).all():
            return f"position t pays for {words}"
    return "which position pays for which follows no common pattern"
