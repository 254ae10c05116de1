"""Chapter 3 of the ledger, one test an id."""

from opd_toy.derivations import DERIVATIONS


def test_softmax_jacobian():
    DERIVATIONS["softmax-jacobian"].check()


def test_rkl_parameter_gradient():
    DERIVATIONS["rkl-parameter-gradient"].check()


def test_rkl_logit_gradient():
    DERIVATIONS["rkl-logit-gradient"].check()


def test_rkl_sign_rule():
    DERIVATIONS["rkl-sign-rule"].check()


def test_fkl_logit_gradient():
    DERIVATIONS["fkl-logit-gradient"].check()


def test_logit_gradients_sum_to_zero():
    DERIVATIONS["logit-gradients-sum-to-zero"].check()
