"""Beyond enumeration: a policy too large for a table, and estimates from drawn sequences.

``opd_toy.sequences`` has these names; import from there.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from opd_toy import _validate
from opd_toy.distributions import log_softmax
from opd_toy.sequences.trees import (
    SIGNALS,
    barred_token,
    centred,
    difference,
    discounted_later,
    kl_rows,
)


@dataclass(frozen=True, eq=False)
class LazyTree:
    """A policy too large to enumerate.

    ``logits_after`` maps prefixes (N, t), integers, to logits (N, V).
    """

    vocabulary: int
    length: int
    logits_after: Callable

    def __post_init__(self):
        _validate.whole("vocabulary", self.vocabulary)
        _validate.whole("length", self.length)
        if not callable(self.logits_after):
            raise ValueError(
                f"logits_after is {_validate.quote(self.logits_after)}; "
                "give a function from prefixes (N, t) to logits (N, V)"
            )

    @classmethod
    def random(cls, vocabulary, length, seed, scale=1.0):
        """Logits N(0, scale**2), each prefix's own: a hash of seed and prefix, never stored."""
        key, scale = _key(_validate.whole("seed", seed, least=0)), _validate.number("scale", scale)

        def logits_after(prefixes):
            return scale * _hashed_normals(prefixes, vocabulary, key)

        return cls(vocabulary, length, logits_after)

    def log_probabilities_after(self, prefixes):
        """Rows (N, V) of log-probabilities after prefixes (N, t), integers, t < T."""
        return log_softmax(self.logits_after(_validate.prefixes(prefixes, self)))


def _key(seed):
    """64 bits from a seed.

    A plain seed would not do: seeds 1 and 2 would share whole subtrees, as 1 ^ 1 = 2 ^ 2.
    """
    return np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]


def _hashed_normals(prefixes, vocabulary, key):
    """Standard normals (N, V), a function of each prefix alone: Box and Muller on hashed bits."""
    key = np.full(len(prefixes), key)
    for column in prefixes.T.astype(np.uint64):
        key = _scrambled(key ^ (column + np.uint64(1)))
    bits = _scrambled(key[:, None] + np.arange(1, 2 * vocabulary + 1, dtype=np.uint64))
    uniform = ((bits >> np.uint64(11)).astype(float) + 0.5) * 2.0**-53
    return np.sqrt(-2 * np.log(uniform[:, ::2])) * np.cos(2 * np.pi * uniform[:, 1::2])


def _scrambled(x):
    """splitmix64 (Steele, Lea and Flood, 2014), modulo 2**64."""
    x = x * np.uint64(0x9E3779B97F4A7C15) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def sample_estimate(student, teacher, gamma, signal, samples, seed):
    """KL, total variance and mean gradient of ``reward_to_go`` from drawn sequences.

    ``student`` and ``teacher`` are two TokenTree or LazyTree, or any objects with
    ``vocabulary``, ``length`` and ``log_probabilities_after(prefixes (N, t)) -> (N, V)``.
    Returns a dict: "kl", "kl_standard_error" (mean of sum_t r_t, or of sum_t KL_t for the
    other signals), "variance", "variance_standard_error" (of one row), and for the
    prefixes passed, lists over t: "prefixes" (M_t, t), "gradient" (M_t, V),
    "gradient_standard_error" (M_t, V).
    """
    gamma = _validate.fraction("gamma", gamma)
    samples = _validate.whole("samples", samples, least=2)
    _validate.choice("signal", signal, SIGNALS)
    _check_policy("student", student)
    _check_policy("teacher", teacher)
    _validate.same_size(student, teacher)
    generator = np.random.default_rng(_validate.whole("seed", seed, least=0))
    passed = _draw(student, teacher, samples, generator)
    sampled = np.stack([position.cost for position in passed], axis=1)
    later = sampled if signal == "sampled" else np.stack([each.kl for each in passed], axis=1)
    own = np.zeros_like(sampled) if signal == "full_vocabulary" else sampled
    weights = own + discounted_later(later, gamma)
    gradients = [
        w[:, None] * each.score + (each.local if signal == "full_vocabulary" else 0.0)
        for w, each in zip(weights.T, passed)
    ]
    rows = [each.row for each in passed]
    means, errors = zip(*(_mean_by_prefix(block, row) for block, row in zip(gradients, rows)))
    distance = _squared_distance(gradients, means, rows)
    return {
        "kl": float(later.sum(axis=1).mean()),
        "kl_standard_error": _standard_error(later.sum(axis=1)),
        "variance": float(distance.sum() / (samples - 1)),
        "variance_standard_error": _standard_error(distance),
        "prefixes": [each.prefixes for each in passed],
        "gradient": list(means),
        "gradient_standard_error": list(errors),
    }


@dataclass
class _Position:
    """What N drawn sequences meet at one position."""

    prefixes: np.ndarray  # (M, t), each prefix once
    row: np.ndarray  # (N,), which of them a sequence passes
    cost: np.ndarray  # (N,), sampled
    kl: np.ndarray  # (N,)
    score: np.ndarray  # (N, V)
    local: np.ndarray  # (N, V), gradient of the KL


def _draw(student, teacher, samples, generator):
    """A _Position for t = 0, 1, ... of ``samples`` sequences that the student draws."""
    sequences, code = np.zeros((samples, 0), np.int64), np.zeros(samples, np.int64)
    passed = []
    for _ in range(student.length):
        log_p = student.log_probabilities_after(sequences)
        log_q = teacher.log_probabilities_after(sequences)
        support = log_p > -np.inf
        if (barred := support & np.isneginf(log_q)).any():
            row, token = np.argwhere(barred)[0]
            raise barred_token(tuple(sequences[row].tolist()), int(token))
        p, ratio = np.exp(log_p), difference(log_p, log_q, support)
        # The largest of log p plus Gumbel noise is a draw from p, however small its entries.
        token = (log_p + generator.gumbel(size=p.shape)).argmax(axis=1)
        _, first, row = np.unique(code, return_index=True, return_inverse=True)
        passed.append(
            _Position(
                prefixes=sequences[first],
                row=row,
                cost=ratio[np.arange(samples), token],
                kl=kl_rows(p, np.exp(log_q), ratio, support),
                score=np.eye(student.vocabulary)[token] - p,
                local=centred(p, ratio),
            )
        )
        sequences, code = np.column_stack([sequences, token]), row * student.vocabulary + token
    return passed


def _squared_distance(gradients, means, rows):
    """|row - mean|**2 of each drawn sequence (N,), over all prefixes.

    At a prefix that it does not pass its row is 0, and the mean alone counts.
    """
    squares = [(mean**2).sum(axis=1) for mean in means]
    everywhere = sum(square.sum() for square in squares)
    return everywhere + sum(
        ((block - mean[row]) ** 2).sum(axis=1) - square[row]
        for block, mean, square, row in zip(gradients, means, squares, rows)
    )


def _mean_by_prefix(block, row):
    """Mean of (N, V) at each prefix over all N, 0 where one is not passed, and standard error."""
    samples, passed = len(block), np.bincount(row)[:, None]
    mean = _sum_by_prefix(block, row) / samples
    squares = _sum_by_prefix((block - mean[row]) ** 2, row) + (samples - passed) * mean**2
    return mean, np.sqrt(squares / (samples - 1) / samples)


def _sum_by_prefix(values, row):
    return np.stack([np.bincount(row, weights=column) for column in values.T], axis=1)


def _standard_error(values):
    return float(values.std(ddof=1) / np.sqrt(len(values)))


def _check_policy(name, policy):
    for attribute in ("vocabulary", "length", "log_probabilities_after"):
        if not hasattr(policy, attribute):
            raise ValueError(
                f"{name} is {_validate.quote(policy)}, without {attribute}; give a TokenTree, "
                "a LazyTree or an object with vocabulary, length and log_probabilities_after"
            )
