"""A real JupyterLab, started as ``make notebook`` starts it, for the tests to use in a browser."""

import json
import os
import re
import secrets
import shlex
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import matplotlib.font_manager  # makes its cache of fonts, where there is none
from jupyter_client import BlockingKernelClient

from tests.conftest import ROOT

PATIENCE = 90  # seconds for a start; the rest is quick


def until(condition, what, seconds=PATIENCE):
    """The first true answer of ``condition``."""
    end = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < end, f"no {what} within {seconds} s"
        time.sleep(0.1)
    return answer


def makes_command():
    """(variables, arguments) of the line by which ``make notebook`` starts JupyterLab."""
    told = subprocess.run(
        ["make", "-n", "notebook"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    [line] = re.findall(r"^\w+=\S+ \S*jupyter lab.*", told.stdout.replace("\\\n", " "), re.M)
    variable, _, *arguments = shlex.split(line)
    return dict([variable.split("=", 1)]), [sys.executable, "-m", "jupyter", *arguments]


@dataclass(frozen=True)
class Lab:
    """A running JupyterLab."""

    address: str
    token: str
    runtime: Path  # where its kernels' connection files are
    opens: str  # the path on which ``make notebook`` opens it

    def url(self, path):
        return f"{self.address}{path}?token={self.token}&reset"

    def asked(self, method, path, what=None):
        """What the server answers, as JSON."""
        request = urllib.request.Request(
            f"{self.address}{path}",
            data=None if what is None else json.dumps(what).encode(),
            method=method,
            headers={"Authorization": f"token {self.token}"},
        )
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return json.loads(answer.read() or "null")


def environment_of(home, runtime):
    """What a JupyterLab of the tests has of the user's: its fonts alone.

    All else is in ``home``, but for what ends with it, in ``runtime``: the sockets of its kernels
    are there, whose paths may not be long.
    """
    places = {
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "IPYTHONDIR": "ipython",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "HOME": ".",
    }
    environment = os.environ | {key: str(home / at) for key, at in places.items()}
    environment["JUPYTER_RUNTIME_DIR"] = runtime
    # in a new home the first figure would look for all fonts, and say in its cell if that is slow
    environment["MPLCONFIGDIR"] = matplotlib.get_cachedir()
    # the kernel imports this copy of the package, wherever another may be installed
    paths = [str(ROOT), os.environ.get("PYTHONPATH")]
    return environment | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


@contextmanager
def running(home, work):
    """A JupyterLab on the folder ``work``, as ``make notebook`` starts it; see environment_of."""
    token = secrets.token_hex(16)
    variables, arguments = makes_command()
    opens = next(part.split("=", 1)[1] for part in arguments if "default_url" in part)
    options = [
        "--no-browser",
        "--ServerApp.ip=127.0.0.1",
        # below those that the system gives to others; a port in use is passed over
        f"--ServerApp.port={20_000 + secrets.randbelow(10_000)}",
        "--KernelManager.transport=ipc",  # a port may be taken by another between choice and use
        f"--IdentityProvider.token={token}",
        f"--ServerApp.root_dir={work}",
        "--ServerApp.allow_root=True",
        "--LabApp.extension_manager=readonly",
        "--LabApp.expose_app_in_browser=True",  # for opened_in_place
    ]
    log = home / "log.txt"

    def answers():
        assert server.poll() is None, f"JupyterLab did not start:\n{log.read_text()[-3000:]}"
        try:
            (said,) = Path(runtime).glob("jpserver-*.json")
            address = json.loads(said.read_text())["url"].rstrip("/")
            lab = Lab(address, token, Path(runtime), opens)
            lab.asked("GET", "/api/status")
        except (OSError, ValueError):  # not yet: no file, none that is whole, or no answer
            return None
        return lab

    folder = tempfile.TemporaryDirectory(prefix="opd-", ignore_cleanup_errors=True)
    with folder as runtime, log.open("w") as output:
        server = subprocess.Popen(
            [*arguments, *options],
            env=environment_of(home, runtime) | variables,
            cwd=work,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            yield until(answers, "answer from JupyterLab")
        finally:
            server.terminate()
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def new_context(browser):
    return browser.new_context(viewport={"width": 1400, "height": 1000})


def new_page(context, lab):
    """A page that keeps what it asked of others than ``lab``, and what went wrong.

    NO_NETWORK refuses those: intercepting requests would switch off the browser's cache, and
    JupyterLab would be fetched and compiled anew for each page of a context.
    """
    page = context.new_page()
    page.set_default_timeout(PATIENCE * 1000)
    page.outside, page.faults = [], []
    own = (lab.address, lab.address.replace("http", "ws"), "data:", "blob:", "about:")

    def note_request(asked):
        if not asked.url.startswith(own):
            page.outside.append(asked.url)

    def note_message(message):
        if message.type == "error" and re.search("anywidget|opd|widget", message.text, re.I):
            page.faults.append(message.text)

    page.on("request", note_request)
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.on("console", note_message)
    return page


def opened(page, lab, path):
    """Load JupyterLab with a notebook and wait for its kernel; without one the menu would ask."""
    page.goto(lab.url(path))
    kernel_is_there(page)


def opened_in_place(page, lab, path):
    """The same in the JupyterLab that ``page`` shows: loading it takes four processor seconds."""
    if not page.url.startswith(lab.address) or page.locator(".jp-Dialog").count():
        page.goto(lab.url("/lab"))
    page.wait_for_function("() => window.jupyterapp")
    page.evaluate(
        """path => jupyterapp.restored.then(
            () => jupyterapp.commands.execute("docmanager:open", {path})).then(() => true)""",
        path,
    )
    kernel_is_there(page)


def kernel_is_there(page):
    page.locator(".jp-Notebook .jp-Cell").first.wait_for(timeout=PATIENCE * 1000)
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=PATIENCE * 1000)


def closed(page, lab, keep=None):
    """Close all that is open, and end its kernels but the one with the id ``keep``.

    Kernels answer in order: what was asked of them before is answered then.  JupyterLab throws
    if it still waits for an answer when its notebook is closed.
    """
    page.evaluate(
        """async () => {
            const open = [...jupyterapp.shell.widgets("main")];
            const answers = open.map(async ({ sessionContext }) => {
                const kernel = sessionContext?.session?.kernel;
                await kernel?.info;
                if (kernel?.supportsSubshells) await kernel.requestListSubshell({}).done;
            });
            const enough = new Promise((done) => setTimeout(done, 10000));
            await Promise.race([Promise.allSettled(answers), enough]);
            open.forEach((each) => each.dispose());
        }"""
    )
    for session in lab.asked("GET", "/api/sessions"):
        if session["kernel"]["id"] != keep:
            lab.asked("DELETE", f"/api/sessions/{session['id']}")


def lend_kernel(lab, path, kernel):
    """Let the notebook at ``path`` find the kernel with this id, emptied, when it is opened.

    A kernel of its own would have to start and to import torch anew.  One that a
    failed test has left busy is interrupted.
    """
    state = lambda: lab.asked("GET", f"/api/kernels/{kernel}")["execution_state"]
    if state() == "busy":
        lab.asked("POST", f"/api/kernels/{kernel}/interrupt", {})
        until(lambda: state() == "idle", "rest of the kernel")
    lab.asked(
        "POST",
        "/api/sessions",
        {"path": path, "name": path, "type": "notebook", "kernel": {"id": kernel}},
    )
    with running_kernel(lab, kernel) as run:
        run("import ipywidgets; ipywidgets.Widget.close_all(); del ipywidgets")
        run("get_ipython().reset(new_session=True)")


def run_all(page, run, seconds=PATIENCE):
    """Run, Run All Cells, by the menu; wait until the kernel (``run``) has counted all."""
    cells = page.locator(".jp-CodeCell").count()
    page.locator(".lm-MenuBar-itemLabel", has_text=re.compile("^Run$")).click()
    page.locator(".lm-Menu-itemLabel", has_text=re.compile("^Run All Cells$")).click()
    counted = "print(get_ipython().execution_count - 1)"  # itself it is not counted
    until(lambda: run(counted) == cells, f"end of {cells} cells", seconds)


@contextmanager
def running_kernel(lab, name="*"):
    """Run code in the kernel with this id, or the newest; what it prints comes back as JSON."""
    files = lab.runtime.glob(f"kernel-{name}.json")
    client = BlockingKernelClient(connection_file=str(max(files, key=os.path.getmtime)))
    client.load_connection_file()
    client.start_channels()
    client.wait_for_ready(timeout=PATIENCE)

    def run(code):
        texts = []

        def hear(message):
            if message["msg_type"] == "stream":
                texts.append(message["content"]["text"])
            assert message["msg_type"] != "error", "\n".join(message["content"]["traceback"])

        client.execute_interactive(code, timeout=PATIENCE, output_hook=hear, store_history=False)
        return json.loads("".join(texts)) if texts else None

    try:
        yield run
    finally:
        client.stop_channels()
