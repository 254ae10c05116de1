"""Texts that another policy wrote: importance weights under the names that trainers use.

p is the student, mu the *behaviour* that drew the tokens.  The weights go into
``policy_gradient_loss(..., weights=...)``, which multiplies the gradient of each token by them;
they are constants.  Arrays are (B, T), with a ``mask`` as in ``opd_toy.lm.sampled``.
``opd_toy.off_policy`` has the same for one position, ``opd_toy.sequences`` summed over all texts
of a small tree.

TRL's ``vllm_importance_sampling_mode`` is a level and a correction in one word:
"token_truncate" is ``level="token", correction="truncate"``.  verl's ``rollout_is`` is the level,
its threshold the limit: one number truncates, a pair masks.  Both take the trainer's weights when
the batch was scored over the engine's; the steps after that have PPO's ratio and its clip, which
depends on the cost: ``policy_gradient_loss(..., clip=...)``.  GSPO's ratio is level "mean".
"""

import math
import numbers

import torch

from opd_toy import _validate
from opd_toy.lm import checks
from opd_toy.lm.tokens import valid_tokens, working_dtype

LEVELS = ("token", "prefix", "sequence", "mean")
CORRECTIONS = ("ratio", "truncate", "mask")


def importance_weights(
    student_log_probabilities,
    behaviour_log_probabilities,
    mask=None,
    level="token",
    correction="ratio",
    limits=None,
):
    """Weights (B, T) from log probabilities of the drawn tokens (B, T); 0 where masked.

    ``level``, over which tokens the ratios p/mu are multiplied: "token" its own; "prefix" all
    up to it and its own ("both" in ``opd_toy.sequences``); "sequence" all of its text; "mean"
    all of its text, to the power of one over their number.
    ``correction``: "ratio" as it is; "truncate" at most ``limits``, a number above 0; "mask" 0
    outside ``limits`` = (low, high).  ValueError for a weight that is not finite, which
    truncation prevents, and for a drawn token that the behaviour gives probability 0.
    """
    log_p = checks.float_tensor("student_log_probabilities", student_log_probabilities, "T")
    valid = valid_tokens(mask, log_p.shape, log_p.device)
    log_mu = checks.log_probabilities_like(
        "behaviour_log_probabilities", behaviour_log_probabilities, log_p
    )
    _validate.choice("level", level, LEVELS)
    _validate.choice("correction", correction, CORRECTIONS)
    log_ratio = _log_ratio(log_p.detach(), log_mu, valid)
    if level == "prefix":
        log_ratio = log_ratio.cumsum(-1)
    elif level != "token":
        total = log_ratio.sum(-1, keepdim=True)
        if level == "mean":
            total = total / valid.sum(-1, keepdim=True).clamp_min(1)
        log_ratio = total.expand_as(log_ratio)
    weights = _held(log_ratio.exp(), correction, limits).to(working_dtype(log_p))
    weights = torch.where(valid, weights, 0.0)
    if not weights.isfinite().all():
        raise ValueError(
            f"a weight is infinite: the ratio of a {level} is e^{float(log_ratio.max()):.4g}; "
            'give correction="truncate", or "mask" with a finite high'
        )
    return weights


def effective_sample_size(weights, mask=None):
    """(sum w)^2 / (n sum w^2) of the n valid weights (B, T): a float from 0 to 1.

    1 where all are equal; 0 where all are 0.  Of weights by text, hand in one a text; n texts
    cannot show a share below 1/n.  ValueError for a weight below 0 or not finite.
    """
    weights = checks.float_tensor("weights", weights, None).detach().double()
    valid = valid_tokens(mask, weights.shape, weights.device)
    wrong = valid & ~((weights >= 0) & weights.isfinite())
    if wrong.any():
        raise ValueError(
            f"weights holds {weights[wrong][0].item()!r} at a valid place; give finite weights of "
            "at least 0"
        )
    kept = torch.where(valid, weights, 0.0)
    largest = kept.max() if kept.numel() else kept.sum()
    if not largest > 0:
        return 0.0
    kept = kept / largest
    return float(kept.sum() ** 2 / (valid.sum() * (kept**2).sum()))


def _log_ratio(log_p, log_mu, valid):
    """log p - log mu in float64, 0 where not valid."""
    for name, value in (("student", log_p), ("behaviour", log_mu)):
        wrong = valid & (value.isnan() | (value == math.inf))
        if name == "behaviour":
            wrong |= valid & (value == -math.inf)
        if wrong.any():
            raise ValueError(
                f"{name}_log_probabilities holds {value[wrong][0].item()!r} at a valid token; give "
                "the log probability with which the token was drawn, and mask a token without one"
            )
    known, drawn_with = (torch.where(valid, value.double(), 0.0) for value in (log_p, log_mu))
    return known - drawn_with


def _held(ratio, correction, limits):
    if correction == "ratio":
        if limits is not None:
            raise ValueError(f"limits is {limits!r}; correction 'ratio' has none: leave it out")
        return ratio
    if correction == "truncate":
        return ratio.clamp_max(_validate.positive("limits", limits))
    pair = limits if isinstance(limits, (tuple, list)) else ()
    if len(pair) != 2 or not all(isinstance(end, numbers.Real) for end in pair):
        raise ValueError(f"limits is {limits!r}; give two numbers: (low, high)")
    low, high = pair
    if not 0 <= low <= high:
        raise ValueError(f"limits is {limits!r}; give 0 <= low <= high")
    return torch.where((ratio >= low) & (ratio <= high), ratio, 0.0)
