"""The proofs word for word, since a check of the formulas does not read the reasons between them.

``proofs_as_printed.md`` has of every derivation its claim, its setting, the equation that a
chapter shows and the steps below it.  After a change that is meant,
``python -m tests.test_proofs_as_printed`` writes it anew: read then what has changed.
"""

import pytest

from opd_toy.derivations import DERIVATIONS
from tests.conftest import ROOT

FILE = ROOT / "tests" / "proofs_as_printed.md"
ORDER = list(DERIVATIONS)  # a test that takes one away for a while puts it back at the end


def printed(one):
    """All its lines, without those that are there for Markdown's sake."""
    parts = [f"## {one.id}", one.claim, one.setting, one.latex_claim(), "", one.markdown()]
    lines = "\n".join(parts).split("\n")
    return "\n".join(line for line in lines if line not in ("", "$$"))


@pytest.fixture(scope="module")
def kept():
    sections = FILE.read_text(encoding="utf-8").removesuffix("\n").split("\n\n")
    return {text.split("\n")[0].removeprefix("## "): text for text in sections}


def test_every_derivation_is_kept_in_its_order(kept):
    assert list(kept) == ORDER


@pytest.mark.parametrize("id", DERIVATIONS)
def test_a_derivation_is_printed_as_it_was(id, kept):
    assert printed(DERIVATIONS[id]) == kept[id]


if __name__ == "__main__":
    FILE.write_text("\n\n".join(map(printed, DERIVATIONS.values())) + "\n", encoding="utf-8")
