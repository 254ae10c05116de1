"""The tables that ``python -m opd_toy variance`` prints."""

import math

from opd_toy.commands.running import aligned

ESTIMATORS = {
    "sampled": "sampled",
    "full_return": "full return",
    "full_vocabulary": "Rao-Blackwellised",
}


def study_table(results):
    """Late variance, final distance and drift of every run."""
    ends = results["window_ends"]
    late = len(ends) - max(len(ends) // 4, min(len(ends), 1))  # the last quarter, at least one
    rows = [
        ["gamma", "seed", "variance left", "variance right", "distance left"]
        + ["distance right", "drifts"]
    ]
    for i, gamma in enumerate(results["gammas"]):
        for j, seed in enumerate(results["seeds"]):
            by_task = results["window_geometric_mean"][i][j] if ends else [[], []]
            variances = [_geometric(windows[late:]) for windows in by_task]
            distances = [
                by_task[-1] for by_task in results["final_position"]["distance_to_target"][i][j]
            ]
            rows.append(
                [
                    f"{gamma:g}",
                    str(seed),
                    *map(_scientific, variances),
                    *("not finite" if d is None else f"{d:.2f}" for d in distances),
                    _drifts(results["diverged"][i][j], results["tasks"], results["drifts"][i][j]),
                ]
            )
    teachers = results["teachers"]
    means, deviations = teachers["final_position_mean"], teachers["final_position_sd"]
    said = " and ".join(f"{mean:+.2f} ± {sd:.2f}" for mean, sd in zip(means, deviations))
    variance = "Too few iterations for the variance of a window"
    if ends:
        first = ends[late] - ends[0] + 1
        variance = (
            "Variance of the output layer's micro-batch gradient, geometric mean from iteration "
            f"{first} on"
        )
    return (
        f"Two-teacher control study, {results['settings']['iterations run']} iterations; "
        f"the teachers end at {said} (targets -3, +3).\n"
        f"{variance}; distance of the final position from the target.\n\n{aligned(rows)}"
    )


def _drifts(stopped, tasks, drifts):
    if stopped:
        return f"stopped at {stopped}"
    return " and ".join(task for task, yes in zip(tasks, drifts) if yes) or "no"


def frozen_table(results):
    blocks = [
        f"{stage} (iteration {at['iteration']}), {task} task\n\n{_estimators_table(found)}"
        for stage, at in results["stages"].items()
        for task, found in at["tasks"].items()
    ]
    title = (
        "Variance of one trajectory's gradient at a frozen student: output layer, "
        "then all parameters."
    )
    return "\n\n".join([title, *blocks, growth_table(results)])


def _estimators_table(found):
    rows = [
        ["estimator", "gamma", "variance", "95 %", "all parameters"]
        + ["bias^2 / |E g_1|^2", "MSE of 64"]
    ]
    scale = found["estimators"][-1]["all_parameters"].get("squared_norm")
    for row in found["estimators"]:
        output, every = row["output_layer"], row["all_parameters"]
        low, high = output["interval"]
        relative = error = ""
        if "squared_bias" in every:
            square, deviation = every["squared_bias"], every["squared_bias_standard_error"]
            error = _scientific(max(square, 0) + every["variance"] / 64)
            relative = f"{square / scale:.3f} ± {deviation / scale:.3f}" if scale else ""
        rows.append(
            [
                ESTIMATORS[row["estimator"]],
                f"{row['gamma']:g}",
                _scientific(output["variance"]),
                f"[{low:.2e}, {high:.2e}]",
                _scientific(every["variance"]),
                relative,
                error,
            ]
        )
    return aligned(rows)


def growth_table(results):
    rows = [["estimator", "gamma", *results["growth"]]]
    for stages in zip(*results["growth"].values()):
        if stages[0]["parameters"] == "output_layer":
            name = ESTIMATORS[stages[0]["estimator"]], f"{stages[0]['gamma']:g}"
            rows.append([*name, *map(_exponent, stages)])
    lengths = ", ".join(map(str, results["lengths"]))
    return (
        f"Control task, T = {lengths}: fitted exponents of the output layer's variance, "
        f"95 % bootstrap, at four stages of one student.\n\n{aligned(rows)}"
    )


def _exponent(row):
    return "{:.2f} [{:.2f}, {:.2f}]".format(row["exponent"], *row["interval"])


def sensitivity_table(results):
    rows = [
        ["std bounds", "optimiser", "gamma", "drifts", "was lost", "not finite"]
        + ["distance at the end", "late variance"]
    ]
    for row in results["rows"]:
        rows.append(
            [
                row["bounds"],
                row["optimiser"],
                f"{row['gamma']:g}",
                *(_share(row[name]) for name in ("drifts", "was_lost", "not_finite_at")),
                _distances([run[-1] for run in row["distance"]]),
                ", ".join(map(_scientific, row["late_variance"])),
            ]
        )
    iterations = ", ".join(map(str, results["checkpoints"]))
    title = f"Which open choices make gamma = 1 drift? {results['definition']} ({iterations})."
    blocks = [title, aligned(rows), crossed_table(results), "\n".join(results["notes"])]
    return "\n\n".join(blocks)


def crossed_table(results):
    rows = [["teachers' bounds", "students' bounds", "drifts", "distance at the end"]]
    for row in results["crossed"]:
        figures = _share(row["drifts"]), _distances(row["distance"])
        rows.append([row["teacher"], row["student"], *figures])
    title = "Teachers and students under bounds of their own, gamma = 1, Adam 1e-3."
    return f"{title}\n\n{aligned(rows)}"


def _share(values):
    return f"{sum(map(bool, values))} of {len(values)}"


def _distances(values):
    return ", ".join("-" if value is None else f"{value:.2f}" for value in values)


def exponents_table(found):
    lengths = found["lengths"]
    rows = [["estimator", "gamma", *(f"{a}-{b}" for a, b in zip(lengths, lengths[1:]))]]
    for row in found["rows"]:
        name = row["signal"] if row["causal"] else "full_return"
        exponents = [f"{x:.2f}" for x in row["exponents"]]
        rows.append([ESTIMATORS[name], f"{row['gamma']:g}", *exponents])
    pair = f"student {tuple(found['student'])}, teacher {tuple(found['teacher'])}"
    return (
        f"Independent positions, {pair}: local exponents of the variance in T, exact.\n"
        "The paper's bounds: T^2 for gamma = 0, T^4 for the full return; the sharper one: "
        f"T^3 for gamma = 1 and the full return.\n\n{aligned(rows)}"
    )


def benchmark_text(found):
    plain, stacked = found["seconds"]["plain"], found["seconds"]["stacked"]
    lines = [
        f"{found['dtype']}, {found['runs']} runs, {found['threads']} threads, "
        f"{found['repeats']} alternating repeats of {found['iterations']} iterations; "
        "seconds an iteration of all runs",
        f"  plain loop  median {plain['median']:.4f}  least {plain['least']:.4f}",
        f"  stacked     median {stacked['median']:.4f}  least {stacked['least']:.4f}",
        f"  ratio       median {found['ratio_of_medians']:.1f}  "
        f"least {found['ratio_of_least']:.1f}",
        f"  largest difference: variance {found['largest_relative_difference_of_variance']:.1e} "
        f"(relative), parameters {found['largest_difference_of_parameters']:.1e}",
    ]
    return "\n".join(lines)


def _geometric(values):
    return math.exp(sum(map(math.log, values)) / len(values)) if values and all(values) else None


def _scientific(x):
    return "-" if x is None else f"{x:.2e}"


TABLES = {"study": study_table, "frozen": frozen_table, "sensitivity": sensitivity_table}
