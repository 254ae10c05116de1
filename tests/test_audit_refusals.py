"""What the auditor refuses, and what it says to change."""

import abc

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from opd_toy.audit import AuditError, audit, audit_sequence, calling
from opd_toy.audit.formats import precision
from opd_toy.audit.ways import TEXTS, TOKENS, as_way
from tests.audit_losses import forward, jsd, logs, probs, ratio, reverse
from tests.audit_sequence_losses import IMMEDIATE, audit_on_fewer, kl, to_go
from tests.written import check_text

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("error::RuntimeWarning", "error::UserWarning"),
]


def test_inputs_that_hold_nan_are_not_taken_for_changed():
    called = calling.gradient_of(
        lambda s, t: forward(s[:2], t[:2]),
        np.array([0.0, 1.0, np.nan]),
        np.array([1.0, 0.0, np.nan]),
    )
    assert called.touched == ()


def dropout(student, teacher):
    return forward(F.dropout(student, 0.5), teacher)


def in_place(student, teacher):
    weights = student.exp()
    total = (weights / weights.sum()).log()
    weights.div_(2)
    return total.sum()


def keeping():
    """A loss divided by the largest vocabulary it has met."""
    met = [1]

    def loss(student, teacher):
        met[0] = max(met[0], len(student))
        return forward(student, teacher) / met[0]

    return loss


class Unfinished(torch.autograd.Function):
    @staticmethod
    def forward(context, student):
        return student.sum()

    @staticmethod
    def backward(context, gradient):
        raise KeyError("its weights")


REFUSALS = {
    "not scalar": (lambda s, t: s - t, ("shape (3,)", ".sum() or .mean()")),
    "tuple": (lambda s, t: (s - t, {}), ("a tuple of 2", "[0]")),
    "float": (lambda s, t: forward(s, t).item(), ("a float", "without .item()")),
    "integer": (lambda s, t: s.argmax(), ("torch.int64", "floating-point")),
    "complex": (lambda s, t: (s + 0j).sum(), ("torch.complex128", "real")),
    "detached": (
        lambda s, t: forward(s.detach(), t.detach()),
        ("no gradient", "the graph is cut", ".detach()"),
    ),
    "through numpy": (
        lambda s, t: torch.tensor(s.detach().numpy().sum(), dtype=s.dtype),
        ("does depend on the student's logits", ".numpy()"),
    ),
    "constant": (lambda s, t: torch.zeros(()), ("everything in it is detached", "first argument")),
    "only the teacher": (
        lambda s, t: forward(s.detach(), t),
        ("reaches the teacher's only", "other way round"),
    ),
    "dropout": (dropout, ("twice on the same inputs", "dropout")),
    "own draws": (
        lambda s, t: (logs(s) - logs(t))[torch.multinomial(probs(s), 1)].sum(),
        ("take them as an argument",),
    ),
    "state": (keeping(), ("keeps something from call to call",)),
    "in place": (in_place, ("in place", ".clone()")),
    "raises": (
        lambda s, t: s[0, 1],
        ("s: the student's logits (3,)", "write audit(loss, batched=True)"),
    ),
    "one argument": (lambda s: s.sum(), ("loss(student_logits (V,), teacher_logits (V,), token)",)),
    "four arguments": (lambda s, t, k, mask: s.sum(), ("(s, t, k, mask)",)),
    "keyword without a default": (
        lambda s, t, *, beta: jsd(beta)(s, t),
        ("beta", "functools.partial"),
    ),
    "not callable": (3, ("loss is 3", "give a function")),
    "a backward of one's own": (
        lambda s, t: Unfinished.apply(s),
        ("its gradient raised KeyError",),
    ),
    "logits as probabilities": (
        lambda s, t: (s * (s.log() - t.log())).sum(),
        ("not finite at ordinary logits", "logits taken for probabilities"),
    ),
}


OF_TORCH = ("in place", "raises")  # with words of torch's own


@pytest.mark.parametrize("name", REFUSALS)
def test_refusal_says_what_to_change(name):
    loss, words = REFUSALS[name]
    torch.manual_seed(0)
    with pytest.raises(AuditError) as caught:
        audit(loss)
    for word in words:
        assert word in str(caught.value)
    if name not in OF_TORCH:
        check_text("audit_refusals.txt", name, str(caught.value))


def test_the_loss_s_own_error_is_chained():
    with pytest.raises(AuditError) as caught:
        audit(lambda s, t: s.no_such_method())
    assert isinstance(caught.value.__cause__, AttributeError) and "no_such_method" in str(
        caught.value
    )


def test_a_parameter_with_a_default_is_not_given_the_token():
    def loss(student, teacher, beta=0.3):
        return jsd(beta)(student, teacher)

    assert audit(loss).optimises == "JSD(β = 0.3)"
    assert (
        as_way(loss, TOKENS).count
        == as_way(F.kl_div, TOKENS).count
        == as_way(torch.nn.KLDivLoss(), TOKENS).count
        == 2
    )
    assert as_way(lambda s, t, token=None: 0, TOKENS).count == 3
    assert as_way(lambda s, t, tokens=None, mask=None: 0, TEXTS).count == 4
    assert as_way(lambda s, t, tokens=None, temperature=1: 0, TEXTS).count == 3


def test_drawn_from_is_one_of_two():
    with pytest.raises(ValueError, match="drawn_from is 'me'"):
        audit(forward, drawn_from="me")


def test_a_loss_that_keeps_too_many_tokens_is_told_so():
    with pytest.raises(AuditError, match="out of range.*keeps K tokens needs a small K here"):
        audit(lambda s, t: reverse(s[t.topk(32).indices], t[t.topk(32).indices]))


class Average:
    """A baseline averaged over calls."""

    baseline = 0.0

    def __call__(self, student, teacher, token):
        weight = ratio(student, teacher, token).detach()
        self.baseline, kept = 0.9 * self.baseline + 0.1 * float(weight), self.baseline
        return (weight - kept) * logs(student)[token]


REFUSED = {
    "running average": (Average(), "keep no state between calls"),
    "class": (torch.nn.KLDivLoss, "is the class KLDivLoss"),
    "mask third": (
        lambda s, t, mask: (reverse(s, t) * mask).sum(),
        "write audit_sequence(loss), which hands over masks",
    ),
    "NaN for one token": (
        lambda s, t, k: ratio(s, t, k) * (float("nan") if k == 1 else 1),
        "token 1",
    ),
    "NaN in the gradient alone": (
        lambda s, t: forward(s, t) + 0 * (s - s).abs().sqrt().sum(),
        "its gradient is [nan",
    ),
    "without gradients": (torch.no_grad()(lambda s, t: forward(s, t)), "torch.no_grad()"),
    "in inference mode": (torch.inference_mode()(lambda s, t: forward(s, t)), "the graph is cut"),
    "nothing": (lambda s, t: None, "returns None"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    loss, words = REFUSED[name]
    with pytest.raises(
        AuditError, match=words.replace("[", r"\[").replace("(", r"\(").replace(")", r"\)")
    ) as caught:
        audit(loss)
    check_text("audit_refusals.txt", name, str(caught.value))


def test_few_different_numbers_say_nothing_about_the_format():
    rows = np.eye(30)
    assert precision(rows) == "bfloat16"  # 30 numbers only
    assert precision(rows, -rows, rows) == "float64"
    assert precision(np.random.default_rng(0).normal(size=100).astype(np.float16)) == "float16"


class Warming:
    """Twice the weight after a hundred calls."""

    calls = 0

    def __call__(self, student, teacher):
        self.calls += 1
        return (1 + (self.calls > 100)) * kl(student, teacher).sum()


def test_state_is_looked_for_in_batches_of_more_than_one():
    """Standardized within its group, a batch of one gives NaN whatever the state."""
    calls = 0

    def loss(student, teacher, tokens):
        nonlocal calls
        calls += 1
        costs = kl(student, teacher).sum(-1)
        return (1 + (calls > 100)) * (costs / (1 + costs.std().detach())).sum()

    with pytest.raises(AuditError, match="keeps something from call to call"):
        audit_sequence(loss, batched=True)


def test_state_is_looked_for_after_the_last_call():
    """Also where close trees follow the ordinary ones: nothing is named on either."""
    count, changes_at = 0, None

    def loss(student, teacher):
        nonlocal count
        count += 1
        apart = student.log_softmax(-1) - teacher.log_softmax(-1)
        return (apart**2).sum() * (2 if count == changes_at else 1)

    audit_on_fewer(loss)
    count, changes_at = 0, count - 2  # the last two ask whether it wants logits
    with pytest.raises(AuditError, match="keeps something from call to call"):
        audit_on_fewer(loss)


@pytest.mark.parametrize(
    "loss, message",
    [
        (Warming(), "keeps something from call to call"),
        (
            lambda student, teacher, tokens: kl(student, teacher),
            r"shape \(3,\).*\.sum\(\) or \.mean\(\)",
        ),
        (lambda student, teacher, tokens: kl(student, teacher).sum().detach(), "the graph is cut"),
        (
            lambda student, teacher, tokens: kl(student, teacher)[tokens].sum() * torch.rand(()),
            "called (twice|again)",
        ),
        (
            lambda student, teacher, tokens, mask, weights: kl(student, teacher).sum(),
            r"tokens \(T,\)",
        ),
        (lambda student, teacher, tokens: kl(student, teacher)[:, 0].sum(), r"batched=True"),
        (
            lambda student, teacher, tokens: (to_go(kl(student, teacher)).sum()) / (tokens[0] - 1),
            "not finite at ordinary logits",
        ),
    ],
)
def test_refusals(loss, message):
    with pytest.raises(AuditError, match=message):
        audit_sequence(loss)


def test_bad_arguments():
    for arguments, message in (
        ({"drawn_from": "both"}, "drawn_from is 'both'"),
        ({"reward": 3}, "reward is 3"),
        ({"seed": -1}, "seed is -1"),
    ):
        with pytest.raises(ValueError, match=message):
            audit_sequence(IMMEDIATE, **arguments)
    with pytest.raises(AuditError, match="finite number"):
        audit_sequence(IMMEDIATE, reward=lambda tokens: float("nan"))


@pytest.mark.parametrize(
    "reward, length, last",
    [
        (lambda tokens: 0.0, 2, 2),
        (lambda tokens: float(5 in tokens), 2, 2),
        (len, 2, 2),
        (lambda tokens: float(2 in tokens), 4, 1),
        (lambda tokens: float(len(tokens) > 2 and 0 in tokens), 2, 2),
    ],
)
def test_a_reward_that_tells_no_texts_apart(reward, length, last):
    """At T = 4 the coefficients are fitted on texts of two tokens, at others of three."""
    texts = f"for all texts of {length} tokens from 0 to {last}"
    with pytest.raises(AuditError, match=f"reward gives .* {texts}"):
        audit_sequence(IMMEDIATE, reward=reward)


def test_an_assertion_without_words_is_told_by_its_type():
    """Labels of -100 and far logits are tried besides: a loss may refuse them."""

    def loss(student, teacher, tokens, mask):
        if (tokens < 0).any() or student.abs().max() > 8:
            raise AssertionError  # which pytest gives no words
        return (kl(student, teacher) * mask).sum()

    report = audit_sequence(loss)
    assert report.optimises == "sum of local reverse KLs while the two are close"
    said = " ".join(edge["finding"] for edge in report.edges)
    assert "the loss raised AssertionError: (no message)" in said
    assert "the label -100 in masked positions is not taken: (no message)" in said


def test_a_method_of_a_class_that_cannot_be_made():
    assert audit(Abstract.loss).optimises == "forward KL"


class Abstract(abc.ABC):
    @abc.abstractmethod
    def other(self): ...

    def loss(self, student, teacher):
        return forward(student, teacher)
