"""The auditor against losses written to deceive it, verdicts derived by hand beforehand."""

import functools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from opd_toy.audit import audit
from tests.audit_losses import (
    CLOSE,
    DIFFERS,
    NONE,
    forward,
    holds_everywhere,
    logs,
    probs,
    ratio,
    reverse,
)

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("error::RuntimeWarning", "error::UserWarning"),
]


def policy(weight):
    return lambda s, t, k: weight(s, t, k).detach() * logs(s)[k]


class Backward(torch.autograd.Function):
    """The reverse KL's value with a gradient of one's own."""

    @staticmethod
    def forward(context, student, teacher, gradient):
        context.save_for_backward(student, teacher)
        context.gradient = gradient
        return reverse(student, teacher)

    @staticmethod
    def backward(context, above):
        return above * context.gradient(*context.saved_tensors), None, None


class OfTwo(torch.nn.Module):
    def forward(self, student, teacher):
        return reverse(student, teacher)


def straight_through(student, teacher, detach=False):
    hard = F.one_hot(student.argmax(), len(student)) - probs(student).detach() + probs(student)
    costs = logs(student) - logs(teacher)
    return (hard * (costs.detach() if detach else costs)).sum()


def likely_enough(student, teacher):
    """min-p: tokens below a tenth of the likeliest are dropped, the two close or not."""
    dropped = probs(teacher) < 0.1 * probs(teacher).max()
    return reverse(student.masked_fill(dropped, -1e9), teacher.masked_fill(dropped, -1e9))


def k3_with_k2s_gradient(student, teacher, token):
    difference = -ratio(student, teacher, token)
    k2, k3 = difference**2 / 2, difference.exp() - 1 - difference
    return k2 - k2.detach() + k3.detach()


def low_var(student, teacher, token):
    difference = (-ratio(student, teacher, token)).clamp(-20, 20)
    return (difference.exp() - difference - 1).clamp(-10, 10)


def mixture_detached(student, teacher):
    """The mixture is stationary: its gradient, sum over tokens of its change, is 0."""
    mixture = ((probs(student) + probs(teacher)) / 2).log().detach()
    return (
        (probs(teacher) * (logs(teacher) - mixture)).sum()
        + (probs(student) * (logs(student) - mixture)).sum()
    ) / 2


def noise_of_the_token(student, teacher, token):
    torch.manual_seed(int(token))
    return (ratio(student, teacher, token) + 1e-3 * torch.randn(())).detach() * logs(student)[token]


def dropout_of_one_seed(student, teacher):
    torch.manual_seed(0)
    return reverse(F.dropout(student, 0.1), teacher)


def with_beta(student, teacher, beta=0.3):
    mixture = torch.logaddexp(logs(student) + np.log(1 - beta), logs(teacher) + np.log(beta))
    return (
        beta * F.kl_div(mixture, logs(teacher), reduction="none", log_target=True)
        + (1 - beta) * F.kl_div(mixture, logs(student), reduction="none", log_target=True)
    ).sum()


def with_mask(student, teacher, mask=None):
    return reverse(student, teacher) * (1 if mask is None else mask)


TOKEN = {
    # What hangs on the pair.
    "negative factor": (lambda s, t: -reverse(s, t).exp(), "−1 × reverse KL" + DIFFERS),
    "logarithm": (lambda s, t: reverse(s, t).log(), "1/KL(p‖q) × reverse KL"),
    "forward where the likeliest tokens differ": (
        lambda s, t: reverse(s, t) if s.argmax() == t.argmax() else forward(s, t),
        NONE,
    ),
    "min-p": (likely_enough, NONE),
    "margin of 0.005": (
        lambda s, t: (reverse(s, t) - 0.005).clamp(min=0),
        "reverse KL until they are close",
    ),
    "margin of 0.0001": (
        lambda s, t: (reverse(s, t) - 1e-4).clamp(min=0),
        "reverse KL until they are close",
    ),
    "forward beyond V = 10": (lambda s, t: reverse(s, t) if len(s) <= 10 else forward(s, t), NONE),
    "forward where the KL is above 5": (
        lambda s, t: reverse(s, t) if reverse(s, t) < 5 else forward(s, t),
        "reverse KL" + CLOSE,
    ),
    "the teacher's likeliest token at 0.9": (
        policy(lambda s, t, k: ratio(s, t, k) * (0.9 if k == t.argmax() else 1.0)),
        NONE,
    ),
    "token 0 ignored": (policy(lambda s, t, k: ratio(s, t, k) * (k != 0)), NONE),
    "tokens above 100": (policy(lambda s, t, k: ratio(s, t, k) * (1.5 if k > 100 else 1)), NONE),
    "teacher's top 2 tokens alone": (
        policy(lambda s, t, k: ratio(s, t, k) * (k in t.topk(2).indices)),
        NONE,
    ),
    "teacher at least 1e-8": (
        lambda s, t: (probs(s) * (logs(s) - probs(t).clamp(min=1e-8).log())).sum(),
        "reverse KL where q ≥ 1e-08",
    ),
    "1e-20 in the logs": (
        lambda s, t: (probs(s) * ((probs(s) + 1e-20).log() - (probs(t) + 1e-20).log())).sum(),
        "reverse KL" + CLOSE,
    ),
    # How small a bias is seen.
    "scale, 2e-9": (lambda s, t: (1 + 2e-9) * reverse(s, t), "1.000000002 × reverse KL"),
    "direction, 1e-8": (lambda s, t: reverse(s, t) + 1e-8 * s.sin().sum(), NONE),
    "direction, 1e-5": (policy(lambda s, t, k: ratio(s, t, k) + 1e-5 * probs(s)[k] ** 2), NONE),
    "scale in float32, 1e-4": (
        lambda s, t: 1.0001 * reverse(s.float(), t.float()),
        "1.0001 × reverse KL",
    ),
    "direction in float32, 1e-4": (
        lambda s, t: reverse(s.float(), t.float()) + 5e-4 * s.float().sin().sum(),
        NONE,
    ),
    "a constant a million times as large": (
        lambda s, t: reverse(s, t) + 1e6 + 1e-6 * s.sin().sum(),
        NONE,
    ),
    # Numbers that are exact in any format.
    "logit less the likeliest's": (
        lambda s, t, k: s[k] - s[t.argmax()],
        "cross-entropy with the teacher's likeliest token",
    ),
    "logit less the likeliest's, 1/64 more": (
        lambda s, t, k: s[k] - 1.015625 * s[t.argmax()],
        NONE,
    ),
    "logit": (lambda s, t, k: s[k], NONE),
    # Graphs.
    "straight through": (straight_through, NONE),
    "straight through, costs detached": (
        functools.partial(straight_through, detach=True),
        "reverse KL",
    ),
    "k3's value, k2's gradient": (k3_with_k2s_gradient, "reverse KL"),
    "low_var_kl": (low_var, "forward KL where log p/q ≤ 11 and log q/p ≤ 2.61"),
    "backward of the forward KL": (
        lambda s, t: Backward.apply(s, t, lambda s, t: probs(s) - probs(t)),
        "forward KL",
    ),
    "backward that forgets the mean": (
        lambda s, t: Backward.apply(s, t, lambda s, t: probs(s) * (logs(s) - logs(t))),
        NONE,
    ),
    "mixture detached": (mixture_detached, "JSD(β = 0.5)"),
    "corrected to the teacher's tokens": (
        lambda s, t, k: -(-ratio(s, t, k)).exp().detach() * logs(s)[k],
        "forward KL",
    ),
    "corrected, at most 2": (
        lambda s, t, k: -(-ratio(s, t, k)).exp().clamp(max=2).detach() * logs(s)[k],
        "forward KL where log q/p ≤ 0.693",
    ),
    "k1 beside the KL": (lambda s, t, k: reverse(s, t) + ratio(s, t, k), "reverse KL"),
    # Noise that is always the same.
    "dropout of one seed": (dropout_of_one_seed, NONE),
    "noise of the token": (noise_of_the_token, NONE),
    # Formats.
    "teacher kept in bfloat16": (lambda s, t: reverse(s, t.bfloat16().double()), "reverse KL"),
    "JSD in bfloat16": (lambda s, t: with_beta(s.bfloat16(), t.bfloat16(), 0.5), NONE),
    "k1 in float32": (lambda s, t, k: ratio(s.float(), t.float(), k), "zero"),
    # Ways to be called.
    "partial": (functools.partial(with_beta, beta=0.1), "JSD(β = 0.1)"),
    "module": (OfTwo(), "reverse KL"),
    "any arguments, passed to one of two": (lambda *inputs: forward(*inputs), "forward KL"),
    "keywords": (lambda s, t, **keywords: forward(s, t), "forward KL"),
    "a mask of one's own": (with_mask, "reverse KL"),
    "integer token": (
        lambda s, t, k: ratio(s, t, int(k)).detach() * logs(s)[k.int()],
        "reverse KL",
    ),
    "shape (1,)": (lambda s, t: forward(s, t)[None], "forward KL"),
}


@pytest.mark.parametrize("name", TOKEN)
def test_one_token(name):
    loss, verdict = TOKEN[name]
    report = audit(loss)
    assert report.optimises == verdict
    assert report.holds_everywhere == holds_everywhere(verdict)
