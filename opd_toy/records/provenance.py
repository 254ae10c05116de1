"""Where a recorded result came from: the command, the code, the versions, the day.

``record`` writes results with their provenance, ``is_current`` tells whether the code
that made them has changed since; a test asks it for every record in ``figures/``.

What a record depends on is read from the code: the modules that computed it, what they
import from the package at any depth, and the records that they read.  Comments, docstrings
and layout do not count, so that a clearer sentence makes no record out of date; nor do the
modules that only write records, watch over them or draw.  All versions of Python agree.
"""

import ast
import datetime
import hashlib
import importlib.util
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
# They compute no figure, so a change in them makes none out of date.
NOT_COUNTED = (
    "opd_toy.audit.drawing",
    "opd_toy.commands.running",
    "opd_toy.records.provenance",
)


def sources(*modules, files=()):
    """Files below the root that a record of these modules depends on, as sorted POSIX paths.

    ``modules``: dotted names in the package; with what they import from it, also inside
    functions, at any depth, and the ``figures/NAME.json`` that they read by
    ``recorded("NAME", …)``.  A package's ``__init__`` counts where a name is imported from
    it, not where a module inside it is.  What is imported by a name that is computed has to
    be among ``modules``.
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
            waiting += [name for name in _imported(path) if name not in NOT_COUNTED]
            for pattern in _records_read(path):
                found.update((ROOT / "figures").glob(f"{pattern}.json"))
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

    ``name`` is written where it is called, as a string or an f-string: ``sources`` reads it.
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


def is_module(name):
    """Whether a dotted name is a module of the package."""
    return name.split(".")[0] == PACKAGE and _file(name) is not None


# --- what a file imports and reads --------------------------------------------------------


def _file(module):
    """The file of a module of the package, or None."""
    place = ROOT.joinpath(*module.split("."))
    known = (place.with_suffix(".py"), place / "__init__.py")
    return next((path for path in known if path.is_file()), None)


def _imports(path):
    """(module, name or None) for everything that a file imports, inside functions too."""
    return _imports_in(path.read_bytes(), ".".join(path.relative_to(ROOT).parent.parts))


@cache
def _imports_in(content, package):
    found = []
    for node in _nodes(content):
        if isinstance(node, ast.Import):
            found += [(alias.name, None) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            relative = "." * node.level + (node.module or "")
            module = importlib.util.resolve_name(relative, package)
            found += [(module, alias.name) for alias in node.names]
        elif _called(node) in ("import_module", "__import__") and _text(node.args[0]):
            found.append((_text(node.args[0]), None))
    return tuple(found)


def _imported(path):
    """Modules of the package that a file imports: the submodule where a name is one."""
    for module, name in _imports(path):
        if module.split(".")[0] == PACKAGE:
            inner = f"{module}.{name}"  # a name of None has no file
            yield inner if _file(inner) else module


def _records_read(path):
    """NAME of every call of ``recorded("NAME", …)`` in a file, as a pattern."""
    return _records_read_in(path.read_bytes(), path.name)


@cache
def _records_read_in(content, name):
    found = []
    for node in _nodes(content):
        if _called(node) == "recorded":
            first = node.args[0]
            parts = first.values if isinstance(first, ast.JoinedStr) else [first]
            pattern = "".join(
                "*" if isinstance(part, ast.FormattedValue) else _text(part) or "" for part in parts
            )
            if not pattern:
                raise ValueError(
                    f"recorded(…) in {name}, line {node.lineno}, must be given the "
                    "record's name as a string or an f-string"
                )
            found.append(pattern)
    return tuple(found)


def _called(node):
    """The name of the function that a node calls with arguments, or None."""
    if not (isinstance(node, ast.Call) and node.args):
        return None
    return getattr(node.func, "attr", getattr(node.func, "id", None))


def _text(node):
    """The string that a node is, or None."""
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def _versions(*modules):
    """{distribution: version} of what the sources import from outside, where it is installed."""
    paths = [ROOT / name for name in sources(*modules) if name.endswith(".py")] if modules else []
    tops = {module.split(".")[0] for path in paths for module, _ in _imports(path)}
    known = metadata.packages_distributions()
    names = {distribution for top in tops - {PACKAGE} for distribution in known.get(top, ())}
    # The package index writes liger-kernel where the wheel says liger_kernel.
    as_indexed = {re.sub(r"[-_.]+", "-", name).lower(): name for name in names}
    return {name: metadata.version(as_indexed[name]) for name in sorted(as_indexed)}


# --- what a file means ---------------------------------------------------------------------


def _meaning(path):
    """Bytes that change when the meaning of a file does.

    Of a module its syntax tree, of a record its results, of a picture its bytes, of any other
    file its text.
    """
    if path.suffix == ".png":
        return path.read_bytes()
    text = path.read_text(encoding="utf-8")  # line ends alike on every system
    if path.suffix == ".json" and path.parent.name == "figures":
        text = json.dumps(json.loads(text)["results"], sort_keys=True)
    if path.suffix == ".py":
        return _digest(path.read_bytes())
    return text.encode()


@cache
def _digest(content):
    tree = _tree(content)
    return content if tree is None else hashlib.sha256(ascii(_plain(tree)).encode()).digest()


def _nodes(content):
    tree = _tree(content)
    return () if tree is None else ast.walk(tree)


@cache  # by what is in the file: a time of modification may stand still while that changes
def _tree(content):
    """The syntax tree, or None while somebody is in the midst of a change."""
    try:
        return ast.parse(content)
    except (SyntaxError, ValueError):
        return None


def _plain(node):
    """A syntax tree as tuples, without strings that stand alone and without places.

    Alike on all versions of Python: what is absent or empty is left out, as later versions
    have fields that earlier ones have not, and an f-string's text is in one piece.
    """
    if isinstance(node, list):
        return [_plain(entry) for entry in node if not _stands_alone(entry)]
    if not isinstance(node, ast.AST):
        return node
    fields = dict(ast.iter_fields(node))
    if isinstance(node, ast.JoinedStr):
        fields["values"] = _joined(node.values)
    kept = ((name, _plain(value)) for name, value in sorted(fields.items()))
    return (type(node).__name__, *(pair for pair in kept if _says_something(pair[1])))


def _stands_alone(node):
    return isinstance(node, ast.Expr) and _text(node.value) is not None


def _says_something(value):
    return value not in (None, [], ("JoinedStr",))


def _joined(values):
    """The parts of an f-string: neighbouring texts as one, empty ones left out."""
    parts = []
    for value in values:
        text = _text(value)
        if text is None:
            parts.append(value)
        elif text and parts and _text(parts[-1]) is not None:
            parts[-1] = ast.Constant(parts[-1].value + text)
        elif text:
            parts.append(value)
    return parts


def _compact(text):
    """Indented JSON with rows of numbers, and short records of them, on one line each."""

    def one_line(found):
        return re.sub(r"\n\s*", " ", found[0])

    def one_line_if_short(found):
        return one_line(found) if len(found[0]) < 400 else found[0]

    numbers = r"\[\n(?:[-+.\deE,\s]|null|true|false)*\]"  # strings hold no line ends
    text = re.sub(numbers, one_line, text)
    return re.sub(r"\{\n[^{}]*\}", one_line_if_short, text)
