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
from opd_toy.distributions import log_softmax, softmax

SIGNALS = ("sampled", "full_vocabulary", "full_vocabulary_future")
LARGEST_TREE = 10**8  # sequences


@dataclass(frozen=True, eq=False)
class TokenTree:
    """A policy over sequences of T tokens: logits[t] of shape (V**t, V), -inf for a masked token."""

    logits: tuple

    def __post_init__(self):
        object.__setattr__(self, "logits", _tree_rows(self.logits))

    @classmethod
    def random(cls, vocabulary, length, seed, scale=1.0):
        """Logits drawn from N(0, scale**2)."""
        vocabulary, length = _enumerable(vocabulary, length)
        draw, scale = (
            np.random.default_rng(_validate.whole("seed", seed, least=0)),
            _validate.number("scale", scale),
        )
        return cls(
            tuple(scale * draw.standard_normal((vocabulary**t, vocabulary)) for t in range(length))
        )

    @classmethod
    def repeat(cls, probabilities, length=None):
        """The same row at every prefix of a position: probabilities (V,) and a length, or (T, V)."""
        p = _validate.probabilities("probabilities", probabilities)
        if p.ndim == 1:
            p = np.tile(p, (_validate.whole("length", length), 1))
        if p.ndim != 2 or length not in (None, len(p)):
            raise ValueError(
                f"probabilities has shape {p.shape} and length is {length!r}; give (V,) and a length, or one row a position, shape (T, V)"
            )
        vocabulary, _ = _enumerable(p.shape[1], len(p))
        with np.errstate(divide="ignore"):
            return cls(tuple(np.tile(np.log(row), (vocabulary**t, 1)) for t, row in enumerate(p)))

    @property
    def vocabulary(self):
        return self.logits[0].shape[1]

    @property
    def length(self):
        return len(self.logits)

    @property
    def parameters(self):
        return sum(z.size for z in self.logits)

    @cached_property
    def probabilities(self):
        return tuple(softmax(z) for z in self.logits)

    @cached_property
    def log_probabilities(self):
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
        prefixes = token_prefixes(prefixes, self)
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
    """KL between the two distributions over sequences, E sum_t r_t, a float.  eq-sequence-chain-rule.

    +inf where the teacher bars a token that the student draws.
    """
    check_same_tree(student, teacher)
    if _first_barred(student, teacher):
        return np.inf
    return float(
        sum(
            visit @ kl
            for visit, kl in zip(student.prefix_probabilities(), prefix_kls(student, teacher))
        )
    )


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
    """For each token of each prefix, lists of (V**t, V): its log-ratio, and the expected KL of all that follows it."""
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
    """Sampled costs r_t = log p(a_t|s_t) - log q(a_t|s_t) of all sequences (S, T), 0 where never drawn."""
    return along_sequences(student, log_ratios(student, teacher))


def token_kls(student, teacher):
    """KL_t (S, T): the KL of the two next-token distributions at each prefix a sequence passes."""
    log_ratios(student, teacher)  # refuses a barred token
    return along_sequences(student, prefix_kls(student, teacher))


def discounted_return(costs, gamma):
    """G_t = sum_{u>=t} gamma**(u-t) costs_u (..., T), gamma from 0 to 1.  eq-discounted-return."""
    gamma, costs = (
        _validate.fraction("gamma", gamma),
        finite("costs", _validate.rows("costs", costs)),
    )
    return discounted(costs, gamma)


def state_values(student, costs, gamma):
    """E[G_t | s_t], exact, of costs (S, T): a tuple of (V**t,), 0 for a prefix never passed."""
    costs = sequence_array("costs", costs, check_tree("student", student))
    return prefix_means(student, student.sequence_probabilities(), discounted_return(costs, gamma))


# What follows serves the other modules; arguments are checked by the caller.


def log_ratios(student, teacher):
    """log p - log q, a list of (V**t, V), 0 for what the student never draws; refuses a barred token."""
    check_same_tree(student, teacher)
    if barred := _first_barred(student, teacher):
        raise barred_token(*barred)
    rows = zip(student.log_probabilities, teacher.log_probabilities, drawable(student))
    return [difference(log_p, log_q, drawn) for log_p, log_q, drawn in rows]


def barred_token(prefix, token):
    return ValueError(
        f"teacher gives probability 0 to token {token} after the prefix {prefix}, where the student can draw it: the KL is infinite and has no gradient; "
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
    terms = np.where(near, p * (ratio + np.expm1(np.where(near, -ratio, 0.0))), p * ratio + (q - p))
    return np.where(drawn.any(axis=1), np.where(drawn, terms, q).sum(axis=1), 0.0)


def centred(p, costs):
    """p_a (costs_a - sum p costs) (N, V): the gradient of sum p costs with the costs held fixed."""
    # Twice, for a row with nearly all the probability on one token: see objectives._centred.
    for _ in range(2):
        costs = costs - (p * costs).sum(axis=1, keepdims=True)
    return p * costs


def discounted(costs, gamma):
    total = costs.copy()
    for t in range(costs.shape[-1] - 2, -1, -1) if gamma else ():
        total[..., t] += gamma * total[..., t + 1]
    return total


def along_sequences(tree, rows):
    """Values of prefixes (V**t,) or of their tokens (V**t, V), looked up along every sequence (S, T)."""
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


def quotient(a, b):
    """a/b, and 0 where b = 0."""
    return np.divide(a, b, out=np.zeros(np.broadcast_shapes(a.shape, b.shape)), where=b != 0)


def flat(rows):
    return np.concatenate([row.reshape(-1) for row in rows])


def drawable(tree):
    """Whether each token of each prefix can be drawn, though its probability be too small for a float."""
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


# --- checks ----------------------------------------------------------------------------


def check_tree(name, value):
    if not isinstance(value, TokenTree):
        raise ValueError(f"{name} is {_validate._quote(value)}; give a TokenTree")
    return value


def check_same_tree(student, teacher, names=("student", "teacher")):
    check_tree(names[0], student), check_tree(names[1], teacher)
    check_same_size(student, teacher, names)


def check_same_size(first, second, names):
    if (first.vocabulary, first.length) != (second.vocabulary, second.length):
        raise ValueError(
            f"{names[0]} has V = {first.vocabulary}, T = {first.length} and {names[1]} V = {second.vocabulary}, T = {second.length}; "
            "both must have the same vocabulary and length"
        )


def sequence_array(name, value, tree, each_position=True):
    """A finite array (S, T), or (S,)."""
    shape = (tree.vocabulary**tree.length, tree.length)[: 1 + each_position]
    array = _validate.numbers(name, value)
    if array.shape != shape:
        what = (
            "one number a sequence and position, shape (V**T, T)"
            if each_position
            else "one number a sequence, shape (V**T,)"
        )
        raise ValueError(f"{name} has shape {array.shape}; give {what} = {shape}")
    return finite(name, array)


def per_position(name, value, tree, tokens=False):
    """A tuple of finite arrays: one number a prefix, or (``tokens``) one for each of its tokens."""
    if not isinstance(value, (tuple, list)) or len(value) != tree.length:
        raise ValueError(
            f"{name} is {_validate._quote(value)}; give one array a position, {tree.length} in all"
        )
    arrays = []
    for t, row in enumerate(value):
        array, shape = (
            _validate.numbers(f"{name}[{t}]", row),
            (tree.vocabulary**t,) + (tree.vocabulary,) * tokens,
        )
        if array.shape != shape:
            raise ValueError(
                f"{name}[{t}] has shape {array.shape}; give {'one row' if tokens else 'one number'} a prefix of {t} tokens, shape {shape}"
            )
        arrays.append(finite(f"{name}[{t}]", array))
    return tuple(arrays)


def token_prefixes(prefixes, policy):
    """Prefixes (N, t), whole numbers from 0 to V - 1, t < T."""
    array = np.asarray(prefixes)
    if array.dtype.kind not in "iu" or array.ndim != 2 or array.shape[1] >= policy.length:
        raise ValueError(
            f"prefixes has shape {array.shape} and dtype {array.dtype}; give whole numbers, shape (N, t) with t from 0 to T - 1 = {policy.length - 1}"
        )
    if array.size and not (array.min() >= 0 and array.max() < policy.vocabulary):
        raise ValueError(
            f"prefixes holds tokens from {array.min()} to {array.max()}; a token is a whole number from 0 to V - 1 = {policy.vocabulary - 1}"
        )
    return array


def finite(name, array):
    wrong = ~np.isfinite(array)
    if wrong.any():
        place = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise ValueError(
            f"{name} holds {float(array[place])!r} at {place}; every entry must be finite"
        )
    return array


def _enumerable(vocabulary, length):
    vocabulary, length = (
        _validate.whole("vocabulary", vocabulary),
        _validate.whole("length", length),
    )
    if vocabulary**length > LARGEST_TREE:
        raise ValueError(
            f"vocabulary is {vocabulary} and length {length}, V**T sequences; give at most {LARGEST_TREE}, or sample from a LazyTree"
        )
    return vocabulary, length


def _tree_rows(logits):
    if not isinstance(logits, (tuple, list)) or not logits:
        raise ValueError(
            f"logits is {_validate._quote(logits)}; give one array a position, logits[t] of shape (V**t, V)"
        )
    rows = tuple(_validate.logits(f"logits[{t}]", z) for t, z in enumerate(logits))
    for t, z in enumerate(rows):
        shape = (rows[0].shape[-1] ** t, rows[0].shape[-1])
        if z.shape != shape:
            raise ValueError(
                f"logits[{t}] has shape {z.shape}; give one row a prefix of {t} tokens, shape {shape}"
            )
    return rows
