"""TRL's losses over the whole vocabulary, or its first K; ``trl_drawn`` has the sampled ones."""

from functools import partial

import torch

from opd_toy.audit.exhibits.libraries.library_loss import (
    BETWEEN,
    FIRST_K,
    FORWARD,
    REVERSE,
    WHOLE,
    LibraryLoss,
)

# --- adapters --------------------------------------------------------------------------


def gkd(student, teacher, **options):
    from trl.experimental.gkd import GKDTrainer

    mine, theirs = student[None, None], teacher.detach()[None, None]
    return GKDTrainer.generalized_jsd_loss(mine, theirs, **options)


def gkd_of_texts(student, teacher, tokens, mask, *, labelled):
    """A batch (B, T, V) at beta = 1, without labels or with labels that leave masked ones out."""
    from trl.experimental.gkd import GKDTrainer

    labels = tokens.masked_fill(mask == 0, -100) if labelled else None
    return GKDTrainer.generalized_jsd_loss(student, teacher.detach(), labels=labels, beta=1)


def distillation(student, teacher, *, beta):
    """Of DistillationTrainer, on hidden states that an identity for a head makes the logits."""
    from trl.trainer.distillation_trainer import _chunked_divergence_loss

    head = torch.eye(len(student), dtype=student.dtype)
    mine, theirs, mask = student[None, None], teacher.detach()[None, None], torch.ones(1, 1)
    return _chunked_divergence_loss(mine, theirs, head, head, mask, beta)[0]


def gold_of_probabilities(student, teacher, *, beta):
    from trl.experimental.gold.gold_trainer import GOLDTrainer

    mine, theirs = student.softmax(-1)[None], teacher.detach().softmax(-1)[None]
    return GOLDTrainer.generalized_jsd_loss(mine, theirs, beta=beta, logits_are_probs=True)


def iw_opd_top_k(student, teacher, **options):
    from trl.experimental.iw_opd.iw_opd_trainer import IWOPDTrainer

    mine, theirs = student[None, None], teacher.detach()[None, None]
    return IWOPDTrainer.generalized_jsd_loss(mine, theirs, **options)


def sdft_full(student, teacher, *, alpha):
    from trl.experimental.sdft.loss_utils import compute_full_logit_self_distillation_loss

    mine, theirs = student[None, None], teacher.detach()[None, None]
    return compute_full_logit_self_distillation_loss(mine, theirs, distillation_alpha=alpha).sum()


def sdft_top_k(student, teacher, *, k, alpha, add_tail):
    from trl.experimental.sdft.loss_utils import compute_topk_self_distillation_loss

    return compute_topk_self_distillation_loss(
        student[None, None],
        teacher.detach()[None, None],
        distillation_topk=k,
        distillation_alpha=alpha,
        distillation_add_tail=add_tail,
    ).sum()


# --- what is audited -------------------------------------------------------------------

GKD = "trl.experimental.gkd.GKDTrainer.generalized_jsd_loss"
GOLD = "trl.experimental.gold.gold_trainer.GOLDTrainer.generalized_jsd_loss"
SDFT = "trl.experimental.sdft.loss_utils"


def _gkd(name, option, *, when, note="", **options):
    return LibraryLoss(
        id=f"trl-gkd-{name}",
        library="trl",
        function=GKD,
        option=option,
        estimator=WHOLE,
        adapter=partial(gkd, **options),
        when_you_want_it=when,
        note=note,
    )


def _gkd_beta(beta, *, when):
    return _gkd(f"{beta:g}", f"beta={beta:g}, temperature=1", when=when, beta=beta)


def _gkd_texts(name, option, *, when, labelled):
    return LibraryLoss(
        id=f"trl-gkd-{name}",
        library="trl",
        function=GKD,
        option=option,
        estimator=WHOLE,
        kind="batch",
        adapter=partial(gkd_of_texts, labelled=labelled),
        when_you_want_it=when,
    )


GKD_LOSSES = (
    _gkd_beta(0, when=FORWARD),
    _gkd_beta(0.5, when=BETWEEN),
    _gkd_beta(0.999, when="rarely: see the scale; take beta = 1 for the reverse KL"),
    _gkd_beta(1, when=REVERSE),
    _gkd(
        "0-temperature-0.9",
        "beta=0, temperature=0.9",
        when=f"{FORWARD}, of softened models",
        note="for callers of the function; GKDTrainer leaves it at 1",
        beta=0,
        temperature=0.9,
    ),
    _gkd(
        "0-temperature-2",
        "beta=0, temperature=2",
        when=f"{FORWARD}, of softened models",
        note="no factor T²: a change of temperature changes the step size too",
        beta=0,
        temperature=2.0,
    ),
    _gkd_texts(
        "labels",
        "beta=1, labels given",
        when="always in training: padding is left out",
        labelled=True,
    ),
    _gkd_texts(
        "no-labels",
        "beta=1, no labels",
        when="on logits that hold valid positions only, with texts of equal length",
        labelled=False,
    ),
)


def _distillation(beta, *, when, note=""):
    return LibraryLoss(
        id=f"trl-distillation-{beta:g}",
        library="trl",
        function="trl.trainer.distillation_trainer._chunked_divergence_loss",
        option=f"beta={beta:g}",
        estimator=WHOLE,
        adapter=partial(distillation, beta=beta),
        when_you_want_it=when,
        note=note,
    )


DISTILLATION_LOSSES = (
    _distillation(0.0, when=FORWARD),
    _distillation(0.5, when=BETWEEN),
    _distillation(1.0, when=REVERSE, note="DistillationTrainer's default"),
)

GOLD_LOSSES = (
    LibraryLoss(
        id="trl-gold-probabilities",
        library="trl",
        function=GOLD,
        option="beta=0.5, logits_are_probs=True",
        estimator=WHOLE,
        adapter=partial(gold_of_probabilities, beta=0.5),
        when_you_want_it=BETWEEN,
        note="probabilities below 1e-8 are lifted to 1e-8",
    ),
)


def _iw_opd_top_two(beta, *, add_tail, when):
    return LibraryLoss(
        id=f"trl-iw-opd-top-2-{beta}-{_tail(add_tail)}",
        library="trl",
        function="trl.experimental.iw_opd.iw_opd_trainer.IWOPDTrainer.generalized_jsd_loss",
        option=f"beta={beta}, top_k=2, add_tail={add_tail}",
        estimator=FIRST_K,
        adapter=partial(iw_opd_top_k, beta=beta, top_k=2, add_tail=add_tail),
        when_you_want_it=when,
        note="the rest is one more outcome" if add_tail else "the rest gets no gradient",
    )


def _tail(add_tail):
    return "tail" if add_tail else "renormalized"


IW_OPD_LOSSES = tuple(
    _iw_opd_top_two(beta, add_tail=add_tail, when=when)
    for beta, when in (
        (0, f"{FORWARD}, on the teacher's first K"),
        (1, f"{REVERSE}, on the student's first K"),
    )
    for add_tail in (True, False)
)


def _sdft_full(alpha, *, when):
    return LibraryLoss(
        id=f"trl-sdft-full-{alpha:g}",
        library="trl",
        function=f"{SDFT}.compute_full_logit_self_distillation_loss",
        option=f'distillation_mode="full_logits", distillation_alpha={alpha:g}',
        estimator=WHOLE,
        adapter=partial(sdft_full, alpha=alpha),
        when_you_want_it=when,
        note="SDPO has the same file",
    )


def _sdft_top_two(alpha, *, add_tail, note=""):
    return LibraryLoss(
        id=f"trl-sdft-top-2-{alpha:g}-{_tail(add_tail)}",
        library="trl",
        function=f"{SDFT}.compute_topk_self_distillation_loss",
        option='distillation_mode="topk_logits", distillation_topk=2, '
        f"distillation_alpha={alpha:g}, distillation_add_tail={add_tail}",
        estimator=FIRST_K,
        adapter=partial(sdft_top_k, k=2, alpha=alpha, add_tail=add_tail),
        when_you_want_it="less memory than all of the vocabulary",
        note=note,
    )


SDFT_LOSSES = (
    _sdft_full(0.0, when=FORWARD),
    _sdft_full(0.5, when=BETWEEN),
    _sdft_full(1.0, when=REVERSE),
    _sdft_top_two(0.0, add_tail=False),
    _sdft_top_two(
        0.5,
        add_tail=False,
        note="alpha 0.5 without a tail is SDFTConfig's default, with K = 100",
    ),
    _sdft_top_two(1.0, add_tail=False),
    _sdft_top_two(1.0, add_tail=True),
)

LOSSES = (*GKD_LOSSES, *DISTILLATION_LOSSES, *GOLD_LOSSES, *IW_OPD_LOSSES, *SDFT_LOSSES)
