"""The losses on one card, beside other libraries' and what the card could do at best.

``python -m opd_toy gpu`` runs this module in a process of its own.  In the same run it
measures how fast the card copies memory and multiplies matrices.  From those follows the floor
of each setting: the time in which a copy moves as many bytes as the loss must read and write,
or, from hidden states, in which the card makes the four products with the heads.

Memory is the peak of a pass that PyTorch allocates beside the inputs.  Seconds are wall time
with the card waited for before and after.  The gradient's error is as in ``measuring``.
"""

import gc
import json
import statistics
import sys
import time
from dataclasses import asdict, replace

import torch

from opd_toy.lm.bench.cases import (
    CASES,
    PEERS,
    Setting,
    loss_function,
    make_inputs,
    one_pass,
    wait,
)
from opd_toy.lm.bench.measuring import exact_loss, gradient_sizes
from opd_toy.lm.bench.processes import cases_here, processor, versions

FROM_LOGITS = ("ours", "ours_overwrite", "trl", "textbook")
SETTINGS = (
    Setting("logits", FROM_LOGITS, tokens=2048, dtype="bfloat16"),
    Setting("logits_jsd", FROM_LOGITS, beta=0.5, tokens=2048, dtype="bfloat16"),
    Setting(
        "hidden_896",
        ("ours", "trl_chunked", "liger_1024"),
        tokens=2048,
        width=896,
        dtype="bfloat16",
    ),
)
SMALL = {"tokens": 8, "vocabulary": 500, "dtype": "float32"}  # to rehearse on the processor
COPY_BYTES, PRODUCT_SIZE = 1 << 30, 8192
FLOORS = {
    "products": "floor: the four products alone",
    "apart": "floor: reads both logits, writes the gradient",
}
PASSES = 20  # of a copy and a product; the fastest counts


def measure(device, repeats, small, report):
    """All settings on the device, as one JSON-able dict; the rows as those of ``processes``."""
    here = versions()
    settings = [replace(setting, **small) for setting in SETTINGS]
    settings = [replace(setting, cases=tuple(cases_here(setting, here))) for setting in settings]
    rates = card_rates(device, shrink=64 if small else 1)
    done, total, found = 0, sum(len(setting.cases) for setting in settings), []
    for setting in settings:
        inputs = make_inputs(setting, device)
        gradients = [
            torch.empty(size, dtype=torch.float64, device=device)
            for size in gradient_sizes(setting)
        ]
        exact = exact_loss(setting, inputs, gradients)
        rows = []
        for case in setting.cases:
            rows.append(measure_case(case, setting, exact, gradients, repeats, device))
            done += 1
            report(done, total)
        figures = {"floors": [floor(setting, rates)], "rows": rows}
        found.append(asdict(setting) | {"words": setting.words()} | figures)
    return {
        "processor": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "threads": torch.get_num_threads(),
        "repeats": repeats,
        "versions": here,
        "missing": [name for name in PEERS.values() if name not in here],
        "rates": rates,
        "settings": found,
    }


def measure_case(case, setting, exact, gradients, repeats, device):
    """A row of figures; of a library's case that fails, the reason."""
    row = {"case": case, "words": CASES[case]}
    try:
        loss = loss_function(case, setting, device)
        one_pass(loss, make_inputs(setting, device))  # loads and compiles
        (_, value, found), extra = with_extra_memory(loss, make_inputs(setting, device), device)
        row |= {"loss": value, "loss_error": abs(value / exact - 1), "extra_bytes": extra}
        row["gradient_error"] = error(found, gradients)
        del found
        row["seconds"] = [one_pass(loss, make_inputs(setting, device))[0] for _ in range(repeats)]
    except Exception as failure:
        if case.split("_")[0] not in PEERS and not isinstance(failure, torch.OutOfMemoryError):
            raise
        return row | {"failed": f"{case}: {str(failure).splitlines()[0]}"}
    return row | {"median": statistics.median(row["seconds"]), "least": min(row["seconds"])}


def with_extra_memory(loss, inputs, device):
    """(a pass, the bytes that it allocates at its height); None in their place on a processor."""
    gc.collect()
    if device.type != "cuda":
        return one_pass(loss, inputs), None
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    result = one_pass(loss, inputs)
    return result, torch.cuda.max_memory_allocated(device) - before


def error(found, exact):
    """The 2-norm of what the gradients are off, relative to the exact ones."""
    wrong = right = 0.0
    for gradient, reference in zip(found, exact):
        rows = gradient.reshape(reference.shape)
        for a, b in zip(rows.split(256), reference.split(256)):
            wrong += (a.double() - b).square().sum().item()
            right += b.square().sum().item()
    return (wrong / right) ** 0.5


def card_rates(device, shrink=1):
    """{"copy": bytes a second read and written, "product": operations a second in bfloat16}."""
    source = torch.ones(COPY_BYTES // shrink // 2, dtype=torch.bfloat16, device=device)
    target = torch.empty_like(source)
    size = PRODUCT_SIZE // shrink
    matrix = torch.ones(size, size, dtype=torch.bfloat16, device=device)
    copied = 2 * source.numel() * source.element_size()
    return {
        "copy": copied / fastest(lambda: target.copy_(source), source),
        "product": 2 * size**3 / fastest(lambda: matrix @ matrix, source),
    }


def fastest(work, like):
    """Seconds of the fastest of some passes, the first left out."""
    seconds = []
    for _ in range(1 + PASSES):
        wait(like)
        started = time.perf_counter()
        work()
        wait(like)
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])


def floor(setting, rates):
    """What no loss of this setting can beat, by the rates, as a row of ``floors``."""
    if setting.width:
        products = 4  # both models' logits; the gradients of the student's states and head
        operations = 2 * products * setting.tokens * setting.vocabulary * setting.width
        kind, seconds = "products", operations / rates["product"]
    else:
        bytes_of_logit = getattr(torch, setting.dtype).itemsize
        moved = 3 * setting.tokens * setting.vocabulary * bytes_of_logit  # two read, one written
        kind, seconds = "apart", moved / rates["copy"]
    words = f"{FLOORS[kind]}, at the card's rate"
    return {"kind": kind, "words": words, "median": seconds, "least": seconds}


def main():
    """Reads {"device", "repeats", "threads", "small"} as JSON from stdin.

    Writes a line of JSON to stdout for each case done, [done, total], then the figures.
    """
    job = json.loads(sys.stdin.read())
    torch.set_num_threads(job["threads"])
    report = lambda done, total: print(json.dumps([done, total]), flush=True)
    try:
        small = SMALL if job["small"] else {}
        print(json.dumps(measure(torch.device(job["device"]), job["repeats"], small, report)))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
