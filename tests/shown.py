"""What the pages show, as text: the values in their sentences, what their cells print and draw.

A file of tests/shown holds it for each page, and test_shown.py holds the built book to these.
Where a figure of the book was meant to change:

    make book
    python -m tests.shown

writes the files again, and their diff is the list of the figures that have changed.
"""

import base64
import contextlib
import hashlib
import html
import io
import json
import os
import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

from bs4 import BeautifulSoup

from opd_toy.pages import social_card
from opd_toy.pages.figures import FIGURES
from tests.conftest import ROOT
from tests.drawn import drawn
from tests.pages_run import CELL, run_cell
from tests.written import same_number

FOLDER = ROOT / "tests" / "shown"
SITE = ROOT / "_build" / "html"
REPEATING = {"ledger"}  # test_ledger.py checks it
PAGES = sorted(path.stem for path in (ROOT / "book").glob("*.md") if path.stem not in REPEATING)
UNSHOWN = "remove-output"  # the tag of a cell whose output is for JupyterLab alone
CARD = "social-card"
NUMBER = re.compile(r"(-?\d+(?:\.\d+)?(?:e[+-]\d+)?)")
VALUE = re.compile(r'<span class="output text_plain">(.*?)</span>', re.DOTALL)
MOUNTED = re.compile(r'mount\w*\([^"]*getElementById\("[^"]*"\)(.*)\);', re.DOTALL)
AS_TYPED = str.maketrans("\N{NO-BREAK SPACE}’“”", ' \'""')  # not as it is set
PROOF = re.compile(r"(?<=Proof, step by step\n).*?(?=\n:::)", re.DOTALL)
FORMULA = re.compile(r"\$\$\n(.*?)\n\$\$", re.DOTALL)
# An error of rounding is told, and an almost vanishing sum that it spoils; how large, the
# processor says, as long as it is small.
ROUNDING = re.compile(
    r"(?P<of>^scientific\((?:softmax_error|in_float32)[^:]*: |(?:off|value) by |gradients )"
    r"[-−]?\d[\d.]*(?:e-(?:0[5-9]|1\d)| · 10⁻[⁵⁶⁷⁸])\b"
    r"|-?\b\d[\d.]*e-(?:1[3-9]|[2-9]\d)\b"
)
BLOCK = re.compile(r"(?=<(?:tr|p|div|label|fieldset|dt|dd|details|figcaption|img|button)\b)")


def built(page, site=SITE):
    """The lines of a page of the built book; the build has executed it."""
    source = (ROOT / "book" / f"{page}.md").read_text(encoding="utf-8")
    asked = [found["value"] for found in CELL.finditer(source) if found["value"]]
    text = (site / "book" / f"{page}.html").read_text(encoding="utf-8")
    given = [html.unescape(value).translate(AS_TYPED) for value in VALUE.findall(text)]
    assert len(given) == len(asked), f"{len(asked)} values are asked for, {len(given)} shown"
    made = site.parent / "jupyter_execute" / "book" / f"{page}.ipynb"
    cells = json.loads(made.read_text(encoding="utf-8"))["cells"]
    shown = [
        output
        for cell in cells
        if UNSHOWN not in cell["metadata"].get("tags", ())
        for output in _outputs(cell)
    ]
    return lines(zip(asked, given), shown)


def _outputs(cell):
    """What a cell gives, {kind: text} each.

    What it prints may come in pieces, as time has it. MyST-NB has joined them in the first, and
    leaves the others beside it.
    """
    told = set()
    for output in cell.get("outputs", ()):
        if "data" in output:
            yield {kind: "".join(text) for kind, text in output["data"].items()}
        elif output["name"] not in told:
            told.add(output["name"])
            yield {"text/plain": "".join(output["text"])}


def executed(page):
    """The lines of a page of the sources, executed here: for those who change a page."""
    from IPython.core.formatters import DisplayFormatter
    from matplotlib import rc_context

    from opd_toy.pages.page import BUILDING

    names, values, shown, show = {}, [], [], DisplayFormatter().format
    source = (ROOT / "book" / f"{page}.md").read_text(encoding="utf-8")
    book = contextlib.chdir(ROOT / "book")
    with book, patch.dict(os.environ, {BUILDING: "yes"}), rc_context():
        for found in CELL.finditer(source):
            if found["value"]:
                value = str(eval(found["value"], names)).translate(AS_TYPED)
                values.append((found["value"], value))
                continue
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                last = run_cell(found["code"], names, page)
            if UNSHOWN in found[0]:
                continue
            if printed.getvalue():
                shown.append({"text/plain": printed.getvalue()})
            if last is not None:
                shown.append(show(last)[0])
    return lines(values, shown)


def kept(page):
    return (FOLDER / f"{page}.txt").read_text(encoding="utf-8").split("\n")[:-1]


def kept_drawings():
    """{words beside a drawing: the lines that the files have of it}"""
    found = {}
    for page in PAGES:
        for part in "\n".join(kept(page)).split("\n\n"):
            if size := re.search(r"^[\d.]+pt × ", part, re.MULTILINE):
                words = BeautifulSoup(part, "html.parser").img["alt"]
                found[words] = part[size.start() :].split("\n")
    return found


def card(folder):
    """The lines of the picture that goes with a shared link, drawn into a folder."""
    social_card.draw(folder / "card.svg")
    return drawn((folder / "card.svg").read_text(encoding="utf-8"))


def lines(values, outputs):
    """All lines: the values, then each output of a cell after an empty line."""
    found = [f"{expression}: {value}" for expression, value in values]
    for output in outputs:
        kind = next(each for each in ("text/markdown", "text/html", "text/plain") if each in output)
        found += ["", *{"text/html": of_html}.get(kind, of_text)(output[kind])]
    return [ROUNDING.sub(r"\g<of>(rounding)", line.rstrip()) for line in found]


def of_text(text):
    """Proofs and formulas, which are checked elsewhere, by their lengths alone."""
    text = PROOF.sub(lambda proof: f"{len(proof[0])} characters", text)
    text = FORMULA.sub(lambda formula: f"$$ {len(formula[1])} characters $$", text)
    return text.strip("\n").split("\n")


def of_html(text):
    """Elements with their words and attributes, the drawings, and what scripts are given."""
    soup = BeautifulSoup(text, "html.parser")
    found = []
    for each in soup.find_all("script"):
        for given in MOUNTED.findall(each.string or ""):
            found += [line for part in objects(given) for line in brief("", part)]
        each.decompose()
    for each in soup.find_all("style"):
        short = len(each.string) < 3000  # longer ones are files
        each.string = digest(each.string) if short else ""
    for each in soup.select("img.opd-dark, .opd-exercise :is(button, noscript)"):
        each.decompose()
    for each in soup.find_all("img"):
        kind, _, data = each["src"].partition(";base64,")
        if kind.endswith("svg+xml"):
            found += of_drawing(base64.b64decode(data).decode(), each["alt"])
        del each["src"]
    for each in soup.select("a[href^=data]"):
        del each["href"]
    plain = re.sub(r"-[0-9a-f]{8}\b", "", str(soup))
    parts = [part for part in BLOCK.split(plain.replace("\n", " ")) if part]
    if len(parts) > 500:  # the index of losses
        parts[50:] = [f"{len(parts) - 50} more: {digest(''.join(parts[50:]))}"]
    return [*parts, *found]


def of_drawing(svg, alt):
    """A descent by draws goes another way on another processor: of that one the looks and texts."""
    if alt != FIGURES["training-with-few-draws"]["alt"]:
        return drawn(svg)
    return [re.sub(r" of \d+ points, .*", "", line) for line in drawn(svg)]


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def objects(text):
    """The JSON of a call's arguments."""
    while begun := re.match(r"[,\s]+", text):
        value, end = json.JSONDecoder().raw_decode(text, begun.end())
        yield value
        text = text[end:]


def brief(name, value):
    """Lines of a nested value: long lists by how many they are, their ends and their sum."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from brief(f"{name}.{key}".lstrip("."), inner)
    elif len(text := json.dumps(value, ensure_ascii=False)) > 300:
        numbers = [float(each) for each in NUMBER.findall(text)] if isinstance(value, list) else []
        words = digest(NUMBER.sub("", text) if numbers else text)
        yield f"{name}: {len(numbers)} numbers, sum {sum(numbers):.6g}; words {words}"
    else:
        yield f"{name}: {NUMBER.sub(lambda at: f'{float(at[0]):.6g}', text)}"


def differences(found, kept):
    """The first lines in which two lists differ by more than the rounding of a last digit."""
    for at, (new, old) in enumerate(zip([*found, None], [*kept, None])):
        if new is None and old is None:
            break
        if new is None or old is None or not alike(new, old):
            return f"line {at + 1} was\n  {old}\nand is\n  {new}"
    return ""


def alike(one, other):
    (*parts,), (*others,) = NUMBER.split(one), NUMBER.split(other)
    return len(parts) == len(others) and all(
        same_number(a, b) if at % 2 else a == b for at, (a, b) in enumerate(zip(parts, others))
    )


def main():
    """Write the files of all pages, or of those that are named, from the built book; the card's."""
    for page in sys.argv[1:] or PAGES:
        text = "\n".join(built(page)) + "\n"
        (FOLDER / f"{page}.txt").write_text(text, encoding="utf-8")
    with TemporaryDirectory() as folder:
        text = "\n".join(card(Path(folder))) + "\n"
    (FOLDER / f"{CARD}.txt").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
