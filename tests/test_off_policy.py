"""Tokens and texts that another policy drew: against 50 digits, autograd and each other."""

import re

import numpy as np
import pytest
import torch

from opd_toy import off_policy, sequences
from opd_toy.estimators import expectation, policy_gradient, total_variance
from opd_toy.ledger.evidence import off_policy as off_policy_evidence
from opd_toy.objectives import reverse_kl_logit_gradient
from opd_toy.sequences import SequenceTable, TokenTree
from tests import reference
from tests.audit_stale_losses import trainers_loss

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")

P, Q = np.array([0.8, 0.1, 0.1]), np.array([0.1, 0.1, 0.8])
MU = np.array([0.35, 0.6, 0.05])  # ratios 2.29, 0.17 and 2
FACTORS = {
    ("none", None): lambda w, cost: 1,
    ("ratio", None): lambda w, cost: w,
    ("truncate", 2.1): lambda w, cost: min(w, 2.1),
    ("mask", (0.5, 2.1)): lambda w, cost: w if 0.5 <= w <= 2.1 else 0,
    ("clip", (0.2, 0.3)): lambda w, cost: (
        0 if (cost > 0 and w < 0.8) or (cost < 0 and w > 1.3) else w
    ),
}
every_factor = pytest.mark.parametrize("factor", FACTORS, ids=lambda pair: pair[0])


@every_factor
@pytest.mark.parametrize("cost", off_policy.COSTS)
@pytest.mark.parametrize("baseline", [0.0, 0.7])
def test_mean_and_variance_are_those_of_the_definition(factor, cost, baseline):
    cases = [(P, Q, MU)]
    for seed in range(6):
        p, q = reference.random_pair(5, seed)
        cases.append((p, q, reference.random_pair(5, 100 + seed)[0]))
    for p, q, mu in cases:
        table = off_policy.policy_gradient(p, q, mu, *factor, cost, baseline)
        mean, variance = reference.stale_moments(
            p, q, mu, FACTORS[factor], cost == "kept", baseline
        )
        reference.close(expectation(mu, table), mean)
        reference.close(total_variance(mu, table), variance)


@every_factor
@pytest.mark.parametrize("kept", [False, True])
def test_tables_are_the_gradients_of_trainers_losses(factor, kept):
    loss = trainers_loss(*factor, kept)
    for seed in range(4):
        p, q = reference.random_pair(4, seed)
        mu = reference.random_pair(4, 50 + seed)[0]
        z = torch.tensor(np.log(p), requires_grad=True)
        logs = torch.tensor(np.log(q)), torch.tensor(np.log(mu))
        rows = [torch.autograd.grad(loss(z, *logs, k), z)[0].numpy() for k in range(4)]
        cost = off_policy.COSTS[kept]
        table = off_policy.policy_gradient(p, q, mu, *factor, cost)
        reference.close(table.ravel(), np.ravel(rows))


def test_the_ratio_is_exact_and_each_correction_has_its_closed_form():
    exact = reverse_kl_logit_gradient(P, Q)
    cost, score = np.log(P / Q), np.eye(3) - P
    ratio = P / MU

    def mean(*arguments, **options):
        return expectation(MU, off_policy.policy_gradient(P, Q, MU, *arguments, **options))

    reference.close(mean(), exact)
    reference.close(mean(baseline=3.0), exact)
    reference.close(mean("none") - exact, ((MU - P) * cost) @ score)
    reference.close(mean("truncate", 2.1), (np.minimum(P, 2.1 * MU) * cost) @ score)
    quarters = np.array([0.5, 0.25, 0.25]), Q, np.array([0.25, 0.5, 0.25])  # ratios 2, 1/2 and 1
    kept = off_policy.policy_gradient(*quarters, "mask", (0.5, 2))  # the limits are inside
    assert np.array_equal(kept, off_policy.policy_gradient(*quarters))
    edges = [0.1875, 0.3125, 0.5], [0.1, 0.5, 0.4], [0.25, 0.25, 0.5]  # ratios 3/4, 5/4 and 1
    passed = off_policy.policy_gradient(*edges, "clip", (0.25, 0.25))  # PPO's too
    assert np.array_equal(passed, off_policy.policy_gradient(*edges))
    inside = (ratio >= 0.5) & (ratio <= 2.1)
    reference.close(mean("mask", (0.5, 2.1)), (P * inside * cost) @ score)
    # a kept cost descends E_p[log mu - log q], which is linear in p
    reference.close(mean(cost="kept"), P * (np.log(MU / Q) - P @ np.log(MU / Q)))
    # where nothing is stale all are the plain policy gradient
    for factor in FACTORS:
        for kept in off_policy.COSTS:
            table = off_policy.policy_gradient(P, Q, P, *factor, kept)
            reference.close(table.ravel(), policy_gradient(P, Q).ravel())


@every_factor
def test_at_the_teacher_a_recomputed_cost_rests_and_a_kept_one_pushes(factor):
    behaviour = np.array([0.12, 0.1, 0.78])  # within every limit, so that nothing is left out
    table = off_policy.policy_gradient(Q, Q, behaviour, *factor)
    assert np.array_equal(table, np.zeros((3, 3)))
    kept = expectation(behaviour, off_policy.policy_gradient(Q, Q, behaviour, *factor, "kept"))
    assert np.linalg.norm(kept) > 0.01


def test_a_token_that_the_sampler_cuts_away_is_not_weighted_back():
    top_p = np.array([8 / 9, 1 / 9, 0.0])
    assert np.array_equal(off_policy.ratio(P, top_p), [P[0] / top_p[0], P[1] / top_p[1], np.inf])
    mean = expectation(top_p, off_policy.policy_gradient(P, Q, top_p))
    kept = np.array([1.0, 1.0, 0.0])
    reference.close(mean, (P * kept * np.log(P / Q)) @ (np.eye(3) - P))
    assert off_policy.second_moment(P, top_p) == np.inf
    assert np.array_equal(off_policy.ratio([0.5, 0.5, 0], [0.5, 0.5, 0]), [1, 1, 0])
    reference.close(off_policy.second_moment(P, MU), (P**2 / MU).sum())
    assert off_policy.second_moment(P, P) == off_policy.second_moment([1, 0], [1, 0]) == 1
    assert off_policy.second_moment(np.stack([P, Q]), MU).shape == (2,)


@pytest.mark.parametrize("correction, low, high", [("mask", 0.5, 1.5), ("clip", 0.5, 0.5)])
def test_a_ratio_at_its_limit_is_kept(correction, low, high):
    """The first token's ratio is .5 and its cost above 0, the second's 1.5 and below."""
    policies, less = ([0.25, 0.75], [0.1, 0.9], [0.5, 0.5]), 1e-9
    made = lambda *limits: off_policy.policy_gradient(*policies, correction, limits)
    whole = off_policy.policy_gradient(*policies, "ratio")
    np.testing.assert_array_equal(made(low, high), whole)
    np.testing.assert_array_equal(made(low, high - less), [whole[0], [0, 0]])
    low += less if correction == "mask" else -less
    np.testing.assert_array_equal(made(low, high), [[0, 0], whole[1]])


@pytest.mark.parametrize(
    "correction, limits, message",
    [
        ("cut", 2, "correction is 'cut'; give one of 'none', 'ratio', 'truncate', 'mask', 'clip'"),
        ("ratio", 2, "limits is 2; 'ratio' has none: leave it out"),
        ("truncate", None, "limits has dtype object (None); give real numbers"),
        ("truncate", 0, "limits is 0; give a number above 0"),
        ("mask", 2, "limits is 2; give two numbers of at least 0: (low, high)"),
        ("mask", (2, 0.5), "limits is (2, 0.5); give (low, high) with low <= high"),
        ("clip", (-0.2, 0.2), "limits is (-0.2, 0.2); give two numbers of at least 0"),
        ("clip", (0.2, float("nan")), "limits is (0.2, nan); give two numbers of at least 0"),
    ],
)
def test_wrong_limits(correction, limits, message):
    with pytest.raises(ValueError) as error:
        off_policy.policy_gradient(P, Q, MU, correction, limits)
    assert str(error.value).startswith(message)


def test_other_wrong_arguments():
    with pytest.raises(ValueError, match="cost is 'old'; give one of 'recomputed', 'kept'"):
        off_policy.policy_gradient(P, Q, MU, cost="old")
    with pytest.raises(ValueError, match="behaviour"):
        off_policy.policy_gradient(P, Q, [0.5, 0.5])
    one = off_policy.policy_gradient([1.0], [1.0], [1.0])
    assert np.array_equal(one, [[0.0]])


# --- whole texts -------------------------------------------------------------------------

TREES = [TokenTree.random(2, 3, seed) for seed in (0, 1, 2)]
LARGER = [TokenTree.random(3, 3, seed) for seed in (3, 4, 5)]
SIGNALS = ("sampled", "full_vocabulary")


@pytest.mark.parametrize("ratios", sequences.RATIOS)
@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize("gamma", [0.0, 0.6, 1.0])
def test_trees_against_a_walk_through_every_text(ratios, signal, gamma):
    table = sequences.off_policy_reward_to_go(*TREES, gamma, ratios, signal)
    mean, variance = reference.stale_tree_moments(
        *([rows.tolist() for rows in tree.logits] for tree in TREES),
        gamma,
        ratios,
        signal == "full_vocabulary",
    )
    reference.close(table.expectation(), mean)
    reference.close(table.total_variance(), variance)


@pytest.mark.parametrize("signal", sequences.SIGNALS)
def test_which_ratio_removes_which_bias(signal):
    student, teacher, behaviour = LARGER
    exact = sequences.sequence_kl_gradient(student, teacher)
    local = sequences.on_policy_gkd_gradient(student, teacher)
    stale = sequences.off_policy_gkd_gradient(student, teacher, behaviour)

    def mean(gamma, ratios):
        table = sequences.off_policy_reward_to_go(*LARGER, gamma, ratios, signal)
        return table.expectation()

    reference.close(mean(1.0, "each"), exact)
    reference.close(mean(0.0, "each"), local)
    reference.close(mean(0.0, "both"), local)
    reference.close(mean(0.0, "token"), stale)
    size = np.linalg.norm(exact)
    for gamma, ratios, goal in [
        *((1.0, ratios, exact) for ratios in ("none", "token", "prefix", "both")),
        *((0.0, ratios, local) for ratios in ("none", "token")),
    ]:
        assert np.linalg.norm(mean(gamma, ratios) - goal) > 0.02 * size, (gamma, ratios)


def test_the_full_vocabulary_needs_no_ratio_of_the_token():
    student, teacher, behaviour = LARGER
    table = sequences.off_policy_reward_to_go(*LARGER, 0.0, "none", "full_vocabulary")
    goal = sequences.off_policy_gkd_gradient(student, teacher, behaviour)
    reference.close(table.expectation(), goal)
    same = sequences.off_policy_gkd_gradient(teacher, teacher, behaviour)
    assert np.array_equal(same, np.zeros_like(same))
    # as by hand: the local gradients, weighed by who passes
    by_hand = [
        chance * reverse_kl_logit_gradient(p, q)
        for mus, ps, qs in zip(
            behaviour.prefix_probabilities(), student.probabilities, teacher.probabilities
        )
        for chance, p, q in zip(mus, ps, qs)
    ]
    reference.close(goal, np.concatenate(by_hand))


@pytest.mark.parametrize("ratios", sequences.RATIOS)
@pytest.mark.parametrize("signal", sequences.SIGNALS)
def test_fresh_texts_need_no_ratio(ratios, signal):
    student, teacher, _ = LARGER
    table = sequences.off_policy_reward_to_go(student, teacher, student, 0.7, ratios, signal)
    fresh = sequences.reward_to_go(student, teacher, 0.7, signal)
    reference.close(table.dense().ravel(), fresh.dense().ravel())
    assert isinstance(table, SequenceTable)


def test_second_moments_of_products():
    student, _, behaviour = LARGER
    moments = sequences.ratio_second_moments(student, behaviour)
    chances = behaviour.sequence_probabilities()
    products = np.cumprod(sequences.token_ratios(student, behaviour), axis=1)
    reference.close(moments, chances @ products**2)
    # at independent positions they multiply: exponential in T
    p, mu = np.array([0.8, 0.1, 0.1]), np.array([0.5, 0.3, 0.2])
    moments = sequences.ratio_second_moments(TokenTree.repeat(p, 5), TokenTree.repeat(mu, 5))
    reference.close(moments, off_policy.second_moment(p, mu) ** np.arange(1, 6))


def test_texts_that_the_student_or_the_behaviour_cannot_write():
    student, teacher, behaviour = TREES
    cut = TokenTree((np.array([[0.0, -np.inf]]), *behaviour.logits[1:]))
    table = sequences.off_policy_reward_to_go(student, teacher, cut, 1.0, "each")
    # half of the texts are never written: as if the student could not write them, unnormalised
    chance = student.sequence_probabilities() * (student.tokens()[:, 0] == 0)
    plain = sequences.reward_to_go(student, teacher, 1.0)
    reference.close(table.expectation(), chance @ plain.dense())
    assert np.isfinite(table.total_variance())
    assert np.array_equal(sequences.token_ratios(student, cut)[4:, 0], np.zeros(4))
    barring = TokenTree((*student.logits[:2], np.array([[0.0, 0], [0, 0], [0, -np.inf], [0, 0]])))
    for bars, prefix in ((cut, ()), (barring, (1, 0))):
        message = (
            f"student gives probability 0 to token 1 after the prefix {prefix}, where the "
            "behaviour can draw it: its cost is infinite; give the student's logit a finite value "
            "there, or set the behaviour's to -inf too"
        )
        with pytest.raises(ValueError, match="^" + re.escape(message) + "$"):
            sequences.off_policy_reward_to_go(bars, teacher, behaviour, 0.0)
    with pytest.raises(ValueError, match="behaviour"):
        sequences.off_policy_gkd_gradient(student, teacher, LARGER[0])
    with pytest.raises(ValueError, match="ratios is 'all'; give one of 'none', 'token'"):
        sequences.off_policy_reward_to_go(*TREES, 0.0, "all")
    with pytest.raises(ValueError, match="gamma"):
        sequences.off_policy_reward_to_go(*TREES, 1.5)


# --- the ledger's claims, their figures by other means -----------------------------------

OLD = np.array([0.4, 0.3, 0.3])
THREE = (np.array([0.2, 0.3, 0.5]), np.array([0.7, 0.2, 0.1]))


def off(found, goal):
    return np.linalg.norm(found - goal) / np.linalg.norm(goal)


def test_stale_cost_kept():
    """At the teacher by hand: −∇KL(q‖μ), and where descent on it ends."""
    _, q = THREE
    push = expectation(OLD, off_policy.policy_gradient(q, q, OLD, cost="kept"))
    by_hand = -q * (np.log(q / OLD) - q @ np.log(q / OLD))
    reference.close(push, by_hand)
    assert off_policy_evidence.kept() == "with the ratio off by 0.421; at q (−0.25, +0.12, +0.13)"


def test_ratio_cut_and_mask():
    p, q = THREE
    exact = reverse_kl_logit_gradient(p, q)
    share = {"truncate": np.minimum(1, 1.2 / (p / OLD)), "mask": np.array([0, 1, 0])}
    for (name, limits), c in zip([("truncate", 1.2), ("mask", (0.6, 1.5))], share.values()):
        held_back = ((1 - c) * p * np.log(p / q)) @ (np.eye(3) - p)
        found = expectation(OLD, off_policy.policy_gradient(p, q, OLD, name, limits))
        reference.close(found, exact - held_back)
    figures = off_policy_evidence.corrections()
    assert "truncated at 1.2 0.227, 0.81; masked outside .6 to 1.5 1.082, 0.06" in figures


def test_stale_prefixes():
    """Σ_s P_μ(s) ∇KL_s, with P_μ multiplied up token by token."""
    student, teacher, behaviour = off_policy_evidence.trees()
    visits, by_hand = np.ones(1), []
    for p, q, mu in zip(student.probabilities, teacher.probabilities, behaviour.probabilities):
        by_hand.append(visits[:, None] * reverse_kl_logit_gradient(p, q))
        visits = np.array([chance * share for chance, row in zip(visits, mu) for share in row])
    goal = np.concatenate([rows.ravel() for rows in by_hand])
    table = sequences.off_policy_reward_to_go(student, teacher, behaviour, 0.0, "token")
    reference.close(table.expectation(), goal)
    assert off_policy_evidence.prefixes().endswith("both 0.709, each 0.000")


def test_gkd_on_stale_text():
    student, teacher, behaviour = off_policy_evidence.trees()
    stale = sequences.off_policy_gkd_gradient(student, teacher, behaviour)
    moved = off(stale, sequences.on_policy_gkd_gradient(student, teacher))
    assert off_policy_evidence.gkd() == f"off by {moved:.3f} on old text; at the teacher 0.0"


def test_forward_kl_and_staleness():
    """The drawn forward KL: q/μ of then is exact, q/p of now is not, and q/p times p/μ is q/μ."""
    p, q = THREE
    z = torch.tensor(np.log(p), requires_grad=True)

    def mean_of(weights):
        loss = -(torch.tensor(OLD * weights) * z.log_softmax(-1)).sum()
        return torch.autograd.grad(loss, z)[0].numpy()

    forward = p - q
    reference.close(mean_of(q / OLD), forward)
    anew, reverse = off(mean_of(q / p), forward), off(mean_of(-np.log(p / q)), off_reverse())
    assert anew > reverse > 0.3
    assert f"reverse {reverse:.3f}, forward {anew:.3f}" in off_policy_evidence.directions()
    assert off_policy_evidence.directions().endswith("reverse 0.503, forward 0.000")


def off_reverse():
    p, q = THREE
    return p * (np.log(p / q) - p @ np.log(p / q))


def test_sampler_mismatch():
    p, q = THREE
    warm = p ** (1 / 0.7) / (p ** (1 / 0.7)).sum()
    reference.close(expectation(warm, off_policy.policy_gradient(p, q, warm)), off_reverse())
    uncorrected = (warm * np.log(p / q)) @ (np.eye(3) - p)
    assert f"temperature .7 {off(uncorrected, off_reverse()):.3f}" in off_policy_evidence.samplers()
    # what top-p cuts away is missing, with the ratio too
    missing = p[0] * np.log(p[0] / q[0]) * (np.eye(3)[0] - p)
    lost = np.linalg.norm(missing) / np.linalg.norm(off_reverse())
    assert off_policy_evidence.samplers().endswith(f"with the ratio {lost:.3f}")


# --- edges that a hostile reading found ------------------------------------------------------


def test_both_second_moments_are_infinite_where_a_token_is_barred():
    uniform, barring = TokenTree.repeat(np.full(3, 1 / 3), 2), np.array([[0.0, -np.inf, 0.0]])
    behaviour = TokenTree((barring, np.tile(barring, (3, 1))))
    moments = sequences.ratio_second_moments(uniform, behaviour)
    assert np.array_equal(moments, [np.inf, np.inf])
    both = sequences.ratio_second_moments(behaviour, behaviour)  # what both bar counts for nothing
    reference.close(both, [1, 1])
    assert off_policy.second_moment(np.full(3, 1 / 3), [0.5, 0, 0.5]) == np.inf
    assert off_policy.second_moment([0.5, 0.5], [1, 1e-320]) == np.inf


@pytest.mark.parametrize("ratios", sequences.RATIOS)
def test_a_product_that_overflows_is_the_behaviours(ratios):
    far = np.array([[0.0, -400.0, 0.0]])
    behaviour = TokenTree((far, np.tile(far, (3, 1))))
    student, teacher = TokenTree.random(3, 2, 0), TokenTree.random(3, 2, 1)
    with pytest.raises(ValueError, match="^behaviour gives a text so little probability"):
        sequences.off_policy_reward_to_go(student, teacher, behaviour, 1.0, ratios)


def test_a_baseline_for_each_row_of_a_batch():
    p, q = np.stack([P, Q]), np.stack([Q, P])
    both = off_policy.policy_gradient(p, q, MU, baseline=[1.0, 2.0])
    for row, baseline in enumerate((1.0, 2.0)):
        one = off_policy.policy_gradient(p[row], q[row], MU, baseline=baseline)
        assert np.array_equal(both[row], one)
    with pytest.raises(ValueError, match=r"^baseline has shape \(3,\); give one number, or one"):
        off_policy.policy_gradient(p, q, MU, baseline=[1.0, 2.0, 3.0])
