"""Token trees: gradients against autograd, tables against enumeration, the claims of chapter 6.

The references here share nothing with the engine: loops over sequences, torch, mpmath.
"""

import functools
import itertools
import math
import subprocess
import sys

import mpmath as mp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from opd_toy import estimators, objectives
from opd_toy.distributions import log_softmax
from opd_toy.example import STUDENT as P
from opd_toy.example import TEACHER as Q
from opd_toy.sequences import (
    SIGNALS,
    LazyTree,
    SequenceTable,
    TokenTree,
    best_gamma,
    bias_variance_polynomials,
    broadcast_outcome,
    decomposition,
    discounted_return,
    fipo,
    fipo_weight,
    full_return,
    future_kl,
    generalized_advantage,
    growth_exponents,
    independent_variance,
    mixed,
    on_policy_gkd_gradient,
    outcome,
    reward_to_go,
    reward_to_go_table,
    sample_estimate,
    sequence_kl,
    sequence_kl_gradient,
    state_values,
    token_costs,
    token_kls,
    top_k,
)

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")

SIZES = [(2, 2), (2, 5), (3, 3), (4, 4), (5, 3), (1, 3), (4, 1)]
BASELINES = (None, 0.7, "value", "optimal", "given")
GAMMAS = (0.0, 0.3, 0.9, 1.0)


def pair(vocabulary, length, seed=0, scale=1.5):
    return TokenTree.random(vocabulary, length, 2 * seed + 1, scale), TokenTree.random(
        vocabulary, length, 2 * seed + 2, scale
    )


TREES = [pair(v, t, seed) for seed, (v, t) in enumerate(SIZES)]
every_tree = pytest.mark.parametrize(
    "student, teacher", TREES, ids=[f"V={v},T={t}" for v, t in SIZES]
)
every_signal = pytest.mark.parametrize("signal", SIGNALS)
random_trees = given(
    vocabulary=st.integers(1, 5),
    length=st.integers(1, 5),
    seed=st.integers(0, 10**6),
    scale=st.sampled_from([0.1, 1.0, 3.0]),
)
few = settings(max_examples=25, deadline=None)


def same(actual, expected, scale=0.0, tolerance=1e-12):
    """Equal to ``tolerance`` relative to the largest number there is.

    Or to ``scale``, the size of the terms summed.
    """
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert expected.ndim == 0 or actual.shape == expected.shape
    assert np.isfinite(actual).all()
    largest = max(scale, np.abs(expected).max(initial=0))
    assert np.abs(actual - expected).max(initial=0) <= tolerance * largest, (
        f"off by {np.abs(actual - expected).max():.2e} of {largest:.2e}"
    )


def terms(table):
    """Size of the terms that the expectation of a table sums."""
    return table.probabilities @ np.abs(table.weights).sum(axis=1) + 1


def rewards(tree, seed=0):
    return np.random.default_rng(seed).standard_normal(tree.vocabulary**tree.length)


def all_prefixes(vocabulary, length):
    return np.array(list(itertools.product(range(vocabulary), repeat=length)), int).reshape(
        vocabulary**length, length
    )


def guess(tree, seed=5):
    return tuple(
        np.random.default_rng(seed).standard_normal(tree.vocabulary**t) for t in range(tree.length)
    )


def with_baseline(make, tree, baseline):
    return make(guess(tree) if baseline == "given" else baseline)


def autograd(student, objective):
    """Value and gradient (P,) of an objective.

    It takes log-probabilities of all sequences, of their tokens (S, T), and conditionals.
    """
    logits = [torch.tensor(z, requires_grad=True) for z in student.logits]
    value = objective(*unrolled(logits))
    return value.item(), np.concatenate(
        [g.numpy().reshape(-1) for g in torch.autograd.grad(value, logits)]
    )


def unrolled(logits):
    """Log-probabilities of all sequences (S,) and of their tokens (S, T), by plain products."""
    rows = [torch.log_softmax(torch.as_tensor(z), -1) for z in logits]
    size = rows[0].shape[1] ** len(rows)
    tokens = torch.stack(
        [row.reshape(-1).repeat_interleave(size // row.numel()) for row in rows], 1
    )
    return tokens.sum(1), tokens


def kl_objective(teacher):
    log_q, _ = unrolled(teacher.logits)
    return lambda log_p, _: (log_p.exp() * (log_p - log_q)).sum()


def all_tables(student, teacher):
    """One table of every kind, by name."""
    old, reward = TokenTree.random(student.vocabulary, student.length, 77), rewards(student)
    tables = {}
    for signal, gamma, baseline in itertools.product(SIGNALS, (0.0, 0.6, 1.0), BASELINES):
        make = functools.partial(reward_to_go, student, teacher, gamma, signal)
        tables[f"{signal} {gamma} {baseline}"] = with_baseline(make, student, baseline)
    tables |= {
        f"full return {signal}": full_return(student, teacher, signal, "value")
        for signal in SIGNALS
    }
    tables |= {
        f"top-k {k} {o}": top_k(student, teacher, k, o)
        for k in (1, student.vocabulary)
        for o in ("renormalize", "drop", "tail")
    }
    return tables | {
        "gae": generalized_advantage(student, teacher, 0.9, 0.7),
        "outcome": outcome(student, reward, 0.8, "optimal"),
        "broadcast": broadcast_outcome(student, reward),
        "mixed": mixed(student, teacher, reward, 0.4, 0.9, "full_vocabulary", "value"),
        "fipo": fipo(student, old, reward, 0.9, 0.2, 0.3),
    }


# Trees ----------------------------------------------------------------------------------


@every_tree
def test_sequences_and_prefixes_in_base_v_order(student, teacher):
    tokens, v = student.tokens(), student.vocabulary
    assert tokens.tolist() == [list(x) for x in itertools.product(range(v), repeat=student.length)]
    assert student.parameters == sum(z.size for z in student.logits)
    for t, chances in enumerate(student.prefix_probabilities()):
        assert chances.shape == (v**t,)
        prefixes = all_prefixes(v, t)
        same(student.log_probabilities_after(prefixes), student.log_probabilities[t])
        row = lambda x: sum(token * v**place for place, token in enumerate(reversed(x)))
        same(
            chances,
            np.array(
                [
                    math.prod(student.probabilities[u][row(x[:u]), x[u]] for u in range(t))
                    for x in prefixes.tolist()
                ],
                float,
            ),
        )
    log_p, log_tokens = unrolled(student.logits)
    same(student.sequence_probabilities(), log_p.exp())
    assert tokens.shape == log_tokens.shape
    same(token_costs(student, teacher), log_tokens - unrolled(teacher.logits)[1], scale=1)


def test_a_policy_and_a_table_are_themselves_alone():
    """Compared by what they hold they would be arrays of truth values, and no key of a dict."""
    tree = pair(2, 2)[0]
    for one, other in (
        (tree, TokenTree(tree.logits)),
        (full_return(tree, tree), full_return(tree, tree)),
        (LazyTree(2, 2, len), LazyTree(2, 2, len)),
    ):
        assert one != other and {one: 1}[one] == 1


def test_repeat_gives_one_row_a_position():
    tree = TokenTree.repeat(P, 3)
    assert [z.shape for z in tree.logits] == [(1, 3), (3, 3), (9, 3)]
    same(np.concatenate(tree.probabilities), np.tile(P, (13, 1)))
    rows = np.array([[0.5, 0.5, 0.0], P])
    same(TokenTree.repeat(rows).probabilities[1], np.tile(P, (3, 1)))
    same(TokenTree.repeat(rows, 2).probabilities[0], rows[:1])
    assert (
        TokenTree.random(2, 3, 5).logits[2].tolist() == TokenTree.random(2, 3, 5).logits[2].tolist()
    )
    assert (
        TokenTree.random(2, 3, 5).logits[2].tolist() != TokenTree.random(2, 3, 6).logits[2].tolist()
    )
    same(TokenTree.random(2, 3, 5, scale=3.0).logits[2], 3 * TokenTree.random(2, 3, 5).logits[2])


# The objective ---------------------------------------------------------------------------


@every_tree
def test_sequence_chain_rule(student, teacher):
    """The KL of two distributions over sequences is E sum r_t, and E sum KL_t."""
    chances, other = student.sequence_probabilities(), teacher.sequence_probabilities()
    same(chances.sum(), 1.0)
    value = float(
        mp.fsum(
            mp.mpf(a) * mp.log(mp.mpf(a) / mp.mpf(b))
            for a, b in zip(chances.tolist(), other.tolist())
        )
    )
    same(sequence_kl(student, teacher), value, scale=1e-3)
    same(chances @ token_costs(student, teacher).sum(axis=1), value, scale=1)
    same(chances @ token_kls(student, teacher).sum(axis=1), value, scale=1)
    same(np.prod([np.exp(x) for x in unrolled(student.logits)[1].T.numpy()], axis=0), chances)


@random_trees
@few
def test_gradient_is_that_of_the_enumerated_objective(vocabulary, length, seed, scale):
    student, teacher = pair(vocabulary, length, seed, scale)
    value, gradient = autograd(student, kl_objective(teacher))
    same(sequence_kl(student, teacher), value, scale=scale)
    same(sequence_kl_gradient(student, teacher), gradient, scale=scale)


@every_tree
def test_gradient_against_finite_differences(student, teacher):
    """Central differences of fourth order along random directions, to 1e-10."""
    draw, gradient, h = np.random.default_rng(0), sequence_kl_gradient(student, teacher), 1e-3

    def value(direction, step):
        return sequence_kl(
            TokenTree([z + step * d for z, d in zip(student.logits, direction)]), teacher
        )

    for _ in range(3):
        direction = [
            draw.standard_normal(z.shape) / math.sqrt(student.parameters) for z in student.logits
        ]
        slope = (
            8 * (value(direction, h) - value(direction, -h))
            - (value(direction, 2 * h) - value(direction, -2 * h))
        ) / (12 * h)
        np.testing.assert_allclose(
            slope,
            gradient @ np.concatenate([d.reshape(-1) for d in direction]),
            rtol=1e-10,
            atol=1e-10,
        )


@every_tree
def test_gkd_future_coupling(student, teacher):
    """With the visited prefixes held fixed the local gradient is left; with the KLs, the rest."""

    def halves(log_p, tokens, prefixes_fixed):
        before = tokens.cumsum(1) - tokens
        kls = torch.tensor(token_kls(student, teacher))
        if (
            prefixes_fixed
        ):  # E over fixed prefixes of KL_t, which is E_a of the differentiated log-ratio
            ratio = tokens - unrolled(teacher.logits)[1]
            later = (log_p[:, None] - before - tokens).detach()
            return (before.detach().exp() * (tokens.exp() * ratio) * later.exp()).sum()
        return ((before + (log_p[:, None] - before).detach()).exp() * kls).sum()

    local, future = decomposition(student, teacher)
    same(local, autograd(student, lambda *x: halves(*x, True))[1], scale=1)
    if student.length > 1:
        same(future, autograd(student, lambda *x: halves(*x, False))[1], scale=1)
    same(local + future, sequence_kl_gradient(student, teacher), scale=1)
    same(on_policy_gkd_gradient(student, teacher), local)
    if student.vocabulary > 1 and student.length > 1:
        assert np.abs(future).max() > 1e-5  # what on-policy GKD leaves out


# Sampled estimators ------------------------------------------------------------------------


@every_tree
def test_rows_are_weighted_scores(student, teacher):
    """Row tau of a table is sum_t W_t grad log p(a_t|s_t), by autograd for each sequence."""
    weights = np.random.default_rng(3).standard_normal(
        (student.vocabulary**student.length, student.length)
    )
    dense = SequenceTable(student, weights).dense()
    assert dense.shape == (len(weights), student.parameters)
    for row in np.random.default_rng(4).integers(len(weights), size=5):
        weight = torch.tensor(weights[row])
        _, gradient = autograd(student, lambda _, tokens, row=row, w=weight: tokens[row] @ w)
        same(dense[row], gradient, scale=1)


@every_tree
def test_moments_without_the_table_are_those_of_the_table(student, teacher):
    for name, table in all_tables(student, teacher).items():
        dense = table.dense()
        scale = np.abs(table.weights).max() + 1
        same(table.expectation(), estimators.expectation(table.probabilities, dense), scale=scale)
        (
            same(
                table.total_variance(),
                estimators.total_variance(table.probabilities, dense),
                scale=scale**2,
            ),
            name,
        )
        gradient = sequence_kl_gradient(student, teacher)
        same(table.bias(gradient), table.expectation() - gradient)
        same(
            table.mean_squared_error(gradient, 7),
            (table.bias(gradient) ** 2).sum() + table.total_variance() / 7,
        )


@every_signal
@random_trees
@few
def test_reward_to_go_for_random_trees(signal, vocabulary, length, seed, scale):
    student, teacher = pair(vocabulary, length, seed, scale)
    gradient = sequence_kl_gradient(student, teacher)
    for baseline in BASELINES:
        table = with_baseline(
            lambda b: reward_to_go(student, teacher, 1.0, signal, b), student, baseline
        )
        same(table.expectation(), gradient, scale=terms(table))


@every_signal
@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("vocabulary, length", SIZES + [(2, 6), (3, 6)])
def test_reward_to_go(vocabulary, length, signal, baseline):
    student, teacher = pair(vocabulary, length)
    gradient = sequence_kl_gradient(student, teacher)
    for make in (
        lambda b: reward_to_go(student, teacher, 1.0, signal, b),
        lambda b: full_return(student, teacher, signal, b),
    ):
        table = with_baseline(make, student, baseline)
        same(table.expectation(), gradient, scale=terms(table))
    if student.parameters < 200:
        probabilities, dense = reward_to_go_table(student, teacher, 1.0, signal)
        same(probabilities @ dense, gradient, scale=1)


@every_signal
@pytest.mark.parametrize("baseline", BASELINES)
@every_tree
def test_pg_zero_gamma_is_gkd(student, teacher, signal, baseline):
    table = with_baseline(
        lambda b: reward_to_go(student, teacher, 0.0, signal, b), student, baseline
    )
    same(table.expectation(), on_policy_gkd_gradient(student, teacher), scale=terms(table))


@every_signal
@every_tree
def test_discounted_return(student, teacher, signal):
    """G_t term by term, and the table as a sum of gamma**k times the costs of lag k."""
    costs, kls, length = token_costs(student, teacher), token_kls(student, teacher), student.length
    others = costs if signal == "sampled" else kls
    for gamma in GAMMAS:
        expected = [
            [sum(gamma ** (u - t) * row[u] for u in range(t, length)) for t in range(length)]
            for row in costs
        ]
        same(discounted_return(costs, gamma), expected, scale=1)
        weights = reward_to_go(student, teacher, gamma, signal).weights
        for t in range(length):
            own = 0.0 if signal == "full_vocabulary" else costs[:, t]
            same(
                weights[:, t],
                own + sum(gamma ** (u - t) * others[:, u] for u in range(t + 1, length)),
                scale=10,
            )
    everything = full_return(student, teacher, signal).weights
    for t in range(length):
        own = 0.0 if signal == "full_vocabulary" else costs[:, t]
        same(everything[:, t], own + sum(others[:, u] for u in range(length) if u != t), scale=10)


@every_tree
def test_past_terms_vanish(student, teacher):
    """E[r_u grad log p(a_t|s_t)] = 0 for u < t, and each pair of them adds variance."""
    costs = token_costs(student, teacher)
    for t in range(student.length):
        for u in range(t):
            weights = np.zeros_like(costs)
            weights[:, t] = costs[:, u]
            table = SequenceTable(student, weights)
            same(table.expectation(), np.zeros(student.parameters), scale=terms(table))
            assert student.vocabulary == 1 or table.total_variance() > 1e-5
            weights[:, t], weights[:, u] = 0, costs[:, t]  # the other way round it does not vanish
            assert (
                student.vocabulary == 1
                or np.abs(SequenceTable(student, weights).expectation()).max() > 1e-6
            )


@every_tree
def test_token_level_bias(student, teacher):
    """Keeping r_t alone loses E sum_t sum_{u>t} r_u grad log p(a_t|s_t)."""
    costs = token_costs(student, teacher)
    later = costs[:, ::-1].cumsum(axis=1)[:, ::-1] - costs
    lost = SequenceTable(student, later).expectation()
    same(
        reward_to_go(student, teacher, 0.0).bias(sequence_kl_gradient(student, teacher)),
        -lost,
        scale=10,
    )
    same(lost, decomposition(student, teacher)[1], scale=10)
    assert (np.abs(lost).max() > 1e-5) == (student.length > 1 and student.vocabulary > 1)


@every_tree
def test_two_meanings_of_unbiased(student, teacher):
    """The immediate estimate is unbiased for each prefix's KL, and biased for the sequence's."""
    table, start = reward_to_go(student, teacher, 0.0), 0
    mean = table.expectation()
    for p, q, visit in zip(
        student.probabilities, teacher.probabilities, student.prefix_probabilities()
    ):
        block = mean[start : start + p.size].reshape(p.shape)
        same(block / visit[:, None], objectives.reverse_kl_logit_gradient(p, q), scale=1)
        start += p.size
    biased = np.abs(table.bias(sequence_kl_gradient(student, teacher))).max() > 1e-5
    assert biased == (student.length > 1 and student.vocabulary > 1)


def test_sequence_score_identity():
    """E grad R = 0 over all sequences, not over a finite sample."""
    student, _ = pair(3, 3)
    scores = SequenceTable(
        student, np.ones((27, 3))
    )  # grad R(tau) = grad log p(tau): the teacher's part is constant
    same(scores.expectation(), np.zeros(student.parameters), scale=1)
    same(scores.dense()[5], autograd(student, lambda log_p, _: log_p[5])[1], scale=1)
    draws = np.random.default_rng(0).choice(27, size=1000, p=student.sequence_probabilities())
    mean = scores.dense()[draws].mean(axis=0)
    error = (mean**2).sum() / (scores.total_variance() / 1000)
    assert 0.1 < error < 3  # one over the root of N, as the variance says


# Signals, baselines, advantages -------------------------------------------------------------


@every_tree
def test_rao_blackwell_return(student, teacher):
    """Exact KLs in the place of sampled costs: unbiased, without any variance at T = 1."""
    exact = sequence_kl_gradient(student, teacher)
    table = reward_to_go(student, teacher, 1.0, "full_vocabulary")
    same(table.expectation(), exact, scale=terms(table))
    # Each KL is the mean of the costs it replaces, prefix by prefix.
    for kl, mean in zip(
        token_kls(student, teacher).T, state_values(student, token_costs(student, teacher), 0.0)
    ):
        same(kl, np.repeat(mean, len(kl) // len(mean)), scale=1)
    immediate = {
        signal: reward_to_go(student, teacher, 0.0, signal).total_variance() for signal in SIGNALS
    }
    assert immediate["full_vocabulary"] <= immediate["sampled"] * (1 + 1e-12)
    same(immediate["full_vocabulary_future"], immediate["sampled"])
    if student.length == 1:
        assert table.total_variance() == 0.0


def test_exact_kls_can_raise_the_variance():
    """Where a token's cost is made good by the next, the drawn costs cancel and the KLs do not."""
    row = lambda a, b: np.array(
        [math.exp(-a) / 2, math.exp(-b) / 2, 1 - math.exp(-a) / 2 - math.exp(-b) / 2]
    )  # costs a, b
    student = TokenTree.repeat([0.5, 0.5, 0.0], 3)
    last = [row(0.4, 0.4) if prefix % 3 == 0 else row(1.6, 1.6) for prefix in range(9)]
    teacher = TokenTree([np.log(x) for x in ([row(1, 1)], [row(1.6, 0.4)] * 3, last)])
    same(
        token_costs(student, teacher)[student.sequence_probabilities() > 0].sum(axis=1),
        np.full(8, 3.0),
    )
    plain, based = (
        [reward_to_go(student, teacher, 1.0, signal, b).total_variance() for signal in SIGNALS]
        for b in (None, "value")
    )
    same(plain, [7.18, 2.68, 7.36])  # sampled, full_vocabulary, full_vocabulary_future
    same(based, [0.0, 0.18, 0.18])


def test_one_position_agrees_with_estimators():
    for v in (1, 2, 4):
        student, teacher = pair(v, 1, seed=v)
        p, q = student.probabilities[0][0], teacher.probabilities[0][0]
        reward = rewards(student)
        for table, expected in (
            (reward_to_go(student, teacher, 0.4), estimators.policy_gradient(p, q)),
            (
                reward_to_go(student, teacher, 1.0, baseline=0.3),
                estimators.policy_gradient(p, q, 0.3),
            ),
            (
                reward_to_go(student, teacher, 1.0, baseline="value"),
                estimators.policy_gradient(p, q, float(objectives.reverse_kl(p, q))),
            ),
            (
                reward_to_go(student, teacher, 1.0, baseline="optimal"),
                estimators.policy_gradient(p, q, estimators.optimal_baseline(p, q)),
            ),
            (reward_to_go(student, teacher, 1.0, "full_vocabulary"), estimators.gkd(p, q)),
            (
                reward_to_go(student, teacher, 1.0, "full_vocabulary_future"),
                estimators.policy_gradient(p, q),
            ),
            (full_return(student, teacher), estimators.policy_gradient(p, q)),
            (
                mixed(student, teacher, reward, 0.7),
                estimators.mixed_policy_gradient(p, q, reward, 0.7),
            ),
            (
                top_k(student, teacher, 1, "drop"),
                np.tile(objectives.top_k_reverse_kl_logit_gradient(p, q, 1, "drop"), (v, 1)),
            ),
        ):
            same(table.dense(), expected, scale=1)
            same(table.probabilities, p)
            same(table.total_variance(), estimators.total_variance(p, expected), scale=1)


@every_signal
@every_tree
def test_optimal_baseline_is_the_minimum(student, teacher, signal):
    for gamma in (0.0, 0.7, 1.0):
        least = reward_to_go(student, teacher, gamma, signal, "optimal").total_variance()
        for baseline in (None, 0.7, -0.5, "value", guess(student)):
            assert (
                least
                <= reward_to_go(student, teacher, gamma, signal, baseline).total_variance() + 1e-12
            )
    # Stationary at every prefix: a step either way costs the same, step**2 visit(s) E|score|**2.
    best = reward_to_go(student, teacher, 0.7, signal, "optimal")
    for t, (p, visit) in enumerate(zip(student.probabilities, student.prefix_probabilities())):
        step, prefix = 0.5, len(p) // 2
        moved = np.zeros_like(best.weights)
        moved.reshape(len(p), -1, student.length)[prefix, :, t] = step
        for sign in (-1, 1):
            rise = (
                SequenceTable(student, best.weights + sign * moved, best.local).total_variance()
                - best.total_variance()
            )
            same(
                rise,
                step**2 * visit[prefix] * (1 - p[prefix] @ p[prefix]),
                scale=max(1, best.total_variance()),
            )


@every_signal
def test_value_baseline_is_the_mean_of_the_weight(signal):
    student, teacher = pair(3, 3)
    plain, based = (reward_to_go(student, teacher, 0.8, signal, b) for b in (None, "value"))
    chances, tokens = student.sequence_probabilities(), student.tokens()
    for t in range(3):
        for prefix in itertools.product(range(3), repeat=t):
            passing = (tokens[:, :t] == prefix).all(axis=1)
            mean = chances[passing] @ plain.weights[passing, t] / chances[passing].sum()
            same(based.weights[passing, t], plain.weights[passing, t] - mean, scale=1)


@every_tree
def test_classical_rl(student, teacher):
    """REINFORCE with reward-to-go, a baseline and GAE: unbiased just where the textbooks say."""
    exact, costs = sequence_kl_gradient(student, teacher), token_costs(student, teacher)
    chances, size = student.sequence_probabilities(), len(costs)
    values = state_values(student, costs, 0.9)
    for t, value in enumerate(values):
        returns = discounted_return(costs, 0.9)[:, t].reshape(len(value), -1)
        weights = chances.reshape(len(value), -1)
        same(value, (weights * returns).sum(axis=1) / weights.sum(axis=1), scale=1)
    one = [state_values(student, costs, 1.0), guess(student)]
    for lam in GAMMAS:
        table = generalized_advantage(student, teacher, 1.0, lam)
        same(table.expectation(), exact, scale=terms(table))
        same(generalized_advantage(student, teacher, 1.0, lam, one[0]).weights, table.weights)
    table = generalized_advantage(student, teacher, 1.0, 1.0, one[1])
    same(table.expectation(), exact, scale=terms(table))
    if student.length > 1 and student.vocabulary > 1:
        assert (
            np.abs(generalized_advantage(student, teacher, 1.0, 0.5, one[1]).bias(exact)).max()
            > 1e-3
        )
    # Term by term, with the value after the last token 0.
    along = np.stack(
        [np.repeat(v, size // len(v)) for v in guess(student)] + [np.zeros(size)], axis=1
    )
    surprise = costs + 0.9 * along[:, 1:] - along[:, :-1]
    expected = [
        [
            sum((0.9 * 0.6) ** (u - t) * row[u] for u in range(t, student.length))
            for t in range(student.length)
        ]
        for row in surprise
    ]
    same(
        generalized_advantage(student, teacher, 0.9, 0.6, guess(student)).weights,
        expected,
        scale=10,
    )
    # lam = 1 is the return less the value, lam = 0 the one-step surprise.
    same(
        generalized_advantage(student, teacher, 0.9, 1.0).weights,
        reward_to_go(student, teacher, 0.9, baseline="value").weights,
        scale=10,
    )
    same(
        generalized_advantage(student, teacher, 0.9, 0.0, guess(student)).weights,
        surprise,
        scale=10,
    )


# Rewards at the end ---------------------------------------------------------------------------


@every_tree
def test_rlvr_terminal(student, teacher):
    """A terminal reward gives every token the same weight at gamma = 1: the gradient of -E[R]."""
    reward = rewards(student)
    table = outcome(student, reward)
    same(table.weights, np.repeat(-reward[:, None], student.length, axis=1))
    _, gradient = autograd(student, lambda log_p, _: -(log_p.exp() * torch.tensor(reward)).sum())
    for baseline in BASELINES:
        table = with_baseline(lambda b: outcome(student, reward, baseline=b), student, baseline)
        same(table.expectation(), gradient, scale=terms(table))
    # Discounted, it is the return of a reward paid at the last token.
    paid = np.zeros_like(table.weights)
    paid[:, -1] = -reward
    same(outcome(student, reward, 0.7).weights, discounted_return(paid, 0.7))


@every_tree
def test_rlvr_broadcast(student, teacher):
    """The reward given again at each token: the return (T - t + 1) R, larger earlier on."""
    reward = rewards(student)
    weights = broadcast_outcome(student, reward).weights
    same(weights, discounted_return(np.repeat(-reward[:, None], student.length, axis=1), 1.0))
    for t in range(1, student.length + 1):
        same(weights[:, t - 1], -(student.length - t + 1) * reward)


@every_signal
@every_tree
def test_mixed_is_the_gradient_of_the_mixed_objective(student, teacher, signal):
    reward, alpha, kl = rewards(student), 0.7, kl_objective(teacher)
    _, gradient = autograd(
        student,
        lambda log_p, tokens: (
            kl(log_p, tokens) - alpha * (log_p.exp() * torch.tensor(reward)).sum()
        ),
    )
    for baseline in BASELINES:
        table = with_baseline(
            lambda b: mixed(student, teacher, reward, alpha, signal=signal, baseline=b),
            student,
            baseline,
        )
        same(table.expectation(), gradient, scale=terms(table))
    parts = (
        reward_to_go(student, teacher, 0.6, signal).weights
        + alpha * outcome(student, reward, 0.6).weights
    )
    same(mixed(student, teacher, reward, alpha, 0.6, signal).weights, parts, scale=10)


@every_tree
def test_fipo(student, teacher):
    """FutureKL by its sum, the weight by its clip; at student = old it does nothing."""
    old, reward, gamma = teacher, rewards(student), 0.8
    ratio = np.exp((unrolled(student.logits)[1] - unrolled(old.logits)[1]).numpy())
    limit = float(np.median(ratio)) if student.vocabulary > 1 else 10.0
    mask = ratio <= limit * (1 + 1e-9)
    expected = [
        [
            sum(gamma ** (u - t) * m[u] * math.log(x[u]) for u in range(t, len(x)))
            for t in range(len(x))
        ]
        for x, m in zip(ratio, mask)
    ]
    same(future_kl(student, old, gamma, limit * (1 + 1e-9)), expected, scale=10)
    weight = fipo_weight(student, old, gamma, 0.2, 0.4)
    unclipped = np.exp(future_kl(student, old, gamma))
    assert (weight == np.minimum(np.maximum(unclipped, 1 - 0.2), 1 + 0.4)).all()
    if student.vocabulary > 1:
        assert weight.min() == 0.8 and weight.max() == 1.4 and not mask.all()
    drawn_by = old.sequence_probabilities()
    table = fipo(student, old, reward, gamma, 0.2, 0.4)
    same(table.weights, -ratio * weight * (reward - drawn_by @ reward)[:, None], scale=10)
    same(table.probabilities, drawn_by)
    same(table.expectation(), drawn_by @ table.dense(), scale=terms(table))

    still = fipo(student, student, reward, gamma, 0.2, 0.4)
    assert (fipo_weight(student, student, gamma, 0.2, 0.4) == 1).all()
    same(
        still.weights,
        outcome(
            student, reward, baseline=float(-(student.sequence_probabilities() @ reward))
        ).weights,
        scale=10,
    )
    same(still.expectation(), outcome(student, reward).expectation(), scale=10)


def test_a_ratio_counts_up_to_its_limit():
    student, old = TokenTree.repeat([0.5, 0.5], 2), TokenTree.repeat([0.25, 0.75], 2)
    ratio = float(np.exp(student.log_probabilities[0] - old.log_probabilities[0])[0, 0])
    # Not at the limit itself: log(exp(x)) is x within rounding only.
    below = future_kl(student, old, 0.0, ratio * (1 + 1e-12))[0, 0]
    np.testing.assert_allclose(below, math.log(ratio), rtol=1e-14)
    assert future_kl(student, old, 0.0, ratio * (1 - 1e-12))[0, 0] == 0.0


def test_what_is_taken_where_nothing_is_said():
    student, old = pair(2, 3, seed=3, scale=3.0)
    calls = (
        lambda **limit: future_kl(student, old, 0.9, **limit),
        lambda **limit: fipo_weight(student, old, 0.9, 0.5, 40.0, **limit),
        lambda **limit: fipo(student, old, rewards(student), 0.9, 0.5, 40.0, **limit).weights,
    )
    for call in calls:
        same(call(), call(ratio_limit=10.0))
        assert all(np.abs(call() - call(ratio_limit=limit)).max() > 0 for limit in (5.0, 20.0))
    for call in (
        lambda *gamma: outcome(student, rewards(student), *gamma),
        lambda *gamma: mixed(student, old, rewards(student), 0.4, *gamma),
    ):
        same(call().weights, call(1.0).weights)
    np.testing.assert_array_equal(
        TokenTree.random(2, 2, 1).logits[1], TokenTree.random(2, 2, 1, 3.0).logits[1] / 3
    )


def test_variance_of_a_nearly_certain_student_keeps_its_digits():
    first, second = (
        [-20.0, 25.0],
        [[0.0, -1.0], [0.3, 0.0]],
    )  # the second prefix is passed with 1 - 3e-20
    student, teacher = (
        TokenTree([[first], second]),
        TokenTree([[[0.0, 0.0]], [[1.0, 0.0], [0.0, 2.0]]]),
    )
    for table in (
        reward_to_go(student, teacher, gamma, signal) for gamma in (0.0, 1.0) for signal in SIGNALS
    ):
        with mp.workdps(60):
            softmax = lambda row: [mp.exp(z) / mp.fsum(map(mp.exp, row)) for z in row]
            p, branches = softmax(first), [softmax(row) for row in second]
            chances = [p[a] * branches[a][b] for a in (0, 1) for b in (0, 1)]
            local = [
                part.tolist() for part in (table.local or [np.zeros((1, 2)), np.zeros((2, 2))])
            ]
            rows = []
            for (a, b), (early, late) in zip(
                [(0, 0), (0, 1), (1, 0), (1, 1)], table.weights.tolist()
            ):
                row = [mp.mpf(early) * ((a == j) - p[j]) + local[0][0][j] for j in (0, 1)] + [
                    mp.mpf(0)
                ] * 4
                row[2 + 2 * a : 4 + 2 * a] = [
                    mp.mpf(late) * ((b == j) - branches[a][j]) + local[1][a][j] for j in (0, 1)
                ]
                rows.append(row)
            mean = [mp.fsum(c * row[j] for c, row in zip(chances, rows)) for j in range(6)]
            variance = float(
                mp.fsum(
                    c * (row[j] - mean[j]) ** 2 for c, row in zip(chances, rows) for j in range(6)
                )
            )
        same(
            table.total_variance(), variance, scale=variance
        )  # below 1e-18 for the full vocabulary at gamma = 0


def test_fipo_where_one_policy_bars_a_token():
    student, old = TokenTree.repeat([0.5, 0.5, 0.0], 2), TokenTree.repeat([0.5, 0.0, 0.5], 2)
    assert future_kl(student, old, 0.5)[2].tolist() == [-np.inf, -np.inf]  # tokens 0, 2
    assert future_kl(student, old, 0.0)[2].tolist() == [0.0, -np.inf]
    assert fipo_weight(student, old, 0.5, 0.2, 0.2)[2].tolist() == [0.8, 0.8]
    table = fipo(student, old, np.arange(9.0), 0.5, 0.2, 0.2)
    assert np.isfinite(table.weights).all() and np.isfinite(table.total_variance())
    same(table.weights[0], [4 * 0.0 + 4.0, 4.0])  # R - E R = 0 - 4, both ratios and weights 1


# Top-K ---------------------------------------------------------------------------------------


@every_tree
def test_top_k(student, teacher):
    """At each prefix the gradient of the truncated KL; all tokens kept, it is on-policy GKD."""
    rows = student.probabilities, teacher.probabilities
    for outside in ("renormalize", "drop", "tail"):
        for k in range(1, student.vocabulary + 1):
            table = top_k(student, teacher, k, outside)
            expected = [
                visit[:, None] * objectives.top_k_reverse_kl_logit_gradient(p, q, k, outside)
                for p, q, visit in zip(*rows, student.prefix_probabilities())
            ]
            same(table.expectation(), np.concatenate([x.reshape(-1) for x in expected]), scale=1)
            off = np.abs(table.expectation() - on_policy_gkd_gradient(student, teacher)).max()
            # One token left over is a bucket of its own.
            everything = k + (outside == "tail") >= student.vocabulary
            assert off < 1e-13 if everything else off > 1e-3
    whole = top_k(student, teacher, student.vocabulary, "renormalize")
    same(
        whole.total_variance(),
        reward_to_go(student, teacher, 0.0, "full_vocabulary").total_variance(),
        scale=1,
    )


# Bias against variance -------------------------------------------------------------------------


@every_signal
@every_tree
def test_bias_variance(student, teacher, signal):
    """Both are polynomials in gamma; no bias at gamma = 1; the best gamma is a dense grid's."""
    squared_bias, variance = bias_variance_polynomials(student, teacher, signal)
    assert squared_bias.shape == variance.shape == (2 * student.length - 1,)
    gradient = sequence_kl_gradient(student, teacher)
    scale = np.abs(variance).sum() + np.abs(squared_bias).sum()
    for gamma in (0.0, 0.2, 0.55, 0.9, 1.0):
        table = reward_to_go(student, teacher, gamma, signal)
        same(np.polynomial.polynomial.polyval(gamma, variance), table.total_variance(), scale=scale)
        same(
            np.polynomial.polynomial.polyval(gamma, squared_bias),
            (table.bias(gradient) ** 2).sum(),
            scale=scale + 1e-3,
        )
    same(squared_bias.sum(), 0.0, scale=scale)
    grid = np.linspace(0, 1, 20001)
    for samples in (1, 30, 1000, 1e6):
        error = np.polynomial.polynomial.polyval(grid, squared_bias + variance / samples)
        best = best_gamma(student, teacher, samples, signal)
        assert isinstance(best, float) and 0 <= best <= 1
        assert best == 0 or student.length > 1  # the first of all that are equal
        assert (
            np.polynomial.polynomial.polyval(best, squared_bias + variance / samples)
            <= error.min() + 1e-13 * scale
        )
        same(
            reward_to_go(student, teacher, best, signal).mean_squared_error(gradient, samples),
            error.min(),
            scale=scale + 1e-3,
            tolerance=1e-8,
        )


@every_signal
def test_best_gamma_where_the_future_is_out_of_sight(signal):
    """Saturated rows: the highest powers of gamma have coefficients near the smallest float."""
    student, teacher = pair(3, 4, 469, 10.0 ** np.random.default_rng(469).uniform(2, 4))
    assert (bias_variance_polynomials(student, teacher, signal)[1] != 0).any()
    assert 0 <= best_gamma(student, teacher, 1, signal) <= 1


def test_the_bias_falls_and_the_variance_rises_on_the_notes_example():
    student, teacher = TokenTree.repeat(P, 4), TokenTree.random(3, 4, 8)
    grid = np.linspace(0, 1, 101)
    squared_bias, variance = (
        np.polynomial.polynomial.polyval(grid, c)
        for c in bias_variance_polynomials(student, teacher)
    )
    assert (np.diff(squared_bias) < 0).all() and (np.diff(variance) > 0).all()
    gammas = [best_gamma(student, teacher, n) for n in (1, 10, 100, 1000, 10_000)]
    assert gammas == sorted(gammas) and 0 < gammas[1] < gammas[-1] < 1


@every_signal
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_independent_variance_is_that_of_the_tree_with_tied_rows(signal, causal, seed):
    """One row of logits a position: the table's columns of a position added over its prefixes."""
    draw = np.random.default_rng(seed)
    for length, v in ((1, 3), (2, 2), (4, 3), (5, 2), (3, 1)):
        student, teacher = (
            x / x.sum(axis=1, keepdims=True) for x in draw.random((2, length, v)) + 0.05
        )
        trees = TokenTree.repeat(student), TokenTree.repeat(teacher)
        for gamma in GAMMAS if causal else (1.0,):
            table = reward_to_go(*trees, gamma, signal) if causal else full_return(*trees, signal)
            dense, columns, start = table.dense(), [], 0
            for t in range(length):
                columns.append(
                    dense[:, start : start + v ** (t + 1)].reshape(len(dense), v**t, v).sum(axis=1)
                )
                start += v ** (t + 1)
            expected = estimators.total_variance(
                table.probabilities, np.concatenate(columns, axis=1)
            )
            same(independent_variance(student, teacher, gamma, signal, causal), expected, scale=1)
            # One row for all positions: only the sampled full return feels it.
            expected = estimators.total_variance(table.probabilities, sum(columns))
            same(
                independent_variance(student, teacher, gamma, signal, causal, shared=True),
                expected,
                scale=1,
            )
            if causal or signal != "sampled":
                same(
                    independent_variance(student, teacher, gamma, signal, causal), expected, scale=1
                )


def test_what_neither_or_the_student_alone_bars_counts_for_nothing_at_any_length():
    rows = np.array([[0.25, 0.75], [0.5, 0.5]]), np.array([[0.5, 0.5], [0.125, 0.875]])
    student, teacher = (np.pad(one, ((0, 0), (0, 2))) for one in rows)
    teacher[:, 3], teacher[:, :2] = 0.5, teacher[:, :2] / 2  # the student alone
    for signal, causal in itertools.product(SIGNALS, (True, False)):
        table = (
            reward_to_go(TokenTree.repeat(student), TokenTree.repeat(teacher), 1.0, signal)
            if causal
            else full_return(TokenTree.repeat(student), TokenTree.repeat(teacher), signal)
        )
        first, second = np.split(table.dense(), [4], axis=1)
        tied = np.hstack([first, second.reshape(len(second), 4, 4).sum(axis=1)])
        expected = estimators.total_variance(table.probabilities, tied)
        same(independent_variance(student, teacher, 1.0, signal, causal), expected, scale=1)


def test_variance_exponents():
    """Growth with T on the notes' p, q: T at gamma = 0, towards T**3 for the full return."""
    lengths = [4, 8, 16, 32, 64]
    slopes = {
        (gamma, causal): growth_exponents(
            lengths,
            [
                independent_variance(np.tile(P, (n, 1)), np.tile(Q, (n, 1)), gamma, causal=causal)
                for n in lengths
            ],
        )
        for gamma, causal in ((0, True), (0.5, True), (0.9, True), (1, True), (1, False))
    }
    same(slopes[0, True], np.ones(4), tolerance=1e-11)
    for key, first, last in (
        ((0.5, True), 1.26, 1.05),
        ((0.9, True), 2.2, 1.4),
        ((1, True), 2.6, 2.94),
        ((1, False), 2.84, 2.97),
    ):
        assert abs(slopes[key][0] - first) < 0.05 and abs(slopes[key][-1] - last) < 0.05
    assert all((slopes[key] < 3).all() for key in slopes)
    shared = [
        independent_variance(np.tile(P, (n, 1)), np.tile(Q, (n, 1)), 1, causal=False, shared=True)
        for n in lengths
    ]
    assert [round(x, 2) for x in growth_exponents(lengths, shared)[[0, -1]]] == [2.76, 2.94]
    same(growth_exponents([1, 2, 8], [5, 40, 40 * 4**0.5]), [3.0, 0.5])


@pytest.mark.parametrize("seed", range(10))
def test_variance_bounds(seed):
    """|r| <= B_r and |score| <= B_s bound the variance.

    T**2 at gamma = 0, T**2 (T+1)/2 to go, T**3 for the full return; T**4 has room.
    """
    student, teacher = pair(2 + seed % 2, 4 + seed % 3, seed, scale=2.0)
    costs, length = token_costs(student, teacher), student.length
    unit = np.abs(costs).max() ** 2 * max(
        (1 - 2 * p + (p**2).sum(axis=1, keepdims=True)).max() for p in student.probabilities
    )
    second = lambda table: table.total_variance() + (table.expectation() ** 2).sum()
    for gamma in GAMMAS:
        bound = length * sum(gamma ** (2 * j) for u in range(length) for j in range(u + 1))
        assert second(reward_to_go(student, teacher, gamma)) <= bound * unit
        assert (
            bound <= length**2 / (1 - gamma**2)
            if gamma < 1
            else bound == length**2 * (length + 1) / 2
        )
    assert second(full_return(student, teacher)) <= length**3 * unit


# Sampling ------------------------------------------------------------------------------------


@every_signal
@pytest.mark.parametrize("gamma", [0.0, 0.7, 1.0])
def test_sampling_agrees_with_enumeration(signal, gamma):
    student, teacher = pair(3, 4, seed=2, scale=1.0)
    exact, runs = reward_to_go(student, teacher, gamma, signal), []
    mean, start = [], 0
    for z in student.logits:
        mean.append(exact.expectation()[start : start + z.size].reshape(z.shape))
        start += z.size
    for seed in range(40):
        found = sample_estimate(student, teacher, gamma, signal, 2000, seed)
        runs.append(
            [
                found["kl"],
                found["variance"],
                found["kl_standard_error"],
                found["variance_standard_error"],
            ]
        )
        for t, (prefixes, block, error) in enumerate(
            zip(found["prefixes"], found["gradient"], found["gradient_standard_error"])
        ):
            rows = prefixes @ 3 ** np.arange(t)[::-1]
            often = student.prefix_probabilities()[t][rows] > 0.1
            assert (np.abs(block - mean[t][rows]) <= 5.5 * error + 1e-12)[often].all()
    kl, variance, kl_error, variance_error = np.array(runs).T
    for values, errors, truth in (
        (kl, kl_error, sequence_kl(student, teacher)),
        (variance, variance_error, exact.total_variance()),
    ):
        assert (np.abs(values - truth) <= 5 * errors).all()
        assert abs(values.mean() - truth) <= 5 * errors.mean() / math.sqrt(40)
        # The standard errors are the spread over the runs, which 40 runs know to 11 in 100.
        assert 0.6 < values.std(ddof=1) / errors.mean() < 1.5


def test_two_draws_have_the_variance_in_the_mean():
    """So the divisors are N - 1: with N each would be half."""
    student, teacher = pair(2, 3, seed=4, scale=0.3)
    runs = [sample_estimate(student, teacher, 1.0, "sampled", 2, seed) for seed in range(800)]
    costs = token_costs(student, teacher).sum(axis=1)
    spread = student.sequence_probabilities() @ (costs - sequence_kl(student, teacher)) ** 2
    for values, exact in (
        ([run["variance"] for run in runs], reward_to_go(student, teacher, 1.0).total_variance()),
        ([2 * run["kl_standard_error"] ** 2 for run in runs], spread),
    ):
        error = np.std(values, ddof=1) / math.sqrt(len(runs))
        assert error < exact / 12 and abs(np.mean(values) - exact) < 4 * error


def test_sampled_blocks_are_spread_as_they_say():
    student, teacher = pair(2, 3, seed=4)
    runs = [sample_estimate(student, teacher, 1.0, "sampled", 500, seed) for seed in range(60)]
    for t in range(3):
        blocks = np.array([run["gradient"][t] for run in runs if len(run["prefixes"][t]) == 2**t])
        errors = np.array(
            [run["gradient_standard_error"][t] for run in runs if len(run["prefixes"][t]) == 2**t]
        )
        assert len(blocks) > 50
        ratio = blocks.std(axis=0, ddof=1) / errors.mean(axis=0)
        assert (ratio > 0.6).all() and (ratio < 1.5).all()


def test_standard_error_counts_the_rows_that_pass_by():
    """A gradient that is the same whenever its prefix is passed, by a share f of the sequences.

    It varies by f(1 - f)/(N - 1) of its square.
    """
    student, teacher = pair(3, 3, seed=6)
    found = sample_estimate(student, teacher, 0.0, "full_vocabulary", 300, 0)
    for t, (prefixes, block, error) in enumerate(
        zip(found["prefixes"], found["gradient"], found["gradient_standard_error"])
    ):
        rows = prefixes @ 3 ** np.arange(t)[::-1]
        local = np.array(
            [
                objectives.reverse_kl_logit_gradient(
                    student.probabilities[t][s], teacher.probabilities[t][s]
                )
                for s in rows
            ]
        )
        share = block[:, :1] / local[:, :1]
        same(share.sum(), 1.0)
        same(block, share * local, scale=1)
        same(
            error,
            np.abs(local) * np.sqrt(np.clip(share * (1 - share), 0, None) / 299),
            scale=1,
            tolerance=1e-8,
        )


def test_lazy_tree_is_a_tree():
    lazy = LazyTree.random(3, 4, seed=7, scale=1.5)
    prefixes = [all_prefixes(3, t) for t in range(4)]
    tree = TokenTree([lazy.log_probabilities_after(x) for x in prefixes])
    other = TokenTree([LazyTree.random(3, 4, seed=8).log_probabilities_after(x) for x in prefixes])
    assert np.abs(tree.logits[3] - other.logits[3]).max() > 1
    logits = np.concatenate(
        [
            lazy.logits_after(np.column_stack([np.full(999, 2), np.arange(999)])),
            LazyTree.random(3, 4, 9, 1.5).logits_after(prefixes[3]),
        ]
    )
    assert (
        abs(logits.mean()) < 0.1
        and abs(logits.std() - 1.5) < 0.1
        and len(np.unique(logits)) == logits.size
    )
    found = sample_estimate(lazy, other, 0.9, "sampled", 3000, 1)
    again = sample_estimate(tree, other, 0.9, "sampled", 3000, 1)
    same(found["kl"], again["kl"])
    same(found["variance"], again["variance"])
    assert abs(found["kl"] - sequence_kl(tree, other)) < 5 * found["kl_standard_error"]


def test_each_logit_of_a_lazy_tree_has_two_hashed_numbers_of_its_own():
    """Box and Muller on splitmix64, in Python's whole numbers."""

    def scrambled(x):
        x = (x * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) % 2**64
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % 2**64
        return x ^ (x >> 31)

    key = int(np.random.SeedSequence(7).generate_state(1, np.uint64)[0])
    for token in (2, 0):
        key = scrambled(key ^ (token + 1))
    shares = [((scrambled((key + n) % 2**64) >> 11) + 0.5) / 2**53 for n in range(1, 7)]
    pairs = zip(shares[::2], shares[1::2])
    normals = [np.sqrt(-2 * np.log(one)) * np.cos(2 * np.pi * other) for one, other in pairs]
    found = LazyTree.random(3, 4, 7).log_probabilities_after(np.array([[2, 0]]))[0]
    np.testing.assert_allclose(found, log_softmax(normals), rtol=1e-12)


def test_lazy_trees_of_different_seeds_share_no_row():
    rows = np.concatenate(
        [
            LazyTree.random(4, 3, seed).logits_after(all_prefixes(4, t))
            for seed in (*range(20), 2**64 + 1)
            for t in range(3)
        ]
    )
    assert len(np.unique(rows)) == rows.size


def test_sampling_far_beyond_enumeration():
    student, teacher = LazyTree.random(50, 40, 1), LazyTree.random(50, 40, 2)
    found = {signal: sample_estimate(student, teacher, 1.0, signal, 400, 0) for signal in SIGNALS}
    values = [f["kl"] for f in found.values()]
    errors = [f["kl_standard_error"] for f in found.values()]
    assert abs(values[0] - values[1]) < 5 * errors[0] and errors[1] < errors[0] / 2
    assert found["sampled"]["prefixes"][39].shape == (400, 39)


# Awkward trees --------------------------------------------------------------------------------


def test_masked_tokens_count_for_nothing():
    """-inf in both: the same figures as without the token."""
    small, other = pair(2, 3)
    masked, barred = [], []
    for tree, rows in ((small, masked), (other, barred)):
        for t, z in enumerate(tree.logits):
            row = np.random.default_rng(t).standard_normal((3**t, 3))
            row[:, 2] = -np.inf
            live = (all_prefixes(3, t) < 2).all(axis=1)
            row[live, :2] = z
            rows.append(row)
    student, teacher = TokenTree(masked), TokenTree(barred)
    same(sequence_kl(student, teacher), sequence_kl(small, other))
    same(
        np.linalg.norm(sequence_kl_gradient(student, teacher)),
        np.linalg.norm(sequence_kl_gradient(small, other)),
    )
    twins = all_tables(small, other)
    for name, table in all_tables(student, teacher).items():
        if name.startswith(("sampled", "full", "gae")) and "given" not in name:
            twin = twins[name]
            same(table.total_variance(), twin.total_variance(), scale=1)
            same(np.linalg.norm(table.expectation()), np.linalg.norm(twin.expectation()), scale=1)
            assert np.isfinite(table.dense()).all()


def test_the_student_may_bar_what_the_teacher_knows():
    student, teacher = (
        TokenTree.repeat([0.25, 0.75, 0.0], 3),
        TokenTree.repeat([0.5, 0.25, 0.25], 3),
    )
    kl = 0.25 * math.log(0.5) + 0.75 * math.log(3)
    same(sequence_kl(student, teacher), 3 * kl)
    exact = sequence_kl_gradient(student, teacher)
    assert np.isfinite(exact).all()
    for signal in SIGNALS:
        same(reward_to_go(student, teacher, 1.0, signal, "optimal").expectation(), exact, scale=1)


def test_a_token_the_teacher_bars():
    student = TokenTree.repeat([0.5, 0.5, 0.0], 3)
    teacher = TokenTree(
        [
            np.where((np.arange(3 * 3**t).reshape(-1, 3) == 10) & (t == 2), -np.inf, 0.0)
            for t in range(3)
        ]
    )
    assert sequence_kl(student, teacher) == math.inf
    for call in (
        sequence_kl_gradient,
        decomposition,
        token_costs,
        token_kls,
        full_return,
        bias_variance_polynomials,
        functools.partial(top_k, k=3),
    ):
        with pytest.raises(
            ValueError,
            match=r"^teacher gives probability 0 to token 1 after the prefix \(1, 0\), where",
        ):
            call(student, teacher)
    # Not where the student never comes: after the prefix (0, 2).
    elsewhere = TokenTree(
        [
            np.where((np.arange(3 * 3**t).reshape(-1, 3) == 7) & (t == 2), -np.inf, 0.0)
            for t in range(3)
        ]
    )
    assert math.isfinite(sequence_kl(student, elsewhere))
    for k in (1, 3):  # the teacher's one token, or all: then it is on-policy GKD
        mean = top_k(student, elsewhere, k).expectation()
        assert np.isfinite(mean).all()
    same(mean, on_policy_gkd_gradient(student, elsewhere), scale=1)
    same(
        reward_to_go(student, elsewhere, 1.0).expectation(),
        sequence_kl_gradient(student, elsewhere),
        scale=1,
    )


@pytest.mark.parametrize("size", [40.0, 1e4])
def test_extreme_logits(size):
    """Probabilities below the smallest float; the reference at 50 digits."""
    signs = np.random.default_rng(0).choice([-1.0, 0.0, 1.0], size=(2, 7, 2)) * size
    student, teacher = (TokenTree([x[:1], x[1:3], x[3:7]]) for x in signs)

    def log_row(z):
        total = mp.log(mp.fsum(mp.exp(mp.mpf(float(x))) for x in z))
        return [mp.mpf(float(x)) - total for x in z]

    rows = [[log_row(z) for logits in tree.logits for z in logits] for tree in (student, teacher)]
    value = mp.mpf(0)
    for a, b, c in itertools.product(range(2), repeat=3):
        path = [(0, a), (1 + a, b), (3 + 2 * a + b, c)]
        log_p, log_q = (mp.fsum(r[s][token] for s, token in path) for r in rows)
        value += mp.exp(log_p) * (log_p - log_q)
    same(sequence_kl(student, teacher), float(value))
    exact = sequence_kl_gradient(student, teacher)
    for signal in SIGNALS:
        for gamma in GAMMAS:
            table = reward_to_go(student, teacher, gamma, signal, "optimal")
            same(
                table.total_variance(),
                estimators.total_variance(table.probabilities, table.dense()),
                scale=size**2,
            )
        same(reward_to_go(student, teacher, 1.0, signal).expectation(), exact, scale=size)


def test_a_saturated_student_keeps_its_small_gradients():
    student, teacher = TokenTree([[[0.0, -70.0]]]), TokenTree([[[0.0, 1.0]]])
    push = math.exp(-70) * 71.0  # p_0 p_1 (d_0 - d_1)
    np.testing.assert_allclose(sequence_kl_gradient(student, teacher), [push, -push], rtol=1e-12)
    np.testing.assert_allclose(
        reward_to_go(student, teacher, 1.0, "full_vocabulary").expectation(),
        [push, -push],
        rtol=1e-12,
    )


def test_near_equal_policies_keep_their_digits():
    student = TokenTree.random(3, 3, 1)
    draw = np.random.default_rng(0)
    steps = [draw.standard_normal(z.shape) for z in student.logits]
    nudge = lambda size: TokenTree([z + size * d for z, d in zip(student.logits, steps)])
    large, small = sequence_kl(student, nudge(1e-4)), sequence_kl(student, nudge(1e-8))
    np.testing.assert_allclose(
        small, large * 1e-8, rtol=1e-3
    )  # the square of the step; sum p d would be rounding alone
    assert sequence_kl(student, student) == 0.0 and not sequence_kl_gradient(student, student).any()
    assert reward_to_go(student, student, 1.0).total_variance() == 0.0


def test_a_million_sequences():
    """V = 10, T = 6: exact moments in seconds and within 4 GiB, held to gradient and sampling."""
    program = """
import resource, time
import numpy as np
from opd_toy.sequences import *
start = time.process_time()
student, teacher = TokenTree.random(10, 6, 1), TokenTree.random(10, 6, 2)
exact = sequence_kl_gradient(student, teacher)
for signal in SIGNALS:
    table = reward_to_go(student, teacher, 1.0, signal, "optimal")
    assert np.abs(table.expectation() - exact).max() <= 1e-12 * (1 + np.abs(exact).max()), signal
table = reward_to_go(student, teacher, 0.9)
variance, took = table.total_variance(), time.process_time() - start
found = sample_estimate(student, teacher, 0.9, "sampled", 20_000, 0)
assert abs(found["variance"] - variance) < 5 * found["variance_standard_error"]
try:
    table.dense()
except ValueError as error:
    assert "1000000 rows of 1111110 entries" in str(error)
else:
    raise AssertionError("dense() took it")
print(took, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    seconds, gibibytes = map(float, answer.stdout.split())
    assert seconds < 30 and gibibytes < 4
