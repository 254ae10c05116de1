"""Sums over positions piece by piece: bounds, powers of γ, closed forms; random trees."""

import random

import pytest
import sympy as sp

from opd_toy.derivations import exact, horizon, numeric, terms
from opd_toy.derivations.exact import DerivationError
from opd_toy.derivations.notation import T, cost, gamma, over_positions, p, t, total, u, v
from opd_toy.derivations.trees import random_tree


@pytest.mark.parametrize(
    "low, high, known",
    [
        (sp.S.One, T, True),
        (t, T, True),
        (t + 1, T, True),
        (sp.S.One, t, True),
        (sp.S.One, t - 1, True),
        (t + 1, u - 1, True),
        (t - 1, T, False),
        (t + 2, T, False),
        (sp.S.One, t + 1, False),
        (sp.S.One, t - 2, False),
        (sp.S.Zero, T, False),
        (sp.S(2), T, False),
        (sp.S.One, T - 1, False),
        (T, T, False),
        (T - t, T, False),
        (t + u, T, False),
    ],
)
def test_which_bounds_are_positions(low, high, known):
    assert terms.are_positions(low, high) == known


def test_a_sum_over_no_positions_takes_no_cost():
    with pytest.raises(DerivationError, match="from 0 to T is not one over positions"):
        terms.terms(over_positions(cost[u], u, 0, T))
    with pytest.raises(DerivationError, match="from 0 to T is not one over positions"):
        terms.terms(over_positions(cost[u] + 1, u, 0, T))


INDEX = sp.Symbol("n", integer=True, positive=True)


@pytest.mark.parametrize(
    "weight",
    [
        sp.S(3),
        INDEX**2,
        gamma**INDEX,
        5 * gamma ** (2 * INDEX - 1) + INDEX + T,
        T * gamma ** (3 - INDEX) / (1 - gamma**2) + gamma**2,
        gamma**T * (1 + INDEX),
    ],
)
@pytest.mark.parametrize("low, high", [(1, 4), (2, 2), (3, 2), (0, 5)])
def test_a_closed_form_is_the_sum(weight, low, high):
    found = terms.closed_form(weight, INDEX, sp.S(low), sp.S(high))
    wanted = sum((weight.subs(INDEX, place) for place in range(low, high + 1)), sp.S.Zero)
    assert sp.simplify(found - wanted) == 0


def test_powers_of_the_discount_are_told_apart():
    weight = T * gamma ** (3 * u + 2 - t) / (1 - gamma) + 5 * gamma / (1 + T) ** 2 + T**2
    found = {exponent: factor for factor, exponent in terms.powers_of_gamma(weight)}
    assert found == {
        3 * u + 2 - t: T / (1 - gamma), sp.S.One: 5 / (1 + T) ** 2, sp.S.Zero: T**2,
    }  # fmt: skip
    found = terms.powers_of_gamma((1 + gamma) ** 2 / gamma)
    assert {exponent: factor for factor, exponent in found} == {-1: 1, 0: 2, 1: 1}


def test_a_sum_of_an_index_times_a_power_has_no_closed_form_here():
    with pytest.raises(DerivationError, match="no closed form of the sum of gamma"):
        terms.closed_form(INDEX * gamma**INDEX, INDEX, sp.S.One, T)


def test_names_made_on_the_way_are_positions():
    made = [make("x") for make in (terms.fresh, exact._fresh, numeric._dummy)]
    made.extend(exact.reduce(total(p[v] ** 2)).variables)
    for one in (*made, horizon._fixed("j", 0), horizon._fixed("", 1)):
        assert one.is_integer and one.is_positive
    assert horizon.HORIZON.is_positive


def reaches(values, low, high):
    """All between the two, and some near to each."""
    near = (high - low) / 4
    return low < min(values) < low + near and high - near < max(values) < high


def test_a_random_tree():
    tree = random_tree(4, random.Random(1))
    assert len(tree.logits) == len(tree.teacher) == len(tree.slopes) == 15 and tree.dimension == 2
    assert len(tree.sequences) == 16 and abs(sum(chance for chance, _ in tree.sequences) - 1) < 1e-9
    assert {len(row) for row in (*tree.logits.values(), *tree.teacher.values())} == {2}
    assert {len(row) for rows in tree.slopes.values() for row in rows} == {2}
    assert reaches([entry for row in tree.logits.values() for entry in row], -2, 2)
    assert reaches([s for rows in tree.slopes.values() for row in rows for s in row], -2, 2)
    assert reaches([entry for row in tree.teacher.values() for entry in row], 0.1, 0.9)
    assert all(abs(sum(row) - 1) < 1e-12 for row in tree.teacher.values())
