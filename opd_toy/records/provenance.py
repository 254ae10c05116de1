"""Where a recorded result came from: the command, the code, the versions, the day.

``record`` writes results with their provenance, ``is_current`` tells whether the code
that made them has changed since; a test asks it for every record in ``figures/``.

What a record depends on is read from the code: the modules that computed it, what they
import from the package at any depth, and the records that they read.  Comments, docstrings
and layout do not count, so that a clearer sentence makes no record out of date.
"""

import ast
import datetime
import hashlib
import json
import os
import platform
import re
import sys
from functools import cache
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = "opd_toy"


def sources(*modules, files=()):
    """Files below the root that a record of these modules depends on, as sorted POSIX paths.

    ``modules``: dotted names in the package; with what they import from it, also inside
    functions, at any depth, and the ``figures/NAME.json`` that they read by ``recorded("NAME", …)``.
    ``files``: patterns of further files, such as a module's JavaScript.
    Raises ValueError for a module or a pattern that is not there.
    """
    if not modules and not files:
        raise ValueError("modules is empty; name the modules that compute the record")
    found, waiting = set(), list(modules)
    while waiting:
        name = waiting.pop()
        path = _file(name)
        if path is None:
            raise ValueError(f"modules names {name!r}, which is no module below {ROOT.name}/")
        if path not in found:
            found.add(path)
            waiting += _imported(path)
            found.update(ROOT / "figures" / f"{read}.json" for read in _records_read(path))
    for pattern in files:
        matching = [path for path in ROOT.glob(pattern) if path.is_file()]
        if not matching:
            raise ValueError(
                f"files must each match a file below {ROOT.name}/; {pattern!r} matches none"
            )
        found.update(matching)
    return sorted(path.relative_to(ROOT).as_posix() for path in found)


def source_hash(*modules, files=()):
    """SHA-256 over the names and the meaning of all ``sources(*modules, files=files)``."""
    digest = hashlib.sha256()
    for name in sources(*modules, files=files):
        digest.update(name.encode() + b"\0" + _meaning(ROOT / name) + b"\0")
    return digest.hexdigest()


def record(path, results, *, modules=(), files=(), seed=None, device="cpu", command=None):
    """Write ``results`` (a JSON-able dict) to ``path`` with its provenance, all or nothing.

    ``modules``, ``files``: what computed them, see ``sources``.
    ``command``: what made them, where that is not the command of opd_toy being run.
    """
    provenance = {
        "command": command or "python -m opd_toy " + " ".join(sys.argv[1:]),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": device,
        "machine": f"{platform.system()} {platform.machine()}",
        "versions": {"python": platform.python_version(), **_versions(*modules)},
        "seed": seed,
        "modules": list(modules),
        "files": list(files),
        "sources": sources(*modules, files=files),
        "source_hash": source_hash(*modules, files=files),
    }
    whole = {"provenance": provenance, "results": results}
    text = _compact(json.dumps(whole, indent=2)) + "\n"
    partial = Path(f"{path}.partial")  # a full disk or an interrupt leaves the old record whole
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def recorded(name, command):
    """The results kept in ``figures/NAME.json``, which ``python -m opd_toy COMMAND`` makes.

    Raises FileNotFoundError, naming that command, where there is no such record.
    """
    path = ROOT / "figures" / f"{name}.json"
    if not path.exists():
        raise FileNotFoundError(
            f"figures/{name}.json is not there: `python -m opd_toy {command}` makes it, "
            "in a checkout of the book"
        )
    return json.loads(path.read_text(encoding="utf-8"))["results"]


def is_current(path):
    """Whether the code that the record at ``path`` depends on is still the code that made it."""
    provenance = json.loads(Path(path).read_text(encoding="utf-8"))["provenance"]
    if "modules" not in provenance:  # written before the sources were derived
        return False
    try:
        now = source_hash(*provenance["modules"], files=provenance["files"])
    except ValueError:  # a module or file is gone
        return False
    return now == provenance["source_hash"]


def _file(module):
    """The file of a module of the package, or None."""
    place = ROOT.joinpath(*module.split("."))
    known = (place.with_suffix(".py"), place / "__init__.py")
    return next((path for path in known if path.is_file()), None)


def _imports(path):
    """(module, name or None) for everything that a file imports, inside functions too."""
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.module, alias.name) for alias in node.names)


def _imported(path):
    """Modules of the package that a file imports: the submodule where a name is one."""
    for module, name in _imports(path):
        if module and module.split(".")[0] == PACKAGE:
            inner = name and f"{module}.{name}"
            yield inner if inner and _file(inner) else module


def _records_read(path):
    """NAME of every call of ``recorded("NAME", …)`` in a file."""
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Call) and node.args:
            function = getattr(node.func, "attr", getattr(node.func, "id", None))
            first = node.args[0]
            if function == "recorded" and isinstance(first, ast.Constant):
                yield first.value


def _versions(*modules):
    """{distribution: version} of what the sources import from outside, where it is installed."""
    paths = [ROOT / name for name in sources(*modules) if name.endswith(".py")] if modules else []
    tops = {module.split(".")[0] for path in paths for module, _ in _imports(path) if module}
    known = metadata.packages_distributions()
    names = {distribution for top in tops - {PACKAGE} for distribution in known.get(top, ())}
    return {name: metadata.version(name) for name in sorted(names)}


def _meaning(path):
    """Bytes that differ when the meaning of a file does: for Python its tree, for others itself."""
    content = path.read_bytes()
    return content if path.suffix != ".py" else repr(_plain(_tree(path))).encode()


def _tree(path):
    return _parsed(path, path.stat().st_mtime_ns)


@cache
def _parsed(path, modified):
    return ast.parse(path.read_bytes(), filename=str(path))


def _plain(node):
    """An ``ast`` node as tuples, without docstrings and places, alike on all versions of Python."""
    if isinstance(node, ast.AST):
        fields = dict(ast.iter_fields(node))
        if _has_docstring(node):
            fields["body"] = node.body[1:]
        kept = ((name, value) for name, value in sorted(fields.items()) if value not in (None, []))
        return (type(node).__name__, *((name, _plain(value)) for name, value in kept))
    return [_plain(entry) for entry in node] if isinstance(node, list) else node


def _has_docstring(node):
    holders = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return isinstance(node, holders) and ast.get_docstring(node, clean=False) is not None


def _compact(text):
    """Indented JSON with rows of numbers, and short records of them, on one line each."""

    def one_line(found):
        return re.sub(r"\n\s*", " ", found[0])

    def one_line_if_short(found):
        return one_line(found) if len(found[0]) < 400 else found[0]

    numbers = r"\[\n(?:[-+.\deE,\s]|null|true|false)*\]"  # strings hold no line ends
    text = re.sub(numbers, one_line, text)
    for _ in range(2):
        text = re.sub(r"\{\n[^{}\n]*(?:\n[^{}\n]*)*\}", one_line_if_short, text)
    return text
