"""Bases of the expected gradient of a sequence, and names of credit matrices."""

import numpy as np
import pytest

from opd_toy import objectives
from opd_toy.audit.sequence.bases import FORWARD, LOCAL, bases_of, fit
from opd_toy.audit.sequence.names import credit_pieces, in_words, lags, ones, sum_text
from opd_toy.sequences import (
    TokenTree,
    on_policy_gkd_gradient,
    outcome,
    sequence_kl_gradient,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def test_bases_are_the_engines_gradients():
    student, teacher = TokenTree.random(3, 3, 1), TokenTree.random(3, 3, 2)
    rewards = np.random.default_rng(0).standard_normal(27)
    bases = bases_of(student, teacher, rewards)

    def total(kind, future):
        blocks = [np.zeros_like(p) for p in student.probabilities]
        for (t, u), block in bases[kind].items():
            blocks[t] += block * (future or t == u)
        return np.concatenate([block.ravel() for block in blocks])

    np.testing.assert_allclose(
        total("reverse KL", True), sequence_kl_gradient(student, teacher), rtol=1e-12, atol=1e-15
    )
    np.testing.assert_allclose(
        total("reverse KL", False), on_policy_gkd_gradient(student, teacher), rtol=1e-12, atol=1e-15
    )
    np.testing.assert_allclose(
        total("expected reward", False),
        -outcome(student, rewards).expectation(),
        rtol=1e-12,
        atol=1e-15,
    )
    step, sequences = 1e-6, student.tokens()

    def forward(logits):
        return teacher.sequence_probabilities() @ -np.log(
            TokenTree(logits).sequence_probabilities()
        )

    differences = []
    for t, z in enumerate(student.logits):
        for place in np.ndindex(z.shape):
            sides = []
            for sign in (1, -1):
                moved = [row.copy() for row in student.logits]
                moved[t][place] += sign * step
                sides.append(forward(tuple(moved)))
            differences.append((sides[0] - sides[1]) / (2 * step))
    np.testing.assert_allclose(total("sequence forward KL", False), differences, atol=1e-8)
    assert len(sequences) == 27


def test_bases_of_other_costs_are_gradients_of_expectations():
    """By central differences in every logit of the student's tree."""
    student, teacher = TokenTree.random(3, 2, 3), TokenTree.random(3, 2, 4)
    bases = bases_of(student, teacher)

    def differences(value):
        found = []
        for t, z in enumerate(student.logits):
            for place in np.ndindex(z.shape):
                sides = []
                for step in (1e-5, -1e-5):
                    moved = [row.copy() for row in student.logits]
                    moved[t][place] += step
                    sides.append(value(TokenTree(tuple(moved))))
                found.append((sides[0] - sides[1]) / 2e-5)
        return found

    def costs_at(visits, value):
        """The visits are held fixed where they are a list, else they move with the tree."""

        def of(tree):
            passed = visits if isinstance(visits, list) else tree.prefix_probabilities()
            rows = zip(passed, tree.probabilities, teacher.probabilities)
            return sum(visit @ value(p, q) for visit, p, q in rows)

        return of

    held = [np.array(v) for v in student.prefix_probabilities()]
    theirs = [np.array(v) for v in teacher.prefix_probabilities()]
    entropy = lambda p, q: (p * np.log(p)).sum(axis=-1)
    for kind, value, later, visits in (
        ("forward KL", objectives.forward_kl, True, None),
        ("forward KL", objectives.forward_kl, False, held),
        ("negative entropy", entropy, True, None),
        ("negative entropy", entropy, False, held),
        ("reverse KL at the teacher's prefixes", objectives.reverse_kl, False, theirs),
        ("negative entropy at the teacher's prefixes", entropy, False, theirs),
    ):
        blocks = [np.zeros_like(p) for p in student.probabilities]
        for (t, u), block in bases[kind].items():
            blocks[t] += block * (later or t == u)
        found = np.concatenate([block.ravel() for block in blocks])
        wanted = differences(costs_at(visits, value))
        np.testing.assert_allclose(found, wanted, atol=1e-8, err_msg=f"{kind}, {later}")


def test_fit_finds_coefficients_and_says_how_well_conditioned():
    samples, bases = [], []
    for seed in range(6):
        student, teacher = TokenTree.random(3, 2, 2 * seed), TokenTree.random(3, 2, 2 * seed + 1)
        chosen = {kind: bases_of(student, teacher)[kind] for kind in LOCAL}
        blocks = [
            sum((1 + t + 10 * u) * block for (t, u), block in chosen[FORWARD].items() if t == row)
            for row in range(2)
            for t in [row]
        ]
        samples.append((blocks, 1.0))
        bases.append(chosen)
    found, errors, condition = fit(samples, bases)
    np.testing.assert_allclose(
        [found[FORWARD][key] for key in ((0, 0), (0, 1), (1, 1))], [1, 11, 12], rtol=1e-9
    )
    np.testing.assert_allclose(
        [c for kind in LOCAL if kind != FORWARD for c in found[kind].values()], 0, atol=1e-9
    )
    assert 1 < condition < 1e3 and max(max(by_key.values()) for by_key in errors.values()) < 1e-12
    assert fit(samples[:1], bases[:1])[2] > 1e3  # one tree cannot tell six bases apart


@pytest.mark.parametrize(
    "weights, name",
    [
        (lambda T: -2 * lags(T, 0.5) / T, "−2/T × reverse KL with a discounted return, γ = 0.5"),
        (
            lambda T: np.diag(np.arange(T, 0, -1.0)),
            "sum of local reverse KLs, position t × (T − t + 1)",
        ),
        (
            lambda T: np.diag(0.9 ** np.arange(T - 1, -1, -1)),
            "sum of local reverse KLs, position t × 0.9^(T − t)",
        ),
        (lambda T: ones(T) * np.arange(1, T + 1), "sequence reverse KL, the cost at t × t"),
        (
            lambda T: np.eye(T) + 0.5 * lags(T, 0.9),
            "sum of local reverse KLs + 0.5 × reverse KL with a discounted return, γ = 0.9",
        ),
        (lambda T: np.diag(np.eye(T)[-1]), "sum of local reverse KLs, the last position's alone"),
        (
            lambda T: ones(T) / 512 - np.eye(T) / T,
            "1/512 × sequence reverse KL − 1/T × sum of local reverse KLs",
        ),
        (lambda T: np.sin(T) * ones(T), "c(T) × sequence reverse KL"),
    ],
)
def test_names(weights, name):
    matrices = {T: weights(T) for T in (2, 3, 4)}
    pieces = credit_pieces("reverse KL", matrices, 1e-9)
    assert sum_text(pieces) == name
    for T, matrix in matrices.items():
        np.testing.assert_allclose(sum(piece.weights(T) for piece in pieces), matrix, atol=1e-9)


def test_what_has_no_name_gets_none():
    draw = np.random.default_rng(0)
    any_at_all = {T: np.triu(draw.uniform(0.1, 1, (T, T))) for T in (2, 3, 4)}
    diagonal = np.diag([1.0, 0.3, 0.7, 0.1])
    for matrices in (
        any_at_all,
        {T: 1e-6 * w for T, w in any_at_all.items()},
        any_at_all | {2: diagonal[:2, :2]},
        {T: ones(T) + diagonal[:T, :T] for T in (2, 3, 4)},
        {T: ones(T) * (T > 2) for T in (2, 3, 4)},
    ):
        assert [piece.name for piece in credit_pieces("reverse KL", matrices, 1e-9)] == [None]
    # The own cost's multiple is the mean's: it takes up a quarter of what one of four is off by.
    for off, named in ((2.65e-5, True), (2.69e-5, False)):
        matrices = {T: 2 * np.eye(T) + ones(T) for T in (2, 3, 4)}
        matrices[4][0, 0] += off
        pieces = credit_pieces("reverse KL", matrices, 1e-6)
        assert [bool(piece.name) for piece in pieces] == ([True, True] if named else [False])
    assert in_words(np.array([[1, 0], [0, 0]])) == [
        "the token at position 1 pays for position 1",
        "the token at position 2 pays for nothing",
    ]
