"""Which sum of named gradients is this expected gradient?  Simplest first, held to all trees.

Sets of bases are tried in turn.  Least squares on the fitting trees gives the
coefficients for each length T; a set counts only where what is left over on *every*
ordinary tree is at most ``tolerance`` of its length (``Sample.reference_length``), and again
when the coefficients have been replaced by the short numbers of their names.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from opd_toy.audit.formats import COARSE
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
from opd_toy.audit.sequence.local import local_objective
from opd_toy.audit.sequence.names import credit_pieces, position_pieces, sum_text
from opd_toy.audit.token.names import NONE, ZERO
from opd_toy.audit.token.verdict import LEGIBLE

# Sets of bases, simplest first: (kind, whether later costs count).
# With a reward each has its score too.
STUDENT_SETS = (
    ((REVERSE, True),),
    ((FORWARD, False),),
    ((SEQUENCE_FORWARD, False),),
    ((REVERSE, True), (FORWARD, False), (ENTROPY, False)),
    ((REVERSE, True), (SEQUENCE_FORWARD, False)),
    ((REVERSE, True), (FORWARD, True), (ENTROPY, True)),
    ((TEACHER_REVERSE, False), (SEQUENCE_FORWARD, False), (TEACHER_ENTROPY, False)),
)
TEACHER_SETS = (STUDENT_SETS[2], STUDENT_SETS[6], *STUDENT_SETS[:2], *STUDENT_SETS[3:6])
FELT = ((REVERSE, True), (FORWARD, False))
REWARDED = {False: (), True: ((REWARD, False),)}
ERRORS = 6  # so many standard errors are more than chance


@dataclass(frozen=True)
class SequenceVerdict:
    """The pieces that sum to the expected gradient; ``bases``: theirs on a sample.

    ``named``: all pieces have a name; without, the verdict is "none of these", or "zero".
    """

    pieces: tuple = ()
    named: bool = False
    zero: bool = False
    bases: Callable | None = None
    condition: float = 1.0

    @property
    def known(self):
        return self.named or self.zero

    @property
    def name(self):
        if self.zero:
            return ZERO
        return sum_text(self.pieces) if self.named else NONE

    @property
    def single(self):
        """The one piece, where it is one and has a name; else None."""
        return self.pieces[0] if self.named and len(self.pieces) == 1 else None

    @property
    def objective(self):
        if self.zero:
            return ZERO
        return self.single and self.single.name

    @property
    def scale(self):
        if self.single is None:
            return "1"
        return "c(T)" if self.single.factor is None else self.single.factor or "1"

    @property
    def per_token(self):
        """Whether everything is divided by T; None if it is not known."""
        factors = {piece.factor for piece in self.pieces if piece.name}
        if not self.known or not factors or None in factors:
            return None
        over = {"/T" in factor and "(T" not in factor for factor in factors}
        return over.pop() if len(over) == 1 else None

    def known_at(self, length):
        """Whether the weights are known at this length: among those fitted, or by a law."""
        return all(
            length in piece.coefficients or (piece.law and np.isfinite(piece.law(length)))
            for piece in self.pieces
        )

    def coefficients(self, length):
        return _coefficients(self.pieces, length)

    def credits(self):
        """({T: (T, T)}, kind) of the reverse KL where it is a piece, else of the first cost."""
        kinds = [piece.kind for piece in self.pieces if piece.shape(3).ndim == 2]
        if not kinds:
            return None, None
        kind = REVERSE if REVERSE in kinds else kinds[0]
        chosen = [piece for piece in self.pieces if piece.kind == kind]
        lengths = sorted(chosen[0].coefficients)
        return {T: sum(piece.weights(T) for piece in chosen) for T in lengths}, kind


def explain(fitting, confirming, drawer, with_reward, tolerance, families=True):
    """-> SequenceVerdict: the simplest set of bases that holds on all trees and has a name.

    ``families``: whether divergences with a parameter are fitted too, which takes longest.
    """
    ordinary = fitting + confirming
    lengths = [np.linalg.norm(sample.expected) for sample in ordinary]
    rounding = [sample.rounding(tolerance) for sample in ordinary]
    if all(length <= limit for length, limit in zip(lengths, rounding)) and not (
        tolerance > COARSE and _is_felt(fitting)
    ):
        return SequenceVerdict(zero=True)
    if tolerance <= COARSE and any(
        limit > LEGIBLE * length for length, limit in zip(lengths, rounding)
    ):
        return SequenceVerdict()  # drowned in the draws' rounding, it would pass for anything
    unnamed = None
    for kinds, bases in _sets(fitting, confirming, drawer, with_reward, tolerance, families):
        verdict = _try(kinds, bases, fitting, ordinary, tolerance)
        if verdict and verdict.named:
            return verdict
        unnamed = unnamed or verdict
    return unnamed or SequenceVerdict()


def _sets(fitting, confirming, drawer, with_reward, tolerance, families):
    """Pairs (kinds, function from a sample to {kind: basis}), simplest first.

    The last ones hold whatever divergence explains the last position.
    """
    reward = REWARDED[with_reward]
    for kinds in STUDENT_SETS if drawer == "student" else TEACHER_SETS:
        yield kinds + reward, lambda sample: sample.bases
    local = local_objective(fitting, confirming, drawer, tolerance) if families else None
    if local is None:
        return
    if drawer == "teacher":
        at_teacher = f"{local.name} at the teacher's prefixes"

        def teachers(sample):
            basis = at_teacher_prefixes(sample.student, sample.teacher, local.gradient)
            return {**sample.bases, at_teacher: basis}

        yield ((at_teacher, False), *reward), teachers

    def bases(sample):
        value = local.value or (lambda p, q: np.zeros(len(p)))
        basis = credit(sample.student, sample.teacher, value, local.gradient)
        return {**sample.bases, local.name: basis}

    kind = (local.name, local.value is not None)
    yield (kind, *reward), bases
    yield (kind, (REVERSE, True), *reward), bases


def _try(kinds, bases, fitting, ordinary, tolerance):
    """-> SequenceVerdict if these bases hold on all ordinary trees, else None."""
    here = {id(sample): _chosen(kinds, bases(sample)) for sample in ordinary}
    found, errors, condition = {}, {}, 1.0

    def hold(coefficients, slack, samples):
        return all(
            sample.left_over(coefficients[sample.length], tolerance, here[id(sample)])
            <= slack * tolerance
            for sample in samples
        )

    for length in sorted({sample.length for sample in ordinary}):
        known = [s for s in fitting if s.length == length and s.size > 0]
        if not known:
            return None
        samples = [(sample.blocks, sample.size) for sample in known]
        found[length], errors[length], worst = fit(samples, [here[id(s)] for s in known])
        condition = max(condition, worst)
        if not hold(found, 1, [sample for sample in ordinary if sample.length == length]):
            return None
    unnamed = None
    for naming in _naming_tolerances(tolerance):
        pieces = tuple(_pieces(kinds, found, naming))
        short = {length: _coefficients(pieces, length) for length in found}
        if not hold(short, 2, ordinary):
            continue
        if tolerance > COARSE and not _within_errors(short, found, errors):
            continue
        named = all(piece.name and (piece.law or tolerance <= COARSE) for piece in pieces)
        chosen = lambda sample: _chosen(kinds, bases(sample))
        verdict = SequenceVerdict(pieces, named, bases=chosen, condition=condition)
        if named:
            return verdict
        unnamed = unnamed or verdict
    return unnamed


def _naming_tolerances(tolerance):
    """How far coefficients may be from the short numbers of their names, strictest first.

    At last so little that the numbers stay as they are, such as 0.1 in float32.
    """
    if tolerance > COARSE:
        return 0.003, 0.01, 0.03, 0.1
    return 10 * tolerance, min(1e3 * tolerance, 0.1), tolerance


def _within_errors(short, found, errors):
    """Whether the numbers of the names are those found, up to what rounding may have done."""
    for length, kinds in found.items():
        largest = max(abs(c) for by_key in kinds.values() for c in by_key.values())
        for kind, by_key in kinds.items():
            for key, c in by_key.items():
                allowed = ERRORS * errors[length][kind][key] + COARSE * largest
                if abs(short[length].get(kind, {}).get(key, 0.0) - c) > allowed:
                    return False
    return True


def _is_felt(fitting):
    """Whether all trees together follow one of the KLs, though no tree's expectation shows it.

    In a coarse format each is lost in the rounding.
    """
    for length in sorted({sample.length for sample in fitting}):
        known = [s for s in fitting if s.length == length and s.size > 0]
        if not known:
            continue
        samples = [(sample.blocks, sample.size) for sample in known]
        found, errors, _ = fit(samples, [_chosen(FELT, sample.bases) for sample in known])
        if any(
            abs(c) > ERRORS * errors[kind][key]
            for kind, by_key in found.items()
            for key, c in by_key.items()
        ):
            return True
    return False


def _chosen(kinds, bases):
    """{kind: basis}, without what later costs do where they do not count."""
    return {
        kind: {key: block for key, block in bases[kind].items() if later or key[0] == key[1]}
        for kind, later in kinds
    }


def _pieces(kinds, found, tolerance):
    """Named pieces of the coefficients {T: {kind: {(t, u): c}}}.

    What is negligible beside the largest is left out.
    """
    largest = {
        length: max(abs(c) for by_key in kinds_of.values() for c in by_key.values())
        for length, kinds_of in found.items()
    }
    pieces = []
    for kind, _ in kinds:
        matrices = {}
        for length, kinds_of in found.items():
            matrices[length] = np.zeros((length, length))
            for key, c in kinds_of[kind].items():
                matrices[length][key] = c if abs(c) > tolerance * largest[length] else 0.0
        if not any(matrix.any() for matrix in matrices.values()):
            continue
        if kind in (SEQUENCE_FORWARD, REWARD) or kind.endswith("the teacher's prefixes"):
            one = kind if kind in (SEQUENCE_FORWARD, REWARD) else f"sum of {kind}"
            vectors = {length: np.diag(matrix) for length, matrix in matrices.items()}
            pieces += position_pieces(kind, one, vectors, tolerance)
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
