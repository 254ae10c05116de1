"""One row of the ledger."""

from collections.abc import Callable
from dataclasses import dataclass

KINDS = ("proof", "exact", "experiment", "text", "slider")


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What is claimed, how it is shown, and where.

    The page, the tests and the equation labels share the id: ``rkl-logit-gradient`` is the
    derivation of that name, the test ``test_rkl_logit_gradient`` and the label
    ``eq-rkl-logit-gradient``.
    """

    chapter: str  # the notes' number, or "Beyond the notes"
    page: str  # a file of the book without its suffix
    id: str
    statement: str
    shown_by: tuple  # some of KINDS
    evidence: Callable[[], str] | None = None  # computes the figure, where there is one

    @property
    def label(self):
        return f"eq-{self.id}" if "proof" in self.shown_by else f"claim-{self.id}"

    @property
    def test(self):
        return "test_" + self.id.replace("-", "_")
