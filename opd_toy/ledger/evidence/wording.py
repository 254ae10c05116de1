"""How the ledger writes numbers down."""

import numpy as np

SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def plain(value, digits=2):
    """A number in the book's way: a true minus sign, and no minus before a rounded zero."""
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "−")


def with_sign(value, digits=2):
    """Such as "+0.47"; a rounded zero has no sign."""
    text = plain(value, digits)
    return text if text.startswith("−") or float(text) == 0 else f"+{text}"


def signed(values, digits=2):
    """A row of numbers with their signs, such as "(−0.39, −0.08, +0.47)"."""
    return f"({', '.join(with_sign(value, digits) for value in values)})"


def scientific(value):
    """Such as "5.9 · 10³"."""
    digits, exponent = f"{value:.1e}".split("e")
    return f"{digits} · 10{str(int(exponent)).translate(SUPERSCRIPTS)}"


def length(vector):
    """The Euclidean length of a vector."""
    return plain(np.linalg.norm(vector))


def listed(values, digits=2):
    """Numbers with commas between them."""
    return ", ".join(plain(value, digits) for value in values)
