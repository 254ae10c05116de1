"""The sequence engine and chapter 6's proofs agree: exact tables against each line of a chain."""

import numpy as np
import pytest

from opd_toy.derivations import DERIVATIONS
from opd_toy.derivations.evaluation import evaluate, evaluate_sequences
from opd_toy.sequences import (
    SequenceTable,
    TokenTree,
    broadcast_outcome,
    decomposition,
    full_return,
    on_policy_gkd_gradient,
    outcome,
    reward_to_go,
    sequence_kl,
    sequence_kl_gradient,
    token_costs,
)

GAMMAS = (0.0, 0.3, 1.0)
TREES = [tuple(TokenTree.random(size, 2, seed) for seed in (size, 10 + size)) for size in (2, 3, 4)]
two_positions = pytest.mark.parametrize(
    "student, teacher", TREES, ids=[f"V={pair[0].vocabulary}" for pair in TREES]
)
LONGER = [(TokenTree.random(*shape, 5), TokenTree.random(*shape, 6)) for shape in ((2, 3), (3, 2))]
any_length = pytest.mark.parametrize(
    "student, teacher",
    LONGER,
    ids=[f"V={pair[0].vocabulary}, T={pair[0].length}" for pair in LONGER],
)


def same(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-14)


def chances(tree):
    """The pair that ``evaluate`` takes for a tree of two positions."""
    first, second = tree.probabilities
    return first[0], second


def line(claim, chain, number=-1):
    return DERIVATIONS[claim].chains[chain].steps[number].expression


def value(expression, student, teacher, **values):
    return evaluate(expression, chances(student), chances(teacher), **values)


def gradient(expression, student, teacher, **values):
    """An expression with ∇, by every logit of a tree of two positions."""
    first, second = student.probabilities
    units = np.eye(student.parameters)
    slopes = [(row[: first.size], row[first.size :].reshape(second.shape)) for row in units]
    return [value(expression, student, teacher, slope=slope, **values) for slope in slopes]


def moved(expression, student, teacher, **values):
    """The same for a sequence of any length."""
    return [
        evaluate_sequences(expression, student.logits, teacher.probabilities, [one], **values)
        for one in range(student.parameters)
    ]


def scored(student, *weights):
    """The mean of weights on the scores, one weight a position, each (S,) or a number."""
    sequences = len(student.tokens())
    return SequenceTable(
        student, np.column_stack([np.broadcast_to(w, sequences) for w in weights])
    ).expectation()


@two_positions
def test_values_and_gradients(student, teacher):
    same(value(line("sequence-chain-rule", 0), student, teacher), sequence_kl(student, teacher))
    exact = sequence_kl_gradient(student, teacher)
    for claim, chain, number in (
        ("reward-to-go", 0, 0),
        ("reward-to-go", 0, -1),
        ("gkd-future-coupling", 0, -1),
        ("rao-blackwell-return", 0, 0),
    ):
        same(gradient(line(claim, chain, number), student, teacher), exact)
    same(reward_to_go(student, teacher, 1.0).expectation(), exact)
    same(reward_to_go(student, teacher, 1.0, "full_vocabulary").expectation(), exact)
    same(
        full_return(student, teacher).expectation(),
        gradient(line("reward-to-go", 0, 3), student, teacher),
    )


@two_positions
def test_scores_and_the_past(student, teacher):
    costs = token_costs(student, teacher)
    for chain in (0, 1):
        same(
            scored(student, 1.0, 1.0),
            gradient(line("sequence-score-identity", chain, 0), student, teacher),
        )
    same(
        scored(student, 0.0, costs[:, 0]),
        gradient(line("past-terms-vanish", 0, 0), student, teacher),
    )
    own = gradient(line("past-terms-vanish", 2), student, teacher)
    same(scored(student, 0.0, costs[:, 1]), own)
    assert np.abs(own).max() > 1e-2  # the cost of the token itself is another matter


@two_positions
@pytest.mark.parametrize("gamma", GAMMAS)
def test_discounted_return(student, teacher, gamma):
    mean = reward_to_go(student, teacher, gamma).expectation()
    bias = mean - sequence_kl_gradient(student, teacher)
    same(gradient(line("discounted-return", 1, 0), student, teacher, gamma=gamma), mean)
    same(gradient(line("discounted-return", 1), student, teacher, gamma=gamma), mean)
    same(gradient(line("discounted-return", 2), student, teacher, gamma=gamma), bias)
    assert gamma == 1 or np.abs(bias).max() > 1e-3
    if gamma == 0:
        same(mean, on_policy_gkd_gradient(student, teacher))


@two_positions
def test_rlvr_broadcast(student, teacher):
    reward = np.random.default_rng(3).normal(size=(student.vocabulary,) * 2)
    followed = gradient(line("rlvr-broadcast", 2), student, teacher, R2=reward)
    same(-broadcast_outcome(student, reward.ravel()).expectation(), followed)
    missing = gradient(line("rlvr-broadcast", 3), student, teacher, R2=reward)
    same(-2 * outcome(student, reward.ravel()).expectation() - np.array(followed), missing)
    assert np.abs(missing).max() > 1e-2
    same(
        [evaluate(line("rlvr-broadcast", 0), [1], [1], T=7, t=t, R_tau=2.0) for t in (1, 3, 7)],
        [14, 10, 2],
    )


@two_positions
def test_gkd_future_coupling(student, teacher):
    local, future = decomposition(student, teacher)
    same(gradient(line("discounted-return", 1), student, teacher, gamma=0.0), local)
    total = np.array(gradient(line("gkd-future-coupling", 0), student, teacher))
    same(total - local, future)


@any_length
def test_any_length_means(student, teacher):
    exact = sequence_kl_gradient(student, teacher)
    same(moved(line("reward-to-go", 1, 0), student, teacher), exact)
    same(moved(line("reward-to-go", 1), student, teacher), exact)
    same(moved(line("gkd-future-coupling", 1), student, teacher), exact)
    same(moved(line("sequence-score-identity", 2, 0), student, teacher), np.zeros_like(exact))
    for gamma in (0.3, 0.9):
        for number in (0, -1):
            mean = moved(line("discounted-return", 3, number), student, teacher, gamma=gamma)
            same(reward_to_go(student, teacher, gamma).expectation(), mean)
        mean = moved(line("rao-blackwell-return", 1, 0), student, teacher, gamma=gamma)
        same(reward_to_go(student, teacher, gamma, "full_vocabulary").expectation(), mean)
        same(reward_to_go(student, teacher, gamma).expectation(), mean)


@any_length
def test_any_length_variances(student, teacher):
    """Each bounded variance is the engine's, and no line of its chain is below the one before."""
    everything = range(student.parameters)
    cases = {
        ("variance-bounds", 1): reward_to_go(student, teacher, 0.0),
        ("variance-bounds", 2): full_return(student, teacher),
        ("sharper-variance-bounds", 2): full_return(student, teacher),
        ("sharper-variance-bounds", 3): reward_to_go(student, teacher, 1.0),
        ("sharper-variance-bounds", 4): reward_to_go(student, teacher, 0.6),
    }
    for (claim, chain), table in cases.items():
        steps = DERIVATIONS[claim].chains[chain].steps
        first, *_, last = lines = [
            evaluate_sequences(
                step.expression, student.logits, teacher.probabilities, everything, gamma=0.6
            )
            for step in steps
        ]
        same(first, table.total_variance())
        assert (
            all(after >= before * (1 - 1e-12) for before, after in zip(lines, lines[1:]))
            and last > first
        )


def test_the_sharper_bound_is_the_lower_one():
    steps = lambda claim, chain: line(claim, chain)
    for length in (2, 3, 10):
        at = {"T": length, "B_r": 1.0, "B_s": 1.0, "gamma": 0.6}
        paper, sharper, causal, discounted, token = (
            evaluate(steps(*which), [1], [1], **at)
            for which in (
                ("variance-bounds", 2),
                *(("sharper-variance-bounds", chain) for chain in (2, 3, 4)),
                ("variance-bounds", 1),
            )
        )
        same(
            [paper, sharper, causal, token],
            [length**4, length**3, length**2 * (length + 1) / 2, length**2],
        )
        same(discounted, length**2 / (1 - 0.36))
        assert token < discounted and causal < sharper < paper
