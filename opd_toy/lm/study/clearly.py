"""What the study calls clear: more than two standard errors.

Errors of trained students are over the seeds, of differences seed by seed, which must all
have one sign; with one seed nothing is clear.
"""

import math

import numpy as np

ERRORS = 2.0


def mean(values):
    """(mean, standard error) over seeds; no error of one."""
    if len(values) < 2:
        return values.mean(), math.nan
    return values.mean(), values.std(ddof=1) / math.sqrt(len(values))


def clearly_above(values, more=0.0):
    """Whether the differences (S,) are all above 0, their mean by more than two standard errors.

    To the error over the seeds comes ``more``, one of another kind.  None where a difference
    is not known.
    """
    if not np.isfinite(values).all():
        return None
    value, error = mean(values)
    return bool((values > 0).all() and value > ERRORS * math.hypot(error, more))


def higher(values, others):
    """Whether each is above its other; None where one is not known."""
    if not np.isfinite([*values, *others]).all():
        return None
    return all(a > b for a, b in zip(values, others))


def above(value, error, bound):
    """Whether a value is clearly above a number that has no error."""
    return value - bound > ERRORS * error


def greater(a, b):
    """Whether a is clearly above b, both (value, standard error)."""
    return a[0] - b[0] > ERRORS * math.hypot(a[1], b[1])


def array(values):
    """float64 (N,), NaN in the place of None."""
    return np.array([math.nan if value is None else value for value in values], dtype=np.float64)


def float_or_nan(value):
    return math.nan if value is None else value
