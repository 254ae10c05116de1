"""Weights that depend on the pair: one divergence times a factor, or two with weights of their own.

A weight has a law where it is a number times a power of a known quantity, or an affine
function of one, or the exponential or the sigmoid of one.
"""

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from opd_toy import distributions, objectives
from opd_toy.audit.token.candidates import KLS, TERMS, jsd
from opd_toy.audit.token.expected import lengths
from opd_toy.audit.token.names import format_number, power_text, times, with_minus
from opd_toy.audit.token.pairs import ORDINARY
from opd_toy.audit.token.weights import NAMED

APART = 0.01  # sine of the angle between two gradients below which their weights are not known


@dataclass(frozen=True)
class Factor:
    """What stands in front of a term and depends on the pair: number × quantity ** power.

    ``quantity`` is None where it is no such power.  ``law``: in words, and where it is
    another function of a quantity; None where it is not known.
    """

    number: float
    quantity: str | None = None
    power: float = 1.0
    law: str | None = None

    @property
    def words(self):
        return self.law or (self.quantity and power_text(self.number, self.quantity, self.power))


def one_with_a_factor(expected):
    """(sign, Candidate, Factor): one divergence times a number of each pair's own; or None."""
    for candidate in (*KLS, jsd(0.5), *NAMED):
        found = [along_candidate(part, candidate) for part in expected.parts]
        factors = [factor for factor, _ in found]
        one_sign = (factors[0].max() > 0) != (factors[0].min() < 0)
        if not (one_sign and all(along.all() for _, along in found)):
            continue
        sign = -1.0 if factors[0].min() < 0 else 1.0
        known = _power_law(expected, factors) if (factors[0] != 0).all() else None
        if known is None:
            is_factor = functools.partial(_is_factor, expected, candidate)
            law, _ = _law(expected, factors[0], is_factor)
            known = Factor(sign, law=law)
        return sign, candidate, known
    return None


def _is_factor(expected, candidate, factors):
    """Whether these factors, (N,) for each part, hold on all pairs."""
    return all(
        part.agrees(factor[:, None] * candidate.gradient(part.pairs)).all()
        for part, factor in zip(expected.parts, factors)
    )


def along_candidate(expected, candidate):
    """(factors (N,), on which pairs the gradient is that multiple of the candidate's)."""
    base = candidate.gradient(expected.pairs)
    factors = (expected.gradients * base).sum(axis=-1) / (base**2).sum(axis=-1)
    return factors, expected.agrees(factors[:, None] * base)


@dataclass(frozen=True)
class Mixture:
    """Two candidates whose weights (N,) depend on the pair; ``laws`` in words, None: not known."""

    candidates: tuple
    weights: tuple
    laws: tuple

    @property
    def name(self):
        if None in self.laws:
            return None  # it has none: without laws anything might pass for a mixture
        terms = [
            candidate.name if law == "1" else f"{_bracketed(law)} × {candidate.name}"
            for law, candidate in zip(self.laws, self.candidates)
        ]
        return " + ".join(sorted(terms, key=lambda term: term.startswith("−"))).replace(
            " + −", " − "
        )


def _bracketed(law):
    """In brackets where it is a sum, other than inside brackets of its own."""
    depth = 0
    for place, sign in enumerate(law):
        depth += (sign == "(") - (sign == ")")
        if depth == 0 and law[place - 1 : place + 2] in (" + ", " − "):
            return f"({law})"
    return law


def mixture(expected):
    """-> Mixture of two terms whose weights differ from pair to pair, with its laws; or None."""
    first = None
    for candidates in itertools.combinations(TERMS[:4], 2):
        weights = [_weights_by_pair(part, candidates) for part in expected.parts]
        if None in weights or np.isnan(weights[0][0]).all():
            continue
        found = Mixture(candidates, weights[0], _laws(expected, candidates, weights))
        if found.name:
            return found
        first = first or found
    return first


def _weights_by_pair(expected, candidates):
    """(weights (N,) of each) where on every pair the two sum to the gradient; else None.

    NaN on pairs where the two are nearly one gradient: there any weights may be.
    """
    one, other = (candidate.gradient(expected.pairs) for candidate in candidates)
    unit = [np.maximum(lengths(base), 1e-300)[:, None] for base in (one, other)]
    a, b = one / unit[0], other / unit[1]
    along = (a * b).sum(axis=-1)
    beside = b - along[:, None] * a  # of the second, at right angles to the first
    apart = np.maximum(lengths(beside), 1e-300)
    right = np.where(apart > 1e-9, 1 / apart, 0.0)[:, None] * beside
    # Once more, for where they are nearly parallel the first left a rounding error behind.
    right = right - (a * right).sum(axis=-1, keepdims=True) * a
    first, second = ((base * expected.gradients).sum(axis=-1) for base in (a, right))
    if not expected.agrees(first[:, None] * a + second[:, None] * right).all():
        return None
    second = np.where(apart > APART, second / apart, np.nan)
    return (first - along * second) / unit[0][:, 0], second / unit[1][:, 0]


def _laws(expected, candidates, weights):
    """In words, the law of each weight, the second's as 1 less the first's where it is.

    ``weights``: of each part of the pairs those of both candidates.
    """
    parts = expected.parts
    bases = [[candidate.gradient(part.pairs) for candidate in candidates] for part in parts]

    def holds(first, second):
        """On the pairs where both are known."""
        return all(
            (part.agrees(a[:, None] * one + b[:, None] * other) | np.isnan(a + b)).all()
            for part, (one, other), a, b in zip(parts, bases, first, second)
        )

    first, second = ([pair[index] for pair in weights] for index in (0, 1))
    law, _ = _law(expected, first[0], lambda tried: holds(tried, [1 - w for w in tried]))
    if law:
        return law, _one_less(law)
    law, _ = _law(expected, second[0], lambda tried: holds([1 - w for w in tried], tried))
    if law:
        return _one_less(law), law
    law, values = _law(expected, first[0], lambda tried: holds(tried, second), plain=True)
    # The other's law is beside the law found, which no rounding blurs.
    other, _ = _law(
        expected, second[0], lambda tried: holds(values if law else first, tried), plain=True
    )
    return law, other


def _one_less(law):
    if law.startswith("1 − "):
        rest = law.removeprefix("1 − ")
        return rest[1:-1] if rest == f"({rest[1:-1]})" and _bracketed(rest[1:-1]) == rest else rest
    if law.startswith("−") and _bracketed(law) == law:
        return "1 + " + law.removeprefix("−").removeprefix("1 × ")
    return f"1 − {_bracketed(law)}"


# ---- laws ----


def quantities(pairs):
    """{name: (N,)}: numbers of a pair that a weight may depend on."""
    p, q = pairs.p, pairs.q
    ratio = np.where(p > 0, distributions.log_ratio(p, q), 0.0)
    reverse = objectives.reverse_kl(p, q)
    return {
        "V": pairs.sizes.astype(float),
        "KL(p‖q)": reverse,
        "KL(q‖p)": objectives.forward_kl(p, q),
        "H(q)": distributions.entropy(q),
        "H(p)": distributions.entropy(p),
        "std(log p/q)": np.sqrt((p * (ratio - reverse[:, None]) ** 2).sum(axis=-1)),
    }


def _at_likeliest(values, chances):
    return np.take_along_axis(values, chances.argmax(axis=-1)[:, None], axis=-1)[:, 0]


def _more_quantities(pairs):
    known = quantities(pairs)
    size = np.log(known["V"])
    return known | {
        "H(q)/log V": known["H(q)"] / size,
        "H(p)/log V": known["H(p)"] / size,
        "max q": pairs.q.max(axis=-1),
        "max p": pairs.p.max(axis=-1),
        "p of the teacher's likeliest token": _at_likeliest(pairs.p, pairs.q),
        "q of the student's likeliest token": _at_likeliest(pairs.q, pairs.p),
        "TV(p, q)": 0.5 * np.abs(pairs.p - pairs.q).sum(axis=-1),
        "Σ p q": (pairs.p * pairs.q).sum(axis=-1),
        "KL(q‖p)/(KL(p‖q) + KL(q‖p))": known["KL(q‖p)"] / (known["KL(p‖q)"] + known["KL(q‖p)"]),
        "KL(p‖q)/(KL(p‖q) + KL(q‖p))": known["KL(p‖q)"] / (known["KL(p‖q)"] + known["KL(q‖p)"]),
        "H(q)/(H(p) + H(q))": known["H(q)"] / (known["H(p)"] + known["H(q)"]),
    }


def _power_law(expected, factors):
    """-> Factor where the factors are a number times a power of a known quantity, else None."""
    fit, tolerance = expected.fit, 10 * expected.tolerance
    known = [quantities(part.pairs) for part in expected.parts]
    for name in known[0]:
        values = [of_part[name] for of_part in known]
        columns = np.stack([np.ones(len(values[0])), np.log(values[0])], axis=1)
        target = np.log(np.abs(factors[0][fit]))
        intercept, power = np.linalg.lstsq(columns[fit], target, rcond=None)[0]
        power = float(f"{power:.6g}")
        number = np.sign(factors[0][0]) * np.exp(intercept)
        if power and all(
            np.allclose(found, number * x**power, rtol=tolerance, atol=0)
            for found, x in zip(factors, values)
        ):
            number = 1.0 if abs(number - 1) <= tolerance else float(f"{number:.6g}")
            return Factor(number, name, power)
    return None


@dataclass(frozen=True)
class Law:
    """``of_weight`` of a weight is linear in ``of_quantity`` of a quantity; ``back`` undoes it.

    ``signed``: the weights are the law's or its negative.
    """

    kind: str
    of_weight: Callable
    of_quantity: Callable
    back: Callable
    signed: bool = False


def _log_size(weights):
    return np.log(np.abs(weights))


LAWS = (
    Law("affine", np.array, np.array, np.array),
    Law("power", _log_size, np.log, np.exp, signed=True),
    Law("exponential", _log_size, np.array, np.exp, signed=True),
    Law("sigmoid", lambda w: np.log(w / (1 - w)), np.array, lambda y: 1 / (1 + np.exp(-y))),
)


def _law(expected, weights, holds, plain=False):
    """(the law in words that ``weights`` (N,) follow, its weights on each part of the pairs).

    (None, None) without one.  ``holds`` says so of the law's weights.  ``plain``: a number is a
    law too.
    """
    if plain and (found := _number(expected, weights, holds)):
        return found
    sign = 1.0 if np.nanmedian(weights) > 0 else -1.0
    # Far apart, a weight that is nearly 0 is all rounding.
    rows = expected.fit & np.isfinite(weights) & (expected.tier <= ORDINARY)
    known = [_more_quantities(part.pairs) for part in expected.parts]
    for law, name in itertools.product(LAWS, known[0]):
        y = law.of_weight(weights)
        values = [law.of_quantity(of_part[name]) for of_part in known]
        x = values[0]
        usable = rows & np.isfinite(y) & np.isfinite(x)
        if usable.sum() < 5 or np.ptp(x[usable]) == 0:
            continue
        columns = np.stack([np.ones(len(x)), x], axis=1)[usable]
        line = np.linalg.lstsq(columns, y[usable], rcond=None)[0]
        off = np.abs(columns @ line - y[usable])
        if np.median(off) > 1e-4 * np.ptp(y[usable]) or np.ptp(y[usable]) < 1e-12:
            continue
        found = _in_words(law, name, values, line, sign if law.signed else 1.0, holds)
        if found:
            return found
    return None, None


def _number(expected, weights, holds):
    constant = float(np.nanmedian(weights))
    for digits in range(1, 10):
        rounded = float(f"{constant:.{digits}g}")
        values = [np.full(len(part.tier), rounded) for part in expected.parts]
        if rounded and holds(values):
            return with_minus(format_number(rounded, 9)), values
    return None


def _in_words(law, name, values, line, sign, holds):
    """The law with the shortest numbers that hold, without a constant where it needs none."""
    x = values[0][np.isfinite(values[0])]
    straight = (x * (line[0] + line[1] * x)).sum() / (x**2).sum()
    for digits in range(1, 10):
        for tried in ((0.0, straight), line):
            constant, slope = (float(f"{value:.{digits}g}") for value in tried)
            if law.kind == "power":
                scale = float(f"{np.exp(tried[0]):.{digits}g}")
                constant = float(np.log(scale)) if scale > 0 else np.nan
            weights = [sign * law.back(constant + slope * x) for x in values]
            finite = all(np.isfinite(weight).all() for weight in weights)
            if slope and finite and holds(weights):
                return _spelled(law.kind, name, constant, slope, sign), weights
    return None


def _spelled(kind, name, constant, slope, sign):
    if kind == "power":
        return power_text(sign * round(float(np.exp(constant)), 12), name, slope)
    size = times(abs(slope), name)
    line = ("−" if slope < 0 else "") + size
    if constant:
        start = with_minus(format_number(constant, 9))
        line = f"{start} {'−' if slope < 0 else '+'} {size}"
    if kind == "affine":
        return line
    minus = "−" if sign < 0 else ""
    return f"{minus}exp({line})" if kind == "exponential" else f"sigmoid({line})"
