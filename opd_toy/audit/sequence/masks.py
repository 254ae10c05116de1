"""Calling a loss with masks and in batches: what masked positions and other sequences do.

All of it shows in single calls, on rows of logits drawn position by position; nothing
needs to be enumerated.  ``call`` is a ``SequenceCall``: ``call.one`` takes one sequence,
``call.several`` a batch; both give the value and the gradient in the student's logits.
"""

import warnings
from dataclasses import dataclass

import numpy as np

from opd_toy.audit.calling import AuditError

LENGTH, VOCABULARY, DRAWS = 4, 3, 3
PADDED, PROMPT, HOLE = "padding at the end", "a prompt in front", "a hole inside"
MASKS = {PADDED: (1, 1, 0, 0), PROMPT: (0, 1, 1, 1), HOLE: (1, 0, 1, 1)}
# Relative; wide enough for float32, far below what a wrong normaliser or a leak comes to.
EQUAL = 1e-4


@dataclass(frozen=True)
class MaskFacts:
    """What masked positions do.  ``gradient``, ``leak``: by which masks they get a gradient, or
    change that of the valid positions.

    ``factor``: {mask: c} where the gradient is c times that of the valid positions alone,
    None where it is no multiple; ``nan``: NaN logits there spoil the result; ``labels``: the
    error with -100 for their tokens; ``nothing``: finite where no position is valid.
    """

    gradient: tuple
    leak: tuple
    factor: dict
    nan: bool
    labels: str | None
    nothing: bool


@dataclass(frozen=True)
class BatchFacts:
    """``shared``: the sequences of a batch share something; ``lengths``: how many are valid.

    ``factors``: of each sequence's gradient against itself alone, None where ``shared``.
    """

    shared: bool
    lengths: tuple
    factors: tuple | None


def observe_mask(call, seed):
    """-> MaskFacts"""
    gradient, leak, factor = [], [], {}
    for number, (name, mask) in enumerate(MASKS.items()):
        valid = np.array(mask, bool)
        draws = [_masked(call, valid, *draw) for draw in _draws(seed + 100 * number)]
        gradient += [name] if any(draw["gradient"] for draw in draws) else []
        leak += [name] if any(draw["leak"] for draw in draws) else []
        factors = [draw["factor"] for draw in draws]
        same = None not in factors and np.ptp(factors) <= EQUAL * np.abs(factors).max()
        factor[name] = float(np.mean(factors)) if same else None
    student, teacher, tokens = next(_draws(seed))
    valid = np.array(MASKS[PADDED], bool)
    spoilt = [np.where(valid[:, None], rows, np.nan) for rows in (student, teacher)]
    return MaskFacts(
        tuple(gradient),
        tuple(leak),
        factor,
        nan=not _finite(call, *spoilt, tokens, valid),
        labels=_error(call, student, teacher, np.where(valid, tokens, -100), valid),
        nothing=_finite(call, student, teacher, tokens, np.zeros(LENGTH, bool)),
    )


def _masked(call, valid, student, teacher, tokens):
    """On one draw: do masked positions get a gradient, do they leak, which factor?"""
    _, gradient = call.one(student, teacher, tokens, valid)
    size = np.linalg.norm(gradient)
    others = [
        np.where(valid[:, None], kept, 3 * changed)
        for kept, changed in zip((student, teacher), (teacher[::-1], student[::-1]))
    ]
    other_tokens = np.where(valid, tokens, (tokens + 1) % VOCABULARY)
    _, changed = call.one(*others, other_tokens, valid)
    _, alone = call.one(student[valid], teacher[valid], tokens[valid])
    return {
        "gradient": np.linalg.norm(gradient[~valid]) > EQUAL * size,
        # NaN counts as a leak.
        "leak": not np.linalg.norm((changed - gradient)[valid]) <= EQUAL * size,
        "factor": _factor(gradient[valid], alone),
    }


def observe_batch(call, seed):
    """-> BatchFacts"""
    lengths = (4, 2) if call.takes_mask else (4, 4)
    masks = np.arange(LENGTH) < np.array(lengths)[:, None]
    factors = []
    for draw, others in zip(_draws(seed + 500), _draws(seed + 600)):
        rows = [np.stack(pair) for pair in zip(draw, others)]
        _, gradient = call.several(*rows, masks)
        with warnings.catch_warnings(action="ignore"):  # about the spread of a group of one
            alone = [call.one(*(x[b] for x in rows), masks[b])[1] for b in range(2)]
        factors.append([_factor(gradient[b], alone[b]) for b in range(2)])
    unknown = any(factor is None for pair in factors for factor in pair)
    if unknown or np.ptp(factors, axis=0).max() > EQUAL * np.abs(factors).max():
        return BatchFacts(True, lengths, None)
    return BatchFacts(False, lengths, tuple(float(f) for f in np.mean(factors, axis=0)))


def _draws(seed):
    draw = np.random.default_rng(seed)
    for _ in range(DRAWS):
        student, teacher = draw.standard_normal((2, LENGTH, VOCABULARY))
        yield student, teacher, draw.integers(VOCABULARY, size=LENGTH)


def _factor(gradient, alone):
    """c with gradient = c alone, or None."""
    if not (np.isfinite(gradient).all() and np.isfinite(alone).all()) or not alone.any():
        return None
    c = float((gradient * alone).sum() / (alone * alone).sum())
    is_multiple = np.linalg.norm(gradient - c * alone) <= EQUAL * np.linalg.norm(gradient)
    return c if is_multiple and c else None


def _finite(call, student, teacher, tokens, mask):
    """Whether value and gradient of the valid positions are finite."""
    try:
        value, gradient = call.one(student, teacher, tokens, mask)
    except AuditError:
        return False
    return bool(np.isfinite(value) and np.isfinite(gradient[mask]).all())


def _error(call, *arguments):
    try:
        call.one(*arguments)
    except AuditError as error:
        return str(error.__cause__ or error).splitlines()[0]
    return None
