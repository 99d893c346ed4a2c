"""What the tests of trust share: an authority that signs whatever a test wants, made once for all of them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from small_authority import SmallAuthority


@pytest.fixture(scope="session")
def authority() -> SmallAuthority:
    return SmallAuthority()


@pytest.fixture(scope="session")
def stranger() -> SmallAuthority:
    """Of the same domain, by its own word."""
    return SmallAuthority()
