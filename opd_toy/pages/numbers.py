"""How the book writes numbers: what a page's text calls, as {eval}`plain(kl)`.

A true minus sign, no minus before a rounded zero, no digits that nobody asked for.  All
return plain text, the same in the built page and in JupyterLab.
"""

import numpy as np

SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def plain(value, digits=2):
    """Such as "0.47" or "−0.39"."""
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "−")


def whole(value):
    """A count, such as "4096" or "150,000": commas from five digits on."""
    text = plain(value, 0)
    return f"{round(value):,}".replace("-", "−") if len(text.lstrip("−")) > 4 else text


def with_sign(value, digits=2):
    """Such as "+0.47"; a rounded zero has no sign."""
    text = plain(value, digits)
    return text if text.startswith("−") or float(text) == 0 else f"+{text}"


def listed(values, digits=2, last=", "):
    """Numbers with commas between them, such as "0.1, 0.2, 0.3", or with ``last`` " and "."""
    texts = [plain(value, digits) for value in values]
    return ", ".join(texts[:-1]) + last + texts[-1] if len(texts) > 1 else "".join(texts)


def row(values, digits=2):
    """Such as "(0.20, 0.30, 0.50)"."""
    return f"({listed(values, digits)})"


def signed(values, digits=2):
    """A row with the signs, such as "(−0.39, −0.08, +0.47)"."""
    return f"({', '.join(with_sign(value, digits) for value in values)})"


def percent(value, digits=0):
    """A share in percent, such as "12 %"."""
    return f"{plain(100 * value, digits)} %"


def figures(value, count=3):
    """``count`` significant figures: "0.00068"; "1.50 · 10⁴" where ``g`` has an exponent."""
    text = f"{value:.{count}g}"
    return scientific(value, count - 1) if "e" in text else text.replace("-", "−")


def scientific(value, digits=1):
    """Such as "5.9 · 10³"."""
    mantissa, exponent = f"{value:.{digits}e}".replace("-", "−", 1 if value < 0 else 0).split("e")
    return f"{mantissa} · 10{str(int(exponent)).translate(SUPERSCRIPTS)}"


def length(vector, digits=2):
    """The Euclidean length of a vector."""
    return plain(np.linalg.norm(vector), digits)
