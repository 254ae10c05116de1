"""From measurements of a loss of one token to a report: arithmetic on the tables alone."""

from dataclasses import dataclass, replace

import numpy as np

from opd_toy import objectives
from opd_toy.audit import formats
from opd_toy.audit.report import OTHER
from opd_toy.audit.token import beside, limits, names
from opd_toy.audit.token.describe import described
from opd_toy.audit.token.expected import Expected, expected, lengths
from opd_toy.audit.token.findings import findings, stops_short
from opd_toy.audit.token.measure import SETTLED
from opd_toy.audit.token.pairs import CLOSE, ORDINARY, PEAKED
from opd_toy.audit.token.report import TokenReport
from opd_toy.audit.token.values import name_values
from opd_toy.audit.token.verdict import (
    LEGIBLE,
    NOTHING,
    Verdict,
    by_its_curve,
    holds_on,
    identify,
)
from opd_toy.distributions import entropy, softmax
from opd_toy.estimators import policy_gradient, total_variance
from opd_toy.example import STUDENT, TEACHER

FEW = 0.15  # of the pairs


@np.errstate(all="ignore")  # far out, what it is not is infinite
def judge(measured):
    """measure.Measurements -> TokenReport"""
    drawn_from, notes = measured.drawn_from, measured.tables[0]
    judged = _verdict(measured, drawn_from)
    verdict, seen, precision = judged.verdict, judged.seen, judged.precision
    tables = measured.tables[: len(seen.tier)]
    gradient = notes.expectation(drawn_from)
    found = findings(measured.edges, gradient, precision)
    uses_token = _uses_token(tables)
    with_other = None
    if uses_token and not verdict.known:
        with_other = _verdict(measured, OTHER[drawn_from]).name
    return TokenReport(
        **_statement(judged, stops_short(found)),
        with_other_tokens=with_other,
        **described(tables, seen, verdict, judged.also),
        expected_gradient=gradient,
        **_spread(notes, drawn_from, verdict),
        **beside.compared(seen, verdict.zero),
        value_is=_value_is(measured, tables, seen, verdict),
        value_at_teacher=_value_at_teacher(measured, seen.tolerance),
        fixed_point=_fixed_point(measured, seen, verdict),
        edges=found,
        touches_inputs=tuple(sorted({name for table in tables for name in table.touched})),
        teacher_gradient=any(table.teacher_gradient for table in tables),
        uses_token=uses_token,
        drawn_from=drawn_from,
        precision=precision,
        tolerance=_seen_from(seen, tables, drawn_from, verdict.zero),
        seed=measured.seed,
        pairs=len(tables) + len(measured.large),
        vocabularies=tuple(sorted({len(t.student) for t in tables + measured.large})),
        farthest=float(seen.pairs.distance().max()),
        reach={
            "log p/q": float(seen.pairs.log_ratio.max()),
            "log q/p": float(-seen.pairs.log_ratio.min()),
        },
    )


@dataclass(frozen=True)
class _Judged:
    """A verdict, the Expected it was read from, the format, and the limits it is bound by.

    ``also``: the name of what it is on both sides of the limits, if that has one.
    """

    verdict: Verdict
    seen: Expected
    precision: str
    limits: tuple = ()
    also: str | None = None

    @property
    def name(self):
        return self.verdict.name + (limits.words(self.limits) if self.limits else "")


def _verdict(measured, drawn_from):
    """-> _Judged, in the finest format that has a verdict; within the limits where it has any.

    What is only "f-divergence", or one times an unknown factor, may be another objective's
    rounding: it counts where no coarser format has a better name.
    """
    found = formats.precision(*[table.rows for table in measured.tables])
    vague = None
    for precision in formats.candidates(found, measured.formats):
        judged = _in_format(measured, drawn_from, precision)
        if judged.verdict.zero or (judged.verdict.known and not judged.verdict.is_vague):
            return judged
        if judged.verdict.known:
            vague = vague or judged
    return vague or judged


def _in_format(measured, drawn_from, precision):
    """-> _Judged, as if the loss computed in this format."""
    seen = _seen(measured.tables, measured.large, drawn_from, precision, measured.near)
    if measured.inside:
        verdict = _identify(_seen(*measured.inside, drawn_from, precision))
        if verdict.zero or (verdict.terms and not verdict.curve and verdict.holds.all()):
            verdict = replace(verdict, holds=holds_on(seen, verdict))
            said = limits.said(limits.binding(measured.edges.limits))
            if not said:  # it ends only where the floats do
                verdict = replace(verdict, holds=np.ones(len(seen.tier), bool))
            return _Judged(verdict, seen, precision, said, _everywhere(seen, verdict))
    return _Judged(_identify(seen), seen, precision)


def _everywhere(seen, near):
    """The name of what is ``near`` within the limits, and something else beyond; or None."""
    if seen.tolerance > formats.COARSE or near.holds.all():
        return None
    verdict = by_its_curve(seen)
    return verdict.name if verdict and verdict.terms and verdict.holds.all() else None


def _identify(seen):
    """-> Verdict, read from the pairs whose gradients are legible if only a few are not."""
    size = lengths(seen.gradients)
    drowned = (seen.rounding > LEGIBLE * size) & (size > 0) & (seen.tier <= ORDINARY)
    legible = seen[~drowned] if drowned.mean() < FEW else seen
    verdict = identify(legible)
    if legible is seen:
        return verdict
    holds = np.zeros(len(seen.tier), bool)
    holds[~drowned] = verdict.holds
    if verdict.terms and not verdict.curve:
        holds = holds_on(seen, verdict)
    return replace(verdict, holds=holds)


def _seen(tables, large, drawn_from, precision, near=()):
    """-> Expected"""
    if formats.TOLERANCES[precision] > formats.COARSE:
        tables = tables[: -len(PEAKED)]
    large = expected(large, drawn_from, precision) if large else None
    near = expected(near, drawn_from, precision, large and large.up_to(CLOSE)) if near else None
    return replace(expected(tables, drawn_from, precision, large), near=near)


def _statement(judged, margin):
    """The verdict in the report's fields; ``margin``: the gradient stops close by the teacher."""
    verdict, seen = judged.verdict, judged.seen
    limit = ""
    if judged.limits:
        limit = limits.words(judged.limits)
    elif verdict.known and not verdict.holds.all():
        limit = names.CLOSE
    elif verdict.known and margin and not verdict.factor and seen.tolerance <= formats.COARSE:
        limit = names.MARGIN
    everywhere = not limit and (verdict.known or verdict.zero)
    single = len(verdict.terms) == 1 and not verdict.over_vocabulary and not verdict.factor
    scale, term = verdict.terms[0] if single else (None, None)
    engine = term if everywhere else None
    return {
        "optimises": verdict.name + limit,
        "objective": engine and engine.objective,
        "parameters": dict(engine.parameters) if engine else {},
        "scale": scale,
        "terms": [
            {
                "coefficient": coefficient,
                "name": candidate.name,
                "objective": candidate.objective,
                "parameters": dict(candidate.parameters),
            }
            for coefficient, candidate in verdict.terms
        ],
        "holds_everywhere": everywhere,
        "holds_up_to": _holds_up_to(seen, verdict),
        "limits": [{"over": limit.over, "at": limit.at} for limit in judged.limits],
    }


def _holds_up_to(seen, verdict):
    """The largest distance up to which no pair fails; None if the closest does."""
    distance = seen.pairs.distance()
    failing = distance[~verdict.holds].min(initial=np.inf)
    if seen.near and verdict.terms:
        near = seen.near.pairs.distance()
        distance = np.append(distance, near[holds_on(seen.near, verdict)])
    below = distance[distance < failing]
    return float(below.max()) if below.size else None


def _uses_token(tables):
    return any(
        (table.rows != table.rows[0]).any() or (table.values != table.values[0]).any()
        for table in tables
    )


def _spread(notes, drawn_from, verdict):
    """Standard deviation and variance of single draws at the notes' pair, others' beside them."""
    weights = notes.weights(drawn_from)
    single = len(verdict.terms) == 1 and not verdict.over_vocabulary and not verdict.factor
    scale = verdict.terms[0][0] if single else 1.0
    plain = total_variance(STUDENT, policy_gradient(STUDENT, TEACHER)) * scale**2
    return {
        "standard_deviation": np.sqrt(weights @ (notes.rows - weights @ notes.rows) ** 2),
        "variance": float(total_variance(weights, notes.rows)),
        "variance_compared": {"GKD": 0.0, "plain policy gradient": plain},
    }


def _value_is(measured, tables, seen, verdict):
    groups = [
        beside.values_of(tables, seen.pairs, measured.drawn_from),
        beside.values_of(measured.large, seen.large.pairs, measured.drawn_from),
    ]
    return name_values(groups, seen.tolerance, verdict.terms)


def _value_at_teacher(measured, tolerance):
    """The loss's value at student = teacher (the notes'), and what it is: words or None."""
    values = np.array([table.value(measured.drawn_from) for table in measured.same])
    entropies = np.array([entropy(softmax(table.teacher)) for table in measured.same])
    share = values[0] / entropies[0]
    meaning = None
    if (np.abs(values) <= max(1e-12, tolerance)).all():
        meaning = names.ZERO
    elif np.allclose(values, share * entropies, rtol=10 * tolerance, atol=0):
        share = 1.0 if abs(share - 1) < 10 * tolerance else float(f"{share:.6g}")
        meaning = names.times(share, "the teacher's entropy")
    elif np.allclose(values, values[0], rtol=10 * tolerance, atol=0):
        meaning = "a constant"
    return {"value": float(values[0]), "is": meaning}


def _fixed_point(measured, seen, verdict):
    """The gradient at student = teacher, and where descent from the notes' student ends."""
    drawn_from, tolerance = measured.drawn_from, seen.tolerance
    norms = [float(np.linalg.norm(table.expectation(drawn_from))) for table in measured.same]
    typical = float(np.median(lengths(seen.gradients)[seen.tier <= ORDINARY])) or 1.0
    size = np.median([table.size(drawn_from) for table in measured.same])
    largest = max(norms)
    # Of a loss that is zero there is nothing to compare with: all its lengths are rounding.
    rounding = verdict.zero and largest < NOTHING
    return {
        "is_fixed": bool(rounding or largest <= max(tolerance, 1e-12) * max(typical, size)),
        "gradient_norm": norms[0],
        "gradient_norm_relative": 0.0 if rounding else largest / typical,
        "descent": _end_of(measured.descent, tolerance, verdict.zero),
    }


def _end_of(descent, tolerance, still):
    """Where descent ends, its KLs to the teacher, steps, whether it settled.

    A gradient that is 0 but for rounding (``still``) leads nowhere.
    """
    norms = np.zeros(1) if still else lengths(descent.gradients)
    small = norms <= max(SETTLED, tolerance) * norms[0]
    settled = bool(small.any())
    steps = int(np.argmax(small)) if settled else len(norms) - 1
    z = descent.logits[steps if settled else -1]
    p = np.full(3, np.nan)
    if np.isfinite(z).any():
        p = softmax(np.where(np.isfinite(z), z, -np.inf))
    known = np.isfinite(p).all()
    return {
        "ends_at": p,
        "forward_kl": float(objectives.forward_kl(p, TEACHER)) if known else None,
        "reverse_kl": float(objectives.reverse_kl(p, TEACHER)) if known else None,
        "steps": steps,
        "settled": settled,
    }


def _seen_from(seen, tables, drawn_from, still):
    """The largest relative tolerance of the close and ordinary pairs."""
    size, rounding = lengths(seen.gradients), seen.rounding
    if still:
        size, rounding = np.array([table.size(drawn_from) for table in tables]), seen.zero
    relative = np.divide(rounding, size, out=np.zeros_like(size), where=size > NOTHING)
    return float((relative + (0.0 if still else seen.tolerance))[seen.tier <= ORDINARY].max())
