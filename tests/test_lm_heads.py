"""Products with an output head, and the memory that gradients lie in."""

import mmap
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from opd_toy.lm import heads
from opd_toy.lm.losses import distillation_loss, fused_linear_distillation_loss
from opd_toy.lm.rows import LARGE_BYTES, large_pages

pytestmark = pytest.mark.usefixtures("one_thread")

TOKENS, WORDS, WIDTH = 9, 70_000, 64  # 4.5 million entries, in tiles of unequal length


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def error(actual, expected):
    return (actual.double() - expected).norm() / expected.norm()


@pytest.mark.parametrize("onednn", [True, False])
def test_products_with_a_head(onednn, monkeypatch):
    if onednn and not heads._has_onednn():
        pytest.skip("this processor has no AVX-512")
    monkeypatch.setattr(heads, "_has_onednn", lambda: onednn)
    hidden, head = drawn(TOKENS, WIDTH), drawn(WORDS, WIDTH, seed=1)
    assert (heads._multiplication(hidden, head) is torch.mm) is not onednn
    out = torch.full((TOKENS, WORDS), torch.nan)
    heads.logits(hidden, head, out)
    assert error(out, hidden.double() @ head.double().T) < 5e-7
    assert error(heads.times_head(out, head), out.double() @ head.double()) < 5e-6
    total, once = torch.full((WORDS, WIDTH), torch.nan), out.double().T @ hidden.double()
    for times in (1, 2):
        heads.add_to_head(total, out, hidden, first=times == 1)
        assert error(total, times * once) < 5e-7


def product(a, b, bias, attribute, scalars, algorithm):
    """In place of oneDNN's."""
    return a @ b.T


def no_onednn(*arguments):
    raise RuntimeError("Could not run 'mkldnn::_linear_pointwise'")


@pytest.mark.parametrize(
    "capability, operations, has",
    [
        ("AVX512", {"_linear_pointwise": product}, True),
        ("AVX2", {"_linear_pointwise": product}, False),
        ("AVX512", {}, False),
        ("AVX512", {"_linear_pointwise": lambda a, b: a @ b.T}, False),
        ("AVX512", {"_linear_pointwise": no_onednn}, False),
        ("AVX512", {"_linear_pointwise": lambda a, b, *others: a @ b}, False),
    ],
    ids=["all", "other processor", "no operation", "other arguments", "not built", "other result"],
)
def test_onednn_is_asked_for_a_product_first(capability, operations, has, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace(**operations))
    assert heads._has_onednn.__wrapped__() is has


def test_what_is_left_to_a_card(monkeypatch):
    """Products of two matrices in one half precision; there sums are torch's."""
    half, brain, single = torch.float16, torch.bfloat16, torch.float32
    on = lambda cuda, dtype: SimpleNamespace(is_cuda=cuda, dtype=dtype)
    for cuda, a, b, served in (
        *[(True, half, half, True), (True, brain, brain, True), (True, single, single, False)],
        *[(True, half, brain, False), (True, brain, single, False), (False, half, half, False)],
    ):
        assert heads.tensor_cores(on(cuda, a), on(cuda, b)) is served
    monkeypatch.setattr(torch, "mm", lambda *of, **how: (of, how))
    assert heads._product("a", "b") == (("a", "b"), {"out_dtype": single, "out": None})
    assert heads._product("a", "b", "c") == (("a", "b"), {"out_dtype": single, "out": "c"})
    far = torch.empty(2, 3, device="meta")
    assert heads._add(far, far) is far  # NumPy could not
    added = []
    monkeypatch.setattr(heads.np, "add", lambda *of, out: added.append(out))
    assert heads._add(torch.ones(2), torch.ones(2)).tolist() == [1, 1] and len(added) == 1


def test_what_is_left_to_torch_mm():
    head = torch.empty(WORDS, WIDTH)
    for rows, other in (
        (torch.empty(heads.LEAST_TOKENS - 1, WIDTH), head),
        (torch.empty(TOKENS, WIDTH), head[: WORDS // 2]),
        (torch.empty(TOKENS, WIDTH, dtype=torch.float64), head.double()),
    ):
        assert heads._multiplication(rows, other) is torch.mm


def gradients(tokens=TOKENS, **parameters):
    h, g = drawn(tokens, WIDTH), drawn(tokens, 8, seed=1)
    w, u = drawn(WORDS, WIDTH, seed=2) / 8, drawn(WORDS, 8, seed=3)
    h.requires_grad_(), w.requires_grad_()
    fused_linear_distillation_loss(h, w, g, u, **parameters).backward()
    return h.grad, w.grad


def test_nothing_is_read_before_it_is_written():
    """Empty tensors are NaN here."""
    expected = gradients()
    torch.use_deterministic_algorithms(True)
    try:
        for parameters in ({}, {"chunk_tokens": 4}, {"mask": torch.ones(TOKENS)}):
            for actual, wanted in zip(gradients(**parameters), expected):
                assert error(actual, wanted.double()) < 2e-6
        for gradient in gradients(mask=torch.zeros(TOKENS)):
            assert (gradient == 0).all()
    finally:
        torch.use_deterministic_algorithms(False)


def test_without_a_valid_token_a_head_that_is_held_fixed_has_no_gradient():
    hidden, head = drawn(TOKENS, 4).requires_grad_(), drawn(11, 4, seed=1)
    for fixed in (head, head.clone().requires_grad_()):
        loss = fused_linear_distillation_loss(
            hidden, fixed, hidden.detach(), head, mask=torch.zeros(TOKENS)
        )
        (gradient,) = torch.autograd.grad(loss, hidden)
        assert loss == 0 and (gradient == 0).all()


def test_threads_change_no_product():
    alone = gradients()
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert all(map(torch.equal, alone, gradients()))
    finally:
        torch.set_num_threads(threads)


def flags(tensor):
    """The kernel's flags of the memory in the middle of the tensor."""
    middle, inside = tensor.data_ptr() + tensor.nbytes // 2, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if span := re.match("([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(span[1], 16) <= middle < int(span[2], 16)
        elif inside and line.startswith("VmFlags:"):
            return line.split()[1:]
    return []


@pytest.mark.skipif(
    not hasattr(mmap, "MADV_HUGEPAGE")
    or not Path("/sys/kernel/mm/transparent_hugepage").exists()
    or not Path("/proc/self/smaps").exists(),
    reason="no large pages here",
)
def test_large_pages_are_asked_for():
    # Straight from the system: memory that the C library gives out again may have been asked for.
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    above, large, small = (
        torch.frombuffer(mmap.mmap(-1, size, flags=private), dtype=torch.uint8)
        for size in (mmap.PAGESIZE, LARGE_BYTES, LARGE_BYTES - mmap.PAGESIZE)
    )
    assert "hg" not in flags(large) + flags(small) + flags(above)
    assert large_pages(large) is large and "hg" in flags(large)
    assert large.fill_(3).eq(3).all()
    assert large_pages(small) is small and "hg" not in flags(small) + flags(above)
    logits = drawn(1, 2 * LARGE_BYTES // 4).requires_grad_()
    distillation_loss(logits, -logits.detach()).backward()
    assert "hg" in flags(logits.grad)
