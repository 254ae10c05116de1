"""Figures of chapter 6, from the engine: the tree of two tokens with which that chapter begins."""

import numpy as np

from opd_toy import distributions, sequences
from opd_toy.example import STUDENT_TREE, TEACHER_TREE
from opd_toy.pages.numbers import length, listed, plain, signed
from opd_toy.sequences import TokenTree

FIRST = slice(3)  # the entries of a gradient that belong to the first token's logits
ENDS_WELL = (STUDENT_TREE.tokens()[:, -1] == 0).astype(float)  # a reward for ending in t₁


def exact_gradient():
    return sequences.sequence_kl_gradient(STUDENT_TREE, TEACHER_TREE)


def to_go(gamma, signal="sampled", baseline=None):
    return sequences.reward_to_go(STUDENT_TREE, TEACHER_TREE, gamma, signal, baseline)


def full_return():
    return sequences.full_return(STUDENT_TREE, TEACHER_TREE)


def weighted(*weights):
    """The table whose row has these weights, one a position, on the scores."""
    columns = [np.broadcast_to(weight, len(STUDENT_TREE.tokens())) for weight in weights]
    return sequences.SequenceTable(STUDENT_TREE, np.stack(columns, axis=1))


def moved(tree, step):
    """The tree after a step (P,) in all its logits, which are counted as in a gradient."""
    ends = np.cumsum([rows.size for rows in tree.logits])[:-1]
    parts = zip(tree.logits, np.split(step, ends))
    return TokenTree(tuple(rows + part.reshape(rows.shape) for rows, part in parts))


def chain_rule():
    student, teacher = (tree.sequence_probabilities() for tree in (STUDENT_TREE, TEACHER_TREE))
    first, second = student @ sequences.token_costs(STUDENT_TREE, TEACHER_TREE)
    kl = plain(distributions.kl(student, teacher), 4)
    return f"nine sequences: KL {kl}; mean costs {plain(first, 4)} + {plain(second, 4)}"


def finite_scores():
    table, draws = weighted(1.0, 1.0), np.random.default_rng(6)
    few, many = (
        np.linalg.norm(draws.multinomial(n, table.probabilities) @ table.dense() / n)
        for n in (100, 10_000)
    )
    sampled = f"of 100 draws {plain(few, 3)}, of 10,000 {plain(many, 3)}"
    return f"length of the mean score: exact {length(table.expectation())}; {sampled}"


def past_costs():
    costs = sequences.token_costs(STUDENT_TREE, TEACHER_TREE)
    past, own = weighted(0.0, costs[:, 0]), weighted(0.0, costs[:, 1])
    return (
        f"second score times first cost: mean of length {length(past.expectation())}, "
        f"variance {plain(past.total_variance())}; "
        f"times its own cost: mean of length {length(own.expectation())}"
    )


def two_returns():
    table = to_go(1.0)
    gap = np.abs(table.bias(exact_gradient())).max()
    variances = (
        f"variance {plain(table.total_variance())}, "
        f"full return {plain(full_return().total_variance())}"
    )
    mean = signed(table.expectation()[FIRST])
    return f"mean at the first position {mean}, off the exact gradient by {plain(gap)}; {variances}"


def token_level():
    exact, table = exact_gradient(), to_go(0.0)
    means = f"mean {signed(table.expectation()[FIRST])}, sequence gradient {signed(exact[FIRST])}"
    return f"first position: {means}; length of the bias {length(table.bias(exact))}"


def two_targets():
    table = to_go(0.0)
    local = table.bias(sequences.on_policy_gkd_gradient(STUDENT_TREE, TEACHER_TREE))
    whole = table.bias(exact_gradient())
    return (
        f"the same table: bias {length(local)} against the local KLs' gradient, "
        f"{length(whole)} against the sequence's"
    )


def by_gamma():
    exact, tables = exact_gradient(), [to_go(gamma) for gamma in (0.0, 0.5, 1.0)]
    cells = "; ".join(
        f"{length(table.bias(exact))}, {plain(table.total_variance())}" for table in tables
    )
    best = listed(sequences.best_gamma(STUDENT_TREE, TEACHER_TREE, n) for n in (1, 10, 100))
    return (
        f"length of the bias, and variance, at γ = 0, .5, 1: {cells}; "
        f"least squared error for 1, 10, 100 sequences at γ = {best}"
    )


def discounted():
    means = (to_go(gamma).expectation()[FIRST] for gamma in (0.0, 0.5, 1.0))
    return f"mean at the first position for γ = 0, .5, 1: {', '.join(map(signed, means))}"


def coupling():
    local, future = (part[FIRST] for part in sequences.decomposition(STUDENT_TREE, TEACHER_TREE))
    parts = f"GKD {signed(local)} + shift of prefixes {signed(future)}"
    return f"first position: {parts} = {signed(local + future)}"


def with_baselines():
    tables = {
        "no baseline": to_go(1.0),
        "exact value": to_go(1.0, baseline="value"),
        "best": to_go(1.0, baseline="optimal"),
        "GAE, λ = .5": sequences.generalized_advantage(STUDENT_TREE, TEACHER_TREE, 1.0, 0.5),
    }
    exact = exact_gradient()
    off = max(np.abs(table.bias(exact)).max() for table in tables.values())
    cells = (f"{name} {plain(table.total_variance())}" for name, table in tables.items())
    return f"variance: {', '.join(cells)}; largest bias {plain(off)}"


def terminal_reward():
    first, second = (
        plain(np.abs(np.diff(sequences.outcome(STUDENT_TREE, ENDS_WELL, gamma).weights)).max())
        for gamma in (1.0, 0.5)
    )
    return (
        "reward for ending in t₁: largest difference between the weights of two tokens "
        f"{first} at γ = 1, {second} at γ = .5"
    )


def broadcast_reward():
    once = sequences.outcome(STUDENT_TREE, ENDS_WELL).expectation()
    repeated = sequences.broadcast_outcome(STUDENT_TREE, ENDS_WELL).expectation()
    first, second = (
        plain(np.linalg.norm(repeated[part]) / np.linalg.norm(once[part]))
        for part in (FIRST, slice(3, None))
    )
    return (
        "reward for ending in t₁: against the reward given once, the mean is "
        f"{first} times as long at the first position, {second} times at the second"
    )


def fipo():
    step = -0.5 * sequences.outcome(STUDENT_TREE, ENDS_WELL).expectation()
    decay = 2 ** (-1 / 32)

    def range_of_weights(student):
        weights = sequences.fipo_weight(student, STUDENT_TREE, decay, 0.2, 0.2)
        return f"{plain(weights.min(), 3)} to {plain(weights.max(), 3)}"

    before, after = (
        range_of_weights(student) for student in (STUDENT_TREE, moved(STUDENT_TREE, step))
    )
    return f"weights on the first mini-batch {before}; after a step of size .5, {after}"


def rao_blackwell():
    table = to_go(1.0, "full_vocabulary")
    off = np.abs(table.bias(exact_gradient())).max()
    sampled, future, both = (
        plain(to_go(1.0, signal).total_variance())
        for signal in ("sampled", "full_vocabulary_future", "full_vocabulary")
    )
    variances = f"sampled return {sampled}, only the future exact {future}, both exact {both}"
    return f"bias {plain(off)}; variance: {variances}"
