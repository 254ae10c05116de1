"""``python -m opd_toy bench``: what is asked of the measuring process, where the record goes."""

import argparse
import json
import os
import sys
from pathlib import Path

import pytest

from opd_toy.commands import bench, bench_growth, bench_training
from opd_toy.lm.bench import cases
from tests.conftest import ROOT


def asked(**options):
    defaults = {"quick": False, "repeats": None, "threads": 2, "show": False, "json": False}
    return argparse.Namespace(**{"directory": None, "subject": None} | defaults | options)


@pytest.mark.parametrize(
    "options, folder",
    [
        ({}, "figures"),
        ({"quick": True}, "_build/bench"),
        ({"repeats": 0}, "_build/bench"),
        ({"repeats": 3, "show": True}, "figures"),
        ({"quick": True, "show": True}, "figures"),
        ({"quick": True, "directory": Path("here")}, "here"),
    ],
)
@pytest.mark.parametrize("subject", [None, "growth", "training"])
def test_a_trial_does_not_take_the_place_of_the_record(
    options, folder, subject, monkeypatch, capsys
):
    module = {None: bench, "growth": bench_growth, "training": bench_training}[subject]
    made = lambda path, arguments=None: {"path": path.as_posix()}
    monkeypatch.setattr(module, "make", made)
    monkeypatch.setattr(bench, "read_record", made)
    monkeypatch.setattr(module, "as_text", lambda results: f"text of {results['path']}")
    path = f"{folder}/{module.RECORD}"
    bench.run(None, asked(subject=subject, **options))
    assert capsys.readouterr().out == f"text of {path}\n"
    bench.run(None, asked(subject=subject, json=True, **options))
    assert json.loads(capsys.readouterr().out) == {"path": path}


@pytest.mark.parametrize(
    "error, status", [(KeyboardInterrupt, 130), (ValueError("no"), 2), (RuntimeError("no"), 2)]
)
def test_how_it_ends(error, status, monkeypatch, capsys):
    def make(path, arguments):
        raise error

    monkeypatch.setattr(bench, "make", make)
    with pytest.raises(SystemExit) as ended:
        bench.run(argparse.ArgumentParser(prog="bench"), asked())
    assert ended.value.code == status
    assert capsys.readouterr().err == (
        "" if status == 130 else "usage: bench [-h]\nbench: error: no\n"
    )


@pytest.fixture
def noted(monkeypatch):
    """What a command's ``make`` records: the path, what ``measure`` is asked, the provenance."""
    kept = {}

    def make_record(path, compute, **of):
        kept["path"], kept["of"] = path, of
        return compute()

    def measure(job, *modules, **options):
        kept["job"], kept["measured by"] = job, (modules, options)
        return "figures"

    for module in (bench, bench_growth, bench_training):
        monkeypatch.setattr(module, "make_record", make_record)
    for module in (bench, bench_training):
        monkeypatch.setattr(module, "measure", measure)
    return kept


@pytest.mark.parametrize(
    "options, repeats",
    [({}, 5), ({"quick": True}, 2), ({"repeats": 1}, 1), ({"quick": True, "repeats": 3}, 3)],
)
def test_the_losses_that_are_measured(options, repeats, noted):
    assert bench.make("there", asked(**options)) == "figures"
    job = noted["job"]
    assert (job["repeats"], job["threads"], noted["path"]) == (repeats, 2, "there")
    assert noted["of"] == {"modules": bench.MODULES, "seed": [1]}
    names = [each["name"] for each in job["settings"]]
    whole = [each.name for each in (*cases.SETTINGS, *cases.ONE_THREAD)]
    if not options.get("quick"):
        assert names == whole
        bench.make("there", asked(threads=1))
        assert [each["name"] for each in noted["job"]["settings"]] == whole[: len(cases.SETTINGS)]
        return
    assert set(names) == {"logits", "hidden_64"}
    for each in job["settings"]:
        assert (each["tokens"], each["vocabulary"]) == (32, 20_000)
        kept = [
            case
            for setting in (*cases.SETTINGS, *cases.ONE_THREAD)
            for case in setting.cases
            if setting.name == each["name"] and not case.endswith("compiled")
        ]
        assert list(each["cases"]) == kept


def test_what_growth_and_training_ask_for(noted):
    assert bench_growth.make("there", asked()) == "figures"
    assert noted["job"] == {"small": False, "repeats": 3, "threads": 2}
    assert noted["of"] == {"modules": bench_growth.MODULES, "seed": [1]}
    assert noted["measured by"] == (("opd_toy.lm.bench.growth",), {"progress": "growth"})
    bench_growth.make("there", asked(quick=True))
    assert noted["job"] == {"small": True, "repeats": 1, "threads": 2}
    assert bench_training.make("there", asked(threads=3)) == "figures"
    job = {"preset": "cpu", "repeats": 40, "counts": [1, 3], "threads": 3}
    assert (noted["job"], noted["path"]) == (job, "there")
    assert noted["of"] == {"modules": bench_training.MODULES, "seed": [1]}
    assert noted["measured by"] == (("opd_toy.lm.bench.training",), {"progress": "training"})
    bench_training.make("there", asked(threads=1, quick=True, repeats=2))
    assert noted["job"] == {"preset": "tiny", "repeats": 2, "counts": [1], "threads": 1}


@pytest.mark.parametrize("name", ["repeats", "threads"])
@pytest.mark.parametrize("module", [bench, bench_growth, bench_training])
def test_at_least_once_and_on_one_thread(name, module, noted):
    with pytest.raises(ValueError, match=f"^{name} is 0; give a whole number"):
        module.make("there", asked(**{name: 0}))
    module.make("there", asked(**{name: 1}))


# --- the measuring process -------------------------------------------------------------------

PROCESS = """
import json, os, sys
job = json.load(sys.stdin)
for step in job["steps"]:
    print(json.dumps(step), flush=True)
names = ("PYTHONPATH", "OMP_NUM_THREADS", "KEPT")
if job["status"] == "killed":
    os.kill(os.getpid(), 9)
if job["status"] is not None:
    if job["found"]:
        print(json.dumps({name: os.environ.get(name) for name in names} | {"run": sys.argv[1:]}))
    sys.exit(job["status"])
"""


@pytest.fixture
def process(tmp_path, monkeypatch):
    """An interpreter that says what it was given."""
    script, python = tmp_path / "said.py", tmp_path / "python"
    script.write_text(PROCESS)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{script}" "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(bench, "interpreter", lambda: str(python))
    monkeypatch.setenv("KEPT", "as it was")

    def job(steps=(), status=0, found=True):
        return {"threads": 3, "steps": steps, "status": status, "found": found}

    return job


def test_the_process_gets_its_job_and_tells_its_steps_and_figures(process, monkeypatch, capsys):
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    found = bench.measure(process([[1, 2], [2, 2]]), "a.module", "the bar", seconds=60)
    assert found == {
        "PYTHONPATH": os.pathsep.join([str(bench.ROOT), "elsewhere"]),
        "OMP_NUM_THREADS": "3",
        "KEPT": "as it was",
        "run": ["-m", "a.module"],
    }
    said = capsys.readouterr().err
    assert "the bar" in said and "1/2" in said and "2/2" in said
    monkeypatch.delenv("PYTHONPATH")
    found = bench.measure(process([[1, 1]]))
    assert found["PYTHONPATH"] == str(bench.ROOT)
    assert found["run"] == ["-m", "opd_toy.lm.bench.processes"]
    assert "bench" in capsys.readouterr().err


@pytest.mark.parametrize(
    "status, found, seconds, said",
    [(3, True, 60, 3), (0, False, 60, 0), ("killed", True, None, -9)],
)
def test_a_process_that_fails_or_says_nothing_ends_the_command(
    status, found, seconds, said, process
):
    with pytest.raises(SystemExit) as ended:
        bench.measure(process(status=status, found=found), seconds=seconds)
    assert ended.value.code == (f"the measurement ended with status {said}; nothing is recorded")


def test_the_clock_that_ends_it_runs_beside_it_and_keeps_nobody(process, monkeypatch):
    done = []

    class Timer:
        daemon = False

        def __init__(self, seconds, kill):
            done.append((seconds, kill.__name__))

        def start(self):
            done.append(("begun", self.daemon))  # or it would keep an interrupted program waiting

        def cancel(self):
            done.append("ended")

    monkeypatch.setattr(bench.threading, "Timer", Timer)
    for seconds in (60, None):
        bench.measure(process(), seconds=seconds)
        assert done == [(seconds, "kill"), ("begun", True), "ended"]
        done.clear()


def test_which_python_measures(tmp_path, monkeypatch):
    from opd_toy.lm.bench import processes

    assert (bench.ROOT, bench.PEERS_PYTHON) == (ROOT, ROOT / ".venv-peers" / "bin" / "python")
    peers = tmp_path / "python"
    monkeypatch.setattr(bench, "PEERS_PYTHON", peers)
    monkeypatch.setattr(processes, "versions", lambda: {"torch": "2.0"})
    assert bench.interpreter() == sys.executable  # nothing is beside it
    peers.write_text("#!/bin/sh\necho 2.0\n")
    peers.chmod(0o755)
    assert bench.interpreter() == str(peers)
    peers.write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(RuntimeError) as error:
        bench.interpreter()
    assert str(error.value) == (
        ".venv-peers has torch (none), this Python 2.0; make it anew: rm -r .venv-peers && make "
        "peers"
    )
    monkeypatch.setattr(processes, "versions", lambda: {"torch": "2.0", "trl": "1"})
    with pytest.raises(RuntimeError):  # of two libraries one is missing here
        bench.interpreter()
