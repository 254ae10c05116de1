"""The README keeps what it promises."""

import re
import subprocess
import sys

from tests.conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_engine_example_prints_what_the_readme_shows():
    code, shown = re.search(r"```python\n(.*?)```\s*```text\n(.*?)```", README, re.DOTALL).groups()
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert run.stderr == ""
    assert run.stdout == shown


def test_every_file_it_names_exists():
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert len(links) >= 3
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_target_it_names_is_in_the_makefile():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = set(re.findall(r"\bmake ([\w-]+)", README))
    assert {"book", "test", "notebook", "serve", "figures"} <= named
    assert [
        target for target in named if not re.search(rf"^{target}:", makefile, re.MULTILINE)
    ] == []


def test_every_command_it_names_is_there():
    named = set(re.findall(r"`python -m (opd_toy[\w.]*)(?: (\w+))?", README))
    assert len(named) > 5
    for module, command in sorted(named):
        done = subprocess.run(
            [sys.executable, "-m", module, *filter(None, [command]), "--help"],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, (module, command, done.stderr)


def test_make_test_asks_for_style_then_builds_the_book_then_tests_all_of_it():
    plan = subprocess.run(
        ["make", "-n", "test"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    steps = ["ruff format --check .", "ruff check .", "jupyter-book build . -W -n", "-m pytest -n"]
    places = [plan.index(step) for step in steps]
    assert places == sorted(places)
    (tests,) = [line for line in plan.splitlines() if "-m pytest" in line]
    arguments = tests.split("-m pytest ")[1]  # a file or a -k among them would leave tests out
    assert arguments == "-n auto --dist loadfile --no-loadscope-reorder"
