"""Chapter 6: what a repeated reward, GKD and exact costs make of the tokens to come."""

import sympy as sp

from opd_toy.derivations.chapter_5 import first, future, mean, second
from opd_toy.derivations.chapter_6 import (
    TREE_THEN_ANY,
    coupling,
    local_gradients,
    reward_to_go_estimate,
    score,
    sequence_kl,
    to_the_end,
)
from opd_toy.derivations.framework import Derivation, chain
from opd_toy.derivations.notation import (
    KL,
    R2,
    Expectation,
    Gradient,
    SequenceMean,
    T,
    a,
    b,
    cost,
    gamma,
    local_gradient,
    local_kl,
    outcome,
    over_positions,
    p,
    q,
    t,
    total,
    u,
)

with sp.evaluate(False):
    broadcast = mean(2 * R2[a, b] * first + R2[a, b] * second)
    rlvr_broadcast = Derivation(
        "rlvr-broadcast",
        (
            "With r_t = R at every position, the reward-to-go is R times the number of tokens "
            "left. R depends on the tokens to come, so the argument that drops past terms does "
            "not hold, and the early tokens count for more."
        ),
        (
            chain(
                to_the_end(outcome),
                (to_the_end(sp.S.One) * outcome, "R does not depend on the position."),
                ((T - t + 1) * outcome, "The positions from t to T."),
                title="the return",
            ),
            chain(
                to_the_end(gamma ** (u - t) * outcome),
                (
                    outcome * ((1 - gamma ** (T - t + 1)) / (1 - gamma)),
                    "A geometric series, for γ < 1.",
                ),
                title="the same with a discount",
            ),
            chain(
                broadcast,
                (
                    mean(R2[a, b] * (first + second)) + mean(R2[a, b] * first),
                    "The first token's score carries R twice.",
                ),
                (
                    Gradient(mean(R2[a, b])) + mean(R2[a, b] * first),
                    "The policy gradient, once; what is left belongs to the first position alone.",
                ),
                title="what is followed, for two positions",
            ),
            chain(
                2 * Gradient(mean(R2[a, b])) - broadcast,
                (
                    mean(R2[a, b] * second),
                    (
                        "Against the gradient of the summed rewards 2R the second score's first"
                        " R is missing, and it has no reason to vanish."
                    ),
                ),
                title="what is missing",
            ),
        ),
        (
            "any length T for the return, any vocabulary size V and a tree of two positions for"
            " what is followed"
        ),
    )

    gkd_future_coupling = Derivation(
        "gkd-future-coupling",
        (
            "The gradient of the sequence KL is on-policy GKD's plus a second part, each "
            "token's score times the KL at the prefixes that it leads to."
        ),
        (
            chain(
                Gradient(sequence_kl),
                (Gradient(KL(p, q)) + Gradient(Expectation(future, a, p)), "Position by position."),
                (
                    local_gradients + total(future * Gradient(p[a]), a),
                    (
                        "The product rule: the KL at each prefix moves, and so does the chance "
                        "of the prefix."
                    ),
                ),
                (local_gradients + coupling, "The log-derivative trick."),
                title="two positions",
            ),
            chain(
                Gradient(SequenceMean(over_positions(cost[t]))),
                (SequenceMean(reward_to_go_estimate), "Reward-to-go."),
                (
                    SequenceMean(over_positions(cost[t] * score))
                    + SequenceMean(over_positions(to_the_end(cost[u], t + 1) * score)),
                    "Each token's own cost apart from the later ones.",
                ),
                (
                    SequenceMean(over_positions(local_gradient[t]))
                    + SequenceMean(over_positions(to_the_end(cost[u], t + 1) * score)),
                    "At each prefix the sampled gradient has the exact one as its mean.",
                ),
                (
                    SequenceMean(over_positions(local_gradient[t]))
                    + SequenceMean(over_positions(to_the_end(local_kl[u], t + 1) * score)),
                    "At each later prefix the mean cost is the full-vocabulary KL there.",
                ),
                title="T positions",
            ),
        ),
        TREE_THEN_ANY,
    )

    local_return = to_the_end(gamma ** (u - t) * local_kl[u], t + 1)
    rao_blackwell_return = Derivation(
        "rao-blackwell-return",
        (
            "Exact gradient at each visited prefix, and the score times the full-vocabulary KLs"
            " to come: the same mean as the sampled return at every discount, so at γ = 1 the "
            "gradient of the sequence KL."
        ),
        (
            chain(
                Expectation(Gradient(KL(p, q)) + Gradient(future) + future * first, a, p),
                (
                    Gradient(KL(p, q)) + Expectation(Gradient(future), a, p) + coupling,
                    "A mean is linear, and the first gradient is a constant.",
                ),
                (
                    Gradient(KL(p, q)) + Gradient(Expectation(future, a, p)),
                    "The product rule backwards.",
                ),
                (Gradient(sequence_kl), "The gradient of the sequence KL."),
                title="two positions, γ = 1",
            ),
            chain(
                SequenceMean(over_positions(local_gradient[t] + local_return * score)),
                (
                    SequenceMean(over_positions(cost[t] * score))
                    + SequenceMean(over_positions(local_return * score)),
                    "At each prefix the exact gradient is the mean of the sampled one.",
                ),
                (
                    SequenceMean(over_positions(cost[t] * score))
                    + SequenceMean(
                        over_positions(to_the_end(gamma ** (u - t) * cost[u], t + 1) * score)
                    ),
                    "At each later prefix KL is the mean of the sampled cost.",
                ),
                (
                    SequenceMean(over_positions(to_the_end(gamma ** (u - t) * cost[u]) * score)),
                    "Together: the sampled discounted return.",
                ),
                title="T positions, every discount",
            ),
        ),
        TREE_THEN_ANY,
    )

DERIVATIONS = [rlvr_broadcast, gkd_future_coupling, rao_blackwell_return]
