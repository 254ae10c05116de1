"""Tests of opd_toy.lm.kernels, the same on a GPU and in Triton's interpreter."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
import triton
import triton.language as tl

from opd_toy.lm import divergences, heads, kernels, rows, terms
from opd_toy.lm.kernels import gradients, numbers
from opd_toy.lm.losses import distillation_loss, fused_linear_distillation_loss

INF = math.inf
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    kernels.BLOCK = 1024  # the interpreter is slow: smaller tiles, of two steps in float32
TILE = kernels.BLOCK
WIDE = 2 * TILE + 300  # a row of three tiles
CASES = [
    ("reverse_kl", {}),
    ("forward_kl", {}),
    *[("generalized_jsd", {"beta": beta}) for beta in (0, 1e-3, 0.5, 0.999, 1)],
    *[
        (f"skewed_{which}_kl", {"skew": skew})
        for which in ("forward", "reverse")
        for skew in (0, 0.1, 0.7, 1)
    ],
]
case = pytest.mark.parametrize(
    "name, parameters",
    CASES,
    ids=lambda x: x if isinstance(x, str) else ",".join(map(str, x.values())) or "-",
)
dtypes = pytest.mark.parametrize(
    "dtype, value_error, gradient_error",
    [(torch.float32, 5e-6, 1e-5), (torch.bfloat16, 5e-6, 4e-3), (torch.float16, 5e-6, 1e-3)],
    ids=str,
)


@pytest.fixture(autouse=True)
def calls(monkeypatch):
    """In the interpreter the kernel takes the CPU's tensors too; a test's launches are counted."""
    made = []

    def counted(*arguments, **parameters):
        made.append(arguments[0])
        return kernels.divergence(*arguments, **parameters)

    class Counted:
        OBJECTIVES, divergence, scale_ = (
            kernels.OBJECTIVES,
            staticmethod(counted),
            staticmethod(kernels.scale_),
        )

    serves = lambda *tensors: (
        Counted
        if not REFERENCE
        and tensors[0].device.type == DEVICE
        and all(x.dtype in (torch.float32, torch.bfloat16, torch.float16) for x in tensors)
        else None
    )
    monkeypatch.setattr(rows, "device_kernels", serves)
    if DEVICE == "cpu":
        monkeypatch.setattr(
            heads,
            "tensor_cores",
            lambda a, b: (
                not REFERENCE and a.dtype == b.dtype and a.dtype in (torch.bfloat16, torch.float16)
            ),
        )
        monkeypatch.setattr(
            heads, "_product", lambda a, b, out=None: torch.mm(a.float(), b.float(), out=out)
        )
    return made


REFERENCE = []  # not empty while the CPU's own rows compute


def cpu(loss, *arguments, **parameters):
    REFERENCE.append(True)
    try:
        return loss(*arguments, **parameters)
    finally:
        REFERENCE.clear()


def pair(*shape, seed=0, scale=2.0, dtype=torch.float32):
    draw = torch.Generator().manual_seed(seed)
    return tuple(
        (scale * torch.randn(*shape, generator=draw, dtype=torch.float64)).to(dtype)
        for _ in range(2)
    )


def value_and_gradient(z, y, *arguments, **parameters):
    """By the kernel, brought back to the CPU."""
    z = (
        z.detach().to(DEVICE).requires_grad_()
        if DEVICE == "cuda"
        else z.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    )
    move = lambda x: x.to(DEVICE) if isinstance(x, torch.Tensor) else x
    value = distillation_loss(
        z, move(y), *map(move, arguments), **{key: move(x) for key, x in parameters.items()}
    )
    value.backward()
    return value.item(), z.grad.cpu()


def reference(z, y, *arguments, **parameters):
    """By the CPU's rows."""
    z = z.detach().clone().requires_grad_()
    value = cpu(distillation_loss, z, y, *arguments, **parameters)
    cpu(value.backward)
    return value.item(), z.grad


def close(actual, expected, error):
    actual, expected = actual.double(), expected.double()
    assert (
        torch.equal(actual.isposinf(), expected.isposinf())
        and torch.equal(actual.isneginf(), expected.isneginf())
        and torch.equal(actual.isnan(), expected.isnan())
    )
    finite = expected.isfinite()
    assert (actual - expected)[finite].norm() <= error * expected[finite].norm() + 1e-12


# --- numbers -----------------------------------------------------------------------------


@triton.jit
def _of_numbers(X, P, M, OUT, weight, rest, N: tl.constexpr):
    at = tl.arange(0, N)
    x = tl.load(X + at)
    log, growth, share = numbers.log_share(weight, rest, x)
    tl.store(OUT + at, numbers.expm1(x))
    tl.store(OUT + N + at, numbers.bregman(tl.load(P + at), x, tl.load(M + at)))
    tl.store(OUT + 2 * N + at, log)
    tl.store(OUT + 3 * N + at, growth)
    tl.store(OUT + 4 * N + at, share)


@pytest.mark.parametrize("weight", [0.25, 2**-10, 1 - 2**-10])
@pytest.mark.parametrize("least, most", [(0.4, 0.5), (0.5, 0.6), (1e-4, 1e-2), (3.0, 6.0)])
def test_numbers_are_rounded_and_not_cut_off(weight, least, most):
    """In the mean the error is smaller: what is rounded goes either way, what is cut off one."""
    size = torch.linspace(least, most, 514)[1:-1]
    most_off, mean_off = (5e-7, 6e-8) if most <= 0.5 else (1.2e-6, 2.5e-7)
    for x in (size, -size):
        exact, p = x.double(), torch.full_like(x, 0.25)
        m = (p.double() * (-exact).exp()).float()
        out = torch.empty(5, 512, device=DEVICE)
        given = (each.to(DEVICE) for each in (x, p, m))
        _of_numbers[(1,)](*given, out, weight, 1 - weight, N=512)
        grown = torch.expm1(exact)
        bent = 0.25 * (exact + torch.expm1(-exact))
        share = 1 - weight + weight * exact.exp()
        wanted = [grown, bent, torch.log1p(weight * grown), grown, share]
        for found, right in zip(out.cpu().double(), wanted):
            off = found / right - 1
            assert off.abs().max() < most_off and off.mean().abs() < mean_off
    far = torch.full((512,), -40.0, device=DEVICE)
    _of_numbers[(1,)](far, far.exp(), torch.ones_like(far), out, 0.5, 0.5, N=512)
    torch.testing.assert_close(out[1], torch.ones_like(far))


def test_constants_are_those_of_the_rows():
    limit = 0.7 * math.log(torch.finfo(torch.float32).max)  # as in terms.jsd_ratios
    assert gradients.BOUND.value == pytest.approx(limit, abs=0.05)
    assert gradients.NEAR_ZERO.value == divergences.NEAR_ZERO
    assert numbers.FAR_BELOW.value == terms.FAR_BELOW
    assert numbers.LOG2_E.value == math.log2(math.e)


def test_what_the_docstring_counts(monkeypatch):
    """The lag on an H100, the statistics of a launch."""
    monkeypatch.setattr(kernels, "_device", lambda device: (50 << 20, 132))
    tiles = -(-151_936 // 4096)
    lags = [
        kernels._lag(None, stages, tiles, size * 151_936) for stages in (2, 3) for size in (6, 12)
    ]
    assert lags == [7, 7, 7, 3] and kernels._lag(None, 2, 1000, 6 * 4_096_000) == 1
    assert f"{lags[0]} rows of V = 151 936 on an H100" in kernels.__doc__
    fields = kernels.TILE_FIELDS_COUNT.value
    assert round(4 * fields * kernels.TILES_TOGETHER / 1e6, -1) == 30
    assert (4 * (fields + 1), 4 * kernels.ROW_FIELDS_COUNT.value) == (32, 32)  # and the value


@pytest.mark.parametrize(
    "name, stages, mixing", [("forward_kl", 2, 0.0), ("generalized_jsd", 3, 0.3)]
)
def test_what_is_launched(name, stages, mixing, monkeypatch):
    """Two launches, of as many rows as there is room for; lags no longer than the launch."""
    asked, lags = [], []

    class Launched:
        def __getitem__(self, grid):
            return lambda *given, **sizes: asked.append((grid, given, sizes))

    def lag(device, *of):
        lags.append(of)
        return 2

    monkeypatch.setattr(kernels, "_divergence_kernel", Launched())
    monkeypatch.setattr(kernels, "_lag", lag)
    monkeypatch.setattr(kernels, "TILES_TOGETHER", 10)
    monkeypatch.setattr(kernels, "BLOCK", 1024)
    z, y = torch.zeros(2, 2, 2500, device=DEVICE), torch.zeros(2, 2, 2500, device=DEVICE).half()
    factor = torch.ones(2, 2, device=DEVICE)
    kernels.divergence(name, z, y, factor, z, 2.0, mixing)
    kl = stages == 2
    assert lags == [(stages, 3, 2500 * 10)] * 2  # logits of 4 and 2 bytes, gradients of 4
    for (grid, given, sizes), start, count in zip(asked, (0, 3), (3, 1), strict=True):
        delay = min(count, 2)
        assert grid == ((count + (stages - 1) * delay) * 3,)
        own, other, out, given_factor, *room = given[:8]
        assert (own.dtype, other.dtype) == ((y.dtype, z.dtype) if kl else (z.dtype, y.dtype))
        assert out.data_ptr() == z.data_ptr() and given_factor.shape == (4,)
        assert [each.numel() for each in room] == [
            *(1 + (stages - 1) * count, count * 7 * 3, count * 8, count * 3)
        ]
        assert given[8:14] == (start, count, 2500, 3, delay, 2)
        assert given[14:] == (5000, 2500) * 3 + (mixing, 1 - mixing, 0.5)
        assert sizes == dict(
            OBJECTIVE=name, WRITE=True, LANES=128, WIDTH=4, STEPS=2, TILES=4, num_warps=4
        )
    kernels.divergence(name, z, y, factor, None)
    assert asked[2][2]["WRITE"] is False and asked[2][1][14:] == (5000, 2500) * 3 + (0.0, 1.0, 1.0)


@pytest.mark.skipif(DEVICE == "cuda", reason="as on a processor")
def test_what_is_taken_for_a_card_without_one():
    assert kernels._device.__wrapped__(torch.device("cpu")) == (kernels.L2_BYTES, 4)


@pytest.mark.parametrize("said, size", [(50 << 20, 50 << 20), (0, 40 << 20), (None, 40 << 20)])
def test_what_a_card_says_of_its_cache(said, size, monkeypatch):
    properties = {"multi_processor_count": 132} | ({} if said is None else {"L2_cache_size": said})
    answer = lambda device: SimpleNamespace(**properties)
    monkeypatch.setattr(torch.cuda, "get_device_properties", answer)
    assert kernels._device.__wrapped__(torch.device("cuda", 0)) == (size, 132)


@pytest.mark.parametrize(
    "hip, capability, serves", [(None, (8, 0), True), (None, (7, 5), False), ("6", (9, 0), False)]
)
def test_whom_the_kernels_serve(hip, capability, serves, monkeypatch):
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert kernels.serves(torch.device("cuda", 0)) is serves


# --- what is right -----------------------------------------------------------------------


@case
@dtypes
def test_error_bounds_against_float64(name, parameters, dtype, value_error, gradient_error, calls):
    z, y = pair(2, 3, 300, dtype=dtype)
    expected, gradient = reference(z.double(), y.double(), name, **parameters)
    x, scale = z.to(DEVICE).requires_grad_(), 2.0**12
    loss = distillation_loss(x, y.to(DEVICE), name, **parameters)
    (scale * loss).backward()
    assert len(calls) == 1 and loss.dtype == torch.float32 and x.grad.dtype == dtype
    assert abs(loss.item() - expected) <= value_error * max(abs(expected), 1e-3)
    close(x.grad.cpu().double() / scale, gradient, gradient_error)


@case
def test_rows_of_many_tiles(name, parameters):
    z, y = pair(2, WIDE, seed=1)
    expected, gradient = reference(z.double(), y.double(), name, **parameters)
    value, actual = value_and_gradient(z, y, name, **parameters)
    assert abs(value - expected) <= 5e-6 * max(expected, 1e-3)
    close(actual, gradient, 1e-5)


@case
def test_temperature_mask_weights_and_upstream(name, parameters):
    z, y = pair(2, 3, 300, seed=2)
    mask, weights = torch.tensor([[1, 0, 1], [0, 1, 0]]), torch.rand(2, 3) + 0.5
    for temperature in (0.5, 3.0):
        expected, gradient = reference(
            z.double(),
            y.double(),
            name,
            mask,
            weights=weights,
            temperature=temperature,
            normalizer=7,
            **parameters,
        )
        value, actual = value_and_gradient(
            z, y, name, mask, weights=weights, temperature=temperature, normalizer=7, **parameters
        )
        assert abs(value - expected) <= 5e-6 * max(expected, 1e-3)
        close(actual, gradient, 1e-5)
    x = z.to(DEVICE).requires_grad_()
    (
        3
        * distillation_loss(
            x,
            y.to(DEVICE),
            name,
            mask.to(DEVICE),
            weights=weights.to(DEVICE),
            temperature=3.0,
            normalizer=7,
            **parameters,
        )
    ).backward()
    close(x.grad.cpu(), 3 * gradient, 1e-5)


def test_mixed_dtypes():
    for student, teacher in (
        (torch.float32, torch.bfloat16),
        (torch.bfloat16, torch.float16),
        (torch.float16, torch.float32),
    ):
        z, y = pair(4, 300)[0].to(student), pair(4, 300)[1].to(teacher)
        for name, parameters in CASES:
            expected, gradient = reference(z.double(), y.double(), name, **parameters)
            value, actual = value_and_gradient(z, y, name, **parameters)
            assert abs(value - expected) <= 5e-6 * max(expected, 1e-3)
            close(actual, gradient, 8e-3)  # the interpreter cuts bfloat16 off, a GPU rounds it


# --- where digits are lost ---------------------------------------------------------------


@pytest.mark.parametrize("name, parameters", [c for c in CASES if c[1].get("skew") != 1])
@pytest.mark.parametrize("shift", [0.0, 64.0])
def test_near_convergence_the_digits_stay(name, parameters, shift):
    z, noise = pair(2, WIDE, scale=1.0, seed=4)
    y = (z + 2.8e-3 * noise).float() + shift
    expected, gradient = reference(z.double(), y.double(), name, **parameters)
    value, actual = value_and_gradient(z, y, name, **parameters)
    assert 0 < expected < 2e-5
    assert abs(value - expected) <= 1e-3 * expected
    close(
        actual, gradient, 2e-4 if name in ("reverse_kl", "forward_kl") and not shift else 2e-3
    )  # student - teacher is rounded at the size of the shift


def test_a_small_divergence_between_confident_models():
    z, y = torch.zeros(1, 3), torch.zeros(1, 3)
    z[0, 1], y[0, 1] = -200.0, math.log(1e-3)
    z[0, 2], y[0, 2] = -25.0, -24.0
    for name in ("reverse_kl", "forward_kl"):
        assert value_and_gradient(z, y, name)[0] == pytest.approx(
            reference(z.double(), y.double(), name)[0], rel=1e-5
        )
    assert value_and_gradient(y, z, "forward_kl")[0] == pytest.approx(
        value_and_gradient(z, y)[0], rel=1e-6
    )


@case
def test_identical_models_and_one_token(name, parameters):
    z, _ = pair(4, 700)
    value, gradient = value_and_gradient(z, z, name, **parameters)
    assert value == pytest.approx(0, abs=1e-9) and gradient.abs().max() < 1e-8
    value, gradient = value_and_gradient(
        torch.tensor([[3.0], [-2.0]]), torch.tensor([[1.0], [8.0]]), name, **parameters
    )
    assert value == 0 and (gradient == 0).all()


@case
def test_extreme_logits_stay_finite(name, parameters):
    for size in (1e2, 1e4):
        z, y = (size * x for x in pair(6, 11))
        value, gradient = value_and_gradient(z, y, name, **parameters)
        expected, wanted = reference(z.double(), y.double(), name, **parameters)
        assert math.isfinite(value) and gradient.isfinite().all()
        assert value == pytest.approx(expected, rel=1e-5)
        assert (gradient - wanted).norm() <= 2e-7 * size  # the rounding of the logits


# --- logits of -inf and NaN --------------------------------------------------------------


@case
def test_masked_vocabulary_is_as_if_it_were_not_there(name, parameters):
    """Beyond 300 both models bar everything, whole tiles too; or all before."""
    z, y = pair(3, 300, seed=5)
    expected, gradient = reference(z, y, name, **parameters)
    for padding, kept in (
        ((0, 2 * TILE), slice(0, 300)),
        ((TILE + 70, 20), slice(TILE + 70, TILE + 370)),
    ):
        value, actual = value_and_gradient(
            F.pad(z, padding, value=-INF), F.pad(y, padding, value=-INF), name, **parameters
        )
        assert value == pytest.approx(expected, rel=1e-5, abs=1e-6)
        close(actual[:, kept], gradient, 1e-5)
        actual[:, kept] = 0
        assert (actual == 0).all()


@case
def test_tokens_that_one_model_bars(name, parameters):
    for vocabulary, where in ((11, 3), (TILE + 300, TILE + 7)):
        for who in (0, 1):
            logits = pair(3, vocabulary, seed=6)
            logits[who][0, where] = -INF
            logits[who][1, :] = -INF  # all but one
            logits[who][1, where] = 1.0
            expected, gradient = reference(*logits, name, **parameters)
            value, actual = value_and_gradient(*logits, name, **parameters)
            assert value == expected or value == pytest.approx(expected, rel=1e-5, abs=1e-6)
            assert not actual.isnan().any()
            close(actual, gradient, 1e-5)


def test_a_student_all_on_barred_tokens_has_a_finite_gradient():
    z = torch.tensor([[1.0, 0.0, -INF, -INF], [1.0, 0.0, 0.5, -INF], [0.0, 1.0, -300.0, -300.0]])
    y = torch.tensor([[-INF, -INF, 0.0, 1.0], [-INF, 0.0, 0.5, 1.0], [-INF, -INF, 0.0, 1.0]])
    wide = torch.full((2, 3, WIDE), -INF)
    for at, temperature in ((0, 1.0), (TILE - 2, 2.0), (WIDE - 5, 1.0)):
        wide[:, :, at : at + 4] = torch.stack([z, y])
        expected, gradient = reference(wide[0], wide[1], temperature=temperature)
        value, actual = value_and_gradient(wide[0], wide[1], temperature=temperature)
        assert value == expected == INF
        assert [row.isfinite().all().item() for row in actual] == [True, False, True]
        close(actual, gradient, 1e-5)
        wide[:] = -INF


def test_barred_tokens_of_no_probability_do_not_count():
    """exp(-300) is 0 in float32, so the divergence is finite; a token in its own tile, too."""
    for vocabulary, where in ((11, 3), (WIDE, 2 * TILE + 250)):
        z, y = pair(2, vocabulary, seed=7)
        z[0, where] = -300.0
        if vocabulary > 11:
            z[0, 2 * TILE :] = -300.0
        y[0, where] = -INF
        for name, one, other in (("reverse_kl", z, y), ("forward_kl", y, z)):
            expected, gradient = reference(one, other, name)
            value, actual = value_and_gradient(one, other, name)
            assert math.isfinite(value) and value == pytest.approx(expected, rel=1e-5)
            close(actual, gradient, 1e-5)


def test_not_a_number_is_not_hidden():
    for name, parameters in (CASES[0], CASES[1], CASES[4], CASES[9], CASES[13]):
        for bad in (math.nan, INF):
            for which in (0, 1):
                logits = pair(3, 300, seed=8)
                logits[which][1, 7] = bad
                value, gradient = value_and_gradient(*logits, name, **parameters)
                expected = reference(*logits, name, **parameters)[1]
                assert (
                    math.isnan(value)
                    and gradient[1].isnan().any() == expected[1].isnan().any()
                    and gradient[[0, 2]].isfinite().all()
                )
        for which in (0, 1):
            logits = pair(3, 300, seed=8)
            logits[which][1] = -INF
            assert math.isnan(value_and_gradient(*logits, name, **parameters)[0]) and math.isnan(
                reference(*logits, name, **parameters)[0]
            )


@case
def test_what_is_masked_does_not_matter(name, parameters):
    z, y = pair(2, 3, 300)
    mask = torch.tensor([[1, 0, 1], [0, 1, 0]])
    weights = torch.where(mask == 1, 1.0, math.nan)
    expected = value_and_gradient(z, y, name, mask, **parameters)
    for rubbish in (math.nan, INF, -INF):
        for which in (z, y):
            which[mask == 0] = rubbish
        value, gradient = value_and_gradient(z, y, name, mask, weights=weights, **parameters)
        assert (
            value == expected[0]
            and torch.equal(gradient, expected[1])
            and (gradient[mask == 0] == 0).all()
        )


@case
def test_nothing_to_learn_from(name, parameters):
    z, y = pair(2, 2, 300)
    z[0, 0] = math.nan
    value, gradient = value_and_gradient(z, y, name, torch.zeros(2, 2), **parameters)
    assert value == 0 and (gradient == 0).all()
    for shape in ((0, 4, 11), (3, 0, 11)):
        value, gradient = value_and_gradient(
            torch.zeros(shape), torch.zeros(shape), name, **parameters
        )
        assert value == 0 and gradient.shape == shape


# --- memory ------------------------------------------------------------------------------


def test_logits_that_are_not_contiguous():
    z, y = pair(3, 5, 300)
    mask = torch.rand(3, 4, generator=torch.Generator().manual_seed(0)) < 0.7
    expected = reference(z[:, :-1], y[:, :-1], "reverse_kl", mask)
    x = z.to(DEVICE).requires_grad_()
    loss = distillation_loss(x[:, :-1], y.to(DEVICE)[:, :-1], "reverse_kl", mask.to(DEVICE))
    loss.backward()
    assert loss.item() == pytest.approx(expected[0], rel=1e-5)
    close(x.grad[:, :-1].cpu(), expected[1], 1e-5)
    assert (x.grad[:, -1] == 0).all()
    ways = {
        "last axis": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
        "first axes": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
        "every second row": lambda x: x.repeat_interleave(2, 1)[:, ::2],
        "cut vocabulary": lambda x: F.pad(x, (0, 13))[..., :300],
    }
    for way in ways.values():
        given = [way(x[:, :-1].to(DEVICE)) for x in (z, y)]
        value, gradient = value_and_gradient(given[0], given[1], "reverse_kl", mask)
        assert value == pytest.approx(expected[0], rel=1e-5)
        close(gradient, expected[1], 1e-5)
    one = y[:1, :1].expand(3, 5, 300)
    value, gradient = value_and_gradient(z, one.to(DEVICE))
    close(gradient, reference(z, one)[1], 1e-5)
    four = (
        z.view(3, 5, 3, 100)[:, :4],
        y.view(3, 5, 3, 100)[:, 1:],
    )  # two leading axes that cannot be joined, and a third
    close(value_and_gradient(*four)[1], reference(*four)[1], 1e-5)
    close(value_and_gradient(z[0, 0], y[0, 0])[1], reference(z[0, 0], y[0, 0])[1], 1e-5)


@pytest.mark.parametrize("turned", [False, True])
def test_gradients_over_the_logits(turned):
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for name, parameters in [CASES[0], CASES[4]]:
            z, y = (x.to(DEVICE) for x in pair(2, 5, 300, dtype=dtype))
            if turned:
                z, y = (
                    x.transpose(1, 2).contiguous().transpose(1, 2) for x in (z, y)
                )  # the logits of a row are not adjacent
            expected = value_and_gradient(z[:, :-1], y[:, :-1], name, **parameters)
            leaf = z.clone().requires_grad_()
            logits = (leaf * 1.0)[:, :-1]
            assert logits.stride(-1) == (5 if turned else 1)
            loss = distillation_loss(logits, y[:, :-1], name, overwrite_logits=True, **parameters)
            assert torch.equal(logits.detach(), z[:, :-1]) == (dtype == torch.float16)
            loss.backward()
            assert loss.item() == expected[0] and torch.equal(leaf.grad[:, :-1].cpu(), expected[1])


def test_offsets_of_more_than_31_bits():
    """Three rows that lie 2^30 logits apart."""
    memory = torch.empty(2**31 + 64, dtype=torch.bfloat16, device=DEVICE)
    z, y = pair(3, 11, dtype=torch.bfloat16)
    far = memory.as_strided((3, 11), (2**30, 1))
    far.copy_(z)
    expected, gradient = value_and_gradient(z, y)
    with torch.no_grad():
        assert distillation_loss(far, y.to(DEVICE)).item() == expected
    out = memory.as_strided((3, 11), (2**30, 1), 32)
    kernels.divergence("reverse_kl", far, y.to(DEVICE), torch.full((3,), 1 / 3, device=DEVICE), out)
    assert torch.equal(out.cpu(), gradient)


def test_one_input_one_answer():
    """Twice, with other distances between stages, in several launches, without a gradient."""
    z, y = (x.to(DEVICE) for x in pair(7, 600))
    factor = torch.rand(7, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    factor[[0, 3, 6]] = 0
    for name, mixing in (("reverse_kl", 0.0), ("generalized_jsd", 0.3)):
        out = torch.empty_like(z)
        total = kernels.divergence(name, z, y, factor, out, 1.0, mixing)
        for attribute, changed in (
            ("BLOCK", kernels.BLOCK),
            ("_lag", lambda *_: 1),
            ("_lag", lambda *_: 3),
            ("TILES_TOGETHER", 4),
        ):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(kernels, attribute, changed)
                again = torch.empty_like(z)
                value = kernels.divergence(name, z, y, factor, again, 1.0, mixing)
            assert torch.equal(again, out), (name, attribute)
            assert value == pytest.approx(
                total.item(), rel=1e-12 if attribute == "TILES_TOGETHER" else 0
            )
        assert kernels.divergence(name, z, y, factor, None, 1.0, mixing) == total
        apart = torch.stack([factor, -factor], 1)[:, 0]  # not one block of memory
        assert kernels.divergence(name, z, y, apart, None, 1.0, mixing) == total
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kernels, "BLOCK", 256)  # several tiles a row
            value = kernels.divergence(name, z, y, factor, again, 1.0, mixing)
        close(again.cpu(), out.cpu(), 1e-5)
        assert value == pytest.approx(total.item(), rel=1e-5)


def test_without_gradients():
    z, y = (x.to(DEVICE) for x in pair(3, 300))
    for name, parameters in CASES:
        expected = value_and_gradient(z, y, name, **parameters)[0]
        with torch.no_grad():
            assert distillation_loss(z.detach().requires_grad_(), y, name, **parameters) == expected


def test_scaling():
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for elements in (1, 4 * 16 * TILE + 1):
            x = (
                torch.randn(elements, generator=torch.Generator().manual_seed(0))
                .to(dtype)
                .to(DEVICE)
            )
            for factor in (1.0, 0.5, -3.7, 0.0, INF, math.nan):
                expected = (x.float() * factor).to(dtype)
                actual = kernels.scale_(x.clone(), torch.tensor(factor, device=DEVICE))
                torch.testing.assert_close(
                    actual,
                    expected,
                    rtol=2**-7 if dtype == torch.bfloat16 and factor == -3.7 else 0,
                    atol=0,
                    equal_nan=True,
                )  # the interpreter cuts bfloat16 off
    assert kernels.scale_(
        torch.empty(0, 5, device=DEVICE), torch.tensor(2.0, device=DEVICE)
    ).shape == (0, 5)


# --- what else calls it ------------------------------------------------------------------


@case
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_hidden_states_and_heads(name, parameters, dtype, calls):
    (h, _), (w, _), (g, _), (u, _) = (
        x
        for x in (
            pair(2, 5, 6, scale=1.0, dtype=dtype),
            pair(300, 6, seed=1, scale=1.0, dtype=dtype),
            pair(2, 5, 3, seed=2, scale=1.0, dtype=dtype),
            pair(300, 3, seed=3, scale=1.0, dtype=dtype),
        )
    )
    mask = torch.tensor([[1, 1, 0, 1, 1], [0, 1, 1, 1, 0]])
    exact = [x.double().requires_grad_() for x in (h, w)]
    expected = cpu(
        fused_linear_distillation_loss, *exact, g.double(), u.double(), name, mask, **parameters
    )
    cpu(expected.backward)
    for chunk in (None, 4):
        h2, w2 = h.to(DEVICE).detach().requires_grad_(), w.to(DEVICE).detach().requires_grad_()
        calls.clear()
        value = fused_linear_distillation_loss(
            h2,
            w2,
            g.to(DEVICE),
            u.to(DEVICE),
            name,
            mask.to(DEVICE),
            chunk_tokens=chunk,
            **parameters,
        )
        (1024.0 * value).backward()
        assert len(calls) == (1 if chunk is None else 2)
        assert value.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-6)
        for actual, wanted in zip((h2, w2), exact):
            assert actual.grad.dtype == dtype
            close(
                actual.grad.cpu().double() / 1024,
                wanted.grad,
                2e-5 if dtype == torch.float32 else torch.finfo(dtype).eps,
            )


def test_what_it_is_not_for(calls):
    z, y = (x.to(DEVICE) for x in pair(3, 300))
    distillation_loss(z, y, "top_k_reverse_kl", k=300)
    distillation_loss(z.double(), y)
    distillation_loss(z, y.double())
    assert not calls
    (
        distillation_loss(z, y, "generalized_jsd", beta=1),
        distillation_loss(z, y, "skewed_forward_kl", skew=0),
        distillation_loss(z, y, "generalized_jsd", beta=0.5),
    )
    assert calls == ["reverse_kl", "forward_kl", "generalized_jsd"]


def test_autocast_changes_nothing():
    z, y = (x.to(DEVICE) for x in pair(3, 300))
    with torch.autocast(DEVICE, torch.bfloat16):
        value, gradient = value_and_gradient(z, y)
    expected = value_and_gradient(z, y)
    assert value == expected[0] and torch.equal(gradient, expected[1])


@pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")
def test_the_whole_vocabulary():
    """V = 151 936, 300 rows of bfloat16: the row's L2 traffic, waits and all; and a mask."""
    draw = torch.Generator("cuda").manual_seed(0)
    z, y = (
        torch.randn(300, 151_936, generator=draw, device="cuda").bfloat16() * 2 for _ in range(2)
    )
    mask = torch.rand(300, generator=draw, device="cuda") < 0.9
    for name, parameters in CASES:
        x = z.clone().requires_grad_()
        value = distillation_loss(x, y, name, mask, **parameters)
        value.backward()
        z64 = z.double().requires_grad_()
        expected = distillation_loss(z64, y.double(), name, mask, **parameters)
        expected.backward()
        assert value.item() == pytest.approx(expected.item(), rel=5e-6)
        assert (x.grad.double() - z64.grad).norm() <= 4e-3 * z64.grad.norm()
        again = z.clone().requires_grad_()
        distillation_loss(again, y, name, mask, **parameters).backward()
        assert torch.equal(again.grad, x.grad)
