"""Chapters that must run are run side by side, before MyST-NB reads them."""

import re

from tests.test_build import HEADER, TinyBook

CELL = r"""```{code-cell} ipython3
import time
began = time.time()
time.sleep(2)
print("ran from", began, "to", time.time())
open("../runs", "a").write("once\n")
```
"""
FORCED = HEADER.replace("---\n\n#", "mystnb:\n  execution_mode: force\n---\n\n#", 1)


def test_they_run_at_the_same_time_and_are_found_in_the_cache(tmp_path):
    tiny = TinyBook(tmp_path)
    (tmp_path / "_toc.yml").write_text(
        "format: jb-book\nroot: book/index\nchapters:\n- file: book/two\n- file: book/forced\n"
    )
    tiny.write(CELL)
    # Another text, or the one's output would be found for the other.
    (tmp_path / "book" / "two.md").write_text(HEADER + CELL.replace("time.sleep", "1\ntime.sleep"))
    (tmp_path / "book" / "forced.md").write_text(FORCED + CELL)
    code, said = tiny.build()
    assert code == 0, said
    assert (tmp_path / "runs").read_text().split() == ["once"] * 3
    assert sorted(re.findall(r"book/(\w+)\.md: Using cached notebook", said)) == ["index", "two"]
    assert re.findall(r"book/(\w+)\.md: Executing notebook", said) == ["forced"]


def test_one_that_fails_is_reported_and_hides_no_other(tmp_path):
    tiny = TinyBook(tmp_path)
    (tmp_path / "_toc.yml").write_text(
        "format: jb-book\nroot: book/index\nchapters:\n- file: book/two\n"
    )
    tiny.write("```{code-cell} ipython3\n1 / 0\n```\n")
    (tmp_path / "book" / "two.md").write_text(HEADER + CELL)
    code, said = tiny.build()
    assert code != 0
    assert "ZeroDivisionError" in said
    assert "these chapters raised an error: book/index" in said
    assert "book/two.md: Using cached notebook" in said
