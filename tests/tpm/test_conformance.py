"""One check for all TPMs: the software keystore, the fake, the slow one, our own swtpm, and whatever a TCTI string reaches."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from bus.protocol.suites import IDENTITY_SUITES
from bus.testing import FakeTpm, SlowTpm, check_tpm
from bus.tpm.engine import Engine
from bus.tpm.interface import HARDWARE, SOFTWARE_TPM
from bus.tpm.several import SeveralTpms
from bus.tpm.software import SoftwareTpm
from bus.tpm.vault import MemoryVault

pytestmark = pytest.mark.anyio
QUICK_SUITES = [name for name in IDENTITY_SUITES if not name.startswith("rsa")]
DEVICE = Path("/dev/tpmrm0")


async def test_the_software_keystore_passes():
    await check_tpm(lambda: Engine(None, MemoryVault(), software=SoftwareTpm(bytes(32))))


async def test_the_fake_passes():
    await check_tpm(lambda: Engine(FakeTpm, MemoryVault()), suites=QUICK_SUITES)


async def test_a_fake_with_all_hashes_passes():
    await check_tpm(
        lambda: Engine(lambda: FakeTpm(hashes=["sha256", "sha384", "sha3-256", "sha3-384"]), MemoryVault()), suites=QUICK_SUITES
    )


async def test_the_slow_one_passes():
    await check_tpm(lambda: Engine(lambda: SlowTpm(FakeTpm(), 0.001, 0.002), MemoryVault()), suites=QUICK_SUITES)


async def test_several_fakes_pass_as_one_engine():
    fakes = {f"fake {number}": (lambda number=number: FakeTpm(number=number)) for number in range(3)}
    await check_tpm(lambda: SeveralTpms(fakes, MemoryVault(), software=SoftwareTpm(bytes(32))), suites=QUICK_SUITES)


async def test_several_software_tpms_pass_as_one_engine(swtpms, vault, software):
    from bus.tpm.esapi import EsapiTpm

    openers = {f"swtpm-{number}": (lambda one=one: EsapiTpm(one.tcti, origin=SOFTWARE_TPM)) for number, one in enumerate(swtpms)}
    await check_tpm(lambda: SeveralTpms(openers, vault, software=software), suites=["ecc256/sha256", "ecc384/sha3-256"])


async def test_a_software_tpm_passes_with_every_suite(swtpm, vault, software):
    from bus.tpm.esapi import EsapiTpm

    await check_tpm(lambda: Engine(lambda: EsapiTpm(swtpm.tcti, origin=SOFTWARE_TPM), vault, software=software))


@contextmanager
def somebody_elses_swtpm(folder: Path, server: list[str], *, answers_at):
    """Started as any user would, by hand, on a TPM that nobody has prepared: no endorsement certificate, nothing persistent."""
    folder.mkdir()
    command = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={folder}", *server, "--flags", "not-need-init,startup-clear"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not answers_at():
            assert process.poll() is None, "swtpm ended"
            assert time.monotonic() < deadline
            time.sleep(0.01)  # swtpm needs the processor too
        yield
    finally:
        process.terminate()
        process.wait(10)


def reachable(family, *addresses):
    """All of them: a TPM and its control channel do not begin to listen at the same moment."""
    for address in addresses:
        with socket.socket(family) as probe:
            try:
                probe.connect(address)
            except OSError:
                return False
    return True


@contextmanager
def by_path(folder):
    path = folder / "x"
    server = ["--server", f"type=unixio,path={path}", "--ctrl", f"type=unixio,path={path}.ctrl"]
    with somebody_elses_swtpm(folder / "s", server, answers_at=lambda: reachable(socket.AF_UNIX, str(path), f"{path}.ctrl")):
        yield f"swtpm:path={path}"


@contextmanager
def by_port(folder):
    with ExitStack() as stack:
        for port in range(23_210, 24_210, 2):
            if reachable(socket.AF_INET, ("127.0.0.1", port)):
                continue
            server = ["--server", f"type=tcp,port={port}", "--ctrl", f"type=tcp,port={port + 1}"]
            shutil.rmtree(folder / "s", ignore_errors=True)
            both = [("127.0.0.1", port), ("127.0.0.1", port + 1)]
            with suppress(AssertionError):
                up = somebody_elses_swtpm(folder / "s", server, answers_at=lambda both=both: reachable(socket.AF_INET, *both))
                stack.enter_context(up)
                break
        yield f"swtpm:host=127.0.0.1,port={port}"


@pytest.mark.processes
@pytest.mark.parametrize("way", [by_path, by_port])
async def test_a_tpm_that_somebody_else_started_passes(way, runtime):
    from bus.tpm.esapi import EsapiTpm

    with way(runtime) as tcti:
        suites = ["ecc256/sha256", "ecc384/sha3-256"]
        await check_tpm(lambda: Engine(lambda: EsapiTpm(tcti, origin=SOFTWARE_TPM), MemoryVault()), suites=suites)


@pytest.mark.skipif(not DEVICE.exists(), reason="there is no TPM in this machine")
async def test_the_tpm_of_this_machine_passes():
    from bus.tpm.esapi import EsapiTpm

    suites = ["ecc256/sha256", "ecc256/sha3-256"]
    await check_tpm(lambda: Engine(lambda: EsapiTpm(f"device:{DEVICE}", origin=HARDWARE), MemoryVault()), suites=suites)
