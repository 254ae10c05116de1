"""Chapter 9: tokens that another policy drew, the behaviour (``old`` here, a Greek mu in print)."""

import sympy as sp
from sympy import log

from opd_toy.derivations.chapter_5 import score
from opd_toy.derivations.framework import Derivation, chain
from opd_toy.derivations.notation import (
    C2,
    KL,
    C,
    Expectation,
    Gradient,
    StopGradient,
    a,
    b,
    c,
    k,
    old,
    old2,
    p,
    p2,
    q,
    q2,
    total,
    v,
)

with sp.evaluate(False):
    ratio = p[k] / old[k]
    ratio2 = p2[a, b] / old2[a, b]
    score2 = Gradient(log(p2[a, b]))
    kept = log(old[k] / q[k])
    SETTING = "any vocabulary size V, any behaviour that gives every token some probability"

    token_ratio = Derivation(
        "token-ratio-is-exact",
        (
            "Weighted by its ratio, now over then, a token of any age has the exact reverse-KL "
            "gradient as its mean."
        ),
        (
            chain(
                Expectation(ratio * C[k] * score, k, old),
                (total(old[k] * (ratio * C[k] * score), k), "The mean over the behaviour's draws."),
                (total(p[k] * C[k] * score, k), "The behaviour's probability cancels."),
                (Expectation(C[k] * score, k, p), "This is a mean over the student's own draws."),
                (Gradient(KL(p, q)), "The sampled gradient is unbiased."),
                title="its mean",
            ),
            chain(
                Expectation(Gradient(ratio * StopGradient(C[k])), k, old),
                (
                    Expectation(ratio * C[k] * score, k, old),
                    "The gradient of the ratio is the ratio times the score: as a loss it is one.",
                ),
                title="as a loss",
            ),
        ),
        SETTING,
    )

    recomputed = Derivation(
        "stale-cost-recomputed",
        (
            "Without the ratio the mean is off by the difference of the two policies; it "
            "vanishes at the teacher, where every cost is 0."
        ),
        (
            chain(
                Expectation(C[k] * score, k, old) - Gradient(KL(p, q)),
                (
                    Expectation(C[k] * score, k, old) - Expectation(C[k] * score, k, p),
                    "The sampled gradient is unbiased for the student's own draws.",
                ),
                (total((old[k] - p[k]) * C[k] * score, k), "The two means, as one sum."),
                title="the bias",
            ),
            chain(
                Expectation(log(p[k] / p[k]) * score, k, old),
                (
                    Expectation(0 * score, k, old),
                    "Where the teacher is the student every log-ratio is 0.",
                ),
                (sp.S.Zero, "Nothing pushes, whoever drew the token."),
                title="at the teacher",
            ),
        ),
        SETTING,
    )

    cost_kept = Derivation(
        "stale-cost-kept",
        (
            "A cost that is kept from the rollout descends another objective, the ratio or not: "
            "it still pushes where the student is its teacher."
        ),
        (
            chain(
                Expectation(ratio * kept * score, k, old),
                (total(p[k] * kept * score, k), "The behaviour's probability cancels."),
                (
                    total(p[k] * (log(p[k] / q[k]) - log(p[k] / old[k])) * score, k),
                    "Add and subtract the student's log-probability.",
                ),
                (
                    Gradient(KL(p, q)) - Gradient(KL(p, old)),
                    "Two sampled gradients: to the teacher, and away from the old policy.",
                ),
                title="with the ratio",
            ),
            chain(
                Gradient(KL(p, q)) - Gradient(KL(p, old)),
                (
                    Gradient(total(p[v] * log(old[v] / q[v]))),
                    (
                        "Linear in the student's probabilities: followed to its end all of them go "
                        "to the one token where q/μ is largest."
                    ),
                ),
                title="what it descends",
            ),
            chain(
                Expectation(p[k] / old[k] * log(old[k] / p[k]) * score, k, old),
                (total(p[k] * log(old[k] / p[k]) * score, k), "The teacher is the student here."),
                (
                    -Gradient(KL(p, old)),
                    "Away from the old policy: not 0 unless the old policy is the student's too.",
                ),
                title="at the teacher",
            ),
        ),
        SETTING,
    )

    shares = Derivation(
        "ratio-cut-and-mask",
        (
            "A correction that lets a share c of the ratio pass has the exact gradient with "
            "each token at that share; the rest is its bias, and is 0 at the teacher."
        ),
        (
            chain(
                Expectation(c[k] * ratio * C[k] * score, k, old),
                (total(c[k] * p[k] * C[k] * score, k), "The behaviour's probability cancels."),
                (
                    Gradient(KL(p, q)) - total((1 - c[k]) * p[k] * C[k] * score, k),
                    "All tokens at their full share, less what is held back.",
                ),
                title="its mean",
            ),
            chain(
                Expectation(c[k] * ratio * log(p[k] / p[k]) * score, k, old),
                (sp.S.Zero, "At the teacher every cost is 0, so no share of it matters."),
                title="at the teacher",
            ),
        ),
        (
            "any vocabulary size V; c is min(1, limit/ratio) for a truncated ratio, 1 or 0 for a "
            "mask and for PPO's clip"
        ),
    )

    growth = Derivation(
        "ratio-variance-grows",
        (
            "The second moment of a ratio is 1 + χ²; that of a product multiplies from token to "
            "token, so it grows exponentially with the length."
        ),
        (
            chain(
                Expectation(ratio**2, k, old),
                (
                    Expectation(1 + 2 * (ratio - 1) + (ratio - 1) ** 2, k, old),
                    "The square, written around 1.",
                ),
                (
                    1 + Expectation((ratio - 1) ** 2, k, old),
                    "The mean ratio is 1. The last mean is χ²(p‖μ).",
                ),
                title="one token",
            ),
            chain(
                Expectation(Expectation((p[a] / old[a] * ratio2) ** 2, b, old2, a), a, old),
                (
                    Expectation((p[a] / old[a]) ** 2 * Expectation(ratio2**2, b, old2, a), a, old),
                    "The first ratio does not depend on the second token.",
                ),
                (
                    Expectation(
                        (p[a] / old[a]) ** 2 * (1 + Expectation((ratio2 - 1) ** 2, b, old2, a)),
                        a,
                        old,
                    ),
                    (
                        "One token after each first one: every further token multiplies by 1 + χ² "
                        "at its prefix."
                    ),
                ),
                title="two tokens",
            ),
            chain(
                Expectation(Expectation((ratio * p[v] / old[v]) ** 2, v, old), k, old),
                (
                    Expectation(ratio**2, k, old) * Expectation((p[v] / old[v]) ** 2, v, old),
                    "Where the second token does not depend on the first the means multiply.",
                ),
                (
                    Expectation(ratio**2, k, old) ** 2,
                    "Twice the same factor: after T tokens its Tth power.",
                ),
                title="two alike",
            ),
        ),
        "any vocabulary size V, a tree of two positions",
    )

    gkd_on_stale_text = Derivation(
        "gkd-on-stale-text",
        (
            "The full vocabulary needs no ratio: at each prefix the gradient is exact, whoever "
            "wrote the prefix, and it is what the token ratio has as its mean."
        ),
        (
            chain(
                Expectation(Expectation(ratio2 * C2[a, b] * score2, b, old2, a), a, old),
                (
                    Expectation(Expectation(C2[a, b] * score2, b, p2, a), a, old),
                    "After each prefix the ratio makes the token the student's own.",
                ),
                (
                    Expectation(Gradient(KL(p2, q2, a)), a, old),
                    (
                        "The sampled gradient is unbiased at each prefix. Only how often a prefix "
                        "comes is the old policy's."
                    ),
                ),
                title="the second position",
            ),
            chain(
                Expectation(Gradient(KL(p2, q2, a)), a, old)
                - Expectation(Gradient(KL(p2, q2, a)), a, p),
                (
                    total((old[a] - p[a]) * Gradient(KL(p2, q2, a)), a),
                    "The bias against GKD on own texts; the ratio of the prefix would remove it.",
                ),
                title="the bias",
            ),
        ),
        "any vocabulary size V, a tree of two positions",
    )

DERIVATIONS = [token_ratio, recomputed, cost_kept, shares, growth, gkd_on_stale_text]
