"""The constants of the commands, the control study, the records and the sliders, and defaults;
those of the engine and the proofs, and the ledger's figures to more digits than a page shows.

What the figures in ``figures/`` were made with: a number that changes by accident changes them.
"""

import ast
import contextlib
import dataclasses
import importlib
import inspect
import pkgutil
import types
from pathlib import Path
from unittest import mock

import mpmath
import numpy as np

import opd_toy
from opd_toy import commands, control, derivations, explorables, records, sequences
from opd_toy.explorables import timing
from opd_toy.ledger import CLAIMS, evidence
from opd_toy.ledger.evidence import growth, off_policy, position, sequence, top_k
from opd_toy.pages import numbers as book

ROOMS = (commands, control, records, explorables, timing)
ENGINE = (opd_toy, sequences, derivations, evidence)
PRINTED = {chapter.__name__ for chapter in derivations.CHAPTERS}  # in proofs_as_printed.md
ELSEWHERE = {"MUSEUM", "PICTURES", "HERE", "ROOT", "PEERS_PYTHON", "AUDITED"}  # in the checkout
LONG = {"IN_PAGE", "EAGER", "PAGE", "TOKEN"}  # scripts, which the tests in a browser read
OF_THE_MACHINE = {"THREADS", "RESERVED"}  # or of the version of Python
FILLED = {"_ASKED", "_HANDED"}  # while they are used
TREES = {"STUDENT_TREE", "TEACHER_TREE"}  # logarithms, the last digits the processor's
LEFT_OUT = ELSEWHERE | LONG | OF_THE_MACHINE | FILLED | TREES


def modules(rooms, but):
    for room in rooms:
        for found in sorted(pkgutil.iter_modules(room.__path__), key=lambda each: each.name):
            name = f"{room.__name__}.{found.name}"
            if not (found.ispkg or name in but or found.name.startswith("test_")):
                yield importlib.import_module(name)


def plain(value):
    """A value in words that are the same in every process."""
    if isinstance(value, np.ndarray):
        return f"array {value.tolist()}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{plain(k)}: {plain(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(plain, value)) + "]"
    if isinstance(value, (set, frozenset)):
        return "{" + ", ".join(sorted(map(plain, value))) + "}"
    if isinstance(value, (types.FunctionType, type, types.ModuleType)):
        return value.__name__
    if dataclasses.is_dataclass(value):
        fields = (f"{each}={plain(x)}" for each, x in vars(value).items())
        return f"{type(value).__name__}({', '.join(fields)})"
    if isinstance(value, mpmath.mpf):
        return f"{float(value):g}"
    plainly = type(value).__repr__ is object.__repr__  # which would have an address
    return type(value).__name__ if plainly else repr(value)


def constants(module):
    for statement in ast.parse(inspect.getsource(module)).body:  # its own, none that it imports
        for node in ast.walk(statement) if isinstance(statement, ast.Assign) else ():
            name = getattr(node, "id", "") if isinstance(getattr(node, "ctx", 0), ast.Store) else ""
            if name.isupper() and name not in LEFT_OUT:
                yield f"  {name} = {plain(getattr(module, name))}"


def defaults(module):
    for name, value in vars(module).items():
        functions = {name: value}
        if inspect.isclass(value):
            functions = {f"{name}.{each}": f for each, f in vars(value).items()}
        for called, function in functions.items():
            if not (inspect.isfunction(function) and function.__module__ == module.__name__):
                continue
            of = [
                f"{each.name}={plain(each.default)}"
                for each in inspect.signature(function).parameters.values()
                if each.default is not inspect.Parameter.empty
            ]
            if of:
                yield f"  {called}({', '.join(of)})"


def numbers(rooms=ROOMS, but=()):
    blocks = []
    for module in modules(rooms, but):
        lines = [*constants(module), *defaults(module)]
        if lines:
            blocks.append("\n".join([module.__name__, *lines]))
    return "\n\n".join(blocks)


def numbers_of_the_engine():
    return numbers(ENGINE, PRINTED | {top_k.__name__})


def figures_of_the_ledger():
    """Those of ``ledger_figures.txt``, to six digits more: rounded they hide what is near."""
    lines = Path(__file__).with_name("ledger_figures.txt").read_text(encoding="utf-8").splitlines()
    ids = [line.split(":")[0] for line in lines]
    longer = lambda value, digits=2, plain=book.plain: plain(value, digits + 6)
    with contextlib.ExitStack() as stack:
        for module in (book, growth, off_policy, position, sequence):
            stack.enter_context(mock.patch.object(module, "plain", longer))
        found = {claim.id: claim.evidence() for claim in CLAIMS if claim.id in ids}
    return "\n".join(f"{id}: {found[id]}" for id in ids)


NUMBER_TEXTS = {
    "numbers": numbers,
    "numbers-of-the-engine": numbers_of_the_engine,
    "figures-of-the-ledger": figures_of_the_ledger,
}
