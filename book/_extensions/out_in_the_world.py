"""Sphinx extension: what a page shows to those who come from elsewhere, or pass it on.

* The repository's address, ``repository: url`` in _config.yml: links to edit the page, to report
  a fault, to open it on Binder and the auditor's notebook on Colab.  None where it is empty.
* A social card: title, description and picture for whoever shares a link.  Their addresses are
  absolute where ``html: baseurl`` has the site's.
* How to cite the page, from CITATION.cff.
"""

import re
from html import escape
from pathlib import Path
from urllib.parse import quote

import yaml
from docutils import nodes
from sphinx.errors import ConfigError

from opd_toy.pages.social_card import ALT, SIZE, draw

CARD = "_static/social-card.png"
COLAB = "https://colab.research.google.com/github"
BINDER = "https://mybinder.org/v2/gh"  # what it installs is in .binder
NOTEBOOK = "examples/audit_your_loss.ipynb"
LONGEST = 200  # characters of a description; one sentence may have more
SENTENCE_END = re.compile(r"(?<=[.?!]) (?=[A-Z])")
SHARED = re.compile(r'<meta (?:property="og:|name="(?:twitter:card|description)")[^>]*>')


def setup(app):
    app.add_config_value("repository", {}, "html")
    app.add_config_value("citation", {}, "html")
    app.connect("config-inited", read_settings)
    # Before the theme leaves out the parts of a page that are empty.
    app.connect("html-page-context", describe_page, priority=100)
    app.connect("html-page-context", add_header_buttons, priority=900)
    app.connect("build-finished", draw_card, priority=800)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def read_settings(app, config):
    root = Path(app.srcdir)
    settings = yaml.safe_load((root / "_config.yml").read_text("utf-8"))
    config.repository = repository(**settings.get("repository") or {})
    config.citation = yaml.safe_load((root / "CITATION.cff").read_text("utf-8"))


# The repository -----------------------------------------------------------------------------


def repository(url="", branch="main"):
    """What the links are made of; empty where no address is set."""
    if not url:
        return {}
    found = re.fullmatch(r"https://github\.com/([\w.-]+/[\w.-]+?)(?:\.git)?/?", url)
    if not found:
        raise ConfigError(
            f"repository: url in _config.yml is {url!r}; right would be "
            "https://github.com/OWNER/REPOSITORY, or nothing"
        )
    return {"url": f"https://github.com/{found[1]}", "name": found[1], "branch": branch}


def links(repository, source, runs):
    """{name: (words, address)} of a page's links: its file, and whether it has code that runs."""
    if not repository:
        return {}
    url, name, branch = repository["url"], repository["name"], repository["branch"]
    lab = quote(f"lab/tree/{source}", safe="")
    found = {
        "edit": ("Edit this page", f"{url}/edit/{branch}/{source}"),
        "issue": ("Report a fault", f"{url}/issues/new?title={quote(f'On {source}')}"),
        "binder": ("Run this page on Binder", f"{BINDER}/{name}/{branch}?urlpath={lab}"),
        "colab": ("Audit your loss on Colab", f"{COLAB}/{name}/blob/{branch}/{NOTEBOOK}"),
    }
    if not runs:
        del found["binder"]
    return found


def add_header_buttons(app, page, template, context, doctree):
    """Two of the links above the page too: the theme's menus would not open by the keyboard."""
    icons = {"binder": "fa-solid fa-rocket", "edit": "fa-solid fa-pencil"}
    for name, icon in icons.items():
        if name in context["page_links"]:
            words, address = context["page_links"][name]
            button = {"type": "link", "url": address, "tooltip": words, "icon": icon}
            context["header_buttons"].append(button | {"label": name})


# Each page ----------------------------------------------------------------------------------


def describe_page(app, page, template, context, doctree):
    config, context["page_links"] = app.config, {}
    title = config.html_title
    said = config.citation["abstract"]
    if doctree is not None:
        title = app.env.titles[page].astext()
        said = description(doctree, app.env.metadata[page].get("description")) or said
        source = app.env.doc2path(page, base=False)
        runs = "kernelspec" in app.env.metadata[page]
        context["page_links"] = links(config.repository, str(source), runs)
        name = None if page == config.root_doc else Path(page).name
        address = config.html_baseurl and absolute(config.html_baseurl, f"{page}.html")
        year = re.search(r"\d{4}", str(config.citation.get("date-released", config.copyright)))[0]
        context["cite"] = cite(config.citation, year, name and (name, title), address)
    tags = card(config, page, title, said, context["pathto"])
    context["metatags"] = "\n".join([context.get("metatags", ""), *tags])


def description(doctree, stated=None):
    """What the front matter states, else the page's first sentences that have no formula."""
    if stated:
        return stated
    for paragraph in doctree.findall(nodes.paragraph):
        if isinstance(paragraph.parent, nodes.section):
            text = " ".join(paragraph.astext().split())
            sentences = [each for each in SENTENCE_END.split(text) if "\\" not in each]
            said = ""
            for sentence in sentences:
                longer = f"{said} {sentence}".strip()
                if said and len(longer) > LONGEST:
                    break
                said = longer
            if said:
                return said
    return ""


def absolute(site, path):
    return f"{site.rstrip('/')}/{path}"


def card(config, page, title, said, pathto):
    """The tags of a page's head that whoever shares its link looks at."""
    site = config.html_baseurl
    if not site:
        picture = pathto(CARD, 1)
    else:
        picture = absolute(site, CARD)
        yield meta('property="og:url"', absolute(site, f"{page}.html"))
    shown = {"type": "article", "site_name": config.html_title, "title": title}
    shown |= {"image": picture, "image:alt": ALT}
    shown |= {"image:width": SIZE[0], "image:height": SIZE[1]}
    for name, content in shown.items():
        yield meta(f'property="og:{name}"', content)
    yield meta('name="description" property="og:description"', said)
    yield meta('name="twitter:card"', "summary_large_image")


def meta(names, content):
    return f'<meta {names} content="{escape(str(content))}" />'


def draw_card(app, error):
    """The picture, and the tags for the site's own address, which only leads on to the book."""
    if error or app.builder.format != "html":
        return
    site = Path(app.outdir)
    draw(site / CARD)
    door, front = site / "index.html", site / f"{app.config.root_doc}.html"
    if door.is_file() and door != front:
        tags = "\n".join(SHARED.findall(front.read_text("utf-8"))).replace('"../', '"')
        leads_on = re.search(r"<meta http-equiv[^>]*>", door.read_text("utf-8"))[0]
        door.write_text(f"{leads_on}\n{tags}\n", "utf-8")


# Cite ---------------------------------------------------------------------------------------


def cite(citation, year, page=None, address=""):
    """{"text", "bibtex"} for a page, (name, title), or for the whole book."""
    book, version = citation["title"], f"version {citation['version']}"
    name, title = page or (None, book)
    key = f"opd-book-{name}" if name else "opd-book"
    people = [author(each) for each in citation["authors"]]
    fields = {"author": " and ".join(bibtex for _, bibtex in people)}
    fields |= {"title": f"{{{for_tex(title)}}}", "year": year}
    fields["note"] = f"In: {for_tex(book)}, {version}" if page else version.capitalize()
    if address:
        fields["url"] = address
    lines = "".join(f",\n  {field} = {{{value}}}" for field, value in fields.items())
    whole = f"{book}, {version}, {year}."
    names = ", ".join(plain for plain, _ in people)
    what = f"“{title}”. In: {whole}" if page else whole
    return {
        "text": f"{names}. {what} {address}".strip(),
        "bibtex": f"@misc{{{key}{lines}\n}}",
        "also": [reference(each) for each in citation.get("references", [])],
    }


def author(entry):
    """An author's name as plain text and for BibTeX, which would take a group's apart."""
    if "name" in entry:
        return entry["name"], f"{{{for_tex(entry['name'])}}}"
    plain = f"{entry['given-names']} {entry['family-names']}"
    return plain, for_tex(f"{entry['family-names']}, {entry['given-names']}")


def reference(entry):
    people = ", ".join(author(each)[0] for each in entry["authors"])
    return f"{people}. {entry['title']}, {entry['year']}. {entry.get('notes', '')}".strip()


def for_tex(text):
    return re.sub(r"([&%$#_{}])", r"\\\1", text)
