"""The rooms of the package and the imports between them: ``python -m tests.layout`` draws them.

Dependencies point downwards only.  A room is a module at the package's root, such as
``objectives``, or a folder, such as ``sequences``.  FLOORS has the order, top floor first: a
room may import from the floors below its own, and not from its neighbours on the same floor.
"""

import ast
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = "opd_toy"

FLOORS = (
    ("__main__",),
    ("commands",),
    ("audit", "ledger"),  # the auditor's reports draw themselves as the pages' figures are drawn
    ("pages",),
    ("explorables", "lm", "control", "derivations"),
    ("example", "records"),
    ("sequences", "off_policy"),  # texts, and tokens that another policy drew
    ("estimators",),
    ("objectives",),
    ("distributions",),
    ("_validate",),
)


@cache
def imports(path):
    """Dotted names of all that a file imports, inside functions too; names count as modules."""
    found, here = set(), path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = here[: len(here) + 1 - node.level] if node.level else ()
            module = ".".join((*above, *filter(None, [node.module])))
            found.add(module)
            found.update(f"{module}.{alias.name}" for alias in node.names)
    return found


def room(name):
    """The room of a dotted name, None outside the package.  A folder's __main__ is a command."""
    parts = name.split(".")
    if parts[0] != PACKAGE or len(parts) == 1:
        return None
    if parts[-1] == "__main__" and len(parts) > 2:
        return "commands"
    place = ROOT / PACKAGE / parts[1]
    return parts[1] if place.is_dir() or place.with_suffix(".py").is_file() else None


def arrows():
    """{(room, room it imports from): the modules that do}."""
    found = {}
    for path in sorted(ROOT.glob(f"{PACKAGE}/**/*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        start = room(module.removesuffix(".__init__"))
        if path.name.startswith("test_") or start is None:
            continue
        for end in {room(name) for name in imports(path)} - {start, None}:
            found.setdefault((start, end), []).append(module)
    return found


def faults(found):
    """What is wrong with these arrows, a sentence each."""
    floor = {name: at for at, names in enumerate(FLOORS) for name in names}
    strange = sorted({name for arrow in found for name in arrow} - floor.keys())
    upward = [
        f"{', '.join(modules)}: {start} must not import from {end}, which is not below it"
        for (start, end), modules in sorted(found.items())
        if start in floor and end in floor and floor[start] >= floor[end]
    ]
    return [f"{name} is on no floor of FLOORS" for name in strange] + upward


def picture(found):
    """A line a room, a rule between floors: the room, and what it imports from."""
    floors = []
    for names in FLOORS:
        ends = {name: [end for start, end in found if start == name] for name in names}
        below = [name for floor in FLOORS for name in floor]
        floors.append(
            "\n".join(
                f"{name:14} -> {'  '.join(sorted(ends[name], key=below.index))}".rstrip(" ->")
                for name in names
            )
        )
    return f"\n{'-' * 14}\n".join(floors)


if __name__ == "__main__":
    drawn = arrows()
    print(picture(drawn))
    sys.exit("\n".join(faults(drawn)) or 0)
