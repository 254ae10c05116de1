"""Chapter 6: who answers for the future?

On a tree of two positions a is drawn first and b after it, and everything is written out.  For
a sequence of any length T the costs r_t, the scores ∇log π_t and the bounds on them are used
as ``horizon`` explains; what it takes for granted of them is proved here and in chapter 5.
"""

import sympy as sp

from opd_toy.derivations.chapter_5 import first, future, mean, second
from opd_toy.derivations.framework import Derivation, chain
from opd_toy.derivations.notation import (
    C2,
    KL,
    C,
    Expectation,
    Gradient,
    R,
    SequenceMean,
    T,
    a,
    b,
    cost,
    gamma,
    local_gradient,
    local_kl,
    over_positions,
    p,
    p2,
    q,
    q2,
    score_at,
    t,
    total,
    u,
)

TREE = "any vocabulary size V, a tree of two positions"
TREE_THEN_ANY = "any vocabulary size V, a tree of two positions and then any length T"
ANY_LENGTH = "any vocabulary size V, any length T"

with sp.evaluate(False):
    cost_a, cost_b = C[a], C2[a, b]
    score = score_at[t]
    sequence_kl = KL(p, q) + Expectation(future, a, p)
    coupling = Expectation(future * first, a, p)  # how the first token moves the later prefixes
    local_gradients = Gradient(KL(p, q)) + Expectation(Gradient(future), a, p)
    half = sp.Rational(1, 2)
    all_costs, all_scores = over_positions(cost[u], u), over_positions(score)

    def to_the_end(body, start=t):
        """Σ over the positions u from ``start`` on."""
        return over_positions(body, u, start, T)

    return_from = to_the_end(cost[u])
    reward_to_go_estimate = over_positions(return_from * score)

    sequence_chain_rule = Derivation(
        "sequence-chain-rule",
        (
            "A sequence's probability is the product of its tokens', so its log-ratio is the "
            "sum of theirs."
        ),
        (
            chain(
                mean(sp.log((p[a] * p2[a, b]) / (q[a] * q2[a, b]))),
                (mean(cost_a + cost_b), "The logarithm of a product is a sum: one cost a token."),
                (
                    Expectation(cost_a, a, p) + Expectation(Expectation(cost_b, b, p2, a), a, p),
                    "The first cost does not depend on the second token.",
                ),
                (sequence_kl, "At each prefix the mean cost is the full-vocabulary KL there."),
            ),
        ),
        TREE,
    )

    sequence_score_identity = Derivation(
        "sequence-score-identity",
        (
            "The gradient of a sequence's cost is its score, for the teacher does not move; "
            "over the student's own sequences the mean score is 0. A finite sample's is not."
        ),
        (
            chain(
                mean(Gradient(cost_a + cost_b)),
                (mean(first + second), "The teacher does not depend on the parameters."),
                (
                    Expectation(first, a, p) + Expectation(Expectation(second, b, p2, a), a, p),
                    "The first score does not depend on the second token.",
                ),
                (
                    sp.S.Zero + Expectation(sp.S.Zero, a, p),
                    "The mean score of one token is 0, whatever the prefix.",
                ),
                (sp.S.Zero, "Nothing is left."),
                title="token by token",
            ),
            chain(
                mean(Gradient(sp.log(p[a] * p2[a, b]))),
                (
                    total(total(Gradient(p[a] * p2[a, b]), b), a),
                    "The log-derivative trick for the probability of the sequence.",
                ),
                (
                    Gradient(total(total(p[a] * p2[a, b], b), a)),
                    "A sum of gradients is the gradient of the sum.",
                ),
                (Gradient(sp.S.One), "The probabilities of all sequences sum to 1."),
                (sp.S.Zero, "A constant."),
                title="the sequence as a whole",
            ),
            chain(
                SequenceMean(all_scores),
                (sp.S.Zero, "Each position's score has mean 0, whatever the prefix."),
                title="T positions",
            ),
        ),
        TREE_THEN_ANY,
    )

    past_terms_vanish = Derivation(
        "past-terms-vanish",
        (
            "A cost that was fixed before the token was drawn multiplies a mean score of 0. The"
            " token's own cost and the later ones do not: they depend on it. Read a as the "
            "whole prefix and this is the step for every position."
        ),
        (
            chain(
                mean(cost_a * second),
                (
                    Expectation(cost_a * Expectation(second, b, p2, a), a, p),
                    "The first cost is a number once a is drawn.",
                ),
                (
                    Expectation(cost_a * sp.S.Zero, a, p),
                    "The mean score of the second token is 0, whatever the prefix.",
                ),
                (sp.S.Zero, "Nothing is left."),
                title="the cost before",
            ),
            chain(
                mean(R[a] * second),
                (
                    Expectation(R[a] * Expectation(second, b, p2, a), a, p),
                    "The same for any reward R of the prefix.",
                ),
                (sp.S.Zero, "The mean score of the second token is 0."),
                title="any reward of the prefix",
            ),
            chain(
                mean(cost_b * second),
                (
                    Expectation(Gradient(future), a, p),
                    (
                        "At each prefix the sampled gradient has the exact one as its mean: "
                        "this does not vanish."
                    ),
                ),
                title="the token's own cost, for contrast",
            ),
            chain(
                SequenceMean(over_positions(over_positions(cost[u], u, 1, t - 1) * score)),
                (sp.S.Zero, "Each product has a cost from before the score's token."),
                title="T positions",
            ),
        ),
        TREE_THEN_ANY,
    )

    product_rule = (
        "The product rule: "
        "the log-derivative trick for the sequence's probability, "
        "and the costs' own gradients, which are the scores."
    )
    reward_to_go = Derivation(
        "reward-to-go",
        (
            "The gradient of the sequence KL is the mean of each token's score times the costs "
            "from that token on."
        ),
        (
            chain(
                Gradient(sequence_kl),
                (
                    Gradient(mean(cost_a + cost_b)),
                    "The KL of two sequences is the mean of the summed costs.",
                ),
                (mean((cost_a + cost_b) * (first + second)) + mean(first + second), product_rule),
                (
                    mean((cost_a + cost_b) * (first + second)),
                    "The mean score is 0. This is the full return.",
                ),
                (
                    mean((cost_a + cost_b) * first + cost_b * second) + mean(cost_a * second),
                    "Sort by score.",
                ),
                (mean((cost_a + cost_b) * first + cost_b * second), "The past term vanishes."),
                title="two positions",
            ),
            chain(
                Gradient(SequenceMean(over_positions(cost[t]))),
                (SequenceMean(all_costs * all_scores) + SequenceMean(all_scores), product_rule),
                (
                    SequenceMean(all_costs * all_scores),
                    "The mean score is 0. This is the full return.",
                ),
                (
                    SequenceMean(over_positions(over_positions(cost[u], u, 1, t - 1) * score))
                    + SequenceMean(reward_to_go_estimate),
                    (
                        "Split the costs at each score's position: those before it, and those "
                        "from it on."
                    ),
                ),
                (SequenceMean(reward_to_go_estimate), "The past terms vanish."),
                title="T positions",
            ),
        ),
        TREE_THEN_ANY,
    )

    discounted = mean((cost_a + gamma * cost_b) * first + cost_b * second)
    discounted_return = Derivation(
        "discounted-return",
        (
            "Each return is the token's own cost and γ times the next return: at γ = 0 the "
            "immediate cost, at γ = 1 the reward-to-go. In the mean γ scales how far the later "
            "prefixes are answered for, so the bias shrinks with 1 − γ on two positions."
        ),
        (
            chain(
                to_the_end(gamma ** (u - t) * cost[u]),
                (
                    cost[t] + to_the_end(gamma ** (u - t) * cost[u], t + 1),
                    (
                        "The first weight is 1: the token's own cost stands alone. With γ = 0 "
                        "nothing else is left, with γ = 1 every weight is 1."
                    ),
                ),
                (
                    cost[t] + gamma * to_the_end(gamma ** (u - t - 1) * cost[u], t + 1),
                    "Take out one γ: the next position's return.",
                ),
                title="one return from the next",
            ),
            chain(
                discounted,
                (
                    mean(cost_a * first + cost_b * second) + gamma * mean(cost_b * first),
                    "Only the first position has a later cost.",
                ),
                (
                    local_gradients + gamma * mean(cost_b * first),
                    (
                        "At γ = 0, in the mean, on-policy GKD: the exact gradient at each "
                        "visited prefix."
                    ),
                ),
                (
                    local_gradients + gamma * coupling,
                    "The mean sampled cost of the second token is its full-vocabulary KL.",
                ),
                title="its mean, for two positions",
            ),
            chain(
                discounted - Gradient(sequence_kl),
                (
                    local_gradients + gamma * coupling - (local_gradients + coupling),
                    "The mean just found, and the sequence's gradient by the product rule.",
                ),
                ((gamma - 1) * coupling, "The bias: none at γ = 1, all of the last term at γ = 0."),
                title="its bias, for two positions",
            ),
            chain(
                SequenceMean(over_positions(to_the_end(gamma ** (u - t) * cost[u]) * score)),
                (
                    SequenceMean(over_positions(cost[t] * score))
                    + SequenceMean(
                        over_positions(to_the_end(gamma ** (u - t) * cost[u], t + 1) * score)
                    ),
                    "Each token's own cost apart from the later ones.",
                ),
                (
                    SequenceMean(over_positions(local_gradient[t]))
                    + SequenceMean(
                        over_positions(to_the_end(gamma ** (u - t) * local_kl[u], t + 1) * score)
                    ),
                    "At each prefix the exact gradient and the KL are the means of what is drawn.",
                ),
                title="its mean, for T positions",
            ),
        ),
        TREE_THEN_ANY,
    )

DERIVATIONS = [
    sequence_chain_rule,
    sequence_score_identity,
    past_terms_vanish,
    reward_to_go,
    discounted_return,
]
