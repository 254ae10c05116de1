"""The ledger lists every claim, and its check notices each kind of loss."""

import dataclasses
import re
import shutil

import pytest

from opd_toy.audit.exhibits.notes_claims import CLAIMS as AUDITED
from opd_toy.derivations import DERIVATIONS, framework
from opd_toy.ledger import CLAIMS, LedgerError, check, rows, table
from opd_toy.ledger import page as ledger_page
from opd_toy.ledger.evidence import (
    checked_steps,
    figure,
    growth,
    position,
    sequence,
    studies,
    top_k,
)
from tests.conftest import ROOT

# Chapters 1-6 of the notes and what the book adds.
IDS = """
sft-one-hot seqkd-soft-label seqkd-is-forward-kl sft-limit who-samples black-box

sampling-blocks-gradient log-derivative policy-gradient pg-opd-cost monte-carlo
dense-versus-broadcast

softmax-jacobian log-softmax-jacobian rkl-parameter-gradient rkl-logit-gradient rkl-sign-rule
fkl-logit-gradient logit-gradients-sum-to-zero three-token-rkl three-token-fkl
mode-seeking-covering

k1-expectation pg-logit-gradient pg-opposite-signs pg-blind three-token-pg
three-token-gkd-versus-pg pg-sign-flip pg-variance gkd-pg-summary reward-mixing

kl-nonnegative kl-asymmetric rkl-baseline-structure pg-unbiased-local score-mean-zero
full-vocab-advantage-is-zero improve-objective improve-estimator improve-framework
open-question-full-vocab-pg

sequence-chain-rule sequence-score-identity past-terms-vanish reward-to-go token-level-bias
two-meanings-of-unbiased bias-variance discounted-return classical-rl rlvr-terminal rlvr-broadcast
gamma-variance-experiment variance-bounds top-k fipo gkd-future-coupling

pg-zero-gamma-is-gkd k-estimators-as-loss k-estimators-as-reward baseline-does-not-always-help
jsd-endpoints top-k-head-pushes-the-wrong-token schulman-table rao-blackwell-return
sharper-variance-bounds variance-exponents exposure-bias
token-ratio-is-exact stale-cost-recomputed stale-cost-kept ratio-cut-and-mask ratio-variance-grows
stale-prefixes gkd-on-stale-text forward-kl-and-staleness sampler-mismatch async-study
"""
CHAPTERS = ("1", "2", "3", "4", "5", "6", "Beyond the notes")
PROOFS = ROOT / "opd_toy" / "derivations"


def test_every_claim_is_listed_in_its_chapter():
    groups = [block.split() for block in re.split(r"\n\s*\n", IDS.strip())]
    listed = {
        chapter: sorted(claim.id for claim in CLAIMS if claim.chapter == chapter)
        for chapter in CHAPTERS
    }
    assert listed == dict(zip(CHAPTERS, map(sorted, groups)))
    assert len(CLAIMS) == sum(map(len, groups))


def test_the_book_shows_every_claim():
    check(ROOT / "book")


SMALL_PAGE = """Text.

```{code-cell}
show("rkl-logit-gradient")
```

(claim-three-token-rkl)=
## Here

(claim-exposure-bias)=
(claim-black-box)=
There.
"""
SMALL_TESTS = """
def test_three_token_rkl():
    "A sentence compares nothing."
    assert numbers() == 2

def test_exposure_bias():
    same(numbers(), 2)
"""
SMALL_PROOFS = """
def test_rkl_logit_gradient():
    "A sentence proves nothing."
    DERIVATIONS["rkl-logit-gradient"].check()
"""


@pytest.fixture
def small_book(tmp_path):
    """A book of one page with a claim of each kind, its tests and its proofs."""
    for name in ("book", "tests", "proofs"):
        (tmp_path / name).mkdir()
    (tmp_path / "book" / "page.md").write_text(SMALL_PAGE)
    (tmp_path / "tests" / "test_numbers.py").write_text(SMALL_TESTS)
    (tmp_path / "proofs" / "test_proofs.py").write_text(SMALL_PROOFS)
    shown = ("rkl-logit-gradient", "three-token-rkl", "exposure-bias", "black-box")
    claims = [dataclasses.replace(claim, page="page") for claim in CLAIMS if claim.id in shown]
    assert [claim.shown_by for claim in claims] == [
        ("text",), ("proof",), ("exact",), ("experiment",)
    ]  # fmt: skip
    return tmp_path, claims


def check_small(book):
    directory, claims = book
    check(directory / "book", claims, proofs=directory / "proofs")


def test_a_whole_book_passes(small_book):
    check_small(small_book)


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


LOSSES = {
    "no test_rkl_logit_gradient beside the derivations": (
        "proofs/test_proofs.py",
        "def test_rkl_logit_gradient",
        "def rkl_logit_gradient",
    ),
    "no test_three_token_rkl in tests": (
        "tests/test_numbers.py",
        "def test_three_token_rkl",
        "def test_another",
    ),
    "no test_exposure_bias in tests": (
        "tests/test_numbers.py",
        "def test_exposure_bias",
        "def test_another",
    ),
    "three-token-rkl: test_three_token_rkl compares nothing": (
        "tests/test_numbers.py",
        "assert numbers() == 2",
        "assert 1 + 1 == 2",
    ),
    "exposure-bias: test_exposure_bias compares nothing": (
        "tests/test_numbers.py",
        "same(numbers(), 2)",
        "found = numbers()",
    ),
    "test_rkl_logit_gradient does not call DERIVATIONS['rkl-logit-gradient'].check()": (
        "proofs/test_proofs.py",
        'DERIVATIONS["rkl-logit-gradient"].check()',
        "assert True",
    ),
    "rkl-logit-gradient: test_rkl_logit_gradient does not call": (
        "proofs/test_proofs.py",
        'DERIVATIONS["rkl-logit-gradient"]',
        'DERIVATIONS["fkl-logit-gradient"]',
    ),
    "label eq-rkl-logit-gradient occurs nowhere": (
        "book/page.md",
        'show("rkl-logit-gradient")',
        'show("fkl-logit-gradient")',
    ),
    "rkl-logit-gradient: label eq-rkl-logit-gradient occurs nowhere": (
        "book/page.md",
        "show(",
        "# show(",
    ),
    "label claim-three-token-rkl occurs nowhere": ("book/page.md", "(claim-three-token-rkl)=", ""),
    "label claim-black-box occurs nowhere": (
        "book/page.md",
        "(claim-black-box)=",
        "see claim-black-box",
    ),
}


@pytest.mark.parametrize("message", LOSSES)
def test_a_loss_is_caught(small_book, message):
    file, old, new = LOSSES[message]
    edit(small_book[0] / file, old, new)
    with pytest.raises(LedgerError, match=re.escape(message)):
        check_small(small_book)


@pytest.mark.parametrize("file, to", [("tests", "proofs"), ("proofs", "tests")])
def test_a_test_counts_only_in_its_own_directory(small_book, file, to):
    directory, _ = small_book
    for path in (directory / file).iterdir():
        path.rename(directory / to / path.name)
    with pytest.raises(LedgerError, match="no test_"):
        check_small(small_book)


def test_a_missing_derivation_is_caught(small_book, monkeypatch):
    monkeypatch.delitem(DERIVATIONS, "rkl-logit-gradient")
    with pytest.raises(LedgerError, match="rkl-logit-gradient: no derivation"):
        check_small(small_book)


def test_a_missing_page_is_caught(small_book):
    (small_book[0] / "book" / "page.md").unlink()
    with pytest.raises(LedgerError, match="black-box: no page page.md"):
        check_small(small_book)


def test_a_claim_on_another_page_is_caught(small_book):
    directory = small_book[0] / "book"
    shutil.copy(directory / "page.md", directory / "other.md")
    edit(directory / "page.md", "(claim-black-box)=", "")
    with pytest.raises(LedgerError, match="is on other.md, not on page.md"):
        check_small(small_book)


def test_a_row_listed_twice_or_shown_by_nothing_is_caught(small_book):
    directory, claims = small_book
    with pytest.raises(LedgerError, match="black-box: listed more than once"):
        check_small(
            (directory, [*claims, next(claim for claim in claims if claim.id == "black-box")])
        )
    for shown_by in (("guess",), ("text", "guess"), ()):
        message = f"black-box: shown by {shown_by}; say one or more of proof, exact, experiment, "
        changed = [dataclasses.replace(claims[0], shown_by=shown_by), *claims[1:]]
        with pytest.raises(LedgerError, match=re.escape(message)):
            check_small((directory, changed))


def test_every_loss_is_listed_at_once(small_book):
    for file, old, new in (
        LOSSES["no test_three_token_rkl in tests"],
        LOSSES["label claim-black-box occurs nowhere"],
    ):
        edit(small_book[0] / file, old, new)
    with pytest.raises(LedgerError) as error:
        check_small(small_book)
    assert "three-token-rkl" in str(error.value) and "black-box" in str(error.value)


def test_figures_come_from_the_engine(monkeypatch):
    figures = {claim.id: shown for claim, shown in rows()}
    assert "(−0.39, −0.08, +0.47)" in figures["rkl-logit-gradient"]
    baselines = figures["baseline-does-not-always-help"]
    assert "0.4650" in baselines and "0.5384" in baselines
    assert all(figures.values())
    assert {id for id, shown in figures.items() if "[audited]" in shown} == set(AUDITED)
    monkeypatch.setattr(position, "STUDENT", position.TEACHER)
    (row,) = [claim for claim in CLAIMS if claim.id == "rkl-logit-gradient"]
    assert "(0.00, 0.00, 0.00)" in figure(row)


def test_figures_are_those_worked_out_apart():
    """The file's numbers were found again by code that shares nothing with the package.

    What is drawn, or read off a record, is not in it.
    """
    wanted = dict(
        line.split(": ", 1)
        for line in (ROOT / "tests" / "ledger_figures.txt").read_text(encoding="utf-8").splitlines()
    )
    evidence = {claim.id: claim.evidence for claim in CLAIMS if claim.evidence}
    assert {id: evidence[id]() for id in wanted} == wanted
    assert evidence.keys() - wanted.keys() == {
        "sequence-score-identity", "top-k", "gamma-variance-experiment", "exposure-bias",
        "variance-exponents", "async-study",
    }  # fmt: skip


def test_drawn_figures_word_for_word(monkeypatch):
    assert sequence.finite_scores() == (
        "length of the mean score: exact 0.00; of 100 draws 0.103, of 10,000 0.013"
    )
    assert top_k.truncated() == (
        "two positions, four tokens, K = 2: length of the bias against GKD, and sequence KL, 0.62 "
        "before, after 400 sampled steps: renormalised 0.43, 0.61; tail dropped 0.59, 1.45; tail "
        "as one token 0.19, 0.05"
    )
    monkeypatch.setattr(growth, "fitted_to_the_study", "[{} at {}]".format)
    assert growth.exponents() == (
        "exponent from T = 4 to 8, and from 32 to 64: γ = 0 1.00, 1.00; γ = .5 1.25, 1.03; γ = .9 "
        "2.19, 1.39; γ = 1 2.60, 2.93; full return 2.84, 2.97; fitted to the control study's "
        "untrained student: γ = 0 [sampled at 0], full return [full_return at 1]"
    )


def test_a_bias_in_one_place_is_shown(monkeypatch):
    """On the book's trees all these print 0, whichever entry is taken."""
    wrong = sequence.exact_gradient()
    wrong[3] += 1
    with monkeypatch.context() as patch:
        patch.setattr(sequence, "exact_gradient", lambda: wrong)
        assert "off the exact gradient by 1.00;" in sequence.two_returns()
        assert "bias 1.00;" in sequence.rao_blackwell()
    to_go = sequence.to_go(0.0)
    monkeypatch.setattr(sequence.sequences, "generalized_advantage", lambda *_: to_go)
    assert not sequence.with_baselines().endswith("largest bias 0.00")


def test_as_many_steps_are_shown_as_are_checked(monkeypatch):
    checked = []
    monkeypatch.setattr(framework, "check_step", lambda *step: checked.append(step))
    for id, derivation in DERIVATIONS.items():
        checked.clear()
        derivation.check()
        assert checked_steps(id).startswith(f"{len(checked)} checked steps, ")


def test_figures_read_off_records(monkeypatch):
    ratios = dict(zip(studies.EXPOSED, ([2.0, 8.0], [3.0, 3.0], [1.0, 1.0], [0.25, 1.0])))
    exposure = {
        name: {"per_token": {"own": own, "teacher": [1.0, 1.0]}} for name, own in ratios.items()
    }
    monkeypatch.setattr(studies, "study_of_the_lab", lambda: {"exposure": exposure})
    assert studies.exposure().endswith(
        "after: SeqKD 4.00, on-policy forward KL 3.00, off-policy reverse KL 1.00, GKD 0.50"
    )
    variance = [[[[9, 1.0], [9, 9]], [[9, 2.0], [9, 9]]], [[[9, 30.0], [9, 9]], [[9, 4.0], [9, 9]]]]
    found = {"gammas": [0, 0.5], "seeds": [1, 2], "iterations": [100, 700]}
    found["window_geometric_mean"] = variance  # [gamma, seed, task, window]
    runs = {
        name: {"0": [9, 9, n], "16": [9, 9, n + 0.5]} for n, name in enumerate(("none", "ratio"))
    }
    runs["gkd"] = {"0": [8, 9, 4], "16": [9, 9, 6]}
    stale = {name: {age: {"kl": kl} for age, kl in ages.items()} for name, ages in runs.items()}
    files = {
        ("control-study", "variance"): found,
        ("stale-rollouts", "stale"): {"runs": stale},
        ("lm-study-cpu", "study"): "the study",
    }
    monkeypatch.setattr(studies, "recorded", lambda *asked: files[asked])
    assert studies.variance_along_training().endswith(
        "last 100 of 700 iterations, left task, least to largest of 2 seeds: "
        "1.0 · 10⁰ to 2.0 · 10⁰ at γ = 0, 4.0 · 10⁰ to 3.0 · 10¹ at γ = .5"
    )
    assert studies.old_texts() == (
        "KL of a text at the end, 8.00 at the start; fresh, then 16 steps old: "
        "no ratio 0.00, 0.50; ratio 0.00, 1.50; GKD 4.00, 6.00"
    )
    asked = {"estimator": "sampled", "gamma": 0, "parameters": "output_layer"}
    others = ({"gamma": 1}, {"estimator": "full_return"}, {"parameters": "all"}, {})
    rows_of = [asked | other | {"exponent": n} for n, other in enumerate(others)]
    initial = {"growth": {"initial": rows_of, "late": []}}
    monkeypatch.setattr(growth, "recorded", lambda *_: initial)
    assert growth.fitted_to_the_study("sampled", 0) == "3.00"


def test_table_has_a_row_an_anchor_and_a_link_for_every_claim():
    text = table()
    headings = [f"Chapter {name}" if name.isdigit() else name for name in CHAPTERS]
    assert re.findall(r"^\*\*(.+)\*\*$", text, re.MULTILINE) == headings
    for claim in CLAIMS:
        (line,) = [line for line in text.split("\n") if f'<span id="{claim.id}"></span>' in line]
        assert f"]({claim.page}.md#{claim.label})" in line
        assert line.count("|") == 5


TABLE = ROOT / "tests" / "ledger_table.md"


def table_without_figures():
    """The table with … in place of the figures and verdicts, which other tests read."""
    verdicts = {"claims": [{"id": "reward-to-go", "verdict": "…"}]}

    def cell(claim):
        return figure(dataclasses.replace(claim, evidence=claim.evidence and (lambda: "…")))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(studies, "study_of_the_lab", lambda: verdicts)
        patch.setattr(ledger_page, "figure", cell)
        return table() + "\n"


def test_the_table_is_printed_as_it_was():
    """After a change that is meant, ``python -m tests.test_ledger`` writes the file anew."""
    assert table_without_figures() == TABLE.read_text(encoding="utf-8")


if __name__ == "__main__":
    TABLE.write_text(table_without_figures(), encoding="utf-8")
