"""The gradient table of all sequences, kept sparse, and its exact moments.

Row tau of the table (S, P) is the gradient applied if the sequence tau is drawn.  It is
0 but for the T prefixes that tau passes, so T weights say it all: V = 10, T = 6 takes
48 MB where the table would take 9 TB.  ``opd_toy.sequences`` makes these tables.
"""

from dataclasses import dataclass

import numpy as np

from opd_toy import _validate
from opd_toy.distributions import quotient, sum_over_other_tokens
from opd_toy.estimators import squared_score_norm
from opd_toy.sequences.trees import TokenTree, check_tree, flat

LARGEST_TABLE = 2**28  # entries, 2 GiB


@dataclass(frozen=True, eq=False)
class SequenceTable:
    """Row tau at a prefix s_t it passes: weights[tau, t] (e_{a_t} - p(.|s_t)) + local[t][s_t].

    Elsewhere the row is 0.  ``weights`` (S, T); ``local`` None or a tuple of (V**t, V);
    ``probabilities`` (S,) of whoever draws, by default the student.  Moments are exact, in
    O(S T) memory.
    """

    student: TokenTree
    weights: np.ndarray
    local: tuple | None = None
    probabilities: np.ndarray | None = None

    def __post_init__(self):
        tree = check_tree("student", self.student)
        weights = _validate.by_sequence_and_position("weights", self.weights, tree)
        object.__setattr__(self, "weights", weights)
        if self.local is not None:
            local = _validate.by_prefix_and_token("local", self.local, tree)
            object.__setattr__(self, "local", local)
        if self.probabilities is None:
            probabilities = tree.sequence_probabilities()
        else:
            probabilities = _validate.probabilities("probabilities", self.probabilities)
        if probabilities.shape != (len(weights),):
            raise ValueError(
                f"probabilities has shape {probabilities.shape}; "
                f"give one number a sequence, shape ({len(weights)},)"
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
        gradient, parameters = _validate.rows("gradient", gradient), self.student.parameters
        if gradient.shape != (parameters,):
            raise ValueError(
                f"gradient has shape {gradient.shape}; "
                f"give one number a parameter, shape ({parameters},)"
            )
        return self.expectation() - _validate.finite("gradient", gradient)

    def mean_squared_error(self, gradient, samples):
        """E |mean of ``samples`` rows - gradient|**2 = |bias|**2 + variance/samples.

        eq-bias-variance.
        """
        samples = _validate.positive("samples", samples)
        return float((self.bias(gradient) ** 2).sum() + self.total_variance() / samples)

    def dense(self):
        """The whole table (S, P), for small trees."""
        tree, sequences = self.student, len(self.weights)
        if sequences * tree.parameters > LARGEST_TABLE:
            raise ValueError(
                f"student has V = {tree.vocabulary}, T = {tree.length}: "
                f"{sequences} rows of {tree.parameters} entries; dense() holds at most "
                f"{LARGEST_TABLE} entries, expectation() and total_variance() need none"
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
        """Weights and local gradients, as ``expectations`` and ``covariances`` take them."""
        return (lambda t: [self.weights[:, t]]), (lambda t: [self._local(t)])

    def _local(self, t):
        return np.zeros_like(self.student.probabilities[t]) if self.local is None else self.local[t]


def expectations(student, probabilities, weights, local):
    """Expectations (n, P) of n tables.

    weights(t) is a list of n arrays (S,), local(t) one of n arrays (V**t, V).
    """
    gradients = []
    for t, p in enumerate(student.probabilities):
        chance = _by_continuation(probabilities, p)
        visit = chance.sum(axis=(1, 2))[:, None]
        gradients.append(
            [
                _score_sum((chance * _by_continuation(weight, p)).sum(axis=2), p) + visit * fixed
                for weight, fixed in zip(weights(t), local(t))
            ]
        )
    return np.array([flat(by_position) for by_position in zip(*gradients)])


def covariances(student, probabilities, weights, local):
    """Traces (n, n) of the covariances between n tables, given as for ``expectations``.

    The part of a row at a prefix s is 0 in all rows that do not pass it; in the others the
    weight W varies with what follows (s, a), the rest with a.  So the variance is the sum over
    s of visit(s) times

        E_a Var(W|s,a) |e_a - p|**2                what follows the token
      + E_a |E[W|s,a] (e_a - p) - m|**2            the token
      + (1 - visit(s)) |m + local|**2              passing the prefix at all

    with m = E_a E[W|s,a] (e_a - p).  No term is below 0, so nothing cancels.
    """
    total = 0.0
    for t, p in enumerate(student.probabilities):
        chance = _by_continuation(probabilities, p)
        mass = chance.sum(axis=2)
        visit = mass.sum(axis=1)
        columns = [_by_continuation(weight, p) for weight in weights(t)]
        means = np.array([quotient((chance * w).sum(axis=2), mass) for w in columns])
        deviations = [w - mean[..., None] for w, mean in zip(columns, means)]
        total += _after_the_token(chance, deviations, squared_score_norm(p))
        chosen = quotient(mass, visit[:, None])
        centre = np.array([_score_sum(chosen * mean, p) for mean in means])
        for token in range(p.shape[1]):
            off_centre = means[:, :, token, None] * _score(p, token) - centre
            total += np.einsum("s,jsv,ksv->jk", mass[:, token], off_centre, off_centre)
        passing = centre + np.array(local(t))
        passed_or_not = visit * _sum_over_other_prefixes(visit)
        total += np.einsum("s,jsv,ksv->jk", passed_or_not, passing, passing)
    return total


def _by_continuation(values, p):
    """Values of all sequences (S,) as (prefixes, tokens, what follows) for rows p (N, V)."""
    return values.reshape(*p.shape, -1)


def _after_the_token(chance, deviations, norm):
    """sum chance W_j W_k |e_a - p|**2 (n, n), of the deviations of W from its mean given (s, a)."""
    return np.array(
        [[((chance * a * b).sum(axis=2) * norm).sum() for a in deviations] for b in deviations]
    )


def _score(p, token):
    """e_token - p (N, V)."""
    score = -p
    score[:, token] = sum_over_other_tokens(p)[:, token]
    return score


def _score_sum(coefficients, p):
    """sum_a coefficients_a (e_a - p) (N, V)."""
    return coefficients * sum_over_other_tokens(p) - p * sum_over_other_tokens(coefficients)


def _sum_over_other_prefixes(visit):
    """1 - visit (N,), added up: the difference has no digits left where visit is nearly 1."""
    before = np.cumsum(np.append(0.0, visit[:-1]))
    after = np.cumsum(np.append(0.0, visit[:0:-1]))[::-1]
    return before + after
