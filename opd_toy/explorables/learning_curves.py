"""The lab's learning curves: every method, against tokens, steps or seconds (chapter 8)."""

import base64
import functools

import numpy as np
import traitlets

from opd_toy.explorables.host import Explorable, Subset
from opd_toy.records import provenance

METHODS = [
    "sft",
    "seqkd",
    "off_policy_reverse_kl",
    "on_policy_forward_kl",
    "gkd",
    "jsd",
    "top_k",
    "pg_0",
    "pg_0.5",
    "pg_0.9",
    "pg_1",
    "pg_baseline",
    "opd_reward",
    "rlvr",
]
AXES = ["tokens", "steps", "seconds"]
QUANTITIES = [
    "accuracy",
    "sequence_kl",
    "forward_sequence_kl",
    "order_entropy",
    "distinct",
    "length",
]
COLUMNS = AXES + QUANTITIES
LOGARITHMIC = ("sequence_kl", "forward_sequence_kl")
LEAST_KL = 1e-6  # nats; the logarithm of a KL below it is cut here
RECORDS = ["cpu", "gpu"]


class LearningCurves(Explorable):
    """The recorded study of the lab: learning curves of its methods, mean and range over seeds.

    Traits: ``methods`` (names among those of ``opd_toy.lm.methods.METHODS``), ``x`` ("tokens",
    "steps" or "seconds"), ``quantity`` ("accuracy", "sequence_kl", "forward_sequence_kl",
    "order_entropy", "distinct" or "length"), ``at`` (where the curves are read: per cent of the
    axis), ``record`` ("cpu", or "gpu" where there is such a record).  ``read()`` gives the
    numbers.
    Raises FileNotFoundError, naming the command that makes it, where the record is missing.
    """

    shown = (
        "Learning curves of several ways to distil a teacher into a small student: the share of "
        "right answers against trained tokens, a line for the mean of the seeds and a band from "
        "the least to the greatest. Level lines mark the teacher and the start. A table ranks the "
        "methods, the teacher among them, at the chosen number of tokens."
    )
    methods = Subset(METHODS, ["sft", "seqkd", "gkd", "pg_0", "opd_reward"]).tag(sync=True)
    x = traitlets.Enum(AXES, "tokens").tag(sync=True)
    quantity = traitlets.Enum(QUANTITIES, "accuracy").tag(sync=True)
    at = traitlets.Int(80, min=0, max=100).tag(sync=True)
    record = traitlets.Enum(RECORDS, "cpu").tag(sync=True)
    recording = traitlets.Dict().tag(sync=True, data=True)

    def __init__(self, **traits):
        super().__init__(
            recording={name: packed(results) for name, results in studies().items()}, **traits
        )

    @traitlets.validate("record")
    def _there(self, proposal):
        asked = proposal["value"]
        if asked not in studies():
            raise traitlets.TraitError(
                f"record must be among {list(studies())}, not {asked!r}: "
                f"`python -m opd_toy study --preset {asked}` makes figures/lm-study-{asked}.json"
            )
        return asked

    def position(self):
        """Where the curves are read, in units of the axis: a whole number of tokens or steps."""
        ends = [end(runs, self.x) for runs in studies()[self.record]["curves"].values()]
        place = self.at / 100 * max(ends)
        return place if self.x == "seconds" else float(np.floor(place + 0.5))

    def read(self):
        """{method: {"mean", "least", "greatest", "seeds"}} of the quantity at ``position()``.

        Between two measurements of a run the value lies on the line between them.  ``seeds``
        counts the runs that have a value there, for one may have broken down; None stands for a
        method that ended before.
        """
        curves = studies()[self.record]["curves"]
        return {name: self._reading(curves[name]) for name in self.methods if name in curves}

    def _reading(self, runs):
        place = self.position()
        values = [
            np.interp(place, run[self.x], numbers(run[self.quantity]), right=np.nan) for run in runs
        ]
        known = [float(value) for value in values if np.isfinite(value)]
        if place > end(runs, self.x) or not known:
            return None
        return {
            "mean": sum(known) / len(known),
            "least": min(known),
            "greatest": max(known),
            "seeds": len(known),
        }


def end(runs, axis):
    """How far all runs of a method go along an axis: those that broke down count where all did."""
    return min(run[axis][-1] for run in [run for run in runs if "not_finite" not in run] or runs)


def numbers(values):
    """Floats; what a run that broke down left (null, inf) is NaN."""
    values = np.asarray(values, dtype=np.float64)
    return np.where(np.isfinite(values), values, np.nan)


def studies():
    """The records that are there, {"cpu": results, …}; the one of the CPU must be."""
    there = [
        name
        for name in RECORDS
        if name == "cpu" or (provenance.ROOT / "figures" / f"lm-study-{name}.json").exists()
    ]
    return {name: study(name) for name in there}


@functools.cache
def study(name):
    """The results of one record, looked through: known methods, every run with every column."""
    file = f"lm-study-{name}"
    command = "study" if name == "cpu" else f"study --preset {name}"
    results = provenance.recorded(f"lm-study-{name}", command)
    for method, runs in results["curves"].items():
        if method not in METHODS:
            raise ValueError(
                f"methods in figures/{file}.json must be among {', '.join(METHODS)}, not {method!r}"
            )
        for run, seed in zip(runs, results["seeds"], strict=True):
            for column in COLUMNS:
                if len(run.get(column, [])) != len(run["steps"]):
                    raise ValueError(
                        f"curves of {method} in figures/{file}.json must have a value of {column} "
                        f"at each of {len(run['steps'])} steps; "
                        f"seed {seed} has {len(run.get(column, []))}"
                    )
    return results


def packed(results):
    """A record as the module wants it: 16-bit integers (0: no value) in base64, their scales."""
    methods = [each for each in METHODS if each in results["curves"]]
    values = _values([run for method in methods for run in results["curves"][method]])
    scales = [
        (float(np.nanmin(each)), float(np.nanmax(each))) if np.isfinite(each).any() else (0.0, 0.0)
        for each in values
    ]
    codes = [
        np.rint((each - low) / ((high - low) or 1) * 65534) + 1
        for each, (low, high) in zip(values, scales)
    ]
    return {
        "words": f"Recorded on {results['device'].replace('cpu', 'a CPU')}",
        "prompts": results["preset"]["distillation"]["evaluation_prompts"],
        "clock": results["clock"],
        "methods": methods,
        "seeds": len(results["seeds"]),
        "longest": values.shape[-1],
        "columns": COLUMNS,
        "logarithmic": list(LOGARITHMIC),
        "scales": scales,
        "codes": base64.b64encode(np.nan_to_num(codes).astype("<u2").tobytes()).decode(),
        "teacher": _levels(results["teacher"]),
        "start": _levels(results["start"]),
        "ends": {
            axis: {each: end(results["curves"][each], axis) for each in methods} for axis in AXES
        },
    }


def _values(runs):
    """All runs' columns (column, run, point), of a KL the logarithm; NaN where there is none."""
    longest = max(len(run["steps"]) for run in runs)
    values = np.full((len(COLUMNS), len(runs), longest), np.nan)
    for column, key in enumerate(COLUMNS):
        for row, run in enumerate(runs):
            of_run = numbers(run[key])
            values[column, row, : len(of_run)] = (
                np.log(np.maximum(of_run, LEAST_KL)) if key in LOGARITHMIC else of_run
            )
    return values


def _levels(model):
    """What is known of a model that is not trained here, the teacher or the start."""
    known = {key: model.get(key) for key in QUANTITIES}
    return {key: float(x) for key, x in known.items() if x is not None and np.isfinite(x)}
