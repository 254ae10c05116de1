"""Losses on the tokens that were drawn: policy gradients for distillation and for rewards, SFT.

Arrays are (B, T): B texts of T positions.  ``mask`` (B, T) is True or 1 where the student
drew the token, False or 0 on prompts, tool output and padding, wherever these stand; what
a masked position holds does not matter, NaN neither.  A cost is descended, r_t =
log p(a_t|s_t) - log q(a_t|s_t); rewards, one a text (B,), enter with a minus sign.

Every loss is divided by the number of valid tokens or by ``normalizer``, see
``opd_toy.lm.losses``.  Weights of a gradient are constants: none flows through a return,
an importance ratio or a FIPO weight.  ``opd_toy.sequences`` has the same definitions,
summed over all sequences of a small tree.
"""

import math
import numbers

import torch
from torch.autograd.function import once_differentiable

from opd_toy import _validate
from opd_toy.lm import checks
from opd_toy.lm.autograd import with_gradient
from opd_toy.lm.checks import float_tensor
from opd_toy.lm.checks import log_probabilities_like as _like
from opd_toy.lm.rows import any_of, each_block, keep_freed_memory, large_pages
from opd_toy.lm.tokens import token_scale, valid_tokens, working_dtype

# --- the log probability of a drawn token ------------------------------------------------


def token_log_probabilities(logits, tokens):
    """log p of each of ``tokens`` (...) under ``logits`` (..., V): (...).

    float32, or float64 for float64 logits.  Beyond the logits it needs no memory of their
    size but for the gradient.
    """
    float_tensor("logits", logits)
    return _TokenLogProbabilities.apply(logits, checks.token_ids(logits, tokens))


class _TokenLogProbabilities(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, tokens):
        z, dtype = logits.detach(), working_dtype(logits)
        chosen = z.gather(-1, tokens.unsqueeze(-1)).squeeze(-1).to(dtype)
        result, normalizer = torch.empty_like(chosen), torch.empty_like(chosen)

        def forward(rows, own, norm, out):
            # Both less the row's largest: the difference of two large numbers would lose digits.
            top = rows.amax(-1, keepdim=True).to(dtype)
            rest = (rows - top).exp_().sum(-1).log_()
            torch.add(top.squeeze(-1), rest, out=norm)
            torch.sub(own - top.squeeze(-1), rest, out=out)
            return 0

        keep_freed_memory()
        each_block(forward, z, chosen, normalizer, result)
        ctx.save_for_backward(logits, tokens, normalizer)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        logits, tokens, normalizer = ctx.saved_tensors
        like = {"dtype": logits.dtype, "device": logits.device}
        gradient = large_pages(torch.empty(logits.shape, **like))

        def backward(z, token, norm, weight, out):
            rows = (z - norm[:, None]).exp_().mul_(-weight[:, None])
            rows.scatter_(-1, token[:, None], rows.gather(-1, token[:, None]) + weight[:, None])
            out.copy_(rows)
            if any_of(weight == 0):
                out.masked_fill_((weight == 0)[:, None], 0.0)
            return 0

        each_block(backward, logits, tokens, normalizer, upstream.contiguous(), gradient)
        return gradient, None


def sft_loss(logits, tokens, mask=None, *, weights=None, normalizer=None):
    """Mean over valid tokens of -log p of ``tokens`` (...) under ``logits`` (..., V).

    Position by position: hand in logits[:, :-1] with tokens[:, 1:].  Masked tokens may be
    anything, such as -100.
    """
    float_tensor("logits", logits)
    scale = token_scale(logits, logits.shape[:-1], mask, weights, normalizer)
    valid = scale != 0
    checks.shaped("tokens", tokens, logits.shape[:-1])
    tokens = torch.where(valid, tokens.to(logits.device), 0)
    return -torch.where(valid, token_log_probabilities(logits, tokens) * scale, 0.0).sum()


# --- policy gradients --------------------------------------------------------------------


def discounted_return(costs, gamma, mask=None):
    """G_t = sum of gamma**n r_u over valid u >= t of ``costs`` r (..., T): (..., T).

    n is the number of valid positions after t, up to u.  Masked positions cost nothing and take no
    time; G is 0 there.  gamma from 0 to 1.  eq-discounted-return.
    """
    float_tensor("costs", costs, "T")
    gamma, valid = _validate.fraction("gamma", gamma), valid_tokens(mask, costs.shape, costs.device)
    total, returns = torch.zeros_like(costs[..., 0]), []
    for cost, counts in zip(reversed(costs.unbind(-1)), reversed(valid.unbind(-1))):
        total = torch.where(counts, cost + (gamma * total if gamma else 0.0), total)
        returns.append(total)
    return torch.where(valid, torch.stack(returns[::-1], -1), 0.0)


def policy_gradient_loss(
    student_log_probabilities,
    teacher_log_probabilities,
    mask=None,
    gamma=0.0,
    baseline=0.0,
    reward=None,
    alpha=1.0,
    behaviour_log_probabilities=None,
    clip=None,
    truncate=None,
    weights=None,
    normalizer=None,
):
    """Policy gradient of on-policy distillation, mixed with a reward.

    Takes log probabilities of drawn tokens (B, T) and returns a scalar.  Its gradient is the
    sum over valid tokens of f_t rho_t w_t grad log p(a_t|s_t), over the normalizer, with
    w_t = G_t - baseline - alpha * reward, G_t the ``discounted_return`` of the costs
    log p - log q (0 with teacher_log_probabilities=None), the reward (B,) not discounted;
    f_t the ``weights`` (B, T), such as ``fipo_weight``; and rho_t = p/behaviour the
    importance ratio where the tokens were drawn by a policy with
    ``behaviour_log_probabilities``, else 1.
    baseline: a number, or (B, T), or (B, 1).
    clip: PPO's, a number or (low, high): no gradient where rho_t has left [1 - low, 1 + high]
    in the direction that w_t pushes.  truncate: rho_t is at most this (not with clip).

    Its value is that of the plain mean cost, log p - log q - alpha * reward, over valid
    tokens: what a report wants, not a function whose differences give the gradient.
    eq-reward-to-go, eq-improve-framework.
    """
    log_p = float_tensor("student_log_probabilities", student_log_probabilities, "T")
    valid = valid_tokens(mask, log_p.shape, log_p.device)
    scale = token_scale(log_p, log_p.shape, mask, weights, normalizer)
    plain = token_scale(log_p, log_p.shape, mask, None, normalizer)
    known = torch.where(valid, log_p.detach().to(scale.dtype), 0.0)
    cost = torch.zeros_like(known)
    if teacher_log_probabilities is not None:
        log_q = _like("teacher_log_probabilities", teacher_log_probabilities, log_p)
        cost = torch.where(valid, known - log_q, 0.0)
    weight = discounted_return(cost, gamma, valid) - _baseline(baseline, log_p)
    if reward is not None:
        earned = _validate.number("alpha", alpha) * _one_a_text("reward", reward, log_p)
        weight, cost = weight - earned, cost - earned
    elif teacher_log_probabilities is None:
        raise ValueError(
            "teacher_log_probabilities and reward are both None; give at least one, a cost or a "
            "reward to learn from"
        )
    if behaviour_log_probabilities is not None:
        drawn_by = _like("behaviour_log_probabilities", behaviour_log_probabilities, log_p)
        weight = weight * _importance((known - drawn_by).exp(), weight, clip, truncate)
    else:
        _check_no_ratio(clip, truncate)
    gradient = torch.where(valid & (scale != 0), weight * scale, 0.0)
    value = torch.where(valid, cost * plain, 0.0).sum()
    return with_gradient(lambda wanted: (value, [gradient]), student_log_probabilities)


def fipo_weight(
    student_log_probabilities, old_log_probabilities, mask, gamma, low, high, ratio_limit=10.0
):
    """f_t = exp(FutureKL_t) held in [1 - low, 1 + high] (B, T).  eq-fipo.

    FutureKL is the discounted return of log(p/old).  Tokens whose p/old is above
    ``ratio_limit`` add nothing.  A constant; 1 where masked.  arXiv 2603.19835, where gamma =
    2**(-1/32).
    """
    log_p = float_tensor("student_log_probabilities", student_log_probabilities, "T").detach()
    valid = valid_tokens(mask, log_p.shape, log_p.device)
    low, high = _validate.fraction("low", low), _validate.number("high", high)
    limit = _validate.positive("ratio_limit", ratio_limit)
    if high < 0:
        raise ValueError(f"high is {high!r}; give a number of at least 0")
    old = _like("old_log_probabilities", old_log_probabilities, log_p)
    change = torch.where(valid, log_p - old, 0.0)
    change = torch.where(change <= math.log(limit), change, 0.0)
    return discounted_return(change, gamma, valid).exp().clamp(1 - low, 1 + high)


def group_advantage(reward, group_size, scale=True):
    """Reward (B,) less the mean of its group, over the group's standard deviation + 1e-4: (B,).

    ``group_size`` texts in a row are a group.  The deviation is that of a sample (n - 1);
    scale=False leaves it out (Dr. GRPO, arXiv 2503.20783).
    """
    float_tensor("reward", reward, None)
    group_size = _validate.whole("group_size", group_size, 2)
    if reward.ndim != 1 or len(reward) % group_size:
        raise ValueError(
            f"reward has shape {tuple(reward.shape)}; give (B,) with B a multiple of "
            f"group_size = {group_size}"
        )
    groups = reward.detach().view(-1, group_size)
    advantage = groups - groups.mean(1, keepdim=True)
    if scale:
        advantage = advantage / (groups.std(1, keepdim=True) + 1e-4)
    return advantage.reshape(-1)


def grpo_loss(
    student_log_probabilities,
    reward,
    mask,
    group_size,
    behaviour_log_probabilities=None,
    clip=0.2,
    scale=True,
    weights=None,
    normalizer=None,
):
    """RLVR alone: ``policy_gradient_loss`` with the ``group_advantage`` of a reward (B,).

    No teacher, no KL to a reference.  A mean over all valid tokens, not over texts first, as
    DAPO (arXiv 2503.14476) has it.
    Without ``behaviour_log_probabilities`` the tokens are the student's own and nothing is
    clipped.
    """
    return policy_gradient_loss(
        student_log_probabilities,
        None,
        mask,
        reward=group_advantage(reward, group_size, scale),
        behaviour_log_probabilities=behaviour_log_probabilities,
        clip=None if behaviour_log_probabilities is None else clip,
        weights=weights,
        normalizer=normalizer,
    )


def _importance(ratio, weight, clip, truncate):
    """The factor (B, T) that stands for the ratio in the gradient."""
    if clip is None and truncate is None:
        return ratio
    if clip is None:
        return ratio.clamp_max(_validate.positive("truncate", truncate))
    if truncate is not None:
        raise ValueError(
            f"clip is {clip!r} and truncate {truncate!r}; give one of them, the other None"
        )
    ends = clip if isinstance(clip, (tuple, list)) else (clip, clip)
    if len(ends) != 2 or not all(isinstance(end, numbers.Real) and end >= 0 for end in ends):
        raise ValueError(f"clip is {clip!r}; give a number of at least 0, or two: (low, high)")
    # A cost pushes p down, so past 1 - low it has done enough; a gain is the mirror image.
    done = torch.where(weight > 0, ratio < 1 - ends[0], ratio > 1 + ends[1])
    return torch.where(done, 0.0, ratio)


# --- checks ------------------------------------------------------------------------------


def _check_no_ratio(clip, truncate):
    name, value = ("clip", clip) if clip is not None else ("truncate", truncate)
    if value is not None:
        raise ValueError(
            f"{name} is {value!r} and behaviour_log_probabilities None, so there is no ratio to "
            "hold; give the log probabilities of the policy that drew the tokens"
        )


def _one_a_text(name, value, log_p):
    is_tensor = isinstance(value, torch.Tensor)
    if not is_tensor or log_p.ndim != 2 or tuple(value.shape) != (len(log_p),):
        raise ValueError(
            f"{name} is {_validate.quote(value)} and student_log_probabilities of shape "
            f"{tuple(log_p.shape)}; give one number a text, a tensor of shape (B,) with log "
            "probabilities (B, T)"
        )
    return value.detach().to(log_p.device)[:, None]


def _baseline(value, log_p):
    if not isinstance(value, torch.Tensor):
        return _validate.number("baseline", value)
    shapes = tuple(log_p.shape), (*log_p.shape[:-1], 1)
    if value.ndim and tuple(value.shape) not in shapes:
        raise ValueError(
            f"baseline has shape {tuple(value.shape)}; give a number, or a tensor of shape "
            f"{shapes[0]} or {shapes[1]}"
        )
    return value.detach().to(log_p.device)
