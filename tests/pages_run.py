"""A page of the book run without a build: its cells and its {eval}s, in one namespace."""

import ast
import re

from tests.conftest import ROOT

CELL = re.compile(
    r"^```\{code-cell\} ipython3\n(?::[^\n]*\n)*(?P<code>.*?)^```$"
    r"|\{eval\}`(?P<value>[^`]+)`",
    re.DOTALL | re.MULTILINE,
)


def run_cell(code, names, page, after=lambda names: None):
    """What the last line of a cell evaluates to, or None; ``after`` as ``run`` has it."""
    body = ast.parse(code).body
    last = body.pop() if isinstance(body[-1], ast.Expr) else None
    exec(compile(ast.Module(body, []), page, "exec"), names)
    after(names)
    return last and eval(compile(ast.Expression(last.value), page, "eval"), names)


def run(page, after=lambda names: None):
    """(the page's text as shown, [the objects that its cells end in], its names).

    ``after(names)`` is called once a cell has run, before its last line is evaluated.
    """
    names, shown = {}, []

    def show(found):
        if found["value"]:
            return str(eval(found["value"], names))
        last = run_cell(found["code"], names, page, after)
        if last is None:
            return ""
        shown.append(last)
        return shown[-1]._repr_markdown_() if hasattr(shown[-1], "_repr_markdown_") else ""

    return CELL.sub(show, (ROOT / "book" / page).read_text(encoding="utf-8")), shown, names
