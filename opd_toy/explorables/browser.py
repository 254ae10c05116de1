"""The browser of the tests and of the still pictures: find Chromium, or install it, or say
what to install.

    python -m opd_toy.explorables.browser    prints its path
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

# The first, Chromium without its windows and menus, does the same with less work.
NAMES = (
    *("chromium-headless-shell", "chromium", "chromium-browser"),
    *("google-chrome", "google-chrome-stable", "chrome"),
)
# Quiet: nothing that the browser itself would fetch may be taken for a page's request.
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
ADVICE = (
    "No Chromium was found and none could be installed, so the pages cannot be tested, timed or "
    "photographed. Install one (Debian, Ubuntu: apt install chromium; elsewhere: "
    ".venv/bin/playwright install chromium), or set CHROMIUM to the path of one."
)


def find_chromium():
    """The path of a Chromium or Chrome, or None.

    Raises FileNotFoundError if the environment's CHROMIUM names no file.
    """
    named = os.environ.get("CHROMIUM")
    if named:
        if not Path(named).is_file():
            raise FileNotFoundError(
                f"CHROMIUM is {named!r}, where there is no file; "
                "it should be the path of a Chromium"
            )
        return named
    for name in NAMES:
        path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/bin:/usr/local/bin")
        if path:
            return path
    return playwrights_own()


def playwrights_own():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    return path if Path(path).is_file() else None


def install_chromium():
    """Try Playwright's download, then Debian's packages."""
    attempts = [[sys.executable, "-m", "playwright", "install", "chromium"]]
    if shutil.which("apt-get") and os.geteuid() == 0:
        attempts += [["apt-get", "update", "-qq"]]
        attempts += [["apt-get", "install", "-y", "-qq", name] for name in NAMES[:2]]
    for command in attempts:
        print("trying:", *command, file=sys.stderr)
        try:
            subprocess.run(command, timeout=900, stdin=subprocess.DEVNULL, stdout=sys.stderr)
        except (OSError, subprocess.TimeoutExpired) as failure:
            print(failure, file=sys.stderr)
        if find_chromium():
            return


def main():
    if not find_chromium():
        install_chromium()
    path = find_chromium()
    if not path:
        sys.exit(ADVICE)
    print("browser:", path)


if __name__ == "__main__":
    main()
