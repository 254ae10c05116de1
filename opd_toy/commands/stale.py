"""``python -m opd_toy stale``: the record of training on texts that are some steps old."""

import json
from pathlib import Path

from opd_toy import _validate
from opd_toy.commands.running import (
    Progress,
    aligned,
    read_record,
    stoppable,
    threads,
    unchanged,
    write_record,
)

NOISES = (0.05, 0.3, 1.0)


def add(commands):
    parser = commands.add_parser(
        "stale",
        help="training on texts that are 0, 1, 4 and 16 steps old, with each correction",
        description="Train a small student on texts that it wrote some steps before, with each "
        "correction, and record how far from its teacher it ends. Six minutes of a processor. "
        "Interrupted or killed, the same command goes on after the last finished run.",
    )
    option = parser.add_argument
    folder = Path("_build/lm")
    option("--folder", type=Path, default=folder, help=f"where models are kept (default: {folder})")
    option(
        "--directory", type=Path, default=Path("figures"), help="of the record (default: figures)"
    )
    option("--show", action="store_true", help="print the recorded figures; train nothing")
    option(
        "--exact",
        action="store_true",
        help="print bias and variance of the corrections on 200 random pairs of 500 tokens, by "
        "linear algebra; train nothing, record nothing",
    )
    option("--seed", type=int, default=0, help="of the pairs of --exact (default: 0)")
    option(
        "--json", action="store_true", help="print the figures as JSON in the place of the table"
    )
    parser.set_defaults(run=lambda arguments: run(parser, arguments))


def run(parser, arguments):
    path = arguments.directory / "stale-rollouts.json"
    with stoppable(parser):
        if arguments.exact:
            results = exact(_validate.whole("seed", arguments.seed, 0))
            print(json.dumps(results) if arguments.json else exact_table(results))
            return
        results = read_record(path) if arguments.show else _made(path, arguments.folder)
        print(json.dumps(results) if arguments.json else table(results))


def _made(path, folder):
    from opd_toy.lm.stale import MODULES, SEEDS, stale

    with threads(1), unchanged(path, MODULES):
        results = stale(folder, Progress)
    write_record(path, results, modules=MODULES, seed=list(SEEDS))
    return results


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
