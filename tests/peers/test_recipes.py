"""The recipes for two processes: each prints what it compared, and that is read here."""

import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = Path(sys.executable).parent
TORCHRUN = ("torchrun", "--standalone", "--nproc_per_node", "2")
LAUNCHERS = {
    "FSDP2": ("accelerate", "launch", "--config_file", "examples/accelerate_fsdp.yaml"),
    "DDP": TORCHRUN,
}
OURS = ("ExactGKDTrainer", "FusedDistillationTrainer")
LINE = re.compile(
    r"^(?P<name>[\w, =]+?)(, valid tokens (?P<tokens>\[.*\]))?: loss (?P<loss>\S+), "
    r"in one process (?P<alone>\S+); gradient ((?P<length>\S+) times as long, )?"
    r"(?P<apart>\S+) of its length apart$",
    re.MULTILINE,
)


@cache
def printed(*command):
    """What a command prints on two processes; none of them is left when it is over."""
    settings = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(
        [PROGRAMS / command[0], *command[1:]],
        cwd=ROOT,
        env={**os.environ, **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        out, errors = process.communicate(timeout=300)
    finally:
        process.terminate()  # the launcher then ends its workers
        process.wait(60)
    assert process.returncode == 0, errors[-4000:]
    return out


def compared(*command):
    return {found["name"]: found for found in LINE.finditer(printed(*command))}


def tokens(text):
    """Valid tokens of each process."""
    return [sum(map(int, re.findall(r"\d+", part))) for part in text.split("], [")]


def check_equal(found):
    assert float(found["loss"]) == pytest.approx(float(found["alone"]), abs=2e-6)
    assert float(found["apart"]) <= 3e-6


@pytest.mark.parametrize("sharding", LAUNCHERS)
def test_trl_s_trainers_with_the_book_s_losses(sharding):
    command = *LAUNCHERS[sharding], "examples/trl_two_processes.py"
    assert printed(*command).startswith(f"{sharding} on 2 processes")
    found = compared(*command)
    assert {*OURS, "GKDTrainer", "DistillationTrainer"} == {*found}
    for name in (*OURS, "DistillationTrainer"):
        check_equal(found[name])
        one, other = tokens(found[name]["tokens"])
        assert one != other  # else a mean on each process would do


@pytest.mark.parametrize("sharding", LAUNCHERS)
def test_what_the_readme_says_of_gkd_trainer(sharding):
    """trl 1.16.0 divides by the tokens of all processes, and the gradients are averaged then."""
    found = compared(*LAUNCHERS[sharding], "examples/trl_two_processes.py")["GKDTrainer"]
    assert float(found["length"]) == pytest.approx(0.5, abs=1e-3)
    assert float(found["loss"]) == pytest.approx(float(found["alone"]) / 2, abs=2e-6)


def test_verl_s_update_with_the_book_s_losses():
    command = *TORCHRUN, "examples/verl_two_processes.py"
    title = printed(*command).splitlines()[0]
    assert title == "verl's FSDP2 engine on 2 processes, valid tokens [20, 22]"
    found = compared(*command)
    names = "reverse_kl_of_texts", "reverse_kl_of_tokens", "top_k_reverse_kl, K = "
    assert {*names[:2], names[2] + "8", names[2] + "64"} == {*found}
    for each in found.values():
        check_equal(each)


def test_verl_finds_the_losses():
    """As the first lines of their file say; where it would be another loss it is refused."""
    names = "reverse_kl_of_texts", "reverse_kl_of_tokens", "top_k_reverse_kl"
    code = f"""
from types import SimpleNamespace
import verl
from verl.trainer.distillation.losses import get_distillation_loss_fn
functions = [get_distillation_loss_fn(name) for name in {names}]
try:
    functions[-1](SimpleNamespace(strategy="megatron"), None, None, None)
except ValueError as error:
    print(error)
print([function.__module__ for function in functions])
"""
    path = os.pathsep.join([str(ROOT), str(ROOT / "examples")])
    named = {"PYTHONPATH": path, "VERL_USE_EXTERNAL_MODULES": "verl_distillation_loss"}
    said = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **named},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert said.returncode == 0, said.stderr[-4000:]
    *_, refused, modules = said.stdout.splitlines()
    assert modules == str(["verl_distillation_loss"] * 3)
    assert refused.startswith("actor.strategy is 'megatron'; top_k_reverse_kl needs")


def test_what_the_readme_says_of_verl_s_default():
    out = printed(*TORCHRUN, "examples/verl_two_processes.py")
    line = r"^(.+) as a loss, .*: (\S+) of its length from the reverse KL's, (\S+) from"
    apart = {name: (float(x), float(y)) for name, x, y in re.findall(line, out, re.MULTILINE)}
    assert apart["verl's k2"][0] < 1e-5 < 0.1 < apart["verl's k2"][1]
    assert min(apart["verl's k3"]) > 0.1
    assert apart["k3 without clamps"][1] < 1e-5 < 0.1 < apart["k3 without clamps"][0]
    assert int(re.search(r"without gradient: (\d+)%", out)[1]) > 10
