"""TRL's own tests of ``generalized_jsd_loss``, run on this book's loss.

The wheel and the sdist of trl hold no tests, and their code is not copied here: `make test-peers`
fetches the file from trl's repository at v1.16.0.  Without it these tests are skipped.
"""

import ast
import functools
import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from examples.trl_gkd_trainer import ExactGKDTrainer
from tests import jsd_faults
from tests.conftest import ROOT

FILE = Path(os.environ.get("TRL_TESTS", ROOT / ".venv-peers" / "test_gkd_trainer.py"))
TRL = "https://raw.githubusercontent.com/huggingface/trl/v1.16.0"
WHERE = f"{TRL}/tests/experimental/test_gkd_trainer.py"


def their_class(trainer):
    """TestGeneralizedJSDLoss with ``trainer`` in the place of GKDTrainer."""
    tree = ast.parse(FILE.read_text(encoding="utf-8"))
    found = [
        node
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name == "TestGeneralizedJSDLoss"
    ]
    names = {"torch": torch, "F": F, "GKDTrainer": trainer, "TrlTestCase": object}
    exec(compile(ast.Module(found, []), str(FILE), "exec"), names)
    return names["TestGeneralizedJSDLoss"]


def failures(trainer):
    """Names of their tests that fail, and how many there are."""
    cases = their_class(trainer)
    names = [name for name in dir(cases) if name.startswith("test_")]
    failed = []
    for name in names:
        torch.manual_seed(0)
        case = cases()
        case.setup_method()
        try:
            getattr(case, name)()
        except AssertionError:
            failed.append(name)
    return failed, len(names)


needs_file = pytest.mark.skipif(
    not FILE.is_file(), reason=f"put {WHERE} into {FILE}, or its path into TRL_TESTS"
)


@needs_file
def test_ours_is_green():
    failed, count = failures(ExactGKDTrainer)
    assert failed == [] and count >= 8


@needs_file
def test_theirs_can_fail():
    class Doubled(ExactGKDTrainer):
        @staticmethod
        def generalized_jsd_loss(*arguments, **named):
            return 2 * ExactGKDTrainer.generalized_jsd_loss(*arguments, **named)

    assert failures(Doubled)[0] == ["test_generalized_jsd_loss_edge_cases"]


@needs_file
@pytest.mark.parametrize("fault", jsd_faults.FAULTS)
def test_theirs_miss_what_ours_catch(fault):
    """Each is caught by tests/test_lm_losses.py; see there."""

    class Faulty:
        generalized_jsd_loss = staticmethod(functools.partial(jsd_faults.jsd, fault=fault))

    assert failures(Faulty)[0] == []
