"""What the book adds to the notes' claims."""

from functools import partial

from opd_toy.ledger.claims.claim import Claim
from opd_toy.ledger.evidence import growth, position, sequence, studies

in_chapter_5 = partial(Claim, chapter="Beyond the notes", page="05-one-objective-two-estimators")
in_chapter_3 = partial(Claim, chapter="Beyond the notes", page="03-logit-gradients")
in_noise = partial(Claim, chapter="Beyond the notes", page="06-noise")
in_claim_by_claim = partial(Claim, chapter="Beyond the notes", page="08-claim-by-claim")
in_control_study = partial(Claim, chapter="Beyond the notes", page="06-control-study")

CLAIMS = (
    in_chapter_5(
        id="pg-zero-gamma-is-gkd",
        statement="In the mean, token-level policy gradient equals on-policy GKD exactly.",
        shown_by=("proof", "exact"),
    ),
    in_chapter_5(
        id="k-estimators-as-loss",
        statement=(
            "Differentiated as a loss, k1 teaches nothing, k2 follows reverse KL and k3 forward KL."
        ),
        shown_by=("proof",),
        evidence=position.k_as_loss,
    ),
    in_chapter_5(
        id="k-estimators-as-reward",
        statement="As a detached cost, k1 follows reverse KL, and k3 reverse KL less forward KL.",
        shown_by=("proof",),
        evidence=position.k_as_reward,
    ),
    in_chapter_5(
        id="baseline-does-not-always-help",
        statement="On the notes' own example the KL baseline raises the variance.",
        shown_by=("exact",),
        evidence=position.baselines,
    ),
    in_chapter_3(
        id="jsd-endpoints",
        statement="Near its ends β scales the strength of JSD, not its direction.",
        shown_by=("proof",),
        evidence=position.jsd_ends,
    ),
    in_chapter_3(
        id="top-k-head-pushes-the-wrong-token",
        statement=(
            "Drop the tail outside the teacher's top K and descent can raise the token the "
            "teacher likes least."
        ),
        shown_by=("exact",),
        evidence=position.top_two,
    ),
    in_chapter_5(
        id="schulman-table",
        statement="Bias and spread of k1, k2, k3 for N(0, 1) against N(μ, 1).",
        shown_by=("exact",),
        evidence=position.schulman,
    ),
    in_noise(
        id="rao-blackwell-return",
        statement=(
            "The exact local gradient, and the score times the full-vocabulary KLs to come: "
            "unbiased for the sequence KL; on this tree with less noise than the sampled return."
        ),
        shown_by=("exact",),
        evidence=sequence.rao_blackwell,
    ),
    in_noise(
        id="sharper-variance-bounds",
        statement=(
            "Scores of different positions are uncorrelated, so the full return's variance is at "
            "most T³ B_r² B_s², reward-to-go's T² (T + 1)/2 and, for γ below 1, T²/(1 − γ²) in "
            "the same units; the order T³ is reached."
        ),
        shown_by=("proof", "exact"),
        evidence=growth.sharper_bounds,
    ),
    in_claim_by_claim(
        id="exposure-bias",
        statement=(
            "A student that learns on the teacher's texts is further from the teacher on texts of "
            "its own; learning on its own texts narrows the gap."
        ),
        shown_by=("experiment",),
        evidence=studies.exposure,
    ),
    in_control_study(
        id="variance-exponents",
        statement=(
            "Measured growth with T: like T at γ = 0, towards T³ for the full return, below the "
            "bounds."
        ),
        shown_by=("exact", "experiment"),
        evidence=growth.exponents,
    ),
)
