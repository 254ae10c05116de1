"""The order in which the tests are dealt out to the workers, and what stays together."""

import re
import subprocess
import sys
from types import SimpleNamespace

from tests import conftest
from tests.conftest import ROOT


def test_the_longest_come_first_and_the_pages_last():
    first, second = conftest.LONGEST[:2]
    names = ["test_pages.py", "test_errors.py", second, "test_errors.py", first]
    items = [SimpleNamespace(path=ROOT / "tests" / name) for name in names]
    conftest.pytest_collection_modifyitems(items)
    names = [first, second, "test_errors.py", "test_errors.py", "test_pages.py"]
    assert [item.path.name for item in items] == names


def test_a_file_is_whole_on_one_worker_and_a_page_too(tmp_path):
    """Asked of real workers: what holds tests together has silently stopped to, once."""
    test = "@pytest.mark.parametrize('page', ['a', 'b', 'c', 'd'])\ndef test_{}(page): pass\n"
    for name in ("test_one.py", "test_two.py", conftest.PAGES):
        text = "import pytest\n" + test.format("first") + test.format("second")
        (tmp_path / name).write_text(text)
    shown = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-v", "-n", "2"]
        + ["--dist", "loadfile", "--no-loadscope-reorder", f"--rootdir={tmp_path}", tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
    ).stdout
    workers = {}
    for worker, file, page in re.findall(r"\[(gw\d)\].*PASSED \S*(test_\w+\.py)::.*\[(.)\]", shown):
        workers.setdefault((file, page * (file == conftest.PAGES)), []).append(worker)
    assert len(workers) == 2 + 4, shown
    for together, on in workers.items():
        assert len(set(on)) == 1 and len(on) == (2 if together[1] else 8), shown
    assert len({worker for on in workers.values() for worker in on}) > 1


def test_the_longest_are_there():
    there = {path.name for path in ROOT.rglob("test_*.py")}
    assert [name for name in conftest.LONGEST if name not in there] == []
