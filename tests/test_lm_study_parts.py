"""The study's jobs, stages, rules and the loop's settings one by one, without training."""

import dataclasses
import itertools
import json
import math
import signal
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from opd_toy.lm import (
    measures,
    presets,
    pretraining,
    training,
)
from opd_toy.lm.study import claims_on_gradients, clearly, frozen, stages, workers
from opd_toy.lm.study.jobs import EXPOSED, Jobs, Student, say
from opd_toy.lm.study.record import Record
from opd_toy.lm.study.rounding import rounded
from opd_toy.lm.study.rules import rule, verdict
from opd_toy.lm.study.workers import Workers
from opd_toy.lm.transformer import Shape, Transformer
from opd_toy.records.checkpoints import Stop

pytestmark = pytest.mark.usefixtures("one_thread")

PRESET = presets.PRESETS["tiny"]
EFFORT = stages.Effort(prompts=5, texts=6, cut_texts=3, blocks=2, from_teacher=7)


# --- jobs --------------------------------------------------------------------------------


@pytest.fixture
def jobs(tmp_path):
    made = Jobs(PRESET, tmp_path, EFFORT, torch.device("cpu"))
    shape = Shape(5, 8, 1, 2, 4)
    made.__dict__ |= {"teacher": Transformer(shape, 1), "start": Transformer(shape, 2)}
    return made


def unheard(done, total):
    pass


@pytest.mark.parametrize(
    "student, rate, steps, every, folder",
    [
        (Student("gkd", 3), 1e-3, 30, 10, "."),
        (Student("gkd", 3, 3), 3e-3, 30, 7, "rate-0.003"),
        (Student("gkd", 3, 1 / 3), 1e-3 / 3, 30, 7, "rate-0.00033"),
        (Student("gkd", 3, 1 / 3, True), 1e-3 / 3, 7, 1, "from-teacher"),
    ],
)
def test_each_kind_of_run_is_trained_as_said(
    student, rate, steps, every, folder, jobs, monkeypatch
):
    """Which is then read from where it was left."""
    asked = []
    monkeypatch.setattr(
        training, "distill", lambda *given, **options: asked.append((given, options)) or "curve"
    )
    assert jobs.train(student, report=unheard) == "curve"
    [((method, preset, seed, teacher, start), options)] = asked
    assert (method, seed, teacher) == ("gkd", 3, jobs.teacher)
    assert start is (jobs.teacher if student.from_teacher else jobs.start)
    settings = dataclasses.replace(PRESET.distillation, rate=rate, evaluate_every=every)
    assert preset == dataclasses.replace(PRESET, distillation=settings)
    wanted = {"folder": jobs.folder / folder, "steps": steps, "device": jobs.device}
    assert options == wanted | {"report": unheard, "say": say}
    path = jobs.folder / folder / f"tiny-gkd-seed-3-steps-{steps}.safetensors"
    training.save(path, jobs.start)
    assert training.fingerprint(jobs._trained(student)) == training.fingerprint(jobs.start)


def test_models_are_made_where_the_jobs_say(jobs, monkeypatch):
    asked = []
    for role in ("teacher", "student"):
        note = lambda *given, role=role, **options: asked.append((role, given, options)) or role
        monkeypatch.setattr(pretraining, role, note)
    assert jobs.model("student", report=unheard) == "student"
    assert jobs.make("teacher", report=unheard) is None
    options = {"report": unheard, "device": jobs.device, "say": say}
    assert asked == [(role, (PRESET, jobs.folder), options) for role in ("student", "teacher")]
    again = Jobs(PRESET, jobs.folder, EFFORT, jobs.device)
    assert (again.teacher, again.start) == ("teacher", "student")
    assert [each[2]["report"] for each in asked[2:]] == [None, None]


def test_no_step_at_another_rate_goes_unmeasured(jobs, monkeypatch):
    monkeypatch.setattr(training, "distill", lambda *given, **options: given[1].distillation)
    jobs.effort = dataclasses.replace(EFFORT, from_teacher=3)
    assert jobs.train(Student("gkd", 1, 1 / 3, True), report=unheard).evaluate_every == 1
    jobs.effort = dataclasses.replace(EFFORT, from_teacher=9)
    assert jobs.train(Student("gkd", 1, 1 / 3, True), report=unheard).evaluate_every == 2


def test_a_run_that_is_not_finite_leaves_its_curve_and_a_word(jobs, monkeypatch, capsys):
    def broken(*given, **options):
        raise training.NotFinite("gkd, step 3", {"steps": [0]})

    monkeypatch.setattr(training, "distill", broken)
    found = jobs.train(Student("gkd", 3), report=unheard)
    assert found == {"steps": [0], "memory": None, "not_finite": "gkd, step 3"}
    say("taking up it"), say("stopped by it")
    assert capsys.readouterr().err == "gkd, step 3\n"


def test_what_is_measured_of_each_kind_of_student(jobs, monkeypatch):
    asked = {}
    for name, value in (("evaluate", {"x": 1 / 3}), ("gain", (1 / 3, 0.1)), ("exposure", "rows")):
        note = lambda *of, name=name, value=value: asked.setdefault(name, []).append(of) or value
        monkeypatch.setattr(measures, name, note)
    monkeypatch.setattr(jobs, "_trained", lambda student: jobs.start)
    found = [jobs.measure(student, report=unheard) for student in (
        Student("start"), Student("jsd", 1), Student("gkd", 1, 1 / 3, True)
    )]  # fmt: skip
    measured = {"x": 0.33333}
    assert found == [
        {"measures": measured, "exposure": "rows"},
        {"measures": measured, "exposure": None},
        {"measures": measured | {"gain": [0.33333, 0.1]}, "exposure": None},
    ]
    of = (jobs.start, jobs.teacher, PRESET, 5)
    assert asked == {"evaluate": [of] * 3, "gain": [of], "exposure": [of]}
    names = ["start-None-measures", "jsd-1-measures", "gkd-1-from-teacher-measures"]
    assert sorted(path.name for path in jobs.folder.iterdir()) == sorted(
        f"tiny-{name}.json" for name in names
    )
    assert "start" in EXPOSED and "jsd" not in EXPOSED


@pytest.mark.parametrize("length", [3, PRESET.task.length])
def test_gradients_are_measured_on_whole_texts_and_cut_ones(length, jobs, monkeypatch):
    asked, heard = [], []

    def measured(*given, report, **options):
        asked.append((given, options))
        report(1, 4)
        return frozen.Moments([1], [[[[2]]]], [[[3]]], [[4]])

    monkeypatch.setattr(frozen, "measured", measured)
    found = jobs.gradients("start", length, report=lambda *step: heard.append(step))
    assert found == {"count": [1], "between": [[[[2]]]], "within": [[[3]]], "token_noise": [[4]]}
    whole = length == PRESET.task.length
    options = {"count": 6 if whole else 3, "length": length, "redraw": whole, "blocks": 2}
    given = (jobs.start, jobs.teacher, PRESET.task, "gradients", length)
    assert asked == [(given, options)] and heard == [(0.25, 1), (1, 1)]
    assert jobs.gradients("start", length, report=unheard) == found and len(asked) == 1
    assert [path.name for path in jobs.folder.iterdir()] == [f"tiny-start-gradients-{length}.json"]


def test_what_is_kept_is_made_again_where_it_does_not_belong(jobs):
    made = itertools.count()
    kept = lambda: jobs._kept("name", jobs.start, lambda: next(made), unheard)
    assert [kept(), kept()] == [0, 0]
    path = jobs.folder / "tiny-name.json"
    for spoiled in (path.read_text()[:9], "{}", json.dumps({"key": "other", "value": 9})):
        path.write_text(spoiled)
        before = kept()
        assert kept() == before != 9
    assert before == 3
    jobs.effort = dataclasses.replace(EFFORT, prompts=6)
    assert kept() == 4
    jobs.start.head.weight.data += 1
    assert kept() == 5
    jobs.teacher.head.weight.data += 1
    assert kept() == 6
    jobs.device = torch.device("meta")
    assert kept() == 7


# --- stages ------------------------------------------------------------------------------


def test_lengths_at_which_texts_are_cut():
    of = {17: [1, 2, 4, 8, 17], 12: [1, 2, 4, 8, 12], 11: [1, 2, 4, 11], 2: [1, 2], 1: [1]}
    assert {length: stages.cut_lengths(length) for length in of} == of


def test_which_runs_there_are(jobs):
    methods = ("pg_0", "gkd", "rlvr")
    assert stages._runs(PRESET, methods[:1]) == [Student("pg_0", 1), Student("pg_0", 2)]
    swept = [("gkd", 1 / 3), ("gkd", 3), ("pg_0", 1 / 3), ("pg_0", 3), ("rlvr", 1 / 3), ("rlvr", 3)]
    found = stages._swept(jobs, methods)
    assert found == [Student(name, 1, factor) for name, factor in swept]
    beyond = stages._beyond(jobs, methods)
    assert beyond == [
        Student(name, seed, 1 / 3, True) for name in ("rlvr", "gkd") for seed in (1, 2)
    ]
    assert not any(map(stages._is_measured_at_the_end, found))
    assert all(map(stages._is_measured_at_the_end, beyond + stages._runs(PRESET, methods)))
    jobs.effort = dataclasses.replace(EFFORT, sweep=False, from_teacher=0)
    assert stages._swept(jobs, methods) == stages._beyond(jobs, methods) == []


def test_numbers_of_several_runs():
    assert stages._peak([None, 1.26, 3.14159, None]) == 3.1 and stages._peak([None]) is None
    rows = {"kl": [1.0, 3.0], "count": [3, 1], "error": [0.1, 0.2]}
    other = {"kl": [2.0], "count": [2], "error": [0.3]}
    found = stages._exposed([None, {"own": rows, "teacher": other}, None])
    wanted = {"own": [1.0, 3.0], "teacher": [2.0]}
    wanted |= {"positions": {"own": [3, 1], "teacher": [2]}}
    wanted |= {"errors": {"own": [0.1, 0.2], "teacher": [0.3]}}
    wanted |= {"per_token": {"own": [None, 1.5, None], "teacher": [None, 2.0, None]}}
    assert found == wanted
    assert stages._exposed([None]) is None
    assert stages.device_name(torch.device("cpu")) == "cpu"


def test_the_ends_of_a_sweep_in_the_order_of_the_rates(jobs):
    runs = [Student("gkd", 1), *stages._swept(jobs, ("gkd",))]
    curve = lambda x: dict.fromkeys(("accuracy", "sequence_kl", "forward_sequence_kl"), [9, x])
    trained = {run: curve(run.factor) for run in runs} | {runs[1]: {"not_finite": "so"}}
    found = stages._sweep(jobs, ("gkd",), stages.Done(trained, {}, {}))["gkd"]
    assert [row["rate"] for row in found] == [0.00033333, 0.001, 0.003]
    assert [row["sequence_kl"] for row in found] == [None, 1, 3]
    assert set(found[0]) == {"rate", "accuracy", "sequence_kl", "forward_sequence_kl"}


class Reporting:
    def measure(self, case, *, report):
        for at in range(1, 4):
            report(at, 4)
        return case


def test_the_progress_of_two_jobs_is_that_of_one_and_ends_once():
    heard = []
    with Workers(Reporting(), 1) as pool:
        found = pool.each("measure", [("a",), ("b",)], 8, lambda *step: heard.append(step))
        assert found == {("a",): "a", ("b",): "b"}
        assert heard == [(done, 16) for done in (2, 4, 6, 8, 10, 12, 16)]
        pool.each("measure", [], 8, lambda *step: pytest.fail("of nothing"))
        full = lambda case, *, report: report(4, 4)
        pool.jobs.measure, heard[:] = full, []
        pool.each("measure", [("a",)], 8, lambda *step: heard.append(step))
        assert heard == [(7, 8), (8, 8)]  # the last only when all is done


@pytest.mark.parametrize("kind, stops", [("measure", True), ("train", False), ("make", False)])
def test_jobs_without_checkpoints_stop_between_reports(kind, stops, monkeypatch):
    jobs = Reporting()
    jobs.train = jobs.make = jobs.measure
    monkeypatch.setattr(Stop, "asked", 2)
    with Workers(jobs, 1) as pool:
        if stops:
            with pytest.raises(KeyboardInterrupt):
                pool.each(kind, [("a",)], 1, None)
        else:
            assert pool.each(kind, [("a",)], 1, None) == {("a",): "a"}


def test_several_workers_are_begun_and_stopped(monkeypatch):
    made, done = [], []
    pool = SimpleNamespace(shutdown=lambda **how: done.append(how))
    executor = lambda *of: made.append(of) or pool
    monkeypatch.setattr(workers.concurrent.futures, "ProcessPoolExecutor", executor)
    with Workers("jobs", 2) as begun:
        [(number, context, begin, handed)] = made
        assert number == 2 and context.get_start_method() == "spawn"
        assert begin is workers._begin_worker and not begun.stop.is_set()
        assert handed == ("jobs", begun.reports, begun.stop)
    assert begun.stop.is_set() and done == [{"cancel_futures": True}]


def test_the_progress_of_several_workers(monkeypatch):
    """What they tell, and what is done; an interrupt goes on to them, a failure comes back."""
    heard, told = [], [(("a",), 1, 4), (("b",), 1, 4)]
    futures = {(case,): workers.concurrent.futures.Future() for case in "ab"}
    for case, future in futures.items():
        future.set_result(case * 2)
    several = Workers(None, 2)
    several.pool = SimpleNamespace(submit=lambda work, kind, case: futures[case])
    several.reports = SimpleNamespace(empty=lambda: not told, get=told.pop)
    several.stop = threading.Event()
    ask = lambda: several.each("measure", [*futures], 4, lambda *step: heard.append(step))
    assert ask() == {("a",): ("a", "a"), ("b",): ("b", "b")} and not several.stop.is_set()
    assert heard == [(1, 8), (2, 8), (5, 8), (7, 8), (8, 8)]
    monkeypatch.setattr(Stop, "asked", 2)
    ask()
    assert several.stop.is_set()
    futures["b",] = workers.concurrent.futures.Future()
    futures["b",].set_exception(ValueError("not today"))
    heard.clear()
    with pytest.raises(ValueError, match="not today"):
        ask()
    assert (7, 8) not in heard  # which would be all but the end


def test_a_worker_tells_how_far_it_is_and_hears_that_it_should_stop(monkeypatch):
    told, asked = [], []
    stop = SimpleNamespace(is_set=lambda: bool(asked))
    parts = {"jobs": Reporting(), "reports": SimpleNamespace(put=told.append), "stop": stop}
    monkeypatch.setattr(workers, "_HANDED", parts)
    monkeypatch.setattr(Stop, "asked", 0)
    assert workers._work("measure", ("a",)) == "a" and Stop.asked == 0
    assert told == [(("a",), at, 4) for at in (1, 2, 3)]
    asked.append(1)
    with pytest.raises(KeyboardInterrupt):
        workers._work("measure", ("a",))
    assert Stop.asked == signal.SIGINT and len(told) == 4


def test_a_worker_begins_deaf_with_one_thread_and_ends_with_its_parent(monkeypatch):
    done, handed = [], {}
    monkeypatch.setattr(workers, "_HANDED", handed)
    monkeypatch.setattr(torch, "set_num_threads", done.append)
    monkeypatch.setattr(signal, "signal", lambda *of: done.append(of))
    parent = SimpleNamespace(sentinel="sentinel")
    monkeypatch.setattr(workers.multiprocessing, "parent_process", lambda: parent)
    started = lambda **of: SimpleNamespace(start=lambda: done.append(of))
    monkeypatch.setattr(workers.threading, "Thread", started)
    workers._begin_worker("jobs", "reports", "stop")
    assert handed == {"jobs": "jobs", "reports": "reports", "stop": "stop"}
    deaf = [(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)]
    thread = {"target": workers._end_with, "args": ("sentinel",), "daemon": True}
    assert done == [1, *deaf, thread]
    monkeypatch.setattr(workers, "wait", lambda parents: done.append(parents))
    monkeypatch.setattr(workers.os, "_exit", done.append)
    workers._end_with("sentinel")
    assert done[4:] == [["sentinel"], 1]


# --- rules -------------------------------------------------------------------------------


def test_numbers_of_a_record_are_rounded():
    values = {"a": [1 / 3, (2 / 3, math.nan, math.inf)], "b": 7, "c": None, "d": "x", "e": True}
    assert rounded(values) == {**values, "a": [0.33333, [0.66667, None, None]]}
    assert rounded(123456.7) == 123460.0 and rounded(1 / 3, 2) == 0.33


def test_clearly_is_more_than_two_errors():
    assert clearly.above(3.1, 1.0, 1.0) and not clearly.above(3.0, 1.0, 1.0)
    assert clearly.greater((5.1, 0.6), (3.0, 0.8)) and not clearly.greater((5.0, 0.6), (3.0, 0.8))
    values = np.array([1.0, 2.0, 3.0])  # 2, and an error of 0.577
    assert clearly.mean(values) == (2.0, pytest.approx(3**-0.5))
    assert clearly.clearly_above(values, 0.81) and not clearly.clearly_above(values, 0.82)
    assert clearly.clearly_above(np.array([1.0, math.nan])) is None
    assert not clearly.clearly_above(np.array([0.0, 2.0, 2.0, 2.0, 2.0, 2.0]))
    one = clearly.mean(values[:1])
    assert one[0] == 1.0 and math.isnan(one[1]) and not clearly.clearly_above(values[:1])
    assert clearly.mean(values[:2]) == (1.5, pytest.approx(0.5))
    assert clearly.higher([2, 3], [1, 2]) and not clearly.higher([2, 2], [1, 2])
    assert clearly.higher([2, math.nan], [1, 2]) is clearly.higher([2], [math.inf]) is None


def test_a_row_of_the_claims():
    words = dict(id="one", claim="It is.", criterion="It seems.")
    parts = {"here": np.bool_(True), "there": None, "far": np.bool_(False)}
    figure = {"a": (1 / 3, math.nan), "b": 12345.6, "c": None}
    row = rule(**words)(lambda record: (parts, figure)).judged(None)
    assert json.loads(json.dumps(row)) == words | {
        "verdict": "seen under conditions",
        "parts": {"here": True, "there": None, "far": False},
        "figure": {"a": [0.3333, None], "b": 12350.0, "c": None},
    }
    assert rule(**words)(lambda record: record["left out"]).judged({}) is None
    verdicts = {"T": "seen", "T?": "seen under conditions", "F?": "not seen", "?": "undecided"}
    told = {"T": True, "F": False, "?": None}
    assert {each: verdict(map(told.get, each)) for each in verdicts} == verdicts


def test_slopes_from_four_tokens_on():
    lengths, growth = [1, 2, 4, 8, 32], {}
    growth["pg_1"] = {"variance": [[9, 9], [9, 9], [4.0, 0.4], [9, 9], [64.0, 3.2]]}
    growth["none"] = {"variance": [[9, 9], [9, 9], [0.0, 0.4], [9, 9], [64.0, 3.2]]}
    growth["below"] = {"variance": [[9, 9], [9, 9], [4.0, 0.4], [9, 9], [-1.0, 3.2]]}
    growth["lost"] = {"variance": [[9, 9], [9, 9], [4.0, 0.4], [9, 9], [None, None]]}
    ratios = {"pg_1/pg_0": [[9, 9], [9, 9], [1.0, 0.3], [9, 9], [2.0, 0.4]]}
    student = {"growth": {"lengths": lengths} | growth, "log_ratios": ratios}
    record = Record({"frozen": {"start": student}})
    span = math.log(8)
    assert record.exponent("start", "pg_1") == pytest.approx(
        (math.log(16) / span, math.hypot(0.1, 0.05) / span)
    )
    for name in ("none", "below", "lost"):
        assert all(map(math.isnan, record.exponent("start", name)))
    assert record.exponent_lead("start", ("pg_1", "pg_0")) == pytest.approx((1 / span, 0.5 / span))
    assert record.log_ratio("start", ("pg_1", "pg_0"), 2) == (9, 9)


def test_an_error_too_large_to_tell_hides_agreement_alone():
    def part(value, error):
        pair = {"cosine_with_gkd": [value, error]}
        students = {"start": {"estimators": {"pg_0_redrawn": pair, "pg_0": pair}}}
        return claims_on_gradients.same_expectation.judged(Record({"frozen": students}))["parts"]

    cases = {(0.9, 0.1): True, (0.9, 0.11): None, (0.79, 0.1): False, (0.5, 0.2): False}
    assert {case: part(*case)["at the start"] for case in cases} == cases


# --- the loop ----------------------------------------------------------------------------


def run_of(micro_batches, method="gkd"):
    length = PRESET.task.prompt_length + PRESET.task.length
    teacher, student = (Transformer(Shape(16, 8, 1, 2, length), seed).double() for seed in (1, 2))
    optimizer = torch.optim.AdamW(student.parameters(), **training.OPTIMIZER)
    parallel = training.Responses(student, PRESET.task)
    how = (method, PRESET, 1, 1, slice(0, 8), micro_batches, torch.device("cpu"))
    return training.Run(*how, teacher, student, parallel, optimizer)


def test_the_loss_of_a_step_is_that_of_its_parts_together():
    (whole, norm, tokens), parts = (training.step(run_of(count), 2) for count in (1, 2))
    assert float(whole) == pytest.approx(float(parts[0]), rel=1e-12) and float(whole) > 0.1
    assert float(norm) == pytest.approx(float(parts[1]), rel=1e-12) and tokens == parts[2]
    assert not whole.requires_grad


@pytest.mark.parametrize("number, share", [(1, 0.1), (9, 0.9), (10, 1), (11, 1), (30, 1)])
def test_a_step_is_taken_at_a_rate_that_rises_and_stays(number, share, monkeypatch):
    """On texts that are cut at the end of the longest."""
    seen, loss_of = [], training.loss_of
    note = lambda *given, **how: seen.append(given[4].shape) or loss_of(*given, **how)
    monkeypatch.setattr(training, "loss_of", note)
    run, task = run_of(2), PRESET.task
    texts = training.draw_texts(run, number)
    texts[:, task.prompt_length :] = 0
    for text, end in zip(texts, (1, 4, 2, 3, 2, 1, 2, 1)):
        text[task.prompt_length + end - 1 :] = task.pad
        text[task.prompt_length + end - 1] = task.end
    monkeypatch.setattr(training, "draw_texts", lambda *of: texts)
    training.step(run, number)
    rate = PRESET.distillation.rate * share
    assert run.optimizer.param_groups[0]["lr"] == pytest.approx(rate)
    assert seen == [(4, task.prompt_length + 4)] * 2


def test_processes_ask_each_other_whether_to_stop(monkeypatch):
    asked, kept = [], []
    monkeypatch.setattr(training, "rank_and_ranks", lambda: (1, 2))
    reduce = lambda numbers, how: asked.append((int(numbers), how)) or numbers.fill_(15)
    monkeypatch.setattr(training.distributed, "all_reduce", reduce)
    monkeypatch.setattr(Stop, "asked", 2)
    with pytest.raises(KeyboardInterrupt):
        training._keep(None, None, torch.device("cpu"))
    assert Stop.asked == 15 and asked == [(2, training.distributed.ReduceOp.MAX)]
    training._keep(SimpleNamespace(after=kept.append), lambda: "whole", torch.device("cpu"))
    assert kept == ["whole"]

    class Noted(Exception):
        pass

    def reduce_elsewhere(numbers, how):
        raise Noted(numbers.device.type)

    monkeypatch.setattr(training.distributed, "all_reduce", reduce_elsewhere)
    with pytest.raises(Noted, match="meta"):
        training._keep(None, None, torch.device("meta"))


def test_a_process_begins_where_the_first_one_does(monkeypatch):
    """It has no checkpoint, and waits until the first has written what is left at the end."""
    student = Transformer(Shape(5, 8, 1, 2, 4))
    optimizer = torch.optim.AdamW(student.parameters())
    weights = Transformer(Shape(5, 8, 1, 2, 4), 7).state_dict()
    state = {"iteration": 3, "weights": weights, "optimizer": optimizer.state_dict()}
    done = []
    monkeypatch.setattr(training, "rank_and_ranks", lambda: (1, 2))

    def broadcast(shared):
        assert shared == [None]
        shared[0] = dict(state)

    monkeypatch.setattr(training.distributed, "broadcast_object_list", broadcast)
    monkeypatch.setattr(training.distributed, "barrier", lambda: done.append("barrier"))
    assert training._begin(None, None, student, optimizer) == {"iteration": 3}
    assert all(weight.equal(weights[name]) for name, weight in student.state_dict().items())
    training._finish(None, None, {}, student)
    assert done == ["barrier"]


def test_a_process_without_a_checkpoint_tells_of_what_is_not_finite(monkeypatch):
    step = lambda run, number: (torch.tensor(0.5), torch.tensor(math.inf), 3)
    monkeypatch.setattr(training, "step", step)
    run, state = run_of(1), {"iteration": 4, "tokens": 0, "seconds": 0.0, "curve": {"steps": [0]}}
    with pytest.raises(training.NotFinite) as error:
        training._advance(run, state, 9, None)
    message = "gkd, step 5: the gradient is not finite (its norm is inf, the loss 0.5)"
    assert str(error.value) == message and error.value.curve == {"steps": [0]}
    saved = SimpleNamespace(save=lambda whole: sorted(whole), path="a file")
    with pytest.raises(training.NotFinite) as error:
        training._advance(run, state, 9, saved)
    assert str(error.value) == f"{message}; what was reached by step 4 is kept in a file"


def test_on_a_card_the_clock_waits_and_notes_the_peak(monkeypatch):
    """The largest of all steps, in MiB."""
    done, peaks = [], iter([3 << 20, 5 << 20, 4 << 20])
    for name in ("synchronize", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda device, name=name: done.append(name))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: next(peaks))
    times = iter([1.0, 1.5, 7.0, 9.0, 10.0, 11.0])
    monkeypatch.setattr(training.time, "perf_counter", lambda: next(times))
    state, found = {"memory": None, "seconds": 0.25}, []
    for _ in range(3):
        with training._clock(state, torch.device("cuda")):
            done.append("work")
        found.append(tuple(state.values()))
    assert found == [(3, 0.75), (5, 2.75), (5, 3.75)]
    assert done == ["synchronize", "reset_peak_memory_stats", "work", "synchronize"] * 3
    processor = iter([4.0, 6.0])
    monkeypatch.setattr(training.time, "process_time", lambda: next(processor))
    with training._clock(state, torch.device("cpu")):
        pass
    assert state == {"memory": 5, "seconds": 5.75} and len(done) == 12


def test_what_a_person_should_know_goes_to_stderr(capsys):
    pretraining._on_stderr("made anew")
    assert capsys.readouterr() == ("", "made anew\n")


# --- settings ----------------------------------------------------------------------------


@pytest.mark.parametrize("weights, seconds", [(10, 10), (10**7, 20)])
def test_a_large_model_is_written_less_often(weights, seconds, monkeypatch, tmp_path):
    class Noted(Exception):
        pass

    def checkpoint(path, belongs_to, **options):
        raise Noted(options)

    monkeypatch.setattr(training, "Checkpoint", checkpoint)
    monkeypatch.setattr(training, "count_weights", lambda model: weights)
    model = Transformer(Shape(5, 8, 1, 2, 4))
    for more in ({}, {"seconds": 3}):
        with pytest.raises(Noted) as noted:
            training.distill("gkd", PRESET, 1, model, model, folder=tmp_path, say=print, **more)
        assert noted.value.args == ({"seconds": seconds, "say": print} | more,)
