"""python -m opd_toy variance: short runs, interrupts, full disks; and what its records say."""

import argparse
import contextlib
import io
import json
import math
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from opd_toy.__main__ import main
from opd_toy.commands import running
from opd_toy.commands import variance as variance_command
from opd_toy.commands.running import Progress, aligned
from opd_toy.records import provenance

ROOT = Path(__file__).parent.parent
FIGURES = ROOT / "figures"
CROSSED = ("teacher", "student")
SHORT = ["--iterations", "30", "--teacher-iterations", "8", "--threads", "1"]


def results(path):
    return json.loads(path.read_text())["results"]


def command(folder, *more):
    return [
        "variance",
        *SHORT,
        "--directory",
        str(folder),
        "--checkpoints",
        str(folder / "waiting"),
        *more,
    ]


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """A short study, what it printed and what it said."""
    folder, printed, said = tmp_path_factory.mktemp("short"), io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(said):
        main(command(folder))
    return folder, printed.getvalue(), said.getvalue()


def test_it_records_prints_and_leaves_no_checkpoint(short, capsys):
    folder, printed, said = short
    found = results(folder / "control-study.json")
    assert np.shape(found["variance"]) == (5, 3, 30) and np.shape(found["trajectories"]) == (
        5,
        3,
        len(found["checkpoints"]),
        2,
        6,
        21,
    )
    assert found["checkpoints"][0] == 0 and found["checkpoints"][-1] == 30
    assert np.shape(found["final_position"]["mean"]) == (5, 3, 2, len(found["checkpoints"]))
    counts = np.array(found["visitation"]["counts"])
    assert (
        counts.shape == (3, 2, 21, 64)
        and (counts.sum(-1) == found["visitation"]["trajectories"]).all()
    )
    assert provenance.is_current(folder / "control-study.json")
    assert printed.count("\n") == 15 + 5 and "drifts" in printed
    assert list((folder / "waiting").iterdir()) == []
    assert len(said.splitlines()) <= 11 and "\r" not in said  # sparse where there is no terminal
    main(["variance", "--show", "--directory", str(folder)])
    assert capsys.readouterr().out == printed
    main(["variance", "--show", "--json", "--directory", str(folder)])
    assert json.loads(capsys.readouterr().out) == found


def test_a_trial_does_not_take_the_place_of_the_record(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "control-study.json").write_text('{"results": "whole"}')
    main(
        [
            "variance",
            "--iterations",
            "2",
            "--teacher-iterations",
            "1",
            "--checkpoints",
            "waiting",
            "--json",
        ]
    )
    assert (tmp_path / "figures" / "control-study.json").read_text() == '{"results": "whole"}'
    captured = capsys.readouterr()
    assert results(tmp_path / "waiting" / "control-study.json") == json.loads(captured.out)
    assert f"recorded in {Path('waiting', 'control-study.json')}" in captured.err
    main(["variance", "--show", "--json"])
    assert json.loads(capsys.readouterr().out) == "whole"


@pytest.mark.parametrize(
    ("option", "place"),
    [
        ([], "figures"),
        (["--iterations", "2000"], "waiting"),
        (["--teacher-iterations", "5"], "waiting"),
        (["--show", "--iterations", "5"], "figures"),
        (["--iterations", "5", "--directory", "here"], "here"),
    ],
)
def test_only_the_book_s_own_settings_take_the_place_of_the_record(option, place):
    parser = argparse.ArgumentParser()
    variance_command.add(parser.add_subparsers())
    arguments = parser.parse_args(["variance", "--checkpoints", "waiting", *option])
    assert variance_command.folder(arguments) == Path(place)


def test_interrupted_it_says_so_and_goes_on_to_the_same_numbers(short, tmp_path, capsys):
    run = subprocess.Popen(
        [sys.executable, "-m", "opd_toy", *command(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while "students" not in run.stderr.readline():
        assert run.poll() is None
    run.send_signal(signal.SIGINT)
    printed, said = run.communicate(timeout=60)
    assert run.returncode == 130 and printed == "" and "Traceback" not in said
    reached = int(
        re.search(r"stopped by SIGINT; the same command goes on after iteration (\d+)", said)[1]
    )
    assert 1 <= reached < 30 and not (tmp_path / "control-study.json").exists()
    main(command(tmp_path))
    said = capsys.readouterr().err
    assert (
        f"after iteration {reached}" in said and "after iteration 8" in said
    )  # the teachers are not trained again
    assert results(tmp_path / "control-study.json") == results(short[0] / "control-study.json")


def test_a_record_that_cannot_be_written_loses_nothing(short, tmp_path, capsys, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(provenance, "record", full)
        with pytest.raises(
            SystemExit,
            match="No space left on device.*Nothing finished is lost.*same command again",
        ):
            main(command(tmp_path))
    capsys.readouterr()
    main(command(tmp_path))
    assert "after iteration 30" in capsys.readouterr().err
    assert results(tmp_path / "control-study.json") == results(short[0] / "control-study.json")


def test_training_of_other_code_is_not_taken_up(tmp_path, capsys, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    few = ["--iterations", "2", "--teacher-iterations", "1"]
    monkeypatch.setattr(provenance, "record", full)
    for code, said in (("one", ""), ("one", "after iteration 2"), ("two", "or other code")):
        monkeypatch.setattr(provenance, "source_hash", lambda *_, code=code, **__: code)
        with pytest.raises(SystemExit, match="No space left"):
            main(command(tmp_path, *few))
        heard = capsys.readouterr().err
        assert said in heard and ("taking up" in heard) == ("after" in said)


def words_of_the_frozen(found):
    """What a run of four iterations says of its settings, beside the record."""
    kept = results(FIGURES / "control-frozen.json")["settings"]
    student = "gamma = 0, seed 42, trained alone for 4 iterations"
    few = {"trajectories": 64, "growth_trajectories": 32, "resamples": 20}
    assert found["settings"] == kept | {"student": student} | few
    assert {name: at["iteration"] for name, at in found["stages"].items()} == {
        "initial": 0, "early": 0, "middle": 1, "late": 4
    }  # fmt: skip


def words_of_the_sensitivity(found):
    """What a run of three iterations says of its settings, beside the record."""
    kept = results(FIGURES / "control-sensitivity.json")
    for name in ("definition", "notes", "seeds", "gammas"):
        assert found[name] == kept[name]
    for table, keys in (("rows", ("bounds", "optimiser", "gamma")), ("crossed", CROSSED)):
        named = [[[row[key] for key in keys] for row in of[table]] for of in (found, kept)]
        assert named[0] == named[1]
    assert (found["iterations"], found["checkpoints"]) == (3, [1, 2, 3])
    assert list(found["teachers"]) == list(kept["teachers"])


def test_frozen_and_sensitivity_in_short(tmp_path, capsys, monkeypatch):
    from opd_toy.control import frozen

    function = frozen.frozen
    monkeypatch.setattr(frozen, "RESAMPLES", 20)
    few = lambda *arguments, **options: function(
        *arguments,
        trajectories=64,
        growth_trajectories=32,
        lengths=(3, 6),
        gammas=(0.0, 1.0),
        **options,
    )
    few.__module__ = function.__module__
    monkeypatch.setattr(frozen, "frozen", few)
    main(command(tmp_path, "frozen", "--iterations", "4"))
    printed = capsys.readouterr().out
    assert all(stage in printed for stage in frozen.STAGES) and "Rao-Blackwellised" in printed
    found = results(tmp_path / "control-frozen.json")
    assert found["stages"]["late"]["iteration"] == 4 and len(found["growth"]["late"]) == 5 * 2
    assert json.loads((tmp_path / "control-frozen.json").read_text())["provenance"]["seed"] == [
        frozen.STUDENT_SEED
    ]
    words_of_the_frozen(found)
    main(command(tmp_path, "exponents"))
    printed = capsys.readouterr().out
    assert "full return" in printed and "fitted exponents" in printed
    main(command(tmp_path, "sensitivity", "--iterations", "3"))
    assert capsys.readouterr().out.count("\n  ") >= 20
    found = results(tmp_path / "control-sensitivity.json")
    words_of_the_sensitivity(found)
    rows = found["rows"]
    assert len(found["crossed"]) == 9
    for cell in found[
        "crossed"
    ]:  # after three iterations students are where their own bounds have them, whoever teaches
        alone = next(
            row
            for row in rows
            if (row["bounds"], row["optimiser"], row["gamma"]) == (cell["student"], "Adam 1e-3", 1)
        )
        assert cell["distance"] == pytest.approx([run[-1] for run in alone["distance"]], abs=0.2)
    assert {row["bounds"] for row in rows} == {"-3 to 1", "-2 to 0", "-5 to 2", "none"} and {
        row["gamma"] for row in rows
    } == {0, 1}


def test_exact_exponents_stay_under_the_bounds():
    found = variance_command.independent_exponents()
    by = {(row["signal"], row["gamma"], row["causal"]): row["exponents"] for row in found["rows"]}
    assert by["sampled", 0.0, True] == pytest.approx([1] * 6)
    assert (
        by["sampled", 1.0, True][0] < by["sampled", 1.0, True][-1] < 3
        and by["sampled", 1.0, False][-1] < 3
    )
    assert 1 < by["sampled", 0.9, True][-1] < 1.2 < 2 < by["sampled", 0.9, True][0]


def test_benchmark_prints_both(capsys):
    main(["variance", "benchmark", "--iterations", "1", "--threads", "1"])
    printed = capsys.readouterr().out
    assert printed.count("plain loop") == printed.count("ratio  ") == 2 and "float64" in printed


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--iterations", "-1"], "iterations is -1; give a whole number (an int) of at least 0"),
        (
            ["--teacher-iterations", "-5"],
            "teacher_iterations is -5; give a whole number (an int) of at least 0",
        ),
        (["--device", "abacus"], "device is 'abacus', which cannot be used here"),
        (["--threads", "0"], "threads is 0; give a whole number (an int) of at least 1"),
        (
            ["--show", "--directory", "nowhere"],
            "directory is 'nowhere', which holds no control-study.json; make it by the same "
            "command without --show, or run this in a checkout of the book",
        ),
        (["nonsense"], "invalid choice: 'nonsense'"),
        (["benchmark", "--show"], "--show: there is no record of the benchmark to print"),
        (["--dtype", "float16"], "invalid choice: 'float16'"),
    ],
)
def test_wrong_arguments_are_named(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(["variance", *arguments])
    assert stopped.value.code == 2 and message in capsys.readouterr().err


def test_help_names_every_part(capsys):
    with pytest.raises(SystemExit):
        main(["variance", "--help"])
    printed = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert all(f"{name}: " in printed for name in variance_command.PARTS)


def test_progress_is_one_line_on_a_terminal_and_a_line_each_quarter_elsewhere():
    stream = io.StringIO()
    stream.isatty = lambda: True
    for said in (stream, io.StringIO()):
        progress = Progress("name", said)
        for done in range(7, 101):
            progress(done, 100)
        last = said.getvalue().splitlines()[-1]
        assert "name" in last and "100/100" in last and said.getvalue().endswith("\n")
        assert ("\r" in said.getvalue()) == said.isatty()
        assert said.getvalue().count("\n") == (1 if said.isatty() else 5)
    said = io.StringIO()
    progress = Progress("in leaps", said)
    for done in (7, 40, 100):  # steps that were done before, or elsewhere, count too
        progress(done, 100)
    assert [line.split("|")[0] for line in said.getvalue().splitlines()] == [
        f"in leaps: {share:3} %".replace(" %", "%") for share in (7, 40, 100)
    ]


def test_words_stand_to_the_left_and_numbers_to_the_right():
    table = aligned([("a", "b"), ("x", "1"), ("yy", "22")], left=1)
    assert table.splitlines() == ["a      b", "---  ---", "x      1", "yy    22"]


# --- what the chapter says of the records


@pytest.fixture(scope="module")
def control():
    return results(FIGURES / "control-study.json")


def test_records_are_modest():
    for name, limit in (("study", 400), ("frozen", 80), ("sensitivity", 50)):
        assert (FIGURES / f"control-{name}.json").stat().st_size <= limit * 1000


def test_recorded_study_is_the_whole_one(control):
    assert control["gammas"] == [0, 0.25, 0.5, 0.75, 1] and control["seeds"] == [42, 43, 2026]
    assert (
        control["settings"]["iterations run"]
        == control["iterations"][-1]
        == control["checkpoints"][-1]
        == 2000
    )


def test_recorded_teachers_reach_their_targets(control):
    assert (
        np.allclose(control["teachers"]["final_position_mean"], [-3, 3], atol=0.1)
        and max(control["teachers"]["final_position_sd"]) < 0.1
    )


def test_recorded_small_gammas_reach_both_targets_and_gamma_1_is_lost_in_some_seeds(control):
    distance = np.array(
        control["final_position"]["distance_to_target"]
    )  # [gamma][seed][task][checkpoint]
    assert distance[:3, :, :, -1].max() < 0.1
    after = [i for i, iteration in enumerate(control["checkpoints"]) if iteration >= 200]
    lost = (distance[-1][..., after] > 1).any(axis=(1, 2))
    assert lost.any() and not lost.all()
    assert np.array(control["drifts"])[-1].any() and not np.array(control["drifts"])[:4].any()


def test_recorded_variance_rises_with_gamma_where_no_run_is_lost(control):
    late = np.log(np.array(control["window_geometric_mean"])[..., -5:]).mean(
        -1
    )  # [gamma][seed][task]
    assert (np.diff(late[:, 0], axis=0) > 0).all()  # seed 42
    assert (late[-1] > late[0] + 1).all()  # every seed: gamma = 1 more than e times gamma = 0
    assert (late[-1] - late[0]).max() > np.log(1e4)  # and orders of magnitude in one that is lost


def rows_of(at):
    return {(row["estimator"], row["gamma"]): row for row in at["estimators"]}


def test_recorded_effect_of_gamma_shrinks_as_the_student_comes_near():
    found = results(FIGURES / "control-frozen.json")["stages"]
    for task in ("left", "right"):
        intervals = [
            rows_of(found[stage]["tasks"][task])["sampled", 1]["output_layer"][
                "ratio_to_immediate_interval"
            ]
            for stage in found
        ]
        assert intervals[0][0] > 10 and intervals[-1][1] < 2 and intervals[-1][0] > 1
        for stage in found:
            rows = rows_of(found[stage]["tasks"][task])
            variance = {key: row["output_layer"]["variance"] for key, row in rows.items()}
            assert variance["full_vocabulary", 0] < variance["sampled", 0] / 10
            sampled = [variance["sampled", gamma] for gamma in (0, 0.25, 0.5, 0.75, 1)]
            assert sampled == sorted(sampled)
            assert variance["full_return", 1] > variance["sampled", 1]


def test_recorded_exponents_stay_under_the_bounds():
    limits = {
        ("sampled", 0): 2,
        ("sampled", 1): 3,
        ("full_return", 1): 3,
    }  # the bounds speak of these
    for rows in results(FIGURES / "control-frozen.json")["growth"].values():
        for row in rows:
            assert row["interval"][1] < limits.get((row["estimator"], row["gamma"]), math.inf)


def test_recorded_drift_hangs_on_how_sharp_the_policies_may_be():
    rows = results(FIGURES / "control-sensitivity.json")["rows"]
    drifting = {(row["bounds"], row["optimiser"], row["gamma"]): sum(row["drifts"]) for row in rows}
    assert all(number == 0 for (_, _, gamma), number in drifting.items() if gamma == 0)
    of_gamma_1 = {
        bounds: [number for (b, _, gamma), number in drifting.items() if b == bounds and gamma == 1]
        for bounds in ("-2 to 0", "-3 to 1", "-5 to 2", "none")
    }
    assert set(of_gamma_1["-2 to 0"]) == {0} and set(of_gamma_1["-5 to 2"]) == set(
        of_gamma_1["none"]
    ) == {3}
    assert all(
        1 <= number <= 3 for number in of_gamma_1["-3 to 1"]
    )  # whatever the optimiser, clipped or not


def test_recorded_drift_hangs_on_the_teachers_bounds_rather_than_the_students():
    arrived = {
        (row["teacher"], row["student"]): 3 - sum(row["drifts"])
        for row in results(FIGURES / "control-sensitivity.json")["crossed"]
    }
    by_teacher, by_student = (
        [
            sum(n for pair, n in arrived.items() if pair[side] == bounds)
            for bounds in ("-2 to 0", "-3 to 1", "-5 to 2")
        ]
        for side in (0, 1)
    )
    assert by_teacher[0] == 9 and by_teacher[2] == 0 and 0 < by_teacher[1] < 9
    assert max(by_student) - min(by_student) <= 2


def test_a_bar_that_is_taken_up_begins_where_the_work_does():
    progress = Progress("work", io.StringIO())
    progress(500, 2000)
    assert (progress.bar.initial, progress.bar.n) == (499, 500)
    assert "monitor" not in vars(type(progress.bar))  # a thread, beside which no process may fork


def test_a_record_makes_its_folder(tmp_path):
    path = tmp_path / "new" / "record.json"
    running.write_record(path, {"value": 1}, modules=["opd_toy.explorables.palette"])
    assert running.read_record(path) == {"value": 1}
    whole = path.read_text()
    for torn in ("", whole[: len(whole) // 2], "{}", "[]"):
        path.write_text(torn)
        with pytest.raises(ValueError, match="record.json is no whole record .* make it again"):
            running.read_record(path)


def test_what_was_measured_is_not_lost_on_a_full_disk(tmp_path, monkeypatch, capsys):
    full = lambda *a, **o: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    modules = ["opd_toy.explorables.palette"]
    path = tmp_path / "record.json"
    assert running.make_record(path, lambda: {"ms": 1.5}, modules=modules) == {"ms": 1.5}
    monkeypatch.setattr(running.provenance, "record", full)
    capsys.readouterr()
    with pytest.raises(
        SystemExit, match=r"could not write .*record.json .*No space left.*Make room"
    ):
        running.make_record(path, lambda: {"ms": 2.5}, modules=modules)
    assert json.loads(capsys.readouterr().out) == {"ms": 2.5}
    assert running.read_record(path) == {"ms": 1.5}


def test_threads_are_as_before_once_the_work_is_done():
    before = torch.get_num_threads()
    with running.threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_fixed_words_of_the_record_are_those_of_the_code(short):
    """What a record says of its settings, beside a run of today with other numbers."""
    kept = results(FIGURES / "control-study.json")
    today = results(short[0] / "control-study.json")
    assert today["settings"] == kept["settings"] | {"iterations run": 30}
    for name in ("gammas", "seeds", "tasks", "starts", "targets"):
        assert today[name] == kept[name]
    assert today["visitation"].keys() == kept["visitation"].keys()
    for name in ("gammas", "bins", "trajectories", "outermost"):
        assert today["visitation"][name] == kept["visitation"][name]
    assert today["teachers"].keys() == kept["teachers"].keys()
    assert today["teachers"]["trajectories"] == kept["teachers"]["trajectories"]
