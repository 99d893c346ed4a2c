"""What tests of the hub share: an authority that was made once, to copy."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import anyio
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from hub_authority import DOMAIN, PASSPHRASE

from bus.hub.state import State
from bus.identity.authority import open_authority
from bus.testing import ManualClock


@pytest.fixture(scope="session")
def made_authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Never open it; copy it."""
    folder = tmp_path_factory.mktemp("authority") / "trust"

    async def make() -> None:
        async with open_authority(folder, domain=DOMAIN, protection=PASSPHRASE, clock=ManualClock()):
            pass

    anyio.run(make)
    return folder


@pytest.fixture
def state(made_authority: Path, tmp_path: Path, runtime: Path) -> State:
    """A state folder with an authority of DOMAIN under PASSPHRASE, and nothing else."""
    folder = tmp_path / "state"
    shutil.copytree(made_authority, folder / "trust")
    return State(folder, runtime)
