"""Sizes of what we wrote: ``python -m tests.style`` prints the longest.

Lines are bounded everywhere, modules and functions in what the book is made of: a file of tests
is a list of cases, and is read one case at a time.
"""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
COLUMNS = 100
MODULE = 350
FUNCTION = 50
FOLDERS = ("opd_toy", "tests", "book/_extensions", "book/_static", "examples")
SUFFIXES = {".py", ".js"}


def files(*suffixes):
    """What we wrote in these languages, as sorted paths."""
    return sorted(
        path
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (suffixes or SUFFIXES)
    )


def name(path):
    return path.relative_to(ROOT).as_posix()


def wide_lines(path):
    """ "NAME:LINE" for each line of more than COLUMNS characters."""
    lines = path.read_text(encoding="utf-8").split("\n")
    return [f"{name(path)}:{at}" for at, line in enumerate(lines, 1) if len(line) > COLUMNS]


def modules():
    """{name: lines} of every file."""
    return {name(path): len(path.read_text(encoding="utf-8").splitlines()) for path in files()}


def functions():
    """{"NAME:FUNCTION": lines} of every function in Python, its docstring left out."""
    return {
        f"{name(path)}:{node.name}": node.end_lineno - node.lineno + 1 - docstring_lines(node)
        for path in files(".py")
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def docstring_lines(node):
    first = node.body[0]
    return first.end_lineno - first.lineno + 1 if ast.get_docstring(node) is not None else 0


def above(sizes, most):
    return {key: size for key, size in sizes.items() if size > most}


def of_the_book(sizes):
    return {key: size for key, size in sizes.items() if not key.startswith("tests/")}


if __name__ == "__main__":
    print(sum(len(wide_lines(path)) for path in files()), "lines above", COLUMNS, "columns")
    for what, sizes, most in (("modules", modules(), MODULE), ("functions", functions(), FUNCTION)):
        long = above(sizes, most)
        print(f"{len(long)} {what} above {most} lines, of {len(sizes)}")
        for key in sorted(long, key=long.get, reverse=True):
            print(f"  {long[key]:5} {key}")
