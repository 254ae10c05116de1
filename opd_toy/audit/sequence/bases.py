"""Exact gradients over token trees, out of which an expected gradient is put together.

A basis is a dict ``{(t, u): block (V**t, V)}``: the gradient in the logits of the
prefixes of length t that the cost at position u stands for.  For the costs c_u that a
kind names, under the student p,

    (t, t)          E over the prefixes passed of the local gradient of c at position t,
    (t, u), u > t   E[c_u grad log p(a_t|s_t)], what the choice of a_t does to later costs.

Costs before t give nothing: E[c_u grad log p(a_t|s_t)] = 0 for u < t.  eq-past-terms-vanish.
"""

import numpy as np

from opd_toy import objectives
from opd_toy.sequences.trees import along_sequences, centred

REVERSE, FORWARD, ENTROPY = "reverse KL", "forward KL", "negative entropy"
REWARD, SEQUENCE_FORWARD = "expected reward", "sequence forward KL"
TEACHER_REVERSE = "reverse KL at the teacher's prefixes"
TEACHER_ENTROPY = "negative entropy at the teacher's prefixes"


def negative_entropy(student, teacher):
    """sum p log p (...,)."""
    return (student * np.log(student)).sum(axis=-1)


def negative_entropy_logit_gradient(student, teacher):
    """p_j (log p_j - sum p log p) (..., V)."""
    return centred(student, np.log(student))


LOCAL = {
    REVERSE: (objectives.reverse_kl, objectives.reverse_kl_logit_gradient),
    FORWARD: (objectives.forward_kl, objectives.forward_kl_logit_gradient),
    ENTROPY: (negative_entropy, negative_entropy_logit_gradient),
}


def bases_of(student, teacher, rewards=None):
    """{kind: basis} of the costs that need no fitting, and of rewards (S,) if given."""
    bases = {kind: credit(student, teacher, *functions) for kind, functions in LOCAL.items()}
    for kind, of in (
        (SEQUENCE_FORWARD, FORWARD),
        (TEACHER_REVERSE, REVERSE),
        (TEACHER_ENTROPY, ENTROPY),
    ):
        bases[kind] = at_teacher_prefixes(student, teacher, LOCAL[of][1])
    if rewards is not None:
        bases[REWARD] = {(t, t): score_times(student, t, rewards) for t in range(student.length)}
    return bases


def credit(student, teacher, value, gradient):
    """The basis of a cost ``value(p, q)`` at every prefix, with logit gradient ``gradient``."""
    rows = list(zip(student.probabilities, teacher.probabilities))
    costs = along_sequences(student, [value(p, q) for p, q in rows])
    blocks = local(student.prefix_probabilities(), rows, gradient)
    for u in range(1, student.length):
        blocks |= {(t, u): score_times(student, t, costs[:, u]) for t in range(u)}
    return blocks


def local(visits, rows, gradient):
    """Local gradients at the prefixes passed with probability ``visits``; no future."""
    return {
        (t, t): visit[:, None] * gradient(p, q)
        for t, (visit, (p, q)) in enumerate(zip(visits, rows))
    }


def at_teacher_prefixes(student, teacher, gradient):
    """Local gradients at the prefixes that the teacher passes.

    Of the forward KL they are the sequence forward KL's.
    """
    rows = list(zip(student.probabilities, teacher.probabilities))
    return local(teacher.prefix_probabilities(), rows, gradient)


def score_times(student, t, values):
    """E[values grad log p(a_t|s_t)] (V**t, V) of values (S,)."""
    p = student.probabilities[t]
    weighted = (student.sequence_probabilities() * values).reshape(*p.shape, -1).sum(axis=2)
    return weighted - p * weighted.sum(axis=1, keepdims=True)


def fit(samples, bases):
    """Least squares of expected gradients on bases, each position apart, for all samples at once.

    ``samples`` is a list of (blocks [(V**t, V)], size), the equations of each divided by
    its size; ``bases`` a list, one a sample, of {kind: basis}.  Returns
    {kind: {(t, u): coefficient}}, the same of their standard errors, read off what is left
    over, and the worst condition number of a position's equations, columns scaled to length 1.
    """
    coefficients, errors = ({kind: {} for kind in bases[0]} for _ in range(2))
    worst = 1.0
    for t in range(len(samples[0][0])):
        keys = [(kind, key) for kind, basis in bases[0].items() for key in basis if key[0] == t]
        if not keys:
            continue
        design = _stacked(
            [
                [basis[kind][key] / size for kind, key in keys]
                for basis, (_, size) in zip(bases, samples)
            ]
        )
        target = _stacked([[blocks[t] / size] for blocks, size in samples])[:, 0]
        # A row of V entries sums to 0: V - 1 of them are free.
        free = sum(block[t].shape[0] * (block[t].shape[1] - 1) for block, _ in samples) - len(keys)
        solution, deviations, condition = _solve(design, target, free)
        worst = max(worst, condition)
        for (kind, key), coefficient, error in zip(keys, solution, deviations):
            coefficients[kind][key], errors[kind][key] = float(coefficient), float(error)
    return coefficients, errors, worst


def _stacked(rows):
    """Blocks [[of each column] of each sample] -> (equations, columns)."""
    return np.concatenate([np.stack([b.ravel() for b in blocks], axis=1) for blocks in rows])


def _solve(design, target, free):
    """(solution, standard errors, condition number); ``free``: degrees of freedom."""
    lengths = np.linalg.norm(design, axis=0)
    left, singular, right = np.linalg.svd(design / lengths, full_matrices=False)
    condition = float(singular[0] / singular[-1]) if singular[-1] > 0 else np.inf
    inverse = right.T / np.maximum(singular, 1e-12 * singular[0])
    solution = inverse @ (left.T @ target)
    sigma = np.linalg.norm(target - design / lengths @ solution) / np.sqrt(max(1, free))
    return solution / lengths, sigma * np.linalg.norm(inverse, axis=1) / lengths, condition


def combine(coefficients, bases, length):
    """sum of coefficient times block: a list of (V**t, V), 0 where no basis reaches."""
    blocks = [0.0] * length
    for kind, weights in coefficients.items():
        for key, weight in weights.items():
            blocks[key[0]] = blocks[key[0]] + weight * bases[kind][key]
    return blocks
