"""Lists that Sphinx makes from elsewhere, and what JupyterLab, which has none, shows instead."""

import importlib
import inspect
import os

from opd_toy.pages.page import BUILDING, Markdown


def documented(module, *things, about=False):
    """The docstrings of functions and classes of a module, and with ``about`` its own.

    ``things``: names; a class's members follow a colon, as in "TokenTree: random, repeat",
    and a function may bring its signature, where the one in the code would be unreadable.
    In JupyterLab a name that the module has not raises AttributeError; in a build Sphinx warns.
    """
    if BUILDING in os.environ:
        text = "\n".join(_for_sphinx(module, things, about))
        return Markdown(f"```{{eval-rst}}\n{text}\n```")
    return Markdown("\n\n".join(_for_jupyterlab(module, things, about)))


def documented_whole(module, leave_out=()):
    """The docstrings of a module and of all public functions that it defines."""
    names = [
        name
        for name, thing in sorted(vars(importlib.import_module(module)).items())
        if inspect.isfunction(thing) and thing.__module__ == module and name[0] != "_"
    ]
    return documented(module, *(name for name in names if name not in leave_out), about=True)


def bibliography(file):
    """All works of a BibTeX file, in the style of the built page."""
    if BUILDING in os.environ:
        return Markdown("```{bibliography}\n:all:\n```")
    from pybtex.database import parse_file
    from pybtex.plugin import find_plugin

    style = find_plugin("pybtex.style.formatting", "plain")()
    markdown = find_plugin("pybtex.backends", "markdown")()
    entries = style.format_bibliography(parse_file(file))
    return Markdown("\n".join(f"- {each.text.render(markdown)}" for each in entries))


def _for_sphinx(module, things, about):
    if about:
        yield f".. automodule:: {module}\n"
    for name, signature, members in map(_parts, things):
        if _is_class(name):
            yield f".. autoclass:: {module}.{name}()"
            yield f"   :members: {', '.join(members)}\n" if members else ""
        else:
            yield f".. autofunction:: {module}.{name}{signature}"


def _for_jupyterlab(module, things, about):
    home = importlib.import_module(module)
    if about:
        yield _docstring(home)
    for name, signature, members in map(_parts, things):
        thing = getattr(home, name)
        yield _entry(name, signature or _signature(thing), thing)
        for member in members:
            part = inspect.getattr_static(thing, member)
            part = getattr(part, "__func__", part)  # of a class method
            yield _entry(f"{name}.{member}", _signature(part), part)


def _parts(thing):
    """(name, signature, members) of a thing as ``documented`` takes it."""
    head, _, members = thing.partition(": ")
    name, bracket, rest = head.partition("(")
    return name, bracket + rest, [member for member in members.split(", ") if member]


def _is_class(name):
    return name[0].isupper()


def _signature(thing):
    return str(inspect.signature(thing)) if inspect.isfunction(thing) else ""


def _entry(name, signature, thing):
    return f"**`{name}{signature}`**\n\n{_docstring(thing)}"


def _docstring(thing):
    return f"```text\n{inspect.getdoc(thing)}\n```"
