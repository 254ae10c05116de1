"""The notes' sections 4 to 6 by the auditor alone: each claim's losses get its verdict."""

import ast
import functools
import inspect

import numpy as np
import pytest
import torch

from opd_toy.audit import audit, audit_sequence
from opd_toy.audit.exhibits import museum, notes_losses
from opd_toy.audit.exhibits.notes_claims import (
    CLAIMS,
    GKD,
    HALF_DISCOUNTED,
    ON_POLICY_GKD,
    OWN_COST,
    PG,
    RAO_BLACKWELL,
    TO_GO,
)
from opd_toy.audit.token.measure import random_pairs, tabulate
from opd_toy.example import STUDENT, TEACHER
from opd_toy.ledger import CLAIMS as LEDGER
from opd_toy.ledger.evidence.studies import audited_claims

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("error::RuntimeWarning", "error::UserWarning"),
]


@functools.cache
def audited(loss, level, options):
    return (audit if level == "token" else audit_sequence)(loss, **dict(options))


def report_of(row):
    return audited(row.loss, row.level, tuple(row.options.items()))


def same(found, wanted):
    """Numbers to the four decimals in which they are given; of a dict the keys that are."""
    if isinstance(wanted, dict) and wanted:
        return all(same(found[key], value) for key, value in wanted.items())
    if isinstance(wanted, (float, tuple)):
        return (
            np.shape(found) == np.shape(wanted)
            and np.abs(np.asarray(found) - np.asarray(wanted)).max() < 5.001e-5
        )
    return found == wanted


@pytest.mark.parametrize("claim", CLAIMS)
def test_the_auditor_says_what_the_claim_says(claim):
    for row in CLAIMS[claim]:
        report = report_of(row)
        assert report.optimises == row.verdict, row.loss.__name__
        for name, wanted in row.also.items():
            found = getattr(report, name)
            assert same(found, wanted), (row.loss.__name__, name, found)


def test_every_claim_is_marked_in_the_ledger():
    assert audited_claims() == set(CLAIMS) <= {claim.id for claim in LEDGER}


def imported_by(module):
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


def test_the_losses_know_nothing_of_the_engine():
    """Of this package only the museum, which knows nothing of it: see tests/test_museum.py."""
    assert set(imported_by(notes_losses)) == {"torch", museum.__name__}


# ---- what is read off more than one report, or off the rows ----


def test_each_row_is_its_cost_times_its_score():
    """C_k (e_k − p), on every pair: pg-logit-gradient."""
    for student, teacher, *_ in random_pairs(seed=0):
        log_p, log_q = (z - np.logaddexp.reduce(z) for z in (student, teacher))
        rows = tabulate(PG.loss, 3, student, teacher).rows
        scores = np.eye(len(student)) - np.exp(log_p)
        np.testing.assert_allclose(rows, (log_p - log_q)[:, None] * scores, rtol=1e-9, atol=1e-12)


def test_the_rows_at_the_notes_pair_are_the_notes_table():
    rows = tabulate(PG.loss, 3, np.log(STUDENT), np.log(TEACHER)).rows
    np.testing.assert_allclose(rows[2], (-0.3219, -0.4828, 0.8047), atol=5e-5)
    np.testing.assert_allclose(rows[0], (-1.0022, 0.3758, 0.6264), atol=5e-5)
    assert rows[2, 1] < 0 < rows[0, 1]  # t₂ is raised when t₃ is drawn and lowered when t₁ is


def test_bias_falls_and_variance_rises_with_the_discount():
    reports = [report_of(row) for row in (OWN_COST, HALF_DISCOUNTED, TO_GO)]
    bias = [report.bias["sequence reverse KL"] for report in reports]
    variance = [report.variance for report in reports]
    assert bias[0] > bias[1] > bias[2] and bias[2] < 1e-12  # 0 but for rounding
    assert variance[0] < variance[1] < variance[2]


def test_constants_that_no_verdict_hangs_on_are_those_of_the_losses():
    text = torch.tensor([[0.1, -0.4], [1.0, 0.2]]), torch.zeros(2, 2), torch.tensor([0, 1])
    off = notes_losses.constant_off_the_return(*text) - notes_losses.reward_to_go(*text)
    scores = text[0].log_softmax(-1)[[0, 1], [0, 1]]
    torch.testing.assert_close(off, -0.7 * scores.sum())
    inputs = torch.tensor([0.8, 0.2]).log(), torch.tensor([0.4, 0.6]).log(), torch.tensor(0)
    found = notes_losses.clipped_importance_weight(*inputs).item()
    assert found == pytest.approx(1.2 * np.log(2) * np.log(0.8), rel=1e-6)


def test_a_text_ends_well_on_the_first_token_of_the_vocabulary():
    texts = torch.tensor([[1, 0], [0, 1], [0, 2]])
    assert [notes_losses.ends_well(text) for text in texts] == [1.0, 0.0, 0.0]


def test_exact_signals_cost_less_variance():
    assert report_of(GKD).variance == 0
    _, full_return = CLAIMS["past-terms-vanish"]
    rising = (ON_POLICY_GKD, RAO_BLACKWELL, TO_GO, full_return)
    variances = [report_of(row).variance for row in rising]
    assert variances == sorted(set(variances))
    np.testing.assert_allclose(
        report_of(OWN_COST).expected_gradient,
        report_of(ON_POLICY_GKD).expected_gradient,
        rtol=1e-9,
        atol=1e-12,
    )


def test_jsd_over_its_strength_nears_the_kl_at_its_end():
    """Divided by its strength, JSD(β) is within a few times β of the KL at its end."""
    for row, name in zip(CLAIMS["jsd-endpoints"], ("forward KL", "reverse KL")):
        assert report_of(row).bias[name]["as_given"] < 0.01
