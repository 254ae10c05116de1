"""The pairs of student and teacher on which a loss of one token is tried."""

import functools
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from opd_toy import objectives
from opd_toy.distributions import log_softmax, softmax
from opd_toy.example import STUDENT, TEACHER

CLOSE, ORDINARY = 0, 1  # tiers; those above are far apart
# Vocabulary sizes and the standard deviation of the logits, by tier.
TIERS = (((3, 4, 5, 6), 0.2), ((3, 4, 5, 8, 3, 4, 5, 8), 1.0), ((3, 5, 4, 8), 4.0), ((3, 5), 12.0))
# Where all losses are tried alike, whatever the seed: log-ratios of one token in both directions.
REACH = (3.0, 8.0, 16.0, 40.0, 100.0, 300.0)
FAR = 3
ALWAYS = 20  # the seed of those that every seed has
NEARER = 0.1  # of the usual distance of close pairs
# A loss that looks at the 32 likeliest tokens is the whole divergence on small vocabularies.
LARGE_OF_TOKEN, LARGE_OF_ALL = 150, 1000
# Steps of the log-ratios of the large pairs, by tier: each is an odd multiple of half a step.
STEPS = (0.05, 0.25)
FEW_IN_STEPS = 12
# Vocabulary sizes of the last pairs, close but not flat: half precision cannot see their gradients.
PEAKED = (3, 5, 8)
SHARP = 1.2  # the standard deviation of their logits


class Pair(NamedTuple):
    """Logits (V,) of both, how far apart they are, and whether parameters may be fitted to it."""

    student: np.ndarray
    teacher: np.ndarray
    tier: int = ORDINARY
    fit: bool = True


@dataclass(frozen=True)
class Pairs:
    """Student and teacher logits (N, V) of N pairs; those with fewer tokens end in -inf."""

    student_logits: np.ndarray
    teacher_logits: np.ndarray

    @classmethod
    def of(cls, pairs):
        """From objects with ``student`` and ``teacher`` logits (V,)."""
        width = max(len(pair.student) for pair in pairs)
        return cls(
            np.array([padded(pair.student, width, -np.inf) for pair in pairs]),
            np.array([padded(pair.teacher, width, -np.inf) for pair in pairs]),
        )

    @cached_property
    def p(self):
        return softmax(self.student_logits)

    @cached_property
    def q(self):
        return softmax(self.teacher_logits)

    @property
    def sizes(self):
        """Number of tokens of each pair (N,)."""
        return np.isfinite(self.student_logits).sum(axis=-1)

    @cached_property
    def log_ratio(self):
        """log p/q (N, V), 0 for padding."""
        here = np.isfinite(self.student_logits)
        logs = [
            np.where(here, log_softmax(z), 0.0) for z in (self.student_logits, self.teacher_logits)
        ]
        return logs[0] - logs[1]

    def distance(self):
        """Largest |log(p/q)| over the tokens of each pair (N,)."""
        return np.abs(self.log_ratio).max(axis=-1)

    def __getitem__(self, rows):
        return Pairs(self.student_logits[rows], self.teacher_logits[rows])


def padded(row, width, filler):
    return np.concatenate([row, np.full(width - len(row), filler)])


def notes_pair():
    return Pair(np.log(STUDENT), np.log(TEACHER))


def random_pairs(seed):
    """A list of Pair, the notes' first; half of the random ones of each tier are for fitting."""
    random = np.random.default_rng(seed)
    found = [notes_pair()]
    for tier, (sizes, spread) in enumerate(TIERS):
        for index, size in enumerate(sizes):
            fit = index < 4 if tier == ORDINARY else index % 2 == 0
            found.append(Pair(*_independent(random, size, spread), tier, fit))
    for size in (3, 5):
        for sharpness in (0.4, 2.0):
            found.append(Pair(*_alike(random, size, sharpness), ORDINARY, False))
    found += _always()
    return found + [Pair(*_alike(random, size, 1.0, 0.2), CLOSE, False) for size in PEAKED]


@functools.cache
def _always():
    """Pairs that every seed has, so that what only some pairs show is seen at every seed."""
    random = np.random.default_rng(ALWAYS)
    sizes = (3, 4, 5, 8) * 4
    found = [Pair(*_independent(random, size, 1.0), ORDINARY, False) for size in sizes]
    return found + [Pair(*_alike(random, 4, share), ORDINARY, False) for share in (0.2, 0.7, 1.5)]


def near_pairs(seed):
    """Close pairs that every seed has, and a seed's own, closer by far.

    A verdict that holds only while the two are close is found on these, at any seed.
    """
    always, own = np.random.default_rng(ALWAYS + 1), np.random.default_rng([seed, ALWAYS])
    sizes, spread = TIERS[CLOSE]
    shapes = [*((size, spread) for size in sizes), *((size, SHARP) for size in PEAKED)]
    found = []
    for random, apart in ((always, spread), (own, spread * NEARER)):
        for index, (size, sharpness) in enumerate(shapes):
            teacher = random.normal(0, sharpness, size)
            student = teacher + random.normal(0, apart, size)
            found.append(Pair(student, teacher, CLOSE, index % 2 == 0))
    return found


def reach_pairs():
    """A list of (log-ratio, Pair): one token of four is rare under one of the two models.

    Its log p/q, or log q/p, goes through ``REACH``.
    """
    found = []
    for apart in REACH:
        rare = 0.3 * np.exp(-apart)
        often = np.log([0.3, 0.35, 0.15, 0.2])
        rarely = np.append(np.log(0.3) - apart, np.log((1 - rare) * np.array([0.25, 0.45, 0.3])))
        for student, teacher in ((often, rarely), (rarely, often)):
            found.append((apart, Pair(student, teacher, FAR, False)))
    return found


def large_pairs(seed, size):
    """Pairs in which many tokens, however likely, have one and the same log-ratio.

    Such tokens show whether a loss looks at the log-ratio alone; a third pair, with a few
    tokens of the same log-ratios, whether it does so at every size of the vocabulary.
    """
    random = np.random.default_rng([seed, size])
    return [
        Pair(*_in_steps(random, tokens, TIERS[tier][1], STEPS[tier]), tier)
        for tokens, tier in ((size, CLOSE), (size, ORDINARY), (FEW_IN_STEPS, ORDINARY))
    ]


def _in_steps(random, size, spread, step):
    while True:
        student, teacher = random.normal(0, spread, (2, size))
        ratio = step * (np.floor((student - teacher) / step) + 0.5)
        # The teacher's probabilities, p times 1 / ratio, sum to 1 as the student's do.
        excess = softmax(student) * np.expm1(-ratio)
        more, less = excess[ratio < 0].sum(), -excess[ratio > 0].sum()
        if more > 0 and less > 0:
            student = student + np.where(ratio < 0, np.log(less / more), 0.0)
            return student, student - ratio


def _independent(random, size, spread):
    while True:
        student, teacher = random.normal(0, spread, (2, size))
        if _gradients_seen(student, teacher):
            return student, teacher


def _alike(random, size, sharpness, apart=0.05):
    """A student that ranks the tokens as its teacher does, flatter or sharper.

    So it is late in training, where losses clamped at zero lose their gradient.
    """
    while True:
        teacher = random.normal(0, SHARP, size)
        student = sharpness * teacher + random.normal(0, apart, size)
        if _gradients_seen(student, teacher):
            return student, teacher


def _gradients_seen(student, teacher):
    """Whether both divergences have a gradient well above the rounding of half precision."""
    p, q = softmax(student), softmax(teacher)
    gradients = (objectives.forward_kl_logit_gradient, objectives.reverse_kl_logit_gradient)
    return min(np.linalg.norm(gradient(p, q)) for gradient in gradients) > 0.06
