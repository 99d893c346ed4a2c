"""What tests of the hub share: an authority that was made once, to copy."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from forked_command import ForkedCommands
from homes import Home, copied, make_home
from hub_authority import DOMAIN, PASSPHRASE

from bus.hub.state import State
from bus.hub.tpm_process import stop_service
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


@pytest.fixture(scope="session")
def made_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """Never open it; copy it."""
    runtime = tempfile.mkdtemp(prefix="tpmbus-", dir="/tmp")
    with pytest.MonkeyPatch.context() as patch:
        _point_at(patch, runtime)
        made = make_home(tmp_path_factory.mktemp("home"))
        anyio.run(stop_service, made.state)
        yield made
    shutil.rmtree(runtime)


@pytest.fixture
def home(
    made_home: Home, tmp_path: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch, forked_commands: ForkedCommands
) -> Iterator[Home]:
    """With an authority and a policy that it signed, and no agent yet. Its TPM service ends with the test."""
    _point_at(monkeypatch, str(runtime))
    forked_commands.lend(monkeypatch)
    home = copied(made_home, tmp_path, forked_commands)
    yield home
    anyio.run(stop_service, home.state)


def _point_at(patch: pytest.MonkeyPatch, runtime: str) -> None:
    patch.setenv("XDG_RUNTIME_DIR", runtime)
    for name in ("TPMBUS_STATE", "TPMBUS_TPM", "TPMBUS_POLICY", "TPM_ENABLED", "TPM_ENABLE_PERCENT", "TPM_SAMPLE_RATE"):
        patch.delenv(name, raising=False)


@pytest.fixture
def nothing(tmp_path: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """An empty state folder."""
    _point_at(monkeypatch, str(runtime))
    home = Home.at(tmp_path)
    yield home
    anyio.run(stop_service, home.state)
