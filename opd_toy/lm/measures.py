"""What is measured of a student beside its teacher: answers, KL of texts, modes, exposure.

p is the student, q the teacher; KL in nats.  All is taken on prompts kept for tests, at
temperature 1, with the same prompts and uniform numbers every time, so that two students
differ by what they are and not by the draws.  Nothing here keeps a gradient; sums are
float64.
"""

import math
import weakref
from dataclasses import dataclass

import torch

from opd_toy.lm.losses import token_log_probabilities
from opd_toy.lm.model import response_logits, response_mask, sample, uniforms

DRAWS = 16  # of one prompt, among which ``distinct`` counts different right workings
SEED = 2026  # of the questions, the same for all presets and runs
MODE_TEXTS = 512  # right workings looked at, at most
COUNTED_MODE_TEXTS = 8 * MODE_TEXTS  # where the caller says how many prompts
CHUNK = 1 << 24  # logits held at a time, as float64


@dataclass(frozen=True)
class Questions:
    """What every student is asked: prompts (N, P), and numbers (N, T) for its draws.

    answers (N, P + T): the teacher's.
    workings (M, orders, P + T): all right workings of the first M prompts.
    """

    prompts: torch.Tensor
    numbers: torch.Tensor
    answers: torch.Tensor
    workings: torch.Tensor


def evaluate(student, teacher, preset, prompts=None):
    """The measures of ``student``, a dict of floats.

    accuracy             share of right answers, one draw a prompt
    right_working        probability of a right answer by a wholly right working, exact for
                         each prompt
    sequence_kl          KL(p||q) of a whole text, on the student's texts: the exact KLs of its
                         positions summed (the Rao-Blackwellised mean, arXiv 2504.10637)
    forward_sequence_kl  KL(q||p) of a whole text, likewise on the teacher's texts
    order_entropy        entropy of the order of the terms, given the prompt and that the
                         working is right; exact for each prompt.  None where none ever is
    distinct             expected number of different right workings among 16 draws of one
                         prompt, exact
    length               tokens of a drawn text, its end included

    prompts: how many, by default the preset's.
    """
    asked = questions(teacher, preset, prompts)
    task = preset.task
    own = sample(student, asked.prompts, asked.numbers, task.end, task.pad)
    orders = order_probabilities(student, task, asked.workings)
    mean = lambda values: float(values.double().mean())
    return {
        "accuracy": mean(task.rewards(own)),
        "right_working": mean(orders.sum(1)),
        "sequence_kl": mean(text_kls(student, teacher, task, own).sum(1)),
        "forward_sequence_kl": mean(text_kls(teacher, student, task, asked.answers).sum(1)),
        "order_entropy": order_entropy(orders),
        "distinct": mean(-torch.expm1(DRAWS * torch.log1p(-orders.clamp(0, 1))).sum(1)),
        "length": mean(response_mask(own, task.prompt_length, task.end).sum(1)),
    }


def exposure(student, teacher, preset, prompts=None):
    """KL(p||q) at each position of texts: {"own": rows, "teacher": rows}, by who wrote them.

    Rows are {"kl": [...], "error": [...], "count": [...]}, an entry a position: mean over
    the texts that have not ended before it, standard error of that mean, their number;
    positions that fewer than two texts of either kind reach are left out.
    """
    asked = questions(teacher, preset, prompts)
    task = preset.task
    texts = {
        "own": sample(student, asked.prompts, asked.numbers, task.end, task.pad),
        "teacher": asked.answers,
    }
    masks = {
        name: response_mask(each, task.prompt_length, task.end) for name, each in texts.items()
    }
    reached = min(int((mask.sum(0) >= 2).sum()) for mask in masks.values())
    rows = {}
    for name, each in texts.items():
        kl, there = (x[:, :reached] for x in (text_kls(student, teacher, task, each), masks[name]))
        count = there.sum(0)
        mean = kl.sum(0) / count
        variance = (there * (kl - mean) ** 2).sum(0) / (count - 1)
        error = (variance / count).sqrt()
        rows[name] = {"kl": mean.tolist(), "error": error.tolist(), "count": count.tolist()}
    return rows


def gain(student, teacher, preset, prompts=None):
    """(mean, standard error) of what a right working's probability gains on the teacher's.

    Exact for each prompt, so that the error is that of the choice of prompts alone.
    """
    asked = questions(teacher, preset, prompts)
    own, others = (
        order_probabilities(model, preset.task, asked.workings).sum(1)
        for model in (student, teacher)
    )
    return float((own - others).mean()), float((own - others).std() / math.sqrt(len(own)))


# --- texts -------------------------------------------------------------------------------


@torch.no_grad()
def text_kls(first, second, task, texts):
    """KL(first||second) at each position of ``texts`` (B, P + T), 0 after the end: (B, T)."""
    mask = response_mask(texts, task.prompt_length, task.end)
    parts = [
        position_kls(*(response_logits(model, part, task) for model in (first, second)))
        for part in _chunks(first, task, texts)
    ]
    return torch.where(mask, torch.cat(parts), 0.0)


def position_kls(first_logits, second_logits):
    """KL(first||second) of logits (..., V), exact, in float64: (...).

    A token that both bar (-inf) counts for nothing.
    """
    log_p, log_q = (torch.log_softmax(z.double(), -1) for z in (first_logits, second_logits))
    p = log_p.exp()
    return torch.where(p > 0, p * (log_p - log_q), 0.0).sum(-1)


@torch.no_grad()
def text_log_probabilities(model, task, texts):
    """log probability of the responses of ``texts`` (B, P + T) given their prompts: (B,)."""
    mask = response_mask(texts, task.prompt_length, task.end)
    logs = [
        token_log_probabilities(logits.double(), part[:, task.prompt_length :])
        for part in _chunks(model, task, texts)
        for logits in [response_logits(model, part, task)]
    ]
    return torch.where(mask, torch.cat(logs), 0.0).sum(1)


def _chunks(model, task, texts):
    return texts.split(max(1, CHUNK // (task.length * model.shape.vocabulary)))


# --- modes -------------------------------------------------------------------------------


def order_probabilities(model, task, workings):
    """Probability of each right working (M, orders, P + T) given its prompt: (M, orders)."""
    logs = text_log_probabilities(model, task, workings.flatten(0, 1))
    return logs.view(workings.shape[:2]).exp()


def order_entropy(orders):
    """H(order | prompt, right working) of probabilities (M, orders), a row a prompt.

    Prompts are equally likely.  None where all probabilities are 0.
    """
    right = orders.sum(1, keepdim=True)
    if not right.sum() > 0:
        return None
    share = orders / right.clamp_min(math.ulp(0.0))
    return float(-(orders * torch.where(orders > 0, share.log(), 0.0)).sum() / right.sum())


# --- questions ---------------------------------------------------------------------------

_ASKED = weakref.WeakKeyDictionary()  # the teacher's answers, drawn once


def questions(teacher, preset, prompts=None):
    """The ``Questions`` of a preset, answered by ``teacher``, on its device."""
    count, device = prompts or preset.distillation.evaluation_prompts, teacher.head.weight.device
    mode_texts = MODE_TEXTS if prompts is None else COUNTED_MODE_TEXTS
    versions = tuple(weight._version for weight in teacher.parameters())  # they tell of changes
    key = preset, count, mode_texts, device, torch.is_autocast_enabled(device.type), versions
    kept = _ASKED.setdefault(teacher, {})
    if key not in kept:
        kept[key] = _ask(teacher, preset.task, count, mode_texts)
    return kept[key]


def _ask(teacher, task, count, mode_texts):
    device = teacher.head.weight.device
    prompts = task.prompts(count, SEED, split="test").to(device)
    own, others = (
        uniforms(SEED, "answers", who, shape=(count, task.length)).to(device)
        for who in ("student", "teacher")
    )
    answers = sample(teacher, prompts, others, task.end, task.pad)
    workings = right_workings(task, prompts[: max(1, mode_texts // len(task.orders))])
    return Questions(prompts, own, answers, workings)


def right_workings(task, prompts):
    """All right workings of ``prompts`` (M, P), as ``task.orders``: (M, orders, P + T)."""
    probabilities = task.order_probabilities
    middle = probabilities.cumsum(0) - probabilities / 2  # the number that draws each order
    repeated = prompts.repeat_interleave(len(middle), 0)
    texts = task.demonstrations(repeated, middle.repeat(len(prompts)).to(prompts.device))
    return texts.view(len(prompts), len(middle), -1)
