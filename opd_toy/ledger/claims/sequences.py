"""The claims of the notes' chapter 6: whole texts."""

from functools import partial

from opd_toy.ledger.claims.claim import Claim
from opd_toy.ledger.evidence import growth, sequence, studies, top_k

in_reward_to_go = partial(Claim, chapter="6", page="06-reward-to-go")
in_noise = partial(Claim, chapter="6", page="06-noise")
in_relatives = partial(Claim, chapter="6", page="06-relatives")
in_control_study = partial(Claim, chapter="6", page="06-control-study")

CLAIMS = (
    in_reward_to_go(
        id="sequence-chain-rule",
        statement=(
            "A sequence's probability is the product of its tokens', and the KL between two "
            "distributions over sequences is the mean sum of the tokens' costs."
        ),
        shown_by=("exact",),
        evidence=sequence.chain_rule,
    ),
    in_reward_to_go(
        id="sequence-score-identity",
        statement=(
            "The mean gradient of a sequence's own costs is the mean score, and that is 0; on a "
            "finite sample it is not."
        ),
        shown_by=("proof", "experiment"),
        evidence=sequence.finite_scores,
    ),
    in_reward_to_go(
        id="past-terms-vanish",
        statement=(
            "A score times a cost from before its token has mean 0: it adds noise and nothing else."
        ),
        shown_by=("proof",),
        evidence=sequence.past_costs,
    ),
    in_reward_to_go(
        id="reward-to-go",
        statement=(
            "The sequence KL's gradient is the mean of each token's score times the costs from "
            "that token on."
        ),
        shown_by=("proof", "exact"),
        evidence=sequence.two_returns,
    ),
    in_reward_to_go(
        id="token-level-bias",
        statement=(
            "With its own cost alone, a token's update is biased for the sequence KL, by the mean"
            " of the scores times the later costs."
        ),
        shown_by=("exact",),
        evidence=sequence.token_level,
    ),
    in_reward_to_go(
        id="two-meanings-of-unbiased",
        statement="The same sampled term is unbiased for each prefix's own KL.",
        shown_by=("exact",),
        evidence=sequence.two_targets,
    ),
    in_reward_to_go(
        id="bias-variance",
        statement=(
            "From γ = 0 to γ = 1 the bias goes to 0 and the variance, as a rule, up; which γ is "
            "best depends on the number of sequences."
        ),
        shown_by=("exact", "slider"),
        evidence=sequence.by_gamma,
    ),
    in_reward_to_go(
        id="discounted-return",
        statement="The discount leads from the immediate cost, γ = 0, to the reward-to-go, γ = 1.",
        shown_by=("proof",),
        evidence=sequence.discounted,
    ),
    in_reward_to_go(
        id="gkd-future-coupling",
        statement=(
            "GKD has no return term; the sequence KL's gradient is GKD's plus each score times "
            "the KL at the later prefixes."
        ),
        shown_by=("proof", "exact"),
        evidence=sequence.coupling,
    ),
    in_noise(
        id="classical-rl",
        statement=(
            "This is REINFORCE with reward-to-go; baselines and GAE keep the mean and change the "
            "variance."
        ),
        shown_by=("exact",),
        evidence=sequence.with_baselines,
    ),
    in_noise(
        id="variance-bounds",
        statement=(
            "If no cost exceeds B_r and no score B_s, the variance is at most T² B_r² B_s² at "
            "token level and T⁴ B_r² B_s² for the full return; measured exponents are lower."
        ),
        shown_by=("proof", "exact"),
        evidence=growth.bounds,
    ),
    in_relatives(
        id="rlvr-terminal",
        statement="A reward at the end gives every token the same return at γ = 1.",
        shown_by=("exact",),
        evidence=sequence.terminal_reward,
    ),
    in_relatives(
        id="rlvr-broadcast",
        statement=(
            "The same reward entered at every token returns (T − t + 1) R: a re-weighting by "
            "position."
        ),
        shown_by=("proof",),
        evidence=sequence.broadcast_reward,
    ),
    in_relatives(
        id="top-k",
        statement=(
            "The teacher's top K, renormalised, without the tail or with it as one token: three "
            "objectives, none of them the full KL."
        ),
        shown_by=("exact", "experiment"),
        evidence=top_k.truncated,
    ),
    in_relatives(
        id="fipo",
        statement=(
            "FIPO re-weights an outcome advantage by the clipped exponential of a discounted sum "
            "of log-ratios to come."
        ),
        shown_by=("exact",),
        evidence=sequence.fipo,
    ),
    in_control_study(
        id="gamma-variance-experiment",
        statement=(
            "The two-teacher control study rebuilt: gradient variance along training for five γ."
        ),
        shown_by=("experiment",),
        evidence=studies.variance_along_training,
    ),
)
