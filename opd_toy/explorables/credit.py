"""Credit: who answers for the future of a drawn sequence (chapter 6)."""

import traitlets

from opd_toy.explorables.host import Explorable, Subset
from opd_toy.explorables.trees import notes_trees, random_trees
from opd_toy.sequences import TokenTree

VOCABULARY, LENGTH = 3, 5
SCHEMES = (
    "immediate",
    "discounted",
    "reward_to_go",
    "full_return",
    "gae",
    "outcome",
    "broadcast",
    "fipo",
)


class Credit(Explorable):
    """One sequence of 5 tokens and the weight that each scheme puts on every token of it.

    Traits: ``tree`` ("random", drawn from ``seed``; "notes": the notes' p and q after
    every prefix), ``sequence`` (0…242, which of the 3**5 sequences, in base-3 order),
    ``draws`` (how many have been drawn), ``scheme`` and ``position`` (1…5: what the
    sentence explains), ``gamma``, ``lam`` of GAE, ``step`` (how far the student has moved
    since the draw; only FIPO asks).  ``schemes``: which of them have a row, chosen when the
    widget is made.
    """

    shown = (
        "A sequence of five tokens drawn by the student, with the probabilities of student and "
        "teacher at each step, and under every token its weight as a bar for eight schemes: "
        "own cost, discounted, reward-to-go, full return, GAE, outcome, outcome summed, FIPO. "
        "In the first a token answers for its own cost alone; the further down, the more of what "
        "happens later, or of one outcome, it answers for."
    )
    schemes = Subset(SCHEMES, list(SCHEMES)).tag(sync=True, data=True)
    tree = traitlets.Enum(("random", "notes"), "random").tag(sync=True)
    seed = traitlets.Int(248, min=0, max=9999).tag(sync=True)
    sequence = traitlets.Int(167, min=0, max=VOCABULARY**LENGTH - 1).tag(sync=True)
    draws = traitlets.Int(0, min=0, max=9999).tag(sync=True)
    scheme = traitlets.Enum(SCHEMES, "discounted").tag(sync=True)
    position = traitlets.Int(2, min=1, max=LENGTH).tag(sync=True)
    gamma = traitlets.Float(0.9, min=0, max=1).tag(sync=True)
    lam = traitlets.Float(0.8, min=0, max=1).tag(sync=True)
    step = traitlets.Float(1.0, min=0, max=4).tag(sync=True)

    def trees(self):
        """(student, teacher), the ``opd_toy.sequences.TokenTree`` pair that the page shows."""
        if self.tree == "notes":
            return notes_trees(LENGTH)
        return random_trees(VOCABULARY, LENGTH, self.seed, 1.0)

    def reward(self):
        """R of every sequence (243,): 1 where the vocabulary's first token comes twice or more."""
        return ((self.trees()[0].tokens() == 0).sum(axis=1) >= 2).astype(float)

    def moved(self):
        """The student after one step of ascent on E[R] at every prefix, for FIPO: a TokenTree."""
        student, ahead = self.trees()[0], self.reward()
        logits = []
        for p, log_p in zip(student.probabilities[::-1], student.log_probabilities[::-1]):
            value = (p * ahead.reshape(p.shape)).sum(axis=1)
            logits.append(log_p + self.step * p * (ahead.reshape(p.shape) - value[:, None]))
            ahead = value
        return TokenTree(logits[::-1])
