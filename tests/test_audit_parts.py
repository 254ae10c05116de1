"""The auditor's parts on inputs made by hand, their words held whole in tests/audit_parts.txt."""

import dataclasses
import functools
import math
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from opd_toy import audit
from opd_toy.audit import formats, token, ways
from opd_toy.audit.calling import AuditError
from opd_toy.audit.report import finding_lines, number, plain, vector
from opd_toy.audit.report import text as report_text
from opd_toy.audit.token import edges, judge, limits, words
from opd_toy.audit.token import measure as measuring
from opd_toy.audit.token import pairs as of_pairs
from opd_toy.audit.token.edges import EdgeCalls, Mean
from opd_toy.audit.token.expected import AROUND_ZERO, ROUNDING, Expected, expected
from opd_toy.audit.token.findings import findings, stops_short
from opd_toy.audit.token.limits import Limit
from opd_toy.audit.token.measure import Table, measure
from opd_toy.audit.token.pairs import (
    ORDINARY,
    Pair,
    Pairs,
    large_pairs,
    near_pairs,
    notes_pair,
    random_pairs,
    reach_pairs,
)
from opd_toy.audit.ways import TOKENS, as_way
from opd_toy.distributions import softmax
from opd_toy.example import STUDENT, TEACHER
from tests.audit_losses import forward, logs, ratio, reverse
from tests.kept_numbers import numbers
from tests.test_audit_stages import by_hand, report
from tests.written import check_text

pytestmark = pytest.mark.usefixtures("one_thread")


def check(name, lines):
    check_text("audit_parts.txt", name, "\n".join(map(str, lines)))


def test_constants_and_defaults():
    """Those with a number or a truth, but for messages and what audit_candidates.txt has."""
    lines = numbers((audit, token, ways)).splitlines()
    known = re.compile(r" = \[?['\"]|Family\(|Candidate\(")
    told = re.compile(r"^opd|\d|True|False")
    check("constants", [line for line in lines if told.search(line) and not known.search(line)])


# ---- the pairs ----


def pair_line(pair):
    student, teacher = (
        " ".join(f"{x:.3f}" for x in (z[0], z[-1], np.ptp(z))) for z in (pair.student, pair.teacher)
    )
    return f"V = {len(pair.student)}, tier {pair.tier}, fit {pair.fit}: {student} | {teacher}"


def test_a_seed_has_the_same_pairs_in_every_version():
    """First, last and spread of each one's logits."""
    for seed in (0, 3):
        check(f"pairs of seed {seed}", map(pair_line, random_pairs(seed)))
        check(f"close pairs of seed {seed}", map(pair_line, near_pairs(seed)))
        check(f"large pairs of seed {seed}", map(pair_line, large_pairs(seed, 20)))
    check("pairs far apart", (f"{apart}: {pair_line(pair)}" for apart, pair in reach_pairs()))


def test_pairs_padded():
    pairs = Pairs.of([notes_pair(), Pair(np.array([0.0, 1.0]), np.array([2.0, 0.0]))])
    np.testing.assert_allclose(pairs.p[0], STUDENT)
    np.testing.assert_allclose(pairs.q[0], TEACHER)
    assert pairs.p[1, 2] == pairs.q[1, 2] == pairs.log_ratio[1, 2] == 0
    assert pairs.sizes.tolist() == [3, 2]
    apart = [np.log(STUDENT / TEACHER), np.log(pairs.p[1, :2] / pairs.q[1, :2])]
    np.testing.assert_allclose(pairs.log_ratio[1, :2], apart[1])
    np.testing.assert_allclose(pairs.distance(), [np.abs(each).max() for each in apart])
    np.testing.assert_array_equal(pairs[1:].student_logits, pairs.student_logits[1:])
    np.testing.assert_array_equal(pairs[1:].teacher_logits, pairs.teacher_logits[1:])


def test_many_tokens_of_large_pairs_have_one_log_ratio():
    for size in (20, 150):
        for pair, step in zip(large_pairs(1, size), (0.05, 0.25, 0.25)):
            p, q = softmax(pair.student), softmax(pair.teacher)
            odd = np.log(p / q) / (step / 2)
            np.testing.assert_allclose(odd, np.round(odd), atol=1e-9)
            assert (np.round(odd).astype(int) % 2 == 1).all()
    for seed in range(8):  # of two tokens, of which both may be likelier under the student
        student, teacher = of_pairs._in_steps(np.random.default_rng(seed), 2, 1.0, 0.25)
        apart = np.log(softmax(student) / softmax(teacher))
        assert np.isfinite(student).all() and apart == pytest.approx(student - teacher)


# ---- expected gradients ----


def tables():
    """Of two losses' rows, with a token and without, on pairs of three and two tokens."""
    draw = np.random.default_rng(1)
    found = []
    for size, count, tier in ((3, 3, 1), (2, 2, 1), (3, 1, 0), (2, 2, 2), (3, 3, 1)):
        student, teacher = draw.normal(size=(2, size))
        rows, values = draw.normal(size=(count, size)), draw.normal(size=count)
        found.append(Table(student, teacher, tier, tier == 1, rows, values))
    return found


@pytest.mark.parametrize("drawn_from", ["student", "teacher"])
@pytest.mark.parametrize("precision", formats.TOLERANCES)
def test_expected_gradients_and_their_rounding_again(drawn_from, precision):
    found = expected(tables(), drawn_from, precision)
    sizes, gradients, values = [], [], []
    for table in tables():
        shares = np.exp(table.student if drawn_from == "student" else table.teacher)
        shares = shares / shares.sum() if len(table.rows) > 1 else np.ones(1)
        lengths = [math.sqrt(sum(x * x for x in row)) for row in table.rows]
        sizes.append(sum(share * length for share, length in zip(shares, lengths)))
        gradients.append(sum(share * row for share, row in zip(shares, table.rows)))
        values.append(sum(share * abs(value) for share, value in zip(shares, table.values)))
        assert table.size(drawn_from) == pytest.approx(sizes[-1])
        assert table.value(drawn_from) == pytest.approx(sum(shares * table.values))
    usual = sorted(sizes[place] for place in (0, 1, 4))[1]  # of the ordinary pairs
    for row, table in enumerate(tables()):
        p, q = softmax(table.student), softmax(table.teacher)
        ratio = sum(p * np.abs(np.log(p / q)))
        largest = max(abs(x) for x in [*table.student, *table.teacher])
        rounding = ROUNDING[precision] * (sizes[row] * (1 + ratio) + usual * largest)
        assert found.zero[row] == pytest.approx(AROUND_ZERO[precision] * rounding)
        with_value = rounding + 0.1 * ROUNDING[precision] * values[row]
        assert found.rounding[row] == pytest.approx(with_value)
        size = len(table.student)
        np.testing.assert_allclose(found.gradients[row, :size], gradients[row])
        assert not found.gradients[row, size:].any()
    assert found.tier.tolist() == [1, 1, 0, 2, 1] and found.large is None
    assert found.fit.tolist() == [True, True, False, False, True]
    assert found.tolerance == formats.TOLERANCES[precision]


def test_without_ordinary_pairs_only_the_sizes_round():
    found = expected(tables()[2:4], "student", "float64")
    size = tables()[2].size("student")
    p, q = softmax(tables()[2].student), softmax(tables()[2].teacher)
    ratio = (p * np.abs(np.log(p / q))).sum()
    assert found.zero[0] == pytest.approx(0.02 * 2e-13 * size * (1 + ratio))


def with_large(found):
    return dataclasses.replace(found, large=found)


def test_parts_of_expected_gradients():
    found = with_large(expected(tables(), "student", "float64"))
    assert [len(part.tier) for part in found.parts] == [5, 5]
    low = found.up_to(1)
    assert low.tier.tolist() == low.large.tier.tolist() == [1, 1, 0, 1]
    times = found.times_vocabulary()
    for part, base in zip(times.parts, found.parts):
        sizes = np.array([3, 2, 3, 2, 3])
        np.testing.assert_allclose(part.gradients, base.gradients * sizes[:, None])
        np.testing.assert_allclose(part.rounding, base.rounding * sizes)
    few = found[[3, 1]]
    for name in ("gradients", "rounding", "tier", "fit", "zero"):
        np.testing.assert_array_equal(getattr(few, name), getattr(found, name)[[3, 1]])
    np.testing.assert_array_equal(few.pairs.p, found.pairs.p[[3, 1]])
    plain = Expected(found.pairs, found.gradients, found.rounding, found.tier, found.fit, 1e-9)
    assert plain.zero is plain.rounding and plain.parts == [plain]


def test_gradients_agree_up_to_the_tolerance_and_the_rounding():
    found = by_hand(lambda p, q: p - q)
    aside = np.zeros_like(found.gradients)
    aside[:, 0] = 1e-9 * np.linalg.norm(found.gradients, axis=1) + found.rounding
    assert found.agrees(found.gradients + 0.99 * aside).all()
    assert not found.agrees(found.gradients + 1.01 * aside).any()
    exact = dataclasses.replace(found, gradients=0 * aside, rounding=0 * found.rounding)
    assert exact.agrees(0 * aside).all()


# ---- findings ----

AT_NOTES = STUDENT - TEACHER


def mean(gradient, value=1.0):
    return Mean(value, np.array(gradient, float))


def calls(**changes):
    fields = {
        "takes_token": True,
        "masked": mean([*AT_NOTES, 0]),
        "masked_teacher": mean(AT_NOTES),
        "masked_student": mean(AT_NOTES),
        "padded": mean([*AT_NOTES, 0, 0]),
        "huge": mean(AT_NOTES),
        "close": tuple((apart, mean(AT_NOTES)) for apart in (0.1, 0.01, 0.001)),
        "limits": (),
    }
    return EdgeCalls(**fields | changes)


NAN, INF = np.nan, np.inf
STOPPED = ((0.1, mean(AT_NOTES)), (0.05, mean(AT_NOTES * 0)), (0.02, mean(AT_NOTES * 0)))
CALLS = {
    "all is well": (calls(), AT_NOTES),
    "not finite": (
        calls(
            masked=mean([0.1, 0.2, -0.3, 0], NAN),
            masked_teacher=mean([INF, 0, 0], 2.0),
            masked_student=mean([0, NAN, 0], INF),
            padded=mean([0, 0, 0, NAN, 0]),
            huge=mean([0, 0, 0], -INF),
        ),
        AT_NOTES,
    ),
    "not noticed": (
        calls(masked_teacher=mean([0, NAN, 0], 2.0), masked=mean([0, 0, NAN, 0])),
        AT_NOTES,
    ),
    "pulled": (calls(masked=mean([*AT_NOTES, -1e-3])), AT_NOTES),
    "scaled": (
        calls(masked=mean([*AT_NOTES / 4, 0]), padded=mean([*AT_NOTES * 3, 0, 0])),
        AT_NOTES,
    ),
    "changed": (
        calls(masked=mean([0.5, -0.1, -0.4, 0]), padded=mean([0, 0, 0, 0, 0])),
        AT_NOTES,
    ),
    "a hair off": (calls(masked=mean([*AT_NOTES * (1 + 9e-5), 0])), AT_NOTES),
    "a little off": (calls(masked=mean([*AT_NOTES * (1 + 2e-4), 0])), AT_NOTES),
    "nothing there": (
        calls(masked=mean([1e-13, 0, 0, 0]), padded=mean([2e-12] + [0] * 4)),
        AT_NOTES * 0,
    ),
    "a constant": (calls(), AT_NOTES + 0.01),
    "hardly a constant": (calls(), AT_NOTES + 3e-6),
    "a constant of nothing": (calls(), np.array([3e-13, 3e-13, 3e-13])),
    "stops": (calls(close=STOPPED), AT_NOTES),
    "stops, as all does": (calls(close=STOPPED), AT_NOTES * 0),
    "stops, and a token rests": (calls(close=STOPPED), np.array([0.25, -0.25, 0.0])),
    "limits of a token": (
        calls(
            limits=(
                Limit("log p/q", 5.0, "clamp", 0.25),
                Limit("log q/p", 7.25, "clamp", -0.5),
                Limit("log q/p", 8.0),
                Limit("log p/q", 9.0, "cancels"),
                Limit("log p/q", 88.7, "not finite"),
                Limit("log q/p", 11.1, "not finite", None, False),
                Limit("q", 1e-5, "refuses"),
                Limit("p", 1e-25, "refuses"),
            )
        ),
        AT_NOTES,
    ),
    "limits of all": (
        calls(
            takes_token=False,
            limits=(Limit("q", 1e-8, "clamp"), Limit("p", 1e-9, "cut", None, False)),
        ),
        AT_NOTES,
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_findings_in_words(name):
    found, at_notes = CALLS[name]
    lines = []
    for precision in (
        ("float64", "bfloat16") if name not in ("not finite", "limits of all") else ("float64",)
    ):
        said = findings(found, at_notes, precision)
        lines += [precision + ", stops" * stops_short(said), *finding_lines(said)]
    check(f"findings: {name}", lines)


# ---- reports ----

DESCENT = {"ends_at": TEACHER, "forward_kl": 1e-10, "reverse_kl": 2e-9, "steps": 1}
FIXED = {"is_fixed": True, "gradient_norm": 0.0, "gradient_norm_relative": 0.0}
CURVE = {
    "log_ratio": [-3.0, -1.5, -0.4, 0.6, 1.5, 3.0],
    "weight": [-2.0, -1.0, -0.5, 0.5, -0.25, 0.4],
}
NONE = {"optimises": "none of these", "holds_everywhere": False, "acts_on": "all tokens"}
NEAR = {"as_given": 0.5, "best_scale": 2.0, "at_best_scale": 9e-4}
REPORTS = {
    "plain": {},
    "another name": {
        "also": "another",
        "factor": "2 × H(q)",
        "reach": {"log p/q": 3.21, "log q/p": 40.0},
    },
    "factor in the name": {"optimises": "H(q) × reverse KL", "factor": "H(q)"},
    "close": {"holds_everywhere": False, "holds_up_to": 2.5, "with_other_tokens": "forward KL"},
    "close, as far as was tried": {"holds_everywhere": False, "holds_up_to": 12.0},
    "zero": {"optimises": "zero", "tolerance": 4e-14, "touches_inputs": ()},
    "zero, no draws": {"optimises": "zero", "tolerance": 0.0, "teacher_gradient": False},
    "none": NONE | {"ratio_alone": False, "uses_token": False, "drawn_from": "student"},
    "none, not one": NONE | {"ratio_alone": True, "touches_inputs": ("mask", "token")},
    "none, falls": NONE | {"ratio_alone": True, "weight": CURVE | {"increasing": False}},
    "none, rises": NONE | {"ratio_alone": True, "weight": CURVE | {"increasing": True}},
    "none, cannot be told": NONE | {"acts_on": None, "precision": "bfloat16", "value_is": None},
    "none, mixture": NONE
    | {
        "mixture": [
            {"name": "entropy", "law": None, "at_notes_pair": 0.12345},
            {"name": "reverse KL", "law": None, "at_notes_pair": -2.0},
        ]
    },
    "nearly": NONE | {"bias": {"forward KL": NEAR, "reverse KL": NEAR}},
    "not nearly": NONE | {"bias": {"reverse KL": NEAR | {"at_best_scale": 1e-3}}},
    "no distance": NONE | {"bias": {"reverse KL": NEAR | {"at_best_scale": None}}},
    "far": NONE | {"nearest": {"name": "χ²(p‖q)", "cosine": 0.999, "norm_ratio": 0.5}},
    "farther": NONE | {"nearest": {"name": "entropy", "cosine": 0.99899, "norm_ratio": 0.5}},
    "weight": {
        "weight": CURVE | {"increasing": True},
        "value_at_teacher": {"value": 5e-10, "is": "zero"},
    },
    "settled": {"fixed_point": FIXED | {"descent": DESCENT | {"settled": True}}},
    "not moved": {"fixed_point": FIXED | {"descent": DESCENT | {"settled": True, "steps": 0}}},
    "value unknown": {"value_is": None, "value_at_teacher": {"value": 2e-9, "is": None}},
}


@pytest.mark.parametrize("name", REPORTS)
def test_reports_in_words(name):
    """The plain one whole, of the others the lines in which they differ from it."""
    known = words.text(report()).splitlines() if name != "plain" else []
    said = words.text(report(**REPORTS[name])).splitlines()
    left_out = [f"without {line}" for line in known if line not in said]
    check(f"report: {name}", [line for line in said if line not in known] + left_out)


def test_calls_and_findings_stand_where_they_belong():
    found = report(
        call={"notes": ["called so", "and so"]},
        edges=[
            {"edge": "one", "severity": "fine", "finding": "well"},
            {"edge": "two", "severity": "broken", "finding": "not"},
            {"edge": "three", "severity": "note", "finding": "perhaps"},
            {"edge": "four", "severity": "fine", "finding": "well"},
        ],
    )
    check("report with findings", [report_text(found, ["a line"])])


def test_numbers_in_prose():
    values = (0, -0.0, 1e-5, -2.5, 12345.6, 0.12345, None, math.nan, math.inf, -math.inf, -1e-300)
    check("numbers", [f"{value}: {number(value)} {number(value, 2)}" for value in values])
    assert vector([1.0, -0.12345, 1e-13, -1e-11], 3) == "(1, −0.123, 0, −1e-11)"
    assert vector([1.0, -0.123456]) == "(1, −0.1235)"
    assert vector([1e-12, -1.5e-12]) == "(1e-12, −1.5e-12)"
    value = {"a": (1, np.float64(2.5), [np.nan, np.inf]), 3: np.arange(2), "b": Limit("p", 0.5)}
    assert plain(value) == {
        "a": [1, 2.5, [None, None]],
        "3": [0, 1],
        "b": {"over": "p", "at": 0.5, "kind": "cut", "weight": None, "everywhere": True},
    }


# ---- limits ----


def weighted(weight):
    """Gradients of token 0 drawn: weight(log p/q, p, q) on its score."""

    def rows_at(student, teacher):
        p, q = softmax(student), softmax(teacher)
        found = weight(student[0] - teacher[0] - _log_sum(student) + _log_sum(teacher), p[0], q[0])
        return None if found is None else found * (np.array([1.0, 0.0, 0.0]) - p)

    return rows_at


def whole(part):
    """Gradients of all tokens: p_j (part of the token − its mean)."""

    def rows_at(student, teacher):
        log_p, log_q = student - _log_sum(student), teacher - _log_sum(teacher)
        parts = np.array([part(x, y) for x, y in zip(log_p, log_q)])
        p = np.exp(log_p)
        return p * (parts - p @ parts)

    return rows_at


def _log_sum(z):
    return np.logaddexp.reduce(z)


def rounded(value, dtype):
    with np.errstate(over="ignore"):
        return float(np.asarray(value, dtype))


OF_A_TOKEN = {
    "none": lambda r, p, q: r,
    "both clamped": lambda r, p, q: np.clip(r, -5, 5),
    "clamped at 0.2 and 300": lambda r, p, q: np.clip(r, -300, 0.2),
    "cut above": lambda r, p, q: r * (r < 7.5),
    "cut below": lambda r, p, q: r * (r > -2.6),
    "cut far out": lambda r, p, q: r * (abs(r) < 600),
    "cut within": lambda r, p, q: r * (abs(r) > 1),
    "floor under q": lambda r, p, q: np.log(p) - np.log(max(q, 1e-8)),
    "floor under p": lambda r, p, q: np.log(max(p, 3e-6)) - np.log(q),
    "below the floats": lambda r, p, q: r * (q > 1e-40),
    "on one path only": lambda r, p, q: r if q > 1e-6 or p < 0.03 else 0.0,
    "cut, then clamped": lambda r, p, q: np.clip(r, -3, 4) * (r < 12),
    "refuses": lambda r, p, q: None if r > 8.5 else r,
    "not finite": lambda r, p, q: np.nan if r < -8.5 else r,
    "overflows": lambda r, p, q: np.inf if r > 250 else r,
    "levels off": lambda r, p, q: 1 - np.exp(-abs(r)),
    "levels off steeply": lambda r, p, q: 1 - np.exp(-(r**4) / 1e4),
    "levels off at once": lambda r, p, q: 1.0,
    "fades": lambda r, p, q: rounded(np.exp(-r), np.float16),
    "in steps": lambda r, p, q: np.round(1e3 * np.exp(-abs(r))) / 1e3,
    "in larger steps": lambda r, p, q: np.round(4 * np.exp(-abs(r))) / 4,
    "cancels": lambda r, p, q: np.round(5 * max(20 - abs(r), 0)) / 5,
    "a step more": lambda r, p, q: np.round(15 * max(20 - abs(r), 0)) / 15,
    "k3": lambda r, p, q: 1 - np.exp(np.minimum(-r, 600)),
    "clamped at 500 and 600": lambda r, p, q: np.clip(r, -600, 500),
    "clamped, and nothing at first": lambda r, p, q: np.clip(r - 1, 0, 4),
    "another direction just before": lambda r, p, q: (
        np.clip(r, -5, 5) * (np.array([1.0, 2.0, 1.0]) if 4.8 < r < 4.9 else 1.0)
    ),
    "never finite": lambda r, p, q: np.nan,
    "always refuses": lambda r, p, q: None,
}
OF_ALL = {
    "none": lambda x, y: x - y,
    "floors": lambda x, y: max(x, np.log(1e-8)) - max(y, np.log(1e-5)),
    "clamped": lambda x, y: np.clip(x - y, -4, 9),
    "cut": lambda x, y: (x - y) * (x - y < 9),
    "not finite": lambda x, y: np.inf if y < -90 else x - y,
    "refuses far out": lambda x, y: np.nan if x < -30 else x - y,
}


def limit_line(limit):
    path = "" if limit.everywhere else ", on one path"
    weight = "" if limit.weight is None else f" {limit.weight:.3g}"
    return f"{limit.formula}: {limit.over} {limit.at:.3g} {limit.kind}{weight}{path}"


@pytest.mark.parametrize("precision", formats.TOLERANCES)
def test_where_a_law_ends(precision):
    lines = []
    for takes_token, kinds, rows in ((True, OF_A_TOKEN, weighted), (False, OF_ALL, whole)):
        for name, law in kinds.items():
            with np.errstate(all="ignore"):
                found = limits.find(rows(law), takes_token, precision)
            told = {"far": [limit for limit in found if limit.is_far]}
            told |= {"binding": limits.binding(found), "said": limits.said(found)}
            lines.append(f"{name}{'' if takes_token else ', all'}")
            lines += [f"  {limit_line(limit)}" for limit in found]
            lines += [
                f"  {key}: {limits.words(few)}" for key, few in told.items() if few and few != found
            ]
    check(f"limits in {precision}", lines)
    assert not Limit("log p/q", 40.0).is_far and not Limit("q", float(np.exp(-40.0))).is_far


def test_pairs_moved_within_the_limits_are_as_far_apart_as_they_may_be():
    pair = Pair(np.array([4.0, -9.0, 0.0]), np.array([0.0, 2.0, -3.0]), 2, False)
    above, below = Limit("log p/q", 0.5), Limit("log q/p", 0.25)
    lines = []
    for found in (
        (),
        (above,),
        (below,),
        (above, below),
        (Limit("log p/q", 1e3), Limit("log q/p", 1e3)),
        (Limit("q", 0.1),),
        (Limit("p", 1e-7), Limit("q", 0.3)),
        (Limit("q", 0.2), above),
        (Limit("p", 0.34),),
    ):
        moved = limits.inside(pair, found)
        rows = moved and (moved.student, moved.teacher)
        spelled = rows and " | ".join(" ".join(f"{x:.4f}" for x in z) for z in rows)
        lines.append(f"{[limit.formula for limit in found]}: {spelled}")
        assert moved is None or moved[2:] == pair[2:]
    check("moved within limits", lines)


# ---- what is called ----


def test_what_is_called_at_the_edges():
    """The logits, before those on the paths where limits are looked for."""
    given = []

    def loss(student, teacher, *token):
        given.append((student, teacher, *token))
        return (student * 0).sum()

    edges.call_at_edges(loss, 2, "student", "float64")
    digits = lambda z: " ".join(f"{x:.4f}" for x in z.tolist())
    lines = [f"{digits(student)} | {digits(teacher)}" for student, teacher in given[:13]]
    check("calls at the edges", [*lines, len(given)])
    for drawn_from, weighed in (("student", STUDENT), ("teacher", TEACHER)):
        of_token = lambda student, teacher, token: (student * 0).sum() + token + 1
        found = edges.call_at_edges(of_token, 3, drawn_from, "float64")
        assert found.takes_token and found.padded.value == pytest.approx(weighed @ [1, 2, 3])
    constant = edges.call_at_edges(
        lambda student, teacher: torch.tensor(2.0), 2, "student", "float64"
    )
    assert constant.padded.value == 2 and not constant.padded.gradient.any()


def test_where_there_is_no_gradient_it_is_cut():
    def ends(student, teacher, token):
        apart = ratio(student, teacher, token).detach()
        return apart * logs(student)[token] if apart < 5 else torch.zeros(())

    (found,) = edges.call_at_edges(ends, 3, "student", "float64").limits
    assert (found.over, found.kind) == ("log p/q", "cut") and found.at == pytest.approx(5)


def not_finite_beyond(least, value=math.nan):
    """The forward KL, but not finite where a logit of the teacher is below."""

    def loss(student, teacher):
        return forward(student, teacher) * (value if teacher.min() < least else 1.0)

    return loss


def test_far_out_only_what_is_finite_is_kept():
    """But up to a log-ratio of 40 all, for there a loss is not to leave the floats."""
    found = measuring._reach(not_finite_beyond(-5), 2)
    apart = [np.ptp(table.student) - np.ptp(table.teacher) for table in found]
    finite = [bool(np.isfinite(table.rows).all()) for table in found]
    assert finite == [True, True, False, True, False, True, True, True, True]
    assert apart == sorted(apart, key=abs)


def test_an_error_on_an_ordinary_pair_is_the_losss_own():
    def refuses(student, teacher):
        raise AuditError("not so large")

    pair = notes_pair()
    with pytest.raises(AuditError, match="not so large"):
        measuring.tabulate(refuses, 2, pair.student, pair.teacher, ORDINARY)
    far = measuring.tabulate(refuses, 2, pair.student, pair.teacher, 2)
    assert np.isnan(far.rows).all() and np.isnan(far.values).all()


def test_what_is_not_finite_is_refused_on_whichever_ordinary_pair_it_is():
    fine, *_ = tables()
    words = {"subject": "it", "entry": "audit", "code": "it"}
    changed = functools.partial(dataclasses.replace, fine)
    far = changed(tier=2, values=np.full(3, np.nan))
    measuring._refuse_not_finite([far, fine], words)
    rows = fine.rows.copy()
    rows[2, 1] = np.nan
    for wrong, said in (
        (changed(values=np.array([1.0, np.inf, 1.0])), "its value is inf .* token 1"),
        (changed(rows=rows), r"its gradient is \[.*, nan, .* token 2"),
        (changed(rows=rows[2:], values=np.ones(1)), r"teacher_logits \[[^a-z]*\]\. Look"),
    ):
        with pytest.raises(AuditError, match=said):
            measuring._refuse_not_finite([far, fine, wrong], words)


def test_pairs_that_cannot_be_within_the_limits_are_left_out():
    """A floor of 0.15 is too high for eight tokens, and for more."""
    found, limit = random_pairs(0), Limit("q", 0.15)
    few, many = measuring._inside(reverse, 2, (found, large_pairs(0, 20)), (limit,))
    sizes = [len(pair.student) for pair in found if len(pair.student) < 8]
    assert [len(table.student) for table in few] == [*sizes[:-2], *[4] * 6, *sizes[-2:]]
    assert many == [] and measuring._inside(reverse, 2, (found, []), ()) == ()


def test_descent_ends_at_the_first_logits_without_a_gradient():
    def upward(beyond):
        def loss(student, teacher):
            return beyond(student) if student.min() < -5 else -forward(student, teacher)

        return loss

    def refuses(student):
        raise AuditError("too far")

    for beyond in (refuses, lambda student: student.sum() * math.nan):
        found = measuring.descend(upward(beyond), 2, "student")
        assert len(found.logits) == len(found.gradients) + 1 and found.logits[-2].min() >= -5


def test_how_often_a_loss_is_called():
    """And on how many pairs of which kind: of a loss with a token for each of them."""
    lines = []
    for loss in (
        lambda student, teacher: (student.softmax(-1) * teacher).sum(),
        lambda student, teacher, token: (student.log_softmax(-1) * teacher)[token],
    ):
        calls_made = []
        counting = lambda *inputs, loss=loss, made=calls_made: made.append(1) or loss(*inputs)
        way = as_way(functools.wraps(loss)(counting), TOKENS)
        found = measure(way, "student", 0)
        sizes = len(found.tables), len(found.large), len(found.same), len(found.near)
        lines.append(f"{len(calls_made)} calls, {sizes} tables, {len(found.descent.logits)} steps")
    check("number of calls", lines)


def test_few_numbers_that_come_again_and_again_say_nothing():
    few = np.tile(np.arange(1.0, 17.0), 5)
    assert formats.precision(few[:64]) == "bfloat16" and formats.precision(few[:65]) == "float64"
    assert formats.precision(few[:64], np.array([17.0])) == "bfloat16"
    assert formats.precision(np.array([0.0, np.nan, np.inf, 1 / 3])) == "float64"
    assert formats.precision(np.float32(1 / 3) * np.ones(1)) == "float32"
    assert formats.precision(np.zeros(3)) == "float64"
    assert formats.precision(np.tile([*few[:16], *-few[:16]], 3)) == "float64"  # but for signs


def in_formats(monkeypatch, *verdicts):
    """What judge._verdict takes of those in ever coarser formats."""
    judged = [SimpleNamespace(verdict=SimpleNamespace(zero=False, **each)) for each in verdicts]
    found = iter(judged)
    monkeypatch.setattr(judge.formats, "precision", lambda *tables: "a")
    monkeypatch.setattr(judge.formats, "candidates", lambda *found: range(len(judged)))
    monkeypatch.setattr(judge, "_in_format", lambda *arguments: next(found))
    taken = judge._verdict(SimpleNamespace(tables=[], formats=None), "student")
    return [each is taken for each in judged].index(True)


def test_a_vague_verdict_is_taken_where_no_coarser_format_has_a_better(monkeypatch):
    clear, vague = dict(known=True, is_vague=False), dict(known=True, is_vague=True)
    unknown = dict(known=False, is_vague=False)
    for verdicts, taken in [
        ((vague, unknown), 0),
        ((unknown, vague, unknown), 1),
        ((vague, vague), 0),
        ((vague, clear), 1),
        ((clear, vague), 0),
        ((unknown, unknown), 1),
    ]:
        assert in_formats(monkeypatch, *verdicts) == taken, verdicts
