"""Figures of chapter 9, from the engine: an older student drew the token, or wrote the text."""

import numpy as np

from opd_toy import objectives, off_policy, sequences
from opd_toy.distributions import softmax
from opd_toy.estimators import expectation, policy_gradient, total_variance
from opd_toy.example import STUDENT, TEACHER
from opd_toy.pages.numbers import listed, plain, signed
from opd_toy.sequences import TokenTree

OLD = np.array([0.4, 0.3, 0.3])
CORRECTIONS = {
    "ratio": ("ratio", None),
    "truncated at 1.2": ("truncate", 1.2),
    "masked outside .6 to 1.5": ("mask", (0.6, 1.5)),
    "clipped at .2": ("clip", (0.2, 0.2)),
}


def mean(*arguments, behaviour=OLD, student=STUDENT, **options):
    table = off_policy.policy_gradient(student, TEACHER, behaviour, *arguments, **options)
    return expectation(behaviour, table)


def off(found, goal=None):
    """The distance from the right gradient over its length."""
    goal = objectives.reverse_kl_logit_gradient(STUDENT, TEACHER) if goal is None else goal
    share = np.linalg.norm(found - goal) / np.linalg.norm(goal)
    return plain(share if share > 1e-12 else 0.0, 3)


def ratio():
    return f"ratios {listed(off_policy.ratio(STUDENT, OLD))}: mean {signed(mean())}"


def no_ratio():
    resting = mean("none", student=TEACHER)
    return f"mean {signed(mean('none'))}, off by {off(mean('none'))}; at q {signed(resting)}"


def kept():
    resting = mean(student=TEACHER, cost="kept")
    return f"with the ratio off by {off(mean(cost='kept'))}; at q {signed(resting)}"


def corrections():
    unit = total_variance(STUDENT, policy_gradient(STUDENT, TEACHER))

    def cell(name, correction):
        table = off_policy.policy_gradient(STUDENT, TEACHER, OLD, *correction)
        return f"{name} {off(mean(*correction))}, {plain(total_variance(OLD, table) / unit)}"

    cells = [cell(*item) for item in CORRECTIONS.items()]
    return "bias and variance over those of fresh tokens: " + "; ".join(cells)


def products():
    one = off_policy.second_moment(STUDENT, OLD)
    return f"1 + χ² = {plain(one, 4)}; after 10 tokens {plain(one**10)}, after 100 {one**100:.1e}"


def trees():
    """Student, teacher and behaviour: 729 texts of six tokens."""
    student, teacher, moves = (TokenTree.random(3, 6, seed) for seed in (0, 100, 200))
    moved = (z + 0.5 * move for z, move in zip(student.logits, moves.logits))
    return student, teacher, TokenTree(tuple(moved))


def prefixes():
    found = trees()
    goals = {
        0.0: sequences.on_policy_gkd_gradient(*found[:2]),
        1.0: sequences.sequence_kl_gradient(*found[:2]),
    }

    def biases(gamma):
        tables = {
            kind: sequences.off_policy_reward_to_go(*found, gamma, kind)
            for kind in sequences.RATIOS
        }
        return ", ".join(
            f"{kind} {off(table.expectation(), goals[gamma])}" for kind, table in tables.items()
        )

    return f"off by, at γ = 0: {biases(0.0)}; at γ = 1: {biases(1.0)}"


def gkd():
    student, teacher, behaviour = trees()
    stale = sequences.off_policy_gkd_gradient(student, teacher, behaviour)
    resting = sequences.off_policy_gkd_gradient(teacher, teacher, behaviour)
    away = off(stale, sequences.on_policy_gkd_gradient(student, teacher))
    return f"off by {away} on old text; at the teacher {plain(np.linalg.norm(resting), 1)}"


def directions():
    """How far the drawn forward KL's mean is off: weight q/p without the ratio, q/μ kept."""
    forward = objectives.forward_kl_logit_gradient(STUDENT, TEACHER)
    score = np.eye(3) - STUDENT

    def drawn(weights):
        return off(OLD @ (weights[:, None] * score), forward)

    return (
        f"drawn, anew, no ratio: reverse {off(mean('none'))}, forward {drawn(-TEACHER / STUDENT)}; "
        f"kept: reverse {off(mean('none', cost='kept'))}, forward {drawn(-TEACHER / OLD)}"
    )


def samplers():
    found = {
        "temperature .7": softmax(np.log(STUDENT) / 0.7),
        "top-p .8": np.array([0, *STUDENT[1:]]) / STUDENT[1:].sum(),
    }
    cells = [
        f"{name} {off(mean('none', behaviour=mu))}, with the ratio {off(mean(behaviour=mu))}"
        for name, mu in found.items()
    ]
    return "off by: " + "; ".join(cells)
