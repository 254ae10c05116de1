"""The benchmark's cases: each is one loss, ours or another library's, on inputs of one setting.

Other libraries: TRL (Hugging Face, Apache 2.0) and Liger Kernel (LinkedIn, BSD 2).
"""

import math
import os
import time
from dataclasses import dataclass

import torch

VOCABULARY = 151_936  # of Qwen2.5
PEERS = {"trl": "trl", "liger": "liger-kernel"}  # the first word of a case: its distribution
CASES = {
    "ours": "this book",
    "ours_overwrite": "this book, overwrite_logits",
    "trl": "TRL generalized_jsd_loss",
    "trl_chunked": "TRL chunked divergence",
    "textbook": "textbook autograd",
    **{f"liger_{size}": f"Liger JSD, chunk_size={size}" for size in (16, 32, 64, 1024)},
    "liger_64_compiled": "Liger JSD, chunk_size=64, compiled",
}
FROM_LOGITS = ("ours", "ours_overwrite", "trl", "textbook")


@dataclass(frozen=True)
class Setting:
    """Inputs and the cases run on them.

    width 0: from logits (1, tokens, vocabulary); else from hidden states (tokens, width).
    alone: one process after another, since together they would not fit the memory; else the
    cases take turns.  threads 0: as many as the run has.
    """

    name: str
    cases: tuple
    beta: float = 1.0
    tokens: int = 256
    vocabulary: int = VOCABULARY
    width: int = 0
    dtype: str = "float32"
    share: float = 1.0  # of the repeats
    threads: int = 0
    alone: bool = False

    def words(self):
        loss = {0: "forward KL", 1: "reverse KL"}.get(self.beta, f"JSD, beta = {self.beta:g}")
        source = f"hidden states of width {self.width}" if self.width else "logits"
        inputs = f"{self.tokens} tokens, V = {self.vocabulary:,}, {self.dtype}"
        return f"{loss} from {source}, {inputs}{', one thread' if self.threads == 1 else ''}"


SETTINGS = (
    Setting("logits", FROM_LOGITS),
    Setting("logits_jsd", FROM_LOGITS, beta=0.5, share=0.6),
    Setting("logits_bfloat16", FROM_LOGITS, dtype="bfloat16", share=0.6),
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
        share=0.6,
    ),
    Setting(
        "hidden_64_bfloat16",
        ("ours", "trl_chunked", "liger_64_compiled"),
        width=64,
        dtype="bfloat16",
        share=0.6,
    ),
    Setting(
        "hidden_896",
        ("ours", "trl_chunked", "liger_64", "liger_64_compiled"),
        tokens=64,
        width=896,
    ),  # the width of Qwen2.5-0.5B
    *(
        Setting(
            name,
            ("ours", "liger_64_compiled"),
            tokens=32,
            width=4096,
            dtype=dtype,
            share=0.6,
            alone=True,
        )
        for name, dtype in (("hidden_4096", "float32"), ("hidden_4096_bfloat16", "bfloat16"))
    ),
)
ONE_THREAD = (
    Setting("logits_one_thread", ("ours", "ours_overwrite"), share=0.6, threads=1),
    Setting("hidden_64_one_thread", ("ours", "liger_64_compiled"), width=64, share=0.6, threads=1),
    Setting(
        "hidden_896_one_thread",
        ("ours", "liger_64_compiled"),
        tokens=64,
        width=896,
        share=0.6,
        threads=1,
    ),
)


# --- the cases ---------------------------------------------------------------------------


def loss_function(case, setting, device="cpu"):
    """The case's loss, a function of the student's and the teacher's inputs.

    These are logits, or of each model hidden states and head.
    """
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
            h[None], t[None], w, u, torch.ones(1, len(h), device=h.device), beta
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
    target = torch.zeros(tokens, dtype=torch.long, device=device)  # none is ignored
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


def make_inputs(setting, device="cpu"):
    """Student (std 3 a logit), then teacher: the student and as much noise as a third of it."""
    dtype, V = getattr(torch, setting.dtype), setting.vocabulary
    H, n = setting.width, setting.tokens
    draw = torch.Generator(device).manual_seed(1)
    shapes = [(n, H), (V, H)] if H else [(1, n, V)]
    stds = [1.0, 3 / H**0.5] if H else [3.0]
    student = [
        torch.empty(shape, dtype=dtype, device=device).normal_(0, std, generator=draw)
        for shape, std in zip(shapes, stds)
    ]
    teacher = [
        torch.empty_like(x).normal_(0, std / 3, generator=draw).add_(x)
        for x, std in zip(student, stds)
    ]
    return [*student, *teacher]


def one_pass(loss, inputs):
    """Forward and backward: (seconds, loss, gradients of the student's inputs)."""
    kept = []
    if len(inputs) == 2:
        anchor = torch.zeros((), requires_grad=True)
        arguments = [_Model.apply(anchor, inputs[0], kept), inputs[1]]
    else:
        arguments = [*(x.detach().requires_grad_() for x in inputs[:2]), *inputs[2:]]
    wait(inputs[0])
    started = time.perf_counter()
    value = loss(*arguments)
    value.backward()
    wait(inputs[0])
    seconds = time.perf_counter() - started
    return seconds, value.item(), kept or [x.grad for x in arguments[:2]]


def wait(tensor):
    """Until the tensor's device has done all that it was asked to."""
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)
