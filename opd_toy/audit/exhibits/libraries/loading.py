"""One module of an installed library, by its file, without all that its package imports.

Some trainers ask for a dozen packages on import (deepspeed, megatron, an inference server) that
a loss of theirs never touches.  ``load`` runs the file of the module that has the loss, and of
the modules that it imports from its own package; no ``__init__`` above them runs.  In the place
of what is named ``absent`` stands something that can be imported, subclassed, called and used as
an annotation or a decorator, and does nothing.
"""

import importlib
import sys
import types
from functools import cache
from importlib.util import find_spec
from pathlib import Path


@cache
def load(name, absent=()):
    """The module ``name``, with stand-ins for the modules ``absent``.

    Of its package and of these, sys.modules then has what it had before.
    """
    package, before = name.split(".")[0], dict(sys.modules)
    folders = {parent: _bare(parent) for parent in _parents(name)}
    standing_in = {missing: Absent(missing) for missing in absent}
    sys.modules.update(folders | standing_in)
    try:
        return importlib.import_module(name)
    finally:
        for touched in list(sys.modules):
            if touched in standing_in or touched.split(".")[0] == package:
                del sys.modules[touched]
        ours = {n: m for n, m in before.items() if n in standing_in or n.split(".")[0] == package}
        sys.modules.update(ours)


def _parents(name):
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]


def _bare(package):
    """A package that knows where its modules are and has not run its ``__init__``."""
    outermost, *inner = package.split(".")
    found = find_spec(outermost)
    if found is None:
        raise ModuleNotFoundError(f"No module named {outermost!r}", name=outermost)
    module = types.ModuleType(package)
    module.__path__ = [str(Path(found.submodule_search_locations[0], *inner))]
    return module


class _Anything(type):
    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything

    def __getitem__(cls, _):
        return cls

    def __call__(cls, *given, **named):
        if cls is not Anything:  # a class that was derived from it
            return super().__call__(*given, **named)
        decorated = len(given) == 1 and isinstance(given[0], types.FunctionType)
        return given[0] if decorated else Anything


class Anything(metaclass=_Anything):
    """A class, function, decorator, annotation or object; as a decorator it changes nothing."""


class Absent(types.ModuleType):
    """A module that has whatever is asked of it: Anything."""

    __path__ = ()

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything
