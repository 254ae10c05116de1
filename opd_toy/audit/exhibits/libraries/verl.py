"""verl: its KL penalties, its losses from the token drawn, and its top-K forward KL."""

from functools import cache, partial

import torch

from opd_toy.audit.exhibits.libraries.library_loss import (
    DRAWN,
    FIRST_K,
    REVERSE,
    LibraryLoss,
    log_probabilities,
)

DISTILLATION = "verl.trainer.distillation.losses.distillation_loss"
UNCLAMPED = {"loss_max_clamp": None, "log_prob_min_clamp": None}  # as in distillation.yaml

# --- adapters --------------------------------------------------------------------------


def kl_penalty(student, teacher, token, *, kind):
    from verl.trainer.ppo import core_algos

    return core_algos.kl_penalty(*log_probabilities(student, teacher, token), kind)


def distillation(student, teacher, token, **options):
    """``distillation_loss`` of one text of one token."""
    tokens = token.reshape(1, 1)
    mask = torch.ones_like(tokens)
    return distillation_of_texts(student[None, None], teacher[None, None], tokens, mask, **options)


def distillation_of_texts(
    student, teacher, tokens, mask, *, loss_agg_mode="token-mean", old=None, weights=None, **options
):
    """``distillation_loss`` of a batch: (B, T, V), (B, T, V), tokens (B, T), mask (B, T).

    ``old``: what stands for old_log_probs, and ``weights`` for rollout_is_weights, (B, T) both.
    """
    from tensordict import TensorDict
    from verl.trainer.distillation.losses import distillation_loss

    texts, length = tokens.shape
    mask = mask.long()
    at = tokens.masked_fill(mask == 0, 0)[..., None]
    mine, theirs = (
        logits.log_softmax(-1).gather(-1, at).squeeze(-1) for logits in (student, teacher.detach())
    )

    def unpadded(values):
        """In one row: verl keeps a number behind each text's last token, and cuts it off."""
        return torch.cat([values, values.new_zeros(texts, 1)], 1).reshape(-1)

    batch = {
        "prompts": tokens.new_zeros(texts, 1),  # one token in front of each text
        "responses": tokens,
        "attention_mask": tokens.new_ones(texts, length + 1),
        "response_mask": mask,
        "teacher_logprobs": unpadded(theirs)[:, None],
        "old_log_probs": mine.detach() if old is None else old,
        **({} if weights is None else {"rollout_is_weights": weights}),
        "dp_size": torch.tensor(1),
        "batch_num_tokens": mask.sum(),
        "global_batch_size": torch.tensor(texts),
    }
    data = TensorDict(batch, batch_size=[])
    actor, configuration = _configurations(loss_agg_mode, **options)
    return distillation_loss(actor, configuration, {"log_probs": unpadded(mine)}, data)[0]


@cache
def _configurations(loss_agg_mode, **options):
    from verl.workers.config import ActorConfig, DistillationConfig, DistillationLossConfig

    actor = ActorConfig(
        strategy="fsdp", rollout_n=1, ppo_micro_batch_size_per_gpu=1, loss_agg_mode=loss_agg_mode
    )
    return actor, DistillationConfig(distillation_loss=DistillationLossConfig(**options))


def top_k_processor(student, teacher, *, k, clamp=None):
    """The top-K forward KL as verl's logit processor leaves it; it may be negative."""
    return _top_k_found(student, teacher, _top_k_options(k, clamp))["distillation_losses"].sum()


def top_k(student, teacher, *, k, clamp=None):
    """The loss that is trained on: behind the logit processor negative values are set to 0."""
    from tensordict import TensorDict
    from verl.trainer.distillation.losses import compute_forward_kl_topk

    options = _top_k_options(k, clamp)
    found = _top_k_found(student, teacher, options)
    # The response begins behind a prompt of one token, whose place in the output is the first.
    padded = {name: torch.cat([row[0], row[0]]) for name, row in found.items()}
    one = torch.ones(1, 1, dtype=torch.int64)
    text = {
        "prompts": one,
        "responses": one,
        "attention_mask": torch.cat([one, one], 1),
        "response_mask": one,
    }
    data = TensorDict(text, batch_size=[])
    return compute_forward_kl_topk(None, options, padded, data)[0].sum()


def _top_k_options(k, clamp):
    return _configurations(
        "token-mean",
        loss_mode="forward_kl_topk",
        use_policy_gradient=False,
        loss_max_clamp=None,
        log_prob_min_clamp=clamp,
        topk=k,
    )[1]


def _top_k_found(student, teacher, options):
    """What the logit processor returns, by name, for a text of one token."""
    from verl.trainer.distillation.fsdp.losses import compute_forward_kl_topk

    # Its divergence is in float32, whatever comes in: so is all else here.
    teacher_logs = teacher.detach().float().log_softmax(-1)
    values, ids = teacher_logs.topk(options.distillation_loss.topk)
    nested = [torch.nested.nested_tensor([x[None]], layout=torch.jagged) for x in (values, ids)]
    return compute_forward_kl_topk(student.float()[None, None], *nested, options, "thd")


# --- what is audited -------------------------------------------------------------------


def _penalty(kind, *, when, note=""):
    return LibraryLoss(
        id=f"verl-{kind}",
        library="verl",
        function="verl.trainer.ppo.core_algos.kl_penalty",
        option=f'kl_penalty="{kind}", differentiated',
        estimator=DRAWN,
        adapter=partial(kl_penalty, kind=kind),
        when_you_want_it=when,
        note=note,
    )


KL_PENALTIES = (
    _penalty(
        "k1",
        when="never as a loss: it is for logging, and as a reward",
        note="verl's own configuration refuses to backpropagate k1",
    ),
    _penalty(
        "k2",
        when="reverse KL from the token drawn, with tokens the current student drew",
        note='"mse" is another name for it',
    ),
    _penalty(
        "k3",
        when="forward KL from the student's own tokens while the two are close; "
        "as a number for the log, a KL estimate that is never negative",
        note='"low_var_kl" is another name for it',
    ),
    _penalty(
        "k1+",
        when="reverse KL from the token drawn, logged as k1",
        note="the straight-through form: k1's value, k2's gradient",
    ),
    _penalty(
        "k3+",
        when="reverse KL from the token drawn, logged as k3",
        note="the straight-through form: k3's value, k2's gradient",
    ),
    _penalty(
        "abs",
        when="rarely: its gradient looks at the sign of log p − log q alone",
    ),
    _penalty("full", when="not yet: the branch raises NotImplementedError"),
)


def _distillation(name, options, *, when, note=""):
    words = ", ".join(f"{key}={value}" for key, value in options.items())
    return LibraryLoss(
        id=f"verl-distillation-{name}",
        library="verl",
        function=DISTILLATION,
        option=words or "DistillationLossConfig()",
        estimator=DRAWN,
        adapter=partial(distillation, **options),
        when_you_want_it=when,
        note=note,
    )


def _options(mode, *, reward):
    return {"loss_mode": mode, "use_policy_gradient": reward, **UNCLAMPED}


TAKE_K1 = (
    "k1 is the reward to take: with this one the notes' student ends without the teacher's "
    "first token (fixed_point in the report)"
)
DISTILLATIONS = (
    _distillation(
        "k3",
        _options("k3", reward=False),
        when="forward KL from the student's own tokens",
        note="the default of the trainers, which read distillation.yaml; "
        "the dataclass alone has other defaults",
    ),
    _distillation("k2", _options("k2", reward=False), when=f"{REVERSE}, from the token drawn"),
    _distillation(
        "k1-reward",
        _options("k1", reward=True),
        when=f"{REVERSE}, from the token drawn",
        note="what verl's documentation recommends beside policy gradients",
    ),
    _distillation(
        "k1-reward-clamped",
        {"loss_mode": "k1", "use_policy_gradient": True, "loss_max_clamp": 10.0},
        when=f"{REVERSE}, with a bound on any one token's say",
        note="the dataclass's clamp",
    ),
    _distillation(
        "k2-reward", _options("k2", reward=True), when="none of the divergences", note=TAKE_K1
    ),
    _distillation(
        "k3-reward", _options("k3", reward=True), when="none of the divergences", note=TAKE_K1
    ),
    _distillation(
        "dataclass",
        {},
        when="none of the divergences",
        note="DistillationLossConfig() without distillation.yaml: k3 as a reward, clamped",
    ),
)


def _top(name, loss, *, note, k, clamp=None):
    clamped = f", log_prob_min_clamp={clamp:g}" if clamp else ""
    return LibraryLoss(
        id=f"verl-top-{name}",
        library="verl",
        function="verl.trainer.distillation.fsdp.losses.compute_forward_kl_topk",
        option=f"loss_mode=forward_kl_topk, use_policy_gradient=False, topk={k}{clamped}",
        estimator=FIRST_K,
        adapter=partial(loss, k=k, clamp=clamp),
        when_you_want_it="forward KL where the teacher's server sends only its first K, "
        "with K so large that next to nothing is left out",
        note=note,
    )


PROCESSOR = "the logit processor alone"
CUT = (
    "its negative values are set to 0 behind the logit processor (clamp_min), "
    "and with them their gradient"
)
TOP_K = (
    _top("1-processor", top_k_processor, k=1, note=PROCESSOR),
    _top("2-processor", top_k_processor, k=2, note=PROCESSOR),
    _top("2", top_k, k=2, note=CUT),
    _top("2-clamped", top_k, k=2, clamp=-10.0, note=CUT),
)

MEANS_OVER_TEXTS = tuple(
    LibraryLoss(
        id=f"verl-{mode}",
        library="verl",
        function=DISTILLATION,
        option=f'loss_agg_mode="{mode}", loss_mode=k2',
        estimator=DRAWN,
        kind="batch",
        adapter=partial(distillation_of_texts, loss_agg_mode=mode, **_options("k2", reward=False)),
        when_you_want_it="see the normaliser found",
        note="the default" if mode == "token-mean" else "",
    )
    for mode in ("token-mean", "seq-mean-token-sum", "seq-mean-token-mean")
)

LOSSES = (*KL_PENALTIES, *DISTILLATIONS, *TOP_K, *MEANS_OVER_TEXTS)
