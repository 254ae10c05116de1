"""What stands beside a verdict on sequences: distances, variances, the past, values."""

import numpy as np

from opd_toy import objectives
from opd_toy.audit.formats import COARSE
from opd_toy.audit.sequence.bases import FORWARD, LOCAL, REVERSE, REWARD, SEQUENCE_FORWARD, combine
from opd_toy.audit.sequence.names import factor_text
from opd_toy.audit.sequence.samples import columns_of
from opd_toy.sequences import reward_to_go, sequence_kl, token_costs, token_kls
from opd_toy.sequences.trees import along_sequences

# {objective: (kind, with or without later costs)} that an estimator may be unbiased for.
TARGETS = {
    "sequence reverse KL": (REVERSE, True),
    "sum of local reverse KLs": (REVERSE, False),
    "sequence forward KL": (SEQUENCE_FORWARD, False),
    "sum of local forward KLs": (FORWARD, False),
}
ESTIMATORS = {
    "exact local KLs": (0.0, "full_vocabulary"),
    "own sampled cost": (0.0, "sampled"),
    "exact local and later KLs": (1.0, "full_vocabulary"),
    "sampled reward-to-go": (1.0, "sampled"),
}


def unbiased_for(measured, verdict, tolerance, slack):
    """{objective: text of the factor} where expected = factor(T) times its gradient.

    On every tree, those beyond the ordinary ones too, with ``slack`` {role: times the tolerance}.
    """
    samples = [(sample, 1) for sample in measured.ordinary]
    samples += [(s, slack[role]) for role, found in measured.beyond.items() for s in found.samples]
    ordinary = {sample.length for sample in measured.ordinary}
    found = {}
    for name, target in _targets(measured).items():
        if tolerance > COARSE and name != verdict.objective:
            continue  # the verdict has looked closer than a tree's rounding
        factors = _factors(samples, target, tolerance)
        if factors is None:
            continue
        text = verdict.scale
        if tolerance <= COARSE:
            known = {length: factors[length] for length in ordinary}
            text, _ = factor_text(known, 10 * tolerance)
        found[name] = "c(T)" if text is None else text or "1"
    return found


def _targets(measured):
    return TARGETS | ({REWARD: (REWARD, False)} if measured.with_reward else {})


def _target(sample, kind, later):
    """The gradient (P,) of an objective on a sample's trees."""
    wanted = {key: 1.0 for key in sample.bases[kind] if later or key[0] == key[1]}
    blocks = combine({kind: wanted}, sample.bases, sample.length)
    return np.concatenate([block.ravel() for block in blocks])


def _factors(samples, target, tolerance):
    """{T: factor} with which all samples follow the target; None where one does not."""
    factors = {}
    for sample, slack in samples:
        if not sample.is_finite:
            return None
        gradient = _target(sample, *target)
        along = float(sample.expected @ gradient / (gradient @ gradient))
        factor = factors.setdefault(sample.length, along)
        off = np.linalg.norm(sample.expected - factor * gradient)
        length = abs(factor) * np.linalg.norm(gradient)
        allowed = slack * tolerance * sample.reference_length(tolerance)
        if off > allowed or length <= sample.rounding(tolerance):
            return None
    return factors


def compared(measured, zero):
    """{"bias", "nearest"} over the fitting trees with T = 3, each divided by a draw's size.

    Of a ``zero`` gradient nothing but rounding would be compared, and of none at all nothing.
    """
    targets = _targets(measured)
    chosen = [sample for sample in measured.fitting if sample.length == 3]
    expected = np.concatenate([sample.expected / (sample.size or 1.0) for sample in chosen])
    length = float(np.linalg.norm(expected))
    if zero or not length:
        nothing = {"name": next(iter(targets)), "cosine": 0.0, "norm_ratio": 0.0}
        return {"bias": dict.fromkeys(targets, 1.0), "nearest": nothing}
    bias, nearest = {}, []
    for name, target in targets.items():
        gradient = np.concatenate([_target(s, *target) / (s.size or 1.0) for s in chosen])
        gradient = -gradient if name == REWARD else gradient  # a reward is raised
        along = float(expected @ gradient) / float(gradient @ gradient)
        off = float(np.linalg.norm(expected - max(along, 0.0) * gradient))
        size = float(np.linalg.norm(gradient))
        bias[name] = off / length
        cosine = along * size / length
        nearest.append({"name": name, "cosine": cosine, "norm_ratio": length / size})
    return {"bias": bias, "nearest": max(nearest, key=lambda entry: entry["cosine"])}


def known_variances(measured, verdict):
    """Variances on the reference trees of known estimators, of the loss's scale and draws."""
    if measured.drawn_from != "student":
        return {}
    reference, factor = measured.reference, 1.0 / measured.copies
    if len(verdict.pieces) == 1:  # without a name its coefficients are 1
        factor *= verdict.pieces[0].coefficients[reference.length] ** 2
    trees = reference.student, reference.teacher
    return {
        name: factor * reward_to_go(*trees, *how).total_variance()
        for name, how in ESTIMATORS.items()
    }


def carried(measured, tolerance):
    """(3, 3): the factors of log p - log q of position u in what one draw adds to the score at t.

    Any u, the past too.  Rows of the table are explained by scores times log-ratios,
    log-probabilities, exact KLs and 1, and by local gradients; None where that leaves
    anything over, and where a row is not one sequence of the student's.
    """
    if measured.drawn_from != "student" or measured.copies > 1:
        return None
    chosen = [sample for sample in measured.fitting if sample.length == 3]
    found = np.zeros((3, 3))
    for t in range(3):
        parts = [_row_equations(sample, t) for sample in chosen]
        design, target = (np.concatenate(part) for part in zip(*parts))
        lengths, size = np.linalg.norm(design, axis=0), np.linalg.norm(target)
        solution = np.linalg.lstsq(design / lengths, target, rcond=None)[0] / lengths
        if np.linalg.norm(design @ solution - target) > tolerance * size:
            return None
        seen = np.abs(solution) * lengths > min(1e3 * tolerance, 0.1) * size
        found[t] = np.where(seen, solution, 0.0)[:3]
    return found


def _row_equations(sample, t):
    """(design, target) for the rows of a table at position t; the first columns: log-ratios."""
    student, teacher, tokens = sample.student, sample.teacher, sample.student.tokens()
    columns = columns_of(student)[:, t]
    p, q = (
        np.take(np.concatenate([row.ravel() for row in tree.probabilities]), columns)
        for tree in (student, teacher)
    )
    score = np.eye(student.vocabulary)[tokens[:, t]] - p
    costs = [
        *token_costs(student, teacher).T,
        *along_sequences(student, student.log_probabilities).T,
        *token_kls(student, teacher).T,
        np.ones(len(tokens)),
        *([] if sample.rewards is None else [sample.rewards]),
    ]
    local = [gradient(p, q) for _, gradient in LOCAL.values()]
    design = np.stack([*(cost[:, None] * score for cost in costs), *local], axis=-1)
    target = np.take_along_axis(sample.table, columns, axis=1).ravel()
    return design.reshape(-1, len(costs) + len(local)), target


def value_is(ordinary, tolerance):
    """What the loss's value is on average, up to a factor: words, or None."""
    means, sizes = [], []
    for sample in ordinary:
        chances = sample.chances[sample.drawer]
        means.append(float(chances @ sample.values))
        sizes.append(float(np.sqrt(chances @ sample.values**2)))
    if not np.isfinite(means).all():
        return None
    if all(abs(mean) <= tolerance * size for mean, size in zip(means, sizes)):
        return "0"
    for name, meaning in VALUES.items():
        factors = _value_factors(ordinary, means, meaning, tolerance)
        if factors is not None:
            text, _ = factor_text(factors, 100 * tolerance)
            text = "c(T)" if text is None else text
            return name if text in ("", "1") else f"{text} × {name}"
    return None


def _value_factors(ordinary, means, meaning, tolerance):
    """{T: factor} with which the means are ``meaning(student, teacher)``, else None."""
    factors = {}
    for sample, mean in zip(ordinary, means):
        expected = meaning(sample.student, sample.teacher)
        factor = factors.setdefault(sample.length, mean / expected)
        if abs(mean - factor * expected) > 10 * tolerance * abs(mean):
            return None
    return factors


def _cross_entropy(tree, student):
    """Of whole sequences drawn from ``tree``."""
    logs = along_sequences(student, student.log_probabilities).sum(axis=1)
    return tree.sequence_probabilities() @ -logs


def _local_forward_kls(student, teacher):
    """Expected sum at the student's prefixes."""
    rows = zip(student.prefix_probabilities(), student.probabilities, teacher.probabilities)
    return sum(visit @ objectives.forward_kl(p, q) for visit, p, q in rows)


VALUES = {
    "sequence reverse KL": sequence_kl,
    "sequence forward KL": lambda student, teacher: sequence_kl(teacher, student),
    "sequence cross-entropy with the teacher": lambda student, teacher: _cross_entropy(
        teacher, student
    ),
    "sequence entropy of the student": lambda student, teacher: _cross_entropy(student, student),
    "expected sum of local forward KLs": _local_forward_kls,
}
