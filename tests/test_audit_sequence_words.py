"""What a report on texts says, line by line, and what is said of its edges: by hand, no loss."""

from types import SimpleNamespace

import numpy as np
import pytest

from opd_toy.audit.report import finding_lines
from opd_toy.audit.sequence import words
from opd_toy.audit.sequence.bases import REWARD
from opd_toy.audit.sequence.findings import Facts, findings
from opd_toy.audit.sequence.judge import Reading
from opd_toy.audit.sequence.masks import HOLE, MASKS, PADDED, PROMPT, Leak, MaskFacts
from opd_toy.audit.sequence.names import Piece
from opd_toy.audit.sequence.normalisers import name_mask
from opd_toy.audit.sequence.report import SequenceReport
from opd_toy.audit.sequence.verdict import SequenceVerdict
from tests.written import check_text


def report(**changes):
    fields = {
        "optimises": "1/T × sum of local reverse KLs",
        "objective": "sum of local reverse KLs",
        "scale": "1/T",
        "holds_everywhere": True,
        "credit": np.array([[1, 0.9, 0], [0, 0.5, 0], [0, 0, 0]]),
        "credit_of": "reverse KL",
        "credits": None,
        "carried": None,
        "unbiased_for": {"sum of local reverse KLs": "1/T", "sequence reverse KL": "1"},
        "bias": {"sequence reverse KL": 0.25, "sum of local reverse KLs": 0.0},
        "nearest": {"name": "sequence reverse KL", "cosine": 0.75, "norm_ratio": 3.0},
        "description": None,
        "dependence": None,
        "with_other_tokens": "zero",
        "expected_gradient": np.zeros(3),
        "variance": 0.125,
        "variance_compared": {"own sampled cost": 2.0, "exact local KLs": 0.5},
        "value_is": "sequence reverse KL",
        "fixed_point": 0.0,
        "mask": {"respected": True, "normalised_by": "the valid tokens"},
        "batch": {"shared": False, "normalised_by": "all tokens of the batch"},
        "edges": [{"edge": "mask", "severity": "note", "finding": "leaks"}],
        "touches_inputs": (),
        "teacher_gradient": False,
        "uses_tokens": True,
        "drawn_from": "student",
        "precision": "float32",
        "tolerance": 2e-5,
        "condition": 12.5,
        "lengths": (2, 3, 4),
        "vocabularies": (2, 5),
        "pairs": 30,
        "farthest": 16.4,
        "calls": 900,
        "seed": 7,
    }
    return SequenceReport(**fields | changes)


def test_a_report_line_by_line():
    assert words.text(report()).splitlines() == [
        "optimises: 1/T × sum of local reverse KLs",
        f"  that is: {words.MEANINGS['sum of local reverse KLs']}; 1/T: the mean over tokens",
        "  unbiased for 1/T × sum of local reverse KLs, sequence reverse KL",
        "  with sequences drawn from the teacher: zero",
        "  who pays for which reverse KL, T = 3:",
        "    the token at position 1 pays for position 1, 2 (× 0.9)",
        "    the token at position 2 pays for position 2 (× 0.5)",
        "    the token at position 3 pays for nothing",
        "  variance of one draw: 0.125 (own sampled cost 2, exact local KLs 0.5)",
        "  its value in expectation: sequence reverse KL",
        "  mask: divided by the valid tokens",
        "  batch: divided by all tokens of the batch",
        "  shown on 30 pairs of trees (seed 7), T = 2 to 4, V = 2 to 5, |log p/q| up to 16, "
        "in 900 calls; sequences enumerated as drawn from the student",
        "  computes in float32; a bias below 2e-05 of the gradient cannot be seen; "
        "condition of the least squares 12",
        "edges:",
        "   ! mask: leaks",
    ]


@pytest.mark.parametrize(
    "changes, line",
    [
        (
            {"optimises": "none of these", "objective": None, "unbiased_for": {}},
            "  nearest: sequence reverse KL (cosine 0.75, 3 times its length)",
        ),
        (
            {"unbiased_for": {}},
            "  relative distance, at the best scale, from sequence reverse KL 0.25, "
            "sum of local reverse KLs 0",
        ),
        ({"variance_compared": {}}, "  variance of one draw: 0.125"),
    ],
)
def test_lines_of_other_reports(changes, line):
    assert line in words.text(report(**changes)).splitlines()


@pytest.mark.parametrize("changes", [{"optimises": "zero"}, {"tolerance": 3e-2}])
def test_a_tolerance_may_be_one_of_a_draw(changes):
    assert "of a draw cannot be seen" in words.text(report(**changes))


def found(*, piece="reverse KL", facts=(), condition=1.0, close_only=False, mask=None, **measured):
    """{edge: (severity, finding)} of a loss about which nothing else is remarkable."""
    one = Piece(piece, piece, "", {3: 1.0}, np.eye)
    verdict = SequenceVerdict((one,), named=True, condition=condition)
    plain = {"optimises": piece, "value_is": None, "carried": None, "fixed_point": 0.0}
    plain["problems"] = dict.fromkeys(("far", "long", "wide"))
    said = findings(
        SimpleNamespace(
            **{
                "drawn_from": "student",
                "teacher_gradient": False,
                "touched": (),
                "dependence": None,
                "limits": None,
            }
            | measured
        ),
        Reading(verdict, "float64", close_only),
        Facts(**plain | dict(facts)),
        mask,
        None,
    )
    return {entry["edge"]: (entry["severity"], entry["finding"]) for entry in said}


def test_what_is_fine_is_said_in_a_word():
    assert found() == {"far off": ("fine", ""), "student = teacher": ("fine", "")}
    plain = [{"edge": edge, "severity": "fine", "finding": ""} for edge in found()]
    assert finding_lines(plain) == ["     fine: far off; student = teacher"]


@pytest.mark.parametrize(
    "edge, severity, part, what",
    [
        ("expectation", "broken", "teacher's own sequences this", {
            "facts": {"optimises": "zero"}, "drawn_from": "teacher"}),
        ("expectation", "broken", "is on average sequence reverse KL", {
            "facts": {"optimises": "zero", "value_is": "sequence reverse KL"}}),
        ("longer sequences", "broken", "not on longer sequences: cut", {
            "facts": {"problems": {"far": None, "long": "cut", "wide": None}}}),
        ("vocabulary", "broken", "not with a larger vocabulary: cut", {
            "facts": {"problems": {"far": None, "long": None, "wide": "cut"}}}),
        ("far off", "broken", "standard deviation 6", {
            "facts": {"problems": {"far": "is not finite", "long": None, "wide": None}}}),
        ("far off", "note", "off by 2", {
            "facts": {"problems": {"far": "off by 2", "long": None, "wide": None}}}),
        ("ordinary", "note", "standard deviation 0.25", {"close_only": True}),
        ("past", "note", "below the diagonal", {"facts": {"carried": np.ones((3, 3))}}),
        ("student = teacher", "broken", "not finite there", {"facts": {"fixed_point": np.nan}}),
        ("student = teacher", "note", "but 0.1 of a draw's", {"facts": {"fixed_point": 0.1}}),
        ("student = teacher", "fine", "", {"facts": {"fixed_point": 1e-8}}),
        ("student = teacher", "fine", "", {"facts": {"fixed_point": 0.1}, "piece": REWARD}),
        ("teacher", "note", "reaches the teacher's logits", {"teacher_gradient": True}),
        ("inputs", "note", "mask and tokens in place", {"touched": ("mask", "tokens")}),
        ("bases", "note", "condition number 2e+04", {"condition": 2e4}),
    ],
)  # fmt: skip
def test_what_is_said_of_an_edge(edge, severity, part, what):
    said = found(**what)[edge]
    assert said[0] == severity and part in said[1]
    check_text("audit_findings.txt", f"{edge}: {part}", said[1] or "nothing")


def test_what_holds_close_by_alone_is_not_called_fine_far_off():
    assert "far off" not in found(close_only=True)


def test_no_past_is_said_of_draws_without_one():
    assert "past" not in found(facts={"carried": np.triu(np.ones((3, 3)))})


@pytest.mark.parametrize(
    "changes, severity, part",
    [
        (
            {"gradient": {PROMPT: ((0, 0), (0, 2), (1, 3))}},
            "broken",
            "get a gradient (a prompt in front: positions 1, 3, text 2's position 4)",
        ),
        (
            {"leak": {HOLE: None}, "factor": dict.fromkeys(MASKS)},
            "broken",
            "of the valid ones (a hole inside): mask the costs",
        ),
        (
            {"leak": {HOLE: Leak("teacher", by=(0, 1), moved=(0, 0))}},
            "broken",
            "With a hole inside, the gradient at position 1 moves with the teacher's row at "
            "position 2, which is masked",
        ),
        (
            {"leak": {PADDED: Leak("tokens", by=(1, 3), moved=(0, 0))}},
            "broken",
            "the gradient at text 1's position 1 moves with the token at text 2's position 4",
        ),
        ({"factor": {PADDED: None, PROMPT: 1.0, HOLE: None}}, "note", "padding at the end changes"),
        ({"factor": {PADDED: 1.0, PROMPT: None, HOLE: 1.0}}, "note", "a prompt in front changes"),
        ({"nan": True}, "note", "torch.where"),
        ({"labels": "IndexError: -100"}, "note", "is not taken: IndexError: -100"),
        ({"nothing": False}, "note", "0/0"),
    ],
)
def test_what_is_said_of_a_mask(changes, severity, part):
    clean = {"gradient": {}, "leak": {}, "nan": False, "labels": None, "nothing": True}
    facts = MaskFacts(**{**clean, "factor": dict.fromkeys(MASKS, 1.0)} | changes)
    ((said, sentence),) = name_mask(facts, True).findings
    assert said == severity and part in sentence
    check_text("audit_findings.txt", f"mask: {part}", sentence)
    assert found(mask=name_mask(facts, True))["mask"] == (said, sentence)
