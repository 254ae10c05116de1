"""Chapter 2 of the ledger, one test an id."""

from opd_toy.derivations import DERIVATIONS


def test_log_derivative():
    DERIVATIONS["log-derivative"].check()


def test_policy_gradient():
    DERIVATIONS["policy-gradient"].check()


def test_log_softmax_jacobian():
    DERIVATIONS["log-softmax-jacobian"].check()


def test_score_mean_zero():
    DERIVATIONS["score-mean-zero"].check()


def test_pg_opd_cost():
    DERIVATIONS["pg-opd-cost"].check()
