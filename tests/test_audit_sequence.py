"""The auditor on whole sequences: losses in plain torch, which know nothing of the engine."""

import functools
import json
import xml.dom.minidom
from base64 import b64decode
from unittest import mock

import numpy as np
import pytest
import torch

from opd_toy.audit import AuditError, audit_sequence
from opd_toy.audit.sequence import measure as sequence_level
from opd_toy.audit.sequence.bases import FORWARD, LOCAL, bases_of, fit
from opd_toy.audit.sequence.names import credit_pieces, in_words, lags, ones, sum_text
from opd_toy.sequences import (
    TokenTree,
    decomposition,
    full_return,
    on_policy_gkd_gradient,
    outcome,
    reward_to_go,
    sequence_kl_gradient,
)

pytestmark = pytest.mark.usefixtures("one_thread")

NONE = "none of these"


# --- losses ----------------------------------------------------------------------------


def drawn(student, teacher, tokens):
    """log p and log q of the tokens drawn."""
    return (z.log_softmax(-1).gather(-1, tokens[..., None])[..., 0] for z in (student, teacher))


def kl(a, b):
    """KL at each position, of logits."""
    a, b = a.log_softmax(-1), b.log_softmax(-1)
    return (a.exp() * (a - b)).sum(-1)


def jsd(student, teacher, beta):
    p, q = student.log_softmax(-1), teacher.log_softmax(-1)
    m = ((1 - beta) * p.exp() + beta * q.exp()).log()
    return beta * (q.exp() * (q - m)).sum(-1) + (1 - beta) * (p.exp() * (p - m)).sum(-1)


def to_go(costs, gamma=1.0):
    total, returns = torch.zeros_like(costs[..., 0]), []
    for cost in reversed(costs.unbind(-1)):
        total = cost + gamma * total
        returns.append(total)
    return torch.stack(returns[::-1], -1)


def weighted(weights):
    """The policy gradient whose weights are a function of the detached log-ratios (T,)."""

    def loss(student, teacher, tokens):
        log_p, log_q = drawn(student, teacher, tokens)
        return (weights((log_p - log_q).detach()) * log_p).sum()

    return loss


def of_ratio(value):
    """A function of the log-ratios (T,), differentiated."""

    def loss(student, teacher, tokens):
        log_p, log_q = drawn(student, teacher, tokens)
        return value(log_p - log_q.detach())

    return loss


def at_every_position(cost, future=False):
    """The sum of a full-vocabulary cost, with its effect on later costs or without."""

    def loss(student, teacher, tokens):
        costs = cost(student, teacher.detach())
        log_p, _ = drawn(student, teacher, tokens)
        return costs.sum() + (future * (to_go(costs) - costs).detach() * log_p).sum()

    return loss


def forgotten_stop_gradient(student, teacher, tokens):
    log_p, log_q = drawn(student, teacher, tokens)
    return (to_go(log_p - log_q) * log_p).sum()


def kl_as_baseline(student, teacher, tokens):
    log_p, log_q = drawn(student, teacher, tokens)
    return ((to_go(log_p - log_q) - kl(student, teacher)).detach() * log_p).sum()


def kl_as_advantage(student, teacher, tokens):
    log_p, _ = drawn(student, teacher, tokens)
    return (kl(student, teacher).detach() * log_p).sum()


def mini_llm(student, teacher, tokens):
    """Exact own term, the mean of the later costs."""
    log_p, log_q = drawn(student, teacher, tokens)
    costs = (log_p - log_q).detach()
    later = torch.arange(len(costs) - 1, -1, -1).clamp(min=1)
    return kl(student, teacher).sum() + ((to_go(costs) - costs) / later * log_p).sum()


def importance_ratio(student, teacher, tokens):
    """PPO's form at the first step: the ratio is 1, its gradient is the score."""
    log_p, log_q = drawn(student, teacher, tokens)
    return ((log_p - log_p.detach()).exp() * to_go(log_p - log_q).detach()).mean()


def corrected_for_the_teacher(student, teacher, tokens):
    log_p, log_q = drawn(student, teacher, tokens)
    costs = (log_p - log_q).detach()
    return (costs.sum().exp() * to_go(costs) * log_p).sum()


def sft(student, teacher, tokens):
    return -drawn(student, teacher, tokens).__next__().sum()


def soft_labels(student, teacher):
    return -(teacher.softmax(-1) * student.log_softmax(-1)).sum()


def in_float32(student, teacher, tokens):
    log_p, log_q = drawn(student.float(), teacher.float(), tokens)
    return (to_go((log_p - log_q).detach(), 0.9) * log_p).sum()


def top_32(student, teacher):
    kept = teacher.topk(min(32, teacher.shape[-1])).indices
    return kl(student.gather(-1, kept), teacher.gather(-1, kept)).sum()


def positions(costs):
    return torch.arange(len(costs), dtype=torch.float64)


def immediate_costs(student, teacher, tokens):
    log_p, log_q = drawn(student, teacher, tokens)
    return (log_p - log_q).detach() * log_p


IMMEDIATE = weighted(lambda r: r)
REWARD_TO_GO = weighted(to_go)
FULL_RETURN = weighted(lambda r: r.sum())

# loss: (verdict, what it is unbiased for)
VERDICTS = {
    "policy gradient, immediate cost": (
        IMMEDIATE,
        "sum of local reverse KLs",
        {"sum of local reverse KLs": "1"},
    ),
    "reward-to-go": (REWARD_TO_GO, "sequence reverse KL", {"sequence reverse KL": "1"}),
    "discounted": (
        weighted(lambda r: to_go(r, 0.5)),
        "reverse KL with a discounted return, γ = 0.5",
        {},
    ),
    "discounted, mean": (
        weighted(lambda r: to_go(r, 0.9) / len(r)),
        "1/T × reverse KL with a discounted return, γ = 0.9",
        {},
    ),
    "full return": (FULL_RETURN, "sequence reverse KL", {"sequence reverse KL": "1"}),
    "GKD, sum": (
        at_every_position(kl),
        "sum of local reverse KLs",
        {"sum of local reverse KLs": "1"},
    ),
    "GKD, mean": (
        lambda student, teacher: kl(student, teacher).mean(),
        "1/T × sum of local reverse KLs",
        {"sum of local reverse KLs": "1/T"},
    ),
    "sequence k1": (of_ratio(lambda r: r.sum()), "zero", {}),
    "sequence k2": (
        of_ratio(lambda r: r.sum() ** 2 / 2),
        "sequence reverse KL",
        {"sequence reverse KL": "1"},
    ),
    "sequence k3": (
        of_ratio(lambda r: torch.expm1(-r.sum()) + r.sum()),
        "sequence forward KL",
        {"sequence forward KL": "1"},
    ),
    "token k3": (
        of_ratio(lambda r: (torch.expm1(-r) + r).sum()),
        "sum of local forward KLs",
        {"sum of local forward KLs": "1"},
    ),
    "k3 as cost": (
        weighted(lambda r: to_go(torch.expm1(-r) + r)),
        "sequence reverse KL − sum of local forward KLs",
        {},
    ),
    "Rao-Blackwell": (
        at_every_position(kl, future=True),
        "sequence reverse KL",
        {"sequence reverse KL": "1"},
    ),
    "forgotten stop-gradient": (
        forgotten_stop_gradient,
        "sequence reverse KL + sum of local negative entropies",
        {},
    ),
    "KL as advantage": (kl_as_advantage, "zero", {}),
    "KL as baseline": (kl_as_baseline, "sequence reverse KL", {"sequence reverse KL": "1"}),
    "constant baseline": (
        weighted(lambda r: to_go(r) - 0.7),
        "sequence reverse KL",
        {"sequence reverse KL": "1"},
    ),
    "baseline: mean of the sequence's returns": (
        weighted(lambda r: to_go(r) - to_go(r).mean()),
        "1/T × sequence reverse KL, the cost at t × (T − t)",
        {},
    ),
    "baseline: mean of the sequence's costs": (
        weighted(lambda r: r - r.mean()),
        "sum of local reverse KLs − 1/T × sequence reverse KL",
        {},
    ),
    "baseline: mean of its other costs": (
        weighted(lambda r: r - (r.sum() - r) / (len(r) - 1)),
        "T/(T − 1) × sum of local reverse KLs − 1/(T − 1) × sequence reverse KL",
        {},
    ),
    "standardized within the sequence": (
        weighted(lambda r: (to_go(r) - to_go(r).mean()) / (to_go(r).std(correction=0) + 1e-6)),
        NONE,
        {},
    ),
    "wrong direction": (
        weighted(lambda r: r.cumsum(0)),
        "sum of local reverse KLs",
        {"sum of local reverse KLs": "1"},
    ),
    "off by one": (
        weighted(lambda r: to_go(r) - r),
        "reverse KL with a return of the later costs alone",
        {},
    ),
    "discount from the start": (
        weighted(lambda r: to_go(r * 0.9 ** positions(r))),
        "sequence reverse KL, the cost at t × 0.9^(t − 1)",
        {},
    ),
    "discount on the score": (
        weighted(lambda r: to_go(r) * 0.9 ** positions(r)),
        "sequence reverse KL, the return at t × 0.9^(t − 1)",
        {},
    ),
    "discount from the start, in float32": (
        weighted(lambda r: to_go(r * 0.9 ** torch.arange(len(r)))),
        "sequence reverse KL, the cost at t × 0.9^(t − 1)",
        {},
    ),
    "two tokens ahead": (
        weighted(lambda r: r + torch.cat([r[1:], r.new_zeros(1)])),
        "reverse KL with a return over 2 tokens",
        {},
    ),
    "five tokens ahead": (
        weighted(lambda r: to_go(r) - torch.cat([to_go(r)[5:], r.new_zeros(min(5, len(r)))])),
        NONE,
        {},
    ),
    "mean return": (
        weighted(lambda r: to_go(r) / (len(r) - positions(r))),
        "reverse KL with the mean of the costs from the token on as its return",
        {},
    ),
    "MiniLLM's length norm": (
        mini_llm,
        "reverse KL with its own cost and the mean of the later ones as its return",
        {},
    ),
    "clipped cost": (
        weighted(lambda r: to_go(r.clamp(-6, 6))),
        "sequence reverse KL while the two are close",
        {},
    ),
    "cost clipped early": (
        weighted(lambda r: to_go(r.clamp(-2, 2), 0.9)),
        "reverse KL with a discounted return, γ = 0.9 while the two are close",
        {},
    ),
    "squashed cost": (weighted(lambda r: to_go(r.tanh())), NONE, {}),
    "clipped return": (weighted(lambda r: to_go(r).clamp(-1, 1)), NONE, {}),
    "importance ratio of 1": (
        importance_ratio,
        "1/T × sequence reverse KL",
        {"sequence reverse KL": "1/T"},
    ),
    "forward KL": (
        lambda student, teacher: kl(teacher, student).mean(),
        "1/T × sum of local forward KLs",
        {"sum of local forward KLs": "1/T"},
    ),
    "forward KL, future": (
        at_every_position(lambda p, q: kl(q, p), future=True),
        "expected sum of local forward KLs",
        {},
    ),
    "JSD": (at_every_position(lambda p, q: jsd(p, q, 0.3)), "sum of local JSD(β = 0.3)", {}),
    "JSD, future": (
        at_every_position(lambda p, q: jsd(p, q, 0.3), future=True),
        "expected sum of local JSD(β = 0.3)",
        {},
    ),
    "mean over tokens and vocabulary": (
        lambda student, teacher: kl(teacher, student).mean() / student.shape[-1],
        "1/T × sum of local forward KL, divided by V",
        {},
    ),
    "half and half": (
        lambda student, teacher: (kl(student, teacher) + kl(teacher, student)).mean() / 2,
        "0.5/T × sum of local reverse KLs + 0.5/T × sum of local forward KLs",
        {},
    ),
    "cross-entropy as cost": (
        lambda p, q, k: (
            to_go(-q.log_softmax(-1).gather(-1, k[:, None])[:, 0].detach())
            * p.log_softmax(-1).gather(-1, k[:, None])[:, 0]
        ).sum(),
        "sequence reverse KL − sequence negative entropy",
        {},
    ),
    "top 32": (top_32, NONE, {}),
    "float32": (in_float32, "reverse KL with a discounted return, γ = 0.9", {}),
}


# Fewer trees, for what is shown by the reverse KL's credit alone; the reference trees are the same.
FEWER = {
    "fit": ((3, 2, 5), (3, 3, 3), (2, 4, 9)),
    "confirm": ((2, 3, 2),),
    "far": ((3, 2, 1),),
    "long": (),
    "wide": (),
}
ON_ALL_TREES = {
    "reward-to-go",
    "GKD, mean",
    "sequence k1",
    "sequence k3",
    "k3 as cost",
    "forgotten stop-gradient",
    "standardized within the sequence",
    "five tokens ahead",
    "clipped cost",
    "squashed cost",
    "clipped return",
    "forward KL, future",
    "JSD",
    "JSD, future",
    "half and half",
    "cross-entropy as cost",
    "top 32",
    "float32",
}


def audit_on_fewer(loss, **arguments):
    with mock.patch.object(sequence_level, "TREES", FEWER):
        return audit_sequence(loss, **arguments)


@functools.cache
def report(name):
    return (audit_sequence if name in ON_ALL_TREES else audit_on_fewer)(VERDICTS[name][0])


@pytest.mark.parametrize("name", VERDICTS)
def test_verdict(name):
    _, verdict, unbiased = VERDICTS[name]
    assert report(name).optimises == verdict
    assert report(name).unbiased_for == unbiased
    assert report(name).holds_everywhere == (verdict != NONE and "close" not in verdict)


# --- what stands beside the verdict ------------------------------------------------------


def test_who_pays_for_what():
    np.testing.assert_allclose(report("reward-to-go").credit, ones(3), atol=1e-12)
    np.testing.assert_allclose(report("discounted, mean").credit, lags(3, 0.9) / 3, atol=1e-12)
    assert {length: np.shape(w) for length, w in report("discounted, mean").credits.items()} == {
        2: (2, 2),
        3: (3, 3),
        4: (4, 4),
    }
    assert report("JSD").credit_of == "JSD(β = 0.3)"
    assert report(next(iter(VERDICTS))).credit_of == "reverse KL"
    assert report("standardized within the sequence").credit is None
    text = str(report("discounted"))
    assert "the token at position 1 pays for position 1, 2 (× 0.5), 3 (× 0.25)" in text
    assert "the token at position 3 pays for position 3\n" in text
    assert (
        "between the local sum (γ = 0) and the sequence (γ = 1)" in text
        and "on-policy GKD" in str(report("GKD, mean"))
        and "1/T: the mean over tokens" in str(report("GKD, mean"))
    )


def test_a_draw_may_carry_the_past_which_the_expectation_loses():
    past = {
        "full return": np.ones((3, 3)),
        "wrong direction": np.tril(np.ones((3, 3))),
        "reward-to-go": ones(3),
        "policy gradient, immediate cost": np.eye(3),
    }
    for name, weights in past.items():
        np.testing.assert_allclose(report(name).carried, weights, atol=1e-9)
        assert ("past" in {edge["edge"] for edge in report(name).edges}) == bool(
            np.tril(weights, -1).any()
        )
    assert report("clipped return").carried is None


def reference_trees():
    """The trees of the report's exact moments: V = T = 3, the sixth pair, seed 0."""
    return TokenTree.random(3, 3, 10), TokenTree.random(3, 3, 11)


def test_moments_are_the_engines():
    trees = reference_trees()
    for name, table in {
        "policy gradient, immediate cost": reward_to_go(*trees, 0.0),
        "reward-to-go": reward_to_go(*trees, 1.0),
        "full return": full_return(*trees),
        "GKD, sum": reward_to_go(*trees, 0.0, "full_vocabulary"),
        "Rao-Blackwell": reward_to_go(*trees, 1.0, "full_vocabulary"),
    }.items():
        np.testing.assert_allclose(
            report(name).expected_gradient, table.expectation(), rtol=1e-10, atol=1e-14
        )
        np.testing.assert_allclose(report(name).variance, table.total_variance(), rtol=1e-10)
    compared = report("GKD, mean").variance_compared
    np.testing.assert_allclose(
        compared["exact local KLs"], report("GKD, mean").variance, rtol=1e-10
    )
    np.testing.assert_allclose(
        9 * compared["sampled reward-to-go"], report("reward-to-go").variance, rtol=1e-10
    )
    assert (
        report("full return").variance
        > report("reward-to-go").variance
        > report("Rao-Blackwell").variance
        > report("GKD, sum").variance
    )


def test_bias_is_the_exact_distance():
    local, future = decomposition(*reference_trees())
    assert report("reward-to-go").bias["sequence reverse KL"] < 1e-12
    assert 0.1 < report("policy gradient, immediate cost").bias["sequence reverse KL"] < 1
    assert np.linalg.norm(future) > 0.1 * np.linalg.norm(
        local
    )  # so that the two objectives are told apart
    assert set(report("sequence k1").bias.values()) == {1.0}
    nearest = report("squashed cost").nearest
    assert (
        nearest["name"] == "sequence reverse KL"
        and 0.9 < nearest["cosine"] < 1
        and 0 < nearest["norm_ratio"] < 1
    )


def test_value_and_fixed_point():
    assert report("sequence k1").value_is == "sequence reverse KL"
    assert report("token k3").value_is == "sequence reverse KL"
    assert report("GKD, mean").value_is == "1/T × sequence reverse KL"
    assert report("sequence k1").fixed_point < 1e-12 and report("reward-to-go").fixed_point < 1e-12
    assert report("forgotten stop-gradient").fixed_point > 1e-3
    undefined = audit_on_fewer(weighted(lambda r: to_go(r) / r.abs().sum()))
    assert (
        np.isnan(undefined.fixed_point)
        and "the gradient is not finite there" in str(undefined)
        and json.loads(undefined.to_json())["fixed_point"] is None
    )
    assert "its value is on average sequence reverse KL" in str(report("sequence k1"))


def test_limits_are_said():
    edges = {
        name: {entry["edge"]: entry["severity"] for entry in report(name).edges}
        for name in ("five tokens ahead", "top 32", "clipped cost", "reward-to-go")
    }
    assert (
        edges["five tokens ahead"]["longer sequences"] == "broken"
        and edges["top 32"]["vocabulary"] == "broken"
    )
    assert "standard deviation 0.25, not where they are drawn apart" in str(
        report("cost clipped early")
    )
    assert edges["clipped cost"]["far off"] == "note" and edges["reward-to-go"]["far off"] == "fine"
    assert "sequence reverse KL" in str(report("five tokens ahead")).split("longer sequences: ")[1]
    assert (
        audit_on_fewer(lambda student, teacher: 0 * kl(student, teacher).sum()).optimises == "zero"
    )

    def refuses(student, teacher):
        assert student.abs().max() < 6, "too far"
        return kl(student, teacher).sum()

    found = audit_on_fewer(refuses)
    assert (
        found.optimises == "sum of local reverse KLs while the two are close"
        and "AssertionError: too far" in str(found)
        and not found.unbiased_for
    )
    misses = audit_sequence(
        lambda student, teacher, tokens: (kl(student, teacher) * (tokens != 77)).sum()
    )
    assert misses.optimises == NONE and not misses.unbiased_for
    assert report("float32").precision == "float32"
    # The format's tolerance, times lengths that cancel but for the rounding of a product.
    assert report("float32").tolerance == pytest.approx(2e-5, rel=1e-12)


def test_biased_losses_are_never_called_unbiased():
    """Small biases of several kinds, each well above the tolerance."""
    for weights in (
        lambda r: to_go(r) + 1e-6 * r**2,
        lambda r: to_go(r + 1e-3 * r.tanh()),
        lambda r: to_go(r) + 1e-6 * to_go(r) ** 2,
        lambda r: to_go(r, 1 - 2e-7),
    ):
        found = audit_on_fewer(weighted(weights))
        assert not found.unbiased_for and found.optimises != "sequence reverse KL"
    assert "γ = 0.9999998" in found.optimises

    def a_little_more_of_what_comes_three_later(r):
        return to_go(r) + 5e-7 * torch.cat([r[3:], r.new_zeros(min(3, len(r)))])

    found = audit_on_fewer(weighted(a_little_more_of_what_comes_three_later))
    assert not found.unbiased_for and found.optimises == NONE


@pytest.mark.parametrize(
    "gamma, verdict",
    [
        (1.0, "sequence reverse KL"),
        (0.5, "reverse KL with a discounted return, γ = 0.5"),
        (0.98, NONE),
        (None, "zero"),
    ],
)
def test_half_precision(gamma, verdict):
    """Each tree is known to 3 %, all together to less.

    What would pass for unbiased on every one of them must not pass on all.
    """

    def loss(student, teacher, tokens):
        log_p, log_q = drawn(student.bfloat16(), teacher.bfloat16(), tokens)
        return (
            (
                (log_p - log_q).detach() * 0 + 1
                if gamma is None
                else to_go((log_p - log_q).detach(), gamma)
            )
            .mul(log_p)
            .sum()
        )

    found = audit_sequence(loss)
    assert found.optimises == verdict and found.precision == "bfloat16" and found.tolerance == 3e-2
    assert found.unbiased_for == ({"sequence reverse KL": "1"} if gamma == 1 else {})


@pytest.mark.parametrize("size, verdict", [(0.1, "0.1 × sum of local reverse KLs"), (0.02, NONE)])
def test_half_precision_takes_no_small_gradient_for_zero(size, verdict):
    def loss(student, teacher, tokens):
        student, teacher = student.bfloat16(), teacher.bfloat16()
        log_p, _ = drawn(student, teacher, tokens)
        return (
            log_p.sum() + size * kl(student, teacher).sum()
        )  # the scores' mean is 0, their size 1

    assert audit_sequence(loss).optimises == verdict


# --- who draws, rewards ------------------------------------------------------------------


def test_the_teachers_sequences():
    taught = audit_on_fewer(sft, drawn_from="teacher")
    assert (
        taught.optimises == "sequence forward KL"
        and taught.unbiased_for == {"sequence forward KL": "1"}
        and taught.value_is == "sequence cross-entropy with the teacher"
    )
    assert audit_on_fewer(soft_labels, drawn_from="teacher").optimises == "sequence forward KL"
    assert (
        audit_on_fewer(
            lambda student, teacher: jsd(student, teacher, 0.3).sum(), drawn_from="teacher"
        ).optimises
        == "sum of JSD(β = 0.3) at the teacher's prefixes"
    )
    assert (
        audit_on_fewer(
            lambda student, teacher: kl(student, teacher).mean(), drawn_from="teacher"
        ).optimises
        == "1/T × sum of reverse KL at the teacher's prefixes"
    )
    own = audit_on_fewer(sft)
    assert own.optimises == "zero" and own.with_other_tokens == "sequence forward KL"
    assert (
        audit_sequence(corrected_for_the_teacher, drawn_from="teacher").optimises
        == "sequence reverse KL"
    )
    misplaced = audit_sequence(REWARD_TO_GO, drawn_from="teacher")
    assert (
        misplaced.optimises == NONE
        and misplaced.with_other_tokens == "sequence reverse KL"
        and not misplaced.unbiased_for
    )


def reward(tokens):
    return float((tokens == 0).sum()) + 0.5 * float(tokens[0] == tokens[-1])


def rewarded(weights):
    def loss(student, teacher, tokens):
        log_p, log_q = drawn(student, teacher, tokens)
        return (weights((log_p - log_q).detach(), reward(tokens)) * log_p).sum()

    return loss


@pytest.mark.parametrize(
    "weights, verdict",
    [
        (lambda r, R: 1.0 - R + 0 * r, "−1 × expected reward"),
        (lambda r, R: -R * (len(r) - positions(r)), "−1 × expected reward, token t × (T − t + 1)"),
        (lambda r, R: to_go(r) - 0.5 * R, "sequence reverse KL − 0.5 × expected reward"),
        (
            lambda r, R: (r - 2 * R) / len(r),
            "1/T × sum of local reverse KLs − 2/T × expected reward",
        ),
        (lambda r, R: -R * to_go(r, 0.9).exp().clamp(0.8, 1.2), NONE),
    ],
)
def test_rewards(weights, verdict):
    found = audit_on_fewer(rewarded(weights), reward=reward)
    assert found.optimises == verdict
    assert (
        "student = teacher"
        not in {entry["edge"] for entry in found.edges if entry["severity"] != "fine"}
        or verdict == NONE
    )
    assert found.unbiased_for == (
        {"expected reward": "−1"} if verdict == "−1 × expected reward" else {}
    )


def test_an_unknown_reward_is_none_of_these():
    assert audit_on_fewer(rewarded(lambda r, R: 0 * r - R)).optimises == NONE


# --- masks and batches -------------------------------------------------------------------


def masked(
    cost_masked=True,
    sum_masked=True,
    divide=lambda mask: mask.sum(-1),
    reduce=lambda sums, mask: sums.sum(),
    gamma=1.0,
):
    def loss(student, teacher, tokens, mask):
        log_p, log_q = drawn(student, teacher, tokens)
        costs = (log_p - log_q).detach()
        terms = to_go(costs * mask if cost_masked else costs, gamma) * log_p
        return reduce((terms * mask if sum_masked else terms).sum(-1) / divide(mask), mask)

    return loss


def by_the_padded_length(student, teacher, tokens, mask):
    """The reward of the valid tokens broadcast: weights T - t + 1, T with its padding."""
    log_p, log_q = drawn(student, teacher, tokens)
    return (
        to_go((log_p - log_q).detach() * mask) * (len(mask) - positions(mask)) * log_p * mask
    ).sum()


def edges_of(found, edge):
    return " | ".join(
        f"{entry['severity']}: {entry['finding']}" for entry in found.edges if entry["edge"] == edge
    )


@pytest.mark.parametrize(
    "loss, normaliser, finding",
    [
        (masked(), "the valid tokens", None),
        (masked(divide=lambda mask: 1), "nothing: a plain sum", None),
        (masked(divide=lambda mask: mask.shape[-1]), "the padded length", "the padded length"),
        (masked(cost_masked=False), "unknown", "broken: what masked positions hold changes"),
        (masked(sum_masked=False), "unknown", "broken: masked positions get a gradient"),
        (
            by_the_padded_length,
            "unknown",
            "padding at the end changes the gradient of the valid tokens by more than a factor",
        ),
        (
            masked(divide=lambda mask: 1, gamma=0.9),
            "nothing: a plain sum",
            "masked positions take time",
        ),
    ],
)
def test_masks(loss, normaliser, finding):
    found = audit_on_fewer(loss)
    assert found.mask["normalised_by"] == normaliser
    broken = bool(finding) and finding.startswith("broken")
    assert found.mask["respected"] is not broken and ("broken" in edges_of(found, "mask")) == broken
    if finding:
        assert finding in edges_of(found, "mask")
    assert found.optimises.endswith(" where nothing is masked") == broken
    assert bool(found.unbiased_for) == (not broken and found.objective == "sequence reverse KL")


def test_masks_of_any_kind_and_name():
    def subtracts(student, teacher, tokens, *, mask=None):
        return (
            kl(student, teacher.detach()) * (1 - (1 - mask))
        ).sum() / mask.sum()  # raises for a bool mask

    found = audit_on_fewer(subtracts)
    assert (
        found.optimises == "1/T × sum of local reverse KLs"
        and found.mask["normalised_by"] == "the valid tokens"
    )
    assert "NaN logits in masked positions" in edges_of(
        found, "mask"
    ) and "nothing valid" in edges_of(found, "mask")

    def careful(student, teacher, tokens, mask):
        rows, tokens = (
            [torch.where(mask[:, None], z, 0.0) for z in (student, teacher)],
            torch.where(mask, tokens, 0),
        )
        return torch.where(mask, immediate_costs(*rows, tokens), 0.0).sum() / mask.sum().clamp(
            min=1
        )

    found = audit_on_fewer(careful)
    assert found.mask == {"respected": True, "normalised_by": "the valid tokens"} and not edges_of(
        found, "mask"
    )


@pytest.mark.parametrize(
    "loss, normaliser",
    [
        (masked(divide=lambda mask: mask.sum()), "the valid tokens of the batch"),
        (
            masked(reduce=lambda sums, mask: sums.mean()),
            "each sequence's own tokens, then the sequences (mean of means)",
        ),
        (masked(), "each sequence's own tokens (sum of means)"),
        (masked(divide=lambda mask: 1), "nothing: a plain sum"),
        (
            masked(divide=lambda mask: 1, reduce=lambda sums, mask: sums.mean()),
            "the sequences (sums over tokens, mean over sequences)",
        ),
        (masked(divide=lambda mask: mask.numel()), "the padded size of the batch, B × T"),
        (
            lambda student, teacher, tokens: kl(student, teacher).sum(-1).mean(),
            "the sequences (sums over tokens, mean over sequences)",
        ),
    ],
)
def test_batches(loss, normaliser):
    found = audit_on_fewer(loss, batched=True)
    assert found.batch == {"shared": False, "normalised_by": normaliser}
    assert found.unbiased_for


def group(baseline):
    def loss(student, teacher, tokens):
        log_p, log_q = drawn(student, teacher, tokens)
        returns = (log_p - log_q).detach().sum(-1)
        return (baseline(returns)[:, None] * log_p).sum(-1).mean()

    return loss


@pytest.mark.parametrize(
    "baseline, verdict, unbiased",
    [
        (
            lambda R: R - (R.sum() - R) / (len(R) - 1),
            "sequence reverse KL",
            {"sequence reverse KL": "1"},
        ),
        (lambda R: R - R.mean(), "0.5 × sequence reverse KL", {"sequence reverse KL": "0.5"}),
        (lambda R: (R - R.mean()) / (R.std(correction=0) + 1e-6), NONE, {}),
    ],
)
def test_groups_are_enumerated_in_pairs(baseline, verdict, unbiased):
    found = audit_sequence(group(baseline), batched=True)
    assert found.batch["shared"] and found.optimises == verdict and found.unbiased_for == unbiased


# --- what is refused ---------------------------------------------------------------------


class Warming:
    """Twice the weight after a hundred calls."""

    calls = 0

    def __call__(self, student, teacher):
        self.calls += 1
        return (1 + (self.calls > 100)) * kl(student, teacher).sum()


@pytest.mark.parametrize(
    "loss, message",
    [
        (Warming(), "keeps something from call to call"),
        (
            lambda student, teacher, tokens: kl(student, teacher),
            r"shape \(3,\).*\.sum\(\) or \.mean\(\)",
        ),
        (lambda student, teacher, tokens: kl(student, teacher).sum().detach(), "the graph is cut"),
        (
            lambda student, teacher, tokens: kl(student, teacher)[tokens].sum() * torch.rand(()),
            "called (twice|again)",
        ),
        (
            lambda student, teacher, tokens, mask, weights: kl(student, teacher).sum(),
            r"tokens \(T,\)",
        ),
        (lambda student, teacher, tokens: kl(student, teacher)[:, 0].sum(), r"batched=True"),
        (
            lambda student, teacher, tokens: (to_go(kl(student, teacher)).sum()) / (tokens[0] - 1),
            "not finite at ordinary logits",
        ),
    ],
)
def test_refusals(loss, message):
    with pytest.raises(AuditError, match=message):
        audit_sequence(loss)


def test_bad_arguments():
    for arguments, message in (
        ({"drawn_from": "both"}, "drawn_from is 'both'"),
        ({"reward": 3}, "reward is 3"),
        ({"seed": -1}, "seed is -1"),
    ):
        with pytest.raises(ValueError, match=message):
            audit_sequence(IMMEDIATE, **arguments)
    with pytest.raises(AuditError, match="finite number"):
        audit_sequence(IMMEDIATE, reward=lambda tokens: float("nan"))


# --- bases and names ---------------------------------------------------------------------


def test_bases_are_the_engines_gradients():
    student, teacher = TokenTree.random(3, 3, 1), TokenTree.random(3, 3, 2)
    rewards = np.random.default_rng(0).standard_normal(27)
    bases = bases_of(student, teacher, rewards)

    def total(kind, future):
        blocks = [np.zeros_like(p) for p in student.probabilities]
        for (t, u), block in bases[kind].items():
            blocks[t] += block * (future or t == u)
        return np.concatenate([block.ravel() for block in blocks])

    np.testing.assert_allclose(
        total("reverse KL", True), sequence_kl_gradient(student, teacher), rtol=1e-12, atol=1e-15
    )
    np.testing.assert_allclose(
        total("reverse KL", False), on_policy_gkd_gradient(student, teacher), rtol=1e-12, atol=1e-15
    )
    np.testing.assert_allclose(
        total("expected reward", False),
        -outcome(student, rewards).expectation(),
        rtol=1e-12,
        atol=1e-15,
    )
    step, sequences = 1e-6, student.tokens()

    def forward(logits):
        return teacher.sequence_probabilities() @ -np.log(
            TokenTree(logits).sequence_probabilities()
        )

    differences = []
    for t, z in enumerate(student.logits):
        for place in np.ndindex(z.shape):
            sides = []
            for sign in (1, -1):
                moved = [row.copy() for row in student.logits]
                moved[t][place] += sign * step
                sides.append(forward(tuple(moved)))
            differences.append((sides[0] - sides[1]) / (2 * step))
    np.testing.assert_allclose(total("sequence forward KL", False), differences, atol=1e-8)
    assert len(sequences) == 27


def test_fit_finds_coefficients_and_says_how_well_conditioned():
    samples, bases = [], []
    for seed in range(6):
        student, teacher = TokenTree.random(3, 2, 2 * seed), TokenTree.random(3, 2, 2 * seed + 1)
        chosen = {kind: bases_of(student, teacher)[kind] for kind in LOCAL}
        blocks = [
            sum((1 + t + 10 * u) * block for (t, u), block in chosen[FORWARD].items() if t == row)
            for row in range(2)
            for t in [row]
        ]
        samples.append((blocks, 1.0))
        bases.append(chosen)
    found, errors, condition = fit(samples, bases)
    np.testing.assert_allclose(
        [found[FORWARD][key] for key in ((0, 0), (0, 1), (1, 1))], [1, 11, 12], rtol=1e-9
    )
    np.testing.assert_allclose(
        [c for kind in LOCAL if kind != FORWARD for c in found[kind].values()], 0, atol=1e-9
    )
    assert 1 < condition < 1e3 and max(max(by_key.values()) for by_key in errors.values()) < 1e-12
    assert fit(samples[:1], bases[:1])[2] > 1e3  # one tree cannot tell six bases apart


@pytest.mark.parametrize(
    "weights, name",
    [
        (lambda T: -2 * lags(T, 0.5) / T, "−2/T × reverse KL with a discounted return, γ = 0.5"),
        (
            lambda T: np.diag(np.arange(T, 0, -1.0)),
            "sum of local reverse KLs, position t × (T − t + 1)",
        ),
        (
            lambda T: np.diag(0.9 ** np.arange(T - 1, -1, -1)),
            "sum of local reverse KLs, position t × 0.9^(T − t)",
        ),
        (lambda T: ones(T) * np.arange(1, T + 1), "sequence reverse KL, the cost at t × t"),
        (
            lambda T: np.eye(T) + 0.5 * lags(T, 0.9),
            "sum of local reverse KLs + 0.5 × reverse KL with a discounted return, γ = 0.9",
        ),
        (lambda T: np.diag(np.eye(T)[-1]), "sum of local reverse KLs, the last position's alone"),
        (
            lambda T: ones(T) / 512 - np.eye(T) / T,
            "1/512 × sequence reverse KL − 1/T × sum of local reverse KLs",
        ),
        (lambda T: np.sin(T) * ones(T), "c(T) × sequence reverse KL"),
    ],
)
def test_names(weights, name):
    matrices = {T: weights(T) for T in (2, 3, 4)}
    pieces = credit_pieces("reverse KL", matrices, 1e-9)
    assert sum_text(pieces) == name
    for T, matrix in matrices.items():
        np.testing.assert_allclose(sum(piece.weights(T) for piece in pieces), matrix, atol=1e-9)


def test_what_has_no_name_gets_none():
    draw = np.random.default_rng(0)
    pieces = credit_pieces(
        "reverse KL", {T: np.triu(draw.uniform(0.1, 1, (T, T))) for T in (2, 3, 4)}, 1e-9
    )
    assert [piece.name for piece in pieces] == [None]
    assert in_words(np.array([[1, 0], [0, 0]])) == [
        "the token at position 1 pays for position 1",
        "the token at position 2 pays for nothing",
    ]


# --- the report --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["discounted, mean", "standardized within the sequence", "sequence k1"]
)
def test_report_as_json_and_page(name):
    found = report(name)
    data = json.loads(found.to_json())
    assert (
        data["optimises"] == found.optimises
        and data["seed"] == 0
        and data["pairs"] == found.pairs >= 17
        and data["tolerance"] == found.tolerance
    )
    assert len(str(found).splitlines()) <= 25
    html = found._repr_html_()
    pictures = html.split('src="data:image/svg+xml;base64,')[1:]
    assert len(pictures) == 2 and html.count('alt="') == 2  # for light and for dark paper
    for picture in pictures:
        xml.dom.minidom.parseString(b64decode(picture.split('"')[0]))
    assert found.optimises in html.split('alt="')[1].split('"')[0]


def test_another_seed_gives_the_same_verdict():
    first, second = report("discounted"), audit_on_fewer(VERDICTS["discounted"][0], seed=7)
    assert first.optimises == second.optimises and first.variance != second.variance
