"""Beyond enumeration: exact variances for independent positions, and sampling with standard errors.

``opd_toy.sequences`` has these names; import from there.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from opd_toy import _validate
from opd_toy.distributions import kl_terms, log_ratio, log_softmax
from opd_toy.sequences.table import score_length
from opd_toy.sequences.trees import (
    SIGNALS,
    barred_token,
    centred,
    check_same_size,
    difference,
    discounted,
    kl_rows,
    token_prefixes,
)


@dataclass(frozen=True, eq=False)
class LazyTree:
    """A policy too large to enumerate: ``logits_after`` maps prefixes (N, t), integers, to logits (N, V)."""

    vocabulary: int
    length: int
    logits_after: Callable

    def __post_init__(self):
        _validate.whole("vocabulary", self.vocabulary), _validate.whole("length", self.length)
        if not callable(self.logits_after):
            raise ValueError(
                f"logits_after is {_validate._quote(self.logits_after)}; give a function from prefixes (N, t) to logits (N, V)"
            )

    @classmethod
    def random(cls, vocabulary, length, seed, scale=1.0):
        """Logits N(0, scale**2), each prefix's own: drawn from a hash of seed and prefix, never stored."""
        key, scale = _key(_validate.whole("seed", seed, least=0)), _validate.number("scale", scale)
        return cls(
            vocabulary, length, lambda prefixes: scale * _hashed_normals(prefixes, vocabulary, key)
        )

    def log_probabilities_after(self, prefixes):
        """Rows (N, V) of log-probabilities after prefixes (N, t), integers, t < T."""
        return log_softmax(self.logits_after(token_prefixes(prefixes, self)))


def _key(seed):
    """64 bits from a seed.  Seeds as they come would not do: 1 and 2 would share whole subtrees, for 1 ^ 1 = 2 ^ 2."""
    return np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]


def _hashed_normals(prefixes, vocabulary, key):
    """Standard normals (N, V), a function of each row of ``prefixes`` alone: Box and Muller on hashed bits."""
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


def independent_variance(student, teacher, gamma, signal="sampled", causal=True, shared=False):
    """Total variance of ``reward_to_go`` when positions are independent and each has one row of logits.

    ``student`` and ``teacher`` are probabilities (T, V), any T; the gradient is (T, V).
    causal=False gives ``full_return``, which has no discount: gamma must then be 1.
    shared=True adds all rows of the gradient up, as if one row of logits moved every
    position (V,): that changes only the sampled full return, as no causal weight, and no
    KL, knows an earlier token.  Exact: the cost of the other positions is independent of
    a_t, so its mean and variance are all that counts.  eq-variance-exponents.
    """
    gamma, _ = _validate.fraction("gamma", gamma), _validate.choice("signal", signal, SIGNALS)
    if not causal and gamma != 1:
        raise ValueError(
            f"gamma is {gamma!r} with causal=False; the full return has no discount: give gamma = 1"
        )
    p, q = _validate.pair(student, teacher)
    if p.ndim != 2:
        raise ValueError(f"student has shape {p.shape}; give one row a position, shape (T, V)")
    if (barred := (q == 0) & (p > 0)).any():
        t, token = (int(i) for i in np.argwhere(barred)[0])
        raise ValueError(
            f"teacher holds 0.0 at row ({t},), token {token}, where student holds {float(p[t, token])!r}: the KL is infinite and has no gradient; give it a probability above 0"
        )
    cost = np.where(p > 0, log_ratio(p, q), 0.0)
    kl = kl_terms(p, q).sum(axis=1)
    spread = (
        (p * (cost - kl[:, None]) ** 2).sum(axis=1) if signal == "sampled" else np.zeros(len(p))
    )
    mean_of_others, variance_of_others = (
        _others(x, power, causal) for x, power in ((kl, gamma), (spread, gamma**2))
    )
    own = np.zeros_like(cost) if signal == "full_vocabulary" else cost
    weight = own + mean_of_others[:, None]
    score = np.eye(p.shape[1]) - p[:, None, :]
    mean = centred(p, own)
    between = (p[..., None] * (weight[..., None] * score - mean[:, None, :]) ** 2).sum()
    within = (p * score_length(p)).sum(axis=1) @ variance_of_others
    # t and u, not t = u: E[2 r_t r_u score_t.score_u] less the product of the means.
    across = (
        (mean.sum(axis=0) ** 2).sum() - (mean**2).sum()
        if shared and not causal and signal == "sampled"
        else 0.0
    )
    return float(between + within + across)


def _others(costs, gamma, causal):
    """Discounted sum of the costs (T,) after each position, or (not causal) the sum of all but its own."""
    if not causal:
        return costs.sum() - costs
    later = np.zeros_like(costs)
    later[:-1] = gamma * discounted(costs[1:], gamma)
    return later


def growth_exponents(lengths, variances):
    """Slopes of log variance against log T between neighbouring lengths (N,) -> (N - 1,).  eq-variance-exponents."""
    lengths, variances = _validate.rows("lengths", lengths), _validate.rows("variances", variances)
    if lengths.ndim != 1 or lengths.shape != variances.shape or len(lengths) < 2:
        raise ValueError(
            f"lengths has shape {lengths.shape} and variances {variances.shape}; give two or more of each, as many of one as of the other"
        )
    for name, values in (("lengths", lengths), ("variances", variances)):
        if not (np.isfinite(values).all() and (values > 0).all()):
            raise ValueError(f"{name} is {values.tolist()!r}; give finite numbers above 0")
    if not (np.diff(lengths) > 0).all():
        raise ValueError(f"lengths is {lengths.tolist()!r}; give increasing numbers")
    return np.diff(np.log(variances)) / np.diff(np.log(lengths))


def sample_estimate(student, teacher, gamma, signal, samples, seed):
    """KL, total variance and mean gradient of ``reward_to_go`` from drawn sequences, with standard errors.

    ``student`` and ``teacher`` are two TokenTree or LazyTree, or any objects with
    ``vocabulary``, ``length`` and ``log_probabilities_after(prefixes (N, t)) -> (N, V)``.
    Returns a dict: "kl", "kl_standard_error" (mean of sum_t r_t, or of sum_t KL_t for the
    other signals), "variance", "variance_standard_error" (of one row), and for the
    prefixes passed, lists over t: "prefixes" (M_t, t), "gradient" (M_t, V),
    "gradient_standard_error" (M_t, V).
    """
    gamma, samples = (
        _validate.fraction("gamma", gamma),
        _validate.whole("samples", samples, least=2),
    )
    (
        _validate.choice("signal", signal, SIGNALS),
        _check_policy("student", student),
        _check_policy("teacher", teacher),
    )
    check_same_size(student, teacher, ("student", "teacher"))
    drawn = _draw(
        student, teacher, samples, np.random.default_rng(_validate.whole("seed", seed, least=0))
    )
    sampled, kls = drawn["cost"], drawn["kl"]
    others = sampled if signal == "sampled" else kls
    weights = np.zeros_like(sampled) if signal == "full_vocabulary" else sampled.copy()
    weights[:, :-1] += gamma * discounted(others[:, 1:], gamma)
    blocks = [
        w[:, None] * score + (local if signal == "full_vocabulary" else 0.0)
        for w, score, local in zip(weights.T, drawn["score"], drawn["local"])
    ]
    means, errors = zip(*(_block_mean(block, at) for block, at in zip(blocks, drawn["at"])))
    # |row - mean|**2: apart from the mean at the prefixes passed, and the whole mean elsewhere.
    squares = [(mean**2).sum(axis=1) for mean in means]
    distance = sum(square.sum() for square in squares) + sum(
        ((block - mean[at]) ** 2).sum(axis=1) - square[at]
        for block, mean, square, at in zip(blocks, means, squares, drawn["at"])
    )
    return {
        "kl": float(others.sum(axis=1).mean()),
        "kl_standard_error": _standard_error(others.sum(axis=1)),
        "variance": float(distance.sum() / (samples - 1)),
        "variance_standard_error": _standard_error(distance),
        "prefixes": drawn["prefixes"],
        "gradient": list(means),
        "gradient_standard_error": list(errors),
    }


def _draw(student, teacher, samples, generator):
    """N sequences: costs and KLs (N, T); over t, scores and local gradients (N, V), the prefixes passed and which row passes which."""
    prefix, at = np.zeros((samples, 0), np.int64), np.zeros(samples, np.int64)
    found = {"cost": [], "kl": [], "score": [], "local": [], "prefixes": [], "at": []}
    for t in range(student.length):
        log_p, log_q = (
            student.log_probabilities_after(prefix),
            teacher.log_probabilities_after(prefix),
        )
        if (barred := (log_p > -np.inf) & np.isneginf(log_q)).any():
            row, token = np.argwhere(barred)[0]
            raise barred_token(tuple(prefix[row].tolist()), int(token))
        p, support = np.exp(log_p), log_p > -np.inf
        ratio = difference(log_p, log_q, support)
        token = (log_p + generator.gumbel(size=p.shape)).argmax(
            axis=1
        )  # a draw from p, however small its entries
        _, first, at = np.unique(at, return_index=True, return_inverse=True)
        here = (
            ratio[np.arange(samples), token], kl_rows(p, np.exp(log_q), ratio, support),
            np.eye(student.vocabulary)[token] - p, centred(p, ratio), prefix[first], at,
        )  # fmt: skip
        for values, value in zip(found.values(), here):
            values.append(value)
        prefix, at = np.column_stack([prefix, token]), at * student.vocabulary + token
    return found | {"cost": np.stack(found["cost"], axis=1), "kl": np.stack(found["kl"], axis=1)}


def _block_mean(block, at):
    """Mean over all N rows of the block of each prefix, 0 where a row does not pass it, and its standard error."""
    samples, passed = len(block), np.bincount(at)[:, None]
    mean = _sum_at(block, at) / samples
    squares = _sum_at((block - mean[at]) ** 2, at) + (samples - passed) * mean**2
    return mean, np.sqrt(squares / (samples - 1) / samples)


def _sum_at(values, at):
    return np.stack([np.bincount(at, weights=column) for column in values.T], axis=1)


def _standard_error(values):
    return float(values.std(ddof=1) / np.sqrt(len(values)))


def _check_policy(name, policy):
    missing = [
        attribute
        for attribute in ("vocabulary", "length", "log_probabilities_after")
        if not hasattr(policy, attribute)
    ]
    if missing:
        raise ValueError(
            f"{name} is {_validate._quote(policy)}, without {missing[0]}; give a TokenTree, a LazyTree or an object with vocabulary, length and log_probabilities_after"
        )
