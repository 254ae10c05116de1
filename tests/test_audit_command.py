"""``python -m opd_toy audit``: what it prints, and its exit status."""

import json
import sys
import types
from unittest import mock

import pytest

from opd_toy.__main__ import main
from opd_toy.audit.sequence import measure as sequence_level
from tests.audit_losses import forward, logs, ratio, reverse
from tests.test_audit_unseen_sequence import FEWER, SEQUENCE

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def module(monkeypatch):
    found = types.ModuleType("losses_under_audit")
    found.forward, found.k1, found.sft = forward, ratio, lambda s, t, k: -logs(s)[k]
    found.pair = lambda s, t: (s, t)
    monkeypatch.setitem(__import__("sys").modules, found.__name__, found)
    return found.__name__


def status(*arguments):
    with pytest.raises(SystemExit) as ended:
        main(["audit", *arguments])
    return ended.value.code


def test_command_answers_by_its_exit_status(module, capsys):
    assert status(f"{module}:forward") == 0 and "optimises: forward KL" in capsys.readouterr().out
    assert status(f"{module}:forward", "--expect", "forward KL") == 0
    assert (
        status(f"{module}:forward", "--expect", "reverse KL") == 1
        and "expected 'reverse KL', found 'forward KL'" in capsys.readouterr().err
    )
    assert status(f"{module}:k1") == 1
    assert status(f"{module}:k1", "--expect", "zero") == 0
    assert status(f"{module}:sft", "--drawn-from", "teacher", "--expect", "forward KL") == 0
    capsys.readouterr()
    assert status(f"{module}:forward", "--json", "--seed", "3") == 0
    assert json.loads(capsys.readouterr().out)["seed"] == 3


@pytest.mark.parametrize(
    "name, word",
    [
        ("losses_under_audit", "MODULE:FUNCTION"),
        ("no_such_module_here:f", "cannot be imported"),
        ("losses_under_audit:backward", "has no 'backward'; it has forward"),
        ("losses_under_audit:pair", "a tuple of 2"),
    ],
)
def test_command_says_why_it_could_not_audit(module, capsys, name, word):
    assert status(name) == 2
    assert word in capsys.readouterr().err


def test_command_finds_modules_of_the_current_directory(tmp_path, monkeypatch, capsys):
    (tmp_path / "mine_alone.py").write_text(
        "def loss(s, t):\n"
        "    return (s.softmax(-1) * (s.log_softmax(-1) - t.log_softmax(-1))).sum()\n"
    )
    monkeypatch.chdir(tmp_path)
    assert status("mine_alone:loss", "--expect", "reverse KL") == 0


def test_command_takes_batches_and_rewards_of_sequences(tmp_path, monkeypatch, capsys):
    (tmp_path / "texts.py").write_text(
        "def reward(tokens):\n    return float(tokens.sum())\n"
        "def rewarded(student, teacher, tokens):\n"
        "    log_p = student.log_softmax(-1).gather(-1, tokens[:, None])\n"
        "    return -reward(tokens) * log_p.sum()\n"
        "def batch(student, teacher, tokens, mask):\n"
        "    log_p, log_q = student.log_softmax(-1), teacher.log_softmax(-1)\n"
        "    costs = (log_p.exp() * (log_p - log_q)).sum(-1)\n"
        "    return (costs * mask).sum() / mask.sum()\n"
    )
    monkeypatch.chdir(tmp_path)
    assert (
        status("texts:rewarded", "--sequence", "--reward", "texts:reward") == 0
        and "expected reward" in capsys.readouterr().out.splitlines()[0]
    )
    assert status("texts:rewarded", "--sequence") == 1
    capsys.readouterr()
    assert (
        status("texts:batch", "--sequence", "--batched") == 0
        and "the valid tokens of the batch" in capsys.readouterr().out
    )
    assert (
        status("texts:batch", "--batched") == 2 and "give --sequence too" in capsys.readouterr().err
    )
    assert status("texts:batch", "--reward", "texts:reward") == 2
    assert "--reward is for losses of sequences; give --sequence" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name, seed, words", [("ends", "0", "ended the program"), ("reverse", "-1", "--seed is -1")]
)
def test_no_verdict_is_no_success(monkeypatch, capsys, name, seed, words):
    found = types.ModuleType("losses_that_deceive")
    found.ends, found.reverse = lambda s, t: sys.exit(0), reverse
    monkeypatch.setitem(sys.modules, found.__name__, found)
    with pytest.raises(SystemExit) as ended:
        main(["audit", f"{found.__name__}:{name}", "--seed", seed])
    assert ended.value.code == 2 and words in capsys.readouterr().err


def test_zero_where_nothing_is_masked_is_no_success(monkeypatch):
    found = types.ModuleType("losses_masked")
    found.loss = SEQUENCE["mask the other way round"][0]
    monkeypatch.setitem(sys.modules, found.__name__, found)
    with mock.patch.object(sequence_level, "TREES", FEWER), pytest.raises(SystemExit) as ended:
        main(["audit", "losses_masked:loss", "--sequence"])
    assert ended.value.code == 1


def test_a_script_that_ends_where_it_is_imported(tmp_path, monkeypatch, capsys):
    (tmp_path / "ends_at_import.py").write_text("import sys\ndef loss(s, t): ...\nsys.exit(0)\n")
    monkeypatch.chdir(tmp_path)
    for name, words in (
        ("ends_at_import:loss", "__main__"),
        ("folder/not_there.py:loss", "folder/not_there.py is not there"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["audit", name])
        assert ended.value.code == 2 and words in capsys.readouterr().err


def test_what_a_loss_prints_is_no_part_of_the_json(monkeypatch, capsys):
    found = types.ModuleType("losses_that_print")
    found.loss = lambda s, t: print("loss", end="") or reverse(s, t)
    monkeypatch.setitem(sys.modules, found.__name__, found)
    with pytest.raises(SystemExit):
        main(["audit", "losses_that_print:loss", "--json"])
    assert json.loads(capsys.readouterr().out)["optimises"] == "reverse KL"
