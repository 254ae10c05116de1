"""Texts held whole in files beside the tests: words as they stand, numbers to the digits printed.

A file has a line "# name" above each of its texts.  With WRITE_TEXTS=1 in the environment the
tests write what they find instead of comparing it: read the difference before it is kept.
"""

import os
import re
from pathlib import Path

HERE = Path(__file__).parent
NUMBER = re.compile(r"(?<![\w.])[-−]?\d+(?:\.\d+)?(?:e[-+]\d+)?(?![\w.]*\w)")
NOTHING = 1e-10  # what is smaller is rounding


def check_text(file, name, text):
    """AssertionError unless ``text`` is the one under ``name`` in the ``file``."""
    texts = read(file)
    text = text.strip("\n")
    assert not re.search("^# ", text, re.M), "a line that would begin another text"
    if os.environ.get("WRITE_TEXTS"):
        texts[name] = text
        whole = "\n".join(f"# {name}\n{texts[name]}\n" for name in texts)
        (HERE / file).write_text(whole, encoding="utf-8")
        return
    wanted = texts[name]
    for line, other in zip(text.splitlines(), wanted.splitlines()):
        assert same(line, other), f"{name}:\n  found  {line}\n  wanted {other}"
    assert len(text.splitlines()) == len(wanted.splitlines()), name


def read(file):
    """{name: text}"""
    path = HERE / file
    whole = "\n" + path.read_text(encoding="utf-8") if path.exists() else ""
    parts = (part.partition("\n") for part in whole.split("\n# ")[1:])
    return {name: text.strip("\n") for name, _, text in parts}


def same(found, wanted):
    """Whether the words are the same and each number to one unit of the last digit printed."""
    if NUMBER.sub("0", found) != NUMBER.sub("0", wanted):
        return False
    return all(map(_close, NUMBER.findall(found), NUMBER.findall(wanted)))


def _close(found, wanted):
    found, wanted = (text.replace("−", "-") for text in (found, wanted))
    return same_number(found, wanted) or max(abs(float(found)), abs(float(wanted))) < NOTHING


def same_number(one, other):
    """Equal, or rounded to neighbouring digits; whole numbers and small ones are exact."""
    if one == other:
        return True
    unit = min(map(_unit, (one, other)))  # a digit less would hide a difference
    apart, size = abs(float(one) - float(other)), abs(float(one))
    return "." in one and apart < min(max(1.01 * unit, 1e-9 * size), 0.4 * size)


def _unit(number):
    """Of the last digit printed."""
    mantissa, _, power = number.partition("e")
    return 10.0 ** (int(power or 0) - len(mantissa.partition(".")[2]))
