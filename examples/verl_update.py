"""One update of an actor by verl 0.9.1's own code, on tiny models and on processors.

verl's are: DataProto, the conversion to unpadded texts, the FSDP2 engine with its micro-batches,
distillation_ppo_loss with its masks and its mean, the optimiser's step.  Not verl's: the texts
and the teacher.  In a run of verl.trainer.main_ppo ray's workers call the same engine, and a
server (vLLM or SGLang) draws the texts and evaluates the teacher; both need cards.
"""

import contextlib
import sys
import tempfile
from functools import partial
from importlib.util import find_spec
from unittest.mock import MagicMock

import torch
import verl.models.transformers.monkey_patch
from trl_gkd_trainer import tiny_model
from verl import DataProto
from verl.plugin.platform import set_platform
from verl.plugin.platform.platform_cuda import PlatformCUDA
from verl.trainer.config import CheckpointConfig
from verl.trainer.distillation.losses import distillation_ppo_loss
from verl.utils.tensordict_utils import assign_non_tensor
from verl.workers import config as verl_config
from verl.workers.utils.padding import left_right_2_no_padding

TEXTS, PROMPT, RESPONSE, VOCABULARY = 8, 3, 6, 64
# verl 0.9.1 patches a class of TRL's that trl 1.16 has moved; nothing here uses it.
verl.models.transformers.monkey_patch.is_trl_available = lambda: False


class Processors(PlatformCUDA):
    """verl has no platform without cards.  With cards: no set_platform, and nccl for gloo."""

    device_name, vendor_name, device_module = "cpu", "none", torch.cpu

    def current_device(self):
        return torch.device("cpu")


def processors():
    """Two processes that compute on processors and talk by gloo."""
    set_platform(Processors())
    torch.distributed.init_process_group("gloo")


def texts():
    """Texts as verl's rollout leaves them: prompts padded on the left, responses on the right."""
    draw = partial(torch.randint, generator=torch.Generator().manual_seed(0))
    ids = draw(3, VOCABULARY, (TEXTS, PROMPT + RESPONSE))
    before, after = draw(0, PROMPT, (TEXTS, 1)), draw(2, RESPONSE + 1, (TEXTS, 1))
    place = torch.arange(PROMPT + RESPONSE)
    attention = ((place >= before) & (place < PROMPT + after)).long()
    mask = attention[:, PROMPT:].clone()
    mask[2, 1] = 0  # as of the output of a tool
    return {
        "prompts": ids[:, :PROMPT],
        "responses": ids[:, PROMPT:],
        "input_ids": ids,
        "attention_mask": attention,
        "position_ids": (attention.cumsum(1) - 1).clamp_min(0),
        "response_mask": mask,
    }


def logits(model, batch):
    """(B, L, V): at each place those of the next token."""
    names = ("input_ids", "attention_mask", "position_ids")
    return model(**{name: batch[name] for name in names}).logits


def engine_class():
    """verl's FSDP engine.  It asks for the device, and for peft, which LoRA alone would use."""
    names = ("peft", "peft.utils", "peft.utils.save_and_load")
    absent = {} if find_spec("peft") else {name: MagicMock() for name in names}
    sys.modules.update(absent)
    from verl.workers.engine.fsdp import FSDPEngineWithLMHead

    for name in absent:
        del sys.modules[name]
    return FSDPEngineWithLMHead


def engine(folder):
    """The engine on the tiny model, sharded (FSDP2)."""
    folders = [folder]  # process 0 writes the model, all read it
    torch.distributed.broadcast_object_list(folders)
    tiny_model(0).save_pretrained(folders[0], is_main_process=torch.distributed.get_rank() == 0)
    torch.distributed.barrier()
    made = engine_class()(
        verl_config.HFModelConfig(
            path=folders[0],
            load_tokenizer=False,
            override_config={"attn_implementation": "sdpa"},
            use_remove_padding=False,  # with flash attention: True
            enable_gradient_checkpointing=False,
        ),
        verl_config.FSDPEngineConfig(
            strategy="fsdp2", mixed_precision={"param_dtype": "fp32"}, use_torch_compile=False
        ),
        verl_config.FSDPOptimizerConfig(lr=1e-3, total_training_steps=1, clip_grad=1e9),
        CheckpointConfig(),
    )
    made.initialize()
    return made


def update(batch, loss_mode, k):
    """One update by verl, on this process's share of the texts: its loss and gradient (P,)."""
    options = verl_config.DistillationLossConfig(
        loss_mode=loss_mode,
        topk=k,
        use_task_rewards=False,
        use_policy_gradient=False,
        loss_max_clamp=None,
        log_prob_min_clamp=None,
    )
    loss_function = partial(
        distillation_ppo_loss,
        verl_config.FSDPActorConfig(rollout_n=1, ppo_micro_batch_size_per_gpu=2),
        verl_config.DistillationConfig(distillation_loss=options),
    )
    rank, ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
    mine = {name: values.chunk(ranks)[rank] for name, values in batch.items()}
    data = DataProto.from_dict(mine, meta_info={"temperature": 1.0}).to_tensordict()
    data = left_right_2_no_padding(data)
    assign_non_tensor(
        data,
        distillation_use_topk=options.loss_settings.use_topk,
        global_batch_size=TEXTS,
        use_dynamic_bsz=False,
        micro_batch_size_per_gpu=2,
        use_remove_padding=False,
    )
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        made, gradient = engine(folder), []

        def keep(*_):
            parts = [parameter.grad.full_tensor() for parameter in made.module.parameters()]
            gradient.append(torch.cat([part.flatten() for part in parts]))

        made.optimizer.register_step_pre_hook(keep)
        with made.train_mode():
            losses = made.train_batch(data, loss_function)["loss"]  # one a micro-batch
    total = torch.tensor(sum(losses))
    torch.distributed.all_reduce(total)
    return total.item() / ranks, gradient[0]
