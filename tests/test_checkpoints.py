"""Checkpoints: whole or not there, of these settings or none, and a resumed run the same."""

import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from opd_toy.records import checkpoints
from opd_toy.records.checkpoints import Checkpoint, Stop

ROOT = Path(__file__).parent.parent


def test_a_full_disk_leaves_the_checkpoint_before_it(tmp_path, monkeypatch):
    said = []
    checkpoint = Checkpoint(tmp_path / "c.pt", ["a"], say=said.append)
    assert checkpoint.save({"iteration": 1})

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert not checkpoint.save({"iteration": 2})
    assert "No space left on device" in said[-1] and "the run goes on" in said[-1]
    assert checkpoint.load()["iteration"] == 1 and [path.name for path in tmp_path.iterdir()] == [
        "c.pt"
    ]


def test_a_checkpoint_of_other_settings_or_torn_is_told_of_and_left(tmp_path):
    said = []
    Checkpoint(tmp_path / "c.pt", ["a"]).save({"iteration": 1})
    assert (
        Checkpoint(tmp_path / "c.pt", ["b"], say=said.append).load() is None
        and "other settings" in said[-1]
    )
    (tmp_path / "c.pt").write_bytes((tmp_path / "c.pt").read_bytes()[:100])
    assert (
        Checkpoint(tmp_path / "c.pt", ["a"], say=said.append).load() is None
        and "cannot be read" in said[-1]
    )
    assert (
        Checkpoint(tmp_path / "none.pt", ["a"], say=said.append).load() is None and len(said) == 2
    )


class Plants:
    """Reading it as a pickle makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_foreign_file_is_not_read_as_code(tmp_path):
    torch.save({"settings": [], "state": Plants(tmp_path / "planted")}, tmp_path / "c.pt")
    assert Checkpoint(tmp_path / "c.pt", [], say=lambda text: None).load() is None
    assert not (tmp_path / "planted").exists()


KILLED = """
import sys, torch
from opd_toy import control
from opd_toy.records.checkpoints import Checkpoint
torch.set_num_threads(1)
runs = control.make_runs((0.0, 1.0), (42,))
teachers = control.initial_parameters((1, 2), runs.gamma)
def report(done, total):
    print(done, flush=True)
checkpoint = Checkpoint(sys.argv[1], ["k"], seconds=0.0)
gradient = control.distillation(runs, teachers)
state = control.train(runs, gradient, 24, (0, 12, 24), checkpoint=checkpoint, report=report)
torch.save(state, sys.argv[2])
"""


def test_killed_and_resumed_is_bit_for_bit_the_same(tmp_path):
    def start(name):
        return subprocess.Popen(
            [sys.executable, "-c", KILLED, tmp_path / f"{name}.pt", tmp_path / f"{name}-end.pt"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    whole, killed = start("whole"), start("killed")
    while int(killed.stdout.readline()) < 9:
        pass
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert not (tmp_path / "killed-end.pt").exists()
    resumed = start("killed")
    printed, said = resumed.communicate(timeout=60)
    assert "taking up" in said and int(printed.split()[0]) >= 8
    whole.communicate(timeout=60)
    first, second = torch.load(tmp_path / "whole-end.pt"), torch.load(tmp_path / "killed-end.pt")
    assert first.keys() == second.keys() and first["iteration"] == 24
    for name in first:
        assert (
            first[name] == second[name]
            if name == "iteration"
            else torch.equal(first[name], second[name])
        ), name


def test_two_processes_on_one_checkpoint_leave_it_whole(tmp_path, monkeypatch):
    """The second writes while the first is in the midst of it; nothing is torn or left over."""
    first, second = (Checkpoint(tmp_path / "c.pt", ["a"], say=print) for _ in range(2))
    save = torch.save

    def interleaved(content, file):
        save(content, file)
        monkeypatch.setattr(torch, "save", save)
        with monkeypatch.context() as other:
            other.setattr(os, "getpid", lambda: -1)
            assert second.save({"iteration": 2})

    monkeypatch.setattr(torch, "save", interleaved)
    assert first.save({"iteration": 1}) and first.load()["iteration"] == 1
    (tmp_path / "c.pt.7.partial").write_text("a kill within a write left this")
    first.remove()
    assert list(tmp_path.iterdir()) == []
    first.remove()  # nor does it need one


def test_all_is_handed_to_the_disk_before_it_takes_the_old_one_s_place(tmp_path, monkeypatch):
    checkpoint, sizes = Checkpoint(tmp_path / "c.pt", [], say=print), []
    with monkeypatch.context() as patch:  # a file is buffered, and a disk too
        patch.setattr(torch, "save", lambda content, file: file.write(b"four"))
        patch.setattr(os, "fsync", lambda number: sizes.append(os.fstat(number).st_size))
        assert checkpoint.save({}) and sizes == [4]

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", full)
    assert not checkpoint.save({})  # where nothing was begun nothing is left to remove


def test_a_state_is_read_as_data_onto_the_device(tmp_path, monkeypatch):
    asked = []
    saved = {"settings": [], "state": {"iteration": 1}}
    monkeypatch.setattr(torch, "load", lambda *of, **options: asked.append((of, options)) or saved)
    checkpoint = Checkpoint(tmp_path / "c.pt", [], say=lambda text: None)
    assert checkpoint.load("cuda:1") == checkpoint.load() == saved["state"]
    kept = {"weights_only": True}
    assert asked == [
        ((tmp_path / "c.pt",), {"map_location": place, **kept}) for place in ("cuda:1", "cpu")
    ]


def test_the_first_interrupt_waits_and_the_second_does_not():
    with pytest.raises(KeyboardInterrupt), Stop():
        signal.raise_signal(signal.SIGINT)
        assert Stop.asked == signal.SIGINT
        signal.raise_signal(signal.SIGINT)
    assert Stop.asked == 0


def test_it_is_saved_now_and_then_at_the_last_and_when_asked_to_stop(tmp_path, monkeypatch):
    clock, said = [100.0], []
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    checkpoint = Checkpoint(tmp_path / "new" / "c.pt", ["a"], say=said.append)
    kept = lambda: checkpoint.load()["iteration"] if checkpoint.path.exists() else None
    for time, last, wanted in ((109.9, False, None), (110, False, 1), (119.9, False, 1)):
        clock[0] = time
        checkpoint.after({"iteration": 1}, last)
        assert kept() == wanted
    checkpoint.after({"iteration": 2}, last=True)
    assert kept() == 2
    clock[0] = 129.8  # not ten seconds after the last one
    checkpoint.after({"iteration": 3})
    assert kept() == 2
    said.clear()
    monkeypatch.setattr(Stop, "asked", signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.after({"iteration": 4})
    assert kept() == 4
    goes_on = "stopped by SIGTERM; the same command goes on after iteration 4"
    assert said == [goes_on, f"taking up {checkpoint.path} after iteration 4"]
    monkeypatch.setattr(checkpoint, "save", lambda state: False)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.after({"iteration": 5})
    assert said[-1] == "stopped by SIGTERM; the last checkpoint stands"


def test_what_is_said_is_whole_and_goes_to_the_errors(tmp_path, capsys, monkeypatch):
    path = tmp_path / "c.pt"
    Checkpoint(path, ["a"]).save({"iteration": 1})
    assert Checkpoint(path, ["b"]).load() is None
    assert Checkpoint(path, ["a"]).load() == {"iteration": 1}
    torch.save({"settings": ["a"]}, path)  # a file of something else
    assert Checkpoint(path, ["a"]).load() is None
    for error in (OSError("full"), RuntimeError("full")):
        with monkeypatch.context() as patch:
            patch.setattr(torch, "save", lambda *_, error=error: (_ for _ in ()).throw(error))
            assert not Checkpoint(path, ["a"]).save({"iteration": 2})
    printed, said = capsys.readouterr()
    assert printed == ""
    full = (
        f"could not write {path} (full); the checkpoint before it, if any, stands, and the run "
        "goes on"
    )
    assert said.splitlines() == [
        f"{path} belongs to other settings or other code; starting anew",
        f"taking up {path} after iteration 1",
        f"{path} cannot be read (KeyError); starting anew",
        full,
        full,
    ]
    assert [each.name for each in tmp_path.iterdir()] == ["c.pt"]


def test_the_handlers_are_as_before_and_both_signals_are_heard():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    for number in (signal.SIGINT, signal.SIGTERM):
        with Stop():
            Stop.hear(number, None)
            assert Stop.asked == number
            assert signal.getsignal(signal.SIGINT) == signal.getsignal(signal.SIGTERM) == Stop.hear
        assert Stop.asked == 0
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert runpy.run_path(checkpoints.__file__)["Stop"].asked == 0  # before anybody asks
    Stop.asked = signal.SIGINT  # left over from a run that did not end
    try:
        with Stop():
            assert Stop.asked == 0
    finally:
        Stop.asked = 0
