"""What the first edition said wrongly, computed: one test a correction, by chapter."""

import itertools
import re

import numpy as np
import pytest
import torch

from opd_toy import distributions, estimators, objectives, sequences
from opd_toy.example import STUDENT, STUDENT_TREE, TEACHER, TEACHER_TREE
from opd_toy.sequences import sequence_kl
from tests.conftest import ROOT

# --- front page -----------------------------------------------------------------------


def test_the_front_page_calls_each_chapter_by_its_title():
    front = (ROOT / "book" / "index.md").read_text(encoding="utf-8")
    named = re.findall(r"^\|.*?\[([^]]+)\]\(([\w-]+\.md)\)", front, re.MULTILINE)
    pages = {path.name for path in (ROOT / "book").glob("[0-9]*.md")}
    assert {page for _, page in named} == pages | {
        "decide.md",
        "symptoms.md",
        "one-page.md",
        "notation.md",
    }
    for title, page in named:
        assert f"\n# {title}\n" in (ROOT / "book" / page).read_text(encoding="utf-8")


def test_the_loss_of_the_front_page_is_the_mean_over_the_student_s_own_tokens():
    """Each of the tokens that it wrote is predicted by the row before it."""
    front = (ROOT / "book" / "index.md").read_text(encoding="utf-8")
    [lines] = re.findall(r"^```python\n(.*?)^```", front, re.MULTILINE | re.DOTALL)
    generator = torch.Generator().manual_seed(0)
    models = torch.randn(2, 2, 5, 7, generator=generator, dtype=torch.float64)
    names = dict(zip(("student_logits", "teacher_logits"), models))
    names["mask"] = torch.tensor([[0, 0, 1, 1, 0], [0, 1, 1, 1, 1]], dtype=torch.bool)
    own = names["mask"].nonzero().tolist()
    assert len(own) == 6
    exec(lines, names)
    before = [models[:, text, at - 1].softmax(-1).numpy() for text, at in own]
    wanted = np.mean([objectives.reverse_kl(*pair) for pair in before])
    assert float(names["loss"]) == pytest.approx(wanted, rel=1e-12)


# --- opening chapter --------------------------------------------------------------------


def test_the_whole_method_has_as_many_lines_as_its_title_says():
    page = (ROOT / "book" / "00-why-on-policy.md").read_text(encoding="utf-8")
    _, section = page.split("## The whole method in ")
    cells = re.findall(
        r"^```\{code-cell\} ipython3\n(?!:)(.*?)^```", section, re.MULTILINE | re.DOTALL
    )
    lines = [line for line in "".join(cells).splitlines() if line.strip()]
    assert section.startswith("nineteen lines\n") and len(lines) == 19


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


# --- chapter 5 -------------------------------------------------------------------------

SAMPLED, COSTS_TO_COME, ALL_EXACT = "sampled", "full_vocabulary_future", "full_vocabulary"


def two_positions(first, after):
    return sequences.TokenTree((np.log([first]), np.log(after)))


def return_variance(pair, signal):
    table = sequences.reward_to_go(*pair, 1, signal)
    bias = table.bias(sequences.sequence_kl_gradient(*pair))
    assert np.abs(bias).max() < 1e-12  # a few roundings of numbers of about 1
    return table.total_variance()


def test_costs_to_come_made_exact_leave_every_own_cost_sampled():
    pair = (
        two_positions(STUDENT, [[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.1, 0.3, 0.6]]),
        two_positions(TEACHER, [[0.5, 0.4, 0.1], [0.3, 0.3, 0.4], [0.8, 0.1, 0.1]]),
    )
    found = [return_variance(pair, signal) for signal in (SAMPLED, COSTS_TO_COME, ALL_EXACT)]
    assert found == pytest.approx([1.914, 1.618, 0.228], abs=5e-4)


def test_an_exact_own_cost_can_do_harm():
    pair = (
        two_positions([0.1, 0.9], [[0.1, 0.9], [0.75, 0.25]]),
        two_positions([0.8, 0.2], [[0.95, 0.05], [0.75, 0.25]]),
    )
    found = [return_variance(pair, signal) for signal in (COSTS_TO_COME, ALL_EXACT)]
    assert found == pytest.approx([0.124, 0.862], abs=5e-4)


def test_the_first_editions_pair_was_no_example_of_that_harm():
    pair = (
        two_positions(STUDENT, [[0.98, 0.01, 0.01], [0.9, 0.05, 0.05], [0.9, 0.05, 0.05]]),
        two_positions(TEACHER, [[0.02, 0.49, 0.49], [0.15, 0.425, 0.425], [0.9, 0.05, 0.05]]),
    )
    found = [return_variance(pair, signal) for signal in (COSTS_TO_COME, ALL_EXACT)]
    assert found == pytest.approx([2.782, 2.629], abs=5e-4)


def kl_baseline_ratio(student, teacher):
    """Variance of the policy gradient with the KL as baseline, over that without; any V."""
    cost, norm = np.log(student / teacher), 1 - 2 * student + (student**2).sum()
    kl = (student * cost).sum()
    squared_gradient = ((student * (cost - kl)) ** 2).sum()
    with_kl, without = (
        (student * (cost - baseline) ** 2 * norm).sum() - squared_gradient for baseline in (kl, 0)
    )
    return with_kl / without


def test_the_kl_baseline_hurts_on_the_notes_pair_and_helps_over_a_large_vocabulary():
    def engine(baseline):
        table = estimators.policy_gradient(STUDENT, TEACHER, baseline)
        return estimators.total_variance(STUDENT, table)

    ratio = kl_baseline_ratio(STUDENT, TEACHER)
    assert ratio == pytest.approx(engine(objectives.reverse_kl(STUDENT, TEACHER)) / engine(0))
    assert ratio > 1.1

    random = np.random.default_rng(7)  # not the page's
    z, noise = random.standard_normal((2, 40, 20_000))
    share = {}
    for deviation in (1, 3, 6):
        pairs = distributions.softmax(deviation * z), distributions.softmax(deviation * z + noise)
        ratios = np.array([kl_baseline_ratio(*pair) for pair in zip(*pairs)])
        share[deviation] = (ratios < 1).mean()
        if deviation == 1:
            # Scores of equal length: 1 − KL²/E[C²], with KL near ½ and E[C²] near 1 + ¼.
            assert np.median(ratios) == pytest.approx(0.8, abs=0.02)
    assert share[1] == 1 and share[3] > 0.9 and share[3] >= share[6] > 0.5


def test_normalising_prefix_by_prefix_turns_the_gradient_and_by_the_batch_does_not():
    p, q = STUDENT_TREE.probabilities[1], TEACHER_TREE.probabilities[1]
    visits = STUDENT[:, None]

    def cosine(a, b):
        return np.vdot(a, b) / np.linalg.norm(a) / np.linalg.norm(b)

    exact = visits * objectives.reverse_kl_logit_gradient(p, q)
    apart = visits * estimators.expectation(p, estimators.normalized_policy_gradient(p, q))
    assert cosine(apart, exact) == pytest.approx(0.883, abs=5e-4)

    cost = np.log(p / q)
    mean = (visits * p * cost).sum()
    deviation = np.sqrt((visits * p * (cost - mean) ** 2).sum())
    tables = [estimators.policy_gradient(*row, mean) / deviation for row in zip(p, q)]
    together = visits * np.array([estimators.expectation(*row) for row in zip(p, tables)])
    assert cosine(together, exact) == pytest.approx(1, abs=1e-12)


def test_a_group_of_draws_that_takes_off_its_own_mean_shortens_the_gradient():
    """By 1 − 1/N, for each draw's own cost is in the mean.  The exact KL shortens nothing."""
    cost, scores = np.log(STUDENT / TEACHER), np.eye(3) - STUDENT
    exact = objectives.reverse_kl_logit_gradient(STUDENT, TEACHER)
    for size in (2, 3, 4):
        groups = np.array(list(itertools.product(range(3), repeat=size)))
        chances = STUDENT[groups].prod(axis=1)
        weights = cost[groups] - cost[groups].mean(axis=1, keepdims=True)
        mean = chances @ (weights[:, :, None] * scores[groups]).mean(axis=1)
        assert mean == pytest.approx((1 - 1 / size) * exact, rel=1e-12)
    with_kl = estimators.policy_gradient(STUDENT, TEACHER, distributions.kl(STUDENT, TEACHER))
    assert estimators.expectation(STUDENT, with_kl) == pytest.approx(exact, rel=1e-12)


# --- chapter 6 -------------------------------------------------------------------------


def test_at_half_a_discount_one_token_ahead_counts():
    total, present = sequences.discounted_return(np.ones(60), 0.5)[0], 1
    assert total - present == pytest.approx(1, rel=1e-12)  # γ/(1 − γ)
    assert total == pytest.approx(2, rel=1e-12)  # 1/(1 − γ) counts the present one as well


def test_a_half_life_is_as_free_as_the_discount():
    for gamma in (0.01, 0.3, 0.9, 0.999):
        half_life = -1 / np.log2(gamma)
        assert half_life > 0 and 2 ** (-1 / half_life) == pytest.approx(gamma, rel=1e-12)
        assert gamma**half_life == pytest.approx(0.5, rel=1e-12)


def test_gae_is_no_decay_of_costs():
    goal = sequences.sequence_kl_gradient(STUDENT_TREE, TEACHER_TREE)
    pair = STUDENT_TREE, TEACHER_TREE
    decayed = sequences.reward_to_go(*pair, 0.5)
    surprises = sequences.generalized_advantage(*pair, 1, 0.5)
    assert np.linalg.norm(surprises.bias(goal)) < 1e-12
    assert np.linalg.norm(decayed.bias(goal)) == pytest.approx(0.148, abs=5e-4)
    without_critic = sequences.generalized_advantage(*pair, 1, 0.5, (np.zeros(1), np.zeros(3)))
    assert without_critic.weights == pytest.approx(decayed.weights, rel=1e-12)
