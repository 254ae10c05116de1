"""Objectives and their logit gradients, held to three witnesses: central differences at
50 digits, torch autograd in float64, and closed forms at 50 digits."""

import math

import mpmath as mp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from opd_toy import objectives
from opd_toy.distributions import softmax
from opd_toy.example import STUDENT as P
from opd_toy.example import TEACHER as Q
from opd_toy.objectives import (
    alpha_divergence,
    descend,
    forward_kl,
    forward_kl_logit_gradient,
    generalized_jsd,
    generalized_jsd_logit_gradient,
    reverse_kl,
    reverse_kl_logit_gradient,
    skewed_forward_kl,
    skewed_reverse_kl,
    top_k_reverse_kl,
    top_k_reverse_kl_logit_gradient,
)
from tests import reference
from tests.test_distributions import LOG, pairs

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")

case = pytest.mark.parametrize(
    "name, arguments",
    reference.CASES,
    ids=lambda x: x if isinstance(x, str) else ",".join(map(str, x.values())) or "-",
)


def both(name):
    return getattr(objectives, name), getattr(objectives, name + "_logit_gradient")


# The witnesses ----------------------------------------------------------------


@case
def test_values_at_50_digits(name, arguments):
    for vocabulary in (3, 10, 300):
        for seed in range(3):
            p, q = reference.random_pair(vocabulary, seed)
            expected = reference.value(
                name, reference.normalised(p), reference.normalised(q), arguments
            )
            # The one value that is a plain alternating sum is held to the size of its terms.
            reference.close(
                both(name)[0](p, q, **arguments),
                expected,
                1e-12 if arguments.get("outside") != "drop" else 1e-11,
            )


@case
def test_gradients_against_differences_at_50_digits(name, arguments):
    for vocabulary, seed in ((3, 0), (5, 1)):
        logits = np.random.default_rng(seed).normal(scale=2, size=vocabulary)
        _, q = reference.random_pair(vocabulary, seed)
        expected = reference.logit_gradient(
            name, [mp.mpf(z) for z in logits], reference.normalised(q), arguments
        )
        if arguments in ({"skew": 1}, {"k": 1, "outside": "renormalize"}):
            assert np.all(both(name)[1](softmax(logits), q, **arguments) == 0)
        else:
            reference.close(both(name)[1](softmax(logits), q, **arguments), expected)


@pytest.mark.parametrize("beta", [1e-12, 1e-9, 0.5, 1 - 1e-9])
@pytest.mark.parametrize("gap", [1e-2, 1e-5, 1e-9])
@pytest.mark.parametrize("vocabulary", [2, 100, 1000])
def test_jsd_near_its_ends_and_near_equality(vocabulary, gap, beta):
    p, _ = reference.random_pair(vocabulary, 3, spread=1.0)
    q = p * (1 + gap * np.cos(3 * np.arange(vocabulary)))
    q /= q.sum()
    with mp.workdps(80):
        exact_p, exact_q = reference.normalised(p), reference.normalised(q)
        expected = reference.generalized_jsd(exact_p, exact_q, beta)
        assert expected > 0
        reference.close(generalized_jsd(p, q, beta), expected)
        middle = reference.mix(exact_p, exact_q, beta)
        ratio = [mp.log(a / m) for a, m in zip(exact_p, middle)]
        mean = mp.fsum(a * r for a, r in zip(exact_p, ratio))
        reference.close(
            generalized_jsd_logit_gradient(p, q, beta),
            [(1 - mp.mpf(beta)) * a * (r - mean) for a, r in zip(exact_p, ratio)],
        )


@pytest.mark.parametrize(
    "name, arguments", [c for c in reference.CASES if c[1].get("outside") != "drop"], ids=str
)
def test_nearly_equal_pairs_keep_their_digits(name, arguments):
    p, _ = reference.random_pair(4, 11)
    value, gradient = both(name)
    for gap in (1e-3, 1e-7):
        q = p * (1 + gap * np.array([1.0, -2.0, 0.5, 3.0]))
        q /= q.sum()
        if arguments == {"k": 1, "outside": "renormalize"}:  # one token renormalised is 1 against 1
            assert value(p, q, **arguments) == 0
            continue
        with mp.workdps(80):
            a, b = reference.normalised(p), reference.normalised(q)
            expected = reference.value(name, a, b, arguments)
            expected_gradient = reference.logit_gradient(name, [mp.log(x) for x in a], b, arguments)
        # Renormalised and pooled probabilities are rounded once more, by 1e-16 against the gap.
        tolerance = 1e-15 / gap if "k" in arguments else 1e-12
        reference.close(value(p, q, **arguments), expected, tolerance)
        if gradient(p, q, **arguments).tolist() == (p - q).tolist():
            expected_gradient = (
                p - q
            )  # the forward KL's is p - q to the last digit, not that of rows divided by their sums
        if arguments.get("skew") != 1:
            reference.close(gradient(p, q, **arguments), expected_gradient, tolerance)


@pytest.mark.parametrize("alpha", [-200.0, 200.0])
def test_a_large_alpha_between_close_tokens(alpha):
    """Tokens within a tenth of each other, but p/q to the power alpha is far from 1."""
    p = np.array([0.2, 0.3, 0.5])
    q = p * [1.09, 0.96, 0.988]
    expected = reference.alpha_divergence(*map(reference.normalised, (p, q)), alpha)
    reference.close(alpha_divergence(p, q, alpha), expected, 1e-11)


def torch_value(name, z, q, beta=None, alpha=None, skew=None, k=None, outside=None):
    """The textbook formulas, in torch: nothing of the engine."""
    p = torch.softmax(z, -1)

    def kl(a, b):
        return (a * (a / b).log()).sum()

    if name == "forward_kl" or 0 in (beta, alpha):
        return kl(q, p)
    if name == "reverse_kl" or 1 in (beta, alpha):
        return kl(p, q)
    if name == "generalized_jsd":
        middle = (1 - beta) * p + beta * q
        return beta * kl(q, middle) + (1 - beta) * kl(p, middle)
    if name == "alpha_divergence":
        return ((p**alpha * q ** (1 - alpha)).sum() - 1) / (alpha * (alpha - 1))
    if name == "skewed_forward_kl":
        return kl(q, skew * q + (1 - skew) * p)
    if name == "skewed_reverse_kl":
        return kl(p, (1 - skew) * q + skew * p)
    head = torch.sort(q, descending=True, stable=True).indices[:k]
    a, b = p[head], q[head]
    if outside == "renormalize":
        return kl(a / a.sum(), b / b.sum())
    if outside == "tail" and k < len(q):
        return kl(torch.cat([a, (1 - a.sum())[None]]), torch.cat([b, (1 - b.sum())[None]]))
    return kl(a, b)


@case
def test_gradients_against_torch_autograd(name, arguments):
    # Autograd of the textbook alpha-divergence divides a rounding error by alpha or 1 - alpha.
    ends = any(
        0 < abs(x - end) < 1e-6
        for x in arguments.values()
        if isinstance(x, float)
        for end in (0, 1)
    )
    for vocabulary in (3, 50):
        generator = np.random.default_rng(vocabulary)
        z = torch.tensor(generator.normal(size=vocabulary), requires_grad=True)
        q = torch.softmax(torch.tensor(generator.normal(size=vocabulary)), -1)
        torch_value(name, z, q, **arguments).backward()
        actual = both(name)[1](softmax(z.detach().numpy()), q.numpy(), **arguments)
        np.testing.assert_allclose(actual, z.grad.numpy(), atol=1e-6 if ends else 1e-14, rtol=1e-12)


def test_two_hundred_thousand_tokens_at_50_digits():
    p, q = reference.random_pair(200_000, 5)  # rows that sum to 1 within 1e-15: as they stand
    a, b = [mp.mpf(x) for x in p], [mp.mpf(x) for x in q]
    quotient = [y / x for x, y in zip(a, b)]
    ratio = [-mp.log(x) for x in quotient]  # log(p/q)
    mean = mp.fdot(a, ratio)
    reference.close(reverse_kl(p, q), mean)
    reference.close(forward_kl(p, q), -mp.fdot(b, ratio))
    reference.close(reverse_kl_logit_gradient(p, q), [x * (r - mean) for x, r in zip(a, ratio)])
    reference.close(forward_kl_logit_gradient(p, q), [x - y for x, y in zip(a, b)])
    middle = [mp.log((1 + x) / 2) for x in quotient]  # log(M/p)
    reference.close(
        generalized_jsd(p, q, 0.5),
        -(mp.fdot(a, middle) + mp.fdot(b, middle) + mp.fdot(b, ratio)) / 2,
    )


def test_two_hundred_thousand_tokens_nearly_equal():
    p, _ = reference.random_pair(200_000, 6)
    q = p * (1 + 1e-6 * np.sin(np.arange(200_000)))
    q /= q.sum()
    # With r = q/p - 1, about 1e-6, the divergence is a power series in r; the fourth order is
    # below 1e-12.
    r = [mp.mpf(b) / mp.mpf(a) - 1 for a, b in zip(p, q)]
    squares = [mp.mpf(a) * x * x for a, x in zip(p, r)]
    second, third = mp.fsum(squares), mp.fdot(squares, r)
    for beta in (1e-9, 0.5, 1 - 1e-9):
        weight = mp.mpf(beta)
        reference.close(
            generalized_jsd(p, q, beta),
            (weight - weight**2) * second / 2 - (weight - weight**3) * third / 6,
        )
    reference.close(forward_kl(p, q), second / 2 - third / 6)


# The notes' example -------------------------------------------------------------


def test_three_token_rkl():
    r = np.log(P / Q)
    assert [f"{x:.2f}" for x in r] == ["-1.25", "0.41", "1.61"]
    assert f"{reverse_kl(P, Q):.2f}" == "0.68"
    gradient = reverse_kl_logit_gradient(P, Q)
    assert [f"{x:+.2f}" for x in gradient] == ["-0.39", "-0.08", "+0.47"]
    reference.close(
        gradient,
        reference.logit_gradient("reverse_kl", [mp.log(x) for x in P], reference.normalised(Q), {}),
    )
    assert P[1] > Q[1] and gradient[1] < 0  # t2 is raised although p2 > q2


def test_three_token_fkl():
    gradient = forward_kl_logit_gradient(P, Q)
    np.testing.assert_allclose(gradient, [-0.5, 0.1, 0.4], rtol=1e-14)
    reference.close(
        gradient,
        reference.logit_gradient("forward_kl", [mp.log(x) for x in P], reference.normalised(Q), {}),
    )
    # Descent lowers t2 here and raises it under the reverse KL; on t1 and t3 they agree.
    assert (np.sign(gradient) == np.sign(reverse_kl_logit_gradient(P, Q))).tolist() == [
        True,
        False,
        True,
    ]


def test_top_k_head_pushes_the_wrong_token():
    renormalised = top_k_reverse_kl_logit_gradient(P, Q, 2)
    dropped = top_k_reverse_kl_logit_gradient(P, Q, 2, outside="drop")
    np.testing.assert_allclose(renormalised, [-0.398, 0.398, 0], atol=5e-4)
    np.testing.assert_allclose(dropped, [-0.125, 0.310, -0.186], atol=5e-4)
    assert renormalised[2] == 0
    assert dropped[2] < 0 and Q[2] == Q.min()  # descent raises the token the teacher likes least
    # One token is left outside: as a bucket it is itself, and nothing is lost.
    np.testing.assert_allclose(
        top_k_reverse_kl_logit_gradient(P, Q, 2, outside="tail"),
        reverse_kl_logit_gradient(P, Q),
        rtol=1e-14,
    )


def test_jsd_endpoints():
    # Near its ends beta scales strength, not direction.
    reference.close(generalized_jsd(P, Q, 1e-14) / 1e-14, [forward_kl(P, Q)], 1e-13)
    reference.close(generalized_jsd_logit_gradient(P, Q, 1e-14) / 1e-14, P - Q, 1e-13)
    near_one = 1 - 2.0**-46
    reference.close(generalized_jsd(P, Q, near_one) / 2.0**-46, [reverse_kl(P, Q)], 1e-13)
    reference.close(
        generalized_jsd_logit_gradient(P, Q, near_one) / 2.0**-46,
        reverse_kl_logit_gradient(P, Q),
        1e-13,
    )
    assert generalized_jsd(P, Q, 0) == forward_kl(P, Q)
    assert generalized_jsd(P, Q, 1) == reverse_kl(P, Q)


def test_sft_limit():
    # The teacher sharpens to one-hot: its soft-label gradient goes to p - e_n.
    for power in (1, 10, 100, 1000):
        sharp = softmax(power * np.log(Q))
        distance = np.abs(forward_kl_logit_gradient(P, sharp) - (P - [1, 0, 0])).max()
        assert distance <= 2 * (2 / 7) ** power + 1e-15


def test_seqkd_is_forward_kl():
    # The soft-label loss -sum q log p, differentiated by torch, has the forward-KL gradient.
    z = torch.log(torch.tensor(P)).requires_grad_()
    loss = -(torch.tensor(Q) * torch.log_softmax(z, -1)).sum()
    loss.backward()
    np.testing.assert_allclose(z.grad.numpy(), forward_kl_logit_gradient(P, Q), rtol=1e-14)
    np.testing.assert_allclose(loss.item() - forward_kl(P, Q), -(Q * np.log(Q)).sum(), rtol=1e-14)


def test_limits_of_the_families():
    assert alpha_divergence(P, Q, 1) == reverse_kl(P, Q) and alpha_divergence(
        P, Q, 0
    ) == forward_kl(P, Q)
    np.testing.assert_allclose(alpha_divergence(P, Q, 1 - 1e-15), reverse_kl(P, Q), rtol=1e-13)
    np.testing.assert_allclose(alpha_divergence(P, Q, 1e-15), forward_kl(P, Q), rtol=1e-13)
    np.testing.assert_allclose(
        alpha_divergence(P, Q, 0.5), 4 * (1 - np.sqrt(P * Q).sum()), rtol=1e-14
    )
    np.testing.assert_allclose(alpha_divergence(P, Q, 2), ((P - Q) ** 2 / Q).sum() / 2, rtol=1e-14)
    for skewed, plain in ((skewed_forward_kl, forward_kl), (skewed_reverse_kl, reverse_kl)):
        assert skewed(P, Q, 0) == plain(P, Q) and skewed(P, Q, 1) == 0
    for outside in ("renormalize", "drop", "tail"):
        np.testing.assert_allclose(top_k_reverse_kl(P, Q, 3, outside), reverse_kl(P, Q), rtol=1e-14)
        np.testing.assert_allclose(
            top_k_reverse_kl_logit_gradient(P, Q, 3, outside),
            reverse_kl_logit_gradient(P, Q),
            rtol=1e-13,
        )


def test_top_k_breaks_ties_by_the_lower_index():
    tied = [0.25, 0.25, 0.25, 0.25]
    gradient = top_k_reverse_kl_logit_gradient([0.1, 0.2, 0.3, 0.4], tied, 2)
    assert gradient[2] == gradient[3] == 0 and gradient[0] != 0 and gradient[1] != 0


# Properties -----------------------------------------------------------------------

METHODS = [(n, a) for n, a in reference.CASES if "k" not in a] + [
    ("top_k_reverse_kl", {"k": 1, "outside": o}) for o in ("renormalize", "drop", "tail")
]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(pairs, st.sampled_from(METHODS))
def test_every_pair_has_a_value_and_a_gradient(pair, method):
    (p, q), (name, arguments) = pair, method
    value, gradient = (f(p, q, **arguments) for f in both(name))
    assert not np.isnan(value) and not np.isnan(gradient).any()
    if arguments.get("outside") != "drop":
        assert value >= 0
    if np.isfinite(gradient).all():
        # p - q sums to what the rows' sums differ by, a rounding.
        assert (
            abs(gradient.sum())
            <= 1e-12 * np.abs(gradient).max() + 2 * abs(math.fsum(p - q)) + 1e-100
        )
        if np.isinf(
            value
        ):  # a finite limit, reached where all of p is barred or the value alone diverges
            assert (
                name in ("forward_kl", "generalized_jsd", "alpha_divergence", "skewed_forward_kl")
                or not (p * q).any()
                or name == "top_k_reverse_kl"
            )


@settings(max_examples=100, deadline=None, derandomize=True)
@given(pairs, st.sampled_from(METHODS[:-3]), st.randoms(use_true_random=False))
def test_gradients_follow_the_order_of_tokens(pair, method, random):
    (p, q), (name, arguments) = pair, method
    order = random.sample(range(len(p)), len(p))
    gradient = both(name)[1](p, q, **arguments)
    with np.errstate(invalid="ignore"):
        scale = np.abs(gradient[np.isfinite(gradient)]).max(initial=0)
    np.testing.assert_allclose(
        both(name)[1](p[order], q[order], **arguments),
        gradient[order],
        rtol=1e-10,
        atol=1e-12 * scale + 1e-30,
    )


@case
def test_batches_equal_their_rows(name, arguments):
    p, q = reference.random_pair(4, 1), reference.random_pair(4, 2)
    for f in both(name):
        batch = f(p[:, None], q[None], **arguments)
        assert batch.shape[:2] == (2, 2)
        for i in range(2):
            for j in range(2):
                # numpy's vector loop and its scalar remainder may round a log differently.
                row = f(p[i], q[j], **arguments)
                np.testing.assert_allclose(batch[i, j], row, rtol=1e-13, atol=1e-15)


# Edges ----------------------------------------------------------------------------


@case
def test_one_token_has_nothing_to_learn(name, arguments):
    if "k" in arguments:
        arguments = {**arguments, "k": 1}
    value, gradient = both(name)
    assert value([1.0], [1.0], **arguments) == 0 and gradient(
        [1.0], [1.0], **arguments
    ).tolist() == [0.0]


def test_disjoint_support_is_infinite_not_nan():
    p, q = [1.0, 0.0], [0.0, 1.0]
    assert forward_kl(p, q) == reverse_kl(p, q) == math.inf
    np.testing.assert_allclose(generalized_jsd(p, q, 0.5), math.log(2), rtol=LOG)
    np.testing.assert_allclose(
        generalized_jsd(p, q, 1e-9),
        -1e-9 * math.log(1e-9) - (1 - 1e-9) * math.log1p(-1e-9),
        rtol=1e-13,
    )
    np.testing.assert_allclose(skewed_forward_kl(p, q, 0.1), -math.log(0.1), rtol=LOG)
    np.testing.assert_allclose(skewed_reverse_kl(p, q, 0.1), -math.log(0.1), rtol=LOG)
    np.testing.assert_allclose(alpha_divergence(p, q, 0.25), 1 / (0.25 * 0.75), rtol=1e-14)
    assert alpha_divergence(p, q, 2) == alpha_divergence(p, q, -1) == math.inf
    assert top_k_reverse_kl([0.5, 0.5, 0.0], [0.0, 0.0, 1.0], 3, "drop") == math.inf


ZERO_PAIRS = [
    ([0.5, 0.3, 0.2], [0.0, 0.4, 0.6]),  # the teacher bars one token
    ([0.5, 0.3, 0.2], [0.0, 0.0, 1.0]),  # and two
    ([0.0, 0.6, 0.4], [0.5, 0.3, 0.2]),  # the student does
    ([0.5, 0.5, 0.0], [0.0, 0.6, 0.4]),  # each bars one
    ([0.6, 0.4, 0.0, 0.0], [0.0, 0.0, 0.3, 0.7]),  # nothing in common
    ([0.5, 0.3, 0.0, 0.2], [0.0, 0.0, 0.0, 1.0]),  # all but one, and both of them one
]


@pytest.mark.parametrize("p, q", ZERO_PAIRS)
@pytest.mark.parametrize(
    "name, arguments",
    [c for c in METHODS if c[1].get("outside") != "renormalize"]
    + [("top_k_reverse_kl", {"k": k, "outside": "drop"}) for k in (2, 3)],
    ids=str,
)
def test_zeros_are_the_limit_of_equal_small_numbers(p, q, name, arguments):
    """Replace the zeros to blame by epsilon = 10^-n, n ever larger, the others by smaller ones."""
    parameter = next(iter(arguments.values()), 1)
    student_to_blame = (
        name in ("forward_kl", "skewed_forward_kl")
        or name != "skewed_reverse_kl"
        and "k" not in arguments
        and parameter <= 0
    )
    actual = both(name)[1](p, q, **arguments)
    value = both(name)[0](p, q, **arguments)
    with mp.workdps(60):
        limits = []
        for n in (10**11, 10**12):
            small, smaller = mp.mpf(10) ** -n, mp.mpf(10) ** (-100 * n)
            a = reference.normalised(
                [mp.mpf(x) or (small if student_to_blame else smaller) for x in p]
            )
            b = reference.normalised(
                [mp.mpf(x) or (smaller if student_to_blame else small) for x in q]
            )
            limits.append(
                (
                    closed_form_gradient(name, a, b, arguments),
                    reference.value(name, a, b, arguments),
                )
            )
    (before, value_before), (after, value_after) = limits
    for mine, x, y in zip(actual, before, after):
        if np.isinf(mine):
            assert mp.sign(y) == np.sign(mine) and abs(y) > 5 * abs(x), (actual, x, y)
        else:
            assert abs(mine - y) <= 1e-10 * (1 + abs(y)) and abs(x - y) <= 1e-8 * (1 + abs(y)), (
                actual,
                x,
                y,
            )
    if np.isinf(value):
        assert value_after > 5 * value_before > 0
    else:
        assert abs(value - value_after) <= 1e-10 * (1 + value_after)


def closed_form_gradient(name, p, q, arguments):
    """p_j (g_j - sum p g) with g the derivative in p_j as the textbook formula gives it."""
    parameter = next((mp.mpf(x) for x in arguments.values() if not isinstance(x, str)), None)
    if name == "forward_kl" or (name in ("generalized_jsd", "alpha_divergence") and parameter == 0):
        g = [-b / a for a, b in zip(p, q)]
    elif name == "reverse_kl" or (
        name in ("generalized_jsd", "alpha_divergence") and parameter == 1
    ):
        g = [mp.log(a / b) for a, b in zip(p, q)]
    elif name == "generalized_jsd":
        g = [(1 - parameter) * mp.log(a / m) for a, m in zip(p, reference.mix(p, q, parameter))]
    elif name == "alpha_divergence":
        g = [(a / b) ** (parameter - 1) / (parameter - 1) for a, b in zip(p, q)]
    elif name == "skewed_forward_kl":
        g = [-(1 - parameter) * b / m for b, m in zip(q, reference.mix(p, q, parameter))]
    elif name == "skewed_reverse_kl":
        g = [
            mp.log(a / m) + (1 - parameter) * b / m
            for a, b, m in zip(p, q, reference.mix(q, p, parameter))
        ]
    else:
        head = sorted(range(len(q)), key=lambda v: (-q[v], v))[: arguments["k"]]
        rest = [v for v in range(len(q)) if v not in head]
        if arguments["outside"] == "drop":
            g = [mp.log(p[v] / q[v]) + 1 if v in head else mp.mpf(0) for v in range(len(p))]
        else:
            tail = mp.log(mp.fsum(p[v] for v in rest) / mp.fsum(q[v] for v in rest))
            g = [mp.log(p[v] / q[v]) if v in head else tail for v in range(len(p))]
    mean = mp.fsum(a * x for a, x in zip(p, g))
    return [a * (x - mean) for a, x in zip(p, g)]


def test_saturated_student_keeps_its_small_gradient():
    # One token has all but 1e-12 of the mass: the gradient is 1e-11 and still has its digits.
    p = softmax([30.0, 0.0, 1.0])
    with mp.workdps(60):
        exact = closed_form_gradient(
            "reverse_kl", reference.normalised(p), reference.normalised(Q), {}
        )
    reference.close(reverse_kl_logit_gradient(p, Q), exact, 1e-13)


def test_far_too_large_for_float64_is_signed_infinity():
    p, q = [0.5, 0.5], [1.0, 1e-320]
    assert alpha_divergence(p, q, 3) == math.inf
    assert objectives.alpha_divergence_logit_gradient(p, q, 3).tolist() == [-math.inf, math.inf]


def test_underflowing_mixture_is_not_infinite():
    p, q = [1.0, 5e-324], [1.0, 0.0]
    for value in (
        generalized_jsd(p, q, 0.9),
        skewed_forward_kl(q, p, 0.9),
        skewed_reverse_kl(p, q, 0.1),
    ):
        assert 0 <= value < 1e-300


def test_infinite_gradients_of_a_batch_are_those_of_its_rows():
    """One row's token is barred, another's power overflows, the last is finite."""
    p, q = np.array([[0.5, 0.3, 0.2]] * 3), np.array([[0.0, 0.6, 0.4], [1e-300, 0.6, 0.4], Q])
    batch = objectives.alpha_divergence_logit_gradient(p, q, 5.0)
    rows = [objectives.alpha_divergence_logit_gradient(*row, 5.0) for row in zip(p, q)]
    np.testing.assert_allclose(batch, rows, rtol=1e-12)
    assert np.isinf(batch).all(axis=1).tolist() == [True, True, False]


# Descent --------------------------------------------------------------------------


def test_mode_seeking_covering():
    """A bell of forty tokens cannot be two: each divergence gives up something else.

    The family is p_v ~ exp(a v + b v^2), whose best forward-KL fit has exactly the
    teacher's mean and spread; the best reverse-KL fit sits on the mode it started by.
    """
    v = np.linspace(-1, 1, 40)
    features = np.stack([v, v * v])
    teacher = softmax(
        np.log(
            0.5 * np.exp(-(((v - 0.5) / 0.12) ** 2) / 2)
            + 0.5 * np.exp(-(((v + 0.5) / 0.12) ** 2) / 2)
        )
    )

    def fit(gradient, start, steps, rate):
        path = descend(
            lambda w: features @ gradient(softmax(w @ features), teacher), start, rate, steps
        )
        p = softmax(path[-1] @ features)
        assert np.abs(features @ gradient(p, teacher)).max() < 1e-8
        return p, p @ v, math.sqrt(p @ v**2 - (p @ v) ** 2)

    p, mean, width = fit(forward_kl_logit_gradient, [10.0, -10.0], 8000, 7.0)
    np.testing.assert_allclose(
        [mean, width], [0, math.sqrt(teacher @ v**2)], atol=1e-7
    )  # between the modes, as wide as both
    for side in (-1, 1):
        p, mean, width = fit(
            reverse_kl_logit_gradient, [side * 10.0, -10.0], 4000, 20.0
        )  # from a bell around side * 0.5
        assert (
            abs(mean - side * 0.5) < 0.01 and abs(width - 0.12) < 0.01
        )  # on that mode, as wide as it
        assert p[v * side < 0].sum() < 1e-3
    # With a logit for every token there is nothing to give up.
    for gradient, rate in ((forward_kl_logit_gradient, 2.0), (reverse_kl_logit_gradient, 1.0)):
        path = descend(lambda z, g=gradient: g(softmax(z), Q), np.zeros(3), rate, 2000)
        np.testing.assert_allclose(softmax(path[-1]), Q, rtol=1e-9)


def test_descend_steps_against_the_gradient():
    path = descend(lambda z: 2 * z, [1.0, -1.0], 0.25, 3)
    np.testing.assert_allclose(path, [[1, -1], [0.5, -0.5], [0.25, -0.25], [0.125, -0.125]])


def test_a_head_that_the_student_never_draws_is_taken_as_uniform():
    value = top_k_reverse_kl([0.0, 0.0, 1.0], Q, 2, "renormalize")
    expected = 0.5 * math.log(0.5 / (7 / 9)) + 0.5 * math.log(0.5 / (2 / 9))
    assert math.isclose(value, expected, rel_tol=1e-12)
