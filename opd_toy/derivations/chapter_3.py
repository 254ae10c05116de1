"""Chapter 3: softmax derivatives and the logit gradients of the two KL divergences."""

import sympy as sp
from sympy import Lt, exp, log

from opd_toy.derivations.framework import Derivation, chain
from opd_toy.derivations.notation import KL, C, Gradient, Partial, delta, j, k, p, q, total, v, z

with sp.evaluate(False):
    ratio = log(p[v] / q[v])

    softmax_jacobian = Derivation(
        "softmax-jacobian",
        "Raising one logit raises its own token's probability and lowers every other's.",
        (
            chain(
                Partial(p[v], z[j]),
                (Partial(exp(z[v]) / total(exp(z[k]), k), z[j]), "p is the softmax of z."),
                (
                    (delta(v, j) * exp(z[v]) * total(exp(z[k]), k) - exp(z[v]) * exp(z[j]))
                    / total(exp(z[k]), k) ** 2,
                    "The quotient rule; only the terms with index j depend on the logit j.",
                ),
                (
                    delta(v, j) * p[v] - p[v] * p[j],
                    "Each exponential over the normaliser is a probability.",
                ),
                (p[v] * (delta(v, j) - p[j]), "Take out the common factor."),
            ),
        ),
    )

    rkl_parameter_gradient = Derivation(
        "rkl-parameter-gradient",
        (
            "Whatever parameter the logits depend on, the +1 of the product rule adds nothing, "
            "because probabilities sum to one."
        ),
        (
            chain(
                Gradient(KL(p, q)),
                (Gradient(total(p[v] * ratio)), "The definition of reverse KL."),
                (
                    total(ratio * Gradient(p[v]) + p[v] * Gradient(ratio)),
                    "The product rule, term by term.",
                ),
                (
                    total((ratio + 1) * Gradient(p[v])),
                    (
                        "The teacher does not depend on the parameter, so the last gradient is "
                        "that of log p: the gradient of p divided by p."
                    ),
                ),
                (total(ratio * Gradient(p[v])) + total(Gradient(p[v])), "Split the sum."),
                (
                    total(ratio * Gradient(p[v])) + Gradient(total(p[v])),
                    "A sum of gradients is the gradient of the sum.",
                ),
                (total(ratio * Gradient(p[v])), "The probabilities sum to 1, whose gradient is 0."),
            ),
        ),
    )

    rkl_logit_gradient = Derivation(
        "rkl-logit-gradient",
        (
            "Each logit's gradient is the student's probability times how far the token's "
            "log-ratio lies above the mean log-ratio."
        ),
        (
            chain(
                Partial(KL(p, q), z[j]),
                (Partial(total(p[v] * ratio), z[j]), "The definition of reverse KL."),
                (
                    total((ratio + 1) * Partial(p[v], z[j])),
                    "The chain rule; the teacher does not depend on the logits.",
                ),
                (total((ratio + 1) * p[v] * (delta(v, j) - p[j])), "The softmax Jacobian."),
                (
                    total((ratio + 1) * p[v] * delta(v, j)) - total((ratio + 1) * p[v] * p[j]),
                    "Split the bracket.",
                ),
                (
                    p[j] * (log(p[j] / q[j]) + 1) - p[j] * total(p[v] * (ratio + 1)),
                    (
                        "The delta keeps the term of token j; the factor of token j leaves the "
                        "second sum."
                    ),
                ),
                (
                    p[j] * (log(p[j] / q[j]) + 1) - p[j] * (total(p[v] * ratio) + 1),
                    "The probabilities sum to 1.",
                ),
                (p[j] * (log(p[j] / q[j]) - total(p[v] * ratio)), "The two +1 cancel."),
                (
                    p[j] * (log(p[j] / q[j]) - KL(p, q)),
                    "The remaining sum is the KL divergence itself.",
                ),
            ),
        ),
    )

    rkl_sign_rule = Derivation(
        "rkl-sign-rule",
        (
            "Descent raises a logit exactly when the token's log-ratio is below the mean "
            "log-ratio, the KL divergence."
        ),
        (
            chain(
                Lt(Partial(KL(p, q), z[j]), 0),
                (
                    Lt(p[j] * (log(p[j] / q[j]) - KL(p, q)), 0),
                    "The reverse-KL logit gradient.",
                    "<=>",
                    (sp.S.One,),
                ),
                (
                    Lt(log(p[j] / q[j]) - KL(p, q), 0),
                    "Divide by the student's probability, which is positive.",
                    "<=>",
                    (p[j],),
                ),
                (
                    Lt(log(p[j] / q[j]), KL(p, q)),
                    "Move the KL divergence to the other side.",
                    "<=>",
                    (sp.S.One,),
                ),
            ),
        ),
    )

    fkl_logit_gradient = Derivation(
        "fkl-logit-gradient",
        (
            "Each logit is pulled by the plain difference of the two probabilities; two routes "
            "lead there."
        ),
        (
            chain(
                Partial(KL(q, p), z[j]),
                (
                    Partial(total(q[v] * log(q[v])) - total(q[v] * log(p[v])), z[j]),
                    "Split the logarithm of the ratio.",
                ),
                (
                    -total(q[v] * Partial(log(p[v]), z[j])),
                    "The first sum does not depend on the logits.",
                ),
                (-total(q[v] * (delta(v, j) - p[j])), "The log-softmax Jacobian."),
                (-q[j] + p[j] * total(q[v]), "The delta keeps the term of token j."),
                (p[j] - q[j], "The teacher's probabilities sum to 1."),
                title="through log p",
            ),
            chain(
                Partial(KL(q, p), z[j]),
                (total(-(q[v] / p[v]) * Partial(p[v], z[j])), "The chain rule through p."),
                (total(-(q[v] / p[v]) * p[v] * (delta(v, j) - p[j])), "The softmax Jacobian."),
                (
                    -total(q[v] * (delta(v, j) - p[j])),
                    "The student's probability cancels: the same sum as on the first route.",
                ),
                (
                    p[j] - q[j],
                    (
                        "The delta keeps the term of token j, and the teacher's probabilities "
                        "sum to 1."
                    ),
                ),
                title="through p",
            ),
        ),
    )

    logit_gradients_sum_to_zero = Derivation(
        "logit-gradients-sum-to-zero",
        (
            "No update of this kind moves all logits together: adding a constant to every logit"
            " changes no probability."
        ),
        (
            chain(
                total(Partial(KL(p, q), z[j]), j),
                (total(p[j] * (log(p[j] / q[j]) - KL(p, q)), j), "The reverse-KL logit gradient."),
                (
                    KL(p, q) - KL(p, q) * total(p[j], j),
                    "The first sum is the KL divergence; the second takes it out as a factor.",
                ),
                (sp.S.Zero, "The student's probabilities sum to 1."),
                title="reverse KL",
            ),
            chain(
                total(Partial(KL(q, p), z[j]), j),
                (total(p[j] - q[j], j), "The forward-KL logit gradient."),
                (sp.S.Zero, "Both distributions sum to 1."),
                title="forward KL",
            ),
            chain(
                total(C[k] * Partial(log(p[k]), z[j]), j),
                (total(C[k] * (delta(k, j) - p[j]), j), "The log-softmax Jacobian."),
                (C[k] * (1 - total(p[j], j)), "The delta is 1 once, at the sampled token."),
                (sp.S.Zero, "The student's probabilities sum to 1."),
                title="one policy-gradient sample",
            ),
        ),
    )

DERIVATIONS = [
    softmax_jacobian,
    rkl_parameter_gradient,
    rkl_logit_gradient,
    rkl_sign_rule,
    fkl_logit_gradient,
    logit_gradients_sum_to_zero,
]
