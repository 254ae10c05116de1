"""``python -m opd_toy train``: what is handed on, which process speaks, on which device."""

import json
from pathlib import Path

import pytest
import torch

from opd_toy.__main__ import main
from opd_toy.commands import train
from opd_toy.lm import pretraining, training
from opd_toy.lm.methods import METHODS
from opd_toy.lm.presets import PRESETS

CURVE = {"steps": [0, 3], "accuracy": [0.25, 0.5]}


@pytest.fixture
def asked(monkeypatch):
    """What is made and trained, without doing it."""
    found = []

    def make(name):
        def made(preset, folder, *, report, device):
            found.append((name, preset.name, folder, report.name, str(device)))
            return f"the {name}"

        made.__name__ = name
        return made

    def distill(*arguments, report, **options):
        found.append((arguments, options, report.name, torch.get_num_threads()))
        return CURVE

    for name in ("teacher", "student"):
        monkeypatch.setattr(pretraining, name, make(name))
    monkeypatch.setattr(training, "distill", distill)
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    return found


def test_all_that_is_asked_for_is_handed_on(asked, capsys):
    main(["train", "--method", "gkd"])
    device = torch.device("cpu")
    defaults = {"folder": Path("_build/lm"), "steps": None, "micro_batches": 1, "device": device}
    models = ("the teacher", "the student")
    tiny, cpu = PRESETS["tiny"], PRESETS["cpu"]
    assert asked == [
        ("teacher", "tiny", Path("_build/lm"), "teacher: tiny", "cpu"),
        ("student", "tiny", Path("_build/lm"), "student: tiny", "cpu"),
        (("gkd", tiny, 1, *models), defaults, "gkd: tiny, seed 1", 1),
    ]
    printed, said = capsys.readouterr()
    assert printed == f"gkd: {METHODS['gkd'].words}\n\n{train.curve_table(CURVE)}\n"
    path = training.student_path(Path("_build/lm"), "gkd", tiny, 1, None)
    assert said == f"the trained student is {path}\n"
    asked.clear()
    options = ["--preset", "cpu", "--seed", "7", "--steps", "5", "--micro-batches", "2"]
    main(["train", "--method", "jsd", *options, "--threads", "2", "--folder", "here", "--json"])
    wanted = {"folder": Path("here"), "steps": 5, "micro_batches": 2, "device": device}
    assert asked[-1] == (("jsd", cpu, 7, *models), wanted, "jsd: cpu, seed 7", 2)
    path = training.student_path(Path("here"), "jsd", cpu, 7, 5)
    assert json.loads(capsys.readouterr().out) == {
        "method": "jsd",
        "preset": "cpu",
        "seed": 7,
        "device": "cpu",
        "dtype": "float32",
        "clock": "processor seconds",
        "student": str(path),
        "curve": CURVE,
    }


def test_in_float64_on_request(asked, monkeypatch, capsys):
    made = []
    distilled = training.distill

    def distill(*arguments, **options):
        made.append(torch.get_default_dtype())
        return distilled(*arguments, **options)

    monkeypatch.setattr(training, "distill", distill)
    main(["train", "--method", "gkd", "--folder", "here", "--float64"])
    apart = Path("here/float64")  # a student of float32 is not taken up
    assert made == [torch.float64] and torch.get_default_dtype() == torch.float32
    assert [found[2] for found in asked[:2]] == [apart, apart]
    assert asked[2][1]["folder"] == apart and str(apart) in capsys.readouterr().err
    main(["train", "--method", "gkd", "--float64", "--json"])
    assert json.loads(capsys.readouterr().out)["dtype"] == "float64"
    main(["train", "--method", "gkd"])
    assert made == [torch.float64, torch.float64, torch.float32]
    with pytest.raises(SystemExit):
        main(["train", "--method", "gkd", "--preset", "gpu", "--float64"])
    refused = capsys.readouterr().err
    assert "preset is 'gpu', which computes in bfloat16; leave out --float64" in refused
    assert len(made) == 3 and torch.get_default_dtype() == torch.float32


def test_the_methods_are_listed_in_one_column(asked, capsys):
    main(["train"])
    printed = capsys.readouterr().out
    starts = {line.index(METHODS[line.split()[0]].words) for line in printed.splitlines()}
    assert starts == {max(map(len, METHODS)) + 2} and asked == []
    assert [line.split()[0] for line in printed.splitlines()] == list(METHODS)


def test_the_first_process_alone_speaks(asked, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(train, "_processes", lambda device, make: Group())
    main(["train", "--method", "gkd"])
    assert asked and capsys.readouterr() == ("", "")
    main(["train"])
    assert capsys.readouterr().out == ""
    with pytest.raises(SystemExit) as ended:
        main(["train", "--method", "no"])
    assert ended.value.code == 2 and capsys.readouterr().err == ""

    def breaks(*_, **__):
        raise training.NotFinite("it broke down", CURVE)

    monkeypatch.setattr(training, "distill", breaks)
    for rank, code in (("1", 1), ("0", "it broke down")):
        monkeypatch.setenv("RANK", rank)
        with pytest.raises(SystemExit) as ended:
            main(["train", "--method", "gkd"])
        assert ended.value.code == code


class Group:
    def __enter__(self):
        return "teacher", "student"

    def __exit__(self, *_):
        pass


@pytest.mark.parametrize(
    "name, local, chosen",
    [("cuda", None, "cuda:0"), ("cuda", "3", "cuda:3"), ("cuda:1", "3", "cuda:1")],
)
def test_of_several_processes_each_has_a_card_of_its_own(name, local, chosen, monkeypatch):
    """With a card that is not there."""
    done = []
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if local:
        monkeypatch.setenv("LOCAL_RANK", local)
    monkeypatch.setattr(train, "find_device", torch.device)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: done.append(str(device)))
    monkeypatch.setattr(
        torch, "use_deterministic_algorithms", lambda *of, **options: done.append((of, options))
    )
    assert train._device(name) == torch.device(chosen)
    assert done == [chosen, ((True,), {"warn_only": True})]
    assert train._device("cpu") == torch.device("cpu") and len(done) == 2


@pytest.mark.parametrize("rank", ["0", "1"])
@pytest.mark.parametrize("device, backend", [("cpu", "gloo"), ("cuda", "nccl")])
def test_a_group_of_processes_is_made_and_undone(device, backend, rank, monkeypatch):
    done = []
    make = lambda: done.append("made") or "the models"
    for name in ("init_process_group", "barrier", "destroy_process_group"):
        noted = lambda *of, name=name, **options: done.append((name, of, options))
        monkeypatch.setattr(torch.distributed, name, noted)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", rank)
    with pytest.raises(RuntimeError), train._processes(torch.device(device), make) as made:
        assert made == "the models"
        raise RuntimeError
    group = ("init_process_group", (backend,), {"timeout": train.PATIENCE})
    met, left = ("barrier", (), {}), ("destroy_process_group", (), {})
    # the first makes them, the others read what it has made
    assert done == [
        *(["made", group, met] if rank == "0" else [group, met, "made"]), left
    ]  # fmt: skip
    assert train.PATIENCE.total_seconds() == 2 * 3600
    done.clear()
    for alone in ("1", None):
        monkeypatch.setenv("WORLD_SIZE", alone) if alone else monkeypatch.delenv("WORLD_SIZE")
        with train._processes(torch.device(device), lambda: "made") as made:
            assert made == "made" and done == []  # no group
