"""How it is learned, over whole texts: estimators of the sequence gradient, exact by enumeration.

``trees``        policies over sequences, the KL of two of them and its exact gradient
``table``        one gradient a sequence, its expectation and its variance
``estimators``   the ways to fill such a table: who answers for the future
``off_policy``   the same where another policy drew the texts
``independent``  the same variance where positions are independent, at any length
``sampling``     estimates from drawn sequences, where a policy is too large to enumerate

All their public names are here.
"""

from opd_toy.sequences.estimators import (
    best_gamma,
    bias_variance_polynomials,
    broadcast_outcome,
    fipo,
    fipo_weight,
    full_return,
    future_kl,
    generalized_advantage,
    mixed,
    outcome,
    reward_to_go,
    reward_to_go_table,
    top_k,
)
from opd_toy.sequences.independent import (
    dense_and_broadcast,
    growth_exponents,
    independent_table,
    independent_variance,
)
from opd_toy.sequences.off_policy import (
    RATIOS,
    off_policy_gkd_gradient,
    off_policy_reward_to_go,
    ratio_second_moments,
    token_ratios,
)
from opd_toy.sequences.sampling import (
    LazyTree,
    sample_estimate,
)
from opd_toy.sequences.table import (
    SequenceTable,
)
from opd_toy.sequences.trees import (
    SIGNALS,
    TokenTree,
    decomposition,
    discounted_return,
    on_policy_gkd_gradient,
    sequence_kl,
    sequence_kl_gradient,
    state_values,
    token_costs,
    token_kls,
)

__all__ = [
    "LazyTree",
    "RATIOS",
    "SIGNALS",
    "SequenceTable",
    "TokenTree",
    "best_gamma",
    "bias_variance_polynomials",
    "broadcast_outcome",
    "decomposition",
    "dense_and_broadcast",
    "discounted_return",
    "fipo",
    "fipo_weight",
    "full_return",
    "future_kl",
    "generalized_advantage",
    "growth_exponents",
    "independent_table",
    "independent_variance",
    "mixed",
    "off_policy_gkd_gradient",
    "off_policy_reward_to_go",
    "on_policy_gkd_gradient",
    "ratio_second_moments",
    "outcome",
    "reward_to_go",
    "reward_to_go_table",
    "sample_estimate",
    "sequence_kl",
    "sequence_kl_gradient",
    "state_values",
    "token_costs",
    "token_kls",
    "token_ratios",
    "top_k",
]
