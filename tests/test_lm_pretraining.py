"""The lab's teacher and student: made from a seed, taken up after a kill, kept, made anew."""

import dataclasses
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from opd_toy.lm import presets, pretraining
from opd_toy.lm.model import Shape, Transformer, load, notes, response_mask, save, uniforms
from opd_toy.lm.presets import PRESETS, Distillation, Preset, Recipe
from opd_toy.lm.pretraining import corpus, pretrain, rate
from opd_toy.lm.tasks import Sums, is_test
from opd_toy.records.checkpoints import Stop

TASK = Sums(terms=2, digits=1)
SHAPE = Shape(TASK.vocabulary, 16, 2, 2, TASK.prompt_length + TASK.length)
SMALL = Preset(
    "small",
    TASK,
    Recipe(SHAPE, steps=12, batch=16, rate=1e-2, seed=0),
    Recipe(SHAPE, steps=6, batch=8, rate=1e-2, seed=1),
    Distillation(
        steps=2, batch=8, rate=1e-3, group=4, evaluate_every=1, evaluation_prompts=8
    ),
    seeds=(1,),
)  # fmt: skip


def equal(a, b):
    return all(x.equal(y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


# --- one step ----------------------------------------------------------------------------


def test_the_loss_is_the_cross_entropy_of_the_response_alone():
    model, texts = Transformer(SHAPE).double(), corpus(TASK, 6, 1)
    losses = F.cross_entropy(
        model(texts)[:, :-1].flatten(0, 1), texts[:, 1:].flatten(), reduction="none"
    ).view(6, -1)
    counts = torch.cat(
        [
            torch.zeros(6, TASK.prompt_length - 1),
            response_mask(texts, TASK.prompt_length, TASK.end),
        ],
        1,
    )
    assert 0 < counts.sum() < counts.numel() and counts[:, TASK.prompt_length - 1 :].eq(0).any(), (
        "the prompt and the padding do not count"
    )
    due = (losses * counts).sum() / counts.sum()
    torch.testing.assert_close(pretraining._loss(model, TASK, texts, None), due, rtol=0, atol=1e-13)


def test_training_is_plain_adamw(monkeypatch):
    """Five steps against torch's own loss, optimizer and clipping, in a loop written out."""
    recipe = dataclasses.replace(SMALL.teacher, steps=5)
    monkeypatch.setattr(
        pretraining, "Transformer", lambda *settings: Transformer(*settings).double()
    )
    model = Transformer(SHAPE, 0).double()
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.01)
    for step in range(5):
        texts = corpus(TASK, 16, 0, "teacher", step)
        labels = texts.masked_fill(
            torch.cat(
                [
                    torch.zeros(16, TASK.prompt_length),
                    response_mask(texts, TASK.prompt_length, TASK.end),
                ],
                1,
            )
            == 0,
            -100,
        )
        optimizer.zero_grad()
        F.cross_entropy(model(texts)[:, :-1].flatten(0, 1), labels[:, 1:].flatten()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = rate(recipe, step)
        optimizer.step()
    for a, b in zip(pretrain(recipe, TASK, "teacher").parameters(), model.parameters()):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


def test_a_model_is_made_as_its_preset_says(tmp_path, monkeypatch):
    asked, model = [], Transformer(SHAPE)
    note = lambda *given, **options: asked.append((given, options)) or model
    monkeypatch.setattr(pretraining, "pretrain", note)
    made = dataclasses.replace(SMALL, autocast="bfloat16")
    pretraining.student(made, tmp_path, "report", "meta", "say")
    [(given, options)] = asked
    checkpoint = options.pop("checkpoint")
    assert given == (SMALL.student, TASK, "student") and (checkpoint.say, checkpoint.path) == (
        "say", tmp_path / "small-student.pt"
    )  # fmt: skip
    assert options == {"report": "report", "device": "meta", "autocast": "bfloat16"}
    assert checkpoint.settings[1:] == [str(torch.__version__), "meta"]
    again = pretraining.student(made, tmp_path, device="meta")
    assert again.head.weight.is_meta and len(asked) == 1


def test_gradients_are_clipped_at_one_and_the_last_step_is_kept(monkeypatch):
    clipped, clip = [], torch.nn.utils.clip_grad_norm_
    note = lambda weights, *of: clipped.append(of) or clip(weights, *of)
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", note)
    kept = []
    note = lambda whole, last: kept.append((whole["iteration"], last))
    checkpoint = SimpleNamespace(load=lambda device: None, after=note)
    pretrain(dataclasses.replace(SMALL.student, steps=2), TASK, checkpoint=checkpoint)
    assert clipped == [(1.0,)] * 2 and kept == [(1, False), (2, True)]


def test_the_learning_rate_rises_then_falls_to_nothing():
    recipe = dataclasses.replace(SMALL.teacher, steps=100, rate=0.5)
    rates = [rate(recipe, step) for step in range(100)]
    assert rates[:5] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    assert rates[4:] == sorted(rates[4:], reverse=True) and 0 < rates[-1] < 2e-3 * 0.5
    assert rates[5 + 47] == pytest.approx(0.25, abs=1e-3)
    few = dataclasses.replace(recipe, steps=4, rate=1.0)  # one step of warm-up at least
    assert [rate(few, step) for step in range(4)] == pytest.approx(
        [1, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2]
    )


def test_the_corpus_holds_no_sum_of_the_tests():
    texts = corpus(SMALL.task, 500, 3)
    assert (
        not is_test(TASK.read_terms(texts).sort(1).values).any()
        and TASK.workings(texts).ge(0).all()
    )
    assert corpus(TASK, 500, 3).equal(texts) and not corpus(TASK, 500, 4).equal(texts)
    shares = TASK.workings(corpus(TASK, 4000, 5)).bincount() / 4000
    assert shares.tolist() == pytest.approx(TASK.order_probabilities.tolist(), abs=0.03)


# --- teachers and students kept ----------------------------------------------------------


def test_a_model_is_made_once_and_from_its_seed_alone(tmp_path):
    torch.manual_seed(1)
    heard, steps = [], []
    first = pretraining.teacher(
        SMALL,
        tmp_path / "a",
        say=heard.append,
        report=lambda done, total: steps.append((done, total)),
    )
    assert steps == [(step, 12) for step in range(1, 13)] and not heard
    again = pretraining.teacher(
        SMALL, tmp_path / "a", say=heard.append, report=lambda *_: pytest.fail("trained again")
    )
    torch.manual_seed(2)
    elsewhere = pretraining.teacher(SMALL, tmp_path / "b", say=heard.append)
    assert equal(first, again) and equal(first, elsewhere) and not heard
    student = pretraining.student(SMALL, tmp_path / "a", say=heard.append)
    assert not equal(first, student) and equal(
        load(tmp_path / "a" / "small-student.safetensors"), student
    )
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [
        "small-student.safetensors",
        "small-teacher.safetensors",
    ], "no checkpoint is left"


def test_a_model_of_another_recipe_or_code_is_made_anew_with_a_word(tmp_path, monkeypatch):
    def made(preset):
        heard = []
        model = pretraining.teacher(preset, tmp_path, say=heard.append)
        return model, heard

    first, _ = made(SMALL)
    path = tmp_path / "small-teacher.safetensors"
    others = [
        dataclasses.replace(SMALL, teacher=dataclasses.replace(SMALL.teacher, seed=3)),
        dataclasses.replace(SMALL, teacher=dataclasses.replace(SMALL.teacher, steps=3)),
        dataclasses.replace(SMALL, task=Sums(terms=2, digits=1, base=9)),
        dataclasses.replace(SMALL, autocast="bfloat16"),
    ]
    for other in others:
        assert equal(made(SMALL)[0], first)
        model, heard = made(other)
        assert heard == [
            f"{path} was made by another recipe or other code; making it anew"
        ] and not equal(model, first)
        assert made(other)[1] == []
    assert equal(made(SMALL)[0], first)
    later = dataclasses.replace(
        SMALL, seeds=(5,), distillation=dataclasses.replace(SMALL.distillation, steps=9)
    )
    assert made(later)[1] == [], "what comes after does not matter to a teacher"
    monkeypatch.setattr(pretraining, "MODULES", ["opd_toy.lm.model"])
    assert "other code" in made(SMALL)[1][0]


def test_a_torn_or_foreign_file_is_made_anew_with_a_word(tmp_path):
    path = tmp_path / "small-teacher.safetensors"
    first = pretraining.teacher(SMALL, tmp_path)
    path.write_bytes(path.read_bytes()[:500])
    heard = []
    assert equal(pretraining.teacher(SMALL, tmp_path, say=heard.append), first)
    assert (
        len(heard) == 1
        and "no whole safetensors file" in heard[0]
        and heard[0].endswith("making it anew")
    )
    save(path, first)
    assert (
        equal(pretraining.teacher(SMALL, tmp_path, say=heard.append), first)
        and "other recipe" in heard[1]
    )
    assert notes(path)["recipe"]


def test_a_killed_training_goes_on_to_the_same_weights(tmp_path):
    """kill -9 in the middle of training, in a process of its own; the next call takes it up."""
    script = """
import functools, os, signal, sys, torch
from opd_toy.records.checkpoints import Stop
from opd_toy.lm import pretraining
from tests.test_lm_pretraining import SMALL
torch.set_num_threads(1)
pretraining.Checkpoint = functools.partial(pretraining.Checkpoint, seconds=0.0)
def report(done, total):
    if done == 7:
        os.kill(os.getpid(), signal.SIGKILL)
pretraining.teacher(SMALL, sys.argv[1], report=report)
"""
    killed = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        cwd=pretraining.provenance.ROOT,
        capture_output=True,
        text=True,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    heard, steps = [], []
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        resumed = pretraining.teacher(
            SMALL, tmp_path, say=heard.append, report=lambda done, total: steps.append(done)
        )
        whole = pretrain(SMALL.teacher, TASK, "teacher")
    finally:
        torch.set_num_threads(threads)
    assert (
        steps == [8, 9, 10, 11, 12] and len(heard) == 1 and heard[0].endswith("after iteration 7")
    )
    assert equal(resumed, whole)
    assert [path.name for path in tmp_path.iterdir()] == ["small-teacher.safetensors"]


def test_a_stop_between_steps_keeps_what_is_done(tmp_path, monkeypatch):
    def stop(done, total):
        if done == 4:
            signal.raise_signal(signal.SIGTERM)

    heard = []
    with pytest.raises(KeyboardInterrupt), Stop():
        pretraining.teacher(SMALL, tmp_path, report=stop, say=heard.append)
    assert heard == ["stopped by SIGTERM; the same command goes on after iteration 5"]
    resumed = pretraining.teacher(SMALL, tmp_path, say=heard.append)
    assert equal(resumed, pretrain(SMALL.teacher, TASK, "teacher"))


# --- presets -----------------------------------------------------------------------------


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_presets_are_of_one_piece(preset):
    task, distillation = preset.task, preset.distillation
    for recipe in (preset.teacher, preset.student):
        assert recipe.shape.vocabulary == task.vocabulary
        assert recipe.shape.length >= task.prompt_length + task.length - 1
        assert recipe.steps > 0 and recipe.batch > 0 and 0 < recipe.rate < 0.1
    assert preset.student.shape.parameters < preset.teacher.shape.parameters
    assert preset.student.seed != preset.teacher.seed
    assert distillation.batch % distillation.group == 0 and distillation.group > 1
    assert distillation.steps % distillation.evaluate_every == 0
    assert len(set(preset.seeds)) == len(preset.seeds) > 1
    assert preset.autocast in (None, "bfloat16") and preset.workers >= 1
    assert PRESETS[preset.name] is preset and hash(preset)


def test_the_gpu_preset_is_as_large_as_its_docstring_counts():
    gpu = PRESETS["gpu"]
    positions, responses = gpu.task.prompt_length + gpu.task.length - 1, gpu.task.length
    counts = []
    for recipe in (gpu.teacher, gpu.student):
        model = Transformer(recipe.shape)
        weights, head = (
            sum(parameter.numel() for parameter in model.parameters()),
            model.head.weight.numel(),
        )
        blocks = weights - 2 * head
        text = 6 * (blocks * positions + head * responses)
        counts.append((weights, blocks, head, text, text * recipe.batch * recipe.steps))
    (weights, blocks, head, text, total), (smaller, *_, student_text, student_total) = counts
    step = gpu.distillation.batch * (
        text / 3 + student_text * 4 / 3
    )  # the teacher reads, the student draws and learns
    said = " ".join(presets.__doc__.split())
    for words in (
        f"its teacher has {weights / 1e6:.1f} million weights, {blocks / 1e6:.1f} of them in the "
        f"blocks and {head / 1e6:.1f} in the head, its student {smaller / 1e6:.1f}",
        f"A text is {positions} positions in the blocks and {responses} in the head, so the "
        f"teacher takes {text / 1e9:.0f} GFLOP a text, {total / 1e15:.0f} PFLOP",
        f"{gpu.teacher.steps} steps of {gpu.teacher.batch} texts, and the student "
        f"{student_text / 1e9:.1f} and {student_total / 1e15:.1f} in all",
        f"the teacher is {total / 300e12:.0f} seconds of products. A distillation step "
        f"({gpu.distillation.batch} texts) is {step / 1e12:.1f} TFLOP, {step / 300e9:.0f} ms",
    ):
        assert words in said
    assert gpu.task.vocabulary == 32768 and gpu.task.base == 100 and gpu.autocast == "bfloat16"
    assert gpu.task.demonstrations(gpu.task.prompts(4, 1), uniforms(1, shape=(4,))).max() < 106


def test_a_small_transformer_learns_the_task_of_the_gpu_preset():
    """Its base, terms and digits; vocabulary and model cut down to a moment, in bfloat16."""
    task = dataclasses.replace(PRESETS["gpu"].task, vocabulary=128)
    recipe = Recipe(
        Shape(128, 32, 2, 4, task.prompt_length + task.length), steps=30, batch=16, rate=1e-2
    )
    texts = corpus(task, 64, "held out")
    models = Transformer(recipe.shape, 0), pretrain(recipe, task, "teacher", autocast="bfloat16")
    before, after = (pretraining._loss(model, task, texts, None).item() for model in models)
    assert after < before - 0.5
