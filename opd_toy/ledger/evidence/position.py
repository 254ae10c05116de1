"""Figures of one position, from the engine: the notes' example p = (.2, .3, .5), q = (.7, .2, .1).

Each function returns the words and numbers of one row of the ledger.
"""

import numpy as np

from opd_toy import distributions, estimators, objectives, off_policy, sequences
from opd_toy.example import STUDENT, TEACHER, TOKENS
from opd_toy.pages.numbers import listed, plain, signed

ONE_HOT = np.eye(3)
REWARD, WEIGHT = ONE_HOT[1], 0.5  # the outcome reward of the rows on mixing: for t₂


def variance(table):
    return plain(estimators.total_variance(STUDENT, table), 4)


def mean(table):
    return signed(estimators.expectation(STUDENT, table))


def reverse_kl():
    return objectives.reverse_kl(STUDENT, TEACHER)


def policy_gradient(baseline=0.0):
    return estimators.policy_gradient(STUDENT, TEACHER, baseline)


def draw(token):
    """What drawing a token, counted from 0, does."""
    cost = estimators.k_estimator(STUDENT, TEACHER, "k1")[token]
    gradient = policy_gradient()[token]
    return f"{TOKENS[token]} drawn: C = {plain(cost)}, gradient {signed(gradient)}"


# ---- chapter 1 ----


def one_hot_gradient():
    gradient = objectives.forward_kl_logit_gradient(STUDENT, ONE_HOT[0])
    return f"t₁ recorded: gradient {signed(gradient)}"


def soft_label_loss():
    kl, entropy = objectives.forward_kl(STUDENT, TEACHER), distributions.entropy(TEACHER)
    parts = f"forward KL {plain(kl)} + teacher's entropy {plain(entropy)}"
    return f"loss {plain(kl + entropy)} = {parts}"


def sharpened():
    sft = objectives.forward_kl_logit_gradient(STUDENT, ONE_HOT[0])
    distances = []
    for power in (1, 2, 4, 8):
        teacher = TEACHER**power / (TEACHER**power).sum()
        gap = objectives.forward_kl_logit_gradient(STUDENT, teacher) - sft
        distances.append(np.abs(gap).max())
    shown = listed(distances, 4)
    return f"largest distance from SFT's gradient at q, q², q⁴, q⁸ (normalised): {shown}"


# ---- chapter 2 ----


def blocked():
    step = 1e-6
    above, below = (
        distributions.softmax(np.log(STUDENT) + sign * step * ONE_HOT[0]) for sign in (1, -1)
    )
    drawn = (above.argmax() - below.argmax()) / (2 * step)
    loss = objectives.reverse_kl(above, TEACHER) - objectives.reverse_kl(below, TEACHER)
    quotients = f"argmax {plain(drawn)}, loss {plain(loss / (2 * step))}"
    return f"difference quotient in logit 1: {quotients}"


def sampled_mean():
    return f"mean {mean(policy_gradient())}"


def standard_errors():
    sigma = estimators.total_variance(STUDENT, policy_gradient()) ** 0.5
    errors = f"{plain(sigma / 10, 3)} at N = 100, {plain(sigma / 100, 4)} at N = 10,000"
    return f"σ = {plain(sigma, 3)}; standard error {errors}"


def dense_or_broadcast():
    student, teacher = np.tile(STUDENT, (4, 1)), np.tile(TEACHER, (4, 1))
    chances, *weights = sequences.dense_and_broadcast(student, teacher)
    dense, broadcast = (
        plain(estimators.total_variance(chances, sequences.independent_table(student, one)))
        for one in weights
    )
    return f"variance over 4 positions: dense {dense}, broadcast {broadcast}"


# ---- chapter 3 ----


def jacobian():
    return f"at t₃: {signed(STUDENT[2] * (ONE_HOT[2] - STUDENT))}"


def reverse_gradient():
    return signed(objectives.reverse_kl_logit_gradient(STUDENT, TEACHER))


def forward_gradient():
    return signed(objectives.forward_kl_logit_gradient(STUDENT, TEACHER))


def both_gradients():
    return f"reverse {reverse_gradient()}, forward {forward_gradient()}"


def raised():
    ratios, kl = distributions.log_ratio(STUDENT, TEACHER), reverse_kl()
    tokens = ", ".join(TOKENS[token] for token in np.flatnonzero(ratios < kl))
    return f"r = {signed(ratios)}, KL = {plain(kl)}: descent raises {tokens}"


def raised_with_gradient():
    return f"{raised()}; gradient {reverse_gradient()}"


def bump(centre, width, tokens):
    """A bell over the tokens; centres and widths may be arrays (...,)."""
    centre, width = np.asarray(centre)[..., None], np.asarray(width)[..., None]
    return distributions.softmax(-((tokens - centre) ** 2) / (2 * width**2))


def two_modes():
    tokens = np.arange(1, 41)
    teacher = 0.6 * bump(12.5, 2, tokens) + 0.4 * bump(28.5, 2, tokens)
    grid = np.meshgrid(np.arange(5, 36.01, 0.1), np.arange(1, 15.01, 0.1), indexing="ij")
    students = bump(*grid, tokens)
    means = students @ tokens
    spreads = np.sqrt(students @ tokens**2 - means**2)

    def least(name, divergence):
        values = divergence(students, teacher)
        at = np.unravel_index(values.argmin(), values.shape)
        where = f"{plain(means[at], 1)} ± {plain(spreads[at], 1)}"
        return f"{name} is least, {plain(values[at], 3)}, at {where}"

    reverse = least("reverse KL", objectives.reverse_kl)
    forward = least("forward KL", objectives.forward_kl)
    setting = "a teacher with .6 around token 12.5 and .4 around 28.5 of 40, one bump as student"
    return f"{setting}: {reverse}; {forward}"


# ---- chapter 4 ----


def draws_and_mean():
    draws = signed(estimators.k_estimator(STUDENT, TEACHER, "k1"))
    return f"draws {draws}, mean {plain(reverse_kl())}"


def two_draws():
    return f"{draw(2)}; {draw(0)}"


def side_by_side():
    gkd = signed(estimators.gkd(STUDENT, TEACHER)[2])
    return f"t₃ drawn: GKD {gkd}, PG {signed(policy_gradient()[2])}"


def changing_sign():
    exact = objectives.reverse_kl_logit_gradient(STUDENT, TEACHER)[1]
    drawn = signed(policy_gradient()[:, 1])
    return f"gradient on t₂ by token drawn {drawn}; full vocabulary {plain(exact)}"


def blind():
    first, second, _ = policy_gradient()[2]
    pushes, chances = plain(first / second, 4), plain(STUDENT[0] / STUDENT[1], 4)
    return f"t₃ drawn: push on the logits of t₁ and t₂ in the ratio {pushes} = p₁/p₂ = {chances}"


def variances():
    gkd = variance(estimators.gkd(STUDENT, TEACHER))
    return f"PG {variance(policy_gradient())}, GKD {gkd}"


def mixed():
    table = estimators.mixed_policy_gradient(STUDENT, TEACHER, REWARD, WEIGHT)
    return f"reward on t₂, w = {WEIGHT}: mean gradient {mean(table)}"


# ---- chapter 5 and beyond the notes ----


def both_divergences():
    reverse, forward = reverse_kl(), objectives.forward_kl(STUDENT, TEACHER)
    return f"{plain(reverse, 4)} and {plain(forward, 4)}"


def null_advantage():
    table = estimators.full_vocabulary_advantage(STUDENT, TEACHER)
    return f"mean {mean(table)}, variance {variance(table)}"


def objective_gradients():
    pair = STUDENT, TEACHER
    gradients = {
        "JSD(.5)": objectives.generalized_jsd_logit_gradient(*pair, 0.5),
        "α = .5": objectives.alpha_divergence_logit_gradient(*pair, 0.5),
        "skewed forward (.1)": objectives.skewed_forward_kl_logit_gradient(*pair, 0.1),
        "skewed reverse (.1)": objectives.skewed_reverse_kl_logit_gradient(*pair, 0.1),
    }
    cells = "; ".join(f"{name} {signed(gradient)}" for name, gradient in gradients.items())
    return f"gradients: {cells}"


def estimator_changes():
    pair, uniform = (STUDENT, TEACHER), np.full(3, 1 / 3)
    exact = objectives.reverse_kl_logit_gradient(*pair)
    tables = {
        "sampled": policy_gradient(),
        "KL baseline": policy_gradient(reverse_kl()),
        "normalised": estimators.normalized_policy_gradient(*pair),
        "costs cut at 1": estimators.truncated_policy_gradient(*pair, 1.0),
        "top 2 exact": estimators.top_k_policy_gradient(*pair, 2),
        "full vocabulary": estimators.gkd(*pair),
    }
    weighted = off_policy.policy_gradient(*pair, uniform)

    def cell(name, chances, table):
        bias = np.linalg.norm(estimators.expectation(chances, table) - exact)
        return f"{name} {plain(bias)}, {plain(estimators.total_variance(chances, table), 4)}"

    cells = [cell(name, STUDENT, table) for name, table in tables.items()]
    cells.append(cell("uniform draws, weighted", uniform, weighted))
    return "length of the bias, and variance: " + "; ".join(cells)


def tilted():
    ends = listed(estimators.tilted_teacher(TEACHER, REWARD, WEIGHT), 3)
    return f"reward on t₂, w = {WEIGHT}: the student ends at ({ends})"


def with_kl_as_baseline():
    with_it = variance(policy_gradient(reverse_kl()))
    return f"variance {variance(policy_gradient())} without, {with_it} with KL as the baseline"


def baselines():
    best = estimators.optimal_baseline(STUDENT, TEACHER)
    places = {"none": 0.0, "KL": reverse_kl(), f"best, {plain(best, 4)}": best, "−1": -1.0}
    cells = (f"{name} {variance(policy_gradient(at))}" for name, at in places.items())
    return f"variance by baseline: {'; '.join(cells)}"


def means_by_kind(table):
    """Mean gradients of k1, k2 and k3, which ``table`` turns into gradient tables."""
    cells = (f"{kind} {mean(table(STUDENT, TEACHER, kind))}" for kind in ("k1", "k2", "k3"))
    return f"mean: {'; '.join(cells)}"


def k_as_loss():
    return means_by_kind(estimators.k_estimator_as_loss)


def k_as_reward():
    return means_by_kind(estimators.k_estimator_as_reward)


def jsd_ends():
    pair, near = (STUDENT, TEACHER), 1e-6
    first = plain(objectives.generalized_jsd(*pair, near) / near, 4)
    last = plain(objectives.generalized_jsd(*pair, 1 - near) / near, 4)
    forward, reverse = plain(objectives.forward_kl(*pair), 4), plain(reverse_kl(), 4)
    return (
        f"JSD/β at β = 10⁻⁶: {first}, forward KL {forward}; "
        f"JSD/(1 − β) at 1 − β = 10⁻⁶: {last}, reverse KL {reverse}"
    )


def top_two():
    renormalised, dropped = (
        signed(objectives.top_k_reverse_kl_logit_gradient(STUDENT, TEACHER, 2, outside), 3)
        for outside in ("renormalize", "drop")
    )
    return f"K = 2: renormalised {renormalised}; tail dropped {dropped}"


def schulman():
    rows = []
    for shift in (0.1, 1.0):
        table = estimators.schulman_table(shift)
        cells = (
            f"{kind} {listed((table[kind]['bias_over_kl'], table[kind]['sd_over_kl']), 4)}"
            for kind in ("k1", "k2", "k3")
        )
        rows.append(f"μ = {shift}: {'; '.join(cells)}")
    return f"bias and spread over KL. {'. '.join(rows)}"
