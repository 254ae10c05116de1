"""The lab's methods against plain torch; the loop killed, split and in parts; its command."""

import contextlib
import copy
import dataclasses
import io
import json
import math
import os
import random
import re
import signal
import subprocess
import sys

import pytest
import torch

from opd_toy.__main__ import main
from opd_toy.commands import train
from opd_toy.lm import methods, presets, pretraining, training
from opd_toy.lm.methods import METHODS, Batch, find_method
from opd_toy.lm.model import load, response_mask, sample, uniforms
from opd_toy.lm.training import (
    distill,
    fingerprint,
    loss_and_gradient,
    rows_of_rank,
    student_path,
)
from tests.conftest import ROOT
from tests.lm_training_runs import KILLED, RANKS, SMALL, TASK, in_float64

PROMPT = TASK.prompt_length
TEACHER_TEXTS = {"sft", "seqkd", "off_policy_reverse_kl"}
GROUPED = {"opd_reward", "rlvr"}
QUIET = {"say": lambda text: None}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where a teacher and a starting student lie."""
    folder = tmp_path_factory.mktemp("lab")
    pretraining.teacher(SMALL, folder), pretraining.student(SMALL, folder)
    return folder


@pytest.fixture(scope="module")
def pair(folder):
    return pretraining.teacher(SMALL, folder), pretraining.student(SMALL, folder)


def changed(**settings):
    return dataclasses.replace(
        SMALL, distillation=dataclasses.replace(SMALL.distillation, **settings)
    )


def but_for_seconds(curve):
    return {name: values for name, values in curve.items() if name != "seconds"}


def process(*arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-m", *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


# --- the methods -------------------------------------------------------------------------


def returns(cost, mask, gamma):
    """sum over valid u >= t of gamma^(u - t) cost_u, written out."""
    found = torch.zeros_like(cost)
    for b, row in enumerate(mask):
        valid = row.nonzero().flatten().tolist()
        for i, t in enumerate(valid):
            found[b, t] = sum(gamma**n * cost[b, u] for n, u in enumerate(valid[i:]))
    return found


def definition(name, z, y, tokens, mask, reward, group):
    """A function of each position (B, T), in plain torch, whose summed gradient is the method's."""
    log_p, log_q = z.log_softmax(-1), y.log_softmax(-1)
    p, q = log_p.exp(), log_q.exp()
    drawn = log_p.gather(-1, tokens[..., None])[..., 0]
    cost = (drawn - log_q.gather(-1, tokens[..., None])[..., 0]).detach()
    reverse = (p * (log_p - log_q)).sum(-1)
    groups = reward.view(-1, group)
    advantage = (
        (groups - groups.mean(1, keepdim=True)) / (groups.std(1, keepdim=True) + 1e-4)
    ).view(-1, 1)
    half = (p + q) / 2
    top = y.topk(4, -1).indices
    top_p, top_q = z.gather(-1, top).log_softmax(-1), y.gather(-1, top).log_softmax(-1)
    return {
        "sft": -drawn,
        "seqkd": (q * (log_q - log_p)).sum(-1),
        "off_policy_reverse_kl": reverse,
        "on_policy_forward_kl": (q * (log_q - log_p)).sum(-1),
        "gkd": reverse,
        "jsd": (p * (log_p - half.log()) + q * (log_q - half.log())).sum(-1) / 2,
        "pg_0": returns(cost, mask, 0) * drawn,
        "pg_0.5": returns(cost, mask, 0.5) * drawn,
        "pg_0.9": returns(cost, mask, 0.9) * drawn,
        "pg_1": returns(cost, mask, 1) * drawn,
        "pg_baseline": (cost - reverse.detach()) * drawn,
        "top_k": (top_p.exp() * (top_p - top_q)).sum(-1),
        "opd_reward": (cost - methods.ALPHA * advantage) * drawn,
        "rlvr": -advantage * drawn,
    }[name]


@pytest.mark.parametrize("name", METHODS)
def test_each_method_has_the_gradient_of_its_definition(name):
    generator = torch.Generator().manual_seed(0)
    batch, length, vocabulary, group = 8, 5, 16, 4
    z, y = 2 * torch.randn(2, batch, length, vocabulary, dtype=torch.float64, generator=generator)
    z.requires_grad_()
    tokens = torch.randint(vocabulary, (batch, length), generator=generator)
    mask = torch.arange(length) < torch.tensor([5, 1, 3, 2, 5, 4, 1, 5])[:, None]
    reward = torch.tensor([1.0, 0, 0, 1, 0, 0, 0, 1], dtype=torch.float64)
    method = find_method(name)
    assert method.texts == (
        "teacher" if name in TEACHER_TEXTS else "student"
    ) and method.grouped == (name in GROUPED)
    seen = Batch(
        z,
        y if method.teacher else None,
        tokens,
        mask,
        reward if method.grouped else None,
        group,
        torch.tensor(100.0),
    )
    (ours,) = torch.autograd.grad(method.loss(seen), z)
    (plain,) = torch.autograd.grad(
        (definition(name, z, y, tokens, mask, reward, group) * mask).sum() / 100, z
    )
    torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-15)
    assert (ours[~mask] == 0).all() and ours[mask].abs().sum() > 0


def test_the_baseline_is_the_exact_kl():
    z, y = torch.randn(2, 3, 4, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    plain = (z.softmax(-1) * (z.log_softmax(-1) - y.log_softmax(-1))).sum(-1)
    torch.testing.assert_close(methods.position_kl(z, y), plain, rtol=1e-13, atol=0)
    found = methods.position_kl(z.bfloat16().requires_grad_(), y.bfloat16())
    assert found.dtype == torch.float32 and not found.requires_grad


def test_an_unknown_method_is_answered_with_all_names():
    with pytest.raises(ValueError, match="method is 'opd'; give one of " + ", ".join(METHODS)):
        find_method("opd")


@pytest.mark.parametrize("name", METHODS)
def test_the_loss_sees_the_tokens_behind_the_prompt(name, pair):
    """Against a plain forward pass of whole texts; nothing is computed that is not asked for."""
    teacher, student = (copy.deepcopy(model).double() for model in pair)
    prompts = TASK.prompts(2, "loss").repeat_interleave(4, 0)
    texts = sample(
        teacher, prompts, uniforms(0, "loss", shape=(8, TASK.length)), TASK.end, TASK.pad
    )
    texts[0, PROMPT] = TASK.end
    texts[0, PROMPT + 1 :] = TASK.pad
    loss, gradient = loss_and_gradient(
        name, student, teacher if METHODS[name].teacher else None, TASK, texts, group=4
    )
    z, y, mask = (
        student(texts[:, :-1])[:, PROMPT - 1 :],
        teacher(texts[:, :-1])[:, PROMPT - 1 :].detach(),
        response_mask(texts, PROMPT, TASK.end),
    )
    plain = (
        definition(name, z, y, texts[:, PROMPT:], mask, TASK.rewards(texts), 4) * mask
    ).sum() / mask.sum()
    wanted = torch.cat(
        [part.flatten() for part in torch.autograd.grad(plain, list(student.parameters()))]
    )
    torch.testing.assert_close(gradient, wanted, rtol=1e-9, atol=1e-12)
    assert math.isfinite(loss) and all(
        parameter.grad is None for parameter in [*teacher.parameters(), *student.parameters()]
    )


# --- the loop ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["seqkd", "gkd", "rlvr"])
def test_the_loop_is_adamw_on_fresh_texts(name, pair, folder, tmp_path):
    """Five steps in float64 against a loop written out here."""
    teacher, student = (copy.deepcopy(model).double() for model in pair)
    settings, group = SMALL.distillation, 4 if name in GROUPED else 1
    distill(name, SMALL, 7, teacher, student, folder=tmp_path, steps=5, **QUIET)
    trained = load(student_path(tmp_path, name, SMALL, 7, 5)).state_dict()
    first, second = (
        [torch.zeros_like(weight) for weight in student.parameters()] for _ in range(2)
    )
    for step in range(1, 6):
        prompts = TASK.prompts(settings.batch // group, 7, "distillation", step).repeat_interleave(
            group, 0
        )
        numbers = uniforms(7, "distillation", step, shape=(settings.batch, TASK.length))
        texts = sample(
            teacher if name in TEACHER_TEXTS else student, prompts, numbers, TASK.end, TASK.pad
        )
        loss, gradient = loss_and_gradient(name, student, teacher, TASK, texts, group=group)
        gradient = gradient / max(1.0, gradient.norm().item())
        rate = settings.rate * min(1.0, step / 10)
        for weight, part, m, v in zip(
            student.parameters(),
            gradient.split([w.numel() for w in student.parameters()]),
            first,
            second,
        ):
            part = part.view_as(weight)
            m.mul_(0.9).add_(part, alpha=0.1), v.mul_(0.95).addcmul_(part, part, value=0.05)
            weight.data -= rate * (m / (1 - 0.9**step)) / ((v / (1 - 0.95**step)).sqrt() + 1e-8)
    for key, weight in student.state_dict().items():
        torch.testing.assert_close(
            trained[key], weight, rtol=0, atol=3e-7
        )  # clipping adds 1e-6 to the norm


def test_the_curve_starts_at_the_start_and_counts_tokens(pair, tmp_path):
    teacher, student = pair
    before, calls = fingerprint(student), []
    curve = distill(
        "pg_0",
        SMALL,
        1,
        teacher,
        student,
        folder=tmp_path,
        report=lambda done, steps: calls.append((done, steps)),
        steps=6,
        **QUIET,
    )
    assert (
        curve["steps"] == [0, 4, 6]
        and curve["memory"] is None
        and calls == [(i, 6) for i in range(1, 7)]
    )
    assert (
        curve["seconds"][0] == curve["tokens"][0] == 0
        and curve["seconds"] == sorted(curve["seconds"])
        and curve["seconds"][2] > curve["seconds"][1] > 0
    )
    assert fingerprint(student) == before  # the caller's is left as it was
    trained = load(student_path(tmp_path, "pg_0", SMALL, 1, 6))
    for place, model in ((0, student), (2, trained)):
        assert {
            name: curve[name][place]
            for name in curve.keys() - {"steps", "tokens", "seconds", "memory"}
        } == measured(model, teacher)
    texts = sample(
        student,
        TASK.prompts(16, 1, "distillation", 1),
        uniforms(1, "distillation", 1, shape=(16, TASK.length)),
        TASK.end,
        TASK.pad,
    )
    one = distill("pg_0", SMALL, 1, teacher, student, folder=tmp_path, steps=1, **QUIET)
    assert one["tokens"] == [0, int(response_mask(texts, PROMPT, TASK.end).sum())]


def measured(student, teacher):
    state = {"iteration": 0, "tokens": 0, "seconds": 0, "curve": {}}
    run = training.Run(
        "gkd", SMALL, 1, 1, slice(0), 1, torch.device("cpu"), teacher, student, None, None
    )
    training._measure(run, state)
    return {
        name: values[0]
        for name, values in state["curve"].items()
        if name not in ("steps", "tokens", "seconds")
    }


def test_a_finished_run_is_read_and_not_trained_again(pair, tmp_path):
    run = lambda **more: distill("gkd", SMALL, 1, *pair, folder=tmp_path, steps=2, **more)
    first = run(**QUIET)
    weights = student_path(tmp_path, "gkd", SMALL, 1, 2)
    made = weights.stat().st_mtime_ns
    assert (
        run(report=lambda done, steps: pytest.fail("trained again"), **QUIET) == first
        and weights.stat().st_mtime_ns == made
    )
    whole, said = weights.read_bytes(), []
    trained = fingerprint(load(weights))
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))  # of another run, say
    assert but_for_seconds(run(say=said.append)) == but_for_seconds(first)
    assert fingerprint(
        load(weights)
    ) == trained and "is not what that run left; starting anew" in " ".join(said)


@pytest.mark.parametrize("what", ["settings", "autocast", "code", "torn"])
def test_a_checkpoint_of_something_else_is_not_taken_up(what, pair, tmp_path, monkeypatch):
    run = lambda preset=SMALL, **more: distill(
        "sft", preset, 1, *pair, folder=tmp_path, steps=2, **more
    )
    first, said, preset = run(**QUIET), [], SMALL
    if what == "settings":
        preset = changed(rate=1e-2)
    elif what == "autocast":
        preset = dataclasses.replace(SMALL, autocast="bfloat16")
    elif what == "code":
        monkeypatch.setattr(training.provenance, "source_hash", lambda patterns: "changed")
    else:
        path = student_path(tmp_path, "sft", SMALL, 1, 2).with_suffix(".pt")
        path.write_bytes(path.read_bytes()[:100])
    steps = []
    again = run(preset, say=said.append, report=lambda done, total: steps.append(done))
    assert steps == [1, 2] and "starting anew" in " ".join(said)
    assert (but_for_seconds(again) == but_for_seconds(first)) == (what in ("code", "torn"))


def test_killed_it_comes_to_the_same_curve_and_weights(folder, pair):
    """kill -9 at a moment drawn anew each time; the run keeps a checkpoint at each step."""
    method, seed, steps = KILLED
    curve = distill(method, SMALL, seed, *pair, folder=folder / "whole", steps=steps, **QUIET)
    path = student_path(folder / "killed", method, SMALL, seed, steps)
    run, until = process("tests.lm_training_runs", "killed", folder), random.randint(5, steps - 10)
    while int(run.stdout.readline()) < until:
        pass
    run.kill()
    run.communicate()
    assert run.returncode == -signal.SIGKILL
    kept = torch.load(path.with_suffix(".pt"))["state"]
    assert until - 1 <= kept["iteration"] < steps and not path.exists()
    said, reported = [], []
    again = distill(
        method,
        SMALL,
        seed,
        *pair,
        folder=folder / "killed",
        steps=steps,
        report=lambda done, steps: reported.append(done),
        say=said.append,
    )
    assert (
        reported[0] == kept["iteration"] + 1 and f"after iteration {kept['iteration']}" in said[0]
    )
    assert but_for_seconds(again) == but_for_seconds(curve)
    assert fingerprint(load(path)) == fingerprint(
        load(student_path(folder / "whole", method, SMALL, seed, steps))
    )
    done = len(kept["curve"]["seconds"])
    assert (
        again["seconds"][:done] == kept["curve"]["seconds"]
        and again["seconds"][done] > kept["seconds"] >= again["seconds"][done - 1]
    )  # they add up over the kill


def test_a_full_disk_stops_nothing_but_the_end(pair, tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    said = []
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        first = distill(
            "gkd", SMALL, 1, *pair, folder=tmp_path, steps=3, seconds=0, say=said.append
        )
    assert len(said) == 3 and all(
        "No space left on device" in text and "the run goes on" in text for text in said
    )
    assert but_for_seconds(
        distill("gkd", SMALL, 1, *pair, folder=tmp_path / "free", steps=3, **QUIET)
    ) == but_for_seconds(first)


def test_micro_batches_have_the_same_gradient(folder, tmp_path):
    for method in ("gkd", "opd_reward"):
        whole, parts = (
            in_float64(folder, tmp_path / str(count), method, micro_batches=count)
            for count in (1, 4)
        )
        assert max((whole[key] - parts[key]).abs().max() for key in whole) < 1e-10
        assert any((whole[key] != parts[key]).any() for key in whole)  # it was taken in parts


def test_bfloat16_follows_float32(pair, tmp_path):
    """One step's gradient points the same way, a few steps stay finite and near."""
    teacher, student = pair
    texts = sample(
        student,
        TASK.prompts(16, "bf16"),
        uniforms(0, "bf16", shape=(16, TASK.length)),
        TASK.end,
        TASK.pad,
    )
    for name in METHODS:
        if name in GROUPED:
            continue
        full, half = (
            loss_and_gradient(name, student, teacher, TASK, texts, autocast=autocast)[1]
            for autocast in (None, "bfloat16")
        )
        assert half.dtype == torch.float32 and not torch.equal(full, half), name
        assert (
            torch.cosine_similarity(full, half, 0) > 0.99
            and abs(half.norm() / full.norm() - 1) < 0.1
        ), name
    mixed = dataclasses.replace(SMALL, autocast="bfloat16")
    curves = [
        distill("gkd", preset, 1, teacher, student, folder=tmp_path / str(i), steps=4, **QUIET)
        for i, preset in enumerate((SMALL, mixed))
    ]
    assert all(
        math.isfinite(value)
        for name, values in curves[1].items()
        if name != "memory"
        for value in values
        if value is not None
    )
    weights = [
        torch.cat(
            [
                w.flatten()
                for w in load(student_path(tmp_path / str(i), "gkd", SMALL, 1, 4))
                .state_dict()
                .values()
            ]
        )
        for i in (0, 1)
    ]
    start = torch.cat([w.flatten() for w in student.state_dict().values()])
    assert (
        weights[1].dtype == torch.float32
        and (weights[0] - weights[1]).norm() < 0.5 * (weights[0] - start).norm()
    )


def test_what_is_not_finite_stops_the_run_and_is_named(pair, tmp_path, monkeypatch):
    calls = []

    def breaks(batch):
        calls.append(1)
        return METHODS["sft"].loss(batch) * (math.nan if len(calls) == 6 else 1.0)

    monkeypatch.setitem(METHODS, "pg_1", dataclasses.replace(METHODS["sft"], loss=breaks))
    with pytest.raises(
        training.NotFinite,
        match=r"pg_1, step 6: the gradient is not finite \(its norm is nan, the loss nan\); "
        "what was reached by step 5 is kept in .*pg_1.*pt",
    ) as stopped:
        distill("pg_1", SMALL, 1, *pair, folder=tmp_path, **QUIET)
    assert stopped.value.curve["steps"] == [0, 4]
    assert math.isfinite(
        sum(distill("pg_1", SMALL, 1, *pair, folder=tmp_path, **QUIET)["tokens"])
    )  # it goes on from step 5
    assert len(calls) == 6 + 3
    kept = load(student_path(tmp_path, "pg_1", SMALL, 1))
    assert all(weight.isfinite().all() for weight in kept.state_dict().values())


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"steps": -1}, "steps is -1; give a whole number (an int) of at least 0"),
        ({"seed": 1.5}, "seed is 1.5; give a whole number (an int) of at least 0"),
        ({"method": "opd"}, "method is 'opd'; give one of sft, seqkd"),
        (
            {"micro_batches": 3},
            "batch is 16, which cannot be split among 1 processes with 3 micro-batches each in "
            "whole groups of 1; give a multiple of 3",
        ),
        ({"micro_batches": 0}, "micro_batches is 0; give a whole number (an int) of at least 1"),
        ({"method": "rlvr", "micro_batches": 8}, "in whole groups of 4; give a multiple of 32"),
    ],
)
def test_wrong_settings_are_named(arguments, message, pair, tmp_path):
    arguments = {"method": "gkd", "seed": 1} | arguments
    with pytest.raises(ValueError, match=re.escape(message)):
        distill(
            arguments.pop("method"),
            SMALL,
            arguments.pop("seed"),
            *pair,
            folder=tmp_path,
            **arguments,
        )


# --- several processes -------------------------------------------------------------------


@pytest.fixture(scope="module")
def two(folder):
    """What two processes print and say; their weights lie below the folder."""
    run = process(
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "-m",
        "tests.lm_training_runs",
        "ranks",
        folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    try:
        printed, said = run.communicate(timeout=300)
    finally:
        run.terminate()  # two that wait for each other would do so for long
    assert run.returncode == 0, said
    return printed, said


@pytest.mark.parametrize("method", RANKS)
def test_two_processes_equal_one(method, folder, two):
    """Their texts have different lengths, so a mean of the ranks' means would be another."""
    one = in_float64(folder, folder / "one", method)
    for place in ["two", "two-in-parts"] if method == "gkd" else ["two"]:
        both = load(student_path(folder / place, method, SMALL, 3, 4)).state_dict()
        assert max((one[key] - both[key]).abs().max() for key in one) < 1e-10
    start = load(folder / "tiny-student.safetensors").double()
    assert all((one[key] != weight).any() for key, weight in start.state_dict().items())
    writer = load(folder / "tiny-teacher.safetensors").double() if method == "sft" else start
    group = 4 if method in GROUPED else 1
    texts = sample(
        writer,
        TASK.prompts(16 // group, 3, "distillation", 1).repeat_interleave(group, 0),
        uniforms(3, "distillation", 1, shape=(16, TASK.length)),
        TASK.end,
        TASK.pad,
    )
    tokens = response_mask(texts, PROMPT, TASK.end).sum(1)
    assert tokens[:8].sum() != tokens[8:].sum()


def test_two_processes_keep_one_curve_and_name_a_batch_they_cannot_share(folder, two):
    for place, ranks in (("one", 1), ("two", 2)):
        in_float64(folder, folder / "one", "gkd")
        kept = torch.load(student_path(folder / place, "gkd", SMALL, 3, 4).with_suffix(".pt"))
        assert kept["settings"][6] == ranks
        curve = kept["state"]["curve"]
        assert curve["steps"] == [0, 4]
        if ranks == 1:
            alone = curve
    for name in curve.keys() - {"seconds"}:
        assert curve[name] == pytest.approx(alone[name], rel=1e-9), name
    assert (
        two[0].count(
            "batch is 12, which cannot be split among 2 processes with 1 micro-batches each in "
            "whole groups of 4; give a multiple of 8"
        )
        == 2
    )


def test_asked_to_stop_all_processes_stop_after_one_step(two):
    """And go on to the weights of one process: ``STOPPED`` is among the methods above."""
    assert sorted(re.findall("stopped with (.*)", two[0])) == ["2", "None"]


def test_rows_are_shared_out_in_order():
    assert [rows_of_rank(24, 3, 2, rank, 4) for rank in range(4)] == [
        slice(0, 6),
        slice(6, 12),
        slice(12, 18),
        slice(18, 24),
    ]


def test_the_command_on_two_processes(folder, two):
    printed, said = two
    found = json.loads(printed.splitlines()[0])  # of one rank
    assert found["curve"]["steps"] == [0, 3]
    assert printed.count('"curve"') == 1  # the first process alone speaks
    assert len(re.findall(r"gkd: tiny, seed 1: .* 3/3 ", said)) == 1
    assert len(re.findall(r"teacher: tiny: .* 60/60 ", said)) == 1
    made = folder / "made by two"
    alone = distill(
        "gkd",
        SMALL,
        1,
        load(made / "tiny-teacher.safetensors"),
        load(made / "tiny-student.safetensors"),
        folder=folder / "alone",
        steps=3,
        **QUIET,
    )
    assert found["curve"]["tokens"] == alone["tokens"] and found["curve"][
        "sequence_kl"
    ] == pytest.approx(alone["sequence_kl"], rel=1e-4)


# --- the command -------------------------------------------------------------------------


@pytest.fixture
def command(folder, monkeypatch):
    """The command, with small models already made; -> what it printed and said."""
    monkeypatch.setitem(presets.PRESETS, "tiny", SMALL)

    def call(*arguments):
        printed, said = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(said):
            main(["train", *arguments, "--folder", str(folder)])
        return printed.getvalue(), said.getvalue()

    return call


def test_it_prints_the_curve(command, folder, pair):
    printed, said = command("--method", "jsd", "--seed", "2", "--steps", "6")
    words, _, header, rule, *rows = printed.splitlines()
    assert (
        words == f"jsd: {METHODS['jsd'].words}"
        and header.split()[:3] == ["steps", "tokens", "seconds"]
        and "accuracy" in header
    )
    assert [int(row.split()[0]) for row in rows] == [0, 4, 6] and len(
        {len(row) for row in rows}
    ) == 1
    assert re.search(r"jsd: tiny, seed 2: .* 6/6 ", said)
    assert str(student_path(folder, "jsd", SMALL, 2, 6)) in said
    printed, said = command("--method", "jsd", "--seed", "2", "--steps", "6", "--json")
    found = json.loads(printed)
    assert (
        "after iteration 6" in said
        and found["clock"] == "processor seconds"
        and found["device"] == "cpu"
    )
    assert found["curve"] == distill("jsd", SMALL, 2, *pair, folder=folder, steps=6, **QUIET)
    assert [f"{value:.3f}" for value in found["curve"]["accuracy"]] == [
        row.split()[header.split().index("accuracy")] for row in rows
    ]


def test_without_a_method_it_lists_them(command):
    printed, _ = command()
    assert [line.split()[0] for line in printed.splitlines()] == list(METHODS) and all(
        method.words in printed for method in METHODS.values()
    )


def test_interrupted_it_says_so_and_goes_on(folder, pair, tmp_path):
    for name in ("tiny-teacher.safetensors", "tiny-student.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    arguments = ["train", "--method", "pg_0.9", "--steps", "400", "--folder", tmp_path]
    run = process("tests.lm_training_runs", "command", *arguments)
    while "1/400" not in run.stderr.readline():
        assert run.poll() is None
    run.send_signal(signal.SIGINT)
    printed, said = run.communicate(timeout=300)
    assert run.returncode == 130 and printed == "" and "Traceback" not in said
    reached = int(
        re.search(r"stopped by SIGINT; the same command goes on after iteration (\d+)", said)[1]
    )
    kept = torch.load(student_path(tmp_path, "pg_0.9", SMALL, 1, 400).with_suffix(".pt"))["state"]
    assert kept["iteration"] == reached and 1 <= reached < 400


@pytest.mark.parametrize("rank", ["0", "1"])
def test_the_first_process_makes_and_the_others_wait_for_it(rank, monkeypatch):
    done = []
    for name in ("init_process_group", "barrier", "destroy_process_group"):
        noted = lambda *arguments, name=name, **options: done.append(name)
        monkeypatch.setattr(torch.distributed, name, noted)
    monkeypatch.setenv("WORLD_SIZE", "2"), monkeypatch.setenv("RANK", rank)
    with train._processes(torch.device("cpu"), lambda: done.append("make") or "made") as made:
        assert made == "made"
    assert done.index("make") == {"0": 0, "1": 2}[rank] and done.count("make") == 1


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--method", "kd"], "method is 'kd'; give one of sft, seqkd"),
        (["--method", "gkd", "--preset", "huge"], "preset is 'huge'; give one of tiny, cpu, small"),
        (["--method", "gkd", "--steps", "-2"], "steps is -2; give a whole number"),
        (["--method", "gkd", "--seed", "-2"], "seed is -2; give a whole number"),
        (
            ["--method", "gkd", "--device", "abacus"],
            "device is 'abacus', which cannot be used here",
        ),
        (
            ["--method", "gkd", "--threads", "0"],
            "threads is 0; give a whole number (an int) of at least 1",
        ),
        (
            ["--method", "gkd", "--micro-batches", "5"],
            "batch is 16, which cannot be split among 1 processes with 5 micro-batches",
        ),
    ],
)
def test_wrong_arguments_are_named(arguments, message, folder, capsys, monkeypatch):
    monkeypatch.setitem(presets.PRESETS, "tiny", SMALL)
    with pytest.raises(SystemExit) as stopped:
        main(["train", *arguments, "--folder", str(folder)])
    assert stopped.value.code == 2 and message in capsys.readouterr().err


def test_not_finite_and_a_full_disk_end_it_with_a_word(folder, monkeypatch):
    monkeypatch.setitem(presets.PRESETS, "tiny", SMALL)
    monkeypatch.setitem(
        METHODS,
        "sft",
        dataclasses.replace(
            METHODS["sft"], loss=lambda batch: batch.student_logits.sum() * math.inf
        ),
    )
    with pytest.raises(SystemExit, match="sft, step 1: the gradient is not finite"):
        main(["train", "--method", "sft", "--folder", str(folder)])

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(training, "save", full)
    with pytest.raises(SystemExit, match="No space left on device.*give the same command again"):
        main(["train", "--method", "gkd", "--folder", str(folder), "--steps", "1"])
