"""The gradients a loss may turn out to follow: named ones, and families with a parameter.

A candidate maps ``Pairs`` to logit gradients (N, V), one row a pair.  Those that
``opd_toy.objectives`` has come from there; the others are written out here.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from opd_toy import objectives
from opd_toy.distributions import log_softmax, softmax


@dataclass(frozen=True)
class Pairs:
    """N pairs of student and teacher logits (N, V); a pair with fewer than V tokens ends in -inf for both."""

    student_logits: np.ndarray
    teacher_logits: np.ndarray

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

    def distance(self):
        """Largest |log(p/q)| over the tokens of each pair (N,)."""
        here = np.isfinite(self.student_logits)
        logs = [
            np.where(here, log_softmax(z), 0.0) for z in (self.student_logits, self.teacher_logits)
        ]
        return np.abs(logs[0] - logs[1]).max(axis=-1)

    def __getitem__(self, rows):
        return Pairs(self.student_logits[rows], self.teacher_logits[rows])


@dataclass(frozen=True)
class Candidate:
    """``gradient(pairs)`` (N, V), its ``name`` in reports, and the engine's name and parameters if it has one."""

    name: str
    gradient: Callable
    objective: str | None = None
    parameters: tuple = ()


@dataclass(frozen=True)
class Family:
    """Candidates along one parameter: ``member(value)``; ``grid`` holds starting values inside ``bounds``."""

    parameter: str
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
    return Candidate(
        f"forward KL at temperature {format_number(temperature)}",
        lambda pairs: _tempered(objectives.forward_kl_logit_gradient, pairs, temperature),
        None,
        (("temperature", float(temperature)),),
    )


def tempered_reverse_kl(temperature):
    return Candidate(
        f"reverse KL at temperature {format_number(temperature)}",
        lambda pairs: _tempered(objectives.reverse_kl_logit_gradient, pairs, temperature),
        None,
        (("temperature", float(temperature)),),
    )


def forward_kl_to_tempered_teacher(temperature):
    return Candidate(
        f"forward KL to the teacher at temperature {format_number(temperature)}",
        lambda pairs: objectives.forward_kl_logit_gradient(pairs.p, softmax(pairs.teacher_logits / temperature)), None, (("teacher_temperature", float(temperature)),),
    )  # fmt: skip


def forward_kl_of_tempered_student(temperature):
    return Candidate(
        f"forward KL with the student alone at temperature {format_number(temperature)}",
        lambda pairs: objectives.forward_kl_logit_gradient(softmax(pairs.student_logits / temperature), pairs.q) / temperature, None, (("student_temperature", float(temperature)),),
    )  # fmt: skip


def reverse_kl_of_tempered_student(temperature):
    return Candidate(
        f"reverse KL with the student alone at temperature {format_number(temperature)}",
        lambda pairs: objectives.reverse_kl_logit_gradient(softmax(pairs.student_logits / temperature), pairs.q) / temperature, None, (("student_temperature", float(temperature)),),
    )  # fmt: skip


def reverse_kl_to_tempered_teacher(temperature):
    return Candidate(
        f"reverse KL to the teacher at temperature {format_number(temperature)}",
        lambda pairs: objectives.reverse_kl_logit_gradient(pairs.p, softmax(pairs.teacher_logits / temperature)), None, (("teacher_temperature", float(temperature)),),
    )  # fmt: skip


_INSIDE = (
    1e-8,
    1e-6,
    1e-4,
    0.001,
    0.01,
    0.05,
    0.1,
    0.2,
    0.3,
    0.4,
    0.5,
    0.6,
    0.7,
    0.8,
    0.9,
    0.95,
    0.99,
    0.999,
    1 - 1e-4,
    1 - 1e-6,
    1 - 1e-8,
)
_TEMPERATURES = (0.1, 0.25, 0.5, 0.7, 0.85, 1.2, 1.5, 2.0, 3.0, 4.0, 6.0, 10.0, 20.0)

FAMILIES = (
    Family("beta", _engine("generalized_jsd", "JSD(β = {})", "beta"), _INSIDE, (0, 1)),
    Family(
        "skew", _engine("skewed_forward_kl", "forward KL with skew {}", "skew"), _INSIDE, (0, 1)
    ),
    Family(
        "skew", _engine("skewed_reverse_kl", "reverse KL with skew {}", "skew"), _INSIDE, (0, 1)
    ),
    Family("temperature", tempered_forward_kl, _TEMPERATURES, (0.01, 1000)),
    Family("temperature", tempered_reverse_kl, _TEMPERATURES, (0.01, 1000)),
    Family("temperature", forward_kl_to_tempered_teacher, _TEMPERATURES, (0.01, 1000)),
    Family("temperature", reverse_kl_to_tempered_teacher, _TEMPERATURES, (0.01, 1000)),
    Family("temperature", forward_kl_of_tempered_student, _TEMPERATURES, (0.01, 1000)),
    Family("temperature", reverse_kl_of_tempered_student, _TEMPERATURES, (0.01, 1000)),
    Family(
        "alpha",
        _engine("alpha_divergence", "α-divergence(α = {})", "alpha"),
        (-2.0, -1.0, -0.5, -0.1, 0.1, 0.3, 0.5, 0.7, 0.9, 1.1, 1.5, 2.0, 3.0),
        (-np.inf, np.inf),
    ),
)

OUTSIDE = {"renormalize": "renormalized", "drop": "tail dropped", "tail": "tail as one token"}


def top_k(k):
    """Both divergences on the teacher's or the student's k likeliest tokens, with every treatment of the others."""
    found = []
    for whose in ("teacher", "student"):
        found += [
            _top_k(direction, whose, k, outside)
            for direction in ("reverse", "forward")
            for outside in OUTSIDE
        ]
        found.append(
            Candidate(
                "cross-entropy with the student's likeliest token"
                if (whose, k) == ("student", 1)
                else f"forward KL to the teacher renormalized on the {whose}'s top {k}",
                lambda pairs, whose=whose: pairs.p - _on_head(pairs.q, _head(pairs, whose, k)),
                None,
                (("k", k), ("whose", whose), ("outside", "teacher renormalized")),
            )  # fmt: skip
        )
    return found


@functools.cache
def top_k_families(k):
    """The JSD on the same tokens, as a renormalized divergence or with the others as one token: β is to be fitted."""
    return [
        Family("beta", lambda beta, whose=whose, outside=outside: _top_k_jsd(beta, whose, k, outside), _INSIDE, (0, 1))
        for whose in ("teacher", "student") for outside in ("renormalize", "tail")
    ]  # fmt: skip


def _top_k(direction, whose, k, outside):
    def gradient(pairs):
        p, q, head = pairs.p, pairs.q, _head(pairs, whose, k)
        if outside == "drop" and direction == "reverse":
            return _centred(p, np.where(head, _log(p) - _log(q) + 1, 0.0))
        if outside == "drop":
            return p * np.where(head, q, 0.0).sum(axis=-1, keepdims=True) - np.where(head, q, 0.0)
        return _on_support(lambda *inside: _divergence(direction, *inside), p, q, head, outside)

    name = f"{direction} KL on the {whose}'s top {k}, {OUTSIDE[outside]}"
    if (direction, whose) == ("reverse", "teacher"):
        return Candidate(name, gradient, "top_k_reverse_kl", (("k", k), ("outside", outside)))
    return Candidate(name, gradient, None, (("k", k), ("whose", whose), ("outside", outside)))


def _top_k_jsd(beta, whose, k, outside):
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
    """Logit gradient of a divergence of the tokens in ``head``, renormalized or with all others as one more token."""
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


def format_number(value, digits=6):
    """Shortest plain decimal of up to ``digits`` figures."""
    return f"{float(value):.{digits}g}"


def _divergence(direction, p, q):
    return (
        objectives.reverse_kl_logit_gradient
        if direction == "reverse"
        else objectives.forward_kl_logit_gradient
    )(p, q)


def _tempered(gradient, pairs, temperature):
    return (
        gradient(
            softmax(pairs.student_logits / temperature), softmax(pairs.teacher_logits / temperature)
        )
        / temperature
    )


def _head(pairs, whose, k):
    """The k likeliest tokens (ties: lower index first) as a mask (N, V)."""
    order = np.argsort(-(pairs.q if whose == "teacher" else pairs.p), axis=-1, kind="stable")[
        ..., :k
    ]
    head = np.zeros(pairs.p.shape, bool)
    np.put_along_axis(head, order, True, axis=-1)
    return head & np.isfinite(pairs.student_logits)


def _on_head(x, head):
    inside = np.where(head, x, 0.0)
    return inside / inside.sum(axis=-1, keepdims=True)


def _centred(p, g):
    return p * (g - (p * g).sum(axis=-1, keepdims=True))


def _log(p):
    """log p, and 0 for padding."""
    return np.log(np.where(p > 0, p, 1.0))
