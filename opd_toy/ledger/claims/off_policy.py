"""Rollouts that are not the student's: a third policy wrote the text."""

from functools import partial

from opd_toy.ledger.claims.claim import Claim
from opd_toy.ledger.evidence import off_policy, studies

claim = partial(Claim, chapter="Beyond the notes", page="09-stale-rollouts")

CLAIMS = (
    claim(
        id="token-ratio-is-exact",
        statement=(
            "Weighted by p/μ, a token that μ drew has the exact reverse-KL gradient as its mean."
        ),
        shown_by=("proof",),
        evidence=off_policy.ratio,
    ),
    claim(
        id="stale-cost-recomputed",
        statement=(
            "Without the ratio the mean is off by Σ (μ − p) C ∇log p, which is 0 at the teacher."
        ),
        shown_by=("proof",),
        evidence=off_policy.no_ratio,
    ),
    claim(
        id="stale-cost-kept",
        statement=(
            "A cost kept from the rollout descends KL(p‖q) − KL(p‖μ) and pushes at p = q, with the "
            "ratio too."
        ),
        shown_by=("proof", "exact"),
        evidence=off_policy.kept,
    ),
    claim(
        id="ratio-cut-and-mask",
        statement=(
            "Truncated, masked or clipped, the ratio is biased by what it holds back; the teacher "
            "stays a resting place."
        ),
        shown_by=("proof", "exact", "slider"),
        evidence=off_policy.corrections,
    ),
    claim(
        id="ratio-variance-grows",
        statement=(
            "The second moment of a product of ratios is Π (1 + χ²): exponential in the length."
        ),
        shown_by=("proof",),
        evidence=off_policy.products,
    ),
    claim(
        id="stale-prefixes",
        statement=(
            "The token's ratio follows the local KLs at the prefixes of μ; products of ratios "
            "remove that bias, at the price of their variance."
        ),
        shown_by=("exact", "slider"),
        evidence=off_policy.prefixes,
    ),
    claim(
        id="gkd-on-stale-text",
        statement=(
            "The full vocabulary needs no ratio on old text: only the weights of the prefixes "
            "change."
        ),
        shown_by=("proof", "exact"),
        evidence=off_policy.gkd,
    ),
    claim(
        id="forward-kl-and-staleness",
        statement=(
            "Forward KL is more robust to stale rollouts than reverse KL: true where weights are "
            "stored, as the teacher's do not age; not by its direction alone."
        ),
        shown_by=("exact",),
        evidence=off_policy.directions,
    ),
    claim(
        id="sampler-mismatch",
        statement=(
            "A sampler with other roundings or another temperature is corrected by the ratio; "
            "tokens that it cuts away cannot be."
        ),
        shown_by=("exact",),
        evidence=off_policy.samplers,
    ),
    claim(
        id="async-study",
        statement=(
            "On a transformer, texts 16 steps old: drawn tokens without a ratio lead away from the "
            "teacher, with it still nearer, and the full vocabulary hardly minds."
        ),
        shown_by=("experiment",),
        evidence=studies.old_texts,
    ),
)
