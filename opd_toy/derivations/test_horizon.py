"""False claims about sequences must fail, near as they are to something true."""

import random

import pytest
import sympy as sp

from opd_toy.derivations import horizon
from opd_toy.derivations.chapter_5 import first, mean, second
from opd_toy.derivations.chapter_6 import coupling, discounted, local_gradients, sequence_kl
from opd_toy.derivations.exact import DerivationError
from opd_toy.derivations.framework import Chain, Step, check_step, exact_problem
from opd_toy.derivations.notation import (
    C2,
    R2,
    C,
    Gradient,
    SequenceMean,
    SquaredLength,
    T,
    V,
    Variance,
    a,
    b,
    c,
    cost,
    cost_bound,
    gamma,
    local_gradient,
    local_kl,
    outcome,
    over_positions,
    score_at,
    score_bound,
    t,
    u,
    v,
)
from opd_toy.derivations.witness import counterexample

score, bounds = score_at[t], cost_bound**2 * score_bound**2
objective = Gradient(SequenceMean(over_positions(cost[t])))


def sums(body, low=1, high=T):
    """The mean of Σ_t Σ_u body · score, u from low to high."""
    return SequenceMean(over_positions(over_positions(body, u, low, high) * score))


TRUE = {
    "reward-to-go": (objective, sums(cost[u], t)),
    "full return": (objective, sums(cost[u])),
    "local part and future part": (
        objective,
        SequenceMean(over_positions(local_gradient[t])) + sums(local_kl[u], t + 1),
    ),
    "KL as the advantage": (SequenceMean(over_positions(local_kl[t] * score)), sp.S.Zero),
    "the square of a cost": (
        Gradient(SequenceMean(over_positions(cost[t] ** 2))),
        sums(cost[u] ** 2, t) + 2 * SequenceMean(over_positions(cost[t] * score)),
    ),
    "sorted by cost": (
        sums(gamma ** (u - t) * cost[u], t),
        SequenceMean(
            over_positions(cost[u] * over_positions(gamma ** (u - t) * score, t, 1, u), u)
        ),
    ),
    "squares of scores": (
        SequenceMean(SquaredLength(over_positions(score))),
        SequenceMean(over_positions(SquaredLength(score))),
    ),
    "the gradient of a constant": (Gradient(SequenceMean(gamma)), sp.S.Zero),
    "the mean of a constant": (SequenceMean(gamma), gamma),
    "positions up to here": (over_positions(sp.S.One, t, 1, u), u),
    "no position at all": (over_positions(sp.S.One, v, 2, 1), sp.S.Zero),
    "two free positions": (
        (cost[t] - local_kl[u]) ** 2,
        cost[t] ** 2 - 2 * cost[t] * local_kl[u] + local_kl[u] ** 2,
    ),
    "positions to the end": (over_positions(outcome, u, t), (T - t + 1) * outcome),
    "a triangle of positions": (
        over_positions(over_positions(sp.S.One, t, 1, u), u),
        T * (T + 1) / 2,
    ),
    "a geometric series": (
        over_positions(gamma ** (2 * (u - t)), t, 1, u),
        (1 - gamma ** (2 * u)) / (1 - gamma**2),
    ),
    "the length of a vector times its own squared length": (
        SquaredLength(SquaredLength(score) * score),
        SquaredLength(score) ** 3,
    ),
    "the same, counted from 0": (
        over_positions(gamma ** (2 * v), v, 0, u - 1),
        (1 - gamma ** (2 * u)) / (1 - gamma**2),
    ),
}
FALSE = {
    "u > t for u >= t": (objective, sums(cost[u], t + 1)),
    "costs up to the score's token": (objective, sums(cost[u], 1, t)),
    "one position for another": (cost[t], cost[u]),
    "the past with the present": (sums(cost[u], 1, t), sp.S.Zero),
    "the future vanishes like the past": (sums(cost[u], t + 1), sp.S.Zero),
    "future KLs from the own position on": (
        objective,
        SequenceMean(over_positions(cost[t] * score)) + sums(local_kl[u], t + 2),
    ),
    "the local part twice": (
        objective,
        2 * SequenceMean(over_positions(local_gradient[t])) + sums(local_kl[u], t + 1),
    ),
    "GKD alone": (objective, SequenceMean(over_positions(local_gradient[t]))),
    "the future with its sign turned": (
        objective,
        SequenceMean(over_positions(local_gradient[t])) - sums(local_kl[u], t + 1),
    ),
    "an exponent too large": (
        sums(gamma ** (u - t) * cost[u], t),
        sums(gamma ** (u - t + 1) * cost[u], t),
    ),
    "an exponent too small, beside the exact local part": (
        sums(gamma ** (u - t) * cost[u], t),
        SequenceMean(over_positions(local_gradient[t]))
        + sums(gamma ** (u - t - 1) * local_kl[u], t + 1),
    ),
    "the discount counted from the start of the sequence": (
        sums(gamma ** (u - t) * cost[u], t),
        sums(gamma ** (u - 1) * cost[u], t),
    ),
    "the square of a cost is no cost": (
        Gradient(SequenceMean(over_positions(cost[t] ** 2))),
        sums(cost[u] ** 2, t),
    ),
    "the square of KL is the mean of a square": (
        SequenceMean(over_positions(cost[t] ** 2)),
        SequenceMean(over_positions(local_kl[t] ** 2)),
    ),
    "the square of a score is the gradient of KL": (
        SequenceMean(over_positions(score**2)),
        SequenceMean(over_positions(local_gradient[t])),
    ),
    "costs are no constants": (
        SequenceMean(SquaredLength(over_positions(cost[t] * score))),
        SequenceMean(over_positions(cost[t] ** 2 * SquaredLength(score))),
    ),
    "costs of other positions either": (
        SequenceMean(over_positions(cost[u], u) ** 2 * SquaredLength(over_positions(score))),
        SequenceMean(over_positions(cost[u], u) ** 2 * over_positions(SquaredLength(score))),
    ),
    "a square of a mean is no mean of a square": (
        SquaredLength(SequenceMean(over_positions(cost[t] * score))),
        SequenceMean(SquaredLength(over_positions(cost[t] * score))),
    ),
    "a variance is a mean square": (
        Variance(over_positions(cost[t] * score)),
        SequenceMean(SquaredLength(over_positions(cost[t] * score))),
    ),
    "one position too few": (over_positions(outcome, u, t), (T - t) * outcome),
    "one position too many": (over_positions(outcome, u, t), (T - t + 2) * outcome),
    "a broadcast reward is the reward": (over_positions(outcome, u, t), outcome),
    "a triangle without its diagonal": (
        over_positions(over_positions(sp.S.One, t, 1, u), u),
        T * (T - 1) / 2,
    ),
    "a triangle is a square": (over_positions(over_positions(sp.S.One, t, 1, u), u), T**2),
    "a geometric series one term longer": (
        over_positions(gamma ** (2 * (u - t)), t, 1, u),
        (1 - gamma ** (2 * u + 2)) / (1 - gamma**2),
    ),
    "γ for γ²": (over_positions(gamma ** (2 * (u - t)), t, 1, u), (1 - gamma**u) / (1 - gamma)),
}


@pytest.mark.parametrize("case", TRUE)
def test_true_equalities_pass_both_checks(case):
    before, after = TRUE[case]
    assert horizon.is_zero(after - before) and counterexample(before, after) is None


@pytest.mark.parametrize("case", FALSE)
def test_false_equalities_fail_both_checks(case):
    before, after = FALSE[case]
    assert not shown(before, after)
    assert counterexample(before, after)


def shown(before, after):
    """Whether the normal form shows two expressions equal; one that it refuses it does not."""
    try:
        return horizon.is_zero(after - before)
    except DerivationError:
        return False


IN_A_MEAN = {
    "the reward of the sequence is no constant": (
        SequenceMean(outcome * over_positions(score)),
        sp.S.Zero,
    ),
    "nor has its mean no gradient": (Gradient(SequenceMean(outcome)), sp.S.Zero),
    "a cost at one position moves, though no T is named": (
        Gradient(SequenceMean(cost[t])),
        sp.S.Zero,
    ),
    "a score of one position is no constant": (SequenceMean(cost[t] * score), sp.S.Zero),
}


@pytest.mark.parametrize("case", IN_A_MEAN)
def test_false_means_are_refused(case):
    before, after = IN_A_MEAN[case]
    step = Step(after)
    with pytest.raises(DerivationError):
        check_step(case, Chain((Step(before), step)), Step(before), step)


ON_A_TREE = {
    "the reward depends on the token to come": (mean(R2[a, b] * second), sp.S.Zero),
    "the later cost answers to the first score, too": (mean(C2[a, b] * first), sp.S.Zero),
    "the future undiscounted": (discounted, local_gradients + coupling),
    "the discount squared": (discounted, local_gradients + gamma**2 * coupling),
    "the bias with its sign turned": (discounted - Gradient(sequence_kl), (1 - gamma) * coupling),
    "the past answers": (
        Gradient(sequence_kl),
        mean(C[a] * first + (C[a] + C2[a, b]) * second + C2[a, b] * second),
    ),
    "the broadcast reward is twice the reward": (
        mean(2 * R2[a, b] * first + R2[a, b] * second),
        2 * Gradient(mean(R2[a, b])),
    ),
    "two scores weighted by the second token": (mean(R2[a, b] * first * second), sp.S.Zero),
}


@pytest.mark.parametrize("case", ON_A_TREE)
def test_false_claims_on_a_tree_fail_both_checks(case):
    before, after = ON_A_TREE[case]
    assert exact_problem(Chain((Step(before), Step(after))), Step(before), Step(after))
    assert counterexample(before, after)


# --- inequalities -------------------------------------------------------------------------

c_squares = over_positions(c[t] ** 2)
cauchy = over_positions(over_positions((c[t] - c[u]) ** 2, u)) / 2
paper = SequenceMean(SquaredLength(over_positions(cost[t] * score)))
squares = SequenceMean(over_positions(cost[t] ** 2 * SquaredLength(score)))
lengths = SequenceMean(over_positions(SquaredLength(score)))
room = cost_bound**2 * SequenceMean(over_positions(score_bound**2 - SquaredLength(score)))
UNSHOWN = {
    "no evidence but the difference": (c_squares, T * c_squares, T * c_squares - c_squares),
    "a negative gap": (over_positions(c[t]) ** 2, T * c_squares - 2 * cauchy, -cauchy),
    "the factor T dropped": (over_positions(c[t]) ** 2, c_squares, cauchy),
    "the wrong way round": (T * c_squares, over_positions(c[t]) ** 2, cauchy),
    "a bound that is not one": (
        cost_bound * lengths,
        cost_bound**2 * lengths,
        (cost_bound**2 - cost_bound) * lengths,
    ),
    "a cost under the scores' bound": (
        squares,
        score_bound**2 * lengths,
        SequenceMean(over_positions((score_bound**2 - cost[t] ** 2) * SquaredLength(score))),
    ),
    "the bound the wrong way round": (
        cost_bound**2 * lengths,
        squares,
        SequenceMean(over_positions((cost[t] ** 2 - cost_bound**2) * SquaredLength(score))),
    ),
    "a bound not squared": (
        squares,
        cost_bound * lengths,
        SequenceMean(over_positions((cost_bound - cost[t]) * SquaredLength(score))),
    ),
    "a length of T for T²": (T * cost_bound**2 * lengths, T * bounds, T * room),
    "a discount above 1": (
        over_positions(gamma**t),
        over_positions(gamma ** (2 * t)),
        over_positions(gamma**t * (gamma - 1)),
    ),
    "a series cut short": (
        over_positions((1 - gamma ** (2 * u)) / (1 - gamma**2), u),
        T / (1 - gamma),
        over_positions(gamma ** (2 * u) / (1 - gamma**2), u),
    ),
}


@pytest.mark.parametrize("case", UNSHOWN)
def test_an_inequality_without_its_evidence_is_refused(case):
    before, after, gap = UNSHOWN[case]
    step = Step(after, "", "<=", (gap,))
    assert exact_problem(Chain((Step(before), step)), Step(before), step)


def test_an_inequality_with_its_evidence_passes():
    for before, after, gap in (
        (over_positions(c[t]) ** 2, T * c_squares, cauchy),
        (T * cost_bound**2 * lengths, T**2 * bounds, T * room),
    ):
        step = Step(after, "", "<=", (gap,))
        check_step("inequality", Chain((Step(before), step)), Step(before), step)


def test_the_witness_refuses_a_false_inequality():
    assert counterexample(T * squares, lengths * 0, "<=")
    assert counterexample(T**2 * bounds, paper, "<=")
    assert counterexample(Variance(over_positions(cost[t] * score)), paper, "<=") is None


# --- what the normal form cannot do, it refuses -----------------------------------------------


BACKWARDS = over_positions(
    sp.S.One, t, T, 1
)  # 2 - T by sympy's convention, and not to be read as "never negative"
UNKNOWN = [
    sp.log(cost[t]),
    V * R2[t, u],
    Gradient(local_kl[t]),
    Gradient(SequenceMean(local_kl[t])),
    Gradient(SequenceMean(cost[t] * local_kl[t])),
    Gradient(SequenceMean(cost[t] * SequenceMean(cost[t]))),
    cost[t + 1],
    score_at[t + 1, u],
    over_positions(cost[v], v, 0, T - 1),
    BACKWARDS,
    over_positions(sp.S.One, v, 2, 0),
    over_positions(over_positions(sp.S.One, t, 1, v), v, 0, T - 1),
    1 / cost[t],
    sp.sqrt(cost[t]),
]


@pytest.mark.parametrize("e", UNKNOWN)
def test_unknown_expressions_are_refused(e):
    with pytest.raises(DerivationError):
        horizon.is_zero(e)


def test_whatever_the_normal_form_calls_equal_is_equal_in_numbers():
    """Random sums of products, compared with what a true or a false rule makes of them."""
    draw, verdicts = random.Random(1), []
    for _ in range(60):
        body = draw.choice(
            [
                cost[u],
                cost[u] ** 2,
                local_kl[u],
                cost[u] * cost[t],
                local_kl[u] * cost[t],
                cost[u] * score_at[u],
            ]
        )
        low, high = draw.choice([(1, T), (t, T), (t + 1, T), (1, t), (1, t - 1)])
        discount = gamma ** draw.choice([0, u, u - t, t])
        made = draw.choice(
            [
                {cost[u]: local_kl[u]},
                {t: u, u: t},
                {cost[u] * score_at[u]: local_gradient[u]},
                {gamma: gamma**2},
            ]
        )
        before = SequenceMean(over_positions(over_positions(discount * body, u, low, high) * score))
        replaced = (discount * body).subs(made, simultaneous=True)
        after = SequenceMean(over_positions(over_positions(replaced, u, low, high) * score))
        verdicts.append(shown(before, after))
        if verdicts[-1]:
            assert counterexample(before, after) is None, (before, after)
    assert 10 < sum(verdicts) < 50


@pytest.mark.parametrize("exponent", [sp.Rational(1, 2), T / 2])
def test_an_exponent_without_a_rule_is_refused(exponent):
    with pytest.raises(DerivationError, match=f"no rule for the exponent {exponent} of γ"):
        horizon.is_zero(gamma**exponent * SequenceMean(over_positions(cost[t])))
