"""SkyRL: its KL estimators, k1 as the advantage, and the losses of a draft head."""

from functools import partial

import torch

from opd_toy.audit.exhibits.libraries.library_loss import (
    DRAWN,
    FIRST_K,
    FORWARD,
    REVERSE,
    WHOLE,
    LibraryLoss,
    log_probabilities,
    log_probabilities_of_texts,
)
from opd_toy.audit.exhibits.libraries.loading import load

PPO = "skyrl.backends.skyrl_train.utils.ppo_utils"
DRAFT = "skyrl.backends.skyrl_train.mtp.soft_ce"
WITHOUT = ("jaxtyping", "loguru", "skyrl.train.config")

# --- adapters --------------------------------------------------------------------------


def approx_kl(student, teacher, token, *, kind):
    """With use_kl_loss, differentiated as it stands."""
    mine, theirs = log_probabilities(student, teacher, token)
    return load(PPO, WITHOUT).compute_approx_kl(mine, theirs, kl_estimator_type=kind)


def advantage(student, teacher, tokens, mask, *, kind):
    """Of a text: the negative estimate as the advantage of importance_sampling_loss."""
    library = load(PPO, WITHOUT)
    mine, theirs = log_probabilities_of_texts(student, teacher, tokens, mask)
    drew = mine.detach()
    cost = library.compute_approx_kl(drew, theirs, mask, kl_estimator_type=kind)
    return library.importance_sampling_loss(mine, drew, -cost, None, mask.to(mine.dtype))[0]


def draft(student, teacher):
    # Its softmax is in float32, whatever comes in: so is all else here.
    mine, theirs = student.float()[None, None], teacher.detach().float()[None, None]
    return load(DRAFT, WITHOUT).draft_soft_ce(mine, theirs, torch.ones(1, 1))


def draft_top_k(student, teacher, *, k):
    mine, theirs = student.float()[None, None], teacher.detach().float()[None, None]
    return load(DRAFT, WITHOUT).draft_soft_ce_topk(mine, theirs, torch.ones(1, 1), k)


# --- what is audited -------------------------------------------------------------------


def _kl(kind, *, when, note=""):
    return LibraryLoss(
        id=f"skyrl-{kind}",
        library="skyrl",
        function=f"{PPO}.compute_approx_kl",
        option=f'use_kl_loss=True, kl_estimator_type="{kind}"',
        estimator=DRAWN,
        adapter=partial(approx_kl, kind=kind),
        when_you_want_it=when,
        note=note,
        without=WITHOUT,
    )


def _advantage(name, kind, *, when, note):
    return LibraryLoss(
        id=f"skyrl-{name}",
        library="skyrl",
        function=f"{PPO}.importance_sampling_loss",
        option='policy_loss_type="importance_sampling", use_kl_in_reward=True, '
        f'kl_estimator_type="{kind}"',
        estimator=DRAWN,
        kind="sequence",
        adapter=partial(advantage, kind=kind),
        when_you_want_it=when,
        note=note,
        without=WITHOUT,
    )


def _draft(name, function, option, adapter, estimator, *, when):
    return LibraryLoss(
        id=f"skyrl-draft{name}",
        library="skyrl",
        function=f"{DRAFT}.{function}",
        option=option,
        estimator=estimator,
        adapter=adapter,
        when_you_want_it=when,
        note="for a draft head, whose teacher is the policy itself",
        without=WITHOUT,
    )


JOINED = "the two functions are its own; joined here as its example joins them"
LOSSES = (
    _kl("k1", when="never as a loss: it is for logging, and as a reward"),
    _kl("abs", when="rarely: its gradient looks at the sign of log p − log q alone"),
    _kl("k2", when=f"{REVERSE}, beside a reward"),
    _kl(
        "k3",
        when="forward KL from the student's own tokens while the two are close",
        note="the default, with use_kl_loss=True; values are cut at 10",
    ),
    _advantage(
        "opd",
        "k1",
        when=f"{REVERSE}, from the token drawn: its on-policy distillation",
        note=JOINED,
    ),
    _advantage(
        "opd-k3",
        "k3",
        when="none of the divergences: k1 is the estimate to take as a reward",
        note=f"what use_kl_in_reward does if the estimator is left at its default; {JOINED}",
    ),
    _draft("", "draft_soft_ce", "the default", draft, WHOLE, when=FORWARD),
    _draft(
        "-top-2",
        "draft_soft_ce_topk",
        "k=2",
        partial(draft_top_k, k=2),
        FIRST_K,
        when=f"{FORWARD}, on the teacher's first K",
    ),
)
