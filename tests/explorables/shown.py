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

from opd_toy.explorables.learning_curves import AXES, QUANTITIES, packed
from opd_toy.explorables.push_and_pull import OBJECTIVES
from tests.explorables import WIDGETS, page_of
from tests.explorables.opened import states
from tests.test_explorables_sentences import EVEN, SAID, Q
from tests.test_learning_curves import hostile, made_up

HERE = Path(__file__).parent
PIXELS = 0.25  # that a sum of coordinates may differ by: last digits of some, but no fault
SUM = re.compile(r"(?<=: )(\w+) (-?\d+\.\d)(?= \||$)")

WRONG = [0.005, 0.005, 0.99]
FAR = {"separation": 20.0, "weight": 0.5, "start_mean": 36.0, "start_width": 12.0, "steps": 300}
# Settings that neither the controls nor chance lead to: what is said and drawn only there.
SETTINGS = {
    "Baselines": [
        {"student": Q, "view": "k_estimators", "kind": kind, "use": use}
        for kind, use in (("k1", "loss"), ("k1", "reward"), ("k2", "loss"))
    ],
    "Credit": [
        {"tree": "notes", "sequence": 242, "scheme": scheme, "position": position}
        for scheme in ("immediate", "reward_to_go", "full_return", "gae", "outcome", "broadcast")
        for position in (1, 5)
    ]
    + [{"scheme": "outcome", "sequence": 0}, {"scheme": "broadcast", "sequence": 3}],
    "LearningCurves": [
        {"methods": methods, "quantity": quantity, "x": axis, "at": at}
        for quantity, axis in zip(QUANTITIES, (*AXES, *AXES))
        for methods in (["sft"], ["rlvr"], ["gkd", "jsd"], ["sft", "pg_0.9", "pg_1", "pg_0.5"])
        for at in (60, 99)
    ]
    + [{"record": "gpu", "x": axis, "methods": ["sft", "rlvr"]} for axis in AXES],
    "LossMuseum": [
        {"exhibit": "value_clamp", "student": WRONG, "teacher": [0.9, 0.09, 0.01]},
        {"exhibit": "ratio_clamp", "student": [0.3, 0.3, 0.4], "teacher": [0.35, 0.3, 0.35]},
        {"exhibit": "tail", "teacher": [0.4, 0.3, 0.3]},
        {"exhibit": "stop_gradient", "update": "drawn", "steps": 1},
        {"exhibit": "k3", "student": WRONG, "teacher": [0.98, 0.01, 0.01], "steps": 7},
    ],
    "PushAndPull": [
        {"objective": objective, "beta": at, "alpha": 2 * at - 0.5, "skew": min(at, 0.99)}
        for objective in OBJECTIVES
        for at in (0.0, 0.25, 0.75, 1.0)
    ],
    "SampleAndAverage": [{"draws": draws} for draws in (0, 1, 2, 4096)],
    "SeekOrCover": [
        {"separation": 0.0, "start_mean": 20.5, "start_width": 2.0},
        {"weight": 0.4, "start_mean": 16.0},
        {"family": "free", "steps": 20},
        {"family": "free", "start_mean": 38.0, "start_width": 1.0, "weight": 0.1},
        *({"objective": "jsd", "beta": beta} for beta in (0.0, 1.0)),
        *(FAR | {"objective": objective} for objective in ("forward_kl", "jsd", "reverse_kl")),
    ],
    "StaleRollouts": [{"behaviour": EVEN, "sampler": "top_p", "most": 0.5, "low": 0.0}],
    "WhichToken": [{"seed": 3, "draws": 999, "token": 3}],  # the last draw of its seed
    "YourLoss": [
        {"formula": formula}
        for formula in (
            "sum(where(p > q, p*(log p - log q), 0))",
            "sum(where(q == max(q), 1, 0)*(0 - log p)); ",
            "sum(where(p <= q, p, q)*where(p != q, 2, 1)*where(p >= 0.3, 1, p)*where(q < p, 1, p))",
            "sg(tanh(log p[k] - log q[k]))*log p[k]",
            "sg(sigmoid(log p[k] - log q[k]))*log p[k]",
            "-log sigmoid(log p[k] - log q[k])",
            "mean((z - t)^2)",
            "-mean(log p)",
            "sum(p^2/q)",
            "4*(1 - sum(sqrt(p*q)))",
            "max(sum(p*(log p - log q)) - 0.1, 0)",
            "min(log p - log q)",
            "sqrt(sum(q*(log q - log p)))",
            "sg(sum(p*(log p - log q)))*sum(q*(log q - log p))",
            "9*sum(softmax(z/3)*(log_softmax(z/3) - log_softmax(t/3)))",
            "sum(p*(log p - log_softmax(t/0.7)))",
            "sum(p*(log p - log q)) - 0.1*sum(p*log p)",
            "sum(p)",
            "2*log p[k]/V",
            "log(p[k] - p[k])",
            "a = log p[k]; b = ",
            "sum(p*(log p - log q)",
            "p",
            "sum(q*log q)",
        )
    ],
}


def kept(name):
    return HERE / "shown" / f"{name}.txt"


def on_tour(name):
    """The explorable with all that it can offer, and with records of runs that broke down."""
    widget = WIDGETS[name](**({"objectives": list(OBJECTIVES)} if name == "PushAndPull" else {}))
    if name == "LearningCurves":
        other = made_up("NVIDIA", ["sft", "gkd", "rlvr"], points=5)
        for each in sum(other["curves"].values(), []):
            each["tokens"] = [400 * tokens for tokens in each["tokens"]]
            each["seconds"] = [500 * seconds for seconds in each["seconds"]]
        widget.recording = {"cpu": packed(hostile()), "gpu": packed(other)}
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
