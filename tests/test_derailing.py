"""The record of answers that derail: how slips are read, what is counted, what the record says."""

import dataclasses
import json
import signal

import pytest
import torch

from opd_toy.__main__ import main
from opd_toy.commands import derail
from opd_toy.explorables.derail import ANSWERS, LAST
from opd_toy.lm import derailing, derailing_after, pretraining
from opd_toy.lm.model import fingerprint, uniforms
from opd_toy.lm.slips import first_slip, read_steps, slips
from opd_toy.lm.tasks import is_test
from opd_toy.records import provenance
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
    steps = read_steps([8, 9, 4, 7], answer)
    assert slips(steps) == wrong
    assert first_slip(steps) == (wrong[0] if wrong else len(steps))


@pytest.mark.parametrize("term", [12, -1, 4.0])
def test_terms_of_more_than_a_digit_are_refused(term):
    with pytest.raises(ValueError, match=rf"^terms is {term}; give .* from 0 to 9"):
        read_steps([8, term], "8+")


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


def shortened(**steps):
    """The preset with fewer steps of training."""
    preset = derailing.PRESET
    of = {role: dataclasses.replace(getattr(preset, role), steps=n) for role, n in steps.items()}
    return dataclasses.replace(preset, **of)


@pytest.fixture(scope="module")
def counted(one_thread):
    """A student of a hundred steps, its answers to some questions, the texts that it has seen."""
    preset = shortened(student=100)
    student = pretraining.pretrain(preset.student, derailing.TASK, "student")
    texts = derailing.draw_answers(student, derailing.questions()[::9])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(derailing, "PRESET", preset)
        prefixes = derailing.training_prefixes()
    return student, texts, [derailing.steps_of(text) for text in texts], prefixes


def test_counts_add_up(counted):
    student, texts, steps, prefixes = counted
    found = derailing.outcomes(texts, steps)
    assert derailing.accuracy(texts) == pytest.approx(found["right"] / len(texts), rel=1e-6)
    slipped, without = found["slipped"], found["wrong_without_slip"]
    assert found["right"] + slipped - found["slipped_and_right"] + without == len(texts)
    assert without == 0 < found["slipped_and_right"]
    right = [str(sum(map(int, derailing.TASK.read(text)[:7:2])))[::-1] for text in texts]
    ends = ["".join(step.token for step in answer).split("=")[-1] for answer in steps]
    wrong = [slips(answer) for answer, *pair in zip(steps, ends, right) if pair[0] != f"{pair[1]}."]
    assert found["right"] == len(texts) - len(wrong)
    assert found["wrong_with_one_slip"] == [len(each) for each in wrong].count(1)
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
        if slips(answer):
            assert derailing.new_at(text, prefixes) <= first_slip(answer) + 1
    shares = derailing.by_position(texts, steps, prefixes)
    for unseen, slipped in zip(*shares.values()):
        assert unseen >= slipped
    assert all(each == sorted(each) for each in shares.values()) and shares["slipped"][0] == 0
    with_slip = sum(bool(slips(answer)) for answer in steps)
    assert shares["slipped"][-1] == pytest.approx(with_slip / len(texts))


def test_an_answer_that_has_ended_stays_what_it_was():
    right, wrong = (
        torch.tensor([derailing.token(each) for each in f"1 2 3 4:{answer}"])
        for answer in ("1+2=3+3=6+4=01.__", "1+2=4+3=7+4=11.__")
    )
    for text, shares in ((right, [0] * 18), (wrong, [0] * 5 + [1] * 13)):
        assert derailing.by_position([text], [derailing.steps_of(text)], set())["slipped"] == shares
    texts = [right, wrong, right]
    found = derailing.by_position(texts, list(map(derailing.steps_of, texts)), set())
    assert found == {"unseen": [1.0] * 18, "slipped": [0.0] * 5 + [1 / 3] * 13}


def test_beginnings_are_those_of_the_texts_that_the_student_has_learned_from(monkeypatch):
    """The question alone is one of them, and so is the whole text."""
    monkeypatch.setattr(derailing, "PRESET", shortened(student=2))
    corpora = [pretraining.corpus(derailing.TASK, 64, 1, "student", step) for step in (0, 1)]
    lines = [derailing.TASK.read(text) for text in torch.cat(corpora)]
    wanted = {line[:end] for line in lines for end in range(8, len(line) + 1)}
    assert derailing.training_prefixes() == wanted


def test_alike_and_new_are_means_at_the_places_after_a_slip(monkeypatch):
    """Two places after a slip, of one and of three tokens; a third where none stands."""
    easy, hard, other = ("sum", 2, 0), ("number", 2, 0), ("number", 0, 0)
    found = {
        "before": {easy: [[0.1, 0.01, 0], [0.3, 0.03, 1]], hard: [[0.6, 0.2, 0]], other: [[1] * 3]},
        "new": {easy: [[0.3, 0.03, 1]], hard: [[0.8, 0.4, 0]], other: [[0.9] * 3]},
        "after": {easy: [[0.5, 0.1, 0]], hard: [[0.7, 0.6, 1], [0.9, 0.8, 0], [0.8, 0.4, 0]]},
    }
    rows = {
        when: {at: torch.tensor(each, dtype=torch.float64) for at, each in places.items()}
        for when, places in found.items()
    }
    monkeypatch.setattr(derailing, "_by_place", lambda *given: rows)
    slipping = derailing.slipping(None, None, {"student": None, "teacher": None}, None)
    wanted = {
        "before": [4, 0.5, 0.31, 0.5],
        "after": [4, 0.725, 0.475, 0.25],
        "alike": [4, (0.2 + 3 * 0.6) / 4, (0.02 + 3 * 0.2) / 4, 0.5 / 4],
        "new": [4, (0.3 + 3 * 0.8) / 4, (0.03 + 3 * 0.4) / 4, 1 / 4],
    }
    columns = ("tokens", "student", "teacher", "slips")
    assert slipping == {
        when: pytest.approx(dict(zip(columns, each))) for when, each in wanted.items()
    }


def test_a_planted_slip_changes_one_token(counted, monkeypatch):
    student, texts, steps, _ = counted
    sampled = []
    monkeypatch.setattr(
        derailing,
        "sample",
        lambda model, begun, *rest: sampled.extend((begun, *rest)) or texts[: len(begun)],
    )
    found = derailing.after_planting(student, texts, steps)
    rows = [r for r, answer in enumerate(steps) if first_slip(answer) > 4]
    numbers = uniforms(0, "answers", shape=(len(texts), 17))[rows, 5:]
    assert torch.equal(sampled[1], numbers) and sampled[2:] == [14, 15]
    at = derailing.TASK.prompt_length + derailing.PLANTED_AT
    assert found["answers"] == len(rows) and torch.equal(sampled[0][:, :at], texts[rows, :at])
    digits = derailing.probabilities(student, texts[rows])[:, 4, :10]
    digits[torch.arange(len(rows)), texts[rows, at]] = 0  # right, as none has slipped so far
    assert torch.equal(sampled[0][:, at], digits.argmax(1))
    left = [sum(t > 4 for t in slips(steps[row])) for row in rows]
    stubbed = [sum(t > 4 for t in slips(answer)) for answer in steps[: len(rows)]]
    assert found["as_written"] == sum(left) / len(rows)
    assert found["planted"] == sum(stubbed) / len(rows) != found["as_written"]


# --- the answers that are shown ---


def read(lines):
    """Texts of these answers to 8 9 4 7, and the steps of each."""
    texts = torch.tensor([[derailing.token(each) for each in "8 9 4 7:" + line] for line in lines])
    return texts, [derailing.steps_of(text) for text in texts]


WRITTEN = {
    "right": "9+8=71+4=12+7=82.",
    "new": "7+8=51+4=91+9=82.",
    "number": "9+8=71+9=62+7=33.",  # 9 a second time
    "sum": "9+8=61+4=02+7=72.",  # 9 + 8 = 16
    "lost": "8+9=71+4=22+7=92.",  # 17 + 4 = 22
}


def test_tokens_are_counted_by_their_places(monkeypatch):
    """Before a slip, among these where the beginning is new, and after it."""
    lines = [WRITTEN[name] for name in ("right", "new", "sum", "number")]
    texts, steps = read(lines)
    prefixes = {"8 9 4 7:" + lines[0][:end] for end in range(18)}
    p = {who: uniforms(0, who, shape=(4, 17, 16)) for who in ("student", "teacher")}
    monkeypatch.setattr(derailing, "probabilities", lambda model, texts: p[model])
    found = derailing._by_place(texts, steps, {who: who for who in p}, prefixes)
    wanted = {"before": {}, "new": {}, "after": {}}
    for row, (line, answer) in enumerate(zip(lines, steps)):
        for t, step in enumerate(answer):
            right = [derailing.token(each) for each in step.right]
            wrong = [1 - float(each[row, t, right].sum()) for each in p.values()]
            wrong.append(step.token not in step.right)
            slipped = any(each.token not in each.right for each in answer[:t])
            fresh = "8 9 4 7:" + line[:t] not in prefixes
            for when in ["after"] if slipped else ["before", "new"][: 1 + fresh]:
                wanted[when].setdefault(step.place, []).append(wrong)
    for when, places in wanted.items():
        assert found[when].keys() == places.keys()
        for at, each in places.items():
            rows = torch.tensor(each, dtype=torch.float64)
            torch.testing.assert_close(found[when][at], rows)


def test_of_each_kind_the_clearest_answer_is_shown(monkeypatch):
    """What is on a bound, unlikely or less clear is passed over, wherever it stands."""
    late = WRITTEN["right"][:-1] + "+"  # it slips at its end
    rows = [  # the kind, the chance of the slip, who doubts how much and how late after it
        *[("sum", 0.019, 0.05, 0.95, 1), ("new later", 0, 0, 0, 0), ("right", 0, 0, 0, 0)],
        *[("number", 0.5, 0.05, 0.9, 1), ("sum", 0.5, 0.3, 0.95, 2), ("sum", 0.02, 0.2, 0.95, 1)],
        *[("lost", 0.5, 0.9, 0.4, 1), ("number", 0.5, 0.4, 0.95, 1), ("lost", 0.5, 0.9, 0.3, 1)],
        *[("late", 0.5, 1, 1, 0), ("new", 0, 0, 0, 0), ("right", 0, 0, 0, 0), ("new", 0, 0, 0, 0)],
    ]
    texts, steps = read(
        (WRITTEN | {"new later": "9+7=61+8=42+4=82.", "late": late})[name] for name, *_ in rows
    )
    student, teacher = torch.full((2, len(rows), 17, 16), 0.96, dtype=torch.float64)
    for row, (answer, (_, chance, own, theirs, later)) in enumerate(zip(steps, rows)):
        student[row, 0, 0] = row / 100 + 0.00127
        slip = first_slip(answer)
        if slip < len(answer):
            student[row, slip] = 0.001
            student[row, slip, derailing.token(answer[slip].token)] = chance
        for model, doubt in ((student, own), (teacher, theirs)):
            for t, step in list(enumerate(answer))[slip + 1 :]:
                right = [derailing.token(each) for each in step.right]
                model[row, t, right] = (doubt if t == slip + later else 0.96) / len(right)
    monkeypatch.setattr(derailing, "probabilities", lambda model, texts: model)
    prefixes = {"8 9 4 7:" + WRITTEN["right"][:end] for end in range(18)}
    found = derailing.shown_answers(
        texts, steps, {"student": student, "teacher": teacher}, prefixes
    )
    chosen = {name: each["probabilities"][0][0][0] for name, each in found.items()}
    best = {"sum": 5, "number": 7, "lost": 8, "new": 10, "right": 2}
    assert chosen == {name: round(row / 100 + 0.0013, 4) for name, row in best.items()}
    assert all(each["probabilities"][1][0][0] == 0.96 for each in found.values())


@pytest.fixture
def written(monkeypatch):
    """``shown_answers`` of WRITTEN's answers to 8 9 4 7; the models' probabilities are given.

    The student is sure of nothing, the teacher nine in ten of what is right and a bit more; but
    after the slip of the "lost" answer it is not.
    """
    monkeypatch.setattr(derailing, "probabilities", lambda model, texts: model[: len(texts)])
    lines = {name: "8 9 4 7:" + answer for name, answer in WRITTEN.items()}
    prefixes = {lines["right"][:end] for end in range(8, 26)}

    def shown(names, doubts="lost"):
        texts, steps = read(WRITTEN[name] for name in names)
        shape = (len(names), derailing.TASK.length, derailing.TASK.vocabulary)
        student, teacher = (torch.full(shape, each, dtype=torch.float64) for each in (0.1, 0.0))
        for row, (name, answer) in enumerate(zip(names, steps)):
            for t, step in enumerate(answer):
                sure = 0.2 if name in doubts and t > first_slip(answer) else 0.95
                for right in step.right:
                    teacher[row, t, derailing.token(right)] = sure / len(step.right)
        models = {"student": student, "teacher": teacher}
        return derailing.shown_answers(texts, steps, models, prefixes)

    return shown


def test_the_answers_shown_are_named_for_what_they_show(written):
    found = written(list(WRITTEN))
    assert tuple(found) == derailing.NAMES and set(ANSWERS) == set(found)
    assert {name: answer["tokens"] for name, answer in found.items()} == WRITTEN
    assert {name: answer["new_at"] for name, answer in found.items()} == {
        "right": 18, "new": 1, "number": 8, "sum": 5, "lost": 1
    }  # fmt: skip


@pytest.mark.parametrize("missing", [["lost"], ["number", "right"]])
def test_a_kind_of_answer_that_is_missing_is_named(written, missing):
    with pytest.raises(derailing.MissingKinds, match=f"of the kind {', '.join(missing)} "):
        written([name for name in WRITTEN if name not in missing])


def test_answers_in_doubt_are_all_lost(written):
    with pytest.raises(derailing.MissingKinds, match="of the kind sum, number "):
        written(list(WRITTEN), doubts=("lost", "sum", "number"))


# --- the command ---


@pytest.fixture
def command(monkeypatch, tmp_path):
    """``python -m opd_toy derail`` with hardly any training, in a folder that has a record."""
    monkeypatch.setattr(derailing, "PRESET", shortened(teacher=2, student=2))
    asked = derailing.questions()[::50]
    monkeypatch.setattr(derailing, "questions", lambda: asked)
    record = tmp_path / "derailing.json"
    record.write_text("as it was")

    def run():
        with pytest.raises(SystemExit) as ended:
            main(["derail", "--folder", str(tmp_path / "lm"), "--directory", str(tmp_path)])
        assert record.read_text() == "as it was"
        return ended.value.code

    return run


def test_where_a_kind_is_missing_the_command_says_so_and_keeps_the_record(command):
    said = command()  # after two steps of training every answer slips
    assert isinstance(said, str)  # Python prints it and exits with status 1
    assert "no answer of this student is of the kind" in said and " new, right " in said
    assert "another --folder does not change that" in said and "stays as it was" in said


@pytest.mark.parametrize(
    "stage, following",
    [("training_prefixes", "draw_answers"), ("shown_answers", "outcomes"), ("by_position", None)],
)
def test_an_interrupt_after_training_is_heard(
    stage, following, command, monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(derailing, "shown_answers", lambda *given: {})
    monkeypatch.setattr(derailing, "slipping", lambda *given: {})  # no answer is right
    monkeypatch.setattr(derailing, "after_planting", lambda *given: {})
    whole = getattr(derailing, stage)

    def interrupted(*given):
        signal.raise_signal(signal.SIGINT)
        return whole(*given)

    monkeypatch.setattr(derailing, stage, interrupted)
    if following:
        monkeypatch.setattr(derailing, following, None)  # not called any more
    assert command() == 130
    said = "stopped by SIGINT; the models are kept, and the same command goes on with them"
    assert said in capsys.readouterr().err
    assert command() == 130 and "100%" not in capsys.readouterr().err  # nothing is trained again
    assert len(list((tmp_path / "lm").glob("derailing-*.safetensors"))) == 2


def test_the_table_has_each_number_in_its_place():
    slipping = {
        name: {"tokens": 10 * place, "student": place / 100, "teacher": place / 1000}
        for place, name in enumerate(("before", "alike", "new", "after"), 1)
    }
    record = {
        "slipping": slipping,
        "planted": {"as_written": 0.25, "planted": 0.75},
        "outcomes": {"slipped": 12},
        "questions": 345,
        "further": {
            "steps": 7,
            "batch": 8,
            "start": dict(slipped=9, alike=0.1, after=0.2, planted=0.3),
            "methods": {
                "gkd": [
                    dict(slipped=4, alike=0.01, after=0.05, planted=0.2),
                    dict(slipped=6, alike=0.03, after=0.07, planted=0.4),
                ]
            },
        },
    }
    first, after = derail.table(record).split("\n\nAfter ")
    title, _, head, _, *rows, _, words = first.split("\n")
    assert title == "Probability that the next token is wrong"
    assert head.split() == ["tokens", "student", "teacher"]
    assert [row.split()[-3:] for row in rows] == [
        ["10", "0.0100", "0.0010"],
        ["20", "0.0200", "0.0020"],
        ["30", "0.0300", "0.0030"],
        ["40", "0.0400", "0.0040"],
    ]
    named = ["until a slip", "in places like those after", "there, in no training text"]
    assert [row[:28].strip() for row in rows] == [*named, "after a slip"]
    assert words == (
        "12 of 345 answers slip. Slips an answer, after its first sum: 0.250; where a slip was "
        "planted there: 0.750."
    )
    said, *_, start, gkd = after.split("\n")
    assert said == "7 steps of 8 texts"
    assert start.split() == ["start", "9", "0.1000", "0.2000", "0.3000"]
    assert gkd.split() == ["gkd", "5", "0.0200", "0.0600", "0.3000"]


# --- the record ---


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
    assert len(positions["unseen"]) - 2 == LAST
    assert max(len(answer["tokens"]) for answer in record["answers"].values()) - 1 == LAST


def test_the_answers_of_the_record_are_what_their_names_say():
    record = recorded("derailing", "derail")
    answers, tokens = record["answers"], record["tokens"]
    assert tuple(answers) == derailing.NAMES
    assert answers["right"]["new_at"] > len(answers["right"]["tokens"])
    assert answers["new"]["new_at"] <= len(answers["new"]["tokens"])
    for name in ("sum", "number", "lost"):
        answer = answers[name]
        steps = read_steps(answer["terms"], answer["tokens"])
        slip = first_slip(steps)
        assert answer["new_at"] <= slip + 1
        student, teacher = answer["probabilities"]
        assert student[slip][tokens.index(steps[slip].token)] >= derailing.CHANCE
        later = [
            sum(teacher[t][tokens.index(token)] for token in steps[t].right)
            for t in range(slip + 1, len(steps))
        ]
        if name == "lost":
            assert min(later) < derailing.SURE
        else:
            assert steps[slip].place[0] == name and min(later) > derailing.SURE


def test_a_student_trained_further_starts_from_the_same_weights(monkeypatch, tmp_path):
    """In no step nothing is learned; in one each way leads elsewhere, and each seed."""
    monkeypatch.setattr(derailing, "PRESET", shortened(teacher=2, student=60))
    settings = dataclasses.replace(derailing_after.DISTILLATION, batch=4, evaluation_prompts=2)
    weights = []
    monkeypatch.setattr(
        derailing_after, "slips_of", lambda student, *rest: weights.append(fingerprint(student))
    )
    for steps, different in ((0, 1), (1, 10)):
        shorter = dataclasses.replace(settings, steps=steps)
        monkeypatch.setattr(derailing_after, "DISTILLATION", shorter)
        weights.clear()
        found = derailing_after.further(tmp_path)
        assert {name: len(runs) for name, runs in found["methods"].items()} == dict.fromkeys(
            derailing_after.METHODS, 3
        )
        assert len(weights) == 10 and len(set(weights)) == different


def test_a_row_is_what_was_counted(counted, monkeypatch):
    student, texts, _, prefixes = counted
    asked = texts[:, : derailing.TASK.prompt_length]
    monkeypatch.setattr(derailing, "questions", lambda: asked)
    teacher = pretraining.pretrain(shortened(teacher=2).teacher, derailing.TASK, "teacher")
    row = derailing_after.slips_of(student, teacher, prefixes)
    answers = derailing.draw_answers(student, asked)
    steps = [derailing.steps_of(text) for text in answers]
    slipping = derailing.slipping(answers, steps, {"student": student}, prefixes)
    planted = derailing.after_planting(student, answers, steps)
    assert row == {
        "right": int(derailing.TASK.rewards(answers).sum()),
        "slipped": sum(bool(slips(answer)) for answer in steps),
        "alike": slipping["alike"]["student"],
        "after": slipping["after"]["student"],
        "as_written": planted["as_written"],
        "planted": planted["planted"],
    }


def test_the_record_names_all_seeds():
    path = provenance.ROOT / "figures" / "derailing.json"
    preset = derailing.PRESET
    assert json.loads(path.read_text())["provenance"]["seed"] == [
        preset.teacher.seed,
        preset.student.seed,
        *derailing_after.SEEDS,
    ]
