"""What the page of symptoms computes: old texts, teachers with hints, top-64, rewards on texts."""

import numpy as np

from opd_toy import estimators, objectives, sequences
from opd_toy.distributions import softmax
from opd_toy.example import TEACHER_TREE
from opd_toy.sequences import TokenTree

WEIGHTS = ("no ratio", "ratio", "ratio, cut at 2", "dropped outside .5 to 2", "PPO's clip at .2")


def stale(noise, pairs=200, tokens=500, seed=0):
    """Five weights on tokens that μ drew, μ being the student plus ``noise`` on its logits.

    For each weight (none, the ratio, cut at 2, dropped outside .5 to 2, PPO's clip at .2), in
    medians over random pairs: how far the mean gradient is off, over the exact one's length,
    and the variance, over that of fresh draws.
    """
    generator = np.random.default_rng(seed)
    z = 3 * generator.normal(size=(pairs, tokens))
    teacher, old = (z + scale * generator.normal(size=z.shape) for scale in (1, noise))
    p, q, mu = map(softmax, (z, teacher, old))
    cost, ratio = np.log(p / q), p / mu
    clipped = ((cost < 0) & (ratio > 1.2)) | ((cost > 0) & (ratio < 0.8))
    weights = 1, ratio, ratio.clip(max=2), ratio * ((ratio > 0.5) & (ratio < 2)), ratio * ~clipped
    goal, score = objectives.reverse_kl_logit_gradient(p, q), estimators.squared_score_norm(p)
    fresh = (p * cost**2 * score).sum(-1) - (goal**2).sum(-1)
    for weight in weights:
        mean = mu * weight * cost - p * (mu * weight * cost).sum(-1, keepdims=True)
        second = (mu * (weight * cost) ** 2 * score).sum(-1)
        off = np.linalg.norm(mean - goal, axis=-1) / np.linalg.norm(goal, axis=-1)
        yield np.median(off), np.median((second - (mean**2).sum(-1)) / fresh)


def drift(noise, pairs=200, tokens=500):
    """Under the μ of ``stale``: mean |log p/μ|, the share of p/μ > 2, the mean of log p/μ."""
    generator = np.random.default_rng(0)
    z = 3 * generator.normal(size=(pairs, tokens))
    p, mu = softmax(z), softmax(z + noise * generator.normal(size=z.shape))
    log = np.log(p / mu)
    return [(mu * each).sum(-1).mean() for each in (abs(log), log > np.log(2), log)]


def own_teacher(hinted, rate, steps=2000):
    """The student after descent towards itself with hints: the mean reverse KL over the hints.

    ``hinted`` (hints, V): what each hint makes of equal logits; all hints are equally likely.  The
    teacher's weights move by ``rate`` towards the student's each step.
    """
    student, behind = np.zeros(hinted.shape[1]), np.zeros(hinted.shape[1])
    for _ in range(steps):
        teachers = softmax(behind + np.log(hinted))
        gradient = objectives.reverse_kl_logit_gradient(softmax(student), teachers)
        student = student - gradient.mean(axis=0)
        behind = behind + rate * (student - behind)
    return softmax(student)


def top_64_of(teacher, start, steps=1000):
    """(names of four rules, the logits along descent by each) for the teacher's first 64."""
    first = np.argsort(-teacher)[:64]
    known = np.isin(np.arange(len(teacher)), first)

    def with_excess(z):  # of the sum over the 64 of p log(p/q) + q − p
        now = softmax(z)
        ratio = np.where(known, np.log(now / teacher), 0)
        return now * (ratio - now @ ratio)

    def outside(rule):
        return lambda z: objectives.top_k_reverse_kl_logit_gradient(softmax(z), teacher, 64, rule)

    rules = {"dropped": outside("drop"), "dropped, with Σ (q − p) added": with_excess}
    rules |= {"renormalised": outside("renormalize"), "as one more outcome": outside("tail")}
    return {name: objectives.descend(rule, start, 1.0, steps) for name, rule in rules.items()}


def with_forward_kl(teacher, passing, weight):
    """The probabilities where the forward KL less ``weight`` times a reward is at rest."""

    def step(z):
        now = softmax(z)
        pull = objectives.forward_kl_logit_gradient(now, teacher)
        return pull - weight * now * (passing - now @ passing)

    return softmax(objectives.descend(step, np.log(teacher), rate=1.0, steps=500)[-1])


def factor_on_the_odds(weight):
    """By how much the usual mixture multiplies the odds of passing: texts of two tokens."""
    passes = (TEACHER_TREE.tokens()[:, 1] == 0).astype(float)
    tree = TEACHER_TREE
    for _ in range(500):
        pull = sequences.on_policy_gkd_gradient(tree, TEACHER_TREE)
        step = 2 * (pull + weight * sequences.outcome(tree, passes).expectation())
        moves = step[:3].reshape(1, 3), step[3:].reshape(3, 3)
        tree = TokenTree([z - move for z, move in zip(tree.logits, moves)])
    assert np.linalg.norm(step) < 1e-6
    then, now = (each.sequence_probabilities() @ passes for each in (TEACHER_TREE, tree))
    return now / (1 - now) * (1 - then) / then


def factor_of_eight(weight):
    """The same where a text passes if each of eight tokens is right; the teacher gives each .5."""
    passing, teacher = 1.0, 0.5**8
    for _ in range(8):  # from the last token back: a right one is worth the chance behind it
        odds = np.exp(weight * passing)
        passing *= odds / (odds + 1)
    return passing / (1 - passing) * (1 - teacher) / teacher
