"""The auditor of one token: what its reports say beside the verdict."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from opd_toy import estimators, objectives
from opd_toy.audit import audit
from opd_toy.audit.stale.report import StaleReport
from opd_toy.example import STUDENT as P
from opd_toy.example import TEACHER as Q
from tests.audit_losses import VERDICTS, forward, jsd, k3, logs, probs, ratio, reverse, top_k
from tests.audit_reports import in_full
from tests.written import check_text

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("error::RuntimeWarning", "error::UserWarning"),
]


@pytest.fixture(scope="module")
def sampled():
    return audit(VERDICTS["k1 as a reward"][0])


@pytest.fixture(scope="module")
def clamped():
    return audit(VERDICTS["k3 as a loss, at most 10"][0])


def test_policy_gradient_agrees_with_the_engine(sampled):
    table = estimators.policy_gradient(P, Q)
    np.testing.assert_allclose(
        sampled.expected_gradient, estimators.expectation(P, table), rtol=1e-12
    )
    np.testing.assert_allclose(sampled.variance, estimators.total_variance(P, table), rtol=1e-12)
    np.testing.assert_allclose((sampled.standard_deviation**2).sum(), sampled.variance, rtol=1e-12)
    assert sampled.variance_compared == {
        "GKD": 0.0,
        "plain policy gradient": pytest.approx(sampled.variance, rel=1e-12),
    }
    assert (sampled.objective, sampled.parameters, sampled.scale) == ("reverse_kl", {}, 1.0)
    assert sampled.uses_token and not sampled.teacher_gradient and sampled.touches_inputs == ()


def test_scale_and_variance_compared_with_it():
    report = audit(lambda s, t, k: 2 * ratio(s, t, k).detach() * logs(s)[k])
    assert report.scale == 2.0
    np.testing.assert_allclose(
        report.variance_compared["plain policy gradient"],
        4 * estimators.total_variance(P, estimators.policy_gradient(P, Q)),
        rtol=1e-12,
    )


def test_bias_is_the_distance_from_each_kl(sampled):
    assert sampled.bias["reverse KL"]["as_given"] < 1e-12
    assert (
        sampled.bias["forward KL"]["as_given"]
        > sampled.bias["forward KL"]["at_best_scale"] * 0.9
        > 0.1
    )
    double = audit(lambda s, t: 2 * forward(s, t)).bias["forward KL"]
    assert (
        double["as_given"] == pytest.approx(1)
        and double["best_scale"] == pytest.approx(2)
        and double["at_best_scale"] < 1e-12
    )


def test_parameters_call_the_engine():
    report = audit(jsd(0.3))
    gradient = getattr(objectives, report.objective + "_logit_gradient")(P, Q, **report.parameters)
    np.testing.assert_allclose(report.expected_gradient, gradient, rtol=1e-12)
    report = audit(top_k(2, outside="drop"))
    gradient = getattr(objectives, report.objective + "_logit_gradient")(P, Q, **report.parameters)
    np.testing.assert_allclose(report.expected_gradient, gradient, rtol=1e-12)


def test_a_loss_that_holds_only_while_close_names_no_objective_for_a_program(clamped):
    assert (clamped.objective, clamped.holds_everywhere) == (None, False)
    assert 1 < clamped.holds_up_to < 2.7


def test_fine_tuning_on_own_tokens_is_nothing_and_on_the_teachers_forward_kl():
    loss = lambda s, t, k: -logs(s)[k]
    own = audit(loss)
    assert (own.optimises, own.with_other_tokens) == ("zero", "forward KL")
    assert own.fixed_point["descent"]["steps"] == 0
    teachers = audit(loss, drawn_from="teacher")
    assert (teachers.optimises, teachers.drawn_from) == ("forward KL", "teacher")
    np.testing.assert_allclose(teachers.expected_gradient, P - Q, rtol=1e-12)


def test_value_of_a_loss_is_told_apart_from_its_gradient():
    k1 = audit(ratio)
    assert (k1.optimises, k1.value_is) == ("zero", "KL(p‖q)")
    soft = audit(VERDICTS["soft labels"][0])
    assert soft.value_is in ("KL(q‖p) + H(q)", "H(q) + KL(q‖p)")
    assert soft.value_at_teacher["is"] == "the teacher's entropy"
    np.testing.assert_allclose(soft.value_at_teacher["value"], -(Q * np.log(Q)).sum(), rtol=1e-12)
    assert (
        audit(top_k(64, outside="drop", direction="forward")).value_is is None
    )  # the whole KL on small vocabularies only


def test_where_descent_ends():
    end = audit(forward).fixed_point
    assert end["is_fixed"] and end["descent"]["settled"]
    np.testing.assert_allclose(end["descent"]["ends_at"], Q, atol=1e-6)
    bonus = audit(VERDICTS["entropy bonus"][0]).fixed_point
    flatter = Q ** (1 / 1.1) / (Q ** (1 / 1.1)).sum()
    assert not bonus["is_fixed"] and bonus["gradient_norm"] > 1e-3
    np.testing.assert_allclose(bonus["descent"]["ends_at"], flatter, atol=1e-6)
    upward = audit(VERDICTS["wrong sign"][0]).fixed_point["descent"]
    assert upward["reverse_kl"] > 2.3  # all on the teacher's rarest token: log 10


def test_descent_ends_where_a_loss_refuses_or_has_no_gradient():
    def refuses_far_off(student, teacher):
        assert student.abs().max() < 60  # descent gets there, no other call does
        return -forward(student, teacher)

    end = audit(refuses_far_off).fixed_point["descent"]
    assert 0 < end["steps"] < 150 and not end["settled"]

    def constant_close_by(student, teacher):
        value = reverse(student, teacher)
        return value if value > 1e-5 else torch.zeros((), dtype=value.dtype)

    assert audit(constant_close_by).fixed_point["descent"]["settled"]


def test_dropping_the_tail_moves_a_student_that_is_the_teacher():
    fixed = audit(top_k(2, outside="drop", direction="forward")).fixed_point
    assert not fixed["is_fixed"]
    # q_j 1_S - q_j q(S): at the notes' teacher S = {1, 2}, q(S) = .9.
    expected = np.linalg.norm(Q * 0.9 - np.array([0.7, 0.2, 0.0]))
    assert fixed["gradient_norm"] == pytest.approx(expected, rel=1e-12)


def test_formats_are_told_and_bound_what_can_be_seen():
    assert (audit(forward).precision, audit(forward).tolerance < 2e-9) == ("float64", True)
    single, half = audit(VERDICTS["float32"][0]), audit(VERDICTS["bfloat16"][0])
    assert single.precision == "float32" and 1e-5 < single.tolerance < 1e-4
    assert half.precision == "bfloat16" and 0.03 < half.tolerance < 0.2
    assert audit(VERDICTS["float32 for one of the two"][0]).precision == "float32"
    # A coarser format is inside, but the finer one explains everything.
    assert audit(lambda s, t: forward(s, t) + 0 * s.float().sum()).precision == "float64"


def test_inputs_written_into_and_a_teacher_that_learns_are_told():
    def loss(student, teacher):
        student.sub_(1.0)
        return forward(student, teacher)

    report = audit(loss)
    assert (report.optimises, report.touches_inputs, report.teacher_gradient) == (
        "forward KL",
        ("student_logits",),
        True,
    )
    assert "changes student_logits in place" in str(report) and "teacher's logits" in str(report)
    assert not audit(lambda s, t: forward(s, t.detach())).teacher_gradient


def test_a_token_taken_but_not_used():
    report = audit(lambda s, t, token: forward(s, t))
    assert (report.optimises, report.uses_token, report.variance) == ("forward KL", False, 0.0)
    by_value = audit(lambda s, t, token: forward(s, t) + ratio(s, t, token).detach())
    assert (by_value.uses_token, by_value.variance) == (True, 0.0)


def found(report, edge):
    """(severity, finding) of the edge whose name begins so."""
    return [
        (entry["severity"], entry["finding"])
        for entry in report.edges
        if entry["edge"].startswith(edge)
    ]


def test_clamped_value_has_a_dead_gradient(clamped):
    # exp(x) - 1 - x = 10 where log q/p = x = 2.6109...; on the other side at log p/q = 11.
    dead = [text for severity, text in found(clamped, "dead gradient") if severity == "broken"]
    assert (
        len(dead) == 2
        and any("log q/p" in text and "2.61" in text for text in dead)
        and any("log p/q" in text and "11" in text for text in dead)
    )


def test_clamped_weight_is_found_where_it_begins(sampled):
    report = audit(VERDICTS["clamped at 5"][0])
    clamps = found(report, "clamp")
    assert len(clamps) == 2 and all(
        severity == "note" and "is above 5" in text for severity, text in clamps
    )
    assert found(sampled, "clamp") == [
        (
            "fine",
            "neither stops nor is cut off while it is finite, |log p/q| up to 700",
        )
    ]
    assert found(audit(k3), "clamp")[0][0] == "fine"  # 1 - q/p levels off, which is no clamp


def test_masked_tokens():
    both = "a token masked (−inf) in both"
    ((severity, text),) = found(audit(reverse), both)
    assert severity == "broken" and "NaN" in text

    def square_root(
        student, teacher
    ):  # where() takes the NaN out of the value, and leaves it in the gradient
        return torch.where(
            student.isinf() & teacher.isinf(), 0.0, (probs(student) - probs(teacher)).abs().sqrt()
        ).sum()

    def safe(student, teacher):
        keep = ~(student.isinf() & teacher.isinf())
        return reverse(student[keep], teacher[keep])

    assert found(audit(safe), both) == [("fine", "the other tokens' gradient is unchanged")]
    assert found(audit(square_root), both)[0][0] == "broken"


def test_padding_and_constants():
    ((severity, text),) = found(audit(VERDICTS["mean over the vocabulary"][0]), "vocabulary padded")
    assert severity == "note" and "multiplied by 0.6" in text  # 3 tokens of 5
    ((severity, text),) = found(audit(F.mse_loss), "a constant added")
    assert severity == "note" and "sums to 0.50" in text
    assert found(audit(forward), "a constant added")[0][0] == "fine"
    ((severity, text),) = found(
        audit(lambda s, t: (s.exp() / s.exp().sum() * (s.exp() / s.exp().sum()).log()).sum()),
        "logits of",
    )
    assert severity == "broken" and "NaN" in text


def test_text_is_short_and_says_what_the_verdict_rests_on(sampled, clamped):
    for report in (sampled, clamped, audit(F.mse_loss)):
        lines = str(report).splitlines()
        assert lines[0] == f"optimises: {report.optimises}" and len(lines) <= 25
        assert f"{report.pairs} pairs (seed 0)" in str(report) and "1e-09" in str(report)
    assert "variance of single draws there: 0.465 (GKD 0, plain policy gradient 0.465)" in str(
        sampled
    )
    assert "up to |log p/q| = " in str(clamped) and "!! dead gradient" in str(clamped)
    near = str(audit(VERDICTS["epsilon in the logs"][0]))
    assert "nearest: reverse KL" in near and "but not exactly" in near


def test_json_is_strict_and_complete(sampled):
    read = json.loads(sampled.to_json(), parse_constant=lambda name: pytest.fail(name))
    assert read == sampled.to_dict() and set(read) == set(sampled.__dataclass_fields__)
    np.testing.assert_array_equal(read["expected_gradient"], sampled.expected_gradient)
    text = sampled.to_json()
    assert text.startswith('{\n  "optimises": "reverse KL",\n') and "(−inf)" in text


def test_notebook_page_has_one_described_figure_for_both_papers(sampled):
    page = sampled._repr_html_()
    assert (
        page.count("<figure") == 1 and page.count("data:image/svg+xml") == 2 and "opd-dark" in page
    )
    assert 'alt="Expected gradient' in page and "reverse KL" in page and "color:inherit" in page


def writes_and_learns(student, teacher, token):
    teacher.sub_(1.0)
    return ratio(student, teacher, token).detach() * logs(student)[token] / 3


@pytest.mark.parametrize(
    "name, loss, drawn_from",
    [
        ("own text", lambda s, t, k: -logs(s)[k], "student"),
        ("the teacher's text", lambda s, t, k: -logs(s)[k], "teacher"),
        ("writes into its input", writes_and_learns, "teacher"),
    ],
)
def test_whole_reports_by_who_draws(name, loss, drawn_from):
    check_text("audit_reports.txt", name, in_full(audit(loss, drawn_from=drawn_from)))


def test_options_are_handed_on():
    """To what the loss might have been meant as, too; a behaviour that is named is kept."""
    found = audit(lambda a, b: -a.sum(), drawn_from="teacher", seed=4)
    assert 'inputs="token_log_probs": then it optimises forward KL' in found.call["notes"][-1]
    assert found.seed == 4 and audit(forward).seed == 0

    def stale(a, b, token, c):
        return (logs(a) - logs(b))[token].detach() * logs(a)[token] + 0 * c.sum()

    assert isinstance(audit(stale, drawn_from="teacher", behaviour="c"), StaleReport)
    old = lambda new, teacher, token, old_logits: stale(new, teacher, token, old_logits)
    assert isinstance(audit(old), StaleReport)
    assert not isinstance(audit(old, behaviour=False), StaleReport)
    assert not isinstance(audit(old, drawn_from="teacher"), StaleReport)
