"""What the pages assert and show, asked of every processor by ``tests.processors``.

``make test`` leaves this file out: it has just built the book, and holds that to tests/shown.
"""

import subprocess
import sys

import pytest

from tests.conftest import ROOT

PAGES = sorted(path.stem for path in (ROOT / "book").glob("*.md"))
COMPARE = """
from tests.shown import *
found = executed({page!r})
print("" if {page!r} in REPEATING else differences(found, kept({page!r})))
"""


@pytest.mark.parametrize("page", PAGES)
def test_a_page_shows_the_same_on_this_processor(page):
    # apart, for pages set the threads and the precision of PyTorch
    done = subprocess.run(
        [sys.executable, "-c", COMPARE.format(page=page)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stdout + done.stderr[-1500:]
