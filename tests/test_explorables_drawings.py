"""What the explorables draw: coordinates in their pictures against the engine and the records."""

import math
import re

import numpy as np
import pytest

from opd_toy import objectives
from opd_toy.explorables.control_study import block_means
from opd_toy.explorables.push_and_pull import OBJECTIVES
from opd_toy.explorables.stale_rollouts import CORRECTIONS
from opd_toy.records import provenance
from opd_toy.records.provenance import recorded
from tests.explorables import read
from tests.explorables.draws_and_descents import uniforms
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
        ends = study["final_position"], study["teachers"]
        marks = trajectories.locator(".opd-whisker").all()
        for mark, (mean, deviation) in zip(
            marks,
            (
                [ends[0][what][g][s][t][checkpoint] for what in ("mean", "sd")],
                [ends[1][f"final_position_{what}"][t] for what in ("mean", "sd")],
            ),
            strict=True,
        ):
            drawn = [float(y) for y in re.findall(r"[ V]([\d.]+)", mark.get_attribute("d"))]
            np.testing.assert_allclose(
                (104 - np.array(drawn)) * 16 / 184,
                np.clip([mean - deviation, mean + deviation], -8, 8),  # the picture's edge
                atol=0.01,
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


def test_the_arrows_point_where_descent_moves_the_student(opened):
    widget = opened("PushAndPull")
    for objective, gradient in SIMPLE.items():
        widget.set(objective=objective)
        d = widget.root.locator(".opd-arrow").get_attribute("d")
        strokes = [re.findall(r"([-\d.]+) ([-\d.]+)", part) for part in d.split("M") if part]
        shafts = np.array(strokes[::2], float)  # every other stroke is an arrow's head
        assert len(shafts) > 20
        for foot, tip in shafts:
            middle = (foot + tip) / 2
            p = np.linalg.solve(np.vstack([CORNERS.T, np.ones(3)]), [*middle, 1])
            g = gradient(p, np.array([0.7, 0.2, 0.1]))
            wanted = -p * (g - p @ g) @ CORNERS  # the gradient flow of the probabilities
            cosine = (tip - foot) @ wanted / np.linalg.norm(tip - foot) / np.linalg.norm(wanted)
            assert cosine > 0.99, (objective, p)


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


def test_all_objectives_can_be_offered(opened):
    every = list(OBJECTIVES)
    widget = opened("PushAndPull", objectives=every)
    drag_sliders(widget, by_mouse)
    for objective in every:
        widget.set(objective=objective, beta=0.3, alpha=-0.5, skew=0.2)
        assert widget.check().choices["objective"] == objective
    few = opened(
        "PushAndPull", objectives=["alpha", "skewed_forward_kl"]
    )  # the default, reverse KL, is not among them
    assert few.check().choices["objective"] == "alpha"


def test_the_rescaled_jsd_keeps_its_strength_up_to_the_ends(opened):
    offered = ["forward_kl", "jsd", "rescaled_jsd", "reverse_kl"]
    widget = opened("PushAndPull", objectives=offered, objective="rescaled_jsd")
    for beta in (0, 1e-3, 0.5, 1 - 1e-3, 1):
        widget.set(beta=beta)
        forward, plain, rescaled, reverse = widget.check().table(0)[:, 3:].T
        if 0 < beta < 1:
            assert np.linalg.norm(rescaled) > 3.5 * np.linalg.norm(plain)
        if beta != 0.5:  # at .001 from an end, within 1 % of its KL
            end = forward if beta < 0.5 else reverse
            np.testing.assert_allclose(rescaled, end, atol=0.01 * np.abs(end).max())


def test_every_token_of_every_recorded_answer(opened):
    widget = opened("Derail")
    answers = recorded("derailing", "derail")["answers"]
    for name, answer in answers.items():
        for position in range(len(answer["tokens"])):
            widget.set(answer=name, position=position)
            assert widget.check().outputs == {"position": str(position)}
        label = widget.root.locator("svg").first.get_attribute("aria-label")
        fresh = answer["new_at"]
        assert (f"No training text has the first {fresh} tokens." in label) == (name != "right")
        assert f"answer: {' '.join(answer['tokens'])};" in label


def test_buttons_lead_to_the_first_slip_and_to_the_greatest_doubt(opened):
    widget, record = opened("Derail"), recorded("derailing", "derail")
    press = lambda name: widget.root.get_by_role("button", name=name).click()
    for name, answer in record["answers"].items():
        widget.set(answer=name, position=1)
        right = [[record["tokens"].index(token) for token in each] for each in answer["right"]]
        sure = [sum(row[i] for i in at) for row, at in zip(answer["probabilities"][0], right)]
        press("Where the student knows least")
        assert sure[int(widget.check().outputs["position"])] == min(sure)
        slips = [t for t, token in enumerate(answer["tokens"]) if token not in answer["right"][t]]
        if slips:
            press("To the first slip")
            assert widget.check().outputs["position"] == str(slips[0])


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


STALE = [
    {},
    {"correction": "mask", "cost": "kept", "sampler": "top_p", "renew": 16},
    {"correction": "none", "behaviour": [0.1, 0.8, 0.1], "teacher": [0.2, 0.2, 0.6]},
]


def wanted_arrow(p, g):
    """Where a small step of descent moves the probabilities, in the picture."""
    return -p * (g - p @ g) @ CORNERS


@pytest.mark.parametrize("state", STALE, ids=["truncated", "masked", "none"])
def test_arrows_ways_and_ends_of_stale_rollouts(state, opened):
    widget = opened("StaleRollouts", **state)
    seen = widget.check()
    tokens, ends, compared = (seen.table(index) for index in range(3))
    p, mu = tokens[:, 0], tokens[:, 2]
    chosen = CORRECTIONS.index(seen.choices["correction"])
    draw = lambda name: widget.root.locator(name).get_attribute("d")
    broad, thin = (
        points_in(draw(f"[data-arrow={name}]").replace("Z", "")) for name in ("exact", "chosen")
    )
    found = [broad[3] - (broad[0] + broad[6]) / 2, thin[1] - thin[0]]
    wanted = [wanted_arrow(p, g) for g in (compared[5, 2:], compared[chosen, 2:])]
    unit = 70 / max(np.linalg.norm(each) for each in wanted)
    np.testing.assert_allclose(found, np.multiply(unit, wanted), atol=0.11)
    np.testing.assert_allclose(thin[0], p @ CORNERS, atol=0.06)
    for name, row in (("held", 1), ("renewed", 2)):
        way = points_in(draw(f"[data-path={name}]"))
        np.testing.assert_allclose(way[[0, -1]], [p @ CORNERS, ends[row, :3] @ CORNERS], atol=0.06)
    cross = points_in(draw("[data-end=held]").split("l")[0])[0] + 6
    np.testing.assert_allclose(cross, ends[1, :3] @ CORNERS, atol=1e-6)
    ring = widget.root.locator("[data-end=renewed]")
    place = [float(ring.get_attribute(name)) for name in ("cx", "cy")]
    np.testing.assert_allclose(place, ends[2, :3] @ CORNERS, atol=1e-6)
    cut = widget.root.locator("[data-cut]")
    assert bool(cut.get_attribute("d")) == (mu.min() == 0)
    if mu.min() == 0:
        corner = points_in(cut.get_attribute("d").split("l")[0])[0] + [0, 7]
        np.testing.assert_allclose(corner, mu @ CORNERS, atol=1e-6)


@pytest.mark.parametrize("state", STALE, ids=["truncated", "masked", "none"])
def test_bars_and_lines_of_stale_rollouts(state, opened):
    widget = opened("StaleRollouts", **state)
    seen = widget.check()
    for words, column, least in (("bias", 0, 0.5), ("variance", 1, 1)):
        bars = widget.root.locator(f"[data-bar={words}]").evaluate_all(
            "(bars) => bars.map((bar) => Number(bar.getAttribute('width')))"
        )
        shown = seen.table(2)[:5, column]
        np.testing.assert_allclose(bars, 84 * shown / max(least, shown.max()), rtol=1e-9)
    moment = seen.number("second-moment")
    of_share = lambda y: 1000 ** -((y - 10) / 118)  # 1 above, a thousandth below
    for name, share in (("token", lambda tokens: moment**-1), ("product", lambda t: moment**-t)):
        line = widget.root.locator(f"[data-line={name}]").get_attribute("d")
        points = points_in(line) if name == "product" else [numbers_in(line)[:2]]
        for x, y in points:
            expected = max(share(2 ** (6 * (x - 46) / 300)), 1e-3)
            assert of_share(y) == pytest.approx(expected, rel=0.02)
    record = recorded("stale-rollouts", "stale")
    run = "kept" if seen.choices["cost"] == "kept" else seen.choices["correction"]
    texts = widget.root.locator('svg[aria-label^="The KL to the teacher along"] text').all()
    heights = {
        each.text_content(): float(each.get_attribute("y")) - 4
        for each in texts
        if each.get_attribute("text-anchor") == "end"
    }
    axis = np.polyfit(list(heights.values()), np.log([float(kl) for kl in heights]), 1)
    for age in ("1", "4", "16"):
        line = points_in(widget.root.locator(f"[data-line='{age}']").get_attribute("d"))
        np.testing.assert_allclose(
            np.exp(np.polyval(axis, line[:, 1])), record["runs"][run][age]["kl"], rtol=0.005
        )
        np.testing.assert_allclose((line[:, 0] - 34) / 316 * 160, record["steps"], atol=0.05)


def numbers_in(text):
    return [float(x) for x in re.findall(r"-?[\d.]+", text)]


def points_in(text):
    return np.reshape(numbers_in(text), (-1, 2))
