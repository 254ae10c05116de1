"""Which K a loss on the K likeliest tokens has, and what it makes of them."""

import itertools

import numpy as np

from opd_toy.audit.token import heads, teachers
from opd_toy.audit.token.fit import confirmed, fitted, simplest, sums


def search(expected, softened=False):
    """The terms, on the first tokens of one of the models, that hold on all pairs; or None.

    ``softened``: both models are softened already, so that neither is alone.
    """
    sizes = np.concatenate([part.pairs.sizes for part in expected.parts])
    for k, signs in sorted(_heads(expected).items()):
        if (sizes > k).sum() < 2:
            continue  # one pair cannot suggest K and confirm it: a nucleus has a K for every pair
        searches = [SEARCHES[sign] for sign in sorted(signs)]
        if not softened:
            searches += [MORE[sign] for sign in sorted(signs & set(MORE))]
        found = itertools.chain(*(of_head(expected, k) for of_head in searches))
        if terms := next(filter(None, found), None):
            return terms
    return None


# How many tokens a pair must have for a sign to show: a line, where most of them are on it.
LEAST = {"1 in proportion to p": 0, "2 zero": 0, "3 on a line": 30}


def _on_head_alone(expected, k):
    yield from (confirmed(expected, [candidate]) for candidate in heads.top_k(k))
    named = [confirmed(expected, [candidate]) for candidate in heads.named_on_head(k)]
    yield simplest([*(fitted(expected, family) for family in heads.families(k)), *named])
    for whose in heads.WHOSE:
        yield from sums(expected, heads.of_one_head(whose, k), 2)


def _at_a_temperature(expected, k):
    """What is renormalized leaves no trace of its temperature outside: it is fitted."""
    yield from (fitted(expected, family) for family in heads.softened_families(k))


def _with_one_softened(expected, k):
    yield from (fitted(expected, family) for family in heads.with_one_softened(k))


def _to_softened_teacher(expected, k):
    yield from (fitted(expected, family) for family in heads.to_softened_teacher(k))


def _with_another_teacher(expected, k):
    for whose in heads.WHOSE:
        yield teachers.floored(expected, whose, k)
        yield from teachers.with_uniform_tail(expected, whose, k)


# By what the gradients outside have alike, in the order of their names.
SEARCHES = {
    "1 in proportion to p": _on_head_alone,
    "2 zero": _at_a_temperature,
    "3 on a line": _with_another_teacher,
}
MORE = {"1 in proportion to p": _to_softened_teacher, "2 zero": _with_one_softened}


def _heads(expected):
    """{K that a loss on K tokens must have: what its gradients outside have alike}.

    They are in one proportion to p there, perhaps 0, or, where the teacher is floored or made
    uniform, differ from one in proportion to p log p or to p by a number.  So it must be on
    every pair on which two tokens or more are outside.
    """
    ordinary = np.where(expected.tier == min(1, expected.tier.max()), expected.pairs.sizes, 0)
    seen = [_alike_outside(expected, int(np.argmax(ordinary)))]
    if expected.large:
        seen += [_alike_outside(expected.large, row) for row in range(len(expected.large.tier))]
    found = {}
    for k, sign in set().union(*(signs for _, signs in seen)):
        if all((k, sign) in signs for size, signs in seen if size >= max(k + 2, LEAST[sign])):
            found.setdefault(k, set()).add(sign)
    return {k: signs for k, signs in found.items() if k}


def _alike_outside(part, row):
    """(V, {(K, sign)}) of one pair: the K for which all tokens outside show a sign."""
    size = int(part.pairs.sizes[row])
    g, p = part.gradients[row, :size], part.pairs.p[row, :size]
    width = max(1e-6, 10 * part.tolerance)
    counts = {("1 in proportion to p", _alike(g / p, width))}
    counts.add(("2 zero", int((np.abs(g) <= width * np.abs(g).max()).sum())))
    if size >= LEAST["3 on a line"]:
        lines = [_alike(_less_line(y, x), width) for y, x in ((g / p, np.log(p)), (g, p))]
        counts |= {("3 on a line", count) for count in lines if count > size / 2}
    return size, {(size - count, sign) for sign, count in counts if count > 1}


def _less_line(y, x):
    """``y`` less the multiple of ``x`` by which most of it changes with ``x``."""
    slopes = np.diff(y) / np.diff(x)
    slopes = slopes[np.isfinite(slopes)]
    return y - (np.median(slopes) if slopes.size else 0.0) * x


def _alike(values, width):
    """How many of these values are one and the same."""
    values = np.sort(values)
    width = width * np.abs(values).max()
    beyond = np.searchsorted(values, values + width, side="right")
    return int((beyond - np.arange(len(values))).max())
