"""Calling a loss with masks and in batches: what masked positions and other sequences do.

All of it shows in single calls, on rows of logits drawn position by position; nothing
needs to be enumerated.  ``call`` is a ``SequenceCall``.  Texts that share something, such as
a group's baseline, are looked at in twos, each with a mask of its own.
"""

import warnings
from dataclasses import dataclass

import numpy as np

from opd_toy.audit.calling import AuditError, first_line
from opd_toy.audit.sequence.dependence import INPUTS, with_row

LENGTH, VOCABULARY, DRAWS = 4, 3, 3
PADDED, PROMPT, HOLE = "padding at the end", "a prompt in front", "a hole inside"
MASKS = {PADDED: (1, 1, 0, 0), PROMPT: (0, 1, 1, 1), HOLE: (1, 0, 1, 1)}
# Relative; wide enough for float32, far below what a wrong normaliser or a leak comes to.
EQUAL = 1e-4


@dataclass(frozen=True)
class Leak:
    """The first row that leaks: ``moved`` and ``by`` are (text, position), ``what`` the input."""

    what: str
    by: tuple
    moved: tuple


@dataclass(frozen=True)
class MaskFacts:
    """What masked positions do.

    ``gradient``: {mask: (text, position)s that get a gradient though masked}; ``leak``:
    {mask: Leak}, masks whose masked rows change the valid positions' gradient, None where no
    single row does.
    ``factor``: {mask: c} where the gradient is c times that of the valid positions alone,
    None where it is no multiple; ``nan``: NaN logits there spoil the result; ``labels``: the
    error with -100 for their tokens; ``nothing``: finite where no position is valid.
    """

    gradient: dict
    leak: dict
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


def observe_mask(call, seed, copies):
    """-> MaskFacts.  ``copies``: 2 for a loss whose texts share something, else 1."""
    gradient, leak, factor = {}, {}, {}
    patterns = [np.array(mask, bool) for mask in MASKS.values()]
    for number, (name, valid) in enumerate(zip(MASKS, patterns)):
        beside = np.stack([valid, patterns[number - 1]][:copies])
        draws = list(_texts(seed + 100 * number, copies))
        for draw in draws:
            masked, leaking = _masked(call, beside, *draw)
            if masked:
                gradient[name] = masked
            if leaking is not False:
                leak.setdefault(name, leaking)
        factors = [_factor_of_valid(call, np.stack([valid] * copies), *draw) for draw in draws]
        same = None not in factors and np.ptp(factors) <= EQUAL * np.abs(factors).max()
        factor[name] = float(np.mean(factors)) if same else None
    student, teacher, tokens = next(_texts(seed, copies))
    valid = np.stack([patterns[0], np.ones(LENGTH, bool)][:copies])
    spoilt = [np.where(valid[..., None], rows, np.nan) for rows in (student, teacher)]
    empty = np.stack([np.zeros(LENGTH, bool), np.ones(LENGTH, bool)][:copies])
    return MaskFacts(
        gradient,
        leak,
        factor,
        nan=not _finite(call, *spoilt, tokens, valid),
        labels=_error(call, student, teacher, np.where(valid, tokens, -100), valid),
        nothing=_finite(call, student, teacher, tokens, empty),
    )


def _masked(call, valid, *texts):
    """(masked positions with a gradient, Leak or None where something leaks, else False)."""
    gradient = call.texts(*texts, valid)
    size = np.linalg.norm(gradient)
    alive = np.linalg.norm(gradient, axis=-1) > EQUAL * size
    positions = tuple(map(tuple, np.argwhere(alive & ~valid).tolist()))
    changed = call.texts(*_with_other_masked_rows(valid, *texts), valid)
    # NaN counts as a leak.
    leaks = not np.linalg.norm((changed - gradient)[valid]) <= EQUAL * size
    return positions, _leak(call, valid, texts, gradient) if leaks else False


def _with_other_masked_rows(valid, student, teacher, tokens):
    rows = [
        np.where(valid[..., None], kept, 3 * changed)
        for kept, changed in zip((student, teacher), (teacher[:, ::-1], student[:, ::-1]))
    ]
    return *rows, np.where(valid, tokens, (tokens + 1) % VOCABULARY)


def _leak(call, valid, texts, gradient):
    """-> Leak, or None where no masked row changes the gradient alone."""
    size = np.linalg.norm(gradient)
    for place, what in enumerate(INPUTS[: min(3, call.arguments)]):
        for by in map(tuple, np.argwhere(~valid).tolist()):
            changed = call.texts(*with_row([*texts, valid], place, by))
            off = np.linalg.norm(changed - gradient, axis=-1)
            moved = np.argwhere(valid & ~(off <= EQUAL * size))
            if len(moved):
                return Leak(what, by, tuple(moved[0].tolist()))
    return None


def _factor_of_valid(call, valid, *texts):
    """c with which masked texts have the gradient of their valid positions alone, or None."""
    copies, gradient = len(valid), call.texts(*texts, valid)
    alone = [x[valid].reshape(copies, -1, *x.shape[2:]) for x in (*texts, valid)]
    return _factor(gradient[valid].reshape(alone[0].shape), call.texts(*alone))


def observe_batch(call, seed):
    """-> BatchFacts"""
    lengths = (4, 2) if call.takes_mask else (4, 4)
    masks = np.arange(LENGTH) < np.array(lengths)[:, None]
    factors = []
    for draw, others in zip(_draws(seed + 500), _draws(seed + 600)):
        rows = [np.stack(pair) for pair in zip(draw, others)]
        _, gradient = call.several(*rows, masks)
        factors.append([_factor(g, _alone(call, *x)) for g, *x in zip(gradient, *rows, masks)])
    unknown = any(factor is None for pair in factors for factor in pair)
    if unknown or np.ptp(factors, axis=0).max() > EQUAL * np.abs(factors).max():
        return BatchFacts(True, lengths, None)
    return BatchFacts(False, lengths, tuple(float(f) for f in np.mean(factors, axis=0)))


def _alone(call, *text):
    """The gradient of one text of a batch; NaN where the loss refuses a batch of one."""
    try:
        with warnings.catch_warnings(action="ignore"):  # about the spread of a group of one
            return call.one(*text)[1]
    except AuditError:
        return np.full(np.shape(text[0]), np.nan)


def _texts(seed, copies):
    """[student (B, T, V), teacher (B, T, V), tokens (B, T)] of each draw."""
    for draws in zip(*(_draws(seed + 50 * copy) for copy in range(copies))):
        yield [np.stack(rows) for rows in zip(*draws)]


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


def _finite(call, *inputs):
    """Whether the gradient of the valid positions, and the value, are finite."""
    try:
        value, gradient = call.valued(*inputs)
    except AuditError:
        return False
    return bool(np.isfinite(value) and np.isfinite(gradient[inputs[-1]]).all())


def _error(call, *inputs):
    try:
        call.texts(*inputs)
    except AuditError as error:
        return first_line(error.__cause__ or error)
    return None
