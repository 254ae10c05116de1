"""What the explorables draw: coordinates in their pictures against the engine and the records."""

import math
import re

import numpy as np
import pytest

from opd_toy import estimators, objectives, sequences
from opd_toy.explorables.control_study import block_means
from opd_toy.records import provenance
from tests.explorables import read
from tests.explorables.draws_and_descents import bump, uniforms
from tests.explorables.one_position import SIMPLE
from tests.explorables.opened import by_mouse, lent_pages, open_explorables, states
from tests.test_explorables import drag_sliders

lent = pytest.fixture(lent_pages, scope="module")
opened = pytest.fixture(open_explorables)


def polygon_distance(point, corners):
    """Is the point inside, and how far from the edge?"""
    a, b = corners, np.roll(corners, -1, axis=0)
    along_, to = b - a, point - a
    t = np.clip((to * along_).sum(1) / np.maximum((along_**2).sum(1), 1e-12), 0, 1)
    distance = np.hypot(*(to - t[:, None] * along_).T).min()
    crosses = (a[:, 1] > point[1]) != (b[:, 1] > point[1])
    with np.errstate(divide="ignore", invalid="ignore"):
        x = a[:, 0] + (point[1] - a[:, 1]) / along_[:, 1] * along_[:, 0]
    return bool((crosses & (point[0] < x)).sum() % 2), distance


CORNERS = np.array([[30.0, 296], [180, 36], [330, 296]])


@pytest.mark.parametrize(
    "teacher", [[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.45, 0.1, 0.45], [0.05, 0.05, 0.9]], ids=str
)
def test_the_shaded_region_is_where_the_two_kls_disagree(teacher, opened):
    random = np.random.default_rng(6)
    widget = opened("PushAndPull", teacher=teacher)
    for token in (1, 2, 3):
        widget.set(teacher=teacher, token=token)
        paths = [path.get_attribute("d") for path in widget.root.locator(".opd-region").all()]
        polygons = [
            np.array([[float(x) for x in point.split()] for point in path.strip("MZ").split("L")])
            for path in paths
        ]
        tested = [0, 0]
        low, high = np.concatenate(polygons).min(axis=0), np.concatenate(polygons).max(axis=0)
        near = np.linalg.solve(
            np.vstack([CORNERS.T, np.ones(3)]),
            np.vstack([random.uniform(low, high, (300, 2)).T, np.ones(300)]),
        ).T
        for p in [*random.dirichlet(np.ones(3), 300), *near[near.min(axis=1) > 1e-3]]:
            p = p / p.sum()
            places = [polygon_distance(p @ CORNERS, polygon) for polygon in polygons]
            if min(distance for _, distance in places) < 0.5:  # nearer than half a pixel
                continue
            forward, reverse = (
                gradient(p, np.array(teacher))[token - 1] for gradient in SIMPLE.values()
            )
            shaded = any(inside for inside, _ in places)
            assert shaded == (forward > 0 > reverse), p
            assert forward > 0 or reverse < 0  # and never the other way round
            tested[shaded] += 1
        assert min(tested) > 5, tested


def test_the_study_draws_the_recorded_trajectories_and_variances(opened):
    study = provenance.recorded("control-study", "variance")
    widget = opened("ControlStudy")
    for state in states("ControlStudy", 8, seed=3):
        widget.set(**state)
        widget.check()
        g, s, t = (
            study[all_].index(state[one])
            for all_, one in (("gammas", "gamma"), ("seeds", "seed"), ("tasks", "task"))
        )
        variances, trajectories = widget.root.locator("svg").all()
        points = [
            [float(y) for _, y in re.findall(r"([\d.]+) (-?[\d.]+)", line.get_attribute("d"))]
            for line in trajectories.locator("g .opd-line").all()
        ]
        checkpoint = max(
            [
                c
                for c, each in enumerate(study["checkpoints"])
                if each <= 40 * math.ceil(state["iteration"] / 40)
            ],
            default=0,
        )
        # by the axis: 16 units of position in 184 of the picture, 0 at 104
        np.testing.assert_allclose(
            (104 - np.array(points)) * 16 / 184,
            np.clip(np.array(study["trajectories"][g][s][checkpoint][t][: len(points)]), -9, 9),
            atol=0.05,
        )
        labels = {
            float(each.get_attribute("y")) - 4: each.text_content()
            for each in variances.locator("text").all()
            if re.fullmatch("10[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+", each.text_content())
        }
        decades = {
            int(text[2:].translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789"))): y
            for y, text in labels.items()
        }
        axis = np.polyfit(list(decades.values()), list(decades), 1)
        for n in range(len(study["gammas"])):
            drawn = [
                float(y)
                for _, y in re.findall(
                    r"([\d.]+) ([\d.]+)", variances.locator(f"[data-line='{n}']").get_attribute("d")
                )
            ]
            np.testing.assert_allclose(
                np.polyval(axis, drawn), np.log10(block_means(study)[n, s, t]), atol=0.01
            )


def test_the_path_runs_from_the_student_to_the_teacher(opened):
    widget = opened("PushAndPull")
    for objective in ("forward_kl", "reverse_kl", "jsd"):
        for student in ([0.2, 0.3, 0.5], [0.03, 0.07, 0.9]):
            widget.set(student=student, objective=objective)
            points = widget.root.locator(".opd-path").get_attribute("d").strip("M").split("L")
            first, last = (np.array([float(x) for x in points[i].split()]) for i in (0, -1))
            assert math.dist(first, np.array(student) @ CORNERS) < 0.1
            assert math.dist(last, np.array([0.7, 0.2, 0.1]) @ CORNERS) < 3


def test_one_step_is_a_step_of_descent(opened):
    widget = opened("PushAndPull")
    for objective in ("forward_kl", "reverse_kl"):
        widget.set(student=[0.2, 0.3, 0.5], objective=objective)
        p, q = (widget.check().distribution(who) for who in ("student", "teacher"))
        widget.root.get_by_role("button", name="Take one step").click()
        moved = np.exp(np.log(p) - 0.5 * SIMPLE[objective](p, q))
        np.testing.assert_allclose(
            widget.check().distribution("student"), moved / moved.sum(), rtol=1e-12
        )
        before, after = (
            objectives.forward_kl if objective == "forward_kl" else objectives.reverse_kl
        )(np.array([p, moved / moved.sum()]), q)
        assert after < before


def test_all_six_objectives_can_be_offered(opened):
    every = ["forward_kl", "reverse_kl", "jsd", "alpha", "skewed_forward_kl", "skewed_reverse_kl"]
    widget = opened("PushAndPull", objectives=every)
    drag_sliders(widget, by_mouse)
    for objective in every:
        widget.set(objective=objective, beta=0.3, alpha=-0.5, skew=0.2)
        assert widget.check().choices["objective"] == objective
    few = opened(
        "PushAndPull", objectives=["alpha", "skewed_forward_kl"]
    )  # the default, reverse KL, is not among them
    assert few.check().choices["objective"] == "alpha"


def test_every_exhibit_where_its_mistake_bites(opened):
    widget = opened("LossMuseum")
    ends = {}
    for exhibit in widget.widget.traits()["exhibit"].values:
        for update in ("expected", "drawn"):
            widget.set(exhibit=exhibit, update=update, student=[0.02, 0.28, 0.7], steps=60, seed=3)
            ends[exhibit, update] = widget.check().table(0)
    for exhibit in ("k1", "advantage"):  # without a draw the student stays, with draws it wanders
        np.testing.assert_allclose(ends[exhibit, "expected"][:, 2], [0.02, 0.28, 0.7], rtol=1e-9)
        assert np.abs(ends[exhibit, "drawn"][:, 2] - [0.02, 0.28, 0.7]).max() > 0.01
    assert all(np.abs(end[:, 2] - end[:, 3]).max() > 1e-3 for end in ends.values())


def test_drawing_tokens_counts_them(opened):
    widget = opened("WhichToken")
    drawn = []
    for number in range(1, 13):
        widget.root.get_by_role("button", name="Draw one").click()
        seen = widget.check()
        drawn.append(int(seen.choices["token"]))
        assert seen.number("draws") == number
        assert seen.words["draws"] == "so far " + ", ".join(
            f"{token} {drawn.count(v)}×" for v, token in enumerate(("t₁", "t₂", "t₃"), 1)
        )
    assert len(set(drawn)) > 1
    assert drawn == [1 + int(x >= 0.2) + int(x >= 0.5) for x in uniforms(1, 12)]


def test_a_descent_of_the_bump_never_climbs(opened):
    widget = opened("SeekOrCover")
    for objective in ("forward_kl", "reverse_kl", "jsd"):
        widget.set(objective=objective, steps=0)
        last = int(read(widget.root).number("steps-in-all"))
        costs = []
        for _ in range(last + 1):
            costs.append(widget.check().table(0)[1, 3])
            if widget.root.get_by_role("button", name="Step").is_enabled():
                widget.root.get_by_role("button", name="Step").click()
        assert len(costs) > 3 and np.all(np.diff(costs) < 1e-12)
    seen = read(widget.root)
    # seeking and covering: forward KL ends wide on both modes, reverse KL narrow on one
    forward, reverse = seen.table(0)[2, 1], seen.table(0)[3, 1]
    assert forward > 3 * reverse


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
def test_a_weight_above_zero_hangs_down(state, opened):
    widget = opened("Credit", **state)
    seen = widget.check()
    rows = [np.array(row, float) for row in seen.tables[0] if row]
    if state.get("scheme") == "fipo":
        rows[-1] = -rows[-1]  # shifts of log p: a rise is drawn upwards
    pictures = widget.root.locator(".opd-weight").evaluate_all("""(all) => all.map((picture) => [
      Number(picture.querySelector("path").getAttribute("d").match(/M0 ([\\d.]+)/)[1]),
      ...["y", "height"].map((name) => Number(picture.querySelector("rect").getAttribute(name))),
    ])""")
    drawn = np.array(pictures).reshape(len(rows), 5, 3)
    groups = [range(5), range(5, 8), [8]]
    for group in groups:
        weights = np.concatenate([rows[row] for row in group])
        zero, top, height = np.concatenate([drawn[row] for row in group]).T
        down = np.where(top + height / 2 > zero, 1, -1) * height
        if np.abs(weights).max() == 0:
            assert not height.any()
            continue
        scale = down @ weights / (weights @ weights)
        assert scale > 0
        # two digits of the drawing's coordinates, at both ends
        np.testing.assert_allclose(down, scale * weights, atol=0.03)


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
    variances = [
        estimators.total_variance(p, estimators.policy_gradient(p, q, b))
        for b in np.polyval(scale, line[:, 0])
    ]
    steepest = np.abs(np.diff(variances) / np.diff(line[:, 0])).max()  # of a tenth of a pixel
    np.testing.assert_allclose(value(line[:, 1]), variances, atol=0.1 * (pixel + steepest))


def test_the_curves_of_bias_and_variance(opened):
    widget = opened("BiasAgainstVariance", length=4, samples=30)
    widget.check()
    student, teacher = widget.widget.trees()
    exact = sequences.sequence_kl_gradient(student, teacher)
    picture = widget.root.locator('svg[aria-label^="Squared bias"]')
    ticks = [
        (float(text.get_attribute("y")) - 4, text.text_content())
        for text in picture.locator("text[text-anchor=end]").all()
        if re.fullmatch(r"[\d.]+", text.text_content())
    ]
    line = np.polyfit([y for y, _ in ticks], np.log([float(text) for _, text in ticks]), 1)
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
            found = np.polyval(line, lines[kind][at, 1])
            # a fifth of a pixel of the logarithmic axis
            assert abs(found - math.log(value)) < 0.2 * abs(line[0]), (kind, at)


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


def test_the_bump_is_drawn_where_it_is(opened):
    widget = opened("SeekOrCover", start_mean=12, start_width=4, steps=0)
    widget.check()
    # the axis: 0 at 148, .215 at 8; 40 tokens from 28 to 356
    start = points_in(widget.root.locator("[data-line=start]").get_attribute("d"))
    p = bump(12, 4)
    np.testing.assert_allclose(start[:, 1], 148 - p / 0.215 * 140, atol=0.051)
    np.testing.assert_allclose(start[:, 0], 28 + (np.arange(40) + 0.5) / 40 * 328, atol=0.051)
