"""python -m opd_toy variance: what its parts are asked for, its benchmark and its exponents."""

import argparse
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from opd_toy.__main__ import main
from opd_toy.commands import variance as variance_command
from opd_toy.commands import variance_tables
from opd_toy.records import provenance
from tests.conftest import ROOT

FIGURES = ROOT / "figures"


def results(path):
    return json.loads(path.read_text())["results"]


def parsed(*options):
    parser = argparse.ArgumentParser()
    variance_command.add(parser.add_subparsers())
    return parser.parse_args(["variance", *options])


@pytest.fixture
def noted(monkeypatch, tmp_path):
    """Parts that only note what they are asked for; -> (asked, what is recorded)."""
    from opd_toy.control import frozen, sensitivity, study

    asked, records = [], []

    def part(name):
        def compute(*counts, watch, **options):
            threads = torch.get_num_threads()
            watched = watch("a stage"), watch("another")
            asked.append((name, counts, options, watched, threads))
            return {"settings": {"seed": 5}} if name == "frozen" else {"seeds": [1, 2]}

        return compute

    for module in (frozen, sensitivity, study):
        name = module.__name__.rpartition(".")[2]
        monkeypatch.setattr(module, name, part(name))
        monkeypatch.setitem(variance_tables.TABLES, name, lambda results, name=name: f"the {name}")
    monkeypatch.setattr(provenance, "source_hash", lambda *modules, files=(): f"hash of {modules}")
    monkeypatch.setattr(
        variance_command,
        "write_record",
        lambda path, results, **of: records.append((path.name, results, of)),
    )
    for clock, each in (("process_time", 2), ("monotonic", 3)):  # so many seconds at each look
        clocks = itertools.count(100, each)
        monkeypatch.setattr(variance_command.time, clock, clocks.__next__)
    monkeypatch.chdir(tmp_path)
    return asked, records


def test_each_part_is_asked_with_the_book_s_numbers_unless_told_otherwise(noted, capsys):
    asked, records = noted
    main(["variance", "all", "--threads", "1"])
    printed, said = capsys.readouterr()
    names = ["study", "frozen", "sensitivity"]
    assert printed.splitlines() == [f"the {name}" for name in names]
    assert said.splitlines() == [  # each of the two checkpoints looks at the clock
        f"{name}: 9 s, 2 s of processor time; recorded in figures/control-{name}.json"
        for name in names
    ]
    seeds = {"study": [1, 2], "frozen": [5], "sensitivity": [1, 2]}
    for (name, counts, options, watched, threads), (file, results, of) in zip(asked, records):
        assert counts == (2000,) and threads == 1
        assert options == {"teacher_iterations": 2000, "dtype": torch.float32, "device": "cpu"}
        assert file == f"control-{name}.json" and "settings" in results or "seeds" in results
        module = f"opd_toy.control.{name}"
        assert of == {"modules": [module], "seed": seeds[name], "device": "cpu"}
        for stage, of_stage in zip(("a stage", "another"), watched):
            checkpoint, report = of_stage["checkpoint"], of_stage["report"]
            assert checkpoint.path == Path(f"_build/variance/{name}-{stage}.pt")
            assert report.name == f"{name}: {stage}"
            code = f"hash of {(module,)}"
            settings = [name, 2000, 2000, "torch.float32", "cpu", str(torch.__version__), code]
            assert checkpoint.settings == settings
    assert [each[0] for each in asked] == [each[0].split("-")[1][:-5] for each in records] == names


def test_other_numbers_are_handed_on(noted, capsys):
    asked, records = noted
    options = ["--iterations", "0", "--teacher-iterations", "0", "--dtype", "float64"]
    main(["variance", *options, "--threads", "2", "--checkpoints", "wait", "--json"])
    assert json.loads(capsys.readouterr().out) == {"seeds": [1, 2]}
    ((name, counts, found, watched, threads),) = asked
    assert (name, counts, threads) == ("study", (0,), 2)
    assert found == {"teacher_iterations": 0, "dtype": torch.float64, "device": "cpu"}
    assert watched[0]["checkpoint"].path == Path("wait/study-a stage.pt")
    assert watched[0]["checkpoint"].settings[1:5] == [0, 0, "torch.float64", "cpu"]


@pytest.mark.parametrize("name", ["iterations", "teacher-iterations"])
def test_a_wrong_number_is_refused_before_anything_is_trained(name, noted, capsys):
    with pytest.raises(SystemExit):
        main(["variance", f"--{name}", "-1"])
    said = f"{name.replace('-', '_')} is -1; give a whole number"
    assert said in capsys.readouterr().err and noted == ([], [])


def test_the_benchmark_takes_its_own_number_of_iterations(monkeypatch, capsys):
    from opd_toy.control import benchmark

    asked = []

    def measure(iterations, *, dtype, device):
        asked.append((iterations, dtype, device))
        return {"dtype": str(dtype)}

    monkeypatch.setattr(benchmark, "benchmark", measure)
    monkeypatch.setattr(variance_command, "benchmark_text", lambda found: f"of {found['dtype']}")
    both = (torch.float32, torch.float64)
    main(["variance", "benchmark"])
    assert capsys.readouterr().out == "of torch.float32\n\nof torch.float64\n"
    main(["variance", "benchmark", "--iterations", "3", "--json"])
    assert json.loads(capsys.readouterr().out) == {
        name: {"dtype": f"torch.{name}"} for name in ("float32", "float64")
    }
    assert asked == [(count, dtype, "cpu") for count in (20, 3) for dtype in both]


def test_the_exponents_go_on_with_the_recorded_ones_or_say_how_to_make_them(tmp_path, capsys):
    exact = variance_command.independent_exponents()
    main(["variance", "exponents", "--directory", str(tmp_path)])
    printed, said = capsys.readouterr()
    assert printed == variance_tables.exponents_table(exact) + "\n"
    path = tmp_path / "control-frozen.json"
    assert said == (
        f"\n{path} is not there; `python -m opd_toy variance frozen` measures the control task's.\n"
    )
    main(["variance", "exponents", "--directory", str(tmp_path), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found == {"independent_positions": exact, "control": None}
    whole = results(FIGURES / path.name)
    kept = {name: whole[name] for name in ("lengths", "growth")}
    path.write_text((FIGURES / path.name).read_text())
    main(["variance", "exponents", "--directory", str(tmp_path), "--json"])
    assert json.loads(capsys.readouterr().out)["control"] == kept
    main(["variance", "exponents", "--directory", str(tmp_path)])
    growth = variance_tables.growth_table(kept)
    assert capsys.readouterr().out == f"{variance_tables.exponents_table(exact)}\n\n{growth}\n"


def test_the_exact_exponents_are_those_of_the_tables_of_independent_positions():
    """Every row by the table of all texts, at lengths that can be enumerated."""
    from opd_toy import sequences
    from opd_toy.example import STUDENT, TEACHER

    found = variance_command.independent_exponents((2, 3, 5))
    assert found["lengths"] == [2, 3, 5]
    assert (found["student"], found["teacher"]) == (STUDENT.tolist(), TEACHER.tolist())
    kinds = [(row["signal"], row["causal"], row["gamma"]) for row in found["rows"]]
    assert kinds == [
        *(("sampled", True, gamma) for gamma in (0.0, 0.5, 0.9, 1.0)),
        ("sampled", False, 1.0),
        ("full_vocabulary", True, 1.0),
    ]
    for row in found["rows"]:
        variances = []
        for length in (2, 3, 5):
            pair = [sequences.TokenTree.repeat(p, length) for p in (STUDENT, TEACHER)]
            table = (
                sequences.reward_to_go(*pair, row["gamma"], row["signal"])
                if row["causal"]
                else sequences.full_return(*pair, row["signal"])
            )
            # on a tree each prefix has parameters of its own; here a position has them
            rows = np.split(
                table.dense(), np.cumsum([3 * 3**t for t in range(length)])[:-1], axis=1
            )
            summed = [each.reshape(len(each), -1, 3).sum(1) for each in rows]
            summed = np.concatenate(summed, axis=1)
            mean = table.probabilities @ summed
            variances.append(table.probabilities @ ((summed - mean) ** 2).sum(1))
        assert row["variance"] == pytest.approx(variances, rel=1e-10)
        slopes = np.diff(np.log(variances)) / np.diff(np.log((2, 3, 5)))
        assert row["exponents"] == pytest.approx(slopes.tolist(), rel=1e-9)
