"""The claims on training: what becomes of students, and how soon."""

import math

import numpy as np

from opd_toy.lm.study.clearly import array, clearly_above, float_or_nan, higher, mean
from opd_toy.lm.study.rules import rule


@rule(
    id="gkd-pg-summary",
    claim="The policy gradient converges more slowly than GKD.",
    criterion="At equal numbers of texts the sequence KL of γ = 0 is clearly above GKD's, on "
    "average over training and at the end.",
)
def slower(record):
    lead = {
        what: values("pg_0", "sequence_kl") - values("gkd", "sequence_kl")
        for what, values in (
            ("averaged over training", record.during),
            ("at the end", record.end),
        )
    }
    figure = {f"sequence KL above GKD's, {what}": mean(values) for what, values in lead.items()}
    return {what: clearly_above(values) for what, values in lead.items()}, figure


@rule(
    id="rates",
    claim="Not the choice of the rate makes the policy gradient slower.",
    criterion="At each of three rates (a third of the common one, it, three times it; one seed, "
    "so no error is known) the sequence KL at the end is higher at γ = 0 than GKD's, and higher "
    "at γ = 1 than at γ = 0.",
)
def slower_at_every_rate(record):
    sweep = record.results["sweep"]
    ends = {
        name: [float_or_nan(row["sequence_kl"]) for row in sweep[name]]
        for name in ("gkd", "pg_0", "pg_1")
    }
    parts = {
        "γ = 0 behind GKD": higher(ends["pg_0"], ends["gkd"]),
        "γ = 1 behind γ = 0": higher(ends["pg_1"], ends["pg_0"]),
    }
    figure = {
        f"sequence KL, {name}, rate {row['rate']:g}": value
        for name, values in ends.items()
        for row, value in zip(sweep[name], values)
    }
    return parts, figure


@rule(
    id="gamma-variance-experiment",
    claim="In training large γ is slower than γ = 0.",
    criterion="At equal numbers of texts the sequence KL, averaged over training, is clearly "
    "higher at γ = .9 and at γ = 1 than at γ = 0.",
)
def return_is_slower(record):
    lead = {
        name: record.during(name, "sequence_kl") - record.during("pg_0", "sequence_kl")
        for name in ("pg_0.9", "pg_1")
    }
    figure = {
        f"sequence KL above that of γ = 0, {name}": mean(values) for name, values in lead.items()
    }
    return {name: clearly_above(values) for name, values in lead.items()}, figure


@rule(
    id="seqkd-is-forward-kl",
    claim="On the teacher's texts soft labels learn faster than the drawn tokens alone.",
    criterion="At equal numbers of texts SeqKD's forward sequence KL is clearly below SFT's, "
    "averaged over training, and its accuracy clearly above.",
)
def soft_labels(record):
    lead = {
        measure: sign * (record.during("seqkd", measure) - record.during("sft", measure))
        for measure, sign in (("forward_sequence_kl", -1), ("accuracy", 1))
    }
    figure = {f"lead in {measure}": mean(values) for measure, values in lead.items()}
    return {measure: clearly_above(values) for measure, values in lead.items()}, figure


@rule(
    id="mode-seeking-covering",
    claim="Forward KL leaves more of the right orders in use than reverse KL.",
    criterion="At the end the entropy of the order among right workings, and the number of "
    "different ones among 16 draws, are clearly larger after forward than after reverse KL, on "
    "the student's texts and on the teacher's.",
)
def modes(record):
    pairs = {
        "on own texts": ("on_policy_forward_kl", "gkd"),
        "on the teacher's texts": ("seqkd", "off_policy_reverse_kl"),
    }
    parts, figure = {}, {}
    for where, (forward, reverse) in pairs.items():
        for measure in ("order_entropy", "distinct"):
            lead = record.end(forward, measure) - record.end(reverse, measure)
            parts[f"{measure} {where}"] = clearly_above(lead)
            figure[f"forward less reverse, {measure}, {where}"] = mean(lead)
    figure["order_entropy of the teacher"] = record.teacher("order_entropy")
    figure["order_entropy of the start"] = record.at_start("order_entropy")
    return parts, figure


@rule(
    id="exposure-bias",
    claim="Who learns on the teacher's texts is further from the teacher on its own; learning on "
    "its own texts narrows the gap.",
    criterion="After SeqKD the KL of a token is clearly larger on the student's prefixes than on "
    "the teacher's; the ratio of the two is clearly smaller after training on own texts with the "
    "same divergence, the forward KL and the reverse KL.",
)
def exposure_bias(record):
    gap, figure = {}, {}
    for name in ("seqkd", "on_policy_forward_kl", "off_policy_reverse_kl", "gkd"):
        per_token = record.results["exposure"][name]["per_token"]
        own, teacher = array(per_token["own"]), array(per_token["teacher"])
        figure[f"KL a token, {name}, own prefixes"] = mean(own)
        figure[f"KL a token, {name}, teacher prefixes"] = mean(teacher)
        gap[name] = np.log(own / teacher)
    figure |= {f"ratio, {name}": float(np.exp(values.mean())) for name, values in gap.items()}
    forward = gap["seqkd"] - gap["on_policy_forward_kl"]
    reverse = gap["off_policy_reverse_kl"] - gap["gkd"]
    parts = {
        "there is a gap after SeqKD": clearly_above(gap["seqkd"]),
        "smaller on own texts, forward KL": clearly_above(forward),
        "smaller on own texts, reverse KL": clearly_above(reverse),
    }
    return parts, figure


@rule(
    id="who-samples",
    claim="With the same divergence, learning on the student's own texts serves the student's "
    "own texts.",
    criterion="At the end the sequence KL, on the student's texts, is clearly lower and the "
    "accuracy clearly higher after training on own texts than on the teacher's, for reverse and "
    "for forward KL.",
)
def who_samples(record):
    pairs = {
        "reverse KL": ("gkd", "off_policy_reverse_kl"),
        "forward KL": ("on_policy_forward_kl", "seqkd"),
    }
    parts, figure = {}, {}
    for what, (own, others) in pairs.items():
        for measure, sign in (("sequence_kl", -1), ("accuracy", 1)):
            lead = sign * (record.end(own, measure) - record.end(others, measure))
            parts[f"{measure}, {what}"] = clearly_above(lead)
            figure[f"lead in {measure}, {what}"] = mean(lead)
    return parts, figure


@rule(
    id="jsd-endpoints",
    claim="The JSD of β = ½ ends between forward and reverse KL.",
    criterion="At the end the mean over seeds of the order's entropy, of the forward and of the "
    "reverse sequence KL lies between those after reverse and after forward KL, all on own texts.",
)
def between(record):
    parts, figure = {}, {}
    for measure in ("order_entropy", "forward_sequence_kl", "sequence_kl"):
        ends = {name: record.end(name, measure) for name in ("gkd", "jsd", "on_policy_forward_kl")}
        figure |= {f"{measure}, {name}": mean(values) for name, values in ends.items()}
        reverse, jsd, forward = (values.mean() for values in ends.values())
        known = np.isfinite([reverse, jsd, forward]).all()
        inside = min(reverse, forward) <= jsd <= max(reverse, forward)
        parts[measure] = inside if known else None
    return parts, figure


@rule(
    id="reward-mixing",
    claim="Distillation with an outcome reward passes its teacher.",
    criterion="Of a student that starts as the teacher itself, the probability of a right "
    "working ends clearly above the teacher's, the error by the choice of prompts counted, and "
    "above that after GKD, which has nothing to learn there. Of the common start, the accuracy "
    "ends clearly above the teacher's on the same prompts, whose own error counts, and clearly "
    "above that of the same loss without the reward.",
)
def reward_mixing(record):
    accuracy = record.teacher("accuracy")
    # Of the teacher's one draw a prompt, the same for all seeds.
    error = math.sqrt(accuracy * (1 - accuracy) / record.results["final"]["prompts"])
    mixed, plain = record.end("opd_reward", "accuracy"), record.end("pg_0", "accuracy")
    gains = {name: record.gained(name) for name in ("opd_reward", "gkd", "rlvr")}
    (gain, of_prompts), (control, _) = gains["opd_reward"], gains["gkd"]
    passes = [clearly_above(gain, of_prompts), clearly_above(gain - control)]
    parts = {
        "starting as the teacher": None if None in passes else all(passes),
        "from the common start": clearly_above(mixed - accuracy, error),
        "from the common start it is above the same without the reward": clearly_above(
            mixed - plain
        ),
    }
    figure = {}
    for name, (values, by_prompts) in gains.items():
        value, by_seeds = mean(values)
        figure[f"gain in right workings from the teacher, {name}"] = (
            value,
            math.hypot(by_seeds, by_prompts),
        )
    figure |= {
        "accuracy of the teacher": (accuracy, error),
        "accuracy, opd_reward": mean(mixed),
        "accuracy, pg_0": mean(plain),
        "above the teacher": mean(mixed - accuracy),
        "above pg_0": mean(mixed - plain),
    }
    return parts, figure


@rule(
    id="dense-versus-broadcast",
    claim="The teacher's cost of every drawn token raises the accuracy sooner than one reward "
    "for the text.",
    criterion="At equal numbers of texts the accuracy of γ = 0, averaged over training, is "
    "clearly above that of RLVR alone, at the common rate.",
)
def dense(record):
    lead = record.during("pg_0", "accuracy") - record.during("rlvr", "accuracy")
    figure = {"accuracy above RLVR's, average over training": mean(lead)}
    for name in ("pg_0", "rlvr"):
        figure[f"accuracy, {name}"] = mean(record.end(name, "accuracy"))
    return {"faster": clearly_above(lead)}, figure


@rule(
    id="rlvr-alone",
    claim="The reward alone, without a teacher, raises the accuracy of this start.",
    criterion="At the end the accuracy of RLVR is clearly above the start's.",
)
def reward_alone(record):
    gain = record.end("rlvr", "accuracy") - record.at_start("accuracy")
    figure = {
        "gain in accuracy": mean(gain),
        "accuracy of the start": record.at_start("accuracy"),
    }
    return {"it learns": clearly_above(gain)}, figure


RULES = (
    slower,
    slower_at_every_rate,
    return_is_slower,
    soft_labels,
    modes,
    exposure_bias,
    who_samples,
    between,
    reward_mixing,
    dense,
    reward_alone,
)
