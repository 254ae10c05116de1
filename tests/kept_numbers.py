"""The constants of the commands, the control study, the records and the sliders, and defaults.

What the figures in ``figures/`` were made with: a number that changes by accident changes them.
"""

import ast
import dataclasses
import importlib
import inspect
import pkgutil
import types

import numpy as np

from opd_toy import commands, control, explorables, records
from opd_toy.explorables import timing

ROOMS = (commands, control, records, explorables, timing)
ELSEWHERE = {"MUSEUM", "PICTURES", "HERE", "ROOT", "PEERS_PYTHON"}  # places of the checkout
LONG = {"IN_PAGE", "EAGER", "PAGE", "TOKEN"}  # scripts, which the tests in a browser read
OF_THE_MACHINE = {"THREADS", "RESERVED"}  # or of the version of Python
FILLED = {"_ASKED", "_HANDED"}  # while they are used
LEFT_OUT = ELSEWHERE | LONG | OF_THE_MACHINE | FILLED


def modules(rooms, but):
    for room in rooms:
        for found in sorted(pkgutil.iter_modules(room.__path__), key=lambda each: each.name):
            name = f"{room.__name__}.{found.name}"
            if not found.ispkg and name not in but:
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


NUMBER_TEXTS = {"numbers": numbers}
