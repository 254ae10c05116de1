"""Beyond the notes, one test an id."""

from opd_toy.derivations import DERIVATIONS


def test_pg_zero_gamma_is_gkd():
    DERIVATIONS["pg-zero-gamma-is-gkd"].check()


def test_k_estimators_as_loss():
    DERIVATIONS["k-estimators-as-loss"].check()


def test_k_estimators_as_reward():
    DERIVATIONS["k-estimators-as-reward"].check()


def test_jsd_endpoints():
    DERIVATIONS["jsd-endpoints"].check()


def test_schulman_table():
    DERIVATIONS["schulman-table"].check()
