"""Which sum of named gradients is this expected gradient?  Simplest first, found on some trees, held to all.

Sets of bases are tried in turn.  Least squares on the fitting trees gives the
coefficients for each length T; a set counts only where what is left over on *every*
ordinary tree is at most ``tolerance`` of its length (``Sample.yard``), and again when the
coefficients have been replaced by the short numbers of their names.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from opd_toy import objectives
from opd_toy.audit.sequence.bases import (
    ENTROPY,
    FORWARD,
    REVERSE,
    REWARD,
    SEQUENCE_FORWARD,
    TEACHER_ENTROPY,
    TEACHER_REVERSE,
    at_teacher_prefixes,
    credit,
    fit,
)
from opd_toy.audit.sequence.names import credit_pieces, position_pieces, sum_text
from opd_toy.audit.token.candidates import Pairs
from opd_toy.audit.token.verdict import LEGIBLE, NONE, Measured, Verdict, identify, phrase

# Sets of bases, simplest first: (kind, whether later costs count).  With a reward each has its score too.
STUDENT_SETS = (
    ((REVERSE, True),),
    ((FORWARD, False),),
    ((SEQUENCE_FORWARD, False),),
    ((REVERSE, True), (FORWARD, False), (ENTROPY, False)),
    ((REVERSE, True), (SEQUENCE_FORWARD, False)),
    ((REVERSE, True), (FORWARD, True), (ENTROPY, True)),
    ((TEACHER_REVERSE, False), (SEQUENCE_FORWARD, False), (TEACHER_ENTROPY, False)),
)
COARSE = (
    1e-3  # tolerances above are of half precision, where averages over trees say more than a tree
)
REWARDED = {False: (), True: ((REWARD, False),)}
TEACHER_SETS = (STUDENT_SETS[2], STUDENT_SETS[6], *STUDENT_SETS[:2], *STUDENT_SETS[3:6])


@dataclass(frozen=True)
class SequenceVerdict:
    """The pieces that sum to the expected gradient, and a function that gives their bases on a sample."""

    name: str
    pieces: tuple = ()
    bases: Callable | None = None
    condition: float = 1.0

    @property
    def objective(self):
        return (
            self.pieces[0].name
            if len(self.pieces) == 1 and self.name != NONE
            else self.name
            if self.name == "zero"
            else None
        )

    @property
    def scale(self):
        if len(self.pieces) != 1 or self.name == NONE:
            return "1"
        return "c(T)" if self.pieces[0].factor is None else self.pieces[0].factor or "1"

    @property
    def per_token(self):
        """Whether everything is divided by T; None if it is not known."""
        factors = {piece.factor for piece in self.pieces if piece.name}
        if self.name == NONE or not factors or None in factors:
            return None
        over = {"/T" in factor and "(T" not in factor for factor in factors}
        return over.pop() if len(over) == 1 else None

    def known_at(self, length):
        """Whether the weights are known at this length: among those fitted, or by a law."""
        return all(length in piece.coefficients or piece.law for piece in self.pieces)

    def coefficients(self, length):
        return _coefficients(self.pieces, length)

    def credits(self):
        """({T: (T, T)}, kind) of the reverse KL where it is among the pieces, else of the first cost that is."""
        kinds = [piece.kind for piece in self.pieces if piece.shape(3).ndim == 2]
        if not kinds:
            return None, None
        kind = REVERSE if REVERSE in kinds else kinds[0]
        chosen = [piece for piece in self.pieces if piece.kind == kind]
        return {
            length: sum(piece.weights(length) for piece in chosen)
            for length in sorted(chosen[0].coefficients)
        }, kind


def explain(fitting, ordinary, drawer, with_reward, tolerance, families=True):
    """-> SequenceVerdict: the simplest set of bases that holds on all ordinary trees and has a name.

    ``families``: whether divergences with a parameter are fitted too, which takes longest.
    """
    if all(
        np.linalg.norm(sample.expected) <= sample.rounding(tolerance) for sample in ordinary
    ) and not (tolerance > COARSE and _is_felt(fitting)):
        return SequenceVerdict("zero")
    if tolerance <= COARSE and any(
        sample.rounding(tolerance) > LEGIBLE * np.linalg.norm(sample.expected)
        for sample in ordinary
        if sample.size
    ):
        return SequenceVerdict(NONE)  # drowned in the draws' rounding, it would pass for anything
    unnamed = None
    for sets in (_linear_sets, _local_sets) if families else (_linear_sets,):
        for kinds, bases in sets(ordinary, len(fitting), drawer, with_reward, tolerance):
            verdict = _try(kinds, bases, fitting, ordinary, tolerance)
            if verdict and verdict.name != NONE:
                return verdict
            unnamed = unnamed or verdict
    return unnamed or SequenceVerdict(NONE)


def _linear_sets(ordinary, fitted, drawer, with_reward, tolerance):
    """Pairs (kinds, function from a sample to {kind: basis}), simplest first."""
    for kinds in STUDENT_SETS if drawer == "student" else TEACHER_SETS:
        yield kinds + REWARDED[with_reward], lambda sample: sample.bases


def _local_sets(ordinary, fitted, drawer, with_reward, tolerance):
    """The same with whatever divergence explains the last position."""
    local = _local_objective(ordinary, fitted, drawer, tolerance)
    if local is None:
        return
    name, value, gradient = local
    reward = REWARDED[with_reward]
    if drawer == "teacher":
        at_teacher = f"{name} at the teacher's prefixes"
        yield (
            ((at_teacher, False), *reward),
            lambda sample: {
                **sample.bases,
                at_teacher: at_teacher_prefixes(sample.student, sample.teacher, gradient),
            },
        )

    def bases(sample):
        return {
            **sample.bases,
            name: credit(
                sample.student, sample.teacher, value or (lambda p, q: np.zeros(len(p))), gradient
            ),
        }

    yield ((name, value is not None), *reward), bases
    yield ((name, value is not None), (REVERSE, True), *reward), bases


def _try(kinds, bases, fitting, ordinary, tolerance):
    """-> SequenceVerdict if these bases hold on all ordinary trees, named if the credit has a name; else None."""
    found, errors, condition = {}, {}, 1.0
    here = {id(sample): _chosen(kinds, bases(sample)) for sample in ordinary}
    for length in sorted({sample.student.length for sample in ordinary}):
        known = [
            sample for sample in fitting if sample.student.length == length and sample.size > 0
        ]
        if not known:
            return None
        found[length], errors[length], worst = fit(
            [(sample.blocks, sample.size) for sample in known],
            [here[id(sample)] for sample in known],
        )
        condition = max(condition, worst)
        if any(
            sample.left_over(found[length], tolerance, here[id(sample)]) > tolerance
            for sample in ordinary
            if sample.student.length == length
        ):
            return None
    unnamed = None
    for naming in (
        (10 * tolerance, min(1e3 * tolerance, 0.1))
        if tolerance <= COARSE
        else (0.003, 0.01, 0.03, 0.1)
    ):
        pieces = _pieces(kinds, found, naming)
        short = {length: _coefficients(pieces, length) for length in found}
        holds = all(
            sample.left_over(short[sample.student.length], tolerance, here[id(sample)])
            <= 2 * tolerance
            for sample in ordinary
        )
        if holds and (tolerance <= COARSE or _within_errors(short, found, errors)):
            named = all(piece.name and (piece.law or tolerance <= COARSE) for piece in pieces)
            verdict = SequenceVerdict(
                sum_text(pieces) if named else NONE,
                tuple(pieces),
                lambda sample: _chosen(kinds, bases(sample)),
                condition,
            )
            if named:
                return verdict
            unnamed = unnamed or verdict
    return unnamed


def _within_errors(short, found, errors):
    """Whether the numbers of the names are those found, up to what rounding may have done to these."""
    for length, kinds in found.items():
        largest = max(abs(c) for by_key in kinds.values() for c in by_key.values())
        for kind, by_key in kinds.items():
            for key, c in by_key.items():
                if (
                    abs(short[length].get(kind, {}).get(key, 0.0) - c)
                    > 6 * errors[length][kind][key] + COARSE * largest
                ):
                    return False
    return True


def _is_felt(fitting):
    """Whether, though each tree's expectation is lost in a coarse format's rounding, all together follow the reverse or the forward KL."""
    for length in sorted({sample.student.length for sample in fitting}):
        known = [
            sample for sample in fitting if sample.student.length == length and sample.size > 0
        ]
        found, errors, _ = fit(
            [(sample.blocks, sample.size) for sample in known],
            [_chosen(STUDENT_SETS[3][:2], sample.bases) for sample in known],
        )
        if any(
            abs(c) > 6 * errors[kind][key]
            for kind, by_key in found.items()
            for key, c in by_key.items()
        ):
            return True
    return False


def _chosen(kinds, bases):
    return {
        kind: {key: block for key, block in bases[kind].items() if future or key[0] == key[1]}
        for kind, future in kinds
    }


def _pieces(kinds, found, tolerance):
    """Named pieces of the coefficients {T: {kind: {(t, u): c}}}; what is negligible beside the largest is left out."""
    largest = {
        length: max(abs(c) for by_key in kinds_of.values() for c in by_key.values())
        for length, kinds_of in found.items()
    }
    pieces = []
    for kind, future in kinds:
        matrices = {}
        for length, kinds_of in found.items():
            matrices[length] = np.zeros((length, length))
            for key, c in kinds_of[kind].items():
                matrices[length][key] = c if abs(c) > tolerance * largest[length] else 0.0
        if not any(matrix.any() for matrix in matrices.values()):
            continue
        if kind in (SEQUENCE_FORWARD, REWARD) or kind.endswith("the teacher's prefixes"):
            one = kind if kind in (SEQUENCE_FORWARD, REWARD) else f"sum of {kind}"
            pieces += position_pieces(
                kind,
                one,
                {length: np.diag(matrix) for length, matrix in matrices.items()},
                tolerance,
            )
        else:
            pieces += credit_pieces(kind, matrices, tolerance)
    return pieces


def _coefficients(pieces, length):
    """{kind: {(t, u): c}} of the pieces at this length."""
    total = {}
    for piece in pieces:
        weights = piece.weights(length)
        weights = np.diag(weights) if weights.ndim == 1 else weights
        of_kind = total.setdefault(piece.kind, {})
        for t, u in np.argwhere(weights):
            of_kind[int(t), int(u)] = of_kind.get((int(t), int(u)), 0.0) + float(weights[t, u])
    return total


def _local_objective(ordinary, fitted, drawer, tolerance):
    """(name, value or None, gradient) of the divergence at the last position, which has no future, by ``identify``; else None."""
    widest = max(sample.student.vocabulary for sample in ordinary)
    logits, gradients, rounding, fitting = [], [], [], []
    for number, sample in enumerate(ordinary):
        if sample.student.length != 3 or not sample.size:
            continue
        tree = sample.student if drawer == "student" else sample.teacher
        visit = tree.prefix_probabilities()[-1]
        logits.append(
            [
                _padded(t.log_probabilities[-1], widest, -np.inf)
                for t in (sample.student, sample.teacher)
            ]
        )
        gradients.append(_padded(sample.blocks[-1] / visit[:, None], widest, 0.0))
        rounding.append(1e-3 * tolerance * sample.size / visit)
        fitting.append(np.full(len(visit), number < fitted))
    if not logits:
        return None
    pairs = Pairs(*(np.concatenate(side) for side in zip(*logits)))
    rounding = np.concatenate(rounding)
    verdict = identify(
        Measured(
            pairs,
            np.concatenate(gradients),
            rounding,
            np.zeros(len(rounding), int),
            np.concatenate(fitting),
            tolerance,
        )
    )
    if not verdict.terms or verdict.factor:
        return None
    lead = verdict.terms[0][0]
    terms = tuple((coefficient / lead, candidate) for coefficient, candidate in verdict.terms)
    plain = Verdict(phrase(terms) + ", divided by V" * verdict.per_token, terms, verdict.per_token)
    known = [candidate.objective for _, candidate in terms]

    def value(p, q):
        return sum(
            c * getattr(objectives, candidate.objective)(p, q, **dict(candidate.parameters))
            for c, candidate in terms
        )

    return (
        plain.name,
        value if all(known) and not verdict.per_token else None,
        lambda p, q: plain.gradient(Pairs(np.log(p), np.log(q))),
    )


def _padded(rows, width, filler):
    return np.pad(rows, ((0, 0), (0, width - rows.shape[1])), constant_values=filler)
