"""Reading and moving an explorable in a page, and what it ought to show.

The engine is the judge: ``check(page, place, widget)`` reads the state that the controls show and
every number beside them, and compares the numbers with the engine's at that state.
"""

import math
import re
from decimal import ROUND_HALF_UP, Decimal

import numpy as np
import pytest

from opd_toy import distributions, estimators, explorables, objectives

TOLERANCE = 1e-12  # relative to the largest of the numbers compared together
WIDGETS = {name: getattr(explorables, name) for name in explorables.__all__}


def page_of(*widgets, theme="light", style=""):
    """A page around some explorables, as bare as can be."""
    paper = "#14181e" if theme == "dark" else "#ffffff"
    return (
        f'<!doctype html><html lang="en" data-theme="{theme}"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><title>Explorables</title>'
        f'<style>body{{margin:8px;background:{paper};font:16px/1.5 sans-serif}}{style}</style>'
        f"<body><main>{''.join(widget.to_html() for widget in widgets)}</main></body></html>"
    )


# ---- reading ----

READ = """(root) => {
  const all = (selector, within = root) => [...within.querySelectorAll(selector)];
  return {
    outputs: Object.fromEntries(all("input[type=range]").filter((input) => input.offsetParent).map((input) => [input.name, input.closest("label").querySelector("output").dataset.value])),
    thumbs: all("input[type=range]").filter((input) => input.offsetParent).map((input) => [input.name, Number(input.value), Number(input.step), input.ariaValueText]),
    choices: Object.fromEntries(all(".opd-choice").filter((group) => group.offsetParent).map((group) => [group.dataset.name, group.querySelector("input:checked")?.value ?? null])),
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
        return self.slider(*(name for name in sorted(self.outputs) if re.fullmatch(rf"{who}-\d+", name)))

    def slider(self, *names):
        values = np.array([float(self.outputs[name]) for name in names])
        return values if len(names) > 1 else float(values[0])

    def number(self, name):
        return float(self.numbers[name])

    def table(self, index):
        """The table's numbers; NaN where a cell holds none."""
        return np.array([[np.nan if x is None or not x.strip() else float(x.replace("Infinity", "inf")) for x in row] for row in self.tables[index]])

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


def check_printed(seen):
    """Every number printed is the whole one beside it, rounded; every arrow points its way;
    every thumb stands where its number says, and a screen reader is told that number."""
    assert seen.printed
    for name, place, step, told in seen.thumbs:
        value = float(seen.outputs[name])
        assert abs(place - value) <= step / 2 + 1e-9 or name == "draws", f"{name} is {value}, its thumb at {place}"
        assert told and float(re.match("[−\\d.]+", told)[0].replace("−", "-")) == pytest.approx(value, abs=0.0501)
    for value, text in seen.printed:
        found = re.match(r"([+−]?)(\d+(?:\.(\d+))?)( ?%)?(?![\d.])", text)
        if value == "" or not found:
            continue
        x = float(value.replace("Infinity", "inf"))
        sign, digits, decimals, percent = found.groups()
        if len(text) > 12:  # a phrase that begins with a number
            continue
        expected = rounded(100 * x if percent else x, len(decimals or ""))
        assert f"{'−' if sign == '−' else ''}{digits}" == expected, f"{value} is printed as {text!r}"
        arrow = "·" if abs(x) < 5e-7 else "▼" if x > 0 else "▲"
        assert not re.search("[▲▼·]", text) or text.endswith(arrow), f"{value} is printed as {text!r}"


def same(label, shown, engine, scale=None):
    """Equal to 1e-12 of the largest among the engine's numbers, or of ``scale``."""
    shown, engine = np.broadcast_arrays(np.asarray(shown, float), np.asarray(engine, float))
    finite = np.isfinite(engine)
    assert np.array_equal(shown[~finite], engine[~finite], equal_nan=True), f"{label}: shown {shown}, engine {engine}"
    size = max(np.abs(engine[finite]).max(initial=0.0), scale or 0.0)
    wrong = np.abs(shown[finite] - engine[finite])
    assert not np.isnan(wrong).any() and (wrong <= TOLERANCE * size).all(), f"{label}: shown {shown}, engine {engine}"


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
    return COSTS[key](p, q) if key in SIMPLE else COSTS[key](p, q, seen.slider(WITH_PARAMETER[key][0]))


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
        assert f"log-ratio {rounded(ratio, 2)} is {'below' if ratio < divergence else 'above'} the average, KL(p‖q) = {rounded(divergence, 2)}" in seen.sentence
    assert f"{TOKEN_NAMES[j]} has {rounded(p[j], 2)} from the student and {rounded(q[j], 2)} from the teacher" in seen.sentence
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
    where = {0: "The label is the teacher's distribution", 1: f"The label is one-hot on {TOKEN_NAMES[n]}: the SeqKD gradient is SFT's, the loss −log {rounded(p[n], 2)} = {rounded(-math.log(p[n]), 2)}"}
    assert seen.sentence.startswith(where.get(s, f"The label is {rounded(s, 2)} of the way from the teacher's distribution to one-hot on {TOKEN_NAMES[n]}."))
    soft, sharp = p - q, p - hard
    opposed = [v for v in range(5) if soft[v] * sharp[v] < -1e-12]
    if np.all(np.abs(soft) < 5e-7):
        assert "The student is the teacher already" in seen.sentence
    elif not opposed:
        assert "push no token in opposite directions" in seen.sentence
    else:
        v = max(opposed, key=lambda v: abs(soft[v]))
        assert f"the soft label {word(soft[v])} it, the hard label {TOKEN_NAMES[n]} {word(sharp[v])} it" in seen.sentence
        turn = (p[v] - q[v]) / (hard[v] - q[v])  # where (1 - s) q + s hard = p
        assert f"turns at {'sharpness ' if s in (0, 1) else ''}{rounded(turn, 2)}." in seen.sentence
        if 0 < s < 1:
            now = word(p[v] - label[v])
            assert f"This label {'leaves it where it is' if now == 'leaves' else f'{now} it'};" in seen.sentence


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
    same("total variance", seen.number("total-variance"), estimators.total_variance(p, table), scale**2)
    assert seen.number("gkd-variance") == 0
    ratio = distributions.log_ratio(p, q)[k]
    others = [v for v in range(3) if v != k]
    if np.all(np.abs(table[k]) < 5e-7):
        assert f"{TOKEN_NAMES[k]} drawn: student and teacher agree on it" in seen.sentence
    else:
        assert f"PG {'lowers it and raises' if ratio > 0 else 'raises it and lowers'} both others, as {rounded(p[others[0]], 2)} : {rounded(p[others[1]], 2)}" in seen.sentence
        assert all((table[k][v] > 0) != (table[k][k] > 0) for v in others)
    chances = [[p[[word(table[row, v]) == kind for row in range(3)]].sum() for kind in ("raises", "lowers")] for v in range(3)]
    torn = [min(pair_) for pair_ in chances]
    if max(torn) == 0:
        assert "No token's direction depends on the draw" in seen.sentence
    else:
        v = next(v for v in range(3) if f"Over the draws {TOKEN_NAMES[v]} is raised" in seen.sentence)
        assert torn[v] >= max(torn) - 1e-9
        assert f"raised with probability {rounded(chances[v][0], 2)} and lowered with {rounded(chances[v][1], 2)}; GKD {word(exact[v])} it every time" in seen.sentence


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
        tables = [estimators.policy_gradient(p, q, at) for at in marks] + [estimators.full_vocabulary_advantage(p, q)]
        shown = seen.table(0)
        same("b", shown[:5, 0], marks)
        check_tables(p, shown, tables)
        same("variance now", seen.number("variance"), estimators.total_variance(p, tables[0]), np.abs(tables[0]).max() ** 2)
        same("b now", seen.number("b"), b)
        check_baseline_sentence(seen, p, q, *(estimators.total_variance(p, table) for table in tables))
        return
    tables = [k_table(kind, use, p, q) for kind, use in K_ESTIMATORS]
    shown = seen.table(1)
    check_tables(p, shown[:6], tables)
    same("reverse KL", shown[6, 2:], reverse)
    same("forward KL", shown[7, 2:], forward)
    chosen = K_ESTIMATORS.index((seen.choices["kind"], seen.choices["use"]))
    total = estimators.total_variance(p, tables[chosen])
    same("variance", seen.number("estimator-variance"), total, np.abs(tables[chosen]).max() ** 2)
    known = {"nothing: mean 0": 0 * reverse, "reverse KL": reverse, "forward KL": forward, "reverse − forward": reverse - forward}
    if np.abs(p - q).max() < 1e-9:
        assert "Student and teacher agree" in seen.sentence
        return
    for (kind, use), table, texts in zip(K_ESTIMATORS, tables, seen.texts[1]):
        size = np.abs(table).max() + np.abs(reverse).max() + np.abs(forward).max()
        found = [name for name, gradient in known.items() if np.abs(estimators.expectation(p, table) - gradient).max() <= 1e-9 * size]
        assert texts[0] == (" and ".join(found) if found else "none of these"), (kind, use, texts[0], found)
    assert seen.html.count(f"It follows: {seen.texts[1][chosen][0]}") == 1
    assert seen.sentence.startswith(f"{seen.choices['kind']} as a {seen.choices['use']}. ")
    assert f"Its total variance is {rounded(total, 3)}" in seen.sentence
    mean = estimators.expectation(p, tables[chosen])
    against = [TOKEN_NAMES[j] for j in range(3) if mean[j] * reverse[j] < -1e-12 and mean[j] * forward[j] < -1e-12]
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
    verdict = "the least that any can give" if alike(with_kl, least) else "as much as without one" if alike(with_kl, plain) else "more than without one" if with_kl > plain else "less than without one"
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
    deviation = np.sqrt([estimators.total_variance(p, table[:, [c]]) for c in range(3)] + [estimators.total_variance(p, table)])
    shown = seen.table(0)
    same("exact", shown[:3, 0], exact, scale)
    same("its norm", shown[3, 0], np.linalg.norm(exact), scale)
    if n == 0:
        assert np.isnan(shown[:, 1:3]).all()
        assert seen.sentence.startswith("Nothing drawn yet") or deviation[j] < 1e-12
        return
    same("standard error", shown[:, 3], deviation / math.sqrt(n), scale)
    if seed is None:  # the tokens drawn are not known: their mean is still one of N draws
        counts = np.linalg.lstsq(np.vstack([table.T, np.ones(3)]), np.append(shown[:3, 1], 1), rcond=None)[0] * n
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
    assert f"off by {rounded(abs(mean[j] - exact[j]), 3)}, with a standard error σ/√N of {rounded(error, 3)}" in seen.sentence
    if tokens is not None:
        means = np.array([np.bincount(row, minlength=3) for row in tokens]) @ table[:, j] / n
        inside = int((np.abs(means - exact[j]) <= 2 * error * (1 + 1e-12)).sum())
        assert f"{inside} of {WALKS} walks are inside the band" in seen.sentence
    needed = math.ceil((2 * deviation[j] / exact[j]) ** 2)
    if needed <= 1e6:
        assert (f"even the sign is in doubt until N = {needed}." if n < needed else f"From N = {needed} on the band does not hold 0") in seen.sentence


POSITIONS = np.arange(1, 41)


def bump(mean, width):
    return distributions.softmax(-((POSITIONS - mean) ** 2) / (2 * width**2))


def shape_of(p):
    mean = p @ POSITIONS
    return [mean, math.sqrt(p @ (POSITIONS - mean) ** 2), p[:20].sum()]


def seek_or_cover(seen, widget):
    separation, share, width = seen.slider("separation", "weight", "width")
    q = share * bump(20.5 - separation / 2, width) + (1 - share) * bump(20.5 + separation / 2, width)
    shown = seen.table(0)
    same("teacher", shown[0, :3], shape_of(q))
    key, beta = seen.choices["objective"], seen.slider("beta")
    cost = {"forward_kl": objectives.forward_kl, "reverse_kl": objectives.reverse_kl, "jsd": lambda p, q: objectives.generalized_jsd(p, q, beta)}[key]
    gradient = {**SIMPLE, "jsd": lambda p, q: objectives.generalized_jsd_logit_gradient(p, q, beta)}[key]
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
        assert f"After {at} of {last} steps" in seen.sentence and f"to {rounded(shown[1, 3], 3)}." in seen.sentence
    if "on the left mode:" in seen.sentence:
        assert end[2] > 0.9 and f"{rounded(100 * end[2], 0)} % of its mass" in seen.sentence
    if "on the right mode:" in seen.sentence:
        assert end[2] < 0.1 and f"{rounded(100 * (1 - end[2]), 0)} % of its mass" in seen.sentence
    if "with the teacher's own mean and sd" in seen.sentence:
        np.testing.assert_allclose(end[:2], shown[0, :2], atol=0.005)
    if seen.choices["family"] == "free" and "all three objectives end there" in seen.sentence:
        assert shown[2:, 3].max() < 1e-6


CHECKS = {
    "Baselines": baselines,
    "HardToSoft": hard_to_soft,
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
