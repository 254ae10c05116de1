"""Softened distributions: of both models, of one, each at a temperature of its own.

``softened`` turns measured gradients into those of a loss at temperature 1, so that every
name there is has its form at a temperature; ``temperature`` finds which.
"""

import itertools
from dataclasses import replace

import numpy as np

from opd_toy.audit.token.candidates import (
    DIRECTIONS,
    Candidate,
    Family,
    alpha_divergence,
    jsd,
    line,
    skewed_forward,
    skewed_reverse,
)
from opd_toy.audit.token.names import format_number
from opd_toy.audit.token.pairs import Pairs
from opd_toy.audit.token.weights import NAMED

TEMPERATURES = (0.1, 0.25, 0.5, 0.7, 0.85, 1.2, 1.5, 2.0, 3.0, 4.0, 6.0, 10.0, 20.0)
BOUNDS = (0.01, 1000)
TO_TEACHER = " to the teacher renormalized"
_FEW = (0.4, 0.7, 0.9, 1.2, 2.0, 4.0)
_SHARES = (0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98)


def softened_pairs(pairs, student=1.0, teacher=1.0):
    return Pairs(pairs.student_logits / student, pairs.teacher_logits / teacher)


def softened(expected, temperature):
    """Expected in the softened logits z / T; the gradients there are T times those in z."""
    large = expected.large and softened(expected.large, temperature)
    return replace(
        expected,
        pairs=softened_pairs(expected.pairs, temperature, temperature),
        gradients=expected.gradients * temperature,
        rounding=expected.rounding * temperature,
        zero=expected.zero * temperature,
        large=large,
    )


def at_temperature(candidate, student, teacher):
    """A candidate of softened models; the chain rule divides by the student's temperature."""
    given = {"student_temperature": student, "teacher_temperature": teacher}
    if student == teacher:
        given, words = {"temperature": student}, f" at temperature {format_number(student)}"
    elif teacher == 1:
        del given["teacher_temperature"]
        words = f" with the student alone at temperature {format_number(student)}"
    elif student == 1:
        del given["student_temperature"]
        words = f" to the teacher at temperature {format_number(teacher)}"
    else:
        words = (
            f" with the student at temperature {format_number(student)}"
            f" and the teacher at {format_number(teacher)}"
        )
    head, on, rest = candidate.name.partition(" on the ")
    if teacher != 1 == student and head.endswith(TO_TEACHER):
        head, words = head.removesuffix(" renormalized"), words.removeprefix(" to the teacher")
        on = " renormalized" + on
    return Candidate(
        head + words + on + rest,
        lambda pairs: candidate.gradient(softened_pairs(pairs, student, teacher)) / student,
        None,
        (*candidate.parameters, *((name, float(value)) for name, value in given.items())),
    )


def _kl(direction):
    gradient = DIRECTIONS[direction]
    return Candidate(f"{direction} KL", lambda pairs: gradient(pairs.p, pairs.q))


def reverse_kl_to_tempered_teacher(temperature):
    return at_temperature(_kl("reverse"), 1, temperature)


def _of_kl(direction, student, teacher):
    """The family along one temperature, of the ``student``, the ``teacher`` or both."""

    def member(temperature):
        return at_temperature(
            _kl(direction), temperature if student else 1, temperature if teacher else 1
        )

    return line(member, TEMPERATURES, BOUNDS)


KLS_AT_ONE_TEMPERATURE = tuple(
    _of_kl(direction, student, teacher)
    for student, teacher in ((True, True), (False, True), (True, False))
    for direction in ("forward", "reverse")
)


def of_one_model(candidate, grid=TEMPERATURES):
    """The families along the teacher's temperature alone, and along the student's alone."""
    return (
        line(lambda temperature: at_temperature(candidate, 1, temperature), grid, BOUNDS),
        line(lambda temperature: at_temperature(candidate, temperature, 1), grid, BOUNDS),
    )


_BETWEEN = (0.15, 0.35, 0.6, 0.78, 0.92, 1.1, 1.35, 1.75, 2.4, 3.5, 5.0, 8.0)
NAMED_AT_ONE_TEMPERATURE = tuple(
    itertools.chain(*(of_one_model(named, (*TEMPERATURES, *_BETWEEN)) for named in NAMED))
)


def _of_divergence(member, shares, bounds, student, teacher):
    def members(temperature, value):
        whole = (temperature if student else 1, temperature if teacher else 1)
        return (at_temperature(member(value), *whole),)

    grid = tuple((temperature, value) for temperature in _FEW for value in shares)
    return Family(members, grid, (BOUNDS, bounds))


_ALPHAS = (-1.0, 0.3, 0.7, 2.0)
DIVERGENCES_AT_TEMPERATURE = tuple(
    _of_divergence(member, shares, bounds, student, teacher)
    for student, teacher in ((True, True), (False, True), (True, False))
    for member, shares, bounds in (
        (jsd, _SHARES, (0, 1)),
        (skewed_forward, _SHARES, (0, 1)),
        (skewed_reverse, _SHARES, (0, 1)),
        (alpha_divergence, _ALPHAS, (-np.inf, np.inf)),
    )
)


def _at_two_temperatures(direction):
    return Family(
        lambda student, teacher: (at_temperature(_kl(direction), student, teacher),),
        tuple(itertools.permutations(_FEW, 2)),
        (BOUNDS, BOUNDS),
    )


KLS_AT_TWO_TEMPERATURES = tuple(map(_at_two_temperatures, DIRECTIONS))
