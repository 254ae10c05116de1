"""Reports as text, JSON and a notebook page."""

import dataclasses
import html
import json
import math

import numpy as np

MARK = {"broken": "!!", "note": " !", "fine": "  "}


def plain(value):
    """Dataclasses, arrays and tuples as dicts, lists, floats and strings; NaN and infinities as None."""
    if dataclasses.is_dataclass(value):
        return {
            field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    if isinstance(value, dict):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def as_json(report):
    return json.dumps(plain(report), indent=2, ensure_ascii=False, allow_nan=False)


def number(value, digits=4):
    """A number in prose: four figures, a true minus sign, a dash for none."""
    if value is None:
        return "–"
    if math.isnan(value):
        return "NaN"
    text = f"{float(value):.{digits}g}".replace("inf", "infinity")
    return "−" + text[1:] if text.startswith("-") and float(text) else text.removeprefix("-")


def vector(values, digits=4):
    return (
        "("
        + ", ".join(number(0.0 if abs(value) < 1e-12 else float(value), digits) for value in values)
        + ")"
    )


def finding_lines(findings):
    """The findings that matter, then one line that names the edges where all is well."""
    lines = [
        f"  {MARK[entry['severity']]} {entry['edge']}: {entry['finding']}"
        for entry in findings
        if entry["severity"] != "fine"
    ]
    fine = [entry["edge"] for entry in findings if entry["severity"] == "fine"]
    return lines + ([f"     fine: {'; '.join(fine)}"] if fine else [])


def token_text(report):
    """The verdict and what it rests on, in at most some 25 lines."""
    return "\n".join(
        [
            f"optimises: {report.optimises}",
            *(f"  {line}" for line in _verdict_lines(report)),
            "edges:",
            *finding_lines(report.edges),
        ]
    )


def _verdict_lines(report):
    sizes = report.vocabularies
    if report.optimises == "none of these":
        near = report.nearest
        yield f"nearest: {near['name']} (mean cosine {_cosine(near['cosine'])}, {number(near['norm_ratio'])} times its length)"
        close = report.bias.get(near["name"], {"at_best_scale": None})
        if close["at_best_scale"] is not None and close["at_best_scale"] < 1e-3:
            yield f"on ordinary pairs it is {number(close['best_scale'])} × {near['name']} to within {number(close['at_best_scale'], 1)} (root mean square), but not exactly"
    elif not report.holds_everywhere and report.holds_up_to != report.farthest:
        yield f"holds on every pair up to |log p/q| = {number(report.holds_up_to, 3)}, not on all farther apart or with rarer tokens"
    if report.with_other_tokens:
        other = "teacher" if report.drawn_from == "student" else "student"
        yield f"with tokens drawn from the {other}: {report.with_other_tokens}"
    drawn = (
        f"tokens enumerated as drawn from the {report.drawn_from}"
        if report.uses_token
        else "the whole vocabulary, whatever the token"
    )
    yield f"shown on {report.pairs} pairs (seed {report.seed}), V = {sizes[0]} to {sizes[-1]}, |log p/q| up to {number(report.farthest, 2)}; {drawn}"
    of = "of single draws" if report.optimises == "zero" else "of the gradient"
    yield f"computes in {report.precision}; a bias below {number(report.tolerance, 1)} {of} cannot be seen"
    yield f"expected gradient at the notes' pair: {vector(report.expected_gradient)}"
    compared = report.variance_compared
    yield f"variance of single draws there: {number(report.variance)} (GKD 0, plain policy gradient {number(compared['plain policy gradient'])})"
    yield "distance from " + ", from ".join(
        f"{name}: {number(entry['as_given'], 3)} of its length"
        + (
            f" ({number(entry['at_best_scale'], 3)} at the best scale)"
            if entry["at_best_scale"] is not None
            else ""
        )
        for name, entry in report.bias.items()
    )
    at_teacher = report.value_at_teacher
    meaning = f" ({at_teacher['is']})" if at_teacher["is"] and at_teacher["is"] != "zero" else ""
    yield f"its value in expectation: {report.value_is or 'no divergence or entropy'}; identical models score {number(_small(at_teacher['value']), 3)}{meaning}"
    yield _fixed_point(report.fixed_point)
    if report.teacher_gradient:
        yield "the gradient also reaches the teacher's logits: detach them or run the teacher under torch.no_grad()"
    if report.touches_inputs:
        yield f"changes {' and '.join(report.touches_inputs)} in place"


def _fixed_point(fixed):
    at = (
        "the gradient is 0 at student = teacher"
        if fixed["is_fixed"]
        else f"the gradient is not 0 at student = teacher: {number(fixed['gradient_norm_relative'], 3)} of an ordinary gradient"
    )
    end = fixed["descent"]
    if end["steps"] == 0:
        return f"{at}; descent does not move the notes' student"
    settled = "" if end["settled"] else ", not settled"
    return f"{at}; descent from the notes' student is at {vector(end['ends_at'], 3)} after {end['steps']} steps{settled}: KL(p‖q) {number(_small(end['reverse_kl']), 3)}, KL(q‖p) {number(_small(end['forward_kl']), 3)}"


def _cosine(value):
    """Enough figures to tell it from 1."""
    return number(value, 3) if value < 0.999 else f"1 − {number(max(1 - value, 1e-16), 1)}"


def _small(value):
    return 0.0 if value is not None and abs(value) < 1e-9 else value


def page(text, figure):
    """A report for a notebook: one figure (HTML) and the text under it; it takes the page's own colours."""
    body = (
        f'<pre style="white-space:pre-wrap;color:inherit;background:none">{html.escape(text)}</pre>'
    )
    return f'<div class="opd-audit">{figure}{body}</div>'


def token_html(report):
    from opd_toy.pages.page import figure

    gradient = vector(report.expected_gradient, 3)
    spread = math.sqrt(max(report.variance, 0.0))
    alt = (
        f"Expected gradient of the loss at the notes' pair, {gradient}, beside the forward KL's (−0.5, 0.1, 0.4) and the reverse KL's (−0.387, −0.082, 0.469). "
        f"Single draws have a standard deviation of {number(spread, 3)}. Verdict: {report.optimises}."
    )
    return page(
        str(report), figure(lambda style: draw_gradients(report, style), alt=alt)._repr_html_()
    )


def draw_gradients(report, style):
    """Expected gradient per token with one standard deviation of single draws, forward and reverse KL's beside it."""
    import matplotlib.pyplot as plt

    from opd_toy.objectives import forward_kl_logit_gradient, reverse_kl_logit_gradient
    from opd_toy.example import STUDENT, TEACHER

    tokens = np.arange(3)
    drawn, axes = plt.subplots(figsize=(6, 3))
    bars = (
        ("forward KL", forward_kl_logit_gradient(STUDENT, TEACHER), style["forward_kl"]),
        ("this loss", report.expected_gradient, style["muted"]),
        ("reverse KL", reverse_kl_logit_gradient(STUDENT, TEACHER), style["reverse_kl"]),
    )
    for place, (label, heights, colour) in enumerate(bars):
        axes.bar(tokens + 0.27 * (place - 1), heights, 0.25, color=colour, label=label)
    axes.errorbar(
        tokens,
        report.expected_gradient,
        yerr=report.standard_deviation,
        fmt="none",
        ecolor=style["ink"],
        capsize=4,
        linewidth=1.2,
    )
    axes.axhline(0, color=style["muted"], linewidth=1)
    axes.set(
        xticks=tokens,
        xticklabels=["t₁", "t₂", "t₃"],
        ylabel="gradient in the logit",
        title=f"follows: {report.optimises}",
    )
    axes.legend(loc="upper left", fontsize=9)
    return drawn
