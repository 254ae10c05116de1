"""Chapter 4 of the ledger, one test an id."""

from opd_toy.derivations import DERIVATIONS


def test_k1_expectation():
    DERIVATIONS["k1-expectation"].check()


def test_pg_logit_gradient():
    DERIVATIONS["pg-logit-gradient"].check()


def test_pg_opposite_signs():
    DERIVATIONS["pg-opposite-signs"].check()


def test_pg_blind():
    DERIVATIONS["pg-blind"].check()


def test_reward_mixing():
    DERIVATIONS["reward-mixing"].check()
