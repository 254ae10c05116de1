"""What the adapters hand to the libraries, as library_calls.txt beside this has it.

In the libraries' place stands something that writes down what it is called with, so that the
adapters can be run where no library is; tests/peers runs them with the libraries themselves.
"""

import asyncio
import inspect
import sys
import types
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from opd_toy.audit.exhibits.libraries import (
    areal,
    axolotl,
    old_texts,
    openrlhf,
    skyrl,
    swift,
    tinker,
    torchrl,
    verl,
)
from opd_toy.audit.exhibits.libraries.record import LIBRARY_LOSSES
from tests.written import check_text

IMPORTED = (
    "liger_kernel.chunked_loss",
    "tensordict",
    "tinker",
    "tinker_cookbook.distillation",
    "tinker_cookbook.rl",
    "trl",
    "trl.experimental.gkd",
    "trl.experimental.gold.gold_trainer",
    "trl.experimental.iw_opd.iw_opd_trainer",
    "trl.experimental.sdft.loss_utils",
    "trl.experimental.sdpo.loss_utils",
    "trl.experimental.server_distillation.server_distillation_trainer",
    "trl.trainer.distillation_trainer",
    "verl.trainer.distillation.fsdp.losses",
    "verl.trainer.distillation.losses",
    "verl.trainer.ppo",
    "verl.trainer.ppo.rollout_corr_helper",
    "verl.workers.config",
)
LOADED = (areal, axolotl, old_texts, openrlhf, skyrl, swift, torchrl)
OWN = [loss for loss in LIBRARY_LOSSES.values() if not loss.source]


class Stand:
    """Whatever is asked of a library; ``calls`` are written down."""

    def __init__(self, name, calls):
        self._name, self._calls = name, calls

    def _as(self, name):
        return Stand(name, self._calls)

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return self._as(f"{self._name}.{name}")

    def __call__(self, *given, **named):
        shown = [*map(in_words, given), *(f"{key}={in_words(x)}" for key, x in named.items())]
        self._calls.append(f"{self._name}({', '.join(shown)})")
        if self._name.endswith("fsdp.losses.compute_forward_kl_topk"):
            return {"distillation_losses": torch.full((1, 1), -0.25)}
        return self._as(f"{self._name}()")

    def __getitem__(self, key):
        return self._as(f"{self._name}[{key}]")

    def __iter__(self):
        return iter([self[0], self[1]])

    def __index__(self):
        return 2

    def __neg__(self):
        return self._as(f"-{self._name}")

    def __truediv__(self, other):
        return self._as(f"{self._name} / {in_words(other)}")

    def __rmul__(self, other):
        return self._as(f"({in_words(other)} * {self._name})")


def in_words(value):
    if isinstance(value, Stand):
        return value._name
    if isinstance(value, torch.Tensor):
        kind = str(value.dtype).removeprefix("torch.") + (" learns" if value.requires_grad else "")
        rows = value.unbind() if value.is_nested else [value]
        numbers = (f"{x:.4g}" for row in rows for x in row.detach().double().ravel().tolist())
        return f"<{kind} {[*map(tuple, (row.shape for row in rows))]}: {' '.join(numbers)}>"
    if isinstance(value, types.SimpleNamespace):
        return f"{{{', '.join(f'{key}={in_words(x)}' for key, x in vars(value).items())}}}"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{in_words(key)}: {in_words(x)}' for key, x in value.items())}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(in_words, value))}]"
    if inspect.iscoroutine(value):
        value.close()
        return "coroutine"
    if isinstance(value, types.FunctionType) and value.__code__.co_argcount < 2:
        return f"function -> {in_words(value(*[None] * value.__code__.co_argcount))}"
    return "function" if callable(value) else repr(value)


def inputs_of(adapter, kind):
    """By the names of its arguments; the last token of a masked text is left out."""
    names = [
        name
        for name, each in inspect.signature(adapter).parameters.items()
        if each.kind is each.POSITIONAL_OR_KEYWORD
    ]
    draw = torch.Generator().manual_seed(0)
    shape = {"token": (3,), "sequence": (3, 3), "batch": (2, 2, 3)}[kind]
    logits = torch.randn(3, *shape, generator=draw, dtype=torch.float64)
    mask = torch.ones(shape[:-1], dtype=torch.bool)
    tokens = torch.arange(mask.numel()).reshape(mask.shape) % 3
    if "mask" in names:
        mask[..., -1:][:1] = False
        tokens[~mask] = -100
    given = {"token": torch.tensor(1), "tokens": tokens, "mask": mask}
    for who, z in zip(("student", "teacher", "rollout"), logits):
        given[who] = given[f"{who}_logits"] = z.requires_grad_(who != "rollout")
    return [given[name] for name in names]


@pytest.fixture
def calls(monkeypatch):
    found = []
    for name in IMPORTED:
        monkeypatch.setitem(sys.modules, name, Stand(name, found))
    monkeypatch.setattr(tinker.asyncio, "run", lambda work: found.append(f"runs {work._name}"))
    verl._configurations.cache_clear()
    yield found
    verl._configurations.cache_clear()


def test_what_the_libraries_are_called_with(calls, monkeypatch):
    lines = []
    for loss in OWN:

        def loaded(name, absent=(), loss=loss):
            assert absent == loss.without
            return Stand(name, calls)

        for module in LOADED:
            monkeypatch.setattr(module, "load", loaded)
        calls.clear()
        value = loss.adapter(*inputs_of(loss.adapter, loss.kind))
        lines.append(f"{loss.id}: {'; '.join([*calls, in_words(value)])}")
    check_text("library_calls.txt", "calls", "\n".join(lines))


def test_the_stand_ins_for_a_teachers_service_and_a_text():
    service = tinker._teacher_service(torch.tensor([-1.0, -2.0]))
    with ThreadPoolExecutor(1) as apart:  # in this thread a browser may be running its loop
        answer = lambda asked: apart.submit(asyncio.run, asked.coroutine()).result()
        log_probs, reply = map(
            answer, (service.compute_logprobs(None), service.sample(prompt=None))
        )
    assert log_probs == [None, -1.0, -2.0]
    assert vars(reply) == {
        "prompt_logprobs": [None, -1.0, -2.0],
        "sequences": [],
        "prompt_cache_hit_tokens": 0,
    }
    text = torchrl.Given(a=1)
    assert text.get("a", as_list=True) == 1 and text.get("b", 3) == 3 and text.get("b") is None
    assert text.select("a") is text and (text.ndim, text.device.type) == (1, "cpu")
