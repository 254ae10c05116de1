"""TRL's losses from the token drawn: IW-OPD, a teacher behind a server, SDPO, GRPO's KL term."""

import collections
import types
from functools import partial

import torch

from opd_toy.audit.exhibits.libraries.library_loss import (
    DRAWN,
    REVERSE,
    LibraryLoss,
    log_probabilities,
)

# --- adapters --------------------------------------------------------------------------


def iw_opd(student, teacher, tokens, *, gamma=0.5):
    """Of a text: (T, V), (T, V), tokens (T,)."""
    from trl.experimental.iw_opd.iw_opd_trainer import IWOPDTrainer

    trainer = types.SimpleNamespace(
        temperature=1.0,
        iw_opd_gamma=gamma,
        iw_opd_epsilon=1e-8,
        model=types.SimpleNamespace(training=True),
        _metrics=_metrics(),
    )
    theirs = teacher.detach().log_softmax(-1).gather(-1, tokens[:, None]).squeeze(-1)
    ids = tokens[None]
    return IWOPDTrainer._compute_iw_opd_loss(trainer, student[None], ids, ids, theirs[None])


def server(student, teacher, token, *, add_tail):
    """The sampled token's divergence of ServerDistillationTrainer at beta = 1."""
    from trl.experimental.server_distillation.server_distillation_trainer import (
        ServerDistillationTrainer,
    )

    trainer = types.SimpleNamespace(
        beta=1.0,
        loss_add_tail=add_tail,
        _reduce_divergence_loss=ServerDistillationTrainer._reduce_divergence_loss,
    )
    mine, theirs = student.log_softmax(-1), teacher.detach().log_softmax(-1)
    drawn, first = token.reshape(1, 1), theirs.argmax().reshape(1, 1)
    return ServerDistillationTrainer._compute_sparse_top_1_divergence_loss(
        trainer, mine[None, None], first, theirs[first], drawn, theirs[drawn], labels=drawn
    )


def sdpo_token(student, teacher, token):
    from trl.experimental.sdpo.loss_utils import compute_sampled_token_self_distillation_loss

    mine, theirs, drawn = student[None, None], teacher.detach()[None, None], token.reshape(1, 1)
    return compute_sampled_token_self_distillation_loss(
        mine, theirs, drawn, distillation_alpha=1.0
    ).sum()


def grpo(student, teacher, token, *, use_bias_correction_kl):
    """The KL term alone: no reward, at beta = 1, on the policy that drew the one token."""
    from trl import GRPOTrainer

    mine, theirs = log_probabilities(student, teacher, token)
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
    trainer = _grpo_trainer(mine.reshape(1, 1), use_bias_correction_kl)
    return GRPOTrainer._compute_loss(trainer, None, inputs)


def _grpo_trainer(student, use_bias_correction_kl):
    """What ``_compute_loss`` asks of its trainer, with the token's log-probability (1, 1)."""

    def log_probabilities_and_entropies(*_, **__):
        return student, torch.zeros(1, 1), None

    arguments = types.SimpleNamespace(use_bias_correction_kl=use_bias_correction_kl, delta=None)
    one_process = types.SimpleNamespace(
        reduce=lambda x, reduction: x, gather=lambda x: x, num_processes=1
    )
    return types.SimpleNamespace(
        _get_per_token_logps_and_entropies=log_probabilities_and_entropies,
        _entropy_bonus_enabled=False,
        _metrics=_metrics(),
        accelerator=one_process,
        args=arguments,
        aux_loss_enabled=False,
        beta=1.0,
        epsilon_high=0.2,
        epsilon_low=0.2,
        importance_sampling_level="token",
        loss_type="dapo",
        model=types.SimpleNamespace(training=False),
        off_policy_mask_threshold=None,
        top_entropy_quantile=1.0,
        use_vllm=False,
    )


def _metrics():
    """The log that a trainer keeps, for each mode and name."""
    return collections.defaultdict(lambda: collections.defaultdict(list))


# --- what is audited -------------------------------------------------------------------

IW_OPD = LibraryLoss(
    id="trl-iw-opd",
    library="trl",
    function="trl.experimental.iw_opd.iw_opd_trainer.IWOPDTrainer._compute_iw_opd_loss",
    option="iw_opd_gamma=0.5, of a text",
    estimator=DRAWN,
    kind="sequence",
    adapter=iw_opd,
    when_you_want_it="the update of its paper: tokens after large disagreements count less",
    note="the default of IWOPDTrainer",
)


def _server(name, *, add_tail, when, note=""):
    return LibraryLoss(
        id=f"trl-server-{name}",
        library="trl",
        function="trl.experimental.server_distillation.server_distillation_trainer."
        "ServerDistillationTrainer._compute_sparse_top_1_divergence_loss",
        option=f'beta=1, loss_top_k=1, reverse_kl_top_1_mode="sampled", loss_add_tail={add_tail}',
        estimator=DRAWN,
        adapter=partial(server, add_tail=add_tail),
        when_you_want_it=when,
        note=note,
    )


SERVER_LOSSES = (
    _server(
        "tail",
        add_tail=True,
        when="a teacher behind a server that scores only the tokens drawn",
        note="the default; the token drawn against all others as one outcome: "
        "no divergence of the whole vocabulary, but its minimum is the teacher",
    ),
    _server(
        "no-tail",
        add_tail=False,
        when="never: renormalized on one token every pair of models is alike",
    ),
)

SDPO = LibraryLoss(
    id="trl-sdpo-token",
    library="trl",
    function="trl.experimental.sdpo.loss_utils.compute_sampled_token_self_distillation_loss",
    option='distillation_mode="sampled_token"',
    estimator=DRAWN,
    adapter=sdpo_token,
    when_you_want_it=f"{REVERSE}, from the token drawn",
    note="SDPOConfig's default",
)


def _grpo(name, *, corrected, when, note):
    return LibraryLoss(
        id=f"trl-{name}",
        library="trl",
        function="trl.GRPOTrainer._compute_loss",
        option=f"beta=1, use_bias_correction_kl={corrected}, no reward",
        estimator=DRAWN,
        adapter=partial(grpo, use_bias_correction_kl=corrected),
        when_you_want_it=when,
        note=note,
    )


GRPO_LOSSES = (
    _grpo(
        "grpo-kl",
        corrected=True,
        when=f"{REVERSE}, beside a reward",
        note="the default of this version",
    ),
    _grpo(
        "grpo-kl-uncorrected",
        corrected=False,
        when="forward KL from the student's own tokens, beside a reward",
        note="the default of earlier versions",
    ),
)

LOSSES = (IW_OPD, *SERVER_LOSSES, SDPO, *GRPO_LOSSES)
