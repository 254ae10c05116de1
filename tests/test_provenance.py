"""A record goes out of date when, and only when, something that it uses changes."""

import ast
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from opd_toy.commands import bench, bench_audits, bench_growth, bench_sliders, bench_training
from opd_toy.commands.running import unchanged
from opd_toy.lm.study import stages
from opd_toy.pages.monte_carlo import monte_carlo
from opd_toy.records import provenance
from opd_toy.records.provenance import NOT_COUNTED

PACKAGE = Path(provenance.ROOT) / "opd_toy"

# Syntax whose tree is not the same on all versions of Python, or whose repr might not be.
SAMPLE = r'''
"""Module docstring.
    indented é
"""
from __future__ import annotations
import math as m
x, w, n, y = 1.5, 3, 2, {"a": None}
a = f"{x}" "b" f"{x!r:>{w}}" f""
b = f"{x:}" f"{x:.{n}f}" f"{x=}" f"{x = !s:^{w}.{n}}" f"{{{x}}}" f"{y['a']}" f'\N{BULLET}{x}\n'
c = (u"u" "v", b"\x00\xff"[0:1] + b"")
d = f"" "" f"plain"
e = f"""a
{x
}
 b{x!a}"""
class C:
    "doc"
    z: int = 0
    "attribute text"
    @property
    def p(self, /, a=None, *b, c=1, **d) -> "int":
        """doc"""
        match a:
            case [1, *rest, -2 + 3j] | {"k": v, **kw} if v:
                return ...
            case C(z=0) as q:
                return 1_000, 0x10, 1e400, 1j, 'é\U0001fae8\u200b\ue000'
            case None | True:
                pass
        async def g():
            async with a as b, (c) as d:
                yield [i async for i in b if i]
            try:
                pass
            except* ValueError as e:
                raise
        return lambda *, k=None: (yield), {**d, 'a': 1}, {*b}, a[1:, ::2], (w := 2), not a
with (open(a) as f, open(b)):
    lines = f"{'nested ' + f'{x}'}" f"{again if (again := 1) else 2}"
print(*[], **{}, end="")
'''


def meaning(text):
    return provenance._digest(text.encode())


def test_the_meaning_of_a_file_is_the_same_on_every_version_of_python():
    # This figure was seen on Python 3.11.7, 3.12.7, 3.13.2 and 3.14.2.
    assert hashlib.sha256(meaning(SAMPLE)).hexdigest()[:16] == "d5b72637ba7e650b"


@pytest.mark.parametrize(
    "other",
    [
        SAMPLE.replace('"doc"', '"another"').replace("attribute text", "more of it"),
        SAMPLE.replace("    z: int = 0", "    # a comment\n\n    z: int = (0)"),
        SAMPLE.replace("\n", "\r\n"),
        SAMPLE.replace("return 1_000, 0x10", "return 1000, 16"),
    ],
)
def test_comments_docstrings_and_layout_do_not_count(other):
    assert other != SAMPLE and meaning(other) == meaning(SAMPLE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("1.5", "1.25"),
        ("True", "1"),
        ("a=None", "a=0"),
        ('"b" f"', '"c" f"'),
        ("{x:}", "{x!s:}"),
        ("/, a", "a"),
        ("{x!a}", "{x!r}"),
        ("z: int", "z: str"),
        ("-2 +", "-2 -"),
        ("import math as m", "import cmath as m"),
        ("@property\n", "\n"),
        ("1j", "1"),
    ],
)
def test_any_other_change_counts(old, new):
    changed = SAMPLE.replace(old, new)
    assert changed != SAMPLE and meaning(changed) != meaning(SAMPLE)


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A package of its own in the place of opd_toy: write(name, text) adds a file."""
    monkeypatch.setattr(provenance, "ROOT", tmp_path)

    def write(name, text=""):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    for package in ("opd_toy", "opd_toy/inner", "opd_toy/face"):
        write(f"{package}/__init__.py")
    for module in ("a", "b", "inner/c", "inner/d", "face/e"):
        write(f"opd_toy/{module}.py")
    return write


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("import opd_toy.b", {"b"}),
        ("import os, opd_toy.inner.c as c", {"inner/c"}),
        ("from opd_toy import b", {"b"}),
        ("from opd_toy.inner import c, d", {"inner/c", "inner/d"}),
        ("from opd_toy.inner.c import *", {"inner/c"}),
        ("from opd_toy.face import name", {"face/__init__", "face/e"}),
        ("from opd_toy.face import *", {"face/__init__", "face/e"}),
        ("from .inner.d import name", {"inner/d"}),
        ("from . import b", {"b"}),
        ("def f():\n    if 0:\n        from opd_toy.b import x", {"b"}),
        ("import importlib\nimportlib.import_module('opd_toy.b')", {"b"}),
        ("import numpy, opd_toyish.b\nfrom numpy import linalg", set()),
        ("'opd_toy.b'", set()),
        ("from opd_toy.records.provenance import recorded", set()),
    ],
)
def test_every_way_to_import_is_seen(tree, line, found):
    tree("opd_toy/face/__init__.py", "from .e import name\n")
    tree("opd_toy/records/provenance.py", "import opd_toy.b\n")
    tree("opd_toy/a.py", line)
    expected = {f"opd_toy/{name}.py" for name in {"a", *found}}
    assert set(provenance.sources("opd_toy.a")) == expected


def test_a_relative_import_in_a_package_s_own_file_starts_there(tree):
    tree("opd_toy/inner/__init__.py", "from . import c\nfrom .. import b\n")
    tree("opd_toy/inner/c.py", "from .d import x\n")
    names = ("b", "inner/__init__", "inner/c", "inner/d")
    assert provenance.sources("opd_toy.inner") == [f"opd_toy/{name}.py" for name in names]


def test_records_that_are_read_count_by_their_results(tree):
    for name in ("one", "lm-cpu", "lm-gpu", "other"):
        tree(f"figures/{name}.json", '{"provenance": {"date": 1}, "results": {"a": 1, "b": 2}}')
    tree("opd_toy/a.py", "recorded('one', 'x')\nrecords.recorded(f'lm-{name}', 'y')\n")
    expected = ["figures/lm-cpu.json", "figures/lm-gpu.json", "figures/one.json", "opd_toy/a.py"]
    assert provenance.sources("opd_toy.a") == expected
    before = provenance.source_hash("opd_toy.a")
    tree("figures/one.json", '{"provenance": {"date": 2},\n "results": {"b": 2, "a": 1}}')
    tree("figures/other.json", '{"provenance": {}, "results": [2]}')
    assert provenance.source_hash("opd_toy.a") == before
    tree("figures/one.json", '{"provenance": {"date": 1}, "results": [2]}')
    assert provenance.source_hash("opd_toy.a") != before


def test_a_record_whose_name_cannot_be_read_is_refused(tree):
    tree("opd_toy/a.py", "name = 'one'\nrecorded(name, 'x')\n")
    with pytest.raises(ValueError, match=r"recorded\(…\) in a.py, line 2, must be given"):
        provenance.sources("opd_toy.a")


def test_a_change_that_keeps_the_time_of_modification_is_seen(tree, tmp_path):
    path = tmp_path / "opd_toy" / "a.py"
    tree("opd_toy/a.py", "x = 1\n")
    time = path.stat().st_mtime_ns
    before = provenance.source_hash("opd_toy.a")
    tree("opd_toy/a.py", "x = 2\n")
    os.utime(path, ns=(time, time))
    assert provenance.source_hash("opd_toy.a") != before


def test_a_file_in_the_midst_of_a_change_is_another_file(tree):
    before = provenance.source_hash("opd_toy.a")
    tree("opd_toy/a.py", "def f(:\n")
    assert provenance.source_hash("opd_toy.a") != before


def test_a_record_whose_module_is_gone_is_out_of_date(tree, tmp_path):
    provenance.record(tmp_path / "r.json", {}, modules=["opd_toy.a"])
    assert provenance.is_current(tmp_path / "r.json")
    (tmp_path / "opd_toy" / "a.py").unlink()
    assert not provenance.is_current(tmp_path / "r.json")


@pytest.mark.parametrize("change", ["x = 2\n", None], ids=["changed", "gone"])
def test_code_that_changes_while_it_runs_is_not_recorded(tree, tmp_path, change):
    path = tmp_path / "opd_toy" / "b.py"
    tree("opd_toy/a.py", "import opd_toy.b\n")
    with unchanged("r.json", ["opd_toy.a"]):
        tree("opd_toy/b.py", "# a remark\n")
    with (
        pytest.raises(SystemExit, match=r"opd_toy\.a or what they import changed .* r\.json"),
        unchanged("r.json", ["opd_toy.a"]),
    ):
        path.unlink() if change is None else path.write_text(change)


def test_further_files_count_by_their_text(tree):
    tree("opd_toy/a.js", "1\n")
    before = provenance.source_hash("opd_toy.a", files=["opd_toy/*.js"])
    tree("opd_toy/b.js", "1\n")
    two = provenance.source_hash("opd_toy.a", files=["opd_toy/*.js"])
    tree("opd_toy/b.js", "2\n")
    assert len({before, two, provenance.source_hash("opd_toy.a", files=["opd_toy/*.js"])}) == 3


def test_what_is_not_there_is_named(tree):
    with pytest.raises(ValueError, match="modules is empty; name the modules"):
        provenance.sources()
    with pytest.raises(ValueError, match="modules names 'opd_toy.z', which is no module"):
        provenance.sources("opd_toy.z")
    with pytest.raises(ValueError, match=r"files must each match a file .*'\*.js' matches none"):
        provenance.sources("opd_toy.a", files=["*.js"])


def test_a_record_on_a_full_disk_leaves_the_old_one_and_no_litter(tmp_path, monkeypatch):
    (tmp_path / "r.json").write_text("old")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    for where, name in ((os, "replace"), (Path, "write_text")):
        with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
            patch.setattr(where, name, full)
            provenance.record(tmp_path / "r.json", {}, modules=["opd_toy.explorables.palette"])
        assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_packages_have_the_names_of_the_index(monkeypatch):
    known = {"numpy": ["NumPy_Parts"], "other": ["other"]}
    monkeypatch.setattr(provenance.metadata, "packages_distributions", lambda: known)
    monkeypatch.setattr(provenance.metadata, "version", lambda name: f"1 of {name}")
    assert provenance._versions("opd_toy.estimators") == {"numpy-parts": "1 of NumPy_Parts"}


def test_records_are_compact_and_their_words_untouched(tmp_path):
    kept = {
        "text": "a { b\n [1,\n 2] }",
        "rows": [[1, 2.5, None], [-1e-9, 3, True]],
        "short": {"a": 1, "b": [1, 2]},
        "empty": [],
        "mixed": [1, "two"],
    }
    provenance.record(tmp_path / "r.json", kept, modules=["opd_toy.explorables.palette"])
    text = (tmp_path / "r.json").read_text()
    whole = json.loads(text)
    assert whole["results"] == kept and "[ 1, 2.5, null ]" in text
    assert text == provenance._compact(json.dumps(whole, indent=2)) + "\n"


# --- the records of the book


CONTROL = ("task", "policy", "gradients", "training")
RECORDS = {  # what computes each; tests/test_figures.py and test_library_record.py have the others
    "control-study": ["opd_toy.control.study"],
    "control-frozen": ["opd_toy.control.frozen"],
    "control-sensitivity": ["opd_toy.control.sensitivity"],
    "lm-study-cpu": stages.MODULES,
    "loss-benchmark": bench.MODULES,
    "loss-growth": bench_growth.MODULES,
    "training-benchmark": bench_training.MODULES,
    "audit-times": bench_audits.SOURCES["modules"],
    "slider-times": bench_sliders.SOURCES["modules"],
}
OUT_OF_DATE = {  # a module that changes, and the records that are out of date then
    **{
        f"control/{name}": {"control-study", "control-frozen", "control-sensitivity"}
        for name in (*CONTROL, "study")  # whose rounding the other two use
    },
    "control/frozen": {"control-frozen"},
    "control/sensitivity": {"control-sensitivity"},
    "control/benchmark": set(),
    "control/__init__": set(),
    "_validate": set(RECORDS) - {"slider-times"},
    "records/checkpoints": {"lm-study-cpu", "training-benchmark"},
    "records/provenance": set(),
    "lm/losses": {"lm-study-cpu", "loss-benchmark", "loss-growth", "training-benchmark"},
    "lm/divergences": {"lm-study-cpu", "loss-benchmark", "loss-growth", "training-benchmark"},
    "lm/terms": {"lm-study-cpu", "loss-benchmark", "loss-growth", "training-benchmark"},
    "lm/study/frozen": {"lm-study-cpu"},
    "lm/study/claims": {"lm-study-cpu"},
    "lm/training": {"lm-study-cpu", "training-benchmark"},
    "lm/presets": {"lm-study-cpu", "training-benchmark"},
    "lm/bench/cases": {"loss-benchmark", "loss-growth", "training-benchmark"},
    "lm/bench/floors": {"loss-benchmark"},
    "lm/bench/forks": {"loss-benchmark", "loss-growth", "training-benchmark"},
    "lm/bench/growth": {"loss-growth"},
    "lm/bench/hugging_face": {"training-benchmark"},
    "commands/running": set(),
    "commands/variance": set(),
    "commands/variance_tables": set(),
    "commands/study": set(),
    "sequences/table": {"audit-times"},
    "audit/token/fit": {"audit-times"},
    "explorables/palette": set(),
    "explorables/timing/measuring": {"slider-times"},
}


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the package, and the records' hashes before anything is planted in it."""
    root, ignored = tmp_path_factory.mktemp("copy"), shutil.ignore_patterns("__pycache__")
    shutil.copytree(PACKAGE, root / "opd_toy", ignore=ignored)
    return root, hashes()


def hashes():
    return {name: provenance.source_hash(*modules) for name, modules in RECORDS.items()}


@pytest.mark.parametrize("module", OUT_OF_DATE)
def test_a_record_is_out_of_date_when_and_only_when_what_it_uses_changes(copy, module, monkeypatch):
    root, before = copy
    monkeypatch.setattr(provenance, "ROOT", root)
    path = root / "opd_toy" / f"{module}.py"
    text = path.read_text(encoding="utf-8")
    try:
        path.write_text(f"# A comment.\n{text}\n\n# Another.\n", encoding="utf-8")
        assert hashes() == before
        path.write_text(f"{text}\nPLANTED = 1\n", encoding="utf-8")
        after = hashes()
    finally:
        path.write_text(text, encoding="utf-8")
    assert {name for name in before if after[name] != before[name]} == OUT_OF_DATE[module]


# Forked, so that what is not the package's is imported once for all.
IMPORTED = """
import importlib, json, os, sys
import matplotlib.pyplot, sympy, torch
for names in json.loads(sys.argv[1]):
    if os.fork():
        _, status = os.wait()
        if status:
            sys.exit(1)
        continue
    for name in names:
        importlib.import_module(name)
    files = [m.__file__ for name, m in sys.modules.items() if name.startswith("opd_toy.")]
    print(json.dumps(files), flush=True)
    os._exit(0)
"""


@pytest.fixture(scope="module")
def imported():
    """{record: the package's files that Python itself imports for it}."""
    run = subprocess.run(
        [sys.executable, "-c", IMPORTED, json.dumps(list(RECORDS.values()))],
        cwd=provenance.ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    lists = [json.loads(line) for line in run.stdout.splitlines()]
    paths = [{Path(file).relative_to(provenance.ROOT) for file in files} for files in lists]
    return dict(zip(RECORDS, paths, strict=True))


@pytest.mark.parametrize("name", RECORDS)
def test_what_python_itself_imports_is_among_the_sources(name, imported):
    """Python's own list of modules, against ours: only what is not counted may be left out."""
    faces = {path for path in imported[name] if path.name == "__init__.py"}
    not_counted = {Path(*module.split(".")).with_suffix(".py") for module in NOT_COUNTED}
    ours = {Path(source) for source in provenance.sources(*RECORDS[name])}
    assert imported[name] - faces - not_counted <= ours and len(ours) >= 3


def test_a_package_s_face_only_hands_names_on():
    """As ``sources`` leaves faces out where a module behind them is imported."""
    allowed = (ast.Import, ast.ImportFrom, ast.Assign, ast.FunctionDef)
    for path in PACKAGE.rglob("__init__.py"):
        _, *statements = ast.parse(path.read_text(encoding="utf-8")).body
        assert all(isinstance(each, allowed) for each in statements), path


def test_a_record_made_elsewhere_differs_by_rounding_only():
    """Monte Carlo from a seed: NumPy draws whole numbers, alike everywhere.

    What is computed from them is sums of a few float64 products, whose order is the
    processor's own: a relative 1e-12 is some thousand roundings of such a sum.
    """
    kept = provenance.recorded("monte-carlo", "figures")
    found = monte_carlo()
    assert kept.keys() == found.keys()
    for name in kept:
        assert found[name] == pytest.approx(kept[name], rel=1e-12)
