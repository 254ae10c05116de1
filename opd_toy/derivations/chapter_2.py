"""Chapter 2: the policy gradient."""

import sympy as sp
from sympy import log

from opd_toy.derivations.framework import Derivation, chain
from opd_toy.derivations.notation import (
    KL,
    C,
    Expectation,
    Gradient,
    R,
    StopGradient,
    k,
    p,
    q,
    total,
    y,
)

with sp.evaluate(False):
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

    frozen = StopGradient(C[k])
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
                    total((log(p[k]) - log(q[k])) * Gradient(p[k]), k),
                    "The definition of the cost C; only the probabilities are differentiated.",
                ),
                (Gradient(KL(p, q)), "The reverse-KL gradient for any parameter."),
            ),
        ),
        "any vocabulary size V; C is log p − log q of the drawn token",
    )

DERIVATIONS = [log_derivative, policy_gradient, pg_opd_cost]
