"""Axolotl: its top-K distillation loss, fused with the head as its trainer calls it."""

from functools import partial

import torch

from opd_toy.audit.exhibits.libraries.library_loss import (
    BETWEEN,
    FIRST_K,
    FORWARD,
    REVERSE,
    LibraryLoss,
)
from opd_toy.audit.exhibits.libraries.loading import load

KERNEL = "axolotl.integrations.kd.kernels.liger"
PLAIN = "axolotl.integrations.kd.topk_logprob.forward_kl"
UTILS = "axolotl.integrations.kd.utils"

# --- adapters --------------------------------------------------------------------------


def fused(student, teacher, *, k, beta, normalize, teacher_normalized=True, temperature=1.0):
    """On hidden states that an identity for a head makes the logits; no cross-entropy."""
    # Its divergence is in float32, whatever comes in: so is all else here.
    log_q, ids = _first(teacher.float() / temperature, k, teacher_normalized)
    loss = load(KERNEL).LigerFusedLinearKLTopKLogprobLoss(
        weight_hard_loss=0.0,
        weight_soft_loss=1.0,
        temperature=temperature,
        beta=beta,
        compiled=False,
        compute_ce_loss=False,
        normalize_topk=normalize,
    )
    head, label = torch.eye(len(student)), torch.zeros(1, 1, dtype=torch.int64)
    hidden = student.float()[None, None]
    return loss(head, hidden, ids, log_q, torch.ones_like(ids), label)


def plain(student, teacher, *, k):
    log_q, ids = _first(teacher.float(), k, True)
    return load(PLAIN).loss(student.float()[None, None], ids, log_q, torch.ones_like(ids))


def _first(teacher, k, normalized):
    """What the data hold, (1, 1, K) each: log-probabilities, renormalised or not, and ids."""
    log_q, ids = teacher.detach().log_softmax(-1).topk(k)
    if normalized:
        log_q = load(UTILS).normalize_logprobs(log_q, k)
    return log_q[None, None], ids[None, None]


# --- what is audited -------------------------------------------------------------------


def _fused(name, option, *, when, note="", **options):
    return LibraryLoss(
        id=f"axolotl-{name}",
        library="axolotl",
        function=f"{KERNEL}.LigerFusedLinearKLTopKLogprobLoss",
        option=f"{option}, kd_ce_alpha=0, kd_alpha=1, K = 2",
        estimator=FIRST_K,
        adapter=partial(fused, k=2, **options),
        when_you_want_it=when,
        note=note,
    )


def _normalized(beta, *, when):
    return _fused(
        f"{beta:g}",
        f"kd_beta={beta:g}, kd_normalize_topk=True",
        when=when,
        note="both models are renormalised on the teacher's first K",
        beta=beta,
        normalize=True,
    )


LOSSES = (
    _normalized(0.0, when=f"{FORWARD}, on the teacher's first K"),
    _normalized(0.5, when=f"{BETWEEN}, on the teacher's first K"),
    _normalized(1.0, when=f"{REVERSE}, on the teacher's first K"),
    _fused(
        "default-data",
        "kd_beta=0, kd_normalize_topk unset, teacher from a data set",
        when=f"{FORWARD}, to a teacher that has nothing outside its first K",
        note="the default; the data set's probabilities are renormalised, the student is not",
        beta=0.0,
        normalize=False,
    ),
    _fused(
        "default-server",
        "kd_beta=0, kd_normalize_topk unset, teacher from a server",
        when="forward KL where the teacher's server sends only its first K, "
        "with K so large that next to nothing is left out",
        note="the default with a server: neither model is renormalised",
        beta=0.0,
        normalize=False,
        teacher_normalized=False,
    ),
    _fused(
        "1-unset",
        "kd_beta=1, kd_normalize_topk unset, teacher from a data set",
        when="set kd_normalize_topk=True: the sum over K alone can be made negative by leaving "
        "the first K",
        beta=1.0,
        normalize=False,
    ),
    _fused(
        "0-temperature-2",
        "kd_beta=0, kd_temperature=2, kd_normalize_topk=True",
        when=f"{FORWARD}, of softened models",
        note="the value is multiplied by T², the gradient is not",
        beta=0.0,
        normalize=True,
        temperature=2.0,
    ),
    LibraryLoss(
        id="axolotl-plain",
        library="axolotl",
        function=f"{PLAIN}.loss",
        option="kd_temperature=1, K = 2",
        estimator=FIRST_K,
        adapter=partial(plain, k=2),
        when_you_want_it=f"{FORWARD}, to a teacher that has nothing outside its first K",
        note="not called by its trainer; a mean over tokens and over K, so 1/K of the sum",
    ),
)
