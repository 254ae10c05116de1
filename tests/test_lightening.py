"""The build leaves out what no page uses, and nothing else."""

import shutil
from pathlib import Path

import pydata_sphinx_theme
import pytest
from fontTools.ttLib import TTFont

from tests.conftest import ROOT


@pytest.fixture
def lightening(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "book" / "_extensions")
    import lightening

    return lightening


@pytest.mark.parametrize(
    "text, kept",
    [
        (".used{a:b}.unused{a:b}", ".used{a:b}"),
        (".used .unused,.used:hover{a:b}", ".used:hover{a:b}"),
        ("#unused{a:b}#used{a:b}", "#used{a:b}"),
        (".used:not(.unused){a:b}", ".used:not(.unused){a:b}"),
        ("@media print{.unused{a:b}.used{a:b}}", "@media print{.used{a:b}}"),
        ("p{a:b}\n\n@media print{ p{a:b}\n b{a:b} }\n", "p{a:b}@media print{p{a:b}b{a:b}}"),
        ("@media print{/* a remark */p{a:b}}", "@media print{p{a:b}}"),
        ("@media print{.unused{a:b}}", ""),
        ("p{a:b}", "p{a:b}"),
        ("ul>li,a+b,*.used{a:b}", "ul>li,a+b,*.used{a:b}"),
        ("a:is(.unused,.used){a:b}.unused b{a:b}", "a:is(.unused,.used){a:b}"),
        ("@supports (x:y){.used{ a : b }}", "@supports (x:y){.used{a : b}}"),
        ("/*! licence */.used{}/* a remark */", "/*! licence */.used{}"),
        ("@page{margin:0}", "@page{margin:0}"),
        ("@font-face{src:url(x)}", "@font-face{src:url(x)}"),
    ],
)
def test_only_unused_rules_are_dropped(lightening, text, kept):
    assert lightening.keep_used_rules(text, {"used"}) == kept


def test_a_site_keeps_what_its_pages_and_scripts_name_and_load(lightening, tmp_path):
    static = tmp_path / "_static"
    kept = {
        "../page.html": "<p class=one id='two' data-x=five>six</p><script>add('three')</script>",
        "../book/page.html": "<p class=four style='color:var(--read)'></p>",
        "book.js": "add('seven')",
        "scripts/theme.js": "add('eight')",
        "mathjax/tex-chtml.js": "",
        "mathjax/input/tex/extensions/a.js": "",
        "mathjax/output/chtml/fonts/woff-v2/a.woff": "",
    }
    gone = (
        *("vendor/fontawesome.js.map", "scripts/fontawesome.js", "scripts/bootstrap.js.txt"),
        *("book.css.map", "a-webpack-macros.html", "locales/de/a.mo"),
        *("mathjax/sre/maps/a.json", "mathjax/tex-svg.js", "mathjax/input/mml.js"),
    )
    for name in (*kept, *gone):
        (static / name).parent.mkdir(parents=True, exist_ok=True)
        (static / name).write_text(kept.get(name, ""))
    names = ("one", "two", "three", "four", "five", "six", "seven", "eight")
    for sheet in ("book.css", "styles/theme.css"):
        (static / sheet).parent.mkdir(exist_ok=True)
        (static / sheet).write_text("".join(f".{name}{{--read:1;--not:2}}" for name in names))
    (static / "vendor" / "own.css").write_text(".unused{}")
    lightening.lighten(tmp_path)
    lightening.lighten(tmp_path)  # what has gone is not missed
    used = "".join(f".{name}{{--read:1;}}" for name in names if name not in ("five", "six"))
    sheets = {"book.css": used, "styles/theme.css": used, "vendor/own.css": ".unused{}"}
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.resolve() for path in left} == {
        (static / name).resolve() for name in (*kept, *sheets)
    }
    assert {name: (static / name).read_text() for name in sheets} == sheets
    assert all(any(path.iterdir()) for path in tmp_path.rglob("*") if path.is_dir())


def test_only_unread_variables_are_dropped(lightening):
    sheets = {
        "one": "a{--kept:url('x;y');--chain:var(--link);--unread:calc(1px*(2 + 3));b:var(--kept)}",
        "two": "a{--link:1;--scripted:2}",
    }
    assert lightening.keep_used_variables(sheets, 'setProperty("--scripted", 1)') == {
        "one": "a{--kept:url('x;y');b:var(--kept)}",
        "two": "a{--scripted:2}",
    }


def test_icon_fonts_keep_the_glyphs_that_the_rules_ask_for(lightening, tmp_path):
    """As an escape and as the sign itself; all others go."""
    theme = Path(pydata_sphinx_theme.__file__).parent / "theme" / "pydata_sphinx_theme" / "static"
    fonts = tmp_path / lightening.ICON_FONT
    fonts.mkdir(parents=True)
    shutil.copy(theme / lightening.ICON_FONT / "fa-solid-900.ttf", fonts)
    face = f"@font-face{{src:url(../{lightening.ICON_FONT}/fa-solid-900.woff2)}}"
    css = face + '.one:before{content:"\\f002"}.two:before{content:"\uf0c9"}'
    lean = lightening.keep_used_icons(css, tmp_path)
    assert "fa-solid-900.ttf" in lean and "woff2" not in lean
    with TTFont(fonts / "fa-solid-900.ttf") as font:
        assert set(font.getBestCmap()) == {0xF002, 0xF0C9}
        assert {name.nameID for name in font["name"].names} == {0}
