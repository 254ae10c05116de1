"""Formulas of “Your loss”: each with its tree, its PyTorch code, or what is wrong with it."""

from opd_toy.explorables.your_loss_code import torch_code
from opd_toy.explorables.your_loss_language import FormulaError, parse

RIGHT = (
    "p[k]",
    "-p[k]^2",
    "+-+p[k]",
    "2^p[k]^-2",
    "(2^p[k])^2",
    "p[k] - (q[k] - 1) - 2",
    "p[k] / (q[k] * 2) / 3",
    "(p[k] + q[k]) * -(1 - t[k])",
    "log p[k] + ln q[k] + log(p)[k] + log(z)[k]",
    "exp z[k] * log(z[k])",
    "sum(p * (log p - log q))",
    "Σ(p) · ∑(q) ÷ σ(z[k]) − √(p[k]) × 007.50",
    "sg(log p[k] - log q[k]) * log p[k]",
    "detach(sum(p)) * mean(z)",
    "softmax(z / 2)[k] * log_softmax(t)[k]",
    "max(p) - min(log p) + max(p[k], q[k]) - min(p[k], 2) + max(1, p[k])",
    "sum(max(p, 0.5) + min(p, q))",
    "sum(clamp(p, 0.1, 1 - .2)) + clamp(p[k], -1, V)",
    "sum(where(p > q, p, 0)) + where(p[k] ≥ 0.5, 1, 2) * p[k]",
    "where(p[k] <= q[k], 1, -1)*p[k] + where(z[k] != t[k], p[k], 3) + where(p[k] == q[k], 1, 2)",
    "where(p[k] ≠ 1, 1, 2)*where(p[k] ≤ 1, p[k], 2)*where(p[k] < 1, 1, 2)",
    "where(p[k] > q[k] + 1, 1, p[k]) + where(p[k] + 1 > q[k], p[k], 1)",
    "abs(p[k] - 1) + sqrt(p[k]) + sigmoid(p[k]) + tanh(p[k]) + exp(-p[k])",
    "abs(1 - 2) * max(1, 2) * p[k]",
    "p[k] * (exp(1) + sg(2) + sigmoid(3) + clamp(4, 5, 6) + abs(7) + min(8, 9) + log(V))",
    "m = 0.5*p + 0.5*q; sum(p*(log p - log m))",
    "b = 0.25\nm = (1 - b)*p\nloss = sum(m); loss*b + V",
    "lambda = 2; torch = p; sum(torch)*lambda;;\n",
    "(p[k]\n + 1\n)\n",
    "sum(p\n*q)",
    "1e-3*p[k] + .5E2*q[k] + 1.*z[k]",
    "p[k]**2 + p [ k ]",
)
WRONG = (
    "",
    " \n ",
    "p +",
    "2 * ) p",
    "sum(p*(log p - log q)",
    "sum(p, q)",
    "sum()",
    "clamp(p[k], 1)",
    "clamp(p[k], 1, 2, 3)",
    "min(p, 1, 2)",
    "max(p[k])",
    "max(1, p[k], )",
    "where(p > q, 1",
    "lgo p[k]",
    "log p^2",
    "exp (p)^2",
    "sum p",
    "k*log p[k]",
    "log p[2]",
    "log p[q]",
    "V[k]*p[k]",
    "(p > q)[k]*p[k]",
    "log p[k",
    "log p - log q",
    "sum(p[k])",
    "mean(2)",
    "where(p, 1, 2)",
    "where(2 > 1, p[k], 2)",
    "where(p[k] > 1, p > q, 2)",
    "sum(p > q)",
    "-(p > q)",
    "(p[k] > 1) + 2",
    "2 + (p[k] > 1)",
    "p[k] > 1",
    "p[k] > 1 > 2",
    "clamp(p[k], q[k], 1)",
    "clamp(p[k], 0, sum(q))",
    "sg(log p[k])",
    "log q[k]",
    "3",
    "log p[k] log q[k]",
    "log p[k] $ 2",
    "p[k]; q[k]",
    "p = 3; log p[k]",
    "V = 3; p[k]",
    "ln = 3; p[k]",
    "sum = 3; p[k]",
    "k = 3; p[k]",
    "m = p + q\nlog n[k]",
    "m = p > q; m[k]",
    "m = p",
    "m = p 3",
    "m = p\n\n n = q m[k]",
    "1e999*p[k]",
    "log log p[k]",
    "log -p[k]",
    "-" * 30 + "p[k]",
    "(" * 40,
    "+ ".join(["p[k]"] * 61),
    "log 🙂[k]",
    "p[k] +\n  2 )",
)
DEEP = ("-" * 29 + "p[k]", "+".join(["p[k]"] * 60))  # just as deep and as long as may be


def tree(node):
    flags = [name for name in ("truth", "plain", "learns", "drawn") if getattr(node, name)]
    said = " ".join([f"{node.kind} {node.name} at {node.position}: {node.shape}", *flags])
    return "\n".join(
        [said, *(f"  {line}" for part in node.parts for line in tree(part).split("\n"))]
    )


def formulas():
    blocks = []
    for text in RIGHT:
        found = parse(text)
        assert found.text == text
        settings = [f"{name} = {tree(node)}" for name, node in found.settings]
        blocks.append("\n".join([text, *settings, tree(found.loss), torch_code(found)]))
    for text in WRONG:
        try:
            parse(text)
        except FormulaError as error:
            assert (error.formula, error.expected in str(error)) == (text, True)
            place = f"line {error.line}, column {error.column}, position {error.position}"
            blocks.append(f"{text!r}: {place}\n{error}")
        else:
            blocks.append(f"{text!r} is read")
    for text in DEEP:
        blocks.append(f"{text[:40]}… is read: {parse(text).loss.kind}")
    return "\n\n".join(blocks)


FORMULA_TEXTS = {"formulas": formulas}
