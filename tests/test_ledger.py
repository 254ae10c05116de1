"""The ledger lists every claim, and its check notices each kind of loss."""

import dataclasses
import re
import shutil

import pytest

from opd_toy.derivations import DERIVATIONS
from opd_toy.ledger import CLAIMS, LedgerError, check
from opd_toy.ledger import claims as ledger
from tests.conftest import ROOT

# Chapters 1-6 of the notes and what the book adds.
IDS = """
sft-one-hot seqkd-soft-label seqkd-is-forward-kl sft-limit who-samples black-box

sampling-blocks-gradient log-derivative policy-gradient pg-opd-cost monte-carlo dense-versus-broadcast

softmax-jacobian log-softmax-jacobian rkl-parameter-gradient rkl-logit-gradient rkl-sign-rule fkl-logit-gradient
logit-gradients-sum-to-zero three-token-rkl three-token-fkl mode-seeking-covering

k1-expectation pg-logit-gradient pg-opposite-signs pg-blind three-token-pg three-token-gkd-versus-pg pg-sign-flip
pg-variance gkd-pg-summary reward-mixing

kl-nonnegative kl-asymmetric rkl-baseline-structure pg-unbiased-local score-mean-zero full-vocab-advantage-is-zero
improve-objective improve-estimator improve-framework open-question-full-vocab-pg

sequence-chain-rule sequence-score-identity past-terms-vanish reward-to-go token-level-bias two-meanings-of-unbiased
bias-variance discounted-return classical-rl rlvr-terminal rlvr-broadcast gamma-variance-experiment variance-bounds
top-k fipo gkd-future-coupling

pg-zero-gamma-is-gkd k-estimators-as-loss k-estimators-as-reward baseline-does-not-always-help jsd-endpoints
top-k-head-pushes-the-wrong-token schulman-table rao-blackwell-return sharper-variance-bounds variance-exponents
exposure-bias
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


@pytest.fixture
def small_book(tmp_path):
    """A book of one page with three claims, its tests and its proofs."""
    for name in ("book", "tests", "proofs"):
        (tmp_path / name).mkdir()
    (tmp_path / "book" / "page.md").write_text(
        'Text.\n\n```{code-cell}\nshow("rkl-logit-gradient")\n```\n\n(claim-three-token-rkl)=\n## Here\n\n(claim-black-box)=\nThere.\n'
    )
    (tmp_path / "tests" / "test_numbers.py").write_text(
        "def test_three_token_rkl():\n    assert 1 + 1 == 2\n"
    )
    (tmp_path / "proofs" / "test_proofs.py").write_text(
        "def test_rkl_logit_gradient():\n    assert True\n"
    )
    claims = [
        dataclasses.replace(claim, page="page")
        for claim in CLAIMS
        if claim.id in ("rkl-logit-gradient", "three-token-rkl", "black-box")
    ]
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
    "three-token-rkl: no test_three_token_rkl": (
        "tests/test_numbers.py",
        "assert 1 + 1 == 2",
        "pass",
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
    with pytest.raises(LedgerError, match="shown by .*guess"):
        check_small((directory, [dataclasses.replace(claims[0], shown_by=("guess",)), *claims[1:]]))


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
    figures = {claim.id: figure for claim, figure in ledger.rows()}
    assert "(−0.39, −0.08, +0.47)" in figures["rkl-logit-gradient"]
    assert (
        "0.4650" in figures["baseline-does-not-always-help"]
        and "0.5384" in figures["baseline-does-not-always-help"]
    )
    assert all(figures.values())
    monkeypatch.setattr(ledger, "P", ledger.Q)
    (row,) = [claim for claim in CLAIMS if claim.id == "rkl-logit-gradient"]
    assert "(0.00, 0.00, 0.00)" in row.evidence()


def test_table_has_a_row_an_anchor_and_a_link_for_every_claim():
    text = ledger.table()
    for claim in CLAIMS:
        (line,) = [line for line in text.split("\n") if f'<span id="{claim.id}"></span>' in line]
        assert f"`{claim.label}`" in line or f"<{claim.label}>`" in line
        assert line.count("|") == 5
