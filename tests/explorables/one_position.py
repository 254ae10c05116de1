"""What the sliders of one position ought to show, by the engine."""

import math

import numpy as np

from opd_toy import distributions, estimators, objectives
from opd_toy.example import TOKENS
from tests.explorables.reading import pair, rounded, same, word

SIMPLE = {
    "forward_kl": objectives.forward_kl_logit_gradient,
    "reverse_kl": objectives.reverse_kl_logit_gradient,
}


def rescaled(jsd):
    """Over β(1 − β); at its ends, where it is a KL, as it is."""
    return lambda p, q, beta: jsd(p, q, beta) / (beta * (1 - beta) if 0 < beta < 1 else 1)


WITH_PARAMETER = {
    "jsd": ("beta", objectives.generalized_jsd_logit_gradient),
    "rescaled_jsd": ("beta", rescaled(objectives.generalized_jsd_logit_gradient)),
    "alpha": ("alpha", objectives.alpha_divergence_logit_gradient),
    "skewed_forward_kl": ("skew", objectives.skewed_forward_kl_logit_gradient),
    "skewed_reverse_kl": ("skew", objectives.skewed_reverse_kl_logit_gradient),
}
COSTS = {
    "forward_kl": objectives.forward_kl,
    "reverse_kl": objectives.reverse_kl,
    "jsd": objectives.generalized_jsd,
    "rescaled_jsd": rescaled(objectives.generalized_jsd),
    "alpha": objectives.alpha_divergence,
    "skewed_forward_kl": objectives.skewed_forward_kl,
    "skewed_reverse_kl": objectives.skewed_reverse_kl,
}


def gradient_of(key, p, q, seen):
    if key in SIMPLE:
        return SIMPLE[key](p, q)
    parameter, gradient = WITH_PARAMETER[key]
    return gradient(p, q, seen.slider(parameter))


def cost_of(key, p, q, seen):
    return (
        COSTS[key](p, q) if key in SIMPLE else COSTS[key](p, q, seen.slider(WITH_PARAMETER[key][0]))
    )


def push_and_pull(seen, widget):
    p, q = pair(seen)
    table = seen.table(0)
    same("p", table[:, 0], p)
    same("q", table[:, 1], q)
    same("log p/q", table[:, 2], distributions.log_ratio(p, q))
    for column, key in enumerate(widget.objectives, start=3):
        same(key, table[:, column], gradient_of(key, p, q, seen))
    j, chosen = int(seen.choices["token"]) - 1, seen.choices["objective"]
    forward, reverse = (word(gradient(p, q)[j]) for gradient in SIMPLE.values())
    if forward == reverse:
        assert f"both forward and reverse KL {forward[:-1]} it" in seen.sentence
    else:
        ratio, divergence = math.log(p[j] / q[j]), float(objectives.reverse_kl(p, q))
        assert f"forward KL {forward} it, but reverse KL {reverse} it" in seen.sentence
        assert (
            f"log-ratio {rounded(ratio, 2)} is {'below' if ratio < divergence else 'above'} "
            f"the average, KL(p‖q) = {rounded(divergence, 2)}" in seen.sentence
        )
    assert (
        f"{TOKENS[j]} has {rounded(p[j], 2)} from the student "
        f"and {rounded(q[j], 2)} from the teacher" in seen.sentence
    )
    assert seen.sentence.endswith(f"from here is {rounded(float(cost_of(chosen, p, q, seen)), 3)}.")


LABELS = [*TOKENS, "t₄", "t₅"]


def hard_to_soft(seen, widget):
    p, q = pair(seen)
    s, n = seen.slider("sharpness"), int(seen.choices["token"]) - 1
    hard = np.eye(5)[n]
    label = (1 - s) * q + s * hard
    table = seen.table(0)
    same("p", table[:, 0], p)
    same("label", table[:, 1], label)
    same("SeqKD", table[:, 2], objectives.forward_kl_logit_gradient(p, label))
    same("SFT", table[:, 3], objectives.forward_kl_logit_gradient(p, hard))
    forward, entropy = objectives.forward_kl(p, label), distributions.entropy(label)
    same("forward KL", seen.number("forward-kl"), forward)
    same("entropy", seen.number("entropy"), entropy)
    same("soft-label loss", seen.number("loss"), forward + entropy)
    same("distance", seen.number("distance"), np.linalg.norm(label - hard), scale=1)
    same("distance at first", seen.number("distance-soft"), np.linalg.norm(q - hard))
    where = {
        0: "The label is the teacher's distribution",
        1: f"The label is one-hot on {LABELS[n]}: the SeqKD gradient is SFT's, "
        f"the loss −log {rounded(p[n], 2)} = {rounded(-math.log(p[n]), 2)}",
    }
    assert seen.sentence.startswith(
        where.get(
            s,
            f"The label is {rounded(s, 2)} of the way from the teacher's distribution "
            f"to one-hot on {LABELS[n]}.",
        )
    )
    soft, sharp = p - q, p - hard
    opposed = [v for v in range(5) if soft[v] * sharp[v] < -1e-12]
    if np.all(np.abs(soft) < 5e-7):
        assert "The student is the teacher already" in seen.sentence
    elif not opposed:
        assert "push no token in opposite directions" in seen.sentence
    else:
        v = max(opposed, key=lambda v: abs(soft[v]))
        assert (
            f"Student and teacher give {LABELS[v]} {rounded(p[v], 2)} and {rounded(q[v], 2)}:"
            in seen.sentence
        )
        assert (
            f"the soft label {word(soft[v])} it, the hard label {LABELS[n]} {word(sharp[v])} it"
            in seen.sentence
        )
        turn = (p[v] - q[v]) / (hard[v] - q[v])  # where (1 - s) q + s hard = p
        assert f"turns at {'sharpness ' if s in (0, 1) else ''}{rounded(turn, 2)}." in seen.sentence
        if 0 < s < 1:
            now = word(p[v] - label[v])
            assert (
                f"This label {'leaves it where it is' if now == 'leaves' else f'{now} it'};"
                in seen.sentence
            )


def which_token(seen, widget):
    p, q = pair(seen)
    k = int(seen.choices["token"]) - 1
    exact, table = estimators.gkd(p, q)[0], estimators.policy_gradient(p, q)
    scale = np.abs(table).max()
    mean = estimators.expectation(p, table)
    spread = np.sqrt([estimators.total_variance(p, table[:, [j]]) for j in range(3)])
    rows = seen.table(0)
    for label, column, engine in [("p", 0, p), ("q", 1, q), ("GKD", 2, exact), ("PG", 3, table[k])]:
        same(label, rows[:, column], engine)
    draws = seen.table(1)
    same("PG, every draw", draws[:3, 1:], table)
    same("its probability", draws[:3, 0], p)
    same("mean", draws[3, 1:], mean, scale)
    same("GKD", draws[4, 1:], exact)
    same("spread", draws[5, 1:], spread, scale)
    same(
        "total variance",
        seen.number("total-variance"),
        estimators.total_variance(p, table),
        scale**2,
    )
    assert seen.number("gkd-variance") == 0
    ratio = distributions.log_ratio(p, q)[k]
    others = [v for v in range(3) if v != k]
    if np.all(np.abs(table[k]) < 5e-7):
        assert f"{TOKENS[k]} drawn: student and teacher agree on it" in seen.sentence
    else:
        assert (
            f"PG {'lowers it and raises' if ratio > 0 else 'raises it and lowers'} both others, "
            f"as {rounded(p[others[0]], 2)} : {rounded(p[others[1]], 2)}, the student's odds, "
            f"whatever the teacher's ({rounded(q[others[0]], 2)} : {rounded(q[others[1]], 2)})."
            in seen.sentence
        )
        sign = "+" if float(rounded(abs(ratio), 2)) and ratio > 0 else ""
        assert f"{TOKENS[k]} drawn, log-ratio {sign}{rounded(ratio, 2)}." in seen.sentence
        assert all((table[k][v] > 0) != (table[k][k] > 0) for v in others)
    chances = [
        [
            p[[word(table[row, v]) == kind for row in range(3)]].sum()
            for kind in ("raises", "lowers")
        ]
        for v in range(3)
    ]
    torn = [min(pair_) for pair_ in chances]
    if max(torn) == 0:
        assert "No token's direction depends on the draw" in seen.sentence
    else:
        v = next(v for v in range(3) if f"Over the draws {TOKENS[v]} is raised" in seen.sentence)
        assert torn[v] >= max(torn) - 1e-9
        assert (
            f"raised with probability {rounded(chances[v][0], 2)} "
            f"and lowered with {rounded(chances[v][1], 2)}; GKD {word(exact[v])} it every time"
            in seen.sentence
        )


K_ESTIMATORS = [(kind, use) for kind in ("k1", "k2", "k3") for use in ("loss", "reward")]


def k_table(kind, use, p, q):
    return getattr(estimators, f"k_estimator_as_{use}")(p, q, kind)


def baselines(seen, widget):
    p, q = pair(seen)
    reverse, forward = (gradient(p, q) for gradient in SIMPLE.values().__reversed__())
    if seen.choices["view"] == "baseline":
        b = seen.slider("baseline")
        least = estimators.optimal_baseline(p, q)
        marks = [b, -1, 0, float(distributions.kl(p, q)), least]
        tables = [estimators.policy_gradient(p, q, at) for at in marks] + [
            estimators.full_vocabulary_advantage(p, q)
        ]
        shown = seen.table(0)
        same("b", shown[:5, 0], marks)
        check_tables(p, shown, tables)
        same(
            "variance now",
            seen.number("variance"),
            estimators.total_variance(p, tables[0]),
            np.abs(tables[0]).max() ** 2,
        )
        same("b now", seen.number("b"), b)
        check_baseline_sentence(
            seen, p, q, *(estimators.total_variance(p, table) for table in tables)
        )
        return
    tables = [k_table(kind, use, p, q) for kind, use in K_ESTIMATORS]
    shown = seen.table(1)
    check_tables(p, shown[:6], tables)
    same("reverse KL", shown[6, 2:], reverse)
    same("forward KL", shown[7, 2:], forward)
    chosen = K_ESTIMATORS.index((seen.choices["kind"], seen.choices["use"]))
    total = estimators.total_variance(p, tables[chosen])
    same("variance", seen.number("estimator-variance"), total, np.abs(tables[chosen]).max() ** 2)
    known = {
        "nothing: mean 0": 0 * reverse,
        "reverse KL": reverse,
        "forward KL": forward,
        "reverse − forward": reverse - forward,
    }
    if np.abs(p - q).max() < 1e-9:
        assert "Student and teacher agree" in seen.sentence
        return
    for (kind, use), table, texts in zip(K_ESTIMATORS, tables, seen.texts[1]):
        size = np.abs(table).max() + np.abs(reverse).max() + np.abs(forward).max()
        found = [
            name
            for name, gradient in known.items()
            if np.abs(estimators.expectation(p, table) - gradient).max() <= 1e-9 * size
        ]
        assert texts[0] == (" and ".join(found) if found else "none of these"), (
            kind,
            use,
            texts[0],
            found,
        )
    assert seen.html.count(f"It follows: {seen.texts[1][chosen][0]}") == 1
    assert seen.sentence.startswith(f"{seen.choices['kind']} as a {seen.choices['use']}. ")
    plain = estimators.total_variance(p, estimators.policy_gradient(p, q))
    digits = 4 if total < 0.1 * plain else 2
    spread = (
        "the same as plain policy gradient's"
        if abs(total - plain) <= 1e-9 * max(total, plain, 1e-9)
        else f"{rounded(total / plain, digits)} times plain policy gradient's {rounded(plain, 3)}"
    )
    assert seen.sentence.endswith(f"Its total variance is {rounded(total, 3)}, {spread}.")
    mean = estimators.expectation(p, tables[chosen])
    against = [
        TOKENS[j]
        for j in range(3)
        if mean[j] * reverse[j] < -1e-12 and mean[j] * forward[j] < -1e-12
    ]
    assert ("against both KLs" in seen.sentence) == bool(against)
    assert not against or f"It moves {' and '.join(against)} against both KLs." in seen.sentence


def check_tables(p, shown, tables):
    """Columns after the first: total variance, and the mean on each token."""
    for row, table in zip(shown, tables, strict=True):
        scale = np.abs(table).max()
        same("variance", row[1], estimators.total_variance(p, table), scale**2)
        same("mean", row[2:], estimators.expectation(p, table), scale)


def check_baseline_sentence(seen, p, q, now, _, plain, with_kl, least, advantage):
    b = seen.slider("baseline")
    if np.abs(p - q).max() < 1e-12:
        assert "Student and teacher agree" in seen.sentence
        return
    alike = lambda x, y: abs(x - y) <= 1e-9 * max(x, y, 1e-9)
    assert f"total variance is {rounded(now, 3)}" in seen.sentence
    if b == 0:
        assert seen.sentence.startswith("Without a baseline")
    elif alike(now, plain):
        assert f"{rounded(now, 3)}, as much as plain policy gradient's." in seen.sentence
    else:
        per_cent = lambda share: f"{rounded(100 * share, 0)} %"
        times = (
            f"{per_cent(1 - now / plain)} below"
            if now < plain
            else f"{per_cent(now / plain - 1)} above"
            if now < 2 * plain
            else f"{rounded(now / plain, 1)} times"
        )
        assert f", {times} plain policy gradient's {rounded(plain, 3)}." in seen.sentence
    verdict = (
        "the least that any can give"
        if alike(with_kl, least)
        else "as much as without one"
        if alike(with_kl, plain)
        else "more than without one"
        if with_kl > plain
        else "less than without one"
    )
    assert f"as the baseline it is {rounded(with_kl, 3)}, {verdict}" in seen.sentence
    assert f"has mean 0 and variance {rounded(advantage, 3)}" in seen.sentence
    if not alike(with_kl, least):
        best = estimators.optimal_baseline(p, q)
        assert f"The least is {rounded(least, 3)}, at b = {rounded(best, 2)}." in seen.sentence
