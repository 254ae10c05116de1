"""Chapter 2: the policy gradient and the score."""

import sympy as sp
from sympy import exp, log

from opd_toy.derivations.framework import Derivation, chain
from opd_toy.derivations.notation import (
    KL,
    C,
    Expectation,
    Gradient,
    Partial,
    R,
    StopGradient,
    delta,
    j,
    k,
    p,
    q,
    total,
    v,
    y,
    z,
)

with sp.evaluate(False):
    score = Gradient(log(p[k]))
    log_derivative = Derivation(
        "log-derivative",
        "A gradient of a probability is the probability times the gradient of its logarithm.",
        (
            chain(
                Gradient(p[y]),
                (
                    p[y] * (Gradient(p[y]) / p[y]),
                    "Multiply and divide by the probability, which is positive.",
                ),
                (p[y] * Gradient(log(p[y])), "The derivative of a logarithm."),
            ),
        ),
    )

    policy_gradient = Derivation(
        "policy-gradient",
        (
            "The gradient of a mean reward is a mean that sampling can estimate, for any reward"
            " that does not depend on the parameters."
        ),
        (
            chain(
                Gradient(Expectation(R[y], y, p)),
                (Gradient(total(p[y] * R[y], y)), "The mean, written out."),
                (total(R[y] * Gradient(p[y]), y), "The reward does not depend on the parameters."),
                (total(p[y] * R[y] * Gradient(log(p[y])), y), "The log-derivative trick."),
                (
                    Expectation(R[y] * Gradient(log(p[y])), y, p),
                    "A sum weighted by the student's probabilities is a mean over its samples.",
                ),
            ),
        ),
    )

    log_softmax_jacobian = Derivation(
        "log-softmax-jacobian",
        "The score of one token: one at that token, minus the student's probabilities.",
        (
            chain(
                Partial(log(p[v]), z[j]),
                (Partial(z[v] - log(total(exp(z[k]), k)), z[j]), "The logarithm of the softmax."),
                (
                    delta(v, j) - exp(z[j]) / total(exp(z[k]), k),
                    "The chain rule on the log of the normaliser.",
                ),
                (delta(v, j) - p[j], "The last term is the softmax again."),
            ),
        ),
    )

    score_mean_zero = Derivation(
        "score-mean-zero",
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

    frozen = StopGradient(C[k])
    ratio = log(p[k]) - log(q[k])
    pg_opd_cost = Derivation(
        "pg-opd-cost",
        (
            "OPD takes the detached log-ratio of the drawn token instead of a reward; it is a "
            "cost, to be descended."
        ),
        (
            chain(
                Expectation(Gradient(frozen * log(p[k])), k, p),
                (
                    Expectation(frozen * Gradient(log(p[k])), k, p),
                    "The stop-gradient makes the cost a number.",
                ),
                (
                    Gradient(Expectation(frozen, k, p)),
                    "The policy gradient, read backwards, with the detached cost as the reward.",
                ),
                (
                    total(ratio * Gradient(p[k]), k),
                    "The definition of the cost C; only the probabilities are differentiated.",
                ),
                (
                    total(ratio * Gradient(p[k]), k) + Expectation(score, k, p),
                    "The mean score is 0.",
                ),
                (
                    total(ratio * Gradient(p[k]), k) + total(p[k] * Gradient(ratio), k),
                    "The mean, written out; the teacher does not depend on the parameters.",
                ),
                (Gradient(total(p[k] * ratio, k)), "The product rule, read backwards."),
                (Gradient(KL(p, q)), "The definition of reverse KL."),
            ),
        ),
        "any vocabulary size V; C is log p − log q of the drawn token",
    )

DERIVATIONS = [
    log_derivative,
    policy_gradient,
    log_softmax_jacobian,
    score_mean_zero,
    pg_opd_cost,
]
