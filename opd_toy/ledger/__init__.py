"""The claims of the book, each with what shows it."""

from opd_toy.ledger.claims import *  # noqa: F403
from opd_toy.ledger.claims import _study  # noqa: F401
