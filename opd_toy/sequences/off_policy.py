"""Texts that another policy wrote: the estimators of the sequence gradient, and what corrects them.

The ``behaviour`` mu draws the sequences, a third ``TokenTree`` beside student p and teacher q.
The ratio of a token is rho_t = p(a_t|s_t)/mu(a_t|s_t), the product of those before it
P_t = rho_1 ... rho_{t-1}.  The tables are drawn by mu; what mu never draws counts for nothing, and
no weight brings it back.  ValueError where mu can draw a token that the student bars, as its
cost would be infinite.  Otherwise as ``opd_toy.sequences.estimators``.
"""

import numpy as np

from opd_toy import _validate
from opd_toy.distributions import quotient
from opd_toy.sequences.estimators import log_change, signal_parts
from opd_toy.sequences.table import SequenceTable
from opd_toy.sequences.trees import (
    along_sequences,
    centred,
    check_same_tree,
    discounted_later,
    drawable,
    flat,
    log_ratios,
    prefix_at,
)

RATIOS = ("none", "token", "prefix", "both", "each")


def off_policy_reward_to_go(student, teacher, behaviour, gamma, ratios="token", signal="sampled"):
    """``reward_to_go`` on texts of the behaviour.  eq-each-cost-its-ratio.

    ``ratios`` multiply the weight of the token at t:
    "none" by 1; "token" by rho_t, the draw of this token; "prefix" by P_t, the prefix it stands
    at; "both" by P_t rho_t; "each" every cost by the ratios up to its own token, P_{u+1} r_u: the
    only one that is unbiased for ``sequence_kl_gradient`` at gamma = 1.  At gamma = 0 "both" is
    "each", unbiased for ``on_policy_gkd_gradient``, and "token" for ``off_policy_gkd_gradient``.
    A full-vocabulary cost KL_u needs no ratio of its own token, and a local gradient P_t alone.
    """
    _validate.choice("ratios", ratios, RATIOS)
    gamma = _validate.fraction("gamma", gamma)
    token = token_ratios(student, behaviour)
    own, later, local = signal_parts(student, teacher, signal)
    with np.errstate(over="ignore", invalid="ignore"):
        product = np.cumprod(token, axis=1)
    if not np.isfinite(product).all():
        raise ValueError(
            "behaviour gives a text so little probability, compared with the student, that its "
            f"product of ratios is {float(np.nanmax(product))!r}; give it -inf there, a text that "
            "is never drawn, or logits closer to the student's"
        )
    before = np.concatenate([np.ones((len(token), 1)), product[:, :-1]], axis=1)
    if ratios == "each":
        sampled = signal == "sampled"
        weights = product * own + discounted_later((product if sampled else before) * later, gamma)
    else:
        factor = {"none": 1.0, "token": token, "prefix": before, "both": product}[ratios]
        weights = factor * (own + discounted_later(later, gamma))
    if local is not None and ratios in ("prefix", "both", "each"):
        visits = zip(student.prefix_probabilities(), behaviour.prefix_probabilities(), local)
        local = tuple(quotient(p, mu)[:, None] * gradient for p, mu, gradient in visits)
    return SequenceTable(student, weights, local, behaviour.sequence_probabilities())


def off_policy_gkd_gradient(student, teacher, behaviour):
    """E_mu sum_t gradient of KL_t (P,): full-vocabulary gradients at the prefixes that mu visits.

    No ratio of a token enters: only the weights of the prefixes are mu's.  eq-gkd-on-stale-text.
    """
    _check_behaviour(student, behaviour)
    rows = zip(
        behaviour.prefix_probabilities(), student.probabilities, log_ratios(student, teacher)
    )
    return flat(visit[:, None] * centred(p, ratio) for visit, p, ratio in rows)


def token_ratios(student, behaviour):
    """rho_t = p(a_t|s_t)/mu(a_t|s_t) (S, T), 0 where mu never draws."""
    _check_behaviour(student, behaviour)
    drawn = along_sequences(behaviour, list(drawable(behaviour)))
    with np.errstate(over="ignore"):
        return np.where(drawn, np.exp(log_change(student, behaviour)), 0.0)


def ratio_second_moments(student, behaviour):
    """E_mu[(rho_1 ... rho_t)**2] for t = 1 ... T (T,): 1 + chi-squared of the first t tokens.

    The effective sample size, as a share of the texts, is one over it.  +inf where mu bars a text
    of the student's.  eq-ratio-variance-grows.
    """
    _check_behaviour(student, behaviour)
    chances = [
        (*tree.prefix_probabilities()[1:], tree.sequence_probabilities())
        for tree in (student, behaviour)
    ]
    barred = [((p > 0) & (mu == 0)).any() for p, mu in zip(*chances)]
    with np.errstate(over="ignore"):
        moments = [(p * quotient(p, mu)).sum() for p, mu in zip(*chances)]
    return np.where(barred, np.inf, moments)


def _check_behaviour(student, behaviour):
    check_same_tree(student, behaviour, ("student", "behaviour"))
    for t, (drawn, log_p) in enumerate(zip(drawable(behaviour), student.log_probabilities)):
        barred = np.argwhere(drawn & np.isneginf(log_p))
        if len(barred):
            raise ValueError(
                f"student gives probability 0 to token {int(barred[0][1])} after the prefix "
                f"{prefix_at(student, t, barred[0][0])}, where the behaviour can draw it: its cost "
                "is infinite; give the student's logit a finite value there, or set the "
                "behaviour's to -inf too"
            )
