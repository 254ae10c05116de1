"""The order in which the tests are dealt out to the workers."""

from types import SimpleNamespace

from tests import conftest
from tests.conftest import ROOT


class Item(SimpleNamespace):
    def __init__(self, name, **params):
        super().__init__(path=ROOT / "tests" / name, groups=[])
        if params:
            self.callspec = SimpleNamespace(params=params)

    def add_marker(self, mark):
        self.groups += mark.mark.args


def test_the_longest_come_first_and_the_pages_last_one_by_one():
    first, second = conftest.LONGEST[:2]
    items = [
        Item("test_pages.py", opened="book/index"),
        Item("test_pages.py", opened="search"),
        Item("test_errors.py", value=1),
        Item(second),
        Item("test_errors.py", value=2),
        Item(first),
    ]
    conftest.pytest_collection_modifyitems(items)
    assert [item.groups for item in items] == [
        [first],
        [second],
        ["test_errors.py"],
        ["test_errors.py"],
        ["test_pages.py:book/index"],
        ["test_pages.py:search"],
    ]


def test_the_longest_are_there():
    there = {path.name for path in ROOT.rglob("test_*.py")}
    assert [name for name in conftest.LONGEST if name not in there] == []
