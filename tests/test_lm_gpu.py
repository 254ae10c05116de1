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


# --- what each part runs ---------------------------------------------------------------------


@pytest.fixture
def ran(monkeypatch):
    """The commands that ``_ended`` is asked to run; ``ran.status`` is what they end with."""

    class Ran(list):
        status = 0

    found = Ran()

    def ended(command, seconds, environment):
        found.append((command, seconds, environment))
        return found.status

    monkeypatch.setattr(gpu, "_ended", ended)
    return found


@pytest.mark.parametrize("rehearse", [False, True])
def test_the_study_is_asked_for_by_its_command(rehearse, ran, tmp_path):
    assert gpu.study(tmp_path, "cuda", rehearse, 60) is None
    ((command, seconds, environment),) = ran
    asked = gpu.REHEARSED_STUDY if rehearse else ("--preset", "small-gpu", "--device", "cuda")
    places = ["--directory", str(tmp_path), "--folder", "_build/lm-gpu"]
    assert command == [sys.executable, "-m", "opd_toy", "study", *asked, *places]
    assert seconds == 60 and environment == dict(os.environ)
    ran.status = 3
    assert gpu.study(tmp_path, "cuda", rehearse, 60) == "ended with status 3"
    ran.status = None
    assert gpu.study(tmp_path, "cuda", rehearse, 60) == "cut off by time, the same command goes on"


def test_a_rehearsed_study_is_a_small_one():
    options = dict(zip(gpu.REHEARSED_STUDY[::2], gpu.REHEARSED_STUDY[1::2]))
    assert options == {
        "--preset": "tiny",
        "--methods": "gkd,pg_0",
        "--steps": "2",
        "--seeds": "1,2",
        "--workers": "2",
        "--device": "cpu",
    }


@pytest.mark.parametrize("rehearse", [False, True])
def test_the_losses_that_are_measured(rehearse, tmp_path, monkeypatch, capsys):
    asked = []

    def measure(job, *modules, **options):
        asked.append((job, modules, options))
        return {"processor": "a card"}

    monkeypatch.setattr(gpu.bench, "measure", measure)
    monkeypatch.setattr(gpu, "as_text", lambda found: f"on {found['processor']}")
    flushed = []
    monkeypatch.setattr(
        gpu, "print", lambda text, flush=False: flushed.append(flush) or print(text), raising=False
    )
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert gpu.losses(tmp_path, "cuda", rehearse, 60) is None
    repeats, threads = (2, 1) if rehearse else (10, 7)
    job = {"device": "cuda", "repeats": repeats, "threads": threads, "small": rehearse}
    options = {"progress": "gpu: losses", "seconds": 60}
    assert asked == [(job, ("opd_toy.lm.bench.device",), options)]
    assert capsys.readouterr().out == "on a card\n"
    assert flushed == [True]  # before the study's process writes there, too
    kept = json.loads((tmp_path / "loss-benchmark-gpu.json").read_text())["provenance"]
    assert (kept["modules"], kept["seed"], kept["device"]) == (
        ["opd_toy.lm.bench.device"], [1], "a card"
    )  # fmt: skip

    def late(*_, **__):
        raise subprocess.TimeoutExpired("it", 1)

    monkeypatch.setattr(gpu.bench, "measure", late)
    assert gpu.losses(tmp_path, "cuda", rehearse, 60) == "did not end in time"


def test_the_kernels_are_tested_by_pytest(ran, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu.bench, "interpreter", lambda: "python-of-peers")
    tried = []
    monkeypatch.setattr(
        subprocess,
        "run",
        lambda *of, **options: tried.append((of, options)) or subprocess.CompletedProcess(of, 0),
    )
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    ran.status = None
    folder = tmp_path / "new"
    for rehearse in (False, True):
        assert gpu.kernels(folder, "cuda", rehearse, 60) == "did not end in time"
    tries = ["python-of-peers", "-c", "import triton, pytest"]
    assert tried == [((tries,), {"capture_output": True})] * 2  # what it says is not shown
    outcome = f"--junitxml={folder / 'kernels-gpu.xml'}"
    start = ["python-of-peers", "-m", "pytest", "-q", "-p", "no:cacheprovider", outcome]
    (tests, seconds, on_card), (few, _, rehearsed) = ran
    assert tests == [*start, "tests/peers/test_kernels.py"] and seconds == 60
    assert few == [*start, "tests/peers/kernels.py", "-k", gpu.FEW]
    assert on_card["OMP_NUM_THREADS"] == "3" and "TRITON_INTERPRET" not in on_card
    assert (rehearsed["OMP_NUM_THREADS"], rehearsed["TRITON_INTERPRET"]) == ("1", "1")
    for words in gpu.FEW.split(" or "):
        assert words in (gpu.ROOT / "tests" / "peers" / "kernels.py").read_text()


@pytest.mark.parametrize(
    "changed, said",
    [
        ("", None),
        ('errors="0"', "failed"),
        ('failures="0"', "failed"),
        ('tests="4"', "failed"),
    ],
)
def test_the_kernels_pass_if_some_were_tested_and_none_failed(changed, said, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu.bench, "interpreter", lambda: "python")
    monkeypatch.setattr(subprocess, "run", lambda *a, **o: subprocess.CompletedProcess(a, 0))
    other = 'tests="0"' if changed == 'tests="4"' else changed.replace("0", "1")
    outcome = tmp_path / "kernels-gpu.xml"
    text = PASSED.replace(changed, other) if changed else PASSED
    outcome.write_text("of another go")
    write = lambda *_: None if outcome.exists() else outcome.write_text(text) and 0
    monkeypatch.setattr(gpu, "_ended", write)
    monkeypatch.setattr(gpu, "_name", lambda device: f"the {device}")
    assert gpu.kernels(tmp_path, "cpu", True, 60) == said
    assert not outcome.exists()
    kept = json.loads((tmp_path / "kernels-gpu.json").read_text())["provenance"]
    assert (kept["modules"], kept["device"]) == (["opd_toy.lm.kernels"], "the cpu")


def test_a_command_is_run_where_its_files_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    says = (
        "import os, sys; open(sys.argv[1], 'w').write(os.getcwd() + '|' + os.environ['PYTHONPATH'])"
    )
    for words, folder in (("pytest", gpu.ROOT), ("study", tmp_path)):
        file = tmp_path / words
        environment = {**os.environ, "PYTHONPATH": "before"}
        command = [sys.executable, "-c", says, str(file), words]
        assert gpu._ended(command, 60, environment) == 0
        assert file.read_text() == f"{folder}|{os.pathsep.join([str(gpu.ROOT), 'before'])}"
    environment = {name: x for name, x in os.environ.items() if name != "PYTHONPATH"}
    assert gpu._ended([sys.executable, "-c", says, str(file)], 60, environment) == 0
    assert file.read_text().endswith(f"|{gpu.ROOT}")
    assert gpu._ended([sys.executable, "-c", "raise SystemExit(3)"], 60, dict(os.environ)) == 3


@pytest.mark.parametrize("rehearse", [False, True])
def test_each_part_gets_its_share_of_the_time_that_is_left(rehearse, tmp_path, monkeypatch, capsys):
    clock, asked = [1000.0], []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gpu.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(gpu, "find_device", lambda name: f"the {name}")

    def part(name, seconds, said):
        def run(directory, device, rehearsed, share):
            asked.append((name, str(directory), device, rehearsed, share))
            clock[0] += seconds
            return said

        return run

    parts = {"kernels": part("kernels", 100, None), "bench": part("bench", 370, "no")}
    monkeypatch.setattr(gpu, "PARTS", parts | {"study": part("study", 5, None)})
    options = ["--rehearse"] if rehearse else []
    with pytest.raises(SystemExit) as ended:
        main(["gpu", *options])
    device = "the cpu" if rehearse else "the cuda"
    folder = "_build/gpu" if rehearse else "figures"
    assert asked == [
        ("kernels", folder, device, rehearse, 0.4 * 480),
        ("bench", folder, device, rehearse, 0.4 * 380),
        ("study", folder, device, rehearse, 10),
    ]
    assert ended.value.code == "not done: bench. What is recorded stays."
    assert capsys.readouterr().err == (
        "kernels: recorded, 100 s\nbench: no, 370 s\nstudy: recorded, 5 s\n"
    )
    asked.clear()
    monkeypatch.setattr(gpu, "PARTS", {"kernels": part("kernels", 1, None)})
    main(["gpu", *options, "--minutes", "0.5", "--directory", "here"])
    assert asked == [("kernels", "here", device, rehearse, 0.4 * 30)]


def test_a_device_is_named():
    assert gpu._name("cpu") == "cpu"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "get_device_name", lambda device: f"the card {device}")
        assert gpu._name("cuda:1") == "the card cuda:1"


def test_what_does_not_heed_an_interrupt_is_ended(monkeypatch):
    done = []

    class Deaf:
        def __init__(self, command, **options):
            done.append((command, options["cwd"]))

        def __enter__(self):
            return self

        def __exit__(self, *_):
            done.append("left")

        def wait(self, seconds):
            done.append(seconds)
            raise subprocess.TimeoutExpired("it", seconds)

        def send_signal(self, number):
            done.append(number)

        def kill(self):
            done.append("killed")

    monkeypatch.setattr(subprocess, "Popen", Deaf)
    assert gpu._ended(["python"], 7, {}) is None
    assert done == [(["python"], None), 7, gpu.signal.SIGINT, 20, "killed", "left"]
