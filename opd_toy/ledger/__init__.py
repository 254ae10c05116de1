"""The ledger: every claim of the book, with what shows it.

``CLAIMS`` is the list, ``check`` fails when a showing is missing, ``table`` is the page.
"""

from opd_toy.ledger.check import LedgerError, check
from opd_toy.ledger.claims import CLAIMS, KINDS, Claim
from opd_toy.ledger.page import rows, table

__all__ = ["CLAIMS", "KINDS", "Claim", "LedgerError", "check", "rows", "table"]
