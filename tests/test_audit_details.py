"""``python -m opd_toy audit``: what it hands on, what it says where, and how it ends."""

import json
import sys
from types import SimpleNamespace

import pytest

import opd_toy.audit
from opd_toy.__main__ import main
from opd_toy.audit import AuditError


def loss(student_logits, teacher_logits, token):
    """Named below; it is never called."""


def reward(tokens):
    """Nor is this."""


NAME, REWARD = f"{__name__}:loss", f"{__name__}:reward"


class Report(SimpleNamespace):
    def __str__(self):
        return f"optimises: {self.optimises}"

    def to_json(self):
        return json.dumps({"optimises": self.optimises})


@pytest.fixture
def asked(monkeypatch):
    """What the auditor is asked for; ``asked.finds`` are the objectives it finds, in turn."""

    class Asked(list):
        finds = []

    found = Asked()

    def auditor(kind):
        def audited(given, **options):
            found.append((kind, given, options))
            answer = found.finds.pop(0) if found.finds else "reverse KL"
            if isinstance(answer, BaseException):
                raise answer
            print("from within", kind)
            return Report(optimises=answer)

        return audited

    monkeypatch.setattr(opd_toy.audit, "audit", auditor("token"))
    monkeypatch.setattr(opd_toy.audit, "audit_sequence", auditor("sequence"))
    return found


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        main(["audit", *arguments])
    return ended.value.code


DEFAULTS = {"drawn_from": "student", "seed": 0, "batched": False, "behaviour": None}


@pytest.mark.parametrize(
    "options, kind, changed",
    [
        ([], "token", {"inputs": "logits"}),
        (["--inputs", "log-probs"], "token", {"inputs": "log_probs"}),
        (["--inputs", " log_probs, probs "], "token", {"inputs": ("log_probs", "probs")}),
        (["--top-k", "3"], "token", {"inputs": ("logits", "top_k"), "k": 3}),
        (
            ["--top-k", "3", "--inputs", "top-k"],
            "token",
            {"inputs": ("logits", "top_k"), "k": 3},
        ),
        (
            ["--top-k", "2", "--inputs", "probs,logits"],
            "token",
            {"inputs": ("probs", "top_k"), "k": 2},
        ),
        (["--drawn-from", "teacher"], "token", {"inputs": "logits", "drawn_from": "teacher"}),
        (["--seed", "5", "--batched"], "token", {"inputs": "logits", "seed": 5, "batched": True}),
        (["--behaviour", "old"], "token", {"inputs": "logits", "behaviour": "old"}),
        (["--behaviour", "none"], "token", {"inputs": "logits", "behaviour": False}),
        (
            ["--sequence"],
            "sequence",
            {"inputs": "logits", "reward": None, "labels": None},
        ),
        (
            ["--sequence", "--reward", REWARD, "--labels", "aligned"],
            "sequence",
            {"inputs": "logits", "reward": reward, "labels": "aligned"},
        ),
    ],
)
def test_options_are_handed_on(options, kind, changed, asked, capsys):
    assert run(NAME, *options) == 0
    assert asked == [(kind, loss, DEFAULTS | changed)]
    assert capsys.readouterr() == ("optimises: reverse KL\n", f"from within {kind}\n")


SAYS = "python -m opd_toy audit: "


@pytest.mark.parametrize(
    "finds, expect, status, said",
    [
        (["reverse KL"], [], 0, ""),
        (["zero"], [], 1, ""),
        (["none of these where p > q"], [], 1, ""),
        (["reverse KL where p > q"], [], 0, ""),
        (["reverse KL"], ["rkl"], 0, ""),
        (["forward KL"], ["rkl"], 1, "expected 'rkl', found 'forward KL'\n"),
        (["zero"], ["zero"], 0, ""),
        ([AuditError("it takes two")], [], 2, f"{SAYS}it takes two\n"),
        ([AuditError("it takes two")], ["rkl"], 2, f"{SAYS}it takes two\n"),
        (
            [SystemExit(0)],
            [],
            2,
            f"{SAYS}{NAME} ended the program, with sys.exit(0) or the like, where it is imported "
            "or called; put what runs it under if __name__ == '__main__'\n",
        ),
    ],
)
def test_how_one_audit_ends(finds, expect, status, said, asked, capsys):
    asked.finds = list(finds)
    assert run(NAME, *(x for each in expect for x in ("--expect", each))) == status
    printed, errors = capsys.readouterr()
    assert errors.replace("from within token\n", "") == said
    refused = isinstance(finds[0], BaseException)
    assert printed == ("" if refused else f"optimises: {finds[0]}\n")


def test_of_several_each_is_named_and_the_worst_decides(asked, capsys):
    names = [NAME] * 3
    asked.finds = ["forward KL", AuditError("it takes two"), "zero"]
    assert run(*names) == 2
    assert capsys.readouterr().err.replace("from within token\n", "") == (
        f"{SAYS}{NAME}: it takes two\n"
    )
    asked.finds = ["forward KL", "reverse KL", "forward KL"]
    each = [x for name in ("rkl", "rkl", "fkl") for x in ("--expect", name)]
    assert run(*names, *each) == 1
    printed, said = capsys.readouterr()
    assert said.replace("from within token\n", "") == (
        f"{NAME}: expected 'rkl', found 'forward KL'\n"
    )
    assert (
        printed
        == "\n\n".join(
            f"{NAME}\noptimises: {found}" for found in ("forward KL", "reverse KL", "forward KL")
        )
        + "\n"
    )
    asked.finds = ["forward KL"] * 3
    assert run(*names, "--expect", "fkl") == 0


@pytest.mark.parametrize(
    "options, message",
    [
        (["--seed", "-1"], "--seed is -1; give 0 or more"),
        (["--reward", REWARD], "--reward is for losses of sequences; give --sequence too"),
        (["--labels", "aligned"], "--labels is for losses of sequences; give --sequence too"),
        (
            [NAME, NAME, *("--expect", "rkl") * 2],
            "--expect is given 2 times for 3 losses; give it once, or once for each",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_audited(options, message, asked, capsys):
    assert run(NAME, *options) == 2
    assert capsys.readouterr() == ("", f"{SAYS}{message}\n") and asked == []


def test_without_torch_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "opd_toy.audit", None)

    class Missing:
        def find_spec(self, name, *_):
            if name == "opd_toy.audit":
                raise ModuleNotFoundError("no", name="torch")

    monkeypatch.delitem(sys.modules, "opd_toy.audit")
    monkeypatch.setattr(sys, "meta_path", [Missing(), *sys.meta_path])
    assert run(NAME) == 2
    assert (
        capsys.readouterr().err == f"{SAYS}the auditor needs torch: pip install 'opd-toy[torch]'\n"
    )


def test_the_format_is_the_one_that_is_asked_for(asked, capsys):
    for options in (["--json"], ["--format", "json"]):
        assert run(NAME, *options) == 0
        assert json.loads(capsys.readouterr().out) == {"optimises": "reverse KL"}
    assert run(NAME, "--format", "github", "--expect", "fkl") == 1
    printed = capsys.readouterr().out
    line = loss.__code__.co_firstlineno
    assert f"::error file=tests/test_audit_details.py,line={line},title=" in printed
    asked.finds = [AuditError("no")]
    assert run(NAME, "--json") == 2 and capsys.readouterr().out == ""
