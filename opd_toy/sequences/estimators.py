"""Who answers for the future: estimators of the sequence gradient, their bias and variance exact.

The student p draws a sequence a_1 ... a_T; the prefix s_t is what precedes a_t.  The
sampled cost of a token is r_t = log p(a_t|s_t) - log q(a_t|s_t), its full-vocabulary
cost KL_t = KL(p(.|s_t) || q(.|s_t)).  Costs are descended, so rewards enter with a
minus sign.  ``student`` and ``teacher`` are two ``TokenTree`` of one V and T; see
``opd_toy.sequences.trees`` for the order of sequences (S,), S = V**T, and parameters (P,).

Every estimator is a ``SequenceTable``: weights (S, T) on the scores e_{a_t} - p(.|s_t),
and maybe a local gradient at each prefix; its ``expectation()`` (P,) and
``total_variance()`` are sums over all sequences, no sampling.  V = 10, T = 6 takes a
second or two.

All is in nats and float64.  What the student never draws counts for nothing.  Where the
teacher bars a token that the student draws, ``sequence_kl`` is +inf and everything else
raises ValueError, as it does on malformed arguments.
"""

import numpy as np

from opd_toy import _validate
from opd_toy.distributions import quotient
from opd_toy.estimators import squared_score_norm
from opd_toy.objectives import top_k_reverse_kl_logit_gradient
from opd_toy.sequences.table import SequenceTable, covariances, expectations
from opd_toy.sequences.trees import (
    SIGNALS,
    along_sequences,
    barred_token,
    centred,
    check_same_tree,
    check_tree,
    difference,
    discounted,
    discounted_later,
    drawable,
    log_ratios,
    prefix_at,
    prefix_means,
    state_values,
    token_costs,
    token_kls,
)

# --- the cost of the sequence ----------------------------------------------------------


def full_return(student, teacher, signal="sampled", baseline=None):
    """Every token carries the cost of the whole sequence, its past included.

    eq-past-terms-vanish.  Signals and baselines as for ``reward_to_go``, undiscounted, with
    u != t in place of u > t.
    """
    own, others, local = signal_parts(student, teacher, signal)
    weights = own + (others.sum(axis=1, keepdims=True) - others)
    return _with_baseline(student, weights, local, baseline)


def reward_to_go(student, teacher, gamma, signal="sampled", baseline=None):
    """Every token carries the discounted cost from itself on.

    eq-reward-to-go, eq-discounted-return.

    ``signal``: "sampled", weight sum_{u>=t} gamma**(u-t) r_u;
    "full_vocabulary" (the Rao-Blackwellised return), the gradient of KL_t and weight
    sum_{u>t} gamma**(u-t) KL_u, eq-rao-blackwell-return; "full_vocabulary_future", weight
    r_t + the same sum.  At gamma = 1 unbiased for ``sequence_kl_gradient``, at gamma = 0
    for ``on_policy_gkd_gradient``.
    ``baseline``, taken off the weight: None; a number; "value", E[weight | s_t];
    "optimal", the least variance at each prefix, E[weight |score|**2 | s_t] / E[|score|**2 | s_t],
    which a local gradient does not move, as scores have mean 0; or a tuple of (V**t,).
    """
    weights, local = _reward_to_go(student, teacher, gamma, signal)
    return _with_baseline(student, weights, local, baseline)


def reward_to_go_table(student, teacher, gamma, signal="sampled", baseline=None):
    """(probabilities (S,), table (S, P)) of ``reward_to_go``.

    ``estimators.expectation`` and ``estimators.total_variance`` take them.
    """
    table = reward_to_go(student, teacher, gamma, signal, baseline)
    return table.probabilities, table.dense()


def generalized_advantage(student, teacher, gamma, lam, values=None):
    """GAE: weight sum_{u>=t} (gamma lam)**(u-t) (r_u + gamma v(s_{u+1}) - v(s_u)).

    eq-classical-rl.  ``values`` is a tuple of (V**t,), by default the exact ``state_values``;
    the value after the last token is 0.  At gamma = 1 unbiased with exact values for every
    ``lam``, with others for lam = 1.  Schulman et al., arXiv 1506.02438.
    """
    gamma, lam = _validate.fraction("gamma", gamma), _validate.fraction("lam", lam)
    costs = token_costs(student, teacher)
    if values is None:
        values = state_values(student, costs, gamma)
    else:
        values = _validate.by_prefix("values", values, student)
    value = along_sequences(student, values)
    surprise = costs - value
    surprise[:, :-1] += gamma * value[:, 1:]
    return SequenceTable(student, discounted(surprise, gamma * lam))


def top_k(student, teacher, k, outside="renormalize"):
    """Gradients of ``objectives.top_k_reverse_kl`` at the prefixes passed: no weights, no future.

    eq-top-k.  k an int from 1 to V; at k = V the expectation is ``on_policy_gkd_gradient``.
    Works on probabilities, so a teacher's logit about 750 below the highest counts as barred.
    """
    check_same_tree(student, teacher)
    rows = zip(student.probabilities, teacher.probabilities, student.prefix_probabilities())
    local = []
    for t, (p, q, visit) in enumerate(rows):
        gradient = top_k_reverse_kl_logit_gradient(p, q, k, outside)
        gradient = np.where(visit[:, None] > 0, gradient, 0.0)
        if (barred := np.argwhere(np.isposinf(gradient))).size:
            raise barred_token(prefix_at(student, t, barred[0][0]), int(barred[0][1]))
        local.append(gradient)
    weights = np.zeros((student.vocabulary**student.length, student.length))
    return SequenceTable(student, weights, tuple(local))


# --- rewards at the end ----------------------------------------------------------------


def outcome(student, reward, gamma=1.0, baseline=None):
    """A reward (S,) for the whole sequence, discounted back from its end: weight -gamma**(T-t) R.

    eq-rlvr-terminal.  At gamma = 1 every token has the same weight, and the table is unbiased
    for the gradient of -E[R].  Baselines as for ``reward_to_go``.
    """
    return _with_baseline(student, _outcome(student, reward, gamma), None, baseline)


def broadcast_outcome(student, reward):
    """The reward (S,) given again at every token, r_t = R: weight -(T - t + 1) R.

    eq-rlvr-broadcast.
    """
    once = _outcome(student, reward, 1.0)
    return SequenceTable(student, once * np.arange(student.length, 0, -1))


def mixed(student, teacher, reward, alpha, gamma=1.0, signal="sampled", baseline=None):
    """``reward_to_go`` plus alpha times ``outcome``: at gamma = 1 the gradient of KL - alpha E[R].

    eq-improve-framework.
    """
    alpha = _validate.number("alpha", alpha)
    weights, local = _reward_to_go(student, teacher, gamma, signal)
    weights = weights + alpha * _outcome(student, reward, gamma)
    return _with_baseline(student, weights, local, baseline)


def future_kl(student, old, gamma, ratio_limit=10.0):
    """FutureKL_t = sum_{u>=t} M_u gamma**(u-t) log(p/old) (S, T), M_u = 1 if p/old <= ratio_limit.

    eq-fipo.  Of the drawn tokens; 0 for those ``old`` never draws, -inf where the student never
    draws one of them.  arXiv 2603.19835, where gamma = 2**(-1/32).
    """
    gamma = _validate.fraction("gamma", gamma)
    limit = _validate.positive("ratio_limit", ratio_limit)
    change = log_change(student, old)
    return discounted(np.where(change <= np.log(limit), change, 0.0), gamma)


def fipo_weight(student, old, gamma, low, high, ratio_limit=10.0):
    """f_t = exp(FutureKL_t) clipped to [1 - low, 1 + high] (S, T).

    low from 0 to 1, high at least 0.  eq-fipo.
    """
    low, high = _validate.fraction("low", low), _validate.number("high", high)
    if high < 0:
        raise ValueError(f"high is {high!r}; give a number of at least 0")
    with np.errstate(over="ignore"):
        return np.clip(np.exp(future_kl(student, old, gamma, ratio_limit)), 1 - low, 1 + high)


def fipo(student, old, reward, gamma, low, high, ratio_limit=10.0):
    """FIPO: the outcome's advantage, re-weighted at each token by f_t.  eq-fipo.

    Rows are drawn by the policy ``old``; weight -(p/old)(a_t|s_t) f_t (R - E_old R), the
    detached gradient of the token-wise importance-weighted advantage (PPO's clip left out).
    At student = old all f_t are 1.
    """
    weight = fipo_weight(student, old, gamma, low, high, ratio_limit)
    reward = _validate.by_sequence("reward", reward, student)
    drawn_by = old.sequence_probabilities()
    with np.errstate(over="ignore"):
        importance = np.where(drawn_by[:, None] > 0, np.exp(log_change(student, old)), 0.0)
    advantage = reward - drawn_by @ reward
    return SequenceTable(student, -importance * weight * advantage[:, None], None, drawn_by)


def log_change(student, old):
    """log p - log old of the drawn tokens (S, T), 0 where ``old`` never draws."""
    check_same_tree(student, old, ("student", "old"))
    rows = zip(student.log_probabilities, old.log_probabilities, drawable(old))
    return along_sequences(old, [difference(*row) for row in rows])


def _outcome(student, reward, gamma):
    reward = _validate.by_sequence("reward", reward, check_tree("student", student))
    steps_to_the_end = np.arange(student.length - 1, -1, -1)
    return -reward[:, None] * _validate.fraction("gamma", gamma) ** steps_to_the_end


# --- bias against variance -------------------------------------------------------------


def bias_variance_polynomials(student, teacher, signal="sampled"):
    """(|bias|**2, variance) of ``reward_to_go`` as polynomials in gamma.

    Each (2T - 1,), lowest power first.  Exact: the weight is sum_k gamma**k w_k with w_k the
    cost of lag k, so both are quadratic forms in the powers of gamma.  The bias is against
    ``sequence_kl_gradient``.  eq-bias-variance.
    """
    own, others, local = signal_parts(student, teacher, signal)
    lags, never = range(1, student.length), np.zeros(len(own))

    def weights(t):
        return [own[:, t]] + [others[:, t + k] if t + k < student.length else never for k in lags]

    def local_gradients(t):
        none = np.zeros_like(student.probabilities[t])
        return [none if local is None else local[t]] + [none for _ in lags]

    drawn_by = student.sequence_probabilities()
    # gamma**k e_k summed, less its value at gamma = 1: lag 0 drops out.
    bias = expectations(student, drawn_by, weights, local_gradients)
    bias[0] = -bias[1:].sum(axis=0)
    variance = covariances(student, drawn_by, weights, local_gradients)
    return _quadratic(bias @ bias.T), _quadratic(variance)


def best_gamma(student, teacher, samples, signal="sampled"):
    """The gamma in [0, 1] that makes |bias|**2 + variance/samples of ``reward_to_go`` least.

    eq-bias-variance.
    """
    samples = _validate.positive("samples", samples)
    squared_bias, variance = bias_variance_polynomials(student, teacher, signal)
    error = np.polynomial.Polynomial(squared_bias + variance / samples)
    error = error.trim(1e-30 * np.abs(error.coef).max())  # roots() divides by the last coefficient
    turns = np.clip(error.deriv().roots().real, 0, 1) if student.length > 1 else []
    candidates = np.array([0.0, 1.0, *turns])
    return float(candidates[error(candidates).argmin()])


def _quadratic(form):
    """Coefficients of sum_jk form_jk gamma**(j+k): sums over anti-diagonals."""
    return np.array([np.trace(form[::-1], offset) for offset in range(1 - len(form), len(form))])


# --- shared ----------------------------------------------------------------------------


def signal_parts(student, teacher, signal):
    """(own, later, local): a token's cost for itself and for earlier ones (S, T); gradients."""
    _validate.choice("signal", signal, SIGNALS)
    sampled = token_costs(student, teacher)
    if signal == "sampled":
        return sampled, sampled, None
    kls = token_kls(student, teacher)
    if signal == "full_vocabulary_future":
        return sampled, kls, None
    ratios = log_ratios(student, teacher)
    local = tuple(centred(p, ratio) for p, ratio in zip(student.probabilities, ratios))
    return np.zeros_like(kls), kls, local


def _reward_to_go(student, teacher, gamma, signal):
    gamma = _validate.fraction("gamma", gamma)
    own, later, local = signal_parts(student, teacher, signal)
    return own + discounted_later(later, gamma), local


def _with_baseline(student, weights, local, baseline):
    """The table of the weights less a baseline, as ``reward_to_go`` describes it."""
    if baseline is None:
        return SequenceTable(student, weights, local)
    if not isinstance(baseline, str | tuple | list):
        return SequenceTable(student, weights - _validate.number("baseline", baseline), local)
    if isinstance(baseline, tuple | list):
        by_prefix = _validate.by_prefix("baseline", baseline, student)
    elif _validate.choice("baseline", baseline, ("value", "optimal")) == "value":
        by_prefix = prefix_means(student, student.sequence_probabilities(), weights)
    else:
        by_prefix = _optimal_baseline(student, weights)
    return SequenceTable(student, weights - along_sequences(student, by_prefix), local)


def _optimal_baseline(student, weights):
    """E[weight |score|**2 | s_t] / E[|score|**2 | s_t], a tuple of (V**t,)."""
    norm = along_sequences(student, [squared_score_norm(p) for p in student.probabilities])
    chances = student.sequence_probabilities()
    top, bottom = (prefix_means(student, chances, x) for x in (weights * norm, norm))
    return tuple(quotient(a, b) for a, b in zip(top, bottom))
