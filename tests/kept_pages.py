"""What a chapter puts on its page, as HTML: small ones of each kind, whole."""

import base64
import gzip
import re
from itertools import count
from unittest.mock import patch

from opd_toy.pages.decide import Chart
from opd_toy.pages.heat_map import credit_maps
from opd_toy.pages.loss_index import LossIndex
from opd_toy.pages.page import exercise, figure


def square(style):
    import matplotlib.pyplot as plt

    return plt.figure(figsize=(1, 2), facecolor=style["student"])


def chart():
    advice = {"question": "age", "title": "Old <texts>", "kinds": ["drawn"], "says": "A *ratio*."}
    way = {
        "when": {"age": ["fresh"]},
        "kind": "drawn",
        "follow": 'the "reverse" KL',
        "estimate": "[here](x.md#y)<br>`a < b`",
        "set": "`beta`",
        "read": "[there](z.md)",
        "folded": {"more & more": "`k3`"},
    }
    questions = [("age", "How <old>?", {"fresh": "new & good", "stale": "old"})]
    return Chart(questions, [way], [advice | {"answer": "fresh"}, advice | {"answer": "stale"}])


def index():
    row = {
        "anchor": "audit-a+",
        "values": {"library": "a&b", "kind": "zero"},
        "cells": ["`a`", "zero < one", "here"],
        "more": {"Read": "[there](z.md)", "Noise": ""},
    }
    filters = {"library": ("Whose", {"a&b": "A & B"}), "kind": ("What", {"zero": "nothing"})}
    return LossIndex(filters, ["loss", "it <optimises>", "at"], [row], {"é": [1, 2]})


SHOWN = {
    "exercise, a number": lambda: exercise("1A", -0.251, unit="nats/<t>", why="1 < 2."),
    "exercise, within a tolerance": lambda: exercise("1B", 12, tolerance=3, digits=0),
    "exercise, a choice": lambda: exercise("1C", "<up>", choices=["<up>", "down"]),
    "figure": lambda: figure(square, alt='a "square"', caption="One < two"),
    "figure without words below": lambda: figure(square, alt="a square"),
    "credit": lambda: credit_maps({"a & b": [[2, 1, -1], [1, 0, 0.26], [0, 0, 1]], "0": [[0]]}),
    "credit with words below": lambda: credit_maps({"one": [[1.0]]}, "Two < three"),
    "chart": chart,
    "index": index,
}


def unpacked(found):
    """The time in the head of packed data, and the data."""
    data = base64.b64decode(found[0])
    return f"{data[4:8].hex()} {gzip.decompress(data).decode()}"


def parts():
    """Each with its ids numbered, data unpacked, without pictures and what stands in files."""
    found = []
    for name, make in SHOWN.items():
        numbers = (type("Id", (), {"hex": f"{at:08x}"}) for at in count(1))
        with patch("uuid.uuid4", lambda numbers=numbers: next(numbers)):
            text = make()._repr_html_()
        text = re.sub(r"(?<=gzip;base64,)[\w+/=]+", unpacked, text)
        text = re.sub(r"(?<=xml;base64,)[\w+/=]+", "…", text)
        text = re.sub(r'(?<=<script type="module">).*(?=\nmount|\}mount)', "…", text, flags=re.S)
        text = re.sub(r"(?<=<style>)(.{300}).{1700,}(?=</style>)", r"\1…", text, flags=re.S)
        found.append(f"{name}\n{re.sub('(?=<[a-z])', chr(10), text).strip()}")
    return "\n\n".join(found)


PAGE_TEXTS = {"parts-of-pages": parts}
