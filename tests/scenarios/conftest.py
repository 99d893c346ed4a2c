"""What scenarios share: where their programs are, a nursery of processes, and a bus that was made once, to copy.

Those with real processes are told by `troupe`; those with a broker in hand by `kept_world` and `lying_broker`.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "backbone"))
sys.path.insert(0, str(Path(__file__).parent))

from policies_of_scenarios import NAMES, POLICY
from sizes import ROWS, SOAK, show
from troupe import Company, Nursery, company


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The figures of a soak, beside their targets."""
    if SOAK and ROWS:
        terminalreporter.write_line("")
        show("soak: scenarios", ROWS)


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    nursery = Nursery()
    yield nursery
    nursery.close()


@pytest.fixture(scope="session")
def made(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Company]:
    """Its agents have their keys and certificates, in software. Never open it; copy it."""
    runtime = Path(tempfile.mkdtemp(prefix="tpmbus-", dir="/tmp"))
    with company(nursery, None, tmp_path_factory.mktemp("made"), runtime, POLICY) as made:
        hub = made.hub()
        made.agents(*NAMES, url=None).end()
        hub.end()
        made.close()
        yield made
    shutil.rmtree(runtime)


@pytest.fixture
def bus_of(nursery: Nursery, made: Company, tmp_path: Path, runtime: Path) -> Iterator[Company]:
    """A copy of it: start a hub, and agents."""
    with company(nursery, made, tmp_path, runtime, POLICY) as found:
        yield found


@pytest.fixture
def bus_with_tpm(nursery: Nursery, made_swtpm: Path, tmp_path: Path, runtime: Path) -> Iterator[Company]:
    """A new one whose keys are in a software TPM of its own."""
    shutil.copytree(made_swtpm, tmp_path / "state" / "swtpm")
    (tmp_path / "state").chmod(0o700)
    with company(nursery, None, tmp_path, runtime, POLICY, tpm="swtpm") as found:
        yield found


@pytest.fixture
def bus_of_nats(nursery: Nursery, made: Company, tmp_path: Path, runtime: Path) -> Iterator[Company]:
    with company(nursery, made, tmp_path, runtime, POLICY.replace("ack_wait: 30s", "ack_wait: 5s")) as found:
        shutil.rmtree(found.state.journal)
        yield found


@pytest.fixture
def west(nursery: Nursery, made: Company, tmp_path: Path, runtime: Path) -> Iterator[Company]:
    """The state folder of another machine, with the keys and papers of all agents, and no authority."""
    folder = tmp_path / "west"
    folder.mkdir()
    with company(nursery, made, folder, runtime, POLICY) as found:
        for place in (found.state.trust / "private", found.state.broker, found.state.journal):
            shutil.rmtree(place)
        yield found
