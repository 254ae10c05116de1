"""The build leaves out what no page uses, and nothing else."""

import pytest

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
