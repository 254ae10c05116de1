"""The Triton kernels: on a GPU where there is one, else in Triton's interpreter.

That has a process of its own, as Triton decides for it when it is imported.
"""

import os
import subprocess
import sys

import pytest
import torch

from tests.conftest import ROOT

if torch.cuda.is_available():
    pytest.register_assert_rewrite("tests.peers.kernels")
    from tests.peers.kernels import *  # noqa: F403
else:

    def test_in_the_interpreter():
        environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
        run = subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "-p",
                "no:cacheprovider",
                "tests/peers/kernels.py",
            ],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from opd_toy.lm import kernels

POINTERS = (
    "OWN", "OTHER", "OUT", "FACTOR", "COUNTERS", "TILE_FIELDS", "ROW_FIELDS", "VALUES",
)
STRIDES = [f"{which}_{axis}" for which in ("own", "other", "out") for axis in ("outer", "inner")]

def ptx_of(kernel, types, constants, aligned, warps, architecture):
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else types[name] for name in names}
    attributes = {(names.index(name),): [["tt.divisibility", 16]] for name in aligned}
    source = ASTSource(kernel, signature, constants, attributes)
    target = GPUTarget("cuda", architecture, 32)
    return triton.compile(source, target, {"num_warps": warps}).asm["ptx"]

kernel = kernels._divergence_kernel
types = dict.fromkeys(kernel.arg_names, "i32") | dict.fromkeys(POINTERS, "*fp32")
types |= dict.fromkeys(STRIDES, "i64") | {"COUNTERS": "*i32"}
types |= dict.fromkeys(("mixing", "rest", "inverse_temperature"), "fp32")
for architecture in (80, 90):
    for objective in kernels.OBJECTIVES:
        for logits, out in (("bf16", "bf16"), ("fp32", "fp32"), ("fp16", "fp32")):
            types |= {"OWN": "*" + logits, "OTHER": "*" + logits, "OUT": "*" + out}
            width = 4 if logits == "fp32" else 8
            sizes = dict(LANES=128, WIDTH=width, STEPS=4096 // (128 * width), TILES=64)
            constants = dict(OBJECTIVE=objective, WRITE=True, **sizes)
            aligned = (*POINTERS, *STRIDES, "vocabulary")
            ptx = ptx_of(kernel, types, constants, aligned, 4, architecture)
            which = objective, logits
            assert ptx.count("ld.global.v4.b32") >= 4, which
            assert "ld.global.b16" not in ptx and "ld.global.u16" not in ptx, which
            for order in ("relaxed", "acq_rel", "release"):
                assert f"atom.global.gpu.{order}.add" in ptx, which
            assert "acquire" in ptx, which
            assert ".local" not in ptx, which
            print(objective, logits, architecture)
kernel = kernels._scale_kernel
for dtype in ("bf16", "fp32", "fp16"):
    types = {"X": "*" + dtype, "FACTOR": "*fp32", "elements": "i64"}
    ptx = ptx_of(kernel, types, dict(STEPS=16, BLOCK=4096), ("X", "FACTOR", "elements"), 4, 90)
    assert "ld.global.v4.b32" in ptx
"""


def test_code_for_a100_and_h100_is_generated():
    """Without a GPU: to machine code, with logits read 16 bytes at a time."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    run = subprocess.run(
        [sys.executable, "-c", COMPILE], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-4000:]
    assert len(run.stdout.split()) == 2 * 5 * 3 * 3
