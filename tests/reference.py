"""Independent evaluation at 50 digits: the textbook sums, normalised exactly, nothing clever.

Nothing here is shared with the engine.  Gradients are central differences of the
textbook value in the logits, with a step that leaves some 30 correct digits.
"""

import itertools

import mpmath as mp
import numpy as np

mp.mp.dps = 50


def normalised(row):
    row = [mp.mpf(float(x)) if isinstance(x, (float, int, np.floating)) else x for x in row]
    total = mp.fsum(row)
    return [x / total for x in row]


def softmax(logits):
    weights = [mp.exp(z) for z in logits]
    total = mp.fsum(weights)
    return [w / total for w in weights]


def kl(p, q):
    if any(a > 0 and b == 0 for a, b in zip(p, q)):
        return mp.inf
    return mp.fsum(a * mp.log(a / b) for a, b in zip(p, q) if a > 0)


def mix(p, q, weight):
    weight = mp.mpf(weight)
    return [(1 - weight) * a + weight * b for a, b in zip(p, q)]


def generalized_jsd(p, q, beta):
    if beta in (0, 1):
        return kl(p, q) if beta else kl(q, p)
    middle = mix(p, q, beta)
    return mp.mpf(beta) * kl(q, middle) + (1 - mp.mpf(beta)) * kl(p, middle)


def alpha_divergence(p, q, alpha):
    if alpha in (0, 1):
        return kl(p, q) if alpha else kl(q, p)
    alpha = mp.mpf(alpha)
    total = mp.mpf(0)
    for a, b in zip(p, q):
        if a > 0 and b > 0:
            total += a**alpha * b ** (1 - alpha)
        elif (a > 0 and alpha > 1) or (b > 0 and alpha < 0):
            return mp.inf
    return (total - 1) / (alpha * (alpha - 1))


def top_k(p, q, k, outside):
    head = sorted(sorted(range(len(q)), key=lambda v: (-q[v], v))[:k])
    rest = [v for v in range(len(q)) if v not in head]
    a, b = [p[v] for v in head], [q[v] for v in head]
    if outside == "renormalize":
        return kl(normalised(a), normalised(b))
    if outside == "tail":
        a, b = a + [mp.fsum(p[v] for v in rest)], b + [mp.fsum(q[v] for v in rest)]
    return kl(a, b)


# name -> (value at 50 digits, list of keyword arguments to try)
OBJECTIVES = {
    "forward_kl": (lambda p, q: kl(q, p), [{}]),
    "reverse_kl": (kl, [{}]),
    "generalized_jsd": (
        lambda p, q, beta: generalized_jsd(p, q, beta),
        [{"beta": b} for b in (0, 1e-9, 0.1, 0.5, 0.9, 1 - 1e-9, 1)],
    ),
    "alpha_divergence": (
        lambda p, q, alpha: alpha_divergence(p, q, alpha),
        [
            {"alpha": a}
            for a in (-1.5, -1e-9, 0, 1e-9, 0.3, 0.5, 0.7, 1 - 1e-9, 1, 1 + 1e-9, 2, 3.5)
        ],
    ),
    "skewed_forward_kl": (
        lambda p, q, skew: kl(q, mix(p, q, skew)),
        [{"skew": s} for s in (0, 1e-9, 0.1, 0.6, 1 - 1e-9, 1)],
    ),
    "skewed_reverse_kl": (
        lambda p, q, skew: kl(p, mix(q, p, skew)),
        [{"skew": s} for s in (0, 1e-9, 0.1, 0.6, 1 - 1e-9, 1)],
    ),
    "top_k_reverse_kl": (
        top_k,
        [{"k": k, "outside": o} for k in (1, 2, 3) for o in ("renormalize", "drop", "tail")],
    ),
}

CASES = [(name, arguments) for name, (_, many) in OBJECTIVES.items() for arguments in many]


def value(name, p, q, arguments):
    return OBJECTIVES[name][0](p, q, **arguments)


def logit_gradient(name, logits, q, arguments):
    """Central differences in each logit at 50 digits."""
    step = mp.mpf(10) ** -14
    gradient = []
    for j in range(len(logits)):
        up, down = list(logits), list(logits)
        up[j] += step
        down[j] -= step
        gradient.append(
            (value(name, softmax(up), q, arguments) - value(name, softmax(down), q, arguments))
            / (2 * step)
        )
    return gradient


def stale_moments(p, q, mu, factor, kept=False, baseline=0):
    """Mean (V,) and total variance of factor(w, C) C (e_k - p), k ~ mu, at 50 digits.

    w = p_k/mu_k; C = log p_k - log q_k less the baseline, or log mu_k - log q_k where ``kept``.
    """
    p, q, mu = normalised(p), normalised(q), normalised(mu)
    size, rows = range(len(p)), []
    for k in size:
        cost = mp.log((mu if kept else p)[k] / q[k]) - baseline
        weight = factor(p[k] / mu[k], cost) * cost
        rows.append([weight * ((j == k) - p[j]) for j in size])
    mean = [mp.fsum(mu[k] * rows[k][j] for k in size) for j in size]
    apart = [mp.fsum((rows[k][j] - mean[j]) ** 2 for j in size) for k in size]
    return mean, mp.fsum(mu[k] * apart[k] for k in size)


def stale_tree_moments(student, teacher, behaviour, gamma, ratios, full_vocabulary):
    """Mean (P,) and total variance of reward-to-go on texts of a behaviour, at 50 digits.

    Policies are lists over t of lists of logits, one a prefix in base-V order.  Walks through
    every sequence and writes down the gradient of each token as its definition says.
    """
    p, q, mu = (
        [[softmax(row) for row in rows] for rows in z] for z in (student, teacher, behaviour)
    )
    size, length = len(p[0][0]), len(p)
    starts = [sum(size ** (u + 1) for u in range(t)) for t in range(length)]
    draws = []
    for sequence in itertools.product(range(size), repeat=length):
        at = [
            sum(a * size ** (t - 1 - i) for i, a in enumerate(sequence[:t])) for t in range(length)
        ]
        own = [(p[t][at[t]], q[t][at[t]], mu[t][at[t]], sequence[t]) for t in range(length)]
        w = [a[k] / c[k] for a, _, c, k in own]
        row = [mp.mpf(0)] * sum(size ** (t + 1) for t in range(length))
        for t in range(length):
            so_far = {
                "none": mp.mpf(1),
                "token": w[t],
                "prefix": mp.fprod(w[:t]),
                "both": mp.fprod(w[: t + 1]),
            }
            weight = mp.mpf(0)
            for u in range(t, length):
                a, b, _, k = own[u]
                cost = kl(a, b) if full_vocabulary else mp.log(a[k] / b[k])
                if full_vocabulary and u == t:
                    continue  # its gradient is exact, below
                upto = u if full_vocabulary else u + 1
                factor = mp.fprod(w[:upto]) if ratios == "each" else so_far[ratios]
                weight += mp.mpf(gamma) ** (u - t) * factor * cost
            a, b, _, k = own[t]
            local = mp.fprod(w[:t]) if ratios in ("prefix", "both", "each") else 1
            for j in range(size):
                entry = weight * ((j == k) - a[j])
                if full_vocabulary:
                    entry += local * a[j] * (mp.log(a[j] / b[j]) - kl(a, b))
                row[starts[t] + at[t] * size + j] += entry
        draws.append((mp.fprod(c[k] for _, _, c, k in own), row))
    columns = range(len(draws[0][1]))
    mean = [mp.fsum(chance * row[j] for chance, row in draws) for j in columns]
    return mean, mp.fsum(
        chance * mp.fsum((row[j] - mean[j]) ** 2 for j in columns) for chance, row in draws
    )


def random_pair(vocabulary, seed, spread=2.0):
    """Two float64 rows of probabilities that owe nothing to the engine."""
    draw = np.random.default_rng(seed)
    rows = np.exp(spread * draw.standard_normal((2, vocabulary)))
    return rows / rows.sum(axis=1, keepdims=True)


def close(actual, expected, tolerance=1e-12):
    """Equal to ``tolerance`` relative to the largest entry expected."""
    expected = np.array([float(x) for x in np.atleast_1d(expected)])
    actual = np.atleast_1d(actual)
    assert actual.shape == expected.shape
    scale = np.abs(expected).max()
    error = np.abs(actual - expected).max()
    assert error <= tolerance * scale, (
        f"off by {error / scale:.2e} relative: {actual} against {expected}"
    )
