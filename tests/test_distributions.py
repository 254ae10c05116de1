"""Probabilities, entropy and KL, held to 50-digit evaluation and to their edge cases."""

import math

import mpmath as mp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opd_toy.distributions import entropy, kl, log_softmax, softmax
from opd_toy.example import STUDENT, TEACHER
from tests import reference

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")

LOG = 2e-15  # numpy's vectorised log and exp may each be wrong by 4 units in the last place

VOCABULARIES = [1, 2, 3, 10, 100, 1000]


def rows(size, zeros=True):
    """Hypothesis rows of probabilities, some with zeros and very small entries."""
    entry = st.one_of(st.floats(1e-3, 1.0), st.sampled_from([1e-300, 1e-30, 1e-8] + [0.0] * zeros))
    return (
        st.lists(entry, min_size=size, max_size=size)
        .filter(lambda row: max(row) > 1e-3)
        .map(lambda row: np.array(row) / sum(row))
    )


pairs = st.integers(1, 6).flatmap(lambda size: st.tuples(rows(size), rows(size)))


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_softmax_and_log_softmax_at_50_digits(vocabulary):
    logits = 5 * np.random.default_rng(vocabulary).standard_normal(vocabulary)
    exact = reference.softmax([mp.mpf(z) for z in logits])
    np.testing.assert_allclose(softmax(logits), [float(x) for x in exact], rtol=1e-13)
    np.testing.assert_allclose(
        log_softmax(logits), [float(mp.log(x)) for x in exact], rtol=1e-13, atol=0
    )


def test_log_softmax_keeps_the_log_of_nearly_one():
    exact = -mp.log1p(mp.exp(-60))
    np.testing.assert_allclose(log_softmax([60.0, 0.0])[0], float(exact), rtol=1e-13)


def test_logits_of_ten_thousand():
    assert softmax([1e4, -1e4]).tolist() == [1.0, 0.0]
    assert log_softmax([1e4, -1e4]).tolist() == [0.0, -2e4]
    assert softmax([-1e4, -1e4]).tolist() == [0.5, 0.5]


def test_minus_infinite_logits_are_exact_zeros():
    z = [0.0, -math.inf, 0.0]
    assert softmax(z).tolist() == [0.5, 0.0, 0.5]
    np.testing.assert_allclose(log_softmax(z), [-math.log(2), -math.inf, -math.log(2)], rtol=LOG)


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_kl_and_entropy_at_50_digits(vocabulary):
    for seed in range(5):
        p, q = reference.random_pair(vocabulary, seed)
        exact_p, exact_q = reference.normalised(p), reference.normalised(q)
        reference.close(kl(p, q), reference.kl(exact_p, exact_q) if vocabulary > 1 else 0)
        reference.close(entropy(p), -mp.fsum(x * mp.log(x) for x in exact_p))


@pytest.mark.parametrize("gap", [1e-2, 1e-4, 1e-6, 1e-9])
@pytest.mark.parametrize("vocabulary", [2, 3, 100, 1000])
def test_kl_of_nearly_equal_pairs_keeps_its_digits(vocabulary, gap):
    p, noise = reference.random_pair(vocabulary, 7)
    q = p * (1 + gap * np.cos(np.arange(vocabulary)))
    q /= q.sum()
    reference.close(kl(p, q), reference.kl(reference.normalised(p), reference.normalised(q)))


def test_zeros():
    assert entropy([1.0, 0.0]) == 0.0 and not np.signbit(entropy([1.0, 0.0]))
    np.testing.assert_allclose(kl([0.5, 0.5, 0.0], [0.25, 0.25, 0.5]), math.log(2), rtol=LOG)
    assert kl([0.5, 0.5], [1.0, 0.0]) == math.inf
    assert kl([1.0, 0.0], [0.0, 1.0]) == math.inf
    assert kl([1.0, 0.0], [1.0, 0.0]) == 0.0


def test_very_small_probabilities():
    tiny = 5e-324
    np.testing.assert_allclose(kl([1.0, 0.0], [1.0, tiny]), 0.0, atol=1e-320)
    np.testing.assert_allclose(
        kl([0.5, 0.5], [1.0, tiny]), math.log(0.5) - 0.5 * math.log(tiny), rtol=1e-14
    )
    assert kl([1.0, tiny], [1.0, 0.0]) == math.inf


def test_one_token():
    assert (softmax([3.0]), log_softmax([3.0]), entropy([1.0]), kl([1.0], [1.0])) == (
        1.0,
        0.0,
        0.0,
        0.0,
    )


def test_leading_axes_are_batch():
    p = reference.random_pair(4, 1)
    q = reference.random_pair(4, 2)
    batch = kl(p[:, None], q[None, :])
    assert batch.shape == (2, 2) and batch.dtype == np.float64
    # Not to the last bit: numpy's vector loop and its scalar remainder may round log differently.
    np.testing.assert_allclose(batch[1, 0], kl(p[1], q[0]), rtol=1e-14)
    assert softmax(np.zeros((2, 3, 4))).shape == (2, 3, 4)
    assert kl(np.ones((0, 1)), np.ones((0, 1))).shape == (0,)


def test_float64_whatever_comes():
    assert softmax([0, 1]).dtype == softmax(np.zeros(3, np.float32)).dtype == np.float64
    assert kl([1, 0], [1, 0]).dtype == np.float64
    p = np.array([0.1, 0.2, 0.7], np.float32)
    assert kl(p, p) == 0.0


def test_a_row_of_rounded_decimals_is_read_as_a_distribution():
    third = [0.3333333, 0.3333333, 0.3333333]
    np.testing.assert_allclose(
        kl(third, [0.5, 0.25, 0.25]), (math.log(2 / 3) + 2 * math.log(4 / 3)) / 3, rtol=1e-13
    )


@settings(max_examples=200, deadline=None, derandomize=True)
@given(pairs)
def test_kl_nonnegative(pair):
    p, q = pair
    assert kl(p, q) >= 0 and not np.isnan(kl(p, q))
    assert kl(p, p) == 0


def test_kl_asymmetric():
    p, q = [0.2, 0.3, 0.5], [0.7, 0.2, 0.1]
    exact = [
        reference.kl(reference.normalised(a), reference.normalised(b)) for a, b in ((p, q), (q, p))
    ]
    np.testing.assert_allclose([kl(p, q), kl(q, p)], [float(x) for x in exact], rtol=1e-14)
    assert [round(float(x), 4) for x in exact] == [0.6758, 0.6349]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(pairs, st.randoms(use_true_random=False))
def test_kl_does_not_see_the_order_of_tokens(pair, random):
    p, q = pair
    order = random.sample(range(len(p)), len(p))
    np.testing.assert_allclose(kl(p[order], q[order]), kl(p, q), rtol=1e-12)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.floats(-30, 30), min_size=1, max_size=6), st.floats(-1e3, 1e3))
def test_softmax_does_not_see_a_shift(logits, shift):
    z = np.array(logits)
    np.testing.assert_allclose(softmax(z + shift), softmax(z), rtol=1e-11)
    np.testing.assert_allclose(softmax(z).sum(), 1.0, rtol=1e-14)


def test_entropy_counts_the_rarest_token():
    p = [1 - 1e-12, 1e-12]
    expected = -sum(x * mp.log(x) for x in reference.normalised(p))
    # p sums to 1 within rounding only; 1e-4 of an entropy of 3e-11 is the room that takes.
    np.testing.assert_allclose(entropy(p), float(expected), rtol=1e-4)


@pytest.mark.parametrize("shared", [STUDENT, TEACHER], ids=["student", "teacher"])
def test_nobody_can_write_into_the_example(shared):
    with pytest.raises(ValueError, match="read-only"):
        shared[0] = 0.0
