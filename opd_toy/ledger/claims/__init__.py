"""The claims of the book, as data; ``opd_toy.ledger.evidence`` computes their figures."""

from opd_toy.ledger.claims import beyond, off_policy, one_position, sequences
from opd_toy.ledger.claims.claim import KINDS, Claim

CLAIMS = (*one_position.CLAIMS, *sequences.CLAIMS, *beyond.CLAIMS, *off_policy.CLAIMS)

__all__ = ["CLAIMS", "KINDS", "Claim"]
