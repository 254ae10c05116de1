"""Bias against variance: which discount errs least with N sequences (chapter 6)."""

import traitlets

from opd_toy.explorables.host import Explorable
from opd_toy.explorables.trees import notes_trees, random_trees


class BiasAgainstVariance(Explorable):
    """Squared bias, variance and mean-squared error of the discounted gradient, all exact.

    Traits: ``tree`` ("random": logits drawn from ``seed``, a teacher ``distance`` away;
    "notes": the notes' p and q after every prefix, V = 3), ``vocabulary`` V and ``length``
    T of the sequences, ``samples`` N (over how many the gradient is averaged), ``gamma``.
    """

    shown = (
        "Squared bias, variance divided by N and their sum, the mean-squared error, against the "
        "discount γ from 0 to 1, on a log axis, for a random tree of 3 tokens and 6 positions and "
        "N = 64 sequences. The bias falls to 0 at γ = 1 while the variance rises. The error of the "
        "sampled signal is least at γ = .24, that of the exact signal, of far less variance, at "
        "γ = .58."
    )
    tree = traitlets.Enum(("random", "notes"), "random").tag(sync=True)
    vocabulary = traitlets.Int(3, min=2, max=4).tag(sync=True)
    length = traitlets.Int(6, min=2, max=6).tag(sync=True)
    distance = traitlets.Float(1.0, min=0, max=3).tag(sync=True)
    seed = traitlets.Int(2, min=0, max=9999).tag(sync=True)
    samples = traitlets.Int(64, min=1, max=100_000).tag(sync=True)
    gamma = traitlets.Float(0.5, min=0, max=1).tag(sync=True)

    def trees(self):
        """(student, teacher), the ``opd_toy.sequences.TokenTree`` pair that the page shows."""
        if self.tree == "notes":
            return notes_trees(self.length)
        return random_trees(self.vocabulary, self.length, self.seed, self.distance)
