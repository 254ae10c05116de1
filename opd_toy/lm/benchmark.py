"""Time, memory and rounding of the distillation losses beside those of other libraries.

``python -m opd_toy bench`` runs this.  Each case is one loss in a process of its own, which
makes the inputs from a seed.  One forward and backward pass is one measurement:

- extra memory: the largest resident memory (VmHWM, set back by writing 5 to
  /proc/self/clear_refs) during the first full pass, less the resident memory before it.
  Before it lie the inputs, a pass over 4 tokens and 64 words that loads code (compiled
  cases: a full one) and malloc_trim.  The gradients the pass leaves behind count.
  A fork of the process measures it, with glibc told to hand buffers of a megabyte back at
  once (M_MMAP_THRESHOLD), so that gaps in the heap count for nobody; the figure under
  glibc's default is recorded as ``default_malloc_bytes``.  None off Linux.
- seconds: wall time of later passes, the cases of a setting taking turns.
- gradient error: |g - g64| / |g64| (2-norms), g64 from float64 autograd of the textbook
  formula on the same inputs.

Other libraries: TRL (Hugging Face, Apache 2.0) and Liger Kernel (LinkedIn, BSD 2).
"""

import ctypes
import gc
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).parents[2]
M_MMAP_THRESHOLD = -3  # of malloc.h
VOCABULARY = 151_936  # of Qwen2.5
PEERS = {"trl": "trl", "liger": "liger-kernel"}  # the first word of a case: its distribution
CASES = {
    "ours": "this book",
    "ours_overwrite": "this book, overwrite_logits",
    "trl": "TRL generalized_jsd_loss",
    "trl_chunked": "TRL chunked divergence",
    "textbook": "textbook autograd",
    **{f"liger_{size}": f"Liger JSD, chunk_size={size}" for size in (8, 16, 32, 64, 128)},
    **{f"liger_{size}_compiled": f"Liger JSD, chunk_size={size}, compiled" for size in (16, 64)},
}
FROM_LOGITS = ("ours", "ours_overwrite", "trl", "textbook")


@dataclass(frozen=True)
class Setting:
    """Inputs and the cases run on them; ``width`` 0: from logits (1, tokens, vocabulary), else from hidden states (tokens, width)."""

    name: str
    cases: tuple
    beta: float = 1.0
    tokens: int = 256
    vocabulary: int = VOCABULARY
    width: int = 0
    dtype: str = "float32"

    def words(self):
        loss = {0: "forward KL", 1: "reverse KL"}.get(self.beta, f"JSD, beta = {self.beta:g}")
        source = f"hidden states of width {self.width}" if self.width else "logits"
        return f"{loss} from {source}, {self.tokens} tokens, V = {self.vocabulary}, {self.dtype}"


SETTINGS = (
    Setting("logits", FROM_LOGITS),
    Setting("logits_jsd", FROM_LOGITS, beta=0.5),
    Setting("logits_bfloat16", FROM_LOGITS, dtype="bfloat16"),
    Setting("hidden_64", ("ours", "trl_chunked", "liger_8", "liger_16", "liger_32", "liger_64", "liger_128", "liger_16_compiled", "liger_64_compiled"), width=64),
    Setting("hidden_64_jsd", ("ours", "trl_chunked", "liger_8", "liger_16", "liger_32"), beta=0.5, width=64),
    Setting("hidden_896", ("ours", "trl_chunked", "liger_16", "liger_64"), tokens=64, width=896),  # the width of Qwen2.5-0.5B
)


# --- the cases ---------------------------------------------------------------------------


def loss_function(case, setting):
    """The case's loss, a function of (student logits, teacher logits) or (hidden, weight, teacher's hidden, teacher's weight)."""
    beta, tokens = setting.beta, setting.tokens
    if case.startswith("ours"):
        from opd_toy.lm.losses import distillation_loss, fused_linear_distillation_loss

        if setting.width:
            return lambda *inputs: fused_linear_distillation_loss(*inputs, "generalized_jsd", beta=beta)
        return lambda z, y: distillation_loss(z, y, "generalized_jsd", beta=beta, overwrite_logits=case == "ours_overwrite")
    if case == "textbook":
        return lambda z, y: textbook(z.float(), y.float(), beta).mean()
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    if case == "trl":
        from trl.experimental.gkd import GKDTrainer

        # labels=None spares it a copy of the valid rows
        return lambda z, y: GKDTrainer.generalized_jsd_loss(z, y, beta=beta, num_items_in_batch=z.shape[:-1].numel())
    if case == "trl_chunked":
        from trl.trainer.distillation_trainer import _chunked_divergence_loss

        return lambda h, w, t, u: _chunked_divergence_loss(h[None], t[None], w, u, torch.ones(1, len(h)), beta)[0]
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    _, size, *compiled = case.split("_")
    loss = LigerFusedLinearJSDLoss(weight_hard_loss=0.0, weight_soft_loss=1.0, beta=beta, chunk_size=int(size), compiled=bool(compiled))
    target = torch.zeros(tokens, dtype=torch.long)  # none is ignored
    return lambda h, w, t, u: loss(h, w, t, u, target[: len(h)])


def textbook(z, y, beta):
    """Generalised JSD (...) of logits (..., V) as a paper writes it."""
    log_p, log_q = z.log_softmax(-1), y.log_softmax(-1)
    kl = lambda a, b: (a.exp() * (a - b)).sum(-1)  # noqa: E731
    if beta in (0, 1):
        return kl(log_p, log_q) if beta else kl(log_q, log_p)
    mixture = torch.logaddexp(log_p + math.log(1 - beta), log_q + math.log(beta))
    return beta * kl(log_q, mixture) + (1 - beta) * kl(log_p, mixture)


class _Model(torch.autograd.Function):
    """Stands for the model that computed the logits, and keeps the gradient that reaches it."""

    @staticmethod
    def forward(ctx, anchor, logits, kept):
        ctx.kept = kept
        return logits.view_as(logits)

    @staticmethod
    def backward(ctx, gradient):
        ctx.kept.append(gradient)
        return torch.zeros(()), None, None


def make_inputs(setting):
    """Student (std 3 a logit), then teacher: the student and as much noise as a third of it."""
    dtype, V, H, n = getattr(torch, setting.dtype), setting.vocabulary, setting.width, setting.tokens
    draw = torch.Generator().manual_seed(1)
    shapes = [(n, H), (V, H)] if H else [(1, n, V)]
    stds = [1.0, 3 / H**0.5] if H else [3.0]
    student = [torch.empty(shape, dtype=dtype).normal_(0, std, generator=draw) for shape, std in zip(shapes, stds)]
    teacher = [torch.empty(x.shape, dtype=dtype).normal_(0, std / 3, generator=draw).add_(x) for x, std in zip(student, stds)]
    return [*student, *teacher]


def one_pass(loss, inputs):
    """Forward and backward: (seconds, loss, gradients of the student's inputs)."""
    if len(inputs) == 2:
        kept, anchor = [], torch.zeros((), requires_grad=True)
        arguments = [_Model.apply(anchor, inputs[0], kept), inputs[1]]
    else:
        arguments = [inputs[0].detach().requires_grad_(), inputs[1].detach().requires_grad_(), *inputs[2:]]
    started = time.perf_counter()
    value = loss(*arguments)
    value.backward()
    seconds = time.perf_counter() - started
    return seconds, value.item(), kept if len(inputs) == 2 else [x.grad for x in arguments[:2]]


# --- a case's process --------------------------------------------------------------------


def reference(setting, folder):
    """Loss and gradients in float64, the gradients left in ``folder``; returns the loss."""
    inputs, rows = make_inputs(setting), 8
    H, n = setting.width, setting.tokens
    sizes = [(n, H), (setting.vocabulary, H)] if H else [(n, setting.vocabulary)]
    files = [np.lib.format.open_memmap(Path(folder) / f"{i}.npy", "w+", np.float64, size) for i, size in enumerate(sizes)]
    if H:
        h, w, t, u = (x.double() for x in inputs)
        files[1][:] = 0
    total = 0.0
    for a in range(0, n, rows):
        here = slice(a, min(a + rows, n))
        z, y = (h[here] @ w.T, t[here] @ u.T) if H else (x[0, here].double() for x in inputs)
        z.requires_grad_()
        value = textbook(z, y, setting.beta).sum() / n
        value.backward()
        total += value.item()
        files[0][here] = (z.grad @ w if H else z.grad).numpy()
        if H:
            torch.from_numpy(files[1]).addmm_(z.grad.T, h[here])
    return total


def gradient_error(gradients, folder):
    """The 2-norm of what the gradients (a list) are off, relative to the reference's."""
    wrong = right = 0.0
    for i, gradient in enumerate(gradients):
        file = np.load(Path(folder) / f"{i}.npy", mmap_mode="r")
        flat = gradient.reshape(file.shape)
        step = max(1, 2**22 // file.shape[1])
        for a in range(0, len(file), step):
            exact = torch.from_numpy(file[a : a + step].copy())
            wrong += (flat[a : a + step].double() - exact).square().sum().item()
            right += exact.square().sum().item()
    return math.sqrt(wrong / right)


def resident(field):
    return next(1024 * int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field + ":"))


def with_extra_memory(function):
    """(the result of function(), bytes of resident memory that it took at its height, or None where the system does not tell)."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)  # what was freed and kept would serve unseen
        Path("/proc/self/clear_refs").write_text("5")
        before = resident("VmRSS")
    except (OSError, AttributeError):
        return function(), None
    result = function()
    return result, resident("VmHWM") - before


def in_a_fork(function):
    """function(), a JSON-able value, of a fork of this process; None where there is no fork."""
    if not hasattr(os, "fork"):
        return None
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(write, json.dumps(function()).encode())
            os._exit(0)
        finally:
            os._exit(1)
    os.close(write)
    with open(read) as answer:
        text = answer.read()
    return json.loads(text) if os.waitpid(child, 0)[1] == 0 else None


def first_pass(case, setting, threads):
    """(loss function, inputs, the first full pass, the extra memory it took)"""
    torch.set_num_threads(threads)
    loss, inputs = loss_function(case, setting), make_inputs(setting)
    if case.endswith("compiled"):
        one_pass(loss, inputs)
    else:
        one_pass(loss, [(x[:64] if setting.width and i % 2 else x[..., :4, : setting.width or 64]).clone() for i, x in enumerate(inputs)])
    return loss, inputs, *with_extra_memory(lambda: one_pass(loss, inputs))


def strict_memory(case, setting, threads):
    try:
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 1 << 20)
    except (OSError, AttributeError):
        return None
    return first_pass(case, setting, threads)[-1]


def serve():
    """A case's process: a job on the first line of stdin, then a line for each further pass; one line of JSON answers each."""
    say = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not mix with the answers
    warnings.simplefilter("ignore")
    job = json.loads(sys.stdin.readline())
    setting, case = Setting(**job["setting"]), job["case"]
    if case == "reference":
        torch.set_num_threads(job["threads"])
        print(json.dumps({"loss": reference(setting, job["folder"])}), file=say, flush=True)
        return
    loss_function(case, setting)  # imports its library, for the fork too; nothing has started a thread yet
    strict = in_a_fork(lambda: strict_memory(case, setting, job["threads"]))
    loss, inputs, (_, value, gradients), extra = first_pass(case, setting, job["threads"])
    found = {"loss": value, "extra_bytes": extra if strict is None else strict, "default_malloc_bytes": extra, "gradient_error": gradient_error(gradients, job["folder"])}
    print(json.dumps(found), file=say, flush=True)
    del gradients
    for _ in sys.stdin:
        if case == "ours_overwrite":
            inputs = None
            inputs = make_inputs(setting)  # the gradient took their place
        gc.collect()
        print(json.dumps({"seconds": one_pass(loss, inputs)[0]}), file=say, flush=True)


# --- all of them -------------------------------------------------------------------------


class Worker:
    """A case in its process."""

    def __init__(self, python, job):
        self.case = job["case"]
        self.errors = tempfile.TemporaryFile("w+")
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])), "OMP_NUM_THREADS": str(job["threads"])}
        self.process = subprocess.Popen([python, "-c", "from opd_toy.lm.benchmark import serve; serve()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True, env=environment)
        self.first = self.ask(json.dumps(job))

    def ask(self, line="again"):
        try:
            print(line, file=self.process.stdin, flush=True)
        except BrokenPipeError:
            pass
        answer = self.process.stdout.readline()
        if not answer:
            self.process.wait()
            self.errors.seek(0)
            words = self.errors.read().strip().splitlines() or [f"the process ended with status {self.process.returncode}"]
            self.close()
            raise RuntimeError(f"{self.case}: {words[-1]}")
        return json.loads(answer)

    def close(self):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.kill()
        self.process.wait()
        self.errors.close()


def side_by_side(setting, cases, repeats, threads, python, report):
    """Rows of one setting, one a case; a library's case that fails has its reason in the place of figures."""
    job = {"setting": asdict(setting), "threads": threads}
    rows, workers = [], []
    with tempfile.TemporaryDirectory() as folder:
        job["folder"] = folder
        try:
            standard = Worker(python, job | {"case": "reference"})
            standard.close()
            for case in cases:
                row = {"case": case, "words": CASES[case]}
                rows.append(row)
                try:
                    worker = Worker(python, job | {"case": case})
                except RuntimeError as error:
                    if case.split("_")[0] not in PEERS:
                        raise
                    row["failed"] = str(error)
                    continue
                finally:
                    report()
                workers.append((worker, row))
                row |= worker.first | {"seconds": []}
                row["loss_error"] = abs(row["loss"] / standard.first["loss"] - 1)
            for repeat in range(repeats):
                turn = repeat % len(workers)
                for worker, row in workers[turn:] + workers[:turn]:
                    row["seconds"].append(worker.ask()["seconds"])
                    report()
        finally:
            for worker, _ in workers:
                worker.close()
    for _, row in workers:
        row |= {"median": statistics.median(row["seconds"]), "least": min(row["seconds"])}
    return rows


def measure(settings=SETTINGS, *, repeats=5, threads=2, python=sys.executable, report=lambda done, total: None):
    """All settings, those cases of them whose library ``python`` has, as one JSON-able dict."""
    versions = installed(python)
    chosen = [(setting, [case for case in setting.cases if PEERS.get(case.split("_")[0]) in (None, *versions)]) for setting in settings]
    done, total = 0, sum((1 + repeats) * len(cases) for _, cases in chosen)

    def step():
        nonlocal done
        done += 1
        report(done, total)

    found = [asdict(setting) | {"words": setting.words(), "rows": side_by_side(setting, cases, repeats, threads, python, step)} for setting, cases in chosen]
    missing = [name for name in PEERS.values() if name not in versions]
    return {"processor": processor(), "threads": threads, "repeats": repeats, "versions": versions, "missing": missing, "settings": found}


def installed(python):
    """Versions of torch and of those of the other libraries that an interpreter has."""
    code = "from opd_toy.lm.benchmark import versions; import json; print(json.dumps(versions()))"
    return json.loads(subprocess.run([python, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout)


def versions():
    found = {}
    for name in ("torch", *PEERS.values(), "transformers", "triton"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            pass
    return found


def processor():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
