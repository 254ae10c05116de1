"""Training on texts that are some steps old: which correction keeps the student on its way?

A student learns from texts that it wrote ``age`` steps before: at step s from texts of the
student of step max(0, s - age), whose log probabilities are kept with them.  No text is read
twice.  Runs of one seed begin with the same student, and have the same prompts and uniform
numbers at each step.  ``stale``
returns a JSON-able dict, the results of ``figures/stale-rollouts.json``.

p is the student, q the teacher, mu the student that wrote the text; KL in nats.
"""

import copy
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from opd_toy.lm import measures, pretraining
from opd_toy.lm.losses import (
    distillation_loss,
    policy_gradient_loss,
    token_count,
    token_log_probabilities,
)
from opd_toy.lm.model import fingerprint, response_logits, response_mask, sample, uniforms
from opd_toy.lm.off_policy import effective_sample_size, importance_weights
from opd_toy.lm.presets import TINY, Distillation
from opd_toy.lm.stale_claims import judged
from opd_toy.records import provenance
from opd_toy.records.checkpoints import Checkpoint

MODULES = [__name__]
PRESET = replace(
    TINY,
    name="stale",
    distillation=Distillation(
        steps=160, batch=32, rate=5e-4, group=1, evaluate_every=20, evaluation_prompts=256
    ),
)
TASK = PRESET.task
AGES = (0, 1, 4, 16)
SEEDS = (1, 2, 3)
LIMIT, BAND, CLIP = 2.0, (0.5, 2.0), 0.2
NORM = 1.0  # of the gradient, as in opd_toy.lm.training


@dataclass(frozen=True)
class Batch:
    """Texts as a loss sees them: logits (B, T, V), the rest (B, T); log_p has a gradient."""

    student_logits: torch.Tensor
    teacher_logits: torch.Tensor
    log_p: torch.Tensor
    log_q: torch.Tensor
    log_mu: torch.Tensor
    mask: torch.Tensor
    normalizer: torch.Tensor

    def weights(self, level, correction="ratio", limits=None):
        log_p = self.log_p.detach()
        return importance_weights(log_p, self.log_mu, self.mask, level, correction, limits)


@dataclass(frozen=True)
class Variant:
    """One way of learning from old text: ``loss(Batch)`` -> scalar; ``words`` in one line."""

    words: str
    loss: Callable


def weighted(level, correction="ratio", limits=None):
    def loss(batch):
        weights = batch.weights(level, correction, limits)
        return policy_gradient(batch, weights=weights)

    return loss


def policy_gradient(batch, **options):
    return policy_gradient_loss(
        batch.log_p, batch.log_q, batch.mask, normalizer=batch.normalizer, **options
    )


def less_the_mean(batch):
    """The mean cost of the batch as a baseline."""
    cost = torch.where(batch.mask, batch.log_p.detach() - batch.log_q, 0.0)
    return policy_gradient(batch, baseline=float(cost.sum() / batch.mask.sum()))


def clipped(batch):
    return policy_gradient(batch, behaviour_log_probabilities=batch.log_mu, clip=CLIP)


def kept_cost(batch):
    """The ratio times log mu - log q: a teacher that is nearer by how far the student has gone."""
    log_q = batch.log_p.detach() - batch.log_mu + batch.log_q
    kept = replace(batch, log_q=torch.where(batch.mask, log_q, 0.0))
    return weighted("token")(kept)


def full_vocabulary(batch):
    return distillation_loss(
        batch.student_logits,
        batch.teacher_logits,
        "reverse_kl",
        batch.mask,
        normalizer=batch.normalizer,
    )


VARIANTS = {
    "none": Variant("drawn token, no ratio", policy_gradient),
    "baseline": Variant("drawn token, no ratio, less the batch's mean cost", less_the_mean),
    "ratio": Variant("drawn token, its ratio", weighted("token")),
    "truncate": Variant(
        f"drawn token, ratio truncated at {LIMIT:g}", weighted("token", "truncate", LIMIT)
    ),
    "mask": Variant(
        f"drawn token, dropped outside {BAND[0]:g} to {BAND[1]:g}", weighted("token", "mask", BAND)
    ),
    "clip": Variant(f"drawn token, PPO's clip at {CLIP:g}", clipped),
    "prefix": Variant("drawn token, product of ratios up to it", weighted("prefix")),
    "sequence": Variant("drawn token, product over the text", weighted("sequence")),
    "kept": Variant("drawn token, its ratio, cost kept from the rollout", kept_cost),
    "gkd": Variant("all tokens, reverse KL", full_vocabulary),
}
FRESH = ("none", "gkd")  # on texts of age 0 the drawn ones are "none", but for the baseline


def stale(folder, watch=None):
    """The record's results; models and finished runs are kept in ``folder``.

    watch(name) gives a report(done, total) for a stage.  Interrupted, the same call goes on
    after the last finished run.
    """
    watch = watch or (lambda name: None)
    teacher = pretraining.teacher(PRESET, folder, watch("teacher"))
    student = pretraining.student(PRESET, folder, watch("student"))
    settings = [fingerprint(teacher), fingerprint(student), provenance.source_hash(__name__)]
    checkpoint = Checkpoint(Path(folder) / "stale-runs.pt", settings, seconds=2.0)
    state = checkpoint.load() or {"iteration": 0, "runs": {}}
    report, plan = watch("runs"), list(planned())
    for name, age, seed in plan:
        key = f"{name}, age {age}, seed {seed}"
        if key not in state["runs"]:
            state["runs"][key] = run(name, age, seed, teacher, student)
            state["iteration"] += 1
            checkpoint.after(state, last=(name, age, seed) == plan[-1])
        if report:
            report(len(state["runs"]), len(plan))
    runs = {
        name: {
            str(age): averaged([state["runs"][f"{name}, age {age}, seed {seed}"] for seed in SEEDS])
            for age in ages_of(name)
        }
        for name in VARIANTS
    }
    settings = PRESET.distillation
    results = {
        "steps": list(range(0, settings.steps + 1, settings.evaluate_every)),
        "ages": list(AGES),
        "seeds": list(SEEDS),
        "batch": settings.batch,
        "rate": settings.rate,
        "parameters": student.shape.parameters,
        "words": {name: variant.words for name, variant in VARIANTS.items()},
        "runs": runs,
    }
    return results | {"claims": judged(results)}


def planned():
    return ((name, age, seed) for seed in SEEDS for name in VARIANTS for age in ages_of(name))


def ages_of(name):
    return AGES if name in FRESH else AGES[1:]


def averaged(runs):
    """Curves of several seeds: of each measure the mean (list), and the runs' own values at the
    end."""
    mean = {
        key: [sum(values) / len(runs) for values in zip(*(each[key] for each in runs))]
        for key in runs[0]
    }
    return mean | {"ends": [each["kl"][-1] for each in runs]}


# --- one run -----------------------------------------------------------------------------


def run(name, age, seed, teacher, student):
    """Curves of one run, a value at each measuring.

    kl: KL(p||q) of a whole text, on the student's own fresh texts.  moved: the mean size of
    log p - log mu over the drawn tokens of the batch; share_token, share_text: the effective
    sample size of the ratios of tokens and of their products over a text.  0, 1 and 1 at step 0.
    """
    student, settings = copy.deepcopy(student), PRESET.distillation
    optimizer = torch.optim.AdamW(
        student.parameters(), lr=settings.rate, betas=(0.9, 0.95), weight_decay=0.0
    )
    curve = {"kl": [distance(student, teacher)], "moved": [0.0]}
    curve |= {"share_token": [1.0], "share_text": [1.0]}
    waiting = deque(written(student, seed, step) for step in range(age))
    for step in range(settings.steps):
        waiting.append(written(student, seed, step + age))
        batch = read(student, teacher, *waiting.popleft())
        optimizer.zero_grad()
        VARIANTS[name].loss(batch).backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), NORM, error_if_nonfinite=True)
        optimizer.step()
        if (step + 1) % settings.evaluate_every == 0:
            curve["kl"].append(distance(student, teacher))
            for key, value in drift(batch).items():
                curve[key].append(value)
    return curve


def written(student, seed, step):
    """Texts (B, P + T) for this step, of the student as it is, and their log probabilities."""
    count = PRESET.distillation.batch
    prompts = TASK.prompts(count, seed, "stale", step, split="train")
    numbers = uniforms(seed, "stale", step, shape=(count, TASK.length))
    texts = sample(student, prompts, numbers, TASK.end, TASK.pad)
    with torch.no_grad():
        logits = response_logits(student, texts, TASK)
        return texts, token_log_probabilities(logits, texts[:, TASK.prompt_length :])


def read(student, teacher, texts, log_mu):
    tokens = texts[:, TASK.prompt_length :]
    mask = response_mask(texts, TASK.prompt_length, TASK.end)
    logits = response_logits(student, texts, TASK)
    with torch.no_grad():
        wanted = response_logits(teacher, texts, TASK)
        log_q = token_log_probabilities(wanted, tokens)
    log_p = token_log_probabilities(logits, tokens)
    return Batch(logits, wanted, log_p, log_q, log_mu, mask, token_count(mask))


def distance(student, teacher):
    """KL(p||q) of a whole text: the exact KLs of its positions, on own texts of test prompts."""
    asked = measures.questions(teacher, PRESET)
    own = sample(student, asked.prompts, asked.numbers, TASK.end, TASK.pad)
    return float(measures.text_kls(student, teacher, TASK, own).sum(1).mean())


def drift(batch):
    log_ratio = torch.where(batch.mask, batch.log_p.detach() - batch.log_mu, 0.0)
    texts = log_ratio.double().sum(1)
    return {
        "moved": float(log_ratio.abs().sum() / batch.mask.sum()),
        "share_token": effective_sample_size(batch.weights("token"), batch.mask),
        "share_text": effective_sample_size((texts - texts.max()).exp()),
    }
