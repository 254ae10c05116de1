"""The gradient table of all sequences, kept sparse, and its exact moments.

Row tau of the table (S, P) is the gradient applied if the sequence tau is drawn.  It is
0 but for the T prefixes that tau passes, so T weights say it all: V = 10, T = 6 takes
48 MB where the table would take 9 TB.  ``opd_toy.sequences`` makes these tables.
"""

from dataclasses import dataclass

import numpy as np

from opd_toy import _validate
from opd_toy.sequences.trees import (
    TokenTree,
    check_tree,
    finite,
    flat,
    per_position,
    quotient,
    sequence_array,
)

LARGEST_TABLE = 2**28  # entries, 2 GiB


@dataclass(frozen=True, eq=False)
class SequenceTable:
    """Row tau at the prefix s_t it passes: weights[tau, t] (e_{a_t} - p(.|s_t)) + local[t][s_t]; elsewhere 0.

    ``weights`` (S, T); ``local`` None or a tuple of (V**t, V); ``probabilities`` (S,)
    of whoever draws, by default the student.  Moments are exact, in O(S T) memory.
    """

    student: TokenTree
    weights: np.ndarray
    local: tuple | None = None
    probabilities: np.ndarray | None = None

    def __post_init__(self):
        tree = check_tree("student", self.student)
        object.__setattr__(self, "weights", sequence_array("weights", self.weights, tree))
        if self.local is not None:
            object.__setattr__(self, "local", per_position("local", self.local, tree, tokens=True))
        if self.probabilities is None:
            object.__setattr__(self, "probabilities", tree.sequence_probabilities())
            return
        probabilities = _validate.probabilities("probabilities", self.probabilities)
        if probabilities.shape != (len(self.weights),):
            raise ValueError(
                f"probabilities has shape {probabilities.shape}; give one number a sequence, shape ({len(self.weights)},)"
            )
        object.__setattr__(self, "probabilities", probabilities)

    def expectation(self):
        """The gradient applied on average (P,)."""
        return expectations(self.student, self.probabilities, *self._parts())[0]

    def total_variance(self):
        """Trace of the covariance of one row: a float, in two passes, never below 0."""
        return float(covariances(self.student, self.probabilities, *self._parts())[0, 0])

    def bias(self, gradient):
        """Expectation less ``gradient`` (P,)."""
        gradient = _validate.rows("gradient", gradient)
        if gradient.shape != (self.student.parameters,):
            raise ValueError(
                f"gradient has shape {gradient.shape}; give one number a parameter, shape ({self.student.parameters},)"
            )
        return self.expectation() - finite("gradient", gradient)

    def mean_squared_error(self, gradient, samples):
        """E |mean of ``samples`` rows - gradient|**2 = |bias|**2 + variance/samples.  eq-bias-variance."""
        samples = _validate.positive("samples", samples)
        return float((self.bias(gradient) ** 2).sum() + self.total_variance() / samples)

    def dense(self):
        """The whole table (S, P), for small trees."""
        tree, sequences = self.student, len(self.weights)
        if sequences * tree.parameters > LARGEST_TABLE:
            raise ValueError(
                f"student has V = {tree.vocabulary}, T = {tree.length}: {sequences} rows of {tree.parameters} entries; "
                f"dense() holds at most {LARGEST_TABLE} entries, expectation() and total_variance() need none"
            )
        table, start = np.zeros((sequences, tree.parameters)), 0
        rows, tokens = np.arange(sequences), tree.tokens()
        for t, p in enumerate(tree.probabilities):
            prefix = rows // (sequences // len(p))
            block = self.weights[:, t, None] * (np.eye(tree.vocabulary)[tokens[:, t]] - p[prefix])
            columns = start + prefix[:, None] * tree.vocabulary + np.arange(tree.vocabulary)
            table[rows[:, None], columns] = block + self._local(t)[prefix]
            start += p.size
        return table

    def _parts(self):
        return (lambda t: [self.weights[:, t]]), (lambda t: [self._local(t)])

    def _local(self, t):
        return np.zeros_like(self.student.probabilities[t]) if self.local is None else self.local[t]


def expectations(student, probabilities, weights, local):
    """Expectations (n, P) of n tables: weights(t) is a list of n arrays (S,), local(t) of n arrays (V**t, V)."""
    blocks = []
    for t, p in enumerate(student.probabilities):
        chance = probabilities.reshape(*p.shape, -1)
        visit = chance.sum(axis=(1, 2))[:, None]
        blocks.append(
            [
                _score_sum((chance * w.reshape(chance.shape)).sum(axis=2), p) + visit * l
                for w, l in zip(weights(t), local(t))
            ]
        )
    return np.array([flat(parts) for parts in zip(*blocks)])


def covariances(student, probabilities, weights, local):
    """Traces (n, n) of the covariances between n tables, given as for ``expectations``.

    The block of a prefix s is 0 in all rows that do not pass it; in the others the weight
    varies with what follows (s, a), and the block with a.  So the variance is the sum over s of
    visit(s) [ E_a Var(W|s,a) |e_a - p|**2  +  E_a |E[W|s,a] (e_a - p) - m|**2  +  (1 - visit(s)) |m + local|**2 ],
    m = E_a E[W|s,a] (e_a - p).  No term is below 0, so nothing cancels.
    """
    total = 0.0
    for t, p in enumerate(student.probabilities):
        chance = probabilities.reshape(*p.shape, -1)
        mass = chance.sum(axis=2)
        visit = mass.sum(axis=1)
        columns = [w.reshape(chance.shape) for w in weights(t)]
        means = np.array([quotient((chance * w).sum(axis=2), mass) for w in columns])
        deviations = [w - mean[..., None] for w, mean in zip(columns, means)]
        length = score_length(p)
        total += np.array(
            [
                [((chance * a * b).sum(axis=2) * length).sum() for a in deviations]
                for b in deviations
            ]
        )
        centre = np.array([_score_sum(quotient(mass, visit[:, None]) * mean, p) for mean in means])
        for token in range(p.shape[1]):
            off_centre = means[:, :, token, None] * _score(p, token) - centre
            total += np.einsum("s,jsv,ksv->jk", mass[:, token], off_centre, off_centre)
        # Passed by: summed over the others, for 1 - visit has no digits left where visit is nearly 1.
        absent = (
            np.cumsum(np.append(0.0, visit[:-1])) + np.cumsum(np.append(0.0, visit[:0:-1]))[::-1]
        )
        block = centre + np.array(local(t))
        total += np.einsum("s,jsv,ksv->jk", visit * absent, block, block)
    return total


def score_length(p):
    """|e_a - p|**2 for each token a (N, V)."""
    return _others(p) ** 2 + _others(p * p)


def _score(p, token):
    """e_token - p (N, V)."""
    score = -p
    score[:, token] = _others(p)[:, token]
    return score


def _score_sum(coefficients, p):
    """sum_a coefficients_a (e_a - p) (N, V)."""
    return coefficients * _others(p) - p * _others(coefficients)


def _others(x):
    """Sum over all other tokens (N, V), without subtracting."""
    return x @ (1 - np.eye(x.shape[1]))
