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
            f"{name} is ragged: {value!r}; "
            "give an array of numbers in which every row is equally long"
        ) from None
    if array.dtype.kind not in "fiub":
        raise ValueError(
            f"{name} has dtype {array.dtype} ({quote(value)}); "
            "give real numbers, such as a float array or a list of floats"
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
            f"{name} is empty, shape {array.shape}; "
            "give at least one token, shape (..., V) with V >= 1"
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
            f"{name}: {_row(masked)} holds nothing but -inf; "
            "leave at least one token a logit above -inf"
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
            f"{name}: {_row(wrong)} sums to {float(total[tuple(row)])!r}; "
            f"each row must sum to 1 (within {ROW_SUM_TOLERANCE:g}): "
            "divide it by its sum, or pass logits through softmax first"
        )
    rounded = np.abs(total - 1) > 1e-12
    return np.where(rounded[..., None], array / total[..., None], array) if rounded.any() else array


def pair(student, teacher, names=("student", "teacher")):
    """Two arrays of probabilities, broadcast to one shape (..., V)."""
    p, q = probabilities(names[0], student), probabilities(names[1], teacher)
    if p.shape[-1] != q.shape[-1]:
        raise ValueError(
            f"{names[0]} has shape {p.shape} and {names[1]} {q.shape}; "
            "both must have the same number of tokens V on the last axis"
        )
    try:
        return np.broadcast_arrays(p, q)
    except ValueError:
        raise ValueError(
            f"{names[0]} has shape {p.shape} and {names[1]} {q.shape}; "
            "their leading axes must be equal or broadcast"
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
        raise ValueError(f"{name} is {quote(value)}; give one finite number")
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
        raise ValueError(f"{name} is {quote(value)}; give one number from 0 to 1")
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
        raise ValueError(f"{name} is {quote(value)}; give a whole number (an int){bounds}")
    return number


def choice(name, value, allowed):
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name} is {quote(value)}; give one of {', '.join(map(repr, allowed))}")
    return value


def finite(name, array):
    """``array`` itself, every entry a finite number."""
    wrong = ~np.isfinite(array)
    if wrong.any():
        place = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise ValueError(
            f"{name} holds {float(array[place])!r} at {place}; every entry must be finite"
        )
    return array


def has_shape(name, value, shape, what):
    """``value`` as a finite array of ``shape``, which ``what`` puts into words."""
    array = numbers(name, value)
    if array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}; give {what}")
    return finite(name, array)


# --- of a tree of prefixes: anything with ``vocabulary`` V and ``length`` T ---------------


def same_size(first, second, names=("student", "teacher")):
    """Two policies over sequences of the same tokens."""
    if (first.vocabulary, first.length) != (second.vocabulary, second.length):
        raise ValueError(
            f"{names[0]} has V = {first.vocabulary}, T = {first.length} and "
            f"{names[1]} V = {second.vocabulary}, T = {second.length}; "
            "both must have the same vocabulary and length"
        )


def tree_logits(logits_by_position):
    """A tuple of logits (V**t, V), one array a position t = 0, 1, ..."""
    if not isinstance(logits_by_position, tuple | list) or not logits_by_position:
        raise ValueError(
            f"logits is {quote(logits_by_position)}; "
            "give one array a position, logits[t] of shape (V**t, V)"
        )
    arrays = tuple(logits(f"logits[{t}]", z) for t, z in enumerate(logits_by_position))
    vocabulary = arrays[0].shape[-1]
    for t, z in enumerate(arrays):
        if z.shape != (vocabulary**t, vocabulary):
            raise ValueError(
                f"logits[{t}] has shape {z.shape}; "
                f"give one row a prefix of {t} tokens, shape {(vocabulary**t, vocabulary)}"
            )
    return arrays


def by_sequence(name, value, tree):
    """A finite array (S,), S = V**T: one number a sequence."""
    shape = (tree.vocabulary**tree.length,)
    return has_shape(name, value, shape, f"one number a sequence, shape (V**T,) = {shape}")


def by_sequence_and_position(name, value, tree):
    """A finite array (S, T)."""
    shape = (tree.vocabulary**tree.length, tree.length)
    what = f"one number a sequence and position, shape (V**T, T) = {shape}"
    return has_shape(name, value, shape, what)


def by_prefix(name, value, tree):
    """A tuple of finite arrays (V**t,): one number a prefix."""
    return _by_position(name, value, tree, (), "one number")


def by_prefix_and_token(name, value, tree):
    """A tuple of finite arrays (V**t, V)."""
    return _by_position(name, value, tree, (tree.vocabulary,), "one row")


def _by_position(name, value, tree, last_axis, what):
    if not isinstance(value, tuple | list) or len(value) != tree.length:
        raise ValueError(
            f"{name} is {quote(value)}; give one array a position, {tree.length} in all"
        )
    shapes = [(tree.vocabulary**t, *last_axis) for t in range(tree.length)]
    return tuple(
        has_shape(f"{name}[{t}]", array, shape, f"{what} a prefix of {t} tokens, shape {shape}")
        for t, (array, shape) in enumerate(zip(value, shapes))
    )


def prefixes(value, policy):
    """Prefixes (N, t), whole numbers from 0 to V - 1, t < T."""
    array, last = np.asarray(value), policy.vocabulary - 1
    if array.dtype.kind not in "iu" or array.ndim != 2 or array.shape[1] >= policy.length:
        raise ValueError(
            f"prefixes has shape {array.shape} and dtype {array.dtype}; "
            f"give whole numbers, shape (N, t) with t from 0 to T - 1 = {policy.length - 1}"
        )
    if array.size and not (array.min() >= 0 and array.max() <= last):
        raise ValueError(
            f"prefixes holds tokens from {array.min()} to {array.max()}; "
            f"a token is a whole number from 0 to V - 1 = {last}"
        )
    return array


# --- how a message is put -----------------------------------------------------------------


def quote(value):
    """``value`` as Python writes it, cut short where it is long."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


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
