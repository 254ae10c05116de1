"""What stands beside a verdict: distances from the known divergences, values, and cosines."""

import numpy as np

from opd_toy import objectives
from opd_toy.audit.token.expected import lengths
from opd_toy.audit.token.pairs import ORDINARY
from opd_toy.audit.token.values import Values
from opd_toy.audit.token.weights import NAMED


def compared(expected, still):
    """{"bias", "nearest"} over the ordinary pairs; a gradient of 0 (``still``) is near nothing."""
    rows = expected.tier == ORDINARY
    pairs, gradients = expected.pairs[rows], expected.gradients[rows]
    bases = {
        "forward KL": objectives.forward_kl_logit_gradient(pairs.p, pairs.q),
        "reverse KL": objectives.reverse_kl_logit_gradient(pairs.p, pairs.q),
        "JSD(β = 0.5)": objectives.generalized_jsd_logit_gradient(pairs.p, pairs.q, 0.5),
    }
    others = {candidate.name: candidate.gradient(pairs) for candidate in NAMED}
    nearest = {"name": None, "cosine": None, "norm_ratio": 0.0}
    if not still:
        nearest, other = (
            max(
                (_likeness(name, gradients, base) for name, base in named.items()),
                key=lambda entry: entry["cosine"],
            )
            for named in (bases, others)
        )
        # Divergences that fewer know count where they are much nearer.
        if 1 - other["cosine"] < 0.5 * (1 - nearest["cosine"]):
            nearest = other
    return {
        "bias": {
            name: _distance(gradients, bases[name], still) for name in ("forward KL", "reverse KL")
        },
        "nearest": nearest,
    }


def _distance(gradients, base, still):
    """Relative distance of the gradients from ``base``, as given and at the best scale."""
    unit = 1 / lengths(base)
    squares = unit[:, None] ** 2
    best = float((gradients * base * squares).sum() / (base**2 * squares).sum())

    def apart(scale):
        return float(np.sqrt(np.mean((lengths(gradients - scale * base) * unit) ** 2)))

    return {
        "as_given": apart(1.0),
        "best_scale": None if still else best,
        "at_best_scale": apart(best) / abs(best) if best and not still else None,
    }


def _likeness(name, gradients, base):
    sizes = np.maximum(lengths(gradients), 1e-300) * lengths(base)
    return {
        "name": name,
        "cosine": float(np.mean((gradients * base).sum(axis=1) / sizes)),
        "norm_ratio": float(np.median(lengths(gradients) / lengths(base))),
    }


def values_of(tables, pairs, drawn_from):
    """-> Values of the close and ordinary pairs."""
    chosen = [index for index, table in enumerate(tables) if table.tier <= ORDINARY]
    weighted = [(tables[index].weights(drawn_from), tables[index].values) for index in chosen]
    return Values(
        pairs[chosen],
        np.array([weights @ values for weights, values in weighted]),
        np.array([weights @ np.abs(values) for weights, values in weighted]),
    )
