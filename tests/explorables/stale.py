"""What the slider of stale rollouts ought to show, by the engine."""

import math

import numpy as np

from opd_toy import distributions, estimators, objectives, off_policy
from opd_toy.example import TOKENS
from opd_toy.explorables.stale_rollouts import CORRECTIONS
from opd_toy.records import provenance
from tests.explorables.reading import all_of, pair, rounded, same, word

STEPS, RATE, LATE = 400, 0.5, 64
LIMITS = {"truncate": ["most"], "mask": ["low", "high"], "clip": ["epsilon"]}


def as_drawn(mu, sampler):
    """With top-p the rarest token never comes."""
    kept = [x if sampler == "all" or v != int(np.argmin(mu)) else 0.0 for v, x in enumerate(mu)]
    return [x / sum(kept) for x in kept] if sampler == "top_p" else kept


def passed(rho, cost, correction, limits):
    """The factor that a correction makes of a ratio."""
    if correction == "none":
        return 1.0
    if correction == "truncate":
        return min(rho, limits)
    if correction == "mask":
        return rho if limits[0] <= rho <= limits[1] else 0.0
    if correction == "clip" and (rho < 1 - limits[0] if cost > 0 else rho > 1 + limits[1]):
        return 0.0
    return rho


def mean_gradient(p, q, mu, correction, limits, cost):
    """The mean of the engine's table in plain numbers: 800 of these are needed at each look."""
    weights = []
    for p_k, q_k, mu_k in zip(p, q, mu):
        if mu_k == 0:
            weights.append(0.0)
            continue
        log_ratio = math.log((p_k if cost == "recomputed" else mu_k) / q_k)
        factor = passed(p_k / mu_k, log_ratio, correction, limits)
        weights.append(mu_k * factor * log_ratio)
    return [weight - p_j * sum(weights) for weight, p_j in zip(weights, p)]


def descent(p, q, mu, every, sampler, *rule):
    """Every student on the way, (STEPS + 1, 3)."""
    logits, now, path = [math.log(x) for x in p], list(p), [list(p)]
    for n in range(STEPS):
        if every and n and n % every == 0:
            mu = as_drawn(now, sampler)
        g = mean_gradient(now, q, mu, *rule)
        logits = [z - RATE * x for z, x in zip(logits, g)]
        shares = [math.exp(z - max(logits)) for z in logits]
        now = [x / sum(shares) for x in shares]
        path.append(now)
    return np.array(path)


def rest(path, q):
    end, late = path[-1], path[-LATE:]
    if np.abs(end - q).max() < 0.005:
        return "reaches the teacher"
    if end.max() > 0.98:
        return f"runs to {TOKENS[end.argmax()]} alone"
    if np.ptp(late, axis=0).max() > 0.02:
        return f"still moves after {STEPS} steps"
    return f"stops at ({', '.join(rounded(x, 2) for x in end)}), off the teacher"


def limits_of(seen, correction):
    """The limits of the chosen correction, from its sliders; the others' are not in sight."""
    values = [seen.slider(name) for name in LIMITS.get(correction, [])]
    return (
        {"truncate": values[0], "mask": tuple(values), "clip": (values[0],) * 2}.get(correction)
        if values
        else None
    )


def stale_rollouts(seen, widget):
    p, q = pair(seen)
    behaviour = seen.distribution("behaviour")
    choices = seen.choices
    correction, cost, sampler = (choices[name] for name in ("correction", "cost", "sampler"))
    mu = np.array(as_drawn(behaviour, sampler))
    limits = limits_of(seen, correction)
    tokens, ends, compared = (seen.table(index) for index in range(3))
    same("p, q, μ", tokens[:, :3], np.transpose([p, q, mu]))
    ratios = off_policy.ratio(p, mu)
    same("ratio", tokens[:, 3], ratios)
    costs = np.log(p if cost == "recomputed" else mu + (mu == 0)) - np.log(q)
    drawn = mu > 0
    factors = [
        passed(*each, correction, limits) for each in zip(ratios[drawn], costs[drawn], strict=True)
    ]
    same("factor", tokens[drawn, 4], factors)
    exact = objectives.reverse_kl_logit_gradient(p, q)
    same("exact", compared[5, 2:], exact)
    size = np.linalg.norm(exact)
    fresh = estimators.total_variance(p, estimators.policy_gradient(p, q))
    for row, name in zip(compared, CORRECTIONS):
        if name in LIMITS and name != correction:
            continue
        check_row(row, p, q, mu, (name, limits if name == correction else None, cost), size, fresh)
    every = int(choices["renew"])
    rule = (correction, limits, cost)
    paths = [descent(p, q, mu.tolist(), n, sampler, *rule) for n in (0, every)]
    check_ends(ends, paths, p, q)
    check_sentence(seen, p, q, mu, ratios, tokens[:, 4], compared, paths, every, size)
    check_texts(seen, off_policy.second_moment(p, mu))
    check_record(seen, correction, cost)


def check_row(row, p, q, mu, rule, size, fresh):
    table = off_policy.policy_gradient(p, q, mu, *rule)
    drawn = np.abs(table[mu > 0]).max()
    mean = estimators.expectation(mu, table)
    same("mean", row[2:], mean, drawn)
    if size > 1e-9:
        exact = objectives.reverse_kl_logit_gradient(p, q)
        off = np.linalg.norm(mean - exact) / size
        same("off by", row[0], off, max(1, drawn / size))
        spread = estimators.total_variance(mu, table) / fresh
        same("variance", row[1], spread, drawn**2 / fresh)
    else:
        assert np.isnan(row[:2]).all()


def check_ends(ends, paths, p, q):
    same("start", ends[0, :3], p)
    same("its KL", ends[0, 3], distributions.kl(p, q), 1)
    for row, path in zip(ends[1:], paths, strict=True):
        # a rounding may grow where a descent circles, or a limit switches a token on and off
        np.testing.assert_allclose(row[:3], path[-1], atol=1e-7)
        np.testing.assert_allclose(row[3], distributions.kl(path[-1], q), atol=1e-6)


NAMES = {
    "none": "Without a ratio",
    "ratio": "With the ratio",
    "truncate": "With the ratio truncated at {}",
    "mask": "With the ratio masked outside {} to {}",
    "clip": "With PPO's clip at {}",
}
LIMITED = {"truncate": "cuts", "mask": "drops", "clip": "stops"}


def check_sentence(seen, p, q, mu, ratios, factors, compared, paths, every, size):
    said, correction = seen.sentence, seen.choices["correction"]
    on_policy = "The behaviour is the student: every ratio is 1."
    assert (on_policy in said) == bool(np.abs(p - mu).max() < 1e-9)
    off, spread, *mean = compared[CORRECTIONS.index(correction)]
    if size > 1e-9:
        values = [rounded(seen.slider(name), 2) for name in LIMITS.get(correction, [])]
        kept = " and the cost kept" if seen.choices["cost"] == "kept" else ""
        off_by = f"off by {rounded(100 * off, 1 if off < 0.0995 else 0)} %"
        assert (
            f"{NAMES[correction].format(*values)}{kept}, the mean is "
            f"{'exact' if off < 1e-9 else off_by}, "
            f"with {rounded(spread, 2)} times the variance of fresh tokens." in said
        ), said
    else:
        words = [word(x) for x in mean]
        up, down = (
            all_of([TOKENS[v] for v in range(3) if words[v] == kind])
            for kind in ("raises", "lowers")
        )
        still = f"This one still raises {up} and lowers {down}."
        assert (still if up else "So is this one.") in said, said
    reached = [TOKENS[v] for v in range(3) if mu[v] > 0 and factors[v] != ratios[v]]
    if correction in LIMITED:
        limited = f"It {LIMITED[correction]} {all_of(reached)}."
        assert (limited if reached else "The limit reaches no token.") in said, said
    barred = [f"{TOKENS[v]} is never drawn, and no correction" for v in range(3) if mu[v] == 0]
    assert [words for words in barred if words in said] == barred
    assert ("never drawn" in said) == bool(barred)
    held, renewed = (rest(path, q) for path in paths)
    often = "at every step" if every == 1 else f"every {every} steps"
    assert said.endswith(
        f"Descent {held}, with μ held and with μ renewed {often}."
        if held == renewed
        else f"Descent with μ held {held}; with μ renewed {often} it {renewed}."
    ), (said, held, renewed)


def check_texts(seen, moment):
    same("second moment", seen.number("second-moment"), moment)
    share = moment**-64.0
    np.testing.assert_allclose(seen.number("share"), share, rtol=1e-10)
    last = seen.number("last-length")
    if last > 9999:
        assert moment**-9999.0 > 0.1
    else:
        assert moment ** -(last + 1) < 0.1 + 1e-9 and moment**-last >= 0.1 - 1e-9
    assert seen.words["last-length"] == (
        "beyond T = 9999"
        if last > 9999
        else "at no length"
        if last < 1
        else f"up to T = {last:.0f}"
    )


def check_record(seen, correction, cost):
    record = provenance.recorded("stale-rollouts", "stale")
    name = "kept" if cost == "kept" else correction
    assert f"Chapter 9's record for: {record['words'][name]}." in seen.html
    for age in ("0", "1", "4", "16"):
        run = record["runs"][name].get(age) or record["runs"]["none"][age]
        assert seen.number(f"record-{age}") == round(run["kl"][-1], 4)
