"""Losses over several processes equal those of one: tests/parallel_cases.py starts them."""

import json
import os
import signal
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from opd_toy.lm import divergences, slices
from opd_toy.lm.parallel import (
    bytes_a_token,
    fused_linear_vocabulary_parallel_loss,
    vocabulary_parallel_loss,
)
from tests import parallel_cases
from tests.conftest import ROOT

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """{processes: [{case: what is wrong} of each]}, of two and of four; started once."""
    folder = tmp_path_factory.mktemp("ranks")
    with subprocess.Popen(
        [sys.executable, "-m", "tests.parallel_cases", str(folder)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as starter:
        try:
            said, _ = starter.communicate(timeout=400)
        except subprocess.TimeoutExpired:
            os.killpg(starter.pid, signal.SIGTERM)
            pytest.fail("the processes did not end within 400 seconds", pytrace=False)
    files = {n: sorted((folder / str(n)).glob("*.json")) for n in (2, 4)}
    ranks = {n: [json.loads(path.read_text(encoding="utf-8")) for path in files[n]] for n in files}
    if starter.returncode:
        wrong = [
            f"{path.stem} of {n}: {wrong}"
            for n in files
            for path, rank in zip(files[n], ranks[n])
            for wrong in rank.items()
        ]
        pytest.fail("\n".join([said, *wrong]), pytrace=False)
    assert [len(ranks[n]) for n in ranks] == [2, 4]
    return ranks


@pytest.mark.parametrize("case", parallel_cases.CASES)
def test_several_processes_are_one(found, case):
    assert [rank[case] for rank in found[2]] == ["", ""]


@pytest.mark.parametrize("case", parallel_cases.OF_FOUR)
def test_four_processes_are_one(found, case):
    assert [rank[case] for rank in found[4]] == [""] * 4


@pytest.fixture
def alone(tmp_path):
    """A mesh of this process alone."""
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


ALONE = [
    name
    for name in parallel_cases.CASES
    if name.endswith((", reverse", ", jsd .7")) or name.startswith("texts_over")
]


def test_one_process_is_a_group_too(alone):
    assert len(ALONE) > 15
    for name in ALONE:
        parallel_cases.CASES[name]()


def test_every_objective_but_top_k_is_there():
    assert slices.OBJECTIVES.keys() | {"top_k_reverse_kl"} == divergences.OBJECTIVES.keys()


def test_bytes_a_token():
    found = {
        title: bytes_a_token(name, **p) for title, (name, p) in parallel_cases.OBJECTIVES.items()
    }
    assert found["forward"] == 6 * 8 and found["reverse"] == found["jsd 1"] == 7 * 8
    assert found["jsd .1"] == 9 * 8 == max(found.values())


# --- what is refused ---------------------------------------------------------------------


def test_whole_logits_are_refused_without_a_process_group():
    assert not dist.is_initialized()
    z = torch.ones(2, 11)
    with pytest.raises(
        ValueError, match=r"student_logits is a plain tensor, shape \(2, 11\); give a DTensor on a"
    ) as e:
        vocabulary_parallel_loss(z, z)
    assert "DTensor.from_local(slice, mesh, [Shard(-1)])" in str(e.value)
    with pytest.raises(ValueError, match=r"student_weight is a plain tensor.*\[Shard\(0\)\]"):
        fused_linear_vocabulary_parallel_loss(z, z, z, z)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"teacher_logits": torch.ones(2, 11)}, r"teacher_logits is a plain tensor"),
        ({"student_logits": [1.0]}, r"student_logits is \[1.0\]; give a DTensor"),
        (
            {"teacher_logits": Replicate()},
            r"teacher_logits has placements \(Replicate\(\),\); give a DTensor on a mesh of one",
        ),
        ({"student_logits": Shard(0)}, r"student_logits has placements \(Shard\(dim=0\),\)"),
        ({"teacher_logits": (3, 11)}, r"leading axes must be equal"),
        ({"teacher_logits": (2, 12)}, r"student_logits has 11 .* and teacher_logits 12"),
        ({"teacher_logits": "another mesh"}, r"teacher_logits lies on .* both on one mesh"),
        ({"student_logits": "two axes"}, r"placements \(Shard.*, Shard.*\); give a DTensor on a"),
        ({"student_logits": torch.int64}, r"student_logits has dtype torch.int64"),
        ({"objective": "top_k_reverse_kl", "k": 3}, r"may lie in any slice; give one of reverse"),
        ({"objective": "reverse"}, r"objective is 'reverse'"),
        ({"objective": "generalized_jsd"}, r"beta is missing"),
        ({"skew": 0.5}, r"skew = 0.5 is no parameter"),
        ({"temperature": 0}, r"temperature is 0"),
        ({"mask": torch.ones(3)}, r"mask has shape \(3,\)"),
        ({"normalizer": 0}, r"normalizer is 0"),
    ],
)
def test_errors(alone, change, message):
    arguments = {"student_logits": (2, 11), "teacher_logits": (2, 11)} | change
    for name in ("student_logits", "teacher_logits"):
        arguments[name] = logits(arguments[name], alone)
    with pytest.raises(ValueError, match=message):
        vocabulary_parallel_loss(**arguments)


def logits(kind, mesh):
    """DTensors right and wrong."""
    if kind == "another mesh":
        return logits((2, 11), init_device_mesh("cpu", (1,), mesh_dim_names=("other",)))
    if kind == "two axes":
        return DTensor.from_local(
            torch.ones(2, 11), init_device_mesh("cpu", (1, 1)), [Shard(0), Shard(-1)]
        )
    if isinstance(kind, torch.Tensor | list):
        return kind
    shape = kind if isinstance(kind, tuple) else (2, 11)
    dtype = kind if isinstance(kind, torch.dtype) else torch.float32
    placement = kind if isinstance(kind, Replicate | Shard) else Shard(-1)
    return distribute_tensor(torch.ones(shape, dtype=dtype), mesh, [placement])


@pytest.mark.parametrize(
    "shapes, options, message",
    [
        (
            ((2, 5), (11, 6), (2, 7), (11, 7)),
            {},
            r"student_hidden has shape \(2, 5\) and student_w",
        ),
        (((2, 5), (11, 5), (3, 7), (11, 7)), {}, r"leading axes must be equal"),
        (((2, 5), (11, 5), (2, 7), (12, 7)), {}, r"student_weight has 11 .*teacher_weight 12"),
        (((2, 5), (11, 5), (2, 7), (11, 7)), {"chunk_tokens": 0}, r"chunk_tokens is 0"),
    ],
)
def test_errors_of_hidden_states(alone, shapes, options, message):
    made = [torch.ones(shape) for shape in shapes]
    made[1::2] = [distribute_tensor(each, alone, [Shard(0)]) for each in made[1::2]]
    with pytest.raises(ValueError, match=message):
        fused_linear_vocabulary_parallel_loss(*made, **options)
