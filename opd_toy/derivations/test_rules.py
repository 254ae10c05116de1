"""The checks one rule at a time: what counts as positive, where they look, what they refuse."""

import itertools
from types import SimpleNamespace

import pytest
import sympy as sp

from opd_toy.derivations import DerivationError, exact, framework, notation, witness
from opd_toy.derivations.framework import Chain, Step
from opd_toy.derivations.notation import (
    PARAMETERS,
    R2,
    C,
    Expectation,
    GaussianMean,
    Gradient,
    Limit,
    Partial,
    R,
    SequenceMean,
    SquaredLength,
    StopGradient,
    T,
    V,
    alpha,
    c,
    cost,
    cost_bound,
    delta,
    dimension,
    gamma,
    i,
    j,
    k,
    margin,
    n,
    old,
    old2,
    over_positions,
    p,
    q,
    q2,
    score_at,
    score_bound,
    t,
    total,
    u,
    v,
    x,
    z,
    z2,
)
from opd_toy.derivations.points import free_indices, random_points
from opd_toy.derivations.test_planted_faults import exactly
from opd_toy.derivations.test_terms import reaches
from opd_toy.derivations.witness import counterexample


@pytest.mark.parametrize(
    "gap, never_negative",
    [
        (score_bound**2 - SquaredLength(score_at[t]), True),
        (1 / (1 - gamma**2), True),
        (gamma**u, True),
        (total(c[v] ** 2), True),
        (gamma * c[t], False),
        (gamma + c[t], False),
        (total(c[v]), False),
        (1 / c[t], False),
        (1 - 2 * gamma, False),
        (cost_bound**2 - SquaredLength(score_at[t]), False),
    ],
)
def test_what_may_be_called_never_negative(gap, never_negative):
    found = exactly(c[v], c[v] + gap, "<=", (gap,))
    assert (found is None) == never_negative, found


with sp.evaluate(False):
    POSITIVE = [
        (p[j] * p[k], True),
        (-(p[j] * p[k]), False),
        (p[j] * C[k] ** 2, True),  # the proof is for a cost that is not 0
        (p[j] * C[k] ** 3, False),
        (p[j] * c[k] ** 2, False),  # a price may be 0
        (p[j] * (C[k] + C[j]) ** 2, False),
        (p[j] * total((1 - delta(u, k)) * p[u], u), True),
        (p[j] * total((1 - delta(u, k)) * c[u], u), False),
        (p[j] * total((1 - 2 * delta(u, k)) * p[u], u), False),
        (p[j] * total((2 * delta(u, k) - 1) * p[u], u), False),
        (p[j] * total((1 - delta(u, i)) * p[u], u), False),  # V = 1: nothing else is there
    ]


@pytest.mark.parametrize("factors, positive", POSITIVE)
def test_only_less_a_positive_product_is_below_0(factors, positive):
    with sp.evaluate(False):
        below = -factors
    assert (exactly(below, sp.S.Zero, "<", distinct=((j, k),)) is None) == positive
    assert exactly(below, p[j], "<", distinct=((j, k),)) == "the right side must be 0"


def test_of_a_sum_that_is_positive_one_term_is_known_to_be_there():
    others = -total((1 - sp.KroneckerDelta(u, k)) * p[u], u)
    assert exactly(others, sp.S.Zero, "<", distinct=((j, k),)) is None
    assert exactly(others, sp.S.Zero, "<")


def test_points_lie_where_the_steps_hold():
    """Discounts below 1, rows that sum to 1, a margin that is 0 at n alone."""
    points = list(random_points([p[j] * p[n]]))
    assert [at.size for at in points] == [2, 2, 2, 2, 3, 5]
    for at in points:
        top, tables = (at.symbols[n],), at.tables
        assert all(
            entry == 0 if place == top else 0.5 < entry < 2
            for place, entry in tables[margin].items()
        )
        for row in (q, old):
            assert abs(sum(tables[row].values()) - 1) < 1e-14 and min(tables[row].values()) > 0
        for rows, place in itertools.product((q2, old2), range(1, at.size + 1)):
            row = [entry for (first, _), entry in tables[rows].items() if first == place]
            assert len(row) == at.size and abs(sum(row) - 1) < 1e-14 and min(row) > 0
        assert len(tables[z]) == at.size and len(tables[R2]) == len(at.slopes[z2]) == at.size**2
    assert {at.symbols[n] for at in random_points([p[n]], sizes=(2,))} == {1, 2}


def test_points_are_drawn_from_the_whole_of_their_ranges():
    points = list(random_points([p[j]], sizes=(5,) * 4))
    assert reaches([at.symbols[one] for at in points for one in PARAMETERS], 0.2, 0.8)
    for base in (z, z2, R, R2, c):
        assert reaches([entry for at in points for entry in at.tables[base].values()], -2, 2)
    for base in (z, z2):
        assert reaches([slope for at in points for slope in at.slopes[base].values()], -1, 1)
    margins = [entry for at in points for entry in at.tables[margin].values() if entry]
    assert reaches(margins, 0.5, 2)


@pytest.mark.parametrize(
    "side, relation, sizes",
    [
        (p[j], "=", (2, 3, 5)),
        (cost[t], "<=", (2, 3, 4)),
        (sp.Lt(p[j], q[j]), "<=>", (2, 3, 5, 2, 3, 5)),
    ],
)
def test_the_sizes_that_the_witness_tries(monkeypatch, side, relation, sizes):
    asked = []
    monkeypatch.setattr(witness, "random_points", lambda *_, **options: asked.append(options) or ())
    counterexample(sp.S.One, side, relation, ((j, k),), "seed")
    counterexample(side, sp.S.One, relation, ((j, k),), "seed")
    assert [(one["sizes"], one["seed"]) for one in asked] == [(sizes, "seed")] * 2


def test_a_counterexample_is_told_whole():
    with sp.evaluate(False):
        always, never, infinite = sp.Lt(0, p[j]), sp.Lt(p[j], 0), 1 / (p[j] - p[j])
    third = "at V = 2 the sides are 0.333333333333 and 0.0"
    assert counterexample(sp.Rational(1, 3), sp.S.Zero) == third
    assert counterexample(always, never, "<=>") == "at V = 2 the sides are True and False"
    assert counterexample(infinite, sp.S.Zero) == "at V = 2 a side divides by 0"


def test_an_inequality_holds_where_its_left_side_is_below_its_right():
    (at,) = random_points([p[j]], sizes=(3,))
    with sp.evaluate(False):
        sides = (0, p[j]), (p[j], 0), (p[j], p[j])
        verdicts = [witness._value(sp.Lt(*pair), at) for pair in sides]
    assert verdicts == [True, False, False]


@pytest.mark.parametrize(
    "expression, free",
    [
        (total(p[j] * p[v]), {j}),
        (Expectation(C[k] * p[j], k, p), {j}),
        (over_positions(cost[u], u, t), {t}),
        (over_positions(cost[t], t, 1, u), {u}),
        (V * T * gamma, set()),
    ],
)
def test_an_index_that_a_sum_or_a_mean_binds_is_not_free(expression, free):
    assert free_indices([expression]) == free


def test_every_symbol_is_real_and_probabilities_are_positive():
    """Logarithms and limits are taken by sympy on that ground."""
    bases = {one for one in vars(notation).values() if isinstance(one, sp.IndexedBase)}
    positive = {one for one in bases if one[j].is_positive}
    assert all(one[j].is_real for one in bases)
    assert {str(one) for one in positive} == {
        "p", "q", "p2", "q2", "old", "old2", "ell", "tilted", "sharp",
        "m_jsd", "m_forward", "m_reverse",
    }  # fmt: skip
    symbols = [one for one in vars(notation).values() if isinstance(one, sp.Symbol)]
    assert all(one.is_real for one in symbols)
    assert {str(one) for one in symbols if one.is_positive and not one.is_integer} == {
        "kappa", "mu", "gamma", "B_r", "B_s",
    }  # fmt: skip
    assert {str(one) for one in symbols if one.is_integer and one.is_positive} == {
        *"ijkntuvyVTPa", "a'",
    }  # fmt: skip


def test_a_sequence_on_either_side_is_one():
    mean_score = SequenceMean(over_positions(score_at[t]))
    assert exactly(mean_score, sp.S.Zero) is None and exactly(sp.S.Zero, mean_score) is None


def test_a_number_in_place_of_a_vector_counts_at_every_coordinate():
    assert exactly(SquaredLength(cost[t]), dimension * cost[t] ** 2) is None
    assert exactly(SquaredLength(cost[t]), cost[t] ** 2)


def test_a_gaussian_mean_is_over_the_whole_line():
    ((_, low, high),) = GaussianMean(x).definition(None).limits
    assert (low, high) == (-sp.oo, sp.oo)


@pytest.mark.parametrize(
    "derivative", [lambda e: Partial(e, z[j]), Gradient], ids=["by a logit", "by a parameter"]
)
def test_a_stop_gradient_holds_through_two_derivatives(derivative):
    twice = derivative(derivative(StopGradient(p[j]) * z[j]))
    assert counterexample(twice, sp.S.Zero) is None


def test_each_derivation_has_points_of_its_own(monkeypatch):
    seen = []
    monkeypatch.setattr(
        witness, "counterexample", lambda *sides, **seed: seen.append((sides, seed))
    )
    step = Step(p[j], "", "<=")
    framework.witness_problem("a-claim", Chain((step,), distinct=((j, k),)), Step(q[j]), step)
    assert seen == [((q[j], p[j], "<=", ((j, k),)), {"seed": "a-claim"})]


@pytest.mark.parametrize(
    "log",
    [
        lambda x: sp.log(x) / 2,  # stationary elsewhere
        lambda x: sp.log(x) + 1,  # below at its stationary point
        lambda x: 2 * (x - 1) - sp.log(x),  # turned over
    ],
)
def test_the_bound_on_the_logarithm_is_asked_of_all_three_facts(monkeypatch, log):
    asked = exact.log_is_at_most_x_minus_one.__wrapped__
    assert asked()
    stand_in = SimpleNamespace(Symbol=sp.Symbol, log=log, solve=sp.solve, diff=sp.diff)
    monkeypatch.setattr(exact, "sp", stand_in)
    assert not asked()


UNKNOWN = {
    sp.Sum(p[v], (v, 1, n)): "is not a sum over the vocabulary",
    sp.Sum(p[v], (v, 2, V)): "is not a sum over the vocabulary",
    sp.Sum(p[v] * q[u], (v, 1, V), (u, 2, V)): "is not a sum over the vocabulary",
    Limit(sp.log(total(p[v] ** alpha)), alpha, 1): "it is not linear in its sums",
    Limit(p[j] / alpha, alpha, 0): "no finite limit",
    Limit(-p[j] / alpha, alpha, 0): "no finite limit",
}


@pytest.mark.parametrize("expression", UNKNOWN)
def test_what_the_exact_check_has_no_rule_for_it_refuses(expression):
    with pytest.raises(DerivationError, match=UNKNOWN[expression]):
        exactly(expression, sp.S.Zero)


def test_a_limit_inside_two_sums_is_taken_in_both():
    squares = total(p[v] ** 2), total(q[u] ** 2, u)
    twice = sp.Sum(alpha * p[v] ** 2 * q[u] ** 2, (v, 1, V), (u, 1, V))
    assert exactly(Limit(twice, alpha, 1), sp.Mul(*squares)) is None


def test_what_has_no_number_is_refused():
    with pytest.raises(TypeError, match="no number for zeta"):
        counterexample(sp.zeta(p[j]), sp.S.Zero)
