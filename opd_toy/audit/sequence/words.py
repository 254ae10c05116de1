"""A ``SequenceReport`` in sentences."""

from opd_toy.audit import report as shared
from opd_toy.audit.formats import COARSE
from opd_toy.audit.report import OTHER, number
from opd_toy.audit.sequence.names import in_words
from opd_toy.audit.token.names import NONE, ZERO

MEANINGS = {
    "sequence reverse KL": (
        "KL(student‖teacher) of whole sequences: a token also pays for what it leads to"
    ),
    "sum of local reverse KLs": (
        "the partial gradient, on-policy GKD's: the prefixes passed are held fixed, "
        "no token pays for what it leads to"
    ),
    "sequence forward KL": "KL(teacher‖student) of whole sequences, as in SFT and SeqKD",
    "sum of local forward KLs": (
        "the forward KL at the student's own prefixes, which are held fixed"
    ),
    "reverse KL with a discounted return": (
        "between the local sum (γ = 0) and the sequence (γ = 1), biased for both"
    ),
}
MEAN_OVER_TOKENS = "1/T: the mean over tokens"
NEAREST = "nearest: {name} (cosine {cosine}, {ratio} times its length)"
FRESH = "on texts of the student's own, of which all that follows speaks: {name}"
SHOWN_ON = (
    "shown on {pairs} pairs of trees (seed {seed}), T = {shortest} to {longest}, "
    "V = {smallest} to {largest}, |log p/q| up to {farthest}, in {calls} calls; "
    "sequences enumerated as drawn from the {drawn_from}"
)
COMPUTES_IN = (
    "computes in {precision}; a bias below {tolerance} of {of} cannot be seen; "
    "condition of the least squares {condition}"
)


def text(report):
    """The verdict and what it rests on."""
    return shared.text(report, _lines(report))


def _lines(report):
    if report.stale:
        yield FRESH.format(name=report.stale["on_fresh_texts"])
    yield from _what_it_is(report)
    if report.with_other_tokens:
        other = OTHER[report.drawn_from]
        yield f"with sequences drawn from the {other}: {report.with_other_tokens}"
    if report.credit is not None:
        yield f"who pays for which {report.credit_of}, T = 3:"
        yield from (f"  {line}" for line in in_words(report.credit))
    compared = ", ".join(
        f"{name} {number(variance)}" for name, variance in report.variance_compared.items()
    )
    own = f"variance of one draw: {number(report.variance)}"
    yield f"{own} ({compared})" if compared else own
    if report.value_is:
        yield f"its value in expectation: {report.value_is}"
    for part, name in ((report.mask, "mask"), (report.batch, "batch")):
        if part:
            yield f"{name}: divided by {part['normalised_by']}"
    yield SHOWN_ON.format(
        pairs=report.pairs,
        seed=report.seed,
        shortest=report.lengths[0],
        longest=report.lengths[-1],
        smallest=report.vocabularies[0],
        largest=report.vocabularies[-1],
        farthest=number(report.farthest, 2),
        calls=report.calls,
        drawn_from=report.drawn_from,
    )
    of_a_draw = report.optimises == ZERO or report.tolerance > COARSE
    yield COMPUTES_IN.format(
        precision=report.precision,
        tolerance=number(report.tolerance, 1),
        of="a draw" if of_a_draw else "the gradient",
        condition=number(report.condition, 2),
    )


def _what_it_is(report):
    name = (report.objective or "").split(", γ")[0]
    meanings = [MEANINGS[name]] if name in MEANINGS else []
    if report.scale == "1/T":
        meanings.append(MEAN_OVER_TOKENS)
    if meanings:
        yield "that is: " + "; ".join(meanings)
    if report.description:
        yield f"that is: {report.description}"
    if report.unbiased_for:
        yield "unbiased for " + ", ".join(
            name if factor == "1" else f"{factor} × {name}"
            for name, factor in report.unbiased_for.items()
        )
    elif report.optimises != ZERO:
        yield f"relative distance, at the best scale, from {distances(report)}"
    if report.optimises == NONE:
        near = report.nearest
        cosine, ratio = number(near["cosine"]), number(near["norm_ratio"])
        yield NEAREST.format(name=near["name"], cosine=cosine, ratio=ratio)


def distances(report):
    return ", ".join(f"{name} {number(distance, 2)}" for name, distance in report.bias.items())
