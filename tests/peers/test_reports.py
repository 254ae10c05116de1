"""The texts for trackers: their lines run, and print what stands beside them."""

import contextlib
import importlib.metadata
import io
import re
import sys

import pytest

from opd_toy.audit.exhibits.libraries.loading import load
from opd_toy.audit.exhibits.libraries.record import LIBRARY_LOSSES
from tests.conftest import ROOT

REPORTS = sorted((ROOT / "examples" / "reports").glob("*-*.md"))
LOADED = {loss.function.rsplit(".", 1)[0]: loss.without for loss in LIBRARY_LOSSES.values()}


def imported_by_file(code, monkeypatch):
    """What the code imports from a library whose package asks for more than is installed here."""
    for name in re.findall(r"^from ([\w.]+) import", code, re.MULTILINE):
        if name.split(".")[0] in ("areal", "axolotl", "swift", "skyrl"):
            module, parts = load(name, LOADED[name]), name.split(".")
            for end in range(1, len(parts)):
                parent = ".".join(parts[:end])
                monkeypatch.setitem(sys.modules, parent, sys.modules.get(parent, module))
            monkeypatch.setitem(sys.modules, name, module)


@pytest.mark.parametrize("report", REPORTS, ids=lambda path: path.stem)
def test_the_lines_of_a_report_run_and_print_what_it_says(report, monkeypatch):
    text = report.read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    imported_by_file(code, monkeypatch)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, {"__name__": "report"})
    lines = printed.getvalue().splitlines()
    assert lines and all(f"# {line}" in code for line in lines), lines


@pytest.mark.parametrize("report", REPORTS, ids=lambda path: path.stem)
def test_a_report_is_of_the_version_installed(report):
    package, version = re.search(
        r"^([\w-]+) (\d[\d.]*),", report.read_text(encoding="utf-8"), re.MULTILINE
    ).groups()
    assert importlib.metadata.version(package) == version
