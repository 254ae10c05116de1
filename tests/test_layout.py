"""Dependencies point downwards only, and what should be light to import is light."""

import json
import re
import subprocess
import sys

import pytest

from tests import layout
from tests.conftest import ROOT

CORE = [name for floor in layout.FLOORS[-6:] for name in floor if name != "records"]


def test_no_arrow_points_upwards():
    assert layout.faults(layout.arrows()) == []


@pytest.mark.parametrize(
    "arrow, fault",
    [
        (("lm", "commands"), "lm must not import from commands"),
        (("lm", "control"), "lm must not import from control"),  # neighbours
        (("objectives", "estimators"), "objectives must not import from estimators"),
        (("attic", "objectives"), "attic is on no floor"),
        (("pages", "attic"), "attic is on no floor"),
    ],
)
def test_an_arrow_upwards_is_a_fault(arrow, fault):
    assert [said for said in layout.faults({arrow: ["module"]}) if fault in said]


def test_every_room_stands_on_one_floor():
    stand = [name for floor in layout.FLOORS for name in floor]
    folder = ROOT / layout.PACKAGE
    rooms = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    rooms |= {path.parent.name for path in folder.glob("*/__init__.py")}
    assert sorted(stand) == sorted(rooms)


def test_imports_are_read_whatever_their_form(tmp_path, monkeypatch):
    monkeypatch.setattr(layout, "ROOT", tmp_path)
    path = tmp_path / "opd_toy" / "lm" / "module.py"
    path.parent.mkdir(parents=True)
    path.write_text(
        "import opd_toy.audit as a\nfrom opd_toy import control\nfrom . import near\n"
        "from .study import one\n\ndef late():\n    from ..pages import page\n"
    )
    expected = {"audit", "control", "lm.near", "lm.study", "lm.study.one", "pages", "pages.page"}
    assert {f"opd_toy.{name}" for name in expected} <= layout.imports(path)


def test_the_picture_in_contributing_is_the_one_drawn():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    shown = re.search(r"```text\n(__main__ .*?)```", text, re.DOTALL)
    assert shown[1].strip() == layout.picture(layout.arrows())


def modules_after(statement):
    """Names of all modules that a fresh interpreter imports for a statement."""
    code = (
        "import json, sys\nbefore = set(sys.modules)\n"
        f"{statement}\nprint(json.dumps(sorted(set(sys.modules) - before)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout))


def test_the_package_itself_imports_next_to_nothing():
    """In place of a stopwatch, which a busy machine fails: a quarter of a second is for what the
    standard library needs, numpy alone takes most of it."""
    new = modules_after("import opd_toy")
    standard = set(sys.stdlib_module_names)
    assert {name for name in new if name.split(".")[0] not in standard} == {"opd_toy"}
    assert len(new) < 150  # of the standard library


def test_the_engine_needs_numpy_alone():
    statement = "from opd_toy import " + ", ".join(CORE)
    tops = {name.split(".")[0] for name in modules_after(statement)}
    foreign = tops - set(sys.stdlib_module_names)
    assert "numpy" in foreign, "nothing was imported: the measure is broken"
    assert foreign <= {"opd_toy", "numpy", "cython_runtime", "_cyutility"}
