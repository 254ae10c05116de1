"""The claims of the book, each with what shows it; ``check`` fails when a showing is missing.

The page, the tests and the equation labels share one id a claim: ``rkl-logit-gradient``
is the derivation of that name, the test ``test_rkl_logit_gradient`` and the label
``eq-rkl-logit-gradient``.  Figures are computed here, on the notes' example
p = (.2, .3, .5), q = (.7, .2, .1) unless the statement says otherwise; those of chapter 6
on the tree of two tokens with which that chapter begins.
"""

import ast
import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from opd_toy import distributions, estimators, objectives, sequences
from opd_toy.records.provenance import recorded
from opd_toy.sequences import TokenTree

TOKENS = ("t₁", "t₂", "t₃")
P, Q = np.array([0.2, 0.3, 0.5]), np.array([0.7, 0.2, 0.1])
REWARD, WEIGHT = np.array([0.0, 1.0, 0.0]), 0.5  # the outcome reward of the mixing rows
STUDENT = TokenTree((np.log([P]), np.log([[0.6, 0.3, 0.1], [0.1, 0.3, 0.6], [0.2, 0.5, 0.3]])))
TEACHER = TokenTree((np.log([Q]), np.log([[0.5, 0.4, 0.1], [0.8, 0.1, 0.1], [0.3, 0.3, 0.4]])))
ENDS_WELL = (STUDENT.tokens()[:, -1] == 0).astype(
    float
)  # the verifier's reward: the sequence ends in t₁
LENGTHS = (4, 8, 16, 32, 64)
KINDS = ("proof", "exact", "experiment", "text", "slider")
PACKAGE = Path(__file__).parents[1]


@dataclass(frozen=True)
class Claim:
    """One row: ``shown_by`` is a tuple of KINDS, ``page`` a file of the book without its suffix."""

    id: str
    chapter: str
    statement: str
    shown_by: tuple
    page: str
    evidence: Callable[[], str]

    @property
    def label(self):
        return f"eq-{self.id}" if "proof" in self.shown_by else f"claim-{self.id}"

    @property
    def test(self):
        return "test_" + self.id.replace("-", "_")


# --- figures, from the engine ------------------------------------------------------------


def plain(value, digits=2):
    """A number in the book's way: a true minus sign, and no minus before a rounded zero."""
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "−")


def signed(values, digits=2):
    """A row of numbers with their signs, such as "(−0.39, −0.08, +0.47)"."""
    texts = (plain(value, digits) for value in values)
    return (
        "("
        + ", ".join(
            text if text.startswith("−") or float(text) == 0 else f"+{text}" for text in texts
        )
        + ")"
    )


def steps(claim):
    """How many checked steps the proof of a claim has, and for what V."""
    from opd_toy.derivations import DERIVATIONS

    derivation = DERIVATIONS[claim]
    setting = derivation.setting.split(";")[0].replace("vocabulary size ", "")
    return f"{sum(len(part.steps) - 1 for part in derivation.chains)} checked steps, {setting}"


def variance(table):
    return plain(estimators.total_variance(P, table), 4)


def mean(table):
    return signed(estimators.expectation(P, table))


def _one_hot_gradient():
    return f"t₁ recorded: gradient {signed(objectives.forward_kl_logit_gradient(P, np.eye(3)[0]))}"


def _soft_label_loss():
    kl, entropy = objectives.forward_kl(P, Q), distributions.entropy(Q)
    return (
        f"loss {plain(kl + entropy)} = forward KL {plain(kl)} + teacher's entropy {plain(entropy)}"
    )


def _sharpened():
    distances = []
    for power in (1, 2, 4, 8):
        sharp = Q**power / (Q**power).sum()
        gap = objectives.forward_kl_logit_gradient(P, sharp) - objectives.forward_kl_logit_gradient(
            P, np.eye(3)[0]
        )
        distances.append(plain(np.abs(gap).max(), 4))
    return f"largest distance from SFT's gradient at q, q², q⁴, q⁸ (normalised): {', '.join(distances)}"


def _blocked():
    logits, step = np.log(P), 1e-6 * np.eye(3)[0]
    drawn = [distributions.softmax(logits + sign * step).argmax() for sign in (1, -1)]
    loss = [
        objectives.reverse_kl(distributions.softmax(logits + sign * step), Q) for sign in (1, -1)
    ]
    return f"difference quotient in logit 1: argmax {plain((drawn[0] - drawn[1]) / 2e-6)}, loss {plain((loss[0] - loss[1]) / 2e-6)}"


def _band():
    sigma = estimators.total_variance(P, estimators.policy_gradient(P, Q)) ** 0.5
    return f"σ = {plain(sigma, 3)}; standard error {plain(sigma / 10, 3)} at N = 100, {plain(sigma / 100, 4)} at N = 10 000"


def _dense():
    student, teacher = np.tile(P, (4, 1)), np.tile(Q, (4, 1))
    chances, dense, broadcast = estimators.dense_and_broadcast(student, teacher)
    spread = [
        plain(estimators.total_variance(chances, estimators.sequence_table(student, w)))
        for w in (dense, broadcast)
    ]
    return f"variance over 4 positions: dense {spread[0]}, broadcast {spread[1]}"


def _jacobian():
    return f"at t₃: {signed(P[2] * (np.eye(3)[2] - P))}"


def _two_gradients():
    return f"reverse {signed(objectives.reverse_kl_logit_gradient(P, Q))}, forward {signed(objectives.forward_kl_logit_gradient(P, Q))}"


def _below_mean():
    ratios, kl = distributions.log_ratio(P, Q), objectives.reverse_kl(P, Q)
    raised = [TOKENS[token] for token in np.flatnonzero(ratios < kl)]
    return f"r = {signed(ratios)}, KL = {plain(kl)}: descent raises {', '.join(raised)}"


def _three_token_reverse():
    return f"{_below_mean()}; gradient {signed(objectives.reverse_kl_logit_gradient(P, Q))}"


def _two_modes():
    tokens = np.arange(1, 41)
    centres, widths = np.meshgrid(np.arange(5, 36.01, 0.1), np.arange(1, 15.01, 0.1), indexing="ij")
    bumps = distributions.softmax(
        -((tokens - centres[..., None]) ** 2) / (2 * widths[..., None] ** 2)
    )
    means = bumps @ tokens
    spreads = np.sqrt(bumps @ tokens**2 - means**2)
    one, other = (
        distributions.softmax(-((tokens - centre) ** 2) / (2 * 2**2)) for centre in (12.5, 28.5)
    )
    teacher = 0.6 * one + 0.4 * other
    ends = []
    for name, divergence in (
        ("reverse KL", objectives.reverse_kl),
        ("forward KL", objectives.forward_kl),
    ):
        values = divergence(bumps, teacher)
        at = np.unravel_index(values.argmin(), values.shape)
        ends.append(
            f"{name} is least, {plain(values[at], 3)}, at {plain(means[at], 1)} ± {plain(spreads[at], 1)}"
        )
    return f"a teacher with .6 around token 12.5 and .4 around 28.5 of 40, one bump as student: {'; '.join(ends)}"


def _drawn(*tokens):
    table, costs = estimators.policy_gradient(P, Q), estimators.k_estimator(P, Q, "k1")
    return "; ".join(
        f"{TOKENS[t - 1]} drawn: C = {plain(costs[t - 1])}, gradient {signed(table[t - 1])}"
        for t in tokens
    )


def _side_by_side():
    return f"t₃ drawn: GKD {signed(estimators.gkd(P, Q)[2])}, PG {signed(estimators.policy_gradient(P, Q)[2])}"


def _flip():
    exact = objectives.reverse_kl_logit_gradient(P, Q)[1]
    return f"gradient on t₂ by token drawn {signed(estimators.policy_gradient(P, Q)[:, 1])}; full vocabulary {plain(exact)}"


def _blind():
    row = estimators.policy_gradient(P, Q)[2]
    return f"t₃ drawn: push on the logits of t₁ and t₂ in the ratio {plain(row[0] / row[1], 4)} = p₁/p₂ = {plain(P[0] / P[1], 4)}"


def _mixed():
    return f"reward on t₂, λ = {WEIGHT}: mean gradient {mean(estimators.mixed_policy_gradient(P, Q, REWARD, WEIGHT))}"


def _tilted():
    tilted = estimators.tilted_teacher(Q, REWARD, WEIGHT)
    return f"reward on t₂, λ = {WEIGHT}: the student ends at ({', '.join(plain(w, 3) for w in tilted)})"


def _objectives():
    middle = {
        "JSD(.5)": objectives.generalized_jsd_logit_gradient(P, Q, 0.5),
        "α = .5": objectives.alpha_divergence_logit_gradient(P, Q, 0.5),
        "skewed forward (.1)": objectives.skewed_forward_kl_logit_gradient(P, Q, 0.1),
        "skewed reverse (.1)": objectives.skewed_reverse_kl_logit_gradient(P, Q, 0.1),
    }
    return "gradients: " + "; ".join(
        f"{name} {signed(gradient)}" for name, gradient in middle.items()
    )


def _estimators():
    exact, uniform = objectives.reverse_kl_logit_gradient(P, Q), np.full(3, 1 / 3)
    tables = {
        "sampled": estimators.policy_gradient(P, Q),
        "KL baseline": estimators.policy_gradient(P, Q, objectives.reverse_kl(P, Q)),
        "normalised": estimators.normalized_policy_gradient(P, Q),
        "costs cut at 1": estimators.truncated_policy_gradient(P, Q, 1.0),
        "top 2 exact": estimators.top_k_policy_gradient(P, Q, 2),
        "full vocabulary": estimators.gkd(P, Q),
        "uniform draws, weighted": estimators.importance_weighted_policy_gradient(P, Q, uniform),
    }
    cells = []
    for name, table in tables.items():
        chances = uniform if "uniform" in name else P
        bias = np.linalg.norm(estimators.expectation(chances, table) - exact)
        cells.append(f"{name} {plain(bias)}, {plain(estimators.total_variance(chances, table), 4)}")
    return "length of the bias, and variance: " + "; ".join(cells)


def _advantage():
    table = estimators.full_vocabulary_advantage(P, Q)
    return f"mean {mean(table)}, variance {variance(table)}"


def _baselines():
    best = estimators.optimal_baseline(P, Q)
    at = {
        "none": 0.0,
        "KL": objectives.reverse_kl(P, Q),
        f"best, {plain(best, 4)}": best,
        "−1": -1.0,
    }
    return "variance by baseline: " + "; ".join(
        f"{name} {variance(estimators.policy_gradient(P, Q, b))}" for name, b in at.items()
    )


def _k_as(make):
    return "mean: " + "; ".join(f"{kind} {mean(make(P, Q, kind))}" for kind in ("k1", "k2", "k3"))


def _ends():
    values = [
        objectives.generalized_jsd(P, Q, 1e-6) / 1e-6,
        objectives.forward_kl(P, Q),
        objectives.generalized_jsd(P, Q, 1 - 1e-6) / 1e-6,
        objectives.reverse_kl(P, Q),
    ]
    first, forward, last, reverse = (plain(value, 4) for value in values)
    return f"JSD/β at β = 10⁻⁶: {first}, forward KL {forward}; JSD/(1 − β) at 1 − β = 10⁻⁶: {last}, reverse KL {reverse}"


def _top_two():
    shown = [
        signed(objectives.top_k_reverse_kl_logit_gradient(P, Q, 2, outside), 3)
        for outside in ("renormalize", "drop")
    ]
    return f"K = 2: renormalised {shown[0]}; tail dropped {shown[1]}"


def _schulman():
    rows = []
    for shift in (0.1, 1.0):
        table = estimators.schulman_table(shift)
        cells = (
            f"{kind} {plain(table[kind]['bias_over_kl'], 4)}, {plain(table[kind]['sd_over_kl'], 4)}"
            for kind in ("k1", "k2", "k3")
        )
        rows.append(f"μ = {shift}: " + "; ".join(cells))
    return "bias and spread over KL. " + ". ".join(rows)


# --- figures of chapter 8 -------------------------------------------------------------------


@functools.cache
def _study_of_the_lab():
    return recorded("lm-study-cpu", "study")


def _on_a_transformer(id):
    """What the lab's study says of a claim; nothing where no rule of it bears on the claim."""
    verdicts = {row["id"]: row["verdict"] for row in _study_of_the_lab()["claims"]}
    return f"; {{ref}}`on a transformer <sec-lab-claims>`: {verdicts[id]}" if id in verdicts else ""


def _exposure():
    cells = []
    for name, words in (
        ("seqkd", "SeqKD"),
        ("on_policy_forward_kl", "on-policy forward KL"),
        ("off_policy_reverse_kl", "off-policy reverse KL"),
        ("gkd", "GKD"),
    ):
        rows = _study_of_the_lab()["exposure"][name]["per_token"]
        ratio = np.exp(np.log(np.divide(rows["own"], rows["teacher"])).mean())
        cells.append(f"{words} {plain(ratio)}")
    return f"KL of a token on own prefixes, as a multiple of that on the teacher's, after: {', '.join(cells)}"


@functools.cache
def _audited():
    """Ids of the claims that the auditor derives again, read without importing it, for it needs torch."""
    lines = ast.parse(
        (PACKAGE / "audit" / "exhibits" / "notes_claims.py").read_text(encoding="utf-8")
    ).body
    (table,) = (
        line.value
        for line in lines
        if isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == "CLAIMS"
    )
    return {key.value for key in table.keys}


def _by_the_auditor(id):
    return "; {ref}`audited <sec-audit-claims>`" if id in _audited() else ""


# --- figures of chapter 6 -------------------------------------------------------------------


def scientific(value):
    """Such as "5.9 · 10³"."""
    digits, exponent = f"{value:.1e}".split("e")
    return (
        f"{digits} · 10{str(int(exponent)).translate(str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'))}"
    )


def length(vector):
    return plain(np.linalg.norm(vector))


def first_position(vector):
    """The three entries of a gradient that belong to the first token's logits."""
    return signed(vector[:3])


def _weighted(*weights):
    """The table whose row has these weights, one a position, on the scores."""
    columns = [np.broadcast_to(w, len(STUDENT.tokens())) for w in weights]
    return sequences.SequenceTable(STUDENT, np.stack(columns, axis=1))


def _to_go(gamma, signal="sampled", baseline=None):
    return sequences.reward_to_go(STUDENT, TEACHER, gamma, signal, baseline)


def _chain_rule():
    student, teacher = STUDENT.sequence_probabilities(), TEACHER.sequence_probabilities()
    costs = student @ sequences.token_costs(STUDENT, TEACHER)
    return f"nine sequences: KL {plain(distributions.kl(student, teacher), 4)}; mean costs {plain(costs[0], 4)} + {plain(costs[1], 4)}"


def _finite_scores():
    table = _weighted(1.0, 1.0)
    draws = np.random.default_rng(6)
    means = [draws.multinomial(n, table.probabilities) @ table.dense() / n for n in (100, 10_000)]
    return f"length of the mean score: exact {length(table.expectation())}; of 100 draws {plain(np.linalg.norm(means[0]), 3)}, of 10 000 {plain(np.linalg.norm(means[1]), 3)}"


def _past():
    costs = sequences.token_costs(STUDENT, TEACHER)
    past, own = _weighted(0.0, costs[:, 0]), _weighted(0.0, costs[:, 1])
    return f"second score times first cost: mean of length {length(past.expectation())}, variance {plain(past.total_variance())}; times its own cost: mean of length {length(own.expectation())}"


def _two_returns():
    gap = np.abs(_to_go(1.0).expectation() - sequences.sequence_kl_gradient(STUDENT, TEACHER)).max()
    variances = [
        sequences.full_return(STUDENT, TEACHER).total_variance(),
        _to_go(1.0).total_variance(),
    ]
    return f"mean at the first position {first_position(_to_go(1.0).expectation())}, off the exact gradient by {plain(gap)}; variance {plain(variances[1])}, full return {plain(variances[0])}"


def _token_level():
    exact = sequences.sequence_kl_gradient(STUDENT, TEACHER)
    table = _to_go(0.0)
    return f"first position: mean {first_position(table.expectation())}, sequence gradient {first_position(exact)}; length of the bias {length(table.bias(exact))}"


def _two_targets():
    table = _to_go(0.0)
    local, whole = (
        sequences.on_policy_gkd_gradient(STUDENT, TEACHER),
        sequences.sequence_kl_gradient(STUDENT, TEACHER),
    )
    return f"the same table: bias {length(table.bias(local))} against the local KLs' gradient, {length(table.bias(whole))} against the sequence's"


def _by_gamma():
    exact = sequences.sequence_kl_gradient(STUDENT, TEACHER)
    cells = [
        f"{length(_to_go(g).bias(exact))}, {plain(_to_go(g).total_variance())}"
        for g in (0.0, 0.5, 1.0)
    ]
    best = [plain(sequences.best_gamma(STUDENT, TEACHER, n)) for n in (1, 10, 100)]
    return f"length of the bias, and variance, at γ = 0, .5, 1: {'; '.join(cells)}; least squared error for 1, 10, 100 sequences at γ = {', '.join(best)}"


def _discounted():
    means = ", ".join(first_position(_to_go(g).expectation()) for g in (0.0, 0.5, 1.0))
    return f"mean at the first position for γ = 0, .5, 1: {means}"


def _with_baselines():
    tables = {
        "no baseline": _to_go(1.0),
        "exact value": _to_go(1.0, baseline="value"),
        "best": _to_go(1.0, baseline="optimal"),
        "GAE, λ = .5": sequences.generalized_advantage(STUDENT, TEACHER, 1.0, 0.5),
    }
    exact = sequences.sequence_kl_gradient(STUDENT, TEACHER)
    off = max(np.abs(table.bias(exact)).max() for table in tables.values())
    return (
        "variance: "
        + ", ".join(f"{name} {plain(table.total_variance())}" for name, table in tables.items())
        + f"; largest bias {plain(off)}"
    )


def _terminal():
    weights = {gamma: sequences.outcome(STUDENT, ENDS_WELL, gamma).weights for gamma in (1.0, 0.5)}
    spread = [plain(np.abs(w[:, 0] - w[:, 1]).max()) for w in weights.values()]
    return f"reward for ending in t₁: largest difference between the weights of two tokens {spread[0]} at γ = 1, {spread[1]} at γ = .5"


def _broadcast():
    once, again = (
        table.expectation()
        for table in (
            sequences.outcome(STUDENT, ENDS_WELL),
            sequences.broadcast_outcome(STUDENT, ENDS_WELL),
        )
    )
    ratios = [
        np.linalg.norm(again[part]) / np.linalg.norm(once[part])
        for part in (slice(3), slice(3, None))
    ]
    return f"reward for ending in t₁: against the reward given once, the mean is {plain(ratios[0])} times as long at the first position, {plain(ratios[1])} times at the second"


def _independent(p, q, n, **options):
    return sequences.independent_variance(np.tile(p, (n, 1)), np.tile(q, (n, 1)), **options)


def _grown(**options):
    """Slopes of log variance against log T, for T independent positions with the notes' p and q."""
    return sequences.growth_exponents(LENGTHS, [_independent(P, Q, n, **options) for n in LENGTHS])


def _exponents():
    cases = {
        "γ = 0": {"gamma": 0.0},
        "γ = .5": {"gamma": 0.5},
        "γ = .9": {"gamma": 0.9},
        "γ = 1": {"gamma": 1.0},
        "full return": {"gamma": 1.0, "causal": False},
    }
    slopes = {name: _grown(**options) for name, options in cases.items()}
    exact = "; ".join(
        f"{name} {plain(found[0])}, {plain(found[-1])}" for name, found in slopes.items()
    )
    fitted = {
        (row["estimator"], row["gamma"], row["parameters"]): row["exponent"]
        for row in recorded("control-frozen", "variance frozen")["growth"]["initial"]
    }
    token, full = fitted["sampled", 0, "output_layer"], fitted["full_return", 1, "output_layer"]
    return f"exponent from T = 4 to 8, and from 32 to 64: {exact}; fitted to the control study's untrained student: γ = 0 {plain(token)}, full return {plain(full)}"


def _against_bounds(p, q, n):
    """The full return's variance over B_r² B_s² of its own costs and scores."""
    cost = np.abs(distributions.log_ratio(p, q)).max()
    score = (1 - 2 * p + p @ p).max()
    return _independent(p, q, n, gamma=1.0, causal=False) / (cost**2 * score)


def _bounds():
    token, full = _grown(gamma=0.0)[-1], _grown(gamma=1.0, causal=False)[-1]
    return f"exponent from T = 32 to 64: token level {plain(token)} (bound 2), full return {plain(full)} (bound 4)"


def _sharper():
    lost = np.array(
        [0.475, 0.475, 0.05]
    )  # the teacher likes the two tokens that the student draws nineteen times in twenty e³ times less
    teacher = np.array([*lost[:2] * np.exp(-3), 1 - 0.95 * np.exp(-3)])
    shares = [plain(_against_bounds(lost, teacher, n) / n**3, 3) for n in (8, 64, 512)]
    return f"full return with nearly constant costs, p = (.475, .475, .05): share of the bound T³ reached at T = 8, 64, 512: {', '.join(shares)}"


FOUR_TOKENS = (
    TokenTree.random(4, 2, seed=0),
    TokenTree.random(4, 2, seed=50),
)  # room for a top 2 and a tail of two


@functools.cache
def top_k_descent(outside, steps=400, batch=32, rate=0.5, seed=6):
    """The student after sampled descent on the teacher's top 2; each step draws its sequences from the student of that step."""
    (student, teacher), draws = FOUR_TOKENS, np.random.default_rng(seed)
    for _ in range(steps):
        table = sequences.top_k(student, teacher, 2, outside)
        gradient = draws.multinomial(batch, table.probabilities) @ table.dense() / batch
        student = TokenTree(
            (
                student.logits[0] - rate * gradient[:4].reshape(1, 4),
                student.logits[1] - rate * gradient[4:].reshape(4, 4),
            )
        )
    return student


def _truncated():
    student, teacher = FOUR_TOKENS
    exact, cells = sequences.on_policy_gkd_gradient(student, teacher), []
    for name, outside in (
        ("renormalised", "renormalize"),
        ("tail dropped", "drop"),
        ("tail as one token", "tail"),
    ):
        bias = sequences.top_k(student, teacher, 2, outside).bias(exact)
        cells.append(
            f"{name} {length(bias)}, {plain(sequences.sequence_kl(top_k_descent(outside), teacher))}"
        )
    start = plain(sequences.sequence_kl(student, teacher))
    return f"two positions, four tokens, K = 2: length of the bias against GKD, and sequence KL, {start} before, after 400 sampled steps: {'; '.join(cells)}"


def _fipo():
    step = -0.5 * sequences.outcome(STUDENT, ENDS_WELL).expectation()
    moved = TokenTree(
        (STUDENT.logits[0] + step[:3].reshape(1, 3), STUDENT.logits[1] + step[3:].reshape(3, 3))
    )
    ranges = []
    for student in (STUDENT, moved):
        weights = sequences.fipo_weight(student, STUDENT, 2 ** (-1 / 32), 0.2, 0.2)
        ranges.append(f"{plain(weights.min(), 3)} to {plain(weights.max(), 3)}")
    return f"weights on the first mini-batch {ranges[0]}; after a step of size .5, {ranges[1]}"


def _coupling():
    local, future = (part[:3] for part in sequences.decomposition(STUDENT, TEACHER))
    return f"first position: GKD {signed(local)} + shift of prefixes {signed(future)} = {signed(local + future)}"


def _rao_blackwell():
    variances = [
        _to_go(1.0, signal).total_variance()
        for signal in ("sampled", "full_vocabulary_future", "full_vocabulary")
    ]
    exact = sequences.sequence_kl_gradient(STUDENT, TEACHER)
    off = np.abs(_to_go(1.0, "full_vocabulary").bias(exact)).max()
    return f"bias {plain(off)}; variance: sampled return {plain(variances[0])}, only the future exact {plain(variances[1])}, both exact {plain(variances[2])}"


def _study():
    study = recorded("control-study", "variance")
    left = np.array(study["window_geometric_mean"])[
        :, :, 0, -1
    ]  # [γ, seed]; a mean over seeds would mix runs that arrive with lost ones
    cells = (
        f"{scientific(min(values))} to {scientific(max(values))} at γ = {f'{gamma:g}'.lstrip('0') or '0'}"
        for gamma, values in zip(study["gammas"], left)
    )
    return f"gradient variance over the last 100 of {study['iterations'][-1]} iterations, left task, least to largest of {len(study['seeds'])} seeds: {', '.join(cells)}"


def _own_steps(claim):
    return lambda: steps(claim)


def _proved(claim, figure):
    return lambda: f"{steps(claim)}; {figure()}"


def _judgement():
    return "a judgement of the notes"


# --- the claims ----------------------------------------------------------------------------

ONE, TWO, THREE, FOUR, FIVE, SIX, NOISE, RELATIVES, STUDY, LAB = (
    "01-from-sft-to-opd",
    "02-policy-gradient",
    "03-logit-gradients",
    "04-policy-gradient-updates",
    "05-one-objective-two-estimators",
    "06-reward-to-go",
    "06-noise",
    "06-relatives",
    "06-control-study",
    "08-claim-by-claim",
)


def _claim(chapter, page, id, statement, shown_by, figure=None):
    """A row; a proof's figure is its number of steps, followed by ``figure`` where there is one."""
    kinds = tuple(shown_by.split())
    if "proof" in kinds:
        evidence = _proved(id, figure) if figure else _own_steps(id)
    else:
        evidence = figure or _judgement
    return Claim(
        id,
        chapter,
        statement,
        kinds,
        page,
        lambda: evidence() + _by_the_auditor(id) + _on_a_transformer(id),
    )


def _rows(chapter, page, *rows):
    return [_claim(chapter, page, *row) for row in rows]


CLAIMS = [
    *_rows(
        "1",
        ONE,
        (
            "sft-one-hot",
            "SFT's loss is the soft-label loss with a one-hot target.",
            "proof",
            _one_hot_gradient,
        ),
        (
            "seqkd-soft-label",
            "SeqKD's loss is the soft-label loss, −Σ q log p: the mean SFT loss over the teacher's tokens.",
            "proof",
        ),
        (
            "seqkd-is-forward-kl",
            "The soft-label loss and KL(q‖p) differ by the teacher's entropy, a constant, and have the same gradient.",
            "proof",
            _soft_label_loss,
        ),
        (
            "sft-limit",
            "As the teacher sharpens to one-hot, SeqKD's gradient becomes SFT's.",
            "proof slider",
            _sharpened,
        ),
        (
            "who-samples",
            "The direction of the KL and the source of the prefixes are two separate choices.",
            "text",
        ),
        (
            "black-box",
            "SFT needs only text, so it works on closed teachers; full-vocabulary losses need logits.",
            "text",
        ),
    ),
    *_rows(
        "2",
        TWO,
        (
            "sampling-blocks-gradient",
            "No derivative flows through argmax or a drawn token; the full-vocabulary loss is differentiable.",
            "exact",
            _blocked,
        ),
        (
            "log-derivative",
            "The gradient of a probability is the probability times the gradient of its logarithm.",
            "proof",
        ),
        (
            "policy-gradient",
            "The gradient of a mean reward is the mean of the reward times the score, for any reward that does not depend on the logits.",
            "proof",
        ),
        (
            "pg-opd-cost",
            "OPD's policy gradient puts the detached log-ratio in the reward's place; it is a cost, to be descended.",
            "proof",
            lambda: f"mean {mean(estimators.policy_gradient(P, Q))}",
        ),
        (
            "monte-carlo",
            "The mean of N samples approaches the exact gradient like 1/√N.",
            "experiment slider",
            _band,
        ),
        (
            "dense-versus-broadcast",
            "RLVR gives every token of a sequence the same weight; OPD gives each its own. The slider is in {ref}`chapter 6 <sec-discount>`.",
            "exact slider",
            _dense,
        ),
    ),
    *_rows(
        "3",
        THREE,
        (
            "softmax-jacobian",
            "The derivative of one probability by one logit: p_v (δ_vj − p_j).",
            "proof",
            _jacobian,
        ),
        (
            "log-softmax-jacobian",
            "The derivative of one log-probability by one logit: δ_vj − p_j.",
            "proof",
        ),
        (
            "rkl-parameter-gradient",
            "For any parameter, the +1 of the product rule adds nothing to the reverse-KL gradient.",
            "proof",
        ),
        (
            "rkl-logit-gradient",
            "Reverse KL's logit gradient: the probability times the log-ratio less KL.",
            "proof",
            lambda: signed(objectives.reverse_kl_logit_gradient(P, Q)),
        ),
        (
            "rkl-sign-rule",
            "Descent on reverse KL raises a logit exactly when its log-ratio lies below KL.",
            "proof",
            _below_mean,
        ),
        (
            "fkl-logit-gradient",
            "Forward KL's logit gradient is p − q, by two routes.",
            "proof",
            lambda: signed(objectives.forward_kl_logit_gradient(P, Q)),
        ),
        (
            "logit-gradients-sum-to-zero",
            "Both gradients, and every policy-gradient sample, sum to 0 over the tokens.",
            "proof",
        ),
        (
            "three-token-rkl",
            "On the notes' example reverse KL raises t₂ although the student already gives it more than the teacher.",
            "exact",
            _three_token_reverse,
        ),
        ("three-token-fkl", "On the same example forward KL lowers t₂.", "exact", _two_gradients),
        (
            "mode-seeking-covering",
            "For a student too small for a two-mode teacher, reverse KL is least on one mode and forward KL spread over both; a free softmax ends at the teacher under either.",
            "experiment slider",
            _two_modes,
        ),
    ),
    *_rows(
        "4",
        FOUR,
        (
            "k1-expectation",
            "The mean of the sampled log-ratio is KL(p‖q), though single draws have either sign.",
            "proof",
            lambda: (
                f"draws {signed(estimators.k_estimator(P, Q, 'k1'))}, mean {plain(objectives.reverse_kl(P, Q))}"
            ),
        ),
        ("pg-logit-gradient", "The sampled gradient is the cost times (δ_kj − p_j).", "proof"),
        (
            "pg-opposite-signs",
            "The drawn token and all others are pushed in opposite directions.",
            "proof",
        ),
        (
            "pg-blind",
            "The push on the logits of the tokens not drawn is shared in proportion to p, whatever the teacher thinks of them.",
            "proof",
            _blind,
        ),
        (
            "three-token-pg",
            "What one draw does on the notes' example, for t₃ and for t₁.",
            "exact",
            lambda: _drawn(3, 1),
        ),
        (
            "three-token-gkd-versus-pg",
            "GKD and one policy-gradient draw, side by side.",
            "exact",
            _side_by_side,
        ),
        (
            "pg-sign-flip",
            "The direction of t₂ depends on the token drawn, while the full-vocabulary gradient is fixed.",
            "exact slider",
            _flip,
        ),
        (
            "pg-variance",
            "At one prefix the policy gradient varies with the draw unless p = q, and GKD does not; in a seeded run, training with few draws took more steps.",
            "exact experiment",
            lambda: (
                f"PG {variance(estimators.policy_gradient(P, Q))}, GKD {variance(estimators.gkd(P, Q))}"
            ),
        ),
        ("gkd-pg-summary", "The notes' table of how the two kinds of update compare.", "text"),
        (
            "reward-mixing",
            "The distillation cost adds linearly to an outcome reward's advantage.",
            "proof exact experiment",
            _mixed,
        ),
    ),
    *_rows(
        "5",
        FIVE,
        (
            "kl-nonnegative",
            "KL is never negative, and 0 only where the two distributions agree.",
            "proof exact",
        ),
        (
            "kl-asymmetric",
            "KL(p‖q) and KL(q‖p) differ in general.",
            "exact",
            lambda: (
                f"{plain(objectives.reverse_kl(P, Q), 4)} and {plain(objectives.forward_kl(P, Q), 4)}"
            ),
        ),
        (
            "rkl-baseline-structure",
            "The exact gradient carries a baseline: the log-ratio less its mean under p.",
            "proof",
        ),
        (
            "pg-unbiased-local",
            "The mean of the sampled gradient is the gradient of KL(p‖q).",
            "proof",
            lambda: f"mean {mean(estimators.policy_gradient(P, Q))}",
        ),
        ("score-mean-zero", "The mean score is 0.", "proof"),
        (
            "full-vocab-advantage-is-zero",
            "KL(p‖q) used as the advantage has a zero mean gradient.",
            "proof",
            _advantage,
        ),
        (
            "improve-objective",
            "Change the objective and the price of each token changes: forward and reverse KL, JSD(β), α-divergence, skewed KL.",
            "proof slider",
            _objectives,
        ),
        (
            "improve-estimator",
            "Of the changes that the notes count as changes of the estimator, a baseline, an importance weight and a sampled tail keep the mean; truncation, a clipped weight and a dropped tail move it, and with it what is learned.",
            "exact",
            _estimators,
        ),
        (
            "improve-framework",
            "A distillation advantage and an outcome advantage can be added; the student is drawn to a tilted teacher.",
            "exact experiment",
            _tilted,
        ),
        (
            "open-question-full-vocab-pg",
            "Full-vocabulary KL may enter the policy gradient as the baseline or in the place of the sampled return, never as the advantage.",
            "proof exact",
            lambda: (
                f"variance {variance(estimators.policy_gradient(P, Q))} without, {variance(estimators.policy_gradient(P, Q, objectives.reverse_kl(P, Q)))} with KL as the baseline"
            ),
        ),
    ),
    *_rows(
        "6",
        SIX,
        (
            "sequence-chain-rule",
            "A sequence's probability is the product of its tokens', and the KL between two distributions over sequences is the mean sum of the tokens' costs.",
            "exact",
            _chain_rule,
        ),
        (
            "sequence-score-identity",
            "The mean gradient of a sequence's own costs is the mean score, and that is 0; on a finite sample it is not.",
            "proof experiment",
            _finite_scores,
        ),
        (
            "past-terms-vanish",
            "A score times a cost from before its token has mean 0: it adds noise and nothing else.",
            "proof",
            _past,
        ),
        (
            "reward-to-go",
            "The sequence KL's gradient is the mean of each token's score times the costs from that token on.",
            "proof exact",
            _two_returns,
        ),
        (
            "token-level-bias",
            "With its own cost alone, a token's update is biased for the sequence KL, by the mean of the scores times the later costs.",
            "exact",
            _token_level,
        ),
        (
            "two-meanings-of-unbiased",
            "The same sampled term is unbiased for each prefix's own KL.",
            "exact",
            _two_targets,
        ),
        (
            "bias-variance",
            "From γ = 0 to γ = 1 the bias goes to 0 and the variance, as a rule, up; which γ is best depends on the number of sequences.",
            "exact slider",
            _by_gamma,
        ),
        (
            "discounted-return",
            "The discount leads from the immediate cost, γ = 0, to the reward-to-go, γ = 1.",
            "proof",
            _discounted,
        ),
        (
            "gkd-future-coupling",
            "GKD has no return term; the sequence KL's gradient is GKD's plus each score times the KL at the later prefixes.",
            "proof exact",
            _coupling,
        ),
    ),
    *_rows(
        "6",
        NOISE,
        (
            "classical-rl",
            "This is REINFORCE with reward-to-go; baselines and GAE keep the mean and change the variance.",
            "exact",
            _with_baselines,
        ),
        (
            "variance-bounds",
            "If no cost exceeds B_r and no score B_s, the variance is at most T² B_r² B_s² at token level and T⁴ B_r² B_s² for the full return; measured exponents are lower.",
            "proof exact",
            _bounds,
        ),
    ),
    *_rows(
        "6",
        RELATIVES,
        (
            "rlvr-terminal",
            "A reward at the end gives every token the same return at γ = 1.",
            "exact",
            _terminal,
        ),
        (
            "rlvr-broadcast",
            "The same reward entered at every token returns (T − t + 1) R: a re-weighting by position.",
            "proof",
            _broadcast,
        ),
        (
            "top-k",
            "The teacher's top K, renormalised, without the tail or with it as one token: three objectives, none of them the full KL.",
            "exact experiment",
            _truncated,
        ),
        (
            "fipo",
            "FIPO re-weights an outcome advantage by the clipped exponential of a discounted sum of log-ratios to come.",
            "exact",
            _fipo,
        ),
    ),
    *_rows(
        "6",
        STUDY,
        (
            "gamma-variance-experiment",
            "The two-teacher control study rebuilt: gradient variance along training for five γ.",
            "experiment",
            _study,
        ),
    ),
    *_rows(
        "Beyond the notes",
        FIVE,
        (
            "pg-zero-gamma-is-gkd",
            "In the mean, token-level policy gradient equals on-policy GKD exactly.",
            "proof exact",
        ),
        (
            "k-estimators-as-loss",
            "Differentiated as a loss, k1 teaches nothing, k2 follows reverse KL and k3 forward KL.",
            "proof",
            lambda: _k_as(estimators.k_estimator_as_loss),
        ),
        (
            "k-estimators-as-reward",
            "As a detached cost, k1 follows reverse KL, and k3 reverse KL less forward KL.",
            "proof",
            lambda: _k_as(estimators.k_estimator_as_reward),
        ),
        (
            "baseline-does-not-always-help",
            "On the notes' own example the KL baseline raises the variance.",
            "exact",
            _baselines,
        ),
    ),
    *_rows(
        "Beyond the notes",
        THREE,
        (
            "jsd-endpoints",
            "Near its ends β scales the strength of JSD, not its direction.",
            "proof",
            _ends,
        ),
        (
            "top-k-head-pushes-the-wrong-token",
            "Drop the tail outside the teacher's top K and descent can raise the token the teacher likes least.",
            "exact",
            _top_two,
        ),
    ),
    *_rows(
        "Beyond the notes",
        FIVE,
        (
            "schulman-table",
            "Bias and spread of k1, k2, k3 for N(0, 1) against N(μ, 1).",
            "exact",
            _schulman,
        ),
    ),
    *_rows(
        "Beyond the notes",
        NOISE,
        (
            "rao-blackwell-return",
            "The exact local gradient, and the score times the full-vocabulary KLs to come: unbiased for the sequence KL; on this tree with less noise than the sampled return.",
            "exact",
            _rao_blackwell,
        ),
        (
            "sharper-variance-bounds",
            "Scores of different positions are uncorrelated, so the full return's variance is at most T³ B_r² B_s², reward-to-go's T² (T + 1)/2 and, for γ below 1, T²/(1 − γ²) in the same units; the order T³ is reached.",
            "proof exact",
            _sharper,
        ),
    ),
    *_rows(
        "Beyond the notes",
        LAB,
        (
            "exposure-bias",
            "Who learns on the teacher's texts is further from the teacher on texts of its own; learning on its own texts narrows the gap.",
            "experiment",
            _exposure,
        ),
    ),
    *_rows(
        "Beyond the notes",
        STUDY,
        (
            "variance-exponents",
            "Measured growth with T: like T at γ = 0, towards T³ for the full return, below the bounds.",
            "exact experiment",
            _exponents,
        ),
    ),
]


# --- the check, and the page ------------------------------------------------------------------


class LedgerError(AssertionError):
    """A claim lacks its proof, its test or its place in the book."""


def check(book, claims=CLAIMS, tests=None, proofs=PACKAGE / "derivations"):
    """Raise LedgerError, listing every loss, unless each claim is shown as its row says.

    ``book`` is the directory of the pages; ``tests`` defaults to the directory of that
    name beside it.  A *proof* needs a derivation and a test named after it in ``proofs``,
    *exact* and *experiment* need one in ``tests``, and every claim its label in its page.
    """
    from opd_toy.derivations import DERIVATIONS

    book = Path(book).resolve()
    tests = book.parent / "tests" if tests is None else Path(tests)
    proved, tested = functions(proofs), functions(tests)
    pages = {path.stem: path.read_text(encoding="utf-8") for path in sorted(book.glob("*.md"))}
    problems = [
        problem
        for claim in claims
        for problem in _problems(claim, DERIVATIONS, proved, tested, pages)
    ]
    ids = [claim.id for claim in claims]
    problems += [
        f"{id}: listed more than once" for id in sorted({id for id in ids if ids.count(id) > 1})
    ]
    if problems:
        raise LedgerError("the ledger does not hold:\n  " + "\n  ".join(problems))


def functions(directory):
    """Names of the test functions in the test_*.py files of a directory, read without importing them."""
    files = sorted(Path(directory).glob("test_*.py"))
    nodes = (node for file in files for node in ast.parse(file.read_text(encoding="utf-8")).body)
    return {
        node.name for node in nodes if isinstance(node, ast.FunctionDef) and not _is_empty(node)
    }


def _is_empty(function):
    """Nothing but a docstring, pass or an ellipsis: not a test."""
    return all(
        isinstance(line, ast.Pass)
        or (isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant))
        for line in function.body
    )


def _problems(claim, derivations, proved, tested, pages):
    unknown = set(claim.shown_by) - set(KINDS)
    if unknown or not claim.shown_by:
        yield f"{claim.id}: shown by {claim.shown_by}; say one or more of {', '.join(KINDS)}"
    if "proof" in claim.shown_by and claim.id not in derivations:
        yield f"{claim.id}: no derivation in opd_toy.derivations"
    if "proof" in claim.shown_by and claim.test not in proved:
        yield f"{claim.id}: no {claim.test} beside the derivations"
    if {"exact", "experiment"} & set(claim.shown_by) and claim.test not in tested:
        yield f"{claim.id}: no {claim.test} in tests"
    if claim.page not in pages:
        yield f"{claim.id}: no page {claim.page}.md in the book"
    elif not _is_shown(claim, pages[claim.page]):
        elsewhere = [name for name, text in pages.items() if _is_shown(claim, text)]
        yield f"{claim.id}: label {claim.label} " + (
            f"is on {elsewhere[0]}.md, not on {claim.page}.md"
            if elsewhere
            else "occurs nowhere in the book"
        )


def _is_shown(claim, text):
    """Whether a page sets the claim's label, or shows its equation, which sets it."""
    target = rf"^\({claim.label}\)="
    if claim.label.startswith("eq-"):
        target = rf"""^[^#\n]*\bshow\(\s*["']{claim.id}["']|^\$\$ *\({claim.label}\)"""
    return re.search(target, text, re.MULTILINE) is not None


def rows():
    """(claim, figure) for every row, in the order of the page."""
    return [(claim, claim.evidence()) for claim in CLAIMS]


def table():
    """The page: one Markdown table a chapter, every row with an anchor and a link to where it is shown."""
    texts, chapter = [], None
    for claim, figure in rows():
        if claim.chapter != chapter:
            chapter = claim.chapter
            heading = f"Chapter {chapter}" if chapter.isdigit() else chapter
            texts.append(
                f"\n**{heading}**\n\n| claim | shown by | figure | where |\n|---|---|---|---|"
            )
        statement = f'<span id="{claim.id}"></span>{claim.statement}'
        texts.append(f"| {statement} | {', '.join(claim.shown_by)} | {figure} | {_link(claim)} |")
    return "\n".join(texts)


def _link(claim):
    if claim.label.startswith("eq-"):
        return f"{{eq}}`{claim.label}`"
    return f"{{ref}}`chapter {claim.page[:2].lstrip('0')} <{claim.label}>`"
