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
import time
from pathlib import Path

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from opd_toy import _validate
from opd_toy.lm.losses import token_count
from opd_toy.lm.measures import evaluate
from opd_toy.lm.methods import Responses, find_method, loss_and_gradient, loss_of
from opd_toy.lm.model import fingerprint, load, mixed, response_mask, sample, save, uniforms
from opd_toy.records import provenance
from opd_toy.records.checkpoints import Checkpoint, Stop

__all__ = [
    "NotFinite",
    "Run",
    "count_weights",
    "distill",
    "draw_texts",
    "loss_and_gradient",
    "loss_of",
    "rank_and_ranks",
    "rows_of_rank",
    "step",
    "student_path",
]

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
    """What stays the same throughout a run.

    rows: this rank's of a batch.  parallel: ``Responses`` of the student, which DDP wraps.
    """

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
    rank, ranks = rank_and_ranks()
    settings, device = preset.distillation, torch.device(device)
    steps = _validate.whole("steps", settings.steps if steps is None else steps, 0)
    path = student_path(folder, method, preset, _validate.whole("seed", seed, 0), steps)
    group = settings.group if find_method(method).grouped else 1
    rows = rows_of_rank(settings.batch, group, micro_batches, rank, ranks)
    belongs_to = _belongs_to(method, preset, seed, teacher, student, steps, micro_batches, device)
    checkpoint = None
    if rank == 0:
        wait = max(10, count_weights(student) / 5e5)  # a large model takes long to write
        checkpoint = Checkpoint(path.with_suffix(".pt"), belongs_to, **{"seconds": wait} | options)

    teacher, student = teacher.to(device), copy.deepcopy(student).to(device)
    optimizer = torch.optim.AdamW(student.parameters(), lr=settings.rate, **OPTIMIZER)
    state = _begin(checkpoint, path, student, optimizer)
    run = Run(
        method=method,
        preset=preset,
        seed=seed,
        group=group,
        rows=rows,
        micro_batches=micro_batches,
        device=device,
        teacher=teacher,
        student=student,
        parallel=_parallel(student, preset.task),
        optimizer=optimizer,
    )
    if not state["curve"]:
        _measure(run, state)
    while state["iteration"] < steps:
        _advance(run, state, steps, checkpoint)
        if report is not None and rank == 0:
            report(state["iteration"], steps)
        if state["iteration"] < steps:
            _keep(checkpoint, lambda: _whole(run, state), device)
    if "student" not in state:
        _finish(checkpoint, path, state, student)
    return state["curve"] | {"memory": state["memory"]}


def _belongs_to(method, preset, seed, teacher, student, steps, micro_batches, device):
    """What a checkpoint is tied to: all that decides what the run comes to."""
    return [
        method,
        seed,
        dataclasses.asdict(preset.task),
        dataclasses.asdict(preset.distillation) | {"steps": steps},
        preset.autocast,
        micro_batches,
        rank_and_ranks()[1],
        device.type,
        str(torch.__version__),
        fingerprint(teacher),
        fingerprint(student),
        provenance.source_hash(__name__),
    ]


def _advance(run, state, steps, checkpoint):
    """One step, and the measures where they are due."""
    number = state["iteration"] + 1
    with _clock(state, run.device):
        loss, norm, tokens = step(run, number)
    if not norm.isfinite():
        found = (
            f"{run.method}, step {number}: the gradient is not finite "
            f"(its norm is {norm:g}, the loss {loss:g})"
        )
        if checkpoint is not None and checkpoint.save(_whole(run, state)):
            found += f"; what was reached by step {number - 1} is kept in {checkpoint.path}"
        raise NotFinite(found, state["curve"])
    state["iteration"], state["tokens"] = number, state["tokens"] + tokens
    if number % run.preset.distillation.evaluate_every == 0 or number == steps:
        _measure(run, state)


def _whole(run, state):
    """The state with all that a run goes on from."""
    return state | {
        "weights": run.student.state_dict(),
        "optimizer": run.optimizer.state_dict(),
    }


def step(run, number):
    """Move the student once: this rank's loss, the gradient's norm, the whole batch's tokens.

    Where the norm is not finite the student stays as it is.
    """
    task, texts = run.preset.task, draw_texts(run, number)
    mask = response_mask(texts, task.prompt_length, task.end)
    texts = texts[:, : task.prompt_length + int(mask.any(0).sum())]  # to the last one's end
    normalizer = token_count(mask)
    run.optimizer.zero_grad()
    loss = 0.0
    parts = texts.chunk(run.micro_batches)
    for part in parts:
        waits = isinstance(run.parallel, DistributedDataParallel) and part is not parts[-1]
        # DDP adds up over the ranks once, at the last part.
        with run.parallel.no_sync() if waits else contextlib.nullcontext():
            share = loss_of(
                run.method,
                run.parallel,
                run.teacher,
                task,
                part,
                group=run.group,
                normalizer=normalizer,
                autocast=run.preset.autocast,
            )
            share.backward()
        loss += share.detach()
    norm = torch.nn.utils.clip_grad_norm_(run.student.parameters(), CLIP)
    if norm.isfinite():
        rate = run.preset.distillation.rate * min(1.0, number / WARM_UP)
        run.optimizer.param_groups[0]["lr"] = rate
        run.optimizer.step()
    return loss, norm, round(normalizer.item() * rank_and_ranks()[1])


def draw_texts(run, number):
    """This rank's texts (B / ranks, P + T) of step ``number``, in groups of one prompt each."""
    task, batch = run.preset.task, run.preset.distillation.batch
    key = run.seed, "distillation", number
    prompts = task.prompts(batch // run.group, *key, split="train")
    prompts = prompts.repeat_interleave(run.group, 0)[run.rows].to(run.device)
    numbers = uniforms(*key, shape=(batch, task.length))[run.rows].to(run.device)
    writer = run.teacher if find_method(run.method).texts == "teacher" else run.student
    with torch.no_grad(), mixed(run.device, run.preset.autocast):
        return sample(writer, prompts, numbers, task.end, task.pad)


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
            f"batch is {batch}, which cannot be split among {ranks} processes with "
            f"{micro_batches} micro-batches each in whole groups of {group}; "
            f"give a multiple of {ranks * micro_batches * group}"
        )
    share = batch // ranks
    return slice(rank * share, (rank + 1) * share)


def _parallel(student, task):
    responses = Responses(student, task)
    return DistributedDataParallel(responses) if rank_and_ranks()[1] > 1 else responses


def _keep(checkpoint, whole, device):
    """Between steps: a checkpoint now and then; if asked to, all ranks stop after one step."""
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
    state = checkpoint and checkpoint.load()
    if state and "student" in state and not _is_there(path, state["student"]):
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
        spent = {"steps": state["iteration"]} | {key: state[key] for key in ("tokens", "seconds")}
        # Without autocast, in float32 after training in bfloat16 too.
        measured = evaluate(run.student, run.teacher, run.preset)
        for name, value in (spent | measured).items():
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


@contextlib.contextmanager
def _clock(state, device):
    """Adds to the state the seconds that the block takes; on a GPU notes the peak of memory."""
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
