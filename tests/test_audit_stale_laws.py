"""How a law of stale tokens is read off a walk, off tables and off a map, and what it is called."""

import dataclasses
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from opd_toy import objectives
from opd_toy.audit.sequence.calls import SequenceCall
from opd_toy.audit.stale import factor, judge, names, texts, verdict, words
from opd_toy.audit.stale.factor import Piece
from opd_toy.audit.stale.measure import Table, Walk, jump_between
from opd_toy.audit.stale.names import Correction
from opd_toy.audit.stale.triples import (
    APART,
    OLD,
    RARE,
    WALK,
    Triple,
    at_teacher,
    fixed_triple,
    on_a_walk,
    random_triples,
)
from opd_toy.audit.stale.verdict import FRESH, KEPT, Law
from opd_toy.audit.ways import TEXTS, as_way
from opd_toy.distributions import softmax
from opd_toy.example import STUDENT, TEACHER
from tests.audit_stale_losses import with_penalty

pytestmark = pytest.mark.usefixtures("one_thread")
INF = np.inf
SCORE = np.array([0.9, -0.2, -0.3, -0.4])
ASIDE = np.array([0.0, 0.6, -0.4, 0.0])  # at right angles to the score


def pieces(*laws, ends=()):
    """Of (level, power)s, and the ratios at which one goes over into the next."""
    bounds = [-INF, *np.log(ends), INF] if len(ends) else [-INF, INF]
    return tuple(Piece(low, high, *law) for low, high, law in zip(bounds, bounds[1:], laws))


def walk_of(values, *, moved="behaviour", sign=1, jumps=None, aside=0.0):
    """Of a factor's values along ``WALK``."""
    values = np.asarray(values, float)
    students = [softmax(on_a_walk("student", 1, step).student) for step in WALK]
    directions = np.eye(4)[0] - np.array(students)
    along = np.tile(SCORE, (len(WALK), 1)) if moved == "behaviour" else directions
    rows = sign * values[:, None] * (along + aside * ASIDE)
    if aside:  # the row at ratio 1 is what the others are held against
        rows[len(WALK) // 2] = sign * values[len(WALK) // 2] * along[len(WALK) // 2]
    return Walk(moved, WALK, rows, directions if moved == "student" else along, jumps or {})


def jumps_of(found):
    """{cell: log ratio} of the ends at which a factor becomes 0 or ends being 0."""
    return {
        int(np.searchsorted(WALK, before.high) - 1): before.high
        for before, after in zip(found, found[1:])
        if before.is_zero != after.is_zero
    }


CHAINS = {
    "ratio": pieces((1, 1)),
    "no ratio": pieces((1, 0)),
    "a root": pieces((1, 0.25)),
    "truncated": pieces((1, 1), (2.1, 0), ends=[2.1]),
    "held": pieces((0.8, 0), (1, 1), (1.28, 0), ends=[0.8, 1.28]),
    "masked": pieces((0, 0), (1, 1), (0, 0), ends=[0.5, 5]),
    "of two powers": pieces((0.7, 1), (0.7 * 1.3, 0), (0.7 * 1.3 / 9, 2), ends=[1.3, 3]),
    "up to a square": pieces((1, 1), (1 / 1.5, 2), ends=[1.5]),
    "bent at a point of the walk": pieces(
        (1, 1), (np.exp(WALK[110]), 0), ends=np.exp(WALK[110:111])
    ),
}


@pytest.mark.parametrize("moved", ["behaviour", "student"])
@pytest.mark.parametrize("name", CHAINS)
def test_the_pieces_of_a_factor_are_read_off_its_values(name, moved):
    wanted = CHAINS[name]
    level = factor.at(wanted, [0.0])[0]
    for sign in (1, -1):
        walk = walk_of(factor.at(wanted, WALK), moved=moved, sign=sign, jumps=jumps_of(wanted))
        found, found_sign = factor.pieces_of(walk, 1e-9)
        scale = SCORE if moved == "behaviour" else walk.directions[len(WALK) // 2]
        assert found_sign == sign * np.sign(scale @ scale) and len(found) == len(wanted)
        for one, other in zip(found, wanted):
            assert one.power == other.power and one.is_zero == other.is_zero
            got = [one.low, one.high, one.level]
            assert got == pytest.approx([other.low, other.high, other.level / level], rel=1e-8)


def test_levels_and_powers_are_round_where_rounding_allows_it():
    def first(values, tolerance=1e-9):
        return factor.pieces_of(walk_of(values), tolerance)[0][-1]

    ends = np.exp(WALK) + 0.0
    ((one, power),) = [(each.level, each.power) for each in [first(ends**0.5)]]
    assert (one, power) == (1.0, 0.5)
    width = WALK[-1] - WALK[0]
    for off, rounded in ((0.98, True), (1.02, False)):
        shift = off * (1e-6 + 20e-9 / width)
        assert (first(np.exp((0.75 + shift) * WALK)).power == 0.75) == rounded
        shift = off * (1e-6 + 20e-9 / (WALK[86] - WALK[80]))  # of a short piece
        _, power = factor._law(WALK, np.exp((0.75 + shift) * WALK), 80, 86, 1e-9)
        assert (power == 0.75) == rounded
    for off, rounded in ((0.99, True), (1.01, False)):
        level, _ = factor._law(WALK, np.full(len(WALK), 1 + off * 10e-9), 0, len(WALK) - 1, 1e-9)
        assert (level == 1.0) == rounded


@pytest.mark.parametrize("aside, is_one", [(0.995e-7, True), (1.005e-7, False)])
def test_rows_are_multiples_of_one_up_to_rounding(aside, is_one):
    largest = np.abs(SCORE).max() / np.abs(ASIDE).max()
    walk = walk_of(np.exp(WALK), aside=aside * largest)
    assert (factor.pieces_of(walk, 1e-9) is not None) == is_one
    assert (factor.drawn_pieces_of(walk, 1e-9) is not None) == is_one


@pytest.mark.parametrize(
    "values",
    [
        1 / (1 + np.exp(-WALK)),
        np.where(WALK < 0.3, 1.0, 2.0),  # a jump that is none to 0
        np.where(WALK < 0.3, np.exp(WALK), np.exp(2 * WALK)),  # they do not meet
        # A round bend between two powers, and further on a kink.
        np.minimum((1 + np.exp(20 * WALK)) ** 0.05, np.exp(4)),
        np.where(np.arange(len(WALK)) < len(WALK) - 1, 1.0, 0.0),  # too short a piece at the end
        np.where(np.arange(len(WALK)) > 0, 1.0, 0.0),  # or at the beginning
        np.where(WALK < 0.3, np.exp(WALK), -np.exp(2 * WALK)),  # of two signs
    ],
)
def test_what_is_no_chain_of_powers_has_no_pieces(values):
    assert factor.pieces_of(walk_of(values), 1e-9) is None


@pytest.mark.parametrize("tolerance", [1e-9, 1e-6])
def test_a_bend_counts_from_the_rounding_of_two_cells_on(tolerance):
    steps, place = WALK[:100], 20
    slack = (1e-6 + 10 * tolerance / np.diff(steps)[place - 1 : place + 1]).sum()
    for off, many in ((0.99, 1), (1.01, 2)):
        values = np.exp(steps + off * slack * np.maximum(steps - steps[place], 0))
        assert len(factor._runs(steps, values, tolerance)) == many


def test_pieces_are_two_cells_long_and_two_apart():
    gaps = np.diff(WALK)
    for odd, many in (((0.0, 0.0), 3), ((3.0, 5.0), 2), ((3.0, 5.0, 7.0), None)):
        slopes = np.where(np.arange(len(gaps)) < 40, 1.0, 2.0)
        slopes[40 : 40 + len(odd)] = odd
        found = factor._runs(WALK, np.exp(np.cumsum([0.0, *slopes * gaps])), 1e-9)
        assert (found and len(found)) == many
    slopes = 0.1 * np.arange(len(gaps))  # no two are alike
    assert factor._runs(WALK, np.exp(np.cumsum([0.0, *slopes * gaps])), 1e-9) is None


def test_pieces_meet_at_a_point_up_to_rounding():
    walk, n = walk_of(np.exp(WALK)), 110
    for off, meets in ((1.09e-8, True), (1.11e-8, False)):
        for at in (WALK[n] - off, WALK[n] + off):
            found = factor._joint(walk, (1.0, 1.0), (np.exp(at), 0.0), (n, n), 1e-9)
            assert found == (pytest.approx(at) if meets else None)
    for cell, beside in ((n - 2, False), (n - 1, True), (n + 1, True), (n + 2, False)):
        jumps = dataclasses.replace(walk, jumps={cell: 0.5})
        found = factor._joint(jumps, (1.0, 0.0), (0.0, 0.0), (n, n + 1), 1e-9)
        assert found == (0.5 if beside else None)


def test_a_row_that_is_not_finite_or_a_student_that_rests_gives_no_factor():
    good = walk_of(np.exp(WALK), moved="student")
    for changed in (
        {"rows": np.where(WALK[:, None] > 5, np.nan, good.rows)},
        {"rows": np.where(WALK[:, None] == 0, 0, good.rows)},
        {"directions": np.where(WALK[:, None] > 5, 0, good.directions)},
    ):
        assert factor.pieces_of(dataclasses.replace(good, **changed), 1e-9) is None
        assert factor.drawn_pieces_of(dataclasses.replace(good, **changed), 1e-9) is None


def test_any_factor_is_drawn_from_point_to_point():
    values = 2 / (1 + np.exp(-WALK))
    found, sign = factor.drawn_pieces_of(walk_of(values, sign=-1), 1e-9)
    assert sign == -1 and len(found) == len(WALK) - 1
    np.testing.assert_allclose(factor.at(found, WALK), values, rtol=1e-9)
    between = (WALK[1:] + WALK[:-1]) / 2
    np.testing.assert_allclose(factor.at(found, between), 2 / (1 + np.exp(-between)), rtol=2e-2)
    assert factor.drawn_pieces_of(walk_of(np.where(WALK > 1, -1.0, 1.0)), 1e-9) is None
    zero, _ = factor.drawn_pieces_of(walk_of(np.where(WALK > 1, 0.0, 1.0)), 1e-9)
    assert 0 <= factor.at(zero, [2.0])[0] < 1e-20


def test_a_factor_at_its_ends_and_beyond():
    found = CHAINS["masked"]
    assert factor.ends(found) == [found[0].high, found[1].high] == list(np.log([0.5, 5]))
    ratios = np.array([0.4, 0.6, 4.9, 5.1])
    np.testing.assert_allclose(factor.at(found, np.log(ratios)), [0, 0.6, 4.9, 0])
    assert np.isinf(factor.at(pieces((1, 1)), [1e3])).all()


def test_a_jump_is_halved_down_to_rounding():
    at = 0.123456789
    assert jump_between(lambda x: np.array([x < at]), 0.0, 1.0, True) == pytest.approx(
        at, abs=1e-13
    )
    assert jump_between(lambda x: np.array([x > at]), 0.0, 1.0, False) == pytest.approx(
        at, abs=1e-13
    )


# --- what is tried ---------------------------------------------------------------------------


def test_triples_are_near_and_far_and_the_two_themselves():
    found = random_triples(3)
    assert found[0] is not None and [len(t.student) for t in found[1:]] == [
        size for size in (3, 4, 5, 8) for _ in range(4)
    ] + [3, 3, 4, 4]
    np.testing.assert_allclose(np.exp(fixed_triple()), [STUDENT, TEACHER, OLD])
    np.testing.assert_allclose(OLD, [0.4, 0.3, 0.3])
    many = [random_triples(seed)[1:] for seed in range(40)]
    for n, apart in enumerate(APART):
        steps = np.concatenate([t[4 * k + n].behaviour - t[4 * k + n].student
                                for t in many for k in range(4)])  # fmt: skip
        assert np.std(steps) == pytest.approx((0.05, 0.4, 1.5)[n], rel=0.1) and apart == APART[n]
    for student, teacher, behaviour in found[-4:]:
        assert np.array_equal(behaviour, student) != np.array_equal(behaviour, teacher)
    rests = at_teacher(3)
    assert len(rests) == 9 and all(np.array_equal(t.student, t.teacher) for t in rests)
    assert all(np.array_equal(t.behaviour, at.behaviour) for t, at in zip(rests, found))


@pytest.mark.parametrize("moved", ["behaviour", "student"])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_walk_moves_one_ratio_alone(moved, sign):
    for step in (-2.0, 0.0, 2.0):
        student, teacher, behaviour = (softmax(z) for z in on_a_walk(moved, sign, step))
        stays = {"student": behaviour, "behaviour": student}[moved]
        assert np.log(student[0] / behaviour[0]) == pytest.approx(step, abs=1e-12)
        assert np.log(stays[0] / teacher[0]) == pytest.approx(sign)
        assert stays[0] == pytest.approx(RARE) and RARE == 1e-3
    assert WALK[len(WALK) // 2] == 0 and np.exp(WALK[-1]) == pytest.approx(480, rel=0.1)
    assert np.diff(WALK).min() == pytest.approx(1.2e-4) and not (WALK + WALK[::-1]).any()


# --- laws of tables --------------------------------------------------------------------------


def table(rows_of, triple, fresh=None):
    """``rows_of(p, q, mu)`` -> (V, V)."""
    p, q, mu = (softmax(z) for z in triple)
    fresh = fresh or rows_of
    return Table(triple, rows_of(p, q, mu), fresh(p, q, p), fresh(mu, q, mu))


def policy_gradient(p, cost):
    return cost[:, None] * (np.eye(len(p)) - p)


@pytest.mark.parametrize("cost", [FRESH, KEPT])
def test_a_law_must_hold_on_all_rows_but_those_at_its_limits(cost):
    def truncated(p, q, mu):
        ratio = np.minimum(p / mu, 1.5)
        return ratio[:, None] * policy_gradient(p, np.log((mu if cost == KEPT else p) / q))

    found = pieces((1, 1), (1.5, 0), ends=[1.5])
    law = Law(cost, {1: found, -1: found})
    for triple in random_triples(1):
        made = table(truncated, triple)
        assert verdict._follows(law, made, 1e-9)
        p, q, mu = (softmax(z) for z in triple)
        fresh = policy_gradient(p, np.log((mu if cost == KEPT else p) / q))
        size = np.abs(made.rows).max() + np.abs(fresh).max()
        if not size:  # the behaviour is the teacher
            continue
        for off, follows in ((0.995e-7, True), (1.005e-7, False)):
            rows = made.rows.copy()
            rows[1, 0] += off * size
            assert verdict._follows(law, dataclasses.replace(made, rows=rows), 1e-9) == follows
    other = Law(cost, {1: found, -1: pieces((1, 1), (1.4, 0), ends=[1.4])})
    assert not all(verdict._follows(other, table(truncated, t), 1e-9) for t in random_triples(1))


def test_a_cost_is_kept_where_the_rows_of_then_are_scores():
    law = Law(KEPT, {1: pieces((1, 1)), -1: pieces((1, 1))})
    made = table(
        lambda p, q, mu: (p / mu)[:, None] * policy_gradient(p, np.log(mu / q)), fixed_triple()
    )
    aside = np.cross((np.eye(3) - OLD)[0], np.ones(3))  # at right angles to the score
    aside /= (np.abs(aside) / (1e-6 + 1e-5 * np.abs(made.then[0]))).max()
    for off, kept in ((0.99, True), (1.01, False)):
        then = made.then + np.outer([off, 0, 0], aside)
        assert verdict._follows(law, dataclasses.replace(made, then=then), 1e-9) == kept


def test_a_row_at_a_limit_is_on_neither_side():
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.3, 0.5])
    found = pieces((1, 1), (0, 0), ends=[2])
    for off, follows in ((0.9e-5, True), (1.1e-5, False)):
        first = 0.25 / np.exp(off)  # its ratio is a little more than 2
        mu = np.array([first, 0.5, 0.5 - first])
        rows = (p / mu)[:, None] * policy_gradient(p, np.log(p / q))  # not masked
        made = Table(
            Triple(np.log(p), np.log(q), np.log(mu)), rows, policy_gradient(p, np.log(p / q)), rows
        )
        assert verdict._follows(Law(FRESH, {1: found, -1: found}), made, 1e-9) == follows


def alike(mean, triple):
    rows = np.tile(mean, (len(triple.student), 1))
    return Table(triple, rows, rows, rows)


def test_who_drew_does_not_matter_up_to_rounding():
    triple = random_triples(0)[1]
    made = alike(np.array([1.0, -1.0, 0.0]), triple)
    for field in ("rows", "fresh"):
        for off, same in ((0.99e-8, True), (1.01e-8, False)):
            rows = made.rows.copy()
            rows[2, 2] += off * np.sqrt(2)
            changed = dataclasses.replace(made, **{field: rows})
            assert verdict.does_not_matter([changed], 1e-9) == same


@pytest.mark.parametrize(
    "terms",
    [
        *([(1.0, name)] for name in verdict.TERMS),
        [(-0.5, "reverse KL"), (0.25, "forward KL to the behaviour")],
        [(1.0, "reverse KL"), (2.0, "forward KL"), (0.125, "reverse KL to the behaviour")],
        [(1 / 3, "reverse KL from stale tokens, no ratio")],
    ],
)
def test_a_mean_gradient_is_the_sum_of_its_terms(terms):
    def mean(p, q, mu):
        return sum(c * verdict.TERMS[name](p, q, mu) for c, name in terms)

    tables = [alike(mean(*map(softmax, triple)), triple) for triple in random_triples(2)]
    found = verdict.terms_of(tables, 1e-9)
    assert [name for _, name in found] == [name for _, name in terms]
    assert [c for c, _ in found] == pytest.approx([c for c, _ in terms], rel=1e-8)
    moved = [
        alike(1.00001 * t.rows[0] if n == 4 else t.rows[0], t.triple) for n, t in enumerate(tables)
    ]
    assert verdict.terms_of(moved, 1e-9) is None


def test_a_mean_gradient_is_0_up_to_the_rounding_of_its_draws():
    def drawn(triple, mean):
        """Rows whose mean is as small as said, beside their length."""
        turns = np.arange(len(triple.student)) - 1.0
        turns -= softmax(triple.behaviour) @ turns
        rows = np.outer(turns, np.eye(len(turns))[1] - np.eye(len(turns))[2])
        size = Table(triple, rows, rows, rows).size
        rows = rows + mean * size * np.eye(len(turns))[0]
        return Table(triple, rows, rows, rows)

    triples = random_triples(0)
    for off, nothing in ((0.99e-8, True), (1.01e-8, False)):
        tables = [drawn(triple, off if n == 3 else 0.0) for n, triple in enumerate(triples)]
        assert (verdict.terms_of(tables, 1e-9) == []) == nothing
        sizes = np.concatenate([*(np.full(len(t.p), t.size) for t in tables), np.zeros(3)])
        # Of a table with hardly any gradient the thousandth of an ordinary one's counts.
        tiny = alike(off * 1e-3 * np.median(sizes) * np.eye(3)[0], triples[0])
        still = [drawn(triple, 0.0) for triple in triples]
        assert (verdict.terms_of([*still, tiny], 1e-9) == []) == nothing


def test_a_term_counts_from_a_millionth_on():
    for c, names_ in ((0.95e-6, None), (1.05e-6, ["reverse KL", "forward KL"])):
        tables = []
        for triple in random_triples(2):
            p, q, mu = map(softmax, triple)
            one, other = (verdict.TERMS[name](p, q, mu) for name in ("reverse KL", "forward KL"))
            tables.append(alike(one + c * other, triple))
        found = verdict.terms_of(tables, 1e-9)
        assert (found and [name for _, name in found]) == names_


def test_terms_are_those_of_the_engine_and_of_draws():
    p, q, mu = (softmax(z) for z in random_triples(0)[5])
    score = np.eye(len(p)) - p
    terms = {name: of(p, q, mu) for name, of in verdict.TERMS.items()}
    wanted = {
        "reverse KL": objectives.reverse_kl_logit_gradient(p, q),
        "forward KL": p - q,
        "reverse KL to the behaviour": objectives.reverse_kl_logit_gradient(p, mu),
        "forward KL to the behaviour": p - mu,
        "reverse KL from stale tokens, no ratio": (mu * np.log(p / q)) @ score,
        verdict.KEPT_NO_RATIO: (mu * np.log(mu / q)) @ score,
        "forward KL from stale tokens, no ratio": (mu * (1 - q / p)) @ score + p - mu,
    }
    assert terms.keys() == wanted.keys()
    for name in terms:
        np.testing.assert_allclose(terms[name], wanted[name], atol=1e-12, err_msg=name)
    assert verdict._rounded(0.1 + 5e-9, 1e-9) == 0.1 and verdict._rounded(1 / 3, 1e-9) == 1 / 3
    for off, rounded in ((0.9e-5, True), (1.1e-5, False)):
        assert (verdict._rounded(0.5 * (1 + off), 1e-7) == 0.5) == rounded


# --- names -----------------------------------------------------------------------------------

RATIO, ONE, NOTHING = (1, 1), (1, 0), (0, 0)
HELD_UP, HELD_DOWN = pieces(NOTHING, RATIO, ends=[0.8]), pieces(RATIO, NOTHING, ends=[1.3])
# {words: (kind, limits, pieces where the cost is above 0, below 0 or None for the same)}
CORRECTIONS = {
    "weighted by the ratio": ("ratio", None, pieces(RATIO), None),
    "no ratio (biased where the behaviour differs)": ("none", None, pieces(ONE), None),
    "ratio truncated at 2.1 (biased where p/μ > 2.1)":
        ("truncate", 2.1, CHAINS["truncated"], None),
    "weighted by the ratio to the power 0.25 (biased)": ("power", 0.25, CHAINS["a root"], None),
    "ratio at least 0.5 (biased)": ("other", None, pieces((0.5, 0), RATIO, ends=[0.5]), None),
    "ratio held within 0.8 to 1.28 (biased)": ("other", None, CHAINS["held"], None),
    "weighted by (p/μ)^1, from 1.5 on (p/μ)^2 (biased)":
        ("other", None, CHAINS["up to a square"], None),
    "ratio masked outside 0.5 to 5 (biased there)": ("mask", (0.5, 5.0), CHAINS["masked"], None),
    "ratio masked above 5 (biased there)":
        ("mask", (0.0, 5.0), pieces(RATIO, NOTHING, ends=[5]), None),
    "ratio masked below 0.5 (biased there)":
        ("mask", (0.5, INF), pieces(NOTHING, RATIO, ends=[0.5]), None),
    "no ratio, masked above 5 (biased there)":
        ("other", None, pieces(ONE, NOTHING, ends=[5]), None),
    "ratio truncated at 2, masked outside 0.5 to 5 (biased there)":
        ("other", None, pieces(NOTHING, RATIO, (2, 0), NOTHING, ends=[0.5, 2, 5]), None),
    "weighted by the ratio up to 1.5, 2 above (biased)":
        ("other", None, pieces(RATIO, (2, 0), ends=[1.5]), None),
    "weighted by 1 up to 0.5, nothing up to 2, 3 × the ratio up to 4, (p/μ)^2 above (biased)":
        ("other", None, pieces(ONE, NOTHING, (3, 1), (1, 2), ends=[0.5, 2, 4]), None),
    "ratio clipped at 0.2 and 0.3 (PPO)": ("clip", (0.2, 0.3), HELD_UP, HELD_DOWN),
    "ratio clipped at 0.2 (PPO)":
        ("clip", (0.2, 0.2), HELD_UP, pieces(RATIO, NOTHING, ends=[1.2])),
    "ratio clipped above 1.3 (one side of PPO's clip)":
        ("clip", (1.0, 0.3), pieces(RATIO), HELD_DOWN),
    "ratio clipped below 0.8 (one side of PPO's clip)":
        ("clip", (0.2, INF), HELD_UP, pieces(RATIO)),
    "ratio clipped at 0.2 and 0.3 (PPO, and above 3 where the cost is high: dual clip)":
        ("other", None, pieces(NOTHING, RATIO, NOTHING, ends=[0.8, 3]), HELD_DOWN),
    "no ratio, masked below 0.8 where the cost is positive, ratio masked above 1.3 where the cost "
    "is negative (biased)": ("other", None, pieces(NOTHING, ONE, ends=[0.8]), HELD_DOWN),
    "ratio masked below 0.8 where the cost is positive, no ratio, masked above 1.3 where the cost "
    "is negative (biased)": ("other", None, HELD_UP, pieces(ONE, NOTHING, ends=[1.3])),
    "ratio masked above 3 where the cost is positive, weighted by the ratio where the cost is "
    "negative (biased)": ("other", None, pieces(RATIO, NOTHING, ends=[3]), pieces(RATIO)),
    "no ratio where the cost is positive, weighted by the ratio where the cost is negative "
    "(biased)": ("other", None, pieces(ONE), pieces(RATIO)),
    "weighted by the ratio where the cost is positive, ratio masked below 0.8 where the cost is "
    "negative (biased)": ("other", None, pieces(RATIO), HELD_UP),
}  # fmt: skip


@pytest.mark.parametrize("said", CORRECTIONS)
def test_what_a_factor_is_called(said):
    kind, limits, above, below = CORRECTIONS[said]
    found = names.correction_of(Law(FRESH, {1: above, -1: below or above}))
    assert found == Correction(kind, limits, said)


def test_a_factor_without_a_formula_is_a_function():
    law = Law(FRESH, {1: pieces(RATIO), -1: pieces(RATIO)}, drawn=True)
    wanted = Correction("other", None, "weighted by a function of the ratio (biased)")
    assert names.correction_of(law) == wanted
    named = [
        names.name("x KL", dataclasses.replace(law, cost=cost), wanted) for cost in (FRESH, KEPT)
    ]
    assert named == [
        "x KL from stale tokens, weighted by a function of the ratio (biased)",
        "x KL from stale tokens, cost kept from the rollout, weighted by a function of the ratio "
        "(biased)",
    ]


def test_both_signs_are_alike_up_to_rounding():
    def are_alike(**changes):
        one, other = pieces(RATIO, (2, 0), ends=[2]), pieces(RATIO, (2, 0), ends=[2])
        first = dataclasses.replace(other[0], **changes)
        return Law(FRESH, {1: one, -1: (first, other[1])}).signs_alike

    at = np.log(2)
    assert are_alike() and not are_alike(power=0.5) and not are_alike(level=0.0)
    assert are_alike(high=at + 6e-5) and not are_alike(high=at + 8e-5)
    assert are_alike(level=1 + 0.9e-4) and not are_alike(level=1 + 1.1e-4)
    assert not Law(FRESH, {1: pieces(RATIO), -1: CHAINS["truncated"]}).signs_alike


def test_pieces_meet_up_to_rounding():
    for off, joined in ((0.9e-4, True), (1.1e-4, False)):
        assert names._joined(pieces(RATIO, (2 * (1 + off), 0), ends=[2])) == joined
    for ratio, shown in ((2, 2.0), (1.28, 1.28), (2.0000018, 2.0), (4 / 3, 4 / 3)):
        assert names.limit(np.log(ratio)) == pytest.approx(shown, rel=1e-12)
    assert names.limit(np.log(2.0000022)) != 2.0
    assert [names.limit(np.log(x)) for x in (1.23456, 12.3456)] == [1.23456, 12.3456]


# --- texts -----------------------------------------------------------------------------------


def level(name, correction=None, cost=FRESH):
    return texts.Level(name, cost, correction)


def test_what_a_level_is_called():
    product = "product of the ratios over the text"
    whole = Correction("ratio", None, "weighted by the ratio")
    cut = names.correction_of(Law(FRESH, {1: CHAINS["truncated"], -1: CHAINS["truncated"]}))
    for found, said in (
        (level("none"), "no ratio"),
        (level("each"), "weighted by the product of the ratios up to each cost"),
        (
            level("before"),
            "weighted by the product of the ratios before the token, by a law of its own",
        ),
        (level("token", whole), "weighted by the ratio of the token"),
        (level("prefix", whole), "weighted by the product of the ratios up to the token"),
        (level("mean", whole), f"weighted by the {product} to the power 1/T"),
        (level("token", cut), "ratio of the token truncated at 2.1 (biased where p/μ > 2.1)"),
        (level("sequence", cut), f"{product} truncated at 2.1 (biased where it is > 2.1)"),
    ):
        assert found.words == said
    kept = texts.name("x KL", level("none", cost=KEPT))
    assert kept == "x KL from stale texts, cost kept from the rollout, no ratio"


def test_a_stale_text_has_the_ratios_and_costs_asked_for():
    steps = np.array([0.3, 0.0, -0.2, 1.0])
    for moved in ("behaviour", "student"):
        for costs in (texts.COSTS, -texts.COSTS):
            rows = [
                softmax(z)[np.arange(4), np.arange(4)] for z in texts._text(steps, moved, costs)
            ]
            student, teacher, behaviour = rows
            stays = behaviour if moved == "student" else student
            np.testing.assert_allclose(np.log(student / behaviour), steps, atol=1e-12)
            np.testing.assert_allclose(np.log(stays / teacher), costs, atol=1e-12)
            np.testing.assert_allclose(stays, 1e-3)
    assert list(texts.COSTS) == [1.0, -0.6, 0.8, -1.1]


POWERS = {  # of the ratio at u in row t
    "none": lambda t, u: 0,
    "token": lambda t, u: t == u,
    "before": lambda t, u: u < t,
    "prefix": lambda t, u: u <= t,
    "sequence": lambda t, u: 1,
    "mean": lambda t, u: 1 / 4,
    # The costs from u on, of those from t on.
    "each": lambda t, u: 1 if u <= t else sum(texts.COSTS[u:]) / sum(texts.COSTS[t:]),
}
LOST = {  # what the cost itself, of the behaviour, falls with the ratio at u
    "its own": lambda t, u: (t == u) / texts.COSTS[t],
    "to go": lambda t, u: (u >= t) / sum(texts.COSTS[t:]),
    "all": lambda t, u: 1 / sum(texts.COSTS),
}


@pytest.mark.parametrize("name", POWERS)
def test_the_level_of_a_map(name):
    powers = np.array([[float(POWERS[name](t, u)) for u in range(4)] for t in range(4)])
    assert texts._level(powers, 1e-3) == (name, FRESH)
    for lost in LOST.values():
        kept = powers - [[lost(t, u) for u in range(4)] for t in range(4)]
        assert texts._level(kept, 1e-3) == (name, KEPT)
    for off, found in ((0.99e-3, (name, FRESH)), (1.01e-3, None)):
        assert texts._level(powers + off * (np.indices((4, 4))[1] == 2), 1e-3) == found
    masked = np.where(np.arange(4)[:, None] == 1, np.nan, powers)
    assert texts._level(masked, 1e-3) == (name, FRESH)
    assert texts._level(np.full((4, 4), np.nan), 1e-3) is None


def ratios(weight):
    """Each token's own cost, weighed by a function of the log ratios (T,) of its text."""

    def loss(student_lp, old_lp, teacher_lp):
        costs = (student_lp - teacher_lp).detach()
        return (weight((student_lp - old_lp).detach()) * costs * student_lp).sum()

    return loss


@pytest.mark.parametrize(
    "weight, said",
    [
        (
            lambda r: (r.cumsum(-1) - r).exp().clamp(max=2),
            "product of the ratios before the token truncated at 2 (biased where it is > 2)",
        ),
        (lambda r: r.exp() * (1 + r**4), "weighted by the ratio of the token, by a law of its own"),
        (lambda r: 4 * torch.sigmoid(r.sum().exp() - 1), None),
        # A position without a gradient says nothing.
        (lambda r: r.exp() * (torch.arange(len(r)) < 3), "weighted by the ratio of the token"),
    ],
)
def test_over_which_tokens_of_a_text_from_calls(weight, said):
    way = as_way(ratios(weight), TEXTS, inputs="token_log_probs", behaviour=None)
    call = SequenceCall(way, False)
    with warnings.catch_warnings(action="error"):
        found, grown = texts.level_of(call, "float64")
    assert (found and found.words) == said and grown.shape == (4, 4)
    assert texts.level_of(call, "bfloat16") == (None, None)


def test_a_level_is_told_up_to_rounding():
    for off, known in ((1.148e-3, True), (1.152e-3, False)):
        loss = ratios(lambda r, off=off: ((1 + off) * r).exp())
        way = as_way(loss, TEXTS, inputs="token_log_probs", behaviour=None)
        assert (texts.level_of(SequenceCall(way, False), "float64")[0] is not None) == known


def test_there_is_no_map_where_another_s_ratio_turns_a_row():
    way = as_way(with_penalty, TEXTS, behaviour=None)
    assert texts.level_of(SequenceCall(way, False), "float64") == (None, None)


# --- reports ---------------------------------------------------------------------------------


def test_where_a_loss_rests_and_why_it_does_not():
    rests = SimpleNamespace(tables=[], at_teacher=[])
    for size, off, rest in ((1.0, 0.9e-6, True), (1.0, 1.1e-6, False), (5.0, 4.9e-6, True)):
        found = [SimpleNamespace(expected=np.array([x, 0]), size=size) for x in (0.5, 1.0, 2.0)]
        moved = SimpleNamespace(expected=np.array([0.0, off]))
        still = SimpleNamespace(expected=np.zeros(2))
        rests = SimpleNamespace(tables=found, at_teacher=[still, moved, still])
        assert judge._at_teacher(rests) == (rest, pytest.approx(off))
    nowhere = [SimpleNamespace(expected=np.zeros(2), size=1.0)]
    rests = SimpleNamespace(tables=nowhere, at_teacher=[SimpleNamespace(expected=np.full(1, 0.3))])
    assert judge._at_teacher(rests) == (False, pytest.approx(0.3))
    fixed, moves = (SimpleNamespace(fixed_point={"is_fixed": is_so}) for is_so in (True, False))
    edge = "student = teacher, on stale tokens"
    fine = judge._resting(True, 0.0, None, fixed)
    assert fine == {
        "edge": edge,
        "severity": "fine",
        "finding": "the mean gradient is 0 there, whoever drew the tokens",
    }
    for law, fresh, why in (
        (None, fixed, "it depends on the behaviour"),
        (Law(KEPT, {}), fixed, "the cost is the rollout's, not the student's of now"),
        (Law(FRESH, {}), moves, "it depends on the behaviour"),
        (
            Law(FRESH, {}),
            fixed,
            "what is alike for all tokens, as a baseline, cancels with the whole ratio alone",
        ),
    ):
        said = f"the mean gradient is not 0 there, but 0.12 of an ordinary one: {why}"
        assert judge._resting(False, 0.123, law, fresh) == {
            "edge": edge,
            "severity": "broken",
            "finding": said,
        }


def test_terms_as_a_sum_and_names_without_a_law():
    three = [(-2.0, "b"), (0.5, "c"), (1.0, "a"), (-0.1, "d")]
    assert judge._sum(three) == "a + 0.5 × c − 2 × b − 0.1 × d"
    law, weighted = Law(FRESH, {}), Correction("ratio", None, "weighted by the ratio")
    not_needed = Correction(names.NOT_NEEDED, None, "")
    for arguments, said in (
        (("x", law, not_needed, None), "x"),
        (("x", law, weighted, None), "x from stale tokens, weighted by the ratio"),
        (("zero", law, weighted, []), "zero"),
        (("none of these", law, weighted, [(2.0, "x")]), "2 × x"),
        (("none of these", law, weighted, None), "none of these"),
        (("x", None, None, None), "none of these"),
    ):
        assert judge._name(*arguments) == said
    assert judge._relative(np.array([3.0, 4.0]), np.array([0.0, 2.0])) == 2.5
    assert judge._relative(np.array([3.0, 4.0]), np.array([0.0, 0.9e-14])) is None


def said_of(**changes):
    fields = {
        "optimises": "x from stale tokens", "on_fresh_tokens": "reverse KL",
        "correction": "truncate", "cost": FRESH, "rests_at_teacher": True, "bias": 0.25,
        "precision": "float32", "expected_gradient": [-0.5, 0.25, 0.25], "variance": 2.0,
        "variance_compared": {"the same on fresh tokens": 3.0, "plain policy gradient": 4.0},
        "pieces": None, "triples": 21, "seed": 7,
    }  # fmt: skip
    return list(words._lines(SimpleNamespace(**fields | changes)))


def test_a_report_of_stale_tokens_line_by_line():
    fresh, rests, *measured = said_of()
    assert [fresh, rests] == [
        "on tokens that the student itself draws: reverse KL",
        "rests at the teacher, whoever drew the tokens",
    ]
    assert measured == [
        "at the book's pair, tokens of μ = (.4, .3, .3): mean gradient (−0.5, 0.25, 0.25), off "
        "the fresh one by 0.25 of its length",
        "variance of one draw there: 2 (on fresh tokens 3, plain policy gradient 4)",
        "shown on 21 triples of student, teacher and behaviour and on walks of p/μ from 0.002 to "
        "480 (seed 7); tokens enumerated as drawn from the behaviour; computes in float32",
    ]
    assert said_of(optimises="reverse KL") == [rests, *measured]
    for bias, shown in ((None, "–"), (0.9e-12, "0"), (1.1e-12, "1.1e-12")):
        assert f"off the fresh one by {shown} of its" in said_of(bias=bias)[2]


@pytest.mark.parametrize(
    "changes, line",
    [
        (
            {"correction": "not needed"},
            "it does not matter who drew the token: the gradient is the same for each",
        ),
        (
            {"correction": "ratio"},
            "its mean is that gradient exactly, if the behaviour can draw every token",
        ),
        ({"correction": "ratio", "cost": KEPT}, "its mean descends KL(p‖q) − KL(p‖μ)"),
        (
            {"correction": None},
            "a token's gradient is not its fresh gradient times a factor of its ratio p/μ: "
            "it depends on the behaviour in another way",
        ),
        (
            {"correction": None, "precision": "float16"},
            "who drew the tokens cannot be told in float16: hand it float32 or float64",
        ),
        (
            {"correction": "other", "pieces": {
                "cost above 0": [{"up_to": 0.5, "level": 2.0, "power": 0.0},
                                 {"up_to": INF, "level": 1.0, "power": 1.0}],
                "cost below 0": [{"up_to": INF, "level": 1.0, "power": 2.0}]}},
            "the factor is 2 at 0.1, 2 at 0.5, 0.9 at 0.9, 1 at 1, 1.1 at 1.1, 2 at 2 (cost above "
            "0); 0.01 at 0.1, 0.25 at 0.5, 0.81 at 0.9, 1 at 1, 1.21 at 1.1, 4 at 2 (cost below 0)",
        ),
        (
            {"correction": "other", "pieces": dict.fromkeys(
                ("cost above 0", "cost below 0"), [{"up_to": INF, "level": 0.5, "power": 1.0}])},
            "the factor is 0.05 at 0.1, 0.25 at 0.5, 0.45 at 0.9, 0.5 at 1, 0.55 at 1.1, 1 at 2 "
            "(p/μ)",
        ),
    ],
)  # fmt: skip
def test_what_is_said_of_a_correction(changes, line):
    assert said_of(**changes)[1] == line
    assert len(said_of(**changes)) == 6


def test_where_it_does_not_rest_its_report_says_why():
    for cost, said in ((FRESH, ""), (KEPT, ": the cost is the rollout's")):
        line = said_of(rests_at_teacher=False, cost=cost)[1]
        assert line == "does not rest at the teacher" + said
    other = said_of(correction="ratio", cost=KEPT, on_fresh_tokens="forward KL")
    assert not any("descends" in line or "exactly" in line for line in other)
