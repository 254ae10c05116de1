"""Sphinx extension: what a link leads to, for previews.js to show.

* Terms: those of the notation's page have ids, and where another page mentions one first, the
  word is a link to its meaning.
* Parts: _static/previews has a script for each page, with the equations, references, terms and
  errata to which other pages link.
"""

import json
import re
from pathlib import Path

from bs4 import BeautifulSoup
from docutils import nodes
from sphinx.util.osutil import relative_uri

TERMS = "book/notation"
# Everyday words, which a page uses before it needs them as terms.
EVERYDAY = {"text", "audit", "verdict", "what and how"}
LINK = re.compile(r'<a class="(?:term )?reference internal" href="([^"#]+)\.html#([^"]+)"')
SHOWN = "div.math[id], div.citation[id], dt[id], p[id^=erratum-]"
AS_WRITTEN = (
    nodes.reference,
    nodes.literal,
    nodes.math,
    nodes.raw,
    nodes.title,
    nodes.Admonition,
    nodes.table,
)


def setup(app):
    app.connect("doctree-read", give_terms_ids)
    app.connect("env-merge-info", bring_terms)
    app.connect("env-updated", link_terms_again)
    app.connect("doctree-resolved", link_first_mentions)
    app.connect("build-finished", write_previews)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


# Terms ------------------------------------------------------------------------------------


def give_terms_ids(app, doctree):
    """{term: id} in the environment; "advantage, baseline" is two terms with one meaning."""
    if app.env.docname != TERMS:
        return
    terms = {}
    for node in doctree.findall(nodes.term):
        anchor = f"term-{nodes.make_id(node.astext())}"
        node["ids"].append(anchor)
        terms |= {term: anchor for term in node.astext().split(", ") if term not in EVERYDAY}
    app.env.terms_before, app.env.terms = getattr(app.env, "terms", {}), terms


def bring_terms(app, env, pages, other):
    """From the process that read their page."""
    if TERMS in pages:
        env.terms_before, env.terms = other.terms_before, other.terms


def link_terms_again(app, env):
    """Every page, where the terms have changed."""
    terms = getattr(env, "terms", {})
    changed = terms != getattr(env, "terms_before", terms)
    env.terms_before = terms
    return sorted(env.all_docs) if changed else []


def link_first_mentions(app, doctree, docname):
    if docname == TERMS:
        return
    wanted = dict(getattr(app.env, "terms", {}))
    for text in list(doctree.findall(nodes.Text)):
        if wanted and is_prose(text):
            text.parent.replace(text, linked(text, wanted, relative_uri(docname, TERMS)))


def is_prose(text):
    """Whether a text stands in a paragraph, and in nothing that has a look of its own."""
    node, in_paragraph = text.parent, False
    while node is not None:
        if isinstance(node, AS_WRITTEN):
            return False
        in_paragraph |= isinstance(node, nodes.paragraph)
        node = node.parent
    return in_paragraph


def linked(text, wanted, page):
    """The nodes of a text, its first mentions of wanted terms linked; those are wanted no more."""
    longest_first = sorted(wanted, key=len, reverse=True)
    mention = re.compile(rf"(?<![\w-])({'|'.join(map(re.escape, longest_first))})(?=s?\b)")
    found, rest = [], text.astext()
    while wanted and (hit := mention.search(rest)):
        before, rest = rest[: hit.end()], rest[hit.end() :]
        if hit[0] not in wanted:
            found.append(nodes.Text(before))
            continue
        address = f"{page}.html#{wanted[hit[0]]}"
        for other in [term for term, anchor in wanted.items() if anchor == wanted[hit[0]]]:
            del wanted[other]
        found.append(nodes.Text(before[: hit.start()]))
        found.append(nodes.reference("", hit[0], refuri=address, internal=True, classes=["term"]))
    return [*found, nodes.Text(rest)]


# Parts ------------------------------------------------------------------------------------


def write_previews(app, error):
    """_static/previews/PAGE.js: {id: HTML} of the parts of a page to which others link."""
    if error or app.builder.format != "html":
        return
    site = Path(app.outdir)
    asked = {}
    for page in site.glob("book/*.html"):
        for name, anchor in LINK.findall(page.read_text("utf-8")):
            asked.setdefault(name, set()).add(anchor)
    folder = site / "_static" / "previews"
    folder.mkdir(parents=True, exist_ok=True)
    for name, anchors in sorted(asked.items()):
        page = site / "book" / f"{name}.html"
        if page.is_file() and (parts := previews(page.read_text("utf-8"), anchors)):
            data = json.dumps(parts, ensure_ascii=False)
            line = f"(window.opdPreviews ??= {{}})[{json.dumps(name)}] = {data};\n"
            (folder / f"{name}.js").write_text(line, "utf-8")


def previews(html, anchors):
    """{id: HTML} of the parts of a page among ``anchors`` that can be shown."""
    soup = BeautifulSoup(html, "html.parser")
    return {
        part["id"]: shown(part).replace("\n", " ").strip()
        for part in soup.select(SHOWN)
        if part["id"] in anchors
    }


def shown(part):
    """The inside of a part, links as plain words; a term's is its name and its meaning."""
    meaning = part.find_next_sibling("dd") if part.name == "dt" else None
    for each in filter(None, [part, meaning]):
        for extra in each.select(".headerlink"):
            extra.decompose()
        for link in each.select("a, a > .std-ref"):
            link.unwrap()
    name = f"<strong>{part.decode_contents()}</strong>" if meaning else part.decode_contents()
    return name + (meaning.decode_contents() if meaning else "")
