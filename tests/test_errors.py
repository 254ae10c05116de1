"""Every error names the argument, quotes what came and says what would be right."""

import math
import re

import numpy as np
import pytest

from opd_toy import distributions, estimators, objectives, off_policy, sequences
from opd_toy.sequences import table as table_module
from opd_toy.sequences import trees

P, Q = [0.2, 0.3, 0.5], [0.7, 0.2, 0.1]

MALFORMED = [  # (what comes, what is said of it, with NAME for the argument)
    (0.5, "NAME is the single number 0.5; give one number a token, shape (..., V)"),
    ([], "NAME is empty, shape (0,); give at least one token, shape (..., V) with V >= 1"),
    (
        np.ones((3, 0)),
        "NAME is empty, shape (3, 0); give at least one token, shape (..., V) with V >= 1",
    ),
    (
        [[0.5, 0.5], [1.0]],
        "NAME is ragged: [[0.5, 0.5], [1.0]]; "
        "give an array of numbers in which every row is equally long",
    ),
    (
        ["a", "b", "c"],
        "NAME has dtype <U1 (['a', 'b', 'c']); "
        "give real numbers, such as a float array or a list of floats",
    ),
    (
        None,
        "NAME has dtype object (None); "
        "give real numbers, such as a float array or a list of floats",
    ),
    (
        [1j, 0, 1],
        "NAME has dtype complex128 ([1j, 0, 1]); "
        "give real numbers, such as a float array or a list of floats",
    ),
]
NOT_PROBABILITIES = [
    (
        [0.2, math.nan, 0.8],
        "NAME holds nan at token 1; every probability must be a number from 0 to 1",
    ),
    (
        [[0.2, 0.3, 0.5], [1.2, -0.2, 0.0]],
        "NAME holds -0.2 at row (1,), token 1; every probability must be at least 0",
    ),
    (
        [0.2, 0.3, 0.6],
        "NAME: the row sums to 1.1; "
        "each row must sum to 1 (within 1e-06): divide it by its sum, "
        "or pass logits through softmax first",
    ),
    (
        [[0.2, 0.3, 0.5], [0.5, 0.25, 0.125]],
        "NAME: row (1,) sums to 0.875; "
        "each row must sum to 1 (within 1e-06): divide it by its sum, "
        "or pass logits through softmax first",
    ),
    (
        [math.inf, 0.0, 0.0],
        "NAME: the row sums to inf; "
        "each row must sum to 1 (within 1e-06): divide it by its sum, "
        "or pass logits through softmax first",
    ),
    (
        [0.0, 0.0, 0.0],
        "NAME: the row sums to 0.0; "
        "each row must sum to 1 (within 1e-06): divide it by its sum, "
        "or pass logits through softmax first",
    ),
]
NOT_LOGITS = [
    ([0.0, math.nan], "NAME holds nan at token 1; every logit must be a number or -inf"),
    (
        [[0.0, 1.0], [math.inf, 0.0]],
        "NAME holds inf at row (1,), token 0; a logit may be -inf (a masked token) but not +inf",
    ),
    (
        [-math.inf, -math.inf],
        "NAME: the row holds nothing but -inf; leave at least one token a logit above -inf",
    ),
    (
        [[0.0, 0.0], [-math.inf, -math.inf]],
        "NAME: row (1,) holds nothing but -inf; leave at least one token a logit above -inf",
    ),
]

PAIR_FUNCTIONS = {
    "forward_kl": {},
    "reverse_kl": {},
    "generalized_jsd": {"beta": 0.5},
    "alpha_divergence": {"alpha": 0.5},
    "skewed_forward_kl": {"skew": 0.1},
    "skewed_reverse_kl": {"skew": 0.1},
    "top_k_reverse_kl": {"k": 1},
}
PAIR_FUNCTIONS = [
    (getattr(objectives, name + suffix), arguments)
    for name, arguments in PAIR_FUNCTIONS.items()
    for suffix in ("", "_logit_gradient")
]
PAIR_FUNCTIONS += [
    (getattr(estimators, name), arguments)
    for name, arguments in {
        "policy_gradient": {},
        "k_estimator": {"kind": "k1"},
        "k_estimator_as_loss": {"kind": "k1"},
        "k_estimator_as_reward": {"kind": "k1"},
        "full_vocabulary_advantage": {},
        "gkd": {},
        "truncated_policy_gradient": {"limit": 1},
        "normalized_policy_gradient": {},
        "top_k_policy_gradient": {"k": 1},
        "mixed_policy_gradient": {"reward": [0, 0, 1], "weight": 1},
        "optimal_baseline": {},
    }.items()
]
PAIR_FUNCTIONS.append((off_policy.policy_gradient, {"behaviour": P}))
every_function = pytest.mark.parametrize(
    "function, arguments", PAIR_FUNCTIONS, ids=lambda x: getattr(x, "__name__", "-")
)


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
        "behaviour": lambda x: off_policy.policy_gradient(P, Q, x),
        "probabilities": lambda x: estimators.expectation(x, np.eye(3)),
        "teacher": lambda x: estimators.tilted_teacher(x, [0, 0, 1], 1),
        "student": lambda x: sequences.independent_table(x, np.ones((1, 1))),
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
    with says(
        "student has shape (2,) and teacher (3,); "
        "both must have the same number of tokens V on the last axis"
    ):
        function([0.5, 0.5], Q, **arguments)
    with says(
        "student has shape (2, 1) and teacher (3, 1); their leading axes must be equal or broadcast"
    ):
        function(np.ones((2, 1)), np.ones((3, 1)), **arguments)


@pytest.mark.parametrize(
    "name, keyword",
    [("generalized_jsd", "beta"), ("skewed_forward_kl", "skew"), ("skewed_reverse_kl", "skew")],
)
@pytest.mark.parametrize("suffix", ["", "_logit_gradient"])
@pytest.mark.parametrize("wrong", [-1e-9, 1.0000001, math.nan, [0.5, 0.5]], ids=str)
def test_beta_and_skew_lie_between_0_and_1(name, keyword, suffix, wrong):
    with says(f"{keyword} is {wrong!r}; give one number from 0 to 1"):
        getattr(objectives, name + suffix)(P, Q, wrong)


def test_parameters_that_are_not_numbers():
    with says(
        "beta has dtype object (None); give real numbers, such as a float array or a list of floats"
    ):
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
    with says(
        "mean is 0; "
        "give a mean other than 0, as at 0 the KL that bias and spread are divided by is 0"
    ):
        estimators.schulman_table(0)
    with says("limit is 0; give a number above 0"):
        estimators.truncated_policy_gradient(P, Q, 0)
    with says("baseline has shape (3,); give one number, or one for each batch row, shape ()"):
        estimators.policy_gradient(P, Q, [0, 0, 1])
    with says("baseline is [1.0, nan]; give a finite number"):
        estimators.policy_gradient([P, P], Q, [1.0, math.nan])


@pytest.mark.parametrize("wrong", [0, 4, -1, 2.0, "2", None, True], ids=repr)
def test_k_is_an_int_from_1_to_v(wrong):
    for function in (
        objectives.top_k_reverse_kl,
        objectives.top_k_reverse_kl_logit_gradient,
        estimators.top_k_policy_gradient,
    ):
        with says(f"k is {wrong!r}; give a whole number (an int) from 1 to 3"):
            function(P, Q, wrong)


def test_unknown_names():
    for wrong in ("k4", "K1", 3):
        for function in (
            estimators.k_estimator,
            estimators.k_estimator_as_loss,
            estimators.k_estimator_as_reward,
        ):
            with says(f"kind is {wrong!r}; give one of 'k1', 'k2', 'k3'"):
                function(P, Q, wrong)
    with says("kind is array([1, 2]); give one of 'k1', 'k2', 'k3'"):
        estimators.k_estimator(P, Q, np.array([1, 2]))
    for function in (objectives.top_k_reverse_kl, objectives.top_k_reverse_kl_logit_gradient):
        with says("outside is 'keep'; give one of 'renormalize', 'drop', 'tail'"):
            function(P, Q, 2, outside="keep")
    with says("tail is 'keep'; give one of 'sampled', 'drop'"):
        estimators.top_k_policy_gradient(P, Q, 2, tail="keep")


def test_tables_and_rewards():
    for function in (estimators.expectation, estimators.total_variance):
        with says(
            "table has shape (2, 3); "
            "give one row for each of the 3 probabilities, shape (..., 3, columns)"
        ):
            function(P, np.ones((2, 3)))
        with says(
            "table has shape (3,); "
            "give one row for each of the 3 probabilities, shape (..., 3, columns)"
        ):
            function(P, np.ones(3))
        with says("table holds nan at (1, 0); every entry must be a number"):
            function(P, [[0, 0], [math.nan, 0], [0, 0]])
        with says(
            "probabilities has shape (2, 1) and table (3, 1, 1); "
            "their leading axes must be equal or broadcast"
        ):
            function(np.ones((2, 1)), np.ones((3, 1, 1)))
    with says("reward has shape (2,); give one number a token, shape (3,)"):
        estimators.mixed_policy_gradient(P, Q, [0, 1], 1)
    with says("reward holds inf at token 0; every entry must be finite"):
        estimators.tilted_teacher(Q, [math.inf, 0, 0], 1)
    for call in (
        lambda: sequences.dense_and_broadcast(P, Q),
        lambda: sequences.independent_table(P, np.ones((3, 1))),
    ):
        with says("student has shape (3,); give one row a position, shape (T, V)"):
            call()
    with says(
        "start has dtype object (None); "
        "give real numbers, such as a float array or a list of floats"
    ):
        objectives.descend(lambda z: z, None, 0.1, 1)


def test_long_input_is_quoted_in_part():
    with pytest.raises(
        ValueError, match=r"^student has dtype <U1 \(\['x', 'x', .*\.\.\.\); give real numbers"
    ) as caught:
        objectives.reverse_kl(["x"] * 1000, Q)
    assert len(str(caught.value)) < 200


def test_the_behaviour_is_named_beside_the_student():
    for function in (off_policy.ratio, off_policy.second_moment):
        with says(
            "student has shape (2,) and behaviour (3,); "
            "both must have the same number of tokens V on the last axis"
        ):
            function([0.5, 0.5], Q)
    with says(
        "student has shape (3,) and behaviour (2,); "
        "both must have the same number of tokens V on the last axis"
    ):
        off_policy.policy_gradient(P, Q, [0.5, 0.5])
    longer = sequences.TokenTree.random(2, 4, 0)
    for call in (
        lambda: sequences.off_policy_reward_to_go(TREE, TEACHER, longer, 1),
        lambda: sequences.off_policy_gkd_gradient(TREE, TEACHER, longer),
        lambda: sequences.token_ratios(TREE, longer),
        lambda: sequences.ratio_second_moments(TREE, longer),
    ):
        with says(
            "student has V = 2, T = 3 and behaviour V = 2, T = 4; "
            "both must have the same vocabulary and length"
        ):
            call()


def test_an_input_of_80_characters_is_quoted_whole():
    for length, quoted in ((78, repr("x" * 78)), (79, "'" + 76 * "x" + "...")):
        with says(f"kind is {quoted}; give one of 'k1', 'k2', 'k3'"):
            estimators.k_estimator(P, Q, "x" * length)


def test_up_to_where_a_sum_is_taken_as_rounded():
    for excess, given_back in ((0.5e-12, 0.5e-12), (1.5e-12, 0.0), (0.9e-6, 0.0)):
        rows = [0.5, 0.5 + excess], [[0.25, 0.75], [0.5, 0.5 + excess]]
        for row in (distributions._validate.probabilities("p", one) for one in rows):
            assert abs(row.sum(axis=-1).max() - 1 - given_back) < 1e-15
    for excess in (1.1e-6, -1.1e-6):
        with pytest.raises(ValueError, match="^p: the row sums to"):
            distributions.entropy([0.5, 0.5 + excess])


@pytest.mark.parametrize("limits", [(0, 0), (0, math.inf), (0.5, 0)])
def test_limits_at_the_edge_of_what_is_allowed(limits):
    off_policy.policy_gradient(P, Q, Q, "clip", limits)
    off_policy.policy_gradient(P, Q, Q, "mask", sorted(limits))


@pytest.mark.parametrize("limits", [(math.inf, 1), (0.2, -0.1), (0.1, 0.2, 0.3), [0.1]])
def test_limits_beyond_it(limits):
    for correction in ("clip", "mask"):
        with says(f"limits is {limits!r}; give two numbers of at least 0: (low, high)"):
            off_policy.policy_gradient(P, Q, Q, correction, limits)


# Sequences -----------------------------------------------------------------------------

TREE, TEACHER = sequences.TokenTree.random(2, 3, 1), sequences.TokenTree.random(2, 3, 2)
REWARD = np.arange(8.0)


@pytest.mark.parametrize("wrong, message", MALFORMED + NOT_LOGITS, ids=range(11))
def test_malformed_logits_of_a_tree(wrong, message):
    with says(message.replace("NAME", "logits[0]")):
        sequences.TokenTree([wrong])


def test_malformed_trees():
    make = sequences.TokenTree
    for wrong in ([], (), np.zeros((1, 2)), None):
        with pytest.raises(
            ValueError,
            match=r"^logits is .*; give one array a position, logits\[t\] of shape \(V\*\*t, V\)$",
        ):
            make(wrong)
    with says("logits[0] has shape (2,); give one row a prefix of 0 tokens, shape (1, 2)"):
        make([[0.0, 1.0]])
    with says("logits[1] has shape (3, 2); give one row a prefix of 1 tokens, shape (2, 2)"):
        make([np.zeros((1, 2)), np.zeros((3, 2))])
    with says("logits[1] has shape (2, 3); give one row a prefix of 1 tokens, shape (2, 2)"):
        make([np.zeros((1, 2)), np.zeros((2, 3))])
    for wrong in (0, 2.0, True, "2", None):
        with says(f"vocabulary is {wrong!r}; give a whole number (an int) of at least 1"):
            make.random(wrong, 3, 0)
        with says(f"length is {wrong!r}; give a whole number (an int) of at least 1"):
            make.random(2, wrong, 0)
        with says(f"length is {wrong!r}; give a whole number (an int) of at least 1"):
            make.repeat(P, wrong)
        with says(f"vocabulary is {wrong!r}; give a whole number (an int) of at least 1"):
            sequences.LazyTree.random(wrong, 3, 0)
        with says(f"length is {wrong!r}; give a whole number (an int) of at least 1"):
            sequences.LazyTree.random(2, wrong, 0)
    with says("scale is nan; give one finite number"):
        make.random(2, 3, 0, scale=math.nan)
    with says("seed is -1; give a whole number (an int) of at least 0"):
        sequences.LazyTree.random(2, 3, -1)
    for wrong in (-1, 1.5, "one", None):
        for call in (
            lambda seed: sequences.TokenTree.random(2, 3, seed),
            lambda seed: sequences.sample_estimate(TREE, TEACHER, 1, "sampled", 10, seed),
        ):
            with says(f"seed is {wrong!r}; give a whole number (an int) of at least 0"):
                call(wrong)
    with says("logits_after is 3; give a function from prefixes (N, t) to logits (N, V)"):
        sequences.LazyTree(2, 3, 3)
    for call in (lambda: make.random(10, 9, 0), lambda: make.repeat(np.full(10, 0.1), 9)):
        with says(
            "vocabulary is 10 and length 9, V**T sequences; "
            "give at most 100000000, or sample from a LazyTree"
        ):
            call()
    with says(
        "probabilities has shape (2, 3) and length is 3; "
        "give (V,) and a length, or one row a position, shape (T, V)"
    ):
        make.repeat([P, Q], 3)
    with says(
        "probabilities has shape (2, 2, 1) and length is None; "
        "give (V,) and a length, or one row a position, shape (T, V)"
    ):
        make.repeat(np.ones((2, 2, 1)))
    with says(
        "probabilities: the row sums to 0.5; "
        "each row must sum to 1 (within 1e-06): divide it by its sum, "
        "or pass logits through softmax first"
    ):
        make.repeat([0.25, 0.25], 2)


def test_as_large_as_may_be(monkeypatch):
    assert trees._enumerable(10, 8) == (10, 8)
    table = sequences.SequenceTable(TREE, np.zeros((8, 3)))
    monkeypatch.setattr(table_module, "LARGEST_TABLE", 8 * 14)
    assert table.dense().shape == (8, 14)


@pytest.mark.parametrize("tree", [TREE, sequences.LazyTree.random(2, 3, 0)])
def test_prefixes(tree):
    for wrong in ([0, 1], [[0.5]], np.zeros((2, 3), int)):
        with says(
            f"prefixes has shape {np.shape(wrong)} and dtype {np.asarray(wrong).dtype}; "
            "give whole numbers, shape (N, t) with t from 0 to T - 1 = 2"
        ):
            tree.log_probabilities_after(wrong)
    for low, high in ((-1, 0), (0, 2)):
        with says(
            f"prefixes holds tokens from {low} to {high}; "
            "a token is a whole number from 0 to V - 1 = 1"
        ):
            tree.log_probabilities_after([[low], [high]])


PAIRS_OF_TREES = {
    "sequence_kl": {},
    "sequence_kl_gradient": {},
    "on_policy_gkd_gradient": {},
    "decomposition": {},
    "token_costs": {},
    "token_kls": {},
    "full_return": {},
    "reward_to_go": {"gamma": 1},
    "reward_to_go_table": {"gamma": 1},
    "generalized_advantage": {"gamma": 1, "lam": 1},
    "mixed": {"reward": REWARD, "alpha": 1},
    "top_k": {"k": 1},
    "bias_variance_polynomials": {},
    "best_gamma": {"samples": 10},
}


@pytest.mark.parametrize("name", PAIRS_OF_TREES)
def test_pairs_of_trees(name):
    function, arguments = getattr(sequences, name), PAIRS_OF_TREES[name]
    with says(
        "student has V = 2, T = 3 and teacher V = 3, T = 3; "
        "both must have the same vocabulary and length"
    ):
        function(TREE, sequences.TokenTree.random(3, 3, 0), **arguments)
    with says(
        "student has V = 2, T = 2 and teacher V = 2, T = 3; "
        "both must have the same vocabulary and length"
    ):
        function(sequences.TokenTree.random(2, 2, 0), TEACHER, **arguments)
    with says("student is [0.2, 0.3, 0.5]; give a TokenTree"):
        function(P, TEACHER, **arguments)
    with says("teacher is [0.2, 0.3, 0.5]; give a TokenTree"):
        function(TREE, P, **arguments)


@pytest.mark.parametrize("wrong", [-1e-9, 1.0000001, math.nan, math.inf, [0.5, 0.5]], ids=str)
def test_gamma_and_lam_lie_between_0_and_1(wrong):
    calls = {
        "reward_to_go": (TREE, TEACHER),
        "reward_to_go_table": (TREE, TEACHER),
        "discounted_return": (REWARD,),
        "state_values": (TREE, np.zeros((8, 3))),
        "outcome": (TREE, REWARD),
        "mixed": (TREE, TEACHER, REWARD, 1.0),
        "future_kl": (TREE, TEACHER),
        "independent_variance": ([P], [Q]),
    }
    message = f"is {wrong!r}; give one number from 0 to 1"
    for name, arguments in calls.items():
        with says("gamma " + message):
            getattr(sequences, name)(*arguments, gamma=wrong)
    with says("gamma " + message):
        sequences.generalized_advantage(TREE, TEACHER, wrong, 1)
    with says("lam " + message):
        sequences.generalized_advantage(TREE, TEACHER, 1, wrong)
    with says("gamma " + message):
        sequences.sample_estimate(TREE, TEACHER, wrong, "sampled", 10, 0)
    with says("low " + message):
        sequences.fipo_weight(TREE, TEACHER, 1, wrong, 0.2)
    with says("gamma " + message):
        sequences.fipo(TREE, TEACHER, REWARD, wrong, 0.2, 0.2)


def test_signals_and_baselines():
    signals = "give one of 'sampled', 'full_vocabulary', 'full_vocabulary_future'"
    for wrong in ("full", "Sampled", None):
        for call in (
            lambda signal: sequences.full_return(TREE, TEACHER, signal),
            lambda signal: sequences.reward_to_go(TREE, TEACHER, 1, signal),
            lambda signal: sequences.mixed(TREE, TEACHER, REWARD, 1, 1, signal),
            lambda signal: sequences.best_gamma(TREE, TEACHER, 1, signal),
            lambda signal: sequences.independent_variance([P], [Q], 1, signal),
            lambda signal: sequences.sample_estimate(TREE, TEACHER, 1, signal, 10, 0),
        ):
            with says(f"signal is {wrong!r}; {signals}"):
                call(wrong)
    for call in (
        lambda b: sequences.reward_to_go(TREE, TEACHER, 1, baseline=b),
        lambda b: sequences.full_return(TREE, TEACHER, baseline=b),
        lambda b: sequences.outcome(TREE, REWARD, baseline=b),
    ):
        with says("baseline is 'mean'; give one of 'value', 'optimal'"):
            call("mean")
        with says("baseline is nan; give one finite number"):
            call(math.nan)
        with pytest.raises(
            ValueError, match=r"^baseline is array\(\[0., 0., 0.\]\); give one finite number$"
        ):
            call(np.zeros(3))
        with says("baseline is [0.0, 1.0]; give one array a position, 3 in all"):
            call([0.0, 1.0])
        with says("baseline[1] has shape (1,); give one number a prefix of 1 tokens, shape (2,)"):
            call(([0.0], [1.0], [0.0] * 4))
        with says("baseline[2] holds inf at (3,); every entry must be finite"):
            call(([0.0], [1.0, 2.0], [0.0, 0.0, 0.0, math.inf]))


def test_arrays_along_sequences():
    for call in (
        lambda r: sequences.outcome(TREE, r),
        lambda r: sequences.broadcast_outcome(TREE, r),
        lambda r: sequences.mixed(TREE, TEACHER, r, 1),
        lambda r: sequences.fipo(TREE, TEACHER, r, 1, 0.2, 0.2),
    ):
        with says("reward has shape (3,); give one number a sequence, shape (V**T,) = (8,)"):
            call([1, 2, 3])
        with says("reward holds nan at (1,); every entry must be finite"):
            call([0, math.nan] * 4)
    with says(
        "costs has shape (3, 8); give one number a sequence and position, shape (V**T, T) = (8, 3)"
    ):
        sequences.state_values(TREE, np.zeros((3, 8)), 1)
    for wrong in (math.nan, math.inf):
        with says(f"costs holds {wrong!r} at (1,); every entry must be finite"):
            sequences.discounted_return([0.0, wrong], 1)
    with says("costs is the single number 0.5; give one number a token, shape (..., V)"):
        sequences.discounted_return(0.5, 1)
    with says("values[2] has shape (2,); give one number a prefix of 2 tokens, shape (4,)"):
        sequences.generalized_advantage(TREE, TEACHER, 1, 1, ([0.0], [0.0, 0.0], [0.0, 0.0]))
    for wrong in (5, "abc", [[0.0]]):
        with says(f"values is {wrong!r}; give one array a position, 3 in all"):
            sequences.generalized_advantage(TREE, TEACHER, 1, 1, wrong)
    with says("student is [0.2, 0.3, 0.5]; give a TokenTree"):
        sequences.outcome(P, REWARD)
    with says("student is [0.2, 0.3, 0.5]; give a TokenTree"):
        sequences.state_values(P, REWARD, 1)


def test_sequence_tables():
    make = sequences.SequenceTable
    with says(
        "weights has shape (8,); give one number a sequence and position, shape (V**T, T) = (8, 3)"
    ):
        make(TREE, REWARD)
    with says("weights holds inf at (0, 0); every entry must be finite"):
        make(TREE, np.full((8, 3), math.inf))
    with says("student is [0.2, 0.3, 0.5]; give a TokenTree"):
        make(P, np.zeros((8, 3)))
    with says("local[0] has shape (2,); give one row a prefix of 0 tokens, shape (1, 2)"):
        make(TREE, np.zeros((8, 3)), ([0.0, 0.0],) * 3)
    with says("probabilities has shape (2,); give one number a sequence, shape (8,)"):
        make(TREE, np.zeros((8, 3)), None, [0.5, 0.5])
    with says(
        "probabilities: the row sums to 28.0; "
        "each row must sum to 1 (within 1e-06): divide it by its sum, "
        "or pass logits through softmax first"
    ):
        make(TREE, np.zeros((8, 3)), None, REWARD)
    table = make(TREE, np.zeros((8, 3)))
    for call in (table.bias, lambda g: table.mean_squared_error(g, 10)):
        with says("gradient has shape (3,); give one number a parameter, shape (14,)"):
            call(P)
    with says("gradient holds nan at (3,); every entry must be finite"):
        table.bias(np.where(np.arange(14) == 3, math.nan, 0.0))
    for wrong in (0, -2):
        with says(f"samples is {wrong}; give a number above 0"):
            table.mean_squared_error(np.zeros(14), wrong)
        with says(f"samples is {wrong}; give a number above 0"):
            sequences.best_gamma(TREE, TEACHER, wrong)
    big = sequences.TokenTree.random(4, 8, 0)
    with says(
        "student has V = 4, T = 8: 65536 rows of 87380 entries; "
        "dense() holds at most 268435456 entries, expectation() and total_variance() need none"
    ):
        make(big, np.zeros((4**8, 8))).dense()


def test_parameters_of_sequence_estimators():
    for wrong in (math.nan, math.inf):
        with says(f"alpha is {wrong!r}; give one finite number"):
            sequences.mixed(TREE, TEACHER, REWARD, wrong)
    with says("high is -0.1; give a number of at least 0"):
        sequences.fipo_weight(TREE, TEACHER, 1, 0.2, -0.1)
    assert sequences.fipo_weight(TREE, TEACHER, 1, 0.2, 0).max() == 1
    with says("ratio_limit is 0; give a number above 0"):
        sequences.future_kl(TREE, TEACHER, 1, 0)
    with says(
        "student has V = 2, T = 3 and old V = 3, T = 3; "
        "both must have the same vocabulary and length"
    ):
        sequences.fipo(TREE, sequences.TokenTree.random(3, 3, 0), REWARD, 1, 0.2, 0.2)
    for wrong in (0, 3, 1.0, True):
        with says(f"k is {wrong!r}; give a whole number (an int) from 1 to 2"):
            sequences.top_k(TREE, TEACHER, wrong)
    with says("outside is 'keep'; give one of 'renormalize', 'drop', 'tail'"):
        sequences.top_k(TREE, TEACHER, 1, "keep")
    barred = sequences.TokenTree.repeat([1.0, 0.0], 3)
    infinite = (
        "teacher gives probability 0 to token 1 after the prefix (), "
        "where the student can draw it: the KL is infinite and has no gradient; "
        "give the teacher's logit a finite value there, or set the student's to -inf too"
    )
    with says(infinite):
        sequences.top_k(TREE, barred, 2)
    with says(infinite):
        sequences.reward_to_go(TREE, barred, 1)
    with says(infinite):
        sequences.sample_estimate(TREE, barred, 1, "sampled", 10, 0)


def test_beyond_enumeration():
    with says("student has shape (3,); give one row a position, shape (T, V)"):
        sequences.independent_variance(P, Q, 1)
    with says("gamma is 0.5 with causal=False; the full return has no discount: give gamma = 1"):
        sequences.independent_variance([P], [Q], 0.5, causal=False)
    with says(
        "teacher holds 0.0 at row (1,), token 2, where student holds 0.5: "
        "the KL is infinite and has no gradient; "
        "give it a probability above 0"
    ):
        sequences.independent_variance([P, P], [Q, [0.5, 0.5, 0.0]], 1)
    for lengths, variances, message in (
        (
            [1, 2],
            [1.0],
            "lengths has shape (2,) and variances (1,); "
            "give two or more of each, as many of one as of the other",
        ),
        (
            [1],
            [1.0],
            "lengths has shape (1,) and variances (1,); "
            "give two or more of each, as many of one as of the other",
        ),
        ([1, 2], [1.0, 0.0], "variances is [1.0, 0.0]; give finite numbers above 0"),
        ([0, 2], [1.0, 1.0], "lengths is [0.0, 2.0]; give finite numbers above 0"),
        ([2, 2], [1.0, 1.0], "lengths is [2.0, 2.0]; give increasing numbers"),
        ([1, 3, 2], [1.0, 1.0, 1.0], "lengths is [1.0, 3.0, 2.0]; give increasing numbers"),
        ([1, 2], [1.0, math.inf], "variances is [1.0, inf]; give finite numbers above 0"),
        (
            [[1, 2], [3, 4]],
            [[1.0, 2.0], [3.0, 4.0]],
            "lengths has shape (2, 2) and variances (2, 2); "
            "give two or more of each, as many of one as of the other",
        ),
    ):
        with says(message):
            sequences.growth_exponents(lengths, variances)
    for wrong in (1, 0, 2.5, None):
        with says(f"samples is {wrong!r}; give a whole number (an int) of at least 2"):
            sequences.sample_estimate(TREE, TEACHER, 1, "sampled", wrong, 0)
    for name, pair in (("student", (P, TREE)), ("teacher", (TREE, P))):
        with says(
            f"{name} is [0.2, 0.3, 0.5], without vocabulary; "
            "give a TokenTree, a LazyTree or an object with vocabulary, "
            "length and log_probabilities_after"
        ):
            sequences.sample_estimate(*pair, 1, "sampled", 10, 0)
    with says(
        "student has V = 2, T = 3 and teacher V = 2, T = 4; "
        "both must have the same vocabulary and length"
    ):
        sequences.sample_estimate(TREE, sequences.LazyTree.random(2, 4, 0), 1, "sampled", 10, 0)
