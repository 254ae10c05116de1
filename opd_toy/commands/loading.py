"""A function by its name: "package.module:function", or "folder/file.py:function"."""

import contextlib
import importlib
import importlib.util
import inspect
import sys
from pathlib import Path

NO_NAME = (
    "loss is {name!r}; name it as MODULE:FUNCTION or FILE.py:FUNCTION, "
    "such as my_package.losses:reverse_kl or my/losses.py:reverse_kl"
)
NO_FILE = "{path} is not there (looked for from {here}), so {name!r} names no function"
NO_IMPORT = "{module} cannot be imported from {name!r}: {error}"
NO_FUNCTION = "{module} has no {path!r}; it has {known}"


@contextlib.contextmanager
def importable():
    """While modules of the current directory, and beside a named file, can be imported."""
    before = list(sys.path)
    sys.path.insert(0, "")
    try:
        yield
    finally:
        sys.path[:] = before


def load(name):
    """The function of this name, inside ``importable()``; AuditError where there is none."""
    from opd_toy.audit import AuditError

    place, _, path = name.rpartition(":")
    if not (place and path):
        raise AuditError(NO_NAME.format(name=name))
    is_file = place.endswith(".py") or "/" in place
    if is_file and not Path(place).is_file():
        raise AuditError(NO_FILE.format(path=place, here=Path.cwd(), name=name))
    try:
        found = _module_of_file(Path(place)) if is_file else importlib.import_module(place)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        message = NO_IMPORT.format(module=place, name=name, error=reason)
        raise AuditError(message) from error
    for part in path.split("."):
        if not hasattr(found, part):
            known = ", ".join(_functions_of(found)[:8]) or "no functions"
            raise AuditError(NO_FUNCTION.format(module=place, path=path, known=known))
        found = getattr(found, part)
    return found


def source_of(function):
    """(path, line) of where a function is written, as seen from here; (None, None) unknown."""
    function = inspect.unwrap(getattr(function, "func", function))
    if not (inspect.isroutine(function) or inspect.isclass(function)):
        function = type(function)
    try:
        path = Path(inspect.getsourcefile(function)).resolve()
        line = inspect.getsourcelines(function)[1]
    except (TypeError, OSError):
        return None, None
    here = Path.cwd()
    return (path.relative_to(here) if path.is_relative_to(here) else path).as_posix(), line


def _module_of_file(path):
    """The module in a file, under its package's name where it lies in one."""
    path = path.resolve()
    root, parts = path.parent, [path.stem]
    while (root / "__init__.py").is_file():
        parts.insert(0, root.name)
        root = root.parent
    sys.path.insert(0, str(root))
    name = ".".join(parts)
    known = sys.modules.get(name)
    if getattr(known, "__file__", None) == str(path):
        return known
    if len(parts) > 1:
        _forget_another(parts[0], root)
        return importlib.import_module(name)
    # A file may be called like a module that is already there.
    name = f"{name}_under_audit" if known else name
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _forget_another(package, root):
    """A package of this name that was imported from another folder than ``root``."""
    known = getattr(sys.modules.get(package), "__file__", None)
    if known and Path(known).resolve().parent.parent != root:
        for name in [name for name in sys.modules if name.split(".")[0] == package]:
            del sys.modules[name]


def _functions_of(module):
    entries = getattr(module, "__dict__", {})
    return sorted(name for name, value in entries.items() if callable(value) and name[0] != "_")
