"""TRL's trainers with this book's losses on two processes, against one process.

    accelerate launch --config_file examples/accelerate_fsdp.yaml examples/trl_two_processes.py
    torchrun --standalone --nproc_per_node 2 examples/trl_two_processes.py

The first shards the model (FSDP2), the second keeps it whole on each process (DDP).  Each
trainer makes one step on tiny models.  The gradient that the optimiser gets is compared with
the gradient of the plain loss in one process, on all texts of the step at once.

For your own models take the classes of trl_gkd_trainer.py and the file accelerate_fsdp.yaml.
"""

import contextlib
import os
import sys
import tempfile

import torch
from accelerate import DistributedType, PartialState
from transformers import TrainerCallback
from trl import DistillationTrainer
from trl.experimental.gkd import GKDTrainer
from trl_gkd_trainer import (
    ExactGKDTrainer,
    FusedDistillationTrainer,
    distillation,
    gkd,
    tiny_model,
)

from opd_toy.lm.losses import distillation_loss


def processors_as_cards():
    """Lets accelerate shard a model where there is no card.

    accelerate 1.15 reads the FSDP part of its file only if the processes have cards.  Here they
    say so and still compute on processors.  With cards this is not called, nor is it needed.
    """
    PartialState(cpu=True)
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


def whole(tensor):
    """A tensor that FSDP2 has sharded, put together again; all processes must ask for it."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


class Watch(TrainerCallback):
    """Keeps what every micro-batch was computed from, and the gradient before the step."""

    def __init__(self, trainer):
        self.inputs, compute_loss = [], trainer.compute_loss

        def watched(model, inputs, *others, **named):
            self.inputs.append(dict(inputs))
            return compute_loss(model, inputs, *others, **named)

        trainer.compute_loss = watched
        trainer.add_callback(self)

    def on_pre_optimizer_step(self, args, state, control, model=None, **others):
        gradients = [whole(parameter.grad).flatten() for parameter in model.parameters()]
        self.gradient = torch.cat(gradients)


def texts(inputs):
    """Tokens, attention mask, and which of the next tokens count: all (B, T)."""
    if "labels" in inputs:  # GKDTrainer
        return inputs["input_ids"], inputs["attention_mask"], inputs["labels"][:, 1:] != -100
    ids, attention = (
        torch.cat([inputs[f"prompt_{name}"], inputs[f"completion_{name}"]], dim=1)
        for name in ("ids", "mask")
    )
    counts = torch.cat([torch.zeros_like(inputs["prompt_mask"]), inputs["completion_mask"]], dim=1)
    return ids, attention, counts[:, 1:] != 0


def in_one_process(micro_batches, beta):
    """Loss and gradient (P,) of the mean over all valid tokens of all texts, plainly."""
    student, teacher = tiny_model(0), tiny_model(1)
    tokens = sum(counts.sum() for _, _, counts in micro_batches)
    total = 0.0
    for ids, attention, counts in micro_batches:
        both = {"input_ids": ids, "attention_mask": attention}
        mine, its = (model(**both).logits[:, :-1] for model in (student, teacher))
        loss = distillation_loss(
            mine, its.detach(), "generalized_jsd", counts, beta=beta, normalizer=tokens
        )
        loss.backward()
        total += loss.item()
    return total, torch.cat([parameter.grad.flatten() for parameter in student.parameters()])


def compare(make, trainer_class, beta, **settings):
    """One step on two micro-batches of two texts a process; what process 0 reports."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        trainer = make(
            folder,
            trainer_class,
            beta=beta,
            max_steps=1,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            max_grad_norm=0,  # no clipping
            accelerator_config={"use_configured_state": True},
            **settings,
        )
        watch = Watch(trainer)
        trainer.train()
    mine = [texts(inputs) for inputs in watch.inputs]
    everybody = [None] * PartialState().num_processes
    if len(everybody) > 1:
        torch.distributed.all_gather_object(everybody, mine)
    else:
        everybody = [mine]
    loss, gradient = in_one_process(sum(everybody, []), beta)
    logged = trainer.state.log_history[0]["loss"]
    apart = (watch.gradient - gradient).norm() / gradient.norm()
    length = watch.gradient.norm() / gradient.norm()
    tokens = [[int(counts.sum()) for _, _, counts in its] for its in everybody]
    PartialState().print(
        f"{trainer_class.__name__}, valid tokens {tokens}: loss {logged:.6f}, in one process "
        f"{loss:.6f}; gradient {length:.4f} times as long, {apart:.0e} of its length apart"
    )


if __name__ == "__main__":
    if not torch.cuda.is_available():
        processors_as_cards()
    state = PartialState()
    how = "FSDP2" if os.environ.get("ACCELERATE_USE_FSDP") == "true" else "DDP"
    state.print(f"{how} on {state.num_processes} processes, two micro-batches each")
    for made in (ExactGKDTrainer, GKDTrainer):
        compare(gkd, made, beta=0.5, seed=3)
    for made in (FusedDistillationTrainer, DistillationTrainer):
        compare(distillation, made, beta=1.0, max_completion_length=24)
    state.destroy_process_group()
