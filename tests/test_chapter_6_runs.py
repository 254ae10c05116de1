"""How large a sequence gradient's variance can be, where a top K ends, what the study recorded."""

import numpy as np
import pytest

from opd_toy.distributions import log_ratio
from opd_toy.example import STUDENT_TREE, TEACHER_TREE
from opd_toy.ledger.evidence import growth, studies
from opd_toy.ledger.evidence import top_k as truncation
from opd_toy.pages.numbers import scientific
from opd_toy.records.provenance import recorded
from opd_toy.sequences import (
    TokenTree,
    discounted_return,
    full_return,
    future_kl,
    generalized_advantage,
    independent_variance,
    on_policy_gkd_gradient,
    reward_to_go,
    sequence_kl,
    sequence_kl_gradient,
    token_costs,
    top_k,
)


def bounds(student, teacher):
    """B_r² B_s² of a pair of trees."""
    costs = np.abs(token_costs(student, teacher)).max()
    squares = max(
        (1 - 2 * p + (p**2).sum(axis=1, keepdims=True)).max() for p in student.probabilities
    )
    return costs**2 * squares


@pytest.mark.parametrize(
    "vocabulary, length, seed", [(2, 2, 0), (2, 5, 1), (3, 4, 2), (4, 3, 3), (2, 7, 4)]
)
def test_sharper_variance_bounds(vocabulary, length, seed):
    """Mean squares stay below T³, T² (T + 1)/2 and T²/(1 - γ²)."""
    student, teacher = (
        TokenTree.random(vocabulary, length, s, scale=1.5) for s in (seed, seed + 100)
    )
    unit = bounds(student, teacher)
    square = lambda table: table.total_variance() + (table.expectation() ** 2).sum()
    assert square(full_return(student, teacher)) <= length**3 * unit
    assert square(reward_to_go(student, teacher, 1.0)) <= length**2 * (length + 1) / 2 * unit
    for gamma in (0.0, 0.3, 0.9):
        total = sum(gamma ** (2 * j) for u in range(1, length + 1) for j in range(u))
        assert (
            square(reward_to_go(student, teacher, gamma))
            <= length * total * unit
            <= length**2 / (1 - gamma**2) * unit * (1 + 1e-12)
        )


def test_the_order_of_the_sharper_bound_is_reached():
    p = np.array([0.475, 0.475, 0.05])
    q = np.array([*p[:2] * np.exp(-3), 1 - 0.95 * np.exp(-3)])
    unit = np.abs(log_ratio(p, q)).max() ** 2 * (1 - 2 * p + p @ p).max()
    shares = [
        independent_variance(np.tile(p, (n, 1)), np.tile(q, (n, 1)), 1.0, causal=False)
        / unit
        / n**3
        for n in (8, 64, 512)
    ]
    assert all(0.3 < share < 0.35 for share in shares)
    assert all(f"{share:.3f}" in growth.sharper_bounds() for share in shares)


def test_the_fitted_exponents_are_the_untrained_students():
    rows = recorded("control-frozen", "variance frozen")["growth"]["initial"]
    fitted = {
        (row["estimator"], row["gamma"]): f"{row['exponent']:.2f}"
        for row in rows
        if row["parameters"] == "output_layer"
    }
    ends = f"γ = 0 {fitted['sampled', 0]}, full return {fitted['full_return', 1]}"
    assert growth.exponents().endswith(f"untrained student: {ends}")


def test_top_k_descent():
    """With the tail as one token or renormalised the head is learned, without it it is lost."""
    student, teacher = truncation.STUDENT, truncation.TEACHER
    ends = {outside: truncation.top_k_descent(outside) for outside in truncation.OUTSIDE}
    head = np.argsort(-teacher.probabilities[0][0])[:2]
    share = lambda tree: tree.probabilities[0][0][head]
    wanted = share(teacher)
    np.testing.assert_allclose(
        share(ends["renormalize"]) / share(ends["renormalize"]).sum(),
        wanted / wanted.sum(),
        atol=0.02,
    )
    np.testing.assert_allclose(share(ends["tail"]), wanted, atol=0.02)
    kls = {outside: sequence_kl(tree, teacher) for outside, tree in ends.items()}
    assert kls["tail"] < kls["renormalize"] < kls["drop"]
    gkd = on_policy_gkd_gradient(student, teacher)
    for outside in ends:
        assert np.abs(top_k(student, teacher, 2, outside).bias(gkd)).max() > 0.01
    again = truncation.top_k_descent.__wrapped__("tail")
    assert all((one == other).all() for one, other in zip(again.logits, ends["tail"].logits))


def test_gamma_variance_experiment():
    """Along the whole study the variance rises with γ in each seed; the ledger reads it off."""
    study = recorded("control-study", "variance")
    assert study["gammas"] == [0, 0.25, 0.5, 0.75, 1]
    assert len(study["seeds"]) == 3 and study["iterations"][-1] == 2000
    windows = np.log(study["window_geometric_mean"])[..., -5:]  # [γ, seed, task, window]
    late = windows.mean(axis=(2, 3))
    # Each seed by itself: a mean would mix runs that arrive with lost ones.
    assert (np.diff(late, axis=0) > 0).all()
    assert (late[-1] - late[0] > np.log(3)).all()
    least, largest = (
        scientific(pick(study["window_geometric_mean"][-1][s][0][-1] for s in range(3)))
        for pick in (min, max)
    )
    assert f"{least} to {largest} at γ = 1" in studies.variance_along_training()


def test_scientific():
    assert [scientific(x) for x in (5884.2, 0.00123, 1.0)] == [
        "5.9 · 10³",
        "1.2 · 10⁻³",
        "1.0 · 10⁰",
    ]


# What a reader corrected ----------------------------------------------------------------


@pytest.mark.parametrize("gamma", [0.25, 0.5, 0.9])
def test_how_many_tokens_a_discount_counts(gamma):
    """1/(1 - γ) of them, the present one included: γ/(1 - γ) lie ahead."""
    counted = discounted_return(np.ones(400), gamma)[0]
    np.testing.assert_allclose(counted, 1 / (1 - gamma), rtol=1e-12)
    np.testing.assert_allclose(counted - 1, gamma / (1 - gamma), rtol=1e-12)


@pytest.mark.parametrize("half_life", [1, 2, 3])
def test_fipo_discounts_by_a_half_life(half_life):
    """At γ = 2**(-1/h) a change h positions ahead counts half."""
    old = TokenTree.random(2, 4, seed=0)
    moved = list(old.logits)
    moved[half_life] = moved[half_life] + [0.2, 0.0]  # nothing else changes
    ahead = future_kl(TokenTree(moved), old, 2 ** (-1 / half_life))
    assert np.abs(ahead[:, half_life]).min() > 0.01
    np.testing.assert_allclose(ahead[:, 0], ahead[:, half_life] / 2, rtol=1e-12)


def test_the_exact_own_term_can_do_harm():
    """All costs to come exact, two positions: the same mean, more than twice the variance."""
    pair = TokenTree.random(3, 2, 165, scale=2.0), TokenTree.random(3, 2, 10165, scale=2.0)
    sampled, exact = (
        reward_to_go(*pair, 1, signal) for signal in ("full_vocabulary_future", "full_vocabulary")
    )
    for table in (sampled, exact):
        np.testing.assert_allclose(table.bias(sequence_kl_gradient(*pair)), 0, atol=1e-12)
    assert exact.total_variance() > 2 * sampled.total_variance()


def test_gae_is_more_than_a_decay():
    """λ = .5 with the exact critic leaves the mean alone; γ = .5 does not."""
    goal = sequence_kl_gradient(STUDENT_TREE, TEACHER_TREE)
    surprises = generalized_advantage(STUDENT_TREE, TEACHER_TREE, 1.0, 0.5)
    np.testing.assert_allclose(surprises.bias(goal), 0, atol=1e-12)
    assert np.linalg.norm(reward_to_go(STUDENT_TREE, TEACHER_TREE, 0.5).bias(goal)) > 0.01
    # Without a critic it is a decay: the costs themselves at γλ.
    blank = tuple(np.zeros(3**t) for t in range(2))
    decayed = generalized_advantage(STUDENT_TREE, TEACHER_TREE, 1.0, 0.5, values=blank)
    same = reward_to_go(STUDENT_TREE, TEACHER_TREE, 0.5)
    np.testing.assert_allclose(decayed.weights, same.weights, rtol=1e-12)
