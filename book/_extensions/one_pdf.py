"""The whole book as one PDF: ``make pdf``, printed by Chromium from the built pages.

The pages are put one after the other into one HTML file, so that a link from page to page is a
link inside the PDF.  Sliders are their still pictures.  What an exercise tells and its solution
stand at the end of their chapter.
"""

import os
import re
import sys
import tempfile
from pathlib import Path
from urllib.parse import urldefrag, urljoin

from bs4 import BeautifulSoup

from opd_toy.explorables.browser import ADVICE, ARGUMENTS, find_chromium

ROOT = Path(__file__).parents[2]
SITE = ROOT / "_build" / "html"
FRONT = "book/index.html"
PATIENCE = 300_000  # milliseconds for some thousand formulas

STYLE = """
@page { size: A4; margin: 18mm 16mm; }
html { font-size: 75% !important; scroll-padding: 0; }
body { max-width: none; }
article { break-after: page; }
/* A heading at the very top of a sheet would stand twice in the outline. */
article::before { content: ""; display: block; height: 1px; }
.opd-fallback { max-width: 100%; }
.opd-exercise form { display: none; }
article h1 { font-size: 1.7rem !important; }
article h2 { font-size: 1.3rem !important; }
"""


def pages(site):
    """Names of the built pages, in the order of the contents: the menu of the front page."""
    front = BeautifulSoup((site / FRONT).read_text(encoding="utf-8"), "html.parser")
    links = (a["href"] for a in front.select("nav.bd-links a.internal[href]"))
    names = [FRONT, *(f"book/{urldefrag(link).url}" for link in links if not link.startswith("#"))]
    return list(dict.fromkeys(names))


def one_document(site):
    """The HTML of all pages' articles behind the head of the first."""
    names = pages(site)
    whole = BeautifulSoup((site / FRONT).read_text(encoding="utf-8"), "html.parser")
    head = whole.head
    for script in head.select("script:not([src*=mathjax])"):
        if "MathJax" not in (script.string or ""):
            script.decompose()
    for part in head.select("[href], [src]"):
        address = "href" if part.has_attr("href") else "src"
        part[address] = in_site(site, FRONT, part[address])
    head.append(whole.new_tag("style"))
    head.find_all("style")[-1].string = STYLE
    articles = [article(site, name, names) for name in names]
    return f'<!doctype html><html lang="en" data-theme="light">{head}<body>{"".join(articles)}'


def in_site(site, page, address):
    """An address on a page, from anywhere."""
    return urljoin((site / page).resolve().as_uri(), address)


def article(site, name, names):
    """One page's article, its ids and addresses made to hold inside the whole."""
    soup = BeautifulSoup((site / name).read_text(encoding="utf-8"), "html.parser")
    body = soup.select_one("article.bd-article")
    to_the_end(soup, body)
    for extra in body.select("script, .headerlink, button"):
        extra.decompose()
    for hidden in body.select("noscript"):
        hidden.unwrap()
    for part in body.select("[id]"):
        part["id"] = place(name, part["id"])
    for part in body.select("[href], [src]"):
        address = "href" if part.has_attr("href") else "src"
        part[address] = inside(site, name, part[address], names)
    for fold in body.select("details"):
        fold["open"] = ""
    for picture in body.select("img.opd-dark"):
        picture.decompose()  # paper is light
    for picture in body.select("img[loading]"):
        del picture["loading"]
    body["id"] = place(name, "")
    return str(body)


def to_the_end(soup, body):
    """Collect what the exercises tell, and the solutions, below a heading at the end."""
    told = soup.new_tag("section")
    for exercise in body.select(".opd-exercise"):
        words, answer = exercise.select_one("label, legend"), exercise.select_one("noscript p")
        name = re.sub(r".*prediction for |:.*| \(.*", "", words.get_text()).strip()
        line = soup.new_tag("p")
        line.string = f"{name}. {answer.get_text().removeprefix('Without scripts: ')}"
        told.append(line)
        fold = exercise.find_next("details", class_="opd-folded")
        is_solution = fold and fold.summary.get_text(strip=True) == "Solution"
        if is_solution and fold.find_previous(class_="opd-exercise") is exercise:
            fold.summary.decompose()
            told.append(fold.extract())
        exercise.decompose()
    if told.contents:
        heading = soup.new_tag("h2")
        heading.string = "Answers to the exercises"
        body.append(heading)
        body.append(told)


def place(name, anchor):
    """The id, in the whole, of an id of a page."""
    return f"{Path(name).stem}--{anchor}"


def inside(site, name, address, names):
    """An address on a page: inside the whole if it leads to a page, else where it was."""
    path, anchor = urldefrag(in_site(site, name, address))
    root = site.resolve().as_uri() + "/"
    target = path.removeprefix(root)
    return f"#{place(target, anchor)}" if target in names else in_site(site, name, address)


def make(site=SITE, target=None):
    """Print the book built in ``site`` to ``target`` (default: beside the site's folder)."""
    target = Path(target or site.parent / "on-policy-distillation.pdf")
    if not (site / FRONT).is_file():
        raise SystemExit(f"{site} holds no book: run `make book`")
    chromium = find_chromium()
    if not chromium:
        raise SystemExit(ADVICE)
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        data = printed(browser, one_document(site), Path(folder))
    partial = target.with_suffix(".partial")
    partial.write_bytes(data)  # a full disk leaves the PDF of before
    os.replace(partial, target)
    return target


def printed(browser, document, folder):
    """The PDF of an HTML document, once its formulas are set."""
    file = folder / "book.html"
    file.write_text(document, encoding="utf-8")
    page = browser.new_page()
    page.goto(file.as_uri(), timeout=PATIENCE)
    page.wait_for_function("window.MathJax?.startup?.promise", timeout=PATIENCE)
    page.evaluate("MathJax.startup.promise")
    data = page.pdf(prefer_css_page_size=True, outline=True, tagged=True)
    page.close()
    return data


if __name__ == "__main__":
    print(make(*map(Path, sys.argv[1:])))
