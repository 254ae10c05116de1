"""Losses on whole sequences as people write them, in plain torch, and what they optimise."""

import functools
from unittest import mock

import torch

from opd_toy.audit import audit_sequence
from opd_toy.audit.sequence import measure as sequence_level
from tests import audit_reports

NONE = "none of these"


def drawn(student, teacher, tokens):
    """log p and log q of the tokens drawn."""
    return (z.log_softmax(-1).gather(-1, tokens[..., None])[..., 0] for z in (student, teacher))


def kl(a, b):
    """KL at each position, of logits."""
    a, b = a.log_softmax(-1), b.log_softmax(-1)
    return (a.exp() * (a - b)).sum(-1)


def jsd(student, teacher, beta):
    p, q = student.log_softmax(-1), teacher.log_softmax(-1)
    m = ((1 - beta) * p.exp() + beta * q.exp()).log()
    return beta * (q.exp() * (q - m)).sum(-1) + (1 - beta) * (p.exp() * (p - m)).sum(-1)


def to_go(costs, gamma=1.0):
    total, returns = torch.zeros_like(costs[..., 0]), []
    for cost in reversed(costs.unbind(-1)):
        total = cost + gamma * total
        returns.append(total)
    return torch.stack(returns[::-1], -1)


def weighted(weights):
    """The policy gradient whose weights are a function of the detached log-ratios (T,)."""

    def loss(student, teacher, tokens):
        log_p, log_q = drawn(student, teacher, tokens)
        return (weights((log_p - log_q).detach()) * log_p).sum()

    return loss


def of_ratio(value):
    """A function of the log-ratios (T,), differentiated."""

    def loss(student, teacher, tokens):
        log_p, log_q = drawn(student, teacher, tokens)
        return value(log_p - log_q.detach())

    return loss


def at_every_position(cost, future=False):
    """The sum of a full-vocabulary cost, with its effect on later costs or without."""

    def loss(student, teacher, tokens):
        costs = cost(student, teacher.detach())
        log_p, _ = drawn(student, teacher, tokens)
        return costs.sum() + (future * (to_go(costs) - costs).detach() * log_p).sum()

    return loss


def forgotten_stop_gradient(student, teacher, tokens):
    log_p, log_q = drawn(student, teacher, tokens)
    return (to_go(log_p - log_q) * log_p).sum()


def kl_as_baseline(student, teacher, tokens):
    log_p, log_q = drawn(student, teacher, tokens)
    return ((to_go(log_p - log_q) - kl(student, teacher)).detach() * log_p).sum()


def kl_as_advantage(student, teacher, tokens):
    log_p, _ = drawn(student, teacher, tokens)
    return (kl(student, teacher).detach() * log_p).sum()


def mini_llm(student, teacher, tokens):
    """Exact own term, the mean of the later costs."""
    log_p, log_q = drawn(student, teacher, tokens)
    costs = (log_p - log_q).detach()
    later = torch.arange(len(costs) - 1, -1, -1).clamp(min=1)
    return kl(student, teacher).sum() + ((to_go(costs) - costs) / later * log_p).sum()


def importance_ratio(student, teacher, tokens):
    """PPO's form at the first step: the ratio is 1, its gradient is the score."""
    log_p, log_q = drawn(student, teacher, tokens)
    return ((log_p - log_p.detach()).exp() * to_go(log_p - log_q).detach()).mean()


def corrected_for_the_teacher(student, teacher, tokens):
    log_p, log_q = drawn(student, teacher, tokens)
    costs = (log_p - log_q).detach()
    return (costs.sum().exp() * to_go(costs) * log_p).sum()


def sft(student, teacher, tokens):
    return -drawn(student, teacher, tokens).__next__().sum()


def soft_labels(student, teacher):
    return -(teacher.softmax(-1) * student.log_softmax(-1)).sum()


def in_float32(student, teacher, tokens):
    log_p, log_q = drawn(student.float(), teacher.float(), tokens)
    return (to_go((log_p - log_q).detach(), 0.9) * log_p).sum()


def top_32(student, teacher):
    kept = teacher.topk(min(32, teacher.shape[-1])).indices
    return kl(student.gather(-1, kept), teacher.gather(-1, kept)).sum()


def positions(costs):
    return torch.arange(len(costs), dtype=torch.float64)


def immediate_costs(student, teacher, tokens):
    log_p, log_q = drawn(student, teacher, tokens)
    return (log_p - log_q).detach() * log_p


IMMEDIATE = weighted(lambda r: r)


REWARD_TO_GO = weighted(to_go)


FULL_RETURN = weighted(lambda r: r.sum())


# loss: (verdict, what it is unbiased for)
VERDICTS = {
    "policy gradient, immediate cost": (
        IMMEDIATE,
        "sum of local reverse KLs",
        {"sum of local reverse KLs": "1"},
    ),
    "reward-to-go": (REWARD_TO_GO, "sequence reverse KL", {"sequence reverse KL": "1"}),
    "discounted": (
        weighted(lambda r: to_go(r, 0.5)),
        "reverse KL with a discounted return, γ = 0.5",
        {},
    ),
    "discounted, mean": (
        weighted(lambda r: to_go(r, 0.9) / len(r)),
        "1/T × reverse KL with a discounted return, γ = 0.9",
        {},
    ),
    "full return": (FULL_RETURN, "sequence reverse KL", {"sequence reverse KL": "1"}),
    "GKD, sum": (
        at_every_position(kl),
        "sum of local reverse KLs",
        {"sum of local reverse KLs": "1"},
    ),
    "GKD, mean": (
        lambda student, teacher: kl(student, teacher).mean(),
        "1/T × sum of local reverse KLs",
        {"sum of local reverse KLs": "1/T"},
    ),
    "sequence k1": (of_ratio(lambda r: r.sum()), "zero", {}),
    "sequence k2": (
        of_ratio(lambda r: r.sum() ** 2 / 2),
        "sequence reverse KL",
        {"sequence reverse KL": "1"},
    ),
    "sequence k3": (
        of_ratio(lambda r: torch.expm1(-r.sum()) + r.sum()),
        "sequence forward KL",
        {"sequence forward KL": "1"},
    ),
    "token k3": (
        of_ratio(lambda r: (torch.expm1(-r) + r).sum()),
        "sum of local forward KLs",
        {"sum of local forward KLs": "1"},
    ),
    "k3 as cost": (
        weighted(lambda r: to_go(torch.expm1(-r) + r)),
        "sequence reverse KL − sum of local forward KLs",
        {},
    ),
    "Rao-Blackwell": (
        at_every_position(kl, future=True),
        "sequence reverse KL",
        {"sequence reverse KL": "1"},
    ),
    "forgotten stop-gradient": (
        forgotten_stop_gradient,
        "sequence reverse KL + sum of local negative entropies",
        {},
    ),
    "KL as advantage": (kl_as_advantage, "zero", {}),
    "KL as baseline": (kl_as_baseline, "sequence reverse KL", {"sequence reverse KL": "1"}),
    "constant baseline": (
        weighted(lambda r: to_go(r) - 0.7),
        "sequence reverse KL",
        {"sequence reverse KL": "1"},
    ),
    "baseline: mean of the sequence's returns": (
        weighted(lambda r: to_go(r) - to_go(r).mean()),
        "1/T × sequence reverse KL, the cost at t × (T − t)",
        {},
    ),
    "baseline: mean of the sequence's costs": (
        weighted(lambda r: r - r.mean()),
        "sum of local reverse KLs − 1/T × sequence reverse KL",
        {},
    ),
    "baseline: mean of its other costs": (
        weighted(lambda r: r - (r.sum() - r) / (len(r) - 1)),
        "T/(T − 1) × sum of local reverse KLs − 1/(T − 1) × sequence reverse KL",
        {},
    ),
    "standardized within the sequence": (
        weighted(lambda r: (to_go(r) - to_go(r).mean()) / (to_go(r).std(correction=0) + 1e-6)),
        NONE,
        {},
    ),
    "wrong direction": (
        weighted(lambda r: r.cumsum(0)),
        "sum of local reverse KLs",
        {"sum of local reverse KLs": "1"},
    ),
    "off by one": (
        weighted(lambda r: to_go(r) - r),
        "reverse KL with a return of the later costs alone",
        {},
    ),
    "discount from the start": (
        weighted(lambda r: to_go(r * 0.9 ** positions(r))),
        "sequence reverse KL, the cost at t × 0.9^(t − 1)",
        {},
    ),
    "discount on the score": (
        weighted(lambda r: to_go(r) * 0.9 ** positions(r)),
        "sequence reverse KL, the return at t × 0.9^(t − 1)",
        {},
    ),
    "discount from the start, in float32": (
        weighted(lambda r: to_go(r * 0.9 ** torch.arange(len(r)))),
        "sequence reverse KL, the cost at t × 0.9^(t − 1)",
        {},
    ),
    "two tokens ahead": (
        weighted(lambda r: r + torch.cat([r[1:], r.new_zeros(1)])),
        "reverse KL with a return over 2 tokens",
        {},
    ),
    "five tokens ahead": (
        weighted(lambda r: to_go(r) - torch.cat([to_go(r)[5:], r.new_zeros(min(5, len(r)))])),
        NONE,
        {},
    ),
    "mean return": (
        weighted(lambda r: to_go(r) / (len(r) - positions(r))),
        "reverse KL with the mean of the costs from the token on as its return",
        {},
    ),
    "mean of what comes later": (
        weighted(lambda r: (to_go(r) - r) / (len(r) - 1 - positions(r)).clamp(min=1)),
        "reverse KL with the mean of the later costs as its return",
        {},
    ),
    "over one token less": (
        weighted(lambda r: r / max(len(r) - 1, 1)),
        "1/(T − 1) × sum of local reverse KLs",
        {"sum of local reverse KLs": "1/(T − 1)"},
    ),
    "over one token more": (
        weighted(lambda r: to_go(r) / (len(r) + 1)),
        "1/(T + 1) × sequence reverse KL",
        {"sequence reverse KL": "1/(T + 1)"},
    ),
    "one token in T without a cost, and a mean": (
        weighted(lambda r: to_go(r) * (len(r) - 1) / len(r) ** 2),
        "(T − 1)/T² × sequence reverse KL",
        {"sequence reverse KL": "(T − 1)/T²"},
    ),
    "at temperature 2, future": (
        at_every_position(lambda p, q: kl(p / 2, q / 2), future=True),
        "expected sum of local reverse KL at temperature 2",
        {},
    ),
    "MiniLLM's length norm": (
        mini_llm,
        "reverse KL with its own cost and the mean of the later ones as its return",
        {},
    ),
    "clipped cost": (
        weighted(lambda r: to_go(r.clamp(-6, 6))),
        "sequence reverse KL while the two are close",
        {},
    ),
    "cost clipped early": (
        weighted(lambda r: to_go(r.clamp(-2, 2), 0.9)),
        "reverse KL with a discounted return, γ = 0.9 while the two are close",
        {},
    ),
    "squashed cost": (weighted(lambda r: to_go(r.tanh())), NONE, {}),
    "clipped return": (weighted(lambda r: to_go(r).clamp(-1, 1)), NONE, {}),
    "importance ratio of 1": (
        importance_ratio,
        "1/T × sequence reverse KL",
        {"sequence reverse KL": "1/T"},
    ),
    "forward KL": (
        lambda student, teacher: kl(teacher, student).mean(),
        "1/T × sum of local forward KLs",
        {"sum of local forward KLs": "1/T"},
    ),
    "forward KL, future": (
        at_every_position(lambda p, q: kl(q, p), future=True),
        "expected sum of local forward KLs",
        {},
    ),
    "JSD": (at_every_position(lambda p, q: jsd(p, q, 0.3)), "sum of local JSD(β = 0.3)", {}),
    "JSD, future": (
        at_every_position(lambda p, q: jsd(p, q, 0.3), future=True),
        "expected sum of local JSD(β = 0.3)",
        {},
    ),
    "mean over tokens and vocabulary": (
        lambda student, teacher: kl(teacher, student).mean() / student.shape[-1],
        "1/T × sum of local forward KL, divided by V",
        {},
    ),
    "half and half": (
        lambda student, teacher: (kl(student, teacher) + kl(teacher, student)).mean() / 2,
        "0.5/T × sum of local reverse KLs + 0.5/T × sum of local forward KLs",
        {},
    ),
    "cross-entropy as cost": (
        lambda p, q, k: (
            to_go(-q.log_softmax(-1).gather(-1, k[:, None])[:, 0].detach())
            * p.log_softmax(-1).gather(-1, k[:, None])[:, 0]
        ).sum(),
        "sequence reverse KL − sequence negative entropy",
        {},
    ),
    "top 32": (top_32, NONE, {}),
    "float32": (in_float32, "reverse KL with a discounted return, γ = 0.9", {}),
}


# Fewer trees, for what is shown by the reverse KL's credit alone; the reference trees are the same.
FEWER = {
    "fit": ((3, 2, 5), (3, 3, 3), (2, 4, 9)),
    "confirm": ((2, 3, 2),),
    "far": ((3, 2, 1),),
    "long": (),
    "wide": (),
}


ON_ALL_TREES = {
    "reward-to-go",
    "GKD, mean",
    "sequence k1",
    "sequence k3",
    "k3 as cost",
    "forgotten stop-gradient",
    "standardized within the sequence",
    "five tokens ahead",
    "clipped cost",
    "squashed cost",
    "clipped return",
    "forward KL, future",
    "JSD",
    "JSD, future",
    "at temperature 2, future",
    "over one token less",
    "half and half",
    "cross-entropy as cost",
    "top 32",
    "float32",
}


def fewer_trees():
    return mock.patch.object(sequence_level, "TREES", FEWER)


def audit_on_fewer(loss, **arguments):
    with fewer_trees():
        return audit_sequence(loss, **arguments)


IN_TEXT = {"optimises", "edges", "call", "seed", "calls", "drawn_from", "precision", "fresh"}


in_full = functools.partial(audit_reports.in_full, in_text=IN_TEXT)


@functools.cache
def report(name):
    return (audit_sequence if name in ON_ALL_TREES else audit_on_fewer)(VERDICTS[name][0])
