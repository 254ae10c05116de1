"""Objectives on the K likeliest tokens: of which model, and with every treatment of the others."""

import functools
import itertools

import numpy as np

from opd_toy import objectives
from opd_toy.audit.token.candidates import (
    ALPHAS,
    DIRECTIONS,
    INSIDE,
    Candidate,
    Family,
    alpha_divergence,
    centred,
    line,
    log,
    skewed_forward,
    skewed_reverse,
)
from opd_toy.audit.token.names import format_number
from opd_toy.audit.token.pairs import Pairs
from opd_toy.audit.token.temperatures import (
    BOUNDS,
    TEMPERATURES,
    at_temperature,
    of_one_model,
)
from opd_toy.audit.token.weights import NAMED

OUTSIDE = {"renormalize": "renormalized", "drop": "tail dropped", "tail": "tail as one token"}
WHOSE = ("teacher", "student")


@functools.cache
def top_k(k):
    """Both KLs on either model's k likeliest tokens, with every treatment of the others."""
    return [candidate for whose in WHOSE for candidate in of_one_head(whose, k)]


@functools.cache
def of_one_head(whose, k):
    found = [
        _of_kl(direction, whose, k, outside)
        for direction in ("reverse", "forward")
        for outside in OUTSIDE
    ]
    return [*found, __to_teacher_on_head(whose, k)]


@functools.cache
def named_on_head(k):
    return [_renormalized(whose, k, candidate) for whose in WHOSE for candidate in NAMED]


@functools.cache
def families(k):
    """More divergences on the same tokens; the JSD also with the others as one token."""
    found = [
        line(functools.partial(_of_jsd, whose, k, outside), INSIDE, (0, 1))
        for whose in WHOSE
        for outside in ("renormalize", "tail")
    ]
    for whose, (member, grid, bounds) in itertools.product(WHOSE, _MORE):
        found.append(line(functools.partial(_renormalized_member, whose, k, member), grid, bounds))
    return found


_MORE = (
    (skewed_forward, INSIDE[2:-2], (0, 1)),
    (skewed_reverse, INSIDE[2:-2], (0, 1)),
    (alpha_divergence, ALPHAS, (-np.inf, np.inf)),
)


def _renormalized_member(whose, k, member, value):
    return _renormalized(whose, k, member(value))


def _renormalized(whose, k, candidate):
    """A function of the log-ratio, of both models renormalized on one's first tokens."""

    def gradient(pairs):
        head = head_of(pairs, whose, k)
        logits = (pairs.student_logits, pairs.teacher_logits)
        return candidate.gradient(Pairs(*(np.where(head, z, -np.inf) for z in logits)))

    name = f"{candidate.name} on the {whose}'s top {k}, {OUTSIDE['renormalize']}"
    parameters = (("k", k), ("whose", whose), ("outside", "renormalize"))
    return Candidate(name, gradient, None, (*candidate.parameters, *parameters))


@functools.cache
def softened_families(k):
    """Both KLs and the JSD of softened models, renormalized on the same tokens."""
    found = []
    for whose in WHOSE:
        for direction in ("reverse", "forward"):
            kl = _of_kl(direction, whose, k, "renormalize")
            found.append(line(functools.partial(_softened, kl), TEMPERATURES, BOUNDS))
        found.append(_softened_jsd(whose, k))
    return found


@functools.cache
def with_one_softened(k):
    """Both KLs, renormalized on the same tokens, of one softened model and the other."""
    kls = [_of_kl(way, whose, k, "renormalize") for way in DIRECTIONS for whose in WHOSE]
    return [family for kl in kls for family in of_one_model(kl)]


@functools.cache
def to_softened_teacher(k):
    """The candidates of ``top_k``, each with the teacher softened."""
    return [of_one_model(candidate)[0] for candidate in top_k(k)]


def _softened(candidate, temperature):
    return at_temperature(candidate, temperature, temperature)


def _softened_jsd(whose, k):
    def members(temperature, beta):
        return (_softened(_of_jsd(whose, k, "renormalize", beta), temperature),)

    grid = tuple((t, beta) for t in (0.4, 0.7, 0.9, 1.2, 2.0, 4.0) for beta in (0.05, 0.5, 0.95))
    return Family(members, grid, (BOUNDS, (0, 1)))


def __to_teacher_on_head(whose, k):
    """The forward KL of the whole student to the teacher renormalized on k tokens."""
    name = f"forward KL to the teacher renormalized on the {whose}'s top {k}"
    if (whose, k) == ("student", 1):
        name = "cross-entropy with the student's likeliest token"
    parameters = (("k", k), ("whose", whose), ("outside", "teacher renormalized"))
    return Candidate(
        name, lambda pairs: pairs.p - on_head(pairs.q, head_of(pairs, whose, k)), None, parameters
    )


def _of_kl(direction, whose, k, outside):
    def gradient(pairs):
        p, q, head = pairs.p, pairs.q, head_of(pairs, whose, k)
        if outside == "drop" and direction == "reverse":
            return centred(p, np.where(head, log(p) - log(q) + 1, 0.0))
        if outside == "drop":
            kept = np.where(head, q, 0.0)
            return p * kept.sum(axis=-1, keepdims=True) - kept
        return _on_support(DIRECTIONS[direction], p, q, head, outside)

    name = f"{direction} KL on the {whose}'s top {k}, {OUTSIDE[outside]}"
    if (direction, whose) == ("reverse", "teacher"):
        return Candidate(name, gradient, "top_k_reverse_kl", (("k", k), ("outside", outside)))
    return Candidate(name, gradient, None, (("k", k), ("whose", whose), ("outside", outside)))


def _of_jsd(whose, k, outside, beta):
    def divergence(p, q):
        return objectives.generalized_jsd_logit_gradient(p, q, beta)

    name = f"JSD(β = {format_number(beta)}) on the {whose}'s top {k}, {OUTSIDE[outside]}"
    parameters = (("beta", float(beta)), ("k", k), ("whose", whose), ("outside", outside))
    return Candidate(
        name,
        lambda pairs: _on_support(divergence, pairs.p, pairs.q, head_of(pairs, whose, k), outside),
        None,
        parameters,
    )


def _on_support(divergence, p, q, head, outside):
    """Logit gradient of a divergence of the tokens in ``head``.

    ``outside``: "renormalize", or "tail" for all others as one more token.
    """
    if outside == "renormalize":
        return np.where(head, divergence(on_head(p, head), on_head(q, head)), 0.0)
    # The tail's logit gradient, shared among its tokens in proportion to p.
    tails = [np.where(head, 0.0, x).sum(axis=-1, keepdims=True) for x in (p, q)]
    buckets = [
        np.concatenate([np.where(head, x, 0.0), tail], axis=-1) for x, tail in zip((p, q), tails)
    ]
    inner = divergence(*buckets)
    share = np.divide(p, tails[0], out=np.zeros_like(p), where=tails[0] > 0)
    return np.where(head, inner[..., :-1], inner[..., -1:] * share)


def head_of(pairs, whose, k):
    """The k likeliest tokens (ties: lower index first) as a mask (N, V)."""
    chances = pairs.q if whose == "teacher" else pairs.p
    order = np.argsort(-chances, axis=-1, kind="stable")
    head = np.zeros(pairs.p.shape, bool)
    np.put_along_axis(head, order[..., :k], True, axis=-1)
    return head & np.isfinite(pairs.student_logits)


def on_head(x, head):
    inside = np.where(head, x, 0.0)
    return inside / inside.sum(axis=-1, keepdims=True)
