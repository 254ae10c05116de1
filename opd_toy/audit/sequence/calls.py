"""Calling a loss on sequences, and the table of its gradients over all sequences of a pair of trees."""

import inspect
import itertools
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from opd_toy.audit import calling
from opd_toy.audit.calling import AuditError, NoGradient, gradient_of
from opd_toy.audit.sequence.bases import bases_of, combine
from opd_toy.sequences import TokenTree

WANTED = "loss(student_logits (T, V), teacher_logits (T, V), tokens (T,)[, mask (T,)])"
WANTED_BATCH = (
    "loss(student_logits (B, T, V), teacher_logits (B, T, V), tokens (B, T)[, mask (B, T)])"
)
# Rounding is of the draws, which may be much longer than their mean: by tolerance, the share of a draw that counts as the mean's length.
OF_A_DRAW = {1e-9: 1e-3, 2e-5: 0.02, 3e-2: 1.0}
NAMES = ("student_logits", "teacher_logits", "tokens", "mask")


class SequenceCall:
    """The loss with its axes and mask put right; remembers what all calls had in common."""

    def __init__(self, loss, batched):
        self.loss, self.batched, self.wanted = (
            loss,
            batched,
            WANTED_BATCH if batched else WANTED + "; batched=True puts a batch axis in front",
        )
        self.keyword = _takes_keyword_mask(loss)
        self.arguments = 3 if self.keyword else calling.arguments_taken(loss, 4, self.wanted)
        self.takes_mask, self.mask_type = self.keyword or self.arguments == 4, bool
        self.count, self.touched, self.teacher_gradient = 0, set(), False
        self.without_gradient, self.no_gradient = (
            0,
            None,
        )  # how many calls had none, and the last one's error
        self._try_out()

    def __call__(self, student, teacher, tokens, mask=None):
        """-> Called; arrays (T, V) and (T,), or with a batch axis where ``batched``."""
        self.count += 1
        return gradient_of(
            self.function,
            student,
            teacher,
            *self._rest(tokens, mask),
            names=NAMES,
            wanted=self.wanted,
        )

    def one(self, student, teacher, tokens, mask=None):
        """(value, gradient (T, V)) of one sequence; gradient 0 where none reaches the student."""
        arguments = [student, teacher, tokens, mask]
        if self.batched:
            arguments = [None if a is None else np.asarray(a)[None] for a in arguments]
        value, gradient = self.several(*arguments)
        return value, gradient[0] if self.batched else gradient

    def several(self, student, teacher, tokens, mask=None):
        try:
            called = self(student, teacher, tokens, mask)
        except NoGradient as error:
            self.without_gradient, self.no_gradient = self.without_gradient + 1, error
            return np.nan, np.zeros(np.shape(student))
        self.touched |= set(called.touched)
        self.teacher_gradient |= called.teacher_gradient is not None and bool(
            np.any(called.teacher_gradient)
        )
        return called.value, called.student_gradient

    def _rest(self, tokens, mask):
        tokens = torch.as_tensor(np.array(tokens, dtype=np.int64))
        mask = np.ones(tokens.shape) if mask is None else np.asarray(mask)
        return [tokens, torch.as_tensor(mask.astype(self.mask_type))][
            : self.arguments - 2 + self.keyword
        ]

    def coarser_formats(self, found):
        """Formats inside the loss that are coarser than ``found``, the finest of them first."""
        names = list(calling.TOLERANCES)
        try:
            inside = calling.formats_inside(
                self.function, *self.first[:2], *self._rest(self.first[2], None)
            )
        except Exception:  # looked at without gradients, which the loss may take itself
            return []
        return [name for name in names[names.index(found) + 1 :] if name in inside]

    def check_unchanged(self):
        """AuditError where the first call, made again, gives something else."""
        if self.tried:
            calling.check_unchanged(
                self.function,
                self.tried,
                *self.first[:2],
                *self._rest(self.first[2], None),
                names=NAMES,
                wanted=self.wanted,
            )

    @property
    def function(self):
        return self._with_mask if self.keyword else self.loss

    def _with_mask(self, student, teacher, tokens, mask):
        return self.loss(student, teacher, tokens, mask=mask)

    def _try_out(self):
        """Refuses a loss that cannot be called or is not deterministic; finds out which type of mask it takes."""
        draw = np.random.default_rng(0)
        student, teacher = draw.standard_normal((2, 3, 3))
        arrays = student, teacher, np.array([0, 2, 1])
        # Two sequences, as some losses divide by what a batch of one has not.
        self.first = arrays = (
            [np.stack([x, x[::-1]]) for x in arrays] if self.batched else list(arrays)
        )
        self.tried = None
        for kind in (bool, np.float64):
            self.mask_type = kind
            try:
                self.tried = calling.check_deterministic(
                    self.function,
                    *arrays[:2],
                    *self._rest(arrays[2], None),
                    names=NAMES,
                    wanted=self.wanted,
                )
                return
            except NoGradient:
                return  # perhaps this sequence alone; all are tried
            except AuditError as error:
                first = error if kind is bool else first
                if not self.takes_mask or kind is np.float64:
                    raise first from first.__cause__


def _takes_keyword_mask(loss):
    try:
        parameter = inspect.signature(loss).parameters.get("mask")
    except (TypeError, ValueError):
        return False
    return parameter is not None and parameter.kind is parameter.KEYWORD_ONLY


@dataclass(frozen=True)
class Sample:
    """The table of all draws on one pair of trees, and the expectation under whoever draws."""

    student: TokenTree
    teacher: TokenTree
    table: np.ndarray  # (N, P), a row a sequence, or a pair of them
    values: np.ndarray  # (N,)
    chances: dict  # of the rows (N,), "student" and "teacher"
    drawer: str
    rewards: np.ndarray | None
    gradients: bool  # whether any call had one

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
        """The length below which the expected gradient is rounding around nothing."""
        return tolerance * OF_A_DRAW[tolerance] * self.size

    def yard(self, tolerance):
        """What the tolerance is a part of: the length of the expected gradient, and more where the rounding of the draws asks for it."""
        return max(float(np.linalg.norm(self.expected)), OF_A_DRAW[tolerance] * self.size)

    def left_over(self, coefficients, tolerance, bases=None):
        """|expected - sum of coefficients times bases| relative to ``yard``."""
        if not self.size:
            return 0.0
        blocks = combine(coefficients, bases or self.bases, self.student.length)
        return float(
            np.sqrt(sum(np.sum((a - b) ** 2) for a, b in zip(self.blocks, blocks)))
        ) / self.yard(tolerance)


def tabulate(call, student, teacher, drawer, reward=None, copies=1):
    """-> Sample: a row for each sequence, or (``copies`` = 2) for each pair of sequences drawn apart."""
    tokens, columns = student.tokens(), columns_of(student)
    logits = [_along(tree, tokens) for tree in (student, teacher)]
    rows = list(itertools.product(range(len(tokens)), repeat=copies))
    table, values, before = (
        np.zeros((len(rows), student.parameters)),
        np.zeros(len(rows)),
        call.without_gradient,
    )
    for n, row in enumerate(rows):
        chosen = list(row)
        if copies == 1:
            values[n], gradient = call.one(logits[0][row[0]], logits[1][row[0]], tokens[row[0]])
            gradient = [gradient]
        else:
            values[n], gradient = call.several(logits[0][chosen], logits[1][chosen], tokens[chosen])
        for index, part in zip(row, gradient):
            table[n, columns[index]] += part
    chances = {}
    for who, tree in (("student", student), ("teacher", teacher)):
        chance = tree.sequence_probabilities()
        chances[who] = chance if copies == 1 else np.outer(chance, chance).ravel()
    rewards = None if reward is None else np.array([_reward(reward, row) for row in tokens])
    return Sample(
        student,
        teacher,
        table,
        values,
        chances,
        drawer,
        rewards,
        call.without_gradient - before < len(rows),
    )


def _along(tree, tokens):
    """Logits (S, T, V) of the prefixes that every sequence passes."""
    size = len(tokens)
    return np.stack([np.repeat(z, size // len(z), axis=0) for z in tree.logits], axis=1)


def columns_of(tree):
    """Where the gradient (T, V) of each sequence lies in (P,): (S, T, V)."""
    size, start, columns = tree.vocabulary**tree.length, 0, []
    for z in tree.logits:
        columns.append(
            start + np.repeat(np.arange(z.size).reshape(z.shape), size // len(z), axis=0)
        )
        start += z.size
    return np.stack(columns, axis=1)


def _reward(reward, tokens):
    value = reward(torch.as_tensor(tokens.copy()))
    value = float(value.detach() if isinstance(value, torch.Tensor) else value)
    if not np.isfinite(value):
        raise AuditError(
            f"reward gives {value!r} for the tokens {tokens.tolist()}; it must be a finite number"
        )
    return value
