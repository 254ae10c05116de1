"""How the losses' cost grows: time and extra memory against tokens, vocabulary and width.

``python -m opd_toy bench --growth`` runs this module in a process of its own.  Each point, a
loss at one size, has two processes as in ``measuring``: one for the extra memory of a pass,
one for the seconds of the fastest of some.  All losses are the reverse KL in float32.
"""

import gc
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from opd_toy.lm.bench.cases import Setting, one_pass
from opd_toy.lm.bench.forks import once, processor, versions
from opd_toy.lm.bench.measuring import prepare, weigh
from opd_toy.lm.rows import CPU_BLOCK_BYTES

LINES = {
    "textbook": "textbook autograd from logits",
    "ours": "this book from logits",
    "hidden": "this book from hidden states",
}
LEAST_SECONDS = 0.2  # of passes at one point, together
CACHE = Path("/sys/devices/system/cpu/cpu0/cache")


@dataclass(frozen=True)
class Sweep:
    """One size varies, and the others stay.

    over: "tokens", "vocabulary", "width", or "row", a vocabulary with as many tokens as make
    ``logits`` of them.
    """

    over: str
    values: tuple
    lines: tuple = tuple(LINES)
    tokens: int = 256
    vocabulary: int = 1 << 15
    width: int = 64
    logits: int = 1 << 24

    def setting(self, line, value):
        """What is measured at a point."""
        size = {"tokens": self.tokens, "vocabulary": self.vocabulary, "width": self.width}
        if self.over == "row":
            size |= {"vocabulary": value, "tokens": self.logits // value}
        else:
            size[self.over] = value
        if line != "hidden":
            size["width"] = 0
        return Setting(line, ("textbook" if line == "textbook" else "ours",), **size)


def doubled(first, last):
    """first, 2 first, … up to last."""
    return tuple(first << i for i in range((last // first).bit_length()))


SWEEPS = (
    Sweep("tokens", doubled(64, 4096)),
    Sweep("vocabulary", doubled(1 << 15, 1 << 18)),
    Sweep("width", doubled(64, 1024), ("hidden",)),
    Sweep("row", doubled(1 << 13, 1 << 22), ("ours",)),
)
SMALL_SWEEPS = (
    Sweep("tokens", doubled(8, 32), vocabulary=2000, width=8),
    Sweep("vocabulary", doubled(1000, 4000), tokens=16, width=8),
    Sweep("width", doubled(8, 32), ("hidden",), tokens=16, vocabulary=2000),
    Sweep("row", doubled(1 << 10, 1 << 12), ("ours",), logits=1 << 14),
)


def measure(sweeps, repeats, threads, report):
    """All points and the fitted exponents, as one JSON-able dict.

    Forks: nothing may have been computed before.
    """
    places = [
        (sweep, line, value) for sweep in sweeps for line in sweep.lines for value in sweep.values
    ]
    points = []
    for sweep, line, value in places:
        setting = sweep.setting(line, value)
        memory = once(weigh, setting.cases[0], setting, threads)["extra_bytes"]
        seconds = once(in_a_row, setting.cases[0], setting, threads, repeats)
        size = {name: getattr(setting, name) for name in ("tokens", "vocabulary", "width")}
        point = {"over": sweep.over, "line": line, "value": value, **size}
        points.append(point | {"seconds": min(seconds), "extra_bytes": memory})
        report(len(points), len(places))
    return {
        "processor": processor(),
        "threads": threads,
        "repeats": repeats,
        "versions": {"torch": versions()["torch"]},
        "block_bytes": CPU_BLOCK_BYTES,
        "cache_bytes": cache_bytes(),
        "lines": LINES,
        "points": points,
        "exponents": exponents(points),
    }


def in_a_row(pipe, case, setting, threads, repeats):
    """A process: the seconds of as many passes, or of more if they are short."""
    loss, inputs = prepare(case, setting, threads)
    seconds = []
    while len(seconds) < repeats or sum(seconds) < LEAST_SECONDS:
        gc.collect()
        seconds.append(one_pass(loss, inputs)[0])
    pipe.send(seconds)


def exponents(points):
    """How each cost of each line goes with what varies: rows of slopes between logarithms.

    ``exponent`` is that of the least-squares line, ``first`` and ``last`` those between the two
    smallest and the two largest sizes.  A cost that is not known at each size has no row.
    """
    found = []
    for over, line in dict.fromkeys((point["over"], point["line"]) for point in points):
        if over == "row":
            continue
        here = [point for point in points if (point["over"], point["line"]) == (over, line)]
        for cost in ("seconds", "extra_bytes"):
            heights = [point[cost] for point in here]
            if not all(heights):
                continue
            x, y = np.log([point["value"] for point in here]), np.log(heights)
            slopes = {
                "exponent": np.polyfit(x, y, 1)[0],
                "first": (y[1] - y[0]) / (x[1] - x[0]),
                "last": (y[-1] - y[-2]) / (x[-1] - x[-2]),
            }
            slopes = {name: float(slope) for name, slope in slopes.items()}
            found.append({"over": over, "line": line, "cost": cost, **slopes})
    return found


def cache_bytes():
    """{level: bytes} of a core's second-level and of the shared third-level cache.

    Empty where the system does not tell.
    """
    found = {}
    for index in CACHE.glob("index*"):
        try:
            level, size = ((index / name).read_text().strip() for name in ("level", "size"))
        except OSError:
            continue
        if level in ("2", "3") and size.endswith("K"):
            found[level] = 1024 * int(size[:-1])
    return found


def main():
    """Reads {"small", "repeats", "threads"} as JSON from stdin.

    Writes a line of JSON to stdout for each point done, [done, total], then the figures.
    """
    job = json.loads(sys.stdin.read())
    sweeps = SMALL_SWEEPS if job["small"] else SWEEPS
    report = lambda done, total: print(json.dumps([done, total]), flush=True)
    try:
        print(json.dumps(measure(sweeps, job["repeats"], job["threads"], report)))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
