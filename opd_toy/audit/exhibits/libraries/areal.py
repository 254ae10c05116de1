"""AReaL: the distillation term of its actor's loss, alone and beside a reward."""

from functools import partial

import torch

from opd_toy.audit.exhibits.libraries.library_loss import (
    DRAWN,
    REVERSE,
    LibraryLoss,
    log_probabilities,
    log_probabilities_of_texts,
)
from opd_toy.audit.exhibits.libraries.loading import load

ACTOR = "areal.trainer.ppo.actor"
WITHOUT = (
    "areal.api",
    "areal.api.cli_args",
    "areal.experimental.training_service.controller.controller",
    "areal.infra",
    "areal.infra.platforms",
    "areal.infra.rpc.serialization",
    "areal.utils.data",
    "areal.utils.logging",
    "areal.utils.perf_tracer",
    "areal.utils.seqpack",
)

# --- adapters --------------------------------------------------------------------------


def distillation(student, teacher, token, *, rl_loss_weight):
    """``grpo_loss_fn`` of one position, on the policy that drew, with advantage 0."""
    mine, theirs = (x.reshape(1) for x in log_probabilities(student, teacher, token))
    return loss_of(mine, theirs, torch.ones(1), rl_loss_weight)


def distillation_of_texts(student, teacher, tokens, mask, *, rl_loss_weight):
    """The same of a batch: (B, T, V), (B, T, V), tokens (B, T), mask (B, T)."""
    mine, theirs = log_probabilities_of_texts(student, teacher, tokens, mask)
    return loss_of(mine, theirs, mask, rl_loss_weight)


def loss_of(mine, theirs, mask, rl_loss_weight, drew=None):
    """``drew``: log-probabilities of the policy that drew; by default the student's."""
    # Its statistics take float32 only: so is all else here.
    mine, theirs, mask = mine.float(), theirs.float(), mask.float()
    batch = {
        "logprobs": mine.detach() if drew is None else drew.float(),
        "prox_logp": mine.detach(),
        "advantages": torch.zeros_like(mask),
        "loss_mask": mask,
        "teacher_logp": theirs,
        "rl_loss_weight": rl_loss_weight,
        "distill_loss_weight": 1.0,
    }
    entropy, clip = torch.zeros_like(mask), {"eps_clip": 0.2, "eps_clip_higher": None}
    actor = load(ACTOR, WITHOUT)
    # It keeps statistics of every call until they are exported, and goes through all of them.
    actor.stats_tracker.DEFAULT_TRACKER.stats.clear()
    return actor.grpo_loss_fn(mine, entropy, batch, c_clip=None, **clip)


# --- what is audited -------------------------------------------------------------------


def _distillation(name, weight, *, when, note="", kind="token", adapter=distillation):
    return LibraryLoss(
        id=f"areal-{name}",
        library="areal",
        function=f"{ACTOR}.grpo_loss_fn",
        option=f"rl_loss_weight={weight:g}, distill_loss_weight=1",
        estimator=DRAWN,
        kind=kind,
        adapter=partial(adapter, rl_loss_weight=weight),
        when_you_want_it=when,
        note=note,
        without=WITHOUT,
    )


LOSSES = (
    _distillation(
        "joint",
        1.0,
        when="not yet: the teacher's probabilities do not reach the gradient; "
        "set rl_loss_weight=0 for the teacher alone",
        note="the default, beside a reward (0 here)",
    ),
    _distillation("pure", 0.0, when=f"{REVERSE}, from the token drawn"),
    _distillation(
        "pure-texts",
        0.0,
        when="see the normaliser found",
        kind="batch",
        adapter=distillation_of_texts,
    ),
)
