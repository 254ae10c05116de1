"""The teacher and the starting student of a preset, trained on demonstrations from a seed.

Both learn from the same distribution of texts (SFT: cross-entropy of the response, AdamW,
warm-up and cosine, clip 1); the student falls short by its size and its steps alone.
The same seed gives the same weights on the same processor with as many threads; elsewhere
rounding grows into another model, see ``opd_toy.lm.study.stages``.
"""

import hashlib
import json
import math
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from opd_toy.lm.losses import sft_loss
from opd_toy.lm.model import (
    FORMAT,
    Transformer,
    load,
    mixed,
    notes,
    response_logits,
    response_mask,
    save,
    uniforms,
)
from opd_toy.records import provenance
from opd_toy.records.checkpoints import Checkpoint

MODULES = [__name__]
WARM_UP = 0.05  # of the steps
OPTIMIZER = {"betas": (0.9, 0.95), "weight_decay": 0.01, "fused": True}


def _on_stderr(text):
    print(text, file=sys.stderr)


def teacher(preset, folder, report=None, device="cpu", say=_on_stderr):
    """The Transformer of ``preset.teacher``, kept in ``folder``.

    It is trained where the same recipe and code have not left it there.  Training that was cut
    off, by a kill too, is taken up where it stood.  report(done, total) after each step;
    say(text) takes what a person should know.
    """
    return _made(preset, "teacher", folder, report, device, say)


def student(preset, folder, report=None, device="cpu", say=_on_stderr):
    """The student that every method starts from, ``preset.student``, see ``teacher``."""
    return _made(preset, "student", folder, report, device, say)


def _made(preset, role, folder, report, device, say):
    recipe, path = getattr(preset, role), Path(folder) / f"{preset.name}-{role}.safetensors"
    made_by = _made_by(preset, role)
    if path.exists():
        try:
            if notes(path).get("made_by") == made_by:
                return load(path).to(device)
            say(f"{path} was made by another recipe or other code; making it anew")
        except ValueError as error:
            say(f"{error}; making it anew")
    belongs_to = [made_by, str(torch.__version__), torch.device(device).type]
    checkpoint = Checkpoint(path.with_suffix(".pt"), belongs_to, say=say)
    options = dict(report=report, device=device, autocast=preset.autocast, checkpoint=checkpoint)
    model = pretrain(recipe, preset.task, role, **options)
    save(path, model, made_by=made_by, recipe=json.dumps(asdict(recipe)))
    checkpoint.remove()
    return model


def pretrain(recipe, task, *key, report=None, device="cpu", autocast=None, checkpoint=None):
    """A new Transformer trained on ``task`` as ``recipe`` says, on the device.

    The texts depend on recipe.seed and ``key``.
    """
    model = Transformer(recipe.shape, recipe.seed).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.rate, **OPTIMIZER)
    state = checkpoint and checkpoint.load(device)
    if state:
        model.load_state_dict(state["model"]), optimizer.load_state_dict(state["optimizer"])
    for step in range(state["iteration"] if state else 0, recipe.steps):
        optimizer.param_groups[0]["lr"] = rate(recipe, step)
        texts = corpus(task, recipe.batch, recipe.seed, *key, step).to(device)
        loss = _loss(model, task, texts, autocast)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if checkpoint:
            whole = {
                "iteration": step + 1,
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
            }
            checkpoint.after(whole, last=step + 1 == recipe.steps)
        if report:
            report(step + 1, recipe.steps)
    return model


def corpus(task, count, *key):
    """``count`` demonstrations (count, P + T) of training prompts; they depend on ``key`` alone."""
    prompts = task.prompts(count, *key)
    return task.demonstrations(prompts, uniforms(0, *key, "orders", shape=(count,)))


def rate(recipe, step):
    """The learning rate at ``step``, from 0.

    A linear rise over the first steps, then a cosine that ends at 0 after the last.
    """
    warm_up = max(1, round(WARM_UP * recipe.steps))
    if step < warm_up:
        return recipe.rate * (step + 1) / warm_up
    angle = math.pi * (step + 1 - warm_up) / (recipe.steps + 1 - warm_up)
    return recipe.rate * (1 + math.cos(angle)) / 2


def _loss(model, task, texts, autocast):
    start, mask = task.prompt_length, response_mask(texts, task.prompt_length, task.end)
    with mixed(texts.device, autocast):
        logits = response_logits(model, texts, task)
    return sft_loss(logits, texts[:, start:], mask)


def _made_by(preset, role):
    recipe = [
        FORMAT,
        role,
        asdict(getattr(preset, role)),
        asdict(preset.task),
        preset.autocast,
        provenance.source_hash(*MODULES),
    ]
    return hashlib.sha256(json.dumps(recipe).encode()).hexdigest()
