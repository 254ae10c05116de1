"""Where each chain sets out from.

The checks hold every line of a chain to the line before it, so a first line replaced by a
later one would pass: Σ ∂KL/∂z = 0 would become Σ (p − q) = 0, which is true and says less.
So the operators of every first line stand here a second time.
"""

import pytest
import sympy as sp

from opd_toy.derivations import DERIVATIONS
from opd_toy.derivations.notation import (
    KL,
    AlphaDivergence,
    Expectation,
    GaussianMean,
    Gradient,
    JensenShannon,
    Limit,
    Partial,
    SequenceMean,
    SquaredLength,
    StopGradient,
    Variance,
)

SIGNS = {
    sp.Sum: "Σ", Partial: "∂", Gradient: "∇", Limit: "lim", Expectation: "E", SequenceMean: "Eτ",
    GaussianMean: "E", Variance: "Var", SquaredLength: "‖‖²", StopGradient: "sg", KL: "KL",
    JensenShannon: "JSD", AlphaDivergence: "D", sp.StrictLessThan: "<",
}  # fmt: skip

# Of each chain the operators of its first line, the outermost first; chains are set apart by |.
FIRST_LINES = {
    "sft-one-hot": "Σ | ∂",
    "seqkd-soft-label": "E",
    "seqkd-is-forward-kl": "Σ | ∂ Σ",
    "sft-limit": "lim Σ | ∂ Σ",
    "log-derivative": "∇",
    "policy-gradient": "∇ E",
    "pg-opd-cost": "E ∇ sg",
    "softmax-jacobian": "∂",
    "log-softmax-jacobian": "∂",
    "rkl-parameter-gradient": "∇ KL",
    "rkl-logit-gradient": "∂ KL",
    "rkl-sign-rule": "< ∂ KL",
    "fkl-logit-gradient": "∂ KL | ∂ KL",
    "logit-gradients-sum-to-zero": "Σ ∂ KL | Σ ∂ KL | Σ ∂",
    "k1-expectation": "E | < | Σ",
    "pg-logit-gradient": "∂ sg",
    "pg-opposite-signs": "∂ sg ∂ sg",
    "pg-blind": "∂ sg Σ ∂ sg | ∂ | Σ ∂",
    "reward-mixing": "∂ sg | E ∇ | KL E",
    "kl-nonnegative": "KL",
    "rkl-baseline-structure": "∂ KL | E KL | E",
    "pg-unbiased-local": "∇ KL",
    "score-mean-zero": "E ∇",
    "full-vocab-advantage-is-zero": "E sg KL ∇",
    "improve-objective": "Σ ∂ | ∂ KL | ∂ KL | ∂ JSD | ∂ D | ∂ KL | ∂ KL",
    "jsd-logit-gradient": "∂ JSD",
    "alpha-divergence-logit-gradient": "∂ D",
    "skewed-forward-kl-logit-gradient": "∂ KL",
    "skewed-reverse-kl-logit-gradient": "∂ KL",
    "objective-limits": "lim D | lim D | lim Σ | lim Σ | lim KL | lim KL | lim Σ | lim Σ",
    "optimal-baseline": "∂ E Σ | ",
    "open-question-full-vocab-pg": "E sg KL ∇ | E KL ∇ | E E ∇ ∇",
    "sequence-chain-rule": "E E",
    "sequence-score-identity": "E E ∇ | E E ∇ | Eτ Σ",
    "past-terms-vanish": "E E ∇ | E E ∇ | E E ∇ | Eτ Σ Σ",
    "reward-to-go": "∇ KL E KL | ∇ Eτ Σ",
    "discounted-return": "Σ | E E ∇ ∇ | E E ∇ ∇ ∇ KL E KL | Eτ Σ Σ",
    "rlvr-broadcast": "Σ | Σ | E E ∇ ∇ | ∇ E E E E ∇ ∇",
    "gkd-future-coupling": "∇ KL E KL | ∇ Eτ Σ",
    "rao-blackwell-return": "E ∇ KL ∇ KL KL ∇ | Eτ Σ Σ",
    "variance-bounds": "Σ | Var Σ | Var Σ Σ",
    "sharper-variance-bounds": "E E ∇ ∇ | Eτ ‖‖² Σ | Var Σ Σ | Var Σ Σ | Var Σ Σ",
    "pg-zero-gamma-is-gkd": "E E ∇ ∇",
    "k-estimators-as-loss": "E ∇ | E ∇ | E ∇",
    "k-estimators-as-reward": "E sg ∇ | E sg ∇",
    "jsd-endpoints": "lim JSD | lim JSD | lim KL | lim KL",
    "schulman-table": "E | E | E | E | E | E",
    "token-ratio-is-exact": "E ∇ | E ∇ sg",
    "stale-cost-recomputed": "E ∇ ∇ KL | E ∇",
    "stale-cost-kept": "E ∇ | ∇ KL ∇ KL | E ∇",
    "ratio-cut-and-mask": "E ∇ | E ∇",
    "ratio-variance-grows": "E | E E | E E",
    "gkd-on-stale-text": "E E ∇ | E ∇ KL E ∇ KL",
}


def operators(expression):
    signs = (SIGNS.get(type(node)) for node in sp.preorder_traversal(expression))
    return " ".join(filter(None, signs))


@pytest.mark.parametrize("claim", DERIVATIONS)
def test_a_chain_sets_out_from_what_is_claimed(claim):
    found = [operators(chain.left) for chain in DERIVATIONS[claim].chains]
    assert " | ".join(found) == FIRST_LINES[claim]
