"""Whole reports on texts and stale tokens, as audit_reports_of_texts.txt beside this has them."""

import functools

import pytest
import torch

from opd_toy.audit import audit, audit_sequence
from tests import audit_stale_losses as stale
from tests.audit_sequence_losses import (
    audit_on_fewer,
    drawn,
    in_full,
    kl,
    sft,
    to_go,
)
from tests.written import check_text

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("error::RuntimeWarning", "error::UserWarning"),
]


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


def of_two_texts(student, teacher, tokens):
    return kl(student, teacher).sum(-1).mean()


def of_tokens(loss, **options):
    return audit, loss, {"inputs": "token_log_probs", **options}


def of_stale_texts(loss):
    return audit_on_fewer, loss, {"inputs": "token_log_probs"}


CASES = {  # (auditor, loss, options)
    "sft": (audit_on_fewer, sft, {"drawn_from": "teacher"}),
    "rewarded": (audit_on_fewer, rewarded, {"reward": lambda text: (text == 0).sum()}),
    "careless": (audit_on_fewer, careless, {}),
    "in groups": (audit_sequence, in_groups, {"batched": True}),
    "of two texts": (audit_on_fewer, of_two_texts, {"batched": True}),
    "stale and truncated": of_tokens(stale.k2_truncated, seed=5),
    "stale and kept": of_tokens(stale.importance_sampling),
    "stale with a penalty": (audit, stale.with_penalty, {}),
    "stale texts and a product": of_stale_texts(stale.product_truncated),
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


@pytest.mark.parametrize("name", CASES)
def test_a_report_is_as_it_was(name):
    auditor, loss, options = CASES[name]
    asked = Asked(loss)
    report = in_full(auditor(asked.loss, **options))
    sums = ", ".join(f"{size:.7g}" for size in asked.sums.values())
    text = f"{report}\nasked {asked.calls} times: {sums}"
    check_text("audit_reports_of_texts.txt", name, text)
