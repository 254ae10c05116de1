"""Losses of a token that a third model drew, as trainers write them, and what they optimise."""

import torch

from opd_toy.audit.ways.quantities import drawn

KEPT = "cost kept from the rollout, "
STALE = "reverse KL from stale tokens, "
NO_RATIO = "no ratio (biased where the behaviour differs)"


def trainers_loss(correction, limits, kept):
    """Of logits z, log q, log mu (V,) and the token: a correction of ``opd_toy.off_policy``."""

    def loss(z, log_q, log_mu, token):
        log_p = z.log_softmax(-1)
        ratio = (log_p - log_mu)[token].exp()
        cost = ((log_mu if kept else log_p.detach()) - log_q)[token]
        if correction == "none":
            return cost * log_p[token]
        if correction == "ratio":
            return cost * ratio
        if correction == "truncate":
            return cost * ratio.detach().clamp(max=limits) * log_p[token]
        if correction == "mask":
            return cost * ratio * float(limits[0] <= ratio <= limits[1])
        held = ratio.clamp(1 - limits[0], 1 + limits[1])
        return torch.maximum(cost * ratio, cost * held)

    return loss


def surrogate(log_p, old, advantage, low=0.2, high=0.2):
    ratio = (log_p - old).exp()
    return torch.max(-ratio * advantage, -ratio.clamp(1 - low, 1 + high) * advantage)


def policy_loss(per_token_logps, old_per_token_logps, teacher_per_token_logps):
    advantage = (teacher_per_token_logps - per_token_logps).detach()
    return surrogate(per_token_logps, old_per_token_logps, advantage)


def importance_sampling(student_logprobs, sampling_logprobs, teacher_logprobs):
    advantage = (teacher_logprobs - sampling_logprobs).detach()
    return -(student_logprobs - sampling_logprobs).exp() * advantage


def dual_clip(log_prob, old_log_prob, teacher_log_prob):
    advantage = (teacher_log_prob - log_prob).detach()
    clipped = surrogate(log_prob, old_log_prob, advantage)
    return torch.where(advantage < 0, torch.min(clipped, -3.0 * advantage), clipped)


def held_ratio(log_prob, old_log_prob, teacher_log_prob):
    ratio = (log_prob - old_log_prob).exp().clamp(0.8, 1.28).detach()
    return ratio * (log_prob - teacher_log_prob).detach() * log_prob


def k2_truncated(student_lp, teacher_lp, rollout_lp):
    ratio = (student_lp - rollout_lp).exp().clamp(max=2).detach()
    return ratio * 0.5 * (student_lp - teacher_lp) ** 2


def in_float32(student_lp, teacher_lp, rollout_lp):
    return k2_truncated(student_lp.float(), teacher_lp.float(), rollout_lp.float())


def masked(curr_logprobs, generation_logprobs, teacher_logprobs):
    ratio = (curr_logprobs - generation_logprobs).exp()
    ratio = torch.where((ratio >= 0.5) & (ratio <= 5), ratio, torch.zeros_like(ratio))
    return ratio.detach() * (curr_logprobs - teacher_logprobs).detach() * curr_logprobs


def masked_above(student_lp, teacher_lp, rollout_lp):
    ratio = (student_lp - rollout_lp).exp().clamp(max=2)  # its gradient ends there
    return ratio * (student_lp - teacher_lp).detach()


def decoupled(logprobs, prox_logp, behav_logp, teacher_logp):
    advantage = (teacher_logp - logprobs).detach()
    return surrogate(logprobs, prox_logp, advantage) * (prox_logp - behav_logp).exp()


def sampler_and_old(log_prob, old_log_probs, rollout_log_probs, teacher_log_probs):
    advantage = (teacher_log_probs - log_prob).detach()
    weight = (old_log_probs - rollout_log_probs).exp().clamp(max=2)
    return surrogate(log_prob, old_log_probs, advantage) * weight


def k3(student_logps, teacher_logps, old_logps):
    difference = teacher_logps - student_logps
    return difference.exp() - 1 - difference


def forward_weights(student_logps, teacher_logps, rollout_logps):
    return -(teacher_logps - rollout_logps).exp().detach() * student_logps


def one_ratio_too_many(student_logps, teacher_logps, rollout_logps):
    weight = (teacher_logps - rollout_logps).exp() * (student_logps - rollout_logps).exp()
    return -weight.detach() * student_logps


def with_baseline(student_lp, teacher_lp, rollout_lp):
    ratio = (student_lp - rollout_lp).exp().clamp(max=2).detach()
    return ratio * (student_lp - teacher_lp - 0.5).detach() * student_lp


def reverse(student_logits, teacher_logits):
    p = student_logits.log_softmax(-1)
    return (p.exp() * (p - teacher_logits.log_softmax(-1))).sum()


def logged_only(student_logits, teacher_logits, rollout_log_probs):
    return reverse(student_logits, teacher_logits) + 0 * rollout_log_probs


def with_penalty(student_logits, teacher_logits, old_logits):
    return reverse(student_logits, teacher_logits) + 0.1 * reverse(student_logits, old_logits)


def whole_times_ratio(student_logits, teacher_logits, token, rollout_log_probs):
    ratio = (drawn(student_logits, token) - rollout_log_probs).exp().detach()
    return ratio * reverse(student_logits, teacher_logits)


def old_weights(student_logits, teacher_logits, old_logits):
    old = old_logits.log_softmax(-1)
    cost = old.exp() * (old - teacher_logits.log_softmax(-1))
    return (cost * student_logits.log_softmax(-1)).sum()


def half_kept(student_lp, teacher_lp, rollout_lp):
    cost = 0.5 * student_lp + 0.5 * rollout_lp - teacher_lp
    return (student_lp - rollout_lp).exp() * cost.detach()


def k1(student_lp, teacher_lp, rollout_lp):
    return student_lp - teacher_lp


def of_a_batch(batch):
    log_p, log_q = (
        drawn(batch[name], batch["labels"]) for name in ("student_logits", "teacher_logits")
    )
    weight = (log_p.detach() - batch["rollout_log_probs"]).exp().clamp(max=2)
    return weight * (log_p - log_q).detach() * log_p


def masked_by_difference(student_lp, teacher_lp, rollout_lp):
    near = ((student_lp.exp() - rollout_lp.exp()).abs() < 0.2).double()
    return near * (student_lp - rollout_lp).exp() * (student_lp - teacher_lp).detach()


def clipped_with_penalty(log_prob, old_log_prob, teacher_log_prob):
    return policy_loss(log_prob, old_log_prob, teacher_log_prob) + 0.1 * (log_prob - old_log_prob)


def gated(student_lp, teacher_lp, rollout_lp):
    ratio = (student_lp - rollout_lp).exp()
    return torch.sigmoid(ratio - 1) * 4 * (student_lp - teacher_lp).detach()


CUT = "ratio truncated at 2 (biased where p/μ > 2)"
DUAL = "ratio clipped at 0.2 (PPO, and above 3 where the cost is high: dual clip)"
# Loss, verdict, whether the teacher is a rest; those of the drawn token's log-probability first.
OF_TOKENS = [
    (policy_loss, STALE + "ratio clipped at 0.2 (PPO)", True),
    (importance_sampling, STALE + KEPT + "weighted by the ratio", False),
    (dual_clip, STALE + DUAL, True),
    (held_ratio, STALE + "ratio held within 0.8 to 1.28 (biased)", True),
    (k2_truncated, STALE + CUT, True),
    (in_float32, STALE + CUT, True),
    (masked, STALE + "ratio masked outside 0.5 to 5 (biased there)", True),
    (masked_above, STALE + "ratio masked above 2 (biased there)", True),
    (decoupled, STALE + "weighted by the ratio", True),
    (sampler_and_old, STALE + CUT, True),
    (k3, "forward KL from stale tokens, " + NO_RATIO, True),
    (forward_weights, "forward KL from stale tokens, weighted by the ratio", True),
    (
        one_ratio_too_many,
        "forward KL from stale tokens, weighted by the ratio to the power 2 (biased)",
        False,
    ),
    (with_baseline, STALE + CUT, False),
    (half_kept, "reverse KL − 0.5 × reverse KL to the behaviour", False),
    (k1, "−1 × forward KL to the behaviour", False),
    (gated, STALE + "weighted by a function of the ratio (biased)", True),
    (masked_by_difference, "none of these", True),
    (clipped_with_penalty, "none of these", False),
]
OF_LOGITS = [
    (logged_only, "reverse KL", True),
    (with_penalty, "reverse KL + 0.1 × reverse KL to the behaviour", False),
    (whole_times_ratio, STALE + "weighted by the ratio", True),
    (old_weights, STALE + KEPT + "no ratio", False),
    (of_a_batch, STALE + CUT, True),
]


# --- whole texts: log-probabilities (T,) of their tokens ---------------------------------


def costs(log_p, log_q):
    return (log_p - log_q).detach()


def to_go(costs):
    return costs.flip(-1).cumsum(-1).flip(-1)


def token_ratios(student_lp, old_lp, teacher_lp):
    return ((student_lp - old_lp).exp() * costs(student_lp, teacher_lp)).sum()


def token_ratios_truncated(student_lp, old_lp, teacher_lp):
    ratio = (student_lp - old_lp).exp().clamp(max=2).detach()
    return (ratio * costs(student_lp, teacher_lp) * student_lp).sum()


def texts_without_ratio(student_lp, old_lp, teacher_lp):
    return (costs(student_lp, teacher_lp) * student_lp).sum()


def texts_with_kept_costs(student_lp, old_lp, teacher_lp):
    return ((student_lp - old_lp).exp() * costs(old_lp, teacher_lp)).sum()


def kept_costs_to_go(student_lp, old_lp, teacher_lp):
    return ((student_lp - old_lp).exp() * to_go(costs(old_lp, teacher_lp))).sum()


def product_truncated(student_lp, old_lp, teacher_lp):
    product = (student_lp - old_lp).sum().exp().clamp(max=2).detach()
    return (product * to_go(costs(student_lp, teacher_lp)) * student_lp).sum()


def mean_ratio_clipped(student_lp, old_lp, teacher_lp):
    ratio = (student_lp - old_lp).mean().exp()
    advantage = -costs(student_lp, teacher_lp).sum()
    return torch.max(-ratio * advantage, -ratio.clamp(1 - 3e-4, 1 + 4e-4) * advantage)


def each_cost_its_product(student_lp, old_lp, teacher_lp):
    product = (student_lp - old_lp).cumsum(-1).exp().detach()
    return (to_go(product * costs(student_lp, teacher_lp)) * student_lp).sum()


def products_so_far(student_lp, old_lp, teacher_lp):
    product = (student_lp - old_lp).cumsum(-1).exp().detach()
    return (product * costs(student_lp, teacher_lp) * student_lp).sum()


def clipped_mean(student_lp, old_lp, teacher_lp):
    advantage = -costs(student_lp, teacher_lp)
    return surrogate(student_lp, old_lp, advantage).mean()


def past_ratio(student_lp, old_lp, teacher_lp):
    """A ratio that is one place late: no level that is known."""
    late = (student_lp - old_lp).roll(1).exp().detach()
    return (late * costs(student_lp, teacher_lp) * student_lp).sum()


LOCAL, WHOLE = (
    "sum of local reverse KLs from stale texts, ",
    "sequence reverse KL from stale texts, ",
)
OF_TEXTS = [  # loss, verdict, level
    (token_ratios, LOCAL + "weighted by the ratio of the token", "token"),
    (token_ratios_truncated, LOCAL + CUT.replace("ratio", "ratio of the token"), "token"),
    (texts_without_ratio, LOCAL + "no ratio", "none"),
    (texts_with_kept_costs, LOCAL + KEPT + "weighted by the ratio of the token", "token"),
    (kept_costs_to_go, WHOLE + KEPT + "weighted by the ratio of the token", "token"),
    (
        product_truncated,
        WHOLE + "product of the ratios over the text truncated at 2 (biased where it is > 2)",
        "sequence",
    ),
    (
        mean_ratio_clipped,
        f"1/T × {WHOLE}product of the ratios over the text to the power 1/T clipped at "
        "0.0003 and 0.0004 (PPO)",
        "mean",
    ),
    (
        each_cost_its_product,
        WHOLE + "weighted by the product of the ratios up to each cost",
        "each",
    ),
    (products_so_far, LOCAL + "weighted by the product of the ratios up to the token", "prefix"),
    (clipped_mean, f"1/T × {LOCAL}ratio of the token clipped at 0.2 (PPO)", "token"),
    (past_ratio, LOCAL[:-2] + ", in a way that is not known", None),
]
