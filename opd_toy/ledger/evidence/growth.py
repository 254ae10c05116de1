"""How the variance grows with a text's length: independent positions, and the study's record."""

import numpy as np

from opd_toy import distributions, sequences
from opd_toy.example import STUDENT, TEACHER
from opd_toy.pages.numbers import listed, plain
from opd_toy.records.provenance import recorded

LENGTHS = (4, 8, 16, 32, 64)


def independent(p, q, length, **options):
    """The variance for ``length`` independent positions with p and q each."""
    tiled = (np.tile(one, (length, 1)) for one in (p, q))
    return sequences.independent_variance(*tiled, **options)


def slopes(**options):
    """Slopes of log variance against log T, with the notes' p and q at every position."""
    variances = [independent(STUDENT, TEACHER, length, **options) for length in LENGTHS]
    return sequences.growth_exponents(LENGTHS, variances)


def fitted_to_the_study(estimator, gamma):
    """The exponent fitted to the control study's untrained student."""
    rows = recorded("control-frozen", "variance frozen")["growth"]["initial"]
    asked = {"estimator": estimator, "gamma": gamma, "parameters": "output_layer"}
    (exponent,) = (row["exponent"] for row in rows if asked.items() <= row.items())
    return plain(exponent)


def exponents():
    cases = {
        "γ = 0": {"gamma": 0.0},
        "γ = .5": {"gamma": 0.5},
        "γ = .9": {"gamma": 0.9},
        "γ = 1": {"gamma": 1.0},
        "full return": {"gamma": 1.0, "causal": False},
    }
    found = {name: slopes(**options) for name, options in cases.items()}
    exact = "; ".join(f"{name} {listed((one[0], one[-1]))}" for name, one in found.items())
    token, full = fitted_to_the_study("sampled", 0), fitted_to_the_study("full_return", 1)
    return (
        f"exponent from T = 4 to 8, and from 32 to 64: {exact}; "
        f"fitted to the control study's untrained student: γ = 0 {token}, full return {full}"
    )


def bounds():
    token, full = slopes(gamma=0.0)[-1], slopes(gamma=1.0, causal=False)[-1]
    measured = f"token level {plain(token)} (bound 2), full return {plain(full)} (bound 4)"
    return f"exponent from T = 32 to 64: {measured}"


def share_of_bounds(p, q, length):
    """The full return's variance over B_r² B_s² of its own costs and scores."""
    cost = np.abs(distributions.log_ratio(p, q)).max()
    score = (1 - 2 * p + p @ p).max()
    return independent(p, q, length, gamma=1.0, causal=False) / (cost**2 * score)


def sharper_bounds():
    # The teacher likes the two tokens that the student draws nineteen times in twenty e³ times
    # less, so that nearly every cost is 3 and the costs do not average out.
    student = np.array([0.475, 0.475, 0.05])
    teacher = np.array([*student[:2] * np.exp(-3), 1 - 0.95 * np.exp(-3)])
    shares = listed((share_of_bounds(student, teacher, n) / n**3 for n in (8, 64, 512)), 3)
    return (
        "full return with nearly constant costs, p = (.475, .475, .05): "
        f"share of the bound T³ reached at T = 8, 64, 512: {shares}"
    )
