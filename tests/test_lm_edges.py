"""The lab at its edges: one token, a ratio on its bound, blocks and tiles, what only costs time."""

import hashlib
import math
import os
import threading
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from opd_toy.lm import heads, losses, measures, methods, model, rows, sampled
from opd_toy.lm.doors import Doors, rooms
from opd_toy.lm.losses import distillation_loss, fused_linear_distillation_loss, token_count
from opd_toy.lm.model import Shape, Transformer, uniforms
from opd_toy.lm.off_policy import importance_weights
from opd_toy.lm.study import frozen, stages
from opd_toy.lm.tasks import Sums, is_test

pytestmark = pytest.mark.usefixtures("one_thread")

DOUBLE = {"dtype": torch.float64}


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)


# --- one token, none ---------------------------------------------------------------------


@pytest.mark.parametrize("valid", [1, 2, 3])
def test_a_mean_is_over_as_many_tokens_as_there_are(valid):
    z, y = drawn(1, 3, 5), drawn(1, 3, 5, seed=1)
    mask = torch.arange(3)[None] < valid
    kl = torch.distributions.kl_divergence(
        *(torch.distributions.Categorical(logits=x) for x in (z, y))
    )
    tokens = torch.tensor([[0, 1, 2]])
    log_p = z.log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
    assert distillation_loss(z, y, mask=mask).item() == pytest.approx(kl[mask].mean().item())
    head = torch.eye(5, **DOUBLE)
    fused = fused_linear_distillation_loss(z, head, y, head, mask=mask)
    assert fused.item() == pytest.approx(kl[mask].mean().item())
    assert losses.sft_loss(z, tokens, mask).item() == pytest.approx(-log_p[mask].mean().item())
    found = losses.policy_gradient_loss(log_p, torch.zeros_like(log_p), mask)
    assert found.item() == pytest.approx(log_p[mask].mean().item())
    assert token_count(mask).item() == valid and token_count(mask, mask).item() == 2 * valid
    assert token_count(mask & False).item() == 1 == token_count(mask & False, mask & False).item()


# --- on the bound ------------------------------------------------------------------------


def gradient(log_p, log_q, **options):
    x = log_p.clone().requires_grad_()
    losses.policy_gradient_loss(x, log_q, normalizer=1, **options).backward()
    return x.grad


def test_a_ratio_on_its_bound_is_not_beyond():
    """Costs of both signs, each with a ratio below, on and above a bound of PPO's clip."""
    ratios = torch.tensor([[0.499, 0.5, 0.501, 1.999, 2.0, 2.001]], **DOUBLE)
    assert torch.equal(ratios.log().exp()[0, [1, 4]], ratios[0, [1, 4]])
    log_p = ratios.log()
    for cost, kept in ((1.0, [0, 1, 1, 1, 1, 1]), (-1.0, [1, 1, 1, 1, 1, 0])):
        options = {"behaviour_log_probabilities": torch.zeros_like(log_p), "clip": (0.5, 1.0)}
        found = gradient(log_p, log_p - cost, **options)
        torch.testing.assert_close(found, cost * ratios * torch.tensor([kept]))


def test_a_change_on_its_limit_counts_and_one_beyond_does_not():
    old = torch.zeros(1, 2, **DOUBLE)
    change = torch.tensor([[math.log(10.0), 0.0]], **DOUBLE)
    weigh = lambda log_p, **more: losses.fipo_weight(log_p, old, None, 0.5, 0.2, 20.0, **more)
    torch.testing.assert_close(weigh(change), torch.tensor([[10.0, 1.0]], **DOUBLE))
    beyond = change + torch.tensor([[1e-9, 0.0]])
    assert weigh(beyond)[0, 0] == 1 == weigh(change, ratio_limit=9.9)[0, 0]
    assert losses.fipo_weight(change, old, None, 0.5, 0.2, 0)[0, 0] == 1  # held at 1 + 0
    assert weigh(-change)[0, 0] == 0.8  # and at 1 - 0.2


def test_later_costs_that_are_infinite_do_not_count_at_gamma_0():
    costs = torch.tensor([[1.0, math.inf, 2.0]])
    assert losses.discounted_return(costs, 0.0).tolist() == costs.tolist()


def test_a_baseline_may_be_one_number_or_one_a_text():
    log_p, log_q = drawn(2, 3), drawn(2, 3, seed=1)
    for baseline in (0.3, torch.tensor(0.3), torch.full((2, 1), 0.3), torch.full((2, 3), 0.3)):
        found = gradient(log_p, log_q, baseline=baseline)
        torch.testing.assert_close(found, log_p - log_q - 0.3, rtol=1e-6, atol=1e-7)


def test_logits_that_need_no_gradient_may_be_written_over():
    z, y = drawn(2, 5), drawn(2, 5, seed=1)
    expected = distillation_loss(z, y)
    assert distillation_loss(z, y, overwrite_logits=True) == expected
    assert torch.equal(z, drawn(2, 5))


# --- errors that say on which device, of which kind --------------------------------------

Z, H, W, LP = torch.zeros(2, 3, 5), torch.zeros(2, 3, 4), torch.zeros(5, 4), torch.zeros(2, 3)
TOKENS = torch.zeros(2, 3, dtype=torch.int64)


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda: distillation_loss(torch.tensor(1.0), Z),
            "student_logits has shape (); give (..., V) with V at least 1",
        ),
        (
            lambda: fused_linear_distillation_loss(H, W, H, W.to("meta")),
            "student_hidden is on cpu and teacher_weight on meta; move both to one device",
        ),
        (
            lambda: fused_linear_distillation_loss(H, W.to("meta"), H, W),
            "student_hidden is on cpu and student_weight on meta; move both to one device",
        ),
        (
            lambda: fused_linear_distillation_loss(H, W, H.to("meta"), W),
            "student_hidden is on cpu and teacher_hidden on meta; move both to one device",
        ),
        (
            lambda: fused_linear_distillation_loss(H, torch.zeros(0, 4), H, W),
            "student_hidden has shape (2, 3, 4) and student_weight (0, 4); give (..., H) and "
            "(V, H) with V at least 1",
        ),
        (
            lambda: fused_linear_distillation_loss(H, W, H, torch.zeros(4)),
            "teacher_hidden has shape (2, 3, 4) and teacher_weight (4,); give (..., H) and "
            "(V, H) with V at least 1",
        ),
        (
            lambda: losses.token_log_probabilities(Z, TOKENS.to("meta")),
            "logits is on cpu and tokens on meta; move both to one device",
        ),
        (
            lambda: losses.token_log_probabilities(Z, TOKENS.bool()),
            "tokens has dtype torch.bool; give whole numbers (torch.int64)",
        ),
        (
            lambda: losses.token_log_probabilities(Z, TOKENS + 5),
            "tokens holds 5; give whole numbers from 0 to V - 1 = 4, and any of them where the "
            "mask is 0",
        ),
        (
            lambda: losses.token_log_probabilities(Z, torch.tensor([[0, 1, -2], [0, 7, 4]])),
            "tokens holds -2; give whole numbers from 0 to V - 1 = 4, and any of them where the "
            "mask is 0",
        ),
        (
            lambda: losses.policy_gradient_loss(LP, LP.to("meta")),
            "student_log_probabilities is on cpu and teacher_log_probabilities on meta; move both "
            "to one device",
        ),
        (
            lambda: losses.policy_gradient_loss(LP, TOKENS),
            "teacher_log_probabilities has dtype torch.int64; give a float tensor",
        ),
        (
            lambda: losses.policy_gradient_loss(LP[0], None, reward=torch.zeros(3)),
            "reward is tensor([0., 0., 0.]) and student_log_probabilities of shape (3,); give one "
            "number a text, a tensor of shape (B,) with log probabilities (B, T)",
        ),
        (
            lambda: losses.policy_gradient_loss(LP, LP, clip=(1,), behaviour_log_probabilities=LP),
            "clip is (1,); give a number of at least 0, or two: (low, high)",
        ),
        (
            lambda: losses.group_advantage(torch.zeros(4, 1), 2),
            "reward has shape (4, 1); give (B,) with B a multiple of group_size = 2",
        ),
    ],
)
def test_whole_messages(call, message):
    with pytest.raises(ValueError) as error:
        call()
    assert str(error.value) == message


def test_tokens_at_both_ends_of_the_vocabulary():
    z = drawn(2, 3, 5).requires_grad_()
    for token in (0, 4):
        found = losses.token_log_probabilities(z, TOKENS + token)
        torch.testing.assert_close(found, z.log_softmax(-1)[..., token])


# --- as many as there is room for --------------------------------------------------------


def test_texts_may_be_as_long_as_the_model():
    """The last token drawn is not read."""
    small = Transformer(Shape(5, 8, 1, 2, 4))
    prompts = torch.zeros(1, 2, dtype=torch.int64)
    assert small(prompts.expand(1, 2).repeat(1, 2)).shape == (1, 4, 5)
    draw = lambda count: model.sample(
        small, prompts, torch.full((1, count), 0.5, **DOUBLE), end=9, pad=9
    )
    assert draw(3).shape == (1, 5)
    with pytest.raises(ValueError, match="P . T - 1 is 5$"):
        draw(4)
    for number in (1.0, -1e-9):  # one of them
        outside = r"^uniforms holds a number outside \[0, 1\); give numbers from 0 to below 1$"
        with pytest.raises(ValueError, match=outside):
            model.sample(small, prompts, torch.tensor([[0.5, number]], **DOUBLE), end=9, pad=9)
    taken, cached = [], small.cache
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(small, "cache", lambda *of: taken.append(of) or cached(*of))
        zeros = torch.zeros(1, 2, **DOUBLE)
        assert model.sample(small, prompts, zeros, end=9, pad=9)[0, 2:].tolist() == [0, 0]
    assert taken == [(1, 3)]  # and no more memory
    cache = small.cache(1, 2)
    small.hidden(prompts, cache)
    with pytest.raises(ValueError, match="tokens reach position 3 and the cache was made for len"):
        small.hidden(prompts[:, :1], cache)


@pytest.mark.parametrize(
    "right, wrong",
    [
        (dict(terms=2, base=2, digits=51), dict(terms=2, base=2, digits=52)),
        (dict(terms=3, base=4, digits=1), dict(terms=3, base=3, digits=1)),
        (dict(terms=2, base=1 << 15, digits=2), dict(terms=2, base=(1 << 15) + 1, digits=2)),
        (dict(terms=5), dict(terms=6)),
        (dict(terms=2), dict(terms=1)),
        (dict(base=10, vocabulary=16), dict(base=10, vocabulary=15)),
    ],
)
def test_sums_at_the_bounds_of_their_sizes(right, wrong):
    enough = {"vocabulary": 1 << 16}
    assert Sums(**(enough | right)).prompt_length > 0
    with pytest.raises(ValueError):
        Sums(**(enough | wrong))


def test_orders_have_probabilities_in_float64():
    found = Sums(terms=4, digits=1).order_probabilities
    exact = 1 / np.arange(1.0, 25)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.numpy(), exact / exact.sum(), rtol=1e-14)


def test_weights_at_the_ends_of_what_is_kept():
    log_p = torch.tensor([[0.0, math.log(2.0)]], **DOUBLE)
    weigh = lambda limits: importance_weights(
        log_p, torch.zeros_like(log_p), None, "token", "mask", limits
    ).tolist()
    assert weigh((1, 1)) == [[1.0, 0.0]] and weigh((0, 2)) == [[1.0, 2.0]]


def test_numbers_at_the_edge_of_rounding():
    assert [frozen.number(x) for x in (1e-12, 1.1e-12, -1.1e-12, 0.123456, math.nan)] == [
        *(0.0, 1.1e-12, -1.1e-12, 0.1235, None),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(frozen.relative_bias(np.zeros((1, 2, 2)), 0)).all()
        assert np.isnan(frozen.cosines(np.array([[[-1.0, 0.0], [0.0, 0.0]]]), 1)).all()
        assert np.isinf(frozen.cosines(np.array([[[1.0, 1.0], [1.0, 0.0]]]), 1)[0, 0])
        assert np.isinf(frozen.relative_bias(np.array([[[0.0, 0.0], [0.0, 1.0]]]), 0)[0, 1])
        size = len(frozen.ESTIMATORS)
        within, one = np.zeros((2, size, size)), frozen.ESTIMATORS.index("pg_1")
        for variance in (0.0, 1.0):  # of nothing, and of one alone
            within[:, one, one] = variance
            still = frozen.Moments([2] * 2, np.zeros((2, *within.shape)), within, within[:, 0])
            for pair in (("pg_1", "pg_0"), ("pg_0", "pg_1")):
                assert stages.log_ratio(still, *pair) == [None, None]


def test_gradients_are_reported_text_by_text():
    task = Sums(terms=2, digits=1)
    shape = Shape(16, 8, 1, 2, task.prompt_length + task.length)
    student, teacher = Transformer(shape, 1), Transformer(shape, 2)
    heard = []
    options = {"count": 3, "blocks": 5, "redraw": False, "length": 2}
    report = lambda *step: heard.append(step)
    found = frozen.measured(student, teacher, task, "edges", **options, report=report)
    assert heard == [(1, 3), (2, 3), (3, 3)] and found.count.tolist() == [1, 1, 1]
    assert (found.token_noise == 0).all() and found.between.shape == (3, 3, 12, 12)
    again = frozen.measured(student, teacher, task, "edges", **options | {"length": 3})
    assert not np.allclose(again.within, found.within)


class Elsewhere(torch.Tensor):
    """As if it were not on the CPU."""

    is_cpu = False


def test_gradients_row_by_row_are_those_of_all_at_once():
    task = Sums(terms=2, digits=1)
    length = task.prompt_length + task.length
    student = Transformer(Shape(16, 8, 1, 2, length), 1).double()
    texts = torch.randint(0, 16, (2, length), generator=torch.Generator().manual_seed(0))
    signals = drawn(3, 2, task.length, 16)
    once = torch.stack(list(frozen.text_gradients(student, task, texts, signals)))
    apart = frozen.text_gradients(student, task, texts.as_subclass(Elsewhere), signals)
    torch.testing.assert_close(torch.stack(list(apart)).as_subclass(torch.Tensor), once)


def test_texts_are_measured_so_many_at_a_time(monkeypatch):
    task, small = Sums(terms=2, digits=1), SimpleNamespace(shape=SimpleNamespace(vocabulary=16))
    texts = torch.zeros(7, 3)
    monkeypatch.setattr(measures, "CHUNK", 3 * task.length * 16 + 5)
    assert [len(part) for part in measures._chunks(small, task, texts)] == [3, 3, 1]
    monkeypatch.setattr(measures, "CHUNK", 1)
    assert [len(part) for part in measures._chunks(small, task, texts)] == [1] * 7


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_autocast_is_to_the_dtype_of_this_name(name):
    with model.mixed(torch.device("cpu"), name):
        assert torch.is_autocast_enabled("cpu")
        assert torch.get_autocast_dtype("cpu") == getattr(torch, name)
    with model.mixed(torch.device("cpu"), None):
        assert not torch.is_autocast_enabled("cpu")


# --- blocks, tiles, threads --------------------------------------------------------------


def elsewhere(*shape, dtype=torch.float32):
    """A tensor that is not on the CPU."""
    return torch.empty(shape, dtype=dtype, device="meta")


def test_rows_are_taken_as_many_as_fit_the_cache():
    z, factor = torch.empty(2, 500, 300), torch.empty(2, 500)
    assert [tuple(len(x) for x in block) for block in rows.blocks(z, factor)] == [
        (873, 873), (127, 127)
    ]  # fmt: skip
    cut = [len(block[0]) for block in rows.blocks(z[:, :-1], factor[:, :-1])]
    assert cut == [499, 499]  # not one block of memory
    assert [len(each) for (each,) in rows.blocks(torch.empty(3, 1 << 20))] == [1] * 3
    assert list(rows.blocks(torch.empty(0, 4, 300), torch.empty(0, 4))) == []
    assert [len(each) for (each,) in rows.blocks(elsewhere(70_000, 1000))] == [67_108, 2892]


def test_heads_are_taken_in_tiles_that_fit_the_cache():
    def tiles(head, like):
        found = []
        heads._each_tile(lambda *ends: found.append(ends), head, like)
        return found

    on_cpu = torch.empty(1)
    assert tiles(torch.empty(20_000, 64), on_cpu) == [(0, 8192), (8192, 16384), (16384, 20_000)]
    assert tiles(torch.empty(200, 8192), on_cpu) == [(0, 128), (128, 200)]
    assert tiles(elsewhere(20_000, 64), elsewhere(1)) == [(0, 20_000)]
    half = elsewhere(3_000_000, 64, dtype=torch.bfloat16)
    assert tiles(half, elsewhere(1)) == [(0, 2 << 20), (2 << 20, 3_000_000)]
    assert heads._block_rows(torch.empty(1, 64)) == (20 << 20) // 256
    assert heads.chunk_size(elsewhere(128_000, 64)) == 1024  # 512 MiB: 1048 rows
    assert heads.chunk_size(torch.empty(0, 64)) > 1 << 60
    sizes = [
        heads.chunk_size(torch.empty(1).expand(size, 4)) for size in (327_680, 327_681, 308_405)
    ]
    assert sizes == [16, 15, 16]  # 16, 15, 17 rows
    assert heads.chunk_size(torch.empty(1).expand(8 << 20, 1)) == 1  # not one
    assert heads._block_rows(torch.empty(1).expand(1, 6 << 20)) == 1


def test_onednn_multiplies_from_its_least_size_on(monkeypatch):
    monkeypatch.setattr(heads, "_has_onednn", lambda: True)
    head = torch.empty(1).expand(heads.LEAST_TILES * heads.HEAD_TILE_BYTES // 4 // 64, 64)
    served = lambda tokens, head: heads._multiplication(torch.empty(tokens, 64), head)
    assert served(8, head) is heads._by_onednn
    assert served(7, head) is served(8, head[1:]) is torch.mm
    assert head.numel() == 8 * (2 << 20) // 4


def test_no_more_threads_than_wait_for_python(monkeypatch):
    asked = []
    pool = SimpleNamespace(map=lambda work, items: map(work, items))
    monkeypatch.setattr(rows, "_workers", lambda *of: asked.append(of) or pool)
    work, items = lambda x: 2 * x, [(1,), (2,)]
    for threads in (1, 2, 16, 17):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert list(rows.in_threads(work, items, torch.empty(1))) == [2, 4]
    assert asked == [(threads, os.getpid()) for threads in (2, 16, 16)]
    assert list(rows.in_threads(work, items[:1], torch.empty(1))) == [2]
    assert list(rows.in_threads(work, items, elsewhere(1))) == [2, 4] and len(asked) == 3


def test_memory_is_kept_and_its_pages_are_large(monkeypatch):
    """What only time would show: each loss asks for both."""
    kept, large = [], []
    keep, pages = rows.keep_freed_memory, rows.large_pages
    for module, name in ((rows, "keep_freed_memory"), (sampled, "keep_freed_memory")):
        monkeypatch.setattr(module, name, lambda: kept.append(1))
    for module in (rows, sampled):
        note = lambda tensor: large.append(tuple(tensor.shape)) or pages(tensor)
        monkeypatch.setattr(module, "large_pages", note)
    z, y, w = drawn(2, 5).requires_grad_(), drawn(2, 5), drawn(7, 5).requires_grad_()
    distillation_loss(z, y).backward()
    assert (len(kept), large) == (1, [(2, 5)])
    fused_linear_distillation_loss(z, w, y, drawn(7, 5)).backward()
    assert (len(kept), large[1:]) == (2, [(7, 5), (2, 2, 7)])
    losses.token_log_probabilities(z, torch.zeros(2, dtype=torch.int64)).sum().backward()
    assert (len(kept), large[3:]) == (3, [(2, 5)])
    made = []
    monkeypatch.setattr(torch, "empty", lambda size, dtype: made.append((size, dtype)))
    keep()
    assert made == [(31 << 20, torch.uint8)] and rows.LARGE_BYTES == 32 << 20


def test_a_thread_for_rows_computes_alone():
    threads = torch.get_num_threads()
    work = lambda item: (torch.get_num_threads(), threading.current_thread().name[:12])
    torch.set_num_threads(3)
    try:
        found = set(rows.in_threads(work, [(item,) for item in range(9)], torch.empty(1)))
        assert found == {(1, "opd-toy-rows")}
    finally:
        torch.set_num_threads(threads)


def test_tokens_are_counted_within_a_group(monkeypatch):
    asked, there = [], torch.distributed
    monkeypatch.setattr(there, "is_initialized", lambda: True)
    monkeypatch.setattr(there, "all_reduce", lambda x, group: asked.append(group) or x.mul_(5))
    monkeypatch.setattr(there, "get_world_size", lambda group: asked.append(group) or 4)
    mask = torch.tensor([1, 0, 1])
    assert token_count(mask, mask, group="mine") == 5 * 4 / 4 and asked == ["mine", "mine"]
    assert token_count(mask * 0) == 1 / 4


def test_off_the_cpu_nothing_is_waited_for():
    assert rows.any_of(elsewhere(2)) is True
    assert rows.any_of(torch.tensor([False])) is False


OBJECTIVES = [
    *[("reverse_kl", {}), ("forward_kl", {}), ("generalized_jsd", {"beta": 0.3})],
    *[("skewed_forward_kl", {"skew": 0.1}), ("skewed_reverse_kl", {"skew": 0.1})],
    *[("top_k_reverse_kl", {"k": 3, "outside": each}) for each in ("renormalize", "drop", "tail")],
]


def test_everything_is_made_on_the_device_of_what_is_handed_in(monkeypatch):
    """Where numbers cannot be looked at: on torch's meta device, which has none."""
    autocast, looked = torch.autocast, torch.Tensor.__bool__
    on_cpu = lambda kind, **how: autocast("cpu" if kind == "meta" else kind, **how)
    monkeypatch.setattr(torch, "autocast", on_cpu)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: False)
    all_rows = lambda x: torch.arange(len(x), device=x.device)[:, None]
    monkeypatch.setattr(torch.Tensor, "nonzero", all_rows)
    z, y = elsewhere(2, 3, 7).requires_grad_(), elsewhere(2, 3, 7)
    head = elsewhere(9, 7).requires_grad_()
    found = []
    for name, parameters in OBJECTIVES:
        found.append(distillation_loss(z, y, name, temperature=2.0, **parameters))
        found.append(fused_linear_distillation_loss(z, head, y, head, name, **parameters))
    sum(found).backward()
    tokens = elsewhere(2, 3, dtype=torch.int64)
    log_p = losses.token_log_probabilities(z, tokens)
    losses.policy_gradient_loss(log_p, log_p).backward()
    found += [z.grad, head.grad, methods.position_kl(z, y), losses.sft_loss(z, tokens)]
    task = Sums(terms=2, digits=1)
    prompts = elsewhere(5, task.prompt_length, dtype=torch.int64)
    with monkeypatch.context() as patch:
        made = []
        for maker in (torch.arange, torch.tensor):
            note = lambda *of, maker=maker, **how: (
                made.append(how.get("device")) or maker(*of, **how)
            )
            patch.setattr(torch, maker.__name__, note)
        texts = task.demonstrations(prompts, elsewhere(5, dtype=torch.float64))
        found += [texts, task.rewards(texts), task.workings(texts)]
        assert made.count(None) == 1  # the probabilities of the orders, which are then moved
    small = Transformer(Shape(16, 8, 1, 2, texts.shape[1])).to("meta")
    found += [small(texts[:, :-1]), small.cache(5).stored]
    cache = small.cache(5)
    found += [small(part, cache) for part in texts.split(6, 1)]
    monkeypatch.setattr(torch.Tensor, "__bool__", lambda x: not x.is_meta and looked(x))
    numbers = elsewhere(5, task.length, dtype=torch.float64)
    found.append(model.sample(small, prompts, numbers, task.end, task.pad))
    assert all(each.is_meta for each in found)


def test_a_file_is_on_the_disk_before_it_takes_its_name(tmp_path, monkeypatch):
    done = []
    sync, replace = os.fsync, os.replace
    size = lambda file: os.fstat(file).st_size > 1000
    monkeypatch.setattr(os, "fsync", lambda file: done.append(size(file)) or sync(file))
    monkeypatch.setattr(os, "replace", lambda *paths: done.append("named") or replace(*paths))
    model.save(tmp_path / "model", Transformer(Shape(5, 8, 1, 2, 4)))
    assert done == [True, "named"]


def test_the_spread_of_new_weights():
    """Half over the root of a matrix's inputs; less where it adds to the stream, by the depth."""
    made = dict(Transformer(Shape(200, 64, 4, 4, 8), 5).named_parameters())
    shape = made["blocks.0.down.weight"].shape
    spread = {
        "embedding": 0.3,
        "head": 0.5 / 8,
        "blocks.2.query_key_value": 0.5 / 8,
        "blocks.1.gate_and_up": 0.5 / 8,
        "blocks.0.mixed": 0.5 / 8 / 8**0.5,
        "blocks.3.down": 0.5 / shape[1] ** 0.5 / 8**0.5,
    }
    for name, wanted in spread.items():
        weight = made[f"{name}.weight"]
        assert weight.std().item() == pytest.approx(wanted, rel=0.05), name
        assert abs(weight.mean().item()) < 0.05 * wanted, name
    assert all((weight == 1).all() for weight in made.values() if weight.ndim == 1)


# --- what every machine draws alike ------------------------------------------------------


def digest(*arrays):
    return hashlib.sha256(b"".join(np.asarray(x).tobytes() for x in arrays)).hexdigest()[:12]


def test_texts_are_those_that_the_records_were_made_with():
    """Whole numbers and uniform ones, so that no processor rounds them: to the last digit."""
    found = {"uniforms": digest(uniforms(3, "name", 5, shape=(4, 7)))}
    for name, task in {
        "sums": Sums(),
        "wide": Sums(terms=5, digits=3, base=100, vocabulary=128),
        "small": Sums(terms=2, digits=1),
    }.items():
        asked = [task.prompts(count, 1, "some", split=split)
                 for split in ("train", "test") for count in (300, 40, 7)]  # fmt: skip
        answers = task.demonstrations(asked[0], uniforms(0, "orders", shape=(300,)))
        found[name] = digest(*asked, answers)
    names = [Doors().prompts(300, 1, "some", split=split) for split in ("train", "test")]
    found["doors"] = digest(*names, rooms(names[0]))
    found["kept"] = digest(is_test(torch.cartesian_prod(*[torch.arange(40)] * 2)))
    assert found == {
        "uniforms": "c78b8f2ba0a8",
        "sums": "4212c6a658f0",
        "wide": "5df5234b22ec",
        "small": "7b8fd3450584",
        "doors": "dc5ba21b1749",
        "kept": "8387465ca78e",
    }
