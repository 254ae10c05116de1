"""Time, memory and rounding of the distillation losses beside those of other libraries.

``python -m opd_toy bench`` runs this, by ``benchmark_processes``.  Each case is one loss in two processes of its own,
forked from one that has imported the libraries and computed nothing.  They make the inputs
from a seed.  One forward and backward pass is one measurement:

- extra memory: the largest resident memory (VmHWM, set back by writing 5 to
  /proc/self/clear_refs) during the first full pass of one process, less the resident
  memory before it.  Before it lie the inputs, a pass over 4 tokens and 64 words (compiled
  cases: a full pass) and malloc_trim.  The gradients the pass leaves behind count.
  glibc hands buffers of a megabyte back at once (M_MMAP_THRESHOLD), so that gaps in the
  heap count for nobody.  None off Linux.
- seconds: wall time of passes of the other process, the cases of a setting taking turns.
- gradient error: |g - g64| / |g64| (2-norms), g64 from float64 autograd of the textbook
  formula on the same inputs.

Other libraries: TRL (Hugging Face, Apache 2.0) and Liger Kernel (LinkedIn, BSD 2).
"""

import ctypes
import gc
import math
import os
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

M_MMAP_THRESHOLD = -3  # of malloc.h
VOCABULARY = 151_936  # of Qwen2.5
PEERS = {"trl": "trl", "liger": "liger-kernel"}  # the first word of a case: its distribution
CASES = {
    "ours": "this book",
    "ours_overwrite": "this book, overwrite_logits",
    "trl": "TRL generalized_jsd_loss",
    "trl_chunked": "TRL chunked divergence",
    "textbook": "textbook autograd",
    **{f"liger_{size}": f"Liger JSD, chunk_size={size}" for size in (16, 32, 64)},
    "liger_64_compiled": "Liger JSD, chunk_size=64, compiled",
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
    share: float = 1.0  # of the repeats

    def words(self):
        loss = {0: "forward KL", 1: "reverse KL"}.get(self.beta, f"JSD, beta = {self.beta:g}")
        source = f"hidden states of width {self.width}" if self.width else "logits"
        return f"{loss} from {source}, {self.tokens} tokens, V = {self.vocabulary}, {self.dtype}"


SETTINGS = (
    Setting("logits", FROM_LOGITS),
    Setting("logits_jsd", FROM_LOGITS, beta=0.5, share=0.6),
    Setting("logits_bfloat16", FROM_LOGITS, dtype="bfloat16", share=0.4),
    Setting(
        "hidden_64",
        ("ours", "trl_chunked", *(f"liger_{size}" for size in (16, 32, 64, "64_compiled"))),
        width=64,
    ),
    Setting(
        "hidden_64_jsd",
        ("ours", "trl_chunked", "liger_32", "liger_64_compiled"),
        beta=0.5,
        width=64,
        share=0.4,
    ),
    Setting(
        "hidden_896",
        ("ours", "trl_chunked", "liger_64", "liger_64_compiled"),
        tokens=64,
        width=896,
        share=0.4,
    ),  # the width of Qwen2.5-0.5B
)


# --- the cases ---------------------------------------------------------------------------


def loss_function(case, setting):
    """The case's loss, a function of (student logits, teacher logits) or (hidden, weight, teacher's hidden, teacher's weight)."""
    beta, tokens = setting.beta, setting.tokens
    if case.startswith("ours"):
        from opd_toy.lm.losses import distillation_loss, fused_linear_distillation_loss

        if setting.width:
            return lambda *inputs: fused_linear_distillation_loss(
                *inputs, "generalized_jsd", beta=beta
            )
        return lambda z, y: distillation_loss(
            z, y, "generalized_jsd", beta=beta, overwrite_logits=case == "ours_overwrite"
        )
    if case == "textbook":
        return lambda z, y: textbook(z.float(), y.float(), beta).mean()
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    if case == "trl":
        from trl.experimental.gkd import GKDTrainer

        # labels=None spares it a copy of the valid rows
        return lambda z, y: GKDTrainer.generalized_jsd_loss(
            z, y, beta=beta, num_items_in_batch=z.shape[:-1].numel()
        )
    if case == "trl_chunked":
        from trl.trainer.distillation_trainer import _chunked_divergence_loss

        return lambda h, w, t, u: _chunked_divergence_loss(
            h[None], t[None], w, u, torch.ones(1, len(h)), beta
        )[0]
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    _, size, *compiled = case.split("_")
    loss = LigerFusedLinearJSDLoss(
        weight_hard_loss=0.0,
        weight_soft_loss=1.0,
        beta=beta,
        chunk_size=int(size),
        compiled=bool(compiled),
    )
    target = torch.zeros(tokens, dtype=torch.long)  # none is ignored
    return lambda h, w, t, u: loss(h, w, t, u, target[: len(h)])


def textbook(z, y, beta):
    """Generalised JSD (...) of logits (..., V) as a paper writes it."""
    log_p, log_q = z.log_softmax(-1), y.log_softmax(-1)
    kl = lambda a, b: (a.exp() * (a - b)).sum(-1)
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
    dtype, V, H, n = (
        getattr(torch, setting.dtype),
        setting.vocabulary,
        setting.width,
        setting.tokens,
    )
    draw = torch.Generator().manual_seed(1)
    shapes = [(n, H), (V, H)] if H else [(1, n, V)]
    stds = [1.0, 3 / H**0.5] if H else [3.0]
    student = [
        torch.empty(shape, dtype=dtype).normal_(0, std, generator=draw)
        for shape, std in zip(shapes, stds)
    ]
    teacher = [
        torch.empty(x.shape, dtype=dtype).normal_(0, std / 3, generator=draw).add_(x)
        for x, std in zip(student, stds)
    ]
    return [*student, *teacher]


def one_pass(loss, inputs):
    """Forward and backward: (seconds, loss, gradients of the student's inputs)."""
    if len(inputs) == 2:
        kept, anchor = [], torch.zeros((), requires_grad=True)
        arguments = [_Model.apply(anchor, inputs[0], kept), inputs[1]]
    else:
        arguments = [
            inputs[0].detach().requires_grad_(),
            inputs[1].detach().requires_grad_(),
            *inputs[2:],
        ]
    started = time.perf_counter()
    value = loss(*arguments)
    value.backward()
    seconds = time.perf_counter() - started
    return seconds, value.item(), kept if len(inputs) == 2 else [x.grad for x in arguments[:2]]


# --- what the processes do ------------------------------------------------------------------


def reference(pipe, setting, threads, folder):
    """A process: the loss in float64; leaves the gradients in ``folder``."""
    torch.set_num_threads(threads)
    inputs, rows = make_inputs(setting), 8
    H, n = setting.width, setting.tokens
    sizes = [(n, H), (setting.vocabulary, H)] if H else [(n, setting.vocabulary)]
    files = [
        np.lib.format.open_memmap(Path(folder) / f"{i}.npy", "w+", np.float64, size)
        for i, size in enumerate(sizes)
    ]
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
    pipe.send(total)


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
    return next(
        1024 * int(line.split()[1])
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith(field + ":")
    )


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


def prepare(case, setting, threads):
    """(loss function, inputs), after a pass that loads code."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)
    loss, inputs = loss_function(case, setting), make_inputs(setting)
    if case.endswith("compiled"):
        one_pass(loss, inputs)
    else:
        one_pass(
            loss,
            [
                (x[:64] if setting.width and i % 2 else x[..., :4, : setting.width or 64]).clone()
                for i, x in enumerate(inputs)
            ],
        )
    return loss, inputs


def weigh(pipe, case, setting, threads, folder):
    """A process: extra memory, loss and gradient error of one pass."""
    try:
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 1 << 20)
    except (OSError, AttributeError):
        pass
    loss, inputs = prepare(case, setting, threads)
    (_, value, gradients), extra = with_extra_memory(lambda: one_pass(loss, inputs))
    pipe.send(
        {"loss": value, "extra_bytes": extra, "gradient_error": gradient_error(gradients, folder)}
    )


def pace(pipe, case, setting, threads):
    """A process: says when it is ready, then answers each message with the seconds of a pass."""
    loss, inputs = prepare(case, setting, threads)
    pipe.send("ready")
    while True:
        try:
            pipe.recv()
        except EOFError:
            return
        if case == "ours_overwrite":
            inputs = None
            inputs = make_inputs(setting)  # the gradient took their place
        gc.collect()
        pipe.send(one_pass(loss, inputs)[0])
