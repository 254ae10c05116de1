"""All library losses audited: what figures/library-audits.json keeps."""

import contextlib
import datetime
import time
import warnings
from dataclasses import asdict, fields
from importlib.metadata import version
from pathlib import Path

import torch

from opd_toy.audit import AuditError, audit, audit_sequence
from opd_toy.audit.exhibits.libraries import (
    areal,
    as_read,
    as_read_drawn,
    axolotl,
    liger,
    old_texts,
    openrlhf,
    skyrl,
    swift,
    tinker,
    torchrl,
    trl,
    trl_drawn,
    verl,
)
from opd_toy.audit.exhibits.libraries.measurements import MEASUREMENTS

RECORD = Path(__file__).parents[4] / "figures" / "library-audits.json"
SCHEMA = RECORD.with_suffix(".schema.json")
PACKAGES = {  # audited by their own code: the package's name, and the library's as it is written
    "trl": "TRL",
    "liger-kernel": "Liger",
    "verl": "verl",
    "tinker-cookbook": "Tinker cookbook",
    "ms-swift": "ms-swift",
    "areal": "AReaL",
    "torchrl": "TorchRL",
    "openrlhf": "OpenRLHF",
    "skyrl": "SkyRL",
    "axolotl": "Axolotl",
}
READ = tuple(as_read.SOURCES)  # audited by a reading of their code
NAMES = PACKAGES | {name: name for name in READ}
SEED = 0
MODULES = (
    verl,
    trl,
    trl_drawn,
    liger,
    tinker,
    swift,
    areal,
    torchrl,
    openrlhf,
    skyrl,
    axolotl,
    as_read,
    as_read_drawn,
    old_texts,
)
LIBRARY_LOSSES = {loss.id: loss for module in MODULES for loss in module.LOSSES}


def results_of(losses):
    """{"audits": [...], "measurements": {...}} of ``losses``, by the libraries of this Python."""
    with one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            "audits": [audited(loss) for loss in losses],
            "measurements": {name: measure() for name, measure in MEASUREMENTS.items()},
        }


def audited(loss):
    """The entry of one LibraryLoss; without a report where the library refuses, and with why."""
    facts = {field.name: getattr(loss, field.name) for field in fields(loss)}
    del facts["adapter"]
    entry = facts | {
        "source": asdict(loss.source) if loss.source else None,
        "without": list(loss.without),
        "version": loss.source.commit[:10] if loss.source else version(loss.library),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
    started = time.perf_counter()
    try:
        report = report_of(loss)
    except AuditError as error:
        note = "; ".join(filter(None, (loss.note, _reason(error))))
        found = {"optimises": "cannot be audited", "note": note, "report": None}
    else:
        found = {"optimises": report.optimises, "report": report.to_dict()}
    return entry | {"seconds": round(time.perf_counter() - started, 2)} | found


def report_of(loss):
    if loss.kind == "token":
        return audit(loss.adapter, drawn_from=loss.drawn_from, seed=SEED)
    return audit_sequence(loss.adapter, batched=loss.kind == "batch", seed=SEED)


def _reason(error):
    """The library's own words where it raised, or the name of what it raised."""
    return str(error.__cause__ or error) or type(error.__cause__).__name__


@contextlib.contextmanager
def one_thread():
    """With more threads PyTorch sums in another order, and rounds otherwise."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
