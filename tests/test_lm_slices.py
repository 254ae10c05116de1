"""Slices of a vocabulary, two in two threads of this process, beside the whole rows.

tests/test_lm_parallel.py has processes; here what each slice makes is looked at alone.
"""

import math
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from opd_toy.lm import parallel, slices
from opd_toy.lm.losses import distillation_loss
from opd_toy.lm.tokens import working_dtype

pytestmark = pytest.mark.usefixtures("one_thread")

INF = math.inf
OBJECTIVES = [
    ("reverse_kl", {}),
    ("forward_kl", {}),
    *[("generalized_jsd", {"beta": beta}) for beta in (0.1, 0.7)],
    *[("skewed_forward_kl", {"skew": skew}) for skew in (0.1, 1e-3)],
    *[("skewed_reverse_kl", {"skew": skew}) for skew in (0.1, 0.9)],
]


class Group:
    """What the threads add up or compare, each with a copy of its own."""

    def __init__(self, members):
        self.numbers, self.met = [None] * members, threading.Barrier(members, timeout=20)

    def all_reduce(self, rank, numbers, how):
        self.numbers[rank] = numbers.clone()
        self.met.wait()
        found = how(torch.stack(self.numbers), 0)
        self.met.wait()
        return numbers.copy_(found)


@pytest.fixture(autouse=True)
def threads_for_processes(monkeypatch):
    """A group is (Group, rank) here."""
    reduced = lambda how: lambda numbers, group: group[0].all_reduce(group[1], numbers, how)
    monkeypatch.setattr(slices, "total", reduced(torch.sum))
    monkeypatch.setattr(slices, "greatest", reduced(torch.amax))


def in_threads(work, members):
    """work((Group, rank), rank) of each thread."""
    group = Group(members)
    with ThreadPoolExecutor(members) as pool:
        return list(pool.map(lambda rank: work((group, rank), rank), range(members)))


def drawn(seed, rows=4, words=11, dtype=torch.float64):
    draw = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(rows, words, generator=draw, dtype=torch.float64)).to(dtype)


def beside_the_whole(z, y, factor, name, parameters, temperature, tolerance, cut=4):
    """Value and gradient, of slices of ``cut`` words and of the others."""
    leaf = z.clone().requires_grad_()
    weights = {"weights": factor, "normalizer": 1, "mask": factor != 0}
    whole = distillation_loss(leaf, y, name, temperature=temperature, **weights, **parameters)
    whole.backward()
    parts = [slice(0, cut), slice(cut, None)]
    function = slices.OBJECTIVES[name]

    def work(group, rank):
        mine, theirs = z[:, parts[rank]], y[:, parts[rank]]
        out = torch.full(mine.shape, math.nan, dtype=working_dtype(z))
        given = (mine, theirs, factor)
        value = slices.add_rows(*given, out, group, function, parameters, temperature)
        alone = slices.add_rows(*given, None, group, function, parameters, temperature)
        assert torch.equal(value, alone) and value.dtype == torch.float64
        return value.item(), out

    (value, first), (other, second) = in_threads(work, 2)
    assert value == other and value == pytest.approx(whole.item(), rel=tolerance, abs=1e-12)
    found, wanted = torch.cat([first, second], 1).double(), leaf.grad.double()
    assert torch.equal(found.isposinf(), wanted.isposinf())
    assert torch.equal(found.isneginf(), wanted.isneginf()) and not found.isnan().any()
    finite = wanted.isfinite()
    assert ((found - wanted)[finite].norm() <= tolerance * wanted[finite].norm() + 1e-14).item()


FACTOR = torch.tensor([0.5, 0.0, 2.0, 1.0], dtype=torch.float64)


@pytest.mark.parametrize("name, parameters", OBJECTIVES)
@pytest.mark.parametrize("kind", ["apart", "near", "barred", "teacher bars", "all that is left"])
def test_two_slices_are_the_row(name, parameters, kind):
    """In the second row there may be anything: its factor is 0."""
    z, y = drawn(0), drawn(1)
    if kind == "near":
        y = z + 1e-3 * y
    if kind in ("barred", "teacher bars", "all that is left"):
        z[0, :4] = y[0, :4] = -INF  # all of a slice
        z[2, 9] = -INF  # by the student alone
        z[1, 3], y[1, 5] = math.nan, INF
    if kind == "teacher bars":
        y[3, 2] = z[3, 7] = -INF
    if kind == "all that is left":
        z[3], y[3, 2] = -INF, -INF
        z[3, 2] = 1.0
    tolerance = 1e-9 if kind == "near" else 1e-11
    for temperature in (1.0, 0.7):
        beside_the_whole(z, y, FACTOR, name, parameters, temperature, tolerance)


@pytest.mark.parametrize("name, parameters", OBJECTIVES)
def test_slices_in_float32_of_no_words_and_of_one(name, parameters):
    z, y = drawn(0, dtype=torch.float32), drawn(1, dtype=torch.float32)
    for cut in (0, 1, 11):
        beside_the_whole(z, y, FACTOR.float(), name, parameters, 1.0, 3e-6, cut)
    near = (z.double() + 1e-3 * y).float()
    beside_the_whole(z, near, FACTOR.float(), name, parameters, 1.0, 2e-3)  # of 1e-6 nats


def agreed(*scales, sizes=(7, 5)):
    return in_threads(
        lambda group, rank: parallel._agreed(scales[rank], sizes[rank], group), len(scales)
    )


def test_processes_agree_on_the_least_size_and_on_what_counts():
    scale = torch.tensor([[0.5, 0.0, 1.0], [0.25, math.nan, 0.0]], dtype=torch.float64)
    assert agreed(scale, scale.clone()) == [5, 5]
    assert agreed(scale, scale * (1 + 9e-7)) == [5, 5]
    assert agreed(-scale, -scale) == [5, 5]
    assert agreed(scale * 0, scale.clone() * 0) == [5, 5]  # nothing counts, or all is NaN
    assert agreed(torch.zeros(3), torch.zeros(3)) == [5, 5]


@pytest.mark.parametrize(
    "one, other, numbers",
    [
        ([1, 1, 0], [1, 1], "2 to 3 tokens, 2 to 2"),
        ([1, 1, 0], [1, 0, 0], "3 to 3 tokens, 1 to 2"),
        ([1, 1, 0], [1, 0, 1], "3 to 3 tokens, 2 to 2"),
        ([1, 1, 0], [1, 1 + 2e-6, 0], "3 to 3 tokens, 2 to 2"),
        ([2, 1, 0], [1, 2, 0], "3 to 3 tokens, 2 to 2"),
    ],
)
def test_processes_with_other_texts_or_weights_are_told(one, other, numbers):
    with pytest.raises(ValueError) as error:
        agreed(*(torch.tensor(each, dtype=torch.float64) for each in (one, other)))
    assert str(error.value) == (
        f"the processes have {numbers} of them valid; give all processes that share a vocabulary "
        "the same texts, mask, weights and normalizer"
    )


def test_blocks_are_cut_text_by_text():
    """Whatever the leading axes, the factors with the rows that they belong to."""
    for leading, sizes in ((5,), [2, 2, 1]), ((2, 3), [2, 1, 2, 1]), ((0, 3), []), ((2, 0), []):
        z, factor = torch.arange(math.prod(leading) * 4).view(*leading, 4), None
        factor = z[..., 0].clone()
        found = list(parallel._blocks(2, z, z + 1, factor))
        assert [len(rows) for rows, *_ in found] == sizes
        for rows, more, factors in found:
            assert torch.equal(rows[:, 0], factors) and torch.equal(more, rows + 1)
    [(row, _, factor)] = parallel._blocks(2, torch.ones(4), torch.ones(4), torch.tensor(3.0))
    assert row.shape == (1, 4) and factor.tolist() == [3.0]
    empty = parallel._blocks(2, torch.ones(3, 0), torch.ones(3, 0), torch.ones(3))
    assert [len(rows) for rows, *_ in empty] == [2, 1]  # which the other processes wait for
