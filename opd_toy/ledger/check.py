"""The check of the ledger: no claim without its showing, its test and its place in the book."""

import ast
import re
from pathlib import Path

from opd_toy.ledger.claims import CLAIMS, KINDS

PACKAGE = Path(__file__).parents[1]


class LedgerError(AssertionError):
    """A claim lacks its proof, its test or its place in the book."""


def check(book, claims=CLAIMS, tests=None, proofs=PACKAGE / "derivations"):
    """Raise LedgerError, listing every problem, unless each claim is shown as its row says.

    ``book`` is the directory of the pages; ``tests`` defaults to the directory of that
    name beside it.  A *proof* needs a derivation and, in ``proofs``, a test named after the
    claim that checks it; *exact* and *experiment* need a test in ``tests`` that compares
    something, and every claim its label in its page.
    """
    book = Path(book).resolve()
    proved = functions(proofs)
    tested = functions(book.parent / "tests" if tests is None else tests)
    pages = {path.stem: path.read_text(encoding="utf-8") for path in sorted(book.glob("*.md"))}
    problems = []
    for claim in claims:
        problems += _in_its_row(claim, claims)
        problems += _in_its_proof(claim, proved)
        problems += _in_its_test(claim, tested)
        problems += _in_its_page(claim, pages)
    if problems:
        raise LedgerError("the ledger does not hold:\n  " + "\n  ".join(dict.fromkeys(problems)))


def functions(directory):
    """{name: its syntax tree} of the functions in the test_*.py files of a directory, not run."""
    files = sorted(Path(directory).glob("test_*.py"))
    nodes = (node for file in files for node in ast.parse(file.read_text(encoding="utf-8")).body)
    return {node.name: node for node in nodes if isinstance(node, ast.FunctionDef)}


def _in_its_row(claim, claims):
    unknown = set(claim.shown_by) - set(KINDS)
    if unknown or not claim.shown_by:
        yield f"{claim.id}: shown by {claim.shown_by}; say one or more of {', '.join(KINDS)}"
    if sum(other.id == claim.id for other in claims) > 1:
        yield f"{claim.id}: listed more than once"


def _in_its_proof(claim, proved):
    from opd_toy.derivations import DERIVATIONS

    if "proof" not in claim.shown_by:
        return
    if claim.id not in DERIVATIONS:
        yield f"{claim.id}: no derivation in opd_toy.derivations"
    if claim.test not in proved:
        yield f"{claim.id}: no {claim.test} beside the derivations"
    elif not _checks_the_derivation(proved[claim.test], claim.id):
        yield f"{claim.id}: {claim.test} does not call DERIVATIONS[{claim.id!r}].check()"


def _checks_the_derivation(function, id):
    wanted = ast.unparse(ast.parse(f"DERIVATIONS[{id!r}].check()"))
    return any(ast.unparse(statement) == wanted for statement in function.body)


def _in_its_test(claim, tested):
    if not {"exact", "experiment"} & set(claim.shown_by):
        return
    if claim.test not in tested:
        yield f"{claim.id}: no {claim.test} in tests"
    elif not _compares(tested[claim.test]):
        yield f"{claim.id}: {claim.test} compares nothing"


def _compares(function):
    """Whether a test can fail: it asserts something that has a name in it, or calls what does."""
    for node in ast.walk(function):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            return True
        if isinstance(node, ast.Assert) and any(isinstance(n, ast.Name) for n in ast.walk(node)):
            return True
    return False


def _in_its_page(claim, pages):
    if claim.page not in pages:
        yield f"{claim.id}: no page {claim.page}.md in the book"
    elif not _is_shown(claim, pages[claim.page]):
        others = [name for name, text in pages.items() if _is_shown(claim, text)]
        where = f"is on {others[0]}.md, not on {claim.page}.md" if others else "occurs nowhere"
        yield f"{claim.id}: label {claim.label} {where}"


def _is_shown(claim, text):
    """Whether a page sets the claim's label, or shows its equation, which sets it."""
    target = rf"^\({claim.label}\)="
    if "proof" in claim.shown_by:
        shown = rf"""^[^#\n]*\bshow\(\s*["']{claim.id}["']"""
        target = rf"{shown}|^\$\$ *\({claim.label}\)"
    return re.search(target, text, re.MULTILINE) is not None
