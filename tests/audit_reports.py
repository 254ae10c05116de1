"""Whole reports, word for word and number for number: audit_reports.txt beside this has them."""

from tests.written import check_text

WHOLE = {
    # of tests/audit_losses.py
    *("arguments swapped", "twice", "wrong sign", "one percent forward", "entropy bonus"),
    *("teacher's score alone", "weights detached", "mean over the vocabulary", "k1 as a loss"),
    *("k3 as a loss, at most 10", "k3 as a reward", "baseline of the token", "clamped at 5"),
    *("only odd tokens", "JSD", "temperature, T squared"),
    *("soft and hard", "top 2, tail", "forward on top 2, dropped", "KL above a margin"),
    *("mean squared logits", "epsilon in the logs", "total variation of the logits"),
    "soft labels",
    # of tests/test_audit_names.py
    *("χ²(p‖q)", "arctan", "half each on top 2", "entropy-aware", "floored at 1e-10", "uneven"),
    *("not increasing", "tanh, more where p is", "weights of two numbers"),
    # of tests/test_audit_limits.py
    *("floors under both", "refuses large logits"),
}
# What the text says already, or what is the same in all.
IN_TEXT = {"optimises", "edges", "expected_gradient", "variance", "variance_compared", "value_is"}
IN_TEXT |= {"touches_inputs", "teacher_gradient", "precision", "seed", "pairs", "reach", "call"}
IN_TEXT |= {"uses_token", "drawn_from", "vocabularies"}


def check_report(name, report):
    """AssertionError where the report is among those held whole, and another."""
    if name in WHOLE:
        check_text("audit_reports.txt", name, in_full(report))


def in_full(report, in_text=IN_TEXT):
    """The text, and a line for each field that it has nothing of, or not all."""
    rest = [
        f"{field}: {printed(value)}"
        for field, value in report.to_dict().items()
        if field not in in_text and value not in (None, {}, [])
    ]
    return "\n".join([str(report), *rest])


def printed(value):
    """Four figures, and 0 for what is rounding."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {printed(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, list):
        few = value if len(value) < 12 else value[:: len(value) // 6]
        return "[" + ", ".join(map(printed, few)) + "]"
    if isinstance(value, float):
        return f"{value if abs(value) >= 1e-10 else 0.0:.4g}"
    return str(value)
