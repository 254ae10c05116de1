"""All library losses audited: what figures/library-audits.json keeps."""

import contextlib
import warnings
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path

import torch

from opd_toy.audit import AuditError, audit, audit_sequence
from opd_toy.audit.exhibits.libraries import liger, tinker, trl, trl_drawn, verl
from opd_toy.audit.exhibits.libraries.measurements import MEASUREMENTS

RECORD = Path(__file__).parents[4] / "figures" / "library-audits.json"
PACKAGES = ("trl", "liger-kernel", "verl", "tinker-cookbook")
SEED = 0
LIBRARY_LOSSES = {
    loss.id: loss for module in (verl, trl, trl_drawn, liger, tinker) for loss in module.LOSSES
}


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
    entry = {**facts, "version": version(loss.library)}
    del entry["adapter"]
    try:
        report = report_of(loss)
    except AuditError as error:
        note = "; ".join(filter(None, (loss.note, _reason(error))))
        return {**entry, "optimises": "cannot be audited", "note": note, "report": None}
    return {**entry, "optimises": report.optimises, "report": report.to_dict()}


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
