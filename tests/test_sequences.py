"""Token trees: gradients against autograd, tables against enumeration, claims of chapter 6."""

import numpy as np
import pytest
import torch

from opd_toy import estimators
from opd_toy.sequences import (
    SIGNALS,
    TokenTree,
    decomposition,
    full_return,
    on_policy_gkd_gradient,
    reward_to_go,
    reward_to_go_table,
    sequence_kl,
    sequence_kl_gradient,
)

SIZES = [(2, 2), (2, 5), (3, 3), (4, 4), (5, 3), (1, 3), (4, 1)]
TREES = [(TokenTree.random(v, t, 10 * v + t, 1.5), TokenTree.random(v, t, 1000 + 10 * v + t, 1.5)) for v, t in SIZES]
BASELINES = (None, 0.7, "value", "optimal")
every_tree = pytest.mark.parametrize("student, teacher", TREES, ids=[f"V={v},T={t}" for v, t in SIZES])


def same(actual, expected, scale=1.0):
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12 * scale)


def enumerated(student, teacher, logits=None):
    """Sequence KL as a torch scalar, and the logits it can be differentiated in."""
    logits = [torch.tensor(z, requires_grad=True) for z in (logits or student.logits)]
    log_p = log_q = torch.zeros(1, dtype=torch.float64)
    for z, w in zip(logits, teacher.logits):
        log_p = (log_p[:, None] + torch.log_softmax(z, -1)).reshape(-1)
        log_q = (log_q[:, None] + torch.log_softmax(torch.tensor(w), -1)).reshape(-1)
    return (log_p.exp() * (log_p - log_q)).sum(), logits


@every_tree
def test_gradient_is_that_of_the_enumerated_objective(student, teacher):
    value, logits = enumerated(student, teacher)
    gradient = np.concatenate([g.numpy().reshape(-1) for g in torch.autograd.grad(value, logits)])
    same(sequence_kl(student, teacher), value.item())
    same(sequence_kl_gradient(student, teacher), gradient)
    same(sum(decomposition(student, teacher)), gradient)


@every_tree
@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize("baseline", BASELINES)
def test_reward_to_go(student, teacher, signal, baseline):
    exact, immediate = sequence_kl_gradient(student, teacher), on_policy_gkd_gradient(student, teacher)
    for table, goal in (
        (reward_to_go(student, teacher, 1.0, signal, baseline), exact),
        (reward_to_go(student, teacher, 0.0, signal, baseline), immediate),
        (full_return(student, teacher, signal, baseline), exact),
    ):
        same(table.expectation(), goal)
        same(table.total_variance(), estimators.total_variance(table.probabilities, table.dense()))
        same(table.expectation(), estimators.expectation(table.probabilities, table.dense()))
    probabilities, dense = reward_to_go_table(student, teacher, 1.0, signal, baseline)
    same(probabilities @ dense, exact)
