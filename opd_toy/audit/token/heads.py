"""Losses that look at the K likeliest tokens: of which model, and what becomes of the others."""

import functools
import itertools

import numpy as np

from opd_toy import objectives
from opd_toy.audit.token.candidates import (
    ALPHAS,
    DIRECTIONS,
    INSIDE,
    JSD,
    KLS,
    Candidate,
    Family,
    alpha_divergence,
    centred,
    jsd,
    line,
    log,
    skewed_forward,
    skewed_reverse,
)
from opd_toy.audit.token.fit import confirmed, fitted, simplest, sums
from opd_toy.audit.token.names import format_number
from opd_toy.audit.token.pairs import Pairs
from opd_toy.audit.token.temperatures import BOUNDS, TEMPERATURES, at_temperature
from opd_toy.audit.token.weights import NAMED

OUTSIDE = {"renormalize": "renormalized", "drop": "tail dropped", "tail": "tail as one token"}
WHOSE = ("teacher", "student")


def search(expected):
    """The terms, on the first tokens of one of the models, that hold on all pairs; or None."""
    sizes = np.concatenate([part.pairs.sizes for part in expected.parts])
    for k, signs in sorted(_heads(expected).items()):
        if (sizes > k).sum() < 2:
            continue  # one pair cannot suggest K and confirm it: a nucleus has a K for every pair
        found = itertools.chain(*(SEARCHES[sign](expected, k) for sign in sorted(signs)))
        if terms := next(filter(None, found), None):
            return terms
    return None


def _on_head_alone(expected, k):
    yield from (confirmed(expected, [candidate]) for candidate in top_k(k))
    named = [confirmed(expected, [candidate]) for candidate in named_on_head(k)]
    yield simplest([*(fitted(expected, family) for family in families(k)), *named])
    for whose in WHOSE:
        yield from sums(expected, of_one_head(whose, k), 2)


def _at_a_temperature(expected, k):
    """What is renormalized leaves no trace of its temperature outside: it is fitted."""
    yield from (fitted(expected, family) for family in softened_families(k))


def _with_another_teacher(expected, k):
    for whose in WHOSE:
        yield _floored(expected, whose, k)
        yield from _with_uniform_tail(expected, whose, k)


# By what the gradients outside have alike, in the order of their names.
SEARCHES = {
    "1 in proportion to p": _on_head_alone,
    "2 zero": _at_a_temperature,
    "3 on a line": _with_another_teacher,
}


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
    return [*found, _to_teacher_on_head(whose, k)]


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


def _softened(candidate, temperature):
    return at_temperature(candidate, temperature, temperature)


def _softened_jsd(whose, k):
    def members(temperature, beta):
        return (_softened(_of_jsd(whose, k, "renormalize", beta), temperature),)

    grid = tuple((t, beta) for t in (0.4, 0.7, 0.9, 1.2, 2.0, 4.0) for beta in (0.05, 0.5, 0.95))
    return Family(members, grid, (BOUNDS, (0, 1)))


def _to_teacher_on_head(whose, k):
    """The forward KL of the whole student to the teacher renormalized on k tokens."""
    name = f"forward KL to the teacher renormalized on the {whose}'s top {k}"
    if (whose, k) == ("student", 1):
        name = "cross-entropy with the student's likeliest token"
    parameters = (("k", k), ("whose", whose), ("outside", "teacher renormalized"))
    return Candidate(
        name, lambda pairs: pairs.p - _on_head(pairs.q, head_of(pairs, whose, k)), None, parameters
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
        return np.where(head, divergence(_on_head(p, head), _on_head(q, head)), 0.0)
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


def _on_head(x, head):
    inside = np.where(head, x, 0.0)
    return inside / inside.sum(axis=-1, keepdims=True)


# ---- the teacher made another outside ----


def _floored(expected, whose, k):
    """The reverse KL to a teacher that has the same small number at every token outside.

    Linear in the logarithm of that number, which is therefore read off two coefficients.
    """
    for renormalized in (False, True):
        inside = _reverse_to_floored(whose, k, renormalized, 0.0)
        push = Candidate(
            "mass outside",
            lambda pairs: centred(pairs.p, (~head_of(pairs, whose, k)).astype(float)),
        )
        if terms := confirmed(expected, [inside, push]):
            (scale, _), (outside, _) = terms
            for digits in range(1, 8):
                tried = _reverse_to_floored(
                    whose, k, renormalized, *_plain_floor(-outside / scale, digits)
                )
                if found := confirmed(expected, [tried]):
                    return found
    return None


def _plain_floor(level, digits):
    """(logarithm of the floor, it in words): a number such as 1e-10, or its logarithm."""
    floor, rounded = float(f"{np.exp(level):.{digits}g}"), float(f"{level:.{digits}g}")
    if floor > 0 and abs(np.log(floor) - level) <= abs(rounded - level):
        return float(np.log(floor)), format_number(floor)
    return rounded, f"e^{format_number(rounded)}".replace("-", "−")


def _reverse_to_floored(whose, k, renormalized, level, words="1"):
    def gradient(pairs):
        head = head_of(pairs, whose, k)
        q = _on_head(pairs.q, head) if renormalized else pairs.q
        return centred(pairs.p, log(pairs.p) - np.where(head, log(np.where(head, q, 1.0)), level))

    top = "its" if whose == "teacher" else "the student's"
    made = f" renormalized on {top} top {k}, and" if renormalized else ""
    name = f"reverse KL to the teacher{made} with q = {words} outside"
    name += "" if renormalized else f" {top} top {k}"
    parameters = (("k", k), ("whose", whose), ("outside", f"teacher floored at {words}"))
    return Candidate(name, gradient, None, parameters)


def _with_uniform_tail(expected, whose, k):
    """KLs and JSDs with a teacher whose mass outside its head is spread evenly."""
    top = "its" if whose == "teacher" else "the student's"
    words = f" to the teacher made uniform outside {top} top {k}"
    parameters = (("k", k), ("whose", whose), ("outside", "teacher uniform"))

    def view(candidate):
        return Candidate(
            candidate.name + words,
            lambda pairs: candidate.gradient(_uniform_outside(pairs, whose, k)),
            None,
            (*candidate.parameters, *parameters),
        )

    kls = [view(candidate) for candidate in KLS]
    yield from sums(expected, kls, 1)
    yield from sums(expected, kls, 2)
    family = Family(
        lambda beta: (view(jsd(beta)),), tuple((beta,) for beta in INSIDE[3:-3]), JSD.bounds
    )
    yield fitted(expected, family)


def _uniform_outside(pairs, whose, k):
    head, here = head_of(pairs, whose, k), np.isfinite(pairs.student_logits)
    outside = here & ~head
    left = np.where(outside, pairs.q, 0.0).sum(axis=-1, keepdims=True)
    even = left / np.maximum(outside.sum(axis=-1, keepdims=True), 1)
    with np.errstate(divide="ignore"):
        return Pairs(pairs.student_logits, np.log(np.where(outside, even, pairs.q)))


# ---- which K ----


def _heads(expected):
    """{K that a loss on K tokens must have: what its gradients outside have alike}.

    They are in one proportion to p there, perhaps 0, or, where the teacher is floored or made
    uniform, differ from one in proportion to p log p or to p by a number.
    """
    found = {}
    for part in expected.parts:
        sizes = part.pairs.sizes
        row = int(np.argmax(np.where(part.tier == min(1, part.tier.max()), sizes, 0)))
        size = int(sizes[row])
        g, p = part.gradients[row, :size], part.pairs.p[row, :size]
        width = max(1e-6, 10 * part.tolerance)
        signs = {"1 in proportion to p": _alike(g / p, width)}
        signs["2 zero"] = int((np.abs(g) <= width * np.abs(g).max()).sum())
        counts = [(sign, count) for sign, count in signs.items() if count > 1]
        # Where most are of the tail, the line on which they lie shows.
        lines = [_alike(_less_line(y, x), width) for y, x in ((g / p, np.log(p)), (g, p))]
        counts += [("3 on a line", count) for count in lines if count > max(size / 2, 8)]
        for sign, count in counts:
            found.setdefault(size - count, set()).add(sign)
    return {k: signs for k, signs in found.items() if k}


def _less_line(y, x):
    """``y`` less the multiple of ``x`` by which most of it changes with ``x``."""
    with np.errstate(divide="ignore", invalid="ignore"):
        slopes = np.diff(y) / np.diff(x)
    slopes = slopes[np.isfinite(slopes)]
    return y - (np.median(slopes) if slopes.size else 0.0) * x


def _alike(values, width):
    """How many of these values are one and the same."""
    values = np.sort(values)
    width = width * np.abs(values).max()
    beyond = np.searchsorted(values, values + width, side="right")
    return int((beyond - np.arange(len(values))).max())
