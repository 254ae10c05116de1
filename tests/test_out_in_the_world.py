"""Links that need the repository's address, the card of a shared link, how to cite a page."""

import json
import os
import re
import subprocess
from html import unescape
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import yaml
from docutils import nodes
from matplotlib.text import Annotation
from PIL import Image
from pybtex.database import parse_string
from sphinx.errors import ConfigError

from opd_toy.example import STUDENT, TEACHER
from opd_toy.explorables.palette import ROLES
from opd_toy.objectives import forward_kl_logit_gradient, reverse_kl_logit_gradient
from opd_toy.pages import social_card
from opd_toy.pages.drawing import Style
from tests.conftest import ROOT, new_page
from tests.test_build import TinyBook
from tests.test_pages import CHAPTERS, PAGES, PHONE, serious_faults

SETTINGS = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
URL, SITE = "https://github.com/someone/some.book", "https://someone.github.io/some.book/"
NOTEBOOK = ROOT / "examples" / "audit_your_loss.ipynb"


@pytest.fixture
def world(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "book" / "_extensions")
    import out_in_the_world

    return out_in_the_world


# The setting ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """{whether the addresses are set: the page and the front door} of a book of one page.

    "site" is the folder of what was built last, with the addresses.
    """
    tiny = TinyBook(tmp_path_factory.mktemp("book"))
    tiny.write("A & B. More on $x$ and $\\gamma$.\n")
    settings = tiny.folder / "_config.yml"
    empty = settings.read_text()
    empty = re.sub(r'(?<=  url: )".*"', '""', re.sub(r'(?<=  baseurl: )".*"', '""', empty))
    found = {}
    for is_set in (False, True):
        text = empty
        if is_set:
            text = text.replace('  url: ""', f'  url: "{URL}"')
            text = text.replace('  baseurl: ""', f'  baseurl: "{SITE}"')
            assert text.count("someone") == 2, "the settings have other names now"
        settings.write_text(text)
        code, said = tiny.build()
        assert code == 0, said
        found[is_set] = tiny.page(), (tiny.folder / "_build/html/index.html").read_text()
    site = tiny.folder / "_build" / "html"
    assert (site / "_static" / "social-card.png").is_file()
    return found | {"site": site}


def test_without_an_address_nothing_leads_out(built):
    page, door = built[False]
    assert re.findall(r'(?:href|src|content)="https?:[^"]*"', page + door) == []
    assert "This page elsewhere" not in page and "fa-rocket" not in page
    assert 'property="og:image" content="../_static/social-card.png"' in page
    assert 'property="og:image" content="_static/social-card.png"' in door
    assert "Cite this page" in page


def test_with_an_address_links_lead_to_it(built):
    page, door = built[True]
    found = {unescape(link) for link in re.findall(r'href="(https:[^"]*)"', page)}
    assert found >= {
        f"{URL}/edit/main/book/index.md",
        f"{URL}/issues/new?title=On%20book/index.md",
        "https://mybinder.org/v2/gh/someone/some.book/main?urlpath=lab%2Ftree%2Fbook%2Findex.md",
        "https://colab.research.google.com/github/someone/some.book/blob/main/"
        "examples/audit_your_loss.ipynb",
    }
    assert 'aria-label="This page elsewhere"' in page and "fa-rocket" in page
    for text in (page, door):
        assert f'property="og:image" content="{SITE}_static/social-card.png"' in text
        assert f'property="og:url" content="{SITE}book/index.html"' in text
    assert f"url = {{{SITE}book/index.html}}" in page


def test_the_foot_fits_a_phone(browser, built):
    page = new_page(browser, viewport=PHONE)
    page.goto((built["site"] / "book" / "index.html").as_uri())
    page.get_by_text("Cite this page").click()
    assert page.get_by_text(f"url = {{{SITE}book").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    assert page.faults == []
    assert serious_faults(page) == []
    page.context.close()


@pytest.mark.parametrize("url", [URL, f"{URL}/", f"{URL}.git"])
def test_an_address_may_end_as_people_write_it(world, url):
    found = world.repository(url, "trunk")
    assert found == {"url": URL, "name": "someone/some.book", "branch": "trunk"}


@pytest.mark.parametrize(
    "url", ["github.com/a/b", "https://github.com/a", "https://example.org/a/b"]
)
def test_another_address_is_refused_with_what_is_right(world, url):
    with pytest.raises(ConfigError, match="url in _config.yml is .*https://github.com/OWNER"):
        world.repository(url)


def test_a_page_without_code_is_not_offered_to_run(world):
    found = world.repository(URL)
    assert "binder" in world.links(found, "book/a.md", runs=True)
    assert world.links(found, "book/a.md", runs=False).keys() == {"edit", "issue", "colab"}
    assert world.links({}, "book/a.md", runs=True) == {}


def test_what_repeats_the_address_agrees(world):
    """The notebook and CITATION.cff cannot read _config.yml."""
    url = world.repository(**SETTINGS["repository"]).get("url")
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    (address,) = (
        each for each in ("".join(cell["source"]) for cell in cells) if "ADDRESS =" in each
    )
    assert re.match(r'ADDRESS = "(.*?)"', address)[1] == (f"git+{url}" if url else "")
    assert CITATION.get("repository-code") == url
    assert CITATION.get("url", "") == SETTINGS["html"]["baseurl"]


def test_binder_has_what_its_links_need():
    folder = ROOT / ".binder"
    pins = re.search(r"^-r (.*)$", (folder / "requirements.txt").read_text(), re.MULTILINE)[1]
    assert (folder / pins).resolve() == ROOT / "requirements.txt"
    for name in ("postBuild", "start"):
        assert os.access(folder / name, os.X_OK)
        assert subprocess.run(["sh", "-n", folder / name]).returncode == 0
    found = subprocess.run(
        [folder / "start", "sh", "-c", "echo $JUPYTER_CONFIG_PATH"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
    )
    assert found.stdout.strip() == str(ROOT / "book" / "_jupyter")


# The card -------------------------------------------------------------------------------


def test_the_picture_has_the_size_and_the_colours(tmp_path):
    social_card.draw(tmp_path / "new" / "card.png")
    with Image.open(tmp_path / "new" / "card.png") as picture:
        assert picture.size == social_card.SIZE == (1200, 630)
        used = {colour for count, colour in picture.convert("RGB").getcolors(10**6) if count > 300}
    for role in ("student", "teacher", "reverse_kl", "forward_kl"):
        assert tuple(bytes.fromhex(ROLES[role][0][1:])) in used, role


def test_a_front_page_without_a_door_before_it_stays_as_it_is(world, tmp_path, monkeypatch):
    monkeypatch.setattr(world, "draw", lambda path: None)
    app = SimpleNamespace(builder=SimpleNamespace(format="html"), outdir=tmp_path)
    app.config = SimpleNamespace(root_doc="index")
    (tmp_path / "index.html").write_text("the front page")
    world.draw_card(app, None)
    assert (tmp_path / "index.html").read_text() == "the front page"


def test_the_arrows_of_the_picture_are_the_pushes():
    axes = plt.figure().add_axes((0, 0, 1, 1))
    social_card._bars(axes, Style())
    arrows = [each for each in axes.texts if isinstance(each, Annotation)]
    pushes = [each.xy[1] - each.xyann[1] for each in arrows]  # from the tail to the head
    gradients = (reverse_kl_logit_gradient, forward_kl_logit_gradient)
    wanted = np.stack([-gradient(STUDENT, TEACHER) for gradient in gradients], axis=1)
    assert np.allclose(pushes, social_card.PUSH / 2 * wanted.ravel())
    assert wanted[1, 0] > 0 > wanted[1, 1]  # opposite on the second token, as its words say
    plt.close("all")


@pytest.mark.parametrize(
    "text, said",
    [
        ("One. Two.", "One. Two."),
        (r"One \gamma. Two (A et al. (2026)) three. Four.", "Two (A et al. (2026)) three. Four."),
        (f"One. {'Two ' * 60}.", "One."),
        (f"{'One ' * 60}. Two.", f"{'One ' * 60}."),
    ],
)
def test_a_description_is_whole_sentences_without_formulas(world, text, said):
    page = nodes.section("", nodes.note("", nodes.paragraph("", "A note.")))
    page += nodes.paragraph("", text)
    assert world.description(page) == said
    assert world.description(page, "Stated.") == "Stated."


def tags(text):
    """{name or property: content} of the head's meta tags."""
    found = {}
    for tag in re.findall(r"<meta ([^>]*)>", text):
        for name in re.findall(r'(?:name|property)="([^"]*)"', tag):
            found[name] = unescape(re.search(r'content="([^"]*)"', tag)[1])
    return found


@pytest.mark.parametrize("name", [*PAGES, "index"])
def test_every_page_has_its_card(name, built_book):
    page = built_book / f"{name}.html"
    found = tags(page.read_text(encoding="utf-8"))
    assert found["twitter:card"] == "summary_large_image"
    assert found["og:title"] and found["og:site_name"] == SETTINGS["title"]
    assert 40 < len(found["og:description"]) < 250 and "\\" not in found["og:description"]
    assert found["description"] == found["og:description"]
    picture = page.parent / found["og:image"]
    assert SETTINGS["html"]["baseurl"] or picture.resolve().is_file()


def test_the_cards_say_different_things(built_book):
    pages = [tags((built_book / f"{name}.html").read_text(encoding="utf-8")) for name in CHAPTERS]
    for part in ("og:title", "og:description"):
        assert len({page[part] for page in pages}) == len(CHAPTERS)


# Cite -----------------------------------------------------------------------------------


def test_a_citation_is_the_files_own(world):
    made = world.cite(CITATION, "2026", ("03-pages", "What & why"), "https://example.org/a_b")
    (entry,) = parse_string(made["bibtex"], "bibtex").entries.values()
    assert entry.key == "opd-book-03-pages"
    assert entry.fields["title"] == r"{What \& why}" and entry.fields["year"] == "2026"
    assert entry.fields["url"] == "https://example.org/a_b"
    for text in (entry.fields["note"], made["text"]):
        assert CITATION["title"] in text and f"version {CITATION['version']}" in text
    (group,) = entry.persons["author"]
    assert str(group) == f"{{{CITATION['authors'][0]['name']}}}"  # one name, not first and last
    assert "“What & why”" in made["text"]
    assert made["also"] == [
        "Penghui Yang. Revisiting On-Policy Distillation, parts 1 to 6, 2026. In Chinese."
    ]


def test_the_front_page_cites_the_book(world):
    made = world.cite(CITATION, "2026")
    (entry,) = parse_string(made["bibtex"], "bibtex").entries.values()
    assert entry.key == "opd-book" and entry.fields["title"] == f"{{{CITATION['title']}}}"
    assert "“" not in made["text"] and "url" not in entry.fields


def test_people_are_cited_by_family_name(world):
    people = {"authors": [{"given-names": "A.", "family-names": f"B{at}"} for at in range(2)]}
    made = world.cite({**CITATION, **people}, "2026")
    (entry,) = parse_string(made["bibtex"], "bibtex").entries.values()
    assert [person.last_names for person in entry.persons["author"]] == [["B0"], ["B1"]]
    assert made["text"].startswith("A. B0, A. B1. ")


@pytest.mark.parametrize("name", CHAPTERS)
def test_every_page_says_how_to_cite_it(name, built_book):
    text = (built_book / f"{name}.html").read_text(encoding="utf-8")
    fold = re.search(r"<details>\s*<summary>Cite this page</summary>(.*?)</details>", text, re.S)[1]
    (entry,) = parse_string(
        unescape(re.search(r"<pre.*?>(.*?)</pre>", fold, re.S)[1]), "bibtex"
    ).entries.values()
    title = CITATION["title"] if name == "book/index" else tags(text)["og:title"]
    assert re.sub(r"[{}\\]", "", entry.fields["title"]) == title
    assert title in unescape(fold.split("<pre")[0])
