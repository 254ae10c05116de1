"""What the sliders of many draws and of a long descent ought to show, by the engine."""

import functools
import math

import numpy as np

from opd_toy import distributions, estimators, objectives
from tests.explorables.one_position import SIMPLE
from tests.explorables.reading import pair, rounded, same

# Of the samples: mulberry32 written a second time, all numbers at once.
WALKS, MOST = 100, 4096


@functools.lru_cache(maxsize=8)
def uniforms(seed, count):
    """The first ``count`` numbers of the generator mulberry32 with this seed."""
    wrap = np.uint64(0xFFFFFFFF)
    times = lambda x, y: (x * y) & wrap
    t = (np.uint64(seed) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x6D2B79F5)) & wrap
    r = times(t ^ (t >> np.uint64(15)), t | np.uint64(1))
    r = r ^ ((r + times(r ^ (r >> np.uint64(7)), r | np.uint64(61))) & wrap)
    return ((r ^ (r >> np.uint64(14))) & wrap) / 2.0**32


def sample_and_average(seen, widget, seed=None):
    p, q = pair(seen)
    n, j = int(seen.slider("draws")), int(seen.choices["component"]) - 1
    table = estimators.policy_gradient(p, q)
    scale = np.abs(table).max()
    exact = estimators.expectation(p, table)
    deviation = np.sqrt(
        [estimators.total_variance(p, table[:, [c]]) for c in range(3)]
        + [estimators.total_variance(p, table)]
    )
    shown = seen.table(0)
    same("exact", shown[:3, 0], exact, scale)
    same("its norm", shown[3, 0], np.linalg.norm(exact), scale)
    if n == 0:
        assert np.isnan(shown[:, 1:3]).all()
        assert seen.sentence.startswith("Nothing drawn yet") or deviation[j] < 1e-12
        return
    same("standard error", shown[:, 3], deviation / math.sqrt(n), scale)
    if seed is None:  # the tokens drawn are not known: their mean is still one of N draws
        counts = (
            np.linalg.lstsq(
                np.vstack([table.T, np.ones(3)]), np.append(shown[:3, 1], 1), rcond=None
            )[0]
            * n
        )
        tokens = None
    else:
        draws = uniforms(seed, WALKS * MOST).reshape(WALKS, MOST)[:, :n]
        tokens = (draws >= p[0]).astype(int) + (draws >= p[0] + p[1])
        counts = np.bincount(tokens[0], minlength=3)
    whole = np.rint(counts)
    assert whole.sum() == n and np.abs(counts - whole).max() < 1e-3, f"{counts} tokens were drawn"
    mean = whole @ table / n
    same("mean of the draws", shown[:3, 1], mean, scale)
    same("off by", shown[:3, 2], mean - exact, scale)
    same("its norm", shown[3, 2], np.linalg.norm(mean - exact), scale)
    if deviation[j] < 1e-12:
        assert f"Every draw gives {rounded(exact[j], 2)}" in seen.sentence
        return
    error = deviation[j] / math.sqrt(n)
    signed = lambda x: ("+" if x >= 0.0005 else "") + rounded(x, 3)
    assert seen.sentence.startswith(
        f"After {n} draw{'s' if n > 1 else ''} the mean on {['z₁', 'z₂', 'z₃'][j]} is "
        f"{signed(mean[j])}, the exact gradient {signed(exact[j])}: "
    )
    assert ("; about 95 are to be expected" in seen.sentence) == (n * p.min() >= 5)
    assert (
        f"off by {rounded(abs(mean[j] - exact[j]), 3)}, "
        f"with a standard error σ/√N of {rounded(error, 3)}" in seen.sentence
    )
    if tokens is not None:
        means = np.array([np.bincount(row, minlength=3) for row in tokens]) @ table[:, j] / n
        inside = int((np.abs(means - exact[j]) <= 2 * error * (1 + 1e-12)).sum())
        assert f"{inside} of {WALKS} walks are inside the band" in seen.sentence
    needed = math.ceil((2 * deviation[j] / exact[j]) ** 2)
    if needed <= 1e6:
        assert (
            f"even the sign is in doubt until N = {needed}."
            if n < needed
            else f"From N = {needed} on the band does not hold 0"
        ) in seen.sentence


POSITIONS = np.arange(1, 41)


def bump(mean, width):
    return distributions.softmax(-((POSITIONS - mean) ** 2) / (2 * width**2))


def shape_of(p):
    mean = p @ POSITIONS
    return [mean, math.sqrt(p @ (POSITIONS - mean) ** 2), p[:20].sum()]


def seek_or_cover(seen, widget):
    separation, share, width = seen.slider("separation", "weight", "width")
    q = share * bump(20.5 - separation / 2, width) + (1 - share) * bump(
        20.5 + separation / 2, width
    )
    shown = seen.table(0)
    same("teacher", shown[0, :3], shape_of(q))
    key, beta = seen.choices["objective"], seen.slider("beta")
    cost = {
        "forward_kl": objectives.forward_kl,
        "reverse_kl": objectives.reverse_kl,
        "jsd": lambda p, q: objectives.generalized_jsd(p, q, beta),
    }[key]
    gradient = {
        **SIMPLE,
        "jsd": lambda p, q: objectives.generalized_jsd_logit_gradient(p, q, beta),
    }[key]
    at, last = int(seen.number("steps-taken")), int(seen.number("steps-in-all"))
    assert 0 <= at <= last <= 300
    end = shown[2 + ["forward_kl", "reverse_kl", "jsd"].index(key)]
    if seen.choices["family"] == "bump":
        mu, sigma = seen.number("mu"), seen.number("sigma")
        p = bump(mu, sigma)
        same("student", shown[1, :3], shape_of(p))
        same("cost", shown[1, 3], cost(p, q), 1e-3)
        if at == 0:
            same("start", [mu, sigma], seen.slider("start_mean", "start_width"))
        if at == last:
            same("end", end, shown[1])
        if at == last < 300:  # where descent ends, the engine's gradient in mu and log sigma is 0
            slopes = np.array([(POSITIONS - mu) / sigma**2, (POSITIONS - mu) ** 2 / sigma**2])
            information = ((slopes - (slopes @ p)[:, None]) ** 2) @ p
            curvature = beta * (1 - beta) if key == "jsd" and 0 < beta < 1 else 1
            pull = np.abs(slopes @ gradient(p, q)) / np.sqrt(information * curvature)
            assert pull.max() < 1e-6, f"descent ended where {key} still falls: {pull}"
    assert end[3] <= shown[1, 3] + 1e-12
    said = f"JSD({rounded(beta, 2)})" if key == "jsd" else key.replace("_kl", " KL")
    assert said in seen.sentence
    if 0 < at < last:
        assert (
            f"After {at} of {last} steps" in seen.sentence
            and f"to {rounded(shown[1, 3], 3)}." in seen.sentence
        )
    for mode, side in (("left", end[2]), ("right", 1 - end[2])):
        given = shown[0, 2] if mode == "left" else 1 - shown[0, 2]
        if f"on the {mode} mode:" in seen.sentence:
            assert side > 0.9
            assert (
                f"{rounded(100 * side, 0)} % of its mass lies there, "
                f"and {rounded(100 * given, 0)} % of the teacher's." in seen.sentence
            )
    if "spread over both modes" in seen.sentence:
        assert 0.1 <= end[2] <= 0.9 or end[1] >= 1.5 * width
        assert (
            f"{rounded(100 * end[2], 0)} % on the left where the teacher has "
            f"{rounded(100 * shown[0, 2], 0)} %," in seen.sentence
        )
        theirs = f"(teacher {rounded(shown[0, 0], 1)} and {rounded(shown[0, 1], 2)})"
        assert ("with the teacher's own" in seen.sentence) or (
            f"with mean {rounded(end[0], 1)} and sd {rounded(end[1], 2)} {theirs}." in seen.sentence
        )
    if "with the teacher's own mean and sd" in seen.sentence:
        np.testing.assert_allclose(end[:2], shown[0, :2], atol=0.005)
    if seen.choices["family"] == "free" and "all three objectives end there" in seen.sentence:
        assert shown[2:, 3].max() < 1e-6
