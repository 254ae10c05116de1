"""The auditor on whole sequences: verdicts, and what its reports say beside them."""

import json
import xml.dom.minidom
from base64 import b64decode

import numpy as np
import pytest
import torch

from opd_toy.audit import audit_sequence
from opd_toy.audit.sequence.names import lags, ones
from opd_toy.sequences import (
    TokenTree,
    decomposition,
    full_return,
    reward_to_go,
)
from tests.audit_sequence_losses import (
    NONE,
    VERDICTS,
    audit_on_fewer,
    drawn,
    in_full,
    kl,
    report,
    to_go,
    weighted,
)
from tests.written import check_text

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("name", VERDICTS)
def test_verdict(name):
    _, verdict, unbiased = VERDICTS[name]
    assert report(name).optimises == verdict
    assert report(name).unbiased_for == unbiased
    assert report(name).holds_everywhere == (verdict != NONE and "close" not in verdict)


@pytest.mark.parametrize(
    "name",
    [
        *("discounted, mean", "clipped cost", "cost clipped early", "squashed cost"),
        *("forgotten stop-gradient", "sequence k1", "half and half", "float32", "top 32"),
    ],
)
def test_a_report_is_as_it_was(name):
    check_text("audit_reports_of_texts.txt", name, in_full(report(name)))


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
    within = report("standardized within the sequence")
    assert within.credit is None and within.description.endswith(
        "less the mean over its text's tokens, divided by their standard deviation"
    )
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
    nothing = audit_on_fewer(lambda student, teacher: 0 * kl(student, teacher).sum())
    assert nothing.optimises == "zero" and nothing.fixed_point == 0
    first = audit_on_fewer(weighted(lambda r: torch.cat([r[:1].clamp(-6, 6), r[1:]])))
    assert first.optimises == "sum of local reverse KLs while the two are close"

    def refuses(student, teacher):
        assert student.abs().max() < 6, "too far"
        return kl(student, teacher).sum()

    found = audit_on_fewer(refuses)
    assert (
        found.optimises == "sum of local reverse KLs while the two are close"
        and "AssertionError: too far" in str(found)
        and not found.unbiased_for
    )
    assert found.objective is None and not found.holds_everywhere  # a program reads no limits
    misses = audit_sequence(
        lambda student, teacher, tokens: (kl(student, teacher) * (tokens != 77)).sum()
    )
    assert misses.optimises == NONE and not misses.unbiased_for
    # At the scale of a loss of its own: it hides no limit, and its rounding is none.
    assert audit_on_fewer(weighted(lambda r: r + 1e6)).holds_everywhere
    for scale in (1e-6, 1.0, 1e6):
        clipped = weighted(lambda r, scale=scale: scale * r.clamp(max=20))
        assert audit_on_fewer(clipped).optimises.endswith("close"), scale
    assert report("float32").precision == "float32"
    # The format's tolerance, times lengths that cancel but for the rounding of a product.
    assert report("float32").tolerance == pytest.approx(2e-5, rel=1e-12)


def test_a_teacher_that_learns_from_one_sequence_alone_is_told():
    def loss(student, teacher, tokens):
        return kl(student, teacher if tokens.sum() == 0 else teacher.detach()).sum()

    found = audit_on_fewer(loss)
    assert found.teacher_gradient and "reaches the teacher's logits" in str(found)
    assert not report("reward-to-go").teacher_gradient


def test_a_sequence_without_a_gradient_is_one_draw_of_0():
    def loss(student, teacher, tokens):
        return torch.zeros(()) if tokens.sum() == 0 else kl(student, teacher).sum()

    assert audit_on_fewer(loss).optimises == NONE


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


def test_unbiased_on_longer_trees_too():
    """A scale that follows no law is not known there, but the direction is."""

    def own_cost_from_five_tokens_on(r):
        return np.sin(len(r)) * (to_go(r) if len(r) < 5 else r)

    assert not audit_sequence(weighted(own_cost_from_five_tokens_on)).unbiased_for
    everywhere = audit_sequence(weighted(lambda r: np.sin(len(r)) * to_go(r)))
    assert everywhere.unbiased_for == {"sequence reverse KL": "c(T)"}
    assert everywhere.optimises == "c(T) × sequence reverse KL"


def test_a_large_baseline_hides_small_biases():
    found = audit_on_fewer(weighted(lambda r: to_go(r) + 1e4))
    assert 1e-8 < found.tolerance < 1e-4 and found.optimises == "sequence reverse KL"


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
