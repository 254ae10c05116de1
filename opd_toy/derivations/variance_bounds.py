"""Chapter 6: how large the variance of a sequence gradient can be."""

import sympy as sp

from opd_toy.derivations.chapter_5 import first, mean, second
from opd_toy.derivations.chapter_6 import ANY_LENGTH, all_costs, all_scores, half, score, to_the_end
from opd_toy.derivations.framework import Derivation, chain
from opd_toy.derivations.notation import (
    Expectation,
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
    over_positions,
    p,
    p2,
    score_at,
    score_bound,
    t,
    u,
    v,
)

with sp.evaluate(False):
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
        (
            "Let no cost exceed B_r in size and no score B_s in length. Then the token-level "
            "estimator's variance is at most of order T², and the full return's of order T⁴: "
            "worst cases, got by adding lengths as if all pushes pointed one way."
        ),
        (
            chain(
                over_positions(c[t]) ** 2,
                (
                    T * over_positions(c[t] ** 2),
                    (
                        "The difference is half the sum of all squared differences, which is "
                        "not negative."
                    ),
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

    def over_costs(body):
        """Σ over the positions u of the costs."""
        return over_positions(body, u)

    def discounted_steps(discount):
        """The reward-to-go's variance, with discount(n) the weight of a cost n positions later."""
        estimate = over_positions(to_the_end(discount(u - t) * cost[u]) * score)

        def earlier(at):
            """The scores that answer for the cost at this position."""
            return over_positions(discount(at - t) * score, t, 1, at)

        def answering(body):
            """Σ over the costs u, and over the scores t that answer for each."""
            return over_costs(over_positions(discount(2 * (u - t)) * body, t, 1, u))

        answered = SquaredLength(earlier(u))
        difference = SquaredLength(cost[u] * earlier(u) - cost[v] * earlier(v))
        spread_of_costs = SequenceMean(half * over_costs(over_positions(difference, v)))
        below_cost_bound = T * SequenceMean(over_costs((cost_bound**2 - cost[u] ** 2) * answered))
        below_score_bound = SequenceMean(answering(score_bound**2 - SquaredLength(score)))
        return (
            Variance(estimate),
            *second_moment(estimate),
            (
                SequenceMean(SquaredLength(over_costs(cost[u] * earlier(u)))),
                "Sort by cost: each cost times the scores up to its own position.",
            ),
            (
                T * SequenceMean(over_costs(cost[u] ** 2 * answered)),
                "Cauchy–Schwarz over the costs.",
                "<=",
                (spread_of_costs,),
            ),
            (
                T * cost_bound**2 * SequenceMean(over_costs(answered)),
                "No cost is larger than its bound.",
                "<=",
                (below_cost_bound,),
            ),
            (
                T * cost_bound**2 * SequenceMean(answering(SquaredLength(score))),
                "Scores of different positions are orthogonal in the mean, and the weights "
                "are constants.",
            ),
            (
                T * bounds * answering(sp.S.One),
                score_bound_reason,
                "<=",
                (T * cost_bound**2 * below_score_bound,),
            ),
        )

    geometric = over_positions((1 - gamma ** (2 * u)) / (1 - gamma**2), u)
    sharper_variance_bounds = Derivation(
        "sharper-variance-bounds",
        (
            "Scores are orthogonal in the mean, so the square of their sum grows like T and not"
            " T². Under the same two bounds the full return's variance is at most of order T³, "
            "the reward-to-go's about half of that, and a discounted one's of order T²."
        ),
        (
            chain(
                mean(R[a] * (first * second)),
                (
                    Expectation(R[a] * (first * Expectation(second, b, p2, a)), a, p),
                    (
                        "The first score is a number once a is drawn, and so is any weight R "
                        "that depends on a alone."
                    ),
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

DERIVATIONS = [variance_bounds, sharper_variance_bounds]
