"""This book's losses as distillation losses of verl 0.9.1, registered by their names.

verl imports this file in each of its processes if it is told to before ray starts:

    export PYTHONPATH=$PWD/examples VERL_USE_EXTERNAL_MODULES=verl_distillation_loss

Then they are chosen in the configuration of a distillation run like verl's own:

    distillation:
      enabled: true
      distillation_loss:
        loss_mode: reverse_kl_of_texts   # or reverse_kl_of_tokens, or top_k_reverse_kl
        topk: 64                         # read by top_k_reverse_kl alone
        use_task_rewards: false
        use_policy_gradient: false       # these losses bring their own gradient
        loss_max_clamp: null             # a clamped token has no gradient
        log_prob_min_clamp: null
    actor_rollout_ref:
      actor:
        strategy: fsdp2
        loss_agg_mode: token-mean        # verl's default: a mean over all valid tokens

reverse_kl_of_texts    the policy gradient of log p - log q, each token with the sum of the costs
                       from it to the end of the text: the gradient of KL(p || q) between texts
reverse_kl_of_tokens   the same with the token's own cost: the gradient of the sum of the local
                       KLs, with the texts that reach them held fixed; verl's k2 has it too.
top_k_reverse_kl       that sum from the logits, without the noise of the drawn token: the
                       reverse KL over the teacher's K likeliest tokens and one for all others

All take the texts for the student's own: with several updates a batch (ppo_mini_batch_size
below train_batch_size) the later ones would need importance ratios, which are not here.
top_k_reverse_kl sees the logits in verl's FSDP engine alone, and there with whole texts on each
process (ulysses_sequence_parallel_size 1).
"""

from functools import partial

import torch
import verl.trainer.distillation.fsdp.losses as logits_losses
from verl.trainer.distillation.losses import DistillationLossSettings, register_distillation_loss
from verl.workers.utils.padding import no_padding_2_padding

from opd_toy.lm.losses import discounted_return

GAMMAS = {"reverse_kl_of_texts": 1.0, "reverse_kl_of_tokens": 0.0}


def policy_gradient(config, distillation_config, model_output, data):
    """From drawn tokens: the cost of each token (B, T), with the policy gradient's gradient."""
    log_p = no_padding_2_padding(model_output["log_probs"], data)
    log_q = no_padding_2_padding(data["teacher_logprobs"], data).squeeze(-1)
    mask = _valid(data)
    cost = torch.where(mask, (log_p - log_q).detach(), 0.0)
    gamma = GAMMAS[distillation_config.distillation_loss.loss_mode]
    weight = discounted_return(cost, gamma, mask)
    return cost + weight * (log_p - log_p.detach()), {}  # the last factor is 0, its gradient not


def top_k_at_the_logits(
    student_logits, teacher_topk_log_probs, teacher_topk_ids, config, data_format
):
    """From logits (1, tokens, V) and the teacher's nested (tokens, K): a dict of (1, tokens)."""
    log_q, ids = (x.values().unsqueeze(0) for x in (teacher_topk_log_probs, teacher_topk_ids))
    log_p = student_logits.float().log_softmax(-1).gather(-1, ids)
    mass_p, mass_q = (x.exp().sum(-1) for x in (log_p, log_q))
    # All other tokens are one outcome.  Below 1e-7 a float32 sum cannot tell it from none.
    rest_p, rest_q = ((1 - mass).clamp_min(1e-7) for mass in (mass_p, mass_q))
    inside = (log_p.exp() * (log_p - log_q)).sum(-1)
    loss = inside + rest_p * (rest_p / rest_q).log()
    return {
        "distillation_losses": loss,
        "student_mass": mass_p.detach(),
        "teacher_mass": mass_q.detach(),
    }


def top_k(config, distillation_config, model_output, data):
    """The losses made at the logits, text by text (B, T); the mean masses go to verl's log."""
    if config.strategy == "megatron":  # whose logits went to verl's own forward KL
        raise ValueError("actor.strategy is 'megatron'; top_k_reverse_kl needs 'fsdp2' or 'fsdp'")
    loss, student, teacher = (
        no_padding_2_padding(model_output[name], data)
        for name in ("distillation_losses", "student_mass", "teacher_mass")
    )
    mask = _valid(data)
    masses = {"student_mass": student, "teacher_mass": teacher}
    return loss, {f"distillation/{name}": x[mask].mean().item() for name, x in masses.items()}


def _valid(data):
    """Which tokens of the responses count (B, T)."""
    mask = data["response_mask"]
    return (mask.to_padded_tensor(0) if mask.is_nested else mask).bool()


def _either(verl_s, *, config, **named):
    """verl has one function for what needs the logits, whatever the loss_mode."""
    ours = config.distillation_loss.loss_mode == "top_k_reverse_kl"
    return (top_k_at_the_logits if ours else verl_s)(config=config, **named)


logits_losses.compute_forward_kl_topk = partial(_either, logits_losses.compute_forward_kl_topk)
register_distillation_loss(DistillationLossSettings(names=[*GAMMAS], use_estimator=True))(
    policy_gradient
)
register_distillation_loss(DistillationLossSettings(names="top_k_reverse_kl", use_topk=True))(top_k)
