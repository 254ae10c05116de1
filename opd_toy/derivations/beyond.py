"""Beyond the notes: token trees, the k-estimators, the ends of Jensen–Shannon."""

import sympy as sp
from sympy import exp, log

from opd_toy.derivations.chapter_5 import (
    first,
    future,
    mean,
    rkl_gradient,
    score,
    second,
)
from opd_toy.derivations.families import jsd_gradient
from opd_toy.derivations.framework import Derivation, chain
from opd_toy.derivations.notation import (
    C2,
    KL,
    C,
    Expectation,
    GaussianLogRatio,
    GaussianMean,
    Gradient,
    JensenShannon,
    Limit,
    StopGradient,
    a,
    b,
    beta,
    j,
    jsd_mixture,
    k,
    mu,
    p,
    p2,
    q,
    total,
    v,
    x,
)

with sp.evaluate(False):
    log_ratio = log(p[k] / q[k])
    k3 = q[k] / p[k] - 1 + log_ratio

    pg_zero_gamma_is_gkd = Derivation(
        "pg-zero-gamma-is-gkd",
        (
            "With every token scored by its own cost alone, the mean of the sampled gradient is"
            " GKD's: the exact gradient at each prefix, prefixes drawn from the student and "
            "held fixed."
        ),
        (
            chain(
                mean(C[a] * first + C2[a, b] * second),
                (
                    Expectation(C[a] * first, a, p)
                    + Expectation(Expectation(C2[a, b] * second, b, p2, a), a, p),
                    "The first position's term does not depend on the second token.",
                ),
                (
                    Gradient(KL(p, q)) + Expectation(Gradient(future), a, p),
                    (
                        "At each prefix the sampled gradient has the exact one as its mean. The"
                        " gradient stands inside the mean: the prefix is not differentiated."
                    ),
                ),
            ),
        ),
        "any vocabulary size V, a tree of two positions",
    )

    k_estimators_as_loss = Derivation(
        "k-estimators-as-loss",
        (
            "Good estimates of a value need not have its gradient: k1 teaches nothing, k2 "
            "follows reverse KL, k3 follows forward KL."
        ),
        (
            chain(
                Expectation(Gradient(log_ratio), k, p),
                (Expectation(score, k, p), "The teacher does not depend on the parameters."),
                (sp.S.Zero, "The mean score is 0."),
                title="k1",
            ),
            chain(
                Expectation(Gradient(sp.Rational(1, 2) * log_ratio**2), k, p),
                (Expectation(log_ratio * score, k, p), "The chain rule."),
                (Gradient(KL(p, q)), "The sampled gradient is unbiased: reverse KL."),
                title="k2",
            ),
            chain(
                Expectation(Gradient(k3), k, p),
                (
                    Expectation((1 - q[k] / p[k]) * score, k, p),
                    "The chain rule; the gradient of p is p times the score.",
                ),
                (
                    Expectation(score, k, p) - total(q[k] * score, k),
                    "The student's probability cancels in the second term.",
                ),
                (-total(q[k] * score, k), "The mean score is 0."),
                (
                    Gradient(-total(q[k] * log(p[k]), k)),
                    "The teacher does not depend on the parameters.",
                ),
                (Gradient(KL(q, p)), "The soft-label loss has forward KL's gradient."),
                title="k3",
            ),
        ),
    )

    k_estimators_as_reward = Derivation(
        "k-estimators-as-reward",
        (
            "Detached and multiplied by the score, k1 follows reverse KL; k3 follows reverse KL"
            " less forward KL."
        ),
        (
            chain(
                Expectation(StopGradient(log_ratio) * score, k, p),
                (Gradient(KL(p, q)), "The sampled gradient is unbiased."),
                title="k1",
            ),
            chain(
                Expectation(StopGradient(k3) * score, k, p),
                (
                    Expectation(log_ratio * score, k, p)
                    - Expectation(score, k, p)
                    + Expectation(q[k] / p[k] * score, k, p),
                    "A mean is linear.",
                ),
                (
                    Gradient(KL(p, q)) + total(q[k] * score, k),
                    (
                        "The sampled gradient is unbiased, the mean score is 0, and the "
                        "student's probability cancels."
                    ),
                ),
                (
                    Gradient(KL(p, q)) - Gradient(KL(q, p)),
                    "The last sum is forward KL's gradient with its sign turned.",
                ),
                title="k3",
            ),
        ),
    )

    near_student = q[v] * log(q[v] / jsd_mixture[v]) + (1 - beta) / beta * p[v] * log(
        p[v] / jsd_mixture[v]
    )
    near_teacher = beta / (1 - beta) * q[v] * log(q[v] / jsd_mixture[v]) + p[v] * log(
        p[v] / jsd_mixture[v]
    )
    jsd_endpoints = Derivation(
        "jsd-endpoints",
        (
            "Near its ends β scales the strength and not the direction: divided by β, or by 1 −"
            " β, the divergence becomes a KL."
        ),
        (
            chain(
                Limit(JensenShannon() / beta, beta, 0),
                (Limit(total(near_student), beta, 0), "The definition, divided by β, as one sum."),
                (total(Limit(near_student, beta, 0)), "A finite sum: take the limit term by term."),
                (
                    total(q[v] * log(q[v] / p[v]) + p[v] - q[v]),
                    "The mixture becomes the student; its logarithm's slope gives p − q.",
                ),
                (KL(q, p), "Both sum to 1: forward KL is left."),
                title="β to 0",
            ),
            chain(
                Limit(JensenShannon() / (1 - beta), beta, 1),
                (
                    Limit(total(near_teacher), beta, 1),
                    "The definition, divided by 1 − β, as one sum.",
                ),
                (total(Limit(near_teacher, beta, 1)), "A finite sum: take the limit term by term."),
                (total(p[v] * log(p[v] / q[v]) + q[v] - p[v]), "The mixture becomes the teacher."),
                (KL(p, q), "Both sum to 1: reverse KL is left."),
                title="β to 1",
            ),
            chain(
                Limit(jsd_gradient / beta, beta, 0),
                (
                    p[j] * ((p[j] - q[j]) / p[j] - total(p[v] - q[v])),
                    "The logarithm's slope at the student.",
                ),
                (p[j] - q[j], "Both sum to 1: the forward-KL logit gradient."),
                title="the gradient, β to 0",
            ),
            chain(
                Limit(jsd_gradient / (1 - beta), beta, 1),
                (rkl_gradient, "The mixture becomes the teacher: the reverse-KL logit gradient."),
                title="the gradient, β to 1",
            ),
        ),
    )

    kl = mu**2 / 2
    r = GaussianLogRatio()
    gaussian_k2 = sp.Rational(1, 2) * r**2
    gaussian_k3 = exp(-r) - 1 + r

    def moment(value, result, reason, title):
        return chain(GaussianMean(value), (result, reason), title=title)

    integral = "Integrate against the normal density."
    schulman_table = Derivation(
        "schulman-table",
        (
            "For samples of N(0, 1) against N(μ, 1), with r the log-ratio of the densities: k1 "
            "= r and k3 are unbiased, k2 is not, and each variance has a closed form."
        ),
        (
            chain(
                GaussianMean(r),
                (
                    GaussianMean((x - mu) ** 2 / 2 - x**2 / 2),
                    "The logarithms of the two densities, subtracted.",
                ),
                (
                    GaussianMean(mu**2 / 2 - mu * x),
                    "Multiply out: the log-ratio of the two densities is linear in x.",
                ),
                (kl, "The mean of x is 0: this is KL."),
                title="mean of k1, the KL divergence",
            ),
            moment(
                (r - kl) ** 2,
                mu**2,
                "What is left is μx, and the mean square of x is 1.",
                "variance of k1",
            ),
            moment(gaussian_k2 - kl, mu**4 / 8, integral, "bias of k2"),
            moment(
                (gaussian_k2 - (kl + mu**4 / 8)) ** 2,
                mu**4 / 2 + mu**6 / 4,
                integral,
                "variance of k2",
            ),
            moment(gaussian_k3 - kl, sp.S.Zero, integral, "bias of k3"),
            moment((gaussian_k3 - kl) ** 2, exp(mu**2) - 1 - mu**2, integral, "variance of k3"),
        ),
        "x drawn from N(0, 1); the other density is N(μ, 1)",
    )

DERIVATIONS = [
    pg_zero_gamma_is_gkd,
    k_estimators_as_loss,
    k_estimators_as_reward,
    jsd_endpoints,
    schulman_table,
]
