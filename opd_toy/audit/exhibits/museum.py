"""Losses as they are written in practice, each wrong one beside a right one (chapter 7).

The code is plain torch and knows nothing of this package.  A loss of one position takes
student logits (V,), teacher logits (V,) and the token drawn, a 0-dim int64 tensor; a loss
of a whole text takes logits (T, V), (T, V), tokens (T,) and, where it has one, a mask (T,)
that is 1 where a token counts.  All return a scalar to descend, in nats.  A loss that
has the full vocabulary ignores the token.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

# ---- the sampled KL as a loss ----


def k1_as_loss(student_logits, teacher_logits, token):
    log_p = F.log_softmax(student_logits, dim=-1)
    log_q = F.log_softmax(teacher_logits, dim=-1).detach()
    return log_p[token] - log_q[token]


def policy_gradient(student_logits, teacher_logits, token):
    log_p = F.log_softmax(student_logits, dim=-1)
    log_q = F.log_softmax(teacher_logits, dim=-1).detach()
    return (log_p[token] - log_q[token]).detach() * log_p[token]


def k3_as_loss(student_logits, teacher_logits, token):
    log_p = F.log_softmax(student_logits, dim=-1)
    log_q = F.log_softmax(teacher_logits, dim=-1).detach()
    log_ratio = log_q[token] - log_p[token]
    return log_ratio.exp() - 1 - log_ratio


def k2_as_loss(student_logits, teacher_logits, token):
    log_p = F.log_softmax(student_logits, dim=-1)
    log_q = F.log_softmax(teacher_logits, dim=-1).detach()
    return (log_p[token] - log_q[token]) ** 2 / 2


# ---- the policy gradient ----


def kl_as_advantage(student_logits, teacher_logits, token):
    log_p = F.log_softmax(student_logits, dim=-1)
    log_q = F.log_softmax(teacher_logits, dim=-1).detach()
    kl = (log_p.exp() * (log_p - log_q)).sum()
    return kl.detach() * log_p[token]


def reverse_kl(student_logits, teacher_logits, token):
    log_p = F.log_softmax(student_logits, dim=-1)
    log_q = F.log_softmax(teacher_logits, dim=-1).detach()
    return (log_p.exp() * (log_p - log_q)).sum()


def without_stop_gradient(student_logits, teacher_logits, token):
    log_p = F.log_softmax(student_logits, dim=-1)
    log_q = F.log_softmax(teacher_logits, dim=-1).detach()
    return (log_p[token] - log_q[token]) * log_p[token]


def clamped_policy_gradient(student_logits, teacher_logits, token):
    log_p = F.log_softmax(student_logits, dim=-1)
    log_q = F.log_softmax(teacher_logits, dim=-1).detach()
    return (log_p[token] - log_q[token]).clamp(-1, 1).detach() * log_p[token]


# ---- divergences over the full vocabulary ----


def swapped_direction(student_logits, teacher_logits, token):
    log_p = F.log_softmax(student_logits, dim=-1)
    log_q = F.log_softmax(teacher_logits, dim=-1).detach()
    return F.kl_div(log_p, log_q, reduction="sum", log_target=True)


def kl_div_of_student(student_logits, teacher_logits, token):
    log_p = F.log_softmax(student_logits, dim=-1)
    log_q = F.log_softmax(teacher_logits, dim=-1).detach()
    return F.kl_div(log_q, log_p, reduction="sum", log_target=True)


def jsd_near_its_end(student_logits, teacher_logits, token):
    beta = 0.999
    log_p = F.log_softmax(student_logits, dim=-1)
    log_q = F.log_softmax(teacher_logits, dim=-1).detach()
    log_m = torch.logaddexp(log_p + math.log(1 - beta), log_q + math.log(beta))
    return (beta * log_q.exp() * (log_q - log_m) + (1 - beta) * log_p.exp() * (log_p - log_m)).sum()


def tail_dropped(student_logits, teacher_logits, token):
    log_p = F.log_softmax(student_logits, dim=-1)
    log_q = F.log_softmax(teacher_logits, dim=-1).detach()
    top = log_q.topk(2).indices
    return (log_p[top].exp() * (log_p[top] - log_q[top])).sum()


def tail_as_one_bucket(student_logits, teacher_logits, token):
    log_p = F.log_softmax(student_logits, dim=-1)
    log_q = F.log_softmax(teacher_logits, dim=-1).detach()
    top = log_q.topk(2).indices
    tails = [
        x.scatter(-1, top, float("-inf")).logsumexp(dim=-1, keepdim=True) for x in (log_p, log_q)
    ]
    log_p, log_q = torch.cat([log_p[top], tails[0]]), torch.cat([log_q[top], tails[1]])
    return (log_p.exp() * (log_p - log_q)).sum()


def k3_clamped(student_logits, teacher_logits, token):
    log_p = F.log_softmax(student_logits, dim=-1)
    log_q = F.log_softmax(teacher_logits, dim=-1).detach()
    log_ratio = log_q[token] - log_p[token]
    return (log_ratio.exp() - 1 - log_ratio).clamp(max=10)


def forward_kl(student_logits, teacher_logits, token):
    log_p = F.log_softmax(student_logits, dim=-1)
    log_q = F.log_softmax(teacher_logits, dim=-1).detach()
    return (log_q.exp() * (log_q - log_p)).sum()


def tempered_without_square(student_logits, teacher_logits, token):
    temperature = 2.0
    log_p = F.log_softmax(student_logits / temperature, dim=-1)
    log_q = F.log_softmax(teacher_logits / temperature, dim=-1).detach()
    return (log_q.exp() * (log_q - log_p)).sum()


def tempered(student_logits, teacher_logits, token):
    temperature = 2.0
    log_p = F.log_softmax(student_logits / temperature, dim=-1)
    log_q = F.log_softmax(teacher_logits / temperature, dim=-1).detach()
    return temperature**2 * (log_q.exp() * (log_q - log_p)).sum()


# ---- whole texts ----


def sum_over_tokens(student_logits, teacher_logits, tokens):
    log_p = F.log_softmax(student_logits, dim=-1)
    log_q = F.log_softmax(teacher_logits, dim=-1).detach()
    return (log_p.exp() * (log_p - log_q)).sum()


def mean_over_tokens(student_logits, teacher_logits, tokens):
    log_p = F.log_softmax(student_logits, dim=-1)
    log_q = F.log_softmax(teacher_logits, dim=-1).detach()
    return (log_p.exp() * (log_p - log_q)).sum(dim=-1).mean()


def padding_in_reward_to_go(student_logits, teacher_logits, tokens, mask):
    log_p = F.log_softmax(student_logits, dim=-1).gather(-1, tokens[:, None]).squeeze(-1)
    log_q = F.log_softmax(teacher_logits, dim=-1).gather(-1, tokens[:, None]).squeeze(-1)
    cost = (log_p - log_q).detach()
    reward_to_go = cost.flip(0).cumsum(0).flip(0)
    return (mask * reward_to_go * log_p).sum()


def mask_forgotten_in_the_return(student_logits, teacher_logits, tokens, mask):
    log_p = F.log_softmax(student_logits, dim=-1).gather(-1, tokens[:, None]).squeeze(-1)
    log_q = F.log_softmax(teacher_logits, dim=-1).gather(-1, tokens[:, None]).squeeze(-1)
    cost = mask * (log_p - log_q).detach()
    reward_to_go = cost.flip(0).cumsum(0).flip(0)
    return (reward_to_go * log_p).sum()


def masked_reward_to_go(student_logits, teacher_logits, tokens, mask):
    log_p = F.log_softmax(student_logits, dim=-1).gather(-1, tokens[:, None]).squeeze(-1)
    log_q = F.log_softmax(teacher_logits, dim=-1).gather(-1, tokens[:, None]).squeeze(-1)
    cost = mask * (log_p - log_q).detach()
    reward_to_go = cost.flip(0).cumsum(0).flip(0)
    return (mask * reward_to_go * log_p).sum()


# ---- the exhibits ----


@dataclass(frozen=True, kw_only=True)
class Exhibit:
    """A wrong loss beside a right one; ``level`` is "token" or "sequence".

    ``mistake`` says in one sentence what the wrong one does in expectation, ``consequence``
    what becomes of training.
    """

    name: str
    title: str
    level: str = "token"
    wrong: Callable
    right: Callable
    mistake: str
    consequence: str


ON_TOKENS = (
    Exhibit(
        name="k1",
        title="k1 as a loss",
        wrong=k1_as_loss,
        right=policy_gradient,
        mistake="The log-ratio of the drawn token is differentiated: what is left is the score, "
        "whose expected gradient is zero.",
        consequence="Training only wanders; the value it reports is the reverse KL all the same.",
    ),
    Exhibit(
        name="k3",
        title="k3 as a loss",
        wrong=k3_as_loss,
        right=k2_as_loss,
        mistake="Its value estimates the reverse KL, but its expected gradient is that of the "
        "forward KL.",
        consequence="A student that cannot be the teacher covers its modes where it was meant to "
        "seek one; a token rare under the student gives a rare and huge gradient.",
    ),
    Exhibit(
        name="advantage",
        title="KL as the advantage",
        wrong=kl_as_advantage,
        right=reverse_kl,
        mistake="The full-vocabulary KL is the same number whichever token is drawn, so as an "
        "advantage its expected gradient is zero.",
        consequence="Training only wanders, the more the further the student is from the teacher.",
    ),
    Exhibit(
        name="stop_gradient",
        title="Forgotten stop-gradient",
        wrong=without_stop_gradient,
        right=policy_gradient,
        mistake="The log-ratio is differentiated too, which adds an entropy bonus: in expectation "
        "the loss is the reverse KL less the student's entropy.",
        consequence="Descent ends not at the teacher q but at the square root of q, renormalised: "
        "the teacher at temperature 2.",
    ),
    Exhibit(
        name="direction",
        title="Swapped direction",
        wrong=swapped_direction,
        right=kl_div_of_student,
        mistake="F.kl_div(a, b) is KL(b‖a): with the student first it is the forward KL and not "
        "the reverse.",
        consequence="A student that cannot be the teacher covers its modes where it was meant to "
        "seek one.",
    ),
    Exhibit(
        name="beta",
        title="β near its end",
        wrong=jsd_near_its_end,
        right=reverse_kl,
        mistake="JSD(β = 0.999) has nearly the direction of the reverse KL and about "
        "1 − β = 0.001 of its strength; at β = 1 libraries switch to the reverse KL itself.",
        consequence="At a learning rate that suits β = 1 nothing moves.",
    ),
    Exhibit(
        name="tail",
        title="Dropped top-K tail",
        wrong=tail_dropped,
        right=tail_as_one_bucket,
        mistake="The sum over the teacher's top 2 alone is no divergence: its gradient does not "
        "vanish where student and teacher agree, and mass outside the two costs nothing.",
        consequence="Descent ends with each of the two at q/e and everything else on tokens that "
        "the teacher hardly uses.",
    ),
    Exhibit(
        name="value_clamp",
        title="Clamped value of k3",
        wrong=k3_clamped,
        right=forward_kl,
        mistake="k3 is clamped at 10: a token drawn with log(q/p) beyond 2.61 has no gradient, so "
        "that the forward KL is followed only while the two are close.",
        consequence="Where the student is most wrong, its own draws teach it nothing; the forward "
        "KL over the full vocabulary needs no clamp, for its gradient p − q is bounded.",
    ),
    Exhibit(
        name="ratio_clamp",
        title="Clamped log-ratio",
        wrong=clamped_policy_gradient,
        right=policy_gradient,
        mistake="The policy gradient's log-ratio is clamped to ±1: far from the teacher the "
        "expected gradient is biased, and only within the clamp it is the reverse KL's.",
        consequence="The tokens that are most wrong count for less than they should, and training "
        "takes another way; it ends at the teacher all the same.",
    ),
    Exhibit(
        name="temperature",
        title="Forgotten T² factor",
        wrong=tempered_without_square,
        right=tempered,
        mistake="At temperature T the gradient shrinks by about 1/T²; without the factor it is, "
        "at T = 2, a quarter of what it should be.",
        consequence="The learning rate, and the weight beside any other loss, mean something else "
        "at every temperature.",
    ),
)
ON_TEXTS = (
    Exhibit(
        name="sum",
        title="Sum over tokens",
        level="sequence",
        wrong=sum_over_tokens,
        right=mean_over_tokens,
        mistake="The local KLs are summed over the text and not averaged: the gradient is T times "
        "the mean's.",
        consequence="A text twice as long makes a step about twice as large; a learning rate that "
        "suits short texts is too large for long ones.",
    ),
    Exhibit(
        name="padding",
        title="Padding in the reward-to-go",
        level="sequence",
        wrong=padding_in_reward_to_go,
        right=masked_reward_to_go,
        mistake="The costs of masked positions are summed into the returns of the tokens before "
        "them.",
        consequence="What the models say about padding, or about a tool's output, is charged to "
        "the text: noise at best, and a price on ending early or late.",
    ),
    Exhibit(
        name="mask",
        title="Mask forgotten in the return",
        level="sequence",
        wrong=mask_forgotten_in_the_return,
        right=masked_reward_to_go,
        mistake="The mask is put on the costs and not on the returns: a masked token inside the "
        "text gets the return of what follows it.",
        consequence="The student is trained on tokens that it has not written, such as a tool's "
        "output.",
    ),
)
EXHIBITS = {exhibit.name: exhibit for exhibit in ON_TOKENS + ON_TEXTS}
