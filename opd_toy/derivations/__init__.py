"""Every formula of the book, proved: ``DERIVATIONS`` maps a ledger id to its Derivation."""

from opd_toy.derivations import (
    beyond,
    chapter_1,
    chapter_2,
    chapter_3,
    chapter_4,
    chapter_5,
    chapter_6,
    chapter_9,
    families,
    future,
    variance_bounds,
)
from opd_toy.derivations.exact import DerivationError
from opd_toy.derivations.framework import Derivation

CHAPTERS = (
    chapter_1,
    chapter_2,
    chapter_3,
    chapter_4,
    chapter_5,
    families,
    chapter_6,
    future,
    variance_bounds,
    beyond,
    chapter_9,
)
DERIVATIONS = {one.id: one for chapter in CHAPTERS for one in chapter.DERIVATIONS}

__all__ = ["DERIVATIONS", "Derivation", "DerivationError"]
