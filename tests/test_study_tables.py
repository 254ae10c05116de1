"""The tables that ``python -m opd_toy study`` prints, on a small record written by hand."""

import pytest

from opd_toy.commands import study_tables
from opd_toy.commands.study_tables import MEASURES

LOW, HIGH = ({name: x + i for i, name in enumerate(MEASURES)} for x in (0.25, 0.5))
BROKEN = {"not_finite": "the loss is not finite at step 2"}
RESULTS = {
    "preset": {"name": "tiny", "distillation": {"steps": 3, "batch": 4}},
    "seeds": [1, 7],
    "device": "cpu",
    "clock": "processor seconds",
    "final": {
        "prompts": 5,
        "teacher": HIGH,
        "start": LOW | {"length": None},
        "gkd": [LOW, HIGH],
        "pg_1": [HIGH, None],
    },
    "curves": {
        "gkd": [{"tokens": [1, 30], "seconds": [1, 2]}, {"tokens": [1, 50], "seconds": [1, 4]}],
        "pg_1": [{"tokens": [1, 9], "seconds": [1, 3]}, {"tokens": [9], "seconds": [3]} | BROKEN],
    },
    "sweep": {
        "gkd": [
            {"rate": 0.001, "sequence_kl": 0.5, "accuracy": 0.25},
            {"rate": 0.01, "sequence_kl": None, "accuracy": None},
        ]
    },
    "from_teacher": {
        "steps": 6,
        "rate": 0.02,
        "methods": {
            "rlvr": {"final": [HIGH | {"gain": [0.125, 0.5]}, None], "curves": [{}, BROKEN]}
        },
    },
    "frozen": {
        "start": {
            "texts": 12,
            "estimators": {
                "gkd": {
                    "variance": [2.0, 0.25],
                    "ratio_to_gkd": [1.0, None],
                    "token_noise": [None, None],
                    "cosine_with_gkd": [3.0, None],
                    "cosine_with_sequence_kl": [4.0, None],
                    "bias": [5.0, None],
                }
            },
            "growth": {"lengths": [2, 4, 8], "gkd": {"exponents": [[1.5, 0.1], [None, None]]}},
        }
    },
    "claims": [
        {
            "id": "one",
            "claim": "It rises.",
            "verdict": "seen under conditions",
            "figure": {"slope": [1.5, 0.25], "end": None},
            "parts": {"at first": True, "at the end": False, "in between": True},
        },
        {
            "id": "two",
            "claim": "It falls.",
            "verdict": "seen",
            "figure": {"slope": 2},
            "parts": {"at first": True},
        },
    ],
}


@pytest.fixture(scope="module")
def blocks():
    """The report's parts; each line with single spaces."""
    text = study_tables.report(RESULTS)
    return [[" ".join(line.split()) for line in block.splitlines()] for block in text.split("\n\n")]


def cells(values):
    return " ".join("-" if value is None else f"{value:.3f}" for value in values)


def test_the_methods_are_means_over_the_seeds_that_have_an_end(blocks):
    assert blocks[0] == [
        "tiny: 3 steps of 4 texts, seeds 1, 7, on cpu; measured on 5 prompts kept for tests"
    ]
    header, _, *rows = blocks[1]
    measured = " ".join(name.replace("_", " ") for name in MEASURES)
    assert header == f"{measured} tokens processor seconds"
    middle = [(LOW[name] + HIGH[name]) / 2 for name in MEASURES]
    assert rows == [
        f"teacher {cells(HIGH.values())}",
        f"start {cells([*list(LOW.values())[:-1], None])}",
        f"gkd {cells(middle)} 40 3",
        f"pg_1 {cells(HIGH.values())} 9 3",
    ]


def test_runs_that_broke_down_are_named(blocks):
    assert blocks[2] == ["pg_1, seed 7, broke down and is in no mean: " + BROKEN["not_finite"]]
    where = "rlvr from the teacher, seed 7"
    assert blocks[3] == [f"{where}, broke down and is in no mean: {BROKEN['not_finite']}"]


def test_the_other_tables_say_what_the_record_says(blocks):
    assert blocks[4] == ["Sequence KL (accuracy) at the end by rate, seed 1"]
    assert [blocks[5][0], blocks[5][2]] == ["rate 0.001 0.01", "gkd 0.500 (0.250) - (-)"]
    assert blocks[6] == ["Students that start as the teacher: 6 steps at the rate 0.02"]
    header, _, teacher, rlvr = blocks[7]
    measured = " ".join(name.replace("_", " ") for name in MEASURES)
    assert header == f"gain in right workings {measured}"
    assert teacher == f"teacher {cells(HIGH.values())}"
    assert rlvr == f"rlvr 0.1250 {cells(HIGH.values())}"
    assert blocks[8][0].startswith("Gradients of one text at a frozen student: start, 12 texts")
    assert blocks[8][0].endswith("between lengths 2, 4, 8")
    assert blocks[9][0] == (
        "variance ratio to gkd token noise cosine with gkd cosine with sequence kl bias growth"
    )
    assert blocks[9][2] == "gkd 2 ± 0.2 1 - 3 4 5 1.500 -"


def test_a_claim_is_printed_with_the_conditions_under_which_it_was_seen(blocks):
    assert blocks[10] == [
        "one: seen under conditions (at first, in between)",
        "It rises.",
        "slope 1.5 ± 0.2; end -",
        "two: seen",
        "It falls.",
        "slope 2.000",
    ]
