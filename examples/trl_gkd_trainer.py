"""This book's loss in TRL's trainers: GKDTrainer and the newer DistillationTrainer of trl 1.16.0.

    make peers
    .venv-peers/bin/python examples/trl_gkd_trainer.py

trains a tiny, randomly initialised student towards a tiny, randomly initialised teacher.
With your own models keep the two classes and drop the rest.
"""

import tempfile

import torch
from trl import DistillationConfig, DistillationTrainer
from trl.experimental.gkd import GKDConfig, GKDTrainer

from opd_toy.lm.losses import distillation_loss, fused_linear_distillation_loss, token_count


class ExactGKDTrainer(GKDTrainer):
    """GKDTrainer with this book's loss.

    beta and temperature mean the same: beta = 0 is KL(teacher || student), 1 the reverse.
    """

    @staticmethod
    def generalized_jsd_loss(
        student_logits,
        teacher_logits,
        labels=None,
        beta=0.5,
        temperature=1.0,
        reduction="batchmean",
        num_items_in_batch=None,
    ):
        # One value for each word of the vocabulary: only autograd through all of them gives it.
        if reduction == "none":
            return GKDTrainer.generalized_jsd_loss(
                student_logits, teacher_logits, labels, beta, temperature, reduction
            )
        mask = None if labels is None else labels != -100
        tokens = student_logits.shape[:-1].numel() if mask is None else mask.sum().clamp_min(1)
        if num_items_in_batch is not None:
            # With gradient accumulation the Trainer hands over the valid tokens of all
            # micro-batches: dividing by them makes the sum the gradient of one large batch.
            normalizer = num_items_in_batch
        elif reduction == "sum":
            normalizer = 1
        elif reduction == "mean":
            normalizer = tokens * student_logits.shape[-1]
        else:  # "batchmean"; without labels TRL's own divides by the batch and not by the tokens
            normalizer = tokens
        return distillation_loss(
            student_logits,
            teacher_logits,
            "generalized_jsd",
            mask,
            beta=beta,
            temperature=temperature,
            normalizer=normalizer,
        )

    # To choose another objective, or to let the gradient take the place of the logits and so
    # save its memory, override compute_loss too.  Here nothing reads the logits after the loss.
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if return_outputs:  # evaluation hands the logits on
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        both = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        student = model(**both).logits[:, :-1]
        with torch.no_grad():
            teacher = self.teacher_model.eval()(**both).logits[:, :-1]
        mask = inputs["labels"][:, 1:] != -100
        return distillation_loss(
            student,
            teacher,
            "generalized_jsd",
            mask,
            beta=self.beta,
            normalizer=self.normalizer(mask, num_items_in_batch),
            overwrite_logits=True,
        )

    def normalizer(self, mask, num_items_in_batch):
        """What each rank divides its sum by, if the ranks' gradients are averaged afterwards."""
        if num_items_in_batch is None:  # the mean; the Trainer divides by the micro-batches
            return None
        if self.lmbda > 0:
            # The labels are those of freshly drawn texts, num_items_in_batch counts the data
            # set's.  So: the tokens of this micro-batch on all ranks, times the micro-batches.
            # DistillationTrainer counts the drawn tokens of all micro-batches.
            return token_count(mask) * getattr(self, "current_gradient_accumulation_steps", 1)
        if self.args.average_tokens_across_devices:  # it counts the tokens of all ranks
            return num_items_in_batch / self.accelerator.num_processes
        return num_items_in_batch


class FusedDistillationTrainer(DistillationTrainer):
    """DistillationTrainer with the loss from hidden states and heads.

    For heads without bias, scale or cap.
    """

    def _compute_loss(self, student, inputs, num_items_in_batch):
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
        attention = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
        mask, keep = inputs["completion_mask"], inputs["completion_ids"].shape[1]
        teacher = self.accelerator.unwrap_model(self.teacher_model).eval()
        hidden = self._get_last_hidden_state(student, ids, attention, keep)
        with torch.no_grad():
            target = self._get_last_hidden_state(teacher, ids, attention, keep)
        loss = fused_linear_distillation_loss(
            hidden,
            student.get_output_embeddings().weight,
            target,
            teacher.get_output_embeddings().weight,
            "generalized_jsd",
            mask,
            beta=self.beta,
            temperature=self.temperature,
            normalizer=num_items_in_batch,
        )
        entropies = torch.zeros_like(loss)  # TRL logs their sum, which this loss does not need
        return loss, entropies, mask.sum()


# --- tiny models and data, made on the spot ------------------------------------------------


def tiny_model(seed, width=32, vocabulary=64):
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
        initializer_range=0.3,
    )
    return Qwen2ForCausalLM(config)


def tiny_tokenizer():
    """One token a character."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<end>", "<unknown>", *"abcdefghijklmnopqrstuvwxyz0123456789 :+=.\n"]
    tokenizer = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unknown>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<end>",
        unk_token="<unknown>",
        padding_side="left",
    )
    fast.chat_template = (
        "{% for m in messages %}{{ m['content'] }}"
        "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    )
    return fast


def tiny_sums(count=32):
    """Conversations whose answers differ in length, and prompts alone."""
    from datasets import Dataset

    pairs = [(7 * i % 10, 3**i % 17) for i in range(count)]
    messages = [
        [
            {"role": "user", "content": f"{a}+{b}="},
            {"role": "assistant", "content": f"{a + b}" + "." * (a % 4)},
        ]
        for a, b in pairs
    ]
    prompts = [conversation[:1] for conversation in messages]
    return Dataset.from_dict({"messages": messages}), Dataset.from_dict({"prompt": prompts})


SMALL = {
    "report_to": "none",
    "use_cpu": not torch.cuda.is_available(),
    "bf16": False,
    "learning_rate": 3e-3,
    "lr_scheduler_type": "constant",
    "logging_steps": 1,
    "save_strategy": "no",
    "disable_tqdm": True,
    "seed": 1,
}


def gkd(folder, trainer=ExactGKDTrainer, **settings):
    """A trainer on the tiny models.

    lmbda = 1 draws every text from the student, 0 takes the data set's.
    """
    configuration = GKDConfig(
        **{
            "output_dir": folder,
            "max_steps": 20,
            "per_device_train_batch_size": 8,
            "lmbda": 0.0,
            "beta": 0.5,
            "max_new_tokens": 6,
            "max_length": 32,
            **SMALL,
            **settings,
        }
    )
    return trainer(
        model=tiny_model(0),
        teacher_model=tiny_model(1),
        args=configuration,
        train_dataset=tiny_sums()[0],
        processing_class=tiny_tokenizer(),
    )


def distillation(folder, trainer=FusedDistillationTrainer, **settings):
    """The newer trainer: always on the student's own texts."""
    configuration = DistillationConfig(
        **{
            "output_dir": folder,
            "max_steps": 20,
            "per_device_train_batch_size": 8,
            "beta": 1.0,
            "max_completion_length": 6,
            **SMALL,
            **settings,
        }
    )
    return trainer(
        model=tiny_model(0),
        teacher_model=tiny_model(1),
        args=configuration,
        train_dataset=tiny_sums()[1],
        processing_class=tiny_tokenizer(),
    )


def losses(trainer):
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        for name, make, settings in (
            ("GKDTrainer, on the data set", gkd, {}),
            ("GKDTrainer, on the student's texts", gkd, {"lmbda": 1.0}),
            ("DistillationTrainer", distillation, {}),
        ):
            curve = losses(make(folder, **settings))
            first, last = f"{curve[0]:.3f} at the first step", f"{curve[-1]:.3f} at the last"
            print(f"{name}: loss {first}, {last} of {len(curve)}")
