"""The small language of “Your loss”: a loss of one position as a formula.

    sg(log p[k] - log q[k]) * log p[k]
    m = 0.5 * p + 0.5 * q; sum(0.5 * p * (log p - log m) + 0.5 * q * (log q - log m))

Lists over the V tokens: p, q (probabilities of student and teacher), z, t (their logits).  V is a
number, and [k] takes the drawn token's entry of a list.  ``your_loss_language.js`` is its twin:
the same trees and the same errors.  ``your_loss_code`` writes a formula in PyTorch, and
``opd_toy.audit.formulas`` makes a loss of that.
"""

import math
import re
from dataclasses import dataclass

NUMBER, LIST = "number", "list"
LISTS = {"p": True, "q": False, "z": True, "t": False}  # does it move with the student?
FUNCTIONS = {  # name: how many arguments
    **dict.fromkeys(("log", "exp", "sqrt", "abs", "sigmoid", "tanh", "sg"), (1,)),
    **dict.fromkeys(("sum", "mean", "softmax", "log_softmax"), (1,)),
    **dict.fromkeys(("min", "max"), (1, 2)),
    **dict.fromkeys(("clamp", "where"), (3,)),
}
SAME = {"ln": "log", "detach": "sg", "Σ": "sum", "∑": "sum", "σ": "sigmoid", "√": "sqrt"}
SPELLINGS = {
    **dict.fromkeys("−–", "-"),
    **dict.fromkeys("·×", "*"),
    "÷": "/",
    "**": "^",
    "≤": "<=",
    "≥": ">=",
    "≠": "!=",
}
COMPARISONS = ("<", ">", "<=", ">=", "==", "!=")
PREFIX = ("log", "exp")  # these need no parentheses before one name: log p[k]
OF_LIST = ("sum", "mean", "softmax", "log_softmax")
TOKEN = re.compile(
    r"(?P<number>\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)"
    r"|(?P<name>[A-Za-zΑ-Ωα-ω_][A-Za-zΑ-Ωα-ω0-9_]*|[∑√])"
    r"|(?P<mark>\*\*|<=|>=|==|!=|[-−–+*·×/÷^()\[\],;\n=<>≤≥≠])"
)

LONGEST, DEEPEST = 300, 30  # words and signs of a formula; operands within each other

OPERAND = "a number, a name such as p, a function or “(”"
KNOWN = "p, q, z, t, V, a name set before, or one of " + ", ".join(FUNCTIONS)
EXAMPLE = "a loss, such as sum(p*(log p - log q))"
ONE_NUMBER = "one number: add the list up by sum(…) or take the drawn token's entry by [k]"
NO_STUDENT = "p or z outside of sg(…): as it is, no gradient reaches the student"
TOO_LONG = f"the end: a formula has at most {LONGEST} words and signs"
TOO_DEEP = f"at most {DEEPEST} operands within each other"
NOT_COMPARED = "a number or a list; a comparison stands in where(…) alone"


class FormulaError(ValueError):
    """A formula that cannot be read: ``position`` in ``formula``, and what was ``expected``."""

    def __init__(self, formula, position, expected):
        self.formula, self.position, self.expected = formula, position, expected
        before = formula[:position]
        self.line, self.column = before.count("\n") + 1, position - before.rfind("\n")
        place = f"line {self.line}, column" if "\n" in formula.strip() else "column"
        line = formula.split("\n")[self.line - 1]
        super().__init__(
            f"{place} {self.column}: expected {expected}\n{line}\n{' ' * (self.column - 1)}^"
        )


@dataclass(frozen=True)
class Node:
    """A part of a formula.

    ``shape``: NUMBER or LIST; ``truth``: a comparison; ``plain``: of numbers and V alone;
    ``learns``: its gradient reaches the student; ``drawn``: it depends on the drawn token.
    """

    kind: str  # "number", "name", "of" (a function), "at" (an entry), "op", "minus"
    name: str
    parts: tuple = ()
    position: int = 0
    shape: str = NUMBER
    truth: bool = False
    plain: bool = False
    learns: bool = False
    drawn: bool = False


@dataclass(frozen=True)
class Formula:
    """``settings``: ((name, Node), ...) in their order; ``loss``: the last Node."""

    text: str
    settings: tuple
    loss: Node


def parse(text):
    """-> Formula.  FormulaError where it cannot be read."""
    return _Parser(text).program()


class _Parser:
    def __init__(self, text):
        self.text, self.place, self.own = text, 0, {}
        self.depth = self.nested = 0  # of parentheses, of operands
        self.tokens = self._tokens()  # (kind, text, position), the last one the end
        if len(self.tokens) > LONGEST:
            self.fail(TOO_LONG, self.tokens[LONGEST][2])

    def _tokens(self):
        found, at = [], 0
        while at < len(self.text):
            if match := TOKEN.match(self.text, at):
                word = SPELLINGS.get(match[0], match[0])
                found.append((match.lastgroup, word, at))
                at = match.end()
            elif self.text[at].isspace():
                at += 1
            else:
                found.append(("strange", self.text[at], at))
                at += 1
        return [*found, ("end", "", len(self.text.rstrip()))]

    # ---- reading ----

    @property
    def now(self):
        self.skip_lines()
        return self.tokens[self.place]

    def skip_lines(self):
        while self.depth and self.tokens[self.place][1] == "\n":
            self.place += 1  # within parentheses a line goes on

    def fail(self, expected, position=None):
        raise FormulaError(self.text, self.now[2] if position is None else position, expected)

    def take(self, *words):
        kind, word, _ = self.now
        if kind == "mark" and word in words:
            self.place += 1
            return word
        return None

    def need(self, word, expected):
        if not self.take(word):
            self.fail(expected)

    # ---- the grammar ----

    def program(self):
        settings = []
        while True:
            while self.take(";", "\n"):
                pass
            if self.now[0] == "end":
                self.fail(EXAMPLE)
            name, position = self.now[1:]
            following = self.tokens[self.place + 1 :][:1]
            if self.now[0] == "name" and following and following[0][1] == "=":
                if name in (*LISTS, *FUNCTIONS, *SAME, "k", "V"):
                    self.fail("a name of your own before “=”")
                self.place += 2
                self.own[name] = self.value(self.sum())
                settings.append((name, self.own[name]))
                if self.now[0] != "end" and not self.take(";", "\n"):
                    self.fail("an operator, or “;” and the loss")
                continue
            loss = self.comparison()
            while self.take(";", "\n"):
                pass
            if self.now[0] != "end":
                self.fail("an operator or the end")
            return Formula(self.text, tuple(settings), self.checked(loss, position))

    def checked(self, loss, position):
        self.value(loss)
        if loss.shape == LIST:
            self.fail(ONE_NUMBER, position)
        if not loss.learns:
            self.fail(NO_STUDENT, position)
        return loss

    def value(self, node):
        if node.truth:
            self.fail(NOT_COMPARED, node.position)
        return node

    def comparison(self):
        left = self.sum()
        position = self.now[2]
        if word := self.take(*COMPARISONS):
            return self.joined(word, left, self.sum(), position)
        return left

    def sum(self):
        return self.chain(("+", "-"), self.product)

    def product(self):
        return self.chain(("*", "/"), self.signed)

    def chain(self, words, operand):
        left = operand()
        while True:
            position = self.now[2]
            if not (word := self.take(*words)):
                return left
            left = self.joined(word, left, operand(), position)

    def signed(self):
        position = self.now[2]
        self.nested += 1
        if self.nested > DEEPEST:
            self.fail(TOO_DEEP)
        if self.take("+"):
            found = self.signed()
        elif self.take("-"):
            inner = self.value(self.signed())
            found = self.node("minus", "-", (inner,), position, inner.shape)
        else:
            found = self.power()
        self.nested -= 1
        return found

    def power(self):
        base = self.entry()
        position = self.now[2]
        if not self.take("^"):
            return base
        return self.joined("^", base, self.signed(), position)

    def joined(self, word, left, right, position):
        for part in (left, right):
            self.value(part)
        shape = LIST if LIST in (left.shape, right.shape) else NUMBER
        return self.node("op", word, (left, right), position, shape, word in COMPARISONS)

    def entry(self):
        inner = self.atom()
        while True:
            position = self.now[2]
            if not self.take("["):
                return inner
            if inner.shape != LIST or inner.truth:
                self.fail("a list over the tokens before “[”, such as p", position)
            if self.now[:2] != ("name", "k"):
                self.fail("k, the drawn token")
            self.place += 1
            self.need("]", "“]”")
            inner = self.node("at", "k", (inner,), inner.position, drawn=True)

    def atom(self):
        kind, word, position = self.now
        if kind == "number":
            self.place += 1
            if not math.isfinite(float(word)):
                self.fail("a finite number", position)
            return self.node("number", word, (), position, plain=True)
        if kind == "name":
            self.place += 1
            return self.named(SAME.get(word, word), position)
        if self.take("("):
            inner = self.inside()
            self.need(")", "an operator or “)”")
            return inner
        return self.fail(OPERAND)

    def inside(self):
        """What stands within parentheses, up to a comma or the end, over lines that end there."""
        self.depth += 1
        found = self.comparison()
        self.skip_lines()
        self.depth -= 1
        return found

    def named(self, name, position):
        if name in FUNCTIONS:
            return self.function(name, position)
        if name in LISTS:
            return self.node("name", name, (), position, LIST, learns=LISTS[name])
        if name == "V":
            return self.node("name", name, (), position, plain=True)
        if name == "k":
            self.fail("k in brackets alone, as in p[k]", position)
        if name not in self.own:
            self.fail(KNOWN, position)
        known = self.own[name]
        return self.node("name", name, (), position, known.shape, like=known)

    def function(self, name, position):
        if not self.take("("):
            if name not in PREFIX:
                self.fail(f"“(” after {name}")
            if self.now[1] in PREFIX:
                self.fail(f"a name, or “(” after {name}")
            argument = self.value(self.entry())
            if self.now[1] == "^":
                self.fail(f"parentheses: {name}(…^…) or ({name} …)^…")
            return self.applied(name, (argument,), position)
        counts = FUNCTIONS[name]
        parts = [self.inside()]
        while self.take(","):
            if len(parts) == counts[-1]:
                self.fail(f"“)”: {name} takes {counts[-1]}", self.tokens[self.place - 1][2])
            parts.append(self.inside())
        if len(parts) < counts[0] and self.now[1] == ")":
            self.fail(f"“,”: {name} takes {counts[0]}")
        more = len(parts) < counts[-1]
        self.need(")", "an operator, “,” or “)”" if more else "an operator or “)”")
        return self.applied(name, tuple(parts), position)

    def applied(self, name, parts, position):
        """A function of its arguments, where their shapes fit."""
        for place, part in enumerate(parts):
            if name == "where" and place == 0:
                if not part.truth or part.plain:
                    self.fail("a comparison first, such as p > q", part.position)
            else:
                self.value(part)
        reduces = name in OF_LIST or (name in ("min", "max") and len(parts) == 1)
        if reduces and parts[0].shape != LIST:
            self.fail(f"a list over the tokens in {name}(…), such as p", parts[0].position)
        if name == "clamp":
            for bound in parts[1:]:
                if not bound.plain:
                    self.fail("a plain number as a bound", bound.position)
        lists = LIST in [part.shape for part in parts]
        whole = lists and (not reduces or name in ("softmax", "log_softmax"))
        if name == "log" and parts[0].kind == "at":  # log p[k] is (log p)[k]
            inner = self.applied("log", parts[0].parts, position)
            return self.node("at", "k", (inner,), position, drawn=True)
        return self.node("of", name, parts, position, LIST if whole else NUMBER)

    def node(self, kind, name, parts, position, shape=NUMBER, truth=False, like=None, **known):
        """``like``: what a name of the reader's own stands for."""
        sources = parts if like is None else (like,)
        flags = {
            "plain": bool(sources) and all(part.plain for part in sources),
            "learns": any(part.learns for part in sources) and not truth and name != "sg",
            "drawn": any(part.drawn for part in sources),
        }
        return Node(kind, name, parts, position, shape, truth, **flags | known)
