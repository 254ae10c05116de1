"""The auditor of one token: verdicts on right and wrong losses, reports, refusals, the command."""

import functools
import json
import types

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from opd_toy import estimators, objectives
from opd_toy.__main__ import main
from opd_toy.audit import AuditError, audit, calling
from opd_toy.audit.signatures import arguments_taken
from opd_toy.audit.token import candidates
from opd_toy.audit.token.expected import expected
from opd_toy.audit.token.fit import confirmed
from opd_toy.audit.token.measure import random_pairs, tabulate
from opd_toy.example import STUDENT as P
from opd_toy.example import TEACHER as Q

NONE = "none of these"


pytestmark = pytest.mark.usefixtures("one_thread")


# --- losses, as people write them ----------------------------------------------------------


def logs(logits):
    return logits.log_softmax(-1)


def probs(logits):
    return logits.softmax(-1)


def forward(student, teacher):
    return F.kl_div(logs(student), probs(teacher), reduction="sum")


def reverse(student, teacher):
    return (probs(student) * (logs(student) - logs(teacher))).sum()


def entropy(student):
    return -(probs(student) * logs(student)).sum()


def jsd(beta, weight=None, teacher_share=None):
    weight, teacher_share = (beta if value is None else value for value in (weight, teacher_share))

    def loss(student, teacher):
        p, q = probs(student), probs(teacher)
        mixture = (1 - teacher_share) * p + teacher_share * q
        return (
            weight * (q * (q / mixture).log()).sum()
            + (1 - weight) * (p * (p / mixture).log()).sum()
        )

    return loss


def ratio(student, teacher, token):
    """log p - log q of the token drawn."""
    return (logs(student) - logs(teacher))[token]


def k3(student, teacher, token):
    difference = ratio(student, teacher, token)
    return torch.exp(-difference) - 1 + difference


def gradient_policy(weight):
    """weight(student, teacher, token), detached, on the log-probability of the token drawn."""
    return lambda student, teacher, token: (
        weight(student, teacher, token).detach() * logs(student)[token]
    )


def on_policy_ratio(student, token):
    log_p = logs(student)[token]
    return torch.exp(log_p - log_p.detach())


def top_k(k, *, of="teacher", outside="renormalize", direction="reverse"):
    def loss(student, teacher):
        head = (teacher if of == "teacher" else student).topk(min(k, len(student))).indices
        p, q = probs(student)[head], probs(teacher)[head]
        if outside == "renormalize":
            p, q = p / p.sum(), q / q.sum()
        if outside == "tail" and k < len(student):
            rest = torch.ones(len(student), dtype=torch.bool).index_fill(0, head, False)
            p, q = (
                torch.cat([x, probs(z)[rest].sum()[None]]) for x, z in ((p, student), (q, teacher))
            )
        return (p * (p / q).log()).sum() if direction == "reverse" else (q * (q / p).log()).sum()

    return loss


def in_format(loss, dtype):
    return functools.wraps(loss)(
        lambda student, teacher, *token: loss(student.to(dtype), teacher.to(dtype), *token)
    )


def swapped(loss):
    return lambda student, teacher: loss(teacher, student)


CLOSE = " while the two are close"
DIFFERS = " × a factor that depends on the pair"

VERDICTS = {
    # One divergence, its scale and its direction.
    "forward": (forward, "forward KL"),
    "reverse": (reverse, "reverse KL"),
    "arguments swapped": (swapped(forward), "reverse KL"),
    "twice": (lambda s, t: 2 * reverse(s, t), "2 × reverse KL"),
    "wrong sign": (lambda s, t: -forward(s, t), "−1 × forward KL"),
    "a millionth more": (lambda s, t: 1.000001 * reverse(s, t), "1.000001 × reverse KL"),
    "tiny scale": (lambda s, t: 1e-20 * reverse(s, t), "1e-20 × reverse KL"),
    "soft labels": (lambda s, t: F.cross_entropy(s, probs(t)), "forward KL"),
    "log of softmax": (
        lambda s, t: (probs(s) * (probs(s).log() - probs(t).log())).sum(),
        "reverse KL",
    ),
    "both weights": (
        lambda s, t: 0.5 * forward(s, t) + 0.5 * reverse(s, t),
        "0.5 × forward KL + 0.5 × reverse KL",
    ),
    "one percent forward": (
        lambda s, t: reverse(s, t) + 0.01 * forward(s, t),
        "reverse KL + 0.01 × forward KL",
    ),
    "entropy bonus": (lambda s, t: reverse(s, t) - 0.1 * entropy(s), "reverse KL − 0.1 × entropy"),
    "teacher's score alone": (lambda s, t: -(probs(s) * logs(t)).sum(), "reverse KL + entropy"),
    "entropy alone": (lambda s, t: -entropy(s), "−1 × entropy"),
    "weights detached": (lambda s, t: (probs(s).detach() * (logs(s) - logs(t))).sum(), "zero"),
    # F.kl_div's arguments.
    "kl_div other way round": (
        lambda s, t: F.kl_div(logs(t), logs(s), reduction="sum", log_target=True),
        "reverse KL",
    ),
    "kl_div of probabilities": (lambda s, t: F.kl_div(probs(s), probs(t), reduction="sum"), NONE),
    "kl_div log_target forgotten the other way": (
        lambda s, t: F.kl_div(logs(s), probs(t), reduction="sum", log_target=True),
        NONE,
    ),
    "kl_div batchmean of one row": (
        lambda s, t: F.kl_div(logs(s)[None], probs(t)[None], reduction="batchmean"),
        "forward KL",
    ),
    "kl_div batchmean without a batch": (
        lambda s, t: F.kl_div(logs(s), probs(t), reduction="batchmean"),
        "1/V × forward KL",
    ),
    "mean over the vocabulary": (
        lambda s, t: 2 * (probs(s) * (logs(s) - logs(t))).mean(),
        "2/V × reverse KL",
    ),
    # Sampled: as losses, as rewards.
    "k1 as a loss": (ratio, "zero"),
    "k1 as a loss, teacher detached": (lambda s, t, k: ratio(s, t.detach(), k), "zero"),
    "k2 as a loss": (lambda s, t, k: ratio(s, t, k) ** 2 / 2, "reverse KL"),
    "k3 as a loss": (k3, "forward KL"),
    "k3 as a loss, at most 10": (lambda s, t, k: k3(s, t, k).clamp(max=10), "forward KL" + CLOSE),
    "k1 as a reward": (gradient_policy(ratio), "reverse KL"),
    "k2 as a reward": (gradient_policy(lambda s, t, k: ratio(s, t, k) ** 2 / 2), NONE),
    "k3 as a reward": (gradient_policy(k3), "reverse KL − forward KL"),
    "forgotten detach": (lambda s, t, k: ratio(s, t, k) * logs(s)[k], "reverse KL − entropy"),
    "constant baseline": (gradient_policy(lambda s, t, k: ratio(s, t, k) - 7), "reverse KL"),
    "KL as the baseline": (
        gradient_policy(lambda s, t, k: ratio(s, t, k) - reverse(s, t)),
        "reverse KL",
    ),
    "KL as the advantage": (gradient_policy(lambda s, t, k: reverse(s, t)), "zero"),
    "baseline of the token": (gradient_policy(lambda s, t, k: ratio(s, t, k) - 0.3 * k), NONE),
    "baseline of its log-probability": (
        gradient_policy(lambda s, t, k: ratio(s, t, k) - 0.3 * logs(s)[k]),
        "reverse KL + 0.3 × entropy",
    ),
    "clamped at 5": (
        gradient_policy(lambda s, t, k: ratio(s, t, k).clamp(-5, 5)),
        "reverse KL" + CLOSE,
    ),
    "clamped at 0.2": (gradient_policy(lambda s, t, k: ratio(s, t, k).clamp(-0.2, 0.2)), NONE),
    "normalized by its deviation": (
        gradient_policy(
            lambda s, t, k: (
                (ratio(s, t, k) - reverse(s, t))
                / (probs(s) * (logs(s) - logs(t) - reverse(s, t)) ** 2).sum().sqrt()
            )
        ),
        "1/std(log p/q) × reverse KL",
    ),
    "importance ratio": (
        lambda s, t, k: on_policy_ratio(s, k) * ratio(s, t, k).detach(),
        "reverse KL",
    ),
    "PPO's clip at ratio 1": (
        lambda s, t, k: torch.maximum(
            on_policy_ratio(s, k) * ratio(s, t, k).detach(),
            on_policy_ratio(s, k).clamp(0.8, 1.2) * ratio(s, t, k).detach(),
        ),
        "reverse KL",
    ),
    "ratio to the wrong model": (
        lambda s, t, k: ratio(s, t, k).detach() * torch.exp(logs(s)[k] - logs(t)[k].detach()),
        NONE,
    ),
    "only odd tokens": (
        lambda s, t, k: ratio(s, t, k).detach() * logs(s)[k] if k % 2 else torch.zeros(()),
        NONE,
    ),
    # Families.
    "JSD": (jsd(0.3), "JSD(β = 0.3)"),
    "JSD near its end": (jsd(0.999), "JSD(β = 0.999)"),
    "JSD nearer its end": (jsd(0.999999), "JSD(β = 0.999999)"),
    "JSD, weights swapped": (jsd(0.3, weight=0.7), NONE),
    "JSD, mixture swapped": (jsd(0.3, teacher_share=0.7), NONE),
    "JSD, half weight, and reverse": (
        lambda s, t: 0.5 * jsd(0.4)(s, t) + 0.5 * reverse(s, t),
        "0.5 × JSD(β = 0.4) + 0.5 × reverse KL",
    ),
    "skewed reverse": (
        lambda s, t: (probs(s) * (logs(s) - (0.9 * probs(t) + 0.1 * probs(s)).log())).sum(),
        "reverse KL with skew 0.1",
    ),
    "skewed forward": (
        lambda s, t: (probs(t) * (logs(t) - (0.9 * probs(s) + 0.1 * probs(t)).log())).sum(),
        "forward KL with skew 0.1",
    ),
    "skew of a millionth": (
        lambda s, t: (probs(s) * (logs(s) - ((1 - 1e-6) * probs(t) + 1e-6 * probs(s)).log())).sum(),
        "reverse KL with skew 1e-06",
    ),
    "chi squared": (lambda s, t: ((probs(s) ** 2 / probs(t)).sum() - 1) / 2, "α-divergence(α = 2)"),
    "Hellinger": (
        lambda s, t: 4 * (1 - (probs(s) * probs(t)).sqrt().sum()),
        "α-divergence(α = 0.5)",
    ),
    "temperature": (lambda s, t: forward(s / 4, t / 4), "forward KL at temperature 4"),
    "temperature, T squared": (
        lambda s, t: 16 * forward(s / 4, t / 4),
        "16 × forward KL at temperature 4",
    ),
    "temperature of the teacher": (
        lambda s, t: forward(s, t / 4),
        "forward KL to the teacher at temperature 4",
    ),
    "temperature of the teacher, reverse": (
        lambda s, t: reverse(s, t / 2),
        "reverse KL to the teacher at temperature 2",
    ),
    "temperature of the student": (
        lambda s, t: forward(s / 2, t),
        "forward KL with the student alone at temperature 2",
    ),
    "temperature, reverse": (
        lambda s, t: reverse(s / 4, t / 4),
        "reverse KL at temperature 4",
    ),
    "temperature of the student, reverse": (
        lambda s, t: reverse(s / 2, t),
        "reverse KL with the student alone at temperature 2",
    ),
    "soft and hard": (
        lambda s, t: 2 * forward(s / 2, t / 2) + 0.5 * F.cross_entropy(s, t.argmax()),
        "2 × forward KL at temperature 2 + 0.5 × cross-entropy with the teacher's likeliest token",
    ),
    "hard labels": (
        lambda s, t: F.cross_entropy(s, t.argmax()),
        "cross-entropy with the teacher's likeliest token",
    ),
    "own hard labels": (
        lambda s, t: F.cross_entropy(s, s.argmax()),
        "cross-entropy with the student's likeliest token",
    ),
    # Truncated; a K above the small vocabularies must be seen too.
    "top 2": (top_k(2), "reverse KL on the teacher's top 2, renormalized"),
    "top 2, dropped": (top_k(2, outside="drop"), "reverse KL on the teacher's top 2, tail dropped"),
    "top 2, tail": (
        top_k(2, outside="tail"),
        "reverse KL on the teacher's top 2, tail as one token",
    ),
    "student's top 3": (top_k(3, of="student"), "reverse KL on the student's top 3, renormalized"),
    "forward on top 2": (
        top_k(2, direction="forward"),
        "forward KL on the teacher's top 2, renormalized",
    ),
    "forward on top 2, dropped": (
        top_k(2, outside="drop", direction="forward"),
        "forward KL on the teacher's top 2, tail dropped",
    ),
    "top 32": (top_k(32), "reverse KL on the teacher's top 32, renormalized"),
    "top 100, dropped": (
        top_k(100, outside="drop"),
        "reverse KL on the teacher's top 100, tail dropped",
    ),
    "forward on top 512, tail": (
        top_k(512, outside="tail", direction="forward"),
        "forward KL on the teacher's top 512, tail as one token",
    ),
    "only beyond the top 32": (
        lambda s, t: (probs(s) * (logs(s) - logs(t)))[t.argsort(descending=True)[32:]].sum(),
        NONE,
    ),
    # Right direction, length of the pair's own.
    "weighted by the teacher's entropy": (
        lambda s, t: reverse(s, t) * entropy(t).detach(),
        "H(q) × reverse KL",
    ),
    "KL squared": (lambda s, t: reverse(s, t) ** 2, "2 × KL(p‖q) × reverse KL"),
    "exponential of KL": (lambda s, t: reverse(s, t).exp(), "reverse KL" + DIFFERS),
    "weighted by almost 1": (
        lambda s, t: reverse(s, t) * (1 + 1e-6 * entropy(t)),
        "reverse KL" + DIFFERS,
    ),
    "KL above a margin": (lambda s, t: (reverse(s, t) - 0.3).clamp(min=0), "reverse KL" + DIFFERS),
    # None of these, however close.
    "mean squared logits": (F.mse_loss, NONE),
    "total variation": (lambda s, t: (probs(s) - probs(t)).abs().sum() / 2, NONE),
    "epsilon in the logs": (
        lambda s, t: (probs(s) * ((probs(s) + 1e-8).log() - (probs(t) + 1e-8).log())).sum(),
        NONE,
    ),
    "a ten-millionth of something": (lambda s, t: reverse(s, t) + 1e-7 * s.sin().sum(), NONE),
    "z-loss": (lambda s, t: reverse(s, t) + 1e-4 * s.logsumexp(-1) ** 2, NONE),
    "labels shifted": (lambda s, t: reverse(s, t.roll(1)), NONE),
    "the smaller of the two": (lambda s, t: torch.minimum(forward(s, t), reverse(s, t)), NONE),
    "log-probabilities at least -20": (
        lambda s, t: (probs(s) * (logs(s).clamp(min=-20) - logs(t).clamp(min=-20))).sum(),
        "reverse KL" + CLOSE,
    ),
    # In other formats.
    "float32": (in_format(reverse, torch.float32), "reverse KL"),
    "float32 inside JSD": (in_format(jsd(0.1), torch.float32), "JSD(β = 0.1)"),
    "float32 for one of the two": (
        lambda s, t: (probs(s) * (logs(s) - logs(t.float()))).sum(),
        "reverse KL",
    ),
    "float32 and one percent": (
        in_format(lambda s, t: reverse(s, t) + 0.01 * forward(s, t), torch.float32),
        "reverse KL + 0.01 × forward KL",
    ),
    "float16": (in_format(forward, torch.float16), "forward KL"),
    "bfloat16": (in_format(reverse, torch.bfloat16), "reverse KL"),
    "bfloat16, sampled": (in_format(gradient_policy(ratio), torch.bfloat16), "reverse KL"),
}


@pytest.mark.parametrize("name", VERDICTS)
def test_verdict(name):
    loss, verdict = VERDICTS[name]
    report = audit(loss)
    assert report.optimises == verdict
    assert report.holds_everywhere == (verdict != NONE and not verdict.endswith(CLOSE))


# --- losses the auditor was not built against ------------------------------------------------


def nucleus(student, teacher):
    order = teacher.argsort(descending=True)
    head = order[: int((probs(teacher)[order].cumsum(-1) < 0.9).sum()) + 1]
    p, q = probs(student)[head], probs(teacher)[head]
    return (p / p.sum() * (p / p.sum() / (q / q.sum())).log()).sum()


UNSEEN = {
    "Jeffreys": (lambda s, t: forward(s, t) + reverse(s, t), "forward KL + reverse KL"),
    "alpha 0.3": (
        lambda s, t: (1 - (probs(s) ** 0.3 * probs(t) ** 0.7).sum()) / 0.21,
        "α-divergence(α = 0.3)",
    ),
    "half exact, half sampled": (
        lambda s, t, k: 0.5 * reverse(s, t) + 0.5 * ratio(s, t, k).detach() * logs(s)[k],
        "reverse KL",
    ),
    "label smoothing": (
        lambda s, t: F.cross_entropy(s, probs(t), label_smoothing=0.1),
        "0.9 × forward KL + 0.1 × cross-entropy with uniform labels",
    ),
    "focal weight": (
        gradient_policy(lambda s, t, k: ratio(s, t, k) * (1 - probs(s)[k]) ** 2),
        NONE,
    ),
    "k3, exponent at most 5": (
        lambda s, t, k: torch.exp((-ratio(s, t, k)).clamp(max=5)) - 1 + ratio(s, t, k),
        "forward KL" + CLOSE,
    ),
    "k3 the other way": (
        lambda s, t, k: torch.exp(ratio(s, t, k)) - 1 - ratio(s, t, k),
        "α-divergence(α = 2)",
    ),
    "k1 squared": (lambda s, t, k: ratio(s, t, k) ** 2, "2 × reverse KL"),
    "teacher's log-probability as a reward": (
        gradient_policy(lambda s, t, k: -logs(t)[k]),
        "reverse KL + entropy",
    ),
    "nucleus": (nucleus, NONE),
    "forward on the student's top 5, tail": (
        top_k(5, of="student", outside="tail", direction="forward"),
        "forward KL on the student's top 5, tail as one token",
    ),
    "top 8 in float32": (
        in_format(top_k(8), torch.float32),
        "reverse KL on the teacher's top 8, renormalized",
    ),
    "JSD in bits": (lambda s, t: jsd(0.5)(s, t) / np.log(2), "1.4427 × JSD(β = 0.5)"),
    "geometric mixture": (
        lambda s, t: (probs(s) * (logs(s) - logs((logs(s) + logs(t)) / 2))).sum(),
        NONE,
    ),
    "two temperatures": (lambda s, t: forward(s / 1.5, t / 3), NONE),
    "sum of the logits": (lambda s, t: s.sum(), NONE),
    "squared probabilities": (lambda s, t: ((probs(s) - probs(t)) ** 2).sum(), NONE),
    "squared log ratios": (
        lambda s, t: (probs(s).detach() * (logs(s) - logs(t)) ** 2).sum() / 2,
        "reverse KL",
    ),
    "nucleus of the student": (lambda s, t: nucleus(t, s), NONE),
    "smooth absolute log ratio": (
        lambda s, t, k: F.smooth_l1_loss(logs(s)[k], logs(t)[k]),
        "reverse KL" + CLOSE,
    ),  # k2 below 1
    "absolute log ratio": (lambda s, t, k: ratio(s, t, k).abs(), NONE),
    "centred logits": (lambda s, t: ((s - s.mean() - t + t.mean()) ** 2).sum(), NONE),
    "logits decayed": (lambda s, t: reverse(s, t) + 1e-3 * (s**2).sum(), NONE),
}


@pytest.mark.parametrize("name", UNSEEN)
def test_verdict_on_an_unseen_loss(name):
    loss, verdict = UNSEEN[name]
    report = audit(loss)
    assert report.optimises == verdict
    assert report.holds_everywhere == (verdict != NONE and not verdict.endswith(CLOSE))


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(
    "name",
    ["k3 as a loss", "JSD", "baseline of the token", "top 32", "float32 inside JSD", "bfloat16"],
)
def test_verdict_does_not_hang_on_the_seed(name, seed):
    loss, verdict = VERDICTS[name]
    assert audit(loss, seed=seed).optimises == verdict


def test_a_baseline_that_drowns_the_gradient_is_no_verdict():
    assert audit(gradient_policy(lambda s, t, k: ratio(s, t, k) - 1e6)).optimises == "reverse KL"
    assert audit(gradient_policy(lambda s, t, k: ratio(s, t, k) - 1e12)).optimises == NONE


def test_a_sum_has_no_term_too_small_to_be_seen():
    tables = [tabulate(reverse, 2, *pair) for pair in random_pairs(0)]
    measured = expected(tables, "student", "float64")
    both = [candidates.reverse_kl(), candidates.forward_kl()]
    assert confirmed(measured, both[:1]) is not None and confirmed(measured, both) is None


def test_inputs_that_hold_nan_are_not_taken_for_changed():
    called = calling.gradient_of(
        lambda s, t: forward(s[:2], t[:2]),
        np.array([0.0, 1.0, np.nan]),
        np.array([1.0, 0.0, np.nan]),
    )
    assert called.touched == () and called.dtype == "float64"


# --- what a report says ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sampled():
    return audit(VERDICTS["k1 as a reward"][0])


@pytest.fixture(scope="module")
def clamped():
    return audit(VERDICTS["k3 as a loss, at most 10"][0])


def test_policy_gradient_agrees_with_the_engine(sampled):
    table = estimators.policy_gradient(P, Q)
    np.testing.assert_allclose(
        sampled.expected_gradient, estimators.expectation(P, table), rtol=1e-12
    )
    np.testing.assert_allclose(sampled.variance, estimators.total_variance(P, table), rtol=1e-12)
    np.testing.assert_allclose((sampled.standard_deviation**2).sum(), sampled.variance, rtol=1e-12)
    assert sampled.variance_compared == {
        "GKD": 0.0,
        "plain policy gradient": pytest.approx(sampled.variance, rel=1e-12),
    }
    assert (sampled.objective, sampled.parameters, sampled.scale) == ("reverse_kl", {}, 1.0)
    assert sampled.uses_token and not sampled.teacher_gradient and sampled.touches_inputs == ()


def test_scale_and_variance_compared_with_it():
    report = audit(lambda s, t, k: 2 * ratio(s, t, k).detach() * logs(s)[k])
    assert report.scale == 2.0
    np.testing.assert_allclose(
        report.variance_compared["plain policy gradient"],
        4 * estimators.total_variance(P, estimators.policy_gradient(P, Q)),
        rtol=1e-12,
    )


def test_bias_is_the_distance_from_each_kl(sampled):
    assert sampled.bias["reverse KL"]["as_given"] < 1e-12
    assert (
        sampled.bias["forward KL"]["as_given"]
        > sampled.bias["forward KL"]["at_best_scale"] * 0.9
        > 0.1
    )
    double = audit(lambda s, t: 2 * forward(s, t)).bias["forward KL"]
    assert (
        double["as_given"] == pytest.approx(1)
        and double["best_scale"] == pytest.approx(2)
        and double["at_best_scale"] < 1e-12
    )


def test_parameters_call_the_engine():
    report = audit(jsd(0.3))
    gradient = getattr(objectives, report.objective + "_logit_gradient")(P, Q, **report.parameters)
    np.testing.assert_allclose(report.expected_gradient, gradient, rtol=1e-12)
    report = audit(top_k(2, outside="drop"))
    gradient = getattr(objectives, report.objective + "_logit_gradient")(P, Q, **report.parameters)
    np.testing.assert_allclose(report.expected_gradient, gradient, rtol=1e-12)


def test_a_loss_that_holds_only_while_close_names_no_objective_for_a_program(clamped):
    assert (clamped.objective, clamped.holds_everywhere) == (None, False)
    assert 1 < clamped.holds_up_to < 2.7


def test_fine_tuning_on_own_tokens_is_nothing_and_on_the_teachers_forward_kl():
    loss = lambda s, t, k: -logs(s)[k]
    own = audit(loss)
    assert (own.optimises, own.with_other_tokens) == ("zero", "forward KL")
    assert own.fixed_point["descent"]["steps"] == 0
    teachers = audit(loss, drawn_from="teacher")
    assert (teachers.optimises, teachers.drawn_from) == ("forward KL", "teacher")
    np.testing.assert_allclose(teachers.expected_gradient, P - Q, rtol=1e-12)


def test_value_of_a_loss_is_told_apart_from_its_gradient():
    k1 = audit(ratio)
    assert (k1.optimises, k1.value_is) == ("zero", "KL(p‖q)")
    soft = audit(VERDICTS["soft labels"][0])
    assert soft.value_is in ("KL(q‖p) + H(q)", "H(q) + KL(q‖p)")
    assert soft.value_at_teacher["is"] == "the teacher's entropy"
    np.testing.assert_allclose(soft.value_at_teacher["value"], -(Q * np.log(Q)).sum(), rtol=1e-12)
    assert (
        audit(top_k(64, outside="drop", direction="forward")).value_is is None
    )  # the whole KL on small vocabularies only


def test_where_descent_ends():
    end = audit(forward).fixed_point
    assert end["is_fixed"] and end["descent"]["settled"]
    np.testing.assert_allclose(end["descent"]["ends_at"], Q, atol=1e-6)
    bonus = audit(VERDICTS["entropy bonus"][0]).fixed_point
    flatter = Q ** (1 / 1.1) / (Q ** (1 / 1.1)).sum()
    assert not bonus["is_fixed"] and bonus["gradient_norm"] > 1e-3
    np.testing.assert_allclose(bonus["descent"]["ends_at"], flatter, atol=1e-6)
    upward = audit(VERDICTS["wrong sign"][0]).fixed_point["descent"]
    assert upward["reverse_kl"] > 2.3  # all on the teacher's rarest token: log 10


def test_descent_ends_where_a_loss_refuses_or_has_no_gradient():
    def refuses_far_off(student, teacher):
        assert student.abs().max() < 60  # descent gets there, no other call does
        return -forward(student, teacher)

    end = audit(refuses_far_off).fixed_point["descent"]
    assert 0 < end["steps"] < 150 and not end["settled"]

    def constant_close_by(student, teacher):
        value = reverse(student, teacher)
        return value if value > 1e-5 else torch.zeros((), dtype=value.dtype)

    assert audit(constant_close_by).fixed_point["descent"]["settled"]


def test_dropping_the_tail_moves_a_student_that_is_the_teacher():
    fixed = audit(top_k(2, outside="drop", direction="forward")).fixed_point
    assert not fixed["is_fixed"]
    # q_j 1_S - q_j q(S): at the notes' teacher S = {1, 2}, q(S) = .9.
    expected = np.linalg.norm(Q * 0.9 - np.array([0.7, 0.2, 0.0]))
    assert fixed["gradient_norm"] == pytest.approx(expected, rel=1e-12)


def test_formats_are_told_and_bound_what_can_be_seen():
    assert (audit(forward).precision, audit(forward).tolerance < 2e-9) == ("float64", True)
    single, half = audit(VERDICTS["float32"][0]), audit(VERDICTS["bfloat16"][0])
    assert single.precision == "float32" and 1e-5 < single.tolerance < 1e-4
    assert half.precision == "bfloat16" and 0.03 < half.tolerance < 0.2
    assert audit(VERDICTS["float32 for one of the two"][0]).precision == "float32"


def test_inputs_written_into_and_a_teacher_that_learns_are_told():
    def loss(student, teacher):
        student.sub_(1.0)
        return forward(student, teacher)

    report = audit(loss)
    assert (report.optimises, report.touches_inputs, report.teacher_gradient) == (
        "forward KL",
        ("student_logits",),
        True,
    )
    assert "changes student_logits in place" in str(report) and "teacher's logits" in str(report)
    assert not audit(lambda s, t: forward(s, t.detach())).teacher_gradient


def test_a_token_taken_but_not_used():
    report = audit(lambda s, t, token: forward(s, t))
    assert (report.optimises, report.uses_token, report.variance) == ("forward KL", False, 0.0)


# --- edges ---------------------------------------------------------------------------------------


def found(report, edge):
    """(severity, finding) of the edge whose name begins so."""
    return [
        (entry["severity"], entry["finding"])
        for entry in report.edges
        if entry["edge"].startswith(edge)
    ]


def test_clamped_value_has_a_dead_gradient(clamped):
    # exp(x) - 1 - x = 10 where log q/p = x = 2.6109...; on the other side at log p/q = 11.
    dead = [text for severity, text in found(clamped, "dead gradient") if severity == "broken"]
    assert (
        len(dead) == 2
        and any("log q/p" in text and "2.61" in text for text in dead)
        and any("log p/q" in text and "11" in text for text in dead)
    )


def test_clamped_weight_is_found_where_it_begins(sampled):
    report = audit(VERDICTS["clamped at 5"][0])
    clamps = found(report, "clamp")
    assert len(clamps) == 2 and all(
        severity == "note" and "is above 5" in text for severity, text in clamps
    )
    assert found(sampled, "clamp") == [
        ("fine", "the gradient neither stops nor is cut off for |log p/q| up to 40")
    ]
    assert found(audit(k3), "clamp")[0][0] == "fine"  # 1 - q/p levels off, which is no clamp


def test_masked_tokens():
    both = "a token masked (−inf) in both"
    ((severity, text),) = found(audit(reverse), both)
    assert severity == "broken" and "NaN" in text

    def square_root(
        student, teacher
    ):  # where() takes the NaN out of the value, and leaves it in the gradient
        return torch.where(
            student.isinf() & teacher.isinf(), 0.0, (probs(student) - probs(teacher)).abs().sqrt()
        ).sum()

    def safe(student, teacher):
        keep = ~(student.isinf() & teacher.isinf())
        return reverse(student[keep], teacher[keep])

    assert found(audit(safe), both) == [("fine", "the other tokens' gradient is unchanged")]
    assert found(audit(square_root), both)[0][0] == "broken"


def test_padding_and_constants():
    ((severity, text),) = found(audit(VERDICTS["mean over the vocabulary"][0]), "vocabulary padded")
    assert severity == "note" and "multiplied by 0.6" in text  # 3 tokens of 5
    ((severity, text),) = found(audit(F.mse_loss), "a constant added")
    assert severity == "note" and "sums to 0.50" in text
    assert found(audit(forward), "a constant added")[0][0] == "fine"
    ((severity, text),) = found(
        audit(lambda s, t: (s.exp() / s.exp().sum() * (s.exp() / s.exp().sum()).log()).sum()),
        "logits of",
    )
    assert severity == "broken" and "NaN" in text


# --- refusals ------------------------------------------------------------------------------------


def dropout(student, teacher):
    return forward(F.dropout(student, 0.5), teacher)


def in_place(student, teacher):
    weights = student.exp()
    total = (weights / weights.sum()).log()
    weights.div_(2)
    return total.sum()


def keeping():
    """A loss divided by the largest vocabulary it has met."""
    met = [1]

    def loss(student, teacher):
        met[0] = max(met[0], len(student))
        return forward(student, teacher) / met[0]

    return loss


REFUSALS = {
    "not scalar": (lambda s, t: s - t, ("shape (3,)", ".sum() or .mean()")),
    "tuple": (lambda s, t: (forward(s, t), {}), ("a tuple of 2", "[0]")),
    "float": (lambda s, t: forward(s, t).item(), ("a float", "without .item()")),
    "integer": (lambda s, t: s.argmax(), ("torch.int64", "floating-point")),
    "complex": (lambda s, t: (s + 0j).sum(), ("torch.complex128", "real")),
    "detached": (
        lambda s, t: forward(s.detach(), t.detach()),
        ("no gradient", "the graph is cut", ".detach()"),
    ),
    "through numpy": (
        lambda s, t: torch.tensor(s.detach().numpy().sum(), dtype=s.dtype),
        ("does depend on the student's logits", ".numpy()"),
    ),
    "constant": (lambda s, t: torch.zeros(()), ("everything in it is detached", "first argument")),
    "only the teacher": (
        lambda s, t: forward(s.detach(), t),
        ("reaches the teacher's only", "other way round"),
    ),
    "dropout": (dropout, ("twice on the same inputs", "dropout")),
    "own draws": (
        lambda s, t: (logs(s) - logs(t))[torch.multinomial(probs(s), 1)].sum(),
        ("take them as an argument",),
    ),
    "state": (keeping(), ("keeps something from call to call",)),
    "in place": (in_place, ("in place", ".clone()")),
    "raises": (lambda s, t: s[0, 1], ("student_logits (3,)", "lambda student, teacher, token")),
    "one argument": (lambda s: s.sum(), ("loss(student_logits (V,), teacher_logits (V,), token)",)),
    "four arguments": (lambda s, t, k, mask: s.sum(), ("(s, t, k, mask)",)),
    "keyword without a default": (
        lambda s, t, *, beta: jsd(beta)(s, t),
        ("beta", "functools.partial"),
    ),
    "not callable": (3, ("loss is 3", "give a function")),
    "logits as probabilities": (
        lambda s, t: (s * (s.log() - t.log())).sum(),
        ("not finite at ordinary logits", "logits taken for probabilities"),
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusal_says_what_to_change(name):
    loss, words = REFUSALS[name]
    with pytest.raises(AuditError) as caught:
        audit(loss)
    for word in words:
        assert word in str(caught.value)


def test_the_loss_s_own_error_is_chained():
    with pytest.raises(AuditError) as caught:
        audit(lambda s, t: s.no_such_method())
    assert isinstance(caught.value.__cause__, AttributeError) and "no_such_method" in str(
        caught.value
    )


def test_a_parameter_with_a_default_is_not_given_the_token():
    def loss(student, teacher, beta=0.3):
        return jsd(beta)(student, teacher)

    assert audit(loss).optimises == "JSD(β = 0.3)"
    assert (
        arguments_taken(loss, 3)
        == arguments_taken(F.kl_div, 3)
        == arguments_taken(torch.nn.KLDivLoss(), 3)
        == 2
    )
    assert arguments_taken(lambda s, t, token=None: 0, 3) == 3


def test_drawn_from_is_one_of_two():
    with pytest.raises(ValueError, match="drawn_from is 'me'"):
        audit(forward, drawn_from="me")


# --- text, JSON, notebook ------------------------------------------------------------------------


def test_text_is_short_and_says_what_the_verdict_rests_on(sampled, clamped):
    for report in (sampled, clamped, audit(F.mse_loss)):
        lines = str(report).splitlines()
        assert lines[0] == f"optimises: {report.optimises}" and len(lines) <= 25
        assert f"{report.pairs} pairs (seed 0)" in str(report) and "1e-09" in str(report)
    assert "variance of single draws there: 0.465 (GKD 0, plain policy gradient 0.465)" in str(
        sampled
    )
    assert "up to |log p/q| = " in str(clamped) and "!! dead gradient" in str(clamped)
    near = str(audit(VERDICTS["epsilon in the logs"][0]))
    assert "nearest: reverse KL" in near and "but not exactly" in near


def test_json_is_strict_and_complete(sampled):
    read = json.loads(sampled.to_json(), parse_constant=lambda name: pytest.fail(name))
    assert read == sampled.to_dict() and set(read) == set(sampled.__dataclass_fields__)
    np.testing.assert_array_equal(read["expected_gradient"], sampled.expected_gradient)


def test_notebook_page_has_one_described_figure_for_both_papers(sampled):
    page = sampled._repr_html_()
    assert (
        page.count("<figure") == 1 and page.count("data:image/svg+xml") == 2 and "opd-dark" in page
    )
    assert 'alt="Expected gradient' in page and "reverse KL" in page and "color:inherit" in page


# --- command ---------------------------------------------------------------------------------


@pytest.fixture
def module(monkeypatch):
    found = types.ModuleType("losses_under_audit")
    found.forward, found.k1, found.sft = forward, ratio, lambda s, t, k: -logs(s)[k]
    found.pair = lambda s, t: (s, t)
    monkeypatch.setitem(__import__("sys").modules, found.__name__, found)
    return found.__name__


def status(*arguments):
    with pytest.raises(SystemExit) as ended:
        main(["audit", *arguments])
    return ended.value.code


def test_command_answers_by_its_exit_status(module, capsys):
    assert status(f"{module}:forward") == 0 and "optimises: forward KL" in capsys.readouterr().out
    assert status(f"{module}:forward", "--expect", "forward KL") == 0
    assert (
        status(f"{module}:forward", "--expect", "reverse KL") == 1
        and "expected 'reverse KL', found 'forward KL'" in capsys.readouterr().err
    )
    assert status(f"{module}:k1") == 1
    assert status(f"{module}:k1", "--expect", "zero") == 0
    assert status(f"{module}:sft", "--drawn-from", "teacher", "--expect", "forward KL") == 0
    capsys.readouterr()
    assert status(f"{module}:forward", "--json", "--seed", "3") == 0
    assert json.loads(capsys.readouterr().out)["seed"] == 3


@pytest.mark.parametrize(
    "name, word",
    [
        ("losses_under_audit", "MODULE:FUNCTION"),
        ("no_such_module_here:f", "cannot be imported"),
        ("losses_under_audit:backward", "has no 'backward'; it has forward"),
        ("losses_under_audit:pair", "a tuple of 2"),
    ],
)
def test_command_says_why_it_could_not_audit(module, capsys, name, word):
    assert status(name) == 2
    assert word in capsys.readouterr().err


def test_command_finds_modules_of_the_current_directory(tmp_path, monkeypatch, capsys):
    (tmp_path / "mine_alone.py").write_text(
        "def loss(s, t):\n"
        "    return (s.softmax(-1) * (s.log_softmax(-1) - t.log_softmax(-1))).sum()\n"
    )
    monkeypatch.chdir(tmp_path)
    assert status("mine_alone:loss", "--expect", "reverse KL") == 0


def test_a_clamp_that_bites_only_a_sharper_student_is_seen():
    def clamped_at_zero(student, teacher):
        log_p, log_q = F.log_softmax(student, -1), F.log_softmax(teacher, -1)
        kept = teacher.topk(2).indices
        return (log_q[kept].exp() * (log_q[kept] - log_p[kept])).sum().clamp_min(0)

    report = audit(clamped_at_zero)
    assert not report.holds_everywhere
    assert (
        report.optimises
        == "forward KL on the teacher's top 2, tail dropped while the two are close"
    )


def test_command_takes_batches_and_rewards_of_sequences(tmp_path, monkeypatch, capsys):
    (tmp_path / "texts.py").write_text(
        "def reward(tokens):\n    return float(tokens.sum())\n"
        "def rewarded(student, teacher, tokens):\n"
        "    log_p = student.log_softmax(-1).gather(-1, tokens[:, None])\n"
        "    return -reward(tokens) * log_p.sum()\n"
        "def batch(student, teacher, tokens, mask):\n"
        "    log_p, log_q = student.log_softmax(-1), teacher.log_softmax(-1)\n"
        "    costs = (log_p.exp() * (log_p - log_q)).sum(-1)\n"
        "    return (costs * mask).sum() / mask.sum()\n"
    )
    monkeypatch.chdir(tmp_path)
    assert (
        status("texts:rewarded", "--sequence", "--reward", "texts:reward") == 0
        and "expected reward" in capsys.readouterr().out.splitlines()[0]
    )
    assert status("texts:rewarded", "--sequence") == 1
    capsys.readouterr()
    assert (
        status("texts:batch", "--sequence", "--batched") == 0
        and "the valid tokens of the batch" in capsys.readouterr().out
    )
    assert (
        status("texts:batch", "--batched") == 2 and "give --sequence too" in capsys.readouterr().err
    )


@pytest.mark.parametrize("tail, outside", [(False, "renormalized"), (True, "tail as one token")])
@pytest.mark.parametrize("of", ["student", "teacher"])
def test_jsd_on_the_first_tokens_has_its_name(of, tail, outside):
    def loss(student, teacher):
        p, q = probs(student), probs(teacher)
        kept = torch.zeros_like(p, dtype=torch.bool).scatter(
            -1, (student if of == "student" else teacher).topk(2).indices, True
        )
        p, q = (
            torch.cat([x[kept], x[~kept].sum()[None]]) if tail else x[kept] / x[kept].sum()
            for x in (p, q)
        )
        mixture = 0.7 * p + 0.3 * q
        return 0.3 * (q * (q / mixture).log()).sum() + 0.7 * (p * (p / mixture).log()).sum()

    report = audit(loss)
    assert report.optimises == f"JSD(β = 0.3) on the {of}'s top 2, {outside}"
    assert report.parameters == {
        "beta": 0.3,
        "k": 2,
        "whose": of,
        "outside": "tail" if tail else "renormalize",
    }


def test_a_loss_that_keeps_too_many_tokens_is_told_so():
    with pytest.raises(AuditError, match="out of range.*keeps K tokens needs a small K here"):
        audit(lambda s, t: reverse(s[t.topk(32).indices], t[t.topk(32).indices]))
