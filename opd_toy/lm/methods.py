"""Every way of training the student that the lab compares: one table over one loop.

A method is whose texts it learns from and one loss.  All else is the same for all: texts a
step, steps, optimiser (``opd_toy.lm.training``).  p is the student, q the teacher, r_t =
log p(a_t|s_t) - log q(a_t|s_t) the cost of a drawn token; every loss is a mean over the
valid tokens of the whole batch.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from opd_toy.lm.losses import (
    distillation_loss,
    group_advantage,
    grpo_loss,
    policy_gradient_loss,
    sft_loss,
    token_count,
    token_log_probabilities,
)
from opd_toy.lm.measures import position_kls
from opd_toy.lm.model import mixed, response_logits, response_mask
from opd_toy.lm.rows import each_block
from opd_toy.lm.tokens import working_dtype

BETA = 0.5  # of the JSD: how much of the mixture is the teacher's
K = 4  # tokens of the teacher's that top_k compares
ALPHA = 1.0  # nats of cost that one unit of group advantage is worth


@dataclass(frozen=True)
class Batch:
    """B texts of T positions behind their prompts, as a loss sees them.

    student_logits (B, T, V), with gradient; teacher_logits (B, T, V), None where the method
    does not ask for them; tokens (B, T) int64; mask (B, T) bool, True at drawn tokens, the
    end included; reward (B,), None likewise; group: as many texts in a row answer one prompt;
    normalizer: valid tokens of the whole batch, as ``token_count`` has them.
    """

    student_logits: torch.Tensor
    teacher_logits: torch.Tensor | None
    tokens: torch.Tensor
    mask: torch.Tensor
    reward: torch.Tensor | None
    group: int
    normalizer: torch.Tensor


@dataclass(frozen=True)
class Method:
    """One way of training.  texts: who draws them, "teacher" or "student"; loss(Batch) -> scalar.

    words: what it is, in one line.
    teacher: whether the loss reads the teacher's logits; grouped: whether it asks for a
    reward, compared among several texts of one prompt.
    """

    texts: str
    loss: Callable
    words: str
    teacher: bool = True
    grouped: bool = False


# --- the losses --------------------------------------------------------------------------


def sft(batch):
    return sft_loss(batch.student_logits, batch.tokens, batch.mask, normalizer=batch.normalizer)


def full_vocabulary(objective, **parameters):
    """A divergence of the two distributions at each position, all tokens weighed."""
    return lambda batch: distillation_loss(
        batch.student_logits,
        batch.teacher_logits,
        objective,
        batch.mask,
        normalizer=batch.normalizer,
        **parameters,
    )


def policy_gradient(gamma):
    """Drawn tokens alone, weighed by their own cost and the later ones, discounted by gamma."""
    return lambda batch: policy_gradient_loss(
        *log_probabilities(batch), batch.mask, gamma, normalizer=batch.normalizer
    )


def policy_gradient_with_baseline(batch):
    return policy_gradient_loss(
        *log_probabilities(batch),
        batch.mask,
        baseline=position_kl(batch.student_logits, batch.teacher_logits),
        normalizer=batch.normalizer,
    )


def policy_gradient_with_reward(batch):
    return policy_gradient_loss(
        *log_probabilities(batch),
        batch.mask,
        reward=group_advantage(batch.reward, batch.group),
        alpha=ALPHA,
        normalizer=batch.normalizer,
    )


def reward_alone(batch):
    return grpo_loss(
        token_log_probabilities(batch.student_logits, batch.tokens),
        batch.reward,
        batch.mask,
        batch.group,
        normalizer=batch.normalizer,
    )


# --- the table ---------------------------------------------------------------------------

OWN = "the student's own texts"
THE_TEACHERS = "the teacher's texts"

METHODS = {
    "sft": Method("teacher", sft, f"{THE_TEACHERS}, -log p of their tokens", teacher=False),
    "seqkd": Method(
        "teacher",
        full_vocabulary("forward_kl"),
        f"{THE_TEACHERS}, forward KL(q||p) at each position",
    ),
    "off_policy_reverse_kl": Method(
        "teacher",
        full_vocabulary("reverse_kl"),
        f"{THE_TEACHERS}, reverse KL(p||q) at each position",
    ),
    "on_policy_forward_kl": Method(
        "student", full_vocabulary("forward_kl"), f"{OWN}, forward KL(q||p) at each position"
    ),
    "gkd": Method(
        "student", full_vocabulary("reverse_kl"), f"{OWN}, reverse KL(p||q) at each position"
    ),
    "jsd": Method(
        "student",
        full_vocabulary("generalized_jsd", beta=BETA),
        f"{OWN}, JSD of beta = {BETA:g} at each position",
    ),
    "pg_0": Method(
        "student", policy_gradient(0.0), "policy gradient, the cost of the token alone (gamma = 0)"
    ),
    "pg_0.5": Method(
        "student", policy_gradient(0.5), "policy gradient, later costs discounted by gamma = 0.5"
    ),
    "pg_0.9": Method(
        "student", policy_gradient(0.9), "policy gradient, later costs discounted by gamma = 0.9"
    ),
    "pg_1": Method(
        "student",
        policy_gradient(1.0),
        "policy gradient, all later costs (gamma = 1): the sequence KL",
    ),
    "pg_baseline": Method(
        "student",
        policy_gradient_with_baseline,
        "policy gradient, gamma = 0, less the exact KL of the position",
    ),
    "top_k": Method(
        "student",
        full_vocabulary("top_k_reverse_kl", k=K, outside="renormalize"),
        f"{OWN}, reverse KL over the teacher's {K} likeliest tokens, renormalised",
    ),
    "opd_reward": Method(
        "student",
        policy_gradient_with_reward,
        f"policy gradient, gamma = 0, less {ALPHA:g} nat for a unit of the reward's group "
        "advantage",
        grouped=True,
    ),
    "rlvr": Method(
        "student",
        reward_alone,
        "the reward's group advantage alone, no teacher (GRPO)",
        teacher=False,
        grouped=True,
    ),
}


def find_method(name):
    """The ``Method`` called ``name``; ValueError, with all names, where there is none."""
    if name not in METHODS:
        raise ValueError(f"method is {name!r}; give one of {', '.join(METHODS)}")
    return METHODS[name]


# --- what the losses take ----------------------------------------------------------------


def log_probabilities(batch):
    """log p and log q of the drawn tokens, (B, T) each."""
    log_p = token_log_probabilities(batch.student_logits, batch.tokens)
    return log_p, token_log_probabilities(batch.teacher_logits, batch.tokens)


def position_kl(student_logits, teacher_logits):
    """KL(p||q) in nats of each position (...) of logits (..., V), a constant."""
    shape, dtype = student_logits.shape[:-1], working_dtype(student_logits)
    kl = torch.empty(shape, dtype=dtype, device=student_logits.device)

    def rows(z, y, out):  # a few at a time: the measure is in float64
        out.copy_(position_kls(z, y))
        return 0

    each_block(rows, student_logits, teacher_logits, kl)
    return kl


# --- the loss of a method on given texts -------------------------------------------------


class Responses(torch.nn.Module):
    """``response_logits`` of texts as a module of its own, which DDP can call."""

    def __init__(self, model, task):
        super().__init__()
        self.model, self.task = model, task

    def forward(self, texts):
        return response_logits(self.model, texts, self.task)


def loss_of(method, student, teacher, task, texts, *, group=1, normalizer=None, autocast=None):
    """The loss of the method of this name on ``texts`` (B, P + T), a scalar with gradient.

    student: a ``Transformer``, or a module that maps texts to logits as ``Responses`` does.
    normalizer: by default the valid tokens of these texts.
    """
    found, mask = find_method(method), response_mask(texts, task.prompt_length, task.end)
    with mixed(texts.device, autocast):
        is_model = hasattr(student, "hidden")
        logits = response_logits(student, texts, task) if is_model else student(texts)
        with torch.no_grad():
            wanted = response_logits(teacher, texts, task) if found.teacher else None
    reward = task.rewards(texts) if found.grouped else None
    normalizer = token_count(mask) if normalizer is None else normalizer
    tokens = texts[:, task.prompt_length :]
    return found.loss(Batch(logits, wanted, tokens, mask, reward, group, normalizer))


def loss_and_gradient(method, student, teacher, task, texts, **options):
    """``loss_of`` and its gradient (P,) in all parameters of the student, in their order."""
    loss = loss_of(method, student, teacher, task, texts, **options)
    parts = torch.autograd.grad(loss, list(student.parameters()))
    return loss.detach(), torch.cat([part.flatten() for part in parts])
