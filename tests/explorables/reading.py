"""Reading an explorable in a page: the state of its controls, and every number beside them."""

import math
import re
from decimal import ROUND_HALF_UP, Decimal

import numpy as np
import pytest

from opd_toy import explorables

TOLERANCE = 1e-12  # relative to the largest of the numbers compared together
WIDGETS = {name: getattr(explorables, name) for name in explorables.__all__}


def page_of(*widgets, theme="light", style=""):
    """A page around some explorables, as bare as can be."""
    paper = "#14181e" if theme == "dark" else "#ffffff"
    return (
        f'<!doctype html><html lang="en" data-theme="{theme}"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        "<title>Explorables</title>"
        f"<style>body{{margin:8px;background:{paper};font:16px/1.5 sans-serif}}{style}</style>"
        f"<body><main>{''.join(widget.to_html() for widget in widgets)}</main></body></html>"
    )


READ = """(root) => {
  const all = (selector, within = root) => [...within.querySelectorAll(selector)];
  const visible = (selector) => all(selector).filter((node) => node.offsetParent);
  const ranges = visible("input[type=range]");
  const entries = (nodes, key, value) =>
    Object.fromEntries(nodes.map((node) => [key(node), value(node)]));
  const cells = (table, value) =>
    all("tbody tr", table).map((row) => all("td", row).map(value));
  const tables = all(".opd-table");
  return {
    outputs: entries(ranges, (input) => input.name,
      (input) => input.closest("label").querySelector("output").dataset.value),
    thumbs: ranges.map((input) =>
      [input.name, Number(input.value), Number(input.step), input.ariaValueText]),
    choices: entries(visible(".opd-choice"), (group) => group.dataset.name,
      (group) => group.querySelector("input:checked")?.value ?? null),
    switched: all(".opd-checks input:checked").map((input) => input.value),
    rows: tables.map((table) =>
      all("tbody tr", table).map((row) => (row.hidden ? null : row.dataset.row ?? null))),
    tables: tables.map((table) => cells(table, (cell) => cell.dataset.value ?? null)),
    texts: tables.map((table) => cells(table, (cell) => cell.textContent)),
    numbers: entries(all("[data-name][data-value]"), (node) => node.dataset.name,
      (node) => node.dataset.value),
    words: entries(all(".opd-number[data-name]"), (node) => node.dataset.name,
      (node) => node.textContent),
    printed: all("[data-value]").map((node) => [node.dataset.value, node.textContent]),
    code: all(".opd-code code, .opd-torch code").map((node) => node.textContent),
    says: all("[aria-live]").map((node) => node.textContent),
    html: root.textContent,
  };
}"""


class Seen:
    """What an explorable shows, read off its elements."""

    def __init__(self, raw):
        self.__dict__.update(raw)

    def distribution(self, who):
        return self.slider(
            *(name for name in sorted(self.outputs) if re.fullmatch(rf"{who}-\d+", name))
        )

    def slider(self, *names):
        values = np.array([float(self.outputs[name]) for name in names])
        return values if len(names) > 1 else float(values[0])

    def number(self, name):
        return float(self.numbers[name])

    def table(self, index):
        """The table's numbers; NaN where a cell holds none."""
        return np.array(
            [
                [
                    np.nan if x is None or not x.strip() else float(x.replace("Infinity", "inf"))
                    for x in row
                ]
                for row in self.tables[index]
            ]
        )

    @property
    def sentence(self):
        assert len(self.says) == 1, f"{len(self.says)} live regions"
        return self.says[0]


def read(root):
    return Seen(root.evaluate(READ))


def rounded(x, digits):
    """A number as the page prints it: halves away from zero, a true minus."""
    if math.isinf(x):
        return "∞" if x > 0 else "−∞"
    text = str(abs(Decimal(x)).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP))
    return f"−{text}" if x < 0 and float(text) else text


def in_powers(x):
    """Two digits and a power of ten: 3.1×10⁴."""
    mantissa, power = f"{x:.1e}".split("e")
    return f"{mantissa}×10" + str(int(power)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def check_printed(seen):
    """Every number printed is the whole one beside it, rounded; every arrow points its way;
    every thumb stands where its number says, and a screen reader is told that number."""
    assert seen.printed
    for name, place, step, told in seen.thumbs:
        value = float(seen.outputs[name])
        assert abs(place - value) <= step / 2 + 1e-9 or name in ("draws", "samples"), (
            f"{name} is {value}, its thumb at {place}"
        )
        assert told and float(re.match("[−\\d.]+", told)[0].replace("−", "-")) == pytest.approx(
            value, abs=0.0501
        )
    for value, text in seen.printed:
        if re.fullmatch("\\d\\.\\d×10[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+", text):
            assert text == in_powers(float(value)), f"{value} is printed as {text!r}"
            continue
        found = re.match(r"([+−]?)(\d+(?:\.(\d+))?)( ?%)?(?![\d.])", text)
        if value == "" or not found:
            continue
        x = float(value.replace("Infinity", "inf"))
        sign, digits, decimals, percent = found.groups()
        expected = rounded(100 * x if percent else x, len(decimals or ""))
        assert f"{'−' if sign == '−' else ''}{digits}" == expected, (
            f"{value} is printed as {text!r}"
        )
        arrow = "·" if abs(x) < 5e-7 else "▼" if x > 0 else "▲"
        assert not re.search("[▲▼·]", text) or text.endswith(arrow), (
            f"{value} is printed as {text!r}"
        )


def same(label, shown, engine, scale=None):
    """Equal to 1e-12 of the largest among the engine's numbers, or of ``scale``."""
    shown, engine = np.broadcast_arrays(np.asarray(shown, float), np.asarray(engine, float))
    finite = np.isfinite(engine)
    assert np.array_equal(shown[~finite], engine[~finite], equal_nan=True), (
        f"{label}: shown {shown}, engine {engine}"
    )
    size = max(np.abs(engine[finite]).max(initial=0.0), scale or 0.0)
    wrong = np.abs(shown[finite] - engine[finite])
    assert not np.isnan(wrong).any() and (wrong <= TOLERANCE * size).all(), (
        f"{label}: shown {shown}, engine {engine}"
    )


def word(gradient):
    """What descent does to a logit with this gradient."""
    return "leaves" if abs(gradient) < 5e-7 else "raises" if gradient < 0 else "lowers"


def pair(seen):
    p, q = seen.distribution("student"), seen.distribution("teacher")
    for x in (p, q):
        assert x.min() > 0 and abs(x.sum() - 1) < 1e-12
    return p, q


def all_of(words):
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))
