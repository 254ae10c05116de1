"""Every chapter in a real JupyterLab, opened and run as a reader does it."""

import ast
import re
import shutil
import time

import pytest

from tests import jupyter
from tests.conftest import ROOT, new_page
from tests.jupyter import until

CHAPTERS = sorted(path.name for path in (ROOT / "book").glob("*.md"))
COMPARED = "06-noise.md"  # its numbers are compared with the page's
RAW = r"^\s*\([\w-]+\)=|:::|\{(eq|ref|eval|cite|doc|math|code-cell)\b|\\KL\b|np\.float64|Traceback"
LINES, COLUMNS = 20, 100  # of a cell that shows its code

# Paragraphs, list items and cells of tables with a digit outside their mathematics.
IN_JUPYTERLAB = ".myst:not(.jp-OutputArea *) :is(p, li, td)"
IN_THE_PAGE = ":is(p, li, td):not(.cell_output *, .exercise *)"
TEXTS = """(root, selector) => [...root.querySelectorAll(selector)].map((node) => {
    const copy = node.cloneNode(true);
    const mathematics = ".katex, .math, mjx-container, script, ul, ol, details, table";
    for (const part of copy.querySelectorAll(mathematics)) part.remove();
    for (const link of copy.querySelectorAll("a[href*='#equation-']"))
        link.textContent = link.textContent.replace(/ \\([\\d.]+\\)$/, "");
    return copy.textContent.replace(/\\s+/g, " ").trim();
}).filter((text) => /\\d/.test(text))"""

# One question of the whole page: a locator for each part would search it anew.
EXERCISES = """root => [...root.querySelectorAll(".opd-exercise")].map((exercise) => ({
    verdict: exercise.querySelector("[aria-live]").innerText,
    told: exercise.querySelector("[data-reveal]").checkVisibility({ visibilityProperty: true }),
    written: exercise.querySelector("input[type=text]") !== null,
}))"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The book as ``make notebook`` serves it; a copy, for JupyterLab writes beside it."""
    home = tmp_path_factory.mktemp("jupyter")
    work = home / "work"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "book", work / "book", ignore=ignored)
    with jupyter.running(home, work) as lab:
        yield lab


@pytest.fixture(scope="module")
def context(browser):
    context = jupyter.new_context(browser)
    yield context
    context.close()


@pytest.fixture(scope="module")
def window(context, lab):
    """One JupyterLab for all chapters."""
    return jupyter.new_page(context, lab)


@pytest.fixture(scope="module")
def kernel(lab):
    """The id of one kernel for all chapters, emptied before each."""
    return lab.asked("POST", "/api/kernels", {"name": "python3", "path": "book"})["id"]


@pytest.fixture
def page(window, lab, kernel):
    window.outside.clear()
    window.faults.clear()
    yield window
    jupyter.closed(window, lab, keep=kernel)


def test_it_opens_on_the_front_page(context, lab):
    """No dialogue and no message stands before it, and its links lead on inside JupyterLab.

    In a page of its own: JupyterLab reports errors of its own, now and then a second later, where
    a notebook is closed whose kernel is still being connected, and no chapter is to blame.
    """
    page = jupyter.new_page(context, lab)
    jupyter.opened(page, lab, lab.opens)
    assert page.locator(".jp-Notebook h1").first.inner_text().startswith("On-policy distillation")
    assert "Run All Cells" in page.locator(".jp-Notebook").inner_text()
    assert page.locator(".jp-Dialog").count() == 0
    assert page.locator(".Toastify__toast").count() == 0
    page.locator(".jp-Notebook a", has_text="The auditor: what does your loss optimise?").click()
    page.locator(".jp-Notebook h1:visible", has_text="The auditor: what does").wait_for()
    until(lambda: states(lab) == ["idle", "idle"], "rest of both kernels")  # before they are ended
    jupyter.closed(page, lab)
    page.close()


def states(lab):
    return [session["kernel"]["execution_state"] for session in lab.asked("GET", "/api/sessions")]


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_chapter_reads_as_its_page_does(chapter, page, lab, kernel, request):
    jupyter.lend_kernel(lab, f"book/{chapter}", kernel)
    jupyter.opened_in_place(page, lab, f"book/{chapter}")
    with jupyter.running_kernel(lab, kernel) as run:
        jupyter.run_all(page, run)
        notebook = page.locator(".jp-Notebook")
        settled(notebook)
        if chapter == COMPARED:
            the_numbers_are_the_page_s(notebook, request.getfixturevalue("built"))
        text = notebook.inner_text()
        assert not (raw := re.findall(f".*(?:{RAW}).*", text, re.MULTILINE)), raw
        told = notebook.locator("[data-mime-type='application/vnd.jupyter.stderr']")
        assert told.all_text_contents() == []
        cells_are_short_and_tell_no_answer(notebook)
        exercises_ask_before_they_tell(notebook)
        every_slider_is_heard_in_python(chapter, notebook, run)
    assert page.outside == [] and page.faults == []


def settled(notebook):
    """Wait until what is still being drawn (mathematics, values, sliders) stands."""
    lengths = []

    def still():
        lengths.append(notebook.evaluate("root => root.textContent.length"))
        return len(lengths) > 3 and len(set(lengths[-3:])) == 1

    until(still, "rest in the notebook")


def cells_are_short_and_tell_no_answer(notebook):
    for cell in notebook.locator(".jp-CodeCell .jp-InputArea-editor .cm-content").all():
        if cell.is_visible():
            lines = cell.inner_text().split("\n")
            assert len(lines) <= LINES and max(map(len, lines)) <= COLUMNS, lines
            assert "exercise(" not in "".join(lines), lines
    for line in notebook.locator(".jp-InputPlaceholder").all_inner_texts():
        assert line.startswith(("# ", "show(")), line  # a folded cell shows its first line
    assert notebook.locator("details[open]").count() == 0


def exercises_ask_before_they_tell(notebook):
    """No verdict before an attempt, of another exercise either; then one, without the kernel."""
    exercises = notebook.evaluate(EXERCISES)
    forms = notebook.locator(".opd-exercise form")
    for place, exercise in enumerate(exercises):
        for waiting in exercises[place:]:
            assert waiting["verdict"] == "" and not waiting["told"]
        form = forms.nth(place)
        if exercise["written"]:
            form.locator("input[type=text]").fill("12345678")
        else:
            form.locator("input[type=radio]").first.check()
        form.locator("button[type=submit]").click()
        exercises = notebook.evaluate(EXERCISES)
        assert re.match("Too|Right|Not this", exercises[place]["verdict"])
        assert exercises[place]["told"]


def every_slider_is_heard_in_python(chapter, notebook, run):
    """Each cell that ends in the name of a slider shows it, and what is moved there arrives."""
    states = run(STATES)
    shown = [name for name in last_names(chapter) if name in states]
    cards = notebook.locator(".jp-OutputArea-output .opd")
    until(lambda: cards.count() == len(shown), f"{len(shown)} sliders in {chapter}")
    for place, name in enumerate(shown):
        before = run(STATES)
        push(cards.nth(place).locator("input[type=range]").first)
        until(lambda: moved_since(before, run), f"change of {name} in Python")  # noqa: B023
        assert moved_since(before, run) == [name]


def push(slider):
    slider.focus()
    before = slider.input_value()
    slider.press("ArrowLeft")
    if slider.input_value() == before:  # at its left end
        slider.press("ArrowRight")
    assert slider.input_value() != before


def moved_since(states, run):
    return [name for name, state in run(STATES).items() if state != states[name]]


# The state of every slider of the notebook, by its name in Python.
STATES = """
import json
from opd_toy.explorables.host import Explorable
print(json.dumps({name: value.state() for name, value in list(globals().items())
                  if isinstance(value, Explorable) and not name.startswith("_")}))
"""


def last_names(chapter):
    """The names in which cells of the chapter end, in order."""
    text = (ROOT / "book" / chapter).read_text(encoding="utf-8")
    for cell in re.findall(r"^```\{code-cell\}.*?\n(.*?)^```\s*$", text, re.M | re.S):
        lines = cell.splitlines()
        last = ast.parse("\n".join(line for line in lines if not re.match(":[a-z]", line))).body
        if last and isinstance(last[-1], ast.Expr) and isinstance(last[-1].value, ast.Name):
            yield last[-1].value.id


@pytest.fixture(scope="module")
def built(browser, built_book):
    page = new_page(browser)
    page.goto((built_book / "book" / COMPARED).with_suffix(".html").as_uri())
    yield page
    page.context.close()


def the_numbers_are_the_page_s(notebook, built):
    """To the digit, in text, lists and tables; the page adds the numbers of equations to links."""
    there = built.locator("article").evaluate(TEXTS, IN_THE_PAGE)
    end = time.monotonic() + jupyter.PATIENCE  # values come after the cells' results
    while (here := notebook.evaluate(TEXTS, IN_JUPYTERLAB)) != there and time.monotonic() < end:
        time.sleep(0.5)
    assert len(re.findall(r"\d", " ".join(here))) > 100
    assert here == there
