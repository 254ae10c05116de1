"""One loop that trains a student by any of ``opd_toy.lm.methods``, in one process or many.

A step draws prompts, lets the teacher or the student answer them, takes the method's loss
on the answers and moves the student by AdamW.  What is random depends on (seed, step)
alone and is drawn for the whole batch, then split among the ranks.  So a run that was
killed goes on to the same curve bit for bit, and several processes come to what one comes
to, but for rounding.
"""

import contextlib
import copy
import dataclasses
import hashlib
import time
from pathlib import Path

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from opd_toy import _validate
from opd_toy.lm.losses import token_count
from opd_toy.lm.measures import evaluate, response_logits
from opd_toy.lm.methods import Batch, find_method
from opd_toy.lm.model import load, response_mask, sample, save, uniforms
from opd_toy.records import provenance
from opd_toy.records.checkpoints import Checkpoint, Stop

WARM_UP = 10  # steps, after which the rate is constant
CLIP = 1.0  # of the gradient's norm
OPTIMIZER = {"betas": (0.9, 0.95), "weight_decay": 0.0, "fused": True}


class NotFinite(ArithmeticError):
    """Training has left the finite numbers; ``curve`` is what was measured before."""

    def __init__(self, message, curve):
        super().__init__(message)
        self.curve = curve


@dataclasses.dataclass(frozen=True)
class Run:
    """What stays the same throughout a run; ``parallel`` is the student as DDP wraps it, or its logits alone."""

    method: str
    preset: object
    seed: int
    group: int
    rows: slice
    micro_batches: int
    device: torch.device
    teacher: torch.nn.Module
    student: torch.nn.Module
    parallel: torch.nn.Module
    optimizer: torch.optim.Optimizer


# --- a run -------------------------------------------------------------------------------


def distill(
    method,
    preset,
    seed,
    teacher,
    student,
    *,
    folder,
    steps=None,
    micro_batches=1,
    device="cpu",
    report=None,
    **options,
):
    """Train a copy of ``student`` by the method of this name and return the curve of the run.

    {"steps": [...], "tokens": [...], "seconds": [...], a list for each measure, "memory"}; the
    first entry of each list is the start.  tokens were learned from so far; seconds are those
    of training, sampling included and evaluation not: of the processor on a CPU, else of the
    clock.  memory is the peak of a step in MiB on a GPU, else None.

    steps: in the place of the preset's.  micro_batches: the parts in which a rank takes its
    texts, for less memory and the same gradient.  report(done, steps) is called at each step;
    ``options`` go to the ``Checkpoint``, from which the same call takes up a run that was
    interrupted or has ended.  The trained weights lie at ``student_path``.
    Under torch.distributed all ranks call this; rank 0 evaluates, writes and keeps the time.

    Raises ValueError for settings that do not go together, ``NotFinite`` where the gradient
    is infinite or NaN.
    """
    (rank, ranks), device = rank_and_ranks(), torch.device(device)
    settings = preset.distillation
    group = settings.group if find_method(method).grouped else 1
    steps = _validate.whole("steps", settings.steps if steps is None else steps, 0)
    rows = rows_of_rank(settings.batch, group, micro_batches, rank, ranks)
    path = student_path(folder, method, preset, _validate.whole("seed", seed, 0), steps)
    belongs_to = [
        method, seed, dataclasses.asdict(preset.task), dataclasses.asdict(settings) | {"steps": steps}, preset.autocast, micro_batches, ranks, device.type,
        str(torch.__version__), fingerprint(teacher), fingerprint(student), provenance.source_hash(__name__),
    ]  # fmt: skip
    options = {
        "seconds": max(10, count_weights(student) / 5e5)
    } | options  # a large model takes long to write
    checkpoint = Checkpoint(path.with_suffix(".pt"), belongs_to, **options) if rank == 0 else None

    teacher, student = teacher.to(device), copy.deepcopy(student).to(device)
    optimizer = torch.optim.AdamW(student.parameters(), lr=settings.rate, **OPTIMIZER)
    state = _begin(checkpoint, path, student, optimizer)
    run = Run(
        method,
        preset,
        seed,
        group,
        rows,
        micro_batches,
        device,
        teacher,
        student,
        _parallel(student, preset.task),
        optimizer,
    )
    whole = lambda: state | {"weights": student.state_dict(), "optimizer": optimizer.state_dict()}
    if not state["curve"]:
        _measure(run, state)
    while state["iteration"] < steps:
        number = state["iteration"] + 1
        with _clock(state, device):
            loss, norm, tokens = step(run, number)
        if not norm.isfinite():
            kept = checkpoint is not None and checkpoint.save(whole())
            found = f"{method}, step {number}: the gradient is not finite (its norm is {norm:g}, the loss {loss:g})"
            raise NotFinite(
                f"{found}; what was reached by step {number - 1} is kept in {checkpoint.path}"
                if kept
                else found,
                state["curve"],
            )
        state["iteration"], state["tokens"] = number, state["tokens"] + tokens
        if number % settings.evaluate_every == 0 or number == steps:
            _measure(run, state)
        if report is not None and rank == 0:
            report(number, steps)
        if number < steps:
            _keep(checkpoint, whole, device)
    if "student" not in state:
        _finish(checkpoint, path, state, student)
    return state["curve"] | {"memory": state["memory"]}


def step(run, number):
    """Move the student once; the loss of this rank, the gradient's norm and the tokens of the whole batch.

    Where the norm is not finite the student stays as it is.
    """
    texts = draw_texts(run, number)
    mask = response_mask(texts, run.preset.task.prompt_length, run.preset.task.end)
    texts = texts[
        :, : run.preset.task.prompt_length + int(mask.any(0).sum())
    ]  # no one computes what all have ended before
    normalizer = token_count(mask)
    run.optimizer.zero_grad()
    loss = 0.0
    parts = texts.chunk(run.micro_batches)
    for part in parts:
        waits = isinstance(run.parallel, DistributedDataParallel) and part is not parts[-1]
        with (
            run.parallel.no_sync() if waits else contextlib.nullcontext()
        ):  # DDP adds up over ranks once
            share = loss_of(
                run.method,
                run.parallel,
                run.teacher,
                run.preset.task,
                part,
                group=run.group,
                normalizer=normalizer,
                autocast=run.preset.autocast,
            )
            share.backward()
        loss += share.detach()
    norm = torch.nn.utils.clip_grad_norm_(run.student.parameters(), CLIP)
    if norm.isfinite():
        run.optimizer.param_groups[0]["lr"] = run.preset.distillation.rate * min(
            1.0, number / WARM_UP
        )
        run.optimizer.step()
    return loss, norm, round(normalizer.item() * rank_and_ranks()[1])


def draw_texts(run, number):
    """This rank's texts (B / ranks, P + T) of step ``number``, in groups of one prompt each."""
    task, batch = run.preset.task, run.preset.distillation.batch
    prompts = task.prompts(
        batch // run.group, run.seed, "distillation", number, split="train"
    ).repeat_interleave(run.group, 0)
    numbers = uniforms(run.seed, "distillation", number, shape=(batch, task.length))
    writer = run.teacher if find_method(run.method).texts == "teacher" else run.student
    with torch.no_grad(), mixed(run.device, run.preset.autocast):
        return sample(
            writer,
            prompts[run.rows].to(run.device),
            numbers[run.rows].to(run.device),
            task.end,
            task.pad,
        )


# --- the loss of a method on given texts -------------------------------------------------


class Responses(torch.nn.Module):
    """A transformer that gives ``response_logits`` of texts, as DDP wants it: called, not by a method of its own."""

    def __init__(self, model, task):
        super().__init__()
        self.model, self.task = model, task

    def forward(self, texts):
        return response_logits(self.model, texts, self.task)


def loss_of(method, student, teacher, task, texts, *, group=1, normalizer=None, autocast=None):
    """The loss of the method of this name on ``texts`` (B, P + T), a scalar with gradient.

    student: a ``Transformer``, or a module that maps texts to logits as ``Responses`` does.
    normalizer: by default the valid tokens of these texts.
    """
    found, mask = find_method(method), response_mask(texts, task.prompt_length, task.end)
    with mixed(texts.device, autocast):
        logits = (
            student(texts)
            if not hasattr(student, "hidden")
            else response_logits(student, texts, task)
        )
        with torch.no_grad():
            wanted = response_logits(teacher, texts, task) if found.teacher else None
    reward = task.rewards(texts) if found.grouped else None
    normalizer = token_count(mask) if normalizer is None else normalizer
    return found.loss(
        Batch(logits, wanted, texts[:, task.prompt_length :], mask, reward, group, normalizer)
    )


def loss_and_gradient(method, student, teacher, task, texts, **options):
    """The loss of ``loss_of`` and its gradient (P,) in all parameters of the student, in their order."""
    loss = loss_of(method, student, teacher, task, texts, **options)
    return loss.detach(), torch.cat(
        [part.flatten() for part in torch.autograd.grad(loss, list(student.parameters()))]
    )


def mixed(device, autocast):
    """The context in which models compute: autocast to the dtype of this name, or none."""
    return (
        torch.autocast(device.type, dtype=getattr(torch, autocast))
        if autocast
        else contextlib.nullcontext()
    )


# --- ranks -------------------------------------------------------------------------------


def rank_and_ranks():
    """(0, 1) without torch.distributed."""
    there = distributed.is_available() and distributed.is_initialized()
    return (distributed.get_rank(), distributed.get_world_size()) if there else (0, 1)


def rows_of_rank(batch, group, micro_batches, rank, ranks):
    """The rows of the batch that ``rank`` takes; ValueError where groups would be split."""
    _validate.whole("micro_batches", micro_batches, 1)
    if batch % (ranks * micro_batches * group):
        raise ValueError(
            f"batch is {batch}, which cannot be split among {ranks} processes with {micro_batches} micro-batches each in whole groups of {group}; "
            f"give a multiple of {ranks * micro_batches * group}"
        )
    share = batch // ranks
    return slice(rank * share, (rank + 1) * share)


def _parallel(student, task):
    responses = Responses(student, task)
    return DistributedDataParallel(responses) if rank_and_ranks()[1] > 1 else responses


def _keep(checkpoint, whole, device):
    """Between steps: a checkpoint now and then; asked to stop, all ranks stop after the same step."""
    if rank_and_ranks()[1] > 1:
        asked = torch.tensor(Stop.asked, device=device)
        distributed.all_reduce(asked, distributed.ReduceOp.MAX)
        Stop.asked = asked.item()
    if checkpoint is not None:
        checkpoint.after(whole())
    elif Stop.asked:
        raise KeyboardInterrupt


# --- beginning, measuring, ending --------------------------------------------------------


def student_path(folder, method, preset, seed, steps=None):
    """Where the weights of a trained student lie; its checkpoint is beside them."""
    steps = preset.distillation.steps if steps is None else steps
    return Path(folder) / f"{preset.name}-{method}-seed-{seed}-steps-{steps}.safetensors"


def _begin(checkpoint, path, student, optimizer):
    """The state to go on from, the same on every rank; weights and optimiser are put in place."""
    state = None
    if (
        checkpoint is not None
        and (state := checkpoint.load())
        and "student" in state
        and not _is_there(path, state["student"])
    ):
        checkpoint.say(f"{path} is not what that run left; starting anew")
        state = None
    if rank_and_ranks()[1] > 1:
        shared = [state]
        distributed.broadcast_object_list(shared)
        state = shared[0]
    if state is None:
        return {"iteration": 0, "tokens": 0, "seconds": 0.0, "memory": None, "curve": {}}
    if "student" not in state:
        student.load_state_dict(state.pop("weights"))
        optimizer.load_state_dict(state.pop("optimizer"))
    return state


def _measure(run, state):
    if rank_and_ranks()[0] == 0:
        measured = evaluate(
            run.student, run.teacher, run.preset
        )  # in float32 after training in bfloat16, too
        for name, value in {
            "steps": state["iteration"],
            "tokens": state["tokens"],
            "seconds": state["seconds"],
            **measured,
        }.items():
            state["curve"].setdefault(name, []).append(value)


def _finish(checkpoint, path, state, student):
    if checkpoint is not None:
        save(path, student)
        checkpoint.after(state | {"student": fingerprint(student)}, last=True)
    if rank_and_ranks()[1] > 1:
        distributed.barrier()  # the weights are there for every rank that reads them


def _is_there(path, wanted):
    try:
        return fingerprint(load(path)) == wanted
    except Exception:
        return False


def count_weights(model):
    return sum(weights.numel() for weights in model.parameters())


def fingerprint(model):
    """SHA-256 of a model's weights, the same on every device."""
    digest = hashlib.sha256()
    for name, weights in sorted(model.state_dict().items()):
        digest.update(
            f"{name} {tuple(weights.shape)} {weights.dtype}".encode()
            + weights.detach().cpu().contiguous().numpy().tobytes()
        )
    return digest.hexdigest()


@contextlib.contextmanager
def _clock(state, device):
    """Adds to the state the seconds that what is within takes, and the peak of the memory on a GPU."""
    gpu = device.type == "cuda"
    if gpu:
        torch.cuda.synchronize(device), torch.cuda.reset_peak_memory_stats(device)
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    started = clock()
    yield
    if gpu:
        torch.cuda.synchronize(device)
        state["memory"] = max(state["memory"] or 0, torch.cuda.max_memory_allocated(device) / 2**20)
    state["seconds"] += clock() - started
