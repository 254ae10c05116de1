"""The lab's constants and defaults, and what its rules say of records that say other things."""

import json

from opd_toy import lm
from opd_toy.lm import bench, study
from opd_toy.lm.study import claims
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


LAB_TEXTS = {"lab-numbers": lab_numbers, "lab-verdicts": verdicts}
