"""Losses and gradients against TRL's and Liger's own code, and against others' formulas.

Where those are right; and where they are not.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss
from trl.experimental.gkd import GKDTrainer
from trl.trainer.distillation_trainer import _chunked_divergence_loss

from opd_toy.lm.losses import distillation_loss, fused_linear_distillation_loss

BETAS = (0, 0.1, 0.5, 0.9, 1)
theirs = GKDTrainer.generalized_jsd_loss


def draw(*shapes, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes
    ]


def gradients(loss, *tensors):
    tensors = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    value = loss(*tensors)
    value.backward()
    return value.item(), [tensor.grad for tensor in tensors]


def same(ours, other, tolerance):
    assert ours[0] == pytest.approx(other[0], rel=tolerance)
    for one, two in zip(ours[1], other[1], strict=True):
        assert (one - two).norm() <= tolerance * two.norm()


# --- TRL ---------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [None, 23])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize(
    "dtype, tolerance", [(torch.float64, 1e-6), (torch.float32, 1e-5)], ids=str
)
def test_trl_from_logits(beta, temperature, count, dtype, tolerance):
    """With labels, as its trainer calls it."""
    z, y = draw((2, 7, 50), (2, 7, 50), dtype=dtype)
    labels = torch.tensor([[-100, -100, 3, 4, 5, 6, -100], [-100, 1, 2, 3, 4, 5, 6]])

    def ours(x):
        options = {"beta": beta, "temperature": temperature, "normalizer": count}
        return distillation_loss(x, y, "generalized_jsd", labels != -100, **options)

    def trl(x):
        return theirs(x, y, labels, beta, temperature, num_items_in_batch=count)

    same(gradients(ours, z), gradients(trl, z), tolerance)


def test_trl_without_labels_divides_by_texts():
    z, y = draw((2, 7, 50), (2, 7, 50))
    assert theirs(z, y).item() == pytest.approx(
        7 * distillation_loss(z, y, "generalized_jsd", beta=0.5).item(), rel=1e-6
    )


@pytest.mark.parametrize("beta", BETAS)
def test_trl_is_nan_on_a_masked_vocabulary(beta):
    z, y = draw((2, 3, 10), (2, 3, 10))
    z[..., 8:] = y[..., 8:] = -math.inf
    value, (gradient,) = gradients(lambda x: theirs(x, y, beta=beta), z)
    assert math.isnan(value)
    value, (gradient,) = gradients(
        lambda x: distillation_loss(x, y, "generalized_jsd", beta=beta), z
    )
    cut, (expected,) = gradients(
        lambda x: theirs(x, y[..., :8], beta=beta, num_items_in_batch=6), z[..., :8]
    )
    assert value == pytest.approx(cut, rel=1e-6)
    assert (gradient[..., :8] - expected).norm() <= 1e-6 * expected.norm() and (
        gradient[..., 8:] == 0
    ).all()


def test_trl_has_no_digits_left_near_convergence():
    z, noise = draw((4, 20000), (4, 20000))
    z, y = z.float()[None], (z + 2.8e-3 * noise).float()[None]
    exact = distillation_loss(z.double(), y.double()).item()
    assert abs(theirs(z, y, beta=1, num_items_in_batch=4).item() - exact) > 1e-2 * exact
    assert abs(distillation_loss(z, y).item() - exact) < 1e-3 * exact


@pytest.mark.parametrize("beta", BETAS)
def test_trl_from_hidden_states(beta):
    h, w, t, u = draw((1, 9, 8), (60, 8), (1, 9, 12), (60, 12), dtype=torch.float32)
    mask = torch.tensor([[1, 1, 0, 1, 1, 1, 0, 1, 1]])
    ours = gradients(
        lambda a, b: fused_linear_distillation_loss(a, b, t, u, "generalized_jsd", mask, beta=beta),
        h,
        w,
    )
    same(
        ours,
        gradients(lambda a, b: _chunked_divergence_loss(a, t, b, u, mask, float(beta))[0], h, w),
        1e-5,
    )


# --- Liger -------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", BETAS)
def test_liger_from_hidden_states(beta):
    h, w, t, u = draw((9, 8), (60, 8), (9, 12), (60, 12), dtype=torch.float32)
    target = torch.tensor([1, 2, -100, 4, 5, 6, -100, 8, 9])
    liger = LigerFusedLinearJSDLoss(
        weight_hard_loss=0.0,
        weight_soft_loss=1.0,
        beta=beta,
        compiled=False,
        chunk_size=4,
        temperature=2.0,
    )
    ours = gradients(
        lambda a, b: fused_linear_distillation_loss(
            a, b, t, u, "generalized_jsd", target != -100, beta=beta, temperature=2.0
        ),
        h,
        w,
    )
    same(ours, gradients(lambda a, b: liger(a, b, t, u, target), h, w), 1e-5)


def test_liger_adds_half_a_cross_entropy_unless_told_not_to():
    h, w = draw((9, 8), (60, 8), dtype=torch.float32)
    target = torch.arange(9)
    value = LigerFusedLinearJSDLoss(compiled=False)(h, w, h, w, target).item()
    assert value == pytest.approx(0.5 * F.cross_entropy(h @ w.T, target).item(), rel=1e-5)
    assert fused_linear_distillation_loss(
        h, w, h, w, "generalized_jsd", beta=0.5
    ).item() == pytest.approx(0, abs=1e-9)


# --- written by us from the formulas of others -------------------------------------------


def ms_swift(z, y, labels, beta):
    """ms-swift's GKD: the mixture in log space, and the mean of the KLs to it over valid tokens."""
    mask = labels != -100
    log_p, log_q = z[mask].log_softmax(-1), y[mask].log_softmax(-1)
    if beta in (0, 1):
        first, second = (log_q, log_p) if beta == 0 else (log_p, log_q)
        return (first.exp() * (first - second)).sum() / mask.sum()
    mixture = torch.logsumexp(torch.stack([log_p + math.log(1 - beta), log_q + math.log(beta)]), 0)
    kl = lambda a: (a.exp() * (a - mixture)).sum()
    return (beta * kl(log_q) + (1 - beta) * kl(log_p)) / mask.sum()


@pytest.mark.parametrize("beta", BETAS)
def test_ms_swift(beta):
    z, y = draw((2, 4, 30), (2, 4, 30))
    labels = torch.tensor([[-100, 1, 2, 3], [1, 2, -100, -100]])
    ours = gradients(
        lambda x: distillation_loss(x, y, "generalized_jsd", labels != -100, beta=beta), z
    )
    same(ours, gradients(lambda x: ms_swift(x, y, labels, beta), z), 1e-10)


def distillm(z, y, which, lam):
    """DistiLLM (arXiv 2402.03898), from probabilities.

    KL(q || lam q + (1 - lam) p), KL(p || lam p + (1 - lam) q), and a JS with (1 - lam) in the
    place of beta.
    """
    p, q = z.softmax(-1), y.softmax(-1)
    kl = lambda a, b: (a * (a / b).log()).sum(-1)
    if which == "js":
        mixture = lam * p + (1 - lam) * q
        return (lam * kl(p, mixture) + (1 - lam) * kl(q, mixture)).mean()
    first, second = (q, p) if which == "skewed_forward_kl" else (p, q)
    return kl(first, lam * first + (1 - lam) * second).mean()


@pytest.mark.parametrize("lam", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("name", ["skewed_forward_kl", "skewed_reverse_kl", "js"])
def test_distillm(name, lam):
    z, y = draw((2, 4, 30), (2, 4, 30))

    def ours(x):
        if name == "js":
            return distillation_loss(x, y, "generalized_jsd", beta=1 - lam)
        return distillation_loss(x, y, name, skew=lam)

    same(gradients(ours, z), gradients(lambda x: distillm(x, y, name, lam), z), 1e-10)


def test_a_cross_entropy_is_no_divergence():
    """torchtune's and DistiLLM's "forward KL": its gradient, and its value plus H(teacher)."""
    z, y = draw((2, 4, 30), (2, 4, 30))
    cross = gradients(lambda x: -(y.softmax(-1) * x.log_softmax(-1)).sum(-1).mean(), z)
    ours = gradients(lambda x: distillation_loss(x, y, "forward_kl"), z)
    same((0.0, ours[1]), (0.0, cross[1]), 1e-10)
    entropy = -(y.softmax(-1) * y.log_softmax(-1)).sum(-1).mean().item()
    assert cross[0] - ours[0] == pytest.approx(entropy, rel=1e-10) and entropy > 1
