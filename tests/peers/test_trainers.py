"""The example: TRL's trainers with this book's loss."""

import math

import pytest
import torch
from trl import DistillationTrainer
from trl.experimental.gkd import GKDTrainer

from examples.trl_gkd_trainer import (
    ExactGKDTrainer,
    FusedDistillationTrainer,
    distillation,
    gkd,
    losses,
)


def batch(trainer):
    return next(iter(trainer.get_train_dataloader()))


def parameter_gradients(trainer, inputs, **named):
    trainer.model.zero_grad()
    loss = trainer.compute_loss(trainer.model.train(), dict(inputs), **named)
    loss.backward()
    return loss.item(), torch.cat(
        [parameter.grad.flatten() for parameter in trainer.model.parameters()]
    )


def mask_words(trainer, first=60):
    """Logits of -inf from one word on, in student and teacher, as with a padded vocabulary."""
    for model in (trainer.model, trainer.teacher_model):
        model.lm_head.register_forward_hook(
            lambda _, __, logits: torch.cat(
                [logits[..., :first], torch.full_like(logits[..., first:], -math.inf)], -1
            )
        )


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("count", [None, 50])
def test_gkd_gradients_are_trl_s(tmp_path, beta, count):
    ours, trl = (gkd(tmp_path, trainer, beta=beta) for trainer in (ExactGKDTrainer, GKDTrainer))
    inputs = batch(ours)
    mine, its = (
        parameter_gradients(trainer, inputs, num_items_in_batch=count) for trainer in (ours, trl)
    )
    assert mine[0] == pytest.approx(its[0], rel=1e-5)
    assert (mine[1] - its[1]).norm() <= 1e-5 * its[1].norm() and its[1].norm() > 0


def test_gkd_with_a_masked_vocabulary(tmp_path):
    ours, trl = (gkd(tmp_path, trainer) for trainer in (ExactGKDTrainer, GKDTrainer))
    inputs = batch(ours)
    mask_words(ours), mask_words(trl)
    assert math.isnan(parameter_gradients(trl, inputs)[0])
    loss, gradient = parameter_gradients(ours, inputs)
    assert 0 < loss < math.inf and gradient.isfinite().all() and gradient.norm() > 0


def test_the_overwritten_logits_change_nothing(tmp_path):
    """compute_loss writes the gradient over the logits; TRL's, with our loss in it, does not."""
    trainer = gkd(tmp_path)
    inputs = batch(trainer)
    both = parameter_gradients(trainer, inputs)
    trainer.model.zero_grad()
    GKDTrainer.compute_loss(trainer, trainer.model, dict(inputs)).backward()
    alone = torch.cat([parameter.grad.flatten() for parameter in trainer.model.parameters()])
    assert (both[1] - alone).norm() <= 1e-6 * alone.norm()


def test_micro_batches_of_unequal_length_are_one_batch(tmp_path):
    """num_items_in_batch: two optimiser steps on 8 texts at once, and as 4 micro-batches of 2."""
    weights = []
    for size, micro in ((8, 1), (2, 4)):
        trainer = gkd(
            tmp_path,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=micro,
            max_steps=2,
            optim="sgd",
            learning_rate=0.1,
        )
        trainer.train()
        weights.append(
            torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])
        )
    start = torch.cat(
        [parameter.detach().flatten() for parameter in gkd(tmp_path).model.parameters()]
    )
    assert (weights[0] - weights[1]).norm() <= 1e-4 * (weights[0] - start).norm()
    assert (weights[0] - start).norm() > 0


def test_drawn_texts_are_not_divided_by_the_data_set_s_tokens(tmp_path):
    """The count the Trainer hands over was taken before the student drew other texts."""
    drawing, fixed = gkd(tmp_path, lmbda=1.0), gkd(tmp_path, lmbda=0.0)
    inputs = batch(fixed)
    assert (
        parameter_gradients(drawing, inputs, num_items_in_batch=1)[0]
        == parameter_gradients(fixed, inputs)[0]
    )
    assert (
        parameter_gradients(fixed, inputs, num_items_in_batch=1)[0]
        > 10 * parameter_gradients(fixed, inputs)[0]
    )


def test_micro_batches_of_drawn_texts_are_averaged(tmp_path, monkeypatch):
    """One text eight times, at once and as 4 micro-batches; the Trainer does not divide by 4."""
    names = "input_ids", "attention_mask", "labels"
    monkeypatch.setattr(
        ExactGKDTrainer,
        "generate_on_policy_outputs",
        lambda trainer, model, inputs, settings: tuple(inputs[name] for name in names),
    )
    weights = []
    for size, micro in ((8, 1), (2, 4)):
        trainer = gkd(
            tmp_path,
            lmbda=1.0,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=micro,
            max_steps=1,
            max_grad_norm=0,
            optim="sgd",
            learning_rate=0.1,
        )
        trainer.train_dataset = trainer.train_dataset.select([0] * 8)
        start = torch.cat([x.detach().flatten().clone() for x in trainer.model.parameters()])
        trainer.train()
        weights.append(torch.cat([x.detach().flatten() for x in trainer.model.parameters()]))
    assert (weights[0] - weights[1]).norm() <= 1e-4 * (weights[0] - start).norm()
    assert (weights[0] - start).norm() > 0


@pytest.mark.parametrize("lmbda", [0.0, 1.0])
def test_gkd_trains(tmp_path, lmbda):
    curve = losses(gkd(tmp_path, lmbda=lmbda, max_steps=16))
    assert len(curve) == 16 and sum(curve[-4:]) < 0.8 * sum(curve[:4])


def test_the_newer_trainer_trains(tmp_path):
    curve = losses(distillation(tmp_path, max_steps=16))
    assert len(curve) == 16 and sum(curve[-4:]) < 0.9 * sum(curve[:4])


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_the_newer_trainer_s_gradients_are_trl_s(tmp_path, beta):
    ours, trl = (
        distillation(tmp_path, trainer, beta=beta, temperature=1.0)
        for trainer in (FusedDistillationTrainer, DistillationTrainer)
    )
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 40, (4, 12), generator=draw)
    mask = (torch.arange(6) < torch.tensor([6, 3, 5, 1])[:, None]).int()
    inputs = {
        "prompt_ids": ids[:, :6],
        "completion_ids": ids[:, 6:],
        "prompt_mask": torch.ones(4, 6, dtype=torch.int),
        "completion_mask": mask,
        "num_items_in_batch": torch.tensor(40.0),
    }
    mine, its = (parameter_gradients(trainer, inputs) for trainer in (ours, trl))
    assert mine[0] == pytest.approx(its[0], rel=1e-5)
    assert (mine[1] - its[1]).norm() <= 1e-5 * its[1].norm() and its[1].norm() > 0
