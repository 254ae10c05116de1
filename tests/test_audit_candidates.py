"""What the auditor looks for: each candidate's gradient is autograd's of what its name says.

The losses are read off the names, in torch; tests/audit_candidates.txt has the names, the
parameters in reports and where each search begins and ends.
"""

import functools
import itertools
import re

import numpy as np
import pytest
import torch

from opd_toy import objectives
from opd_toy.audit.token import candidates, geometric, heads, temperatures, weights
from opd_toy.audit.token.pairs import ORDINARY, Pairs, notes_pair, random_pairs
from tests.written import check_text

pytestmark = pytest.mark.usefixtures("one_thread")

ALONE = {
    "terms": (*candidates.TERMS, *candidates.TERMS_OVER_VOCABULARY),
    "named weights": weights.NAMED,
    "sigmoids": [weights.sigmoid_of(factor) for factor in (1.0, 2.0)],
    "on the first 2": heads.top_k(2),
    "on the first": heads.of_one_head("student", 1),
    "named on the first 2": heads.named_on_head(2),
}
FAMILIES = {
    "divergences": (*candidates.DIVERGENCES, candidates.BOTH_SKEWS),
    "weights": weights.FAMILIES,
    "on the first 3": heads.families(3),
    "softened, on the first 3": heads.softened_families(3),
    "one softened, on the first 2": heads.with_one_softened(2),
    "softened teacher, on the first 2": heads.to_softened_teacher(2),
    "KLs at one temperature": temperatures.KLS_AT_ONE_TEMPERATURE,
    "named weights at one temperature": temperatures.NAMED_AT_ONE_TEMPERATURE,
    "divergences at a temperature": temperatures.DIVERGENCES_AT_TEMPERATURE,
    "KLs at two temperatures": temperatures.KLS_AT_TWO_TEMPERATURES,
    "geometric": geometric.FAMILIES,
}


def members(family):
    """At two places of the grid, one near its beginning and one near its end."""
    return itertools.chain(*(family.members(*family.grid[place]) for place in (1, -2)))


def described(candidate):
    return f"{candidate.name} | {candidate.objective} | {dict(candidate.parameters)}"


@pytest.mark.parametrize("kind", [*ALONE, *FAMILIES])
def test_what_is_looked_for(kind):
    lines = [described(candidate) for candidate in ALONE.get(kind, ())]
    for family in FAMILIES.get(kind, ()):
        lines += [described(member) for member in members(family)]
        values = [" ".join(f"{x:.9g}" for x in sorted({*column})) for column in zip(*family.grid)]
        lines.append(f"  from {' and '.join(values)} within {family.bounds}")
    check_text("audit_candidates.txt", kind, "\n".join(lines))


# ---- the gradients ----


@functools.cache
def some_pairs():
    """Pairs of 3, 4, 5 and 8 tokens, filled up, and the notes'."""
    ordinary = [pair for pair in random_pairs(0) if pair.tier == ORDINARY][:4]
    return [notes_pair(), *ordinary]


@pytest.mark.parametrize("kind", [*ALONE, *(kind for kind in FAMILIES if kind != "geometric")])
def test_gradients_are_those_of_what_the_names_say(kind):
    """Those to geometric targets: see tests/test_audit_names.py."""
    found = [*ALONE.get(kind, ()), *itertools.chain(*map(members, FAMILIES.get(kind, ())))]
    for candidate in found:
        rows = candidate.gradient(Pairs.of(some_pairs()))
        for row, pair in zip(rows, some_pairs()):
            wanted = autograd(loss_of(candidate.name), pair)
            off = np.abs(row - np.pad(wanted, (0, len(row) - len(wanted)))).max()
            assert off <= 1e-9 * max(1, np.abs(wanted).max()), candidate.name
        if candidate.objective:
            pairs = Pairs.of(some_pairs()[:2])
            engine = getattr(objectives, f"{candidate.objective}_logit_gradient")
            np.testing.assert_array_equal(
                candidate.gradient(pairs), engine(pairs.p, pairs.q, **dict(candidate.parameters))
            )


def autograd(loss, pair):
    student = torch.tensor(pair.student, requires_grad=True)
    return torch.autograd.grad(loss(student, torch.tensor(pair.teacher)), student)[0].numpy()


def loss_of(name):
    """The loss of logits (V,) that a name says."""
    if name.startswith("1/V × "):
        return lambda s, t: loss_of(name.removeprefix("1/V × "))(s, t) / len(s)
    base, student, teacher = _temperatures(name)

    def loss(s, t):
        return _of_softened(base, s / student, t / teacher)

    return loss


NUMBER = r"([\d.e+-]+)"


def _temperatures(name):
    """(the name without temperatures, the student's, the teacher's)"""
    both = rf" with the student at temperature {NUMBER} and the teacher at {NUMBER}"
    if found := re.search(both, name):
        return name.replace(found[0], ""), float(found[1]), float(found[2])
    if found := re.search(rf" with the student alone at temperature {NUMBER}", name):
        return name.replace(found[0], ""), float(found[1]), 1.0
    if found := re.search(rf"( to the teacher) at temperature {NUMBER}( renormalized)?", name):
        rest = found[1] + found[3] if found[3] else ""
        return name.replace(found[0], rest), 1.0, float(found[2])
    if found := re.search(rf" at temperature {NUMBER}", name):
        return name.replace(found[0], ""), float(found[1]), float(found[1])
    return name, 1.0, 1.0


def _of_softened(name, s, t):
    p, q = s.softmax(-1), t.softmax(-1)
    if found := re.fullmatch(r"cross-entropy with the (teacher|student)'s likeliest token", name):
        return -p.log()[(t if found[1] == "teacher" else s).argmax()]
    if name == "cross-entropy with uniform labels":
        return -p.log().mean()
    found = re.fullmatch(r"(.*) on the (teacher|student)'s top (\d+)(, .*)?", name)
    if not found:
        return _divergence(name, p, q)
    kept = (t if found[2] == "teacher" else s).topk(min(int(found[3]), len(s))).indices
    if found[1] == "forward KL to the teacher renormalized":
        q = torch.zeros_like(q).index_put((kept,), q[kept] / q[kept].sum())
        return (q[kept] * (q[kept] / p[kept]).log()).sum()
    if found[4] == ", renormalized":
        return _divergence(found[1], *(x[kept] / x[kept].sum() for x in (p, q)))
    if found[4] == ", tail as one token" and len(kept) < len(s):
        p, q = (torch.cat([x[kept], (x.sum() - x[kept].sum())[None]]) for x in (p, q))
        return _divergence(found[1], p, q)
    return _divergence(found[1], p[kept], q[kept])


def _kl(a, b):
    return (a * (a / b).log()).sum()


def _divergence(name, p, q):
    known = {
        "forward KL": lambda: _kl(q, p),
        "reverse KL": lambda: _kl(p, q),
        "entropy": lambda: -(p * p.log()).sum(),
        "expected teacher probability": lambda: (p * q).sum(),
        "total variation": lambda: (p - q).abs().sum() / 2,
        "squared Hellinger": lambda: 1 - (p * q).sqrt().sum(),
        "triangular discrimination": lambda: ((p - q) ** 2 / (p + q)).sum(),
        "χ²(p‖q)": lambda: (p**2 / q).sum() - 1,
        "χ²(q‖p)": lambda: (q**2 / p).sum() - 1,
    }
    if name in known:
        return known[name]()
    if "weight" in name:
        return (p.detach() * _weight(name, (p / q).log().detach()) * p.log()).sum()
    plain = name.replace("−", "-")
    kind, value = re.fullmatch(rf"(.*?)\(?[αβ]? ?=? ?{NUMBER}\)?", plain).groups()
    share = float(value)
    if kind == "JSD":
        mixed = (1 - share) * p + share * q
        return share * _kl(q, mixed) + (1 - share) * _kl(p, mixed)
    if kind == "α-divergence":
        return ((p**share * q ** (1 - share)).sum() - 1) / (share * (share - 1))
    own, other = (p, q) if kind == "reverse KL with skew" else (q, p)
    assert kind in ("reverse KL with skew", "forward KL with skew")
    return _kl(own, share * own + (1 - share) * other)


def _weight(name, r):
    shape = name.removeprefix("f-divergence with weight ")
    if power := re.fullmatch(rf"sign\(log p/q\) \|log p/q\|\^{NUMBER}", shape):
        return r.sign() * r.abs() ** float(power[1])
    kind, factor = re.fullmatch(rf"(tanh|sigmoid)\({NUMBER}? ?log p/q\)", shape).groups()
    return getattr(torch, kind)(float(factor or 1) * r)


def test_of_equally_likely_tokens_the_first_are_kept():
    pairs = Pairs(
        np.array([[0.0, 1.0, 1.0, 1.0, -np.inf]]), np.array([[2.0, 0.0, 2.0, 2.0, -np.inf]])
    )
    for whose, kept in (("student", [0, 1, 1, 0, 0]), ("teacher", [1, 0, 1, 0, 0])):
        assert heads.head_of(pairs, whose, 2)[0].tolist() == list(map(bool, kept))
    assert heads.head_of(pairs, "student", 9)[0].sum() == 4  # padding is no token
