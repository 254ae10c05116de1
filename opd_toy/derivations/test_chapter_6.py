"""Chapter 6 of the ledger, one test an id."""

from opd_toy.derivations import DERIVATIONS


def test_sequence_chain_rule():
    DERIVATIONS["sequence-chain-rule"].check()


def test_sequence_score_identity():
    DERIVATIONS["sequence-score-identity"].check()


def test_past_terms_vanish():
    DERIVATIONS["past-terms-vanish"].check()


def test_reward_to_go():
    DERIVATIONS["reward-to-go"].check()


def test_discounted_return():
    DERIVATIONS["discounted-return"].check()


def test_rlvr_broadcast():
    DERIVATIONS["rlvr-broadcast"].check()


def test_gkd_future_coupling():
    DERIVATIONS["gkd-future-coupling"].check()


def test_rao_blackwell_return():
    DERIVATIONS["rao-blackwell-return"].check()


def test_variance_bounds():
    DERIVATIONS["variance-bounds"].check()


def test_sharper_variance_bounds():
    DERIVATIONS["sharper-variance-bounds"].check()
