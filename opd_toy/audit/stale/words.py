"""A ``StaleReport`` in sentences."""

from opd_toy.audit import report as shared
from opd_toy.audit.report import number, vector

FRESH = "on tokens that the student itself draws: {name}"
NOT_NEEDED = "it does not matter who drew the token: the gradient is the same for each"
EXACT = "its mean is that gradient exactly, if the behaviour can draw every token"
DESCENDS = "its mean descends KL(p‖q) − KL(p‖μ)"
NO_LAW = (
    "a token's gradient is not its fresh gradient times a factor of its ratio p/μ: "
    "it depends on the behaviour in another way"
)
COARSE = "who drew the tokens cannot be told in {precision}: hand it float32 or float64"
RESTS = "rests at the teacher, whoever drew the tokens"
PUSHES = "does not rest at the teacher"
AT = (
    "at the book's pair, tokens of μ = (.4, .3, .3): mean gradient {gradient}, "
    "off the fresh one by {bias} of its length"
)
VARIANCE = (
    "variance of one draw there: {own} (on fresh tokens {fresh}, plain policy gradient {plain})"
)
RATIOS = (0.1, 0.5, 0.9, 1, 1.1, 2)
SHOWN = (
    "shown on {triples} triples of student, teacher and behaviour and on walks of p/μ from "
    "0.002 to 480 (seed {seed}); tokens enumerated as drawn from the behaviour; computes in "
    "{precision}"
)


def text(report):
    """The verdict and what it rests on."""
    return shared.text(report, _lines(report))


def _lines(report):
    if report.on_fresh_tokens != report.optimises:
        yield FRESH.format(name=report.on_fresh_tokens)
    if report.correction == "not needed":
        yield NOT_NEEDED
    elif report.correction == "ratio" and report.cost == "recomputed":
        yield EXACT
    elif report.correction == "ratio" and report.on_fresh_tokens == "reverse KL":
        yield DESCENDS
    if report.correction == "other":
        yield from _factor(report)
    if report.correction is None:
        coarse = report.precision not in ("float64", "float32")
        yield COARSE.format(precision=report.precision) if coarse else NO_LAW
    yield RESTS if report.rests_at_teacher else PUSHES + _why(report)
    bias = "–" if report.bias is None else number(report.bias, 3)
    if report.bias is not None and report.bias < 1e-12:
        bias = "0"
    yield AT.format(gradient=vector(report.expected_gradient), bias=bias)
    compared = report.variance_compared
    yield VARIANCE.format(
        own=number(report.variance),
        fresh=number(compared["the same on fresh tokens"]),
        plain=number(compared["plain policy gradient"]),
    )
    yield SHOWN.format(triples=report.triples, seed=report.seed, precision=report.precision)


def _factor(report):
    """The factor at some round ratios, for either sign of the cost where they differ."""
    points = {
        sign: ", ".join(f"{number(_at(pieces, ratio), 3)} at {ratio:g}" for ratio in RATIOS)
        for sign, pieces in report.pieces.items()
    }
    if len(set(points.values())) == 1:
        points = {"p/μ": next(iter(points.values()))}
    yield "the factor is " + "; ".join(f"{text} ({name})" for name, text in points.items())


def _at(pieces, ratio):
    piece = next(piece for piece in pieces if ratio <= piece["up_to"])
    return piece["level"] * ratio ** piece["power"]


def _why(report):
    return ": the cost is the rollout's" if report.cost == "kept" else ""
