"""A false step must fail: every step of every derivation is corrupted in several ways."""

import dataclasses

import pytest
import sympy as sp

from opd_toy.derivations import DERIVATIONS, DerivationError, framework
from opd_toy.derivations.framework import Chain, Step, exact_problem, witness_problem
from opd_toy.derivations.notation import (
    Partial,
    StopGradient,
    T,
    V,
    c,
    cost,
    cost_bound,
    gamma,
    i,
    j,
    k,
    p,
    p2,
    q,
    q2,
    t,
    total,
    u,
    v,
)
from opd_toy.derivations.points import random_points
from opd_toy.derivations.witness import counterexample


def double(e):
    return 2 * e


def flip_sign(e):
    return -e


def add_one(e):
    return e + 1


def swap_student_and_teacher(e):
    by_teacher = any(
        isinstance(d.args[1], sp.Indexed) and d.args[1].base == q for d in e.atoms(Partial)
    )
    return e if by_teacher else e.xreplace({p: q, q: p, p2: q2, q2: p2})


def drop_a_term(e):
    sums = [s for s in sp.preorder_traversal(e) if isinstance(s, sp.Add)]
    return e.xreplace({sums[0]: sp.Add(*sums[0].args[:-1])}) if sums else e


def drop_stop_gradient(e):
    return e.replace(StopGradient, lambda inner: inner)


def drop_deltas(e):
    return e.replace(sp.KroneckerDelta, lambda *_: sp.S.One)


def start_later(e):
    """u > t for u >= t, in every sum that begins at a position."""
    return _with_limits(e, lambda low, high: (low + 1 if low.free_symbols else low, high))


def end_earlier(e):
    """t < u for t <= u, in every sum that ends at a position, and T - 1 for T."""
    return _with_limits(e, lambda low, high: (low, high if high == V else high - 1))


def _with_limits(e, change):
    return e.replace(
        sp.Sum,
        lambda body, *limits: sp.Sum(
            body, *((index, *change(low, high)) for index, low, high in limits)
        ),
    )


def square_the_discounts(e):
    return e.xreplace({gamma: gamma**2})


def drop_a_length(e):
    """T for T², and 1 for T, before a sum."""
    return (
        sp.Mul(
            *(
                sp.Pow(f.base, f.exp - 1) if isinstance(f, sp.Pow) and f.base == T else f
                for f in e.args
                if f != T
            )
        )
        if isinstance(e, sp.Mul)
        else e
    )


SEQUENCES = (start_later, square_the_discounts, drop_a_length, end_earlier)
SPECIAL = (drop_stop_gradient, drop_deltas, swap_student_and_teacher, drop_a_term)
GENERAL = (add_one, double, flip_sign)  # add_one changes every expression


def corrupt(expression, fault):
    """The fault in an expression, or in the left side of an inequality."""
    if isinstance(expression, sp.core.relational.Relational):
        return expression.func(fault(expression.lhs), expression.rhs, evaluate=False)
    return fault(expression)


def sides(e):
    return e.lhs - e.rhs if isinstance(e, sp.core.relational.Relational) else e


def mutants(part, step, number):
    """Up to three corrupted copies of a step that do differ from it in value.

    One has a special fault, one a fault of sequences, one a general fault.
    """
    first = number % len(GENERAL)
    groups = (SPECIAL, SEQUENCES, (*GENERAL[first:], *GENERAL[:first]))
    for group in groups:
        for fault in group:
            wrong = corrupt(step.expression, fault)
            if wrong != step.expression and counterexample(
                sides(step.expression), sides(wrong), distinct=part.distinct
            ):
                yield fault, dataclasses.replace(step, expression=wrong)
                break


def problem(check, *args):
    try:
        return check(*args)
    except DerivationError as error:
        return str(error)


LINES = [
    pytest.param(one, part, number, id=f"{one.id}-{chain_number}.{number}")
    for one in DERIVATIONS.values()
    for chain_number, part in enumerate(one.chains, 1)
    for number in range(1, len(part.steps))
]


@pytest.mark.parametrize("derivation, part, number", LINES)
def test_both_checks_catch_every_planted_fault(derivation, part, number):
    before, step = part.steps[number - 1], part.steps[number]
    planted = list(mutants(part, step, number))
    assert planted, "no fault changed this step, so nothing was tested"
    for fault, wrong in planted:
        assert problem(exact_problem, part, before, wrong), (
            f"the exact check let {fault.__name__} through"
        )
        if step.relation == "=":
            caught = problem(witness_problem, derivation.id, part, before, wrong)
            assert caught, f"the witness let {fault.__name__} through"


@pytest.mark.parametrize("derivation", DERIVATIONS.values(), ids=list(DERIVATIONS))
def test_check_names_the_derivation_and_the_step(derivation):
    part = derivation.chains[0]
    false = dataclasses.replace(
        part.steps[1], expression=corrupt(part.steps[1].expression, add_one)
    )
    wrong = dataclasses.replace(part, steps=(part.steps[0], false, *part.steps[2:]))
    with pytest.raises(DerivationError, match=rf"{derivation.id}, step 1\b"):
        dataclasses.replace(derivation, chains=(wrong, *derivation.chains[1:])).check()


def test_a_false_reason_is_not_taken_on_trust():
    derivation = DERIVATIONS["rkl-logit-gradient"]
    part = derivation.chains[0]
    wrong = dataclasses.replace(
        part,
        steps=(*part.steps, Step(p[sp.Symbol("j", integer=True, positive=True)], "Obviously.")),
    )
    with pytest.raises(DerivationError, match="does not hold"):
        dataclasses.replace(derivation, chains=(wrong,)).check()


@pytest.mark.parametrize("silenced", ["exact_problem", "witness_problem"])
def test_either_check_alone_finds_a_false_step(monkeypatch, silenced):
    monkeypatch.setattr(framework, silenced, lambda *_: None)
    derivation = DERIVATIONS["rkl-logit-gradient"]
    (part,) = derivation.chains
    derivation.check()
    wrong = dataclasses.replace(part, steps=(*part.steps[:-1], Step(part.right + 1)))
    with pytest.raises(DerivationError, match="does not hold"):
        dataclasses.replace(derivation, chains=(wrong,)).check()


@pytest.mark.parametrize("relation, sign", [("=", 1), ("=", -1), (">=", 1), ("<=", -1)])
def test_the_witness_sees_the_twenty_ninth_digit(relation, sign):
    value = p[j] + gamma
    assert counterexample(value, value + sign * sp.Rational(1, 10**29), relation)
    assert not counterexample(value, value, relation)


@pytest.mark.parametrize(
    "gap, never_negative",
    [
        (c[t] ** 2, True),
        (c[t] ** 2 * c[u] ** 2 + gamma, True),
        (cost_bound**2 - cost[t] ** 2, True),
        (1 - gamma, True),
        (c[t], False),
        (c[t] ** 3, False),
        (-(c[t] ** 2), False),
        (c[t] * c[u], False),
        (cost[t] ** 2 - cost_bound**2, False),
        (cost_bound - cost[t], False),
        (gamma - 1, False),
        (1 / (gamma - 1), False),
    ],
)
def test_an_inequality_wants_a_gap_that_is_never_negative(gap, never_negative):
    found = exactly(c[v], c[v] + gap, "<=", (gap,))
    assert (found is None) == never_negative, found


def exactly(before, after, relation="=", by=(), distinct=()):
    """What the exact check alone says of a step."""
    steps = Step(before), Step(after, "", relation, by)
    return exact_problem(Chain(steps, distinct=distinct), *steps)


def test_a_distribution_adds_up_to_1_over_its_own_tokens_alone():
    assert exactly(total(p2[j, v]), sp.S.One) is None
    assert exactly(total(p2[v, j]), sp.S.One)  # over what stands before the token
    assert exactly(total(p2[v, v]), sp.S.One)  # or over both


def test_a_delta_is_0_only_for_indices_that_are_said_to_differ():
    step = sp.KroneckerDelta(j, k) * p[j], sp.S.Zero
    assert exactly(*step, distinct=((j, k),)) is None
    assert exactly(*step) and exactly(*step, distinct=((i, k),))


@pytest.mark.parametrize("factor, positive", [(p[j], True), (-p[j], False), (c[j], False)])
def test_an_inequality_is_multiplied_by_positive_factors_only(factor, positive):
    before, after = sp.Lt(factor * c[k], 0), sp.Lt(c[k], 0)
    assert (exactly(before, after, "<=>", (factor,)) is None) == positive


def test_an_inequality_does_not_turn_round():
    assert exactly(sp.Lt(c[j], c[k]), sp.Lt(c[j], c[k]), "<=>", (sp.S.One,)) is None
    assert exactly(sp.Lt(c[j], c[k]), sp.Gt(c[j], c[k]), "<=>", (sp.S.One,))
    for function, increasing in ((sp.log, True), (sp.acot, False)):
        both = sp.Lt(function(p[j]), function(p[k])), sp.Lt(p[j], p[k])
        assert (exactly(*both, "<=>", (function,)) is None) == increasing
    assert exactly(sp.Lt(sp.log(p[j]), p[k]), sp.Lt(p[j], p[k]), "<=>", (sp.log,))


@pytest.mark.parametrize(
    "weight, ratio, positive",
    [
        (q[v], q[v] / p[v], True),
        (-q[v], q[v] / p[v], False),
        (c[v], q[v] / p[v], False),
        (q[v], c[v] / p[v], False),
    ],
)
def test_the_bound_on_the_logarithm_wants_positive_weights_and_ratios(weight, ratio, positive):
    before = total(weight * (ratio - 1 - sp.log(ratio)))
    assert (exactly(before, sp.S.Zero, ">=", (weight, ratio, v)) is None) == positive


@pytest.mark.parametrize("factors, below", [(-p[j] * p[k], True), (p[j] * p[k], False)])
def test_only_a_negative_product_is_below_0(factors, below):
    assert (exactly(factors, sp.S.Zero, "<") is None) == below


@pytest.mark.parametrize(
    "id, sign",
    [("kl-nonnegative", r"\ge"), ("pg-opposite-signs", "<"), ("rkl-sign-rule", r"\iff")]
    + [(id, r"&\le") for id in ("variance-bounds", "sharper-variance-bounds")],
)
def test_a_claim_has_the_strongest_relation_of_its_steps(id, sign):
    """Most steps are equations; one bound among them makes the whole a bound."""
    assert f" {sign} " in DERIVATIONS[id].latex_claim()


def test_the_witness_wants_below_to_be_below_and_an_equivalence_to_be_tried():
    assert counterexample(p[j], p[j], "<") and not counterexample(-p[j], sp.S.Zero, "<")
    with sp.evaluate(False):
        always, either = sp.Lt(0, p[j]), sp.Lt(0, c[j])
    assert "both outcomes" in counterexample(always, always, "<=>")
    assert not counterexample(either, either, "<=>")


def test_the_witness_tries_every_choice_of_two_tokens():
    points = [at for at in random_points([p[j] * p[k]]) if at.size == 2]
    assert {(at.symbols[j], at.symbols[k]) for at in points} == {(1, 1), (1, 2), (2, 1), (2, 2)}
    points = random_points([p[j] * p[k]], distinct=((j, k),))
    assert all(at.symbols[j] != at.symbols[k] for at in points)
    points = random_points([p[i] * p[j] * p[k]], distinct=((i, j), (j, k)))
    assert all(at.symbols[i] != at.symbols[j] != at.symbols[k] for at in points)
    assert len(list(random_points([p[j]], distinct=((i, k),)))) == 4  # where neither is there


def test_a_chain_of_one_line_proves_nothing():
    derivation = DERIVATIONS["fkl-logit-gradient"]
    part = derivation.chains[0]
    alone = dataclasses.replace(part, steps=part.steps[:1])
    with pytest.raises(
        DerivationError,
        match="fkl-logit-gradient: through log p has one line and so no step to check",
    ):
        dataclasses.replace(derivation, chains=(alone, *derivation.chains[1:])).check()


def test_a_heading_begins_with_a_capital_but_keeps_its_symbols():
    headings = [
        line
        for line in DERIVATIONS["improve-objective"].markdown().splitlines()
        if line.startswith("**")
    ]
    assert "**Forward KL.**" in headings and "**α-divergence.**" in headings


def test_a_wide_claim_is_broken_at_its_relation():
    lines = DERIVATIONS["open-question-full-vocab-pg"].latex_claim().splitlines()
    assert len(lines) == 2 + 4 and lines[4].startswith(r"& \quad = \nabla")
    assert max(len(line) for line in lines) < 210


def test_a_long_side_of_a_claim_is_broken_before_its_last_term():
    lines = DERIVATIONS["discounted-return"].latex_claim().splitlines()
    assert len(lines) == 2 + 1 + 3 + 3 + 2 and max(map(len, lines)) < framework.LONG
    assert lines[4].startswith(r"& \qquad {} + \gamma") and lines[6].startswith(
        r"& \qquad {} - \nabla"
    )


def test_a_long_line_of_a_proof_is_broken_before_its_last_term():
    proof = DERIVATIONS["discounted-return"].markdown()
    assert (
        proof.count(r"\begin{aligned}") == 3
        and r"& = " in proof
        and r"& \qquad {} - \left( \nabla" in proof
    )
