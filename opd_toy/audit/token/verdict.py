"""Which candidate has these gradients?  Fitted on half of the pairs, confirmed on all.

The simplest explanation comes first: zero, one divergence, a sum of two or three,
a family with its parameter fitted, the top-K forms, a family and one term besides;
each for the loss itself and for the loss times V.  An explanation counts where on
*every* pair its distance to the measured gradient is at most ``tolerance`` of the
gradient's length (and the rounding of the measurement); otherwise the verdict is
"none of these".
"""

import functools
import itertools
from dataclasses import dataclass, field, replace

import numpy as np

from opd_toy import distributions, objectives
from opd_toy.audit.token import candidates
from opd_toy.audit.token.candidates import Pairs, format_number

NONE = "none of these"
LEGIBLE = 0.15  # rounding above this share of a gradient would let anything pass for anything
CLOSE = " while the two are close"
MARGIN = " until they are close"
FACTOR = " × a factor that depends on the pair"


@dataclass(frozen=True)
class Measured:
    """Expected gradients (N, V) on N pairs.

    ``rounding`` (N,): how far from its true value each may lie; ``tier`` (N,):
    0 for pairs that are close, 1 ordinary, 2 and more far apart; ``fit`` (N,):
    True where parameters may be fitted, the others confirm.  ``zero`` (N,): below which
    length a gradient is rounding around nothing (None: ``rounding``).  ``large``: the
    same on large vocabularies, where every explanation must hold as well.
    """

    pairs: Pairs
    gradients: np.ndarray
    rounding: np.ndarray
    tier: np.ndarray
    fit: np.ndarray
    tolerance: float
    zero: np.ndarray | None = None
    large: "Measured | None" = None

    def __post_init__(self):
        if self.zero is None:
            object.__setattr__(self, "zero", self.rounding)

    def __getitem__(self, rows):
        arrays = {
            name: getattr(self, name)[rows]
            for name in ("pairs", "gradients", "rounding", "tier", "fit", "zero")
        }
        return replace(self, **arrays)

    def up_to(self, tier):
        part = self[self.tier <= tier]
        return replace(part, large=self.large and self.large.up_to(tier))

    def times_vocabulary(self):
        sizes = self.pairs.sizes
        scaled = replace(
            self, gradients=self.gradients * sizes[:, None], rounding=self.rounding * sizes
        )
        return replace(scaled, large=self.large and self.large.times_vocabulary())


@dataclass(frozen=True)
class Verdict:
    """``terms``: (coefficient, Candidate) pairs whose sum, divided by V where ``per_token``, is the gradient.

    ``holds`` (N,): on which of all pairs it does.  ``factor``: what stands in front
    of the sum and depends on the pair, or None.
    """

    name: str
    terms: tuple = ()
    per_token: bool = False
    factor: str | None = None
    holds: np.ndarray = field(default=None, repr=False)

    def gradient(self, pairs):
        total = sum(
            (coefficient * candidate.gradient(pairs) for coefficient, candidate in self.terms),
            np.zeros(pairs.p.shape),
        )
        return total / pairs.sizes[:, None] if self.per_token else total


def identify(measured):
    """-> Verdict: on all pairs if any explanation holds there, else on the ordinary ones, else on the close ones."""
    highest = int(measured.tier.max())
    for tier in (highest, 1, 0):
        part = measured.up_to(tier)
        if np.isfinite(part.gradients).all() and (
            verdict := _explain(part, thorough=tier == highest)
        ):
            return replace(verdict, holds=_where(measured, verdict))
    if all(np.abs(part.gradients).max() < 1e-14 for part in (measured, measured.large) if part):
        return Verdict("zero", holds=np.ones(len(measured.tier), bool))  # rounding around nothing
    return Verdict(NONE, holds=np.zeros(len(measured.tier), bool))


def agrees(measured, gradients):
    """On which pairs (N,) ``gradients`` are the measured ones."""
    return (
        _lengths(measured.gradients - gradients)
        <= measured.tolerance * _lengths(measured.gradients) + measured.rounding
    )


def _where(measured, verdict):
    if verdict.factor:
        return _along(measured, verdict.terms[0][1])[1]
    return agrees(measured, verdict.gradient(measured.pairs))


def _explain(measured, thorough):
    parts = [measured, *([measured.large] if measured.large else [])]
    if all((_lengths(part.gradients) <= part.zero).all() for part in parts):
        return Verdict("zero")
    lengths = _lengths(measured.gradients)
    if ((measured.rounding > LEGIBLE * lengths) & (lengths > 0) & (measured.tier <= 1)).any():
        return None
    if measured.tolerance > 1e-3:  # so coarse that a fitted parameter would prove nothing
        searches = (_one_term,)
    else:
        searches = (
            _one_term,
            _two_terms,
            _three_terms,
            _family,
            _top_k,
            *((_family_and_term,) if thorough else ()),
        )
    for search in searches:
        for part, per_token in ((measured, False), (measured.times_vocabulary(), True)):
            if terms := _plainer(search(part)):
                return Verdict(phrase(terms, per_token), terms, per_token)
    return _factor(measured) if thorough else None


def _plainer(terms):
    """a RKL + c entropy is (a - c) times the reverse KL to a tempered teacher: said so where that needs no factor."""
    if terms and [term.name for _, term in terms] == ["reverse KL", "entropy"]:
        (reverse, _), (entropy, _) = terms
        if abs(reverse - entropy - 1) < 1e-9:
            return ((1.0, candidates.reverse_kl_to_tempered_teacher(float(f"{1 / reverse:.12g}"))),)
    return terms


def _factor(measured):
    """One divergence times a number that differs from pair to pair: its direction, and what the number is."""
    for candidate in candidates.TERMS[:2]:
        factors, along = _along(measured, candidate)
        large = measured.large is None or _along(measured.large, candidate)[1].all()
        if not (along.all() and large) or (factors.max() > 0) == (factors.min() < 0):
            continue
        known = _power_law(measured, factors) if (factors != 0).all() else None
        sign = -1.0 if factors.min() < 0 else 1.0
        return Verdict(
            f"{known} × {candidate.name}" if known else phrase(((sign, candidate),)) + FACTOR,
            ((sign, candidate),),
            factor=known or FACTOR,
        )
    return None


def _along(measured, candidate):
    """(factors (N,), on which pairs the gradient is that multiple of the candidate's)."""
    base = candidate.gradient(measured.pairs)
    factors = (measured.gradients * base).sum(axis=-1) / (base**2).sum(axis=-1)
    return factors, agrees(measured, factors[:, None] * base)


def _power_law(measured, factors):
    """ "2 × KL(p‖q)" where the factors are a number times a power of a known quantity, else None."""
    p, q = measured.pairs.p, measured.pairs.q
    ratio = np.where(p > 0, distributions.log_ratio(p, q), 0.0)
    reverse = objectives.reverse_kl(p, q)
    quantities = {
        "V": measured.pairs.sizes.astype(float), "KL(p‖q)": reverse, "KL(q‖p)": objectives.forward_kl(p, q),
        "H(q)": distributions.entropy(q), "H(p)": distributions.entropy(p),
        "std(log p/q)": np.sqrt((p * (ratio - reverse[:, None]) ** 2).sum(axis=-1)),
    }  # fmt: skip
    for name, values in quantities.items():
        columns = np.stack([np.ones(len(values)), np.log(values)], axis=1)
        intercept, power = np.linalg.lstsq(
            columns[measured.fit], np.log(np.abs(factors[measured.fit])), rcond=None
        )[0]
        power = float(f"{power:.6g}")
        number = np.sign(factors[0]) * np.exp(intercept)
        if power and np.allclose(
            factors, number * values**power, rtol=10 * measured.tolerance, atol=0
        ):
            front = (
                ""
                if abs(number - 1) <= 10 * measured.tolerance
                else f"{_coefficient(float(f'{number:.6g}'))} × "
            )
            return front + {1.0: name, -1.0: f"1/{name}", 0.5: f"√{name}", -0.5: f"1/√{name}"}.get(
                power, f"{name}^{format_number(power)}"
            )
    return None


def _one_term(measured):
    for term in candidates.TERMS:
        if found := _confirmed(measured, [term]):
            return found
    return None


def _two_terms(measured):
    for pair in itertools.combinations(candidates.TERMS, 2):
        if found := _confirmed(measured, list(pair)):
            return found
    return None


def _three_terms(measured):
    for triple in itertools.combinations(candidates.TERMS, 3):
        if found := _confirmed(measured, list(triple)):
            return found
    return None


def _family(measured):
    """Near its ends a family may pass for another, with an odd scale: the shortest statement of those that hold."""
    found = [terms for family in candidates.FAMILIES if (terms := _fitted(measured, family, []))]
    return min(
        found, key=lambda terms: len(phrase(terms).replace(terms[0][1].name, "")), default=None
    )


def _family_and_term(measured):
    for family in candidates.FAMILIES:
        for term in candidates.TERMS:
            if found := _fitted(measured, family, [term]):
                return found
    return None


def _top_k(measured):
    sizes = np.concatenate([part.pairs.sizes for part in (measured, measured.large) if part])
    for k in _heads(measured):
        if (sizes > k).sum() < 2:
            continue  # one pair cannot both suggest K and confirm it: a nucleus has another K on every pair
        for candidate in candidates.top_k(k):
            if found := _confirmed(measured, [candidate]):
                return found
        for family in candidates.top_k_families(k):
            if found := _fitted(measured, family, []):
                return found
    return None


def _heads(measured):
    """The K that a loss on K tokens must have: outside them the gradient is in one proportion to p."""
    found = set()
    for part in (measured, measured.large):
        if part is None:
            continue
        sizes = part.pairs.sizes
        row = int(np.argmax(np.where(part.tier == min(1, part.tier.max()), sizes, 0)))
        size = int(sizes[row])
        shares = np.sort(part.gradients[row, :size] / part.pairs.p[row, :size])
        width = max(1e-6, 10 * part.tolerance) * np.abs(shares).max()
        alike = np.searchsorted(shares, shares + width, side="right") - np.arange(size)
        if alike.max() > 1:
            found.add(size - int(alike.max()))
    return sorted(k for k in found if k)


def _confirmed(measured, terms):
    """Coefficients from the fitting pairs; the terms with them if they then hold on all pairs, else None."""
    bases = [term.gradient(measured.pairs) for term in terms]
    coefficients, distance = _project(measured, bases)
    if distance > max(1e-3, 3 * measured.tolerance) or not _holds(measured, bases, coefficients):
        return None  # the root mean square alone rules most of them out
    if any(
        (abs(c) * _lengths(base) <= 10 * measured.tolerance * _lengths(measured.gradients)).all()
        for c, base in zip(coefficients, bases)
    ):
        return None  # a term too small to be told from nothing
    coefficients = _short(coefficients, lambda tried: _holds(measured, bases, tried))
    if measured.large and not _holds(
        measured.large, [term.gradient(measured.large.pairs) for term in terms], coefficients
    ):
        return None
    return tuple((coefficient, term) for coefficient, term in zip(coefficients, terms))


def _fitted(measured, family, terms):
    """The same with the family's parameter fitted by variable projection (Gauss-Newton on what the scale leaves over)."""
    others = [term.gradient(measured.pairs) for term in terms]
    distance = _left_over(measured, _grid(family, measured.pairs), others)
    best = int(np.argmin(distance))
    if not distance[best] < (0.05 if terms else 0.2):
        return None
    value = _polish(measured, family, family.grid[best], others)
    if value is None:
        return None
    for tried in [*_decimals(value), value]:
        if family.bounds[0] < tried < family.bounds[1]:
            found = _confirmed(measured, [family.member(tried), *terms])
            if found:
                return found
    return None


def _polish(measured, family, value, others):
    low, high = family.bounds
    if np.isfinite([low, high]).all():
        inside, outside = (
            (lambda u: low + (high - low) / (1 + np.exp(-u))),
            (lambda x: np.log((x - low) / (high - x))),
        )
    elif np.isfinite(low):
        inside, outside = (lambda u: low + np.exp(u)), (lambda x: np.log(x - low))
    else:
        inside = outside = lambda u: u
    rows = np.flatnonzero(
        measured.fit & (measured.tier <= 1)
    )  # far apart, the dependence on the parameter is too wild to follow
    fit = measured[rows]
    others = [other[rows] for other in others]

    def base(u):
        return family.member(inside(u)).gradient(fit.pairs)

    u = outside(value)
    here = _project(fit, [base(u), *others])
    for _ in range(25):
        step = 1e-5
        slope = here[0][0] * (base(u + step) - base(u - step)) / (2 * step)
        weights = _weights(fit)
        columns = np.stack([(weights * b).ravel() for b in [base(u), *others, slope]], axis=1)
        if not np.isfinite(columns).all():
            return None
        change = np.linalg.lstsq(columns, (weights * fit.gradients).ravel(), rcond=None)[0][-1]
        change = float(np.clip(change, -1, 1))
        for _ in range(6):
            there = _project(fit, [base(u + change), *others])
            if there[1] <= here[1]:
                break
            change /= 4
        else:
            break
        stalled = there[1] > max(0.8 * here[1], 1e-6)
        u, here = u + change, there
        if stalled or abs(change) < 1e-14 * max(1, abs(u)):
            break
    return float(inside(u))


def _project(measured, bases):
    """Least-squares coefficients on the fitting pairs, each weighed by its length, and the root mean square left over."""
    weights = _weights(measured) * measured.fit[:, None]
    columns = np.stack([(weights * base).ravel() for base in bases], axis=1)
    target = (weights * measured.gradients).ravel()
    if not np.isfinite(columns).all():
        return np.zeros(len(bases)), np.inf
    size = np.sqrt((columns**2).sum(axis=0))
    if (size == 0).any():
        return np.zeros(len(bases)), np.inf
    coefficients = np.linalg.lstsq(columns / size, target, rcond=None)[0]
    left = target - columns / size @ coefficients
    return coefficients / size, float(np.sqrt((left**2).sum() / measured.fit.sum()))


def _left_over(measured, bases, others):
    """What ``_project`` leaves over for each of ``bases`` (G, N, V) beside at most one other, without a solve for each."""
    weights = (_weights(measured) * measured.fit[:, None])[measured.fit]
    columns = (weights * bases[:, measured.fit]).reshape(len(bases), -1)
    target = (weights * measured.gradients[measured.fit]).ravel()
    for other in others:
        other = (weights * other[measured.fit]).ravel()
        other = other / max(np.linalg.norm(other), 1e-300)
        columns, target = (
            columns - (columns @ other)[:, None] * other,
            target - (target @ other) * other,
        )
    lengths = np.maximum(np.sqrt((columns**2).sum(axis=1)), 1e-300)
    left = target @ target - (columns @ target / lengths) ** 2
    return np.sqrt(np.maximum(left, 0.0) / measured.fit.sum())


def _weights(measured):
    lengths = _lengths(measured.gradients)
    return 1 / np.maximum(lengths, 1e-6 * lengths.max() or 1.0)[:, None]


def _holds(measured, bases, coefficients):
    return bool(agrees(measured, sum(c * b for c, b in zip(coefficients, bases))).all())


def _short(coefficients, holds):
    """The shortest decimals that still hold."""
    for digits in range(1, 7):
        rounded = [float(f"{value:.{digits}g}") for value in coefficients]
        if all(rounded) and holds(rounded):
            return rounded
    return [float(value) for value in coefficients]


def _decimals(value):
    return [float(f"{value:.{digits}g}") for digits in range(1, 7)]


def _lengths(vectors):
    return np.sqrt((vectors**2).sum(axis=-1))


@functools.lru_cache(maxsize=256)
def _cached_grid(family, student, teacher, shape):
    pairs = Pairs(*(np.frombuffer(data).reshape(shape) for data in (student, teacher)))
    return np.array([family.member(value).gradient(pairs) for value in family.grid])


def _grid(family, pairs):
    """The family's gradients at its starting values; the pairs of one seed come again and again."""
    return _cached_grid(
        family,
        pairs.student_logits.tobytes(),
        pairs.teacher_logits.tobytes(),
        pairs.student_logits.shape,
    )


def phrase(terms, per_token=False):
    """ "2 × reverse KL", "reverse KL − forward KL", "1/V × JSD(β = 0.5)"."""
    terms = sorted(
        terms, key=lambda term: (term[0] < 0, -abs(term[0]))
    )  # positive and large ones first
    if len(terms) == 1:
        ((coefficient, candidate),) = terms
        if per_token:
            return f"{_coefficient(coefficient)}/V × {candidate.name}"
        return (
            candidate.name
            if coefficient == 1
            else f"{_coefficient(coefficient)} × {candidate.name}"
        )
    text = ""
    for coefficient, candidate in terms:
        sign = (" − " if coefficient < 0 else " + ") if text else ("−" if coefficient < 0 else "")
        size = _coefficient(abs(coefficient))
        text += sign + (candidate.name if abs(coefficient) == 1 else f"{size} × {candidate.name}")
    return f"1/V × ({text})" if per_token else text


def _coefficient(value):
    """Six figures, and as many more as it takes to tell it from 1."""
    for digits in range(6, 17):
        text = format_number(value, digits)
        if float(text) not in (1.0, -1.0) or abs(value) == 1:
            break
    return text.replace("-", "−", 1) if text.startswith("-") else text


def name_value(groups, tolerance, terms):
    """What expected values are: "KL(p‖q)", "KL(q‖p) + H(q)", "2 × ..." or None.

    ``groups``: (pairs, values (N,), sizes (N,) that set their rounding); the first is
    fitted to, all must agree.  The objective of a single term is tried too.
    """
    rounding = [0.02 * tolerance * (sizes + sizes.max()) for _, _, sizes in groups]
    if all(
        (np.abs(values) <= np.minimum(near, 1e-3 * sizes)).all()
        for near, (_, values, sizes) in zip(rounding, groups)
    ):
        return "zero"
    known = {
        "KL(p‖q)": objectives.reverse_kl, "KL(q‖p)": objectives.forward_kl,
        "H(p)": lambda p, q: distributions.entropy(p), "H(q)": lambda p, q: distributions.entropy(q),
    }  # fmt: skip
    if len(terms) == 1 and terms[0][1].objective and terms[0][1].parameters:
        known[terms[0][1].name] = lambda p, q: _engine_value(terms[0][1], p, q)
    for count, per_token in itertools.product((1, 2), (False, True)):
        for names in itertools.combinations(known, count):
            columns = [
                np.stack(
                    [
                        known[name](pairs.p, pairs.q) / (pairs.sizes if per_token else 1)
                        for name in names
                    ],
                    axis=1,
                )
                for pairs, _, _ in groups
            ]
            coefficients = np.linalg.lstsq(columns[0][::2], groups[0][1][::2], rcond=None)[0]

            def agree(tried, columns=columns):
                return all(
                    (np.abs(values - c @ tried) <= tolerance * np.abs(values) + near).all()
                    for c, near, (_, values, _) in zip(columns, rounding, groups)
                )

            if (
                agree(coefficients)
                and (np.abs(coefficients) > 10 * tolerance * np.abs(coefficients).max()).all()
            ):
                return phrase(
                    [
                        (c, candidates.Candidate(name, None))
                        for c, name in zip(_short(coefficients, agree), names)
                    ],
                    per_token,
                )
    return None


def _engine_value(term, p, q):
    parameters = dict(term.parameters)
    if "k" in parameters:
        parameters["k"] = min(parameters["k"], p.shape[-1])
    return getattr(objectives, term.objective)(p, q, **parameters)
