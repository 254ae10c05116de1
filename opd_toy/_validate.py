"""Checks of what a caller hands in.

Every error is a ValueError that names the argument, quotes what came and says
what would be right.
"""

import operator

import numpy as np

ROW_SUM_TOLERANCE = 1e-6


def numbers(name, value):
    """``value`` as a float64 array of any shape."""
    try:
        array = np.asarray(value)
    except ValueError:
        raise ValueError(
            f"{name} is ragged: {value!r}; give an array of numbers in which every row is equally long"
        ) from None
    if array.dtype.kind not in "fiub":
        raise ValueError(
            f"{name} has dtype {array.dtype} ({_quote(value)}); give real numbers, such as a float array or a list of floats"
        )
    return array.astype(np.float64)


def rows(name, value):
    """``value`` as float64 of shape (..., V) with V at least 1."""
    array = numbers(name, value)
    if array.ndim == 0:
        raise ValueError(
            f"{name} is the single number {value!r}; give one number a token, shape (..., V)"
        )
    if array.shape[-1] == 0:
        raise ValueError(
            f"{name} is empty, shape {array.shape}; give at least one token, shape (..., V) with V >= 1"
        )
    return array


def logits(name, value):
    """Logits (..., V): no NaN, no +inf, at least one above -inf in each row."""
    array = rows(name, value)
    _refuse(name, np.isnan(array), array, "every logit must be a number or -inf")
    _refuse(name, np.isposinf(array), array, "a logit may be -inf (a masked token) but not +inf")
    masked = np.isneginf(array).all(axis=-1)
    if masked.any():
        raise ValueError(
            f"{name}: {_row(masked)} holds nothing but -inf; leave at least one token a logit above -inf"
        )
    return array


def probabilities(name, value):
    """Probabilities (..., V), each row non-negative and summing to 1.

    A sum within 1e-6 of 1 is taken as rounding (float32, printed decimals), and
    the row is divided by it; within 1e-12 it is left as it came.
    """
    array = rows(name, value)
    _refuse(name, np.isnan(array), array, "every probability must be a number from 0 to 1")
    _refuse(name, array < 0, array, "every probability must be at least 0")
    total = array.sum(axis=-1)
    wrong = ~(np.abs(total - 1) <= ROW_SUM_TOLERANCE)
    if wrong.any():
        row = np.argwhere(wrong)[0]
        raise ValueError(
            f"{name}: {_row(wrong)} sums to {float(total[tuple(row)])!r}; each row must sum to 1 (within {ROW_SUM_TOLERANCE:g}): "
            "divide it by its sum, or pass logits through softmax first"
        )
    rounded = np.abs(total - 1) > 1e-12
    return np.where(rounded[..., None], array / total[..., None], array) if rounded.any() else array


def pair(student, teacher, names=("student", "teacher")):
    """Two arrays of probabilities, broadcast to one shape (..., V)."""
    p, q = probabilities(names[0], student), probabilities(names[1], teacher)
    if p.shape[-1] != q.shape[-1]:
        raise ValueError(
            f"{names[0]} has shape {p.shape} and {names[1]} {q.shape}; both must have the same number of tokens V on the last axis"
        )
    try:
        return np.broadcast_arrays(p, q)
    except ValueError:
        raise ValueError(
            f"{names[0]} has shape {p.shape} and {names[1]} {q.shape}; their leading axes must be equal or broadcast"
        ) from None


def one_position(name, value, vocabulary):
    """A finite array of shape (V,): one number a token."""
    array = rows(name, value)
    if array.shape != (vocabulary,):
        raise ValueError(
            f"{name} has shape {array.shape}; give one number a token, shape ({vocabulary},)"
        )
    _refuse(name, ~np.isfinite(array), array, "every entry must be finite")
    return array


def number(name, value):
    """One finite real number."""
    array = numbers(name, value)
    if array.ndim or not np.isfinite(array):
        raise ValueError(f"{name} is {_quote(value)}; give one finite number")
    return float(array)


def positive(name, value):
    result = number(name, value)
    if result <= 0:
        raise ValueError(f"{name} is {value!r}; give a number above 0")
    return result


def fraction(name, value):
    """One number from 0 to 1."""
    array = numbers(name, value)
    if array.ndim or not 0 <= array <= 1:
        raise ValueError(f"{name} is {_quote(value)}; give one number from 0 to 1")
    return float(array)


def whole(name, value, least=1, most=None):
    """One whole number from ``least`` to ``most``, as an int; None is no bound."""
    try:
        number = None if isinstance(value, bool | np.bool_) else operator.index(value)
    except TypeError:
        number = None
    too_small = number is not None and least is not None and number < least
    too_large = number is not None and most is not None and number > most
    if number is None or too_small or too_large:
        bounds = "" if least is None else f" of at least {least}"
        bounds = bounds if most is None else f" from {least} to {most}"
        raise ValueError(f"{name} is {_quote(value)}; give a whole number (an int){bounds}")
    return number


def choice(name, value, allowed):
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name} is {_quote(value)}; give one of {', '.join(map(repr, allowed))}")
    return value


def _refuse(name, wrong, array, rule):
    if wrong.any():
        *row, token = (int(index) for index in np.argwhere(wrong)[0])
        place = f"row {tuple(row)}, " if row else ""
        raise ValueError(
            f"{name} holds {float(array[tuple(row) + (token,)])!r} at {place}token {token}; {rule}"
        )


def _row(wrong):
    index = tuple(int(i) for i in np.argwhere(wrong)[0])
    return f"row {index}" if index else "the row"


def _quote(value):
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
