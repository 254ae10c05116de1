"""Bars and lines in the explorables' pictures: their coordinates against the numbers they show."""

import math
import re

import numpy as np
import pytest

from opd_toy import distributions, estimators, sequences
from tests.explorables.draws_and_descents import bump, uniforms
from tests.explorables.one_position import SIMPLE
from tests.explorables.opened import lent_pages, open_explorables

lent = pytest.fixture(lent_pages, scope="module")
opened = pytest.fixture(open_explorables)


# ---- bars: as long as their numbers, and on the right side ----

# For each bar of a picture [from, to]: of a rectangle both ends, of an arrow foot and tip.
BARS = """(marks) => marks.map((mark) => {
  if (mark.tagName === "rect") {
    const [x, width] = ["x", "width"].map((name) => Number(mark.getAttribute(name)));
    return [x, x + width];
  }
  const numbers = mark.getAttribute("d").match(/-?[\\d.]+(e-?\\d+)?/g).map(Number);
  return [numbers[0], numbers[4]];
})"""

MIDDLE = 190  # of the pictures with bars to both sides


def bars_in(widget, label, marks):
    picture = widget.root.locator(f'svg[aria-label^="{label}"]').filter(visible=True)
    return np.array(picture.locator(marks).evaluate_all(BARS))


def lengths(bars, middle):
    """Signed lengths from the middle, where each bar must begin."""
    assert (np.abs(bars - middle).min(axis=1) <= 1e-9).all(), bars
    return bars.sum(axis=1) - 2 * middle


def check_lengths(found, gradients):
    """A bar goes right as far as descent raises the token: all by one scale."""
    wanted = -np.asarray(gradients, float).reshape(-1)
    scale = found @ wanted / (wanted @ wanted)
    assert scale > 0
    np.testing.assert_allclose(found, scale * wanted, atol=1e-6 * np.abs(found).max())


PAIRS = [{}, {"student": [0.6, 0.3, 0.1], "teacher": [0.15, 0.25, 0.6]}]


@pytest.mark.parametrize("pair", PAIRS, ids=["notes", "turned"])
def test_bars_point_the_way_of_descent(pair, opened):
    widget = opened("PushAndPull", **pair)
    shown = widget.check().table(0)
    tips = widget.root.locator('svg[aria-label^="Push on each"] path.opd-fill').evaluate_all(
        "(heads) => heads.map((head) => Number(head.getAttribute('d').match(/M(-?[\\d.]+)/)[1]))"
    )
    check_lengths(np.array(tips) - MIDDLE, shown[:, 3:])

    widget = opened("LossMuseum", exhibit="tail", **pair)
    shown = widget.check().table(0)
    bars = bars_in(widget, "Expected push of both", "rect[data-push]")
    check_lengths(lengths(bars, MIDDLE), shown[:, :2])

    widget = opened("WhichToken", **pair)
    seen = widget.check()
    bars = bars_in(widget, "The push on each", "path:not(.opd-axis)")
    columns = [seen.table(0)[:, 2], seen.table(0)[:, 3]]  # of GKD and of PG
    for middle, drawn, gradient in zip((108, 272), np.split(bars, 2), columns, strict=True):
        arrows = drawn[:, 1] - middle
        assert (drawn[:, 0] == middle).all()
        check_lengths(arrows, gradient)

    widget = opened("Baselines", **pair)
    seen = widget.check()
    bars = bars_in(widget, "Expected push on each", "rect")
    p, q = seen.distribution("student"), seen.distribution("teacher")
    means = [SIMPLE["reverse_kl"](p, q), seen.table(0)[0, 2:], np.zeros(3)]
    # each bar is .75 wider than its number at either end, so that a zero shows
    check_lengths(bars.sum(axis=1) - 2 * MIDDLE, np.transpose(means))


# Of a whisker its two ends.
WHISKERS = """(paths) => paths.map((path) => {
  const d = path.getAttribute("d");
  return [d.match(/^M(-?[\\d.]+)/), d.match(/H(-?[\\d.]+)/)].map((found) => Number(found[1]));
})"""


def check_whiskers(picture, tips, foot, every, table, p):
    """One in ``every`` whiskers stands about a tip, by the scale that the tips have."""
    mean = estimators.expectation(p, table)
    spread = np.sqrt([estimators.total_variance(p, table[:, [j]]) for j in range(3)])
    whiskers = picture.locator(".opd-whisker[d^=M]").evaluate_all(WHISKERS)
    whiskers = np.array(whiskers)[::every]
    scale = ((tips - foot) @ -mean) / (mean @ mean)
    assert scale > 0
    np.testing.assert_allclose(whiskers.mean(axis=1), tips, atol=1e-9)
    np.testing.assert_allclose(np.ptp(whiskers, axis=1), 2 * scale * spread, rtol=1e-9)


def test_the_shares_of_the_tokens_not_drawn(opened):
    widget = opened("WhichToken", token=1, student=[0.2, 0.2, 0.6], teacher=[0.3, 0.5, 0.2])
    widget.check()
    picture = widget.root.locator('svg[aria-label^="Shares of the two"]')
    boxes = np.array(picture.locator("rect").evaluate_all(BARS)).reshape(2, 2, 2)
    labels = picture.locator("text[data-value]").all_text_contents()
    # first the policy gradient's, as the student's odds are; below the teacher's
    assert picture.locator("text").all_text_contents()[:2] == ["policy gradient", "teacher"]
    for row, share in zip(boxes, (0.2 / 0.8, 0.5 / 0.7)):
        np.testing.assert_allclose(np.diff(row).ravel() + 1, 244 * np.array([share, 1 - share]))
    assert labels == ["t₂ 25 %", "t₃ 75 %", "t₂ 71 %", "t₃ 29 %"]
    whole = picture.locator("text[data-value]").evaluate_all(
        "(all) => all.map((text) => Number(text.dataset.value))"
    )
    np.testing.assert_allclose(whole, [1 / 4, 3 / 4, 5 / 7, 2 / 7], rtol=1e-12)


def test_whiskers_reach_one_standard_deviation_to_either_side(opened):
    widget = opened("WhichToken")
    seen = widget.check()
    p, q = seen.distribution("student"), seen.distribution("teacher")
    table = estimators.policy_gradient(p, q)
    picture = widget.root.locator('svg[aria-label^="The policy gradient\'s push"]')
    foot, tips = np.array(picture.locator("path.opd-pale").evaluate_all(BARS)).T
    check_whiskers(picture, tips, foot, 1, table, p)

    widget = opened("Baselines")
    picture = widget.root.locator('svg[aria-label^="Expected push on each"]').filter(visible=True)
    # three bars a token: the exact one, the policy gradient's and the advantage's, two with whisker
    boxes = np.array(picture.locator("rect").evaluate_all(BARS))[1::3]
    check_whiskers(picture, boxes.sum(axis=1) - MIDDLE, MIDDLE, 2, table, p)


@pytest.mark.parametrize("token", [1, 3])
def test_the_columns_of_a_label_stand_up_where_the_token_is_raised(token, opened):
    widget = opened("HardToSoft", token=token, sharpness=0.4)
    shown = widget.check().table(0)
    boxes = widget.root.locator('svg[aria-label^="For each token"] rect').evaluate_all(
        "(all) => all.map((one) => ['y', 'height'].map((name) => Number(one.getAttribute(name))))"
    )
    labels, _, _, seqkd, sft = np.split(np.array(boxes), 5)
    unit = labels[:, 1] @ shown[:, 1] / (shown[:, 1] @ shown[:, 1])
    np.testing.assert_allclose(labels[:, 1], unit * shown[:, 1], rtol=1e-9)
    zero = 218
    for drawn, gradient in ((seqkd, shown[:, 2]), (sft, shown[:, 3])):
        top = np.where(gradient < 0, zero + unit * gradient, zero)
        np.testing.assert_allclose(drawn, np.transpose([top, unit * np.abs(gradient)]), atol=1e-9)


@pytest.mark.parametrize("state", [{}, {"sequence": 0}, {"scheme": "fipo", "sequence": 4}], ids=str)
def test_a_weight_above_zero_stands_up(state, opened):
    widget = opened("Credit", **state)
    seen = widget.check()
    rows = [np.array(row, float) for row in seen.tables[0] if row]
    pictures = widget.root.locator(".opd-weight").evaluate_all("""(all) => all.map((picture) => [
      Number(picture.querySelector("path").getAttribute("d").match(/M0 ([\\d.]+)/)[1]),
      ...["y", "height"].map((name) => Number(picture.querySelector("rect").getAttribute(name))),
    ])""")
    drawn = np.array(pictures).reshape(len(rows), 5, 3)
    groups = [range(5), range(5, 8), [8]]
    for group in groups:
        weights = np.concatenate([rows[row] for row in group])
        zero, top, height = np.concatenate([drawn[row] for row in group]).T
        up = np.where(top + height / 2 < zero, 1, -1) * height
        if np.abs(weights).max() == 0:
            assert not height.any()
            continue
        scale = up @ weights / (weights @ weights)
        assert scale > 0
        # two digits of the drawing's coordinates, at both ends
        np.testing.assert_allclose(up, scale * weights, atol=0.03)


@pytest.mark.parametrize(
    "scheme, schemes, sliders",
    [
        ("discounted", ["immediate", "discounted", "reward_to_go", "full_return"], ["gamma"]),
        ("outcome", ["outcome", "broadcast", "fipo"], ["gamma", "step"]),
        ("gae", ["gae"], ["gamma", "lam"]),
        ("outcome", ["outcome", "broadcast"], []),
    ],
)
def test_only_the_schemes_that_a_page_names_have_a_row(scheme, schemes, sliders, opened):
    widget = opened("Credit", scheme=scheme, schemes=schemes)
    seen = widget.check()
    assert len([row for row in seen.tables[0] if row]) == len(schemes) + 1
    assert sorted(seen.outputs) == sorted(sliders)
    for label in widget.root.locator(".opd-weights label").all():
        label.click()
        widget.check()


def test_a_scheme_without_a_row_is_not_explained(opened):
    widget = opened("Credit", scheme="fipo", schemes=["immediate", "full_return"])
    assert widget.root.locator("[aria-live]").first.inner_text().startswith("Own cost: ")


# ---- the walks, their band and their law ----

STOPS = [0]
while STOPS[-1] < 4096:
    STOPS.append(min(4096, max(STOPS[-1] + 1, math.floor(STOPS[-1] * 1.06 + 0.5))))


def points_in(path):
    return np.array([[float(x) for x in pair] for pair in re.findall(r"([-\d.]+) ([-\d.]+)", path)])


def height_to_value(picture, logarithmic=False):
    """The axis of a picture, read off its labels: from a height to a value."""
    ticks = [
        (float(text.get_attribute("y")) - 4, float(text.text_content().replace("−", "-")))
        for text in picture.locator("text[text-anchor=end]").all()
        if re.fullmatch(r"−?[\d.]+", text.text_content())
    ]
    heights, values = np.array(ticks).T
    line = np.polyfit(heights, np.log(values) if logarithmic else values, 1)
    assert len(ticks) >= 2
    return lambda y: np.exp(np.polyval(line, y)) if logarithmic else np.polyval(line, y)


@pytest.mark.parametrize("component", [1, 2, 3])
def test_the_walk_its_band_and_the_law_are_those_of_the_chosen_logit(component, opened):
    widget = opened("SampleAndAverage", draws=300, component=component, seed=5)
    seen = widget.check(seed=5)
    p, q = seen.distribution("student"), seen.distribution("teacher")
    table = estimators.policy_gradient(p, q)
    exact = estimators.expectation(p, table)
    walks, errors = widget.root.locator("svg[role=img]").all()
    j, n = component - 1, np.array(STOPS[1:])
    across = 46 + np.log2(n) / 12 * 300  # from 1 to 4096 draws

    value = height_to_value(walks)
    pixel = abs(value(1) - value(0))  # the drawing has a digit after the point
    band = points_in(walks.locator(".opd-band").get_attribute("d"))
    upper, lower = band[: len(n)], band[len(n) :][::-1]
    deviation = math.sqrt(estimators.total_variance(p, table[:, [j]]))
    for edge, sign in ((upper, 1), (lower, -1)):
        np.testing.assert_allclose(edge[:, 0], across, atol=0.051)
        wanted = exact[j] + sign * 2 * deviation / np.sqrt(n)
        np.testing.assert_allclose(value(edge[:, 1]), wanted, atol=0.1 * pixel)

    walk = points_in(
        walks.locator("path.opd-line:not(.opd-dashed):not(.opd-faint)").get_attribute("d")
    )
    drawn = n[: len(walk)]
    assert drawn[-1] >= 300
    tokens = np.searchsorted(np.cumsum(p)[:2], uniforms(5, 4096), side="right")
    means = np.cumsum(table[tokens], axis=0)[drawn - 1] / drawn[:, None]
    np.testing.assert_allclose(value(walk[:, 1]), means[:, j], atol=0.1 * pixel)

    error = height_to_value(errors, logarithmic=True)
    rough = error(0) / error(0.2) - 1  # of a fifth of a pixel, for the labels are rounded too
    law = re.fullmatch(
        r"M([\d.]+) ([\d.]+)L([\d.]+) ([\d.]+)", errors.locator(".opd-dashed").get_attribute("d")
    )
    x1, y1, x2, y2 = map(float, law.groups())
    spread = math.sqrt(estimators.total_variance(p, table))
    assert (x1, x2) == (46, 346)
    np.testing.assert_allclose(error(np.array([y1, y2])), [spread, spread / 64], rtol=rough)
    own = points_in(
        errors.locator("path.opd-line:not(.opd-dashed):not(.opd-dots)").get_attribute("d")
    )
    distance = np.linalg.norm(means - exact, axis=1)
    floor = error(190)  # the axis ends there
    np.testing.assert_allclose(
        error(own[:, 1]), np.maximum(distance[: len(own)], floor), rtol=rough
    )


# ---- the other lines ----


def test_the_parabola_of_the_variance(opened):
    widget = opened("Baselines", baseline=0.8)
    seen = widget.check()
    p, q = seen.distribution("student"), seen.distribution("teacher")
    picture = widget.root.locator('svg[aria-label^="Total variance of the policy"]')
    value = height_to_value(picture)
    pixel = abs(value(1) - value(0))
    line = points_in(picture.locator("path.opd-line:not(.opd-dashed)").get_attribute("d"))
    marks = {
        text.text_content().split(":")[0]: float(dot.get_attribute("cx"))
        for text, dot in zip(
            picture.locator("text.opd-point-label").all(), picture.locator("circle.opd-fill").all()
        )
    }
    scale = np.polyfit([marks["b = −1"], marks["b = 0"]], [-1, 0], 1)
    # shaded: where the variance is below that of b = 0, as far as the picture goes
    box = picture.locator("rect.opd-band")
    x, width = (float(box.get_attribute(name)) for name in ("x", "width"))
    ends = np.polyval(scale, [x, x + width])
    np.testing.assert_allclose(ends, [0, 2 * estimators.optimal_baseline(p, q)], atol=1e-9)
    variances = [
        estimators.total_variance(p, estimators.policy_gradient(p, q, b))
        for b in np.polyval(scale, line[:, 0])
    ]
    steepest = np.abs(np.diff(variances) / np.diff(line[:, 0])).max()  # of a tenth of a pixel
    np.testing.assert_allclose(value(line[:, 1]), variances, atol=0.1 * (pixel + steepest))
    # level: the variance of b = 0; the dots on the curve: those of the marked baselines and b's
    variance = lambda b: estimators.total_variance(p, estimators.policy_gradient(p, q, b))
    level = picture.locator("path.opd-line.opd-dashed").get_attribute("d")
    height = float(re.fullmatch(r"M[\d.]+ ([\d.]+)H[\d.]+", level)[1])
    assert value(height) == pytest.approx(variance(0), abs=0.1 * pixel)
    dots = [
        [float(dot.get_attribute(name)) for name in ("cx", "cy")]
        for dot in picture.locator("circle.opd-fill").all()
    ]
    grip = picture.locator("g[transform]").get_attribute("transform")
    dots.append([float(x) for x in re.findall(r"[\d.]+", grip)])
    baselines = [-1, 0, distributions.kl(p, q), estimators.optimal_baseline(p, q), 0.8]
    for (x, y), b in zip(dots, baselines, strict=True):
        assert np.polyval(scale, x) == pytest.approx(b, abs=0.01 * abs(scale[0]))
        assert value(y) == pytest.approx(variance(b), abs=0.1 * pixel)


def test_the_curves_of_bias_and_variance(opened):
    widget = opened("BiasAgainstVariance", length=4, samples=30)
    widget.check()
    student, teacher = widget.widget.trees()
    exact = sequences.sequence_kl_gradient(student, teacher)
    picture = widget.root.locator('svg[aria-label^="Squared bias"]')
    read = height_to_value(picture, logarithmic=True)
    pixel = abs(math.log(read(0) / read(1)))
    gammas = np.arange(101) / 100
    lines = {
        kind: points_in(picture.locator(selector).nth(place).get_attribute("d"))
        for kind, selector, place in [
            ("bias", "path.opd-line.opd-dashed", 0),
            ("sampled variance", "path.opd-fine-dots", 0),
            ("sampled error", "g[clip-path] > path:not(.opd-dashed):not(.opd-fine-dots)", 1),
        ]
    }
    for at in (0, 35, 80):
        now = sequences.reward_to_go(student, teacher, gammas[at])
        bias, variance = (now.bias(exact) ** 2).sum(), now.total_variance() / 30
        wanted = {"bias": bias, "sampled variance": variance, "sampled error": bias + variance}
        for kind, value in wanted.items():
            found = math.log(read(lines[kind][at, 1]))
            # a fifth of a pixel of the logarithmic axis
            assert abs(found - math.log(value)) < 0.2 * pixel, (kind, at)
    # of each signal a dot at the chosen γ and a ring at the best one, on the curve of its error
    gamma = widget.check().slider("gamma")
    for place, signal in enumerate(("sampled", "full_vocabulary")):
        best = sequences.best_gamma(student, teacher, 30, signal)
        for at, mark in ((gamma, "circle[r='5']"), (best, "circle[r='6']")):
            mark = picture.locator(mark).nth(place)
            x, y = (float(mark.get_attribute(name)) for name in ("cx", "cy"))
            now = sequences.reward_to_go(student, teacher, at, signal)
            error = math.log(now.mean_squared_error(exact, 30))
            assert abs((x - 50) / 296 - at) < 1e-6  # the axis: 0 at 50, 1 at 346
            assert abs(math.log(read(y)) - error) < 0.2 * pixel, (signal, at)


def test_the_lines_of_the_museum(opened):
    widget = opened("LossMuseum", exhibit="k3", steps=40)
    shown = widget.check().table(1)
    for row, (name, _) in enumerate([("reverse KL", 1), ("forward KL", 2)]):
        picture = widget.root.locator(f'svg[aria-label^="{name} at each step"]')
        value = height_to_value(picture)
        pixel = abs(value(1) - value(0))
        for side, place in (("wrong", 0), ("right", 1)):
            line = points_in(picture.locator(f"[data-line={side}]").get_attribute("d"))
            assert len(line) == 41
            np.testing.assert_allclose(
                value(line[[0, -1], 1]),
                [shown[2, 1 + row], shown[place, 1 + row]],
                atol=0.1 * pixel,
            )
            # faint, what lies ahead: from where the steps taken end on to the last
            ahead = points_in(picture.locator("path[opacity]").nth(place).get_attribute("d"))
            assert len(ahead) == 161 and (ahead[0] == line[-1]).all()
            np.testing.assert_allclose(ahead[:, 0], 40 + np.arange(40, 201) / 200 * 310, atol=0.051)


def test_the_bump_is_drawn_where_it_is(opened):
    widget = opened("SeekOrCover", start_mean=12, start_width=4, steps=0)
    widget.check()
    # the axis: 0 at 148, .215 at 8; 40 tokens from 28 to 356
    start = points_in(widget.root.locator("[data-line=start]").get_attribute("d"))
    p = bump(12, 4)
    np.testing.assert_allclose(start[:, 1], 148 - p / 0.215 * 140, atol=0.051)
    np.testing.assert_allclose(start[:, 0], 28 + (np.arange(40) + 0.5) / 40 * 328, atol=0.051)
