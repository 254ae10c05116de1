"""What a chapter puts on its page: proofs, tables, figures, exercises that check themselves."""

import ast
import base64
import re

import ipywidgets
import numpy as np
import pytest

from opd_toy.derivations import DERIVATIONS
from opd_toy.pages.drawing import Style
from opd_toy.pages.page import BUILDING, exercise, figure, plain_figures, show, tabular
from tests.conftest import ROOT


@pytest.mark.parametrize("claim", DERIVATIONS)
def test_show_gives_the_labelled_claim_and_every_checked_step(claim, monkeypatch):
    monkeypatch.setenv(BUILDING, "yes")
    text = show(claim)._repr_markdown_()
    head, folded = text.split(":::{dropdown}", 1)
    assert DERIVATIONS[claim].latex_claim() in head and head.rstrip().endswith(f"$$ (eq-{claim})")
    monkeypatch.delenv(BUILDING)  # in JupyterLab every output's equation would be number (1)
    assert "(eq-" not in show(claim)._repr_markdown_().split(":::{dropdown}", 1)[0]
    unbroken = folded.replace(" \\\\\n& \\qquad {}", "")  # a long line goes on below
    assert all(step.latex in unbroken for step in DERIVATIONS[claim].steps)


def test_show_of_some_chains_has_these_in_the_equation_and_all_in_the_fold():
    head, folded = show("reward-to-go", "T positions")._repr_markdown_().split(":::{dropdown}", 1)
    short, long = DERIVATIONS["reward-to-go"].chains
    assert (short.title, long.title) == ("two positions", "T positions")
    assert long.steps[-1].latex in head and short.steps[-1].latex not in head
    assert short.steps[-1].latex in folded.replace(" \\\\\n& \\qquad {}", "")
    wide = show("rao-blackwell-return", "T positions, every discount")._repr_markdown_()
    assert "\\\\\n& \\quad = " in wide.split(":::{dropdown}", 1)[0]  # one claim, on two lines
    with pytest.raises(ValueError, match=r"titles must be among .*'T positions'.*not \['three'\]"):
        show("reward-to-go", "three")


def test_a_proof_that_the_chapter_stands_on_lies_open():
    folded = show("score-mean-zero")._repr_markdown_()
    opened = show("score-mean-zero", folded=False)._repr_markdown_()
    kind, box = ":::{dropdown} Proof, step by step\n", ":::{admonition} Proof, step by step\n"
    assert kind in folded and opened == folded.replace(kind, f"{box}:class: opd-proof\n")


def test_a_table_has_a_row_a_line_and_its_sides():
    table = tabular(["token", "p"], [["t₁", 0.2], ["t₂", 0.3]], align="lr")._repr_markdown_()
    assert table == "| token | p |\n| --- | --: |\n| t₁ | 0.2 |\n| t₂ | 0.3 |"


def test_a_table_can_be_folded_away():
    table = tabular(["p"], [[0.2]])._repr_markdown_()
    folded = tabular(["p"], [[0.2]], fold="The numbers")._repr_markdown_()
    assert folded == f":::{{dropdown}} The numbers\n{table}\n:::"


def test_a_bar_in_a_cell_does_not_end_it():
    table = tabular(["p"], [[r"|log p/q| > 4, $\|x\|$"]])._repr_markdown_()
    assert table.splitlines()[-1] == r"| \|log p/q\| > 4, $\|x\|$ |"


def test_show_names_the_near_misses():
    with pytest.raises(
        KeyError, match=r"claim must be the id.*rkl-logit-gradient.*not 'rkl-logit-gradiant'"
    ):
        show("rkl-logit-gradiant")


@pytest.mark.parametrize("answer", [float("nan"), float("inf")])
def test_an_exercise_wants_a_finite_answer(answer):
    with pytest.raises(ValueError, match=f"answer must be a finite number, not {answer}"):
        exercise("1.1", answer)


def test_an_exercise_wants_its_answer_among_the_choices():
    with pytest.raises(
        ValueError, match=r"answer must be one of the choices \['up', 'down'\], not 'sideways'"
    ):
        exercise("1.1", "sideways", choices=["up", "down"])


def test_a_figure_is_drawn_for_both_papers_with_words():
    def draw(style):
        import matplotlib.pyplot as plt

        drawn, axes = plt.subplots()
        axes.plot([0, 1], [0, 1], color=style["student"])
        return drawn

    text = figure(draw, alt='a line "up"', caption="One < two")._repr_html_()
    assert len(re.findall(r"<img ", text)) == 2
    assert len(re.findall(r'alt="a line &quot;up&quot;"', text)) == 2
    assert "One &lt; two" in text
    assert Style()["student"] != Style(dark=True)["student"]
    for paper, style in (("light", Style()), ("dark", Style(dark=True))):
        data = re.search(rf'<img class="opd-{paper} [^>]*base64,([^"]*)"', text)[1]
        drawn = base64.b64decode(data).decode().lower()
        assert style["student"].lower() in drawn and style["paper"].lower() in drawn


# ---- exercises in a browser ----


def open_exercise(page, tmp_path, *exercises):
    file = tmp_path / "exercise.html"
    bodies = "".join(each._repr_html_() for each in exercises)
    file.write_text(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>x</title>{bodies}'
    )
    page.goto(file.as_uri())
    return page.locator(".opd-exercise")


def answer(box, text):
    box.locator("input[type=text]").fill(text)
    box.get_by_role("button", name="Check").click()
    return box.get_attribute("data-state"), box.locator("[aria-live]").inner_text()


def test_a_number_is_checked_within_its_tolerance(page, tmp_path):
    value = float(-np.sqrt(2) / 3)  # -0.4714
    box = open_exercise(page, tmp_path, exercise("1.1", value, digits=2, why="Half of −1."))
    assert answer(box, "") == ("empty", "Type a number first, for instance 0.5.")
    assert answer(box, "a lot")[0] == "empty"
    for wrong in ("0.47", "-0.48", "-0.46", "0", "-47"):
        assert answer(box, wrong)[0] == "wrong", wrong
    for right in ("-0.47", "−0.47", "-.4714", "-0,471", " -0.475 "):
        assert answer(box, right) == ("right", "Right: −0.47. Half of −1."), right
    assert not page.faults


def test_the_answer_is_shown_only_after_a_prediction(page, tmp_path):
    box = open_exercise(page, tmp_path, exercise("1.1", 0.25, unit="nats"))
    reveal = box.get_by_role("button", name="Show the answer")
    assert not reveal.is_visible() and "0.25" not in box.inner_text()
    assert answer(box, "3")[0] == "wrong" and "0.25" not in box.inner_text()
    reveal.click()
    assert box.locator("[aria-live]").inner_text() == "The answer is 0.25 nats."


def test_choices_work_with_the_keyboard(page, tmp_path):
    box = open_exercise(
        page, tmp_path, exercise("1.1", "down", choices=["up", "down", "<still>"], why="It falls.")
    )
    box.get_by_role("button", name="Check").click()
    assert box.get_attribute("data-state") == "empty"
    box.get_by_role("radio", name="up").focus()
    page.keyboard.press("Space")
    page.keyboard.press("Enter")
    assert box.get_attribute("data-state") == "wrong"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert box.get_attribute("data-state") == "right"
    assert box.locator("[aria-live]").inner_text() == "Right: down. It falls."
    assert box.get_by_role("radio", name="<still>").count() == 1


def test_two_exercises_do_not_disturb_each_other(page, tmp_path):
    boxes = open_exercise(page, tmp_path, exercise("1.1", 1.0), exercise("1.2", 2.0))
    assert answer(boxes.nth(1), "2")[0] == "right"
    assert boxes.nth(0).get_attribute("data-state") is None
    assert answer(boxes.nth(0), "2")[0] == "wrong"
    assert not page.faults


def test_exercises_are_lettered_through_a_chapter_and_look_like_no_section_or_equation():
    """Exercise 3A: asked in the text, checked under the same name, none left out, none twice."""
    pages = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "book").glob("[0-9]*.md"))]
    asked = [re.findall(r"^\*\*Exercise (\w+)\.\*\*", text, re.MULTILINE) for text in pages]
    assert asked == [re.findall(r'\bexercise\(\s*"(\w+)"', text) for text in pages]
    for chapter in "12345678":
        letters = sorted(name[1:] for names in asked for name in names if name[0] == chapter)
        assert letters == [chr(ord("A") + place) for place in range(len(letters))], chapter
        assert len(letters) > 3, chapter


def test_a_plain_figure_has_its_lines_in_the_colours_of_the_roles():
    import matplotlib.pyplot as plt

    with plt.rc_context():
        plain_figures("reverse_kl", "teacher")
        axes = plt.figure().subplots()
        lines = [axes.plot([0, 1])[0].get_color() for _ in range(3)]
        plt.close()
    style = Style()
    assert lines == [style["reverse_kl"], style["teacher"], style["reverse_kl"]]


CELL = re.compile(r"^```\{code-cell\}.*?\n(.*?)^```\s*$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(
    "chapter", sorted((ROOT / "book").glob("*.md")), ids=lambda path: path.stem
)
def test_the_cells_of_a_page_are_short(chapter):
    """Longer ones belong into a function of the package.  What JupyterLab folds says what it is."""
    for cell in CELL.findall(chapter.read_text(encoding="utf-8")):
        lines = cell.rstrip("\n").split("\n")
        code = [line for line in lines if not re.match(r":[\w-]+:", line)]
        folded = "source_hidden: true" in cell
        assert folded == ("remove-input" in cell), cell
        assert len(code) <= (30 if folded else 20) and max(map(len, code)) <= 100, cell
        assert not folded or code[0].startswith(("# ", "show(")), cell


def test_a_page_asserts_one_thing_at_a_time():
    """Of two that stand in one assertion the second could be lost without a word."""
    for chapter in sorted((ROOT / "book").glob("*.md")):
        for cell in CELL.findall(chapter.read_text(encoding="utf-8")):
            for node in ast.walk(ast.parse(re.sub(r"^:[\w-]+:.*$", "", cell, flags=re.M))):
                if isinstance(node, ast.Assert):
                    both = [part for part in ast.walk(node) if isinstance(part, ast.And)]
                    assert not both, (chapter.name, ast.unparse(node))


def test_a_page_begins_with_the_first_frame_of_its_controls():
    """Chapter 4's, which a reader moves in JupyterLab alone."""
    text = (ROOT / "book" / "04-policy-gradient-updates.md").read_text(encoding="utf-8")
    controls = re.search(r"^@interact\((.*?)\)\ndef noisy_descent", text, re.M | re.S)[1]
    made = eval(f"dict({controls})", vars(ipywidgets))
    assert {name: (each.min, each.max, each.step) for name, each in made.items()} == {
        "rate": (0.1, 4.0, 0.1),
        "draws": (1, 32, 1),
        "seed": (0, 50, 1),
    }
    begun = ", ".join(f"{name}={each.value}" for name, each in made.items())
    assert f" noisy_descent({begun})\n" in text
