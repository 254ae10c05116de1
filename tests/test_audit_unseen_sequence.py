"""The auditor against losses on sequences written to deceive it."""

from unittest import mock

import pytest
import torch
import torch.nn.functional as F

from opd_toy.audit import audit_sequence
from opd_toy.audit.sequence import measure as sequence_level
from tests.audit_losses import NONE, logs, probs
from tests.audit_sequence_losses import audit_on_fewer

pytestmark = pytest.mark.usefixtures("one_thread")


def drawn(student, teacher, tokens):
    return (logs(z).gather(-1, tokens[..., None])[..., 0] for z in (student, teacher))


def kl(student, teacher):
    return (probs(student) * (logs(student) - logs(teacher))).sum(-1)


def to_go(costs, gamma=1.0):
    later = torch.arange(len(costs)) - torch.arange(len(costs))[:, None]
    return torch.where(later >= 0, gamma ** later.clamp(min=0).to(costs.dtype), 0.0) @ costs


def weighted(weights, dtype=torch.float64):
    def loss(student, teacher, tokens):
        log_p, log_q = drawn(student.to(dtype), teacher.to(dtype), tokens)
        return (weights((log_p - log_q).detach()) * log_p).sum()

    return loss


def with_token_2(student, teacher, tokens):
    return weighted(to_go)(student, teacher, tokens) * (2.0 if (tokens == 2).any() else 1.0)


def sequence_ratio(student, teacher, tokens):
    log_p, log_q = drawn(student, teacher, tokens)
    return (log_p - log_p.detach()).mean().exp() * (log_p - log_q).detach().sum()


def others_as_baseline(student, teacher, tokens):
    log_p, log_q = drawn(student, teacher, tokens)
    returns = (log_p - log_q).detach().sum(-1, keepdim=True)
    return ((returns - (returns.sum(0) - returns)) * log_p).sum()


def total_variation_to_softened(student, teacher):
    return (probs(student) - probs(teacher / 2)).abs().sum() / 2


SEQUENCE = {
    "of a divergence without a KL": (
        total_variation_to_softened,
        {},
        "sum of local total variation to the teacher at temperature 2",
    ),
    # Draws much longer than their mean.
    "baseline of 1e6": (weighted(lambda r: to_go(r) + 1e6), {}, "sequence reverse KL"),
    "baseline of 1e10": (weighted(lambda r: to_go(r) + 1e10), {}, NONE),
    "biased under a baseline": (
        weighted(lambda r: to_go(r, 0.999999) + 1e4),
        {},
        "reverse KL with a discounted return, γ = 0.999999",
    ),
    "small costs in float32": (weighted(lambda r: 1e-4 * to_go(r) + 100, torch.float32), {}, NONE),
    "baseline of 100 in float32": (
        weighted(lambda r: to_go(r) + 100, torch.float32),
        {},
        "sequence reverse KL",
    ),
    "discount of 0.9999 in float32": (
        weighted(lambda r: to_go(r, 0.9999), torch.float32),
        {},
        "reverse KL with a discounted return, γ = 0.9999",
    ),
    "a ten-millionth more": (
        weighted(lambda r: (1 + 1e-7) * to_go(r)),
        {},
        "1.0000001 × sequence reverse KL",
    ),
    "2e-8 of the squares": (weighted(lambda r: to_go(r) + 2e-8 * to_go(r) ** 2), {}, NONE),
    "exact in any format": (
        lambda p, q, k: (
            p.gather(-1, k[:, None]).sum() - 1.015625 * p.gather(-1, q.argmax(-1)[:, None]).sum()
        ),
        {},
        NONE,
    ),
    # What hangs on tokens, lengths and positions.
    "twice with token 2": (with_token_2, {}, NONE),
    "shorter return at T = 3": (
        weighted(lambda r: to_go(r, 0.5 if len(r) == 3 else 1.0)),
        {},
        NONE,
    ),
    "shorter return from T = 5 on": (
        weighted(lambda r: to_go(r, 0.5 if len(r) >= 5 else 1.0)),
        {},
        NONE,
    ),
    "labels shifted twice": (
        lambda p, q, k: weighted(lambda r: r)(p[:-1], q[:-1], k[1:]),
        {},
        NONE,
    ),
    "softmax over positions": (
        lambda p, q: (p.softmax(0) * (p.log_softmax(0) - q.log_softmax(0))).sum(),
        {},
        NONE,
    ),
    "the worst position": (lambda p, q: kl(p, q).max(), {}, NONE),
    "first position at 0.9": (
        weighted(lambda r: r * torch.where(torch.arange(len(r)) == 0, 0.9, 1.0)),
        {},
        "sum of local reverse KLs, weighted by position",
    ),
    "length-normalised ratio": (sequence_ratio, {}, "1/T × sequence reverse KL"),
    "batchmean over positions": (
        lambda p, q: F.kl_div(logs(p), logs(q), log_target=True, reduction="batchmean"),
        {},
        "1/T × sum of local forward KLs",
    ),
    "mean and a tenth": (
        lambda p, q, k: kl(p, q).mean() + 0.1 * weighted(to_go)(p, q, k),
        {},
        "1/T × sum of local reverse KLs + 0.1 × sequence reverse KL",
    ),
    "any arguments, passed to one of three": (
        lambda *inputs: weighted(to_go)(*inputs),
        {},
        "sequence reverse KL",
    ),
    # Masks, batches, the teacher's sequences.
    "mask after the mean": (
        lambda p, q, k, mask: (kl(p, q).mean() * mask).mean(),
        {},
        "1/T × sum of local reverse KLs where nothing is masked",
    ),
    "mask off by one": (
        lambda p, q, k, mask: (kl(p, q) * mask.roll(1)).sum() / mask.sum(),
        {},
        "1/T × sum of local reverse KLs where nothing is masked",
    ),
    "mask the other way round": (
        lambda p, q, k, mask: (kl(p, q) * ~mask).sum(),
        {},
        "zero where nothing is masked",
    ),
    "the others' mean as baseline": (
        others_as_baseline,
        {"batched": True},
        "2 × sequence reverse KL",
    ),
    "at the teacher's prefixes": (
        lambda p, q: kl(p, q).sum(),
        {"drawn_from": "teacher"},
        "sum of reverse KL at the teacher's prefixes",
    ),
}


# Fewer trees, for speed.
FEWER = {
    "fit": ((3, 2, 5), (3, 3, 3), (2, 4, 9)),
    "confirm": ((2, 3, 2),),
    "far": ((3, 2, 1),),
    "long": ((2, 6, 1),),
    "wide": (),
}


@pytest.mark.parametrize("name", SEQUENCE)
def test_sequence(name):
    loss, arguments, verdict = SEQUENCE[name]
    with mock.patch.object(sequence_level, "TREES", FEWER):
        report = audit_sequence(loss, **arguments)
    assert report.optimises == verdict
    named = [
        objective
        for objective in (
            "sequence reverse KL",
            "sum of local reverse KLs",
            "sum of local forward KLs",
        )
        if verdict.endswith(objective) and "+" not in verdict
    ]
    assert list(report.unbiased_for) == named


def test_how_far_apart_is_said():
    with mock.patch.object(sequence_level, "TREES", FEWER):
        report = audit_sequence(weighted(to_go))
    assert report.holds_everywhere and report.farthest > 30
    assert f"|log p/q| up to {report.farthest:.2g}" in str(report)


@pytest.mark.parametrize(
    "least, most, said",
    [
        (-20, 20, "down to log p/q = −20 and up to log p/q = 20,"),
        (-15, None, "holds down to log p/q = −15,"),
        (None, 30, "holds up to log p/q = 30,"),
    ],
)
def test_clamps_are_searched_for_and_not_met_by_chance(least, most, said):
    loss = weighted(lambda r: to_go(r.clamp(least, most)))
    for seed in range(4):
        with mock.patch.object(sequence_level, "TREES", FEWER):
            report = audit_sequence(loss, seed=seed)
        assert report.optimises == "sequence reverse KL while the two are close"
        assert said in str(report) and not report.unbiased_for


@pytest.mark.parametrize(
    "cast, precision",
    [(lambda r: r.float(), "float32"), (lambda r: r.bfloat16().double(), "bfloat16")],
)
def test_a_scalar_in_a_coarser_format_is_seen_by_its_rounding(cast, precision):
    def k3(student, teacher, tokens):
        log_p, log_q = drawn(student, teacher, tokens)
        ratio = cast(log_p.sum() - log_q.sum().detach())
        return torch.expm1(-ratio) + ratio

    with mock.patch.object(sequence_level, "TREES", FEWER):
        report = audit_sequence(k3)
    assert (report.optimises, report.precision) == ("sequence forward KL", precision)


def test_the_float32_of_a_cost_that_is_drawn_hardly_ever_hides_nothing_that_is_said():
    """What rounding hides is not searched: a clamp on costs below -20 cannot be seen there."""
    single = weighted(lambda r: to_go(r.clamp(min=-20)), torch.float32)
    with mock.patch.object(sequence_level, "TREES", FEWER):
        report = audit_sequence(single)
    assert report.optimises == "sequence reverse KL" and report.farthest < 20


def test_a_mask_of_another_name_is_handed_over():
    def loss(student, teacher, tokens, response_mask=None):
        return (kl(student, teacher) * (1.0 if response_mask is None else response_mask)).sum()

    with mock.patch.object(sequence_level, "TREES", FEWER):
        assert audit_sequence(loss).mask == {
            "respected": True,
            "normalised_by": "nothing: a plain sum",
        }


def test_a_mask_in_the_tokens_place():
    report = audit_on_fewer(
        lambda student, teacher, mask: (kl(student, teacher) * mask).sum() / mask.sum()
    )
    assert report.optimises == "1/T × sum of local reverse KLs"
    assert report.mask == {"respected": True, "normalised_by": "the valid tokens"}
