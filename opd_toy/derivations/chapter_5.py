"""Chapter 5: one objective, two estimators; and the other objectives."""

import sympy as sp
from sympy import log

from opd_toy.derivations.framework import Derivation, chain
from opd_toy.derivations.notation import (
    C2,
    KL,
    C,
    Expectation,
    Gradient,
    Partial,
    StopGradient,
    a,
    b,
    baseline,
    delta,
    g,
    j,
    k,
    p,
    p2,
    q,
    q2,
    score_norm,
    total,
    v,
    z,
)

with sp.evaluate(False):
    ratio = log(p[v] / q[v])
    rkl_gradient = p[j] * (log(p[j] / q[j]) - KL(p, q))
    score = Gradient(log(p[k]))

    kl_nonnegative = Derivation(
        "kl-nonnegative",
        (
            "It is a sum of terms that are positive unless the two probabilities agree, so it "
            "is 0 only at p = q."
        ),
        (
            chain(
                KL(p, q),
                (-total(p[v] * log(q[v] / p[v])), "Turn the ratio over."),
                (
                    total(p[v] * (q[v] / p[v] - 1 - log(q[v] / p[v]))),
                    "Add the sum of q − p, which is 0.",
                ),
                (
                    sp.S.Zero,
                    (
                        "The logarithm of x is below x − 1 for every positive x but 1, where "
                        "they meet."
                    ),
                    ">=",
                    (p[v], q[v] / p[v], v),
                ),
            ),
        ),
    )

    rkl_baseline_structure = Derivation(
        "rkl-baseline-structure",
        (
            "Full-vocabulary reverse KL scores each token by its log-ratio minus the mean "
            "log-ratio under the student."
        ),
        (
            chain(
                Partial(KL(p, q), z[j]),
                (rkl_gradient, "The reverse-KL logit gradient."),
                (
                    p[j] * (log(p[j] / q[j]) - Expectation(ratio, v, p)),
                    "KL is the mean log-ratio under the student.",
                ),
                title="the log-ratio less its mean",
            ),
            chain(
                Expectation(log(p[j] / q[j]) - KL(p, q), j, p),
                (KL(p, q) - KL(p, q), "The mean log-ratio is KL, and KL is a constant."),
                (sp.S.Zero, "So the deviations have mean 0."),
                title="what is left has mean zero",
            ),
            chain(
                Expectation((C[k] - baseline) * (delta(k, j) - p[j]), k, p),
                (
                    Expectation(C[k] * (delta(k, j) - p[j]), k, p)
                    - baseline * Expectation(delta(k, j) - p[j], k, p),
                    "Any constant baseline b comes out of the mean.",
                ),
                (
                    rkl_gradient - baseline * (p[j] - p[j]),
                    "The sampled cost gives the exact gradient; the scores have mean 0.",
                ),
                (rkl_gradient, "A constant baseline does not change the mean."),
                title="a constant baseline changes nothing in the mean",
            ),
        ),
    )

    pg_unbiased_local = Derivation(
        "pg-unbiased-local",
        "The drawn token's log-ratio times its score has the full-vocabulary gradient as its mean.",
        (
            chain(
                Gradient(KL(p, q)),
                (Gradient(total(p[k] * log(p[k] / q[k]), k)), "The definition of reverse KL."),
                (
                    total(log(p[k] / q[k]) * Gradient(p[k]), k) + total(p[k] * score, k),
                    "The product rule; the teacher does not depend on the parameters.",
                ),
                (total(log(p[k] / q[k]) * Gradient(p[k]), k), "The mean score is 0."),
                (total(p[k] * log(p[k] / q[k]) * score, k), "The log-derivative trick."),
                (Expectation(log(p[k] / q[k]) * score, k, p), "A mean over the student's draws."),
            ),
        ),
    )

    full_vocab_advantage_is_zero = Derivation(
        "full-vocab-advantage-is-zero",
        (
            "The full-vocabulary KL is the same number for every draw, so as an advantage it "
            "multiplies a mean of zero."
        ),
        (
            chain(
                Expectation(StopGradient(KL(p, q)) * score, k, p),
                (KL(p, q) * Expectation(score, k, p), "KL does not depend on the token drawn."),
                (KL(p, q) * sp.S.Zero, "The mean score is 0."),
                (sp.S.Zero, "Nothing is left."),
            ),
        ),
    )

    variance = Expectation(total(((C[k] - baseline) * (delta(k, j) - p[j]) - g[j]) ** 2, j), k, p)
    mean_norm = Expectation(score_norm[k], k, p)
    mean_cost = Expectation(C[k] * score_norm[k], k, p)
    optimal_baseline = Derivation(
        "optimal-baseline",
        (
            "The variance is a parabola in the baseline b, lowest at the mean cost weighted by "
            "ℓ, the squared length of a token's score; that need not be the KL. Here g is the "
            "exact gradient."
        ),
        (
            chain(
                Partial(variance, baseline),
                (
                    Partial(
                        Expectation(
                            (C[k] - baseline) ** 2 * total((delta(k, j) - p[j]) ** 2, j), k, p
                        )
                        - total(g[j] ** 2, j),
                        baseline,
                    ),
                    (
                        "A variance is the mean square less the square of the mean, and the "
                        "mean is the exact gradient whatever b is."
                    ),
                ),
                (
                    Partial(
                        Expectation((C[k] - baseline) ** 2 * score_norm[k], k, p)
                        - total(g[j] ** 2, j),
                        baseline,
                    ),
                    "Call ℓ the squared length of the score of a token.",
                ),
                (
                    2 * Expectation((baseline - C[k]) * score_norm[k], k, p),
                    "The second sum does not depend on b.",
                ),
                (
                    2 * mean_norm * (baseline - mean_cost / mean_norm),
                    (
                        "A mean is linear. The slope is negative below the weighted mean cost "
                        "and positive above it."
                    ),
                ),
                title="the slope of the variance",
            ),
            chain(
                score_norm[k],
                (
                    total((delta(k, j) - p[j]) ** 2, j),
                    "The score is one at the drawn token, less p.",
                ),
                (1 - 2 * p[k] + total(p[j] ** 2, j), "Multiply out and evaluate the deltas."),
                title="the squared length of a score",
            ),
        ),
    )

    # A token tree of two positions: a is drawn first, then b after the prefix a.
    second = Gradient(log(p2[a, b]))
    first = Gradient(log(p[a]))
    future = KL(p2, q2, a)

    def mean(body):
        return Expectation(Expectation(body, b, p2, a), a, p)

    open_question_full_vocab_pg = Derivation(
        "open-question-full-vocab-pg",
        "Never as the advantage; as the baseline, or in the place of the sampled future return.",
        (
            chain(
                Expectation(StopGradient(KL(p, q)) * score, k, p),
                (sp.S.Zero, "KL as the advantage teaches nothing."),
                title="as the advantage: nothing is learned",
            ),
            chain(
                Expectation((C[k] - KL(p, q)) * score, k, p),
                (
                    Expectation(C[k] * score, k, p) - KL(p, q) * Expectation(score, k, p),
                    "KL is a constant.",
                ),
                (
                    Gradient(KL(p, q)) - KL(p, q) * sp.S.Zero,
                    "The sampled gradient is unbiased, and the mean score is 0.",
                ),
                (
                    Gradient(KL(p, q)),
                    "The same mean: KL is a valid baseline. Its variance is another matter.",
                ),
                title="as the baseline: unbiased",
            ),
            chain(
                mean((C[a] + C2[a, b]) * first + C2[a, b] * second),
                (
                    Expectation(C[a] * first, a, p)
                    + Expectation(Expectation(C2[a, b], b, p2, a) * first, a, p)
                    + Expectation(Expectation(C2[a, b] * second, b, p2, a), a, p),
                    (
                        "Take the mean over the second token first; the first token's cost and "
                        "score do not depend on it."
                    ),
                ),
                (
                    Gradient(KL(p, q))
                    + Expectation(future * first, a, p)
                    + Expectation(Gradient(future), a, p),
                    (
                        "The mean sampled cost of the second token is its full-vocabulary KL, "
                        "and each sampled gradient has its exact gradient as its mean."
                    ),
                ),
                (
                    Gradient(KL(p, q) + Expectation(future, a, p)),
                    (
                        "The product rule backwards: this is the gradient of the KL of the "
                        "whole sequence."
                    ),
                ),
                title="as the future return, for two positions: unbiased",
            ),
        ),
        "any vocabulary size V; the last chain for a tree of two positions",
    )

DERIVATIONS = [
    kl_nonnegative,
    rkl_baseline_structure,
    pg_unbiased_local,
    full_vocab_advantage_is_zero,
    optimal_baseline,
    open_question_full_vocab_pg,
]
