"""Chapter 9, one test an id; and faults that the check has to notice."""

from dataclasses import replace

import pytest
import sympy as sp

from opd_toy.derivations import DERIVATIONS, DerivationError
from opd_toy.derivations.chapter_9 import kept, ratio, ratio2, score, score2
from opd_toy.derivations.framework import chain
from opd_toy.derivations.notation import (
    C2,
    KL,
    C,
    Expectation,
    Gradient,
    a,
    b,
    c,
    k,
    old,
    old2,
    p,
    p2,
    q,
    q2,
    total,
)


def test_token_ratio_is_exact():
    DERIVATIONS["token-ratio-is-exact"].check()


def test_stale_cost_recomputed():
    DERIVATIONS["stale-cost-recomputed"].check()


def test_stale_cost_kept():
    DERIVATIONS["stale-cost-kept"].check()


def test_ratio_cut_and_mask():
    DERIVATIONS["ratio-cut-and-mask"].check()


def test_ratio_variance_grows():
    DERIVATIONS["ratio-variance-grows"].check()


def test_gkd_on_stale_text():
    DERIVATIONS["gkd-on-stale-text"].check()


with sp.evaluate(False):
    weighted = Expectation(c[k] * ratio * C[k] * score, k, old)
    FALSE = {
        "no ratio": (Expectation(C[k] * score, k, old), Gradient(KL(p, q))),
        "the ratio turned over": (
            Expectation(old[k] / p[k] * C[k] * score, k, old),
            Gradient(KL(p, q)),
        ),
        "drawn by the student": (Expectation(ratio * C[k] * score, k, p), Gradient(KL(p, q))),
        "a kept cost": (Expectation(ratio * kept * score, k, old), Gradient(KL(p, q))),
        "towards the old policy": (
            Expectation(ratio * kept * score, k, old),
            Gradient(KL(p, q)) + Gradient(KL(p, old)),
        ),
        "at the teacher": (-Gradient(KL(p, old)), sp.S.Zero),
        "shares without a bias": (weighted, Gradient(KL(p, q))),
        "shares of the cost": (
            weighted,
            Gradient(KL(p, q)) + total((1 - c[k]) * p[k] * C[k] * score, k),
        ),
        "second moment": (Expectation(ratio**2, k, old), 1 - Expectation((ratio - 1) ** 2, k, old)),
        "chi-squared of the other": (
            Expectation(ratio**2, k, old),
            1 + Expectation((ratio - 1) ** 2, k, p),
        ),
        "the token's ratio for its prefix too": (
            Expectation(Expectation(ratio2 * C2[a, b] * score2, b, old2, a), a, old),
            Expectation(Gradient(KL(p2, q2, a)), a, p),
        ),
        "the bias of old prefixes turned round": (
            Expectation(Gradient(KL(p2, q2, a)), a, old)
            - Expectation(Gradient(KL(p2, q2, a)), a, p),
            total((p[a] - old[a]) * Gradient(KL(p2, q2, a)), a),
        ),
        "moments of two tokens that add": (
            Expectation(Expectation((p[a] / old[a] * ratio2) ** 2, b, old2, a), a, old),
            Expectation((p[a] / old[a]) ** 2 + Expectation(ratio2**2, b, old2, a), a, old),
        ),
    }


@pytest.mark.parametrize("name", FALSE)
def test_faults_are_noticed(name):
    derivation = DERIVATIONS["token-ratio-is-exact"]
    left, right = FALSE[name]
    with pytest.raises(DerivationError):
        replace(derivation, chains=(chain(left, (right, "planted")),)).check()
