"""Reading and moving an explorable in a page, and what it ought to show.

The engine is the judge: ``check(page, place, widget)`` reads the state that the controls show and
every number beside them, and compares the numbers with the engine's at that state.
"""

import functools
import json
import math
import re
from decimal import ROUND_HALF_UP, Decimal

import numpy as np
import pytest

from opd_toy import distributions, estimators, explorables, objectives, sequences
from opd_toy.records import provenance

TOLERANCE = 1e-12  # relative to the largest of the numbers compared together
WIDGETS = {name: getattr(explorables, name) for name in explorables.__all__}


def page_of(*widgets, theme="light", style=""):
    """A page around some explorables, as bare as can be."""
    paper = "#14181e" if theme == "dark" else "#ffffff"
    return (
        f'<!doctype html><html lang="en" data-theme="{theme}"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><title>Explorables</title>'
        f"<style>body{{margin:8px;background:{paper};font:16px/1.5 sans-serif}}{style}</style>"
        f"<body><main>{''.join(widget.to_html() for widget in widgets)}</main></body></html>"
    )


# ---- reading ----

READ = """(root) => {
  const all = (selector, within = root) => [...within.querySelectorAll(selector)];
  return {
    outputs: Object.fromEntries(all("input[type=range]").filter((input) => input.offsetParent).map((input) => [input.name, input.closest("label").querySelector("output").dataset.value])),
    thumbs: all("input[type=range]").filter((input) => input.offsetParent).map((input) => [input.name, Number(input.value), Number(input.step), input.ariaValueText]),
    choices: Object.fromEntries(all(".opd-choice").filter((group) => group.offsetParent).map((group) => [group.dataset.name, group.querySelector("input:checked")?.value ?? null])),
    switched: all(".opd-checks input:checked").map((input) => input.value),
    rows: all(".opd-table").map((table) => all("tbody tr", table).map((row) => (row.hidden ? null : row.dataset.row ?? null))),
    tables: all(".opd-table").map((table) => all("tbody tr", table).map((row) => all("td", row).map((cell) => cell.dataset.value ?? null))),
    texts: all(".opd-table").map((table) => all("tbody tr", table).map((row) => all("td", row).map((cell) => cell.textContent))),
    numbers: Object.fromEntries(all("[data-name][data-value]").map((node) => [node.dataset.name, node.dataset.value])),
    words: Object.fromEntries(all(".opd-number[data-name]").map((node) => [node.dataset.name, node.textContent])),
    printed: all("[data-value]").map((node) => [node.dataset.value, node.textContent]),
    says: all("[aria-live]").map((node) => node.textContent),
    html: root.textContent,
  };
}"""


class Seen:
    """What an explorable shows, read off its elements."""

    def __init__(self, raw):
        self.__dict__.update(raw)

    def distribution(self, who):
        return self.slider(
            *(name for name in sorted(self.outputs) if re.fullmatch(rf"{who}-\d+", name))
        )

    def slider(self, *names):
        values = np.array([float(self.outputs[name]) for name in names])
        return values if len(names) > 1 else float(values[0])

    def number(self, name):
        return float(self.numbers[name])

    def table(self, index):
        """The table's numbers; NaN where a cell holds none."""
        return np.array(
            [
                [
                    np.nan if x is None or not x.strip() else float(x.replace("Infinity", "inf"))
                    for x in row
                ]
                for row in self.tables[index]
            ]
        )

    @property
    def sentence(self):
        assert len(self.says) == 1, f"{len(self.says)} live regions"
        return self.says[0]


def read(root):
    return Seen(root.evaluate(READ))


def rounded(x, digits):
    """A number as the page prints it: halves away from zero, a true minus."""
    if math.isinf(x):
        return "∞" if x > 0 else "−∞"
    text = str(abs(Decimal(x)).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP))
    return f"−{text}" if x < 0 and float(text) else text


def in_powers(x):
    """Two digits and a power of ten: 3.1×10⁴."""
    mantissa, power = f"{x:.1e}".split("e")
    return f"{mantissa}×10" + str(int(power)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def check_printed(seen):
    """Every number printed is the whole one beside it, rounded; every arrow points its way;
    every thumb stands where its number says, and a screen reader is told that number."""
    assert seen.printed
    for name, place, step, told in seen.thumbs:
        value = float(seen.outputs[name])
        assert abs(place - value) <= step / 2 + 1e-9 or name in ("draws", "samples"), (
            f"{name} is {value}, its thumb at {place}"
        )
        assert told and float(re.match("[−\\d.]+", told)[0].replace("−", "-")) == pytest.approx(
            value, abs=0.0501
        )
    for value, text in seen.printed:
        if re.fullmatch("\\d\\.\\d×10[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+", text):
            assert text == in_powers(float(value)), f"{value} is printed as {text!r}"
            continue
        found = re.match(r"([+−]?)(\d+(?:\.(\d+))?)( ?%)?(?![\d.])", text)
        if value == "" or not found:
            continue
        x = float(value.replace("Infinity", "inf"))
        sign, digits, decimals, percent = found.groups()
        expected = rounded(100 * x if percent else x, len(decimals or ""))
        assert f"{'−' if sign == '−' else ''}{digits}" == expected, (
            f"{value} is printed as {text!r}"
        )
        arrow = "·" if abs(x) < 5e-7 else "▼" if x > 0 else "▲"
        assert not re.search("[▲▼·]", text) or text.endswith(arrow), (
            f"{value} is printed as {text!r}"
        )


def same(label, shown, engine, scale=None):
    """Equal to 1e-12 of the largest among the engine's numbers, or of ``scale``."""
    shown, engine = np.broadcast_arrays(np.asarray(shown, float), np.asarray(engine, float))
    finite = np.isfinite(engine)
    assert np.array_equal(shown[~finite], engine[~finite], equal_nan=True), (
        f"{label}: shown {shown}, engine {engine}"
    )
    size = max(np.abs(engine[finite]).max(initial=0.0), scale or 0.0)
    wrong = np.abs(shown[finite] - engine[finite])
    assert not np.isnan(wrong).any() and (wrong <= TOLERANCE * size).all(), (
        f"{label}: shown {shown}, engine {engine}"
    )


# ---- what each explorable ought to show ----

SIMPLE = {
    "forward_kl": objectives.forward_kl_logit_gradient,
    "reverse_kl": objectives.reverse_kl_logit_gradient,
}
WITH_PARAMETER = {
    "jsd": ("beta", objectives.generalized_jsd_logit_gradient),
    "alpha": ("alpha", objectives.alpha_divergence_logit_gradient),
    "skewed_forward_kl": ("skew", objectives.skewed_forward_kl_logit_gradient),
    "skewed_reverse_kl": ("skew", objectives.skewed_reverse_kl_logit_gradient),
}
COSTS = {
    "forward_kl": objectives.forward_kl,
    "reverse_kl": objectives.reverse_kl,
    "jsd": objectives.generalized_jsd,
    "alpha": objectives.alpha_divergence,
    "skewed_forward_kl": objectives.skewed_forward_kl,
    "skewed_reverse_kl": objectives.skewed_reverse_kl,
}
TOKEN_NAMES = ["t₁", "t₂", "t₃", "t₄", "t₅"]


def gradient_of(key, p, q, seen):
    if key in SIMPLE:
        return SIMPLE[key](p, q)
    parameter, gradient = WITH_PARAMETER[key]
    return gradient(p, q, seen.slider(parameter))


def cost_of(key, p, q, seen):
    return (
        COSTS[key](p, q) if key in SIMPLE else COSTS[key](p, q, seen.slider(WITH_PARAMETER[key][0]))
    )


def word(gradient):
    """What descent does to a logit with this gradient."""
    return "leaves" if abs(gradient) < 5e-7 else "raises" if gradient < 0 else "lowers"


def pair(seen):
    p, q = seen.distribution("student"), seen.distribution("teacher")
    for x in (p, q):
        assert x.min() > 0 and abs(x.sum() - 1) < 1e-12
    return p, q


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
            f"log-ratio {rounded(ratio, 2)} is {'below' if ratio < divergence else 'above'} the average, KL(p‖q) = {rounded(divergence, 2)}"
            in seen.sentence
        )
    assert (
        f"{TOKEN_NAMES[j]} has {rounded(p[j], 2)} from the student and {rounded(q[j], 2)} from the teacher"
        in seen.sentence
    )
    assert seen.sentence.endswith(f"from here is {rounded(float(cost_of(chosen, p, q, seen)), 3)}.")


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
        1: f"The label is one-hot on {TOKEN_NAMES[n]}: the SeqKD gradient is SFT's, the loss −log {rounded(p[n], 2)} = {rounded(-math.log(p[n]), 2)}",
    }
    assert seen.sentence.startswith(
        where.get(
            s,
            f"The label is {rounded(s, 2)} of the way from the teacher's distribution to one-hot on {TOKEN_NAMES[n]}.",
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
            f"the soft label {word(soft[v])} it, the hard label {TOKEN_NAMES[n]} {word(sharp[v])} it"
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
        assert f"{TOKEN_NAMES[k]} drawn: student and teacher agree on it" in seen.sentence
    else:
        assert (
            f"PG {'lowers it and raises' if ratio > 0 else 'raises it and lowers'} both others, as {rounded(p[others[0]], 2)} : {rounded(p[others[1]], 2)}"
            in seen.sentence
        )
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
        v = next(
            v for v in range(3) if f"Over the draws {TOKEN_NAMES[v]} is raised" in seen.sentence
        )
        assert torn[v] >= max(torn) - 1e-9
        assert (
            f"raised with probability {rounded(chances[v][0], 2)} and lowered with {rounded(chances[v][1], 2)}; GKD {word(exact[v])} it every time"
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
    assert f"Its total variance is {rounded(total, 3)}" in seen.sentence
    mean = estimators.expectation(p, tables[chosen])
    against = [
        TOKEN_NAMES[j]
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
    elif not alike(now, plain):
        assert (" below plain policy gradient's" in seen.sentence) == (now < plain)
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


# Of the samples: mulberry32 written a second time, all numbers at once.
WALKS, MOST = 100, 4096


def uniforms(seed, count):
    """The first ``count`` numbers of the generator mulberry32 with this seed."""
    wrap = np.uint64(0xFFFFFFFF)
    times = lambda x, y: (x * y) & wrap
    t = (np.uint64(seed) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x6D2B79F5)) & wrap
    r = times(t ^ (t >> np.uint64(15)), t | np.uint64(1))
    r = r ^ ((r + times(r ^ (r >> np.uint64(7)), r | np.uint64(61))) & wrap)
    return ((r ^ (r >> np.uint64(14))) & wrap) / 2.0**32


def sample_and_average(seen, widget, seed=None):
    p, q = pair(seen)
    n, j = int(seen.slider("draws")), int(seen.choices["component"]) - 1
    table = estimators.policy_gradient(p, q)
    scale = np.abs(table).max()
    exact = estimators.expectation(p, table)
    deviation = np.sqrt(
        [estimators.total_variance(p, table[:, [c]]) for c in range(3)]
        + [estimators.total_variance(p, table)]
    )
    shown = seen.table(0)
    same("exact", shown[:3, 0], exact, scale)
    same("its norm", shown[3, 0], np.linalg.norm(exact), scale)
    if n == 0:
        assert np.isnan(shown[:, 1:3]).all()
        assert seen.sentence.startswith("Nothing drawn yet") or deviation[j] < 1e-12
        return
    same("standard error", shown[:, 3], deviation / math.sqrt(n), scale)
    if seed is None:  # the tokens drawn are not known: their mean is still one of N draws
        counts = (
            np.linalg.lstsq(
                np.vstack([table.T, np.ones(3)]), np.append(shown[:3, 1], 1), rcond=None
            )[0]
            * n
        )
        tokens = None
    else:
        draws = uniforms(seed, WALKS * MOST).reshape(WALKS, MOST)[:, :n]
        tokens = (draws >= p[0]).astype(int) + (draws >= p[0] + p[1])
        counts = np.bincount(tokens[0], minlength=3)
    whole = np.rint(counts)
    assert whole.sum() == n and np.abs(counts - whole).max() < 1e-3, f"{counts} tokens were drawn"
    mean = whole @ table / n
    same("mean of the draws", shown[:3, 1], mean, scale)
    same("off by", shown[:3, 2], mean - exact, scale)
    same("its norm", shown[3, 2], np.linalg.norm(mean - exact), scale)
    if deviation[j] < 1e-12:
        assert f"Every draw gives {rounded(exact[j], 2)}" in seen.sentence
        return
    error = deviation[j] / math.sqrt(n)
    assert (
        f"off by {rounded(abs(mean[j] - exact[j]), 3)}, with a standard error σ/√N of {rounded(error, 3)}"
        in seen.sentence
    )
    if tokens is not None:
        means = np.array([np.bincount(row, minlength=3) for row in tokens]) @ table[:, j] / n
        inside = int((np.abs(means - exact[j]) <= 2 * error * (1 + 1e-12)).sum())
        assert f"{inside} of {WALKS} walks are inside the band" in seen.sentence
    needed = math.ceil((2 * deviation[j] / exact[j]) ** 2)
    if needed <= 1e6:
        assert (
            f"even the sign is in doubt until N = {needed}."
            if n < needed
            else f"From N = {needed} on the band does not hold 0"
        ) in seen.sentence


POSITIONS = np.arange(1, 41)


def bump(mean, width):
    return distributions.softmax(-((POSITIONS - mean) ** 2) / (2 * width**2))


def shape_of(p):
    mean = p @ POSITIONS
    return [mean, math.sqrt(p @ (POSITIONS - mean) ** 2), p[:20].sum()]


def seek_or_cover(seen, widget):
    separation, share, width = seen.slider("separation", "weight", "width")
    q = share * bump(20.5 - separation / 2, width) + (1 - share) * bump(
        20.5 + separation / 2, width
    )
    shown = seen.table(0)
    same("teacher", shown[0, :3], shape_of(q))
    key, beta = seen.choices["objective"], seen.slider("beta")
    cost = {
        "forward_kl": objectives.forward_kl,
        "reverse_kl": objectives.reverse_kl,
        "jsd": lambda p, q: objectives.generalized_jsd(p, q, beta),
    }[key]
    gradient = {
        **SIMPLE,
        "jsd": lambda p, q: objectives.generalized_jsd_logit_gradient(p, q, beta),
    }[key]
    at, last = int(seen.number("steps-taken")), int(seen.number("steps-in-all"))
    assert 0 <= at <= last <= 300
    end = shown[2 + ["forward_kl", "reverse_kl", "jsd"].index(key)]
    if seen.choices["family"] == "bump":
        mu, sigma = seen.number("mu"), seen.number("sigma")
        p = bump(mu, sigma)
        same("student", shown[1, :3], shape_of(p))
        same("cost", shown[1, 3], cost(p, q), 1e-3)
        if at == 0:
            same("start", [mu, sigma], seen.slider("start_mean", "start_width"))
        if at == last:
            same("end", end, shown[1])
        if at == last < 300:  # where descent ends, the engine's gradient in mu and log sigma is 0
            slopes = np.array([(POSITIONS - mu) / sigma**2, (POSITIONS - mu) ** 2 / sigma**2])
            information = ((slopes - (slopes @ p)[:, None]) ** 2) @ p
            curvature = beta * (1 - beta) if key == "jsd" and 0 < beta < 1 else 1
            pull = np.abs(slopes @ gradient(p, q)) / np.sqrt(information * curvature)
            assert pull.max() < 1e-6, f"descent ended where {key} still falls: {pull}"
    assert end[3] <= shown[1, 3] + 1e-12
    said = f"JSD({rounded(beta, 2)})" if key == "jsd" else key.replace("_kl", " KL")
    assert said in seen.sentence
    if 0 < at < last:
        assert (
            f"After {at} of {last} steps" in seen.sentence
            and f"to {rounded(shown[1, 3], 3)}." in seen.sentence
        )
    if "on the left mode:" in seen.sentence:
        assert end[2] > 0.9 and f"{rounded(100 * end[2], 0)} % of its mass" in seen.sentence
    if "on the right mode:" in seen.sentence:
        assert end[2] < 0.1 and f"{rounded(100 * (1 - end[2]), 0)} % of its mass" in seen.sentence
    if "with the teacher's own mean and sd" in seen.sentence:
        np.testing.assert_allclose(end[:2], shown[0, :2], atol=0.005)
    if seen.choices["family"] == "free" and "all three objectives end there" in seen.sentence:
        assert shown[2:, 3].max() < 1e-6


def control_study(seen, widget):
    study = json.loads(
        (provenance.ROOT / "figures" / "control-study.json").read_text(encoding="utf-8")
    )["results"]
    g, s = (
        study[name].index(float(seen.choices[one]))
        for name, one in (("gammas", "gamma"), ("seeds", "seed"))
    )
    t, iteration = study["tasks"].index(seen.choices["task"]), int(seen.outputs["iteration"])
    first, last = 40 * math.ceil(iteration / 40) - 39, 40 * math.ceil(iteration / 40)
    mine = [
        n
        for n, each in enumerate(study["iterations"])
        if first <= each <= last and (each % 2 == 1) == (study["tasks"][t] == "left")
    ]
    variance = np.exp(np.mean(np.log(np.array(study["variance"])[:, s, mine]), axis=1))
    shown = seen.table(0)
    np.testing.assert_allclose(
        shown[:-1, 0], variance, rtol=2e-4
    )  # embedded as 16 bits of its logarithm
    same("times γ = 0's", shown[:-1, 1], shown[:-1, 0] / shown[0, 0])
    checkpoint = max([c for c, each in enumerate(study["checkpoints"]) if each <= last], default=0)
    ends = np.array(
        [np.array(study["final_position"][what])[:, s, t, checkpoint] for what in ("mean", "sd")]
    )
    np.testing.assert_allclose(shown[:-1, 2:], ends.T, atol=5.1e-4)
    same(
        "teacher",
        shown[-1, 2:],
        [study["teachers"][f"final_position_{what}"][t] for what in ("mean", "sd")],
    )
    said = in_powers(shown[g, 0]) if not 0.01 <= shown[g, 0] < 1000 else ""
    assert (
        f"At iterations {first}–{last}, γ = {study['gammas'][g]:g}, seed {study['seeds'][s]}, {study['tasks'][t]} task, the gradient’s variance is {said}"
        in seen.sentence
    )
    ratio = shown[g, 0] / shown[4 if g == 0 else 0, 0]
    in_words = lambda x: in_powers(x) if x >= 999.5 else rounded(x, 1 if x < 9.95 else 0)
    factor = in_words(max(ratio, 1 / ratio))
    assert (
        f", {factor} times that of γ = {1 if g == 0 else 0}."
        if ratio >= 1
        else f"that of γ = {1 if g == 0 else 0} is {factor} times as large."
    ) in seen.sentence
    mean, deviation = shown[g, 2:]
    target = study["targets"][t]
    short = (target - mean) * np.sign(target)
    place = (
        "on the target"
        if abs(short) < 0.005
        else f"{rounded(abs(short), 2)} {'away from' if abs(short) > abs(target - study['starts'][t]) else 'short of' if short > 0 else 'beyond'} the target"
    )
    after = (
        f"After iteration {study['checkpoints'][checkpoint]}"
        if study["checkpoints"][checkpoint]
        else "Before any training"
    )
    assert seen.sentence.endswith(
        f"{after} its trajectories end at {rounded(mean, 2)} ± {rounded(deviation, 2)}, on average {place} {rounded(target, 0)}."
    )


CURVES = {  # share or unit, digits, +1 where more is better, what the leader does
    "accuracy": ("", 1, 1, "is right most often"),
    "sequence_kl": ("nats", 2, -1, "has the least sequence KL"),
    "forward_sequence_kl": ("nats", 2, -1, "has the least forward sequence KL"),
    "order_entropy": ("nats", 2, 1, "spreads its right workings most evenly over the orders"),
    "distinct": ("workings", 2, 1, "finds the most distinct right workings"),
    "length": ("tokens", 1, 1, "writes the longest texts"),
}
CURVE_NAMES = {
    "sft": "SFT", "seqkd": "SeqKD", "off_policy_reverse_kl": "reverse KL off-policy", "on_policy_forward_kl": "forward KL on-policy",
    "gkd": "GKD", "jsd": "JSD", "top_k": "top k", "pg_0": "PG γ = 0", "pg_0.5": "PG γ = 0.5", "pg_0.9": "PG γ = 0.9", "pg_1": "PG γ = 1",
    "pg_baseline": "PG with baseline", "opd_reward": "OPD + reward", "rlvr": "reward alone",
}  # fmt: skip


def finite(x):
    return x is not None and math.isfinite(x)


def curve_end(runs, axis):
    """Where the first run ended that did not break down."""
    ends = [run[axis][-1] for run in runs if "not_finite" not in run]
    return min(ends or [run[axis][-1] for run in runs])


def curve_values(study, name, quantity, axis, x):
    """The values of a method's runs at x: None where one of them ended before."""
    runs = study["curves"][name]
    if x > curve_end(runs, axis):
        return None
    values = []
    for run in runs:
        if x > run[axis][-1]:  # it broke down
            continue
        after = next(i for i, place in enumerate(run[axis]) if place >= x)
        before = after if run[axis][after] == x else after - 1
        part = (
            (x - run[axis][before]) / (run[axis][after] - run[axis][before])
            if after > before
            else 0
        )
        low, high = run[quantity][before], run[quantity][after]
        if finite(low) and finite(high):
            values.append(low + part * (high - low))
    return values


def learning_curves(seen, widget):
    study = provenance.recorded(f"lm-study-{seen.choices.get('record', 'cpu')}", "study")
    axis, quantity, at = seen.choices["x"], seen.choices["quantity"], int(seen.outputs["at"])
    curves, names = study["curves"], seen.switched
    furthest = max(curve_end(runs, axis) for runs in curves.values())
    x = at / 100 * furthest if axis == "seconds" else math.floor(at / 100 * furthest + 0.5)
    every = [y for name in curves for run in curves[name] for y in run[quantity] if finite(y)]
    known = {}  # name: mean, least, most, as the table has them
    rows = {
        name: (cells, texts)
        for name, cells, texts in zip(seen.rows[0], seen.tables[0], seen.texts[0])
        if name
    }
    assert set(rows) == set(names) | {
        who for who in ("teacher", "start") if finite(study[who].get(quantity))
    }
    ended, broken = [], []
    for name in names:
        values, cells = curve_values(study, name, quantity, axis, x), rows[name]
        if not values:
            assert cells[1][0] == ("ended" if values is None else "broken") and set(cells[0]) == {
                ""
            }
            (ended if values is None else broken).append(CURVE_NAMES[name])
            continue
        known[name] = shown = [float(cell) for cell in cells[0][:3]]
        # embedded as 16 bits of the range, of the logarithm (from 1e-6) for a KL
        slack = (
            {"rtol": 5e-4, "atol": 1.1e-6}
            if quantity.endswith("kl")
            else {"rtol": 0, "atol": 4e-5 * (max(every) - min(every))}
        )
        np.testing.assert_allclose(shown, [np.mean(values), min(values), max(values)], **slack)
        other = "tokens" if axis == "seconds" else "seconds"
        largest = max(run[other][-1] for runs in curves.values() for run in runs)
        np.testing.assert_allclose(
            float(cells[0][3]),
            np.mean(curve_values(study, name, other, axis, x)),
            rtol=0,
            atol=1e-4 * largest,
        )
        missing = len(study["seeds"]) - len(values)
        assert (f"{len(values)} of {len(study['seeds'])} seeds" in seen.html) or not missing
    levels = {who: float(rows[who][0][0]) for who in ("teacher", "start") if who in rows}
    for who, level in levels.items():
        assert level == study[who][quantity]
    if quantity == "accuracy":
        prompts, share = (
            study["preset"]["distillation"]["evaluation_prompts"],
            study["teacher"]["accuracy"],
        )
        assert (
            f"{prompts} test prompts, the same for all. The standard error of the teacher’s share is {rounded(100 * math.sqrt(share * (1 - share) / prompts), 1)} points."
            in seen.html
        )
    # ranked, the teacher and the start among them, and after them what has no value
    unit, digits, better, leads = CURVES[quantity]
    ranks = [
        better * (known[name][0] if name in known else levels[name])
        for name in rows
        if name in known or name in levels
    ]
    assert ranks == sorted(ranks, reverse=True)
    assert list(rows)[len(ranks) :] == [name for name in names if name not in known]
    place = {
        "tokens": tokens_in_words(x),
        "steps": f"{x} steps",
        "seconds": f"{rounded(x, 1 if x < 99.95 else 0)} seconds",
    }[axis]
    assert seen.sentence == curves_in_words(
        quantity,
        place if x else "",
        {CURVE_NAMES[name]: known[name] for name in rows if name in known},
        levels,
        ended,
        broken,
    )


def tokens_in_words(x):
    return (
        f"{rounded(x / 1e6, 2)} million tokens"
        if x >= 999500
        else f"{rounded(x / 1000, 0)} thousand tokens"
        if x >= 9999.5
        else f"{x} tokens"
    )


def all_of(words):
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def curves_in_words(quantity, place, known, levels, ended, broken):
    """The sentence on {name: (mean, least, most)}, the best first."""
    unit, digits, better, leads = CURVES[quantity]
    in_units = (
        (lambda y: f"{rounded(100 * y, digits)} %")
        if not unit
        else lambda y: f"{rounded(y, digits)} {unit}"
    )
    last_digit = lambda y: math.floor((1 if unit else 100) * y * 10**digits + 0.5)
    where = f"After {place}" if place else "Before any training"
    bounds = "".join(f" The {who} is at {in_units(level)}." for who, level in levels.items())
    absent = (f" Ended before: {all_of(ended)}." if ended else "") + (
        f" Without a value here: {all_of(broken)}." if broken else ""
    )
    if not known and not ended and not broken:
        return f"No method is switched on: switch some on to compare their curves.{bounds}"
    if not known:
        return f"{where} there is nothing to compare.{absent}{bounds}"
    first, (mean, least, most) = next(iter(known.items()))
    teacher = levels.get("teacher")
    above = [
        name
        for name, each in known.items()
        if better > 0 and teacher is not None and last_digit(each[0]) > last_digit(teacher)
    ]
    if better < 0 or teacher is None:
        end = f" The start was at {in_units(levels['start'])}." if "start" in levels else ""
    elif above:
        end = f" Above the teacher’s {in_units(teacher)}: {all_of([name + (' (every seed)' if known[name][1] > teacher else ' (the mean)') for name in above])}."
    else:
        end = f" None is above the teacher’s {in_units(teacher)}."
    if len(known) == 1:
        return f"{where} {first} is at {in_units(mean)}, its seeds from {in_units(least).removesuffix(f' {unit}' if unit else '')} to {in_units(most).removesuffix(f' {unit}' if unit else '')}.{absent}{end}"
    level = [name for name, each in known.items() if last_digit(each[0]) == last_digit(mean)]
    rest = [name for name in known if name not in level]
    says = (
        f"{all_of(level)} are level at {in_units(mean)}"
        if len(level) > 1
        else f"{first} {leads}: {in_units(mean)}"
    )
    if rest:
        gap = abs(last_digit(mean) - last_digit(known[rest[0]][0])) / 10**digits
        says += f", {rounded(gap, digits)} {unit or 'points'} {'more' if better > 0 else 'less'} than {rest[0]}"
    near = [name for name in rest if known[name][1] <= most and least <= known[name][2]]
    bands = ""
    if rest:
        whom = (
            "no other"
            if not near
            else "all others"
            if near == rest and len(near) > 2
            else f"that of {near[0]}"
            if len(near) == 1
            else f"those of {all_of(near)}"
        )
        bands = f" The seed band of {first} overlaps {whom}."
    return f"{where} {says}.{bands}{absent}{end}"


SIGNALS = ("sampled", "full_vocabulary")


def per_cent(x):
    return f"{rounded(100 * x, 1 if x < 0.0995 else 0)} %"


def discount(x):
    return str(int(x)) if x in (0, 1) else rounded(x, 2)


def bias_against_variance(seen, widget):
    traits = {
        "tree": seen.choices["tree"],
        "length": int(seen.choices["length"]),
        "seed": int(seen.number("seed")),
    }
    if traits["tree"] == "random":
        traits |= {
            "vocabulary": int(seen.choices["vocabulary"]),
            "distance": seen.slider("distance"),
        }
    trees = explorables.BiasAgainstVariance(**traits).trees()
    n, gamma = int(seen.slider("samples")), seen.slider("gamma")
    exact = sequences.sequence_kl_gradient(*trees)
    length = np.linalg.norm(exact)
    shown = seen.table(0)
    if traits["tree"] == "random" and traits["distance"] == 0:
        assert length == 0 and (shown[[0, 1, 2, 5]] == 0).all()
        assert seen.sentence.startswith("Student and teacher agree")
        return
    best, least, here = [], [], []
    for column, signal in enumerate(SIGNALS):
        now = sequences.reward_to_go(*trees, gamma, signal)
        bias, variance = (now.bias(exact) ** 2).sum(), now.total_variance() / n
        error = now.mean_squared_error(exact, n)
        same("bias, variance, error", shown[:3, column], [bias, variance, error], length**2)
        same("relative error", shown[3, column], math.sqrt(error) / length)
        best.append(sequences.best_gamma(*trees, n, signal))
        least.append(sequences.reward_to_go(*trees, best[-1], signal).mean_squared_error(exact, n))
        assert abs(shown[4, column] - best[-1]) < 1e-6, (
            f"best γ is shown as {shown[4, column]}, engine {best[-1]}"
        )
        same("least error", shown[5, column], least[-1])
        same("least relative error", shown[6, column], math.sqrt(least[-1]) / length)
        assert (
            least[-1]
            <= np.array(
                [
                    sequences.reward_to_go(*trees, x, signal).mean_squared_error(exact, n)
                    for x in (0, 0.3, 0.6, 0.9, 1)
                ]
            )
            * (1 + 1e-9)
        ).all()
        here.append(error)
    best, (least, here) = shown[4], (np.sqrt(x) / length for x in (least, here))
    assert (
        f"errs least at γ = {discount(best[0])}, by {per_cent(least[0])} of the exact gradient's length; the Rao–Blackwellised one at γ = {discount(best[1])}, by {per_cent(least[1])}."
        in seen.sentence
    )
    assert (
        f"At γ = {discount(gamma)} they err by {per_cent(here[0])} and {per_cent(here[1])}"
        in seen.sentence
    )
    assert seen.sentence.startswith(
        "A single sequence:" if n == 1 else f"Averaged over {n} sequences,"
    )
    nowhere = (sequences.reward_to_go(*trees, 0).bias(exact) ** 2).sum() < 1e-20 * length**2
    assert ("the bias is 0 at every γ" in seen.sentence) == nowhere
    if not nowhere:
        assert (
            "none of it is bias"
            if gamma == 1
            else f"the bias alone is {per_cent(math.sqrt(shown[0, 0]) / length)}"
        ) in seen.sentence
        assert ("An error above 100 %" in seen.sentence) == (least[0] > 1)


SCHEMES = (
    "immediate",
    "discounted",
    "reward_to_go",
    "full_return",
    "gae",
    "outcome",
    "broadcast",
    "fipo",
)


def plus(x, digits=2):
    """A number with its sign, but 0 without one."""
    text = rounded(x, digits)
    return f"+{text}" if x > 0 and float(text) else text


def credit(seen, widget):
    kind, scheme, at = (seen.choices[name] for name in ("tree", "scheme", "position"))
    seed, t = int(seen.number("seed")), int(at) - 1
    path = [int(seen.choices[f"at-{u + 1}"]) for u in range(5)]
    row = int(np.polyval(path, 3))
    gamma, lam, step = seen.slider("gamma", "lam", "step")
    here = explorables.Credit(tree=kind, seed=seed, step=step)
    (student, teacher), moved, reward = here.trees(), here.moved(), here.reward()
    # the trees, along the path
    for u in range(5):
        prefix = int(np.polyval(path[:u], 3)) if u else 0
        for who, tree in (("p", student), ("q", teacher)):
            same(
                f"{who} at {u + 1}",
                [seen.number(f"{who}-{u + 1}-{v + 1}") for v in range(3)],
                tree.probabilities[u][prefix],
            )
    # FIPO's student: one step of ascent on E[R | prefix] in the logits of that prefix
    right = float(path.count(0) >= 2)
    assert reward[row] == right
    ahead = sequences.state_values(student, np.eye(5)[4] * reward[:, None], 1.0)
    after = [*ahead[1:], reward]
    for u in range(5):
        p = student.probabilities[u]
        logits = np.log(p) + step * p * (after[u].reshape(p.shape) - ahead[u][:, None])
        np.testing.assert_allclose(
            moved.probabilities[u], distributions.softmax(logits), rtol=1e-12
        )
    weights = {
        "immediate": sequences.reward_to_go(student, teacher, 0.0),
        "discounted": sequences.reward_to_go(student, teacher, gamma),
        "reward_to_go": sequences.reward_to_go(student, teacher, 1.0),
        "full_return": sequences.full_return(student, teacher),
        "gae": sequences.generalized_advantage(student, teacher, gamma, lam),
        "outcome": sequences.outcome(student, reward),
        "broadcast": sequences.broadcast_outcome(student, reward),
        "fipo": sequences.fipo(moved, student, reward, gamma, 0.2, 0.2),
    }
    weights = {key: table.weights[row] for key, table in weights.items()}
    rows = [np.array(cells, float) for cells in seen.tables[0] if cells]
    assert len(rows) == len(SCHEMES) + 1
    costs = sequences.token_costs(student, teacher)
    for key, shown in zip(SCHEMES, rows):
        same(key, shown, weights[key], np.abs(costs[row]).max() + (key == "gae"))
    # of what the chosen weight is made
    future = sequences.future_kl(moved, student, gamma)[row]
    f = sequences.fipo_weight(moved, student, gamma, 0.2, 0.2)[row]
    total = future[t] if scheme == "fipo" else weights[scheme][t]
    same("sum of the parts", rows[-1].sum(), total, np.abs(costs[row]).sum())
    distance = np.arange(5) - t
    same(
        "parts",
        rows[-1],
        {
            "immediate": np.where(distance == 0, costs[row], 0),
            "discounted": np.where(distance >= 0, costs[row] * gamma ** np.maximum(distance, 0), 0),
            "reward_to_go": np.where(distance >= 0, costs[row], 0),
            "full_return": costs[row],
            "gae": np.where(
                distance >= 0,
                sequences.generalized_advantage(student, teacher, gamma, 0.0).weights[row]
                * (gamma * lam) ** np.maximum(distance, 0),
                0,
            ),
            "outcome": np.where(distance == 4 - t, -right, 0),
            "broadcast": np.where(distance >= 0, -right, 0),
            "fipo": np.where(
                distance >= 0,
                np.log(moved_over(student, moved, path)) * gamma ** np.maximum(distance, 0),
                0,
            ),
        }[scheme],
        np.abs(costs[row]).max(),
    )
    check_credit_sentence(
        seen,
        scheme,
        t,
        path,
        weights[scheme][t],
        rows[-1][t],
        costs[row],
        right,
        step,
        gamma,
        lam,
        future[t],
        f[t],
        reward[row] - student.sequence_probabilities() @ reward,
    )


def moved_over(student, moved, path):
    """Ratio of the two policies at each token of a path."""
    prefixes = [int(np.polyval(path[:u], 3)) if u else 0 for u in range(5)]
    return np.array(
        [
            moved.probabilities[u][s, path[u]] / student.probabilities[u][s, path[u]]
            for u, s in enumerate(prefixes)
        ]
    )


def check_credit_sentence(
    seen, scheme, t, path, weight, own, costs, right, step, gamma, lam, future, f, advantage
):
    token = f"token {t + 1} ({TOKEN_NAMES[path[t]]})"
    after = [
        "the four tokens after it",
        "the three tokens after it",
        "the two tokens after it",
        "the token after it",
        "",
    ][t]
    split = (
        f"its own {plus(own)} and {plus(weight - own)} from {after}."
        if after
        else "its own cost, for no token comes after it."
    )
    if scheme in ("outcome", "broadcast") and not right:
        assert seen.sentence.startswith("R = 0: the outcome gives every token the weight 0.")
        return
    expected = {
        "immediate": f"{token} answers for its own cost alone, {plus(weight)}."
        + (f" The {plus(costs[t + 1 :].sum())} of {after} is not charged to it." if after else ""),
        "discounted": f"With γ = {rounded(gamma, 2)} {token} answers for {plus(weight)}: {split}",
        "reward_to_go": f"Undiscounted, {token} answers for {plus(weight)}: {split}",
        "full_return": f"the whole {plus(weight)}. For {token} that "
        + (
            f"includes {plus(costs[:t].sum())} from before it"
            if t
            else "is its reward-to-go: nothing came before"
        ),
        "gae": f"With γ = {rounded(gamma, 2)} and λ = {rounded(lam, 2)} the advantage of {token} is {plus(weight)}: its own surprise {plus(own)}"
        + (f" and {plus(weight - own)} from {after}." if after else "."),
        "outcome": "R = 1: every token has weight −1, ",
        "broadcast": f"{token} has weight −{5 - t} and the last token −1",
        "fipo": f"the outcome's advantage alone, −(R − E[R]) = {plus(weight)}."
        if step == 0
        else f"FutureKL of {token} is {plus(future, 3)}, so that f = {rounded(f, 3)}"
        + (", where it is clipped." if f in (0.8, 1.2) else "."),
    }[scheme]
    assert expected in seen.sentence, f"{expected!r} is not in {seen.sentence!r}"
    if scheme == "fipo" and step:
        assert f"R − E[R] = {plus(advantage)} its weight is {plus(weight)}." in seen.sentence
    assert seen.sentence.endswith(
        f"Descent {word(weight)} token {t + 1}{' where it is' if word(weight) == 'leaves' else ''}."
    )


# Of the museum: the tables of a wrong and a right loss, by the engine; tests/test_museum.py holds
# them against the exhibits' own code and autograd.
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
            if (tokens := [TOKEN_NAMES[v] for v in range(3) if words[v] == verb and which[v]])
        ]
    )
    still = [set(words) == {"leaves"} for words in told]
    odd = [a != b for a, b in zip(*told)]
    if all(still):
        assert " Here neither pushes any token. " in seen.sentence
    elif still[0]:
        assert (
            f" It pushes no token, where the right loss {moved(told[1], [x != 'leaves' for x in told[1]])}. "
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
            f" the same way as the right loss, {rounded(ratio, 4 if ratio < 0.1 else 2)} times as hard. "
            in seen.sentence
        )
    own = (
        " It pushes " not in seen.sentence
        or name not in ("k1", "advantage")
        or "no token" in seen.sentence
    )
    assert own, "what is zero in expectation pushes nothing"
    ratio = np.log(q / p)
    if name == "value_clamp":
        dead = [TOKEN_NAMES[v] for v in range(3) if np.expm1(ratio[v]) - ratio[v] > 10]
        assert seen.sentence.startswith(
            f"A draw beyond log(q/p) = 2.61 has no gradient: drawing {all_of(dead)} teaches nothing"
            if dead
            else "No token is beyond log(q/p) = 2.61"
        )
    if name == "ratio_clamp":
        cut = [TOKEN_NAMES[v] for v in range(3) if abs(ratio[v]) > 1]
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
            f"and the rest, {rounded(1 - (1 - q[out]) / math.e, 2)}, on {TOKEN_NAMES[out]}, where the teacher has {rounded(q[out], 2)}."
            in seen.sentence
        )
    if name == "advantage":
        assert f"KL(p‖q) = {rounded(float(objectives.reverse_kl(p, q)), 2)} stands" in seen.sentence
    what = "forward KL" if name in ("value_clamp", "temperature") else "reverse KL"
    before, after, with_right = (rounded(x, 3) for x in values)
    if count == 0:
        assert seen.sentence.endswith(f"Before the first step {what} is {before}.")
    else:
        steps = f"{count} {'step' if seen.choices['update'] == 'expected' else 'drawn token'}{'s' if count > 1 else ''}"
        assert seen.sentence.endswith(
            f"After {steps} {what}, {before} at first, is {after} with the wrong loss and {with_right} with the right one."
        )


CHECKS = {
    "Baselines": baselines,
    "BiasAgainstVariance": bias_against_variance,
    "Credit": credit,
    "ControlStudy": control_study,
    "HardToSoft": hard_to_soft,
    "LearningCurves": learning_curves,
    "LossMuseum": loss_museum,
    "PushAndPull": push_and_pull,
    "SampleAndAverage": sample_and_average,
    "SeekOrCover": seek_or_cover,
    "WhichToken": which_token,
}


def check(root, widget, **known):
    """Every number that ``root`` shows is the engine's at the state it shows."""
    seen = read(root)
    check_printed(seen)
    CHECKS[type(widget).__name__](seen, widget, **known)
    assert not re.search("undefined|NaN|null", seen.html), seen.html
    return seen
