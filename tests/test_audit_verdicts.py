"""The auditor of one token: its verdicts on right and wrong losses."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from opd_toy.audit import audit
from opd_toy.audit.token import candidates
from opd_toy.audit.token.expected import expected
from opd_toy.audit.token.fit import confirmed
from opd_toy.audit.token.measure import random_pairs, tabulate
from tests.audit_losses import (
    NONE,
    VERDICTS,
    forward,
    gradient_policy,
    holds_everywhere,
    in_format,
    jsd,
    logs,
    probs,
    ratio,
    reverse,
    top_k,
)
from tests.audit_reports import check_report

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("error::RuntimeWarning", "error::UserWarning"),
]


@pytest.mark.parametrize("name", VERDICTS)
def test_verdict(name):
    loss, verdict = VERDICTS[name]
    report = audit(loss)
    assert report.optimises == verdict
    assert report.holds_everywhere == holds_everywhere(verdict)
    check_report(name, report)


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
        "forward KL where log q/p ≤ 5",
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
        "reverse KL to the geometric target q^0.5 p^0.5",
    ),
    "two temperatures": (
        lambda s, t: forward(s / 1.5, t / 3),
        "forward KL with the student at temperature 1.5 and the teacher at 3",
    ),
    "sum of the logits": (lambda s, t: s.sum(), NONE),
    "squared probabilities": (lambda s, t: ((probs(s) - probs(t)) ** 2).sum(), NONE),
    "squared log ratios": (
        lambda s, t: (probs(s).detach() * (logs(s) - logs(t)) ** 2).sum() / 2,
        "reverse KL",
    ),
    "nucleus of the student": (lambda s, t: nucleus(t, s), NONE),
    "smooth absolute log ratio": (
        lambda s, t, k: F.smooth_l1_loss(logs(s)[k], logs(t)[k]),
        "reverse KL where |log p/q| ≤ 1",
    ),  # k2 below 1
    "absolute log ratio": (lambda s, t, k: ratio(s, t, k).abs(), "2 × total variation"),
    "centred logits": (lambda s, t: ((s - s.mean() - t + t.mean()) ** 2).sum(), NONE),
    "logits decayed": (lambda s, t: reverse(s, t) + 1e-3 * (s**2).sum(), NONE),
}


@pytest.mark.parametrize("name", UNSEEN)
def test_verdict_on_an_unseen_loss(name):
    loss, verdict = UNSEEN[name]
    report = audit(loss)
    assert report.optimises == verdict
    assert report.holds_everywhere == holds_everywhere(verdict)


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


def test_a_clamp_that_bites_only_a_sharper_student_is_seen():
    """Of close pairs it bites about half: those whose student has more on the first two."""

    def clamped_at_zero(student, teacher):
        log_p, log_q = F.log_softmax(student, -1), F.log_softmax(teacher, -1)
        kept = teacher.topk(2).indices
        return (log_q[kept].exp() * (log_q[kept] - log_p[kept])).sum().clamp_min(0)

    for seed in range(3):
        assert audit(clamped_at_zero, seed=seed).optimises == NONE


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
