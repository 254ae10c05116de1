"""The recorded audits of the libraries, made again: what the installed versions do is recorded."""

import json

import pytest

from opd_toy.audit.exhibits.libraries.measurements import MEASUREMENTS
from opd_toy.audit.exhibits.libraries.record import LIBRARY_LOSSES, RECORD, audited

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore")]

RESULTS = json.loads(RECORD.read_text(encoding="utf-8"))["results"]
AUDITS = {entry["id"]: entry for entry in RESULTS["audits"]}


def verdict(entry):
    """What a reader takes away in words: the names, whether they hold, and the edges."""
    report = entry["report"]
    if report is None:
        return {"optimises": entry["optimises"], "note": entry["note"]}
    return {
        "optimises": entry["optimises"],
        "holds_everywhere": report["holds_everywhere"],
        "precision": report["precision"],
        "teacher_gradient": report["teacher_gradient"],
        "edges": [(edge["edge"], edge["severity"]) for edge in report["edges"]],
        # of texts alone: what their sum is divided by, and how old ones are corrected
        "batch": report.get("batch"),
        "mask": report.get("mask"),
        "stale": {**(report.get("stale") or {}), "map": None},
    }


def numbers(entry):
    """At the notes' pair, or on the auditor's tree."""
    report = entry["report"]
    return [*report["expected_gradient"], report["variance"]] if report else []


@pytest.mark.parametrize("name", LIBRARY_LOSSES)
def test_the_recorded_verdict_is_made_again(name):
    found, recorded = audited(LIBRARY_LOSSES[name]), AUDITS[name]
    assert verdict(found) == verdict(recorded)
    # Some of the libraries compute in float32, whose sums differ from one processor to another.
    assert numbers(found) == pytest.approx(numbers(recorded), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("name", set(MEASUREMENTS) - {"trl: close models in float32"})
def test_the_recorded_numbers_are_made_again(name):
    found = json.loads(json.dumps(MEASUREMENTS[name]()))
    recorded = RESULTS["measurements"][name]
    assert words_in(found) == words_in(recorded)
    assert numbers_in(found) == pytest.approx(numbers_in(recorded), rel=1e-6, abs=1e-7)


def test_the_recorded_rounding_of_close_models_is_made_again():
    """Only its size: rounding errors depend on the order of the sums, and so on the processor."""
    measured = MEASUREMENTS["trl: close models in float32"]()
    errors = measured["relative error of the value, largest of 5"]
    assert errors["GKDTrainer"] > 0.01 > 100 * errors["Σ p (d + expm1(-d))"]


def leaves(tree, path=""):
    """(path, value) of everything in nested dicts and lists that is neither."""
    if not isinstance(tree, (dict, list)):
        return [(path, tree)]
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    return [leaf for name, branch in items for leaf in leaves(branch, f"{path}/{name}")]


def is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def numbers_in(tree):
    return {path: value for path, value in leaves(tree) if is_number(value)}


def words_in(tree):
    return {path: value for path, value in leaves(tree) if not is_number(value)}


def test_a_library_that_changed_is_noticed(monkeypatch):
    from verl.trainer.ppo import core_algos

    right = core_algos.kl_penalty_forward
    monkeypatch.setattr(core_algos, "kl_penalty_forward", lambda *arguments: 2 * right(*arguments))
    changed = audited(LIBRARY_LOSSES["verl-k2"])
    assert changed["optimises"] == "2 × reverse KL"
    assert verdict(changed) != verdict(AUDITS["verl-k2"])
