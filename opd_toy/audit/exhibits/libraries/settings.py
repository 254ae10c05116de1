"""Which setting of which library follows the objective that you want; an audit shows each."""

import re
from dataclasses import dataclass

from opd_toy.audit.exhibits.libraries.library_loss import BETWEEN, FORWARD, REVERSE
from opd_toy.audit.exhibits.libraries.record import LIBRARY_LOSSES


@dataclass(frozen=True, kw_only=True)
class Goal:
    """An objective: when to want it, and what to set, ``{id of the audit: setting}``.

    The verdict of each audit begins with one of ``verdicts``.  A library that is not named
    has no such setting among those audited.
    """

    name: str
    when: str
    verdicts: tuple[str, ...]
    settings: dict[str, str]

    def settings_of(self, library):
        chosen = self.settings.items()
        return {id: words for id, words in chosen if LIBRARY_LOSSES[id].library == library}


CODE = re.compile(
    r"\w[\w.]*\([^)]*\)"  # a call
    r'|\w[\w.]*=(?:"[^"]*"|\.{3}|[\w+-]+(?:\.\d+)?)'  # an option with its value
    r"|\b[A-Za-z]\w*(?:[._]\w+)+\b"  # a name with a dot or an underscore in it
    r"|\b[A-Z]\w*(?:Trainer|Config)\b"  # a class
)


def as_code(words):
    """Markdown: what is code in the words of a setting is marked so."""
    return CODE.sub(lambda found: f"`{found[0]}`", words)


SKYRL = (
    'as its on_policy_distillation example: advantage_estimator="no_op", '
    'policy_loss_type="importance_sampling", use_kl_in_reward=True, use_kl_loss=False, with the '
    "example's own trainer; its standard one adds the KL to the reward of the whole text"
)
WITHOUT_NOISE = "no noise from the draw of the token"
GOALS = (
    Goal(
        name="forward KL, whole vocabulary",
        when=f"{FORWARD}; {WITHOUT_NOISE}",
        verdicts=("forward KL",),
        settings={
            "trl-gkd-0": "GKDConfig(beta=0, temperature=1, lmbda=1, max_new_tokens=N)",
            "trl-distillation-0": "DistillationConfig(beta=0)",
            "trl-sdft-full-0": 'SDFTConfig(distillation_mode="full_logits", distillation_alpha=0)',
            "liger-jsd-0": "LigerFusedLinearJSDLoss(beta=0, weight_hard_loss=0, "
            "weight_soft_loss=1)",
            "swift-gkd-0": "rlhf_type=gkd: beta=0, temperature=1, lmbda=1",
            "roll-forward-kl": "kd_objective=forward_kl",
        },
    ),
    Goal(
        name="reverse KL, whole vocabulary",
        when=f"{REVERSE}; {WITHOUT_NOISE}",
        verdicts=("reverse KL",),
        settings={
            "trl-distillation-1": "DistillationConfig(beta=1), its default",
            "trl-gkd-1": "GKDConfig(beta=1, temperature=1, lmbda=1, max_new_tokens=N)",
            "trl-sdft-full-1": 'SDFTConfig(distillation_mode="full_logits", distillation_alpha=1)',
            "liger-jsd-1": "LigerFusedLinearJSDLoss(beta=1, weight_hard_loss=0, "
            "weight_soft_loss=1)",
            "swift-gkd-1": "rlhf_type=gkd: beta=1, temperature=1, lmbda=1",
            "roll-reverse-kl": "kd_objective=reverse_kl",
        },
    ),
    Goal(
        name="JSD, whole vocabulary",
        when=f"{BETWEEN}; near β = 0 or 1 it shrinks to nothing, so that the ends are settings "
        "of their own",
        verdicts=("JSD(β = 0.5)",),
        settings={
            "trl-gkd-0.5": "GKDConfig(beta=0.5, temperature=1, lmbda=1, max_new_tokens=N)",
            "trl-distillation-0.5": "DistillationConfig(beta=0.5)",
            "trl-sdft-full-0.5": 'SDFTConfig(distillation_mode="full_logits")',
            "liger-jsd-0.5": "LigerFusedLinearJSDLoss(weight_hard_loss=0, weight_soft_loss=1)",
            "swift-gkd-0.5": "rlhf_type=gkd: beta=0.5, temperature=1, lmbda=1",
            "roll-js-divergence": "kd_objective=js_divergence",
        },
    ),
    Goal(
        name="reverse KL, from the token drawn",
        when="the teacher scores only the tokens of the text; noisier, and unbiased with tokens "
        "that the current student drew",
        verdicts=("reverse KL", "sum of local reverse KLs"),
        settings={
            "trl-sdpo-token": "SDPOConfig(), its default",
            "trl-grpo-kl": "GRPOConfig(beta=...), whose use_bias_correction_kl is True",
            "liger-grpo-kl-corrected": "LigerFusedLinearGRPOLoss(use_bias_correction_kl=True)",
            "verl-distillation-k1-reward": "distillation_loss: loss_mode=k1, "
            "use_policy_gradient=True",
            "verl-distillation-k2": "distillation_loss: loss_mode=k2",
            "verl-k2": "kl_loss_type=k2",
            "verl-k3+": 'kl_loss_type="k3+"',
            "tinker-discount-0": "kl_discount_factor=0, the default",
            "swift-opd-rl": "rlhf_type=grpo with a teacher: teacher_kl_coef=1, no reward",
            "areal-pure": "TeacherConfig: rl_loss_weight=0",
            "openrlhf-k1-unbiased": "algo.kl.use_loss=True, algo.kl.unbiased_gradient=True",
            "openrlhf-k2": 'algo.kl.use_loss=True, algo.kl.estimator="k2"; no gradient where '
            "log p/q is beyond ±4.47",
            "skyrl-opd": SKYRL,
            "skyrl-k2": 'use_kl_loss=True, kl_estimator_type="k2"',
            "slime-opd": "use_opd, opd_kl_coef=1",
            "prime-rl-ref-kl": "the opd algorithm",
            "open-instruct-kl-3": "kl_estimator=3",
        },
    ),
    Goal(
        name="forward KL, from the student's own tokens",
        when="the same gradient as the whole vocabulary's on average, at a variance that grows "
        "with q/p: rarely better than asking for the teacher's first K",
        verdicts=("forward KL",),
        settings={
            "trl-grpo-kl-uncorrected": "GRPOConfig(beta=..., use_bias_correction_kl=False)",
            "liger-grpo-kl": "LigerFusedLinearGRPOLoss(), its default",
            "verl-distillation-k3": "distillation_loss: loss_mode=k3, the default of "
            "distillation.yaml; no gradient where log q/p > 2.61",
            "verl-k3": "kl_loss_type=low_var_kl, the default; no gradient where log q/p > 2.61",
            "torchrl-reverse": 'DistillationLoss(kl_direction="reverse"), its default',
            "openrlhf-k3": 'algo.kl.use_loss=True, algo.kl.estimator="k3"; no gradient where '
            "log q/p > 2.61",
            "skyrl-k3": 'use_kl_loss=True, kl_estimator_type="k3", the default; no gradient where '
            "log q/p > 2.61",
            "open-instruct-kl-2": "kl_estimator=2, the default",
            "torchforge-grpo-kl": "SimpleGRPOLoss(beta=...)",
        },
    ),
    Goal(
        name="forward KL on the teacher's first K",
        when="a server sends the teacher's first K log-probabilities; the nearer to 1 their sum, "
        "the nearer to the forward KL",
        verdicts=("forward KL on the teacher's top 2",),
        settings={
            "trl-iw-opd-top-2-0-tail": 'IWOPDConfig(distillation_objective="jsd", beta=0, '
            "loss_top_k=K): the tail is one more outcome",
            "trl-iw-opd-top-2-0-renormalized": "rather not IWOPDConfig(loss_add_tail=False): it "
            "renormalizes, and leaves the student's rest alone",
            "distillkit-uniform": "missing_probability_handling=symmetric_uniform: the tail is "
            "one more outcome",
            "swift-gkd-top-2-0": "gkd_logits_topk=K, beta=0, temperature=1, lmbda=1: it "
            "renormalizes, and leaves the student's rest alone",
            "axolotl-0": "kd_beta=0, kd_normalize_topk=True: it renormalizes, and leaves the "
            "student's rest alone",
            "nemo-rl-forward": 'kl_type="forward", zero_outside_topk=false: it renormalizes, and '
            "leaves the student's rest alone",
            "verl-top-2-processor": "avoid distillation_loss: loss_mode=forward_kl_topk: its "
            "minimum is not at student = teacher",
            "axolotl-default-server": "avoid a teacher's server with kd_normalize_topk unset: its "
            "minimum is not at student = teacher",
            "easydistill-forward-kld": "avoid distillation_type=forward_kld: its minimum is not at "
            "student = teacher",
        },
    ),
    Goal(
        name="forward KL to a teacher that is cut to its first K",
        when="what lies outside the first K may be forgotten: the student ends with 0 there",
        verdicts=("forward KL to the teacher renormalized on the teacher's top 2",),
        settings={
            "axolotl-default-data": "kd_beta=0, kd_normalize_topk unset, the default with a "
            "data set of log-probabilities",
            "distillkit-zero": "missing_probability_handling=zero, the default",
        },
    ),
    Goal(
        name="reverse KL on the teacher's first K",
        when="a server sends the teacher's first K and one right answer is enough; both "
        "models are renormalised there, and nothing pulls on the student's rest",
        verdicts=("reverse KL on the teacher's top 2",),
        settings={
            "swift-gkd-top-2-1": "gkd_logits_topk=K, beta=1, temperature=1, lmbda=1",
            "axolotl-1": "kd_beta=1, kd_normalize_topk=True",
            "nemo-rl-reverse": 'kl_type="reverse", zero_outside_topk=false',
            "easydistill-reverse-kld": "avoid distillation_type=reverse_kld: neither model is "
            "renormalised",
        },
    ),
    Goal(
        name="reverse KL on the student's first K",
        when="less memory, with the teacher at hand",
        verdicts=("reverse KL on the student's top 2",),
        settings={
            "trl-iw-opd-top-2-1-tail": 'IWOPDConfig(distillation_objective="jsd", beta=1, '
            "loss_top_k=K): the tail is one more outcome",
            "trl-iw-opd-top-2-1-renormalized": "rather not IWOPDConfig(loss_add_tail=False): it "
            "renormalizes, and leaves the rest alone",
            "trl-sdft-top-2-1-tail": 'SDFTConfig(distillation_mode="topk_logits", '
            "distillation_alpha=1, distillation_add_tail=True)",
            "trl-sdft-top-2-1-renormalized": "rather not the same without the tail: it "
            "renormalizes",
        },
    ),
    Goal(
        name="the sum of the local reverse KLs of a text",
        when="the usual on-policy distillation: each token pays for itself; the least variance",
        verdicts=("sum of local reverse KLs",),
        settings={
            "tinker-discount-0": "kl_discount_factor=0, the default",
            "verl-seq-mean-token-sum": 'loss_agg_mode="seq-mean-token-sum" with loss_mode=k2',
            "skyrl-opd": SKYRL,
        },
    ),
    Goal(
        name="the same as a mean over tokens",
        when="a step size that does not depend on the texts' lengths",
        verdicts=("1/T × sum of local reverse KLs",),
        settings={
            "trl-gkd-labels": "GKDTrainer with labels, as its trainer calls it",
            "verl-token-mean": 'loss_agg_mode="token-mean", the default',
            "verl-seq-mean-token-mean": 'loss_agg_mode="seq-mean-token-mean": every text counts '
            "the same",
            "swift-gkd-texts": "rlhf_type=gkd, lmbda=1",
            "areal-pure-texts": "TeacherConfig: rl_loss_weight=0",
            "openrlhf-token-mean": "token_level_loss=True, the default",
            "openrlhf-sample-mean": "token_level_loss=False: every text counts the same",
        },
    ),
    Goal(
        name="the reverse KL of whole texts",
        when="tokens should also pay for where they lead; the variance grows with the length "
        "(a KL put into the reward, as by TRL's RLOOTrainer and verl's use_kl_in_reward, is of "
        "this kind; those trainers make it inside and are not audited)",
        verdicts=("sequence reverse KL", "1/T² × sequence reverse KL"),
        settings={
            "tinker-discount-1": "kl_discount_factor=1, on positions without a prompt",
            "slime-opd-gspo": "avoid use_opd with advantage_estimator=gspo: it is 1/T² of it",
        },
    ),
)
