"""``python -m opd_toy audit``: what it prints, and its exit status."""

import json
import os
import subprocess
import sys
import types
from unittest import mock
from xml.etree import ElementTree

import pytest
import yaml

from opd_toy.__main__ import main
from opd_toy.audit.sequence import measure as sequence_level
from opd_toy.commands.audit_output import Outcome, github, sarif
from tests.audit_losses import forward, logs, ratio, reverse
from tests.conftest import ROOT
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


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Losses in files, beside what they import; the current directory is the one above."""
    folder, package = tmp_path / "my", tmp_path / "my" / "package"
    package.mkdir(parents=True)
    (folder / "beside_it.py").write_text(
        "def kl(a, b):\n"
        "    return (a.softmax(-1) * (a.log_softmax(-1) - b.log_softmax(-1))).sum()\n"
    )
    (folder / "my_losses.py").write_text(
        "from beside_it import kl\n\n"
        "def forward(teacher_logits, student_logits):\n"
        "    return kl(teacher_logits, student_logits)\n\n"
        "def reverse(s, t):\n    return kl(s, t)\n\n"
        "def drawn(log_p, log_q):\n    return (log_p - log_q).detach() * log_p\n"
    )
    (package / "__init__.py").write_text("")
    (package / "relative.py").write_text("from .other import loss\n")
    (package / "other.py").write_text((folder / "beside_it.py").read_text() + "loss = kl\n")
    (folder / "json.py").write_text((folder / "beside_it.py").read_text())
    monkeypatch.chdir(tmp_path)
    yield "my/my_losses.py"
    for name in ("beside_it", "my_losses", "package", "json_under_audit"):
        sys.modules.pop(name, None)


def test_a_file_is_named_by_its_path(files):
    before = list(sys.path)
    assert status(f"{files}:forward", "--expect", "FKL") == 0
    assert status("my/package/relative.py:loss", "--expect", "Reverse_KL") == 0
    assert status("my/json.py:kl", "--expect", "rkl") == 0  # not the module json
    assert sys.path == before and json.loads("1") == 1


def test_a_file_that_ends_half_read_is_read_anew(files, tmp_path, capsys):
    (tmp_path / "half.py").write_text("def loss(s, t):\n    return s.sum()\n\n1 / 0\n")
    for _ in range(2):
        assert status("half.py:loss") == 2
        assert "half.py cannot be imported" in capsys.readouterr().err


def test_inputs_are_options(files, capsys, monkeypatch):
    assert status(f"{files}:drawn", "--expect", "reverse KL") == 2
    assert 'inputs="token_log_probs"' in capsys.readouterr().err
    arguments = [f"{files}:drawn", "--expect", "reverse KL"]
    assert status(*arguments, "--inputs", "token_log_probs") == 0
    assert status(*arguments, "--inputs", "token-log-probs,log_q") == 2
    assert status(*arguments, "--labels", "aligned") == 2
    assert "--labels is for losses of sequences" in capsys.readouterr().err
    found = types.ModuleType("losses_of_top_k")
    monkeypatch.setitem(sys.modules, found.__name__, found)
    found.loss = lambda s, ids, lq: (lq.exp() * (lq - s.log_softmax(-1)[ids])).sum()
    expected = "forward KL on the teacher's top 3, tail dropped"
    assert status("losses_of_top_k:loss", "--top-k", "3", "--expect", expected) == 0
    found.stale = stale_top_k
    forms = ("--inputs", "logits,top-k,log-probs", "--behaviour", "old")
    expected = ("--expect", "none of these")
    assert status("losses_of_top_k:stale", "--top-k", "3", *forms, *expected) == 0


def stale_top_k(student, ids, teacher, old, token):
    """The behaviour is given as log-probabilities, which of logits would not be so."""
    if abs(old.exp().sum() - 1) > 1e-9:
        raise ValueError("no log-probabilities")
    log_p = student.log_softmax(-1)
    cost = ((ids == token) * (log_p[ids] - teacher)).sum().detach()
    return (log_p[token] - old[token]).exp() * cost


def test_several_losses_at_once(files, capsys):
    both = [f"{files}:forward", f"{files}:reverse"]
    assert status(*both) == 0
    said = capsys.readouterr().out
    assert said.count("optimises: ") == 2 and said.startswith(both[0])
    assert status(*both, "--expect", "forward KL") == 1
    assert capsys.readouterr().err == f"{both[1]}: expected 'forward KL', found 'reverse KL'\n"
    assert status(*both, "--expect", "fkl", "--expect", "rkl") == 0
    assert status(*both, f"{files}:no_such") == 2
    assert status(*both, f"{files}:reverse", "--expect", "fkl", "--expect", "rkl") == 2


def test_a_name_that_no_audit_finds(files, capsys):
    assert status(f"{files}:forward", "--expect", "foward KL") == 2
    assert "nearest: 'forward KL'" in capsys.readouterr().err


@pytest.fixture
def outcomes(files, capsys):
    """What is printed in a format: one loss as expected, one not, one that is refused."""

    def printed(form):
        names = [f"{files}:{name}" for name in ("reverse", "forward", "drawn")]
        assert status(*names, "--expect", "reverse KL", "--format", form) == 2
        return capsys.readouterr().out

    return printed


def test_json_of_several(outcomes):
    right, wrong, refused = json.loads(outcomes("json"))
    assert (right["as_expected"], wrong["as_expected"], refused["as_expected"]) == (
        True,
        False,
        None,
    )
    assert wrong["report"]["optimises"] == "forward KL" and "inputs=" in refused["error"]


def test_junit(outcomes):
    suites = ElementTree.fromstring(outcomes("junit"))
    assert (suites.get("tests"), suites.get("failures"), suites.get("errors")) == ("3", "1", "1")
    right, wrong, refused = suites.iter("testcase")
    assert right.find("failure") is None and right.get("file") == "my/my_losses.py"
    assert wrong.find("failure").get("message") == "expected 'reverse KL', found 'forward KL'"
    assert wrong.find("failure").text.startswith("optimises: forward KL\n")  # the report
    assert "inputs=" in refused.find("error").get("message")


def test_sarif(outcomes):
    found = json.loads(outcomes("sarif"))
    (run,) = found["runs"]
    rules = {rule["id"] for rule in run["tool"]["driver"]["rules"]}
    assert found["version"] == "2.1.0" and len(run["results"]) == 2
    assert {result["ruleId"] for result in run["results"]} <= rules
    place = run["results"][0]["locations"][0]["physicalLocation"]
    assert place["artifactLocation"]["uri"] == "my/my_losses.py"
    assert place["region"]["startLine"] == 3


def test_sarif_addresses_are_addresses():
    refused = Outcome("f", None, None, "not-audited", "no", "my losses/a%b.py", 3)
    assert '"uri": "my%20losses/a%25b.py"' in sarif([refused])


def test_annotations(outcomes):
    said = outcomes("github")
    errors = [line for line in said.splitlines() if line.startswith("::error ")]
    assert errors[0] == (
        "::error file=my/my_losses.py,line=3,title=my/my_losses.py%3Aforward::"
        "expected 'reverse KL', found 'forward KL'"
    )
    assert len(errors) == 2 and said.count("::group::") == said.count("::endgroup::") == 3


def test_what_would_end_an_annotation_is_escaped():
    refused = Outcome("a,b:c", None, None, "not-audited", "5 %\r\nno")
    assert github([refused]).endswith("\n::error title=a%2Cb%3Ac::5 %25%0D%0Ano")


ACTION = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))


def test_the_action_hands_all_it_is_given_through_the_environment():
    assert ACTION["runs"]["using"] == "composite"
    assert all({"name", "shell", "run", "env"} == step.keys() for step in ACTION["runs"]["steps"])
    values = [value for step in ACTION["runs"]["steps"] for value in step["env"].values()]
    assert sorted(values) == sorted(f"${{{{ inputs.{name} }}}}" for name in ACTION["inputs"])
    assert not any("${{" in step["run"] for step in ACTION["runs"]["steps"])
    assert all(given["description"] for given in ACTION["inputs"].values())


def run_action(**given):
    """The action's last step as a runner starts it; a single audit, as each imports torch."""
    names = {"losses": "LOSSES", **{name: name.upper() for name in ACTION["inputs"]}}
    defaults = {name: value.get("default", "") for name, value in ACTION["inputs"].items()}
    environment = {names[name]: value for name, value in {**defaults, **given}.items()}
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    return subprocess.run(
        [
            "bash",
            "--noprofile",
            "--norc",
            "-eo",
            "pipefail",
            "-c",
            ACTION["runs"]["steps"][1]["run"],
        ],
        env={**os.environ, **environment, "PATH": path, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


def test_the_action_fails_where_a_loss_differs(files, tmp_path):
    losses = f"{files}:forward\n{files}:reverse $(touch planted)"
    done = run_action(losses=losses, expect="reverse KL", options="--seed 1")
    assert done.returncode == 2, done.stderr  # what was planted is no loss
    assert "::error file=my/my_losses.py,line=3" in done.stdout
    assert not (tmp_path / "planted").exists()
