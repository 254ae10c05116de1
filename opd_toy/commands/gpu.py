"""What `python -m opd_toy gpu` does: all that wants a card, in one go of some minutes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

from opd_toy.commands import bench
from opd_toy.commands.bench_tables import as_text
from opd_toy.commands.running import find_device, stoppable, unchanged, write_record

ROOT = Path(__file__).parents[2]
MINUTES = 8.0
ENOUGH = 10  # seconds, without which no part is begun
# Of the time that is left when a part begins, how much it may take.
SHARES = {"kernels": 0.4, "bench": 0.4, "study": 1.0}
FEW = "mixed_dtypes or scaling or without_gradients or identical_models"  # quick in the interpreter
REHEARSED_STUDY = (
    *("--preset", "tiny", "--methods", "gkd,pg_0", "--steps", "2", "--seeds", "1,2"),
    *("--workers", "2", "--device", "cpu"),
)


def add(commands):
    parser = commands.add_parser(
        "gpu",
        help="all that wants a graphics card: kernels, loss benchmark, study",
        description="On a machine with one card: test the Triton kernels, measure the losses "
        "beside TRL's and Liger's and beside the card's own copy and product rates, and run the "
        "study at a size of minutes. Each part is recorded as soon as it is done, in "
        "kernels-gpu.json, loss-benchmark-gpu.json and lm-study-small-gpu.json; the same command "
        "goes on with a study that time cut off. It needs a PyTorch that finds the card, also in "
        ".venv-peers if `make peers` has made that.",
    )
    parser.add_argument(
        "--rehearse",
        action="store_true",
        help="take the processor as the card, small sizes and Triton's interpreter; recorded in "
        "_build/gpu",
    )
    parser.add_argument(
        "--minutes", type=float, default=MINUTES, help=f"time for all (default: {MINUTES:g})"
    )
    parser.add_argument(
        "--directory", type=Path, help="where the records go (default: figures, or _build/gpu)"
    )
    parser.set_defaults(run=lambda arguments: run(parser, arguments))


def run(parser, arguments):
    with stoppable(parser):
        device = str(find_device("cpu" if arguments.rehearse else "cuda"))
        default = "_build/gpu" if arguments.rehearse else "figures"
        directory = arguments.directory or Path(default)
        ends = time.monotonic() + 60 * arguments.minutes
        failed = []
        for name, part in PARTS.items():
            started, left = time.monotonic(), ends - time.monotonic()
            if left < ENOUGH:
                said = "no time is left"
            else:
                said = part(directory, device, arguments.rehearse, SHARES[name] * left)
            seconds = time.monotonic() - started
            print(f"{name}: {said or 'recorded'}, {seconds:.0f} s", file=sys.stderr)
            if said:
                failed.append(name)
    if failed:
        sys.exit(f"not done: {', '.join(failed)}. What is recorded stays.")


# --- the parts: each records its figures, or returns why not --------------------------------


def kernels(directory, device, rehearse, seconds):
    """The kernels' tests, by pytest in the Python that has Triton."""
    path, modules = directory / "kernels-gpu.json", ["opd_toy.lm.kernels"]
    outcome = (directory / "kernels-gpu.xml").resolve()
    python = bench.interpreter()
    if subprocess.run([python, "-c", "import triton, pytest"], capture_output=True).returncode:
        return "Triton or pytest is not here: `make peers` brings both"
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={outcome}"]
    environment = dict(os.environ)
    if rehearse:
        command += ["tests/peers/kernels.py", "-k", FEW]
        environment |= {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    else:
        command += ["tests/peers/test_kernels.py"]
    outcome.unlink(missing_ok=True)
    with unchanged(path, modules):
        if _ended(command, seconds, environment) is None:
            return "did not end in time"
    found = next(ElementTree.parse(outcome).getroot().iter("testsuite")).attrib
    outcome.unlink()
    results = {name: int(found[name]) for name in ("tests", "failures", "errors", "skipped")}
    results["seconds"] = float(found["time"])
    write_record(path, results, modules=modules, device=_name(device))
    return None if results["failures"] == results["errors"] == 0 < results["tests"] else "failed"


def losses(directory, device, rehearse, seconds):
    """The losses beside other libraries' and beside the card's rates."""
    path, modules = directory / "loss-benchmark-gpu.json", ["opd_toy.lm.bench.device"]
    job = {
        "device": device,
        "repeats": 2 if rehearse else 10,
        "threads": 1 if rehearse else os.cpu_count(),
        "small": rehearse,
    }
    try:
        with unchanged(path, modules):
            found = bench.measure(job, *modules, progress="gpu: losses", seconds=seconds)
    except subprocess.TimeoutExpired:
        return "did not end in time"
    write_record(path, found, modules=modules, seed=[1], device=found["processor"])
    print(as_text(found), flush=True)
    return None


def study(directory, device, rehearse, seconds):
    """The study; cut off by time it goes on with the next command."""
    asked = REHEARSED_STUDY if rehearse else ("--preset", "small-gpu", "--device", device)
    places = ("--directory", str(directory), "--folder", "_build/lm-gpu")
    command = [sys.executable, "-m", "opd_toy", "study", *asked, *places]
    status = _ended(command, seconds, dict(os.environ))
    if status is None:
        return "cut off by time, the same command goes on"
    return None if status == 0 else f"ended with status {status}"


PARTS = {"kernels": kernels, "bench": losses, "study": study}


def _ended(command, seconds, environment):
    """The status of a command; None where it was stopped, after these seconds."""
    paths = [str(ROOT), environment.get("PYTHONPATH")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    with subprocess.Popen(command, cwd=_root_for(command), env=environment) as process:
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)  # heard at a checkpoint
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
            return None


def _root_for(command):
    """The kernels' tests are named from the root; a study's folders from where we are."""
    return ROOT if "pytest" in command else None


def _name(device):
    import torch

    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device
