"""What tests of the engine share: a gate that holds a TPM in the middle of an operation, and engines on fakes."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest

from bus.testing import FakeTpm
from bus.tpm.engine import Engine
from bus.tpm.software import SoftwareTpm
from bus.tpm.vault import FolderVault, MemoryVault

PATIENCE_SECONDS = 20
"""How long a test waits for what must happen; it never does."""


sys.path.insert(0, str(Path(__file__).parent))

from relay import Relay  # noqa: E402  it lies beside this file


class Gate:
    """A fault for FakeTpm: the operation that runs into it stays there until the test opens it."""

    def __init__(self) -> None:
        self._reached, self._opened = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self._reached.set()
        assert self._opened.wait(PATIENCE_SECONDS), "nobody opened the gate"

    def open(self) -> None:
        self._opened.set()

    async def reached(self) -> None:
        assert await anyio.to_thread.run_sync(self._reached.wait, PATIENCE_SECONDS), "no operation came to the gate"


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open()


@pytest.fixture
def chip() -> FakeTpm:
    return FakeTpm()


@pytest.fixture
def swtpms(tmp_path: Path, runtime: Path) -> Iterator[list[Any]]:
    """Three software TPMs of their own, without certificates for their endorsement keys: those take seconds to make."""
    from bus.tpm.swtpm import Swtpm

    processes = []
    for number in range(3):
        (tmp_path / f"swtpm-{number}" / "state").mkdir(parents=True)
        processes.append(Swtpm(tmp_path / f"swtpm-{number}", socket_path=runtime / f"{number}.sock"))
        processes[-1].start()
    yield processes
    for process in processes:
        process.stop()


@pytest.fixture
def relay(swtpm: Any, runtime: Path) -> Iterator[Relay]:
    """Between the library and this test's software TPM: open `relay.tcti`."""
    relay = Relay(runtime / "relay.sock", to=runtime / "tpm.sock")
    yield relay
    relay.close()


@pytest.fixture
def vault(tmp_path: Path) -> FolderVault:
    return FolderVault(tmp_path / "vault")


@pytest.fixture
def software(vault: FolderVault) -> SoftwareTpm:
    """The keystore that belongs to the vault."""
    return SoftwareTpm(vault.secret())


@pytest.fixture
def engine(chip: FakeTpm) -> Engine:
    """Not started: the test says `async with engine`."""
    return Engine(lambda: chip, MemoryVault())
