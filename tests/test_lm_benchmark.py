"""The benchmark of the losses: memory, rounding, processes, tables; without other libraries."""

import argparse
import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from opd_toy.__main__ import main
from opd_toy.commands import bench as bench_command
from opd_toy.commands import bench_goals, bench_growth, bench_tables
from opd_toy.lm.bench import cases as benchmark
from opd_toy.lm.bench import floors, growth, measuring
from opd_toy.lm.bench import processes as benchmark_processes
from opd_toy.lm.bench.cases import Setting, loss_function, make_inputs, one_pass
from tests.conftest import ROOT

SMALL = Setting(
    "logits", ("ours", "ours_overwrite", "textbook"), beta=0.5, tokens=10, vocabulary=300
)
HIDDEN = Setting("hidden_8", ("ours",), beta=1.0, tokens=10, vocabulary=300, width=8)


class Pipe:
    def send(self, value):
        self.value = value


def exact(setting, folder):
    pipe = Pipe()
    threads = torch.get_num_threads()
    measuring.reference(pipe, setting, threads, folder)
    return pipe.value


@pytest.mark.parametrize("setting", [SMALL, HIDDEN], ids=lambda setting: setting.name)
def test_the_reference_is_the_mean_and_its_gradient(setting, tmp_path):
    value = exact(setting, tmp_path)
    inputs = [x.double().requires_grad_() for x in make_inputs(setting)]
    z, y = inputs if not setting.width else (inputs[0] @ inputs[1].T, inputs[2] @ inputs[3].T)
    expected = benchmark.textbook(z, y, setting.beta).mean()
    expected.backward()
    assert value == pytest.approx(expected.item(), rel=1e-12) and value > 0.05
    for i in range(2 if setting.width else 1):
        assert np.load(tmp_path / f"{i}.npy") == pytest.approx(
            inputs[i].grad.numpy().reshape(np.load(tmp_path / f"{i}.npy").shape), abs=1e-14
        )


@pytest.mark.parametrize(
    "setting, case",
    [(SMALL, case) for case in SMALL.cases] + [(HIDDEN, "ours")],
    ids=lambda x: getattr(x, "name", x),
)
def test_a_pass_gives_the_gradient(setting, case, tmp_path):
    value = exact(setting, tmp_path)
    _, loss, gradients = one_pass(loss_function(case, setting), make_inputs(setting))
    assert loss == pytest.approx(value, rel=1e-5)
    assert measuring.gradient_error(gradients, setting, tmp_path) < 2e-6
    gradients[-1][0, 0] += 1e-3 * gradients[0].norm()
    assert measuring.gradient_error(gradients, setting, tmp_path) > 1e-4


def test_of_a_large_head_some_rows_are_compared(tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, "COMPARED_ENTRIES", 500)
    monkeypatch.setattr(measuring, "SLICE", 70)
    monkeypatch.setattr(measuring, "ROWS", 4)
    exact(HIDDEN, tmp_path)
    assert measuring.compared(HIDDEN) == 5 and np.load(tmp_path / "1.npy").shape == (60, 8)
    gradients = one_pass(loss_function("ours", HIDDEN), make_inputs(HIDDEN))[2]
    assert measuring.gradient_error(gradients, HIDDEN, tmp_path) < 2e-6
    gradients[1][295] += 1
    assert measuring.gradient_error(gradients, HIDDEN, tmp_path) > 1e-2


def test_overwritten_inputs_are_gone():
    inputs = make_inputs(SMALL)
    before = inputs[0].clone()
    gradient = one_pass(loss_function("ours_overwrite", SMALL), inputs)[2][0]
    assert gradient.data_ptr() == inputs[0].data_ptr() and not torch.equal(before, inputs[0])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_extra_memory_is_the_height_not_the_end():
    def function():
        a = torch.ones(8 << 20)  # 32 MiB
        b = torch.ones(16 << 20)  # 64 MiB
        del b
        return a

    result, extra = measuring.with_extra_memory(function)
    assert len(result) == 8 << 20 and 94 <= extra / 2**20 <= 100
    assert measuring.with_extra_memory(lambda: None)[1] < 2 << 20


def test_measured_in_processes_of_their_own():
    """The command's process, small: every case, in turns; a case that fails leaves the others."""
    script = """
import json, sys
from opd_toy.lm.bench import measuring, processes
from opd_toy.lm.bench.cases import Setting
true = measuring.loss_function
def loss_function(case, setting):
    if case == "trl_chunked":
        return lambda *inputs: sys.exit("no such thing")
    return true("textbook", setting) if case == "trl" else true(case, setting)
processes.versions = lambda: {"torch": "2", "trl": "1"}
measuring.loss_function = processes.loss_function = loss_function
steps = []
cases = ("ours", "trl", "trl_chunked", "liger_16")
setting = Setting("logits", cases, tokens=6, vocabulary=200)
alone = Setting("hidden", ("ours",), tokens=6, vocabulary=200, width=8, alone=True, share=0.6)
found = processes.measure([setting, alone], 3, 1, lambda *step: steps.append(step))
print(json.dumps([found, steps]))
"""
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, timeout=600
    )
    assert run.returncode == 0, run.stderr
    found, steps = json.loads(run.stdout)
    ours, trl, chunked = found["settings"][0]["rows"]
    assert found["missing"] == ["liger-kernel"] and steps[0] == [1, 20]
    assert chunked["failed"] == "trl_chunked: no such thing" and "seconds" not in chunked
    for row in (ours, trl):
        assert (
            len(row["seconds"]) == 3
            and min(row["seconds"]) == row["least"] > 0
            and row["loss_error"] < 1e-5
        )
        assert 0 <= row["gradient_error"] < 1e-5 and (
            row["extra_bytes"] is None or row["extra_bytes"] >= 0
        )
    assert trl["words"] == benchmark.CASES["trl"]
    for setting, kind, repeats in zip(found["settings"], ("apart", "products"), (3, 2)):
        (floor,) = setting["floors"]
        assert floor["kind"] == kind and floor["best"] and len(floor["seconds"]) == repeats
        assert floor["least"] > 0 and setting["parts"]["formula"] > 0 <= setting["parts"]["pages"]
        names = {"apart": {"memory", "exponentials"}, "products": {"products"}}[kind]
        assert setting["parts"].keys() == {"formula", "pages", *names}
        assert setting["threads"] == 1 and len(setting["rows"][0]["seconds"]) == repeats


def row(case, seconds, mebibytes, error):
    return {
        "case": case,
        "words": benchmark.CASES[case],
        "seconds": [seconds],
        "median": 2 * seconds + 0.1,  # other ratios than those of the least
        "least": seconds,
        "extra_bytes": None if mebibytes is None else mebibytes * 2**20,
        "gradient_error": error,
    }


def floor(kind, seconds):
    return {"kind": kind, "words": floors.WORDS[kind], "median": seconds, "least": seconds}


def results(trl=(1.0, 1000, 2e-6)):
    """A record, with TRL's figures chosen."""
    rows = [row("ours", 0.2, 50, 1e-6), row("ours_overwrite", 0.1, 25, 1e-6), row("trl", *trl)]
    hidden = [
        row("ours", 0.5, 40, 3e-6),
        row("liger_16", 0.8, 30, 2e-6),
        row("liger_64", 0.7, 90, 9e-6),
        {"case": "trl_chunked", "words": "TRL chunked divergence", "failed": "trl_chunked: no"},
    ]
    dense = {"exponentials": 0.01, "formula": 0.04, "pages": 0.05}
    settings = [
        {"name": name, "words": name, "vocabulary": 151_936} | figures
        for name, figures in (
            ("logits", {"rows": rows, "floors": [floor("apart", 0.1), floor("over", 0.08)]}),
            ("hidden_64", {"rows": hidden, "floors": [floor("products", 0.25)]}),
        )
    ]
    settings[0]["parts"] = dense
    return {
        "processor": "P",
        "threads": 2,
        "repeats": 1,
        "versions": {"torch": "2"},
        "missing": [],
        "settings": settings,
    }


def without_memory(found):
    for setting in found["settings"]:
        for each in setting["rows"]:
            each["extra_bytes"] = None
    return found


def test_tables():
    (title, rows), (_, hidden) = bench_tables.tables(results())
    assert title == "logits" and rows[0] == bench_tables.HEADER
    assert rows[3] == (
        "TRL generalized_jsd_loss",
        "2.10 s",
        "1.00 s",
        "5.0x",
        "10.0x",
        "1000 MiB",
        "20.0x",
        "2.0e-06",
    )
    assert [line[4] for line in rows[1:]] == ["2.0x", "1.2x", "10.0x", "1.0x", "1.0x"]
    assert rows[5][:4] == (floors.WORDS["over"], "80.00 ms", "80.00 ms", "0.4x")
    assert hidden[4][1] == "failed" and {len(row) for row in rows + hidden} == {
        len(bench_tables.HEADER)
    }
    assert bench_tables.tables(without_memory(results()))[0][1][1][5:7] == ("-", "-")
    assert "trl_chunked: no" in bench_tables.as_text(results())


def test_goals():
    dense, fused, *floored = bench_goals.goals(results())
    floored, errors = floored[:2], floored[2:]
    assert (
        dense["time"] == pytest.approx(10) and dense["memory"] == pytest.approx(40) and dense["met"]
    )
    assert (
        fused["other"].endswith("=64")
        and fused["time"] == pytest.approx(1.4)
        and fused["memory"] == pytest.approx(2.25)
        and fused["met"]
    )
    slower = results()
    slower["settings"][1]["rows"][0]["least"] = 0.6
    assert not bench_goals.goals(slower)[1]["met"]
    assert [goal["met"] for goal in floored] == [False, False]
    assert floored[0]["floor"] == pytest.approx(
        {"this book": 2.0, "this book, overwrite_logits": 1.25}
    )
    nearer = results()
    nearer["settings"][0]["rows"][0]["least"] = 0.15
    assert bench_goals.goals(nearer)[2]["met"] and not bench_goals.goals(nearer)[3]["met"]
    assert [(goal["error"], goal["met"]) for goal in errors] == [
        ([1e-6, 2e-6], True),
        ([3e-6, 2e-6], False),
    ]
    assert (
        not bench_goals.goals(results(trl=(0.7, 1000, 1e-6)))[0]["met"]
        and not bench_goals.goals(results(trl=(1.0, 400, 1e-6)))[0]["met"]
    )
    assert not bench_goals.goals(without_memory(results()))[0]["met"]
    nearly = results()
    nearly["settings"][1]["rows"][1]["gradient_error"] = 2.8e-6
    assert bench_goals.goals(nearly)[-1]["met"]
    assert bench_goals.goal_text(errors[1]).startswith("NOT met: hidden_64: gradient error")
    trial = results()
    for setting in trial["settings"]:
        setting["vocabulary"] = 20_000
    assert bench_goals.goals(trial) == []


def test_what_is_above_the_floor():
    logits, hidden = results()["settings"]
    apart, over = (bench_goals.parts_above(logits, row) for row in logits["rows"][:2])
    assert list(apart.values()) == pytest.approx([0.03, 0.05, 0.02])
    assert list(over.values()) == pytest.approx([0.03, 0, -0.01])
    assert bench_goals.parts_above(hidden, hidden["rows"][0]) == {}
    hidden["parts"] = {"products": 0.3, "formula": 0.08, "pages": 0.03}
    found = bench_goals.parts_above(hidden, hidden["rows"][0])
    assert list(found.values()) == pytest.approx([0.05, 0.08, 0.03, 0.09])
    assert bench_goals.above_the_floor(logits)[0] == (
        "logits, this book: 100 ms: further operations of the formula 30 ms, fresh pages 50 ms, "
        "the rest 20 ms"
    )
    assert bench_goals.goal_text(bench_goals.goals(results())[2]) == (
        "NOT met: logits: at most 1.5 times the floor: 2.00 (this book), "
        "1.25 (this book, overwrite_logits)"
    )


@pytest.mark.parametrize("beta", [1.0, 0.5])
def test_a_sweep_reads_both_and_writes_the_gradient(beta):
    """Of each kind every logit is read and written; what is overwritten is put back first."""
    setting = Setting("logits", ("ours_overwrite",), beta=beta, tokens=3, vocabulary=50_000)
    assert floors.kinds(setting) == ("apart", "over")
    z, y = make_inputs(setting)
    other = y.exp2() if beta == 1 else (z.exp2() + y.exp2()).log()
    expected = z.exp2() - other
    for _ in range(2):
        inputs = [z.clone(), y.clone()]
        passes = floors.sweeps(setting, inputs, "over")
        assert len(passes) == 2
        for one in passes.values():
            assert one() > 0 and torch.equal(inputs[1], y)
            torch.testing.assert_close(inputs[0], expected)
    apart = floors.sweeps(setting, [z, y], "apart")
    before = z.clone()
    assert all(one() > 0 for one in apart.values()) and torch.equal(z, before)


@pytest.mark.parametrize("tile", [(128, True), (300, False), None])
def test_the_products_are_the_four_of_the_heads(tile):
    setting = Setting("hidden", ("ours",), tokens=10, vocabulary=300, width=8)
    h, w, t, u = inputs = make_inputs(setting)
    logits, to_hidden, to_head = torch.zeros(2, 10, 300), torch.zeros(10, 8), torch.ones(300, 8)
    for here in (slice(0, 6), slice(6, 12)):
        if tile is None:
            floors.losses_products(inputs, logits, to_hidden, to_head, here)
        else:
            floors.four_products(inputs, logits, to_hidden, to_head, here, *tile)
    torch.testing.assert_close(to_hidden, h @ w.T @ w)
    torch.testing.assert_close(to_head, (h @ w.T).T @ h)
    torch.testing.assert_close(logits[1][:4], t[6:] @ u.T)
    assert all(one() > 0 for one in floors.products(setting, inputs).values())


def test_fresh_pages_are_the_least_of_each_filling():
    assert floors.seconds_of_pages([[0.9, 0.2], [0.5, 0.3], [0.6, 0.1]]) == pytest.approx(0.4)
    assert floors.seconds_of_pages([[0.1, 0.2]]) == 0


@pytest.mark.parametrize("width, largest", [(0, 300 * 10 * 2), (8, 300 * 8 * 4)])
def test_what_is_filled_is_as_large_as_the_largest_gradient(width, largest, monkeypatch):
    filled = []
    monkeypatch.setattr(
        floors, "large_pages", lambda memory: filled.append(memory.nbytes) or memory
    )
    monkeypatch.setattr(floors, "seconds_of", lambda fill: 1.0)
    setting = Setting("s", ("ours",), tokens=10, vocabulary=300, width=width, dtype="bfloat16")
    assert floors.fill_twice(setting) == [1.0, 1.0] and filled == [largest]
    monkeypatch.setattr(floors, "PAGES_BYTES", largest // 2)
    assert floors.fill_twice(setting) == [2.0, 2.0] and filled[1:] == [largest // 2]


def test_the_words_of_a_setting():
    words = Setting("s", ("ours",), tokens=10, vocabulary=32_768).words()
    assert words == "reverse KL from logits, 10 tokens, V = 32,768, float32"


def test_growth_is_fitted_between_logarithms():
    sweep = growth.Sweep("tokens", growth.doubled(64, 256))
    assert sweep.values == (64, 128, 256)
    points = [
        {"over": "tokens", "line": "ours", "value": value, "seconds": value**2.0}
        | {"extra_bytes": memory}
        for value, memory in zip(sweep.values, (10, 10, 40))
    ]
    seconds, memory = growth.exponents(points)
    assert [seconds[name] for name in ("exponent", "first", "last")] == pytest.approx([2, 2, 2])
    assert [memory[name] for name in ("exponent", "first", "last")] == pytest.approx([1, 0, 2])
    assert len(growth.exponents([point | {"extra_bytes": None} for point in points])) == 1
    some = [points[0], points[1] | {"extra_bytes": None}, points[2]]
    row = {"over": "row", "line": "ours", "value": 1, "seconds": 1.0, "extra_bytes": 1}
    later = [point | {"over": "vocabulary"} for point in points]
    found = growth.exponents([row, *some, *later])  # what is left out stops nothing
    assert [(each["over"], each["cost"]) for each in found] == [
        ("tokens", "seconds"), ("vocabulary", "seconds"), ("vocabulary", "extra_bytes")
    ]  # fmt: skip


def test_the_points_of_a_sweep():
    row = growth.Sweep("row", (1 << 12,), ("ours",), logits=1 << 14).setting("ours", 1 << 12)
    assert (row.tokens, row.vocabulary, row.width) == (4, 1 << 12, 0)
    hidden = growth.Sweep("width", (8, 16), ("hidden",), tokens=5).setting("hidden", 16)
    assert (hidden.tokens, hidden.width, hidden.cases) == (5, 16, ("ours",))
    assert growth.Sweep("tokens", (7,)).setting("textbook", 7).width == 0


def test_the_command_records_and_shows(tmp_path, monkeypatch, capsys):
    jobs = []
    monkeypatch.setattr(
        bench_command, "measure", lambda job: jobs.append(job) or results() | {"missing": ["trl"]}
    )
    main(["bench", "--quick", "--directory", str(tmp_path)])
    shown = capsys.readouterr().out
    assert "Not here: trl. `make peers`" in shown and "of ours" in shown
    assert jobs[0]["repeats"] == 2 and {
        setting["vocabulary"] for setting in jobs[0]["settings"]
    } == {20_000}
    main(["bench", "--show", "--directory", str(tmp_path)])
    assert capsys.readouterr().out == shown
    main(["bench", "--show", "--json", "--directory", str(tmp_path)])
    assert json.loads(capsys.readouterr().out)["missing"] == ["trl"]
    provenance = json.loads((tmp_path / bench_command.RECORD).read_text())["provenance"]
    assert provenance["modules"] == bench_command.MODULES


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--repeats", "0"], "repeats is 0; give a whole number"),
        (["--threads", "-1"], "threads is -1; give a whole number"),
        (["--show", "--directory", "nowhere"], "which holds no loss-benchmark.json"),
    ],
)
def test_errors(arguments, message, capsys):
    with pytest.raises(SystemExit):
        main(["bench", *arguments])
    assert message in capsys.readouterr().err


def test_growth_is_measured_as_often_as_asked(monkeypatch):
    monkeypatch.setattr(bench_command, "measure", lambda job, *a, **o: job["repeats"])
    monkeypatch.setattr(bench_growth, "make_record", lambda path, compute, **o: compute())
    for quick, asked, repeats in ((False, None, 3), (True, None, 1), (True, 2, 2)):
        arguments = argparse.Namespace(quick=quick, repeats=asked, threads=1)
        assert bench_growth.make(None, arguments) == repeats


def test_a_measurement_is_ended_after_its_seconds(tmp_path, monkeypatch):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexec sleep 30\n")
    python.chmod(0o755)
    monkeypatch.setattr(bench_command, "interpreter", lambda: str(python))
    with pytest.raises(subprocess.TimeoutExpired) as late:
        bench_command.measure({"threads": 1}, seconds=0.2)
    assert late.value.timeout == 0.2 and late.value.cmd[0] == str(python)


def test_another_torch_beside_is_refused(tmp_path, monkeypatch):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 1.0\n")
    python.chmod(0o755)
    monkeypatch.setattr(bench_command, "PEERS_PYTHON", python)
    monkeypatch.setattr(benchmark_processes, "versions", lambda: {"torch": "2.0"})
    with pytest.raises(RuntimeError, match="venv-peers has torch 1.0, this Python 2.0"):
        bench_command.interpreter()
    monkeypatch.setattr(
        benchmark_processes, "versions", lambda: {"torch": "2.0", "trl": "1", "liger-kernel": "0"}
    )
    assert bench_command.interpreter() == sys.executable
