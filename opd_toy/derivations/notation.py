"""The symbols of the book.

p is the student, q the teacher, z the student's logits; p = softmax(z) and q does not
depend on z; ``old``, printed as a Greek mu, is the behaviour that wrote the text, and does not
either.  Indices run over the vocabulary 1..V.  ``p2``, ``q2``, ``z2`` carry a prefix
as their first index: p2[a, b] is the probability of b after a (b is printed a′).

Build expressions under ``with sympy.evaluate(False):`` so that they are kept, and
printed, the way they were written.
"""

import sympy as sp
from sympy import IndexedBase, KroneckerDelta, Sum, Symbol

V = Symbol("V", integer=True, positive=True)
T = Symbol("T", integer=True, positive=True)  # the length of a sequence
dimension = Symbol("P", integer=True, positive=True)  # the number of parameters
theta = Symbol("theta", real=True)
a, b, i, j, k, n, t, u, v, y = sp.symbols(
    "a a' i j k n t u v y", integer=True, positive=True
)  # a and b, printed a': a sequence of two positions

p, q, p2, q2 = (IndexedBase(name, positive=True) for name in ("p", "q", "p2", "q2"))
z, z2 = (IndexedBase(name, real=True) for name in ("z", "z2"))
STUDENTS = {p: z, p2: z2}
old, old2 = (IndexedBase(name, positive=True) for name in ("old", "old2"))
TEACHERS = (q, q2, old, old2)  # distributions that do not depend on z

beta, skew, alpha, weight, baseline, x = sp.symbols("beta epsilon alpha w b x", real=True)
sharpness, mu, gamma = sp.symbols("kappa mu gamma", positive=True)  # the discount γ lies below 1
outcome = Symbol("R_tau", real=True)  # the reward of a whole sequence
PARAMETERS = (beta, skew, alpha, weight, baseline, x, sharpness, mu, gamma, outcome)

R, R2 = (
    IndexedBase("R", real=True),
    IndexedBase("R2", real=True),
)  # any reward that does not depend on z
C, C2 = (
    IndexedBase("C", real=True),
    IndexedBase("C2", real=True),
)  # sampled costs, log p_k - log q_k
score_norm = IndexedBase("ell", positive=True)  # the squared length of a token's score
g = IndexedBase("g", real=True)  # the reverse-KL logit gradient
tilted = IndexedBase("tilted", positive=True)  # the teacher, re-weighted by a reward
sharp = IndexedBase("sharp", positive=True)  # a teacher given by its margins
c = IndexedBase("c", real=True)  # a price for each token
margin = IndexedBase("Delta", real=True)  # log q_n - log q_v: 0 at n, positive elsewhere
jsd_mixture, forward_mixture, reverse_mixture = (
    IndexedBase(f"m_{kind}", positive=True) for kind in ("jsd", "forward", "reverse")
)

# A sequence of any length T, drawn token by token.  At position t: the sampled cost r, the
# log-ratio of the token drawn; its score s, the gradient of the token's log-probability; and
# over all tokens that could be drawn after the same prefix, KL (the mean of r) and its
# gradient (the mean of r·s).
cost, score_at, local_kl, local_gradient = (
    IndexedBase(name, real=True) for name in ("r", "s", "kl", "dkl")
)
DRAWN = (cost, score_at, local_kl, local_gradient)
cost_bound, score_bound = sp.symbols("B_r B_s", positive=True)

DEFINITIONS = {
    C: lambda k: sp.log(p[k]) - sp.log(q[k]),
    jsd_mixture: lambda v: (1 - beta) * p[v] + beta * q[v],
    forward_mixture: lambda v: skew * q[v] + (1 - skew) * p[v],
    reverse_mixture: lambda v: skew * p[v] + (1 - skew) * q[v],
    C2: lambda a, b: sp.log(p2[a, b]) - sp.log(q2[a, b]),
    score_norm: lambda k: total((delta(k, j) - p[j]) ** 2, j),
    g: lambda j: p[j] * (sp.log(p[j] / q[j]) - KL(p, q)),
    tilted: lambda v: q[v] * sp.exp(weight * R[v]) / total(q[u] * sp.exp(weight * R[u]), u),
    sharp: lambda v: sp.exp(-margin[v]) / total(sp.exp(-margin[u]), u),
}


def total(body, index=v):
    """Σ over the vocabulary."""
    return Sum(body, (index, 1, V))


def delta(first, second):
    return KroneckerDelta(first, second)


class Node(sp.Expr):
    """A symbol of the book that sympy does not have; it never evaluates by itself."""

    is_commutative = True

    def __new__(cls, *args):
        return super().__new__(cls, *map(sp.sympify, args))


class Partial(Node):
    """∂(expression)/∂(variable)."""


class Gradient(Node):
    """∇ with respect to a parameter θ on which the logits depend in any smooth way."""


class Limit(Node):
    """Limit(expression, variable, point)."""


class StopGradient(Node):
    """sg[expression]: a number, as far as derivatives go."""

    def _eval_derivative(self, _):
        return sp.S.Zero


class Defined(Node):
    """A symbol that stands for an expression; ``fresh`` makes an unused index."""

    def definition(self, fresh):
        raise NotImplementedError


class KL(Defined):
    """KL(first, second) = Σ first log(first/second); a third argument is the prefix."""

    def definition(self, fresh):
        first, second, *prefix = self.args
        index = fresh("v")
        at = (*prefix, index)
        return Sum(first[at] * sp.log(first[at] / second[at]), (index, 1, V))


class Entropy(Defined):
    def definition(self, fresh):
        index = fresh("v")
        return -Sum(self.args[0][index] * sp.log(self.args[0][index]), (index, 1, V))


class Expectation(Defined):
    """Expectation(body, index, distribution[, prefix]): the mean over index ~ distribution."""

    def definition(self, fresh):
        body, index, distribution, *prefix = self.args
        new = fresh("k")
        return Sum(distribution[(*prefix, new)] * body.xreplace({index: new}), (new, 1, V))


class JensenShannon(Defined):
    def definition(self, fresh):
        return beta * KL(q, jsd_mixture) + (1 - beta) * KL(p, jsd_mixture)


class AlphaDivergence(Defined):
    def definition(self, fresh):
        index = fresh("v")
        powers = Sum(p[index] ** alpha * q[index] ** (1 - alpha), (index, 1, V))
        return (powers - 1) / (alpha * (alpha - 1))


class GaussianMean(Defined):
    """The mean of an expression over x ~ N(0, 1)."""

    def definition(self, fresh):
        density = sp.exp(-(x**2) / 2) / sp.sqrt(2 * sp.pi)
        return sp.Integral(self.args[0] * density, (x, -sp.oo, sp.oo))


class GaussianLogRatio(Defined):
    """r, the log-ratio of the densities of N(0, 1) and N(μ, 1) at x."""

    def definition(self, fresh):
        return (x - mu) ** 2 / 2 - x**2 / 2


class SequenceMean(Node):
    """The mean over the student's sequences of T tokens."""


class InnerProduct(Defined):
    """⟨first, second⟩, a sum over the parameters; a vector is written with s[t] or dkl[t]."""

    def definition(self, fresh):
        index = fresh("j")
        first, second = (_coordinate(side, index, fresh) for side in self.args)
        return Sum(first * second, (index, 1, dimension))


class SquaredLength(InnerProduct):
    """‖vector‖²."""

    def definition(self, fresh):
        return InnerProduct(self.args[0], self.args[0]).definition(fresh)


class Variance(Defined):
    """The total variance of a vector over the student's sequences."""

    def definition(self, fresh):
        (vector,) = self.args
        return SequenceMean(SquaredLength(vector - SequenceMean(vector)))


def _coordinate(e, index, fresh):
    """A vector's coordinate; a length inside the vector is a number, not a vector."""
    if isinstance(e, Defined):
        return _coordinate(e.definition(fresh), index, fresh)
    if isinstance(e, sp.Indexed):
        return (
            e.base[e.indices[0], index]
            if e.base in (score_at, local_gradient) and len(e.indices) == 1
            else e
        )
    return e.func(*(_coordinate(arg, index, fresh) for arg in e.args)) if e.args else e


def of_sequences(e):
    """Whether an expression is about a sequence of any length T."""
    return e.has(T, SequenceMean) or any(one.base in DRAWN for one in e.atoms(sp.Indexed))


def over_positions(body, index=t, low=1, high=T):
    """Σ over positions of a sequence."""
    return Sum(body, (index, low, high))
