"""OpenRLHF: the KL term of its actor's loss, to a reference model, beside a reward."""

from functools import partial

from opd_toy.audit.exhibits.libraries.library_loss import (
    DRAWN,
    REVERSE,
    LibraryLoss,
    log_probabilities,
    log_probabilities_of_texts,
)
from opd_toy.audit.exhibits.libraries.loading import load

UTILS, LOSS = "openrlhf.models.utils", "openrlhf.models.loss"
WITHOUT = ("deepspeed",)

# --- adapters --------------------------------------------------------------------------


def approx_kl(student, teacher, token, *, kind, unbiased=False):
    # Its estimates are in float32, whatever comes in: so is all else here.
    mine, theirs = log_probabilities(student.float(), teacher.float(), token)
    return load(UTILS, WITHOUT).compute_approx_kl(
        mine, theirs, mine.detach(), kl_estimator=kind, unbiased_gradient=unbiased
    )


def kl_of_texts(student, teacher, tokens, mask, *, token_level):
    """k2 of a batch, (B, T, V), (B, T, V), tokens (B, T), mask (B, T), as the actor adds it up."""
    mine, theirs = log_probabilities_of_texts(student, teacher, tokens, mask)
    kl = load(UTILS, WITHOUT).compute_approx_kl(mine, theirs, kl_estimator="k2")
    return load(LOSS, WITHOUT).aggregate_loss(kl, mask.float(), token_level_loss=token_level)


# --- what is audited -------------------------------------------------------------------


def _kl(kind, *, when, note="", unbiased=False):
    return LibraryLoss(
        id=f"openrlhf-{kind}" + ("-unbiased" if unbiased else ""),
        library="openrlhf",
        function=f"{UTILS}.compute_approx_kl",
        option=f'algo.kl.use_loss=True, algo.kl.estimator="{kind}"'
        + (", algo.kl.unbiased_gradient=True" if unbiased else ""),
        estimator=DRAWN,
        adapter=partial(approx_kl, kind=kind, unbiased=unbiased),
        when_you_want_it=when,
        note=note,
        without=WITHOUT,
    )


def _texts(name, token_level, *, note=""):
    return LibraryLoss(
        id=f"openrlhf-{name}",
        library="openrlhf",
        function=f"{LOSS}.aggregate_loss",
        option=f"token_level_loss={token_level}, of k2",
        estimator=DRAWN,
        kind="batch",
        adapter=partial(kl_of_texts, token_level=token_level),
        when_you_want_it="see the normaliser found",
        note=note,
        without=WITHOUT,
    )


CUT = "values are cut at 10, and what is cut has no gradient"
LOSSES = (
    _kl(
        "k1",
        when="never as a loss; with use_loss its command line recommends k2 or k3",
        note="k1 is the default estimator; use_loss is off by default, and then k1 is a reward",
    ),
    _kl("k2", when=f"{REVERSE}, beside a reward", note=CUT),
    _kl("k3", when="forward KL from the student's own tokens, beside a reward", note=CUT),
    _kl(
        "k1",
        unbiased=True,
        when=f"{REVERSE}, beside a reward",
        note="the value of k1, the gradient of k2 with the ratio; nothing is cut",
    ),
    _kl(
        "k3",
        unbiased=True,
        when=f"{REVERSE}, beside a reward",
        note="the value of k3, the gradient of k2 with the ratio; nothing of that is cut",
    ),
    _texts("token-mean", True, note="the default"),
    _texts("sample-mean", False),
)
