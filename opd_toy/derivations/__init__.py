"""Every formula of the book, proved: ``DERIVATIONS`` maps a ledger id to its Derivation."""

from opd_toy.derivations import (
    beyond,
    chapter_1,
    chapter_2,
    chapter_3,
    chapter_4,
    chapter_5,
    chapter_6,
)
from opd_toy.derivations.exact import DerivationError
from opd_toy.derivations.framework import Derivation

DERIVATIONS = {
    one.id: one
    for chapter in (chapter_1, chapter_2, chapter_3, chapter_4, chapter_5, chapter_6, beyond)
    for one in chapter.DERIVATIONS
}

__all__ = ["DERIVATIONS", "Derivation", "DerivationError"]
