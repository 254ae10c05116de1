"""What the still figures draw, and what their words say, against the engine and the records."""

import itertools
import re
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from opd_toy import distributions, objectives, sequences
from opd_toy.example import STUDENT, STUDENT_TREE, TEACHER, TEACHER_TREE
from opd_toy.explorables import Derail
from opd_toy.pages import (
    chapter_figures,
    future_figures,
    growth_figures,
    social_card,
    stale_figures,
    study_figures,
    tree_figure,
)
from opd_toy.pages.drawing import Style, draw_svg
from opd_toy.pages.figures import FIGURES
from opd_toy.records.provenance import recorded


@pytest.fixture
def axes_of():
    """The axes of a figure, by its name."""
    with plt.rc_context(Style().parameters()):
        yield lambda name: FIGURES[name]["draw"](Style()).axes
    plt.close("all")


def curves(axes):
    """The values of the lines that show something, in the order in which they are drawn."""
    return [line.get_ydata() for line in axes.lines if line.get_linewidth() >= 1.8]


def says(name, *phrases):
    """What the words beside a figure say, word by word: the caller holds it to what is drawn."""
    assert [phrase for phrase in phrases if phrase not in FIGURES[name]["alt"]] == []


@pytest.mark.parametrize(
    "name", sorted(FIGURES.keys() - {"training-with-few-draws"})
)  # trains first
def test_no_word_is_cut_off_at_the_edge(name, axes_of):
    figure = axes_of(name)[0].figure
    figure.draw_without_rendering()
    picture = figure.bbox.padded(1)
    for text in itertools.chain(*(axes.texts for axes in figure.axes)):
        box = text.get_window_extent()
        assert box.width > 1, f"{text.get_text()} is not drawn, as its place is outside the axes"
        assert picture.contains(*box.min) and picture.contains(*box.max), text.get_text()


def test_the_second_token_under_both_kls(axes_of):
    lines = curves(axes_of("second-token-along-descent")[0])[:2]
    gradients = (objectives.reverse_kl_logit_gradient, objectives.forward_kl_logit_gradient)
    for line, gradient in zip(lines, gradients):
        z = np.log(STUDENT)
        for value in line:
            np.testing.assert_allclose(value, distributions.softmax(z)[1], rtol=1e-9)
            z = z - 0.1 * gradient(distributions.softmax(z), TEACHER)
    reverse, forward = lines
    assert reverse[0] == forward[0] == pytest.approx(0.3)
    says(
        "second-token-along-descent",
        "under reverse KL the probability of the second token first rises clearly, then falls",
        "and is still above the teacher's .2 at the end",
        "under forward KL it stays flat for a moment, falls, and ends at .2",
    )
    assert reverse.max() > 0.32 and reverse[-1] < reverse.max() and reverse[-1] > 0.21
    assert abs(forward[3] - 0.3) < 0.002 and abs(forward[-1] - 0.2) < 0.005


def test_the_jsd_over_its_dial_falls_to_zero_and_divided_joins_the_two_kls(axes_of):
    axes = axes_of("jsd-over-beta")[0]
    (dial, plain), (_, divided), *dots = (line.get_data() for line in axes.lines)
    np.testing.assert_allclose(
        plain, [objectives.generalized_jsd(STUDENT, TEACHER, beta) for beta in dial], rtol=1e-12
    )
    np.testing.assert_allclose(divided * dial * (1 - dial), plain, rtol=1e-12)
    ends = [objectives.forward_kl(STUDENT, TEACHER), objectives.reverse_kl(STUDENT, TEACHER)]
    assert [(x[0], y[0]) for x, y in dots] == list(zip((0, 1), ends))
    says(
        "jsd-over-beta",
        "is an arch that falls to zero at both ends",
        "Divided it is nearly level and runs from a dot, forward KL, to another, reverse KL",
    )
    top = plain.argmax()
    assert (np.diff(plain[: top + 1]) > 0).all() and (np.diff(plain[top:]) < 0).all()
    assert max(plain[0], plain[-1]) < 0.01 * plain[top] and np.ptp(divided) < 0.15 * min(divided)
    np.testing.assert_allclose(divided[[0, -1]], ends, rtol=0.01)


def test_the_sum_over_the_top_alone_is_lowest_at_a_share_over_e(axes_of):
    (share, head), (_, full), lowest, teacher = (
        line.get_data() for line in axes_of("share-of-the-top")[0].lines
    )
    for place in (50, 200, 350):  # the rest divided as the teacher divides it
        student = np.append(TEACHER[:2] / TEACHER[:2].sum() * share[place], 1 - share[place])
        tail = objectives.top_k_reverse_kl(student, TEACHER, 2, "tail")
        alone = objectives.top_k_reverse_kl(student, TEACHER, 2, "drop")
        assert (full[place], head[place]) == pytest.approx((tail, alone), rel=1e-12)
    says(
        "share-of-the-top",
        "With the tail it is lowest, and zero, at the teacher's share",
        "goes below zero and is lowest at that share over e",
    )
    assert share[full.argmin()] == pytest.approx(0.9, abs=0.003)
    assert (teacher[0][0], teacher[1][0]) == (pytest.approx(0.9), 0)
    assert share[head.argmin()] == pytest.approx(0.9 / np.e, abs=0.003)
    assert lowest[1][0] == pytest.approx(head.min(), abs=1e-4) and head.min() < 0


def test_the_tilted_teacher_is_the_product_over_its_sum(axes_of):
    panels = axes_of("tilted-teacher")
    first, factor, end = ([bar.get_height() for bar in panel.patches] for panel in panels)
    product = np.multiply(first, factor)
    assert first == list(TEACHER) and factor == pytest.approx([1, np.e, 1])
    np.testing.assert_allclose(end, product / product.sum(), rtol=1e-12)
    says(
        "tilted-teacher",
        "The teacher has most on the first",
        "The factor is 1, e, 1",
        "the second token has doubled, the others shrank",
    )
    assert np.argmax(first) == 0 and end[1] / first[1] == pytest.approx(2, abs=0.1)
    assert end[0] < first[0] and end[2] < first[2]


def test_training_is_drawn_with_the_draws_and_the_steps_that_are_named(axes_of):
    axes = axes_of("training-with-few-draws")[0]
    lines = curves(axes)
    for line, label in zip(lines, (text.get_text() for text in axes.texts), strict=True):
        draws = re.search(r"(\d) draw", label)
        step = {"2": 2, "½": 0.5}[label[-1]]
        runs = chapter_figures.kl_along_training(int(draws[1]) if draws else 0, step)
        np.testing.assert_array_equal(line, np.median(runs, axis=1)[::10], label)
    exact, eight, slow, high = (line[-1] for line in lines)
    says(
        "training-with-few-draws",
        "The exact gradient falls fastest",
        "eight draws a step follow it, lag behind for some hundred steps and end close to it",
        "one draw with the same step size stays high",
        "one draw with a quarter of the step falls slowly",
    )
    assert (lines[0] < 1.02 * np.array(lines[1:])).all()
    assert 2 * lines[0][40] < lines[1][40]  # after 400 steps
    assert eight < 3 * exact and high > 10 * slow > 10 * eight


def test_drawn_tokens_make_staircases_and_their_mean_a_rising_curve(axes_of):
    axes = axes_of("drawn-token-and-mean")[0]
    *stairs, mean, tangent, dot = (line.get_data() for line in axes.lines)
    costs, jumps = np.log(STUDENT / TEACHER), []
    for (x, y), uniform in zip(stairs, (0.15, 0.45, 0.75), strict=True):
        z = np.tile(np.log(STUDENT), (len(x), 1))
        z[:, 2] = x
        p = distributions.softmax(z)
        drawn = [np.searchsorted(np.cumsum(row)[:2], uniform, side="right") for row in p]
        np.testing.assert_array_equal(y, costs[drawn])
        np.testing.assert_allclose(mean[1], p @ costs, rtol=1e-12)
        jumps.append(len(np.unique(drawn)))
    says(
        "drawn-token-and-mean", "three grey staircases", "the mean over all draws, a smooth rising"
    )
    assert min(jumps) > 1
    assert (np.diff(mean[1]) > 0).all()
    slope = objectives.reverse_kl_logit_gradient(STUDENT, TEACHER)[2]
    np.testing.assert_allclose(np.diff(tangent[1]) / np.diff(tangent[0]), slope, rtol=1e-9)
    assert f"slope at the dot: {slope:.2f}" in [text.get_text() for text in axes.texts]
    np.testing.assert_allclose(np.ravel(dot), [np.log(0.5), STUDENT @ costs], rtol=1e-12)


def test_a_cost_that_is_cut_moves_the_mean_and_a_draw_does_not(axes_of):
    shown = chapter_figures.pushes_of_a_draw()
    goal = -objectives.reverse_kl_logit_gradient(STUDENT, TEACHER)
    says("what-and-how", "three dots far apart", "still inside the ring", "outside the ring")
    costs = np.log(STUDENT / TEACHER)
    inside = []
    for axes, (title, (chances, pushes)) in zip(axes_of("what-and-how"), shown.items()):
        ring, cross = (np.ravel(line.get_data()) for line in axes.lines)
        assert axes.get_title() == title
        np.testing.assert_allclose(ring, goal[:2], rtol=1e-12)
        np.testing.assert_allclose(cross, (chances @ pushes)[:2], rtol=1e-12)
        low, high = np.array([axes.get_xlim(), axes.get_ylim()]).T
        assert ((low < pushes[:, :2]) & (pushes[:, :2] < high)).all()
        dots = [each.get_offsets() for each in axes.collections]
        assert len(dots) == (len(pushes) > 1)
        inside.append(np.allclose(cross, ring, rtol=1e-12))
        if "cost" in title:
            costs = np.clip(costs, -1, 1)
        if dots:
            np.testing.assert_allclose(dots[0], pushes[:, :2], rtol=1e-12)
            areas = axes.collections[0].get_sizes()
            np.testing.assert_allclose(areas / areas.sum(), STUDENT, rtol=1e-12)
            assert [text.get_text() for text in axes.texts] == ["$t_1$", "$t_2$", "$t_3$"]
            by_hand = -costs[:, None] * (np.eye(3) - STUDENT)
            np.testing.assert_allclose(pushes, by_hand, rtol=1e-12)
    assert inside == [True, True, False]


def last_variance(stage, estimator):
    rows = stage["tasks"]["left"]["estimators"]
    return [row["output_layer"]["variance"] for row in rows if row["estimator"] == estimator][-1]


def test_both_panels_are_in_units_of_the_sampled_variance_at_no_discount(axes_of):
    stages = recorded("control-frozen", "variance frozen")["stages"]
    drawn = {}
    for axes, estimator in zip(axes_of("study-frozen"), ("sampled", "full_vocabulary")):
        drawn[estimator] = curves(axes)
        for line, (name, stage) in zip(drawn[estimator], stages.items(), strict=True):
            rows = stage["tasks"]["left"]["estimators"]
            variance = {
                (row["estimator"], row["gamma"]): row["output_layer"]["variance"] for row in rows
            }
            gammas = [gamma for kind, gamma in variance if kind == estimator]
            wanted = [variance[estimator, g] / variance["sampled", 0] for g in gammas]
            np.testing.assert_allclose(line, wanted, rtol=1e-12, err_msg=name)
        # the intervals: [low, high, nothing] at each γ
        bars = [line.get_ydata() for line in axes.lines if line.get_linewidth() == 1.2]
        for bar, stage in zip(bars, stages.values(), strict=True):
            rows = stage["tasks"]["left"]["estimators"]
            mine = [row["output_layer"] for row in rows if row["estimator"] == estimator]
            wanted = [cell["ratio_to_immediate_interval"] for cell in mine]
            np.testing.assert_array_equal(bar.reshape(-1, 3)[:, :2], wanted)
        # beside each line its student's iteration, in the lines' order
        named = sorted(axes.texts, key=lambda text: text.xy[1])
        order = sorted(stages.values(), key=lambda stage: last_variance(stage, estimator))
        assert [text.get_text() for text in named] == [str(at["iteration"]) for at in order]
    titles = [axes.get_title() for axes in axes_of("study-frozen")]
    assert titles == ["sampled costs", "exact costs"]
    sampled, exact = (np.array(lines) for lines in drawn.values())
    says(
        "study-frozen",
        "every line rises from 1, the untrained student's most steeply and the trained student's",
        "With exact costs all lines begin far below 1; the untrained student's rises above 1, the "
        "trained student's stays far below",
    )
    assert (sampled[:, 0] == 1).all() and (np.diff(sampled) > 0).all()
    assert sampled[:, -1].argmax() == 0 and sampled[:, -1].argmin() == 3
    assert exact[:, 0].max() < 0.2 and exact[0, -1] > 1 and exact[3].max() < 0.2


def test_growth_is_drawn_in_units_of_the_shortest_without_a_future(axes_of):
    growth = recorded("control-frozen", "variance frozen")["growth"]
    steepness = []
    for axes, stage in zip(axes_of("study-growth"), ("initial", "late")):
        variance = {
            (row["estimator"], row["gamma"]): row["variance"]
            for row in growth[stage]
            if row["parameters"] == "output_layer"
        }
        lines = curves(axes)
        for line, key in zip(lines, study_figures.GROWTH, strict=True):
            np.testing.assert_allclose(line, np.array(variance[key]) / variance["sampled", 0][0])
        steepness.append([line[-1] / line[0] for line in lines])
        bound = next(line for line in axes.lines[::-1] if line.get_linewidth() == 0.8)
        assert bound.get_ydata()[0] == pytest.approx(lines[3][0])
        assert (lines[3][1:] < bound.get_ydata()[1:]).all()
    says(
        "study-growth",
        "At the untrained student the full return and γ = 1 rise steeply, γ = 0 and .5 gently",
        "At the trained student all rise less",
        "the full return stays below slope 4",
    )
    untrained, trained = np.array(steepness)  # of γ = 0, .5, 1 and the full return
    assert untrained[2:].min() > 10 * untrained[:2].max()
    assert (trained < untrained).all()


def test_two_tokens_are_drawn_with_their_kls_and_both_pushes(axes_of):
    chances, costs, pushes = axes_of("two-tokens")
    bars = [
        np.array([bar.get_width() for bar in axes.patches]) for axes in (chances, costs, pushes)
    ]
    after = distributions.kl(STUDENT_TREE.probabilities[1], TEACHER_TREE.probabilities[1])
    titles = [axes.get_title() for axes in (chances, costs, pushes)]
    assert titles == ["first token", "KL after it", "its logit is …"]
    np.testing.assert_allclose(bars[0], [*STUDENT, *TEACHER], rtol=1e-12)
    np.testing.assert_allclose(bars[1], after, rtol=1e-12)
    gkd, whole = np.split(bars[2], 2)
    pair = STUDENT_TREE, TEACHER_TREE
    np.testing.assert_allclose(gkd, -sequences.on_policy_gkd_gradient(*pair)[:3], rtol=1e-12)
    np.testing.assert_allclose(whole, -sequences.sequence_kl_gradient(*pair)[:3], rtol=1e-12)
    says(
        "two-tokens",
        "the student prefers the third, the teacher the first",
        "hardly any after the first and the third token, and large after the second",
        "both gradients raise the first and lower the third; the second is raised by GKD and "
        "lowered by the sequence KL",
    )
    assert STUDENT.argmax() == 2 and TEACHER.argmax() == 0
    assert after[1] > 1 and after[[0, 2]].max() < 0.1
    assert (np.sign(gkd) == [1, 1, -1]).all() and (np.sign(whole) == [1, -1, -1]).all()


@pytest.mark.parametrize("place, name", list(enumerate(future_figures.RULES)))
def test_who_pays_is_the_weight_of_each_cost_in_the_engines_rules(place, name, axes_of):
    """A tree on which one cost is 1 and the others 0 tells which tokens are charged with it."""
    axes = axes_of("who-pays")[place]
    assert axes.get_title() == name
    wash = to_rgb(Style()["wash"])
    drawn = [
        0 if cell.get_facecolor()[:3] == wash else cell.get_facecolor()[3] for cell in axes.patches
    ]
    drawn = np.reshape(drawn, (5, 5))
    gamma = {"γ = .5": 0.5, "own cost": 0}.get(name, 1)
    for u in range(5):
        weights = sequences.discounted_return(np.eye(5)[u], gamma)
        np.testing.assert_allclose(drawn[:, u], 1 if name == "full return" else weights)


def over_independent_positions(length, gamma, causal):
    """The total variance of a row, all sequences written out."""
    tokens = np.array(list(itertools.product(range(3), repeat=length)))
    chances = STUDENT[tokens].prod(axis=1)
    costs = np.log(STUDENT / TEACHER)[tokens]
    weights = sequences.discounted_return(costs, gamma)
    if not causal:
        weights = np.tile(costs.sum(axis=1, keepdims=True), length)
    rows = weights[..., None] * (np.eye(3)[tokens] - STUDENT)
    mean = np.tensordot(chances, rows, 1)
    return chances @ ((rows - mean) ** 2).sum(axis=(1, 2))


def test_noise_grows_as_all_sequences_have_it(axes_of):
    [axes] = axes_of("noise-growth")
    lines = curves(axes)
    for line, (gamma, causal, _) in zip(lines, future_figures.GROWTH.values(), strict=True):
        for length in (1, 4):
            drawn = line[list(future_figures.LENGTHS).index(length)]
            wanted = over_independent_positions(length, gamma, causal)
            np.testing.assert_allclose(drawn, wanted, rtol=1e-9)
    says("noise-growth", "All rules begin together", "the full return is the highest")
    none, half, much, every, full = lines
    np.testing.assert_allclose([line[0] for line in lines], none[0])
    assert (full[1:] > every[1:]).all() and (every[1:] > much[1:]).all()
    last = [np.log2(line[-1] / line[-2]) for line in lines]
    assert last[0] == pytest.approx(1) and max(last[1:3]) < 1.1 and min(last[3:]) > 2.9


def test_the_training_loop_quotes_the_recorded_answer_to_its_first_slip(axes_of):
    answer = recorded("derailing", "derail")["answers"]["number"]
    [words] = [
        text.get_text()
        for text in axes_of("training-loop")[0].texts
        if text.get_text().startswith("its own answer")
    ]
    quoted = words.removeprefix("its own answer\n").removesuffix(" …").split(" ")
    wrong = [token not in right for token, right in zip(answer["tokens"], answer["right"])]
    assert quoted == list(answer["tokens"][: wrong.index(True) + 1])


def test_a_tree_of_two_steps_has_bars_and_branches_as_long_and_wide_as_its_chances():
    style = Style()
    first, after = (STUDENT, TEACHER), (STUDENT_TREE, TEACHER_TREE)
    after = tuple(tree.probabilities[1] for tree in after)
    with plt.rc_context(style.parameters()):
        [axes] = tree_figure.two_steps(first, after, style).axes
    heights = []
    for role, own, later in zip(("student", "teacher"), first, after):
        bars = [bar for bar in axes.patches if to_rgb(bar.get_facecolor()) == to_rgb(style[role])]
        drawn = np.reshape([bar.get_width() for bar in bars], (4, 3))
        np.testing.assert_allclose(drawn, tree_figure.BARS * np.vstack([own, later]), rtol=1e-12)
        heights.append(np.reshape([bar.get_y() for bar in bars], (4, 3)))
        assert (np.diff(heights[-1]) < 0).all()  # token after token, downwards
        branches = [line for line in axes.lines if line.get_color() == style[role]]
        np.testing.assert_allclose([line.get_linewidth() for line in branches], 9 * own)
        ends = [line.get_ydata()[1] for line in branches]
        assert ends == sorted(ends, reverse=True)
        [word] = [text for text in axes.texts if text.get_text() == role]
        assert word.get_color() == style[role] and word.get_position()[1] > heights[-1].max()
    assert (heights[0] > heights[1]).all()  # the student's above the teacher's
    plt.close("all")


def test_three_markers_mark_the_recorded_answer(axes_of):
    record = recorded("derailing", "derail")
    answer = record["answers"]["number"]
    tokens = answer["tokens"]
    axes = axes_of("three-markers")[0]
    rows = {
        height: [text.get_text() for text in axes.texts if text.get_position()[1] == height]
        for height in (9.6, 1.0)
    }
    assert rows[9.6] == list(tokens)
    wrong = [token not in right for token, right in zip(tokens, answer["right"])]
    says(
        "three-markers",
        "with three slips",
        "deep ones at the slips, hardly any elsewhere",
        "framed at the three slips the tokens that would be right",
    )
    assert sum(wrong) == 3
    # of the same answer, and of all, the slider's words
    told = [
        "It uses a number a second time, and from this slip on no training text begins like it",
        "two more slips follow",
        "at its first slip",
        "both models' are on the two numbers that are left, but the student draws another",
        "both grow with the position",
    ]
    assert [phrase for phrase in told if phrase not in Derail.shown] == []
    first, at = wrong.index(True), Derail.position.default_value
    assert Derail.answer.default_value == "number" and answer["new_at"] == first + 1
    assert tokens[first] in re.split("[+=]", tokens[:first])  # a number that has been added
    assert at == first and len(answer["right"][at]) == 2
    left = [record["tokens"].index(token) for token in answer["right"][at]]
    assert all(np.sum(np.array(model)[at, left]) > 0.9 for model in answer["probabilities"])
    for shares in record["positions"].values():
        assert sorted(shares) == shares and shares[-1] > shares[0]
    for token, advice, right, slip in zip(tokens, rows[1.0], answer["right"], wrong, strict=True):
        assert advice in right if slip else advice == token
    bars = np.array([bar.get_height() for bar in axes.patches])
    assert bars[wrong].max() < 4 * bars[np.logical_not(wrong)].min()
    p, q = np.array(answer["probabilities"])
    for row, (token, bar) in enumerate(zip(tokens, bars, strict=True)):
        column = record["tokens"].index(token)
        mark = np.log(max(q[row, column], 1e-4) / p[row, column])
        assert bar == pytest.approx(mark / 5)


def test_old_texts_are_drawn_as_recorded(axes_of):
    runs = recorded("stale-rollouts", "stale")["runs"]
    left, right = axes_of("stale-rollouts")
    heights = {text.get_text(): text.xy[1] for text in right.texts}
    last = {}
    for (name, (label, *_)), *drawn in zip(
        stale_figures.LINES.items(), curves(left), curves(right), strict=True
    ):
        fresh = runs[name if name == "gkd" else "none"]["0"]
        ends = [run["kl"][-1] for run in (fresh, *(runs[name][age] for age in ("1", "4", "16")))]
        assert [list(line) for line in drawn] == [runs[name]["16"]["kl"], ends]
        assert 0.999 < heights[label] / ends[-1] < 1.2  # moved up where another is near
        last[name] = ends
    says(
        "stale-rollouts",
        "GKD falls steadily, the drawn token with its ratio falls a little, without a ratio it "
        "rises far above the start",
        "GKD is flat, the ratio rises slowly, no ratio and a kept cost rise steeply",
    )
    along = {name: np.array(runs[name]["16"]["kl"]) for name in ("gkd", "ratio", "none")}
    start = along["gkd"][0]
    assert (along["gkd"][2:] < along["gkd"][:-2]).all()
    assert max(along["ratio"]) == start > along["ratio"][-1] > 0.8 * start
    assert along["none"][-1] > 1.5 * start
    grown = {name: ends[-1] / ends[0] for name, ends in last.items()}
    assert grown["gkd"] < 1.1 < grown["ratio"] < 1.5 < 2 < min(grown["kept"], grown["none"])


def test_the_growth_of_the_losses_is_drawn_as_recorded(axes_of):
    record = recorded("loss-growth", "bench --growth")
    panels = axes_of("loss-growth")
    costs = [(cost, unit) for cost, (_, unit) in growth_figures.COSTS.items()]
    columns = [(cost, unit, over) for cost, unit in costs for over in growth_figures.COLUMNS]
    for panel, (cost, unit, over) in zip(panels, columns, strict=True):
        points = [point for point in record["points"] if point["over"] == over and point[cost]]
        lines = dict.fromkeys(point["line"] for point in points)
        for drawn, line in zip(panel.lines, lines, strict=True):
            here = [point for point in points if point["line"] == line]
            assert list(drawn.get_xdata()) == [point["value"] for point in here]
            assert list(drawn.get_ydata()) == [point[cost] / unit for point in here]
            assert drawn.get_label() == growth_figures.LINES[line][0]
    says(
        "loss-growth",
        "From logits both costs rise with tokens and with the vocabulary",
        "in memory the textbook's line lies above the book's",
        "From hidden states the extra memory grows less with tokens than from logits",
    )
    slopes = {
        (row["over"], row["line"]): row["exponent"]
        for row in record["exponents"]
        if row["cost"] == "extra_bytes"
    }
    ends = {(point["over"], point["line"], point["value"]): point for point in record["points"]}
    for over in ("tokens", "vocabulary"):
        for line in ("textbook", "ours"):
            values = [value for place, name, value in ends if (place, name) == (over, line)]
            first, last = (ends[over, line, value] for value in (min(values), max(values)))
            assert first["extra_bytes"] < last["extra_bytes"]
            # A trial's sizes are too near each other for a clock.
            assert first["seconds"] < last["seconds"] or max(values) < 8 * min(values)
    for (over, line, value), point in ends.items():
        if line == "textbook":
            assert point["extra_bytes"] > ends[over, "ours", value]["extra_bytes"]
    assert slopes["tokens", "hidden"] < slopes["tokens", "ours"]


def test_a_drawing_is_the_same_again_in_few_bytes_and_no_figure_stays_open(tmp_path):
    before = plt.get_fignums()
    draw = FIGURES["tilted-teacher"]["draw"]
    assert draw_svg(draw) == draw_svg(draw)
    assert not re.search(r"<metadata|<!DOCTYPE|<\?xml|\n", draw_svg(draw))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        social_card.draw(tmp_path / "card.svg")
    assert plt.get_fignums() == before


def test_the_exact_gradient_is_followed_once_draws_twenty_times():
    assert chapter_figures.kl_along_training(0, 1).shape == (1001, 1)
    assert chapter_figures.kl_along_training(1, 1, steps=2).shape == (3, 20)
