"""What the tests of a broker share: a small world with a policy for them, and a broker in it whose clock stands still."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "identity"))
sys.path.insert(0, str(Path(__file__).parent))

from played import POLICY, Stage
from small_world import SmallAuthority, World


@pytest.fixture(scope="session")
def small_authority() -> SmallAuthority:
    return SmallAuthority()


@pytest.fixture
def world(small_authority: SmallAuthority) -> World:
    return World(small_authority, POLICY)


@pytest.fixture
def stage(world: World) -> Stage:
    """Only within an event loop."""
    return Stage(world)
