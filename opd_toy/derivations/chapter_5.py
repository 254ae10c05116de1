"""Chapter 5: one objective, two estimators; and the other objectives."""

import sympy as sp
from sympy import log

from opd_toy.derivations.framework import Derivation, chain
from opd_toy.derivations.notation import (
    C2,
    KL,
    AlphaDivergence,
    C,
    Expectation,
    Gradient,
    JensenShannon,
    Limit,
    Partial,
    StopGradient,
    a,
    alpha,
    b,
    baseline,
    beta,
    c,
    delta,
    forward_mixture,
    g,
    j,
    jsd_mixture,
    k,
    p,
    p2,
    q,
    q2,
    reverse_mixture,
    score_norm,
    skew,
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
        "KL is never negative",
        "It is a sum of terms that are positive unless the two probabilities agree, so it is 0 only at p = q.",
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
                    "The logarithm of x is below x − 1 for every positive x but 1, where they meet.",
                    ">=",
                    (p[v], q[v] / p[v], v),
                ),
            ),
        ),
    )

    rkl_baseline_structure = Derivation(
        "rkl-baseline-structure",
        "The exact gradient carries its own baseline",
        "Full-vocabulary reverse KL scores each token by its log-ratio minus the mean log-ratio under the student.",
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
        "The sampled gradient is unbiased",
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

    score_mean_zero = Derivation(
        "score-mean-zero",
        "The mean score is zero",
        "Averaged over the student's own draws, the gradient of the log-probability vanishes.",
        (
            chain(
                Expectation(score, k, p),
                (total(p[k] * score, k), "The mean, written out."),
                (total(Gradient(p[k]), k), "The log-derivative trick."),
                (Gradient(total(p[k], k)), "A sum of gradients is the gradient of the sum."),
                (Gradient(sp.S.One), "Probabilities sum to 1."),
                (sp.S.Zero, "A constant."),
            ),
        ),
    )

    full_vocab_advantage_is_zero = Derivation(
        "full-vocab-advantage-is-zero",
        "KL as the advantage teaches nothing",
        "The full-vocabulary KL is the same number for every draw, so as an advantage it multiplies a mean of zero.",
        (
            chain(
                Expectation(StopGradient(KL(p, q)) * score, k, p),
                (KL(p, q) * Expectation(score, k, p), "KL does not depend on the token drawn."),
                (KL(p, q) * sp.S.Zero, "The mean score is 0."),
                (sp.S.Zero, "Nothing is left."),
            ),
        ),
    )

    general_rule = chain(
        total(c[v] * Partial(p[v], z[j])),
        (total(c[v] * (p[v] * (delta(v, j) - p[j]))), "The softmax Jacobian."),
        (p[j] * c[j] - p[j] * total(p[v] * c[v]), "The delta keeps the term of token j."),
        (
            p[j] * (c[j] - Expectation(c[v], v, p)),
            "Take out the common factor: the price less its mean.",
        ),
        title="any objective, with the prices c its derivatives by p",
    )

    jsd_gradient = (1 - beta) * p[j] * (log(p[j] / jsd_mixture[j]) - KL(p, jsd_mixture))
    jsd = chain(
        Partial(JensenShannon(), z[j]),
        (
            Partial(
                beta * total(q[v] * log(q[v] / jsd_mixture[v]))
                + (1 - beta) * total(p[v] * log(p[v] / jsd_mixture[v])),
                z[j],
            ),
            "The definition, with the mixture m = (1 − β) p + β q.",
        ),
        (
            total(
                (
                    (1 - beta) * (log(p[v] / jsd_mixture[v]) + 1)
                    - (1 - beta) * (((1 - beta) * p[v] + beta * q[v]) / jsd_mixture[v])
                )
                * Partial(p[v], z[j])
            ),
            "The chain rule; the derivative of m by p is 1 − β.",
        ),
        (
            (1 - beta) * total(log(p[v] / jsd_mixture[v]) * Partial(p[v], z[j])),
            "The last fraction is 1 and cancels the +1.",
        ),
        (jsd_gradient, "The softmax Jacobian: the price less its mean."),
        title="generalised Jensen–Shannon divergence",
    )

    power = (p[v] / q[v]) ** (alpha - 1)
    power_j = (p[j] / q[j]) ** (alpha - 1)
    alpha_gradient = p[j] / (alpha - 1) * (power_j - total(p[v] * power))
    alpha_chain = chain(
        Partial(AlphaDivergence(), z[j]),
        (
            Partial((total(p[v] ** alpha * q[v] ** (1 - alpha)) - 1) / (alpha * (alpha - 1)), z[j]),
            "The definition.",
        ),
        (
            1 / (alpha - 1) * total(power * Partial(p[v], z[j])),
            "The chain rule; the factor α cancels.",
        ),
        (alpha_gradient, "The softmax Jacobian: the price less its mean."),
        title="α-divergence",
    )

    mean_share = total(p[v] * (q[v] / forward_mixture[v]))
    skewed_forward_gradient = (1 - skew) * p[j] * (mean_share - q[j] / forward_mixture[j])
    skewed_forward = chain(
        Partial(KL(q, forward_mixture), z[j]),
        (
            -total(q[v] / forward_mixture[v] * Partial(forward_mixture[v], z[j])),
            "The chain rule on −q log p̄, with the smoothed student p̄ = s q + (1 − s) p.",
        ),
        (
            -(1 - skew) * total(q[v] / forward_mixture[v] * Partial(p[v], z[j])),
            "The teacher's part of p̄ does not depend on the logits.",
        ),
        (skewed_forward_gradient, "The softmax Jacobian: the price less its mean."),
        title="skewed forward KL, p̄ = s q + (1 − s) p",
    )

    price = lambda w: log(p[w] / reverse_mixture[w]) - skew * (p[w] / reverse_mixture[w])
    skewed_reverse_gradient = p[j] * (price(j) - total(p[v] * price(v)))
    skewed_reverse = chain(
        Partial(KL(p, reverse_mixture), z[j]),
        (
            total((log(p[v] / reverse_mixture[v]) + 1) * Partial(p[v], z[j]))
            - total(p[v] / reverse_mixture[v] * Partial(reverse_mixture[v], z[j])),
            "The chain rule on p log(p/q̄), with the smoothed teacher q̄ = s p + (1 − s) q.",
        ),
        (total((price(v) + 1) * Partial(p[v], z[j])), "The derivative of q̄ by p is s."),
        (
            skewed_reverse_gradient,
            "The softmax Jacobian: the price less its mean, and the +1 goes with it.",
        ),
        title="skewed reverse KL, q̄ = s p + (1 − s) q",
    )

    def ends(part):
        """The first and last line of a chain, as a chain of its own."""
        return chain(
            part.left, (part.right, "Its own proof has the steps between."), title=part.title
        )

    improve_objective = Derivation(
        "improve-objective",
        "Objectives and their logit gradients",
        "Changing the objective changes the price of each token; every logit gradient is the probability times the price less its mean. Here m = (1 − β) p + β q, p̄ = s q + (1 − s) p and q̄ = s p + (1 − s) q.",
        (
            general_rule,
            chain(
                Partial(KL(q, p), z[j]),
                (p[j] - q[j], "The forward-KL logit gradient; the price is −q/p, its mean −1."),
                title="forward KL",
            ),
            chain(
                Partial(KL(p, q), z[j]),
                (rkl_gradient, "The reverse-KL logit gradient; the price is the log-ratio."),
                title="reverse KL",
            ),
            ends(jsd),
            ends(alpha_chain),
            ends(skewed_forward),
            ends(skewed_reverse),
        ),
    )
    jsd_logit_gradient = Derivation(
        "jsd-logit-gradient",
        "The Jensen–Shannon logit gradient",
        "Reverse KL against the mixture m = (1 − β) p + β q, scaled by 1 − β.",
        (jsd,),
    )
    alpha_divergence_logit_gradient = Derivation(
        "alpha-divergence-logit-gradient",
        "The α-divergence logit gradient",
        "The price is a power of the ratio p/q.",
        (alpha_chain,),
        "any vocabulary size V; α neither 0 nor 1",
    )
    skewed_forward_kl_logit_gradient = Derivation(
        "skewed-forward-kl-logit-gradient",
        "The skewed forward-KL logit gradient",
        "With p̄ = s q + (1 − s) p the price −q/p̄ never exceeds 1/s in size, where forward KL's −q/p has no bound.",
        (skewed_forward,),
    )
    skewed_reverse_kl_logit_gradient = Derivation(
        "skewed-reverse-kl-logit-gradient",
        "The skewed reverse-KL logit gradient",
        "With q̄ = s p + (1 − s) q the log-ratio never exceeds −log s, where reverse KL's has no bound.",
        (skewed_reverse,),
    )

    alpha_term = (p[v] ** alpha * q[v] ** (1 - alpha) - p[v]) / (alpha * (alpha - 1))
    alpha_term_q = (p[v] ** alpha * q[v] ** (1 - alpha) - q[v]) / (alpha * (alpha - 1))
    objective_limits = Derivation(
        "objective-limits",
        "Where the families meet the two KLs",
        "The α-divergence and the skewed KLs join forward and reverse KL at their ends, in value and in gradient.",
        (
            chain(
                Limit(AlphaDivergence(), alpha, 1),
                (Limit(total(alpha_term), alpha, 1), "Write the 1 as the sum of p."),
                (total(Limit(alpha_term, alpha, 1)), "A finite sum: take the limit term by term."),
                (total(p[v] * ratio), "The derivative of a power by its exponent."),
                (KL(p, q), "Reverse KL."),
                title="α to 1",
            ),
            chain(
                Limit(AlphaDivergence(), alpha, 0),
                (Limit(total(alpha_term_q), alpha, 0), "Write the 1 as the sum of q."),
                (
                    total(Limit(alpha_term_q, alpha, 0)),
                    "A finite sum: take the limit term by term.",
                ),
                (-total(q[v] * ratio), "The derivative of a power by its exponent."),
                (KL(q, p), "Forward KL."),
                title="α to 0",
            ),
            chain(
                Limit(alpha_gradient, alpha, 1),
                (
                    Limit(p[j] * total(p[v] * ((power_j - power) / (alpha - 1))), alpha, 1),
                    "The first term does not depend on v, and p sums to 1.",
                ),
                (
                    p[j] * total(p[v] * (log(p[j] / q[j]) - ratio)),
                    "The derivative of a power by its exponent, term by term.",
                ),
                (rkl_gradient, "The reverse-KL logit gradient."),
                title="the gradient, α to 1",
            ),
            chain(
                Limit(alpha_gradient, alpha, 0),
                (-p[j] * (q[j] / p[j] - total(q[v])), "Put α = 0: the ratios turn over."),
                (p[j] - q[j], "The forward-KL logit gradient."),
                title="the gradient, α to 0",
            ),
            chain(
                Limit(KL(q, forward_mixture), skew, 0),
                (total(Limit(q[v] * log(q[v] / forward_mixture[v]), skew, 0)), "Term by term."),
                (KL(q, p), "The mixture becomes the student: forward KL."),
                title="skewed forward KL, s to 0",
            ),
            chain(
                Limit(KL(p, reverse_mixture), skew, 0),
                (total(Limit(p[v] * log(p[v] / reverse_mixture[v]), skew, 0)), "Term by term."),
                (KL(p, q), "The mixture becomes the teacher: reverse KL."),
                title="skewed reverse KL, s to 0",
            ),
            chain(
                Limit(skewed_forward_gradient, skew, 0),
                (p[j] * (total(q[v]) - q[j] / p[j]), "The mixture becomes the student."),
                (p[j] - q[j], "The forward-KL logit gradient."),
                title="the gradient of skewed forward KL, s to 0",
            ),
            chain(
                Limit(skewed_reverse_gradient, skew, 0),
                (rkl_gradient, "The mixture becomes the teacher: the reverse-KL logit gradient."),
                title="the gradient of skewed reverse KL, s to 0",
            ),
        ),
    )

    variance = Expectation(total(((C[k] - baseline) * (delta(k, j) - p[j]) - g[j]) ** 2, j), k, p)
    mean_norm = Expectation(score_norm[k], k, p)
    mean_cost = Expectation(C[k] * score_norm[k], k, p)
    optimal_baseline = Derivation(
        "optimal-baseline",
        "The constant baseline with the least variance",
        "The variance is a parabola in the baseline b, lowest at the mean cost weighted by w, the squared length of a token's score; that need not be the KL. Here g is the exact gradient.",
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
                    "A variance is the mean square less the square of the mean, and the mean is the exact gradient whatever b is.",
                ),
                (
                    Partial(
                        Expectation((C[k] - baseline) ** 2 * score_norm[k], k, p)
                        - total(g[j] ** 2, j),
                        baseline,
                    ),
                    "Call w the squared length of the score of a token.",
                ),
                (
                    2 * Expectation((baseline - C[k]) * score_norm[k], k, p),
                    "The second sum does not depend on b.",
                ),
                (
                    2 * mean_norm * (baseline - mean_cost / mean_norm),
                    "A mean is linear. The slope is negative below the weighted mean cost and positive above it.",
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
        "How full-vocabulary KL may enter the policy gradient",
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
                    "Take the mean over the second token first; the first token's cost and score do not depend on it.",
                ),
                (
                    Gradient(KL(p, q))
                    + Expectation(future * first, a, p)
                    + Expectation(Gradient(future), a, p),
                    "The mean sampled cost of the second token is its full-vocabulary KL, and each sampled gradient has its exact gradient as its mean.",
                ),
                (
                    Gradient(KL(p, q) + Expectation(future, a, p)),
                    "The product rule backwards: this is the gradient of the KL of the whole sequence.",
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
    score_mean_zero,
    full_vocab_advantage_is_zero,
    improve_objective,
    jsd_logit_gradient,
    alpha_divergence_logit_gradient,
    skewed_forward_kl_logit_gradient,
    skewed_reverse_kl_logit_gradient,
    objective_limits,
    optimal_baseline,
    open_question_full_vocab_pg,
]
