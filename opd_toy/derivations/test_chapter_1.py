"""Chapter 1 of the ledger, one test an id."""

from opd_toy.derivations import DERIVATIONS


def test_sft_one_hot():
    DERIVATIONS["sft-one-hot"].check()


def test_seqkd_soft_label():
    DERIVATIONS["seqkd-soft-label"].check()


def test_seqkd_is_forward_kl():
    DERIVATIONS["seqkd-is-forward-kl"].check()


def test_sft_limit():
    DERIVATIONS["sft-limit"].check()
