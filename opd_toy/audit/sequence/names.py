"""Names for credit matrices: which cost each token pays for, and by how much.

A credit matrix W (T, T) is upper triangular: the token at position t pays W[t, u] times
the cost at position u >= t.  One is known for each of several lengths T, and a name must
hold at all of them; its factor may depend on T in a way that is named too, such as 1/T.
Positions t count from 1 in the names and from 0 in the code.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

# What the gradient of a cost is called: the full one, sampling differentiated too, and the
# partial one, which holds the prefixes passed fixed.
FULL = {
    "reverse KL": "sequence reverse KL",
    "forward KL": "expected sum of local forward KLs",
    "negative entropy": "sequence negative entropy",
}
PARTIAL = {
    "reverse KL": "sum of local reverse KLs",
    "forward KL": "sum of local forward KLs",
    "negative entropy": "sum of local negative entropies",
}
LAWS = {
    "": lambda length: 1.0,
    "1/T": lambda length: 1 / length,
    "T": lambda length: float(length),
    "1/(T − 1)": lambda length: 1 / (length - 1) if length > 1 else np.nan,
    "(T − 1)/T": lambda length: (length - 1) / length,
    "T/(T − 1)": lambda length: length / (length - 1) if length > 1 else np.nan,
    "1/T²": lambda length: 1 / length**2,
    "(T − 1)/T²": lambda length: (length - 1) / length**2,
    "1/(T + 1)": lambda length: 1 / (length + 1),
    "1/√T": lambda length: length**-0.5,
}
WEIGHTS = {
    "(T − t + 1)": lambda length: np.arange(length, 0, -1.0),
    "t": lambda length: np.arange(1.0, length + 1),
    "(T − t)": lambda length: np.arange(length - 1.0, -1, -1),
    "(t − 1)": lambda length: np.arange(0.0, length),
    "1/t": lambda length: 1 / np.arange(1.0, length + 1),
    "1/(T − t + 1)": lambda length: 1 / np.arange(length, 0, -1.0),
}


@dataclass(frozen=True)
class Piece:
    """``coefficients[T]`` times the gradient that ``shape(T)``, (T, T) or (T,), stands for.

    ``name`` is None where the shape has none; ``factor`` is the coefficients' text ("",
    "2", "1/T"), None where they follow no named law; ``law(T)`` is the factor at any T,
    None where shape or factor is known only at the lengths of ``coefficients``.
    """

    kind: str
    name: str | None
    factor: str | None
    coefficients: dict
    shape: Callable
    law: Callable | None = None

    def weights(self, length):
        known = length in self.coefficients
        coefficient = self.coefficients[length] if known else self.law(length)
        return coefficient * self.shape(length)


def credit_pieces(kind, matrices, tolerance):
    """A list of ``Piece`` whose weights sum to ``matrices`` {T: (T, T)}, simplest reading first."""
    full = FULL.get(kind, f"expected sum of local {kind}")
    partial = PARTIAL.get(kind, f"sum of local {kind}")
    for name, shape in (
        *_whole_readings(kind, full, partial, matrices, tolerance),
        *_position_readings(full, partial, matrices, tolerance),
        *_return_readings(kind, full, matrices, tolerance),
    ):
        if coefficients := _multiples(matrices, shape, tolerance):
            return [_piece(kind, name, coefficients, shape, tolerance)]
    if pieces := _own_and_future(kind, full, partial, matrices, tolerance):
        return pieces
    diagonal = all(
        np.abs(np.triu(w, 1)).max() <= tolerance * np.abs(w).max() for w in matrices.values()
    )
    name = f"{partial}, weighted by position" if diagonal else None
    known = {
        length: np.where(np.abs(w) > tolerance * np.abs(w).max(), w, 0.0)
        for length, w in matrices.items()
    }
    return [Piece(kind, name, "", dict.fromkeys(matrices, 1.0), known.get)]


def _whole_readings(kind, full, partial, matrices, tolerance):
    """(name, shape) of all costs, of a token's own, or of later ones discounted."""
    yield full, ones
    yield partial, np.eye
    yield from _discounted(matrices, f"{kind} with a discounted return", lags, 0, tolerance)


def _position_readings(full, partial, matrices, tolerance):
    """(name, shape) of one position alone, and of costs weighted by their position."""
    yield f"{partial}, the last position's alone", lambda length: np.diag(_last(length))
    yield f"{full}, the last position's cost alone", lambda length: ones(length) * _last(length)
    first = lambda length: ones(length) * _last(length)[::-1, None]
    yield f"{full}, the first token's return alone", first
    last = lambda length: np.diag(1 - _last(length))
    yield f"{partial}, all positions but the last", last
    yield f"{partial}, all positions but the first", lambda length: last(length)[::-1, ::-1]
    for weight, w in _weights(matrices, tolerance):
        yield f"{full}, the cost at t × {weight}", lambda length, w=w: ones(length) * w(length)
    for weight, w in _weights(matrices, tolerance, diagonal=True):
        yield f"{partial}, position t × {weight}", lambda length, w=w: np.diag(w(length))


def _return_readings(kind, full, matrices, tolerance):
    """(name, shape) of other returns: later costs alone, their mean, a few tokens' ahead."""
    yield f"{kind} with a return of the later costs alone", _later
    yield from _discounted(
        matrices,
        f"{kind} with a discounted return of the later costs alone",
        lambda length, gamma: lags(length, gamma) - np.eye(length),
        1,
        tolerance,
    )
    mean = lambda length: ones(length) / np.arange(length, 0, -1)[:, None]
    yield f"{kind} with the mean of the costs from the token on as its return", mean
    later = lambda length: np.triu(_mean_future(length), 1)
    yield f"{kind} with the mean of the later costs as its return", later
    yield f"{kind} with its own cost and the mean of the later ones as its return", _mean_future
    for n in (2, 3):
        ahead = lambda length, n=n: ones(length) - np.triu(ones(length), n)
        yield f"{kind} with a return over {n} tokens", ahead
    for weight, w in _weights(matrices, tolerance):
        returns = lambda length, w=w: ones(length) * w(length)[:, None]
        yield f"{full}, the return at t × {weight}", returns


def position_pieces(kind, one, vectors, tolerance):
    """The same for weights (T,) on one term a position, such as a reward's score.

    ``one`` names the plain sum.
    """
    diagonals = {length: np.diag(w) for length, w in vectors.items()}
    weights = _weights(diagonals, tolerance, diagonal=True)
    weighted = [(f"{one}, token t × {weight}", w) for weight, w in weights]
    for name, shape in [(one, np.ones), *weighted]:
        if coefficients := _multiples(vectors, shape, tolerance):
            return [_piece(kind, name, coefficients, shape, tolerance)]
    name = f"{one}, weighted by position"
    return [Piece(kind, name, "", dict.fromkeys(vectors, 1.0), vectors.get)]


def sum_text(pieces):
    """Pieces written as a sum, such as "sum of local reverse KLs − 1/T × sequence reverse KL"."""
    text = ""
    # A positive one first.
    for piece in sorted(pieces, key=lambda piece: (piece.factor or "").startswith("−")):
        factor = "c(T)" if piece.factor is None else piece.factor
        negative, factor = factor.startswith("−"), factor.removeprefix("−")
        term = f"{factor} × {piece.name}" if factor not in ("", "1") else piece.name
        if text:
            text += f" {'−' if negative else '+'} {term}"
        else:
            text = f"−{factor or 1} × {piece.name}" if negative else term
    return text


def factor_text(coefficients, tolerance):
    """(text, function of T) of numbers by T: "1/T", "2", "0.5/T"; both None where no law holds."""
    lengths = sorted(coefficients)
    for law, value in LAWS.items():
        ratios = [coefficients[length] / value(length) for length in lengths]
        if max(ratios) - min(ratios) <= 2 * tolerance * max(map(abs, ratios)):
            number = tidy(float(np.mean(ratios)), 2 * tolerance)
            return _factor(number, law), lambda length, c=number, value=value: c * value(length)
    return None, None


def tidy(number, tolerance):
    """The shortest decimal, of up to five digits, within a relative tolerance; else the number."""
    for digits in range(1, 6):
        short = float(f"{number:.{digits}g}")
        if abs(short - number) <= tolerance * abs(number):
            return short
    return number


def in_words(matrix):
    """One line a token: "the token at position 1 pays for position 1, 2 (× 0.9), 3 (× 0.81)"."""
    lines = []
    for t, row in enumerate(np.asarray(matrix)):
        paid = [
            f"{u + 1}" if abs(w - 1) < 1e-6 else f"{u + 1} (× {_number(w, 4)})"
            for u, w in enumerate(row)
            if abs(w) > 1e-9
        ]
        positions = f"position {', '.join(paid)}" if paid else "nothing"
        lines.append(f"the token at position {t + 1} pays for {positions}")
    return lines


def ones(length):
    return np.triu(np.ones((length, length)))


def lags(length, gamma):
    """gamma**(u - t) for u >= t."""
    lag = np.arange(length) - np.arange(length)[:, None]
    return np.where(lag >= 0, float(gamma) ** np.maximum(lag, 0), 0.0)


def _later(length):
    return np.triu(ones(length), 1)


def _last(length):
    return np.eye(length)[-1]


def _mean_future(length):
    later = np.maximum(np.arange(length - 1, -1, -1), 1)[:, None]
    return np.eye(length) + _later(length) / later


def _own_and_future(kind, full, partial, matrices, tolerance):
    """a I + b gamma**lag: the token's own cost and its future weighted apart."""
    later = {length: np.triu(w, 1) for length, w in matrices.items()}
    returns = f"{kind} with a discounted return"
    for name, shape in ((full, ones), *_discounted(matrices, returns, lags, 1, tolerance)):
        future = _multiples(later, lambda length, s=shape: np.triu(s(length), 1), tolerance)
        if not future:
            continue
        rest = {length: w - future[length] * shape(length) for length, w in matrices.items()}
        if own := _multiples(rest, np.eye, 10 * tolerance):
            return [
                _piece(kind, partial, own, np.eye, tolerance),
                _piece(kind, name, future, shape, tolerance),
            ]
    return None


def _multiples(arrays, shape, tolerance):
    """{T: c} with arrays[T] = c shape(T) for every T, none of them 0; else None."""
    found = {}
    for length, array in arrays.items():
        unit = shape(length).astype(float)
        c = found[length] = float((array * unit).sum() / (unit * unit).sum())
        if c == 0 or np.abs(array - c * unit).max() > tolerance * np.abs(array).max():
            return None
    return found


def _piece(kind, name, coefficients, shape, tolerance):
    factor, law = factor_text(coefficients, tolerance)
    return Piece(
        kind,
        name,
        factor,
        {length: law(length) if law else c for length, c in coefficients.items()},
        lambda length: shape(length).astype(float),
        law,
    )


def _discounted(matrices, name, shape, first, tolerance):
    """At most one (name, shape), with the gamma of the longest matrix.

    It is read off two neighbouring lags, ``first`` and the next.
    """
    longest = matrices[max(matrices)]
    if len(longest) < first + 2 or longest[0, first] == 0:
        return []
    gamma = tidy(float(longest[0, first + 1] / longest[0, first]), tolerance)
    if abs(gamma) <= tolerance:
        return []
    return [(f"{name}, γ = {_number(gamma)}", lambda length: shape(length, gamma))]


def _weights(matrices, tolerance, diagonal=False):
    """(text, function of T) of the weights by position to try.

    A power's base is read off the longest matrix.
    """
    longest = matrices[max(matrices)]
    neighbours = [longest[1, 1]] if diagonal else [longest[1, 1], longest[0, 1]]
    powers = (_power(longest[0, 0], second, tolerance) for second in neighbours)
    return [*WEIGHTS.items(), *filter(None, powers)]


def _power(first, second, tolerance):
    """(text, function of T) of the powers that begin so, or None."""
    if not first or not second or abs(second / first - 1) <= tolerance:
        return None
    if abs(second) <= abs(first):
        base = tidy(float(second / first), tolerance)
        return f"{_number(base)}^(t − 1)", lambda length: base ** np.arange(length)
    base = tidy(float(first / second), tolerance)
    return f"{_number(base)}^(T − t)", lambda length: base ** np.arange(length - 1, -1, -1)


def _factor(number, law):
    sign, size = ("−" if number < 0 else ""), abs(number)
    if size == 1:
        return sign + (law or ("1" if sign else ""))
    text, inverse = _number(size), round(1 / size)
    if len(text) > 6 and inverse > 1 and abs(1 / size - inverse) <= 1e-7 / size:
        text = f"1/{inverse}"
    if not law:
        return sign + text
    if law.startswith("1/") and "/" not in text:
        return f"{sign}{text}{law[1:]}"
    return f"{sign}{text} × {law}"


def _number(value, digits=6):
    """Up to six figures; more where these would round it to a simpler number, 1.0000002 to 1."""
    text = f"{value:.{digits}g}"
    figures = len(text.strip("-0.").replace(".", ""))
    if figures < 4 and abs(float(text) - value) > 1e-9 * abs(value):
        text = f"{value:.{digits + 4}g}"
    return text.replace("-", "−")
