"""What a teacher's top K does, and where sampled descent on it ends."""

import functools

import numpy as np

from opd_toy import sequences
from opd_toy.ledger.evidence.sequence import moved
from opd_toy.pages.numbers import length, plain
from opd_toy.sequences import TokenTree

# Four tokens, so that there is room for a top 2 and a tail of two.
STUDENT, TEACHER = (TokenTree.random(4, 2, seed=seed) for seed in (0, 50))
OUTSIDE = {
    "renormalize": "renormalised",
    "drop": "tail dropped",
    "tail": "tail as one token",
}


@functools.cache
def top_k_descent(outside, steps=400, batch=32, rate=0.5, seed=6):
    """The student after sampled descent on the teacher's top 2.

    Each step draws its sequences from the student of that step.
    """
    student, draws = STUDENT, np.random.default_rng(seed)
    for _ in range(steps):
        table = sequences.top_k(student, TEACHER, 2, outside)
        gradient = draws.multinomial(batch, table.probabilities) @ table.dense() / batch
        student = moved(student, -rate * gradient)
    return student


def truncated():
    exact, cells = sequences.on_policy_gkd_gradient(STUDENT, TEACHER), []
    for outside, words in OUTSIDE.items():
        bias = sequences.top_k(STUDENT, TEACHER, 2, outside).bias(exact)
        end = sequences.sequence_kl(top_k_descent(outside), TEACHER)
        cells.append(f"{words} {length(bias)}, {plain(end)}")
    start = plain(sequences.sequence_kl(STUDENT, TEACHER))
    return (
        "two positions, four tokens, K = 2: length of the bias against GKD, and sequence KL, "
        f"{start} before, after 400 sampled steps: {'; '.join(cells)}"
    )
