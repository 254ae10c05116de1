"""The study of the lab: every method and seed at equal numbers of texts, and what became of each.

``study`` makes teacher and start, trains all runs by ``training.distill``, a few of them
from the teacher itself as well, measures the students, holds two of them still for
``opd_toy.lm.study.frozen`` and returns a JSON-able dict, the results of
``figures/lm-study-PRESET.json``.  A run that broke down has None where its student would
have been measured.  What is finished is kept in a folder: a study that was cut off, by a
kill too, is taken up by the same call.

On the CPU the work is shared by processes of one thread each.  On one machine the results,
but for the seconds, are the same bit for bit with any number of processes, interrupted or
not.  Another processor, or another number of threads, adds in another order, and training
makes rounding grow: for the start of the cpu preset from 1e-8 of the weights at the first
step to 1e-2 at the 100th and all of them from the 200th on.  There teacher and start are
other models of the same recipe (the start's sequence KL was between 5.6 and 14.4 nats in
seven such trials), and the record differs as between two seeds of these.
"""

import contextlib
import dataclasses
from pathlib import Path

import numpy as np
import torch

from opd_toy import _validate
from opd_toy.lm import measures
from opd_toy.lm.methods import METHODS, find_method
from opd_toy.lm.study import claims, frozen
from opd_toy.lm.study.jobs import EXPOSED, Jobs, Student
from opd_toy.lm.study.record import PAIRS
from opd_toy.lm.study.rounding import rounded
from opd_toy.lm.study.workers import Workers, one_thread

MODULES = ["opd_toy.lm.study.stages", "opd_toy.lm.presets"]
# Methods run at other rates as well, with the first seed, and these rates over the preset's.
SWEPT, FACTORS = ("gkd", "pg_0", "pg_1", "rlvr"), (1 / 3, 3)
# Methods that start at the teacher as well, with every seed, and their rate over the preset's.
FROM_TEACHER, GENTLE = ("opd_reward", "rlvr", "gkd"), 1 / 3
HELD_STILL = ("start", "gkd")  # the students whose gradients are measured, of the first seed


@dataclasses.dataclass(frozen=True)
class Effort:
    """How much is measured at the end.

    prompts: for each trained student.  texts, cut_texts, blocks: for the gradients of a frozen
    one, whole texts and cut ones.  sweep: whether ``SWEPT`` are.  from_teacher: steps of
    ``FROM_TEACHER``, 0 for none.
    """

    prompts: int
    texts: int
    cut_texts: int
    blocks: int = frozen.BLOCKS
    sweep: bool = True
    from_teacher: int = 0


EFFORTS = {
    "tiny": Effort(64, 48, 24, blocks=8, sweep=False),
    "cpu": Effort(512, 4096, 768, from_teacher=150),
    "small-gpu": Effort(1024, 256, 64, blocks=8, from_teacher=50),
    "gpu": Effort(1024, 512, 128, blocks=8, from_teacher=100),
}


@dataclasses.dataclass(frozen=True)
class Done:
    """Results of the jobs: {Student: curve}, {Student: measures}, {(name, length): moments}."""

    trained: dict
    measured: dict
    gradients: dict


def study(
    preset, folder, *, methods=tuple(METHODS), workers=1, device="cpu", effort=None, watch=None
):
    """Train and measure everything; the record's results.

    methods: names, all by default.  workers: processes on the CPU; on a GPU one run follows
    another here.  watch(name) gives a report(done, total) for a stage.
    """
    for name in methods:
        find_method(name)
    _validate.whole("workers", workers, 1)
    watch, device = watch or (lambda name: None), torch.device(device)
    jobs = Jobs(preset, Path(folder), effort or EFFORTS[preset.name], device)
    with one_thread() if device.type == "cpu" else contextlib.nullcontext():
        with Workers(jobs, 1 if device.type == "cuda" else workers) as pool:
            pool.each("make", [("teacher",), ("student",)], preset.teacher.steps, watch("models"))
            done = _do(jobs, pool, methods, watch)
        return _results(jobs, methods, done)


def _do(jobs, pool, methods, watch):
    """All that comes after the two models: runs, gradients, measures."""
    preset, steps = jobs.preset, jobs.preset.distillation.steps
    runs = _runs(preset, methods) + _swept(jobs, methods) + _beyond(jobs, methods)
    trained = pool.each("train", [(run,) for run in runs], steps, watch("runs"))
    trained = {run: curve for (run,), curve in trained.items()}
    there = [
        run for run in runs if "not_finite" not in trained[run] and _is_measured_at_the_end(run)
    ]
    held = [
        name for name in HELD_STILL if name == "start" or Student(name, preset.seeds[0]) in there
    ]
    # The longest first, so that no process is left alone with it.
    still = [
        (name, length) for length in reversed(cut_lengths(preset.task.length)) for name in held
    ]
    gradients = pool.each("gradients", still, 1, watch("gradients"))
    students = [Student("teacher"), Student("start"), *there]
    measured = pool.each("measure", [(each,) for each in students], 1, watch("measures"))
    return Done(trained, {each: found for (each,), found in measured.items()}, gradients)


def _runs(preset, methods):
    return [Student(name, seed) for name in methods for seed in preset.seeds]


def _swept(jobs, methods):
    """The runs at other rates than the preset's."""
    names = [name for name in SWEPT if name in methods and jobs.effort.sweep]
    return [Student(name, jobs.preset.seeds[0], factor) for name in names for factor in FACTORS]


def _beyond(jobs, methods):
    """The runs that start at the teacher."""
    names = [name for name in FROM_TEACHER if name in methods and jobs.effort.from_teacher]
    return [Student(name, seed, GENTLE, True) for name in names for seed in jobs.preset.seeds]


def _is_measured_at_the_end(run):
    return run.factor == 1 or run.from_teacher


def cut_lengths(length):
    """1, 2, 4, … and the whole length."""
    return [2**n for n in range(length.bit_length()) if 1.5 * 2**n <= length] + [length]


# --- results -----------------------------------------------------------------------------


def _results(jobs, methods, done):
    preset, device, teacher = jobs.preset, jobs.device, jobs.teacher
    runs = {name: [Student(name, seed) for seed in preset.seeds] for name in methods}
    results = {
        "preset": rounded(dataclasses.asdict(preset) | {"effort": dataclasses.asdict(jobs.effort)}),
        "clock": "processor seconds" if device.type == "cpu" else "seconds",
        "device": device_name(device),
        "methods": {name: METHODS[name].words for name in methods},
        "seeds": list(preset.seeds),
        "teacher": rounded(measures.evaluate(teacher, teacher, preset)),
        "start": rounded(measures.evaluate(jobs.start, teacher, preset)),
        "curves": {
            name: [_without_memory(done.trained[run]) for run in of] for name, of in runs.items()
        },
        "memory": {
            name: _peak(done.trained[run]["memory"] for run in of) for name, of in runs.items()
        },
        "sweep": _sweep(jobs, methods, done),
        "from_teacher": _from_teacher(jobs, methods, done),
        "final": {
            "prompts": jobs.effort.prompts,
            **{name: _end(done, Student(name)) for name in ("teacher", "start")},
            **{name: [_end(done, run) for run in of] for name, of in runs.items()},
        },
        "exposure": _exposure(runs, done),
        "frozen": _frozen(done.gradients),
    }
    return results | {"claims": claims.judge(results)}


def _end(done, student, what="measures"):
    """What was measured of a student; None where its run broke down."""
    return done.measured[student][what] if student in done.measured else None


def _frozen(gradients):
    """{student: the figures of its gradients}."""
    found = {}
    for (name, length), moments in gradients.items():
        found.setdefault(name, {})[length] = frozen.Moments(**moments)
    return {name: _frozen_student(by_length) for name, by_length in found.items()}


def _frozen_student(by_length):
    lengths = sorted(by_length)
    whole = by_length[lengths[-1]]
    return {
        "texts": int(whole.count.sum()),
        "estimators": frozen.summary(whole),
        "growth": frozen.growth(by_length),
        "log_ratios": {
            f"{a}/{b}": [log_ratio(by_length[length], a, b) for length in lengths] for a, b in PAIRS
        },
    }


def log_ratio(found, a, b):
    """[log of the variance of estimator a over that of b, standard error].

    Both are on the same texts, so what these share cancels.
    """
    covariance = frozen.replicates(found)[1]
    one, other = (covariance[:, i, i] for i in map(frozen.ESTIMATORS.index, (a, b)))
    with np.errstate(invalid="ignore", divide="ignore"):
        return [frozen.number(part) for part in frozen.jackknife(np.log(one / other))]


def _from_teacher(jobs, methods, done):
    """The runs that start at the teacher: curves, and measures with the ``gain`` on it."""
    found = {}
    for run in _beyond(jobs, methods):
        rows = found.setdefault(run.name, {"curves": [], "final": []})
        rows["curves"].append(_without_memory(done.trained[run]))
        rows["final"].append(_end(done, run))
    if not found:
        return {}
    rate = jobs.preset.distillation.rate * GENTLE
    return {"steps": jobs.effort.from_teacher, "rate": rate, "methods": found}


def _without_memory(curve):
    return rounded({key: values for key, values in curve.items() if key != "memory"})


def _exposure(runs, done):
    """{method: the KL by position}, of those that ``EXPOSED`` names and that were trained."""
    found = {}
    for name in EXPOSED:
        students = [Student("start")] if name == "start" else runs.get(name, [])
        rows = _exposed([_end(done, each, "exposure") for each in students])
        if rows:
            found[name] = rows
    return found


def _exposed(by_seed):
    """The first seed's rows by position; of every seed the mean KL of a token.

    That is taken on the student's own and on the teacher's prefixes.  None stands for a seed
    that broke down, and for the whole where all did.
    """
    kinds = ("own", "teacher")
    first = next((rows for rows in by_seed if rows), None)
    if first is None:
        return None
    return rounded(
        {
            **{kind: first[kind]["kl"] for kind in kinds},
            "positions": {kind: first[kind]["count"] for kind in kinds},
            "errors": {kind: first[kind]["error"] for kind in kinds},
            "per_token": {
                kind: [rows and _mean_of_tokens(rows[kind]) for rows in by_seed] for kind in kinds
            },
        }
    )


def _mean_of_tokens(rows):
    return sum(k * n for k, n in zip(rows["kl"], rows["count"])) / sum(rows["count"])


def _sweep(jobs, methods, done):
    """{method: what the first seed's run comes to at each rate}; None where it broke down."""
    preset, found = jobs.preset, {}
    for run in _swept(jobs, methods):
        found.setdefault(run.name, [Student(run.name, run.seed)]).append(run)
    measured = ("accuracy", "sequence_kl", "forward_sequence_kl")
    rows = {}
    for name, runs in found.items():
        rows[name] = []
        for run in sorted(runs, key=lambda run: run.factor):
            curve = done.trained[run]
            broken = "not_finite" in curve
            ends = {measure: None if broken else curve[measure][-1] for measure in measured}
            rows[name].append({"rate": preset.distillation.rate * run.factor} | ends)
    return rounded(rows)


def _peak(values):
    known = [value for value in values if value is not None]
    return round(max(known), 1) if known else None


def device_name(device):
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
