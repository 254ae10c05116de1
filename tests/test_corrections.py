"""What the first edition said wrongly, computed: one test a correction, by chapter."""

import re

import numpy as np
import pytest

from opd_toy import objectives
from opd_toy.example import STUDENT, STUDENT_TREE, TEACHER, TEACHER_TREE
from opd_toy.sequences import sequence_kl
from tests.conftest import ROOT

# --- front page -----------------------------------------------------------------------


def test_the_front_page_calls_each_chapter_by_its_title():
    front = (ROOT / "book" / "index.md").read_text(encoding="utf-8")
    named = re.findall(r"^\|.*?\[([^]]+)\]\(([\w-]+\.md)\)", front, re.MULTILINE)
    assert len(named) == 15
    for title, page in named:
        assert f"\n# {title}\n" in (ROOT / "book" / page).read_text(encoding="utf-8")


# --- chapter 1 ------------------------------------------------------------------------


def token_losses(loss, writer):
    """The losses of both positions of the two trees, the second's after the writer's tokens."""
    second = loss(STUDENT_TREE.probabilities[1], TEACHER_TREE.probabilities[1])
    return loss(STUDENT, TEACHER) + writer @ second


@pytest.mark.parametrize(
    ("loss", "own", "other", "of_sequences"),
    [
        (objectives.forward_kl, TEACHER, STUDENT, sequence_kl(TEACHER_TREE, STUDENT_TREE)),
        (objectives.reverse_kl, STUDENT, TEACHER, sequence_kl(STUDENT_TREE, TEACHER_TREE)),
    ],
)
def test_on_policy_kd_is_not_on_policy_distillation(loss, own, other, of_sequences):
    """Agarwal et al.'s on-policy KD, the forward KL on the student's text, is off the diagonal."""
    assert token_losses(loss, own) == pytest.approx(of_sequences, rel=1e-12)
    assert abs(token_losses(loss, other) / of_sequences - 1) > 0.05


# --- chapter 3 -------------------------------------------------------------------------


def rescaled_jsd(student, teacher, beta):
    return objectives.generalized_jsd(student, teacher, beta) / (beta * (1 - beta))


def test_jsd_over_beta_times_one_minus_beta_tends_to_the_two_kls():
    inside = {0.001: 0.635, 0.1: 0.621, 0.5: 0.605, 0.9: 0.649, 0.999: 0.675}
    expected = {1e-6: 0.635} | inside | {1 - 1e-6: 0.676}
    found = {beta: rescaled_jsd(STUDENT, TEACHER, beta) for beta in expected}
    assert found == pytest.approx(expected, abs=5e-4)  # three printed digits
    # The remainder is of the order of β, which is 1e-6.
    assert found[1e-6] == pytest.approx(objectives.forward_kl(STUDENT, TEACHER), rel=1e-5)
    assert found[1 - 1e-6] == pytest.approx(objectives.reverse_kl(STUDENT, TEACHER), rel=1e-5)


def test_near_agreement_the_rescaled_jsd_is_the_same_for_every_beta():
    close = TEACHER * (1 + 0.001 * np.array([1, -2, -3]))  # sums to 1
    half_chi_square = 0.5 * ((close - TEACHER) ** 2 / TEACHER).sum()
    # The remainder is of the order of the relative change, at most .003.
    for beta in (0.001, 0.1, 0.5, 0.9, 0.999):
        assert rescaled_jsd(close, TEACHER, beta) == pytest.approx(half_chi_square, rel=0.003)


def test_a_beta_inside_the_interval_helps_a_forgotten_token_once_rescaled():
    forgotten = np.array([0.001, 0.499, 0.5])

    def push(beta):
        return -objectives.generalized_jsd_logit_gradient(forgotten, TEACHER, beta)[0]

    at_the_ends = push(0), push(1)
    assert at_the_ends == pytest.approx((0.699, 0.0078), abs=5e-4)
    for beta in (0.01, 0.1, 0.5, 0.9):
        assert push(beta) < push(1) < push(beta) / (beta * (1 - beta)) < push(0)
    assert push(0.01) == pytest.approx(0.0021, abs=5e-5)
    assert push(0.01) / 0.01 == pytest.approx(0.206, abs=5e-4)
    assert push(0.01) / (0.01 * 0.99) == pytest.approx(0.208, abs=5e-4)
