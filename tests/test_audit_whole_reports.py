"""Whole reports on texts and stale tokens, as audit_reports_of_texts.txt beside this has them."""

import functools

import pytest
import torch

from opd_toy.audit import audit, audit_sequence
from tests import audit_stale_losses as stale
from tests.audit_reports import printed
from tests.audit_sequence_losses import (
    REWARD_TO_GO,
    VERDICTS,
    audit_on_fewer,
    drawn,
    kl,
    sft,
    to_go,
)
from tests.written import check_text

pytestmark = pytest.mark.usefixtures("one_thread")


def rewarded(student, teacher, tokens):
    log_p, log_q = drawn(student, teacher, tokens)
    return ((to_go((log_p - log_q).detach()) - 0.5 * (tokens == 0).sum()) * log_p).sum()


def careless(student, teacher, tokens, mask):
    """The teacher learns, an input is written into, padding is charged to the text."""
    log_p, log_q = drawn(student, teacher, tokens)
    counts = mask.double()
    loss = (to_go((log_p - log_q).detach()) * log_p * counts).sum() / counts.sum() + 0 * log_q.sum()
    mask.zero_()
    return loss


def in_groups(student, teacher, tokens, mask):
    log_p, log_q = drawn(student, teacher, tokens)
    costs = ((log_p - log_q).detach() * mask).sum(-1, keepdim=True)
    advantages = (costs - costs.mean()) / (costs.std() + 1e-4)
    return ((advantages * log_p * mask).sum(-1) / mask.sum(-1)).mean()


def in_half_precision(student, teacher, tokens):
    return REWARD_TO_GO(student.bfloat16(), teacher.bfloat16(), tokens)


def of_two_texts(student, teacher, tokens):
    return kl(student, teacher).sum(-1).mean()


def of_tokens(loss, **options):
    return audit, loss, {"inputs": "token_log_probs", **options}


def of_stale_texts(loss):
    return audit_on_fewer, loss, {"inputs": "token_log_probs"}


def listed(name):
    return audit_on_fewer, VERDICTS[name][0], {}


CASES = {  # (auditor, loss, options)
    "discounted, mean": listed("discounted, mean"),
    "clipped cost": (audit_sequence, VERDICTS["clipped cost"][0], {"seed": 3}),
    "clipped early": listed("cost clipped early"),
    "squashed cost": listed("squashed cost"),
    "forgotten stop-gradient": listed("forgotten stop-gradient"),
    "sft on the student's own": (audit_on_fewer, sft, {}),
    "sft": (audit_on_fewer, sft, {"drawn_from": "teacher"}),
    "rewarded": (audit_on_fewer, rewarded, {"reward": lambda text: (text == 0).sum()}),
    "careless": (audit_on_fewer, careless, {}),
    "in groups": (audit_sequence, in_groups, {"batched": True}),
    "of two texts": (audit_on_fewer, of_two_texts, {"batched": True}),
    "in half precision": (audit_on_fewer, in_half_precision, {}),
    "stale and truncated": of_tokens(stale.k2_truncated, seed=5),
    "stale and kept": of_tokens(stale.importance_sampling),
    "stale without a law": of_tokens(stale.clipped_with_penalty),
    "stale and of no matter": (audit, stale.logged_only, {}),
    "stale with a penalty": (audit, stale.with_penalty, {}),
    "stale texts and a product": of_stale_texts(stale.product_truncated),
    "stale texts, kept": of_stale_texts(stale.kept_costs_to_go),
    "stale texts without a name": of_stale_texts(stale.past_ratio),
}


class Asked:
    """Of all calls of a loss: how many, and the sums of what each argument was, in magnitude."""

    def __init__(self, loss):
        self.calls, self.sums = 0, {}

        @functools.wraps(loss)
        def asked(*inputs):
            self.calls += 1
            for place, x in enumerate(inputs):
                size = torch.nan_to_num(x.detach().double(), 0, 0, 0).abs().sum().item()
                self.sums[place] = self.sums.get(place, 0.0) + size
            return loss(*inputs)

        self.loss = asked


IN_TEXT = {"optimises", "edges", "call", "seed", "calls", "drawn_from", "precision", "fresh"}


def written(name):
    """The text, the fields that it has nothing of or not all, and what the loss was asked."""
    auditor, loss, options = CASES[name]
    asked = Asked(loss)
    report = auditor(asked.loss, **options)
    fields = [
        f"{field}: {printed(value)}"
        for field, value in report.to_dict().items()
        if field not in IN_TEXT and value not in (None, {}, [])
    ]
    sums = f"asked {asked.calls} times: {[f'{size:.7g}' for size in asked.sums.values()]}"
    return "\n".join([str(report), *fields, sums])


@pytest.mark.parametrize("name", CASES)
def test_a_report_is_as_it_was(name):
    check_text("audit_reports_of_texts.txt", name, written(name))
