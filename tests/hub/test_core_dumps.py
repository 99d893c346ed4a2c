"""A process that holds the root key, or the TPM, leaves its memory nowhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import anyio
from homes import Straight

from bus.clock import SystemClock
from bus.hub.gateway_papers import GatewayPapers
from bus.hub.state import open_state
from bus.hub.tpm_process import stop_service

sys.path.insert(0, str(Path(__file__).parent.parent / "backbone"))

from nats_servers import nats_server

ASK = "import ctypes, resource; print(*resource.getrlimit(resource.RLIMIT_CORE), ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))"
"""The limits of core dumps, soft and hard, and PR_GET_DUMPABLE."""
OPEN_AN_AUTHORITY = """
import sys, anyio
from pathlib import Path
from bus.hub.authority import open_state_authority
from bus.hub.state import open_state

async def main():
    async with open_state_authority(open_state(Path(sys.argv[1])), domain="tpmbus.test", passphrase="only for tests"):
        exec(sys.argv[2])

anyio.run(main)
"""

OPEN_A_BUS = """
import sys, anyio, bus

async def main():
    async with bus.open(policy=sys.argv[1], state=sys.argv[2], tpm="software"):
        exec(sys.argv[3])

anyio.run(main)
"""

OPEN_A_GATEWAY = OPEN_A_BUS.replace("policy=sys.argv[1]", "backbone=sys.argv[1]")


def said_by(program, *arguments):
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_who_opens_an_authority_has_no_core_dumps(tmp_path):
    assert said_by(OPEN_AN_AUTHORITY, str(tmp_path / "state"), ASK) == ["0", "0", "0"]


def test_who_has_a_bus_has_none(home):
    assert said_by(OPEN_A_BUS, str(home.policy), str(home.folder), ASK) == ["0", "0", "0"]


def test_who_has_a_gateway_has_none(home, tmp_path):
    west = open_state(tmp_path / "west")

    async def make() -> None:
        async with home.open():
            await GatewayPapers(west, Straight(home.state.admin_socket), SystemClock()).bring("WEST", ())

    anyio.run(make)
    with nats_server() as server:
        assert said_by(OPEN_A_GATEWAY, server.url, str(west.folder), ASK) == ["0", "0", "0"]
    anyio.run(stop_service, west)


def test_the_tpm_service_has_none_either(fleet):
    command = [
        sys.executable,
        "-c",
        "from bus.cli.main import main; main()",
        "tpm",
        "serve",
        "--tpm",
        "software",
        "--ready-fd",
        "1",
    ]
    with subprocess.Popen(command, env=fleet.environ, stdout=subprocess.PIPE) as service:
        try:
            assert service.stdout.readline()
            limits = Path(f"/proc/{service.pid}/limits").read_text()
        finally:
            service.terminate()
    (line,) = (line for line in limits.splitlines() if line.startswith("Max core file size"))
    assert line.split()[4:6] == ["0", "0"]
