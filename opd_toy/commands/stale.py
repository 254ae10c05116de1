"""``python -m opd_toy stale``: the record of training on texts that are some steps old."""

import json

from opd_toy import _validate
from opd_toy.commands.running import Progress, add_small_study, aligned, make_record, stoppable

NOISES = (0.05, 0.3, 1.0)


def add(commands):
    parser = add_small_study(
        commands,
        "stale",
        "stale-rollouts.json",
        make,
        table,
        help="training on texts that are 0, 1, 4 and 16 steps old, with each correction",
        description="Train a small student on texts that it wrote some steps before, with each "
        "correction, and record how far from its teacher it ends. Six minutes of a processor. "
        "Interrupted or killed, the same command goes on after the last finished run.",
    )
    parser.add_argument(
        "--exact",
        action="store_true",
        help="print bias and variance of the corrections on 200 random pairs of 500 tokens, by "
        "linear algebra; train nothing, record nothing",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the pairs of --exact (default: 0)")
    study = parser.get_default("run")
    parser.set_defaults(
        run=lambda asked: show_exact(parser, asked) if asked.exact else study(asked)
    )


def make(path, folder):
    from opd_toy.lm.stale import MODULES, SEEDS, stale

    compute = lambda: stale(folder, Progress)
    return make_record(path, compute, modules=MODULES, seed=list(SEEDS))


def show_exact(parser, arguments):
    with stoppable(parser):
        results = exact(_validate.whole("seed", arguments.seed, 0))
        print(json.dumps(results) if arguments.json else exact_table(results))


def exact(seed):
    """{noise: {weight: [how far the mean is off, variance over that of fresh draws]}}, medians."""
    from opd_toy.pages.symptoms import WEIGHTS, stale

    return {
        f"{noise:g}": {
            name: [float(off), float(variance)]
            for name, (off, variance) in zip(WEIGHTS, stale(noise, seed=seed))
        }
        for noise in NOISES
    }


def exact_table(results):
    rows = [["off by, variance", *(f"noise {noise}" for noise in results)]]
    for name in next(iter(results.values())):
        cells = (found[name] for found in results.values())
        rows.append([name, *(f"{off:.3f}, {variance:.2f}" for off, variance in cells)])
    return (
        "Tokens that the student drew when its logits were elsewhere by this noise: distance of "
        "the mean\ngradient from the exact one, over its length, and variance over that of fresh "
        f"tokens\n\n{aligned(rows, 1)}"
    )


def table(results):
    """How far from its teacher each student ends, by the age of its texts; then the claims."""
    ages = [str(age) for age in results["ages"]]
    rows = [["", *(f"age {age}" for age in ages)]]
    for name, runs in results["runs"].items():
        cells = [f"{runs[age]['kl'][-1]:.2f}" if age in runs else "" for age in ages]
        rows.append([results["words"][name], *cells])
    claims = [f"{each['verdict']:<22}{each['claim']}" for each in results["claims"]]
    began = results["runs"]["gkd"]["0"]["kl"][0]
    return (
        f"KL(p‖q) of a text after {results['steps'][-1]} steps, mean of {len(results['seeds'])} "
        f"seeds; {began:.2f} at the start\n\n{aligned(rows, 1)}\n\n" + "\n".join(claims)
    )
