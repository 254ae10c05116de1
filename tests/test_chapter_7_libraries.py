"""The page on real libraries: the whole record is on it, and its sentences fall with the record."""

import json
import re

import numpy as np
import pytest
import torch

from opd_toy.audit.exhibits.libraries import trl
from opd_toy.audit.exhibits.libraries.record import PACKAGES, RECORD
from opd_toy.example import STUDENT, TEACHER
from tests import pages_run
from tests.conftest import ROOT

PAGE = ROOT / "book" / "07-real-libraries.md"


def run(record=None):
    """(the page's text as shown, its namespace), maybe with another record."""

    def after(names):
        if record is not None and names["kept"] is not record:
            names["kept"] = record
            names["audits"] = {entry["id"]: entry for entry in record["results"]["audits"]}

    text, _, names = pages_run.run(PAGE.name, after)
    return text, names


@pytest.fixture(scope="module")
def page():
    return run()


@pytest.fixture
def record():
    return json.loads(RECORD.read_text(encoding="utf-8"))


def test_versions_date_and_command(page, record):
    text, _ = page
    made = record["provenance"]
    assert made["date"][:10] in text
    own = {entry["library"]: entry["version"] for entry in record["results"]["audits"]}
    assert all(own[name] in text for name in PACKAGES)
    assert re.search(r"^audit-peers:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert f"{trl.__name__}:{trl.gkd.__name__} " in PAGE.read_text(encoding="utf-8")


def test_the_numbers_of_the_exercises(page):
    """From the formulas alone: k3's value is 10 at the clamp, and the rest are sums."""
    _, names = page
    at = 3.0
    for _ in range(50):
        at -= (np.exp(at) - 1 - at - 10) / (np.exp(at) - 1)
    assert names["hidden"] == pytest.approx(0.9 / np.exp(at), rel=1e-6)
    half_the_entropy = -0.5 * (TEACHER * np.log(TEACHER)).sum()
    assert names["same"]["identical models score"] == pytest.approx(half_the_entropy, rel=1e-6)
    assert names["first"] == pytest.approx(-np.log(STUDENT / TEACHER).sum(), rel=1e-6)
    assert names["by_sum"] == pytest.approx(
        0.5 * np.log(0.5 / 0.55) + 0.3 * np.log(0.3 / 0.35), rel=1e-9
    )


def test_the_remedy_is_named_with_those_who_have_it(page):
    """Its value by hand, and who computes it."""
    text, names = page
    p, q = (torch.tensor(x[:2] / x[:2].sum()) for x in (STUDENT, TEACHER))  # the teacher's first
    loss = names["on_the_teachers_first_two"]
    value = loss(*(torch.tensor(np.log(x)) for x in (STUDENT, TEACHER)))
    assert value.item() == pytest.approx((p * (p / q).log()).sum().item(), rel=1e-12)
    assert names["missing"].optimises == "reverse KL on the teacher's top 2, renormalized"
    told = text[text.index("The renormalised *reverse*") : text.index("## Where the names differ")]
    settings = ("gkd_logits_topk", "beta=1", "kl_type: reverse", "zero_outside_topk: false")
    assert all(words in told for words in ("ms-swift", "Axolotl", "NeMo-RL", *settings))


def entry_of(record, name):
    return next(entry for entry in record["results"]["audits"] if entry["id"] == name)


def measured(record, name):
    return record["results"]["measurements"][name]


def other_default(record):
    entry_of(record, "verl-distillation-dataclass")["optimises"] = "reverse KL"


def k3_repaired(record):
    entry_of(record, "verl-k3")["optimises"] = "reverse KL"


def trl_defines_the_masked_value(record):
    for case in measured(record, "trl: a masked vocabulary").values():
        case["value"] = "0.0"


def prompt_masked(record):
    for row in measured(record, "tinker-cookbook: advantages of the prompt").values():
        row[:2] = [0.0, 0.0]


def top_k_not_cut(record):
    cases = measured(record, "verl: top-K at the minimum").values()
    (case,) = [case for case in cases if "value" in case]
    case["gradient norm after clamp_min(0)"] = case["gradient norm"]


def liger_without_labels(record):
    measured(record, "liger-kernel: identical models")["identical models score"] = 0.0


def teachers_k(record):
    entry_of(record, "trl-sdft-top-2-1-renormalized")["optimises"] = (
        "reverse KL on the teacher's top 2, renormalized"
    )


def teacher_reaches_the_joint_gradient(record):
    joint = measured(record, "areal: teachers of the joint loss")["rl_loss_weight = 1.0"]
    joint[next(iter(joint))][0] += 1.0


def temperature_squared_in_the_gradient(record):
    slopes = measured(record, "axolotl: the value's slope over the gradient")
    slopes["kd_temperature = 2"] = 1.0


def one_vocabulary(record):
    for case in measured(record, "ms-swift: vocabularies of two sizes").values():
        case["value"] = 0.0


def k2_not_cut(record):
    for edge in entry_of(record, "openrlhf-k2")["report"]["edges"]:
        edge["finding"] = "fine"


CHANGES = (
    teacher_reaches_the_joint_gradient,
    temperature_squared_in_the_gradient,
    one_vocabulary,
    k2_not_cut,
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
    """A version that computes something else stops the build: no sentence outlives its audit."""
    known = {"k3_clamped": page[1]["by_hand"], "on_the_teachers_first_two": page[1]["missing"]}
    monkeypatch.setattr("opd_toy.audit.audit", lambda loss: known[loss.__name__])
    run(record)
    change(record)
    with pytest.raises(AssertionError):
        run(record)
