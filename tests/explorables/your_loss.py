"""What “Your loss” ought to show: by PyTorch, which runs the code that the page shows, and by the
auditor, which names it.
"""

import functools
import re

import numpy as np
import torch

from opd_toy import objectives
from opd_toy.audit import audit
from opd_toy.audit.formulas import formula
from opd_toy.explorables.host import HERE
from tests.explorables.reading import pair, rounded, same

NONE = "none of these"
# Verdicts of the auditor that the page does not give: it has fewer candidates.
BEYOND = re.compile(
    r"top \d|student's likeliest|f-divergence(?! with weight (tanh|sigmoid|sign))|max [pq]"
    r"|clipped|at (least|most)|held fixed|geometric"
)


def known_formulas():
    """{label: formula} of those that the page offers, read off its source."""
    text = (HERE / "your_loss_field.js").read_text(encoding="utf-8")
    parts = dict(re.findall(r'^const (K3|JSD) = "(.*)";$', text, flags=re.MULTILINE))
    found = dict(re.findall(r'label: "([^"]+)",\s+formula:\s+["`]([^"`]+)["`]', text))
    return {
        label: re.sub(r"\$\{(\w+)\}", lambda match: parts[match[1]], each)
        for label, each in found.items()
    }


KNOWN = list(known_formulas().values())


def defined(code):
    """The function ``loss`` of some code."""
    names = {}
    exec(code, names)
    return names["loss"]


def gradient_table(loss, student, teacher):
    """(V, V): row k is the gradient in the student's logits if token k is drawn."""
    rows = []
    for token in range(len(student)):
        z = torch.tensor(np.asarray(student, dtype=float), requires_grad=True)
        drawn = [torch.tensor(token)] if loss.__code__.co_argcount == 3 else []
        loss(z, torch.tensor(np.asarray(teacher, dtype=float)), *drawn).backward()
        rows.append(z.grad.numpy())
    return np.array(rows)


@functools.lru_cache(maxsize=512)
def audited(text, drawn_from):
    """The auditor's report on a formula."""
    return audit(formula(text), drawn_from=drawn_from)


def name_on_the_page(text, drawn_from):
    """The auditor's, but for what the page does not know, and for where exactly a name holds."""
    name = re.sub(" where .*", " while the two are close", audited(text, drawn_from).optimises)
    return NONE if BEYOND.search(name) else name


def your_loss(seen, widget):
    p, q = pair(seen)
    loss, drawn_from = defined(seen.code[0]), seen.choices["drawn_from"]
    weights = p if drawn_from == "student" else q
    rows = gradient_table(loss, np.log(p), np.log(q))
    mean = weights @ rows
    deviation = np.sqrt(weights @ (rows - mean) ** 2)
    shown, ends = seen.table(0), seen.table(1)
    scale = max(np.abs(rows).max(), 1e-2)  # where p is near q, what is left of logs' digits
    same("expected gradient", shown[:, 0], mean, scale)
    same("deviation", shown[:, 1] ** 2, deviation**2, scale**2)
    same("forward KL", shown[:, 2], objectives.forward_kl_logit_gradient(p, q))
    same("reverse KL", shown[:, 3], objectives.reverse_kl_logit_gradient(p, q), 1e-3)
    end = ends[:3, 1]
    same("student", ends[:3, 0], p)
    same("teacher", ends[:3, 2], q)
    for row, divergence in enumerate((objectives.forward_kl, objectives.reverse_kl), start=3):
        same("divergence", ends[row, :2], [divergence(x, q) for x in (p, end)], 1e-3)
    if known := seen.choices["known"]:
        text = known_formulas()[known]
        assert seen.code[0] == formula(text).code
        assert seen.words["verdict"] == name_on_the_page(text, drawn_from)
    check_sentence(seen, loss, drawn_from, rows, mean, deviation)


def check_sentence(seen, loss, drawn_from, rows, mean, deviation):
    name, sentence = seen.words["verdict"], seen.sentence
    drawn = loss.__code__.co_argcount == 3
    assert sentence.startswith(
        f"Averaged over tokens that the {drawn_from} draws, its gradient is "
        if drawn
        else "Without a drawn token, its gradient is "
    )
    assert {NONE: "that of no objective known here", "zero": "zero on all"}.get(
        name, f"that of {name}: so on "
    ) in sentence
    assert ("so on all" in sentence) == (name not in (NONE, "zero") and " close" not in name)
    p, q = pair(seen)
    if np.ptp(rows, axis=0).max() > 1e-12:
        length = np.linalg.norm(mean)
        beside = f"of length {rounded(length, 2)}" if length >= 1e-9 else "of length zero"
        strays = rounded(float(np.linalg.norm(deviation)), 2)
        assert f"one draw strays {strays} from a mean {beside}." in sentence
    else:
        assert "Here every draw gives the same gradient." in sentence
    check_end(sentence, loss, drawn_from, p, q, mean, seen.table(1)[:3, 1])


def check_end(sentence, loss, drawn_from, p, q, mean, end):
    there = np.abs(end - q).max() < 0.005
    printed = f"({', '.join(rounded(float(x), 2) for x in end)})"
    left = gradient_table(loss, np.log(end), np.log(q))
    left = np.abs((end if drawn_from == "student" else q) @ left).max() / max(
        np.abs(mean).max(), 1e-300
    )
    if "Descent stays" in sentence:
        assert np.abs(mean).max() < 1e-11 and np.array_equal(end, p)
    elif "runs to the edge" in sentence:
        assert end.min() < 1e-4
    elif "Descent comes to" in sentence:
        assert f"Descent comes to {printed}" in sentence
        assert (f"{printed}, the teacher." in sentence) == there
    else:
        assert f"Descent ends at {printed}, " in sentence and left < 2e-6
        assert (f"{printed}, the teacher." in sentence) == there
