"""The Triton kernels: on a GPU where there is one, else in Triton's interpreter, in a process of its own as Triton decides that when it is imported."""

import os
import subprocess
import sys

import pytest
import torch

from tests.conftest import ROOT

pytest.importorskip("triton", reason="the kernels need Triton: pip install triton")

if torch.cuda.is_available():
    pytest.register_assert_rewrite("tests.peers.kernels")
    from tests.peers.kernels import *
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

def compiled(kernel, types, constants, aligned, warps, architecture):
    signature = {name: "constexpr" if name in constants else types[name] for name in kernel.arg_names}
    attributes = {(kernel.arg_names.index(name),): [["tt.divisibility", 16]] for name in aligned}
    return triton.compile(ASTSource(kernel, signature, constants, attributes), GPUTarget("cuda", architecture, 32), {"num_warps": warps})

kernel, pointers = kernels._divergence_kernel, ("OWN", "OTHER", "OUT", "FACTOR", "COUNTERS", "TILE_FIELDS", "ROW_FIELDS", "VALUES")
strides = [f"{which}_{axis}" for which in ("own", "other", "out") for axis in ("outer", "inner")]
for architecture in (80, 90):
    for objective in kernels.OBJECTIVES:
        for logits, out in (("bf16", "bf16"), ("fp32", "fp32"), ("fp16", "fp32")):
            types = dict.fromkeys(kernel.arg_names, "i32") | dict.fromkeys(pointers, "*fp32") | dict.fromkeys(strides, "i64")
            types |= {"OWN": "*" + logits, "OTHER": "*" + logits, "OUT": "*" + out, "COUNTERS": "*i32", "mixing": "fp32", "rest": "fp32", "inverse_temperature": "fp32"}
            width = 4 if logits == "fp32" else 8
            constants = dict(OBJECTIVE=objective, WRITE=True, LANES=128, WIDTH=width, STEPS=4096 // (128 * width), TILES=64)
            ptx = compiled(kernel, types, constants, (*pointers, *strides, "vocabulary"), 4, architecture).asm["ptx"]
            assert ptx.count("ld.global.v4.b32") >= 4 and "ld.global.b16" not in ptx and "ld.global.u16" not in ptx, (objective, logits)
            assert "atom.global.gpu.relaxed.add" in ptx and "atom.global.gpu.acq_rel.add" in ptx and "atom.global.gpu.release.add" in ptx and "acquire" in ptx
            assert ".local" not in ptx, (objective, logits)
            print(objective, logits, architecture)
kernel = kernels._scale_kernel
for dtype in ("bf16", "fp32", "fp16"):
    ptx = compiled(kernel, {"X": "*" + dtype, "FACTOR": "*fp32", "elements": "i64"}, dict(STEPS=16, BLOCK=4096), ("X", "FACTOR", "elements"), 4, 90).asm["ptx"]
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
