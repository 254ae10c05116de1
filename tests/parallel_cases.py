"""What several processes compute against one.

``python -m tests.parallel_cases FOLDER`` runs all CASES on two processes and those OF_FOUR on four,
and leaves in FOLDER/2 and FOLDER/4 a file RANK.json of each, {case: what is wrong, or ""}.  All
processes draw the same numbers, and each also computes the whole alone.
"""

import datetime
import json
import math
import re
import sys
import traceback
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from unittest import mock

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

from opd_toy.lm import parallel
from opd_toy.lm.losses import distillation_loss, fused_linear_distillation_loss, token_count
from opd_toy.lm.model import Shape, Transformer
from opd_toy.lm.parallel import (
    bytes_a_token,
    fused_linear_vocabulary_parallel_loss,
    vocabulary_parallel_loss,
)

ROOT = Path(__file__).parents[1]
INF = math.inf
EXACT, ROUNDED, COARSE = 1e-12, 3e-6, 2e-2  # relative, in float64, float32 and bfloat16
OBJECTIVES = {
    "reverse": ("reverse_kl", {}),
    "forward": ("forward_kl", {}),
    "jsd .1": ("generalized_jsd", {"beta": 0.1}),
    "jsd .7": ("generalized_jsd", {"beta": 0.7}),
    "jsd 1": ("generalized_jsd", {"beta": 1}),
    "skewed forward": ("skewed_forward_kl", {"skew": 0.1}),
    "skewed forward .001": ("skewed_forward_kl", {"skew": 1e-3}),
    "skewed reverse": ("skewed_reverse_kl", {"skew": 0.1}),
}
CASES = {}


def case(function):
    CASES[function.__name__] = function
    return function


def of_each_objective(function):
    for title, objective in OBJECTIVES.items():
        CASES[f"{function.__name__}, {title}"] = partial(function, *objective)
    return function


# --- what is compared --------------------------------------------------------------------


def draw(*shape, seed=0, scale=2.0, dtype=torch.float64):
    made = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(*shape, generator=made, dtype=torch.float64)).to(dtype)


def pair(*shape, **options):
    return draw(*shape, seed=1, **options), draw(*shape, seed=2, **options)


def mesh(*shape, names=None):
    return init_device_mesh("cpu", shape or (dist.get_world_size(),), mesh_dim_names=names)


def sharded(whole, dimension=-1):
    return distribute_tensor(whole.detach(), mesh(), [Shard(dimension)])


def placed(whole, placement):
    """``whole`` as a DTensor of this placement."""
    if placement.is_partial():  # each process has a share of every number
        share = whole / dist.get_world_size()
        return DTensor.from_local(share, mesh(), [placement]).detach()
    return distribute_tensor(whole, mesh(), [placement])


def near(actual, expected, tolerance, what):
    """Equal, or apart by ``tolerance`` times the largest finite entry expected."""
    assert actual.dtype == expected.dtype and actual.shape == expected.shape, what
    actual, expected = actual.detach().double(), expected.detach().double()
    apart = torch.where(actual == expected, 0.0, (actual - expected).abs())
    largest = expected[expected.isfinite()].abs().max().item() if expected.isfinite().any() else 0
    worst = apart.max().item() if apart.numel() else 0.0
    assert worst <= tolerance * max(largest, 1e-3), f"{what}: off by {worst:.1e} of {largest:.1e}"


def same(z, y, name, parameters, tolerance=EXACT, **options):
    """The loss of sharded logits is that of the whole ones; upstream is 3, not 1."""
    one, slices = z.clone().requires_grad_(), sharded(z).requires_grad_()
    expected = distillation_loss(one, y, name, **options, **parameters)
    found = vocabulary_parallel_loss(slices, sharded(y), name, **options, **parameters)
    (3 * expected).backward()
    (3 * found).backward()
    assert not isinstance(found, DTensor) and found.ndim == 0
    assert slices.grad.placements == slices.placements
    near(found, expected, tolerance, "value")
    near(slices.grad.to_local(), sharded(one.grad).to_local(), tolerance, "gradient")
    with torch.no_grad():
        alone = vocabulary_parallel_loss(slices, sharded(y), name, **options, **parameters)
    assert alone.equal(found), "another value without a gradient"


# --- a sharded vocabulary ----------------------------------------------------------------


@of_each_objective
def logits_in_float64(name, parameters):
    for vocabulary in (1, 2, 11, 12):  # 1: a slice is empty; 11: one is longer
        same(*pair(2, 3, vocabulary), name, parameters)
        same(*pair(2, 3, vocabulary), name, parameters, temperature=0.5)


@of_each_objective
def logits_in_float32(name, parameters):
    same(*pair(3, 2001, dtype=torch.float32), name, parameters, ROUNDED)


@of_each_objective
def logits_in_bfloat16(name, parameters):
    same(*pair(3, 201, dtype=torch.bfloat16), name, parameters, COARSE)


@case
def a_small_skew():
    for name in ("skewed_forward_kl", "skewed_reverse_kl"):
        z, y = pair(4, 51, scale=8.0, dtype=torch.float32)
        same(z, y, name, {"skew": 1e-6}, ROUNDED)


@of_each_objective
def nearly_equal_models(name, parameters):
    z, y = draw(4, 51), draw(4, 51) + 1e-3 * draw(4, 51, seed=5)
    same(z, y, name, parameters, 1e-9)  # of 1e-6 nats, which the first sum gives to 1e-10


@of_each_objective
def the_greatest_logit_lies_in_one_slice(name, parameters):
    z, y = pair(2, 3, 11)
    z[..., 0] += 800  # exp(800) is infinite
    y[..., -1] += 600
    same(z, y, name, parameters)


@of_each_objective
def barred_tokens(name, parameters):
    z, y = pair(4, 11)
    z[0, :6] = y[0, :6] = -INF  # all of a slice
    z[1, 3] = y[1, 3] = -INF
    z[2, 9] = -INF  # by the student alone
    same(z, y, name, parameters)
    z[3, :] = y[3, :]
    y[3, 2] = -INF  # by the teacher alone: the reverse KL is infinite
    same(z, y, name, parameters)
    z[3, :] = -INF
    z[3, 2] = 1.0  # by the teacher, and it is all that the student has
    same(z, y, name, parameters)


@of_each_objective
def masks_and_weights(name, parameters):
    z, y = pair(3, 4, 11)
    mask = torch.tensor([[1, 1, 0, 1], [0, 0, 0, 0], [0, 1, 1, 1]])
    z[0, 2], y[1, 1], z[1, 0] = math.nan, INF, -INF
    same(z, y, name, parameters, mask=mask)
    same(z, y, name, parameters, mask=mask.bool(), weights=draw(3, 4, seed=3), normalizer=2.5)
    none = torch.zeros(3, 4, dtype=torch.bool)
    same(z, y, name, parameters, mask=none)


@case
def weights_that_are_nan_or_differ_by_rounding():
    z, y = (sharded(x) for x in pair(3, 11))
    assert vocabulary_parallel_loss(z, y, weights=torch.tensor([1.0, math.nan, 1.0])).isnan()
    one = vocabulary_parallel_loss(z, y)
    weights = torch.tensor([1.0, 1.0 + 1e-7 * dist.get_rank(), 1.0], dtype=torch.float64)
    near(vocabulary_parallel_loss(z, y, weights=weights), one, 1e-6, "value")


@case
def masks_and_numbers_that_are_sharded():
    z, y = pair(4, 11)
    mask, weights = torch.tensor([1, 0, 1, 1]), draw(4, seed=3)
    expected = distillation_loss(z, y, mask=mask, weights=weights, normalizer=2.0)
    found = vocabulary_parallel_loss(
        sharded(z),
        sharded(y),
        mask=sharded(mask),
        weights=sharded(weights),
        normalizer=distribute_tensor(torch.tensor(2.0), mesh(), [Replicate()]),
    )
    near(found, expected, EXACT, "value")


@case
def shapes_of_any_kind():
    for shape in ((11,), (0, 11), (2, 2, 3, 11)):
        same(*pair(*shape), "reverse_kl", {})
    z, y = pair(2, 5, 11)
    one, slices = z.clone().requires_grad_(), sharded(z).requires_grad_()
    distillation_loss(one[:, :-1], y[:, :-1]).backward()
    vocabulary_parallel_loss(slices[:, :-1], sharded(y)[:, :-1]).backward()
    near(slices.grad.full_tensor(), one.grad, EXACT, "of logits[:, :-1]")


@case
def more_rows_than_a_block():
    """The process with 5 tokens a row would take more rows at a time than that with 6."""
    with mock.patch.object(parallel, "CPU_BLOCK_BYTES", 100):
        same(*pair(3, 13, 11), "generalized_jsd", {"beta": 0.5})


@case
def slices_that_a_process_made_itself():
    z, y = pair(3, 11)
    cut = slice(0, 2) if dist.get_rank() == 0 else slice(2, 11)
    one, mine = z.clone().requires_grad_(), z[:, cut].clone().requires_grad_()
    slices, teacher = (DTensor.from_local(x, mesh(), [Shard(-1)]) for x in (mine, y[:, cut]))
    expected, found = distillation_loss(one, y), vocabulary_parallel_loss(slices, teacher)
    expected.backward(), found.backward()
    near(found, expected, EXACT, "value")
    near(mine.grad, one.grad[:, cut], EXACT, "gradient")


@of_each_objective
def hidden_states_and_heads(name, parameters):
    hidden, their_hidden = draw(2, 3, 5), draw(2, 3, 7, seed=3)
    head, their_head = draw(11, 5, seed=4, scale=1.0), draw(11, 7, seed=5, scale=1.0)
    mask = torch.tensor([[1, 1, 0], [0, 1, 1]])
    their_hidden[0, 2] = math.nan
    options = {"mask": mask, "temperature": 0.7, "normalizer": 3.0, "chunk_tokens": 3}
    for dtype, tolerance in ((torch.float64, EXACT), (torch.float32, ROUNDED)):
        h, w, their_h, their_w = (x.to(dtype) for x in (hidden, head, their_hidden, their_head))
        one = [h.clone().requires_grad_(), w.clone().requires_grad_()]
        expected = fused_linear_distillation_loss(
            *one, their_h, their_w, name, **options, **parameters
        )
        expected.backward()
        for placement in (None, Replicate(), Shard(1), Partial()):
            mine = h.clone() if placement is None else placed(h, placement)
            slices = [mine.requires_grad_(), sharded(w, 0).requires_grad_()]
            found = fused_linear_vocabulary_parallel_loss(
                *slices, their_h, sharded(their_w, 0), name, **options, **parameters
            )
            found.backward()
            near(found, expected, tolerance, "value")
            to_hidden = slices[0].grad if placement is None else slices[0].grad.full_tensor()
            near(to_hidden, one[0].grad, tolerance, "gradient of hidden states")
            near(slices[1].grad.full_tensor(), one[1].grad, tolerance, "gradient of the head")


@case
def a_head_of_one_token():
    hidden, head = draw(3, 4).requires_grad_(), sharded(draw(1, 4), 0).requires_grad_()
    loss = fused_linear_vocabulary_parallel_loss(hidden, head, draw(3, 4), sharded(draw(1, 4), 0))
    loss.backward()
    assert loss == 0 and not hidden.grad.any() and not head.grad.full_tensor().any()


@contextmanager
def counted():
    """A list of the bytes of each call that goes between the processes; no other call may."""
    bytes_sent, all_reduce = [], dist.all_reduce

    def counting(tensor, *arguments):
        bytes_sent.append(tensor.numel() * tensor.element_size())
        return all_reduce(tensor, *arguments)

    with CommDebugMode() as communication:
        dist.all_reduce = counting
        try:
            yield bytes_sent
        finally:
            dist.all_reduce = all_reduce
    assert communication.get_total_counts() == len(bytes_sent)


@of_each_objective
def a_few_bytes_a_token(name, parameters):
    z, y = (sharded(x) for x in pair(4, 5, 40))
    heads = sharded(draw(40, 6), 0).requires_grad_(), sharded(draw(40, 6), 0)
    hidden = draw(4, 5, 6).requires_grad_()
    a_token = bytes_a_token(name, **parameters)
    with counted() as found:
        vocabulary_parallel_loss(z.requires_grad_(), y, name, **parameters).backward()
    assert sum(found) == 20 * a_token + 72, (found, a_token)
    with counted() as found:
        fused_linear_vocabulary_parallel_loss(
            hidden, heads[0], hidden, heads[1], name, **parameters
        ).backward()
    assert sum(found) == 20 * (a_token + 6 * 8) + 72, (found, a_token)


@case
def bytes_of_an_infinite_divergence():
    z, y = pair(4, 5, 40)
    y[2, 1, 30] = -INF
    slices, teacher = sharded(z).requires_grad_(), sharded(y)
    with counted() as found:
        vocabulary_parallel_loss(slices, teacher).backward()
    assert sum(found) == 20 * bytes_a_token() + 5 * 3 * 8 + 72, found  # the text's 5 rows


@case
def texts_that_differ_are_refused():
    rank = dist.get_rank()
    for shape, options, quoted in (
        ((2 + rank, 11), {}, "2 to 3 tokens"),
        ((3, 11), {"mask": torch.arange(3) > rank}, "1 to 2 of them valid"),
        ((3, 11), {"mask": torch.arange(3) != rank}, "the same texts, mask"),
        ((3, 11), {"weights": 1 + 1e-5 * rank * torch.ones(3)}, "the same texts, mask, weights"),
        ((3, 11), {"normalizer": 1.0 + rank}, "and normalizer"),
    ):
        slices = DTensor.from_local(torch.ones(shape), mesh(), [Shard(-1)], run_check=False)
        try:
            vocabulary_parallel_loss(slices, slices, **options)
        except ValueError as error:
            assert quoted in str(error), error
        else:
            raise AssertionError(f"not refused: {quoted}")


# --- models ------------------------------------------------------------------------------

SHAPE = Shape(vocabulary=11, width=16, layers=2, heads=2, length=6)
TEXTS = torch.randint(0, 11, (4, 6), generator=torch.Generator().manual_seed(7))
MASKS = {
    "unequal": [[1, 1, 1, 1, 1, 1], [0, 1, 1, 0, 0, 1], [0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 1]],
    "none on the second": [[1, 1, 1, 1, 1, 1], [0, 1, 1, 0, 0, 1], [0] * 6, [0] * 6],
}


def of_each_mask(function):
    for title, mask in MASKS.items():
        CASES[f"{function.__name__}, {title}"] = partial(function, torch.tensor(mask))
    return function


def models():
    return Transformer(SHAPE, seed=1).double(), Transformer(SHAPE, seed=2).double()


def mine(group=None):
    """The texts of this process, a run of them, among those of a group or of all processes."""
    share = len(TEXTS) // dist.get_world_size(group)
    return slice(share * dist.get_rank(group), share * (dist.get_rank(group) + 1))


def as_one_process(model, loss, mask):
    """The gradients of ``model`` are those of one process with all texts; the value too."""
    student, teacher = models()
    expected = distillation_loss(student(TEXTS), teacher(TEXTS), "reverse_kl", mask)
    expected.backward()
    wanted = dict(student.named_parameters())
    names = [name.removeprefix("module.") for name, _ in model.named_parameters()]
    assert sorted(names) == sorted(wanted)
    for name, (_, weight) in zip(names, model.named_parameters()):
        found = weight.grad.full_tensor() if isinstance(weight.grad, DTensor) else weight.grad
        near(found, wanted[name].grad, EXACT, name)
    near(loss, expected, EXACT, "value")


def mean_over_processes(loss):
    averaged = loss.detach().clone()
    dist.all_reduce(averaged)
    return averaged / dist.get_world_size()


@of_each_mask
def a_student_whose_head_is_sharded(mask):
    """With the code that the page shows."""
    student, teacher = models()
    names = {"student": student, "teacher": teacher, "texts": TEXTS, "mask": mask}
    exec(shown("parallelize_module"), names)
    assert isinstance(student.head.weight, DTensor)
    as_one_process(student, names["loss"], mask)


@of_each_mask
def texts_over_processes_by_fsdp(mask):
    """With the code that the page shows."""
    student, teacher = models()
    names = {"student": student, "teacher": teacher, "texts": TEXTS[mine()], "mask": mask[mine()]}
    exec(shown("fully_shard"), names)
    assert all(isinstance(weight, DTensor) for weight in student.parameters())
    as_one_process(student, mean_over_processes(names["loss"]), mask)


def shown(name):
    """The one block of Python on the page that names ``name``."""
    page = (ROOT / "book" / "08-losses-at-full-vocabulary.md").read_text(encoding="utf-8")
    (code,) = [
        code for code in re.findall(r"^```python\n(.*?)^```", page, re.M | re.S) if name in code
    ]
    return code


@of_each_mask
def texts_over_processes_by_ddp(mask):
    student, teacher = models()
    wrapped = DistributedDataParallel(student)
    here, count = TEXTS[mine()], token_count(mask[mine()])
    loss = distillation_loss(wrapped(here), teacher(here), mask=mask[mine()], normalizer=count)
    loss.backward()
    as_one_process(wrapped, mean_over_processes(loss), mask)


def texts_and_vocabulary(mask, texts, vocabulary):
    """FSDP2 over the first axis of a mesh, a sharded head on the second."""
    student, teacher = models()
    both = mesh(texts, vocabulary, names=("texts", "vocabulary"))
    sliced = ColwiseParallel(output_layouts=Shard(-1), use_local_output=False)
    for model in (student, teacher):
        parallelize_module(model, both["vocabulary"], {"head": sliced})
    for block in student.blocks:
        fully_shard(block, mesh=both["texts"])
    fully_shard(student, mesh=both["texts"])
    here = mine(both["texts"].get_group())
    logits, count = (student(TEXTS[here]), teacher(TEXTS[here])), token_count(mask[here])
    loss = vocabulary_parallel_loss(*logits, mask=mask[here], normalizer=count)
    loss.backward()
    as_one_process(student, mean_over_processes(loss), mask)


@of_each_mask
def texts_over_all_and_the_vocabulary_over_one(mask):
    texts_and_vocabulary(mask, dist.get_world_size(), 1)


@of_each_mask
def texts_over_one_and_the_vocabulary_over_all(mask):
    texts_and_vocabulary(mask, 1, dist.get_world_size())


# An axis of both kinds at once, and slices of three tokens of eleven, of one and of none.
OF_FOUR = {
    f"both_cuts, {title}": partial(texts_and_vocabulary, torch.tensor(mask), 2, 2)
    for title, mask in MASKS.items()
}
OF_FOUR |= {
    name: run
    for name, run in CASES.items()
    if name.startswith(("logits_in_float64", "barred", "masks")) or name == "a_head_of_one_token"
}


def run_cases(rank, folder, processes):
    """What one process does; torch ends the others where it fails."""
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), processes)
    minute = datetime.timedelta(seconds=60)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=processes, timeout=minute)
    found = {}
    try:
        for name, run in (OF_FOUR if processes == 4 else CASES).items():
            found[name] = "did not end"
            try:
                run()
                found[name] = ""
            except AssertionError as error:
                found[name] = str(error) or traceback.format_exc()
            # Any other error ends this process, and with it the others, who may be waiting.
    except BaseException:
        found[name] = traceback.format_exc()
        raise
    finally:
        (folder / f"{rank}.json").write_text(json.dumps(found), encoding="utf-8")
    dist.destroy_process_group()


def main(folder):
    """Forked, so that all this is imported once."""
    for processes in (2, 4):
        inside = folder / str(processes)
        inside.mkdir()
        arguments = inside, processes
        torch.multiprocessing.start_processes(
            run_cases, arguments, nprocs=processes, start_method="fork"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
