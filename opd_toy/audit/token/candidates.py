"""The gradients a loss may turn out to follow: named ones, and families with a parameter.

A candidate maps ``Pairs`` to logit gradients (N, V), one row a pair.  Those that
``opd_toy.objectives`` has come from there; the others are written out here.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from opd_toy import objectives
from opd_toy.audit.token.names import format_number
from opd_toy.distributions import softmax


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
    """Candidates along one parameter: ``member(value)``.

    ``grid`` holds starting values inside ``bounds``.
    """

    member: Callable
    grid: tuple
    bounds: tuple


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
    return Candidate("entropy", lambda pairs: -_centred(pairs.p, _log(pairs.p)))


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


DIRECTIONS = {
    "forward": objectives.forward_kl_logit_gradient,
    "reverse": objectives.reverse_kl_logit_gradient,
}
TERMS = (forward_kl(), reverse_kl(), entropy(), likeliest_token(), uniform_labels())


def _engine(function, words, parameter):
    gradient = getattr(objectives, function + "_logit_gradient")
    return lambda value: Candidate(
        words.format(format_number(value)),
        lambda pairs: gradient(pairs.p, pairs.q, value),
        function,
        ((parameter, float(value)),),
    )


def tempered_forward_kl(temperature):
    """KL(q'||p'), both softened: (p' - q') / temperature."""
    name = "forward KL at temperature {}"
    return _tempered("forward", name, student=temperature, teacher=temperature)


def tempered_reverse_kl(temperature):
    name = "reverse KL at temperature {}"
    return _tempered("reverse", name, student=temperature, teacher=temperature)


def forward_kl_to_tempered_teacher(temperature):
    return _tempered("forward", "forward KL to the teacher at temperature {}", teacher=temperature)


def reverse_kl_to_tempered_teacher(temperature):
    return _tempered("reverse", "reverse KL to the teacher at temperature {}", teacher=temperature)


def forward_kl_of_tempered_student(temperature):
    name = "forward KL with the student alone at temperature {}"
    return _tempered("forward", name, student=temperature)


def reverse_kl_of_tempered_student(temperature):
    name = "reverse KL with the student alone at temperature {}"
    return _tempered("reverse", name, student=temperature)


def _tempered(direction, name, *, student=None, teacher=None):
    """A KL of softened distributions; the chain rule divides by the student's temperature."""
    parameter = "temperature"
    if student is None or teacher is None:
        parameter = "student_temperature" if teacher is None else "teacher_temperature"
    temperature = student if teacher is None else teacher

    def gradient(pairs):
        p = pairs.p if student is None else softmax(pairs.student_logits / student)
        q = pairs.q if teacher is None else softmax(pairs.teacher_logits / teacher)
        return DIRECTIONS[direction](p, q) / (1.0 if student is None else student)

    parameters = ((parameter, float(temperature)),)
    return Candidate(name.format(format_number(temperature)), gradient, None, parameters)


_INSIDE = (
    *(1e-8, 1e-6, 1e-4, 0.001, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5),
    *(0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999, 1 - 1e-4, 1 - 1e-6, 1 - 1e-8),
)
_TEMPERATURES = (0.1, 0.25, 0.5, 0.7, 0.85, 1.2, 1.5, 2.0, 3.0, 4.0, 6.0, 10.0, 20.0)

_ALPHAS = (-2.0, -1.0, -0.5, -0.1, 0.1, 0.3, 0.5, 0.7, 0.9, 1.1, 1.5, 2.0, 3.0)

FAMILIES = (
    Family(_engine("generalized_jsd", "JSD(β = {})", "beta"), _INSIDE, (0, 1)),
    Family(_engine("skewed_forward_kl", "forward KL with skew {}", "skew"), _INSIDE, (0, 1)),
    Family(_engine("skewed_reverse_kl", "reverse KL with skew {}", "skew"), _INSIDE, (0, 1)),
    Family(tempered_forward_kl, _TEMPERATURES, (0.01, 1000)),
    Family(tempered_reverse_kl, _TEMPERATURES, (0.01, 1000)),
    Family(forward_kl_to_tempered_teacher, _TEMPERATURES, (0.01, 1000)),
    Family(reverse_kl_to_tempered_teacher, _TEMPERATURES, (0.01, 1000)),
    Family(forward_kl_of_tempered_student, _TEMPERATURES, (0.01, 1000)),
    Family(reverse_kl_of_tempered_student, _TEMPERATURES, (0.01, 1000)),
    Family(
        _engine("alpha_divergence", "α-divergence(α = {})", "alpha"), _ALPHAS, (-np.inf, np.inf)
    ),
)

OUTSIDE = {"renormalize": "renormalized", "drop": "tail dropped", "tail": "tail as one token"}


def top_k(k):
    """Both divergences on the teacher's or the student's k likeliest tokens.

    With every treatment of the other tokens.
    """
    found = []
    for whose in ("teacher", "student"):
        found += [
            _top_k(direction, whose, k, outside)
            for direction in ("reverse", "forward")
            for outside in OUTSIDE
        ]
        found.append(_to_teacher_on_head(whose, k))
    return found


@functools.cache
def top_k_families(k):
    """The JSD on the same tokens, renormalized or with the others as one token; β is fitted."""
    return [
        Family(functools.partial(_top_k_jsd, whose, k, outside), _INSIDE, (0, 1))
        for whose in ("teacher", "student")
        for outside in ("renormalize", "tail")
    ]


def _to_teacher_on_head(whose, k):
    """The forward KL of the whole student to the teacher renormalized on k tokens."""
    name = f"forward KL to the teacher renormalized on the {whose}'s top {k}"
    if (whose, k) == ("student", 1):
        name = "cross-entropy with the student's likeliest token"
    parameters = (("k", k), ("whose", whose), ("outside", "teacher renormalized"))
    return Candidate(
        name, lambda pairs: pairs.p - _on_head(pairs.q, _head(pairs, whose, k)), None, parameters
    )


def _top_k(direction, whose, k, outside):
    def gradient(pairs):
        p, q, head = pairs.p, pairs.q, _head(pairs, whose, k)
        if outside == "drop" and direction == "reverse":
            return _centred(p, np.where(head, _log(p) - _log(q) + 1, 0.0))
        if outside == "drop":
            kept = np.where(head, q, 0.0)
            return p * kept.sum(axis=-1, keepdims=True) - kept
        return _on_support(DIRECTIONS[direction], p, q, head, outside)

    name = f"{direction} KL on the {whose}'s top {k}, {OUTSIDE[outside]}"
    if (direction, whose) == ("reverse", "teacher"):
        return Candidate(name, gradient, "top_k_reverse_kl", (("k", k), ("outside", outside)))
    return Candidate(name, gradient, None, (("k", k), ("whose", whose), ("outside", outside)))


def _top_k_jsd(whose, k, outside, beta):
    def divergence(p, q):
        return objectives.generalized_jsd_logit_gradient(p, q, beta)

    name = f"JSD(β = {format_number(beta)}) on the {whose}'s top {k}, {OUTSIDE[outside]}"
    parameters = (("beta", float(beta)), ("k", k), ("whose", whose), ("outside", outside))
    return Candidate(
        name,
        lambda pairs: _on_support(divergence, pairs.p, pairs.q, _head(pairs, whose, k), outside),
        None,
        parameters,
    )


def _on_support(divergence, p, q, head, outside):
    """Logit gradient of a divergence of the tokens in ``head``.

    ``outside``: "renormalize", or "tail" for all others as one more token.
    """
    if outside == "renormalize":
        return np.where(head, divergence(_on_head(p, head), _on_head(q, head)), 0.0)
    # The tail's logit gradient, shared among its tokens in proportion to p.
    tails = [np.where(head, 0.0, x).sum(axis=-1, keepdims=True) for x in (p, q)]
    buckets = [
        np.concatenate([np.where(head, x, 0.0), tail], axis=-1) for x, tail in zip((p, q), tails)
    ]
    inner = divergence(*buckets)
    share = np.divide(p, tails[0], out=np.zeros_like(p), where=tails[0] > 0)
    return np.where(head, inner[..., :-1], inner[..., -1:] * share)


def _head(pairs, whose, k):
    """The k likeliest tokens (ties: lower index first) as a mask (N, V)."""
    chances = pairs.q if whose == "teacher" else pairs.p
    order = np.argsort(-chances, axis=-1, kind="stable")
    head = np.zeros(pairs.p.shape, bool)
    np.put_along_axis(head, order[..., :k], True, axis=-1)
    return head & np.isfinite(pairs.student_logits)


def _on_head(x, head):
    inside = np.where(head, x, 0.0)
    return inside / inside.sum(axis=-1, keepdims=True)


def _centred(p, g):
    return p * (g - (p * g).sum(axis=-1, keepdims=True))


def _log(p):
    """log p, and 0 for padding."""
    return np.log(np.where(p > 0, p, 1.0))
