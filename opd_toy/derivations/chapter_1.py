"""Chapter 1: from one-hot labels to the teacher's whole distribution."""

import sympy as sp
from sympy import exp, log

from opd_toy.derivations.framework import Derivation, chain
from opd_toy.derivations.notation import (
    KL,
    Entropy,
    Expectation,
    Limit,
    Partial,
    delta,
    j,
    margin,
    n,
    p,
    q,
    sharp,
    sharpness,
    skew,
    total,
    v,
    z,
)

with sp.evaluate(False):
    soft_label_loss = -total(q[v] * log(p[v]))

    sft_one_hot = Derivation(
        "sft-one-hot",
        (
            "The loss on the one recorded token is the soft-label loss of a teacher that puts "
            "all its mass on it."
        ),
        (
            chain(
                -total(delta(v, n) * log(p[v])),
                (-log(p[n]), "The delta keeps the term of the recorded token."),
                title="the loss",
            ),
            chain(
                Partial(-log(p[n]), z[j]),
                (-(delta(n, j) - p[j]), "The log-softmax Jacobian."),
                (p[j] - delta(n, j), "Open the bracket."),
                title="its gradient",
            ),
        ),
    )

    seqkd_soft_label = Derivation(
        "seqkd-soft-label",
        "Training on tokens drawn from the teacher costs, on average, the soft-label loss.",
        (
            chain(
                Expectation(-log(p[n]), n, q),
                (total(q[n] * (-log(p[n])), n), "The mean over the teacher's tokens, written out."),
                (soft_label_loss, "Take out the sign and rename the index."),
            ),
        ),
    )

    seqkd_is_forward_kl = Derivation(
        "seqkd-is-forward-kl",
        (
            "The two differ by the teacher's entropy, which the student cannot change: they "
            "have the same gradient."
        ),
        (
            chain(
                soft_label_loss,
                (
                    total(q[v] * log(q[v] / p[v])) - total(q[v] * log(q[v])),
                    "Add and subtract the sum of q log q.",
                ),
                (KL(q, p) - total(q[v] * log(q[v])), "The first sum is forward KL."),
                (KL(q, p) + Entropy(q), "The second is the teacher's entropy."),
                title="the value",
            ),
            chain(
                Partial(soft_label_loss, z[j]),
                (Partial(KL(q, p) + Entropy(q), z[j]), "The identity of the values."),
                (Partial(KL(q, p), z[j]), "The teacher's entropy does not depend on the logits."),
                title="the gradient",
            ),
        ),
    )

    blend = (1 - skew) * q[v] + skew * delta(v, n)
    sft_limit = Derivation(
        "sft-limit",
        "As the teacher tends to one-hot on token n, the SeqKD gradient tends to the SFT gradient.",
        (
            chain(
                Limit(
                    p[j] - sharp[j] ** sharpness / total(sharp[v] ** sharpness), sharpness, sp.oo
                ),
                (
                    Limit(
                        p[j] - exp(-sharpness * margin[j]) / total(exp(-sharpness * margin[v])),
                        sharpness,
                        sp.oo,
                    ),
                    (
                        "Divide above and below by the largest term: each probability is the "
                        "largest one times exp(−Δ), with Δ zero at token n and positive "
                        "elsewhere."
                    ),
                ),
                (
                    p[j]
                    - Limit(exp(-sharpness * margin[j]), sharpness, sp.oo)
                    / total(Limit(exp(-sharpness * margin[v]), sharpness, sp.oo)),
                    "A finite sum: take the limit term by term.",
                ),
                (
                    p[j] - delta(j, n) / total(delta(v, n)),
                    "Each exponential stays 1 at token n and vanishes elsewhere.",
                ),
                (p[j] - delta(j, n), "The deltas sum to 1."),
                title="lowering the teacher's temperature",
            ),
            chain(
                Partial(-total(blend * log(p[v])), z[j]),
                (
                    p[j] - ((1 - skew) * q[j] + skew * delta(j, n)),
                    "The forward-KL logit gradient, for this teacher.",
                ),
                (
                    (1 - skew) * (p[j] - q[j]) + skew * (p[j] - delta(j, n)),
                    "Collect: a straight line from the SeqKD gradient to the SFT gradient.",
                ),
                title="mixing in the one-hot label",
            ),
        ),
        "any vocabulary size V; token n is the teacher's single likeliest",
    )

DERIVATIONS = [sft_one_hot, seqkd_soft_label, seqkd_is_forward_kl, sft_limit]
