"""Which row moves which: shifts, texts that reach into each other, what a draw weighs scores by."""

import numpy as np
import pytest
import torch

from opd_toy.audit import audit_sequence
from opd_toy.audit.sequence.alignment import alignment_findings, in_a_sentence, shifts
from opd_toy.audit.sequence.calls import SequenceCall
from opd_toy.audit.sequence.dependence import LENGTH, NOWHERE, observe_dependence
from opd_toy.audit.sequence.groups import describe, observe_group
from opd_toy.audit.sequence.masks import observe_batch, observe_mask
from opd_toy.audit.sequence.normalisers import name_mask
from tests.audit_sequence_losses import (
    FULL_RETURN,
    IMMEDIATE,
    REWARD_TO_GO,
    at_every_position,
    audit_on_fewer,
    drawn,
    immediate_costs,
    jsd,
    kl,
    positions,
    sft,
    to_go,
    weighted,
)

pytestmark = pytest.mark.usefixtures("one_thread")
SEEDS = range(20)


def dependence(loss, *, batched=False, seed=0):
    copies = 2 if batched else 1
    return observe_dependence(SequenceCall(loss, batched), seed, copies)


def of_rows(loss, student=slice(None), teacher=slice(None), tokens=slice(None)):
    """The loss of some rows of its inputs alone."""
    return lambda s, t, k: loss(s[student], t[teacher], k[tokens])


def drawn_from(p, q, k):
    return immediate_costs(p, q, k).sum()


ALL_BUT_LAST, ALL_BUT_FIRST = slice(-1), slice(1, None)
INSIDE = of_rows(drawn_from, ALL_BUT_LAST, ALL_BUT_LAST, ALL_BUT_FIRST)
BEFORE = of_rows(drawn_from, ALL_BUT_FIRST, ALL_BUT_FIRST, ALL_BUT_LAST)
NEXT_DRAWN = of_rows(drawn_from, ALL_BUT_LAST, ALL_BUT_FIRST, ALL_BUT_LAST)


def other_labels(s, t, k):
    log_p, (_, log_q) = next(drawn(s, t, k)), drawn(s, t, k.roll(-1))
    return ((log_p - log_q).detach() * log_p).sum()


def local_kl(s, t):
    return kl(s, t).sum()


SHIFTED = {  # (labels, teacher)
    "labels one later": (INSIDE, (1, 0)),
    "labels one earlier": (BEFORE, (-1, 0)),
    "labels rolled": (lambda s, t, k: REWARD_TO_GO(s, t, k.roll(-1)), (1, 0)),
    "labels two later": (of_rows(drawn_from, slice(-2), slice(-2), slice(2, None)), (2, 0)),
    "teacher one later, drawn": (NEXT_DRAWN, (0, 1)),
    "teacher rolled, to go": (lambda s, t, k: REWARD_TO_GO(s, t.roll(1, 0), k), (0, -1)),
    "teacher one later, whole": (lambda s, t: local_kl(s[:-1], t[1:]), (0, 1)),
    "teacher one earlier, whole": (lambda s, t: local_kl(t[:-1], s[1:]), (0, -1)),
    "teacher two earlier, whole": (lambda s, t: local_kl(s[2:], t[:-2]), (0, -2)),
    "teacher rolled, whole": (lambda s, t: jsd(s, t.roll(-1, 0), 0.3).sum(), (0, 1)),
    "teacher and labels": (
        of_rows(drawn_from, slice(-2), slice(2, None), slice(1, -1)),
        (1, 2),
    ),
}
ALIGNED = {
    "immediate": IMMEDIATE,
    "to go": REWARD_TO_GO,
    "full return": FULL_RETURN,
    "later costs alone": weighted(lambda r: to_go(r) - r),
    "earlier costs": weighted(lambda r: r.cumsum(0)),
    "clipped early": weighted(lambda r: to_go(r).clamp(-1, 1)),
    "cross-entropy as cost": lambda s, t, k: (
        to_go(-list(drawn(s, t, k))[1].detach()) * next(drawn(s, t, k))
    ).sum(),
    "whole vocabulary": local_kl,
    "whole vocabulary, later costs too": at_every_position(kl, future=True),
    "no teacher": sft,
    "the worst position": lambda s, t: kl(s, t).max(),
    "softened": lambda s, t, k: REWARD_TO_GO(s / 2, t / 2, k),
    "float32": lambda s, t, k: REWARD_TO_GO(s.float(), t.float(), k),
    "bfloat16": lambda s, t, k: REWARD_TO_GO(s.bfloat16(), t.bfloat16(), k),
    "bfloat16, whole": lambda s, t: local_kl(s.bfloat16(), t.bfloat16()),
    "likeliest token": lambda s, t: -s.log_softmax(-1).gather(-1, t.argmax(-1)[:, None]).sum(),
}


@pytest.mark.parametrize("name", SHIFTED)
def test_shifts_are_found(name):
    loss, wanted = SHIFTED[name]
    assert {shifts(dependence(loss, seed=seed)) for seed in SEEDS[:5]} == {wanted}


@pytest.mark.parametrize("name", ALIGNED)
def test_what_is_aligned_is_not_called_shifted(name):
    found = [dependence(ALIGNED[name], seed=seed) for seed in SEEDS[:5]]
    assert not any(map(alignment_findings, found))


@pytest.mark.parametrize(
    "loss, sentence",
    [
        (INSIDE, "the gradient at position t follows the token at position t + 1: the labels"),
        (NEXT_DRAWN, "moves with the teacher's row t + 1, not with its row t: the teacher is"),
        (SHIFTED["teacher rolled, to go"][0], "moves with the teacher's row t − 1: the teacher is"),
        (other_labels, "the teacher's row t is read at the token of position t + 1: its labels"),
    ],
)
def test_a_shift_is_said_of_positions(loss, sentence):
    ((severity, words),) = alignment_findings(dependence(loss))
    assert severity == "broken" and sentence in words and "shifted by one" in words


def test_what_is_nearly_a_score_is_none():
    """All but the token's entry follow the softmax: in a row that sums to no 0, or in turns."""

    def drawn_logit(s, t, k):
        return (2 * s.gather(-1, k[:, None])[:, 0] - s.logsumexp(-1)).sum()

    def in_turns(s, t, k):
        row = s.detach().softmax(-1) * (-1) ** torch.arange(s.shape[-1])
        return (row * (s - s.gather(-1, k[:, None]))).sum()

    for loss in (drawn_logit, in_turns):
        assert (dependence(loss).scored == NOWHERE).all()


def test_rows_that_are_each_softened_in_a_way_of_their_own_have_no_temperature():
    softened = dependence(lambda s, t, k: REWARD_TO_GO(s / (1 + positions(s)[:, None]), t, k))
    assert softened.temperature is None and softened.scored.tolist() == list(range(LENGTH))


def test_a_map_shows_who_pays_for_whom():
    local, future = dependence(IMMEDIATE), dependence(REWARD_TO_GO)
    seen = local.moves["teacher"] > local.seen
    np.testing.assert_array_equal(seen, np.eye(LENGTH, dtype=bool))
    np.testing.assert_array_equal(
        future.moves["teacher"] > future.seen, np.triu(np.ones((LENGTH, LENGTH), bool))
    )
    np.testing.assert_array_equal(local.scored, range(LENGTH))
    np.testing.assert_array_equal(local.read_at, range(LENGTH))
    assert set(dependence(local_kl).scored) == {NOWHERE}


@pytest.mark.parametrize(
    "loss, parts",
    [
        (
            weighted(lambda r: to_go(r.tanh())),
            ("the drawn tokens alone", "its own and of later positions", "; rests where"),
        ),
        (local_kl, ("the whole vocabulary", "its own position alone")),
        (weighted(lambda r: to_go(r) - r), ("of later positions alone",)),
        (weighted(lambda r: r.sum() + 0 * r), ("costs of all positions",)),
        (weighted(lambda r: r.cumsum(0)), ("its own and of earlier positions",)),
        (sft, ("does not look at the teacher",)),
        (ALIGNED["softened"], ("scores them at temperature 2",)),
        (INSIDE, ("position 4 of 4 gets no gradient",)),
        (ALIGNED["the worst position"], ("no common pattern",)),
    ],
)
def test_what_has_no_name_is_described(loss, parts):
    for seed in SEEDS[:5]:
        sentence = in_a_sentence(dependence(loss, seed=seed), True)
        assert all(part in sentence for part in parts), sentence


def test_a_loss_without_a_name_says_what_it_is():
    found = audit_on_fewer(weighted(lambda r: to_go(r.tanh())))
    assert found.optimises == "none of these" and found.description.startswith("acts on the drawn")
    assert f"that is: {found.description}" in str(found)
    assert set(found.to_dict()["dependence"]) == {"student", "teacher", "tokens"}
    shifted = audit_on_fewer(SHIFTED["teacher one later, whole"][0])
    assert "alignment" in {
        entry["edge"] for entry in shifted.edges if entry["severity"] == "broken"
    }
    assert "teacher: position 1 by row 2; position 2 by row 3" in shifted._repr_html_()


@pytest.mark.parametrize(
    "loss, constants",
    [
        (lambda a, b: ((a - b).detach() * a).mean(), True),
        (lambda s, t: (s - t).square().mean(), True),
        (lambda s, t: 1e-6 * (s - t).square().mean(), True),
        (lambda s, t: local_kl(s, t) + (s - t)[1].square().sum(), True),  # of one row alone
        (lambda s, t: local_kl(s, t) + ((s - t).abs().max() - 1.5).relu(), True),  # far apart
        (local_kl, False),
        (lambda s, t: 1e4 * local_kl(s.float(), t.float()), False),
        (ALIGNED["bfloat16"], False),
    ],
)
def test_a_constant_in_a_row_changes_no_probability(loss, constants):
    assert {dependence(loss, seed=seed).constants for seed in SEEDS} == {constants}


# --- texts that share something ------------------------------------------------------------


def costs_of(student, teacher, tokens):
    log_p, log_q = drawn(student, teacher, tokens)
    return log_p, (log_p - log_q).detach()


def group(advantage, divide=lambda sums, mask: sums.mean()):
    """Scores weighted by ``advantage(masked costs, mask)``, (B, T) or (B, 1), in a batch."""

    def loss(student, teacher, tokens, mask):
        log_p, costs = costs_of(student, teacher, tokens)
        mask = mask.to(costs.dtype)
        return divide((advantage(costs * mask, mask) * log_p * mask).sum(-1), mask)

    return loss


def summed(costs):
    return costs.sum(-1, keepdim=True)


def less_the_others(own):
    return own - (own.sum(0) - own) / (len(own) - 1)


def whitened(own):
    return (own - own.mean()) / (own.std() + 1e-4)


def whitened_tokens(costs, mask):
    mean = costs.sum() / mask.sum()
    deviation = ((costs - mean).square() * mask).sum() / mask.sum()
    return (costs - mean) / (deviation + 1e-8).sqrt()


def mean_of_means(sums, mask):
    return (sums / mask.sum(-1)).mean()


def over_tokens(sums, mask):
    return sums.sum() / mask.sum()


LEAVE_ONE_OUT = group(lambda costs, mask: less_the_others(summed(costs)))
SCORE = "a draw is each token's score times "
# {name: (loss, what a draw is, the verdict's name where it is standardized)}
GROUPS = {
    "leave one out": (
        LEAVE_ONE_OUT,
        "its text's sum of log p − log q, less the others' mean",
        None,
    ),
    "the group's mean": (
        group(lambda costs, mask: summed(costs) - summed(costs).mean()),
        "its text's sum of log p − log q, less the batch's mean",
        None,
    ),
    "GRPO's": (
        group(lambda costs, mask: whitened(summed(costs)), mean_of_means),
        "its text's sum of log p − log q, less the batch's mean, "
        "divided by the batch's standard deviation",
        "1/T × sequence reverse KL, standardized over the batch",
    ),
    "a mean of the costs": (
        group(lambda costs, mask: whitened(summed(costs) / summed(mask)), over_tokens),
        "its text's mean of log p − log q, less the batch's mean, "
        "divided by the batch's standard deviation",
        "1/T × sequence reverse KL, standardized over the batch",
    ),
    "raised": (
        group(lambda costs, mask: -whitened(summed(costs))),
        "its text's sum of log p − log q, less the batch's mean, "
        "divided by the batch's standard deviation",
        "−1 × sequence reverse KL, standardized over the batch",
    ),
    "the others' mean, standardized": (
        group(lambda costs, mask: less_the_others(summed(costs)) / summed(costs).std()),
        "its text's sum of log p − log q, less the others' mean, "
        "divided by the batch's standard deviation",
        "sequence reverse KL, standardized over the batch",
    ),
    "tokens": (
        group(whitened_tokens),
        "its own log p − log q, less the mean over the batch's tokens, "
        "divided by their standard deviation",
        "sum of local reverse KLs, standardized over the batch's tokens",
    ),
    "position by position": (
        group(lambda costs, mask: costs - costs.sum(0) / mask.sum(0).clamp(min=1)),
        "its own log p − log q, less the batch's mean at its position",
        None,
    ),
}


@pytest.mark.parametrize("name", GROUPS)
def test_what_a_draw_of_a_group_is(name):
    loss, words, verdict = GROUPS[name]
    call = SequenceCall(loss, batched=True)
    found = [describe(observe_group(call, seed)) for seed in SEEDS[:5]]
    assert {(group.words, group.name) for group in found} == {(SCORE + words, verdict)}


def test_a_reward_may_be_what_is_standardized():
    def loss(student, teacher, tokens):
        log_p, _ = costs_of(student, teacher, tokens)
        rewards = (tokens == 0).sum(-1, keepdim=True).double()
        return -(whitened(rewards) * log_p).sum(-1).mean()

    call = SequenceCall(loss, batched=True)
    assert describe(observe_group(call, 0)) is None
    assert describe(observe_group(call, 0, lambda text: 1.0)) is None
    rewarded = describe(observe_group(call, 0, lambda text: (text == 0).sum()))
    assert rewarded.name == "−1 × expected reward, standardized over the batch"


def test_no_group_where_costs_are_squashed_or_the_vocabulary_counts():
    squashed = SequenceCall(group(lambda costs, mask: whitened(summed(costs).tanh())), batched=True)
    assert describe(observe_group(squashed, 0)) is None
    near = lambda costs, mask: whitened(summed(costs)) + 0.01 * summed(costs).tanh()
    assert describe(observe_group(SequenceCall(group(near), batched=True), 0)) is None
    in_words = in_a_sentence(observe_dependence(squashed, 0, copies=2), True)
    assert "moves with the other texts" in in_words
    whole = SequenceCall(lambda s, t: kl(s, t).sum(), batched=True)
    assert observe_group(whole, 0) is None


def test_a_text_may_be_standardized_by_itself():
    within = weighted(lambda r: (to_go(r) - to_go(r).mean()) / to_go(r).std())
    found = describe(observe_group(SequenceCall(within, batched=False), 0))
    assert found.name is None and found.words.endswith(
        "the sum of log p − log q from it on, less the mean over its text's tokens, "
        "divided by their standard deviation"
    )


@pytest.mark.parametrize(
    "divide, words",
    [
        (mean_of_means, "each sequence's own tokens, then the sequences (mean of means)"),
        (over_tokens, "the valid tokens of the batch"),
        (lambda sums, mask: sums.mean(), "the sequences (sums over tokens, mean over sequences)"),
        (lambda sums, mask: sums.sum() / mask.numel(), "the padded size of the batch, B × T"),
    ],
)
def test_what_a_shared_batch_is_divided_by(divide, words):
    loss = group(lambda costs, mask: whitened(summed(costs)), divide)
    found = describe(observe_group(SequenceCall(loss, batched=True), 3))
    assert found.reading == words and found.per_token == ("sums over" not in words)


def mask_of(loss, seed=0):
    return observe_mask(SequenceCall(loss, batched=True), seed, copies=2)


def unmasked_baseline(student, teacher, tokens, mask):
    log_p, costs = costs_of(student, teacher, tokens)
    own, all_of_it = summed(costs * mask), summed(costs)
    baseline = (all_of_it.sum(0) - all_of_it) / (len(own) - 1)
    return ((own - baseline) * log_p * mask).sum(-1).mean()


def rolled_mask(student, teacher, tokens, mask):
    return LEAVE_ONE_OUT(student, teacher, tokens, mask.roll(1, 0))


def test_masks_of_a_group_are_each_texts_own():
    for seed in SEEDS:
        clean = name_mask(mask_of(LEAVE_ONE_OUT, seed), False)
        assert clean.fields == {"respected": True, "normalised_by": "nothing: a plain sum"}
    # Of (1, 1, 0, 0) beside (1, 0, 1, 1).
    assert mask_of(rolled_mask).gradient["padding at the end"] == ((0, 2), (0, 3), (1, 1))


@pytest.mark.parametrize("what", ["student", "teacher", "tokens"])
def test_a_leak_through_one_input_alone_is_seen(what):
    def loss(student, teacher, tokens, mask):
        read = {"student": student[..., 0], "teacher": teacher[..., 0], "tokens": tokens}[what]
        hidden = (read.detach() * ~mask.bool()).sum()
        return (1 + hidden**2) * (kl(student, teacher) * mask).sum()

    leaks = observe_mask(SequenceCall(loss, batched=False), 0, copies=1).leak
    assert [leak.what for leak in leaks.values()] == 3 * [what]


def test_a_leak_that_no_row_makes_alone_has_no_place():
    def loss(student, teacher, tokens, mask):
        large = student.abs().amax(-1) > 3.3  # three times an ordinary row, not another one
        twice = 1 + (large & ~mask.bool()).any()
        return twice * (kl(student, teacher) * mask).sum() / mask.sum()

    leaks = observe_mask(SequenceCall(loss, batched=False), 0, copies=1).leak
    assert None in leaks.values()


@pytest.mark.parametrize("loss", [LEAVE_ONE_OUT, unmasked_baseline, rolled_mask])
def test_what_masked_positions_do_does_not_hang_on_a_loss_s_size(loss):
    facts = mask_of(loss)
    for size in (1e-6, 1e6):
        sized = mask_of(lambda s, t, k, mask, size=size: size * loss(s, t, k, mask))
        assert (sized.gradient, sized.leak) == (facts.gradient, facts.leak)
        assert sized.factor == pytest.approx(facts.factor)


def test_a_leak_from_anothers_padding_is_placed():
    for seed in SEEDS:
        leak = mask_of(unmasked_baseline, seed).leak["padding at the end"]
        assert (leak.by, leak.moved[0]) == ((0, 2), 1)
    words = name_mask(mask_of(unmasked_baseline), None).findings[0][1]
    assert "at text 2's position 1 moves with the student's row at text 1's position 3" in words


def end_to_end(student, teacher, tokens, mask):
    """A return that runs on into the next text of the batch."""
    log_p, costs = costs_of(student, teacher, tokens)
    returns = to_go((costs * mask).reshape(-1)).reshape(log_p.shape)
    return (returns * log_p * mask).sum()


def first_as_baseline(student, teacher, tokens, mask):
    log_p, costs = costs_of(student, teacher, tokens)
    own = summed(costs * mask)
    return ((own - own[:1]) * log_p * mask).sum()


def teacher_of_another(student, teacher, tokens):
    log_p, costs = costs_of(student, teacher.flip(0), tokens)
    return (costs * log_p).sum()


@pytest.mark.parametrize(
    "loss, words",
    [
        (end_to_end, "the gradient of text 1 at position 1 moves with position 1 of text 2"),
        (first_as_baseline, "the gradient of text 2 at position 1 moves with position 1 of text 1"),
        (teacher_of_another, "the teacher's rows of another text, not with its own"),
    ],
)
def test_texts_that_reach_into_each_other(loss, words):
    for seed in SEEDS[:3]:
        found = alignment_findings(dependence(loss, batched=True, seed=seed))
        assert [severity for severity, _ in found] == ["broken"] and words in found[0][1]
    assert not alignment_findings(dependence(LEAVE_ONE_OUT, batched=True))


def test_a_group_in_a_report():
    found = audit_sequence(LEAVE_ONE_OUT, batched=True)
    assert found.optimises == "sequence reverse KL" and found.mask["respected"]
    assert found.unbiased_for == {"sequence reverse KL": "1"}
    assert found.description == SCORE + GROUPS["leave one out"][1]
    assert found.batch["normalised_by"].startswith("the sequences")
    assert not [entry for entry in found.edges if entry["severity"] == "broken"]
    grpo, _, name = GROUPS["GRPO's"]
    found = audit_sequence(grpo, batched=True)
    assert found.optimises == name and found.description and not found.unbiased_for
    assert found.objective is None and not found.holds_everywhere
    assert found.mask == {"respected": True, "normalised_by": "the valid tokens"}
    assert found.batch["normalised_by"].startswith("each sequence's own tokens")
    assert found.dependence["other text's teacher"].shape == (2, LENGTH, LENGTH)


def test_a_loss_that_refuses_one_text_is_asked_for_two():
    def needs_two(student, teacher, tokens, mask):
        assert len(tokens) > 1, "a group of one"
        return LEAVE_ONE_OUT(student, teacher, tokens, mask)

    assert observe_batch(SequenceCall(needs_two, batched=True), 0).shared
