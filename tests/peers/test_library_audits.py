"""The recorded audits of the libraries, made again: what the installed versions do is what is recorded."""

import json

import pytest
import torch

from opd_toy.audit.exhibits import libraries

RESULTS = json.loads(libraries.RECORD.read_text(encoding="utf-8"))["results"]
AUDITS = {entry["id"]: entry for entry in RESULTS["audits"]}


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def verdict(entry):
    """What a reader takes away: the names, whether they hold, the edges, and the numbers at the notes' pair."""
    report = entry["report"]
    if report is None:
        return entry["optimises"]
    return {
        "optimises": entry["optimises"], "holds_everywhere": report["holds_everywhere"], "precision": report["precision"],
        "edges": [(edge["edge"], edge["severity"]) for edge in report["edges"]],
        "expected_gradient": pytest.approx(report["expected_gradient"], rel=1e-4, abs=1e-6), "variance": pytest.approx(report["variance"], rel=1e-4, abs=1e-6),
    }  # fmt: skip


def found(loss):
    entry = libraries.audited(loss)
    report = entry["report"]
    return (
        {
            **verdict(entry),
            "expected_gradient": report["expected_gradient"],
            "variance": report["variance"],
        }
        if report
        else verdict(entry)
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", libraries.LIBRARY_LOSSES)
def test_the_recorded_verdict_is_made_again(name):
    assert found(libraries.LIBRARY_LOSSES[name]) == verdict(AUDITS[name])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", libraries.MEASUREMENTS)
def test_the_recorded_numbers_are_made_again(name):
    recorded = RESULTS["measurements"][name]
    if (
        name == "trl: close models in float32"
    ):  # rounding: the order of its sums hangs on the machine
        errors = libraries.MEASUREMENTS[name]()["relative error of the value, largest of 5"]
        assert errors["GKDTrainer"] > 0.01 > 100 * errors["Σ p (d + expm1(-d))"]
    else:
        assert flat(json.loads(json.dumps(libraries.MEASUREMENTS[name]()))) == pytest.approx(
            flat(recorded), rel=1e-6, abs=1e-7
        )


def flat(tree, path=""):
    """{path: leaf}, numbers alone; other leaves go into the path."""
    if isinstance(tree, (dict, list)):
        items = tree.items() if isinstance(tree, dict) else enumerate(tree)
        return {
            key: leaf
            for name, branch in items
            for key, leaf in flat(branch, f"{path}/{name}").items()
        }
    number = isinstance(tree, (int, float)) and not isinstance(tree, bool)
    return {path: tree} if number else {f"{path}={tree}": 0.0}


@pytest.mark.filterwarnings("ignore")
def test_a_library_that_changed_is_noticed(monkeypatch):
    from verl.trainer.ppo import core_algos

    right = core_algos.kl_penalty_forward
    monkeypatch.setattr(core_algos, "kl_penalty_forward", lambda *arguments: 2 * right(*arguments))
    changed = found(libraries.LIBRARY_LOSSES["verl-k2"])
    assert changed != verdict(AUDITS["verl-k2"]) and changed["optimises"] == "2 × reverse KL"
