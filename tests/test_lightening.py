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
        ("@media print{.unused{a:b}}", ""),
        ("p{a:b}", "p{a:b}"),
        ("@font-face{src:url(x)}", "@font-face{src:url(x)}"),
    ],
)
def test_only_unused_rules_are_dropped(lightening, text, kept):
    assert lightening.keep_used_rules(text, {"used"}) == kept


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
