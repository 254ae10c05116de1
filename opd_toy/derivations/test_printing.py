"""Notation: each symbol of the book in LaTeX, which side stands where above all."""

import dataclasses
import re

import pytest
import sympy as sp

from opd_toy.derivations import DERIVATIONS, framework
from opd_toy.derivations.notation import (
    KL,
    R2,
    C,
    Entropy,
    Expectation,
    Gradient,
    InnerProduct,
    Limit,
    Partial,
    R,
    SequenceMean,
    SquaredLength,
    StopGradient,
    Variance,
    a,
    alpha,
    b,
    cost,
    delta,
    j,
    k,
    over_positions,
    p,
    p2,
    q,
    q2,
    score_at,
    t,
    total,
    u,
    z,
)
from opd_toy.derivations.printing import latex

with sp.evaluate(False):
    SHOWN = [
        (p2[a, b], r"p_{a' \mid a}"),
        (R2[a, b], r"R_{a a'}"),
        (delta(j, k), r"\delta_{j k}"),
        (KL(p, q), r"\mathrm{KL}(p \,\|\, q)"),
        (KL(p2, q2, a), r"\mathrm{KL}(p_{\cdot \mid a} \,\|\, q_{\cdot \mid a})"),
        (Entropy(q), r"\mathrm{H}(q)"),
        (Expectation(R[k], k, p), r"\mathbb{E}_{k \sim p} \left[ R_{k} \right]"),
        (
            Expectation(R2[a, b], b, p2, a),
            r"\mathbb{E}_{a' \sim p_{\cdot \mid a}} \left[ R_{a a'} \right]",
        ),
        (StopGradient(C[k]) * sp.log(p[k]), r"\mathrm{sg} \left[ C_{k} \right] \, \log p_{k}"),
        (Gradient(p[k]), r"\nabla p_{k}"),
        (Partial(p[k], z[j]), r"\frac{\partial \, p_{k}}{\partial z_{j}}"),
        (Limit(p[k] ** alpha, alpha, 0), r"\lim_{\alpha \to 0} p_{k}^{\alpha}"),
        (sp.Lt(p[k], q[k]), r"p_{k} < q_{k}"),
        (total(p[k] - q[k], k), r"\sum_{k=1}^{V} \left( p_{k} - q_{k} \right)"),
        (total(p[k], k) / z[j], r"\frac{1}{z_{j}} \sum_{k=1}^{V} p_{k}"),
        (over_positions(cost[u], u, t), r"\sum_{u=t}^{T} r_{u}"),
        (p[j] - (q[j] - p[k]), r"p_{j} - \left( q_{j} - p_{k} \right)"),
        (-(p[j] / q[k]), r"-\frac{p_{j}}{q_{k}}"),
        (sp.Mul(-1, 1), "-1"),
        (p[j] * (q[k] * p[k]) ** -2, r"\frac{p_{j}}{\left( q_{k} \, p_{k} \right)^{2}}"),
        (
            sp.log(p[j]) / z[j] / total(p[k], k),
            r"\frac{\log p_{j}}{z_{j} \, \sum_{k=1}^{V} p_{k}}",
        ),
        (score_at[t] * cost[t], r"\left( \nabla \log \pi_{t} \right) \, r_{t}"),
        (
            sp.log(Partial(p[k], z[j])),
            r"\log \left( \frac{\partial \, p_{k}}{\partial z_{j}} \right)",
        ),
        (
            Partial(sp.log(p[k] / q[k]), z[j]),
            r"\frac{\partial}{\partial z_{j}} \left( \log \frac{p_{k}}{q_{k}} \right)",
        ),
        (
            (KL(p, q) - p[j]) / q[k],
            r"\frac{1}{q_{k}} \left( \mathrm{KL}(p \,\|\, q) - p_{j} \right)",
        ),
        ((p[j] / q[j] - 1) / q[k], r"\frac{1}{q_{k}} \left( \frac{p_{j}}{q_{j}} - 1 \right)"),
        (SequenceMean(cost[t]), r"\mathbb{E}_{\tau} \left[ r_{t} \right]"),
        (Variance(score_at[t]), r"\mathrm{Var}_{\tau} \left[ \nabla \log \pi_{t} \right]"),
        (SquaredLength(score_at[t]), r"\left\| \nabla \log \pi_{t} \right\|^{2}"),
        (
            InnerProduct(score_at[t], score_at[u]),
            r"\left\langle \nabla \log \pi_{t}, \nabla \log \pi_{u} \right\rangle",
        ),
    ]


@pytest.mark.parametrize("expression, written", SHOWN, ids=[written for _, written in SHOWN])
def test_the_books_notation(expression, written):
    assert latex(expression) == written


@pytest.mark.parametrize("name", DERIVATIONS)
def test_formulas_stand_in_the_order_in_which_they_are_written(name):
    """In sympy's own a number comes first, and a gradient before what it is multiplied with."""
    printed = DERIVATIONS[name].markdown()
    turned = r"\b1 \+ [Ttu]\b|\\left\[ \\left\( \\nabla \\log [^()]*\\right\) \\, "
    assert not re.search(turned, printed)


def test_a_claim_alone_that_is_too_wide_is_broken_at_its_relation():
    wide = DERIVATIONS["pg-zero-gamma-is-gkd"]
    ((left, sign, right),) = {framework._claim_parts(part) for part in wide.chains}
    assert len(left) + len(right) > framework.WIDE
    assert wide.latex_claim().split("\n")[1:-1] == [f"& {left} \\\\", f"& \\quad {sign} {right}"]
    narrow = DERIVATIONS["rkl-logit-gradient"]
    assert "aligned" not in narrow.latex_claim()


def claim(*widths):
    """A claim whose chains have sides of so many characters, the two together."""
    sides = [("x" * 100, "y" * (width - 100)) for width in widths]
    chains = tuple(framework.chain(sp.Symbol(x), (sp.Symbol(y),)) for x, y in sides)
    return dataclasses.replace(DERIVATIONS["pg-blind"], chains=chains).latex_claim()


def test_up_to_which_width_a_line_is_not_broken():
    x, y = "x" * 100, "y" * 180
    assert claim(280) == f"{x} = {y}"
    whole, broken = f"& {x} = {y}", f"& {x} \\\\\n& \\quad = {y}y"
    assert claim(280, 281) == f"\\begin{{aligned}}\n{whole} \\\\\n{broken}\n\\end{{aligned}}"
    in_two = " \\\\\n& \\qquad {} + w"
    for width, end in ((226, " + w"), (227, in_two)):
        one = sp.Add(sp.Symbol("x" * width), sp.Symbol("w"), evaluate=False)
        assert framework._broken(latex(one), one) == "x" * width + end
    for width in (276, 277):
        one = sp.Add(sp.Symbol("x" * width), sp.Symbol("w"), evaluate=False)
        assert (in_two in framework._step_latex(framework.Step(one))) == (width > 276)
