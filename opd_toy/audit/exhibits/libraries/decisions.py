"""From what your teacher sends and what you want to an objective, an estimator and a setting.

The page *Decide* shows these as a chart and as a table.  Texts are inline Markdown, with links
as from a page of the book.
"""

from dataclasses import dataclass

from opd_toy.audit.exhibits.libraries.settings import GOALS


@dataclass(frozen=True, kw_only=True)
class Question:
    """``choices``: {what the address says: the words}."""

    key: str
    asks: str
    choices: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Way:
    """What to follow and how, ``when`` each question named there has one of these answers.

    ``kind`` decides what old texts and a reward ask for besides: see ADVICE.  ``goal`` names
    one of the GOALS, whose settings are audited; ``instead`` stands where there is none, and
    ``lacking`` below the settings, for a library of which none is among them.
    """

    when: dict[str, tuple[str, ...]]
    follow: str
    estimate: str
    kind: str
    read: str
    goal: str | None = None
    instead: str = ""
    lacking: str = ""


@dataclass(frozen=True, kw_only=True)
class Advice:
    """What an answer to one more question adds to the ways of these kinds."""

    question: str
    answer: str
    kinds: tuple[str, ...]
    says: str


QUESTIONS = (
    Question(
        key="teacher",
        asks="What can your teacher send?",
        choices={
            "logits": "all logits of a position",
            "top": "its K likeliest tokens",
            "number": "one number, the drawn token's log-probability",
            "text": "text only",
        },
    ),
    Question(
        key="tokenizer",
        asks="Does it have the student's tokenizer?",
        choices={"same": "the same", "other": "another one"},
    ),
    Question(
        key="keep",
        asks="What should the student keep?",
        choices={
            "one": "one right answer is enough (pass rate)",
            "all": "many answers per prompt (diversity)",
        },
    ),
    Question(
        key="rollouts",
        asks="How old are the student's texts when you train on them?",
        choices={"fresh": "fresh", "stale": "some steps old"},
    ),
    Question(
        key="reward",
        asks="Is there a reward too?",
        choices={"no": "no", "yes": "yes"},
    ),
)

ANOTHER = "another model"
WHOSE_TEACHER = {  # by how the ids of the audits begin; of all others it is another model
    ("trl-sdft", "trl-sdpo"): "the student itself, shown a hint",
    (
        "trl-grpo-kl",
        "liger-grpo-kl",
        "verl-k",
        "openrlhf-",
        "skyrl-k",
        "open-instruct-",
        "torchforge-",
    ): "a reference model, beside a reward",
}
FRESH_ONLY = {  # losses of a drawn token without a place for the ratio to whoever drew it
    "trl-grpo-kl-uncorrected",
    "liger-grpo-kl",
    "verl-distillation-k2",
    "verl-distillation-k3",
    "verl-k2",
    "verl-k3",
    "verl-k3+",
    "torchrl-reverse",
    "openrlhf-k2",
    "openrlhf-k3",
    "skyrl-k2",
    "skyrl-k3",
    "open-instruct-kl-2",
    "torchforge-grpo-kl",
}
_ON_OWN_TEXTS = ("logits", "top", "number")
_WHOLE = (
    "Compute it exactly: at each position sum over the whole vocabulary, a few rows at a time to "
    "save memory."
)
_TEACHERS_TEXTS = (
    "Compare it with [the teacher's texts](#sec-decide-writer), which served better in our study."
)
_SFT = (
    "Use the cross-entropy of the teacher's tokens, which are drawn once and kept. Any trainer for "
    "SFT will do."
)
WAYS = (
    Way(
        when={"teacher": ("logits",), "tokenizer": ("same",), "keep": ("one",)},
        follow="the reverse KL at each position of the student's texts",
        estimate=_WHOLE,
        kind="exact reverse",
        read="[chapter 3](03-logit-gradients.md#sec-push-and-pull)",
        goal="reverse KL, whole vocabulary",
        lacking="verl 0.9.1 has no loss over the whole vocabulary. Take `loss_mode=k1` with "
        "`use_policy_gradient=True`, from the drawn token, or register a loss as "
        "`examples/verl_distillation_loss.py` does.",
    ),
    Way(
        when={"teacher": ("logits",), "tokenizer": ("same",), "keep": ("all",)},
        follow="the forward KL at each position of the student's texts",
        estimate=f"{_WHOLE} {_TEACHERS_TEXTS}",
        kind="exact forward",
        read="[chapter 3](03-logit-gradients.md#sec-push-and-pull)",
        goal="forward KL, whole vocabulary",
        lacking="verl 0.9.1 has no loss over the whole vocabulary, and its `forward_kl_topk` "
        "drops the rest.",
    ),
    Way(
        when={"teacher": ("top",), "tokenizer": ("same",), "keep": ("one",)},
        follow="the reverse KL on K + 1 outcomes: the teacher's first K, and the rest as one",
        estimate="Compute it exactly, over these K + 1 outcomes. Or sum the first K exactly, and "
        "let the drawn token stand for the rest. Then sample at temperature 1 and top-p 1. On "
        "older texts multiply the drawn part by p/μ, where μ is the student that wrote them.",
        kind="exact reverse",
        read="[chapter 3](03-logit-gradients.md#claim-top-k-head-pushes-the-wrong-token)",
        instead="No audited setting has it: copy one of [two losses](#sec-decide-top-k); "
        "`examples/verl_distillation_loss.py` shows where verl takes one.",
    ),
    Way(
        when={"teacher": ("top",), "tokenizer": ("same",), "keep": ("all",)},
        follow="the forward KL on K + 1 outcomes: the teacher's first K, and the rest as one",
        estimate=f"Compute it exactly, over these K + 1 outcomes. {_TEACHERS_TEXTS}",
        kind="exact forward",
        read="[chapter 3](03-logit-gradients.md#claim-top-k-head-pushes-the-wrong-token)",
        goal="forward KL on the teacher's first K",
    ),
    Way(
        when={"teacher": ("number",), "tokenizer": ("same",), "keep": ("one",)},
        follow="the reverse KL at each position of the student's texts",
        estimate="Use the drawn token: its log-ratio log p − log q, detached, is the cost. Sample "
        "at temperature 1 and top-p 1.",
        kind="drawn reverse",
        read="[chapter 4](04-policy-gradient-updates.md#sec-right-on-average)",
        goal="reverse KL, from the token drawn",
    ),
    Way(
        when={"teacher": ("number",), "tokenizer": ("same",), "keep": ("all",)},
        follow="the forward KL at each position of the student's texts",
        estimate="Use the drawn token: raise its log-probability with the weight q/p, detached. "
        "Sample at temperature 1 and top-p 1. It is noisy, so ask for the first K if you can.",
        kind="drawn forward",
        read="[chapter 5](05-one-objective-two-estimators.md#sec-k-estimators)",
        goal="forward KL, from the student's own tokens",
    ),
    Way(
        when={"teacher": ("text",)},
        follow="the forward KL of whole texts, on the teacher's own; text alone leaves no choice "
        "of the direction",
        estimate=_SFT,
        kind="text",
        read="[chapter 1](01-from-sft-to-opd.md#claim-black-box)",
        instead="nothing beyond the loss of SFT",
    ),
    Way(
        when={"teacher": _ON_OWN_TEXTS, "tokenizer": ("other",), "keep": ("one",)},
        follow="the log-ratio of pieces of text that begin and end at the same bytes in both "
        "tokenizers",
        estimate="Use the drawn text: the log-ratio of a piece, detached, is the cost of its "
        "tokens.",
        kind="drawn reverse",
        read="[Symptoms](symptoms.md#sec-other-tokenizer)",
        instead="no setting for this is audited here",
    ),
    Way(
        when={"teacher": _ON_OWN_TEXTS, "tokenizer": ("other",), "keep": ("all",)},
        follow="the forward KL of whole texts, on the teacher's own, which the "
        "student's tokenizer cuts anew",
        estimate=_SFT,
        kind="text",
        read="[chapter 1](01-from-sft-to-opd.md#claim-black-box)",
        instead="nothing beyond the loss of SFT",
    ),
)

_SECOND_SUM = (
    "Add a second sum for the reward. There every token answers for the outcome (γ = 1); in the "
    "sum for the KL each token answers for itself (γ = 0)."
)
_WEIGHT = "[the numbers, and what to set in TRL and verl](symptoms.md#sec-reward-weight)"
ADVICE = (
    Advice(
        question="rollouts",
        answer="fresh",
        kinds=("exact forward", "exact reverse"),
        says="Nothing to correct.",
    ),
    Advice(
        question="rollouts",
        answer="fresh",
        kinds=("drawn forward", "drawn reverse"),
        says="Correct one small thing. The engine that wrote the text and the trainer give a token "
        "slightly different probabilities. Score the tokens with the trainer, and weight each by "
        "the trainer's probability over the engine's "
        "([why](05-one-objective-two-estimators.md#sec-sampler-mismatch)).",
    ),
    Advice(
        question="rollouts",
        answer="stale",
        kinds=("exact forward", "exact reverse"),
        says="There is nothing to correct in the loss. At a given prefix an exact divergence is "
        "the same, whoever wrote the prefix. Old texts only "
        "[change how often each prefix comes](symptoms.md#sec-stale).",
    ),
    Advice(
        question="rollouts",
        answer="stale",
        kinds=("drawn forward", "drawn reverse"),
        says="Compute log p anew. Weight each token by its ratio p/μ, cut at 2, where μ is the "
        "student that wrote it. Renew texts that are many steps old "
        "([the numbers](symptoms.md#sec-stale)). The settings for fresh texts only "
        "[take no ratio](#sec-decide-ratio): if your library has no others, use fresh texts, or "
        "ask for the teacher's first K.",
    ),
    Advice(
        question="rollouts",
        answer="fresh",
        kinds=("text",),
        says="The student writes nothing here.",
    ),
    Advice(
        question="rollouts",
        answer="stale",
        kinds=("text",),
        says="The student writes nothing here, and the teacher's text does not age.",
    ),
    Advice(
        question="reward",
        answer="no",
        kinds=("exact forward", "exact reverse", "drawn forward", "drawn reverse"),
        says="There is nothing to add. Training ends at the teacher, as far as the student can "
        "follow it. In verl set `use_task_rewards=False`: by default it adds the task's reward.",
    ),
    Advice(
        question="reward",
        answer="no",
        kinds=("text",),
        says="There is nothing to add. Training ends at the teacher, as far as the student can "
        "follow it.",
    ),
    Advice(
        question="reward",
        answer="yes",
        kinds=("exact reverse", "drawn reverse"),
        says=f"{_SECOND_SUM} The reward's weight w is about the logarithm of the factor that you "
        f"want on the odds of passing; on long texts start lower ({_WEIGHT}).",
    ),
    Advice(
        question="reward",
        answer="yes",
        kinds=("exact forward", "drawn forward"),
        says=f"{_SECOND_SUM} With the forward KL a weight w does not multiply the odds of passing "
        "by exp(w). At one position the factor is larger where the teacher seldom passes and w is "
        f"small, and smaller where the teacher often passes ({_WEIGHT}).",
    ),
    Advice(
        question="reward",
        answer="yes",
        kinds=("text",),
        says="Do SFT first. Then train on the reward, with a reverse KL to the student that SFT "
        "made ([what to set](symptoms.md#sec-reward-weight)).",
    ),
)


def goal_of(way):
    """The Goal that a way names, or None."""
    return next((goal for goal in GOALS if goal.name == way.goal), None)


def teacher_of(audit):
    """Whose probabilities the loss audited under this id follows, in words."""
    found = (words for begins, words in WHOSE_TEACHER.items() if audit.startswith(begins))
    return next(found, ANOTHER)
