"""book/_extensions, what only some builds do: function by function."""

import contextlib
import os
import sys
from types import SimpleNamespace

import pytest
from bs4 import BeautifulSoup
from docutils import nodes
from docutils.utils import new_document
from myst_nb.core.utils import coalesce_streams
from nbformat import NotebookNode

from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "book" / "_extensions"))
import one_pdf
import one_source
import out_in_the_world
import previews
import whole_pages


@pytest.mark.parametrize("processors, processes", [(None, 1), (1, 1), (3, 3), (4, 4), (64, 4)])
def test_pages_are_read_by_as_many_processes_as_there_are_processors_up_to_four(
    processors, processes, monkeypatch
):
    monkeypatch.setattr(os, "cpu_count", lambda: processors)
    some = {name: SimpleNamespace(parallel_read_safe=False) for name in one_source.UNDECLARED[1:]}
    app = SimpleNamespace(extensions=some, parallel=0)
    one_source.read_side_by_side(app, None, [])
    assert app.parallel == processes
    assert all(extension.parallel_read_safe for extension in some.values())
    one_source.write_one_by_one(app, None)
    assert app.parallel == 1


def test_the_page_of_tables_is_read_again_with_every_chapter():
    _, files = one_source.used("from opd_toy.pages.remember import all_tables")
    assert files == ["book/[0-9]*.md"]


@pytest.mark.parametrize("page", ["search", "book/index"])
def test_the_search_page_alone_has_its_script(page):
    added = []
    app = SimpleNamespace(add_js_file=lambda name, **options: added.append((name, options)))
    one_source.let_words_come_in_any_order(app, page, "page.html", {}, None)
    assert added == ([("search.js", {"defer": "defer"})] if page == "search" else [])


@pytest.mark.parametrize("length", [200, 201])
def test_a_description_has_at_most_200_characters(length):
    """Or its first sentence has more."""
    two = f"One. {'T' * (length - 6)}."
    assert len(two) == length
    page = nodes.section("", nodes.paragraph("", two))
    assert out_in_the_world.description(page) == (two if length == 200 else "One.")


@pytest.mark.parametrize("error, kind", [("raised", "html"), (None, "latex")])
def test_after_an_error_and_for_other_formats_nothing_is_added(error, kind, tmp_path):
    app = SimpleNamespace(builder=SimpleNamespace(format=kind), outdir=tmp_path)
    out_in_the_world.draw_card(app, error)
    previews.write_previews(app, error)
    assert list(tmp_path.iterdir()) == []


def test_every_page_is_set_again_where_terms_have_changed():
    env = SimpleNamespace(all_docs=["b", "a"])
    assert previews.link_terms_again(None, env) == []  # a book without terms
    env.terms = {"coin": "term-coin"}
    assert previews.link_terms_again(None, env) == ["a", "b"]
    assert previews.link_terms_again(None, env) == []


def test_chapters_and_cells_that_are_not_executed_are_complained_of(monkeypatch):
    said = []
    logger = SimpleNamespace(warning=lambda *words, **where: said.append((words, where)))
    monkeypatch.setattr(whole_pages, "logger", logger)
    page = new_document("page")
    for kind, count in (("cell_code", None), ("cell_code", 3), ("cell_markdown", None)):
        page += nodes.container(nb_element=kind, exec_count=count, cell_index=len(page))
    of = {"type": "whole_pages", "subtype": "cell"}
    never = (("code cell %s was not executed", 0), {"location": page[0], **of})
    for mode, wanted in (
        ("inline", [never]),
        ("off", [(("the chapters are not executed",), of), never]),
    ):
        app = SimpleNamespace(config=SimpleNamespace(nb_execution_mode=mode))
        whole_pages.warn_of_cells_never_run(app, page)
        assert said == wanted
        said.clear()


@pytest.mark.parametrize("change", [whole_pages.by_file_name, whole_pages.then_chapters_alone])
def test_a_second_build_in_a_process_numbers_no_further(change):
    once = change(lambda self, env: [])
    assert change(once) is once


def test_folds_of_the_menu_are_named_after_their_chapter():
    menu = "<li><a> 6. Text </a><details><summary></summary><a>Noise</a></details></li>"
    tree = whole_pages.name_the_folds(lambda: BeautifulSoup(menu, "html.parser"))()
    assert tree.summary["aria-label"] == "Pages of 6. Text"


MATHJAX = "<script>window.MathJax = { startup: { promise: Promise.resolve() } }</script>"


def test_a_pdf_is_a4_and_can_be_read_aloud(browser, tmp_path):
    document = f"<!doctype html>{MATHJAX}<style>{one_pdf.STYLE}</style><h1>One</h1>"
    data = one_pdf.printed(browser, document, tmp_path)
    assert b"/StructTreeRoot" in data
    assert b"/Outlines" in data
    assert b"/MediaBox [0 0 594" in data  # points; Letter has 612


def test_a_pdf_replaces_the_one_before_when_it_is_whole(tmp_path, monkeypatch):
    site = tmp_path / "html"
    (site / "book").mkdir(parents=True)
    (site / one_pdf.FRONT).write_text("")
    monkeypatch.setattr(one_pdf, "one_document", lambda site: f"the book of {site.name}")
    monkeypatch.setattr(one_pdf, "find_chromium", lambda: "browser")
    launched = []
    driver = SimpleNamespace(launch=lambda **options: launched.append(options) or "Chromium")
    playwright = contextlib.nullcontext(SimpleNamespace(chromium=driver))
    module = SimpleNamespace(sync_playwright=lambda: playwright)
    monkeypatch.setitem(sys.modules, "playwright.sync_api", module)
    monkeypatch.setattr(
        one_pdf, "printed", lambda *given: f"{given[0]}, {given[1]}, {given[2].is_dir()}".encode()
    )
    for target in (tmp_path / "on-policy-distillation.pdf", tmp_path / "mine.pdf"):
        target.write_text("before")
        given = [] if "on-policy" in target.name else [str(target)]
        assert one_pdf.make(site, *given) == target
        assert target.read_text() == "Chromium, the book of html, True"
    assert launched == 2 * [{"executable_path": "browser", "args": one_pdf.ARGUMENTS}]
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"html", "on-policy-distillation.pdf", "mine.pdf"}
    monkeypatch.setattr(one_pdf, "find_chromium", lambda: None)
    with pytest.raises(SystemExit, match="Chromium"):
        one_pdf.make(site)


def test_what_is_printed_in_pieces_of_a_line_is_set_as_that_line():
    """Such pieces come when the kernel's clock strikes between two writes of one ``print``."""
    coalesce = whole_pages.of_whole_lines(coalesce_streams)
    assert whole_pages.of_whole_lines(coalesce) is coalesce
    printed = [("stdout", "a  "), ("stderr", "c"), ("stdout", " b\n\n"), ("stdout", "d\n")]
    pieces = [NotebookNode(output_type="stream", name=name, text=text) for name, text in printed]
    pieces.insert(2, NotebookNode(output_type="display_data", data={}))
    joined = coalesce(pieces)
    assert [output.get("text") for output in joined] == ["a   b\n\nd\n", "c\n", None]
