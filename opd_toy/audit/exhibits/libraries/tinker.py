"""tinker-cookbook: the KL penalty that it puts into the advantages."""

import asyncio
import types
from functools import partial

import torch

from opd_toy.audit.exhibits.libraries.library_loss import DRAWN, REVERSE, LibraryLoss

# --- adapters --------------------------------------------------------------------------


def importance_sampling(student, teacher, tokens, mask, *, module, discount):
    """-Σ (π/π_old) A with the advantages that ``incorporate_kl_penalty`` makes.

    The sum is the service's "importance_sampling" loss, which the package does not hold;
    as there, it goes over all positions: the mask is taken off before the data are sent,
    and log π_old is 0 where the student did not draw.
    """
    tokens = tokens.masked_fill(mask == 0, 0)
    # The service answers in float32: so is all else here.
    mine, theirs = (
        logits.float().log_softmax(-1).gather(-1, tokens[:, None]).squeeze(-1)
        for logits in (student, teacher.detach())
    )
    given = advantages(mine.detach(), theirs, tokens, mask, module=module, discount=discount)
    return -((mine - mine.detach() * mask).exp() * given).sum()


def advantages(student, teacher, tokens, mask, *, module, discount):
    """Shape (T,), from log-probabilities (T,) of the tokens (T,) under both models.

    ``mask`` (T,) is 1 for tokens that the student drew; ``module`` is "distillation" or "rl".
    """
    import tinker
    from tinker_cookbook.distillation import train_on_policy
    from tinker_cookbook.rl import metrics

    inputs = {
        "target_tokens": tokens,
        "logprobs": student * mask,
        "advantages": torch.zeros(len(tokens)),
        "mask": mask.float(),
    }
    text = tinker.Datum(
        model_input=tinker.ModelInput.from_ints([0] + tokens.tolist()[:-1]),
        loss_fn_inputs={name: tinker.TensorData.from_torch(x) for name, x in inputs.items()},
    )
    service = _teacher_service(teacher)
    if module == "distillation":
        work = train_on_policy.incorporate_kl_penalty([text], [service], [0], 1.0, discount)
    else:
        work = metrics.incorporate_kl_penalty([text], service, 1.0, discount)
    asyncio.run(work)
    return text.loss_fn_inputs["advantages"].to_torch()


def _teacher_service(teacher):
    """The service that holds the teacher: all it does is to answer with its log-probabilities."""
    scored = [None] + teacher.tolist()
    reply = types.SimpleNamespace(prompt_logprobs=scored, sequences=[], prompt_cache_hit_tokens=0)

    async def answer(content):
        return content

    return types.SimpleNamespace(
        compute_logprobs=lambda _: types.SimpleNamespace(coroutine=lambda: answer(scored)),
        sample=lambda **_: types.SimpleNamespace(coroutine=lambda: answer(reply)),
    )


# --- what is audited -------------------------------------------------------------------


def _discounted(discount, *, when, note):
    return LibraryLoss(
        id=f"tinker-discount-{discount:g}",
        library="tinker-cookbook",
        function="tinker_cookbook.distillation.train_on_policy.incorporate_kl_penalty",
        option=f"kl_penalty_coef=1, kl_discount_factor={discount:g}",
        estimator=DRAWN,
        kind="sequence",
        adapter=partial(importance_sampling, module="distillation", discount=discount),
        when_you_want_it=when,
        note=note,
    )


PROMPT_PAYS = (
    "advantages of positions before the student's first token are not 0: "
    "send texts without a prompt's positions, or multiply by the mask"
)
LOSSES = (
    _discounted(0.0, when=f"{REVERSE}, from the token drawn; the least noise", note="the default"),
    _discounted(0.9, when="between the two", note=PROMPT_PAYS),
    _discounted(
        1.0,
        when="reverse KL of whole texts: each token pays for the texts that it leads to",
        note=PROMPT_PAYS,
    ),
    LibraryLoss(
        id="tinker-rl-discount-0",
        library="tinker-cookbook",
        function="tinker_cookbook.rl.metrics.incorporate_kl_penalty",
        option="kl_penalty_coef=1, kl_discount_factor=0, a batch of one text",
        estimator=DRAWN,
        kind="sequence",
        adapter=partial(importance_sampling, module="rl", discount=0.0),
        when_you_want_it="reverse KL to a base model beside a reward, with batches of many texts",
        note="the batch's own mean is taken off: "
        "of one short text much of the gradient goes with it",
    ),
)
