"""The ledger: every claim of the book, with what shows it.

``CLAIMS`` is the list, ``check`` fails when a showing is missing, ``table`` is the page,
``link`` leads from a claim to where it is shown.
"""

from opd_toy.ledger.check import LedgerError, check
from opd_toy.ledger.claims import CLAIMS, KINDS, Claim
from opd_toy.ledger.page import link, rows, table

__all__ = ["CLAIMS", "KINDS", "Claim", "LedgerError", "check", "link", "rows", "table"]
