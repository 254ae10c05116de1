"""Chapter 5 of the ledger, one test an id."""

from opd_toy.derivations import DERIVATIONS


def test_kl_nonnegative():
    DERIVATIONS["kl-nonnegative"].check()


def test_rkl_baseline_structure():
    DERIVATIONS["rkl-baseline-structure"].check()


def test_pg_unbiased_local():
    DERIVATIONS["pg-unbiased-local"].check()


def test_full_vocab_advantage_is_zero():
    DERIVATIONS["full-vocab-advantage-is-zero"].check()


def test_improve_objective():
    DERIVATIONS["improve-objective"].check()


def test_jsd_logit_gradient():
    DERIVATIONS["jsd-logit-gradient"].check()


def test_alpha_divergence_logit_gradient():
    DERIVATIONS["alpha-divergence-logit-gradient"].check()


def test_skewed_forward_kl_logit_gradient():
    DERIVATIONS["skewed-forward-kl-logit-gradient"].check()


def test_skewed_reverse_kl_logit_gradient():
    DERIVATIONS["skewed-reverse-kl-logit-gradient"].check()


def test_objective_limits():
    DERIVATIONS["objective-limits"].check()


def test_optimal_baseline():
    DERIVATIONS["optimal-baseline"].check()


def test_open_question_full_vocab_pg():
    DERIVATIONS["open-question-full-vocab-pg"].check()
