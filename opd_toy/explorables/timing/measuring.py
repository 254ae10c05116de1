"""Times of the sliders in a browser: of a mount, and of an update by each control.

Each slider stands in a page of its own, opened from disk.  A *mount* begins where the browser
reads the first line of the slider's HTML, in a process that has shown nothing before; an
*update* begins where a control's event is dispatched, in a frame of its own.  Both are taken
until the scripts have ended ("script"), until all is laid out ("laid_out"), and until that frame
is drawn ("drawn"): its style, layout and paint done, its pixels left to other threads.
"""

import contextlib
import math
import statistics
import tempfile
from pathlib import Path

from opd_toy import explorables
from opd_toy.explorables.browser import ADVICE, ARGUMENTS, find_chromium

VIEWPORT = {"width": 1280, "height": 900}
STAGES = ("script", "laid_out", "drawn")
IN_PAGE = (Path(__file__).parent / "in_page.js").read_text(encoding="utf-8")
# The last script runs when the slider's, which stands above it, has ended.
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>
<body style="margin:12px;font:16px/1.5 system-ui,sans-serif">
<script>const began = performance.now();</script>
{widget}
<script type="module">
const script = performance.now() - began;
document.body.getBoundingClientRect();
const laidOut = performance.now() - began;
requestAnimationFrame(() => {{
  const frame = performance.now();
  const {{ port1, port2 }} = new MessageChannel();
  port1.onmessage = () => {{
    globalThis.mountTimes = [script, laidOut, laidOut + performance.now() - frame];
  }};
  port2.postMessage(null);
}});
</script>"""


def measure(names, rounds, report):
    """The figures of the sliders called ``names``, as one JSON-able dict; times in ms.

    ``rounds``: how many mounts, and how many values of each control.  ``report(done, total)``
    is called after each mount, and after all updates of a slider.
    Raises FileNotFoundError, saying what to install, where there is no Chromium.
    """
    from playwright.sync_api import sync_playwright

    chromium = find_chromium()
    if not chromium:
        raise FileNotFoundError(ADVICE)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        found = measure_with(browser, names, rounds, report)
        browser.close()
    return found


def measure_with(browser, names, rounds, report):
    """``measure`` with a browser of Playwright that runs already."""
    done, total = 0, len(names) * (rounds + 1)

    def step():
        nonlocal done
        done += 1
        report(done, total)

    with tempfile.TemporaryDirectory() as folder:
        widgets = [_of_widget(browser, name, rounds, step, Path(folder)) for name in names]
    return {
        "browser": f"Chromium {browser.version}",
        "viewport": VIEWPORT,
        "throttle": 1,  # times slower than this processor
        "rounds": rounds,
        "widgets": widgets,
    }


def _of_widget(browser, name, rounds, step, folder):
    file = folder / f"{name}.html"
    text = PAGE.format(title=name, widget=getattr(explorables, name)().to_html())
    file.write_text(text, encoding="utf-8")
    mounts = []
    for _ in range(rounds):
        with _opened(browser, file) as page:
            mounts.append(page.evaluate("mountTimes"))
        step()
    with _opened(browser, file) as page:
        page.add_script_tag(content=IN_PAGE)
        idle = page.evaluate("nothing", rounds)
        root = page.locator(".opd-host").element_handle()
        controls = page.evaluate("([root, rounds]) => updates(root, rounds)", [root, rounds])
    step()
    return {
        "name": name,
        "bytes": len(text.encode()),
        "mount": summary(mounts),
        "idle": summary(idle),
        "update": summary([times for each in controls.values() for times in each]),
        "controls": {control: summary(times) for control, times in controls.items()},
    }


@contextlib.contextmanager
def _opened(browser, file):
    """The page of a file when it has been drawn, in a process of its own."""
    context = browser.new_context(viewport=VIEWPORT, offline=True)
    page = context.new_page()
    faults = []
    page.on("pageerror", lambda fault: faults.append(fault))
    try:
        page.goto(file.as_uri())
        page.wait_for_function("globalThis.mountTimes")
        yield page
        if faults:
            raise RuntimeError(f"{file.stem} raised {faults[0]}")
    finally:
        context.close()


def summary(times):
    """{"count": n, stage: {"median": ms, "p95": ms, "worst": ms}} of triples of ms."""
    found = {"count": len(times)}
    for stage, values in zip(STAGES, zip(*times)):
        ordered = sorted(values)
        found[stage] = {
            "median": round(statistics.median(ordered), 2),
            "p95": round(ordered[math.ceil(0.95 * len(ordered)) - 1], 2),
            "worst": round(ordered[-1], 2),
        }
    return found
