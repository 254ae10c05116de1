"""Where a number is beyond float64 the engine says so by its value, and warns nobody."""

import numpy as np
import pytest

from opd_toy import estimators, objectives, off_policy, sequences

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")

RARE, EVEN, NEVER = [1e-320, 1.0], [0.5, 0.5], [0.0, 1.0]
INF = np.inf


def policy(*rows):
    """One row of logits a position."""
    return sequences.TokenTree([np.tile(row, (2**t, 1)) for t, row in enumerate(rows)])


FLAT, UNLIKELY, HIDDEN = [0.0, 0.0], [0.0, -600.0], [0.0, -800.0]
CASES = {
    "k3": (lambda: estimators.k_estimator(RARE, EVEN, "k3")[0], INF),
    "k3 as a loss": (lambda: estimators.k_estimator_as_loss(RARE, EVEN, "k3")[0], [-INF, INF]),
    "a spread that underflows": (
        lambda: estimators.normalized_policy_gradient([1e-300, 1.0], [1e-300 * (1 + 1e-13), 1.0]),
        np.zeros((2, 2)),
    ),
    "a skew that hardly is one": (
        lambda: objectives.skewed_forward_kl_logit_gradient(NEVER, EVEN, 1e-320),
        [0.0, 0.0],
    ),
    "an alpha that hardly is one": (
        lambda: objectives.alpha_divergence_logit_gradient(NEVER, EVEN, 1e-20),
        [-0.5, 0.5],
    ),
    "a ratio": (lambda: off_policy.ratio([1.0, 0.0], [5e-324, 1.0]), [INF, 0.0]),
    "a ratio times its cost": (
        lambda: off_policy.policy_gradient(EVEN, [1e-300, 1.0], [1e-308, 1.0])[0],
        [INF, -INF],
    ),
    "a weight times a score of 0": (
        lambda: sequences.independent_table([[1.0, 0.0]], np.array([[INF], [INF]])),
        [[0.0, 0.0], [-INF, INF]],
    ),
    "the ratio of a token": (
        lambda: sequences.token_ratios(policy(FLAT), policy(HIDDEN)),
        [[0.5], [INF]],
    ),
    "the second moment of a ratio": (
        lambda: sequences.ratio_second_moments(policy(FLAT), policy([0.0, -740.0])),
        [INF],
    ),
    "future KLs that add": (
        lambda: sequences.fipo_weight(
            policy(FLAT, FLAT), policy(UNLIKELY, UNLIKELY), 1.0, 0.2, 0.3, ratio_limit=1e300
        )[:, 0],
        [0.8, 1.3, 1.3, 1.3],
    ),
    "texts that the old policy all but never draws": (
        lambda: sequences.fipo(policy(FLAT), policy(HIDDEN), [0.0, 1.0], 1.0, 0.2, 0.2).weights,
        np.zeros((2, 1)),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_said_by_the_value_alone(case):
    compute, expected = CASES[case]
    np.testing.assert_allclose(compute(), expected, rtol=1e-12)


@pytest.mark.parametrize("alpha", [-0.5, 0.3, 1.5])
def test_a_row_with_a_tiny_probability_leaves_its_neighbours_alone(alpha):
    p = np.array([[1e-300, 1.0], EVEN, [1e-295, 1.0], RARE])
    gradient = objectives.alpha_divergence_logit_gradient
    rows = [gradient(row, [0.7, 0.3], alpha) for row in p]
    np.testing.assert_allclose(gradient(p, [0.7, 0.3], alpha), rows, rtol=1e-12)


def test_a_product_of_infinity_and_0_is_refused_as_one_that_overflows():
    trees = policy(FLAT, HIDDEN), policy(FLAT, FLAT), policy(HIDDEN, FLAT)
    with pytest.raises(ValueError, match="its product of ratios is inf; give it -inf there"):
        sequences.off_policy_reward_to_go(*trees, 1.0)
