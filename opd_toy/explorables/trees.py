"""The token trees of the explorables of chapter 6, made in Python as the page makes them.

``tree_mathematics.js`` draws the same numbers from the same seed, so that all that a
reader sees in the page can be computed again with ``opd_toy.sequences``.
"""

import numpy as np

from opd_toy.example import STUDENT, TEACHER
from opd_toy.sequences import TokenTree


def uniforms(seed, count):
    """The first ``count`` numbers in [0, 1) of the generator mulberry32 with this seed."""
    wrap = np.uint64(2**32 - 1)
    x = (np.uint64(seed) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x6D2B79F5)) & wrap
    y = ((x ^ (x >> np.uint64(15))) * (x | np.uint64(1))) & wrap
    y ^= (y + (((y ^ (y >> np.uint64(7))) * (y | np.uint64(61))) & wrap)) & wrap
    return ((y ^ (y >> np.uint64(14))) & wrap) / 2.0**32


def normals(seed, count):
    """``count`` standard normal numbers: Box and Muller's pairs from ``uniforms``."""
    first, second = uniforms(seed, count + count % 2).reshape(-1, 2).T
    radius, angle = np.sqrt(-2 * np.log1p(-first)), 2 * np.pi * second
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(-1)[:count]


def random_trees(vocabulary, length, seed, distance):
    """(student, teacher): normal logits, and the same plus ``distance`` times others.

    The numbers go level by level, the student's before the teacher's, so that a longer
    tree begins like the shorter one.
    """
    sizes = [vocabulary ** (t + 1) for t in range(length)]
    pieces = np.split(normals(seed, 2 * sum(sizes)), np.cumsum(np.repeat(sizes, 2))[:-1])
    student, moves = ([piece.reshape(-1, vocabulary) for piece in pieces[i::2]] for i in (0, 1))
    return TokenTree(student), TokenTree([z + distance * d for z, d in zip(student, moves)])


def notes_trees(length):
    """(student, teacher): the notes' p and q after every prefix."""
    return TokenTree.repeat(STUDENT, length), TokenTree.repeat(TEACHER, length)
