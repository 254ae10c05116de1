"""The auditor's searches on gradients made by hand, and where each of them begins to see.

tests/audit_searches.txt has the names found, and the numbers at which an answer changes.
"""

import dataclasses
import functools
import itertools
import math
import types
from unittest import mock

import numpy as np
import pytest

from opd_toy import objectives
from opd_toy.audit import formats
from opd_toy.audit.token import (
    beside,
    candidates,
    describe,
    fit,
    geometric,
    head_search,
    heads,
    judge,
    limits,
    mixtures,
    names,
    pairs,
    ratios,
    teachers,
    temperatures,
    verdict,
    weights,
)
from opd_toy.audit.token.candidates import Candidate, Family
from opd_toy.audit.token.expected import lengths
from opd_toy.audit.token.findings import findings
from opd_toy.audit.token.measure import Descent, Table
from opd_toy.audit.token.pairs import ORDINARY, Pair, Pairs, large_pairs, random_pairs
from opd_toy.audit.token.values import Values, name_values
from opd_toy.audit.token.verdict import Verdict, identify
from opd_toy.distributions import entropy, softmax
from opd_toy.example import STUDENT, TEACHER
from tests.test_audit_parts import calls, mean
from tests.test_audit_stages import by_hand as made_of
from tests.test_audit_stages import measurements as measured
from tests.written import check_text

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # Of the parts alone: a judge and ``identify`` say nothing of numbers that are not finite.
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
]

PAIRS = random_pairs(0)
ORDINARY_PAIRS = [pair for pair in PAIRS if pair.tier <= ORDINARY]
FORWARD, REVERSE = candidates.KLS
forward, reverse = objectives.forward_kl_logit_gradient, objectives.reverse_kl_logit_gradient


def by_hand(gradient, pairs=PAIRS):
    return made_of(gradient, pairs)


@functools.cache
def measurements():
    return measured()


def check(name, lines):
    check_text("audit_searches.txt", name, "\n".join(map(str, lines)))


def flips(holds, low, high):
    """Where the answer changes between two numbers, to three figures."""
    first = bool(holds(low))
    assert bool(holds(high)) != first
    for _ in range(24):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if bool(holds(middle)) == first else (low, middle)
    return f"{high:.3g}"


def with_large(gradient, size=150):
    """The same gradients on the large pairs too."""
    found = by_hand(gradient)
    return dataclasses.replace(found, large=by_hand(gradient, large_pairs(0, size)))


def changed(found, **changes):
    return dataclasses.replace(found, **changes)


def aside(gradients, row=slice(None)):
    """At right angles to the gradients of some rows, as long as these."""
    other = np.roll(gradients, 1, axis=1) * (gradients != 0)
    other -= (
        (other * gradients).sum(1, keepdims=True) / (gradients**2).sum(1, keepdims=True) * gradients
    )
    other *= (lengths(gradients) / lengths(other))[:, None]
    kept = np.zeros_like(other)
    kept[row] = other[row]
    return kept


# ---- coefficients and parameters ----


def test_coefficients_again():
    """Least squares with one over the lengths, on the pairs for fitting."""
    found = by_hand(lambda p, q: 2 * reverse(p, q) - 0.5 * forward(p, q) + 0.01 * p)
    bases = [reverse(found.pairs.p, found.pairs.q), forward(found.pairs.p, found.pairs.q)]
    size = np.linalg.norm(found.gradients, axis=1)
    scale = 1 / np.maximum(size, np.maximum(1e-6 * size.max(), 300 * found.rounding))
    rows = np.flatnonzero(found.fit)
    matrix = np.concatenate([np.stack([b[row] for b in bases], 1) * scale[row] for row in rows])
    target = np.concatenate([found.gradients[row] * scale[row] for row in rows])
    wanted, left, *_ = np.linalg.lstsq(matrix, target, rcond=None)
    coefficients, distance = fit._project(found, bases)
    np.testing.assert_allclose(coefficients, wanted)
    assert distance == pytest.approx(math.sqrt(left[0] / len(rows)))
    for base in (0 * bases[0], np.inf * np.ones_like(bases[0])):
        assert fit._project(found, [bases[0], base])[1] == np.inf
    quiet = changed(found, gradients=found.gradients * (1 - (1 - 1e-9) * np.eye(len(size))[:1].T))
    quiet = changed(quiet, rounding=0 * size)
    assert fit._weights(quiet)[0, 0] == pytest.approx(1e6 / lengths(quiet.gradients).max())
    loud = changed(found, rounding=np.full(len(size), 0.01))
    np.testing.assert_allclose(fit._weights(loud)[:, 0], 1 / np.maximum(size, 3.0))
    assert (
        fit._weights(changed(found, gradients=0 * found.gradients, rounding=0 * size)) == 1
    ).all()


@pytest.mark.parametrize("columns", [1, 2, 3])
def test_what_is_left_of_a_target_again(columns):
    draw = np.random.default_rng(columns)
    groups, target = draw.normal(size=(5, columns, 12)), draw.normal(size=12)
    groups[1, 0] = 0
    left = fit._left_of_target(groups, target)
    for place, group in enumerate(groups):
        _, residue, *_ = np.linalg.lstsq(group.T, target, rcond=None)
        rest = (
            residue[0]
            if len(residue)
            else np.linalg.norm(target - group.T @ np.linalg.lstsq(group.T, target, rcond=None)[0])
            ** 2
        )
        assert left[place] == pytest.approx(rest, rel=1e-6)
    assert fit._left_of_target(np.ones((1, 1, 4)), np.ones(4))[0] == 0


def test_what_a_grid_leaves_over_again():
    """Beside another term, on the closer pairs for fitting alone."""
    found = by_hand(lambda p, q: reverse(p, q) + 0.3 * forward(p, q))
    family = candidates.JSD
    grid = fit._grid(family, found.pairs)
    rows = found.fit & (found.tier <= ORDINARY)
    scale = fit._weights(found)[rows]
    for others in ([], [forward(found.pairs.p, found.pairs.q)]):
        left = fit._left_over(found, grid, others)
        for place, values in list(enumerate(family.grid))[1:]:
            bases = [family.members(*values)[0].gradient(found.pairs), *others]
            matrix = np.stack([(b[rows] * scale).ravel() for b in bases], 1)
            target = (found.gradients[rows] * scale).ravel()
            residue = target - matrix @ np.linalg.lstsq(matrix, target, rcond=None)[0]
            wanted = np.linalg.norm(residue) / math.sqrt(rows.sum())
            assert left[place] == pytest.approx(wanted, abs=1e-6)


def test_numbers_without_bounds_and_back():
    for low, high, value in (
        (0, 1, 0.3),
        (0.01, 1000, 7.0),
        (1, np.inf, 3.5),
        (-np.inf, np.inf, -2.0),
    ):
        inside, outside = fit._unbounded(low, high)
        assert inside(outside(value)) == pytest.approx(value)
        assert low < inside(-3.0) < inside(3.0) < high
        slope = (inside(1e-6) - inside(-1e-6)) / 2e-6  # one step of Gauss and Newton is at most 1
        assert slope == pytest.approx({0: 0.25, 0.01: 249.9975, 1: 1.0}.get(low, 1.0), rel=1e-3)


def test_the_shortest_decimals_that_hold():
    assert fit.shortest([1 / 3, -2.0], lambda tried: abs(tried[0] - 1 / 3) < 1e-3) == [0.333, -2.0]
    assert fit.shortest([1 / 3], lambda tried: abs(tried[0] - 1 / 3) < 1e-9) == [1 / 3]
    assert fit.shortest([1 / 3], lambda tried: abs(tried[0] - 1 / 3) < 1e-6) == [0.333333]
    assert fit.shortest([1 / 3], lambda tried: abs(tried[0] - 1 / 3) < 1e-7) == [1 / 3]
    assert fit.shortest([0.0, 0.5], lambda tried: True) == [0.0, 0.5]


def test_the_simplest_scale_wins():
    of = [((value, REVERSE),) for value in (0.25, 2.0, 1.0, -3.25)]
    assert fit.simplest([of[0], None, of[1]]) == of[1] and fit.simplest(of) == of[2]
    assert fit.simplest([of[3], of[0]]) == of[0] and fit.simplest([None]) is None


FITTED = {
    "JSD(β = 0.3)": (candidates.JSD, 0.3),
    "JSD(β = 0.123456)": (candidates.JSD, 0.123456),
    "skew": (candidates.DIVERGENCES[1], 0.02),
    "other skew": (candidates.DIVERGENCES[2], 0.98),
    "α": (candidates.DIVERGENCES[3], -1.7),
    "tanh": (weights.FAMILIES[0], 0.35),
    "power": (weights.FAMILIES[1], 2.5),
    "temperature": (temperatures.KLS_AT_ONE_TEMPERATURE[0], 5.0),
    "at the end": (candidates.JSD, 1 - 1e-7),
}


@pytest.mark.parametrize("name", FITTED)
def test_parameters_are_found(name):
    family, value = FITTED[name]
    (member,) = family.members(value)
    pairs = Pairs.of(PAIRS)
    lines = []
    for factor, terms in ((1.0, []), (-2.5, []), (1.0, [REVERSE])):
        gradients = factor * member.gradient(pairs) + sum(0.5 * t.gradient(pairs) for t in terms)
        found = fit.fitted(changed(by_hand(reverse), gradients=gradients), family, terms)
        lines.append(found and names.phrase(found))
    check(f"fitted: {name}", lines)


OF_ONE_PARAMETER = (
    *(*candidates.DIVERGENCES, *weights.FAMILIES, *temperatures.KLS_AT_ONE_TEMPERATURE),
    *temperatures.NAMED_AT_ONE_TEMPERATURE[2:],  # the total variation's gradient goes in steps
    *(*heads.families(2), geometric.FAMILIES[0], *geometric.FAMILIES[2:4], *geometric.FAMILIES[5:]),
)


def test_parameters_between_those_of_the_grids_are_found():
    """From the middle between two of them.

    But for the ends of a range, where names are alike, and temperatures near 0, where gradients
    are steep.
    """
    missed = []
    for family in OF_ONE_PARAMETER:
        grid = sorted(value for (value,) in family.grid)
        for value in (float(f"{(low + high) / 2:.4g}") for low, high in zip(grid, grid[1:])):
            (member,) = family.members(value)
            gradients = member.gradient(Pairs.of(PAIRS))
            cold = "temperature" in member.name and value < 0.3
            if cold or min(abs(value), abs(1 - value)) < 1e-3 or not np.isfinite(gradients).all():
                continue
            found = fit.fitted(changed(by_hand(reverse), gradients=gradients), family)
            if not found or found[0][1].name != member.name:
                missed.append(member.name)
    assert missed == []


def test_two_parameters_are_found():
    pairs = Pairs.of(PAIRS)
    for family, values in (
        (candidates.BOTH_SKEWS, (0.1, 0.3)),
        (temperatures.KLS_AT_TWO_TEMPERATURES[1], (0.8, 3.0)),
        (temperatures.DIVERGENCES_AT_TEMPERATURE[0], (2.5, 0.2)),
    ):
        gradients = sum(member.gradient(pairs) for member in family.members(*values))
        found = fit.fitted(changed(by_hand(reverse), gradients=gradients), family)
        assert tuple(term.name for _, term in found) == tuple(
            member.name for member in family.members(*values)
        )


def test_a_step_that_leads_too_far_is_shortened():
    def members(value):
        base = lambda pairs: reverse(pairs.p, pairs.q)
        beside = lambda pairs: 0.1 * np.arctan(20 * value) * aside(base(pairs))
        return (Candidate("made", lambda pairs: base(pairs) + beside(pairs)),)

    assert fit.fitted(by_hand(reverse), Family(members, ((0.15,),), ((-np.inf, np.inf),)))


def test_only_parameters_within_their_bounds_are_tried():
    """Also where one of two is within, as in the shortest decimals of 0.99999999 and 0.5."""
    asked = []

    def members(one, other):
        asked.append((one, other))
        off = ((one - 0.99999999, FORWARD), (other - 0.5, candidates.uniform_labels()))
        return (Candidate("made", lambda pairs: verdict.sum_of(((1.0, REVERSE), *off), pairs)),)

    family = Family(members, ((0.98, 0.48),), ((0, 1), (0, 1)))
    assert fit.fitted(by_hand(reverse), family)
    assert all(0 < value < 1 for values in asked for value in values)


def near(start, parameters, terms):
    """A family that begins ``start`` away from the gradients."""
    found = by_hand(lambda p, q: reverse(p, q) + 0.5 * len(terms) * forward(p, q))
    zeros = (0.0,) * (parameters - 1)

    def members(value, *rest):
        base = lambda pairs: reverse(pairs.p, pairs.q)
        return (Candidate("made", lambda pairs: base(pairs) + value * aside(base(pairs))),)

    family = Family(members, ((start, *zeros),), ((-np.inf, np.inf),) * parameters)
    return fit.fitted(found, family, terms)


# ---- where an answer changes ----


def bent(share, row=5):
    found = by_hand(reverse)
    found.gradients[:] += share * aside(found.gradients, row)
    return found


def sum_of(share, tolerance=1e-9):
    found = by_hand(lambda p, q: reverse(p, q) + share * forward(p, q))
    return changed(found, tolerance=tolerance)


def drowned(share, row=5):
    found = by_hand(reverse)
    found.rounding[row] = share * lengths(found.gradients)[row]
    return found


def noisy(size):
    """Numbers on a line with a rounding of this size."""
    noise = np.random.default_rng(0).normal(size=(100, 40))
    return lambda step: np.sin(1 + step + np.arange(40)) + size * noise[round(step / 1e-4) % 97]


def along(share):
    student, teacher = np.log(STUDENT), np.log(TEACHER)
    rows = np.eye(3) - STUDENT
    rows = rows + share * np.roll(rows, 1, axis=1)
    return describe.acts_on([Table(student, teacher, ORDINARY, True, rows, np.ones(3))])


def nearest(share):
    found = by_hand(lambda p, q: forward(p, q))
    other = weights.TRIANGULAR.gradient(found.pairs)
    found.gradients[:] = (1 - share) * found.gradients + share * other
    return beside.compared(found, False)["nearest"]["name"]


def fixed(norm, zero=False):
    """A gradient of this length at student = teacher."""
    made = measurements()
    at = [
        dataclasses.replace(t, rows=np.full((len(t.rows), len(t.student)), norm)) for t in made.same
    ]
    seen = by_hand(lambda p, q: reverse(p, q) * (0 if zero else 1))
    return judge._fixed_point(changed(made, same=at), seen, Verdict(zero=zero))["is_fixed"]


def settled(share, tolerance):
    descent = Descent(np.zeros((2, 3)), np.array([[1.0, 0, 0], [share, 0, 0]]))
    return judge._end_of(descent, tolerance, False)["settled"]


def at_teacher(values, tolerance=1e-9):
    made = measurements()
    same = [
        dataclasses.replace(t, values=np.full(len(t.rows), value))
        for t, value in zip(made.same, values(made.same))
    ]
    return judge._value_at_teacher(changed(made, same=same), tolerance)["is"]


def entropies(same):
    return np.array([entropy(softmax(table.teacher)) for table in same])


def worst(same, share):
    """One, and one of them a share more."""
    return np.append(np.ones(len(same) - 1), 1 + share)


def of_values(share, expected=1.0, size=1.0):
    return Values(by_hand(reverse).pairs, np.full(3, expected), np.array([size, share, 0.5]))


SEEN_FROM = {
    "another direction on one pair": lambda: flips(
        lambda x: fit.confirmed(bent(x), [REVERSE]), 1e-12, 1e-3
    ),
    "another direction, coarse": lambda: flips(
        lambda x: fit.confirmed(changed(bent(x), tolerance=3e-2), [REVERSE]), 1e-4, 1
    ),
    "a second term": lambda: flips(
        lambda x: fit.confirmed(sum_of(x), [REVERSE, FORWARD]), 1e-12, 1e-3
    ),
    "a second term, coarse": lambda: flips(
        lambda x: fit.confirmed(sum_of(x, 1e-3), [REVERSE, FORWARD]), 1e-9, 0.5
    ),
    "nearly": lambda: flips(lambda x: fit.nearly(sum_of(x), [REVERSE]), 1e-8, 1),
    "nearly, less close": lambda: flips(lambda x: fit.nearly(sum_of(x), [REVERSE], 0.1), 1e-8, 2),
    "start of one parameter": lambda: flips(lambda x: near(x, 1, []), 0.01, 3),
    "start of two": lambda: flips(lambda x: near(x, 2, []), 0.01, 3),
    "start beside a term": lambda: flips(lambda x: near(x, 1, [FORWARD]), 0.001, 3),
    "a gradient drowns": lambda: flips(lambda x: verdict._drowned(drowned(x)), 1e-3, 1),
    "a plainer name": lambda: flips(
        lambda x: (
            len(verdict._plainer(((1 + x, REVERSE), (0.5 * 0, candidates.entropy())))) == 1
            if x < 0
            else len(verdict._plainer(((1.5 + x, REVERSE), (0.5, candidates.entropy())))) == 1
        ),
        1e-12,
        1e-3,
    ),
    "rounding of float32": lambda: flips(
        lambda x: formats.by_rounding(noisy(x)) == "float64", 1e-14, 1e-8
    ),
    "rounding of float16": lambda: flips(
        lambda x: formats.by_rounding(noisy(x)) == "float32", 1e-7, 1e-4
    ),
    "rounding of bfloat16": lambda: flips(
        lambda x: formats.by_rounding(noisy(x)) == "float16", 6e-5, 2e-3
    ),
    "nothing but rounding": lambda: flips(
        lambda x: formats.by_rounding(noisy(x)) == "bfloat16", 2e-3, 1
    ),
    "more than the score": lambda: flips(lambda x: along(x) == describe.SCORE, 1e-9, 1e-2),
    "another is nearer": lambda: flips(lambda x: nearest(x) == "forward KL", 0.01, 0.99),
    "not at rest": lambda: flips(fixed, 1e-14, 1),
    "zero not at rest": lambda: flips(lambda x: fixed(x, True), 1e-18, 1),
    "settled": lambda: flips(lambda x: settled(x, 1e-9), 1e-12, 0.1),
    "settled, coarse": lambda: flips(lambda x: settled(x, 1e-3), 1e-12, 0.1),
    "value of nothing": lambda: flips(
        lambda x: at_teacher(lambda same: x * np.arange(1, len(same) + 1)) == "zero", 1e-14, 1e-3
    ),
    "value of nothing, exact": lambda: flips(
        lambda x: at_teacher(lambda same: x * np.arange(1, len(same) + 1), 0) == "zero", 1e-16, 1e-3
    ),
    "the teacher's entropy": lambda: flips(
        lambda x: at_teacher(lambda same: entropies(same) * worst(same, x)), 1e-12, 1e-3
    ),
    "no share of it": lambda: flips(
        lambda x: at_teacher(lambda same: (1 + x) * entropies(same)) == "the teacher's entropy",
        1e-12,
        1e-3,
    ),
    "a constant": lambda: flips(lambda x: at_teacher(lambda same: worst(same, x)), 1e-12, 1e-3),
    "other tokens unchanged": lambda: flips(
        lambda x: "unchanged" in masked(STUDENT - TEACHER, 1 + x), 1e-8, 0.1
    ),
    "nothing unchanged": lambda: flips(
        lambda x: "unchanged" in masked(np.zeros(3), 1, x), 1e-15, 1e-8
    ),
    "other tokens scaled": lambda: flips(
        lambda x: "multiplied" in masked(STUDENT - TEACHER, 2, x), 1e-8, 0.5
    ),
    "unchanged in bfloat16": lambda: flips(
        lambda x: "unchanged" in masked(STUDENT - TEACHER, 1 + x, precision="bfloat16"), 1e-8, 0.5
    ),
    "a constant added": lambda: flips(lambda x: constant(x, "float64"), 1e-9, 0.1),
    "a constant added, float32": lambda: flips(lambda x: constant(x, "float32"), 1e-9, 0.1),
    "a constant added, bfloat16": lambda: flips(lambda x: constant(x, "bfloat16"), 1e-9, 0.9),
    "values agree": lambda: flips(
        lambda x: of_values(0.5).agree(np.array([1.0, 1.0 + x, 1.0]), 1e-9), 1e-12, 1e-3
    ),
    "values agree, coarse": lambda: flips(
        lambda x: of_values(0.5).agree(np.array([1.0, 1.0 + x, 1.0]), 0.03), 1e-5, 3
    ),
    "values are zero": lambda: flips(lambda x: of_values(0.5, x).are_zero(1e-9), 1e-14, 1e-3),
    "values are zero, coarse": lambda: flips(lambda x: of_values(0.5, x).are_zero(0.03), 1e-8, 1),
    "a value's second term": lambda: flips(
        lambda x: name_values([value_of_two(x)], 1e-9) == "KL(p‖q)", 1e-12, 1e-2
    ),
    "a second term large enough to be named": lambda: flips(
        lambda x: name_values([value_of_two(x)], 1e-9) is None, 1e-10, 1e-2
    ),
}


def sloped(off, error):
    """Sixteen tokens, two of a level, whose gradients go with p^0.5; one's is off."""
    log_p = np.linspace(-3, -1, 16)
    gradient = np.exp(0.5 * log_p)
    gradient[0] *= 1 + off
    return ratios.Tokens(log_p * 0, np.repeat(np.arange(8), 2), log_p, gradient, error)


def alike(count, off=0.0, same=0.0):
    """Tokens of one log-ratio and one probability, whose gradients are ``same`` but two's."""
    gradient = same + np.append([off, -off], np.zeros(count - 2))
    return ratios.Tokens(
        np.zeros(count), np.zeros(count, int), np.full(count, -2.0), gradient, 1e-9
    )


def temperature_of(*slopes, tolerance=1e-9):
    with mock.patch.multiple(ratios, tokens_of=lambda found: slopes, _slope=lambda slope: slope):
        return ratios.temperature(types.SimpleNamespace(tolerance=tolerance))


def clip_bent(off):
    """A weight that is clipped at ±0.75 beyond three points, of which one is off."""
    xs = np.array([-3, -2, -1, -0.5, 0, 0.5, 1, 2, 3])
    curve = curve_of(xs, np.clip(xs, -0.75, 0.75) + off * (xs == 0), 1e-6)
    return list(weights.clipped(curve))


def placed(at, other, precision="float64"):
    return limits._placed((at, "cut", None), (other, "cut", None), 1, precision)


def uncertain(off):
    """Each gradient beside the reverse KL's by a part of its rounding, which is large."""
    found = by_hand(reverse)
    found.rounding[:] = 0.1 * lengths(found.gradients)
    found.gradients[:] += off * 0.1 * aside(found.gradients)
    return fit.confirmed(found, [REVERSE])


ON_PATHS = {
    "most left over": lambda: flips(uncertain, 1e-3, 0.9),
    "a weight of its own": lambda: flips(lambda x: ratios._agree(alike(9, x)), 1e-12, 1e-3),
    "weights that sum to something": lambda: flips(
        lambda x: ratios._agree(alike(9, same=x)), 1e-12, 1e-3
    ),
    "a slope of its own": lambda: flips(lambda x: ratios._slope(sloped(x, 1e-15)), 1e-12, 1e-2),
    "a slope of its own, rounded": lambda: flips(
        lambda x: ratios._slope(sloped(x, 1e-6)), 1e-12, 1e-2
    ),
    "two temperatures": lambda: flips(lambda x: temperature_of(0.5, 0.5 + x), 1e-8, 1e-2),
    "a plain temperature": lambda: flips(lambda x: temperature_of(0.5 + x) == 2, 1e-12, 1e-3),
    "a plain temperature, float32": lambda: flips(
        lambda x: temperature_of(0.5 + x, tolerance=2e-5) == 2, 1e-12, 1e-2
    ),
    "no temperature": lambda: flips(lambda x: temperature_of(1 - x) is None, 1e-9, 1e-3),
    "no clip": lambda: flips(clip_bent, 1e-9, 1e-3),
    "one limit": lambda: flips(lambda x: placed(5.0, 5 + x).everywhere, 1e-4, 0.5),
    "one limit, far": lambda: flips(lambda x: placed(600.0, 600 + x).everywhere, 1e-4, 1),
    "one limit, half": lambda: flips(lambda x: placed(5.0, 5 + x, "float16").everywhere, 0.01, 1),
    "one floor": lambda: flips(lambda x: placed(9.0, 9 - math.log(4) + x).everywhere, 1e-4, 0.5),
    "more than a score": lambda: flips(
        lambda x: limits._weight(np.eye(3)[0] - STUDENT + x * AT_RIGHT, STUDENT, 1e-6), 1e-9, 1e-2
    ),
    "gradients large enough": lambda: flips(
        lambda x: pairs._gradients_seen(np.zeros(3), x * np.array([1.0, 0.5, 0.0])), 1e-3, 1
    ),
}
AT_RIGHT = np.cross(np.eye(3)[0] - STUDENT, np.ones(3))


def value_of_two(share):
    pairs = by_hand(reverse).pairs
    kl, own = objectives.reverse_kl(pairs.p, pairs.q), entropy(pairs.p)
    return Values(pairs, kl + share * own, np.full(len(kl), 1e-6))


def masked(expected, factor, off=0.0, precision="float64"):
    """The finding on masked tokens where the others' gradient is a multiple and some more."""
    gradient = factor * expected + off * np.array([1.0, -1.0, 0.0])
    found = findings(calls(masked=mean([*gradient, 0])), expected, precision)
    return found[0]["finding"]


def constant(share, precision):
    expected = (STUDENT - TEACHER) + share / 3
    return findings(calls(), expected, precision)[5]["severity"] == "note"


def test_where_an_answer_changes():
    check("where an answer changes", (f"{name}: {of()}" for name, of in SEEN_FROM.items()))
    check("where others change", (f"{name}: {of()}" for name, of in ON_PATHS.items()))
    assert clip_bent(0.0)[0].name == "f-divergence with weight log p/q clipped to ±0.8"
    few = curve_of([-2, -1, -0.5, 0.5, 1, 2], [-1, -1, -0.5, 0.5, 1, 1], 1e-6)
    assert not list(weights.clipped(few))  # two points tell no line from another
    of_seen = lambda count, of=np.exp: ratios.Tokens(
        *(np.zeros(count), np.arange(count), x := np.linspace(-3, -1, count), of(0.5 * x), 1e-9)
    )
    assert ratios._slope_of_most(of_seen(32)) == pytest.approx(0.5)
    assert ratios._slope_of_most(of_seen(31)) is None
    assert ratios._slope_of_most(of_seen(32, lambda x: np.exp(-x))) is None


# ---- weights of the log-ratio ----

SHAPES = {
    "tanh": lambda r: np.tanh(r),
    "arctan": np.arctan,
    "clipped": lambda r: np.clip(r, -0.5, 0.25),
    "clipped above": lambda r: np.minimum(r, 0.3),
    "clipped below": lambda r: np.maximum(r, -0.3),
    "clipped evenly": lambda r: np.clip(3 * r, -0.75, 0.75),
    "q/p clipped": lambda r: -np.clip(np.exp(-r), 0.8, 1.2),
    "p/q clipped": lambda r: np.clip(np.exp(r), 0.5, 2),
    "clipped at 0": lambda r: np.maximum(r, 0),
    "flat": lambda r: 0 * r + 2,
    "falls": lambda r: -np.tanh(r),
    "hardly falls": lambda r: np.tanh(r) - 0.3 * r,
    "in a step": lambda r: 0.5 * np.sign(r),
    "a power": lambda r: np.sign(r) * np.abs(r) ** 1.5,
}


def of_weight(weight):
    def gradient(p, q):
        with np.errstate(invalid="ignore", divide="ignore"):
            rows = np.where(
                p > 0, p * weight(np.log(np.where(p > 0, p, 1) / np.where(p > 0, q, 1))), 0
            )
        return rows - p * rows.sum(axis=-1, keepdims=True)

    return gradient


@pytest.mark.parametrize("name", SHAPES)
def test_weights_of_the_log_ratio(name):
    found = with_large(of_weight(SHAPES[name]))
    curve = ratios.curve(found)
    with np.errstate(all="ignore"):
        named = identify(found)
    lines = [
        f"alone {ratios.of_the_ratio_alone(found)}, temperature {ratios.temperature(found)}",
        f"{len(curve.ratios)} points, increasing {curve.increasing}, flat {curve.is_flat()}",
        " ".join(
            f"({curve.ratios[i]:.4g}, {curve.weights[i]:.3f})"
            for i in range(0, len(curve.ratios), 7)
        ),
        f"follows on {ratios.follows(found, curve).sum()} pairs",
        f"clipped: {[candidate.name for candidate in weights.clipped(curve)][:2]}",
        f"verdict: {named.name}, on {named.holds.sum()} pairs, vague {named.is_vague}",
    ]
    check(f"weight: {name}", lines)


def softened(gradient, student, teacher):
    def of(p, q):
        with np.errstate(divide="ignore"):
            return gradient(softmax(np.log(p) / student), softmax(np.log(q) / teacher)) / student

    return of


def first_two(found):
    """Without the third large pair, whose tokens are too few."""
    return changed(found, large=found.large[:2])


def test_temperatures_are_read_off_the_large_pairs():
    lines = []
    for value in (0.5, 0.7, 0.99999, 1.0, 1.0000005, 2.0, math.pi, 4.123456789):
        for name, gradient in (("reverse", reverse), ("forward", forward)):
            found = first_two(with_large(softened(gradient, value, value)))
            lines.append(f"{value} {name}: {ratios.temperature(found)}")
    for name, gradient in (
        ("student alone", softened(reverse, 2, 1)),
        ("teacher alone", softened(forward, 1, 2)),
        ("first 3", softened(lambda p, q: heads.top_k(3)[0].gradient(logs(p, q)), 2, 2)),
        ("tail dropped", softened(lambda p, q: heads.top_k(3)[4].gradient(logs(p, q)), 2, 2)),
        ("hard", lambda p, q: candidates.likeliest_token().gradient(logs(p, q))),
    ):
        lines.append(f"{name}: {ratios.temperature(first_two(with_large(gradient)))}")
    assert ratios.temperature(by_hand(reverse)) is None
    check("temperatures", lines)


def logs(p, q):
    with np.errstate(divide="ignore"):
        return Pairs(np.log(p), np.log(q))


def test_without_enough_tokens_of_one_log_ratio_nothing_is_told():
    """Two of a level are one beside another; of a dozen tokens there are few."""
    lines = []
    for size in (12, 20, 40):
        found = with_large(reverse, size)
        together = [len(t.level) - 1 - int(t.level[-1]) for t in ratios.tokens_of(found)]
        lines.append(f"{size}: {together}, {ratios.of_the_ratio_alone(found)}")
        for few in range(1, 4):
            part = changed(found, large=found.large[:few])
            lines.append(f"  first {few}: {ratios.of_the_ratio_alone(part)}")
    check("tokens beside another", lines)
    assert ratios.tokens_of(changed(found, tolerance=2e-3)) == []
    assert len(ratios.tokens_of(changed(found, tolerance=1e-3))) == 3


def test_eight_tokens_beside_another_are_enough_and_all_pairs_must_agree(monkeypatch):
    for found, told in (
        ([alike(8)], None),
        ([alike(9)], True),
        ([alike(9), alike(9, 1e-3)], False),
    ):
        monkeypatch.setattr(ratios, "tokens_of", lambda expected, found=found: found)
        assert ratios.of_the_ratio_alone(None) is told


def curve_of(xs, weights_, error):
    return ratios.Curve(np.array(xs, float), np.array(weights_, float), np.full(len(xs), error))


def test_curves_put_together():
    one = curve_of([-1, 0, 1, 2], [5, 6, 7, 8], 0.1)
    other = curve_of([0, 1, 1.5, 3], [0, 1, 1.5, 3], 0.2)
    joined = ratios._joined(one, other)
    np.testing.assert_allclose(joined.ratios, [-1, 0, 1, 1.5, 2, 3])
    np.testing.assert_allclose(joined.weights, [5, 6, 7, 7.5, 8, 9])
    np.testing.assert_allclose(joined.errors, [0.1, 0.1, 0.1, 0.5, 0.1, 0.5])
    assert ratios._joined(one, curve_of([1, 3], [1, 3], 0.1)) is None  # one point in common
    bend = lambda off: ratios._joined(one, curve_of([0, 1, 2], [0, 1 + off, 2], 0.1))
    assert bend(0.59) and not bend(0.61)  # off by 2/3 from the mean of the three shifts
    zero = ratios._around_zero(curve_of([-1, 1, 2], [1, 3, 7], 0.1))
    np.testing.assert_allclose(zero.weights, [-1, 1, 5])
    for xs in ([1, 2], [-2, -1]):
        assert ratios._around_zero(curve_of(xs, [1, 2], 0.1)).weights.tolist() == [1, 2]
    assert (
        curve_of([0, 1], [0, 0.4], 0.1).is_flat() and not curve_of([0, 1], [0, 0.41], 0.1).is_flat()
    )
    assert curve_of([0, 1], [0.2, 0], 0.1).increasing
    assert not curve_of([0, 1], [0.21, 0], 0.1).increasing


# ---- weights that depend on the pair ----


def wanted_quantities(p, q):
    kl = lambda a, b: sum(x * math.log(x / y) for x, y in zip(a, b))
    h = lambda a: -sum(x * math.log(x) for x in a)
    ratio, size = np.log(p / q), len(p)
    forward_kl, reverse_kl = kl(q, p), kl(p, q)
    return {
        "V": size,
        "KL(p‖q)": reverse_kl,
        "KL(q‖p)": forward_kl,
        "H(q)": h(q),
        "H(p)": h(p),
        "std(log p/q)": math.sqrt(sum(p * (ratio - sum(p * ratio)) ** 2)),
        "H(q)/log V": h(q) / math.log(size),
        "H(p)/log V": h(p) / math.log(size),
        "max q": max(q),
        "max p": max(p),
        "p of the teacher's likeliest token": p[list(q).index(max(q))],
        "q of the student's likeliest token": q[list(p).index(max(p))],
        "TV(p, q)": sum(abs(p - q)) / 2,
        "Σ p q": sum(p * q),
        "KL(q‖p)/(KL(p‖q) + KL(q‖p))": forward_kl / (reverse_kl + forward_kl),
        "KL(p‖q)/(KL(p‖q) + KL(q‖p))": reverse_kl / (reverse_kl + forward_kl),
        "H(q)/(H(p) + H(q))": h(q) / (h(p) + h(q)),
    }


def test_quantities_of_a_pair_again():
    found = mixtures._more_quantities(Pairs.of(ORDINARY_PAIRS))
    for row, pair in enumerate(ORDINARY_PAIRS):
        wanted = wanted_quantities(softmax(pair.student), softmax(pair.teacher))
        assert found.keys() == wanted.keys()
        for name, value in wanted.items():
            assert found[name][row] == pytest.approx(value, rel=1e-9), name


LAWS = {
    "itself": lambda x: x,
    "less": lambda x: 1 - x,
    "affine": lambda x: 0.25 - 2 * x,
    "power": lambda x: 3 * x**1.5,
    "negative root": lambda x: -np.sqrt(x),
    "inverse": lambda x: 0.5 / x,
    "exponential": lambda x: np.exp(0.5 - 2 * x),
    "negative exponential": lambda x: -np.exp(x),
    "sigmoid": lambda x: 1 / (1 + np.exp(2 - 3 * x)),
    "another": lambda x: np.sin(3 * x),
    "of nine digits": lambda x: 0.123456789 - 2.34567891 * x,
}


def mixed(first, second):
    """Forward and reverse KL with weights (N,) of each pair."""
    found = by_hand(lambda p, q: p * 0, ORDINARY_PAIRS)
    known = mixtures._more_quantities(found.pairs)
    p, q = found.pairs.p, found.pairs.q
    gradients = first(known)[:, None] * forward(p, q) + second(known)[:, None] * reverse(p, q)
    return changed(found, gradients=gradients)


def mixture_line(found):
    named = mixtures.mixture(found)
    return named and (named.name or f"laws {named.laws}")


def test_mixtures_have_laws():
    one = lambda known: np.ones(len(known["V"]))
    lines = []
    for name in wanted_quantities(STUDENT, TEACHER):
        weight = lambda known, name=name: known[name]
        lines.append(mixture_line(mixed(weight, lambda known, w=weight: 1 - w(known))))
    for kind, law in LAWS.items():
        weight = lambda known, law=law: law(known["H(q)"])
        lines.append(f"{kind}: {mixture_line(mixed(weight, lambda known, w=weight: 1 - w(known)))}")
        lines.append(
            f"  the other: {mixture_line(mixed(lambda known, w=weight: 1 - w(known), weight))}"
        )
        lines.append(f"  alone: {mixture_line(mixed(weight, one))}")
        lines.append(f"  halved: {mixture_line(mixed(lambda known: 0.5 * one(known), weight))}")
        lines.append(f"  of two: {mixture_line(mixed(weight, lambda known: -known['max p']))}")
    for weight in (0.123456789, 0.1234567891):
        of_one = lambda known, weight=weight: weight * one(known)
        lines.append(f"{weight}: {mixture_line(mixed(of_one, lambda known: known['H(q)']))}")
    check("mixtures", lines)
    parallel = [Pair(np.array([1.0, 0.0]), np.array([2.0, 0.0]))] * 6  # two tokens, one direction
    assert mixtures.mixture(by_hand(forward, parallel)) is None
    assert mixtures._number(by_hand(forward, parallel), np.zeros(6), lambda values: True) is None


def test_factors_have_laws():
    lines = []
    found = by_hand(lambda p, q: p * 0, ORDINARY_PAIRS)
    known = mixtures._more_quantities(found.pairs)
    bases = {"forward": FORWARD, "JSD": candidates.jsd(0.5), "χ²": weights.CHI_SQUARED}
    for (base, name), law in zip(
        itertools.product(bases, ("H(q)", "V", "KL(p‖q)", "max q")), itertools.cycle(LAWS.values())
    ):
        gradients = law(known[name])[:, None] * bases[base].gradient(found.pairs)
        named = mixtures.one_with_a_factor(changed(found, gradients=gradients))
        if named:
            sign, candidate, factor = named
            named = (
                f"{sign:g} {candidate.name}: {factor.words} ({factor.number:g}, {factor.power:g})"
            )
        lines.append(f"{base}, {name}: {named}")
    for name, law in LAWS.items():
        gradients = law(known["H(q)"])[:, None] * REVERSE.gradient(found.pairs)
        named = mixtures.one_with_a_factor(changed(found, gradients=gradients))
        lines.append(f"{name}: {named and (named[0], named[2].words)}")
    # Not a power of V on other pairs; and small, but no other power of anything for that.
    whole = with_large(lambda p, q: (p > 0).sum(1, keepdims=True) * reverse(p, q))
    other = changed(whole, large=by_hand(lambda p, q: 7 * reverse(p, q), large_pairs(0, 20)))
    tiny = 1e-10 * (1 + known["H(q)"])[:, None] * REVERSE.gradient(found.pairs)
    tiny = changed(found, gradients=tiny, rounding=1e-13 * found.rounding)
    for name, of in (("on all", whole), ("not on all", other), ("tiny", tiny)):
        lines.append(f"{name}: {mixtures.one_with_a_factor(of)[2].words}")
    check("factors", lines)
    assert mixtures._bracketed("a + b") == "(a + b)" and mixtures._bracketed("(a + b)") == "(a + b)"
    assert (
        mixtures._bracketed("(a) − (b)") == "((a) − (b))"
        and mixtures._bracketed("f(a + b)") == "f(a + b)"
    )
    one_less = {
        "x": "1 − x",
        "1 − x": "x",
        "1 − (a + b)": "a + b",
        "1 − (a) + (b)": "(a) + (b)",
        "a + b": "1 − (a + b)",
        "−1 × √x": "1 + √x",
        "−exp(a + b)": "1 + exp(a + b)",
        "−2 + x": "1 − (−2 + x)",
    }
    assert {law: mixtures._one_less(law) for law in one_less} == one_less


# ---- the first tokens ----


def uniform_outside(p, q, k=3):
    order = np.argsort(-q, axis=-1, kind="stable")
    kept = np.zeros(q.shape, bool)
    np.put_along_axis(kept, order[:, :k], True, axis=-1)
    outside = ~kept & (p > 0)
    left = np.where(outside, q, 0).sum(1, keepdims=True) / np.maximum(
        outside.sum(1, keepdims=True), 1
    )
    return np.where(outside, left, q)


HEADS = {
    **{candidate.name: candidate for candidate in heads.top_k(3)},
    "JSD": heads._of_jsd("student", 3, "tail", 0.25),
    "total variation": heads.named_on_head(3)[0],
    "floored": teachers._reverse_to_floored("teacher", 3, False, -20.0, "e^−20"),
    "floored and renormalized": teachers._reverse_to_floored(
        "student", 3, True, math.log(1e-4), "0.0001"
    ),
    "uniform": Candidate("", lambda pairs: forward(pairs.p, uniform_outside(pairs.p, pairs.q))),
    "uniform, reverse": Candidate(
        "", lambda pairs: reverse(pairs.p, uniform_outside(pairs.p, pairs.q))
    ),
    "one softened": temperatures.at_temperature(heads.top_k(3)[3], 1, 2),
    "the teacher softened": temperatures.at_temperature(heads.top_k(3)[6], 1, 2),
    "both softened": temperatures.at_temperature(heads.top_k(3)[0], 2, 2),
    "the whole": REVERSE,
}


def test_where_no_first_tokens_are_told():
    nothing = lambda p, q: 0 * p
    for found in (by_hand(reverse), by_hand(nothing), with_large(nothing)):
        with np.errstate(all="ignore"):
            assert head_search._heads(found) == {}
    assert head_search._alike(np.zeros(5), 1e-6) == 5
    # Read off an ordinary pair; and a K that only one pair can show is none.
    top = lambda k: lambda p, q: heads.top_k(k)[0].gradient(logs(p, q))
    found = by_hand(top(3))
    far, uniform = found.tier > ORDINARY, candidates.uniform_labels().gradient(found.pairs)
    found.gradients[far] = uniform[far]
    with np.errstate(all="ignore"):
        assert sorted(head_search._heads(found)) == [3]
        # All pairs of enough tokens must show it, one of K + 2 too.
        assert head_search._heads(changed(found, large=by_hand(reverse, large_pairs(0, 150)))) == {}
        most = with_large(top(10))
        assert sorted(head_search._heads(most)) == [10]
        most.large.gradients[2, :12] = np.cos(np.arange(12))
        assert "1 in proportion to p" not in head_search._heads(most).get(10, ())
        found = with_large(top(20))
        assert head_search.search(changed(found, large=found.large[:1])) is None
        assert names.phrase(head_search.search(found)).endswith("top 20, renormalized")


def test_floors_in_words():
    for level, digits, wanted in (
        (math.log(1e-10), 1, (math.log(1e-10), "1e-10")),
        (-100.0, 1, (-100.0, "e^−100")),
        (-800.0, 1, (-800.0, "e^−800")),  # which no float holds
        (0.0, 1, (0.0, "1")),
        (math.log(1.234567e-3), 7, (math.log(1.234567e-3), "0.00123457")),
    ):
        with np.errstate(all="raise", under="ignore"):
            assert teachers._plain_floor(level, digits) == (pytest.approx(wanted[0]), wanted[1])
    of = teachers._reverse_to_floored("teacher", 2, False, math.log(1.234567e-3))
    ((_, floored),) = teachers.floored(by_hand(lambda p, q: of.gradient(logs(p, q))), "teacher", 2)
    assert floored.gradient(Pairs.of(PAIRS)) == pytest.approx(of.gradient(Pairs.of(PAIRS)))


@pytest.mark.parametrize("name", HEADS)
def test_first_tokens(name):
    def gradient(p, q):
        return 2 * HEADS[name].gradient(logs(p, q))

    found = with_large(gradient)
    with np.errstate(all="ignore"):
        seen = {k: sorted(signs) for k, signs in sorted(head_search._heads(found).items())}
        terms = head_search.search(found)
        again = head_search.search(found, softened=True)
    lines = [seen, terms and names.phrase(terms), terms and [dict(t.parameters) for _, t in terms]]
    check(f"first tokens: {name}", [*lines, f"of softened models: {again and names.phrase(again)}"])


# ---- names ----


def test_numbers_in_names():
    lines = [f"{value!r}: {names.coefficient_text(value)}" for value in NUMBERS]
    lines += [f"{value!r}: {names.format_number(value)}" for value in NUMBERS]
    lines += [names.power_text(2.0, "H(q)", power) for power in (1.0, -1.0, 0.5, -0.5, 2.0, 1.25)]
    for coefficients in ((1, 1), (-1, 2), (0.5, -0.25), (-1, -1), (3, 0.1)):
        for per_token in (False, True):
            terms = list(zip(coefficients, (FORWARD, REVERSE)))
            lines += [names.phrase(terms, per_token), names.phrase(terms[:1], per_token)]
    lines += [names.times(value, "1/V × entropy") for value in (1.0, -2.0)]
    check("names", lines)


NUMBERS = (1.0, -1.0, 2.0, 0.5, -0.25, 1e-20, 1 + 2e-9, 1 - 1e-15, -1 - 1e-8, 1 / 3, 123456789.0)


def test_other_names_of_a_sum():
    geometric = lambda power: Candidate("to q, held fixed", None, None, (("power", power),))
    lines = []
    for terms in (
        [(2.0, FORWARD), (2.0, REVERSE)],
        [(2.0, FORWARD), (1.0, REVERSE)],
        [(1.0, REVERSE), (1.0, candidates.entropy())],
        [(1.0, REVERSE), (-1.0, candidates.entropy())],
        [(3.0, candidates.jsd(0.5))],
        [(3.0, candidates.jsd(0.25))],
        [(1.0, candidates.alpha_divergence(2.0))],
        [(1.0, candidates.alpha_divergence(-1.0))],
        [(1.0, candidates.alpha_divergence(0.5))],
        [(1.0, geometric(0.25))],
        [(1.0, geometric(1.0))],
        [],
    ):
        other = names.also(terms)
        lines.append(f"{other} | {other and names.without_formula(other)}")
    check("other names", lines)


def test_a_sigmoid_or_a_tanh():
    lines = []
    for coefficient, factor in (
        (0.5, 0.5),
        (1.0, 1.0),
        (2.0, 0.5),
        (0.5, 1.0),
        (-0.5, 1.5),
        (0.35, 0.15),
    ):
        terms = ((coefficient, weights.tanh_of(factor)),)
        lines.append(names.phrase(weights.simpler(terms)))
    both = ((1.0, weights.tanh_of(1.0)), (1.0, FORWARD))
    assert weights.simpler(both) is both and weights.simpler(None) is None
    assert weights.simpler(((0.5, FORWARD),)) == ((0.5, FORWARD),)
    check("sigmoid or tanh", lines)
    between = weights._between("log p/q", lambda r: r, None, 1.23456789123)
    most = [dict(candidate.parameters)["high"] for candidate in between]
    assert most == [1.0, 1.2, 1.23, 1.235, 1.23457, 1.23456789]


# ---- verdicts ----


def test_what_a_draw_acts_on():
    score, alike = np.eye(3) - STUDENT, np.tile([0.1, 0.2, -0.3], (3, 1))

    def of(rows, tier=ORDINARY):
        return Table(np.log(STUDENT), np.log(TEACHER), tier, True, rows, np.ones(3))

    for tables, acts_on in (
        ([of(alike), of(2 * alike)], describe.ALL),
        ([of(alike), of(score)], describe.DRAWN),
        ([of(np.eye(3)), of(score)], describe.DRAWN),
        ([of(score), of(np.eye(3))], describe.DRAWN),
        ([of(score), of(0 * score)], describe.SCORE),
        ([of(np.eye(3)), of(0 * score)], describe.LOGIT),
        ([of(alike, 0), of(score), of(alike, 2)], describe.SCORE),
    ):
        assert describe.acts_on(tables) == acts_on


def test_which_verdicts_have_a_curve_beside_them():
    found = with_large(of_weight(lambda r: r + 0.25 * np.sign(r)))
    for terms, shown in (
        ((REVERSE,), False),
        ((REVERSE, weights.TOTAL_VARIATION), True),
        ((weights.tanh_of(2.0),), True),
        ((), True),
    ):
        of = Verdict(tuple((1.0, term) for term in terms))
        assert (describe._curve_of(found, of) is not None) == shown
    curve = curve_of([-1, 0, 1.23456789012], [4e-13, 2.4e-12, 1.23456789], 0.1)
    fields = describe._as_fields(curve)
    assert fields["weight"] == [0.0, 2e-12, 1.23457] and fields["log_ratio"][2] == 1.23456789


def test_the_name_on_both_sides_of_limits():
    found = with_large(of_weight(np.arctan))
    near = Verdict(((1.0, REVERSE),), holds=np.zeros(len(PAIRS), bool))
    whole = dataclasses.replace(near, holds=~near.holds)
    assert judge._everywhere(found, near) == "f-divergence"
    assert judge._everywhere(found, whole) is None
    assert judge._everywhere(changed(found, tolerance=3e-2), near) is None


def test_where_gradients_are_not_finite_or_nothing():
    found = by_hand(reverse)
    far = found.tier == 3
    found.gradients[far] = np.nan
    named = identify(found)
    assert named.name == "reverse KL" and (named.holds == ~far).all()
    small = changed(by_hand(lambda p, q: 0 * p), large=by_hand(reverse, large_pairs(0, 20)))
    assert not identify(small).zero and identify(with_large(lambda p, q: 0 * p)).zero
    both = lambda of: identify(by_hand(lambda p, q: 2 * of.gradient(logs(p, q)))).name
    assert both(weights.CHI_SQUARED) == "4 × α-divergence(α = 2)"  # as short as 2 × χ²


def test_a_few_pairs_may_drown():
    """A few gradients that rounding hides are left out, and held to afterwards; not many."""
    lines = []
    for shape in ("reverse", "arctan"):
        gradient = reverse if shape == "reverse" else of_weight(np.arctan)
        for count in (0, 1, 5, 6, 7, 20):
            found = with_large(gradient)
            rows = np.flatnonzero(found.tier <= ORDINARY)[:count]
            found.rounding[rows] = 0.5 * lengths(found.gradients)[rows]
            named = judge._identify(found)
            lines.append(f"{shape}, {count}: {named.name} on {named.holds.sum()} pairs")
    check("drowned pairs", lines)


def test_how_far_a_verdict_holds_again():
    found = by_hand(reverse)
    distance = found.pairs.distance()
    for failing in ([], [3], [3, 30], list(range(len(distance)))):
        holds = np.isin(np.arange(len(distance)), failing, invert=True)
        least = min((distance[row] for row in failing), default=np.inf)
        wanted = max((d for d in distance if d < least), default=None)
        assert judge._holds_up_to(found, Verdict(((1.0, REVERSE),), holds=holds)) == wanted
    farther = by_hand(reverse, [Pair(np.array([2.0, 0, 0]), np.array([0, 0, 2.0]))])
    of_all = Verdict(((1.0, REVERSE),), holds=np.zeros(len(distance), bool))
    closest = changed(farther, pairs=Pairs(np.array([[1e-6, 0, 0]]), np.zeros((1, 3))))
    closest = changed(closest, gradients=reverse(closest.pairs.p, closest.pairs.q))
    near = judge._holds_up_to(changed(found, near=closest), of_all)
    assert near == pytest.approx(closest.pairs.distance()[0])
    assert judge._holds_up_to(changed(found, near=farther), of_all) is None
    assert judge._holds_up_to(changed(found, near=closest), Verdict(holds=of_all.holds)) is None


def test_a_token_is_used_where_any_row_or_value_differs():
    plain = Table(np.zeros(2), np.zeros(2), 1, True, np.ones((2, 2)), np.ones(2))
    rows = changed(plain, rows=np.array([[1.0, 1.0], [1.0, 2.0]]))
    values = changed(plain, values=np.array([1.0, 2.0]))
    single = changed(plain, rows=np.ones((1, 2)), values=np.ones(1))
    for tables, uses in (
        ([plain, single], False),
        ([plain, rows], True),
        ([single, values], True),
    ):
        assert judge._uses_token(tables) == uses


def test_what_a_verdict_knows():
    vague = mixtures.Factor(1.0)
    law, power = mixtures.Factor(1.0, law="H(q)"), mixtures.Factor(1.0, "V")
    some = mixtures.Mixture((FORWARD, REVERSE), (np.ones(1), np.ones(1)), ("x", "1 − x"))
    curve = weights.any_f_divergence(curve_of([0, 1], [0, 1], 0.1))
    of = ((1.0, REVERSE),)
    for found, known, is_vague in (
        (Verdict(), False, False),
        (Verdict(of), True, False),
        (Verdict(of, factor=vague), True, True),
        (Verdict(of, factor=law), True, False),
        (Verdict(of, factor=power), True, False),
        (Verdict(((1.0, curve),)), True, True),
        (Verdict(((1.0, FORWARD), (1.0, curve))), True, True),
        (Verdict(mixture=some), True, False),
        (Verdict(mixture=changed(some, laws=("x", None))), False, False),
    ):
        assert (found.known, found.is_vague) == (known, is_vague)
    assert Verdict(mixture=some).name == "x × forward KL + (1 − x) × reverse KL"
    pairs = Pairs.of(PAIRS)
    whole = 2 * forward(pairs.p, pairs.q) - reverse(pairs.p, pairs.q)
    terms = ((2.0, FORWARD), (-1.0, REVERSE))
    np.testing.assert_allclose(Verdict(terms).gradient(pairs), whole)
    per_token = Verdict(terms, True).gradient(pairs)
    np.testing.assert_allclose(per_token, whole / pairs.sizes[:, None])


def test_which_two_terms_may_be_mixed():
    """Every two of the four, and no others: weighted by the teacher's entropy and by nothing."""
    four = (FORWARD, REVERSE, candidates.entropy(), candidates.likeliest_token())
    empty = by_hand(lambda p, q: p * 0, ORDINARY_PAIRS)
    share = mixtures.quantities(empty.pairs)["H(q)"][:, None]
    lines = []
    for one, other in itertools.combinations((*four, candidates.uniform_labels()), 2):
        gradients = share * one.gradient(empty.pairs) + other.gradient(empty.pairs)
        lines.append(mixture_line(changed(empty, gradients=gradients)))
    check("mixtures of two terms", lines)
