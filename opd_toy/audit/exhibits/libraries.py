"""What the distillation losses of TRL, Liger, verl and tinker-cookbook optimise, by their own code.

``LIBRARY_LOSSES`` has an adapter for every function and option audited: it brings one
position (or one text) into the shapes that the library wants, calls the library, and
returns its loss.  Nothing of a library is written again here; where a function is a
method, it gets a plain namespace in the place of its trainer.  ``PRACTITIONERS`` says
which setting of which library does what, each cell with the audit that shows it.

``python -m opd_toy.audit.exhibits.libraries`` prints the record of figures/, ``--record`` makes
it anew with the libraries of ``make peers``; ``make audit-peers`` does both.
"""

import argparse
import asyncio
import collections
import json
import os
import types
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import torch

RECORD = Path(__file__).parents[3] / "figures" / "library-audits.json"
MODULES = ["opd_toy.audit.exhibits.libraries"]
FILES = ["requirements-peers.txt"]
PACKAGES = ("trl", "liger-kernel", "verl", "tinker-cookbook")
SEED = 0


@dataclass(frozen=True)
class LibraryLoss:
    """A function of a library with its options, as a loss that can be audited.

    ``adapter`` takes student_logits (V,), teacher_logits (V,) and a token and returns
    a scalar; with ``kind`` "sequence" it takes (T, V), (T, V), tokens (T,), and a mask (T,)
    where the function has one, with "batch" the same behind an axis of texts.
    """

    id: str
    library: str
    function: str
    option: str
    adapter: Callable
    when_you_want_it: str
    note: str = ""
    kind: str = "token"
    drawn_from: str = "student"


# --- verl ------------------------------------------------------------------------------


def _log_probabilities(student, teacher, token):
    """Of the token under both, shape (); the teacher's as data, as every library here has it."""
    return student.log_softmax(-1)[token], teacher.detach().log_softmax(-1)[token]


def verl_kl_penalty(student, teacher, token, *, kind):
    from verl.trainer.ppo.core_algos import kl_penalty

    return kl_penalty(*_log_probabilities(student, teacher, token), kind)


def verl_distillation(student, teacher, token, **options):
    """``distillation_loss`` of one text of one token."""
    return _verl_distillation(
        student[None, None], teacher[None, None], token.reshape(1, 1), **options
    )


def verl_texts(student, teacher, tokens, mask, *, loss_agg_mode):
    """``distillation_loss`` of a batch of texts (B, T), k2."""
    return _verl_distillation(
        student,
        teacher,
        tokens,
        mask,
        loss_agg_mode=loss_agg_mode,
        loss_mode="k2",
        use_policy_gradient=False,
        **IN_YAML,
    )


def _verl_distillation(student, teacher, tokens, mask=None, loss_agg_mode="token-mean", **options):
    from tensordict import TensorDict
    from verl.trainer.distillation.losses import distillation_loss

    texts, length = tokens.shape
    ones = tokens.new_ones(texts, length + 1)
    mask = ones[:, 1:] if mask is None else mask.long()
    at = tokens.masked_fill(mask == 0, 0)[..., None]
    mine, theirs = (
        x.log_softmax(-1).gather(-1, at).squeeze(-1) for x in (student, teacher.detach())
    )
    # verl keeps a prompt in front and, behind the last token, a number that it cuts off.
    unpadded = lambda values: torch.cat([values, values.new_zeros(texts, 1)], 1).reshape(-1)
    data = TensorDict(
        {
            "prompts": tokens.new_zeros(texts, 1), "responses": tokens, "attention_mask": ones, "response_mask": mask,
            "teacher_logprobs": unpadded(theirs)[:, None], "old_log_probs": mine.detach(),
            "dp_size": torch.tensor(1), "batch_num_tokens": mask.sum(), "global_batch_size": torch.tensor(texts),
        },
        batch_size=[],
    )  # fmt: skip
    actor, distillation = _verl_configurations(loss_agg_mode, **options)
    return distillation_loss(actor, distillation, {"log_probs": unpadded(mine)}, data)[0]


@cache
def _verl_configurations(loss_agg_mode, **options):
    from verl.workers.config import ActorConfig, DistillationConfig, DistillationLossConfig

    actor = ActorConfig(
        strategy="fsdp", rollout_n=1, ppo_micro_batch_size_per_gpu=1, loss_agg_mode=loss_agg_mode
    )
    return actor, DistillationConfig(distillation_loss=DistillationLossConfig(**options))


def verl_top_k(student, teacher, *, k, clamp=None, negative=False):
    """The loss of the logit processor, then the clamp of its negative values; ``negative``: without that."""
    from tensordict import TensorDict
    from verl.trainer.distillation import losses
    from verl.trainer.distillation.fsdp.losses import compute_forward_kl_topk

    # Its divergence is in float32, whatever comes in: so is all else here.
    values, ids = teacher.detach().float().log_softmax(-1).topk(k)
    nested = lambda row: torch.nested.nested_tensor([row[None]], layout=torch.jagged)
    _, options = _verl_configurations(
        "token-mean",
        loss_mode="forward_kl_topk",
        use_policy_gradient=False,
        loss_max_clamp=None,
        log_prob_min_clamp=clamp,
        topk=k,
    )
    found = compute_forward_kl_topk(
        student.float()[None, None], nested(values), nested(ids), options, "thd"
    )
    if negative:
        return found["distillation_losses"].sum()
    # The response begins behind a prompt of one token, whose place in the output is the first.
    padded = {name: torch.cat([x[0], x[0]]) for name, x in found.items()}
    one = torch.ones(1, 1, dtype=torch.int64)
    data = {
        "prompts": one,
        "responses": one,
        "attention_mask": torch.cat([one, one], 1),
        "response_mask": one,
    }
    return losses.compute_forward_kl_topk(None, options, padded, TensorDict(data, batch_size=[]))[
        0
    ].sum()


# --- TRL -------------------------------------------------------------------------------


def trl_gkd(student, teacher, **options):
    from trl.experimental.gkd import GKDTrainer

    return GKDTrainer.generalized_jsd_loss(
        student[None, None], teacher.detach()[None, None], **options
    )


def trl_gkd_texts(student, teacher, tokens, mask, *, labelled):
    """A batch (B, T, V) of texts at beta = 1, with labels that leave masked positions out, or without labels."""
    from trl.experimental.gkd import GKDTrainer

    labels = tokens.masked_fill(mask == 0, -100) if labelled else None
    return GKDTrainer.generalized_jsd_loss(student, teacher.detach(), labels=labels, beta=1)


def trl_distillation(student, teacher, *, beta):
    """The loss of DistillationTrainer, on hidden states that an identity for a head makes the logits."""
    from trl.trainer.distillation_trainer import _chunked_divergence_loss

    head = torch.eye(len(student), dtype=student.dtype)
    return _chunked_divergence_loss(
        student[None, None], teacher.detach()[None, None], head, head, torch.ones(1, 1), beta
    )[0]


def trl_gold_probabilities(student, teacher, *, beta):
    from trl.experimental.gold.gold_trainer import GOLDTrainer

    return GOLDTrainer.generalized_jsd_loss(
        student.softmax(-1)[None],
        teacher.detach().softmax(-1)[None],
        beta=beta,
        logits_are_probs=True,
    )


def trl_iw_opd_top_k(student, teacher, **options):
    from trl.experimental.iw_opd.iw_opd_trainer import IWOPDTrainer

    return IWOPDTrainer.generalized_jsd_loss(
        student[None, None], teacher.detach()[None, None], **options
    )


def trl_iw_opd(student, teacher, tokens, *, gamma=0.5):
    """(T, V), (T, V), tokens (T,)."""
    from trl.experimental.iw_opd.iw_opd_trainer import IWOPDTrainer

    trainer = types.SimpleNamespace(
        temperature=1.0,
        iw_opd_gamma=gamma,
        iw_opd_epsilon=1e-8,
        model=types.SimpleNamespace(training=True),
        _metrics=_metrics(),
    )
    theirs = teacher.detach().log_softmax(-1).gather(-1, tokens[:, None]).squeeze(-1)
    return IWOPDTrainer._compute_iw_opd_loss(
        trainer, student[None], tokens[None], tokens[None], theirs[None]
    )


def trl_server(student, teacher, token, *, add_tail):
    """The sampled token's divergence of ServerDistillationTrainer at beta = 1."""
    from trl.experimental.server_distillation.server_distillation_trainer import (
        ServerDistillationTrainer,
    )

    trainer = types.SimpleNamespace(
        beta=1.0,
        loss_add_tail=add_tail,
        _reduce_divergence_loss=ServerDistillationTrainer._reduce_divergence_loss,
    )
    theirs = teacher.detach().log_softmax(-1)
    drawn, first = token.reshape(1, 1), theirs.argmax().reshape(1, 1)
    return ServerDistillationTrainer._compute_sparse_top_1_divergence_loss(
        trainer, student.log_softmax(-1)[None, None], first, theirs[first], drawn, theirs[drawn], labels=drawn
    )  # fmt: skip


def trl_sdft_full(student, teacher, *, alpha):
    from trl.experimental.sdft.loss_utils import compute_full_logit_self_distillation_loss

    return compute_full_logit_self_distillation_loss(
        student[None, None], teacher.detach()[None, None], distillation_alpha=alpha
    ).sum()


def trl_sdft_top_k(student, teacher, *, k, alpha, add_tail):
    from trl.experimental.sdft.loss_utils import compute_topk_self_distillation_loss

    return compute_topk_self_distillation_loss(
        student[None, None], teacher.detach()[None, None], distillation_topk=k, distillation_alpha=alpha, distillation_add_tail=add_tail
    ).sum()  # fmt: skip


def trl_sdpo_token(student, teacher, token):
    from trl.experimental.sdpo.loss_utils import compute_sampled_token_self_distillation_loss

    return compute_sampled_token_self_distillation_loss(
        student[None, None],
        teacher.detach()[None, None],
        token.reshape(1, 1),
        distillation_alpha=1.0,
    ).sum()


def trl_grpo(student, teacher, token, *, use_bias_correction_kl):
    """GRPOTrainer's loss of one token without a reward: its KL term, on the policy that drew, at beta = 1."""
    from trl import GRPOTrainer

    mine, theirs = _log_probabilities(student, teacher, token)
    same = types.SimpleNamespace(reduce=lambda x, reduction: x, gather=lambda x: x, num_processes=1)
    trainer = types.SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *_, **__: (mine.reshape(1, 1), torch.zeros(1, 1), None),
        model=types.SimpleNamespace(training=False), args=types.SimpleNamespace(use_bias_correction_kl=use_bias_correction_kl, delta=None),
        beta=1.0, loss_type="dapo", importance_sampling_level="token", top_entropy_quantile=1.0, epsilon_low=0.2, epsilon_high=0.2,
        off_policy_mask_threshold=None, use_vllm=False, aux_loss_enabled=False, _entropy_bonus_enabled=False, accelerator=same, _metrics=_metrics(),
    )  # fmt: skip
    ones, ids = torch.ones(1, 1, dtype=torch.int64), token.reshape(1, 1)
    inputs = {
        "prompt_ids": ids,
        "prompt_mask": ones,
        "completion_ids": ids,
        "completion_mask": ones,
        "advantages": torch.zeros(1),
        "ref_per_token_logps": theirs.reshape(1, 1),
        "num_items_in_batch": torch.tensor(1),
    }
    return GRPOTrainer._compute_loss(trainer, None, inputs)


def _metrics():
    return collections.defaultdict(lambda: collections.defaultdict(list))


# --- Liger -----------------------------------------------------------------------------


def liger_jsd(student, teacher, token, **options):
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    # Its cross-entropy is in float32, whatever comes in: so is all else here.
    head = torch.eye(len(student))
    return LigerFusedLinearJSDLoss(compiled=False, **options)(
        student.float()[None], head, teacher.detach().float()[None], head, token.reshape(1)
    )


def liger_grpo(student, teacher, token, *, use_bias_correction_kl):
    """The KL term alone: no reward, at beta = 1, on the policy that drew."""
    from liger_kernel.chunked_loss import LigerFusedLinearGRPOLoss

    _, theirs = _log_probabilities(student, teacher, token)
    loss = LigerFusedLinearGRPOLoss(
        beta=1.0, compiled=False, use_bias_correction_kl=use_bias_correction_kl
    )
    head, one = torch.eye(len(student), dtype=student.dtype), torch.ones(1, 1, dtype=student.dtype)
    return loss(
        student[None, None],
        head,
        token.reshape(1, 1),
        one,
        torch.zeros(1, dtype=student.dtype),
        ref_per_token_logps=theirs.reshape(1, 1),
    )[0]


# --- tinker-cookbook -------------------------------------------------------------------


def tinker_texts(student, teacher, tokens, mask, *, module, discount):
    """-Σ (π/π_old) A with the advantages that ``incorporate_kl_penalty`` makes.

    The sum is the service's "importance_sampling" loss, which the package does not hold;
    as there, it goes over all positions: the mask is taken off before the data are sent,
    and log π_old is 0 where the student did not draw.
    """
    tokens = tokens.masked_fill(mask == 0, 0)
    # The service answers in float32: so is all else here.
    mine, theirs = (
        x.float().log_softmax(-1).gather(-1, tokens[:, None]).squeeze(-1)
        for x in (student, teacher.detach())
    )
    advantages = tinker_advantages(mine.detach(), theirs, tokens, mask, module, discount)
    return -((mine - mine.detach() * mask).exp() * advantages).sum()


def tinker_advantages(student, teacher, tokens, mask, module, discount):
    """log-probabilities (T,) of the tokens, and the mask (T,) of those that the student drew -> advantages (T,)."""
    import tinker
    from tinker_cookbook.distillation import train_on_policy
    from tinker_cookbook.rl import metrics

    numbers = tokens.tolist()
    inputs = {
        "target_tokens": tokens,
        "logprobs": student * mask,
        "advantages": torch.zeros(len(tokens)),
        "mask": mask.float(),
    }
    text = tinker.Datum(
        model_input=tinker.ModelInput.from_ints([0] + numbers[:-1]),
        loss_fn_inputs={name: tinker.TensorData.from_torch(x) for name, x in inputs.items()},
    )
    scored = [None] + teacher.tolist()

    async def answer(reply):
        return reply

    # The services that hold the teacher: all they do here is to answer with its log-probabilities.
    reply = types.SimpleNamespace(prompt_logprobs=scored, sequences=[], prompt_cache_hit_tokens=0)
    service = types.SimpleNamespace(
        compute_logprobs=lambda _: types.SimpleNamespace(coroutine=lambda: answer(scored)),
        sample=lambda **_: types.SimpleNamespace(coroutine=lambda: answer(reply)),
    )
    if module == "distillation":
        work = train_on_policy.incorporate_kl_penalty([text], [service], [0], 1.0, discount)
    else:
        work = metrics.incorporate_kl_penalty([text], service, 1.0, discount)
    asyncio.run(work)
    return text.loss_fn_inputs["advantages"].to_torch()


# --- the table -------------------------------------------------------------------------

K_ESTIMATORS = {
    "k1": ("never as a loss: it is for logging, and as a reward", "verl's own configuration refuses to backpropagate k1"),
    "k2": ("reverse KL from the token drawn, with tokens the current student drew", '"mse" is another name for it'),
    "k3": ("forward KL from the student's own tokens while the two are close; as a number for the log, a KL estimate that is never negative", '"low_var_kl" is another name for it'),
    "k1+": ("reverse KL from the token drawn, logged as k1", "the straight-through form: k1's value, k2's gradient"),
    "k3+": ("reverse KL from the token drawn, logged as k3", "the straight-through form: k3's value, k2's gradient"),
    "abs": ("none of the divergences: its gradient looks at the sign of log p − log q alone", ""),
    "full": ("not yet: the branch raises NotImplementedError", ""),
}  # fmt: skip
KL, DISTILL = (
    "verl.trainer.ppo.core_algos.kl_penalty",
    "verl.trainer.distillation.losses.distillation_loss",
)
GKD, IW, SDFT = (
    "trl.experimental.gkd.GKDTrainer.generalized_jsd_loss",
    "trl.experimental.iw_opd.iw_opd_trainer.IWOPDTrainer",
    "trl.experimental.sdft.loss_utils.",
)
CHUNKED, GRPO = (
    "trl.trainer.distillation_trainer._chunked_divergence_loss",
    "trl.GRPOTrainer._compute_loss",
)
LIGER = "liger_kernel.chunked_loss.LigerFusedLinearJSDLoss"
TINKER = "tinker_cookbook.distillation.train_on_policy.incorporate_kl_penalty"
FORWARD, REVERSE, BETWEEN = (
    "a student that covers all the teacher does",
    "a student that stays where the teacher is sure",
    "a bounded loss between the two KLs",
)
IN_YAML = {"loss_max_clamp": None, "log_prob_min_clamp": None}


def _verl():
    for kind, (when, note) in K_ESTIMATORS.items():
        yield LibraryLoss(
            f"verl-{kind}",
            "verl",
            KL,
            f'kl_penalty="{kind}", differentiated',
            partial(verl_kl_penalty, kind=kind),
            when,
            note,
        )
    distillation = (
        ("k3", {"loss_mode": "k3", "use_policy_gradient": False, **IN_YAML}, "forward KL from the student's own tokens", "the default of the trainers, which read distillation.yaml; the dataclass alone has other defaults"),
        ("k2", {"loss_mode": "k2", "use_policy_gradient": False, **IN_YAML}, REVERSE + ", from the token drawn", ""),
        ("k1-reward", {"loss_mode": "k1", "use_policy_gradient": True, **IN_YAML}, REVERSE + ", from the token drawn", "what verl's documentation recommends beside policy gradients"),
        ("k1-reward-clamped", {"loss_mode": "k1", "use_policy_gradient": True, "loss_max_clamp": 10.0}, REVERSE + ", with a bound on any one token's say", "the dataclass's clamp"),
        ("k2-reward", {"loss_mode": "k2", "use_policy_gradient": True, **IN_YAML}, "none of the divergences", "k1 is the reward to take: with this one the notes' student ends without the teacher's first token (fixed_point in the report)"),
        ("k3-reward", {"loss_mode": "k3", "use_policy_gradient": True, **IN_YAML}, "none of the divergences", "k1 is the reward to take: with this one the notes' student ends without the teacher's first token (fixed_point in the report)"),
        ("dataclass", {}, "none of the divergences", "DistillationLossConfig() without distillation.yaml: k3 as a reward, clamped"),
    )  # fmt: skip
    for name, options, when, note in distillation:
        words = (
            ", ".join(f"{key}={value}" for key, value in options.items())
            or "DistillationLossConfig()"
        )
        yield LibraryLoss(
            f"verl-distillation-{name}",
            "verl",
            DISTILL,
            words,
            partial(verl_distillation, **options),
            when,
            note,
        )
    top = "verl.trainer.distillation.fsdp.losses.compute_forward_kl_topk"
    when = "forward KL where the teacher's server sends only its first K, with K so large that next to nothing is left out"
    for name, k, clamp, negative in (
        ("1-processor", 1, None, True),
        ("2-processor", 2, None, True),
        ("2", 2, None, False),
        ("2-clamped", 2, -10.0, False),
    ):
        option = f"loss_mode=forward_kl_topk, use_policy_gradient=False, topk={k}" + (
            f", log_prob_min_clamp={clamp:g}" if clamp else ""
        )
        note = (
            "the logit processor alone"
            if negative
            else "its negative values are set to 0 behind the logit processor (clamp_min), and with them their gradient"
        )
        yield LibraryLoss(
            f"verl-top-{name}",
            "verl",
            top,
            option,
            partial(verl_top_k, k=k, clamp=clamp, negative=negative),
            when,
            note,
        )
    for mode in ("token-mean", "seq-mean-token-sum", "seq-mean-token-mean"):
        yield LibraryLoss(
            f"verl-{mode}",
            "verl",
            DISTILL,
            f'loss_agg_mode="{mode}", loss_mode=k2',
            partial(verl_texts, loss_agg_mode=mode),
            "see the normaliser found",
            "" if mode != "token-mean" else "the default",
            "batch",
        )


def _trl():
    for beta, when in (
        (0, FORWARD),
        (0.5, BETWEEN),
        (0.999, "rarely: see the scale; take beta = 1 for the reverse KL"),
        (1, REVERSE),
    ):
        yield LibraryLoss(
            f"trl-gkd-{beta}",
            "trl",
            GKD,
            f"beta={beta}, temperature=1",
            partial(trl_gkd, beta=beta),
            when,
        )
    for temperature in (0.9, 2.0):
        note = (
            "for callers of the function; GKDTrainer leaves it at 1"
            if temperature == 0.9
            else "no factor T²: a change of temperature changes the step size too"
        )
        yield LibraryLoss(
            f"trl-gkd-0-temperature-{temperature:g}",
            "trl",
            GKD,
            f"beta=0, temperature={temperature:g}",
            partial(trl_gkd, beta=0, temperature=temperature),
            FORWARD + ", of softened models",
            note,
        )
    for labelled in (True, False):
        yield LibraryLoss(
            "trl-gkd-labels" if labelled else "trl-gkd-no-labels", "trl", GKD, "beta=1, labels given" if labelled else "beta=1, no labels", partial(trl_gkd_texts, labelled=labelled),
            "always in training: padding is left out" if labelled else "on logits that hold valid positions only, with texts of equal length", "", "batch",
        )  # fmt: skip
    for beta, when in ((0.0, FORWARD), (0.5, BETWEEN), (1.0, REVERSE)):
        yield LibraryLoss(
            f"trl-distillation-{beta:g}",
            "trl",
            CHUNKED,
            f"beta={beta:g}",
            partial(trl_distillation, beta=beta),
            when,
            "DistillationTrainer's default" if beta == 1 else "",
        )
    yield LibraryLoss(
        "trl-gold-probabilities",
        "trl",
        "trl.experimental.gold.gold_trainer.GOLDTrainer.generalized_jsd_loss",
        "beta=0.5, logits_are_probs=True",
        partial(trl_gold_probabilities, beta=0.5),
        BETWEEN,
        "probabilities below 1e-8 are lifted to 1e-8",
    )
    for beta, tail in ((0, True), (0, False), (1, True), (1, False)):
        side = "teacher" if beta == 0 else "student"
        yield LibraryLoss(
            f"trl-iw-opd-top-2-{beta}-{'tail' if tail else 'renormalized'}", "trl", f"{IW}.generalized_jsd_loss", f"beta={beta}, top_k=2, add_tail={tail}", partial(trl_iw_opd_top_k, beta=beta, top_k=2, add_tail=tail),
            (FORWARD if beta == 0 else REVERSE) + f", on the {side}'s first K", "the rest is one more outcome" if tail else "the rest gets no gradient",
        )  # fmt: skip
    yield LibraryLoss(
        "trl-iw-opd",
        "trl",
        f"{IW}._compute_iw_opd_loss",
        "iw_opd_gamma=0.5, of a text",
        trl_iw_opd,
        "the update of its paper: tokens after large disagreements count less",
        "the default of IWOPDTrainer",
        "sequence",
    )
    for tail in (True, False):
        yield LibraryLoss(
            f"trl-server-{'tail' if tail else 'no-tail'}", "trl", "trl.experimental.server_distillation.server_distillation_trainer.ServerDistillationTrainer._compute_sparse_top_1_divergence_loss",
            f'beta=1, loss_top_k=1, reverse_kl_top_1_mode="sampled", loss_add_tail={tail}', partial(trl_server, add_tail=tail),
            "a teacher behind a server that scores only the tokens drawn" if tail else "never: renormalized on one token every pair of models is alike", "the default; the token drawn against all others as one outcome: no divergence of the whole vocabulary, but its minimum is the teacher" if tail else "",
        )  # fmt: skip
    for alpha, when in ((0.0, FORWARD), (0.5, BETWEEN), (1.0, REVERSE)):
        yield LibraryLoss(
            f"trl-sdft-full-{alpha:g}",
            "trl",
            SDFT + "compute_full_logit_self_distillation_loss",
            f'distillation_mode="full_logits", distillation_alpha={alpha:g}',
            partial(trl_sdft_full, alpha=alpha),
            when,
            "SDPO has the same file",
        )
    for alpha, tail in ((0.0, False), (0.5, False), (1.0, False), (1.0, True)):
        yield LibraryLoss(
            f"trl-sdft-top-2-{alpha:g}-{'tail' if tail else 'renormalized'}", "trl", SDFT + "compute_topk_self_distillation_loss",
            f'distillation_mode="topk_logits", distillation_topk=2, distillation_alpha={alpha:g}, distillation_add_tail={tail}', partial(trl_sdft_top_k, k=2, alpha=alpha, add_tail=tail),
            "less memory than all of the vocabulary", "alpha 0.5 without a tail is SDFTConfig's default, with K = 100" if (alpha, tail) == (0.5, False) else "",
        )  # fmt: skip
    yield LibraryLoss(
        "trl-sdpo-token",
        "trl",
        "trl.experimental.sdpo.loss_utils.compute_sampled_token_self_distillation_loss",
        'distillation_mode="sampled_token"',
        trl_sdpo_token,
        REVERSE + ", from the token drawn",
        "SDPOConfig's default",
    )
    for corrected in (True, False):
        yield LibraryLoss(
            f"trl-grpo-kl{'' if corrected else '-uncorrected'}", "trl", GRPO, f"beta=1, use_bias_correction_kl={corrected}, no reward", partial(trl_grpo, use_bias_correction_kl=corrected),
            REVERSE + ", beside a reward" if corrected else "forward KL from the student's own tokens, beside a reward", "the default of this version" if corrected else "the default of earlier versions",
        )  # fmt: skip


def _liger():
    plain = {"weight_hard_loss": 0.0, "weight_soft_loss": 1.0}
    for who in ("student", "teacher"):
        yield LibraryLoss(
            f"liger-jsd-default-{who}", "liger-kernel", LIGER, f"defaults; labels drawn from the {who}", liger_jsd, "texts with labels worth learning beside the teacher" if who == "teacher" else "set weight_hard_loss=0: on the student's own tokens the second term is noise alone",
            "weight_hard_loss and weight_soft_loss are 0.5 each", drawn_from=who,
        )  # fmt: skip
    yield LibraryLoss(
        "liger-jsd-no-hard",
        "liger-kernel",
        LIGER,
        "weight_hard_loss=0",
        partial(liger_jsd, weight_hard_loss=0.0),
        BETWEEN,
        "weight_soft_loss stays 0.5",
    )
    for beta, when in ((0.0, FORWARD), (0.5, BETWEEN), (1.0, REVERSE)):
        yield LibraryLoss(
            f"liger-jsd-{beta:g}",
            "liger-kernel",
            LIGER,
            f"beta={beta:g}, weight_hard_loss=0, weight_soft_loss=1",
            partial(liger_jsd, beta=beta, **plain),
            when,
        )
    yield LibraryLoss(
        "liger-jsd-0-temperature-2",
        "liger-kernel",
        LIGER,
        "beta=0, temperature=2, weight_hard_loss=0, weight_soft_loss=1",
        partial(liger_jsd, beta=0.0, temperature=2.0, **plain),
        FORWARD + ", of softened models",
        "no factor T²",
    )
    for corrected in (True, False):
        yield LibraryLoss(
            f"liger-grpo-kl{'-corrected' if corrected else ''}", "liger-kernel", "liger_kernel.chunked_loss.LigerFusedLinearGRPOLoss", f"beta=1, use_bias_correction_kl={corrected}, no reward", partial(liger_grpo, use_bias_correction_kl=corrected),
            REVERSE + ", beside a reward" if corrected else "forward KL from the student's own tokens, beside a reward", "" if corrected else "the default; TRL's own default is the other",
        )  # fmt: skip


def _tinker():
    of = {
        0.0: REVERSE + ", from the token drawn; the least noise",
        0.9: "between the two",
        1.0: "reverse KL of whole texts: each token pays for the texts that it leads to",
    }
    for discount, when in of.items():
        yield LibraryLoss(
            f"tinker-discount-{discount:g}", "tinker-cookbook", TINKER, f"kl_penalty_coef=1, kl_discount_factor={discount:g}", partial(tinker_texts, module="distillation", discount=discount), when,
            "the default" if not discount else "advantages of positions before the student's first token are not 0: send texts without a prompt's positions, or multiply by the mask", "sequence",
        )  # fmt: skip
    yield LibraryLoss(
        "tinker-rl-discount-0", "tinker-cookbook", "tinker_cookbook.rl.metrics.incorporate_kl_penalty", "kl_penalty_coef=1, kl_discount_factor=0, a batch of one text", partial(tinker_texts, module="rl", discount=0.0),
        "reverse KL to a base model beside a reward, with batches of many texts", "the batch's own mean is taken off: of one short text much of the gradient goes with it", "sequence",
    )  # fmt: skip


LIBRARY_LOSSES = {loss.id: loss for family in (_verl, _trl, _liger, _tinker) for loss in family()}


# --- which setting does it -------------------------------------------------------------

# what you want -> (when that is what you want, how the verdict that shows it begins, {library: ((setting, id of the
# audit), ...)}); a library without a cell has no such setting among those audited.
PRACTITIONERS = {
    "forward KL, whole vocabulary": (
        FORWARD + "; no noise from the draw of the token", "forward KL",
        {
            "trl": (("GKDConfig(beta=0, temperature=1)", "trl-gkd-0"), ("DistillationConfig(beta=0)", "trl-distillation-0"), ('SDFTConfig(distillation_mode="full_logits", distillation_alpha=0)', "trl-sdft-full-0")),
            "liger-kernel": (("LigerFusedLinearJSDLoss(beta=0, weight_hard_loss=0, weight_soft_loss=1)", "liger-jsd-0"),),
        },
    ),
    "reverse KL, whole vocabulary": (
        REVERSE + "; no noise from the draw of the token", "reverse KL",
        {
            "trl": (("DistillationConfig(beta=1), its default", "trl-distillation-1"), ("GKDConfig(beta=1, temperature=1)", "trl-gkd-1"), ('SDFTConfig(distillation_mode="full_logits", distillation_alpha=1)', "trl-sdft-full-1")),
            "liger-kernel": (("LigerFusedLinearJSDLoss(beta=1, weight_hard_loss=0, weight_soft_loss=1)", "liger-jsd-1"),),
        },
    ),
    "JSD, whole vocabulary": (
        BETWEEN + "; near β = 0 or 1 it shrinks to nothing, so that the ends are settings of their own", "JSD(β = 0.5)",
        {
            "trl": (("GKDConfig(beta=0.5, temperature=1)", "trl-gkd-0.5"), ("DistillationConfig(beta=0.5)", "trl-distillation-0.5"), ('SDFTConfig(distillation_mode="full_logits")', "trl-sdft-full-0.5")),
            "liger-kernel": (("LigerFusedLinearJSDLoss(weight_hard_loss=0, weight_soft_loss=1)", "liger-jsd-0.5"),),
        },
    ),
    "reverse KL, from the token drawn": (
        "the teacher scores only the tokens of the text; noisier, and unbiased with tokens that the current student drew", ("reverse KL", "sum of local reverse KLs"),
        {
            "trl": (("SDPOConfig(), its default", "trl-sdpo-token"), ("GRPOConfig(beta=...), whose use_bias_correction_kl is True", "trl-grpo-kl")),
            "liger-kernel": (("LigerFusedLinearGRPOLoss(use_bias_correction_kl=True)", "liger-grpo-kl-corrected"),),
            "verl": (
                ("distillation_loss: loss_mode=k1, use_policy_gradient=True", "verl-distillation-k1-reward"), ("distillation_loss: loss_mode=k2", "verl-distillation-k2"),
                ("kl_loss_type=k2", "verl-k2"), ('kl_loss_type="k3+"', "verl-k3+"),
            ),
            "tinker-cookbook": (("kl_discount_factor=0, the default", "tinker-discount-0"),),
        },
    ),
    "forward KL, from the student's own tokens": (
        "the same gradient as the whole vocabulary's on average, at a variance that grows with q/p: rarely better than asking for the teacher's first K", "forward KL",
        {
            "trl": (("GRPOConfig(beta=..., use_bias_correction_kl=False)", "trl-grpo-kl-uncorrected"),),
            "liger-kernel": (("LigerFusedLinearGRPOLoss(), its default", "liger-grpo-kl"),),
            "verl": (("distillation_loss: loss_mode=k3, the default of distillation.yaml; exactly 0 where log q/p > 2.61", "verl-distillation-k3"), ("kl_loss_type=low_var_kl, the default; the same clamp", "verl-k3")),
        },
    ),
    "forward KL on the teacher's first K": (
        "a server sends the teacher's first K log-probabilities; the nearer to 1 their sum, the nearer to the forward KL", "forward KL on the teacher's top 2",
        {
            "trl": (("IWOPDTrainer.generalized_jsd_loss(beta=0, top_k=K): the tail is one more outcome", "trl-iw-opd-top-2-0-tail"), ("the same with add_tail=False: renormalized", "trl-iw-opd-top-2-0-renormalized")),
            "verl": (("distillation_loss: loss_mode=forward_kl_topk: neither; its minimum is not at student = teacher", "verl-top-2-processor"),),
        },
    ),
    "reverse KL on the student's first K": (
        "less memory, with the teacher at hand", "reverse KL on the student's top 2",
        {
            "trl": (
                ("IWOPDTrainer.generalized_jsd_loss(beta=1, top_k=K): the tail is one more outcome", "trl-iw-opd-top-2-1-tail"), ("the same with add_tail=False: renormalized", "trl-iw-opd-top-2-1-renormalized"),
                ('SDFTConfig(distillation_mode="topk_logits", distillation_alpha=1, distillation_add_tail=True)', "trl-sdft-top-2-1-tail"), ("the same without the tail: renormalized", "trl-sdft-top-2-1-renormalized"),
            ),
        },
    ),
    "the sum of the local reverse KLs of a text": (
        "the usual on-policy distillation: each token pays for itself; the least variance", "sum of local reverse KLs",
        {
            "tinker-cookbook": (("kl_discount_factor=0, the default", "tinker-discount-0"),),
            "verl": (('loss_agg_mode="seq-mean-token-sum" with loss_mode=k2', "verl-seq-mean-token-sum"),),
        },
    ),
    "the same as a mean over tokens": (
        "a step size that does not hang on the texts' lengths", "1/T × sum of local reverse KLs",
        {
            "trl": (("GKDTrainer with labels, as its trainer calls it", "trl-gkd-labels"),),
            "verl": (('loss_agg_mode="token-mean", the default', "verl-token-mean"), ('loss_agg_mode="seq-mean-token-mean": every text counts the same', "verl-seq-mean-token-mean")),
        },
    ),
    "the reverse KL of whole texts": (
        "tokens should also pay for where they lead; the variance grows with the length (a KL put into the reward, as by TRL's RLOOTrainer and verl's use_kl_in_reward, is of this kind; those trainers make it inside and are not audited)", "sequence reverse KL",
        {"tinker-cookbook": (("kl_discount_factor=1, on positions without a prompt", "tinker-discount-1"),)},
    ),
}  # fmt: skip


# --- what facts say, measured ----------------------------------------------------------

STUDENT, TEACHER = (0.2, 0.3, 0.5), (0.7, 0.2, 0.1)  # the notes' example


def _logits(probabilities):
    return torch.tensor(probabilities, dtype=torch.float64).log()


def _gradient(loss, student, *rest):
    """(value, gradient (V,)) at the student's logits."""
    leaf = student.clone().requires_grad_()
    value = loss(leaf, *rest)
    return value.item(), torch.autograd.grad(value, leaf)[0]


def measure_k3_clamp():
    """The ranges of log q/p outside of which verl's k3 has no gradient at all, by bisection."""
    from verl.trainer.ppo.core_algos import kl_penalty

    def alive(ratio):
        return bool(
            _gradient(
                lambda x: kl_penalty(x, x.detach() + ratio, "k3"),
                torch.tensor(0.0, dtype=torch.float64),
            )[1]
            != 0
        )

    ends = []
    for inside, outside in ((1.0, 30.0), (-1.0, -30.0)):
        for _ in range(60):
            middle = (inside + outside) / 2
            inside, outside = (middle, outside) if alive(middle) else (inside, middle)
        ends.append(inside)
    return {
        "log q/p above which the gradient is 0": ends[0],
        "log q/p below which the gradient is 0": ends[1],
    }


def measure_verl_defaults():
    """distillation.yaml, which verl's trainers read, beside the dataclass without it."""
    from importlib.resources import files

    from omegaconf import OmegaConf
    from verl.workers.config import DistillationLossConfig

    read = OmegaConf.create(
        (files("verl") / "trainer" / "config" / "distillation" / "distillation.yaml").read_text()
    ).distillation_loss
    names = ("loss_mode", "use_policy_gradient", "loss_max_clamp", "log_prob_min_clamp", "topk")
    return {
        "distillation.yaml": {name: read[name] for name in names},
        "DistillationLossConfig()": {
            name: getattr(DistillationLossConfig(), name) for name in names
        },
    }


def measure_top_k():
    """|gradient| of verl's top-K forward KL at student = teacher, and where the clamp at 0 takes all of it."""
    same = {
        f"teacher {distribution}, K = {k}": _gradient(
            partial(verl_top_k, k=k, negative=True), _logits(distribution), _logits(distribution)
        )[1]
        .norm()
        .item()
        for distribution in (TEACHER, STUDENT)
        for k in (1, 2)
    }
    student, teacher = (0.55, 0.1, 0.35), (0.5, 0.2, 0.3)
    value, before = _gradient(
        partial(verl_top_k, k=2, negative=True), _logits(student), _logits(teacher)
    )
    clamped = _gradient(partial(verl_top_k, k=2), _logits(student), _logits(teacher))[1]
    return {
        "gradient norm at student = teacher": same,
        f"student {student}, teacher {teacher}, K = 2": {"value": value, "gradient norm": before.norm().item(), "gradient norm after clamp_min(0)": clamped.norm().item()},
    }  # fmt: skip


def measure_masked_vocabulary():
    """Whether GKD's loss and gradient are finite with a logit of -inf, at each beta."""
    found = {}
    for words, who in (("in both", "st"), ("in the teacher", "t"), ("in the student", "s")):
        for beta in (0, 0.5, 1):
            student, teacher = (
                torch.cat([_logits(row), torch.tensor([-torch.inf if letter in who else -5.0])])
                for letter, row in (("s", STUDENT), ("t", TEACHER))
            )
            value, gradient = _gradient(partial(trl_gkd, beta=beta), student, teacher)
            found[f"-inf {words}, beta = {beta}"] = {
                "value": repr(value),
                "gradient finite": bool(gradient.isfinite().all()),
            }
    return found


def measure_beta_near_one():
    """GKD's loss and gradient norm at the notes' pair."""
    found = {}
    for beta in (0, 0.001, 0.5, 0.999, 1):
        value, gradient = _gradient(partial(trl_gkd, beta=beta), _logits(STUDENT), _logits(TEACHER))
        found[f"beta = {beta}"] = {"value": value, "gradient norm": gradient.norm().item()}
    return found


def measure_liger_default():
    """LigerFusedLinearJSDLoss() of identical models, over the tokens of the teacher, beside half the teacher's entropy."""
    row = _logits(TEACHER)
    value = sum(
        chance * liger_jsd(row, row, torch.tensor(token)).item()
        for token, chance in enumerate(TEACHER)
    )
    return {
        "identical models score": value,
        "half the teacher's entropy": -0.5 * (row.exp() * row).sum().item(),
    }


def measure_tinker_prompt():
    """The advantages of two prompt positions in front of three of the student's."""
    student, teacher = (
        torch.log(torch.tensor([0.5, 0.5, 0.2, 0.3, 0.5])),
        torch.log(torch.tensor([0.5, 0.5, 0.7, 0.2, 0.1])),
    )
    mask = torch.tensor([0, 0, 1, 1, 1])
    return {
        f"discount {discount:g}": tinker_advantages(
            student, teacher, torch.arange(5), mask, "distillation", discount
        ).tolist()
        for discount in (0.0, 0.9, 1.0)
    }


def measure_float32():
    """Relative errors at V = 151,936 of the reverse KL of close models in float32: GKD's, Σ p d, and Σ p (d + expm1(-d))."""
    draw = torch.Generator().manual_seed(SEED)
    teacher = 2 * torch.randn(151_936, generator=draw, dtype=torch.float64)
    errors = collections.defaultdict(list)
    for _ in range(5):
        student = (
            teacher + 3e-3 * torch.randn(len(teacher), generator=draw, dtype=torch.float64)
        ).float()
        log_p, log_q = (x.double().log_softmax(-1) for x in (student, teacher.float()))
        true = (log_p.exp() * (log_p - log_q)).sum().item()
        p, q = (x.log_softmax(-1) for x in (student, teacher.float()))
        sums = {
            "GKDTrainer": trl_gkd(student, teacher.float(), beta=1),
            "Σ p d": (p.exp() * (p - q)).sum(),
            "Σ p (d + expm1(-d))": (p.exp() * (p - q + torch.expm1(q - p))).sum(),
        }
        for name, value in sums.items():
            errors[name].append(abs(value.item() / true - 1))
    return {
        "KL": true,
        "relative error of the value, largest of 5": {
            name: max(found) for name, found in errors.items()
        },
    }


MEASUREMENTS = {
    "verl: k3's clamp": measure_k3_clamp,
    "verl: the defaults of distillation": measure_verl_defaults,
    "verl: top-K at the minimum": measure_top_k,
    "trl: a masked vocabulary": measure_masked_vocabulary,
    "trl: beta near its ends": measure_beta_near_one,
    "liger-kernel: identical models": measure_liger_default,
    "tinker-cookbook: advantages of the prompt": measure_tinker_prompt,
    "trl: close models in float32": measure_float32,
}


# --- the record ------------------------------------------------------------------------


def audited(loss):
    """The entry of one LibraryLoss; ``report`` is None for what cannot be audited, and ``note`` says why."""
    from importlib.metadata import version

    from opd_toy.audit import AuditError, audit
    from opd_toy.audit.sequence.measure import audit_sequence

    entry = {
        name: getattr(loss, name)
        for name in (
            "id",
            "library",
            "function",
            "option",
            "kind",
            "drawn_from",
            "when_you_want_it",
            "note",
        )
    } | {"version": version(loss.library)}
    try:
        report = (
            audit(loss.adapter, drawn_from=loss.drawn_from, seed=SEED)
            if loss.kind == "token"
            else audit_sequence(loss.adapter, batched=loss.kind == "batch", seed=SEED)
        )
    except AuditError as error:
        return entry | {
            "optimises": "cannot be audited",
            "note": "; ".join(
                filter(
                    None,
                    [loss.note, str(error.__cause__ or error) or type(error.__cause__).__name__],
                )
            ),
            "report": None,
        }
    return entry | {"optimises": report.optimises, "report": report.to_dict()}


def make_record(path=RECORD):
    """Audit all of it with the libraries of this Python and write the record."""
    from opd_toy.commands.running import unchanged
    from opd_toy.records import provenance

    with unchanged(path, MODULES, FILES):
        results = results_of(LIBRARY_LOSSES)
    provenance.record(
        path,
        results,
        modules=MODULES,
        files=FILES,
        seed=SEED,
        command="python -m opd_toy.audit.exhibits.libraries --record",
    )


def results_of(losses):
    """{"audits": [...], "measurements": {...}}; one thread, as sums in another order round otherwise."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return {
                "audits": [audited(loss) for loss in losses.values()],
                "measurements": {name: measure() for name, measure in MEASUREMENTS.items()},
            }
    finally:
        torch.set_num_threads(threads)


def as_text(results):
    """The verdicts, one line each, then the table of settings."""
    lines = []
    for entry in results["audits"]:
        everywhere = (
            ""
            if entry["report"] is None
            or entry["report"]["holds_everywhere"]
            or entry["optimises"] == "none of these"
            else "*"
        )
        lines.append(f"{entry['id']:36} {entry['optimises']}{everywhere}")
    lines += ["", "* not everywhere: see the edges in its report", ""]
    for wanted, (when, _, cells) in PRACTITIONERS.items():
        lines += [wanted, f"  when: {when}"]
        lines += [
            f"  {library:16} {setting}  [{name}]"
            for library in PACKAGES
            for setting, name in cells.get(library, (("none", "-"),))
        ]
    return "\n".join(lines)


def main(arguments=None):
    parser = argparse.ArgumentParser(
        prog="python -m opd_toy.audit.exhibits.libraries",
        description="What the distillation losses of TRL, Liger, verl and tinker-cookbook optimise.",
    )
    parser.add_argument(
        "--record",
        action="store_true",
        help="audit them again (`make peers` installs them) and write figures/library-audits.json",
    )
    parser.add_argument("--json", action="store_true", help="print the record as JSON")
    options = parser.parse_args(arguments)
    if options.record:
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
        try:
            make_record()
        except ModuleNotFoundError as error:
            parser.error(f"{error}: `make audit-peers` runs this where the libraries are")
    if not RECORD.exists():
        parser.error(f"{RECORD.name} is not there; `make audit-peers` makes it")
    results = json.loads(RECORD.read_text(encoding="utf-8"))["results"]
    print(json.dumps(results, indent=2, ensure_ascii=False) if options.json else as_text(results))


if __name__ == "__main__":
    main()
