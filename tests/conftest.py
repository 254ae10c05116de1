"""Fixtures shared by the tests: the built book, a browser, pages that may not use the network."""

import contextlib
import gc
import importlib
import os
import sys
from pathlib import Path

import pytest
from xdist.scheduler import LoadFileScheduling

from opd_toy.explorables.browser import ADVICE, ARGUMENTS, find_chromium

# Of the threads of one process, those that wait for the others would keep a processor from them
# and from the other workers' tests. Read when torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

ROOT = Path(__file__).parents[1]
# Each window would load the two lists under the address bar, half of what opening it takes.
# Of several such switches the last holds: Playwright's own names have to stand here again.
OFF = (
    *("WebUIOmniboxPopup", "WebUIOmniboxAimPopup", "AimEnabled"),
    *("AvoidCorsURLLoaderRestartOnRedirect", "AvoidUnnecessaryBeforeUnloadCheckSync"),
    *("DestroyProfileOnBrowserClose", "HttpsFirstBalancedModeAutoEnable", "HttpsUpgrades"),
    *("LensOverlay", "MediaRouter", "NetworkTimeServiceQuerying", "OptimizationHints"),
    *("PaintHolding", "PreconnectToSearch", "TcpPortRandomizationWin"),
    *("ThirdPartyStoragePartitioning",),
)
# The files that take longest, longest first: begun at the end, they would keep one core waiting.
LONGEST = (
    "test_explorables.py",
    "test_explorables_pages.py",
    "test_explorables_drawings.py",
    "test_lm_study.py",
    "test_learning_curves.py",
    "test_jupyter_chapters.py",
    "test_jupyter.py",
    "test_build.py",
    "test_audit_sequence.py",
    "test_planted_faults.py",
    "test_variance_command.py",
    "test_lm_training.py",
    "test_lm_parallel.py",
    "test_audit.py",
    "test_audit_unseen.py",
    "test_lm_losses.py",
)
PAGES = "test_pages.py"
NO_NETWORK = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"


@pytest.hookimpl(wrapper=True)
def pytest_collection(session):
    """Let the workers share the compiling of the tests.

    Each begins to import them at another place and finds the rest compiled by the others.  What
    cannot be imported is told when it is collected.  Nothing imported goes again: no garbage.
    """
    gc.disable()
    try:
        worker = getattr(session.config, "workerinput", None)
        if worker and not session.config.option.file_or_dir:
            _import_tests(int(worker["workerid"].removeprefix("gw")), worker["workercount"])
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def _import_tests(worker, workers):
    names = sorted(path.stem for path in Path(__file__).parent.glob("test_*.py"))
    first = len(names) * worker // workers
    for name in names[first:] + names[:first]:
        with contextlib.suppress(Exception, pytest.skip.Exception):
            importlib.import_module(f"tests.{name}")


def pytest_collection_modifyitems(items):
    """Longest files first, and the pages last."""
    order = {name: place for place, name in enumerate(LONGEST)} | {PAGES: len(LONGEST) + 1}
    items.sort(key=lambda item: order.get(item.path.name, len(LONGEST)))


class Together(LoadFileScheduling):
    """Each file whole on one worker, for its set-ups are then made once; the pages page by page,
    so that all workers end together.  (With pytest 9.2 xdist's own groups hold nothing together.)
    """

    def _split_scope(self, nodeid):
        file, _, test = nodeid.partition("::")
        return f"{file}[{test.partition('[')[2]}" if file.endswith(PAGES) else file


def pytest_xdist_auto_num_workers(config):
    """One more than the processors, for a test that waits for a browser uses none; at most 4."""
    return min(os.cpu_count() or 1, 3) + 1


def pytest_xdist_make_scheduler(config, log):
    return Together(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.fixture(scope="session")
def built_book():
    """The folder of the built pages; an absent or outdated one fails the test."""
    sys.path.insert(0, str(ROOT / "book" / "_extensions"))
    import whole_pages

    site = ROOT / "_build" / "html"
    stamp = site / whole_pages.STAMP
    if not stamp.is_file():
        pytest.fail(f"{site} holds no complete book: run `make book`", pytrace=False)
    if stamp.read_text() != whole_pages.fingerprint(ROOT, whole_pages.SOURCES):
        pytest.fail(f"the book in {site} is older than its sources: run `make book`", pytrace=False)
    return site


@pytest.fixture(scope="module")
def one_thread():
    """One thread for PyTorch: on tensors of a few numbers more of them only wait for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def browser():
    """One Chromium for the whole run; without one the tests fail, they are not skipped."""
    from playwright.sync_api import sync_playwright

    path = find_chromium()
    if not path:
        pytest.fail(ADVICE, pytrace=False)
    with sync_playwright() as playwright:
        arguments = [*ARGUMENTS, f"--disable-features={','.join(OFF)}", NO_NETWORK]
        chromium = playwright.chromium.launch(executable_path=path, args=arguments)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser):
    """A fresh page, the network refused. It keeps what it asked for and what went wrong:

    page.asked      every address requested, from disk too
    page.refused    those that were not from disk: refused
    page.faults     uncaught errors and console errors
    """
    with_context = new_page(browser)
    yield with_context
    with_context.context.close()


def new_page(browser, **options):
    """A page of its own context; see the fixture `page`."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
    page = context.new_page()
    page.asked, page.refused, page.faults = [], [], []

    def on_disk(address):
        return address.startswith(("file:", "data:", "blob:", "about:"))

    def note(request):
        page.asked.append(request.url)
        if not on_disk(request.url):
            page.refused.append(request.url)

    context.on("request", note)
    context.route(lambda address: not on_disk(address), lambda route: route.abort())
    page.on("websocket", lambda socket: page.refused.append(socket.url))
    page.on("pageerror", lambda error: page.faults.append(f"uncaught: {error}"))
    page.on(
        "console",
        lambda message: (
            page.faults.append(f"console: {message.text}") if message.type == "error" else None
        ),
    )
    return page
