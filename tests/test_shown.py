"""Every figure of the book is the one that tests/shown has: see tests/shown.py."""

import json

import pytest

from opd_toy.example import STUDENT, STUDENT_TREE, TEACHER, TEACHER_TREE
from opd_toy.pages import claim_by_claim, tree_figure
from opd_toy.pages.drawing import draw_svg
from tests import drawn, shown


@pytest.mark.parametrize("page", shown.PAGES)
def test_a_page_shows_what_it_showed(page, built_book):
    changed = shown.differences(shown.built(page, built_book), shown.kept(page))
    assert not changed, f"{changed}\nIf that was meant: python -m tests.shown"


def test_each_page_has_its_file_and_no_other():
    assert sorted(path.stem for path in shown.FOLDER.iterdir()) == sorted(
        [*shown.PAGES, shown.CARD]
    )


@pytest.mark.parametrize("page", ["index", "notation"])
def test_a_page_that_is_executed_here_shows_the_same(page):
    assert shown.differences(shown.executed(page), shown.kept(page)) == ""


def two_steps(style):
    pair = STUDENT_TREE, TEACHER_TREE
    after = tuple(tree.probabilities[1] for tree in pair)
    return tree_figure.two_steps((STUDENT, TEACHER), after, style)


@pytest.mark.parametrize("draw", [claim_by_claim.growth, claim_by_claim.exposed, two_steps])
def test_a_drawing_is_the_one_that_a_page_shows(draw):
    """Those that are not in ``FIGURES``; tests/test_figures.py has the others."""
    lines = drawn.drawn(draw_svg(draw))
    assert [kept for kept in shown.kept_drawings().values() if not shown.differences(lines, kept)]


def test_the_card_of_a_shared_link_is_drawn_as_it_was(tmp_path):
    assert shown.differences(shown.card(tmp_path), shown.kept(shown.CARD)) == ""


@pytest.mark.parametrize(
    "one, other, same",
    [
        ("KL 0.68", "KL 0.68", True),
        ("KL 0.68", "KL 0.69", True),  # a tie, rounded the other way
        ("KL 0.68", "KL 0.70", False),
        ("KL 0.68", "KL 0.7", False),  # printed with a digit less
        ("KL 0.68", "JSD 0.68", False),
        ("0.1", "0.2", False),
        ("12 of 40", "13 of 40", False),
        ("1.25e-07", "1.26e-07", True),
        ("1.25e-07", "1.25e-06", False),
        ("-1.25", "1.25", False),
        ("KL", "KL 0.68", False),
    ],
)
def test_a_last_digit_may_differ_by_one(one, other, same):
    assert shown.alike(one, other) == shown.alike(other, one) == same


@pytest.mark.parametrize(
    "line, told",
    [
        ("gradient off by 6.2e-06, value by 1e-07", "gradient off by #, value by #"),
        ("scientific(in_float32, 2): 5.79 · 10⁻⁷", "scientific(in_float32, 2): #"),
        ("scientific(truth, 2): 4.99 · 10⁻⁷", "scientific(truth, 2): 4.99 · 10⁻⁷"),
        ("scientific(in_float32, 2): −5.79 · 10⁻⁷ nats", "scientific(in_float32, 2): # nats"),
        ("gradient off by 6.2e-03", "gradient off by 6.2e-03"),
        ("scientific(in_float32, 2): 5.79 · 10⁻³", "scientific(in_float32, 2): 5.79 · 10⁻³"),
        ("<p>5.1e-16 of its length, -2e-13, 1e-21", "<p># of its length, #, #"),
        ("1.5e-12, off by 3 %, 2 gradients 3", "1.5e-12, off by 3 %, 2 gradients 3"),
    ],
)
def test_the_size_of_a_rounding_error_is_left_open(line, told):
    assert shown.lines([], [{"text/plain": line}])[1] == told.replace("#", "(rounding)")


def test_the_first_difference_is_named():
    assert shown.differences(["a", "b"], ["a", "c"]) == "line 2 was\n  c\nand is\n  b"
    assert shown.differences(["a"], ["a", "b"]) == "line 2 was\n  b\nand is\n  None"
    assert shown.differences(["a", "b"], ["a"]) == "line 2 was\n  None\nand is\n  b"
    assert shown.differences(["a"], ["a"]) == ""


def test_what_a_cell_gives_becomes_lines():
    given = json.dumps({"p": [0.25], "of": {"long": list(range(150))}})
    html = (
        '<style>p{}</style><div id="opd-x-0123abcd"><p>KL</p></div>'
        f'<script>mountX(document.getElementById("opd-x-0123abcd"), {given});</script>'
    )
    proof = "$$\nx\n$$ (eq-x)\n\n:::{dropdown} Proof, step by step\n$$\ny\n$$\n:::\n"
    outputs = [{"text/html": html}, {"text/markdown": proof, "text/plain": "<x>"}]
    assert shown.lines([("plain(kl)", "0.68")], [*outputs, {"text/plain": "1 \n"}]) == [
        *("plain(kl): 0.68", ""),
        *("<style>806db221</style>", '<div id="opd-x">', "<p>KL</p></div>"),
        *("p: [0.25]", "of.long: 150 numbers, sum 11175; words fef4aa6b", ""),
        *("$$ 1 characters $$ (eq-x)", "", ":::{dropdown} Proof, step by step", "7 characters"),
        *(":::", "", "1"),
    ]


def test_a_long_table_is_cut_to_its_beginning_and_a_digest():
    rows = [f"<p>{at}</p>" for at in range(501)]
    *first, last = shown.of_html("".join(rows))
    assert first == rows[:50] and last == f"451 more: {shown.digest(''.join(rows[50:]))}"
    assert shown.of_html("".join(rows[:500])) == rows[:500]
    assert shown.of_html('<a href="data:x">y</a><a href="x">y</a>') == ['<a>y</a><a href="x">y</a>']


def test_a_drawing_becomes_lines():
    """Two lines of one look, a mark, a text and a formula; what is only defined is not drawn."""
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        'width="9pt" height="5pt"><defs><path id="m" d="M 0 0 L 2 1 "/></defs>'
        '<path style="stroke: red" d="M 0 0 L 3 4 "/><path style="stroke: red" d="M 3 5 L 3 6 "/>'
        '<use style="fill: red" xlink:href="#m" x="1.25" y="2"/>'
        '<text style="fill: ink; font-family: x; y" x="1" y="2" transform="rotate(-90 1 2)">'
        "up</text>"
        '<g transform="translate(7 8)"><text><tspan style="s">t</tspan></text></g></svg>'
    )
    assert drawn.drawn(svg) == [
        "9pt × 5pt",
        "stroke: red: 2 of 4 points, (0.0, 0.0) to (3.0, 6.0), in 0.0 to 3.0, 0.0 to 6.0; "
        "6.0 and 7.0 long",
        "fill: red; marks of 0.0 to 2.0, 0.0 to 1.0: 1 of 1 points, (1.2, 2.0) to (1.2, 2.0), "
        "in 1.2 to 1.2, 2.0 to 2.0; 0.0 and 0.0 long",
        'fill: ink; y: "up" (1.0, 2.0) upright',
        's: "t" (7.0, 8.0)',
    ]


def test_what_is_printed_in_pieces_is_told_once():
    pieces = [{"name": "stdout", "text": ["a\n", "b\n"]}, {"name": "stdout", "text": ["b\n"]}]
    cell = {"outputs": [*pieces, {"data": {"text/plain": ["x", "y"]}}]}
    assert list(shown._outputs(cell)) == [{"text/plain": "a\nb\n"}, {"text/plain": "xy"}]
    assert list(shown._outputs({})) == []
