"""Every record in figures/ is what the code of today makes; every drawing draws."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from opd_toy import explorables
from opd_toy.__main__ import main
from opd_toy.explorables import stills
from opd_toy.pages import figures, making, monte_carlo, study_figures
from opd_toy.pages.drawing import Style, draw_svg, label_ends
from opd_toy.pages.figures import FIGURES
from opd_toy.records import provenance
from tests import shown

FOLDER = Path(__file__).parent.parent / "figures"
RECORDS = [path for path in sorted(FOLDER.glob("*.json")) if path.suffixes != [".schema", ".json"]]


def test_there_are_records():
    assert RECORDS, "figures/ holds no record: run `make figures`"


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_record_is_current(path):
    command = json.loads(path.read_text())["provenance"]["command"]
    assert provenance.is_current(path), (
        f"the code behind {path.name} has changed since it was recorded: run `{command}`"
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


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """A copy of the package and its records, which a test may change."""
    root = provenance.ROOT
    shutil.copytree(root / "opd_toy", tmp_path / "opd_toy", ignore=shutil.ignore_patterns("__py*"))
    shutil.copytree(root / "figures", tmp_path / "figures", ignore=shutil.ignore_patterns("*g"))
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    return tmp_path


EVERY_RECORD = set(making.SOURCES)
STALE = {  # a file that changes, and the records that are out of date then
    "opd_toy/estimators.py": EVERY_RECORD,
    "opd_toy/distributions.py": EVERY_RECORD,
    "opd_toy/sequences/table.py": {"figures", "explorables"},
    "opd_toy/explorables/palette.py": {"figures", "explorables"},
    "opd_toy/explorables/host.js": {"explorables"},
    "opd_toy/explorables/style.css": {"explorables"},
    "opd_toy/explorables/learning_curves.py": {"explorables"},
    "opd_toy/explorables/stills.py": {"explorables"},
    "opd_toy/audit/exhibits/museum.py": {"explorables"},
    "opd_toy/pages/chapter_figures.py": {"figures"},
    "opd_toy/pages/study_figures.py": {"figures"},
    "opd_toy/pages/future_figures.py": {"figures"},
    "opd_toy/pages/drawing.py": {"figures"},
    "opd_toy/pages/monte_carlo.py": {"monte-carlo"},
    "opd_toy/pages/page.py": set(),
    "opd_toy/audit/report.py": set(),
    "figures/control-study.json": {"explorables"},
    "figures/control-frozen.json": {"figures"},
    "figures/lm-study-cpu.json": {"explorables"},
    "figures/stale-rollouts.json": {"figures", "explorables"},
    "figures/library-audits.json": set(),
}


@pytest.mark.parametrize("file", STALE)
def test_a_record_is_stale_when_and_only_when_what_it_uses_changes(copied, file):
    def hashes():
        return {
            name: provenance.source_hash(*sources["modules"], files=sources.get("files", ()))
            for name, sources in making.SOURCES.items()
        }

    before = hashes()
    change(copied / file, meaning=False)
    assert hashes() == before
    change(copied / file)
    after = hashes()
    assert {name for name in before if after[name] != before[name]} == STALE[file]


def change(path, meaning=True):
    """Add something to a file, of meaning or, where it can be said without, of none."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        found = json.loads(text)
        found["results" if meaning else "provenance"]["planted"] = 1
        text = json.dumps(found)
    elif path.suffix == ".py":
        text += "\nplanted = 1\n" if meaning else "\n# A remark.\n"
    elif meaning:
        text += "\n/* planted */"
    path.write_text(text, encoding="utf-8")


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


def test_all_that_is_made_is_there_with_its_records(tmp_path, monkeypatch):
    """Of a book of one figure and one slider; the figures are those of both papers."""
    one = {"tilted-teacher": FIGURES["tilted-teacher"]}
    monkeypatch.setattr(figures, "FIGURES", one)
    monkeypatch.setattr(stills, "photograph", lambda folder: [folder / "a-slider.png"])
    recorded = {}
    monkeypatch.setattr(
        making,
        "record",
        lambda path, results, **options: recorded.update({path: (results, options)}),
    )
    folder = tmp_path / "new" / "folder"
    made = making.make(folder)
    names = ["tilted-teacher-light.svg", "tilted-teacher-dark.svg"]
    assert made == [folder / name for name in [*names, "a-slider.png"]]
    draw = one["tilted-teacher"]["draw"]
    texts = [(folder / name).read_text(encoding="utf-8") for name in names]
    assert texts == [draw_svg(draw), draw_svg(draw, dark=True)]  # byte by byte
    of = lambda name, seed=None: {"seed": seed, **making.SOURCES[name]}
    assert recorded == {
        folder / "figures.json": ({"files": names}, of("figures")),
        folder / "monte-carlo.json": (
            monte_carlo.monte_carlo(),
            of("monte-carlo", monte_carlo.SEED),
        ),
        folder / "explorables.json": ({"files": ["a-slider.png"]}, of("explorables")),
    }
    assert making.make(folder) == made  # into a folder that is there


@pytest.mark.parametrize("name", FIGURES)
def test_drawing_uses_the_palette_of_its_paper(name):
    figure = FIGURES[name]
    assert len(figure["alt"]) > 40
    light, dark = draw_svg(figure["draw"]), draw_svg(figure["draw"], dark=True)
    kept = shown.kept_drawings()[figure["alt"]]
    assert shown.differences(shown.of_drawing(light, figure["alt"]), kept) == ""  # as the page has
    for text, style in ((light, Style()), (dark, Style(dark=True))):
        used = {colour.lower() for colour in re.findall(r"#[0-9a-fA-F]{6}", text)}
        assert used <= {colour.lower() for colour in style.colours.values()}, used


@pytest.fixture
def drawn_growth():
    import matplotlib.pyplot as plt

    figure = study_figures.study_growth(Style())
    yield figure
    plt.close(figure)


def test_the_thin_lines_have_the_slopes_that_they_name(drawn_growth):
    for axes in drawn_growth.axes:
        thin = [line for line in axes.lines if line.get_linewidth() < 1]
        named = [text.get_text() for text in axes.texts if "slope" in text.get_text()]
        for line, name, slope in zip(thin, named, (2, 4), strict=True):
            x, y = np.log(line.get_data())
            # Logarithms of powers: exact but for rounding.
            np.testing.assert_allclose(np.diff(y) / np.diff(x), slope, rtol=1e-9)
            assert name == f"slope {slope}"


def test_labels_beside_line_ends_keep_apart(drawn_growth):
    axes, ends = drawn_growth.axes[0], {"high": 1000, "low": 1, "near": 1.1}
    label_ends(axes, 1, {label: (height, "k") for label, height in ends.items()}, 0.4)
    heights = {text.get_text(): np.log10(text.xy[1]) for text in axes.texts[-3:]}
    assert heights == pytest.approx({"low": 0, "near": 0.4, "high": 3})


def test_the_command_draws_into_a_folder_and_names_what_it_drew(monkeypatch, capsys):
    monkeypatch.setattr(making, "make", lambda folder: [folder / "a.svg", folder / "b.png"])
    main(["figures"])
    main(["figures", "--directory", "here"])
    names = ["figures/a.svg", "figures/b.png", "here/a.svg", "here/b.png"]
    assert capsys.readouterr().out.splitlines() == names
