"""Still pictures of the explorables, photographed in a browser.

They stand in the page where scripts are off, and in the README.
"""

import io
import tempfile
from pathlib import Path

from opd_toy import explorables
from opd_toy.explorables.browser import ADVICE, ARGUMENTS, find_chromium

WIDTH = 784


def page_of(widget, dark=False):
    """A bare page around one explorable."""
    theme, paper = ("dark", "#14181e") if dark else ("light", "#ffffff")
    return (
        f'<!doctype html><html lang="en" data-theme="{theme}"><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>{widget.name}</title>'
        f'<body style="margin:12px;background:{paper};font:16px/1.5 system-ui,sans-serif">'
        f"{widget.to_html()}</body></html>"
    )


def photograph(directory):
    """Write NAME.png for every explorable into ``directory``; return the paths.

    Raises FileNotFoundError, saying what to install, where there is no Chromium.
    """
    from playwright.sync_api import sync_playwright

    chromium = find_chromium()
    if not chromium:
        raise FileNotFoundError(ADVICE)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        paths = photograph_with(browser, directory)
        browser.close()
    return paths


def photograph_with(browser, directory):
    """``photograph`` with a browser of Playwright that runs already."""
    from PIL import Image

    paths = []
    with tempfile.TemporaryDirectory() as folder:
        page = browser.new_page(viewport={"width": WIDTH, "height": 900})
        for name in explorables.__all__:
            widget = getattr(explorables, name)()
            source = Path(folder) / f"{widget.name}.html"
            source.write_text(page_of(widget), encoding="utf-8")
            page.goto(source.as_uri())
            page.wait_for_selector("[data-mounted]")
            shot = Image.open(io.BytesIO(page.locator(".opd-card").screenshot()))
            path = directory / f"{widget.name}.png"
            shot.convert("RGB").quantize(
                48, Image.Quantize.MAXCOVERAGE, kmeans=3, dither=Image.Dither.NONE
            ).save(path, optimize=True)
            paths.append(path)
        page.close()
    return paths
