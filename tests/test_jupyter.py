"""Every explorable in a real JupyterLab: moved there, read in Python, set from Python."""

import json

import nbformat
import numpy as np
import pytest

from opd_toy.explorables.host import Distribution, Subset
from tests import jupyter
from tests.explorables import WIDGETS, check, read
from tests.jupyter import until


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
    """A JupyterLab of its own, with the notebook."""
    home = tmp_path_factory.mktemp("jupyter")
    work = home / "work"
    work.mkdir()
    nbformat.write(notebook(), work / "explorables.ipynb")
    with jupyter.running(home, work) as lab:
        yield lab


@pytest.fixture(scope="module")
def opened(browser, lab):
    """(page, run): the notebook in JupyterLab, all its cells run, and its kernel."""
    page = jupyter.new_page(jupyter.new_context(browser), lab)
    jupyter.opened(page, lab, "/lab/tree/explorables.ipynb")
    with jupyter.running_kernel(lab) as run:
        jupyter.run_all(page, run)
        until(
            lambda: page.locator(".jp-OutputArea-output .opd-card").count() == len(WIDGETS),
            "explorables in the notebook",
        )
        yield page, run
    page.context.close()


@pytest.fixture(scope="module")
def page(opened):
    return opened[0]


@pytest.fixture(scope="module")
def python(opened):
    return opened[1]


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

    return until(same, f"agreement of page and Python on {name}")


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
    until(lambda: state(python, name) != widget.state(), "change in Python")
    moved = agrees(python, root, name)
    changed = {key for key in moved if moved[key] != widget.state()[key]}
    assert changed
    check(root, widget)
    # a choice by the mouse
    group = root.locator(".opd-choice").first
    label = group.locator("label").nth(0 if group.locator("input").last.is_checked() else -1)
    label.click()
    assert label.locator("input").is_checked()
    until(lambda: state(python, name) != moved, "second change in Python")
    now = agrees(python, root, name)
    heard = python(f"print(json.dumps(heard[{name!r}]))")
    assert changed | {key for key in now if now[key] != moved[key]} <= set(heard)
    check(root, widget)


@pytest.mark.parametrize("name", WIDGETS)
def test_set_in_python_and_followed_in_jupyterlab(name, page, python):
    root, widget = card(page, name), WIDGETS[name]()
    random = np.random.default_rng(9)
    for key, trait in widget.traits(sync=True, data=None).items():  # data are given when made
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


def test_a_cell_prints_what_was_observed(page, python):
    """As a reader does it: click into the last cell, Shift+Enter (which adds an empty one)."""
    name = next(iter(WIDGETS))
    slider = card(page, name).locator("input[type=range]").first
    slider.focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowRight")
    until(lambda: python(f"print(json.dumps(heard[{name!r}]))"), "change in Python")
    cell = page.locator(".jp-Notebook .jp-CodeCell").nth(len(WIDGETS) + 1)
    cell.scroll_into_view_if_needed()
    cell.locator(".cm-content").click()
    before = cell.locator(".jp-OutputArea-output").inner_text()
    page.keyboard.press("Shift+Enter")
    output = until(
        lambda: (text := cell.locator(".jp-OutputArea-output").inner_text()) != before and text,
        "new output",
    )
    heard = json.loads(output.split("HEARD", 1)[1])
    # The others were moved by the tests before this one, perhaps in another worker's JupyterLab.
    assert set(heard) == set(WIDGETS) and heard[name]
