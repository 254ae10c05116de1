"""Sphinx extension: pages that are whole, fresh and light.

* fresh: what a chapter printed is kept only for as long as nothing it could have
  used has changed; a cell that was never run is a warning, so it fails the build;
* whole: a build that warned is forgotten, so that the next one warns again;
* light: style rules, icons and files that no page of the book uses are left out;
* numbered: a chapter bears the number of its file's name, even if one before it is missing;
  its equations bear it too, its sections and appendices none.

It also sets the package's docstrings, which are plain text, on the page of its functions.
"""

import base64
import hashlib
import re
import sys
from pathlib import Path

from docutils import nodes
from lightening import lighten
from myst_nb.core import render
from myst_nb.sphinx_ import NbMetadataCollector
from sphinx.errors import SphinxError
from sphinx.util import logging
from sphinx.util.nodes import make_refnode
from sphinx_external_toc.collectors import TocTreeCollectorWithStyles

logger = logging.getLogger(__name__)

# What a chapter's cells may import or read: the package, figures with their data, pins.
INGREDIENTS = {
    "opd_toy": (".py", ".js", ".css", ".json"),
    "figures": (".json", ".csv"),
    "requirements.txt": (".txt",),
}
REPEATED = re.compile(r"<(style|script)>.*?</\1>", re.DOTALL)
# Sphinx wraps each word of code and of signatures; on the page of functions that is 40 kB.
WRAPPED = re.compile(r'<span class="pre">([^<]*)</span>')
PICTURE = re.compile(r'(<img class="opd-[^>]*? src=")data:image/(png|svg)(?:\+xml)?;base64,([^"]*)')
# What the pages are made of besides.
SOURCES = INGREDIENTS | {
    "book": (".md", ".bib", ".css", ".html", ".js", ".py"),
    "_config.yml": (".yml",),
    "_toc.yml": (".yml",),
    "CITATION.cff": (".cff",),
}
STAMP = ".made-from"  # in the built site: the fingerprint of the sources it was made from


def setup(app):
    # Jupyter Book sets it for an extension that this book leaves out.
    app.add_config_value("comments_config", {}, "")
    app.add_config_value("book_ingredients", "", "")
    app.add_config_value("book_sources", "", "")
    TocTreeCollectorWithStyles.assign_section_numbers = by_file_name(
        TocTreeCollectorWithStyles.assign_section_numbers
    )
    TocTreeCollectorWithStyles.assign_figure_numbers = then_chapters_alone(
        TocTreeCollectorWithStyles.assign_figure_numbers
    )
    render.coalesce_streams = of_whole_lines(render.coalesce_streams)
    app.connect("config-inited", remember_the_sources)
    app.connect("env-get-outdated", check_the_ledger_again)
    app.connect("env-get-outdated", follow_the_contents)
    app.connect("doctree-read", warn_of_cells_never_run)
    app.connect("doctree-read", leave_out_widget_states)
    app.connect("autodoc-process-docstring", set_plain_text)
    app.connect("missing-reference", lead_to_the_ledger)
    app.connect("html-page-context", mend_body, priority=900)
    app.connect("build-finished", finish, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


# Numbered ------------------------------------------------------------------------------


def by_file_name(assign):
    """Let 08-name be chapter 8, even if it is the seventh in the table of contents.

    Sphinx would count the chapters there.
    """
    if hasattr(assign, "counted"):  # a second build in this process
        return assign

    def assign_section_numbers(self, env):
        before = env.toc_secnumbers
        assign(self, env)
        for name, numbers in env.toc_secnumbers.items():
            if not (chapter := re.match(r"(?:.*/)?0*(\d+)-", name)):
                continue
            for anchor, number in numbers.items():
                numbers[anchor] = number and (int(chapter[1]), *number[1:])
            for node in [env.titles[name], *env.tocs[name].findall(nodes.reference)]:
                if node.get("secnumber"):
                    node["secnumber"] = [int(chapter[1]), *node["secnumber"][1:]]
        return [
            name
            for name, numbers in env.toc_secnumbers.items()
            if of_chapters(numbers) != before.get(name)
        ]

    assign_section_numbers.counted = assign
    return assign_section_numbers


def then_chapters_alone(assign):
    """Leave the number to chapters and, by now, to equations: 3.1 is an equation and no section."""
    if hasattr(assign, "counted"):
        return assign

    def assign_figure_numbers(self, env):
        changed = assign(self, env)
        for name, numbers in env.toc_secnumbers.items():
            env.toc_secnumbers[name] = of_chapters(numbers)
            for node in [env.titles[name], *env.tocs[name].findall(nodes.reference)]:
                if len(node.get("secnumber") or "") > 1:
                    del node["secnumber"]
        return changed

    assign_figure_numbers.counted = assign
    return assign_figure_numbers


def of_chapters(numbers):
    """The section numbers of a page without those of its parts."""
    return {at: number if number and len(number) == 1 else None for at, number in numbers.items()}


# Fresh ---------------------------------------------------------------------------------


def fingerprint(root, parts):
    """One hash of the files below `root` that `parts` names, tests left out."""
    return hashed(root, files_of(root, parts))


def files_of(root, parts):
    for name, suffixes in parts.items():
        top = root / name
        for path in [top] if top.is_file() else sorted(top.rglob("*")):
            parts_of_path = path.relative_to(root).parts
            hidden = any(part.startswith((".", "__pycache__", "test_")) for part in parts_of_path)
            if path.is_file() and path.suffix in suffixes and not hidden:
                yield path


def hashed(root, paths):
    """One hash of files, by name and content, and of the Python that runs."""
    digest = hashlib.sha256(sys.version.encode())
    for path in paths:
        digest.update(path.relative_to(root).as_posix().encode() + b"\0")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:20]


def remember_the_sources(app, config):
    """What the pages are made of, now: it may change while the book is built."""
    config.book_ingredients = fingerprint(Path(app.srcdir), INGREDIENTS)
    config.book_sources = fingerprint(Path(app.srcdir), SOURCES)


def check_the_ledger_again(app, env, added, changed, removed):
    """The ledger's page also checks what no cache knows: the tests, the labels of all pages."""
    root = Path(app.srcdir)
    tests = sorted([*root.glob("tests/*.py"), *root.glob("opd_toy/derivations/test_*.py")])
    checked = hashed(root, [*files_of(root, {"book": (".md",)}), *tests])
    if getattr(env, "ledger_checked", None) == checked or "book/ledger" not in env.found_docs:
        return []
    env.ledger_checked = checked
    return ["book/ledger"]


def follow_the_contents(app, env, added, changed, removed):
    """The foot of a page leads to the pages beside it in the table of contents."""
    contents = hashed(Path(app.srcdir), [Path(app.srcdir) / "_toc.yml"])
    if getattr(env, "contents", None) == contents:
        return []
    env.contents = contents
    return sorted(env.found_docs)


def warn_of_cells_never_run(app, doctree):
    """A code cell without an execution count was never run: its page lacks its outputs."""
    if app.config.nb_execution_mode == "off":
        logger.warning("the chapters are not executed", type="whole_pages", subtype="cell")
    for cell in doctree.findall(nodes.container):
        if cell.get("nb_element") == "cell_code" and not cell.get("exec_count"):
            logger.warning(
                "code cell %s was not executed",
                cell["cell_index"],
                location=cell,
                type="whole_pages",
                subtype="cell",
            )


def of_whole_lines(coalesce):
    """What a cell prints may come in pieces of a line, as time has it: MyST-NB would break it."""
    if hasattr(coalesce, "of_whole_lines"):  # a second build in this process
        return coalesce

    def joined(outputs):
        first, kept = {}, []
        for output in outputs:
            if output["output_type"] == "stream" and output["name"] in first:
                first[output["name"]]["text"] += output["text"]
                continue
            if output["output_type"] == "stream":
                first[output["name"]] = output
            kept.append(output)
        return coalesce(kept)

    joined.of_whole_lines = True
    return joined


def leave_out_widget_states(app, doctree):
    """What ipywidgets' own script would restore; the sliders of the page do without it."""
    NbMetadataCollector.get_js_files(app.env, app.env.docname).pop("ipywidgets_state", None)


# Docstrings ----------------------------------------------------------------------------


def set_plain_text(app, what, name, thing, options, lines):
    """Docstrings are plain text: escape what reStructuredText would read as markup.

    What stands between double backquotes stays code, a label such as eq-rkl-logit-gradient
    becomes a link to that equation, and an indented paragraph keeps its lines.
    """
    paragraphs = re.split(r"\n\s*\n", "\n".join(lines).strip("\n"))
    lines[:] = [line for text in paragraphs for line in [*set_paragraph(text), ""]]


def set_paragraph(text):
    if all(line.startswith(" ") for line in text.split("\n")):
        return ["::", "", *("    " + line for line in text.split("\n"))]
    pieces = re.split(r"(``.*?``)", " ".join(line.strip() for line in text.split("\n")))
    return ["".join(piece if at % 2 else plain(piece) for at, piece in enumerate(pieces))]


def plain(text):
    escaped = re.sub(r"([\\*|`_])", r"\\\1", text)
    return re.sub(r"\beq-[a-z0-9-]*[a-z0-9]", r":eq:`\g<0>`", escaped)


def lead_to_the_ledger(app, env, node, content):
    """A claim that a docstring names: where the book has no such equation, link its ledger row."""
    if node["reftype"] == "eq" and node.get("refdoc") == "book/api":
        claim = node["reftarget"].removeprefix("eq-")
        return make_refnode(app.builder, "book/api", "book/ledger", claim, nodes.literal("", claim))
    return None


# Whole ---------------------------------------------------------------------------------


def executed_well(env, name):
    record = NbMetadataCollector.get_exec_data(env, name)
    return record is None or record["succeeded"]


def mend_body(app, page, template, context, doctree):
    """docutils gives a bibliography roles that screen readers refuse beside each other;
    two sliders on one page bring the same style sheet and script twice; on the page of functions
    each word of code is wrapped; a picture is loaded only by those who see it: a still without
    scripts, a figure on its own paper."""
    body = context.get("body", "")
    if "citation-list" in body:
        body = re.sub(r' role="(list|doc-biblioentry)"', "", body)
    if 'class="py ' in body:
        body = WRAPPED.sub(r"\1", body)
    seen = set()
    body = REPEATED.sub(
        lambda found: "" if found[0] in seen else seen.add(found[0]) or found[0], body
    )
    context["body"] = PICTURE.sub(
        lambda found: found[1] + picture_file(app, *found.group(2, 3), context["pathto"]), body
    )
    if "generate_toctree_html" in context:
        context["generate_toctree_html"] = name_the_folds(context["generate_toctree_html"])


def name_the_folds(menu):
    """Name the buttons under which the menu folds a chapter's pages: they show an arrow only."""

    def named(*args, **options):
        tree = menu(*args, **options)
        for fold in tree.find_all("details"):
            fold.summary["aria-label"] = (
                f"Pages of {fold.find_previous_sibling('a').get_text(strip=True)}"
            )
        return tree

    return named


def picture_file(app, kind, data, pathto):
    """Write a picture that a page holds as base64 to a file of its own; return the way there."""
    picture = base64.b64decode(data)
    name = f"_images/{hashlib.sha256(picture).hexdigest()[:12]}.{kind}"
    path = Path(app.outdir) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture)
    return pathto(name, 1)


def finish(app, error):
    """Stamp a good build; forget any other, so that the next one looks at everything again."""
    changed = fingerprint(Path(app.srcdir), INGREDIENTS) != app.config.book_ingredients
    stamp = Path(app.outdir) / STAMP
    if error or changed or app._warncount:
        (Path(app.doctreedir) / "environment.pickle").unlink(missing_ok=True)
        stamp.unlink(missing_ok=True)
    if error:
        return
    if changed:
        raise SphinxError(
            "the package changed while its chapters were executed: build the book again"
        )
    raised = sorted(name for name in app.env.all_docs if not executed_well(app.env, name))
    if raised:
        raise SphinxError(f"these chapters raised an error: {', '.join(raised)}")
    if app.builder.format == "html" and not app._warncount:
        drop_pages_no_longer_in_the_book(app)
        lighten(Path(app.outdir))
        stamp.write_text(app.config.book_sources)


def drop_pages_no_longer_in_the_book(app):
    site = Path(app.outdir)
    kept = {Path(app.builder.get_outfilename(name)).resolve() for name in app.env.all_docs}
    for page in site.rglob("*.html"):
        if (
            page.parent != site
            and site / "_static" not in page.parents
            and page.resolve() not in kept
        ):
            page.unlink()
