"""The build itself, on a book of one page: stale, failed and unfinished pages are not published."""

import html
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from docutils import nodes

from tests import building, jupyter
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
from IPython.display import Markdown
from opd_toy.value import value
proof = "<details><summary>Proof</summary>\\n\\n$$\\ny = 1\\n$$\\n\\n</details>"
Markdown(f"$$\\nx = {value}\\n$$ (eq-from-a-cell)\\n\\n{proof}")
```

See {eq}`eq-from-a-cell`.
"""
LEDGER = (
    HEADER
    + """```{code-cell} ipython3
from pathlib import Path
from IPython.display import Markdown
Markdown("Found: " + ", ".join(path.stem for path in Path("../tests").glob("*.py")))
```
"""
)
KERNEL = """# Text

```{code-cell} ipython3
import json, os, sys
from ipykernel import get_connection_info
told = dict(get_connection_info(unpack=True), parent=os.getppid(), torch="torch" in sys.modules)
del told["key"]
print("told", json.dumps(told))
```
"""


class TinyBook:
    """A copy of the book's settings around one page."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "book").mkdir()
        # without what Python compiled: another worker may be writing that
        unneeded = shutil.ignore_patterns("__pycache__", "test_*")
        for name in ("_extensions", "_templates", "_static"):
            shutil.copytree(ROOT / "book" / name, folder / "book" / name, ignore=unneeded)
        for name in ("_config.yml", "CITATION.cff", "requirements.txt", "book/references.bib"):
            shutil.copy(ROOT / name, folder / name)
        (folder / "_toc.yml").write_text("format: jb-book\nroot: book/index\n")
        shutil.copytree(ROOT / "opd_toy", folder / "opd_toy", ignore=unneeded)
        self.set_value(1)

    def set_value(self, value):
        (self.folder / "opd_toy" / "value.py").write_text(f"value = {value}\n")

    def write(self, body):
        (self.folder / "book" / "index.md").write_text(HEADER + body)

    def build(self):
        """The exit code of a build as the Makefile runs it, and what it said."""
        return building.build(self.folder)

    def page(self, name="index"):
        return (self.folder / f"_build/html/book/{name}.html").read_text()


@pytest.fixture
def tiny(tmp_path):
    return TinyBook(tmp_path)


@pytest.fixture
def extension(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "book" / "_extensions")
    import whole_pages

    return whole_pages


def test_what_a_cell_prints_is_set_kept_and_renewed(tiny):
    tiny.write(GOOD_CELL)
    code, said = tiny.build()
    assert code == 0 and "Executed notebook" in said, said
    page = tiny.page()
    assert re.search(
        r'<div class="math[^"]*" id="equation-eq-from-a-cell">\s*<span class="eqno">\(1\)', page
    )
    assert '<a class="reference internal" href="#equation-eq-from-a-cell">(1)</a>' in page
    assert re.search(r"<details><summary>Proof</summary>\s*<div class=\"math", page)
    assert "x = 1" in page

    code, said = tiny.build()
    assert code == 0 and "Executed notebook" not in said, (
        "nothing changed, and the page was executed again"
    )
    assert tiny.page() == page

    tiny.set_value(2)
    code, said = tiny.build()
    assert code == 0, said
    assert "x = 2" in tiny.page() and "x = 1" not in tiny.page(), "a stale output was published"


def test_the_ledger_is_checked_again_after_a_test_has_gone(tiny):
    tiny.write("Text.\n\n" + GOOD_CELL)
    (tiny.folder / "_toc.yml").write_text(
        "format: jb-book\nroot: book/index\nchapters:\n- file: book/ledger\n"
    )
    (tiny.folder / "book" / "ledger.md").write_text(LEDGER)
    (tiny.folder / "tests").mkdir()
    (tiny.folder / "tests" / "test_number.py").write_text("")
    code, said = tiny.build()
    assert code == 0 and "Found: test_number" in tiny.page("ledger"), said
    (tiny.folder / "tests" / "test_number.py").unlink()
    code, said = tiny.build()
    assert code == 0 and said.count("Executed notebook") == 1, said
    assert "test_number" not in tiny.page("ledger"), "the ledger of before was published"


TEXT = """```{code-cell} ipython3
from opd_toy.value import value
```

:::{note}
:class: only-jupyterlab
Press a button.
:::

**In short.** The sum.

Not **In short.** either.

(sec-here)=
## Here

(sec-fold)=
:::{dropdown} Solution
It is {eval}`value` or 83 % of 150 000, by [the sum](#eq-sum), [here](other.md#sec-there) and
[Hinton et al. (2015)](references.md#hinton2015).
:::

$$
x = y
$$ (eq-sum)
"""


def test_a_number_stays_with_its_sign_its_thousands_and_its_error(extension):
    from one_source import TORN

    torn = "0.017 ± 0.060, 83 % of 150 000, 5.9 · 10, 3 or 4 of 12"
    assert TORN.sub("_", torn) == "0.017_±_0.060, 83_% of 150_000, 5.9_·_10, 3 or 4 of 12"


def test_text_holds_numbers_folds_and_links(tiny):
    (tiny.folder / "_toc.yml").write_text(
        "format: jb-book\nroot: book/index\nchapters:\n- file: book/other\n"
        "- file: book/references\n"
    )
    (tiny.folder / "book" / "other.md").write_text(
        "---\nsearch:\n  sec-there: 152064, some words\n---\n"
        "# Other\n\n(sec-there)=\n## There\n\nBack to [the sum](index.md#eq-sum).\n"
    )
    references = tiny.folder / "book" / "references.md"
    references.write_text("# References\n\n```{bibliography}\n:all:\n```\n")
    tiny.write(TEXT)
    code, said = tiny.build()
    assert code == 0, said
    page = tiny.page()
    assert "Press a button" not in page
    assert re.findall(r'<p class="in-short">(.*?)</p>', page) == [
        "<strong>In short.</strong> The sum."
    ]
    assert page.index('id="sec-fold"') < page.index("<summary>Solution"), "its label is lost"
    fold = re.search(
        r"<details class=.opd-folded.><summary>Solution</summary>(.*?)</details>", page, re.S
    )
    text = re.sub(r"<[^>]*>", "", fold[1])
    whole = "It is 1 or 83\u00a0% of 150\u00a0000, by the sum (1), here and Hinton et al. (2015)."
    assert re.sub(r"[ \n]+", " ", text).strip() == whole
    assert re.findall(r'href="([^"]*)"', fold[1])[:2] == [
        "#equation-eq-sum",
        "other.html#sec-there",
    ]
    assert "the sum (1)" in re.sub(r"<[^>]*>", "", tiny.page("other"))
    found = lambda typed: re.search(
        rf'"{typed}": \[\[\d+, "sec-there", true\]\]',
        (tiny.folder / "_build/html/searchindex.js").read_text(),
    )
    assert found("152064") and found("some words")

    tiny.set_value(2)  # the page that uses it is executed again, and no other
    code, said = tiny.build()
    assert code == 0 and said.count("Executed notebook") == 1, said
    assert "It is 2" in re.sub(r"<[^>]*>", "", tiny.page())
    assert found("152064"), "lost with the page that was not written again"

    tiny.write(TEXT.replace("(2015)", "(2016)"))
    code, said = tiny.build()
    assert code != 0 and "'Hinton et al. (2016)' is of 2015" in said


def test_what_a_chapter_can_use_is_an_ingredient_and_tests_are_not(tmp_path, extension):
    for folder in ("opd_toy/derivations", "figures", "tests"):
        (tmp_path / folder).mkdir(parents=True)
    taken = lambda: extension.fingerprint(tmp_path, extension.INGREDIENTS)
    used = ["opd_toy/a.py", "opd_toy/a.js", "opd_toy/a.css", "figures/a.json", "requirements.txt"]
    for name in used:
        before = taken()
        (tmp_path / name).write_text("one")
        added = taken()
        (tmp_path / name).write_text("two")
        assert len({before, added, taken()}) == 3, name
    before = taken()
    for name in ("opd_toy/derivations/test_a.py", "tests/test_a.py", "figures/a.png"):
        (tmp_path / name).write_text("one")
    assert taken() == before


def test_the_ledger_is_asked_for_when_what_it_reads_has_changed(tmp_path, extension):
    for place in ("book/page.md", "tests/test_one.py", "opd_toy/derivations/test_two.py"):
        (tmp_path / place).parent.mkdir(parents=True)
        (tmp_path / place).write_text("before")
    app, env = SimpleNamespace(srcdir=tmp_path), SimpleNamespace(found_docs={"book/ledger"})
    ask = lambda: extension.check_the_ledger_again(app, env, set(), set(), set())
    assert ask() == ["book/ledger"] and ask() == []
    for place in ("book/page.md", "tests/test_one.py", "opd_toy/derivations/test_two.py"):
        (tmp_path / place).write_text("after")
        assert ask() == ["book/ledger"] and ask() == [], place
        (tmp_path / place).unlink()
        assert ask() == ["book/ledger"] and ask() == [], place
    assert (
        extension.check_the_ledger_again(
            app, SimpleNamespace(found_docs={"book/index"}), set(), set(), set()
        )
        == []
    )


def test_all_pages_are_set_again_when_the_contents_have_changed(tmp_path, extension):
    app, env = SimpleNamespace(srcdir=tmp_path), SimpleNamespace(found_docs={"book/b", "book/a"})
    ask = lambda: extension.follow_the_contents(app, env, set(), set(), set())
    for order in ("a b", "b a"):
        (tmp_path / "_toc.yml").write_text(order)
        assert ask() == ["book/a", "book/b"] and ask() == []


def test_a_link_leads_to_a_place_of_the_book_or_to_none(extension):
    from one_source import target

    def led(**to):
        return target(None, "book/a", nodes.reference("", "words", **to))

    assert led(refid="x") == led(refuri="#x", internal=True) == ("book/a", "x")
    assert led(refuri="b.html#y", internal=True) == ("book/b", "y")
    assert led(refuri="b.html", internal=True) == (None, None)
    assert led(refuri="https://example.org/book/b.html#y") == (None, None)


def test_a_page_is_executed_again_when_what_its_cells_use_has_changed(
    tmp_path, extension, monkeypatch
):
    import one_source

    page, pins = tmp_path / "page.md", tmp_path / "requirements.txt"
    assert one_source.used("from opd_toy.example import STUDENT") == (["opd_toy.example"], [])
    modules, files = one_source.used("from opd_toy.explorables import Credit")
    assert {"opd_toy.explorables.credit", "opd_toy.explorables.host"} <= set(modules)
    assert files == ["figures/*.png", "opd_toy/explorables/*.[jc]s*"]
    assert "opd_toy.commands.audit" in one_source.used("import subprocess")[0]
    assert one_source.used("import math") == ([], [])

    def taken(cell="import math", prose="Text.", pinned="numpy==1"):
        page.write_text(HEADER + f"{prose}\n\n```{{code-cell}} ipython3\n{cell}\n```\n")
        pins.write_text(pinned)
        return one_source.ingredients(tmp_path, page)

    assert taken() == taken(prose="Other text.")
    cell = "import opd_toy.example"
    assert len({taken(), taken(pinned="numpy==2"), taken(cell=cell)}) == 3
    for read in ("figures/a.json", "opd_toy/pages/a.css", "opd_toy/explorables/exercise.js"):
        monkeypatch.setattr(one_source, "READ", (read,))
        monkeypatch.setattr(one_source, "ROOT", tmp_path)
        (tmp_path / read).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / read).write_text("one")
        before = taken(cell=cell)
        (tmp_path / read).write_text("two")
        assert before != taken(cell=cell) and taken() == taken()


def test_docstrings_are_set_as_plain_text(extension):
    lines = [
        "A |sum| of *all*, as",
        "  in eq-rkl-logit-gradient:",
        "",
        "    p * q",
        "",
        "``a_b`` c_d",
    ]
    extension.set_plain_text(None, "function", "f", None, {}, lines)
    assert lines == [
        "A \\|sum\\| of \\*all\\*, as in :eq:`eq-rkl-logit-gradient`:",
        *["", "::", "", "        p * q", ""],
        *["``a_b`` c\\_d", ""],
    ]


def test_words_of_code_are_unwrapped_on_the_page_of_functions_alone(extension):
    """Elsewhere book.js lets names in tables break inside them."""
    code = '<code><span class="pre">a</span> <span class="pre">b</span></code>'
    for before, after in ((code, code), ('<dl class="py function">' + code, "<code>a b</code>")):
        context = {"body": before, "pathto": None}
        extension.mend_body(None, "book/page", "page.html", context, None)
        assert context["body"].endswith(after)


def test_a_page_that_has_left_the_book_leaves_the_site(tmp_path, extension):
    for name in ("index", "book/kept", "book/gone", "_static/part"):
        (tmp_path / f"{name}.html").parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.html").write_text(name)
    builder = SimpleNamespace(get_outfilename=lambda name: tmp_path / f"{name}.html")
    env = SimpleNamespace(all_docs=["book/kept"])
    app = SimpleNamespace(outdir=tmp_path, builder=builder, env=env)
    extension.drop_pages_no_longer_in_the_book(app)
    left = {path.stem for path in tmp_path.rglob("*.html")}
    assert left == {"index", "kept", "part"}


def test_a_change_during_the_build_fails_it_and_is_not_remembered(tiny):
    tiny.write(
        "```{code-cell} ipython3\nfrom pathlib import Path\n"
        "Path('../opd_toy/value.py').write_text('value = 3')\n```\n"
    )
    code, said = tiny.build()
    assert code != 0 and "changed while its chapters were executed" in said
    code, said = tiny.build()
    assert code == 0 and "Executed notebook" in said, said


FAULTY = {
    "raises": ("```{code-cell} ipython3\n1 / 0\n```\n", ["ZeroDivisionError"]),
    "no-longer-holds": (
        "```{code-cell} ipython3\nkl = 1\nassert kl > 2, 'more than two'\n```\n",
        ["AssertionError", "more than two"],
    ),
    "wrong-name": (
        "```{code-cell} ipython3\nkl = 1\n```\n\nThe KL is {eval}`kll`.\n",
        ["name 'kll' is not defined"],
    ),
    "warns": (
        "See {eq}`eq-nowhere`, {cite:t}`nobody1900` and [there](no-such-page.md).\n\n"
        "```{code-cell} ipython3\nimport sys\nprint('careful', file=sys.stderr)\n```\n\n"
        "```{code-cell} ipython3\n:tags: [skip-execution]\nprint(1)\n```\n",
        ["eq-nowhere", "nobody1900", "no-such-page", "stderr was found", "was not executed"],
    ),
}


def test_faulty_pages_fail_the_build_however_often_it_is_tried(tiny):
    """Each is named, whatever the others do."""
    tiny.write("Text.\n")
    for name, (body, _) in FAULTY.items():
        (tiny.folder / "book" / f"{name}.md").write_text(HEADER + body)
    files = "".join(f"- file: book/{name}\n" for name in FAULTY)
    (tiny.folder / "_toc.yml").write_text(f"format: jb-book\nroot: book/index\nchapters:\n{files}")
    for _ in range(2):
        code, said = tiny.build()
        assert code != 0
        raised = re.search("these chapters raised an error: (.*)", said)[1]
        assert {"book/raises", "book/no-longer-holds"} <= set(re.findall(r"[\w/-]+", raised)), said
        for name, (_, complaints) in FAULTY.items():
            assert [each for each in complaints if each not in said] == [], (name, said)
        assert not (tiny.folder / "_build/html/.made-from").exists()


@pytest.mark.parametrize("name", ["raises", "wrong-name"])
def test_one_faulty_page_fails_the_build(tiny, name):
    tiny.write(FAULTY[name][0])
    assert tiny.build()[0] != 0
    assert not (tiny.folder / "_build/html/.made-from").exists()


def test_a_chapter_bears_the_number_of_its_file_and_so_do_its_equations(tiny):
    (tiny.folder / "_toc.yml").write_text(
        "format: jb-book\nroot: book/index\nchapters:\n- file: book/02-first\n"
        "  sections:\n  - file: book/02-further\n- file: book/05-next\n"
        "options:\n  numbered: true\n"
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
    assert numbers("02-first") == ["2"] and numbers("05-next") == ["5"]
    assert numbers("02-further") == []
    assert 'href="05-next.html#equation-eq-next">(5.1)</a>' in tiny.page()
    assert '<span class="eqno">(2.2)' in tiny.page("02-further")
    code, said = tiny.build()
    assert code == 0 and "no targets are out of date" in said, said


def test_pages_are_executed_side_by_side_and_what_one_tells_reaches_all(tiny):
    """Each process that reads pages forks their kernels from a process of its own.

    So the kernels' parents tell how many there are.  They have no TCP ports, which others may
    take, find PyTorch imported, and leave no file behind.
    """
    pages = {name: f"# {name}\n\nA fair coin.\n" for name in "bcd"}
    pages |= dict.fromkeys("ae", HEADER + KERNEL)
    pages["notation"] = "# Terms\n\n:::{glossary}\nfair coin\n  It has two sides.\n:::\n"
    for name, text in pages.items():
        (tiny.folder / "book" / f"{name}.md").write_text(text)
    files = "".join(f"- file: book/{name}\n" for name in pages)
    (tiny.folder / "_toc.yml").write_text(f"format: jb-book\nroot: book/index\nchapters:\n{files}")
    tiny.write("See {eq}`eq-nowhere`.\n\n```{code-cell} ipython3\n1 / 0\n```\n")
    code, said = tiny.build()
    assert code != 0 and "these chapters raised an error: book/index" in said, said
    assert "eq-nowhere" in said and not (tiny.folder / "_build/html/.made-from").exists()
    told = [json.loads(html.unescape(re.search(r"told (.*)", tiny.page(name))[1])) for name in "ae"]
    assert len({each["parent"] for each in told}) == min(os.cpu_count(), 2)
    for each in told:
        assert each["transport"] == "ipc" and each["torch"] == (sys.platform == "linux")
        assert not list(
            Path(each["ip"]).parent.glob(Path(each["ip"]).stem.removesuffix("-ipc") + "*")
        )
    assert all('href="notation.html#term-fair-coin"' in tiny.page(name) for name in "bcd")


LEFT_ALONE = """
import asyncio, sys
sys.path.insert(0, "book/_extensions")
import kernels

kernels.IMPORTED = ("ipykernel.kernelapp",)
kernels.Manager.forked = True

async def begin():
    manager = kernels.Manager(kernel_name="python3")
    await manager.start_kernel()
    client = manager.client()
    client.start_channels()
    await client.wait_for_ready()
    print(manager.provisioner.pid, manager.connection_file, flush=True)
    sys.stdin.read()

asyncio.run(begin())
"""


def test_a_forked_kernel_ends_with_the_build_that_is_killed():
    command = [sys.executable, "-c", LEFT_ALONE]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True) as build:
        try:
            kernel, file = build.stdout.readline().split()
            assert runs(int(kernel))
        finally:
            build.kill()
    jupyter.until(lambda: not runs(int(kernel)), "end of the kernel")
    assert not list(Path(file).parent.glob(Path(file).stem + "*"))


def runs(process):
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
