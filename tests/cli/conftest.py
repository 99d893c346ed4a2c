"""A fleet that has its keys: made once for the tests that only look at it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from bus.hub.state import State, open_state
from bus.hub.tpm_process import stop_service


class Fleet:
    """A state folder with its own runtime folder, and the command line in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environ = os.environ | {"TPMBUS_STATE": str(folder / "state"), "XDG_RUNTIME_DIR": str(folder)}
        for name in ("TPMBUS_TPM", "TPMBUS_POLICY", "TPM_ENABLED", "TPM_ENABLE_PERCENT", "TPM_SAMPLE_RATE"):
            self.environ.pop(name, None)

    @property
    def state(self) -> State:
        return open_state(self.folder / "state", environ=self.environ)

    def run(self, *arguments: str, typed: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", "from bus.cli.main import main; main()", *arguments],
            input=typed,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
            env=self.environ | environment,
        )

    def json(self, *arguments: str, **environment: str) -> dict:
        done = self.run(*arguments, "--json", **environment)
        assert done.returncode == 0, done.stderr + done.stdout
        return json.loads(done.stdout)

    def stop(self) -> None:
        anyio.run(stop_service, self.state)


def make_fleet() -> Iterator[Fleet]:
    folder = Path(tempfile.mkdtemp(prefix="tb", dir="/tmp"))
    fleet = Fleet(folder)
    yield fleet
    fleet.stop()
    shutil.rmtree(folder)


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    """Nothing made yet."""
    yield from make_fleet()


@pytest.fixture(scope="module")
def provisioned() -> Iterator[Fleet]:
    """The reference fleet, all keys made. Only look at it."""
    for fleet in make_fleet():
        fleet.first = fleet.json("provision")  # type: ignore[attr-defined]
        yield fleet
