"""Every record in figures/ is what the code of today makes; every drawing draws."""

import json
import re
from pathlib import Path

import pytest

from opd_toy import explorables
from opd_toy.pages.figures import FIGURES
from opd_toy.pages.page import Style, draw_svg
from opd_toy.records import provenance

FOLDER = Path(__file__).parent.parent / "figures"
RECORDS = sorted(FOLDER.glob("*.json"))


def test_there_are_records():
    assert RECORDS, "figures/ holds no record: run `make figures`"


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_record_is_current(path):
    assert provenance.is_current(path), (
        f"the code behind {path.name} has changed since it was recorded: run `make figures`"
    )


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_record_says_where_it_came_from(path):
    said = json.loads(path.read_text())["provenance"]
    assert set(said) >= {"command", "date", "device", "versions", "seed", "sources", "source_hash"}
    assert said["command"].startswith("python -m opd_toy")


def test_a_changed_source_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    (tmp_path / "code.py").write_text("x = 1\n")
    provenance.record(tmp_path / "r.json", {}, files=["code.py"])
    assert provenance.is_current(tmp_path / "r.json")
    (tmp_path / "code.py").write_text("x = 2\n")
    assert not provenance.is_current(tmp_path / "r.json")


def test_a_pattern_that_matches_nothing_is_an_error():
    with pytest.raises(ValueError, match="files must each match a file.*'no-such-file'"):
        provenance.source_hash(files=["no-such-file"])


def test_an_interrupted_record_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "r.json"
    provenance.record(path, {"value": 1}, modules=["opd_toy.explorables.palette"])

    def full_disk(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full_disk)
    with pytest.raises(OSError):
        provenance.record(path, {"value": 2}, modules=["opd_toy.explorables.palette"])
    assert json.loads(path.read_bytes())["results"] == {"value": 1}


def test_every_still_and_drawing_is_in_the_folder():
    stills = {f"{getattr(explorables, name).name}.png" for name in explorables.__all__}
    drawings = {f"{name}-{paper}.svg" for name in FIGURES for paper in ("light", "dark")}
    assert stills | drawings <= {path.name for path in FOLDER.iterdir()}


@pytest.mark.parametrize("name", FIGURES)
def test_drawing_uses_the_palette_of_its_paper(name):
    draw, alt = FIGURES[name]
    assert len(alt) > 40
    light, dark = draw_svg(draw), draw_svg(draw, dark=True)
    for text, style in ((light, Style()), (dark, Style(dark=True))):
        used = {colour.lower() for colour in re.findall(r"#[0-9a-fA-F]{6}", text)}
        assert used <= {colour.lower() for colour in style.colours.values()}, used
