"""Whole printed texts against the ones kept in ``tests/kept``; see ``tests/kept_texts.py``."""

import importlib
import os

import pytest

from opd_toy.commands import bench
from tests.kept_commands import parsers
from tests.kept_texts import FOLDER, TEXTS, file_of, made
from tests.written import same

# By PyTorch, or to all digits: the last are the processor's.
MEASURED = ("lab-measures", "figures-of-the-ledger")


@pytest.mark.parametrize("name", TEXTS)
def test_a_text_is_the_one_that_is_kept(name):
    found, kept = made(name), file_of(name).read_bytes().decode()
    if name in MEASURED:
        found, kept = found.splitlines(), kept.splitlines()
        assert len(found) == len(kept)
        assert [pair for pair in zip(found, kept) if not same(*pair)] == []
    else:
        assert found == kept


def test_every_text_that_is_kept_is_made():
    assert {path.stem for path in FOLDER.iterdir()} == set(TEXTS)


@pytest.mark.parametrize("count, of_bench, of_variance", [(8, 4, 2), (1, 1, 1), (None, 1, 1)])
def test_as_many_threads_as_the_machine_has_up_to_a_bound(
    count, of_bench, of_variance, monkeypatch
):
    monkeypatch.setattr(os, "cpu_count", lambda: count)
    try:
        importlib.reload(bench)
        found = {name: parser.get_default("threads") for name, (_, parser) in parsers().items()}
    finally:
        monkeypatch.undo()
        importlib.reload(bench)
    assert (found["bench"], found["variance"]) == (of_bench, of_variance)
