"""The lab's models beside transformers' Llama with their weights: one function, one gradient."""

import copy

import pytest
import torch

from opd_toy.lm.bench import hugging_face as plain
from opd_toy.lm.bench import training as benchmark
from opd_toy.lm.model import Transformer, sample
from opd_toy.lm.presets import PRESETS
from opd_toy.lm.training import count_weights

CPU = PRESETS["cpu"]
ROUNDING = 2e-5  # relative, of float32 through two blocks


@pytest.fixture(scope="module")
def pair():
    """Student and teacher of the preset, with norms that are not 1."""
    made = []
    for seed, recipe in enumerate((CPU.student, CPU.teacher)):
        model = Transformer(recipe.shape, seed)
        draw = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight in model.parameters():
                if weight.ndim == 1:
                    weight.add_(0.3 * torch.randn(weight.shape, generator=draw))
        made.append(model)
    return made


@pytest.fixture(scope="module")
def texts(pair):
    return benchmark.given_texts(benchmark.lab(*pair, CPU), CPU.task)


def off(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


def test_the_logits_are_the_same(pair, texts):
    for model in pair:
        made = plain.llama(model)
        assert count_weights(made) == count_weights(model) == model.shape.parameters
        with torch.no_grad():
            expected = benchmark.lab(model, model, CPU).logits(model, texts[0])
            found = plain.response_logits(made, texts[0], CPU.task)
        assert found.shape == expected.shape and off(found, expected) < ROUNDING
        made.model.layers[1].self_attn.q_proj.weight.data.mul_(1.01)
        with torch.no_grad():
            assert off(plain.response_logits(made, texts[0], CPU.task), expected) > 10 * ROUNDING


def test_the_step_is_the_same(pair, texts):
    """One step of each: loss, gradient of every weight, and the weights after AdamW."""
    student, teacher = copy.deepcopy(pair)
    sides = [side(student, teacher, CPU) for side in (benchmark.lab, benchmark.hugging_face)]
    losses, optimizers = [], []
    for side in sides:
        z = side.logits(side.student, texts[0])
        with torch.no_grad():
            y = side.logits(side.teacher, texts[0])
        losses.append(side.loss(z, y, *texts))
        losses[-1].backward()
        optimizers.append(benchmark.adamw(side, CPU))
    assert losses[1].item() == pytest.approx(losses[0].item(), rel=1e-5) and losses[0] > 0.01
    gradient = copy.deepcopy(student)
    for weight, learned in zip(gradient.parameters(), student.parameters()):
        weight.data = learned.grad
    expected, llama = plain.weights(gradient), sides[1].student
    for name, weight in llama.named_parameters():
        assert off(weight.grad, expected[name]) < 1e-3, name
    for optimizer in optimizers:
        optimizer.step()
    moved = plain.weights(student)
    for name, weight in llama.named_parameters():
        assert off(weight, moved[name]) < 1e-4, name


def test_the_likeliest_text_is_the_same(pair):
    """By ``generate`` with its cache, and by ``sample`` with its own, at next to no temperature."""
    task = CPU.task
    prompts = task.prompts(32, *benchmark.KEY)
    middle = torch.full((32, task.length), 0.5, dtype=torch.float64)
    for model in pair:
        ours = sample(model, prompts, middle, task.end, task.pad, temperature=1e-6)
        found = plain.write(plain.llama(model), prompts, task, do_sample=False)
        assert torch.equal(found, ours[:, : found.shape[1]])
        assert (ours[:, found.shape[1] :] == task.pad).all()


def test_generate_draws_from_the_same_distribution(pair):
    """First tokens of one prompt, 4096 draws: each token's share within five standard errors."""
    student, task = pair[0], CPU.task
    prompts = task.prompts(1, *benchmark.KEY).expand(4096, -1)
    drawn = plain.write(plain.llama(student), prompts, task, max_new_tokens=1)[:, -1]
    with torch.no_grad():
        p = student(prompts[:1])[0, -1].double().softmax(-1)
    shares = torch.bincount(drawn, minlength=task.vocabulary) / 4096
    assert ((shares - p).abs() < 5 * (p * (1 - p) / 4096).sqrt() + 1e-3).all()
    assert (p > 0.01).sum() > 3
