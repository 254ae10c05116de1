"""Whole trees of sequences in numbers: what stands at each position of every sequence."""

import itertools
from dataclasses import dataclass, field, replace
from functools import cached_property

import mpmath
from mpmath import mpf

from opd_toy.derivations.notation import (
    DRAWN,
    cost,
    cost_bound,
    local_gradient,
    local_kl,
    score_at,
    score_bound,
)

DIMENSION = 2  # parameters of the student of random sequences


@dataclass(frozen=True)
class Tree:
    """Every prefix of less than ``length`` tokens, as a tuple of tokens counted from 0.

    ``logits`` and ``teacher`` (probabilities) map a prefix to V numbers; ``slopes`` maps it
    to dz/dθ, a row of V numbers for each parameter.
    """

    length: int
    logits: dict
    teacher: dict
    slopes: dict
    means: dict = field(default_factory=dict, compare=False)  # those already taken

    @property
    def dimension(self):
        return len(self.slopes[()])

    @cached_property
    def sequences(self):
        """(chance, what it has at each position) for every sequence."""
        nodes = {prefix: _node(self, prefix) for prefix in self.logits}
        return [
            _sequence(nodes, tokens)
            for tokens in itertools.product(range(len(self.logits[()])), repeat=self.length)
        ]

    def moved(self, step):
        """The tree after a step of the first parameter, which a ∇ without a coordinate is of."""
        logits = {
            prefix: [value + step * slope for value, slope in zip(row, self.slopes[prefix][0])]
            for prefix, row in self.logits.items()
        }
        return replace(self, logits=logits, means={})


def _node(tree, prefix):
    """Chances, costs, and scores by parameter of the tokens after a prefix."""
    weights = [mpmath.exp(value) for value in tree.logits[prefix]]
    chances = [w / mpmath.fsum(weights) for w in weights]
    costs = [mpmath.log(chance / other) for chance, other in zip(chances, tree.teacher[prefix])]
    scores = [[value - _mean(chances, row) for value in row] for row in tree.slopes[prefix]]
    return chances, costs, scores


def _mean(chances, values):
    return mpmath.fsum(chance * value for chance, value in zip(chances, values))


def _sequence(nodes, tokens):
    """The chance of a sequence, and what it has at each position, counted from 1.

    A vector's coordinate is the second index; without it the first coordinate is meant.
    """
    chance, drawn = mpf(1), {base: {} for base in DRAWN}
    for place, token in enumerate(tokens, 1):
        chances, costs, scores = nodes[tokens[: place - 1]]
        chance *= chances[token]
        drawn[cost][(place,)] = costs[token]
        drawn[local_kl][(place,)] = _mean(chances, costs)
        for coordinate, row in enumerate(scores, 1):
            gradient = _mean(chances, [one * score for one, score in zip(costs, row)])
            keys = ((place, coordinate), (place,)) if coordinate == 1 else ((place, coordinate),)
            drawn[score_at].update(dict.fromkeys(keys, row[token]))
            drawn[local_gradient].update(dict.fromkeys(keys, gradient))
    return chance, drawn


def random_tree(length, generator):
    prefixes = [
        prefix for size in range(length) for prefix in itertools.product((0, 1), repeat=size)
    ]
    pair = lambda: [mpf(generator.uniform(-2, 2)) for _ in range(2)]
    chances = {prefix: mpf(generator.uniform(0.1, 0.9)) for prefix in prefixes}
    slopes = {prefix: [pair() for _ in range(DIMENSION)] for prefix in prefixes}
    return Tree(
        length,
        {prefix: pair() for prefix in prefixes},
        {prefix: [w, 1 - w] for prefix, w in chances.items()},
        slopes,
    )


def tight_bounds(tree):
    """The largest cost and the longest score of any token of the tree: the least bounds."""
    nodes = [_node(tree, prefix) for prefix in tree.logits]
    costs = max(abs(one) for _, both, _ in nodes for one in both)
    scores = max(
        mpmath.sqrt(mpmath.fsum(value**2 for value in token))
        for _, _, rows in nodes
        for token in zip(*rows)
    )
    return {cost_bound: costs, score_bound: scores}
