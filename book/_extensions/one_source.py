"""Sphinx extension: one source for the page, for JupyterLab and for an editor.

* A link is Markdown, as JupyterLab and editors follow it, and leads to any label here:
  ``[words](#sec-x)``, ``[words](06-noise.md#sec-x)``; to an equation, whose number is added;
  to a reference, ``[Fu et al. (2026)](references.md#fu2026)``, whose year is checked.
* ``:::{dropdown} Title`` folds, as it does under jupyterlab-myst.
* Words in the front matter under ``search`` are found by the search, digits too.
* An admonition of the class ``only-jupyterlab`` is left out of the page.
* A paragraph that begins with **In short.** is set apart.
* A line does not break inside 83 %, 150 000 or 0.017 ± 0.060.
* A page is executed while it is read, so that its text can say ``{eval}`value```; it is read
  again when something that its cells use has changed. Every processor executes pages, at most
  four at once.
"""

import ast
import hashlib
import html
import json
import os
import re
import sys
from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.errors import SphinxError
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from opd_toy.pages.page import BUILDING
from opd_toy.records import provenance
from opd_toy.records.provenance import ROOT

logger = logging.getLogger(__name__)
REFERENCES = "book/references"
COMMANDS = ROOT / "opd_toy" / "commands"
# Which of these a page's modules read, their imports do not tell: all count.
READ = ("figures/*.json", "opd_toy/pages/*.[jc]s*", "opd_toy/explorables/exercise.js")
CELL = re.compile(r"^```\{code-cell\}.*?\n(.*?)^```\s*$", re.MULTILINE | re.DOTALL)
OPTION = re.compile(r"^(:[\w-]+:.*|---\n(.*\n)*?---)\n", re.MULTILINE)
TORN = re.compile(r"(?<=\d) (?=%)|(?<=\d) (?=\d{3}\b)|(?<=\d) (?=[±·] )|(?<=\d [±·]) (?=\d)")
# They do nothing while a page is read, but do not declare it, and Sphinx would ask them.
UNDECLARED = ("sphinx-mathjax-offline", "sphinx_jupyterbook_latex", "sphinx_multitoc_numbering")
YEAR = re.compile(r"\b(?:19|20)\d\d\b")


def setup(app):
    os.environ[BUILDING] = "yes"
    app.add_directive("dropdown", Dropdown)
    app.connect("env-get-outdated", whose_ingredients_changed)
    app.connect("env-before-read-docs", read_side_by_side)
    app.connect("env-updated", write_one_by_one)
    app.connect("doctree-read", leave_out_what_is_for_jupyterlab)
    app.connect("doctree-read", set_the_summary_apart)
    app.connect("doctree-read", let_links_lead_to_labels)
    app.connect("doctree-read", let_the_search_find)
    app.connect("html-page-context", let_words_come_in_any_order)
    app.connect("env-updated", let_links_lead_to_references)
    app.connect("doctree-read", keep_numbers_whole)
    app.connect("doctree-resolved", add_equation_numbers)
    app.connect("html-collect-pages", let_the_search_keep)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


class Dropdown(SphinxDirective):
    """Folded away until the reader asks for it."""

    required_arguments = 1
    final_argument_whitespace = True
    has_content = True

    def run(self):
        title = html.escape(self.arguments[0])
        head = f'<details class="opd-folded"><summary>{title}</summary>'
        parts = [
            nodes.raw("", head, format="html"),
            *self.parse_content_to_nodes(),
            nodes.raw("", "</details>", format="html"),
        ]
        return [nodes.container("", *parts)]  # which bears a label that stands before it


def leave_out_what_is_for_jupyterlab(app, doctree):
    for node in list(doctree.findall(nodes.Admonition)):
        if "only-jupyterlab" in node["classes"]:
            node.parent.remove(node)


def set_the_summary_apart(app, doctree):
    """Its class is styled in book.css.  JupyterLab, which knows no such class, shows the words."""
    for paragraph in doctree.findall(nodes.paragraph):
        said = (child for child in paragraph.children if child.astext())  # MyST has empty texts
        first = next(said, None)
        if isinstance(first, nodes.strong) and first.astext() == "In short.":
            paragraph["classes"].append("in-short")


def keep_numbers_whole(app, doctree):
    """A number stays in one line with its sign of percent, its thousands and its error.

    {eval} cannot bring such spaces: MyST-NB would show their code.
    """
    as_written = (nodes.literal, nodes.literal_block, nodes.math, nodes.math_block, nodes.raw)
    for text in list(doctree.findall(nodes.Text)):
        if not isinstance(text.parent, as_written) and TORN.search(text):
            text.parent.replace(text, nodes.Text(TORN.sub("\N{NO-BREAK SPACE}", text)))


# Search ----------------------------------------------------------------------------------


def let_the_search_find(app, doctree):
    """What readers type, ``search: {label: "word, phrase"}`` in front matter, leads to the label.

    The search splits a page into words and leaves out numbers; entries of an index it takes whole.
    """
    for label, typed in json.loads(app.env.metadata[app.env.docname].get("search", "{}")).items():
        if label not in doctree.nameids:
            raise SphinxError(f"{app.env.docname}: search names {label!r}, no label of this page")
        place = doctree.nameids[label]
        # The search knows a heading by the first of its anchors.
        doctree.ids[place]["ids"].sort(key=lambda anchor: anchor != place)
        entries = [("single", each.strip(), place, "main", None) for each in typed.split(",")]
        doctree.append(addnodes.index(entries=entries))


def let_words_come_in_any_order(app, page, template, context, doctree):
    if page == "search":
        app.add_js_file("search.js", defer="defer")


def let_the_search_keep(app):
    """Sphinx forgets the index entries of pages that a build does not write again."""
    search = app.builder.indexer
    for name in app.env.all_docs.keys() - search._index_entries.keys():
        file = app.env.doc2path(name, False)
        search.feed(name, file, search._titles[name], app.env.get_doctree(name))
    return []


# Links -----------------------------------------------------------------------------------


def let_links_lead_to_labels(app, doctree):
    """MyST knows the headings of another page; tell it the labels and the equations too."""
    labels = app.env.metadata[app.env.docname].setdefault("myst_slugs", {})
    for name, explicit in doctree.nametypes.items():
        if explicit and doctree.nameids.get(name):
            labels[name] = (0, doctree.nameids[name], name)
    equations = {node["label"] for node in doctree.findall(nodes.math_block) if node.get("label")}
    anchors = {label: nodes.make_id(f"equation-{label}") for label in equations}
    labels.update({label: (0, anchor, label) for label, anchor in anchors.items()})
    # Left to Sphinx, a link to an equation of its own page would lose its words.
    for link in list(doctree.findall(addnodes.pending_xref)):
        if link["reftarget"] in anchors and link.get("refexplicit"):
            anchor = anchors[link["reftarget"]]
            link.replace_self(nodes.reference("", "", *link.children, refid=anchor, internal=True))


def let_links_lead_to_references(app, env):
    if REFERENCES in env.all_docs:
        labels = env.metadata[REFERENCES].setdefault("myst_slugs", {})
        for citation in env.get_domain("cite").citations:
            labels[citation.key] = (0, citation.citation_id, citation.key)


def add_equation_numbers(app, doctree, docname):
    """A link to an equation says its number; one to a reference says the right year."""
    numbers = {
        (page, anchor): ".".join(map(str, number))
        for page, kinds in app.env.toc_fignumbers.items()
        for anchor, number in kinds.get("displaymath", {}).items()
    }
    years = {
        citation.citation_id: citation.entry.fields.get("year")
        for citation in app.env.get_domain("cite").citations
        if hasattr(citation, "entry")
    }
    for link in doctree.findall(nodes.reference):
        page, anchor = target(app, docname, link)
        if (page, anchor) in numbers and not link.astext().startswith("("):
            link += nodes.Text(f" ({numbers[page, anchor]})")
        said = YEAR.findall(link.astext())
        if page == REFERENCES and said and years.get(anchor) not in (None, *said):
            logger.warning("%r is of %s", link.astext(), years[anchor], location=link)


def target(app, docname, link):
    """(page, anchor) of a link inside the book, else (None, None)."""
    if link.get("refid"):
        return docname, link["refid"]
    address = link.get("refuri", "")
    if not link.get("internal") or "#" not in address:
        return None, None
    path, anchor = address.split("#", 1)
    if not path:
        return docname, anchor
    page = (Path("/", docname).parent / path).with_suffix("").as_posix().lstrip("/")
    return page, anchor


# Executed again ---------------------------------------------------------------------------


def whose_ingredients_changed(app, env, added, changed, removed):
    """Pages whose cells use something that is no longer what it was when they were executed."""
    before = getattr(env, "page_ingredients", {})
    now = {name: ingredients(Path(app.srcdir), env.doc2path(name)) for name in env.found_docs}
    env.page_ingredients = now
    return [name for name in now if name in before and now[name] != before[name]]


def ingredients(root, page):
    """One hash of what the cells of a page import and read, and of the installed versions."""
    code = "\n".join(OPTION.sub("", cell) for cell in CELL.findall(Path(page).read_text("utf-8")))
    digest = hashlib.sha256(sys.version.encode() + (root / "requirements.txt").read_bytes())
    modules, files = used(code)
    if modules or files:
        digest.update(provenance.source_hash(*modules, files=files).encode())
        for pattern in READ:
            for path in sorted(ROOT.glob(pattern)):
                digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def used(code):
    """(modules of the package, patterns of files) that the cells of a page use."""
    modules, files = set(), set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    if "subprocess" in modules:
        modules |= {f"opd_toy.commands.{path.stem}" for path in COMMANDS.glob("[a-z]*.py")}
    modules = {name for name in modules if provenance.is_module(name)}
    if "opd_toy.explorables" in modules:
        files |= {"opd_toy/explorables/*.[jc]s*", "figures/*.png"}
        sliders = (ROOT / "opd_toy" / "explorables").glob("[a-z]*.py")
        modules |= {f"opd_toy.explorables.{path.stem}" for path in sliders}
    if "opd_toy.pages.remember" in modules:
        files.add("book/[0-9]*.md")
    return sorted(modules), sorted(files)


# Executed side by side --------------------------------------------------------------------


def read_side_by_side(app, env, pages):
    """Let processes share the pages, as Sphinx's --jobs does (where there are more than five).

    Jupyter Book has no option for it.  Sphinx gives each process a run of the list; neighbours,
    such as the pages of chapters 7 and 8, take equally long, so they go to different ones.
    """
    pages[:] = [page for start in range(3) for page in pages[start::3]]
    app.parallel = min(os.cpu_count() or 1, 4)
    for name in UNDECLARED:
        if name in app.extensions:
            app.extensions[name].parallel_read_safe = True


def write_one_by_one(app, env):
    """Writing is quick, and not every extension allows that processes share it."""
    app.parallel = 1
