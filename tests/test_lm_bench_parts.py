"""The benchmarks' functions one by one, in this process and with a clock that the test winds."""

import contextlib
import gc
import importlib
import io
import itertools
import json
import operator
import os
import signal
import sys
import time
import types
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from opd_toy.lm.bench import cases, device, floors, forks, growth, measuring, processes, training
from opd_toy.lm.bench.cases import Setting
from opd_toy.lm.presets import PRESETS
from opd_toy.lm.transformer import Shape, Transformer

pytestmark = pytest.mark.usefixtures("one_thread")

LOGITS = Setting("logits", ("ours", "ours_overwrite"), tokens=10, vocabulary=300)
HIDDEN = Setting("hidden", ("ours",), tokens=10, vocabulary=300, width=8)


@pytest.fixture(autouse=True)
def collected(monkeypatch):
    """How often; each takes a tenth of a second in a process as large as this one."""
    times = []
    monkeypatch.setattr(gc, "collect", lambda: times.append(1))
    return times


class Pipe:
    """The end of a pipe that a process has: it hears these messages, then no more."""

    def __init__(self, *messages):
        self.messages, self.sent = list(messages), []

    def send(self, value):
        self.sent.append(value)

    def recv(self):
        if not self.messages:
            raise EOFError
        return self.messages.pop(0)


def here(function, *arguments):
    """``once``, without a process."""
    pipe = Pipe()
    function(pipe, *arguments)
    return pipe.sent[0]


def clock(monkeypatch, module, *seconds):
    """Each work of ``module`` takes the next of these seconds."""
    ticking = iter(seconds)

    def seconds_of(work):
        work()
        return next(ticking)

    monkeypatch.setattr(module, "seconds_of", seconds_of)
    return ticking


@pytest.fixture
def threads(monkeypatch):
    """How many threads PyTorch is told to use, each time."""
    told = []
    monkeypatch.setattr(torch, "set_num_threads", told.append)
    return told


def test_each_process_has_the_threads_that_it_is_told(threads, monkeypatch, tmp_path):
    setting = replace(LOGITS, tokens=2, vocabulary=70)
    measuring.prepare("ours", setting, 2)
    measuring.reference(Pipe(), setting, 3, tmp_path)
    floors.pace_floor(Pipe(), "apart", setting, 4)
    monkeypatch.setattr(training, "stepper", lambda *of: lambda: None)
    training.pace(Pipe(), "lab", PRESETS["tiny"], tmp_path, 5)
    monkeypatch.setattr(training.pretraining, "pretrain", lambda *of: None)
    monkeypatch.setattr(training, "save", lambda *of: None)
    training.prepare(Pipe(), PRESETS["tiny"], tmp_path, 6)
    monkeypatch.setattr(device, "measure", lambda *of: {})
    job = {"device": "cpu", "repeats": 1, "threads": 7, "small": True}
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(job)))
    device.main()
    assert threads == [2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("setting", [LOGITS, HIDDEN], ids=lambda setting: setting.name)
def test_a_pass_leaves_its_inputs_as_they_were(setting):
    """And the second has the gradient of the first."""
    loss, inputs = cases.loss_function("ours", setting), cases.make_inputs(setting)
    first, second = (cases.one_pass(loss, inputs)[1:] for _ in range(2))
    assert first[0] == second[0] and all(map(torch.equal, first[1], second[1]))
    assert not any(each.requires_grad for each in inputs)
    assert all(map(torch.equal, inputs, cases.make_inputs(setting)))


# --- growth ------------------------------------------------------------------------------


def test_growth_measures_every_point_of_a_trial(monkeypatch):
    passes = itertools.cycle([0.3, 0.2, 0.4])
    monkeypatch.setattr(growth, "once", here)
    monkeypatch.setattr(growth, "prepare", lambda case, setting, threads: (case, threads))
    monkeypatch.setattr(growth, "one_pass", lambda loss, inputs: (next(passes) / inputs,))
    weighed = lambda pipe, case, setting, threads: pipe.send({"extra_bytes": 7 * threads})
    monkeypatch.setattr(growth, "weigh", weighed)
    steps = []
    found = growth.measure(growth.SMALL_SWEEPS, 3, 2, lambda *step: steps.append(step))
    lines = ("textbook", "ours", "hidden")
    sizes = [
        *[("tokens", line, n, n, 2000) for line in lines for n in (8, 16, 32)],
        *[("vocabulary", line, v, 16, v) for line in lines for v in (1000, 2000, 4000)],
        *[("width", "hidden", h, 16, 2000) for h in (8, 16, 32)],
        *[("row", "ours", v, 16384 // v, v) for v in (1024, 2048, 4096)],
    ]
    width = lambda over, line, value: {"hidden": value if over == "width" else 8}.get(line, 0)
    assert [tuple(point.values()) for point in found["points"]] == [
        (*size, width(*size[:3]), 0.1, 14) for size in sizes
    ]
    assert steps == [(done, 24) for done in range(1, 25)]
    assert (found["repeats"], found["threads"], found["lines"]) == (3, 2, growth.LINES)
    assert found["exponents"] == growth.exponents(found["points"])


@pytest.mark.parametrize("repeats, passes", [(1, 2), (2, 2), (3, 3)])
def test_short_passes_are_made_until_they_take_a_fifth_of_a_second(
    repeats, passes, collected, monkeypatch
):
    monkeypatch.setattr(growth, "prepare", lambda *asked: asked[:2])
    monkeypatch.setattr(growth, "one_pass", lambda loss, inputs: (0.1, None, None))
    assert here(growth.in_a_row, "ours", LOGITS, 1, repeats) == [0.1] * passes
    assert len(collected) == passes


def test_the_caches_are_those_of_the_second_and_the_third_level(tmp_path, monkeypatch):
    sizes = [("1", "32K"), ("2", "512K"), ("3", "16384K"), ("4", "9K")]
    for index, (level, size) in enumerate(sizes):
        folder = tmp_path / f"index{index}"
        folder.mkdir()
        (folder / "level").write_text(level + "\n"), (folder / "size").write_text(size + "\n")
    for name in ("index", "index4a", "index9"):
        (tmp_path / name).mkdir()  # of which the system tells nothing
    monkeypatch.setattr(growth, "CACHE", tmp_path)
    assert growth.cache_bytes() == {"2": 512 << 10, "3": 16 << 20}
    (tmp_path / "index2" / "size").write_text("16M\n")
    assert growth.cache_bytes() == {"2": 512 << 10}


# --- floors and parts --------------------------------------------------------------------


def test_parts_of_a_loss_from_hidden_states(monkeypatch):
    """The least of three passes; the formula on as many tokens as the loss takes at a time."""
    monkeypatch.setattr(floors.heads, "chunk_size", lambda head: len(head) // 75)  # 4
    asked, own = [], iter([5.0, 3.0, 4.0, 1.0])
    monkeypatch.setattr(floors, "_seconds_of_formula", lambda each: asked.append(each) or 8.0)
    passes = {floors.by_loss_words(4): lambda: next(own)}
    found = floors.parts(HIDDEN, cases.make_inputs(HIDDEN), passes)
    assert found == {"products": 3.0, "formula": 8.0 * 10 / 4}
    assert asked == [replace(HIDDEN, width=0, tokens=4)]


@pytest.mark.parametrize("beta", [1.0, 0.5])
def test_parts_of_a_loss_from_logits(beta, monkeypatch):
    """Memory: each block read and written; exponentials: one block as often; the formula."""
    setting = replace(LOGITS, beta=beta, vocabulary=100_000)
    z, y = inputs = cases.make_inputs(setting)
    works, swept, losses = [], [], []
    monkeypatch.setattr(
        floors, "all_done", lambda work, items, like: works.append((work, list(items)))
    )
    kind = "sweep_of_kl" if beta == 1 else "sweep_of_jsd"
    monkeypatch.setattr(floors, kind, lambda *of: swept.append(of))
    true = floors.loss_function
    monkeypatch.setattr(
        floors,
        "loss_function",
        lambda case, setting: lambda *of: losses.append((of, true(case, setting)(*of))),
    )
    clock(monkeypatch, floors, 3.0, 2.0, 4.0, 6.0, 7.0, 5.0, 9.0, 8.0, 9.5)
    assert floors.parts(setting, inputs, {}) == {"memory": 2.0, "exponentials": 5.0, "formula": 8.0}
    (add, blocks), (sweep, items) = works[0], works[3]
    assert [len(part) for part, *_ in blocks] == [1 << 17] * 7 + [1_000_000 - 7 * (1 << 17)]
    add(*blocks[0])
    assert torch.equal(blocks[0][2], (z + y).flatten()[: 1 << 17])
    assert len(items) == 7 and len(works) == 6  # a block each
    sweep(0)
    assert torch.equal(swept[0][0], blocks[0][0]) and torch.equal(swept[0][1], blocks[0][1])
    (rows, others), value = losses[0]
    assert torch.equal(rows, z[0, :1].expand(10, -1)) and torch.equal(others[3], y[0, 0])
    assert value == pytest.approx(true("ours", setting)(z[:, :1], y[:, :1]).item(), rel=1e-5)


def test_the_formula_is_timed_on_logits_put_back(monkeypatch):
    seen, seconds = [], iter([2.0, 1.0, 3.0])

    def one_pass(loss, inputs):
        seen.append(inputs[0].clone())
        inputs[0].zero_()
        return next(seconds), None, None

    monkeypatch.setattr(floors, "one_pass", one_pass)
    assert floors._seconds_of_formula(replace(LOGITS, dtype="bfloat16")) == 1.0
    assert torch.equal(seen[0], cases.make_inputs(LOGITS)[0])  # in float32
    assert all(torch.equal(each, seen[0]) for each in seen) and len(seen) == 3


def test_a_floor_s_process_takes_the_best_block(collected, monkeypatch):
    seconds = {
        "slow": iter([3.0, 3.0]),
        "quick": iter([9.0, 1.0, 7.0, 8.0]),
        "last": iter([2.0] * 2),
    }
    passes = {how: (lambda each=each: next(each)) for how, each in seconds.items()}
    monkeypatch.setattr(floors, "sweeps", lambda setting, inputs, kind: passes)
    monkeypatch.setattr(floors, "parts", lambda setting, inputs, passes: "the parts")
    monkeypatch.setattr(floors, "fill_twice", lambda setting: "two fills")
    pipe = Pipe("again", "parts", "pages", "again")
    floors.pace_floor(pipe, "apart", LOGITS, 1)
    assert pipe.sent == ["quick", 7.0, "the parts", "two fills", 8.0] and len(collected) == 4


def test_blocks_and_tiles_that_are_tried():
    large, small = replace(LOGITS, vocabulary=20_000), LOGITS
    names = [f"blocks of {size} logits" for size in (65536, 131072)]
    assert list(floors.sweeps(large, cases.make_inputs(large), "apart")) == names
    assert list(floors.sweeps(small, cases.make_inputs(small), "over")) == names[:1]
    wide = replace(HIDDEN, tokens=70, width=512, vocabulary=1500)
    inputs = cases.make_inputs(wide)
    found = [
        f"{rows} tokens, {part}"
        for rows in (70, 64)
        for part in ("whole heads", "512 rows of the heads", "1500 rows of the heads")
    ]
    assert list(floors.products(wide, inputs)) == [*found, "70 tokens, as the loss makes them"]
    half = replace(wide, dtype="bfloat16")
    assert "70 tokens, whole heads" not in floors.products(half, cases.make_inputs(half))


def test_seconds_are_those_of_the_work_alone(monkeypatch):
    """Between two looks at the clock: a sweep, a pass of a loss, each part of a step."""
    ticks = (1.5**n for n in itertools.count())
    monkeypatch.setattr(time, "perf_counter", lambda: next(ticks))
    assert floors.seconds_of(lambda: next(ticks)) == 1.5**2 - 1
    with monkeypatch.context() as patch:  # on a card, which is waited for
        patch.setattr(cases, "wait", lambda tensor: next(ticks))
        loss = cases.loss_function("textbook", LOGITS)
        assert cases.one_pass(loss, cases.make_inputs(LOGITS))[0] == 1.5**6 - 1.5**4
    seconds = cases.one_pass(cases.loss_function("textbook", LOGITS), cases.make_inputs(LOGITS))[0]
    assert seconds == 1.5**8 - 1.5**7
    models = Transformer(PRESETS["tiny"].student.shape), Transformer(PRESETS["tiny"].teacher.shape)
    preset = replace(PRESETS["tiny"], distillation=replace(PRESETS["tiny"].distillation, batch=2))
    side = training.lab(*models, preset)
    seconds = training.timed_step(
        side, training.adamw(side, preset), *training.given_texts(side, preset.task)
    )[0]
    assert list(seconds.values()) == [1.5 ** (n + 1) - 1.5**n for n in range(9, 15)]
    assert all(weight.grad is None for weight in models[0].parameters())
    stages = training.products(*models, preset)()
    assert list(stages.values()) == [1.5**17 - 1.5**16, 1.5**18 - 1.5**17, 1.5**18 - 1.5**16]


def test_the_products_of_a_step_are_as_large_as_its_texts(monkeypatch):
    """The prompts read at once, each later token alone; both models read the whole texts."""
    preset, asked, made = PRESETS["tiny"], [], []
    models = Transformer(preset.student.shape), Transformer(preset.teacher.shape)

    def layers(shape, rows, head_rows):
        asked.append((shape, rows, head_rows))
        return [(torch.zeros(rows, 1), torch.zeros(1, 1), torch.zeros(rows, 1))]

    monkeypatch.setattr(training, "layers", layers)
    monkeypatch.setattr(training, "_forward", lambda layers: made.append(len(layers[0][0])))
    training.products(*models, preset)()
    batch, prompt, length = 32, preset.task.prompt_length, preset.task.length
    read = batch * (prompt + length - 1)
    student, teacher = preset.student.shape, preset.teacher.shape
    assert asked == [
        *[(student, batch * prompt, batch), (student, batch, batch)],
        *[(student, read, batch * length), (teacher, read, batch * length)],
    ]
    assert made == [batch * prompt] + [batch] * (length - 1) + [read] * 2


# --- processes ---------------------------------------------------------------------------


@pytest.mark.parametrize("case, made", [("ours", 1), ("ours_overwrite", 3)])
def test_a_case_is_timed_on_inputs_that_are_there(case, made, collected, monkeypatch):
    prepared, again = object(), object()
    passes, asked = [], []
    monkeypatch.setattr(measuring, "prepare", lambda *of: asked.append(of) or ("loss", prepared))
    monkeypatch.setattr(measuring, "make_inputs", lambda setting: again)
    timed = lambda loss, inputs: passes.append((loss, inputs)) or (len(passes), None, None)
    monkeypatch.setattr(measuring, "one_pass", timed)
    pipe = Pipe("again", "again")
    measuring.pace(pipe, case, LOGITS, 2)
    assert pipe.sent == ["ready", 1, 2] and asked == [(case, LOGITS, 2)] and len(collected) == 2
    assert passes == [("loss", prepared if made == 1 else again)] * 2


@pytest.mark.parametrize("case, small", [("ours", True), ("liger_64_compiled", False)])
def test_code_is_loaded_by_a_small_pass_or_compiled_by_a_whole_one(case, small, monkeypatch):
    shapes = []
    monkeypatch.setattr(measuring, "loss_function", lambda case, setting: case)
    monkeypatch.setattr(
        measuring, "one_pass", lambda loss, inputs: shapes.append([tuple(x.shape) for x in inputs])
    )
    for setting, first, whole in (
        (LOGITS, [(1, 4, 64)] * 2, [(1, 10, 300)] * 2),
        (HIDDEN, [(4, 8), (64, 8)] * 2, [(10, 8), (300, 8)] * 2),
    ):
        loss, inputs = measuring.prepare(case, setting, 1)
        assert shapes.pop() == (first if small else whole) and not shapes
        assert loss == case and [tuple(x.shape) for x in inputs] == whole
    assert warnings.filters[0][:3] == ("ignore", None, Warning)  # of the libraries'


def test_a_case_is_weighed(tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, "prepare", lambda *of: (of, "inputs"))
    monkeypatch.setattr(measuring, "one_pass", lambda loss, inputs: (9.0, 0.5, [loss, inputs]))
    monkeypatch.setattr(measuring, "with_extra_memory", lambda function: (function(), 12))
    monkeypatch.setattr(measuring, "gradient_error", lambda *of: of)
    asked, library = ("ours", LOGITS, 2), []
    c_library = SimpleNamespace(mallopt=lambda *of: library.append(of))
    monkeypatch.setattr(measuring.ctypes, "CDLL", lambda name: c_library)
    assert here(measuring.weigh, *asked) == {"loss": 0.5, "extra_bytes": 12}
    assert library == [(-3, 1 << 20)]  # M_MMAP_THRESHOLD, a megabyte
    found = here(measuring.weigh, *asked, tmp_path)
    assert found["gradient_error"] == ([asked, "inputs"], LOGITS, tmp_path)


def test_of_each_so_many_rows_one_is_compared():
    of = lambda vocabulary, width: replace(LOGITS, vocabulary=vocabulary, width=width)
    assert measuring.compared(of(151_936, 4096)) == 5  # as the docstring says
    sizes = (of(1, 0), of(150_000_000, 1), of(150_000_001, 1))
    assert [measuring.compared(size) for size in sizes] == [1, 1, 2]
    assert measuring.gradient_sizes(of(151_936, 4096)) == [(10, 4096), (30_388, 4096)]
    assert measuring.gradient_sizes(LOGITS) == [(10, 300)]


def test_memory_that_is_kept_is_given_back_before_a_pass_is_weighed(collected, monkeypatch):
    done, resident = [], iter([30, 100])
    c_library = SimpleNamespace(malloc_trim=lambda *of: done.append(("trim", *of)))
    monkeypatch.setattr(measuring.ctypes, "CDLL", lambda name: c_library)
    reset = lambda path: SimpleNamespace(write_text=lambda text: done.append((path, text)))
    monkeypatch.setattr(measuring, "Path", reset)
    monkeypatch.setattr(measuring, "resident", lambda what: done.append(what) or next(resident))
    assert measuring.with_extra_memory(lambda: done.append("pass")) == (None, 70)
    before = [("trim", 0), ("/proc/self/clear_refs", "5"), "VmRSS"]
    assert done == [*before, "pass", "VmHWM"] and len(collected) == 1
    del c_library.malloc_trim  # another C library
    assert measuring.with_extra_memory(lambda: 7) == (7, None)


class Running:
    """In the place of ``Fork``: notes who was asked for what, and answers in seconds."""

    order = []

    def __init__(self, function, case, *rest):
        self.case, self.function, self.closed, self.pipe = case, function, False, self
        self.answers, self.number = [], itertools.count(1)
        if case == "liger_16":
            self.answers.append(RuntimeError("not today"))
        else:
            self.answers.append("best of it")

    def send(self, message):
        self.order.append((self.case, message))
        if message == "again":
            self.answers.append(next(self.number))
        else:
            self.answers.append({"pages": [3.0, 1.0], "parts": {"formula": 0.5}}[message])

    def answer(self):
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self):
        self.closed = True


def test_cases_and_floors_take_turns(monkeypatch):
    """Each repeat begins with the next of them; the first floor also fills and is taken apart."""
    monkeypatch.setattr(processes, "Fork", Running)
    monkeypatch.setattr(Running, "order", [])
    rows = [{"case": case} for case in ("ours", "liger_16", "trl")]
    bottom = [{"kind": "apart"}, {"kind": "over"}]
    takers = [(processes.pace, row["case"], row) for row in rows]
    takers += [(floors.pace_floor, row["kind"], row) for row in bottom]
    reports = []
    processes.take_turns(takers, LOGITS, 3, 1, lambda: reports.append(1))
    one, two = [("apart", "again"), ("apart", "pages")], [("over", "again")]
    ours, trl = [("ours", "again")], [("trl", "again")]
    assert Running.order == [
        *(ours + trl + one + two),
        *(trl + one + two + ours),
        *(one + two + ours + trl),
        ("apart", "parts"),
    ]
    assert rows[1] == {"case": "liger_16", "failed": "liger_16: not today"} and len(reports) == 12
    assert rows[0] == {"case": "ours", "seconds": [1, 2, 3], "median": 2, "least": 1}
    assert bottom[1] | {"kind": "apart", "parts": {"formula": 0.5, "pages": 2.0}} == bottom[0]
    assert bottom[0]["best"] == "best of it"


def test_ours_has_to_run(monkeypatch):
    with pytest.raises(RuntimeError, match="not today"):
        processes.failed({}, "ours", RuntimeError("not today"))
    monkeypatch.setattr(processes, "once", lambda *of: {"loss": 3.0})
    row = processes.weighed("ours", LOGITS, 1, None, 2.0)
    assert row == {"case": "ours", "words": cases.CASES["ours"], "loss": 3.0, "loss_error": 0.5}


def test_cases_whose_library_is_not_there_are_left_out():
    setting = replace(LOGITS, cases=("ours", "trl", "textbook", "trl_chunked", "liger_64_compiled"))
    left = lambda *there: processes.cases_here(setting, dict.fromkeys(there))
    assert left("torch") == ["ours", "textbook"]
    assert left("trl") == ["ours", "trl", "textbook", "trl_chunked"]
    assert left("liger-kernel") == ["ours", "textbook", "liger_64_compiled"]


def test_the_steps_of_a_step_are_taken_in_turn(monkeypatch):
    monkeypatch.setattr(training, "Fork", Running)
    monkeypatch.setattr(Running, "order", [])
    monkeypatch.setattr(training, "summary", lambda answers: {"answers": answers})
    reports = []
    found = training.in_turn(list(training.CASES), None, None, 1, 4, lambda: reports.append(1))
    names = list(training.CASES)
    wanted = [*names, *names[1:], names[0], names[2], *names[:2], *names]
    assert [case for case, _ in Running.order] == wanted and len(reports) == 3 + 4
    assert [row["answers"] for row in found] == [[1, 2, 3, 4]] * 3
    assert [(row["case"], row["words"]) for row in found] == list(training.CASES.items())


def test_a_step_begins_with_the_weights_put_back(tmp_path, collected):
    preset = replace(PRESETS["tiny"], distillation=replace(PRESETS["tiny"].distillation, batch=4))
    pipe = Pipe()
    training.prepare(pipe, preset_of_no_steps(preset), tmp_path, 1)
    step = training.stepper("lab", preset, tmp_path)
    first, second = step(), step()
    assert pipe.sent == ["ready"] and first["loss"] == second["loss"]
    assert list(first) == ["seconds", "loss", "written", "trained"]
    assert first["written"] == first["trained"] > 0
    paced = Pipe("again", "again")
    with pytest.MonkeyPatch.context() as patch:
        steps = []
        patch.setattr(training, "stepper", lambda *of: lambda: steps.append(of) or len(steps))
        training.pace(paced, "lab", preset, tmp_path, 1)
    assert paced.sent == ["ready", 4, 5] and steps[0] == ("lab", preset, tmp_path)
    assert len(collected) == 2


def preset_of_no_steps(preset):
    return replace(
        preset, teacher=replace(preset.teacher, steps=0), student=replace(preset.student, steps=0)
    )


def test_models_learn_for_a_short_while_before_a_step_is_timed(tmp_path, monkeypatch):
    asked = []
    pretrained = lambda recipe, task, role: asked.append((role, recipe.steps, recipe.seed))
    monkeypatch.setattr(training.pretraining, "pretrain", pretrained)
    monkeypatch.setattr(training, "save", lambda path, model: asked.append(path.name))
    training.prepare(Pipe(), PRESETS["tiny"], tmp_path, 1)
    training.prepare(Pipe(), preset_of_no_steps(PRESETS["tiny"]), tmp_path, 1)
    both = [("teacher", 150, 0), "teacher", ("student", 150, 1), "student"]
    assert asked == [*both, ("teacher", 0, 0), "teacher", ("student", 0, 1), "student"]


# --- forks -------------------------------------------------------------------------------


def says(pipe, *words):
    pipe.send([os.getpid(), *words])


def complains(pipe):
    os.write(2, b"first\nthe reason\n")
    os._exit(2)


def test_a_process_answers_or_its_last_words_are_the_reason():
    number, *words = forks.once(says, "a", 2)
    assert words == ["a", 2] and number != os.getpid()
    with pytest.raises(RuntimeError, match="^the reason$"):
        forks.once(complains)
    with pytest.raises(RuntimeError, match="^the process ended with status 3$"):
        forks.once(lambda pipe: os._exit(3))


def test_a_process_that_is_asked_once_is_closed(monkeypatch):
    done = []
    answers = iter(["said", RuntimeError("not today")])

    def answer():
        said = next(answers)
        if isinstance(said, Exception):
            raise said
        return said

    fork = SimpleNamespace(answer=answer, close=lambda: done.append("closed"))
    monkeypatch.setattr(forks, "Fork", lambda *of: done.append(of) or fork)
    assert forks.once("function", 1, 2) == "said"
    with pytest.raises(RuntimeError, match="not today"):
        forks.once("function")
    assert done == [("function", 1, 2), "closed", ("function",), "closed"]


def waits(pipe):
    with contextlib.suppress(EOFError):
        pipe.send(pipe.recv())


def test_a_process_ends_with_its_pipe_and_leaves_nothing_open():
    left = forks.Fork(waits)
    assert left.process.daemon is False  # it may have processes of its own
    left.pipe.close()
    left.process.join(20)
    assert left.process.exitcode == 0  # it heard the end
    left.errors.close()
    closed = forks.Fork(waits)
    closed.close()
    assert closed.process.exitcode == -signal.SIGKILL
    assert closed.pipe.closed and closed.errors.closed


def test_the_machine_and_its_libraries_are_named(monkeypatch, tmp_path):
    assert forks.versions()["torch"] == torch.__version__
    asked = []
    monkeypatch.setattr(forks, "version", lambda name: asked.append(name) or "1")
    forks.versions()
    assert asked == ["torch", "trl", "liger-kernel", "transformers", "triton"]
    lines = tmp_path / "cpuinfo"
    monkeypatch.setattr(forks, "Path", lambda path: lines)
    assert forks.processor() == (forks.platform.processor() or forks.platform.machine())
    lines.write_text("processor: 0\nmodel name\t: P : 7\nmodel name\t: other\n")
    assert forks.processor() == "P : 7"


# --- a card, on the processor ------------------------------------------------------------


def test_a_card_s_rates_are_what_it_moves_and_multiplies_in_a_pass(monkeypatch):
    done = []
    monkeypatch.setattr(device, "fastest", lambda work, like: done.append(work) or 0.5)
    rates = device.card_rates(torch.device("cpu"), shrink=64)
    assert rates == {"copy": 2 * (2**30 // 64) / 0.5, "product": 2 * 128**3 / 0.5}
    assert done[0]().shape == (2**29 // 64,) and torch.equal(
        done[1](), torch.full((128, 128), 128.0)
    )


def test_the_fastest_of_twenty_passes_counts_and_the_first_is_none(monkeypatch):
    times = iter([0.0, 1.0] + [t for n in range(20) for t in (10 * n, 10 * n + 4.0 - (n == 7))])
    done, like = [], torch.zeros(1)
    tick = lambda: done.append("tick") or next(times)
    monkeypatch.setattr(device.time, "perf_counter", tick)
    monkeypatch.setattr(device, "wait", done.append)
    assert device.fastest(lambda: done.append("work"), like) == 3.0 and next(times, None) is None
    assert done == [like, "tick", "work", like, "tick"] * 21


def test_an_error_is_relative_to_all_gradients():
    exact = [torch.full((300, 2), 2.0, dtype=torch.float64), torch.ones(3, 2, dtype=torch.float64)]
    found = [each.float() for each in exact]
    found[0][299, 1] += 3.0
    found[1][0, 0] -= 4.0
    assert device.error([found[0].view(1, 300, 2), found[1]], exact) == pytest.approx(
        5 / (4 * 600 + 6) ** 0.5
    )


@pytest.mark.parametrize("case, error", [("trl", RuntimeError), ("ours", torch.OutOfMemoryError)])
def test_what_fails_on_a_card_has_its_reason_in_its_row(case, error, monkeypatch):
    def fails(*of):
        raise error("no room\nat all")

    monkeypatch.setattr(device, "loss_function", fails)
    row = device.measure_case(case, LOGITS, 1.0, [], 2, torch.device("cpu"))
    assert row == {"case": case, "words": cases.CASES[case], "failed": f"{case}: no room"}
    monkeypatch.setattr(device, "loss_function", lambda *of: (_ for _ in ()).throw(KeyError("k")))
    with pytest.raises(KeyError):
        device.measure_case("ours", LOGITS, 1.0, [], 2, torch.device("cpu"))


def test_a_case_on_a_card(monkeypatch):
    seconds = iter([9.0, 8.0, 3.0, 1.0, 5.0])
    one = lambda loss, inputs: (next(seconds), 3.0, [torch.ones(1, 10, 300)])
    monkeypatch.setattr(device, "one_pass", one)
    exact = torch.full((10, 300), 2.0, dtype=torch.float64)
    row = device.measure_case("ours", LOGITS, 4.0, [exact], 3, torch.device("cpu"))
    wanted = {"loss": 3.0, "loss_error": 0.25, "extra_bytes": None, "gradient_error": 0.5}
    wanted |= {"seconds": [3.0, 1.0, 5.0], "median": 3.0, "least": 1.0}
    assert row == wanted | {"case": "ours", "words": cases.CASES["ours"]}


def test_a_card_s_memory_is_the_height_of_a_pass(collected, monkeypatch):
    done = []
    note = lambda name, value=None: lambda device: done.append(name) or value
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", note("reset"))
    monkeypatch.setattr(torch.cuda, "memory_allocated", note("before", 30))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", note("height", 100))
    monkeypatch.setattr(torch.cuda, "synchronize", note("waited for"))
    monkeypatch.setattr(device, "one_pass", lambda *of: done.append(of) or "passed")
    found = device.with_extra_memory("loss", "inputs", torch.device("cuda"))
    assert found == ("passed", 70) and len(collected) == 1
    assert done == ["reset", "before", ("loss", "inputs"), "height"]
    cases.wait(SimpleNamespace(is_cuda=True, device=0)), cases.wait(torch.ones(1))
    assert done[4:] == ["waited for"]


def test_the_settings_of_a_card_and_their_floors():
    rates = {"copy": 2.0, "product": 4.0}
    words = [
        (setting.words(), setting.cases, device.floor(setting, rates)["words"])
        for setting in device.SETTINGS
    ]
    inputs = "2048 tokens, V = 151,936, bfloat16"
    moved = "floor: reads both logits, writes the gradient, at the card's rate"
    logits = ("ours", "ours_overwrite", "trl", "textbook")
    assert words == [
        (f"reverse KL from logits, {inputs}", logits, moved),
        (f"JSD, beta = 0.5 from logits, {inputs}", logits, moved),
        (
            f"reverse KL from hidden states of width 896, {inputs}",
            ("ours", "trl_chunked", "liger_1024"),
            "floor: the four products alone, at the card's rate",
        ),
    ]
    assert replace(device.SETTINGS[2], **device.SMALL).words() == (
        "reverse KL from hidden states of width 896, 8 tokens, V = 500, float32"
    )


# --- inputs, and what each module prints -------------------------------------------------


@pytest.mark.parametrize("setting", [LOGITS, HIDDEN], ids=lambda setting: setting.name)
def test_inputs_are_spread_as_said(setting):
    """3 a logit; the teacher's noise a third of it.  The same each time."""
    setting = replace(setting, tokens=400)
    inputs = cases.make_inputs(setting)[:: 2 if setting.width else 1]
    student = inputs[0]
    if setting.width:
        h, w, _, u = cases.make_inputs(setting)
        student = h @ w.T
        assert (w - u).std() / w.std() == pytest.approx(1 / 3, rel=0.05)
    assert student.std() == pytest.approx(3, rel=0.05) and student.mean().abs() < 0.1
    noise = (inputs[1] - inputs[0]).std() / inputs[0].std()
    assert noise == pytest.approx(1 / 3, rel=0.05)
    first = torch.empty_like(inputs[0]).normal_(generator=torch.Generator().manual_seed(1))
    assert torch.equal(cases.make_inputs(setting)[0], first * (1 if setting.width else 3))


def test_inputs_are_made_where_and_as_the_setting_says(monkeypatch):
    monkeypatch.setattr(
        torch, "Generator", lambda device: SimpleNamespace(manual_seed=lambda _: None)
    )
    for setting, count in ((replace(LOGITS, dtype="bfloat16"), 2), (HIDDEN, 4)):
        made = cases.make_inputs(setting, "meta")
        assert len(made) == count and all(each.is_meta for each in made)
        assert {each.dtype for each in made} == {getattr(torch, setting.dtype)}


def test_words_and_formulas_of_both_kls():
    forward, one = replace(LOGITS, beta=0), replace(HIDDEN, threads=1)
    assert forward.words() == "forward KL from logits, 10 tokens, V = 300, float32"
    assert one.words().endswith("hidden states of width 8, 10 tokens, V = 300, float32, one thread")
    z, y = (each.double() for each in cases.make_inputs(LOGITS))
    p, q = (torch.distributions.Categorical(logits=each) for each in (z, y))
    kl = torch.distributions.kl_divergence
    torch.testing.assert_close(cases.textbook(z, y, 0), kl(q, p))
    torch.testing.assert_close(cases.textbook(z, y, 1), kl(p, q))


# --- other libraries, which are not here -------------------------------------------------


def stub(monkeypatch, name, **names):
    """A module of this name, and those above it."""
    parts = name.split(".")
    for depth in range(1, len(parts) + 1):
        above = ".".join(parts[:depth])
        monkeypatch.setitem(sys.modules, above, types.ModuleType(above))
    sys.modules[name].__dict__.update(names)


def test_what_each_library_is_asked_for(monkeypatch):
    """One mean over all tokens, of the loss on the soft labels alone."""
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "0")
    asked, note = [], lambda *of, **how: asked.append((of, how)) or ["the loss"]
    trainer = SimpleNamespace(generalized_jsd_loss=note)
    stub(monkeypatch, "trl.experimental.gkd", GKDTrainer=trainer)
    setting = replace(LOGITS, beta=0.25)
    z, y = torch.zeros(2, 3, 5), torch.ones(2, 3, 5)
    cases.loss_function("trl", setting)(z, y)
    assert asked.pop() == ((z, y), {"beta": 0.25, "num_items_in_batch": 6})
    assert os.environ["TRL_EXPERIMENTAL_SILENCE"] == "1"
    stub(monkeypatch, "trl.trainer.distillation_trainer", _chunked_divergence_loss=note)
    h, w, t, u = (torch.zeros(size, 2) for size in (4, 9, 4, 9))
    assert cases.loss_function("trl_chunked", setting)(h, w, t, u) == "the loss"
    (hidden, theirs, *heads, mask, beta), how = asked.pop()
    assert torch.equal(hidden, h[None]) and torch.equal(theirs, t[None]) and how == {}
    assert heads[0] is w and heads[1] is u and beta == 0.25
    assert torch.equal(mask, torch.ones(1, 4))
    made = []
    loss = lambda **how: made.append(how) or note
    stub(monkeypatch, "liger_kernel.chunked_loss", LigerFusedLinearJSDLoss=loss)
    weights = {"weight_hard_loss": 0.0, "weight_soft_loss": 1.0, "beta": 0.25}
    for case, size, compiled in (("liger_16", 16, False), ("liger_64_compiled", 64, True)):
        cases.loss_function(case, setting)(h, w, t, u)
        assert made.pop() == weights | {"chunk_size": size, "compiled": compiled}
        *given, target = asked.pop()[0]
        assert all(map(operator.is_, given, (h, w, t, u)))
        assert target.tolist() == [0] * 4 and target.dtype == torch.int64


@pytest.fixture
def plain(monkeypatch):
    """``opd_toy.lm.bench.hugging_face`` where transformers only notes what it is asked for."""

    class Llama(torch.nn.Module):
        def __init__(self, config):
            super().__init__()
            self.config, self.asked = config, []

        def load_state_dict(self, found):
            self.found = found

        def generate(self, *of, **how):
            self.asked.append((of, how, torch.initial_seed()))

    stub(monkeypatch, "transformers", LlamaConfig=dict, LlamaForCausalLM=Llama)
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "info")
    del os.environ["TRANSFORMERS_VERBOSITY"]
    name = "opd_toy.lm.bench.hugging_face"
    monkeypatch.delitem(sys.modules, name, raising=False)
    found = importlib.import_module(name)
    assert os.environ["TRANSFORMERS_VERBOSITY"] == "error"
    yield found
    del sys.modules[name], sys.modules["opd_toy.lm.bench"].hugging_face


def test_a_transformer_is_told_to_be_a_llama(plain):
    """Each head's pairs (2 i, 2 i + 1) become (i, i + D/2)."""
    model = Transformer(Shape(11, 24, 2, 2, 9), 3)
    model.norm.eps = 1e-3
    made = plain.llama(model)
    assert made.config == dict(
        vocab_size=11, hidden_size=24, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=9,
        rms_norm_eps=1e-3, tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 1000.0},
        bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    order = [12 * head + 2 * i + odd for head in (0, 1) for odd in (0, 1) for i in range(6)]
    wanted = {
        "model.embed_tokens": model.embedding.weight,
        "model.norm": model.norm.weight,
        "lm_head": model.head.weight,
    }
    for index, block in enumerate(model.blocks):
        q, k, v = block.query_key_value.weight.split(24)
        gate, up = block.gate_and_up.weight.split(64)
        parts = {"q_proj": q[order], "k_proj": k[order], "v_proj": v, "o_proj": block.mixed.weight}
        rows = {f"self_attn.{name}": each for name, each in parts.items()}
        rows |= {"mlp.gate_proj": gate, "mlp.up_proj": up, "mlp.down_proj": block.down.weight}
        rows |= {"input_layernorm": block.attention_norm.weight}
        rows |= {"post_attention_layernorm": block.feed_forward_norm.weight}
        wanted |= {f"model.layers.{index}.{name}": each for name, each in rows.items()}
    assert made.found.keys() == {f"{name}.weight" for name in wanted}
    for name, weight in wanted.items():
        found = made.found[f"{name}.weight"]
        assert torch.equal(found, weight) and not found.requires_grad, name


def test_a_plain_loop_writes_reads_and_learns(plain):
    """Drawn at temperature 1 from all tokens; a mean over the tokens that were drawn."""
    task, (z, y) = PRESETS["tiny"].task, torch.randn(2, 3, 4, 5).double()
    model, prompts = plain.llama(Transformer(Shape(11, 8, 1, 2, 9))), torch.ones(3, 4).long()
    drawn = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    ends = {"max_new_tokens": task.length, "eos_token_id": task.end, "pad_token_id": task.pad}
    for seed, options in ((0, {}), (5, {"do_sample": False})):
        plain.write(model, prompts, task, seed, **options)
        (given, how, seeded) = model.asked.pop()
        assert given == (prompts,) and seeded == seed
        assert torch.equal(how.pop("attention_mask"), torch.ones(3, 4).long())
        assert how == drawn | ends | options
    plain.write(model, prompts, task)
    assert model.asked.pop()[2] == 0
    texts, logits = torch.arange(60).view(3, 20), torch.arange(57).view(3, 19)
    heard = []
    answer = lambda **how: heard.append(how) or SimpleNamespace(logits=logits)
    found = plain.response_logits(answer, texts, task)
    assert torch.equal(found, logits[:, task.prompt_length - 1 :])
    assert torch.equal(heard[0]["input_ids"], texts[:, :-1]) and heard[0]["use_cache"] is False
    mask = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]])
    p, q = z.softmax(-1), y.softmax(-1)
    kl = (p * (p / q).log()).sum(-1)
    torch.testing.assert_close(plain.reverse_kl(z, y, mask), kl[mask == 1].mean())


def test_the_other_side_of_a_step_is_the_plain_loop(monkeypatch):
    asked, loop = [], types.ModuleType("plain")
    for name in ("write", "response_logits", "reverse_kl"):
        setattr(loop, name, lambda *of, name=name: asked.append((name, *of)) or name)
    loop.llama = lambda model: ("llama", model)
    name = "opd_toy.lm.bench.hugging_face"
    monkeypatch.setitem(sys.modules, name, loop)
    monkeypatch.setattr(sys.modules["opd_toy.lm.bench"], "hugging_face", loop, raising=False)
    preset = PRESETS["tiny"]
    side = training.hugging_face("student", "teacher", preset)
    assert (side.student, side.teacher) == (("llama", "student"), ("llama", "teacher"))
    assert side.write() == "write" and side.logits("model", "texts") == "response_logits"
    assert side.loss("z", "y", "texts", "mask") == "reverse_kl"
    writes, reads, loss = asked
    assert writes[1] == side.student and writes[3] is preset.task
    assert torch.equal(writes[2], preset.task.prompts(32, 1, "distillation", 1))
    assert reads[1:] == ("model", "texts", preset.task) and loss[1:] == ("z", "y", "mask")


# --- whole modules -----------------------------------------------------------------------


@pytest.mark.parametrize("there", [True, False])
def test_all_settings_of_a_card(there, monkeypatch):
    rates, cases_of, shrinks, exacts, told = {"copy": 1e9, "product": 1e9}, [], [], [], []
    here = {"torch": "2"} | ({"trl": "1"} if there else {})
    monkeypatch.setattr(device, "versions", lambda: here)
    monkeypatch.setattr(device, "processor", lambda: "P")
    rated = lambda device, shrink: shrinks.append((device.type, shrink)) or rates
    monkeypatch.setattr(device, "card_rates", rated)
    exact = lambda setting, inputs, gradients: (
        exacts.append(setting)
        or [(*each.shape, each.dtype, each.device.type) for each in gradients]
    )
    monkeypatch.setattr(device, "exact_loss", exact)
    noted = lambda case, *of: cases_of.append((case, *of)) or f"row of {case}"
    monkeypatch.setattr(device, "measure_case", noted)
    on = torch.device("cpu")
    found = device.measure(on, 3, device.SMALL, lambda *step: told.append(step))
    names = ("ours", "ours_overwrite", *(["trl"] if there else []), "textbook")
    hidden = ("ours", *(["trl_chunked"] if there else []))
    count = 2 * len(names) + len(hidden)
    assert told == [(done, count) for done in range(1, count + 1)] and shrinks == [("cpu", 64)]
    assert [case for case, *_ in cases_of] == [*names, *names, *hidden]
    double = torch.float64, "cpu"
    sizes = [[(8, 500, *double)]] * 2 + [[(8, 896, *double), (500, 896, *double)]]
    for setting, wanted, size in zip(device.SETTINGS, (names, names, hidden), sizes, strict=True):
        small = replace(setting, **device.SMALL, cases=wanted)
        row = found["settings"].pop(0)
        assert row.pop("rows") == [f"row of {case}" for case in wanted]
        assert row.pop("floors") == [device.floor(small, rates)]
        assert row == vars(small) | {"words": small.words()} and exacts.pop(0) == small
        for case in wanted:
            name, given, exact, gradients, repeats, where = cases_of.pop(0)
            assert (name, given, exact, repeats, where) == (case, small, size, 3, on)
            assert len(gradients) == len(size)
    assert found.pop("settings") == [] and found == {
        "processor": "P",
        "threads": torch.get_num_threads(),
        "repeats": 3,
        "versions": here,
        "missing": ["liger-kernel"] if there else ["trl", "liger-kernel"],
        "rates": rates,
    }
    monkeypatch.setattr(device, "SETTINGS", ())
    device.measure(on, 3, {}, None)
    assert shrinks[1] == ("cpu", 1)  # the whole, not rehearsed


JOBS = {
    growth: ({"small": True, "repeats": 2, "threads": 3}, (growth.SMALL_SWEEPS, 2, 3)),
    processes: (
        {"settings": [dict(vars(LOGITS), cases=["ours", "ours_overwrite"])], "repeats": 2}
        | {"threads": 3},
        ([LOGITS], 2, 3),
    ),
    training: ({"preset": "tiny", "repeats": 2, "counts": [3]}, (PRESETS["tiny"], 2, [3])),
    device: (
        {"device": "cpu", "repeats": 2, "threads": 1, "small": True},
        (torch.device("cpu"), 2, device.SMALL),
    ),
}


class Out(io.StringIO):
    """What was printed, and what of it the reader of a pipe would have by now."""

    there = ""

    def flush(self):
        self.there = self.getvalue()


@pytest.mark.parametrize("module", JOBS, ids=lambda module: module.__name__.split(".")[-1])
def test_a_module_reads_its_job_and_prints_steps_and_figures(module, monkeypatch):
    job, wanted = JOBS[module]
    heard, out = [], Out()

    def asked(**changes):
        monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(job | changes)))
        module.main()

    def measure(*of):
        *of, report = of
        heard.append(tuple(of))
        report(1, 2)
        assert out.there.endswith("[1, 2]\n")
        return {"figures": 7}

    monkeypatch.setattr(module, "measure", measure)
    monkeypatch.setattr(sys, "stdout", out)
    asked()
    assert heard == [wanted] and out.getvalue() == '[1, 2]\n{"figures": 7}\n'
    if "small" in job:
        asked(small=False)
        assert heard[1][:1] != wanted[:1] or heard[1][2] == {}

    def interrupted(*of):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "measure", interrupted)
    with pytest.raises(SystemExit) as ended:
        asked()
    assert ended.value.code == 130


@pytest.mark.parametrize("module", JOBS, ids=lambda module: module.__name__.split(".")[-1])
def test_a_module_that_is_run_reads_its_job(module, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("no job"))
    code = compile(Path(module.__file__).read_text(encoding="utf-8"), module.__file__, "exec")
    with pytest.raises(json.JSONDecodeError):
        exec(code, {"__name__": "__main__"})
