"""The package as somebody installs it: from a wheel, with what it requires and no more."""

import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from opd_toy.__main__ import COMMANDS, EXTRAS

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# Without these a command could find this checkout, or the packages that run the tests.
HIDDEN = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}


def bare_name(requirement):
    return re.match(r"[\w-]+", requirement)[0]


def pip(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)],
        check=True,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy of the sources, as building leaves files beside them."""
    source, made = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(
        ROOT / "opd_toy", source / "opd_toy", ignore=shutil.ignore_patterns("__pycache__")
    )
    pip("wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", made, source)
    (found,) = made.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """run(command, ...) in a fresh environment that has the wheel and what it requires."""
    place = tmp_path_factory.mktemp("environment")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
    pip("--python", place / "bin" / "python", "install", "--no-deps", "--no-index", wheel)
    (packages,) = place.glob("lib/python*/site-packages")
    for name in map(bare_name, PROJECT["dependencies"]):
        there = Path(importlib.util.find_spec(name).origin)
        there = there.parent if there.name == "__init__.py" else there
        for path in (there, there.with_name(f"{name}.libs")):
            if path.exists():
                (packages / path.name).symlink_to(path)
    environment = {name: value for name, value in os.environ.items() if name not in HIDDEN}

    def run(program, *arguments, **more):
        return subprocess.run(
            [place / "bin" / program, *map(str, arguments)],
            cwd=elsewhere,
            env=environment | more,
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run


@pytest.fixture(scope="module")
def torch_extra(tmp_path_factory):
    """A folder with what the extra of that name brings, and no more."""
    folder, seen = tmp_path_factory.mktemp("extra"), set()
    wanted = [bare_name(each) for each in PROJECT["optional-dependencies"]["torch"]]
    while wanted:
        name = wanted.pop()
        try:
            found = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # of another platform
        if found.name not in seen:
            seen.add(found.name)
            wanted += [bare_name(each) for each in found.requires or [] if "extra ==" not in each]
            for top in {path.parts[0] for path in found.files} - {"..", "__pycache__"}:
                (folder / top).exists() or (folder / top).symlink_to(found.locate_file(top))
    return folder


def cells_of_the_notebook():
    """The notebook's cells, as sources in two lists: those that install, and the others."""
    path = ROOT / "examples" / "audit_your_loss.ipynb"
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    sources = ["".join(cell["source"]) for cell in code]
    return sources[:2], sources[2:]


def test_the_auditors_notebook_runs_from_the_wheel(installed, torch_extra):
    program = "\n\n".join(sum(cells_of_the_notebook(), []))
    found = installed("python", "-c", program, PYTHONPATH=str(torch_extra))
    assert found.returncode == 0 and found.stderr == "", found.stderr
    verdicts = re.findall(r"^(?:optimises: )?(reverse KL|zero|JSD.*)$", found.stdout, re.MULTILINE)
    assert verdicts == ["reverse KL", "zero", "reverse KL", "JSD(β = 0.3)"]
    there = installed("python", "-c", "import matplotlib", PYTHONPATH=str(torch_extra))
    assert there.returncode == 1, "more is there than the wheel and its extra"


def test_the_notebook_brings_the_package_or_says_how(wheel, tmp_path):
    """Where it is not installed: without an address a way to one, with one the package."""
    cells, _ = cells_of_the_notebook()
    assert re.match('ADDRESS = "', cells[0])
    hidden = (
        "import importlib.util as u; real = u.find_spec\n"
        "u.find_spec = lambda name: None if name == 'opd_toy' else real(name)\n"
    )
    options = {"PIP_TARGET": tmp_path, "PIP_NO_DEPS": "1", "PIP_NO_INDEX": "1"}

    def run(address):
        program = [f"ADDRESS = {address!r}", hidden, cells[1]]
        return subprocess.run(
            [sys.executable, "-c", "\n".join(program)],
            env=os.environ | {name: str(value) for name, value in options.items()},
            capture_output=True,
            text=True,
        )

    found = run("")
    assert found.returncode == 1 and "pip wheel --no-deps" in found.stderr
    assert "Traceback" not in found.stderr and not (tmp_path / "opd_toy").exists()
    found = run(str(wheel))
    assert found.returncode == 0, found.stderr
    assert (tmp_path / "opd_toy" / "audit").is_dir()


def test_the_wheel_holds_the_whole_package_and_nothing_else(wheel):
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    files = [path for path in (ROOT / "opd_toy").rglob("*") if path.is_file()]
    ours = {path.relative_to(ROOT).as_posix() for path in files if path.suffix != ".pyc"}
    assert held == ours and any(name.endswith(".js") for name in held)


def test_nothing_but_what_it_requires_is_there(installed):
    known = installed("python", "-c", "import numpy, tabulate, tqdm, opd_toy; print(opd_toy)")
    assert known.returncode == 0 and str(ROOT) not in known.stdout, known.stderr
    for name in EXTRAS:
        assert installed("python", "-c", f"import {name}").returncode == 1, name


def test_the_script_and_the_module_are_one(installed):
    script, module = installed("opd-toy", "--help"), installed("python", "-m", "opd_toy", "--help")
    assert script.returncode == module.returncode == 0
    assert script.stdout.startswith("usage: opd-toy ")
    assert module.stdout.startswith("usage: python -m opd_toy ")
    names = [command.__name__.rpartition(".")[2] for command in COMMANDS]
    for name in names:
        assert installed("opd-toy", name, "--help").returncode == 0
        assert re.search(rf"^    {name} ", script.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    "command",
    [
        ["tables"],
        ["variance", "exponents"],
        ["variance", "all", "--show", "--directory", ROOT / "figures"],
        ["study", "--show", "--directory", ROOT / "figures"],
        ["bench", "--show", "--directory", ROOT / "figures"],
        ["bench", "--sliders", "--show", "--directory", ROOT / "figures"],
        ["bench", "--audits", "--show", "--directory", ROOT / "figures"],
        ["derail", "--show", "--directory", ROOT / "figures"],
        ["doors", "--show", "--directory", ROOT / "figures"],
        ["stale", "--show", "--directory", ROOT / "figures"],
    ],
)
def test_these_need_no_extra(installed, command):
    here = subprocess.run(
        [sys.executable, "-m", "opd_toy", *command], cwd=ROOT, capture_output=True, text=True
    )
    found = installed("opd-toy", *command)
    assert found.returncode == 0 and "Traceback" not in found.stderr, found.stderr
    # run here, `exponents` goes on with the recorded ones
    assert len(found.stdout) > 200 and here.stdout.startswith(found.stdout)


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        (["figures"], "book"),
        (["variance"], "torch"),
        (["audit", "json:dumps"], "torch"),
        (["train", "--method", "gkd"], "torch"),
        (["study"], "torch"),
        (["bench"], "torch"),
        (["derail"], "torch"),
        (["doors"], "torch"),
        (["stale"], "torch"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else value,
)
def test_without_its_extra_a_command_names_it(installed, command, extra):
    found = installed("opd-toy", *command)
    assert found.returncode != 0 and found.stdout == ""
    assert f"pip install 'opd-toy[{extra}]'" in found.stderr, found.stderr
    assert "Traceback" not in found.stderr


@pytest.mark.parametrize("command", ["variance", "bench", "study", "derail", "doors", "stale"])
def test_where_there_is_no_record_the_answer_says_where_they_are(installed, command):
    found = installed("opd-toy", command, "--show")
    assert found.returncode != 0 and "Traceback" not in found.stderr
    assert "checkout of the book" in found.stderr


def test_an_extra_that_is_named_brings_the_package():
    brought_by = {"traitlets": "anywidget"}
    for name, extra in EXTRAS.items():
        held = PROJECT["optional-dependencies"][extra]
        assert brought_by.get(name, name) in map(bare_name, held)
    book, test = (PROJECT["optional-dependencies"][name] for name in ("book", "test"))
    assert "opd-toy[book]" in test and {"torch", "sympy"} <= set(map(bare_name, book))


def test_the_version_is_one():
    cited = re.search(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)[1]
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    latest = re.search(r"^## \[([\d.]+)\]", changes, re.MULTILINE)[1]
    assert cited == latest == PROJECT["version"]
