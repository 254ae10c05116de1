"""``audit``: the gradient table of a loss of one token, by calling it on every token of many pairs."""

from dataclasses import dataclass

import numpy as np

from opd_toy import _validate, objectives
from opd_toy.audit import calling, report
from opd_toy.audit.token import edges
from opd_toy.audit.token import verdict as identify
from opd_toy.audit.token.candidates import Pairs
from opd_toy.distributions import entropy, log_ratio, softmax
from opd_toy.estimators import policy_gradient, total_variance

STUDENT = np.array([0.2, 0.3, 0.5])  # the notes' example
TEACHER = np.array([0.7, 0.2, 0.1])
# Vocabulary sizes and the standard deviation of the logits: close, ordinary, far apart, farther.
TIERS = (((3, 4, 5, 6), 0.2), ((3, 4, 5, 8, 3, 4, 5, 8), 1.0), ((3, 5, 4, 8), 4.0), ((3, 5), 12.0))
# How far the sum of the rows may be from 0, as a part of the rounding of which a verdict must be sure.
AROUND_ZERO = {"float64": 0.02, "float32": 0.3, "float16": 0.5, "bfloat16": 0.5}
# A loss that looks at the 32 likeliest tokens is the whole divergence on small vocabularies.
LARGE = {"token": 150, "all": 1000}
ROUNDING = {"float64": 2e-13, "float32": 1e-6, "float16": 1e-3, "bfloat16": 8e-3}
STEPS = 150
PEAKED = (
    3,
    5,
    8,
)  # vocabulary sizes of the last pairs, close but not flat; half precision cannot see their gradients


@dataclass(frozen=True)
class TokenReport:
    """What ``audit`` found.  All numbers are exact expectations over the tokens, in nats.

    ``optimises``: the objective whose gradient the loss follows in expectation, or
    "none of these"; where it follows it only there, " while the two are close" or, with a
    margin, " until they are close".  ``holds_everywhere``: on all pairs; else ``holds_up_to`` is the
    largest |log p/q| up to which it holds on every pair tried (None: on no pair).
    ``objective`` and ``parameters``: f of ``opd_toy.objectives`` and its arguments, where
    the verdict is ``scale`` times one of its divergences; ``terms``: the sum in general.
    ``with_other_tokens``: the verdict with tokens drawn from the other of the two.
    At the notes' pair: ``expected_gradient`` (3,), ``standard_deviation`` (3,) of single
    draws, their total ``variance`` (the sum of its squares),
    ``variance_compared``: GKD's and the plain policy gradient's of the same scale.
    ``bias``: for each KL the relative distance of the gradient from it over the ordinary
    pairs (root mean square), as given and with the best scale.  ``nearest``: the KL or
    JSD with the largest mean cosine.  ``value_is``: what the loss's value is in
    expectation; ``value_at_teacher``: its value at student = teacher.
    ``fixed_point``: gradient there, and where descent from the notes' student ends.
    ``edges``: [{"edge", "severity", "finding"}], severity "broken", "note" or "fine".
    ``tolerance``: how far off the gradient may be on an ordinary pair without being
    seen, relative to its own length, or for "zero" to the mean length of single draws.
    """

    optimises: str
    objective: str | None
    parameters: dict
    scale: float | None
    terms: list
    holds_everywhere: bool
    holds_up_to: float | None
    with_other_tokens: str | None
    expected_gradient: np.ndarray
    standard_deviation: np.ndarray
    variance: float
    variance_compared: dict
    bias: dict
    nearest: dict
    value_is: str | None
    value_at_teacher: dict
    fixed_point: dict
    edges: list
    deterministic: bool
    touches_inputs: tuple
    teacher_gradient: bool
    uses_token: bool
    drawn_from: str
    precision: str
    tolerance: float
    seed: int
    pairs: int
    vocabularies: tuple
    farthest: float

    def to_dict(self):
        return report.plain(self)

    def to_json(self):
        """The fields as JSON; NaN and infinities are null."""
        return report.as_json(self)

    def __str__(self):
        return report.token_text(self)

    def _repr_html_(self):
        return report.token_html(self)


@dataclass(frozen=True)
class Table:
    """The rows (V, V) and values (V,) of one pair's logits; one row and value where the loss takes no token."""

    student: np.ndarray
    teacher: np.ndarray
    tier: int
    fit: bool
    rows: np.ndarray
    values: np.ndarray
    touched: tuple = ()
    teacher_gradient: bool = False

    def weights(self, drawn_from):
        return (
            softmax(self.student if drawn_from == "student" else self.teacher)
            if len(self.rows) > 1
            else np.ones(1)
        )

    def expectation(self, drawn_from):
        return self.weights(drawn_from) @ self.rows

    def size(self, drawn_from):
        """Mean length of the rows: what rounding is measured by."""
        return float(self.weights(drawn_from) @ np.sqrt((self.rows**2).sum(axis=1)))


def audit(loss, *, drawn_from="student", seed=0):
    """What ``loss(student_logits (V,), teacher_logits (V,), token)`` optimises -> TokenReport.

    ``token`` is an int64 tensor without axes; a loss of two arguments looks at the
    whole vocabulary.  Every token of seeded random pairs is enumerated, so that the
    expectation over tokens of ``drawn_from`` ("student" or "teacher") is exact.
    AuditError for a loss that cannot be audited; see ``calling``.
    """
    _validate.choice("drawn_from", drawn_from, ("student", "teacher"))
    seed = _validate.whole("seed", seed, least=0)
    taken = calling.arguments_taken(loss, 3)
    probe = _probe(loss, taken)
    first = calling.check_deterministic(loss, *probe)
    tables = [tabulate(loss, taken, *pair) for pair in random_pairs(seed)]
    large = [
        tabulate(loss, taken, *pair)
        for pair in large_pairs(seed, LARGE["token" if taken == 3 else "all"])
    ]
    calling.check_unchanged(loss, first, *probe)
    _refuse_non_finite(tables + large)

    verdict, measured, precision, tables = _verdict(loss, taken, tables, large, drawn_from)
    notes = tables[0]
    other = {"student": "teacher", "teacher": "student"}[drawn_from]
    uses_token = any(
        (table.rows != table.rows[0]).any() or (table.values != table.values[0]).any()
        for table in tables
    )
    still = verdict.name == "zero"
    with_other = (
        _verdict(loss, taken, tables, large, other)[0].name
        if uses_token and (still or verdict.name == identify.NONE)
        else None
    )
    found = edges.findings(loss, taken, notes.expectation(drawn_from), drawn_from)
    margin = (
        not verdict.factor
        and calling.TOLERANCES[precision] < 1e-3
        and any(entry["edge"] == edges.CLOSE_BY and entry["severity"] != "fine" for entry in found)
    )
    limit = identify.CLOSE if not verdict.holds.all() else identify.MARGIN if margin else ""
    partly = bool(limit) and verdict.name not in (identify.NONE, "zero")
    everywhere = not partly and verdict.name != identify.NONE
    lengths = np.sqrt((measured.gradients**2).sum(axis=1))
    single = (
        verdict.terms[0]
        if len(verdict.terms) == 1 and not verdict.per_token and not verdict.factor
        else None
    )
    bias, nearest = compare(measured, still)
    scale = single[0] if single else None
    expected = lambda student, teacher: tabulate(loss, taken, student, teacher).expectation(
        drawn_from
    )
    plain = total_variance(STUDENT, policy_gradient(STUDENT, TEACHER)) * (scale or 1.0) ** 2
    return TokenReport(
        optimises=verdict.name + limit if partly else verdict.name,
        objective=single[1].objective if single and everywhere else None,
        parameters=dict(single[1].parameters) if single and everywhere else {},
        scale=scale,
        terms=[
            {
                "coefficient": coefficient,
                "name": term.name,
                "objective": term.objective,
                "parameters": dict(term.parameters),
            }
            for coefficient, term in verdict.terms
        ],
        holds_everywhere=everywhere,
        holds_up_to=_holds_up_to(measured.pairs.distance(), verdict.holds),
        with_other_tokens=with_other,
        expected_gradient=notes.expectation(drawn_from),
        standard_deviation=_deviation(notes, drawn_from),
        variance=float(total_variance(notes.weights(drawn_from), notes.rows)),
        variance_compared={"GKD": 0.0, "plain policy gradient": plain},
        bias=bias,
        nearest=nearest,
        value_is=identify.name_value(
            [
                _values(tables, measured.pairs, drawn_from),
                _values(large, measured.large.pairs, drawn_from),
            ],
            measured.tolerance,
            verdict.terms,
        ),
        **_at_the_teacher(
            loss,
            taken,
            tables,
            drawn_from,
            lengths[measured.tier <= 1],
            measured.tolerance,
            None if still else expected,
        ),
        edges=found,
        deterministic=True,
        touches_inputs=tuple(sorted({name for table in tables for name in table.touched})),
        teacher_gradient=any(table.teacher_gradient for table in tables),
        uses_token=uses_token,
        drawn_from=drawn_from,
        precision=precision,
        tolerance=_seen_from(measured, lengths, tables, drawn_from, still),
        seed=seed,
        pairs=len(tables) + len(large),
        vocabularies=tuple(sorted({len(table.student) for table in tables + large})),
        farthest=float(measured.pairs.distance().max()),
    )


def random_pairs(seed):
    """[(student_logits, teacher_logits, tier, fit)], the notes' pair first; half of each tier is for fitting."""
    random = np.random.default_rng(seed)
    found = [(np.log(STUDENT), np.log(TEACHER), 1, True)]
    for tier, (sizes, spread) in enumerate(TIERS):
        for index, size in enumerate(sizes):
            found.append(
                (*_pair(random, size, spread), tier, index < 4 if tier == 1 else index % 2 == 0)
            )
    found += [
        (*_alike(random, size, sharpness), 1, False) for size in (3, 5) for sharpness in (0.4, 2.0)
    ]
    return found + [(*_alike(random, size, 1.0, 0.2), 0, False) for size in PEAKED]


def large_pairs(seed, size):
    random = np.random.default_rng([seed, size])
    return [
        (*_pair(random, size, spread), tier, True) for tier, (_, spread) in enumerate(TIERS[:2])
    ]


def _pair(random, size, spread):
    while True:
        student, teacher = random.normal(0, spread, (2, size))
        if size > 8 or _gradients_seen(student, teacher):
            return student, teacher


def _alike(random, size, sharpness, apart=0.05):
    """A student that ranks the tokens as its teacher does, flatter or sharper: late in training, where losses clamped at zero go dead."""
    while True:
        teacher = random.normal(0, 1.2, size)
        student = sharpness * teacher + random.normal(0, apart, size)
        if _gradients_seen(student, teacher):
            return student, teacher


def _gradients_seen(student, teacher):
    """Whether both divergences have a gradient well above the rounding of half precision."""
    p, q = softmax(student), softmax(teacher)
    return (
        min(
            np.linalg.norm(f(p, q))
            for f in (objectives.forward_kl_logit_gradient, objectives.reverse_kl_logit_gradient)
        )
        > 0.06
    )


def tabulate(loss, taken, student, teacher, tier=1, fit=True):
    """-> Table.  A token without a gradient has a row of zeros, unless none of the tokens has one."""
    rows, values, touched, teacher_gradient, refusals = [], [], set(), False, []
    for token in _tokens(taken, len(student)):
        try:
            called = calling.gradient_of(loss, student, teacher, *token)
        except calling.NoGradient as refusal:
            refusals.append(refusal)
            rows.append(np.zeros(len(student)))
            values.append(refusal.value)
            continue
        rows.append(called.student_gradient)
        values.append(called.value)
        touched |= set(called.touched)
        teacher_gradient |= called.teacher_gradient is not None and bool(
            np.any(called.teacher_gradient)
        )
    if len(refusals) == len(rows) and tier == 1:
        raise refusals[0]
    return Table(
        student,
        teacher,
        tier,
        fit,
        np.array(rows),
        np.array(values),
        tuple(touched),
        teacher_gradient,
    )


def _probe(loss, taken):
    """Arguments of one call that has a gradient: the notes' pair, and the first token that is not left out."""
    notes = np.log(STUDENT), np.log(TEACHER)
    for token in _tokens(taken, len(STUDENT)):
        try:
            calling.gradient_of(loss, *notes, *token)
        except calling.NoGradient as refusal:
            last = refusal
        else:
            return *notes, *token
    raise last


def _tokens(taken, size):
    return [(np.array(token),) for token in range(size)] if taken == 3 else [()]


def measure(tables, drawn_from, precision):
    """-> identify.Measured; shorter pairs are filled up with -inf logits and gradients of 0."""
    width = max(len(table.student) for table in tables)
    pad = lambda row, filler: np.concatenate([row, np.full(width - len(row), filler)])
    pairs = Pairs(
        *(
            np.array([pad(getattr(table, side), -np.inf) for table in tables])
            for side in ("student", "teacher")
        )
    )
    with np.errstate(invalid="ignore", over="ignore"):
        gradients = np.array([pad(table.expectation(drawn_from), 0.0) for table in tables])
        sizes = np.array([table.size(drawn_from) for table in tables])
        values = np.array([table.weights(drawn_from) @ np.abs(table.values) for table in tables])
    # The logits are rounded as well, and a divergence is itself a difference of larger numbers.
    p, q, tier = pairs.p, pairs.q, np.array([table.tier for table in tables])
    ratio = np.sum(p * np.abs(log_ratio(p, q)), axis=1)
    logit = np.array(
        [max(np.abs(table.student).max(), np.abs(table.teacher).max()) for table in tables]
    )
    usual = np.median(sizes[tier == 1]) if (tier == 1).any() else 0.0
    rounding = ROUNDING[precision] * (sizes * (1 + ratio) + usual * logit + 0.1 * values)
    return identify.Measured(
        pairs,
        gradients,
        rounding,
        tier,
        np.array([table.fit for table in tables]),
        calling.TOLERANCES[precision],
        AROUND_ZERO[precision] * rounding,
    )


def _verdict(loss, taken, tables, large, drawn_from):
    """(verdict, what it was read from, precision, tables used); a loss that works in two precisions is held to the coarser only if it must be."""
    found = calling.precision(*[table.rows for table in tables])
    inside = calling.formats_inside(
        loss, tables[0].student, tables[0].teacher, *_tokens(taken, 3)[0]
    )
    coarser = [
        name
        for name in calling.TOLERANCES
        if name in inside and calling.TOLERANCES[name] > calling.TOLERANCES[found]
    ]
    for precision in dict.fromkeys([found, *coarser]):
        used = tables[: -len(PEAKED)] if calling.TOLERANCES[precision] > 1e-3 else tables
        measured = measure(used, drawn_from, precision)
        measured = identify.replace(measured, large=measure(large, drawn_from, precision))
        verdict = identify.identify(measured)
        if verdict.name != identify.NONE:
            break
    return verdict, measured, precision, used


def compare(measured, still):
    """(bias, nearest) over the ordinary pairs; see ``TokenReport``.  A gradient of 0 (``still``) is near nothing."""
    rows = measured.tier == 1
    pairs, gradients = measured.pairs[rows], measured.gradients[rows]
    length = lambda vectors: np.sqrt((vectors**2).sum(axis=1))
    gradient = {
        "forward KL": objectives.forward_kl_logit_gradient(pairs.p, pairs.q),
        "reverse KL": objectives.reverse_kl_logit_gradient(pairs.p, pairs.q),
        "JSD(β = 0.5)": objectives.generalized_jsd_logit_gradient(pairs.p, pairs.q, 0.5),
    }
    bias, likeness = {}, {}
    for name, base in gradient.items():
        unit = 1 / length(base)[:, None]
        best = float((gradients * base * unit**2).sum() / (base**2 * unit**2).sum())
        apart = lambda scale: float(
            np.sqrt(np.mean((length(gradients - scale * base) * unit[:, 0]) ** 2))
        )
        bias[name] = {
            "as_given": apart(1.0),
            "best_scale": None if still else best,
            "at_best_scale": apart(best) / abs(best) if best and not still else None,
        }
        sizes = np.maximum(length(gradients), 1e-300) * length(base)
        likeness[name] = {
            "name": name,
            "cosine": float(np.mean((gradients * base).sum(axis=1) / sizes)),
            "norm_ratio": float(np.median(length(gradients) * unit[:, 0])),
        }
    nearest = (
        {"name": None, "cosine": None, "norm_ratio": 0.0}
        if still
        else max(likeness.values(), key=lambda entry: entry["cosine"])
    )
    return {name: bias[name] for name in ("forward KL", "reverse KL")}, nearest


def _values(tables, pairs, drawn_from):
    """(pairs, expected values (N,), mean sizes (N,)) of the close and ordinary pairs."""
    chosen = [index for index, table in enumerate(tables) if table.tier <= 1]
    return pairs[chosen], *[
        np.array([tables[index].weights(drawn_from) @ f(tables[index].values) for index in chosen])
        for f in (np.array, np.abs)
    ]


def _seen_from(measured, lengths, tables, drawn_from, still):
    """The largest relative tolerance of the close and ordinary pairs."""
    sizes = np.array([table.size(drawn_from) for table in tables]) if still else lengths
    relative = np.divide(
        measured.zero if still else measured.rounding,
        sizes,
        out=np.zeros_like(sizes),
        where=sizes > 1e-14,
    ) + (0.0 if still else measured.tolerance)
    return float(relative[measured.tier <= 1].max())


def _deviation(table, drawn_from):
    weights = table.weights(drawn_from)
    return np.sqrt(weights @ (table.rows - weights @ table.rows) ** 2)


def _holds_up_to(distance, holds):
    """The largest distance up to which no pair fails; None if the closest does."""
    failing = distance[~holds].min(initial=np.inf)
    below = distance[distance < failing]
    return float(below.max()) if below.size else None


def _at_the_teacher(loss, taken, tables, drawn_from, lengths, tolerance, expected):
    """The loss at student = teacher, and descent from the notes' student (nowhere, where ``expected`` is None)."""
    teachers = [table.teacher for table in tables if table.tier == 1 and table.fit]
    same = [tabulate(loss, taken, teacher, teacher, tier=0) for teacher in teachers]
    values = np.array([table.weights(drawn_from) @ table.values for table in same])
    with np.errstate(invalid="ignore"):
        norms = [float(np.linalg.norm(table.expectation(drawn_from))) for table in same]
    typical = float(np.median(lengths)) or 1.0
    size = np.median([table.size(drawn_from) for table in same])
    entropies = np.array([entropy(softmax(teacher)) for teacher in teachers])
    share = values[0] / entropies[0]
    if (np.abs(values) <= max(1e-12, tolerance)).all():
        meaning = "zero"
    elif np.allclose(values, share * entropies, rtol=10 * tolerance, atol=0):
        meaning = (
            "the teacher's entropy"
            if abs(share - 1) < 10 * tolerance
            else f"{share:.6g} × the teacher's entropy"
        )
    elif np.allclose(values, values[0], rtol=10 * tolerance, atol=0):
        meaning = "a constant"
    else:
        meaning = None
    largest = max(norms)
    return {
        "value_at_teacher": {"value": float(values[0]), "is": meaning},
        "fixed_point": {
            "is_fixed": bool(largest <= max(tolerance, 1e-12) * max(typical, size)),
            "gradient_norm": norms[0],
            "gradient_norm_relative": largest / typical,
            "descent": descend(expected or (lambda student, teacher: np.zeros(3)), tolerance),
        },
    }  # fmt: skip


def descend(expected, tolerance):
    """Descent on the expected gradient from the notes' student: where it ends, its KLs to the teacher, steps, and whether it settled."""
    teacher, z = np.log(TEACHER), np.log(STUDENT)
    gradient = expected(z, teacher)
    start = np.linalg.norm(gradient)
    # As long a step as plain descent of a KL of the same strength bears; halved where it overshoots.
    rate = 2 * np.linalg.norm(STUDENT - TEACHER) / start if start > 0 else 0.0
    steps = 0
    while steps < STEPS and np.linalg.norm(gradient) > max(1e-8, tolerance) * start:
        z = z - rate * gradient
        z = z - z.max()
        if not (np.isfinite(z).all() and np.abs(z).max() < 500):
            break
        following = expected(z, teacher)
        if not np.isfinite(following).all():
            break
        if following @ gradient < 0:
            rate /= 2
        gradient, steps = following, steps + 1
    p = (
        softmax(np.where(np.isfinite(z), z, -np.inf))
        if np.isfinite(z).any()
        else np.full(3, np.nan)
    )
    known = np.isfinite(p).all()
    return {
        "ends_at": p,
        "forward_kl": float(objectives.forward_kl(p, TEACHER)) if known else None,
        "reverse_kl": float(objectives.reverse_kl(p, TEACHER)) if known else None,
        "steps": steps,
        "settled": bool(np.linalg.norm(gradient) <= max(1e-8, tolerance) * start),
    }


def _refuse_non_finite(tables):
    for table in tables:
        if table.tier > 1:
            continue
        wrong = ~np.isfinite(table.values) | ~np.isfinite(table.rows).all(axis=1)
        if wrong.any():
            token = int(np.argmax(wrong))
            what = (
                f"its value is {float(table.values[token])!r}"
                if not np.isfinite(table.values[token])
                else f"its gradient is {table.rows[token].tolist()!r}"
            )
            where = f", token {token}" if len(table.rows) > 1 else ""
            raise calling.AuditError(
                f"the loss is not finite at ordinary logits: {what} for student_logits {np.round(table.student, 3).tolist()!r}, teacher_logits {np.round(table.teacher, 3).tolist()!r}{where}. "
                "Look for a log of 0, a division by 0, or logits taken for probabilities"
            )
