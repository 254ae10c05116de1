"""The auditor of one token: limits in both directions, the format that rounds, every seed alike."""

import numpy as np
import pytest
import torch

from opd_toy.audit import audit, formats
from opd_toy.audit.token import limits
from opd_toy.audit.token.limits import Limit
from opd_toy.audit.token.pairs import Pair
from tests.audit_losses import (
    forward,
    gradient_policy,
    in_format,
    jsd,
    k3,
    logs,
    on_policy_ratio,
    probs,
    ratio,
    reverse,
)
from tests.audit_reports import check_report

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("error::RuntimeWarning", "error::UserWarning"),
]


def importance(bound):
    """-min(q/p, bound) on the score of the token drawn."""
    return gradient_policy(lambda s, t, k: -(-ratio(s, t, k)).exp().clamp(max=bound))


def floored(student, teacher):
    p, q = probs(student).clamp(min=1e-8), probs(teacher).clamp(min=1e-8)
    return (p * (p.log() - q.log())).sum()


def cut_above(bound):
    """The importance weight of tokens beyond the bound is dropped."""

    def weight(s, t, k):
        found = (-ratio(s, t, k)).exp()
        return -found * (found <= bound)

    return gradient_policy(weight)


def refuses_above(limit):
    def loss(student, teacher):
        if max(student.abs().max(), teacher.abs().max()) > limit:
            raise ValueError("logits too large")
        return reverse(student, teacher)

    return loss


def clamped_twice(s, t, k):
    inner = torch.exp((-ratio(s, t, k)).clamp(max=20)) - 1 + ratio(s, t, k)
    return inner.clamp(max=10)


LIMITED = {
    "weight of at most e^15": (importance(3.269e6), "forward KL where log q/p ≤ 15"),
    "weight of at most e^40": (importance(np.exp(40)), "forward KL where log q/p ≤ 40"),
    "weight of at most 2": (importance(2), "forward KL where log q/p ≤ 0.693"),
    "weights above 5 dropped": (cut_above(5), "forward KL where log q/p ≤ 1.61"),
    "floors under both": (floored, "reverse KL where p, q ≥ 1e-08"),
    "floor of the log-ratio": (
        gradient_policy(lambda s, t, k: ratio(s, t, k).clamp(min=-300)),
        "reverse KL where log q/p ≤ 300",
    ),
    "clip of ±20": (
        gradient_policy(lambda s, t, k: ratio(s, t, k).clamp(-20, 20)),
        "reverse KL where |log p/q| ≤ 20",
    ),
    "exponent and value": (clamped_twice, "forward KL where log p/q ≤ 11 and log q/p ≤ 2.61"),
    "a clip that never bites": (
        lambda s, t, k: on_policy_ratio(s, k).clamp(0.8, 1.2) * ratio(s, t, k).detach(),
        "reverse KL",
    ),
    "levels off": (k3, "forward KL"),
    "floor of the target's logarithm": (
        lambda s, t: (probs(t) * (logs(t).clamp(min=-100) - logs(s))).sum(),
        "forward KL",
    ),
    "refuses large logits": (refuses_above(50), "reverse KL"),
    "k1 within 5": (
        lambda s, t, k: ratio(s, t, k).clamp(-5, 5),
        "zero where |log p/q| ≤ 5",
    ),
}


@pytest.mark.parametrize("name", LIMITED)
def test_limit(name):
    loss, verdict = LIMITED[name]
    report = audit(loss)
    assert report.optimises == verdict
    assert bool(report.limits) == (" where " in verdict) == (not report.holds_everywhere)
    check_report(name, report)


@pytest.mark.parametrize(
    "name", ["weight of at most e^15", "floors under both", "weights above 5 dropped"]
)
def test_one_verdict_for_twenty_seeds(name):
    loss, verdict = LIMITED[name]
    assert {audit(loss, seed=seed).optimises for seed in range(20)} == {verdict}


def scalars(cast):
    """k3 whose two log-probabilities are cast as scalars."""

    def loss(s, t, k):
        difference = cast(logs(s)[k]) - cast(logs(t)[k])
        return (-difference).exp() - 1 + difference

    return loss


class InFloat32(torch.autograd.Function):
    """The forward KL with a backward of one's own, computed in float32."""

    @staticmethod
    def forward(context, student, teacher):
        context.save_for_backward(student, teacher)
        return forward(student, teacher)

    @staticmethod
    def backward(context, above):
        p, q = (probs(logits.float()) for logits in context.saved_tensors)
        return above * (p - q).double(), None


@torch.jit.script
def scripted(student, teacher, token):
    log_p, log_q = torch.log_softmax(student, -1), torch.log_softmax(teacher, -1)
    difference = log_p[token].float() - log_q[token].float()
    return torch.exp(-difference) - 1 + difference


FORMATS = {
    "scalars": (scalars(torch.Tensor.float), "forward KL", "float32"),
    "scripted": (lambda s, t, k: scripted(s, t, k), "forward KL", "float32"),
    "the teacher's alone": (
        gradient_policy(lambda s, t, k: logs(s)[k] - logs(t)[k].float()),
        "reverse KL",
        "float32",
    ),
    "in the backward": (lambda s, t: InFloat32.apply(s, t), "forward KL", "float32"),
    "scalars in half precision": (
        scalars(torch.Tensor.half),
        "forward KL where log q/p ≤ 11",
        "float16",
    ),
    "squares in bfloat16": (
        lambda s, t, k: (logs(s)[k].bfloat16() - logs(t)[k].bfloat16()) ** 2 / 2,
        "reverse KL",
        "bfloat16",
    ),
    "a constant alone": (
        lambda s, t: torch.tensor(0.1) * reverse(s, t),
        "0.1 × reverse KL",
        "float64",
    ),
    "β alone": (lambda s, t: jsd(torch.tensor(0.3))(s, t), "JSD(β = 0.3)", "float64"),
}


@pytest.mark.parametrize("name", FORMATS)
def test_the_format_is_read_off_the_rounding(name):
    loss, verdict, precision = FORMATS[name]
    report = audit(loss)
    assert (report.optimises, report.precision) == (verdict, precision)
    check_report(name, report)


def test_rounding_of_numbers_on_a_line():
    line = lambda step: np.sin(1 + step + np.arange(5))
    assert formats.by_rounding(line) == "float64"
    for name in ("float32", "float16", "bfloat16"):
        dtype = getattr(torch, name)
        rounded = lambda step, dtype=dtype: torch.tensor(line(step)).to(dtype).double().numpy()
        assert formats.by_rounding(rounded) == name
    assert formats.by_rounding(lambda step: np.abs(line(step) - line(0.2))) == "float64"  # a kink
    assert formats.by_rounding(lambda step: np.zeros(5)) == "float64"
    single = lambda step: line(step).astype(np.float32)
    for others in ([0.0], [1e-9], np.sin([2.0, 3.0])):  # constants, which have no rounding
        beside = lambda step, others=others: np.append(single(step), others)
        assert formats.by_rounding(beside) == "float32"
    at_times = lambda step: np.append(single(step), np.nan if step > 1e-3 else 1.0)
    assert formats.by_rounding(at_times) == "float32"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision_nothing_is_noted_that_is_rounding_alone(dtype):
    for loss in (reverse, k3, gradient_policy(ratio), lambda s, t: (reverse(s, t) - 5e-3).relu()):
        report = audit(in_format(loss, dtype))
        noted = {entry["edge"] for entry in report.edges if entry["severity"] != "fine"}
        assert not noted & {"clamp", "dead gradient", "a constant added to the student's logits"}
        for entry in report.edges:
            if entry["edge"] == "a student close by its teacher" and entry["severity"] == "note":
                assert "cannot be told in" in entry["finding"]
        assert "until they are close" not in report.optimises


def test_what_cancels_in_float32_is_no_cut():
    """k3 times the importance ratio: its derivative, the log-ratio, is a difference of powers."""
    corrected = lambda s, t, k: on_policy_ratio(s, k) * k3(s, t, k)
    report = audit(in_format(corrected, torch.float32))
    assert report.optimises == "reverse KL"
    (said,) = [entry for entry in report.edges if entry["edge"] == "rounding"]
    assert said["severity"] == "note" and "cancel" in said["finding"]


def test_limits_in_words():
    for found, words in (
        ((Limit("log p/q", 5.0), Limit("log q/p", 5.0)), " where |log p/q| ≤ 5"),
        ((Limit("log p/q", 11.0), Limit("q", 1e-8)), " where log p/q ≤ 11 and q ≥ 1e-08"),
        ((Limit("q", 1e-8), Limit("p", 1e-8)), " where p, q ≥ 1e-08"),
        ((Limit("q", 1e-5), Limit("p", 1e-8)), " where q ≥ 1e-05 and p ≥ 1e-08"),
    ):
        assert limits.words(found) == words
    overflow = Limit("log q/p", 88.7, "not finite")
    assert limits.binding((overflow, Limit("log q/p", 3.0, everywhere=False))) == ()
    assert limits.binding((Limit("log q/p", 11.0, "not finite"),))
    said = Limit("log q/p", 0.002), Limit("q", 1e-36)
    assert limits.said((*said, Limit("p", 1e-37))) == said


def test_pairs_are_moved_within_the_limits():
    pair = Pair(np.array([4.0, -9.0, 0.0]), np.array([0.0, 2.0, -3.0]))
    found = (Limit("log p/q", 0.5), Limit("q", 1e-2), Limit("p", 1e-2))
    moved = limits.inside(pair, found)
    log_p, log_q = (z - np.logaddexp.reduce(z) for z in (moved.student, moved.teacher))
    assert 0.4 < (log_p - log_q).max() <= 0.5
    assert min(log_p.min(), log_q.min()) >= np.log(1e-2)
    flat = limits.inside(pair, (Limit("q", 1e-4), Limit("p", 1e-2)))  # the higher floor counts
    assert (flat.student - np.logaddexp.reduce(flat.student)).min() >= np.log(1e-2)
    assert limits.inside(pair, (Limit("p", 0.5),)) is None
    kept = limits.inside(pair, (Limit("log q/p", 50.0),))
    np.testing.assert_array_equal(kept.student, pair.student)
