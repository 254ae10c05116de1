"""Searching behind doors: the task, the teacher's rule, who writes, what is counted, the record."""

import json
import math
import signal

import pytest
import torch

from opd_toy.__main__ import main
from opd_toy.commands import doors as command
from opd_toy.lm import doors, searching
from opd_toy.lm.doors import BACK, DOORS, END, FIRST, HALL, PAD, SIGNS, Doors, House, Rule
from opd_toy.lm.methods import loss_of
from opd_toy.lm.model import Transformer, fingerprint, response_logits, sample, uniforms
from opd_toy.lm.tasks import is_test
from opd_toy.pages import door_figures
from opd_toy.records import provenance
from opd_toy.records.provenance import recorded

pytestmark = pytest.mark.usefixtures("one_thread")
TASK = Doors()


def name_of(room):
    """A name (5,) whose room is this one."""
    names = TASK.prompts(100, "a name")
    return names[doors.rooms(names) == room][0]


def written(room, *answers):
    """Texts (B, P + T): answers to a name of this room, as strings."""
    rows = [[SIGNS.index(sign) for sign in answer.ljust(TASK.length, "_")] for answer in answers]
    return torch.cat([name_of(room).expand(len(rows), -1), torch.tensor(rows)], 1)


def test_a_name_does_not_tell_its_room():
    names = TASK.prompts(8000, "even")
    rooms = doors.rooms(names)
    for column in range(5):
        for digit in range(10):
            counts = torch.bincount(rooms[names[:, column] == digit], minlength=len(DOORS))
            assert abs(counts / counts.sum() - 1 / len(DOORS)).max() < 0.08


def test_names_for_tests_are_in_no_training_text():
    asked, trained = (TASK.prompts(500, "split", split=split) for split in ("test", "train"))
    assert len(asked) == len(trained) == 500
    assert is_test(asked).all() and not is_test(trained).any()


@pytest.mark.parametrize(
    ("answer", "places", "right"),
    [
        ("C.", "-C", "C."),
        ("A↩C.", "-A-C", "C↩C."),
        ("A↩A↩B↩C.", "-A-A-B-C", "C↩C↩C↩C."),
        ("ABC↩C.", "-AAA-C", "C↩↩↩C."),  # a door from within a room leads nowhere
        ("↩7C.", "---C", "CCC."),  # nor does the way back from the hall, or a digit
    ],
)
def test_where_a_visitor_is_and_what_is_right(answer, places, right):
    found, wanted = doors.read_visits(written(DOORS.index("C"), answer))
    signs = ["-" if place == HALL else DOORS[place] for place in found[0].tolist()]
    assert "".join(signs[: len(answer)]) == places
    assert "".join(SIGNS[token] for token in wanted[0].tolist()[: len(answer)]) == right


def test_the_rules_probabilities_are_what_it_says():
    text = written(2, "A↩C.")
    with torch.no_grad():
        row = torch.softmax(response_logits(Rule(0.3), text, TASK).double(), -1)[0]
    rest = doors.NEVER * (len(SIGNS) - len(DOORS))
    for at in (0, 2):
        assert row[at, FIRST + 2] == pytest.approx(0.7 / (1 + rest))
        for wrong in (0, 1, 3):
            assert row[at, FIRST + wrong] == pytest.approx(0.1 / (1 + rest))
    assert row[1, BACK] == pytest.approx(1 / (1 + doors.NEVER * (len(SIGNS) - 1)))


@pytest.mark.parametrize(
    "model", [Rule(0.2), Transformer(searching.SHAPE)], ids=["rule", "student"]
)
def test_the_house_says_the_same_token_by_token(model):
    prompts = TASK.prompts(50, "cached")
    numbers = uniforms(0, "cached", shape=(50, TASK.length))
    texts = sample(House(model), prompts, numbers, END, PAD)
    with torch.no_grad():
        whole = House(model).hidden(texts)
        cache = House(model).cache(50, texts.shape[1])
        parts = [House(model).hidden(texts[:, :5], cache)]
        parts += [House(model).hidden(texts[:, [t]], cache) for t in range(5, texts.shape[1])]
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-4, atol=1e-5)


def test_the_end_comes_in_the_right_room_and_nowhere_else():
    prompts = TASK.prompts(300, "ends")
    student = Transformer(searching.SHAPE)
    texts = sample(House(student), prompts, uniforms(0, "e", shape=(300, TASK.length)), END, PAD)
    _, right = doors.read_visits(texts)
    answers = texts[:, TASK.prompt_length :]
    assert ((answers == END) == (right == END) & (answers != PAD)).all()
    assert 0 < TASK.rewards(texts).sum() < 300


@pytest.mark.parametrize("method", searching.METHODS)
def test_no_loss_learns_from_the_end_that_the_house_sets(method):
    """With the end in the text or cut away: the same sum over its steps, the same gradient."""
    student, teacher = House(Transformer(searching.SHAPE)), House(Rule(0.01))
    losses, gradients = [], []
    for texts in (written(1, "A↩B."), written(1, "A↩B.")[:, : TASK.prompt_length + 3]):
        loss = loss_of(method, student, teacher, TASK, texts, normalizer=torch.tensor(3.0))
        losses.append(float(loss.detach()))
        parts = torch.autograd.grad(loss, list(student.parameters()))
        gradients.append(torch.cat([part.flatten() for part in parts]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5) and losses[0] > 0
    assert gradients[0].isfinite().all() and gradients[0].any()
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_only_steps_are_counted():
    assert searching.steps_in(written(1, "A↩B.", "B.", "AAAAAAAA")) == 3 + 1 + 8


@pytest.mark.parametrize("method", searching.METHODS)
def test_who_writes(method, monkeypatch):
    """The teacher's ways or the student's, each told by what comes of them."""
    writers = []
    whole = searching.draw_texts
    monkeypatch.setattr(
        searching,
        "draw_texts",
        lambda writer, *rest: writers.append(writer) or whole(writer, *rest),
    )
    student, teacher = Transformer(searching.SHAPE), House(Rule(0.0))
    searching.train(method, teacher, student, searching.Training(1, 8, 1e-3), "who")
    [writer] = writers
    own = method in ("gkd", "on_policy_forward_kl")
    assert writer.model is student if own else writer is teacher


def test_students_of_a_seed_begin_alike_and_learn_from_as_many_texts(monkeypatch):
    seen, trained = [], []

    def noted(method, teacher, student, settings, *key):
        seen.append((method, fingerprint(student), settings, key))
        trained.append(student)
        student.head.weight.data += 1

    monkeypatch.setattr(searching, "train", noted)
    monkeypatch.setattr(searching, "measured", lambda model: {"of": model})
    monkeypatch.setattr(searching, "answers_to_one", lambda student: [])
    rows = searching.students(searching.NOISES[0], 2)
    first, *further = seen
    assert first[0] == "sft" and first[2:] == (searching.FIRST, (2, "first"))
    assert [each[0] for each in further] == list(searching.METHODS)
    assert len({each[1:] for each in further}) == 1 and further[0][1] != first[1]
    assert [row["method"] for row in rows] == ["start", *searching.METHODS]
    assert all(row["of"] is student for row, student in zip(rows, trained, strict=True))
    assert len(searching.students(searching.NOISES[1], 2)) == 1 + len(searching.COMPARED)
    shown = [
        (noise, seed, row["method"])
        for noise, seed in ((0.001, 1), (0.001, 2), (0.01, 1))
        for row in searching.students(noise, seed)
        if "answers" in row
    ]
    assert shown == [(0.001, 1, "off_policy_reverse_kl"), (0.001, 1, "gkd")]


def test_what_is_measured_is_what_the_texts_say(monkeypatch):
    monkeypatch.setattr(searching, "QUESTIONS", 60)
    student = Transformer(searching.SHAPE)
    row = searching.measured(student)
    prompts = TASK.prompts(60, "asked", split="test")
    texts = sample(House(student), prompts, searching.draws(60), END, PAD)
    with torch.no_grad():
        p = torch.softmax(response_logits(House(student), texts, TASK).double(), -1)
    places, right = doors.read_visits(texts)
    found = {"before": [], "after": [], "stuck": []}
    for text, where, wanted, each in zip(texts, places, right, p):
        slipped = False
        for t, token in enumerate(text[TASK.prompt_length :].tolist()):
            if token == END:
                break
            wrong = 1 - float(each[t, wanted[t]])
            found["after" if slipped else "before"].append(wrong)
            if where[t] != HALL:
                found["stuck"].append(wrong)
            slipped = slipped or token != wanted[t]
    for name, values in found.items():
        assert row[name] == pytest.approx(sum(values) / len(values))
    ended = [int((text == END).nonzero()[0]) if (text == END).any() else 99 for text in texts]
    assert row["found"] == pytest.approx(sum(at < 99 for at in ended) / 60)
    steps = [at - TASK.prompt_length for at in ended]
    assert row["by_step"] == pytest.approx(
        [sum(at <= t for at in steps) / 60 for t in range(1, TASK.length)]
    )


def test_the_teacher_finds_the_room_and_is_wrong_as_often_as_it_says():
    row = searching.measured(Rule(0.1))
    rest = doors.NEVER * (len(SIGNS) - len(DOORS) - 1)  # the house takes the end away
    assert row["before"] == pytest.approx((0.1 + rest) / (1 + rest), rel=1e-5)
    assert row["found"] > 0.99 and row["stuck"] < 0.002
    assert searching.measured(Rule(0.0))["after"] in (None, pytest.approx(0, abs=0.01))


# --- the command and the record ---


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(searching, "FIRST", searching.Training(2, 4, 1e-3))
    monkeypatch.setattr(searching, "FURTHER", searching.Training(2, 4, 1e-3))
    monkeypatch.setattr(searching, "QUESTIONS", 20)
    monkeypatch.setattr(searching, "SHOWN", 3)
    monkeypatch.setattr(searching, "SEEDS", (1, 2))


def test_an_interrupted_run_goes_on_to_the_same_record(quick, monkeypatch, tmp_path, capsys):
    whole = searching.searching(tmp_path / "whole")
    students, done = searching.students, []

    def interrupted(noise, seed):
        done.append((noise, seed))
        if len(done) == 3:
            signal.raise_signal(signal.SIGINT)
        return students(noise, seed)

    monkeypatch.setattr(searching, "students", interrupted)
    arguments = ["doors", "--folder", str(tmp_path / "lm"), "--directory", str(tmp_path)]
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 130 and not (tmp_path / "doors.json").exists()
    main(arguments)
    assert len(done) == len(searching.NOISES) * 2  # no student twice
    assert json.loads((tmp_path / "doors.json").read_text())["results"] == whole
    assert "Share of 20 answers" in capsys.readouterr().out


def test_the_table_has_each_number_in_its_place():
    runs = [
        {"noise": 0.5, "method": "start", "found": 0.25},
        {"noise": 0.5, "method": "gkd", "found": 0.5},
        {"noise": 0.5, "method": "gkd", "found": 0.7},
        {"noise": 0.001, "method": "gkd", "found": 0.1},
    ]
    teachers = {"0.001": {"found": 1.0}, "0.5": {"found": 0.9}}
    record = {"questions": 9, "further": {"steps": 7}, "teachers": teachers, "runs": runs}
    title, _, head, _, *rows = command.table(record).split("\n")
    assert title == "Share of 9 answers that come to the right room, after 7 steps"
    assert head.split() == ["trained", "further", "by", "noise", "0.001", "noise", "0.5"]
    assert [row.split() for row in rows] == [
        ["start", "0.250"], ["gkd", "0.100", "0.600"], ["(the", "teacher)", "1.000", "0.900"]
    ]  # fmt: skip


def test_the_record_is_whole():
    record = recorded("doors", "doors")
    kept = [(run["noise"], run["method"], run["seed"]) for run in record["runs"]]
    assert len(set(kept)) == len(kept)
    for noise in searching.NOISES:
        trained = searching.METHODS if noise == searching.NOISES[0] else searching.COMPARED
        for method in ("start", *trained):
            assert {seed for *of, seed in kept if of == [noise, method]} == set(searching.SEEDS)
    path = provenance.ROOT / "figures" / "doors.json"
    assert json.loads(path.read_text())["provenance"]["seed"] == list(searching.SEEDS)
    for run in record["runs"]:
        assert run["by_step"] == sorted(run["by_step"]) and run["by_step"][-1] <= run["found"]
        assert all(0 <= run[name] <= 1 for name in ("found", "before", "after", "stuck"))


# --- the figure ---


@pytest.mark.parametrize("answer", ["C.", "A↩C.", "ABC↩↩D↩7", "↩A↩B↩C."])
def test_the_figure_marks_what_each_token_does(answer):
    room = DOORS.index("C")
    places, right = doors.read_visits(written(room, answer))
    wanted = []
    for t, sign in enumerate(answer.rstrip(".")):
        here, token = places[0, t], SIGNS.index(sign)
        after = places[0, t + 1] if t + 1 < TASK.length else HALL
        if here == after:
            wanted.append("no effect")
        elif after == HALL:
            wanted.append("back")
        else:
            wanted.append(f"into {'the right' if after == room else 'a wrong'} room")
        assert token < END
    assert door_figures.what_happens(answer, "C") == wanted


def test_the_figures_words_are_what_the_answers_show():
    ends = {}
    for method in door_figures.PANELS:
        answers = door_figures.shown_answers(method)
        assert len(answers) == searching.SHOWN
        ends[method] = sum(answer.endswith(".") for answer in answers) / len(answers)
        [room] = {answer[-2] for answer in answers if answer.endswith(".")}
        happened = [each for one in answers for each in door_figures.what_happens(one, room)]
        ends[method, "back"] = happened.count("back") / (1 + happened.count("into a wrong room"))
        ends[method, "no effect"] = happened.count("no effect") / len(happened)
    theirs, own = door_figures.PANELS
    assert ends[own] > 0.5 > ends[theirs]  # "most rows end in the right room"
    assert ends[theirs, "back"] < 0.3 and ends[own, "back"] > 0.8
    assert ends[theirs, "no effect"] > 0.4 and math.isclose(ends[own, "no effect"], 0, abs_tol=0.1)
