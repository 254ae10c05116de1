"""Every error names the argument, quotes what came and says what would be right."""

import math
import re

import numpy as np
import pytest

from opd_toy import distributions, estimators, objectives

P, Q = [0.2, 0.3, 0.5], [0.7, 0.2, 0.1]

MALFORMED = [  # (what comes, what is said of it, with NAME for the argument)
    (0.5, "NAME is the single number 0.5; give one number a token, shape (..., V)"),
    ([], "NAME is empty, shape (0,); give at least one token, shape (..., V) with V >= 1"),
    (np.ones((3, 0)), "NAME is empty, shape (3, 0); give at least one token, shape (..., V) with V >= 1"),
    ([[0.5, 0.5], [1.0]], "NAME is ragged: [[0.5, 0.5], [1.0]]; give an array of numbers in which every row is equally long"),
    (["a", "b", "c"], "NAME has dtype <U1 (['a', 'b', 'c']); give real numbers, such as a float array or a list of floats"),
    (None, "NAME has dtype object (None); give real numbers, such as a float array or a list of floats"),
    ([1j, 0, 1], "NAME has dtype complex128 ([1j, 0, 1]); give real numbers, such as a float array or a list of floats"),
]
NOT_PROBABILITIES = [
    ([0.2, math.nan, 0.8], "NAME holds nan at token 1; every probability must be a number from 0 to 1"),
    ([[0.2, 0.3, 0.5], [1.2, -0.2, 0.0]], "NAME holds -0.2 at row (1,), token 1; every probability must be at least 0"),
    ([0.2, 0.3, 0.6], "NAME: the row sums to 1.1; each row must sum to 1 (within 1e-06): divide it by its sum, or pass logits through softmax first"),
    ([[0.2, 0.3, 0.5], [0.5, 0.25, 0.125]], "NAME: row (1,) sums to 0.875; each row must sum to 1 (within 1e-06): divide it by its sum, or pass logits through softmax first"),
    ([math.inf, 0.0, 0.0], "NAME: the row sums to inf; each row must sum to 1 (within 1e-06): divide it by its sum, or pass logits through softmax first"),
    ([0.0, 0.0, 0.0], "NAME: the row sums to 0.0; each row must sum to 1 (within 1e-06): divide it by its sum, or pass logits through softmax first"),
]
NOT_LOGITS = [
    ([0.0, math.nan], "NAME holds nan at token 1; every logit must be a number or -inf"),
    ([[0.0, 1.0], [math.inf, 0.0]], "NAME holds inf at row (1,), token 0; a logit may be -inf (a masked token) but not +inf"),
    ([-math.inf, -math.inf], "NAME: the row holds nothing but -inf; leave at least one token a logit above -inf"),
    ([[0.0, 0.0], [-math.inf, -math.inf]], "NAME: row (1,) holds nothing but -inf; leave at least one token a logit above -inf"),
]

PAIR_FUNCTIONS = {
    "forward_kl": {}, "reverse_kl": {}, "generalized_jsd": {"beta": 0.5}, "alpha_divergence": {"alpha": 0.5},
    "skewed_forward_kl": {"skew": 0.1}, "skewed_reverse_kl": {"skew": 0.1}, "top_k_reverse_kl": {"k": 1},
}  # fmt: skip
PAIR_FUNCTIONS = [(getattr(objectives, name + suffix), arguments) for name, arguments in PAIR_FUNCTIONS.items() for suffix in ("", "_logit_gradient")]
PAIR_FUNCTIONS += [
    (getattr(estimators, name), arguments)
    for name, arguments in {
        "policy_gradient": {}, "k_estimator": {"kind": "k1"}, "k_estimator_as_loss": {"kind": "k1"}, "k_estimator_as_reward": {"kind": "k1"},
        "full_vocabulary_advantage": {}, "gkd": {}, "importance_weighted_policy_gradient": {"behaviour": P}, "truncated_policy_gradient": {"limit": 1},
        "normalized_policy_gradient": {}, "top_k_policy_gradient": {"k": 1}, "mixed_policy_gradient": {"reward": [0, 0, 1], "weight": 1}, "optimal_baseline": {},
    }.items()
]  # fmt: skip
every_function = pytest.mark.parametrize("function, arguments", PAIR_FUNCTIONS, ids=lambda x: getattr(x, "__name__", "-"))


def says(message):
    return pytest.raises(ValueError, match="^" + re.escape(message) + "$")


@every_function
@pytest.mark.parametrize("wrong, message", MALFORMED + NOT_PROBABILITIES, ids=range(13))
def test_malformed_probabilities(function, arguments, wrong, message):
    with says(message.replace("NAME", "student")):
        function(wrong, Q, **arguments)
    with says(message.replace("NAME", "teacher")):
        function(P, wrong, **arguments)


@pytest.mark.parametrize("wrong, message", MALFORMED + NOT_PROBABILITIES, ids=range(13))
def test_malformed_rows_elsewhere(wrong, message):
    for name, call in {
        "p": distributions.entropy,
        "q": lambda x: distributions.kl(P, x),
        "behaviour": lambda x: estimators.importance_weighted_policy_gradient(P, Q, x),
        "probabilities": lambda x: estimators.expectation(x, np.eye(3)),
        "teacher": lambda x: estimators.tilted_teacher(x, [0, 0, 1], 1),
        "student": lambda x: estimators.sequence_table(x, np.ones((1, 1))),
    }.items():
        with says(message.replace("NAME", name)):
            call(wrong)


@pytest.mark.parametrize("wrong, message", MALFORMED + NOT_LOGITS, ids=range(11))
def test_malformed_logits(wrong, message):
    for function in (distributions.softmax, distributions.log_softmax):
        with says(message.replace("NAME", "logits")):
            function(wrong)


@every_function
def test_mismatched_shapes(function, arguments):
    with says("student has shape (2,) and teacher (3,); both must have the same number of tokens V on the last axis"):
        function([0.5, 0.5], Q, **arguments)
    with says("student has shape (2, 1) and teacher (3, 1); their leading axes must be equal or broadcast"):
        function(np.ones((2, 1)), np.ones((3, 1)), **arguments)


@pytest.mark.parametrize("name, keyword", [("generalized_jsd", "beta"), ("skewed_forward_kl", "skew"), ("skewed_reverse_kl", "skew")])
@pytest.mark.parametrize("suffix", ["", "_logit_gradient"])
@pytest.mark.parametrize("wrong", [-1e-9, 1.0000001, math.nan, [0.5, 0.5]], ids=str)
def test_beta_and_skew_lie_between_0_and_1(name, keyword, suffix, wrong):
    with says(f"{keyword} is {wrong!r}; give one number from 0 to 1"):
        getattr(objectives, name + suffix)(P, Q, wrong)


def test_parameters_that_are_not_numbers():
    with says("beta has dtype object (None); give real numbers, such as a float array or a list of floats"):
        objectives.generalized_jsd(P, Q, None)
    for wrong in (math.nan, math.inf):
        with says(f"alpha is {wrong!r}; give one finite number"):
            objectives.alpha_divergence(P, Q, wrong)
        with says(f"alpha is {wrong!r}; give one finite number"):
            objectives.alpha_divergence_logit_gradient(P, Q, wrong)
        with says(f"baseline is {wrong!r}; give a finite number"):
            estimators.policy_gradient(P, Q, wrong)
        with says(f"weight is {wrong!r}; give one finite number"):
            estimators.mixed_policy_gradient(P, Q, [0, 0, 1], wrong)
        with says(f"mean is {wrong!r}; give one finite number"):
            estimators.schulman_table(wrong)
    with says("mean is 0; give a mean other than 0, as at 0 the KL that bias and spread are divided by is 0"):
        estimators.schulman_table(0)
    with says("limit is 0; give a number above 0"):
        estimators.truncated_policy_gradient(P, Q, 0)
    with says("clip is -1.0; give a number above 0"):
        estimators.importance_weighted_policy_gradient(P, Q, P, clip=-1.0)
    with says("baseline has shape (3,); give one number, or one for each batch row, shape ()"):
        estimators.policy_gradient(P, Q, [0, 0, 1])


@pytest.mark.parametrize("wrong", [0, 4, -1, 2.0, "2", None, True], ids=repr)
def test_k_is_an_int_from_1_to_v(wrong):
    for function in (objectives.top_k_reverse_kl, objectives.top_k_reverse_kl_logit_gradient, estimators.top_k_policy_gradient):
        with says(f"k is {wrong!r}; give a whole number (an int) from 1 to V = 3"):
            function(P, Q, wrong)


def test_unknown_names():
    for wrong in ("k4", "K1", 3):
        for function in (estimators.k_estimator, estimators.k_estimator_as_loss, estimators.k_estimator_as_reward):
            with says(f"kind is {wrong!r}; give one of 'k1', 'k2', 'k3'"):
                function(P, Q, wrong)
    for function in (objectives.top_k_reverse_kl, objectives.top_k_reverse_kl_logit_gradient):
        with says("outside is 'keep'; give one of 'renormalize', 'drop', 'tail'"):
            function(P, Q, 2, outside="keep")
    with says("tail is 'keep'; give one of 'sampled', 'drop'"):
        estimators.top_k_policy_gradient(P, Q, 2, tail="keep")


def test_tables_and_rewards():
    for function in (estimators.expectation, estimators.total_variance):
        with says("table has shape (2, 3); give one row for each of the 3 probabilities, shape (..., 3, columns)"):
            function(P, np.ones((2, 3)))
        with says("table has shape (3,); give one row for each of the 3 probabilities, shape (..., 3, columns)"):
            function(P, np.ones(3))
        with says("table holds nan at (1, 0); every entry must be a number"):
            function(P, [[0, 0], [math.nan, 0], [0, 0]])
        with says("probabilities has shape (2, 1) and table (3, 1, 1); their leading axes must be equal or broadcast"):
            function(np.ones((2, 1)), np.ones((3, 1, 1)))
    with says("reward has shape (2,); give one number a token, shape (3,)"):
        estimators.mixed_policy_gradient(P, Q, [0, 1], 1)
    with says("reward holds inf at token 0; every entry must be finite"):
        estimators.tilted_teacher(Q, [math.inf, 0, 0], 1)
    with says("student has shape (3,); give one row a position, shape (T, V)"):
        estimators.dense_and_broadcast(P, Q)


def test_long_input_is_quoted_in_part():
    with pytest.raises(ValueError, match=r"^student has dtype <U1 \(\['x', 'x', .*\.\.\.\); give real numbers") as caught:
        objectives.reverse_kl(["x"] * 1000, Q)
    assert len(str(caught.value)) < 200
