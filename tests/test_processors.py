"""The matrix of processors: a setting is what it says, and none passes unseen."""

import pytest

from tests import processors
from tests.processors import SETTINGS, Setting, chosen, environment

HERE = {"torch": "avx2", "openblas": "Haswell", "numpy": ["X86_V3"], "threads": 2}
BY_NAME = {setting.name: setting for setting in SETTINGS}


def test_a_setting_leaves_no_variable_of_another(monkeypatch):
    for name in processors.VARIABLES:
        monkeypatch.setenv(name, "left over")
    assert not set(processors.VARIABLES) & set(environment(BY_NAME["as found"]))
    variables = environment(BY_NAME["AVX2, AMD"], units=["X86_V3", "X86_V4"])
    assert "left over" not in variables.values()
    assert variables["NPY_DISABLE_CPU_FEATURES"] == "X86_V4"
    assert variables["OPENBLAS_CORETYPE"] == "Zen"
    assert {variables[name] for name in processors.THREADS} == {"1"}


def test_the_libraries_obey_where_they_can():
    here = chosen(environment(BY_NAME["as found"]))
    got = chosen(environment(BY_NAME["no vector unit"], here["numpy"]))
    assert got["torch"] == "default" and got["numpy"] == [] and got["threads"] == 1


@pytest.mark.parametrize(
    "got, word",
    [
        ({"torch": "default"}, "torch"),
        ({"openblas": "SkylakeX"}, "openblas"),
        ({"numpy": []}, "numpy"),
        ({"numpy": ["X86_V3", "X86_V4"]}, "numpy"),
        ({"threads": 4}, "threads"),
    ],
)
def test_a_library_that_does_not_obey_is_noticed(got, word):
    setting = BY_NAME["AVX2, Intel"]
    assert processors.differences(setting, HERE) == []
    (said,) = processors.differences(setting, HERE | got)
    assert said.startswith(word)


def test_a_setting_that_cannot_be_had_is_said_and_is_no_pass(monkeypatch, capsys):
    monkeypatch.setattr(processors, "chosen", lambda variables: HERE)
    monkeypatch.setattr(processors, "run", lambda tests, variables: pytest.fail("was run"))
    assert processors.main(["--only", "AVX-512"]) == 1  # nothing was passed
    said = capsys.readouterr().out
    assert "AVX-512" in said and "not on this processor: lacks X86_V4" in said


@pytest.mark.parametrize("failing", [None, *[setting.name for setting in SETTINGS]])
def test_one_failure_fails_the_whole(failing, monkeypatch, capsys):
    monkeypatch.setattr(processors, "why_not", lambda setting, here: "")
    monkeypatch.setattr(processors, "chosen", lambda variables: HERE)
    monkeypatch.setattr(processors, "environment", lambda setting, units=(): setting)
    monkeypatch.setattr(processors, "numeric_tests", lambda: ["a_test.py"])

    def run(tests, setting):
        assert tests == ["a_test.py"]
        bad = setting.name == failing
        return (1, ["FAILED a_test", "1 failed"]) if bad else (0, ["5 passed"])

    monkeypatch.setattr(processors, "run", run)
    assert processors.main([]) == (failing is not None)
    said = capsys.readouterr().out
    assert ("FAILED a_test" in said) == (failing is not None)
    assert sum(name in said for name in BY_NAME) == len(SETTINGS)


def test_numeric_files_are_found():
    """test_tables imports no numpy itself: the package does that for it."""
    found = processors.numeric_tests()
    assert {f"tests/test_{name}.py" for name in ("objectives", "audit", "tables")} <= set(found)
    assert {f"tests/test_{name}.py" for name in ("pages", "links", "build", "readme")}.isdisjoint(
        found
    )
    assert "tests/executed_pages.py" in found


def test_settings_cover_what_they_are_for():
    assert {setting.torch for setting in SETTINGS} == {None, "default", "avx2", "avx512"}
    assert {"Haswell", "Zen", "SkylakeX"} <= {setting.openblas for setting in SETTINGS}
    assert {setting.threads for setting in SETTINGS} == {None, 1, 2}
    assert Setting("as found") in SETTINGS
