"""The study of the lab: every method with every seed at equal numbers of texts, and what became of each student.

``study`` makes teacher and start, trains all runs by ``training.distill``, a few of them
from the teacher itself as well, measures the students, holds two of them still for
``opd_toy.lm.study.frozen`` and returns a JSON-able dict, the results of
``figures/lm-study-PRESET.json``.  A run that broke down has None where its student would
have been measured.  What is finished is kept in a folder: a
study that was cut off, by a kill too, is taken up by the same call.  On the CPU the work is
shared by processes of one thread each.
"""

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import json
import math
import multiprocessing
import os
import signal
import sys
import threading
from multiprocessing.connection import wait
from pathlib import Path

import numpy as np
import torch

from opd_toy import _validate
from opd_toy.lm import measures, pretraining, training
from opd_toy.lm.methods import METHODS, find_method
from opd_toy.lm.model import load
from opd_toy.lm.study import claims, frozen
from opd_toy.records import provenance
from opd_toy.records.checkpoints import Stop

MODULES = ["opd_toy.lm.study.stages", "opd_toy.lm.presets"]
SWEPT, FACTORS = (
    ("gkd", "pg_0", "pg_1", "rlvr"),
    (1 / 3, 3),
)  # methods run at other rates as well, with the first seed; of the preset's rate
FROM_TEACHER, GENTLE = (
    ("opd_reward", "rlvr", "gkd"),
    1 / 3,
)  # methods that start at the teacher as well, with every seed; of the preset's rate
HELD_STILL = ("start", "gkd")  # the students whose gradients are measured, of the first seed
EXPOSED = ("start", "sft", "seqkd", "off_policy_reverse_kl", "on_policy_forward_kl", "gkd")


@dataclasses.dataclass(frozen=True)
class Effort:
    """How much is measured at the end: prompts for each trained student, texts for the gradients of a frozen one, whole and cut, and their blocks; sweep: whether ``SWEPT`` are; from_teacher: steps of ``FROM_TEACHER``, 0 for none."""

    prompts: int
    texts: int
    cut_texts: int
    blocks: int = frozen.BLOCKS
    sweep: bool = True
    from_teacher: int = 0


EFFORTS = {
    "tiny": Effort(64, 48, 24, blocks=8, sweep=False),
    "cpu": Effort(512, 4096, 768, from_teacher=150),
    "gpu": Effort(1024, 512, 128, blocks=8, from_teacher=100),
}


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
    watch, effort, device = (
        watch or (lambda name: None),
        effort or EFFORTS[preset.name],
        torch.device(device),
    )
    models = [
        make(preset, folder, report=watch(make.__name__), device=device, say=say)
        for make in (pretraining.teacher, pretraining.student)
    ]
    shop = Workshop(preset, Path(folder), effort, device, *models)
    runs = [(name, seed) for name in methods for seed in preset.seeds]
    beyond = [
        (name, seed, GENTLE, True)
        for name in FROM_TEACHER
        if name in methods and effort.from_teacher
        for seed in preset.seeds
    ]
    swept = [
        (name, preset.seeds[0], factor)
        for name in SWEPT
        if name in methods and effort.sweep
        for factor in FACTORS
    ]
    lengths = cut_lengths(preset.task.length)
    with Hands(shop, 1 if device.type == "cuda" else workers) as hands:
        jobs = runs + swept + beyond
        trained = dict(zip(jobs, hands.each("run", jobs, preset.distillation.steps, watch("runs"))))
        whole = [run for run in runs + beyond if "not_finite" not in trained[run]]
        held = [name for name in HELD_STILL if name == "start" or (name, preset.seeds[0]) in whole]
        students = [("teacher", None), ("start", None), *whole]
        # the longest first, so that no process is left alone with it
        still = [(name, length) for length in reversed(lengths) for name in held]
        gradients = dict(zip(still, hands.each("gradients", still, 1, watch("gradients"))))
        final = dict(zip(students, hands.each("measures", students, 1, watch("measures"))))
    results = {
        "preset": rounded(dataclasses.asdict(preset) | {"effort": dataclasses.asdict(effort)}),
        "clock": "processor seconds" if device.type == "cpu" else "seconds",
        "device": device_name(device),
        "methods": {name: METHODS[name].words for name in methods},
        "seeds": list(preset.seeds),
        "teacher": rounded(measures.evaluate(*[models[0]] * 2, preset)),
        "start": rounded(measures.evaluate(models[1], models[0], preset)),
        "curves": {name: [without_memory(trained[name, seed]) for seed in preset.seeds] for name in methods},
        "memory": {name: peak(trained[name, seed]["memory"] for seed in preset.seeds) for name in methods},
        "sweep": {name: rates(name, preset, trained) for name in dict.fromkeys(each for each, *_ in swept)},
        "from_teacher": from_teacher(preset, effort, beyond, trained, final),
        "final": {"prompts": effort.prompts} | {name: final[name, None]["measures"] for name in ("teacher", "start")} | {name: [part(final, (name, seed), "measures") for seed in preset.seeds] for name in methods},
        "exposure": {name: rows for name in EXPOSED if name in ("start", *methods) and (rows := exposed([part(final, (name, seed), "exposure") for seed in (preset.seeds if name in methods else (None,))]))},
        "frozen": {name: frozen_results({length: gradients[name, length] for length in lengths}) for name in held},
    }  # fmt: skip
    return results | {"claims": claims.judge(results)}


def cut_lengths(length):
    """1, 2, 4, … and the whole length."""
    return [2**n for n in range(length.bit_length()) if 1.5 * 2**n <= length] + [length]


def frozen_results(by_length):
    found = {length: frozen.Moments(**each) for length, each in by_length.items()}
    return {
        "texts": int(found[max(found)].count.sum()), "estimators": frozen.summary(found[max(found)]), "growth": frozen.growth(found),
        "log_ratios": {f"{a}/{b}": [log_ratio(found[length], a, b) for length in sorted(found)] for a, b in claims.PAIRS},
    }  # fmt: skip


def log_ratio(found, a, b):
    """[log of the variance of estimator a over that of b, standard error], both on the same texts, so what these share cancels."""
    covariance = frozen.replicates(found)[1]
    one, other = (covariance[:, i, i] for i in map(frozen.ESTIMATORS.index, (a, b)))
    with np.errstate(invalid="ignore", divide="ignore"):
        return [frozen.number(part) for part in frozen.jackknife(np.log(one / other))]


def part(found, job, name):
    """What a job found; None for one that there was no student for."""
    return found[job][name] if job in found else None


def from_teacher(preset, effort, jobs, trained, final):
    """The runs that start at the teacher: steps, rate, and of each seed the curve and the measures of the end, with the ``gain`` on the teacher."""
    found = {}
    for job in jobs:
        rows = found.setdefault(job[0], {"curves": [], "final": []})
        rows["curves"].append(without_memory(trained[job]))
        rows["final"].append(part(final, job, "measures"))
    return (
        {"steps": effort.from_teacher, "rate": preset.distillation.rate * GENTLE, "methods": found}
        if found
        else {}
    )


def without_memory(curve):
    return rounded({key: values for key, values in curve.items() if key != "memory"})


def exposed(by_seed):
    """The first seed's rows by position; and of every seed the mean KL of a token, on own and on the teacher's prefixes.

    None stands for a seed that broke down, and for the whole where all did.
    """
    mean = lambda rows: sum(k * n for k, n in zip(rows["kl"], rows["count"])) / sum(rows["count"])
    per_token = {
        name: [rows and mean(rows[name]) for rows in by_seed] for name in ("own", "teacher")
    }
    first = next((rows for rows in by_seed if rows), None)
    if first is None:
        return None
    return rounded({
        "own": first["own"]["kl"], "teacher": first["teacher"]["kl"], "positions": {name: first[name]["count"] for name in ("own", "teacher")},
        "errors": {name: first[name]["error"] for name in ("own", "teacher")}, "per_token": per_token,
    })  # fmt: skip


def rates(name, preset, trained):
    """What the first seed's run comes to at each rate, the measures of its curve's end; None where it broke down."""
    found = [
        (preset.distillation.rate * factor, trained[name, preset.seeds[0], factor])
        for factor in FACTORS
    ]
    found = sorted(
        [*found, (preset.distillation.rate, trained[name, preset.seeds[0]])],
        key=lambda pair: pair[0],
    )
    return rounded(
        [
            {"rate": rate}
            | {
                measure: None if "not_finite" in curve else curve[measure][-1]
                for measure in ("accuracy", "sequence_kl", "forward_sequence_kl")
            }
            for rate, curve in found
        ]
    )


def peak(values):
    known = [value for value in values if value is not None]
    return round(max(known), 1) if known else None


# --- what one worker can do --------------------------------------------------------------


@dataclasses.dataclass
class Workshop:
    """The jobs; all but training keep their results in files of the folder, tied to what they depend on."""

    preset: object
    folder: Path
    effort: Effort
    device: torch.device
    teacher: torch.nn.Module
    start: torch.nn.Module

    def run(self, method, seed, factor=1, from_teacher=False, *, report):
        """The curve of one run at ``factor`` times the preset's rate; of one whose gradient was not finite, what there is of it."""
        settings = self.preset.distillation
        start, steps = (
            (self.teacher, self.effort.from_teacher)
            if from_teacher
            else (self.start, settings.steps)
        )
        every = (
            settings.evaluate_every if factor == 1 else max(1, steps // 4)
        )  # of these the end is looked at
        preset = dataclasses.replace(
            self.preset,
            distillation=dataclasses.replace(
                settings, rate=settings.rate * factor, evaluate_every=every
            ),
        )
        try:
            return training.distill(
                method,
                preset,
                seed,
                self.teacher,
                start,
                folder=self.place(factor, from_teacher),
                steps=steps,
                device=self.device,
                report=report,
                say=say,
            )
        except training.NotFinite as error:
            say(str(error))
            return error.curve | {"memory": None, "not_finite": str(error)}

    def place(self, factor, from_teacher):
        """The folder of the runs of this kind, whose files have the same names."""
        return (
            self.folder / "from-teacher"
            if from_teacher
            else self.folder
            if factor == 1
            else self.folder / f"rate-{self.preset.distillation.rate * factor:.2g}"
        )

    def measures(self, name, seed, factor=1, from_teacher=False, *, report):
        student, asked = (
            self.student(name, seed, factor, from_teacher),
            (self.teacher, self.preset, self.effort.prompts),
        )

        def make():
            found = {"measures": rounded(measures.evaluate(student, *asked)), "exposure": None}
            if from_teacher:
                found["measures"]["gain"] = rounded(measures.gain(student, *asked))
            elif name in EXPOSED:
                found["exposure"] = measures.exposure(student, *asked)
            return found

        with training.mixed(self.device, self.preset.autocast):
            return self.kept(
                f"{name}-{seed}-{'from-teacher-' if from_teacher else ''}measures",
                student,
                make,
                report,
            )

    def gradients(self, name, length, report):
        student = self.student(name, self.preset.seeds[0])
        whole = length == self.preset.task.length
        count = self.effort.texts if whole else self.effort.cut_texts
        heard = lambda done, total: report(done / total, 1)

        def make():
            return frozen.measured(
                student,
                self.teacher,
                self.preset.task,
                "gradients",
                length,
                count=count,
                length=length,
                redraw=whole,
                blocks=self.effort.blocks,
                report=heard,
            ).to_json()

        return self.kept(f"{name}-gradients-{length}", student, make, report)

    def student(self, name, seed, factor=1, from_teacher=False):
        if name in ("teacher", "start"):
            return getattr(self, name)
        steps = self.effort.from_teacher if from_teacher else None
        return load(
            training.student_path(self.place(factor, from_teacher), name, self.preset, seed, steps)
        ).to(self.device)

    def kept(self, name, student, make, report):
        path = self.folder / f"{self.preset.name}-{name}.json"
        belongs_to = [
            dataclasses.asdict(self.preset),
            dataclasses.asdict(self.effort),
            training.fingerprint(self.teacher),
            training.fingerprint(student),
            provenance.source_hash(*MEASURING),
            str(torch.__version__),
            self.device.type,
        ]
        key = hashlib.sha256(json.dumps(belongs_to).encode()).hexdigest()
        with contextlib.suppress(OSError, ValueError, KeyError):
            found = json.loads(path.read_text(encoding="utf-8"))
            if found["key"] == key:
                return found["value"]
        value = make()
        report(1, 1)
        partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
        partial.write_text(json.dumps({"key": key, "value": value}), encoding="utf-8")
        os.replace(partial, path)
        return value


MEASURING = ["opd_toy.lm.training", "opd_toy.lm.study.frozen"]


# --- who does it -------------------------------------------------------------------------


class Hands:
    """``workers`` processes with a Workshop each, or this one."""

    def __init__(self, shop, workers):
        self.shop, self.workers = shop, workers

    def __enter__(self):
        if self.workers > 1:
            spawn = multiprocessing.get_context("spawn")
            self.news, self.stop = spawn.SimpleQueue(), spawn.Event()
            handed = (self.shop, self.news, self.stop)
            self.pool = concurrent.futures.ProcessPoolExecutor(self.workers, spawn, _begin, handed)
        return self

    def __exit__(self, *exception):
        if self.workers > 1:
            self.stop.set()
            self.pool.shutdown(cancel_futures=True)

    def each(self, kind, jobs, units, report):
        """The results of all jobs, in their order; report(done, total) in ``units`` a job."""
        done, total = dict.fromkeys(jobs, 0), units * len(jobs)

        def heard(job, at, of):
            done[job] = units * at / of
            if report is not None:
                report(min(total - 1, int(sum(done.values()))), total)

        results = (
            self._here(kind, jobs, heard)
            if self.workers == 1
            else self._elsewhere(kind, jobs, heard)
        )
        if report is not None and total:
            report(total, total)
        return results

    def _here(self, kind, jobs, heard):
        def tell(job):
            def report(at, of):
                heard(job, at, of)
                if kind != "run":  # which heeds a stop itself, once its checkpoint is written
                    _heed()

            return report

        return [getattr(self.shop, kind)(*job, report=tell(job)) for job in jobs]

    def _elsewhere(self, kind, jobs, heard):
        futures = {self.pool.submit(_work, kind, job): job for job in jobs}
        waiting = set(futures)
        while waiting:
            finished, waiting = concurrent.futures.wait(waiting, timeout=0.3)
            if Stop.asked:
                self.stop.set()
            while not self.news.empty():
                heard(*self.news.get())
            for future in finished:
                future.result()
                heard(futures[future], 1, 1)
        return [future.result() for future in futures]


_SHOP = {}


def _begin(shop, news, stop):
    torch.set_num_threads(1)
    for number in Stop.SIGNALS:  # the first process hears them and tells
        signal.signal(number, signal.SIG_IGN)
    _SHOP.update(shop=shop, news=news, stop=stop)
    threading.Thread(
        target=_end_with, args=(multiprocessing.parent_process().sentinel,), daemon=True
    ).start()


def _end_with(parent):
    wait([parent])
    os._exit(1)  # nobody waits for the work; its checkpoints are whole


def _work(kind, job):
    def report(at, of):
        _SHOP["news"].put((job, at, of))
        if _SHOP["stop"].is_set():
            Stop.asked = signal.SIGINT  # heard by the checkpoint of a run
        if kind != "run":
            _heed()

    return getattr(_SHOP["shop"], kind)(*job, report=report)


def _heed():
    if Stop.asked:
        raise KeyboardInterrupt


# --- words and numbers -------------------------------------------------------------------


def say(text):
    """What a checkpoint says, but for the good news, which the progress tells."""
    if not text.startswith(("taking up", "stopped by")):
        print(text, file=sys.stderr)


def device_name(device):
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def rounded(value, digits=5):
    """Numbers of any nested lists and dicts to so many significant digits; what is not finite becomes None."""
    if isinstance(value, dict):
        return {key: rounded(each, digits) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(each, digits) for each in value]
    if isinstance(value, float):
        return float(f"{value:.{digits}g}") if math.isfinite(value) else None
    return value
