"""Chapter 4: what one sampled token does to the logits."""

import sympy as sp
from sympy import Lt, exp, log

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
    i,
    j,
    k,
    p,
    q,
    tilted,
    total,
    u,
    v,
    weight,
    z,
)

with sp.evaluate(False):
    surrogate = StopGradient(C[k]) * log(p[k])
    sample = C[k] * (delta(k, j) - p[j])

    k1_expectation = Derivation(
        "k1-expectation",
        (
            "One draw of the log-ratio can have either sign; its mean over the student's draws "
            "is the KL divergence."
        ),
        (
            chain(
                Expectation(log(p[k]) - log(q[k]), k, p),
                (
                    total(p[k] * (log(p[k]) - log(q[k])), k),
                    "The mean over the student's tokens, written out.",
                ),
                (
                    total(p[k] * log(p[k] / q[k]), k),
                    "A difference of logarithms is the logarithm of the ratio.",
                ),
                (KL(p, q), "The definition of the KL divergence."),
                title="the mean",
            ),
            chain(
                Lt(log(p[k]), log(q[k])),
                (
                    Lt(p[k], q[k]),
                    (
                        "The logarithm is increasing: a draw's cost is negative exactly where "
                        "the teacher gives more."
                    ),
                    "<=>",
                    (log,),
                ),
                title="the sign of one draw",
            ),
            chain(
                total(p[k] - q[k], k),
                (
                    sp.S.Zero,
                    (
                        "Both sum to 1: unless p = q, the teacher gives more to some tokens and"
                        " less to others, so both signs occur."
                    ),
                ),
                title="both signs occur",
            ),
        ),
    )

    pg_logit_gradient = Derivation(
        "pg-logit-gradient",
        "The drawn token's cost times one minus p at that token, minus p elsewhere.",
        (
            chain(
                Partial(surrogate, z[j]),
                (StopGradient(C[k]) * Partial(log(p[k]), z[j]), "The detached cost is a number."),
                (sample, "The log-softmax Jacobian."),
            ),
        ),
    )

    pg_opposite_signs = Derivation(
        "pg-opposite-signs",
        (
            "Whenever the cost is not zero, the drawn token's logit and every other logit are "
            "pushed in opposite directions."
        ),
        (
            chain(
                Partial(surrogate, z[k]) * Partial(surrogate, z[j]),
                (
                    C[k] * (1 - p[k]) * (C[k] * (0 - p[j])),
                    (
                        "The logit gradient of one sample, at the drawn token k and at another "
                        "token j."
                    ),
                ),
                (-(C[k] ** 2 * p[j] * (1 - p[k])), "Collect the factors."),
                (
                    -(C[k] ** 2 * p[j] * total((1 - delta(u, k)) * p[u], u)),
                    "What the drawn token leaves is the mass of the others.",
                ),
                (
                    sp.S.Zero,
                    "A square, a probability and a sum of probabilities: all positive.",
                    "<",
                ),
                distinct=((j, k),),
            ),
        ),
        "any vocabulary size V ≥ 2; j ≠ k, and the cost C of token k is not 0",
    )

    pg_blind = Derivation(
        "pg-blind",
        (
            "The push on the logits of the tokens that were not drawn is shared in proportion "
            "to the student's own probabilities, whatever the teacher thinks of them."
        ),
        (
            chain(
                Partial(surrogate, z[j]) / total((1 - delta(i, k)) * Partial(surrogate, z[i]), i),
                (
                    C[k] * (0 - p[j]) / total((1 - delta(i, k)) * (C[k] * (delta(k, i) - p[i])), i),
                    (
                        "The logit gradient of one sample, at token j and at all tokens but the"
                        " drawn one."
                    ),
                ),
                (
                    C[k] * p[j] / (C[k] * total((1 - delta(i, k)) * p[i], i)),
                    "The delta is 0 away from the drawn token; the sign cancels.",
                ),
                (
                    p[j] / (1 - p[k]),
                    (
                        "The cost cancels; the others hold what the drawn token leaves. No "
                        "teacher probability is left."
                    ),
                ),
                title="the share of token j",
                distinct=((j, k),),
            ),
            chain(
                Partial(sample, q[i]),
                (Partial(C[k], q[i]) * (delta(k, j) - p[j]), "Only the cost knows the teacher."),
                (
                    -(delta(k, i) / q[k]) * (delta(k, j) - p[j]),
                    "And it knows it at the drawn token alone.",
                ),
                (sp.S.Zero, "Token i was not drawn."),
                title="the teacher's opinion of token i",
                distinct=((i, k),),
            ),
            chain(
                total(Partial(p[j], z[i]) * (C[k] * (delta(k, i) - p[i])), i),
                (
                    total(p[j] * (delta(j, i) - p[i]) * (C[k] * (delta(k, i) - p[i])), i),
                    "The softmax Jacobian.",
                ),
                (
                    C[k] * p[j] * (-p[j] - p[k] + total(p[i] ** 2, i)),
                    (
                        "Multiply out and evaluate the deltas. Descent moves the probability of"
                        " token j by minus this, which is not in proportion to p."
                    ),
                ),
                title="the probabilities themselves move otherwise",
                distinct=((j, k),),
            ),
        ),
        "any vocabulary size V; k is the drawn token, j and i are others",
    )

    reward_mixing = Derivation(
        "reward-mixing",
        "The distillation cost and an outcome reward add linearly, in one sample and in the mean.",
        (
            chain(
                Partial(StopGradient(C[k] - weight * R[k]) * log(p[k]), z[j]),
                (
                    (C[k] - weight * R[k]) * (delta(k, j) - p[j]),
                    "The logit gradient of one sample, with the mixed cost.",
                ),
                (sample - weight * (R[k] * (delta(k, j) - p[j])), "It is linear in the cost."),
                title="one sample",
            ),
            chain(
                Expectation((C[k] - weight * R[k]) * Gradient(log(p[k])), k, p),
                (
                    Expectation(C[k] * Gradient(log(p[k])), k, p)
                    - weight * Expectation(R[k] * Gradient(log(p[k])), k, p),
                    "A mean is linear.",
                ),
                (
                    Gradient(KL(p, q)) - weight * Gradient(Expectation(R[k], k, p)),
                    "OPD's policy gradient, and the policy gradient of the reward.",
                ),
                (Gradient(KL(p, q) - weight * Expectation(R[k], k, p)), "A gradient is linear."),
                title="the mean",
            ),
            chain(
                KL(p, q) - weight * Expectation(R[k], k, p),
                (
                    total(p[v] * log(p[v] / (q[v] * exp(weight * R[v])))),
                    "Write the reward as the logarithm of its exponential.",
                ),
                (
                    KL(p, tilted) - log(total(q[v] * exp(weight * R[v]))),
                    (
                        "Divide by the normaliser of the tilted teacher, which is proportional "
                        "to q exp(wR): the student is drawn to that teacher."
                    ),
                ),
                title="what is learned",
            ),
        ),
    )

DERIVATIONS = [k1_expectation, pg_logit_gradient, pg_opposite_signs, pg_blind, reward_mixing]
