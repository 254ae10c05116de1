"""The PyTorch code of a formula of “Your loss”; ``your_loss_code.js`` is its twin."""

import keyword
import re

LISTS = {
    "p": "student_logits.softmax(-1)",
    "q": "teacher_logits.softmax(-1).detach()",
    "z": "student_logits",
    "t": "teacher_logits.detach()",
}
LOGARITHMS = {
    "log_p": "student_logits.log_softmax(-1)",
    "log_q": "teacher_logits.log_softmax(-1).detach()",
}
ADDING, MULTIPLYING, NEGATING, RAISING, CLOSE = range(2, 7)  # how tightly a code binds
LEVELS = {"+": ADDING, "-": ADDING, "*": MULTIPLYING, "/": MULTIPLYING, "^": RAISING}
METHODS = {
    **{name: f".{name}()" for name in ("log", "exp", "sqrt", "abs", "sigmoid", "tanh")},
    **{name: f".{name}(-1)" for name in ("softmax", "log_softmax")},
    "sum": ".sum()",
    "mean": ".mean()",
    "sg": ".detach()",
}
OURS = ("loss", "token", "student_logits", "teacher_logits", "math", "torch", *LOGARITHMS)
RESERVED = {*keyword.kwlist, *OURS}  # names of the reader's own that PyTorch's code cannot have


def torch_code(formula):
    """The definition of ``loss`` in PyTorch, as text, of a Formula."""
    writer = _Writer()
    body = []
    for name, node in formula.settings:
        body.append(f"{_identifier(name)} = {writer.code(node)[0]}")
    body.append(f"return {writer.code(formula.loss)[0]}")
    lines = [line for name, line in writer.LINES.items() if name in writer.used]
    drawn = ", token" if "k" in writer.used else ""
    imports = [f"import {name}" for name in ("math", "torch") if name in writer.used]
    head = "\n".join(imports) + "\n\n\n" if imports else ""
    return (
        f"{head}def loss(student_logits, teacher_logits{drawn}):\n"
        + "\n".join(f"    {line}" for line in [*lines, *body])
        + "\n"
    )


def _identifier(name):
    return f"{name}_" if name in RESERVED else name


class _Writer:
    LINES = {
        **{name: f"{name} = {code}" for name, code in (LOGARITHMS | LISTS).items()},
        "V": "V = student_logits.shape[-1]",
    }

    def __init__(self):
        self.used = set()

    def use(self, name):
        self.used.add(name)
        return name

    def code(self, node):
        """-> (text, how tightly it binds)"""
        return getattr(self, f"_{node.kind}")(node)

    def within(self, node, least):
        text, level = self.code(node)
        return text if level >= least else f"({text})"

    def _number(self, node):
        return re.sub(r"^0+(?=\d)", "", node.name), CLOSE

    def _name(self, node):
        if node.name in self.LINES:
            return self.use(node.name), CLOSE
        return _identifier(node.name), CLOSE

    def _minus(self, node):
        return f"-{self.within(node.parts[0], NEGATING)}", NEGATING

    def _at(self, node):
        self.use("k")
        return f"{self.within(node.parts[0], CLOSE)}[token]", CLOSE

    def _op(self, node):
        level = LEVELS.get(node.name, 1)
        word = "**" if node.name == "^" else node.name
        left, right = (level, level + 1) if node.name != "^" else (CLOSE, NEGATING)
        left, right = self.within(node.parts[0], left), self.within(node.parts[1], right)
        return f"{left} {word} {right}", level

    def _of(self, node):
        name, parts = node.name, node.parts
        inner = parts[0]
        if name == "log" and inner.kind == "name" and f"log_{inner.name}" in LOGARITHMS:
            return self.use(f"log_{inner.name}"), CLOSE
        if name == "where":
            return self.where(*parts), CLOSE
        if node.plain:
            return self.plain(name, [self.code(part)[0] for part in parts]), CLOSE
        if name in METHODS:
            return self.within(inner, CLOSE) + METHODS[name], CLOSE
        if name == "clamp":
            bounds = ", ".join(self.code(part)[0] for part in parts[1:])
            return f"{self.within(inner, CLOSE)}.clamp({bounds})", CLOSE
        if len(parts) == 1:
            return f"{self.within(inner, CLOSE)}.a{name}()", CLOSE
        tensors = [part for part in parts if not part.plain]
        if len(tensors) == 1:  # torch.minimum takes tensors alone
            bound = next(self.code(part)[0] for part in parts if part.plain)
            side = {"min": "max", "max": "min"}[name]
            return f"{self.within(tensors[0], CLOSE)}.clamp({side}={bound})", CLOSE
        both = ", ".join(self.code(part)[0] for part in parts)
        return f"{self.use('torch')}.{name}imum({both})", CLOSE

    def plain(self, name, codes):
        """Of numbers alone, which PyTorch's functions do not take."""
        if name == "sg":
            return f"({codes[0]})"
        if name == "sigmoid":
            return f"(1 / (1 + {self.use('math')}.exp(-({codes[0]}))))"
        if name == "clamp":
            return f"min(max({codes[0]}, {codes[1]}), {codes[2]})"
        if name in ("abs", "min", "max"):
            return f"{name}({', '.join(codes)})"
        return f"{self.use('math')}.{name}({codes[0]})"

    def where(self, condition, first, second):
        codes = [self.code(part)[0] for part in (first, second)]
        test = self.code(condition)[0]
        if first.plain and second.plain:  # else in float32
            codes = [f"student_logits.new_tensor({code})" for code in codes]
        return f"{self.use('torch')}.where({test}, {', '.join(codes)})"
