"""Chapter 5: the other objectives, their logit gradients, and where they meet the two KLs."""

import sympy as sp
from sympy import log

from opd_toy.derivations.chapter_5 import ratio, rkl_gradient
from opd_toy.derivations.framework import Derivation, chain
from opd_toy.derivations.notation import (
    KL,
    AlphaDivergence,
    Expectation,
    JensenShannon,
    Limit,
    Partial,
    alpha,
    beta,
    c,
    delta,
    forward_mixture,
    j,
    jsd_mixture,
    p,
    q,
    reverse_mixture,
    skew,
    total,
    v,
    z,
)

with sp.evaluate(False):
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
            "The chain rule on −q log p̄, with the smoothed student p̄ = ε q + (1 − ε) p.",
        ),
        (
            -(1 - skew) * total(q[v] / forward_mixture[v] * Partial(p[v], z[j])),
            "The teacher's part of p̄ does not depend on the logits.",
        ),
        (skewed_forward_gradient, "The softmax Jacobian: the price less its mean."),
        title="skewed forward KL, p̄ = ε q + (1 − ε) p",
    )

    price = lambda w: log(p[w] / reverse_mixture[w]) - skew * (p[w] / reverse_mixture[w])
    skewed_reverse_gradient = p[j] * (price(j) - total(p[v] * price(v)))
    skewed_reverse = chain(
        Partial(KL(p, reverse_mixture), z[j]),
        (
            total((log(p[v] / reverse_mixture[v]) + 1) * Partial(p[v], z[j]))
            - total(p[v] / reverse_mixture[v] * Partial(reverse_mixture[v], z[j])),
            "The chain rule on p log(p/q̄), with the smoothed teacher q̄ = ε p + (1 − ε) q.",
        ),
        (total((price(v) + 1) * Partial(p[v], z[j])), "The derivative of q̄ by p is ε."),
        (
            skewed_reverse_gradient,
            "The softmax Jacobian: the price less its mean, and the +1 goes with it.",
        ),
        title="skewed reverse KL, q̄ = ε p + (1 − ε) q",
    )

    def ends(part):
        """The first and last line of a chain, as a chain of its own."""
        return chain(
            part.left, (part.right, "Its own proof has the steps between."), title=part.title
        )

    improve_objective = Derivation(
        "improve-objective",
        (
            "Changing the objective changes the price of each token; every logit gradient is "
            "the probability times the price less its mean. Here m = (1 − β) p + β q, p̄ = ε q "
            "+ (1 − ε) p and q̄ = ε p + (1 − ε) q."
        ),
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
        "Reverse KL against the mixture m = (1 − β) p + β q, scaled by 1 − β.",
        (jsd,),
    )
    alpha_divergence_logit_gradient = Derivation(
        "alpha-divergence-logit-gradient",
        "The price is a power of the ratio p/q.",
        (alpha_chain,),
        "any vocabulary size V; α neither 0 nor 1",
    )
    skewed_forward_kl_logit_gradient = Derivation(
        "skewed-forward-kl-logit-gradient",
        (
            "With p̄ = ε q + (1 − ε) p the price −q/p̄ never exceeds 1/ε in size, where forward"
            " KL's −q/p has no bound."
        ),
        (skewed_forward,),
    )
    skewed_reverse_kl_logit_gradient = Derivation(
        "skewed-reverse-kl-logit-gradient",
        (
            "With q̄ = ε p + (1 − ε) q the log-ratio never exceeds −log ε, where reverse KL's "
            "has no bound."
        ),
        (skewed_reverse,),
    )

    alpha_term = (p[v] ** alpha * q[v] ** (1 - alpha) - p[v]) / (alpha * (alpha - 1))
    alpha_term_q = (p[v] ** alpha * q[v] ** (1 - alpha) - q[v]) / (alpha * (alpha - 1))
    objective_limits = Derivation(
        "objective-limits",
        (
            "The α-divergence and the skewed KLs join forward and reverse KL at their ends, in "
            "value and in gradient."
        ),
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
                title="skewed forward KL, ε to 0",
            ),
            chain(
                Limit(KL(p, reverse_mixture), skew, 0),
                (total(Limit(p[v] * log(p[v] / reverse_mixture[v]), skew, 0)), "Term by term."),
                (KL(p, q), "The mixture becomes the teacher: reverse KL."),
                title="skewed reverse KL, ε to 0",
            ),
            chain(
                Limit(skewed_forward_gradient, skew, 0),
                (p[j] * (total(q[v]) - q[j] / p[j]), "The mixture becomes the student."),
                (p[j] - q[j], "The forward-KL logit gradient."),
                title="the gradient of skewed forward KL, ε to 0",
            ),
            chain(
                Limit(skewed_reverse_gradient, skew, 0),
                (rkl_gradient, "The mixture becomes the teacher: the reverse-KL logit gradient."),
                title="the gradient of skewed reverse KL, ε to 0",
            ),
        ),
    )

DERIVATIONS = [
    improve_objective,
    jsd_logit_gradient,
    alpha_divergence_logit_gradient,
    skewed_forward_kl_logit_gradient,
    skewed_reverse_kl_logit_gradient,
    objective_limits,
]
