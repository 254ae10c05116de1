"""The notes' sections 4 to 6 put to the auditor: what it must say of each claim's losses."""

from collections.abc import Callable
from dataclasses import dataclass, field

from opd_toy.audit.exhibits import notes_losses as losses


@dataclass(frozen=True)
class Audit:
    """An audit and its outcome: ``verdict`` is what the report's ``optimises`` must say.

    ``level`` is "token" or "sequence", ``options`` the keyword arguments, ``also`` what other
    fields of the report must be.  Numbers there are given to four decimals; of a dict only the
    keys named here count.
    """

    loss: Callable
    verdict: str
    also: dict = field(default_factory=dict)
    options: dict = field(default_factory=dict)
    level: str = "token"


def on_text(loss, verdict, also=None, **options):
    return Audit(loss, verdict, also or {}, options, "sequence")


LOCAL = "sum of local reverse KLs"
WHOLE = "sequence reverse KL"
OWN = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
ALL_LATER = ((1, 1, 1), (0, 1, 1), (0, 0, 1))
OF_ALL = ((1, 1, 1),) * 3
REVERSE_KL_GRADIENT = (-0.3857, -0.0811, 0.4668)

PG = Audit(
    losses.policy_gradient,
    "reverse KL",
    {"variance": 0.4650, "expected_gradient": REVERSE_KL_GRADIENT},
)
GKD = Audit(
    losses.full_reverse_kl,
    "reverse KL",
    {"variance": 0.0, "expected_gradient": REVERSE_KL_GRADIENT},
)
FORWARD_KL = Audit(losses.full_forward_kl, "forward KL", {"expected_gradient": (-0.5, 0.1, 0.4)})
OWN_COST = on_text(losses.own_cost, LOCAL, {"credit": OWN, "unbiased_for": {LOCAL: "1"}})
TO_GO = on_text(losses.reward_to_go, WHOLE, {"credit": ALL_LATER, "unbiased_for": {WHOLE: "1"}})
RAO_BLACKWELL = on_text(losses.rao_blackwell_return, WHOLE, {"unbiased_for": {WHOLE: "1"}})
ON_POLICY_GKD = on_text(losses.on_policy_gkd, LOCAL, {"credit": OWN})
HALF_DISCOUNTED = on_text(
    losses.half_discounted,
    "reverse KL with a discounted return, γ = 0.5",
    {"unbiased_for": {}},
)

CLAIMS = {
    # section 4
    "k1-expectation": (Audit(losses.k1, "zero", {"value_is": "KL(p‖q)"}),),
    "pg-logit-gradient": (PG,),
    "three-token-pg": (PG,),
    "pg-variance": (PG, GKD),
    "reward-mixing": (
        on_text(
            losses.cost_and_reward, f"{LOCAL} − 0.5 × expected reward", reward=losses.ends_well
        ),
    ),
    # section 5
    "rkl-baseline-structure": (Audit(losses.reverse_kl_formula, "reverse KL"),),
    "kl-asymmetric": (GKD, FORWARD_KL),
    "pg-unbiased-local": (PG,),
    "score-mean-zero": (Audit(losses.score, "zero", {"with_other_tokens": "−1 × forward KL"}),),
    "full-vocab-advantage-is-zero": (Audit(losses.kl_as_advantage, "zero", {"variance": 0.2832}),),
    "open-question-full-vocab-pg": (Audit(losses.kl_as_baseline, "reverse KL"), RAO_BLACKWELL),
    "improve-objective": (
        FORWARD_KL,
        GKD,
        Audit(losses.jsd_at_three_tenths, "JSD(β = 0.3)"),
        Audit(losses.alpha_divergence, "α-divergence(α = 0.5)"),
        Audit(losses.skewed_forward_kl, "forward KL with skew 0.1"),
        Audit(losses.skewed_reverse_kl, "reverse KL with skew 0.1"),
    ),
    "improve-estimator": (
        Audit(losses.constant_baseline, "reverse KL"),
        Audit(losses.importance_weighted, "reverse KL", options={"drawn_from": "teacher"}),
        Audit(losses.clipped_importance_weight, "none of these", options={"drawn_from": "teacher"}),
        Audit(losses.truncated, "reverse KL where |log p/q| ≤ 1", {"holds_everywhere": False}),
    ),
    "baseline-does-not-always-help": (
        PG,
        Audit(losses.kl_as_baseline, "reverse KL", {"variance": 0.5384}),
        Audit(losses.constant_baseline, "reverse KL", {"variance": 0.4261}),
        Audit(losses.baseline_of_minus_one, "reverse KL", {"variance": 1.3952}),
    ),
    "k-estimators-as-loss": (
        Audit(losses.k1, "zero"),
        Audit(losses.k2, "reverse KL"),
        Audit(losses.k3, "forward KL"),
    ),
    "k-estimators-as-reward": (
        PG,
        Audit(losses.k2_as_reward, "none of these"),
        Audit(losses.k3_as_reward, "reverse KL − forward KL"),
    ),
    "jsd-endpoints": (
        Audit(
            losses.jsd_near_0_over_beta,
            "1000 × JSD(β = 0.001)",
            {"nearest": {"name": "forward KL"}},
        ),
        Audit(
            losses.jsd_near_1_over_rest,
            "1000 × JSD(β = 0.999)",
            {"nearest": {"name": "reverse KL"}},
        ),
    ),
    # section 6
    "sequence-chain-rule": (on_text(losses.sum_of_costs, "zero", {"value_is": WHOLE}),),
    "sequence-score-identity": (on_text(losses.sum_of_costs, "zero"),),
    "past-terms-vanish": (
        on_text(losses.past_costs_alone, "zero"),
        on_text(losses.full_return, WHOLE, {"carried": OF_ALL}),
    ),
    "reward-to-go": (TO_GO,),
    "token-level-bias": (OWN_COST,),
    "two-meanings-of-unbiased": (OWN_COST,),
    "discounted-return": (OWN_COST, HALF_DISCOUNTED, TO_GO),
    "bias-variance": (OWN_COST, HALF_DISCOUNTED, TO_GO),
    "pg-zero-gamma-is-gkd": (OWN_COST, ON_POLICY_GKD),
    "gkd-future-coupling": (
        ON_POLICY_GKD,
        on_text(losses.later_kls_alone, "reverse KL with a return of the later costs alone"),
        RAO_BLACKWELL,
    ),
    "rao-blackwell-return": (RAO_BLACKWELL,),
    "classical-rl": (on_text(losses.constant_off_the_return, WHOLE),),
    "rlvr-terminal": (
        on_text(losses.reward_at_the_end, "−1 × expected reward", reward=losses.ends_well),
    ),
    "rlvr-broadcast": (
        on_text(
            losses.reward_at_every_token,
            "−1 × expected reward, token t × (T − t + 1)",
            reward=losses.ends_well,
        ),
    ),
    "top-k": (
        Audit(
            losses.top_two_renormalized,
            "reverse KL on the teacher's top 2, renormalized",
            {"expected_gradient": (-0.3980, 0.3980, 0.0)},
        ),
        Audit(
            losses.top_two_dropped,
            "reverse KL on the teacher's top 2, tail dropped",
            {"expected_gradient": (-0.1248, 0.3103, -0.1855)},
        ),
        Audit(losses.top_two_and_tail, "reverse KL on the teacher's top 2, tail as one token"),
    ),
}
