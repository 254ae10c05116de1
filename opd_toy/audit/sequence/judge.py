"""From measurements of a loss on sequences to a report: arithmetic on the tables alone."""

from dataclasses import dataclass, replace

import numpy as np

from opd_toy.audit import formats
from opd_toy.audit.formats import COARSE
from opd_toy.audit.report import OTHER
from opd_toy.audit.sequence import beside
from opd_toy.audit.sequence.alignment import in_a_sentence
from opd_toy.audit.sequence.findings import Facts, findings
from opd_toy.audit.sequence.groups import describe
from opd_toy.audit.sequence.measure import BEYOND
from opd_toy.audit.sequence.normalisers import name_batch, name_mask
from opd_toy.audit.sequence.report import SequenceReport
from opd_toy.audit.sequence.samples import OF_A_DRAW
from opd_toy.audit.sequence.verdict import SequenceVerdict, explain
from opd_toy.audit.token.names import CLOSE, NONE, ZERO

MASKED = " where nothing is masked"
SLACK = {"far": 100, "long": 10, "wide": 10}  # times the tolerance, for more rounding there
NOT_FINITE = "the gradient is not finite for {wrong} of {all} sequences"


@dataclass(frozen=True)
class Reading:
    """A verdict, the format in which it was reached, and whether on close trees only."""

    verdict: SequenceVerdict
    precision: str
    close_only: bool = False

    @property
    def tolerance(self):
        return formats.TOLERANCES[self.precision]

    @property
    def asks_for_close_trees(self):
        """Half precision cannot tell divergences of close trees apart."""
        return not self.verdict.known and self.tolerance <= COARSE

    def rests(self, fixed_point):
        """Whether a gradient of this length at student = teacher is rounding."""
        return fixed_point <= 100 * self.tolerance


def read(measured):
    """Measurements -> Reading, in the finest format that gives a verdict."""
    found = formats.precision(*[sample.table for sample in measured.ordinary])
    for precision in formats.candidates(found, measured.formats):
        verdict = explain(
            measured.fitting,
            measured.confirming,
            measured.drawn_from,
            measured.with_reward,
            formats.TOLERANCES[precision],
        )
        if verdict.known:
            break
    return Reading(verdict, precision)


def is_described(measured):
    """Whether it is known what a draw is: then close trees would show nothing more."""
    return bool(measured.group and describe(measured.group))


def read_close(measured, reading):
    """The Reading of ``measured.close`` where it names an objective, else the one given."""
    drawn_from, with_reward = measured.drawn_from, measured.with_reward
    nearby = explain(*measured.close, drawn_from, with_reward, reading.tolerance)
    return replace(reading, verdict=nearby, close_only=True) if nearby.named else reading


def judge(measured, reading):
    """-> SequenceReport"""
    verdict, tolerance = reading.verdict, reading.tolerance
    problems = {role: _problem(role, measured.beyond[role], reading) for role in BEYOND}
    refuted = bool(problems["long"] or problems["wide"])
    name = NONE if refuted else verdict.name
    shares = measured.copies == 2 or name == NONE
    group = describe(measured.group) if measured.group and shares else None
    if name == NONE and group and group.name:
        name = group.name
    per_token = verdict.per_token if verdict.known or not group else group.per_token
    mask = measured.mask and name_mask(measured.mask, per_token)
    batch = measured.batch and name_batch(measured.batch, mask, per_token, group)
    apart = measured.limits
    limit = (
        "" if name == NONE else _limit(problems["far"] or (apart and apart.found), reading, mask)
    )
    fixed_point = _fixed_point(measured)
    facts = Facts(
        optimises=name + limit,
        value_is=beside.value_is(measured.ordinary, tolerance),
        carried=beside.carried(measured, tolerance),
        fixed_point=fixed_point,
        problems=problems,
    )
    credits, credit_of = verdict.credits()
    return SequenceReport(
        optimises=facts.optimises,
        objective=None if limit or refuted else verdict.objective,
        scale=None if refuted else verdict.scale,
        holds_everywhere=verdict.known and not refuted and not limit,
        credit=None if credits is None else credits[3],
        credit_of=credit_of,
        credits=credits,
        carried=facts.carried,
        unbiased_for={}
        if limit or not verdict.known or refuted
        else beside.unbiased_for(measured, verdict, tolerance, SLACK),
        **beside.compared(measured, name == ZERO),
        with_other_tokens=_with_other_tokens(measured, reading),
        expected_gradient=measured.reference.expected,
        variance=measured.reference.variance,
        variance_compared=beside.known_variances(measured, verdict),
        value_is=facts.value_is,
        fixed_point=fixed_point,
        description=_description(measured, name, group, reading.rests(fixed_point)),
        dependence=_map(measured.dependence),
        mask=mask and mask.fields,
        batch=batch and batch.fields,
        edges=findings(measured, reading, facts, mask, batch),
        touches_inputs=measured.touched,
        teacher_gradient=measured.teacher_gradient,
        uses_tokens=measured.takes_tokens,
        drawn_from=measured.drawn_from,
        precision=reading.precision,
        tolerance=_seen_from(measured.ordinary, name, tolerance),
        condition=verdict.condition,
        lengths=tuple(sorted({s.length for s in measured.ordinary})),
        vocabularies=tuple(sorted({s.student.vocabulary for s in measured.ordinary})),
        pairs=len(measured.ordinary),
        farthest=_farthest_of(measured),
        calls=measured.calls,
        seed=measured.seed,
    )


def _description(measured, name, group, rests):
    """What a draw is, or what can be said of a loss that has no name; else None."""
    if group:
        return group.words
    if name == NONE and measured.dependence:
        return in_a_sentence(measured.dependence, rests)
    return None


def _map(dependence):
    """{input: (T, T)} for the report, and of a batch {"other text's input": (2, T, T)}."""
    if dependence is None:
        return None
    others = {f"other text's {name}": moved for name, moved in (dependence.others or {}).items()}
    return dependence.moves | others


def _limit(far_off, reading, mask):
    """Where alone the verdict holds; "" where it holds everywhere."""
    close = CLOSE if far_off or reading.close_only else ""
    return close + (MASKED if mask and not mask.fields["respected"] else "")


def _problem(role, beyond, reading):
    """What goes wrong with the verdict on these samples: words, or None."""
    if role == "far" and beyond.refused:
        return beyond.refused
    verdict, tolerance = reading.verdict, reading.tolerance
    for sample in beyond.samples:
        if not sample.is_finite:
            wrong = int((~np.isfinite(sample.table)).any(axis=1).sum())
            return NOT_FINITE.format(wrong=wrong, all=len(sample.table))
        if not verdict.known or not verdict.known_at(sample.length):
            continue
        bases = verdict.bases(sample) if verdict.bases else {}
        off = sample.left_over(verdict.coefficients(sample.length), tolerance, bases)
        if off > SLACK[role] * tolerance:
            return f"what is left over is {off:.2g} of the gradient"
    return None


def _fixed_point(measured):
    """Length of the gradient at student = teacher, relative to a draw's at the reference trees."""
    size = measured.reference.size
    return float(np.linalg.norm(measured.same.expected)) / size if size else 0.0


def _with_other_tokens(measured, reading):
    """The verdict with the other's sequences, where this one is none: a name or None."""
    if reading.verdict.named or not measured.takes_tokens:
        return None
    other = OTHER[measured.drawn_from]
    fitting, confirming = (
        [sample.drawn_by(other) for sample in samples]
        for samples in (measured.fitting, measured.confirming)
    )
    with_reward, tolerance = measured.with_reward, reading.tolerance
    verdict = explain(fitting, confirming, other, with_reward, tolerance, families=False)
    return verdict.name if verdict.named else None


def _farthest_of(measured):
    limits = measured.limits
    searched = min(-limits.below, limits.above) if limits else 0.0
    return max(searched, *map(_farthest, measured.ordinary + measured.beyond["far"].samples))


def _farthest(sample):
    """The largest |log p/q| of a token that is drawn more than once in a million times."""
    farthest = 0.0
    for p, q in zip(sample.student.log_probabilities, sample.teacher.log_probabilities):
        drawn = (p if sample.drawer == "student" else q) > np.log(1e-6)
        farthest = max(farthest, float(np.abs(p - q)[drawn].max()))
    return farthest


def _seen_from(ordinary, name, tolerance):
    """The relative tolerance, on the worst tree; of a draw for zero and in half precision."""
    if name == ZERO:
        return tolerance * OF_A_DRAW[tolerance]
    if tolerance > COARSE:
        return tolerance
    sizes = [(s, float(np.linalg.norm(s.expected))) for s in ordinary if s.size]
    return tolerance * max(s.reference_length(tolerance) / max(n, 1e-300) for s, n in sizes)
