"""Records: each field of the provenance, the file's layout, what is said of a missing one."""

import ast
import datetime
import json
import platform
import sys
from importlib import metadata

import pytest

from opd_toy.records import provenance

PALETTE = ["opd_toy.explorables.palette"]


def test_every_field_of_the_provenance(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["opd-toy", "study", "--steps", "3"])
    path = tmp_path / "r.json"
    before = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    provenance.record(path, {"a": 1}, modules=["opd_toy.distributions"], files=["Makefile"])
    whole = json.loads(path.read_text())
    assert list(whole) == ["provenance", "results"] and whole["results"] == {"a": 1}
    kept = whole["provenance"]
    date = datetime.datetime.fromisoformat(kept.pop("date"))
    assert date.utcoffset() == datetime.timedelta() and before <= date
    assert date.microsecond == 0
    sources = provenance.sources("opd_toy.distributions", files=["Makefile"])
    assert kept == {
        "command": "python -m opd_toy study --steps 3",
        "device": "cpu",
        "machine": f"{platform.system()} {platform.machine()}",
        "versions": {"python": platform.python_version(), "numpy": metadata.version("numpy")},
        "seed": None,
        "modules": ["opd_toy.distributions"],
        "files": ["Makefile"],
        "sources": sources,
        "source_hash": provenance.source_hash("opd_toy.distributions", files=["Makefile"]),
    }
    assert sources == sorted(sources) and "Makefile" in sources
    provenance.record(path, 7, modules=PALETTE, seed=[3], device="a card", command="make it")
    kept = json.loads(path.read_text())["provenance"]
    assert (kept["seed"], kept["device"], kept["command"]) == ([3], "a card", "make it")
    assert kept["versions"].keys() == {"python"} and [each.name for each in tmp_path.iterdir()] == [
        "r.json"
    ]


def test_a_command_without_options_is_written_as_it_was_given(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["opd-toy", "doors"])
    provenance.record(tmp_path / "r.json", 1, files=["Makefile"])
    kept = json.loads((tmp_path / "r.json").read_text())["provenance"]
    assert kept["command"] == "python -m opd_toy doors"
    assert kept["versions"].keys() == {"python"} and kept["modules"] == []


def test_rows_of_numbers_and_short_records_stand_on_a_line():
    short = {"a": 1, "rows": [[1, -2.5e-09], [None, True]], "of": {"x": [1], "y": {"z": 2}}}
    long = {f"name of a number {n}": n for n in range(16)}
    text = provenance._compact(json.dumps({"short": short, "long": long, "none": {}}, indent=2))
    lines = text.split("\n")
    assert lines[:2] == ["{", '  "short": {']
    assert '    "a": 1,' in lines and "      [ 1, -2.5e-09 ]," in lines
    assert "      [ null, true ]" in lines
    assert '      "y": { "z": 2 }' in lines and '    "of": {' in lines  # the innermost alone
    assert '    "name of a number 0": 0,' in lines and '  "none": {}' in lines
    for extra, folded in ((0, True), (1, False)):
        one = {"name": "n" * (379 + extra)}
        text = provenance._compact(json.dumps([one], indent=2))
        (block,) = [text[text.index("{") : text.rindex("}") + 1]]
        assert ("\n" not in block) == folded
        if folded:  # as it was before it was folded: just below 400 characters
            assert len(json.dumps([one], indent=2)[4:-2]) == 399


def test_a_record_is_read_from_the_checkout(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "r.json").write_text('{"results": {"ü": 1}}', encoding="utf-8")
    assert provenance.recorded("r", "make") == {"ü": 1}
    with pytest.raises(FileNotFoundError) as error:
        provenance.recorded("other", "study --preset gpu")
    assert str(error.value) == (
        "figures/other.json is not there: `python -m opd_toy study --preset gpu` makes it, in a "
        "checkout of the book"
    )


def test_a_module_of_the_package_is_told_from_others():
    for name in ("opd_toy.records.provenance", "opd_toy.records", "opd_toy"):
        assert provenance.is_module(name)
    for name in ("opd_toy.records.attic", "tests.conftest", "json", "records.provenance"):
        assert not provenance.is_module(name)


@pytest.mark.parametrize(
    "text, message",
    [
        (
            "recorded(name, 'x')",
            "recorded(…) in a.py, line 1, must be given the record's name as a string or an "
            "f-string",
        ),
        ("\nx.recorded(7, 'y')", "recorded(…) in a.py, line 2, must be given"),
    ],
)
def test_how_a_record_is_named_is_said(text, message, tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    (tmp_path / "opd_toy").mkdir()
    (tmp_path / "opd_toy" / "a.py").write_text(text)
    with pytest.raises(ValueError) as error:
        provenance.sources("opd_toy.a")
    assert str(error.value).startswith(message)


def test_what_is_no_call_with_arguments_reads_and_imports_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    package = tmp_path / "opd_toy"
    package.mkdir()
    (package / "b.py").write_text("")
    (package / "a.py").write_text(
        "recorded()\nimport_module(name)\nfs[0]('opd_toy.b')\n__import__('opd_toy.b')\n"
        "imported('opd_toy.c')\n"
    )
    (package / "c.py").write_text("")
    assert provenance.sources("opd_toy.a") == ["opd_toy/a.py", "opd_toy/b.py"]


def test_an_f_string_s_texts_are_in_one_piece():
    """As some versions of Python parse them in several, and others do not."""
    value, text = ast.FormattedValue(ast.Name("x"), -1), ast.Constant
    pieces = ["", "a", "b", value, "", "c", "d", "e", value, value, "f", ""]
    values = [each if each is value else text(each) for each in pieces]
    found = [each if each is value else each.value for each in provenance._joined(values)]
    assert found == ["ab", value, "cde", value, value, "f"]


def test_folders_do_not_match_and_pictures_count_by_their_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    (tmp_path / "folder.txt").mkdir()
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.png").write_bytes(b"\x89\xff")
    (tmp_path / "b.json").write_text('{"results": 1}')
    assert provenance.sources(files=["*.txt"]) == ["a.txt"]
    assert provenance.sources(files=["*.*"]) == ["a.txt", "b.json", "b.png"]
    before = provenance.source_hash(files=["*.png"])
    (tmp_path / "b.png").write_bytes(b"\x89\xfe")
    assert provenance.source_hash(files=["*.png"]) != before
    before = provenance.source_hash(files=["b.json"])  # not in figures/: its text counts
    (tmp_path / "b.json").write_text('{"results":  1}')
    assert provenance.source_hash(files=["b.json"]) != before
    with pytest.raises(ValueError) as error:
        provenance.sources(files=["folder.txt"])
    name = tmp_path.name
    assert (
        str(error.value) == f"files must each match a file below {name}/; 'folder.txt' matches none"
    )
    with pytest.raises(ValueError) as error:
        provenance.sources("opd_toy.z")
    assert str(error.value) == f"modules names 'opd_toy.z', which is no module below {name}/"


def test_old_records_and_half_gone_ones_are_out_of_date(tmp_path):
    path = tmp_path / "r.json"
    provenance.record(path, 1, modules=PALETTE, files=["Makefile"])
    whole = json.loads(path.read_text())
    assert provenance.is_current(path) and provenance.is_current(str(path))
    for changes in ({"files": ["no such"]}, {"source_hash": "0"}, {"modules": ["opd_toy.z"]}):
        path.write_text(json.dumps({"provenance": whole["provenance"] | changes}))
        assert not provenance.is_current(path)
    del whole["provenance"]["modules"]
    path.write_text(json.dumps(whole))
    assert not provenance.is_current(path)
