"""What the prose of chapter 7 says of the losses in its own cells rests on these verdicts."""

import ast
import functools
import inspect
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from opd_toy.audit import AuditError, audit, audit_sequence
from opd_toy.audit.exhibits import notes_losses
from opd_toy.audit.exhibits.museum import EXHIBITS
from opd_toy.example import STUDENT, TEACHER
from opd_toy.pages.heat_map import credit_maps
from tests.conftest import ROOT


def cells(page):
    text = (ROOT / "book" / f"{page}.md").read_text(encoding="utf-8")
    return [
        re.sub(r"^(:.*\n)+", "", cell)  # the cell's options
        for cell in re.findall(r"```\{code-cell\} ipython3\n(.*?)\n```", text, flags=re.DOTALL)
    ]


@functools.cache
def defined(page="07-what-your-loss-optimises"):
    """The functions of a page, and its table of refused losses, without running the rest."""
    names = {"np": np, "torch": torch, "F": F, "N": notes_losses}
    for cell in cells(page):
        for line in ast.parse(cell).body:
            wanted = isinstance(line, (ast.FunctionDef, ast.Import)) or (
                isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == "refused"
            )
            if wanted and not getattr(line, "decorator_list", None):
                exec(compile(ast.Module([line], []), page, "exec"), names)
    return names


pytestmark = pytest.mark.usefixtures("one_thread")


TOKENS = {
    "k3": "forward KL",
    "reverse_kl": "reverse KL",
    "a_little_entropy": "reverse KL − 1e-05 × entropy",
    "squashed": "f-divergence with weight tanh(log p/q)",
    "sft": "zero",
    "default_reduction": "1/V × forward KL",
}
TEXTS = {
    "discounted": "reverse KL with a discounted return, γ = 0.5",
    "cumulative_the_wrong_way": "sum of local reverse KLs",
    "off_by_one": "reverse KL with a return of the later costs alone",
    "mean_of_returns": "1/T × sequence reverse KL, the cost at t × (T − t)",
    "less_own_mean": "sum of local reverse KLs − 1/T × sequence reverse KL",
}


@pytest.mark.parametrize("name", TOKENS)
def test_losses_of_one_position(name):
    assert audit(defined()[name]).optimises == TOKENS[name]


@pytest.mark.parametrize("name", TEXTS)
def test_losses_of_whole_texts(name):
    assert audit_sequence(defined()[name]).optimises == TEXTS[name]


def test_a_library_s_loss_needs_no_adapter():
    report = audit(defined()["library_loss"], inputs="log_probs", batched=True)
    assert report.optimises == "forward KL"


def test_bfloat16_hides_more_than_its_tolerance_says():
    """What can hide is the format's limit and the rounding: not 3 %, as the text had it once."""
    report = audit(defined()["in_bfloat16"])
    assert report.optimises == "reverse KL" and 0.1 < report.tolerance < 0.15


def test_who_draws_is_part_of_the_loss():
    assert audit(defined()["sft"], drawn_from="teacher").optimises == "forward KL"


def test_each_refusal_has_a_message_of_its_own():
    messages = set()
    torch.manual_seed(7)  # as on the page, for the dropout
    for loss in defined()["refused"].values():
        with pytest.raises(AuditError) as refusal:
            audit(loss)
        messages.add(re.split(r"[:;(]", str(refusal.value))[0])
    assert len(messages) == len(defined()["refused"]) == 7


def test_the_gradient_table_of_the_page_is_the_auditors():
    from opd_toy.audit.token.measure import tabulate

    k3 = defined()["k3"]
    np.testing.assert_allclose(
        defined()["gradient_table"](k3, STUDENT, TEACHER),
        tabulate(k3, 3, np.log(STUDENT), np.log(TEACHER)).rows,
        rtol=1e-12,
        atol=1e-15,
    )


CARD_ROW = re.compile(r'\{eval\}`(wrong|right)\["(\w+)"\]\.optimises` \| (`.+`) \|$', re.MULTILINE)


def test_a_card_shows_the_code_of_both_losses_of_its_exhibit():
    """Line for line as the museum has it, the last of them what the loss returns."""
    text = (ROOT / "book" / "07-what-your-loss-optimises.md").read_text(encoding="utf-8")
    rows = CARD_ROW.findall(text)
    assert sorted((name, side) for side, name, _ in rows) == sorted(
        (name, side) for name in EXHIBITS for side in ("wrong", "right")
    )
    for side, name, cell in rows:
        body = ast.parse(inspect.getsource(getattr(EXHIBITS[name], side))).body[0].body
        lines = [ast.unparse(line) for line in body]
        *before, returned = [ast.unparse(ast.parse(code)) for code in cell[1:-1].split("` <br> `")]
        assert f"return {returned}" == lines[-1], name
        assert set(before) <= set(lines), name


def test_a_heat_map_tells_the_past_from_what_the_mean_keeps():
    """Dashed below the diagonal where a draw has a weight there; deeper blue for more."""
    page = credit_maps({"a loss": np.array([[1, 0.5], [-2, 0]])})._repr_html_()
    row = r'<tr><th scope="row">{}</th>(.*?)</tr>'
    first, second = (re.findall(row.format(t), page)[0] for t in (1, 2))
    assert re.findall(r'class="(\w+)" style="--share:(\d+)%">([^<]+)', first) == [
        ("paid", "50", "1"),
        ("paid", "25", "0.5"),
    ]
    assert second.startswith('<td class="past">−2</td>') and "--share:0%" in second
    lower = credit_maps({"a loss": np.eye(2)})._repr_html_()
    assert 'class="past"' not in lower and lower.count("<td></td>") == 2
