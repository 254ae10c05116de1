"""The benchmark's cases: of each library the mean divergence and its gradient, as ours."""

import dataclasses

import pytest
import torch

from opd_toy.lm.bench import cases
from opd_toy.lm.bench.cases import Setting

LOGITS = Setting("logits", cases.FROM_LOGITS, tokens=10, vocabulary=300)
HIDDEN = dataclasses.replace(
    LOGITS, name="hidden", cases=("ours", "trl_chunked", "liger_4", "liger_1024"), width=8
)


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("setting", [LOGITS, HIDDEN], ids=lambda setting: setting.name)
def test_all_cases_have_one_value_and_one_gradient(setting, beta):
    setting = dataclasses.replace(setting, beta=beta)
    z, y = inputs = [each.double().requires_grad_() for each in cases.make_inputs(setting)][:2]
    if setting.width:
        inputs, [t, u] = [z, y], [each.double() for each in cases.make_inputs(setting)[2:]]
        z, y = z @ y.T, t @ u.T
    wanted = cases.textbook(z, y, beta).mean()
    gradients = torch.autograd.grad(wanted, inputs[: 2 if setting.width else 1])
    assert wanted > 0.05
    for case in setting.cases:
        loss = cases.loss_function(case, setting)
        _, value, found = cases.one_pass(loss, cases.make_inputs(setting))
        assert value == pytest.approx(wanted.item(), rel=1e-5), case
        for one, other in zip(found, gradients, strict=True):
            assert (one.view_as(other) - other).norm() < 1e-5 * other.norm(), case
