"""What the pages assert and show, asked of every processor by ``tests.processors``.

``make test`` leaves this file out: it has just built the book, and holds that to tests/shown.
"""

import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.shown import REPEATING

PAGES = sorted(path.stem for path in (ROOT / "book").glob("*.md"))
RUN = "from tests import pages_run; pages_run.run({page!r} + '.md')"
COMPARE = "from tests.shown import *; print(differences(executed({page!r}), kept({page!r})))"


@pytest.mark.parametrize("page", PAGES)
def test_a_page_shows_the_same_on_this_processor(page):
    # apart, for pages set the threads and the precision of PyTorch
    command = (RUN if page in REPEATING else COMPARE).format(page=page)
    done = subprocess.run([sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stdout + done.stderr[-1500:]
