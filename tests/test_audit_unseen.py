"""The auditor against losses written to deceive it, with verdicts derived by hand beforehand."""

import functools
import json
import sys
import types
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from opd_toy.__main__ import main
from opd_toy.audit import AuditError, audit, audit_sequence
from opd_toy.audit.formats import precision
from opd_toy.audit.sequence import measure as sequence_level

NONE = "none of these"


pytestmark = pytest.mark.usefixtures("one_thread")


def logs(logits):
    return logits.log_softmax(-1)


def probs(logits):
    return logits.softmax(-1)


def forward(student, teacher):
    return (probs(teacher) * (logs(teacher) - logs(student))).sum()


def reverse(student, teacher):
    return (probs(student) * (logs(student) - logs(teacher))).sum()


def ratio(student, teacher, token):
    return (logs(student) - logs(teacher))[token]


def policy(weight):
    return lambda s, t, k: weight(s, t, k).detach() * logs(s)[k]


# --- one token -----------------------------------------------------------------------------


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


FACTOR = " × a factor that depends on the pair"
CLOSE = " while the two are close"
TOKEN = {
    # What hangs on the pair.
    "negative factor": (lambda s, t: -reverse(s, t).exp(), "−1 × reverse KL" + FACTOR),
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
        "reverse KL" + CLOSE,
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
    "low_var_kl": (low_var, "forward KL" + CLOSE),
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
        NONE,
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
    assert report.holds_everywhere == (verdict != NONE and " close" not in verdict)


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
        "whose third argument is a mask",
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
    ):
        audit(loss)


def test_few_different_numbers_say_nothing_about_the_format():
    rows = np.eye(30)
    assert precision(rows) == "bfloat16"  # 30 numbers only
    assert precision(rows, -rows, rows) == "float64"
    assert precision(np.random.default_rng(0).normal(size=100).astype(np.float16)) == "float16"


# --- sequences -----------------------------------------------------------------------------


def drawn(student, teacher, tokens):
    return (logs(z).gather(-1, tokens[..., None])[..., 0] for z in (student, teacher))


def kl(student, teacher):
    return (probs(student) * (logs(student) - logs(teacher))).sum(-1)


def to_go(costs, gamma=1.0):
    later = torch.arange(len(costs)) - torch.arange(len(costs))[:, None]
    return torch.where(later >= 0, gamma ** later.clamp(min=0).to(costs.dtype), 0.0) @ costs


def weighted(weights, dtype=torch.float64):
    def loss(student, teacher, tokens):
        log_p, log_q = drawn(student.to(dtype), teacher.to(dtype), tokens)
        return (weights((log_p - log_q).detach()) * log_p).sum()

    return loss


def with_token_2(student, teacher, tokens):
    return weighted(to_go)(student, teacher, tokens) * (2.0 if (tokens == 2).any() else 1.0)


def sequence_ratio(student, teacher, tokens):
    log_p, log_q = drawn(student, teacher, tokens)
    return (log_p - log_p.detach()).mean().exp() * (log_p - log_q).detach().sum()


def others_as_baseline(student, teacher, tokens):
    log_p, log_q = drawn(student, teacher, tokens)
    returns = (log_p - log_q).detach().sum(-1, keepdim=True)
    return ((returns - (returns.sum(0) - returns)) * log_p).sum()


SEQUENCE = {
    # Draws much longer than their mean.
    "baseline of 1e6": (weighted(lambda r: to_go(r) + 1e6), {}, "sequence reverse KL"),
    "baseline of 1e10": (weighted(lambda r: to_go(r) + 1e10), {}, NONE),
    "biased under a baseline": (
        weighted(lambda r: to_go(r, 0.999999) + 1e4),
        {},
        "reverse KL with a discounted return, γ = 0.999999",
    ),
    "small costs in float32": (weighted(lambda r: 1e-4 * to_go(r) + 100, torch.float32), {}, NONE),
    "baseline of 100 in float32": (
        weighted(lambda r: to_go(r) + 100, torch.float32),
        {},
        "sequence reverse KL",
    ),
    "discount of 0.9999 in float32": (
        weighted(lambda r: to_go(r, 0.9999), torch.float32),
        {},
        NONE,
    ),
    "a ten-millionth more": (
        weighted(lambda r: (1 + 1e-7) * to_go(r)),
        {},
        "1.0000001 × sequence reverse KL",
    ),
    "2e-8 of the squares": (weighted(lambda r: to_go(r) + 2e-8 * to_go(r) ** 2), {}, NONE),
    "exact in any format": (
        lambda p, q, k: (
            p.gather(-1, k[:, None]).sum() - 1.015625 * p.gather(-1, q.argmax(-1)[:, None]).sum()
        ),
        {},
        NONE,
    ),
    # What hangs on tokens, lengths and positions.
    "twice with token 2": (with_token_2, {}, NONE),
    "shorter return at T = 3": (
        weighted(lambda r: to_go(r, 0.5 if len(r) == 3 else 1.0)),
        {},
        NONE,
    ),
    "shorter return from T = 5 on": (
        weighted(lambda r: to_go(r, 0.5 if len(r) >= 5 else 1.0)),
        {},
        NONE,
    ),
    "labels shifted twice": (
        lambda p, q, k: weighted(lambda r: r)(p[:-1], q[:-1], k[1:]),
        {},
        NONE,
    ),
    "softmax over positions": (
        lambda p, q: (p.softmax(0) * (p.log_softmax(0) - q.log_softmax(0))).sum(),
        {},
        NONE,
    ),
    "the worst position": (lambda p, q: kl(p, q).max(), {}, NONE),
    "first position at 0.9": (
        weighted(lambda r: r * torch.where(torch.arange(len(r)) == 0, 0.9, 1.0)),
        {},
        "sum of local reverse KLs, weighted by position",
    ),
    "length-normalised ratio": (sequence_ratio, {}, "1/T × sequence reverse KL"),
    "batchmean over positions": (
        lambda p, q: F.kl_div(logs(p), logs(q), log_target=True, reduction="batchmean"),
        {},
        "1/T × sum of local forward KLs",
    ),
    "mean and a tenth": (
        lambda p, q, k: kl(p, q).mean() + 0.1 * weighted(to_go)(p, q, k),
        {},
        "1/T × sum of local reverse KLs + 0.1 × sequence reverse KL",
    ),
    "any arguments, passed to one of three": (
        lambda *inputs: weighted(to_go)(*inputs),
        {},
        "sequence reverse KL",
    ),
    # Masks, batches, the teacher's sequences.
    "mask after the mean": (
        lambda p, q, k, mask: (kl(p, q).mean() * mask).mean(),
        {},
        "1/T × sum of local reverse KLs where nothing is masked",
    ),
    "mask off by one": (
        lambda p, q, k, mask: (kl(p, q) * mask.roll(1)).sum() / mask.sum(),
        {},
        "1/T × sum of local reverse KLs where nothing is masked",
    ),
    "mask the other way round": (
        lambda p, q, k, mask: (kl(p, q) * ~mask).sum(),
        {},
        "zero where nothing is masked",
    ),
    "the others' mean as baseline": (
        others_as_baseline,
        {"batched": True},
        "2 × sequence reverse KL",
    ),
    "at the teacher's prefixes": (
        lambda p, q: kl(p, q).sum(),
        {"drawn_from": "teacher"},
        "sum of reverse KL at the teacher's prefixes",
    ),
}


# Fewer trees, for speed.
FEWER = {
    "fit": ((3, 2, 5), (3, 3, 3), (2, 4, 9)),
    "confirm": ((2, 3, 2),),
    "far": ((3, 2, 1),),
    "long": ((2, 6, 1),),
    "wide": (),
}


@pytest.mark.parametrize("name", SEQUENCE)
def test_sequence(name):
    loss, arguments, verdict = SEQUENCE[name]
    with mock.patch.object(sequence_level, "TREES", FEWER):
        report = audit_sequence(loss, **arguments)
    assert report.optimises == verdict
    named = [
        objective
        for objective in (
            "sequence reverse KL",
            "sum of local reverse KLs",
            "sum of local forward KLs",
        )
        if verdict.endswith(objective) and "+" not in verdict
    ]
    assert list(report.unbiased_for) == named


def test_how_far_apart_is_said():
    report = audit_sequence(weighted(lambda r: to_go(r.clamp(-20, 20))))
    assert (
        report.holds_everywhere
        and 10 < report.farthest < 20
        and f"|log p/q| up to {report.farthest:.2g}" in str(report)
    )


def test_a_mask_of_another_name_is_handed_over():
    def loss(student, teacher, tokens, response_mask=None):
        return (kl(student, teacher) * (1.0 if response_mask is None else response_mask)).sum()

    with mock.patch.object(sequence_level, "TREES", FEWER):
        assert audit_sequence(loss).mask == {
            "respected": True,
            "normalised_by": "nothing: a plain sum",
        }


def test_a_mask_in_the_tokens_place():
    with pytest.raises(AuditError, match="lambda student, teacher, tokens, mask"):
        audit_sequence(
            lambda student, teacher, mask: (kl(student, teacher) * mask).sum() / mask.sum()
        )


# --- the command -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, seed, words", [("ends", "0", "ended the program"), ("reverse", "-1", "--seed is -1")]
)
def test_no_verdict_is_no_success(monkeypatch, capsys, name, seed, words):
    found = types.ModuleType("losses_that_deceive")
    found.ends, found.reverse = lambda s, t: sys.exit(0), reverse
    monkeypatch.setitem(sys.modules, found.__name__, found)
    with pytest.raises(SystemExit) as ended:
        main(["audit", f"{found.__name__}:{name}", "--seed", seed])
    assert ended.value.code == 2 and words in capsys.readouterr().err


def test_zero_where_nothing_is_masked_is_no_success(monkeypatch):
    found = types.ModuleType("losses_masked")
    found.loss = SEQUENCE["mask the other way round"][0]
    monkeypatch.setitem(sys.modules, found.__name__, found)
    with mock.patch.object(sequence_level, "TREES", FEWER), pytest.raises(SystemExit) as ended:
        main(["audit", "losses_masked:loss", "--sequence"])
    assert ended.value.code == 1


def test_a_script_that_ends_where_it_is_imported(tmp_path, monkeypatch, capsys):
    (tmp_path / "ends_at_import.py").write_text("import sys\ndef loss(s, t): ...\nsys.exit(0)\n")
    monkeypatch.chdir(tmp_path)
    for name, words in (
        ("ends_at_import:loss", "__main__"),
        ("folder/not_there.py:loss", "perhaps folder.not_there:loss"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["audit", name])
        assert ended.value.code == 2 and words in capsys.readouterr().err


def test_what_a_loss_prints_is_no_part_of_the_json(monkeypatch, capsys):
    found = types.ModuleType("losses_that_print")
    found.loss = lambda s, t: print("loss", end="") or reverse(s, t)
    monkeypatch.setitem(sys.modules, found.__name__, found)
    with pytest.raises(SystemExit):
        main(["audit", "losses_that_print:loss", "--json"])
    assert json.loads(capsys.readouterr().out)["optimises"] == "reverse KL"
