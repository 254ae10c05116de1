"""Which losses a GPU's kernels are asked for, without a GPU and without Triton.

A stand-in for the kernels computes as the CPU does.
"""

import subprocess
import sys
import types

import pytest
import torch

from opd_toy.lm import heads, losses, rows
from opd_toy.lm.losses import distillation_loss, fused_linear_distillation_loss
from tests.conftest import ROOT

NAMES = ("reverse_kl", "forward_kl", "generalized_jsd", "skewed_forward_kl", "skewed_reverse_kl")


@pytest.fixture
def stand_in(monkeypatch):
    """Calls of ``divergence`` and ``scale_``, which do as the kernels do, by the CPU's rows."""
    calls = []

    def divergence(objective, z, y, factor, out=None, temperature=1.0, mixing=0.0):
        calls.append(
            (objective, tuple(z.shape), temperature, mixing, None if out is None else out.dtype)
        )
        parameters = {
            "generalized_jsd": {"beta": mixing},
            "skewed_forward_kl": {"skew": mixing},
            "skewed_reverse_kl": {"skew": mixing},
        }.get(objective, {})
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(rows, "device_kernels", lambda *_: None)
            return losses._objective(objective, z, z.shape[-1], temperature, parameters)(
                z, y, factor, out
            )

    def scale_(gradient, factor):
        calls.append(("scale_", gradient.dtype, factor.item()))
        return gradient.mul_(factor)

    module = types.SimpleNamespace(OBJECTIVES=NAMES, divergence=divergence, scale_=scale_)
    serves = lambda *tensors: module if all(x.dtype != torch.float64 for x in tensors) else None
    monkeypatch.setattr(rows, "device_kernels", serves)
    return calls


def pair(*shape, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=draw), torch.randn(*shape, generator=draw)


@pytest.mark.parametrize(
    "objective, parameters, asked",
    [
        ("reverse_kl", {}, ("reverse_kl", 0.0)),
        ("forward_kl", {}, ("forward_kl", 0.0)),
        ("generalized_jsd", {"beta": 0.3}, ("generalized_jsd", 0.3)),
        ("generalized_jsd", {"beta": 0}, ("forward_kl", 0.0)),
        ("generalized_jsd", {"beta": 1}, ("reverse_kl", 0.0)),
        ("skewed_forward_kl", {"skew": 0.2}, ("skewed_forward_kl", 0.2)),
        ("skewed_forward_kl", {"skew": 0}, ("forward_kl", 0.0)),
        ("skewed_reverse_kl", {"skew": 0.2}, ("skewed_reverse_kl", 0.2)),
        ("skewed_reverse_kl", {"skew": 0}, ("reverse_kl", 0.0)),
    ],
)
def test_the_kernel_is_asked_for_what_was_asked(objective, parameters, asked, stand_in):
    z, y = pair(2, 3, 11)
    z.requires_grad_()
    value = distillation_loss(z, y, objective, temperature=2.0, **parameters)
    (3 * value).backward()
    assert stand_in == [
        (asked[0], (2, 3, 11), 2.0, asked[1], torch.float32),
        ("scale_", torch.float32, 3.0),
    ]
    with torch.no_grad():
        assert distillation_loss(z, y, objective, temperature=2.0, **parameters) == value
    assert stand_in[-1] == (asked[0], (2, 3, 11), 2.0, asked[1], None)


def test_the_rest_stays_with_torch(stand_in):
    z, y = pair(3, 11)
    (
        distillation_loss(z, y, "top_k_reverse_kl", k=11),
        distillation_loss(z, y, "top_k_reverse_kl", k=4),
    )
    distillation_loss(z.double(), y), distillation_loss(z, y.double())
    assert not stand_in


def test_gradients_of_float16_are_float32_until_scaled(stand_in):
    for dtype, kept in ((torch.float16, torch.float32), (torch.bfloat16, torch.bfloat16)):
        z, y = (x.to(dtype) for x in pair(3, 11))
        logits = z.requires_grad_() + 0
        (64 * distillation_loss(logits, y, overwrite_logits=True)).backward()
        assert (
            stand_in[-2][-1] == kept
            and stand_in[-1] == ("scale_", kept, 64.0)
            and z.grad.dtype == dtype
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("rows_of_the_head", [None, 5])
def test_hidden_states_and_heads_on_tensor_cores(dtype, rows_of_the_head, stand_in, monkeypatch):
    """The way of a GPU: half-precision products summed in float32, few rows of the head a time."""
    products = []

    def product(a, b, out=None):
        products.append((a.dtype, b.dtype))
        return torch.mm(a.float(), b.float(), out=out)

    half = lambda a, b: a.dtype == b.dtype and a.dtype in (torch.bfloat16, torch.float16)
    (
        monkeypatch.setattr(heads, "tensor_cores", half),
        monkeypatch.setattr(heads, "_product", product),
    )
    if rows_of_the_head:
        monkeypatch.setattr(heads, "HEAD_BLOCK_BYTES", 4 * 6 * rows_of_the_head)
    h, g, w, u = *pair(2, 5, 6), *pair(11, 6, seed=1)
    mask = torch.tensor([[1, 1, 0, 1, 1], [0, 1, 1, 1, 0]])
    exact = [x.to(dtype).double().requires_grad_() for x in (h, w)]
    expected = fused_linear_distillation_loss(
        *exact, g.to(dtype).double(), u.to(dtype).double(), "reverse_kl", mask
    )
    expected.backward()
    h, w, g, u = (x.to(dtype).requires_grad_() for x in (h, w, g, u))
    value = fused_linear_distillation_loss(h, w, g, u, "reverse_kl", mask, chunk_tokens=4)
    (1024 * value).backward()
    assert (
        len(products)
        == {
            torch.float32: 0,
            torch.float16: 4,
            torch.bfloat16: 2 * (3 + (3 if rows_of_the_head else 1)),
        }[dtype]
    )
    assert all(
        call[-1] == (torch.bfloat16 if dtype == torch.bfloat16 else torch.float32)
        for call in stand_in
        if call[0] == "reverse_kl"
    )
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    for actual, wanted in zip((h, w), exact):
        assert actual.grad.dtype == dtype
        error = (actual.grad.double() / 1024 - wanted.grad).norm()
        assert (
            error
            <= (2e-6 if dtype == torch.float32 else torch.finfo(dtype).eps) * wanted.grad.norm()
        )


def test_only_gpus_and_only_with_triton(monkeypatch):
    on = lambda cuda, dtype: types.SimpleNamespace(
        is_cuda=cuda, dtype=dtype, device=torch.device("cuda", 0) if cuda else torch.device("cpu")
    )
    module = types.SimpleNamespace(serves=lambda device: device.index == 0)
    monkeypatch.setitem(sys.modules, "opd_toy.lm.kernels", module)
    import opd_toy.lm

    monkeypatch.setattr(opd_toy.lm, "kernels", module, raising=False)
    rows._kernels.cache_clear()
    try:
        assert rows.device_kernels(on(False, torch.float32)) is None
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            assert rows.device_kernels(on(True, dtype), on(True, torch.bfloat16)) is module
        assert (
            rows.device_kernels(on(True, torch.float64)) is None
            and rows.device_kernels(on(True, torch.float32), on(True, torch.float64)) is None
        )
        module.serves = lambda device: False
        rows._kernels.cache_clear()
        assert rows.device_kernels(on(True, torch.float32)) is None
        monkeypatch.delattr(opd_toy.lm, "kernels")
        monkeypatch.setitem(
            sys.modules, "opd_toy.lm.kernels", None
        )  # as where Triton is not installed
        rows._kernels.cache_clear()
        assert rows.device_kernels(on(True, torch.float32)) is None
    finally:
        rows._kernels.cache_clear()


WITHOUT_TRITON = """
import sys
sys.modules["triton"] = None
import torch
from opd_toy.lm import losses
losses.distillation_loss(torch.zeros(2, 3, requires_grad=True), torch.ones(2, 3)).backward()
assert "opd_toy.lm.kernels" not in sys.modules
try:
    import opd_toy.lm.kernels
except ImportError:
    print("none")
"""


def test_the_losses_need_no_triton():
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_TRITON], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 0 and run.stdout == "none\n", run.stderr
