"""Builds of small books, each in a process that has its imports already."""

import multiprocessing
import os
import sys

COMMAND = ("build", ".", "-W", "-n", "--keep-going")  # as the Makefile gives it
IMPORTED = (
    *("jupyter_book.cli.main", "jupyter_book.sphinx", "sphinx.application", "sphinx.cmd.build"),
    *("sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinxcontrib.bibtex", "sphinx_book_theme"),
    *("myst_nb.sphinx_", "myst_nb.core.execute", "sphinx_external_toc", "sphinx_design"),
    *("sphinx_copybutton", "sphinx_togglebutton", "sphinx_thebe", "nbclient", "tinycss2"),
)


def build(folder, seconds=300):
    """The exit code of ``jupyter-book build`` in ``folder``, and what it said."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    log = folder / "build.log"
    process = context.Process(target=_build, args=(folder, log, dict(os.environ)))
    process.start()
    process.join(seconds)
    assert process.exitcode is not None, f"no end of the build within {seconds} s"
    return process.exitcode, log.read_text(encoding="utf-8")


def _build(folder, log, environment):
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment, PYTHONPATH=str(folder))
    sys.path.insert(0, str(folder))
    from jupyter_book.cli.main import main

    main(COMMAND)
