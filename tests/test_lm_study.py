"""Measures and study of the lab, held to enumeration of all texts of a small transformer."""

import argparse
import dataclasses
import itertools
import json
import math
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch

from opd_toy import sequences
from opd_toy.__main__ import main
from opd_toy.commands import study as study_command
from opd_toy.lm import measures, presets, training
from opd_toy.lm.methods import METHODS
from opd_toy.lm.model import Shape, Transformer, sample
from opd_toy.lm.presets import Distillation, Preset, Recipe
from opd_toy.lm.study import claims, claims_on_training, clearly, frozen
from opd_toy.lm.study import stages as study
from opd_toy.lm.study.workers import Workers
from opd_toy.lm.tasks import Sums
from opd_toy.records import provenance
from opd_toy.records.checkpoints import Stop

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.usefixtures("one_thread")

LATER = {
    gamma: torch.tensor([0.3, -1.0, 2.0]) * gamma for gamma in (0.5, 0.9, 1.0)
}  # any numbers keep the mean
V, T = 5, 3  # more tokens than top_k compares
START = 1  # the prompt: one token


class Spoken:
    """A task without a question: every text of ``length`` tokens is one; ``end`` ends it sooner."""

    prompt_length, pad, length = 1, 0, T

    def __init__(self, end=V):
        self.end = end  # V: a token that is never drawn

    def prompts(self, count, *key, split):
        return torch.full((count, 1), START)

    def all_texts(self):
        responses = list(itertools.product(range(V), repeat=T))
        if self.end < V:  # what follows the end is padding
            cut = lambda r: (
                r[: r.index(self.end) + 1] + (self.pad,) * (T - r.index(self.end) - 1)
                if self.end in r
                else r
            )
            responses = sorted({cut(r) for r in responses})
        return torch.tensor([[START, *r] for r in responses])


@pytest.fixture(scope="module")
def models():
    """A student and a teacher, float64, far from uniform and from each other."""
    pair = [Transformer(Shape(V, 8, 1, 2, T + 1), seed=seed).double() for seed in (1, 2)]
    with torch.no_grad():
        for model in pair:
            model.head.weight.mul_(1.7)
    return pair


def tree_logits(model):
    """The model's logits at every prefix, as a TokenTree takes them: [(V**t, V)]."""
    rows = []
    for t in range(T):
        prefixes = torch.tensor(
            [[START, *prefix] for prefix in itertools.product(range(V), repeat=t)]
        )
        rows.append(model(prefixes)[:, -1])
    return rows


@pytest.fixture(scope="module")
def trees(models):
    return [
        sequences.TokenTree([rows.detach().numpy() for rows in tree_logits(model)])
        for model in models
    ]


@pytest.fixture(scope="module")
def jacobian(models):
    """Of the student's tree logits in its parameters: (all prefixes x V, P)."""
    flat, parameters = (
        torch.cat([rows.flatten() for rows in tree_logits(models[0])]),
        list(models[0].parameters()),
    )
    rows = [
        torch.cat([g.flatten() for g in torch.autograd.grad(entry, parameters, retain_graph=True)])
        for entry in flat
    ]
    return torch.stack(rows).numpy()


def gradients_of_all_texts(models, task=None):
    task = task or Spoken()
    texts = task.all_texts()
    mask = measures.response_mask(texts, 1, task.end)
    with torch.no_grad():
        z, y = (measures.response_logits(model, texts, task) for model in models)
    words = texts[:, 1:].contiguous()
    signals = frozen.signals(z, y, words, mask, LATER, words[None])
    return torch.stack(
        list(frozen.text_gradients(models[0], task, texts, signals))
    ).numpy()  # (S, E, P)


# --- KL of texts -------------------------------------------------------------------------


def test_kl_of_texts_is_the_sequence_kl(models, trees):
    student, teacher = models
    for first, second, p, q in ((student, teacher, *trees), (teacher, student, *trees[::-1])):
        kls = measures.text_kls(first, second, Spoken(), Spoken().all_texts())
        assert kls.shape == (V**T, T)
        assert p.sequence_probabilities() @ kls.sum(1).numpy() == pytest.approx(
            sequences.sequence_kl(p, q), rel=1e-12
        )


def test_kl_of_texts_that_end_and_their_probabilities(models):
    student, teacher = models
    task = Spoken(end=2)
    texts = task.all_texts()
    log_p, log_q = (measures.text_log_probabilities(model, task, texts) for model in models)
    assert log_p.exp().sum() == pytest.approx(1, abs=1e-12) and len(texts) == 1 + 4 + 4**2 + 4**3
    kls = measures.text_kls(student, teacher, task, texts)
    assert (kls[0] > 0).all() and (kls[texts[:, 1] == 2].tolist()[0][1:]) == [
        0,
        0,
    ]  # 0 is a word as well as the padding
    assert (log_p.exp() * kls.sum(1)).sum() == pytest.approx(
        (log_p.exp() * (log_p - log_q)).sum().item(), rel=1e-12
    )


def test_barred_tokens_count_for_nothing():
    p, q = torch.tensor([0.0, 1.0, -math.inf]), torch.tensor([0.5, 0.0, -math.inf])
    kl = measures.position_kls(p, q)
    assert kl == pytest.approx(measures.position_kls(p[:2], q[:2]).item()) and kl > 0
    assert measures.position_kls(q[:2], torch.tensor([1.0, -math.inf])) == math.inf
    assert measures.position_kls(p + 1e-7, p) >= 0


# --- gradients of texts ------------------------------------------------------------------


def test_every_row_is_that_of_the_token_trees(models, trees, jacobian):
    table = gradients_of_all_texts(models)
    kl = sequences.token_kls(*trees)
    position_kl = tuple(np.array(rows) for rows in _kl_at_prefixes(trees))
    exact = {f"pg_{gamma:g}": sequences.reward_to_go(*trees, gamma) for gamma in (0, 0.5, 0.9, 1)}
    exact |= {
        "pg_baseline": sequences.reward_to_go(*trees, 0.0, baseline=position_kl),
        "gkd": sequences.reward_to_go(*trees, 0.0, signal="full_vocabulary"),
        "exact_costs": sequences.reward_to_go(*trees, 1.0, signal="full_vocabulary"),
    }
    for name, rows in exact.items():
        np.testing.assert_allclose(
            table[:, frozen.ESTIMATORS.index(name)],
            rows.dense() @ jacobian,
            atol=1e-12 * np.abs(table).max(),
            err_msg=name,
        )
    assert kl.shape == (V**T, T)


def _kl_at_prefixes(trees):
    p, q = trees
    return [(np.exp(a) * (a - b)).sum(1) for a, b in zip(p.log_probabilities, q.log_probabilities)]


def test_expectations_are_the_gradients_of_the_sequence_kl_and_of_gkd(models, trees, jacobian):
    student, teacher = models
    texts = Spoken().all_texts()
    log_p, log_q = (_differentiable_log_probabilities(model, texts) for model in models)
    exact = torch.autograd.grad((log_p.exp() * (log_p - log_q)).sum(), list(student.parameters()))
    exact = torch.cat([part.flatten() for part in exact]).numpy()
    mean = np.einsum("s,sep->ep", trees[0].sequence_probabilities(), gradients_of_all_texts(models))
    at = {name: mean[index] for index, name in enumerate(frozen.ESTIMATORS)}
    scale = np.abs(exact).max()
    for name in ("pg_1", "exact_costs", "exact_costs_centred"):
        np.testing.assert_allclose(at[name], exact, atol=1e-12 * scale)
    for gamma in (0.5, 0.9):
        np.testing.assert_allclose(
            at[f"centred_{gamma}"],
            sequences.reward_to_go(*trees, gamma).expectation() @ jacobian,
            atol=1e-12 * scale,
        )
        np.testing.assert_allclose(at[f"centred_{gamma}"], at[f"pg_{gamma}"], atol=1e-12 * scale)
    for name in ("gkd", "pg_0", "pg_baseline"):
        np.testing.assert_allclose(
            at[name], sequences.on_policy_gkd_gradient(*trees) @ jacobian, atol=1e-12 * scale
        )
        assert np.abs(at[name] - exact).max() > 0.01 * scale  # the future is missing


def _differentiable_log_probabilities(model, texts):
    logs = torch.log_softmax(model(texts[:, :-1]), -1)
    return logs.gather(-1, texts[:, 1:, None])[..., 0].sum(1)


def test_after_the_end_nothing_is_learned(models):
    table, task = gradients_of_all_texts(models, Spoken(end=2)), Spoken(end=2)
    log_p, log_q = (
        measures.text_log_probabilities(model, task, task.all_texts()) for model in models
    )
    mean = np.einsum("s,sep->ep", log_p.exp().numpy(), table)
    student, texts = models[0], task.all_texts()
    mask = measures.response_mask(texts, 1, 2)
    logs = [
        torch.log_softmax(model(texts[:, :-1]), -1)
        .gather(-1, texts[:, 1:, None])[..., 0]
        .masked_fill(~mask, 0.0)
        .sum(1)
        for model in models
    ]
    exact = torch.autograd.grad(
        (logs[0].exp() * (logs[0] - logs[1])).sum(), list(student.parameters())
    )
    exact = torch.cat([part.flatten() for part in exact]).numpy()
    for name in ("pg_1", "exact_costs", "exact_costs_centred"):
        np.testing.assert_allclose(
            mean[frozen.ESTIMATORS.index(name)], exact, atol=1e-12 * np.abs(exact).max()
        )


def test_later_kls_are_a_mean_over_the_texts_that_reach_a_position(models):
    """Also where one alone does, or none."""
    task = Spoken(end=2)
    for texts in ([[START, 2, 0, 0], [START, 1, 1, 2]], [[START, 2, 0, 0]]):
        texts = torch.tensor(texts)
        kls, mask = measures.text_kls(*models, task, texts), measures.response_mask(texts, 1, 2)
        for gamma, found in frozen._mean_later_kls(*models, task, texts).items():
            later = kls @ torch.tensor([[0.0] * 3, [gamma, 0, 0], [gamma**2, gamma, 0]]).to(kls)
            wanted = [float(later[here, t].mean()) if here.any() else 0.0
                      for t, here in enumerate(mask.T)]  # fmt: skip
            assert found.tolist() == pytest.approx(wanted, rel=1e-6)


# --- variances and inner products --------------------------------------------------------


def every_redraw(models):
    """Of each text, if its tokens were drawn anew, one by one, behind the same prefixes: the
    signals (E, redraws, T V), the parameters' gradients of its logits (T V, P), the chances."""
    texts = Spoken().all_texts()
    count, words = len(texts), texts[:, 1:]
    with torch.no_grad():
        z, y = (measures.response_logits(model, texts, Spoken()) for model in models)
    redrawn = words.repeat(count, 1)
    signals = frozen.signals(
        *(logits.repeat_interleave(count, 0) for logits in (z, y)),
        redrawn,
        torch.ones_like(redrawn, dtype=torch.bool),
        LATER,
        redrawn[None],
    )
    signals = signals.view(len(frozen.ESTIMATORS), count, count, T * V).transpose(0, 1)
    each_logit = torch.eye(T * V, dtype=torch.float64).view(T * V, 1, T, V)
    to_parameters = frozen.text_gradients(
        models[0], Spoken(), texts, each_logit.expand(-1, count, -1, -1)
    )
    logs = torch.log_softmax(z, -1)[:, None].expand(-1, count, -1, -1)
    logs = logs.gather(-1, words.expand(count, -1, -1)[..., None])[..., 0].sum(2)
    return signals.numpy(), (matrix.numpy() for matrix in to_parameters), logs.exp().numpy()


@pytest.fixture(scope="module")
def enumerated(models, trees):
    """Exact (products, covariance, token noise) of all estimators, by all texts and all redraws."""
    table, p = gradients_of_all_texts(models), trees[0].sequence_probabilities()
    mean = np.einsum("s,sep->ep", p, table)
    products = mean @ mean.T
    covariance = np.einsum("s,sep,sfp->ef", p, table, table, optimize=True) - products
    noise = 0.0
    for chance, signals, to_parameters, redrawn in zip(p, *every_redraw(models)):
        centred = signals - (redrawn @ signals)[:, None]
        squares = (centred @ (to_parameters @ to_parameters.T) * centred).sum(2)
        noise = noise + chance * squares @ redrawn
    return products, covariance, noise


@pytest.fixture(scope="module")
def found(models):
    return frozen.measured(*models, Spoken(), "test", count=250, blocks=25)


SAME = [
    index
    for index, name in enumerate(frozen.ESTIMATORS)
    if "centred" not in name and name != "pg_0_redrawn"
]  # those there are of one kind only


def test_measured_moments_are_the_enumerated_ones(found, enumerated):
    products, covariance, noise = enumerated
    measured = [frozen.jackknife(values) for values in frozen.replicates(found)]
    for (value, error), exact in zip(measured, (products, covariance, noise)):
        value, error, exact = (
            each[SAME] if exact.ndim == 1 else each[np.ix_(SAME, SAME)]
            for each in (value, error, exact)
        )
        assert (np.abs(value - exact) < 4 * error + 1e-12).all()
        assert (
            error < 0.6 * np.abs(exact) + 0.1 * np.abs(exact).max()
        ).all()  # else it would say little
    index = {name: number for number, name in enumerate(frozen.ESTIMATORS)}
    assert (
        measured[2][0][index["gkd"]] == 0 == pytest.approx(enumerated[2][index["gkd"]], abs=1e-20)
    )  # it never looks at the token drawn
    assert (
        measured[2][0][index["top_k"]] == 0
        and measured[2][0][index["pg_0"]] > 5 * measured[2][1][index["pg_0"]]
    )


def test_cosines_and_biases_are_those_of_the_enumerated_products(found, enumerated):
    products, covariance, _ = enumerated
    whole, local, squares = (
        frozen.ESTIMATORS.index("exact_costs_centred"),
        frozen.ESTIMATORS.index("gkd"),
        np.diag(products),
    )
    for reference in (whole, local):
        np.testing.assert_allclose(
            frozen.cosines(products[None], reference)[0],
            products[reference] / np.sqrt(squares * squares[reference]),
            rtol=1e-12,
        )
    np.testing.assert_allclose(
        frozen.relative_bias(products[None], whole)[0],
        (squares + squares[whole] - 2 * products[whole]) / squares[whole],
        rtol=1e-12,
    )
    table, (measured, measured_covariance, noise) = frozen.summary(found), frozen.replicates(found)
    means, errors = frozen.jackknife(measured)
    for name, mean in (
        ("pg_0_redrawn", "gkd"),
        ("centred_0.5", "pg_0.5"),
        ("centred_0.9", "pg_0.9"),
        ("exact_costs_centred", "pg_1"),
    ):  # with the exact mean of the other
        index, other = frozen.ESTIMATORS.index(name), frozen.ESTIMATORS.index(mean)
        exact = np.append(products[other, SAME], products[other, other])
        assert (
            np.abs(np.append(means[index, SAME], means[index, index]) - exact)
            < 4 * np.append(errors[index, SAME], errors[index, index])
        ).all(), name
    variance = dict(zip(frozen.ESTIMATORS, np.diag(measured_covariance[0])))
    assert (
        variance["gkd"] < variance["pg_0_redrawn"] < variance["pg_0"] / 3
        and variance["exact_costs_centred"] < variance["exact_costs"] < variance["pg_1"]
    )
    assert table["pg_0.5"]["ratio_to_pg_0"][0] == frozen.number(
        variance["pg_0.5"] / variance["pg_0"]
    )
    assert table["pg_1"]["bias_to_gkd"][0] == pytest.approx(
        table["pg_1"]["bias"][0] - table["gkd"]["bias"][0], abs=1e-3
    )
    for index, name in enumerate(frozen.ESTIMATORS):
        for column, value, reference in (
            index in SAME
            and (
                ("variance", covariance[index, index], 4),
                ("ratio_to_gkd", covariance[index, index] / covariance[local, local], 4),
            )
            or ()
        ):
            assert (
                abs(table[name][column][0] - value)
                < reference * table[name][column][1] + 1e-3 * value
            ), (name, column)
        assert table[name]["cosine_with_gkd"][0] == frozen.number(
            frozen.cosines(measured, local)[0, index]
        )
        assert table[name]["cosine_with_sequence_kl"][0] == frozen.number(
            frozen.cosines(measured, whole)[0, index]
        )
        assert table[name]["token_noise"][0] == frozen.number(noise[0, index]) and table[name][
            "bias"
        ][0] == frozen.number(frozen.relative_bias(measured, whole)[0, index])
    assert table["gkd"]["cosine_with_gkd"] == [1.0, pytest.approx(0, abs=1e-14)] and table[
        "exact_costs_centred"
    ]["bias"] == [0.0, 0.0]


def test_moments_of_vectors_with_a_known_mean_have_no_bias_and_honest_errors():
    random, mean = np.random.default_rng(0), np.array([[1.0, 0.0, 2.0], [0.5, 1.0, 0.0]])
    values, errors = [], []
    for _ in range(300):
        texts = mean + random.standard_normal((40, 2, 3)) * np.array([[2.0], [1.0]])
        blocks = [
            [(torch.tensor(text), torch.tensor([1.0, 2.0])) for text in part]
            for part in np.split(texts, 8)
        ]
        parts = [frozen.jackknife(each) for each in frozen.replicates(frozen.moments(blocks))]
        products, _, _ = frozen.replicates(frozen.moments(blocks))
        parts = [
            *parts[:2],
            frozen.jackknife(frozen.cosines(products, 1)[:, :1]),
            frozen.jackknife(frozen.relative_bias(products, 1)[:, :1]),
        ]
        (
            values.append(np.concatenate([part[0].ravel() for part in parts])),
            errors.append(np.concatenate([part[1].ravel() for part in parts])),
        )
    values, errors = np.array(values), np.array(errors)
    exact = np.array([*(mean @ mean.T).ravel(), 12.0, 0.0, 0.0, 3.0, 0.2, 4.2])
    linear = slice(0, 8)  # the others are ratios
    assert (
        np.abs(values.mean(0) - exact)[linear] < 4 * values.std(0)[linear] / math.sqrt(300)
    ).all()
    assert (np.abs(np.median(values, 0) - exact) < 0.35 * values.std(0)).all()
    ratio = np.sqrt((errors**2).mean(0)) / values.std(0)
    assert (ratio > 0.85).all() and (ratio < 1.3).all()


def test_the_jackknife_of_a_mean_is_its_standard_error():
    values = np.random.default_rng(3).standard_normal(7)
    left_out = (values.sum() - values) / 6
    value, error = frozen.jackknife([values.mean(), *left_out])
    assert value == values.mean()
    assert error == pytest.approx(values.std(ddof=1) / math.sqrt(7), rel=1e-12)


def test_moments_are_the_plain_sums_over_texts():
    """Covariance as numpy has it; products the mean over all pairs of different texts."""
    texts = torch.from_numpy(np.random.default_rng(1).standard_normal((7, 2, 3)))
    noise = torch.arange(14.0, dtype=torch.float64).view(7, 2)
    products, covariance, lost = frozen.replicates(
        frozen.moments(
            [zip(texts[:3], noise[:3]), zip(texts[3:5], noise[3:5]), zip(texts[5:], noise[5:])]
        )
    )
    for kept, at in ((range(7), 0), (range(3, 7), 1), ((0, 1, 2, 5, 6), 2)):
        kept = list(kept)
        part = texts[kept].numpy()
        trace = [
            [np.cov(part[:, e].T, part[:, f].T)[:3, 3:].trace() for f in (0, 1)] for e in (0, 1)
        ]
        np.testing.assert_allclose(covariance[at], trace, rtol=1e-12)
        pairs = [part[i] @ part[j].T for i in range(len(kept)) for j in range(len(kept)) if i != j]
        np.testing.assert_allclose(products[at], np.mean(pairs, 0), rtol=1e-12)
        np.testing.assert_allclose(lost[at], noise[kept].numpy().mean(0), rtol=1e-12)


def test_moments_do_not_depend_on_the_blocks_but_for_the_errors(models):
    fine, coarse = (
        frozen.replicates(
            frozen.measured(*models, Spoken(), "same", count=24, blocks=blocks, redraw=False)
        )
        for blocks in (24, 3)
    )
    for a, b in zip(fine[:2], coarse[:2]):
        same = [
            index for index, name in enumerate(frozen.ESTIMATORS) if name != "pg_0_redrawn"
        ]  # which is drawn block by block
        np.testing.assert_allclose(
            a[0][np.ix_(same, same)], b[0][np.ix_(same, same)], atol=1e-12 * np.abs(a[0]).max()
        )


def test_growth_takes_cut_texts(models, trees):
    by_length = {
        length: frozen.measured(
            *models, Spoken(), "growth", length, count=36, length=length, blocks=12, redraw=False
        )
        for length in (1, 3)
    }
    found = frozen.growth(by_length)
    assert found["lengths"] == [1, 3]
    for name in ("pg_0", "pg_1"):
        (first, a), (last, b) = found[name]["variance"]
        exponent, error = found[name]["exponents"][0]
        assert exponent == pytest.approx(math.log(last / first) / math.log(3), rel=1e-2)
        assert error == pytest.approx(math.hypot(a / first, b / last) / math.log(3), rel=1e-2)
    assert found["pg_0"]["variance"][0] == found["pg_1"]["variance"][0]  # one token has no future
    assert found["pg_1"]["over_pg_0"][0] == [1.0, 0.0] and found["pg_1"]["over_pg_0"][1][
        0
    ] == pytest.approx(found["pg_1"]["variance"][1][0] / found["pg_0"]["variance"][1][0], rel=1e-3)
    assert found["gkd"]["variance"][0][0] == pytest.approx(
        0, abs=1e-12
    )  # one prompt, no prefix: nothing is random


# --- modes, questions --------------------------------------------------------------------


def test_right_workings_are_all_orders_and_all_right():
    task = Sums(terms=3, digits=2)
    prompts = task.prompts(5, "test")
    workings = measures.right_workings(task, prompts)
    assert workings.shape == (5, 6, task.prompt_length + task.length)
    assert task.workings(workings.flatten(0, 1)).view(5, 6).tolist() == [list(range(6))] * 5
    assert (workings[:, :, : task.prompt_length] == prompts[:, None]).all()


def test_order_entropy_is_that_given_a_right_working():
    assert measures.order_entropy(torch.full((4, 6), 0.01).double()) == pytest.approx(math.log(6))
    two = torch.tensor(
        [[0.5, 0.5], [0.2, 0.0]]
    ).double()  # one prompt certain of its order, seldom right
    assert measures.order_entropy(two) == pytest.approx(math.log(2) * 1.0 / 1.2)
    assert measures.order_entropy(torch.zeros(2, 3).double()) is None
    rare = torch.tensor([[1e-300, 1e-300], [0.0, 0.0]], dtype=torch.float64)
    assert measures.order_entropy(rare) == pytest.approx(math.log(2))


@pytest.fixture(scope="module")
def preset():
    task = Sums(terms=2, digits=1)
    recipe = SimpleNamespace(shape=Shape(16, 16, 1, 2, task.prompt_length + task.length))
    return _Preset(task, recipe)


class _Preset(SimpleNamespace):
    def __init__(self, task, recipe):
        super().__init__(
            name="test",
            task=task,
            student=recipe,
            teacher=recipe,
            distillation=SimpleNamespace(evaluation_prompts=50),
        )

    __hash__ = object.__hash__


def test_evaluate_is_what_the_texts_say(preset):
    task = preset.task
    student, teacher = (Transformer(preset.student.shape, seed=seed) for seed in (1, 2))
    asked = measures.questions(teacher, preset)
    own = sample(student, asked.prompts, asked.numbers, task.end, task.pad)
    reverse, forward, lengths = [], [], []
    for text, answer in zip(own, asked.answers):
        for store, prefix_of, first, second in (
            (reverse, text, student, teacher),
            (forward, answer, teacher, student),
        ):
            total = 0.0
            for t in range(task.prompt_length, len(prefix_of)):
                log_p, log_q = (
                    torch.log_softmax(model(prefix_of[None, :t])[0, -1].double(), -1)
                    for model in (first, second)
                )
                total += (log_p.exp() * (log_p - log_q)).sum().item()
                if prefix_of[t] == task.end:
                    break
            store.append(total)
            if store is reverse:
                lengths.append(t + 1 - task.prompt_length)
    found = measures.evaluate(student, teacher, preset)
    assert found["sequence_kl"] == pytest.approx(np.mean(reverse), rel=1e-4)
    assert found["forward_sequence_kl"] == pytest.approx(np.mean(forward), rel=1e-4)
    assert found["length"] == pytest.approx(np.mean(lengths))
    assert found["accuracy"] == float(task.rewards(own).mean())
    chance = torch.stack(
        [
            measures.text_log_probabilities(student, task, workings).exp()
            for workings in asked.workings
        ]
    )
    assert found["right_working"] == pytest.approx(chance.sum(1).mean().item(), rel=1e-4)
    assert found["distinct"] == pytest.approx(
        (1 - (1 - chance) ** 16).sum(1).mean().item(), rel=1e-4
    )
    same = measures.evaluate(teacher, teacher, preset)
    assert same["sequence_kl"] == pytest.approx(0, abs=1e-9) and same[
        "forward_sequence_kl"
    ] == pytest.approx(0, abs=1e-9)


def test_answers_are_drawn_again_when_the_teacher_has_changed(preset):
    teacher = Transformer(preset.student.shape, seed=2)
    before = measures.questions(teacher, preset)
    assert measures.questions(teacher, preset) is before
    with torch.no_grad():
        teacher.head.weight.mul_(-1)
    assert (measures.questions(teacher, preset).answers != before.answers).any()


def test_as_many_prompts_asked_for_are_other_questions(preset):
    """A count that the caller gives has eight times as many workings, the preset's own too."""
    teacher, most = Transformer(preset.student.shape, seed=2), 600
    wide = _Preset(preset.task, preset.student)
    wide.distillation.evaluation_prompts = most
    counted, by_default = measures.questions(teacher, wide, most), measures.questions(teacher, wide)
    assert (
        len(counted.workings)
        == most
        > len(by_default.workings)
        == measures.MODE_TEXTS // len(preset.task.orders)
    )


def test_gain_is_that_of_right_workings_prompt_by_prompt(preset):
    student, teacher = (Transformer(preset.student.shape, seed=seed) for seed in (1, 2))
    own, others = (
        np.array(
            [
                measures.text_log_probabilities(model, preset.task, workings).exp().sum()
                for workings in measures.questions(teacher, preset, 40).workings
            ]
        )
        for model in (student, teacher)
    )
    value, error = measures.gain(student, teacher, preset, 40)
    assert len(own) == 40 and (value, error) == (
        pytest.approx((own - others).mean(), rel=1e-5),
        pytest.approx((own - others).std(ddof=1) / math.sqrt(40), rel=1e-5),
    )
    assert value == pytest.approx(
        measures.evaluate(student, teacher, preset, 40)["right_working"]
        - measures.evaluate(teacher, teacher, preset, 40)["right_working"],
        rel=1e-4,
    )


@pytest.mark.parametrize("count", [30, 2])  # of two texts one ends before the other
def test_exposure_is_the_mean_of_each_position(preset, count):
    task = preset.task
    student, teacher = (Transformer(preset.student.shape, seed=seed) for seed in (1, 2))
    rows = measures.exposure(student, teacher, preset, count)
    asked = measures.questions(teacher, preset, count)
    reached = []
    for name, texts in (
        ("own", sample(student, asked.prompts, asked.numbers, task.end, task.pad)),
        ("teacher", asked.answers),
    ):
        kls, mask = (
            measures.text_kls(student, teacher, task, texts),
            measures.response_mask(texts, task.prompt_length, task.end),
        )
        for t, (kl, error, texts_here) in enumerate(zip(*rows[name].values())):
            here = kls[mask[:, t], t]
            assert (kl, texts_here) == (pytest.approx(here.mean().item()), len(here))
            assert error == pytest.approx(here.std().item() / math.sqrt(len(here)))
        reached.append(mask.sum(0))
    assert count == 30 or any((each == 1).any() for each in reached)
    shown = min(int((each >= 2).sum()) for each in reached)
    assert {len(values) for kind in rows.values() for values in kind.values()} == {shown}


# --- the study ---------------------------------------------------------------------------

TASK = Sums(terms=2, digits=1)
MICRO_SHAPE = Shape(16, 16, 1, 2, TASK.prompt_length + TASK.length)
MICRO = Preset(
    "tiny",
    TASK,
    *(Recipe(MICRO_SHAPE, steps=3, batch=8, rate=1e-2, seed=seed) for seed in (0, 1)),
    Distillation(steps=4, batch=8, rate=1e-2, group=4, evaluate_every=2, evaluation_prompts=16),
    seeds=(1, 2),
)
EFFORT = study.Effort(prompts=24, texts=16, cut_texts=8, blocks=4, from_teacher=2)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    return folder, study.study(MICRO, folder, effort=EFFORT)


def without_seconds(results):
    results = json.loads(json.dumps(results))
    for runs in (
        *results["curves"].values(),
        *(found["curves"] for found in results["from_teacher"].get("methods", {}).values()),
    ):
        for run in runs:
            assert len(run.pop("seconds")) == len(run["steps"])
    return results


def test_the_record_holds_what_others_read(whole):
    results = whole[1]
    assert json.loads(json.dumps(results)) == results  # nothing but JSON, no NaN
    assert (
        "NaN" not in json.dumps(results)
        and results["clock"] == "processor seconds"
        and results["device"] == "cpu"
    )
    assert (
        list(results["curves"])
        == list(METHODS)
        == list(results["methods"])
        == list(results["memory"])
    )
    for name, runs in results["curves"].items():
        assert len(runs) == len(results["final"][name]) == 2
        for run in runs:
            assert (
                run["steps"] == [0, 2, 4]
                and run["tokens"][0] == run["seconds"][0] == 0
                and run["tokens"] == sorted(run["tokens"])
            )
            assert {
                measure: values[0] for measure, values in run.items() if measure in results["start"]
            } == results["start"]
    assert (
        results["teacher"]["sequence_kl"] == pytest.approx(0, abs=1e-9)
        and results["curves"]["gkd"][0] != results["curves"]["gkd"][1]
    )
    for name, rows in results["exposure"].items():
        assert (
            len(rows["own"])
            == len(rows["teacher"])
            == len(rows["positions"]["own"])
            == len(rows["errors"]["teacher"])
        )
        assert len(rows["per_token"]["own"]) == (1 if name == "start" else 2)
    assert list(results["frozen"]) == ["start", "gkd"] and results["frozen"]["gkd"]["texts"] == 16
    assert results["frozen"]["start"]["growth"]["lengths"][-1] == TASK.length
    rates = [row["rate"] for row in results["sweep"]["gkd"]]
    assert (
        rates == pytest.approx([1e-2 / 3, 1e-2, 3e-2], rel=1e-4)
        and len({row["sequence_kl"] for row in results["sweep"]["gkd"]}) == 3
    )
    beyond = results["from_teacher"]
    assert (beyond["steps"], beyond["rate"]) == (2, pytest.approx(1e-2 / 3)) and list(
        beyond["methods"]
    ) == ["opd_reward", "rlvr", "gkd"]
    for found in beyond["methods"].values():
        for run, end in zip(found["curves"], found["final"], strict=True):
            assert run["steps"] == [0, 1, 2] and run["sequence_kl"][0] == pytest.approx(
                0, abs=1e-9
            )  # it is the teacher
            assert len(end["gain"]) == 2 and end["length"] > 1
    for end in beyond["methods"]["gkd"]["final"]:  # has nothing to learn there
        assert {measure: end[measure] for measure in results["final"]["teacher"]} == results[
            "final"
        ]["teacher"] and end["gain"][0] == 0
    assert (
        results["sweep"]["gkd"][1]["sequence_kl"] == results["curves"]["gkd"][0]["sequence_kl"][-1]
    )
    assert [row["id"] for row in results["claims"]] == [
        row["id"] for row in claims.judge(results)
    ] and len(results["claims"]) == len(claims.RULES)
    assert {row["verdict"] for row in results["claims"]} <= {
        "seen",
        "seen under conditions",
        "not seen",
        "undecided",
    }


def test_exposure_weighs_a_token_as_a_token(whole):
    rows = whole[1]["exposure"]["gkd"]
    assert rows["per_token"]["own"][0] == pytest.approx(
        np.average(rows["own"], weights=rows["positions"]["own"]), rel=1e-4
    )


def test_what_is_finished_is_not_done_again(whole, monkeypatch):
    folder, before = whole
    for module, name in ((training, "step"), (frozen, "text_gradients"), (measures, "exposure")):
        monkeypatch.setattr(module, name, lambda *a, **o: pytest.fail("done again"))
    assert study.study(MICRO, folder, effort=EFFORT) == before


def test_other_settings_are_measured_anew(whole, tmp_path):
    folder, before = whole
    other = dataclasses.replace(EFFORT, prompts=12)
    after = study.study(MICRO, folder, methods=("gkd",), effort=other)
    assert (
        after["final"]["gkd"] != before["final"]["gkd"]
        and after["curves"]["gkd"] == before["curves"]["gkd"]
    )
    assert {row["id"] for row in after["claims"]} < {
        row["id"] for row in before["claims"]
    }  # those that need no other method


SCRIPT = """
import pickle, sys
from opd_toy.records.checkpoints import Stop
from opd_toy.lm.study.stages import study
if __name__ == "__main__":
    preset, effort, folder, workers = pickle.load(open(sys.argv[1], "rb"))
    watch = lambda stage: lambda done, total: print(stage, done, total, flush=True)
    with Stop():
        study(preset, folder, methods=("gkd", "pg_0"), effort=effort, workers=workers, watch=watch)
"""


@pytest.fixture
def two_threads():
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


class Threads:
    def count(self, number, *, report):
        return torch.get_num_threads()


def test_every_job_has_one_thread(whole, two_threads, monkeypatch):
    """Sums over more threads have another order, which no result may depend on."""
    with Workers(Threads(), 2) as pool:
        assert pool.each("count", [(1,), (2,)], 1, None) == {(1,): 1, (2,): 1}
    seen, evaluate = [], measures.evaluate
    counted = lambda *asked: seen.append(torch.get_num_threads()) or evaluate(*asked)
    monkeypatch.setattr(measures, "evaluate", counted)
    study.study(MICRO, whole[0], effort=EFFORT)
    assert set(seen) == {1} and torch.get_num_threads() == 2


def is_taker(process):
    """Whether it takes runs; in a whole run of the tests a browser's processes come and go too."""
    try:
        return "spawn_main" in " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return False


def test_killed_and_interrupted_it_goes_on_and_leaves_no_process(whole, tmp_path, two_threads):
    """Killed and interrupted in two processes, then finished here: as in one go in one process.

    Here PyTorch has two threads, and there one, which must not matter: bit for bit.
    """

    longer = dataclasses.replace(
        MICRO, distillation=dataclasses.replace(MICRO.distillation, steps=40, evaluate_every=20)
    )
    (tmp_path / "run.py").write_text(SCRIPT)
    (tmp_path / "asked").write_bytes(pickle.dumps((longer, EFFORT, tmp_path / "two", 2)))
    process = subprocess.Popen(
        [sys.executable, tmp_path / "run.py", tmp_path / "asked"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while (
        not (line := process.stdout.readline()).startswith("runs") or int(line.split()[1]) < 100
    ):  # two of four runs are done
        assert line or process.poll() is None, process.stderr.read()
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    assert len(children) >= 2 and not psutil.wait_procs(children, timeout=30)[1]

    def interrupt(stage):
        def report(done, total):
            if stage == "runs" and done >= 100:
                Stop.asked = signal.SIGINT

        return report

    with Stop(), pytest.raises(KeyboardInterrupt):
        study.study(
            longer,
            tmp_path / "two",
            methods=("gkd", "pg_0"),
            effort=EFFORT,
            workers=2,
            watch=interrupt,
        )
    assert not [child for child in psutil.Process().children(recursive=True) if is_taker(child)]
    assert len(list((tmp_path / "two").glob("*-steps-40.safetensors"))) >= 2
    after = study.study(longer, tmp_path / "two", methods=("gkd", "pg_0"), effort=EFFORT)
    one_go = study.study(longer, tmp_path / "one", methods=("gkd", "pg_0"), effort=EFFORT)
    assert without_seconds(after) == without_seconds(one_go)


def test_a_run_that_breaks_down_has_no_end(whole, tmp_path, monkeypatch):
    """Neither the start's measures nor those that an earlier study left stand for its end.

    What rests on them is undecided.
    """
    folder, distill = tmp_path / "study", training.distill
    shutil.copytree(whole[0], folder)

    def broken(method, preset, seed, *arguments, **options):
        if (method, seed) in (("gkd", 1), ("opd_reward", 2)):
            raise training.NotFinite(
                f"{method}, step 3: the gradient is not finite",
                {
                    "steps": [0, 2],
                    "tokens": [0, 9],
                    "seconds": [0.0, 0.1],
                    **dict.fromkeys(whole[1]["start"], [0.5, 0.6]),
                },
            )
        return distill(method, preset, seed, *arguments, **options)

    monkeypatch.setattr(training, "distill", broken)
    found, before = study.study(MICRO, folder, effort=EFFORT), whole[1]
    assert json.loads(json.dumps(found)) == found and found["curves"]["gkd"][0][
        "not_finite"
    ].startswith("gkd, step 3")
    for name, seed in (("gkd", 0), ("opd_reward", 1)):
        for ends, old in (
            (found["final"][name], before["final"][name]),
            *[[each["from_teacher"]["methods"][name]["final"] for each in (found, before)]],
        ):
            assert ends[seed] is None and ends[1 - seed] == old[1 - seed] is not None
    assert found["exposure"]["gkd"]["per_token"]["own"] == [
        None,
        before["exposure"]["gkd"]["per_token"]["own"][1],
    ]
    assert (
        all(row["sequence_kl"] is None for row in found["sweep"]["gkd"])
        and found["sweep"]["pg_0"] == before["sweep"]["pg_0"]
    )
    assert list(found["frozen"]) == ["start"]  # the student of the first seed is not there
    assert {
        verdict(found, name) for name in ("gkd-pg-summary", "jsd-endpoints", "reward-mixing")
    } == {"undecided"}
    rates = {row["id"]: row for row in found["claims"]}["rates"]
    assert rates["parts"]["γ = 0 behind GKD"] is None
    assert "gkd, seed 1, broke down and is in no mean: gkd, step 3" in study_command.report(
        found
    ) and "opd_reward from the teacher, seed 2, broke down" in study_command.report(found)


# --- claims ------------------------------------------------------------------------------


def test_clearly():
    assert clearly.clearly_above(np.array([1.0, 1.1, 0.9])) and not clearly.clearly_above(
        np.array([1.0, 1.1, -0.1])
    )
    assert not clearly.clearly_above(np.array([3.0, 0.1, 0.2])) and not clearly.clearly_above(
        np.array([1.0])
    )  # spread; one seed
    assert (
        clearly.greater((1.0, 0.1), (0.5, 0.1))
        and not clearly.greater((1.0, 0.1), (0.8, 0.1))
        and not clearly.greater((0.5, 0.1), (1.0, 0.1))
    )


def verdict(results, name):
    return {row["id"]: row for row in claims.judge(results)}[name]["verdict"]


@pytest.mark.parametrize(
    ("name", "methods", "measure", "sign"),
    [
        ("gkd-pg-summary", ("pg_0", "gkd"), "sequence_kl", 1),
        ("dense-versus-broadcast", ("pg_0", "rlvr"), "accuracy", 1),
        ("gamma-variance-experiment", ("pg_1", "pg_0"), "sequence_kl", 1),
        ("seqkd-is-forward-kl", ("sft", "seqkd"), "forward_sequence_kl", 1),
        ("who-samples", ("gkd", "off_policy_reverse_kl"), "accuracy", 1),
        ("mode-seeking-covering", ("seqkd", "off_policy_reverse_kl"), "distinct", 1),
        ("top-k", ("top_k", "gkd"), "accuracy", 1),
        ("rlvr-alone", ("rlvr", "gkd"), "accuracy", 1),
        ("reward-mixing", ("opd_reward", "pg_0"), "accuracy", 1),
    ],
)  # fmt: skip
def test_a_claim_on_trained_students_depends_on_who_is_ahead(whole, name, methods, measure, sign):
    """With the first method ahead the part is there; with the second, or mixed seeds, not."""
    ahead, level = {}, {}
    for case, leads in (
        ("first", (0.30, 0.32)),
        ("second", (-0.30, -0.32)),
        ("mixed", (0.3, -0.2)),
    ):
        results = json.loads(json.dumps(whole[1]))
        results["final"]["start"][measure] = results["final"]["teacher"][measure] = 0.4
        for each in METHODS:
            for seed, lead in enumerate(leads):
                value = 0.5 + (lead if each == methods[0] else 0)
                results["final"][each][seed][measure] = value
                results["curves"][each][seed][measure] = [0.5, value, value]
        row = {row["id"]: row for row in claims.judge(results)}[name]
        ahead[case], level[case] = sum(row["parts"].values()), row["verdict"]
    assert ahead["first"] > ahead["second"], level


def test_whether_the_jsd_ends_between_the_two_kls():
    def parts(reverse, jsd, forward):
        ends = {"gkd": reverse, "jsd": jsd, "on_policy_forward_kl": forward}
        record = SimpleNamespace(end=lambda name, measure: np.full(2, ends[name]))
        return set(claims_on_training.between.find(record)[0].values())

    assert parts(1.0, 1.5, 2.0) == parts(2.0, 1.5, 1.0) == {True}
    assert parts(1.0, 0.5, 2.0) == parts(1.0, 2.5, 2.0) == {False}
    assert parts(1.0, math.nan, 2.0) == {None}


def test_claims_on_gradients(whole):
    results = json.loads(json.dumps(whole[1]))
    for student in results["frozen"].values():
        for number, name in enumerate(frozen.ESTIMATORS):
            student["estimators"][name] |= {
                "variance": [1.0 + number, 0.1],
                "ratio_to_gkd": [1.0 + number, 0.1],
                "ratio_to_pg_0": [0.5 + number, 0.1],
                "cosine_with_gkd": [0.99, 0.01],
                "cosine_with_sequence_kl": [0.9, 0.01],
                "bias": [0.5, 0.01],
                "token_noise": [float(number > 1), 0.0],
            }
        for pair in student["log_ratios"]:
            student["log_ratios"][pair][-1] = [-0.5 if pair.startswith("exact") else 0.5, 0.1]
    holds = (
        "pg-zero-gamma-is-gkd",
        "pg-variance",
        "bias-variance",
        "baseline-does-not-always-help",
        "token-level-bias",
    )
    assert [verdict(results, name) for name in holds] == ["seen"] * 5
    one = results["frozen"]["gkd"]["estimators"]
    one["pg_0"]["ratio_to_gkd"], one["pg_0_redrawn"]["cosine_with_gkd"] = [0.7, 0.1], [0.9, 0.01]
    one["pg_baseline"]["ratio_to_pg_0"], one["gkd"]["cosine_with_sequence_kl"] = (
        [0.9, 0.1],
        [0.99, 0.1],
    )
    results["frozen"]["gkd"]["log_ratios"]["pg_1/pg_0.9"][-1] = [0.1, 0.1]
    assert [verdict(results, name) for name in holds] == ["seen under conditions"] * 3 + [
        "seen",
        "seen under conditions",
    ]  # of the baseline one counterexample will do
    assert verdict(results, "rao-blackwell-return") == "seen"
    results["frozen"]["start"] |= {
        "estimators": one,
        "log_ratios": results["frozen"]["gkd"]["log_ratios"],
    }
    assert [verdict(results, name) for name in holds] == ["not seen"] * 5
    for student in results["frozen"].values():
        (
            student["estimators"]["gkd"]["token_noise"],
            student["estimators"]["pg_0"]["ratio_to_gkd"],
        ) = [0.5, 0.1], [9.0, 0.1]
    assert verdict(results, "pg-variance") == "not seen"  # GKD must have none
    for student in results["frozen"].values():
        (
            student["estimators"]["pg_0_redrawn"]["cosine_with_gkd"],
            student["estimators"]["centred_0.9"]["bias_to_gkd"],
            student["estimators"]["gkd"]["bias"],
        ) = [1.05, 0.2], [-0.1, 0.3], [0.2, 0.01]
        student["log_ratios"]["exact_costs/pg_1"][-1] = [-0.1, 0.1]
    assert [
        verdict(results, name)
        for name in ("pg-zero-gamma-is-gkd", "bias-falls-with-gamma", "rao-blackwell-return")
    ] == ["undecided", "undecided", "not seen"]
    results = json.loads(json.dumps(results))  # the students no longer share a dict
    results["frozen"]["gkd"]["estimators"]["centred_0.9"]["bias_to_gkd"] = [-0.1, 0.01]
    assert verdict(results, "bias-falls-with-gamma") == "seen under conditions"


def made_up(**columns):
    """Two frozen students with these numbers, {estimator: {column: one pair a student}}."""
    return {
        student: {
            "estimators": {
                name: {column: list(pairs[at]) for column, pairs in row.items()}
                for name, row in columns.items()
            },
            "growth": {"lengths": [1, 8]},
        }
        for at, student in enumerate(("start", "gkd"))
    }


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (((-0.09, 0.02), (-0.05, 0.01)), "seen"),
        (((-0.09, 0.02), (-0.03, 0.02)), "seen under conditions"),
        # two errors are more than there is to lose
        (((-0.09, 0.02), (-0.09, 0.06)), "seen under conditions"),
        (((-0.03, 0.02), (0.09, 0.02)), "not seen"),
        (((0.09, 0.06), (-0.09, 0.06)), "undecided"),
    ],
)  # fmt: skip
def test_whether_the_bias_falls(changes, expected):
    twice = lambda *pair: (pair, pair)
    students = made_up(
        **{
            "gkd": {"bias": twice(0.11, 0.02)},
            "centred_0.5": {"bias": twice(0.1, 0.02)},
            "centred_0.9": {"bias": twice(0.02, 0.01), "bias_to_gkd": changes},
        }
    )
    assert verdict({"frozen": students}, "bias-falls-with-gamma") == expected


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [
        (((-0.5, 0.1), (-0.3, 0.1)), "seen"),
        (((-0.5, 0.1), (-0.1, 0.1)), "seen under conditions"),
        (((0.5, 0.1), (-0.1, 0.1)), "not seen"),
    ],
)  # fmt: skip
def test_whether_exact_costs_lower_the_variance(ratios, expected):
    students = made_up(
        pg_1={"variance": ((9.0, 1.0), (9.0, 1.0))},
        exact_costs={"variance": ((2.0, 1.0), (2.0, 1.0))},
    )
    for student, ratio in zip(students.values(), ratios):
        student["log_ratios"] = {
            "exact_costs/pg_1": [[-9.0, 0.1], list(ratio)]
        }  # of cut texts, then of whole ones
    assert verdict({"frozen": students}, "rao-blackwell-return") == expected


@pytest.mark.parametrize(
    ("gkd", "pg_0", "pg_1", "expected"),
    [
        ((1, 2, 3), (2, 3, 4), (5, 4, 5), "seen"),
        ((1, 2, 3), (2, 3, 4), (5, 3, 5), "seen under conditions"),  # level at one rate
        ((1, 2, 3), (2, 3, 2), (1, 4, 5), "not seen"),
        ((1, None, 3), (2, 3, 4), (5, 4, 5), "seen under conditions"),
        ((1, 2, 3), (2, 3, None), (5, 4, 5), "undecided"),
    ],
)  # fmt: skip
def test_whether_the_order_stays_at_every_rate(gkd, pg_0, pg_1, expected):
    rows = lambda values: [
        {"rate": rate, "sequence_kl": value} for rate, value in zip((1e-4, 3e-4, 9e-4), values)
    ]
    assert (
        verdict(
            {"frozen": {}, "sweep": {"gkd": rows(gkd), "pg_0": rows(pg_0), "pg_1": rows(pg_1)}},
            "rates",
        )
        == expected
    )


@pytest.mark.parametrize(
    ("gains", "of_prompts", "control", "ends", "expected"),
    [
        ((0.02, 0.021), 0.001, 0.0, (0.99, 0.995), "seen"),
        ((0.02, 0.021), 0.001, 0.0, (0.7, 0.71), "seen under conditions"),
        # another choice of prompts might undo it; without the reward it gains as well
        ((0.02, 0.021), 0.02, 0.0, (0.3, 0.31), "not seen"),
        ((0.02, 0.021), 0.001, 0.03, (0.3, 0.31), "not seen"),
        ((0.02, -0.021), 0.001, 0.0, (0.3, 0.31), "not seen"),
        ((0.02, None), 0.001, 0.0, (0.3, None), "undecided"),
    ],
)  # fmt: skip
def test_whether_the_reward_passes_the_teacher(gains, of_prompts, control, ends, expected):
    ended = lambda values: [
        None if value is None else {"gain": [value, of_prompts]} for value in values
    ]
    final = {
        "prompts": 10**4,
        "teacher": {"accuracy": 0.9},
        "opd_reward": [value and {"accuracy": value} for value in ends],
        "pg_0": [{"accuracy": 0.5}] * 2,
    }
    methods = {
        name: {"final": ended(values)}
        for name, values in {
            "opd_reward": gains,
            "gkd": (control, control),
            "rlvr": (0.05, 0.05),
        }.items()
    }
    results = {"frozen": {}, "final": final, "from_teacher": {"methods": methods}}
    assert verdict(results, "reward-mixing") == expected
    assert not [
        row for row in claims.judge(results | {"from_teacher": {}}) if row["id"] == "reward-mixing"
    ]


def test_growth_is_judged_on_the_same_texts_from_four_tokens_on(whole):
    results = json.loads(json.dumps(whole[1]))
    for student in results["frozen"].values():
        place = max(i for i, length in enumerate(student["growth"]["lengths"][:-1]) if length <= 4)
        student["log_ratios"]["pg_1/pg_0"] = [
            [0.0 if at < place else 0.2 if at == place else 0.8, 0.1]
            for at in range(len(student["growth"]["lengths"]))
        ]
    assert verdict(results, "variance-exponents") == "seen"
    for student in results["frozen"].values():
        student["log_ratios"]["pg_1/pg_0"][-1][0] = 0.3
    assert verdict(results, "variance-exponents") == "not seen"


def test_exposure_is_judged_within_one_divergence(whole):
    results = json.loads(json.dumps(whole[1]))
    rows = {
        "seqkd": (3.0, 1.0),
        "on_policy_forward_kl": (2.0, 1.0),
        "off_policy_reverse_kl": (2.0, 1.0),
        "gkd": (1.5, 1.0),
    }
    for name, (own, teacher) in rows.items():
        results["exposure"][name]["per_token"] = {
            "own": [own, own * 1.01],
            "teacher": [teacher, teacher],
        }
    assert verdict(results, "exposure-bias") == "seen"
    results["exposure"]["gkd"]["per_token"] = {
        "own": [2.5, 2.5],
        "teacher": [1.0, 1.0],
    }  # below SeqKD's, not below its own divergence's
    assert verdict(results, "exposure-bias") == "seen under conditions"
    for name in rows:
        results["exposure"][name]["per_token"] = {"own": [1.0, 1.0], "teacher": [2.0, 2.0]}
    assert verdict(results, "exposure-bias") == "not seen"


def test_log_ratio_of_variances_pairs_the_texts():
    """What the texts share, a scale of each block, leaves the ratio and its error alone."""
    draws = np.random.default_rng(5).normal(size=(8, 40, 3))
    shared = np.repeat(np.exp(np.random.default_rng(6).normal(size=(8, 1, 1))), 40, axis=1)
    gradients = torch.zeros(8, 40, len(frozen.ESTIMATORS), 3, dtype=torch.float64)
    gradients[:, :, frozen.ESTIMATORS.index("pg_0")] = torch.from_numpy(draws * shared)
    gradients[:, :, frozen.ESTIMATORS.index("pg_1")] = 3 * torch.from_numpy(draws * shared)
    found = frozen.moments(
        [[(text, torch.zeros(len(frozen.ESTIMATORS))) for text in block] for block in gradients]
    )
    value, error = study.log_ratio(found, "pg_1", "pg_0")
    assert value == pytest.approx(2 * math.log(3), rel=1e-3) and error < 1e-9


# --- the command -------------------------------------------------------------------------


@pytest.fixture
def micro(monkeypatch, whole):
    monkeypatch.setitem(presets.PRESETS, "tiny", MICRO)
    monkeypatch.setitem(presets.PRESETS, "cpu", dataclasses.replace(MICRO, name="cpu"))
    monkeypatch.setattr(study, "EFFORTS", {"tiny": EFFORT, "cpu": EFFORT})
    return str(whole[0])


def test_the_command_records_shows_and_prints(micro, tmp_path, capsys):
    main(["study", "--preset", "tiny", "--folder", micro, "--directory", str(tmp_path)])
    printed = capsys.readouterr()
    assert provenance.is_current(tmp_path / "lm-study-tiny.json") and "recorded in" in printed.err
    results = json.loads((tmp_path / "lm-study-tiny.json").read_text())["results"]
    for row in results["claims"]:
        assert f"{row['id']}: {row['verdict']}" in printed.out
    assert all(f"\n{name:>21}  " in printed.out for name in METHODS)
    main(["study", "--preset", "tiny", "--show", "--directory", str(tmp_path)])
    assert capsys.readouterr().out == printed.out
    main(["study", "--preset", "tiny", "--show", "--json", "--directory", str(tmp_path)])
    assert json.loads(capsys.readouterr().out) == results


def test_only_the_books_own_settings_take_the_records_place():
    where = lambda *asked: study_command._record(_parsed(*asked))
    assert where() == Path("figures/lm-study-cpu.json")
    for asked in (["--steps", "3"], ["--seeds", "1"], ["--methods", "gkd"], ["--preset", "tiny"]):
        assert where(*asked).parent == Path("_build/lm")


def _parsed(*asked):
    parser = argparse.ArgumentParser()
    study_command.add(parser.add_subparsers())
    return parser.parse_args(["study", *asked])


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["--preset", "huge"], "preset is 'huge'; give one of tiny, cpu, small-gpu, gpu"),
        (["--steps", "0"], "steps is 0; give a whole number (an int) of at least 1"),
        (["--seeds", "1,x"], "seeds is '1,x'; give whole numbers"),
        (["--seeds", "1,1"], "seeds is '1,1'; give different numbers"),
        (["--workers", "0"], "workers is 0; give a whole number (an int) of at least 1"),
        (["--methods", "dpo"], "method is 'dpo'; give one of sft"),
        (["--show", "--directory", "nowhere"], "which holds no lm-study-cpu.json"),
    ],
)  # fmt: skip
def test_what_is_asked_wrongly_is_told(micro, asked, message, capsys):
    with pytest.raises(SystemExit):
        main(["study", "--folder", micro, *asked])
    assert message in capsys.readouterr().err
