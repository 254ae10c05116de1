"""Measuring a loss on sequences: every call that an audit makes of it, laid down in tables.

Each gradient is laid on the prefixes that its sequence passes: the table of all draws
(S, P), exact.  Coefficients are found on some trees and must hold on others, of other
sizes and lengths.
"""

import warnings
from dataclasses import dataclass, replace

import numpy as np

from opd_toy.audit.calling import AuditError, described
from opd_toy.audit.sequence.dependence import Dependence, observe_dependence
from opd_toy.audit.sequence.groups import GroupFacts, observe_group
from opd_toy.audit.sequence.limits import Limits, observe_limits
from opd_toy.audit.sequence.masks import BatchFacts, MaskFacts, observe_batch, observe_mask
from opd_toy.audit.sequence.samples import Sample, tabulate
from opd_toy.sequences import TokenTree

# (V, T, how many pairs of trees): coefficients come from the first and must hold on the others.
TREES = {
    "fit": ((3, 2, 5), (3, 3, 6), (2, 4, 16)),
    "confirm": ((4, 2, 1), (2, 2, 2), (2, 3, 3), (4, 3, 1), (3, 4, 1)),
    "far": ((3, 2, 2), (2, 3, 2)),
    "long": ((2, 6, 1),),
    "wide": ((150, 1, 1),),
}
# For losses whose sequences share something: batches of two.
TREES_OF_PAIRS = {
    "fit": ((2, 2, 10), (2, 3, 14)),
    "confirm": ((3, 2, 1), (2, 3, 3)),
    "far": ((2, 2, 3),),
    "long": ((2, 4, 1),),
    "wide": ((12, 1, 1),),
}
# Standard deviation of the logits (in close trees, of their difference); 1 elsewhere.
# Small in long and wide trees, so that only their size is tried.
SPREAD = {"far": 6.0, "long": 0.25, "wide": 0.25, "close fit": 0.25, "close confirm": 0.25}
ROLES = [*TREES, "close fit", "close confirm"]
BEYOND = ("far", "long", "wide")
SAME_REWARD = (
    "reward gives {value!r} for all texts of {length} tokens from 0 to {last}, on which it is "
    "tried, so that its part in the gradient cannot be seen; give one that tells them apart"
)
NOT_FINITE = (
    "the gradient is not finite at ordinary logits (T = {length}, V = {vocabulary}, "
    "tokens {tokens}): look for 0/0, log(0) or 0 × inf, "
    "such as the standard deviation of equal numbers, or of one"
)


@dataclass(frozen=True)
class Beyond:
    """Samples beyond the ordinary trees, and the words of the loss's refusal or None."""

    samples: list
    refused: str | None = None


@dataclass(frozen=True)
class Measurements:
    """All that is known of a loss.  ``fitting``: samples that coefficients are found on.

    ``confirming``: samples they must hold on; ``beyond``: {"far", "long", "wide": Beyond};
    ``same``: student = teacher; ``mask``, ``batch``: None where the loss takes none;
    ``dependence``: which rows move which; ``group``: what weighs the scores of a draw;
    ``formats``: names of the floating formats inside the loss; ``close``: (fitting, confirming)
    samples of trees close to each other, and ``limits`` of a verdict, where these were asked for.
    """

    fitting: list
    confirming: list
    beyond: dict
    same: Sample
    mask: MaskFacts | None
    batch: BatchFacts | None
    dependence: Dependence | None
    group: GroupFacts | None
    formats: frozenset
    drawn_from: str
    with_reward: bool
    takes_tokens: bool
    touched: tuple
    teacher_gradient: bool
    calls: int
    seed: int
    close: tuple | None = None
    limits: Limits | None = None

    @property
    def ordinary(self):
        return self.fitting + self.confirming

    @property
    def copies(self):
        """How many sequences a row of the tables holds."""
        return 2 if self.batch and self.batch.shared else 1

    @property
    def reference(self):
        """The sample on which moments are reported: V = T = 3, or T = 3 in batches."""
        return next(sample for sample in self.fitting if sample.length == 3)


def measure(call, drawn_from, reward, seed):
    """SequenceCall -> Measurements.  AuditError for a loss that cannot be audited."""
    batch = observe_batch(call, seed) if call.batched else None
    copies = 2 if batch and batch.shared else 1
    mask = observe_mask(call, seed, copies) if call.takes_mask else None
    dependence = observe_dependence(call, seed, copies)
    plan = TREES_OF_PAIRS if copies == 2 else TREES

    def tabulated(role):
        pairs = trees(plan[role], role, seed)
        return [tabulate(call, *pair, drawn_from, reward, copies) for pair in pairs]

    fitting, confirming = tabulated("fit"), tabulated("confirm")
    _refuse(call, fitting + confirming)
    if reward is not None:
        _refuse_reward(fitting)
    beyond = {
        role: _beyond(call, trees(plan[role], role, seed), role, drawn_from, reward, copies)
        for role in BEYOND
    }
    reference = next(sample for sample in fitting if sample.length == 3).student
    same = tabulate(call, reference, reference, drawn_from, reward, copies)
    call.check_unchanged()
    return Measurements(
        fitting,
        confirming,
        beyond,
        same,
        mask,
        batch,
        dependence,
        observe_group(call, seed, reward),
        frozenset(call.formats_inside()),
        drawn_from,
        reward is not None,
        takes_tokens=call.arguments > 2,
        seed=seed,
        **_over_all_calls(call),
    )


def measure_close(call, measured, reward):
    """The same Measurements with ``close`` besides."""
    plan = TREES_OF_PAIRS if measured.copies == 2 else TREES

    def tabulated(role):
        pairs = trees(plan[role], f"close {role}", measured.seed)
        return [tabulate(call, *p, measured.drawn_from, reward, measured.copies) for p in pairs]

    close = tabulated("fit"), tabulated("confirm")
    call.check_unchanged()
    return replace(measured, close=close, **_over_all_calls(call))


def measure_rounding(call, measured):
    """The same Measurements with the format besides that shows in the gradient's rounding."""
    found = {call.format_by_rounding()} - {"float64"}
    return replace(measured, formats=measured.formats | found, **_over_all_calls(call))


def measure_limits(call, measured, reward, verdict, tolerance):
    """The same Measurements with the limits of a known verdict besides."""
    with warnings.catch_warnings(action="ignore"):
        limits = observe_limits(call, measured, reward, verdict, tolerance)
    return replace(measured, limits=limits, **_over_all_calls(call))


def _over_all_calls(call):
    return {
        "touched": tuple(sorted(call.touched)),
        "teacher_gradient": call.teacher_gradient,
        "calls": call.count,
    }


def trees(sizes, role, seed):
    """Pairs of random trees; every role and seed has its own."""
    start = 4000 * seed + 400 * ROLES.index(role)
    for vocabulary, length, many in sizes:
        for _ in range(many):
            spread = SPREAD.get(role, 1.0)
            student = TokenTree.random(vocabulary, length, start, spread)
            teacher = TokenTree.random(vocabulary, length, start + 1, spread)
            if role.startswith("close"):  # to each other, and not flat
                teacher = TokenTree.random(vocabulary, length, start + 1)
                moved = (z + apart for z, apart in zip(teacher.logits, student.logits))
                student = TokenTree(tuple(moved))
            yield student, teacher
            start += 2


def _refuse(call, samples):
    if not any(sample.gradients for sample in samples):
        raise call.no_gradient
    for sample in samples:
        wrong = np.flatnonzero(~np.isfinite(sample.table).all(axis=1))
        if len(wrong):
            rows = sample.student.tokens()
            single = len(sample.table) == len(rows)
            raise AuditError(
                NOT_FINITE.format(
                    length=sample.length,
                    vocabulary=sample.student.vocabulary,
                    tokens=rows[wrong[0]].tolist() if single else "a pair of sequences",
                )
            )


def _refuse_reward(samples):
    """Coefficients are fitted length by length: at each, the reward has to tell texts apart."""
    for length in {sample.length for sample in samples}:
        alike = [sample for sample in samples if sample.length == length]
        if all(np.ptp(sample.rewards) == 0 for sample in alike):
            value, last = float(alike[0].rewards[0]), max(s.student.vocabulary for s in alike) - 1
            raise AuditError(SAME_REWARD.format(value=value, length=length, last=last))


def _beyond(call, pairs, role, drawer, reward, copies):
    samples, refused = [], None
    for pair in pairs:
        try:
            with warnings.catch_warnings(action="ignore"):
                samples.append(tabulate(call, *pair, drawer, reward, copies))
        except AuditError as error:
            refused = f"the loss raised {described(error.__cause__ or error)}"
    if role != "far":
        # One token, no standard deviation: what a loss makes of T = 1 is not held against it.
        samples = [sample for sample in samples if sample.is_finite]
    return Beyond(samples, refused)
