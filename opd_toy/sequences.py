"""Who answers for the future: all sequences of a small token tree, enumerated.

A ``TokenTree`` holds one row of logits for each prefix of a sequence of T tokens:
``logits[t]`` is (V**t, V), prefixes in base-V order with the first token most
significant.  The S = V**T sequences stand in the same order.  A gradient is (P,): in
all these logits, t = 0, 1, ..., row by row.  t counts from 0 here, from 1 in prose.

The student p draws the sequence a_1 ... a_T; the prefix s_t is what precedes a_t.  Its
sampled cost is r_t = log p(a_t|s_t) - log q(a_t|s_t), its full-vocabulary cost
KL_t = KL(p(.|s_t) || q(.|s_t)); costs are descended.  An estimator is a
``SequenceTable``: row tau is the gradient applied if tau is drawn.  It is kept as
weights (S, T) on the scores, as each row is 0 but for the T prefixes it passes.

Everything is in nats and float64; what the student never draws counts for nothing.
Where the teacher bars a token that the student draws, ``sequence_kl`` is +inf and all
others raise ValueError, as they do on malformed arguments.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from opd_toy import _validate
from opd_toy.distributions import log_softmax, softmax
from opd_toy.objectives import top_k_reverse_kl_logit_gradient

SIGNALS = ("sampled", "full_vocabulary", "full_vocabulary_future")
LARGEST_TREE = 10**8  # sequences
LARGEST_TABLE = 2**28  # entries, 2 GiB


# --- trees -----------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class TokenTree:
    """A policy over sequences of T tokens: logits[t] of shape (V**t, V), -inf for a masked token."""

    logits: tuple

    def __post_init__(self):
        object.__setattr__(self, "logits", _tree_rows(self.logits))

    @classmethod
    def random(cls, vocabulary, length, seed, scale=1.0):
        """Logits drawn from N(0, scale**2)."""
        vocabulary, length = _whole("vocabulary", vocabulary), _whole("length", length)
        if vocabulary**length > LARGEST_TREE:
            raise ValueError(f"vocabulary is {vocabulary} and length {length}: {vocabulary**length:.0e} sequences; give at most {LARGEST_TREE:.0e}, or take LazyTree and sample")
        draw, scale = np.random.default_rng(seed), _validate.number("scale", scale)
        return cls(tuple(scale * draw.standard_normal((vocabulary**t, vocabulary)) for t in range(length)))

    @classmethod
    def repeat(cls, probabilities, length=None):
        """The same row at every prefix of a position: probabilities (V,), or (T, V) with length T."""
        p = _validate.probabilities("probabilities", probabilities)
        if p.ndim == 1:
            p = np.tile(p, (_whole("length", length), 1))
        if p.ndim != 2 or length not in (None, len(p)):
            raise ValueError(f"probabilities has shape {p.shape} and length is {length!r}; give (V,) and a length, or one row a position, shape (T, V)")
        with np.errstate(divide="ignore"):
            return cls(tuple(np.tile(np.log(row), (p.shape[1] ** t, 1)) for t, row in enumerate(p)))

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
        """Rows (N, V) of log-probabilities after prefixes (N, t)."""
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
    """KL between the two distributions over sequences, E sum_t r_t, a float.  eq-sequence-chain-rule."""
    _same_tree(student, teacher)
    if _first_barred(student, teacher):
        return np.inf
    return float(sum(visit @ kl for visit, kl in zip(student.prefix_probabilities(), _prefix_kls(student, teacher))))


def sequence_kl_gradient(student, teacher):
    """Exact gradient (P,) of ``sequence_kl`` in the student's logits.  eq-reward-to-go."""
    ratios, ahead = _ratios_and_kl_ahead(student, teacher)
    return _centred_rows(student, [r + a for r, a in zip(ratios, ahead)])


def on_policy_gkd_gradient(student, teacher):
    """E sum_t gradient of KL_t (P,): full-vocabulary gradients, the visited prefixes held fixed."""
    return decomposition(student, teacher)[0]


def decomposition(student, teacher):
    """(local, future), each (P,): E sum_t grad KL_t and E sum_t grad log p(a_t|s_t) sum_{u>t} KL_u.

    Their sum is ``sequence_kl_gradient``.  eq-gkd-future-coupling.
    """
    return tuple(_centred_rows(student, part) for part in _ratios_and_kl_ahead(student, teacher))


def _ratios_and_kl_ahead(student, teacher):
    """For each token of each prefix, lists of (V**t, V): its log-ratio, and the expected KL of all that follows it."""
    ratios, kls = _ratios(student, teacher), _prefix_kls(student, teacher)
    ahead, value = [], np.zeros(student.vocabulary**student.length)
    for p, kl in zip(student.probabilities[::-1], kls[::-1]):
        ahead.append(value.reshape(p.shape))
        value = kl + (p * ahead[-1]).sum(axis=1)
    return ratios, ahead[::-1]


def _centred_rows(student, costs):
    """visit(s) p_a (c_a - sum p c), flattened: the gradient of E c with c held fixed."""
    return _flat(visit[:, None] * _centred(p, c) for visit, p, c in zip(student.prefix_probabilities(), student.probabilities, costs))


def _centred(p, costs):
    # Twice, for a row with one token of nearly all the probability: see objectives._centred.
    for _ in range(2):
        costs = costs - (p * costs).sum(axis=1, keepdims=True)
    return p * costs


# --- costs -----------------------------------------------------------------------------


def token_costs(student, teacher):
    """Sampled costs r_t = log p(a_t|s_t) - log q(a_t|s_t) of all sequences (S, T), 0 where never drawn."""
    return _along_sequences(student, _ratios(student, teacher))


def token_kls(student, teacher):
    """KL_t (S, T): the KL of the two next-token distributions at each prefix a sequence passes."""
    _ratios(student, teacher)  # refuses a barred token
    return _along_sequences(student, _prefix_kls(student, teacher))


def discounted_return(costs, gamma):
    """G_t = sum_{u>=t} gamma**(u-t) costs_u (..., T), gamma from 0 to 1.  eq-discounted-return."""
    gamma, costs = _validate.fraction("gamma", gamma), _validate.rows("costs", costs)
    if np.isnan(costs).any():
        raise ValueError(f"costs holds nan at {tuple(int(i) for i in np.argwhere(np.isnan(costs))[0])}; every cost must be a number")
    return _discounted(costs, gamma)


def state_values(student, costs, gamma):
    """E[G_t | s_t], exact, of costs (S, T): a tuple of (V**t,), 0 for a prefix never passed."""
    return _prefix_means(_tree("student", student), student.sequence_probabilities(), discounted_return(_sequence_array("costs", costs, student), gamma))


def _ratios(student, teacher):
    """log p - log q, a list of (V**t, V), 0 for what the student never draws; refuses a barred token."""
    _same_tree(student, teacher)
    if barred := _first_barred(student, teacher):
        raise ValueError(
            f"teacher gives probability 0 to token {barred[1]} after the prefix {barred[0]}, where the student can draw it: the KL is infinite and has no gradient; "
            "give the teacher's logit a finite value there, or set the student's to -inf too"
        )
    return [np.subtract(lp, lq, out=np.zeros_like(lp), where=drawn) for lp, lq, drawn in zip(student.log_probabilities, teacher.log_probabilities, _drawable(student))]


def _drawable(tree):
    """Whether each token of each prefix can be drawn, though its probability be too small for a float."""
    passed = np.ones(1, bool)
    for log_p in tree.log_probabilities:
        drawn = passed[:, None] & (log_p > -np.inf)
        yield drawn
        passed = drawn.reshape(-1)


def _first_barred(student, teacher):
    """(prefix, token) that the student can draw and the teacher cannot, or None."""
    for t, (drawn, log_q) in enumerate(zip(_drawable(student), teacher.log_probabilities)):
        barred = np.argwhere(drawn & np.isneginf(log_q))
        if len(barred):
            prefix = np.unravel_index(barred[0][0], (student.vocabulary,) * t) if t else ()
            return tuple(int(i) for i in prefix), int(barred[0][1])


def _prefix_kls(student, teacher):
    """KL at every prefix, a list of (V**t,), 0 where none of the student's sequences passes."""
    kls = []
    for t, drawn in enumerate(_drawable(student)):
        p, q = student.probabilities[t], teacher.probabilities[t]
        d = np.subtract(student.log_probabilities[t], teacher.log_probabilities[t], out=np.zeros_like(p), where=drawn)
        # p d - p + q is p (d + exp(-d) - 1), never below 0: a small KL keeps its digits.
        near = np.abs(d) < 1
        terms = np.where(near, p * (d + np.expm1(np.where(near, -d, 0.0))), p * d + (q - p))
        kls.append(np.where(drawn.any(axis=1), np.where(drawn, terms, q).sum(axis=1), 0.0))
    return kls


def _discounted(costs, gamma):
    total = costs.copy()
    for t in range(costs.shape[-1] - 2, -1, -1) if gamma else ():
        total[..., t] += gamma * total[..., t + 1]
    return total


def _along_sequences(tree, rows):
    """Values at prefixes (V**t,) or their tokens (V**t, V), looked up along every sequence (S, T)."""
    size = tree.vocabulary**tree.length
    return np.stack([np.repeat(row.reshape(-1), size // row.size) for row in rows], axis=1)


def _prefix_means(tree, probabilities, values):
    """E[values_t | s_t] of values (S, T): a tuple of (V**t,)."""
    means = []
    for t in range(tree.length):
        chance = probabilities.reshape(tree.vocabulary**t, -1)
        means.append(_ratio((chance * values[:, t].reshape(chance.shape)).sum(axis=1), chance.sum(axis=1)))
    return tuple(means)


# --- gradient tables -------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class SequenceTable:
    """Gradient of each sequence drawn: at the prefix s_t, weights[tau, t] (e_{a_t} - p(.|s_t)) + local[t][s_t].

    ``weights`` (S, T); ``local`` None or a tuple of (V**t, V); ``probabilities`` (S,)
    of whoever draws, the student by default.  Moments are exact, in O(S T) memory.
    """

    student: TokenTree
    weights: np.ndarray
    local: tuple | None = None
    probabilities: np.ndarray | None = None

    def __post_init__(self):
        tree = _tree("student", self.student)
        object.__setattr__(self, "weights", _sequence_array("weights", self.weights, tree))
        if self.local is not None:
            object.__setattr__(self, "local", _per_position("local", self.local, tree, tokens=True))
        if self.probabilities is None:
            object.__setattr__(self, "probabilities", tree.sequence_probabilities())
            return
        probabilities = _validate.probabilities("probabilities", self.probabilities)
        if probabilities.shape != (len(self.weights),):
            raise ValueError(f"probabilities has shape {probabilities.shape}; give one number a sequence, shape ({len(self.weights)},)")
        object.__setattr__(self, "probabilities", probabilities)

    def expectation(self):
        """The gradient applied on average (P,)."""
        return _means(self.student, self.probabilities, lambda t: [self.weights[:, t]], lambda t: [self._local(t)])[0]

    def total_variance(self):
        """Trace of the covariance of one row: a float, in two passes, never below 0."""
        return float(_covariances(self.student, self.probabilities, lambda t: [self.weights[:, t]], lambda t: [self._local(t)])[0, 0])

    def bias(self, gradient):
        """Expectation less ``gradient`` (P,)."""
        gradient = _validate.rows("gradient", gradient)
        if gradient.shape != (self.student.parameters,):
            raise ValueError(f"gradient has shape {gradient.shape}; give one number a parameter, shape ({self.student.parameters},)")
        return self.expectation() - gradient

    def mean_squared_error(self, gradient, samples):
        """E |mean of ``samples`` rows - gradient|**2 = |bias|**2 + variance/samples."""
        return float((self.bias(gradient) ** 2).sum() + self.total_variance() / _validate.positive("samples", samples))

    def dense(self):
        """The whole table (S, P), for small trees."""
        size = len(self.weights) * self.student.parameters
        if size > LARGEST_TABLE:
            raise ValueError(f"the table has {len(self.weights)} rows of {self.student.parameters} entries; dense() takes at most {LARGEST_TABLE} in all: use expectation() and total_variance()")
        table, start = np.zeros((len(self.weights), self.student.parameters)), 0
        rows = np.arange(len(self.weights))[:, None]
        tokens, vocabulary = self.student.tokens(), self.student.vocabulary
        for t, p in enumerate(self.student.probabilities):
            prefix = rows // (len(rows) // len(p))
            score = np.eye(vocabulary)[tokens[:, t]] - p[prefix[:, 0]]
            table[rows, start + prefix * vocabulary + np.arange(vocabulary)] = self.weights[:, t, None] * score + self._local(t)[prefix[:, 0]]
            start += p.size
        return table

    def _local(self, t):
        return np.zeros_like(self.student.probabilities[t]) if self.local is None else self.local[t]


def _means(student, probabilities, weights, local):
    """Expectations (n, P) of n tables; weights(t) gives n arrays (S,), local(t) n arrays (V**t, V)."""
    blocks = []
    for t, p in enumerate(student.probabilities):
        chance = probabilities.reshape(*p.shape, -1)
        visit = chance.sum(axis=(1, 2))[:, None]
        blocks.append([_score_sum((chance * w.reshape(chance.shape)).sum(axis=2), p) + visit * l for w, l in zip(weights(t), local(t))])
    return np.array([_flat(parts) for parts in zip(*blocks)])


def _covariances(student, probabilities, weights, local):
    """Traces (n, n) of the covariances between n tables, given as for ``_means``.

    The block of a prefix s is 0 in the rows that do not pass it.  Where they do, the
    weight varies with what follows (s, a), the block with a; so the variance is, summed
    over s,  visit(s) [E_a Var(W|s,a) |e_a - p|**2 + E_a |E[W|s,a] (e_a - p) - m|**2
    + (1 - visit(s)) |m + local|**2]  with m the mean over a: no term below 0.
    """
    total = 0.0
    for t, p in enumerate(student.probabilities):
        chance = probabilities.reshape(*p.shape, -1)
        mass = chance.sum(axis=2)
        visit = mass.sum(axis=1)
        columns = [w.reshape(chance.shape) for w in weights(t)]
        means = np.array([_ratio((chance * w).sum(axis=2), mass) for w in columns])
        deviations = [w - m[..., None] for w, m in zip(columns, means)]
        length = _score_length(p)
        total += np.array([[((chance * a * b).sum(axis=2) * length).sum() for a in deviations] for b in deviations])
        centre = np.array([_score_sum(_ratio(mass, visit[:, None]) * m, p) for m in means])
        for token in range(p.shape[1]):
            off_centre = means[:, :, token, None] * _score(p, token) - centre
            total += np.einsum("s,jsv,ksv->jk", mass[:, token], off_centre, off_centre)
        block = centre + np.array(local(t))
        # The first prefix is passed by all; elsewhere the rest of the probability passes by.
        absent = np.clip(1 - visit, 0, None) if t else np.zeros(1)
        total += np.einsum("s,jsv,ksv->jk", visit * absent, block, block)
    return total


def _score(p, token):
    """e_token - p (N, V), exact where p(token) is nearly 1."""
    score = -p
    score[:, token] = _others(p)[:, token]
    return score


def _score_sum(coefficients, p):
    """sum_a coefficients_a (e_a - p) (N, V)."""
    return coefficients * _others(p) - p * _others(coefficients)


def _score_length(p):
    """|e_a - p|**2 for each a (N, V)."""
    return _others(p) ** 2 + _others(p * p)


def _others(x):
    """Sum over all other tokens (N, V), without subtracting."""
    return x @ (1 - np.eye(x.shape[1]))


def _ratio(a, b):
    """a/b, and 0 where b = 0."""
    return np.divide(a, b, out=np.zeros(np.broadcast_shapes(a.shape, b.shape)), where=b != 0)


def _flat(rows):
    return np.concatenate([row.reshape(-1) for row in rows])


# --- estimators of the sequence gradient -----------------------------------------------


def full_return(student, teacher, signal="sampled", baseline=None):
    """Every token carries the cost of the whole sequence, its past included.  eq-past-terms-vanish.

    Signals and baselines as in ``reward_to_go``, whose sums over u > t here run over u != t.
    """
    own, others, local = _signal(student, teacher, signal)
    past_and_future = others.sum(axis=1, keepdims=True) - others
    return _with_baseline(student, own + past_and_future, local, baseline)


def reward_to_go(student, teacher, gamma, signal="sampled", baseline=None):
    """Every token carries the discounted cost from itself on.  eq-reward-to-go, eq-discounted-return.

    ``signal``: "sampled", weight sum_{u>=t} gamma**(u-t) r_u;
    "full_vocabulary" (the Rao-Blackwellised return), local gradient of KL_t and weight
    sum_{u>t} gamma**(u-t) KL_u; "full_vocabulary_future", the same with r_t in place of
    the local gradient.  At gamma = 1 unbiased for the sequence gradient, at gamma = 0
    for ``on_policy_gkd_gradient``.
    ``baseline``, taken off the weight: None; a number; "value", E[weight | s_t];
    "optimal", the least variance at each prefix, E[weight |score|**2 | s_t] / E[|score|**2 | s_t]
    (a local gradient does not move it: scores have mean 0); or a tuple of (V**t,).
    """
    gamma = _validate.fraction("gamma", gamma)
    own, others, local = _signal(student, teacher, signal)
    weights = own.copy()
    weights[:, :-1] += gamma * _discounted(others[:, 1:], gamma)
    return _with_baseline(student, weights, local, baseline)


def reward_to_go_table(student, teacher, gamma, signal="sampled", baseline=None):
    """(probabilities (S,), table (S, P)) of ``reward_to_go``, for ``estimators.expectation`` and ``total_variance``."""
    table = reward_to_go(student, teacher, gamma, signal, baseline)
    return table.probabilities, table.dense()


def _signal(student, teacher, signal):
    """The weight of a token for itself and for others, each (S, T), and the local gradients."""
    _validate.choice("signal", signal, SIGNALS)
    sampled = token_costs(student, teacher)
    if signal == "sampled":
        return sampled, sampled, None
    kls = token_kls(student, teacher)
    if signal == "full_vocabulary_future":
        return sampled, kls, None
    return np.zeros_like(kls), kls, tuple(_centred(p, d) for p, d in zip(student.probabilities, _ratios(student, teacher)))


def _with_baseline(student, weights, local, baseline):
    if baseline is None:
        return SequenceTable(student, weights, local)
    if isinstance(baseline, str):
        _validate.choice("baseline", baseline, ("value", "optimal"))
        probabilities = student.sequence_probabilities()
        if baseline == "optimal":
            length = _along_sequences(student, [_score_length(p) for p in student.probabilities])
            top, bottom = (_prefix_means(student, probabilities, x) for x in (weights * length, length))
            baseline = tuple(_ratio(a, b) for a, b in zip(top, bottom))
        else:
            baseline = _prefix_means(student, probabilities, weights)
    elif isinstance(baseline, (tuple, list)):
        baseline = _per_position("baseline", baseline, student)
    else:
        return SequenceTable(student, weights - _validate.number("baseline", baseline), local)
    return SequenceTable(student, weights - _along_sequences(student, baseline), local)


# --- checks ----------------------------------------------------------------------------


def _tree(name, value):
    if not isinstance(value, TokenTree):
        raise ValueError(f"{name} is {_validate._quote(value)}; give a TokenTree")
    return value


def _same_tree(student, teacher, names=("student", "teacher")):
    first, second = _tree(names[0], student), _tree(names[1], teacher)
    if (first.vocabulary, first.length) != (second.vocabulary, second.length):
        raise ValueError(
            f"{names[0]} has V = {first.vocabulary}, T = {first.length} and {names[1]} V = {second.vocabulary}, T = {second.length}; "
            "both must have the same vocabulary and length"
        )


def _whole(name, value):
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"{name} is {value!r}; give a whole number (an int) of at least 1")
    return int(value)


def _tree_rows(logits):
    if not isinstance(logits, (tuple, list)) or not logits:
        raise ValueError(f"logits is {_validate._quote(logits)}; give one array a position, logits[t] of shape (V**t, V)")
    rows = tuple(_validate.logits(f"logits[{t}]", z) for t, z in enumerate(logits))
    for t, z in enumerate(rows):
        shape = (rows[0].shape[-1] ** t, rows[0].shape[-1])
        if z.shape != shape:
            raise ValueError(f"logits[{t}] has shape {z.shape}; give one row a prefix of {t} tokens, shape (V**{t}, V) = {shape}")
    return rows


def _sequence_array(name, value, tree):
    array, shape = _validate.numbers(name, value), (tree.vocabulary**tree.length, tree.length)
    if array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}; give one number a sequence and position, shape (V**T, T) = {shape}")
    if not np.isfinite(array).all():
        place = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise ValueError(f"{name} holds {float(array[place])!r} at {place}; every entry must be finite")
    return array


def _per_position(name, value, tree, tokens=False):
    """A tuple of finite arrays, one number a prefix, or (``tokens``) one for each of its tokens."""
    if not isinstance(value, (tuple, list)) or len(value) != tree.length:
        raise ValueError(f"{name} is {_validate._quote(value)}; give one array a position, {tree.length} in all")
    arrays = tuple(_validate.numbers(f"{name}[{t}]", row) for t, row in enumerate(value))
    for t, array in enumerate(arrays):
        shape = (tree.vocabulary**t,) + (tree.vocabulary,) * tokens
        if array.shape != shape:
            raise ValueError(f"{name}[{t}] has shape {array.shape}; give {'one row' if tokens else 'one number'} a prefix of {t} tokens, shape {shape}")
        if not np.isfinite(array).all():
            raise ValueError(f"{name}[{t}] holds {float(array[~np.isfinite(array)][0])!r}; every entry must be finite")
    return arrays
