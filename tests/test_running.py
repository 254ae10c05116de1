"""What the long commands share: how they end, where records lie, what a small study does."""

import argparse
import importlib
import json
import os
import re
from pathlib import Path

import pytest
import torch

from opd_toy.__main__ import main
from opd_toy.commands import derail, doors, running, stale
from opd_toy.records import provenance

PALETTE = ["opd_toy.explorables.palette"]


def raising(error):
    raise error


@pytest.fixture
def parser():
    return argparse.ArgumentParser(prog="command")


@pytest.mark.parametrize(
    "error, speaks, status, said",
    [
        (ValueError("steps is 0"), True, 2, "usage: command [-h]\ncommand: error: steps is 0\n"),
        (ValueError("steps is 0"), False, 2, ""),
        (KeyboardInterrupt(), True, 130, ""),
        (
            OSError(28, "full"),
            True,
            "could not read or write ([Errno 28] full). Nothing finished is lost: make room and "
            "give the same command again.",
            "",
        ),
    ],
)
def test_a_command_that_cannot_go_on_ends_with_a_sentence(
    error, speaks, status, said, parser, capsys
):
    with pytest.raises(SystemExit) as ended, running.stoppable(parser, speaks=speaks):
        raise error
    assert (ended.value.code, capsys.readouterr().err) == (status, said)


def test_a_reader_who_has_seen_enough_is_left_to_the_program(parser):
    with pytest.raises(BrokenPipeError), running.stoppable(parser):
        raise BrokenPipeError


def test_pytorch_is_told_how_to_wait_and_repeat_unless_somebody_has(parser, monkeypatch):
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    with running.stoppable(parser):
        assert os.environ["GOMP_SPINCOUNT"] == "1000"
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    with running.stoppable(parser):
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        assert os.environ["GOMP_SPINCOUNT"] == "7"
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")


def test_the_messages_about_records_are_whole(tmp_path, monkeypatch):
    path = tmp_path / "r.json"
    with pytest.raises(ValueError) as error:
        running.read_record(path)
    assert str(error.value) == (
        f"directory is {str(tmp_path)!r}, which holds no r.json; make it by the same command "
        "without --show, or run this in a checkout of the book, whose records are in figures/"
    )
    path.write_text("{}")
    with pytest.raises(ValueError) as error:
        running.read_record(path)
    assert str(error.value) == (
        f"directory is {str(tmp_path)!r}, whose r.json is no whole record (KeyError('results')); "
        "make it again by the same command without --show"
    )
    monkeypatch.setattr(provenance, "source_hash", lambda *_, **__: object())
    with pytest.raises(SystemExit) as ended, running.unchanged(path, ["one", "two"]):
        pass
    assert ended.value.code == (
        f"one, two or what they import changed while this ran, so that {path} would name code "
        "that did not make it; nothing is recorded. Give the command again."
    )


def test_an_unknown_device_is_quoted_with_the_first_line_of_the_reason(monkeypatch):
    for error in (RuntimeError("no\nsuch"), AssertionError("no\nsuch"), TypeError("no\nsuch")):
        with monkeypatch.context() as patch, pytest.raises(ValueError) as told:
            patch.setattr(torch, "empty", lambda *_, error=error, **__: raising(error))
            running.find_device("abacus")
        assert str(told.value) == (
            "device is 'abacus', which cannot be used here (no); give 'cpu', or 'cuda' where "
            "PyTorch finds a GPU"
        )
    assert running.find_device("cpu") == torch.device("cpu")


def test_a_record_keeps_what_it_is_told_and_says_where_it_lies(tmp_path, capsys):
    path = tmp_path / "new" / "r.json"
    of = {"modules": PALETTE, "files": ["Makefile"], "seed": [3], "device": "abacus"}
    assert running.make_record(path, lambda: {"ms": 1}, **of) == {"ms": 1}
    assert capsys.readouterr() == ("", f"recorded in {path}\n")
    kept = json.loads(path.read_text())["provenance"]
    assert {name: kept[name] for name in of} == of
    assert kept["sources"] == ["Makefile", "opd_toy/explorables/palette.py"]


def test_further_files_that_change_while_it_runs_count(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        provenance, "source_hash", lambda *modules, files=(): asked.append((modules, files))
    )
    with running.unchanged(tmp_path, ["a", "b"], ["c"]):
        pass
    assert asked == [(("a", "b"), ["c"])] * 2


# --- a small study ---------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path, monkeypatch):
    """small(*options) runs a study made up here; ``small.calls`` are what it was asked to make."""
    monkeypatch.chdir(tmp_path)
    calls = []

    def make(path, folder):
        calls.append((path, folder, torch.get_num_threads()))
        if "full" in str(folder):
            raise ValueError("folder is full")
        running.write_record(path, {"value": 7}, modules=PALETTE)
        return {"value": 7}

    parser = argparse.ArgumentParser()
    made = running.add_small_study(
        parser.add_subparsers(),
        "small",
        "small.json",
        make,
        lambda results: f"the value is {results['value']}",
        help="a line",
        description="a study",
    )
    assert made.description == "a study"

    def run(*options):
        arguments = parser.parse_args(["small", *options])
        arguments.run(arguments)

    run.calls = calls
    return run


def test_a_small_study_is_made_on_one_thread_and_shown(small, capsys):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        small()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert small.calls == [(Path("figures/small.json"), Path("_build/lm"), 1)]
    assert capsys.readouterr().out == "the value is 7\n"
    small("--show")
    assert capsys.readouterr().out == "the value is 7\n"
    small("--show", "--json")
    assert json.loads(capsys.readouterr().out) == {"value": 7}
    small("--directory", "here", "--folder", "there", "--json")
    assert json.loads(capsys.readouterr().out) == {"value": 7}
    assert small.calls[1][:2] == (Path("here/small.json"), Path("there"))
    assert len(small.calls) == 2


@pytest.mark.parametrize(
    "options, said",
    [
        (["--folder", "full"], "error: folder is full"),
        (["--show", "--directory", "nowhere"], "which holds no small.json"),
    ],
)
def test_a_small_study_that_cannot_be_made_or_shown_says_why(options, said, small, capsys):
    with pytest.raises(SystemExit) as ended:
        small(*options)
    assert ended.value.code == 2 and said in re.sub(r"\s+", " ", capsys.readouterr().err)


# --- the three small studies -------------------------------------------------------------------


@pytest.fixture
def handed_on(monkeypatch):
    """make(module, path, folder): what it hands on to ``make_record``, its figures computed."""

    def make(module, *of):
        recorded = lambda path, compute, **more: (path, compute(), more)
        monkeypatch.setattr(module, "make_record", recorded)
        return module.make(*of)

    return make


def test_answers_that_derail_are_made_and_read_again(handed_on, monkeypatch):
    from opd_toy.lm import derailing as lab
    from opd_toy.lm import derailing_after as after

    monkeypatch.setattr(lab, "derailing", lambda *of: {"first": of})
    monkeypatch.setattr(after, "further", lambda *of: of)
    seeds = [lab.PRESET.teacher.seed, lab.PRESET.student.seed, *after.SEEDS]
    of = "folder", running.Progress
    assert handed_on(derail, "path", "folder") == (
        "path",
        {"first": of, "further": of},
        {"modules": [*lab.MODULES, *after.MODULES], "seed": seeds},
    )
    monkeypatch.setattr(lab, "derailing", lambda *of: raising(lab.MissingKinds("nothing right")))
    with pytest.raises(SystemExit) as ended:
        handed_on(derail, "path", "folder")
    assert ended.value.code == (
        "nothing right. Another processor rounds otherwise and trains another student, and another "
        "--folder does not change that. Give the command on another machine, or read the recorded "
        "figures with --show. Nothing is recorded; path stays as it was."
    )


@pytest.mark.parametrize("module, name", [(doors, "searching"), (stale, "stale")])
def test_students_that_search_and_stale_texts_are_made(module, name, handed_on, monkeypatch):
    lab = importlib.import_module(f"opd_toy.lm.{name}")
    monkeypatch.setattr(lab, name, lambda *of: of)
    of = {"modules": lab.MODULES, "seed": list(lab.SEEDS)}
    assert handed_on(module, "path", "folder") == ("path", ("folder", running.Progress), of)


def test_exact_figures_are_of_the_pairs_of_a_seed(monkeypatch, capsys):
    from opd_toy.pages import symptoms

    asked = []

    def exact(noise, *, seed):
        asked.append((noise, seed))
        return [(noise, n) for n in range(len(symptoms.WEIGHTS))]

    monkeypatch.setattr(symptoms, "stale", exact)
    found = stale.exact(7)
    assert asked == [(0.05, 7), (0.3, 7), (1.0, 7)]
    assert found == {
        f"{noise:g}": {name: [noise, float(n)] for n, name in enumerate(symptoms.WEIGHTS)}
        for noise in (0.05, 0.3, 1.0)
    }
    main(["stale", "--exact", "--json", "--seed", "7"])
    assert json.loads(capsys.readouterr().out) == found
    main(["stale", "--exact", "--seed", "7"])
    assert capsys.readouterr().out == stale.exact_table(found) + "\n"


@pytest.mark.parametrize(
    "module, file",
    [(derail, "derailing.json"), (doors, "doors.json"), (stale, "stale-rollouts.json")],
)
def test_each_small_study_has_its_command(module, file, monkeypatch, capsys):
    monkeypatch.setattr(module, "make", lambda path, folder: (path, folder))
    monkeypatch.setattr(module, "table", lambda found: " ".join(map(str, found)))
    main([module.__name__.rpartition(".")[2]])
    assert capsys.readouterr().out == f"figures/{file} _build/lm\n"
