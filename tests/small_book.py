"""A book of five pages that has one of everything that book/_extensions does, and what becomes of
it as text; ``python -m tests.small_book`` writes tests/small_book.txt anew."""

import json
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from unittest.mock import patch

from bs4 import BeautifulSoup

from tests.conftest import ROOT

KEPT = ROOT / "tests" / "small_book.txt"
EXTENSIONS = ROOT / "book" / "_extensions"
KERNEL = "kernelspec:\n  display_name: Python 3\n  language: python\n  name: python3\n"
INDEX = f"""---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
{KERNEL}search:
  sec-here: 152064, some words
  sec-first: more
---

# One page

**In short.** Of RLVR the sum, *see* [the first](02-first.md#eq-sum).

Not **In short.** either: a verified reward, RLVR again, `coin`, two fair coins, unfair coin,
a coin toss.

:::{{note}}
:class: only-jupyterlab
Press a button.
:::

:::{{note}}
A fair coin.
:::

(sec-first)=
(sec-here)=
## Here, a fair coin

```{{code-cell}} ipython3
:tags: [remove-input]
from opd_toy.pages.page import exercise, figure
value = 7

def draw(style):
    import matplotlib.pyplot as plt

    return plt.figure(figsize=(1, 1), facecolor=style["student"])

figure(draw, alt="A square")
```

```{{code-cell}} ipython3
:tags: [remove-input]
figure(draw, alt="The same square", caption="Once more")
```

It is {{eval}}`value` of 12, or 83 % of 150 000, or 0.017 ± 0.060 or 5.9 · 10; by
[words](#eq-here), by [(2.1)](02-first.md#eq-sum), [there](02-first.md#sec-there) and
[Hinton et al. (2015)](references.md#hinton2015).

$$
x = y \\text{{ or 83 % }}
$$ (eq-here)

```{{code-cell}} ipython3
:tags: [remove-input]
exercise("1A", 0.25, unit="nats", why="A half of a half.")
```

(sec-fold)=
:::{{dropdown}} Solution
It is 3 % of *these*.
:::

:::{{dropdown}} Why & <how>
Because.
:::
"""
FIRST = """---
description: What is said of it & elsewhere.
---

# The first

Of RLVR.

$$
a = b
$$ (eq-sum)

(sec-there)=
## There

$$
c = d
$$ (eq-second)

Back to [here](index.md#sec-here), [words](index.md#eq-here), [a site](https://example.org/#x),
[terms](notation.md) and [a fold](index.md#sec-fold).

## More

Text.
"""
NOTATION = """# Notation

RLVR, verified reward
: Its meaning, with a [link](02-first.md#sec-there) and $z$.

fair coin
: It has *two* sides.

coin
: It has sides. A fair coin has two.

coin toss
: Heads ≤ 1.

text
: Everyday.
"""
API = """# Functions

```{eval-rst}
.. autofunction:: of_the_small_book.halved
```
"""
FUNCTION = '''"""A module."""

def halved(x, *, by=2):
    """A |part| of *x*, as
    in eq-sum and eq-some-claim:

        x_1 * 2

    ``x_1`` is x_1.
    """
'''
CITATION = """cff-version: 1.2.0
title: A small book
version: "1.0"
date-released: "2020-03-04"
abstract: A book of five pages.
authors:
  - name: its authors
references:
  - authors: [{given-names: A., family-names: B}]
    title: Another
    year: 2019
    notes: By hand.
"""
URL, SITE = "https://github.com/someone/some.book", "https://someone.github.io/some.book/"
PAGES = {
    "index": INDEX,
    "02-first": FIRST,
    "notation": NOTATION,
    "references": "# References\n\n```{bibliography}\n:all:\n```\n",
    "api": API,
}


def written(folder):
    """The sources of the book, in a folder that is there."""
    (folder / "book").mkdir()
    for name in ("_extensions", "_templates", "_static"):
        unneeded = shutil.ignore_patterns("__pycache__")  # another worker may be writing it
        shutil.copytree(ROOT / "book" / name, folder / "book" / name, ignore=unneeded)
    settings = (ROOT / "_config.yml").read_text(encoding="utf-8")
    settings = re.sub(r'(?<=  url: )".*"', f'"{URL}"', settings)
    settings = re.sub(r'(?<=  baseurl: )".*"', f'"{SITE}"', settings)
    files = {
        "_config.yml": settings,
        "CITATION.cff": CITATION,
        "requirements.txt": "",
        "of_the_small_book.py": FUNCTION,
        "book/references.bib": "@misc{hinton2015, author={Hinton, G.}, title={T}, year={2015}}\n",
        "_toc.yml": "format: jb-book\nroot: book/index\noptions:\n  numbered: true\nchapters:\n"
        + "".join(f"- file: book/{name}\n" for name in PAGES if name != "index"),
        **{f"book/{name}.md": text for name, text in PAGES.items()},
    }
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def built(folder):
    """The folder of the built pages; in this process, so that faults can be followed."""
    from click.testing import CliRunner
    from jupyter_book.cli.main import main

    with (
        patch.dict(os.environ),
        patch.object(sys, "path", [str(EXTENSIONS), str(folder), *sys.path]),
    ):
        done = CliRunner().invoke(main, ["build", str(folder), "-W", "-n", "--keep-going"])
    assert done.exit_code == 0, done.output
    return folder / "_build" / "html"


def lines(site):
    """The files, what stands on each page, what its links show, what the search and a PDF have."""
    import one_pdf

    files = [path.relative_to(site).as_posix() for path in site.rglob("*") if path.is_file()]
    found = sorted(name for name in files if "/mathjax/" not in name and "/mystnb." not in name)
    found.append(f"{len(files) - len(found)} of MathJax and MyST")
    for name in (*PAGES, "../index"):
        text = (site / "book" / f"{name}.html").read_text("utf-8")
        soup = BeautifulSoup(text, "html.parser")  # which closes what is left open
        found += ["", f"{name}: {soup.title.get_text() if soup.title else ''}"]
        found.append(f"{text.count('<details')} folds, {text.count('</details>')} closed")
        shown = SHOWN if name != "index" else f"{SHOWN}, nav.bd-links li, .header-article__right a"
        for part in soup.select(shown):
            found += elements(part)
    for path in sorted((site / "_static" / "previews").glob("*.js")):
        found += ["", path.name, *path.read_text("utf-8").strip().split("\n")]
    index = (site / "searchindex.js").read_text("utf-8").removeprefix("Search.setIndex(")
    index = json.loads(index.removesuffix(")"))
    found += ["", "search", *(f"{name}: {index[name]}" for name in ("indexentries", "alltitles"))]
    empty = [path for path in site.rglob("*") if path.is_dir() and not any(path.iterdir())]
    whole = BeautifulSoup(one_pdf.one_document(site), "html.parser")
    head = whole.head.extract()
    loaded = [each.get("src") or each.get("href") for each in head.select("script, link")]
    of_pdf = [re.sub(r"\?.*", "", address or "its own") for address in loaded]
    of_pdf += [head.select("style")[-1].string.strip(), *elements(whole)]
    found += ["", f"empty folders: {len(empty)}", "", "PDF", *of_pdf]
    return [re.sub(r"mystnb\.\w+", "mystnb", each.replace(site.as_uri(), "")) for each in found]


SHOWN = "meta[property], meta[name='twitter:card'], article, footer.bd-footer-article, .page-toc li"
BLOCK = re.compile(r"(?=<(?:p|div|section|h\d|dt|dd|details|li|a|img|meta|form|figure)\b)")


def elements(part):
    """An element's HTML, a line for each that begins a block; no code, no style."""
    for each in part.select("script, style, svg"):
        each.string = ""
    text = re.sub(r"-[0-9a-f]{8}\b", "", str(part)).replace("\n", " ")
    return [line.strip() for line in BLOCK.split(text) if line.strip()]


def made(folder):
    """The text of the book, built in a folder that is there."""
    site = built(written(folder))
    with patch.object(sys, "path", [str(EXTENSIONS), *sys.path]):
        return "\n".join(lines(site)) + "\n"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as here:
        KEPT.write_text(made(Path(here)), encoding="utf-8")
