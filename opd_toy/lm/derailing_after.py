"""Whether the student of ``derailing`` slips less once it has been trained further.

From the same weights, in as many steps on as many texts: SFT on the teacher's texts goes on as
before; the reverse KL at each token, on the teacher's texts; the same on the student's own, which
is on-policy distillation.  ``further`` returns a JSON-able dict, a part of the results of
``figures/derailing.json``.
"""

import dataclasses

from opd_toy.lm import derailing, pretraining
from opd_toy.lm.model import load
from opd_toy.lm.presets import Distillation
from opd_toy.lm.training import distill, student_path

MODULES = [__name__]
METHODS = ("sft", "off_policy_reverse_kl", "gkd")
SEEDS = (1, 2, 3)
DISTILLATION = Distillation(
    steps=300, batch=64, rate=1e-3, group=1, evaluate_every=300, evaluation_prompts=64
)


def further(folder, watch=None):
    """The students' slips: {"steps", "batch", "start": row, "methods": {name: [row a seed]}}.

    A row is what ``slips_of`` returns.  Models are kept in ``folder``; watch(name) gives a
    report(done, total) for a training.  An interrupt is heard in training and between the rows.
    """
    watch = watch or (lambda name: None)
    preset = dataclasses.replace(derailing.PRESET, distillation=DISTILLATION)
    teacher = pretraining.teacher(preset, folder, watch("teacher"))
    student = pretraining.student(preset, folder, watch("student"))
    prefixes = derailing.training_prefixes()
    found = {name: [] for name in METHODS}
    start = slips_of(student, teacher, prefixes)
    for name in METHODS:
        for seed in SEEDS:
            derailing.heed_stop()
            report = watch(f"{name}, seed {seed}")
            distill(name, preset, seed, teacher, student, folder=folder, report=report)
            trained = load(student_path(folder, name, preset, seed))
            found[name].append(slips_of(trained, teacher, prefixes))
    return {
        "steps": DISTILLATION.steps,
        "batch": DISTILLATION.batch,
        "start": start,
        "methods": found,
    }


def slips_of(student, teacher, prefixes):
    """What becomes of this student's answers to all questions, one to each.

    right, slipped: answers; alike, after: its mean probability of a wrong next token without a
    slip so far and after one, as in ``derailing.slipping``; as_written, planted: later slips an
    answer, as in ``derailing.after_planting``.
    """
    texts = derailing.draw_answers(student, derailing.questions())
    steps = [derailing.steps_of(text) for text in texts]
    counts = derailing.outcomes(texts, steps)
    models = {"student": student, "teacher": teacher}
    slipping = derailing.slipping(texts, steps, models, prefixes)
    planted = derailing.after_planting(student, texts, steps)
    return {
        **{name: counts[name] for name in ("right", "slipped")},
        **{when: slipping[when]["student"] for when in ("alike", "after")},
        **{name: planted[name] for name in ("as_written", "planted")},
    }
