"""The losses of the notes' sections 4 to 6; ``notes_claims`` has what each must be found to be.

The code is plain torch and knows nothing of the engine, so that an audit which says what
a claim says has derived it again, by enumeration and autograd alone.  A loss of one
position takes logits (V,), (V,) and the token drawn; a loss of a whole text takes logits
(T, V), (T, V) and tokens (T,).  Each returns a scalar to descend, in nats.
"""

import torch

from opd_toy.audit.exhibits.museum import k1_as_loss as k1
from opd_toy.audit.exhibits.museum import k2_as_loss as k2
from opd_toy.audit.exhibits.museum import k3_as_loss as k3

# ---- one position ----


def log_probabilities(student_logits, teacher_logits):
    return student_logits.log_softmax(-1), teacher_logits.log_softmax(-1).detach()


def score(student_logits, teacher_logits, token):
    return student_logits.log_softmax(-1)[token]


def weighted_score(weight, student_logits, teacher_logits, token):
    """The policy gradient: a weight, detached, times the score of the token drawn."""
    inputs = student_logits, teacher_logits, token
    return weight(*inputs).detach() * score(*inputs)


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
    """Σ p log(p/q) over what ``finish(log, top)`` makes of the teacher's two likeliest tokens."""
    log_p, log_q = log_probabilities(student_logits, teacher_logits)
    top = log_q.topk(2).indices
    log_p, log_q = finish(log_p, top), finish(log_q, top)
    return (log_p.exp() * (log_p - log_q)).sum()


def top_two_renormalized(student_logits, teacher_logits, token):
    return on_top_two(lambda logs, top: logs[top].log_softmax(-1), student_logits, teacher_logits)


def top_two_dropped(student_logits, teacher_logits, token):
    return on_top_two(lambda logs, top: logs[top], student_logits, teacher_logits)


def top_two_and_tail(student_logits, teacher_logits, token):
    def with_tail(logs, top):
        others = logs.scatter(-1, top, -torch.inf).logsumexp(-1, keepdim=True)
        return torch.cat([logs[top], others])

    return on_top_two(with_tail, student_logits, teacher_logits)


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
    shrinking = 0.5 ** torch.arange(len(costs))
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
    text = student_logits, teacher_logits, tokens
    return on_policy_gkd(*text) + later_kls_alone(*text)


def ends_well(tokens):
    """A verifier's reward: 1 for a text whose last token is the first of the vocabulary."""
    return float(tokens[-1] == 0)


def from_rewards(rewards, student_logits, teacher_logits, tokens):
    """Ascent on rewards (T,), written as a cost: minus each token's return, times its score."""
    log_p, _ = drawn(student_logits, teacher_logits, tokens)
    return -((rewards + later(rewards)) * log_p).sum()


def reward_at_the_end(student_logits, teacher_logits, tokens):
    rewards = torch.zeros(len(tokens))
    rewards[-1] = ends_well(tokens)
    return from_rewards(rewards, student_logits, teacher_logits, tokens)


def reward_at_every_token(student_logits, teacher_logits, tokens):
    rewards = torch.full((len(tokens),), ends_well(tokens))
    return from_rewards(rewards, student_logits, teacher_logits, tokens)


def cost_and_reward(student_logits, teacher_logits, tokens):
    log_p, costs = drawn(student_logits, teacher_logits, tokens)
    return ((costs - 0.5 * ends_well(tokens)) * log_p).sum()
