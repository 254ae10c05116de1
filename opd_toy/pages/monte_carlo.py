"""Chapter 2's experiment: how far the mean of N sampled gradients lies from the exact one."""

import numpy as np

from opd_toy import estimators
from opd_toy.example import STUDENT, TEACHER

SEED = 2026


def sample_mean_error(samples, runs=2000, seed=SEED):
    """Root-mean-square distance of the mean of ``samples`` policy gradients from the exact one."""
    table = estimators.policy_gradient(STUDENT, TEACHER)
    # How often each token came, in each run: (runs, V).
    counts = np.random.default_rng(seed).multinomial(samples, STUDENT, size=runs)
    distance = counts @ table / samples - estimators.expectation(STUDENT, table)
    return float(np.sqrt((distance**2).sum(axis=1).mean()))


def monte_carlo():
    """Measured error of the sample mean and its exact law, sigma / sqrt(N)."""
    samples = [4**i for i in range(7)]
    table = estimators.policy_gradient(STUDENT, TEACHER)
    sigma = np.sqrt(estimators.total_variance(STUDENT, table))
    return {
        "samples": samples,
        "measured": [sample_mean_error(n) for n in samples],
        "exact": [float(sigma / np.sqrt(n)) for n in samples],
    }
