"""Sphinx extension: chapters that must run are run side by side, one process a core.

MyST-NB runs one chapter after the other while it reads them.  Here those that it is about to
read run first, into the cache where it looks for them.  A chapter that fails is not cached:
MyST-NB runs it again and reports it, as it does without this extension.
"""

import logging
from pathlib import Path

from jupyter_cache import get_cache
from jupyter_cache.entry_points import ENTRY_POINT_GROUP_EXEC, get_entry_point
from myst_nb.core.read import is_myst_markdown_notebook, myst_nb_reader_plugin

READER = {"type": "plugin", "name": "myst_nb_md"}


def setup(app):
    app.connect("env-before-read-docs", run_together)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def run_together(app, env, names):
    paths = [env.doc2path(name) for name in names]
    chapters = [path for path in paths if is_cached_notebook(path)]
    if app.config.nb_execution_mode != "cache" or len(chapters) < 2:
        return
    cache = get_cache(app.config.nb_execution_cache_path)
    for path in reversed(chapters):  # the long ones stand at the end of the book: begin with them
        cache.add_nb_to_project(path, read_data=READER)
    quiet = logging.getLogger(f"{__name__}.quiet")
    quiet.setLevel(logging.CRITICAL)  # MyST-NB reports what fails
    executor = get_entry_point(ENTRY_POINT_GROUP_EXEC, "local-parallel").load()(cache, quiet)
    executor.run_and_cache(timeout=app.config.nb_execution_timeout)


def is_cached_notebook(path):
    """Whether a page has cells and lets their outputs be kept."""
    path = Path(path)
    if path.suffix != ".md" or not is_myst_markdown_notebook(path.read_text(encoding="utf-8")):
        return False
    settings = myst_nb_reader_plugin(path).metadata.get("mystnb", {})
    return settings.get("execution_mode", "cache") == "cache"
