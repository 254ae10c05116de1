"""What each explorable shows on a tour through its controls, kept in a text: shown/NAME.txt.

The tour (shown.js) presses every button, moves every slider and handle, and sets states by the
address.  Of each step the text has the sentence where it changed, and of every part that changed,
the page around the pictures and each size of picture, a hash of its words and a sum of its
coordinates.  That they are true is held to the engine elsewhere; here nothing changes unseen.
After a wanted change, or a new record, make the texts again and look at what has changed::

    python -m tests.explorables.shown
"""

import base64
import re
import tempfile
from pathlib import Path

from opd_toy.explorables.learning_curves import packed
from opd_toy.explorables.push_and_pull import OBJECTIVES
from tests.explorables import WIDGETS, page_of
from tests.explorables.opened import states
from tests.explorables.settings import SETTINGS
from tests.test_explorables_sentences import SAID
from tests.test_learning_curves import hostile, made_up

HERE = Path(__file__).parent
PIXELS = 0.25  # that a sum of coordinates may differ by: last digits of some, but no fault
SUM = re.compile(r"(?<=: )(\w+) (-?\d+\.\d)(?= \||$)")


def kept(name):
    return HERE / "shown" / f"{name}.txt"


def on_tour(name):
    """The explorable with all that it can offer, and with records of runs that broke down."""
    widget = WIDGETS[name](**({"objectives": list(OBJECTIVES)} if name == "PushAndPull" else {}))
    if name == "LearningCurves":
        other = made_up("NVIDIA", ["sft", "gkd", "rlvr"], points=5)
        other["curves"]["rlvr"] = made_up(names=["rlvr"], points=2)["curves"]["rlvr"]
        for each in sum(other["curves"].values(), []):
            each["tokens"] = [100 * tokens for tokens in each["tokens"]]
            each["seconds"] = [500 * seconds + 9 for seconds in each["seconds"]]
            each["distinct"] = [0.0 for _ in each["steps"]]
            each["length"] = [12.0 for _ in each["steps"]]
        # bands that touch, the lowest seed at the teacher's, and eight ticks between the KLs
        for method, shares, kls in (
            ("sft", (0.5, 0.75, 0.75), (2.0, 190.0, 190.0)),
            ("gkd", (0.5, 0.5, 0.5), (1.1, 1.1, 2.0)),
            ("rlvr", (0.5, 0.5, 0.75), (2.0, 2.0, 2.0)),
        ):
            for each, share, kl in zip(other["curves"][method], shares, kls):
                each |= {"accuracy": [share for _ in each["steps"]]}
                each |= {"sequence_kl": [kl for _ in each["steps"]]}
        other["teacher"]["accuracy"] = 0.5
        for known in ("teacher", "start"):
            other[known] |= dict.fromkeys(("sequence_kl", "distinct", "length"))
        widget.recording = {"cpu": packed(hostile()), "gpu": packed(other)}
    if name == "Derail":
        answers = {key: dict(each) for key, each in widget.recording["answers"].items()}
        answers["sum"]["right"] = ["0", *answers["sum"]["right"][1:]]  # a slip at once
        answers["lost"]["new_at"] = len(answers["lost"]["tokens"])  # new by its last token
        widget.recording = widget.recording | {"answers": answers}
    if name == "ControlStudy":
        codes = bytearray(base64.b64decode(widget.recording["variance"]))
        run = len(codes) // 30  # γ = 0, 0.25, 0.5, 0.75, 1, of each three seeds, two tasks
        codes[8 * run + run // 2 : 9 * run] = bytes(run - run // 2)  # halfway
        codes[26 * run : 27 * run] = bytes(run)  # from the start
        widget.recording |= {"variance": base64.b64encode(codes).decode()}
    return widget


def toured(page, name, folder):
    """The text of the tour of one explorable, in a page of a browser that moves nothing."""
    file = Path(folder) / f"{name}.html"
    file.write_text(page_of(on_tour(name)), encoding="utf-8")
    page.goto(file.as_uri())
    page.wait_for_selector("[data-mounted]")
    page.add_script_tag(path=HERE / "shown.js")
    asked = [state for of, state, _ in SAID if of == name]
    asked += [*states(name, 12, seed=77), *SETTINGS.get(name, [])]
    found = page.evaluate("(asked) => tour(document.querySelector('.opd-host'), asked)", asked)
    return "".join(f"## {title}\n{sentence}{parts}" for title, sentence, parts in found)


def differences(before, now):
    """[(title of the step, line before, line now)], sums of coordinates compared as numbers."""
    title, found = "", []
    for old, new in zip(before.splitlines(), now.splitlines(), strict=True):
        title = new if new.startswith("## ") else title
        sums = [[float(x) for _, x in SUM.findall(line)] for line in (old, new)]
        alike = SUM.sub(r"\1", old) == SUM.sub(r"\1", new)
        if not alike or any(abs(a - b) > PIXELS for a, b in zip(*sums)):
            found.append((title, old, new))
    return found


def main():
    from playwright.sync_api import sync_playwright

    from opd_toy.explorables.browser import ARGUMENTS, find_chromium

    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=ARGUMENTS)
        page = browser.new_page(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
        for name in WIDGETS:
            kept(name).parent.mkdir(exist_ok=True)
            kept(name).write_text(toured(page, name, folder), encoding="utf-8")


if __name__ == "__main__":
    main()
