"""The exhibits of chapter 7: each wrong loss is wrong in just the way its ``mistake`` says.

Every token is enumerated here and differentiated by autograd; what comes out is compared
with the engine, of which the exhibits know nothing.
"""

import ast
import functools
import inspect

import numpy as np
import pytest
import torch

from opd_toy import estimators, objectives
from opd_toy.audit import audit
from opd_toy.audit.exhibits import museum
from opd_toy.audit.exhibits.museum import EXHIBITS
from opd_toy.distributions import entropy, softmax
from opd_toy.example import STUDENT, TEACHER
from opd_toy.explorables import LossMuseum
from tests.explorables import MUSEUM, page_of
from tests.test_audit_claims import imported_by

NOTES = STUDENT, TEACHER
TOKEN_LEVEL = [name for name, exhibit in EXHIBITS.items() if exhibit.level == "token"]

pytestmark = pytest.mark.usefixtures("one_thread")


def pairs(sizes=(3, 5, 8), scale=1.0, seed=0):
    random = np.random.default_rng(seed)
    return [NOTES, *(tuple(softmax(random.normal(0, scale, (2, size)))) for size in sizes)]


FAR = [
    (softmax(np.array([-4.0, 1, 2, 0])), softmax(np.array([3.0, -2, 0, 1]))),
    (np.array([0.01, 0.09, 0.9]), np.array([0.9, 0.07, 0.03])),
]


def table_of(loss, student, teacher):
    """(V, V), row k: the gradient in the logits if token k is drawn; and the values (V,)."""
    rows, values = [], []
    for token in range(len(student)):
        z = torch.tensor(np.log(student), requires_grad=True)
        value = loss(z, torch.tensor(np.log(teacher)), torch.tensor(token))
        value.backward()
        rows.append(z.grad.numpy())
        values.append(value.item())
    return np.array(rows), np.array(values)


def expected(loss, student, teacher):
    return student @ table_of(loss, student, teacher)[0]


def close(found, wanted, scale=None):
    found, wanted = np.asarray(found), np.asarray(wanted)
    assert np.abs(found - wanted).max() <= 1e-12 * max(np.abs(wanted).max(), scale or 0), (
        found,
        wanted,
    )


def descended(loss, student, teacher, rate, steps):
    """Where descent on the expected gradient ends."""
    z = np.log(student)
    for _ in range(steps):
        z = z - rate * expected(loss, softmax(z), teacher)
    return softmax(z)


# ---- the code itself ----


def functions():
    found = {
        function.__name__: function
        for exhibit in EXHIBITS.values()
        for function in (exhibit.wrong, exhibit.right)
    }
    assert len(found) >= 20
    return found


@pytest.mark.parametrize("name", functions())
def test_an_exhibit_is_short_and_takes_what_its_level_says(name):
    function = functions()[name]
    (definition,) = ast.parse(inspect.getsource(function)).body
    assert 3 <= len(definition.body) <= 8 and isinstance(definition.body[-1], ast.Return)
    levels = {
        exhibit.level for exhibit in EXHIBITS.values() if function in (exhibit.wrong, exhibit.right)
    }
    (level,) = levels
    taken = list(inspect.signature(function).parameters)
    assert taken[:2] == ["student_logits", "teacher_logits"]
    assert taken[2:] in ([["token"]] if level == "token" else [["tokens"], ["tokens", "mask"]])


def test_the_exhibits_know_nothing_of_the_engine():
    assert set(imported_by(museum)) == {
        "math",
        "collections.abc",
        "dataclasses",
        "torch",
        "torch.nn.functional",
    }


def test_every_exhibit_says_one_thing():
    assert list(EXHIBITS) == [exhibit.name for exhibit in EXHIBITS.values()]
    assert len(TOKEN_LEVEL) == 10 and len({exhibit.title for exhibit in EXHIBITS.values()}) == len(
        EXHIBITS
    )
    for exhibit in EXHIBITS.values():
        assert exhibit.level in ("token", "sequence") and exhibit.wrong is not exhibit.right
        assert exhibit.mistake.endswith(".") and exhibit.mistake.count(". ") == 0, "one sentence"
        assert 40 < len(exhibit.consequence) < 220


# ---- one position: what each follows in expectation ----

SQUARE_ROOT = 0.5  # the power of the teacher at which the loss without stop-gradient ends


def negative_entropy_gradient(p):
    """Of sum p log p in the logits."""
    return p * (np.log(p) + entropy(p))


def tempered(p, q, temperature):
    softened = [softmax(np.log(x) / temperature) for x in (p, q)]
    return objectives.forward_kl_logit_gradient(*softened) / temperature


def clamped_k3(p, q):
    """Forward KL of the tokens whose k3 is below 10 only."""
    weight = np.where(estimators.k_estimator(p, q, "k3") > 10, 0, 1 - q / p)
    return p * weight - p * (p @ weight)


reverse, forward = objectives.reverse_kl_logit_gradient, objectives.forward_kl_logit_gradient
FOLLOWS = {
    "k1": (lambda p, q: 0 * p, reverse),
    "k3": (forward, reverse),
    "advantage": (lambda p, q: 0 * p, reverse),
    "stop_gradient": (lambda p, q: reverse(p, q) + negative_entropy_gradient(p), reverse),
    "direction": (forward, reverse),
    "beta": (lambda p, q: objectives.generalized_jsd_logit_gradient(p, q, 0.999), reverse),
    "tail": (
        lambda p, q: objectives.top_k_reverse_kl_logit_gradient(p, q, 2, "drop"),
        lambda p, q: objectives.top_k_reverse_kl_logit_gradient(p, q, 2, "tail"),
    ),
    "value_clamp": (clamped_k3, forward),
    "ratio_clamp": (lambda p, q: p @ estimators.truncated_policy_gradient(p, q, 1.0), reverse),
    "temperature": (lambda p, q: tempered(p, q, 2.0), lambda p, q: 4 * tempered(p, q, 2.0)),
}


@pytest.mark.parametrize("name", TOKEN_LEVEL)
def test_what_each_follows(name):
    exhibit = EXHIBITS[name]
    for p, q in [*pairs(), *FAR]:
        for loss, follows in zip((exhibit.wrong, exhibit.right), FOLLOWS[name], strict=True):
            table = table_of(loss, p, q)[0]
            close(p @ table, follows(p, q), scale=10 * np.abs(table).max())


@pytest.mark.parametrize("name", TOKEN_LEVEL)
def test_the_wrong_one_differs_and_the_right_one_rests_at_the_teacher(name):
    exhibit = EXHIBITS[name]
    p, q = FAR[0] if name == "value_clamp" else NOTES
    wrong, right = expected(exhibit.wrong, p, q), expected(exhibit.right, p, q)
    assert np.abs(wrong - right).max() > 0.05 * np.abs(right).max()
    close(expected(exhibit.right, q, q), 0 * q, scale=1)
    # the two that still push where student and teacher agree
    assert (np.abs(expected(exhibit.wrong, q, q)).max() > 0.05) == (
        name in ("stop_gradient", "tail")
    )


def test_the_value_of_k1_is_the_reverse_kl_and_that_of_k3_too():
    for p, q in pairs():
        for loss in (museum.k1_as_loss, museum.k3_as_loss):
            close(p @ table_of(loss, p, q)[1], objectives.reverse_kl(p, q), scale=10)


def test_k2_is_the_policy_gradient_draw_for_draw():
    for p, q in pairs():
        close(table_of(museum.k2_as_loss, p, q)[0], table_of(museum.policy_gradient, p, q)[0])
        close(table_of(museum.policy_gradient, p, q)[0], estimators.policy_gradient(p, q))


def test_without_stop_gradient_descent_ends_at_the_teacher_at_temperature_two():
    p, q = NOTES
    end = descended(museum.without_stop_gradient, p, q, rate=1.0, steps=150)
    np.testing.assert_allclose(end, softmax(SQUARE_ROOT * np.log(q)), atol=1e-9)
    np.testing.assert_allclose(
        descended(museum.policy_gradient, p, q, rate=1.0, steps=300), q, atol=1e-9
    )


def test_with_the_tail_dropped_descent_ends_on_the_token_left_out():
    p, q = NOTES
    end = descended(museum.tail_dropped, p, q, rate=2.0, steps=300)
    np.testing.assert_allclose(end, [q[0] / np.e, q[1] / np.e, 1 - 0.9 / np.e], atol=1e-9)
    np.testing.assert_allclose(
        descended(museum.tail_as_one_bucket, p, q, rate=1.0, steps=300), q, atol=1e-9
    )


def test_near_its_end_jsd_keeps_the_direction_and_loses_the_strength():
    p, q = NOTES
    wrong, right = expected(museum.jsd_near_its_end, p, q), expected(museum.reverse_kl, p, q)
    assert wrong @ right / np.linalg.norm(wrong) / np.linalg.norm(right) > 0.999
    assert np.linalg.norm(wrong) / np.linalg.norm(right) == pytest.approx(0.001, rel=0.01)


def test_beyond_the_clamp_a_draw_has_no_gradient():
    edge = 2.61
    for _ in range(20):
        edge = np.log(11 + edge)  # exp(x) - 1 - x = 10
    assert f"{edge:.2f}" in EXHIBITS["value_clamp"].mistake
    for away, dead in ((-1e-3, False), (1e-3, True)):
        q = np.array([0.8, 0.15, 0.05])
        first = 0.8 / np.exp(edge + away)
        p = np.array([first, 0.5 * (1 - first), 0.5 * (1 - first)])
        rows = table_of(museum.k3_clamped, p, q)[0]
        assert (np.abs(rows[0]).max() == 0) == dead
        # close to each other it is the forward KL; beyond, token 1 has its share p of the push
        wrong, right = p @ rows, expected(museum.forward_kl, p, q)
        assert wrong[0] == pytest.approx((p[0] if dead else 1) * right[0], rel=1e-12)


def test_the_clamped_ratio_is_right_within_the_clamp_and_ends_at_the_teacher():
    q = NOTES[1]
    near = q * np.array([1.2, 0.8, 0.9])
    near /= near.sum()
    close(expected(museum.clamped_policy_gradient, near, q), reverse(near, q))
    np.testing.assert_allclose(
        descended(museum.clamped_policy_gradient, NOTES[0], q, rate=1.0, steps=300), q, atol=1e-9
    )


# ---- what the auditor says, which sees nothing but the code ----

VERDICTS = {
    "k1": ("zero", "reverse KL"),
    "k3": ("forward KL", "reverse KL"),
    "advantage": ("zero", "reverse KL"),
    "stop_gradient": ("reverse KL − entropy", "reverse KL"),
    "direction": ("forward KL", "reverse KL"),
    "beta": ("JSD(β = 0.999)", "reverse KL"),
    "tail": (
        "reverse KL on the teacher's top 2, tail dropped",
        "reverse KL on the teacher's top 2, tail as one token",
    ),
    "value_clamp": ("forward KL where log p/q ≤ 11 and log q/p ≤ 2.61", "forward KL"),
    "ratio_clamp": ("reverse KL where |log p/q| ≤ 1", "reverse KL"),
    "temperature": ("forward KL at temperature 2", "4 × forward KL at temperature 2"),
}
audited = functools.cache(audit)


@pytest.mark.parametrize("name", TOKEN_LEVEL)
def test_the_auditor_tells_the_wrong_one_from_the_right_one(name):
    reports = [audited(EXHIBITS[name].wrong), audited(EXHIBITS[name].right)]
    assert tuple(report.optimises for report in reports) == VERDICTS[name]
    assert [report.holds_everywhere for report in reports] == [not name.endswith("_clamp"), True]
    noisy = {
        "k1": (True, True),
        "k3": (True, True),
        "advantage": (True, False),
        "stop_gradient": (True, True),
        "value_clamp": (True, False),
        "ratio_clamp": (True, True),
    }
    assert tuple(report.variance > 0.1 for report in reports) == noisy.get(name, (False, False))


def test_the_auditor_finds_the_dead_gradient_of_the_value_clamp():
    broken = [
        edge["finding"] for edge in audited(museum.k3_clamped).edges if edge["severity"] == "broken"
    ]
    assert any("log q/p" in finding and "2.61" in finding for finding in broken), broken
    assert not any(edge["edge"] == "dead gradient" for edge in audited(museum.k3_as_loss).edges)


# ---- the slider shows these exhibits ----


def test_the_slider_has_every_exhibit_of_one_position():
    assert list(LossMuseum.exhibit.values) == TOKEN_LEVEL == list(MUSEUM)


SHOWN = """() => ({
  title: document.querySelector(".opd-choice[data-name=exhibit] input:checked")
    .closest("label").textContent,
  codes: [...document.querySelectorAll(".opd-code code")].map((node) => node.textContent),
})"""


def test_the_slider_shows_the_exhibits_titles_and_code(page):
    """Of each loss what it returns, and maybe some of the lines before; the wrong one first."""
    for name in TOKEN_LEVEL:
        page.set_content(page_of(LossMuseum(exhibit=name)))
        page.wait_for_selector("[data-mounted]", timeout=10_000)
        shown, exhibit = page.evaluate(SHOWN), EXHIBITS[name]
        assert shown["title"] == exhibit.title
        for code, loss in zip(shown["codes"], (exhibit.wrong, exhibit.right), strict=True):
            _, *lines = (line.strip() for line in inspect.getsource(loss).splitlines())
            *before, last = code.split("\n")
            assert f"return {last}" == lines[-1] and set(before) <= set(lines), (name, code)


@pytest.mark.parametrize("name", TOKEN_LEVEL)
def test_the_sliders_tables_are_the_exhibits_by_autograd(name):
    random = np.random.default_rng(9)
    for p, q in [NOTES, FAR[1], (NOTES[1], NOTES[1]), *random.dirichlet(np.ones(3), (4, 2))]:
        for loss, table in zip(
            (EXHIBITS[name].wrong, EXHIBITS[name].right), MUSEUM[name], strict=True
        ):
            found = table_of(loss, p, q)[0]
            close(found, table(p, q), scale=np.abs(found).max() + 1e-2)


def test_nothing_reaches_the_teacher():
    random = np.random.default_rng(8)
    for exhibit in EXHIBITS.values():
        for loss in (exhibit.wrong, exhibit.right):
            shape = (3,) if exhibit.level == "token" else (4, 3)
            z, q = (torch.tensor(random.normal(0, 1, shape), requires_grad=True) for _ in range(2))
            rest = (
                [torch.tensor(1)]
                if exhibit.level == "token"
                else [torch.tensor([0, 2, 1, 1]), torch.tensor([1.0, 1, 0, 1])][
                    : len(inspect.signature(loss).parameters) - 2
                ]
            )
            loss(z, q, *rest).backward()
            assert q.grad is None or torch.count_nonzero(q.grad) == 0
            assert torch.isfinite(z.grad).all()
