"""The jobs of a study: models, runs, measures and gradients, each done once and kept.

What is finished lies in files of the study's folder, tied to what it depends on.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import sys
from pathlib import Path

import torch

from opd_toy.lm import measures, pretraining, training
from opd_toy.lm.model import fingerprint, load, mixed
from opd_toy.lm.study import frozen
from opd_toy.lm.study.rounding import rounded
from opd_toy.records import provenance

EXPOSED = ("start", "sft", "seqkd", "off_policy_reverse_kl", "on_policy_forward_kl", "gkd")
MEASURING = ["opd_toy.lm.training", "opd_toy.lm.study.frozen"]


@dataclasses.dataclass(frozen=True)
class Student:
    """Which student: trained by the method ``name``, or "teacher" or "start" themselves.

    factor: how many times the preset's rate its run had.  from_teacher: whether the run
    started at the teacher.
    """

    name: str
    seed: int | None = None
    factor: float = 1
    from_teacher: bool = False


@dataclasses.dataclass
class Jobs:
    """Each method with a ``report`` is a job."""

    preset: object
    folder: Path
    effort: object
    device: torch.device

    @functools.cached_property
    def teacher(self):
        return self.model("teacher")

    @functools.cached_property
    def start(self):
        return self.model("student")

    def model(self, role, *, report=None):
        """The teacher or the starting student, made and kept if it is not there yet."""
        make = getattr(pretraining, role)
        return make(self.preset, self.folder, report=report, device=self.device, say=say)

    def make(self, role, *, report):
        self.model(role, report=report)

    def train(self, student, *, report):
        """The curve of a run; of one whose gradient was not finite, what there is of it."""
        settings = self.preset.distillation
        start = self.teacher if student.from_teacher else self.start
        steps = self.effort.from_teacher if student.from_teacher else settings.steps
        # Of runs at another rate only the end is looked at.
        every = settings.evaluate_every if student.factor == 1 else max(1, steps // 4)
        settings = dataclasses.replace(
            settings, rate=settings.rate * student.factor, evaluate_every=every
        )
        preset = dataclasses.replace(self.preset, distillation=settings)
        try:
            return training.distill(
                student.name,
                preset,
                student.seed,
                self.teacher,
                start,
                folder=self._folder_of(student),
                steps=steps,
                device=self.device,
                report=report,
                say=say,
            )
        except training.NotFinite as error:
            say(str(error))
            return error.curve | {"memory": None, "not_finite": str(error)}

    def measure(self, student, *, report):
        model = self._trained(student)
        asked = self.teacher, self.preset, self.effort.prompts

        def make():
            found = {"measures": rounded(measures.evaluate(model, *asked)), "exposure": None}
            if student.from_teacher:
                found["measures"]["gain"] = rounded(measures.gain(model, *asked))
            elif student.name in EXPOSED:
                found["exposure"] = measures.exposure(model, *asked)
            return found

        kind = "from-teacher-measures" if student.from_teacher else "measures"
        with mixed(self.device, self.preset.autocast):
            return self._kept(f"{student.name}-{student.seed}-{kind}", model, make, report)

    def gradients(self, name, length, *, report):
        """``frozen.Moments`` of the first seed's student, of texts cut at ``length`` tokens."""
        model = self._trained(Student(name, self.preset.seeds[0]))
        whole = length == self.preset.task.length

        def make():
            return frozen.measured(
                model,
                self.teacher,
                self.preset.task,
                "gradients",
                length,
                count=self.effort.texts if whole else self.effort.cut_texts,
                length=length,
                redraw=whole,
                blocks=self.effort.blocks,
                report=lambda done, total: report(done / total, 1),
            ).to_json()

        return self._kept(f"{name}-gradients-{length}", model, make, report)

    def _folder_of(self, student):
        """The folder of runs of a kind; those of other kinds have the same names."""
        if student.from_teacher:
            return self.folder / "from-teacher"
        if student.factor != 1:
            return self.folder / f"rate-{self.preset.distillation.rate * student.factor:.2g}"
        return self.folder

    def _trained(self, student):
        if student.name in ("teacher", "start"):
            return getattr(self, student.name)
        steps = self.effort.from_teacher if student.from_teacher else None
        folder = self._folder_of(student)
        path = training.student_path(folder, student.name, self.preset, student.seed, steps)
        return load(path).to(self.device)

    def _kept(self, name, student, make, report):
        """make(), or what it made before for the same settings, weights and code."""
        path = self.folder / f"{self.preset.name}-{name}.json"
        belongs_to = [
            dataclasses.asdict(self.preset),
            dataclasses.asdict(self.effort),
            fingerprint(self.teacher),
            fingerprint(student),
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


def say(text):
    """What a checkpoint says, but for the good news, which the progress tells."""
    if not text.startswith(("taking up", "stopped by")):
        print(text, file=sys.stderr)
