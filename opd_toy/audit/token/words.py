"""A ``TokenReport`` in sentences."""

import numpy as np

from opd_toy.audit import report as shared
from opd_toy.audit.formats import COARSE, TOLERANCES
from opd_toy.audit.report import OTHER, number, vector
from opd_toy.audit.token.names import NONE, ZERO

NEAREST = "nearest: {name} (mean cosine {cosine}, {ratio} times its length)"
NEARLY = (
    "on ordinary pairs it is {scale} × {name} to within {off} (root mean square), but not exactly"
)
HOLDS_UP_TO = (
    "holds on every pair up to |log p/q| = {limit}, not on all farther apart or with rarer tokens"
)
SHOWN_ON = "shown on {pairs} pairs (seed {seed}), V = {smallest} to {largest}, {reach}; {drawn}"
COMPUTES_IN = "computes in {precision}"
UNSEEN = "; a bias below {tolerance} {of} cannot be seen"
VARIANCE = "variance of single draws there: {own} (GKD 0, plain policy gradient {plain})"
VALUE = "its value in expectation: {value_is}; identical models score {score}{meaning}"
DESCENT = (
    "descent from the book's student is at {where} after {steps}{settled}: "
    "KL(p‖q) {reverse}, KL(q‖p) {forward}"
)


NOT_ALONE = "looks at more than log p/q: tokens of one log-ratio have weights of their own"
NOT_ONE = "on each pair a function of log p/q alone, and another one from pair to pair"
NOT_INCREASING = (
    "a function of log p/q alone, but no divergence: its weight falls between "
    "log p/q = {start} and {end}"
)
WEIGHT = "its weight w(log p/q), less w(0): {points}"
POINTS = (-4, -2, -1, -0.5, 0.5, 1, 2, 4)
MIXED = "on each pair a sum of {first} and {second}, {weights} at the book's pair, {law}"
FACTOR = "the factor is {law}"
ACTS_ON = "a draw acts on {what}"


def text(report):
    """The verdict and what it rests on, in at most some 25 lines."""
    return shared.text(report, _lines(report))


def _lines(report):
    if report.also:
        yield f"that is {report.also}"
    if report.factor and report.factor not in report.optimises:
        yield FACTOR.format(law=report.factor)
    yield from _how_far_it_holds(report)
    yield from _what_it_is(report)
    if report.with_other_tokens:
        other = OTHER[report.drawn_from]
        yield f"with tokens drawn from the {other}: {report.with_other_tokens}"
    drawn = "the whole vocabulary, whatever the token"
    if report.uses_token:
        drawn = f"tokens enumerated as drawn from the {report.drawn_from}"
    yield SHOWN_ON.format(
        pairs=report.pairs,
        seed=report.seed,
        smallest=report.vocabularies[0],
        largest=report.vocabularies[-1],
        reach=_reach(report),
        drawn=drawn,
    )
    of = "of single draws" if report.optimises == ZERO else "of the gradient"
    unseen = UNSEEN.format(tolerance=number(report.tolerance, 1), of=of)
    yield COMPUTES_IN.format(precision=report.precision) + (unseen if report.tolerance else "")
    yield f"expected gradient at the book's pair: {vector(report.expected_gradient)}"
    plain = report.variance_compared["plain policy gradient"]
    yield VARIANCE.format(own=number(report.variance), plain=number(plain))
    distances = (f"{name}: {_distance(entry)}" for name, entry in report.bias.items())
    yield "distance from " + ", from ".join(distances)
    yield _value(report)
    yield _fixed_point(report.fixed_point)
    if report.teacher_gradient:
        yield f"the gradient also reaches the teacher's logits: {shared.TEACHER_LEARNS}"
    if report.touches_inputs:
        yield f"changes {' and '.join(report.touches_inputs)} in place"


def _reach(report):
    """How far apart the pairs were, for the direction that each number holds of."""
    each = ", ".join(f"{over} up to {number(end, 3)}" for over, end in report.reach.items())
    return each or f"|log p/q| up to {number(report.farthest, 2)}"


def _how_far_it_holds(report):
    if report.optimises == NONE:
        near = report.nearest
        ratio = number(near["norm_ratio"])
        yield NEAREST.format(name=near["name"], cosine=_cosine(near["cosine"]), ratio=ratio)
        close = report.bias.get(near["name"], {"at_best_scale": None})
        off = close["at_best_scale"]
        if off is not None and off < 1e-3:
            scale = number(close["best_scale"])
            yield NEARLY.format(scale=scale, name=near["name"], off=number(off, 1))
    elif not report.holds_everywhere and report.holds_up_to != report.farthest:
        yield HOLDS_UP_TO.format(limit=number(report.holds_up_to, 3))


def _what_it_is(report):
    """Without a name, what is known; then the weight's curve, where the report has one."""
    weight = report.weight
    if report.optimises == NONE:
        if report.mixture:
            first, second = report.mixture
            yield MIXED.format(
                first=first["name"],
                second=second["name"],
                weights=" and ".join(number(term["at_notes_pair"], 3) for term in report.mixture),
                law="by no law that was tried",
            )
        elif report.ratio_alone is False:
            yield NOT_ALONE
        elif report.ratio_alone and not weight:
            yield NOT_ONE
        elif weight and not weight["increasing"]:
            yield NOT_INCREASING.format(**_falls(weight))
        if report.acts_on:
            yield ACTS_ON.format(what=report.acts_on)
    if weight:
        yield WEIGHT.format(points=_points(weight))


def _falls(weight):
    """Between which log-ratios the curve falls farthest."""
    values = np.array(weight["weight"])
    top = int(np.argmax(np.maximum.accumulate(values) - values))
    start = int(np.argmax(values[: top + 1]))
    return {
        "start": number(weight["log_ratio"][start], 3),
        "end": number(weight["log_ratio"][top], 3),
    }


def _points(weight):
    """ "w(−1.12) = −0.8, ...": the curve near some round log-ratios."""
    ratios = np.array(weight["log_ratio"])
    nearest = {int(np.argmin(np.abs(ratios - point))) for point in POINTS}
    shown = sorted(nearest)
    return ", ".join(
        f"w({number(ratios[index], 3)}) = {number(weight['weight'][index], 3)}" for index in shown
    )


def _distance(entry):
    given = f"{number(entry['as_given'], 3)} of its length"
    if entry["at_best_scale"] is None:
        return given
    return f"{given} ({number(entry['at_best_scale'], 3)} at the best scale)"


def _value(report):
    meaning = report.value_at_teacher["is"]
    unknown = "no divergence or entropy"
    if TOLERANCES[report.precision] > COARSE:
        unknown = f"what it is cannot be told in {report.precision}"
    return VALUE.format(
        value_is=report.value_is or unknown,
        score=number(_small(report.value_at_teacher["value"]), 3),
        meaning=f" ({meaning})" if meaning and meaning != ZERO else "",
    )


def _fixed_point(fixed):
    at = "the gradient is 0 at student = teacher"
    if not fixed["is_fixed"]:
        relative = number(fixed["gradient_norm_relative"], 3)
        at = f"the gradient is not 0 at student = teacher: {relative} of an ordinary gradient"
    end = fixed["descent"]
    if end["steps"] == 0:
        return f"{at}; descent does not move the book's student"
    descent = DESCENT.format(
        where=vector(end["ends_at"], 3),
        steps="1 step" if end["steps"] == 1 else f"{end['steps']} steps",
        settled="" if end["settled"] else ", not settled",
        reverse=number(_small(end["reverse_kl"]), 3),
        forward=number(_small(end["forward_kl"]), 3),
    )
    return f"{at}; {descent}"


def _cosine(value):
    """Enough figures to tell it from 1."""
    return number(value, 3) if value < 0.999 else f"1 − {number(max(1 - value, 1e-16), 1)}"


def _small(value):
    return 0.0 if value is not None and abs(value) < 1e-9 else value
