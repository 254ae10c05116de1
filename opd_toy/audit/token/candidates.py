"""The gradients a loss may turn out to follow: named ones, and families with parameters.

A candidate maps ``Pairs`` to logit gradients (N, V), one row a pair.  Those that
``opd_toy.objectives`` has come from there; the others are written out, here and in
``weights``, ``temperatures``, ``heads`` and ``geometric``.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from opd_toy import objectives
from opd_toy.audit.token.names import OVER_VOCABULARY, format_number


@dataclass(frozen=True)
class Candidate:
    """``gradient(pairs)`` (N, V) and its ``name`` in reports.

    ``objective`` is the engine's name for it, if it has one, ``parameters`` its arguments.
    """

    name: str
    gradient: Callable
    objective: str | None = None
    parameters: tuple = ()


@dataclass(frozen=True)
class Family:
    """Candidates along one or two parameters: ``members(*values)``, mostly one of them.

    ``grid`` holds tuples of starting values, ``bounds`` (low, high) of each parameter.
    """

    members: Callable
    grid: tuple
    bounds: tuple


def line(member, grid, bounds):
    """The Family of ``member(value)`` along one parameter."""
    return Family(lambda value: (member(value),), tuple((x,) for x in grid), (bounds,))


def forward_kl():
    return Candidate(
        "forward KL",
        lambda pairs: objectives.forward_kl_logit_gradient(pairs.p, pairs.q),
        "forward_kl",
    )


def reverse_kl():
    return Candidate(
        "reverse KL",
        lambda pairs: objectives.reverse_kl_logit_gradient(pairs.p, pairs.q),
        "reverse_kl",
    )


def entropy():
    """The student's entropy: -p_j (log p_j - sum p log p)."""
    return Candidate("entropy", lambda pairs: -centred(pairs.p, log(pairs.p)))


def likeliest_token():
    """Cross-entropy with the teacher's likeliest token: p - one-hot."""
    return Candidate(
        "cross-entropy with the teacher's likeliest token",
        lambda pairs: pairs.p - np.eye(pairs.q.shape[-1])[pairs.q.argmax(axis=-1)],
    )


def uniform_labels():
    """Cross-entropy with the uniform distribution, as label smoothing adds: p - 1/V."""
    return Candidate(
        "cross-entropy with uniform labels",
        lambda pairs: pairs.p - np.isfinite(pairs.student_logits) / pairs.sizes[:, None],
    )


def expected_teacher_probability():
    """sum p q, the teacher's probability of the student's token: p_j (q_j - sum p q)."""
    return Candidate("expected teacher probability", lambda pairs: centred(pairs.p, pairs.q))


def over_vocabulary(candidate):
    """A candidate divided by V, as a mean over the vocabulary leaves it."""
    return Candidate(
        OVER_VOCABULARY + candidate.name,
        lambda pairs: candidate.gradient(pairs) / pairs.sizes[:, None],
    )


DIRECTIONS = {
    "forward": objectives.forward_kl_logit_gradient,
    "reverse": objectives.reverse_kl_logit_gradient,
}
KLS = (forward_kl(), reverse_kl())
TERMS = (
    *KLS,
    entropy(),
    likeliest_token(),
    uniform_labels(),
    expected_teacher_probability(),
)
TERMS_OVER_VOCABULARY = tuple(map(over_vocabulary, TERMS))


def engine(function, words, parameter):
    """``member(value)``: a divergence of ``opd_toy.objectives`` with its one parameter."""
    gradient = getattr(objectives, function + "_logit_gradient")
    return lambda value: Candidate(
        words.format(format_number(value)),
        lambda pairs: gradient(pairs.p, pairs.q, value),
        function,
        ((parameter, float(value)),),
    )


jsd = engine("generalized_jsd", "JSD(β = {})", "beta")
skewed_forward = engine("skewed_forward_kl", "forward KL with skew {}", "skew")
skewed_reverse = engine("skewed_reverse_kl", "reverse KL with skew {}", "skew")
alpha_divergence = engine("alpha_divergence", "α-divergence(α = {})", "alpha")

INSIDE = (
    *(1e-8, 1e-6, 1e-4, 0.001, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5),
    *(0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999, 1 - 1e-4, 1 - 1e-6, 1 - 1e-8),
)
ALPHAS = (-2.0, -1.0, -0.5, -0.1, 0.1, 0.3, 0.5, 0.7, 0.9, 1.1, 1.5, 2.0, 3.0)
_SKEWS = (0.001, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9)

JSD = line(jsd, INSIDE, (0, 1))
# Each is a function of the log-ratio alone.
DIVERGENCES = (
    JSD,
    line(skewed_forward, INSIDE, (0, 1)),
    line(skewed_reverse, INSIDE, (0, 1)),
    line(alpha_divergence, ALPHAS, (-np.inf, np.inf)),
)
BOTH_SKEWS = Family(
    lambda forward, reverse: (skewed_forward(forward), skewed_reverse(reverse)),
    tuple((forward, reverse) for forward in _SKEWS for reverse in _SKEWS),
    ((0, 1), (0, 1)),
)


def centred(p, g):
    """p_j (g_j - sum p g): the logit gradient of an objective whose slope in log p_j is p_j g_j."""
    return p * (g - (p * g).sum(axis=-1, keepdims=True))


def log(p):
    """log p, and 0 for padding."""
    return np.log(np.where(p > 0, p, 1.0))
