"""Policies over sequences, the KL between two of them and its exact gradient.

A ``TokenTree`` holds one row of logits for each prefix of a sequence of T tokens:
``logits[t]`` is (V**t, V), prefixes in base-V order with the first token most
significant.  The S = V**T sequences stand in the same order.  A gradient is (P,): in
all these logits, t = 0, 1, ..., row by row.  t counts from 0 here, from 1 in prose.

``opd_toy.sequences`` has these names and the estimators; import from there.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from opd_toy import _validate
from opd_toy.distributions import log_softmax, quotient, softmax

SIGNALS = ("sampled", "full_vocabulary", "full_vocabulary_future")
LARGEST_TREE = 10**8  # sequences


@dataclass(frozen=True, eq=False)
class TokenTree:
    """A policy over sequences of T tokens: logits[t] (V**t, V), -inf for a masked token."""

    logits: tuple

    def __post_init__(self):
        object.__setattr__(self, "logits", _validate.tree_logits(self.logits))

    @classmethod
    def random(cls, vocabulary, length, seed, scale=1.0):
        """Logits drawn from N(0, scale**2)."""
        vocabulary, length = _enumerable(vocabulary, length)
        draw = np.random.default_rng(_validate.whole("seed", seed, least=0))
        scale = _validate.number("scale", scale)
        return cls(
            tuple(scale * draw.standard_normal((vocabulary**t, vocabulary)) for t in range(length))
        )

    @classmethod
    def repeat(cls, probabilities, length=None):
        """The same row at every prefix of a position: from (V,) and a length, or from (T, V)."""
        p = _validate.probabilities("probabilities", probabilities)
        if p.ndim == 1:
            p = np.tile(p, (_validate.whole("length", length), 1))
        if p.ndim != 2 or length not in (None, len(p)):
            raise ValueError(
                f"probabilities has shape {p.shape} and length is {length!r}; "
                "give (V,) and a length, or one row a position, shape (T, V)"
            )
        vocabulary, _ = _enumerable(p.shape[1], len(p))
        with np.errstate(divide="ignore"):
            return cls(tuple(np.tile(np.log(row), (vocabulary**t, 1)) for t, row in enumerate(p)))

    @property
    def vocabulary(self):
        """V, the number of tokens."""
        return self.logits[0].shape[1]

    @property
    def length(self):
        """T, the number of positions."""
        return len(self.logits)

    @property
    def parameters(self):
        """P, the number of logits."""
        return sum(z.size for z in self.logits)

    @cached_property
    def probabilities(self):
        """One row a prefix: a tuple of (V**t, V)."""
        return tuple(softmax(z) for z in self.logits)

    @cached_property
    def log_probabilities(self):
        """Their logarithms, -inf where one is 0."""
        return tuple(log_softmax(z) for z in self.logits)

    def tokens(self):
        """All sequences (S, T), integers."""
        return np.indices((self.vocabulary,) * self.length).reshape(self.length, -1).T

    def prefix_probabilities(self):
        """Probability of passing each prefix: a tuple of (V**t,)."""
        return self._chances[:-1]

    def sequence_probabilities(self):
        """Probability of each sequence (S,)."""
        return self._chances[-1]

    def log_probabilities_after(self, prefixes):
        """Rows (N, V) of log-probabilities after prefixes (N, t), integers, t < T."""
        prefixes = _validate.prefixes(prefixes, self)
        t = prefixes.shape[1]
        return self.log_probabilities[t][prefixes @ self.vocabulary ** np.arange(t)[::-1]]

    @cached_property
    def _chances(self):
        chances = [np.ones(1)]
        for p in self.probabilities:
            chances.append((chances[-1][:, None] * p).reshape(-1))
        return tuple(chances)


# --- the objective and its exact gradient ----------------------------------------------


def sequence_kl(student, teacher):
    """KL between the two distributions over sequences, E sum_t r_t, a float.

    eq-sequence-chain-rule.  +inf where the teacher bars a token that the student draws.
    """
    check_same_tree(student, teacher)
    if _first_barred(student, teacher):
        return np.inf
    visits, kls = student.prefix_probabilities(), prefix_kls(student, teacher)
    return float(sum(visit @ kl for visit, kl in zip(visits, kls)))


def sequence_kl_gradient(student, teacher):
    """Exact gradient (P,) of ``sequence_kl`` in the student's logits.  eq-reward-to-go."""
    ratios, ahead = _ratios_and_kl_ahead(student, teacher)
    return _gradient_of_mean(student, [r + a for r, a in zip(ratios, ahead)])


def on_policy_gkd_gradient(student, teacher):
    """E sum_t gradient of KL_t (P,): full-vocabulary gradients, the visited prefixes held fixed."""
    return decomposition(student, teacher)[0]


def decomposition(student, teacher):
    """(local, future), each (P,): E sum_t grad KL_t and E sum_t grad log p(a_t|s_t) sum_{u>t} KL_u.

    Their sum is ``sequence_kl_gradient``.  eq-gkd-future-coupling.
    """
    return tuple(
        _gradient_of_mean(student, part) for part in _ratios_and_kl_ahead(student, teacher)
    )


def _ratios_and_kl_ahead(student, teacher):
    """Two lists of (V**t, V): the log-ratio of a token, the expected KL of all that follows it."""
    ratios, kls = log_ratios(student, teacher), prefix_kls(student, teacher)
    ahead, value = [], np.zeros(student.vocabulary**student.length)
    for p, kl in zip(student.probabilities[::-1], kls[::-1]):
        ahead.append(value.reshape(p.shape))
        value = kl + (p * ahead[-1]).sum(axis=1)
    return ratios, ahead[::-1]


def _gradient_of_mean(student, costs):
    """sum_s visit(s) grad E_a[costs_a], flattened (P,)."""
    return flat(
        visit[:, None] * centred(p, c)
        for visit, p, c in zip(student.prefix_probabilities(), student.probabilities, costs)
    )


# --- costs -----------------------------------------------------------------------------


def token_costs(student, teacher):
    """Sampled costs r_t = log p(a_t|s_t) - log q(a_t|s_t) (S, T), 0 where never drawn."""
    return along_sequences(student, log_ratios(student, teacher))


def token_kls(student, teacher):
    """KL_t (S, T): the KL of the two next-token distributions at each prefix passed."""
    log_ratios(student, teacher)  # refuses a barred token
    return along_sequences(student, prefix_kls(student, teacher))


def discounted_return(costs, gamma):
    """G_t = sum_{u>=t} gamma**(u-t) costs_u (..., T), gamma from 0 to 1.  eq-discounted-return."""
    gamma = _validate.fraction("gamma", gamma)
    costs = _validate.finite("costs", _validate.rows("costs", costs))
    return discounted(costs, gamma)


def state_values(student, costs, gamma):
    """E[G_t | s_t], exact, of costs (S, T): a tuple of (V**t,), 0 for a prefix never passed."""
    costs = _validate.by_sequence_and_position("costs", costs, check_tree("student", student))
    return prefix_means(student, student.sequence_probabilities(), discounted_return(costs, gamma))


# What follows serves the other modules; arguments are checked by the caller.


def log_ratios(student, teacher):
    """log p - log q, a list of (V**t, V), 0 for what the student never draws.

    ValueError where the teacher bars a token that the student draws.
    """
    check_same_tree(student, teacher)
    if barred := _first_barred(student, teacher):
        raise barred_token(*barred)
    rows = zip(student.log_probabilities, teacher.log_probabilities, drawable(student))
    return [difference(log_p, log_q, drawn) for log_p, log_q, drawn in rows]


def barred_token(prefix, token):
    return ValueError(
        f"teacher gives probability 0 to token {token} after the prefix {prefix}, "
        "where the student can draw it: the KL is infinite and has no gradient; "
        "give the teacher's logit a finite value there, or set the student's to -inf too"
    )


def difference(log_p, log_q, drawn):
    """log p - log q where ``drawn``, and 0 elsewhere."""
    return np.subtract(log_p, log_q, out=np.zeros_like(log_p), where=drawn)


def prefix_kls(student, teacher):
    """KL at every prefix, a list of (V**t,), 0 where none of the student's sequences passes."""
    kls = []
    for t, drawn in enumerate(drawable(student)):
        ratio = difference(student.log_probabilities[t], teacher.log_probabilities[t], drawn)
        kls.append(kl_rows(student.probabilities[t], teacher.probabilities[t], ratio, drawn))
    return kls


def kl_rows(p, q, ratio, drawn):
    """KL (N,) of rows (N, V) and their log-ratio, 0 where nothing is drawn."""
    # p d - p + q is p (d + exp(-d) - 1), never below 0: a small KL keeps its digits.
    near = np.abs(ratio) < 1
    close = p * (ratio + np.expm1(np.where(near, -ratio, 0.0)))
    terms = np.where(near, close, p * ratio + (q - p))
    return np.where(drawn.any(axis=1), np.where(drawn, terms, q).sum(axis=1), 0.0)


def centred(p, costs):
    """p_a (costs_a - sum p costs) (N, V): the gradient of sum p costs with the costs held fixed."""
    # Twice, for a row with nearly all the probability on one token: see objectives._centred.
    for _ in range(2):
        costs = costs - (p * costs).sum(axis=1, keepdims=True)
    return p * costs


def discounted(costs, gamma):
    """``discounted_return`` without its checks: costs may be infinite."""
    total = costs.copy()
    if gamma:  # 0 times an infinite cost would be NaN
        for t in reversed(range(costs.shape[-1] - 1)):
            total[..., t] += gamma * total[..., t + 1]
    return total


def discounted_later(costs, gamma):
    """sum_{u>t} gamma**(u-t) costs_u (..., T): the discounted return less its own cost."""
    later = np.zeros_like(costs)
    later[..., :-1] = gamma * discounted(costs[..., 1:], gamma)
    return later


def along_sequences(tree, rows):
    """Values of prefixes (V**t,) or of their tokens (V**t, V), along every sequence (S, T)."""
    size = tree.vocabulary**tree.length
    return np.stack([np.repeat(row.reshape(-1), size // row.size) for row in rows], axis=1)


def prefix_means(tree, probabilities, values):
    """E[values_t | s_t] of values (S, T): a tuple of (V**t,)."""
    means = []
    for t in range(tree.length):
        chance = probabilities.reshape(tree.vocabulary**t, -1)
        means.append(
            quotient((chance * values[:, t].reshape(chance.shape)).sum(axis=1), chance.sum(axis=1))
        )
    return tuple(means)


def prefix_at(tree, t, index):
    """The tokens of a prefix of length t."""
    return tuple(int(i) for i in np.unravel_index(index, (tree.vocabulary,) * t)) if t else ()


def flat(rows):
    return np.concatenate([row.reshape(-1) for row in rows])


def drawable(tree):
    """Whether each token of each prefix can be drawn: asked of the logits, as a product of
    probabilities can underflow to 0."""
    passed = np.ones(1, bool)
    for log_p in tree.log_probabilities:
        drawn = passed[:, None] & (log_p > -np.inf)
        yield drawn
        passed = drawn.reshape(-1)


def _first_barred(student, teacher):
    """(prefix, token) that the student can draw and the teacher cannot, or None."""
    for t, (drawn, log_q) in enumerate(zip(drawable(student), teacher.log_probabilities)):
        barred = np.argwhere(drawn & np.isneginf(log_q))
        if len(barred):
            return prefix_at(student, t, barred[0][0]), int(barred[0][1])
    return None


# --- checks ----------------------------------------------------------------------------


def check_tree(name, value):
    if not isinstance(value, TokenTree):
        raise ValueError(f"{name} is {_validate.quote(value)}; give a TokenTree")
    return value


def check_same_tree(student, teacher, names=("student", "teacher")):
    for name, tree in zip(names, (student, teacher)):
        check_tree(name, tree)
    _validate.same_size(student, teacher, names)


def _enumerable(vocabulary, length):
    vocabulary = _validate.whole("vocabulary", vocabulary)
    length = _validate.whole("length", length)
    if vocabulary**length > LARGEST_TREE:
        raise ValueError(
            f"vocabulary is {vocabulary} and length {length}, V**T sequences; "
            f"give at most {LARGEST_TREE}, or sample from a LazyTree"
        )
    return vocabulary, length
