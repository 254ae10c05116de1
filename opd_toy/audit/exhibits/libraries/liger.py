"""Liger: its fused JSD, and the KL term of its fused GRPO loss."""

from functools import partial

import torch

from opd_toy.audit.exhibits.libraries.library_loss import (
    BETWEEN,
    DRAWN,
    FORWARD,
    REVERSE,
    WHOLE,
    LibraryLoss,
    log_probabilities,
)

# --- adapters --------------------------------------------------------------------------


def jsd(student, teacher, token, **options):
    """On hidden states that an identity for a head makes the logits."""
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    # Its cross-entropy is in float32, whatever comes in: so is all else here.
    head = torch.eye(len(student))
    loss = LigerFusedLinearJSDLoss(compiled=False, **options)
    mine, theirs = student.float()[None], teacher.detach().float()[None]
    return loss(mine, head, theirs, head, token.reshape(1))


def grpo(student, teacher, token, *, use_bias_correction_kl):
    """The KL term alone: no reward, at beta = 1, on the policy that drew."""
    from liger_kernel.chunked_loss import LigerFusedLinearGRPOLoss

    _, theirs = log_probabilities(student, teacher, token)
    loss = LigerFusedLinearGRPOLoss(
        beta=1.0, compiled=False, use_bias_correction_kl=use_bias_correction_kl
    )
    head = torch.eye(len(student), dtype=student.dtype)
    mask, advantages = head.new_ones(1, 1), head.new_zeros(1)
    return loss(
        student[None, None],
        head,
        token.reshape(1, 1),
        mask,
        advantages,
        ref_per_token_logps=theirs.reshape(1, 1),
    )[0]


# --- what is audited -------------------------------------------------------------------


def _jsd(name, option, *, when, note="", drawn_from="student", **options):
    return LibraryLoss(
        id=f"liger-jsd-{name}",
        library="liger-kernel",
        function="liger_kernel.chunked_loss.LigerFusedLinearJSDLoss",
        option=option,
        estimator=WHOLE,
        drawn_from=drawn_from,
        adapter=partial(jsd, **options),
        when_you_want_it=when,
        note=note,
    )


def _jsd_alone(beta, *, when):
    return _jsd(
        f"{beta:g}",
        f"beta={beta:g}, weight_hard_loss=0, weight_soft_loss=1",
        when=when,
        beta=beta,
        **NO_CROSS_ENTROPY,
    )


def _grpo(name, *, corrected, when, note=""):
    return LibraryLoss(
        id=f"liger-{name}",
        library="liger-kernel",
        function="liger_kernel.chunked_loss.LigerFusedLinearGRPOLoss",
        option=f"beta=1, use_bias_correction_kl={corrected}, no reward",
        estimator=DRAWN,
        adapter=partial(grpo, use_bias_correction_kl=corrected),
        when_you_want_it=when,
        note=note,
    )


NO_CROSS_ENTROPY = {"weight_hard_loss": 0.0, "weight_soft_loss": 1.0}
HALVES = "weight_hard_loss and weight_soft_loss are 0.5 each"
LOSSES = (
    _jsd(
        "default-student",
        "defaults; labels drawn from the student",
        when="set weight_hard_loss=0: on the student's own tokens the second term is noise alone",
        note=HALVES,
    ),
    _jsd(
        "default-teacher",
        "defaults; labels drawn from the teacher",
        when="texts with labels worth learning beside the teacher",
        note=HALVES,
        drawn_from="teacher",
    ),
    _jsd(
        "no-hard",
        "weight_hard_loss=0",
        when=BETWEEN,
        note="weight_soft_loss stays 0.5",
        weight_hard_loss=0.0,
    ),
    _jsd_alone(0.0, when=FORWARD),
    _jsd_alone(0.5, when=BETWEEN),
    _jsd_alone(1.0, when=REVERSE),
    _jsd(
        "0-temperature-2",
        "beta=0, temperature=2, weight_hard_loss=0, weight_soft_loss=1",
        when=f"{FORWARD}, of softened models",
        note="no factor T²",
        beta=0.0,
        temperature=2.0,
        **NO_CROSS_ENTROPY,
    ),
    _grpo("grpo-kl-corrected", corrected=True, when=f"{REVERSE}, beside a reward"),
    _grpo(
        "grpo-kl",
        corrected=False,
        when="forward KL from the student's own tokens, beside a reward",
        note="the default; TRL's own default is the other",
    ),
)
