"""The numbers of a study's record, as the rules of ``opd_toy.lm.study.claims`` ask for them."""

import math

import numpy as np

from opd_toy.lm.study.clearly import array, float_or_nan

# Growth is taken from here: the first two tokens of a response follow few prefixes, and there
# all gammas are nearly one.
GROWN_FROM = 4
GAMMAS = ("pg_0", "pg_0.5", "pg_0.9", "pg_1")
# The record compares their variances on the same texts.
PAIRS = (*zip(GAMMAS[1:], GAMMAS), ("pg_1", "pg_0"), ("exact_costs", "pg_1"))


class Record:
    """The numbers of a study as rules ask for them; KeyError where a method was left out."""

    def __init__(self, results):
        self.results = results
        self.students = list(results["frozen"])

    def end(self, method, measure):
        """Of each seed at the end (S,); NaN where the run broke down."""
        return array([seed and seed[measure] for seed in self.results["final"][method]])

    def during(self, method, measure):
        """Mean of each run's measurements after the start (S,); NaN where it broke down.

        A run that learns early has a mean far from its value at the start.
        """
        runs = self.results["curves"][method]
        means = (
            math.nan if "not_finite" in run else array(run[measure][1:]).mean() for run in runs
        )
        return np.array(list(means))

    def gained(self, method):
        """How much more probable a right working became in a run that starts at the teacher.

        Of each seed (S,), and the error by the choice of prompts.
        """
        ends = self.results["from_teacher"]["methods"][method]["final"]
        gains = [seed["gain"] if seed else (None, None) for seed in ends]
        return array([value for value, _ in gains]), array([error for _, error in gains]).mean()

    def teacher(self, measure):
        return self.results["final"]["teacher"][measure]

    def at_start(self, measure):
        return self.results["final"]["start"][measure]

    def gradient(self, student, estimator, column):
        """(value, standard error) at a frozen student."""
        value, error = self.results["frozen"][student]["estimators"][estimator][column]
        return float_or_nan(value), float_or_nan(error)

    def log_ratio(self, student, pair, length=None):
        """Log of a pair's ratio of variances, (value, standard error).

        At texts of ``length`` tokens; None: whole ones.
        """
        frozen = self.results["frozen"][student]
        place = -1 if length is None else frozen["growth"]["lengths"].index(length)
        return tuple(map(float_or_nan, frozen["log_ratios"]["/".join(pair)][place]))

    def exponent_lead(self, student, pair):
        """How much faster the first variance of a pair grows with the length.

        A difference of exponents, (value, standard error).
        """
        lengths = self.results["frozen"][student]["growth"]["lengths"]
        start = max(length for length in lengths[:-1] if length <= GROWN_FROM)
        span = math.log(lengths[-1] / start)
        (first, a), (last, b) = self.log_ratio(student, pair, start), self.log_ratio(student, pair)
        return (last - first) / span, math.hypot(a, b) / span

    def exponent(self, student, estimator):
        """Slope of log variance in log length, (value, standard error).

        From GROWN_FROM tokens to whole texts.
        """
        growth = self.results["frozen"][student]["growth"]
        lengths, variance = growth["lengths"], growth[estimator]["variance"]
        place = max(i for i, length in enumerate(lengths[:-1]) if length <= GROWN_FROM)
        span = math.log(lengths[-1] / lengths[place])
        (first, a), (last, b) = variance[place], variance[-1]
        if not first or not last or first < 0 or last < 0:
            return math.nan, math.nan
        return math.log(last / first) / span, math.hypot(a / first, b / last) / span
