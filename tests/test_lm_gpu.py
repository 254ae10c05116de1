"""The command for a card, rehearsed on the processor in its smallest form."""

import json
import os
import subprocess
import sys

import pytest
import torch

from opd_toy.__main__ import main
from opd_toy.commands import gpu
from opd_toy.lm.bench import device
from opd_toy.lm.bench.cases import Setting
from opd_toy.records import provenance

pytestmark = pytest.mark.usefixtures("one_thread")

PASSED = (
    '<testsuites><testsuite tests="4" failures="0" errors="0" skipped="0" time="2"/></testsuites>'
)


def test_the_losses_and_the_study_are_rehearsed_and_recorded(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    few = ("--preset", "tiny", "--methods", "gkd,pg_0", "--steps", "1", "--seeds", "1")
    monkeypatch.setattr(gpu, "REHEARSED_STUDY", (*few, "--workers", "2", "--device", "cpu"))
    monkeypatch.delitem(gpu.PARTS, "kernels")
    main(["gpu", "--rehearse"])
    printed, said = capfd.readouterr()
    assert "bench: recorded" in said and "study: recorded" in said
    records = tmp_path / "_build" / "gpu"
    found = json.loads((records / "loss-benchmark-gpu.json").read_text())["results"]
    assert min(found["rates"].values()) > 0 and "of the floor" in printed
    for setting in found["settings"]:
        ours = setting["rows"][0]
        assert ours["case"] == "ours" and ours["gradient_error"] < 1e-5
        assert setting["floors"][0]["least"] > 0
    assert provenance.is_current(records / "loss-benchmark-gpu.json")
    study = json.loads((records / "lm-study-tiny.json").read_text())["results"]
    assert list(study["curves"]) == ["gkd", "pg_0"]


def test_the_kernels_outcome_is_recorded(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu.bench, "interpreter", lambda: gpu.sys.executable)
    monkeypatch.setattr(subprocess, "run", lambda *a, **o: subprocess.CompletedProcess(a, 0))

    def ended(command, seconds, environment):
        assert environment["TRITON_INTERPRET"] == "1" and "-k" in command
        path = next(each.split("=")[1] for each in command if each.startswith("--junitxml"))
        with open(path, "w") as file:
            file.write(outcome)
        return 0

    monkeypatch.setattr(gpu, "_ended", ended)
    outcome = PASSED
    assert gpu.kernels(tmp_path, "cpu", True, 60) is None
    found = json.loads((tmp_path / "kernels-gpu.json").read_text())["results"]
    assert found == {"tests": 4, "failures": 0, "errors": 0, "skipped": 0, "seconds": 2.0}
    outcome = PASSED.replace('failures="0"', 'failures="1"')
    assert gpu.kernels(tmp_path, "cpu", True, 60) == "failed"
    monkeypatch.setattr(subprocess, "run", lambda *a, **o: subprocess.CompletedProcess(a, 1))
    assert "make peers" in gpu.kernels(tmp_path, "cpu", True, 60)


def test_what_time_cuts_off_is_said(tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(gpu, "PARTS", {"bench": lambda *a: asked.append(a) or "did not end"})
    with pytest.raises(SystemExit, match="not done: bench"):
        main(["gpu", "--rehearse", "--minutes", "1", "--directory", str(tmp_path)])
    assert asked[0][:3] == (tmp_path, "cpu", True) and asked[0][3] <= 60 * gpu.SHARES["bench"]
    with pytest.raises(SystemExit, match="not done: bench"):
        main(["gpu", "--rehearse", "--minutes", "0.01", "--directory", str(tmp_path)])
    assert "no time is left" in capsys.readouterr().err and len(asked) == 1
    monkeypatch.chdir(tmp_path)  # an interrupt, which a study hears at a checkpoint
    waits = (  # not by the shell, which cannot hear what its parent ignores
        "import pathlib, signal, sys, time\n"
        "hear = lambda *_: sys.exit(pathlib.Path('heard').touch())\n"
        "signal.signal(signal.SIGINT, hear)\n"
        "pathlib.Path('there').touch()\n"
        "while True: time.sleep(0.05)"
    )
    for seconds in (0.5, 5, 50):  # on a busy machine the command takes a while to begin
        assert gpu._ended([sys.executable, "-c", waits], seconds, dict(os.environ)) is None
        if (tmp_path / "there").exists():
            break
    assert (tmp_path / "heard").exists()


def test_without_a_card_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(torch, "empty", lambda *a, **o: (_ for _ in ()).throw(RuntimeError("no")))
    with pytest.raises(SystemExit):
        main(["gpu"])
    assert "device is 'cuda', which cannot be used here" in capsys.readouterr().err


def test_floors_are_what_must_be_moved_and_multiplied():
    rates = {"copy": 1e9, "product": 1e12}
    logits = Setting("logits", (), tokens=10, vocabulary=1000, dtype="bfloat16")
    assert device.floor(logits, rates)["least"] == pytest.approx(3 * 10 * 1000 * 2 / 1e9)
    hidden = Setting("hidden", (), tokens=10, vocabulary=1000, width=64)
    assert device.floor(hidden, rates)["least"] == pytest.approx(8 * 10 * 1000 * 64 / 1e12)
