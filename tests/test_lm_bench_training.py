"""The lab's step beside a plain loop: what is timed, arithmetic, tables; without transformers."""

import copy
import json
import subprocess
import sys

import pytest
import torch

from opd_toy.__main__ import main
from opd_toy.commands import bench_training as command
from opd_toy.lm import training as lab_training
from opd_toy.lm.bench import training as benchmark
from opd_toy.lm.methods import Responses
from opd_toy.lm.model import Transformer, fingerprint
from opd_toy.lm.presets import PRESETS
from tests.conftest import ROOT

TINY = PRESETS["tiny"]


def models():
    return Transformer(TINY.student.shape, 1), Transformer(TINY.teacher.shape, 2)


def test_the_step_in_parts_is_the_lab_s_own():
    """The same texts, loss and weights, bit for bit, as one step of ``opd_toy.lm.training``."""
    student, teacher = models()
    other, before = copy.deepcopy(student), fingerprint(student)
    seed, _, number = benchmark.KEY
    run = lab_training.Run(
        method="gkd",
        preset=TINY,
        seed=seed,
        group=1,
        rows=slice(None),
        micro_batches=1,
        device=torch.device("cpu"),
        teacher=teacher,
        student=other,
        parallel=Responses(other, TINY.task),
        optimizer=torch.optim.AdamW(other.parameters(), **lab_training.OPTIMIZER),
    )
    its_texts = lab_training.draw_texts(run, number)
    its_loss, _, its_tokens = lab_training.step(run, number)

    side = benchmark.lab(student, teacher, TINY)
    texts, mask = benchmark.given_texts(side, TINY.task)
    optimizer = benchmark.adamw(side, TINY)
    assert optimizer.param_groups[0]["lr"] == TINY.distillation.rate
    optimizer.param_groups[0]["lr"] *= number / lab_training.WARM_UP
    seconds, loss, written = benchmark.timed_step(side, optimizer, texts, mask)
    assert torch.equal(written, its_texts) and torch.equal(texts, written[:, : texts.shape[1]])
    assert loss == its_loss.item() and int(mask.sum()) == its_tokens
    assert fingerprint(student) == fingerprint(other) != before
    assert tuple(seconds) == benchmark.PARTS and min(seconds.values()) > 0


def test_the_products_are_those_of_every_matrix():
    for shape in (TINY.student.shape, PRESETS["cpu"].teacher.shape):
        made = benchmark.layers(shape, 5, 3)
        matrices = [p for p in Transformer(shape).parameters() if p.ndim == 2]
        assert sorted(tuple(weight.shape) for _, weight, _ in made) == sorted(
            tuple(matrix.shape)
            for matrix in matrices[1:]  # no product with the embedding
        )
        assert (
            [len(x) for x, *_ in made] == [len(g) for *_, g in made] == [5] * (len(made) - 1) + [3]
        )
    seconds = benchmark.products(*models(), TINY)()
    writing, training, whole = (seconds[stage] for stage in benchmark.STAGES)
    assert min(writing, training) > 0 and whole == pytest.approx(writing + training)


def answer(seconds):
    return {"seconds": dict(zip(benchmark.PARTS, seconds)), "loss": 0.5, "written": 9}


def test_parts_are_added_up_step_by_step():
    found = benchmark.summary(
        [answer([1, 2, 3, 4, 5, 6]), answer([2, 1, 3, 4, 5, 9]), answer([3, 3, 3, 4, 5, 5])]
    )
    assert found["least"] == {
        **dict(writing=1, student=1, teacher=3, loss=4, backward=5, optimiser=5),
        "training": 20,  # not 18, the sum of the least
        "whole step": 21,
    }
    assert found["median"]["training"] == 20 and found["median"]["whole step"] == 23
    assert found["seconds"]["whole step"] == [21, 24, 23] and found["loss"] == 0.5
    of_products = {"writing": 1, "training": 2, "whole step": 3.5}
    assert benchmark.summary([{"seconds": of_products}])["least"] == of_products


def test_measured_in_processes_of_their_own():
    """Small: every case in turns; a loop that fails leaves the others their figures."""
    script = """
import json, sys, types
import torch
from opd_toy.lm.bench import training
from opd_toy.lm.presets import PRESETS
def hugging_face(*of):
    if torch.get_num_threads() == 1:
        sys.exit("no such class")
    return training.lab(*of)
sys.modules["opd_toy.lm.bench.hugging_face"] = types.ModuleType("stub")
training.hugging_face, training.PRETRAINING, training.WARM_UP = hugging_face, 2, 1
training.versions = lambda: {"torch": "2", "transformers": "5"}
steps = []
found = training.measure(PRESETS["tiny"], 2, [1, 2], lambda *step: steps.append(step))
training.versions = lambda: {"torch": "2"}
alone = training.measure(PRESETS["tiny"], 1, [1], lambda *step: None)
print(json.dumps([found, steps, alone]))
"""
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, timeout=600
    )
    assert run.returncode == 0, run.stderr
    found, steps, alone = json.loads(run.stdout)
    assert steps == [[done + 1, 11] for done in range(11)]
    one, two = ({row["case"]: row for row in each["rows"]} for each in found["runs"])
    assert one["hugging_face"] == {
        "case": "hugging_face",
        "words": benchmark.CASES["hugging_face"],
        "failed": "hugging_face: no such class",
    }
    assert two["hugging_face"]["loss"] == pytest.approx(two["lab"]["loss"], rel=1e-6)
    for row in (one["lab"], two["lab"], two["hugging_face"]):
        assert row["seconds"].keys() == {*benchmark.PARTS, *benchmark.STAGES}
        assert all(len(each) == 2 and min(each) > 0 for each in row["seconds"].values())
        assert 0 < row["trained"] <= row["written"] == one["lab"]["written"]
    assert found["missing"] == [] and alone["missing"] == ["transformers"]
    assert [row["case"] for row in alone["runs"][0]["rows"]] == ["lab", "products"]


# --- the command --------------------------------------------------------------------------


def row(case, writing, training):
    """A case's figures of so many milliseconds; half of training is the student's logits."""
    least = {"writing": writing / 1e3, "training": training / 1e3}
    counts = {}
    least["whole step"] = (writing + training) / 1e3
    if case != "products":
        parts = dict.fromkeys(benchmark.PARTS[2:], training / 8e3)
        least |= parts | {"student": training / 2e3}
        counts = {"written": 1000, "trained": 900, "loss": 0.5}
    median = {name: 2 * value for name, value in least.items()}
    words = benchmark.CASES[case]
    return {"case": case, "words": words, "least": least, "median": median} | counts


def results(other=(60.0, 44.0), **changed):
    rows = [row("lab", 20, 40), row("hugging_face", *other), row("products", 4, 16)]
    runs = [{"threads": count, "rows": copy.deepcopy(rows)} for count in (1, 2)]
    found = {"processor": "P", "preset": "cpu", "batch": 64, "repeats": 3, "runs": runs}
    versions = {"torch": "2", "transformers": "5"}
    return found | {"versions": versions, "missing": []} | changed


def without_peer():
    found = results(missing=["transformers"])
    for run in found["runs"]:
        run["rows"].pop(1)
    return found


def test_tables():
    (title, rows), (other_title, _) = command.tables(results())
    assert (title, other_title) == ("milliseconds, 1 thread", "milliseconds, 2 threads")
    assert rows[0] == command.HEADER and {len(each) for each in rows} == {9}
    cells = {each[0]: each[1:] for each in rows[1:]}
    writing = ("20.00", "40.00", "60.00", "120.00", "3.00x", "4.00", "50,000", "16,667")
    assert cells["writing"] == writing
    assert cells["- student's logits"] == (
        *("20.00", "40.00", "22.00", "44.00", "1.10x", "-", "-", "-"),
    )
    assert cells["whole step"][-2:] == ("15,000", "8,654") and cells["whole step"][5] == "20.00"
    alone = command.tables(without_peer())[0][1]
    assert alone[1] == ("writing", "20.00", "40.00", "-", "-", "-", "4.00", "50,000", "-")


def test_goals():
    goals = command.goals(results())
    assert [(goal["threads"], goal["stage"], goal["met"]) for goal in goals] == [
        (count, stage, stage != "training") for count in (1, 2) for stage in command.STAGES
    ]
    writing, training, whole = goals[:3]
    assert [writing["times"], training["times"], whole["times"]] == pytest.approx(
        [3, 1.1, 104 / 60]
    )
    assert command.goal_text(writing) == (
        "met: writing, 1 thread: at least 1.5 times as fast as the Hugging Face loop: 3.00 times"
    )
    assert command.goal_text(training).endswith(
        "1.10 times; the matrix products, the same for both, take 16.00 ms alone, 40% of the "
        "lab's 40.00 ms; above them are 24.00 ms in the lab and 28.00 ms in the loop"
    )
    assert command.goals(results(preset="tiny")) == command.goals(without_peer()) == []
    assert command.goals(results(other=(30.0, 59.9)))[1]["met"] is False
    assert command.goals(results(other=(30.0, 60.0)))[1]["met"] is True
    assert not command.goals(results(other=(20.0, 40.0)))[2]["met"]
    assert "NOT met: whole step, 2 threads" in command.as_text(results(other=(20.0, 40.0)))


def test_what_is_said_of_the_losses_and_of_a_loop_that_fails():
    found = results()
    assert "the same loss: 0.500000" in command.as_text(found)
    found["runs"][0]["rows"][1]["loss"] = 0.51
    assert "NOT the same loss: 0.500000 and 0.510000" in command.as_text(found)
    for run in found["runs"]:
        run["rows"][1] = {"case": "hugging_face", "words": "a loop", "failed": "no such class"}
    text = command.as_text(found)
    assert "no such class" in text and "the same loss" not in text and " met:" not in text


def test_the_command_records_and_shows(tmp_path, monkeypatch, capsys):
    jobs = []

    def measure(job, *modules, progress):
        jobs.append(job)
        return without_peer()

    monkeypatch.setattr(command, "measure", measure)
    main(["bench", "--training", "--directory", str(tmp_path)])
    shown = capsys.readouterr().out
    assert "Not here: transformers. `make peers`" in shown and "student's logits" in shown
    main(["bench", "--training", "--quick", "--threads", "1", "--directory", str(tmp_path)])
    shown = capsys.readouterr().out
    assert [(job["preset"], job["repeats"], job["counts"]) for job in jobs] == [
        ("cpu", command.REPEATS, sorted({1, jobs[0]["threads"]})),
        ("tiny", 3, [1]),
    ]
    main(["bench", "--training", "--show", "--directory", str(tmp_path)])
    assert capsys.readouterr().out == shown
    main(["bench", "--training", "--show", "--json", "--directory", str(tmp_path)])
    assert json.loads(capsys.readouterr().out)["missing"] == ["transformers"]
    kept = json.loads((tmp_path / command.RECORD).read_text())["provenance"]
    assert kept["modules"] == command.MODULES


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--repeats", "0"], "repeats is 0; give a whole number"),
        (["--threads", "-1"], "threads is -1; give a whole number"),
        (["--show", "--directory", "nowhere"], "which holds no training-benchmark.json"),
    ],
)
def test_errors(arguments, message, capsys):
    with pytest.raises(SystemExit):
        main(["bench", "--training", *arguments])
    assert message in capsys.readouterr().err
