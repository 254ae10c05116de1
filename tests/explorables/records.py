"""What the two sliders of recorded studies ought to show, by the records."""

import math

import numpy as np

from opd_toy.records import provenance
from tests.explorables.reading import all_of, in_powers, rounded, same


def control_study(seen, widget):
    study = provenance.recorded("control-study", "variance")
    g, s = (
        study[name].index(float(seen.choices[one]))
        for name, one in (("gammas", "gamma"), ("seeds", "seed"))
    )
    t, iteration = study["tasks"].index(seen.choices["task"]), int(seen.outputs["iteration"])
    first, last = 40 * math.ceil(iteration / 40) - 39, 40 * math.ceil(iteration / 40)
    mine = [
        n
        for n, each in enumerate(study["iterations"])
        if first <= each <= last and (each % 2 == 1) == (study["tasks"][t] == "left")
    ]
    variance = np.exp(np.mean(np.log(np.array(study["variance"])[:, s, mine]), axis=1))
    shown = seen.table(0)
    np.testing.assert_allclose(
        shown[:-1, 0], variance, rtol=2e-4
    )  # embedded as 16 bits of its logarithm
    same("times γ = 0's", shown[:-1, 1], shown[:-1, 0] / shown[0, 0])
    checkpoint = max([c for c, each in enumerate(study["checkpoints"]) if each <= last], default=0)
    ends = np.array(
        [np.array(study["final_position"][what])[:, s, t, checkpoint] for what in ("mean", "sd")]
    )
    np.testing.assert_allclose(shown[:-1, 2:], ends.T, atol=5.1e-4)
    same(
        "teacher",
        shown[-1, 2:],
        [study["teachers"][f"final_position_{what}"][t] for what in ("mean", "sd")],
    )
    said = in_powers(shown[g, 0]) if not 0.01 <= shown[g, 0] < 1000 else ""
    assert (
        f"At iterations {first}–{last}, γ = {study['gammas'][g]:g}, seed {study['seeds'][s]}, "
        f"{study['tasks'][t]} task, the gradient’s variance is {said}" in seen.sentence
    )
    ratio = shown[g, 0] / shown[4 if g == 0 else 0, 0]
    in_words = lambda x: in_powers(x) if x >= 999.5 else rounded(x, 1 if x < 9.95 else 0)
    factor = in_words(max(ratio, 1 / ratio))
    assert (
        f", {factor} times that of γ = {1 if g == 0 else 0}."
        if ratio >= 1
        else f"that of γ = {1 if g == 0 else 0} is {factor} times as large."
    ) in seen.sentence
    mean, deviation = shown[g, 2:]
    target = study["targets"][t]
    short = (target - mean) * np.sign(target)
    further = abs(short) > abs(target - study["starts"][t])
    side = "away from" if further else "short of" if short > 0 else "beyond"
    place = "on the target" if abs(short) < 0.005 else f"{rounded(abs(short), 2)} {side} the target"
    after = (
        f"After iteration {study['checkpoints'][checkpoint]}"
        if study["checkpoints"][checkpoint]
        else "Before any training"
    )
    assert seen.sentence.endswith(
        f"{after} its trajectories end at {rounded(mean, 2)} ± {rounded(deviation, 2)}, "
        f"on average {place} {rounded(target, 0)}."
    )


CURVES = {  # share or unit, digits, +1 where more is better, what the leader does
    "accuracy": ("", 1, 1, "is right most often"),
    "sequence_kl": ("nats", 2, -1, "has the least sequence KL"),
    "forward_sequence_kl": ("nats", 2, -1, "has the least forward sequence KL"),
    "order_entropy": ("nats", 2, 1, "spreads its right workings most evenly over the orders"),
    "distinct": ("workings", 2, 1, "finds the most distinct right workings"),
    "length": ("tokens", 1, 1, "writes the longest texts"),
}
CURVE_NAMES = {
    "sft": "SFT",
    "seqkd": "SeqKD",
    "off_policy_reverse_kl": "reverse KL off-policy",
    "on_policy_forward_kl": "forward KL on-policy",
    "gkd": "GKD",
    "jsd": "JSD",
    "top_k": "top k",
    "pg_0": "PG γ = 0",
    "pg_0.5": "PG γ = 0.5",
    "pg_0.9": "PG γ = 0.9",
    "pg_1": "PG γ = 1",
    "pg_baseline": "PG with baseline",
    "opd_reward": "OPD + reward",
    "rlvr": "reward alone",
}


def finite(x):
    return x is not None and math.isfinite(x)


def curve_end(runs, axis):
    """Where the first run ended that did not break down."""
    ends = [run[axis][-1] for run in runs if "not_finite" not in run]
    return min(ends or [run[axis][-1] for run in runs])


def curve_values(study, name, quantity, axis, x):
    """The values of a method's runs at x: None where one of them ended before."""
    runs = study["curves"][name]
    if x > curve_end(runs, axis):
        return None
    values = []
    for run in runs:
        if x > run[axis][-1]:  # it broke down
            continue
        after = next(i for i, place in enumerate(run[axis]) if place >= x)
        before = after if run[axis][after] == x else after - 1
        part = (
            (x - run[axis][before]) / (run[axis][after] - run[axis][before])
            if after > before
            else 0
        )
        low, high = run[quantity][before], run[quantity][after]
        if finite(low) and finite(high):
            values.append(low + part * (high - low))
    return values


def learning_curves(seen, widget):
    study = provenance.recorded(f"lm-study-{seen.choices.get('record', 'cpu')}", "study")
    axis, quantity, at = seen.choices["x"], seen.choices["quantity"], int(seen.outputs["at"])
    curves, names = study["curves"], seen.switched
    furthest = max(curve_end(runs, axis) for runs in curves.values())
    x = at / 100 * furthest if axis == "seconds" else math.floor(at / 100 * furthest + 0.5)
    every = [y for name in curves for run in curves[name] for y in run[quantity] if finite(y)]
    known = {}  # name: mean, least, most, as the table has them
    rows = {
        name: (cells, texts)
        for name, cells, texts in zip(seen.rows[0], seen.tables[0], seen.texts[0])
        if name
    }
    assert set(rows) == set(names) | {
        who for who in ("teacher", "start") if finite(study[who].get(quantity))
    }
    ended, broken = [], []
    for name in names:
        values, cells = curve_values(study, name, quantity, axis, x), rows[name]
        if not values:
            assert cells[1][0] == ("ended" if values is None else "broken") and set(cells[0]) == {
                ""
            }
            (ended if values is None else broken).append(CURVE_NAMES[name])
            continue
        known[name] = shown = [float(cell) for cell in cells[0][:3]]
        # embedded as 16 bits of the range, of the logarithm (from 1e-6) for a KL
        slack = (
            {"rtol": 5e-4, "atol": 1.1e-6}
            if quantity.endswith("kl")
            else {"rtol": 0, "atol": 4e-5 * (max(every) - min(every))}
        )
        np.testing.assert_allclose(shown, [np.mean(values), min(values), max(values)], **slack)
        other = "tokens" if axis == "seconds" else "seconds"
        largest = max(run[other][-1] for runs in curves.values() for run in runs)
        np.testing.assert_allclose(
            float(cells[0][3]),
            np.mean(curve_values(study, name, other, axis, x)),
            rtol=0,
            atol=1e-4 * largest,
        )
        missing = len(study["seeds"]) - len(values)
        assert (f"{len(values)} of {len(study['seeds'])} seeds" in seen.html) or not missing
    levels = {who: float(rows[who][0][0]) for who in ("teacher", "start") if who in rows}
    for who, level in levels.items():
        assert level == study[who][quantity]
    if quantity == "accuracy":
        prompts, share = (
            study["preset"]["distillation"]["evaluation_prompts"],
            study["teacher"]["accuracy"],
        )
        assert (
            f"{prompts} test prompts, the same for all. The standard error of the teacher’s share "
            f"is {rounded(100 * math.sqrt(share * (1 - share) / prompts), 1)} points." in seen.html
        )
    # ranked, the teacher and the start among them, and after them what has no value
    unit, digits, better, leads = CURVES[quantity]
    ranks = [
        better * (known[name][0] if name in known else levels[name])
        for name in rows
        if name in known or name in levels
    ]
    assert ranks == sorted(ranks, reverse=True)
    assert list(rows)[len(ranks) :] == [name for name in names if name not in known]
    place = {
        "tokens": tokens_in_words(x),
        "steps": f"{x} steps",
        "seconds": f"{rounded(x, 1 if x < 99.95 else 0)} seconds",
    }[axis]
    assert seen.sentence == curves_in_words(
        quantity,
        place if x else "",
        {CURVE_NAMES[name]: known[name] for name in rows if name in known},
        levels,
        ended,
        broken,
    )


def tokens_in_words(x):
    return (
        f"{rounded(x / 1e6, 2)} million tokens"
        if x >= 999500
        else f"{rounded(x / 1000, 0)} thousand tokens"
        if x >= 9999.5
        else f"{x} tokens"
    )


def curves_in_words(quantity, place, known, levels, ended, broken):
    """The sentence on {name: (mean, least, most)}, the best first."""
    unit, digits, better, leads = CURVES[quantity]
    in_units = (
        (lambda y: f"{rounded(100 * y, digits)} %")
        if not unit
        else lambda y: f"{rounded(y, digits)} {unit}"
    )
    last_digit = lambda y: math.floor((1 if unit else 100) * y * 10**digits + 0.5)
    where = f"After {place}" if place else "Before any training"
    bounds = "".join(f" The {who} is at {in_units(level)}." for who, level in levels.items())
    absent = (f" Ended before: {all_of(ended)}." if ended else "") + (
        f" Without a value here: {all_of(broken)}." if broken else ""
    )
    if not known and not ended and not broken:
        return f"No method is switched on: switch some on to compare their curves.{bounds}"
    if not known:
        return f"{where} there is nothing to compare.{absent}{bounds}"
    first, (mean, least, most) = next(iter(known.items()))
    teacher = levels.get("teacher")
    above = [
        name
        for name, each in known.items()
        if better > 0 and teacher is not None and last_digit(each[0]) > last_digit(teacher)
    ]
    if better < 0 or teacher is None:
        end = f" The start was at {in_units(levels['start'])}." if "start" in levels else ""
    elif above:
        which = {name: "every seed" if known[name][1] > teacher else "the mean" for name in above}
        told = all_of([f"{name} ({who})" for name, who in which.items()])
        end = f" Above the teacher’s {in_units(teacher)}: {told}."
    else:
        end = f" None is above the teacher’s {in_units(teacher)}."
    if len(known) == 1:
        bare = [in_units(x).removesuffix(f" {unit}" if unit else "") for x in (least, most)]
        seeds = f"its seeds from {bare[0]} to {bare[1]}"
        return f"{where} {first} is at {in_units(mean)}, {seeds}.{absent}{end}"
    level = [name for name, each in known.items() if last_digit(each[0]) == last_digit(mean)]
    rest = [name for name in known if name not in level]
    says = (
        f"{all_of(level)} are level at {in_units(mean)}"
        if len(level) > 1
        else f"{first} {leads}: {in_units(mean)}"
    )
    if rest:
        gap = abs(last_digit(mean) - last_digit(known[rest[0]][0])) / 10**digits
        more = "more" if better > 0 else "less"
        says += f", {rounded(gap, digits)} {unit or 'points'} {more} than {rest[0]}"
    near = [name for name in rest if known[name][1] <= most and least <= known[name][2]]
    bands = ""
    if rest:
        whom = (
            "no other"
            if not near
            else "all others"
            if near == rest and len(near) > 2
            else f"that of {near[0]}"
            if len(near) == 1
            else f"those of {all_of(near)}"
        )
        bands = f" The seed band of {first} overlaps {whom}."
    return f"{where} {says}.{bands}{absent}{end}"
