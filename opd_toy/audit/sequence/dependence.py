"""What moves which row of the gradient: the rows of every input changed one at a time.

On rows of logits drawn position by position; nothing needs to be enumerated.  The tokens of a
text are all different, so that it shows at which of them a row is read.
"""

from dataclasses import dataclass

import numpy as np

from opd_toy.audit.calling import AuditError
from opd_toy.distributions import softmax

LENGTH, VOCABULARY = 4, 5
SPREADS = (1.0, 1.0, 0.1)  # of the draws' logits: close models, where nothing is clamped, too
INPUTS = ("student", "teacher", "tokens", "mask")
SEEN, SEEN_IN_HALF = 1e-4, 0.1  # relative changes above the rounding of float32, of bfloat16
SHORT = 0.1  # of the longest row: what changes in a shorter one is taken relative to this
NOWHERE = -1


@dataclass(frozen=True)
class Dependence:
    """``moves[input]`` (T, T): by how much of its length row t of the gradient changes with row u.

    ``others[input]`` (2, T, T): the same of text b's row t with row u of the other text of a
    batch of two, and ``order``: what changes where the two texts change places; None
    where a text is alone.
    ``scored`` (T,): the position whose token's score row t follows, of a student softened at
    ``temperature``; ``read_at`` (T,): the position at whose token alone the teacher's row is
    read; ``NOWHERE`` where there is no single one.
    ``constants``: whether adding one to a row of logits, which changes no probability, changes
    the loss.  Changes up to ``seen`` may be rounding.
    """

    moves: dict
    scored: np.ndarray
    temperature: float | None
    read_at: np.ndarray
    constants: bool
    seen: float
    others: dict | None = None
    order: float | None = None


def observe_dependence(call, seed, copies):
    """-> Dependence; None for a loss that refuses these texts.

    ``copies``: 2 for a loss whose texts share something, else 1.
    """
    draws = [_drawn(seed + 700 + n, copies, spread) for n, spread in enumerate(SPREADS)]
    seen = SEEN_IN_HALF if call.formats_inside() & {"float16", "bfloat16"} else SEEN
    try:
        gradients = [call.texts(*draw) for draw in draws]
        moves, others = _moves(call, draws, gradients, copies)
        read_at = _read_at(call, draws, gradients, moves, seen)
        order = None
        if copies == 2:
            swapped = [call.texts(*(x[::-1].copy() for x in draw))[::-1] for draw in draws]
            order = max(float(_change(a, b).max()) for a, b in zip(gradients, swapped))
    except AuditError:
        return None
    constants = any(
        np.abs(gradient.sum(axis=-1)).max() > seen * np.linalg.norm(gradient)
        for gradient in gradients
    )
    scored, temperature = _scored(draws, gradients, seen)
    return Dependence(
        moves, scored, temperature, read_at, constants, seen, others=others, order=order
    )


def _drawn(seed, copies, spread):
    """[student (B, T, V), teacher (B, T, V), tokens (B, T), mask (B, T)]"""
    draw = np.random.default_rng(seed)
    logits = spread * draw.standard_normal((2, copies, LENGTH, VOCABULARY))
    tokens = np.stack([draw.permutation(VOCABULARY)[:LENGTH] for _ in range(copies)])
    return [*logits, tokens, np.ones((copies, LENGTH), bool)]


def _moves(call, draws, gradients, copies):
    """(own, others) as in Dependence."""
    own = {name: np.zeros((LENGTH, LENGTH)) for name in INPUTS[: call.arguments]}
    others = {name: np.zeros((2, LENGTH, LENGTH)) for name in own}
    for spread, draw, before in zip(SPREADS, draws, gradients):
        for place, name in enumerate(own):
            for text, u in np.ndindex(copies, LENGTH):
                after = call.texts(*with_row(draw, place, (text, u), spread))
                change = _change(before, after)
                own[name][:, u] = np.maximum(own[name][:, u], change[text])
                if copies == 2:
                    other = others[name][1 - text]
                    other[:, u] = np.maximum(other[:, u], change[1 - text])
    return own, others if copies == 2 else None


def with_row(inputs, place, at, spread=1.0):
    """The inputs with another row of one of them, at (text, position)."""
    changed = [np.array(x) for x in inputs]
    if place < 2:
        row = np.random.default_rng((place, *at)).standard_normal(changed[place].shape[-1])
        changed[place][at] = spread * row
    elif place == 2:  # a token that its text does not hold yet, where there is one
        vocabulary = changed[0].shape[-1]
        unused = np.setdiff1d(np.arange(vocabulary), changed[2][at[0]])
        changed[2][at] = unused[0] if len(unused) else (changed[2][at] + 1) % vocabulary
    else:
        changed[3][at] = ~changed[3][at]
    return changed


def _change(before, after):
    """(B, T): the change of each row of a gradient, relative to the longer of the two."""
    lengths = np.maximum(*(np.linalg.norm(g, axis=-1) for g in (before, after)))
    floor = SHORT * lengths.max() or 1.0
    changed = np.linalg.norm(after - before, axis=-1) / np.maximum(lengths, floor)
    return np.where(np.isfinite(changed), changed, 1.0)


def _scored(draws, gradients, seen):
    """(positions (T,), temperature): whose token's score each row follows, of softened models too.

    The same in all draws where a row is not 0; the temperature is None where there are several.
    """
    found, temperatures = [set() for _ in range(LENGTH)], []
    for (student, _, tokens, _), gradient in zip(draws, gradients):
        for b, t in np.argwhere(gradient.any(axis=-1)):
            of = [_temperature(student[b, t], gradient[b, t], token, seen) for token in tokens[b]]
            fits = [s for s, temperature in enumerate(of) if temperature]
            found[t].add(fits[0] if len(fits) == 1 else NOWHERE)
            temperatures += [of[s] for s in fits]
    one = temperatures and np.ptp(temperatures) <= seen * max(temperatures)
    positions = np.array([at.pop() if len(at) == 1 else NOWHERE for at in found])
    return positions, float(np.mean(temperatures)) if one else None


def _temperature(logits, row, token, seen):
    """The one at which a row (V,) is the score of the token; None where it is none at all.

    All other entries of a score are the softmax's, times one number.
    """
    others = np.delete(row, token)
    alike = (others > 0).all() or (others < 0).all()
    if not alike or abs(row.sum()) > seen * np.abs(row).max():
        return None
    logs, z = np.log(np.abs(others)), np.delete(logits, token)
    slope, start = np.polyfit(z, logs, 1)
    off = np.abs(logs - slope * z - start).max()
    return 1 / slope if off <= seen and slope > seen else None


def _read_at(call, draws, gradients, moves, seen):
    """The position at whose token alone each row of the teacher is read, its own tried first."""
    found = np.full(LENGTH, NOWHERE)
    if "tokens" not in moves:
        return found
    for u in np.flatnonzero((moves["teacher"] > seen).any(axis=0)):
        for s in sorted(range(LENGTH), key=lambda s: s != u):
            if all(_moved(call, *both, u, s) <= seen for both in zip(draws, gradients)):
                found[u] = s
                break
    return found


def _moved(call, draw, before, u, s):
    """What moves with the teacher's row u where the token at s keeps its probability.

    The others' goes to two of them in turn: the likeliest can be another token then.
    """
    token, row = draw[2][0, s], softmax(draw[1][0, u])
    others = np.delete(np.arange(VOCABULARY), token)
    found = []
    for favourite in others[[0, -1]]:
        changed = [np.array(x) for x in draw]
        share = np.where(np.arange(VOCABULARY) == favourite, 0.9, 0.1 / (VOCABULARY - 2))
        share[token] = 0.0
        share *= 1 - row[token]
        share[token] = row[token]
        changed[1][0, u] = np.log(share)
        found.append(_change(before, call.texts(*changed)).max())
    return float(max(found))
