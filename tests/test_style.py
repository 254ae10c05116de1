"""What ruff does not look at: how wide a line is in other languages, how long modules and
functions are.  Whoever must go beyond is on one of two lists, with the reason."""

import pytest

from tests import style

# Modules longer than style.MODULE lines, and why they are.
LONG_MODULES = {
    "opd_toy/explorables/mathematics.js": "the engine's twin, function by function as there",
    "opd_toy/derivations/test_horizon.py": "one proof's tests, a line above the bound",
}
ONE_KERNEL = "Triton compiles one kernel from one function"
# Functions longer than style.FUNCTION lines, and why they are.
LONG_FUNCTIONS = {
    "opd_toy/lm/kernels/stages.py:_divergence_kernel": ONE_KERNEL,
    "opd_toy/lm/kernels/statistics.py:_statistics": ONE_KERNEL,
    "opd_toy/commands/variance.py:add": "a list of the command's options, nothing else",
    "opd_toy/lm/training.py:distill": "the training loop, readable from top to bottom",
    "opd_toy/audit/sequence/judge.py:judge": "the report's fields, one line each",
    "opd_toy/control/frozen.py:frozen": "the measurement's steps in their order",
}


def test_no_line_is_wide():
    assert [line for path in style.files() for line in style.wide_lines(path)] == []


@pytest.mark.parametrize(
    "sizes, most, known",
    [
        (style.modules, style.MODULE, LONG_MODULES),
        (style.functions, style.FUNCTION, LONG_FUNCTIONS),
    ],
    ids=["modules", "functions"],
)
def test_what_is_long_is_known_with_its_reason(sizes, most, known):
    assert style.above(style.of_the_book(sizes()), most).keys() == known.keys()
    assert all(len(reason.split()) >= 4 for reason in known.values())


def test_sizes_are_measured(tmp_path, monkeypatch):
    """A fault of each kind, and one just within the bounds, in a package of its own."""
    monkeypatch.setattr(style, "ROOT", tmp_path)
    (tmp_path / "opd_toy").mkdir()
    line = "x" * style.COLUMNS
    (tmp_path / "opd_toy" / "slider.js").write_text(f"{line}\n{line}x\n")
    body = "    pass\n" * style.FUNCTION
    (tmp_path / "opd_toy" / "one.py").write_text(
        f"class C:\n def long():\n{body}\n def fits():\n{body[9:]}"
    )
    (tmp_path / "opd_toy" / "two.py").write_text("x = 1\n" * (style.MODULE + 1))
    (tmp_path / "opd_toy" / "three.py").write_text("x = 1\n" * style.MODULE)
    assert [at for path in style.files() for at in style.wide_lines(path)] == [
        "opd_toy/slider.js:2"
    ]
    assert style.above(style.functions(), style.FUNCTION) == {"opd_toy/one.py:long": 51}
    assert style.above(style.modules(), style.MODULE) == {"opd_toy/two.py": style.MODULE + 1}
