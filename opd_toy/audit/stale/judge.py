"""From measurements of a loss with a behaviour to a report."""

import numpy as np

from opd_toy.audit import formats
from opd_toy.audit.report import finding
from opd_toy.audit.stale import names
from opd_toy.audit.stale.report import StaleReport
from opd_toy.audit.stale.triples import ROUNDING, SIGNS
from opd_toy.audit.stale.verdict import KEPT, does_not_matter, law_of, terms_of
from opd_toy.audit.token.judge import judge as judge_fresh
from opd_toy.audit.token.names import NONE, ZERO, times
from opd_toy.estimators import policy_gradient, total_variance

AT_TEACHER = "student = teacher, on stale tokens"
PUSHES = "the mean gradient is not 0 there, but {size:.2g} of an ordinary one: {why}"
KEPT_WHY = "the cost is the rollout's, not the student's of now"
BASELINE_WHY = "what is alike for all tokens, as a baseline, cancels with the whole ratio alone"
OTHER_WHY = "it depends on the behaviour"
RESTS = "the mean gradient is 0 there, whoever drew the tokens"


def judge(measured):
    """measure.StaleMeasurements -> StaleReport"""
    fresh = judge_fresh(measured.fresh)
    tables, notes = measured.tables, measured.tables[0]
    tolerance = ROUNDING.get(fresh.precision)
    law, terms = None, None
    if tolerance:
        law = law_of(measured.walks, tables, tolerance)
        if not law or fresh.optimises in (NONE, ZERO):
            terms = terms_of(tables, tolerance)
    correction = law and names.correction_of(law)
    if tolerance and does_not_matter(tables, tolerance):
        correction = names.Correction(names.NOT_NEEDED, None, "")
    optimises = _name(fresh.optimises, law, correction, terms)
    exact = notes.p @ notes.fresh
    rests, pushed = _at_teacher(measured)
    return StaleReport(
        optimises=optimises,
        on_fresh_tokens=fresh.optimises,
        correction=correction and correction.kind,
        limits=correction and correction.limits,
        cost=law and law.cost,
        rests_at_teacher=rests,
        at_teacher=pushed,
        terms=terms or [],
        pieces=law and _pieces(law),
        expected_gradient=notes.expected,
        bias=_relative(notes.expected - exact, exact),
        variance=float(total_variance(notes.mu, notes.rows)),
        variance_compared={
            "the same on fresh tokens": float(total_variance(notes.p, notes.fresh)),
            "plain policy gradient": total_variance(notes.p, policy_gradient(notes.p, notes.q)),
        },
        edges=[_resting(rests, pushed, law, fresh), *fresh.edges],
        precision=fresh.precision,
        tolerance=tolerance or formats.TOLERANCES[fresh.precision],
        seed=measured.seed,
        triples=len(tables),
        fresh=fresh,
    )


def _name(base, law, correction, terms):
    if correction and correction.kind == names.NOT_NEEDED:
        return base
    if law and base not in (NONE, ZERO):
        return names.name(base, law, correction)
    if terms == []:
        return ZERO
    if terms:
        return _sum(terms)
    return NONE


def _sum(terms):
    """Of (coefficient, name): "reverse KL + 0.1 × reverse KL to the behaviour"."""
    ordered = sorted(terms, key=lambda term: (term[0] < 0, -abs(term[0])))
    text = times(*ordered[0])
    for coefficient, name in ordered[1:]:
        text += (" − " if coefficient < 0 else " + ") + times(abs(coefficient), name)
    return text


def _at_teacher(measured):
    """(whether the mean gradient is 0 at student = teacher, its length over an ordinary one)"""
    usual = np.median([np.linalg.norm(t.expected) for t in measured.tables]) or 1.0
    draws = np.median([t.size for t in measured.tables])
    largest = max(float(np.linalg.norm(t.expected)) for t in measured.at_teacher)
    return bool(largest <= 1e-6 * max(usual, draws)), largest / usual


def _resting(rests, pushed, law, fresh):
    if rests:
        return finding(AT_TEACHER, "fine", RESTS)
    why = OTHER_WHY
    if law and law.cost == KEPT:
        why = KEPT_WHY
    elif law and fresh.fixed_point["is_fixed"]:
        why = BASELINE_WHY
    return finding(AT_TEACHER, "broken", PUSHES.format(size=pushed, why=why))


def _relative(difference, exact):
    size = float(np.linalg.norm(exact))
    return float(np.linalg.norm(difference)) / size if size > 1e-14 else None


def _pieces(law):
    return {
        f"cost {side} 0": [
            {"up_to": float(np.exp(piece.high)), "level": piece.level, "power": piece.power}
            for piece in law.by_sign[sign]
        ]
        for sign, side in zip(SIGNS, ("above", "below"))
    }
