"""What of the book's claims a study of the lab shows: rules over the numbers of its record.

A claim has parts, each a statement that is true or not of the record, or, where the errors
are too large to tell (None), neither.  All that can be told are true: "seen"; some: "seen
under conditions", those that are; none: "not seen"; and where nothing can be told:
"undecided".

The thresholds were written before the numbers were seen.  After a first record a reviewer
had variances on the same texts compared as pairs, which they had not been, growth taken
from texts of four tokens on, where it had been from one, and the two divergences kept apart
in exposure; these rules are the stricter for it, but for the pairs, which tell more.  After
a second, agreement and bias are measured on estimators with less noise and the same means,
and whether the reward passes the teacher is asked where it can be answered, too: of a
student that starts as the teacher itself.

"Clearly" always means: by more than two standard errors.  Those of trained students are
over the seeds, of differences seed by seed, which must all have one sign; with one seed
nothing is clear.  Of three seeds without any difference 9 in 100 would pass, not 2, so that
among thirty parts two or three may; and all share one teacher and one start.  Errors of
gradients are the jackknife's over blocks of texts.
"""

import math

import numpy as np

ERRORS = 2.0
PRECISE = 0.1  # the standard error of a cosine that says something
GROWN_FROM = 4  # tokens: the first two of a response follow few prefixes, and there all gammas are nearly one
GAMMAS = ("pg_0", "pg_0.5", "pg_0.9", "pg_1")
PAIRS = (
    *zip(GAMMAS[1:], GAMMAS),
    ("pg_1", "pg_0"),
    ("exact_costs", "pg_1"),
)  # whose variances the record compares on the same texts


def judge(results):
    """The claims that the methods of these results bear on: [{"id", "claim", "criterion", "verdict", "parts", "figure"}].

    parts: {what was asked: bool or None}; figure: {name: number or [number, standard error]}.
    """
    return [row for rule in RULES if (row := rule(Record(results)))]


class Record:
    """The numbers of a study as rules ask for them; KeyError where a method was left out."""

    def __init__(self, results):
        self.results = results
        self.students = list(results["frozen"])

    def end(self, method, measure):
        """Of each seed at the end (S,); NaN where the run broke down."""
        return _array([seed and seed[measure] for seed in self.results["final"][method]])

    def during(self, method, measure):
        """Mean over the measurements of each run after the start (S,): low, or high, if it learned early; NaN where it broke down."""
        return np.array(
            [
                math.nan if "not_finite" in run else _array(run[measure][1:]).mean()
                for run in self.results["curves"][method]
            ]
        )

    def gained(self, method):
        """How much more probable a right working is than with the teacher, from which the run starts: of each seed (S,), and the error by the choice of prompts."""
        gains = [
            seed["gain"] if seed else (None, None)
            for seed in self.results["from_teacher"]["methods"][method]["final"]
        ]
        return _array([value for value, _ in gains]), _array([error for _, error in gains]).mean()

    def teacher(self, measure):
        return self.results["final"]["teacher"][measure]

    def at_start(self, measure):
        return self.results["final"]["start"][measure]

    def gradient(self, student, estimator, column):
        """(value, standard error) at a frozen student."""
        value, error = self.results["frozen"][student]["estimators"][estimator][column]
        return _float(value), _float(error)

    def log_ratio(self, student, pair, length=None):
        """Log of the variance of one estimator over another's at texts of ``length`` tokens (None: whole), (value, standard error)."""
        frozen = self.results["frozen"][student]
        place = -1 if length is None else frozen["growth"]["lengths"].index(length)
        return tuple(map(_float, frozen["log_ratios"]["/".join(pair)][place]))

    def exponent_lead(self, student, pair):
        """How much faster the first variance of a pair grows with the length, a difference of exponents, (value, standard error)."""
        lengths = self.results["frozen"][student]["growth"]["lengths"]
        start = max(length for length in lengths[:-1] if length <= GROWN_FROM)
        (first, a), (last, b), span = (
            self.log_ratio(student, pair, start),
            self.log_ratio(student, pair),
            math.log(lengths[-1] / start),
        )
        return (last - first) / span, math.hypot(a, b) / span

    def exponent(self, student, estimator):
        """Slope of log variance in log length from GROWN_FROM tokens to whole texts, (value, standard error)."""
        growth = self.results["frozen"][student]["growth"]
        place = max(i for i, length in enumerate(growth["lengths"][:-1]) if length <= GROWN_FROM)
        (first, a), (last, b), span = (
            growth[estimator]["variance"][place],
            growth[estimator]["variance"][-1],
            math.log(growth["lengths"][-1] / growth["lengths"][place]),
        )
        return (
            (math.log(last / first) / span, math.hypot(a / first, b / last) / span)
            if first and last and first > 0 and last > 0
            else (math.nan, math.nan)
        )


def rule(function):
    """The claim of a function that returns (id, claim, criterion, parts, figure), or None where a method it needs was left out."""

    def judged(record):
        try:
            name, claim, criterion, parts, figure = function(record)
        except KeyError:
            return None
        parts = {what: true if true is None else bool(true) for what, true in parts.items()}
        told = [true for true in parts.values() if true is not None]
        verdict = (
            "undecided"
            if not told
            else "seen"
            if all(told) and len(told) == len(parts)
            else "seen under conditions"
            if any(told)
            else "not seen"
        )
        return {
            "id": name,
            "claim": claim,
            "criterion": criterion,
            "verdict": verdict,
            "parts": parts,
            "figure": {key: _number(value) for key, value in figure.items()},
        }

    RULES.append(judged)
    return judged


RULES = []


# --- at a frozen student -----------------------------------------------------------------


@rule
def same_expectation(r):
    cosine = {
        student: r.gradient(student, "pg_0_redrawn", "cosine_with_gkd") for student in r.students
    }
    once = {
        f"tokens drawn once, {student}": r.gradient(student, "pg_0", "cosine_with_gkd")
        for student in r.students
    }
    return (
        "pg-zero-gamma-is-gkd", "In expectation the policy gradient at γ = 0 is on-policy GKD's gradient.",
        "At each frozen student the cosine of the two expected gradients, PG's tokens drawn 32 times at each prefix, is within two standard errors of 1; with a standard error above 0.1 that says nothing.",
        {_at(student): (None if error > PRECISE else True) if abs(value - 1) <= ERRORS * error else False for student, (value, error) in cosine.items()},
        {f"cosine, {student}": pair for student, pair in cosine.items()} | once,
    )  # fmt: skip


@rule
def noisier(r):
    ratio = {student: r.gradient(student, "pg_0", "ratio_to_gkd") for student in r.students}
    tokens = {
        (student, name): r.gradient(student, name, "token_noise")
        for student in r.students
        for name in ("gkd", "pg_0")
    }
    return (
        "pg-variance", "The policy gradient is noisier than GKD's, which at fixed prefixes has no noise at all.",
        "At each frozen student the variance of one text's gradient at γ = 0 is clearly above GKD's; the spread when the tokens are drawn again at fixed prefixes is 0 for GKD and clearly above 0 for the policy gradient.",
        {_at(student): above(*ratio[student], 1) and tokens[student, "gkd"][0] == 0 and above(*tokens[student, "pg_0"], 0) for student in r.students},
        {f"ratio, {student}": pair for student, pair in ratio.items()} | {f"token noise of {name}, {student}": pair for (student, name), pair in tokens.items()},
    )  # fmt: skip


@rule
def variance_rises(r):
    variance = {
        (student, name): r.gradient(student, name, "variance")
        for student in r.students
        for name in GAMMAS
    }
    return (
        "bias-variance", "The variance rises with γ.",
        "At each frozen student the variance of one text's gradient is clearly larger at each of γ = .5, .9, 1 than at the γ before it, on the same texts.",
        {_at(student): all(above(*r.log_ratio(student, (b, a)), 0) for a, b in zip(GAMMAS, GAMMAS[1:])) for student in r.students},
        {f"{name}, {student}": pair for (student, name), pair in variance.items()},
    )  # fmt: skip


@rule
def bias_falls(r):
    names = {"gkd": "0", "centred_0.5": ".5", "centred_0.9": ".9"}
    bias = {
        (student, name): r.gradient(student, name, "bias")
        for student in r.students
        for name in names
    }
    change = {student: r.gradient(student, "centred_0.9", "bias_to_gkd") for student in r.students}
    return (
        "bias-falls-with-gamma", "The bias for the sequence KL is smaller at γ = .9 than at γ = 0.",
        "At each frozen student the squared distance of the expected gradient from the sequence KL's is clearly smaller at γ = .9 than at γ = 0, on the same texts, both with exact costs, which have the means of the sampled ones; where two standard errors exceed what there is to lose, that cannot be told.",
        {_at(student): None if ERRORS * error > bias[student, "gkd"][0] else above(-value, error, 0) for student, (value, error) in change.items()},
        {f"squared distance over squared length, γ = {names[name]}, {student}": pair for (student, name), pair in bias.items()} | {f"change from γ = 0 to .9, {student}": pair for student, pair in change.items()},
    )  # fmt: skip


@rule
def grows_faster(r):
    exponent = {
        (student, name): r.exponent(student, name)
        for student in r.students
        for name in ("gkd", *GAMMAS)
    }
    lead = {student: r.exponent_lead(student, ("pg_1", "pg_0")) for student in r.students}
    return (
        "variance-exponents", "With the length the variance grows faster at γ = 1 than at γ = 0.",
        "At each frozen student the slope of log variance against log length, from texts cut after four tokens to whole ones, is clearly larger at γ = 1 than at γ = 0, on the same texts.",
        {_at(student): above(*pair, 0) for student, pair in lead.items()},
        {f"slope of γ = 1 above that of γ = 0, {student}": pair for student, pair in lead.items()} | {f"slope of {name}, {student}": pair for (student, name), pair in exponent.items()},
    )  # fmt: skip


@rule
def baseline(r):
    ratio = {student: r.gradient(student, "pg_baseline", "ratio_to_pg_0") for student in r.students}
    return (
        "baseline-does-not-always-help", "The exact KL of the position, taken as a baseline, does not always lower the variance.",
        "At one of the frozen students, at least, the variance with the baseline, over that without on the same texts, is clearly above 1.",
        {"at one of them": any(above(*pair, 1) for pair in ratio.values())}, {f"ratio, {student}": pair for student, pair in ratio.items()},
    )  # fmt: skip


@rule
def token_level_bias(r):
    cosine = {
        student: r.gradient(student, "gkd", "cosine_with_sequence_kl") for student in r.students
    }
    return (
        "token-level-bias", "What γ = 0 and GKD descend is not the sequence KL: the future is missing.",
        "At each frozen student the cosine of GKD's expected gradient with that of the sequence KL is clearly below 1.",
        {_at(student): greater((1.0, 0.0), pair) for student, pair in cosine.items()}, {f"cosine, {student}": pair for student, pair in cosine.items()},
    )  # fmt: skip


@rule
def exact_costs(r):
    pairs = {
        student: (
            r.gradient(student, "pg_1", "variance"),
            r.gradient(student, "exact_costs", "variance"),
        )
        for student in r.students
    }
    return (
        "rao-blackwell-return", "Exact KLs in the place of sampled costs lower the variance of γ = 1.",
        "At each frozen student the variance with exact costs is clearly below that of γ = 1, on the same texts.",
        {_at(student): r.log_ratio(student, ("exact_costs", "pg_1"))[0] < -ERRORS * r.log_ratio(student, ("exact_costs", "pg_1"))[1] for student in pairs},
        {f"{name}, {student}": value for student, pair in pairs.items() for name, value in zip(("pg_1", "exact costs"), pair)},
    )  # fmt: skip


@rule
def top_k(r):
    cosine = {student: r.gradient(student, "top_k", "cosine_with_gkd") for student in r.students}
    noise = {student: r.gradient(student, "top_k", "token_noise") for student in r.students}
    lead = r.end("top_k", "accuracy") - r.end("gkd", "accuracy")
    parts = {
        f"{_at(student)} its direction is another": greater((1.0, 0.0), cosine[student])
        and noise[student][0] == 0
        for student in r.students
    }
    behind = clearly_above(-lead)
    return (
        "top-k", "The reverse KL over the teacher's likeliest tokens has no token noise but is another objective; it costs little in the end.",
        "At each frozen student the cosine of its expected gradient with GKD's is clearly below 1 and its token noise is 0; at the end its accuracy is not clearly below GKD's.",
        parts | {"costs no accuracy to be told": None if behind is None else not behind}, {f"cosine, {student}": pair for student, pair in cosine.items()} | {"accuracy less GKD's": mean(lead)},
    )  # fmt: skip


# --- along training ----------------------------------------------------------------------


@rule
def slower(r):
    lead = {
        "averaged over training": r.during("pg_0", "sequence_kl") - r.during("gkd", "sequence_kl"),
        "at the end": r.end("pg_0", "sequence_kl") - r.end("gkd", "sequence_kl"),
    }
    return (
        "gkd-pg-summary", "The policy gradient converges more slowly than GKD.",
        "At equal numbers of texts the sequence KL of γ = 0 is clearly above GKD's, on average over training and at the end.",
        {what: clearly_above(values) for what, values in lead.items()}, {f"sequence KL above GKD's, {what}": mean(values) for what, values in lead.items()},
    )  # fmt: skip


@rule
def slower_at_every_rate(r):
    rates = {
        name: [_float(row["sequence_kl"]) for row in r.results["sweep"][name]]
        for name in ("gkd", "pg_0", "pg_1")
    }
    behind = {"γ = 0 behind GKD": ("pg_0", "gkd"), "γ = 1 behind γ = 0": ("pg_1", "pg_0")}
    return (
        "rates", "Not the choice of the rate makes the policy gradient slower.",
        "At each of three rates (a third of the common one, it, three times it; one seed, so no error is known) the sequence KL at the end is higher at γ = 0 than GKD's, and higher at γ = 1 than at γ = 0.",
        {what: higher(rates[slower], rates[faster]) for what, (slower, faster) in behind.items()},
        {f"sequence KL, {name}, rate {row['rate']:g}": value for name, values in rates.items() for row, value in zip(r.results["sweep"][name], values)},
    )  # fmt: skip


@rule
def return_is_slower(r):
    lead = {
        name: r.during(name, "sequence_kl") - r.during("pg_0", "sequence_kl")
        for name in ("pg_0.9", "pg_1")
    }
    return (
        "gamma-variance-experiment", "In training large γ is slower than γ = 0.",
        "At equal numbers of texts the sequence KL, averaged over training, is clearly higher at γ = .9 and at γ = 1 than at γ = 0.",
        {name: clearly_above(values) for name, values in lead.items()}, {f"sequence KL above that of γ = 0, {name}": mean(values) for name, values in lead.items()},
    )  # fmt: skip


@rule
def soft_labels(r):
    lead = {
        measure: sign * (r.during("seqkd", measure) - r.during("sft", measure))
        for measure, sign in (("forward_sequence_kl", -1), ("accuracy", 1))
    }
    return (
        "seqkd-is-forward-kl", "On the teacher's texts soft labels learn faster than the drawn tokens alone.",
        "At equal numbers of texts SeqKD's forward sequence KL is clearly below SFT's, averaged over training, and its accuracy clearly above.",
        {measure: clearly_above(values) for measure, values in lead.items()}, {f"lead in {measure}": mean(values) for measure, values in lead.items()},
    )  # fmt: skip


@rule
def modes(r):
    pairs = {
        "on own texts": ("on_policy_forward_kl", "gkd"),
        "on the teacher's texts": ("seqkd", "off_policy_reverse_kl"),
    }
    lead = {
        (where, measure): r.end(forward, measure) - r.end(reverse, measure)
        for where, (forward, reverse) in pairs.items()
        for measure in ("order_entropy", "distinct")
    }
    figure = {
        f"forward less reverse, {measure}, {where}": mean(values)
        for (where, measure), values in lead.items()
    } | {
        "order_entropy of the teacher": r.teacher("order_entropy"),
        "order_entropy of the start": r.at_start("order_entropy"),
    }
    return (
        "mode-seeking-covering", "Forward KL leaves more of the right orders in use than reverse KL.",
        "At the end the entropy of the order among right workings, and the number of different ones among 16 draws, are clearly larger after forward than after reverse KL, on the student's texts and on the teacher's.",
        {f"{measure} {where}": clearly_above(values) for (where, measure), values in lead.items()}, figure,
    )  # fmt: skip


@rule
def exposure_bias(r):
    names = ("seqkd", "on_policy_forward_kl", "off_policy_reverse_kl", "gkd")
    rows = {
        name: {
            where: _array(r.results["exposure"][name]["per_token"][where])
            for where in ("own", "teacher")
        }
        for name in names
    }
    gap = {name: np.log(each["own"] / each["teacher"]) for name, each in rows.items()}
    figure = {
        f"KL a token, {name}, {where} prefixes": mean(values)
        for name, each in rows.items()
        for where, values in each.items()
    }
    return (
        "exposure-bias", "Who learns on the teacher's texts is further from the teacher on its own; learning on its own texts narrows the gap.",
        "After SeqKD the KL of a token is clearly larger on the student's prefixes than on the teacher's; the ratio of the two is clearly smaller after training on own texts with the same divergence, the forward KL and the reverse KL.",
        {
            "there is a gap after SeqKD": clearly_above(gap["seqkd"]), "smaller on own texts, forward KL": clearly_above(gap["seqkd"] - gap["on_policy_forward_kl"]),
            "smaller on own texts, reverse KL": clearly_above(gap["off_policy_reverse_kl"] - gap["gkd"]),
        },
        figure | {f"ratio, {name}": float(np.exp(values.mean())) for name, values in gap.items()},
    )  # fmt: skip


@rule
def who_samples(r):
    pairs = {
        "reverse KL": ("gkd", "off_policy_reverse_kl"),
        "forward KL": ("on_policy_forward_kl", "seqkd"),
    }
    lead = {
        (what, measure): sign * (r.end(own, measure) - r.end(others, measure))
        for what, (own, others) in pairs.items()
        for measure, sign in (("sequence_kl", -1), ("accuracy", 1))
    }
    return (
        "who-samples", "With the same divergence, learning on the student's own texts serves the student's own texts.",
        "At the end the sequence KL, on the student's texts, is clearly lower and the accuracy clearly higher after training on own texts than on the teacher's, for reverse and for forward KL.",
        {f"{measure}, {what}": clearly_above(values) for (what, measure), values in lead.items()}, {f"lead in {measure}, {what}": mean(values) for (what, measure), values in lead.items()},
    )  # fmt: skip


@rule
def between(r):
    parts, figure = {}, {}
    for measure in ("order_entropy", "forward_sequence_kl", "sequence_kl"):
        ends = [r.end(name, measure).mean() for name in ("gkd", "jsd", "on_policy_forward_kl")]
        parts[measure] = (
            min(ends[0], ends[2]) <= ends[1] <= max(ends[0], ends[2])
            if np.isfinite(ends).all()
            else None
        )
        figure |= {
            f"{measure}, {name}": mean(r.end(name, measure))
            for name in ("gkd", "jsd", "on_policy_forward_kl")
        }
    return (
        "jsd-endpoints", "The JSD of β = ½ ends between forward and reverse KL.",
        "At the end the mean over seeds of the order's entropy, of the forward and of the reverse sequence KL lies between those after reverse and after forward KL, all on own texts.", parts, figure,
    )  # fmt: skip


@rule
def reward_mixing(r):
    accuracy = r.teacher("accuracy")
    error = math.sqrt(
        accuracy * (1 - accuracy) / r.results["final"]["prompts"]
    )  # of its one draw a prompt, the same for all seeds
    mixed, plain = r.end("opd_reward", "accuracy"), r.end("pg_0", "accuracy")
    gains = {name: r.gained(name) for name in ("opd_reward", "gkd", "rlvr")}
    (gain, of_prompts), (control, _), _ = gains.values()
    passes = [clearly_above(gain, of_prompts), clearly_above(gain - control)]
    figure = {
        f"gain in right workings from the teacher, {name}": (
            mean(values)[0],
            math.hypot(mean(values)[1], each),
        )
        for name, (values, each) in gains.items()
    }
    figure |= {
        "accuracy of the teacher": (accuracy, error),
        "accuracy, opd_reward": mean(mixed),
        "accuracy, pg_0": mean(plain),
    }
    return (
        "reward-mixing", "Distillation with an outcome reward passes its teacher.",
        "Of a student that starts as the teacher itself, the probability of a right working ends clearly above the teacher's, the error by the choice of prompts counted, and above that after GKD, which has nothing to learn there. "
        "Of the common start, the accuracy ends clearly above the teacher's on the same prompts, whose own error counts, and clearly above that of the same loss without the reward.",
        {
            "starting as the teacher": None if None in passes else all(passes), "from the common start": clearly_above(mixed - accuracy, error),
            "from the common start it is above the same without the reward": clearly_above(mixed - plain),
        },
        figure | {"above the teacher": mean(mixed - accuracy), "above pg_0": mean(mixed - plain)},
    )  # fmt: skip


@rule
def dense(r):
    lead = r.during("pg_0", "accuracy") - r.during("rlvr", "accuracy")
    return (
        "dense-versus-broadcast", "The teacher's cost of every drawn token raises the accuracy sooner than one reward for the text.",
        "At equal numbers of texts the accuracy of γ = 0, averaged over training, is clearly above that of RLVR alone, at the common rate.",
        {"faster": clearly_above(lead)}, {"accuracy above RLVR's, average over training": mean(lead), "accuracy, pg_0": mean(r.end("pg_0", "accuracy")), "accuracy, rlvr": mean(r.end("rlvr", "accuracy"))},
    )  # fmt: skip


@rule
def reward_alone(r):
    gain = r.end("rlvr", "accuracy") - r.at_start("accuracy")
    return (
        "rlvr-alone", "The reward alone, without a teacher, raises the accuracy of this start.",
        "At the end the accuracy of RLVR is clearly above the start's.", {"it learns": clearly_above(gain)}, {"gain in accuracy": mean(gain), "accuracy of the start": r.at_start("accuracy")},
    )  # fmt: skip


# --- clearly -----------------------------------------------------------------------------


def mean(values):
    """(mean, standard error) over seeds; no error of one."""
    return values.mean(), values.std(ddof=1) / math.sqrt(len(values)) if len(
        values
    ) > 1 else math.nan


def clearly_above(values, more=0.0):
    """Whether the differences (S,) are all above 0 and their mean by more than two standard errors, that of the seeds with ``more`` of another kind; None where one is not known."""
    if not np.isfinite(values).all():
        return None
    value, error = mean(values)
    return bool((values > 0).all() and value > ERRORS * math.hypot(error, more))


def higher(values, others):
    """Whether each is above its other; None where one is not known."""
    return (
        all(a > b for a, b in zip(values, others))
        if np.isfinite([*values, *others]).all()
        else None
    )


def above(value, error, bound):
    return value - bound > ERRORS * error


def greater(a, b):
    """Whether a is clearly above b, both (value, standard error)."""
    return a[0] - b[0] > ERRORS * math.hypot(a[1], b[1])


def _array(values):
    return np.array([math.nan if value is None else value for value in values], dtype=np.float64)


def _float(value):
    return math.nan if value is None else value


def _number(value):
    if isinstance(value, tuple):
        return [_number(each) for each in value]
    return float(f"{value:.4g}") if value is not None and math.isfinite(value) else None


def _at(student):
    return "at the start" if student == "start" else f"after {student}"
