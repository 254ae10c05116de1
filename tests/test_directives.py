"""The lists of the pages "The package's functions" and "References", built and in JupyterLab."""

import ast
import inspect
import re

import pytest

from opd_toy import objectives
from opd_toy.pages import directives
from opd_toy.pages.directives import bibliography, documented, documented_whole
from opd_toy.pages.page import BUILDING
from tests.conftest import ROOT


@pytest.fixture
def building(monkeypatch):
    monkeypatch.setenv(BUILDING, "yes")


def text(shown):
    return shown._repr_markdown_()


def test_jupyterlab_has_signature_and_docstring_of_every_public_function():
    shown = text(documented_whole("opd_toy.objectives", leave_out=["descend"]))
    assert inspect.getdoc(objectives) in shown
    for name, function in inspect.getmembers(objectives, inspect.isfunction):
        own = function.__module__ == "opd_toy.objectives" and name[0] != "_" and name != "descend"
        assert (f"**`{name}{inspect.signature(function)}`**" in shown) == own, name
        assert not own or inspect.getdoc(function) in shown, name


def test_jupyterlab_has_the_members_of_a_class_that_are_asked_for():
    shown = text(documented("opd_toy.sequences.trees", "TokenTree: random, vocabulary"))
    heads = re.findall(r"\*\*`(.*?)`\*\*\n\n```text\n(\S+)", shown)
    assert [head.split("(")[0] for head, _ in heads] == [
        "TokenTree", "TokenTree.random", "TokenTree.vocabulary"
    ]  # fmt: skip
    assert all(word != "None" for _, word in heads)


def test_a_function_may_bring_its_signature():
    shown = text(documented("opd_toy.ledger", "check(book, claims=CLAIMS)"))
    assert shown.startswith("**`check(book, claims=CLAIMS)`**\n")


def test_the_page_has_sphinx_list_the_same(building):
    shown = text(documented("a.b", "C: d, e", "F", "g", "h(x=1)", about=True))
    assert re.sub(r"\n+", "\n", shown).split("\n") == [
        "```{eval-rst}",
        ".. automodule:: a.b",
        ".. autoclass:: a.b.C()",
        "   :members: d, e",
        ".. autoclass:: a.b.F()",
        ".. autofunction:: a.b.g",
        ".. autofunction:: a.b.h(x=1)",
        "```",
    ]


def test_everything_that_the_page_lists_is_there_and_described():
    """Sphinx leaves out without a word what has no docstring."""
    source = (ROOT / "book" / "api.md").read_text(encoding="utf-8")
    cells = re.findall(r"^```\{code-cell\}.*?\n(.*?)^```", source, re.MULTILINE | re.DOTALL)
    code = ast.parse("\n".join(re.sub(r"^:.*\n", "", cell, flags=re.MULTILINE) for cell in cells))
    calls = [node for node in ast.walk(code) if isinstance(node, ast.Call)]
    listed = [ast.unparse(call) for call in calls if ast.unparse(call.func) == "documented"]
    assert len(listed) > 10
    for call in listed:
        assert "```text\nNone" not in text(eval(call, vars(directives))), call


def test_jupyterlab_lists_every_reference(monkeypatch):
    file = ROOT / "book" / "references.bib"
    works = re.findall(r"^@\w+\{", file.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(re.findall(r"^- \w", text(bibliography(file)), re.MULTILINE)) == len(works) > 20
    monkeypatch.setenv(BUILDING, "yes")
    assert text(bibliography(file)) == "```{bibliography}\n:all:\n```"
