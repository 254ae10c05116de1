"""The build itself, on a book of one page: stale, failed and unfinished pages are not published."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

HEADER = """---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3 (ipykernel)
  language: python
  name: python3
---

# One page

"""
GOOD_CELL = """```{code-cell} ipython3
from pathlib import Path
from IPython.display import Markdown
value = Path("../opd_toy/value.json").read_text()
Markdown(f"$$\\nx = {value}\\n$$ (eq-from-a-cell)\\n\\n<details><summary>Proof</summary>\\n\\n$$\\ny = 1\\n$$\\n\\n</details>")
```

See {eq}`eq-from-a-cell`.
"""


class TinyBook:
    """A copy of the book's settings around one page."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "book").mkdir()
        for name in ("_extensions", "_templates", "_static"):
            shutil.copytree(ROOT / "book" / name, folder / "book" / name)
        for name in ("_config.yml", "requirements.txt", "book/references.bib"):
            shutil.copy(ROOT / name, folder / name)
        (folder / "_toc.yml").write_text("format: jb-book\nroot: book/index\n")
        (folder / "opd_toy").mkdir()
        self.set_value(1)

    def set_value(self, value):
        (self.folder / "opd_toy" / "value.json").write_text(str(value))

    def write(self, body):
        (self.folder / "book" / "index.md").write_text(HEADER + body)

    def build(self):
        """The exit code of a build as the Makefile runs it, and what it said."""
        run = subprocess.run(
            [
                Path(sys.executable).with_name("jupyter-book"),
                "build",
                ".",
                "-W",
                "-n",
                "--keep-going",
            ],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=300,
        )
        return run.returncode, run.stdout + run.stderr

    def page(self):
        return (self.folder / "_build/html/book/index.html").read_text()


@pytest.fixture
def tiny(tmp_path):
    return TinyBook(tmp_path)


def test_what_a_cell_prints_is_set_kept_and_renewed(tiny):
    tiny.write(GOOD_CELL)
    code, said = tiny.build()
    assert code == 0 and "Executing notebook" in said, said
    page = tiny.page()
    assert re.search(
        r'<div class="math[^"]*" id="equation-eq-from-a-cell">\s*<span class="eqno">\(1\)', page
    )
    assert '<a class="reference internal" href="#equation-eq-from-a-cell">(1)</a>' in page
    assert re.search(r"<details><summary>Proof</summary>\s*<div class=\"math", page)
    assert "x = 1" in page

    code, said = tiny.build()
    assert code == 0 and "Executing notebook" not in said, (
        "nothing changed, and the page was executed again"
    )
    assert tiny.page() == page

    tiny.set_value(2)
    code, said = tiny.build()
    assert code == 0, said
    assert "x = 2" in tiny.page() and "x = 1" not in tiny.page(), "a stale output was published"


def test_a_change_during_the_build_fails_it_and_is_not_remembered(tiny):
    tiny.write(
        "```{code-cell} ipython3\nfrom pathlib import Path\nPath('../opd_toy/value.json').write_text('3')\n```\n"
    )
    code, said = tiny.build()
    assert code != 0 and "changed while its chapters were executed" in said
    code, said = tiny.build()
    assert code == 0 and "Executing notebook" in said, said


@pytest.mark.parametrize(
    "body, complaints",
    [
        (
            "```{code-cell} ipython3\n1 / 0\n```\n",
            ["ZeroDivisionError", "these chapters raised an error: book/index"],
        ),
        (
            "See {eq}`eq-nowhere`, {cite:t}`nobody1900` and [there](no-such-page.md).\n\n"
            "```{code-cell} ipython3\nimport sys\nprint('careful', file=sys.stderr)\n```\n\n"
            "```{code-cell} ipython3\n:tags: [skip-execution]\nprint(1)\n```\n",
            ["eq-nowhere", "nobody1900", "no-such-page", "stderr was found", "was not executed"],
        ),
    ],
    ids=["raises", "warns"],
)
def test_a_faulty_page_fails_the_build_however_often_it_is_tried(tiny, body, complaints):
    tiny.write(body)
    for _ in range(2):
        code, said = tiny.build()
        assert code != 0
        assert [complaint for complaint in complaints if complaint not in said] == [], said
        assert not (tiny.folder / "_build/html/.made-from").exists()


def test_a_chapter_bears_the_number_of_its_file(tiny):
    (tiny.folder / "_toc.yml").write_text(
        "format: jb-book\nroot: book/index\nchapters:\n- file: book/02-first\n  sections:\n  - file: book/02-further\n- file: book/05-next\noptions:\n  numbered: true\n"
    )
    tiny.write("See {eq}`eq-next`.\n")
    for name in ("02-first", "02-further", "05-next"):
        (tiny.folder / "book" / f"{name}.md").write_text(
            f"# Title\n\n## One\n\n$$\na = b\n$$ (eq-{name.split('-')[1]})\n\n## Two\n"
        )
    code, said = tiny.build()
    assert code == 0, said
    numbers = lambda name: re.findall(
        r'<h[12]><span class="section-number">([\d.]*)\. ?</span>',
        (tiny.folder / f"_build/html/book/{name}.html").read_text(),
    )
    assert numbers("02-first") == ["2", "2.1", "2.2"]
    assert numbers("02-further") == ["2.3", "2.3.1", "2.3.2"]
    assert numbers("05-next") == ["5", "5.1", "5.2"]
    assert 'href="05-next.html#equation-eq-next">(5.1)</a>' in tiny.page()
