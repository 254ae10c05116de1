"""The auditor's stages apart: tables by hand, verdicts without a loss, words without a verdict."""

import numpy as np
import pytest
import sympy as sp

from opd_toy import estimators, objectives
from opd_toy.audit import formats
from opd_toy.audit.report import finding_lines, number
from opd_toy.audit.sequence.masks import HOLE, MASKS, PADDED, BatchFacts, MaskFacts
from opd_toy.audit.sequence.measure import trees
from opd_toy.audit.sequence.names import LAWS, WEIGHTS, credit_pieces, lags
from opd_toy.audit.sequence.normalisers import (
    EQUALLY_LONG,
    SHORT_WEIGH_MORE,
    name_batch,
    name_mask,
)
from opd_toy.audit.sequence.samples import Sample
from opd_toy.audit.sequence.verdict import ERRORS, SequenceVerdict, _within_errors, explain
from opd_toy.audit.token import candidates, head_search, ratios, words
from opd_toy.audit.token.beside import compared, values_of
from opd_toy.audit.token.edges import EdgeCalls, Mean
from opd_toy.audit.token.expected import Expected, expected
from opd_toy.audit.token.findings import findings
from opd_toy.audit.token.judge import judge
from opd_toy.audit.token.limits import Limit
from opd_toy.audit.token.measure import Descent, Measurements, Table
from opd_toy.audit.token.pairs import ORDINARY, TIERS, Pairs, large_pairs, random_pairs
from opd_toy.audit.token.report import TokenReport
from opd_toy.audit.token.values import Values, name_values
from opd_toy.audit.token.verdict import Factor, Verdict, identify
from opd_toy.example import STUDENT, TEACHER
from opd_toy.sequences import TokenTree, reward_to_go

FINE = Mean(0.0, np.zeros(4))


def by_hand(gradient, found=None):
    """Expected gradients that no loss has given: ``gradient(p, q)`` on the random pairs."""
    found = random_pairs(0) if found is None else found
    pairs = Pairs.of(found)
    return Expected(
        pairs,
        gradient(pairs.p, pairs.q),
        rounding=np.full(len(found), 1e-13),
        tier=np.array([pair.tier for pair in found]),
        fit=np.array([pair.fit for pair in found]),
        tolerance=1e-9,
    )


def table(pair, rows):
    return Table(pair.student, pair.teacher, pair.tier, pair.fit, rows, np.ones(len(rows)))


# --- one token -------------------------------------------------------------------------------


def test_half_of_each_tier_is_held_out():
    """The notes' pair is fitted to besides; pairs alike and peaked ones only confirm."""
    _, *pairs = random_pairs(0)
    fitted = [sum(pair.fit for pair in pairs if pair.tier == tier) for tier in range(4)]
    assert fitted == [len(sizes) // 2 for sizes, _ in TIERS]


def test_coefficients_come_from_the_pairs_for_fitting_alone():
    """One held-out pair is hardly known: it must not move the coefficient, which is no decimal."""
    pairs = random_pairs(0)
    # Far apart: an ordinary pair that is hardly known is no ground for a verdict at all.
    held_out = next(i for i, pair in enumerate(pairs) if not pair.fit and pair.tier > ORDINARY)
    measured = by_hand(lambda p, q: objectives.reverse_kl_logit_gradient(p, q) / 7, pairs)
    measured.gradients[held_out] *= 1.05
    measured.rounding[held_out] = 1.0
    ((coefficient, term),) = identify(measured).terms
    assert (coefficient, term.name) == (pytest.approx(1 / 7, rel=1e-9), "reverse KL")
    assert identify(measured).factor is None
    measured.rounding[held_out] = 1e-13
    assert identify(measured).factor  # known exactly, it refutes one factor for all pairs


def test_a_verdict_needs_no_loss():
    def both(p, q):
        forward = objectives.forward_kl_logit_gradient(p, q)
        return 2 * objectives.reverse_kl_logit_gradient(p, q) - 0.5 * forward

    assert identify(by_hand(both)).name == "2 × reverse KL − 0.5 × forward KL"
    assert identify(by_hand(lambda p, q: 0 * p)).zero
    mean = identify(by_hand(lambda p, q: (p - q) / (p > 0).sum(axis=-1, keepdims=True)))
    assert (mean.name, mean.over_vocabulary) == ("1/V × forward KL", True)
    squared = identify(by_hand(lambda p, q: (p - q) * objectives.forward_kl(p, q)[:, None] ** 2))
    assert squared.factor.quantity == "KL(q‖p)" and squared.factor.power == 2


def weighted_by(weight, less_the_mean=True):
    """p_j w_j of each pair, w a function of log p/q."""

    def gradient(p, q):
        with np.errstate(invalid="ignore", divide="ignore"):
            rows = np.where(p > 0, p * weight(np.log(p / q)), 0.0)
        return rows - less_the_mean * p * rows.sum(axis=-1, keepdims=True)

    return by_hand(gradient)


def test_a_gradient_follows_a_curve_of_weights_only_if_it_sums_to_0():
    steps = np.linspace(-40, 40, 4001)
    curve = ratios.Curve(steps, np.tanh(steps), np.zeros(4001))
    assert ratios.follows(weighted_by(np.tanh), curve).all()
    apart = Pairs.of(random_pairs(0)).distance() > 0.1
    assert not ratios.follows(weighted_by(np.tanh, False), curve)[apart].any()


def test_a_gradient_follows_a_curve_that_falls_from_above_and_from_below():
    bump, steps = lambda x: np.exp(-(x**2)), np.linspace(-40, 40, 4001)
    curve = ratios.Curve(steps, bump(steps), np.zeros(4001))
    assert ratios.follows(weighted_by(bump), curve).all()
    assert not ratios.follows(weighted_by(lambda x: 0.5 * bump(x)), curve).all()
    assert not ratios.follows(weighted_by(lambda x: 1.5 * bump(x)), curve).all()


def test_the_number_of_first_tokens_is_read_off_an_ordinary_pair():
    """Of those close to each other nothing may be left but rounding."""
    measured = by_hand(lambda p, q: objectives.top_k_reverse_kl_logit_gradient(p, q, 2))
    measured.gradients[measured.tier == 0] = 0
    assert "1 in proportion to p" in head_search._heads(measured)[2]


def test_a_verdict_in_words():
    reverse, forward = candidates.reverse_kl(), candidates.forward_kl()
    for verdict, name in (
        (Verdict(), "none of these"),
        (Verdict(zero=True), "zero"),
        (Verdict(((-1.0, forward), (0.5, reverse))), "0.5 × reverse KL − forward KL"),
        (Verdict(((1.0, forward), (1.0, reverse)), True), "1/V × (forward KL + reverse KL)"),
        (Verdict(((1.0, reverse),), factor=Factor(3.0, "H(q)", -0.5)), "3 × 1/√H(q) × reverse KL"),
        (
            Verdict(((1.0, reverse),), factor=Factor(1.0)),
            "reverse KL" + " × a factor that depends on the pair",
        ),
    ):
        assert verdict.name == name


def policy_gradient_tables(found):
    """The engine's tables in the place of a loss's, for pairs of any size."""
    return [table(pair, estimators.policy_gradient(*np.exp(_logs(pair)))) for pair in found]


def _logs(pair):
    return [z - np.logaddexp.reduce(z) for z in (pair.student, pair.teacher)]


def measurements(**changes):
    tables = policy_gradient_tables(random_pairs(0))
    same = [t for t in tables if t.fit and t.tier == ORDINARY]
    steps = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [2.0, 0.0, 0.0], [9.0, 0.0, 0.0]])
    fields = {
        "drawn_from": "student",
        "seed": 0,
        "tables": tables,
        "large": policy_gradient_tables(large_pairs(0, 20)),
        "same": same,
        # A gradient of 1, then 1e-6, then 1e-9 of that; the last step leads where none is known.
        "descent": Descent(steps, np.array([[1.0, 0, 0], [1e-6, 0, 0], [1e-9, 0, 0]])),
        "edges": EdgeCalls(True, *[FINE] * 5, close=((0.1, Mean(0, np.ones(3))),), limits=()),
        "formats": frozenset(),
    }
    return Measurements(**fields | changes)


def test_a_report_needs_no_loss():
    report = judge(measurements())
    assert (report.optimises, report.value_is, report.precision) == ("reverse KL", None, "float64")
    assert report.variance == pytest.approx(report.variance_compared["plain policy gradient"])
    assert report.variance == pytest.approx(
        estimators.total_variance(STUDENT, estimators.policy_gradient(STUDENT, TEACHER))
    )
    still = measurements(edges=EdgeCalls(True, *[FINE] * 5, close=((0.1, FINE),), limits=()))
    assert judge(still).optimises == "reverse KL until they are close"
    other = judge(measurements(drawn_from="teacher"))
    assert (other.optimises, other.with_other_tokens) == ("none of these", "reverse KL")


def test_a_gradient_must_vanish_at_every_teacher():
    at_rest = lambda t: table(t, 0 * t.rows)
    first, *others = measurements().same
    assert judge(measurements(same=[at_rest(t) for t in (first, *others)])).fixed_point["is_fixed"]
    moved = judge(measurements(same=[at_rest(first), *others])).fixed_point
    assert not moved["is_fixed"] and moved["gradient_norm"] == 0.0
    assert moved["gradient_norm_relative"] > 0.1


def test_descent_ends_where_the_format_can_follow_it():
    end = judge(measurements()).fixed_point["descent"]
    assert (end["steps"], end["settled"]) == (2, True)
    single = [table(t, t.rows.astype(np.float32).astype(float)) for t in measurements().tables]
    end = judge(measurements(tables=single)).fixed_point["descent"]
    assert (end["steps"], end["settled"]) == (1, True)
    endless = Descent(np.eye(3), np.array([[1.0, 0, 0], [2.0, 0, 0]]))
    end = judge(measurements(descent=endless)).fixed_point["descent"]
    assert (end["steps"], end["settled"]) == (1, False)
    np.testing.assert_allclose(end["ends_at"], np.exp([0, 0, 1]) / np.exp([0, 0, 1]).sum())
    infinite = Descent(np.array([[0, 0, 0], [0, -np.inf, 0]]), np.ones((1, 3)))
    end = judge(measurements(descent=infinite)).fixed_point["descent"]
    assert end["ends_at"].tolist() == [0.5, 0, 0.5] and end["forward_kl"] == np.inf


def test_values_have_names():
    pairs = Pairs.of(random_pairs(0))
    kl = objectives.reverse_kl(pairs.p, pairs.q)
    assert name_values([Values(pairs, 2 * kl, kl)], 1e-9) == "2 × KL(p‖q)"
    assert name_values([Values(pairs, kl / pairs.sizes, kl)], 1e-9) == "1/V × KL(p‖q)"
    assert name_values([Values(pairs, 0 * kl, kl)], 1e-9) == "zero"
    assert name_values([Values(pairs, kl**2, kl)], 1e-9) is None
    assert name_values([Values(pairs, kl, kl), Values(pairs, 2 * kl, kl)], 1e-9) is None
    near = [pair.tier <= ORDINARY for pair in random_pairs(0)]
    of_near = values_of(measurements().tables, pairs, "student")
    np.testing.assert_array_equal(of_near.pairs.student_logits, pairs[near].student_logits)
    assert of_near.sizes == pytest.approx(1) and of_near.expected == pytest.approx(1)
    assert name_values([Values(pairs, 0 * kl, kl), Values(pairs, kl, kl)], 1e-9) is None


def test_distances_as_given_and_at_the_best_scale():
    """Twice the reverse KL's gradient, and at right angles to it half of its length."""
    base = objectives.reverse_kl_logit_gradient
    aside = lambda g: np.cross(g, np.ones(3)) / np.sqrt(3)
    three = [pair for pair in random_pairs(0) if len(pair.student) == 3]
    found = by_hand(lambda p, q: 2 * base(p, q) + 0.5 * aside(base(p, q)), three)
    distance = compared(found, still=False)["bias"]["reverse KL"]
    assert distance["best_scale"] == pytest.approx(2)
    assert distance["as_given"] == pytest.approx(np.hypot(1, 0.5))
    assert distance["at_best_scale"] == pytest.approx(0.25)
    assert compared(found, still=True)["bias"]["reverse KL"]["at_best_scale"] is None
    nothing = compared(by_hand(lambda p, q: 0 * p, three), still=False)["bias"]["reverse KL"]
    assert nothing == {"as_given": 1.0, "best_scale": 0.0, "at_best_scale": None}


@pytest.mark.parametrize("pull", [0.1, -0.1])
def test_a_masked_token_is_to_have_no_gradient(pull):
    masked = Mean(1.0, np.append(STUDENT - TEACHER, pull))
    calls = EdgeCalls(True, masked, *[FINE] * 4, close=((0.1, FINE),), limits=())
    said = findings(calls, STUDENT - TEACHER)[0]
    assert said["severity"] == "broken" and f"a gradient of {number(pull)}" in said["finding"]


def test_edges_in_words():
    at_notes = STUDENT - TEACHER
    kept = Mean(1.0, np.append(at_notes, 0.0))
    calls = EdgeCalls(
        takes_token=True,
        masked=kept,
        masked_teacher=Mean(1.0, np.array([0.0, np.nan, 0.0])),
        masked_student=Mean(np.inf, np.full(3, np.nan)),  # +inf by definition: nobody is misled
        padded=Mean(1.0, np.append(at_notes / 2, [0.0, 0.0])),
        huge=FINE,
        close=((0.1, Mean(0.0, at_notes)), (0.01, FINE), (0.002, FINE)),
        limits=(Limit("log p/q", 5.0, "clamp", 0.25), Limit("log q/p", 7.0)),
    )
    severities = [entry["severity"] for entry in findings(calls, at_notes)]
    assert severities == [
        *("fine", "broken", "note", "note", "fine", "fine", "note", "note", "broken"),
    ]
    for off, severity in ((1e-6, "fine"), (1e-3, "note")):  # of a sum that is 0
        (constant,) = (
            entry for entry in findings(calls, at_notes + off) if "constant" in entry["edge"]
        )
        assert constant["severity"] == severity
    said = "\n".join(finding_lines(findings(calls, at_notes)))
    for part in (
        "multiplied by 0.5",
        "still 0.01 apart",
        "stays at 0.25 where its log p/q is above 5",
        "exactly 0 where log q/p of the token drawn is above 7",
        "fine: a token masked (−inf) in both; logits of ±10000",
    ):
        assert part in said


def report(**changes):
    distance = {"as_given": 0.5, "best_scale": 2.0, "at_best_scale": 0.25}
    descent = {"ends_at": TEACHER, "forward_kl": 0.75, "reverse_kl": 0.5, "steps": 7}
    fields = {
        "optimises": "reverse KL",
        "objective": "reverse_kl",
        "parameters": {},
        "scale": 1.0,
        "terms": [],
        "holds_everywhere": True,
        "holds_up_to": 9.0,
        "with_other_tokens": None,
        "expected_gradient": np.array([-0.5, 0.1, 0.4]),
        "standard_deviation": np.zeros(3),
        "variance": 0.25,
        "variance_compared": {"GKD": 0.0, "plain policy gradient": 1.5},
        "bias": {"forward KL": distance, "reverse KL": distance},
        "nearest": {"name": "reverse KL", "cosine": 0.99999, "norm_ratio": 3.0},
        "value_is": "H(q)",
        "value_at_teacher": {"value": 1.5, "is": "a constant"},
        "fixed_point": {
            "is_fixed": False,
            "gradient_norm": 0.1,
            "gradient_norm_relative": 0.125,
            "descent": descent | {"settled": False},
        },
        "edges": [],
        "touches_inputs": ("token",),
        "teacher_gradient": True,
        "uses_token": True,
        "drawn_from": "teacher",
        "precision": "float32",
        "tolerance": 2e-5,
        "seed": 3,
        "pairs": 30,
        "vocabularies": (3, 150),
        "farthest": 12.0,
    }
    return TokenReport(**fields | changes)


def test_a_report_in_words():
    said = words.text(report())
    for part in (
        "30 pairs (seed 3), V = 3 to 150, |log p/q| up to 12",
        "tokens enumerated as drawn from the teacher",
        "computes in float32; a bias below 2e-05 of the gradient cannot be seen",
        "expected gradient at the book's pair: (−0.5, 0.1, 0.4)",
        "0.25 (GKD 0, plain policy gradient 1.5)",
        "from forward KL: 0.5 of its length (0.25 at the best scale)",
        "its value in expectation: H(q); identical models score 1.5 (a constant)",
        "not 0 at student = teacher: 0.125 of an ordinary gradient",
        "is at (0.7, 0.2, 0.1) after 7 steps, not settled: KL(p‖q) 0.5, KL(q‖p) 0.75",
        "also reaches the teacher's logits",
        "changes token in place",
    ):
        assert part in said
    assert "nearest" not in said and "holds on every pair" not in said
    none = words.text(report(optimises="none of these", holds_everywhere=False))
    assert "nearest: reverse KL (mean cosine 1 − 1e-05, 3 times its length)" in none
    for cosine, shown in ((0.75, "0.75"), (0.9995, "1 − 0.0005"), (1.0, "1 − 1e-16")):
        nearest = {"name": "reverse KL", "cosine": cosine, "norm_ratio": 3.0}
        said = words.text(report(optimises="none of these", nearest=nearest))
        assert f"(mean cosine {shown}, 3 times" in said
    close = words.text(report(holds_everywhere=False, with_other_tokens="forward KL"))
    assert "holds on every pair up to |log p/q| = 9" in close
    assert "with tokens drawn from the student: forward KL" in close
    still = words.text(report(optimises="zero"))
    assert "a bias below 2e-05 of single draws" in still


def test_a_coarser_format_is_tried_only_if_it_is_inside():
    assert formats.candidates("float64", {"float64"}) == ["float64"]
    assert formats.candidates("float32", {"bfloat16", "float64"}) == ["float32", "bfloat16"]
    assert formats.candidates("float16", {"bfloat16"}) == ["float16"]  # which is no coarser


def test_formats_inside_a_loss_are_those_of_its_arrays():
    mixed = lambda s, t: (s.float().topk(2).values - t.bfloat16()[:2].half()).sum().double()
    inside = formats.formats_inside(mixed, np.ones(3), np.ones(3))
    assert inside == {"float32", "bfloat16", "float16"}
    assert formats.formats_inside(lambda s, t: t.softmax(-1)[0], *np.ones((2, 3))) == {"float64"}
    in_place = formats.formats_inside(lambda s, t: s.add_(1).float(), *np.ones((2, 3)))
    assert in_place == {"float64", "float32"}


def test_rounding_grows_with_the_gradients_and_values_that_a_loss_adds_up():
    def rounding(size, value):
        pair, *_ = random_pairs(0)
        rows = size * np.outer(np.ones(3), [1.0, -1.0, 0.0])
        found = Table(pair.student, pair.teacher, pair.tier, True, rows, np.full(3, value))
        return expected([found], "student", "float64").rounding[0]

    assert rounding(100.0, 1.0) > 50 * rounding(1.0, 1.0)
    assert rounding(1.0, 1e4) > 50 * rounding(1.0, 1.0)


# --- sequences -------------------------------------------------------------------------------


def samples(seeds, gamma):
    """Tables of the engine's estimators instead of a loss's."""
    for seed in seeds:
        for length in (2, 3):
            pair = [TokenTree.random(3, length, 2 * seed + side) for side in (0, 1)]
            found = reward_to_go(*pair, gamma)
            gradients = found.dense()
            yield Sample(
                *pair,
                gradients,
                np.ones(len(gradients)),
                {"student": found.probabilities},
                "student",
            )


@pytest.mark.parametrize(
    "gamma, name",
    [
        (1.0, "sequence reverse KL"),
        (0.0, "sum of local reverse KLs"),
        (0.25, "reverse KL with a discounted return, γ = 0.25"),
    ],
)
def test_a_verdict_on_sequences_needs_no_loss(gamma, name):
    fitting, confirming = list(samples(range(6), gamma)), list(samples((6, 7), gamma))
    verdict = explain(fitting, confirming, "student", False, 1e-9, families=False)
    assert verdict.name == name
    other = list(samples((6,), 0.5))
    refuted = explain(fitting, other, "student", False, 1e-9, families=False)
    assert refuted.name == "none of these" and not refuted.known


def test_short_numbers_are_those_found_up_to_their_errors():
    found, errors = ({3: {"reverse KL": {(0, 0): number}}} for number in (1.0, 0.01))
    for short, within in ((1 + ERRORS * 0.009, True), (1 + ERRORS * 0.011, False), (0.0, False)):
        named = {3: {"reverse KL": {(0, 0): short}} if short else {}}
        assert _within_errors(named, found, errors) == within


def test_a_verdict_on_sequences_in_words():
    pieces = credit_pieces("reverse KL", {T: lags(T, 0.5) / T for T in (2, 3, 4)}, 1e-9)
    verdict = SequenceVerdict(tuple(pieces), named=True)
    assert verdict.name == "1/T × reverse KL with a discounted return, γ = 0.5"
    assert (verdict.scale, verdict.per_token) == ("1/T", True)
    whole = credit_pieces("forward KL", {T: lags(T, 0.5) for T in (2, 3, 4)}, 1e-9)
    assert SequenceVerdict(tuple(pieces + whole), named=True).per_token is None
    assert verdict.objective == "reverse KL with a discounted return, γ = 0.5"
    of_both = credit_pieces("forward KL", {T: np.eye(T) for T in (2, 3, 4)}, 1e-9) + pieces
    assert SequenceVerdict(tuple(of_both), named=True).credits()[1] == "reverse KL"
    unnamed = SequenceVerdict(tuple(pieces))
    assert (unnamed.name, unnamed.objective, unnamed.scale) == ("none of these", None, "1")
    assert SequenceVerdict(zero=True).name == SequenceVerdict(zero=True).objective == "zero"


def test_close_trees_are_close_to_each_other_and_not_flat():
    (pair,) = trees(((4, 3, 1),), "close fit", 0)
    student, teacher = (np.concatenate([rows.ravel() for rows in tree.logits]) for tree in pair)
    assert 0.15 < (student - teacher).std() < 0.35 and teacher.std() > 0.8


@pytest.mark.parametrize("length", [2, 5])
def test_laws_and_weights_are_what_their_names_say(length):
    def said(text, **symbols):
        formula = text.replace("−", "-").replace("²", "**2").replace("√T", "sqrt(T)")
        return float(sp.sympify(formula or "1").subs({"T": length, **symbols}))

    for law, of in LAWS.items():
        assert of(length) == pytest.approx(said(law))
    for weight, of in WEIGHTS.items():
        assert of(length) == pytest.approx([said(weight, t=t + 1) for t in range(length)])


CLEAN = {"gradient": {}, "leak": {}, "nan": False, "labels": None, "nothing": True}


def test_masks_in_words():
    valid = MaskFacts(**CLEAN, factor=dict.fromkeys(MASKS, 1.0))
    assert name_mask(valid, True).normalised_by == "the valid tokens"
    assert name_mask(valid, False).normalised_by == "nothing: a plain sum"
    assert name_mask(valid, True).findings == ()
    padded = MaskFacts(**CLEAN, factor={name: sum(mask) / 4 for name, mask in MASKS.items()})
    assert name_mask(padded, True).normalised_by == "the padded length"
    hole = MaskFacts(**CLEAN, factor=valid.factor | {HOLE: None})
    assert "take time in the discount" in name_mask(hole, None).findings[0][1]
    leaking = MaskFacts(**CLEAN | {"leak": {PADDED: None}}, factor=valid.factor)
    named = name_mask(leaking, True)
    assert (named.normalised_by, named.findings[0][0]) == ("unknown", "broken")


@pytest.mark.parametrize(
    "factors, name",
    [
        # Alone, each of 4 and 2 tokens is a mean: 1/4 and 1/2.
        ((1.0, 1.0), "each sequence's own tokens (sum of means)"),
        ((0.5, 0.5), "each sequence's own tokens, then the sequences (mean of means)"),
        ((4 / 6, 2 / 6), "the valid tokens of the batch"),
        ((4 / 8, 2 / 8), "the padded size of the batch, B × T"),
        ((4.0, 2.0), "nothing: a plain sum"),
        ((0.3, 0.9), "unknown"),
    ],
)
def test_batches_in_words(factors, name):
    mask = name_mask(MaskFacts(**CLEAN, factor=dict.fromkeys(MASKS, 1.0)), True)
    assert name_batch(BatchFacts(False, (4, 2), factors), mask, True).normalised_by == name


def test_a_batch_without_a_mask_has_two_readings():
    masked = name_mask(MaskFacts(**CLEAN, factor=dict.fromkeys(MASKS, 1.0)), True)
    of_unequal = name_batch(BatchFacts(False, (4, 2), (0.5, 0.5)), masked, True)
    assert of_unequal.findings == (("note", SHORT_WEIGH_MORE),)
    of_equal = name_batch(BatchFacts(False, (4, 4), (0.5, 0.5)), None, True)
    assert of_equal.findings == (("note", EQUALLY_LONG),)
    assert of_equal.normalised_by == "all tokens of the batch"
