"""The engine and the proofs say the same: closed forms against the last line of each chain."""

import itertools

import numpy as np
import pytest
import sympy as sp

from opd_toy import estimators, objectives
from opd_toy.derivations import DERIVATIONS
from opd_toy.derivations.evaluation import evaluate
from opd_toy.derivations.notation import Gradient, Partial, total
from opd_toy.derivations.notation import j as symbol_j
from opd_toy.distributions import entropy, softmax

generator = np.random.default_rng(7)
PAIRS = [tuple(generator.dirichlet(np.ones(size)) for _ in range(2)) for size in (2, 3, 4, 5, 6)]
every_pair = pytest.mark.parametrize("p, q", PAIRS, ids=[f"V={len(p)}" for p, _ in PAIRS])

REWARD, WEIGHT, BETA, SKEW, ALPHA, BASELINE = generator.normal(size=6), 0.7, 0.3, 0.1, 0.4, 0.25


def same(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-14)


def tokens(p):
    return range(1, len(p) + 1)


def by_logit(claim, p, q, chain=0, **values):
    """The last line of a chain at every logit j."""
    return [DERIVATIONS[claim].evaluate(p, q, chain=chain, j=j, **values) for j in tokens(p)]


def by_parameter(claim, p, q, chain=0, **values):
    """A chain that ends in ∇, with the parameter taken to be each logit in turn."""
    return [
        DERIVATIONS[claim].evaluate(p, q, chain=chain, slope=row, **values)
        for row in np.eye(len(p))
    ]


def value(claim, p, q, chain=0, **values):
    return DERIVATIONS[claim].evaluate(p, q, chain=chain, **values)


@every_pair
def test_values(p, q):
    same(value("k1-expectation", p, q), objectives.reverse_kl(p, q))
    same(value("k1-expectation", tuple(p), tuple(q)), objectives.reverse_kl(p, q))
    same(value("seqkd-soft-label", p, q), objectives.forward_kl(p, q) + entropy(q))
    same(value("seqkd-is-forward-kl", p, q), objectives.forward_kl(p, q) + entropy(q))
    same(value("jsd-endpoints", p, q, chain=0), objectives.generalized_jsd(p, q, 0))
    same(value("jsd-endpoints", p, q, chain=1), objectives.generalized_jsd(p, q, 1))
    same(value("objective-limits", p, q, chain=0), objectives.alpha_divergence(p, q, 1))
    same(value("objective-limits", p, q, chain=1), objectives.alpha_divergence(p, q, 0))
    same(value("objective-limits", p, q, chain=4), objectives.skewed_forward_kl(p, q, 0))
    same(value("objective-limits", p, q, chain=5), objectives.skewed_reverse_kl(p, q, 0))


@every_pair
def test_definitions_of_the_families(p, q):
    """The engine's Jensen-Shannon and alpha-divergence are the ones whose gradients are proved."""
    from opd_toy.derivations.notation import (
        KL,
        AlphaDivergence,
        JensenShannon,
        forward_mixture,
        reverse_mixture,
    )
    from opd_toy.derivations.notation import p as student
    from opd_toy.derivations.notation import q as teacher

    same(evaluate(JensenShannon(), p, q, beta=BETA), objectives.generalized_jsd(p, q, BETA))
    same(evaluate(AlphaDivergence(), p, q, alpha=ALPHA), objectives.alpha_divergence(p, q, ALPHA))
    same(
        evaluate(KL(teacher, forward_mixture), p, q, epsilon=SKEW),
        objectives.skewed_forward_kl(p, q, SKEW),
    )
    same(
        evaluate(KL(student, reverse_mixture), p, q, epsilon=SKEW),
        objectives.skewed_reverse_kl(p, q, SKEW),
    )


@every_pair
def test_objective_gradients(p, q):
    reverse = objectives.reverse_kl_logit_gradient(p, q)
    same(by_logit("rkl-logit-gradient", p, q), reverse)
    same(by_logit("rkl-baseline-structure", p, q), reverse)
    same(by_parameter("rkl-parameter-gradient", p, q), reverse)
    same(by_logit("fkl-logit-gradient", p, q), objectives.forward_kl_logit_gradient(p, q))
    same(
        by_logit("jsd-logit-gradient", p, q, beta=BETA),
        objectives.generalized_jsd_logit_gradient(p, q, BETA),
    )
    same(
        by_logit("alpha-divergence-logit-gradient", p, q, alpha=ALPHA),
        objectives.alpha_divergence_logit_gradient(p, q, ALPHA),
    )
    same(
        by_logit("skewed-forward-kl-logit-gradient", p, q, epsilon=SKEW),
        objectives.skewed_forward_kl_logit_gradient(p, q, SKEW),
    )
    same(
        by_logit("skewed-reverse-kl-logit-gradient", p, q, epsilon=SKEW),
        objectives.skewed_reverse_kl_logit_gradient(p, q, SKEW),
    )


def with_values(objective, *values):
    return lambda p, q: objective(p, q, *values)


# What the first line of each chain differentiates by a logit or a parameter.  A mean of such
# derivatives is an estimator's and is tested below.
DIFFERENTIATED = {
    ("sft-one-hot", 1): lambda p, q: -np.log(p[0]),
    ("seqkd-is-forward-kl", 1): lambda p, q: -q @ np.log(p),
    ("sft-limit", 1): lambda p, q: -((1 - SKEW) * q + SKEW * np.eye(len(p))[0]) @ np.log(p),
    ("log-derivative", 0): lambda p, q: p[1],
    ("policy-gradient", 0): lambda p, q: p @ REWARD[: len(p)],
    ("rkl-parameter-gradient", 0): objectives.reverse_kl,
    ("rkl-logit-gradient", 0): objectives.reverse_kl,
    ("fkl-logit-gradient", 0): objectives.forward_kl,
    ("fkl-logit-gradient", 1): objectives.forward_kl,
    ("logit-gradients-sum-to-zero", 0): objectives.reverse_kl,
    ("logit-gradients-sum-to-zero", 1): objectives.forward_kl,
    ("rkl-baseline-structure", 0): objectives.reverse_kl,
    ("pg-unbiased-local", 0): objectives.reverse_kl,
    ("improve-objective", 1): objectives.forward_kl,
    ("improve-objective", 2): objectives.reverse_kl,
    ("improve-objective", 3): with_values(objectives.generalized_jsd, BETA),
    ("improve-objective", 4): with_values(objectives.alpha_divergence, ALPHA),
    ("improve-objective", 5): with_values(objectives.skewed_forward_kl, SKEW),
    ("improve-objective", 6): with_values(objectives.skewed_reverse_kl, SKEW),
    ("jsd-logit-gradient", 0): with_values(objectives.generalized_jsd, BETA),
    ("alpha-divergence-logit-gradient", 0): with_values(objectives.alpha_divergence, ALPHA),
    ("skewed-forward-kl-logit-gradient", 0): with_values(objectives.skewed_forward_kl, SKEW),
    ("skewed-reverse-kl-logit-gradient", 0): with_values(objectives.skewed_reverse_kl, SKEW),
}


@pytest.mark.parametrize("claim, chain", DIFFERENTIATED)
def test_first_lines_are_derivatives_of_the_engines_objectives(claim, chain):
    """The first line by its definition, against differences of the engine's own objective."""
    p, q = PAIRS[1]
    objective, left = DIFFERENTIATED[claim, chain], DERIVATIONS[claim].chains[chain].left
    (derivative,) = left.atoms(Partial, Gradient)
    with sp.evaluate(False):
        assert left in (derivative, total(derivative, symbol_j))
    values = {"n": 1, "y": 2, "R": REWARD[:3], "beta": BETA, "alpha": ALPHA, "epsilon": SKEW}
    same(evaluate(derivative.args[0], p, q, **values), objective(p, q))

    found = [evaluate(derivative, p, q, slope=np.eye(3)[j], j=j + 1, **values) for j in range(3)]
    step = 1e-5 * np.eye(3)
    above, below = ([objective(softmax(np.log(p) + s * row), q) for row in step] for s in (1, -1))
    # Central differences: an error of some step² = 1e-10 and of rounding / step = 1e-11.
    np.testing.assert_allclose(found, (np.array(above) - below) / 2e-5, atol=1e-8)


@every_pair
def test_estimator_tables(p, q):
    sampled = [by_logit("pg-logit-gradient", p, q, k=k) for k in tokens(p)]
    same(sampled, estimators.policy_gradient(p, q))
    reward = REWARD[: len(p)]
    mixed = [by_logit("reward-mixing", p, q, k=k, R=reward, w=WEIGHT) for k in tokens(p)]
    same(mixed, estimators.mixed_policy_gradient(p, q, reward, WEIGHT))


@every_pair
def test_estimator_means(p, q):
    mean = lambda table: estimators.expectation(p, table)
    same(mean(estimators.policy_gradient(p, q)), by_parameter("pg-unbiased-local", p, q))
    same(mean(estimators.policy_gradient(p, q)), by_parameter("pg-opd-cost", p, q))
    same(
        mean(estimators.policy_gradient(p, q, BASELINE)),
        by_logit("rkl-baseline-structure", p, q, chain=2),
    )
    same(
        mean(estimators.policy_gradient(p, q, objectives.reverse_kl(p, q))),
        by_parameter("open-question-full-vocab-pg", p, q, chain=1),
    )
    same(
        mean(estimators.full_vocabulary_advantage(p, q)),
        by_parameter("full-vocab-advantage-is-zero", p, q),
    )
    for chain, kind in enumerate(("k1", "k2", "k3")):
        same(
            mean(estimators.k_estimator_as_loss(p, q, kind)),
            by_parameter("k-estimators-as-loss", p, q, chain=chain),
        )
    for chain, kind in enumerate(("k1", "k3")):
        same(
            mean(estimators.k_estimator_as_reward(p, q, kind)),
            by_parameter("k-estimators-as-reward", p, q, chain=chain),
        )
    reward = REWARD[: len(p)]
    same(
        mean(estimators.mixed_policy_gradient(p, q, reward, WEIGHT)),
        by_parameter("reward-mixing", p, q, chain=1, R=reward, w=WEIGHT),
    )


@every_pair
def test_optimal_baseline(p, q):
    """The proved slope of the variance is the engine's, and 0 at the engine's best baseline."""
    slope = lambda b: value("optimal-baseline", p, q, b=b)
    variance = lambda b: estimators.total_variance(p, estimators.policy_gradient(p, q, b))
    best = estimators.optimal_baseline(p, q)
    assert abs(slope(best)) < 1e-13
    # A parabola's central difference is its slope, whatever the step.
    np.testing.assert_allclose(
        slope(BASELINE), (variance(BASELINE + 1) - variance(BASELINE - 1)) / 2, rtol=1e-11
    )


@pytest.mark.parametrize("shift", [0.1, 1.0, 1.1209])
def test_schulman_closed_forms(shift):
    p, q = PAIRS[0]
    proved = [
        DERIVATIONS["schulman-table"].evaluate(p, q, chain=chain, mu=shift) for chain in range(6)
    ]
    table = estimators.schulman_table(shift)
    engine = [
        table["kl"],
        table["k1"]["sd"] ** 2,
        table["k2"]["bias"],
        table["k2"]["sd"] ** 2,
        table["k3"]["bias"],
        table["k3"]["sd"] ** 2,
    ]
    same(engine, proved)


def test_pg_zero_gamma_is_gkd():
    """All sequences of two tokens: the mean token-level gradient is GKD's, weighted by visits."""
    first, second = (softmax(generator.normal(size=shape)) for shape in ((3,), (3, 3)))
    first_teacher, second_teacher = (
        softmax(generator.normal(size=shape)) for shape in ((3,), (3, 3))
    )
    sampled = np.zeros((4, 3))  # the logits of the empty prefix, then of each first token
    for a, b in itertools.product(range(3), repeat=2):
        chance = first[a] * second[a, b]
        sampled[0] += chance * np.log(first[a] / first_teacher[a]) * (np.eye(3)[a] - first)
        sampled[1 + a] += (
            chance * np.log(second[a, b] / second_teacher[a, b]) * (np.eye(3)[b] - second[a])
        )
    local = objectives.reverse_kl_logit_gradient(second, second_teacher)
    gkd = np.vstack(
        [objectives.reverse_kl_logit_gradient(first, first_teacher), first[:, None] * local]
    )
    same(sampled, gkd)
    # The gradient of the whole sequence's KL also moves the prefixes, so it is another one.
    future = objectives.reverse_kl(second, second_teacher)
    assert np.abs(first * (future - first @ future)).max() > 1e-3


def test_evaluate_says_which_value_is_missing():
    with pytest.raises(ValueError, match="evaluate needs a value for j, for example j=1"):
        DERIVATIONS["rkl-logit-gradient"].evaluate(*PAIRS[0])
