"""ms-swift: its GKD loss, and its two losses from the token drawn (OPD-RL and SDAR)."""

from functools import partial

import torch

from opd_toy.audit.exhibits.libraries.library_loss import (
    BETWEEN,
    DRAWN,
    FIRST_K,
    FORWARD,
    REVERSE,
    WHOLE,
    LibraryLoss,
    log_probabilities,
)
from opd_toy.audit.exhibits.libraries.loading import load

GKD, ADVANTAGE = "swift.rlhf_trainers.gkd_loss", "swift.rl_core.advantage"
WITHOUT = ("swift.utils",)  # of rl_core.advantage: a standard deviation that skips NaN

# --- adapters --------------------------------------------------------------------------


def gkd(student, teacher, *, beta, temperature=1.0, k=None):
    """``gkd_loss`` of one position, over the count of positions as GKDTrainer divides it."""
    tokens = torch.zeros(1, 1, dtype=torch.int64)  # any label but -100
    texts = student[None, None], teacher[None, None], tokens, torch.ones_like(tokens)
    return gkd_of_texts(*texts, beta=beta, temperature=temperature, k=k)


def gkd_of_texts(student, teacher, tokens, mask, *, beta, temperature=1.0, k=None):
    """The same of a batch: (B, T, V), (B, T, V), tokens (B, T), mask (B, T)."""
    library = load(GKD)
    labels = tokens.masked_fill(mask == 0, -100)
    teacher = library.TeacherOutput(full_logits=teacher.detach(), labels=labels)
    if k:
        teacher = teacher.to_topk(k)
    total, count = library.gkd_loss(student, teacher, labels, beta, temperature)
    return total / count


def advantage(student, teacher, token):
    """-ratio × the advantage that the teacher alone makes, on the policy that drew."""
    mine, theirs = (x.reshape(1, 1) for x in log_probabilities(student, teacher, token))
    given = load(ADVANTAGE, WITHOUT).expand_advantage_to_per_token(
        mine.new_zeros(1), torch.ones_like(mine), theirs, mine.detach(), 1.0
    )
    return -((mine - mine.detach()).exp() * given).sum()


def sdar(student, teacher, token):
    mine, theirs = (x.reshape(1, 1) for x in log_probabilities(student, teacher, token))
    return load(ADVANTAGE, WITHOUT).compute_sdar_loss(mine, theirs, torch.ones_like(mine))[0]


# --- what is audited -------------------------------------------------------------------


def _gkd(name, option, *, when, note="", k=None, **options):
    return LibraryLoss(
        id=f"swift-gkd-{name}",
        library="ms-swift",
        function=f"{GKD}.gkd_loss",
        option=option,
        estimator=FIRST_K if k else WHOLE,
        adapter=partial(gkd, k=k, **options),
        when_you_want_it=when,
        note=note,
    )


def _gkd_beta(beta, *, when, note=""):
    return _gkd(f"{beta:g}", f"beta={beta:g}, temperature=1", when=when, beta=beta, note=note)


def _gkd_top_two(beta, *, when):
    return _gkd(
        f"top-2-{beta:g}",
        f"beta={beta:g}, temperature=1, gkd_logits_topk=2",
        when=when,
        note="both models are renormalised on the teacher's first K",
        beta=beta,
        k=2,
    )


GKD_LOSSES = (
    _gkd_beta(0.0, when=FORWARD),
    _gkd_beta(0.5, when=BETWEEN, note="0.5 is the default"),
    _gkd_beta(1.0, when=REVERSE),
    _gkd(
        "0.5-temperature-0.9",
        "beta=0.5, temperature=0.9",
        when=f"{BETWEEN}, of sharpened models",
        note="what rlhf_type=gkd does if nothing is set: the sampling temperature, 0.9 by "
        "default, divides the logits of both models in the loss too; no factor T²",
        beta=0.5,
        temperature=0.9,
    ),
    _gkd_top_two(0.0, when=f"{FORWARD}, on the teacher's first K"),
    _gkd_top_two(0.5, when=f"{BETWEEN}, on the teacher's first K"),
    _gkd_top_two(1.0, when=f"{REVERSE}, on the teacher's first K"),
    LibraryLoss(
        id="swift-gkd-texts",
        library="ms-swift",
        function=f"{GKD}.gkd_loss",
        option="beta=1, temperature=1, of texts",
        estimator=WHOLE,
        kind="batch",
        adapter=partial(gkd_of_texts, beta=1.0),
        when_you_want_it="see the normaliser found",
    ),
)

DRAWN_LOSSES = (
    LibraryLoss(
        id="swift-opd-rl",
        library="ms-swift",
        function=f"{ADVANTAGE}.expand_advantage_to_per_token",
        option="teacher_kl_coef=1, no reward",
        estimator=DRAWN,
        adapter=advantage,
        when_you_want_it=f"{REVERSE}, from the token drawn",
        note="the advantage by its code, the policy gradient around it by ours",
        without=WITHOUT,
    ),
    LibraryLoss(
        id="swift-sdar",
        library="ms-swift",
        function=f"{ADVANTAGE}.compute_sdar_loss",
        option="sdar_gate_beta=5",
        estimator=DRAWN,
        adapter=sdar,
        when_you_want_it="the update of its paper: tokens that the teacher likes better count more",
        note="added to the loss of a reward; the teacher is the policy with more in its prompt",
        without=WITHOUT,
    ),
)

LOSSES = (*GKD_LOSSES, *DRAWN_LOSSES)
