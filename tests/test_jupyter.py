"""Every explorable in a real JupyterLab: moved there, read in Python, set from Python."""

import json
import os
import re
import secrets
import socket
import subprocess
import sys
import time
import urllib.request

import nbformat
import numpy as np
import pytest
from jupyter_client import BlockingKernelClient

from opd_toy.explorables.host import Distribution, Subset
from tests.conftest import ROOT
from tests.explorables import WIDGETS, check, read

PATIENCE = 60  # seconds for a start; the rest is quick

SETTINGS = {
    "notebook-extension/tracker": {"windowingMode": "none"},  # every output stays in the page
    "apputils-extension/notification": {
        "checkForUpdates": False,
        "doNotDisturbMode": True,
        "fetchNews": "false",
    },
}


def until(condition, what, seconds=PATIENCE):
    """The first true answer of ``condition``."""
    end = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < end, f"no {what} within {seconds} s"
        time.sleep(0.1)
    return answer


def notebook():
    """One cell that imports, one a widget, and one that tells what Python heard."""
    cells = [
        "import json\n"
        "from IPython.display import display\n"
        "from opd_toy import explorables\n"
        "explorers, heard = {}, {}"
    ]
    for name in WIDGETS:
        cells.append(
            f"explorers[{name!r}] = explorer = explorables.{name}()\n"
            f"heard[{name!r}] = []\n"
            f"hear = lambda change: heard[{name!r}].append(change['name'])\n"
            "explorer.observe(hear, list(explorer.state()))\n"
            "explorer"
        )
    cells.append("print('HEARD', json.dumps(heard))")
    return nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(cell) for cell in cells],
        metadata={
            "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}
        },
    )


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A JupyterLab of its own, with nothing of the user's: yields its address and token."""
    home = tmp_path_factory.mktemp("jupyter")
    work = home / "work"
    work.mkdir()
    nbformat.write(notebook(), work / "explorables.ipynb")
    for name, values in SETTINGS.items():
        file = home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    places = {
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "IPYTHONDIR": "ipython",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "HOME": ".",
    }
    environment = os.environ | {key: str(home / place) for key, place in places.items()}
    # the kernel imports this copy of the package, wherever another may be installed
    environment["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
    )
    environment.pop("JUPYTER_CONFIG_PATH", None)
    log = home / "log.txt"
    with log.open("w") as output:
        server = subprocess.Popen(
            [
                *(sys.executable, "-m", "jupyterlab", "--no-browser"),
                "--ServerApp.ip=127.0.0.1",
                f"--ServerApp.port={port}",
                "--ServerApp.port_retries=0",
                f"--IdentityProvider.token={token}",
                f"--ServerApp.root_dir={work}",
                "--ServerApp.allow_root=True",
                "--LabApp.extension_manager=readonly",
                "--LabApp.news_url=",
            ],
            env=environment,
            cwd=work,
            stdout=output,
            stderr=subprocess.STDOUT,
        )

    def answers():
        assert server.poll() is None, f"JupyterLab did not start:\n{log.read_text()[-3000:]}"
        try:
            return urllib.request.urlopen(
                f"http://127.0.0.1:{port}/api/status?token={token}", timeout=5
            )
        except OSError:
            return None

    try:
        until(answers, "answer from JupyterLab")
        yield f"http://127.0.0.1:{port}", token, home
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


@pytest.fixture(scope="module")
def page(browser, lab):
    """The notebook open in JupyterLab, all its cells run from the menu."""
    address, token, _ = lab
    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    page = context.new_page()
    page.outside, page.faults = [], []
    local = lambda url: url.startswith(
        (address, address.replace("http", "ws"), "data:", "blob:", "about:")
    )
    context.on("request", lambda request: local(request.url) or page.outside.append(request.url))
    context.route(lambda url: not local(url), lambda route: route.abort())
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.on(
        "console",
        lambda message: (
            page.faults.append(message.text)
            if message.type == "error" and re.search("anywidget|opd|widget", message.text, re.I)
            else None
        ),
    )
    page.goto(f"{address}/lab/tree/explorables.ipynb?token={token}&reset")
    page.locator(".jp-Notebook .jp-Cell").first.wait_for(timeout=PATIENCE * 1000)
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(
        timeout=PATIENCE * 1000
    )  # else the menu asks for a kernel
    page.locator(".lm-MenuBar-itemLabel", has_text=re.compile("^Run$")).click()
    page.locator(".lm-Menu-itemLabel", has_text=re.compile("^Run All Cells$")).click()
    until(
        lambda: page.locator(".jp-OutputArea-output .opd-card").count() == len(WIDGETS),
        "explorables in the notebook",
    )
    yield page
    context.close()


@pytest.fixture(scope="module")
def python(lab, page):
    """Run code in the notebook's kernel; what it prints comes back as JSON."""
    [connection] = (lab[2] / "runtime").glob("kernel-*.json")
    client = BlockingKernelClient(connection_file=str(connection))
    client.load_connection_file()
    client.start_channels()
    client.wait_for_ready(timeout=PATIENCE)

    def run(code):
        texts = []

        def hear(message):
            if message["msg_type"] == "stream":
                texts.append(message["content"]["text"])
            assert message["msg_type"] != "error", "\n".join(message["content"]["traceback"])

        client.execute_interactive(code, timeout=PATIENCE, output_hook=hear)
        return json.loads("".join(texts)) if texts else None

    yield run
    client.stop_channels()


def card(page, name):
    place = list(WIDGETS).index(name)
    root = page.locator(".jp-OutputArea-output .opd").nth(place)
    root.scroll_into_view_if_needed()
    return root


def state(python, name):
    return python(f"print(json.dumps(explorers[{name!r}].state()))")


def agrees(python, root, name):
    """Once Python and the page tell the same state: that state."""

    def same():
        seen, own = read(root), state(python, name)
        lists = {
            key: value
            for key, value in own.items()
            if isinstance(value, list) and value and isinstance(value[0], float)
        }
        alike = all(np.array_equal(seen.distribution(key), value) for key, value in lists.items())
        alike &= all(float(seen.outputs[key]) == own[key] for key in seen.outputs if key in own)
        alike &= seen.switched == own.get("methods", [])
        alike &= all(seen.choices[key] == str(own[key]) for key in seen.choices if key in own)
        return own if alike else None

    return until(same, f"agreement of page and Python on {name}", 10)


@pytest.mark.parametrize("name", WIDGETS)
def test_moved_in_jupyterlab_and_read_in_python(name, page, python):
    root, widget = card(page, name), WIDGETS[name]()
    check(root, widget)
    assert agrees(python, root, name) == widget.state()
    slider = root.locator("input[type=range]").first
    slider.focus()
    before = slider.input_value()
    for _ in range(3):
        page.keyboard.press("ArrowLeft")  # which JupyterLab itself would like to have
    if slider.input_value() == before:  # at its left end
        page.keyboard.press("ArrowRight")
    assert slider.input_value() != before
    until(lambda: state(python, name) != widget.state(), "change in Python", 10)
    moved = agrees(python, root, name)
    changed = {key for key in moved if moved[key] != widget.state()[key]}
    assert changed
    check(root, widget)
    # a choice by the mouse
    group = root.locator(".opd-choice").first
    label = group.locator("label").nth(0 if group.locator("input").last.is_checked() else -1)
    label.click()
    assert label.locator("input").is_checked()
    until(lambda: state(python, name) != moved, "second change in Python", 10)
    now = agrees(python, root, name)
    heard = python(f"print(json.dumps(heard[{name!r}]))")
    assert changed | {key for key in now if now[key] != moved[key]} <= set(heard)
    check(root, widget)


@pytest.mark.parametrize("name", WIDGETS)
def test_set_in_python_and_followed_in_jupyterlab(name, page, python):
    root, widget = card(page, name), WIDGETS[name]()
    random = np.random.default_rng(9)
    for key, trait in widget.traits(sync=True).items():
        if isinstance(trait, Distribution):
            value = random.dirichlet(np.full(len(trait.default_args[0]), 5.0)).tolist()
        elif isinstance(trait, Subset):
            value = trait.names[::3]
        elif key in ("baseline", "beta", "sharpness", "separation"):
            value = 0.625 * trait.max
        else:
            continue
        python(f"explorers[{name!r}].{key} = {value!r}")
        own = agrees(python, root, name)
        if isinstance(trait, Subset):
            assert own[key] == value
        else:
            np.testing.assert_allclose(own[key], value, rtol=1e-12)
    check(root, widget)
    ids = page.evaluate("[...document.querySelectorAll('.opd [id]')].map((node) => node.id)")
    groups = page.evaluate(
        """[...document.querySelectorAll('.opd-choice')]
        .map((node) => node.querySelector('input').name)"""
    )
    assert len(set(ids)) == len(ids) and len(set(groups)) == len(groups)
    assert page.outside == [] and page.faults == []


def test_a_cell_prints_what_was_observed(page):
    """As a reader does it: click into the last cell, Shift+Enter (which adds an empty one)."""
    name = next(iter(WIDGETS))
    slider = card(page, name).locator("input[type=range]").first
    slider.focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowRight")
    cell = page.locator(".jp-Notebook .jp-CodeCell").nth(len(WIDGETS) + 1)
    cell.scroll_into_view_if_needed()
    cell.locator(".cm-content").click()
    before = cell.locator(".jp-OutputArea-output").inner_text()
    page.keyboard.press("Shift+Enter")
    output = until(
        lambda: (text := cell.locator(".jp-OutputArea-output").inner_text()) != before and text,
        "new output",
        20,
    )
    heard = json.loads(output.split("HEARD", 1)[1])
    # The others were moved by the tests before this one, perhaps in another worker's JupyterLab.
    assert set(heard) == set(WIDGETS) and heard[name]
