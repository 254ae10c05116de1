"""The claims of the book, as data; ``opd_toy.ledger.evidence`` computes their figures."""

from opd_toy.ledger.claims import beyond, one_position, sequences
from opd_toy.ledger.claims.claim import KINDS, Claim

CLAIMS = (*one_position.CLAIMS, *sequences.CLAIMS, *beyond.CLAIMS)

__all__ = ["CLAIMS", "KINDS", "Claim"]
