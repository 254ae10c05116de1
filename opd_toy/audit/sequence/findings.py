"""What a loss on sequences does at the edges: a severity and a sentence each."""

from dataclasses import dataclass

import numpy as np

from opd_toy.audit.report import TEACHER_LEARNS, finding, number
from opd_toy.audit.sequence.alignment import alignment_findings
from opd_toy.audit.sequence.bases import REWARD
from opd_toy.audit.sequence.measure import SPREAD
from opd_toy.audit.token.names import ZERO

TEACHES_NOTHING = (
    "the expected gradient is 0: with the {drawn_from}'s own sequences this loss teaches nothing"
)
CUT_OFF = (
    "on small trees this is {name}, but not {where}: {problem}. "
    "Something is cut off, such as {what}"
)
FAR_OFF = (
    "where student and teacher differ much (logits with standard deviation {spread:g}): "
    "{problem}; clamps and small constants show there"
)
HOLDS = "the verdict holds {sides}, for the token that has it"
SIDES = {"below": "down to log p/q = {limit}", "above": "up to log p/q = {limit}"}
CLOSE_ONLY = (
    "the verdict holds for logits that differ with standard deviation {spread:g}, "
    "not where they are drawn apart: costs or weights are clamped early"
)
PAST = (
    "a draw also carries costs of the past (`carried`, below the diagonal): "
    "they add nothing to the expectation, only variance"
)
UNDEFINED = "the gradient is not finite there: 0/0, as where all costs are 0"
MOVES = "the expected gradient is not 0 there, but {relative:.2g} of a draw's on other trees"
CONSTANTS = (
    "adding a constant to a row of the student's logits changes the loss, though it changes no "
    "probability: if it wants log-probabilities, say so (inputs=...)"
)
DEPENDENT = (
    "they are nearly dependent (condition number {condition:.1g}): take the coefficients with care"
)


@dataclass(frozen=True)
class Facts:
    """What the findings are read from besides the measurements; fields as in SequenceReport.

    ``problems``: {"far", "long", "wide": words or None}.
    """

    optimises: str
    value_is: str | None
    carried: np.ndarray | None
    fixed_point: float
    problems: dict


def findings(measured, reading, facts, mask, batch):
    """A list of findings (``report.finding``); ``mask``, ``batch``: Named or None."""
    found = [
        _expectation(facts, measured.drawn_from),
        *_sizes(reading.verdict, facts.problems),
        _far_off(reading, facts.problems["far"], measured.limits),
    ]
    if reading.close_only:
        found.append(finding("ordinary", "note", CLOSE_ONLY.format(spread=SPREAD["close fit"])))
    if facts.carried is not None and np.tril(facts.carried, -1).any():
        found.append(finding("past", "note", PAST))
    found.append(_student_is_teacher(reading, facts.fixed_point))
    if measured.teacher_gradient:
        words = f"a gradient reaches the teacher's logits too: {TEACHER_LEARNS}"
        found.append(finding("teacher", "note", words))
    if measured.touched:
        words = f"changes {' and '.join(measured.touched)} in place"
        found.append(finding("inputs", "note", words))
    if reading.verdict.condition > 1e4:
        words = DEPENDENT.format(condition=reading.verdict.condition)
        found.append(finding("bases", "note", words))
    if measured.dependence:
        shifted = alignment_findings(measured.dependence)
        found += [finding("alignment", *entry) for entry in shifted]
        if measured.dependence.constants:
            found.append(finding("constants", "note", CONSTANTS))
    for edge, named in (("mask", mask), ("batch", batch)):
        found += [finding(edge, *entry) for entry in named.findings] if named else []
    return [entry for entry in found if entry]


def _expectation(facts, drawn_from):
    if facts.optimises != ZERO:
        return None
    words = TEACHES_NOTHING.format(drawn_from=drawn_from)
    if facts.value_is not in (None, "0"):
        words += f", though its value is on average {facts.value_is}"
    return finding("expectation", "broken", words)


def _sizes(verdict, problems):
    if problems["long"]:
        where, what = "on longer sequences", "a return after some tokens"
        words = CUT_OFF.format(name=verdict.name, where=where, problem=problems["long"], what=what)
        yield finding("longer sequences", "broken", words)
    if problems["wide"]:
        where, what = "with a larger vocabulary", "all but the likeliest tokens"
        words = CUT_OFF.format(name=verdict.name, where=where, problem=problems["wide"], what=what)
        yield finding("vocabulary", "broken", words)


def _far_off(reading, problem, limits):
    sides = [SIDES[side].format(limit=number(x, 2)) for side, x in limits.found] if limits else []
    said = HOLDS.format(sides=" and ".join(sides)) if sides else ""
    if problem:
        severity = "broken" if "not finite" in problem else "note"
        words = FAR_OFF.format(spread=SPREAD["far"], problem=problem) + (said and f"; {said}")
        return finding("far off", severity, words)
    if said:
        return finding("far off", "note", said)
    if reading.verdict.known and not reading.close_only:
        return finding("far off", "fine")
    return None


def _student_is_teacher(reading, fixed_point):
    edge = "student = teacher"
    if not np.isfinite(fixed_point):
        return finding(edge, "broken", UNDEFINED)
    rewarded = any(piece.kind == REWARD for piece in reading.verdict.pieces)  # rewards pull away
    if not reading.rests(fixed_point) and not rewarded:
        return finding(edge, "note", MOVES.format(relative=fixed_point))
    return finding(edge, "fine")
