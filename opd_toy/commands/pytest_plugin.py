"""The pytest fixture ``assert_optimises``: whoever has installed this package can ask for it.

Nothing of the auditor, and no torch, is imported before a test asks.
"""

import pytest


@pytest.fixture(scope="session")
def assert_optimises():
    """``assert_optimises(loss, "reverse KL", **options)`` of ``opd_toy.audit``."""
    from opd_toy.audit import assert_optimises

    return assert_optimises
