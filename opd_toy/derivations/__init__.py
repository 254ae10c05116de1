"""Every formula of the book, proved: ``DERIVATIONS`` maps a ledger id to its Derivation."""

from opd_toy.derivations import chapter_3
from opd_toy.derivations.framework import Derivation, DerivationError

DERIVATIONS = {one.id: one for chapter in (chapter_3,) for one in chapter.DERIVATIONS}

__all__ = ["DERIVATIONS", "Derivation", "DerivationError"]
