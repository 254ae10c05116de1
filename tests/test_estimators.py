"""Gradient tables: bias and variance by enumeration, one test for each claim of the ledger."""

import itertools
import math
import re
import subprocess
import sys

import mpmath as mp
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings

from opd_toy import off_policy
from opd_toy.distributions import kl, softmax
from opd_toy.estimators import (
    expectation,
    full_vocabulary_advantage,
    gkd,
    k_estimator,
    k_estimator_as_loss,
    k_estimator_as_reward,
    mixed_policy_gradient,
    normalized_policy_gradient,
    optimal_baseline,
    policy_gradient,
    schulman_table,
    tilted_teacher,
    top_k_policy_gradient,
    total_variance,
    truncated_policy_gradient,
)
from opd_toy.example import STUDENT as P
from opd_toy.example import TEACHER as Q
from opd_toy.objectives import (
    descend,
    forward_kl_logit_gradient,
    reverse_kl,
    reverse_kl_logit_gradient,
    top_k_reverse_kl_logit_gradient,
)
from opd_toy.sequences import dense_and_broadcast, independent_table
from tests import reference
from tests.test_distributions import pairs

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")

PAIRS = [(P, Q)] + [tuple(reference.random_pair(v, v)) for v in (2, 5, 40)]
KINDS = ("k1", "k2", "k3")

same = lambda actual, expected: np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-14)
every_pair = pytest.mark.parametrize("p, q", PAIRS, ids=lambda x: f"V={len(x)}")


def covariance_trace(probabilities, table):
    """By another road than the engine's: E|g|^2 - |E g|^2 at 50 digits."""
    rows = [[mp.mpf(float(x)) for x in row] for row in table]
    weights = reference.normalised(probabilities)
    square = mp.fsum(w * mp.fsum(x * x for x in row) for w, row in zip(weights, rows))
    return float(
        square
        - mp.fsum(
            mp.fsum(w * row[j] for w, row in zip(weights, rows)) ** 2 for j in range(len(rows[0]))
        )
    )


# The notes' example -------------------------------------------------------------


def test_three_token_pg():
    table = policy_gradient(P, Q)
    third = [math.log(5) * x for x in (-0.2, -0.3, 0.5)]
    first = [math.log(2 / 7) * x for x in (0.8, -0.3, -0.5)]
    same(table[2], third)
    same(table[0], first)
    assert [f"{x:+.2f}" for x in table[2]] == ["-0.32", "-0.48", "+0.80"]  # the notes print +.81
    assert [f"{x:+.2f}" for x in table[0]] == ["-1.00", "+0.38", "+0.63"]


def test_three_token_gkd_versus_pg():
    exact, sampled = gkd(P, Q), policy_gradient(P, Q)
    same(exact, np.tile(reverse_kl_logit_gradient(P, Q), (3, 1)))
    assert [f"{x:+.2f}" for x in exact[2]] == ["-0.39", "-0.08", "+0.47"]
    # With t3 drawn both move every token the same way, t2 six times as hard under PG.
    assert (np.sign(exact[2]) == np.sign(sampled[2])).all()
    assert 5.9 < sampled[2, 1] / exact[2, 1] < 6.0


def test_pg_sign_flip():
    sampled, exact = policy_gradient(P, Q), gkd(P, Q)
    assert np.sign(sampled[:, 1]).tolist() == [1, 1, -1]  # t2: down, down, up
    assert (exact[:, 1] == exact[0, 1]).all() and exact[0, 1] < 0  # always up


@every_pair
def test_pg_opposite_signs(p, q):
    table = policy_gradient(p, q)
    for k, row in enumerate(table):
        assert (np.sign(np.delete(row, k)) == -np.sign(row[k])).all()


@every_pair
def test_pg_blind(p, q):
    # What the drawn token loses, the others share in proportion to p: the teacher has no say.
    for k, row in enumerate(policy_gradient(p, q)):
        others, share = np.delete(row, k), np.delete(p, k)
        same(others / others.sum(), share / share.sum())


@every_pair
def test_pg_unbiased_local(p, q):
    same(expectation(p, policy_gradient(p, q)), reverse_kl_logit_gradient(p, q))
    same(policy_gradient(p, q).sum(axis=1), 0)


@every_pair
def test_k1_expectation(p, q):
    same(p @ k_estimator(p, q, "k1"), kl(p, q))
    assert (k_estimator(p, q, "k1") < 0).any() and (k_estimator(p, q, "k1") > 0).any()


def test_sampling_blocks_gradient():
    """No derivative flows through argmax or a drawn token; it does through the full vocabulary."""
    z, uniform = np.log(P) + 0.01, np.array([0.05, 0.37, 0.9])

    def drawn(logits):  # inverse transform sampling with the random numbers held fixed
        return np.searchsorted(np.cumsum(softmax(logits)), uniform)

    reward = np.log(P / Q)
    for outcome in (lambda x: reward[np.argmax(x)], lambda x: reward[drawn(x)].mean()):
        assert all(
            outcome(z + h * np.eye(3)[j]) == outcome(z) for j in range(3) for h in (1e-4, -1e-4)
        )
    difference = [
        (reverse_kl(softmax(z + 1e-5 * e), Q) - reverse_kl(softmax(z - 1e-5 * e), Q)) / 2e-5
        for e in np.eye(3)
    ]
    np.testing.assert_allclose(difference, reverse_kl_logit_gradient(P, Q), rtol=1e-8)

    logits = torch.tensor(z, requires_grad=True)
    p = torch.softmax(logits, -1)
    assert not p.argmax().requires_grad and not torch.multinomial(p, 2).requires_grad
    (p * (p / torch.tensor(Q)).log()).sum().backward()
    same(logits.grad.numpy(), reverse_kl_logit_gradient(P, Q))


# Bias and variance ----------------------------------------------------------------


def test_pg_variance():
    same(total_variance(P, policy_gradient(P, Q)), covariance_trace(P, policy_gradient(P, Q)))
    assert round(total_variance(P, policy_gradient(P, Q)), 4) == 0.4650
    assert total_variance(P, gkd(P, Q)) == 0.0

    # Training: 1000 runs from the same start at the same rate, one draw a step; against none.
    generator = np.random.default_rng(0)

    def one_draw(z):
        p = softmax(z)
        drawn = (generator.random((len(z), 1)) > p.cumsum(axis=1)).sum(axis=1)
        return policy_gradient(p, Q)[np.arange(len(z)), drawn]

    exact = reverse_kl(
        softmax(descend(lambda z: reverse_kl_logit_gradient(softmax(z), Q), np.log(P), 0.5, 20)), Q
    )
    sampled = reverse_kl(softmax(descend(one_draw, np.tile(np.log(P), (1000, 1)), 0.5, 20)), Q)
    for step in (5, 10, 20):
        mean, error = sampled[step].mean(), sampled[step].std() / math.sqrt(1000)
        assert exact[step] < mean - 5 * error


def test_baseline_does_not_always_help():
    best = optimal_baseline(P, Q)
    variances = {
        name: total_variance(P, policy_gradient(P, Q, baseline))
        for name, baseline in {"none": 0, "kl": kl(P, Q), "best": best, "-1": -1}.items()
    }
    assert {name: round(x, 4) for name, x in variances.items()} == {
        "none": 0.4650,
        "kl": 0.5384,
        "best": 0.4261,
        "-1": 1.3952,
    }
    assert round(best, 4) == 0.2502
    same(best, (P * (1 - 2 * P + P @ P) @ np.log(P / Q)) / (P @ (1 - 2 * P + P @ P)))
    # -1 is what comes of differentiating the sampled KL, p_k log(p_k/q_k) / sg(p_k), directly.
    z = torch.log(torch.tensor(P)).requires_grad_()
    for k in range(3):
        log_p = torch.log_softmax(z, -1)[k]
        weight = (log_p - log_p.detach()).exp()
        gradient = torch.autograd.grad(weight * (log_p - math.log(Q[k])), z)[0]
        same(gradient.numpy(), policy_gradient(P, Q, -1.0)[k])


@every_pair
def test_optimal_baseline_is_the_minimum(p, q):
    best = optimal_baseline(p, q)
    least = total_variance(p, policy_gradient(p, q, best))
    for step in (1e-3, 0.1, 3.0):
        for sign in (-1, 1):
            table = policy_gradient(p, q, best + sign * step)
            same(expectation(p, table), reverse_kl_logit_gradient(p, q))
            # The variance is a parabola: curvature E|score|^2 = 1 - sum p^2.
            np.testing.assert_allclose(
                total_variance(p, table), least + step**2 * (1 - p @ p), rtol=1e-11
            )


@every_pair
def test_k_estimators_as_loss(p, q):
    same(expectation(p, k_estimator_as_loss(p, q, "k1")), 0)
    same(expectation(p, k_estimator_as_loss(p, q, "k2")), reverse_kl_logit_gradient(p, q))
    same(expectation(p, k_estimator_as_loss(p, q, "k3")), forward_kl_logit_gradient(p, q))
    # Row for row against autograd through the estimate of one drawn token.
    z = torch.log(torch.tensor(p)).requires_grad_()
    for kind in KINDS:
        table = k_estimator_as_loss(p, q, kind)
        for k in range(min(len(p), 5)):
            d = torch.log_softmax(z, -1)[k] - math.log(q[k])
            estimate = {"k1": d, "k2": d * d / 2, "k3": torch.exp(-d) - 1 + d}[kind]
            same(k_estimator(p, q, kind)[k], estimate.item())
            same(table[k], torch.autograd.grad(estimate, z)[0].numpy())


@every_pair
def test_k_estimators_as_reward(p, q):
    reverse, forward = reverse_kl_logit_gradient(p, q), forward_kl_logit_gradient(p, q)
    same(expectation(p, k_estimator_as_reward(p, q, "k1")), reverse)
    same(expectation(p, k_estimator_as_reward(p, q, "k3")), reverse - forward)
    k2 = expectation(p, k_estimator_as_reward(p, q, "k2"))
    same(k2, p * (np.log(p / q) ** 2 / 2 - p @ np.log(p / q) ** 2 / 2))
    for objective in (reverse, forward, reverse - forward):
        assert np.abs(k2 - objective).max() > 0.01


def test_improve_estimator():
    """Baseline, normalisation, importance weight, truncation, top-K: bias and variance of each."""
    exact, cost, score = reverse_kl_logit_gradient(P, Q), np.log(P / Q), np.eye(3) - P
    plain = total_variance(P, policy_gradient(P, Q))

    # normalisation: the same direction, divided by the spread of the cost
    normalised = normalized_policy_gradient(P, Q)
    spread = math.sqrt(P @ cost**2 - (P @ cost) ** 2)
    same(normalised, ((cost - P @ cost) / spread)[:, None] * score)
    same(expectation(P, normalised), exact / spread)
    same(
        total_variance(P, normalised),
        total_variance(P, policy_gradient(P, Q, kl(P, Q))) / spread**2,
    )

    # truncation: less variance, and bias
    cut = truncated_policy_gradient(P, Q, 1.0)
    same(cut, np.clip(cost, -1, 1)[:, None] * score)
    assert total_variance(P, cut) < plain and np.abs(expectation(P, cut) - exact).max() > 0.05
    same(truncated_policy_gradient(P, Q, 2.0), policy_gradient(P, Q))

    # top-K: exact head and sampled tail is unbiased for every K; without the tail it is not
    variances = []
    for k in (1, 2, 3):
        table = top_k_policy_gradient(P, Q, k)
        head = (P * cost * (np.arange(3) < k)) @ score  # the teacher's order is t1, t2, t3
        same(table, head + (cost * (np.arange(3) >= k))[:, None] * score)
        same(expectation(P, table), exact)
        variances.append(total_variance(P, table))
        same(top_k_policy_gradient(P, Q, k, tail="drop"), np.tile(head, (3, 1)))
    assert plain > variances[0] > variances[1] > variances[2] == 0
    assert np.abs(expectation(P, top_k_policy_gradient(P, Q, 2, tail="drop")) - exact).max() > 0.2


@every_pair
def test_open_question_full_vocab_pg(p, q):
    """The full-vocabulary KL serves as baseline or as exact gradient, not as the advantage."""
    exact, divergence = reverse_kl_logit_gradient(p, q), kl(p, q)
    advantage = full_vocabulary_advantage(p, q)
    same(advantage, divergence * (np.eye(len(p)) - p))
    same(expectation(p, advantage), 0)  # teaches nothing
    same(total_variance(p, advantage), divergence**2 * (1 - p @ p))  # and is not even quiet
    baseline = policy_gradient(p, q, divergence)
    same(expectation(p, baseline), exact)
    same(total_variance(p, baseline), covariance_trace(p, baseline))
    rao_blackwell = gkd(p, q)  # the sampled gradient, averaged over the draw
    same(expectation(p, rao_blackwell), exact)
    assert total_variance(p, rao_blackwell) == 0


def test_full_vocab_advantage_is_zero():
    np.testing.assert_allclose(expectation(P, full_vocabulary_advantage(P, Q)), 0, atol=1e-16)
    assert np.abs(full_vocabulary_advantage(P, Q)).min() > 0.1


def test_monte_carlo():
    """The mean of N draws is sigma/sqrt(N) from the exact gradient: enumerated, and sampled."""
    table, exact = policy_gradient(P, Q), reverse_kl_logit_gradient(P, Q)
    variance = total_variance(P, table)
    for n in (2, 3, 4):
        draws = np.array(list(itertools.product(range(3), repeat=n)))
        means, chance = table[draws].mean(axis=1), P[draws].prod(axis=1)
        same(expectation(chance, means), exact)
        same(total_variance(chance, means), variance / n)
    generator = np.random.default_rng(1)
    for n in (10, 100, 1000, 10_000):
        counts = generator.multinomial(n, P, size=4000)
        squared_error = ((counts / n @ table - exact) ** 2).sum(axis=1).mean()
        np.testing.assert_allclose(squared_error, variance / n, rtol=0.1)


def test_reward_mixing():
    reward = np.array([0.0, 1.0, -1.0])
    for weight in (0.0, 0.7, -2.0):
        mixed = mixed_policy_gradient(P, Q, reward, weight)
        same(mixed, policy_gradient(P, Q) - weight * reward[:, None] * (np.eye(3) - P))


def test_improve_framework():
    """An outcome reward moves the fixed point from the teacher to q exp(weight R) / sum."""
    reward, weight = np.array([0.0, 1.0, -1.0]), 0.7
    goal = Q * np.exp(weight * reward)
    goal /= goal.sum()
    same(tilted_teacher(Q, reward, weight), goal)
    same(tilted_teacher(Q, reward, 0), Q)

    def objective(logits):
        p = reference.softmax(logits)
        return reference.kl(p, reference.normalised(Q)) - mp.mpf(weight) * mp.fsum(
            a * x for a, x in zip(p, reward)
        )

    z, h = [mp.log(x) for x in P], mp.mpf(10) ** -14
    difference = [
        (
            objective([x + h * (i == j) for i, x in enumerate(z)])
            - objective([x - h * (i == j) for i, x in enumerate(z)])
        )
        / (2 * h)
        for j in range(3)
    ]
    reference.close(expectation(P, mixed_policy_gradient(P, Q, reward, weight)), difference)
    # Up to a constant the objective is the reverse KL to the tilted teacher.
    same(
        expectation(P, mixed_policy_gradient(P, Q, reward, weight)),
        reverse_kl_logit_gradient(P, goal),
    )
    np.testing.assert_allclose(
        expectation(goal, mixed_policy_gradient(goal, Q, reward, weight)), 0, atol=1e-15
    )
    path = descend(
        lambda x: expectation(softmax(x), mixed_policy_gradient(softmax(x), Q, reward, weight)),
        np.log(P),
        1.0,
        400,
    )
    np.testing.assert_allclose(softmax(path[-1]), goal, rtol=1e-10)
    assert np.abs(goal - Q).max() > 0.1


def test_no_reward_lifts_a_token_that_the_teacher_bars():
    e = math.e  # the reward of 10,000 is beyond exp's range
    same(tilted_teacher([0.5, 0.5, 0.0], [0.0, 1.0, 1e4], 1.0), [1 / (1 + e), e / (1 + e), 0.0])


def test_dense_versus_broadcast():
    """RLVR gives every token of a sequence the same weight, OPD each token its own."""
    student, teacher = (
        np.stack([P, softmax([0.3, -1.0, 0.4])]),
        np.stack([Q, softmax([-0.5, 1.0, 0.2])]),
    )
    probabilities, dense, broadcast = dense_and_broadcast(student, teacher)
    assert probabilities.shape == (9,) and dense.shape == broadcast.shape == (9, 2)
    for s, (first, second) in enumerate(itertools.product(range(3), repeat=2)):
        same(probabilities[s], student[0, first] * student[1, second])
        same(
            dense[s],
            [
                math.log(student[0, first] / teacher[0, first]),
                math.log(student[1, second] / teacher[1, second]),
            ],
        )
    assert (broadcast[:, 0] == broadcast[:, 1]).all() and (dense[:, 0] != dense[:, 1]).all()
    same(broadcast[:, 0], dense.sum(axis=1))
    # Here, where a token does not alter what follows, both are unbiased; the broadcast is noisier.
    exact = np.concatenate([reverse_kl_logit_gradient(p, q) for p, q in zip(student, teacher)])
    tables = [independent_table(student, weights) for weights in (dense, broadcast)]
    for table in tables:
        same(expectation(probabilities, table), exact)
    per_position = sum(total_variance(p, policy_gradient(p, q)) for p, q in zip(student, teacher))
    same(total_variance(probabilities, tables[0]), per_position)
    assert total_variance(probabilities, tables[1]) > 1.5 * per_position


@pytest.mark.parametrize("mean", [0.01, 0.1, 0.99, 1.0, -1.0, 1.1209])
def test_schulman_table(mean):
    """The closed forms against Gauss-Hermite quadrature at samples of N(0, 1)."""
    x, weights = np.polynomial.hermite_e.hermegauss(120)
    weights = weights / math.sqrt(2 * math.pi)
    d = mean * mean / 2 - mean * x  # log of N(0, 1) over N(mean, 1)
    true = mean * mean / 2
    table = schulman_table(mean)
    np.testing.assert_allclose(table["kl"], true, rtol=1e-15)
    for kind, value in {"k1": d, "k2": d * d / 2, "k3": np.expm1(-d) + d}.items():
        expected = weights @ value
        sd = math.sqrt(weights @ (value - expected) ** 2)
        row = table[kind]
        np.testing.assert_allclose(row["bias"], expected - true, atol=1e-13, rtol=1e-9)
        np.testing.assert_allclose(row["sd"], sd, rtol=1e-10)
        np.testing.assert_allclose(
            [row["bias_over_kl"], row["sd_over_kl"]],
            [row["bias"] / true, row["sd"] / true],
            rtol=1e-14,
        )


@pytest.mark.parametrize("mean", [1e-4, 0.999, 1.001, 6.0])
def test_the_spread_of_k3_keeps_its_digits(mean):
    square = mp.mpf(mean) ** 2
    spread = mp.sqrt(mp.exp(square) - 1 - square)
    np.testing.assert_allclose(schulman_table(mean)["k3"]["sd"], float(spread), rtol=1e-13)


def test_schulman_table_prints_the_known_digits():
    near, far = schulman_table(0.1), schulman_table(1)
    assert [round(near[k]["sd_over_kl"], 4) for k in KINDS] == [20, 1.4177, 1.4166]
    assert [round(far[k]["sd_over_kl"], 4) for k in KINDS] == [2, 1.7321, 1.6950]
    assert [round(t["k2"]["bias_over_kl"], 4) for t in (near, far)] == [0.0025, 0.25]
    assert (
        schulman_table(1.1208)["k3"]["sd"] < 1.1208 and schulman_table(1.1210)["k3"]["sd"] > 1.1210
    )


def test_k3_keeps_its_digits_near_equality():
    p = np.array([0.25, 0.25, 0.5])
    q = p * (1 + 1e-8 * np.array([1, -3, 1]))
    for k in range(3):
        ratio = mp.mpf(q[k]) / mp.mpf(p[k])
        same(k_estimator(p, q, "k3")[k] / float(ratio - 1 - mp.log(ratio)), 1)


# Edges ----------------------------------------------------------------------------

TABLES = {
    "policy_gradient": policy_gradient,
    "gkd": gkd,
    "full_vocabulary_advantage": full_vocabulary_advantage,
    "normalized": normalized_policy_gradient,
    "truncated": lambda p, q: truncated_policy_gradient(p, q, 1.0),
    "top_k": lambda p, q: top_k_policy_gradient(p, q, 1),
    "mixed": lambda p, q: mixed_policy_gradient(p, q, np.arange(np.shape(p)[-1]), 0.5),
    "off-policy": lambda p, q: off_policy.policy_gradient(p, q, q),
    **{
        f"{kind} as {use.__name__[-6:]}": (lambda p, q, use=use, kind=kind: use(p, q, kind))
        for use in (k_estimator_as_loss, k_estimator_as_reward)
        for kind in KINDS
    },
}
each_table = pytest.mark.parametrize("make", TABLES.values(), ids=TABLES)


@each_table
def test_one_token_teaches_nothing(make):
    assert make([1.0], [1.0]).tolist() == [[0.0]]
    assert total_variance([1.0], make([1.0], [1.0])) == 0
    assert optimal_baseline([1.0], [1.0]) == 0


@each_table
@settings(max_examples=40, deadline=None, derandomize=True)
@given(pairs)
@example(
    (
        [9.9999999e-09, 9.9999999e-01, 9.9999999e-301],
        [4.99999998e-09, 4.99999998e-01, 4.99999998e-01],
    )
)
def test_tables_are_never_nan_and_rows_sum_to_zero(make, pair):
    table = make(*pair)
    assert not np.isnan(table).any()
    finite = np.isfinite(table).all(axis=1)
    largest = np.abs(table[finite]).max(axis=1, initial=0)
    # Where the costs are nearly one and the same an entry p_j (C_j - mean) is what their rounding
    # leaves, p_j (1 - p_j) |C_j| eps.  Below 1e-100 it is the scores' own rounding.
    p, q = map(np.asarray, pair)
    cost = np.abs(np.log(np.divide(p, q, out=np.ones_like(p), where=(p > 0) & (q > 0))))
    rounding = np.finfo(float).eps * (p * (1 - p) * cost).sum()
    assert (np.abs(table[finite].sum(axis=1)) <= 1e-12 * largest + rounding + 1e-100).all()


@each_table
def test_batches_equal_their_rows(make):
    p, q = reference.random_pair(4, 1), reference.random_pair(4, 2)
    batch = make(p[:, None], q[None])
    assert batch.shape == (2, 2, 4, 4)
    np.testing.assert_allclose(batch[1, 0], make(p[1], q[0]), rtol=1e-14)
    mean, variance = expectation(p[:, None], batch), total_variance(p[:, None], batch)
    np.testing.assert_allclose(mean[1, 0], expectation(p[1], batch[1, 0]), rtol=1e-13)
    np.testing.assert_allclose(variance[1, 0], total_variance(p[1], batch[1, 0]), rtol=1e-13)


def test_a_token_that_is_never_drawn_does_not_count():
    p, q = np.array([0.25, 0.75, 0.0]), np.array([0.5, 0.25, 0.25])
    table = policy_gradient(p, q)
    assert np.isinf(table[2]).all()  # C = log 0 - log .25
    same(expectation(p, table), reverse_kl_logit_gradient(p, q))
    shorter = policy_gradient(p[:2], q[:2] / 0.75)
    same(
        total_variance(p, policy_gradient(p, q)),
        total_variance(p[:2], shorter - math.log(0.75) * (np.eye(2) - p[:2])),
    )
    assert np.isfinite(optimal_baseline(p, q)) and np.isfinite(total_variance(p, table))
    never = [k_estimator(p, q, kind)[2] for kind in KINDS]
    assert never == [-math.inf, math.inf, math.inf]  # each the limit of its formula
    # k3 differentiated cannot see what the student never draws: p - q only for full support.
    short = expectation(p, k_estimator_as_loss(p, q, "k3"))
    same(short, [p[0] - q[0] - 0.25 * p[0], p[1] - q[1] - 0.25 * p[1], 0])


def test_a_token_the_teacher_bars():
    p, q = [0.5, 0.3, 0.2], [0.0, 0.5, 0.5]
    table = policy_gradient(p, q)
    assert table[0].tolist() == [math.inf, -math.inf, -math.inf] and np.isfinite(table[1:]).all()
    assert (
        expectation(p, table).tolist()
        == reverse_kl_logit_gradient(p, q).tolist()
        == [math.inf, -math.inf, -math.inf]
    )
    assert total_variance(p, table) == math.inf and optimal_baseline(p, q) == math.inf
    message = (
        "table holds both +inf and -inf in one column, in rows that can be drawn: the expectation "
        "does not exist; see the limit in objectives.reverse_kl_logit_gradient"
    )
    with pytest.raises(ValueError, match="^" + re.escape(message) + "$"):
        expectation(p, policy_gradient(p, [0.0, 0.0, 1.0]))
    # Truncated and normalised costs stay finite; the latter is the limit of ever smaller q.
    assert np.isfinite(truncated_policy_gradient(p, q, 5.0)).all()
    small = 1e-300
    limit = normalized_policy_gradient(p, q)
    np.testing.assert_allclose(limit, normalized_policy_gradient(p, [small, 0.5, 0.5]), atol=0.01)
    same(limit[0], np.array([0.5, -0.3, -0.2]))


def test_a_long_head_takes_the_first_of_equal_tokens():
    p, likelier = reference.random_pair(1000, 0)[0], np.arange(1000) % 2 == 0
    q = np.where(likelier, 2, 1) / 1500
    head = top_k_policy_gradient(p, q, 300, tail="drop")[0]
    first = likelier & (np.arange(1000) < 600)
    cost = np.where(first, p * np.log(p / q), 0.0)
    same(head, cost - p * cost.sum())
    assert np.array_equal(top_k_reverse_kl_logit_gradient(p, q, 300) != 0, first)


def test_infinite_costs_that_meet_are_the_limit_of_equal_large_ones():
    p, q, large = [0.25, 0.25, 0.25, 0.25], [1.0, 0.0, 0.0, 0.0], 1e-300
    limit = top_k_policy_gradient(p, q, 2)
    near = top_k_policy_gradient(p, [1.0, large, large, large], 2)
    assert np.isinf(limit).all() and (np.sign(limit) == np.sign(near)).all()


def test_variance_beyond_float64_is_infinite_not_nan():
    assert total_variance([0.5, 0.5, 0.0], [[1e200], [-1e200], [0.0]]) == math.inf
    assert total_variance([0.5, 0.5], [[-math.inf], [0.0]]) == math.inf


def test_normalising_a_constant_cost_gives_zero():
    assert not normalized_policy_gradient(P, P).any()
    assert not normalized_policy_gradient([0.1, 0.3, 0.6, 0.0], [0.05, 0.15, 0.3, 0.5])[:3].any()
    for apart, counts in ((0.5e-12, False), (1e-12, True)):  # of log 2: a spread of 0.7 and 1.4e-12
        close = [0.25 * (1 + apart), 0.25 * (1 - apart), 0.5]
        assert normalized_policy_gradient([0.5, 0.5, 0.0], close)[:2].any() == counts


def test_where_the_teacher_bars_all_that_the_student_draws_the_costs_still_differ():
    p, small = [0.7, 0.3, 0.0], 1e-300
    limit = normalized_policy_gradient(p, [0.0, 0.0, 1.0])[:2]
    assert limit.any()
    np.testing.assert_allclose(limit, normalized_policy_gradient(p, [small, small, 1.0])[:2])


def test_variance_is_never_negative_and_survives_a_large_mean():
    table = 1e8 + np.array([[0.0, 1e-3], [1e-3, 0.0]])
    np.testing.assert_allclose(total_variance([0.5, 0.5], table), 2 * (5e-4) ** 2, rtol=1e-4)
    assert total_variance([0.1, 0.2, 0.3, 0.4, 0.0], np.full((5, 3), 1 / 3)) == 0.0
    assert isinstance(total_variance(P, policy_gradient(P, Q)), float)
    assert isinstance(optimal_baseline(P, Q), float)


def test_saturated_student_keeps_its_small_scores():
    p = [1.0, 1e-30]
    table = policy_gradient(p, [0.5, 0.5])
    np.testing.assert_allclose(table[0], math.log(2) * np.array([1e-30, -1e-30]), rtol=1e-14)
    np.testing.assert_allclose(optimal_baseline(p, [0.5, 0.5]), math.log(2e-30), rtol=1e-12)


def test_expectation_takes_any_number_of_columns():
    same(expectation([0.5, 0.5], [[1.0, 2, 3, 4], [3.0, 2, 1, 0]]), [2, 2, 2, 2])


# The import -----------------------------------------------------------------------


HEAVY = {"torch", "sympy", "scipy", "matplotlib", "mpmath", "tabulate", "tqdm"}


def test_import_is_light():
    """The engine takes numpy and nothing heavier, in under a quarter of a second.

    Of the thread's own time, the least of five: other programs may hold the processor.
    """
    program = (
        "import sys, time; start = time.thread_time()\n"
        "import opd_toy, opd_toy.estimators, opd_toy.sequences, opd_toy.example\n"
        "print(time.thread_time() - start, *sys.modules)"
    )
    run = [sys.executable, "-c", program]
    seconds = []
    for _ in range(5):
        took, *modules = subprocess.run(
            run, capture_output=True, text=True, check=True
        ).stdout.split()
        assert not HEAVY & set(modules)
        seconds.append(float(took))
    assert min(seconds) < 0.25


def test_costs_are_normalised_pair_by_pair():
    """A pair that nearly agrees, beside one whose costs are larger by twelve orders."""
    student = np.full((2, 3), [0.2, 0.3, 0.5])
    shares = [0.2 * (1 + 1e-10), 0.3 * (1 - 1e-10), 0.5 + 1e-11]
    teacher = np.array([[0.5, 0.5, 1e-300], shares / np.sum(shares)])
    both = normalized_policy_gradient(student, teacher)
    alone = [normalized_policy_gradient(p, q) for p, q in zip(student, teacher)]
    assert np.array_equal(both, alone) and (both != 0).any(axis=(1, 2)).all()
