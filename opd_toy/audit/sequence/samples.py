"""The table of a loss's gradients over all sequences of a pair of trees."""

import itertools
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from opd_toy.audit.calling import AuditError
from opd_toy.audit.sequence.bases import bases_of, combine
from opd_toy.sequences import TokenTree

# The rounding is that of the draws, which may be much longer than their mean: by tolerance,
# the share of a draw's length that counts as the mean's.
OF_A_DRAW = {1e-9: 1e-3, 2e-5: 0.02, 3e-2: 1.0}


@dataclass(frozen=True)
class Sample:
    """All draws on one pair of trees, and the expectation under whoever draws.

    ``table`` (N, P): a row for each sequence, or pair of sequences; ``values`` (N,);
    ``chances``: of the rows (N,), by "student" and "teacher"; ``gradients``: whether
    any call had one.
    """

    student: TokenTree
    teacher: TokenTree
    table: np.ndarray
    values: np.ndarray
    chances: dict
    drawer: str
    rewards: np.ndarray | None = None
    gradients: bool = True

    @property
    def length(self):
        return self.student.length

    @property
    def is_finite(self):
        return bool(np.isfinite(self.table).all())

    @cached_property
    def expected(self):
        return self.chances[self.drawer] @ self.table

    @cached_property
    def blocks(self):
        """``expected`` as rows of the prefixes, a list of (V**t, V)."""
        shapes = [p.shape for p in self.student.probabilities]
        ends = np.cumsum([rows * vocabulary for rows, vocabulary in shapes])[:-1]
        return [part.reshape(shape) for part, shape in zip(np.split(self.expected, ends), shapes)]

    @cached_property
    def size(self):
        """Root mean square of one draw's gradient."""
        return float(np.sqrt(self.chances[self.drawer] @ (self.table**2).sum(axis=1)))

    @property
    def variance(self):
        return float(self.chances[self.drawer] @ ((self.table - self.expected) ** 2).sum(axis=1))

    @cached_property
    def bases(self):
        return bases_of(self.student, self.teacher, self.rewards)

    def drawn_by(self, drawer):
        return replace(self, drawer=drawer)

    def rounding(self, tolerance):
        """The length below which the expected gradient cannot be told from 0."""
        return tolerance * OF_A_DRAW[tolerance] * self.size

    def reference_length(self, tolerance):
        """What the tolerance is a part of: the expected gradient's length.

        More where the rounding of the draws asks for it.
        """
        return max(float(np.linalg.norm(self.expected)), OF_A_DRAW[tolerance] * self.size)

    def left_over(self, coefficients, tolerance, bases=None):
        """|expected - sum of coefficients times bases|, relative to ``reference_length``."""
        if not self.size:
            return 0.0
        blocks = combine(coefficients, bases or self.bases, self.length)
        squares = sum(np.sum((a - b) ** 2) for a, b in zip(self.blocks, blocks))
        return float(np.sqrt(squares)) / self.reference_length(tolerance)


def tabulate(call, student, teacher, drawer, reward=None, copies=1):
    """-> Sample, a row for each sequence.

    With ``copies`` = 2 a row for each pair of sequences, drawn independently: a batch.
    """
    tokens, columns = student.tokens(), columns_of(student)
    logits = [_along(tree, tokens) for tree in (student, teacher)]
    rows = list(itertools.product(range(len(tokens)), repeat=copies))
    table, values = np.zeros((len(rows), student.parameters)), np.zeros(len(rows))
    before = call.without_gradient
    for n, row in enumerate(rows):
        chosen = list(row)
        if copies == 1:
            values[n], gradient = call.one(*(x[row[0]] for x in (*logits, tokens)))
            gradient = [gradient]
        else:
            values[n], gradient = call.several(*(x[chosen] for x in (*logits, tokens)))
        for index, part in zip(row, gradient):
            table[n, columns[index]] += part
    chances = {}
    for who, tree in (("student", student), ("teacher", teacher)):
        chance = tree.sequence_probabilities()
        chances[who] = chance if copies == 1 else np.outer(chance, chance).ravel()
    rewards = None if reward is None else np.array([reward_of(reward, row) for row in tokens])
    gradients = call.without_gradient - before < len(rows)
    return Sample(student, teacher, table, values, chances, drawer, rewards, gradients)


def columns_of(tree):
    """Where the gradient (T, V) of each sequence lies in (P,): (S, T, V)."""
    size, start, columns = tree.vocabulary**tree.length, 0, []
    for z in tree.logits:
        indices = start + np.arange(z.size).reshape(z.shape)
        columns.append(np.repeat(indices, size // len(z), axis=0))
        start += z.size
    return np.stack(columns, axis=1)


def _along(tree, tokens):
    """Logits (S, T, V) of the prefixes that every sequence passes."""
    size = len(tokens)
    return np.stack([np.repeat(z, size // len(z), axis=0) for z in tree.logits], axis=1)


def reward_of(reward, tokens):
    """The reward of tokens (T,), a finite number."""
    value = reward(torch.as_tensor(tokens.copy()))
    value = float(value.detach() if isinstance(value, torch.Tensor) else value)
    if not np.isfinite(value):
        raise AuditError(
            f"reward gives {value!r} for the tokens {tokens.tolist()}; it must be a finite number"
        )
    return value
