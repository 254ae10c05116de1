"""TorchRL: its DistillationLoss, in both directions."""

import types
from functools import partial

import torch

from opd_toy.audit.exhibits.libraries.library_loss import DRAWN, LibraryLoss, log_probabilities
from opd_toy.audit.exhibits.libraries.loading import load

MODULE = "torchrl.objectives.llm.distillation"
WITHOUT = (
    "torchrl.data",
    "torchrl.modules.llm.policies.transformers_wrapper",
    "torchrl.objectives.common",
)

# --- adapters --------------------------------------------------------------------------


class Given(dict):
    """What ``forward`` asks of a TensorDict: entries that are lists of texts."""

    ndim, device = 1, torch.device("cpu")

    def get(self, key, default=None, as_list=False):
        return super().get(key, default)

    def select(self, *_):
        return self


def distillation(student, teacher, token, *, kl_direction):
    """``DistillationLoss.forward`` of a text of one token; a plain namespace has its settings."""
    loss = load(MODULE, WITHOUT).DistillationLoss
    mine, theirs = (x.reshape(1) for x in log_probabilities(student, teacher, token))
    keys, mask = loss._AcceptedKeys(), [torch.ones(1)]
    text = {
        keys.history: None,
        keys.teacher_log_prob: [theirs],
        ("masks", "all_assistant_mask"): mask,
        ("masks", "all_attention_mask"): mask,
    }
    module = types.SimpleNamespace(
        tensor_keys=keys,
        actor_network=lambda _: Given({keys.log_probs: [mine]}),
        assistant_only=True,
        kl_direction=kl_direction,
        normalize_by_seq_length=True,
        reduction="mean",
        _device_fallback=torch.empty(0),
    )
    module._get_masks = types.MethodType(loss._get_masks, module)
    return loss.forward(module, Given(text)).loss_distill


# --- what is audited -------------------------------------------------------------------


def _distillation(direction, *, drawn_from, when, note, name=""):
    return LibraryLoss(
        id=f"torchrl-{direction}{name}",
        library="torchrl",
        function=f"{MODULE}.DistillationLoss",
        option=f'kl_direction="{direction}"',
        estimator=DRAWN,
        drawn_from=drawn_from,
        adapter=partial(distillation, kl_direction=direction),
        when_you_want_it=when,
        note=note,
        without=WITHOUT,
    )


LOSSES = (
    _distillation(
        "reverse",
        drawn_from="student",
        when="forward KL from the student's own tokens",
        note="the default; its documentation says that the score term is left out and the "
        "gradient is the forward KL's: the name is that of the value logged",
    ),
    _distillation(
        "forward",
        drawn_from="teacher",
        when="forward KL from the teacher's tokens",
        note="tokens drawn from the teacher",
    ),
    _distillation(
        "forward",
        name="-student-tokens",
        drawn_from="student",
        when='never: for the student\'s own tokens there is kl_direction="reverse"',
        note="on the student's tokens, which its documentation advises against",
    ),
)
