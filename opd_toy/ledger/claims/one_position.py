"""The claims of the notes' chapters 1 to 5: one position, one token drawn."""

from functools import partial

from opd_toy.ledger.claims.claim import Claim
from opd_toy.ledger.evidence import position

in_chapter_1 = partial(Claim, chapter="1", page="01-from-sft-to-opd")
in_chapter_2 = partial(Claim, chapter="2", page="02-policy-gradient")
in_chapter_3 = partial(Claim, chapter="3", page="03-logit-gradients")
in_chapter_4 = partial(Claim, chapter="4", page="04-policy-gradient-updates")
in_chapter_5 = partial(Claim, chapter="5", page="05-one-objective-two-estimators")

CLAIMS = (
    in_chapter_1(
        id="sft-one-hot",
        statement="SFT's loss is the soft-label loss with a one-hot target.",
        shown_by=("proof",),
        evidence=position.one_hot_gradient,
    ),
    in_chapter_1(
        id="seqkd-soft-label",
        statement=(
            "SeqKD's loss is the soft-label loss, −Σ q log p: the mean SFT loss over the "
            "teacher's tokens."
        ),
        shown_by=("proof",),
    ),
    in_chapter_1(
        id="seqkd-is-forward-kl",
        statement=(
            "The soft-label loss and KL(q‖p) differ by the teacher's entropy, a constant, and "
            "have the same gradient."
        ),
        shown_by=("proof",),
        evidence=position.soft_label_loss,
    ),
    in_chapter_1(
        id="sft-limit",
        statement="As the teacher sharpens to one-hot, SeqKD's gradient becomes SFT's.",
        shown_by=("proof", "slider"),
        evidence=position.sharpened,
    ),
    in_chapter_1(
        id="who-samples",
        statement=(
            "The direction of the KL and the source of the prefixes are two separate choices."
        ),
        shown_by=("text",),
    ),
    in_chapter_1(
        id="black-box",
        statement=(
            "SFT needs only text, so it works on closed teachers; full-vocabulary losses need "
            "logits."
        ),
        shown_by=("text",),
    ),
    in_chapter_2(
        id="sampling-blocks-gradient",
        statement=(
            "No derivative flows through argmax or a drawn token; the full-vocabulary loss is "
            "differentiable."
        ),
        shown_by=("exact",),
        evidence=position.blocked,
    ),
    in_chapter_2(
        id="log-derivative",
        statement=(
            "The gradient of a probability is the probability times the gradient of its logarithm."
        ),
        shown_by=("proof",),
    ),
    in_chapter_2(
        id="policy-gradient",
        statement=(
            "The gradient of a mean reward is the mean of the reward times the score, for any "
            "reward that does not depend on the logits."
        ),
        shown_by=("proof",),
    ),
    in_chapter_2(
        id="pg-opd-cost",
        statement=(
            "OPD's policy gradient takes the detached log-ratio instead of a reward; it is a "
            "cost, to be descended."
        ),
        shown_by=("proof",),
        evidence=position.sampled_mean,
    ),
    in_chapter_2(
        id="monte-carlo",
        statement="The mean of N samples approaches the exact gradient like 1/√N.",
        shown_by=("experiment", "slider"),
        evidence=position.standard_errors,
    ),
    in_chapter_2(
        id="dense-versus-broadcast",
        statement=(
            "RLVR gives every token of a sequence the same weight; OPD gives each its own. The "
            "slider is in [chapter 6](06-reward-to-go.md#sec-discount)."
        ),
        shown_by=("exact", "slider"),
        evidence=position.dense_or_broadcast,
    ),
    in_chapter_3(
        id="softmax-jacobian",
        statement="The derivative of one probability by one logit: pᵥ (δᵥⱼ − pⱼ).",
        shown_by=("proof",),
        evidence=position.jacobian,
    ),
    in_chapter_3(
        id="log-softmax-jacobian",
        page="02-policy-gradient",
        statement="The derivative of one log-probability by one logit: δᵥⱼ − pⱼ.",
        shown_by=("proof",),
    ),
    in_chapter_3(
        id="rkl-parameter-gradient",
        statement=(
            "For any parameter, the +1 of the product rule adds nothing to the reverse-KL gradient."
        ),
        shown_by=("proof",),
    ),
    in_chapter_3(
        id="rkl-logit-gradient",
        statement="Reverse KL's logit gradient: the probability times the log-ratio less KL.",
        shown_by=("proof",),
        evidence=position.reverse_gradient,
    ),
    in_chapter_3(
        id="rkl-sign-rule",
        statement="Descent on reverse KL raises a logit exactly when its log-ratio lies below KL.",
        shown_by=("proof",),
        evidence=position.raised,
    ),
    in_chapter_3(
        id="fkl-logit-gradient",
        statement="Forward KL's logit gradient is p − q, by two routes.",
        shown_by=("proof",),
        evidence=position.forward_gradient,
    ),
    in_chapter_3(
        id="logit-gradients-sum-to-zero",
        statement="Both gradients, and every policy-gradient sample, sum to 0 over the tokens.",
        shown_by=("proof",),
    ),
    in_chapter_3(
        id="three-token-rkl",
        statement=(
            "On the notes' example reverse KL raises t₂ although the student already gives it "
            "more than the teacher."
        ),
        shown_by=("exact",),
        evidence=position.raised_with_gradient,
    ),
    in_chapter_3(
        id="three-token-fkl",
        statement="On the same example forward KL lowers t₂.",
        shown_by=("exact",),
        evidence=position.both_gradients,
    ),
    in_chapter_3(
        id="mode-seeking-covering",
        statement=(
            "For a student too small for a two-mode teacher, reverse KL is least on one mode and "
            "forward KL spread over both; a free softmax ends at the teacher under either."
        ),
        shown_by=("experiment", "slider"),
        evidence=position.two_modes,
    ),
    in_chapter_4(
        id="k1-expectation",
        statement=(
            "The mean of the sampled log-ratio is KL(p‖q), though single draws have either sign."
        ),
        shown_by=("proof",),
        evidence=position.draws_and_mean,
    ),
    in_chapter_4(
        id="pg-logit-gradient",
        statement="The sampled gradient is the cost times (δₖⱼ − pⱼ).",
        shown_by=("proof",),
    ),
    in_chapter_4(
        id="pg-opposite-signs",
        statement="The drawn token and all others are pushed in opposite directions.",
        shown_by=("proof",),
    ),
    in_chapter_4(
        id="pg-blind",
        statement=(
            "The push on the logits of the tokens not drawn is shared in proportion to p, "
            "whatever the teacher thinks of them."
        ),
        shown_by=("proof",),
        evidence=position.blind,
    ),
    in_chapter_4(
        id="three-token-pg",
        statement="What one draw does on the notes' example, for t₃ and for t₁.",
        shown_by=("exact",),
        evidence=position.two_draws,
    ),
    in_chapter_4(
        id="three-token-gkd-versus-pg",
        statement="GKD and one policy-gradient draw, side by side.",
        shown_by=("exact",),
        evidence=position.side_by_side,
    ),
    in_chapter_4(
        id="pg-sign-flip",
        statement=(
            "The direction of t₂ depends on the token drawn, while the full-vocabulary gradient "
            "is fixed."
        ),
        shown_by=("exact", "slider"),
        evidence=position.changing_sign,
    ),
    in_chapter_4(
        id="pg-variance",
        statement=(
            "At one prefix the policy gradient varies with the draw unless p = q, and GKD does "
            "not; in a seeded run, training with few draws took more steps."
        ),
        shown_by=("exact", "experiment"),
        evidence=position.variances,
    ),
    in_chapter_4(
        id="gkd-pg-summary",
        statement="The notes' table of how the two kinds of update compare.",
        shown_by=("text",),
    ),
    in_chapter_4(
        id="reward-mixing",
        statement="The distillation cost adds linearly to an outcome reward's advantage.",
        shown_by=("proof", "exact", "experiment"),
        evidence=position.mixed,
    ),
    in_chapter_5(
        id="kl-nonnegative",
        statement="KL is never negative, and 0 only where the two distributions agree.",
        shown_by=("proof", "exact"),
    ),
    in_chapter_5(
        id="kl-asymmetric",
        statement="KL(p‖q) and KL(q‖p) differ in general.",
        shown_by=("exact",),
        evidence=position.both_divergences,
    ),
    in_chapter_5(
        id="rkl-baseline-structure",
        statement="The exact gradient carries a baseline: the log-ratio less its mean under p.",
        shown_by=("proof",),
    ),
    in_chapter_5(
        id="pg-unbiased-local",
        statement="The mean of the sampled gradient is the gradient of KL(p‖q).",
        shown_by=("proof",),
        evidence=position.sampled_mean,
    ),
    in_chapter_5(
        id="score-mean-zero",
        page="02-policy-gradient",
        statement="The mean score is 0.",
        shown_by=("proof",),
    ),
    in_chapter_5(
        id="full-vocab-advantage-is-zero",
        statement="KL(p‖q) used as the advantage has a zero mean gradient.",
        shown_by=("proof",),
        evidence=position.null_advantage,
    ),
    in_chapter_5(
        id="improve-objective",
        statement=(
            "Change the objective and the price of each token changes: forward and reverse KL, "
            "JSD(β), α-divergence, skewed KL."
        ),
        shown_by=("proof", "slider"),
        evidence=position.objective_gradients,
    ),
    in_chapter_5(
        id="improve-estimator",
        statement=(
            "Of the changes that the notes count as changes of the estimator, a baseline, an "
            "importance weight and a sampled tail keep the mean; truncation, a clipped weight and"
            " a dropped tail move it, and with it what is learned."
        ),
        shown_by=("exact",),
        evidence=position.estimator_changes,
    ),
    in_chapter_5(
        id="improve-framework",
        statement=(
            "A distillation advantage and an outcome advantage can be added; the student is drawn"
            " to a tilted teacher."
        ),
        shown_by=("exact", "experiment"),
        evidence=position.tilted,
    ),
    in_chapter_5(
        id="open-question-full-vocab-pg",
        statement=(
            "Full-vocabulary KL may enter the policy gradient as the baseline or in the place of "
            "the sampled return, never as the advantage."
        ),
        shown_by=("proof", "exact"),
        evidence=position.with_kl_as_baseline,
    ),
)
