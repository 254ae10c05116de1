"""The notes' sections 4 to 6 put to the auditor: each claim as losses, and what their audits must say.

The code is plain torch and knows nothing of this package, so that an audit which
says what the claim says has derived it again, by enumeration and autograd alone.  A
loss of one position takes logits (V,), (V,) and the token drawn; a loss of a whole text
takes logits (T, V), (T, V) and tokens (T,).  Each returns a scalar to descend, in nats.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

# ---- one position ----


def log_probabilities(student_logits, teacher_logits):
    return student_logits.log_softmax(-1), teacher_logits.log_softmax(-1).detach()


def k1(student_logits, teacher_logits, token):
    log_p, log_q = log_probabilities(student_logits, teacher_logits)
    return log_p[token] - log_q[token]


def k2(student_logits, teacher_logits, token):
    return k1(student_logits, teacher_logits, token) ** 2 / 2


def k3(student_logits, teacher_logits, token):
    log_ratio = k1(student_logits, teacher_logits, token)
    return (-log_ratio).exp() - 1 + log_ratio


def score(student_logits, teacher_logits, token):
    return student_logits.log_softmax(-1)[token]


def weighted_score(weight, student_logits, teacher_logits, token):
    """The policy gradient: a weight, detached, times the score of the token drawn."""
    return weight(student_logits, teacher_logits, token).detach() * score(
        student_logits, teacher_logits, token
    )


def policy_gradient(*inputs):
    return weighted_score(k1, *inputs)


def k2_as_reward(*inputs):
    return weighted_score(k2, *inputs)


def k3_as_reward(*inputs):
    return weighted_score(k3, *inputs)


def full_reverse_kl(student_logits, teacher_logits, token):
    log_p, log_q = log_probabilities(student_logits, teacher_logits)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def full_forward_kl(student_logits, teacher_logits, token):
    log_p, log_q = log_probabilities(student_logits, teacher_logits)
    return (log_q.exp() * (log_q - log_p)).sum(-1)


def reverse_kl_formula(student_logits, teacher_logits, token):
    """No divergence at all: logits times the notes' formula p (log(p/q) - KL), detached."""
    log_p, log_q = log_probabilities(student_logits, teacher_logits)
    kl = (log_p.exp() * (log_p - log_q)).sum()
    return ((log_p.exp() * (log_p - log_q - kl)).detach() * student_logits).sum()


def kl_as_advantage(*inputs):
    return weighted_score(full_reverse_kl, *inputs)


def kl_as_baseline(*inputs):
    return weighted_score(lambda *i: k1(*i) - full_reverse_kl(*i), *inputs)


def constant_baseline(*inputs):
    return weighted_score(lambda *i: k1(*i) - 0.2502, *inputs)


def baseline_of_minus_one(*inputs):
    return weighted_score(lambda *i: k1(*i) + 1, *inputs)


def truncated(*inputs):
    return weighted_score(lambda *i: k1(*i).clamp(-1, 1), *inputs)


def importance_weighted(*inputs):
    """For tokens that the teacher has drawn: p/q in front."""
    return weighted_score(lambda *i: k1(*i).exp() * k1(*i), *inputs)


def clipped_importance_weight(*inputs):
    return weighted_score(lambda *i: k1(*i).exp().clamp(max=1.2) * k1(*i), *inputs)


def jsd(beta, student_logits, teacher_logits):
    log_p, log_q = log_probabilities(student_logits, teacher_logits)
    log_m = ((1 - beta) * log_p.exp() + beta * log_q.exp()).log()
    return (beta * log_q.exp() * (log_q - log_m) + (1 - beta) * log_p.exp() * (log_p - log_m)).sum()


def jsd_at_three_tenths(student_logits, teacher_logits, token):
    return jsd(0.3, student_logits, teacher_logits)


def jsd_near_0_over_beta(student_logits, teacher_logits, token):
    return jsd(0.001, student_logits, teacher_logits) / 0.001


def jsd_near_1_over_rest(student_logits, teacher_logits, token):
    return jsd(0.999, student_logits, teacher_logits) / 0.001


def alpha_divergence(student_logits, teacher_logits, token):
    alpha = 0.5
    log_p, log_q = log_probabilities(student_logits, teacher_logits)
    return ((alpha * log_q + (1 - alpha) * log_p).exp().sum() - 1) / (alpha * (alpha - 1))


def skewed_forward_kl(student_logits, teacher_logits, token):
    log_p, log_q = log_probabilities(student_logits, teacher_logits)
    return (log_q.exp() * (log_q - (0.1 * log_q.exp() + 0.9 * log_p.exp()).log())).sum()


def skewed_reverse_kl(student_logits, teacher_logits, token):
    log_p, log_q = log_probabilities(student_logits, teacher_logits)
    return (log_p.exp() * (log_p - (0.1 * log_p.exp() + 0.9 * log_q.exp()).log())).sum()


def on_top_two(finish, student_logits, teacher_logits):
    """sum p log(p/q) over the teacher's two likeliest tokens, after ``finish`` has put the others right."""
    log_p, log_q = log_probabilities(student_logits, teacher_logits)
    top = log_q.topk(2).indices
    log_p, log_q = finish(log_p, top), finish(log_q, top)
    return (log_p.exp() * (log_p - log_q)).sum()


def top_two_renormalized(student_logits, teacher_logits, token):
    return on_top_two(lambda logs, top: logs[top].log_softmax(-1), student_logits, teacher_logits)


def top_two_dropped(student_logits, teacher_logits, token):
    return on_top_two(lambda logs, top: logs[top], student_logits, teacher_logits)


def top_two_and_tail(student_logits, teacher_logits, token):
    tail = lambda logs, top: logs.scatter(-1, top, -torch.inf).logsumexp(-1, keepdim=True)
    return on_top_two(
        lambda logs, top: torch.cat([logs[top], tail(logs, top)]), student_logits, teacher_logits
    )


# ---- whole texts ----


def drawn(student_logits, teacher_logits, tokens):
    """log p (T,) of the tokens drawn, and their costs log p - log q, detached."""
    log_p, log_q = (
        logs.gather(-1, tokens[:, None])[:, 0]
        for logs in log_probabilities(student_logits, teacher_logits)
    )
    return log_p, (log_p - log_q).detach()


def later(costs):
    """For each position the sum of the costs after it."""
    return costs.flip(0).cumsum(0).flip(0) - costs


def local_kls(student_logits, teacher_logits):
    return full_reverse_kl(student_logits, teacher_logits, None)


def sum_of_costs(student_logits, teacher_logits, tokens):
    log_p, log_q = log_probabilities(student_logits, teacher_logits)
    return (log_p - log_q).gather(-1, tokens[:, None]).sum()


def own_cost(student_logits, teacher_logits, tokens):
    log_p, costs = drawn(student_logits, teacher_logits, tokens)
    return (costs * log_p).sum()


def reward_to_go(student_logits, teacher_logits, tokens):
    log_p, costs = drawn(student_logits, teacher_logits, tokens)
    return ((costs + later(costs)) * log_p).sum()


def half_discounted(student_logits, teacher_logits, tokens):
    log_p, costs = drawn(student_logits, teacher_logits, tokens)
    shrinking = 0.5 ** torch.arange(len(costs), dtype=costs.dtype)
    return ((shrinking * costs + later(shrinking * costs)) / shrinking * log_p).sum()


def full_return(student_logits, teacher_logits, tokens):
    log_p, costs = drawn(student_logits, teacher_logits, tokens)
    return (costs.sum() * log_p).sum()


def past_costs_alone(student_logits, teacher_logits, tokens):
    log_p, costs = drawn(student_logits, teacher_logits, tokens)
    return ((costs.cumsum(0) - costs) * log_p).sum()


def constant_off_the_return(student_logits, teacher_logits, tokens):
    log_p, costs = drawn(student_logits, teacher_logits, tokens)
    return ((costs + later(costs) - 0.7) * log_p).sum()


def on_policy_gkd(student_logits, teacher_logits, tokens):
    return local_kls(student_logits, teacher_logits).sum()


def later_kls_alone(student_logits, teacher_logits, tokens):
    log_p, _ = drawn(student_logits, teacher_logits, tokens)
    return (later(local_kls(student_logits, teacher_logits)).detach() * log_p).sum()


def rao_blackwell_return(student_logits, teacher_logits, tokens):
    return on_policy_gkd(student_logits, teacher_logits, tokens) + later_kls_alone(
        student_logits, teacher_logits, tokens
    )


def ends_well(tokens):
    """A verifier's reward: 1 for a text whose last token is the first of the vocabulary."""
    return float(tokens[-1] == 0)


def from_rewards(weights, student_logits, teacher_logits, tokens):
    """Ascent on rewards, written as a cost: minus each token's return, times its score."""
    log_p, _ = drawn(student_logits, teacher_logits, tokens)
    rewards = weights(torch.zeros(len(tokens), dtype=torch.float64), ends_well(tokens))
    return -((rewards + later(rewards)) * log_p).sum()


def reward_at_the_end(student_logits, teacher_logits, tokens):
    return from_rewards(
        lambda rewards, R: torch.cat([rewards[1:], rewards.new_tensor([R])]),
        student_logits,
        teacher_logits,
        tokens,
    )


def reward_at_every_token(student_logits, teacher_logits, tokens):
    return from_rewards(lambda rewards, R: rewards + R, student_logits, teacher_logits, tokens)


def cost_and_reward(student_logits, teacher_logits, tokens):
    log_p, costs = drawn(student_logits, teacher_logits, tokens)
    return ((costs - 0.5 * ends_well(tokens)) * log_p).sum()


# ---- the claims ----


@dataclass(frozen=True)
class Audit:
    """An audit and its outcome: ``verdict`` is what ``optimises`` must say, ``also`` other fields of the report.

    ``level`` is "token" or "sequence", ``options`` the keyword arguments.  Numbers in
    ``also`` are given to four decimals; of a dict only the keys named here count.
    """

    loss: Callable
    verdict: str
    level: str = "token"
    options: dict = field(default_factory=dict)
    also: dict = field(default_factory=dict)


def _of_text(loss, verdict, also=None, **options):
    return Audit(loss, verdict, "sequence", options, also or {})


LOCAL, WHOLE = "sum of local reverse KLs", "sequence reverse KL"
OWN, ALL_LATER = ((1, 0, 0), (0, 1, 0), (0, 0, 1)), ((1, 1, 1), (0, 1, 1), (0, 0, 1))
PG = Audit(
    policy_gradient,
    "reverse KL",
    also={"variance": 0.4650, "expected_gradient": (-0.3857, -0.0811, 0.4668)},
)
GKD = Audit(
    full_reverse_kl,
    "reverse KL",
    also={"variance": 0.0, "expected_gradient": (-0.3857, -0.0811, 0.4668)},
)
OWN_COST = _of_text(own_cost, LOCAL, {"credit": OWN, "unbiased_for": {LOCAL: "1"}})
TO_GO = _of_text(reward_to_go, WHOLE, {"credit": ALL_LATER, "unbiased_for": {WHOLE: "1"}})
RAO_BLACKWELL = _of_text(rao_blackwell_return, WHOLE, {"unbiased_for": {WHOLE: "1"}})
ON_POLICY_GKD = _of_text(on_policy_gkd, LOCAL, {"credit": OWN})

CLAIMS = {
    # section 4
    "k1-expectation": (Audit(k1, "zero", also={"value_is": "KL(p‖q)"}),),
    "pg-logit-gradient": (PG,),
    "three-token-pg": (PG,),
    "pg-variance": (PG, GKD),
    "reward-mixing": (_of_text(cost_and_reward, f"{LOCAL} − 0.5 × expected reward", reward=ends_well),),
    # section 5
    "rkl-baseline-structure": (Audit(reverse_kl_formula, "reverse KL"),),
    "kl-asymmetric": (GKD, Audit(full_forward_kl, "forward KL", also={"expected_gradient": (-0.5, 0.1, 0.4)})),
    "pg-unbiased-local": (PG,),
    "score-mean-zero": (Audit(score, "zero", also={"with_other_tokens": "−1 × forward KL"}),),
    "full-vocab-advantage-is-zero": (Audit(kl_as_advantage, "zero", also={"variance": 0.2832}),),
    "open-question-full-vocab-pg": (Audit(kl_as_baseline, "reverse KL"), RAO_BLACKWELL),
    "improve-objective": (
        Audit(full_forward_kl, "forward KL"), GKD, Audit(jsd_at_three_tenths, "JSD(β = 0.3)"), Audit(alpha_divergence, "α-divergence(α = 0.5)"),
        Audit(skewed_forward_kl, "forward KL with skew 0.1"), Audit(skewed_reverse_kl, "reverse KL with skew 0.1"),
    ),
    "improve-estimator": (
        Audit(constant_baseline, "reverse KL"), Audit(importance_weighted, "reverse KL", options={"drawn_from": "teacher"}),
        Audit(clipped_importance_weight, "none of these", options={"drawn_from": "teacher"}),
        Audit(truncated, "reverse KL while the two are close", also={"holds_everywhere": False}),
    ),
    "baseline-does-not-always-help": (
        PG, Audit(kl_as_baseline, "reverse KL", also={"variance": 0.5384}), Audit(constant_baseline, "reverse KL", also={"variance": 0.4261}),
        Audit(baseline_of_minus_one, "reverse KL", also={"variance": 1.3952}),
    ),
    "k-estimators-as-loss": (Audit(k1, "zero"), Audit(k2, "reverse KL"), Audit(k3, "forward KL")),
    "k-estimators-as-reward": (PG, Audit(k2_as_reward, "none of these"), Audit(k3_as_reward, "reverse KL − forward KL")),
    "jsd-endpoints": (
        Audit(jsd_near_0_over_beta, "1000 × JSD(β = 0.001)", also={"nearest": {"name": "forward KL"}}),
        Audit(jsd_near_1_over_rest, "1000 × JSD(β = 0.999)", also={"nearest": {"name": "reverse KL"}}),
    ),
    # section 6
    "sequence-chain-rule": (_of_text(sum_of_costs, "zero", {"value_is": WHOLE}),),
    "sequence-score-identity": (_of_text(sum_of_costs, "zero"),),
    "past-terms-vanish": (_of_text(past_costs_alone, "zero"), _of_text(full_return, WHOLE, {"carried": ((1, 1, 1),) * 3})),
    "reward-to-go": (TO_GO,),
    "token-level-bias": (OWN_COST,),
    "two-meanings-of-unbiased": (OWN_COST,),
    "discounted-return": (OWN_COST, _of_text(half_discounted, "reverse KL with a discounted return, γ = 0.5", {"unbiased_for": {}}), TO_GO),
    "bias-variance": (OWN_COST, _of_text(half_discounted, "reverse KL with a discounted return, γ = 0.5"), TO_GO),
    "pg-zero-gamma-is-gkd": (OWN_COST, ON_POLICY_GKD),
    "gkd-future-coupling": (ON_POLICY_GKD, _of_text(later_kls_alone, "reverse KL with a return of the later costs alone"), RAO_BLACKWELL),
    "rao-blackwell-return": (RAO_BLACKWELL,),
    "classical-rl": (_of_text(constant_off_the_return, WHOLE),),
    "rlvr-terminal": (_of_text(reward_at_the_end, "−1 × expected reward", reward=ends_well),),
    "rlvr-broadcast": (_of_text(reward_at_every_token, "−1 × expected reward, token t × (T − t + 1)", reward=ends_well),),
    "top-k": (
        Audit(top_two_renormalized, "reverse KL on the teacher's top 2, renormalized", also={"expected_gradient": (-0.3980, 0.3980, 0.0)}),
        Audit(top_two_dropped, "reverse KL on the teacher's top 2, tail dropped", also={"expected_gradient": (-0.1248, 0.3103, -0.1855)}),
        Audit(top_two_and_tail, "reverse KL on the teacher's top 2, tail as one token"),
    ),
}  # fmt: skip
