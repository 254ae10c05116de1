"""Losses in the styles that trainers have: kinds on which the auditor was wrong once."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Categorical, kl_divergence

from opd_toy.audit import assert_optimises, audit
from opd_toy.audit.expectation import is_as_expected
from tests.audit_losses import NONE, forward, gradient_policy, logs, probs, ratio, reverse
from tests.audit_sequence_losses import audit_on_fewer

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("error::RuntimeWarning"),
]


def entropy_in_float32(teacher):
    return -(probs(teacher) * logs(teacher)).sum().float()


IN_FLOAT32 = {
    "expm1": (lambda s, t, k: torch.expm1(-(r := ratio(s, t, k).float())) + r, "forward KL"),
    "expm1, the other way": (
        lambda s, t, k: torch.expm1(r := ratio(s, t, k).float()) - r,
        "α-divergence(α = 2)",
    ),
    "tanh": (
        gradient_policy(lambda s, t, k: ratio(s, t, k).float().tanh()),
        "f-divergence with weight tanh(log p/q)",
    ),
    "a factor": (lambda s, t: entropy_in_float32(t) * reverse(s, t), "H(q) × reverse KL"),
    "a square": (lambda s, t: reverse(s, t).float() ** 2, "2 × KL(p‖q) × reverse KL"),
}


@pytest.mark.parametrize("name", IN_FLOAT32)
def test_the_rounding_of_one_scalar_hides_no_name(name):
    loss, verdict = IN_FLOAT32[name]
    report = audit(loss)
    assert (report.optimises, report.precision) == (verdict, "float32")


def test_what_only_a_curve_can_name_keeps_its_curve_in_float32():
    report = audit(gradient_policy(lambda s, t, k: ratio(s, t, k).float().atan()))
    assert report.optimises == "f-divergence" and report.weight["increasing"]


@pytest.mark.parametrize(
    "temperature, dtype, verdict",
    [
        (1.0, torch.float32, "reverse KL"),
        (0.5, torch.float64, "reverse KL at temperature 0.5"),
        (2.0, torch.float32, "reverse KL at temperature 2"),
    ],
)
def test_the_end_of_floats_is_no_limit_of_a_loss(temperature, dtype, verdict):
    def loss(student, teacher):
        softened = [Categorical(logits=z.to(dtype) / temperature) for z in (student, teacher)]
        return kl_divergence(*softened)

    report = audit(loss)
    assert report.optimises == verdict and report.holds_everywhere
    assert any(entry["edge"] == "clamp" for entry in report.edges)


def chi_squared(student, teacher):
    return (probs(student) ** 2 / probs(teacher)).sum() - 1


def total_variation(student, teacher):
    return (probs(student) - probs(teacher)).abs().sum() / 2


def on_top(k, loss, whole=False):
    def of_head(student, teacher):
        kept = teacher.topk(min(k, len(teacher))).indices
        return loss(logs(student)[kept] if whole else student[kept], teacher[kept])

    return of_head


ONE_SOFTENED = {
    "χ²(p‖q) to the teacher at temperature 2.5": lambda s, t: chi_squared(s, t / 2.5),
    "total variation with the student alone at temperature 1.7": (
        lambda s, t: total_variation(s / 1.7, t)
    ),
    "forward KL to the teacher at temperature 0.7 on the teacher's top 5, renormalized": (
        on_top(5, lambda s, t: forward(s, t / 0.7))
    ),
    "reverse KL with the student alone at temperature 2 on the teacher's top 3, renormalized": (
        on_top(3, lambda s, t: reverse(s / 2, t))
    ),
    "forward KL to the teacher at temperature 2 renormalized on the teacher's top 4": (
        on_top(4, lambda log_p, t: -(probs(t / 2) * log_p).sum(), whole=True)
    ),
}


@pytest.mark.parametrize("verdict", ONE_SOFTENED)
def test_one_softened_model(verdict):
    assert audit(ONE_SOFTENED[verdict]).optimises == verdict


@pytest.mark.parametrize("most", [0.05, 0.2])
def test_a_clamp_of_each_term_has_one_verdict_for_every_seed(most):
    def loss(student, teacher):
        terms = probs(student) * (logs(student) - logs(teacher))
        return terms.clamp(max=most).sum()

    verdicts = {audit(loss, seed=seed).optimises for seed in range(5)}
    assert verdicts == {NONE if most == 0.05 else "reverse KL while the two are close"}


# --- ways in -------------------------------------------------------------------------------


def from_attributes(student_out, teacher_out):
    return reverse(student_out.logits, teacher_out.logits)


def from_entries(student_outputs, teacher_outputs):
    return reverse(student_outputs["logits"], teacher_outputs["logits"])


def from_both(student, teacher):
    return reverse(student["logits"], teacher.logits)


@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence")
@pytest.mark.parametrize("loss", [from_attributes, from_entries, from_both])
def test_logits_in_what_a_model_returns(loss):
    assert audit(loss).optimises == "reverse KL"


def test_logits_in_the_outputs_of_a_batch():
    def loss(batch):
        kl = reverse(batch["student_outputs"].logits, batch["teacher_outputs"].logits)
        return kl / len(batch["student_outputs"].logits)

    assert audit_on_fewer(loss).optimises == "1/T × sum of local reverse KLs"


@pytest.mark.parametrize("audited", [audit, audit_on_fewer])
def test_a_batch_of_logits_alone(audited):
    def loss(batch):
        return F.cross_entropy(batch["student"], probs(batch["teacher"]), reduction="sum")

    assert audited(loss, batched=audited is audit).optimises.endswith(("forward KL", "forward KLs"))


def local_reverse(student, teacher):
    return (probs(student) * (logs(student) - logs(teacher))).sum(-1)


# --- texts ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kept, words",
    [(slice(None, -1), "last"), (slice(1, None), "first")],
)
def test_a_position_left_out(kept, words):
    report = audit_on_fewer(lambda s, t: forward(s[kept], t[kept]) / (len(s) - 1))
    name = f"sum of local forward KLs, all positions but the {words}"
    assert report.optimises == f"1/(T − 1) × {name}"
    assert is_as_expected(report, f"1/(T-1) * {name}")
    assert not is_as_expected(report, name)


@pytest.mark.parametrize(
    "weighted, verdict",
    [
        (
            lambda s, t: (-(probs(t) * logs(t)).sum(-1).detach() * local_reverse(s, t)).mean(),
            "1/T × sum of local H(q) × reverse KL",
        ),
        (
            lambda s, t: (local_reverse(s, t) ** 2).sum(),
            "2 × sum of local KL(p‖q) × reverse KL",
        ),
        (lambda s, t: (local_reverse(s, t).exp() ** 2).sum(), NONE),
    ],
)
def test_each_position_times_a_quantity_of_its_own(weighted, verdict):
    assert audit_on_fewer(weighted).optimises == verdict


# --- names that are expected ---------------------------------------------------------------


@pytest.mark.parametrize(
    "loss, expected",
    [
        (lambda s, t: forward(s, t) + reverse(s, t), "Jeffreys"),
        (lambda s, t: 4 - 4 * (probs(s) * probs(t)).sqrt().sum(), "4 x squared Hellinger"),
        (lambda s, t: chi_squared(s, t) / 2, "0.5 chi^2(p||q)"),
        (
            lambda s, t: -torch.logsumexp((logs(s) + logs(t)) / 2, -1),
            "0.5 × Rényi divergence(α = 0.5)",
        ),
    ],
)
def test_the_other_name_of_a_verdict_can_be_expected(loss, expected):
    assert_optimises(loss, expected)


def test_the_other_name_is_not_that_of_what_holds_within_limits():
    def loss(student, teacher, token):
        r = ratio(student, teacher, token)
        return (r + r.exp()).clamp(max=math.e**3).detach() * logs(student)[token]

    with pytest.raises(AssertionError, match="found"):
        assert_optimises(loss, "Jeffreys")
