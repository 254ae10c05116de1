"""``python -m opd_toy study``: what is asked of the study, and where its record lies."""

import argparse
import dataclasses
import json
from pathlib import Path

import pytest
import torch

from opd_toy.__main__ import main
from opd_toy.commands import study as command
from opd_toy.lm.methods import METHODS
from opd_toy.lm.presets import PRESETS
from opd_toy.lm.study import stages


def parsed(*options):
    parser = argparse.ArgumentParser()
    command.add(parser.add_subparsers())
    return parser.parse_args(["study", *options])


def plan(*options):
    arguments = parsed(*options)
    return command._plan(arguments, PRESETS[arguments.preset])


BOOKS = {"cpu", "small-gpu", "gpu"}


@pytest.mark.parametrize("preset", PRESETS)
def test_where_the_record_is(preset):
    own = ",".join(map(str, PRESETS[preset].seeds))
    for options in ([], ["--steps", "3"], ["--seeds", own], ["--methods", "gkd"]):
        for place in ([], ["--directory", "here"], ["--folder", "there"]):
            asked = ["--preset", preset, *options, *place]
            made = command._record(parsed(*asked))
            assert made.name == f"lm-study-{preset}.json"
            folder = "there" if place[:1] == ["--folder"] else "_build/lm"
            wanted = folder if options or preset not in BOOKS else "figures"
            assert made.parent == Path("here" if place[:1] == ["--directory"] else wanted)
    assert plan("--preset", preset, "--seeds", own)[0] == PRESETS[preset]
    assert set(command.RECORDED) == BOOKS and set(command.ON_A_GPU) == BOOKS - {"cpu"}


def test_what_is_asked_replaces_the_presets_own_and_nothing_else():
    cpu = PRESETS["cpu"]
    assert plan() == (cpu, tuple(METHODS))
    few = plan("--steps", "3", "--seeds", "0,7", "--methods", "gkd,pg_0,gkd")
    assert few[1] == ("gkd", "pg_0") and few[0].seeds == (0, 7)
    settings = few[0].distillation
    assert (settings.steps, settings.evaluate_every) == (3, 3)
    assert few[0] == dataclasses.replace(cpu, seeds=(0, 7), distillation=settings)
    many = plan("--steps", "99999")[0].distillation
    assert many == dataclasses.replace(cpu.distillation, steps=99999)
    assert plan("--steps", "1")[0].distillation.evaluate_every == 1


@pytest.mark.parametrize(
    "seeds, said",
    [
        ("1,x", "give whole numbers with commas between, such as 1,2,3"),
        ("-1,2", "give different numbers of at least 0"),
        ("1,1", "give different numbers of at least 0"),
    ],
)
def test_seeds_that_cannot_be(seeds, said):
    with pytest.raises(ValueError) as error:
        plan(f"--seeds={seeds}")
    assert str(error.value) == f"seeds is {seeds!r}; {said}"


@pytest.fixture
def made(monkeypatch, tmp_path):
    """What the study is asked for and what is recorded."""
    asked, records = [], []

    def study(preset, folder, **options):
        asked.append((preset, folder, options))
        return {"device": "a processor", "study": preset.name}

    monkeypatch.setattr(stages, "study", study)
    monkeypatch.setattr(command, "report", lambda results: f"report of {results['study']}")
    monkeypatch.setattr(
        command, "write_record", lambda path, results, **of: records.append((path, results, of))
    )
    monkeypatch.chdir(tmp_path)
    return asked, records


def test_all_is_handed_on_and_recorded(made, capsys, monkeypatch):
    asked, records = made
    clock = iter((100.0, 107.0))
    monkeypatch.setattr(command.time, "monotonic", lambda: next(clock, 0.0))
    main(["study"])
    ((preset, folder, options),) = asked
    assert (preset, folder) == (PRESETS["cpu"], Path("_build/lm"))
    assert options.pop("watch")("a stage").name == "study cpu: a stage"
    workers, device = PRESETS["cpu"].workers, torch.device("cpu")
    assert options == {"methods": tuple(METHODS), "workers": workers, "device": device}
    of = {"modules": stages.MODULES, "seed": list(preset.seeds), "device": "a processor"}
    results = {"device": "a processor", "study": "cpu"}
    assert records == [(Path("figures/lm-study-cpu.json"), results, of)]
    printed, said = capsys.readouterr()
    assert printed == "report of cpu\n"
    assert said == "study cpu: 7 s in this go; recorded in figures/lm-study-cpu.json\n"
    main(["study", "--preset", "tiny", "--workers", "7", "--folder", "here", "--json"])
    assert asked[1][1] == Path("here") and asked[1][2]["workers"] == 7
    assert json.loads(capsys.readouterr().out) == {"device": "a processor", "study": "tiny"}


@pytest.mark.parametrize("preset", ["cpu", "small-gpu", "gpu"])
def test_the_presets_for_a_card_ask_for_it(preset, made, monkeypatch):
    """With a card that is not there."""
    asked, done = made[0], []
    monkeypatch.setattr(command, "find_device", torch.device)
    monkeypatch.setattr(
        torch, "use_deterministic_algorithms", lambda *of, **options: done.append((of, options))
    )
    main(["study", "--preset", preset, "--folder", "here"])
    assert asked[0][2]["device"] == torch.device("cpu" if preset == "cpu" else "cuda")
    assert done == ([] if preset == "cpu" else [((True,), {"warn_only": True})])
    done.clear()
    main(["study", "--preset", preset, "--device", "cpu", "--folder", "here"])
    assert asked[1][2]["device"] == torch.device("cpu") and done == []


def test_interrupted_it_says_that_it_goes_on(made, monkeypatch, capsys):
    def study(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(stages, "study", study)
    with pytest.raises(SystemExit) as ended:
        main(["study"])
    assert (ended.value.code, capsys.readouterr().err) == (
        130,
        "stopped; the same command goes on\n",
    )
