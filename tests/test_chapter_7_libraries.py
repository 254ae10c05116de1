"""The page on real libraries: all of the record is on it, its sentences fall with the record, its exercises are right."""

import ast
import json
import re

import numpy as np
import pytest

from opd_toy.audit.exhibits import libraries
from tests.conftest import ROOT

PAGE = ROOT / "book" / "07-real-libraries.md"
CELL = re.compile(
    r"^```\{code-cell\} ipython3\n((?::[^\n]*\n)*)(.*?)^```$", re.DOTALL | re.MULTILINE
)


def run(record=None):
    """(the page's text as shown, its namespace); with ``record`` in the place of the one in figures/."""
    shown, names = [], {}
    for _, code in CELL.findall(PAGE.read_text(encoding="utf-8")):
        *body, last = ast.parse(code).body
        if not isinstance(last, ast.Expr):
            body, last = [*body, last], None
        exec(compile(ast.Module(body, []), PAGE.name, "exec"), names)
        if record is not None and "kept" in names and names["kept"] is not record:
            names["kept"], names["audits"] = (
                record,
                {entry["id"]: entry for entry in record["results"]["audits"]},
            )
        if last is not None:
            shown.append(
                getattr(
                    eval(compile(ast.Expression(last.value), PAGE.name, "eval"), names), "text", ""
                )
            )
    return "\n".join(shown), names


@pytest.fixture(scope="module")
def page():
    return run()


@pytest.fixture
def record():
    return json.loads(libraries.RECORD.read_text(encoding="utf-8"))


def test_every_audit_is_on_the_page(page):
    text, names = page
    folds = text[
        text.index("<details", text.index("left as it is")) : text.index(
            "Differentiated, `kl_penalty`"
        )
    ]
    rows = [
        line.replace("`", "")
        for line in folds.splitlines()
        if line.startswith("| ") and not line.startswith("| option")
    ]
    assert len(rows) == len(names["audits"])
    for entry in names["audits"].values():
        found = [
            row
            for row in rows
            if row.startswith(f"| {entry['option']}") and f"| {entry['optimises']}" in row
        ]
        assert found, entry["id"]
        if entry["report"] and entry["kind"] == "token" and not entry["report"]["holds_everywhere"]:
            assert all("nearest" in row or "up to" in row for row in found), found


def test_every_setting_is_on_the_page(page):
    text, _ = page
    plain = text.replace("`", "")
    for wanted, (when, _, cells) in libraries.PRACTITIONERS.items():
        assert f"**{wanted[0].upper()}{wanted[1:]}.**" in text and when[1:] in text
        for settings in cells.values():
            assert all(words in plain for words, _ in settings)


def test_versions_date_and_command(page, record):
    text, _ = page
    made = record["provenance"]
    assert made["date"][:10] in text and all(
        made["versions"][name] in text for name in libraries.PACKAGES
    )
    assert re.search(r"^audit-peers:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert "libraries:trl_gkd" in PAGE.read_text(encoding="utf-8") and callable(libraries.trl_gkd)


def test_the_numbers_of_the_exercises(page):
    """From the formulas, without the record: k3's value is 10 at the clamp, and the rest are sums."""
    _, names = page
    at = 3.0
    for _ in range(50):
        at -= (np.exp(at) - 1 - at - 10) / (np.exp(at) - 1)
    assert names["hidden"] == pytest.approx(0.9 / np.exp(at), rel=1e-6)
    q = np.array([0.7, 0.2, 0.1])
    assert names["same"]["identical models score"] == pytest.approx(
        -0.5 * (q * np.log(q)).sum(), rel=1e-6
    )
    assert names["first"] == pytest.approx(-np.log(np.array([0.2, 0.3, 0.5]) / q).sum(), rel=1e-6)
    assert names["by_sum"] == pytest.approx(
        0.5 * np.log(0.5 / 0.55) + 0.3 * np.log(0.3 / 0.35), rel=1e-9
    )


def entry_of(record, name):
    return next(entry for entry in record["results"]["audits"] if entry["id"] == name)


def other_default(record):
    entry_of(record, "verl-distillation-dataclass")["optimises"] = "reverse KL"


def k3_repaired(record):
    entry_of(record, "verl-k3")["optimises"] = "reverse KL"


def trl_defines_the_masked_value(record):
    for case in record["results"]["measurements"]["trl: a masked vocabulary"].values():
        case["value"] = "0.0"


def prompt_masked(record):
    for row in record["results"]["measurements"][
        "tinker-cookbook: advantages of the prompt"
    ].values():
        row[:2] = [0.0, 0.0]


def top_k_not_cut(record):
    (case,) = [
        case
        for case in record["results"]["measurements"]["verl: top-K at the minimum"].values()
        if "value" in case
    ]
    case["gradient norm after clamp_min(0)"] = case["gradient norm"]


def liger_without_labels(record):
    record["results"]["measurements"]["liger-kernel: identical models"][
        "identical models score"
    ] = 0.0


def teachers_k(record):
    entry_of(record, "trl-sdft-top-2-1-renormalized")["optimises"] = (
        "reverse KL on the teacher's top 2, renormalized"
    )


CHANGES = (
    other_default,
    k3_repaired,
    trl_defines_the_masked_value,
    prompt_masked,
    top_k_not_cut,
    liger_without_labels,
    teachers_k,
)


@pytest.mark.parametrize("change", CHANGES)
def test_what_the_page_says_falls_when_a_library_changes(page, record, change, monkeypatch):
    """A new version that computes something else stops the build: no sentence may outlive its audit."""
    names = page[1]
    monkeypatch.setattr("opd_toy.audit.audit", lambda loss: names["by_hand"])
    run(record)
    change(record)
    with pytest.raises(AssertionError):
        run(record)
