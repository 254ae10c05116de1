"""The record of answers that derail: how slips are read, what is counted, what the record says."""

import dataclasses

import pytest
import torch

from opd_toy.lm import derailing, pretraining
from opd_toy.lm.slips import read_steps, slips
from opd_toy.lm.tasks import is_test
from opd_toy.records.provenance import recorded

pytestmark = pytest.mark.usefixtures("one_thread")


def rights(terms, answer):
    return [step.right for step in read_steps(terms, answer)]


def test_every_token_of_a_right_working_is_right():
    texts = pretraining.corpus(derailing.TASK, 300, "right workings")
    assert all(slips(derailing.steps_of(text)) == [] for text in texts)


@pytest.mark.parametrize(
    "answer, wrong",
    [
        ("9+8=71+4=12+7=82.", []),
        ("9+8=71+9=61+7=42.", [7, 10, 14]),  # a number twice, then 17 + 9 = 16, then 16 + 7 = 24
        ("9+8=61+4=02+7=72.", [4]),  # 16 is carried on with rightly
        ("9+8=71+4=12.", [11]),  # ends a number early
        ("9+8=7+4=11+7=81.", [5]),  # the carry is left out: 7 + 4 = 11, 11 + 7 = 18
        ("9+8=71+4=12+7=82+", [16]),  # goes on at its end
        ("5+8=31", [0]),
        ("9=8", [1]),  # nothing is read behind a sign out of place
    ],
)
def test_a_slip_is_a_token_that_does_not_carry_on(answer, wrong):
    assert slips(read_steps([8, 9, 4, 7], answer)) == wrong


def test_what_would_be_right_follows_from_what_is_written():
    assert rights([8, 9, 4, 7], "9+8=71+9=6")[7:] == ["47", "=", "6"]  # 9 again: 17 + 9 = 26
    assert rights([8, 9, 4, 7], "9+8=7")[:2] == ["8947", "+"]


def test_all_questions_of_the_training_texts_and_no_other_are_asked():
    prompts = derailing.questions()
    terms = derailing.TASK.read_terms(prompts)
    assert len(set(map(derailing.TASK.read, prompts))) == len(prompts)
    assert not is_test(terms.sort(1).values).any()
    seen = pretraining.corpus(derailing.TASK, 500, "asked")[:, : derailing.TASK.prompt_length]
    assert set(map(derailing.TASK.read, seen)) <= set(map(derailing.TASK.read, prompts))


@pytest.fixture(scope="module")
def counted():
    """A student of a hundred steps, its answers to some questions, the texts that it has seen."""
    short = dataclasses.replace(derailing.PRESET.student, steps=100)
    kept, derailing.PRESET = derailing.PRESET, dataclasses.replace(derailing.PRESET, student=short)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    student = pretraining.pretrain(short, derailing.TASK, "student")
    texts = derailing.draw_answers(student, derailing.questions()[::9])
    yield (
        student,
        texts,
        [derailing.steps_of(text) for text in texts],
        derailing.training_prefixes(),
    )
    torch.set_num_threads(threads)
    derailing.PRESET = kept


def test_counts_add_up(counted):
    student, texts, steps, prefixes = counted
    found = derailing.outcomes(texts, steps)
    assert found["right"] + sum(map(bool, map(slips, steps))) >= len(texts)
    assert found["wrong_without_slip"] == 0
    assert sum(found["first_slips"].values()) == found["slipped"] > 0
    slipping = derailing.slipping(texts, steps, {"student": student}, prefixes)
    assert slipping["before"]["tokens"] + slipping["after"]["tokens"] == found["tokens"]
    drawn = sum(map(len, map(slips, steps)))
    told = sum(slipping[when]["tokens"] * slipping[when]["slips"] for when in ("before", "after"))
    assert told == pytest.approx(drawn)
    # probabilities and draws tell the same, to four standard errors
    error = (slipping["before"]["student"] / slipping["before"]["tokens"]) ** 0.5
    assert abs(slipping["before"]["student"] - slipping["before"]["slips"]) < 4 * error


def test_an_answer_that_has_slipped_begins_no_training_text(counted):
    _, texts, steps, prefixes = counted
    for text, answer in zip(texts, steps):
        assert derailing.new_at(text, prefixes) <= min(slips(answer), default=99) + 1
    shares = derailing.by_position(texts, steps, prefixes)
    for unseen, slipped in zip(*shares.values()):
        assert unseen >= slipped
    assert all(each == sorted(each) for each in shares.values()) and shares["slipped"][0] == 0
    with_slip = sum(bool(slips(answer)) for answer in steps)
    assert shares["slipped"][-1] == pytest.approx(with_slip / len(texts))


def test_a_planted_slip_changes_one_token(counted, monkeypatch):
    student, texts, steps, _ = counted
    sampled = []
    monkeypatch.setattr(
        derailing,
        "sample",
        lambda model, begun, *rest: sampled.append(begun) or texts[: len(begun)],
    )
    found = derailing.after_planting(student, texts, steps)
    rows = [r for r, answer in enumerate(steps) if min(slips(answer), default=99) > 4]
    at = derailing.TASK.prompt_length + derailing.PLANTED_AT
    assert found["answers"] == len(rows) and torch.equal(sampled[0][:, :at], texts[rows, :at])
    assert (sampled[0][:, at] != texts[rows, at]).all() and (sampled[0][:, at] < 10).all()


def test_the_record_says_what_its_answers_say():
    record = recorded("derailing", "derail")
    for answer in record["answers"].values():
        steps = read_steps(answer["terms"], answer["tokens"])
        assert [step.right for step in steps] == answer["right"]
        for model in answer["probabilities"]:
            assert len(model) == len(steps)
            assert all(0.99 < sum(row) < 1.001 for row in model)
    named = {
        name: slips(read_steps(a["terms"], a["tokens"])) for name, a in record["answers"].items()
    }
    assert named["right"] == named["new"] == [] and all(
        named[name] for name in ("number", "sum", "lost")
    )
    assert record["questions"] == len(derailing.questions())
    positions, outcomes = record["positions"], record["outcomes"]
    assert positions["slipped"][-1] == pytest.approx(outcomes["slipped"] / record["questions"])
