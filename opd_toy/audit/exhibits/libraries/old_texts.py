"""Losses with a third model: texts that an older student, or an engine, has written.

The adapters take rollout_logits (T, V) besides, those of the policy that drew the tokens; by that
name the auditor knows it.  By the libraries' own code, or as read: see ``as_read``.
"""

from functools import partial

from opd_toy.audit.exhibits.libraries import areal, skyrl, verl
from opd_toy.audit.exhibits.libraries.as_read import read
from opd_toy.audit.exhibits.libraries.library_loss import (
    DRAWN,
    REVERSE,
    LibraryLoss,
    log_probabilities_of_texts,
)
from opd_toy.audit.exhibits.libraries.loading import load

# --- adapters --------------------------------------------------------------------------


def drawn(student, teacher, rollout, tokens, mask):
    """Log-probabilities (..., T) of the tokens: the student's, the teacher's, the drawer's."""
    mine, theirs = log_probabilities_of_texts(student, teacher, tokens, mask)
    return mine, theirs, log_probabilities_of_texts(rollout, rollout, tokens, mask)[1]


def verl_k1(student_logits, teacher_logits, rollout_logits, tokens, mask, *, bypass, level=None):
    """k1 as the reward; ``bypass``: old_log_probs are the engine's; else ``level`` weighs them."""
    from verl.trainer.ppo.rollout_corr_helper import compute_rollout_correction_weights

    mine, _, drew = drawn(student_logits, teacher_logits, rollout_logits, tokens, mask)
    old = drew if bypass else mine.detach()
    weights = None
    if level:
        weights = compute_rollout_correction_weights(old - drew, mask, level, 2.0)[0]
    options = {"loss_mode": "k1", "use_policy_gradient": True, **verl.UNCLAMPED}
    return verl.distillation_of_texts(
        student_logits, teacher_logits, tokens, mask, old=old, weights=weights, **options
    )


def skyrl_opd(student_logits, teacher_logits, rollout_logits, tokens, mask):
    """Its estimate of the KL is made before the first step, of the weights that drew."""
    library = load(skyrl.PPO, skyrl.WITHOUT)
    mine, theirs, drew = drawn(student_logits, teacher_logits, rollout_logits, tokens, mask)
    cost = library.compute_approx_kl(drew, theirs, mask, kl_estimator_type="k1")
    return library.importance_sampling_loss(mine, drew, -cost, None, mask.to(mine.dtype))[0]


def areal_pure(student_logits, teacher_logits, rollout_logits, tokens, mask):
    mine, theirs, drew = drawn(student_logits, teacher_logits, rollout_logits, tokens, mask)
    return areal.loss_of(mine, theirs, mask, 0.0, drew)


def prime_rl(student_logits, teacher_logits, rollout_logits, tokens, mask):
    mine, theirs, drew = drawn(student_logits, teacher_logits, rollout_logits, tokens, mask)
    kept = (mine.exp() - drew.exp() >= -0.2).detach() * mask
    signal = (theirs - mine).detach()
    change = mine - drew
    return (-kept * signal * change.exp() + 1e-3 * mask * change.square()).sum()


def slime_opd(student_logits, teacher_logits, rollout_logits, tokens, mask, *, drops):
    """``drops``: a ratio outside 0 to 2 leaves the token out; else it is held there."""
    mine, theirs, drew = drawn(student_logits, teacher_logits, rollout_logits, tokens, mask)
    scored = mine.detach()
    ratio = (scored - drew).exp()
    weight = ratio * (ratio <= 2) if drops else ratio.clamp(0, 2)
    advantage = theirs - scored
    return -(weight * (mine - scored).exp() * advantage * mask).sum() / mask.sum()


# --- what is audited -------------------------------------------------------------------

OLD = "texts of an older student"


def _verl(name, option, *, when, note="", **options):
    return LibraryLoss(
        id=f"verl-k1-reward-{name}",
        library="verl",
        function=verl.DISTILLATION,
        option=f"loss_mode=k1, use_policy_gradient=True, {option}; {OLD}",
        estimator=DRAWN,
        kind="batch",
        adapter=partial(verl_k1, **options),
        when_you_want_it=when,
        note=note,
    )


LOCAL = f"{REVERSE}, from the token drawn"
LOSSES = (
    _verl(
        "old-token",
        "rollout_is=token, rollout_is_threshold=2.0",
        when=f"{LOCAL}, {OLD}",
        bypass=False,
        level="token",
    ),
    _verl(
        "old-sequence",
        "rollout_is=sequence, rollout_is_threshold=2.0",
        when=f"short {OLD}: its ratios are multiplied over the text",
        bypass=False,
        level="sequence",
    ),
    _verl(
        "old-unweighted",
        "rollout_is=null",
        when="the texts are as new as the weights",
        note="the default of the YAML file",
        bypass=False,
    ),
    _verl(
        "old-bypass",
        "bypass_mode=true",
        when="a brake: the student stays near the texts' author",
        note="PPO's ratio and clip are those to the engine",
        bypass=True,
    ),
    LibraryLoss(
        id="skyrl-opd-old",
        library="skyrl",
        function=f"{skyrl.PPO}.importance_sampling_loss",
        option='policy_loss_type="importance_sampling", use_kl_in_reward=True, '
        f'kl_estimator_type="k1"; {OLD}',
        estimator=DRAWN,
        kind="sequence",
        adapter=skyrl_opd,
        when_you_want_it="one step on each text; on later ones the cost is the rollout's",
        without=skyrl.WITHOUT,
    ),
    LibraryLoss(
        id="areal-pure-old",
        library="areal",
        function=f"{areal.ACTOR}.grpo_loss_fn",
        option=f"rl_loss_weight=0, distill_loss_weight=1; {OLD}",
        estimator=DRAWN,
        kind="batch",
        adapter=areal_pure,
        when_you_want_it="see the ratio found",
        without=areal.WITHOUT,
    ),
    read(
        "prime-rl",
        "ref-kl-old",
        "prime_rl.trainer.rl.loss.ref_kl_loss_fn",
        f"the opd algorithm; {OLD}",
        DRAWN,
        prime_rl,
        kind="sequence",
        when=f"{LOCAL}, {OLD}",
        note="tokens whose probability fell by more than 0.2 are dropped; the square of the "
        "log-ratio holds the student near the texts' author",
    ),
    read(
        "slime",
        "opd-old-tis",
        "slime.backends.megatron_utils.loss.vanilla_tis_function",
        f"use_opd, use_tis, tis_clip_low=0, tis_clip=2; {OLD}",
        DRAWN,
        partial(slime_opd, drops=False),
        kind="sequence",
        when=f"{LOCAL}, {OLD}",
    ),
    read(
        "slime",
        "opd-old-icepop",
        "slime.backends.megatron_utils.loss.icepop_function",
        f"use_opd, use_tis, tis_clip_low=0, tis_clip=2; {OLD}",
        DRAWN,
        partial(slime_opd, drops=True),
        kind="sequence",
        when=f"{LOCAL}, {OLD}, without the tokens that have moved most",
    ),
)
