"""Chapter 8's record, read estimator by estimator and claim by claim, with two drawings."""

import functools
import re

import numpy as np

from opd_toy.pages.drawing import label_ends, powers_of_ten
from opd_toy.pages.numbers import figures, plain
from opd_toy.records.provenance import recorded

STUDENTS = {"start": "at the start", "gkd": "after GKD"}  # those that are held still
ESTIMATORS = {
    "gkd": "GKD",
    "top_k": "teacher's top 4",
    "pg_0": "PG, $\\gamma = 0$",
    "pg_0_redrawn": "the same, 32 draws",
    "pg_baseline": "PG, KL as baseline",
    "pg_0.5": "PG, $\\gamma = .5$",
    "pg_0.9": "PG, $\\gamma = .9$",
    "pg_1": "PG, $\\gamma = 1$",
    "exact_costs": "exact costs, $\\gamma = 1$",
    "exact_costs_centred": "the same, centred",
    "centred_0.5": "centred, $\\gamma = .5$",
    "centred_0.9": "centred, $\\gamma = .9$",
}
# What the record's rules call things, as the page says it.
PLAIN_WORDS = {
    "Who learns on": "A student that learns on",
    "Not the choice of the rate makes the policy gradient slower.": "The policy gradient is "
    "slower at each of three rates.",
    "forward_sequence_kl": "forward sequence KL",
    "sequence_kl": "sequence KL",
    "order_entropy": "entropy of the order",
    "on_policy_forward_kl": "on-policy forward KL",
    "off_policy_reverse_kl": "off-policy reverse KL",
    "distinct": "different workings",
    "opd_reward": "OPD + reward",
    "seqkd": "SeqKD",
    "gkd": "GKD",
    "rlvr": "RLVR",
    "jsd": "JSD",
    **{name: ESTIMATORS[name] for name in ("pg_0.5", "pg_0.9", "pg_baseline", "pg_0", "pg_1")},
    "costs no accuracy to be told": "it ends as accurate as GKD, within the error",
    "starting as the teacher": "a student that starts as its teacher passes it",
    "from the common start": "a student with the common start passes it",
    "from the common start it is above the same without the reward": "a student with "
    "the common start is more often right than without the reward",
}


@functools.cache
def study():
    """The results of the study on a transformer."""
    return recorded("lm-study-cpu", "study")


def gradient(student, estimator, column):
    """(value, standard error) of a measure of one text's gradient; NaN where there is none."""
    pair = study()["frozen"][student]["estimators"][estimator][column]
    return tuple(np.nan if part is None else part for part in pair)


def token_noise(student, estimator):
    """The variance by drawing the tokens anew at fixed prefixes, over the estimator's own."""
    whole, _ = gradient(student, estimator, "variance")
    return gradient(student, estimator, "token_noise")[0] / whole


def seed_mean(values):
    """(mean, standard error) over seeds; the error of one seed is NaN."""
    values = np.array(values, dtype=float)
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    return values.mean(), error


def at_the_end(method, measure):
    """(mean, standard error) over the seeds of a measure of the students after training."""
    return seed_mean([seed[measure] for seed in study()["final"][method]])


def per_token(method, prefixes):
    """(mean, standard error) over the seeds of a token's KL, on "own" or "teacher" prefixes."""
    return seed_mean(study()["exposure"][method]["per_token"][prefixes])


def slope(student, estimator):
    """(slope, standard error) of log variance in log length, from four tokens to whole texts."""
    table = study()["frozen"][student]["growth"]
    four = table["lengths"].index(4)
    variance = table[estimator]["variance"]
    (first, first_error), (last, last_error) = variance[four], variance[-1]
    span = np.log(table["lengths"][-1] / 4)
    return np.log(last / first) / span, np.hypot(first_error / first, last_error / last) / span


# Words -----------------------------------------------------------------------------------


def plus_minus(pair):
    """A value with its standard error, such as "0.017 ± 0.060"; "–" for NaN.

    The error has two digits that count, within three decimals.
    """
    value, error = pair
    if not np.isfinite(value):
        return "–"
    if not (error and np.isfinite(error)):
        return plain(value)
    digits = max(0, min(3, 1 - int(np.floor(np.log10(error)))))
    return f"{plain(value, digits)} ± {plain(error, digits)}"


def in_words(text):
    """A text of the record without its code names."""
    for name in sorted(PLAIN_WORDS, key=len, reverse=True):
        text = text.replace(name, PLAIN_WORDS[name])
    return text


def verdict(claim):
    """A claim's verdict, with the parts that hold and those that do not where there are both."""
    held = [in_words(part) for part, holds in claim["parts"].items() if holds]
    missed = [in_words(part) for part, holds in claim["parts"].items() if holds is False]
    verdict = f"**{claim['verdict']}**"
    if held and missed:
        verdict += f". Holds: {'; '.join(held)}. Does not hold: {'; '.join(missed)}."
    return verdict


def figures_of(claim):
    """The numbers by which a claim was judged, each with its name."""
    named = claim["figure"]
    if any(name.endswith(", start") for name in named):  # of the two students held still
        for student, words in STUDENTS.items():
            named = {re.sub(f", {student}$", f", {words}", name): named[name] for name in named}
    return "; ".join(f"{in_words(name)}: {_number(value)}" for name, value in named.items())


def _number(value):
    if isinstance(value, list):
        return plus_minus([np.nan if part is None else part for part in value])
    return "–" if value is None else figures(value)


# Drawings --------------------------------------------------------------------------------

GROWTH = {  # estimator: label, colour, dashes
    "gkd": ("GKD", "reverse_kl", "-"),
    "pg_0": ("γ 0", "policy_gradient", (0, (1, 1.5))),
    "pg_0.9": ("γ .9", "policy_gradient", (0, (5, 3))),
    "pg_1": ("γ 1", "policy_gradient", "-"),
    "exact_costs": ("exact", "muted", "-"),
}


def growth(style):
    """The variance of one text's gradient against the length at which texts are cut."""
    import matplotlib.pyplot as plt

    drawn, panels = plt.subplots(1, 2, figsize=(5, 3.6), sharey=True)
    for axes, (student, title) in zip(panels, STUDENTS.items()):
        table, ends = study()["frozen"][student]["growth"], {}
        lengths, (one, _) = np.array(table["lengths"]), table["gkd"]["variance"][0]
        for estimator, (label, role, dashes) in GROWTH.items():
            values = np.array(table[estimator]["variance"])[:, 0] / one
            axes.plot(lengths, values, color=style[role], linestyle=dashes, linewidth=1.8)
            ends[label] = values[-1], style[role]
        axes.set_title(title, color=style["ink"])
        axes.set(xlabel="tokens", xscale="log", xlim=(1, lengths[-1] * 2.6))
        axes.set_xticks(lengths[::2], [str(length) for length in lengths[::2]])
        powers_of_ten(axes, 0, 5)
        axes.set_ylim(0.6, 1e6)
        label_ends(axes, lengths[-1], ends, 0.35)
    panels[0].set(ylabel="variance ÷ GKD's after one token")
    return drawn


def exposed(style):
    """The KL of a token by position, on the student's prefixes and on the teacher's."""
    import matplotlib.pyplot as plt

    drawn, panels = plt.subplots(1, 2, figsize=(5, 3.6), sharey=True)
    titles = {"seqkd": "SeqKD, the teacher's texts", "gkd": "GKD, its own texts"}
    for axes, (method, title) in zip(panels, titles.items()):
        found = study()["exposure"][method]
        for prefixes, role, dashes, label in (
            ("own", "student", "-", "own prefixes"),
            ("teacher", "teacher", (0, (4, 2)), "teacher's prefixes"),
        ):
            kl = np.array(found[prefixes], dtype=float)
            kl[np.array(found["positions"][prefixes]) < 30] = np.nan  # few texts are so long
            options = {"color": style[role], "linestyle": dashes, "linewidth": 1.6}
            axes.plot(np.arange(1, len(kl) + 1), kl, label=label, **options)
        axes.set_title(title, color=style["ink"])
        axes.set(xlabel="position")
    panels[0].set(ylabel="KL of the token, nats")
    drawn.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return drawn
