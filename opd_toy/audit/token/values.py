"""What a loss's expected values are: a divergence, an entropy, or a sum of two of them."""

import itertools
from dataclasses import dataclass

import numpy as np

from opd_toy import distributions, objectives
from opd_toy.audit.formats import COARSE
from opd_toy.audit.token import names
from opd_toy.audit.token.candidates import Candidate
from opd_toy.audit.token.fit import shortest
from opd_toy.audit.token.pairs import Pairs

VALUES = {
    "KL(p‖q)": objectives.reverse_kl,
    "KL(q‖p)": objectives.forward_kl,
    "H(p)": lambda p, q: distributions.entropy(p),
    "H(q)": lambda p, q: distributions.entropy(q),
}


@dataclass(frozen=True)
class Values:
    """Expected values (N,) on pairs, and the mean sizes (N,) of single ones: their rounding."""

    pairs: Pairs
    expected: np.ndarray
    sizes: np.ndarray

    def rounding(self, tolerance):
        share = 0.02 if tolerance <= COARSE else 0.2  # half precision's sums are rounded as well
        return share * tolerance * (self.sizes + self.sizes.max())

    def are_zero(self, tolerance):
        allowed = np.minimum(self.rounding(tolerance), 1e-3 * self.sizes)
        return bool((np.abs(self.expected) <= allowed).all())

    def agree(self, values, tolerance):
        allowed = tolerance * np.abs(self.expected) + self.rounding(tolerance)
        return bool((np.abs(self.expected - values) <= allowed).all())


def name_values(groups, tolerance, terms=()):
    """ "KL(p‖q)", "KL(q‖p) + H(q)", "zero" ... or None, of Values that must all agree.

    The first of ``groups`` is fitted to.  The objective of a single term, such as the
    verdict's, is tried too.
    """
    if all(values.are_zero(tolerance) for values in groups):
        return names.ZERO
    known = VALUES
    if len(terms) == 1 and terms[0][1].objective and terms[0][1].parameters:
        known = VALUES | {terms[0][1].name: lambda p, q: _engine_value(terms[0][1], p, q)}
    counts = (1, 2) if tolerance <= COARSE else (1,)  # with two, anything would be something
    for count, over_vocabulary in itertools.product(counts, (False, True)):
        for chosen in itertools.combinations(known, count):
            functions = [known[name] for name in chosen]
            coefficients = _coefficients(groups, functions, over_vocabulary, tolerance)
            if coefficients is not None:
                named = [(c, Candidate(name, None)) for c, name in zip(coefficients, chosen)]
                return names.phrase(named, over_vocabulary)
    return None


def _coefficients(groups, functions, over_vocabulary, tolerance):
    """The coefficients with which the functions sum to the values of all groups, or None."""
    columns = []
    for values in groups:
        pairs = values.pairs
        divisor = pairs.sizes if over_vocabulary else 1
        columns.append(np.stack([f(pairs.p, pairs.q) / divisor for f in functions], axis=1))
    # Every second pair of the first group is fitted to; all must agree.
    coefficients = np.linalg.lstsq(columns[0][::2], groups[0].expected[::2], rcond=None)[0]

    def agree(tried):
        return all(v.agree(c @ np.array(tried), tolerance) for c, v in zip(columns, groups))

    large = np.abs(coefficients) > 10 * tolerance * np.abs(coefficients).max()
    return shortest(coefficients, agree) if agree(coefficients) and large.all() else None


def _engine_value(term, p, q):
    parameters = dict(term.parameters)
    if "k" in parameters:
        parameters["k"] = min(parameters["k"], p.shape[-1])
    return getattr(objectives, term.objective)(p, q, **parameters)
