"""Sizes of the lab: ``tiny`` for tests, ``cpu`` for the book's record, two for a GPU.

``small-gpu`` has the task of ``cpu``, models of 7.4 and 2.5 million weights and a vocabulary of
8192: a study of minutes.

The gpu preset, counted and not measured: its teacher has 81.4 million weights, 39.4 of them
in the blocks and 21.0 in the head, its student 32.2 (7.1 and 12.6).  A product with W
weights takes 2 W operations a token forward and 4 W backward.  A text is 59 positions in
the blocks and 40 in the head, so the teacher takes 19 GFLOP a text, 39 PFLOP for its 4000
steps of 512 texts, and the student 5.5 and 2.1 in all; attention and losses are left out.
At 300 TFLOP/s, a third of what an H100 names for bfloat16, the teacher is 130 seconds of
products.  A distillation step (256 texts) is 3.5 TFLOP, 12 ms so; drawing 40 tokens one
after another, some 30 small kernels a layer and token, takes most of its time.
"""

from dataclasses import dataclass

from opd_toy.lm.model import Shape
from opd_toy.lm.tasks import Sums


@dataclass(frozen=True)
class Recipe:
    """A model trained on demonstrations: ``steps`` of ``batch`` texts, ``rate`` at its highest."""

    shape: Shape
    steps: int
    batch: int
    rate: float
    seed: int = 0


@dataclass(frozen=True)
class Distillation:
    """What all methods share: steps, texts a step, learning rate, how often it is measured.

    group: texts of one prompt, where a method compares rewards.
    """

    steps: int
    batch: int
    rate: float
    group: int
    evaluate_every: int
    evaluation_prompts: int


@dataclass(frozen=True)
class Preset:
    """Sizes of the lab.  autocast: None or "bfloat16".

    workers: processes of one thread each that the study runs side by side on the CPU.
    """

    name: str
    task: Sums
    teacher: Recipe
    student: Recipe
    distillation: Distillation
    seeds: tuple[int, ...]
    autocast: str | None = None
    workers: int = 1


def _preset(name, task, *, teacher, student, **settings):
    """teacher, student: (width, layers, heads, steps, batch, rate)."""
    length = task.prompt_length + task.length
    made = [
        Recipe(Shape(task.vocabulary, *recipe[:3], length), *recipe[3:], seed=seed)
        for seed, recipe in enumerate((teacher, student))
    ]
    return Preset(name, task, *made, **settings)


TINY = _preset(
    "tiny",
    Sums(terms=2, digits=2, base=5),
    teacher=(32, 2, 8, 300, 32, 1.5e-2),
    student=(24, 2, 6, 250, 32, 1e-2),
    distillation=Distillation(
        steps=30, batch=32, rate=1e-3, group=4, evaluate_every=10, evaluation_prompts=64
    ),
    seeds=(1, 2),
)
CPU = _preset(
    "cpu",
    Sums(terms=3, digits=2),
    teacher=(96, 2, 8, 1400, 64, 5e-3),
    student=(64, 2, 8, 900, 32, 7e-3),
    distillation=Distillation(
        steps=300, batch=64, rate=3e-4, group=4, evaluate_every=30, evaluation_prompts=256
    ),
    seeds=(1, 2, 3),
    workers=2,
)
SMALL_GPU = _preset(
    "small-gpu",
    Sums(terms=3, digits=2, vocabulary=8192),
    teacher=(256, 4, 8, 2500, 256, 1.9e-3),
    student=(128, 2, 8, 900, 128, 3.5e-3),
    distillation=Distillation(
        steps=100, batch=256, rate=3e-4, group=8, evaluate_every=25, evaluation_prompts=256
    ),
    seeds=(1, 2),
    autocast="bfloat16",
)
GPU = _preset(
    "gpu",
    Sums(terms=5, digits=3, base=100, vocabulary=32768),
    teacher=(640, 8, 10, 4000, 512, 6e-4),
    student=(384, 4, 6, 1500, 256, 1e-3),
    distillation=Distillation(
        steps=200, batch=256, rate=3e-4, group=8, evaluate_every=40, evaluation_prompts=256
    ),
    seeds=(1, 2, 3),
    autocast="bfloat16",
)
PRESETS = {preset.name: preset for preset in (TINY, CPU, SMALL_GPU, GPU)}
