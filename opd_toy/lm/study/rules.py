"""What a rule of the study is: a claim, its criterion, and what a record says of it."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Rule:
    """A claim of the book and the criterion by which it counts as seen.

    find(record) -> (parts, figure): {what is asked: bool, or None where it cannot be told},
    {name: number or (number, standard error)}; KeyError where a method it needs was left out.
    """

    id: str
    claim: str
    criterion: str
    find: Callable

    def judged(self, record):
        """The row of a record's ``claims``, or None where a method was left out."""
        try:
            parts, figure = self.find(record)
        except KeyError:
            return None
        parts = {what: true if true is None else bool(true) for what, true in parts.items()}
        return {
            "id": self.id,
            "claim": self.claim,
            "criterion": self.criterion,
            "verdict": verdict(parts.values()),
            "parts": parts,
            "figure": {key: _number(value) for key, value in figure.items()},
        }


def rule(**words):
    """Decorator: turns the function below into the ``Rule`` with these words."""
    return functools.partial(_rule, words)


def _rule(words, function):
    return Rule(**words, find=function)


def verdict(parts):
    """One of four, from what could be told (True, False) and what could not (None)."""
    parts = list(parts)
    told = [true for true in parts if true is not None]
    if not told:
        return "undecided"
    if all(told) and len(told) == len(parts):
        return "seen"
    return "seen under conditions" if any(told) else "not seen"


def _number(value):
    if isinstance(value, tuple):
        return [_number(each) for each in value]
    return float(f"{value:.4g}") if value is not None and math.isfinite(value) else None
