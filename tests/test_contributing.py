"""CONTRIBUTING.md draws the layout of today, and what it names is there."""

import re

from tests import layout
from tests.conftest import ROOT

TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_it_draws_the_layout_of_today():
    drawn = re.search(r"```text\n(.*?)\n```", TEXT, re.DOTALL)[1]
    assert drawn.splitlines() == layout.picture(layout.arrows()).splitlines(), (
        "paste what `python -m tests.layout` prints"
    )


def test_every_file_it_names_is_there():
    named = set(re.findall(r"`((?:opd_toy|tests|book|figures)/[\w/.-]*)`", TEXT))
    patterns = {name for name in named if re.search("NAME|NN|_N", name)}  # for the reader's own
    missing = [name for name in named - patterns if not (ROOT / name).exists()]
    assert len(named) > 12 and len(patterns) < 5 and missing == []


def test_every_name_it_gives_is_in_the_file_that_it_names():
    for name, file in [
        ("IDS", "tests/test_ledger.py"),
        ("OBJECTIVES", "tests/reference.py"),
        ("torch_value", "tests/test_objectives.py"),
        ("OBJECTIVES", "opd_toy/lm/divergences.py"),
        ("MODULES", "opd_toy/explorables/__init__.py"),
        ("CHECKS", "tests/explorables/__init__.py"),
        ("CASES", "tests/test_lm_losses.py"),
    ]:
        assert f"`{name}`" in TEXT and file in TEXT
        assert re.search(rf"\b{name}\b", (ROOT / file).read_text(encoding="utf-8")), (name, file)


def test_every_target_it_names_is_in_the_makefile():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = set(re.findall(r"(?:^|`)make ([\w-]+)", TEXT, re.MULTILINE))
    assert {"book", "test", "figures", "test-processors"} <= named
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in named)
