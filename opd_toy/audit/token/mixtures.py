"""Weights that depend on the pair: one divergence times a factor, or two with weights of their own.

A weight has a law where it is a number times a power of a known quantity, or an affine
function of one, or the exponential or the sigmoid of one.
"""

import functools
import itertools
from dataclasses import dataclass

import numpy as np

from opd_toy import distributions, objectives
from opd_toy.audit.token.candidates import KLS, TERMS
from opd_toy.audit.token.names import format_number, power_text, times

APART = 0.02  # one less the squared cosine of two gradients, below which they are one


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
    for candidate in KLS:
        factors, along = along_candidate(expected, candidate)
        if expected.large and not along_candidate(expected.large, candidate)[1].all():
            continue
        one_sign = (factors.max() > 0) != (factors.min() < 0)
        if not (along.all() and one_sign):
            continue
        sign = -1.0 if factors.min() < 0 else 1.0
        known = _power_law(expected, factors) if (factors != 0).all() else None
        if known is None:
            law = _law_in_words(
                expected, factors, functools.partial(_is_factor, expected, candidate)
            )
            known = Factor(sign, law=law)
        return sign, candidate, known
    return None


def _is_factor(expected, candidate, factors):
    return expected.agrees(factors[:, None] * candidate.gradient(expected.pairs)).all()


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
            times(1, candidate.name) if law == "1" else f"{_bracketed(law)} × {candidate.name}"
            for law, candidate in zip(self.laws, self.candidates)
        ]
        return " + ".join(terms)


def _bracketed(law):
    """In brackets where it is a sum, other than inside brackets of its own."""
    depth = 0
    for place, sign in enumerate(law):
        depth += (sign == "(") - (sign == ")")
        if depth == 0 and place and law[place - 1 : place + 2] in (" + ", " − "):
            return f"({law})"
    return law


def mixture(expected):
    """-> Mixture of two terms whose weights differ from pair to pair, with its laws; or None."""
    first = None
    for candidates in itertools.combinations(TERMS[:4], 2):
        found = _weights_by_pair(expected, candidates)
        if found is None or (expected.large and not _weights_by_pair(expected.large, candidates)):
            continue
        known = Mixture(candidates, found, _laws(expected, candidates, found))
        if known.name:
            return known
        first = first or known
    return first


def _weights_by_pair(expected, candidates):
    """(weights (N,) of each) where on every pair the two sum to the gradient; else None."""
    one, other = (candidate.gradient(expected.pairs) for candidate in candidates)
    products = np.array([[(a * b).sum(axis=-1) for a in (one, other)] for b in (one, other)])
    target = np.array([(a * expected.gradients).sum(axis=-1) for a in (one, other)])
    determinant = products[0, 0] * products[1, 1] - products[0, 1] ** 2
    if not (determinant > 0).all():
        return None
    a = (products[1, 1] * target[0] - products[0, 1] * target[1]) / determinant
    b = (products[0, 0] * target[1] - products[0, 1] * target[0]) / determinant
    # Where the two are nearly one gradient, rounding is spread over both.
    off = expected.gradients - a[:, None] * one - b[:, None] * other
    slack = 1e-12 * (np.abs(a)[:, None] * np.abs(one) + np.abs(b)[:, None] * np.abs(other)).sum(-1)
    close = np.sqrt((off**2).sum(axis=-1)) <= slack + expected.rounding + (
        expected.tolerance * np.sqrt((expected.gradients**2).sum(axis=-1))
    )
    return (a, b) if close.all() else None


def _laws(expected, candidates, weights):
    """In words, the law of each weight, the second's as 1 less the first's where it is."""
    bases = [candidate.gradient(expected.pairs) for candidate in candidates]

    def holds(first, second):
        return expected.agrees(first[:, None] * bases[0] + second[:, None] * bases[1]).all()

    first, second = weights
    if law := _law_in_words(expected, first, lambda tried: holds(tried, 1 - tried)):
        return law, _one_less(law)
    if law := _law_in_words(expected, second, lambda tried: holds(1 - tried, tried)):
        return _one_less(law), law
    return (
        _law_in_words(expected, first, lambda tried: holds(tried, second), plain=True),
        _law_in_words(expected, second, lambda tried: holds(first, tried), plain=True),
    )


def _one_less(law):
    if law.startswith("1 − "):
        rest = law.removeprefix("1 − ")
        return rest[1:-1] if rest == f"({rest[1:-1]})" and _bracketed(rest[1:-1]) == rest else rest
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


def _more_quantities(pairs):
    known = quantities(pairs)
    size = np.log(known["V"])
    return known | {
        "H(q)/log V": known["H(q)"] / size,
        "H(p)/log V": known["H(p)"] / size,
        "max q": pairs.q.max(axis=-1),
        "max p": pairs.p.max(axis=-1),
        "TV(p, q)": 0.5 * np.abs(pairs.p - pairs.q).sum(axis=-1),
        "Σ p q": (pairs.p * pairs.q).sum(axis=-1),
        "KL(q‖p)/(KL(p‖q) + KL(q‖p))": known["KL(q‖p)"] / (known["KL(p‖q)"] + known["KL(q‖p)"]),
        "KL(p‖q)/(KL(p‖q) + KL(q‖p))": known["KL(p‖q)"] / (known["KL(p‖q)"] + known["KL(q‖p)"]),
        "H(q)/(H(p) + H(q))": known["H(q)"] / (known["H(p)"] + known["H(q)"]),
    }


def _power_law(expected, factors):
    """-> Factor where the factors are a number times a power of a known quantity, else None."""
    fit, tolerance = expected.fit, 10 * expected.tolerance
    for name, values in quantities(expected.pairs).items():
        columns = np.stack([np.ones(len(values)), np.log(values)], axis=1)
        target = np.log(np.abs(factors[fit]))
        intercept, power = np.linalg.lstsq(columns[fit], target, rcond=None)[0]
        power = float(f"{power:.6g}")
        number = np.sign(factors[0]) * np.exp(intercept)
        if power and np.allclose(factors, number * values**power, rtol=tolerance, atol=0):
            number = 1.0 if abs(number - 1) <= tolerance else float(f"{number:.6g}")
            return Factor(number, name, power)
    return None


# Laws: name, what of a weight is linear in what of a quantity, the weight, and it in words.
_LAWS = (
    ("affine", lambda w: w, lambda x: x, lambda y: y),
    ("power", lambda w: np.log(np.abs(w)), np.log, np.exp),
    ("exponential", lambda w: np.log(np.abs(w)), lambda x: x, np.exp),
    ("sigmoid", lambda w: np.log(w / (1 - w)), lambda x: x, lambda y: 1 / (1 + np.exp(-y))),
)


def _law_in_words(expected, weights, holds, plain=False):
    """The law that ``weights`` (N,) follow, if ``holds(law's weights (N,))``; None without one.

    ``plain``: a number is a law too.
    """
    if plain:
        constant = float(np.median(weights))
        for digits in range(1, 10):
            if holds(np.full(len(weights), float(f"{constant:.{digits}g}"))):
                return format_number(float(f"{constant:.{digits}g}"), 9).replace("-", "−")
    sign = 1.0 if np.median(weights) > 0 else -1.0
    rows = expected.fit & np.isfinite(weights)
    quantities_known = _more_quantities(expected.pairs).items()
    for (kind, left, right, back), (name, x) in itertools.product(_LAWS, quantities_known):
        with np.errstate(all="ignore"):
            y, x = left(weights), right(x)
            usable = rows & np.isfinite(y) & np.isfinite(x)
        if usable.sum() < 5 or np.ptp(x[usable]) == 0:
            continue
        columns = np.stack([np.ones(len(x)), x], axis=1)
        constant, slope = np.linalg.lstsq(columns[usable], y[usable], rcond=None)[0]
        off = np.abs(columns[usable] @ [constant, slope] - y[usable])
        if np.median(off) > 1e-4 * np.ptp(y[usable]) or abs(slope) * np.ptp(x[usable]) < 1e-12:
            continue
        if words := _in_words(kind, name, x, (constant, slope), back, sign, holds):
            return words
    return None


def _in_words(kind, name, x, fitted, back, sign, holds):
    """The law with the shortest numbers that hold."""
    for digits in range(1, 10):
        # A number that is nothing beside the other is none.
        constant, slope = (float(f"{value:.{digits}g}") for value in fitted)
        if abs(constant) < 1e-7 * abs(slope) * np.abs(x).max():
            constant = 0.0
        factor = sign
        if kind == "power":
            scale = float(f"{np.exp(fitted[0]):.{digits}g}")
            if scale == 0:
                continue
            constant = float(np.log(scale))
        with np.errstate(all="ignore"):
            if kind in ("affine", "sigmoid"):
                factor = 1.0
            law = factor * back(constant + slope * x)
        if np.isfinite(law).all() and holds(law):
            return _spelled(kind, name, constant, slope, factor)
    return None


def _spelled(kind, name, constant, slope, factor):
    short = lambda value: format_number(value, 9).replace("-", "−")
    if kind == "power":
        return power_text(factor * round(float(np.exp(constant)), 12), name, slope)
    size = times(abs(slope), name)
    if constant == 0:
        line = ("−" if slope < 0 else "") + size
    else:
        line = f"{short(constant)} {'−' if slope < 0 else '+'} {size}"
    if kind == "affine":
        return line
    minus = "−" if factor < 0 else ""
    return f"{minus}exp({line})" if kind == "exponential" else f"sigmoid({line})"
