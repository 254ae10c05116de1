"""The claims on gradients, looked at where a student is held still."""

from opd_toy.lm.study.clearly import ERRORS, above, clearly_above, greater, mean
from opd_toy.lm.study.record import GAMMAS
from opd_toy.lm.study.rules import rule

PRECISE = 0.1  # the standard error of a cosine that says something


def _at(student):
    return "at the start" if student == "start" else f"after {student}"


def _each(record, estimator, column):
    """{student: (value, standard error)}."""
    return {student: record.gradient(student, estimator, column) for student in record.students}


@rule(
    id="pg-zero-gamma-is-gkd",
    claim="In expectation the policy gradient at γ = 0 is on-policy GKD's gradient.",
    criterion="At each frozen student the cosine of the two expected gradients, PG's tokens "
    "drawn 32 times at each prefix, is within two standard errors of 1; with a standard error "
    "above 0.1 that says nothing.",
)
def same_expectation(record):
    cosine = _each(record, "pg_0_redrawn", "cosine_with_gkd")
    once = _each(record, "pg_0", "cosine_with_gkd")
    parts = {}
    for student, (value, error) in cosine.items():
        agrees = abs(value - 1) <= ERRORS * error
        parts[_at(student)] = None if agrees and error > PRECISE else agrees
    figure = {f"cosine, {student}": pair for student, pair in cosine.items()}
    figure |= {f"tokens drawn once, {student}": pair for student, pair in once.items()}
    return parts, figure


@rule(
    id="pg-variance",
    claim="The policy gradient is noisier than GKD's, which at fixed prefixes has no noise at all.",
    criterion="At each frozen student the variance of one text's gradient at γ = 0 is clearly "
    "above GKD's; the spread when the tokens are drawn again at fixed prefixes is 0 for GKD and "
    "clearly above 0 for the policy gradient.",
)
def noisier(record):
    ratio = _each(record, "pg_0", "ratio_to_gkd")
    noise = {name: _each(record, name, "token_noise") for name in ("gkd", "pg_0")}
    parts = {
        _at(student): above(*ratio[student], 1)
        and noise["gkd"][student][0] == 0
        and above(*noise["pg_0"][student], 0)
        for student in record.students
    }
    figure = {f"ratio, {student}": pair for student, pair in ratio.items()}
    for student in record.students:
        for name in noise:
            figure[f"token noise of {name}, {student}"] = noise[name][student]
    return parts, figure


@rule(
    id="bias-variance",
    claim="The variance rises with γ.",
    criterion="At each frozen student the variance of one text's gradient is clearly larger at "
    "each of γ = .5, .9, 1 than at the γ before it, on the same texts.",
)
def variance_rises(record):
    parts = {
        _at(student): all(
            above(*record.log_ratio(student, (larger, smaller)), 0)
            for smaller, larger in zip(GAMMAS, GAMMAS[1:])
        )
        for student in record.students
    }
    figure = {
        f"{name}, {student}": record.gradient(student, name, "variance")
        for student in record.students
        for name in GAMMAS
    }
    return parts, figure


@rule(
    id="bias-falls-with-gamma",
    claim="The bias for the sequence KL is smaller at γ = .9 than at γ = 0.",
    criterion="At each frozen student the squared distance of the expected gradient from the "
    "sequence KL's is clearly smaller at γ = .9 than at γ = 0, on the same texts, both with exact "
    "costs, which have the means of the sampled ones; where two standard errors exceed what "
    "there is to lose, that cannot be told.",
)
def bias_falls(record):
    gammas = {"gkd": "0", "centred_0.5": ".5", "centred_0.9": ".9"}
    parts, figure = {}, {}
    for student in record.students:
        for name, gamma in gammas.items():
            what = f"squared distance over squared length, γ = {gamma}, {student}"
            figure[what] = record.gradient(student, name, "bias")
    for student, (value, error) in _each(record, "centred_0.9", "bias_to_gkd").items():
        to_lose = record.gradient(student, "gkd", "bias")[0]
        parts[_at(student)] = None if ERRORS * error > to_lose else above(-value, error, 0)
        figure[f"change from γ = 0 to .9, {student}"] = value, error
    return parts, figure


@rule(
    id="variance-exponents",
    claim="With the length the variance grows faster at γ = 1 than at γ = 0.",
    criterion="At each frozen student the slope of log variance against log length, from texts "
    "cut after four tokens to whole ones, is clearly larger at γ = 1 than at γ = 0, on the same "
    "texts.",
)
def grows_faster(record):
    lead = {student: record.exponent_lead(student, ("pg_1", "pg_0")) for student in record.students}
    figure = {
        f"slope of γ = 1 above that of γ = 0, {student}": pair for student, pair in lead.items()
    }
    for student in record.students:
        for name in ("gkd", *GAMMAS):
            figure[f"slope of {name}, {student}"] = record.exponent(student, name)
    return {_at(student): above(*pair, 0) for student, pair in lead.items()}, figure


@rule(
    id="baseline-does-not-always-help",
    claim="The exact KL of the position, taken as a baseline, does not always lower the variance.",
    criterion="At one of the frozen students, at least, the variance with the baseline, over "
    "that without on the same texts, is clearly above 1.",
)
def baseline(record):
    ratio = _each(record, "pg_baseline", "ratio_to_pg_0")
    figure = {f"ratio, {student}": pair for student, pair in ratio.items()}
    return {"at one of them": any(above(*pair, 1) for pair in ratio.values())}, figure


@rule(
    id="token-level-bias",
    claim="What γ = 0 and GKD descend is not the sequence KL: the future is missing.",
    criterion="At each frozen student the cosine of GKD's expected gradient with that of the "
    "sequence KL is clearly below 1.",
)
def token_level_bias(record):
    cosine = _each(record, "gkd", "cosine_with_sequence_kl")
    figure = {f"cosine, {student}": pair for student, pair in cosine.items()}
    return {_at(student): greater((1.0, 0.0), pair) for student, pair in cosine.items()}, figure


@rule(
    id="rao-blackwell-return",
    claim="Exact KLs in the place of sampled costs lower the variance of γ = 1.",
    criterion="At each frozen student the variance with exact costs is clearly below that of "
    "γ = 1, on the same texts.",
)
def exact_costs(record):
    parts, figure = {}, {}
    for student in record.students:
        figure[f"pg_1, {student}"] = record.gradient(student, "pg_1", "variance")
        figure[f"exact costs, {student}"] = record.gradient(student, "exact_costs", "variance")
        value, error = record.log_ratio(student, ("exact_costs", "pg_1"))
        parts[_at(student)] = above(-value, error, 0)
    return parts, figure


@rule(
    id="top-k",
    claim="The reverse KL over the teacher's likeliest tokens has no token noise but is another "
    "objective; it costs little in the end.",
    criterion="At each frozen student the cosine of its expected gradient with GKD's is clearly "
    "below 1 and its token noise is 0; at the end its accuracy is not clearly below GKD's.",
)
def top_k(record):
    cosine = _each(record, "top_k", "cosine_with_gkd")
    noise = _each(record, "top_k", "token_noise")
    lead = record.end("top_k", "accuracy") - record.end("gkd", "accuracy")
    parts = {
        f"{_at(student)} its direction is another": greater((1.0, 0.0), cosine[student])
        and noise[student][0] == 0
        for student in record.students
    }
    behind = clearly_above(-lead)
    parts["costs no accuracy to be told"] = None if behind is None else not behind
    figure = {f"cosine, {student}": pair for student, pair in cosine.items()}
    return parts, figure | {"accuracy less GKD's": mean(lead)}


RULES = (
    same_expectation,
    noisier,
    variance_rises,
    bias_falls,
    grows_faster,
    baseline,
    token_level_bias,
    exact_costs,
    top_k,
)
