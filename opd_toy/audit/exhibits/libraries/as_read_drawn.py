"""Readings of the libraries that learn from the token drawn; see ``as_read``."""

from functools import partial

import torch

from opd_toy.audit.exhibits.libraries.as_read import read
from opd_toy.audit.exhibits.libraries.library_loss import (
    DRAWN,
    REVERSE,
    log_probabilities,
    log_probabilities_of_texts,
)

# --- the readings ----------------------------------------------------------------------


def advantage_of_the_log_ratio(student, teacher, token):
    """-ratio × (log q - log p) of the token drawn, on the policy that drew."""
    mine, theirs = log_probabilities(student, teacher, token)
    return -(mine - mine.detach()).exp() * (theirs - mine.detach())


def gspo(student, teacher, tokens, mask):
    """The same of a text, with one ratio for all of it: the mean's exponential; a mean of both."""
    mine, theirs = log_probabilities_of_texts(student, teacher, tokens, mask)
    length = mask.sum()
    ratio = (((mine - mine.detach()) * mask).sum() / length).exp()
    return -(ratio * (theirs - mine.detach()) * mask).sum() / length


def open_instruct(student, teacher, token, *, estimator):
    mine, theirs = log_probabilities(student, teacher, token)
    difference = (mine - theirs).clamp(-40, 40)
    ratio = (mine - mine.detach()).exp()
    return {
        0: lambda: difference,
        1: lambda: difference.square() / 2,
        2: lambda: torch.expm1(-difference) + difference,
        3: lambda: ratio * difference,
    }[estimator]()


def torchforge(student, teacher, token):
    """The KL term alone, beta=1."""
    mine, theirs = log_probabilities(student, teacher, token)
    return (theirs - mine).exp() - (theirs - mine) - 1


# --- what is audited -------------------------------------------------------------------

OPD = "slime.backends.megatron_utils.loss.apply_opd_kl_to_advantages"
SLIME = (
    read(
        "slime",
        "opd",
        OPD,
        "use_opd, opd_kl_coef=1, no reward, advantage_estimator=grpo",
        DRAWN,
        advantage_of_the_log_ratio,
        when=f"{REVERSE}, from the token drawn",
    ),
    read(
        "slime",
        "opd-gspo",
        OPD,
        "use_opd, opd_kl_coef=1, no reward, advantage_estimator=gspo",
        DRAWN,
        gspo,
        kind="sequence",
        when="reverse KL of whole texts, small: one ratio for all of a text",
    ),
)

PRIME_RL = (
    read(
        "prime-rl",
        "ref-kl",
        "prime_rl.trainer.rl.loss.ref_kl_loss_fn",
        "the opd algorithm",
        DRAWN,
        advantage_of_the_log_ratio,  # the square of the log-ratio to the drawer is 0 here
        when=f"{REVERSE}, from the token drawn",
        note="with the ratio to the engine that drew, here 1; tokens whose probability fell by "
        "more than 0.2 since are dropped",
    ),
)


def _open_instruct(estimator, *, when, note=""):
    return read(
        "open-instruct",
        f"kl-{estimator}",
        "open_instruct.grpo_utils.compute_grpo_loss",
        f"kl_estimator={estimator}, the KL term alone",
        DRAWN,
        partial(open_instruct, estimator=estimator),
        when=when,
        note=note,
    )


OPEN_INSTRUCT = (
    _open_instruct(0, when="never as a loss: it is for logging"),
    _open_instruct(1, when=f"{REVERSE}, beside a reward"),
    _open_instruct(
        2, when="forward KL from the student's own tokens, beside a reward", note="the default"
    ),
    _open_instruct(3, when=f"{REVERSE}, beside a reward", note="k1 times the ratio"),
)


TORCHFORGE = (
    read(
        "torchforge",
        "grpo-kl",
        "forge.losses.grpo_loss.SimpleGRPOLoss",
        "beta=1, no reward",
        DRAWN,
        torchforge,
        when="forward KL from the student's own tokens, beside a reward",
        note="0.1 is its beta",
    ),
)

LOSSES = (*SLIME, *PRIME_RL, *OPEN_INSTRUCT, *TORCHFORGE)
