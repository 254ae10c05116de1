"""``audit_sequence``: what a loss on whole sequences optimises, by calling it on all sequences of small trees.

Each gradient is laid on the prefixes that its sequence passes: the table of all draws
(S, P), exact.  Its expectation is put together from exact gradients by least squares
(``sequence_identify``); the coefficients are a credit matrix, which cost each token pays
for.  They are found on some trees and must hold on others, of other sizes and lengths.
"""

import textwrap
import warnings
from dataclasses import dataclass

import numpy as np

from opd_toy import _validate, objectives
from opd_toy.audit import calling, report
from opd_toy.audit.calling import AuditError
from opd_toy.audit.sequence.bases import FORWARD, LOCAL, REVERSE, REWARD, SEQUENCE_FORWARD, combine
from opd_toy.audit.sequence.calls import OF_A_DRAW, SequenceCall, columns_of, tabulate
from opd_toy.audit.sequence.masks import name_batch, name_mask, observe_batch, observe_mask
from opd_toy.audit.sequence.names import factor_text, in_words
from opd_toy.audit.sequence.verdict import COARSE, explain
from opd_toy.audit.token.verdict import CLOSE, NONE
from opd_toy.sequences import TokenTree, reward_to_go, sequence_kl, token_costs, token_kls
from opd_toy.sequences.trees import along_sequences

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
# Standard deviation of the logits; 1 elsewhere.  Where sizes are tried, nearness is not.
SPREAD = {"far": 6.0, "long": 0.25, "wide": 0.25, "close fit": 0.25, "close confirm": 0.25}
ROLES = [*TREES, "close fit", "close confirm"]
MASKED = " where nothing is masked"
SLACK = {"far": 100, "long": 10, "wide": 10}  # times the tolerance, for more rounding there


@dataclass(frozen=True)
class SequenceReport:
    """What ``audit_sequence`` found.  All numbers are exact expectations over the sequences, in nats.

    ``optimises``: what the loss's expected gradient is the gradient of, factor in front;
    "zero"; or "none of these".  "Sequence" and "expected" objectives count what a token does
    to all that follows; sums of "local" ones hold the prefixes passed fixed.
    ``objective``, ``scale``: the same apart, where it is one objective; the scale "c(T)"
    follows no known law of T.  ``holds_everywhere``: on trees far off too.
    ``credit`` (T, T) at T = 3, row t: the weights of the costs ``credit_of`` that the token
    at t pays for; ``credits`` for every length; None where they are not known.
    ``carried`` (T, T) at T = 3: the weights of the sampled costs in a single draw, where the
    past may appear, which the expectation loses; None where draws are of another form.
    ``unbiased_for``: {objective: factor}, if on every tree, those far off too, and with masks.
    ``bias``: for each objective the relative distance of the gradient from it at the best
    positive scale, over the trees with T = 3.  ``nearest``: the one with the largest cosine.
    ``with_other_tokens``: the verdict with sequences drawn from the other of the two,
    where this one is "zero" or "none of these"; divergences with a parameter left out.
    On the reference trees, V = T = 3: ``expected_gradient`` (P,), the total ``variance`` of
    one draw, ``variance_compared``: known estimators' of the same scale.
    ``value_is``: what the loss's value is in expectation.  ``fixed_point``: length of the
    expected gradient at student = teacher, relative to a draw's at the reference trees.
    ``mask``, ``batch``: {"normalised_by", ...}, None where the loss takes none.
    ``edges``: [{"edge", "severity", "finding"}], severity "broken", "note" or "fine".
    ``farthest``: the largest |log p/q| of a token that is drawn at all often; what is clipped beyond it is not seen.
    ``tolerance``: on every ordinary pair of trees, relative to the length of the expected
    gradient; for "zero" and in half precision, to the root mean square of a draw.
    ``condition``: worst condition number of the least squares.
    """

    optimises: str
    objective: str | None
    scale: str | None
    holds_everywhere: bool
    credit: np.ndarray | None
    credit_of: str | None
    credits: dict | None
    carried: np.ndarray | None
    unbiased_for: dict
    bias: dict
    nearest: dict
    with_other_tokens: str | None
    expected_gradient: np.ndarray
    variance: float
    variance_compared: dict
    value_is: str | None
    fixed_point: float
    mask: dict | None
    batch: dict | None
    edges: list
    touches_inputs: tuple
    teacher_gradient: bool
    uses_tokens: bool
    drawn_from: str
    precision: str
    tolerance: float
    condition: float
    lengths: tuple
    vocabularies: tuple
    pairs: int
    farthest: float
    calls: int
    seed: int

    def to_dict(self):
        return report.plain(self)

    def to_json(self):
        """The fields as JSON; NaN and infinities are null."""
        return report.as_json(self)

    def __str__(self):
        return sequence_text(self)

    def _repr_html_(self):
        return sequence_html(self)


def audit_sequence(loss, *, drawn_from="student", reward=None, batched=False, seed=0):
    """What ``loss(student_logits (T, V), teacher_logits (T, V), tokens (T,)[, mask (T,)])`` optimises -> SequenceReport.

    Row t holds the logits of the token at position t, given those before it; the mask is 1
    at valid positions.  A loss of two arguments looks at the whole vocabulary.
    ``batched``: all arguments have a batch axis in front.  Every sequence of seeded random
    trees is enumerated, as drawn from ``drawn_from`` ("student" or "teacher").
    ``reward``: the function of tokens (T,) -> number that the loss itself uses, so that
    E[R grad log p] can be recognised.  AuditError for a loss that cannot be audited.
    """
    _validate.choice("drawn_from", drawn_from, ("student", "teacher"))
    seed = _validate.whole("seed", seed, least=0)
    if reward is not None and not callable(reward):
        raise AuditError(
            f"reward is {reward!r}; give the function of tokens (T,) that returns the number the loss uses"
        )
    call = SequenceCall(loss, batched)
    batch = observe_batch(call, seed) if batched else None
    mask = observe_mask(call, seed) if call.takes_mask else None
    copies = 2 if batch and batch["shared"] else 1
    plan = TREES_OF_PAIRS if copies == 2 else TREES

    def tabulated(role, nearness=""):
        return [
            tabulate(call, *pair, drawn_from, reward, copies)
            for pair in trees(plan[role], nearness + role, seed)
        ]

    fitting, confirming, with_reward = tabulated("fit"), tabulated("confirm"), reward is not None
    ordinary = fitting + confirming
    _refuse(call, ordinary)

    found = calling.precision(*[sample.table for sample in ordinary])
    # A loss that works in two precisions is held to the coarser only if it must be.
    for precision in dict.fromkeys([found, *call.coarser_formats(found)]):
        tolerance = calling.TOLERANCES[precision]
        verdict = explain(fitting, ordinary, drawn_from, with_reward, tolerance)
        if verdict.name != NONE:
            break
    close_only = False
    if (
        verdict.name == NONE and tolerance <= COARSE
    ):  # half precision cannot tell close divergences apart
        close = tabulated("fit", "close ")
        nearby = explain(
            close, close + tabulated("confirm", "close "), drawn_from, with_reward, tolerance
        )
        close_only = nearby.name not in (NONE, "zero")
        verdict = nearby if close_only else verdict
    beyond, problems = {}, {}
    for role in SLACK:
        beyond[role], refused = _beyond(call, plan[role], role, seed, drawn_from, reward, copies)
        problems[role] = (
            refused
            if role == "far" and refused
            else _problem(verdict, beyond[role], tolerance, SLACK[role])
        )
    reference = next(sample for sample in fitting if sample.student.length == 3)
    same = tabulate(call, reference.student, reference.student, drawn_from, reward, copies)
    call.check_unchanged()

    refuted = verdict.name != NONE and any(problems[role] for role in ("long", "wide"))
    name = NONE if refuted else verdict.name
    credits, credit_of = verdict.credits()
    mask = mask and name_mask(mask, verdict.per_token)
    batch = batch and name_batch(batch, mask, verdict.per_token)
    bias, nearest = _compare(fitting, with_reward)
    if name == "zero":  # else these are of rounding
        bias, nearest = dict.fromkeys(bias, 1.0), {**nearest, "cosine": 0.0, "norm_ratio": 0.0}
    limits = (
        CLOSE if problems["far"] or close_only else "",
        MASKED if mask and not mask["respected"] else "",
    )
    partly = name != NONE and any(limits)
    facts = {
        "optimises": name + "".join(limits) if partly else name,
        "objective": verdict.objective if not partly and not refuted else None,
        "scale": verdict.scale if not refuted else None,
        "holds_everywhere": name != NONE and not partly,
        "credit": None if credits is None else credits[3],
        "credit_of": credit_of,
        "credits": credits,
        "carried": _carried(fitting, tolerance)
        if drawn_from == "student" and copies == 1
        else None,
        "unbiased_for": {}
        if partly or name == NONE
        else _unbiased_for(ordinary, beyond, verdict, with_reward, tolerance),
        "bias": bias,
        "nearest": nearest,
        "with_other_tokens": _with_other_tokens(
            verdict, fitting, confirming, drawn_from, with_reward, tolerance
        )
        if call.arguments > 2 and not close_only
        else None,
        "expected_gradient": reference.expected,
        "variance": reference.variance,
        "variance_compared": _known_variances(reference, verdict, copies)
        if drawn_from == "student"
        else {},
        "value_is": _value_is(ordinary, tolerance),
        "fixed_point": float(np.linalg.norm(same.expected)) / reference.size
        if reference.size
        else 0.0,
        "touches_inputs": tuple(sorted(call.touched)),
        "teacher_gradient": call.teacher_gradient,
        "uses_tokens": call.arguments > 2,
        "condition": verdict.condition,
    }
    edges = _edges(facts, problems, verdict, close_only, tolerance, drawn_from, mask, batch)
    return SequenceReport(
        **facts, mask=mask, batch=batch, edges=edges, drawn_from=drawn_from, precision=precision, tolerance=_seen_from(ordinary, name, tolerance),
        lengths=tuple(sorted({sample.student.length for sample in ordinary})), vocabularies=tuple(sorted({sample.student.vocabulary for sample in ordinary})),
        pairs=len(ordinary), farthest=max(_farthest(sample) for sample in ordinary + beyond["far"]), calls=call.count, seed=seed,
    )  # fmt: skip


def trees(sizes, role, seed):
    """Pairs of random trees; every role and seed has its own."""
    start = 4000 * seed + 400 * ROLES.index(role)
    for vocabulary, length, many in sizes:
        for _ in range(many):
            student, teacher = (
                TokenTree.random(vocabulary, length, start + side, SPREAD.get(role, 1.0))
                for side in (0, 1)
            )
            if role.startswith("close"):  # to each other, and not flat
                teacher = TokenTree.random(vocabulary, length, start + 1)
                student = TokenTree(
                    tuple(z + apart for z, apart in zip(teacher.logits, student.logits))
                )
            yield student, teacher
            start += 2


def _refuse(call, samples):
    if not any(sample.gradients for sample in samples):
        raise call.no_gradient
    for sample in samples:
        wrong = np.argwhere(~np.isfinite(sample.table).all(axis=1))
        if len(wrong):
            tokens = (
                sample.student.tokens()[wrong[0, 0]].tolist()
                if len(sample.table) == len(sample.student.tokens())
                else "a pair of sequences"
            )
            raise AuditError(
                f"the gradient is not finite at ordinary logits (T = {sample.student.length}, V = {sample.student.vocabulary}, tokens {tokens}): look for 0/0, log(0) or 0 × inf, "
                "such as the standard deviation of equal numbers, or of one"
            )


def _beyond(call, sizes, role, seed, drawer, reward, copies):
    """Samples of a kind that a loss may refuse, and the refusal's words or None."""
    samples, refused = [], None
    for pair in trees(sizes, role, seed):
        try:
            with warnings.catch_warnings(action="ignore"):
                samples.append(tabulate(call, *pair, drawer, reward, copies))
        except AuditError as error:
            refused = f"the loss raised {type(error.__cause__ or error).__name__}: {str(error.__cause__ or error).splitlines()[0]}"
    # One token, no standard deviation: what a loss makes of T = 1 is not held against it.
    return [
        sample for sample in samples if role == "far" or np.isfinite(sample.table).all()
    ], refused


def _problem(verdict, samples, tolerance, slack):
    """What goes wrong with the verdict on these samples: words, or None."""
    for sample in samples:
        if not np.isfinite(sample.table).all():
            return f"the gradient is not finite for {int((~np.isfinite(sample.table)).any(axis=1).sum())} of {len(sample.table)} sequences"
        if verdict.name == NONE or not sample.size or not verdict.known_at(sample.student.length):
            continue
        coefficients = verdict.coefficients(sample.student.length)
        off = sample.left_over(
            coefficients, tolerance, verdict.bases(sample) if verdict.bases else {}
        )
        if off > slack * tolerance:
            return f"what is left over is {off:.2g} of the gradient"
    return None


def _farthest(sample):
    """The largest |log p/q| of a token that is drawn more than once in a million times where it can be."""
    logs = zip(sample.student.log_probabilities, sample.teacher.log_probabilities)
    return max(
        float(np.abs(a - b)[(a if sample.drawer == "student" else b) > np.log(1e-6)].max())
        for a, b in logs
    )


def _seen_from(ordinary, name, tolerance):
    """The relative tolerance, on the worst of the trees; of a draw for zero and in half precision."""
    if name == "zero" or tolerance > COARSE:
        return tolerance * (OF_A_DRAW[tolerance] if name == "zero" else 1.0)
    return max(
        tolerance * sample.yard(tolerance) / max(float(np.linalg.norm(sample.expected)), 1e-300)
        for sample in ordinary
        if sample.size
    )


# --- beside the verdict ----------------------------------------------------------------


def _with_other_tokens(verdict, fitting, confirming, drawer, with_reward, tolerance):
    if verdict.name not in (NONE, "zero"):
        return None
    other = {"student": "teacher", "teacher": "student"}[drawer]
    fitting, confirming = (
        [sample.drawn_by(other) for sample in samples] for samples in (fitting, confirming)
    )
    name = explain(
        fitting, fitting + confirming, other, with_reward, tolerance, families=False
    ).name
    return None if name in (NONE, "zero") else name


def _targets(with_reward):
    """{objective: {kind, with or without later costs}} that an estimator may be unbiased for."""
    targets = {
        "sequence reverse KL": (REVERSE, True),
        "sum of local reverse KLs": (REVERSE, False),
        "sequence forward KL": (SEQUENCE_FORWARD, False),
        "sum of local forward KLs": (FORWARD, False),
    }
    return targets | ({REWARD: (REWARD, False)} if with_reward else {})


def _target(sample, kind, future):
    wanted = {key: 1.0 for key in sample.bases[kind] if future or key[0] == key[1]}
    return np.concatenate(
        [block.ravel() for block in combine({kind: wanted}, sample.bases, sample.student.length)]
    )


def _unbiased_for(ordinary, beyond, verdict, with_reward, tolerance):
    """{objective: text of the factor} where expected = factor(T) times its gradient on every tree, those beyond too."""
    found = {}
    for name, target in _targets(with_reward).items():
        if (
            tolerance > COARSE and name != verdict.objective
        ):  # the verdict has looked closer than a tree's rounding
            continue
        factors = {}
        for sample, slack in [(sample, 1) for sample in ordinary] + [
            (sample, SLACK[role]) for role, samples in beyond.items() for sample in samples
        ]:
            if not np.isfinite(sample.table).all():
                break
            gradient = _target(sample, *target)
            factor = factors.setdefault(
                sample.student.length, float(sample.expected @ gradient / (gradient @ gradient))
            )
            if np.linalg.norm(
                sample.expected - factor * gradient
            ) > slack * tolerance * sample.yard(tolerance) or abs(factor) * np.linalg.norm(
                gradient
            ) <= sample.rounding(tolerance):
                break
        else:
            text, _ = (
                (verdict.scale, None)
                if tolerance > COARSE
                else factor_text(
                    {
                        length: factors[length]
                        for length in {sample.student.length for sample in ordinary}
                    },
                    10 * tolerance,
                )
            )
            found[name] = "c(T)" if text is None else text or "1"
    return found


def _compare(fitting, with_reward):
    """({objective: distance}, nearest) over the fitting trees with T = 3, each divided by the size of a draw."""
    chosen = [sample for sample in fitting if sample.student.length == 3]
    expected = np.concatenate([sample.expected / (sample.size or 1.0) for sample in chosen])
    length, distance, cosines = float(np.linalg.norm(expected)), {}, {}
    for name, target in _targets(with_reward).items():
        gradient = np.concatenate(
            [_target(sample, *target) / (sample.size or 1.0) for sample in chosen]
        ) * (-1 if name == REWARD else 1)  # a reward is raised
        along = float(expected @ gradient) / float(gradient @ gradient)
        distance[name] = (
            float(np.linalg.norm(expected - max(along, 0.0) * gradient)) / length if length else 0.0
        )
        cosines[name] = (
            along * float(np.linalg.norm(gradient)) / length if length else 0.0,
            length / float(np.linalg.norm(gradient)),
        )
    best = max(cosines, key=lambda name: cosines[name][0])
    return distance, {"name": best, "cosine": cosines[best][0], "norm_ratio": cosines[best][1]}


def _known_variances(reference, verdict, copies):
    """Variances on the reference tree of known estimators, of the loss's own scale and number of draws."""
    piece = verdict.pieces[0] if len(verdict.pieces) == 1 and verdict.pieces[0].name else None
    factor = piece.coefficients[reference.student.length] ** 2 / copies if piece else 1.0 / copies
    estimators = {
        "exact local KLs": (0.0, "full_vocabulary"),
        "own sampled cost": (0.0, "sampled"),
        "exact local and later KLs": (1.0, "full_vocabulary"),
        "sampled reward-to-go": (1.0, "sampled"),
    }
    return {
        name: factor * reward_to_go(reference.student, reference.teacher, *how).total_variance()
        for name, how in estimators.items()
    }


def _carried(fitting, tolerance):
    """(3, 3): the factors of log p - log q of position u in what one draw adds to the score at t, any u; or None.

    Rows of the table are explained by scores times log-ratios, log-probabilities, exact
    KLs and 1, and by local gradients; None where that leaves anything over.
    """
    chosen = [sample for sample in fitting if sample.student.length == 3]
    carried = np.zeros((3, 3))
    for t in range(3):
        design, target = [], []
        for sample in chosen:
            student, teacher, tokens = sample.student, sample.teacher, sample.student.tokens()
            columns = columns_of(student)[:, t]
            p, q = (
                np.take(np.concatenate([row.ravel() for row in tree.probabilities]), columns)
                for tree in (student, teacher)
            )
            score = np.eye(student.vocabulary)[tokens[:, t]] - p
            logs = along_sequences(student, student.log_probabilities)
            costs = [
                *token_costs(student, teacher).T,
                *logs.T,
                *token_kls(student, teacher).T,
                np.ones(len(tokens)),
            ]
            if sample.rewards is not None:
                costs.append(sample.rewards)
            local = [gradient(p, q) for _, gradient in LOCAL.values()]
            design.append(
                np.stack([*(cost[:, None] * score for cost in costs), *local], axis=-1).reshape(
                    -1, len(costs) + len(local)
                )
            )
            target.append(np.take_along_axis(sample.table, columns, axis=1).ravel())
        design, target = np.concatenate(design), np.concatenate(target)
        lengths = np.linalg.norm(design, axis=0)
        solution = np.linalg.lstsq(design / lengths, target, rcond=None)[0] / lengths
        if np.linalg.norm(design @ solution - target) > tolerance * np.linalg.norm(target):
            return None
        seen = np.abs(solution) * lengths > min(1e3 * tolerance, 0.1) * np.linalg.norm(target)
        carried[t] = np.where(seen, solution, 0.0)[:3]
    return carried


def _value_is(ordinary, tolerance):
    """What the loss's value is on average, up to a factor: words, or None."""
    means = [float(sample.chances[sample.drawer] @ sample.values) for sample in ordinary]
    sizes = [
        float(np.sqrt(sample.chances[sample.drawer] @ sample.values**2)) for sample in ordinary
    ]
    if not np.isfinite(means).all():
        return None
    if all(abs(mean) <= tolerance * size for mean, size in zip(means, sizes)):
        return "0"
    meanings = {
        "sequence reverse KL": lambda sample: sequence_kl(sample.student, sample.teacher),
        "sequence forward KL": lambda sample: sequence_kl(sample.teacher, sample.student),
        "sequence cross-entropy with the teacher": lambda sample: sample.teacher.sequence_probabilities() @ -_sequence_logs(sample.student),
        "sequence entropy of the student": lambda sample: sample.student.sequence_probabilities() @ -_sequence_logs(sample.student),
        "expected sum of local forward KLs": lambda sample: sum(visit @ objectives.forward_kl(p, q) for visit, p, q in zip(sample.student.prefix_probabilities(), sample.student.probabilities, sample.teacher.probabilities)),
    }  # fmt: skip
    for name, meaning in meanings.items():
        factors = {}
        for sample, mean in zip(ordinary, means):
            expected = meaning(sample)
            factor = factors.setdefault(sample.student.length, mean / expected)
            if abs(mean - factor * expected) > 10 * tolerance * abs(mean):
                break
        else:
            text, _ = factor_text(factors, 100 * tolerance)
            return (
                f"c(T) × {name}"
                if text is None
                else f"{text} × {name}"
                if text not in ("", "1")
                else name
            )
    return None


def _sequence_logs(tree):
    return along_sequences(tree, tree.log_probabilities).sum(axis=1)


# --- words -----------------------------------------------------------------------------


def _edges(facts, problems, verdict, close_only, tolerance, drawn_from, mask, batch):
    found = []
    if facts["optimises"] == "zero":
        value = facts["value_is"]
        though = f", though its value is on average {value}" if value not in (None, "0") else ""
        found.append(
            (
                "expectation",
                "broken",
                f"the expected gradient is 0: with the {drawn_from}'s own sequences this loss teaches nothing{though}",
            )
        )
    for role, edge, where, what in (
        ("long", "longer sequences", "on longer sequences", "a return after some tokens"),
        ("wide", "vocabulary", "with a larger vocabulary", "all but the likeliest tokens"),
    ):
        if verdict.name != NONE and problems[role]:
            found.append(
                (
                    edge,
                    "broken",
                    f"on small trees this is {verdict.name}, but not {where}: {problems[role]}. Something is cut off, such as {what}",
                )
            )
    if problems["far"]:
        found.append(
            (
                "far off",
                "broken" if "not finite" in problems["far"] else "note",
                f"where student and teacher differ much (logits with standard deviation {SPREAD['far']:g}): {problems['far']}; clamps and small constants show there",
            )
        )
    elif verdict.name != NONE and not close_only:
        found.append(("far off", "fine", ""))
    if close_only:
        found.append(
            (
                "ordinary",
                "note",
                f"the verdict holds for logits that differ with standard deviation {SPREAD['close fit']:g}, not where they are drawn apart: costs or weights are clamped early",
            )
        )
    if facts["carried"] is not None and np.tril(facts["carried"], -1).any():
        found.append(
            (
                "past",
                "note",
                "a draw also carries costs of the past (`carried`, below the diagonal): they add nothing to the expectation, only variance",
            )
        )
    if not np.isfinite(facts["fixed_point"]):
        found.append(
            (
                "student = teacher",
                "broken",
                "the gradient is not finite there: 0/0, as where all costs are 0",
            )
        )
    elif facts["fixed_point"] > 100 * tolerance and not any(
        piece.kind == REWARD for piece in verdict.pieces
    ):  # rewards pull away
        found.append(
            (
                "student = teacher",
                "note",
                f"the expected gradient is not 0 there, but {facts['fixed_point']:.2g} of a draw's on other trees",
            )
        )
    else:
        found.append(("student = teacher", "fine", ""))
    if facts["teacher_gradient"]:
        found.append(
            (
                "teacher",
                "note",
                "a gradient reaches the teacher's logits too: detach them or run the teacher under torch.no_grad()",
            )
        )
    if facts["touches_inputs"]:
        found.append(
            ("inputs", "note", f"changes {' and '.join(facts['touches_inputs'])} in place")
        )
    if facts["condition"] > 1e4:
        found.append(
            (
                "bases",
                "note",
                f"they are nearly dependent (condition number {facts['condition']:.1g}): take the coefficients with care",
            )
        )
    for edge, part in (("mask", mask), ("batch", batch)):
        found += (
            [(edge, severity, words) for severity, words in part.pop("findings")] if part else []
        )
    return [dict(zip(("edge", "severity", "finding"), entry)) for entry in found]


MEANINGS = {
    "sequence reverse KL": "KL(student‖teacher) of whole sequences: a token also pays for what it leads to",
    "sum of local reverse KLs": "the partial gradient, on-policy GKD's: the prefixes passed are held fixed, no token pays for what it leads to",
    "sequence forward KL": "KL(teacher‖student) of whole sequences, as in SFT and SeqKD",
    "sum of local forward KLs": "the forward KL at the student's own prefixes, which are held fixed",
    "reverse KL with a discounted return": "between the local sum (γ = 0) and the sequence (γ = 1), biased for both",
}


def sequence_text(found):
    """The verdict and what it rests on."""
    return "\n".join(
        [
            f"optimises: {found.optimises}",
            *(f"  {line}" for line in _lines(found)),
            "edges:",
            *report.finding_lines(found.edges),
        ]
    )


def _lines(found):
    meanings = [
        words for name, words in MEANINGS.items() if (found.objective or "").split(", γ")[0] == name
    ]
    if meanings or found.scale == "1/T":
        yield "that is: " + "; ".join(
            meanings + ["1/T: the mean over tokens"] * (found.scale == "1/T")
        )
    if found.unbiased_for:
        yield "unbiased for " + ", ".join(
            name if factor == "1" else f"{factor} × {name}"
            for name, factor in found.unbiased_for.items()
        )
    elif found.optimises != "zero":
        yield "relative distance, at the best scale, from " + ", ".join(
            f"{name} {report.number(distance, 2)}" for name, distance in found.bias.items()
        )
    if found.optimises == NONE:
        yield f"nearest: {found.nearest['name']} (cosine {report.number(found.nearest['cosine'], 4)}, {report.number(found.nearest['norm_ratio'])} times its length)"
    if found.with_other_tokens:
        other = {"student": "teacher", "teacher": "student"}[found.drawn_from]
        yield f"with sequences drawn from the {other}: {found.with_other_tokens}"
    if found.credit is not None:
        yield f"who pays for which {found.credit_of}, T = 3:"
        yield from (f"  {line}" for line in in_words(found.credit))
    compared = ", ".join(
        f"{name} {report.number(variance)}" for name, variance in found.variance_compared.items()
    )
    yield f"variance of one draw: {report.number(found.variance)}" + (
        f" ({compared})" if compared else ""
    )
    if found.value_is:
        yield f"its value in expectation: {found.value_is}"
    for part, name in ((found.mask, "mask"), (found.batch, "batch")):
        if part:
            yield f"{name}: divided by {part['normalised_by']}"
    yield (
        f"shown on {found.pairs} pairs of trees (seed {found.seed}), T = {found.lengths[0]} to {found.lengths[-1]}, V = {found.vocabularies[0]} to {found.vocabularies[-1]}, |log p/q| up to {report.number(found.farthest, 2)}, "
        f"in {found.calls} calls; sequences enumerated as drawn from the {found.drawn_from}"
    )
    yield f"computes in {found.precision}; a bias below {report.number(found.tolerance, 1)} of {'a draw' if found.optimises == 'zero' or found.tolerance > COARSE else 'the gradient'} cannot be seen; condition of the least squares {report.number(found.condition, 2)}"


def sequence_html(found):
    from opd_toy.pages.page import figure

    if found.credit is None:
        alt = f"Relative distance of the expected gradient from each objective's: {', '.join(f'{name} {report.number(value, 2)}' for name, value in found.bias.items())}. Verdict: {found.optimises}."
        return report.page(
            str(found), figure(lambda style: draw_distances(found, style), alt=alt)._repr_html_()
        )
    alt = f"Credit matrix at T = 3, {found.credit_of}: {'; '.join(in_words(found.credit))}. Verdict: {found.optimises}."
    return report.page(
        str(found), figure(lambda style: draw_credit(found, style), alt=alt)._repr_html_()
    )


def draw_credit(found, style):
    """The credit matrix as a table of coloured cells, its numbers written in."""
    import matplotlib.pyplot as plt
    from matplotlib.colors import LinearSegmentedColormap

    colours = LinearSegmentedColormap.from_list(
        "credit", [style["reverse_kl"], style["paper"], style["student"]]
    )
    length, largest = len(found.credit), np.abs(found.credit).max() or 1.0
    drawn, axes = plt.subplots(figsize=(4.2, 3.2))
    axes.imshow(found.credit / (1.6 * largest), cmap=colours, vmin=-1, vmax=1)
    for (t, u), weight in np.ndenumerate(found.credit):
        axes.text(
            u,
            t,
            report.number(weight, 3) if u >= t else "",
            ha="center",
            va="center",
            color=style["ink"],
        )
    axes.set(
        xticks=range(length),
        xticklabels=range(1, length + 1),
        yticks=range(length),
        yticklabels=range(1, length + 1),
    )
    axes.set(
        xlabel="for the cost at position",
        ylabel="the token at position pays",
        title=_wrapped(found.optimises),
    )
    axes.grid(False)
    return drawn


def draw_distances(found, style):
    """How far the expected gradient is from each objective's."""
    import matplotlib.pyplot as plt

    drawn, axes = plt.subplots(figsize=(6, 2.6))
    axes.barh(list(found.bias), list(found.bias.values()), color=style["student"], height=0.6)
    axes.invert_yaxis()
    axes.set(
        xlabel="relative distance at the best scale",
        xlim=(0, 1.05),
        title=_wrapped(found.optimises),
    )
    return drawn


def _wrapped(text):
    return "\n".join(
        textwrap.wrap(text.replace(" = ", "\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}"), 48)
    )
