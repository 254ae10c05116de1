"""The claims of the book, each with what shows it."""

from opd_toy.ledger.claims import *
from opd_toy.ledger.claims import _study
