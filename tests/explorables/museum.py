"""What the museum of losses ought to show.

The tables of a wrong and a right loss are the engine's here; tests/test_museum.py holds them
against the exhibits' own code and autograd.
"""

import functools
import math

import numpy as np

from opd_toy import distributions, estimators, objectives
from opd_toy.example import TOKENS
from tests.explorables.draws_and_descents import uniforms
from tests.explorables.reading import all_of, pair, rounded, same, word


def alike(gradient):
    """The same row whichever token is drawn."""
    return np.tile(gradient, (len(gradient), 1))


def tempered(p, q):
    """Gradient of the forward KL at temperature 2 in the logits before it."""
    return alike(
        objectives.forward_kl_logit_gradient(
            *(distributions.softmax(np.log(x) / 2) for x in (p, q))
        )
        / 2
    )


def clamped_k3(p, q):
    table = estimators.k_estimator_as_loss(p, q, "k3")
    table[estimators.k_estimator(p, q, "k3") > 10] = 0
    return table


def top_two(outside):
    return lambda p, q: alike(objectives.top_k_reverse_kl_logit_gradient(p, q, 2, outside))


def of_estimator(kind):
    return lambda p, q: estimators.k_estimator_as_loss(p, q, kind)


def forward_everywhere(p, q):
    return alike(objectives.forward_kl_logit_gradient(p, q))


MUSEUM = {
    "k1": (of_estimator("k1"), estimators.policy_gradient),
    "k3": (of_estimator("k3"), of_estimator("k2")),
    "advantage": (estimators.full_vocabulary_advantage, estimators.gkd),
    "stop_gradient": (
        lambda p, q: (
            estimators.policy_gradient(p, q)
            + estimators.policy_gradient(p, np.full(3, 1 / 3))
            + np.log(1 / 3) * estimators.k_estimator_as_loss(p, q, "k1")
        ),
        estimators.policy_gradient,
    ),
    "direction": (forward_everywhere, estimators.gkd),
    "beta": (
        lambda p, q: alike(objectives.generalized_jsd_logit_gradient(p, q, 0.999)),
        estimators.gkd,
    ),
    "tail": (top_two("drop"), top_two("tail")),
    "value_clamp": (clamped_k3, forward_everywhere),
    "ratio_clamp": (
        lambda p, q: estimators.truncated_policy_gradient(p, q, 1.0),
        estimators.policy_gradient,
    ),
    "temperature": (tempered, lambda p, q: 4 * tempered(p, q)),
}


@functools.cache
def museum_end(name, side, p, q, count, seed):
    """The student after ``count`` steps of size 0.2; ``seed`` None: on the expected gradient."""
    table, p, q = MUSEUM[name][side], np.array(p), np.array(q)
    for uniform in [None] * count if seed is None else uniforms(seed, count):
        row = (
            estimators.expectation(p, table(p, q))
            if seed is None
            else table(p, q)[min((uniform >= np.cumsum(p)).sum(), 2)]
        )
        p = distributions.softmax(np.log(p) - 0.2 * row)
    return p


def loss_museum(seen, widget):
    p, q = pair(seen)
    name, count = seen.choices["exhibit"], int(seen.slider("steps"))
    assert seen.code == widget.code[name]
    seed = int(seen.slider("seed")) if seen.choices["update"] == "drawn" else None
    tables = [table(p, q) for table in MUSEUM[name]]
    means = [estimators.expectation(p, table) for table in tables]
    ends = [museum_end(name, side, tuple(p), tuple(q), count, seed) for side in (0, 1)]
    shown, divergences = seen.table(0), seen.table(1)
    same("q", shown[:, 4], q)
    for side in (0, 1):
        scale = np.abs(tables[side]).max()
        # a random walk drives two starts apart, and so the last digit
        adrift = 1e4 if seed and side == 0 and name in ("k1", "advantage") else 0
        same("expected gradient", shown[:, side], means[side], max(scale, 1e-3))
        same("end", shown[:, 2 + side], ends[side], adrift or 1)
        same("variance", divergences[side, 0], estimators.total_variance(p, tables[side]), scale**2)
        same(
            "divergences",
            divergences[side, 1:],
            [objectives.reverse_kl(ends[side], q), objectives.forward_kl(ends[side], q)],
            adrift or 1e-2,
        )
    same(
        "before",
        divergences[2, 1:],
        [objectives.reverse_kl(p, q), objectives.forward_kl(p, q)],
        1e-3,
    )
    assert float(np.abs(shown[:, 2:].sum(axis=0) - 1).max()) < 1e-12
    check_museum_sentence(
        seen,
        name,
        p,
        q,
        *means,
        count,
        [divergences[side, 1 + (name in ("value_clamp", "temperature"))] for side in (2, 0, 1)],
    )


def check_museum_sentence(seen, name, p, q, wrong, right, count, values):
    told = [[word(g) for g in gradient] for gradient in (wrong, right)]
    moved = lambda words, which: all_of(
        [
            f"{verb} {all_of(tokens)}"
            for verb in ("raises", "lowers", "leaves")
            if (tokens := [TOKENS[v] for v in range(3) if words[v] == verb and which[v]])
        ]
    )
    still = [set(words) == {"leaves"} for words in told]
    odd = [a != b for a, b in zip(*told)]
    if all(still):
        assert " Here neither pushes any token. " in seen.sentence
    elif still[0]:
        assert (
            " It pushes no token, "
            f"where the right loss {moved(told[1], [x != 'leaves' for x in told[1]])}. "
            in seen.sentence
        )
    elif still[1]:
        assert (
            f" Where the right loss rests, it {moved(told[0], [x != 'leaves' for x in told[0]])}. "
            in seen.sentence
        )
    elif any(odd):
        assert (
            f" It {moved(told[0], odd)}, where the right loss {moved(told[1], odd)}. "
            in seen.sentence
        )
    elif np.abs(wrong - right).max() < 1e-10 * np.linalg.norm(right):
        assert " Here its push is the right one's. " in seen.sentence
    else:
        ratio = np.linalg.norm(wrong) / np.linalg.norm(right)
        assert (
            " the same way as the right loss, "
            f"{rounded(ratio, 4 if ratio < 0.1 else 2)} times as hard. " in seen.sentence
        )
    own = (
        " It pushes " not in seen.sentence
        or name not in ("k1", "advantage")
        or "no token" in seen.sentence
    )
    assert own, "what is zero in expectation pushes nothing"
    ratio = np.log(q / p)
    if name == "value_clamp":
        dead = [TOKENS[v] for v in range(3) if np.expm1(ratio[v]) - ratio[v] > 10]
        assert seen.sentence.startswith(
            f"A draw beyond log(q/p) = 2.61 has no gradient: drawing {all_of(dead)} teaches nothing"
            if dead
            else "No token is beyond log(q/p) = 2.61"
        )
    if name == "ratio_clamp":
        cut = [TOKENS[v] for v in range(3) if abs(ratio[v]) > 1]
        assert seen.sentence.startswith(
            f"The log-ratio of {all_of(cut)} is cut to ±1" if cut else "No log-ratio is beyond ±1"
        )
    if name == "stop_gradient":
        root = np.sqrt(q) / np.sqrt(q).sum()
        there = f"({', '.join(rounded(x, 2) for x in root)})"
        even = there == f"({', '.join(rounded(x, 2) for x in q)})"
        assert (
            "here the even teacher itself" if even else f"here {there} and not the teacher"
        ) in seen.sentence
    if name == "tail":
        out = int(np.argsort(-q, kind="stable")[2])
        assert (
            f"and the rest, {rounded(1 - (1 - q[out]) / math.e, 2)}, on {TOKENS[out]}, "
            f"where the teacher has {rounded(q[out], 2)}." in seen.sentence
        )
    if name == "advantage":
        assert f"KL(p‖q) = {rounded(float(objectives.reverse_kl(p, q)), 2)} stands" in seen.sentence
    what = "forward KL" if name in ("value_clamp", "temperature") else "reverse KL"
    before, after, with_right = (rounded(x, 3) for x in values)
    if count == 0:
        assert seen.sentence.endswith(f"Before the first step {what} is {before}.")
    else:
        unit = "step" if seen.choices["update"] == "expected" else "drawn token"
        steps = f"{count} {unit}{'s' if count > 1 else ''}"
        assert seen.sentence.endswith(
            f"After {steps} {what}, {before} at first, is {after} with the wrong loss "
            f"and {with_right} with the right one."
        )
