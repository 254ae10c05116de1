"""A loss by its name: where it is looked for, what is said where it is not, where it is written."""

import functools
import sys
import types
from pathlib import Path

import pytest

from opd_toy.audit import AuditError
from opd_toy.commands import loading


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    with loading.importable():
        yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def refused(name):
    with pytest.raises(AuditError) as error:
        loading.load(name)
    return str(error.value)


def test_each_refusal_is_a_whole_sentence(here):
    for name in ("no_colon", ":f", "module:"):
        assert refused(name) == (
            f"loss is {name!r}; name it as MODULE:FUNCTION or FILE.py:FUNCTION, such as "
            "my_package.losses:reverse_kl or my/losses.py:reverse_kl"
        )
    for path in ("losses.py", "my/losses"):
        assert refused(f"{path}:f") == (
            f"{path} is not there (looked for from {here}), so '{path}:f' names no function"
        )
    assert refused("no_such_module:f") == (
        "no_such_module cannot be imported from 'no_such_module:f': ModuleNotFoundError: No "
        "module named 'no_such_module'"
    )
    names = "".join(f"def f{n}(): ...\n" for n in range(9))
    (here / "many.py").write_text(f"{names}def _own(): ...\nNUMBER = 3\n")
    assert refused("many:g") == "many has no 'g'; it has f0, f1, f2, f3, f4, f5, f6, f7"
    (here / "none.py").write_text("NUMBER = 3\n")
    assert refused("none.py:a.b") == "none.py has no 'a.b'; it has no functions"
    assert refused("none:NUMBER.c") == "none has no 'NUMBER.c'; it has no functions"


def test_a_name_may_lead_into_a_class(here):
    (here / "classy.py").write_text("class Loss:\n    class Inner:\n        value = 7\n")
    assert (
        loading.load("classy:Loss.Inner.value") == loading.load("classy.py:Loss.Inner.value") == 7
    )


def test_a_file_in_a_package_is_that_packages_module(here):
    package = here / "outer" / "inner"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").write_text("")
    (package / "deep.py").write_text("from ..top import x\ndef f(): return x, __name__\n")
    (package.parent / "top.py").write_text("x = 5\n")
    (package / "plain.py").write_text("def f(): ...\n")
    plain = loading.load("outer/inner/plain.py:f")
    assert plain is sys.modules["outer.inner"].plain.f
    assert loading.load("outer/inner/deep.py:f")() == (5, "outer.inner.deep")
    assert loading.load("outer/inner/deep.py:f") is sys.modules["outer.inner.deep"].f
    assert plain is sys.modules["outer.inner.plain"].f  # its package was not taken for another


def test_a_file_is_read_once_and_never_taken_for_another(here):
    (here / "once.py").write_text("def f(): ...\n")
    assert loading.load("once.py:f") is loading.load("once.py:f")
    other = here / "other"
    other.mkdir()
    (other / "once.py").write_text("def f(): return 'other'\n")
    assert loading.load("other/once.py:f")() == "other"
    assert "once_under_audit" in sys.modules
    sys.modules["without_a_file"] = types.ModuleType("without_a_file")
    (here / "without_a_file.py").write_text("def f(): return 1\n")
    assert loading.load("without_a_file.py:f")() == 1
    del sys.modules["without_a_file"], sys.modules["without_a_file_under_audit"]


def test_two_packages_of_one_name_are_told_apart(here):
    for place in ("first", "second"):
        package = here / place / "losses"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("")
        (package / "deep.py").write_text(f"def f(): return '{place}'\n")
    (package / "other.py").write_text("from . import deep\ndef f(): return deep.f()\n")
    first = loading.load("first/losses/deep.py:f")
    assert loading.load("second/losses/other.py:f")() == "second"
    assert loading.load("second/losses/deep.py:f")() == "second" and first() == "first"


def test_a_file_finds_what_lies_beside_it_before_anything_else(here, monkeypatch):
    (here / "sub").mkdir()
    (here / "sub" / "helper.py").write_text("x = 'beside'\n")
    (here / "helper.py").write_text("x = 'above'\n")
    (here / "sub" / "uses.py").write_text("from helper import x\ndef f(): return x\n")
    assert loading.load("sub/uses.py:f")() == "beside"


def test_the_path_is_as_before_whatever_happened():
    before = list(sys.path)
    with pytest.raises(RuntimeError), loading.importable():
        assert sys.path == ["", *before]
        sys.path.insert(0, "something")
        raise RuntimeError
    assert sys.path == before


SOURCE = """import functools


def f(x):
    return x


class Called:
    def __call__(self, x):
        return x


@functools.wraps(f)
def wrapped(x):
    return f(x)


partial = functools.partial(f, 1)
called = Called()
"""


def test_where_a_loss_is_written(here, tmp_path_factory, monkeypatch):
    (here / "written.py").write_text(SOURCE)
    lines = {"f": 4, "Called": 8, "wrapped": 4, "partial": 4, "called": 8}
    for name, line in lines.items():
        assert loading.source_of(loading.load(f"written:{name}")) == ("written.py", line), name
    loss = loading.load("written:f")
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert loading.source_of(loss) == ((here / "written.py").resolve().as_posix(), 4)
    for unknown in (len, functools.partial(len), 3, None):
        assert loading.source_of(unknown) == (None, None)
    assert Path(loading.source_of(loading.load)[0]).name == "loading.py"
