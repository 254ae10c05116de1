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
    R2,
    C,
    Expectation,
    Gradient,
    InnerProduct,
    R,
    SequenceMean,
    SquaredLength,
    T,
    Variance,
    a,
    b,
    c,
    cost,
    cost_bound,
    gamma,
    local_gradient,
    local_kl,
    outcome,
    over_positions,
    p,
    p2,
    q,
    q2,
    score_at,
    score_bound,
    t,
    total,
    u,
    v,
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
        "A sequence's KL is the mean of its summed token costs",
        "A sequence's probability is the product of its tokens', so its log-ratio is the sum of theirs.",
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
        "The costs' own gradients have mean zero",
        "The gradient of a sequence's cost is its score, for the teacher does not move; over the student's own sequences the mean score is 0. A finite sample's is not.",
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
        ),
        TREE,
    )

    past_terms_vanish = Derivation(
        "past-terms-vanish",
        "A score does not answer for the past",
        "A cost that was fixed before the token was drawn multiplies a mean score of 0. The token's own cost and the later ones do not: they depend on it. Read a as the whole prefix and this is the step for every position.",
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
                    "At each prefix the sampled gradient has the exact one as its mean: this does not vanish.",
                ),
                title="the token's own cost, for contrast",
            ),
            chain(
                SequenceMean(over_positions(over_positions(cost[u], u, 1, t - 1) * score)),
                (sp.S.Zero, "Each product has a cost from before the score's token."),
                title="every past term of a sequence of T tokens",
            ),
        ),
        TREE_THEN_ANY,
    )

    product_rule = "The product rule: the log-derivative trick for the sequence's probability, and the costs' own gradients, which are the scores."
    reward_to_go = Derivation(
        "reward-to-go",
        "Every token answers for its own cost and all later ones",
        "The gradient of the sequence KL is the mean of each token's score times the costs from that token on.",
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
                    "Split the costs at each score's position: those before it, and those from it on.",
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
        "The discount turns the immediate cost into the reward-to-go",
        "Each return is the token's own cost and γ times the next return: at γ = 0 the immediate cost, at γ = 1 the reward-to-go. In the mean γ scales how far the later prefixes are answered for, so the bias shrinks with 1 − γ on two positions.",
        (
            chain(
                to_the_end(gamma ** (u - t) * cost[u]),
                (
                    cost[t] + to_the_end(gamma ** (u - t) * cost[u], t + 1),
                    "The first weight is 1: the token's own cost stands alone. With γ = 0 nothing else is left, with γ = 1 every weight is 1.",
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
                    "At γ = 0, in the mean, on-policy GKD: the exact gradient at each visited prefix.",
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
        ),
        TREE_THEN_ANY,
    )

    broadcast = mean(2 * R2[a, b] * first + R2[a, b] * second)
    rlvr_broadcast = Derivation(
        "rlvr-broadcast",
        "A reward repeated at every token re-weights by position",
        "With r_t = R at every position, the reward-to-go is R times the number of tokens left. R depends on the tokens to come, so the argument that drops past terms does not hold, and the early tokens count for more.",
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
                    "Against the gradient of the summed rewards 2R the second score's first R is missing, and it has no reason to vanish.",
                ),
                title="what is missing",
            ),
        ),
        "any length T for the return, any vocabulary size V and a tree of two positions for what is followed",
    )

    gkd_future_coupling = Derivation(
        "gkd-future-coupling",
        "GKD, and the shift of prefixes that it leaves out",
        "The gradient of the sequence KL is on-policy GKD's plus a second part, each token's score times the KL at the prefixes that it leads to.",
        (
            chain(
                Gradient(sequence_kl),
                (Gradient(KL(p, q)) + Gradient(Expectation(future, a, p)), "Position by position."),
                (
                    local_gradients + total(future * Gradient(p[a]), a),
                    "The product rule: the KL at each prefix moves, and so does the chance of the prefix.",
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
        "The Rao–Blackwellised return is unbiased",
        "Exact gradient at each visited prefix, and the score times the full-vocabulary KLs to come: the same mean as the sampled return at every discount, so at γ = 1 the gradient of the sequence KL.",
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

    # --- how large the variance can be -------------------------------------------------------

    squares = over_positions(SquaredLength(score))
    bounds = cost_bound**2 * score_bound**2

    def spread(one, other, index=u):
        """½ ΣΣ ‖one − other‖², by which T Σ ‖x‖² exceeds ‖Σ x‖²."""
        return half * over_positions(over_positions(SquaredLength(one - other), index), t)

    def second_moment(estimate):
        """From a variance to the mean square."""
        squared = SequenceMean(SquaredLength(estimate))
        mean_squared = SquaredLength(SequenceMean(estimate))
        return (
            (squared - mean_squared, "A variance is the mean square less the square of the mean."),
            (squared, "The square of the mean is not negative.", "<=", (mean_squared,)),
        )

    def full_return_steps():
        """From the full return's mean square to the summed squares of its scores."""
        squared_sum = SquaredLength(all_scores)
        return (
            (
                SequenceMean(all_costs**2 * squared_sum),
                "The return is one number; take it out of the length.",
            ),
            (
                SequenceMean(T * over_positions(cost[u] ** 2, u) * squared_sum),
                "Cauchy–Schwarz for the costs.",
                "<=",
                (
                    SequenceMean(
                        half
                        * over_positions(over_positions((cost[t] - cost[u]) ** 2, u), t)
                        * squared_sum
                    ),
                ),
            ),
            (
                T**2 * cost_bound**2 * SequenceMean(squared_sum),
                "No cost is larger than its bound.",
                "<=",
                (T * SequenceMean(over_positions(cost_bound**2 - cost[u] ** 2, u) * squared_sum),),
            ),
        )

    full_return = all_costs * all_scores
    token_level = over_positions(cost[t] * score)
    score_bound_reason = "No score is longer than its bound."
    variance_bounds = Derivation(
        "variance-bounds",
        "The paper's bounds on the variance: T² and T⁴",
        "Let no cost exceed B_r in size and no score B_s in length. Then the token-level estimator's variance is at most of order T², and the full return's of order T⁴: worst cases, got by adding lengths as if all pushes pointed one way.",
        (
            chain(
                over_positions(c[t]) ** 2,
                (
                    T * over_positions(c[t] ** 2),
                    "The difference is half the sum of all squared differences, which is not negative.",
                    "<=",
                    (half * over_positions(over_positions((c[t] - c[u]) ** 2, u), t),),
                ),
                title="Cauchy–Schwarz for a sum of T numbers",
            ),
            chain(
                Variance(token_level),
                *second_moment(token_level),
                (
                    T * SequenceMean(over_positions(cost[t] ** 2 * SquaredLength(score))),
                    "Cauchy–Schwarz, for each coordinate of the T vectors.",
                    "<=",
                    (SequenceMean(spread(cost[t] * score, cost[u] * score_at[u])),),
                ),
                (
                    T * cost_bound**2 * SequenceMean(squares),
                    "No cost is larger than its bound.",
                    "<=",
                    (
                        T
                        * SequenceMean(
                            over_positions((cost_bound**2 - cost[t] ** 2) * SquaredLength(score))
                        ),
                    ),
                ),
                (
                    T**2 * bounds,
                    score_bound_reason,
                    "<=",
                    (
                        T
                        * cost_bound**2
                        * SequenceMean(over_positions(score_bound**2 - SquaredLength(score))),
                    ),
                ),
                title="token level",
            ),
            chain(
                Variance(full_return),
                *second_moment(full_return),
                *full_return_steps(),
                (
                    T**3 * cost_bound**2 * SequenceMean(squares),
                    "Cauchy–Schwarz for the scores.",
                    "<=",
                    (T**2 * cost_bound**2 * SequenceMean(spread(score, score_at[u])),),
                ),
                (
                    T**4 * bounds,
                    score_bound_reason,
                    "<=",
                    (
                        T**3
                        * cost_bound**2
                        * SequenceMean(over_positions(score_bound**2 - SquaredLength(score))),
                    ),
                ),
                title="full return",
            ),
        ),
        ANY_LENGTH + "; |r_t| ≤ B_r, ‖∇log π_t‖ ≤ B_s",
    )

    def discounted_steps(discount):
        """The reward-to-go's variance, with discount(n) the weight of a cost n positions later."""
        estimate = over_positions(to_the_end(discount(u - t) * cost[u]) * score)

        def earlier(at):
            return over_positions(
                discount(at - t) * score, t, 1, at
            )  # the scores that answer for the cost at this position

        by_cost = over_positions(cost[u] * earlier(u), u)
        weights = over_positions(over_positions(discount(2 * (u - t)), t, 1, u), u)
        answered = over_positions(
            over_positions(discount(2 * (u - t)) * SquaredLength(score), t, 1, u), u
        )
        room = over_positions(
            over_positions(
                discount(2 * (u - t)) * (score_bound**2 - SquaredLength(score)), t, 1, u
            ),
            u,
        )
        return (
            Variance(estimate),
            *second_moment(estimate),
            (
                SequenceMean(SquaredLength(by_cost)),
                "Sort by cost: each cost times the scores up to its own position.",
            ),
            (
                T * SequenceMean(over_positions(cost[u] ** 2 * SquaredLength(earlier(u)), u)),
                "Cauchy–Schwarz over the costs.",
                "<=",
                (
                    SequenceMean(
                        half
                        * over_positions(
                            over_positions(
                                SquaredLength(cost[u] * earlier(u) - cost[v] * earlier(v)), v
                            ),
                            u,
                        )
                    ),
                ),
            ),
            (
                T * cost_bound**2 * SequenceMean(over_positions(SquaredLength(earlier(u)), u)),
                "No cost is larger than its bound.",
                "<=",
                (
                    T
                    * SequenceMean(
                        over_positions(
                            (cost_bound**2 - cost[u] ** 2) * SquaredLength(earlier(u)), u
                        )
                    ),
                ),
            ),
            (
                T * cost_bound**2 * SequenceMean(answered),
                "Scores of different positions are orthogonal in the mean, and the weights are constants.",
            ),
            (
                T * bounds * weights,
                score_bound_reason,
                "<=",
                (T * cost_bound**2 * SequenceMean(room),),
            ),
        )

    geometric = over_positions((1 - gamma ** (2 * u)) / (1 - gamma**2), u)
    sharper_variance_bounds = Derivation(
        "sharper-variance-bounds",
        "Sharper bounds: scores of different positions do not add up",
        "Scores are orthogonal in the mean, so the square of their sum grows like T and not T². Under the same two bounds the full return's variance is at most of order T³, the reward-to-go's about half of that, and a discounted one's of order T².",
        (
            chain(
                mean(R[a] * (first * second)),
                (
                    Expectation(R[a] * (first * Expectation(second, b, p2, a)), a, p),
                    "The first score is a number once a is drawn, and so is any weight R that depends on a alone.",
                ),
                (sp.S.Zero, "The mean score of the second token is 0, whatever the prefix."),
                title="two scores are orthogonal",
            ),
            chain(
                SequenceMean(SquaredLength(over_positions(c[t] * score))),
                (
                    SequenceMean(
                        over_positions(
                            over_positions(c[t] * c[u] * InnerProduct(score, score_at[u]), u), t
                        )
                    ),
                    "Multiply out, for constants c.",
                ),
                (
                    SequenceMean(over_positions(c[t] ** 2 * SquaredLength(score))),
                    "Only the terms with u = t are left.",
                ),
                title="a weighted sum of T scores",
            ),
            chain(
                Variance(full_return),
                *second_moment(full_return),
                *full_return_steps(),
                (
                    T**2 * cost_bound**2 * SequenceMean(squares),
                    "Scores of different positions are orthogonal in the mean.",
                ),
                (
                    T**3 * bounds,
                    score_bound_reason,
                    "<=",
                    (
                        T**2
                        * cost_bound**2
                        * SequenceMean(over_positions(score_bound**2 - SquaredLength(score))),
                    ),
                ),
                title="full return",
            ),
            chain(
                *discounted_steps(lambda steps: sp.S.One),
                (
                    T * bounds * over_positions(u, u),
                    "Count: u scores answer for the cost at position u.",
                ),
                (T**2 * (T + 1) / 2 * bounds, "The sum of the first T whole numbers."),
                title="reward-to-go",
            ),
            chain(
                *discounted_steps(lambda steps: gamma**steps),
                (T * bounds * geometric, "A geometric series."),
                (
                    T**2 / (1 - gamma**2) * bounds,
                    "What is left out is positive.",
                    "<=",
                    (T * bounds * over_positions(gamma ** (2 * u) / (1 - gamma**2), u),),
                ),
                title="discounted, 0 < γ < 1",
            ),
        ),
        ANY_LENGTH + "; |r_t| ≤ B_r, ‖∇log π_t‖ ≤ B_s; γ = 0 is the token level",
    )

DERIVATIONS = [
    sequence_chain_rule,
    sequence_score_identity,
    past_terms_vanish,
    reward_to_go,
    discounted_return,
    rlvr_broadcast,
    gkd_future_coupling,
    rao_blackwell_return,
    variance_bounds,
    sharper_variance_bounds,
]
