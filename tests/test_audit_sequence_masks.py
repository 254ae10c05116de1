"""The auditor on whole sequences: who draws, rewards, masks, batches."""

import pytest
import torch

from opd_toy.audit import audit_sequence
from tests.audit_sequence_losses import (
    NONE,
    REWARD_TO_GO,
    audit_on_fewer,
    corrected_for_the_teacher,
    drawn,
    immediate_costs,
    jsd,
    kl,
    positions,
    sft,
    soft_labels,
    to_go,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_teachers_sequences():
    taught = audit_on_fewer(sft, drawn_from="teacher")
    assert (
        taught.optimises == "sequence forward KL"
        and taught.unbiased_for == {"sequence forward KL": "1"}
        and taught.value_is == "sequence cross-entropy with the teacher"
        and taught.carried is None  # of the student's draws alone it is known
    )
    assert audit_on_fewer(soft_labels, drawn_from="teacher").optimises == "sequence forward KL"
    assert (
        audit_on_fewer(
            lambda student, teacher: jsd(student, teacher, 0.3).sum(), drawn_from="teacher"
        ).optimises
        == "sum of JSD(β = 0.3) at the teacher's prefixes"
    )
    assert (
        audit_on_fewer(
            lambda student, teacher: kl(student, teacher).mean(), drawn_from="teacher"
        ).optimises
        == "1/T × sum of reverse KL at the teacher's prefixes"
    )
    summed = lambda student, teacher, tokens: -student.gather(-1, tokens[:, None]).sum()
    (*_, note) = audit_on_fewer(summed, drawn_from="teacher").call["notes"]
    assert "sequence forward KL" in note  # of log-probabilities, and of the teacher's texts
    own = audit_on_fewer(sft)
    assert own.optimises == "zero" and own.with_other_tokens == "sequence forward KL"
    assert (
        audit_sequence(corrected_for_the_teacher, drawn_from="teacher").optimises
        == "sequence reverse KL"
    )
    misplaced = audit_sequence(REWARD_TO_GO, drawn_from="teacher")
    assert (
        misplaced.optimises == NONE
        and misplaced.with_other_tokens == "sequence reverse KL"
        and not misplaced.unbiased_for
    )


def reward(tokens):
    return float((tokens == 0).sum()) + 0.5 * float(tokens[0] == tokens[-1])


def rewarded(weights):
    def loss(student, teacher, tokens):
        log_p, log_q = drawn(student, teacher, tokens)
        return (weights((log_p - log_q).detach(), reward(tokens)) * log_p).sum()

    return loss


@pytest.mark.parametrize(
    "weights, verdict",
    [
        (lambda r, R: 1.0 - R + 0 * r, "−1 × expected reward"),
        (lambda r, R: -R * (len(r) - positions(r)), "−1 × expected reward, token t × (T − t + 1)"),
        (lambda r, R: to_go(r) - 0.5 * R, "sequence reverse KL − 0.5 × expected reward"),
        (
            lambda r, R: (r - 2 * R) / len(r),
            "1/T × sum of local reverse KLs − 2/T × expected reward",
        ),
        (lambda r, R: -R * to_go(r, 0.9).exp().clamp(0.8, 1.2), NONE),
    ],
)
def test_rewards(weights, verdict):
    found = audit_on_fewer(rewarded(weights), reward=reward)
    assert found.optimises == verdict
    assert (
        "student = teacher"
        not in {entry["edge"] for entry in found.edges if entry["severity"] != "fine"}
        or verdict == NONE
    )
    assert found.unbiased_for == (
        {"expected reward": "−1"} if verdict == "−1 × expected reward" else {}
    )
    if verdict == "−1 × expected reward":  # a reward is raised: that is no opposite direction
        assert found.bias["expected reward"] == pytest.approx(0, abs=1e-9)
        assert found.nearest["name"] == "expected reward"


def test_an_unknown_reward_is_none_of_these():
    assert audit_on_fewer(rewarded(lambda r, R: 0 * r - R)).optimises == NONE


def masked(
    cost_masked=True,
    sum_masked=True,
    divide=lambda mask: mask.sum(-1),
    reduce=lambda sums, mask: sums.sum(),
    gamma=1.0,
):
    def loss(student, teacher, tokens, mask):
        log_p, log_q = drawn(student, teacher, tokens)
        costs = (log_p - log_q).detach()
        terms = to_go(costs * mask if cost_masked else costs, gamma) * log_p
        return reduce((terms * mask if sum_masked else terms).sum(-1) / divide(mask), mask)

    return loss


def by_the_padded_length(student, teacher, tokens, mask):
    """The reward of the valid tokens broadcast: weights T - t + 1, T with its padding."""
    log_p, log_q = drawn(student, teacher, tokens)
    return (
        to_go((log_p - log_q).detach() * mask) * (len(mask) - positions(mask)) * log_p * mask
    ).sum()


def edges_of(found, edge):
    return " | ".join(
        f"{entry['severity']}: {entry['finding']}" for entry in found.edges if entry["edge"] == edge
    )


@pytest.mark.parametrize(
    "loss, normaliser, finding",
    [
        (masked(), "the valid tokens", None),
        (masked(divide=lambda mask: 1), "nothing: a plain sum", None),
        (masked(divide=lambda mask: mask.shape[-1]), "the padded length", "the padded length"),
        (masked(cost_masked=False), "unknown", "broken: what masked positions hold changes"),
        (masked(sum_masked=False), "unknown", "broken: masked positions get a gradient"),
        (
            by_the_padded_length,
            "unknown",
            "padding at the end changes the gradient of the valid tokens by more than a factor",
        ),
        (
            masked(divide=lambda mask: 1, gamma=0.9),
            "nothing: a plain sum",
            "masked positions take time",
        ),
    ],
)
def test_masks(loss, normaliser, finding):
    found = audit_on_fewer(loss)
    assert found.mask["normalised_by"] == normaliser
    broken = bool(finding) and finding.startswith("broken")
    assert found.mask["respected"] is not broken and ("broken" in edges_of(found, "mask")) == broken
    if finding:
        assert finding in edges_of(found, "mask")
    assert found.optimises.endswith(" where nothing is masked") == broken
    assert bool(found.unbiased_for) == (not broken and found.objective == "sequence reverse KL")


def test_masks_of_any_kind_and_name():
    def subtracts(student, teacher, tokens, *, mask=None):
        return (
            kl(student, teacher.detach()) * (1 - (1 - mask))
        ).sum() / mask.sum()  # raises for a bool mask

    found = audit_on_fewer(subtracts)
    assert (
        found.optimises == "1/T × sum of local reverse KLs"
        and found.mask["normalised_by"] == "the valid tokens"
    )
    assert "NaN logits in masked positions" in edges_of(
        found, "mask"
    ) and "nothing valid" in edges_of(found, "mask")

    def careful(student, teacher, tokens, mask):
        rows, tokens = (
            [torch.where(mask[:, None], z, 0.0) for z in (student, teacher)],
            torch.where(mask, tokens, 0),
        )
        return torch.where(mask, immediate_costs(*rows, tokens), 0.0).sum() / mask.sum().clamp(
            min=1
        )

    found = audit_on_fewer(careful)
    assert found.mask == {"respected": True, "normalised_by": "the valid tokens"} and not edges_of(
        found, "mask"
    )


@pytest.mark.parametrize(
    "loss, normaliser",
    [
        (masked(divide=lambda mask: mask.sum()), "the valid tokens of the batch"),
        (
            masked(reduce=lambda sums, mask: sums.mean()),
            "each sequence's own tokens, then the sequences (mean of means)",
        ),
        (masked(), "each sequence's own tokens (sum of means)"),
        (masked(divide=lambda mask: 1), "nothing: a plain sum"),
        (
            masked(divide=lambda mask: 1, reduce=lambda sums, mask: sums.mean()),
            "the sequences (sums over tokens, mean over sequences)",
        ),
        (masked(divide=lambda mask: mask.numel()), "the padded size of the batch, B × T"),
        (
            lambda student, teacher, tokens: kl(student, teacher).sum(-1).mean(),
            "the sequences (sums over tokens, mean over sequences)",
        ),
    ],
)
def test_batches(loss, normaliser):
    found = audit_on_fewer(loss, batched=True)
    assert found.batch == {"shared": False, "normalised_by": normaliser}
    assert found.unbiased_for


def group(baseline):
    def loss(student, teacher, tokens):
        log_p, log_q = drawn(student, teacher, tokens)
        returns = (log_p - log_q).detach().sum(-1)
        return (baseline(returns)[:, None] * log_p).sum(-1).mean()

    return loss


@pytest.mark.parametrize(
    "baseline, verdict, unbiased",
    [
        (
            lambda R: R - (R.sum() - R) / (len(R) - 1),
            "sequence reverse KL",
            {"sequence reverse KL": "1"},
        ),
        (lambda R: R - R.mean(), "0.5 × sequence reverse KL", {"sequence reverse KL": "0.5"}),
        (
            lambda R: (R - R.mean()) / (R.std(correction=0) + 1e-6),
            "sequence reverse KL, standardized over the batch",
            {},
        ),
    ],
)
def test_groups_are_enumerated_in_pairs(baseline, verdict, unbiased):
    found = audit_sequence(group(baseline), batched=True)
    assert found.batch["shared"] and found.optimises == verdict and found.unbiased_for == unbiased
