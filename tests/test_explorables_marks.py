"""Marks, second lines and small charts in the explorables' pictures, against their numbers.

The main bars and lines are read in test_explorables_bars_and_lines.
"""

import math
import re

import numpy as np
import pytest

from opd_toy import estimators, sequences
from opd_toy.explorables.control_study import block_means
from opd_toy.records import provenance
from tests.explorables import WIDGETS
from tests.explorables.draws_and_descents import MOST, POSITIONS, WALKS, bump, uniforms
from tests.explorables.museum import museum_end
from tests.explorables.opened import lent_pages, open_explorables
from tests.test_explorables_bars_and_lines import (
    BARS,
    STOPS,
    check_lengths,
    height_to_value,
    points_in,
)
from tests.test_explorables_drawings import CORNERS

lent = pytest.fixture(lent_pages, scope="module")
opened = pytest.fixture(open_explorables)


def numbers(mark, *names):
    return [float(mark.get_attribute(name)) for name in names]


def boxes(picture, *names):
    """The attributes of all rectangles of a picture."""
    return np.array([numbers(box, *names) for box in picture.locator("rect").all()])


def test_the_small_charts_of_all_draws(opened):
    widget = opened("WhichToken", token=2)
    seen = widget.check()
    p, table = seen.distribution("student"), seen.table(1)
    picture = widget.root.locator('svg[aria-label^="The policy gradient\'s push"]')
    shapes = picture.locator("path.opd-fill, path.opd-outline").evaluate_all(BARS)
    feet, tips = np.array(shapes).T
    middles = np.repeat([64, 142, 220, 312, 312], 3)  # three draws, their mean, and GKD's outline
    assert (feet == middles).all()
    check_lengths(tips - middles, table[:5, 1:])
    shown = picture.locator("text").all_text_contents()
    assert [text for text in shown if "=" in text] == [
        "mean = GKD",
        *(f"p = {x:.2f}" for x in p),
    ]


def test_a_label_its_soft_form_and_the_student_stand_on_one_ground(opened):
    widget = opened("HardToSoft", token=2, sharpness=0.3)
    seen = widget.check()
    picture = widget.root.locator('svg[aria-label^="For each token"]')
    labels, soft, student, *_ = np.split(boxes(picture, "y", "height"), 5)
    q, unit = seen.distribution("teacher"), labels[0, 1] / seen.table(0)[0, 1]
    ground = labels[:, 0] + labels[:, 1]
    np.testing.assert_allclose(ground, ground[0])
    np.testing.assert_allclose(soft, np.transpose([ground - unit * q, unit * q]))
    middle = student[:, 0] + student[:, 1] / 2
    np.testing.assert_allclose(middle, ground - unit * seen.distribution("student"))
    # the loss as a bar of two parts, one behind the other
    _, forward, entropy = boxes(widget.root.locator('svg[aria-label^="The soft-label"]'), "width")
    start, behind = boxes(widget.root.locator('svg[aria-label^="The soft-label"]'), "x")[1:]
    assert (start, behind) == (0, forward)
    assert forward / entropy == pytest.approx(seen.number("forward-kl") / seen.number("entropy"))


def test_the_study_s_dot_and_target(opened):
    study = provenance.recorded("control-study", "variance")
    means = np.log10(block_means(study))
    for task, target in enumerate(study["targets"]):
        widget = opened("ControlStudy")
        widget.set(task=study["tasks"][task], gamma=0.5, seed=2026, iteration=1000)
        widget.check()
        variances, trajectories = widget.root.locator("svg").all()
        x, y = numbers(variances.locator("circle.opd-point"), "cx", "cy")
        assert (x - 40) / 274 * 2000 == pytest.approx(980, abs=1)  # the middle of 961 to 1000
        line = points_in(variances.locator("[data-line='2']").get_attribute("d"))
        assert y == pytest.approx(line[24, 1], abs=0.051)
        assert len(line) == means.shape[-1] == 50
        # the labels, 14 apart; γ = 1, which is alone there, at the median of its line's end
        labels = variances.get_by_text(re.compile("^γ [\\d.]+$")).all()
        heights = [numbers(label, "y")[0] - 4 for label in labels]
        assert np.diff(sorted(heights)).min() > 13.9
        end = points_in(variances.locator("[data-line='4']").get_attribute("d"))[-7:, 1]
        assert heights[4] == pytest.approx(np.median(end), abs=0.051)
        level = trajectories.locator("path.opd-dashed").get_attribute("d")
        height = float(re.fullmatch(r"M[\d.]+ ([\d.]+)H[\d.]+", level)[1])
        assert (104 - height) * 16 / 184 == pytest.approx(target)
        start = numbers(trajectories.locator("circle.opd-point"), "cy")[0]
        assert (104 - start) * 16 / 184 == pytest.approx(study["starts"][task], abs=0.05)


def test_the_museum_s_ways_and_ends(opened):
    widget = opened("LossMuseum", exhibit="k3", steps=30)
    seen = widget.check()
    pair = [tuple(seen.distribution(who)) for who in ("student", "teacher")]
    for place, side in enumerate(("wrong", "right")):
        way = points_in(widget.root.locator(f"[data-path={side}]").get_attribute("d"))
        dashes = widget.root.locator(f"[data-path={side}], [data-line={side}]").evaluate_all(
            "(lines) => lines.map((line) => getComputedStyle(line).strokeDasharray)"
        )
        assert {dash != "none" for dash in dashes} == {side == "wrong"} and len(dashes) == 3
        for at in (0, 15, 30):
            p = museum_end("k3", place, *pair, at, None)
            np.testing.assert_allclose(way[at], p @ CORNERS, atol=0.051)
    for row, name in enumerate(("reverse KL", "forward KL"), start=1):
        picture = widget.root.locator(f'svg[aria-label^="{name} at each step"]')
        value = height_to_value(picture)
        pixel = abs(value(1) - value(0))
        cross = picture.locator("path.opd-cross").get_attribute("d")
        wrong = [float(x) + 5 for x in re.match(r"M([\d.]+) ([\d.]+)l10 10", cross).groups()]
        right = numbers(picture.locator("circle.opd-point"), "cx", "cy")
        assert wrong[0] == right[0] == 40 + 30 / 200 * 310
        for mark, shown in ((wrong, seen.table(1)[0]), (right, seen.table(1)[1])):
            assert value(mark[1]) == pytest.approx(shown[row], abs=0.1 * pixel)


def test_the_other_walks_and_their_root_mean_square(opened):
    widget = opened("SampleAndAverage", draws=200, component=1, seed=5)
    seen = widget.check(seed=5)
    p, q = seen.distribution("student"), seen.distribution("teacher")
    table = estimators.policy_gradient(p, q)
    exact = estimators.expectation(p, table)
    end = next(stop for stop in STOPS if stop >= 256)  # walks go on to a power of two
    draws = uniforms(5, WALKS * MOST).reshape(WALKS, MOST)[:, :end]
    tokens = (draws >= p[0]).astype(int) + (draws >= p[0] + p[1])
    sums = np.cumsum(table[tokens], axis=1)
    walks, errors = widget.root.locator("svg[role=img]").all()
    value, error = height_to_value(walks), height_to_value(errors, logarithmic=True)
    others = walks.locator("path.opd-faint").get_attribute("d").split("M")[1:]
    assert len(others) == WALKS - 1
    at = [round(2 ** ((x - 46) / 300 * 12)) for x, _ in points_in(others[0])]
    for walk, line in enumerate(others, start=1):
        drawn = [sums[walk, n - 1, 0] / n for n in (at[0], at[-1])]
        found = value(points_in(line)[[0, -1], 1])
        np.testing.assert_allclose(found, drawn, atol=0.1 * abs(value(1) - value(0)))
    typical = points_in(errors.locator("path.opd-dots").get_attribute("d"))
    wanted = [
        math.sqrt(((sums[:, n - 1] / n - exact) ** 2).sum(axis=-1).mean()) for n in (at[0], at[-1])
    ]
    rough = error(0) / error(0.2) - 1
    np.testing.assert_allclose(error(typical[[0, -1], 1]), wanted, rtol=rough)
    # the dots stand at the present mean and its distance
    mean = sums[0, 199] / 200
    for picture, axis, now in (
        (walks, value, mean[0]),
        (errors, error, np.linalg.norm(mean - exact)),
    ):
        x, y = numbers(picture.locator("circle.opd-point"), "cx", "cy")
        assert x == pytest.approx(46 + math.log2(200) / 12 * 300)
        assert axis(y) == pytest.approx(now, rel=0.01)


def test_the_curves_of_the_second_signal_and_the_level(opened):
    widget = opened("BiasAgainstVariance", length=3, samples=20)
    widget.check()
    student, teacher = widget.widget.trees()
    exact = sequences.sequence_kl_gradient(student, teacher)
    picture = widget.root.locator('svg[aria-label^="Squared bias"]')
    value = height_to_value(picture, logarithmic=True)
    rough = abs(math.log(value(0) / value(0.2)))
    # as the key has it
    roles = [
        re.findall("--opd-([a-z-]+)", line.get_attribute("style") or "")
        for line in picture.locator("g[clip-path] > path").all()
    ]
    assert roles == [["ink"], ["ink"], *[["policy-gradient"]] * 2, *[["reverse-kl"]] * 2]
    level, _, full = picture.locator(
        "g[clip-path] > path:not(.opd-dashed):not(.opd-fine-dots)"
    ).all()
    height = float(re.fullmatch(r"M[\d.]+ ([\d.]+)H[\d.]+", level.get_attribute("d"))[1])
    assert value(height) == pytest.approx(exact @ exact, rel=2 * rough)
    dotted = picture.locator("path.opd-fine-dots").nth(1)
    curves = [points_in(line.get_attribute("d"))[:, 1] for line in (dotted, full)]
    for at in (0, 40, 90):
        now = sequences.reward_to_go(student, teacher, at / 100, "full_vocabulary")
        wanted = [now.total_variance() / 20, now.mean_squared_error(exact, 20)]
        found = [value(curve[at]) for curve in curves]
        np.testing.assert_allclose(found, wanted, rtol=2 * rough)


def test_the_bumps_of_teacher_student_and_ends_and_the_cost_by_step(opened):
    widget = opened("SeekOrCover", steps=7, objective="forward_kl")
    seen = widget.check()
    shown = seen.table(0)
    scene, ends, costs = widget.root.locator("svg[role=img]").all()
    share = lambda heights: (148 - heights) / 140 * 0.215
    q = 0.6 * bump(12.5, 2) + 0.4 * bump(28.5, 2)
    for picture in (scene, ends):
        bars = picture.locator("g rect").evaluate_all(
            "(all) => all.map((one) => Number(one.getAttribute('height')))"
        )
        np.testing.assert_allclose(np.array(bars) / 140 * 0.215, q, atol=1e-9)
    lines = [(scene, "student", 1), (ends, "forward_kl", 2)]
    lines += [(ends, "reverse_kl", 3), (ends, "jsd", 4)]
    for picture, name, row in lines:
        line = points_in(picture.locator(f"[data-line={name}]").get_attribute("d"))
        p = share(line[:, 1])
        assert p.sum() == pytest.approx(1, abs=2e-3), name
        assert p @ POSITIONS / p.sum() == pytest.approx(shown[row, 0], abs=0.05), name
        assert p[:20].sum() == pytest.approx(shown[row, 2], abs=2e-3), name
    ahead, taken = (
        points_in(costs.locator("path.opd-line").nth(n).get_attribute("d")) for n in (0, 1)
    )
    last = int(seen.number("steps-in-all"))
    assert (len(ahead), len(taken)) == (last + 1, 8)
    mark = numbers(costs.locator("circle.opd-point"), "cx", "cy")
    np.testing.assert_allclose(mark, taken[-1], atol=0.051)
    assert mark[0] == pytest.approx(46 + 7 / last * 294, abs=0.051)
    high = float(costs.locator("text").nth(3).text_content())
    assert (104 - mark[1]) / 82 * high == pytest.approx(shown[1, 3], abs=0.01 * high)


# One colour a role in the whole book: whose words a key, a table's head or a label may bear.
ROLES = {
    r"^(sampled|PG|RLVR|OPD\+R|policy gradient|this estimator|total variance|lower than it)"
    r"|^(mean$|mean of N|99 other|root mean|exact ±)"
    r"|^(this correction|the token's ratio|the product over|1 step old|4$|16$)": "policy-gradient",
    r"^(GKD|reverse KL|rev\. off|top k|KL\(p‖q\), exact)": "reverse-kl",
    r"^exact($|:| gradient)": "reverse-kl",
    r"^(forward KL|fwd\. on|SFT$|SeqKD)": "forward-kl",
    r"^(behaviour|μ$)": "behaviour",
    r"^JSD": "jsd",
    r"teacher|label|target|^q$": "teacher",
    r"student|start|trajectories|slip|^end, mean|^p$": "student",
}
COLOURED = """(root) => [...root.querySelectorAll(
  ".opd-key span, .opd-table thead th, .opd-choice label, .opd-bars, svg text.opd-point-label"
)].flatMap((node) => {
  const mark = node.querySelector("i");
  const role = [node, mark].map((each) => each?.style.getPropertyValue("--role")).find(Boolean);
  const words = (node.querySelector("legend") ?? node).textContent;
  return role ? [[role.match(/--opd-([a-z-]+)/)[1], words]] : [];
})"""


@pytest.mark.parametrize("name", WIDGETS)
def test_a_colour_bears_the_words_of_its_role(name, opened):
    before = None
    for role, text in opened(name).root.evaluate(COLOURED):
        known = [of for words, of in ROLES.items() if re.search(words, text)]
        if text.startswith("its variance"):  # that of the line before it
            known = [before]
        assert role in ("ink", "muted") or text.startswith("least at") or known[:1] == [role], text
        before = role


OVERLAPPING = """(root) => [...root.querySelectorAll("svg[role=img]")].flatMap((picture) => {
  const texts = [...picture.querySelectorAll("text")].filter((text) => text.textContent.trim());
  const boxes = texts.map((text) => text.getBoundingClientRect());
  const shared = (a, b, [from, to]) => Math.min(a[to], b[to]) - Math.max(a[from], b[from]);
  return boxes.flatMap((a, i) => boxes.slice(i + 1).flatMap((b, j) =>
    shared(a, b, ["left", "right"]) > 2 && shared(a, b, ["top", "bottom"]) > 6
      ? [[texts[i].textContent, texts[i + j + 1].textContent]] : []));
})"""


@pytest.mark.parametrize("name", WIDGETS)
def test_no_label_stands_on_another(name, opened):
    """At first and at each preset the boxes of two texts have next to nothing in common.

    But for the names of two points that are one: the student's and the teacher's.
    """
    widget = opened(name)
    buttons = widget.root.locator(".opd-toolbar").first.get_by_role("button").all()
    assert widget.root.evaluate(OVERLAPPING) == []
    for button in buttons:
        if button.inner_text() != "Play" and button.is_enabled():
            button.click()
            found = widget.root.evaluate(OVERLAPPING)
            known = [["teacher", "student"]] if button.inner_text() == "Student = teacher" else []
            assert [pair for pair in found if pair not in known] == [], button.inner_text()
