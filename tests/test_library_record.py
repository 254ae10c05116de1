"""What is recorded of the libraries' losses: current, complete, and what the table of settings says."""

import json
import re
from collections import Counter

import pytest

from opd_toy.audit.exhibits import libraries
from opd_toy.records import provenance
from tests.conftest import ROOT

RECORD = json.loads(libraries.RECORD.read_text(encoding="utf-8"))
AUDITS = {entry["id"]: entry for entry in RECORD["results"]["audits"]}
MEASURED = RECORD["results"]["measurements"]
PINS = dict(
    re.findall(r"^([\w-]+)==(.+)$", (ROOT / "requirements-peers.txt").read_text(), re.MULTILINE)
)


def report(name):
    return AUDITS[name]["report"]


def edges(name, severity="broken"):
    return " ".join(
        edge["finding"] for edge in report(name)["edges"] if edge["severity"] == severity
    )


def test_the_record_is_current():
    assert provenance.is_current(libraries.RECORD), (
        "figures/library-audits.json is out of date: make audit-peers"
    )


def test_the_record_names_the_pinned_versions():
    versions = RECORD["provenance"]["versions"]
    assert {name: versions[name] for name in libraries.PACKAGES} == {
        name: PINS[name] for name in libraries.PACKAGES
    }
    assert all(entry["version"] == PINS[entry["library"]] for entry in AUDITS.values())
    assert (
        RECORD["provenance"]["command"] == "python -m opd_toy.audit.exhibits.libraries --record"
        and RECORD["provenance"]["seed"] == libraries.SEED
    )


def test_every_loss_is_recorded_and_nothing_else():
    assert list(AUDITS) == list(libraries.LIBRARY_LOSSES) and list(MEASURED) == list(
        libraries.MEASUREMENTS
    )
    for name, entry in AUDITS.items():
        loss = libraries.LIBRARY_LOSSES[name]
        assert all(
            entry[field] == getattr(loss, field)
            for field in ("library", "function", "option", "when_you_want_it", "kind", "drawn_from")
        )
        assert loss.when_you_want_it and loss.option
    assert Counter(entry["library"] for entry in AUDITS.values()).keys() == set(libraries.PACKAGES)


VERDICTS = {
    "verl-k1": "zero", "verl-k2": "reverse KL", "verl-k3": "forward KL while the two are close", "verl-k1+": "reverse KL", "verl-k3+": "reverse KL",
    "verl-distillation-k1-reward": "reverse KL", "verl-distillation-k3": "forward KL while the two are close",
    "verl-distillation-k3-reward": "reverse KL − forward KL while the two are close", "verl-distillation-dataclass": "reverse KL − forward KL while the two are close",
    "trl-gkd-0": "forward KL", "trl-gkd-0.5": "JSD(β = 0.5)", "trl-gkd-0.999": "JSD(β = 0.999)", "trl-gkd-1": "reverse KL",
    "trl-distillation-1": "reverse KL", "trl-sdpo-token": "reverse KL", "trl-grpo-kl": "reverse KL", "trl-grpo-kl-uncorrected": "forward KL",
    "liger-jsd-default-student": "0.5 × JSD(β = 0.5)", "liger-jsd-default-teacher": "0.5 × JSD(β = 0.5) + 0.5 × forward KL", "liger-jsd-1": "reverse KL",
    "liger-grpo-kl": "forward KL", "liger-grpo-kl-corrected": "reverse KL",
    "trl-server-no-tail": "zero", "trl-server-tail": "none of these", "verl-abs": "none of these", "verl-distillation-k2-reward": "none of these",
    "tinker-discount-0": "sum of local reverse KLs", "verl-full": "cannot be audited",
}  # fmt: skip


@pytest.mark.parametrize("name", VERDICTS)
def test_the_verdict_is_the_one_known_from_the_formula(name):
    assert AUDITS[name]["optimises"] == VERDICTS[name]


def test_every_cell_of_the_table_is_backed_by_an_audit():
    for wanted, (when, verdicts, cells) in libraries.PRACTITIONERS.items():
        says = re.compile(
            f"(?:{'|'.join(map(re.escape, [verdicts] if isinstance(verdicts, str) else verdicts))})(?:$|, | while | where )"
        )
        assert when and cells and set(cells) <= set(libraries.PACKAGES)
        for library, settings in cells.items():
            for setting, name in settings:
                assert AUDITS[name]["library"] == library and setting
                assert says.match(AUDITS[name]["optimises"]), (
                    wanted,
                    name,
                    AUDITS[name]["optimises"],
                )


def test_the_discount_makes_masked_positions_pay():
    """Without one the prompt is left alone; with one its positions have advantages and gradients."""
    assert "masked positions" not in edges(
        "tinker-discount-0"
    ) and "masked positions get a gradient" in edges("tinker-discount-0.9")
    prompt = {
        name: row[:2] for name, row in MEASURED["tinker-cookbook: advantages of the prompt"].items()
    }
    assert prompt["discount 0"] == [0.0, 0.0] and all(
        abs(advantage) > 0.1
        for name in ("discount 0.9", "discount 1")
        for advantage in prompt[name]
    )


def test_normalisers():
    of = {
        name: report(name)["batch"]["normalised_by"]
        for name in AUDITS
        if AUDITS[name]["kind"] == "batch"
    }
    assert of["verl-token-mean"] == of["trl-gkd-labels"] == "the valid tokens of the batch"
    assert (
        of["verl-seq-mean-token-sum"].startswith("the sequences")
        and "mean of means" in of["verl-seq-mean-token-mean"]
    )


def test_k3_is_cut_off_where_its_value_is_ten():
    import math

    ends = list(MEASURED["verl: k3's clamp"].values())
    assert ends[0] == pytest.approx(2.6109, abs=1e-4) and ends[1] == pytest.approx(-11, abs=1e-4)
    assert [math.exp(x) - x - 1 for x in ends] == pytest.approx([10, 10], abs=1e-8)


def test_the_top_k_forward_kl_does_not_rest_at_the_teacher():
    """p Σ_top q - q_top at p = q is what is left of it."""
    norms = MEASURED["verl: top-K at the minimum"]["gradient norm at student = teacher"]
    for name, norm in norms.items():
        teacher = json.loads(re.search(r"\((.*?)\)", name)[1].join("[]"))
        head = sorted(range(3), key=lambda i: -teacher[i])[: int(name[-1])]
        rest = [q * sum(teacher[i] for i in head) - q * (i in head) for i, q in enumerate(teacher)]
        assert norm == pytest.approx(sum(x * x for x in rest) ** 0.5, rel=1e-5)
    negative = [case for case in MEASURED["verl: top-K at the minimum"].values() if "value" in case]
    assert [
        (case["value"] < 0, case["gradient norm"] > 0.1, case["gradient norm after clamp_min(0)"])
        for case in negative
    ] == [(True, True, 0.0)]


def test_a_masked_vocabulary_is_nan_in_gkd():
    found = MEASURED["trl: a masked vocabulary"]
    assert all(case["value"] == "nan" for name, case in found.items() if "in both" in name)
    assert (
        found["-inf in both, beta = 0"]["gradient finite"]
        and not found["-inf in both, beta = 1"]["gradient finite"]
    )


def test_beta_near_one_is_the_reverse_kl_in_small():
    found = MEASURED["trl: beta near its ends"]
    for name, end, beta in (
        ("beta = 0.999", "beta = 1", 0.999),
        ("beta = 0.001", "beta = 0", 0.999),
    ):
        assert found[name]["value"] == pytest.approx((1 - beta) * found[end]["value"], rel=0.01)


def test_the_text_has_every_verdict_and_setting(capsys):
    libraries.main([])
    text = capsys.readouterr().out
    assert all(
        re.search(rf"^{re.escape(name)} +{re.escape(entry['optimises'])}", text, re.MULTILINE)
        for name, entry in AUDITS.items()
    )
    assert all(wanted in text for wanted in libraries.PRACTITIONERS) and text.count("\n") < 200


def test_without_the_libraries_it_says_how_to_get_them(capsys, monkeypatch):
    def missing(*_):
        raise ModuleNotFoundError("No module named 'verl'")

    monkeypatch.setattr(libraries, "make_record", missing)
    with pytest.raises(SystemExit) as end:
        libraries.main(["--record"])
    assert end.value.code == 2 and "make audit-peers" in capsys.readouterr().err


def test_the_auditor_imports_none_of_them():
    """The table can be read, and the book built, without the libraries."""
    import subprocess
    import sys

    code = "import sys, opd_toy.audit.exhibits.libraries; print([m for m in ('trl', 'verl', 'liger_kernel', 'tinker', 'transformers', 'ray') if m in sys.modules])"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT
        ).stdout
        == "[]\n"
    )
