"""What the tests of identity share: a small world, whose authority is made once for all of them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from small_world import SmallAuthority, World


@pytest.fixture(scope="session")
def small_authority() -> SmallAuthority:
    return SmallAuthority()


@pytest.fixture
def world(small_authority: SmallAuthority) -> World:
    return World(small_authority)
