"""The triples of student, teacher and behaviour on which a loss is tried."""

from typing import NamedTuple

import numpy as np

from opd_toy.example import STUDENT, TEACHER

OLD = np.array([0.4, 0.3, 0.3])  # the older student of chapter 9
SIZES = (3, 4, 5, 8)
APART = (0.05, 0.4, 1.5)  # standard deviation of log mu - log p
RARE = 1e-3  # probability of the token that a walk follows, where its ratio is 1
OTHERS = {  # of the walk's other tokens
    "student": np.array([0.5, 0.3, 0.2]),
    "teacher": np.array([0.25, 0.45, 0.3]),
    "behaviour": np.array([0.3, 0.3, 0.4]),
}
ROUNDING = {"float64": 1e-9, "float32": 3e-6}  # of gradients, relative
SIGNS = (1, -1)  # of the cost log p - log q of the walk's token
# log ratios of a walk: dense around 0, up to e^6.2 and down to e^-6.2
STEPS = 1e-3 * 1.12 ** np.arange(78)
WALK = np.concatenate([-STEPS[::-1], [0.0], STEPS])


class Triple(NamedTuple):
    """Logits (V,) of the three."""

    student: np.ndarray
    teacher: np.ndarray
    behaviour: np.ndarray


def fixed_triple():
    """The notes' pair and the older student of chapter 9."""
    return Triple(np.log(STUDENT), np.log(TEACHER), np.log(OLD))


def random_triples(seed):
    """A list of Triple, the fixed one first: behaviours near, far, the student's, the teacher's."""
    random = np.random.default_rng([seed, 9])
    found = [fixed_triple()]
    for size in SIZES:
        for apart in APART:
            student, teacher, noise = random.normal(size=(3, size))
            found.append(Triple(student, teacher, student + apart * noise))
        found.append(Triple(*random.normal(size=(3, size))))
    for size in SIZES[:2]:
        student, teacher = random.normal(size=(2, size))
        found.append(Triple(student, teacher, student))
        found.append(Triple(student, teacher, teacher))
    return found


def at_teacher(seed):
    """Triples whose student is its teacher and whose behaviour is not."""
    return [Triple(t.teacher, t.teacher, t.behaviour) for t in random_triples(seed)[:9]]


def on_a_walk(moved, sign, step):
    """Token 0 has log p/mu = ``step``, moved by the "behaviour" or by the "student".

    Where it is 1 the log-ratio to the teacher of the model that stays is ``sign``.
    """
    logs = {"student": 0.0, "behaviour": 0.0, "teacher": -float(sign)}
    logs[moved] = step if moved == "student" else -step
    return Triple(*(_logits(name, logs[name]) for name in Triple._fields))


def _logits(name, log):
    rare = RARE * np.exp(log)
    return np.log(np.concatenate([[rare], (1 - rare) * OTHERS[name]]))
