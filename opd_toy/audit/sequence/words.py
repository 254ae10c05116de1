"""A ``SequenceReport`` in sentences, and drawn."""

import textwrap

import numpy as np

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
SHOWN_ON = (
    "shown on {pairs} pairs of trees (seed {seed}), T = {shortest} to {longest}, "
    "V = {smallest} to {largest}, |log p/q| up to {farthest}, in {calls} calls; "
    "sequences enumerated as drawn from the {drawn_from}"
)
COMPUTES_IN = (
    "computes in {precision}; a bias below {tolerance} of {of} cannot be seen; "
    "condition of the least squares {condition}"
)
ALT_DISTANCES = (
    "Relative distance of the expected gradient from each objective's: {distances}. "
    "Verdict: {optimises}."
)
ALT_CREDIT = "Credit matrix at T = 3, {credit_of}: {rows}. Verdict: {optimises}."


def text(report):
    """The verdict and what it rests on."""
    return shared.text(report, _lines(report))


def _lines(report):
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
    if report.unbiased_for:
        yield "unbiased for " + ", ".join(
            name if factor == "1" else f"{factor} × {name}"
            for name, factor in report.unbiased_for.items()
        )
    elif report.optimises != ZERO:
        yield f"relative distance, at the best scale, from {_distances(report)}"
    if report.optimises == NONE:
        near = report.nearest
        cosine, ratio = number(near["cosine"]), number(near["norm_ratio"])
        yield NEAREST.format(name=near["name"], cosine=cosine, ratio=ratio)


def _distances(report):
    return ", ".join(f"{name} {number(distance, 2)}" for name, distance in report.bias.items())


def html(report):
    """The report on a notebook's page."""
    if report.credit is None:
        alt = ALT_DISTANCES.format(distances=_distances(report), optimises=report.optimises)
        return shared.page(report, draw_distances, alt)
    rows = "; ".join(in_words(report.credit))
    alt = ALT_CREDIT.format(credit_of=report.credit_of, rows=rows, optimises=report.optimises)
    return shared.page(report, draw_credit, alt)


def draw_credit(report, style):
    """The credit matrix as a table of coloured cells, its numbers written in."""
    import matplotlib.pyplot as plt
    from matplotlib.colors import LinearSegmentedColormap

    colours = LinearSegmentedColormap.from_list(
        "credit", [style["reverse_kl"], style["paper"], style["student"]]
    )
    length, largest = len(report.credit), np.abs(report.credit).max() or 1.0
    drawn, axes = plt.subplots(figsize=(4.2, 3.2))
    axes.imshow(report.credit / (1.6 * largest), cmap=colours, vmin=-1, vmax=1)
    for (t, u), weight in np.ndenumerate(report.credit):
        label = number(weight, 3) if u >= t else ""
        axes.text(u, t, label, ha="center", va="center", color=style["ink"])
    axes.set(
        xticks=range(length),
        xticklabels=range(1, length + 1),
        yticks=range(length),
        yticklabels=range(1, length + 1),
        xlabel="for the cost at position",
        ylabel="the token at position pays",
        title=_wrapped(report.optimises),
    )
    axes.grid(False)
    return drawn


def draw_distances(report, style):
    """How far the expected gradient is from each objective's."""
    import matplotlib.pyplot as plt

    drawn, axes = plt.subplots(figsize=(6, 2.6))
    axes.barh(list(report.bias), list(report.bias.values()), color=style["student"], height=0.6)
    axes.invert_yaxis()
    axes.set(
        xlabel="relative distance at the best scale",
        xlim=(0, 1.05),
        title=_wrapped(report.optimises),
    )
    return drawn


def _wrapped(title):
    unbroken = title.replace(" = ", "\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}")
    return "\n".join(textwrap.wrap(unbroken, 48))
