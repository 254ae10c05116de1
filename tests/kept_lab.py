"""The lab's constants, its rules on records with other outcomes, measures of small models."""

import contextlib
import json
import tempfile
from unittest import mock

import torch

from opd_toy import lm
from opd_toy.lm import bench, measures, stale, study
from opd_toy.lm.methods import METHODS
from opd_toy.lm.model import Shape, Transformer
from opd_toy.lm.presets import Distillation, Preset, Recipe
from opd_toy.lm.study import claims, frozen
from opd_toy.lm.study.rounding import rounded
from opd_toy.lm.tasks import Sums
from opd_toy.lm.training import distill
from opd_toy.records.provenance import recorded
from tests.kept_numbers import numbers

WITHOUT_LIBRARIES = {"opd_toy.lm.bench.hugging_face"}  # which not every machine has
# How many places the numbers of methods and estimators move on; a factor of their errors.
OTHERS = ((0, 0.2), (0, 3.0), (1, 1.0), (2, 0.5), (3, 1.0), (4, 2.0), (-1, 1.0), (-2, 0.2))


def lab_numbers():
    return numbers((lm, study, bench), WITHOUT_LIBRARIES)


def turned(record, by, errors):
    """The study's record as if each method and estimator had the numbers of another."""
    found = json.loads(json.dumps(record))
    for table in ("final", "curves", "sweep", "exposure"):
        move_on(found[table], by, but=("prompts", "teacher", "start"))
    for student in found["frozen"].values():
        for rows in (student["estimators"], student["log_ratios"]):
            move_on(rows, by)
        for row in student["estimators"].values():
            row |= {name: [value, error * errors] for name, (value, error) in row.items()}
        for row in student["log_ratios"].values():
            row[:] = [[value, error * errors] for value, error in row]
    return found


def move_on(rows, by, but=()):
    names = [name for name in rows if name not in but]
    rows |= dict(zip(names, [rows[name] for name in names[by:] + names[:by]]))


def verdicts():
    """The parts of each claim: true T, false F, not to be told ?; a word for each of ``OTHERS``."""
    signs, found = {True: "T", False: "F", None: "?"}, {}
    record = recorded("lm-study-cpu", "study")
    for by, errors in OTHERS:
        for row in claims.judge(turned(record, by, errors)):
            parts = "".join(signs[part] for part in row["parts"].values())
            found.setdefault(row["id"], []).append(parts)
    return "\n".join(f"{name}: {' '.join(parts)}" for name, parts in found.items())


# --- small models in float64, so that no processor's rounding is seen -------------------------

TASK = Sums(terms=2, digits=1)
SHAPE = Shape(TASK.vocabulary, 8, 1, 2, TASK.prompt_length + TASK.length)
PRESET = Preset(
    "kept",
    TASK,
    *(Recipe(SHAPE, steps=0, batch=1, rate=0.0, seed=seed) for seed in (1, 2)),
    Distillation(steps=3, batch=8, rate=1e-2, group=4, evaluate_every=2, evaluation_prompts=20),
    seeds=(1,),
)


@contextlib.contextmanager
def small_models():
    """A teacher and a student that have learned nothing, far from each other; on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        teacher, student = (Transformer(SHAPE, seed).double() for seed in (1, 2))
        with torch.no_grad():
            for model in (teacher, student):
                model.head.weight.mul_(3)
        yield teacher, student
    finally:
        torch.set_num_threads(threads)


def row_of(name, values):
    if isinstance(values, dict):
        return "\n".join(row_of(f"{name}, {each}", value) for each, value in values.items())
    return f"{name}: {json.dumps(rounded(values))}"


def measured():
    """What is measured of a student, and of its gradients, on whole texts and on cut ones."""
    with small_models() as (teacher, student):
        rows = measures.evaluate(student, teacher, PRESET)
        rows |= {"gain": measures.gain(student, teacher, PRESET, 10)}
        rows |= {"by position": measures.exposure(student, teacher, PRESET, 10)}
        found = {
            length: frozen.measured(
                *(student, teacher, TASK, "kept", length), count=6, length=length, blocks=3
            )
            for length in (2, TASK.length)
        }
    rows |= {f"gradient by {name}": row for name, row in frozen.summary(found[2]).items()}
    rows |= {f"growth of {name}": row for name, row in frozen.growth(found).items()}
    return row_of("student", rows)


def trained():
    """Three steps by each method; the KL of a text before and after them, and the tokens."""
    with small_models() as models, tempfile.TemporaryDirectory() as folder:
        silent = {"folder": folder, "say": lambda text: None}
        curves = {name: distill(name, PRESET, 4, *models, **silent) for name in METHODS}
        with mock.patch.object(stale, "PRESET", PRESET), mock.patch.object(stale, "TASK", TASK):
            old = {name: stale.run(name, 1, 4, *models) for name in stale.VARIANTS}
    kept = ("steps", "tokens", "sequence_kl", "forward_sequence_kl", "order_entropy")
    rows = {name: [curve[each] for each in kept] for name, curve in curves.items()}
    return row_of("by", rows | {f"{name} on old texts": curve for name, curve in old.items()})


LAB_TEXTS = {
    "lab-numbers": lab_numbers,
    "lab-verdicts": verdicts,
    "lab-measures": measured,
    "lab-training": trained,
}
